"""Dagster's run history in its own storage, SQLite or another SQL database, and its removal.

Dagster itself removes a run's rows only. The run's database, its compute logs, its check
executions and, with SQLite, its tags stay behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import dagster as dg
import sqlalchemy as sql

# Dagster removes nothing but ticks: housekeeping works on its tables, which only these describe.
from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    ConcurrencySlotsTable,
    PendingStepsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from sqlalchemy.engine import Connection

from ecr_catalog_pipeline.defs.instance import sql_storages

KEPT_OBSERVATIONS: Final = 20
"""Of each asset, however old, by sensors: the parity asset reads as many."""
KEPT_ENDED_RUNS: Final = 30
"""Of each job, however old: the parity watch reads as many."""

_SMALL_PAGE: Final = 512
"""Bytes. A run's database has some 25 tables and indexes, most of them empty, a page each."""
_SMALL: Final = 32 * 1024
"""Bytes. A run's database of that size is not worth a rewrite."""
_INDEX_PAGE: Final = 1024
_VACUUM_PAYS: Final = 8 * 1024 * 1024
_VACUUM_MAX_LIVE: Final = 128 * 1024 * 1024
"""Bytes. Others wait while a database is vacuumed, 5 s at the most; it takes about 1 s here."""
_EVENTS_AT_ONCE: Final = 500

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RUN_FOLDER: Final = re.compile(f"({_UUID})")
_RUN_DATABASE: Final = re.compile(rf"({_UUID})\.db(?:-wal|-shm|-journal)?")
_SIDECARS: Final = ("", "-wal", "-shm", "-journal")

_ENDED: Final = ("SUCCESS", "FAILURE", "CANCELED")
# What stays of a slim run: how it went, and in the storage that the assets' pages read, its assets.
_STATUS_EVENTS: Final = (
    *(each.value for each in EVENT_TYPE_TO_PIPELINE_RUN_STATUS),
    dg.DagsterEventType.STEP_FAILURE.value,
    dg.DagsterEventType.STEP_UP_FOR_RETRY.value,
)
_ASSET_EVENTS: Final = (
    dg.DagsterEventType.ASSET_MATERIALIZATION.value,
    dg.DagsterEventType.ASSET_FAILED_TO_MATERIALIZE.value,
    dg.DagsterEventType.ASSET_OBSERVATION.value,
)

_EVENTS: Final = SqlEventLogStorageTable.c
_CHECKS: Final = AssetCheckExecutionsTable.c
_RUNS: Final = RunsTable.c
_OBSERVED: Final = _EVENTS.dagster_event_type == dg.DagsterEventType.ASSET_OBSERVATION.value
# Of each asset. What runs observe goes with them; what sensors observed is looked up later.
_LATEST_OF: Final = (
    (_EVENTS.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value, 1),
    (_EVENTS.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value, 1),
    (_EVENTS.dagster_event_type == dg.DagsterEventType.ASSET_FAILED_TO_MATERIALIZE.value, 1),
    (_EVENTS.dagster_event_type == dg.DagsterEventType.FRESHNESS_STATE_CHANGE.value, 1),
    (_OBSERVED, 1),
    (sql.and_(_OBSERVED, _EVENTS.run_id == RUNLESS_RUN_ID), KEPT_OBSERVATIONS),
)


@dataclass(frozen=True, slots=True)
class RunRow:
    """What the run storage says of a run.

    Attributes:
        place: grows with every run that is stored.
        ended_at: None while the run is queued or under way.
    """

    place: int
    run_id: str
    job: str
    status: str
    ended_at: datetime | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Needed:
    """What is the latest of its kind: it stays, however old.

    Attributes:
        runs: ids of the runs that hold something of it.
        events: ids of the events.
        checks: ids of the check executions.
    """

    runs: frozenset[str]
    events: frozenset[int]
    checks: frozenset[int]


@dataclass(slots=True)
class Freed:
    """What was removed, each counted once."""

    runs: int = 0
    slimmed_runs: int = 0
    packed_databases: int = 0
    run_databases: int = 0
    compute_logs: int = 0
    event_rows: int = 0
    check_rows: int = 0
    runless_events: int = 0
    orphans: int = 0


