"""What a comment on a pull request says of a change to the governance file, in Markdown.

It compares the registry as the branch has it with the registry as the proposed file would have it,
and says what the next publication would do. A comment fits into GitHub's limit whatever it holds.
Text of others is shown as code, or with its markup, links and mentions broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ecr_catalog_pipeline.core.errors import CatalogError, GovernanceRefused
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, ReconciledRepository, State
from ecr_catalog_pipeline.core.text import counted, markdown_code, markdown_prose, shortened

MAX_COMMENT: Final = 60_000
"""How many characters a comment has at the most; GitHub takes 65,536."""

_ROWS: Final = (100, 50, 20, 10, 5, 2, 1, 0)
"""How many rows of a table are shown: the most with which the comment is not too long."""
_MAX_NAME: Final = 100
_MAX_WORDS: Final = 300
_MAX_REASONS: Final = 5
_AROUND: Final = 2
"""How many lines before and after a fault are shown."""
_MAX_LINE: Final = 120

_LISTED: Final = frozenset({State.LIVE, State.PENDING})
_FIELDS: Final = ("owner", "risk", "environment", "status")
_SEVERITIES: Final = tuple(Severity)
_MEANINGS: Final[Mapping[State | None, str]] = {
    State.LIVE: "governed and in AWS",
    State.PENDING: "requested, not yet in AWS",
    State.GHOST: "governed, but not in AWS: never published",
    State.ORPHAN: "in AWS, but not governed: never published",
    State.LINGERING: "decommissioned, but still in AWS: never published",
    State.RETIRED: "decommissioned and gone from AWS",
    None: "neither governed nor in AWS",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A governance file that is proposed, and what would follow from it.

    Attributes:
        path: of the governance file, in its repository.
        branch: that the file is proposed for.
        before: the registry as the branch's tip has it; None when the tip cannot be used.
        after: the registry as the proposed file would have it.
        plan: of the next publication, if the file were on the branch now.
        problem: why the tip cannot be used; empty when it can.
        held_before: the plan of the tip is held, too.
    """

    mirror: str
    path: str
    branch: str
    before: ReconciledRegistry | None
    after: ReconciledRegistry
    plan: Plan
    problem: str = ""
    held_before: bool = False


@dataclass(frozen=True, slots=True)
class _Table:
    """One part of a comment.

    Attributes:
        one, many: what is said of one row, and of several, in a word or two.
    """

    title: str
    one: str
    many: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def in_short(self) -> str:
        return f"{len(self.rows):,} {self.one if len(self.rows) == 1 else self.many}"


_Pair = tuple[ReconciledRepository | None, ReconciledRepository | None]


def marker(mirror: str) -> str:
    """The hidden first line of a mirror's comment, by which it is found again."""
    return f"<!-- ecr-catalog:plan:{mirror} -->"


def comment_on(proposal: Proposal) -> str:
    """Say what would follow from a proposed governance file."""
    tables = [*_effects(proposal), *_finding_tables(proposal)]
    shown = ""
    for rows in _ROWS:
        shown = _text(proposal, tables, rows)
        if len(shown) <= MAX_COMMENT:
            break
    return shown


def comment_on_refused(mirror: str, path: str, error: GovernanceRefused, content: bytes) -> str:
    """Say why a proposed governance file is refused, and show the line.

    Args:
        path: of the governance file, in its repository.
        content: of the proposed file.
    """
    place = f"{path}:{error.line}:{error.column}"
    problem = error.problem.removeprefix(f"{error.path}:{error.line}:{error.column}: ")
    return _joined(
        mirror,
        [
            (
                "**This file cannot be used.** While it is on the branch nothing is published, and "
                "the last good entity stays."
            ),
            "",
            (
                f"{markdown_code(place, _MAX_NAME * 3)}: {markdown_prose(problem, _MAX_WORDS)}. "
                f"{markdown_prose(error.remediation, _MAX_WORDS)}"
            ),
            "",
            "````text",
            *_excerpt(content, error.line, error.column),
            "````",
        ],
    )


