"""One tick of a mirror, in order, and its steps.

`run_tick` is what the commands call; the Dagster assets are the same steps, one each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.adapters.ecr import EcrRegistry, OnPage
from ecr_catalog_pipeline.adapters.governance_repo import GovernanceFile
from ecr_catalog_pipeline.adapters.publisher import Lists, Provenance, Published, Publisher
from ecr_catalog_pipeline.core.conformance import Learnt, check_conformance, needs_of
from ecr_catalog_pipeline.core.ecr_settings import EcrSettings
from ecr_catalog_pipeline.core.entity import (
    DesiredEntity,
    EntityIdentity,
    PublishedEntity,
    desired_entity,
    last_sync_of,
    list_digest,
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
from ecr_catalog_pipeline.core.governance import Catalog
from ecr_catalog_pipeline.core.health import (
    Origin,
    RegistryHealth,
    RenderedReport,
    Style,
    last_change,
    place_report,
    registry_health,
    render_report,
)
from ecr_catalog_pipeline.core.inventory import Inventory, check_account
from ecr_catalog_pipeline.core.last_good import last_good_in_words
from ecr_catalog_pipeline.core.last_publication import LastPublication, left_behind
from ecr_catalog_pipeline.core.parity import (
    Baseline,
    Evidence,
    ParityInput,
    ParityState,
    Verdict,
    entry_changes,
    judge,
)
from ecr_catalog_pipeline.core.plan import Current, Plan, make_plan, names_to_prove
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State, reconcile
from ecr_catalog_pipeline.core.retention import Rotation
from ecr_catalog_pipeline.settings import Mirror, sync_job_name
from ecr_catalog_pipeline.wiring import Adapters

VISIBLE_SECONDS: Final = 20
"""How long a run waits for Backstage to show what it published."""

POLL_SECONDS: Final = 0.5

Clock = Callable[[], datetime]
Progress = Callable[[str], AbstractContextManager[OnPage]]
"""Says what is being done while it is, and gives what hears of the pages that are read."""


class Outcome(StrEnum):
    """What a publication came to."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Past:
    """What the mirror's history knows; nothing where no history is kept.

    Attributes:
        last: the last publication.
        baseline: the reads that what is published was last known to agree with.
        still_held_at: the start of the last listing that had not changed since those.
        rotation: what was last read of lifecycle policies.
    """

    last: LastPublication | None = None
    baseline: Baseline | None = None
    still_held_at: datetime | None = None
    rotation: Rotation = field(default_factory=Rotation)


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
        parity: what the run passes on to the step that measures parity.
        published_change: when the content that is published now last changed; None when unknown.
        account_id: the AWS account that answered.
        proved_absent: how many published repositories were looked up by name and are gone.
        settings: of the registry, as far as rules need them.
        rotation: what is known of lifecycle policies, with what this run has read.
    """

    registry: ReconciledRegistry
    plan: Plan
    parity: ParityInput
    published_change: datetime | None = None
    account_id: str = ""
    proved_absent: int = 0
    settings: EcrSettings = field(default_factory=EcrSettings)
    rotation: Rotation = field(default_factory=Rotation)


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of a plan.

    Attributes:
        digest: of the content that is published now.
        version: the target's version of it.
        equals_desired: the target, read back, holds what governance and AWS call for.
        parity: what the run passes on to the step that measures parity.
        published_at: when the target had taken it; None when nothing was written.
        last_sync: of that content, as the file says; None when unknown.
        unread: why the target could not be read back after it had confirmed the write; empty when
            it could.
    """

    outcome: Outcome
    digest: str
    version: str | None
    equals_desired: bool
    parity: ParityInput
    published_at: datetime | None = None
    last_sync: str | None = None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class ReportPublished:
    """What became of the health report.

    Attributes:
        report: what it says; None where only the outcome is known.
        version: the target's version that was written; None when the file stayed as it was.
        problem: why the file does not say what it should; empty when it does.
    """

    report: RenderedReport | None
    version: str | None = None
    problem: str = ""
    remediation: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick came to; without a publication it ended with the plan.

    Attributes:
        verdict: of Backstage.
        backstage_down: it did not answer, or not to us.
        report: what became of the health report; None when the mirror has none.
        left_behind: what an earlier target still publishes; empty when nothing is.
    """

    planned: PlannedRegistry
    publication: Publication | None = None
    verdict: Verdict | None = None
    report: ReportPublished | None = None
    backstage_down: bool = False
    left_behind: str = ""


def _no_page(_pages: int, _repositories: int) -> None:
    """Hear of a page, and do nothing."""


def no_progress(_what: str) -> AbstractContextManager[OnPage]:
    """Say nothing of what is being done."""
    return nullcontext(_no_page)


def now_utc() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def run_tick(
    mirror: Mirror,
    adapters: Adapters,
    past: Past | None = None,
    *,
    publishes: bool,
    run_id: str = "",
    approve: str | None = None,
    progress: Progress = no_progress,
) -> Tick:
    """Read both sources, plan, publish, and ask Backstage, in this order.

    Args:
        publishes: False ends the tick with the plan.
        run_id: the publication names it.
        approve: the `plan_hash` that someone approved.

    Raises:
        CatalogError: what ended the tick; what is published stays.
    """
    past = past or Past()
    with progress("reading governance"):
        governance = read_governance(mirror, adapters)
    with progress("reading ECR") as on_page:
        inventory = read_inventory(adapters.registry, on_page=on_page)
    with progress("comparing with what is published"):
        planned = plan_publication(mirror, adapters, governance, inventory, past)
    stays = left_behind(past.last, adapters.publisher.where, mirror.identity.reference)
    if not publishes:
        return Tick(planned, left_behind=stays)
    with progress("publishing"):
        publication = publish(
            adapters.publisher, planned, mirror=mirror.name, run_id=run_id, approve=approve
        )
    with progress("asking Backstage"):
        verdict, down = ask_backstage(mirror, adapters.backstage, publication)
    health = gather_health(mirror, planned, publication, ParityState(), held_since=None)
    report = publish_report(mirror, adapters, health, planned, run_id)
    return Tick(planned, publication, verdict, report, backstage_down=down, left_behind=stays)


def read_governance(mirror: Mirror, adapters: Adapters, clock: Clock = now_utc) -> GovernanceRead:
    """Read and parse the governance file at the branch's tip."""
    began_at = clock()
    file: GovernanceFile = adapters.governance.read()
    name = mirror.governance.path.rsplit("/", 1)[-1]
    return GovernanceRead(
        catalog=adapters.catalogs.parse(file.content, file.blob, name),
        blob=file.blob,
        commit=file.commit,
        source_sha=file.source_sha,
        committed_at=file.committed_at,
        began_at=began_at,
    )


