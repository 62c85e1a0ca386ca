"""One Dagster run of a mirror's assets in this process."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

import dagster as dg

from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.core.parity import Verdict
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs.checks import BACKSTAGE_IN_PARITY
from ecr_catalog_pipeline.defs.event_log import published_key
from ecr_catalog_pipeline.defs.health_report import HEALTH_REPORT_PUBLISHED
from ecr_catalog_pipeline.defs.jobs import run_by_this_process
from ecr_catalog_pipeline.defs.kept import text_of
from ecr_catalog_pipeline.mirroring import Publication, ReportPublished, Tick
from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror, sync_job_name


def run_assets(
    mirror: Mirror, environ: Mapping[str, str], instance: dg.DagsterInstance, approve: str | None
) -> Tick:
    """Run the assets of a mirror in this process.

    Raises:
        CatalogError: what stopped the run.
    """
    definitions = build_definitions(
        LoadedMirrors({mirror.name: mirror}, {}),
        environ=environ,
        # A run of the daemon may be under way; neither must read the other's values.
        io_manager=dg.mem_io_manager,
        only=mirror,
    )
    job = definitions.resolve_job_def(sync_job_name(mirror.name))
    config: dict[str, object] = {
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "ops": {f"{mirror.name}__published_entity": {"config": {"approve": approve}}},
    }
    run_id = str(uuid4())
    try:
        result = job.execute_in_process(
            instance=instance,
            run_config=config,
            run_id=run_id,
            tags=dict(run_by_this_process(run_id)),
        )
    except dg.Failure as failure:
        if isinstance(failure.__cause__, CatalogError):
            raise failure.__cause__ from None
        raise
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    published = published_key(mirror)
    publication: Publication = result.asset_value(published)
    (stays,) = (
        text_of(event.materialization.metadata, "left_behind")
        for event in result.get_asset_materialization_events()
        if event.asset_key == published
    )
    parity, report = found[BACKSTAGE_IN_PARITY], found.get(HEALTH_REPORT_PUBLISHED)
    return Tick(
        planned=result.asset_value([mirror.name, "reconciled_registry"]),
        publication=publication,
        verdict=Verdict(parity.passed, parity.description or "", publication.digest, None),
        report=_report(report.metadata) if report else None,
        left_behind=stays or "",
    )


def _report(metadata: Mapping[str, dg.MetadataValue]) -> ReportPublished:
    """Give what the check of the health report says."""
    problem, remediation = (text_of(metadata, name) for name in ("problem", "remediation"))
    return ReportPublished(None, problem=problem or "", remediation=remediation or "")
