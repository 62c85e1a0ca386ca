from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.governance import Status
from ecr_catalog_pipeline.core.health import (
    NAMES_SHOWN,
    OWNERS_SHOWN,
    Origin,
    Placement,
    RegistryHealth,
    RenderedReport,
    Style,
    last_change,
    markers,
    place_report,
    registry_health,
    render_report,
    section_of,
)
from ecr_catalog_pipeline.core.parity import MeasuredHour, ParityFigures, ParityState
from ecr_catalog_pipeline.core.reconcile import (
    ReconciledRegistry,
    ReconciledRepository,
    State,
    reconcile,
)
from ecr_catalog_pipeline.core.text import unlinked
from tests.reports import ReadReport, read_report
from tests.unit.builders import (
    DATA,
    NOW,
    OTHER_SHA,
    SHA,
    catalog,
    entry,
    inventory,
    live_registry,
    plan,
    published,
)

GOLDEN: Final = DATA / "health"
MIRROR: Final = "goldenpath"
ORIGIN: Final = Origin(
    "main", SHA, "goldenpath_sync", "7d1b9a52-8a1f-4f5c-9a39-2f8a3f0f7b11", "prod"
)
BEGIN, END = (marker.encode() for marker in markers(MIRROR))
STYLES: Final = pytest.mark.parametrize("style", Style)
HOUR: Final = NOW.replace(minute=0, second=0)
WEEK_OF_TIMES: Final = ParityState(
    hours=(
        MeasuredHour(HOUR - timedelta(days=3), {9: 40, 65: 1}, late=0),
        MeasuredHour(HOUR, {8: 3, 16: 1, 185: 1}, late=1),
    ),
    measured=46,
)
MIXED: Final = reconcile(
    catalog(
        [
            entry("base/node"),
            entry("payments/gateway", owner="app-team-payments", risk="high"),
            entry("payments/archive", owner="app-team-payments"),
            entry("shop/old", status=Status.DECOMMISSIONED),
            entry("shop/gone", status=Status.DECOMMISSIONED),
            entry("shop/vouchers", status=Status.PENDING),
            entry("shop/early", status=Status.PENDING, owner="app-team-shop"),
        ]
    ),
    inventory(["base/node", "payments/gateway", "shop/early", "shop/old", "tmp-debug-jo"]),
)


def health(registry: ReconciledRegistry = MIXED, **changes: Any) -> RegistryHealth:
    of = changes.get("plan") or plan(registry, inventory([]))
    arguments: dict[str, Any] = {
        "mirror": MIRROR,
        "title": "GoldenPath ECR Registry",
        "plan": of,
        "published": not of.unchanged and not of.held,
        "held": of.held,
        "published_change": None,
        "parity": ParityState(),
        "held_since": None,
        "slo_seconds": 180,
        "now": NOW,
    }
    return registry_health(registry=registry, **{**arguments, **changes})


def rendered(of: RegistryHealth | None = None, style: Style = Style.SECTION) -> RenderedReport:
    return render_report(of or health(), ORIGIN, style)


def shown(of: RegistryHealth) -> ReadReport:
    return read_report(rendered(of).text)


def page(section: bytes = b"", line_end: bytes = b"\n") -> bytes:
    """A team's file with our markers in it."""
    lines = [b"# Platform health", b"", b"All is well.", b"", BEGIN]
    return line_end.join(lines) + line_end + section + END + line_end + b"## Costs" + line_end


def written(report: RenderedReport, current: bytes | None) -> bytes:
    """What becomes of a file that the report is to be written to."""
    placement = place_report(report, current)
    assert not placement.problem
    assert placement.content is not None
    return placement.content


def not_written(report: RenderedReport, current: bytes | None) -> Placement:
    placement = place_report(report, current)
    assert placement.problem
    assert placement.remediation
    assert placement.content is None
    return placement


UP_TO_DATE: Final = Placement()
REPORTS: Final = {style: rendered(style=style) for style in Style}
REPORT: Final = REPORTS[Style.SECTION]


# What it says


