"""What all assets of a mirror have in common: keys, names, the decorator, how errors are shown."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import dagster as dg

from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.settings import Mirror

CODE_VERSION: Final = "1"
CHANGE_SENSOR: Final = "ecr_catalog_changes"
PARITY_WATCH: Final = "ecr_catalog_parity_watch"
DATA_VERSION_TAG: Final = "dagster/data_version"
STALE_AFTER: Final = timedelta(seconds=180)
WARNED_AFTER: Final = timedelta(seconds=150)


def key_of(mirror: Mirror, name: str) -> dg.AssetKey:
    """The key of an asset of a mirror."""
    return dg.AssetKey([mirror.name, name])


def asset_of(
    mirror: Mirror, name: str, *, kinds: set[str], **specific: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Give `dagster.asset` with what all assets of a mirror have in common."""

    def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
        # Dagster would take the return type for the type of every output, the checks' included.
        compute.__annotations__.pop("return", None)
        asset: dg.AssetsDefinition = dg.asset(
            key=key_of(mirror, name),
            group_name=mirror.name,
            kinds=kinds,
            owners=_owners(mirror.identity.owner),
            code_version=CODE_VERSION,
            freshness_policy=dg.FreshnessPolicy.time_window(
                fail_window=STALE_AFTER, warn_window=WARNED_AFTER
            ),
            # Dagster's page rounds both to "3 minutes".
            metadata={
                "freshness": f"warns {WARNED_AFTER.seconds} s after the last materialization, "
                f"fails after {STALE_AFTER.seconds} s"
            },
            # One run of a mirror at a time.
            pool=f"mirror_{mirror.name}",
            io_manager_key="io_manager",
            **specific,
        )(compute)
        return asset

    return decorate


@contextmanager
def as_dagster_failure() -> Iterator[None]:
    """Show an error of ours as its problem and remediation, without a traceback."""
    try:
        yield
    except CatalogError as error:
        raise dg.Failure(
            description=str(error),
            metadata={
                "kind": type(error).__name__,
                "problem": error.problem,
                "remediation": error.remediation,
                "needs": error.needs,
            },
            allow_retries=False,
        ) from error


def _owners(owner: str) -> list[str]:
    """Spell a Backstage owner such as `group:default/platform-team` as Dagster does, if it can."""
    team = re.sub(r"[^A-Za-z0-9_-]+", "-", owner.rsplit("/", 1)[-1]).strip("-")
    return [f"team:{team}"] if team else []
