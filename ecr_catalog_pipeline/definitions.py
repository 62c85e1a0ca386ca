"""Assembles the code location out of the mirrors folder, and does nothing else."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Mapping, Sequence

import dagster as dg

from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.defs.assets import mirror_assets
from ecr_catalog_pipeline.defs.change_sensor import Synced, change_sensor
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
from ecr_catalog_pipeline.defs.run_process import mirror_of_this_run
from ecr_catalog_pipeline.housekeeping.job import housekeeping_job, housekeeping_schedule
from ecr_catalog_pipeline.settings import (
    LoadedMirrors,
    Mirror,
    cache_folder,
    load_mirrors,
    mirrors_folder,
)
from ecr_catalog_pipeline.sprawl.check import sprawl_checks
from ecr_catalog_pipeline.wiring import AdaptersOf, adapters_of

logger = logging.getLogger(__name__)


@dg.definitions
def defs() -> dg.Definitions:
    """Define every usable mirror of the mirrors folder; the process of a run, its mirror alone."""
    loaded = load_mirrors(mirrors_folder(os.environ))
    made = build_definitions(
        loaded, environ=os.environ, only=mirror_of_this_run(loaded, os.environ)
    )
    # What is loaded now stays to the end: looking for garbage in it is a quarter of a run's time.
    gc.freeze()
    return made


def build_definitions(
    loaded: LoadedMirrors,
    *,
    environ: Mapping[str, str],
    make_adapters: AdaptersOf = adapters_of,
    io_manager: dg.IOManagerDefinition | None = None,
    only: Mirror | None = None,
) -> dg.Definitions:
    """Define every usable mirror; show each mirror file that is not usable.

    Args:
        make_adapters: makes the adapters of a mirror; the seam for tests and for extensions.
        io_manager: passes values between the assets; JSON files by default.
        only: define this mirror's assets, checks and job, and nothing else: all that a run needs.
    """
    entities = {mirror.identity.name for mirror in loaded.mirrors.values()}
    parts = [dg.Definitions(resources={"io_manager": io_manager or json_io_manager(environ)})]
    synced: list[Synced] = []
    for mirror in [only] if only else loaded.mirrors.values():
        adapters = make_adapters(mirror, environ)
        assets = mirror_assets(mirror, adapters)
        job = sync_job(mirror, assets)
        synced.append((mirror, adapters, job))
        parts.append(
            dg.Definitions(
                assets=[*outside_assets(mirror, adapters), *assets],
                asset_checks=[
                    *sprawl_checks(mirror, adapters, entities),
                    *owner_checks(mirror, adapters),
                ],
                jobs=[job],
            )
        )
    if only:
        return dg.Definitions.merge(*parts)
    return dg.Definitions.merge(
        *parts,
        _evaluated_by_the_daemon(loaded, synced, environ, make_adapters),
        refused_definitions(loaded),
    )


def _evaluated_by_the_daemon(
    loaded: LoadedMirrors,
    synced: Sequence[Synced],
    environ: Mapping[str, str],
    make_adapters: AdaptersOf,
) -> dg.Definitions:
    """Schedules and sensors, and what is watched of mirrors whose file is refused."""
    cache = cache_folder(environ)
    housekeeping = housekeeping_job(loaded.mirrors)
    watched = [ToWatch(mirror, adapters) for mirror, adapters, _ in synced]
    still_shown: list[dg.AssetsDefinition] = []
    for name, error in sorted(loaded.errors.items()):
        logger.error("mirror %s is not loaded: %s", name, error)
        if last_good := last_good_settings(loaded, name, cache):
            # What is published of it is watched meanwhile.
            adapters = make_adapters(last_good, environ)
            watched.append(ToWatch(last_good, adapters, settings_refused=True))
            still_shown += outside_assets(last_good, adapters)
    sensors = [mirror_files_watch(loaded, cache, Notifier(environ))]
    if synced:
        sensors.append(change_sensor(synced))
    if watched:
        sensors.append(parity_watch(watched))
    return dg.Definitions(
        assets=still_shown,
        jobs=[housekeeping],
        schedules=[
            housekeeping_schedule(housekeeping),
            *(sync_schedule(mirror, job) for mirror, _, job in synced),
        ],
        sensors=sensors,
    )
