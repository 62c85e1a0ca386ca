from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml

from ecr_catalog_pipeline.core.entity import content_digest, read_published
from ecr_catalog_pipeline.core.errors import EntityInvalid, StalePlan, TargetRefused
from ecr_catalog_pipeline.core.governance import Entry, Status
from ecr_catalog_pipeline.core.guard import RemovalLimits
from ecr_catalog_pipeline.core.plan import STATE, Changes, Difference, Plan, names_to_prove
from ecr_catalog_pipeline.core.reconcile import reconcile
from tests.unit.builders import (
    IDENTITY,
    NOW,
    OTHER_SHA,
    catalog,
    entry,
    inventory,
    live_registry,
    plan,
    published,
)

MANY = tuple(f"repo-{number:02}" for number in range(20))


def plan_of(live: tuple[str, ...], **changes: Any) -> Plan:
    """A plan for a registry in which every name is governed and present."""
    return plan(live_registry(*live), inventory(live), **changes)


def plan_without(
    victim: str, *, governed: Entry | None, present: bool, proved: tuple[str, ...] = ()
) -> Plan:
    """A plan after `victim`, published among many, became what the arguments say."""
    others = [name for name in MANY if name != victim]
    entries = [entry(name) for name in others] + ([governed] if governed else [])
    aws = inventory([*others, victim] if present else others)
    registry = reconcile(catalog(entries), aws)
    return plan(registry, aws, published=published(*MANY), proved_absent=proved)


def test_a_plan_says_what_it_adds_removes_and_updates_each_sorted() -> None:
    aws = inventory(["ab", "ef", "yz", "new-2", "new-1"])
    entries = [
        entry("ab"),
        entry("ef", owner="other"),
        entry("yz", environment="prod"),
        entry("new-1"),
        entry("new-2"),
    ]

    made = plan(
        reconcile(catalog(entries), aws), aws, published=published("yz", "ab", "ef", "old-b", "old")
    )

    assert made.changes == Changes(
        added=("new-1", "new-2"), removed=("old", "old-b"), updated=("ef", "yz")
    )
    assert made.differences == (
        Difference("ef", "owner", "platform-team", "other"),
        Difference("new-1", STATE, None, "live"),
        Difference("new-2", STATE, None, "live"),
        Difference("old", STATE, "live", None),
        Difference("old-b", STATE, "live", None),
        Difference("yz", "environment", None, "prod"),
    )
    assert not made.unchanged


def registry_of(live: tuple[str, ...], pending: tuple[str, ...], **changes: Any) -> Plan:
    entries = [entry(name) for name in live]
    entries += [entry(name, status=Status.PENDING, created_date="2026-01-06") for name in pending]
    aws = inventory(live)
    return plan(reconcile(catalog(entries), aws), aws, **changes)


def test_a_request_that_is_fulfilled_becomes_live() -> None:
    before = registry_of(live=("ab",), pending=("cd", "ef")).content

    made = registry_of(live=("ab", "cd"), pending=("gh",), published=before)

    assert made.changes == Changes(added=("cd",))
    assert made.differences == (
        Difference("cd", STATE, "pending", "live"),
        Difference("ef", STATE, "pending", None),
        Difference("gh", STATE, None, "pending"),
    )
    assert [each.becomes_live for each in made.differences] == [True, False, False]
    assert not any(each.leaves_live for each in made.differences)


def test_a_live_repository_that_is_pending_again_is_a_removal() -> None:
    before = registry_of(live=("ab", "cd"), pending=()).content

    made = registry_of(live=("ab",), pending=("cd",), published=before)

    assert made.changes == Changes(removed=("cd",))
    (difference,) = made.differences
    assert difference == Difference("cd", STATE, "live", "pending")
    assert difference.leaves_live
    assert not difference.becomes_live


