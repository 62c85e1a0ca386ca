"""What the Dagster instance of DAGSTER_HOME knows, for commands that run no assets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from ecr_catalog_pipeline.core.text import clean_text
from ecr_catalog_pipeline.mirroring import Past
from ecr_catalog_pipeline.settings import Mirror


def read_past_of(mirror: Mirror, environ: Mapping[str, str]) -> Past:
    """Read what the instance of DAGSTER_HOME knows of a mirror; nothing where it knows nothing."""
    return read_pasts_of([mirror], environ).get(mirror.name, Past())


def read_pasts_of(mirrors: Iterable[Mirror], environ: Mapping[str, str]) -> dict[str, Past]:
    """Read what the instance of DAGSTER_HOME knows of mirrors, by name.

    Returns:
        nothing when DAGSTER_HOME is unset or nothing has run there, or, with a warning on stderr,
        when its history cannot be read.
    """
    home = environ.get("DAGSTER_HOME")
    # An instance that nothing has run in is not made by looking at it.
    if not home or not any(Path(home, name).exists() for name in ("history", "dagster.yaml")):
        return {}
    import dagster as dg  # noqa: PLC0415 - takes seconds

    from ecr_catalog_pipeline.defs.event_log import read_past  # noqa: PLC0415 - imports dagster

    try:
        with dg.DagsterInstance.get() as instance:
            return {each.name: read_past(instance, each) for each in mirrors}
    except Exception as error:  # noqa: BLE001 - the storage may be any, and raise anything
        click.echo(
            f"warning: Dagster's history in {home} cannot be read, so it is not known what was "
            f"published before: {clean_text(f'{type(error).__name__}: {error}')}",
            err=True,
        )
        return {}
