"""What the exporter of metrics costs on a long history, and whether its counters are right.

    .venv/bin/python -m benchmarks.metrics              # 252,000 runs, 6 GB, 30 minutes
    .venv/bin/python -m benchmarks.metrics --days 1
    .venv/bin/python -m benchmarks.metrics --ticks 200  # counters and histogram against the log

The long history is made of one real run, copied within SQLite: its row, its tag and the two
materializations that are counted, for every mirror every 2 minutes. It measures how long the first
count takes, how long an exporter needs to start once housekeeping has counted, how long it reads
when every mirror has a new run, and how long a scrape takes meanwhile. Fails when one scrape in
twenty takes more than 100 ms, or any asks something outside.

With --ticks every tick is a real run: some find a change, some a plan that is held, some a source
that fails. The exporter is started anew and the history is cleaned in between. Fails when a figure
is not what a count over the event log gives.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr
from pathlib import Path
from typing import Final

from benchmarks.disk import a_real_instance
from ecr_catalog_pipeline.adapters.exposition import Address, serving, write_text
from ecr_catalog_pipeline.core.metrics import families
from ecr_catalog_pipeline.defs.metrics import Exporter, MetricsReader
from ecr_catalog_pipeline.defs.run_totals import RunHistory, count_ended
from ecr_catalog_pipeline.housekeeping.history import KEPT_ENDED_RUNS
from ecr_catalog_pipeline.settings import load_mirrors
from tests.fakes.aws import Fault
from tests.fakes.backstage import Fault as BackstageFault
from tests.integration.test_metrics import (
    Kept,
    Log,
    a_kept_world,
    age_every_run,
    assert_counted,
    count_over_the_event_log,
    lines_of,
    store_runs_that_came_to_nothing,
)
from tests.integration.worlds import MIRROR, World

LIMIT_SECONDS: Final = 0.1
TICK_SECONDS: Final = 120
SCRAPES: Final = 200

# Row `n` is of the mirror n % :mirrors and of the tick n / :mirrors.
_RUNS: Final = """
WITH RECURSIVE series(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM series WHERE n < :last)
INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, create_timestamp,
                  update_timestamp, start_time, end_time)
SELECT printf('%08x-0000-4000-8000-000000000000', n), snapshot_id,
       printf('m%02d_sync', n % :mirrors), mode, status, run_body,
       datetime(:began + n / :mirrors * :tick, 'unixepoch'),
       datetime(:began + n / :mirrors * :tick, 'unixepoch'),
       :began + n / :mirrors * :tick, :began + n / :mirrors * :tick + 5.5
FROM series, (SELECT * FROM runs WHERE run_id = :template)
"""
_TAGS: Final = """
INSERT INTO run_tags (run_id, key, value)
SELECT run_id, 'ecr_catalog/mirror', substr(pipeline_name, 1, 3)
FROM runs WHERE run_id BETWEEN :low AND :high
"""
_EVENTS: Final = """
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key)
SELECT r.run_id, replace(replace(e.event, :template, r.run_id), '"bench"', '"' || r.mirror || '"'),
       e.dagster_event_type, r.create_timestamp, e.step_key,
       replace(e.asset_key, '"bench"', '"' || r.mirror || '"')
FROM (SELECT run_id, substr(pipeline_name, 1, 3) AS mirror, create_timestamp
      FROM storage.runs WHERE run_id BETWEEN :low AND :high ORDER BY id) AS r,
     (SELECT * FROM event_logs WHERE run_id = :template
      AND dagster_event_type = 'ASSET_MATERIALIZATION'
      AND (asset_key LIKE '%published_entity%' OR asset_key LIKE '%backstage_parity%')) AS e
"""
_ASSETS: Final = """
INSERT INTO asset_keys (asset_key, last_materialization, last_run_id, asset_details,
                        last_materialization_timestamp, tags)
SELECT replace(asset_key, '"bench"', '"' || :mirror || '"'),
       replace(last_materialization, '"bench"', '"' || :mirror || '"'),
       last_run_id, asset_details, last_materialization_timestamp, tags
