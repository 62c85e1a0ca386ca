"""What the soak holds the system against: a model of its own, which imports nothing of ours.

Pure: what the soak did and saw comes in with its times (seconds since the epoch), counts and
evidence come out. A change has a beginning and an end, since nobody knows at which moment between
them it took effect: a removal is wrong only if no moment allows it, a ghost is old only if every
moment says so.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

SLO_SECONDS: Final = 180.0
READ_WINDOW_SECONDS: Final = 90.0
"""A publication whose reads are older than this must not happen."""

MAX_REMOVALS: Final = 10
MAX_REMOVAL_PERCENT: Final = 20
FEW_REMOVALS: Final = 3

HOLD: Final = "hold"
LINE_FIELDS: Final = ("owner", "risk", "environment", "status")

Line = dict[str, str]


@dataclass(frozen=True)
class Governed:
    """An entry of the governance file."""

    owner: str
    risk: str
    status: str
    environment: str | None = None


@dataclass(frozen=True)
class Commit:
    """A commit on the catalog branch.

    Attributes:
        at: its committer time, whole seconds.
        by_mirror: False for what people pushed.
        live: the names that its entity lists as live; None where the path holds no entity.
    """

    sha: str
    at: float
    by_mirror: bool
    plan_hash: str
    live: frozenset[str] | None


@dataclass
class Measured:
    """A change of one repository's place or line, and how long Backstage took to show it."""

    name: str
    asked_at: float
    seconds: float | None = None
    disturbed: bool = False
    superseded: bool = False


@dataclass(frozen=True)
class _Step:
    """A value that holds from a moment between `began` and `ended` on."""

    began: float
    ended: float
    value: Any


@dataclass
class _Disturbances:
    """What keeps the system from its work, and since when nothing does."""

    under_way: dict[str, float] = field(default_factory=dict)
    last_end: float = -math.inf
    count: int = 0


