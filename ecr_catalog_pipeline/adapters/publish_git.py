"""Publishes as a commit that changes one path of one branch, and is never forced."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.adapters.git_clone import BranchMissing, GitClone, GitFailed
from ecr_catalog_pipeline.adapters.publisher import Provenance, Published
from ecr_catalog_pipeline.core.errors import LostRace, TargetRefused, TargetUnavailable

TRIES: Final = 3
DEFAULT_NAME: Final = "ecr-catalog-pipeline"
DEFAULT_EMAIL: Final = "ecr-catalog-pipeline@localhost"


class GitPublisher:
    """A path on a branch; a version is the blob that stands there."""

    def __init__(self, repository: str, branch: str, path: str, cache: Path) -> None:
        self._clone = GitClone(repository, branch, cache)
        self._path = path

    @property
    def where(self) -> str:
        """The target in words."""
        return f"{self._path} on branch {self._clone.branch} of {self._clone.repository}"

    def read(self) -> Published:
        """Read the file at the branch's tip; a missing branch holds nothing."""
        try:
            with self._clone.locked():
                tip = self._fetch()
                blob = self._blob(tip)
                return Published(self._clone.content(blob) if blob else None, blob)
        except GitFailed as error:
            raise self._unavailable(error) from None

    def publish(self, new: bytes, expected: str | None, provenance: Provenance) -> str:
        """Commit `new` and push it; give its blob."""
        try:
            with self._clone.locked():
                return self._publish(new, expected, provenance)
        except GitFailed as error:
            raise self._unavailable(error) from None

    def _publish(self, new: bytes, expected: str | None, provenance: Provenance) -> str:
        clone = self._clone
        blob = self._store(new)
        tip = self._known_tip()
        for _ in range(TRIES):
            if self._blob(tip) != expected:
                raise LostRace(
                    f"{self.where} was changed by someone else after it was read",
                    mend="Nothing was overwritten; the next run plans afresh.",
                )
            commit = self._commit(tip, blob, provenance)
            refusal = self._push(commit, tip)
            if refusal is not None:
                now = self._fetch()
                if now == tip:
                    raise TargetRefused(
                        f"{self.where} does not take the commit: {refusal}",
                        mend="Allow this committer to push there: check branch protection, hooks "
                        "and credentials.",
                    )
                if now != commit:
                    tip = now
                    continue
            clone.run("update-ref", clone.ref, commit)
            return blob
        raise LostRace(
            f"{self.where} moved {TRIES} times while we pushed",
            mend="Nothing was overwritten; the next run plans afresh.",
        )

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
                mend="Point publish.path elsewhere, or remove what stands there.",
            )
        return entry.sha

    def _store(self, content: bytes) -> str:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "entity.yaml"
            file.write_bytes(content)
            return self._clone.run("hash-object", "-w", "--no-filters", "--", str(file))

    def _commit(self, tip: str | None, blob: str, provenance: Provenance) -> str:
        clone = self._clone
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            if tip:
                clone.run("read-tree", tip, environment=index)
            try:
                clone.run(
                    "update-index",
                    "--add",
                    "--cacheinfo",
                    f"100644,{blob},{self._path}",
                    environment=index,
                )
            except GitFailed as error:
                raise TargetRefused(
                    f"{self.where} cannot be written: {error}",
                    mend="A file stands where publish.path needs a folder: choose another path.",
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

    def _unavailable(self, error: GitFailed) -> TargetUnavailable:
        return TargetUnavailable(
            f"{self.where} cannot be reached: {error}",
            mend="Check publish.repository, the network and git's credentials; what is published "
            "stays as it is.",
        )


def _message(provenance: Provenance) -> str:
    return (
        f"ecr-catalog({provenance.mirror}): {provenance.summary}\n\n"
        f"Source-Sha: {provenance.source_sha}\n"
        f"Plan-Hash: {provenance.plan_hash}\n"
        f"Run-Id: {provenance.run_id}\n"
    )