FROM asset_keys WHERE asset_key LIKE '["bench"%'
"""


def main() -> None:
    """Run the benchmark and print what it measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mirrors", type=int, default=50)
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--ticks", type=int, default=0, help="check the counters over real runs")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.ticks:
        check_counters(arguments.ticks, random.Random(arguments.seed))
    else:
        measure(arguments.mirrors, arguments.days)


# What it costs


def measure(mirrors: int, days: float) -> None:
    """Measure on a long history; end the program where a limit is broken."""
    runs = int(days * 86_400 / TICK_SECONDS) * mirrors
    with a_real_instance() as (home, world):
        history = LongHistory(home, world, mirrors)
        with timed(f"made {runs:,} runs of {mirrors} mirrors"):
            history.grow(runs)
        print(f"the history takes {history.bytes_on_disk() / 1e6:,.0f} MB")
        storage = RunHistory(world.instance)
        with timed("counted all of it, once"):
            count_ended(storage)
        with timed("counted what is new, as housekeeping does every hour"):
            history.grow(30 * mirrors)
            count_ended(storage)
        calls = len(world.fake.calls)
        with timed("started an exporter an hour later, up to its first page"):
            history.grow(30 * mirrors)
            reader = MetricsReader(world.instance)
            text = _page(reader, world)
        with timed("read again, with nothing new"):
            _page(reader, world)
        history.grow(mirrors)
        with timed("read again, with a new run of every mirror"):
            text = _page(reader, world)
        seconds = _scrapes(home, world)
        p50, p95, p99 = (seconds[int((len(seconds) - 1) * each)] for each in (0.5, 0.95, 0.99))
        lines = text.splitlines()
        print(f"a page has {len(lines):,} lines and {len(text) / 1e3:.0f} kB")
        print(
            f"a scrape took {p50 * 1e3:.1f} ms (p50), {p95 * 1e3:.1f} ms (p95), "
            f"{p99 * 1e3:.1f} ms (p99), while the history was read every second"
        )
        counted = sum(
            lines_of(text, f"m{n:02}")["runs_total{outcome=published}"] for n in range(mirrors)
        )
        if counted != history.runs:
            sys.exit(f"{counted:.0f} runs were counted, not {history.runs}")
        if len(world.fake.calls) != calls:
            sys.exit("AWS was asked")
        if p95 > LIMIT_SECONDS:
            sys.exit(f"one scrape in twenty takes more than {LIMIT_SECONDS * 1e3:.0f} ms")


class LongHistory:
    """A history of many mirrors, copied from one real run."""

    def __init__(self, home: Path, world: World, mirrors: int) -> None:
        self._home, self._world, self._mirrors = home, world, mirrors
        self.runs = 0
        world.have(*(f"team/repository-{n:03}" for n in range(20)))
        with _quiet():
            self._template = world.sync().result.run_id
        text = world.mirror_file.read_text()
        world.mirror_file.unlink()
        for number in range(mirrors):
            name = f"m{number:02}"
            (world.mirrors / f"{name}.yaml").write_text(
                text.replace("ecr-registry.yaml", f"{name}.yaml")
            )
            with self._index() as conn:
                conn.execute(_ASSETS, {"mirror": name})
        self._began = int(time.time()) - 8 * 86_400

    def grow(self, runs: int) -> None:
        """Store so many more runs."""
        first, last = self.runs, self.runs + runs - 1
        low, high = (f"{n:08x}-0000-4000-8000-000000000000" for n in (first, last))
        between = {"low": low, "high": high, "template": self._template}
        with self._storage() as conn:
            conn.execute(
                _RUNS,
                {
                    "first": first,
                    "last": last,
                    "mirrors": self._mirrors,
                    "began": self._began,
                    "tick": TICK_SECONDS,
                    "template": self._template,
                },
            )
            conn.execute(_TAGS, {"low": low, "high": high})
        with self._index() as conn:
            conn.execute("ATTACH DATABASE ? AS storage", [str(self._runs_file)])
            conn.execute(_EVENTS, between)
            conn.execute(
                "UPDATE asset_keys SET last_materialization_timestamp ="
                " strftime('%Y-%m-%d %H:%M:%f000', 'now')"
            )
        self.runs += runs

    def bytes_on_disk(self) -> int:
        """Measure the databases that all runs share."""
        return sum(each.stat().st_size for each in (self._runs_file, self._index_file))

    @property
    def _runs_file(self) -> Path:
        return self._home / "history" / "runs.db"

    @property
    def _index_file(self) -> Path:
        return self._home / "history" / "runs" / "index.db"

    @contextmanager
    def _storage(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._runs_file)) as conn, conn:
            yield conn

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._index_file)) as conn:
            yield conn
            conn.commit()


