"""The job that keeps Dagster's history of our runs small."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import dagster as dg
from pydantic import Field

from ecr_catalog_pipeline.defs.common import as_dagster_failure
from ecr_catalog_pipeline.defs.jobs import IN_FLIGHT, MIRROR_TAG
from ecr_catalog_pipeline.defs.run_totals import RunHistory, count_ended
from ecr_catalog_pipeline.housekeeping.fate import Fate, StoredRun, fate_of
from ecr_catalog_pipeline.housekeeping.history import DagsterHistory, Freed, RunRow

HOUSEKEEPING: Final = "ecr_catalog_housekeeping"
HOUSEKEEPING_TAG: Final = "ecr_catalog/housekeeping"
SCHEDULE_TAG: Final = "dagster/schedule_name"
LOCATION_TAG: Final = ".dagster/repository"
MAX_SECONDS: Final = 900
"""After that no further page of runs is begun; the next housekeeping goes on."""
RUNS_READ: Final = 500
RUNS_AT_ONCE: Final = 25

_EARLIER_NAME: Final = "housekeeping"
_EARLIER_TAGS: Final = {"dagster/max_runtime": "1800"}
"""What runs of the job carried while it had that name."""


class HousekeepingConfig(dg.Config):
    """How much of the history stays."""

    keep_days: int = Field(default=7, ge=1, description="Runs that ended earlier are removed.")
    keep_details_hours: int = Field(
        default=1,
        ge=1,
        description="Scheduled runs that succeeded earlier lose their step events and compute "
        "logs; the run, its asset events and its checks stay. All other runs keep everything.",
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a housekeeping came to.

    Attributes:
        runs_needed: old runs that stay since they hold the latest of something.
        bytes_before, bytes_after: on disk; without SQLite the compute logs alone.
        notes: what was left for the next time, and why.
    """

    freed: Freed
    runs_needed: int
    bytes_before: int
    bytes_after: int
    notes: Sequence[str]


def housekeeping_job(mirrors: Iterable[str]) -> dg.JobDefinition:
    """Define the job that removes what is older than the days to keep."""
    names = frozenset(mirrors)

    @dg.op(
        description="Removes runs with their databases and compute logs, and events without a "
        "run, once they are too old; never the latest of anything.",
    )
    def remove_old_history(context: dg.OpExecutionContext, config: HousekeepingConfig) -> None:
        location = context.run.tags.get(LOCATION_TAG)
        with as_dagster_failure():
            kept = keep_house(
                context.instance,
                config,
                mirrors=names,
                location=location,
                say=context.log.info,
            )
        context.add_output_metadata(_figures(kept, config))

    @dg.job(
        name=HOUSEKEEPING,
        executor_def=dg.in_process_executor,
        tags={HOUSEKEEPING_TAG: "true", "dagster/max_runtime": str(2 * MAX_SECONDS)},
        description="Keeps Dagster's history small: `keep_days` days of runs, and their details "
        "for `keep_details_hours` hours.",
    )
    def keeps_house() -> None:
        remove_old_history()

    return keeps_house


