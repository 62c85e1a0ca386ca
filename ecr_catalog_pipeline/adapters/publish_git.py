"""Publishes as a commit that changes one path of one branch, and is never forced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.adapters.git_clone import BranchMissing, GitClone, TreeEntry
from ecr_catalog_pipeline.adapters.git_command import GitFailed
from ecr_catalog_pipeline.adapters.publisher import (
    Beside,
    BesidePublished,
    Provenance,
    Published,
)
from ecr_catalog_pipeline.core.errors import (
    LostRace,
    TargetRefused,
    TargetUnavailable,
)
from ecr_catalog_pipeline.core.health import Placement

TRIES: Final = 3
# A connection that broke, or a server that did not answer in time: it may have taken the commit,
# or take it yet.
_UNANSWERED: Final = re.compile(
    r"hung up|timed out|Timeout|[Cc]onnection|did not end in|RPC failed|early EOF"
    r"|unexpected disconnect|returned error: 5\d\d|git ended with"
)
# A server that would take the commit and cannot.
_TROUBLE: Final = re.compile(r"unpack|No space left")
MAX_BESIDE: Final = 5_000_000
"""How many bytes a second file may have."""

_FILE: Final = "100644"
DEFAULT_NAME: Final = "ecr-catalog-pipeline"
DEFAULT_EMAIL: Final = "ecr-catalog-pipeline@localhost"


@dataclass(frozen=True)
class _Entity:
    """The blob to publish, and the one that it replaces."""

    blob: str
    expected: str | None


class GitPublisher:
    """A path on a branch; a version is the blob that stands there."""

    def __init__(self, repository: str, branch: str, path: str, cache: Path) -> None:
        self._clone = GitClone(repository, branch, cache)
        self._path = path

    @property
    def where(self) -> str:
        """The target in words."""
        return self._where(self._path)

    def read(self) -> Published:
        """Read the file at the branch's tip; a missing branch holds nothing."""
        with self._locked():
            tip = self._fetch()
            blob = self._blob(tip)
            return Published(self._clone.content(blob) if blob else None, blob)

    def publish(self, new: bytes, expected: str | None, provenance: Provenance) -> str:
        """Commit `new` and push it; give its blob."""
        with self._locked():
            entity = _Entity(self._store(new), expected)
            self._publish(entity, None, provenance)
            return entity.blob

    def publish_with(
        self, new: bytes, expected: str | None, provenance: Provenance, beside: Beside
    ) -> tuple[str, BesidePublished]:
        """Commit `new` and a second file, and push them together."""
        with self._locked():
            entity = _Entity(self._store(new), expected)
            try:
                return entity.blob, self._publish(entity, beside, provenance)
            except TargetRefused as error:
                # It may be the second file that is refused; the entity does not wait for it.
                self._publish(entity, None, provenance)
                return entity.blob, BesidePublished(
                    problem=error.problem, remediation=error.remediation
                )

    def publish_beside(self, provenance: Provenance, beside: Beside) -> BesidePublished:
        """Commit a second file and push it, unless it is up to date."""
        with self._locked():
            return self._publish(None, beside, provenance)

    def _publish(
        self, entity: _Entity | None, beside: Beside | None, provenance: Provenance
    ) -> BesidePublished:
        """Commit what changes on top of the branch, also when that moves, and push it."""
        where = self._where(beside.path) if beside and entity is None else self.where
        tip = self._known_tip()
        for _ in range(TRIES):
            files, told = self._files(tip, entity, beside)
            if not files:
                return told
            commit = self._commit(tip, files, provenance)
            provenance.fence()
            refusal = self._push(commit, tip)
            if refusal is None:
                # It is published, whatever becomes of the clone; a later fetch says the same.
                with suppress(GitFailed):
                    self._clone.run("update-ref", self._clone.ref, commit)
                break
            now, taken = self._read_back(commit, entity, refusal)
            if now == tip:
                raise self._refused(where, list(files)[-1], refusal)
            if taken:
                break
            tip = now
        else:
            raise LostRace(
                f"{where} moved {TRIES} times while we pushed",
                remediation="Nothing was overwritten; the next run plans afresh.",
            )
        return replace(told, commit=commit) if beside and beside.path in files else told

    def _files(
        self, tip: str | None, entity: _Entity | None, beside: Beside | None
    ) -> tuple[dict[str, TreeEntry], BesidePublished]:
        """What a commit on top of a tip has to write."""
        files: dict[str, TreeEntry] = {}
        if entity is not None:
            if self._blob(tip) != entity.expected:
                raise LostRace(
                    f"{self.where} was changed by someone else after it was read",
                    remediation="Nothing was overwritten; the next run plans afresh.",
                )
            files[self._path] = TreeEntry(_FILE, entity.blob)
        if beside is None:
            return files, BesidePublished()
        mode, placement = self._placed(tip, beside)
        if placement.content is not None:
            files[beside.path] = TreeEntry(mode, self._store(placement.content))
        problem = f"{self._where(beside.path)}: {placement.problem}" if placement.problem else ""
        return files, BesidePublished(problem=problem, remediation=placement.remediation)

    def _placed(self, tip: str | None, beside: Beside) -> tuple[str, Placement]:
        """The mode of a second file, and what becomes of it."""
        try:
            entry = self._clone.entry(tip, beside.path) if tip else None
            if entry is None:
                return _FILE, beside.place(None)
            if not entry.is_regular_file:
                return _FILE, Placement(
                    problem="it is a folder, a symbolic link or a submodule",
                    remediation="Point health.path elsewhere, or remove what stands there.",
                )
            if self._clone.size(entry.sha) > MAX_BESIDE:
                return _FILE, Placement(
                    problem=f"it has more than {MAX_BESIDE} bytes",
                    remediation="Point health.path at a smaller file.",
                )
            return entry.mode, beside.place(self._clone.content(entry.sha))
        except GitFailed as error:
            return _FILE, Placement(
                problem=f"it cannot be read: {error}", remediation="The next run tries again."
            )

    def _read_back(
        self, commit: str, entity: _Entity | None, refusal: str
    ) -> tuple[str | None, bool]:
        """Give the branch's tip after a push that failed, and whether the push was taken.

        Raises:
            TargetUnavailable: the push got no answer and the branch cannot be read, so nothing is
                known of what is published.
            GitFailed: the push was refused, and the branch cannot be read.
        """
        try:
            tip = self._fetch()
            return tip, self._taken(commit, entity, tip)
        except GitFailed as error:
            if not _UNANSWERED.search(refusal):
                raise
            raise TargetUnavailable(
                f"{self.where}: whether the commit was taken is not known: {refusal}; reading it "
                f"back failed, too: {error}",
                remediation="Check the git server and the network; the next run reads what is "
                "published and goes on from there.",
            ) from None

    def _refused(self, where: str, last: str, refusal: str) -> TargetRefused | TargetUnavailable:
        """Say why a commit is not there; of two files the last one is to blame."""
        if _UNANSWERED.search(refusal):
            return TargetUnavailable(
                f"{where} did not answer the push, and does not hold the commit so far: {refusal}",
                remediation="Check the git server and the network; the next run reads what is "
                "published and goes on from there.",
            )
        if _TROUBLE.search(refusal):
            return TargetUnavailable(
                f"{where} could not take the commit: {refusal}",
                remediation="Check the git server, its disk and the network; nothing was "
                "published, and the next run tries again.",
            )
        return TargetRefused(
            f"{self._where(last)} does not take the commit: {refusal}",
            remediation="Allow this committer to push there: check branch protection, hooks "
            "and credentials.",
        )

    def _where(self, path: str) -> str:
        return f"{path} on branch {self._clone.branch} of {self._clone.repository}"

    def _taken(self, commit: str, entity: _Entity | None, tip: str | None) -> bool:
        """Whether a push whose answer was lost was taken, and still stands."""
        if tip is None or not self._clone.is_ancestor(commit, tip):
            return False
        return entity is None or self._blob(tip) == entity.blob

    def _fetch(self) -> str | None:
        try:
            return self._clone.fetch()
        except BranchMissing:
            self._clone.run("update-ref", "-d", self._clone.ref)
            return None

    def _known_tip(self) -> str | None:
        try:
            return self._clone.tip()
        except GitFailed:
            return self._fetch()

    def _blob(self, tip: str | None) -> str | None:
        entry = self._clone.entry(tip, self._path) if tip else None
        if entry is None:
            return None
        if not entry.is_regular_file:
            raise TargetRefused(
                f"{self.where} is a folder, a symbolic link or a submodule; it is not overwritten",
                remediation="Point publish.path elsewhere, or remove what stands there.",
            )
        return entry.sha

    def _store(self, content: bytes) -> str:
        return self._clone.run("hash-object", "-w", "--no-filters", "--stdin", given=content)

    def _commit(
        self, tip: str | None, files: Mapping[str, TreeEntry], provenance: Provenance
    ) -> str:
        clone = self._clone
        # In the clone, which is locked, so that a process that is killed leaves nothing elsewhere.
        file = clone.path("index-of-publication")
        file.unlink(missing_ok=True)
        index = {"GIT_INDEX_FILE": str(file)}
        if tip:
            clone.run("read-tree", tip, environment=index)
        for path, entry in files.items():
            what = f"{entry.mode},{entry.sha},{path}"
            try:
                clone.run("update-index", "--add", "--cacheinfo", what, environment=index)
            except GitFailed as error:
                key = "publish.path" if path == self._path else "health.path"
                raise TargetRefused(
                    f"{self._where(path)} cannot be written: {error}",
                    remediation=f"A file stands where {key} needs a folder: choose another path.",
                ) from None
        tree = clone.run("write-tree", "--missing-ok", environment=index)
        parents = ("-p", tip) if tip else ()
        return clone.run(
            "commit-tree", tree, *parents, "-m", _message(provenance), environment=self._identity()
        )

    def _push(self, commit: str, tip: str | None) -> str | None:
        """Push a commit on top of a tip; give git's words when it was not taken.

        The lease makes git compare the branch with the tip, also when it was rewound or deleted.
        """
        ref = self._clone.ref
        try:
            self._clone.run(
                "push",
                "--quiet",
                f"--force-with-lease={ref}:{tip or ''}",
                "origin",
                f"{commit}:{ref}",
            )
        except GitFailed as error:
            return str(error)
        return None

    def _identity(self) -> Mapping[str, str]:
        """Who commits: git's own environment and configuration, or a default of ours."""
        ours: dict[str, str] = {}
        for role in ("AUTHOR", "COMMITTER"):
            try:
                self._clone.run("-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT")
            except GitFailed:
                ours[f"GIT_{role}_NAME"] = os.environ.get(f"GIT_{role}_NAME") or DEFAULT_NAME
                ours[f"GIT_{role}_EMAIL"] = os.environ.get(f"GIT_{role}_EMAIL") or DEFAULT_EMAIL
        return ours

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out of the clone, and tell git's failures as ours."""
        try:
            with self._clone.locked():
                yield
        except GitFailed as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: GitFailed) -> TargetUnavailable:
        return TargetUnavailable(
            f"{self.where} cannot be reached: {error}",
            remediation=error.remediation
            or "Check publish.repository, the network, git's credentials and the disk of "
            "the cached clone; what is published stays as it is.",
        )


def _message(provenance: Provenance) -> str:
    return (
        f"ecr-catalog({provenance.mirror}): {provenance.summary}\n\n"
        f"Source-Sha: {provenance.source_sha}\n"
        f"Plan-Hash: {provenance.plan_hash}\n"
        f"Run-Id: {provenance.run_id}\n"
    )
