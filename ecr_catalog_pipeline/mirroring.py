"""The mirror, read aloud: read governance, read the inventory, plan, publish, verify.

Each step is one function over the adapters and the core; the Dagster assets and the commands call
the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Final

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.adapters.ecr import EcrRegistry
from ecr_catalog_pipeline.adapters.governance_repo import GovernanceFile, GovernanceRepo
from ecr_catalog_pipeline.adapters.publisher import (
    Beside,
    BesidePublished,
    Provenance,
    Publisher,
    PublisherBeside,
)
from ecr_catalog_pipeline.core.entity import (
    EntityIdentity,
    PublishedEntity,
    last_sync_of,
    read_published,
    read_served,
    same_content,
)
from ecr_catalog_pipeline.core.errors import (
    BackstageUnavailable,
    CatalogError,
    GovernanceRefused,
    GovernanceUnavailable,
)
from ecr_catalog_pipeline.core.governance import Catalog, parse_governance
from ecr_catalog_pipeline.core.health import (
    Origin,
    RegistryHealth,
    Style,
    last_change,
    place_report,
    render_report,
)
from ecr_catalog_pipeline.core.inventory import Inventory, check_account
from ecr_catalog_pipeline.core.last_good import last_good_in_words
from ecr_catalog_pipeline.core.last_publication import LastPublication
from ecr_catalog_pipeline.core.parity import (
    Baseline,
    Evidence,
    ParityState,
    Verdict,
    entry_changes,
    judge,
    mark_published,
    record_changes,
)
from ecr_catalog_pipeline.core.plan import Current, Plan, make_plan, names_to_prove
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, reconcile
from ecr_catalog_pipeline.settings import Mirror

VISIBLE_SECONDS: Final = 20
"""How long a run waits for Backstage to show what it published."""

POLL_SECONDS: Final = 0.5

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
    """The reconciled registry and the plan that follows from it.

    Attributes:
        published_change: when the content that is published now last changed; None when unknown.
        account_id: the AWS account that answered.
        proved_absent: how many published repositories were looked up by name and are gone.
    """

    registry: ReconciledRegistry
    plan: Plan
    published_change: datetime | None = None
    account_id: str = ""
    proved_absent: int = 0


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of a plan.

    Attributes:
        digest: of the content that is published now.
        version: the target's version of it.
        equals_desired: the target, read back, holds what governance and AWS call for.
        published_at: when the target had taken it; None when nothing was written.
        last_sync: of that content, as it stands there; None when unknown.
        unread: why the target could not be read back after it had confirmed the write; empty when
            it could.
        report: what became of the health report; None when the mirror has none.
    """

    outcome: Outcome
    digest: str
    version: str | None
    equals_desired: bool
    published_at: datetime | None = None
    report: BesidePublished | None = None
    last_sync: str | None = None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """Where the health report goes, how, and where it comes from."""

    path: str
    style: Style
    origin: Origin


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


def read_inventory(registry: EcrRegistry, clock: Clock = now_utc) -> InventoryRead:
    """Read the registry, completely or not at all."""
    began_at = clock()
    return InventoryRead(registry.read(), began_at)


def last_good(publisher: Publisher, identity: EntityIdentity, clock: Clock = now_utc) -> str:
    """Say what is published, and how old its content is.

    Raises:
        CatalogError: the target cannot be read, or holds something that is not ours.
    """
    content = publisher.read().content
    published = read_published(content, identity) if content is not None else None
    return last_good_in_words(published, clock())


