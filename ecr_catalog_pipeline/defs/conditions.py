"""The conditions of a mirror that Dagster's event log shows: its last runs, its last checks."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

# Not exported: the status in the record of a check's evaluation.
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ecr_catalog_pipeline.core.alerts import Condition, Signal
from ecr_catalog_pipeline.core.parity import Sources
from ecr_catalog_pipeline.defs import checks
from ecr_catalog_pipeline.defs.common import key_of
from ecr_catalog_pipeline.defs.event_log import (
    Steps,
    began_at,
    ended_runs,
    evaluated_checks,
    read_parity,
    read_published,
    steps_of,
)
from ecr_catalog_pipeline.defs.jobs import IN_FLIGHT
from ecr_catalog_pipeline.defs.kept import text_of
from ecr_catalog_pipeline.settings import Mirror, sync_job_name

HUNG_AFTER: Final = timedelta(seconds=100)
QUEUED_AFTER: Final = timedelta(seconds=60)
LOOK_BACK: Final = 30
UI_VARIABLE: Final = "ECR_CATALOG_UI_URL"
DEFAULT_UI: Final = "http://127.0.0.1:3000"

_SIGNAL_OF: Final = {
    "GovernanceRefused": Signal.GOVERNANCE_REFUSED,
    "GovernanceUnavailable": Signal.GOVERNANCE_REFUSED,
    "InventoryFailed": Signal.INVENTORY_FAILED,
}
"""By the kind of the error; every other one is a run that failed."""
_READ_BY: Final = {
    "governance_catalog": Signal.GOVERNANCE_REFUSED,
    "ecr_inventory": Signal.INVENTORY_FAILED,
}
"""The signal of a source, by the step that reads it."""
_NOT_STARTED: Final = frozenset(
    {
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
    }
)
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
        sources: what the last successful run compared; None before the first.
        unseen: signals of sources that the last run did not get to read.
        link: into the Dagster UI.
    """

    conditions: Mapping[Signal, Condition]
    published_digest: str | None
    published_at: datetime | None
    verified_at: datetime | None
    sources: Sources | None
    link: str
    unseen: frozenset[Signal]


def read_conditions(instance: dg.DagsterInstance, mirror: Mirror, now: datetime) -> Known:
    """Read the last runs, the last checks and the last publication of a mirror."""
    found, unseen = _conditions(instance, mirror, now)
    # Of two that are alike, the first is the cause.
    conditions = {each.signal: each for each in reversed(found)}
    published, state = read_published(instance, mirror), read_parity(instance, mirror)
    return Known(
        conditions=conditions,
        published_digest=published.digest or None,
        published_at=published.at,
        verified_at=state.verified_at,
        sources=state.sources,
        link=link_of(mirror),
        unseen=unseen,
    )


def link_of(mirror: Mirror) -> str:
    """Where the Dagster UI shows the parity of a mirror."""
    return ui_link(f"assets/{mirror.name}/backstage_parity")


def ui_link(path: str) -> str:
    """Where the Dagster UI shows something."""
    return f"{os.environ.get(UI_VARIABLE, DEFAULT_UI).rstrip('/')}/{path}"


def _conditions(
    instance: dg.DagsterInstance, mirror: Mirror, now: datetime
) -> tuple[list[Condition], frozenset[Signal]]:
    """Find what is wrong, and the signals that the last run has not looked at."""
    job = sync_job_name(mirror.name)
    in_flight = instance.get_run_records(dg.RunsFilter(job_name=job, statuses=IN_FLIGHT))
    # What is planned, queued or under way changes nothing: the last run that ended counts.
    found = [*_in_flight(in_flight, now), *_failed_checks(instance, mirror)]
    ended = ended_runs(instance, mirror, LOOK_BACK)
    if not ended or ended[0].dagster_run.status is dg.DagsterRunStatus.SUCCESS:
        return found, frozenset()
    since = now
    for record in ended:
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            break
        since = began_at(record)
    run_id = ended[0].dagster_run.run_id
    steps = steps_of(instance, run_id)
    known = {*steps.succeeded, *(step.asset for step in steps.failed)}
    unseen = frozenset(_READ_BY[step] for step in _READ_BY.keys() - known)
    return [*found, *_failed(steps, run_id, since)], unseen


