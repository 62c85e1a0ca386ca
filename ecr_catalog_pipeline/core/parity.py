"""Parity: is what Backstage serves what it should serve, and how long did each change take.

Time to parity runs from `asked_at`, the latest of the times that had to pass before a change could
be seen by anyone, to the moment when Backstage was seen to serve it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from ecr_catalog_pipeline.core.entity import CONTENT_DIGEST, LAST_SYNC, TYPE, content_digest
from ecr_catalog_pipeline.core.governance import Catalog, Entry, Status
from ecr_catalog_pipeline.core.plan import STATE, Difference, Plan
from ecr_catalog_pipeline.core.text import clean_text

# The fields of the entity's lines that governance decides, and where a governed entry keeps them.
_GOVERNED_FIELDS: Final = {
    "owner": "owner",
    "risk": "risk",
    "environment": "environment",
    "status": "status",
    "requested": "created_date",
}

_PENDING: Final = "pending"

MAX_OPEN: Final = 1_000
MAX_REASON: Final = 1_000
MAX_PAUSES: Final = 100
RECENT: Final = 10
HISTORY: Final = timedelta(days=7)
"""How far back the history of measured times reaches."""

MAX_TIMES_AN_HOUR: Final = 64
"""How many different times one hour of the history keeps."""

_HOUR: Final = timedelta(hours=1)
_COARSER_SECONDS: Final = (5, 60, 600, 3_600, 86_400)


class Basis(StrEnum):
    """Which time had to pass last before a change could be seen."""

    COMMIT = "governance commit"
    CREATED = "creation in ECR"
    LAST_READ = "last read that lacked it"
    LAST_LISTING = "last listing that still held it (upper bound)"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one field of one repository, on its way to being visible.

    Attributes:
        field: "state" when it enters, leaves or moves between the lists, else the line's field.
        asked_at: None when no earlier state is known to measure from.
        held_seconds: for how long of its time a plan was held.
        down_seconds: for how long besides a source or Backstage was known to be down.
    """

    repository: str
    field: str
    old: str | None
    new: str | None
    asked_at: datetime | None
    basis: Basis
    published_at: datetime | None = None
    visible_at: datetime | None = None
    held_seconds: float = 0
    down_seconds: float = 0

    @property
    def key(self) -> tuple[str, str]:
        """What it changes."""
        return self.repository, self.field

    @property
    def seconds(self) -> float | None:
        """Time to parity; None while it is not visible, or where it cannot be measured."""
        if self.asked_at is None or self.visible_at is None:
            return None
        return max(0.0, (self.visible_at - self.asked_at).total_seconds())

    @property
    def seconds_for_slo(self) -> float | None:
        """The part of the time to parity that counts against the SLO."""
        if self.seconds is None:
            return None
        return max(0.0, self.seconds - self.held_seconds - self.down_seconds)

    @property
    def excused(self) -> str:
        """Name the part that does not count against the SLO; empty when all of it does."""
        parts = (("held", self.held_seconds), ("down", self.down_seconds))
        return ", ".join(f"{why} {seconds:.0f} s" for why, seconds in parts if seconds >= 0.5)


