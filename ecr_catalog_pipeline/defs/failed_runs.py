"""Why runs of a mirror failed, out of the event log."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from ecr_catalog_pipeline.core.parity import Pause, Why
from ecr_catalog_pipeline.defs.jobs import sync_job_name

SOURCE_STEPS: Final = frozenset({"governance_catalog", "ecr_inventory"})
ENDED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
LOOK_BACK: Final = 200
"""Runs. Housekeeping keeps at least 30 that ended, and all of the last 7 days."""


@dataclass(frozen=True, slots=True)
class FailedStep:
    """A step that failed, by the asset that it computes, and why."""

    asset: str
    cause: str


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a run that ended, by the assets that they compute.

    Attributes:
        failed: in the order in which they did; none of a run that was killed.
    """

    failed: Sequence[FailedStep]
    succeeded: frozenset[str]


def steps_of(instance: dg.DagsterInstance, run_id: str) -> Steps:
    """Read how the steps of a run ended."""
    ends = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SUCCESS}
    records = instance.get_records_for_run(run_id, of_type=ends, limit=50).records
    events = [event for each in records if (event := each.event_log_entry.dagster_event)]
    return Steps(
        failed=[_failed(event) for event in events if event.is_step_failure],
        succeeded=frozenset(_asset_of(event) for event in events if event.is_step_success),
    )


def source_outages(instance: dg.DagsterInstance, mirror: str, until: datetime) -> list[Pause]:
    """For how long, since the last successful run, a source could not be read; oldest first.

    Each run that failed on a source counts until the next run began.

    Args:
        until: when the run that is under way began.
    """
    return list(reversed(list(_outages(instance, mirror, until))))


def began_at(record: dg.RunRecord) -> datetime:
    """When a run began; when it was stored, if it never did."""
    if record.start_time:
        return datetime.fromtimestamp(record.start_time, UTC)
    return record.create_timestamp


def _outages(instance: dg.DagsterInstance, mirror: str, until: datetime) -> Iterator[Pause]:
    ended = instance.get_run_records(
        dg.RunsFilter(job_name=sync_job_name(mirror), statuses=ENDED), limit=LOOK_BACK
    )
    next_began = until
    for record in ended:
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            return
        began = began_at(record)
        steps = steps_of(instance, record.dagster_run.run_id)
        if any(step.asset in SOURCE_STEPS for step in steps.failed):
            yield Pause(Why.DOWN, began, next_began)
        next_began = began


def _failed(event: dg.DagsterEvent) -> FailedStep:
    failure = event.step_failure_data
    by_us = failure.user_failure_data
    cause = (by_us and by_us.description) or (failure.error and failure.error.message) or "unknown"
    return FailedStep(_asset_of(event), cause.strip())


def _asset_of(event: dg.DagsterEvent) -> str:
    return (event.step_key or "").rpartition("__")[2]
