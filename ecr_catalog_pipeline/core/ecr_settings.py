"""A registry's own settings: answers of the API in, what they mean for a repository out.

What cannot be read is unknown, and why: it is no error, and nothing else depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final

from ecr_catalog_pipeline.core.origins import CreationTemplate, OrphanOrigin

MALFORMED: Final = "malformed answer"
DENIED: Final = "denied"


class Setting(StrEnum):
    """What is read beside the listing, by the IAM action that it takes."""

    SCANNING = "ecr:GetRegistryScanningConfiguration"
    TEMPLATES = "ecr:DescribeRepositoryCreationTemplates"
    CACHE_RULES = "ecr:DescribePullThroughCacheRules"
    REPLICATION = "ecr:DescribeRegistry"
    LIFECYCLE = "ecr:GetLifecyclePolicy"


REGISTRY_SETTINGS: Final = (
    Setting.SCANNING,
    Setting.TEMPLATES,
    Setting.CACHE_RULES,
    Setting.REPLICATION,
)
ORIGIN_SETTINGS: Final = frozenset({Setting.TEMPLATES, Setting.CACHE_RULES})
"""What the origin of an orphan is inferred from."""


class Unreadable(Exception):
    """An answer that says nothing; its text is the reason, in a few words."""


class Scanning(StrEnum):
    """When ECR scans the images of a repository, weakest first."""

    OFF = "off"
    ON_PUSH = "on-push"
    CONTINUOUS = "continuous"

    def satisfies(self, wanted: Scanning) -> bool:
        """Whether it is the same as what is wanted, or stronger."""
        order = list(Scanning)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class ScanRule:
    """A rule of the registry: how often the repositories of its filters are scanned."""

    scanning: Scanning
    filters: tuple[str, ...]

    def matches(self, name: str) -> bool:
        """Whether a filter matches: without `*` any name that contains it, else the whole name."""
        return any(
            _glob(each).match(name) is not None if "*" in each else each in name
            for each in self.filters
        )


@dataclass(frozen=True, slots=True)
class RegistryScanning:
    """How the registry scans.

    Attributes:
        enhanced: only the rules count; otherwise a repository's own setting counts, too.
    """

    enhanced: bool
    rules: tuple[ScanRule, ...] = ()

    def effective(self, name: str, *, scan_on_push: bool | None) -> Scanning | None:
        """Say when a repository is scanned; None when that is unknown.

        Args:
            scan_on_push: the repository's own setting; None when it is unknown.
        """
        by_rule = [each.scanning for each in self.rules if each.matches(name)]
        strongest = max(by_rule, key=list(Scanning).index, default=Scanning.OFF)
        if self.enhanced or strongest is not Scanning.OFF:
            return strongest
        if scan_on_push is None:
            return None
        return Scanning.ON_PUSH if scan_on_push else Scanning.OFF


@dataclass(frozen=True, slots=True)
class EcrSettings:
    """What is known of a registry's settings; None where it is not known or was not asked for.

    Attributes:
        cache_rules: the prefixes of the pull-through cache rules.
        replicates_to: `REGION of ACCOUNT`, each once.
        unknown: what was asked for and could not be read, with the reason in a few words.
    """

    scanning: RegistryScanning | None = None
    templates: tuple[CreationTemplate, ...] | None = None
    cache_rules: tuple[str, ...] | None = None
    replicates_to: tuple[str, ...] | None = None
    unknown: Mapping[Setting, str] = field(default_factory=dict)


def parse_settings(
    answers: Mapping[Setting, Mapping[str, Any]], failed: Mapping[Setting, str], account: str
) -> EcrSettings:
    """Read the answers of a registry's settings.

    Args:
        failed: why others could not be asked.
        account: an answer for another one says nothing.
    """
    found: dict[Setting, Any] = {}
    unknown = dict(failed)
    for setting, answer in answers.items():
        try:
            found[setting] = _parsed(setting, answer, account)
        except Unreadable as reason:
            unknown[setting] = str(reason)
    return EcrSettings(
        scanning=found.get(Setting.SCANNING),
        templates=found.get(Setting.TEMPLATES),
        cache_rules=found.get(Setting.CACHE_RULES),
        replicates_to=found.get(Setting.REPLICATION),
        unknown=unknown,
    )


def settings_in_words(settings: EcrSettings) -> dict[str, str]:
    """Say what each setting is that was asked for, for people."""
    words = dict(_known_in_words(settings))
    return words | {setting.value: f"unknown: {why}" for setting, why in settings.unknown.items()}


def _known_in_words(settings: EcrSettings) -> Iterator[tuple[str, str]]:
    if scanning := settings.scanning:
        rules = [f"{each.scanning} for {', '.join(each.filters)}" for each in scanning.rules]
        kind = "enhanced" if scanning.enhanced else "basic"
        yield "scanning", f"{kind}: {'; '.join(rules) or 'no rules'}"
    if settings.templates is not None:
        prefixes = [f"{each.prefix} ({', '.join(each.applied_for)})" for each in settings.templates]
        yield "creation templates", ", ".join(prefixes) or "none"
    if settings.cache_rules is not None:
        yield "pull-through cache rules", ", ".join(settings.cache_rules) or "none"
    if settings.replicates_to is not None:
        yield "replicates to", ", ".join(settings.replicates_to) or "nowhere"


def _parsed(setting: Setting, answer: Mapping[str, Any], account: str) -> object:
    if answer.get("registryId", account) != account:
        raise Unreadable("answered for another account")
    if answer.get("nextToken"):
        raise Unreadable("more than one page")
    match setting:
        case Setting.SCANNING:
            return _scanning(answer)
        case Setting.TEMPLATES:
            return _templates(answer)
        case Setting.CACHE_RULES:
            rules = _items(answer, "pullThroughCacheRules")
            return tuple(sorted({_text(each, "ecrRepositoryPrefix") for each in rules}))
        case Setting.REPLICATION:
            return _replicates_to(answer)
        case _:
            raise Unreadable(f"{setting} is not a setting of a registry")


def _scanning(answer: Mapping[str, Any]) -> RegistryScanning:
    configuration = _mapping(answer, "scanningConfiguration")
    kind = _choice(configuration, "scanType", {"BASIC": False, "ENHANCED": True})
    rules = _items(configuration, "rules") if "rules" in configuration else []
    return RegistryScanning(kind, tuple(_scan_rule(each) for each in rules))


_FREQUENCIES: Final = {
    "MANUAL": Scanning.OFF,
    "SCAN_ON_PUSH": Scanning.ON_PUSH,
    "CONTINUOUS_SCAN": Scanning.CONTINUOUS,
}


def _scan_rule(rule: Mapping[str, Any]) -> ScanRule:
    filters = _items(rule, "repositoryFilters")
    if any(each.get("filterType", "WILDCARD") != "WILDCARD" for each in filters):
        raise Unreadable("a filter of a kind that is not known")
    return ScanRule(
        _choice(rule, "scanFrequency", _FREQUENCIES),
        tuple(_text(each, "filter") for each in filters),
    )


_APPLIED_FOR: Final = {each.name: each for each in OrphanOrigin if each is not OrphanOrigin.UNKNOWN}


def _templates(answer: Mapping[str, Any]) -> tuple[CreationTemplate, ...]:
    templates = [
        CreationTemplate(_text(each, "prefix"), tuple(_applied_for(each)))
        for each in _items(answer, "repositoryCreationTemplates")
    ]
    return tuple(sorted(templates, key=lambda each: each.prefix))


def _applied_for(template: Mapping[str, Any]) -> Iterable[OrphanOrigin]:
    given = template.get("appliedFor")
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise Unreadable(MALFORMED)
    # What applies for something that is newer than this is the origin of nothing known.
    return (_APPLIED_FOR[each] for each in given if each in _APPLIED_FOR)


def _replicates_to(answer: Mapping[str, Any]) -> tuple[str, ...]:
    rules = _items(_mapping(answer, "replicationConfiguration"), "rules")
    destinations = (each for rule in rules for each in _items(rule, "destinations"))
    return tuple(
        sorted({f"{_text(each, 'region')} of {_text(each, 'registryId')}" for each in destinations})
    )


def _mapping(answer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = answer.get(key)
    if not isinstance(part, dict):
        raise Unreadable(MALFORMED)
    return part


def _items(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    # botocore turns a JSON body that was cut off into an answer without its members.
    items = answer.get(key)
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise Unreadable(MALFORMED)
    return items


def _text(item: Mapping[str, Any], key: str) -> str:
    text = item.get(key)
    if not isinstance(text, str) or not text or not text.isprintable():
        raise Unreadable(MALFORMED)
    return text


def _choice(item: Mapping[str, Any], key: str, choices: Mapping[str, Any]) -> Any:
    text = _text(item, key)
    if text not in choices:
        raise Unreadable(f"{key} has a value that is not known")
    return choices[text]


@lru_cache(maxsize=1_024)
def _glob(text: str) -> re.Pattern[str]:
    """A glob of which `*` alone is special."""
    return re.compile(translate(re.sub(r"([?\[])", r"[\1]", text)))
