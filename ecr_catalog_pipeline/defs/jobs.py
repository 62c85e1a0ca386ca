"""One job and one schedule for each mirror."""

from __future__ import annotations

from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from ecr_catalog_pipeline.settings import Mirror

MIRROR_TAG: Final = "ecr_catalog/mirror"
MAX_RUN_SECONDS: Final = 110
"""Run monitoring ends a run that takes longer; the next tick plans afresh."""

IN_FLIGHT: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def sync_job(mirror: Mirror, assets: list[dg.AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    """The job that runs all assets of a mirror once, in one process."""
    return dg.define_asset_job(
        sync_job_name(mirror.name),
        selection=dg.AssetSelection.assets(*assets),
        description=f"One reconciliation of the mirror {mirror.name}.",
        tags={MIRROR_TAG: mirror.name},
        run_tags={MIRROR_TAG: mirror.name, "dagster/max_runtime": str(MAX_RUN_SECONDS)},
        executor_def=dg.in_process_executor,
    )


def sync_job_name(mirror: str) -> str:
    """The name of a mirror's job."""
    return f"{mirror}_sync"


def sync_schedule(mirror: Mirror, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Every 2 minutes, unless a run of the mirror is queued or under way."""

    @dg.schedule(
        name=f"{mirror.name}_every_2_minutes",
        cron_schedule="*/2 * * * *",
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Keeps the time to parity even when no sensor sees a change.",
    )
    def every_2_minutes(
        context: dg.ScheduleEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        if in_flight(context.instance, mirror.name):
            return dg.SkipReason("a run of this mirror is queued or under way")
        return dg.RunRequest()

    return every_2_minutes


def in_flight(instance: dg.DagsterInstance, mirror: str) -> bool:
    """Whether a run of the mirror's job is queued or under way."""
    runs = instance.get_run_records(
        dg.RunsFilter(job_name=sync_job_name(mirror), statuses=IN_FLIGHT), limit=1
    )
    return bool(runs)
