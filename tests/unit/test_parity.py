from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core.entity import CONTENT_DIGEST, content_digest
from ecr_catalog_pipeline.core.governance import Catalog, Status
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.parity import (
    HISTORY,
    MAX_OPEN,
    MAX_TIMES_AN_HOUR,
    RECENT,
    Baseline,
    Basis,
    Change,
    Evidence,
    ParityFigures,
    ParityState,
    Pause,
    Why,
    close_published,
    count_measured,
    entry_changes,
    figures_since,
    forget_pauses,
    judge,
    judge_plan,
    judge_published,
    mark_published,
    note_pause,
    percentile,
    record_changes,
    rounded_seconds,
)
from ecr_catalog_pipeline.core.plan import STATE, Difference
from ecr_catalog_pipeline.core.reconcile import reconcile
from tests.unit.builders import (
    NOW,
    catalog,
    entry,
    inventory,
    live_registry,
    plan,
    published,
    repository,
)

LOCATION: Final = "backstage.io/managed-by-location"
SOMEWHERE: Final = "url:https://git.example.com/catalog.yaml"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def everywhere(moment: datetime) -> dict[str, datetime]:
    """Every field of an entry, committed at one moment."""
    return dict.fromkeys((STATE, "owner", "risk", "environment", "status", "requested"), moment)


def served(content: bytes) -> dict[str, Any]:
    """A published file as Backstage gives it, with what Backstage adds."""
    entity: dict[str, Any] = yaml.safe_load(content)
    entity["metadata"]["uid"] = "0e5c-42"
    entity["metadata"]["etag"] = "9a"
    entity["metadata"]["annotations"][LOCATION] = SOMEWHERE
    entity["relations"] = [{"type": "ownedBy", "targetRef": "group:default/platform-team"}]
    return entity


def digest_of(content: bytes) -> str:
    return content_digest(yaml.safe_load(content))


# What Backstage serves


def test_what_backstage_adds_does_not_count() -> None:
    content = published("ab", "cd")

    verdict = judge(digest_of(content), served(content))

    assert verdict.parity
    assert verdict.reason == "Backstage serves what it should"
    assert verdict.served == verdict.expected == digest_of(content)


def test_an_absent_entity_is_not_in_parity() -> None:
    verdict = judge("sha256:12", None)

    assert not verdict.parity
    assert verdict.reason == "Backstage knows no such entity"
    assert verdict.served is None


def test_an_older_version_is_named_with_its_time() -> None:
    old = published("ab")

    verdict = judge(digest_of(published("ab", "cd")), served(old))

    assert not verdict.parity
    assert "an older version is served, of 2026-01-09T23:03:13Z" in verdict.reason
    assert SOMEWHERE in verdict.reason
    assert verdict.served == digest_of(old)


def test_the_digest_annotation_is_never_trusted() -> None:
    expected = published("ab", "cd")
    tampered = served(expected)
    tampered["spec"]["repositories"].pop()

    verdict = judge(digest_of(expected), tampered)

    assert tampered["metadata"]["annotations"][CONTENT_DIGEST] == digest_of(expected)
    assert not verdict.parity
    assert "tampered" in verdict.reason
    assert SOMEWHERE in verdict.reason


def test_an_older_version_that_was_tampered_with_counts_as_tampered() -> None:
    old = served(published("ab"))
    old["metadata"]["title"] = "Mine now"

    assert "tampered" in judge(digest_of(published("ab", "cd")), old).reason


@pytest.mark.parametrize("kind", ["another type", "no digest"])
def test_someone_elses_entity_under_our_name_is_named(kind: str) -> None:
    foreign = served(published("ab"))
    if kind == "another type":
        foreign["spec"]["type"] = "database"
    else:
        del foreign["metadata"]["annotations"][CONTENT_DIGEST]

    verdict = judge(digest_of(published("ab", "cd")), foreign)

    assert "someone else's entity" in verdict.reason
    assert SOMEWHERE in verdict.reason


