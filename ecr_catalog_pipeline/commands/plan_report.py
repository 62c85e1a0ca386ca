"""A plan, as JSON for programs and as text for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ecr_catalog_pipeline.core.exceptions import accepted_in_words
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.origins import OrphanOrigin
from ecr_catalog_pipeline.core.plan import Difference, Plan
from ecr_catalog_pipeline.core.reconcile import (
    ReconciledRegistry,
    ReconciledRepository,
    State,
)
from ecr_catalog_pipeline.core.text import shortened
from ecr_catalog_pipeline.mirroring import PlannedRegistry
from ecr_catalog_pipeline.terminal import style

_COLUMNS: Final = ("name", "state", "owner", "risk", "environment", "status", "uri", "origin")
_HEADS: Final = {
    "state": "STATE",
    "name": "REPOSITORY",
    "owner": "OWNER",
    "risk": "RISK",
    "environment": "ENVIRONMENT",
    "status": "STATUS",
    "note": "NOTE",
}
_WIDTHS: Final = {
    "state": 9,
    "name": 60,
    "owner": 40,
    "risk": 12,
    "environment": 20,
    "status": 20,
    "note": 60,
}
"""How wide a column gets at the most. What a plan changes is named whole, above the table."""
_LEAST: Final = 6
"""A column is not cut below this, however narrow the terminal."""
_GAP: Final = "  "
_MAX_VALUE: Final = 80
_MAX_WORDS: Final = 500
_LARGE: Final = 60
"""Past this many repositories, only what needs attention is shown."""
_FEW: Final = 20
"""How much of a kind is then shown."""
_NEEDS_ATTENTION: Final = (State.GHOST, State.ORPHAN, State.LINGERING)
_THE_REST: Final = "--all-states lists all"
_STATE_COLOURS: Final = {
    State.LIVE: "green",
    State.PENDING: "cyan",
    State.GHOST: "red",
    State.ORPHAN: "yellow",
    State.LINGERING: "yellow",
    State.RETIRED: "bright_black",
}
_SEVERITIES: Final = tuple(Severity)
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


def plan_as_text(
    mirror: str,
    where: str,
    planned: PlannedRegistry,
    *,
    governance: str | None = None,
    width: int | None = None,
    all_states: bool = False,
) -> Iterator[str]:
    """Give the lines that `ecr-catalog plan` prints, with terminal colours.

    Args:
        governance: what was read in place of the branch's tip; None when that was read.
        width: how many columns the table may take; None for as many as it needs.
        all_states: show everything, however large the registry is.
    """
    plan, registry = planned.plan, planned.registry
    governance = governance or f"at {plan.source_sha[:12]}"
    whole = all_states or len(registry.repositories) <= _LARGE
    yield f"Mirror {style(mirror, bold=True)}, governance {governance}"
    yield f"Publishes to {where}"
    yield f"Published now: {plan.last_good}"
    yield _summary(planned)
    yield ""
    if plan.held:
        yield from _hold(mirror, plan)
    yield from _changes(plan, whole=whole)
    yield ""
    yield from _states(registry, width, whole=whole)
    if registry.findings:
        yield ""
        yield from _findings("Findings:", registry.findings, whole=whole)
    if registry.excepted:
        yield ""
        yield from _findings("Excepted:", registry.excepted, whole=whole)


def _states(registry: ReconciledRegistry, width: int | None, *, whole: bool) -> Iterator[str]:
    if not registry.repositories:
        yield "No repository is governed or present."
        return
    if whole:
        yield from _table(registry.repositories, width)
        return
    in_need = {
        state: [each for each in registry.in_state(state) if not each.exception]
        for state in _NEEDS_ATTENTION
    }
    yield style("Needs attention:", bold=True)
    if not any(in_need.values()):
        yield f"  no repository; {_THE_REST}"
        return
    yield from _table([each for some in in_need.values() for each in some[:_FEW]], width)
    left_out = [
        f"{len(some) - _FEW:,} more {state}" for state, some in in_need.items() if len(some) > _FEW
    ]
    if left_out:
        yield f"  and {', '.join(left_out)}; {_THE_REST}"


def _table(repositories: Sequence[ReconciledRepository], width: int | None) -> Iterator[str]:
    rows = [_row(each) for each in repositories]
    columns = [column for column in _HEADS if column != "note" or any(row[column] for row in rows)]
    longest = [
        min(
            _WIDTHS[column],
            max(len(_HEADS[column]), *(len(shortened(row[column])) for row in rows)),
        )
        for column in columns
    ]
    widths = _fitted(longest, width)
    yield style(_cells([_HEADS[column] for column in columns], widths), bold=True)
    for each, row in zip(repositories, rows, strict=True):
        line = _cells([row[column] for column in columns], widths)
        # The state is in the first column; what it is called is never cut.
        end = len(_GAP) + len(each.state)
        yield f"{_GAP}{style(each.state, fg=_STATE_COLOURS[each.state])}{line[end:]}"


def _row(each: ReconciledRepository) -> dict[str, str]:
    row = {column: getattr(each, column, None) or "-" for column in _HEADS}
    return {**row, "note": _note(each)}


def _note(each: ReconciledRepository) -> str:
    """Say where an orphan probably came from, and why a state is accepted."""
    probably = each.origin and each.origin is not OrphanOrigin.UNKNOWN
    notes = [f"probably {each.origin}"] if probably else []
    if each.exception:
        notes.append(f"Accepted {accepted_in_words(each.exception)}")
    return "; ".join(notes)


def _cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = (
        f"{shortened(cell, width):<{width}}" for cell, width in zip(cells, widths, strict=True)
    )
    return f"{_GAP}{_GAP.join(shown).rstrip()}"


def _fitted(longest: Sequence[int], width: int | None) -> list[int]:
    """Make the widest columns narrower until a row fits; the first one, the state, stays."""
    widths = list(longest)
    available = None if width is None else width - len(_GAP) * len(widths)
    while available is not None and sum(widths) > available:
        place = max(range(1, len(widths)), key=widths.__getitem__)
        if widths[place] <= _LEAST:
            break
        widths[place] -= 1
    return widths


def _changes(plan: Plan, *, whole: bool) -> Iterator[str]:
    changes = plan.changes
    if plan.unchanged:
        yield "No changes: what is published is what governance and AWS call for."
        return
    first = " (first publication)" if plan.published_digest is None else ""
    yield style(f"Changes to publish{first}:", bold=True)
    fields: defaultdict[str, list[str]] = defaultdict(list)
    for each in plan.differences:
        fields[each.repository].append(_difference(each))
    # Every removal is named, so that whoever approves it has seen it.
    few = None if whole else _FEW
    for name in changes.added[:few]:
        yield style(f"  + {name}", fg="green")
    yield from _more_of(changes.added, few, "additions")
    for name in changes.updated[:few]:
        yield style(f"  ~ {name}  ({', '.join(fields[name])})", fg="yellow")
    yield from _more_of(changes.updated, few, "updates")
    for name in changes.removed:
        yield style(f"  - {name}", fg="red")
    if not (changes.added or changes.updated or changes.removed):
        yield "  ~ no live repository: only counts, pending ones or the entity's own words"


def _more_of(things: Sequence[object], few: int | None, what: str) -> Iterator[str]:
    if few is not None and len(things) > few:
        yield f"    and {len(things) - few:,} more {what}; {_THE_REST}"


def _difference(each: Difference) -> str:
    whole = each.old or "(none)", each.new or "(none)"
    old, new = (shortened(value, _MAX_VALUE) for value in whole)
    if old == new:
        # They differ only where they would be cut, and the approver has to see how.
        old, new = whole
    return f"{each.field}: {old} -> {new}"


def _findings(heading: str, findings: Sequence[Finding], *, whole: bool) -> Iterator[str]:
    """Group findings by rule and by what there is to do, the most severe first."""
    yield style(heading, bold=True)
    groups: defaultdict[tuple[int, str, str], list[Finding]] = defaultdict(list)
    for each in findings:
        rule = f"{each.rule} [{each.control}]" if each.control else each.rule
        groups[_SEVERITIES.index(each.severity), rule, each.remediation].append(each)
    for (severity, rule, remediation), found in sorted(groups.items()):
        shown = _SEVERITIES[severity]
        severity_shown = style(f"{shown:<7}", fg=_SEVERITY_COLOURS[shown])
        yield f"  {severity_shown}  {rule} ({len(found):,}): {shortened(remediation, _MAX_WORDS)}"
        few = None if whole else _FEW
        for finding in found[:few]:
            subject = shortened(finding.repository or "the file", _WIDTHS["name"])
            yield f"    {subject}: {shortened(finding.message, _MAX_WORDS)}"
        yield from _more_of(found, few, "of this rule")


def _hold(mirror: str, plan: Plan) -> Iterator[str]:
    yield style("Held by the removal guard:", fg="red", bold=True)
    yield from (f"  {reason}" for reason in plan.reasons_held)
    yield f"Until then the last good stays: {plan.last_good}"
    yield f"Approve this very plan with: ecr-catalog sync -m {mirror} --approve {plan.plan_hash}"
    yield ""


def _summary(planned: PlannedRegistry) -> str:
    changes, counts = planned.plan.changes, planned.plan.counts
    states = ", ".join(f"{counts[state]} {state}" for state in State)
    if excepted := len(planned.registry.excepted):
        states += f", {excepted} excepted"
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
