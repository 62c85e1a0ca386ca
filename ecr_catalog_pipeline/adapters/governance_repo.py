"""Reads the governance file from git, at a commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.adapters.git_clone import (
    BranchMissing,
    GitClone,
    ShallowSource,
    TreeEntry,
)
from ecr_catalog_pipeline.adapters.git_command import GitFailed
from ecr_catalog_pipeline.core.errors import GovernanceRefused, GovernanceUnavailable
from ecr_catalog_pipeline.core.governance import MAX_BYTES

MAX_HISTORY: Final = 20

_UNKNOWN: Final = datetime.fromtimestamp(0, UTC)
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class GovernanceFile:
    """The governance file at one commit.

    Attributes:
        commit: the branch's tip that was read.
        source_sha: the last first-parent commit that touched the file.
        committed_at: that commit's committer time, UTC; 1970 when it says none that can be.
    """

    content: bytes
    blob: str
    commit: str
    source_sha: str
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class GovernanceVersion:
    """The governance file as it once was, and when that was committed."""

    committed_at: datetime
    blob: str
    content: bytes


class GovernanceRepo:
    """One file on one branch of a git repository."""

    def __init__(self, repository: str, branch: str, path: str, cache: Path) -> None:
        self._clone = GitClone(repository, branch, cache)
        self._path = path
        self._looked: tuple[str, str] | None = None

    @property
    def where(self) -> str:
        """The file's place in words."""
        return f"{self._path} on branch {self._clone.branch} of {self._clone.repository}"

    def read(self) -> GovernanceFile:
        """Read the file at the branch's tip.

        Raises:
            GovernanceUnavailable: the repository, the branch or the file cannot be had.
            GovernanceRefused: what stands at the path is not a file that may be read.
        """
        clone = self._clone
        with self._as_unavailable(), clone.locked():
            tip = clone.fetch()
            entry = self._entry(tip)
            source_sha, committed = clone.run(
                "log", "-1", "--first-parent", "--format=%H %ct", tip, "--", self._path
            ).split(" ")
            return GovernanceFile(
                content=self._content(entry),
                blob=entry.sha,
                commit=tip,
                source_sha=source_sha,
                committed_at=_moment(committed),
            )

    def tip(self) -> str:
        """Ask the repository for the branch's tip, in one git process.

        Raises:
            GovernanceUnavailable: the repository or the branch cannot be had.
        """
        with self._as_unavailable():
            return self._clone.remote_tip()

    def blob_at(self, tip: str) -> str:
        """Give the file's blob at the branch's tip; at the tip of the last time without any look.

        Args:
            tip: what `tip` gave; where the branch has moved on since, its newer tip counts.

        Raises:
            GovernanceUnavailable: the repository, the branch or the file cannot be had.
            GovernanceRefused: what stands at the path is no file.
        """
        if self._looked is None or self._looked[0] != tip:
            with self._as_unavailable(), self._clone.locked():
                reached = self._clone.fetch_to(tip)
                self._looked = reached, self._entry(reached).sha
        return self._looked[1]

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        """Say of a failed git command what that means for the governance file."""
        clone = self._clone
        try:
            yield
        except ShallowSource:
            raise GovernanceUnavailable(
                f"{clone.repository} is a shallow clone, so the last change of {self._path} is "
                "not known",
                remediation="Point governance.repository at the full repository, or run "
                "`git fetch --unshallow` there.",
            ) from None
        except BranchMissing:
            raise GovernanceUnavailable(
                f"{clone.repository} has no branch {clone.branch}",
                remediation="Correct governance.branch, or create the branch.",
            ) from None
        except GitFailed as error:
            raise GovernanceUnavailable(
                f"{clone.repository} cannot be read: {error}",
                remediation=error.remediation
                or "Check that governance.repository exists, that the network reaches "
                "it, and that git's credential helper or SSH agent may read it.",
            ) from None

    def history(self, since: str, until: str) -> list[GovernanceVersion]:
        """Give the file at a commit and at each later one that touched it, oldest first.

        Of a long history the last MAX_HISTORY versions. Empty when `since` is not an ancestor of
        `until`, or the file is not there.

        Raises:
            GovernanceUnavailable: a version cannot be had.
        """
        clone = self._clone
        try:
            with clone.locked():
                if not clone.is_ancestor(since, until):
                    return []
                logged = clone.run(
                    *("log", "--first-parent", "--reverse", "--format=%H %ct"),
                    *(f"{since}..{until}", "--", self._path),
                )
                start = f"{since} {clone.run('log', '-1', '--format=%ct', since)}"
                commits = [line.split(" ") for line in [start, *logged.split("\n")] if line]
                return [
                    GovernanceVersion(_moment(committed), entry.sha, self._content(entry))
                    for sha, committed in commits[-MAX_HISTORY:]
                    if (entry := clone.entry(sha, self._path)) and entry.is_regular_file
                ]
        except GitFailed as error:
            raise GovernanceUnavailable(
                f"the history of {self._path} cannot be read: {error}",
                remediation="The next run tries again.",
            ) from None

    def _entry(self, tip: str) -> TreeEntry:
        entry = self._clone.entry(tip, self._path)
        if entry is None:
            raise GovernanceUnavailable(
                f"there is no {self.where} (commit {tip[:12]})",
                remediation="Correct governance.path, or `git revert` the commit that removed the "
                "file.",
            )
        if not entry.is_regular_file:
            kinds = {"120000": "a symbolic link", "160000": "a submodule", "040000": "a folder"}
            raise GovernanceRefused(
                f"the path is {kinds.get(entry.mode, 'no file')}, not a file",
                remediation="Commit the governance file itself at that path.",
                path=self._path,
                line=1,
                column=1,
            )
        return entry

    def _content(self, entry: TreeEntry) -> bytes:
        size = self._clone.size(entry.sha)
        if size > MAX_BYTES:
            raise GovernanceRefused(
                f"the file has {size:,} bytes, more than {MAX_BYTES:,}",
                remediation="Split the registry over several mirrors.",
                path=self._path,
                line=1,
                column=1,
            )
        return self._clone.content(entry.sha)


def _moment(seconds: str) -> datetime:
    """Read a committer time; a commit may say one that no date can hold, or none."""
    try:
        moment = int(seconds)
    except ValueError:
        return _UNKNOWN
    return datetime.fromtimestamp(moment, UTC) if 0 <= moment < _LATEST else _UNKNOWN
