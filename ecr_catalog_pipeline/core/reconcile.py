"""Reconcile: what governance means to have, against what AWS holds.

    status in governance   in AWS                            not in AWS
    pending                live, finding promote-to-active   pending
    active                 live                              ghost
    deprecated             live                              ghost
    decommissioned         lingering                         retired
    missing or unknown     live, finding                     ghost, finding
    not governed           orphan                            -

A governed name that ECR would never accept is a ghost whatever its status.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ecr_catalog_pipeline.core.exceptions import Acceptance
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.governance import Catalog, Entry, Status
from ecr_catalog_pipeline.core.inventory import Inventory, Repository
from ecr_catalog_pipeline.core.origins import OrphanOrigin


class State(StrEnum):
    """A repository's state: governance compared with AWS."""

    LIVE = "live"
    PENDING = "pending"
    GHOST = "ghost"
    ORPHAN = "orphan"
    LINGERING = "lingering"
    RETIRED = "retired"


_WHEN_PRESENT = {Status.DECOMMISSIONED: State.LINGERING}
_WHEN_ABSENT = {Status.PENDING: State.PENDING, Status.DECOMMISSIONED: State.RETIRED}


@dataclass(frozen=True, slots=True)
class ReconciledRepository:
    """One repository in its one state; None where neither side says.

    Attributes:
        origin: of an orphan; None of every other one, and where it was not looked for.
        exception: why the governance file accepts the state; None where it does not.
    """

    name: str
    state: State
    owner: str | None = None
    risk: str | None = None
    environment: str | None = None
    status: str | None = None
    uri: str | None = None
    requested: str | None = None
    origin: OrphanOrigin | None = None
    exception: Acceptance | None = None


@dataclass(frozen=True, slots=True)
class Conformance:
    """How many live repositories of an owner are as one aspect of policy asks.

    Attributes:
        aspect: the key of the policy.
        kept, broken, excepted, unknown: how many are so, are not, are not and are accepted, or
            could not be judged.
    """

    aspect: str
    owner: str
    kept: int = 0
    broken: int = 0
    excepted: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class ReconciledRegistry:
    """Every repository that is governed or present, and what is to be said of them.

    Attributes:
        repositories: sorted by name.
        findings: the open ones, sorted.
        excepted: what the governance file accepts, in the form of findings, sorted. The rule of an
            accepted state is the state.
        conformance: by aspect and owner, the most violations first.
    """

    repositories: tuple[ReconciledRepository, ...]
    findings: tuple[Finding, ...]
    excepted: tuple[Finding, ...] = ()
    conformance: tuple[Conformance, ...] = ()

    def in_state(self, state: State) -> tuple[ReconciledRepository, ...]:
        """The repositories of one state, sorted by name."""
        return tuple(each for each in self.repositories if each.state is state)

    def counts(self) -> dict[State, int]:
        """How many repositories each state has, states without any included."""
        found = Counter(each.state for each in self.repositories)
        return {state: found[state] for state in State}


def state_of(entry: Entry | None, present: bool) -> State:
    """Give the one state of a repository.

    Raises:
        ValueError: neither governed nor present: there is no such repository.
    """
    if entry is None:
        if not present:
            raise ValueError("a repository is governed, present, or both")
        return State.ORPHAN
    if not entry.name_is_possible:
        return State.GHOST
    if present:
        return _WHEN_PRESENT.get(entry.status, State.LIVE) if entry.status else State.LIVE
    return _WHEN_ABSENT.get(entry.status, State.GHOST) if entry.status else State.GHOST


def reconcile(catalog: Catalog, inventory: Inventory) -> ReconciledRegistry:
    """Give every repository its state, and findings where the two sides disagree."""
    entries = {entry.name: entry for entry in catalog.entries}
    present = {repository.name: repository for repository in inventory.repositories}
    repositories: list[ReconciledRepository] = []
    findings = list(catalog.findings)
    for name in sorted(entries.keys() | present.keys()):
        entry, found = entries.get(name), present.get(name)
        each = _reconciled(name, entry, found)
        repositories.append(each)
        if entry and found and each.state is State.LIVE:
            findings.extend(_differences(entry, found))
    return ReconciledRegistry(tuple(repositories), tuple(sorted(findings)))


def _reconciled(name: str, entry: Entry | None, found: Repository | None) -> ReconciledRepository:
    state = state_of(entry, found is not None)
    uri = found.uri if found else None
    if entry is None:
        return ReconciledRepository(name, state, uri=uri)
    return ReconciledRepository(
        name=name,
        state=state,
        owner=entry.owner,
        risk=entry.risk,
        environment=entry.environment,
        status=entry.status,
        uri=uri,
        requested=entry.created_date,
    )


def _differences(entry: Entry, found: Repository) -> Iterator[Finding]:
    if entry.status is Status.PENDING:
        yield Finding(
            entry.name,
            "promote-to-active",
            Severity.INFO,
            "governed as pending, and already in AWS",
            "Promote to active: set metadata.status to active.",
        )
    if entry.repository_url and entry.repository_url != found.uri:
        yield Finding(
            entry.name,
            "repository-url-differs",
            Severity.WARNING,
            f"aws.repository_url is not what ECR says: {found.uri}",
            "Write ECR's own URI, or leave the key out.",
        )
