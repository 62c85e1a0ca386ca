"""The conditions of a mirror that Dagster's event log tells: its last runs, its last checks."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ecr_catalog_pipeline.core.alerts import Condition, Signal
from ecr_catalog_pipeline.defs import checks
from ecr_catalog_pipeline.defs.assets import key_of
from ecr_catalog_pipeline.defs.jobs import IN_FLIGHT, sync_job_name
from ecr_catalog_pipeline.defs.parity import latest_state
from ecr_catalog_pipeline.settings import Mirror

HUNG_AFTER: Final = timedelta(seconds=100)
LOOK_BACK: Final = 30
UI_VARIABLE: Final = "ECR_CATALOG_UI_URL"
DEFAULT_UI: Final = "http://127.0.0.1:3000"

_STEP_SIGNALS: Final = {
    "governance_catalog": Signal.GOVERNANCE_REFUSED,
    "ecr_inventory": Signal.INVENTORY_FAILED,
}
_ENDED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
# The watch asks Backstage itself; the other checks speak for the run they belong to.
_ALERTING_CHECKS: Final = (
    ("governance_catalog", checks.GOVERNANCE_FINDINGS),
    ("reconciled_registry", checks.ENTITY_VALID),
    ("published_entity", checks.REMOVAL_GUARD),
    ("published_entity", checks.PUBLISHED_EQUALS_DESIRED),
    ("backstage_parity", checks.TIME_TO_PARITY_WITHIN_SLO),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known without asking anyone outside.

    Attributes:
        published_digest: of the content that the last run left published; None before the first.
        published_at: when that was, if the last run published it.
        verified_at: when a run last verified parity.
        link: into the Dagster UI.
    """

    conditions: Mapping[Signal, Condition]
    published_digest: str | None
    published_at: datetime | None
    verified_at: datetime | None
    link: str


def read_conditions(instance: dg.DagsterInstance, mirror: Mirror, now: datetime) -> Known:
    """Read the last runs, the last checks and the last publication of a mirror."""
    conditions = {each.signal: each for each in _conditions(instance, mirror, now)}
    event = instance.get_latest_materialization_event(key_of(mirror, "published_entity"))
    materialization = event.asset_materialization if event else None
    metadata: Mapping[str, Any] = materialization.metadata if materialization else {}
    published = event and metadata.get("outcome") and metadata["outcome"].value == "published"
    return Known(
        conditions=conditions,
        published_digest=metadata["content_digest"].value if metadata else None,
        published_at=datetime.fromtimestamp(event.timestamp, UTC) if event and published else None,
        verified_at=latest_state(instance, mirror).verified_at,
        link=f"{_ui()}/assets/{mirror.name}/backstage_parity",
    )


def _conditions(instance: dg.DagsterInstance, mirror: Mirror, now: datetime) -> Iterator[Condition]:
    job = sync_job_name(mirror.name)
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, statuses=IN_FLIGHT)):
        started = _moment(record.start_time)
        if started and now - started > HUNG_AFTER:
            yield _hung(record.dagster_run.run_id, started)
    ended = instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_ENDED), limit=LOOK_BACK)
    if not ended:
        return
    if ended[0].dagster_run.status is dg.DagsterRunStatus.SUCCESS:
        yield from _failed_checks(instance, mirror)
        return
    since = now
    for record in ended:
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            break
        since = _moment(record.start_time) or record.create_timestamp
    yield _failed(instance, ended[0].dagster_run.run_id, since)


def _failed(instance: dg.DagsterInstance, run_id: str, since: datetime) -> Condition:
    """Say why a run failed, in the words of the step that did."""
    records = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1
    ).records
    event = records[0].event_log_entry.dagster_event if records else None
    if event is None:
        return _hung(run_id, since)
    failure = event.step_failure_data
    told = failure.user_failure_data
    error = failure.error
    cause = (told and told.description) or (error and error.message) or "unknown"
    step = (event.step_key or "").rpartition("__")[2]
    return Condition(
        _STEP_SIGNALS.get(step, Signal.RUN_FAILED),
        since,
        f"{step}: {cause.strip()}",
        "The last good entity stays. Fix the cause; the next run recovers by itself.",
        f"{_ui()}/runs/{run_id}",
    )


def _hung(run_id: str, since: datetime) -> Condition:
    return Condition(
        Signal.RUN_HUNG,
        since,
        "a run does not end, or was ended by run monitoring because it did not",
        "Look at its log for the step that waits; the next run starts when its slot is free.",
        f"{_ui()}/runs/{run_id}",
    )


def _failed_checks(instance: dg.DagsterInstance, mirror: Mirror) -> Iterator[Condition]:
    keys = [dg.AssetCheckKey(key_of(mirror, asset), name) for asset, name in _ALERTING_CHECKS]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    failed = []
    for key, record in latest.items():
        entry = record.event
        if record.status is not AssetCheckExecutionRecordStatus.FAILED or entry is None:
            continue
        evaluation = entry.get_dagster_event().asset_check_evaluation_data
        if evaluation.severity is not dg.AssetCheckSeverity.ERROR:
            continue
        at = datetime.fromtimestamp(entry.timestamp, UTC)
        description = evaluation.description or ""
        if key.name == checks.REMOVAL_GUARD:
            approve = evaluation.metadata.get("approve")
            yield Condition(
                Signal.PLAN_HELD,
                at,
                description,
                f"Look at the plan; approve it with {approve.value if approve else 'sync'}",
                f"{_ui()}/assets/{mirror.name}/published_entity?view=checks",
            )
        else:
            failed.append((at, f"{key.asset_key.path[-1]}: {key.name}: {description}"))
    if failed:
        yield Condition(
            Signal.CHECK_FAILED,
            min(at for at, _ in failed),
            "; ".join(words for _, words in failed),
            "Look at the failed checks in the Dagster UI.",
            f"{_ui()}/asset-groups",
        )


def _moment(timestamp: float | None) -> datetime | None:
    return datetime.fromtimestamp(timestamp, UTC) if timestamp else None


def _ui() -> str:
    return os.environ.get(UI_VARIABLE, DEFAULT_UI).rstrip("/")
