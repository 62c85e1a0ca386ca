"""The parity watch: sends alerts when something begins to be wrong, and when it ends.

Each evaluation asks about all mirrors, leaves the decisions to `core.alerts`, and keeps what it
knows in its cursor. A mirror whose Backstage or whose receivers take long delays no other.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import Final

import dagster as dg
from pydantic import TypeAdapter

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.core.alerts import (
    STOPS_PUBLISHING,
    Alert,
    Condition,
    Raised,
    Signal,
    advance,
)
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.owners import Notified
from ecr_catalog_pipeline.core.parity import judge
from ecr_catalog_pipeline.defs import checks
from ecr_catalog_pipeline.defs.alerting import send_due
from ecr_catalog_pipeline.defs.common import PARITY_WATCH
from ecr_catalog_pipeline.defs.conditions import Known, KnownOf, link_of
from ecr_catalog_pipeline.defs.event_log import Published, published_key
from ecr_catalog_pipeline.defs.kept import (
    Kept,
    kept_data,
    read_part,
    read_parts,
    write_parts,
)
from ecr_catalog_pipeline.defs.looks import Looks, in_words
from ecr_catalog_pipeline.defs.outside import ABSENT, served_observation
from ecr_catalog_pipeline.defs.owners import notify_owners
from ecr_catalog_pipeline.mirroring import now_utc
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import Adapters

# The daemon looks every 5 s whether a sensor is due: 9 makes it every 10.
WATCH_SECONDS: Final = 9
AGE_EVERY: Final = timedelta(minutes=2)
"""How often the age of an entity that no run renews is written to the event log."""
STRAGGLER_SECONDS: Final = 3
"""How long a tick waits for its looks; one that takes longer is taken by a later tick."""
VISIBLE_GRACE: Final = timedelta(seconds=25)
"""How long Backstage may serve an older version after a publication before that is a condition."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the parity watch keeps between two looks.

    Attributes:
        kept_because: why the last known good entity was not renewed, as the lineage says.
        kept_reported_at: when that was last written there.
        watched_since: when the watch first looked; parity counts as of then before any is known.
        notified: what owners were notified of.
    """

    raised: Mapping[Signal, Raised] = field(default_factory=dict)
    served: str = ""
    verified_at: datetime | None = None
    kept_because: str = ""
    kept_reported_at: datetime | None = None
    watched_since: datetime | None = None
    notified: Mapping[str, Notified] = field(default_factory=dict)


_WATCHED: Final = TypeAdapter(Watched)
WATCHED_VERSION: Final = 1
ALL_IS_WELL: Final = "all is well"
_SLOW: Final = "the look goes on"
_OF_BACKSTAGE: Final = frozenset({Signal.BACKSTAGE_UNREACHABLE, Signal.BACKSTAGE_DIFFERS})


@dataclass(frozen=True, slots=True)
class ToWatch:
    """A mirror that is watched.

    Attributes:
        settings_refused: the mirror gets no runs, and a separate alert says so.
    """

    mirror: Mirror
    adapters: Adapters
    settings_refused: bool = False


def parity_watch(to_watch: Sequence[ToWatch]) -> dg.SensorDefinition:
    """Alert people when something begins to be wrong with a mirror, and when it ends."""
    woken = Event()
    looks = {each.mirror.name: Looks[_Look](woken) for each in to_watch}
    known_of = KnownOf()

    @dg.sensor(
        name=PARITY_WATCH,
        minimum_interval_seconds=WATCH_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="One alert when something begins to be wrong, one when it ends: failed or "
        "hung runs, refused governance, failed inventory, held plans, failed checks, Backstage.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        tick = _Tick(context, looks, known_of)
        # A look that took longer than the tick that began it.
        tick.take()
        tick.begin([each for each in to_watch if looks[each.mirror.name].are_idle])
        _wait(looks.values(), woken)
        tick.take()
        return tick.result()

    return watch


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at one mirror came to.

    Attributes:
        after: what is kept of it.
        words: what the tick says of it in the UI.
        said: for the log of the tick.
    """

    after: Watched
    events: Sequence[dg.AssetObservation | dg.AssetCheckEvaluation]
    words: str
    said: Sequence[logging.LogRecord]


