"""The Dagster instance of a DAGSTER_HOME: opens it, and says what is wrong with it."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import dagster as dg
import yaml
from dagster._check import CheckError

# Not exported: what reads many runs and events at once needs the database.
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ecr_catalog_pipeline.core.errors import CatalogError, SettingsError

_SETTINGS_FAULTS: Final = (
    yaml.YAMLError,
    dg.DagsterError,
    CheckError,
    ValueError,
    TypeError,
    ImportError,
    AttributeError,
)
"""What Dagster raises for a dagster.yaml that it cannot use."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DATABASES: Final = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
_SQLITE: Final = b"SQLite format 3\0"


class HistoryUnusable(CatalogError):
    """Dagster's history cannot be read or written."""


@contextmanager
def kept_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Give the instance of a DAGSTER_HOME.

    Raises:
        SettingsError: its dagster.yaml cannot be used.
        HistoryUnusable: its storage failed, at the start or within the block.
    """
    try:
        with _opened(home) as instance:
            yield instance
    except CatalogError:
        raise
    except Exception as error:
        fault = _storage_fault(error, home)
        if fault is None:
            raise
        raise _unusable(home, fault) from None


def _opened(home: Path) -> dg.DagsterInstance:
    try:
        return dg.DagsterInstance.from_config(str(home))
    except Exception as error:
        if _storage_fault(error, home) is None and isinstance(error, _SETTINGS_FAULTS):
            raise SettingsError(
                f"{home / 'dagster.yaml'} cannot be used: {_one_line(error)}",
                remediation="Correct it, or take the dagster.yaml that this project ships.",
            ) from None
        raise


def _storage_fault(error: BaseException, home: Path) -> BaseException | None:
    """Give what the storage raised, at the root of an error; None when it is no such error."""
    found, seen = None, set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if isinstance(each, SQLAlchemyError | sqlite3.Error) or (
            isinstance(each, OSError)
            and (each.errno in _NO_ROOM or str(each.filename or "").startswith(str(home)))
        ):
            found = each
        each = each.__cause__ or each.__context__
    return found


def sql_storages(
    instance: dg.DagsterInstance, remediation: str
) -> tuple[SqlEventLogStorage, SqlRunStorage]:
    """Give where an instance keeps events and runs.

    Raises:
        SettingsError: it keeps them in no SQL database.
    """
    events, runs = instance.event_log_storage, instance.run_storage
    if isinstance(events, SqlEventLogStorage) and isinstance(runs, SqlRunStorage):
        return events, runs
    raise SettingsError(
        f"the history lies in {type(events).__name__}, which is not an SQL storage",
        remediation=remediation,
    )


def _unusable(home: Path, fault: BaseException) -> HistoryUnusable:
    words = _one_line(fault.orig if isinstance(fault, DBAPIError) and fault.orig else fault)
    damaged = [str(home / name) for name in _DATABASES if _is_damaged(home / name)]
    if damaged:
        return HistoryUnusable(
            f"Dagster's history in DAGSTER_HOME cannot be used: {', '.join(damaged)} is not an "
            "SQLite database",
            remediation="Restore it from a backup, or move it away: Dagster makes an empty one.",
        )
    if _is_full(home, fault):
        return HistoryUnusable(
            f"DAGSTER_HOME {home} cannot be written: its disk is full",
            remediation="Free space there; the job ecr_catalog_housekeeping keeps its history for "
            "`keep_days`.",
        )
    return HistoryUnusable(
        f"Dagster's history in DAGSTER_HOME {home} cannot be read or written: {words}",
        remediation="Let this user write the folder, and check `storage` in its dagster.yaml.",
    )


def _is_damaged(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_SQLITE))
    except OSError:
        return False
    return bool(start) and start != _SQLITE


def _is_full(home: Path, fault: BaseException) -> bool:
    """Whether no room is left: SQLite calls that an I/O error, too."""
    if isinstance(fault, OSError) and fault.errno in _NO_ROOM:
        return True
    if "disk is full" in str(fault):
        return True
    probe = home / ".ecr-catalog-probe"
    try:
        probe.write_bytes(b"\0" * 65_536)
    except OSError as error:
        return error.errno in _NO_ROOM
    finally:
        _removed(probe)
    return False


def _removed(probe: Path) -> None:
    try:
        probe.unlink(missing_ok=True)
    except OSError:
        return


def _one_line(error: BaseException) -> str:
    """The words of an error on one line, cut where they are long."""
    return " ".join(str(error).split())[:300] or type(error).__name__
