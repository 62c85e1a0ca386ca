from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.alerts import (
    FOLLOWS,
    Alert,
    Condition,
    Raised,
    Signal,
    advance,
    delivered,
    due,
    without_knock_on,
)
from tests.unit.builders import NOW

SLACK_FIRST: Final = "Put a valid token into BACKSTAGE_TOKEN."
CAUSES: Final = tuple(signal for signal in Signal if FOLLOWS.get(signal))


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def condition(signal: Signal, *, since: datetime = NOW, cause: str = "it broke") -> Condition:
    return Condition(signal, since, cause, SLACK_FIRST, "http://127.0.0.1:3000/runs/1")


def wrong(*signals: Signal) -> dict[Signal, Condition]:
    return {signal: condition(signal) for signal in signals}


@dataclass
class Watch:
    """Looks again and again, and notes which alerts arrived: True for a beginning."""

    state: Mapping[Signal, Raised] = field(default_factory=dict)
    arrived: dict[Signal, list[bool]] = field(default_factory=lambda: defaultdict(list))
    looks: int = 0

    def look(
        self, *signals: Signal, receiver_is_up: bool = True, unseen: Collection[Signal] = ()
    ) -> list[tuple[Signal, bool]]:
        """Give what arrived."""
        self.looks += 1
        self.state = advance(self.state, wrong(*signals), at(self.looks), unseen)
        sent = [(signal, self.state[signal].ended_at is None) for signal in due(self.state)]
        if not receiver_is_up:
            return []
        for signal, begins in sent:
            self.state = delivered(self.state, signal)
            self.arrived[signal].append(begins)
        return sent


@pytest.mark.parametrize("signal", Signal)
def test_one_alert_at_the_beginning_one_at_the_end_and_none_in_between(signal: Signal) -> None:
    watch = Watch()

    assert watch.look() == []
    assert watch.look(signal) == [(signal, True)]
    assert [watch.look(signal) for _ in range(5)] == [[]] * 5
    assert watch.look() == [(signal, False)]
    assert [watch.look() for _ in range(3)] == [[]] * 3
    assert watch.state == {}


def test_an_alert_that_did_not_arrive_is_due_until_it_does() -> None:
    watch = Watch()

    for _ in range(3):
        assert watch.look(Signal.PLAN_HELD, receiver_is_up=False) == []
        assert due(watch.state) == [Signal.PLAN_HELD]

    assert watch.look(Signal.PLAN_HELD) == [(Signal.PLAN_HELD, True)]
    assert watch.look(Signal.PLAN_HELD) == []


def test_a_recovery_that_did_not_arrive_is_due_until_it_does_and_keeps_its_time() -> None:
    watch = Watch()
    watch.look(Signal.PLAN_HELD)

    for _ in range(3):
        watch.look(receiver_is_up=False)

    assert watch.state[Signal.PLAN_HELD].ended_at == at(2)
    assert watch.look() == [(Signal.PLAN_HELD, False)]
    assert watch.look() == []


def test_what_ended_before_anybody_heard_of_it_is_not_reported() -> None:
    watch = Watch()

    watch.look(Signal.RUN_FAILED, receiver_is_up=False)

    assert watch.look() == []
    assert watch.state == {}


def test_what_comes_back_before_its_end_was_heard_needs_no_alert() -> None:
    watch = Watch()
    watch.look(Signal.BACKSTAGE_UNREACHABLE)
    watch.look(receiver_is_up=False)

    assert watch.look(Signal.BACKSTAGE_UNREACHABLE) == []
    assert watch.look() == [(Signal.BACKSTAGE_UNREACHABLE, False)]


def test_what_flaps_is_reported_each_time() -> None:
    watch = Watch()

    for _ in range(3):
        watch.look(Signal.RUN_FAILED)
        watch.look()

    assert watch.arrived[Signal.RUN_FAILED] == [True, False] * 3


@pytest.mark.parametrize("cause", CAUSES)
def test_what_follows_from_a_cause_says_nothing(cause: Signal) -> None:
    watch = Watch()

    assert watch.look(cause, *FOLLOWS[cause]) == [(cause, True)]
    assert watch.look(cause, *FOLLOWS[cause]) == []


