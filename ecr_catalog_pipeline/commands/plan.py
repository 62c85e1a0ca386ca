"""The command `ecr-catalog plan`."""

from __future__ import annotations

import os
from functools import partial

import click

from ecr_catalog_pipeline.commands.all_mirrors import Row, for_all
from ecr_catalog_pipeline.commands.common import (
    CHANGES,
    HELD,
    OK,
    all_option,
    get_mirror,
    json_option,
    mirror_option,
    progress,
    with_last_good,
)
from ecr_catalog_pipeline.commands.past import read_past_of
from ecr_catalog_pipeline.commands.plan_report import plan_as_json, plan_as_text
from ecr_catalog_pipeline.commands.proposal import plan_file
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.mirroring import Past, run_tick
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.terminal import echo, echo_json, width
from ecr_catalog_pipeline.wiring import adapters_of

_OUTCOMES = {OK: "unchanged", CHANGES: "changes", HELD: "held"}


@click.command()
@mirror_option
@all_option
@json_option
@click.option(
    "--all-states",
    is_flag=True,
    help="List every repository and finding, also past 60 repositories.",
)
@click.option(
    "--governance",
    metavar="FILE",
    help="Plan with this file in place of the one on the branch, such as a pull request's.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="markdown, with --governance: what a comment on the pull request should say.",
)
def plan(
    name: str | None,
    *,
    every: bool,
    as_json: bool,
    all_states: bool,
    governance: str | None,
    form: str,
) -> int:
    """Show what the next publication would change; publish nothing.

    Past 60 repositories it lists only what needs attention.

    Exit code: 0 nothing to publish, 2 changes to publish, 3 held, 1 error.
    """
    if form == "markdown" and (as_json or governance is None):
        raise click.UsageError("--format markdown goes with --governance, and without --json")
    if every and (governance is not None or all_states):
        raise click.UsageError("--governance and --all-states go with one mirror, not with --all")
    if every:
        return for_all(name, partial(plan_row, as_json=as_json), as_json=as_json)
    mirror = get_mirror(name)
    if governance is not None:
        shown = "json" if as_json else form
        return _code(plan_file(mirror, governance, form=shown, all_states=all_states))
    adapters, past = adapters_of(mirror, os.environ), read_past_of(mirror, os.environ)
    with with_last_good(mirror):
        tick = run_tick(mirror, adapters, past, publishes=False, progress=progress)
    planned, where = tick.planned, adapters.publisher.where
    if as_json:
        echo_json(plan_as_json(mirror.name, planned))
    else:
        echo(*plan_as_text(mirror.name, where, planned, width=width(), all_states=all_states))
    if tick.left_behind:
        echo(f"Left behind: {tick.left_behind}", err=True)
    return _code(planned.plan)


def _code(plan: Plan) -> int:
    if plan.unchanged:
        return OK
    return HELD if plan.held else CHANGES


def plan_row(mirror: Mirror, past: Past, *, as_json: bool) -> Row:
    """Plan one mirror of several."""
    adapters = adapters_of(mirror, os.environ)
    with with_last_good(mirror):
        tick = run_tick(mirror, adapters, past, publishes=False)
    planned, plan, code = tick.planned, tick.planned.plan, _code(tick.planned.plan)
    return Row(
        code,
        _OUTCOMES[code],
        plan.summary,
        plan.counts,
        plan.plan_hash if code == HELD else "",
        value=plan_as_json(mirror.name, planned) if as_json else None,
        notes=(
            *(f"held: {reason}" for reason in plan.reasons_held if code == HELD),
            *([f"Left behind: {tick.left_behind}"] if tick.left_behind else []),
        ),
    )
