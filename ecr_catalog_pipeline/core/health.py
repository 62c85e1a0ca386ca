"""The registry's health as Markdown: what it says, its place in a file, when it is renewed.

Every function here is total: whatever governance, AWS or a file holds, the report can be rendered,
and a file that it cannot be put into is a problem in words.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from ecr_catalog_pipeline.core.entity import LAST_SYNC
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.parity import HISTORY, ParityFigures, ParityState, figures_since
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.reconcile import Conformance, ReconciledRegistry, State
from ecr_catalog_pipeline.core.strict_yaml import YamlFault, parse_documents
from ecr_catalog_pipeline.core.text import MAX_TEXT, clean_text, escape_markdown, shortened

NAMES_SHOWN: Final = 25
OWNERS_SHOWN: Final = 25
MAX_NAME_SHOWN: Final = 80
"""The longest name or owner that is shown whole."""
REPORT_TYPE: Final = "governance-report"

_DAY: Final = timedelta(days=1)
_NAMED: Final = {State.GHOST: "Ghosts", State.ORPHAN: "Orphans", State.LINGERING: "Lingering"}
_MEANINGS: Final = {
    State.LIVE: "governed and in AWS",
    State.PENDING: "governed as pending, not yet in AWS",
    State.GHOST: "governed as existing, absent from AWS",
    State.ORPHAN: "in AWS, not governed",
    State.LINGERING: "governed as decommissioned, still in AWS",
    State.RETIRED: "governed as decommissioned, absent from AWS",
}
_THE_FILE: Final = "the governance file"
_NO_OWNER: Final = "nobody"
_BANDS: Final = (10, 30, 60, 120, 180, 600)

# What a mirror is named is settled when its settings are loaded: a-z, 0-9 and _.
_ANY_MARKER: Final = re.compile(rb"<!-- ecr-catalog:[a-z0-9_]+:(?:begin|end) -->")
_BEGIN_LINE: Final = re.compile(
    rb"(?:\xef\xbb\xbf)? {0,3}<!-- ecr-catalog:(?P<mirror>[a-z0-9_]+):begin -->[ \t]*"
)
_LINE: Final = re.compile(rb"[^\r\n]+")
_FENCE: Final = re.compile(rb"(?:\xef\xbb\xbf)? {0,3}(?P<fence>~{3,}|`{3,}(?=[^`]*\Z))")
_LAST_SYNC: Final = re.compile(rf"^    {LAST_SYNC}: '([^'\n]*)'$".encode(), re.MULTILINE)
_SEAL: Final = re.compile(
    r"<!-- ecr-catalog:[a-z0-9_]+:seal facts=([0-9a-f]{16}) text=([0-9a-f]{16})"
    r" day=(\d{4}-\d\d-\d\d) -->"
)
_COMMIT: Final = "[0-9a-f]{40}(?:[0-9a-f]{24})?"
# The lines that say when, from which commit and by which run, and the part of them that stays.
_MOVING: Final = (
    re.compile(r"(Written at )\d{4}-\d\d-\d\d \d\d:\d\d UTC from governance commit [0-9a-f]{12}\."),
    re.compile(r'(generated_at: )"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"'),
    re.compile(rf'(source: \{{branch: "[^"]*", sha: )"{_COMMIT}"\}}'),
    re.compile(r'(pipeline: \{workflow: "[^"]*", run_id: )"[A-Za-z0-9-]*"\}'),
)


class Style(StrEnum):
    """How the report is published: in a team's file between two markers, or as a file."""

    SECTION = "section"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class OwnerFindings:
    """How many findings of each severity an owner has."""

    owner: str
    counts: Mapping[Severity, int]


