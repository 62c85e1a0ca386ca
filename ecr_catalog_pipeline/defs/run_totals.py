"""What is counted of the runs of all mirrors, from Dagster's history, whatever is cleaned of it.

The totals lie in Dagster's key-value storage. Housekeeping counts what has ended into them before
it removes anything; the exporter reads them and goes on from there, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import sqlalchemy as sql

# Dagster's API gives one run or one asset at a time: a page of them is read in one query.
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.runs.schema import KeyValueStoreTable, RunsTable, RunTagsTable
from dagster._serdes import deserialize_value
from pydantic import TypeAdapter
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from ecr_catalog_pipeline.core.metrics import (
    EndedRun,
    RunOutcome,
    RunTotals,
    Source,
    StoredRun,
    Totals,
    sources_of,
)
from ecr_catalog_pipeline.defs.event_log import FailedStep, steps_of
from ecr_catalog_pipeline.defs.instance import sql_storages
from ecr_catalog_pipeline.defs.jobs import MIRROR_TAG
from ecr_catalog_pipeline.defs.kept import read_kept, text_of, value_of, write_kept

TOTALS_KEY: Final = "ecr_catalog/run_totals"
TOTALS_VERSION: Final = 1
BACKSTAGE_DOWN: Final = "backstage_down"
"""Metadata of `backstage_parity`: there, and true, where Backstage did not answer."""
TIMES_FOR_SLO: Final = "times_for_slo"
"""Metadata of `backstage_parity`: the times that the run measured, in seconds."""

_RUNS_AT_ONCE: Final = 200
_UNSETTLED: Final = 25
"""Runs. Of two that are stored at once the later one may be seen first. Housekeeping never removes
the last 30 of a job, so what it removes is older than these."""

_ENDED: Final = ("SUCCESS", "FAILURE", "CANCELED")
_RUNS: Final = RunsTable.c
_EVENTS: Final = SqlEventLogStorageTable.c
_KVS: Final = KeyValueStoreTable.c
_TOTALS: Final = TypeAdapter(RunTotals)


@dataclass(frozen=True, slots=True)
class _Row:
    """A run in the run storage."""

    place: int
    run_id: str
    status: str
    ended_at: float | None
    mirror: str


class RunHistory:
    """The runs of all mirrors in the storage of an instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        """Take the storage of an instance.

        Raises:
            SettingsError: it keeps its history in no SQL database.
        """
        events, runs = sql_storages(
            instance,
            "Keep Dagster's history in SQLite or PostgreSQL, or take the metrics of "
            "`ecr-catalog sync --metrics-file`.",
        )
        self._instance = instance
        self._events = events
        self._runs = runs

    # The totals

    def kept(self) -> tuple[RunTotals, str | None]:
        """Read the totals that are kept, and how they are written; None where none are."""
        text = self._runs.get_cursor_values({TOTALS_KEY}).get(TOTALS_KEY)
        return read_kept(_TOTALS, TOTALS_VERSION, text).value or RunTotals(), text

    def keep(self, totals: RunTotals, before: str | None) -> bool:
        """Keep totals, unless somebody else has since they were read; say whether they are kept.

        Args:
            before: as they were written then.
        """
        text = write_kept(_TOTALS, TOTALS_VERSION, totals)
        try:
            with self._runs.connect() as conn:
                if before is None:
                    conn.execute(KeyValueStoreTable.insert().values(key=TOTALS_KEY, value=text))
                    return True
                changed = conn.execute(
                    KeyValueStoreTable.update()
                    .where(_KVS.key == TOTALS_KEY, _KVS.value == before)
                    .values(value=text)
                )
                return changed.rowcount == 1
        except IntegrityError:
            return False

    # The runs

    def last_place(self) -> int:
        """Give the place of the run that was stored last; 0 when there is none."""
        with self._runs.connect() as conn:
            return conn.scalar(sql.select(sql.func.max(_RUNS.id))) or 0

    def page(
        self, totals: RunTotals, known: Mapping[str, EndedRun] | None = None
    ) -> list[StoredRun]:
        """Give the runs that wait to be counted, and the next ones after those that are.

        Args:
            known: by their id, runs that have been read before.
        """
        waiting = self._rows(_RUNS.run_id.in_(totals.waiting)) if totals.waiting else []
        rows = [*waiting, *self._rows(_RUNS.id > totals.through, _RUNS_AT_ONCE)]
        known = known or {}
        ended = self._ended(
            [row for row in rows if row.status in _ENDED and row.run_id not in known]
        )
        found = {**known, **ended}
        return [StoredRun(r.place, r.run_id, r.mirror, found.get(r.run_id)) for r in rows]

    def _rows(self, condition: sql.ColumnElement[bool], limit: int | None = None) -> list[_Row]:
        mirror = RunTagsTable.c
        with self._runs.connect() as conn:
            rows = conn.execute(
                sql.select(_RUNS.id, _RUNS.run_id, _RUNS.status, _RUNS.end_time, mirror.value)
                .join(RunTagsTable, mirror.run_id == _RUNS.run_id)
                .where(mirror.key == MIRROR_TAG, condition)
                .order_by(_RUNS.id)
                .limit(limit)
            ).fetchall()
        return [_Row(*row) for row in rows]

    def _ended(self, rows: Sequence[_Row]) -> dict[str, EndedRun]:
        """Read what runs came to, in one query; one more for each that failed."""
        said = self._said([row.run_id for row in rows if row.status != "CANCELED"])
        return {row.run_id: self._ended_run(row, said.get(row.run_id, {})) for row in rows}

    def _ended_run(self, row: _Row, said: Mapping[str, Mapping[str, Any]]) -> EndedRun:
        parity = said.get("backstage_parity", {})
        sources = frozenset({Source.BACKSTAGE} if value_of(parity, BACKSTAGE_DOWN) else ())
        if row.status == "FAILURE":
            sources |= sources_of(step.kind for step in self._failed_steps(row.run_id))
            outcome: RunOutcome | None = RunOutcome.FAILED
        else:
            outcome = _outcome(said.get("published_entity", {}))
        return EndedRun(outcome, sources, _times(parity), row.ended_at)

    def _failed_steps(self, run_id: str) -> Sequence[FailedStep]:
        """Read why a run failed; nothing where its database is damaged."""
        try:
            return steps_of(self._instance, run_id).failed
        except OperationalError:
            raise
        except DatabaseError:
            return ()

    def _said(self, run_ids: Collection[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
        """Read the metadata of what runs materialized, by run and by asset."""
        found: dict[str, dict[str, Mapping[str, Any]]] = {}
        if not run_ids:
            return found
        with self._events.index_connection() as conn:
            rows = conn.execute(
                sql.select(_EVENTS.run_id, _EVENTS.event)
                .where(_EVENTS.run_id.in_(run_ids))
                .where(
                    _EVENTS.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value
                )
                .where(
                    sql.or_(
                        _EVENTS.asset_key.like('%"published_entity"]'),
                        _EVENTS.asset_key.like('%"backstage_parity"]'),
                    )
                )
                .order_by(_EVENTS.id)
            ).fetchall()
        for run_id, text in rows:
            materialization = deserialize_value(text, EventLogEntry).asset_materialization
            if materialization:
                asset = materialization.asset_key.path[-1]
                found.setdefault(run_id, {})[asset] = materialization.metadata
        return found


def count_ended(history: RunHistory, more: Callable[[], bool] = lambda: True) -> int:
    """Count what has ended into the totals that are kept.

    Args:
        more: says whether there is time for another page.

    Returns:
        the place up to which all is counted that housekeeping may remove.
    """
    while True:
        totals, before = history.kept()
        last = history.last_place()
        totals = totals.up_to(last)
        after = _next(history.page(totals), totals, last)
        if after == totals:
            return last
        if history.keep(after, before) and not more():
            return after.through


def _next(page: Sequence[StoredRun], totals: RunTotals, last: int) -> RunTotals:
    """Count a page, up to the last run of it that is settled."""
    passed = [run.place for run in page if run.place <= last - _UNSETTLED]
    return totals.after(page, max([totals.through, *passed]))


class RunCounter:
    """Counts on from the totals that are kept, in memory."""

    def __init__(self, history: RunHistory) -> None:
        """Take a history."""
        self._history = history
        self._totals = RunTotals()
        self._known: dict[str, EndedRun] = {}

    def totals(self) -> Mapping[str, Totals]:
        """Give what is counted by now, by the mirror's name."""
        last = self._history.last_place()
        kept, mine = (each.up_to(last) for each in (self._history.kept()[0], self._totals))
        totals = kept if kept.through > mine.through else mine
        while True:
            page = self._history.page(totals, self._known)
            self._known = {run.run_id: run.ended for run in page if run.ended}
            self._totals, totals = totals, _next(page, totals, last)
            if totals == self._totals:
                return totals.after(page, max([last, totals.through])).mirrors


def _outcome(metadata: Mapping[str, Any]) -> RunOutcome | None:
    try:
        return RunOutcome(text_of(metadata, "outcome") or "")
    except ValueError:
        return None


def _times(metadata: Mapping[str, Any]) -> tuple[float, ...]:
    times = value_of(metadata, TIMES_FOR_SLO)
    return tuple(
        float(each)
        for each in (times if isinstance(times, list) else ())
        if isinstance(each, int | float) and each >= 0
    )
