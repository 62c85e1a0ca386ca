"""How long a change takes to be visible in a real Backstage, by a clock and a poller of its own.

    .venv/bin/python -m benchmarks.time_to_parity                 # schedule, sensors, Backstage
    .venv/bin/python -m benchmarks.time_to_parity --schedule-only

Runs the whole demo, applies random changes over both sources at random moments, and asks Backstage
every quarter of a second whether it shows each of them. Fails when a limit is broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ecr_catalog_pipeline.core.parity import percentile
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR
from ecr_catalog_pipeline.demo.world import create_in_ecr, delete_in_ecr
from tests.e2e.running import RunningDemo, running_demo

POLL_SECONDS: Final = 0.25
GIVE_UP_SECONDS: Final = 400
KINDS: Final = ("create", "edit", "delete", "edit")
# They stay as they are, so that no burst of deletions is a reason for the removal guard.
BACKGROUND: Final = [f"background/r{n:03}" for n in range(80)]

Lines = Mapping[str, Mapping[str, Any]]


@dataclass
class Applied:
    """A change that was made, and how to tell from the served lines that it is visible."""

    kind: str
    name: str
    at: float
    is_visible: Callable[[Lines], bool]
    took: float | None = None


class Changes:
    """Random changes, each to a repository of its own, so that none supersedes another."""

    def __init__(self, count: int, seed: int) -> None:
        kinds = [KINDS[n % len(KINDS)] for n in range(count)]
        random.Random(seed).shuffle(kinds)
        self._left = [(kind, f"bench/{kind}-{n:03}") for n, kind in enumerate(kinds)]
        self._owners = dict.fromkeys(BACKGROUND, "team-zero")
        self._owners |= {name: "team-one" for _, name in self._left}

    def governance(self) -> str:
        """The governance file as it should be now."""
        lines = ['version: "1.0"', "repositories:"]
        for name, owner in self._owners.items():
            lines += [f"  {name}:", f"    metadata: {{owner: {owner}, risk: low, status: active}}"]
        return "\n".join(lines) + "\n"

    def first_ecr(self) -> list[dict[str, Any]]:
        """What ECR holds before the first change."""
        present = [name for kind, name in self._left if kind != "create"]
        return [{"repositoryName": name} for name in [*BACKGROUND, *present]]

    def apply_next(self, demo: RunningDemo) -> Applied | None:
        """Make one change; None when all were made."""
        if not self._left:
            return None
        kind, name = self._left.pop()
        at = time.monotonic()
        if kind == "create":
            create_in_ecr(demo.world, name)
            return Applied(kind, name, at, lambda lines: name in lines)
        if kind == "delete":
            delete_in_ecr(demo.world, name)
            return Applied(kind, name, at, lambda lines: name not in lines)
        self._owners[name] = "team-two"
        demo.govern(self.governance(), f"Hand over {name}")
        return Applied(kind, name, at, lambda lines: _owner(lines, name) == "team-two")


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--changes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedule-only", action="store_true", help="stop the change sensor first")
    arguments = parser.parse_args()
    applied = measure(arguments.changes, arguments.seed, schedule_only=arguments.schedule_only)
    print("| | changes | p50 | p95 | p99 | max |")
    print("|---|---|---|---|---|---|")
    mode = "schedule alone" if arguments.schedule_only else "sensors on"
    print(_row(mode, [each.took for each in applied if each.took is not None]))
    for kind in sorted(set(KINDS)):
        took = [each.took for each in applied if each.kind == kind and each.took is not None]
        print(_row(f"of these: {kind}", took))
    all_took = [each.took for each in applied if each.took is not None]
    p95_limit, limit = (180, 180) if arguments.schedule_only else (30, 60)
    p95 = percentile(all_took, 95)
    if p95 is None or p95 > p95_limit or max(all_took) > limit:
        sys.exit(f"over the limit: p95 {p95_limit} s, max {limit} s")


def measure(count: int, seed: int, *, schedule_only: bool) -> list[Applied]:
    """Run the demo, make the changes, and time each."""
    changes = Changes(count, seed)
    choose = random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_demo(
            Path(folder), governance=changes.governance(), ecr=changes.first_ecr()
        ) as demo,
    ):
        if schedule_only:
            _stop_sensor(demo)
        applied: list[Applied] = []
        next_at = began = time.monotonic()
        while len(applied) < count or any(each.took is None for each in applied):
            if time.monotonic() >= next_at and (change := changes.apply_next(demo)):
                applied.append(change)
                next_at = time.monotonic() + choose.uniform(1, 7)
            _look(demo, applied)
            if time.monotonic() - began > GIVE_UP_SECONDS + count * 7:
                sys.exit("some changes never became visible")
            time.sleep(POLL_SECONDS)
        return applied


def _look(demo: RunningDemo, applied: list[Applied]) -> None:
    """Ask Backstage once, and note which changes it shows now."""
    entity = demo.served() or {}
    seen_at = time.monotonic()
    lines = {line["name"]: line for line in entity.get("spec", {}).get("repositories", [])}
    for each in applied:
        if each.took is None and lines and each.is_visible(lines):
            each.took = seen_at - each.at


def _owner(lines: Lines, name: str) -> Any:
    return lines.get(name, {}).get("owner")


def _stop_sensor(demo: RunningDemo) -> None:
    selector = (
        f'{{repositoryName: "__repository__", sensorName: "{CHANGE_SENSOR}", '
        'repositoryLocationName: "ecr_catalog_pipeline.definitions"}'
    )
    state = demo.graphql(
        f"{{ sensorOrError(sensorSelector: {selector}) {{ ... on Sensor {{ id }} }} }}"
    )
    stopped = demo.graphql(
        f'mutation {{ stopSensor(id: "{state["sensorOrError"]["id"]}") {{ __typename }} }}'
    )
    assert stopped["stopSensor"]["__typename"] == "StopSensorMutationResult", stopped


def _row(name: str, took: list[float]) -> str:
    figures = " | ".join(f"{percentile(took, percent):.1f} s" for percent in (50, 95, 99))
    return f"| {name} | {len(took)} | {figures} | {max(took):.1f} s |"


if __name__ == "__main__":
    main()
