"""The plan: what the next publication would change. Computing it publishes nothing.

`make_plan` puts the entity that governance and AWS call for beside the published one; what may not
go out unasked is the guard's to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from ecr_catalog_pipeline.core.entity import (
    EntityIdentity,
    PublishedEntity,
    build_entity,
    check_entity,
    content_digest,
    read_published,
    render_entity,
    same_content,
)
from ecr_catalog_pipeline.core.errors import StalePlan
from ecr_catalog_pipeline.core.guard import RemovalLimits, Removals, reasons_to_hold
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State

MAX_READ_AGE: Final = timedelta(seconds=90)
"""A plan whose reads began longer ago is never published."""

_ABSENT_STATES: Final = frozenset({State.GHOST, State.PENDING})


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of live repositories that a plan adds, removes and updates, each sorted.

    Attributes:
        differences: for each updated name, its fields with their old and new values.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    differences: Mapping[str, Mapping[str, tuple[str | None, str | None]]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next publication would change.

    Attributes:
        content: the file to publish, whole.
        digest: of that content.
        published_digest: of what is published now; None when nothing is.
        expected: the target's version that the plan was computed against; None when absent.
        unchanged: the published file is the same but for `last-sync` and `source-sha`.
        reasons_held: why the removal guard holds the plan; empty when it does not.
        reads_began_at: when the earliest of its reads began.
        published_last_sync: when the published content last changed, as the file says.
        counts: how many repositories each state has.
    """

    source_sha: str
    content: bytes
    digest: str
    published_digest: str | None
    expected: str | None
    unchanged: bool
    changes: Changes
    reasons_held: tuple[str, ...]
    reads_began_at: datetime
    published_last_sync: str | None
    counts: Mapping[State, int]

    @property
    def summary(self) -> str:
        """The counts and changes in one line, for a commit's subject."""
        counts, changes = self.counts, self.changes
        return (
            f"{counts[State.LIVE]} live (+{len(changes.added)} ~{len(changes.updated)} "
            f"-{len(changes.removed)}), {counts[State.PENDING]} pending, "
            f"{counts[State.GHOST]} ghosts, {counts[State.ORPHAN]} orphans"
        )

    @property
    def plan_hash(self) -> str:
        """SHA-256 over the digests of the published and of the new content, without a clock."""
        return hashlib.sha256(f"{self.published_digest or ''}\n{self.digest}".encode()).hexdigest()

    @property
    def held(self) -> bool:
        """Whether publishing waits for someone to approve this very `plan_hash`."""
        return bool(self.reasons_held)

    def check_age(self, now: datetime) -> None:
        """Refuse to act on reads that are too old.

        Raises:
            StalePlan: they began more than MAX_READ_AGE ago.
        """
        age = now - self.reads_began_at
        if age > MAX_READ_AGE:
            raise StalePlan(
                f"the plan's reads began {age.total_seconds():.0f} s ago, "
                f"more than {MAX_READ_AGE.total_seconds():.0f} s: it is not published",
                mend="The next run plans afresh; in the Dagster UI, materialize the whole job.",
            )


def make_plan(
    *,
    identity: EntityIdentity,
    limits: RemovalLimits,
    registry: ReconciledRegistry,
    inventory: Inventory,
    published: bytes | None,
    expected: str | None,
    source_sha: str,
    reads_began_at: datetime,
    now: datetime,
) -> Plan:
    """Compare what governance and AWS call for with what is published.

    Args:
        published: the target's file now; None when there is none.
        expected: the target's version of that file.
        source_sha: the last governance commit that touched the file.
        now: becomes `last-sync` if the content has changed.

    Raises:
        EntityInvalid: Backstage would refuse the new entity.
        TargetRefused: what is published is not this mirror's entity.
    """
    entity = build_entity(
        identity, registry, account_id=inventory.account_id, region=inventory.region
    )
    check_entity(entity)
    content = render_entity(entity, source_sha=source_sha, last_sync=now)
    current = read_published(published, identity) if published is not None else None
    live = {line["name"]: line for line in entity["spec"]["repositories"]}
    changes = _changes(current.repositories if current else {}, live)
    return Plan(
        source_sha=source_sha,
        content=content,
        digest=content_digest(entity),
        published_digest=current.digest if current else None,
        expected=expected,
        unchanged=published is not None and same_content(published, content),
        changes=changes,
        reasons_held=_reasons(current, changes, registry, inventory, limits),
        reads_began_at=reads_began_at,
        published_last_sync=current.last_sync if current else None,
        counts=registry.counts(),
    )


def names_to_prove(published: Collection[str], inventory: Collection[str]) -> list[str]:
    """Names that are published and missing from a listing, sorted: their absence needs proof."""
    return sorted(set(published) - set(inventory))


def _changes(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> Changes:
    differences = {
        name: _differences(old[name], new[name]) for name in sorted(old.keys() & new.keys())
    }
    updated = {name: fields for name, fields in differences.items() if fields}
    return Changes(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        updated=tuple(updated),
        differences=updated,
    )


def _differences(
    old: Mapping[str, str], new: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    # A tampered line may hold anything: what is no text is shown as it is written.
    return {
        key: (None if old.get(key) is None else str(old[key]), new.get(key))
        for key in [*new, *(key for key in old if key not in new)]
        if old.get(key) != new.get(key)
    }


def _reasons(
    current: PublishedEntity | None,
    changes: Changes,
    registry: ReconciledRegistry,
    inventory: Inventory,
    limits: RemovalLimits,
) -> tuple[str, ...]:
    if current is None:
        return ()
    # A repository that governance dropped or decommissioned is gone by a commit; any other is
    # gone because AWS no longer has it, which the listing alone does not prove.
    absent = {each.name for each in registry.repositories if each.state in _ABSENT_STATES}
    unproved = [
        name for name in changes.removed if name in absent and name not in inventory.proved_absent
    ]
    removals = Removals(
        listed=len(current.repositories),
        removed=changes.removed,
        unproved=unproved,
        published_damaged=current.damaged,
    )
    return reasons_to_hold(removals, limits)