@pytest.mark.parametrize("cause", CAUSES)
def test_what_follows_speaks_when_it_outlasts_its_cause(cause: Signal) -> None:
    (follower, *_) = sorted(FOLLOWS[cause])
    watch = Watch()
    watch.look(cause, follower)

    assert sorted(watch.look(follower)) == sorted([(cause, False), (follower, True)])


def test_two_causes_are_two_alerts() -> None:
    found = without_knock_on(wrong(Signal.BACKSTAGE_UNREACHABLE, Signal.INVENTORY_FAILED))

    assert set(found) == {Signal.BACKSTAGE_UNREACHABLE, Signal.INVENTORY_FAILED}


def test_a_broken_governance_file_beside_an_unreachable_backstage_alerts_of_both() -> None:
    both = wrong(
        Signal.GOVERNANCE_REFUSED,
        Signal.BACKSTAGE_UNREACHABLE,
        Signal.PARITY_STALE,
        Signal.CHECK_FAILED,
    )

    assert set(without_knock_on(both)) == {Signal.GOVERNANCE_REFUSED, Signal.BACKSTAGE_UNREACHABLE}


def test_no_signal_follows_from_itself_in_a_circle() -> None:
    def reach(signal: Signal, seen: Collection[Signal]) -> bool:
        following = FOLLOWS.get(signal, frozenset())
        return bool(following & set(seen)) or any(reach(n, [*seen, n]) for n in following)

    assert not [signal for signal in Signal if reach(signal, [signal])]


@pytest.mark.parametrize("cause", CAUSES)
def test_what_was_raised_first_is_reported_once_when_its_cause_joins_it(cause: Signal) -> None:
    (follower, *_) = sorted(FOLLOWS[cause])
    watch = Watch()

    assert watch.look(follower) == [(follower, True)]
    assert watch.look(follower, cause) == [(cause, True)]
    assert watch.look(follower) == [(cause, False)]
    assert watch.look() == [(follower, False)]


@pytest.mark.parametrize(
    ("first", "worse"),
    [
        (Signal.BACKSTAGE_DIFFERS, Signal.BACKSTAGE_UNREACHABLE),
        (Signal.CHECK_FAILED, Signal.INVENTORY_FAILED),
        (Signal.RUN_FAILED, Signal.RUN_HUNG),
    ],
)
def test_what_can_no_longer_be_seen_has_not_recovered(first: Signal, worse: Signal) -> None:
    """A Backstage that is down cannot be seen to differ; that is no recovery."""
    watch = Watch()
    watch.look(first)

    assert watch.look(worse) == [(worse, True)]
    assert watch.look(first) == [(worse, False)]
    assert watch.look() == [(first, False)]


@pytest.mark.parametrize("signal", Signal)
def test_what_was_not_looked_at_neither_begins_nor_ends(signal: Signal) -> None:
    watch = Watch()
    watch.look(signal)

    assert watch.look(unseen=[signal]) == []
    assert watch.look(signal, unseen=[signal]) == []
    assert watch.look() == [(signal, False)]
    assert watch.look(unseen=[signal]) == []


@pytest.mark.parametrize("signal", [Signal.GOVERNANCE_FINDINGS, Signal.CHECK_FAILED])
def test_a_lasting_finding_or_failed_check_mutes_no_other_cause(signal: Signal) -> None:
    watch = Watch()
    watch.look(signal)

    for other in set(Signal) - {signal}:
        assert (other, True) in Watch(dict(watch.state)).look(signal, other)


def test_a_held_plan_mutes_no_stale_parity_and_a_failed_run_mutes_no_held_plan() -> None:
    assert set(without_knock_on(wrong(Signal.PLAN_HELD, Signal.PARITY_STALE))) == {
        Signal.PLAN_HELD,
        Signal.PARITY_STALE,
    }
    for cause in (Signal.RUN_FAILED, Signal.RUN_HUNG, Signal.INVENTORY_FAILED):
        assert set(without_knock_on(wrong(cause, Signal.PLAN_HELD))) == {cause, Signal.PLAN_HELD}


