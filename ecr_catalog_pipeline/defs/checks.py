"""Asset checks: what each one says of a value. The specs are here too, for the asset graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg

from ecr_catalog_pipeline.core.conformance import state_finding
from ecr_catalog_pipeline.core.errors import EntityInvalid
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.last_good import age_in_words
from ecr_catalog_pipeline.core.parity import Change, Verdict
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.reconcile import ReconciledRepository, State
from ecr_catalog_pipeline.defs import tables
from ecr_catalog_pipeline.defs.event_log import Published
from ecr_catalog_pipeline.mirroring import Outcome, PlannedRegistry, Publication

GOVERNANCE_FINDINGS = "governance_findings"
NO_GHOSTS = "no_ghosts"
NO_ORPHANS = "no_orphans"
ENTITY_VALID = "entity_valid"
REMOVAL_GUARD = "removal_guard"
PUBLISHED_EQUALS_DESIRED = "published_equals_desired"
LAST_KNOWN_GOOD = "last_known_good"
BACKSTAGE_IN_PARITY = "backstage_in_parity"
TIME_TO_PARITY_WITHIN_SLO = "time_to_parity_within_slo"
PARITY_IS_FRESH = "parity_is_fresh"


def governance_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of `governance_catalog`."""
    return _specs(
        asset,
        {
            GOVERNANCE_FINDINGS: "The governance file breaks no rule. Fails with an error for "
            "findings of severity error, with a warning for warnings.",
        },
    )


def reconciled_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of `reconciled_registry`."""
    return _specs(
        asset,
        {
            NO_GHOSTS: "No repository is governed as existing and absent from AWS, but for those "
            "that the governance file excepts.",
            NO_ORPHANS: "Every repository in AWS is governed, but for those that the governance "
            "file excepts.",
            ENTITY_VALID: "Backstage will take the entity; an invalid one is never published.",
        },
    )


def published_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of `published_entity`."""
    return _specs(
        asset,
        {
            REMOVAL_GUARD: "Fails while a plan awaits approval.",
            PUBLISHED_EQUALS_DESIRED: "What is published is what governance and AWS call for.",
            LAST_KNOWN_GOOD: "The last run proved what is published. Otherwise the last "
            "known good entity stays as it was: its age, and why.",
        },
    )


