"""Assembles the code location out of the mirrors folder, and does nothing else."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.defs.assets import external_assets, mirror_assets
from ecr_catalog_pipeline.defs.change_sensor import change_sensor
from ecr_catalog_pipeline.defs.housekeeping import housekeeping_job, housekeeping_schedule
from ecr_catalog_pipeline.defs.io import json_io_manager
from ecr_catalog_pipeline.defs.jobs import sync_job, sync_schedule
from ecr_catalog_pipeline.defs.mirror_files import (
    last_good_settings,
    mirror_files_watch,
    refused_definitions,
)
from ecr_catalog_pipeline.defs.parity import parity_asset
from ecr_catalog_pipeline.defs.parity_watch import parity_watch
from ecr_catalog_pipeline.defs.resources import NOTIFIER, backstage_key, mirror_resources
from ecr_catalog_pipeline.defs.sprawl import sprawl_checks
from ecr_catalog_pipeline.settings import (
    LoadedMirrors,
    Mirror,
    cache_folder,
    load_mirrors,
    mirrors_folder,
)

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
    overrides = resource_overrides or {}
    shared = {"io_manager": json_io_manager, NOTIFIER: Notifier(environ), **overrides}
    housekeeping = housekeeping_job(loaded.mirrors)
    parts = [
        dg.Definitions(
            resources=shared,
            jobs=[housekeeping],
            schedules=[housekeeping_schedule(housekeeping)],
            sensors=[mirror_files_watch(loaded, cache)],
        )
    ]
    entities = {mirror.identity.name for mirror in loaded.mirrors.values()}
    for mirror in loaded.mirrors.values():
        computed = [*mirror_assets(mirror), parity_asset(mirror)]
        job = sync_job(mirror, computed)
        parts.append(
            dg.Definitions(
                assets=[*external_assets(mirror), *computed],
                asset_checks=sprawl_checks(mirror, entities),
                jobs=[job],
                schedules=[sync_schedule(mirror, job)],
                sensors=[change_sensor(mirror, job), parity_watch(mirror)],
                resources={
                    key: resource
                    for key, resource in mirror_resources(mirror, cache).items()
                    if key not in overrides
                },
            )
        )
    for name, error in sorted(loaded.errors.items()):
        logger.error("mirror %s is not loaded: %s", name, error)
        if last_good := last_good_settings(loaded, name, cache):
            parts.append(_still_watched(last_good, cache, overrides))
    return dg.Definitions.merge(*parts, refused_definitions(loaded))


def _still_watched(mirror: Mirror, cache: Path, overrides: Mapping[str, Any]) -> dg.Definitions:
    """Watch what is published of a mirror whose file is refused, with its last good settings."""
    key = backstage_key(mirror)
    return dg.Definitions(
        assets=external_assets(mirror),
        sensors=[parity_watch(mirror, settings_refused=True)],
        resources={} if key in overrides else {key: mirror_resources(mirror, cache)[key]},
    )