@dataclass(frozen=True, slots=True)
class RegistryHealth:
    """What the report says.

    Attributes:
        title: of the entity.
        counts: how many repositories each state has.
        named: the first NAMES_SHOWN names of each state that is named, but for excepted ones.
        origins: where the other orphans probably came from, and how many of them.
        findings: how many open ones there are of each severity.
        owners: those with the most severe findings first, OWNERS_SHOWN of them.
        more_owners: how many others have findings.
        excepted: how many findings and states are accepted, by rule or state.
        conformance: by policy and owner, the most violations first, OWNERS_SHOWN of them.
        more_conformance: how many rows more there are.
        reasons_held: why the removal guard holds the plan; empty when it does not.
        held_since: None when nothing is held, or when it is not known.
        last_change: when the content last changed that is published with this report; None when
            nothing is, or when it does not say.
        day, week: the times to parity of the last 24 hours and of the last 7 days.
        measured: how many changes were ever measured.
        as_of: when all of this was so.
    """

    mirror: str
    title: str
    counts: Mapping[State, int]
    named: Mapping[State, tuple[str, ...]]
    findings: Mapping[Severity, int]
    owners: tuple[OwnerFindings, ...]
    more_owners: int
    reasons_held: tuple[str, ...]
    held_since: datetime | None
    last_change: datetime | None
    day: ParityFigures
    week: ParityFigures
    measured: int
    slo_seconds: int
    as_of: datetime
    origins: Mapping[str, int] = field(default_factory=dict)
    excepted: Mapping[str, int] = field(default_factory=dict)
    conformance: tuple[Conformance, ...] = ()
    more_conformance: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a report comes from.

    Attributes:
        branch, sha: of governance.
        workflow, run_id: the job, and its run.
        env: what the frontmatter calls the environment.
    """

    branch: str
    sha: str
    workflow: str
    run_id: str
    env: str


@dataclass(frozen=True, slots=True)
class Seal:
    """What a published report keeps of itself, to check whether it is up to date.

    Attributes:
        facts: a digest of what it says, but for what time alone changes.
        text: a digest of its words.
        day: the UTC day on which it was written.
    """

    facts: str
    text: str
    day: str


@dataclass(frozen=True, slots=True)
class RenderedReport:
    """A report as Markdown.

    Attributes:
        text: all of it, its lines ended by a line feed; of a section what goes between its
            markers, of a file the whole file.
        body: what people read of it.
        seal: is in the text, too.
    """

    mirror: str
    style: Style
    text: str
    body: str
    seal: Seal


@dataclass(frozen=True, slots=True)
class Placement:
    """What becomes of the file that a report goes to.

    Attributes:
        content: the file's new content; None when it stays as it is.
        problem: why the report cannot go there; empty when it can.
        remediation: what to do about it.
    """

    content: bytes | None = None
    problem: str = ""
    remediation: str = ""


def registry_health(
    *,
    mirror: str,
    title: str,
    registry: ReconciledRegistry,
    plan: Plan,
    published: bool,
    held: bool,
    published_change: datetime | None,
    parity: ParityState,
    held_since: datetime | None,
    slo_seconds: int,
    now: datetime,
) -> RegistryHealth:
    """Gather what the report says.

    Args:
        published, held: what became of the plan.
        published_change: when the content that was published before the plan last changed.
        parity: what was measured so far.
    """
    owners = _by_owner(registry)
    in_states = {
        state: [each for each in registry.in_state(state) if each.exception is None]
        for state in _NAMED
    }
    origins = Counter(each.origin.value for each in in_states[State.ORPHAN] if each.origin)
    return RegistryHealth(
        mirror=mirror,
        title=title,
        counts=registry.counts(),
        named={
            state: tuple(_line(each.name) for each in found[:NAMES_SHOWN])
            for state, found in in_states.items()
        },
        findings=_by_severity(registry.findings),
        owners=owners[:OWNERS_SHOWN],
        more_owners=len(owners[OWNERS_SHOWN:]),
        reasons_held=plan.reasons_held if held else (),
        held_since=held_since,
        last_change=last_change(plan.content) if published else published_change,
        day=figures_since(parity.hours, now - _DAY),
        week=figures_since(parity.hours, now - HISTORY),
        measured=parity.measured,
        slo_seconds=slo_seconds,
        as_of=now,
        origins=dict(sorted(origins.items())),
        excepted=dict(sorted(Counter(each.rule for each in registry.excepted).items())),
        conformance=registry.conformance[:OWNERS_SHOWN],
        more_conformance=len(registry.conformance[OWNERS_SHOWN:]),
    )


def last_change(published: bytes | None) -> datetime | None:
    """When the content of a published entity last changed, in its own words; None if unknown."""
    found = _LAST_SYNC.search(published or b"")
    try:
        at = datetime.fromisoformat(found[1].decode()) if found else None
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC) if at else None
    except (ValueError, OverflowError):
        return None


def render_report(health: RegistryHealth, origin: Origin, style: Style) -> RenderedReport:
    """Write the report as Markdown that GitHub and TechDocs render."""
    body = "\n".join(_body(health, origin, "#" if style is Style.FILE else "##"))
    begin, end = markers(health.mirror)
    if style is Style.FILE:
        head = "\n".join([*_frontmatter(health, origin), begin, ""])
        foot = f"\n\n{end}\n"
    else:
        head, foot = "", "\n\n"
    seal = Seal(
        facts=_facts(health, origin, style),
        text=_text_digest(f"{head}\n\n{body}{foot}"),
        day=f"{health.as_of.astimezone(UTC):%Y-%m-%d}",
    )
    sealed = (
        f"<!-- ecr-catalog:{health.mirror}:seal facts={seal.facts} text={seal.text}"
        f" day={seal.day} -->"
    )
    text = f"{head}{sealed}\n\n{body}{foot}"
    return RenderedReport(health.mirror, style, text, body, seal)


def markers(mirror: str) -> tuple[str, str]:
    """The two lines between which a mirror's report is written."""
    return f"<!-- ecr-catalog:{mirror}:begin -->", f"<!-- ecr-catalog:{mirror}:end -->"