def test_a_rejection_by_policy_is_reported_in_backstages_words() -> None:
    frozen = served(published("ab"))
    frozen["status"] = {
        "items": [
            {"level": "warning", "message": "never mind"},
            {
                "type": "backstage.io/catalog-processing",
                "level": "error",
                "message": "outer words",
                "error": {"name": "InputError", "message": "Policy check failed; keys differ"},
            },
        ]
    }

    reason = judge(digest_of(published("ab", "cd")), frozen).reason

    where = f"Backstage rejects what it reads from {SOMEWHERE}"
    assert reason == f"{where}: Policy check failed; keys differ"


def test_an_old_error_does_not_outweigh_the_right_content() -> None:
    right = served(published("ab"))
    right["status"] = {"items": [{"level": "error", "message": "a while ago"}]}

    assert judge(digest_of(published("ab")), right).parity


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    st.fixed_dictionaries({}, optional={"metadata": JSON, "spec": JSON, "status": JSON}),
    st.sampled_from(["", "annotations", "items"]),
    JSON,
)
@example({"metadata": "text"}, "", None)
@example({"status": {"items": ["text"]}}, "", None)
def test_nothing_that_a_broken_backstage_says_raises(
    answer: dict[str, Any], key: str, inner: Any
) -> None:
    for value in answer.values():
        if key and isinstance(value, dict):
            value[key] = inner

    assert not judge("sha256:12", answer).parity


def test_a_plan_says_why_backstage_still_serves_what_is_published() -> None:
    waiting = plan(live_registry("ab", "cd"), inventory(["ab", "cd"]), published=published("ab"))

    verdict = judge_plan(waiting, served(published("ab")))

    assert not verdict.parity
    assert "waits for the next run" in verdict.reason
    assert judge_published(waiting).reason == verdict.reason


def test_a_held_plan_is_the_reason() -> None:
    held = plan(live_registry(), inventory([]), published=published("ab", "cd"))

    assert held.held
    assert judge_plan(held, served(published("ab", "cd"))).reason.startswith("a plan is held: ")
    assert judge_published(held).reason.startswith("a plan is held: ")


def test_without_a_publication_there_is_nothing_to_compare_with() -> None:
    first = plan(live_registry("ab"), inventory(["ab"]))

    assert judge_published(first).reason == "nothing is published yet"
    assert judge_plan(first, None).reason != "Backstage serves what it should"


# When a change was asked for

LAST: Final = Baseline("0" * 40, governance_began_at=at(100), inventory_began_at=at(101))
ADDED: Final = Difference("ab", STATE, None, "live")
REMOVED: Final = Difference("ab", STATE, "live", None)
OWNED: Final = Difference("ab", "owner", "one", "two")


def asked(difference: Difference, **evidence: Any) -> tuple[datetime | None, Basis]:
    known = Evidence(**{"baseline": LAST, **evidence})
    (change,) = record_changes(ParityState(), [difference], known).open
    return change.asked_at, change.basis


def test_a_governance_change_is_asked_for_when_it_is_committed() -> None:
    assert asked(OWNED, committed={"ab": everywhere(at(130))}) == (at(130), Basis.COMMIT)


def test_a_late_push_is_asked_for_no_earlier_than_the_last_read_that_lacked_it() -> None:
    assert asked(OWNED, committed={"ab": everywhere(at(-9000))}) == (at(100), Basis.LAST_READ)


def test_a_governed_repository_is_asked_for_when_it_is_created() -> None:
    assert asked(ADDED, created={"ab": at(140)}) == (at(140), Basis.CREATED)


@pytest.mark.parametrize(("committed", "created"), [(130, 140), (140, 130)])
def test_a_new_repository_is_asked_for_by_the_later_of_commit_and_creation(
    committed: int, created: int
) -> None:
    asked_at, basis = asked(
        ADDED, committed={"ab": everywhere(at(committed))}, created={"ab": at(created)}
    )

    assert asked_at == at(140)
    assert basis is (Basis.COMMIT if committed == 140 else Basis.CREATED)


