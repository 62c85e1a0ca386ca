"""A run launcher for one machine: it forks the processes of our runs, which then import nothing.

It is for an instance whose daemon, code server and web server run on one machine, or in one
container. A run of another code location is launched as Dagster does by default.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

# Not exported: what a launcher of one's own is made of.
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
)
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData

from ecr_catalog_pipeline.adapters.process import is_gone
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.defs.jobs import MIRROR_TAG, process_of
from ecr_catalog_pipeline.defs.run_process import JOB_VARIABLE

_OURS: Final = "ecr_catalog_pipeline.definitions"
_SERVER: Final = "ecr_catalog_pipeline.defs.fork_server"
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_ANSWER_SECONDS: Final = 60


class ForkServer:
    """The process that runs are forked from; started at the first one, and again after its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its number, while it runs."""
        return self._process.pid if self._process else None

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Fork a process that executes a command of Dagster's.

        Raises:
            CatalogError: no process was forked.
        """
        line = json.dumps({"arguments": arguments, "environment": environment}).encode() + b"\n"
        with self._lock:
            forked = self._ask(line) or self._ask(line)
        if not forked:
            raise CatalogError(
                "the process that runs are forked from does not start",
                remediation=f"Its error is in the daemon's log. Try: {sys.executable} -m {_SERVER}",
            )

    def _ask(self, line: bytes) -> bool:
        """Whether it has forked; it is ended where it had ended by itself, or says nothing."""
        process = self._process
        if process is None:
            process = self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        with suppress(BrokenPipeError):
            process.stdin.write(line)
            process.stdin.flush()
            waiting = select.poll()
            waiting.register(process.stdout, select.POLLIN)
            if waiting.poll(_ANSWER_SECONDS * 1000):
                answer = process.stdout.readline()
        if not answer:
            self._end()
        return bool(answer)

    def end(self) -> None:
        """End it; the runs go on."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(BrokenPipeError), process:
            process.kill()


class ForkRunLauncher(DefaultRunLauncher):
    """Forks the runs of mirrors from a process that has imported what they need."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._server = ForkServer()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run in a process of its own."""
        origin = context.job_code_origin
        if origin is None or not (_is_ours(origin, context) and _is_here(context)):
            super().launch_run(context)
            return
        run = context.dagster_run
        command = ExecuteRunArgs(origin, run.run_id, self._instance.get_ref()).get_command_args()
        self._server.fork(command[command.index("api") :], {JOB_VARIABLE: run.job_name})

    def terminate(self, run_id: str) -> bool:
        """Interrupt the process of a run; False where it has ended."""
        run = self._instance.get_run_by_id(run_id)
        process = process_of(run) if run else None
        if run is None or process is None or run.is_finished or GRPC_INFO_TAG in run.tags:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call] # theirs
        self._instance.report_run_canceling(run)
        if is_gone(process):
            return False
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        return True

    def dispose(self) -> None:
        """End the process that runs are forked from; the runs go on."""
        self._server.end()
        super().dispose()


def _is_ours(origin: JobPythonOrigin, context: LaunchRunContext) -> bool:
    """Whether this is the run of a mirror, and its code is what the server imports."""
    repository = origin.repository_origin
    pointer = repository.code_pointer
    return (
        MIRROR_TAG in context.dagster_run.tags
        and isinstance(pointer, ModuleCodePointer)
        and pointer.module == _OURS
        and Path(repository.executable_path).parent == Path(sys.executable).parent
    )


def _is_here(context: LaunchRunContext) -> bool:
    """Whether the code server of a run is on this machine; it need not answer just now."""
    remote = context.dagster_run.remote_job_origin
    if context.workspace is None or remote is None:
        return False
    location = context.workspace.get_location_entry(remote.location_name)
    origin = location.origin if location else None
    if isinstance(origin, GrpcServerCodeLocationOrigin):
        return origin.socket is not None or origin.host in _HERE
    return isinstance(origin, ManagedGrpcPythonEnvCodeLocationOrigin)
