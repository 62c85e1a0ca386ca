"""Conformance: a reconciled registry held against policy and exceptions.

`needs_of` says what has to be read beside the listing, `check_conformance` what follows from it.
Neither changes a state, so nothing here reaches the entity.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

from ecr_catalog_pipeline.core.ecr_settings import (
    DENIED,
    ORIGIN_SETTINGS,
    REGISTRY_SETTINGS,
    EcrSettings,
    Setting,
)
from ecr_catalog_pipeline.core.exceptions import (
    Accepted,
    GovernanceException,
    accept,
    as_accepted,
    expired,
    unused,
)
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.governance import Catalog
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.origins import Origins, cause_in_words, what_follows
from ecr_catalog_pipeline.core.policy import (
    Aspect,
    Judgement,
    Policies,
    Verdict,
    judge_repository,
    policy_for,
)
from ecr_catalog_pipeline.core.reconcile import (
    Conformance,
    ReconciledRegistry,
    ReconciledRepository,
    State,
)
from ecr_catalog_pipeline.core.retention import NO_SUCH_REPOSITORY, Retention

MAX_ROWS: Final = 200
"""Rows of the table of conformance, the worst first; one more an aspect sums up the others."""

_CAN_BE_ACCEPTED: Final = (State.ORPHAN, State.GHOST, State.LINGERING)
_NO_OWNER: Final = "nobody"
_MESSAGES: Final = {
    State.GHOST: "governed as existing, absent from AWS",
    State.LINGERING: "governed as decommissioned, still in AWS",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be read beside the listing.

    Attributes:
        settings: of the registry.
        retention: the live repositories whose retention is governed, sorted.
    """

    settings: tuple[Setting, ...] = ()
    retention: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Learnt:
    """What was read beside the listing, in this run or in an earlier one."""

    settings: EcrSettings = field(default_factory=EcrSettings)
    retention: Mapping[str, Retention] = field(default_factory=dict)


def needs_of(registry: ReconciledRegistry, catalog: Catalog, policies: Policies) -> Needs:
    """Say what rules need to know about a registry."""
    live = {each.name for each in registry.in_state(State.LIVE)}
    governed = [
        (entry.name, policy_for(entry, policies)) for entry in catalog.entries if entry.name in live
    ]
    needed: set[Setting] = set()
    if any(policy.scanning for _, policy in governed):
        needed.add(Setting.SCANNING)
    if registry.counts()[State.ORPHAN]:
        needed |= ORIGIN_SETTINGS | {Setting.REPLICATION}
    return Needs(
        tuple(each for each in REGISTRY_SETTINGS if each in needed),
        tuple(name for name, policy in governed if policy.keep_images is not None),
    )


def check_conformance(
    registry: ReconciledRegistry,
    *,
    catalog: Catalog,
    inventory: Inventory,
    policies: Policies,
    learnt: Learnt,
    today: date,
) -> ReconciledRegistry:
    """Add what policy and exceptions say; states, counts and lines of the entity stay.

    Args:
        today: in UTC.
    """
    origins = Origins(learnt.settings.templates, learnt.settings.cache_rules)
    repositories = [
        replace(each, origin=origins.of(each.name)) if each.state is State.ORPHAN else each
        for each in registry.repositories
    ]
    judged = list(_judged(registry, catalog, inventory, policies, learnt))
    findings = [
        *registry.findings,
        *(each.finding for _, each in judged if each.finding),
        *_settings_unknown(learnt),
    ]
    accepted = accept(
        catalog.exceptions,
        findings,
        today,
        states={
            state: [each.name for each in repositories if each.state is state]
            for state in _CAN_BE_ACCEPTED
        },
        origins={each.name: each.origin for each in repositories if each.origin},
    )
    still_open, excepted = accepted.split(findings)
    about_exceptions = [
        *expired(catalog.exceptions, today),
        *unused(_surely_unused(accepted, learnt.settings)),
    ]
    shown = tuple(_with_exception(each, accepted) for each in repositories)
    return replace(
        registry,
        repositories=shown,
        findings=tuple(sorted([*still_open, *about_exceptions])),
        excepted=tuple(sorted([*excepted, *_accepted_states(shown)])),
        conformance=tuple(_conformance(judged, accepted)),
    )


def open_findings(catalog: Catalog, today: date) -> tuple[Finding, ...]:
    """Give the findings about the governance file itself that its exceptions leave open.

    Args:
        today: in UTC.
    """
    accepted = accept(catalog.exceptions, catalog.findings, today)
    still_open, _ = accepted.split(catalog.findings)
    return tuple(sorted([*still_open, *expired(catalog.exceptions, today)]))