def plan_publication(
    mirror: Mirror,
    governance: GovernanceRead,
    inventory: InventoryRead,
    *,
    ecr: EcrRegistry,
    publisher: Publisher,
    backstage: BackstageCatalog | None = None,
    last: LastPublication | None = None,
    clock: Clock = now_utc,
) -> PlannedRegistry:
    """Reconcile, read what is published, prove absences, and plan.

    Args:
        ecr: looks up by name what would be removed and governance still means to have.
        backstage: asked what it serves, only where the target is absent.
        last: the last publication that the mirror's history knows; None when it knows none.

    Raises:
        InventoryFailed: another account answered, or an absence was disproved.
        TargetUnavailable, TargetRefused: the target cannot be read, or is not ours.
        EntityInvalid: Backstage would refuse the new entity.
    """
    found = inventory.inventory
    last_account = last.account_id if last else ""
    check_account(found.account_id, mirror.registry.account_id, last_account)
    registry = reconcile(governance.catalog, found)
    current = _current(mirror, publisher, backstage, last, clock)
    proved = ecr.prove_absent(found.account_id, names_to_prove(current.entity, registry))
    plan = make_plan(
        identity=mirror.identity,
        limits=mirror.removal_limits,
        registry=registry,
        inventory=found,
        current=current,
        source_sha=governance.source_sha,
        reads_began_at=min(governance.began_at, inventory.began_at),
        now=clock(),
        proved_absent=proved,
        account_is_known=bool(mirror.registry.account_id or last_account),
    )
    return PlannedRegistry(
        registry, plan, last_change(current.content), found.account_id, len(proved)
    )


def _current(
    mirror: Mirror,
    publisher: Publisher,
    backstage: BackstageCatalog | None,
    last: LastPublication | None,
    clock: Clock,
) -> Current:
    """Read what is published; where the target is absent, what was last known to be.

    Backstage knows the names, the history only how many there were.
    """
    identity, target = mirror.identity, publisher.read()
    if target.content is not None:
        return Current.at_target(target.content, target.version, identity)
    served = _served(backstage, identity)
    if served is not None:
        return Current.served(served, clock())
    if last is not None and last.is_of(identity.reference):
        return Current.remembered(last, publisher.where)
    return Current()


def _served(backstage: BackstageCatalog | None, identity: EntityIdentity) -> PublishedEntity | None:
    """Give our entity as Backstage serves it; None when it does not, or does not answer."""
    if backstage is None:
        return None
    try:
        return read_served(backstage.entity(identity.namespace, identity.name))
    except BackstageUnavailable:
        return None


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
    left = _left_alone(plan, approve)
    if left is not None:
        return left
    plan.check_age(clock())
    provenance = _provenance(plan, mirror, run_id, clock)
    version = publisher.publish(plan.content, plan.expected, provenance)
    return _published(publisher, plan, version, clock)


def publish_with_report(
    publisher: PublisherBeside,
    plan: Plan,
    health: RegistryHealth,
    target: ReportTarget,
    *,
    mirror: str,
    run_id: str,
    approve: str | None = None,
    clock: Clock = now_utc,
) -> Publication:
    """Publish a plan as `publish` does, and the health report in the same step.

    The report goes out when its own content has changed, also when the entity stays. Whatever is
    wrong with it never stops the entity.
    """
    left = _left_alone(plan, approve)
    provenance = _provenance(plan, mirror, run_id, clock)
    if left is None:
        plan.check_age(clock())
        beside = _beside(health.released(plan) if plan.held else health, target)
        version, report = publisher.publish_with(plan.content, plan.expected, provenance, beside)
        return replace(_published(publisher, plan, version, clock), report=report)
    provenance = replace(provenance, summary=f"health report, entity {left.outcome}")
    try:
        plan.check_age(clock())
        report = publisher.publish_beside(provenance, _beside(health, target))
    except CatalogError as error:
        report = BesidePublished(problem=error.problem, remediation=error.remediation)
    return replace(left, report=report)


