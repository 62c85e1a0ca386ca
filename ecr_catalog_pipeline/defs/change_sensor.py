"""The change sensor: a run as soon as the governance file or the registry has changed."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from dagster._core.storage.tags import RUN_KEY_TAG
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.defs.assets import key_of
from ecr_catalog_pipeline.defs.jobs import in_flight
from ecr_catalog_pipeline.defs.parity import DATA_VERSION_TAG, STILL_HELD_TAG
from ecr_catalog_pipeline.defs.resources import governance_key, registry_key
from ecr_catalog_pipeline.mirroring import now_utc
from ecr_catalog_pipeline.settings import Mirror

CHANGE_SECONDS: Final = 10
PAGE_SIZE: Final = 1_000
_NOT_DONE: Final = frozenset({dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that the change sensor asked for.

    Attributes:
        unchanged_until: the start of the last look before the change.
    """

    run_key: str
    unchanged_until: datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """What the change sensor saw last.

    Attributes:
        sequence: counts the changes; part of the run key, since a registry can return to an
            earlier fingerprint.
        unchanged_until: the start of the last look that found this fingerprint.
        asked: the last run that was asked for, until it is known not to be lost.
    """

    sequence: int
    blob: str
    fingerprint: str
    unchanged_until: datetime
    pages: int = 1
    asked: Asked | None = None


_SEEN: Final = TypeAdapter(Seen)


def change_sensor(mirror: Mirror, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """Start a run as soon as the governance file or the registry has changed."""
    repo, registry = governance_key(mirror), registry_key(mirror)

    @dg.sensor(
        name=f"{mirror.name}_changes",
        job=job,
        minimum_interval_seconds=CHANGE_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={repo, registry},
        description="Has the governance file moved, has the ECR registry changed? Then a run at "
        "once.",
    )
    def changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        before = _SEEN.validate_json(context.cursor) if context.cursor else None
        began = now_utc()
        if before and began - before.unchanged_until < timedelta(seconds=before.pages):
            return dg.SkipReason(f"a listing of {before.pages} pages is read less often")
        if in_flight(context.instance, mirror.name):
            return dg.SkipReason("a run of this mirror is queued or under way")
        try:
            blob = getattr(context.resources, repo).read().blob
            inventory = getattr(context.resources, registry).read()
        except CatalogError as error:
            return dg.SkipReason(f"cannot look: {error}")
        now = Seen(
            sequence=before.sequence if before else 0,
            blob=blob,
            fingerprint=inventory.fingerprint,
            unchanged_until=began,
            pages=max(1, -(-len(inventory.repositories) // PAGE_SIZE)),
            asked=before.asked if before else None,
        )
        if before is None:
            context.update_cursor(_SEEN.dump_json(now).decode())
            return dg.SkipReason("first look: nothing to compare with")
        moved = _moved(mirror, before, now)
        lost = before.asked if _is_lost(context.instance, before.asked) else None
        if not moved and not lost:
            context.update_cursor(_SEEN.dump_json(replace(now, asked=None)).decode())
            return dg.SkipReason(f"no change: {len(inventory.repositories)} repositories as before")
        sequence = before.sequence + 1
        asked = Asked(
            f"{mirror.name}/{sequence}/{now.blob[:12]}/{now.fingerprint[-12:]}",
            lost.unchanged_until if lost else before.unchanged_until,
        )
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=asked.run_key,
                    tags={
                        STILL_HELD_TAG: asked.unchanged_until.isoformat(),
                        "ecr_catalog/moved": ", ".join(each.asset_key.path[-1] for each in moved)
                        or "nothing since a run that was lost",
                    },
                )
            ],
            asset_events=moved,
            cursor=_SEEN.dump_json(replace(now, sequence=sequence, asked=asked)).decode(),
        )

    return changes


def _is_lost(instance: dg.DagsterInstance, asked: Asked | None) -> bool:
    """Whether a run ended without success and without a failed step: its process was killed."""
    if asked is None:
        return False
    runs = instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: asked.run_key}), limit=1)
    if not runs or runs[0].status not in _NOT_DONE:
        return False
    return not instance.all_logs(runs[0].run_id, of_type=dg.DagsterEventType.STEP_FAILURE)


def _moved(mirror: Mirror, before: Seen, now: Seen) -> list[dg.AssetObservation]:
    """Observations of the sources that changed, with their new data versions."""
    moved = []
    if before.blob != now.blob:
        moved.append(_observation(mirror, "governance_file", now.blob))
    if before.fingerprint != now.fingerprint:
        moved.append(_observation(mirror, "ecr_registry", now.fingerprint))
    return moved


def _observation(mirror: Mirror, name: str, data_version: str) -> dg.AssetObservation:
    return dg.AssetObservation(key_of(mirror, name), tags={DATA_VERSION_TAG: data_version})
