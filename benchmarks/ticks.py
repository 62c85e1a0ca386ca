"""Whether memory, threads and open files grow over 500 ticks in one process.

    .venv/bin/python -m benchmarks.ticks               # 500 ticks
    .venv/bin/python -m benchmarks.ticks --ticks 100

A tick is a run of a mirror's job, a look of its change sensor and a look of its parity watch, all
with the same definitions, against a real git repository, an AWS and a Backstage that speak their
protocols, and a SQLite instance. Every tenth tick finds a change, every twenty-fifth a throttled
ECR, so that errors are part of it. The fakes live in the same process; what they note of each call
is taken off the curve by emptying it. Fails when, after the first fifth, memory grows by more than
10 MB, or threads or open files by more than two.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dagster as dg
import psutil

from benchmarks.disk import a_real_instance
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, PARITY_WATCH
from tests.fakes.aws import Fault
from tests.fakes.backstage import FakeBackstage
from tests.integration.worlds import World

MAX_MEMORY_MB: Final = 10
MAX_MORE: Final = 2
CHANGE_EVERY: Final = 10
FAULT_EVERY: Final = 25


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the process holds."""

    tick: int
    memory_mb: float
    threads: int
    files: int


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ticks", type=int, default=500)
    arguments = parser.parse_args()
    curve = measure(arguments.ticks)
    print("| tick | memory | threads | open files |")
    print("|---|---|---|---|")
    for each in curve:
        print(f"| {each.tick} | {each.memory_mb:.1f} MB | {each.threads} | {each.files} |")
    warm = [each for each in curve if each.tick >= arguments.ticks / 5]
    grown = warm[-1].memory_mb - warm[0].memory_mb
    ticks = warm[-1].tick - warm[0].tick
    print(
        f"\nAfter warm-up: {grown:+.1f} MB in {ticks} ticks, {grown / ticks * 1e3:+.0f} kB a tick."
    )
    if grown > MAX_MEMORY_MB:
        sys.exit(f"memory grows: more than {MAX_MEMORY_MB} MB")
    if warm[-1].threads > warm[0].threads + MAX_MORE or warm[-1].files > warm[0].files + MAX_MORE:
        sys.exit("threads or open files grow")


def measure(count: int) -> list[Footprint]:
    """Let so many ticks pass; give the footprint at every tenth of them."""
    with a_real_instance() as (_, world), FakeBackstage() as backstage:
        world.write_mirror(backstage={"url": backstage.url})
        backstage.source = lambda: world.content
        world.have(*(f"team/repository-{n:03}" for n in range(20)))
        ticker = Ticker(world)
        curve = []
        for number in range(1, count + 1):
            ticker.tick(number)
            backstage.asked.clear()
            world.fake._calls.clear()  # noqa: SLF001 - it notes every call, for tests
            if number % max(1, count // 10) == 0:
                curve.append(_footprint(number))
        return curve


class Ticker:
    """Lets a mirror tick, with the same definitions throughout."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._definitions = world.definitions
        self._cursors: dict[str, str | None] = {}

    def tick(self, number: int) -> None:
        """Pass one tick: what happens in the world, then whoever looks at it."""
        world = self._world
        if number % CHANGE_EVERY == 0:
            world.fake.create("team/comes-and-goes")
        elif number % CHANGE_EVERY == CHANGE_EVERY // 2 and number > CHANGE_EVERY:
            world.fake.delete("team/comes-and-goes")
        if number % FAULT_EVERY == 0:
            world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED, times=1)
        # What a run tells the console goes to its compute logs, and to nobody here.
        with Path(os.devnull).open("w") as nobody, redirect_stderr(nobody):
            job = self._definitions.resolve_job_def("bench_sync")
            job.execute_in_process(instance=world.instance, raise_on_error=False)
            for name in (CHANGE_SENSOR, PARITY_WATCH):
                self._look(name)
        world.fake.clear()

    def _look(self, name: str) -> None:
        sensor = self._definitions.resolve_sensor_def(name)
        known = self._definitions.resources or {}
        with dg.build_sensor_context(
            instance=self._world.instance,
            cursor=self._cursors.get(name),
            definitions=self._definitions,
            resources={key: known[key] for key in sensor.required_resource_keys},
        ) as context:
            seen = sensor.evaluate_tick(context)
        for event in seen.asset_events:
            if isinstance(event, dg.AssetObservation):
                self._world.instance.report_runless_asset_event(event)
        self._cursors[name] = seen.cursor


def _footprint(tick: int) -> Footprint:
    gc.collect()
    process = psutil.Process()
    memory = process.memory_info().rss / 1e6
    return Footprint(tick, memory, process.num_threads(), process.num_fds())


if __name__ == "__main__":
    main()