def test_counts_and_names_are_those_of_the_states() -> None:
    report = shown(health())

    assert report.counts == {
        "live": 3, "pending": 1, "ghost": 1, "orphan": 1, "lingering": 1, "retired": 1,
    }  # fmt: skip
    assert report.named == {
        "Ghosts": "payments/archive",
        "Orphans": "tmp-debug-jo",
        "Lingering": "shop/old",
    }
    assert report.pies["Repositories by state"] == report.counts


def test_long_lists_of_names_are_cut_and_say_so() -> None:
    names = [f"team/app-{number:03}" for number in range(NAMES_SHOWN + 7)]
    registry = reconcile(catalog(entry(name) for name in names), inventory([]))

    report = shown(health(registry))

    assert report.named == {"Ghosts": ", ".join(names[:NAMES_SHOWN]) + " and 7 more"}
    assert report.counts["ghost"] == len(names)
    assert report.pies["Repositories by state"] == {"ghost": len(names)}, "no empty slice"


def with_findings(*found: tuple[str, Severity]) -> ReconciledRegistry:
    return replace(
        MIXED,
        findings=tuple(Finding(name, "rule", severity, "m", "r") for name, severity in found),
    )


def test_findings_are_counted_by_severity_and_by_owner() -> None:
    registry = with_findings(
        ("base/node", Severity.INFO),
        ("payments/gateway", Severity.ERROR),
        ("payments/archive", Severity.WARNING),
        ("payments/archive", Severity.WARNING),
        ("tmp-debug-jo", Severity.WARNING),
        ("", Severity.ERROR),
    )

    report = shown(health(registry))

    assert report.severities == {"error": 2, "warning": 3, "info": 1}
    assert list(report.owners.items()) == [
        ("app-team-payments", (1, 2, 0)),
        ("the governance file", (1, 0, 0)),
        ("nobody", (0, 1, 0)),
        ("platform-team", (0, 0, 1)),
    ]


def test_no_findings_are_none() -> None:
    report = rendered(health(with_findings()))

    assert "### Findings\n\nNone.\n" in report.text
    assert read_report(report.text).severities == {}


def test_the_owners_with_the_gravest_findings_come_first_and_the_rest_is_counted() -> None:
    entries = [entry(f"app-{n:03}", owner=f"team-{n:03}") for n in range(OWNERS_SHOWN + 3)]
    registry = replace(
        reconcile(catalog(entries), inventory([])),
        findings=tuple(
            Finding(each.name, "rule", Severity.ERROR if n > 20 else Severity.INFO, "m", "r")
            for n, each in enumerate(entries)
        ),
    )

    report = rendered(health(registry))

    owners = list(read_report(report.text).owners)
    assert owners[:2] == ["team-021", "team-022"]
    assert len(owners) == OWNERS_SHOWN
    assert "And 3 more owners." in report.text


def test_times_are_those_of_a_day_and_of_a_week() -> None:
    report = shown(health(parity=WEEK_OF_TIMES))

    assert report.parity == {
        "changes measured": ("5", "46"),
        "p50": ("8 s", "9 s"),
        "p95": ("185 s", "16 s"),
        "max": ("185 s", "185 s"),
        "within 180 s": ("80 % (4 of 5)", "97.8 % (45 of 46)"),
    }
    assert report.pies["Time to parity over 7 days, in changes"] == {
        "0 to 10 s": 43,
        "11 to 30 s": 1,
        "61 to 120 s": 1,
        "181 to 600 s": 1,
    }


def test_one_late_change_among_many_is_never_100_percent() -> None:
    figures = ParityFigures(100_000, 1, 8, 8, 200, {8: 99_999, 200: 1})

    report = shown(replace(health(), week=figures))

    assert report.parity["within 180 s"][1] == "99.9 % (99999 of 100000)"


def test_no_measured_change_is_said() -> None:
    report = shown(health())

    assert report.parity["within 180 s"] == ("no change measured", "no change measured")
    assert report.parity["p95"] == ("-", "-")
    assert list(report.pies) == ["Repositories by state"]


def held_health(**changes: Any) -> RegistryHealth:
    names = [f"team/app-{number}" for number in range(5)]
    held = plan(
        live_registry(*names[:1]),
        inventory(names[:1]),
        published=published(*names),
    )
    assert held.held
    arguments = {"plan": held, "published_change": NOW - timedelta(hours=2), **changes}
    return health(live_registry(*names[:1]), **arguments)


