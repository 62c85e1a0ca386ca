"""The asset `health_report`: the registry's health as Markdown, published after the entity."""

from typing import Any, Final

import dagster as dg

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.core.health import RegistryHealth
from ecr_catalog_pipeline.defs import tables
from ecr_catalog_pipeline.defs.common import asset_of, key_of
from ecr_catalog_pipeline.defs.event_log import read_parity, read_published
from ecr_catalog_pipeline.mirroring import PlannedRegistry, Publication, ReportPublished
from ecr_catalog_pipeline.settings import HealthSettings, Mirror
from ecr_catalog_pipeline.wiring import Adapters

HEALTH_REPORT_PUBLISHED: Final = "health_report_published"


def health_report_assets(mirror: Mirror, adapters: Adapters) -> list[dg.AssetsDefinition]:
    """Define the asset of a mirror that has a health report; none of another one."""
    settings = mirror.health
    if settings is None:
        return []
    key = key_of(mirror, "health_report")

    @asset_of(
        mirror,
        "health_report",
        kinds={"markdown"},
        ins={
            "planned": dg.AssetIn(key_of(mirror, "reconciled_registry")),
            "publication": dg.AssetIn(key_of(mirror, "published_entity")),
        },
        # What this run measured goes into its report.
        deps=[key_of(mirror, "backstage_parity")],
        check_specs=[
            dg.AssetCheckSpec(
                HEALTH_REPORT_PUBLISHED,
                asset=key,
                description=f"The health report is in `{settings.path}`. Only warns: the "
                "entity is published all the same.",
            )
        ],
        description=f"The registry's health as Markdown, in `{settings.path}`: repositories by "
        "state, findings, times to parity. Published after the entity, in a commit of its own.",
    )
    def health_report(
        context: dg.AssetExecutionContext, planned: PlannedRegistry, publication: Publication
    ) -> dg.MaterializeResult[Any]:
        # An instance that ends with the run has seen nothing begin.
        held_since = (
            None
            if context.instance.is_ephemeral
            else read_published(context.instance, mirror).held_since
        )
        parity = read_parity(context.instance, mirror)
        health = mirroring.gather_health(
            mirror, planned, publication, parity, held_since=held_since
        )
        published = mirroring.publish_report(mirror, adapters, health, planned, context.run.run_id)
        assert published is not None
        assert published.report is not None
        return dg.MaterializeResult(
            data_version=dg.DataVersion(published.report.seal.facts),
            metadata={
                "report": dg.MetadataValue.md(published.report.body),
                "path": settings.path,
                "style": settings.style,
                "version": published.version or "",
                "changes_measured": health.measured,
                **_times(health),
            },
            check_results=[_check(published, settings)],
        )

    return [health_report]


def _times(health: RegistryHealth) -> dict[str, int]:
    times = {"p50": health.week.p50, "p95": health.week.p95, "max": health.week.max}
    return {f"time_to_parity_7_days_{name}": at for name, at in times.items() if at is not None}


def _check(published: ReportPublished, settings: HealthSettings) -> dg.AssetCheckResult:
    """Say why the report is not where it should be, and how to fix that."""
    problem = published.problem
    return dg.AssetCheckResult(
        check_name=HEALTH_REPORT_PUBLISHED,
        passed=not problem,
        severity=dg.AssetCheckSeverity.WARN,
        # The problem quotes others; the remediation is ours, with markers that people copy.
        description=f"{tables.words(problem)}. {published.remediation}"
        if problem
        else f"{settings.path} is up to date",
        metadata={"problem": problem, "remediation": published.remediation} if problem else {},
    )
