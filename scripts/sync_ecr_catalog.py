#!/usr/bin/env python3
"""The old script's name and flags, on the new engine.

Reads the mirror of a region, prints what is synced, ghosts and orphans, and publishes the entity
unless --dry-run is given. A workflow that called the old script changes one line.
"""

from __future__ import annotations

import os
import sys

try:
    import click

    from ecr_catalog_pipeline.cli import run
    from ecr_catalog_pipeline.commands.common import HELD, OK
    from ecr_catalog_pipeline.commands.past import read_past_of
    from ecr_catalog_pipeline.commands.run_once import run_once
    from ecr_catalog_pipeline.core.errors import SettingsError
    from ecr_catalog_pipeline.core.reconcile import State
    from ecr_catalog_pipeline.mirroring import Outcome, PlannedRegistry, run_tick
    from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror, load_mirrors, mirrors_folder
    from ecr_catalog_pipeline.terminal import echo
    from ecr_catalog_pipeline.wiring import adapters_of
except ModuleNotFoundError as error:
    sys.exit(
        f"Error: this Python has no {error.name}. Install ecr-catalog-pipeline into it, or run "
        "`make setup` in the checkout and use .venv/bin/python."
    )

_OLD_WORDS = {
    State.LIVE: "Synced",
    State.GHOST: "Ghosts (in catalog only)",
    State.ORPHAN: "Orphans (in AWS only)",
    State.PENDING: "Pending (requested, not yet in AWS)",
    State.LINGERING: "Lingering (decommissioned, still in AWS)",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--region",
    envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
    required=True,
    help="The AWS region; its mirror is read. Defaults to AWS_REGION or AWS_DEFAULT_REGION.",
)
@click.option("--mirror", "name", help="Which mirror, when a region has several.")
@click.option("--dry-run", is_flag=True, help="Publish nothing.")
def sync_ecr_catalog(region: str, name: str | None, *, dry_run: bool) -> int:
    r"""Reconcile the ECR catalog of a region with AWS, and publish the Backstage entity.

    \b
    Exit code: 0 done, 3 held by the removal guard, 1 error.
    """
    mirror = _mirror_of(load_mirrors(mirrors_folder(os.environ)), region, name)
    echo(f"Reconciling the ECR catalog ({mirror.name}) with AWS ECR in {region}")
    if dry_run:
        past = read_past_of(mirror, os.environ)
        planned = run_tick(mirror, adapters_of(mirror, os.environ), past, publishes=False).planned
        _print_states(planned)
        echo(f"Dry run: nothing was published. Plan: {planned.plan.summary}")
        return OK
    done = run_once(mirror, os.environ)
    planned, publication = done.planned, done.publication
    assert publication
    _print_states(planned)
    if publication.outcome is Outcome.HELD:
        echo(f"Held, nothing was published: {'; '.join(planned.plan.reasons_held)}")
        echo(f"Approve with: ecr-catalog sync -m {mirror.name} --approve {planned.plan.plan_hash}")
        return HELD
    echo(f"{publication.outcome.capitalize()}: {planned.plan.summary}")
    return OK


def _mirror_of(loaded: LoadedMirrors, region: str, name: str | None) -> Mirror:
    for error in loaded.errors.values():
        echo(f"warning: {error}", err=True)
    names = [
        mirror.name
        for mirror in loaded.mirrors.values()
        if mirror.registry.region == region and name in {None, mirror.name}
    ]
    if not names:
        regions = sorted({mirror.registry.region for mirror in loaded.mirrors.values()})
        raise SettingsError(
            f"no mirror{f' {name}' if name else ''} has registry.region {region}",
            remediation=f"Regions with a mirror: {', '.join(regions) or 'none'}.",
        )
    if len(names) > 1:
        raise SettingsError(
            f"{region} has several mirrors: {', '.join(names)}",
            remediation="Choose one with --mirror.",
        )
    return loaded.mirrors[names[0]]


def _print_states(planned: PlannedRegistry) -> None:
    for state, words in _OLD_WORDS.items():
        repositories = planned.registry.in_state(state)
        echo(f"{words}: {len(repositories)}")
        for repository in repositories:
            echo(f"   - {repository.name}")


if __name__ == "__main__":
    run(sync_ecr_catalog)