def test_a_held_plan_says_why_since_when_and_what_stays() -> None:
    report = shown(held_health(held_since=NOW - timedelta(hours=1)))

    assert report.publication == (
        "**A plan is held since 2026-01-09 22:03 UTC**: 4 of 5 repositories (80 %), more than "
        "max_removal_percent (20 %): team/app-1, team/app-2, team/app-3, team/app-4. Until someone "
        "approves it, the last good entity stays, of 2026-01-09 21:03 UTC."
    )


def test_a_held_plan_that_nobody_remembers_the_beginning_of_says_no_time() -> None:
    assert shown(held_health()).publication.startswith("**A plan is held**: 4 of 5")


def test_a_plan_that_goes_out_changes_the_entity_now() -> None:
    earlier = NOW - timedelta(days=2)
    assert shown(health(published_change=earlier)).publication == (
        "The published entity last changed at 2026-01-09 23:03 UTC. Nothing is held."
    )


def test_an_unchanged_plan_says_when_the_entity_last_changed() -> None:
    names = ("team/app", "team/web")
    unchanged = plan(live_registry(*names), inventory(names), published=published(*names))
    assert unchanged.unchanged
    earlier = NOW - timedelta(days=2)

    report = shown(health(live_registry(*names), plan=unchanged, published_change=earlier))

    assert "last changed at 2026-01-07 23:03 UTC. Nothing is held." in report.publication


def test_an_approved_plan_is_held_no_more() -> None:
    approved = held_health(published=True, held=False)

    assert shown(approved).publication == (
        "The published entity last changed at 2026-01-09 23:03 UTC. Nothing is held."
    )


@pytest.mark.parametrize(
    ("content", "at"),
    [
        (published("team/app"), NOW),
        (published("team/app").replace(b"2026-01-09T23:03:13Z", b"yesterday"), None),
        (
            published("team/app").replace(b"2026-01-09T23:03:13Z", b"0001-01-01T00:00:00+23:00"),
            None,
        ),
        (b"\xff\xfe", None),
        (None, None),
    ],
)
def test_when_the_entity_last_changed_is_its_own_word(
    content: bytes | None, at: datetime | None
) -> None:
    assert last_change(content) == at


# As files


@pytest.mark.parametrize(
    ("style", "file"), [(Style.SECTION, "section.md"), (Style.FILE, "file.md")]
)
def test_the_report_is_the_golden_one(style: Style, file: str) -> None:
    of = health(parity=WEEK_OF_TIMES)
    before = page(line_end=b"\n") if style is Style.SECTION else None

    assert written(rendered(of, style), before).decode() == (GOLDEN / file).read_text()


def test_the_file_carries_the_frontmatter_of_derived_reports() -> None:
    _, head, body = rendered(style=Style.FILE).text.split("---\n", 2)

    assert yaml.safe_load(head) == {
        "type": "governance-report",
        "env": "prod",
        "generated_at": "2026-01-09T23:03:13Z",
        "source": {"branch": "main", "sha": SHA},
        "pipeline": {"workflow": "goldenpath_sync", "run_id": ORIGIN.run_id},
        "integrity": {"derived_only": True},
    }
    assert "\n# Registry health: GoldenPath ECR Registry\n" in body


def test_health_survives_the_way_from_asset_to_asset() -> None:
    kind = TypeAdapter(RegistryHealth)
    for each in (health(parity=WEEK_OF_TIMES), held_health(held_since=NOW)):
        assert kind.validate_json(kind.dump_json(each)) == each
        assert rendered(kind.validate_json(kind.dump_json(each))) == rendered(each)


# When it is renewed


@STYLES
def test_what_says_the_same_is_left_alone(style: Style) -> None:
    file = (
        written(rendered(style=style), page())
        if style is Style.SECTION
        else written(rendered(style=style), None)
    )
    assert place_report(rendered(style=style), file) == UP_TO_DATE


@STYLES
def test_a_later_run_on_another_commit_alone_renews_nothing(style: Style) -> None:
    file = first_file(style)
    unchanged = {"plan": unchanged_plan(), "published_change": NOW}
    later = health(now=NOW + timedelta(minutes=40), **unchanged)

    report = render_report(later, replace(ORIGIN, sha=OTHER_SHA, run_id="another"), style)

    assert report.text != rendered(health(**unchanged), style).text
    assert place_report(report, file) == UP_TO_DATE


