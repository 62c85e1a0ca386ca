"""Publishes as a local file: under a lock, written beside, synced, renamed."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from ecr_catalog_pipeline.adapters.files import clear_beside, replace_file
from ecr_catalog_pipeline.adapters.publisher import NO_LISTS, Lists, Provenance, Published
from ecr_catalog_pipeline.core.entity import list_name
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
        content = self._read(self._path)
        return Published(None, None) if content is None else Published(content, _version(content))

    def read_list(self, digest: str) -> bytes | None:
        """Read the list beside the file."""
        return self._read(self._list(digest))

    def _read(self, path: Path) -> bytes | None:
        if path.is_symlink():
            raise TargetRefused(
                f"{path} is a symbolic link; it is not overwritten",
                remediation="Name the file that it points to in publish.path.",
            )
        try:
            # Reading a pipe without a writer would wait forever.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as stream:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise self._no_file(path)
                return stream.read()
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise self._no_file(path) from None
        except OSError as error:
            raise self._unavailable("read", error) from None

    def _list(self, digest: str) -> Path:
        return self._path.with_name(list_name(self._path.name, digest))

    def publish(
        self, new: bytes, expected: str | None, provenance: Provenance, lists: Lists = NO_LISTS
    ) -> str:
        """Replace the file whole, or not at all."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(self._path.with_name(f".{self._path.name}.lock")), LOCK_SECONDS):
                clear_beside(self._path)
                self._compare(expected)
                if lists.new is not None:
                    self._write_list(lists.new_digest, lists.new, expected, provenance)
                replace_file(self._path, new, last_look=lambda: self._look(expected, provenance))
                if lists.left:
                    with suppress(OSError):
                        self._list(lists.left).unlink()
        except Timeout:
            raise TargetUnavailable(
                f"another process has held the lock of {self._path} for {LOCK_SECONDS} s",
                remediation="The next run tries again.",
            ) from None
        except OSError as error:
            self._check_taken(new, self._unavailable("written", error))
        return _version(new)

    def _write_list(
        self, digest: str, content: bytes, expected: str | None, provenance: Provenance
    ) -> None:
        path = self._list(digest)
        if self._read(path) == content:
            return
        look = partial(self._look, expected, provenance)
        replace_file(path, content, last_look=look, beside=self._path)

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

    def _no_file(self, path: Path) -> TargetRefused:
        return TargetRefused(
            f"{path} is a folder, a pipe or a device; it is not overwritten",
            remediation="Point publish.path elsewhere, or remove what is there.",
        )

    def _unavailable(self, what: str, error: OSError) -> TargetUnavailable:
        return TargetUnavailable(
            f"{self._path} cannot be {what}: {error.strerror or error}",
            remediation="Check the folder, its permissions and the disk; what is published stays.",
        )


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
