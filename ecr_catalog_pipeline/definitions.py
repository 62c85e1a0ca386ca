"""Assembles the code location out of the mirrors folder, and does nothing else."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from ecr_catalog_pipeline.defs.assets import mirror_assets
from ecr_catalog_pipeline.defs.io import json_io_manager
from ecr_catalog_pipeline.defs.jobs import sync_job, sync_schedule
from ecr_catalog_pipeline.defs.resources import mirror_resources
from ecr_catalog_pipeline.settings import LoadedMirrors, cache_folder, load_mirrors, mirrors_folder

logger = logging.getLogger(__name__)


@dg.definitions
def defs() -> dg.Definitions:
    """Define every usable mirror of the mirrors folder."""
    loaded = load_mirrors(mirrors_folder(os.environ))
    return build_definitions(loaded, environ=os.environ)


def build_definitions(
    loaded: LoadedMirrors,
    *,
    environ: Mapping[str, str],
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """Define every usable mirror; show each mirror file that is not usable.

    Args:
        resource_overrides: replace resources by key; the seam for tests.
    """
    cache = cache_folder(environ)
    merged = dg.Definitions(resources={"io_manager": json_io_manager})
    parts = [merged]
    for mirror in loaded.mirrors.values():
        assets = mirror_assets(mirror)
        job = sync_job(mirror, assets.computed)
        parts.append(
            dg.Definitions(
                assets=[*assets.external, *assets.computed],
                jobs=[job],
                schedules=[sync_schedule(mirror, job)],
                resources={
                    key: (resource_overrides or {}).get(key, resource)
                    for key, resource in mirror_resources(mirror, cache).items()
                },
            )
        )
    for name, error in loaded.errors.items():
        logger.error("mirror %s is not loaded: %s", name, error)
        parts.append(dg.Definitions(assets=[_refused_mirror(name, str(error))]))
    return dg.Definitions.merge(*parts)


def _refused_mirror(name: str, error: str) -> dg.AssetSpec:
    """Stands in the asset graph for a mirror whose file cannot be used."""
    return dg.AssetSpec(
        ["refused_mirrors", "".join(c if c.isalnum() else "_" for c in name)],
        group_name="refused_mirrors",
        description=f"This mirror is not loaded. {error}",
        kinds={"yaml"},
    )