def unchanged_plan() -> Any:
    found = plan(MIXED, inventory([]))
    return plan(MIXED, inventory([]), published=found.content)


def first_file(style: Style, of: RegistryHealth | None = None) -> bytes:
    """A file that holds a report of NOW."""
    return written(rendered(of, style), page() if style is Style.SECTION else None)


CHANGES: Final[Mapping[str, Mapping[str, Any]]] = {
    "a state": {"registry": live_registry("base/node")},
    "a finding": {"registry": with_findings(("base/node", Severity.ERROR))},
    "the title": {"title": "Another"},
    "the SLO": {"slo_seconds": 60},
    "a measured change": {"parity": replace(WEEK_OF_TIMES, measured=47)},
    "the last change of the entity": {
        "plan": plan(MIXED, inventory([]), now=NOW + timedelta(minutes=1))
    },
}


@STYLES
@pytest.mark.parametrize("what", CHANGES)
def test_what_it_reports_renews_it(style: Style, what: str) -> None:
    file = first_file(style, health(parity=WEEK_OF_TIMES))
    now = rendered(health(**{"parity": WEEK_OF_TIMES, **CHANGES[what]}), style)

    renewed = written(now, file)

    assert place_report(now, renewed) == UP_TO_DATE


@STYLES
def test_a_hold_that_comes_and_goes_renews_it(style: Style) -> None:
    held = held_health()
    free = replace(held, reasons_held=())
    file = first_file(style, free)
    file = written(rendered(held, style), file)
    later = replace(held, held_since=NOW)
    assert place_report(rendered(later, style), file) == UP_TO_DATE, "the same hold"
    assert written(rendered(free, style), file)


@STYLES
def test_times_that_leave_their_windows_renew_it_once_a_day_at_the_most(style: Style) -> None:
    unchanged = {"plan": unchanged_plan(), "published_change": NOW, "parity": WEEK_OF_TIMES}
    file = first_file(style, health(**unchanged))
    renewals = 0
    for minutes in range(0, 9 * 24 * 60, 30):
        later = rendered(health(**unchanged, now=NOW + timedelta(minutes=minutes)), style)
        placement = place_report(later, file)
        if placement.content is not None:
            renewals += 1
            file = placement.content
    # The hour of 5 changes leaves the day, then both leave the week.
    assert renewals == 3
    assert read_report(file).parity["changes measured"] == ("0", "0")


@STYLES
@pytest.mark.parametrize(
    "tampering", [(b"live | 3", b"live | 30"), (b"| p50", b"\n| p50"), (b"day=", b"")]
)
def test_what_someone_changed_in_it_is_rewritten(
    style: Style, tampering: tuple[bytes, bytes]
) -> None:
    file = first_file(style)
    tampered = file.replace(*tampering)
    assert tampered != file

    assert written(rendered(style=style), tampered) == file


@pytest.mark.parametrize("tampering", [(b'env: "prod"', b"env: dev"), (b'sha: "3f', b'sha: "zz')])
def test_a_changed_frontmatter_is_rewritten(tampering: tuple[bytes, bytes]) -> None:
    file = first_file(Style.FILE)
    tampered = file.replace(*tampering)
    assert tampered != file

    assert written(rendered(style=Style.FILE), tampered) == file


def test_a_file_whose_line_endings_git_changed_is_left_alone() -> None:
    crlf = first_file(Style.FILE).replace(b"\n", b"\r\n")

    assert place_report(rendered(style=Style.FILE), crlf) == UP_TO_DATE


