"""Reads regular files only, and replaces files whole: written beside, synced, renamed."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

_NEW_FILE_MODE: Final = 0o644
_BESIDE: Final = "ecr-catalog-"


def read_regular_file(path: Path, limit: int) -> bytes:
    """Read a file, or what a symbolic link to a file names. Nothing else is ever waited for.

    Raises:
        OSError: it cannot be read, is not a regular file, or holds more than `limit` bytes.
    """
    # A device may act when it is opened; what takes its place meanwhile is looked at again.
    _refuse_irregular(path.stat(), path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        _refuse_irregular(os.fstat(handle), path)
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def _refuse_irregular(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def replace_file(
    path: Path,
    content: bytes,
    *,
    last_look: Callable[[], object] = lambda: None,
    beside: Path | None = None,
) -> None:
    """Put a file in its place whole and for good, or not at all. Its mode stays.

    Args:
        last_look: called right before; what it raises leaves everything as it was.
        beside: the file whose `clear_beside` removes what a process that is killed leaves; the file
            itself by default.

    Raises:
        OSError: it cannot be written.
    """
    mode = path.stat().st_mode & 0o7777 if path.exists() else _NEW_FILE_MODE
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_beside(beside or path))
    written = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        last_look()
        written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_beside(path: Path) -> None:
    """Remove what a process that was killed has left beside a file."""
    for left in path.parent.iterdir():
        if left.name.startswith(_beside(path)):
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder last: they do only once it is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path) -> str:
    return f".{path.name}.{_BESIDE}"