def read_inventory(
    registry: EcrRegistry, clock: Clock = now_utc, on_page: OnPage = _no_page
) -> InventoryRead:
    """Read the registry, completely or not at all."""
    began_at = clock()
    return InventoryRead(registry.read(on_page), began_at)


def last_good(publisher: Publisher, identity: EntityIdentity, clock: Clock = now_utc) -> str:
    """Say what is published, and how old its content is.

    Raises:
        CatalogError: the target cannot be read, or holds something that is not ours.
    """
    content = publisher.read().content
    published = (
        read_published(content, identity, publisher.read_list) if content is not None else None
    )
    return last_good_in_words(published, clock())


def plan_publication(
    mirror: Mirror,
    adapters: Adapters,
    governance: GovernanceRead,
    inventory: InventoryRead,
    past: Past,
    *,
    asks_retention: bool = False,
    clock: Clock = now_utc,
) -> PlannedRegistry:
    """Reconcile, build the entity, read what is published, prove absences, check, and plan.

    Backstage is asked here only where the target is absent, AWS only what a rule needs to know.

    Args:
        asks_retention: read the next lifecycle policies of the rotation, for a history to keep;
            otherwise what earlier runs have read is all that is known of them.

    Raises:
        InventoryFailed: another account answered, or an absence was disproved.
        TargetUnavailable, TargetRefused: the target cannot be read, or is not ours.
        EntityInvalid: Backstage would refuse the new entity.
    """
    found = inventory.inventory
    last_account = past.last.account_id if past.last else ""
    check_account(found.account_id, mirror.registry.account_id, last_account)
    registry = reconcile(governance.catalog, found)
    desired = desired_entity(
        mirror.identity,
        registry,
        account_id=found.account_id,
        region=found.region,
        source_sha=governance.source_sha,
        now=clock(),
        place=mirror.list_place,
    )
    current = _current(mirror, adapters, desired, past.last, clock)
    missing = names_to_prove(current.entity, registry)
    proved = adapters.registry.prove_absent(found.account_id, missing)
    needs = needs_of(registry, governance.catalog, mirror.policies)
    asked = past.rotation.next_names(needs.retention) if asks_retention else ()
    settings, answers = adapters.registry.learn(found.account_id, needs.settings, asked)
    rotation = past.rotation.after(answers, needs.retention)
    registry = check_conformance(
        registry,
        catalog=governance.catalog,
        inventory=found,
        policies=mirror.policies,
        learnt=Learnt(settings, rotation.answers),
        today=clock().astimezone(UTC).date(),
    )
    plan = make_plan(
        desired=desired,
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
        registry,
        plan,
        parity=ParityInput(
            reads=Baseline(governance.commit, governance.began_at, inventory.began_at),
            blob=governance.blob,
            fingerprint=found.fingerprint,
            differences=plan.differences,
            evidence=_evidence(adapters, plan, governance, inventory, past),
        ),
        published_change=last_change(current.content),
        account_id=found.account_id,
        proved_absent=len(proved),
        settings=settings,
        rotation=rotation,
    )


