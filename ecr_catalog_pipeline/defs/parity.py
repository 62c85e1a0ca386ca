"""The asset that asks Backstage, and measures how long each change took to be visible."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.notify import ALERT_URLS_VARIABLE
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.parity import (
    Change,
    ParityState,
    Sources,
    Verdict,
    Why,
    close_published,
    count_measured,
    forget_pauses,
    note_pause,
    percentile,
)
from ecr_catalog_pipeline.defs import checks, tables
from ecr_catalog_pipeline.defs.assets import asset_of, key_of, told_to_dagster
from ecr_catalog_pipeline.defs.failed_runs import source_outages
from ecr_catalog_pipeline.defs.parity_state import read_state, state_metadata
from ecr_catalog_pipeline.defs.resources import NOTIFIER, backstage_key, governance_key
from ecr_catalog_pipeline.mirroring import (
    GovernanceRead,
    InventoryRead,
    Outcome,
    PlannedRegistry,
    Publication,
    now_utc,
)
from ecr_catalog_pipeline.settings import Mirror

DATA_VERSION_TAG: Final = "dagster/data_version"
STILL_HELD_TAG: Final = "ecr_catalog/unchanged_until"


def parity_asset(mirror: Mirror) -> dg.AssetsDefinition:
    """Define `backstage_parity` of a mirror."""
    key = key_of(mirror, "backstage_parity")
    repo, backstage = governance_key(mirror), backstage_key(mirror)

    @asset_of(
        mirror,
        "backstage_parity",
        kinds={"backstage"},
        ins={
            "governance": dg.AssetIn(key_of(mirror, "governance_catalog")),
            "inventory": dg.AssetIn(key_of(mirror, "ecr_inventory")),
            "planned": dg.AssetIn(key_of(mirror, "reconciled_registry")),
            "publication": dg.AssetIn(key_of(mirror, "published_entity")),
        },
        deps=[key_of(mirror, "backstage_entity")],
        required_resource_keys={repo, backstage, NOTIFIER},
        check_specs=checks.parity_specs(key),
        description="What Backstage serves, compared with what is published, and the time to "
        "parity of every change: from when it was asked for to when Backstage showed it.",
    )
    def backstage_parity(
        context: dg.AssetExecutionContext,
        governance: GovernanceRead,
        inventory: InventoryRead,
        planned: PlannedRegistry,
        publication: Publication,
    ) -> dg.MaterializeResult[Any]:
        resources = context.resources
        kept = read_state(context.instance, key)
        if kept.problem:
            context.log.warning(
                "what earlier runs measured %s: measuring starts afresh", kept.problem
            )
        with told_to_dagster():
            state = mirroring.track_changes(
                kept.value or ParityState(),
                getattr(resources, repo),
                governance=governance,
                inventory=inventory,
                planned=planned,
                publication=publication,
                still_held_at=_still_held_at(context),
            )
        sources = Sources(
            blob=governance.blob,
            fingerprint=inventory.inventory.fingerprint,
            digest=publication.digest,
            began_at=min(governance.began_at, inventory.began_at),
        )
        state = _before_this_run(context, mirror, state, sources, publication)
        asked_at = now_utc()
        verdict, down = _verdict(context, mirror, getattr(resources, backstage), publication)
        now = now_utc()
        state = note_pause(state, Why.DOWN, now, lasts=down, began_at=asked_at)
        closed: tuple[Change, ...] = ()
        if verdict.parity:
            at = _visible_at(context.instance, mirror, publication, state)
            state, closed = close_published(state, at, verified_at=sources.began_at)
            resources.notifier.ping()
        state = forget_pauses(count_measured(state, closed, mirror.parity.slo_seconds, now))
        age = (now - state.verified_at).total_seconds() if state.verified_at else None
        return dg.MaterializeResult(
            data_version=dg.DataVersion(verdict.served or "absent"),
            metadata={
                **_figures(closed, age),
                "in_parity": verdict.parity,
                "reason": verdict.reason,
                "expected_digest": verdict.expected,
                "served_digest": verdict.served or "",
                "changes_open": len(state.open),
                "changes_superseded": state.superseded,
                "last_changes": tables.parity_changes([*state.open, *state.recent]),
                "alerts": _who_listens(resources.notifier.is_heard),
                **state_metadata(state),
            },
            check_results=[
                checks.backstage_in_parity(verdict),
                checks.time_to_parity_within_slo(closed, mirror.parity.slo_seconds, kept.problem),
                checks.parity_is_fresh(age, mirror.parity.slo_seconds),
            ],
        )

    return backstage_parity


def latest_state(instance: dg.DagsterInstance, mirror: Mirror) -> ParityState:
    """Give what the last run told this one, out of the event log; what cannot be read is new."""
    return read_state(instance, key_of(mirror, "backstage_parity")).value or ParityState()


def _before_this_run(
    context: dg.AssetExecutionContext,
    mirror: Mirror,
    state: ParityState,
    sources: Sources,
    publication: Publication,
) -> ParityState:
    """Note what this run read, and what kept changes from being published until it."""
    outages = source_outages(context.instance, mirror.name, sources.began_at)
    state = replace(state, sources=sources, pauses=(*state.pauses, *outages))
    held = publication.outcome is Outcome.HELD
    # A plan that is approved waited until the reads of the run that publishes it.
    at = now_utc() if held else sources.began_at
    return note_pause(state, Why.HELD, at, lasts=held)


def served_observation(mirror: Mirror, verdict: Verdict) -> dg.AssetObservation:
    """Note in the lineage what Backstage was seen to serve."""
    return dg.AssetObservation(
        key_of(mirror, "backstage_entity"),
        tags={DATA_VERSION_TAG: verdict.served or "absent"},
        metadata={"in_parity": verdict.parity, "reason": verdict.reason},
    )


def _verdict(
    context: dg.AssetExecutionContext, mirror: Mirror, backstage: Any, publication: Publication
) -> tuple[Verdict, bool]:
    """Ask Backstage; say, too, whether it is down."""
    expected = publication.digest
    held = publication.outcome is Outcome.HELD
    if backstage is None:
        last_good = "; a plan is held, the last good entity stays" if held else ""
        reason = "no `backstage:` in the mirror file: parity is measured to the publication"
        verdict = Verdict(
            parity=publication.equals_desired or held,
            reason=reason + last_good,
            expected=expected,
            served=expected,
        )
        return verdict, False
    try:
        verdict = mirroring.verify(backstage, mirror.identity, expected)
    except BackstageUnavailable as error:
        return Verdict(parity=False, reason=str(error), expected=expected, served=None), True
    context.log_event(served_observation(mirror, verdict))
    if held and verdict.parity:
        reason = "in parity with the last good entity; a plan is held"
        verdict = replace(verdict, reason=reason)
    return verdict, False


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
    seen = instance.fetch_observations(key_of(mirror, "backstage_entity"), limit=20).records
    times = [
        datetime.fromtimestamp(record.timestamp, UTC)
        for record in seen
        if (record.asset_observation.tags if record.asset_observation else {}).get(DATA_VERSION_TAG)
        == publication.digest
    ]
    return min((at for at in times if at >= max(waiting)), default=now)


def _still_held_at(context: dg.AssetExecutionContext) -> datetime | None:
    """What the change sensor says of this run; None where it says nothing that can be used."""
    try:
        at = datetime.fromisoformat(context.run.tags.get(STILL_HELD_TAG, ""))
    except ValueError:
        return None
    return at if at.tzinfo and at <= now_utc() else None


def _figures(closed: Sequence[Change], age: float | None) -> dict[str, float | int]:
    seconds = [each.seconds for each in closed if each.seconds is not None]
    figures = {
        "time_to_parity_p50": percentile(seconds, 50),
        "time_to_parity_p95": percentile(seconds, 95),
        "time_to_parity_max": max(seconds, default=None),
        "age_of_verified_parity": age,
    }
    known: dict[str, float | int] = {
        name: round(value, 2) for name, value in figures.items() if value is not None
    }
    return {**known, "changes_closed": len(closed)}


def _who_listens(heard: bool) -> str:
    if heard:
        return f"go to the URLs of {ALERT_URLS_VARIABLE}"
    return f"nobody is listening: {ALERT_URLS_VARIABLE} is not set, alerts only reach the log"
