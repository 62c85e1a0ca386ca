"""The asset that asks Backstage, and measures how long each change took to be visible."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import dagster as dg

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.notify import ALERT_URLS_VARIABLE
from ecr_catalog_pipeline.core.metrics import for_histogram
from ecr_catalog_pipeline.core.parity import (
    Change,
    ParityState,
    Sources,
    Why,
    close_published,
    count_measured,
    forget_pauses,
    note_pause,
    percentile,
    track,
)
from ecr_catalog_pipeline.defs import checks, tables
from ecr_catalog_pipeline.defs.common import asset_of, key_of
from ecr_catalog_pipeline.defs.event_log import (
    parity_metadata,
    read_kept_parity,
    source_outages,
    times_served,
)
from ecr_catalog_pipeline.defs.outside import ABSENT, BACKSTAGE_ENTITY, pinned, served_observation
from ecr_catalog_pipeline.defs.run_totals import BACKSTAGE_DOWN, TIMES_FOR_SLO
from ecr_catalog_pipeline.mirroring import Outcome, Publication, now_utc
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import Adapters


def parity_asset(mirror: Mirror, adapters: Adapters) -> dg.AssetsDefinition:
    """Define `backstage_parity` of a mirror."""

    @asset_of(
        mirror,
        "backstage_parity",
        kinds={"backstage"},
        ins={"publication": dg.AssetIn(key_of(mirror, "published_entity"))},
        deps=[key_of(mirror, BACKSTAGE_ENTITY)],
        check_specs=checks.parity_specs(key_of(mirror, "backstage_parity")),
        description="What Backstage serves, compared with what is published, and the time to "
        "parity of every change: from when it was asked for to when Backstage showed it.",
    )
    def backstage_parity(
        context: dg.AssetExecutionContext, publication: Publication
    ) -> dg.MaterializeResult[Any]:
        kept = read_kept_parity(context.instance, mirror)
        if kept.problem:
            context.log.warning(
                "what earlier runs measured %s: measuring starts over", kept.problem
            )
        state = track(
            kept.value or ParityState(),
            publication.parity,
            held=publication.outcome is Outcome.HELD,
            published_at=publication.published_at,
        )
        sources = publication.parity.sources(publication.digest)
        state = _before_this_run(context.instance, mirror, state, sources, publication)
        asked_at = now_utc()
        verdict, down = mirroring.ask_backstage(mirror, adapters.backstage, publication)
        now = now_utc()
        # Without an answer the lineage keeps what was seen last.
        seen = {} if down else pinned(mirror, BACKSTAGE_ENTITY, verdict.served or ABSENT)
        if not down:
            context.log_event(served_observation(mirror, verdict))
        state = note_pause(state, Why.DOWN, now, lasts=down, began_at=asked_at)
        closed: tuple[Change, ...] = ()
        if verdict.parity:
            at = _visible_at(context.instance, mirror, publication, state)
            state, closed = close_published(state, at, verified_at=sources.began_at)
            adapters.notifier.ping()
        slo_seconds = mirror.parity.slo_seconds
        state = forget_pauses(count_measured(state, closed, slo_seconds, now))
        age = (now - state.verified_at).total_seconds() if state.verified_at else None
        return dg.MaterializeResult(
            data_version=dg.DataVersion(verdict.served or ABSENT),
            tags=seen,
            metadata={
                **_figures(closed, age),
                "in_parity": verdict.parity,
                "reason": verdict.reason,
                "changes_open": len(state.open),
                "changes_superseded": state.superseded,
                "last_changes": tables.parity_changes([*state.open, *state.recent]),
                "alerts": _receivers(adapters.notifier.is_heard),
                "expected_digest": verdict.expected,
                "served_digest": verdict.served or "",
                **_for_metrics(closed, down=down),
                **parity_metadata(state),
            },
            check_results=[
                checks.backstage_in_parity(verdict),
                checks.time_to_parity_within_slo(closed, slo_seconds, kept.problem),
                checks.parity_is_fresh(age, slo_seconds),
            ],
        )

    return backstage_parity


def _before_this_run(
    instance: dg.DagsterInstance,
    mirror: Mirror,
    state: ParityState,
    sources: Sources,
    publication: Publication,
) -> ParityState:
    """Note what this run read, and what kept changes from being published until it."""
    outages = source_outages(instance, mirror, sources.began_at)
    state = replace(state, sources=sources, pauses=(*state.pauses, *outages))
    held = publication.outcome is Outcome.HELD
    # A plan that is approved waited until the reads of the run that publishes it.
    at = now_utc() if held else sources.began_at
    return note_pause(state, Why.HELD, at, lasts=held)


def _visible_at(
    instance: dg.DagsterInstance, mirror: Mirror, publication: Publication, state: ParityState
) -> datetime:
    """When Backstage was first seen to serve what is published: now, or by the watch before."""
    now = now_utc()
    if mirror.backstage is None:
        return publication.published_at or now
    waiting = [change.published_at for change in state.open if change.published_at]
    if not waiting or publication.published_at:
        return now
    times = times_served(instance, mirror, publication.digest)
    return min((at for at in times if at >= max(waiting)), default=now)


def _figures(closed: Sequence[Change], age: float | None) -> dict[str, float | int]:
    seconds = [each.seconds for each in closed if each.seconds is not None]
    figures = {
        "time_to_parity_p50_seconds": percentile(seconds, 50),
        "time_to_parity_p95_seconds": percentile(seconds, 95),
        "time_to_parity_max_seconds": max(seconds, default=None),
        "age_of_verified_parity_seconds": age,
    }
    known: dict[str, float | int] = {
        name: round(value, 2) for name, value in figures.items() if value is not None
    }
    return {**known, "changes_closed": len(closed)}


def _for_metrics(closed: Sequence[Change], *, down: bool) -> dict[str, Any]:
    """What the metrics count of the run; nothing of most runs."""
    times = [for_histogram(t) for each in closed if (t := each.seconds_for_slo) is not None]
    return {
        **({TIMES_FOR_SLO: dg.MetadataValue.json(times)} if times else {}),
        **({BACKSTAGE_DOWN: True} if down else {}),
    }


def _receivers(heard: bool) -> str:
    if heard:
        return f"go to the URLs of {ALERT_URLS_VARIABLE}"
    return f"only go to the log: {ALERT_URLS_VARIABLE} is not set"