def _judged(
    registry: ReconciledRegistry,
    catalog: Catalog,
    inventory: Inventory,
    policies: Policies,
    learnt: Learnt,
) -> Iterator[tuple[str, Judgement]]:
    """Judge every live repository; with each judgement comes the owner."""
    present = {each.name: each for each in inventory.repositories}
    live = {each.name for each in registry.in_state(State.LIVE)}
    for entry in catalog.entries:
        if entry.name in live:
            judgements = judge_repository(
                entry,
                present[entry.name],
                policy_for(entry, policies),
                learnt.settings,
                learnt.retention.get(entry.name),
            )
            for each in judgements:
                yield entry.owner or _NO_OWNER, each


def _settings_unknown(learnt: Learnt) -> Iterator[Finding]:
    """Say which settings a rule needs and nobody could read; no rule needs the replication."""
    unknown = learnt.settings.unknown
    needed = {each: why for each, why in unknown.items() if each is not Setting.REPLICATION}
    # What could not be read stays so until its turn comes again; a denial shows in each run.
    problems = {each.problem for each in learnt.retention.values()}
    if problems := problems - {"", DENIED, NO_SUCH_REPOSITORY}:
        needed[Setting.LIFECYCLE] = ", ".join(sorted(problems))
    if not needed:
        return
    said = ", ".join(f"{action} ({why})" for action, why in sorted(needed.items()))
    denied = [action for action, why in sorted(needed.items()) if why == DENIED]
    yield Finding(
        "",
        "registry-settings-unknown",
        Severity.INFO,
        f"what rules need to know could not be read: {said}",
        f"Allow {' and '.join(denied)} to this mirror's role: deploy/iam/ecr-reader.json."
        if denied
        else "The next run reads it again. What depends on it is not judged until then.",
    )


def _surely_unused(accepted: Accepted, settings: EcrSettings) -> Iterator[GovernanceException]:
    """Leave out what waits for an origin that could not be inferred."""
    guessed = not ORIGIN_SETTINGS.isdisjoint(settings.unknown)
    return (each for each in accepted.unused if not (each.origin and guessed))


def _with_exception(each: ReconciledRepository, accepted: Accepted) -> ReconciledRepository:
    acceptance = accepted.by.get((each.state, each.name))
    return replace(each, exception=acceptance) if acceptance else each


def _accepted_states(repositories: Iterable[ReconciledRepository]) -> Iterator[Finding]:
    """Give accepted states the form of findings."""
    for each in repositories:
        if each.exception:
            yield as_accepted(state_finding(each), each.exception)


def state_finding(each: ReconciledRepository) -> Finding:
    """Say what is wrong with an orphan, a ghost or a lingering repository, and what follows."""
    if each.state is State.ORPHAN:
        message = f"in AWS, not governed, {cause_in_words(each.origin)}"
        remediation = what_follows(each.origin)
    else:
        message = _MESSAGES[each.state]
        remediation = "Correct its status in governance, or what AWS holds."
    return Finding(each.name, each.state.value, Severity.WARNING, message, remediation)


def _conformance(
    judged: Iterable[tuple[str, Judgement]], accepted: Accepted
) -> Iterator[Conformance]:
    """Count judgements by aspect and owner, the most violations first."""
    counts: defaultdict[tuple[Aspect, str], Counter[str]] = defaultdict(Counter)
    for owner, each in judged:
        finding, verdict = each.finding, each.verdict.value
        if each.verdict is Verdict.BROKEN and finding:
            is_accepted = (finding.rule, finding.repository) in accepted.by
            verdict = "excepted" if is_accepted else verdict
        counts[each.aspect, owner][verdict] += 1
    rows = [
        Conformance(
            aspect,
            owner,
            kept=found[Verdict.KEPT],
            broken=found[Verdict.BROKEN],
            excepted=found["excepted"],
            unknown=found[Verdict.UNKNOWN],
        )
        for (aspect, owner), found in counts.items()
    ]
    rows.sort(key=lambda row: (-row.broken, row.aspect, row.owner))
    yield from rows[:MAX_ROWS]
    others = rows[MAX_ROWS:]
    for aspect in Aspect:
        of_it = [row for row in others if row.aspect == aspect]
        if of_it:
            yield Conformance(
                aspect,
                f"{len(of_it)} other owners",
                kept=sum(row.kept for row in of_it),
                broken=sum(row.broken for row in of_it),
                excepted=sum(row.excepted for row in of_it),
                unknown=sum(row.unknown for row in of_it),
            )