# Where it goes


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_section_has_the_line_endings_of_its_file(line_end: bytes) -> None:
    before = page(line_end=line_end)

    after = written(rendered(), before)

    inside = section_of(after, MIRROR)
    assert inside is not None
    assert inside.replace(line_end, b"\n").decode() == rendered().text
    assert after.replace(inside, b"") == before
    assert place_report(rendered(), after) == UP_TO_DATE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"\xef\xbb\xbf", b""),
        (b"\xef\xbb\xbf# BOM\r\n", b"\r\nno newline at the end"),
        (b"\xff\xfe not UTF-8 \x80\n", b"\n\x00\xc3"),
        (b"mixed\r\nendings\n  ", b" \t\n\r"),
        (b"<!-- ecr-catalog:other:begin -->\n<!-- ecr-catalog:other:end -->\n", b"\n"),
        (b"A word on `ecr-catalog:goldenpath:begin`.\n", b"\n"),
    ],
)
def test_everything_outside_the_section_stays_as_it_is(before: bytes, after: bytes) -> None:
    content = before + BEGIN + b"\n" + END + after

    new = written(rendered(), content)

    assert new == before + BEGIN + b"\n" + rendered().text.encode() + END + after


BOTH: Final = BEGIN + b"\n" + END + b"\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file"),
        (b"", "begin --> is missing"),
        (b"# Health\n", "begin --> is missing"),
        (BEGIN + b"\n", "end --> is missing"),
        (BEGIN + BOTH, "begin --> is there 2 times"),
        (BOTH + END, "end --> is there 2 times"),
        (END + b"\n" + BEGIN + b"\n", "the end marker is before"),
        (BEGIN + END, "not on a line of its own"),
        (b"Write " + BOTH, "not on a line of its own"),
        (b"    " + BOTH, "not on a line of its own"),
        (BEGIN + b" and\n" + END, "not on a line of its own"),
        (BOTH.replace(b"\n", b"\n<!-- ecr-catalog:other:end -->\n", 1), "another mirror"),
        (BOTH.decode().encode("utf-16"), "begin --> is missing"),
    ],
)
def test_a_file_without_one_clear_section_is_not_written(
    content: bytes | None, problem: str
) -> None:
    placement = not_written(rendered(), content)

    assert problem in placement.problem
    for marker in markers(MIRROR):
        assert marker in placement.remediation


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"# Notes of ours\n",
        b"---\ntype: governance-report\nintegrity: {derived_only: true}\n---\nof another mirror\n",
        b"---\ntype: notes\nintegrity: {derived_only: true}\n---\n" + BOTH,
        b"---\ntype: governance-report\nintegrity: {derived_only: false}\n---\n" + BOTH,
        b"---\ntype: governance-report\nintegrity: true\n---\n" + BOTH,
        b"---\ntype: governance-report\nintegrity: {derived_only: true}\n" + BOTH,
        b"---\n[}\n---\n" + BOTH,
        b"---\n---\n" + BOTH,
        b"---\n- a\n--- b\n---\n" + BOTH,
        b"---\ntype: governance-report\nintegrity: {derived_only: true}\n---\n\xff" + BOTH,
        b"\x00",
    ],
)
def test_a_file_that_is_not_ours_is_never_overwritten(foreign: bytes) -> None:
    placement = not_written(rendered(style=Style.FILE), foreign)

    assert "not overwritten" in placement.problem


def test_a_section_of_another_mirror_in_the_same_file_is_untouched() -> None:
    theirs = replace(health(), mirror="other", title="Other")
    begin, end = (marker.encode() for marker in markers("other"))
    both = page() + b"\n" + begin + b"\n" + end + b"\n"

    one = written(rendered(), both)
    two = written(render_report(theirs, ORIGIN, Style.SECTION), one)

    assert section_of(two, MIRROR) == section_of(one, MIRROR)
    assert place_report(rendered(), two) == UP_TO_DATE
    assert read_report(section_of(two, "other") or b"").title == "Other"


# Whatever comes