def test_an_alert_begins_with_the_words_of_its_beginning() -> None:
    watch = Watch()
    watch.look(Signal.RUN_FAILED)
    before = watch.state[Signal.RUN_FAILED].condition

    later = {Signal.RUN_FAILED: condition(Signal.RUN_FAILED, since=at(50), cause="other")}

    assert advance(watch.state, later, at(60))[Signal.RUN_FAILED].condition == before


@pytest.mark.parametrize("ended_at", [None, at(60)])
def test_the_key_is_the_same_at_the_beginning_and_at_the_end(ended_at: datetime | None) -> None:
    alert = Alert("goldenpath", condition(Signal.PLAN_HELD), ended_at, "none")

    assert alert.key == "ecr-catalog/goldenpath/plan-held"
    assert alert.key in alert.body


def test_keys_differ_by_mirror_and_by_signal() -> None:
    keys = {
        Alert(mirror, condition(signal), None, "none").key
        for mirror in ("one", "two")
        for signal in Signal
    }

    assert len(keys) == 2 * len(Signal)


def test_an_alert_says_what_a_person_needs() -> None:
    alert = Alert("goldenpath", condition(Signal.BACKSTAGE_UNREACHABLE), None, "parity verified X")

    assert alert.title == "[goldenpath] backstage unreachable"
    assert alert.body.split("\n") == [
        "Mirror: goldenpath",
        "Since: 2026-01-09 23:03:13 UTC",
        "Cause: it broke",
        "Last good: parity verified X",
        f"What to do: {SLACK_FIRST}",
        "Look: http://127.0.0.1:3000/runs/1",
        "Help: docs/operating.md#alerts",
        "Key: ecr-catalog/goldenpath/backstage-unreachable",
    ]


def test_a_recovery_says_since_when_and_until_when() -> None:
    alert = Alert("goldenpath", condition(Signal.RUN_HUNG), at(60), "none")

    assert alert.title == "[goldenpath] RECOVERED: run hung"
    assert "Since: 2026-01-09 23:03:13 UTC" in alert.body
    assert "Ended: 2026-01-09 23:04:13 UTC" in alert.body
    assert "What to do" not in alert.body
    assert "Help: " not in alert.body


LOOKS: Final = st.lists(st.sets(st.sampled_from(Signal)), max_size=12)


@given(LOOKS)
def test_alerts_of_a_signal_alternate_between_beginning_and_end(looks: list[set[Signal]]) -> None:
    watch = Watch()

    for signals in looks:
        watch.look(*signals)

    for begins in watch.arrived.values():
        assert begins == [place % 2 == 0 for place in range(len(begins))]


@given(LOOKS)
def test_as_soon_as_all_is_well_every_beginning_has_had_its_end(looks: list[set[Signal]]) -> None:
    watch = Watch()
    for signals in looks:
        watch.look(*signals)

    watch.look()

    assert watch.state == {}
    assert all(begins.count(True) == begins.count(False) for begins in watch.arrived.values())


@given(LOOKS)
def test_while_anything_is_wrong_somebody_was_alerted_of_something(
    looks: list[set[Signal]],
) -> None:
    watch = Watch()
    for signals in looks:
        watch.look(*signals)
        told_of = [signal for signal, each in watch.state.items() if each.delivered]
        assert not signals or set(told_of) & signals


@given(st.lists(st.tuples(st.sets(st.sampled_from(Signal)), st.booleans()), max_size=12))
def test_an_unreliable_receiver_misses_nothing_that_lasts(
    looks: list[tuple[set[Signal], bool]],
) -> None:
    watch = Watch()
    for signals, is_up in looks:
        watch.look(*signals, receiver_is_up=is_up)
    last = looks[-1][0] if looks else set()

    watch.look(*last)

    assert due(watch.state) == []
    for signal in without_knock_on(wrong(*last)):
        assert watch.arrived[signal][-1] is True
    for begins in watch.arrived.values():
        assert begins == [place % 2 == 0 for place in range(len(begins))]