def _page(reader: MetricsReader, world: World) -> bytes:
    return write_text(families(reader.read(load_mirrors(world.mirrors)), "1"))


def _scrapes(home: Path, world: World) -> list[float]:
    """How long scrapes took, shortest first."""
    exporter = Exporter(home, world.mirrors, "1", print)
    seconds = []
    with exporter.reading(every=1), serving(Address("127.0.0.1", 0), exporter.page) as address:
        while exporter.page().content is None:
            time.sleep(0.1)
        for _ in range(SCRAPES):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
                answer.read()
            seconds.append(time.perf_counter() - began)
            time.sleep(0.05)
    return sorted(seconds)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    took, used = time.perf_counter() - began, time.process_time() - cpu
    print(f"{what}: {took:.2f} s, {used:.2f} CPU-s", flush=True)


# Whether it is right


def check_counters(ticks: int, chance: random.Random) -> None:
    """Compare after every tenth tick; end the program where a figure is not right."""
    log = Log()
    with tempfile.TemporaryDirectory() as folder, a_kept_world(Path(folder)) as kept:
        loaded = load_mirrors(kept.world.mirrors)
        running = MetricsReader(kept.world.instance)
        for number in range(1, ticks + 1):
            with _quiet():
                _tick(kept, number, chance)
            (run,) = kept.world.instance.get_runs(limit=1)
            log.add(count_over_the_event_log(kept.world.instance, [run]))
            if number % 50 == 0:
                age_every_run(kept.world.instance)
                store_runs_that_came_to_nothing(kept.world.instance, KEPT_ENDED_RUNS)
                print(f"tick {number}: housekeeping removed {kept.housekeep()} runs", flush=True)
            if number % 10 == 0:
                shown = write_text(families(running.read(loaded), "1"))
                assert_counted(lines_of(shown), log)
                assert_counted(kept.shown(), log)  # of an exporter that starts now
    print(
        f"{ticks} ticks: {dict(log.runs)}, errors {dict(log.sources)}, {len(log.times)} times to "
        f"parity. Counters and histogram of {MIRROR} were right at every look, of an exporter that "
        "ran throughout and of one that was just started."
    )


def _tick(kept: Kept, number: int, chance: random.Random) -> None:
    """Let something happen in the world, and run the mirror."""
    world, fake = kept.world, kept.world.fake
    names, content = sorted(fake.names()), world.content
    missing = sorted({*world.listed} - {*names}) if content else []
    if missing and chance.random() < 1 / 2:
        # Or every later plan would be held.
        for name in missing:
            fake.create(name)
        names = sorted(fake.names())
    happens = chance.choice(["new", "new", "gone", "gone", "mass", "ecr", "down", "foreign", "-"])
    if happens == "new" or len(names) < 2:
        world.have(f"team/new-{number}", f"team/more-{number}")
    # Four are more than the guard lets pass.
    for name in names[: {"gone": 1, "mass": 4}.get(happens, 0)]:
        fake.delete(name)
    if happens == "ecr":
        fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    if happens == "down":
        kept.backstage.fail(BackstageFault.SERVER_ERROR)
    spoiled = happens == "foreign" and content
    if spoiled:
        world.target.overwrite(b"kind: Component\n")
    kept.tick()
    if spoiled and content:
        world.target.overwrite(content)
    fake.clear()
    kept.backstage.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    with Path(os.devnull).open("w") as nobody, redirect_stderr(nobody):
        yield


if __name__ == "__main__":
    main()
