"""The parity watch: sends alerts when something begins to be wrong, and when it ends.

Each evaluation asks, leaves the decision to `core.alerts`, and keeps what it knows in its cursor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
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
from ecr_catalog_pipeline.core.owners import Told
from ecr_catalog_pipeline.core.parity import judge
from ecr_catalog_pipeline.defs import checks
from ecr_catalog_pipeline.defs.alerting import send_due
from ecr_catalog_pipeline.defs.common import key_of
from ecr_catalog_pipeline.defs.conditions import Known, link_of, read_conditions
from ecr_catalog_pipeline.defs.event_log import last_look_that_found, read_published
from ecr_catalog_pipeline.defs.kept import read_kept, write_kept
from ecr_catalog_pipeline.defs.outside import ABSENT, served_observation
from ecr_catalog_pipeline.defs.owners import tell_owners
from ecr_catalog_pipeline.mirroring import now_utc
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import Adapters

# The daemon looks every 5 s whether a sensor is due: 9 makes it every 10.
WATCH_SECONDS: Final = 9
AGE_EVERY: Final = timedelta(minutes=2)
"""How often the age of an entity that no run renews is written to the event log."""
VISIBLE_GRACE: Final = timedelta(seconds=25)
"""How long Backstage may serve an older version after a publication before that is a condition."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the parity watch keeps between two looks.

    Attributes:
        kept_because: why the last known good entity was not renewed, as the lineage says.
        kept_told_at: when that was last written there.
        watched_since: when the watch first looked; parity counts as of then before any is known.
        told: what owners were told of their findings.
    """

    raised: Mapping[Signal, Raised] = field(default_factory=dict)
    served: str = ""
    verified_at: datetime | None = None
    kept_because: str = ""
    kept_told_at: datetime | None = None
    watched_since: datetime | None = None
    told: Mapping[str, Told] = field(default_factory=dict)


_WATCHED: Final = TypeAdapter(Watched)
WATCHED_VERSION: Final = 1
_OF_BACKSTAGE: Final = frozenset({Signal.BACKSTAGE_UNREACHABLE, Signal.BACKSTAGE_DIFFERS})


def parity_watch(
    mirror: Mirror, adapters: Adapters, *, settings_refused: bool = False
) -> dg.SensorDefinition:
    """Tell people when something begins to be wrong, and when it ends.

    Args:
        settings_refused: the mirror gets no runs, and a separate alert says so.
    """

    @dg.sensor(
        name=f"{mirror.name}_parity_watch",
        minimum_interval_seconds=WATCH_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="One alert when something begins to be wrong, one when it ends: failed or "
        "hung runs, refused governance, failed inventory, held plans, failed checks, Backstage.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = now_utc()
        kept = read_kept(_WATCHED, WATCHED_VERSION, context.cursor)
        if kept.problem:
            context.log.warning("the cursor %s: that part starts over", kept.problem)
        before = _trusted(kept.value or Watched(), now)
        seen = _see(context, mirror, adapters.backstage, before, now)
        conditions, unseen = dict(seen.conditions), set(seen.unseen)
        if settings_refused:
            unseen.add(Signal.PARITY_STALE)
        elif Signal.PARITY_STALE not in unseen:
            conditions.update(_stale(mirror, seen.after, now))
        raised = advance(before.raised, conditions, now, unseen)
        told = _told(context, mirror, adapters.backstage, before, seen)
        last_good = _last_good(seen.after.verified_at)
        raised, sent = send_due(context, adapters.notifier, mirror.name, raised, last_good)
        heard = adapters.notifier.is_heard
        problem = f"; the cursor {kept.problem}, that part starts over" if kept.problem else ""
        return dg.SensorResult(
            asset_events=seen.events,
            cursor=write_kept(
                _WATCHED, WATCHED_VERSION, replace(seen.after, raised=raised, told=told)
            ),
            skip_reason=_words(raised, sent, heard=heard) + problem,
        )

    return watch


def _told(
    context: dg.SensorEvaluationContext,
    mirror: Mirror,
    backstage: BackstageCatalog | None,
    before: Watched,
    seen: "_Seen",
) -> Mapping[str, Told]:
    """Tell owners of their findings, where the mirror asks for it and Backstage answers."""
    if backstage is None or not mirror.notify.backstage:
        return {}
    if Signal.BACKSTAGE_UNREACHABLE in seen.conditions:
        return before.told
    try:
        return tell_owners(context, mirror, backstage, before.told)
    except Exception:  # what owners are told must not stop an alert
        context.log.exception("owners were not told of their findings")
        return before.told


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
    context: dg.SensorEvaluationContext,
    mirror: Mirror,
    backstage: BackstageCatalog | None,
    before: Watched,
    now: datetime,
) -> _Seen:
    """Ask the event log and Backstage; whatever goes wrong with that is a condition, too.

    A signal that cannot be judged because of a defect of ours keeps its state; the rest goes on.
    """
    failed = partial(_watch_failed, context, mirror, before, now)
    after = replace(before, watched_since=before.watched_since or now)
    try:
        known = read_conditions(context.instance, mirror, now)
    except Exception as error:  # noqa: BLE001 - a watch that raises sends no alert
        condition = failed(what="the event log", error=error)
        return _Seen({condition.signal: condition}, frozenset(Signal), [], after)
    conditions = dict(known.conditions)
    unseen = known.unseen
    events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = []
    try:
        look = _look(mirror, backstage, known, before, now)
        conditions.update(look.conditions)
        events.extend(look.events)
        unseen |= look.unseen
        verified = _verified_at(context.instance, mirror, known, look, now)
        after = replace(
            after,
            served=look.served,
            verified_at=max(filter(None, (before.verified_at, verified)), default=None),
        )
    except Exception as error:  # noqa: BLE001 - as above
        conditions[Signal.WATCH_FAILED] = failed(what="what Backstage serves", error=error)
        unseen |= _OF_BACKSTAGE | {Signal.PARITY_STALE}
    try:
        after, evaluations = _kept(context.instance, mirror, conditions, after, now)
        events.extend(evaluations)
    except Exception as error:  # noqa: BLE001 - as above
        conditions[Signal.WATCH_FAILED] = failed(what="the last known good entity", error=error)
    return _Seen(conditions, unseen, events, after)


def _watch_failed(
    context: dg.SensorEvaluationContext,
    mirror: Mirror,
    before: Watched,
    now: datetime,
    *,
    what: str,
    error: Exception,
) -> Condition:
    context.log.error("the parity watch failed on %s", what, exc_info=error)
    # The words of an unexpected error may hold anything: they stay in the log.
    return Condition(
        Signal.WATCH_FAILED,
        _since(before, Signal.WATCH_FAILED, now),
        f"the parity watch cannot judge {what}: unexpected {type(error).__name__}",
        f"Read the log of the sensor {mirror.name}_parity_watch in the Dagster UI, and report it.",
        link_of(mirror),
    )


def _trusted(before: Watched, now: datetime) -> Watched:
    """Leave out moments ahead of now: the clock was set back since."""
    return replace(
        before,
        verified_at=_past(before.verified_at, now),
        kept_told_at=_past(before.kept_told_at, now),
        watched_since=_past(before.watched_since, now),
    )


def _past(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment and moment <= now else None


def _verified_at(
    instance: dg.DagsterInstance, mirror: Mirror, known: Known, look: "_Look", now: datetime
) -> datetime | None:
    """When parity was last verified, as far as this look and the last run know.

    A look at Backstage alone verifies nothing: the sources may have changed since the last run.
    """
    by_run = _past(known.verified_at, now)
    sources = known.sources
    if sources is None or look.matched != sources.digest:
        return by_run
    agreed = (sources.began_at, last_look_that_found(instance, mirror, sources, now))
    by_looks = max((at for each in agreed if (at := _past(each, now))), default=None)
    return max(filter(None, (by_run, by_looks)), default=None)


@dataclass(frozen=True, slots=True)
class _Look:
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


def _look(
    mirror: Mirror, backstage: BackstageCatalog | None, known: Known, before: Watched, now: datetime
) -> _Look:
    """Ask Backstage once; note in the lineage when it serves something else than before."""
    if backstage is None or known.published_digest is None:
        return _Look({}, [], before.served)
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
        return _Look({condition.signal: condition}, [], before.served)
    verdict = judge(known.published_digest, served)
    digest = verdict.served or ABSENT
    events = [served_observation(mirror, verdict)] if digest != before.served else []
    if verdict.parity:
        return _Look({}, events, digest, digest)
    if known.published_at and timedelta() <= now - known.published_at < VISIBLE_GRACE:
        return _Look({}, events, digest, unseen=frozenset({Signal.BACKSTAGE_DIFFERS}))
    condition = Condition(
        Signal.BACKSTAGE_DIFFERS,
        _since(before, Signal.BACKSTAGE_DIFFERS, now),
        verdict.reason,
        "Look at the entity and its location in Backstage; `ecr-catalog verify` says the same.",
        known.link,
    )
    return _Look({condition.signal: condition}, events, digest)


def _kept(
    instance: dg.DagsterInstance,
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
        return replace(before, kept_because="", kept_told_at=None), []
    told_at = before.kept_told_at
    if why == before.kept_because and told_at and now - told_at < AGE_EVERY:
        return before, []
    key = key_of(mirror, "published_entity")
    result = checks.last_known_good(read_published(instance, mirror), now, why)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=checks.LAST_KNOWN_GOOD,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )
    return replace(before, kept_because=why, kept_told_at=now), [evaluation]


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
    wrong = ", ".join(raised) or "all is well"
    sent_now = f"; sent: {', '.join(alert.title for alert in sent)}" if sent else ""
    return wrong + sent_now + ("" if heard else "; alerts only go to the log: no alert URL is set")
