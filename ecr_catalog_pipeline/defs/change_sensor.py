"""The change sensor: a run as soon as the governance file or the registry has changed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Annotated, Final

import dagster as dg

# Not exported: the type that `dg.define_asset_job` gives, and the tag that a run key is kept in.
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from dagster._core.storage.tags import RUN_KEY_TAG
from pydantic import AwareDatetime, Field, TypeAdapter

from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.defs.common import DATA_VERSION_TAG, key_of
from ecr_catalog_pipeline.defs.event_log import STILL_HELD_TAG
from ecr_catalog_pipeline.defs.jobs import end_lost_runs, in_flight
from ecr_catalog_pipeline.defs.kept import read_kept, write_kept
from ecr_catalog_pipeline.defs.outside import ECR_REGISTRY, GOVERNANCE_FILE, observation
from ecr_catalog_pipeline.mirroring import now_utc
from ecr_catalog_pipeline.settings import Mirror, sync_job_name
from ecr_catalog_pipeline.wiring import Adapters

CHANGE_SECONDS: Final = 10
PAGE_SIZE: Final = 1_000
LOOK_SECONDS: Final = 45
"""How long a tick waits for a look. Dagster gives a tick 60 s, and then ends it as unreachable."""
BLIND_AFTER: Final = 3
"""So many looks that failed in a row, and the tick says for how long none succeeded."""
_NOT_DONE: Final = frozenset({dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that the change sensor asked for.

    Attributes:
        unchanged_until: the start of the last look before the change.
    """

    run_key: str
    unchanged_until: AwareDatetime


@dataclass(frozen=True, slots=True)
class Seen:
    """What the change sensor saw last.

    Attributes:
        sequence: grows with every change; part of the run key, since a registry can return to an
            earlier fingerprint.
        unchanged_until: the start of the last look that found this fingerprint.
        asked: the last run that was asked for, until it is known not to be lost.
    """

    sequence: int
    blob: str
    fingerprint: str
    unchanged_until: AwareDatetime
    pages: Annotated[int, Field(ge=1, le=10_000)] = 1
    asked: Asked | None = None


SEEN: Final = TypeAdapter(Seen)
SEEN_VERSION: Final = 1
"""Of the cursor. Another version is not read: the sensor starts over."""


@dataclass(frozen=True, slots=True)
class Look:
    """What governance and ECR hold, and when the look at them began."""

    began_at: datetime
    blob: str
    fingerprint: str
    repositories: int


class LookOverdue(CatalogError):
    """A look takes longer than a tick may wait; it goes on, and a later tick takes its result."""

    needs = "time"


class Looks:
    """The looks of one sensor: one at a time, each in a thread of its own."""

    def __init__(self) -> None:
        self._under_way: Future[Look] | None = None
        self._began_at = now_utc()
        self._failed = 0
        self._failing_since = self._began_at

    def take(self, look: Callable[[], Look]) -> Look:
        """Give the result of a look: of a new one, or of one that an earlier tick began.

        Raises:
            CatalogError: a source could not be read, or not in time.
        """
        if self._under_way is None:
            self._began_at = now_utc()
            self._under_way = _in_thread(look)
        try:
            done = self._result(self._under_way)
        except CatalogError:
            if not self._failed:
                self._failing_since = self._began_at
            self._failed += 1
            raise
        self._failed = 0
        return done

    @property
    def in_words(self) -> str:
        """Say for how long no look succeeded; empty while that means little."""
        if self._failed < BLIND_AFTER:
            return ""
        return (
            f" ({self._failed} times in a row, since {self._failing_since:%Y-%m-%d %H:%M:%S} UTC: "
            "until a look succeeds, changes wait for the schedule)"
        )

    def _result(self, under_way: Future[Look]) -> Look:
        try:
            return under_way.result(LOOK_SECONDS)
        except TimeoutError:
            if under_way.done():
                raise
            raise LookOverdue(
                "governance and ECR were not read within the time of a tick: the look that began "
                f"at {self._began_at:%H:%M:%S} UTC goes on",
                remediation="Check how fast the governance repository and ECR answer.",
            ) from None
        finally:
            if under_way.done():
                self._under_way = None


def _in_thread(look: Callable[[], Look]) -> Future[Look]:
    """Begin a look in a thread that keeps no process from ending."""
    future: Future[Look] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
            future.set_exception(error)

    Thread(target=run, name="look", daemon=True).start()
    return future


