"""Many mirrors under the real daemon, while one is denied, one throttled and one hangs.

    .venv/bin/python -m benchmarks.many                              # 10 mirrors, 5 minutes
    .venv/bin/python -m benchmarks.many --mirrors 50 --minutes 30
    .venv/bin/python -m benchmarks.many --web                        # with the web server

Each mirror has a git repository, an AWS and a Backstage of its own, and is looked at, run and
watched as in production; the fakes speak the protocols and live in the benchmark's process, whose
time is not counted. The code server is a process of its own: a daemon that starts one itself starts
another one every minute. Repositories come and go at random in mirrors that are well, and a poller
waits until Backstage shows that. Counted from when every mirror that is well had its first run.
Fails when one of these mirrors is without a good run for more than 180 s or has a run that fails,
and when a change takes longer than 180 s.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psutil

from ecr_catalog_pipeline.core.parity import percentile
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, PARITY_WATCH
from ecr_catalog_pipeline.settings import sync_job_name
from tests.e2e.running import NOT_INHERITED, ROOT, free_port
from tests.fakes.aws import FakeAws, Fault
from tests.fakes.backstage import FakeBackstage
from tests.integration.worlds import FileTarget, World

LIMIT_SECONDS: Final = 180
WARM_UP_SECONDS: Final = 400
POLL_SECONDS: Final = 0.25
TELL_SECONDS: Final = 60
RUNS: Final = "runs and git"
EXTRA: Final = "team/comes-and-goes"
FAULTS: Final[Mapping[str, Fault]] = {
    "denied": Fault.ACCESS_DENIED,
    "throttled": Fault.THROTTLING,
    "hanging": Fault.HANG,
}


@dataclass(eq=False)
class Site:
    """One mirror and what it reads and writes.

    Attributes:
        since: when its extra repository last came or went, until Backstage shows that.
    """

    world: World
    backstage: FakeBackstage
    has_extra: bool = False
    since: float | None = None

    @property
    def name(self) -> str:
        return self.world.name

    def change(self) -> None:
        """Let the extra repository come or go."""
        (self.world.fake.delete if self.has_extra else self.world.fake.create)(EXTRA)
        self.has_extra, self.since = not self.has_extra, time.monotonic()

    def shows_it(self) -> bool:
        """Whether Backstage serves what ECR holds now."""
        for entity in list(self.backstage.served.values()):
            listed = {line["name"] for line in entity["spec"]["repositories"]}
            return (EXTRA in listed) == self.has_extra
        return False


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it.

    Attributes:
        cores: by process, used on average.
        took: seconds until Backstage showed each change.
        gaps: the longest time without a good run, by mirror.
        failed: runs that failed, by mirror.
    """

    seconds: float
    cores: Mapping[str, float]
    took: Sequence[float]
    unseen: int
    gaps: Mapping[str, float]
    failed: Mapping[str, int]
    runs: int
    ticks: int
    stopped_after: float


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mirrors", type=int, default=10)
    parser.add_argument("--repositories", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--change-every", type=float, default=5, help="seconds, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--web", action="store_true", help="run the web server, too")
    parser.add_argument("--well", action="store_true", help="without the three faults")
    arguments = parser.parse_args()
    measured = measure(arguments)
    well = [name for name in measured.gaps if name not in FAULTS]
    red = [
        name for name in well if measured.gaps[name] > LIMIT_SECONDS or measured.failed.get(name, 0)
    ]
    print(
        f"{arguments.mirrors} mirrors, {arguments.repositories} repositories each, "
        f"{measured.seconds:.0f} s, {measured.runs} runs, {measured.ticks} sensor ticks:\n"
    )
    print("| cores used | |\n|---|---|")
    for name, cores in measured.cores.items():
        print(f"| {name} | {cores:.2f} |")
    print(f"| **together** | {sum(measured.cores.values()):.2f} |")
    print("\n| | |\n|---|---|")
    print(f"| in parity throughout | {len(well) - len(red)} of {arguments.mirrors} |")
    print(f"| longest time without a good run | {max(measured.gaps[n] for n in well):.0f} s |")
    took = list(measured.took)
    figures = ", ".join(f"p{p} {percentile(took, p) or 0:.1f} s" for p in (50, 95))
    print(
        f"| time to parity of {len(took)} changes | {figures}, max {max(took, default=0):.1f} s |"
    )
    print(f"| all processes ended after | {measured.stopped_after:.1f} s |")
    if red or measured.unseen or max(took, default=0) > LIMIT_SECONDS:
        sys.exit(f"over the limit: {', '.join(red) or 'changes'}; {measured.unseen} never seen")


def measure(arguments: argparse.Namespace) -> Measured:
    """Serve the mirrors for a while, and count."""
    with ExitStack() as stack:
        # The last runs may still write when the daemon has ended.
        temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        home = folder / "home"
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        # The daemon and the web server would make the databases at once.
        instance.event_log_storage.get_maximum_record_id()
        instance.all_instigator_state()
        names = [] if arguments.well else list(FAULTS)
        names += [f"m{number:02}" for number in range(arguments.mirrors - len(names))]
        sites = [stack.enter_context(_site(folder, instance, name, arguments)) for name in names]
        for site in sites:
            if site.name in FAULTS:
                site.world.fake.fail("DescribeRepositories", FAULTS[site.name])
        port = free_port()
        (home / "workspace.yaml").write_text(
            f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}}}}}]\n"
        )
        processes = [
            stack.enter_context(_process(name, port, home, folder))
            for name in ("code server", "daemon", *(["web server"] if arguments.web else []))
        ]
        well = [site for site in sites if site.name not in FAULTS]
        _warm_up(instance, well, processes)
        began, before = time.time(), _cpu(processes)
        took, unseen = _let_pass(well, arguments)
        seconds = time.time() - began
        after = _cpu(processes)
        cores = {name: (after[name] - before.get(name, 0)) / seconds for name in after}
        gaps, failed, runs = _runs(instance, names, began)
        ticks = _ticks(instance, began)
        stopping = time.monotonic()
        for process in reversed(processes):
            process.end()
        stopped_after = time.monotonic() - stopping
        for site in sites:
            site.world.fake.clear()
    return Measured(seconds, cores, took, unseen, gaps, failed, runs, ticks, stopped_after)


