"""Which process runs something, and whether it is gone: by what /proc says, where there is one."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_DEAD: Final = frozenset("ZX")
"""A process that was killed stays until its parent asks for it; it runs nothing any more."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, distinguished from any other that gets its number.

    Attributes:
        host: its name, in a container the container's.
        life: of the host or container: another one after a restart; empty where nothing says so.
        started: when it started, in the host's own count; empty where nothing says so.
    """

    host: str
    life: str
    pid: int
    started: str


def this_process() -> ProcessIdentity:
    """Give the identity of this process."""
    pid = os.getpid()
    return ProcessIdentity(socket.gethostname(), _life(), pid, _started(pid) or "")


def is_gone(process: ProcessIdentity) -> bool:
    """Whether a process of this host has ended.

    False where that is not known: it is on another host, or /proc cannot be read just now, for
    instance because this process has too many open files.
    """
    if process.host != socket.gethostname():
        return False
    life = _life()
    if process.life != life:
        return bool(life)
    if not _PROC.joinpath("self/stat").exists():
        return not _takes_signals(process.pid)
    try:
        return _started(process.pid) != process.started
    except OSError:
        return False


def _life() -> str:
    try:
        boot = _PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{_PROC.joinpath('self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started; None when it is none, or dead.

    Raises:
        OSError: nothing can be said.
    """
    try:
        stat = _PROC.joinpath(str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold anything; field 3 is the state, field 22 the start.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in _DEAD else fields[19]


def _takes_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
