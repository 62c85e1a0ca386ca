"""The metrics of mirrors out of Dagster's history, and the page that the exporter serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

import dagster as dg
import sqlalchemy as sql

# Dagster's API reads whole events; when the last one was written tells whether there is a new one.
from dagster._core.storage.event_log.schema import AssetKeyTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from ecr_catalog_pipeline.adapters.exposition import Page, write_text
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.core.metrics import (
    MirrorMetrics,
    Standing,
    Totals,
    count_by_rule,
    families,
    unix_time,
)
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State
from ecr_catalog_pipeline.defs.event_log import kept_parity_of, published_of, verified_by_watch
from ecr_catalog_pipeline.defs.instance import kept_instance
from ecr_catalog_pipeline.defs.kept import text_of, value_of
from ecr_catalog_pipeline.defs.run_totals import RunCounter, RunHistory
from ecr_catalog_pipeline.mirroring import Outcome, now_utc
from ecr_catalog_pipeline.settings import LoadedMirrors, can_name_a_mirror, load_mirrors

REFRESH_SECONDS: Final = 5
STALE_SECONDS: Final = 60
"""What was read longer ago is not served any more."""

_READING: Final = "Dagster's history is being read."
_CANNOT_READ: Final = "The metrics cannot be read. The log of the exporter says why."

_FINDINGS_BY_RULE: Final = "findings_by_rule"
_EXCEPTED: Final = "excepted"
_RECONCILED, _PUBLISHED, _PARITY = "reconciled_registry", "published_entity", "backstage_parity"


def for_metrics(registry: ReconciledRegistry) -> dict[str, Any]:
    """What the metrics read of `reconciled_registry`, beside the counts of the states."""
    return {
        _FINDINGS_BY_RULE: dg.MetadataValue.json(count_by_rule(registry.findings)),
        _EXCEPTED: len(registry.excepted),
    }


class MetricsReader:
    """Reads the metrics of mirrors out of an instance, and of that only what is new."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        """Take an instance.

        Raises:
            SettingsError: it keeps its history in no SQL database.
        """
        self._instance = instance
        self._counter = RunCounter(RunHistory(instance))
        self._written: dict[dg.AssetKey, datetime] = {}
        self._standing: dict[str, Standing] = {}

    def read(self, loaded: LoadedMirrors) -> list[MirrorMetrics]:
        """Read the metrics of the mirrors that have a file, usable or not."""
        names = {*loaded.mirrors, *filter(can_name_a_mirror, loaded.errors)}
        totals = self._counter.totals()
        self._read_standing(names)
        now, watched = now_utc(), verified_by_watch(self._instance)
        return [
            MirrorMetrics(
                name,
                loaded.mirrors[name].parity.slo_seconds if name in loaded.mirrors else None,
                _verified(self._standing.get(name, Standing()), watched.get(name), now),
                totals.get(name, Totals()),
            )
            for name in names
        ]

    def _read_standing(self, names: Collection[str]) -> None:
        keys = [
            dg.AssetKey([name, asset])
            for name in names
            for asset in (_RECONCILED, _PUBLISHED, _PARITY)
        ]
        written = self._last_written(keys)
        new = {key.path[0] for key, at in written.items() if self._written.get(key) != at}
        latest = self._instance.event_log_storage.get_latest_materialization_events(
            [key for key in written if key.path[0] in new]
        )
        for name in new:
            self._standing[name] = _standing_of(
                *(latest.get(dg.AssetKey([name, a])) for a in (_RECONCILED, _PUBLISHED, _PARITY))
            )
        self._written = written

    def _last_written(self, keys: Collection[dg.AssetKey]) -> dict[dg.AssetKey, datetime]:
        """When something was last written of the assets that anything was written of."""
        storage, table = self._instance.event_log_storage, AssetKeyTable.c
        assert isinstance(storage, SqlEventLogStorage)
        by_text = {key.to_string(): key for key in keys}
        with storage.index_connection() as conn:
            rows = conn.execute(
                sql.select(table.asset_key, table.last_materialization_timestamp).where(
                    table.asset_key.in_(by_text)
                )
            ).fetchall()
        return {by_text[text]: at for text, at in rows}


def _standing_of(
    reconciled: dg.EventLogEntry | None,
    published: dg.EventLogEntry | None,
    parity: dg.EventLogEntry | None,
) -> Standing:
    """Read how a mirror stands from the last materializations; leniently, as all history."""
    plan, publication, verdict = (_metadata(each) for each in (reconciled, published, parity))
    last = published_of(published).last
    state = kept_parity_of(parity).value
    outcome, in_parity = text_of(publication, "outcome"), value_of(verdict, "in_parity")
    return Standing(
        repositories={
            each.value: count
            for each in State
            if (count := _whole(value_of(plan, each.value))) is not None
        },
        findings=_findings(value_of(plan, _FINDINGS_BY_RULE)),
        excepted=_whole(value_of(plan, _EXCEPTED)),
        held=None if outcome is None else outcome == Outcome.HELD,
        in_parity=in_parity if isinstance(in_parity, bool) else None,
        verified_at=state.verified_at.timestamp() if state and state.verified_at else None,
        changed_at=unix_time(last.last_sync) if last else None,
    )


def _verified(standing: Standing, by_watch: datetime | None, now: datetime) -> Standing:
    """Take the later of the times at which a run and the parity watch verified parity."""
    if by_watch is None or by_watch > now:  # the clock was set back since
        return standing
    at = by_watch.timestamp()
    return replace(standing, verified_at=max(at, standing.verified_at or at))


def _findings(counts: object) -> dict[tuple[str, str], int]:
    return {
        (str(rule), str(severity)): count
        for rule, by_severity in (counts.items() if isinstance(counts, Mapping) else ())
        for severity, number in (by_severity.items() if isinstance(by_severity, Mapping) else ())
        if (count := _whole(number)) is not None
    }


def _metadata(event: dg.EventLogEntry | None) -> Mapping[str, Any]:
    materialization = event.asset_materialization if event else None
    return materialization.metadata if materialization else {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# The page of the exporter


@dataclass(frozen=True, slots=True)
class _Read:
    content: bytes
    at: float


class Exporter:
    """Reads the metrics again and again in the background, and keeps the last page."""

    def __init__(
        self, home: Path, mirrors: Path, version: str, say: Callable[[str], object]
    ) -> None:
        """Take the folder of the instance and that of the mirror files.

        Args:
            say: gets the reason once when nothing can be read. The page needs no login, so it does
                not give the reason.
        """
        self._home = home
        self._mirrors = mirrors
        self._version = version
        self._say = say
        self._said = ""
        self._read: _Read | None = None
        self._stopping = threading.Event()

    def page(self) -> Page:
        """Give what to serve now."""
        read = self._read
        if read is None or monotonic() - read.at > STALE_SECONDS:
            return Page(None, _CANNOT_READ if self._said else _READING)
        return Page(read.content)

    @contextmanager
    def reading(self, *, every: float = REFRESH_SECONDS) -> Iterator[None]:
        """Read in the background.

        Args:
            every: so many seconds.
        """
        thread = threading.Thread(target=self._read_on, args=[every], name="history", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def _read_on(self, every: float) -> None:
        while not self._stopping.is_set():
            try:
                with kept_instance(self._home) as instance:
                    self._read_from(MetricsReader(instance), every)
            except CatalogError as error:
                self._fail(str(error))
            except Exception as error:  # noqa: BLE001 - an exporter that ends says nothing at all
                self._fail(f"unexpected {type(error).__name__}: {error}")
            self._stopping.wait(every)

    def _fail(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            self._say(problem)

    def _read_from(self, reader: MetricsReader, every: float) -> None:
        while not self._stopping.is_set():
            found = reader.read(load_mirrors(self._mirrors))
            self._read = _Read(write_text(families(found, self._version)), monotonic())
            self._said = ""
            self._stopping.wait(every)
