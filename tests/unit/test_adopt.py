"""Adoption: what an entry says, and that a file gains exactly the entries and loses no byte."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any, Final

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.adopt import (
    Adoption,
    EntryStyle,
    adoption,
    entries_as_text,
    ids_of,
    insert_entries,
)
from ecr_catalog_pipeline.core.errors import GovernanceRefused
from ecr_catalog_pipeline.core.governance import Catalog, parse_governance
from ecr_catalog_pipeline.core.strict_yaml import parse_documents
from tests.unit.builders import repository

KEYS: Final = {"owner": "team", "risk": "risk", "environment": "Environment"}
PATH: Final = "ecr-catalog.yaml"
DAY: Final = date(2026, 1, 5)
FULL: Final = Adoption("team/new", "app-team", "high", "prod", DAY)


def raw(content: bytes) -> Any:
    (document,) = parse_documents(content.decode())
    return document.value


def inserted(text: str, *adoptions: Adoption) -> str:
    return insert_entries(text.encode(), adoptions or (FULL,), PATH).decode()


# What an entry says


def test_tags_say_owner_risk_and_environment_where_they_do() -> None:
    found = repository("team/app", created_at=datetime(2026, 1, 5, 23, 30, tzinfo=UTC))

    tags = {"team": " app-team\n", "risk": "High", "Environment": "prod", "Name": "x"}
    assert adoption(found, tags, KEYS) == Adoption("team/app", "app-team", "high", "prod", DAY)
    assert adoption(found, {"risk": "extreme", "team": " "}, KEYS) == Adoption(
        "team/app", created=DAY
    )
    assert adoption(repository("team/app"), {}, KEYS).to_fill_in == ["owner", "risk"]


def test_an_entry_is_written_for_review() -> None:
    assert entries_as_text([FULL, Adoption("a.b", created=DAY)]).splitlines() == [
        "  a.b:",
        "    metadata:",
        "      id: REGISTRY_A_B",
        "      owner:  # fill in: the team that answers for this repository",
        "      risk:  # fill in: low, medium or high",
        "      # environment: fill in, if it serves one",
        "      status: active",
        '      created_date: "2026-01-05"',
        "  team/new:",
        "    metadata:",
        "      id: REGISTRY_TEAM_NEW",
        "      owner: app-team",
        "      risk: high",
        "      environment: prod",
        "      status: active",
        '      created_date: "2026-01-05"',
    ]


def test_what_yaml_would_read_otherwise_is_quoted() -> None:
    words = [
        "no",
        "012",
        "1e5",
        "null",
        "~",
        "a: b",
        "#x",
        "x #y",
        "'",
        '"',
        "\\",
        "ü",
        "2026-01-05",
    ]
    for word in words:
        text = f"repositories:\n{entries_as_text([Adoption('no', owner=word)])}"
        for load in (yaml.safe_load, lambda text: raw(text.encode())):
            assert load(text)["repositories"]["no"]["metadata"]["owner"] == word


def test_no_two_entries_have_one_id() -> None:
    text = entries_as_text(
        [Adoption("a-b"), Adoption("a.b"), Adoption("a_b")], ids={"REGISTRY_A_B"}
    )
    ids = [line.split()[1] for line in text.splitlines() if " id: " in line]
    assert ids == ["REGISTRY_A_B_2", "REGISTRY_A_B_3", "REGISTRY_A_B_4"]


# Into a file

SORTED: Final = """\
version: "1.0"
repositories:
  # The first one.
  team/app:
    metadata: {id: REGISTRY_A, owner: 'x'}
    # of team/app

  # Belongs to team/old.
  team/old:
    metadata: {id: REGISTRY_B, owner: 'x'}