def publish(
    publisher: Publisher,
    planned: PlannedRegistry,
    *,
    mirror: str,
    run_id: str,
    approve: str | None = None,
    clock: Clock = now_utc,
) -> Publication:
    """Publish a plan, unless there is nothing to publish or the guard holds it.

    Args:
        approve: the `plan_hash` that someone approved; it is valid for this plan only.
    """
    plan = planned.plan
    if plan.unchanged:
        return Publication(
            Outcome.UNCHANGED,
            plan.digest,
            plan.expected,
            equals_desired=True,
            parity=planned.parity,
            last_sync=plan.published_last_sync,
        )
    if plan.held and approve != plan.plan_hash:
        return Publication(
            Outcome.HELD,
            plan.published_digest or "",
            plan.expected,
            equals_desired=False,
            parity=planned.parity,
            last_sync=plan.published_last_sync,
        )
    provenance = Provenance(
        mirror=mirror,
        summary=plan.summary,
        source_sha=plan.source_sha,
        plan_hash=plan.plan_hash,
        run_id=run_id,
        # Locks, fetches and retries take their time.
        fence=lambda: plan.check_age(clock()),
    )
    provenance.fence()
    lists = Lists(plan.full_list, plan.published_list)
    version = publisher.publish(plan.content, plan.expected, provenance, lists)
    published_at = clock()
    equals, unread = _read_back(publisher, plan)
    return Publication(
        Outcome.PUBLISHED,
        plan.digest,
        version,
        equals_desired=equals,
        parity=planned.parity,
        published_at=published_at,
        last_sync=last_sync_of(plan.content),
        unread=unread,
    )


def remember(
    mirror: Mirror,
    where: str,
    planned: PlannedRegistry,
    publication: Publication,
    before: LastPublication | None,
) -> LastPublication:
    """Give the last publication after a tick, for the history to keep.

    Args:
        where: the target in words.
        before: the last one before this tick.
    """
    plan, entity = planned.plan, mirror.identity.reference
    if publication.outcome is not Outcome.HELD:
        return LastPublication(
            digest=publication.digest,
            live=plan.counts[State.LIVE],
            last_sync=publication.last_sync,
            kind=mirror.publish.kind,
            target=where,
            entity=entity,
            account_id=planned.account_id,
        )
    if plan.target_is_absent and before is not None:
        return before
    return LastPublication(
        digest=publication.digest,
        live=plan.published_live,
        last_sync=plan.published_last_sync,
        kind="" if plan.target_is_absent else mirror.publish.kind,
        target="" if plan.target_is_absent else where,
        entity=entity,
        # Which account answers is part of what may be held.
        account_id=before.account_id if before else "",
    )