class DagsterHistory:
    """The run history of an instance.

    Every removal is a short transaction of its own. A run's row goes last, so that a removal that
    was cut off is found and finished by the next one.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        """Take the storage of an instance.

        Raises:
            SettingsError: it keeps its history in no SQL database.
        """
        events, runs = sql_storages(
            instance, "Stop the housekeeping schedule; that storage has to clean up itself."
        )
        self.freed = Freed()
        self.busy = 0
        """Run databases that another process had open: they are slimmed the next time."""
        self._events = events
        self._runs = runs
        self._shards = events if isinstance(events, SqliteEventLogStorage) else None
        self._compute_logs = instance.compute_log_manager

    # Reading

    def needed(self) -> Needed:
        """Find the latest of everything that Dagster and the mirrors look up."""
        with self._events.index_connection() as conn:
            rows = conn.execute(sql.select(AssetKeyTable.c.asset_key, AssetKeyTable.c.last_run_id))
            keys = [(key, run) for key, run in rows]
            events = [
                row
                for key, _ in keys
                for wanted, count in _LATEST_OF
                for row in conn.execute(
                    sql.select(_EVENTS.id, _EVENTS.run_id)
                    .where(_EVENTS.asset_key == key)
                    .where(wanted)
                    .order_by(_EVENTS.id.desc())
                    .limit(count)
                )
            ]
            checks = list(_latest_checks(conn))
        runs = {run for _, run in keys} | {row.run_id for row in [*events, *checks]}
        return Needed(
            runs=frozenset(filter(None, runs | set(self._last_ended()))),
            events=frozenset(row.id for row in events),
            checks=frozenset(row.id for row in checks),
        )

    def runs_after(self, place: int, limit: int) -> list[RunRow]:
        """Give the next runs in the order in which they were stored."""
        ended = sql.func.coalesce(_RUNS.end_time, 0.0)
        columns = (_RUNS.id, _RUNS.run_id, _RUNS.pipeline_name, _RUNS.status, ended)
        with self._runs.connect() as conn:
            rows = conn.execute(
                sql.select(*columns, _RUNS.create_timestamp)
                .where(_RUNS.id > place)
                .order_by(_RUNS.id)
                .limit(limit)
            ).fetchall()
            tags: dict[str, dict[str, str]] = {row.run_id: {} for row in rows}
            for run_id, key, value in conn.execute(
                sql.select(RunTagsTable.c.run_id, RunTagsTable.c.key, RunTagsTable.c.value).where(
                    RunTagsTable.c.run_id.in_(list(tags))
                )
            ):
                tags[run_id][key] = value
        return [
            RunRow(place, run_id, job, status, _ended_at(status, end, created), tags[run_id])
            for place, run_id, job, status, end, created in rows
        ]

    def first_end_after(self, place: int, now: datetime) -> datetime | None:
        """When the first run ended that was stored after that place; never ahead of now."""
        with self._runs.connect() as conn:
            end = conn.scalar(
                sql.select(sql.func.min(_RUNS.end_time))
                .where(_RUNS.id > place)
                .where(_RUNS.status.in_(_ENDED))
                .where(_RUNS.end_time <= now.timestamp())
            )
        return datetime.fromtimestamp(end, UTC) if end else None

    def bytes_on_disk(self) -> int:
        """Measure the files of the history: databases of SQLite, and local compute logs."""
        files = [path for each in self._databases() for path in _with_sidecars(each)]
        if self._shards:
            files += [Path(entry.path) for entry in os.scandir(self._shard_folder)]
        for folder in self._log_folders():
            files += [Path(root, name) for root, _, names in os.walk(folder) for name in names]
        return sum(_allocated(path) for path in set(files))

    # Removing

    def remove(self, run_ids: Sequence[str]) -> None:
        """Remove runs with all that they left behind."""
        self._free_slots(run_ids)
        with self._events.index_transaction() as conn:
            self.freed.event_rows += _delete_events(conn, _EVENTS.run_id.in_(run_ids))
            self.freed.check_rows += conn.execute(
                AssetCheckExecutionsTable.delete().where(_CHECKS.run_id.in_(run_ids))
            ).rowcount
        for run_id in run_ids:
            self.freed.run_databases += self._remove_shard(run_id)
            self.freed.compute_logs += self._remove_compute_logs(run_id)
        with self._runs.connect() as conn:
            # Where tags cascade they go with the run, never before it.
            gone = conn.execute(RunsTable.delete().where(_RUNS.run_id.in_(run_ids)))
            conn.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id.in_(run_ids)))
        self.freed.runs += gone.rowcount

    def slim(self, run_ids: Sequence[str]) -> None:
        """Remove the details of runs, and keep how they went, their asset events and checks."""
        slimmed: set[str] = set()
        details = sql.and_(
            _EVENTS.run_id.in_(run_ids),
            sql.or_(
                _EVENTS.dagster_event_type.is_(None),
                _EVENTS.dagster_event_type.not_in([*_STATUS_EVENTS, *_ASSET_EVENTS]),
            ),
        )
        with self._events.index_transaction() as conn:
            slimmed.update(
                run for (run,) in conn.execute(sql.select(_EVENTS.run_id).where(details).distinct())
            )
            if slimmed:
                self.freed.event_rows += _delete_events(conn, details)
        for run_id in run_ids:
            if self._rewrite_shard(run_id, with_details=False):
                slimmed.add(run_id)
            self.freed.compute_logs += self._remove_compute_logs(run_id)
        self.freed.slimmed_runs += len(slimmed)

    def pack(self, run_ids: Sequence[str]) -> None:
        """Rewrite the databases of runs, smaller and with all that they hold."""
        for run_id in run_ids:
            self.freed.packed_databases += self._rewrite_shard(run_id, with_details=True)

    def remove_runless(
        self, prefixes: AbstractSet[str], needed: Needed, before: datetime, now: datetime
    ) -> None:
        """Remove what sensors and Dagster reported without a run, but for the latest of each.

        Args:
            prefixes: first parts of the asset keys to look at.
            now: what is dated ahead of it is as old as what was stored after it.
        """
        with self._events.index_connection() as conn:
            every = [key for (key,) in conn.execute(sql.select(AssetKeyTable.c.asset_key))]
            pairs = conn.execute(sql.select(_CHECKS.asset_key).distinct())
            every += [key for (key,) in pairs]
        keys = [key for key in sorted(set(every)) if _first_part(key) in prefixes]
        old = sql.and_(
            _runless_before(_EVENTS.id, _EVENTS.run_id, _EVENTS.timestamp, before, now),
            _EVENTS.asset_key.in_(keys),
        )
        for ids in self._batches(_EVENTS.id, old, needed.events):
            with self._events.index_transaction() as conn:
                self.freed.runless_events += _delete_events(conn, _EVENTS.id.in_(ids))
        old_checks = sql.and_(
            _runless_before(
                _CHECKS.id, _CHECKS.run_id, _CHECKS.evaluation_event_timestamp, before, now
            ),
            _CHECKS.asset_key.in_(keys),
        )
        for ids in self._batches(_CHECKS.id, old_checks, needed.checks):
            with self._events.index_transaction() as conn:
                self.freed.check_rows += conn.execute(
                    AssetCheckExecutionsTable.delete().where(_CHECKS.id.in_(ids))
                ).rowcount
        if self._shards and Path(self._shards.path_for_shard(RUNLESS_RUN_ID)).exists():
            # SQLite keeps a second copy beside the one that is read.
            with self._shards.run_connection(RUNLESS_RUN_ID) as conn:
                conn.execute(SqlEventLogStorageTable.delete().where(old))

    def remove_orphans(self, before: datetime) -> None:
        """Remove run databases and compute logs that belong to no run and are older than that."""
        if self._shards:
            for entry, run_id in _entries(self._shard_folder, _RUN_DATABASE, before, files=True):
                if not self._known([run_id]):
                    Path(entry.path).unlink(missing_ok=True)
                    self.freed.orphans += 1
        base = self._log_base()
        if base and base.is_dir():
            for entry, run_id in _entries(base, _RUN_FOLDER, before, files=False):
                if not self._known([run_id]):
                    shutil.rmtree(entry.path, ignore_errors=True)
                    self.freed.orphans += 1

    def reclaim(self) -> list[str]:
        """Give the free pages of SQLite's shared databases back to the disk, where that pays.

        Returns:
            what was done or left, a line for each database that has much to give back.
        """
        return [note for path in self._databases() if (note := _vacuum(path))]

    # One run's files

    def _remove_shard(self, run_id: str) -> int:
        if self._shards is None or not _RUN_FOLDER.fullmatch(run_id):
            return 0
        path = Path(self._shards.path_for_shard(run_id))
        existed = path.exists()
        for each in _with_sidecars(path):
            each.unlink(missing_ok=True)
        return int(existed)

    def _rewrite_shard(self, run_id: str, *, with_details: bool) -> bool:
        """Whether a database was there and had to be rewritten."""
        if self._shards is None or not _RUN_FOLDER.fullmatch(run_id):
            return False
        path = Path(self._shards.path_for_shard(run_id))
        if path.is_symlink() or not path.is_file() or path.stat().st_size <= _SMALL:
            return False
        try:
            with closing(_open(path, timeout=1)) as conn:
                (page_size,) = conn.execute("PRAGMA page_size").fetchone()
                if with_details and page_size == _SMALL_PAGE:
                    return False
                _rewrite(conn, with_details=with_details)
        except sqlite3.OperationalError:
            self.busy += 1
            return False
        return True

    def _remove_compute_logs(self, run_id: str) -> int:
        if not isinstance(self._compute_logs, LocalComputeLogManager):
            self._compute_logs.delete_logs(prefix=[run_id, "compute_logs"])
            return 0
        base = self._log_base()
        if base is None or not _RUN_FOLDER.fullmatch(run_id):
            return 0
        folder = base / run_id
        if folder.is_symlink() or not folder.is_dir():
            return 0
        shutil.rmtree(folder, ignore_errors=True)
        return int(not folder.exists())

    # Places

    @property
    def _shard_folder(self) -> Path:
        assert self._shards
        return Path(self._shards.path_for_shard("index")).parent

    def _databases(self) -> list[Path]:
        """Give the files of SQLite that all runs share."""
        found = []
        if self._shards:
            found = [Path(self._shards.path_for_shard(name)) for name in ("index", RUNLESS_RUN_ID)]
        with self._runs.connect() as conn:
            if conn.dialect.name == "sqlite":
                found.append(Path(conn.engine.url.database or ""))
        return [path for path in found if path.is_file()]

    def _log_base(self) -> Path | None:
        if not isinstance(self._compute_logs, LocalComputeLogManager):
            return None
        return Path(self._compute_logs.get_captured_local_path(["any"], "complete")).parent

    def _log_folders(self) -> list[Path]:
        base = self._log_base()
        if base is None or not base.is_dir():
            return []
        return [
            Path(entry.path)
            for entry in os.scandir(base)
            if _RUN_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]

    # Rows

    def _known(self, run_ids: Sequence[str]) -> set[str]:
        with self._runs.connect() as conn:
            rows = conn.execute(sql.select(_RUNS.run_id).where(_RUNS.run_id.in_(run_ids)))
            return {run_id for (run_id,) in rows}

    def _last_ended(self) -> Iterator[str]:
        with self._runs.connect() as conn:
            jobs = conn.execute(sql.select(_RUNS.pipeline_name).distinct()).fetchall()
            for (job,) in jobs:
                yield from conn.scalars(
                    sql.select(_RUNS.run_id)
                    .where(_RUNS.pipeline_name == job)
                    .where(_RUNS.status.in_(_ENDED))
                    .order_by(_RUNS.id.desc())
                    .limit(KEPT_ENDED_RUNS)
                )

    def _free_slots(self, run_ids: Sequence[str]) -> None:
        if not self._events.supports_global_concurrency_limits:
            return
        with self._events.index_connection() as conn:
            holders = {
                run_id
                for table in (ConcurrencySlotsTable, PendingStepsTable)
                for (run_id,) in conn.execute(
                    sql.select(table.c.run_id).where(table.c.run_id.in_(run_ids))
                )
            }
        for run_id in holders:
            self._events.free_concurrency_slots_for_run(run_id)

    def _batches(
        self, column: sql.Column[Any], condition: sql.ColumnElement[bool], kept: AbstractSet[int]
    ) -> Iterator[list[int]]:
        """Give the ids of the rows to remove, some at a time."""
        last = -1
        while True:
            with self._events.index_connection() as conn:
                found = list(
                    conn.scalars(
                        sql.select(column)
                        .where(condition, column > last)
                        .order_by(column)
                        .limit(_EVENTS_AT_ONCE)
                    )
                )
            if not found:
                return
            last = found[-1]
            yield [each for each in found if each not in kept]


def _latest_checks(conn: Connection) -> Iterator[Any]:
    """The latest execution of every check; the latest with a result too, if that is planned."""
    latest = sql.select(sql.func.max(_CHECKS.id)).group_by(
        _CHECKS.asset_key, _CHECKS.check_name, _CHECKS.partition
    )
    columns = (_CHECKS.id, _CHECKS.run_id)
    rows = conn.execute(
        sql.select(
            *columns,
            _CHECKS.asset_key,
            _CHECKS.check_name,
            _CHECKS.partition,
            _CHECKS.execution_status,
        ).where(_CHECKS.id.in_(latest))
    ).fetchall()
    planned = AssetCheckExecutionRecordStatus.PLANNED.value
    for row in rows:
        yield row
        if row.execution_status == planned:
            yield from conn.execute(
                sql.select(*columns)
                .where(_CHECKS.asset_key == row.asset_key)
                .where(_CHECKS.check_name == row.check_name)
                .where(_CHECKS.partition.is_not_distinct_from(row.partition))
                .where(_CHECKS.execution_status != planned)
                .order_by(_CHECKS.id.desc())
                .limit(1)
            )


def _runless_before(
    row: sql.Column[Any],
    run_id: sql.Column[Any],
    at: sql.Column[Any],
    before: datetime,
    now: datetime,
) -> sql.ColumnElement[bool]:
    """What no run reported and is that old by its date, or by its place if that is ahead of now."""
    old = at < before.astimezone(UTC).replace(tzinfo=None)
    last = sql.select(sql.func.max(row)).where(run_id == RUNLESS_RUN_ID, old).scalar_subquery()
    ahead = sql.and_(at > now.astimezone(UTC).replace(tzinfo=None), row < last)
    return sql.and_(run_id == RUNLESS_RUN_ID, sql.or_(old, ahead))


def _delete_events(conn: Connection, condition: sql.ColumnElement[bool]) -> int:
    ids = sql.select(_EVENTS.id).where(condition)
    conn.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(ids)))
    return conn.execute(SqlEventLogStorageTable.delete().where(condition)).rowcount


def _ended_at(status: str, end: float, created: datetime) -> datetime | None:
    if status not in _ENDED:
        return None
    return datetime.fromtimestamp(end, UTC) if end else created.replace(tzinfo=UTC)


def _first_part(asset_key: str) -> str:
    key = dg.AssetKey.from_db_string(asset_key)
    return key.path[0] if key else ""


def _entries(
    folder: Path, pattern: re.Pattern[str], before: datetime, *, files: bool
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Old entries of a folder that carry a run's id; never a symbolic link."""
    for entry in list(os.scandir(folder)):
        match = pattern.fullmatch(entry.name)
        if not match:
            continue
        right = entry.is_file if files else entry.is_dir
        with suppress(FileNotFoundError):
            if right(follow_symlinks=False) and _changed_at(entry) < before:
                yield entry, match[1]


