"""A cached bare clone of one branch, shared by what reads from git and what writes to it.

Holds the branch's whole history, blobs only as they are needed where the server can filter. Locked
while used, so that processes may share it. Credentials come from git's own environment, helpers and
agents; no URL with a password gets here, and none leaves in an error.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from git import Git
from git.exc import GitCommandError, GitCommandNotFound

from ecr_catalog_pipeline.core.text import clean_text

GIVE_UP_AFTER: Final = 40
"""Seconds that one git command may take."""

TIDY_SECONDS: Final = 20
"""Seconds that `git gc` may take."""

TIDY_AGAIN_AFTER: Final = 24 * 3_600
"""Seconds without another `git gc` after one that failed or took too long."""

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
MAX_WORDS: Final = 2_000
_DENIAL: Final = re.compile(r"Authentication failed|returned error: 4\d\d|HTTP 4\d\d")
_GENERALITIES: Final = frozenset({"fatal: Could not read from remote repository."})
# What git says of a clone that lost something, as after a power failure. A cache is made again.
_DAMAGED: Final = re.compile(
    r"object file \S+ is empty|object \S+ .*is corrupt|bad (tree |config |object )|bad signature"
    r"|not a git repository|not in a git directory"
    r"|unable to read (tree|sha1 file|\w{40})|could not (parse|read) \w{40}"
    r"|missing necessary objects|invalid object|reference broken|packfile \S+ (cannot|is)"
    r"|inflate: |did not send all necessary objects|[Cc]ould not get object info"
)
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

        A clone that turns out to be damaged is removed, so that the next use makes it anew.

        Raises:
            GitFailed: another process has held it for too long.
        """
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                try:
                    self._make_ready()
                    yield
                except GitFailed as error:
                    if _DAMAGED.search(str(error)):
                        shutil.rmtree(self._folder, ignore_errors=True)
                    raise
                self._tidy()
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
            self._fetch()
        except GitFailed as error:
            if "couldn't find remote ref" in str(error):
                raise BranchMissing(f"there is no branch {self.branch}") from None
            raise
        if self.run("rev-parse", "--is-shallow-repository") == "true":
            raise ShallowSource(f"{self.repository} is a shallow clone")
        return self.tip()

    def _fetch(self, *, again: bool = True) -> None:
        fetched = f"+{self.ref}:{self.ref}"
        # `_tidy` collects garbage, in a time of its own.
        how = ("--quiet", "--no-tags", "--no-auto-gc", "--filter=blob:none")
        try:
            self.run("fetch", *how, "origin", fetched)
        except GitFailed as error:
            # The fetch of a process that was killed may outlive it, and move the branch just now.
            if not again or "cannot lock ref" not in str(error):
                raise
            self._fetch(again=False)

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
        """Make the clone, and clear what a git that was killed has left: locks and half objects."""
        for left in self._folder.glob("**/*"):
            if left.suffix == ".lock" or left.name.startswith(("tmp_", ".tmp-")):
                left.unlink(missing_ok=True)
        if not (self._folder / "HEAD").exists():
            self._make()
        self.run("config", "remote.origin.url", self._url)

    def _make(self) -> None:
        """Make the clone beside its place and move it there, so that no half of one is met."""
        half = self._folder.with_suffix(".new")
        for left in (half, self._folder):
            shutil.rmtree(left, ignore_errors=True)
        self.run("init", "--quiet", "--bare", str(half), folder=half.parent)
        self.run("config", "gc.autoDetach", "false", folder=half)
        half.rename(self._folder)

    def _tidy(self) -> None:
        """Let git pack what it says is too much, without ever failing or holding up a run."""
        failed = self._folder / "gc-failed"
        if failed.exists() and time.time() - failed.stat().st_mtime < TIDY_AGAIN_AFTER:
            return
        try:
            self._execute(("gc", "--auto", "--quiet"), self._folder, {}, TIDY_SECONDS)
        except GitFailed:
            failed.touch()
        else:
            failed.unlink(missing_ok=True)

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
        self,
        *arguments: str,
        folder: Path | None = None,
        environment: Mapping[str, str] = {},
        given: bytes | None = None,
    ) -> str:
        """Run one git command in the clone and give what it prints.

        Args:
            given: what the command reads.

        Raises:
            GitFailed: with git's own words.
        """
        with tempfile.TemporaryFile() if given is not None else nullcontext() as stream:
            if stream is not None and given is not None:
                stream.write(given)
                stream.seek(0)
            output: str = self._execute(
                arguments, folder or self._folder, environment, istream=stream
            )
        return output

    def path(self, name: str) -> Path:
        """A file of one's own in the clone's folder."""
        return self._folder / name

    def _execute(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        environment: Mapping[str, str],
        seconds: float | None = None,
        **how: Any,
    ) -> Any:
        settings = {
            "GIT_ALLOW_PROTOCOL": "file:https:ssh",
            # A damaged clone is never taken for a part of the repository around it.
            "GIT_CEILING_DIRECTORIES": str(folder.absolute().parent),
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
                kill_after_timeout=GIVE_UP_AFTER if seconds is None else seconds,
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
    if any(_DENIAL.search(line) for line in telling):
        # Who refuses credentials may repeat them.
        telling = [line for line in telling if not line.startswith("remote:")]
    told = telling or lines
    if len(told) > _WORDS_SHOWN:
        told = [*told[: _WORDS_SHOWN // 2], "...", *told[-_WORDS_SHOWN // 2 :]]
    text = "; ".join(told) or f"git ended with {error.status}"
    return clean_text(_CREDENTIALS.sub("", text), MAX_WORDS)