def place_report(report: RenderedReport, current: bytes | None) -> Placement:
    """Put a report into its file, which stays as it is when it is up to date.

    Args:
        current: the file as it is now; None when there is none.
    """
    if report.style is Style.FILE:
        return _place_file(report, current)
    return _place_section(report, current)


def section_of(content: bytes, mirror: str) -> bytes | None:
    """The text between a mirror's markers; None when they are not both there, once."""
    found = _section(content, mirror)
    return None if isinstance(found, str) else content[found[0] : found[1]]


def _place_section(report: RenderedReport, current: bytes | None) -> Placement:
    begin, end = markers(report.mirror)
    remediation = f"Write these two lines where the report belongs, once: `{begin}` and `{end}`"
    if current is None:
        return Placement(problem="there is no such file", remediation=f"Create it. {remediation}")
    found = _section(current, report.mirror)
    if isinstance(found, str):
        return Placement(problem=found, remediation=remediation)
    first, last, line_end = found
    if _is_current(current[first:last], report):
        return Placement()
    inside = _as_bytes(report.text).replace(b"\n", line_end)
    return Placement(current[:first] + inside + current[last:])


def _place_file(report: RenderedReport, current: bytes | None) -> Placement:
    if current is not None and not _is_our_file(current, report.mirror):
        return Placement(
            problem=f"the file there is not a {REPORT_TYPE} of this mirror; it is not overwritten",
            remediation="Point health.path elsewhere, move that file away, or use style: section.",
        )
    if current is not None and _is_current(current, report):
        return Placement()
    return Placement(_as_bytes(report.text))


def _section(content: bytes, mirror: str) -> tuple[int, int, bytes] | str:
    """Find where a mirror's section begins and ends, and its line ending; or say what is wrong."""
    begin, end = (marker.encode() for marker in markers(mirror))
    outside = _without_code(content)
    for marker in (begin, end):
        count = outside.count(marker)
        if count != 1:
            missing = "is in a code block only" if marker in content else "is missing"
            words = missing if not count else f"is there {count} times"
            return f"the line {marker.decode()} {words}"
    opening, closing = _marker_line(begin).search(outside), _marker_line(end).search(outside)
    if opening is None or closing is None:
        return "a marker is not on a line of its own"
    first, last = opening.end(), closing.start()
    if last < first:
        return "the end marker is before the start marker"
    if _ANY_MARKER.search(outside, first, last):
        return "a marker of another mirror is between the two"
    return first, last, opening["line_end"]