def change_sensor(
    mirror: Mirror, adapters: Adapters, job: UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """Start a run as soon as the governance file or the registry has changed."""
    looks = Looks()

    @dg.sensor(
        name=f"{mirror.name}_changes",
        job=job,
        minimum_interval_seconds=CHANGE_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the governance file moved, has the ECR registry changed? Then a run at "
        "once.",
    )
    def changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        kept = read_kept(SEEN, SEEN_VERSION, context.cursor)
        before = kept.value
        if before and _is_recent(before, now_utc()):
            return dg.SkipReason(f"a listing of {before.pages} pages is read less often")
        killed = end_lost_runs(context.instance, mirror.name)
        if in_flight(context.instance, mirror.name):
            return dg.SkipReason("a run of this mirror is queued or under way")
        try:
            look = looks.take(lambda: _look(adapters))
        except CatalogError as error:
            if looks.in_words:
                context.log.warning("cannot look%s: %s", looks.in_words, error)
            return dg.SkipReason(f"cannot look{looks.in_words}: {error}")
        if kept.problem:
            context.log.warning("the cursor %s; that part starts over", kept.problem)
        if before is None:
            return _first_look(context, mirror, look, kept.problem, killed=killed)
        return _compared(context, mirror, before, look, killed=killed)

    return changes


def _is_recent(before: Seen, now: datetime) -> bool:
    """Whether the last look is too young for another; a moment ahead of now is not trusted."""
    age = now - before.unchanged_until
    return timedelta() <= age < timedelta(seconds=before.pages)


def _look(adapters: Adapters) -> Look:
    began_at = now_utc()
    blob = adapters.governance.read().blob
    inventory = adapters.registry.read()
    return Look(began_at, blob, inventory.fingerprint, len(inventory.repositories))


def _first_look(
    context: dg.SensorEvaluationContext, mirror: Mirror, look: Look, problem: str, *, killed: bool
) -> dg.SensorResult | dg.SkipReason:
    """Compare with the last successful run, since there is no earlier look to compare with."""
    words = f"first look, since the cursor {problem}" if problem else "first look"
    # Dagster ignores a run key that it knows: a count from 0 would use those of before again.
    now = _seen(look, sequence=int(look.began_at.timestamp() * 1_000))
    known = _last_run(context.instance, mirror)
    if known is None and not killed:
        context.update_cursor(write_kept(SEEN, SEEN_VERSION, now))
        return dg.SkipReason(f"{words}: nothing to compare with")
    before = replace(known or now, sequence=now.sequence)
    moved = _moved(mirror, before, now)
    if not moved and not killed:
        context.update_cursor(write_kept(SEEN, SEEN_VERSION, now))
        return dg.SkipReason(f"{words}: no change since the last successful run")
    return _ask(mirror, now, moved, before.unchanged_until)


def _compared(
    context: dg.SensorEvaluationContext, mirror: Mirror, before: Seen, look: Look, *, killed: bool
) -> dg.SensorResult | dg.SkipReason:
    """Compare with the last look."""
    now = _seen(look, sequence=before.sequence, asked=before.asked)
    moved = _moved(mirror, before, now)
    lost = before.asked if _is_lost(context.instance, before.asked) else None
    if not moved and not lost and not killed:
        context.update_cursor(write_kept(SEEN, SEEN_VERSION, replace(now, asked=None)))
        return dg.SkipReason(f"no change: {look.repositories} repositories as before")
    return _ask(mirror, now, moved, (lost or before).unchanged_until)


def _seen(look: Look, *, sequence: int, asked: Asked | None = None) -> Seen:
    return Seen(
        sequence=sequence,
        blob=look.blob,
        fingerprint=look.fingerprint,
        unchanged_until=look.began_at,
        pages=max(1, -(-look.repositories // PAGE_SIZE)),
        asked=asked,
    )


def _ask(
    mirror: Mirror, now: Seen, moved: Sequence[dg.AssetObservation], unchanged_until: datetime
) -> dg.SensorResult:
    """Ask for a run, and keep what was seen."""
    sequence = now.sequence + 1
    asked = Asked(
        f"{mirror.name}/{sequence}/{now.blob[:12]}/{now.fingerprint[-12:]}",
        # A clock that was set back leaves an earlier look ahead of this one.
        min(unchanged_until, now.unchanged_until),
    )
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=asked.run_key,
                tags={
                    STILL_HELD_TAG: asked.unchanged_until.isoformat(),
                    "ecr_catalog/moved": ", ".join(each.asset_key.path[-1] for each in moved)
                    or "nothing since a run that was lost",
                },
            )
        ],
        asset_events=moved,
        cursor=write_kept(SEEN, SEEN_VERSION, replace(now, sequence=sequence, asked=asked)),
    )


def _last_run(instance: dg.DagsterInstance, mirror: Mirror) -> Seen | None:
    """What the last successful run read; what a later run read that failed counts as unknown.

    Returns:
        None before the first successful run.
    """
    done = dg.RunsFilter(
        job_name=sync_job_name(mirror.name), statuses=[dg.DagsterRunStatus.SUCCESS]
    )
    records = instance.get_run_records(done, limit=1)
    if not records:
        return None
    began = records[0].start_time
    run_id = records[0].dagster_run.run_id
    return Seen(
        sequence=0,
        blob=_read_by(instance, run_id, key_of(mirror, "governance_catalog")),
        fingerprint=_read_by(instance, run_id, key_of(mirror, "ecr_inventory")),
        unchanged_until=(
            datetime.fromtimestamp(began, UTC) if began else records[0].create_timestamp
        ),
    )


def _read_by(instance: dg.DagsterInstance, run_id: str, asset: dg.AssetKey) -> str:
    """The data version of an asset's latest materialization; empty if it is not of that run."""
    event = instance.get_latest_materialization_event(asset)
    if event is None or event.run_id != run_id or event.asset_materialization is None:
        return ""
    return (event.asset_materialization.tags or {}).get(DATA_VERSION_TAG, "")


def _is_lost(instance: dg.DagsterInstance, asked: Asked | None) -> bool:
    """Whether a run ended without success and without a failed step: its process was killed."""
    if asked is None:
        return False
    runs = instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: asked.run_key}), limit=1)
    if not runs or runs[0].status not in _NOT_DONE:
        return False
    return not instance.all_logs(runs[0].run_id, of_type=dg.DagsterEventType.STEP_FAILURE)


def _moved(mirror: Mirror, before: Seen, now: Seen) -> list[dg.AssetObservation]:
    """Observations of the sources that changed, with their new data versions."""
    moved = []
    if before.blob != now.blob:
        moved.append(observation(mirror, GOVERNANCE_FILE, now.blob))
    if before.fingerprint != now.fingerprint:
        moved.append(observation(mirror, ECR_REGISTRY, now.fingerprint))
    return moved
