"""The assets of one mirror, in the order in which data flows through them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import dagster as dg

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.core.errors import CatalogError, EntityInvalid
from ecr_catalog_pipeline.core.health import RegistryHealth
from ecr_catalog_pipeline.core.last_publication import left_behind
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.reconcile import State
from ecr_catalog_pipeline.defs import checks, health_report, tables
from ecr_catalog_pipeline.defs.last_good import CONTENT_DIGEST, read_last_good
from ecr_catalog_pipeline.defs.last_publication import (
    after_run,
    last_publication_metadata,
    read_last_publication,
)
from ecr_catalog_pipeline.defs.resources import (
    backstage_key,
    governance_key,
    publisher_key,
    registry_key,
)
from ecr_catalog_pipeline.mirroring import (
    GovernanceRead,
    InventoryRead,
    Outcome,
    PlannedRegistry,
    Publication,
)
from ecr_catalog_pipeline.settings import HealthSettings, Mirror

CODE_VERSION = "1"
FRESHNESS = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(seconds=180), warn_window=timedelta(seconds=150)
)


class PublishConfig(dg.Config):
    """What a human may say to a run."""

    approve: str | None = None
    """The `plan_hash` of a held plan that may be published."""


def mirror_assets(mirror: Mirror) -> list[dg.AssetsDefinition]:
    """Define the assets of one mirror up to the publication."""
    return [
        _governance_catalog(mirror),
        _ecr_inventory(mirror),
        _reconciled_registry(mirror),
        *([_health_report(mirror, mirror.health)] if mirror.health else []),
        _published_entity(mirror),
    ]


def external_assets(mirror: Mirror) -> list[dg.AssetSpec]:
    """Define what a mirror reads and what Backstage makes of it: observed, never computed."""
    return [_governance_file(mirror), _ecr_registry(mirror), _backstage_entity(mirror)]


def pool(mirror: Mirror) -> str:
    """The pool that lets one run of a mirror through at a time."""
    return f"mirror_{mirror.name}"


def _governance_file(mirror: Mirror) -> dg.AssetSpec:
    source = mirror.governance
    return dg.AssetSpec(
        key_of(mirror, "governance_file"),
        group_name=mirror.name,
        kinds={"git", "yaml"},
        description=f"`{source.path}` on branch `{source.branch}` of `{source.repository}`: what "
        "the company means to have.",
    )


def _ecr_registry(mirror: Mirror) -> dg.AssetSpec:
    registry = mirror.registry
    return dg.AssetSpec(
        key_of(mirror, "ecr_registry"),
        group_name=mirror.name,
        kinds={"aws", "ecr"},
        description=f"The ECR registry of account `{registry.account_id or 'any'}` in "
        f"`{registry.region}`: what is really there.",
    )


def _backstage_entity(mirror: Mirror) -> dg.AssetSpec:
    identity = mirror.identity
    return dg.AssetSpec(
        key_of(mirror, "backstage_entity"),
        deps=[key_of(mirror, "published_entity")],
        group_name=mirror.name,
        kinds={"backstage"},
        description=f"`resource:{identity.namespace}/{identity.name}`: what Backstage shows.",
    )


def _governance_catalog(mirror: Mirror) -> dg.AssetsDefinition:
    key = key_of(mirror, "governance_catalog")
    resource = governance_key(mirror)

    @asset_of(
        mirror,
        "governance_catalog",
        kinds={"git", "yaml"},
        deps=[key_of(mirror, "governance_file")],
        required_resource_keys={resource},
        check_specs=checks.governance_specs(key),
        description="The governance file, read at a commit and parsed: refused whole when the "
        "file is broken, with findings where an entry is.",
    )
    def governance_catalog(
        context: dg.AssetExecutionContext,
    ) -> dg.MaterializeResult[GovernanceRead]:
        with told_to_dagster():
            read = mirroring.read_governance(
                getattr(context.resources, resource), mirror.governance.path
            )
        return dg.MaterializeResult(
            value=read,
            data_version=dg.DataVersion(read.blob),
            metadata={
                "repositories": len(read.catalog.entries),
                "findings": len(read.catalog.findings),
                "commit": tables.commit(mirror.governance.repository, read.source_sha),
                "committed_at": dg.MetadataValue.timestamp(read.committed_at),
                "findings_table": tables.findings(read.catalog.findings),
            },
            check_results=[checks.governance_findings(read)],
        )

    return governance_catalog


def _ecr_inventory(mirror: Mirror) -> dg.AssetsDefinition:
    registry = registry_key(mirror)

    @asset_of(
        mirror,
        "ecr_inventory",
        kinds={"aws", "ecr"},
        deps=[key_of(mirror, "ecr_registry")],
        required_resource_keys={registry},
        description="Every repository of the registry, read completely or not at all.",
    )
    def ecr_inventory(context: dg.AssetExecutionContext) -> dg.MaterializeResult[InventoryRead]:
        with told_to_dagster():
            read = mirroring.read_inventory(getattr(context.resources, registry))
        inventory = read.inventory
        return dg.MaterializeResult(
            value=read,
            data_version=dg.DataVersion(inventory.fingerprint),
            metadata={
                "repositories": len(inventory.repositories),
                "account_id": inventory.account_id,
                "region": inventory.region,
            },
        )

    return ecr_inventory


def _reconciled_registry(mirror: Mirror) -> dg.AssetsDefinition:
    key = key_of(mirror, "reconciled_registry")
    target, registry = publisher_key(mirror), registry_key(mirror)
    backstage = backstage_key(mirror)

    @asset_of(
        mirror,
        "reconciled_registry",
        kinds={"python"},
        ins={
            "governance": dg.AssetIn(key_of(mirror, "governance_catalog")),
            "inventory": dg.AssetIn(key_of(mirror, "ecr_inventory")),
        },
        required_resource_keys={target, registry, backstage},
        check_specs=checks.reconciled_specs(key),
        description="Every repository in its one state, and the plan: what the next publication "
        "would change, and whether the removal guard holds it. The absence of what it would remove "
        "is proved by a look-up.",
    )
    def reconciled_registry(
        context: dg.AssetExecutionContext, governance: GovernanceRead, inventory: InventoryRead
    ) -> Iterator[Any]:
        with told_to_dagster():
            try:
                planned = mirroring.plan_publication(
                    mirror,
                    governance,
                    inventory,
                    ecr=getattr(context.resources, registry),
                    publisher=getattr(context.resources, target),
                    backstage=getattr(context.resources, backstage),
                    last=read_last_publication(
                        context.instance, key_of(mirror, "published_entity")
                    ),
                )
            except EntityInvalid as error:
                yield checks.entity_valid(error)
                raise
        yield dg.MaterializeResult(
            value=planned,
            data_version=dg.DataVersion(planned.plan.digest),
            metadata=_plan_metadata(mirror, planned),
            check_results=[
                checks.no_ghosts(planned),
                checks.no_orphans(planned),
                checks.entity_valid(None),
            ],
        )

    return reconciled_registry


def _health_report(mirror: Mirror, settings: HealthSettings) -> dg.AssetsDefinition:
    @asset_of(
        mirror,
        "health_report",
        kinds={"markdown"},
        ins={"planned": dg.AssetIn(key_of(mirror, "reconciled_registry"))},
        description=f"The registry's health as Markdown, for `{settings.path}`: repositories by "
        "state, findings, times to parity. Goes out with the entity, and never holds it up.",
    )
    def health_report_asset(
        context: dg.AssetExecutionContext, planned: PlannedRegistry
    ) -> dg.MaterializeResult[RegistryHealth]:
        health = health_report.gather_health(context, mirror, planned)
        target = health_report.report_target(mirror, settings, planned.plan, context.run.run_id)
        return health_report.health_result(health, target)

    return health_report_asset


def _published_entity(mirror: Mirror) -> dg.AssetsDefinition:
    key = key_of(mirror, "published_entity")
    target = publisher_key(mirror)
    decorate = asset_of(
        mirror,
        "published_entity",
        kinds={"backstage", mirror.publish.kind},
        ins={
            "planned": dg.AssetIn(key_of(mirror, "reconciled_registry")),
            **({"health": dg.AssetIn(key_of(mirror, "health_report"))} if mirror.health else {}),
        },
        required_resource_keys={target},
        check_specs=[
            *checks.published_specs(key),
            *health_report.report_specs(key, mirror.health),
        ],
        description="The one generated Backstage entity, published where Backstage reads it; "
        "untouched when nothing changed, the last good one while a plan is held.",
    )

    def published_entity(
        context: dg.AssetExecutionContext, config: PublishConfig, planned: PlannedRegistry
    ) -> dg.MaterializeResult[Publication]:
        with told_to_dagster():
            publication = mirroring.publish(
                getattr(context.resources, target),
                planned.plan,
                mirror=mirror.name,
                run_id=context.run.run_id,
                approve=config.approve,
            )
        return _publication_result(context, mirror, planned, publication)

    def published_entity_and_report(
        context: dg.AssetExecutionContext,
        config: PublishConfig,
        planned: PlannedRegistry,
        health: RegistryHealth,
    ) -> dg.MaterializeResult[Publication]:
        assert mirror.health is not None
        run_id = context.run.run_id
        with told_to_dagster():
            publication = mirroring.publish_with_report(
                getattr(context.resources, target),
                planned.plan,
                health,
                health_report.report_target(mirror, mirror.health, planned.plan, run_id),
                mirror=mirror.name,
                run_id=run_id,
                approve=config.approve,
            )
        return _publication_result(context, mirror, planned, publication)

    return decorate(published_entity_and_report if mirror.health else published_entity)


def _publication_result(
    context: dg.AssetExecutionContext,
    mirror: Mirror,
    planned: PlannedRegistry,
    publication: Publication,
) -> dg.MaterializeResult[Publication]:
    plan, key = planned.plan, key_of(mirror, "published_entity")
    context.log.info("%s: %s", publication.outcome, plan.summary)
    now = mirroring.now_utc()
    good = read_last_good(context.instance, key).after(publication, now)
    where = getattr(context.resources, publisher_key(mirror)).where
    last = read_last_publication(context.instance, key)
    stays = left_behind(last, where, mirror.identity.reference)
    if stays:
        context.log.warning("%s", stays)
    return dg.MaterializeResult(
        value=publication,
        data_version=dg.DataVersion(publication.digest),
        metadata={
            "outcome": publication.outcome.value,
            "target": where,
            **({"left_behind": stays} if stays else {}),
            **last_publication_metadata(
                after_run(
                    last,
                    planned,
                    publication,
                    kind=mirror.publish.kind,
                    where=where,
                    identity=mirror.identity,
                )
            ),
            "version": publication.version or "",
            CONTENT_DIGEST: publication.digest,
            **good.metadata(),
            "live": plan.counts[State.LIVE],
            "diff": tables.diff(plan.changes),
            "entity": _preview(plan.content),
            **health_report.report_metadata(publication.report),
        },
        check_results=[
            checks.removal_guard(mirror.name, plan, publication, good.held_since),
            checks.published_equals_desired(plan, publication),
            checks.last_known_good(good, now, _why_not_renewed(plan, publication)),
            *health_report.report_checks(publication.report, mirror.health),
        ],
    )


def key_of(mirror: Mirror, name: str) -> dg.AssetKey:
    return dg.AssetKey([mirror.name, name])


def asset_of(
    mirror: Mirror, name: str, *, kinds: set[str], **specific: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Give `dagster.asset` with what all assets of a mirror have in common."""

    def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
        # Dagster would take the return type for the type of every output, the checks' included.
        compute.__annotations__.pop("return", None)
        asset: dg.AssetsDefinition = dg.asset(
            key=key_of(mirror, name),
            group_name=mirror.name,
            kinds=kinds,
            owners=_owners(mirror.identity.owner),
            code_version=CODE_VERSION,
            freshness_policy=FRESHNESS,
            pool=pool(mirror),
            io_manager_key="io_manager",
            **specific,
        )(compute)
        return asset

    return decorate