class SoakModel:
    """The truth about governance and AWS by the soak's own hands, and what was seen against it.

    The storm and the poller share it: every public method may be called from any thread.
    """

    def __init__(self) -> None:
        self.wrong_removals: list[str] = []
        self.old_ghosts: list[str] = []
        self.lost_holds: list[str] = []
        self.changes: list[Measured] = []
        self.holds = 0
        self.holds_found_held = 0
        self.worst_ghost_seconds = 0.0
        self._lock = threading.RLock()
        self._ecr: dict[str, list[_Step]] = {}
        self._governance: list[_Step] = []
        self._gone_since: dict[str, float] = {}
        self._served_since: dict[str, float] = {}
        self._told: set[str] = set()
        self._last_published: frozenset[str] = frozenset()
        self._open: dict[str, Measured] = {}
        self._disturbances = _Disturbances()

    # The truth

    def in_ecr(self, names: Collection[str], *, present: bool, began: float, ended: float) -> None:
        """Note that repositories were created or deleted in AWS."""
        with self._lock:
            before = {name: self._place(name) for name in names}
            for name in names:
                self._ecr.setdefault(name, []).append(_Step(began, ended, present))
            self._note(before, began, ended)

    def governed(self, entries: Mapping[str, Governed], *, began: float, ended: float) -> None:
        """Note that governance has these entries now: a push of a file that is well formed."""
        with self._lock:
            old = self._entries
            touched = {
                name for name in old.keys() | entries.keys() if old.get(name) != entries.get(name)
            }
            before = {name: self._place(name) for name in touched}
            self._governance.append(_Step(began, ended, dict(entries)))
            self._note(before, began, ended)

    @property
    def entries(self) -> dict[str, Governed]:
        """What governance has now."""
        with self._lock:
            return dict(self._entries)

    @property
    def _entries(self) -> Mapping[str, Governed]:
        found: Mapping[str, Governed] = self._governance[-1].value if self._governance else {}
        return found

    def present(self) -> set[str]:
        """Name what AWS has now."""
        with self._lock:
            return {name for name, steps in self._ecr.items() if steps[-1].value}

    def live(self) -> set[str]:
        """Name what is governed as existing and present now."""
        with self._lock:
            return {name for name, entry in self._entries.items() if _may_be_live(entry)} & (
                self.present()
            )

    # What disturbs

    def disturbed(self, what: str, at: float) -> None:
        """Note that something keeps the system from its work from now on."""
        with self._lock:
            self._disturbances.under_way.setdefault(what, at)
            self._disturbances.count += 1
            for change in self._open.values():
                change.disturbed = True

    def undisturbed(self, what: str, at: float) -> None:
        """Note that it no longer does."""
        with self._lock:
            if self._disturbances.under_way.pop(what, None) is not None:
                self._disturbances.last_end = max(self._disturbances.last_end, at)

    def disturbances(self) -> dict[str, float]:
        """What disturbs now, and since when."""
        with self._lock:
            return dict(self._disturbances.under_way)

    def quiet_seconds(self, now: float) -> float:
        """For how long nothing has disturbed; 0 while something does."""
        with self._lock:
            if self._disturbances.under_way:
                return 0.0
            return now - self._disturbances.last_end

    # What is seen

    def published(self, live: Collection[str] | None, at: float) -> bool:
        """Take what is published now; say whether the way to the truth has to be held.

        Args:
            live: None when the target holds no entity; the last known one counts on.
        """
        with self._lock:
            if live is not None:
                self._last_published = frozenset(live)
            listed = self._last_published
            removed = listed - self.live()
            pending = beyond_guard(len(removed), len(listed))
            if pending and HOLD not in self._disturbances.under_way:
                self.holds += 1
                self.disturbed(HOLD, at)
            elif not pending:
                self.undisturbed(HOLD, at)
            return pending

    def served(self, entity: Mapping[str, Any], at: float) -> None:
        """Take what Backstage serves: look for ghosts, and for changes that are visible now."""
        live, pending = _lines(entity, "repositories"), _lines(entity, "pending")
        with self._lock:
            true_live = self.live()
            for name in set(self._served_since) - set(live):
                del self._served_since[name]
                self._told.discard(name)
            for name in live:
                since = self._served_since.setdefault(name, at)
                if name not in true_live:
                    self._ghost(name, max(since, self._gone_since.get(name, since)), at)
            for name, change in list(self._open.items()):
                asked = change.asked_at <= at
                if asked and _seen_place(name, live, pending) == self._place(name):
                    change.seconds = at - change.asked_at
                    del self._open[name]

    def committed(self, commits: Iterable[Commit], approved: Collection[str]) -> None:
        """Judge all commits of the catalog branch, oldest first.

        Args:
            approved: the plan hashes that the soak has approved.
        """
        with self._lock:
            before: frozenset[str] = frozenset()
            for commit in commits:
                # An entity that somebody removed is what the next one is judged against.
                after = commit.live if commit.live is not None else before
                if commit.by_mirror:
                    self._judge(commit, before, before - after, approved)
                before = after

    def held(self, *, found: bool, when: str) -> None:
        """Note whether the system itself said that a plan is held while one had to be."""
        with self._lock:
            if found:
                self.holds_found_held += 1
            else:
                self.lost_holds.append(f"a hold was forgotten: {when}")

    def differences(self, entity: Mapping[str, Any] | None) -> list[str]:
        """Say in which way what Backstage serves is not what governance and AWS call for."""
        if entity is None:
            return ["Backstage serves no entity"]
        live, pending = _lines(entity, "repositories"), _lines(entity, "pending")
        with self._lock:
            names = live.keys() | pending.keys() | self._entries.keys() | self.present()
            found = [
                f"{name} is served as {seen}, and should be {wanted}"
                for name in sorted(names)
                if (seen := _seen_place(name, live, pending)) != (wanted := self._place(name))
            ]
            counts = self._counts()
        annotations = entity.get("metadata", {}).get("annotations", {})
        found += [
            f"{key} is {annotations.get(key)}, and should be {wanted_count}"
            for key, wanted_count in counts.items()
            if annotations.get(key) != str(wanted_count)
        ]
        return found

    # Inside

    def _note(self, before: Mapping[str, Any], began: float, ended: float) -> None:
        """Bring ghosts and open changes up to date after a step."""
        true_live = self.live()
        for name, place in before.items():
            if name in true_live:
                self._gone_since.pop(name, None)
            else:
                self._gone_since.setdefault(name, ended)
            if self._place(name) == place:
                continue
            overtaken = self._open.pop(name, None)
            if overtaken:
                overtaken.superseded = True
            change = Measured(name, began, disturbed=bool(self._disturbances.under_way))
            self.changes.append(change)
            self._open[name] = change

    def _place(self, name: str) -> tuple[str, Line] | None:
        """Where the entity has to list a repository now, and how; None: nowhere."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        line = {key: value for key in LINE_FIELDS if (value := getattr(entry, key)) is not None}
        steps = self._ecr.get(name)
        if steps and steps[-1].value:
            return ("live", line) if _may_be_live(entry) else None
        if entry.status == "pending":
            del line["status"]
            return ("pending", line)
        return None

    def _counts(self) -> dict[str, int]:
        entries, present, live = self._entries, self.present(), self.live()
        absent = {name: entry.status for name, entry in entries.items() if name not in present}
        return {
            "platform/repo-count": len(live),
            "platform/pending-count": sum(status == "pending" for status in absent.values()),
            "platform/ghost-count": sum(
                status not in {"pending", "decommissioned"} for status in absent.values()
            ),
            "platform/orphan-count": len(present - entries.keys()),
        }

    def _ghost(self, name: str, since: float, at: float) -> None:
        if self._disturbances.under_way:
            return
        age = at - max(since, self._disturbances.last_end)
        self.worst_ghost_seconds = max(self.worst_ghost_seconds, age)
        if age > SLO_SECONDS and name not in self._told:
            self._told.add(name)
            self.old_ghosts.append(
                f"{name}: gone since {clock(since)}, nothing disturbed since "
                f"{clock(self._disturbances.last_end)}, and still served at {clock(at)}"
            )

    def _judge(
        self,
        commit: Commit,
        before: frozenset[str],
        removed: frozenset[str],
        approved: Collection[str],
    ) -> None:
        # A commit's time is whole seconds: it was made up to a second later.
        window = commit.at - READ_WINDOW_SECONDS, commit.at + 1
        self.wrong_removals += [
            f"{name}: removed by {commit.sha[:12]} at {clock(commit.at)}, and it was governed and "
            f"present in all the {READ_WINDOW_SECONDS:.0f} s before"
            for name in sorted(removed)
            if not self._may_have_been_gone(name, *window)
        ]
        if beyond_guard(len(removed), len(before)) and commit.plan_hash not in approved:
            self.lost_holds.append(
                f"{commit.sha[:12]} at {clock(commit.at)} removed {len(removed)} of {len(before)} "
                f"and nobody approved {commit.plan_hash[:12]}"
            )

    def _may_have_been_gone(self, name: str, start: float, end: float) -> bool:
        """Whether any moment of a time may have found the repository gone by either source."""
        absent = any(
            not step.value for step in _possible(self._ecr.get(name, []), start, end, first=False)
        )
        return absent or any(
            not _may_be_live(step.value.get(name))
            for step in _possible(self._governance, start, end, first={})
        )


def beyond_guard(removed: int, listed: int) -> bool:
    """Whether removing so many of the listed ones needs someone's approval."""
    return (
        removed > MAX_REMOVALS
        or (removed >= FEW_REMOVALS and removed * 100 > listed * MAX_REMOVAL_PERCENT)
        or 0 < listed == removed
    )


