"""How soon a real Backstage shows a large registry, and how long its API stalls meanwhile.

    .venv/bin/python -m benchmarks.large_entity            # 10,000 and 100,000 repositories
    .venv/bin/python -m benchmarks.large_entity 20000

Publishes to a file that Backstage reads, first as a whole and then with one repository more, by
`ecr-catalog sync` in a process of its own. One poller asks for the entity, another one for a Group,
every 20 ms; the longest answer to the latter is the stall. The default list limit is 10,000: past
it the entity lists nothing and points to the full list. Fails when a publication takes longer than
5 s to be visible, or the API stalls for longer than 1 s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dagster as dg

from tests.fakes.aws import FakeAws
from tests.integration.backstage import DEMO_CONFIG, Backstage, running_backstage, wait_for
from tests.integration.worlds import MIRROR, FileTarget, World

POLL_SECONDS: Final = 0.02
WATCHED_SECONDS: Final = 10
"""After an entity is visible: Backstage goes on working at it."""
VISIBLE_LIMIT: Final = 5
STALL_LIMIT: Final = 1
GIVE_UP_SECONDS: Final = 300
GROUP: Final = "group:default/platform-team"


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds from the publication to Backstage showing it, and the longest answer meanwhile."""

    visible: float
    stall: float


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("repositories", type=int, nargs="*", default=[10_000, 100_000])
    over = False
    print("| repositories | publication | entity | visible after | longest stall |")
    print("|---|---|---|---|---|")
    for count in parser.parse_args().repositories:
        for what, size, measured in publications(count):
            print(
                f"| {count:,} | {what} | {size / 1e3:,.0f} kB | {measured.visible:.2f} s "
                f"| {measured.stall:.2f} s |",
                flush=True,
            )
            over |= measured.visible > VISIBLE_LIMIT or measured.stall > STALL_LIMIT
    if over:
        sys.exit(f"over the limit: visible {VISIBLE_LIMIT} s, stall {STALL_LIMIT} s")


def publications(count: int) -> Iterator[tuple[str, int, Measured]]:
    """Publish twice; give what, how many bytes the entity has, and what was measured."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        target = FileTarget(folder)
        target.path.parent.mkdir()
        environment = {"ECR_CATALOG_ENTITY_FILE": str(target.path)}
        with (
            FakeAws() as aws,
            running_backstage(folder, [DEMO_CONFIG], environment=environment) as backstage,
            dg.DagsterInstance.ephemeral() as instance,
        ):
            world = World(folder, target, aws, instance, MIRROR)
            world.write_mirror(backstage={"url": backstage.url, "token_env": "BACKSTAGE_TOKEN"})
            wait_for(lambda: backstage.entity(GROUP), GIVE_UP_SECONDS, "the demo's Group")
            # One fewer: the second publication brings it.
            world.have(*(f"team/repository-{number:06}" for number in range(count - 1)))
            yield "first", *_published(world, backstage, target, count - 1)
            world.have("team/one-more")
            yield "one more", *_published(world, backstage, target, count)


def _published(
    world: World, backstage: Backstage, target: FileTarget, count: int
) -> tuple[int, Measured]:
    shown: list[float] = []

    def look() -> None:
        while not shown:
            entity = backstage.entity(f"resource:default/{MIRROR}-ecr-registry")
            annotations = entity["metadata"]["annotations"] if entity else {}
            if annotations.get("platform/repo-count") == str(count):
                shown.append(time.time())
            time.sleep(POLL_SECONDS)

    looking = threading.Thread(target=look, daemon=True)
    with _stalls(backstage) as answers:
        looking.start()
        environment = {**world.environ(world.folder / "user"), "BACKSTAGE_TOKEN": backstage.token}
        done = subprocess.run(
            [Path(sys.executable).with_name("ecr-catalog"), "sync", "-m", MIRROR],
            env=environment,
            cwd=world.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        wait_for(lambda: shown, GIVE_UP_SECONDS, "the publication to be visible")
        time.sleep(WATCHED_SECONDS)
    written = target.path.stat()
    # The rename was the last change of the file's state.
    return written.st_size, Measured(shown[0] - written.st_ctime, max(answers))


@contextmanager
def _stalls(backstage: Backstage) -> Iterator[list[float]]:
    """Ask for something small again and again; gives how long each answer took."""
    answers: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            began = time.monotonic()
            backstage.entity(GROUP)
            answers.append(time.monotonic() - began)
            time.sleep(POLL_SECONDS)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
