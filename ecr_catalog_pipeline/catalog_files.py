"""The files of a catalog folder: finding, reading and replacing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.adapters.files import replace_file, sync_folder
from ecr_catalog_pipeline.core.sprawl import CATALOG_SUFFIXES, CatalogUnavailable

MAX_BYTES: Final = 20_000_000
"""A larger file is no catalog file."""

_SKIPPED_FOLDERS: Final = frozenset({".git", "node_modules", ".venv"})


def catalog_files(path: Path, unreadable: Callable[[OSError], object]) -> Iterator[Path]:
    """Give a file as it is named; of a folder every catalog file and every link to a folder below.

    Args:
        unreadable: told of each folder that cannot be read.
    """
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path, onerror=unreadable):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        yield from (
            Path(folder, name)
            for name in folders
            if os.path.islink(f"{folder}/{name}")  # noqa: PTH114 - the other raises on long paths
        )
        yield from (
            Path(folder, name)
            for name in sorted(files)
            if Path(name).suffix.lower() in CATALOG_SUFFIXES
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
        raise CatalogUnavailable(
            f"there is no {path}", remediation="Name a catalog folder or file."
        )
    root = path if path.is_dir() else path.parent
    contents: dict[str, bytes] = {}
    skipped: dict[str, str] = {}
    try:
        for file in catalog_files(path, _refuse):
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
            remediation="Nothing was changed. Make every file of the catalog readable.",
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
                f"{path} has changed since it was read; nothing was written",
                remediation="Run it again.",
            )
    changed = [(name, content) for name, content in edits.items() if content is not None]
    deleted = [name for name, content in edits.items() if content is None]
    try:
        for name, content in changed:
            replace_file(folder.root / name, content)
        for name in deleted:
            (folder.root / name).unlink()
            sync_folder((folder.root / name).parent)
    except OSError as error:
        raise CatalogUnavailable(
            f"{error.filename} cannot be written: {error.strerror}; what came before it is done",
            remediation="Fix that and run it again: it continues where it stopped.",
        ) from None


def _refuse(error: OSError) -> None:
    raise error