def test_a_request_that_changes_is_a_difference_and_no_live_update() -> None:
    before = registry_of(live=("ab",), pending=("cd",)).content
    aws = inventory(["ab"])
    governed = catalog([entry("ab"), entry("cd", status=Status.PENDING, owner="other")])

    made = plan(reconcile(governed, aws), aws, published=before)

    assert made.changes == Changes()
    assert made.differences == (
        Difference("cd", "owner", "platform-team", "other"),
        Difference("cd", "requested", "2026-01-06", None),
    )


@pytest.mark.parametrize(
    ("line", "difference"),
    [
        (b"owner: x, risk: low, status: active", ("owner", "x", "platform-team")),
        (b"risk: low, status: active", ("owner", None, "platform-team")),
        (b"owner: 12, risk: low, status: active", ("owner", "12", "platform-team")),
        (b"owner: platform-team, risk: low, status: active, more: x", ("more", "x", None)),
        (b"owner: platform-team, risk: low, status: active, '12': [x]", ("12", "['x']", None)),
    ],
)
def test_a_tampered_line_is_an_update_back_to_what_it_should_be(
    line: bytes, difference: tuple[str, str | None, str | None]
) -> None:
    whole = b"owner: platform-team, risk: low, status: active"
    tampered = published("ab", "cd").replace(whole, line, 1)
    assert tampered != published("ab", "cd")

    made = plan_of(("ab", "cd"), published=tampered)

    assert made.changes == Changes(updated=("ab",))
    assert made.differences == (Difference("ab", *difference),)


def test_a_plan_holds_the_file_to_publish_and_both_digests() -> None:
    made = plan_of(("ab", "cd"), published=published("ab"), expected="blob-1")

    assert made.content == published("ab", "cd")
    assert made.digest == content_digest(yaml.safe_load(published("ab", "cd")))
    assert made.published_digest == content_digest(yaml.safe_load(published("ab")))
    assert made.expected == "blob-1"
    assert made.last_good == "1 live and 0 pending, content of 2026-01-09 23:03:13 UTC, 0 s ago"


def test_the_first_publication_is_never_held() -> None:
    made = plan_of(MANY, limits=RemovalLimits(max_removals=0, max_removal_percent=0))

    assert not made.held
    assert not made.unchanged
    assert made.changes == Changes(added=MANY)
    assert (made.published_digest, made.last_good) == (None, "nothing is published yet")


def test_the_first_publication_of_nothing_is_published_too() -> None:
    made = plan_of(())

    assert (made.held, made.unchanged, made.changes) == (False, False, Changes())


def test_a_later_look_at_another_commit_changes_nothing() -> None:
    later = NOW + timedelta(days=1)

    made = plan_of(
        MANY, published=published(*MANY), source_sha=OTHER_SHA, now=later, reads_began_at=later
    )

    assert made.unchanged
    assert (made.changes, made.differences) == (Changes(), ())
    assert not made.held


@pytest.mark.parametrize(
    "tamper",
    [
        lambda content: content + b"# by hand\n",
        lambda content: content.replace(b"owner: platform-team, ", b"owner: other, "),
        lambda content: content.replace(b"  annotations:", b"  labels: {a: b}\n  annotations:"),
        lambda content: content.replace(b"\n", b"\r\n"),
    ],
)
def test_a_published_file_that_was_tampered_with_is_to_be_repaired(
    tamper: Callable[[bytes], bytes],
) -> None:
    made = plan_of(MANY, published=tamper(published(*MANY)))

    assert not made.unchanged
    assert not made.held
    assert made.content == published(*MANY)


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.DEPRECATED, Status.PENDING, None])
def test_an_absence_that_no_look_up_proved_is_held(status: Status | None) -> None:
    made = plan_without("repo-07", governed=entry("repo-07", status=status), present=False)

    assert made.changes.removed == ("repo-07",)
    (reason,) = made.reasons_held
    assert "repo-07" in reason


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.DEPRECATED, Status.PENDING, None])
def test_an_absence_that_a_look_up_proved_is_published(status: Status | None) -> None:
    made = plan_without(
        "repo-07", governed=entry("repo-07", status=status), present=False, proved=("repo-07",)
    )

    assert made.changes.removed == ("repo-07",)
    assert not made.held