def test_a_repository_that_stood_there_unlisted_counts_from_the_last_read_that_lacked_it() -> None:
    # Neither source says when: the earlier of both reads is never too late.
    assert asked(ADDED, created={"ab": at(50)}) == (at(100), Basis.LAST_READ)


def test_governing_an_old_repository_counts_from_the_commit() -> None:
    found = asked(ADDED, committed={"ab": everywhere(at(130))}, created={"ab": at(-9000)})

    assert found == (at(130), Basis.COMMIT)


def test_a_deletion_counts_from_the_last_listing_that_still_held_it() -> None:
    assert asked(REMOVED) == (at(101), Basis.LAST_LISTING)
    assert asked(REMOVED, still_held_at=at(150)) == (at(150), Basis.LAST_LISTING)
    assert asked(REMOVED, still_held_at=at(50)) == (at(101), Basis.LAST_LISTING)
    assert "upper bound" in Basis.LAST_LISTING.value


def test_a_removal_by_governance_counts_from_its_commit() -> None:
    still_in_ecr = {"ab": at(-9000)}
    found = asked(REMOVED, committed={"ab": everywhere(at(130))}, created=still_in_ecr)

    assert found == (at(130), Basis.COMMIT)


def test_what_governance_dropped_and_aws_lost_counts_from_the_earlier_of_both() -> None:
    dropped = {"ab": everywhere(at(130))}

    assert asked(REMOVED, committed=dropped) == (at(101), Basis.LAST_LISTING)
    assert asked(REMOVED, committed=dropped, still_held_at=at(150)) == (at(130), Basis.COMMIT)


@pytest.mark.parametrize("difference", [ADDED, REMOVED, OWNED])
def test_without_a_baseline_nothing_is_known(difference: Difference) -> None:
    found = asked(
        difference, baseline=None, committed={"ab": everywhere(at(1))}, created={"ab": at(1)}
    )

    assert found == (None, Basis.UNKNOWN)


def test_a_change_of_unknown_history_counts_from_the_read_of_governance_that_lacked_it() -> None:
    """A rewritten branch has no history to find the commit in."""
    asked_at, basis = asked(OWNED)

    assert basis is Basis.LAST_READ
    assert asked_at == LAST.governance_began_at


# From run to run

EVIDENCE: Final = Evidence(LAST, committed={"ab": everywhere(at(130))})


def recorded(*differences: Difference, evidence: Evidence = EVIDENCE) -> ParityState:
    return record_changes(ParityState(), differences, evidence)


def test_a_change_is_open_until_it_is_published_and_seen() -> None:
    state = recorded(OWNED)
    state, closed = close_published(state, at(135))
    assert (len(state.open), closed) == (1, ())

    state = mark_published(state, at(140))
    state, closed = close_published(state, at(145))

    (change,) = closed
    assert change.published_at == at(140)
    assert change.visible_at == state.verified_at == at(145)
    assert change.seconds == 15
    assert state.open == ()
    assert state.recent == (change,)


def test_a_held_change_keeps_its_time_over_runs() -> None:
    state = recorded(OWNED)

    for tick in range(3):
        later = Evidence(replace(LAST, governance_began_at=at(200 + tick)))
        state = record_changes(state, [OWNED], later)

    (change,) = state.open
    assert (change.asked_at, change.basis) == (at(130), Basis.COMMIT)
    assert state.superseded == 0


def test_a_change_that_is_overtaken_before_it_is_published_counts_as_superseded() -> None:
    overtaken = Difference("ab", "owner", "one", "three")

    state = record_changes(
        recorded(OWNED), [overtaken], Evidence(LAST, {"ab": everywhere(at(160))})
    )

    (change,) = state.open
    assert (change.new, change.asked_at) == ("three", at(160))
    assert state.superseded == 1


