"""Ad-hoc ECR entities: files that declare by hand what the one generated entity mirrors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ecr_catalog_pipeline.core.entity import KIND, TYPE
from ecr_catalog_pipeline.core.strict_yaml import Document, YamlFault, parse_documents

REPOSITORY_TYPES: Final = frozenset(
    {"container-repository", "ecr-repository", "aws-ecr-repository"}
)


@dataclass(frozen=True, slots=True)
class AdHocEntity:
    """One ad-hoc ECR entity; `line` counts from 1 and is that of its `kind`."""

    line: int
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file declares; `unparsed` says where and why the rest of it could not be read."""

    found: tuple[AdHocEntity, ...]
    unparsed: str | None = None


def find_ad_hoc_entities(text: str, mirror_entities: Collection[str]) -> Inspection:
    """Find every ad-hoc ECR entity of a YAML stream.

    Args:
        mirror_entities: names of entities that mirrors generate; those are no sprawl.
    """
    found: list[AdHocEntity] = []
    try:
        for document in parse_documents(text, tags_allowed=True):
            entity = _ad_hoc(document, mirror_entities)
            if entity:
                found.append(entity)
    except YamlFault as fault:
        return Inspection(tuple(found), f"{fault.line}:{fault.column}: {fault.problem}")
    return Inspection(tuple(found))


def _ad_hoc(document: Document, mirror_entities: Collection[str]) -> AdHocEntity | None:
    entity = document.value
    if not isinstance(entity, dict) or entity.get("kind") != KIND:
        return None
    spec, metadata = entity.get("spec"), entity.get("metadata")
    entity_type = spec.get("type") if isinstance(spec, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    foreign_registry = entity_type == TYPE and name not in mirror_entities
    if entity_type in REPOSITORY_TYPES or foreign_registry:
        line, _ = document.key_places["kind"]
        return AdHocEntity(line, str(name), str(entity_type))
    return None
