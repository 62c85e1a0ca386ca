"""The command `ecr-catalog plan`."""

from __future__ import annotations

import os

import click

from ecr_catalog_pipeline.commands.common import (
    CHANGES,
    HELD,
    OK,
    get_mirror,
    json_option,
    mirror_option,
    progress,
    with_last_good,
)
from ecr_catalog_pipeline.commands.past import read_past_of
from ecr_catalog_pipeline.commands.plan_report import plan_as_json, plan_as_text
from ecr_catalog_pipeline.core.last_publication import left_behind
from ecr_catalog_pipeline.mirroring import run_tick
from ecr_catalog_pipeline.terminal import echo, echo_json
from ecr_catalog_pipeline.wiring import adapters_of


@click.command()
@mirror_option
@json_option
def plan(name: str | None, *, as_json: bool) -> int:
    """Show what the next publication would change; publish nothing.

    Exit code: 0 nothing to publish, 2 changes to publish, 3 held, 1 error.
    """
    mirror = get_mirror(name)
    adapters, past = adapters_of(mirror, os.environ), read_past_of(mirror, os.environ)
    with with_last_good(mirror):
        planned = run_tick(mirror, adapters, past, publishes=False, progress=progress).planned
    where = adapters.publisher.where
    if as_json:
        echo_json(plan_as_json(mirror.name, planned))
    else:
        echo(*plan_as_text(mirror.name, where, planned))
    if stays := left_behind(past.last, where, mirror.identity.reference):
        echo(f"Left behind: {stays}", err=True)
    if planned.plan.unchanged:
        return OK
    return HELD if planned.plan.held else CHANGES