def test_a_proof_of_another_repositorys_absence_proves_nothing() -> None:
    made = plan_without("repo-07", governed=entry("repo-07"), present=False, proved=("repo-08",))

    assert made.held


@pytest.mark.parametrize(
    ("governed", "present"),
    [
        (entry("repo-07", status=Status.DECOMMISSIONED), True),
        (entry("repo-07", status=Status.DECOMMISSIONED), False),
        (None, True),
        (None, False),
    ],
    ids=["decommissioned, lingering", "decommissioned, gone", "dropped, orphan", "dropped, gone"],
)
def test_a_removal_by_governance_needs_no_look_up(governed: Entry | None, present: bool) -> None:
    made = plan_without("repo-07", governed=governed, present=present)

    assert made.changes.removed == ("repo-07",)
    assert not made.held


def test_the_guard_counts_against_what_is_published_not_against_what_is_new() -> None:
    additions = tuple(f"new-{number:03}" for number in range(100))

    made = plan_of((*MANY[5:], *additions), published=published(*MANY))

    (reason,) = made.reasons_held
    assert "5 of 20" in reason


def test_additions_and_updates_wait_with_a_held_removal() -> None:
    made = plan_of(("new",), published=published("old"))

    assert made.held
    assert made.changes == Changes(added=("new",), removed=("old",))
    assert made.content == published("new")


def test_additions_and_updates_alone_are_never_held() -> None:
    limits = RemovalLimits(max_removals=0, max_removal_percent=0)

    made = plan(
        live_registry(*MANY, "new", owner="other"),
        inventory([*MANY, "new"]),
        published=published(*MANY),
        limits=limits,
    )

    assert (made.changes.added, made.changes.updated) == (("new",), MANY)
    assert not made.held


@pytest.mark.parametrize("live", [(), MANY])
def test_a_damaged_published_file_is_held_whatever_the_plan(live: tuple[str, ...]) -> None:
    made = plan_of(live, published=published(*MANY) + b"}{")

    (reason,) = made.reasons_held
    assert "damaged" in reason
    assert not made.unchanged


def test_a_target_that_is_not_ours_is_refused() -> None:
    with pytest.raises(TargetRefused):
        plan_of(MANY, published=b"kind: Component\nmetadata: {name: payments}\n")


def test_an_entity_that_backstage_would_refuse_is_never_planned() -> None:
    with pytest.raises(EntityInvalid):
        plan_of(MANY, identity=replace(IDENTITY, name="a/b"))


def test_the_plan_hash_is_one_for_one_plan_whenever_it_is_made() -> None:
    earlier = plan_of(("ab",), published=published("ab", "cd"))

    later = plan_of(
        ("ab",),
        published=published("ab", "cd"),
        source_sha=OTHER_SHA,
        now=NOW + timedelta(hours=1),
        reads_began_at=NOW + timedelta(hours=1),
        expected="another-version",
    )

    assert later.content != earlier.content
    assert later.plan_hash == earlier.plan_hash
    assert len(bytes.fromhex(earlier.plan_hash)) == 32


@pytest.mark.parametrize(
    "moved",
    [
        plan_of(("ab",), published=published("ab", "ef")),
        plan_of(("ab",), published=published("ab", "cd", owner="other")),
        plan_of(("ab",), published=None),
        plan_of(("ab",), published=published("ab", "cd") + b"}{"),
        plan_of(("cd",), published=published("ab", "cd")),
        plan_of((), published=published("ab", "cd")),
        plan_of(("ab",), published=published("ab", "cd"), identity=replace(IDENTITY, title="X")),
        plan(live_registry("ab", owner="x"), inventory(["ab"]), published=published("ab", "cd")),
    ],
    ids=[
        "other published",
        "published line",
        "first",
        "damaged",
        "other new",
        "nothing new",
        "other title",
        "new line",
    ],
)
def test_the_plan_hash_moves_when_either_side_moves(moved: Plan) -> None:
    assert moved.plan_hash != plan_of(("ab",), published=published("ab", "cd")).plan_hash


