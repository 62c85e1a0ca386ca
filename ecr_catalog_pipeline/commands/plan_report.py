"""A plan, as JSON for programs and as text for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.plan import Difference, Plan
from ecr_catalog_pipeline.core.reconcile import ReconciledRepository, State
from ecr_catalog_pipeline.core.text import shortened
from ecr_catalog_pipeline.mirroring import PlannedRegistry
from ecr_catalog_pipeline.terminal import style

_COLUMNS: Final = ("name", "state", "owner", "risk", "environment", "status", "uri", "origin")
_WIDTHS: Final = {"name": 60, "owner": 40, "risk": 12, "environment": 20, "status": 20}
"""How wide a column gets at the most. What a plan changes is named whole, below the table."""
_MAX_VALUE: Final = 80
_MAX_WORDS: Final = 500
_STATE_COLOURS: Final = {
    State.LIVE: "green",
    State.PENDING: "cyan",
    State.GHOST: "red",
    State.ORPHAN: "yellow",
    State.LINGERING: "yellow",
    State.RETIRED: "bright_black",
}
_SEVERITY_COLOURS: Final = {
    Severity.ERROR: "red",
    Severity.WARNING: "yellow",
    Severity.INFO: "cyan",
}


def plan_as_json(mirror: str, planned: PlannedRegistry) -> dict[str, Any]:
    """Give the object that `ecr-catalog plan --json` prints."""
    plan, registry = planned.plan, planned.registry
    changes = plan.changes
    return {
        "mirror": mirror,
        "source_sha": plan.source_sha,
        "plan_hash": plan.plan_hash,
        "held": plan.held,
        "counts": {state.value: count for state, count in plan.counts.items()},
        "repositories": [_repository_as_json(each) for each in registry.repositories],
        "changes": {
            "added": changes.added,
            "removed": changes.removed,
            "updated": changes.updated,
        },
        "findings": [_finding_as_json(finding) for finding in registry.findings],
        "excepted": [_finding_as_json(finding) for finding in registry.excepted],
    }


def plan_as_text(mirror: str, where: str, planned: PlannedRegistry) -> Iterator[str]:
    """Give the lines that `ecr-catalog plan` prints, with terminal colours."""
    plan, registry = planned.plan, planned.registry
    yield f"Mirror {style(mirror, bold=True)}, governance at {plan.source_sha[:12]}"
    yield f"Publishes to {where}"
    yield f"Published now: {plan.last_good}"
    yield ""
    yield from _states(registry.repositories)
    yield ""
    yield from _changes(plan)
    if registry.findings:
        yield ""
        yield style("Findings:", bold=True)
        yield from (_finding_line(finding) for finding in registry.findings)
    yield ""
    if plan.held:
        yield from _hold(mirror, plan)
    yield _summary(plan)


def _states(repositories: tuple[ReconciledRepository, ...]) -> Iterator[str]:
    if not repositories:
        yield "No repository is governed or present."
        return
    rows = [
        [shortened(getattr(each, column) or "-", width) for column, width in _WIDTHS.items()]
        for each in repositories
    ]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for each, cells in zip(repositories, rows, strict=True):
        state = style(f"{each.state:<9}", fg=_STATE_COLOURS[each.state])
        shown = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        yield f"  {state}  {shown.rstrip()}"


def _changes(plan: Plan) -> Iterator[str]:
    changes = plan.changes
    if plan.unchanged:
        yield "No changes: what is published is what governance and AWS call for."
        return
    first = " (first publication)" if plan.published_digest is None else ""
    yield style(f"Changes to publish{first}:", bold=True)
    for name in changes.added:
        yield style(f"  + {name}", fg="green")
    fields: defaultdict[str, list[str]] = defaultdict(list)
    for each in plan.differences:
        fields[each.repository].append(_difference(each))
    for name in changes.updated:
        yield style(f"  ~ {name}  ({', '.join(fields[name])})", fg="yellow")
    for name in changes.removed:
        yield style(f"  - {name}", fg="red")
    if not (changes.added or changes.updated or changes.removed):
        yield "  ~ no live repository: only counts, pending ones or the entity's own words"


def _difference(each: Difference) -> str:
    whole = each.old or "(none)", each.new or "(none)"
    old, new = (shortened(value, _MAX_VALUE) for value in whole)
    if old == new:
        # They differ only where they would be cut, and the approver has to see how.
        old, new = whole
    return f"{each.field}: {old} -> {new}"


def _finding_line(finding: Finding) -> str:
    severity = style(f"{finding.severity:<7}", fg=_SEVERITY_COLOURS[finding.severity])
    subject = shortened(finding.repository or "the file", _WIDTHS["name"])
    message, remediation = (
        shortened(words, _MAX_WORDS) for words in (finding.message, finding.remediation)
    )
    return f"  {severity}  {subject}: {message} [{finding.rule}]. {remediation}"


def _hold(mirror: str, plan: Plan) -> Iterator[str]:
    yield style("Held by the removal guard:", fg="red", bold=True)
    yield from (f"  {reason}" for reason in plan.reasons_held)
    yield f"Until then the last good stays: {plan.last_good}"
    yield f"Approve this very plan with: ecr-catalog sync -m {mirror} --approve {plan.plan_hash}"
    yield ""


def _summary(plan: Plan) -> str:
    changes, counts = plan.changes, plan.counts
    states = ", ".join(f"{counts[state]} {state}" for state in State)
    return style(
        f"Plan: {len(changes.added)} to add, {len(changes.updated)} to update, "
        f"{len(changes.removed)} to remove. {states}.",
        bold=True,
    )


def _repository_as_json(each: ReconciledRepository) -> dict[str, Any]:
    accepted = each.exception
    expires = accepted.expires.isoformat() if accepted and accepted.expires else None
    return {
        **{column: getattr(each, column) for column in _COLUMNS},
        "exception": {"reason": accepted.reason, "expires": expires} if accepted else None,
    }


def _finding_as_json(finding: Finding) -> dict[str, str | None]:
    return {
        key: getattr(finding, key)
        for key in ("rule", "severity", "repository", "message", "remediation", "control")
    }