def _without_code(content: bytes) -> bytes:
    """Blank out what is in code fences, so that every other byte keeps its place.

    A fence that is not closed counts for nothing, and so does one inside a section of ours: neither
    may hide a section that was written before.
    """
    shown = bytearray(content)
    fence, opened_at, resume_at = b"", 0, 0
    for line in _LINE.finditer(content):
        if line.start() < resume_at:
            continue
        text = line[0]
        if begin := _BEGIN_LINE.fullmatch(text):
            resume_at = _end_of_section(content, line.end(), begin["mirror"])
        elif fence and _closes(text, fence):
            for inside in _LINE.finditer(content, opened_at, line.end()):
                shown[inside.start() : inside.end()] = b" " * len(inside[0])
            fence = b""
        elif not fence and (opened := _FENCE.match(text)):
            fence, opened_at = opened["fence"], line.start()
    return bytes(shown)


def _end_of_section(content: bytes, start: int, mirror: bytes) -> int:
    """Where a section ends whose begin is before `start`; `start` itself when it has no end."""
    end = content.find(b"<!-- ecr-catalog:" + mirror + b":end -->", start)
    again = content.find(b"<!-- ecr-catalog:" + mirror + b":begin -->", start)
    return start if end < 0 or 0 <= again < end else end


def _closes(line: bytes, fence: bytes) -> bool:
    text = line.lstrip(b" ")
    rest = text.lstrip(fence[:1])
    return len(line) - len(text) <= 3 and len(text) - len(rest) >= len(fence) and not rest.strip()


def _marker_line(marker: bytes) -> re.Pattern[bytes]:
    """A marker with its line: as Markdown has it, up to 3 spaces from the left are no code."""
    start = rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))"
    return re.compile(
        start + rb" {0,3}" + re.escape(marker) + rb"[ \t]*(?P<line_end>\r\n|\n|\r|\Z)"
    )


def _is_our_file(content: bytes, mirror: str) -> bool:
    """Whether a file says of itself that it is a derived report, and carries our markers."""
    try:
        text = _normalised(content.decode("utf-8")).removeprefix("\ufeff")
        if not text.startswith("---\n"):
            return False
        head, _, rest = text[4:].partition("\n---\n")
        (frontmatter,) = (each.value for each in parse_documents(head))
        return (
            isinstance(frontmatter, dict)
            and frontmatter.get("type") == REPORT_TYPE
            and isinstance(integrity := frontmatter.get("integrity"), dict)
            and str(integrity.get("derived_only")).lower() == "true"
            and markers(mirror)[0] in rest
        )
    except (UnicodeDecodeError, YamlFault, ValueError):
        return False


def _is_current(published: bytes, report: RenderedReport) -> bool:
    """Whether a published report says what this one does, and is as we wrote it.

    Measured times that merely leave their windows renew it at most once a UTC day.
    """
    text = _normalised(published.decode("utf-8", "replace"))
    found = _SEAL.search(text)
    if found is None:
        return False
    old, new = Seal(*found.groups()), report.seal
    if _text_digest(text) != old.text or old.facts != new.facts:
        return False
    return old.text == new.text or old.day == new.day