def track_changes(
    state: ParityState,
    repo: GovernanceRepo,
    *,
    governance: GovernanceRead,
    inventory: InventoryRead,
    planned: PlannedRegistry,
    publication: Publication,
    still_held_at: datetime | None,
) -> ParityState:
    """Take up what a run changed, with the times at which each change was asked for."""
    differences = planned.plan.differences
    baseline = state.baseline
    committed: dict[str, dict[str, datetime]] = {}
    if baseline and differences and baseline.commit != governance.commit:
        committed = entry_changes(_history(repo, baseline.commit, governance))
    evidence = Evidence(
        baseline=baseline,
        committed=committed,
        created={
            each.name: min(each.created_at, inventory.began_at)
            for each in inventory.inventory.repositories
            if each.created_at is not None
        },
        still_held_at=still_held_at,
    )
    state = record_changes(state, differences, evidence)
    if publication.outcome is Outcome.HELD:
        return state
    if publication.published_at:
        state = mark_published(state, publication.published_at)
    return replace(
        state, baseline=Baseline(governance.commit, governance.began_at, inventory.began_at)
    )


def verify(
    backstage: BackstageCatalog,
    identity: EntityIdentity,
    expected: str,
    *,
    seconds: float | None = None,
) -> Verdict:
    """Ask Backstage until it serves what it should, or the time is up.

    What it serves at the first look is believed only if it is right; otherwise it is asked to read
    the entity's location again.

    Args:
        seconds: how long to ask; VISIBLE_SECONDS by default.

    Raises:
        BackstageUnavailable: it does not answer, or not to us.
    """
    deadline = time.monotonic() + (VISIBLE_SECONDS if seconds is None else seconds)
    verdict = judge(expected, backstage.entity(identity.namespace, identity.name))
    if not verdict.parity:
        backstage.refresh(identity.namespace, identity.name)
    while not verdict.parity and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        verdict = judge(expected, backstage.entity(identity.namespace, identity.name))
    return verdict


def _left_alone(plan: Plan, approve: str | None) -> Publication | None:
    """What comes of a plan that does not go out; None when it does."""
    if plan.unchanged:
        return Publication(
            Outcome.UNCHANGED,
            plan.digest,
            plan.expected,
            equals_desired=True,
            last_sync=plan.published_last_sync,
        )
    if plan.held and approve != plan.plan_hash:
        return Publication(
            Outcome.HELD,
            plan.published_digest or "",
            plan.expected,
            equals_desired=False,
            last_sync=plan.published_last_sync,
        )
    return None


def _published(publisher: Publisher, plan: Plan, version: str, clock: Clock) -> Publication:
    """Read back what was published: the target confirmed it, so it counts in any case."""
    published_at = clock()
    unread = ""
    try:
        now = publisher.read().content
        equals = now is not None and same_content(now, plan.content)
    except CatalogError as error:
        equals, unread = True, error.problem
    return Publication(
        Outcome.PUBLISHED,
        plan.digest,
        version,
        equals_desired=equals,
        published_at=published_at,
        last_sync=last_sync_of(plan.content),
        unread=unread,
    )


def _provenance(plan: Plan, mirror: str, run_id: str, clock: Clock) -> Provenance:
    return Provenance(
        mirror=mirror,
        summary=plan.summary,
        source_sha=plan.source_sha,
        plan_hash=plan.plan_hash,
        run_id=run_id,
        # Locks, fetches and retries take their time.
        fence=lambda: plan.check_age(clock()),
    )


def _beside(health: RegistryHealth, target: ReportTarget) -> Beside:
    report = render_report(health, target.origin, target.style)
    return Beside(target.path, partial(place_report, report))


def _history(
    repo: GovernanceRepo, since: str, governance: GovernanceRead
) -> list[tuple[datetime, Catalog]]:
    """Give the catalogs since a commit, without those that were refused: no run ever read them.

    What was published is recorded even when git does not tell its history: with coarser times. A
    committer's clock may be ahead; what was read was committed before its read began.
    """
    try:
        history = repo.history(since, governance.commit)
    except GovernanceUnavailable:
        return []
    catalogs = []
    for committed_at, content in history:
        try:
            catalogs.append((min(committed_at, governance.began_at), parse_governance(content)))
        except GovernanceRefused:
            continue
    return catalogs