def clock(at: float) -> str:
    """A time of day, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}" if math.isfinite(at) else "ever"


def rank(values: Collection[float], percent: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    ranked = sorted(values)
    return ranked[max(1, math.ceil(len(ranked) * percent / 100)) - 1] if ranked else None


def _possible(steps: list[_Step], start: float, end: float, *, first: Any) -> list[_Step]:
    """The steps whose value may have held at some moment between two times.

    Args:
        first: what holds before the first step.
    """
    line = [_Step(-math.inf, -math.inf, first), *steps]
    lasts = [*(step.ended for step in steps), math.inf]
    return [
        step for step, last in zip(line, lasts, strict=True) if step.began <= end and last >= start
    ]


def _may_be_live(entry: Governed | None) -> bool:
    return entry is not None and entry.status != "decommissioned"


def _lines(entity: Mapping[str, Any], key: str) -> dict[str, Line]:
    return {
        line["name"]: {field: line[field] for field in LINE_FIELDS if field in line}
        for line in entity.get("spec", {}).get(key, [])
    }


def _seen_place(
    name: str, live: Mapping[str, Line], pending: Mapping[str, Line]
) -> tuple[str, Line] | None:
    if name in live:
        return ("live", live[name])
    return ("pending", pending[name]) if name in pending else None
