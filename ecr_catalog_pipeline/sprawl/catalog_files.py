"""The files of a catalog folder: finding, reading and replacing them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.adapters.files import read_regular_file, replace_file, sync_folder
from ecr_catalog_pipeline.sprawl.ad_hoc import CATALOG_SUFFIXES, CatalogUnavailable

MAX_BYTES: Final = 20_000_000
"""A larger file is not inspected."""

_NOT_INSPECTED: Final = frozenset({errno.EFBIG, errno.EINVAL})
_SKIPPED_FOLDERS: Final = frozenset({".git", "node_modules", ".venv"})


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """A file that `guard` and `retire` inspect, or why they do not.

    Attributes:
        content: None when it is not inspected, `problem` says why.
        unreadable: it could not be read at all.
        link: it is a symbolic link to what is not inspected itself.
        folder: it is a folder.
    """

    path: Path
    content: bytes | None = None
    problem: str = ""
    unreadable: bool = False
    link: bool = False
    folder: bool = False


def catalog_files(path: Path) -> Iterator[CatalogFile]:
    """Read a file as it is named; of a folder every catalog file below it, one after the other.

    No symbolic link below a folder is followed. One that leads to what is inspected anyway
    is left out; every other one is given as not inspected.
    """
    if not path.is_dir():
        yield _read(path)
        return
    unreadable: list[OSError] = []
    top = os.path.realpath(path)
    for folder, folders, files in os.walk(path, onerror=unreadable.append):
        yield from _unreadable_folders(unreadable)
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for name in (*folders, *sorted(files)):
            is_folder = name in folders
            if not is_folder and Path(name).suffix.lower() not in CATALOG_SUFFIXES:
                continue
            file = Path(folder, name)
            # pathlib raises on paths that are too long.
            if os.path.islink(f"{folder}/{name}"):  # noqa: PTH114
                if not _stands_below(file, top):
                    words = "a symbolic link; it is not followed"
                    yield CatalogFile(file, problem=words, link=True, folder=is_folder)
            elif not is_folder:
                yield _read(file)
    yield from _unreadable_folders(unreadable)


def _read(path: Path) -> CatalogFile:
    try:
        return CatalogFile(path, read_regular_file(path, MAX_BYTES))
    except OSError as error:
        problem = error.strerror or type(error).__name__
        readable = error.errno in _NOT_INSPECTED
        return CatalogFile(path, problem=problem, unreadable=not readable)


def _unreadable_folders(errors: list[OSError]) -> Iterator[CatalogFile]:
    while errors:
        error = errors.pop(0)
        problem = error.strerror or type(error).__name__
        yield CatalogFile(Path(error.filename), problem=problem, unreadable=True, folder=True)


def _stands_below(link: Path, top: str) -> bool:
    """Whether a link leads to what a walk below `top` inspects in its own place."""
    place = os.path.realpath(link)
    if not place.startswith(f"{top}/".replace("//", "/")):
        return False
    parts = Path(place).relative_to(top).parts
    if not _SKIPPED_FOLDERS.isdisjoint(parts):
        return False
    is_catalog_file = Path(place).suffix.lower() in CATALOG_SUFFIXES
    return os.path.isdir(place) or (is_catalog_file and os.path.isfile(place))  # noqa: PTH112, PTH113


@dataclass(frozen=True, slots=True)
class CatalogFolder:
    """What a catalog folder holds, by path relative to it.

    Attributes:
        contents: the bytes of every file that was read.
        skipped: files that were not inspected, and why.
        links: symbolic links, and that they are not followed.
    """

    root: Path
    contents: Mapping[str, bytes]
    skipped: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

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
    if path.is_file() and path.is_symlink():
        path = path.resolve()
    root = path if path.is_dir() else path.parent
    contents: dict[str, bytes] = {}
    skipped: dict[str, str] = {}
    links: dict[str, str] = {}
    for file in catalog_files(path):
        if file.unreadable or (file.content is None and file.path == path):
            raise CatalogUnavailable(
                f"{file.path} cannot be read: {file.problem}",
                remediation="Nothing was changed. Make every file of the catalog readable.",
            )
        name = file.path.relative_to(root).as_posix()
        if file.link:
            links[name] = file.problem
        elif file.content is None:
            skipped[name] = file.problem
        else:
            contents[name] = file.content
    return CatalogFolder(root, contents, skipped, links)


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