class Why(StrEnum):
    """Why no run could bring a change to Backstage."""

    HELD = "held"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Pause:
    """A time that does not count against the SLO.

    Attributes:
        ended_at: None while it lasts.
    """

    why: Why
    began_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What the last successful run read, and what it left published.

    Attributes:
        blob: of the governance file.
        fingerprint: of the inventory.
        digest: of the published content.
        began_at: when the earlier of the two reads began.
    """

    blob: str
    fingerprint: str
    digest: str
    began_at: datetime


@dataclass(frozen=True, slots=True)
class Baseline:
    """The reads that what is published was last known to agree with.

    Attributes:
        commit: the tip of the governance branch that was read.
    """

    commit: str
    governance_began_at: datetime
    inventory_began_at: datetime


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of when changes were asked for.

    Attributes:
        committed: what `entry_changes` gives.
        created: when each repository that is in ECR now was created.
        still_held_at: the start of the last listing that had not changed since the baseline's.
    """

    baseline: Baseline | None
    committed: Mapping[str, Mapping[str, datetime]] = field(default_factory=dict)
    created: Mapping[str, datetime] = field(default_factory=dict)
    still_held_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ParityInput:
    """What a run read and changes, passed on from the plan to the step that measures parity.

    Attributes:
        reads: the baseline of the next run, if this one leaves nothing held.
        blob: of the governance file.
        fingerprint: of the inventory.
        differences: what the plan changes.
        evidence: when that was asked for.
    """

    reads: Baseline
    blob: str
    fingerprint: str
    differences: tuple[Difference, ...]
    evidence: Evidence

    def sources(self, digest: str) -> Sources:
        """What the run compared, given the digest of what it left published."""
        began_at = min(self.reads.governance_began_at, self.reads.inventory_began_at)
        return Sources(self.blob, self.fingerprint, digest, began_at)


@dataclass(frozen=True, slots=True)
class MeasuredHour:
    """The times to parity of the changes that became visible within one hour.

    Attributes:
        began_at: the start of the hour, in UTC.
        seconds: how many changes took so long, by `rounded_seconds`; coarser when an hour has
            more than MAX_TIMES_AN_HOUR different ones, and then rounded up.
        late: how many of them took longer than the SLO that held then.
    """

    began_at: datetime
    seconds: Mapping[int, int]
    late: int = 0