def _normalised(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _text_digest(text: str) -> str:
    """A digest of a report without its seal, and without when and where from it was written."""
    lines = _SEAL.sub("", text, count=1).split("\n")
    return _digest("\n".join(_still(line) for line in lines))


def _still(line: str) -> str:
    for pattern in _MOVING:
        if found := pattern.fullmatch(line):
            return found[1]
    return line


def _digest(text: str) -> str:
    return hashlib.sha256(_as_bytes(text)).hexdigest()[:16]


def _facts(health: RegistryHealth, origin: Origin, style: Style) -> str:
    """A digest of what the report says, but for what time alone changes."""
    facts: dict[str, Any] = {
        "style": style,
        "origin": [origin.branch, origin.workflow, origin.env],
        "title": health.title,
        "counts": health.counts,
        "named": health.named,
        "findings": health.findings,
        "owners": [[each.owner, each.counts] for each in health.owners],
        "more_owners": health.more_owners,
        "held": health.reasons_held,
        "last_change": _minute(health.last_change),
        "measured": health.measured,
        "slo_seconds": health.slo_seconds,
        "origins": health.origins,
        "excepted": health.excepted,
        "conformance": [astuple(each) for each in health.conformance],
        "more_conformance": health.more_conformance,
    }
    return _digest(json.dumps(facts, sort_keys=True))


def _frontmatter(health: RegistryHealth, origin: Origin) -> Iterator[str]:
    at = health.as_of.astimezone(UTC)
    yield "---"
    yield f"type: {REPORT_TYPE}"
    yield f"env: {_quoted(origin.env)}"
    yield f'generated_at: "{at:%Y-%m-%dT%H:%M:%SZ}"'
    yield f"source: {{branch: {_quoted(origin.branch)}, sha: {_quoted(origin.sha)}}}"
    yield f"pipeline: {{workflow: {_quoted(origin.workflow)}, run_id: {_quoted(origin.run_id)}}}"
    yield "integrity: {derived_only: true}"
    yield "---"


def _quoted(text: str) -> str:
    return json.dumps(clean_text(text), ensure_ascii=False)


def _body(health: RegistryHealth, origin: Origin, heading: str) -> Iterator[str]:
    yield f"{heading} Registry health: {_shown(health.title, MAX_TEXT)}"
    yield ""
    yield f"Written at {_minute(health.as_of)} from governance commit {origin.sha[:12]}."
    yield "Generated. Rewritten when its content changes or when someone edits it."
    yield ""
    yield _publication(health)
    yield ""
    yield from _states(health, heading)
    yield from _findings(health, heading)
    yield from _conformance(health, heading)
    yield from _time_to_parity(health, heading)


def _publication(health: RegistryHealth) -> str:
    at = _minute(health.last_change)
    if not health.reasons_held:
        return f"The published entity last changed at {at}. Nothing is held."
    since = f" since {_minute(health.held_since)}" if health.held_since else ""
    reasons = "; ".join(_shown(reason, MAX_TEXT) for reason in health.reasons_held)
    return (
        f"**A plan is held{since}**: {reasons}. Until someone approves it, the last good entity "
        f"stays, of {at}."
    )


def _states(health: RegistryHealth, heading: str) -> Iterator[str]:
    yield f"{heading}# Repositories by state"
    yield ""
    yield from _table(
        ("State", "Repositories", "Meaning"),
        ((state.value, health.counts.get(state, 0), _MEANINGS[state]) for state in State),
    )
    for state, word in _NAMED.items():
        if names := [_shown(name) for name in health.named.get(state, ())]:
            open_ones = health.counts.get(state, 0) - health.excepted.get(state, 0)
            more = open_ones - len(names)
            yield ""
            yield f"**{word}:** {', '.join(names)}" + (f" and {more} more" if more > 0 else "")
    if health.origins:
        yield ""
        origins = ", ".join(f"{count} {origin}" for origin, count in health.origins.items())
        yield f"Orphans probably come from: {origins}. Govern, except or delete them."
    if health.excepted:
        yield ""
        yield f"Excepted by the governance file: {_excepted(health.excepted)}."
    yield from _pie(
        "Repositories by state",
        [(state.value, health.counts.get(state, 0)) for state in State],
    )
    yield ""


def _findings(health: RegistryHealth, heading: str) -> Iterator[str]:
    yield f"{heading}# Findings"
    yield ""
    if not any(health.findings.values()):
        yield "None."
        yield ""
        return
    yield from _table(
        ("Severity", "Findings"),
        ((severity.value, health.findings.get(severity, 0)) for severity in Severity),
    )
    yield ""
    rows: list[tuple[str | int, ...]] = [
        (_shown(each.owner), *(each.counts.get(severity, 0) for severity in Severity))
        for each in health.owners
    ]
    yield from _table(("Owner", *(severity.value.capitalize() for severity in Severity)), rows)
    if health.more_owners:
        yield ""
        yield f"And {health.more_owners} more owners."
    yield ""


def _excepted(excepted: Mapping[str, int]) -> str:
    rules = [f"{count} {_shown(rule)}" for rule, count in excepted.items()]
    more = len(rules) - OWNERS_SHOWN
    return ", ".join(rules[:OWNERS_SHOWN]) + (f" and {more} more rules" if more > 0 else "")


def _conformance(health: RegistryHealth, heading: str) -> Iterator[str]:
    """Write the table by policy and owner; nothing where nothing is governed."""
    if not health.conformance:
        return
    yield f"{heading}# Conformance"
    yield ""
    rows: list[tuple[str | int, ...]] = [
        (
            f"`{each.aspect}`",
            _shown(each.owner),
            each.kept,
            each.broken,
            each.excepted,
            each.unknown,
        )
        for each in health.conformance
    ]
    yield from _table(
        ("Policy", "Owner", "As governed", "Not as governed", "Excepted", "Unknown"), rows
    )
    if health.more_conformance:
        yield ""
        yield f"And {health.more_conformance} more."
    yield ""


def _time_to_parity(health: RegistryHealth, heading: str) -> Iterator[str]:
    yield f"{heading}# Time to parity"
    yield ""
    windows = (health.day, health.week)
    rows: list[tuple[str | int, ...]] = [
        ("changes measured", *(each.changes for each in windows)),
        ("p50", *(_seconds(each.p50) for each in windows)),
        ("p95", *(_seconds(each.p95) for each in windows)),
        ("max", *(_seconds(each.max) for each in windows)),
        (f"within {health.slo_seconds} s", *(_attainment(each) for each in windows)),
    ]
    yield from _table(("", "24 hours", "7 days"), rows)
    yield from _pie("Time to parity over 7 days, in changes", list(_bands(health.week)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> Iterator[str]:
    """A Markdown table; numbers are right-aligned. The caller escapes the texts."""
    cells = [list(row) for row in rows]
    right = [
        place > 0 and any(isinstance(row[place], int) for row in cells)
        for place in range(len(head))
    ]
    yield _row(head)
    yield _row(["---:" if each else "---" for each in right])
    yield from (_row(row) for row in cells)


def _row(cells: Iterable[str | int]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _pie(title: str, slices: Sequence[tuple[str, int]]) -> Iterator[str]:
    """A mermaid pie of the slices that are not empty; no user's text ever comes into one."""
    if not any(count for _, count in slices):
        return
    yield ""
    yield "```mermaid"
    yield "pie showData"
    yield f"    title {title}"
    yield from (f'    "{label}" : {count}' for label, count in slices if count > 0)
    yield "```"


def _bands(figures: ParityFigures) -> Iterator[tuple[str, int]]:
    below = -1
    for band in _BANDS:
        label = f"{below + 1} to {band} s"
        yield label, sum(n for took, n in figures.seconds.items() if below < took <= band)
        below = band
    yield f"over {below} s", sum(n for took, n in figures.seconds.items() if took > below)


def _seconds(seconds: int | None) -> str:
    return "-" if seconds is None else f"{seconds} s"


def _attainment(figures: ParityFigures) -> str:
    """The share of changes within the SLO, rounded down: one late change is never 100 %."""
    if not figures.changes:
        return "no change measured"
    tenths = 1000 * (figures.changes - figures.late) // figures.changes
    share = f"{tenths // 10}" if tenths % 10 == 0 else f"{tenths / 10:.1f}"
    return f"{share} % ({figures.changes - figures.late} of {figures.changes})"


def _by_severity(findings: Iterable[Finding]) -> dict[Severity, int]:
    found = Counter(each.severity for each in findings)
    return {severity: found[severity] for severity in Severity}


def _by_owner(registry: ReconciledRegistry) -> tuple[OwnerFindings, ...]:
    owners = {each.name: each.owner for each in registry.repositories}
    found: defaultdict[str, list[Finding]] = defaultdict(list)
    for each in registry.findings:
        owner = owners.get(each.repository) if each.repository else _THE_FILE
        found[_line(owner or "") or _NO_OWNER].append(each)
    counted = [OwnerFindings(owner, _by_severity(theirs)) for owner, theirs in found.items()]
    worst_first = sorted(
        counted, key=lambda each: ([-each.counts[severity] for severity in Severity], each.owner)
    )
    return tuple(worst_first)


def _line(text: str, limit: int = MAX_NAME_SHOWN) -> str:
    """A user's text on one line, as much of it as can be read."""
    return shortened(" ".join(shortened(text, limit + 1).split()), limit)


def _shown(text: str, limit: int = MAX_NAME_SHOWN) -> str:
    """A user's text within a line of Markdown, as it is but for its links."""
    return escape_markdown(_line(text, limit))


def _minute(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "an unknown time"
