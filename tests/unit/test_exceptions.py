"""Exceptions: what they accept, what they say of themselves, and what they never change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.conformance import Learnt, check_conformance, open_findings
from ecr_catalog_pipeline.core.ecr_settings import EcrSettings, Setting
from ecr_catalog_pipeline.core.exceptions import (
    Acceptance,
    GovernanceException,
    names_matching,
)
from ecr_catalog_pipeline.core.governance import (
    MAX_EXCEPTIONS,
    Catalog,
    Status,
    parse_governance,
)
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.origins import CreationTemplate, OrphanOrigin
from ecr_catalog_pipeline.core.policy import Policy
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State, reconcile
from tests.unit.builders import catalog, entity_of, entry, inventory, plan, published, rendered

TODAY: Final = date(2026, 1, 9)
YESTERDAY: Final = TODAY - timedelta(days=1)
ORPHANS: Final = GovernanceException("*", "orphan", "they are known")


def parsed(exceptions: Any) -> Catalog:
    content = {"version": "1.0", "repositories": {}, "exceptions": exceptions}
    return parse_governance(json.dumps(content).encode())


def held(
    exceptions: Sequence[GovernanceException],
    *,
    present: Inventory | None = None,
    settings: EcrSettings | None = None,
    policies: dict[str, Policy] | None = None,
    today: date = TODAY,
) -> ReconciledRegistry:
    """A registry with one repository of each state, and `cdk-a` and `cdk-b` as orphans."""
    entries = catalog(
        [
            entry("live", encryption="KMS"),
            entry("ghost"),
            entry("pending", status=Status.PENDING),
            entry("lingering", status=Status.DECOMMISSIONED),
            entry("retired", status=Status.DECOMMISSIONED),
        ]
    )
    entries = replace(entries, exceptions=tuple(exceptions))
    found = present or inventory(["live", "lingering", "cdk-a", "cdk-b", "hub/nginx"])
    return check_conformance(
        reconcile(entries, found),
        catalog=entries,
        inventory=found,
        policies=policies or {},
        learnt=Learnt(settings or EcrSettings()),
        today=today,
    )


def rules(registry: ReconciledRegistry) -> list[tuple[str, str]]:
    return [(each.repository, each.rule) for each in registry.findings]


def excepted(registry: ReconciledRegistry) -> dict[str, Acceptance]:
    return {each.name: each.exception for each in registry.repositories if each.exception}


# How they are written


def test_exceptions_are_read_in_the_files_order() -> None:
    written = [
        {"match": "b*", "rule": "orphan", "reason": "cache", "origin": "pull-through-cache"},
        {"match": "a", "rule": "tags-mutable", "reason": "legacy", "expires": "2027-06-30"},
    ]
    read = parsed(written)
    assert read.findings == ()
    assert read.exceptions == (
        GovernanceException("b*", "orphan", "cache", OrphanOrigin.PULL_THROUGH_CACHE),
        GovernanceException("a", "tags-mutable", "legacy", expires=date(2027, 6, 30)),
    )


def test_a_day_without_quotes_is_read_as_written() -> None:
    exception = "{match: a, rule: ghost, reason: r, expires: 2027-06-30}"
    text = f"repositories: {{}}\nversion: '1.0'\nexceptions:\n- {exception}\n"
    assert parse_governance(text.encode()).exceptions[0].expires == date(2027, 6, 30)


@pytest.mark.parametrize("exceptions", [None, []])
def test_no_exceptions_are_no_finding(exceptions: Any) -> None:
    assert parsed(exceptions) == Catalog((), ())


GOOD: Final = {"match": "a", "rule": "orphan", "reason": "r"}


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({}, "not a list"),
        ("text", "not a list"),
        (["text"], "exception 1 is text, not a mapping"),
        ([None], "exception 1 is null"),
        ([{**GOOD, "match": None}], "exception 1: match is missing"),
        ([{**GOOD, "match": " "}], "match is missing"),
        ([{**GOOD, "match": ["a"]}], "match is"),
        ([GOOD, {**GOOD, "rule": None}], "exception 2: rule is missing"),
        ([{**GOOD, "reason": ""}], "reason is missing"),
        ([{**GOOD, "origin": "elsewhere"}], "origin 'elsewhere' is unknown"),
        ([{**GOOD, "rule": "ghost", "origin": "replication"}], "origin narrows orphans"),
        ([{**GOOD, "expires": "soon"}], "expires 'soon' is not a day"),
        ([{**GOOD, "expires": "2027-02-30"}], "is not a day"),
        ([{**GOOD, "expires": "20270630"}], "is not a day"),
        ([{**GOOD, "expires": "2027-06-30T10:00:00Z"}], "is not a day"),
        ([{**GOOD, "expires": {}}], "is not a day"),
        ([{**GOOD, "rule": "exception-expired"}], "a rule about exceptions"),
    ],
)
def test_a_malformed_exception_is_a_finding_and_accepts_nothing(odd: Any, said: str) -> None:
    read = parsed(odd)
    assert {each.rule for each in read.findings} == {"exception-malformed"}
    assert said in " ".join(each.message for each in read.findings)
    assert all(each.repository == "" and each.remediation for each in read.findings)
    assert len(read.exceptions) == (len(odd) - 1 if isinstance(odd, list) else 0)


def test_an_unknown_key_leaves_an_exception_as_it_is() -> None:
    read = parsed([{**GOOD, "until": "2027-01-01"}])
    assert [each.rule for each in read.findings] == ["key-unknown"]
    assert read.exceptions == (GovernanceException("a", "orphan", "r"),)


def test_exceptions_beyond_the_first_thousand_are_counted_in_one_finding() -> None:
    read = parsed([{**GOOD, "match": str(number)} for number in range(MAX_EXCEPTIONS + 7)])
    assert len(read.exceptions) == MAX_EXCEPTIONS
    assert [each.message for each in read.findings] == [
        "7 exceptions beyond the first 1000 are not read"
    ]


# What they accept


def test_an_accepted_orphan_ghost_or_lingering_one_keeps_its_state_and_stands_apart() -> None:
    for state in ("orphan", "ghost", "lingering"):
        before = held([])
        found = held([GovernanceException("*", state, "because", expires=TODAY)])
        names = [each.name for each in found.repositories if each.state == state]
        assert excepted(found) == dict.fromkeys(names, Acceptance("because", TODAY))
        assert found.counts() == before.counts()
        assert found.findings == before.findings
        assert [(each.repository, each.rule) for each in found.excepted] == [
            (name, state) for name in names
        ]
        for each in found.excepted:
            assert each.message
            assert each.remediation == "Accepted until 2026-01-09: because"


def test_a_reason_of_any_text_is_reported_on_one_line() -> None:
    hostile = GovernanceException("*", "orphan", "a\nb\x1b[2J\u202ec" + "x" * 4_000)
    reported = [each.remediation for each in held([hostile]).excepted]
    expired = replace(hostile, expires=YESTERDAY)
    reported += [each.message for each in held([expired]).findings]
    assert len(reported) == 4
    assert all(each.isprintable() and len(each) < 1_000 for each in reported)


@pytest.mark.parametrize("state", ["live", "pending", "retired", "lIVE"])
def test_what_is_well_cannot_be_accepted(state: str) -> None:
    found = held([GovernanceException("*", state, "because")])
    assert excepted(found) == {}
    assert ("", "exception-unused") in rules(found)


def test_an_accepted_finding_stands_apart_with_its_control() -> None:
    aws = inventory(["live"])
    aws = replace(
        aws, repositories=tuple(replace(r, encryption="AES256") for r in aws.repositories)
    )
    before = held([], present=aws)
    assert ("live", "encryption-differs") in rules(before)
    exception = GovernanceException("li*", "encryption-differs", "created in 2020")
    found = held([exception], present=aws)
    assert ("live", "encryption-differs") not in rules(found)
    (finding,) = found.excepted
    assert (finding.rule, finding.control) == ("encryption-differs", "ECR.5")
    assert finding.remediation == "Accepted without an end: created in 2020"
    (row,) = found.conformance
    assert (row.kept, row.broken, row.excepted, row.unknown) == (0, 0, 1, 0)


def test_a_finding_about_the_whole_file_is_matched_by_a_star_alone() -> None:
    read = parsed([{"match": "*", "rule": "version-unknown", "reason": "old"}])
    old = replace(read, findings=parse_governance(b"repositories: {}").findings)
    assert [each.rule for each in old.findings] == ["version-unknown"]
    assert open_findings(old, TODAY) == ()
    narrow = (GovernanceException("a*", "version-unknown", "old"),)
    assert open_findings(replace(old, exceptions=narrow), TODAY) == old.findings


def test_an_origin_narrows_orphans() -> None:
    settings = EcrSettings(
        templates=(CreationTemplate("ROOT", (OrphanOrigin.CREATE_ON_PUSH,)),),
        cache_rules=("hub",),
    )
    cached = replace(ORPHANS, origin=OrphanOrigin.PULL_THROUGH_CACHE)
    pushed = replace(ORPHANS, origin=OrphanOrigin.CREATE_ON_PUSH)
    assert excepted(held([cached], settings=settings)).keys() == {"hub/nginx"}
    assert excepted(held([pushed], settings=settings)).keys() == {"cdk-a", "cdk-b"}
    replicated = replace(ORPHANS, origin=OrphanOrigin.REPLICATION)
    found = held([replicated], settings=settings)
    assert excepted(found) == {}
    assert ("", "exception-unused") in rules(found)


def test_while_an_origin_cannot_be_inferred_nobody_calls_its_exception_unused() -> None:
    cached = replace(ORPHANS, origin=OrphanOrigin.PULL_THROUGH_CACHE)
    denied = EcrSettings(unknown={Setting.CACHE_RULES: "denied"})
    assert rules(held([cached], settings=denied)) == [("", "registry-settings-unknown")]


def test_of_overlapping_exceptions_the_first_counts_and_none_is_unused() -> None:
    first = GovernanceException("cdk-a", "orphan", "the one", expires=TODAY)
    found = held([first, replace(ORPHANS, match="cdk-*"), ORPHANS])
    assert excepted(found) == {
        "cdk-a": Acceptance("the one", TODAY),
        "cdk-b": Acceptance("they are known"),
        "hub/nginx": Acceptance("they are known"),
    }
    assert rules(found) == []


def test_an_exception_that_matches_nothing_is_reported() -> None:
    (finding,) = held([GovernanceException("nothing-*", "orphan", "r")]).findings
    assert (finding.rule, finding.severity, finding.repository) == ("exception-unused", "info", "")
    assert "'nothing-*'" in finding.message


# When they end


def test_the_last_day_holds_and_the_next_one_brings_it_back() -> None:
    exception = replace(ORPHANS, expires=TODAY)
    on_the_day = held([exception])
    assert len(excepted(on_the_day)) == 3
    assert on_the_day.findings == ()

    after = held([exception], today=TODAY + timedelta(days=1))
    assert excepted(after) == {}
    assert after.excepted == ()
    (finding,) = after.findings
    assert (finding.rule, finding.severity, finding.repository) == (
        "exception-expired",
        "warning",
        "",
    )
    assert "2026-01-09" in finding.message


def test_an_expired_exception_about_the_file_is_a_finding_about_the_file() -> None:
    read = parsed([{**GOOD, "expires": "2026-01-09"}])
    assert open_findings(read, TODAY) == ()
    (finding,) = open_findings(read, TODAY + timedelta(days=1))
    assert finding.rule == "exception-expired"


def test_what_an_expired_exception_overlaps_is_still_accepted_by_the_other() -> None:
    found = held([replace(ORPHANS, expires=YESTERDAY), ORPHANS])
    assert len(excepted(found)) == 3
    assert rules(found) == [("", "exception-expired")]


# What they never change

RULES: Final = ["orphan", "ghost", "lingering", "encryption-differs", "promote-to-active", "live"]
MATCHES: Final = ["*", "?*", "[a-z]*", "cdk-*", "live", "g*", "[", "*[", "", "pending"]
some_exceptions = st.lists(
    st.builds(
        GovernanceException,
        st.sampled_from(MATCHES) | st.text("abc*?[]!-", max_size=6),
        st.sampled_from(RULES),
        st.just("r"),
        st.none() | st.sampled_from(OrphanOrigin),
        st.none() | st.sampled_from([YESTERDAY, TODAY]),
    ),
    max_size=5,
)
some_settings = st.builds(
    EcrSettings,
    templates=st.none() | st.just((CreationTemplate("ROOT", (OrphanOrigin.REPLICATION,)),)),
    cache_rules=st.none() | st.just(("hub",)),
    unknown=st.dictionaries(st.sampled_from(Setting), st.just("denied")),
)


@given(some_exceptions, some_settings, st.booleans())
def test_neither_policy_nor_exceptions_change_the_entity_or_hide_a_removal(
    exceptions: list[GovernanceException], settings: EcrSettings, strict: bool
) -> None:
    policies = {"low": Policy(encryption="KMS", immutable_tags=True)} if strict else {}
    aws = inventory(["live", "lingering", "cdk-a", "cdk-b", "hub/nginx"])
    before = held([], present=aws)
    found = held(exceptions, present=aws, settings=settings, policies=policies)
    assert rendered(entity_of(found)) == rendered(entity_of(before))
    old = published("live", "ghost", "gone")
    plans = [plan(each, aws, published=old) for each in (before, found)]
    assert plans[0] == plans[1]
    assert plans[1].changes.removed == ("ghost", "gone")
    assert [(each.name, each.state) for each in found.repositories] == [
        (each.name, each.state) for each in before.repositories
    ]
    assert all(
        each.state in {State.ORPHAN, State.GHOST, State.LINGERING}
        for each in found.repositories
        if each.exception
    )


# Globs


@given(st.text("ab*?[]!-^&~|\\\n", max_size=8), st.sets(st.text("ab[]-", max_size=5), max_size=8))
def test_any_text_is_a_glob_that_matches_a_subset_of_the_names(match: str, names: set[str]) -> None:
    found = list(names_matching(match, sorted(names)))
    assert found == sorted(set(found))
    assert set(found) <= names
    assert (match in found) == (match in names), "a name matches itself"
    assert list(names_matching("*", sorted(names))) == sorted(names)


@pytest.mark.parametrize(
    ("match", "names", "matched"),
    [
        ("cdk-*", ["cdk", "cdk-", "cdk-a/b", "x-cdk-a"], ["cdk-", "cdk-a/b"]),
        ("CDK-*", ["cdk-a"], []),
        ("a?c", ["abc", "ac", "abbc"], ["abc"]),
        ("team[12]/*", ["team1/a", "team2/a", "team3/a"], ["team1/a", "team2/a"]),
        ("team[1]", ["team1", "team[1]"], ["team1", "team[1]"]),
        ("team[", ["team[", "team"], ["team["]),
        ("ab", ["a", "ab", "abc"], ["ab"]),
    ],
)
def test_a_glob_matches_as_a_shell_would(match: str, names: list[str], matched: list[str]) -> None:
    assert list(names_matching(match, sorted(names))) == matched