@contextmanager
def _site(
    folder: Path, instance: dg.DagsterInstance, name: str, arguments: argparse.Namespace
) -> Iterator[Site]:
    with FakeAws() as aws, FakeBackstage() as backstage:
        world = World(folder, FileTarget(folder / name), aws, instance, name)
        world.write_mirror(backstage={"url": backstage.url})
        backstage.source = lambda: world.content
        world.have(*(f"team/repository-{n:03}" for n in range(arguments.repositories)))
        world.govern(EXTRA)
        yield Site(world, backstage)


class _Process:
    """A process of Dagster's, and all that it starts."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._popen = popen

    def end(self) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(90)
            # Runs go on when the daemon ends.
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def check(self) -> None:
        assert self._popen.poll() is None, f"the {self.name} ended"

    def cpu(self) -> Iterator[tuple[str, float]]:
        """The CPU seconds of it, and of what it started: runs and git."""
        own = psutil.Process(self._popen.pid)
        for each in [own, *own.children(recursive=True)]:
            try:
                used = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            yield self.name if each == own else RUNS, used.user + used.system
            # Those that ended, and were waited for.
            yield RUNS, used.children_user + used.children_system


@contextmanager
def _process(name: str, port: int, home: Path, folder: Path) -> Iterator[_Process]:
    ours = ("--host", "127.0.0.1", "--port")
    module = ("-m", "ecr_catalog_pipeline.definitions")
    workspace = ("-w", str(home / "workspace.yaml"))
    program, *more = {
        "code server": ["dagster", "api", "grpc", *ours, str(port), *module],
        "daemon": ["dagster-daemon", "run", *workspace],
        "web server": ["dagster-webserver", *ours, str(free_port()), *workspace],
    }[name]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    environment = kept | {
        "DAGSTER_HOME": str(home),
        "ECR_CATALOG_MIRRORS": str(folder / "mirrors"),
        "ECR_CATALOG_CACHE": str(folder / "cache"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with (folder / f"{program}.log").open("wb") as log:
        popen = subprocess.Popen(
            [ROOT / ".venv/bin" / program, *more],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = _Process(name, popen)
    try:
        yield process
    finally:
        process.end()


def _cpu(processes: Sequence[_Process]) -> dict[str, float]:
    used: defaultdict[str, float] = defaultdict(float)
    for process in processes:
        for kind, seconds in process.cpu():
            used[kind] += seconds
    return dict(used)


def _warm_up(
    instance: dg.DagsterInstance, well: Sequence[Site], processes: Sequence[_Process]
) -> None:
    """Wait until every mirror that is well had a good run."""
    began = time.monotonic()
    succeeded = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS])
    wanted = {sync_job_name(site.name) for site in well}
    while not wanted <= {run.job_name for run in instance.get_runs(succeeded)}:
        for process in processes:
            process.check()
        if time.monotonic() - began > WARM_UP_SECONDS:
            sys.exit("some mirrors never had a good run")
        time.sleep(1)


def _let_pass(well: Sequence[Site], arguments: argparse.Namespace) -> tuple[list[float], int]:
    """Make changes for a while; give how long each took, and how many were never seen."""
    choose = random.Random(arguments.seed)
    took: list[float] = []
    end = time.monotonic() + arguments.minutes * 60
    next_at = tell_at = time.monotonic()
    while (now := time.monotonic()) < end or (
        now < end + LIMIT_SECONDS and any(site.since for site in well)
    ):
        for site in well:
            if site.since and site.shows_it():
                took.append(now - site.since)
                site.since = None
            site.backstage.asked.clear()
            site.world.fake._calls.clear()  # noqa: SLF001 - it notes every call, for tests
        settled = [site for site in well if not site.since]
        if next_at <= now < end and settled:
            choose.choice(settled).change()
            next_at = now + choose.uniform(0.5, 1.5) * arguments.change_every
        if tell_at <= now:
            so_far = f"{len(took)} changes seen, p95 {percentile(took, 95) or 0:.1f} s"
            print(f"{max(end - now, 0) / 60:.0f} min to go, {so_far}", file=sys.stderr, flush=True)
            tell_at = now + TELL_SECONDS
        time.sleep(POLL_SECONDS)
    return took, sum(site.since is not None for site in well)


def _runs(
    instance: dg.DagsterInstance, names: Sequence[str], began: float
) -> tuple[dict[str, float], dict[str, int], int]:
    """The longest time without a good run, the failed runs, and all runs since then."""
    gaps, failed, count = {}, {}, 0
    for name in names:
        records = instance.get_run_records(dg.RunsFilter(job_name=sync_job_name(name)))
        ended: list[Any] = [each for each in records if each.end_time]
        good = [e.end_time for e in ended if e.dagster_run.status is dg.DagsterRunStatus.SUCCESS]
        since = max((at for at in good if at <= began), default=began)
        moments = [since, *sorted(at for at in good if at > began), time.time()]
        gaps[name] = max(later - at for at, later in pairwise(moments))
        late = [each for each in ended if each.end_time > began]
        bad = [e for e in late if e.dagster_run.status is not dg.DagsterRunStatus.SUCCESS]
        failed[name] = len(bad)
        count += len(late)
    return gaps, failed, count


def _ticks(instance: dg.DagsterInstance, began: float) -> int:
    return sum(
        len(instance.get_ticks(state.instigator_origin_id, state.selector_id, after=began))
        for state in instance.all_instigator_state()
        if state.name in {CHANGE_SENSOR, PARITY_WATCH}
    )


if __name__ == "__main__":
    main()
