"""Where an orphan probably came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ROOT: Final = "ROOT"
"""The prefix that matches every name for which there is no longer one."""


class OrphanOrigin(StrEnum):
    """What created a repository that nobody governs, as far as the registry's settings tell."""

    CREATE_ON_PUSH = "create-on-push"
    PULL_THROUGH_CACHE = "pull-through-cache"
    REPLICATION = "replication"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CreationTemplate:
    """A template that ECR creates repositories from.

    Attributes:
        prefix: the namespace that it is for, or ROOT.
        applied_for: what may create a repository from it.
    """

    prefix: str
    applied_for: tuple[OrphanOrigin, ...]


class Origins:
    """Infers the origin of repositories from creation templates and pull-through cache rules.

    Args:
        templates, cache_rules: None when they are not known. Cache rules are their prefixes.
    """

    def __init__(
        self, templates: Iterable[CreationTemplate] | None, cache_rules: Iterable[str] | None
    ) -> None:
        cached = None if cache_rules is None else {_namespace(each) for each in cache_rules}
        self._by_prefix = {
            _namespace(each.prefix): origin
            for each in templates or ()
            if (origin := _origin(each, cached)) is not None
        }
        # A cache rule creates repositories with or without a template of its prefix.
        self._by_prefix |= dict.fromkeys(cached or (), OrphanOrigin.PULL_THROUGH_CACHE)

    def of(self, name: str) -> OrphanOrigin:
        """Infer it by the longest prefix that the name lies below."""
        for namespace in _namespaces_above(name.rpartition("/")[0]):
            if found := self._by_prefix.get(namespace):
                return found
        return OrphanOrigin.UNKNOWN


_CAUSES: Final = {
    OrphanOrigin.CREATE_ON_PUSH: "probably created by a push",
    OrphanOrigin.PULL_THROUGH_CACHE: "probably created by the pull-through cache",
    OrphanOrigin.REPLICATION: "probably created by replication",
    OrphanOrigin.UNKNOWN: "of unknown origin",
}
_COMES_BACK: Final = {
    OrphanOrigin.CREATE_ON_PUSH: " (the next push creates it again)",
    OrphanOrigin.PULL_THROUGH_CACHE: " (the next pull creates it again)",
    OrphanOrigin.REPLICATION: " (the next push to its source creates it again)",
}


def cause_in_words(origin: OrphanOrigin | None) -> str:
    """Say where an orphan probably came from."""
    return _CAUSES[origin or OrphanOrigin.UNKNOWN]


def what_follows(origin: OrphanOrigin | None) -> str:
    """Say what to do about an orphan."""
    again = _COMES_BACK.get(origin or OrphanOrigin.UNKNOWN, "")
    return (
        "Govern it (`ecr-catalog adopt`), except it (`exceptions:` in the governance file), or "
        f"delete it{again}."
    )


def _namespace(prefix: str) -> str:
    """Give the namespace of a prefix: ROOT is above all names, and a trailing slash is none."""
    return "" if prefix == ROOT else prefix.rstrip("/")


def _origin(template: CreationTemplate, cached: set[str] | None) -> OrphanOrigin | None:
    """Choose among what a template applies for; None when it applies for nothing.

    Of several, the pull-through cache is the one where a cache rule leads to the template, and is
    not where none does. Of what is left a push is the likeliest.
    """
    possible = [each for each in OrphanOrigin if each in template.applied_for]
    cache = OrphanOrigin.PULL_THROUGH_CACHE
    if len(possible) > 1 and cache in possible and cached is not None:
        if not cached.isdisjoint(_namespaces_above(_namespace(template.prefix))):
            return cache
        possible.remove(cache)
    return possible[0] if possible else None


def _namespaces_above(namespace: str) -> Iterator[str]:
    """Give a namespace and those above it, the longest first; the last one is above all names."""
    yield namespace
    while namespace:
        namespace = namespace.rpartition("/")[0]
        yield namespace
