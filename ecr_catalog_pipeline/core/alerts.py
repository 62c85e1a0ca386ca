"""Which alert goes out, and when: one when a condition begins, one when it ends, none in between.

One cause, one alert: knock-on conditions are suppressed while their cause lasts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final


class Signal(StrEnum):
    """What can be wrong with a mirror."""

    WATCH_FAILED = "watch-failed"
    SETTINGS_REFUSED = "settings-refused"
    RUN_HUNG = "run-hung"
    RUN_QUEUED = "run-queued"
    GOVERNANCE_REFUSED = "governance-refused"
    INVENTORY_FAILED = "inventory-failed"
    RUN_FAILED = "run-failed"
    PLAN_HELD = "plan-held"
    BACKSTAGE_UNREACHABLE = "backstage-unreachable"
    BACKSTAGE_DIFFERS = "backstage-differs"
    GOVERNANCE_FINDINGS = "governance-findings"
    CHECK_FAILED = "check-failed"
    PARITY_STALE = "parity-stale"


_NOTHING_VERIFIES: Final = frozenset({Signal.CHECK_FAILED, Signal.PARITY_STALE})
_STOPS_RUNS: Final = _NOTHING_VERIFIES | {Signal.RUN_FAILED, Signal.BACKSTAGE_DIFFERS}
FOLLOWS: Final[Mapping[Signal, frozenset[Signal]]] = {
    Signal.RUN_HUNG: _STOPS_RUNS | {Signal.RUN_QUEUED},
    Signal.RUN_QUEUED: frozenset({Signal.PARITY_STALE}),
    Signal.GOVERNANCE_REFUSED: _STOPS_RUNS,
    Signal.INVENTORY_FAILED: _STOPS_RUNS,
    Signal.RUN_FAILED: _STOPS_RUNS - {Signal.RUN_FAILED},
    # Parity goes on being verified against the last good entity: it is stale for another reason.
    Signal.PLAN_HELD: frozenset({Signal.CHECK_FAILED}),
    Signal.BACKSTAGE_UNREACHABLE: _NOTHING_VERIFIES | {Signal.BACKSTAGE_DIFFERS},
    Signal.BACKSTAGE_DIFFERS: _NOTHING_VERIFIES,
}
"""The signals that each signal suppresses while it lasts: knock-on failures.

Findings in governance and failed checks stop nothing, so nothing follows from them.
"""


_RUNBOOK: Final = "docs/operating.md#alerts"
_PAGES: Final[Mapping[Signal, str]] = {
    Signal.SETTINGS_REFUSED: "docs/configuring.md#the-mirror-file",
    Signal.RUN_HUNG: "docs/operating.md#a-run-that-hangs-or-is-lost",
    Signal.PLAN_HELD: "docs/operating.md#a-held-plan",
    Signal.GOVERNANCE_REFUSED: "docs/configuring.md#the-governance-file",
    Signal.GOVERNANCE_FINDINGS: "docs/configuring.md#the-governance-file",
    Signal.CHECK_FAILED: "docs/operating.md#checks",
}
STOPS_PUBLISHING: Final = (
    Signal.GOVERNANCE_REFUSED,
    Signal.INVENTORY_FAILED,
    Signal.RUN_FAILED,
    Signal.RUN_HUNG,
)
"""Signals of runs that ended before they checked what is published."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now: since when, why, and what to do."""

    signal: Signal
    since: datetime
    cause: str
    remediation: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Raised:
    """A condition that an alert has begun for, or is about to; `delivered` once it arrived."""

    condition: Condition
    delivered: bool = False
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """What is sent to people. The key is the same at the beginning and at the end."""

    mirror: str
    condition: Condition
    ended_at: datetime | None
    last_good: str

    @property
    def key(self) -> str:
        """The deduplication key."""
        return f"ecr-catalog/{self.mirror}/{self.condition.signal}"

    @property
    def title(self) -> str:
        """One line."""
        what = self.condition.signal.replace("-", " ")
        return f"[{self.mirror}] {'RECOVERED: ' if self.ended_at else ''}{what}"

    @property
    def help_page(self) -> str:
        """The page of this project's documentation, and its section, that helps."""
        return _PAGES.get(self.condition.signal, _RUNBOOK)

    @property
    def body(self) -> str:
        """Everything a person needs, a line each."""
        condition = self.condition
        lines = [f"Mirror: {self.mirror}", f"Since: {condition.since:%Y-%m-%d %H:%M:%S} UTC"]
        if self.ended_at:
            lines.append(f"Ended: {self.ended_at:%Y-%m-%d %H:%M:%S} UTC")
        lines.append(f"Cause: {condition.cause}")
        lines.append(f"Last good: {self.last_good}")
        if not self.ended_at:
            lines.append(f"What to do: {condition.remediation}")
        if condition.link:
            lines.append(f"Look: {condition.link}")
        if not self.ended_at:
            lines.append(f"Help: {self.help_page}")
        lines.append(f"Key: {self.key}")
        return "\n".join(lines)


def without_knock_on(conditions: Mapping[Signal, Condition]) -> dict[Signal, Condition]:
    """Leave out knock-on conditions."""
    silent = {follower for signal in conditions for follower in FOLLOWS.get(signal, ())}
    return {signal: each for signal, each in conditions.items() if signal not in silent}


def advance(
    raised: Mapping[Signal, Raised],
    conditions: Mapping[Signal, Condition],
    now: datetime,
    unseen: Collection[Signal] = (),
) -> dict[Signal, Raised]:
    """Bring the state of every signal up to date.

    A condition that was raised stays raised while it lasts, and while another one that it could
    follow from hides it. One that ended before its beginning was delivered is
    forgotten.

    Args:
        unseen: signals that could not be looked at now: they stay as they were.
    """
    state: dict[Signal, Raised] = {}
    begun = without_knock_on(conditions)
    hidden = {follower for signal in conditions for follower in FOLLOWS.get(signal, ())}
    for signal in Signal:
        before = raised.get(signal)
        if before is not None and signal in unseen and signal not in conditions:
            state[signal] = before
        elif before is not None and (signal in conditions or signal in hidden):
            state[signal] = replace(before, ended_at=None)
        elif signal in begun:
            state[signal] = Raised(begun[signal])
        elif before is not None and before.delivered:
            state[signal] = replace(before, ended_at=before.ended_at or now)
    return state


def due(state: Mapping[Signal, Raised]) -> list[Signal]:
    """The signals whose beginning or end has to be reported."""
    return [signal for signal, each in state.items() if each.ended_at or not each.delivered]


def delivered(state: Mapping[Signal, Raised], signal: Signal) -> dict[Signal, Raised]:
    """Note that what was due of a signal has arrived."""
    after = dict(state)
    if after[signal].ended_at:
        del after[signal]
    else:
        after[signal] = replace(after[signal], delivered=True)
    return after
