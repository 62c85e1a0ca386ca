"""The change sensor: a run as soon as the governance file or the registry of a mirror has changed.

One evaluation serves all mirrors and keeps looking, since Dagster's own cost of an evaluation is
larger than that of the looks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import Annotated, Final

import dagster as dg

# Not exported: the type that `dg.define_asset_job` gives, and the tag that a run key is kept in.
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from dagster._core.storage.tags import RUN_KEY_TAG
from pydantic import AwareDatetime, Field, TypeAdapter

from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, DATA_VERSION_TAG, key_of
from ecr_catalog_pipeline.defs.event_log import STILL_HELD_TAG, began_at
from ecr_catalog_pipeline.defs.jobs import end_lost, in_flight, runs_in_flight
from ecr_catalog_pipeline.defs.kept import (
    Kept,
    kept_data,
    read_part,
    read_parts,
    write_parts,
)
from ecr_catalog_pipeline.defs.looks import Looks, Shared, in_words
from ecr_catalog_pipeline.defs.outside import ECR_REGISTRY, GOVERNANCE_FILE, observation
from ecr_catalog_pipeline.settings import Mirror, sync_job_name
from ecr_catalog_pipeline.wiring import Adapters

PAGE_SIZE: Final = 1_000
KEEP_LOOKING_SECONDS: Final = 8
"""How long an evaluation looks, and so delays the end of a daemon and the reload of its code.

