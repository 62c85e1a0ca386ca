"""One run of a mirror, for the command `ecr-catalog sync`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from ecr_catalog_pipeline.core.errors import CatalogError, SettingsError
from ecr_catalog_pipeline.mirroring import Tick, run_tick
from ecr_catalog_pipeline.settings import CACHE_VARIABLE, Mirror
from ecr_catalog_pipeline.wiring import adapters_of


def run_once(
    mirror: Mirror,
    environ: Mapping[str, str],
    *,
    approve: str | None = None,
    warn: Callable[[str], object] = lambda _: None,
) -> Tick:
    """Run a mirror once: as a Dagster run of its assets, or as the same steps without a history.

    The history goes to the instance of DAGSTER_HOME. Where there is none, or it cannot be written,
    nothing is kept: publishing does not depend on it.

    Args:
        warn: called when no history is kept, with the reason.

    Raises:
        CatalogError: what stopped the run.
    """
    home = dagster_home(environ)
    if home is None:
        return _without_history(mirror, environ, approve)
    # Dagster takes seconds to import.
    from ecr_catalog_pipeline.commands.run_assets import run_assets  # noqa: PLC0415
    from ecr_catalog_pipeline.defs.instance import (  # noqa: PLC0415
        HistoryUnusable,
        kept_instance,
    )

    try:
        with kept_instance(home) as instance:
            return run_assets(mirror, environ, instance, approve)
    except HistoryUnusable as error:
        warn(
            f"{error.problem}: this run keeps no history, and asks Backstage alone whether an "
            f"earlier entity is known. {error.remediation}"
        )
    with TemporaryDirectory() as cache:
        # The cache lies in DAGSTER_HOME, too, unless another place is configured.
        return _without_history(mirror, {CACHE_VARIABLE: cache, **environ}, approve)


def make_history(environ: Mapping[str, str]) -> bool:
    """Make the storage of the history, before several processes open it at once.

    Returns:
        Whether there is a DAGSTER_HOME; what is wrong with it is said by each run.
    """
    home = environ.get("DAGSTER_HOME")
    if not home:
        return False
    from ecr_catalog_pipeline.defs.instance import kept_instance  # noqa: PLC0415

    with suppress(CatalogError), kept_instance(dagster_home(environ) or Path(home)):
        pass
    return True


def _without_history(mirror: Mirror, environ: Mapping[str, str], approve: str | None) -> Tick:
    adapters = adapters_of(mirror, environ)
    return run_tick(mirror, adapters, publishes=True, run_id=str(uuid4()), approve=approve)


def dagster_home(environ: Mapping[str, str]) -> Path | None:
    """Give the folder of the Dagster instance; None where DAGSTER_HOME is unset.

    Raises:
        SettingsError: there is no such folder.
    """
    home = environ.get("DAGSTER_HOME")
    if not home:
        return None
    if not (Path(home).is_absolute() and Path(home).is_dir()):
        raise SettingsError(
            f"DAGSTER_HOME is {home}, which is not the absolute path of an existing folder",
            remediation="Create it and give its absolute path, or unset DAGSTER_HOME to keep no "
            "history.",
        )
    return Path(home)