def _in_flight(records: Iterable[dg.RunRecord], now: datetime) -> Iterator[Condition]:
    """Find runs that do not end, and runs that do not begin though no other one is under way."""
    waiting: list[dg.RunRecord] = []
    under_way = False
    for record in records:
        if record.dagster_run.status in _NOT_STARTED:
            waiting.append(record)
            continue
        under_way = True
        began = began_at(record)
        if now - began > HUNG_AFTER:
            yield _hung(record.dagster_run.run_id, began)
    queued = min(waiting, key=lambda each: each.create_timestamp, default=None)
    if queued is None or under_way or now - queued.create_timestamp <= QUEUED_AFTER:
        return
    yield Condition(
        Signal.RUN_QUEUED,
        queued.create_timestamp,
        f"a run waits for {(now - queued.create_timestamp).total_seconds():.0f} s and does not "
        "begin; until it does, no other one is asked for",
        "Look at the concurrency of the instance (Deployment, Concurrency) for who holds the "
        "mirror's pool; free that slot, or cancel the run.",
        ui_link(f"runs/{queued.dagster_run.run_id}"),
    )


def _failed(steps: Steps, run_id: str, since: datetime) -> Iterator[Condition]:
    """Say why a run failed, in the words of each step that did."""
    if not steps.failed:
        yield _hung(run_id, since)
    for step in steps.failed:
        yield Condition(
            _SIGNAL_OF.get(step.kind, Signal.RUN_FAILED),
            since,
            f"{step.asset}: {step.cause}",
            step.remediation or "Read the log of the run for what its step met.",
            ui_link(f"runs/{run_id}"),
        )


def _hung(run_id: str, since: datetime) -> Condition:
    return Condition(
        Signal.RUN_HUNG,
        since,
        "a run does not end, or was ended by run monitoring because it did not",
        "Look at its log for the step that waits; the next run starts when its slot is free.",
        ui_link(f"runs/{run_id}"),
    )


def _failed_checks(instance: dg.DagsterInstance, mirror: Mirror) -> Iterator[Condition]:
    failed = []
    for key, record in evaluated_checks(instance, _alerting_checks(mirror)).items():
        evaluation = record.evaluation
        if record.status is not AssetCheckExecutionRecordStatus.FAILED or evaluation is None:
            continue
        if evaluation.severity is not dg.AssetCheckSeverity.ERROR:
            continue
        # The row is as old as its plan.
        evaluated = record.event.timestamp if record.event else record.create_timestamp
        at = datetime.fromtimestamp(evaluated, UTC)
        description = evaluation.description or ""
        if key.name == checks.REMOVAL_GUARD:
            yield Condition(
                Signal.PLAN_HELD,
                at,
                description,
                "Look at the plan; approve it with "
                + (text_of(evaluation.metadata, "approve") or "sync"),
                ui_link(f"assets/{mirror.name}/published_entity?view=checks"),
            )
        elif key.name == checks.GOVERNANCE_FINDINGS:
            yield Condition(
                Signal.GOVERNANCE_FINDINGS,
                at,
                f"{key.asset_key.path[-1]}: {key.name}: {description}",
                "Correct the entries that the check names; all others are mirrored meanwhile.",
                ui_link(f"assets/{mirror.name}/governance_catalog?view=checks"),
            )
        else:
            failed.append((at, f"{key.asset_key.path[-1]}: {key.name}: {description}"))
    if failed:
        yield Condition(
            Signal.CHECK_FAILED,
            min(at for at, _ in failed),
            "; ".join(words for _, words in failed),
            "Look at the failed checks in the Dagster UI.",
            ui_link("asset-groups"),
        )


def _alerting_checks(mirror: Mirror) -> list[dg.AssetCheckKey]:
    return [dg.AssetCheckKey(key_of(mirror, asset), name) for asset, name in _ALERTING_CHECKS]
