from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core import owners
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.owners import (
    MAX_FINDINGS,
    MAX_NOTICES,
    MAX_OWNERS,
    Notice,
    Notified,
    OwnedFinding,
    OwnedFindings,
    advance_notified,
    after_notices,
    due_notices,
    owned_findings,
    owner_reference,
    owners_to_check,
    unknown_owners,
)
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, ReconciledRepository, State

TEAM: Final = "group:default/team-a"
LINK: Final = "/catalog/default/resource/registry"


def registry(
    *repositories: tuple[str, str | None], findings: tuple[Finding, ...] = ()
) -> ReconciledRegistry:
    return ReconciledRegistry(
        tuple(ReconciledRepository(name, State.LIVE, owner=owner) for name, owner in repositories),
        findings,
    )


def error(name: str, rule: str = "tags-mutable", severity: Severity = Severity.ERROR) -> Finding:
    return Finding(name, rule, severity, "tags are mutable", "Make them immutable.")


def owned(*names: str, complete: bool = True, unknown: bool = False) -> OwnedFindings:
    found = (OwnedFinding(name, "r", TEAM, "m", "do", unknown) for name in sorted(names))
    return OwnedFindings(tuple(found), complete)


def due(notified: dict[str, Notified], now: OwnedFindings) -> list[Notice]:
    return due_notices(notified, now, mirror="goldenpath", link=LINK)


@pytest.mark.parametrize(
    ("owner", "reference"),
    [
        ("team-a", TEAM),
        ("Team-A", TEAM),
        ("group:team-a", TEAM),
        ("group:default/team-a", TEAM),
        ("platform/team-a", "group:platform/team-a"),
        ("user:jo", "user:default/jo"),
        ("team a", None),
        ("", None),
        ("a/b/c", None),
        ("x" * 64, None),
        (f"{'n' * 64}/team", None),
        ("team-", None),
        ("<script>", None),
    ],
)
def test_an_owner_is_spelt_as_backstage_does(owner: str, reference: str | None) -> None:
    assert owner_reference(owner) == reference


@given(st.text(max_size=80))
def test_a_reference_names_itself(owner: str) -> None:
    reference = owner_reference(owner)
    assert reference is None or owner_reference(reference) == reference


def test_each_owner_is_looked_up_once_and_no_more_than_so_many() -> None:
    many = registry(
        *((f"r-{n:03}", f"team-{n}") for n in range(MAX_OWNERS + 5)), ("again", "Team-1")
    )

    checked = owners_to_check(many)

    assert len(checked) == len(set(checked)) == MAX_OWNERS
    assert list(unknown_owners(many, dict.fromkeys(checked, True))) == []


def test_an_owner_that_backstage_does_not_know_is_a_warning_at_each_repository() -> None:
    found = registry(("a", "team-a"), ("b", "gone"), ("c", "not a name"), ("d", None))

    unknown = list(unknown_owners(found, {TEAM: True, "group:default/gone": False}))

    assert [(owner, each.repository) for owner, each in unknown] == [
        ("gone", "b"),
        ("not a name", "c"),
    ]
    assert {(each.rule, each.severity) for _, each in unknown} == {
        ("owner-unknown", Severity.WARNING)
    }


def test_where_backstage_says_nothing_no_owner_is_unknown_but_what_can_never_be_one() -> None:
    unknown = unknown_owners(registry(("a", "team-a"), ("b", "not a name")), {})
    assert [each.repository for _, each in unknown] == ["b"]


def test_only_error_findings_of_repositories_with_an_owner_are_reported() -> None:
    found = owned_findings(
        registry(
            ("a", "team-a"),
            ("b", None),
            ("c", "not a name"),
            ("d", "gone"),
            findings=(
                error(""),
                error("a"),
                error("a"),
                error("a", "image-scanning-off", Severity.WARNING),
                error("b"),
                error("c"),
                error("d"),
            ),
        ),
        {"group:default/gone": False},
    )

    assert [(each.repository, each.owner, each.unknown) for each in found.found] == [
        ("a", TEAM, False),
        ("d", "group:default/gone", True),
    ]
    assert found.complete


def test_what_is_too_much_is_cut_and_what_was_cut_has_not_ended() -> None:
    names = [f"r-{n:03}" for n in range(MAX_FINDINGS + 1)]
    whole = registry(
        *((name, "team-a") for name in names), findings=tuple(error(name) for name in names)
    )

    found = owned_findings(whole, {})

    assert len(found.found) == MAX_FINDINGS
    assert not found.complete
    last = f"{names[-1]} tags-mutable {TEAM}"
    assert not found.lacks(last)
    assert found.lacks(f"r-000a tags-mutable {TEAM}")
    assert OwnedFindings((), complete=True).lacks(last)
    assert not OwnedFindings((), complete=False).lacks(last)