@dataclass(frozen=True, slots=True)
class ParityFigures:
    """Times to parity over a stretch of time, in rounded seconds; None when none was measured.

    Attributes:
        changes: how many were measured.
        late: how many of them took longer than the SLO.
        seconds: how many took so long.
    """

    changes: int = 0
    late: int = 0
    p50: int | None = None
    p95: int | None = None
    max: int | None = None
    seconds: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParityState:
    """What one run passes to the next.

    Attributes:
        open: changes that were not seen in Backstage yet.
        recent: the last changes that were, newest first.
        superseded: how many changes were overtaken before they were visible, in all.
        verified_at: the earlier of two moments: when the last run that found parity began to read
            the sources, and when it found Backstage to serve what it published.
        hours: the measured times of HISTORY, oldest first; hours without any are left out.
        measured: how many changes were measured, in all.
        sources: what the last successful run compared; None before the first.
        pauses: what an open change has waited for, oldest first.
    """

    baseline: Baseline | None = None
    open: tuple[Change, ...] = ()
    recent: tuple[Change, ...] = ()
    superseded: int = 0
    verified_at: datetime | None = None
    hours: tuple[MeasuredHour, ...] = ()
    measured: int = 0
    sources: Sources | None = None
    pauses: tuple[Pause, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at Backstage came to.

    Attributes:
        expected: the digest that Backstage should serve.
        served: the digest recomputed from what it serves; None when it serves nothing.
    """

    parity: bool
    reason: str
    expected: str
    served: str | None


def judge(expected: str, served: Mapping[str, Any] | None) -> Verdict:
    """Compare what Backstage serves with what it should, and name the reason when it differs.

    Args:
        expected: the content digest of what is published.
        served: the entity as Backstage gives it; None when it knows none.
    """
    if served is None:
        reason = "Backstage knows no such entity"
        return Verdict(parity=False, reason=reason, expected=expected, served=None)
    digest = content_digest(served)
    if digest == expected:
        return Verdict(
            parity=True, reason="Backstage serves what it should", expected=expected, served=digest
        )
    # What Backstage serves may say anything; a reason is one line of text.
    reason = clean_text(_why_different(served, digest), MAX_REASON)
    return Verdict(parity=False, reason=reason, expected=expected, served=digest)


def judge_plan(plan: Plan, served: Mapping[str, Any] | None) -> Verdict:
    """Compare what Backstage serves with what a plan says it should, published or not."""
    verdict = judge(plan.digest, served)
    if not verdict.parity and not plan.unchanged and verdict.served == plan.published_digest:
        return replace(verdict, reason=_why_unpublished(plan))
    return verdict


def judge_published(plan: Plan) -> Verdict:
    """Compare what is published with what a plan says it should be."""
    reason = "what is published is right; no `backstage:` in the mirror file to ask"
    return Verdict(
        parity=plan.unchanged,
        reason=reason if plan.unchanged else _why_unpublished(plan),
        expected=plan.digest,
        served=None,
    )


def entry_changes(
    history: Sequence[tuple[datetime, Catalog]],
) -> dict[str, dict[str, datetime]]:
    """Tell when each field of each entry got its present value.

    Args:
        history: the governance catalog at the baseline, then at each later commit, oldest first,
            with the commits' times.

    Returns:
        For the name of each entry that changed, the time of each field of its line that did, of
        STATE where it may be live since or no more, and of "pending" where it is since or no more.
    """
    changed: defaultdict[str, dict[str, datetime]] = defaultdict(dict)
    for (_, before), (committed_at, after) in pairwise(history):
        old, new = _by_name(before), _by_name(after)
        for name in old.keys() | new.keys():
            for changed_field in _changed_fields(old.get(name), new.get(name)):
                changed[name][changed_field] = committed_at
    return dict(changed)


def track(
    state: ParityState, run: ParityInput, *, held: bool, published_at: datetime | None
) -> ParityState:
    """Take up what a run changed, and what it published.

    Args:
        published_at: None when the run wrote nothing.
    """
    state = record_changes(state, run.differences, run.evidence)
    if held:
        return state
    if published_at:
        state = mark_published(state, published_at)
    return replace(state, baseline=run.reads)


def record_changes(
    state: ParityState, differences: Iterable[Difference], evidence: Evidence
) -> ParityState:
    """Take up what a plan changes; what is no longer wanted was superseded."""
    wanted = {(each.repository, each.field): each for each in differences}
    kept: list[Change] = []
    superseded = state.superseded
    for change in state.open:
        now = wanted.get(change.key)
        if now is None and change.published_at is not None:
            kept.append(change)
        elif now is not None and now.new == change.new and change.published_at is None:
            kept.append(change)
            del wanted[change.key]
        else:
            superseded += 1
    for each in wanted.values():
        asked_at, basis = _asked(each, evidence)
        kept.append(Change(each.repository, each.field, each.old, each.new, asked_at, basis))
    return replace(state, open=tuple(kept[:MAX_OPEN]), superseded=superseded)


def mark_published(state: ParityState, at: datetime) -> ParityState:
    """Note when the changes that were waiting for it were published."""
    return replace(
        state,
        open=tuple(
            change if change.published_at else replace(change, published_at=at)
            for change in state.open
        ),
    )


def close_published(
    state: ParityState, visible_at: datetime, verified_at: datetime | None = None
) -> tuple[ParityState, tuple[Change, ...]]:
    """Close every published change: Backstage was seen to serve it.

    Args:
        visible_at: when it was first seen to.
        verified_at: when parity was verified; the same moment by default.
    """
    closed = tuple(
        _excused(replace(change, visible_at=visible_at), state.pauses)
        for change in state.open
        if change.published_at is not None
    )
    still_open = tuple(change for change in state.open if change.published_at is None)
    recent = (*reversed(closed), *state.recent)[:RECENT]
    state = replace(state, open=still_open, recent=recent, verified_at=verified_at or visible_at)
    return state, closed


def note_pause(
    state: ParityState, why: Why, now: datetime, *, lasts: bool, began_at: datetime | None = None
) -> ParityState:
    """Note whether something keeps changes from becoming visible now.

    Args:
        now: when it was seen to last, or to be over.
        began_at: when it began, if that was before.
    """
    last = next((each for each in state.pauses if each.why is why and not each.ended_at), None)
    if lasts:
        added = () if last else (Pause(why, began_at or now),)
        return replace(state, pauses=(*state.pauses, *added)[-MAX_PAUSES:])
    ended = (replace(each, ended_at=now) if each is last else each for each in state.pauses)
    return replace(state, pauses=tuple(ended))


def forget_pauses(state: ParityState) -> ParityState:
    """Forget what ended before every change that is still open was asked for."""
    asked = [change.asked_at for change in state.open if change.asked_at]
    return replace(
        state,
        pauses=tuple(
            each
            for each in state.pauses
            if each.ended_at is None or (asked and each.ended_at > min(asked))
        ),
    )


def rounded_seconds(seconds: float) -> int:
    """A time to parity as it is reported, rounded up: whole seconds below 60, then steps of 5."""
    up = math.ceil(seconds)
    return up if up < 60 else _stepped(up, 5)


def count_measured(
    state: ParityState, closed: Iterable[Change], slo_seconds: float, now: datetime
) -> ParityState:
    """Take the times of closed changes into the history, and forget what is older than it reaches.

    Args:
        closed: what `close_published` gives; what could not be measured does not count.
    """
    seconds: defaultdict[datetime, Counter[int]] = defaultdict(Counter)
    late: Counter[datetime] = Counter()
    for hour in state.hours:
        if hour.began_at + _HOUR > now - HISTORY:
            seconds[hour.began_at].update(hour.seconds)
            late[hour.began_at] += hour.late
    measured = state.measured
    for change in closed:
        if change.seconds is None or change.visible_at is None:
            continue
        began_at = change.visible_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        seconds[began_at][rounded_seconds(change.seconds)] += 1
        late[began_at] += (change.seconds_for_slo or 0) > slo_seconds
        measured += 1
    hours = (
        MeasuredHour(began_at, _in_buckets(seconds[began_at]), late[began_at])
        for began_at in sorted(seconds)
    )
    return replace(state, hours=tuple(hours), measured=measured)


def figures_since(hours: Iterable[MeasuredHour], since: datetime) -> ParityFigures:
    """Sum up the history since a moment, the whole hour in which that lies included."""
    seconds: Counter[int] = Counter()
    late = 0
    for hour in hours:
        if hour.began_at + _HOUR > since:
            seconds.update(hour.seconds)
            late += hour.late
    if not seconds:
        return ParityFigures()
    return ParityFigures(
        changes=seconds.total(),
        late=late,
        p50=_ranked(seconds, 50),
        p95=_ranked(seconds, 95),
        max=max(seconds),
        seconds=dict(sorted(seconds.items())),
    )


def percentile(values: Collection[float], percent: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ranked = sorted(values)
    rank = max(1, -(-len(ranked) * percent // 100))
    return ranked[int(rank) - 1]


def _excused(change: Change, pauses: Iterable[Pause]) -> Change:
    """Say for how much of its time a change waited for what the SLO does not promise."""
    if change.asked_at is None or change.visible_at is None:
        return change
    spans = [
        (each.why, max(each.began_at, change.asked_at), _until(each, change.visible_at))
        for each in pauses
    ]
    held = _covered((began, ended) for why, began, ended in spans if why is Why.HELD)
    in_all = _covered((began, ended) for _, began, ended in spans)
    return replace(change, held_seconds=held, down_seconds=in_all - held)


def _until(pause: Pause, visible_at: datetime) -> datetime:
    return min(pause.ended_at, visible_at) if pause.ended_at else visible_at


def _covered(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """How many seconds lie in at least one of the spans."""
    seconds = 0.0
    reached: datetime | None = None
    for began, ended in sorted(spans):
        start = max(began, reached) if reached else began
        seconds += max(0.0, (ended - start).total_seconds())
        reached = max(reached, ended) if reached else ended
    return seconds


def _ranked(seconds: Counter[int], percent: float) -> int:
    found = percentile(list(seconds.elements()), percent)
    return int(found or 0)


def _in_buckets(seconds: Mapping[int, int]) -> dict[int, int]:
    """Sort the times of an hour, in coarser steps where they would be too many."""
    counted = Counter(seconds)
    for step in _COARSER_SECONDS:
        if len(counted) <= MAX_TIMES_AN_HOUR:
            break
        coarser: Counter[int] = Counter()
        for each, count in counted.items():
            coarser[_stepped(each, step)] += count
        counted = coarser
    return dict(sorted(counted.items()))


def _stepped(seconds: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-seconds // step) * step


def _asked(difference: Difference, evidence: Evidence) -> tuple[datetime | None, Basis]:
    """Find the latest of the times that had to pass."""
    name = difference.repository
    baseline = evidence.baseline
    if baseline is None:
        return None, Basis.UNKNOWN
    times: list[tuple[datetime, Basis]] = []
    moves_live = difference.becomes_live or difference.leaves_live
    governed = _PENDING if difference.field == STATE and not moves_live else difference.field
    committed = evidence.committed.get(name, {}).get(governed)
    if committed is not None:
        times.append((committed, Basis.COMMIT))
        times.append((baseline.governance_began_at, Basis.LAST_READ))
    created = evidence.created.get(name)
    if difference.becomes_live and created and created > baseline.inventory_began_at:
        times.append((created, Basis.CREATED))
    if difference.leaves_live and name not in evidence.created:
        # Whatever governance says of it since: it may have been deleted first.
        held = evidence.still_held_at or baseline.inventory_began_at
        listing = max(held, baseline.inventory_began_at), Basis.LAST_LISTING
        return min([listing, max(times)]) if times else listing
    if not times:
        times.append((_last_read(difference, baseline), Basis.LAST_READ))
    return max(times)


def _last_read(difference: Difference, baseline: Baseline) -> datetime:
    """The start of the last read that lacked a change: of the earlier one where both can."""
    if difference.field == "uri":
        return baseline.inventory_began_at
    if difference.field == STATE:
        return min(baseline.governance_began_at, baseline.inventory_began_at)
    return baseline.governance_began_at


def _changed_fields(old: Entry | None, new: Entry | None) -> Iterator[str]:
    if _may_be_live(old) != _may_be_live(new):
        yield STATE
    if _is_pending(old) != _is_pending(new):
        yield _PENDING
    for line_field, attribute in _GOVERNED_FIELDS.items():
        if getattr(old, attribute, None) != getattr(new, attribute, None):
            yield line_field


def _may_be_live(entry: Entry | None) -> bool:
    """Whether governance lets a repository that is in AWS be live."""
    return entry is not None and entry.status is not Status.DECOMMISSIONED


def _is_pending(entry: Entry | None) -> bool:
    """Whether governance lists a repository that is not in AWS as pending."""
    return entry is not None and entry.status is Status.PENDING


def _why_unpublished(plan: Plan) -> str:
    if plan.held:
        reasons = "; ".join(plan.reasons_held)
        return f"a plan is held: {reasons}; the last good stays: {plan.last_good}"
    if plan.published_digest is None:
        return "nothing is published yet"
    return f"a change waits for the next run; until then {plan.last_good}"


def _why_different(served: Mapping[str, Any], digest: str) -> str:
    annotations = _mapping(_mapping(served.get("metadata")).get("annotations"))
    location = annotations.get("backstage.io/managed-by-location", "an unknown location")
    error = next(_errors(_mapping(served.get("status")).get("items")), None)
    if error is not None:
        return f"Backstage rejects what it reads from {location}: {error}"
    if _mapping(served.get("spec")).get("type") != TYPE or CONTENT_DIGEST not in annotations:
        return f"someone else's entity has our name, from {location}"
    if annotations[CONTENT_DIGEST] == digest:
        return f"an older version is served, of {annotations.get(LAST_SYNC)}, from {location}"
    return f"the content was tampered with on its way from {location}"


def _errors(items: object) -> Iterator[str]:
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and item.get("level") == "error":
            yield str(_mapping(item.get("error")).get("message") or item.get("message"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _by_name(catalog: Catalog) -> dict[str, Entry]:
    return {entry.name: entry for entry in catalog.entries}
