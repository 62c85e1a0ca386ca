"""What an ad-hoc ECR entity describes: its repository in governance and AWS, and what it adds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from ecr_catalog_pipeline.core.entity import KIND, TYPE
from ecr_catalog_pipeline.core.reconcile import ReconciledRepository, State
from ecr_catalog_pipeline.core.strict_yaml import Value
from ecr_catalog_pipeline.sprawl.ad_hoc import part

NAMING_ANNOTATIONS: Final = (
    "ecr-repository-arn",
    "ecr-repository-uri",
    "ecr-repository-name",
    "ecr-repository",
)
"""Annotations, under any prefix, that name the repository: `amazonaws.com/ecr-repository-arn`."""
NAMING_FIELDS: Final = ("repositoryUri", "repositoryName", "repository", "uri")
"""Fields of `spec` that name the repository."""
_ARN: Final = re.compile(r"arn:[a-z-]+:ecr:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):repository/")
_URI: Final = re.compile(
    r"(?:https?://)?(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z.]+/"
)
_TAG_OF_IMAGE: Final = re.compile(r"(?::[A-Za-z0-9_.-]+)?(?:@sha256:[0-9a-f]+)?\Z")


class Standing(StrEnum):
    """What became of the repository that an ad-hoc entity describes."""

    GONE = "gone"
    GOVERNED = "governed"
    UNGOVERNED = "ungoverned"
    UNKNOWN = "unknown"


_STANDINGS: Final = {
    State.GHOST: Standing.GONE,
    State.RETIRED: Standing.GONE,
    State.ORPHAN: Standing.UNGOVERNED,
}


@dataclass(frozen=True, slots=True)
class RetiredEntity:
    """An ad-hoc ECR entity that goes; `path` is relative to the catalog, the line its `kind`'s."""

    path: str
    line: int
    name: str
    namespace: str
    type: str
    value: Mapping[str, Any] = field(repr=False)

    @property
    def reference(self) -> str:
        """The entity's full reference, in lower case as Backstage compares it."""
        return f"{KIND}:{self.namespace}/{self.name}".lower()


@dataclass(frozen=True, slots=True)
class Comparison:
    """An ad-hoc entity held against the mirror.

    Attributes:
        repository: as the mirror knows it, or else as the entity names it.
        state: None when the mirror knows no such repository.
        lost: what the entity says and the mirror does not.
        remark: why the standing is unknown.
    """

    repository: str | None
    standing: Standing
    state: State | None
    lost: Mapping[str, Value]
    remark: str = ""


class RegistryView:
    """What governance and AWS say of every repository, found by the names that entities use."""

    def __init__(
        self, repositories: Collection[ReconciledRepository], *, account_id: str, region: str
    ) -> None:
        self._place = account_id, region
        self._by_name = {each.name: each for each in repositories}
        self._alike: defaultdict[str, list[str]] = defaultdict(list)
        for each in repositories:
            self._alike[_as_entity_name(each.name)].append(each.name)

    def compare(self, entity: RetiredEntity) -> Comparison:
        """Hold an ad-hoc entity against its repository."""
        if entity.type == TYPE:
            return _unknown(entity, None, "stands for a whole registry")
        written, place = _repository_name(entity.value)
        if place and place != self._place:
            remark = f"lies in {place[0]}, {place[1]}, which is not this mirror's registry"
            return _unknown(entity, written, remark)
        found = self._by_name.get(written)
        if found is None:
            alike = self._alike.get(_as_entity_name(written), [])
            if len(alike) > 1:
                return _unknown(entity, written, f"could be any of {', '.join(sorted(alike))}")
            found = self._by_name[alike[0]] if alike else None
        lost = _lost(entity.value, found)
        if found is None:
            return Comparison(written, Standing.GONE, None, lost)
        standing = _STANDINGS.get(found.state, Standing.GOVERNED)
        return Comparison(found.name, standing, found.state, lost)


def _unknown(entity: RetiredEntity, repository: str | None, remark: str) -> Comparison:
    return Comparison(repository, Standing.UNKNOWN, None, _lost(entity.value, None), remark)


def _repository_name(entity: Mapping[str, Any]) -> tuple[str, tuple[str, str] | None]:
    """The name of the repository that an entity describes, and account and region if known."""
    metadata, spec = part(entity, "metadata"), part(entity, "spec")
    annotations = part(metadata, "annotations")
    named = [
        value
        for wanted in NAMING_ANNOTATIONS
        for key, value in annotations.items()
        if _is_naming(key) and key.rpartition("/")[2] == wanted
    ]
    named.extend(spec[key] for key in NAMING_FIELDS if key in spec)
    for value in named:
        if not isinstance(value, str) or not value.strip():
            continue
        text = value.strip()
        place = _ARN.match(text) or _URI.match(text)
        name = _TAG_OF_IMAGE.sub("", text[place.end() :] if place else text)
        if name:
            return name, (place["account"], place["region"]) if place else None
    return str(metadata.get("name")), None


def _is_naming(annotation: str) -> bool:
    return annotation.rpartition("/")[2] in NAMING_ANNOTATIONS


def _as_entity_name(name: str) -> str:
    """How a repository's name reads where no slash may stand."""
    return name.replace("/", "-").lower()


def _lost(entity: Mapping[str, Any], known: ReconciledRepository | None) -> dict[str, Value]:
    """What an entity says that governance does not: by field, in the order of the file."""
    metadata, spec = part(entity, "metadata"), part(entity, "spec")
    lost: dict[str, Value] = {}
    owner = spec.get("owner")
    if owner and not (known and known.owner and _same_owner(owner, known.owner)):
        lost["owner"] = owner
    for key in ("title", "description", "labels", "tags", "links"):
        if metadata.get(key):
            lost[key] = metadata[key]
    annotations = {
        key: value
        for key, value in part(metadata, "annotations").items()
        if not _is_naming(key) and not key.startswith("backstage.io/managed-by-")
    }
    if annotations:
        lost["annotations"] = annotations
    governed = {
        "environment": known and known.environment,
        "risk": known and known.risk,
        "status": known and known.status,
    }
    for key, value in spec.items():
        if key in {"type", "owner", *NAMING_FIELDS} or not value:
            continue
        if governed.get(key) != value:
            lost[f"spec.{key}"] = value
    return lost


def _same_owner(one: object, other: str) -> bool:
    """Whether two spellings mean one owner: `group:default/team` is `team`."""
    return isinstance(one, str) and _short(one) == _short(other)


def _short(owner: str) -> str:
    return owner.lower().removeprefix("group:").removeprefix("default/")
