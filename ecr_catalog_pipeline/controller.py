"""The mirror, read aloud: read governance, read the inventory, plan, publish.

Each step is one function over the adapters and the core; the Dagster assets and the commands call
the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from ecr_catalog_pipeline.adapters.ecr import EcrRegistry
from ecr_catalog_pipeline.adapters.governance_repo import GovernanceFile, GovernanceRepo
from ecr_catalog_pipeline.adapters.publisher import Provenance, Publisher
from ecr_catalog_pipeline.core.entity import EntityIdentity, read_published, same_content
from ecr_catalog_pipeline.core.governance import Catalog, parse_governance
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.plan import Plan, make_plan
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, reconcile
from ecr_catalog_pipeline.settings import Mirror

Clock = Callable[[], datetime]


class Outcome(StrEnum):
    """What a publication came to."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class GovernanceRead:
    """The governance catalog at a commit, and when its read began."""

    catalog: Catalog
    blob: str
    commit: str
    source_sha: str
    committed_at: datetime
    began_at: datetime


@dataclass(frozen=True, slots=True)
class InventoryRead:
    """The ECR inventory, and when its read began."""

    inventory: Inventory
    began_at: datetime


@dataclass(frozen=True, slots=True)
class PlannedRegistry:
    """The reconciled registry and the plan that follows from it."""

    registry: ReconciledRegistry
    plan: Plan


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of a plan.

    Attributes:
        digest: of the content that is published now.
        version: the target's version of it.
        equals_desired: the target, read back, holds what governance and AWS call for.
    """

    outcome: Outcome
    digest: str
    version: str | None
    equals_desired: bool


def now_utc() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def read_governance(repo: GovernanceRepo, path: str, clock: Clock = now_utc) -> GovernanceRead:
    """Read and parse the governance file at the branch's tip."""
    began_at = clock()
    file: GovernanceFile = repo.read()
    return GovernanceRead(
        catalog=parse_governance(file.content, path=path.rsplit("/", 1)[-1]),
        blob=file.blob,
        commit=file.commit,
        source_sha=file.source_sha,
        committed_at=file.committed_at,
        began_at=began_at,
    )


def read_inventory(
    registry: EcrRegistry,
    publisher: Publisher,
    identity: EntityIdentity,
    clock: Clock = now_utc,
) -> InventoryRead:
    """Read the registry, and prove the absence of what is published and not listed."""
    began_at = clock()
    published = publisher.read().content
    lines = read_published(published, identity).repositories if published is not None else {}
    uris = {name: str(line.get("uri", "")) for name, line in lines.items()}
    return InventoryRead(registry.read(uris), began_at)


def plan_publication(
    mirror: Mirror,
    governance: GovernanceRead,
    inventory: InventoryRead,
    publisher: Publisher,
    clock: Clock = now_utc,
) -> PlannedRegistry:
    """Reconcile, and compare with what is published now."""
    registry = reconcile(governance.catalog, inventory.inventory)
    published = publisher.read()
    plan = make_plan(
        identity=mirror.identity,
        limits=mirror.removal_limits,
        registry=registry,
        inventory=inventory.inventory,
        published=published.content,
        expected=published.version,
        source_sha=governance.source_sha,
        reads_began_at=min(governance.began_at, inventory.began_at),
        now=clock(),
    )
    return PlannedRegistry(registry, plan)


def publish(
    publisher: Publisher,
    plan: Plan,
    *,
    mirror: str,
    run_id: str,
    approve: str | None = None,
    clock: Clock = now_utc,
) -> Publication:
    """Publish a plan, unless there is nothing to publish or the guard holds it.

    Args:
        approve: the `plan_hash` that someone approved; it goes for that very plan.
    """
    if plan.unchanged:
        return Publication(Outcome.UNCHANGED, plan.digest, plan.expected, equals_desired=True)
    if plan.held and approve != plan.plan_hash:
        return Publication(
            Outcome.HELD, plan.published_digest or "", plan.expected, equals_desired=False
        )
    plan.check_age(clock())
    version = publisher.publish(
        plan.content,
        plan.expected,
        Provenance(
            mirror=mirror,
            summary=plan.summary,
            source_sha=plan.source_sha,
            plan_hash=plan.plan_hash,
            run_id=run_id,
        ),
    )
    now = publisher.read().content
    return Publication(
        Outcome.PUBLISHED,
        plan.digest,
        version,
        equals_desired=now is not None and same_content(now, plan.content),
    )
