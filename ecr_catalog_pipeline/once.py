"""One run of a mirror's assets in this process, for the command `ecr-catalog sync`."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from ecr_catalog_pipeline.controller import PlannedRegistry, Publication
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs.jobs import sync_job_name
from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror


def run_once(
    mirror: Mirror, environ: Mapping[str, str], *, approve: str | None = None
) -> tuple[PlannedRegistry, Publication]:
    """Materialize every asset of a mirror.

    The history goes to the instance of DAGSTER_HOME; without one, nothing is kept.

    Raises:
        CatalogError: what stopped the run.
    """
    definitions = build_definitions(LoadedMirrors({mirror.name: mirror}, {}), environ=environ)
    job = definitions.resolve_job_def(sync_job_name(mirror.name))
    config: dict[str, object] = {
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "ops": {f"{mirror.name}__published_entity": {"config": {"approve": approve}}},
    }
    keeps_history = bool(environ.get("DAGSTER_HOME"))
    with dg.DagsterInstance.get() if keeps_history else dg.DagsterInstance.ephemeral() as instance:
        try:
            result = job.execute_in_process(instance=instance, run_config=config)
        except dg.Failure as failure:
            if isinstance(failure.__cause__, CatalogError):
                raise failure.__cause__ from None
            raise
        planned: PlannedRegistry = result.asset_value([mirror.name, "reconciled_registry"])
        publication: Publication = result.asset_value([mirror.name, "published_entity"])
        return planned, publication
