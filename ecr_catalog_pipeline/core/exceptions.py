"""What the governance file accepts for a reason, until a date.

An exception accepts findings of a rule, or orphans, ghosts or lingering repositories. What is
accepted keeps its state and is listed apart; nothing becomes live by it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import translate
from typing import Final

from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.origins import OrphanOrigin
from ecr_catalog_pipeline.core.strict_yaml import quoted
from ecr_catalog_pipeline.core.text import clean_text

ORPHAN: Final = "orphan"
EXCEPTION_MALFORMED: Final = "exception-malformed"
EXCEPTION_EXPIRED: Final = "exception-expired"
EXCEPTION_UNUSED: Final = "exception-unused"
NEVER_EXCEPTED: Final = frozenset({EXCEPTION_MALFORMED, EXCEPTION_EXPIRED, EXCEPTION_UNUSED})
"""Rules about exceptions, which no exception accepts."""

_SPECIAL: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Why something is accepted.

    Attributes:
        expires: the last day on which it is, in UTC; None when it has no end.
    """

    reason: str
    expires: date | None = None


@dataclass(frozen=True, slots=True)
class GovernanceException:
    """One exception of the governance file.

    Attributes:
        match: a glob over the names of repositories, or the very name of one.
        rule: of a finding, or the state `orphan`, `ghost` or `lingering`.
        origin: narrows orphans to those of this origin; None does not.
        expires: the last day on which it holds, in UTC; None when it has no end.
    """

    match: str
    rule: str
    reason: str
    origin: OrphanOrigin | None = None
    expires: date | None = None

    @property
    def acceptance(self) -> Acceptance:
        """What it says of what it accepts."""
        return Acceptance(self.reason, self.expires)

    @property
    def in_words(self) -> str:
        """Name it in a message."""
        origin = f" of origin {self.origin}" if self.origin else ""
        return f"the exception from {quoted(self.rule)}{origin} for {quoted(self.match)}"

    def has_expired(self, today: date) -> bool:
        """Whether its last day has passed."""
        return self.expires is not None and self.expires < today


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a file's exceptions accept.

    Attributes:
        by: why something is accepted, by rule or state and by the name of the repository. Of
            several exceptions the first one in the file counts.
        unused: the exceptions that hold and match nothing.
    """

    by: Mapping[tuple[str, str], Acceptance]
    unused: tuple[GovernanceException, ...]

    def split(self, findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
        """Divide findings into those that stay open and those that are accepted."""
        still_open, excepted = [], []
        for each in findings:
            acceptance = self.by.get((each.rule, each.repository))
            if acceptance is None:
                still_open.append(each)
            else:
                excepted.append(as_accepted(each, acceptance))
        return still_open, excepted


def accept(
    exceptions: Sequence[GovernanceException],
    findings: Iterable[Finding],
    today: date,
    *,
    states: Mapping[str, Sequence[str]] | None = None,
    origins: Mapping[str, OrphanOrigin] | None = None,
) -> Accepted:
    """Find what exceptions accept.

    Args:
        today: in UTC.
        states: the sorted names of the repositories in each state that can be accepted.
        origins: of the orphans.
    """
    if not exceptions:
        return Accepted({}, ())
    names = {**_names_by_rule(findings), **(states or {})}
    by: dict[tuple[str, str], Acceptance] = {}
    unused = []
    for each in exceptions:
        if each.has_expired(today):
            continue
        matched = list(_matched(each, names.get(each.rule, ()), origins or {}))
        for name in matched:
            by.setdefault((each.rule, name), each.acceptance)
        if not matched:
            unused.append(each)
    return Accepted(by, tuple(unused))


def expired(exceptions: Iterable[GovernanceException], today: date) -> Iterator[Finding]:
    """Find the exceptions whose last day has passed.

    Args:
        today: in UTC.
    """
    for each in exceptions:
        if each.has_expired(today):
            yield Finding(
                "",
                EXCEPTION_EXPIRED,
                Severity.WARNING,
                f"{each.in_words} held until {each.expires} and holds no longer "
                f"(reason: {quoted(each.reason)})",
                "Correct what it accepted and remove it, or give it a later last day.",
            )


def unused(exceptions: Iterable[GovernanceException]) -> Iterator[Finding]:
    """Say of exceptions that they accept nothing."""
    for each in exceptions:
        yield Finding(
            "",
            EXCEPTION_UNUSED,
            Severity.INFO,
            f"{each.in_words} matches nothing",
            "Remove it, or correct its `match` and `rule`.",
        )


def as_accepted(finding: Finding, acceptance: Acceptance) -> Finding:
    """Say in a finding that nothing has to be done, and why."""
    return replace(finding, remediation=f"Accepted {accepted_in_words(acceptance)}")


def accepted_in_words(acceptance: Acceptance) -> str:
    """Say why something is accepted, and until when."""
    until = f"until {acceptance.expires}" if acceptance.expires else "without an end"
    return f"{until}: {clean_text(acceptance.reason)}"


def names_matching(match: str, names: Sequence[str]) -> Iterator[str]:
    """Give the names that a glob matches, case-sensitively; a name always matches itself.

    Args:
        names: sorted.
    """
    special = _SPECIAL.search(match)
    prefix = match[: special.start()] if special else match
    glob = re.compile(translate(match)) if special else None
    for place in range(bisect_left(names, prefix), len(names)):
        name = names[place]
        if not name.startswith(prefix):
            return
        if name == match or (glob is not None and glob.match(name)):
            yield name


def _matched(
    exception: GovernanceException, names: Sequence[str], origins: Mapping[str, OrphanOrigin]
) -> Iterator[str]:
    for name in names_matching(exception.match, names):
        if exception.origin is None or origins.get(name) is exception.origin:
            yield name


def _names_by_rule(findings: Iterable[Finding]) -> Mapping[str, Sequence[str]]:
    names: defaultdict[str, set[str]] = defaultdict(set)
    for each in findings:
        if each.rule not in NEVER_EXCEPTED:
            names[each.rule].add(each.repository)
    return {rule: sorted(found) for rule, found in names.items()}
