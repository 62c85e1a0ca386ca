"""Assembles the code location out of the mirrors folder, and does nothing else."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import dagster as dg

from ecr_catalog_pipeline.defs.assets import mirror_assets
from ecr_catalog_pipeline.defs.change_sensor import change_sensor
from ecr_catalog_pipeline.defs.io import json_io_manager
from ecr_catalog_pipeline.defs.jobs import sync_job, sync_schedule
from ecr_catalog_pipeline.defs.outside import outside_assets
from ecr_catalog_pipeline.defs.parity_watch import parity_watch
from ecr_catalog_pipeline.housekeeping.job import housekeeping_job, housekeeping_schedule
from ecr_catalog_pipeline.settings import LoadedMirrors, load_mirrors, mirrors_folder
from ecr_catalog_pipeline.sprawl.check import sprawl_checks
from ecr_catalog_pipeline.wiring import AdaptersOf, adapters_of

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
    io_manager: dg.IOManagerDefinition = json_io_manager,
) -> dg.Definitions:
    """Define every usable mirror; show each mirror file that is not usable.

    Args:
        make_adapters: makes the adapters of a mirror; the seam for tests and for extensions.
        io_manager: passes values between the assets.
    """
    housekeeping = housekeeping_job(loaded.mirrors)
    parts = [
        dg.Definitions(
            resources={"io_manager": io_manager},
            jobs=[housekeeping],
            schedules=[housekeeping_schedule(housekeeping)],
        )
    ]
    entities = {mirror.identity.name for mirror in loaded.mirrors.values()}
    for mirror in loaded.mirrors.values():
        adapters = make_adapters(mirror, environ)
        assets = mirror_assets(mirror, adapters)
        job = sync_job(mirror, assets)
        parts.append(
            dg.Definitions(
                assets=[*outside_assets(mirror, adapters), *assets],
                asset_checks=sprawl_checks(mirror, adapters, entities),
                jobs=[job],
                schedules=[sync_schedule(mirror, job)],
                sensors=[change_sensor(mirror, adapters, job), parity_watch(mirror, adapters)],
            )
        )
    for place, (name, error) in enumerate(sorted(loaded.errors.items()), 1):
        logger.error("mirror %s is not loaded: %s", name, error)
        parts.append(dg.Definitions(assets=[_refused_mirror(place, name, str(error))]))
    return dg.Definitions.merge(*parts)


def _refused_mirror(place: int, name: str, error: str) -> dg.AssetSpec:
    """Stands in the asset graph for a mirror whose file cannot be used."""
    readable = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return dg.AssetSpec(
        ["refused_mirrors", f"{place}_{readable}"],
        group_name="refused_mirrors",
        description=f"This mirror is not loaded. {error}",
        kinds={"yaml"},
    )