class _Tick:
    """One evaluation: a look at each mirror, in a thread of its own."""

    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        looks: Mapping[str, Looks[_Look]],
        known_of: KnownOf,
    ) -> None:
        self._context = context
        self._known_of = known_of
        self._looks = looks
        kept = read_parts(context.cursor)
        self._problem = kept.problem
        self._parts = dict(kept.value or {})
        self._events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = []
        self._words = dict.fromkeys(looks, _SLOW)

    def begin(self, to_watch: Sequence[ToWatch]) -> None:
        """Read what Dagster knows, and begin a look at each mirror."""
        now = now_utc()
        mirrors = [each.mirror for each in to_watch]
        known = self._known_of.read(self._context.instance, mirrors, now)
        for each in to_watch:
            name = each.mirror.name
            parts = Kept(self._parts, self._problem)
            kept = read_part(_WATCHED, WATCHED_VERSION, parts, name)
            self._looks[name].begin(partial(_look_at, each, known[name], kept, now))

    def take(self) -> None:
        """Take the looks that have ended; what is known of the others stays."""
        for name, looks in self._looks.items():
            if not looks.has_result:
                continue
            try:
                look = looks.take()
            except Exception as error:
                self._context.log.exception("%s: the parity watch failed", name)
                self._words[name] = f"unexpected {type(error).__name__}"
                continue
            for record in look.said:
                self._context.log.handle(record)
            self._parts[name] = kept_data(_WATCHED, WATCHED_VERSION, look.after)
            self._events += look.events
            self._words[name] = look.words

    def result(self) -> dg.SensorResult:
        """Give what is to be written down, and keep what is known."""
        return dg.SensorResult(
            asset_events=self._events,
            # A mirror that is gone loses its part.
            cursor=write_parts({name: self._parts.get(name) for name in self._looks}),
            skip_reason=in_words(self._words, ALL_IS_WELL),
        )


def _wait(looks: Collection[Looks[_Look]], woken: Event) -> None:
    """Wait until all looks have ended, but not for one that takes long."""
    until = time.monotonic() + STRAGGLER_SECONDS
    while any(not (each.are_idle or each.has_result) for each in looks):
        left = until - time.monotonic()
        if left <= 0:
            return
        woken.wait(left)
        woken.clear()


class _Said(logging.Handler):
    """Keeps what is said in a thread that may outlive its tick."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _look_at(each: ToWatch, known: Known | Exception, kept: Kept[Watched], now: datetime) -> _Look:
    """Judge one mirror, and send the alerts that are due."""
    mirror, notifier = each.mirror, each.adapters.notifier
    log = logging.Logger(PARITY_WATCH)  # noqa: LOG001 - for this look alone
    said = _Said()
    log.addHandler(said)
    if kept.problem:
        log.warning("%s: the cursor %s: that part starts over", mirror.name, kept.problem)
    before = _trusted(kept.value or Watched(), now)
    seen = _see(log, each, known, before, now)
    conditions, unseen = dict(seen.conditions), set(seen.unseen)
    if each.settings_refused:
        unseen.add(Signal.PARITY_STALE)
    elif Signal.PARITY_STALE not in unseen:
        conditions.update(_stale(mirror, seen.after, now))
    raised = advance(before.raised, conditions, now, unseen)
    last_good = _last_good(seen.after.verified_at)
    raised, sent = send_due(log, notifier, mirror.name, raised, last_good)
    notified = _notified(log, each, known, before, seen)
    problem = f"; the cursor {kept.problem}, that part starts over" if kept.problem else ""
    return _Look(
        replace(seen.after, raised=raised, notified=notified),
        seen.events,
        _words(raised, sent, heard=notifier.is_heard) + problem,
        said.records,
    )


def _notified(
    log: logging.Logger, each: ToWatch, known: Known | Exception, before: Watched, seen: "_Seen"
) -> Mapping[str, Notified]:
    """Notify owners of their findings, where the mirror asks for it and Backstage answers."""
    mirror, backstage = each.mirror, each.adapters.backstage
    if backstage is None or not mirror.notify.backstage:
        return {}
    if isinstance(known, Exception) or Signal.BACKSTAGE_UNREACHABLE in seen.conditions:
        return before.notified
    try:
        return notify_owners(log, mirror, backstage, known.owned, before.notified)
    except Exception:  # notices to owners must not stop an alert
        log.exception("%s: owners were not notified of their findings", mirror.name)
        return before.notified


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one evaluation came to.

    Attributes:
        unseen: signals that could not be looked at, because the watch itself failed.
        after: what is known now, but for the alerts.
    """

    conditions: Mapping[Signal, Condition]
    unseen: frozenset[Signal]
    events: Sequence[dg.AssetObservation | dg.AssetCheckEvaluation]
    after: Watched


