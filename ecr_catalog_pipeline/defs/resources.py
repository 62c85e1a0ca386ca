"""The resources of a mirror: its adapters, under keys of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ecr_catalog_pipeline import wiring
from ecr_catalog_pipeline.settings import Mirror

NOTIFIER: Final = "notifier"


def mirror_resources(mirror: Mirror, cache: Path) -> Mapping[str, Any]:
    """Give a mirror's adapters under their resource keys."""
    return {
        governance_key(mirror): wiring.governance_repo(mirror, cache),
        registry_key(mirror): wiring.ecr_registry(mirror),
        publisher_key(mirror): wiring.publisher(mirror, cache),
        backstage_key(mirror): wiring.backstage(mirror),
        catalog_key(mirror): wiring.catalog_repo(mirror, cache),
    }


def governance_key(mirror: Mirror) -> str:
    """The resource key of the governance repository."""
    return f"{mirror.name}_governance_repo"


def backstage_key(mirror: Mirror) -> str:
    """The resource key of Backstage; None stands there when the mirror names none."""
    return f"{mirror.name}_backstage"


def catalog_key(mirror: Mirror) -> str:
    """The resource key of the catalog repository; None stands there when the mirror names none."""
    return f"{mirror.name}_catalog_repo"


def registry_key(mirror: Mirror) -> str:
    """The resource key of the ECR registry."""
    return f"{mirror.name}_ecr_registry"


def publisher_key(mirror: Mirror) -> str:
    """The resource key of the publication target."""
    return f"{mirror.name}_publisher"