def test_a_change_that_is_taken_back_before_it_is_published_counts_as_superseded() -> None:
    state = record_changes(recorded(OWNED), [], EVIDENCE)

    assert state.open == ()
    assert state.superseded == 1


def test_a_published_change_that_is_not_visible_yet_stays_open() -> None:
    state = mark_published(recorded(OWNED), at(140))

    state = record_changes(state, [], EVIDENCE)
    state = mark_published(state, at(999))

    (change,) = state.open
    assert change.published_at == at(140)
    assert state.superseded == 0


def test_a_published_change_that_is_overtaken_before_it_is_seen_counts_as_superseded() -> None:
    state = mark_published(recorded(OWNED), at(140))

    state = record_changes(state, [Difference("ab", "owner", "two", "one")], EVIDENCE)

    (change,) = state.open
    assert (change.new, change.published_at) == ("one", None)
    assert state.superseded == 1


def test_there_is_one_change_for_each_repository_and_field() -> None:
    risk = Difference("ab", "risk", "low", "high")
    other = Difference("cd", "owner", "one", "two")

    state = record_changes(recorded(OWNED, risk, other), [OWNED, risk, other], EVIDENCE)

    assert [change.key for change in state.open] == [
        ("ab", "owner"),
        ("ab", "risk"),
        ("cd", "owner"),
    ]


def test_a_change_of_unknown_time_is_closed_unmeasured() -> None:
    state = mark_published(recorded(OWNED, evidence=Evidence(None)), at(140))

    _, (change,) = close_published(state, at(145))

    assert change.seconds is None
    assert change.basis is Basis.UNKNOWN


def test_verifying_without_changes_is_noted() -> None:
    state, closed = close_published(ParityState(), at(5))

    assert closed == ()
    assert state.verified_at == at(5)


def test_recent_changes_are_the_last_ones_newest_first() -> None:
    state = ParityState()
    for number in range(RECENT + 5):
        difference = Difference(f"repo-{number:02}", STATE, None, "live")
        state = mark_published(record_changes(state, [difference], EVIDENCE), at(200 + number))
        state, _ = close_published(state, at(201 + number))

    assert len(state.recent) == RECENT
    assert state.recent[0].repository == f"repo-{RECENT + 4:02}"
    assert state.recent[-1].repository == "repo-05"


def test_the_state_does_not_grow_without_bound() -> None:
    many = [Difference(f"repo-{number}", STATE, None, "live") for number in range(MAX_OPEN + 9)]

    assert len(recorded(*many).open) == MAX_OPEN


def test_a_clock_that_runs_ahead_makes_no_negative_time() -> None:
    change = Change("ab", "owner", "1", "2", at(50), Basis.COMMIT, at(10), visible_at=at(20))

    assert change.seconds == 0


# When an entry got its present form


def governed(**owners: str) -> Catalog:
    return catalog(entry(name, owner=owner) for name, owner in owners.items())


def test_each_entry_counts_from_the_last_commit_that_changed_it() -> None:
    history = [
        (at(0), governed(ab="one", cd="one", gone="one")),
        (at(10), governed(ab="two", cd="one", gone="one")),
        (at(20), governed(ab="two", cd="two", gone="one", new="one")),
        (at(30), governed(ab="three", cd="two", new="one")),
    ]

    assert entry_changes(history) == {
        "ab": {"owner": at(30)},
        "cd": {"owner": at(20)},
        "gone": dict.fromkeys((STATE, "owner", "risk", "status"), at(30)),
        "new": dict.fromkeys((STATE, "owner", "risk", "status"), at(20)),
    }


def test_an_entry_that_never_differed_is_not_named() -> None:
    history = [(at(0), governed(ab="one")), (at(10), governed(ab="one"))]

    assert entry_changes(history) == {}
    assert entry_changes(history[:1]) == {}
    assert entry_changes([]) == {}


