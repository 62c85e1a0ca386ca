"""What a step that fails says on its asset, and of the checks that its run does not get to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import dagster as dg

# Not exported: what the storage gives of a check.
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from ecr_catalog_pipeline.defs import tables
from ecr_catalog_pipeline.defs.common import as_dagster_failure
from ecr_catalog_pipeline.defs.event_log import evaluated_checks
from ecr_catalog_pipeline.defs.kept import moment_of, text_of

_JUDGED_AT: Final = "judged_at"
_JUDGED: Final = "judged"


@contextmanager
def reported_on_the_asset(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Show an error of ours as `as_dagster_failure` does, and its reason on the asset.

    Checks of this run that are not judged yet keep what they said last, with the reason. Without
    that Dagster shows them as failed. One that never said anything is left to Dagster.
    """
    try:
        with as_dagster_failure():
            yield
    except dg.Failure as failure:
        try:
            _report(context, failure)
        except Exception as error:  # noqa: BLE001 - nothing may hide why the step failed
            context.log.warning("not reported on the asset: %s", type(error).__name__)
        raise


def judged_at(record: AssetCheckExecutionRecord) -> datetime:
    """When a check was judged; that a later run repeated it counts for nothing."""
    evaluation = record.evaluation
    at = moment_of(evaluation.metadata, _JUDGED_AT) if evaluation else None
    # The row is as old as its plan.
    timestamp = record.event.timestamp if record.event else record.create_timestamp
    return at or datetime.fromtimestamp(timestamp, UTC)


def judgement(evaluation: dg.AssetCheckEvaluation) -> str:
    """What a check said when it was judged."""
    return text_of(evaluation.metadata, _JUDGED) or evaluation.description or ""


def _report(context: dg.AssetExecutionContext, failure: dg.Failure) -> None:
    reasons = {
        name: text
        for name in ("problem", "remediation")
        if (text := text_of(failure.metadata, name))
    }
    context.log_event(
        dg.AssetObservation(context.asset_key, description="A run failed here.", metadata=reasons)
    )
    why = reasons.get("problem", "")
    for record in evaluated_checks(context.instance, _not_judged(context)).values():
        if record.evaluation:
            context.log_event(_repeated(record, why))


def _not_judged(context: dg.AssetExecutionContext) -> list[dg.AssetCheckKey]:
    """The checks that this run has planned and not evaluated."""
    planned: set[dg.AssetCheckKey] = set()
    evaluated: set[dg.AssetCheckKey] = set()
    kinds = {
        dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    }
    for entry in context.instance.all_logs(context.run.run_id, of_type=kinds):
        event = entry.get_dagster_event()
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluated.add(event.asset_check_evaluation_data.asset_check_key)
        else:
            planned.add(event.asset_check_planned_data.asset_check_key)
    return sorted(planned - evaluated)


def _repeated(record: AssetCheckExecutionRecord, why: str) -> dg.AssetCheckEvaluation:
    """What a check said last, with the reason why it says nothing new."""
    last = record.evaluation
    assert last
    at, said = judged_at(record), judgement(last)
    return dg.AssetCheckEvaluation(
        asset_key=last.asset_key,
        check_name=last.check_name,
        passed=last.passed,
        severity=last.severity,
        # Without it Dagster goes by when the run was created, and may show nothing.
        target_materialization_data=last.target_materialization_data,
        description=tables.words(f"not judged by the last run: {why}. At {at:%H:%M} UTC: {said}"),
        metadata={
            **last.metadata,
            _JUDGED_AT: dg.MetadataValue.timestamp(at),
            _JUDGED: said,
        },
    )
