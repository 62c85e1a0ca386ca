"""Assembles the code location out of the mirrors folder, and does nothing else."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import dagster as dg

# Not exported: the type that `dg.define_asset_job` gives.
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.defs.assets import mirror_assets
from ecr_catalog_pipeline.defs.change_sensor import change_sensor
from ecr_catalog_pipeline.defs.io import json_io_manager
from ecr_catalog_pipeline.defs.jobs import sync_job, sync_schedule
from ecr_catalog_pipeline.defs.mirror_files import (
    last_good_settings,
    mirror_files_watch,
    refused_definitions,
)
from ecr_catalog_pipeline.defs.outside import outside_assets
from ecr_catalog_pipeline.defs.owners import owner_checks
from ecr_catalog_pipeline.defs.parity_watch import ToWatch, parity_watch
from ecr_catalog_pipeline.housekeeping.job import housekeeping_job, housekeeping_schedule
from ecr_catalog_pipeline.settings import (
    LoadedMirrors,
    Mirror,
    cache_folder,
    load_mirrors,
    mirrors_folder,
)
from ecr_catalog_pipeline.sprawl.check import sprawl_checks
from ecr_catalog_pipeline.wiring import Adapters, AdaptersOf, adapters_of

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
    make_adapters: AdaptersOf = adapters_of,
    io_manager: dg.IOManagerDefinition | None = None,
) -> dg.Definitions:
    """Define every usable mirror; show each mirror file that is not usable.

    Args:
        make_adapters: makes the adapters of a mirror; the seam for tests and for extensions.
        io_manager: passes values between the assets; JSON files by default.
    """
    cache = cache_folder(environ)
    housekeeping = housekeeping_job(loaded.mirrors)
    parts = [
        dg.Definitions(
            resources={"io_manager": io_manager or json_io_manager(environ)},
            jobs=[housekeeping],
            schedules=[housekeeping_schedule(housekeeping)],
            sensors=[mirror_files_watch(loaded, cache, Notifier(environ))],
        )
    ]
    entities = {mirror.identity.name for mirror in loaded.mirrors.values()}
    looked_at: list[tuple[Mirror, Adapters, UnresolvedAssetJobDefinition]] = []
    watched: list[ToWatch] = []
    for mirror in loaded.mirrors.values():
        adapters = make_adapters(mirror, environ)
        assets = mirror_assets(mirror, adapters)
        job = sync_job(mirror, assets)
        looked_at.append((mirror, adapters, job))
        watched.append(ToWatch(mirror, adapters))
        parts.append(
            dg.Definitions(
                assets=[*outside_assets(mirror, adapters), *assets],
                asset_checks=[
                    *sprawl_checks(mirror, adapters, entities),
                    *owner_checks(mirror, adapters),
                ],
                jobs=[job],
                schedules=[sync_schedule(mirror, job)],
            )
        )
    for name, error in sorted(loaded.errors.items()):
        logger.error("mirror %s is not loaded: %s", name, error)
        if last_good := last_good_settings(loaded, name, cache):
            # What is published of it is watched meanwhile.
            adapters = make_adapters(last_good, environ)
            watched.append(ToWatch(last_good, adapters, settings_refused=True))
            parts.append(dg.Definitions(assets=outside_assets(last_good, adapters)))
    sensors = [
        *([change_sensor(looked_at)] if looked_at else []),
        *([parity_watch(watched)] if watched else []),
    ]
    return dg.Definitions.merge(
        *parts, dg.Definitions(sensors=sensors), refused_definitions(loaded)
    )
