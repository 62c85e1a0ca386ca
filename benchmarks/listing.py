"""What a tick costs, beside a bare listing of the registry and beside the usual way.

    make bench                                                         # all sizes, minutes
    .venv/bin/python -m benchmarks.listing --sizes 10 1000 --delays 0  # a part of it

Whole processes, side by side in one run; each figure is the median of three. The bare listing is
one boto3 paginator with pages of 1,000; the usual way is pages of 100 and one ListTagsForResource
for each repository. Ours are a first `plan` (no cache, nothing published), an unchanged `plan`, an
unchanged `sync` with its history in a DAGSTER_HOME, and an unchanged look of the change sensor in a
process that already runs. AWS is a fake in a process of its own; git is real; the target is a file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Self

from benchmarks.listing_aws import name_of

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final = str(Path(sys.executable).with_name("ecr-catalog"))
MIRROR: Final = "bench"
CHANGES: Final = 2
"""The exit code of a `plan` with something to publish."""
TIMES: Final = 3
USUAL_LIMIT: Final = 10_000
"""With more repositories the usual way is left out: it takes longer than all else together."""
RISKS: Final = ("low", "medium", "high")
ENVIRONMENTS: Final = ("dev", "staging", "prod")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    printed: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One way at one size and delay."""

    way: str
    cost: Cost
    bare: Cost

    def __str__(self) -> str:
        """Give the row of the table."""
        cost, bare = self.cost, self.bare
        return (
            f"{self.way} | {cost.seconds:.2f} s | {cost.seconds / bare.seconds:.2f} | "
            f"{cost.cpu_seconds:.2f} s | {cost.cpu_seconds / bare.cpu_seconds:.2f} | "
            f"{cost.megabytes:.0f} MB |"
        )


def main() -> None:
    """Run the benchmark and print its table as it grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1_000, 10_000, 100_000])
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 20], help="ms per call")
    parser.add_argument("--times", type=int, default=TIMES, help="runs of which the median counts")
    arguments = parser.parse_args()
    print("| repositories | per call | | time | to bare | CPU | to bare | peak memory |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for size in arguments.sizes:
        for delay in arguments.delays:
            with tempfile.TemporaryDirectory() as folder, Bench(Path(folder), size, delay) as bench:
                for row in bench.rows(arguments.times):
                    print(f"| {size:,} | {delay:g} ms | {row}", flush=True)


class Bench:
    """A mirror of so many repositories, and an AWS that takes so many milliseconds per call."""

    def __init__(self, folder: Path, size: int, delay: float) -> None:
        self._folder = folder
        self._size = size
        self._delay = delay
        self._aws = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.listing_aws", str(size), str(delay)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._aws.stdout
        self._endpoint = self._aws.stdout.readline().strip()
        _write_governance(folder / "governance", size)
        _write_mirror(folder / "mirrors", self._endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._aws.communicate("")

    def rows(self, times: int) -> Iterator[Row]:
        """Measure each way; the first row is the bare listing itself."""
        bare = self._listing("bare", times)
        yield Row("bare listing", bare, bare)
        if self._size <= USUAL_LIMIT:
            yield Row("the usual way", self._listing("usual", 1), bare)
        yield Row("first `plan`", typical([self._first_plan() for _ in range(times)]), bare)
        self._ours("sync")
        unchanged = typical([self._ours("plan") for _ in range(times)])
        yield Row("unchanged `plan`", unchanged, bare)
        home = self._folder / "dagster"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        self._ours("sync", DAGSTER_HOME=str(home))
        sync = typical([self._ours("sync", DAGSTER_HOME=str(home)) for _ in range(times)])
        yield Row("unchanged `sync`", sync, bare)
        yield Row("a look of the change sensor", self._look(times), bare)

    def _listing(self, way: str, times: int) -> Cost:
        module = [sys.executable, "-m", "benchmarks.plain_listings"]
        costs = [self._run([*module, way, self._endpoint]) for _ in range(times)]
        assert all(int(cost.printed) == self._size for cost in costs)
        return typical(costs)

    def _first_plan(self) -> Cost:
        shutil.rmtree(self._folder / "cache", ignore_errors=True)
        return self._ours("plan", expected=CHANGES)

    def _ours(self, command: str, *, expected: int = 0, **environment: str) -> Cost:
        return self._run([COMMAND, command, "-m", MIRROR], expected=expected, **environment)

    def _look(self, times: int) -> Cost:
        """Take looks in one process that has looked before, as the code server has."""
        module = [sys.executable, "-m", "benchmarks.listing_look", MIRROR, str(times)]
        process = self._run(module)
        seconds, cpu_seconds = json.loads(process.printed)
        return Cost(seconds, cpu_seconds, process.megabytes)

    def _run(self, arguments: list[str], *, expected: int = 0, **environment: str) -> Cost:
        """Run a process to its end and say what it took."""
        ours = {
            "ECR_CATALOG_MIRRORS": str(self._folder / "mirrors"),
            "ECR_CATALOG_CACHE": str(self._folder / "cache"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPYCACHEPREFIX": str(self._folder / "compiled"),
            **environment,
        }
        began = time.perf_counter()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                arguments, cwd=ROOT, env={**_inherited(), **ours}, stdout=output
            )
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != expected:
                sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
            output.seek(0)
            printed = output.read().decode()
        return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1_000, printed)


def typical(costs: list[Cost]) -> Cost:
    """Take the median of each figure."""
    return Cost(
        median(each.seconds for each in costs),
        median(each.cpu_seconds for each in costs),
        median(each.megabytes for each in costs),
    )


def _inherited() -> Mapping[str, str]:
    """The environment, with compiled modules as an installation has them."""
    left_out = {"DAGSTER_HOME", "PYTHONDONTWRITEBYTECODE"}
    return {key: value for key, value in os.environ.items() if key not in left_out}


def _write_governance(folder: Path, size: int) -> None:
    """Govern nearly all of ECR, and a few that are not there: some ghosts, orphans and requests."""
    entries = []
    for number in range(size + size // 50):
        if number % 100 == 99 and number < size:
            continue
        status = "pending" if number >= size and number % 2 else "active"
        metadata = {
            "id": f"REGISTRY_{number:06}",
            "owner": f"team-{number % 97:02}",
            "risk": RISKS[number % 3],
            "environment": ENVIRONMENTS[number % 3],
            "status": status,
        }
        written = ", ".join(f"{key}: {value}" for key, value in metadata.items())
        entries.append(f"  {name_of(number)}:\n    metadata: {{{written}}}\n")
    folder.mkdir()
    content = "".join(['version: "1.0"\nrepositories:\n', *entries])
    (folder / "ecr-catalog.yaml").write_text(content)
    identity = ("-c", "user.name=Bench", "-c", "user.email=bench@example.com")
    for arguments in (
        ("init", "--quiet", "-b", "main"),
        ("add", "--all"),
        (*identity, "commit", "--quiet", "-m", "Govern"),
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def _write_mirror(folder: Path, endpoint_url: str) -> None:
    mirror = {
        "governance": {"repository": "../governance"},
        "registry": {
            "region": "eu-west-2",
            "account_id": "123456789012",
            "endpoint_url": endpoint_url,
        },
        "publish": {"kind": "file", "path": "../published/ecr-registry.yaml"},
    }
    folder.mkdir()
    (folder / f"{MIRROR}.yaml").write_text(json.dumps(mirror))


if __name__ == "__main__":
    main()