def parity_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of `backstage_parity`."""
    return _specs(
        asset,
        {
            BACKSTAGE_IN_PARITY: "Backstage serves what is published.",
            TIME_TO_PARITY_WITHIN_SLO: "Every change that this run closed was visible within the "
            "SLO.",
            PARITY_IS_FRESH: "Parity was verified not longer ago than the SLO.",
        },
    )


def _specs(asset: dg.AssetKey, descriptions: Mapping[str, str]) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(name, asset=asset, description=description)
        for name, description in descriptions.items()
    ]


def governance_findings(findings: Sequence[Finding]) -> dg.AssetCheckResult:
    """Open findings about the file, by severity."""
    counts = Counter(finding.severity for finding in findings)
    grave = counts[Severity.ERROR] + counts[Severity.WARNING]
    return dg.AssetCheckResult(
        check_name=GOVERNANCE_FINDINGS,
        passed=grave == 0,
        severity=_severity(error=counts[Severity.ERROR] > 0),
        description=", ".join(f"{counts[severity]} {severity}" for severity in Severity),
        metadata={
            **{f"findings_{severity}": counts[severity] for severity in Severity},
            "findings": tables.findings(findings),
        },
    )


def no_ghosts(planned: PlannedRegistry) -> dg.AssetCheckResult:
    """Warn of what is governed as existing and absent from AWS."""
    return _none_in_state(NO_GHOSTS, planned, State.GHOST)


def no_orphans(planned: PlannedRegistry) -> dg.AssetCheckResult:
    """Warn of what is in AWS and not governed."""
    return _none_in_state(NO_ORPHANS, planned, State.ORPHAN)


def entity_valid(problem: EntityInvalid | None) -> dg.AssetCheckResult:
    """Say whether Backstage would take the entity."""
    return dg.AssetCheckResult(
        check_name=ENTITY_VALID,
        passed=problem is None,
        description=tables.words(str(problem))
        if problem
        else "keeps every rule of Backstage's catalog",
    )


def removal_guard(
    mirror: str, plan: Plan, publication: Publication, held_since: datetime | None
) -> dg.AssetCheckResult:
    """Say why a plan is held, since when something is, and how to approve it."""
    held = publication.outcome is Outcome.HELD
    if not held:
        return dg.AssetCheckResult(
            check_name=REMOVAL_GUARD,
            passed=True,
            description="nothing waits for approval",
            metadata={"removals": len(plan.changes.removed)},
        )
    return dg.AssetCheckResult(
        check_name=REMOVAL_GUARD,
        passed=False,
        description=tables.words("held: " + "; ".join(plan.reasons_held)),
        metadata={
            "removals": len(plan.changes.removed),
            **({"held_since": dg.MetadataValue.timestamp(held_since)} if held_since else {}),
            "plan_hash": plan.plan_hash,
            **_approval(mirror, plan),
            "changes": tables.changes(plan.changes),
        },
    )


def published_equals_desired(plan: Plan, publication: Publication) -> dg.AssetCheckResult:
    """Say whether the target, read back, holds what was planned."""
    if publication.outcome is Outcome.HELD:
        description = "the removal guard holds the plan; the last good entity stays"
    elif publication.unread:
        description = f"the target took the file; reading it back failed: {publication.unread}"
    elif publication.equals_desired:
        description = "the published file is the desired one"
    else:
        description = "the target was changed by someone else right after it was written"
    return dg.AssetCheckResult(
        check_name=PUBLISHED_EQUALS_DESIRED,
        passed=publication.equals_desired,
        severity=_severity(error=publication.outcome is not Outcome.HELD),
        description=description,
        metadata={"published_digest": publication.digest, "desired_digest": plan.digest},
    )


def last_known_good(good: Published, now: datetime, reason: str | None) -> dg.AssetCheckResult:
    """Say how old the last known good entity is, and why it is not newer.

    Args:
        reason: None when the last run proved what is published.
    """
    age = now - good.good_at if good.good_at else None
    words = f"{age_in_words(age)} old" if age is not None else "of unknown age"
    return dg.AssetCheckResult(
        check_name=LAST_KNOWN_GOOD,
        passed=reason is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=tables.words(f"the last known good entity stays, {words}: {reason}")
        if reason
        else "the last run proved what is published",
        metadata={
            **({"last_good_at": dg.MetadataValue.timestamp(good.good_at)} if good.good_at else {}),
            **({"age": round(age.total_seconds(), 3)} if age is not None else {}),
            "digest": good.digest,
        },
    )


def backstage_in_parity(verdict: Verdict) -> dg.AssetCheckResult:
    """Say what Backstage serves instead, and why."""
    return dg.AssetCheckResult(
        check_name=BACKSTAGE_IN_PARITY,
        passed=verdict.parity,
        description=tables.words(verdict.reason),
        metadata={
            "expected_digest": verdict.expected,
            "served_digest": verdict.served or "absent",
        },
    )


def time_to_parity_within_slo(
    closed: Sequence[Change], slo_seconds: int, problem: str = ""
) -> dg.AssetCheckResult:
    """Name every closed change that took longer than the SLO.

    Time during which a plan was held, or a source or Backstage was down, does not count.

    Args:
        problem: why the kept state of earlier runs could not be read; empty when it could.
    """
    late = [each for each in closed if (each.seconds_for_slo or 0) > slo_seconds]
    names = ", ".join(f"{each.repository} ({_measured(each)})" for each in late[:5])
    held_up = [each for each in closed if each.excused and each not in late]
    excused = "".join(f"; {each.repository}: {_measured(each)}" for each in held_up[:5])
    return dg.AssetCheckResult(
        check_name=TIME_TO_PARITY_WITHIN_SLO,
        passed=not late,
        description=tables.words(
            (
                f"later than {slo_seconds} s: {names}"
                if late
                else f"{len(closed)} changes closed, none later than {slo_seconds} s"
            )
            + excused
            + (f"; what earlier runs measured {problem}: measuring starts over" if problem else "")
        ),
        metadata={"slo_seconds": slo_seconds, "late": len(late), "closed": len(closed)},
    )


def parity_is_fresh(age: float | None, slo_seconds: int) -> dg.AssetCheckResult:
    """Compare the age of the last verified parity with the SLO."""
    return dg.AssetCheckResult(
        check_name=PARITY_IS_FRESH,
        passed=age is not None and age <= slo_seconds,
        description="parity was never verified"
        if age is None
        else f"parity was verified {age:.0f} s ago, the SLO is {slo_seconds} s",
        metadata={"slo_seconds": slo_seconds, **({} if age is None else {"age": age})},
    )


def _measured(change: Change) -> str:
    excused = f", of which {change.excused} do not count" if change.excused else ""
    return f"{change.seconds:.0f} s{excused}"


def _approval(mirror: str, plan: Plan) -> dict[str, str]:
    """How to approve a held plan: with the command, or with this run config in the launchpad."""
    config = f"ops: {{{mirror}__published_entity: {{config: {{approve: '{plan.plan_hash}'}}}}}}"
    return {
        "approve": f"ecr-catalog sync -m {mirror} --approve {plan.plan_hash}",
        f"approve_in_the_launchpad_of_{mirror}_sync": config,
    }


def _none_in_state(name: str, planned: PlannedRegistry, state: State) -> dg.AssetCheckResult:
    in_state = planned.registry.in_state(state)
    found = [each for each in in_state if each.exception is None]
    excepted = len(in_state) - len(found)
    return dg.AssetCheckResult(
        check_name=name,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(found)} in state {state}"
        + (f", and {excepted} that the governance file excepts" if excepted else ""),
        metadata={
            "count": len(found),
            "excepted": excepted,
            "repositories": tables.repositories(found),
            **({"what_follows": _what_follows(found)} if found else {}),
        },
    )


def _what_follows(found: Sequence[ReconciledRepository]) -> dg.MarkdownMetadataValue:
    """Say what to do, once for each origin of orphans and once for each other state."""
    said = Counter((each.message, each.remediation) for each in map(state_finding, found))
    lines = (f"- {count} {message}. {remedy}" for (message, remedy), count in said.most_common())
    return dg.MetadataValue.md("\n".join(lines))


def _severity(*, error: bool) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN
