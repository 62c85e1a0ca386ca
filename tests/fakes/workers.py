"""Pods and tasks as processes: each with its own folder, and the environment its manifest gives.

A path that a manifest mounts is a folder of the worker's own: where its command or environment
names the path, they get that folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BIN: Final = Path(sys.executable).parent


@dataclass
class Worker:
    """One process in a session of its own."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """Kill the process and all that it started, as a node that dies does."""
        if self.exit_code is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


@dataclass
class Workers:
    """Every worker that was started.

    Attributes:
        own: paths that are a folder of its own for every worker, whatever its manifest says.
        ambient: what the machine gives every worker: credentials, and where services are.
    """

    folder: Path
    own: Sequence[str] = ()
    ambient: Mapping[str, str] = field(default_factory=dict)
    started: dict[str, Worker] = field(default_factory=dict)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        mounts: Sequence[str] = (),
        files: Mapping[str, str] = {},
    ) -> Worker:
        """Start a worker.

        Args:
            mounts: paths that are folders of its own.
            files: texts by path, mounted there.
        """
        folder = self.folder / name
        (folder / "tmp").mkdir(parents=True)
        places = {mount: folder / mount.strip("/") for mount in [*mounts, *self.own]}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            own = folder / path.strip("/")
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(text)
            places.setdefault(str(Path(path).parent), own.parent)

        def here(text: str) -> str:
            for mount in sorted(places, key=len, reverse=True):
                text = text.replace(mount, str(places[mount]))
            return text

        with self.lock, (folder / "log").open("wb") as log:
            assert not self.closed, "no worker is started any more"
            process = subprocess.Popen(
                [here(word) for word in command],
                cwd=folder,
                env={
                    "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
                    "LANG": "C.UTF-8",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "GIT_CONFIG_NOSYSTEM": "1",
                    **self.ambient,
                    **{key: here(value) for key, value in environment.items()},
                    "HOME": str(folder),
                    "TMPDIR": str(folder / "tmp"),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            worker = self.started[name] = Worker(name, folder, process)
        return worker

    def running(self) -> list[Worker]:
        with self.lock:
            return [each for each in self.started.values() if each.exit_code is None]

    def close(self) -> None:
        """Kill all of them, and start no more."""
        with self.lock:
            self.closed = True
        for each in self.running():
            each.kill()
