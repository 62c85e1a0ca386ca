"""Looks for ad-hoc ECR entities in a git repository, at the tip of a branch.

A file is inspected once: what each blob declares is remembered beside the clone, for as long as the
branch holds that blob.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ecr_catalog_pipeline.adapters.files import replace_file
from ecr_catalog_pipeline.adapters.git_clone import BranchMissing, GitClone
from ecr_catalog_pipeline.adapters.git_command import GitFailed
from ecr_catalog_pipeline.core.entity import TYPE
from ecr_catalog_pipeline.sprawl.ad_hoc import (
    CATALOG_SUFFIXES,
    AdHocEntity,
    CatalogUnavailable,
    find_ad_hoc_entities,
)

MAX_FILES: Final = 50_000
MAX_BYTES: Final = 2_000_000
"""A larger file is not inspected."""

INSPECT_SECONDS: Final = 15
"""How long one look may take to inspect what is new; the next one goes on."""

_BATCH: Final = 200
_MEMORY: Final = "sprawl.json"
_VERSION: Final = 2

Memory = dict[str, list[AdHocEntity] | None]
"""What each blob declares; None when it is too large or no text, so that it is not known."""


@dataclass(frozen=True, slots=True)
class Sprawl:
    """The ad-hoc ECR entities of a catalog repository.

    Attributes:
        found: each with the path of its file, sorted.
        files: how many files there are; `waiting` of them were not inspected yet.
        uninspected: files that never are: too large, or not UTF-8.
    """

    commit: str
    found: tuple[tuple[str, AdHocEntity], ...]
    files: int
    waiting: int
    uninspected: tuple[str, ...] = ()


class CatalogRepo:
    """The catalog files of one branch of a git repository, below some paths."""

    def __init__(self, repository: str, branch: str, paths: Sequence[str], cache: Path) -> None:
        self._clone = _BatchClone(repository, branch, cache)
        self._paths = tuple(paths)

    @property
    def where(self) -> str:
        """The catalog's place in words."""
        below = f"{', '.join(self._paths)} on " if self._paths else ""
        return f"{below}branch {self._clone.branch} of {self._clone.repository}"

    def sprawl(self, mirror_entities: Collection[str], seconds: float = INSPECT_SECONDS) -> Sprawl:
        """Look at the branch's tip.

        Args:
            mirror_entities: names of entities that mirrors generate; those are no sprawl.
            seconds: how long to inspect what is new.

        Raises:
            CatalogUnavailable: the repository, the branch or a path cannot be had.
        """
        deadline = time.monotonic() + seconds
        try:
            with self._clone.locked():
                commit = self._clone.fetch()
                files = self._files(commit)
                blobs = set(files.values())
                known = self._remembered(blobs)
                new = sorted(blobs - known.keys())
                if new:
                    self._clone.bring(commit, new)
                    known |= self._inspected(new, deadline)
                    self._remember(known)
        except BranchMissing:
            raise CatalogUnavailable(
                f"{self._clone.repository} has no branch {self._clone.branch}",
                remediation="Correct sprawl.branch, or create the branch.",
            ) from None
        except GitFailed as error:
            raise CatalogUnavailable(
                f"{self._clone.repository} cannot be read: {error}",
                remediation=error.remediation
                or "Check that sprawl.repository exists, that the network reaches it, "
                "and that git's credential helper or SSH agent may read it.",
            ) from None
        found = [
            (path, entity)
            for path, blob in files.items()
            for entity in known.get(blob) or ()
            if not (entity.type == TYPE and entity.name in mirror_entities)
        ]
        return Sprawl(
            commit=commit,
            found=tuple(sorted(found, key=lambda each: (each[0], each[1].line))),
            files=len(files),
            waiting=sum(blob not in known for blob in files.values()),
            uninspected=tuple(
                sorted(path for path, blob in files.items() if known.get(blob, ()) is None)
            ),
        )

    def _files(self, commit: str) -> dict[str, str]:
        """Give the blob of every catalog file below the paths; links and submodules are none."""
        listed = self._clone.run("ls-tree", "-r", "-z", "--full-tree", commit, "--", *self._paths)
        files: dict[str, str] = {}
        present: list[PurePosixPath] = []
        for line in filter(None, listed.split("\0")):
            place, path = line.split("\t", 1)
            mode, _, blob = place.split(" ")
            present.append(PurePosixPath(path))
            regular = mode in {"100644", "100755"}
            if regular and PurePosixPath(path).suffix.lower() in CATALOG_SUFFIXES:
                files[path] = blob
        for wanted in map(PurePosixPath, self._paths):
            if not any(path.is_relative_to(wanted) for path in present):
                raise CatalogUnavailable(
                    f"there is no {wanted} on branch {self._clone.branch} of "
                    f"{self._clone.repository} (commit {commit[:12]})",
                    remediation="Correct sprawl.paths.",
                )
        if len(files) > MAX_FILES:
            raise CatalogUnavailable(
                f"{self._clone.repository} holds {len(files):,} files that could be of a catalog, "
                f"more than {MAX_FILES:,}",
                remediation="Name the folders of the catalog in sprawl.paths.",
            )
        return files

    def _inspected(self, blobs: Sequence[str], deadline: float) -> Memory:
        found: Memory = {}
        pending = iter(blobs)
        while (batch := list(islice(pending, _BATCH))) and time.monotonic() < deadline:
            for blob, content in self._clone.contents(batch):
                if time.monotonic() >= deadline:
                    return found
                found[blob] = _entities(content)
        return found

    def _remembered(self, blobs: Collection[str]) -> Memory:
        """What was found before in blobs that are still there; empty when that is not known."""
        try:
            memory: Any = json.loads(self._clone.path(_MEMORY).read_text(encoding="utf-8"))
            if memory["version"] != _VERSION:
                return {}
            return {
                blob: None if entities is None else [AdHocEntity(*each) for each in entities]
                for blob, entities in memory["blobs"].items()
                if blob in blobs
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _remember(self, known: Memory) -> None:
        content = {
            "version": _VERSION,
            "blobs": {
                blob: None
                if entities is None
                else [[each.line, each.column, each.name, each.type] for each in entities]
                for blob, entities in known.items()
            },
        }
        replace_file(self._clone.path(_MEMORY), json.dumps(content).encode())


class _BatchClone(GitClone):
    """A clone that reads many blobs by one command."""

    def bring(self, commit: str, blobs: Collection[str]) -> None:
        """Fetch in one go what a filtered clone lacks; git would fetch blob after blob."""
        listed = self.run("rev-list", "--objects", "--missing=print", "--no-walk", commit)
        absent = {line[1:] for line in listed.split("\n") if line.startswith("?")}
        if wanted := sorted(absent & set(blobs)):
            self.run(
                *("-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", "--no-tags"),
                *("--no-auto-gc", "--no-write-fetch-head", "--recurse-submodules=no"),
                *("--filter=blob:none", "--stdin", "origin"),
                given="\n".join(wanted).encode(),
            )

    def contents(self, blobs: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Give the bytes of blobs, in their order."""
        answer = self.output("cat-file", "--batch", given="\n".join([*blobs, ""]).encode())
        start = 0
        for blob in blobs:
            head_end = answer.index(b"\n", start)
            size = answer[start:head_end].rpartition(b" ")[2]
            if not size.isdigit():
                raise GitFailed(f"the blob {blob} is missing")
            start = head_end + 1 + int(size) + 1
            yield blob, answer[head_end + 1 : start - 1]


def _entities(content: bytes) -> list[AdHocEntity] | None:
    """Give what a file declares; None when it is too large or no text."""
    if len(content) > MAX_BYTES:
        return None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    # Whoever declares a Resource writes the word, or escapes it.
    if "Resource" not in text and "\\" not in text:
        return []
    return list(find_ad_hoc_entities(text, ()).found)