def gather_health(
    mirror: Mirror,
    planned: PlannedRegistry,
    publication: Publication,
    parity: ParityState,
    *,
    held_since: datetime | None,
    clock: Clock = now_utc,
) -> RegistryHealth:
    """Gather what the health report says after a publication."""
    return registry_health(
        mirror=mirror.name,
        title=mirror.identity.title,
        registry=planned.registry,
        plan=planned.plan,
        published=publication.outcome is Outcome.PUBLISHED,
        held=publication.outcome is Outcome.HELD,
        published_change=planned.published_change,
        parity=parity,
        held_since=held_since,
        slo_seconds=mirror.parity.slo_seconds,
        now=clock(),
    )


def publish_report(
    mirror: Mirror,
    adapters: Adapters,
    health: RegistryHealth,
    planned: PlannedRegistry,
    run_id: str,
    *,
    clock: Clock = now_utc,
) -> ReportPublished | None:
    """Put the health report into its file, unless that says all of it already.

    Whatever is wrong with the report is a problem of its own and never an error.

    Returns:
        None when the mirror has no health report.
    """
    settings, publisher, plan = mirror.health, adapters.report, planned.plan
    if settings is None or publisher is None:
        return None
    origin = Origin(
        branch=mirror.governance.branch,
        sha=plan.source_sha,
        workflow=sync_job_name(mirror.name),
        run_id=run_id,
        env=settings.env or mirror.name,
    )
    report = render_report(health, origin, Style(settings.style))
    provenance = Provenance(
        mirror=mirror.name,
        summary="health report",
        source_sha=plan.source_sha,
        plan_hash=plan.plan_hash,
        run_id=run_id,
        fence=lambda: plan.check_age(clock()),
    )
    version = None
    try:
        provenance.fence()
        current = publisher.read()
        placement = place_report(report, current.content)
        if placement.content is not None:
            version = publisher.publish(placement.content, current.version, provenance)
    except CatalogError as error:
        return ReportPublished(report, problem=error.problem, remediation=error.remediation)
    problem = f"{publisher.where}: {placement.problem}" if placement.problem else ""
    return ReportPublished(report, version, problem, placement.remediation)


def ask_backstage(
    mirror: Mirror, backstage: BackstageCatalog | None, publication: Publication
) -> tuple[Verdict, bool]:
    """Ask Backstage whether it serves what is published; say, too, whether it is down.

    Without a Backstage, parity is measured to the publication.
    """
    expected = publication.digest
    held = publication.outcome is Outcome.HELD
    if backstage is None:
        reason = "no `backstage:` in the mirror file: parity is measured to the publication"
        verdict = Verdict(
            parity=publication.equals_desired or held,
            reason=reason + ("; a plan is held, the last good entity stays" if held else ""),
            expected=expected,
            served=expected,
        )
        return verdict, False
    try:
        verdict = verify(backstage, mirror, expected)
    except BackstageUnavailable as error:
        return Verdict(parity=False, reason=str(error), expected=expected, served=None), True
    if held and verdict.parity:
        reason = "in parity with the last good entity; a plan is held"
        verdict = replace(verdict, reason=reason)
    return verdict, False


