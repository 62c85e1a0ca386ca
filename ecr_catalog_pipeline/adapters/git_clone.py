"""A cached bare clone of one branch, shared by what reads from git and what writes to it.

Holds the branch's whole history, blobs only as they are needed where the server can filter. Locked
while used, so that processes may share it. Credentials come from git's own environment, helpers and
agents; no URL with a password gets here, and none leaves in an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from git import Git
from git.exc import GitCommandError, GitCommandNotFound

GIVE_UP_AFTER: Final = 40
"""Seconds that one git command may take."""

# What a surrounding git, such as a hook's, says of its own repository. GitPython can only add to
# the environment, so `env` takes these out.
_OF_ANOTHER_REPOSITORY: Final = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_WORDS_SHOWN: Final = 6
_GENERALITIES: Final = frozenset({"fatal: Could not read from remote repository."})
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+@")


class GitFailed(Exception):
    """A git command failed; the message is git's own, without credentials."""


class BranchMissing(GitFailed):
    """The repository answered, and has no such branch."""


class ShallowSource(GitFailed):
    """The repository is a shallow clone: no commit in it can be trusted to be the last one."""


@dataclass(frozen=True)
class TreeEntry:
    """What stands at a path of a commit."""

    mode: str
    sha: str

    @property
    def is_regular_file(self) -> bool:
        """Whether it is a file, not a symbolic link, a submodule or a folder."""
        return self.mode in {"100644", "100755"}


class GitClone:
    """A bare clone of one branch in a cache folder; nothing is done before it is used."""

    def __init__(self, repository: str, branch: str, cache: Path) -> None:
        self._url = repository
        self.branch = branch
        key = hashlib.sha256(f"{repository}\n{branch}".encode()).hexdigest()[:16]
        self._folder = cache / f"{key}.git"
        self._lock = FileLock(str(cache / f"{key}.lock"), timeout=GIVE_UP_AFTER)

    @property
    def repository(self) -> str:
        """The repository in words, without a user name, which may be a token."""
        return _CREDENTIALS.sub("", self._url)

    @property
    def ref(self) -> str:
        """The branch's full name, here and there."""
        return f"refs/heads/{self.branch}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the clone.

        Raises:
            GitFailed: another process has held it for too long.
        """
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._make_ready()
                yield
        except Timeout:
            raise GitFailed(
                f"another process has held the clone {self._folder.name} for {GIVE_UP_AFTER} s"
            ) from None
        except OSError as error:
            raise GitFailed(f"the cache {self._folder.parent} is unusable: {error}") from None

    def fetch(self) -> str:
        """Bring the branch up to date and give its tip.

        Raises:
            BranchMissing: the repository has no such branch.
            ShallowSource: the repository has no whole history.
            GitFailed: the repository did not answer, or not in time.
        """
        self._refuse_shallow_source()
        try:
            self.run(
                "fetch",
                "--quiet",
                "--no-tags",
                "--filter=blob:none",
                "origin",
                f"+{self.ref}:{self.ref}",
            )
        except GitFailed as error:
            if "couldn't find remote ref" in str(error):
                raise BranchMissing(f"there is no branch {self.branch}") from None
            raise
        if self.run("rev-parse", "--is-shallow-repository") == "true":
            raise ShallowSource(f"{self.repository} is a shallow clone")
        return self.tip()

    def tip(self) -> str:
        """The commit that the branch stood at when it was last fetched or pushed."""
        return self.run("rev-parse", "--verify", self.ref)

    def is_ancestor(self, commit: str, other: str) -> bool:
        """Whether a commit is known here and an ancestor of another, or that one itself."""
        try:
            return self.run("merge-base", commit, other) == commit
        except GitFailed:
            return False

    def entry(self, commit: str, path: str) -> TreeEntry | None:
        """What stands at a path of a commit; None when nothing does."""
        listed = self.run("ls-tree", "-z", commit, "--", path)
        if not listed:
            return None
        mode, _, sha = listed.split("\t", 1)[0].split(" ")
        return TreeEntry(mode, sha)

    def size(self, blob: str) -> int:
        """How many bytes a blob has."""
        return int(self.run("cat-file", "-s", blob))

    def content(self, blob: str) -> bytes:
        """The bytes of a blob."""
        content: bytes = self._execute(
            ("cat-file", "blob", blob),
            self._folder,
            {},
            stdout_as_string=False,
            strip_newline_in_stdout=False,
        )
        return content

    def _make_ready(self) -> None:
        """Make the clone, and clear what a git that was killed has left locked."""
        for left in self._folder.glob("**/*.lock"):
            left.unlink(missing_ok=True)
        if not (self._folder / "HEAD").exists():
            self.run("init", "--quiet", "--bare", str(self._folder), folder=self._folder.parent)
            self.run("config", "gc.autoDetach", "false")
        self.run("config", "remote.origin.url", self._url)

    def _refuse_shallow_source(self) -> None:
        # git's filtered fetch from a shallow repository on this host calls itself without an end.
        source = Path(self._url.removeprefix("file://"))
        if not source.is_dir():
            return
        try:
            answer = self.run("rev-parse", "--is-shallow-repository", folder=source)
        except GitFailed:
            return
        if answer == "true":
            raise ShallowSource(f"{self.repository} is a shallow clone")

    def run(
        self, *arguments: str, folder: Path | None = None, environment: Mapping[str, str] = {}
    ) -> str:
        """Run one git command in the clone and give what it prints.

        Raises:
            GitFailed: with git's own words.
        """
        output: str = self._execute(arguments, folder or self._folder, environment)
        return output

    def _execute(
        self, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str], **how: Any
    ) -> Any:
        settings = {
            "GIT_ALLOW_PROTOCOL": "file:https:ssh",
            # A path of the settings is a path, never a pattern.
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
            **environment,
        }
        removed = [
            word
            for name in _OF_ANOTHER_REPOSITORY
            if name not in environment
            for word in ("-u", name)
        ]
        try:
            return Git(str(folder)).execute(
                ["env", *removed, "git", *arguments],
                env=settings,
                kill_after_timeout=GIVE_UP_AFTER,
                **how,
            )
        except GitCommandNotFound:
            raise GitFailed("git is not installed") from None
        except GitCommandError as error:
            raise GitFailed(_words(error)) from None


def _words(error: GitCommandError) -> str:
    """Git's last words, on one line, without what it may say of credentials."""
    raw = error.stderr.strip().removeprefix("stderr: ").strip("' \n")
    lines = [line.strip() for line in raw.splitlines() if line.strip()]
    telling = [
        line.removeprefix("fatal: ").rstrip(".")
        for line in lines
        if line.startswith(("fatal:", "error:", "remote:", "!")) and line not in _GENERALITIES
    ]
    told = telling or lines
    if len(told) > _WORDS_SHOWN:
        told = [*told[: _WORDS_SHOWN // 2], "...", *told[-_WORDS_SHOWN // 2 :]]
    text = "; ".join(told) or f"git ended with {error.status}"
    return _CREDENTIALS.sub("", text)
