"""The first fetch of a clone, by a process of its own that outlives the run which started it.

It may take longer than a run. It works beside the clone's place, in a folder that holds its
progress and, in the end, its exit status. A folder whose process is gone without a status is made
again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from ecr_catalog_pipeline.adapters.git_command import GitFailed, find_git, git_words

SECONDS_VARIABLE: Final = "ECR_CATALOG_CLONE_SECONDS"
DEFAULT_SECONDS: Final = 900
"""How long a first fetch may take."""

_STATUS: Final = "first-clone.status"
_PROGRESS: Final = "first-clone.progress"
_ALIVE: Final = "first-clone.alive"
# The shell holds the lock that says it is alive, as its input; git gets another input, so that
# nothing that git leaves behind holds the lock.
_SCRIPT: Final = '"$@" </dev/null 2>"$0.progress"; echo $? >"$0.status"'
_LOST: Final = -1
_KILLED: Final = 128 + signal.SIGKILL
_POLL_SECONDS: Final = 0.05
_RECEIVING: Final = re.compile(
    r"(?:Receiving|Unpacking) objects: +(\d+)%[^\r\n,]*(?:, ([\d.]+ \w+))?"
)


class FirstClone:
    """A first fetch into a folder of its own, which is under way or has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def under_way(cls, place: Path) -> Self | None:
        """Find the first fetch of the clone at `place`; what a lost one left is removed."""
        found = None
        for folder in place.parent.glob(f"{place.stem}.new*"):
            first = cls(folder)
            if found is None and (first.is_alive() or first.status() is not None):
                found = first
            else:
                first.remove()
        return found

    @classmethod
    def beside(cls, place: Path) -> Self:
        """Make the folder of the first fetch of the clone at `place`."""
        return cls(Path(tempfile.mkdtemp(prefix=f"{place.stem}.new-", dir=place.parent)))

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start git in the background; it is ended when its time is up."""
        seconds = clone_seconds()
        timeout = shutil.which("timeout")
        bounded = (timeout, "-s", "KILL", str(seconds)) if timeout else ()
        words = (*bounded, find_git(environment), *arguments)
        with (self.folder / _ALIVE).open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            self._process = subprocess.Popen(  # noqa: S603  # the shell reads our script alone
                ("/bin/sh", "-c", _SCRIPT, str(self.folder / "first-clone"), *words),
                cwd=self.folder.parent,
                env=environment,
                stdin=alive,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int | None:
        """Give git's exit status, or None when it is still at work after some seconds."""
        deadline = time.monotonic() + seconds
        while (status := self.status()) is None:
            if not self.is_alive():
                status = self.status()
                return _LOST if status is None else status
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._sleep(left)
        return status

    def status(self) -> int | None:
        """Git's exit status; None when it has not ended, or was lost."""
        try:
            return int((self.folder / _STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def is_alive(self) -> bool:
        """Whether its process is there."""
        try:
            with (self.folder / _ALIVE).open("r+") as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def progress(self) -> str:
        """How far it is, in words."""
        received = _RECEIVING.findall(self._said())
        if not received:
            return "nothing received yet"
        percent, size = received[-1]
        return f"{percent} %{f', {size} so far' if size else ''}"

    def failure(self, status: int) -> str:
        """Why it failed, in git's words."""
        if status == _LOST:
            return "the process of the first clone was lost; the next run starts it again"
        began, ended = ((self.folder / name).stat().st_mtime for name in (_ALIVE, _STATUS))
        if status == _KILLED and ended - began >= clone_seconds() - 1:
            return (
                f"the first clone was ended after {ended - began:.0f} s, at {self.progress()}; "
                f"{SECONDS_VARIABLE} gives it more time"
            )
        return git_words(self._said(), status)

    def move_to(self, place: Path) -> None:
        """Make it the clone."""
        for name in (_STATUS, _PROGRESS, _ALIVE):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        self.folder.rename(place)

    def remove(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sleep(self, left: float) -> None:
        if self._process is None:
            time.sleep(min(left, _POLL_SECONDS))
            return
        try:
            self._process.wait(left)
        except subprocess.TimeoutExpired:
            return

    def _said(self) -> str:
        try:
            said = (self.folder / _PROGRESS).read_bytes()
        except OSError:
            return ""
        return said[-20_000:].decode("utf-8", "replace")


def clone_seconds() -> int:
    """How long a first fetch may take.

    Raises:
        GitFailed: the environment says something else than a number of seconds.
    """
    said = os.environ.get(SECONDS_VARIABLE) or str(DEFAULT_SECONDS)
    if not said.isdecimal() or not 1 <= int(said) <= 10**6:
        raise GitFailed(
            f"{SECONDS_VARIABLE} is not a whole number of seconds",
            remediation="Correct it, or leave it out.",
        )
    return int(said)
