"""What the asset `health_report` gathers and shows, and what the publication says of the report."""

import dagster as dg

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.publisher import BesidePublished
from ecr_catalog_pipeline.core.health import (
    Origin,
    RegistryHealth,
    Style,
    registry_health,
    render_report,
)
from ecr_catalog_pipeline.core.parity import ParityState
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.defs.jobs import sync_job_name
from ecr_catalog_pipeline.defs.last_good import read_last_good
from ecr_catalog_pipeline.defs.parity_state import read_state
from ecr_catalog_pipeline.mirroring import PlannedRegistry, ReportTarget
from ecr_catalog_pipeline.settings import HealthSettings, Mirror

HEALTH_REPORT_PUBLISHED = "health_report_published"


def gather_health(
    context: dg.AssetExecutionContext, mirror: Mirror, planned: PlannedRegistry
) -> RegistryHealth:
    """Gather what the report of a mirror says, out of this run and of the event log."""
    now = mirroring.now_utc()
    held_since = None
    if planned.plan.held:
        before = read_last_good(context.instance, dg.AssetKey([mirror.name, "published_entity"]))
        # An instance that ends with the run has seen nothing begin.
        held_since = before.held_since or (None if context.instance.is_ephemeral else now)
    return registry_health(
        mirror=mirror.name,
        title=mirror.identity.title,
        registry=planned.registry,
        plan=planned.plan,
        published_change=planned.published_change,
        parity=_parity(context, mirror),
        held_since=held_since,
        slo_seconds=mirror.parity.slo_seconds,
        now=now,
    )


def report_target(
    mirror: Mirror, settings: HealthSettings, plan: Plan, run_id: str
) -> ReportTarget:
    """Where the report of a mirror goes, and where it comes from."""
    return ReportTarget(
        path=settings.path,
        style=Style(settings.style),
        origin=Origin(
            branch=mirror.governance.branch,
            sha=plan.source_sha,
            workflow=sync_job_name(mirror.name),
            run_id=run_id,
            env=settings.env or mirror.name,
        ),
    )


def health_result(
    health: RegistryHealth, target: ReportTarget
) -> dg.MaterializeResult[RegistryHealth]:
    """Show the report in the Dagster UI."""
    report = render_report(health, target.origin, target.style)
    return dg.MaterializeResult(
        value=health,
        data_version=dg.DataVersion(report.seal.facts),
        metadata={
            "report": dg.MetadataValue.md(report.body),
            "path": target.path,
            "style": target.style.value,
            "changes_measured": health.measured,
            **{
                f"time_to_parity_7_days_{name}": value
                for name, value in (
                    ("p50", health.week.p50),
                    ("p95", health.week.p95),
                    ("max", health.week.max),
                )
                if value is not None
            },
        },
    )


def report_metadata(report: BesidePublished | None) -> dict[str, str]:
    """What `published_entity` says of the report."""
    return {"health_report_commit": report.commit} if report and report.commit else {}


def report_specs(asset: dg.AssetKey, settings: HealthSettings | None) -> list[dg.AssetCheckSpec]:
    """The check of the report, for a mirror that has one."""
    if settings is None:
        return []
    return [
        dg.AssetCheckSpec(
            HEALTH_REPORT_PUBLISHED,
            asset=asset,
            description=f"The health report stands in `{settings.path}`. Only warns: the entity is "
            "published all the same.",
        )
    ]


def report_checks(
    report: BesidePublished | None, settings: HealthSettings | None
) -> list[dg.AssetCheckResult]:
    """Say why the report is not where it should be, and how to fix that."""
    if report is None or settings is None:
        return []
    return [
        dg.AssetCheckResult(
            check_name=HEALTH_REPORT_PUBLISHED,
            passed=not report.problem,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{report.problem}. {report.remediation}"
            if report.problem
            else f"{settings.path} is up to date",
            metadata={"problem": report.problem, "remediation": report.remediation}
            if report.problem
            else {},
        )
    ]


def _parity(context: dg.AssetExecutionContext, mirror: Mirror) -> ParityState:
    """What was measured; nothing when it cannot be read, since the entity waits for no report."""
    kept = read_state(context.instance, dg.AssetKey([mirror.name, "backstage_parity"]))
    if kept.problem:
        context.log.warning("what earlier runs measured %s", kept.problem)
    return kept.value or ParityState()