NASTY: Final = st.sampled_from(
    [
        *(
            "<!-- ecr-catalog:goldenpath:end -->",
            "-->",
            "<!--",
            "```",
            "~~~",
            "```mermaid",
            "|",
            "\\",
        ),
        *("\\|", "a|b", "`|`", "\n", "\r\n", "\u2028", "# x", "- x", "1. x", "---", "$x$", "&lt;"),
        *("<script>alert(1)</script>", "[x](http://y)", "![x](y)", "http://x.y", "@jo", "a" * 999),
        *('"', "'", "{", "}", "%%", "\x00", "\u202e", "\ud800", "and 7 more", "**", ", "),
    ]
)
TEXT: Final = st.lists(NASTY | st.text(max_size=8), max_size=4).map("".join)
MOMENTS: Final = st.datetimes(datetime(2000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
FIGURES: Final = st.builds(
    ParityFigures,
    changes=st.integers(0, 9),
    late=st.integers(0, 9),
    p50=st.none() | st.integers(0, 10**6),
    seconds=st.dictionaries(st.integers(0, 10**6), st.integers(1, 99), max_size=4),
)
SOME_PLAN: Final = plan(live_registry("team/app"), inventory([]))


@st.composite
def any_health(draw: st.DrawFn) -> RegistryHealth:
    repositories = [
        ReconciledRepository(draw(TEXT), draw(st.sampled_from(State)), owner=draw(st.none() | TEXT))
        for _ in range(draw(st.integers(0, 6)))
    ]
    names = st.sampled_from([each.name for each in repositories] or [""]) | TEXT
    findings = [
        Finding(draw(names), draw(TEXT), draw(st.sampled_from(Severity)), draw(TEXT), draw(TEXT))
        for _ in range(draw(st.integers(0, 6)))
    ]
    registry = ReconciledRegistry(tuple(repositories), tuple(findings))
    of = health(
        registry,
        plan=SOME_PLAN,
        title=draw(TEXT),
        held_since=draw(st.none() | MOMENTS),
        slo_seconds=draw(st.integers(1, 604_800)),
        now=draw(MOMENTS),
    )
    return replace(
        of,
        reasons_held=tuple(draw(st.lists(TEXT, max_size=3))),
        last_change=draw(st.none() | MOMENTS),
        day=draw(FIGURES),
        week=draw(FIGURES),
    )


@given(any_health(), st.sampled_from(Style))
def test_whatever_is_reported_it_is_markdown_of_ours_alone(
    of: RegistryHealth, style: Style
) -> None:
    report = render_report(of, ORIGIN, style)

    body = report.text.partition("\n\n")[2]
    fences = re.findall(r"^ {0,3}(```.*|~~~.*)$", report.text, re.MULTILINE)
    assert fences in ([], ["```mermaid", "```"], ["```mermaid", "```"] * 2)
    assert (
        report.text.count("<!--") == report.text.count("-->") == (3 if style is Style.FILE else 1)
    )
    assert body.count("-->") == (1 if style is Style.FILE else 0)
    read = read_report(report.text)
    assert read.counts == {state.value: count for state, count in of.counts.items()}
    assert sum(read.severities.values()) == sum(of.findings.values())
    assert len(read.owners) == len(of.owners)
    assert list(read.parity) == [
        "changes measured",
        "p50",
        "p95",
        "max",
        f"within {of.slo_seconds} s",
    ]
    assert set(read.named) == {
        word
        for word, state in (("Ghosts", "ghost"), ("Orphans", "orphan"), ("Lingering", "lingering"))
        if of.counts[State(state)]
    }
    before = page() if style is Style.SECTION else None
    assert place_report(report, written(report, before)) == UP_TO_DATE


OUTSIDE: Final = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\r\n",
            b"\r",
            b"text",
            b"\xff",
            b"\xef\xbb\xbf",
            b" ",
            b"```",
            b"<!-- x -->",
            b"|",
        ]
    )
    | st.binary(max_size=6),
    max_size=6,
).map(b"".join)


