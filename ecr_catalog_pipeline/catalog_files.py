"""The files of a catalog folder: finding, reading and replacing them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.core.sprawl import CATALOG_SUFFIXES, CatalogUnavailable

MAX_BYTES: Final = 20_000_000
"""A larger file is no catalog file."""

_SKIPPED_FOLDERS: Final = frozenset({".git", "node_modules", ".venv"})


def catalog_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Give files as they are named, and of folders every catalog file below, sorted."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
            yield from (
                Path(folder, file)
                for file in sorted(files)
                if Path(file).suffix.lower() in CATALOG_SUFFIXES
            )


@dataclass(frozen=True, slots=True)
class CatalogFolder:
    """What stands in a catalog folder, by path relative to it.

    Attributes:
        contents: the bytes of every file that was read.
        skipped: files and folders that were not, and why.
    """

    root: Path
    contents: Mapping[str, bytes]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def shown(self, path: str) -> str:
        """A path as the user would name it."""
        return str(self.root / path)


def read_catalog(path: Path) -> CatalogFolder:
    """Read a catalog folder, or one file. No symbolic link in it is followed.

    Raises:
        CatalogUnavailable: there is no such path, or a file of it cannot be read, so that what it
            refers to is unknown.
    """
    if not path.exists():
        raise CatalogUnavailable(f"there is no {path}", mend="Name a catalog folder or file.")
    root = path if path.is_dir() else path.parent
    contents: dict[str, bytes] = {}
    skipped: dict[str, str] = {}
    try:
        for file in _catalog_files_and_links(path):
            name = file.relative_to(root).as_posix()
            if file.is_symlink():
                skipped[name] = "a symbolic link; it is not followed"
            elif not file.is_file():
                skipped[name] = "no regular file"
            elif file.stat().st_size > MAX_BYTES:
                skipped[name] = f"larger than {MAX_BYTES:,} bytes"
            else:
                contents[name] = file.read_bytes()
    except OSError as error:
        raise CatalogUnavailable(
            f"{error.filename or path} cannot be read: {error.strerror}",
            mend="Nothing was changed. Make every file of the catalog readable.",
        ) from None
    return CatalogFolder(root, contents, skipped)


def replace_files(folder: CatalogFolder, edits: Mapping[str, bytes | None]) -> None:
    """Write files whole, one after the other, and delete those whose content is None.

    What changes comes before what is deleted, so that a Location never lists a file that is gone,
    even when this is interrupted.

    Raises:
        CatalogUnavailable: a file has changed since it was read, and nothing was written; or one
            cannot be written, and those before it were, whole.
    """
    for name in edits:
        path = folder.root / name
        if path.is_symlink() or not path.is_file() or path.read_bytes() != folder.contents[name]:
            raise CatalogUnavailable(
                f"{path} has changed since it was read; nothing was written", mend="Run it again."
            )
    changed = [(name, content) for name, content in edits.items() if content is not None]
    deleted = [name for name, content in edits.items() if content is None]
    try:
        for name, content in changed:
            _replace(folder.root / name, content)
        for name in deleted:
            (folder.root / name).unlink()
            _make_durable((folder.root / name).parent)
    except OSError as error:
        raise CatalogUnavailable(
            f"{error.filename} cannot be written: {error.strerror}; what came before it is done",
            mend="Mend that and run it again: it goes on where it ended.",
        ) from None


def _catalog_files_and_links(path: Path) -> Iterator[Path]:
    """Give catalog files, and the links to folders that a walk passes by."""

    def refuse(error: OSError) -> None:
        raise error

    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path, onerror=refuse):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in folders if Path(folder, name).is_symlink())
        yield from (
            Path(folder, name)
            for name in sorted(files)
            if Path(name).suffix.lower() in CATALOG_SUFFIXES
        )


def _replace(path: Path, content: bytes) -> None:
    mode = path.stat().st_mode & 0o7777
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _make_durable(path.parent)


def _make_durable(folder: Path) -> None:
    """A rename or a removal lasts only once its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
