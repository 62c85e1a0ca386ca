"""The parity watch: tells people when something begins to be wrong, and when it ends.

Each evaluation asks, leaves the decision to `core.alerts`, and keeps what it knows in its cursor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import dagster as dg
from pydantic import TypeAdapter

from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.core.alerts import (
    STOPS_PUBLISHING,
    Alert,
    Condition,
    Raised,
    Signal,
    advance,
    due,
    told,
)
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.parity import judge
from ecr_catalog_pipeline.defs import checks
from ecr_catalog_pipeline.defs.assets import key_of
from ecr_catalog_pipeline.defs.conditions import Known, read_conditions
from ecr_catalog_pipeline.defs.last_good import read_last_good
from ecr_catalog_pipeline.defs.parity import served_observation
from ecr_catalog_pipeline.defs.resources import NOTIFIER, backstage_key
from ecr_catalog_pipeline.mirroring import now_utc
from ecr_catalog_pipeline.settings import Mirror

# The daemon looks every 5 s whether a sensor is due: 9 makes it every 10.
WATCH_SECONDS: Final = 9
TELL_AGE_EVERY: Final = timedelta(minutes=2)
"""How often the age of an entity that no run renews is written down."""
VISIBLE_GRACE: Final = timedelta(seconds=25)
"""How long Backstage may serve an older version after a publication before that is a condition."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the parity watch keeps between two looks.

    Attributes:
        kept_because: why the last known good entity was not renewed, as the lineage says.
        kept_told_at: when that was last written there.
    """

    raised: Mapping[Signal, Raised]
    served: str = ""
    verified_at: datetime | None = None
    kept_because: str = ""
    kept_told_at: datetime | None = None


_WATCHED: Final = TypeAdapter(Watched)


def parity_watch(mirror: Mirror) -> dg.SensorDefinition:
    """Tell people when something begins to be wrong, and when it ends."""
    backstage = backstage_key(mirror)

    @dg.sensor(
        name=f"{mirror.name}_parity_watch",
        minimum_interval_seconds=WATCH_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={backstage, NOTIFIER},
        description="One alert when something begins to be wrong, one when it ends: failed or "
        "hung runs, refused governance, failed inventory, held plans, failed checks, Backstage.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = _WATCHED.validate_json(context.cursor) if context.cursor else Watched(raised={})
        now = now_utc()
        known = read_conditions(context.instance, mirror, now)
        conditions = dict(known.conditions)
        look = _look(mirror, getattr(context.resources, backstage), known, before, now)
        conditions.update(look.conditions)
        verified_at = max(filter(None, (look.verified_at, known.verified_at)), default=None)
        stale = _stale(mirror, verified_at, known, now)
        if stale:
            conditions[Signal.PARITY_STALE] = stale
        raised = advance(before.raised, conditions, now)
        raised, sent = _tell(context, mirror, raised, verified_at)
        kept, evaluations = _kept(context.instance, mirror, conditions, before, now)
        after = replace(kept, raised=raised, served=look.served, verified_at=look.verified_at)
        heard = context.resources.notifier.is_heard
        return dg.SensorResult(
            asset_events=[*look.events, *evaluations],
            cursor=_WATCHED.dump_json(after).decode(),
            skip_reason=_words(raised, sent, heard=heard),
        )

    return watch


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at Backstage adds."""

    conditions: Mapping[Signal, Condition]
    events: list[dg.AssetObservation]
    served: str
    verified_at: datetime | None


def _look(mirror: Mirror, backstage: Any, known: Known, before: Watched, now: datetime) -> _Look:
    """Ask Backstage once; note in the lineage when it serves something else than before."""
    if backstage is None or known.published_digest is None:
        return _Look({}, [], before.served, before.verified_at)
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
        return _Look({condition.signal: condition}, [], before.served, before.verified_at)
    verdict = judge(known.published_digest, served)
    digest = verdict.served or "absent"
    events = [served_observation(mirror, verdict)] if digest != before.served else []
    if verdict.parity:
        return _Look({}, events, digest, now)
    if known.published_at and now - known.published_at < VISIBLE_GRACE:
        return _Look({}, events, digest, before.verified_at)
    condition = Condition(
        Signal.BACKSTAGE_DIFFERS,
        _since(before, Signal.BACKSTAGE_DIFFERS, now),
        verdict.reason,
        "Look at the entity and its location in Backstage; `ecr-catalog verify` says the same.",
        known.link,
    )
    return _Look({condition.signal: condition}, events, digest, before.verified_at)


def _kept(
    instance: dg.DagsterInstance,
    mirror: Mirror,
    conditions: Mapping[Signal, Condition],
    before: Watched,
    now: datetime,
) -> tuple[Watched, list[dg.AssetCheckEvaluation]]:
    """Note on `published_entity` why runs do not renew it, and how old it is by now.

    A run that gets there says so itself; the watch speaks for those that do not.
    """
    why = next((conditions[each].cause for each in STOPS_PUBLISHING if each in conditions), "")
    if not why:
        return replace(before, kept_because="", kept_told_at=None), []
    told_at = before.kept_told_at
    if why == before.kept_because and told_at and now - told_at < TELL_AGE_EVERY:
        return before, []
    key = key_of(mirror, "published_entity")
    result = checks.last_known_good(read_last_good(instance, key), now, why)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=checks.LAST_KNOWN_GOOD,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )
    return replace(before, kept_because=why, kept_told_at=now), [evaluation]


def _stale(
    mirror: Mirror, verified_at: datetime | None, known: Known, now: datetime
) -> Condition | None:
    if verified_at is None:
        return None
    limit = timedelta(seconds=mirror.parity.slo_seconds)
    if now - verified_at <= limit:
        return None
    return Condition(
        Signal.PARITY_STALE,
        verified_at + limit,
        f"parity was last verified {(now - verified_at).total_seconds():.0f} s ago, "
        f"the SLO is {mirror.parity.slo_seconds} s",
        "Check that the daemon, the schedule and the sensors of this mirror run.",
        known.link,
    )


def _since(before: Watched, signal: Signal, now: datetime) -> datetime:
    raised = before.raised.get(signal)
    return raised.condition.since if raised and not raised.ended_at else now


def _tell(
    context: dg.SensorEvaluationContext,
    mirror: Mirror,
    raised: dict[Signal, Raised],
    verified_at: datetime | None,
) -> tuple[dict[Signal, Raised], list[Alert]]:
    """Send what is due; what does not arrive stays due."""
    notifier: Notifier = context.resources.notifier
    last_good = f"parity verified {verified_at:%Y-%m-%d %H:%M:%S} UTC" if verified_at else "none"
    sent = []
    for signal in due(raised):
        each = raised[signal]
        alert = Alert(mirror.name, each.condition, each.ended_at, last_good)
        if notifier.send(alert):
            raised = told(raised, signal)
            sent.append(alert)
        else:
            context.log.error("alert not delivered, tried again at the next look: %s", alert.title)
    return raised, sent


def _words(raised: Mapping[Signal, Raised], sent: list[Alert], *, heard: bool) -> str:
    """What the tick says in the UI."""
    wrong = ", ".join(raised) or "all is well"
    told_now = f"; told: {', '.join(alert.title for alert in sent)}" if sent else ""
    return wrong + told_now + ("" if heard else "; nobody is listening, no alert URL is set")