def housekeeping_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Every hour: a day of runs with all their details is more than the disk should hold."""

    @dg.schedule(
        name=f"{HOUSEKEEPING}_hourly",
        cron_schedule="41 * * * *",
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Removes old history. Blocks no mirror.",
    )
    def hourly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        under_way = dg.RunsFilter(
            job_name=HOUSEKEEPING, tags={HOUSEKEEPING_TAG: "true"}, statuses=IN_FLIGHT
        )
        if context.instance.get_run_records(under_way, limit=1):
            return dg.SkipReason("housekeeping is queued or under way")
        return dg.RunRequest()

    return hourly


def keep_house(
    instance: dg.DagsterInstance,
    config: HousekeepingConfig,
    *,
    mirrors: frozenset[str],
    location: str | None,
    say: Callable[[str], object],
) -> Kept:
    """Remove and slim what is old enough, in small steps.

    No run is removed before the metrics have counted it.

    Args:
        mirrors: names of the mirrors whose events without a run are looked at.
        location: the code location that this runs in; None when it is unknown.

    Raises:
        CatalogError: the history lies where it cannot be cleaned up.
    """
    history = DagsterHistory(instance)
    now = datetime.now(UTC)
    remove_before = now - timedelta(days=config.keep_days)
    slim_before = now - timedelta(hours=config.keep_details_hours)
    before = history.bytes_on_disk()
    needed = history.needed()
    runs_needed = 0
    notes: list[str] = []
    place, gives_up_at = -1, time.monotonic() + MAX_SECONDS
    counted = count_ended(RunHistory(instance), lambda: time.monotonic() < gives_up_at)
    while rows := history.runs_after(place, RUNS_READ):
        place = rows[-1].place
        fates: dict[Fate, list[str]] = {fate: [] for fate in Fate}
        for run in _stored(rows, location, history, now):
            fate = fate_of(
                run,
                needed=needed.runs,
                counted=counted,
                remove_before=remove_before,
                slim_before=slim_before,
            )
            fates[fate].append(run.run_id)
        runs_needed += len(fates[Fate.NEEDED])
        for run_ids in _some(fates[Fate.REMOVED]):
            history.remove(run_ids)
        for run_ids in _some(fates[Fate.SLIMMED]):
            history.slim(run_ids)
        history.pack(fates[Fate.PACKED])
        if fates[Fate.REMOVED] or fates[Fate.SLIMMED]:
            freed = history.freed
            say(f"{freed.runs} runs removed, {freed.slimmed_runs} slimmed so far")
        if time.monotonic() > gives_up_at:
            notes.append(f"not all was done in {MAX_SECONDS} s; the next housekeeping goes on")
            break
    history.remove_runless(mirrors, needed, remove_before, now)
    history.remove_orphans(remove_before)
    notes += history.reclaim()
    if history.busy:
        notes.append(f"{history.busy} run databases were in use")
    return Kept(history.freed, runs_needed, before, history.bytes_on_disk(), notes)


def _stored(
    rows: Sequence[RunRow], location: str | None, history: DagsterHistory, now: datetime
) -> list[StoredRun]:
    """Judge runs, the last stored one first.

    An end ahead of now says nothing: such a run ended before those that were stored after it.
    """
    found = []
    ended_later: datetime | None = None
    for row in reversed(rows):
        ended_at = row.ended_at
        if ended_at and ended_at > now:
            ended_later = ended_later or history.first_end_after(row.place, now) or now
            ended_at = ended_later
        elif ended_at:
            ended_later = ended_at
        found.append(
            StoredRun(
                place=row.place,
                run_id=row.run_id,
                ended_at=ended_at,
                ours=_is_ours(row, location),
                routine=row.status == "SUCCESS"
                and MIRROR_TAG in row.tags
                and SCHEDULE_TAG in row.tags,
            )
        )
    return found


def _is_ours(row: RunRow, location: str | None) -> bool:
    """Whether a run carries our mark, and comes from no other code location.

    A job's name marks nothing, and neither does the location alone: others use them, too.
    """
    its_location = row.tags.get(LOCATION_TAG)
    if its_location and location and its_location != location:
        return False
    if MIRROR_TAG in row.tags or HOUSEKEEPING_TAG in row.tags:
        return True
    return (
        row.job == _EARLIER_NAME
        and location is not None
        and its_location == location
        and _EARLIER_TAGS.items() <= row.tags.items()
    )


def _some(run_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (run_ids[at : at + RUNS_AT_ONCE] for at in range(0, len(run_ids), RUNS_AT_ONCE))


def _figures(kept: Kept, config: HousekeepingConfig) -> dict[str, Any]:
    return {
        "keep_days": config.keep_days,
        "keep_details_hours": config.keep_details_hours,
        **{f"removed_{name}": count for name, count in asdict(kept.freed).items()},
        "runs_kept_as_latest": kept.runs_needed,
        "bytes_before": kept.bytes_before,
        "bytes_after": kept.bytes_after,
        "bytes_freed": kept.bytes_before - kept.bytes_after,
        "notes": "; ".join(kept.notes) or "none",
    }
