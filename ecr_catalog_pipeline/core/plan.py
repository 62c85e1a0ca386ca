"""The plan: what the next publication would change. Computing it publishes nothing.

`make_plan` compares the entity that governance and AWS call for with the published one; the guard
decides what waits for approval. Where the target is absent, the last entity that is known
counts as the published one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ecr_catalog_pipeline.core.entity import (
    DesiredEntity,
    EntityIdentity,
    PublishedEntity,
    ReadList,
    read_published,
)
from ecr_catalog_pipeline.core.errors import StalePlan
from ecr_catalog_pipeline.core.guard import RemovalLimits, Removals, reasons_to_hold
from ecr_catalog_pipeline.core.inventory import Inventory, accounts_of
from ecr_catalog_pipeline.core.last_good import last_good_in_words
from ecr_catalog_pipeline.core.last_publication import LastPublication
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State

MAX_READ_AGE: Final = timedelta(seconds=90)
"""A plan whose reads began longer ago is never published."""

CLOCK_TOLERANCE: Final = timedelta(seconds=5)
"""How far ahead of the clock the start of a read may lie; beyond, the clock was set back."""

STATE: Final = "state"

_NOWHERE: Final[tuple[None, Mapping[str, str]]] = (None, {})
_ABSENT_STATES: Final = frozenset({State.GHOST, State.PENDING})


@dataclass(frozen=True, slots=True)
class Current:
    """What a plan is compared with: what is published, or was last known to be.

    Attributes:
        content: the target's file; None when the target is absent.
        version: the target's version of that file; None when the target is absent.
        entity: what that file says or, where the target is absent, the entity that Backstage or
            the history still knows; None when no publication is known.
        known_as: how that entity is known although the target is absent, in words.
        uncounted: why its repositories are not known; empty when they are.
        as_desired: the file and the list beside it say what they should, apart from when and from
            which commit.
    """

    content: bytes | None = None
    version: str | None = None
    entity: PublishedEntity | None = None
    known_as: str = ""
    uncounted: str = ""
    as_desired: bool = False

    @classmethod
    def at_target(
        cls,
        content: bytes | None,
        version: str | None,
        identity: EntityIdentity,
        desired: DesiredEntity,
        read_list: ReadList = lambda _: None,
    ) -> Current:
        """Read what a target holds. A file that says what it should is not parsed.

        Args:
            read_list: gives the target's list of a digest.

        Raises:
            TargetRefused: it is not this mirror's entity.
        """
        if content is None:
            return cls(content, version)
        if desired.is_in(content):
            entity = desired.read_in(content)
            complete = not entity.listed or read_list(entity.listed) == desired.full_list
            return cls(content, version, entity, as_desired=complete)
        entity = read_published(content, identity, read_list)
        what = "list of repositories is missing or damaged" if entity.listed else "file is damaged"
        return cls(content, version, entity, uncounted=f"the published {what}" * entity.damaged)

    @classmethod
    def served(cls, entity: PublishedEntity, now: datetime) -> Current:
        """Take what Backstage serves for what is published: the target is absent."""
        known_as = f"the target is absent, Backstage serves {last_good_in_words(entity, now)}"
        what = "lists no repositories" if entity.listed else "is damaged"
        damaged = f"the target is absent and what Backstage serves {what}"
        return cls(entity=entity, known_as=known_as, uncounted=damaged if entity.damaged else "")

    @classmethod
    def remembered(cls, last: LastPublication, where: str) -> Current:
        """Take the last publication for what is published: the target is absent.

        Args:
            where: the target, in words.
        """
        unknown = f"{where} is absent, though {last.in_words(where)}"
        entity = PublishedEntity(digest=last.digest, last_sync=last.last_sync, damaged=True)
        return cls(entity=entity, known_as=unknown, uncounted=unknown)


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of live repositories that a plan adds, removes and updates, each sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one repository that a plan changes in the entity.

    Attributes:
        field: STATE when the repository enters, leaves or moves between the entity's lists, else
            the field of its line.
        old, new: the values; of STATE the list, `live` or `pending`. None where there is none.
    """

    repository: str
    field: str
    old: str | None
    new: str | None

    @property
    def becomes_live(self) -> bool:
        """Whether the repository was not live and now is."""
        return self.field == STATE and self.new == State.LIVE

    @property
    def leaves_live(self) -> bool:
        """Whether the repository was live and no longer is."""
        return self.field == STATE and self.old == State.LIVE


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next publication would change.

    Attributes:
        content: the file to publish, whole.
        full_list: the list to publish beside it; None when it holds all of it.
        digest: of that content.
        published_digest: of what is published, or was last known to be; None when no publication
            is known.
        published_last_sync: its `last-sync`, as the entity says; None when it says none.
        published_live: how many live repositories it lists; None when unknown.
        published_list: the digest of the list beside it; empty when there is none.
        expected: the target's version that the plan was computed against; None when absent.
        differences: all that changes in the entity's two lists, sorted by name.
        unchanged: the published file and the list beside it are the same but for `last-sync` and
            `source-sha`.
        reasons_held: why the removal guard holds the plan; empty when it does not.
        reads_began_at: when the earliest of its reads began.
        last_good: what is published, and the age of its content at the time of the plan, in words.
        counts: how many repositories each state has.
    """

    source_sha: str
    content: bytes
    digest: str
    published_digest: str | None
    expected: str | None
    unchanged: bool
    changes: Changes
    differences: tuple[Difference, ...]
    reasons_held: tuple[str, ...]
    reads_began_at: datetime
    last_good: str
    counts: Mapping[State, int]
    published_last_sync: str | None = None
    published_live: int | None = None
    published_list: str = ""
    full_list: bytes | None = None

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
        """What an approval names: SHA-256 of what is published, since when, and the new content.

        The published `last-sync` makes an approval valid once: after a revert the content is the
        old one again, published at another time.
        """
        lines = (self.published_digest or "", self.published_last_sync or "", self.digest)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def target_is_absent(self) -> bool:
        """Whether the target is absent, whatever is known of an earlier publication."""
        return self.expected is None

    @property
    def held(self) -> bool:
        """Whether publishing waits for someone to approve this very `plan_hash`."""
        return bool(self.reasons_held)

    def check_age(self, now: datetime) -> None:
        """Refuse to act on reads that are too old, or whose age is not known.

        Raises:
            StalePlan: they began more than MAX_READ_AGE ago, or ahead of the clock.
        """
        age = now - self.reads_began_at
        if age < -CLOCK_TOLERANCE:
            raise StalePlan(
                f"the plan's reads began {-age.total_seconds():.0f} s ahead of the clock, so the "
                "clock was set back and their age is unknown: it is not published",
                remediation="The next run plans again. If this repeats, check the clocks of the "
                "machines that run the mirror.",
            )
        if age > MAX_READ_AGE:
            raise StalePlan(
                f"the plan's reads began {age.total_seconds():.0f} s ago, "
                f"more than {MAX_READ_AGE.total_seconds():.0f} s: it is not published",
                remediation="The next run plans again; in the Dagster UI, materialize the whole "
                "job.",
            )


def make_plan(
    *,
    desired: DesiredEntity,
    limits: RemovalLimits,
    registry: ReconciledRegistry,
    inventory: Inventory,
    current: Current,
    source_sha: str,
    reads_began_at: datetime,
    now: datetime,
    proved_absent: Collection[str] = (),
    account_is_known: bool = False,
) -> Plan:
    """Compare what governance and AWS call for with what is published.

    Args:
        source_sha: the last governance commit that touched the file.
        proved_absent: those of `names_to_prove` that a look-up by name proved to be gone.
        account_is_known: the answering account is the mirror's, whatever the published URIs say.
    """
    published = current.entity
    differences = () if current.as_desired else tuple(_differences(published, desired))
    changes = _changes(
        differences,
        live=desired.repositories,
        listed=published.repositories if published else (),
    )
    removals = Removals(
        listed=len(published.repositories) if published else 0,
        removed=changes.removed,
        unproved=sorted(set(names_to_prove(published, registry)) - set(proved_absent)),
        uncounted=current.uncounted,
        account="" if account_is_known else _other_account(published, inventory.account_id),
    )
    return Plan(
        source_sha=source_sha,
        content=desired.content,
        digest=desired.digest,
        published_digest=published.digest if published else None,
        expected=current.version,
        unchanged=current.as_desired,
        changes=changes,
        differences=differences,
        reasons_held=reasons_to_hold(removals, limits),
        reads_began_at=reads_began_at,
        last_good=current.known_as or last_good_in_words(published, now),
        counts=registry.counts(),
        published_last_sync=published.last_sync if published else None,
        published_live=len(published.repositories) if published and not current.uncounted else None,
        published_list=published.listed if published and current.version else "",
        full_list=desired.full_list,
    )


def names_to_prove(published: PublishedEntity | None, registry: ReconciledRegistry) -> list[str]:
    """Names whose absence from AWS needs proof, sorted: published as live, governed and unlisted.

    A repository that governance dropped or decommissioned needs no proof: a commit removed it.
    """
    absent = {each.name for each in registry.repositories if each.state in _ABSENT_STATES}
    return sorted(absent & published.repositories.keys()) if published else []


def _differences(current: PublishedEntity | None, desired: DesiredEntity) -> Iterator[Difference]:
    old = _lines(current.repositories, current.pending) if current else {}
    new = _lines(desired.repositories, desired.pending)
    for name in sorted(old.keys() | new.keys()):
        (old_state, old_line), (state, line) = old.get(name, _NOWHERE), new.get(name, _NOWHERE)
        if old_state != state:
            yield Difference(name, STATE, old_state, state)
            continue
        for key in [*line, *(key for key in old_line if key not in line)]:
            if old_line.get(key) != line.get(key):
                # A tampered line may hold anything: what is no text is shown as it is.
                before = old_line.get(key)
                shown = None if before is None else str(before)
                yield Difference(name, str(key), shown, line.get(key))


def _lines(
    live: Mapping[str, Mapping[str, str]], pending: Mapping[str, Mapping[str, str]]
) -> dict[str, tuple[str | None, Mapping[str, str]]]:
    lines: dict[str, tuple[str | None, Mapping[str, str]]] = {}
    for state, listed in ((State.PENDING, pending), (State.LIVE, live)):
        lines.update((name, (state.value, line)) for name, line in listed.items())
    return lines


def _changes(
    differences: Collection[Difference], live: Collection[str], listed: Collection[str]
) -> Changes:
    if not differences:
        return Changes()
    differing = {each.repository for each in differences}
    return Changes(
        added=tuple(sorted(set(live) - set(listed))),
        removed=tuple(sorted(set(listed) - set(live))),
        updated=tuple(sorted(differing & set(live) & set(listed))),
    )


def _other_account(published: PublishedEntity | None, answering: str) -> str:
    """Say that the published URIs name other accounts than the answering one; empty if not."""
    lines = published.repositories.values() if published else ()
    named = accounts_of(str(line.get("uri", "")) for line in lines)
    if not named or answering in named:
        return ""
    return (
        f"the published URIs name account {' and '.join(sorted(named))}, and {answering} answers: "
        "approve if that is the mirror's account, or write the right one as registry.account_id"
    )