The daemon asks every 5 s whether one is due: the next one begins after 10 s.
"""
STRAGGLER_SECONDS: Final = 3
"""How long an evaluation that looks only once waits for its looks; later ones take the others."""
OVERDUE_SECONDS: Final = 45
"""After which a look that is under way counts as failed."""
BLIND_SECONDS: Final = 30
"""After which a mirror without a look that succeeded has the log say since when."""
TIP_SECONDS: Final = 2
"""For how long mirrors of one governance branch go by one look at it."""
RUNS_SECONDS: Final = 1
"""How often Dagster is asked which runs are under way."""
PASS_SECONDS: Final = 0.25
SPREAD_SECONDS: Final = 0.1
"""Between the beginnings of two looks, at the most."""
_NOT_DONE: Final = frozenset({dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})
_NO_CHANGE: Final = "no change"
_NOT_DUE: Final = "no look was due"
_CANNOT: Final = "cannot look"
_UNDER_WAY: Final = "the look goes on"
_WAITS: Final = "a run of this mirror is queued or under way"


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


@dataclass(eq=False)
class MirrorLooks:
    """A mirror that is looked at, and what the process remembers of that between evaluations.

    Attributes:
        due: when to look again, by the monotonic clock.
        waits: whether a run of it was queued or under way when Dagster was last asked.
        killed: whether a lost run of it was ended since the last look that succeeded.
        failing_since: the start of the first look that failed since one succeeded.
    """

    mirror: Mirror
    adapters: Adapters
    looks: Looks[Look]
    due: float = 0.0
    waits: bool = False
    killed: bool = False
    failing_since: datetime | None = None

    def failed(self, problem: str) -> str:
        """Note that a look did not succeed, and say so."""
        self.failing_since = self.failing_since or self.looks.began_at
        return f"{_CANNOT}{self.blind}: {problem}"

    @property
    def blind(self) -> str:
        """Say since when no look succeeded; empty while that means little."""
        since = self.failing_since
        if since is None or (datetime.now(UTC) - since).total_seconds() < BLIND_SECONDS:
            return ""
        return (
            f" (none succeeded since {since:%Y-%m-%d %H:%M:%S} UTC: until one does, changes wait "
            "for the schedule)"
        )


def look_at(mirror: Mirror, adapters: Adapters, tips: Shared[str]) -> Look:
    """Read what the sources hold.

    Args:
        tips: of governance branches, for mirrors that have one in common.
    """
    source = mirror.governance
    tip, began_at = tips.ask((source.repository, source.branch), adapters.governance.tip)
    blob = adapters.governance.blob_at(tip)
    inventory = adapters.registry.read()
    return Look(began_at, blob, inventory.fingerprint, len(inventory.repositories))


Synced = tuple[Mirror, Adapters, UnresolvedAssetJobDefinition]
"""A mirror, its adapters, and the job of its runs."""


def change_sensor(mirrors: Sequence[Synced]) -> dg.SensorDefinition:
    """Start a run of a mirror as soon as its governance file or its registry has changed."""
    woken = Event()
    watched = [MirrorLooks(mirror, adapters, Looks(woken)) for mirror, adapters, _ in mirrors]
    tips = Shared[str](TIP_SECONDS)

    @dg.sensor(
        name=CHANGE_SENSOR,
        jobs=[job for _, _, job in mirrors],
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has a governance file moved, has an ECR registry changed? Then a run of that "
        "mirror at once.",
    )
    def changes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        evaluation = _Evaluation(context, watched, tips, woken)
        evaluation.run()
        return evaluation.result()

    return changes


class _Evaluation:
    """One evaluation: begins looks that are due, takes their results, and stops at a change."""

    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        watched: Sequence[MirrorLooks],
        tips: Shared[str],
        woken: Event,
    ) -> None:
        self._context = context
        self._watched = watched
        self._tips = tips
        self._woken = woken
        kept = read_parts(context.cursor)
        self._problem = kept.problem
        self._parts = dict(kept.value or {})
        self._words = {each.mirror.name: _NOT_DUE for each in watched}
        self._requests: list[dg.RunRequest] = []
        self._moved: list[dg.AssetObservation] = []
        self._asked_runs = self._began_one = float("-inf")
        spacing = min(each.mirror.watch.seconds for each in watched) / (2 * len(watched))
        self._spacing = min(SPREAD_SECONDS, spacing)

    def run(self) -> None:
        """Look until something moved, or as long as an evaluation may take."""
        keeps_looking = _may_keep_looking(self._context.instance)
        until = time.monotonic() + (KEEP_LOOKING_SECONDS if keeps_looking else STRAGGLER_SECONDS)
        while True:
            self._woken.clear()
            more = self._begin_due()
            self._take_results()
            rests = not more and not any(_is_awaited(each) for each in self._watched)
            if self._requests or (rests and not keeps_looking) or time.monotonic() >= until:
                break
            self._woken.wait(self._spacing if more else PASS_SECONDS)

    def result(self) -> dg.SensorResult:
        """Give what Dagster is asked to do, and keep what was seen."""
        for each in self._watched:
            name = each.mirror.name
            if not each.looks.are_idle and each.looks.seconds >= OVERDUE_SECONDS:
                self._words[name] = each.failed(_overdue(each.looks.began_at))
            elif not each.looks.are_idle and self._words[name] == _NOT_DUE:
                self._words[name] = _UNDER_WAY
            if each.blind:
                words = self._words[name]
                if not words.startswith(_CANNOT):
                    words = f"{_CANNOT}{each.blind}: {words}"
                self._context.log.warning("%s: %s", name, words)
        return dg.SensorResult(
            run_requests=self._requests,
            asset_events=self._moved,
            # A mirror that is gone loses its part.
            cursor=write_parts(
                {each.mirror.name: self._parts.get(each.mirror.name) for each in self._watched}
            ),
            skip_reason=None if self._requests else in_words(self._words, _NO_CHANGE),
        )

    def _begin_due(self) -> bool:
        """Begin looks, spread over time; say whether more are due."""
        now = time.monotonic()
        due = [each for each in self._watched if each.looks.are_idle and each.due <= now]
        if now - self._asked_runs >= RUNS_SECONDS and (due or any(e.waits for e in self._watched)):
            self._ask_for_runs(now)
            self._asked_runs = now
            due = [each for each in self._watched if each.looks.are_idle and each.due <= now]
        due = sorted((each for each in due if not each.waits), key=lambda each: each.due)
        for each in due:
            now = time.monotonic()
            if now - self._began_one < self._spacing:
                return True
            self._began_one = now
            each.due = now + _seconds_between(each.mirror, self._seen(each).value)
            each.looks.begin(partial(look_at, each.mirror, each.adapters, self._tips))
        return False

    def _ask_for_runs(self, now: float) -> None:
        """Note which mirrors wait for a run; after its end they are looked at again at once."""
        instance = self._context.instance
        under_way = runs_in_flight(instance, [each.mirror.name for each in self._watched])
        for each in self._watched:
            runs = under_way.get(each.mirror.name, [])
            ended = end_lost(instance, runs)
            each.killed |= bool(ended)
            waited, each.waits = each.waits, len(ended) < len(runs)
            if each.waits:
                self._words[each.mirror.name] = _WAITS
            elif waited or ended:
                each.due = now

    def _take_results(self) -> None:
        for each in self._watched:
            if not each.looks.has_result:
                continue
            name = each.mirror.name
            try:
                look = each.looks.take()
            except CatalogError as error:
                self._words[name] = each.failed(str(error))
                continue
            except Exception as error:
                self._context.log.exception("%s: the look failed", name)
                self._words[name] = each.failed(f"unexpected {type(error).__name__}")
                continue
            each.failing_since = None
            self._words[name] = self._compare(each, look)
            each.killed = False

    def _compare(self, each: MirrorLooks, look: Look) -> str:
        """Compare with the last look, ask for a run where something moved, and say what was found.

        A first look is compared with the last successful run.
        """
        kept = self._seen(each)
        if problem := kept.problem:
            self._context.log.warning(
                "%s: the cursor %s; that part starts over", each.mirror.name, problem
            )
        if kept.value is None:
            return self._first_look(each, look, problem)
        return self._next_look(each, kept.value, look)

    def _seen(self, each: MirrorLooks) -> Kept[Seen]:
        """What was seen last of a mirror."""
        return read_part(SEEN, SEEN_VERSION, Kept(self._parts, self._problem), each.mirror.name)

    def _keep(self, each: MirrorLooks, seen: Seen) -> None:
        self._parts[each.mirror.name] = kept_data(SEEN, SEEN_VERSION, seen)

    def _first_look(self, each: MirrorLooks, look: Look, problem: str) -> str:
        words = f"first look, since the cursor {problem}" if problem else "first look"
        # Dagster ignores a run key that it knows: a count from 0 would use those of before again.
        now = _seen(look, sequence=int(look.began_at.timestamp() * 1_000))
        known = _last_run(self._context.instance, each.mirror)
        if known is None and not each.killed:
            self._keep(each, now)
            return f"{words}: nothing to compare with"
        before = replace(known or now, sequence=now.sequence)
        moved = _moved(each.mirror, before, now)
        if not moved and not each.killed:
            self._keep(each, now)
            return f"{words}: no change since the last successful run"
        return self._ask(each, now, moved, before.unchanged_until)

    def _next_look(self, each: MirrorLooks, before: Seen, look: Look) -> str:
        now = _seen(look, sequence=before.sequence, asked=before.asked)
        moved = _moved(each.mirror, before, now)
        lost = before.asked if _is_lost(self._context.instance, before.asked) else None
        if not moved and not lost and not each.killed:
            self._keep(each, replace(now, asked=None))
            return f"{_NO_CHANGE}: {look.repositories} repositories as before"
        if not lost and not each.killed and self._was_read(each.mirror, now):
            self._keep(each, replace(now, asked=None))
            return f"{_NO_CHANGE} since the last successful run"
        return self._ask(each, now, moved, (lost or before).unchanged_until)

    def _was_read(self, mirror: Mirror, now: Seen) -> bool:
        """Whether the last successful run, one of the schedule for instance, read the very same."""
        known = _last_run(self._context.instance, mirror)
        return known is not None and not _moved(mirror, known, now)

    def _ask(
        self,
        each: MirrorLooks,
        now: Seen,
        moved: Sequence[dg.AssetObservation],
        unchanged_until: datetime,
    ) -> str:
        """Ask for a run, and keep what was seen."""
        sequence, name = now.sequence + 1, each.mirror.name
        if in_flight(self._context.instance, name):
            each.waits = True
            return _WAITS
        asked = Asked(
            f"{name}/{sequence}/{now.blob[:12]}/{now.fingerprint[-12:]}",
            # A clock that was set back leaves an earlier look ahead of this one.
            min(unchanged_until, now.unchanged_until),
        )
        what = ", ".join(observed.asset_key.path[-1] for observed in moved)
        self._requests.append(
            dg.RunRequest(
                job_name=sync_job_name(name),
                run_key=asked.run_key,
                tags={
                    STILL_HELD_TAG: asked.unchanged_until.isoformat(),
                    "ecr_catalog/moved": what or "nothing since a run that was lost",
                },
            )
        )
        self._moved += moved
        self._keep(each, replace(now, sequence=sequence, asked=asked))
        each.waits = True
        return "a run was asked for"


def _may_keep_looking(instance: dg.DagsterInstance) -> bool:
    """Whether an evaluation that takes its time holds up no other sensor of the instance."""
    settings = instance.get_sensor_settings() or {}
    workers = settings.get("num_workers")
    return bool(settings.get("use_threads")) and (workers is None or workers > 1)


def _is_awaited(each: MirrorLooks) -> bool:
    """Whether a look is under way that may still end within this evaluation."""
    return not each.looks.are_idle and each.looks.seconds < STRAGGLER_SECONDS


def _seconds_between(mirror: Mirror, seen: Seen | None) -> int:
    return max(mirror.watch.seconds, seen.pages if seen else 1)


def _overdue(began_at: datetime) -> str:
    return (
        f"governance and ECR were not read within {OVERDUE_SECONDS} s: the look that began at "
        f"{began_at:%H:%M:%S} UTC goes on. Check how fast both answer."
    )


def _seen(look: Look, *, sequence: int, asked: Asked | None = None) -> Seen:
    return Seen(
        sequence=sequence,
        blob=look.blob,
        fingerprint=look.fingerprint,
        unchanged_until=look.began_at,
        pages=max(1, -(-look.repositories // PAGE_SIZE)),
        asked=asked,
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
    run_id = records[0].dagster_run.run_id
    return Seen(
        sequence=0,
        blob=_read_by(instance, run_id, key_of(mirror, "governance_catalog")),
        fingerprint=_read_by(instance, run_id, key_of(mirror, "ecr_inventory")),
        unchanged_until=began_at(records[0]),
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
