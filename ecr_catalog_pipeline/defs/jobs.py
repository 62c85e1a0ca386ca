"""One job and one schedule for each mirror."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

# Not exported: the type that `dg.define_asset_job` gives, and the class and retry mode that
# `dg.in_process_executor` makes its executor of.
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor
from pydantic import TypeAdapter, ValidationError

from ecr_catalog_pipeline.adapters.process import ProcessIdentity, is_gone, this_process
from ecr_catalog_pipeline.settings import Mirror, sync_job_name

MIRROR_TAG: Final = "ecr_catalog/mirror"
PROCESS_TAG: Final = "ecr_catalog/process"
MAX_RUN_SECONDS: Final = 110
"""Run monitoring ends a run that takes longer; the next tick plans again."""

IN_FLIGHT: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class RunBy:
    """Who runs a run. A run that is launched again gets the tags of the first, so it is named."""

    run_id: str
    process: ProcessIdentity


_RUN_BY: Final = TypeAdapter(RunBy)


def run_by_this_process(run_id: str) -> Mapping[str, str]:
    """Give the tag of a run that this process runs."""
    return {PROCESS_TAG: _RUN_BY.dump_json(RunBy(run_id, this_process())).decode()}


def process_of(run: dg.DagsterRun) -> ProcessIdentity | None:
    """Give the process that runs a run; None where nothing says so."""
    try:
        noted = _RUN_BY.validate_json(run.tags.get(PROCESS_TAG, ""))
    except ValidationError:
        return None
    return noted.process if noted.run_id == run.run_id else None


class _RecordingExecutor(InProcessExecutor):
    """Runs all steps in the run's process, and first notes which one that is."""

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        run_id = plan_context.run_id
        plan_context.instance.add_run_tags(run_id, run_by_this_process(run_id))
        yield from super().execute(plan_context, execution_plan)


@dg.executor(name="in_process")
def _recording_executor(_: dg.InitExecutorContext) -> _RecordingExecutor:
    return _RecordingExecutor(retries=RetryMode.ENABLED)


def sync_job(mirror: Mirror, assets: list[dg.AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    """The job that runs all assets of a mirror once, in one process."""
    return dg.define_asset_job(
        sync_job_name(mirror.name),
        selection=dg.AssetSelection.assets(*assets),
        description=f"One reconciliation of the mirror {mirror.name}.",
        tags={MIRROR_TAG: mirror.name},
        run_tags={MIRROR_TAG: mirror.name, "dagster/max_runtime": str(MAX_RUN_SECONDS)},
        executor_def=_recording_executor,
    )


def sync_schedule(mirror: Mirror, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Every 2 minutes, unless a run of the mirror is queued or under way."""

    @dg.schedule(
        name=f"{mirror.name}_every_2_minutes",
        cron_schedule=_every_2_minutes(mirror.name),
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Keeps the time to parity even when no sensor sees a change.",
    )
    def every_2_minutes(
        context: dg.ScheduleEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        end_lost_runs(context.instance, mirror.name)
        if in_flight(context.instance, mirror.name):
            return dg.SkipReason("a run of this mirror is queued or under way")
        return dg.RunRequest()

    return every_2_minutes


def _every_2_minutes(mirror: str) -> str:
    """Many mirrors run about half at even minutes and half at odd ones, each always at the same."""
    return ("*/2 * * * *", "1-59/2 * * * *")[zlib.crc32(mirror.encode()) % 2]


def in_flight(instance: dg.DagsterInstance, mirror: str) -> bool:
    """Whether a run of the mirror's job is queued or under way."""
    return mirror in runs_in_flight(instance, [mirror])


def runs_in_flight(
    instance: dg.DagsterInstance, mirrors: Sequence[str]
) -> dict[str, list[dg.RunRecord]]:
    """Give the runs that are queued or under way, by their mirror, in one query."""
    asked = dg.RunsFilter(tags={MIRROR_TAG: list(mirrors)}, statuses=IN_FLIGHT)
    found: defaultdict[str, list[dg.RunRecord]] = defaultdict(list)
    for record in instance.get_run_records(asked):
        mirror = record.dagster_run.tags[MIRROR_TAG]
        if record.dagster_run.job_name == sync_job_name(mirror):
            found[mirror].append(record)
    return dict(found)


def end_lost_runs(instance: dg.DagsterInstance, mirror: str) -> bool:
    """End the runs of a mirror whose process is gone; say whether there were any.

    Dagster itself waits for the longest time that a run may take.
    """
    return bool(end_lost(instance, runs_in_flight(instance, [mirror]).get(mirror, [])))


def end_lost(instance: dg.DagsterInstance, records: Iterable[dg.RunRecord]) -> set[str]:
    """End those of some runs whose process is gone; give the ids of those that were ended."""
    lost = [record.dagster_run.run_id for record in records if _is_lost(record.dagster_run)]
    return {run_id for run_id in lost if _end(instance, run_id)}


def _is_lost(run: dg.DagsterRun) -> bool:
    process = process_of(run)
    return process is not None and is_gone(process)


def _end(instance: dg.DagsterInstance, run_id: str) -> bool:
    """End a run, unless it ended by itself a moment before its process did."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return False
    instance.report_run_failed(run, "The process of this run is gone: it was killed.")
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        storage.free_concurrency_slots_for_run(run_id)
    return True