def test_an_entry_that_went_back_and_forth_and_on_counts_from_the_last_time() -> None:
    owners = ["one", "two", "one", "two"]

    history = [(at(10 * place), governed(ab=owner)) for place, owner in enumerate(owners)]

    assert entry_changes(history) == {"ab": {"owner": at(30)}}


# Percentiles


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 15), (5, 15), (30, 20), (40, 20), (50, 35), (95, 50), (100, 50)]
)
def test_a_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([50, 15, 40, 20, 35], percent) == expected


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 95) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_covers_its_share(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent)

    assert found in values
    share = math.ceil(len(values) * percent / 100)
    assert sum(value <= found for value in values) >= share
    assert sum(value < found for value in values) < share


# Against an independent clock: a world in which every moment is known

NAMES: Final = ("ab", "cd")


@dataclass(frozen=True)
class Event:
    """Something that happens to one repository; a commit is pushed late by `delay`."""

    name: str
    what: str
    value: str
    delay: int = 0


@dataclass
class World:
    """Governance and ECR at every second, and the moment of every change of what they call for."""

    commits: list[tuple[datetime, datetime, Catalog]] = field(default_factory=list)
    present: list[tuple[datetime, Mapping[str, datetime]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commits.append((at(-1), at(-1), governed(ab="one")))
        self.present.append((at(-1), {"ab": at(-500)}))

    def happen(self, event: Event, now: datetime) -> None:
        _, _, before = self.commits[-1]
        entries = {each.name: each for each in before.entries}
        there = dict(self.present[-1][1])
        if event.what == "create" and event.name not in there:
            self.present.append((now, {**there, event.name: now}))
        elif event.what == "delete" and event.name in there:
            del there[event.name]
            self.present.append((now, there))
        elif event.what in {"owner", "risk", "status"}:
            old = entries.get(event.name) or entry(event.name)
            changed: dict[str, Any] = {event.what: event.value}
            if event.what == "status":
                changed = {"status": Status(event.value)}
            new = replace(old, **changed)
            if entries.get(event.name) != new:
                entries[event.name] = new
                committed = now - timedelta(seconds=event.delay)
                self.commits.append((now, committed, catalog(entries.values())))

    def tip(self, now: datetime) -> int:
        return bisect_right([pushed for pushed, _, _ in self.commits], now) - 1

    def inventory(self, now: datetime) -> Inventory:
        place = bisect_right([moment for moment, _ in self.present], now) - 1
        there = self.present[place][1]
        return replace(
            inventory(there),
            repositories=tuple(repository(n, created_at=there[n]) for n in sorted(there)),
        )

    def called_for(self, name: str, key: str, now: datetime) -> str | None:
        """What the entity should say at that moment."""
        registry = reconcile(self.commits[self.tip(now)][2], self.inventory(now))
        found = next((each for each in registry.repositories if each.name == name), None)
        state = found.state.value if found is not None else None
        if found is None or state not in {"live", "pending"}:
            return None
        if key == STATE:
            return state
        value = getattr(found, key)
        return None if value is None else str(value)

    def moment_of(self, change: Difference, seen: datetime) -> datetime:
        """When that which the change brings about began to be called for, to last till `seen`."""
        moments = {pushed for pushed, _, _ in self.commits} | {since for since, _ in self.present}
        held = sorted(moment for moment in moments if moment <= seen)
        for moment in reversed(held):
            before = moment - timedelta(microseconds=1)
            if self.called_for(change.repository, change.field, before) != change.new:
                return moment
        return held[0]


EVENTS: Final = st.builds(
    lambda name, what, delay: Event(name, what[0], what[1], delay),
    st.sampled_from(NAMES),
    st.sampled_from(
        [
            *(("create", ""), ("delete", ""), ("owner", "one"), ("owner", "two")),
            *(("risk", "low"), ("risk", "high"), ("status", "pending"), ("status", "active")),
            ("status", "decommissioned"),
        ]
    ),
    st.sampled_from([0, 0, 3, 400]),
)


def check_against_the_clock(
    rounds: Sequence[tuple[int, Sequence[Event]]], *, looks_between: bool
) -> None:
    """Let events happen between reads, and compare each `asked_at` with the true moment."""
    world, state, baseline, content = World(), ParityState(), None, None
    now, seen_commit = at(0), 0
    for gap, events in rounds:
        began = now
        step = timedelta(seconds=gap / (len(events) + 2))
        still_held_at: datetime | None = None
        for event in events:
            now += step
            if looks_between and still_held_at is None:
                still_held_at = now - step / 2
            world.happen(event, now)
        now += step
        # The two reads start a moment apart; what they see is of their start.
        governance_at, inventory_at = now, now + timedelta(seconds=0.2)
        tip = world.tip(governance_at)
        aws = world.inventory(inventory_at)
        made = plan(reconcile(world.commits[tip][2], aws), aws, published=content, now=inventory_at)
        evidence = Evidence(
            baseline=baseline,
            committed=entry_changes(
                [(committed, each) for _, committed, each in world.commits[seen_commit : tip + 1]]
            ),
            created={each.name: each.created_at for each in aws.repositories if each.created_at},
            still_held_at=still_held_at if baseline else None,
        )
        state = record_changes(state, made.differences, evidence)
        visible_at = now + timedelta(seconds=2)
        state, closed = close_published(mark_published(state, now), visible_at)
        assert len(closed) == len(made.differences)
        for difference, change in zip(made.differences, closed, strict=True):
            if baseline is None:
                assert change.seconds is None
                continue
            truth = world.moment_of(difference, now)
            true_seconds = (visible_at - truth).total_seconds()
            assert change.seconds is not None
            assert change.seconds >= true_seconds, (change, truth)
            poll = (now - began).total_seconds() + 1
            assert change.seconds <= true_seconds + poll, (change, truth)
        baseline = Baseline(str(tip), governance_at, inventory_at)
        content, seen_commit = made.content, tip
        now += timedelta(seconds=1)


@given(
    st.lists(
        st.tuples(
            st.integers(20, 120), st.lists(EVENTS, max_size=2, unique_by=lambda each: each.name)
        ),
        min_size=2,
        max_size=6,
    ),
    st.booleans(),
)
def test_one_change_between_two_reads_is_never_measured_under_the_truth_nor_a_poll_over_it(
    rounds: list[tuple[int, list[Event]]], looks_between: bool
) -> None:
    check_against_the_clock(rounds, looks_between=looks_between)


@given(
    st.lists(st.tuples(st.integers(20, 120), st.lists(EVENTS, max_size=4)), min_size=2, max_size=4)
)
@example([(20, []), (60, [Event("ab", "owner", "two"), Event("ab", "risk", "high")])])
@example([(20, []), (60, [Event("ab", "delete", ""), Event("ab", "status", "decommissioned")])])
def test_several_changes_between_two_reads_are_never_measured_under_the_truth(
    rounds: list[tuple[int, list[Event]]],
) -> None:
    check_against_the_clock(rounds, looks_between=False)


def test_two_fields_of_one_entry_changed_by_two_commits_have_a_time_each() -> None:
    """The smallest case of the one above, without a simulation."""
    world = World()
    world.happen(Event("ab", "owner", "two"), at(110))
    world.happen(Event("ab", "risk", "high"), at(150))
    history = [(committed, each) for _, committed, each in deepcopy(world.commits)]

    changes = record_changes(
        ParityState(),
        [OWNED, Difference("ab", "risk", "low", "high")],
        Evidence(LAST, committed=entry_changes(history)),
    ).open

    assert {each.field: each.asked_at for each in changes} == {"owner": at(110), "risk": at(150)}


# What does not count against the SLO


def paused(why: Why, *spans: tuple[float, float]) -> ParityState:
    state = mark_published(recorded(OWNED), at(400))
    for began, ended in spans:
        state = note_pause(state, why, at(began), lasts=True)
        state = note_pause(state, why, at(ended), lasts=False)
    return state


def test_time_for_which_a_plan_was_held_does_not_count_and_is_named() -> None:
    state = paused(Why.HELD, (150, 360))

    _, (change,) = close_published(state, at(410))

    assert change.seconds == 280  # from 130 on: the measured time stays what it was
    assert change.held_seconds == 210
    assert change.seconds_for_slo == 70
    assert change.excused == "held 210 s"


def test_time_before_a_change_was_asked_for_and_after_it_was_seen_excuses_nothing() -> None:
    state = paused(Why.HELD, (10, 50), (500, 600))

    _, (change,) = close_published(state, at(410))

    assert (change.held_seconds, change.excused) == (0, "")


def test_time_that_was_both_held_and_down_counts_once() -> None:
    state = paused(Why.HELD, (150, 250))
    state = note_pause(state, Why.DOWN, at(200), lasts=True)
    state = note_pause(state, Why.DOWN, at(300), lasts=False)

    _, (change,) = close_published(state, at(410))

    assert (change.held_seconds, change.down_seconds) == (100, 50)
    assert change.excused == "held 100 s, down 50 s"


def test_a_pause_lasts_over_runs_until_it_is_over() -> None:
    state = recorded(OWNED)
    for seconds in (150, 270, 390):
        state = note_pause(state, Why.HELD, at(seconds), lasts=True)

    state = note_pause(state, Why.HELD, at(400), lasts=False)

    assert state.pauses == (Pause(Why.HELD, at(150), at(400)),)
    assert forget_pauses(state).pauses, "the change is still open"
    closed, _ = close_published(mark_published(state, at(405)), at(410))
    assert forget_pauses(closed).pauses == ()


def test_a_held_change_is_late_in_the_history_only_by_what_counts() -> None:
    _, closed = close_published(paused(Why.HELD, (150, 360)), at(410))

    state = count_measured(ParityState(), closed, SLO, at(410))

    assert [(hour.late, dict(hour.seconds)) for hour in state.hours] == [(0, {280: 1})]


# The history of measured times

SLO: Final = 180


def measured(seconds: float | None, visible_at: datetime = NOW) -> Change:
    """A closed change that took so long; None when that could not be measured."""
    asked_at = None if seconds is None else visible_at - timedelta(seconds=seconds)
    return Change("ab", "owner", "one", "two", asked_at, Basis.COMMIT, visible_at, visible_at)


def counted(*changes: Change, now: datetime = NOW) -> ParityState:
    return count_measured(ParityState(), changes, SLO, now)


def since(state: ParityState, past: timedelta, now: datetime = NOW) -> ParityFigures:
    return figures_since(state.hours, now - past)


@pytest.mark.parametrize(
    ("seconds", "rounded"),
    [(0, 0), (0.1, 1), (8, 8), (8.4, 9), (59, 59), (59.5, 60), (60.1, 65), (180, 180), (181, 185)],
)
def test_a_time_to_parity_is_rounded_up(seconds: float, rounded: int) -> None:
    assert rounded_seconds(seconds) == rounded


def test_figures_are_those_of_the_measured_times() -> None:
    state = counted(*(measured(seconds) for seconds in range(1, 101)))

    figures = since(state, HISTORY)
    assert (figures.changes, figures.late) == (100, 0)
    assert (figures.p50, figures.p95, figures.max) == (50, 95, 100)
    assert state.measured == sum(figures.seconds.values()) == 100


def test_late_is_what_took_longer_than_the_slo_to_the_fraction_of_a_second() -> None:
    figures = since(counted(measured(SLO), measured(SLO + 0.5), measured(400)), HISTORY)

    assert (figures.changes, figures.late, figures.max) == (3, 2, 400)


def test_what_could_not_be_measured_does_not_count() -> None:
    assert counted(measured(None)) == ParityState()
    assert since(ParityState(), HISTORY) == ParityFigures()


def test_times_leave_the_day_and_then_the_week_by_whole_hours() -> None:
    state = counted(measured(8, NOW))
    day, hour = timedelta(days=1), timedelta(hours=1)

    assert since(state, day, NOW + day).changes == 1
    assert since(state, day, NOW + day + hour).changes == 0
    assert since(state, HISTORY, NOW + day + hour).changes == 1
    assert count_measured(state, [], SLO, NOW + HISTORY).hours == state.hours
    forgotten = count_measured(state, [], SLO, NOW + HISTORY + hour)
    assert (forgotten.hours, forgotten.measured) == ((), 1)


def test_the_history_stays_small_over_a_week_of_many_different_times() -> None:
    state = ParityState()
    hours = int(HISTORY / timedelta(hours=1))
    for hour in range(hours + 20):
        now = NOW + timedelta(hours=hour)
        closed = [measured(0.5 + 37 * each, now) for each in range(300)]
        state = count_measured(state, closed, SLO, now)

    assert hours <= len(state.hours) <= hours + 1
    assert all(len(hour.seconds) <= MAX_TIMES_AN_HOUR for hour in state.hours)
    assert state.measured == 300 * (hours + 20)
    written = TypeAdapter(ParityState).dump_json(state)
    assert len(written) < 150_000


def test_coarser_times_are_never_shorter() -> None:
    exact = [0.5 + 37 * each for each in range(300)]

    figures = since(counted(*map(measured, exact)), HISTORY)

    assert figures.changes == 300
    assert max(exact) <= (figures.max or 0) < max(exact) + 600
    assert sorted(exact)[149] <= (figures.p50 or 0) < sorted(exact)[149] + 600


def test_a_usual_week_takes_few_bytes() -> None:
    state = ParityState()
    for hour in range(168):
        now = NOW + timedelta(hours=hour)
        state = count_measured(state, [measured(8), measured(16)] * 5, SLO, now)
        state = count_measured(state, [measured(each, now) for each in (8, 9, 16)], SLO, now)

    assert len(TypeAdapter(ParityState).dump_json(state)) < 15_000


def test_the_state_survives_the_event_log() -> None:
    state = counted(measured(8.2), measured(200), measured(8.9, at(-7200)))
    kind = TypeAdapter(ParityState)

    assert kind.validate_python(kind.dump_python(state, mode="json")) == state


def test_a_state_without_a_history_is_read() -> None:
    """As it was written before there was one."""
    kind = TypeAdapter(ParityState)
    old = kind.dump_python(recorded(OWNED), mode="json")
    del old["hours"], old["measured"]

    assert kind.validate_python(old) == recorded(OWNED)


@given(
    st.lists(
        st.tuples(st.integers(0, 700_000_000), st.integers(0, 300 * 3600)), min_size=1, max_size=40
    )
)
def test_the_history_agrees_with_the_times_themselves(times: list[tuple[int, int]]) -> None:
    ordered = sorted((later, milliseconds / 1000) for milliseconds, later in times)
    state = ParityState()
    for later, seconds in ordered:
        state = count_measured(state, [measured(seconds, at(later))], SLO, at(later))
    now = at(ordered[-1][0])

    first_hour = (now - HISTORY).replace(minute=0, second=0, microsecond=0)
    expected = [seconds for later, seconds in ordered if at(later) >= first_hour]
    figures = since(state, HISTORY, now)
    assert (figures.changes, state.measured) == (len(expected), len(times))
    assert figures.late == sum(each > SLO for each in expected)
    assert figures.seconds == Counter(map(rounded_seconds, expected))
    assert figures.p95 == percentile(list(map(rounded_seconds, expected)), 95)
