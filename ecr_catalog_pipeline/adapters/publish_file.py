"""Publishes as a local file: under a lock, written beside, synced, renamed."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from ecr_catalog_pipeline.adapters.files import clear_beside, replace_file
from ecr_catalog_pipeline.adapters.publisher import Provenance, Published
from ecr_catalog_pipeline.core.errors import (
    CatalogError,
    LostRace,
    TargetRefused,
    TargetUnavailable,
)

LOCK_SECONDS: Final = 10


class FilePublisher:
    """A local file; a version is the SHA-256 of its bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def where(self) -> str:
        """The target in words."""
        return str(self._path)

    def read(self) -> Published:
        """Read the file; a missing one holds nothing."""
        if self._path.is_symlink():
            raise TargetRefused(
                f"{self._path} is a symbolic link; it is not overwritten",
                remediation="Name the file that it points to in publish.path.",
            )
        try:
            # Reading a pipe without a writer would wait forever.
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as stream:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise self._no_file()
                content = stream.read()
        except FileNotFoundError:
            return Published(None, None)
        except IsADirectoryError:
            raise self._no_file() from None
        except OSError as error:
            raise self._unavailable("read", error) from None
        return Published(content, _version(content))

    def publish(self, new: bytes, expected: str | None, provenance: Provenance) -> str:
        """Replace the file whole, or not at all."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(self._path.with_name(f".{self._path.name}.lock")), LOCK_SECONDS):
                clear_beside(self._path)
                self._compare(expected)
                replace_file(self._path, new, last_look=lambda: self._look(expected, provenance))
        except Timeout:
            raise TargetUnavailable(
                f"another process has held the lock of {self._path} for {LOCK_SECONDS} s",
                remediation="The next run tries again.",
            ) from None
        except OSError as error:
            self._check_taken(new, self._unavailable("written", error))
        return _version(new)

    def _check_taken(self, new: bytes, failure: TargetUnavailable) -> None:
        """Raise `failure`, unless the file was replaced before something failed."""
        try:
            now = self.read()
        except CatalogError as unread:
            raise TargetUnavailable(
                f"{failure.problem}; it is unknown whether the file was published, since it "
                f"cannot be read back: {unread.problem}",
                remediation="The next run reads what is there, and plans again. Check the "
                "folder, its permissions and the disk.",
            ) from None
        if now.content != new:
            raise failure

    def _look(self, expected: str | None, provenance: Provenance) -> None:
        # Again, as late as can be: who edits the file by hand takes no lock.
        self._compare(expected)
        provenance.fence()

    def _compare(self, expected: str | None) -> None:
        if self.read().version != expected:
            raise LostRace(f"{self._path} was changed by someone else after it was read")

    def _no_file(self) -> TargetRefused:
        return TargetRefused(
            f"{self._path} is a folder, a pipe or a device; it is not overwritten",
            remediation="Point publish.path elsewhere, or remove what is there.",
        )

    def _unavailable(self, what: str, error: OSError) -> TargetUnavailable:
        return TargetUnavailable(
            f"{self._path} cannot be {what}: {error.strerror or error}",
            remediation="Check the folder, its permissions and the disk; what is published stays.",
        )


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