def _changed_at(entry: os.DirEntry[str]) -> datetime:
    return datetime.fromtimestamp(entry.stat(follow_symlinks=False).st_mtime, UTC)


def _with_sidecars(database: Path) -> Iterable[Path]:
    return [database.with_name(database.name + suffix) for suffix in _SIDECARS]


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _open(path: Path, *, timeout: float) -> sqlite3.Connection:
    """Open a database that exists; seconds to wait for a lock."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None
    )


def _rewrite(conn: sqlite3.Connection, *, with_details: bool) -> None:
    """Rewrite the database of a run in small pages.

    Raises:
        sqlite3.OperationalError: another process has it open; nothing was changed.
    """
    # Pages cannot change their size in WAL mode; leaving that mode needs the file closed elsewhere.
    conn.execute("PRAGMA journal_mode = DELETE")
    if not with_details:
        conn.execute(
            "DELETE FROM event_logs WHERE dagster_event_type IS NULL"
            " OR dagster_event_type NOT IN (SELECT value FROM json_each(?))",
            [json.dumps(_STATUS_EVENTS)],
        )
    conn.execute(f"PRAGMA page_size = {_SMALL_PAGE}")
    conn.execute("VACUUM")
    conn.execute("PRAGMA journal_mode = WAL")


def _vacuum(path: Path) -> str | None:
    try:
        with closing(_open(path, timeout=2)) as conn:
            (size,) = conn.execute("PRAGMA page_size").fetchone()
            (pages,) = conn.execute("PRAGMA page_count").fetchone()
            (unused,) = conn.execute("PRAGMA freelist_count").fetchone()
            live, free = (pages - unused) * size, unused * size
            pays = free >= _VACUUM_PAYS and unused >= pages / 4
            # Events of 2 to 30 kB leave a sixth of larger pages empty.
            coarse = size > _INDEX_PAGE and live >= _VACUUM_PAYS
            if live > _VACUUM_MAX_LIVE:
                return f"{path.name}: {_mb(free)} are left free for new runs" if pays else None
            if not (pays or coarse):
                return None
            if coarse:
                conn.execute("PRAGMA journal_mode = DELETE")
                conn.execute(f"PRAGMA page_size = {_INDEX_PAGE}")
            try:
                conn.execute("VACUUM")
            finally:
                conn.execute("PRAGMA journal_mode = WAL")
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return f"{path.name}: rewritten, {_mb(live + free)} before"
    except sqlite3.OperationalError as error:
        return f"{path.name}: not rewritten this time, {error}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