@given(OUTSIDE, OUTSIDE, OUTSIDE, st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_every_byte_outside_the_section_stays(
    before: bytes, inside: bytes, after: bytes, line_end: bytes
) -> None:
    inside = inside.lstrip(b"\n")  # which after a \r would make one line ending of two
    before = before and before + line_end
    after = after and line_end + after
    # Or the markers would stand in a code block.
    assume(b"```" not in before or b"```" not in after)
    content = before + BEGIN + line_end + inside + line_end + END + after

    new = written(REPORT, content)

    assert new.startswith(before + BEGIN + line_end)
    assert new.endswith(END + after)
    inserted = new[len(before + BEGIN + line_end) : len(new) - len(END + after)]
    assert inserted == REPORT.text.encode().replace(b"\n", line_end)
    assert place_report(REPORT, new) == UP_TO_DATE


@given(st.binary(max_size=80) | OUTSIDE, st.sampled_from(Style))
def test_no_file_whatsoever_breaks_the_placing(content: bytes, style: Style) -> None:
    not_written(REPORTS[style], content)


PIECES: Final = st.sampled_from(
    [BEGIN, END, b"\n", b"\r\n", b" ", b"x", b"<!-- ecr-catalog:other:end -->"]
)


@given(st.lists(PIECES, max_size=9).map(b"".join))
def test_markers_in_any_order_lose_nothing_but_what_is_between_the_two(content: bytes) -> None:
    placement = place_report(REPORT, content)

    if placement.problem:
        assert placement.content is None
    else:
        assert placement.content is not None
        first, last = content.index(BEGIN), content.index(END)
        assert placement.content.startswith(content[: first + len(BEGIN)])
        assert placement.content.endswith(content[last:])
        assert b"other" not in content[first:last]
        assert (content.count(BEGIN), content.count(END)) == (1, 1)


@given(any_health())
def test_hostile_names_are_shown_as_they_are_but_for_their_links(of: RegistryHealth) -> None:
    read = shown(of)

    for state, word in ((State.GHOST, "Ghosts"), (State.ORPHAN, "Orphans")):
        names = [unlinked(name) for name in of.named[state]]
        assert read.named.get(word, "").strip() == ", ".join(names).strip()


LINKED: Final = re.compile(r"://|www\.|@|mailto:", re.IGNORECASE)


@given(any_health(), st.sampled_from(Style))
def test_no_text_of_a_user_makes_a_link_or_hides_in_the_report(
    of: RegistryHealth, style: Style
) -> None:
    text = render_report(of, ORIGIN, style).text

    assert all(line.isprintable() for line in text.split("\n"))
    assert not LINKED.search(text.replace("\\", ""))


def test_a_text_of_4000_characters_leaves_the_report_readable() -> None:
    repositories = tuple(
        ReconciledRepository("x" * 4_000, state, owner="y" * 4_000) for state in State
    )
    findings = tuple(Finding(each.name, "rule", Severity.ERROR, "m", "r") for each in repositories)
    of = health(ReconciledRegistry(repositories, findings), title="z" * 200)

    assert max(map(len, render_report(of, ORIGIN, Style.FILE).text.split("\n"))) < 300


# Code


FENCES: Final = ("```", "~~~", "  ````", "```markdown", "~~~ ` x")


@pytest.mark.parametrize("fence", FENCES)
def test_markers_in_a_code_fence_are_no_markers(fence: str) -> None:
    closing = re.search("`{3,}|~{3,}", fence)
    assert closing
    quoted = f"{fence}\n{BEGIN.decode()}\n{END.decode()}\n{closing[0]}\n".encode()

    assert "is in a code block only" in not_written(REPORT, quoted).problem
    content = b"# How\n\n" + quoted + b"\n" + BEGIN + b"\n" + END + b"\nafter\n"
    new = written(REPORT, content)
    assert new.startswith(b"# How\n\n" + quoted + b"\n" + BEGIN + b"\n<!-- ")
    assert place_report(REPORT, new) == UP_TO_DATE


@pytest.mark.parametrize("before", ["``` `\n", "``\n", "    ```\n", "```\n~~~\n```\n", "x ```\n"])
def test_what_opens_no_fence_hides_no_marker(before: str) -> None:
    written(REPORT, before.encode() + BEGIN + b"\n" + END + b"\n")


def test_a_begin_alone_in_a_code_block_is_no_marker() -> None:
    content = b"```\n" + BEGIN + b"\n```\n" + BEGIN + b"\n" + END + b"\n"
    new = written(REPORT, content)
    assert new.startswith(b"```\n" + BEGIN + b"\n```\n" + BEGIN + b"\n<!-- ")
    assert place_report(REPORT, new) == UP_TO_DATE


def test_a_fence_that_nobody_closes_hides_no_section() -> None:
    new = written(REPORT, b"```\n" + BEGIN + b"\n" + END + b"\nx\n")
    assert place_report(REPORT, new) == UP_TO_DATE


def test_a_fence_that_was_opened_inside_a_section_is_repaired() -> None:
    content = BEGIN + b"\n```\nspoilt\n" + END + b"\n"
    assert b"spoilt" not in written(REPORT, content)
