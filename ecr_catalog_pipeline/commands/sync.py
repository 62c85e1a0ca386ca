"""The command `ecr-catalog sync`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from ecr_catalog_pipeline.commands.all_mirrors import Row, Work, for_all, row_of
from ecr_catalog_pipeline.commands.child_process import in_child_process
from ecr_catalog_pipeline.commands.common import (
    HELD,
    OK,
    all_option,
    get_mirror,
    mirror_option,
    progress,
    with_last_good,
)
from ecr_catalog_pipeline.commands.metrics_file import metrics_file_option, metrics_of_run
from ecr_catalog_pipeline.commands.run_once import make_history, run_once
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.mirroring import Outcome, Past, Tick
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.terminal import echo
from ecr_catalog_pipeline.wiring import adapters_of


@click.command()
@mirror_option
@all_option
@click.option(
    "--approve",
    metavar="PLAN_HASH",
    help="Publish the held plan of this hash. Valid for this plan only, once.",
)
@metrics_file_option
def sync(name: str | None, approve: str | None, metrics_file: Path | None, *, every: bool) -> int:
    """Run a mirror once: read both sources, plan, publish, ask Backstage.

    Runs the mirror's assets in the Dagster instance of DAGSTER_HOME, which keeps the history. Where
    DAGSTER_HOME is unset, the same steps run and nothing is kept.

    Exit code: 0 published or unchanged, 3 held, 1 error.
    """
    if every:
        if approve is not None:
            raise click.UsageError("--approve names one plan: it goes with -m NAME, not with --all")
        work = partial(sync_row, metrics_file)
        run = partial(_in_own_process, work) if make_history(os.environ) else work
        return for_all(name, run, reads_past=False)
    mirror = get_mirror(name)
    with (
        with_last_good(mirror),
        metrics_of_run(metrics_file, mirror, os.environ, _warn) as ran,
        progress(f"running {mirror.name}"),
    ):
        done = ran.done = run_once(mirror, os.environ, approve=approve, warn=ran.without_history)
    where = adapters_of(mirror, os.environ).publisher.where
    if done.left_behind:
        echo(f"Left behind: {done.left_behind}", err=True)
    return _report(mirror, done, where, approve)


def _warn(words: str) -> None:
    echo(f"warning: {words}", err=True)


def sync_row(metrics_file: Path | None, mirror: Mirror, _past: Past) -> Row:
    """Run one mirror of several; the run reads its past itself."""
    notes: list[str] = []
    with (
        with_last_good(mirror),
        metrics_of_run(
            metrics_file, mirror, os.environ, lambda words: notes.append(f"warning: {words}")
        ) as ran,
    ):
        done = ran.done = run_once(mirror, os.environ, warn=ran.without_history)
    plan, publication = done.planned.plan, done.publication
    assert publication is not None
    held = publication.outcome is Outcome.HELD
    if done.left_behind:
        notes.append(f"Left behind: {done.left_behind}")
    if held:
        notes += [f"held: {reason}" for reason in plan.reasons_held]
    else:
        notes += _shown_in_backstage(mirror, done)
    notes += _health_problem(done)
    return Row(
        HELD if held else OK,
        publication.outcome,
        plan.summary,
        plan.counts,
        plan.plan_hash if held else "",
        notes=tuple(notes),
    )


def _in_own_process(work: Work, mirror: Mirror, past: Past) -> Row:
    return in_child_process(row_of, work, mirror, past)


def _report(mirror: Mirror, done: Tick, where: str, approve: str | None) -> int:
    plan, publication = done.planned.plan, done.publication
    assert publication is not None
    if publication.outcome is Outcome.HELD:
        return _report_held(mirror, done, approve)
    echo(f"{publication.outcome}: {plan.summary}", where)
    if approve and not _released(plan, approve):
        echo(f"{approve} approved nothing: no plan was held.", err=True)
    echo(*_health_problem(done), err=True)
    echo(*_shown_in_backstage(mirror, done))
    return OK


def _report_held(mirror: Mirror, done: Tick, approve: str | None) -> int:
    plan = done.planned.plan
    if approve:
        echo(f"{approve} approves another plan; this one is {plan.plan_hash}.", err=True)
    echo(*(f"held: {reason}" for reason in plan.reasons_held))
    echo(*_health_problem(done), err=True)
    echo(
        f"Nothing was published. Look with: ecr-catalog plan -m {mirror.name}",
        f"Approve with: ecr-catalog sync -m {mirror.name} --approve {plan.plan_hash}",
    )
    return HELD


def _released(plan: Plan, approve: str) -> bool:
    return plan.held and plan.plan_hash == approve


def _shown_in_backstage(mirror: Mirror, done: Tick) -> Iterator[str]:
    if mirror.backstage and done.verdict:
        shown = "visible" if done.verdict.parity else "not yet visible"
        yield f"{shown} in Backstage: {done.verdict.reason}"


def _health_problem(done: Tick) -> Iterator[str]:
    """Say why the health report is not what it should be; nothing when it is."""
    if done.report and done.report.problem:
        yield f"health report: {done.report.problem}. {done.report.remediation}"
