"""How much disk Dagster's history takes after 2,000 runs with housekeeping, with SQLite.

    .venv/bin/python -m benchmarks.disk                # 2,000 runs, about half an hour
    .venv/bin/python -m benchmarks.disk --runs 300

Every run is a real one of a mirror's job, in this process, tagged as the schedule tags it; every
40th sees a change and is tagged as the change sensor tags it. The housekeeping job runs for real,
too, as often as its schedule has it run. Only the clock is simulated: when 30 runs (an hour of the
2-minute schedule) are done, all times in the storage are moved back by what the hour lacks. The
ticks of a day of sensors and of all schedules are written with one real cursor, since no daemon
runs here. Fails when the history takes more than 300 MB at any moment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr
from pathlib import Path
from typing import Final

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus

from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, PARITY_WATCH
from ecr_catalog_pipeline.housekeeping.job import HOUSEKEEPING
from tests.fakes.aws import FakeAws
from tests.integration.worlds import QUIET, FileTarget, World

ROOT: Final = Path(__file__).parents[1]
LIMIT_MB: Final = 300
RUNS_AN_HOUR: Final = 30
CHANGE_EVERY: Final = 40
KINDS: Final = {
    "run databases": "history/runs/*-*.db*",
    "index database": "history/runs/index.db*",
    "events without a run": "history/runs/.db*",
    "runs": "history/runs.db*",
    "compute logs": "storage/*-*-*-*-*/**/*",
    "values of the assets": "storage/[a-z]*/*.json",
    "ticks": "schedules/**/*",
}
"""What lies where in a DAGSTER_HOME."""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--repositories", type=int, default=20)
    parser.add_argument("--folder", help="where to make the DAGSTER_HOME; a RAM disk is quicker")
    arguments = parser.parse_args()
    with a_real_instance(arguments.folder) as (home, world):
        bench = Bench(home, world, arguments.repositories)
        plain = bench.one_plain_run()
        bench.write_ticks()
        bench.make_runs(arguments.runs)
        used = sizes(home)
    rows = [(kind, plain[kind], used[kind]) for kind in KINDS]
    print(f"{arguments.runs} runs, {arguments.repositories} repositories:")
    print("| | a run, before housekeeping | all, after housekeeping |")
    print("|---|---|---|")
    for kind, one, everything in rows:
        print(f"| {kind} | {one / 1e3:.0f} kB | {everything / 1e6:.1f} MB |")
    total = sum(used.values())
    print(f"| **total** | {sum(plain.values()) / 1e3:.0f} kB | {total / 1e6:.1f} MB |")
    peak = max(bench.peak, total)
    print(f"\nThe highest before a housekeeping: {bench.peak / 1e6:.1f} MB, limit {LIMIT_MB} MB.")
    print(f"Housekeeping took {max(bench.took):.1f} s at the most.")
    if peak > LIMIT_MB * 1e6:
        sys.exit(f"over the limit: {peak / 1e6:.1f} MB")


@contextmanager
def a_real_instance(where: str | None = None) -> Iterator[tuple[Path, World]]:
    """A DAGSTER_HOME with the shipped `dagster.yaml`, and a world that publishes to a file."""
    with (
        tempfile.TemporaryDirectory(dir=where) as home,
        tempfile.TemporaryDirectory() as world,
        FakeAws() as fake,
    ):
        shutil.copy(ROOT / "dagster.yaml", home)
        with dg.DagsterInstance.from_config(home) as instance:
            target = FileTarget(Path(world))
            yield Path(home), World(Path(world), target, fake, instance, "bench")


class Bench:
    """Makes runs, and lets time pass."""

    def __init__(self, home: Path, world: World, repositories: int) -> None:
        world.have(*(f"team/repository-{n:03}" for n in range(repositories)))
        self._home = home
        self._world = world
        self._done = 0
        self._hour_began = time.time()
        self.peak = 0
        self.took: list[float] = []

    def one_plain_run(self) -> dict[str, int]:
        """What a run adds, in bytes: the mean of ten, after a first one."""
        self._sync()
        before = sizes(self._home)
        for _ in range(10):
            self._sync()
        after = sizes(self._home)
        return {kind: (after[kind] - before[kind]) // 10 for kind in KINDS}

    def make_runs(self, count: int) -> None:
        """Make runs until there are so many, and keep house every hour."""
        while self._done < count:
            self._sync()
            if self._done % RUNS_AN_HOUR == 0:
                self._pass_an_hour()
                self._keep_house()
        self._keep_house()

    def write_ticks(self) -> None:
        """Write the ticks that are kept of two sensors and two schedules."""
        instance = self._world.instance
        cursor = '{"raised": {}, "served": "sha256:' + 64 * "0" + '"}'
        every = {CHANGE_SENSOR: 3_456, PARITY_WATCH: 8_640, "bench_every_2_minutes": 720}
        for name, count in every.items():
            for at in range(count):
                instance.create_tick(
                    TickData(
                        instigator_origin_id=name,
                        instigator_name=name,
                        instigator_type=InstigatorType.SENSOR,
                        status=TickStatus.SKIPPED,
                        timestamp=time.time() - at,
                        end_timestamp=time.time() - at,
                        selector_id=name,
                        skip_reason="no change: 20 repositories as before",
                        cursor=cursor,
                    )
                )

    def _sync(self) -> None:
        tags = {"dagster/schedule_name": "bench_every_2_minutes"}
        if self._done % CHANGE_EVERY == CHANGE_EVERY - 1:
            self._world.fake.create(f"team/new-{self._done}")
            tags = {"dagster/sensor_name": CHANGE_SENSOR}
        job = self._world.definitions.resolve_job_def("bench_sync")
        # What a run tells the console goes to its compute logs, and to nobody here.
        with Path(os.devnull).open("w") as nobody, redirect_stderr(nobody):
            job.execute_in_process(instance=self._world.instance, tags=tags)
        self._done += 1

    def _keep_house(self) -> None:
        self.peak = max(self.peak, sum(sizes(self._home).values()))
        began = time.monotonic()
        job = self._world.definitions.resolve_job_def(HOUSEKEEPING)
        job.execute_in_process(instance=self._world.instance, run_config=QUIET)
        self.took.append(time.monotonic() - began)

    def _pass_an_hour(self) -> None:
        lacking = 3_600 - (time.time() - self._hour_began)
        self._hour_began = time.time()
        age(self._home, lacking)


def age(home: Path, seconds: float) -> None:
    """Move all times in the storage of a DAGSTER_HOME back."""
    earlier = f"-{seconds:.0f} seconds"
    moved = {
        "runs.db": ["runs.create_timestamp", "runs.update_timestamp"],
        "runs/index.db": [
            "event_logs.timestamp",
            "asset_check_executions.evaluation_event_timestamp",
        ],
    }
    for name, columns in moved.items():
        with closing(sqlite3.connect(home / "history" / name)) as conn, conn:
            for table, column in (each.split(".") for each in columns):
                conn.execute(f"UPDATE {table} SET {column} = datetime({column}, ?)", [earlier])
            if name == "runs.db":
                conn.execute(
                    "UPDATE runs SET start_time = start_time - ?, end_time = end_time - ?",
                    [seconds, seconds],
                )


def sizes(home: Path) -> dict[str, int]:
    """Bytes on disk by kind."""
    return {
        kind: sum(path.stat().st_blocks * 512 for path in set(home.glob(pattern)) if path.is_file())
        for kind, pattern in KINDS.items()
    }


if __name__ == "__main__":
    main()
