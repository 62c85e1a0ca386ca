"""Runs in processes of their own, which can be stopped, raced and killed at any moment.

All are forked from one server that has imported everything, so that one starts in no time. What a
process does is what a run does: the mirroring's own steps over the adapters of the settings.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.mirroring import PlannedRegistry
from ecr_catalog_pipeline.settings import load_mirrors
from ecr_catalog_pipeline.wiring import adapters_of

SECONDS: Final = 60
"""How long an answer of a process is waited for."""

_FORKED: Final = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    [
        # An import that fails here is silently left to each process: these are installed.
        "ecr_catalog_pipeline.mirroring",
        "ecr_catalog_pipeline.wiring",
        "ecr_catalog_pipeline.defs.s3",
    ]
)


@dataclass(frozen=True)
class Came:
    """What a step of a run came to; `error` is the class of what failed it."""

    outcome: str | None = None
    error: str | None = None
    words: str = ""
    content: bytes = b""
    plan_hash: str = ""


@dataclass(frozen=True)
class _Order:
    step: str
    ahead: timedelta = timedelta()
    approve: str | None = None


class RunProcess:
    """One process that reads, plans and publishes when it is ordered to."""

    def __init__(self, mirrors: Path, name: str, cache: Path) -> None:
        self._pipe, theirs = _FORKED.Pipe()
        self._process: ForkServerProcess = _FORKED.Process(
            target=_serve, args=(theirs, mirrors, name, cache), daemon=True
        )
        self._process.start()
        theirs.close()

    def tell(
        self, step: str, *, ahead: timedelta = timedelta(), approve: str | None = None
    ) -> None:
        """Begin a step: `plan`, `publish`, or both in one, `run`.

        Args:
            ahead: how far its clock is ahead.
        """
        self._pipe.send(_Order(step, ahead, approve))

    def came(self) -> Came:
        """Wait for what the step came to."""
        assert self._pipe.poll(SECONDS), "the process does not answer"
        came = self._pipe.recv()
        assert isinstance(came, Came)
        return came

    def has_come(self) -> bool:
        """Whether the step is done."""
        return self._pipe.poll()

    def does(
        self, step: str, *, ahead: timedelta = timedelta(), approve: str | None = None
    ) -> Came:
        """Do a step, and wait for it."""
        self.tell(step, ahead=ahead, approve=approve)
        return self.came()

    def signal(self, number: signal.Signals) -> None:
        pid = self._process.pid
        assert pid is not None
        os.kill(pid, number)

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        self._process.kill()
        self._process.join(SECONDS)
        assert self._process.exitcode is not None
        self._process.close()
        self._pipe.close()


@contextmanager
def run_process(mirrors: Path, name: str, cache: Path) -> Iterator[RunProcess]:
    """A process, ended with the block."""
    process = RunProcess(mirrors, name, cache)
    try:
        yield process
    finally:
        process.kill()


def _serve(pipe: Connection, mirrors: Path, name: str, cache: Path) -> None:
    mirror = load_mirrors(mirrors).get(name)
    adapters = adapters_of(mirror, {"ECR_CATALOG_CACHE": str(cache)})
    planned: PlannedRegistry | None = None
    pipe.send(Came("ready"))
    while True:
        try:
            order: _Order = pipe.recv()
        except EOFError:
            return
        ahead = order.ahead
        try:
            if order.step != "publish":
                governance = mirroring.read_governance(mirror, adapters)
                inventory = mirroring.read_inventory(adapters.registry)
                planned = mirroring.plan_publication(
                    mirror,
                    adapters,
                    governance,
                    inventory,
                    mirroring.Past(),
                    clock=lambda: mirroring.now_utc() + ahead,  # noqa: B023 - called in this turn
                )
            assert planned is not None
            plan = planned.plan
            if order.step == "plan":
                pipe.send(Came("planned", content=plan.content, plan_hash=plan.plan_hash))
                continue
            publication = mirroring.publish(
                adapters.publisher,
                planned,
                mirror=name,
                run_id=str(os.getpid()),
                approve=order.approve,
                clock=lambda: mirroring.now_utc() + ahead,  # noqa: B023 - called in this turn
            )
            pipe.send(Came(publication.outcome.value, None, "", plan.content, plan.plan_hash))
        except CatalogError as error:
            pipe.send(Came(None, type(error).__name__, str(error)))