def _see(
    log: logging.Logger, each: ToWatch, known: Known | Exception, before: Watched, now: datetime
) -> _Seen:
    """Ask Backstage; whatever goes wrong with that or the event log is a condition, too.

    A signal that cannot be judged because of a defect of ours keeps its state; the rest goes on.
    """
    mirror = each.mirror
    failed = partial(_watch_failed, log, mirror, before, now)
    after = replace(before, watched_since=before.watched_since or now)
    if isinstance(known, Exception):
        condition = failed(what="the event log", error=known)
        return _Seen({condition.signal: condition}, frozenset(Signal), [], after)
    conditions = dict(known.conditions)
    unseen = known.unseen
    events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = []
    try:
        served = _ask(mirror, each.adapters.backstage, known, before, now)
        conditions.update(served.conditions)
        events.extend(served.events)
        unseen |= served.unseen
        verified = _verified_at(known, served, now)
        after = replace(
            after,
            served=served.served,
            verified_at=max(filter(None, (before.verified_at, verified)), default=None),
        )
    except Exception as error:  # noqa: BLE001 - a watch that raises sends no alert
        conditions[Signal.WATCH_FAILED] = failed(what="what Backstage serves", error=error)
        unseen |= _OF_BACKSTAGE | {Signal.PARITY_STALE}
    try:
        after, evaluations = _kept(known.published, mirror, conditions, after, now)
        events.extend(evaluations)
    except Exception as error:  # noqa: BLE001 - as above
        conditions[Signal.WATCH_FAILED] = failed(what="the last known good entity", error=error)
    return _Seen(conditions, unseen, events, after)


def _watch_failed(
    log: logging.Logger,
    mirror: Mirror,
    before: Watched,
    now: datetime,
    *,
    what: str,
    error: Exception,
) -> Condition:
    log.error("%s: the parity watch failed on %s", mirror.name, what, exc_info=error)
    # The words of an unexpected error may hold anything: they stay in the log.
    return Condition(
        Signal.WATCH_FAILED,
        _since(before, Signal.WATCH_FAILED, now),
        f"the parity watch cannot judge {what}: unexpected {type(error).__name__}",
        f"Read the log of the sensor {PARITY_WATCH} in the Dagster UI, and report it.",
        link_of(mirror),
    )


def _trusted(before: Watched, now: datetime) -> Watched:
    """Leave out moments ahead of now: the clock was set back since."""
    return replace(
        before,
        verified_at=_past(before.verified_at, now),
        kept_reported_at=_past(before.kept_reported_at, now),
        watched_since=_past(before.watched_since, now),
    )