exceptions: []
"""


def test_a_sorted_file_stays_sorted_and_a_comment_stays_with_its_entry() -> None:
    lines = inserted(SORTED).splitlines()

    assert lines[:6] == SORTED.splitlines()[:6]
    assert lines[6:14] == [
        "",
        "  team/new:",
        "    metadata:",
        "      id: REGISTRY_TEAM_NEW",
        "      owner: 'app-team'",
        "      risk: high",
        "      environment: prod",
        "      status: active",
    ]
    assert lines[14:] == ['      created_date: "2026-01-05"', "", *SORTED.splitlines()[7:]]


def test_an_unsorted_file_gets_them_at_its_end_before_what_follows() -> None:
    text = SORTED.replace("team/app:", "zoo:")
    before, _, after = inserted(text).partition("\n  team/new:\n")
    assert before == text.removesuffix("exceptions: []\n")
    assert after.endswith('status: active\n      created_date: "2026-01-05"\nexceptions: []\n')


def test_the_files_own_style_is_kept() -> None:
    text = (
        "registries:\r\n"
        "    'b':\r\n"
        "        metadata:\r\n"
        '            owner: "x"\r\n'
        "            created_date: 2026-01-06\r\n"
        "\r\n"
        "    'c':\r\n"
        "        metadata:\r\n"
        '            owner: "y"'
    )
    assert inserted(text) == text + (
        "\r\n\r\n"
        "    'team/new':\r\n"
        "        metadata:\r\n"
        "            id: REGISTRY_TEAM_NEW\r\n"
        '            owner: "app-team"\r\n'
        "            risk: high\r\n"
        "            environment: prod\r\n"
        "            status: active\r\n"
        "            created_date: 2026-01-05\r\n"
    )


@pytest.mark.parametrize(
    ("empty", "line"),
    [
        ("repositories: {}", "repositories:"),
        ("repositories: { }  # none yet\nowner: x\n", "repositories:  # none yet"),
        ("repositories:\n  {}\n", "repositories:"),
        ('"registries": {}\n', '"registries":'),
    ],
)
def test_an_empty_registry_is_filled(empty: str, line: str) -> None:
    result = inserted(empty)
    assert result.splitlines()[:2] == [line, "  team/new:"]
    assert raw(result.encode()).keys() == raw(empty.encode()).keys()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("repositories: {a1: {}}\n", "the entries are in braces"),
        ('{"repositories": {}}\n', "the file is one mapping in braces"),
        ("x: &x {}\nrepositories: *x\n", "the entries are an alias"),
        ("repositories: { # none\n }\n", "the empty mapping shares its lines"),
        ("repositories: # none\n  {}\n", "the empty mapping shares its lines"),
        ("repositories: &x {}\nother: *x\n", "the empty mapping shares its lines"),
        ("repositories: &x\n  a1: {}\nother: *x\n", "cannot be edited safely"),
        ("repositories:\n  ? z1\n  : {}\n", "a name is not alone on its line"),
        ("repositories: [\n", "not YAML"),
        ("repositories:\n  - a\n", "is a list"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused(text: str, problem: str) -> None:
    with pytest.raises(GovernanceRefused, match=problem) as refused:
        inserted(text)
    assert refused.value.remediation
    assert refused.value.line >= 1


# Any file

names = st.from_regex(r"[a-z][a-z0-9]{1,4}([-./_][a-z0-9]{1,4}){0,2}", fullmatch=True)
values = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: text and text.isprintable())
)
adoptions = st.builds(
    Adoption,
    names,
    st.none()
    | values.map(lambda text: " ".join(text.split())).filter(bool).filter(str.isprintable),
    st.none() | st.sampled_from(["low", "medium", "high"]),
    st.none() | names,
    st.none() | st.just(DAY),
)


@st.composite
def files(draw: st.DrawFn) -> str:
    """A governance file as people write it, in many styles."""
    indent = " " * draw(st.integers(1, 5))
    step = " " * draw(st.integers(1, 4))
    quote = draw(st.sampled_from(["", "'", '"']))
    key_quote = draw(st.sampled_from(["", "'", '"']))
    blank = draw(st.booleans())
    listed = draw(st.lists(names, unique=True, max_size=5))
    listed = sorted(listed) if draw(st.booleans()) else listed
    lines = draw(st.sampled_from([[], ['version: "1.0"'], ["---", "# A file.", "owner: x", ""]]))
    key = draw(st.sampled_from(["repositories", "registries", '"repositories"']))
    lines = [*lines, f"{key}:" if listed else f"{key}: {{}}" + draw(st.sampled_from(["", "  # -"]))]
    for place, name in enumerate(listed):
        if blank and place:
            lines.append("")
        if draw(st.booleans()):
            lines.append(f"{indent}# of {name}")
        if draw(st.booleans()):
            lines.append(f"{indent}{key_quote}{name}{key_quote}: {{metadata: {{owner: {name}}}}}")
            continue
        lines += [f"{indent}{key_quote}{name}{key_quote}:", f"{indent}{step}metadata:"]
        lines.append(f"{indent}{step}{step}owner: {quote}{name}{quote}")
        last = draw(st.sampled_from(["status: active", "note: |", "note: |+", 'note: "', "id:"]))
        lines.append(f"{indent}{step}{step}{last}")
        if last.startswith("note: |"):
            lines += [f"{indent}{step}{step} text", f"{indent}{step}{step} # no comment"]
        elif last == 'note: "':
            lines += ["", f'{indent}{step}{step} # no comment "']
        if draw(st.booleans()):
            lines.append(f"{indent}{step}# deeper")
    lines += draw(
        st.sampled_from([[], [""], ["# The end."], ["", "domain: x"], ["domain: x", "..."]])
    )
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    return draw(st.sampled_from(["", "\ufeff"])) + text + draw(st.sampled_from(["", "\n"]))


@settings(deadline=None, max_examples=150)
@given(text=files(), wanted=st.lists(adoptions, min_size=1, max_size=4, unique_by=lambda a: a.name))
def test_any_file_gains_exactly_the_entries_and_loses_no_line(
    text: str, wanted: list[Adoption]
) -> None:
    content = text.encode()
    before = raw(content)
    key = next(iter(before.keys() & {"repositories", "registries"}))
    assume(not {each.name for each in wanted} & before[key].keys())
    # A text block that ends with the file would gain a line end: that is refused.
    assume(text.endswith("\n") or "note: |" not in text)

    result = insert_entries(content, wanted, PATH)

    after = raw(result)
    assert {**after, key: None} == {**before, key: None}
    assert {name: after[key][name] for name in before[key]} == before[key]
    assert after[key].keys() == before[key].keys() | {each.name for each in wanted}
    for each in wanted:
        metadata = after[key][each.name]["metadata"]
        assert (metadata["owner"], metadata["risk"]) == (each.owner, each.risk)
        assert metadata.get("environment") == each.environment
        assert metadata["status"] == "active"
    ids = [each["metadata"].get("id") for each in after[key].values()]
    given_ids = [each for each in ids if each]
    assert len(set(given_ids)) == len(given_ids)
    if list(before[key]) == sorted(before[key]):
        assert list(after[key]) == sorted(after[key])
    else:
        assert list(after[key])[: len(before[key])] == list(before[key])
    kept = content.replace(b" {}", b"").splitlines()
    lines = iter(result.splitlines())
    assert all(line in lines for line in kept), "each line is there, in its order"


@settings(deadline=None)
@given(wanted=st.lists(adoptions, min_size=1, max_size=3, unique_by=lambda each: each.name))
def test_what_is_printed_can_be_pasted(wanted: list[Adoption]) -> None:
    text = f'version: "1.0"\nrepositories:\n{entries_as_text(wanted)}'

    catalog = parse_governance(text.encode())

    assert isinstance(catalog, Catalog)
    assert {(each.name, each.owner, each.risk, each.environment) for each in catalog.entries} == {
        (each.name, each.owner, each.risk, each.environment) for each in wanted
    }
    rules = {each.rule for each in catalog.findings}
    assert rules <= {"owner-missing", "risk-missing", "name-invalid"}
    assert json.dumps(sorted(ids_of(text.encode(), PATH)))
    assert yaml.safe_load(text)


def test_the_default_style_is_that_of_a_hand_written_file() -> None:
    assert EntryStyle() == EntryStyle(2, (2, 2), {}, "", '"', blank=False, line_end="\n")