def _owners(owner: str) -> list[str]:
    """Spell a Backstage owner such as `group:default/platform-team` as Dagster does, if it can."""
    team = re.sub(r"[^A-Za-z0-9_-]+", "-", owner.rsplit("/", 1)[-1]).strip("-")
    return [f"team:{team}"] if team else []


def _plan_metadata(mirror: Mirror, planned: PlannedRegistry) -> dict[str, Any]:
    plan = planned.plan
    return {
        **{state.value: count for state, count in plan.counts.items()},
        "findings": len(planned.registry.findings),
        "source_sha": tables.commit(mirror.governance.repository, plan.source_sha),
        "plan_hash": plan.plan_hash,
        "held": plan.held,
        "held_because": "; ".join(plan.reasons_held),
        "proved_absent": planned.proved_absent,
        "diff": tables.diff(plan.changes),
        "states": tables.repositories(planned.registry.repositories),
        "findings_table": tables.findings(planned.registry.findings),
    }


def _why_not_renewed(plan: Plan, publication: Publication) -> str | None:
    if publication.outcome is Outcome.HELD:
        return "a plan is held: " + "; ".join(plan.reasons_held)
    return (
        None if publication.equals_desired else "the target was changed right after it was written"
    )


def _preview(content: bytes) -> dg.MarkdownMetadataValue:
    lines = content.decode().split("\n")
    shown = "\n".join(lines[:60] + ["# ..."] * (len(lines) > 60))
    fence = "`" * 6
    return dg.MetadataValue.md(f"{fence}yaml\n{shown}\n{fence}")


@contextmanager
def told_to_dagster() -> Iterator[None]:
    """Show an error of ours as its words and its way out, without a traceback."""
    try:
        yield
    except CatalogError as error:
        raise dg.Failure(
            description=str(error),
            metadata={
                "kind": type(error).__name__,
                "problem": error.problem,
                "remediation": error.remediation,
                "needs": error.needs,
            },
            allow_retries=False,
        ) from error