def test_a_finding_is_reported_once_when_it_begins_and_once_when_it_ends() -> None:
    notified = advance_notified({}, owned("a"))
    (begins,) = due(notified, owned("a"))
    assert (begins.owner, begins.severity, begins.link) == (TEAM, "high", LINK)
    assert begins.title == "a: r"
    notified = after_notices(notified, {begins.key}, ())
    assert due(advance_notified(notified, owned("a")), owned("a")) == []

    notified = advance_notified(notified, owned())
    (ends,) = due(notified, owned())
    assert ends.title == "Resolved: a: r"
    assert (ends.scope, ends.severity) == (begins.scope, "low")
    assert after_notices(notified, {ends.key}, ()) == {}


def test_one_that_ended_before_it_was_reported_is_forgotten() -> None:
    assert advance_notified(advance_notified({}, owned("a")), owned()) == {}


def test_one_that_is_back_before_its_end_was_reported_goes_on() -> None:
    notified = after_notices(
        advance_notified({}, owned("a")), set(advance_notified({}, owned("a"))), ()
    )
    notified = advance_notified(advance_notified(notified, owned()), owned("a"))
    assert due(notified, owned("a")) == []


def test_nobody_is_notified_for_an_owner_that_does_not_exist() -> None:
    unknown = owned("a", unknown=True)
    assert due(advance_notified({}, unknown), unknown) == []
    notified = after_notices(
        advance_notified({}, owned("a")), set(advance_notified({}, owned("a"))), ()
    )
    assert due(advance_notified(notified, unknown), unknown) == []


def test_what_does_not_arrive_lets_the_others_before_it() -> None:
    names = [f"r-{n:03}" for n in range(MAX_NOTICES + 5)]
    notified = advance_notified({}, owned(*names))
    first = due(notified, owned(*names))
    assert len(first) == MAX_NOTICES

    notified = after_notices(notified, (), {each.key for each in first})
    second = {each.key for each in due(notified, owned(*names))[:5]}
    assert second == set(notified) - {each.key for each in first}


@given(st.text(min_size=1, max_size=300), st.text(max_size=600))
def test_no_text_of_others_is_longer_than_backstage_stores_or_looks_like_a_link(
    name: str, message: str
) -> None:
    now = OwnedFindings((OwnedFinding(name, "rule", TEAM, message, "do"),))
    notified = advance_notified({}, now)
    (notice,) = due(notified, now)
    assert len(notice.title) <= 255
    assert len(notice.scope) <= 255
    assert "://" not in notice.title + notice.description


def test_two_long_names_have_two_scopes() -> None:
    now = owned("x" * 256, "x" * 255 + "y")
    assert len({each.scope for each in due(advance_notified({}, now), now)}) == 2


actions = st.lists(
    st.tuples(
        st.sets(st.sampled_from("abcdef")), st.booleans(), st.sets(st.integers(0, 30), max_size=4)
    ),
    max_size=12,
)


@given(actions)
def test_what_the_inbox_shows_at_the_end_is_what_is_wrong(
    looks: list[tuple[set[str], bool, set[int]]],
) -> None:
    """Whatever fails on the way, once all arrives every open finding stands there as open."""
    notified: dict[str, Notified] = {}
    inbox: dict[str, str] = {}
    adapter = TypeAdapter(dict[str, Notified])
    for names, restarts, losses in [*looks, (looks[-1][0] if looks else set(), False, set())]:
        now = owned(*names)
        notified = advance_notified(notified, now)
        notices = due(notified, now)
        lost = {each.key for place, each in enumerate(notices) if place in losses}
        for each in notices:
            if each.key not in lost:
                assert inbox.get(each.key) != each.title, "notified twice"
                inbox[each.key] = each.title
        notified = after_notices(notified, {each.key for each in notices} - lost, lost)
        if restarts:
            notified = adapter.validate_json(adapter.dump_json(notified))
    shown = {key for key, title in inbox.items() if not title.startswith("Resolved")}
    assert shown == {each.key for each in now.found}


def test_the_limits_are_those_that_the_documentation_names() -> None:
    assert (owners.MAX_NOTICES, owners.MAX_FINDINGS, owners.MAX_OWNERS) == (20, 100, 200)
