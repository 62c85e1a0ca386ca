"""Findings and their owners: who is notified of which, when it begins and when it ends."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ecr_catalog_pipeline.core.entity import MAX_NAME, NAME, NAMESPACE
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State
from ecr_catalog_pipeline.core.text import inert, shortened

MAX_OWNERS: Final = 200
"""How many owners are looked up at once; the others stay unchecked."""
MAX_FINDINGS: Final = 100
"""How many error findings have notices at a time; the others wait until some have ended."""
MAX_NOTICES: Final = 20
"""How many notices are sent at one look."""
OWNER_UNKNOWN: Final = "owner-unknown"
TOPIC: Final = "ecr-catalog"

_REFERENCE: Final = re.compile(
    rf"(?:(?P<kind>[A-Za-z]+):)?(?:(?P<namespace>{NAMESPACE.pattern})/)?(?P<name>{NAME.pattern})"
)
_MAX_TITLE: Final = 200
_MAX_WORDS: Final = 500
_MAX_SCOPE: Final = 200


def owner_reference(owner: str) -> str | None:
    """Spell an owner as Backstage does, such as `group:default/team-a`; None where it cannot."""
    found = _REFERENCE.fullmatch(owner)
    if found is None or len(found["name"]) > MAX_NAME:
        return None
    kind, namespace = found["kind"] or "group", found["namespace"] or "default"
    if len(namespace) > MAX_NAME:
        return None
    return f"{kind}:{namespace}/{found['name']}".lower()


def owners_to_check(registry: ReconciledRegistry) -> list[str]:
    """Give the references of the owners of governed repositories, MAX_OWNERS at the most."""
    owners = {
        each.owner
        for each in registry.repositories
        if each.owner and each.state is not State.RETIRED
    }
    references = {owner_reference(owner) for owner in owners}
    return sorted(each for each in references if each)[:MAX_OWNERS]


def unknown_owners(
    registry: ReconciledRegistry, known: Mapping[str, bool]
) -> Iterator[tuple[str, Finding]]:
    """Find repositories whose owner Backstage does not know; give the owner with each.

    Args:
        known: whether Backstage knows a reference; of others nothing is said.
    """
    for each in registry.repositories:
        if not each.owner or each.state is State.RETIRED:
            continue
        reference = owner_reference(each.owner)
        if reference is not None and known.get(reference, True):
            continue
        yield (
            each.owner,
            Finding(
                each.name,
                OWNER_UNKNOWN,
                Severity.WARNING,
                f"Backstage knows no owner {shortened(each.owner)}",
                "Set metadata.owner to a Group of Backstage, or create that Group.",
            ),
        )


@dataclass(frozen=True, slots=True)
class OwnedFinding:
    """An error finding and the reference of who answers for it.

    Attributes:
        unknown: Backstage does not know the owner, so there is nobody to notify.
    """

    repository: str
    rule: str
    owner: str
    message: str
    remediation: str
    unknown: bool = False

    @property
    def key(self) -> str:
        """What distinguishes it from any other one of the mirror."""
        return f"{self.repository} {self.rule} {self.owner}"


@dataclass(frozen=True, slots=True)
class OwnedFindings:
    """The error findings of a registry that have an owner, sorted by key.

    Attributes:
        complete: there are no others.
    """

    found: tuple[OwnedFinding, ...] = ()
    complete: bool = True

    def lacks(self, key: str) -> bool:
        """Whether a finding has surely ended: what was cut off may go on."""
        return key not in {each.key for each in self.found} and (
            self.complete or (bool(self.found) and key < self.found[-1].key)
        )


def owned_findings(registry: ReconciledRegistry, known: Mapping[str, bool]) -> OwnedFindings:
    """Give the error findings that have an owner, the first MAX_FINDINGS of them."""
    owner_of = {each.name: each.owner for each in registry.repositories if each.owner}
    found = sorted(_owned(registry.findings, owner_of, known), key=lambda each: each.key)
    return OwnedFindings(tuple(found[:MAX_FINDINGS]), complete=len(found) <= MAX_FINDINGS)


def _owned(
    findings: Iterable[Finding], owner_of: Mapping[str, str], known: Mapping[str, bool]
) -> Iterator[OwnedFinding]:
    notified: set[str] = set()
    for each in findings:
        owner = owner_reference(owner_of.get(each.repository, ""))
        if each.severity is not Severity.ERROR or owner is None:
            continue
        finding = OwnedFinding(
            each.repository,
            each.rule,
            owner,
            shortened(each.message, _MAX_WORDS),
            shortened(each.remediation, _MAX_WORDS),
            unknown=not known.get(owner, True),
        )
        # One rule may find several things of a repository: its owner is notified of the first.
        if finding.key not in notified:
            notified.add(finding.key)
            yield finding


# Who was notified


@dataclass(frozen=True, slots=True)
class Notified:
    """A finding that its owner was notified of, or is about to be.

    Attributes:
        delivered: the notice of its beginning arrived.
        ended: the notice of its end is due.
        tries: how often the notice that is due did not arrive.
    """

    repository: str
    rule: str
    owner: str
    delivered: bool = False
    ended: bool = False
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """What is sent to an owner. The scope is the same at the beginning and at the end."""

    key: str
    owner: str
    title: str
    description: str
    severity: str
    link: str
    scope: str


def advance_notified(notified: Mapping[str, Notified], now: OwnedFindings) -> dict[str, Notified]:
    """Bring what owners were notified of up to date with the findings that there are now."""
    after: dict[str, Notified] = {}
    for key, each in notified.items():
        if now.lacks(key):
            if each.delivered:
                after[key] = each if each.ended else replace(each, ended=True, tries=0)
        else:
            after[key] = replace(each, ended=False, tries=0) if each.ended else each
    for finding in now.found:
        if finding.key not in after and not finding.unknown:
            after[finding.key] = Notified(finding.repository, finding.rule, finding.owner)
    return after


def due_notices(
    notified: Mapping[str, Notified], now: OwnedFindings, *, mirror: str, link: str
) -> list[Notice]:
    """Give the notices that are due: MAX_NOTICES at the most, those tried least first."""
    found = {each.key: each for each in now.found}
    due = [
        key
        for key, each in notified.items()
        if each.ended or (not each.delivered and key in found and not found[key].unknown)
    ]
    due.sort(key=lambda key: (notified[key].tries, key))
    return [_notice(key, notified[key], found.get(key), mirror, link) for key in due[:MAX_NOTICES]]


def after_notices(
    notified: Mapping[str, Notified], arrived: Collection[str], failed: Collection[str]
) -> dict[str, Notified]:
    """Note which notices arrived, by key; an end that arrived is forgotten."""
    after: dict[str, Notified] = {}
    for key, each in notified.items():
        if key in arrived:
            if not each.ended:
                after[key] = replace(each, delivered=True, tries=0)
        else:
            after[key] = replace(each, tries=each.tries + 1) if key in failed else each
    return after


def _notice(
    key: str, notified: Notified, finding: OwnedFinding | None, mirror: str, link: str
) -> Notice:
    what = f"{notified.repository}: {notified.rule.replace('-', ' ')}"
    if notified.ended or finding is None:
        title, severity = f"Resolved: {what}", "low"
        description = "It was corrected or accepted, or somebody else answers for it now."
    else:
        title, severity = what, "high"
        description = f"{finding.message}. {finding.remediation}"
    return Notice(
        key,
        notified.owner,
        shortened(inert(title), _MAX_TITLE),
        f"{inert(description)} (mirror {mirror})",
        severity,
        link,
        _scope(f"ecr-catalog/{mirror}/{notified.rule}/{notified.repository}"),
    )


def _scope(scope: str) -> str:
    """Keep a scope within what Backstage stores of one."""
    if len(scope) <= _MAX_SCOPE:
        return scope
    return f"{scope[: _MAX_SCOPE - 65]}#{hashlib.sha256(scope.encode()).hexdigest()}"
