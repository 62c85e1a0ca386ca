"""Publishes as a commit that changes one path of one branch, and is never forced.

A full list, where there is one, is part of the same commit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.adapters.git_clone import BranchMissing, GitClone, TreeEntry
from ecr_catalog_pipeline.adapters.git_command import GitFailed
from ecr_catalog_pipeline.adapters.publisher import NO_LISTS, Lists, Provenance, Published
from ecr_catalog_pipeline.core.entity import list_name
from ecr_catalog_pipeline.core.errors import LostRace, TargetRefused, TargetUnavailable

TRIES: Final = 3
# A connection that broke, or a server that did not answer in time: it may have taken the commit,
# or take it yet.
_UNANSWERED: Final = re.compile(
    r"hung up|timed out|Timeout|[Cc]onnection|did not end in|RPC failed|early EOF"
    r"|unexpected disconnect|returned error: 5\d\d|git ended with"
)
# A server that would take the commit and cannot.
_TROUBLE: Final = re.compile(r"unpack|No space left")
_FILE: Final = "100644"
DEFAULT_NAME: Final = "ecr-catalog-pipeline"
DEFAULT_EMAIL: Final = "ecr-catalog-pipeline@localhost"


class GitPublisher:
    """A path on a branch; a version is the blob that is there.

    Args:
        key: of the mirror file that names the path.
    """

    def __init__(
        self, repository: str, branch: str, path: str, cache: Path, *, key: str = "publish.path"
    ) -> None:
        self.clone: Final = GitClone(repository, branch, cache)
        self._path = path
        self._key = key

    @property
    def where(self) -> str:
        """The target in words."""
        return f"{self._path} on branch {self.clone.branch} of {self.clone.repository}"

    def read(self) -> Published:
        """Read the file at the branch's tip; a missing branch holds nothing."""
        with self._locked():
            tip = self._fetch()
            entry = self._entry(tip)
            return Published(*(self.clone.content(entry.sha), entry.sha) if entry else (None, None))

    def read_list(self, digest: str) -> bytes | None:
        """Read the list beside the file, as of the last fetch."""
        with self._locked():
            tip = self._known_tip()
            entry = self.clone.entry(tip, self._list(digest)) if tip else None
            return self.clone.content(entry.sha) if entry and entry.is_regular_file else None

    def _list(self, digest: str) -> str:
        return list_name(self._path, digest)

    def publish(
        self, new: bytes, expected: str | None, provenance: Provenance, lists: Lists = NO_LISTS
    ) -> str:
        """Commit `new` on top of the branch, also when that moves, and push it; give its blob."""
        with self._locked():
            blob = self._store(new)
            beside: dict[str, str | None] = {}
            if lists.left:
                beside[self._list(lists.left)] = None
            if lists.new is not None:
                beside[self._list(lists.new_digest)] = self._store(lists.new)
            tip = self._known_tip()
            for _ in range(TRIES):
                mode = self._check_expected(tip, expected)
                commit = self._commit(tip, TreeEntry(mode, blob), provenance, beside)
                provenance.fence()
                refusal = self._push(commit, tip)
                if refusal is None:
                    # It is published, whatever becomes of the clone; a later fetch says the same.
                    with suppress(GitFailed):
                        self.clone.run("update-ref", self.clone.ref, commit)
                    return blob
                now, taken = self._read_back(commit, blob, refusal)
                if now == tip:
                    raise self._refused(refusal)
                if taken:
                    return blob
                tip = now
        raise LostRace(f"{self.where} moved {TRIES} times while we pushed")

    def _check_expected(self, tip: str | None, expected: str | None) -> str:
        """See that the file still is what was read; give its mode, which stays."""
        entry = self._entry(tip)
        if (entry.sha if entry else None) != expected:
            raise LostRace(f"{self.where} was changed by someone else after it was read")
        return entry.mode if entry else _FILE

    def _read_back(self, commit: str, blob: str, refusal: str) -> tuple[str | None, bool]:
        """Give the branch's tip after a push that failed, and whether the push was taken.

        Raises:
            TargetUnavailable: the push got no answer and the branch cannot be read, so nothing is
                known of what is published.
            GitFailed: the push was refused, and the branch cannot be read.
        """
        try:
            tip = self._fetch()
            return tip, self._taken(commit, blob, tip)
        except GitFailed as error:
            if not _UNANSWERED.search(refusal):
                raise
            raise TargetUnavailable(
                f"{self.where}: whether the commit was taken is not known: {refusal}; reading it "
                f"back failed, too: {error}",
                remediation="Check the git server and the network; the next run reads what is "
                "published and goes on from there.",
            ) from None

    def _refused(self, refusal: str) -> TargetRefused | TargetUnavailable:
        """Say why a commit is not there."""
        if _UNANSWERED.search(refusal):
            return TargetUnavailable(
                f"{self.where} did not answer the push, and does not hold the commit so far: "
                f"{refusal}",
                remediation="Check the git server and the network; the next run reads what is "
                "published and goes on from there.",
            )
        if _TROUBLE.search(refusal):
            return TargetUnavailable(
                f"{self.where} could not take the commit: {refusal}",
                remediation="Check the git server, its disk and the network; nothing was "
                "published, and the next run tries again.",
            )
        return TargetRefused(
            f"{self.where} does not take the commit: {refusal}",
            remediation="Allow this committer to push there: check branch protection, hooks "
            "and credentials.",
        )

    def _taken(self, commit: str, blob: str, tip: str | None) -> bool:
        """Whether a push whose answer was lost was taken, and is still there."""
        if tip is None or not self.clone.is_ancestor(commit, tip):
            return False
        entry = self._entry(tip)
        return entry is not None and entry.sha == blob

    def _fetch(self) -> str | None:
        try:
            return self.clone.fetch()
        except BranchMissing:
            self.clone.run("update-ref", "-d", self.clone.ref)
            return None

    def _known_tip(self) -> str | None:
        try:
            return self.clone.tip()
        except GitFailed:
            return self._fetch()

    def _entry(self, tip: str | None) -> TreeEntry | None:
        entry = self.clone.entry(tip, self._path) if tip else None
        if entry and not entry.is_regular_file:
            raise TargetRefused(
                f"{self.where} is a folder, a symbolic link or a submodule; it is not overwritten",
                remediation=f"Point {self._key} elsewhere, or remove what is there.",
            )
        return entry

    def _store(self, content: bytes) -> str:
        return self.clone.run("hash-object", "-w", "--no-filters", "--stdin", given=content)

    def _commit(
        self,
        tip: str | None,
        entry: TreeEntry,
        provenance: Provenance,
        beside: Mapping[str, str | None],
    ) -> str:
        """Commit the file and the lists beside it: a blob by its path, None for one that goes."""
        clone = self.clone
        # In the clone, which is locked, so that a process that is killed leaves nothing elsewhere.
        file = clone.path("index-of-publication")
        file.unlink(missing_ok=True)
        index = {"GIT_INDEX_FILE": str(file)}
        if tip:
            clone.run("read-tree", tip, environment=index)
        arguments = ["--add", "--cacheinfo", f"{entry.mode},{entry.sha},{self._path}"]
        for path, blob in beside.items():
            if blob is not None:
                arguments += ["--cacheinfo", f"{_FILE},{blob},{path}"]
        # A mode of 0 removes a path, and needs no work tree.
        gone = [f"0 {'0' * len(entry.sha)}\t{path}\0" for path, blob in beside.items() if not blob]
        try:
            if gone:
                removal = "".join(gone).encode()
                clone.run("update-index", "-z", "--index-info", environment=index, given=removal)
            clone.run("update-index", *arguments, environment=index)
        except GitFailed as error:
            raise TargetRefused(
                f"{self.where} cannot be written: {error}",
                remediation=f"A file is where {self._key} needs a folder: choose another path.",
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
        ref = self.clone.ref
        try:
            self.clone.run(
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
                self.clone.run("-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT")
            except GitFailed:
                ours[f"GIT_{role}_NAME"] = os.environ.get(f"GIT_{role}_NAME") or DEFAULT_NAME
                ours[f"GIT_{role}_EMAIL"] = os.environ.get(f"GIT_{role}_EMAIL") or DEFAULT_EMAIL
        return ours

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out of the clone, and raise git's failures as ours."""
        try:
            with self.clone.locked():
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
