"""The assets of one mirror, in the order in which data flows through them."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.core.conformance import open_findings
from ecr_catalog_pipeline.core.errors import EntityInvalid
from ecr_catalog_pipeline.core.last_publication import left_behind
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.reconcile import State
from ecr_catalog_pipeline.defs import checks, tables
from ecr_catalog_pipeline.defs.common import asset_of, key_of
from ecr_catalog_pipeline.defs.event_log import read_past, read_published, rotation_metadata
from ecr_catalog_pipeline.defs.health_report import health_report_assets
from ecr_catalog_pipeline.defs.metrics import for_metrics
from ecr_catalog_pipeline.defs.not_judged import reported_on_the_asset
from ecr_catalog_pipeline.defs.outside import (
    ECR_REGISTRY,
    GOVERNANCE_FILE,
    observation,
    pinned,
)
from ecr_catalog_pipeline.defs.parity import parity_asset
from ecr_catalog_pipeline.mirroring import (
    GovernanceRead,
    InventoryRead,
    Outcome,
    PlannedRegistry,
    Publication,
)
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import Adapters


class PublishConfig(dg.Config):
    """What a human may say to a run."""

    approve: str | None = None
    """The `plan_hash` of a held plan that may be published."""


def mirror_assets(mirror: Mirror, adapters: Adapters) -> list[dg.AssetsDefinition]:
    """Define the assets of one mirror."""
    return [
        _governance_catalog(mirror, adapters),
        _ecr_inventory(mirror, adapters),
        _reconciled_registry(mirror, adapters),
        _published_entity(mirror, adapters),
        parity_asset(mirror, adapters),
        *health_report_assets(mirror, adapters),
    ]


def _governance_catalog(mirror: Mirror, adapters: Adapters) -> dg.AssetsDefinition:
    key = key_of(mirror, "governance_catalog")

    @asset_of(
        mirror,
        "governance_catalog",
        kinds={"git", "yaml"},
        deps=[key_of(mirror, GOVERNANCE_FILE)],
        check_specs=checks.governance_specs(key),
        description="The governance file, read at a commit and parsed: refused whole when the "
        "file is broken, with findings where an entry is.",
    )
    def governance_catalog(
        context: dg.AssetExecutionContext,
    ) -> dg.MaterializeResult[GovernanceRead]:
        with reported_on_the_asset(context):
            read = mirroring.read_governance(mirror, adapters)
        findings = open_findings(read.catalog, mirroring.now_utc().date())
        context.log_event(observation(mirror, GOVERNANCE_FILE, read.blob))
        return dg.MaterializeResult(
            value=read,
            data_version=dg.DataVersion(read.blob),
            tags=pinned(mirror, GOVERNANCE_FILE, read.blob),
            metadata={
                "repositories": len(read.catalog.entries),
                "findings": len(findings),
                "exceptions": len(read.catalog.exceptions),
                "commit": tables.commit(mirror.governance.repository, read.source_sha),
                "committed_at": dg.MetadataValue.timestamp(read.committed_at),
                "findings_table": tables.findings(findings),
            },
            check_results=[checks.governance_findings(findings)],
        )

    return governance_catalog


def _ecr_inventory(mirror: Mirror, adapters: Adapters) -> dg.AssetsDefinition:
    @asset_of(
        mirror,
        "ecr_inventory",
        kinds={"aws", "ecr"},
        deps=[key_of(mirror, ECR_REGISTRY)],
        description="Every repository of the registry, read completely or not at all.",
    )
    def ecr_inventory(context: dg.AssetExecutionContext) -> dg.MaterializeResult[InventoryRead]:
        with reported_on_the_asset(context):
            read = mirroring.read_inventory(adapters.registry)
        inventory = read.inventory
        context.log_event(observation(mirror, ECR_REGISTRY, inventory.fingerprint))
        return dg.MaterializeResult(
            value=read,
            data_version=dg.DataVersion(inventory.fingerprint),
            tags=pinned(mirror, ECR_REGISTRY, inventory.fingerprint),
            metadata={
                "repositories": len(inventory.repositories),
                "account_id": inventory.account_id,
                "region": inventory.region,
            },
        )

    return ecr_inventory


def _reconciled_registry(mirror: Mirror, adapters: Adapters) -> dg.AssetsDefinition:
    key = key_of(mirror, "reconciled_registry")

    @asset_of(
        mirror,
        "reconciled_registry",
        kinds={"python"},
        ins={
            "governance": dg.AssetIn(key_of(mirror, "governance_catalog")),
            "inventory": dg.AssetIn(key_of(mirror, "ecr_inventory")),
        },
        check_specs=checks.reconciled_specs(key),
        description="Every repository in its one state, and the plan: what the next publication "
        "would change, and whether the removal guard holds it. The absence of what it would remove "
        "is proved by a look-up. Settings in AWS are held against the policy, and what the "
        "governance file excepts is listed apart.",
    )
    def reconciled_registry(
        context: dg.AssetExecutionContext, governance: GovernanceRead, inventory: InventoryRead
    ) -> Iterator[Any]:
        past = read_past(context.instance, mirror, context.run.tags)
        with reported_on_the_asset(context):
            try:
                planned = mirroring.plan_publication(
                    mirror, adapters, governance, inventory, past, asks_retention=True
                )
            except EntityInvalid as error:
                yield checks.entity_valid(error)
                raise
        yield dg.MaterializeResult(
            value=planned,
            data_version=dg.DataVersion(planned.plan.digest),
            metadata=_plan_metadata(mirror, planned, mirroring.now_utc()),
            check_results=[
                checks.no_ghosts(planned),
                checks.no_orphans(planned),
                checks.entity_valid(None),
            ],
        )

    return reconciled_registry


def _published_entity(mirror: Mirror, adapters: Adapters) -> dg.AssetsDefinition:
    @asset_of(
        mirror,
        "published_entity",
        kinds={"backstage", mirror.publish.kind},
        ins={"planned": dg.AssetIn(key_of(mirror, "reconciled_registry"))},
        check_specs=checks.published_specs(key_of(mirror, "published_entity")),
        description="The one generated Backstage entity, published where Backstage reads it; "
        "untouched when nothing changed, the last good one while a plan is held.",
    )
    def published_entity(
        context: dg.AssetExecutionContext, config: PublishConfig, planned: PlannedRegistry
    ) -> dg.MaterializeResult[Publication]:
        with reported_on_the_asset(context):
            publication = mirroring.publish(
                adapters.publisher,
                planned,
                mirror=mirror.name,
                run_id=context.run.run_id,
                approve=config.approve,
            )
        return _publication_result(context, mirror, adapters.publisher.where, planned, publication)

    return published_entity


def _publication_result(
    context: dg.AssetExecutionContext,
    mirror: Mirror,
    where: str,
    planned: PlannedRegistry,
    publication: Publication,
) -> dg.MaterializeResult[Publication]:
    plan = planned.plan
    context.log.info("%s: %s", publication.outcome, plan.summary)
    before = read_published(context.instance, mirror)
    stays = left_behind(before.last, where, mirror.identity.reference)
    if stays:
        context.log.warning("%s", stays)
    now = mirroring.now_utc()
    last = mirroring.remember(mirror, where, planned, publication, before.last)
    after = before.after(publication, last, now)
    return dg.MaterializeResult(
        value=publication,
        data_version=dg.DataVersion(publication.digest),
        metadata={
            "outcome": publication.outcome.value,
            "target": where,
            **({"left_behind": stays} if stays else {}),
            "version": publication.version or "",
            **after.metadata(),
            "live": plan.counts[State.LIVE],
            "diff": tables.diff(plan.changes),
            "entity": _preview(plan.content),
        },
        check_results=[
            checks.removal_guard(mirror.name, plan, publication, after.held_since),
            checks.published_equals_desired(plan, publication),
            checks.last_known_good(after, now, _why_not_renewed(plan, publication)),
        ],
    )


def _plan_metadata(mirror: Mirror, planned: PlannedRegistry, now: datetime) -> dict[str, Any]:
    plan, registry = planned.plan, planned.registry
    return {
        **{state.value: count for state, count in plan.counts.items()},
        "findings": len(registry.findings),
        **for_metrics(registry),
        "held": plan.held,
        **({"held_because": "; ".join(plan.reasons_held)} if plan.held else {}),
        "proved_absent": planned.proved_absent,
        "diff": tables.diff(plan.changes),
        "findings_table": tables.findings(registry.findings),
        "states": tables.repositories(registry.repositories),
        **_policy_metadata(planned, now),
        "source_sha": tables.commit(mirror.governance.repository, plan.source_sha),
        "plan_hash": plan.plan_hash,
        **rotation_metadata(planned.rotation),
    }


def _policy_metadata(planned: PlannedRegistry, now: datetime) -> dict[str, dg.TableMetadataValue]:
    """What policy and exceptions say, without the tables that would be empty."""
    found = {
        "excepted_table": tables.findings(planned.registry.excepted),
        "conformance": tables.conformance(planned.registry.conformance),
        "retention": tables.retention(planned.rotation, now),
        "registry_settings": tables.registry_settings(planned.settings),
    }
    return {name: table for name, table in found.items() if table.records}


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