def comment_on_failure(mirror: str, error: CatalogError) -> str:
    """Say why there is no plan."""
    return _joined(
        mirror,
        [
            (
                f"**There is no plan.** {markdown_prose(error.problem, _MAX_WORDS)}. "
                f"{markdown_prose(error.remediation, _MAX_WORDS)}"
            )
        ],
    )


def _joined(mirror: str, lines: Iterable[str]) -> str:
    heading = f"### Container registry `{mirror}`: what this governance file changes"
    return "\n".join([marker(mirror), heading, "", *lines]) + "\n"


def _text(proposal: Proposal, tables: Sequence[_Table], rows: int) -> str:
    lines = [_in_short(tables), "", *_publication(proposal)]
    if proposal.problem:
        lines += [
            "",
            (
                f"The file on {_code(proposal.branch)} cannot be used, so "
                "everything counts as new here: "
                f"{markdown_prose(proposal.problem, _MAX_WORDS)}."
            ),
        ]
    for table in tables:
        if table.rows:
            lines += ["", *_shown(table, rows)]
    path, branch = markdown_code(proposal.path, _MAX_NAME * 3), _code(proposal.branch)
    commit = proposal.plan.source_sha[:12]
    said = f"{path} in place of the one on {branch} at `{commit}`. Nothing was published."
    lines += ["", f"<sub>{said}</sub>"]
    return _joined(proposal.mirror, lines)


def _in_short(tables: Sequence[_Table]) -> str:
    numbers = [table.in_short for table in tables if table.rows]
    return f"**{', '.join(numbers)}.**" if numbers else "**It changes nothing.**"


def _publication(proposal: Proposal) -> Iterator[str]:
    plan = proposal.plan
    changes = plan.changes
    if plan.unchanged:
        yield "If it were merged now, nothing would be published: the entity stays as it is."
    else:
        numbers = (
            f"{len(changes.added):,} added, {len(changes.updated):,} updated, "
            f"{len(changes.removed):,} removed"
        )
        number = "first" if plan.published_digest is None else "next"
        live = counted(plan.counts[State.LIVE], "live repository")
        yield (
            f"If it were merged now, the {number} publication would list {live}: {numbers}."
            + _of_the_branch(proposal)
        )
    if not plan.held:
        return
    yield ""
    if proposal.held_before:
        branch = _code(proposal.branch)
        yield f"**It would be held for approval**, as the plan of {branch} already is:"
    else:
        yield "**It would be held for approval** by the removal guard:"
    yield ""
    for reason in plan.reasons_held[:_MAX_REASONS]:
        yield f"- {markdown_prose(reason, _MAX_WORDS)}"


def _of_the_branch(proposal: Proposal) -> str:
    """Say that a publication holds more than the file changes; empty when it does not."""
    if proposal.before is None:
        return ""
    pairs = _pairs(proposal.before, proposal.after)
    live = {name for name, pair in pairs.items() if _is_live(pair[0]) != _is_live(pair[1])}
    changes = proposal.plan.changes
    if {*changes.added, *changes.removed} <= live:
        return ""
    return f" That includes changes of {_code(proposal.branch)} or AWS that are not published yet."


def _is_live(each: ReconciledRepository | None) -> bool:
    return each is not None and each.state is State.LIVE


def _pairs(before: ReconciledRegistry | None, after: ReconciledRegistry) -> dict[str, _Pair]:
    """Give each repository before and after, sorted by name."""
    old = {each.name: each for each in before.repositories} if before else {}
    new = {each.name: each for each in after.repositories}
    return {name: (old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())}


