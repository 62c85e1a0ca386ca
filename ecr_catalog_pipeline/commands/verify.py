"""The command `ecr-catalog verify`."""

from __future__ import annotations

import os

import click

from ecr_catalog_pipeline.commands.common import (
    CHANGES,
    OK,
    get_mirror,
    json_option,
    mirror_option,
    progress,
    with_last_good,
)
from ecr_catalog_pipeline.commands.past import read_past_of
from ecr_catalog_pipeline.core.parity import judge_plan, judge_published
from ecr_catalog_pipeline.mirroring import now_utc, run_tick
from ecr_catalog_pipeline.terminal import echo, echo_json
from ecr_catalog_pipeline.wiring import adapters_of


@click.command()
@mirror_option
@json_option
def verify(name: str | None, *, as_json: bool) -> int:
    """Compare what Backstage serves with what governance and AWS call for now.

    Without `backstage:` in the mirror file, what is published is compared.

    Exit code: 0 in parity, 2 different or absent, 1 error.
    """
    mirror = get_mirror(name)
    adapters, past = adapters_of(mirror, os.environ), read_past_of(mirror, os.environ)
    with with_last_good(mirror):
        tick = run_tick(mirror, adapters, past, publishes=False, progress=progress)
        plan = tick.planned.plan
        if adapters.backstage is None:
            verdict = judge_published(plan)
        else:
            with progress("asking Backstage"):
                identity = mirror.identity
                served = adapters.backstage.entity(identity.namespace, identity.name)
            verdict = judge_plan(plan, served)
    if as_json:
        echo_json(
            {
                "mirror": mirror.name,
                "parity": verdict.parity,
                "expected_digest": verdict.expected,
                "served_digest": verdict.served,
                "published_digest": None if plan.target_is_absent else plan.published_digest,
                "reason": verdict.reason,
                "checked_at": now_utc().isoformat(timespec="seconds"),
            }
        )
    else:
        echo(f"{'In parity' if verdict.parity else 'Not in parity'}: {verdict.reason}")
    return OK if verdict.parity else CHANGES
