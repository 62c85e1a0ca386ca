"""One run of a mirror's assets in this process, for the command `ecr-catalog sync`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import dagster as dg

from ecr_catalog_pipeline.core.errors import CatalogError, SettingsError
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs.checks import BACKSTAGE_IN_PARITY
from ecr_catalog_pipeline.defs.instance import HistoryUnusable, kept_instance
from ecr_catalog_pipeline.defs.jobs import run_by_this_process, sync_job_name
from ecr_catalog_pipeline.mirroring import PlannedRegistry, Publication
from ecr_catalog_pipeline.settings import CACHE_VARIABLE, LoadedMirrors, Mirror


@dataclass(frozen=True)
class Once:
    """What one run came to, and whether Backstage shows it."""

    planned: PlannedRegistry
    publication: Publication
    in_parity: bool
    parity_reason: str


def run_once(
    mirror: Mirror,
    environ: Mapping[str, str],
    *,
    approve: str | None = None,
    warn: Callable[[str], object] = lambda _: None,
) -> Once:
    """Materialize every asset of a mirror.

    The history goes to the instance of DAGSTER_HOME; without one, nothing is kept. Where that one
    cannot be written, the run goes on without a history: publishing does not depend on it.

    Args:
        warn: hears that no history is kept, and why.

    Raises:
        CatalogError: what stopped the run.
    """
    home = _home(environ)
    if home is None:
        with dg.DagsterInstance.ephemeral() as instance:
            return _run(mirror, environ, instance, approve)
    try:
        with kept_instance(home) as instance:
            return _run(mirror, environ, instance, approve)
    except HistoryUnusable as error:
        warn(
            f"{error.problem}: this run keeps no history, and asks Backstage alone whether an "
            f"earlier entity is known. {error.remediation}"
        )
    with TemporaryDirectory() as cache, dg.DagsterInstance.ephemeral() as instance:
        # The cache lies in DAGSTER_HOME, too, unless somebody chose another place.
        return _run(mirror, {CACHE_VARIABLE: cache, **environ}, instance, approve)


def _home(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("DAGSTER_HOME")
    if not home:
        return None
    if not (Path(home).is_absolute() and Path(home).is_dir()):
        raise SettingsError(
            f"DAGSTER_HOME is {home}, which is no absolute path of a folder that exists",
            remediation="Make the folder and name it from the root, or unset DAGSTER_HOME to keep "
            "no history.",
        )
    return Path(home)


def _run(
    mirror: Mirror, environ: Mapping[str, str], instance: dg.DagsterInstance, approve: str | None
) -> Once:
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
    run_id = str(uuid4())
    try:
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