def _effects(proposal: Proposal) -> Iterator[_Table]:
    appear, disappear, change, others = [], [], [], []
    for name, (old, new) in _pairs(proposal.before, proposal.after).items():
        was, now = _listed(old), _listed(new)
        if now and not was:
            before = old.state.value if old else "new"
            fields = (_code(each) for each in (now.owner, now.risk, now.environment))
            appear.append((_code(name), now.state.value, *fields, before))
        elif was and not now:
            disappear.append((_code(name), _code(was.owner), _named_state(_state(new))))
        elif was and now and (differences := list(_differences(was, now))):
            change.append((_code(name), ", ".join(differences)))
        elif _state(old) is not _state(new):
            others.append((_code(name), old.state.value if old else "-", _named_state(_state(new))))
    yield _Table(
        "Disappear from Backstage",
        "disappears",
        "disappear",
        ("Repository", "Owner", "Afterwards"),
        disappear,
    )
    yield _Table(
        "Appear in Backstage",
        "appears",
        "appear",
        ("Repository", "As", "Owner", "Risk", "Environment", "Before"),
        appear,
    )
    yield _Table("Change in Backstage", "changes", "change", ("Repository", "Change"), change)
    yield _Table(
        "Other changes of state",
        "other change of state",
        "other changes of state",
        ("Repository", "Before", "Afterwards"),
        others,
    )


def _listed(each: ReconciledRepository | None) -> ReconciledRepository | None:
    return each if each is not None and each.state in _LISTED else None


def _state(each: ReconciledRepository | None) -> State | None:
    return each.state if each is not None else None


def _named_state(state: State | None) -> str:
    return f"{state.value}: {_MEANINGS[state]}" if state else _MEANINGS[None]


def _differences(old: ReconciledRepository, new: ReconciledRepository) -> Iterator[str]:
    for field in ("state", *_FIELDS):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield f"{field}: {_code(before)} → {_code(after)}"


def _finding_tables(proposal: Proposal) -> Iterator[_Table]:
    before = proposal.before.findings if proposal.before else ()
    excepted_before = proposal.before.excepted if proposal.before else ()
    new = _without(proposal.after.findings, before)
    excepted = _without(proposal.after.excepted, excepted_before)
    gone = _without(before, proposal.after.findings)
    head = ("Severity", "Repository", "Finding")
    yield _Table(
        "New findings",
        "new finding",
        "new findings",
        (*head, "What to do"),
        [(*_finding(each), markdown_prose(each.remediation, _MAX_WORDS)) for each in new],
    )
    yield _Table(
        "Newly excepted",
        "newly excepted",
        "newly excepted",
        (*head, "Why"),
        [(*_finding(each), markdown_prose(each.remediation, _MAX_WORDS)) for each in excepted],
    )
    yield _Table(
        "Findings that go", "finding goes", "findings go", head, [_finding(each) for each in gone]
    )


def _finding(each: Finding) -> tuple[str, str, str]:
    rule = f"`{each.rule}`" + (f" ({each.control})" if each.control else "")
    subject = _code(each.repository) if each.repository else "the file"
    return each.severity.value, subject, f"{markdown_prose(each.message, _MAX_WORDS)} {rule}"


def _without(findings: Sequence[Finding], others: Sequence[Finding]) -> list[Finding]:
    """Give the findings that are not among the others, the most severe first."""
    known = set(others)
    return sorted(
        (each for each in findings if each not in known),
        key=lambda each: (_SEVERITIES.index(each.severity), each),
    )


def _shown(table: _Table, rows: int) -> Iterator[str]:
    yield f"#### {table.title} ({len(table.rows):,})"
    yield ""
    if rows:
        yield _line(table.head)
        yield _line(["---"] * len(table.head))
        yield from (_line(row) for row in table.rows[:rows])
    if more := len(table.rows[rows:]):
        yield ""
        yield f"And {more:,} more." if rows else "Too long to be shown here."


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str | None) -> str:
    return markdown_code(text, _MAX_NAME) if text else "-"


def _excerpt(content: bytes, line: int, column: int) -> Iterator[str]:
    """Show the lines around a fault; what is before each line keeps it from closing the block."""
    lines = content.decode("utf-8", "replace").split("\n")
    first = max(1, line - _AROUND)
    width = len(str(line + _AROUND))
    for number, text in enumerate(lines[first - 1 : line + _AROUND], first):
        shown = shortened(text.removesuffix("\r"), _MAX_LINE)
        yield f"{'>' if number == line else ' '} {number:>{width}} | {shown}"
        if number == line and column <= len(shown) and shown == text.removesuffix("\r"):
            yield f"  {'':>{width}} | {' ' * (column - 1)}^"