def verify(
    backstage: BackstageCatalog,
    mirror: Mirror,
    expected: str,
    *,
    seconds: float | None = None,
) -> Verdict:
    """Ask Backstage until it serves what it should, or the time is up.

    What it serves at the first look is believed only if it is right; otherwise it is asked to read
    the entity's location again. While it does not know the entity, it is asked to read the
    location that leads to our file, if it has one.

    Args:
        seconds: how long to ask; VISIBLE_SECONDS by default.

    Raises:
        BackstageUnavailable: it does not answer, or not to us.
    """
    identity = mirror.identity
    deadline = time.monotonic() + (VISIBLE_SECONDS if seconds is None else seconds)
    verdict = judge(expected, backstage.entity(identity.namespace, identity.name))
    if not verdict.parity:
        known = backstage.refresh(identity.namespace, identity.name)
        for kind, target in () if known else mirror.locations:
            if backstage.refresh_location(kind, target):
                break
    while not verdict.parity and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        verdict = judge(expected, backstage.entity(identity.namespace, identity.name))
    return verdict


def _current(
    mirror: Mirror,
    adapters: Adapters,
    desired: DesiredEntity,
    last: LastPublication | None,
    clock: Clock,
) -> Current:
    """Read what is published; where the target is absent, what was last known to be.

    Backstage knows the names, the history only how many there were.
    """
    identity, publisher = mirror.identity, adapters.publisher
    target = publisher.read()
    if target.content is not None:
        current = _at_target(target, publisher, identity, desired)
        if current.uncounted and (later := publisher.read()).version != target.version:
            # Another process has published in between, and removed the list of the entity before.
            current = _at_target(later, publisher, identity, desired)
        return current
    served = _served(adapters.backstage, identity, publisher)
    if served is not None:
        return Current.served(served, clock())
    if last is not None and last.is_of(identity.reference):
        return Current.remembered(last, adapters.publisher.where)
    return Current()


def _at_target(
    target: Published, publisher: Publisher, identity: EntityIdentity, desired: DesiredEntity
) -> Current:
    return Current.at_target(target.content, target.version, identity, desired, publisher.read_list)


def _served(
    backstage: BackstageCatalog | None, identity: EntityIdentity, publisher: Publisher
) -> PublishedEntity | None:
    """Give our entity as Backstage serves it; None when it does not, or does not answer."""
    if backstage is None:
        return None
    try:
        served = backstage.entity(identity.namespace, identity.name)
        return read_served(served, publisher.read_list)
    except BackstageUnavailable:
        return None


def _read_back(publisher: Publisher, plan: Plan) -> tuple[bool, str]:
    """Whether the target holds what was published, and why that is not known.

    The target confirmed the write, so what cannot be read back counts as published.
    """
    try:
        now = publisher.read().content
        equals = now is not None and same_content(now, plan.content)
        if equals and plan.full_list is not None:
            equals = publisher.read_list(list_digest(plan.full_list)) == plan.full_list
    except CatalogError as error:
        return True, error.problem
    return equals, ""


def _evidence(
    adapters: Adapters,
    plan: Plan,
    governance: GovernanceRead,
    inventory: InventoryRead,
    past: Past,
) -> Evidence:
    """Find out when the changes of a plan were asked for."""
    baseline, changed = past.baseline, {each.repository for each in plan.differences}
    committed: dict[str, dict[str, datetime]] = {}
    if baseline and changed and baseline.commit != governance.commit:
        committed = entry_changes(_history(adapters, baseline.commit, governance))
    return Evidence(
        baseline=baseline,
        committed={name: fields for name, fields in committed.items() if name in changed},
        created={
            each.name: min(each.created_at, inventory.began_at)
            for each in inventory.inventory.repositories
            if each.created_at is not None and each.name in changed
        },
        still_held_at=past.still_held_at,
    )


def _history(
    adapters: Adapters, since: str, governance: GovernanceRead
) -> list[tuple[datetime, Catalog]]:
    """Give the catalogs since a commit, without those that were refused: no run ever read them.

    What was published is recorded even when git does not give its history: with coarser times. A
    committer's clock may be ahead; what was read was committed before its read began.
    """
    try:
        history = adapters.governance.history(since, governance.commit)
    except GovernanceUnavailable:
        return []
    catalogs = []
    for version in history:
        try:
            catalog = adapters.catalogs.parse(version.content, version.blob, "", keep=False)
        except GovernanceRefused:
            continue
        catalogs.append((min(version.committed_at, governance.began_at), catalog))
    return catalogs
