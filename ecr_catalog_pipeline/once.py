"""One run of a mirror's assets in this process, for the command `ecr-catalog sync`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import dagster as dg

from ecr_catalog_pipeline.core.errors import CatalogError, SettingsError
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs.checks import BACKSTAGE_IN_PARITY
from ecr_catalog_pipeline.defs.jobs import run_by_this_process, sync_job_name
from ecr_catalog_pipeline.mirroring import PlannedRegistry, Publication
from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror


@dataclass(frozen=True)
class Once:
    """What one run came to, and whether Backstage shows it."""

    planned: PlannedRegistry
    publication: Publication
    in_parity: bool
    parity_reason: str


def run_once(mirror: Mirror, environ: Mapping[str, str], *, approve: str | None = None) -> Once:
    """Materialize every asset of a mirror.

    The history goes to the instance of DAGSTER_HOME; without one, nothing is kept.

    Raises:
        CatalogError: what stopped the run.
    """
    definitions = build_definitions(
        LoadedMirrors({mirror.name: mirror}, {}),
        environ=environ,
        # A run of the daemon may be under way; neither must read the other's values.
        resource_overrides={"io_manager": dg.mem_io_manager},
    )
    job = definitions.resolve_job_def(sync_job_name(mirror.name))
    config: dict[str, object] = {
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "ops": {f"{mirror.name}__published_entity": {"config": {"approve": approve}}},
    }
    home = environ.get("DAGSTER_HOME")
    if home and not (Path(home).is_absolute() and Path(home).is_dir()):
        raise SettingsError(
            f"DAGSTER_HOME is {home}, which is no absolute path of a folder that exists",
            remediation="Make the folder and name it from the root, or unset DAGSTER_HOME to keep "
            "no history.",
        )
    with dg.DagsterInstance.get() if home else dg.DagsterInstance.ephemeral() as instance:
        try:
            run_id = str(uuid4())
            result = job.execute_in_process(
                instance=instance,
                run_config=config,
                run_id=run_id,
                tags=dict(run_by_this_process(run_id)),
            )
        except dg.Failure as failure:
            if isinstance(failure.__cause__, CatalogError):
                raise failure.__cause__ from None
            raise
        parity = next(
            evaluation
            for evaluation in result.get_asset_check_evaluations()
            if evaluation.check_name == BACKSTAGE_IN_PARITY
        )
        return Once(
            planned=result.asset_value([mirror.name, "reconciled_registry"]),
            publication=result.asset_value([mirror.name, "published_entity"]),
            in_parity=parity.passed,
            parity_reason=parity.description or "",
        )