def test_the_plan_hash_is_the_contracts_over_three_lines() -> None:
    made = plan_of(("ab",), published=published("ab", "cd"))
    first = plan_of(("ab",))

    digests = made.published_digest, made.digest
    reported = f"{digests[0]}\n2026-01-09T23:03:13Z\n{digests[1]}"
    assert made.plan_hash == hashlib.sha256(reported.encode()).hexdigest()
    assert first.plan_hash == hashlib.sha256(f"\n\n{first.digest}".encode()).hexdigest()


def test_an_approval_is_spent_when_the_old_content_is_published_again() -> None:
    old, reverted = published("ab", "cd"), published("ab", "cd", at=NOW + timedelta(hours=1))

    approved = plan_of(("ab",), published=old)
    again = plan_of(("ab",), published=reverted)

    assert again.published_digest == approved.published_digest
    assert again.digest == approved.digest
    assert again.plan_hash != approved.plan_hash


def test_the_way_back_is_another_plan() -> None:
    there = plan_of(("ab",), published=published("cd"))
    back = plan_of(("cd",), published=published("ab"))

    assert there.plan_hash != back.plan_hash


@pytest.mark.parametrize("age", [-5, 0, 89.999, 90])
def test_a_plan_whose_reads_are_90_seconds_old_may_be_published(age: float) -> None:
    made = plan_of(MANY, reads_began_at=NOW)

    made.check_age(NOW + timedelta(seconds=age))


@pytest.mark.parametrize("ahead", [5.000001, 60, 86_400])
def test_a_plan_with_reads_ahead_of_the_clock_is_stale_because_the_clock_was_set_back(
    ahead: float,
) -> None:
    made = plan_of(MANY, reads_began_at=NOW)

    with pytest.raises(StalePlan, match="clock was set back") as caught:
        made.check_age(NOW - timedelta(seconds=ahead))

    assert caught.value.needs == "time"


@pytest.mark.parametrize("age", [90.000001, 139, 86_400])
def test_a_plan_with_older_reads_is_stale(age: float) -> None:
    made = plan_of(MANY, reads_began_at=NOW)

    with pytest.raises(StalePlan) as caught:
        made.check_age(NOW + timedelta(seconds=age))

    assert caught.value.needs == "time"


@pytest.mark.parametrize(
    ("published_names", "listed", "names"),
    [
        ([], [], []),
        ([], ["ab"], []),
        (["ab"], ["ab"], []),
        (["cd", "ab", "ef"], ["ef", "gh"], ["ab", "cd"]),
        (["dropped", "lingering", "retired", "ab"], ["lingering"], ["ab"]),
    ],
)
def test_names_that_are_published_governed_and_not_listed_need_proof(
    published_names: list[str], listed: list[str], names: list[str]
) -> None:
    entries = [entry(name) for name in ("ab", "cd")]
    entries += [entry("ef", status=Status.PENDING), entry("unpublished")]
    entries += [entry(each, status=Status.DECOMMISSIONED) for each in ("lingering", "retired")]
    registry = reconcile(catalog(entries), inventory(listed))

    assert names_to_prove(read_published(published(*published_names), IDENTITY), registry) == names
    assert names_to_prove(None, registry) == []


def test_the_summary_counts_states_and_changes() -> None:
    aws = inventory(["ab", "cd", "stray"])
    entries = [
        entry("ab", owner="other"),
        entry("cd"),
        entry("ghost"),
        entry("next", status=Status.PENDING),
    ]

    made = plan(reconcile(catalog(entries), aws), aws, published=published("ab", "old"))

    assert made.summary == "2 live (+1 ~1 -1), 1 pending, 1 ghosts, 1 orphans"
