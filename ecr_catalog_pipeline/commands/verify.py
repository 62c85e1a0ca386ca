"""The command `ecr-catalog verify`."""

from __future__ import annotations

import os

import click

from ecr_catalog_pipeline.commands.all_mirrors import Row, for_all
from ecr_catalog_pipeline.commands.common import (
    CHANGES,
    OK,
    all_option,
    get_mirror,
    json_option,
    mirror_option,
    progress,
    with_last_good,
)
from ecr_catalog_pipeline.commands.past import read_past_of
from ecr_catalog_pipeline.core.parity import Verdict, judge_plan, judge_published
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.mirroring import Past, Progress, no_progress, now_utc, run_tick
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.terminal import echo, echo_json
from ecr_catalog_pipeline.wiring import adapters_of


@click.command()
@mirror_option
@all_option
@json_option
def verify(name: str | None, *, every: bool, as_json: bool) -> int:
    """Compare what Backstage serves with what governance and AWS call for now.

    Without `backstage:` in the mirror file, what is published is compared.

    Exit code: 0 in parity, 2 different or absent, 1 error.
    """
    if every:
        return for_all(name, verify_row, as_json=as_json)
    mirror = get_mirror(name)
    plan, verdict = _judged(mirror, read_past_of(mirror, os.environ), progress)
    if as_json:
        echo_json(_as_json(mirror, plan, verdict))
    else:
        echo(f"{_outcome(verdict).capitalize()}: {verdict.reason}")
    return OK if verdict.parity else CHANGES


def verify_row(mirror: Mirror, past: Past) -> Row:
    """Verify one mirror of several."""
    plan, verdict = _judged(mirror, past, no_progress)
    return Row(
        OK if verdict.parity else CHANGES,
        _outcome(verdict),
        verdict.reason,
        plan.counts,
        value=_as_json(mirror, plan, verdict),
    )


def _judged(mirror: Mirror, past: Past, progress: Progress) -> tuple[Plan, Verdict]:
    adapters = adapters_of(mirror, os.environ)
    with with_last_good(mirror):
        plan = run_tick(mirror, adapters, past, publishes=False, progress=progress).planned.plan
        if adapters.backstage is None:
            return plan, judge_published(plan)
        with progress("asking Backstage"):
            identity = mirror.identity
            served = adapters.backstage.entity(identity.namespace, identity.name)
        return plan, judge_plan(plan, served)


def _outcome(verdict: Verdict) -> str:
    return "in parity" if verdict.parity else "not in parity"


def _as_json(mirror: Mirror, plan: Plan, verdict: Verdict) -> dict[str, object]:
    return {
        "mirror": mirror.name,
        "parity": verdict.parity,
        "expected_digest": verdict.expected,
        "served_digest": verdict.served,
        "published_digest": None if plan.target_is_absent else plan.published_digest,
        "reason": verdict.reason,
        "checked_at": now_utc().isoformat(timespec="seconds"),
    }