def _past(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment and moment <= now else None


def _verified_at(known: Known, look: "_Served", now: datetime) -> datetime | None:
    """When parity was last verified, as far as this look and the last run know.

    A look at Backstage alone verifies nothing: the sources may have changed since the last run.
    """
    by_run = _past(known.verified_at, now)
    sources = known.sources
    if sources is None or look.matched != sources.digest:
        return by_run
    agreed = (sources.began_at, known.looked_at)
    by_looks = max((at for each in agreed if (at := _past(each, now))), default=None)
    return max(filter(None, (by_run, by_looks)), default=None)


@dataclass(frozen=True, slots=True)
class _Served:
    """What a look at Backstage adds.

    Attributes:
        served: the digest of what it serves, or of what it last did.
        matched: that digest, if it answered now.
        unseen: what cannot be said while a publication is on its way to Backstage.
    """

    conditions: Mapping[Signal, Condition]
    events: list[dg.AssetObservation]
    served: str
    matched: str = ""
    unseen: frozenset[Signal] = frozenset()


def _ask(
    mirror: Mirror, backstage: BackstageCatalog | None, known: Known, before: Watched, now: datetime
) -> _Served:
    """Ask Backstage once; note in the lineage when it serves something else than before."""
    if backstage is None or not known.published.digest:
        return _Served({}, [], before.served)
    try:
        served = backstage.entity(mirror.identity.namespace, mirror.identity.name)
    except BackstageUnavailable as error:
        condition = Condition(
            Signal.BACKSTAGE_UNREACHABLE,
            _since(before, Signal.BACKSTAGE_UNREACHABLE, now),
            error.problem,
            error.remediation,
            known.link,
        )
        return _Served({condition.signal: condition}, [], before.served)
    verdict = judge(known.published.digest, served)
    digest = verdict.served or ABSENT
    events = [served_observation(mirror, verdict)] if digest != before.served else []
    if verdict.parity:
        return _Served({}, events, digest, digest)
    if known.published.at and timedelta() <= now - known.published.at < VISIBLE_GRACE:
        return _Served({}, events, digest, unseen=frozenset({Signal.BACKSTAGE_DIFFERS}))
    condition = Condition(
        Signal.BACKSTAGE_DIFFERS,
        _since(before, Signal.BACKSTAGE_DIFFERS, now),
        verdict.reason,
        "Look at the entity and its location in Backstage; `ecr-catalog verify` says the same.",
        known.link,
    )
    return _Served({condition.signal: condition}, events, digest)


def _kept(
    published: Published,
    mirror: Mirror,
    conditions: Mapping[Signal, Condition],
    before: Watched,
    now: datetime,
) -> tuple[Watched, list[dg.AssetCheckEvaluation]]:
    """Note on `published_entity` why runs do not renew it, and how old it is by now.

    A run that publishes says so itself; the watch does it for runs that do not get there.
    """
    why = next((conditions[each].cause for each in STOPS_PUBLISHING if each in conditions), "")
    if not why:
        return replace(before, kept_because="", kept_reported_at=None), []
    reported_at = before.kept_reported_at
    if why == before.kept_because and reported_at and now - reported_at < AGE_EVERY:
        return before, []
    result = checks.last_known_good(published, now, why)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=published_key(mirror),
        check_name=checks.LAST_KNOWN_GOOD,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )
    return replace(before, kept_because=why, kept_reported_at=now), [evaluation]


def _stale(mirror: Mirror, known: Watched, now: datetime) -> dict[Signal, Condition]:
    """Judge the age of the last verified parity; before the first one, the age of the watch."""
    since = known.verified_at or known.watched_since or now
    limit = timedelta(seconds=mirror.parity.slo_seconds)
    if now - since <= limit:
        return {}
    age = f"{(now - since).total_seconds():.0f} s"
    condition = Condition(
        Signal.PARITY_STALE,
        since + limit,
        (
            f"parity was last verified {age} ago"
            if known.verified_at
            else f"parity was never verified in the {age} since the watch began"
        )
        + f", the SLO is {mirror.parity.slo_seconds} s: since then no look or run has compared "
        "both sources with what Backstage serves",
        "Check that the daemon, the schedule and the sensors of this mirror run.",
        link_of(mirror),
    )
    return {condition.signal: condition}


def _last_good(verified_at: datetime | None) -> str:
    return f"parity verified {verified_at:%Y-%m-%d %H:%M:%S} UTC" if verified_at else "none"


def _since(before: Watched, signal: Signal, now: datetime) -> datetime:
    raised = before.raised.get(signal)
    return raised.condition.since if raised and not raised.ended_at else now


def _words(raised: Mapping[Signal, Raised], sent: list[Alert], *, heard: bool) -> str:
    """What the tick says in the UI."""
    delivered = f"sent: {', '.join(alert.title for alert in sent)}" if sent else ""
    well = "" if raised else ALL_IS_WELL
    unheard = "" if heard else "alerts only go to the log: no alert URL is set"
    return "; ".join(filter(None, (", ".join(raised), delivered, well, unheard)))
