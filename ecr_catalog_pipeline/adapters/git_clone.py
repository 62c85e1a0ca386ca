"""A cached bare clone of one branch, shared by what reads from git and what writes to it.

Holds the branch's whole history, blobs only as they are needed where the server can filter. Locked
while used, so that processes may share it. Using it writes no configuration. Credentials come from
git's own environment, helpers and agents; no URL with a password gets here, and none leaves in an
error.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from ecr_catalog_pipeline.adapters.first_clone import FirstClone
from ecr_catalog_pipeline.adapters.git_command import (
    CREDENTIALS,
    Configuration,
    GitFailed,
    GitUnusable,
    configuration_text,
    git_environment,
    run_git,
    users_configuration,
)

GIVE_UP_AFTER: Final = 40
"""Seconds that one git command may take, and that a run waits for a first clone it started."""

JOIN_SECONDS: Final = 3
"""Seconds that a run waits for a first clone that another one started."""

TIDY_SECONDS: Final = 20
"""Seconds that `git gc` may take."""

TIDY_AGAIN_AFTER: Final = 24 * 3_600
"""Seconds without another `git gc` after one that failed or took too long."""

CONFIGURED_FOR: Final = 60
"""Seconds for which looks at the branch's tip go by the configuration that was read last."""

# What git says of a clone that lost something, as after a power failure, or that its server no
# longer serves in that form. A cache is made again.
_DAMAGED: Final = re.compile(
    r"object file \S+ is empty|object \S+ .*is corrupt|bad (tree |config |object )|bad signature"
    r"|not a git repository|not in a git directory"
    r"|unable to read (tree|sha1 file|\w{40})|could not (parse|read) \w{40}"
    r"|missing necessary objects|invalid object|reference broken|packfile \S+ (cannot|is)"
    r"|inflate: |did not send all necessary objects|[Cc]ould not get object info"
    r"|mismatched algorithms|does not support this repository's hash algorithm"
    r"|does not allow request for unadvertised object|'origin' does not appear to be"
)
_NO_BRANCH: Final = "couldn't find remote ref"
# A server that offers to filter, and then does not.
_NO_FILTER: Final = re.compile(r"filter '?\S+'? not supported|unsupported filter|invalid filter")
# What killed gits leave: locks, and halves of objects and packs. No branch is named like a lock.
_LEFT: Final = (
    "*.lock",
    "refs/**/*.lock",
    "logs/**/*.lock",
    "objects/info/**/*.lock",
    "objects/pack/*.lock",
    "objects/pack/tmp_*",
    "objects/pack/.tmp-*",
    "objects/??/tmp_obj_*",
)


class BranchMissing(GitFailed):
    """The repository answered, and has no such branch."""


class ShallowSource(GitFailed):
    """The repository is a shallow clone: no commit in it can be trusted to be the last one."""


class CloneUnderWay(GitFailed):
    """The first clone takes longer than a run waits; it goes on, and a later run uses it."""

    def __init__(self, progress: str) -> None:
        super().__init__(
            f"the first clone is under way: {progress}; the next run continues",
            remediation="Nothing has to be done: the clone goes on in the background, and the "
            "first run after its end uses it. docs/operating.md says how to copy one there.",
        )


@dataclass(frozen=True)
class TreeEntry:
    """What is at a path of a commit."""

    mode: str
    sha: str

    @property
    def is_regular_file(self) -> bool:
        """Whether it is a file, not a symbolic link, a submodule or a folder."""
        return self.mode in {"100644", "100755"}


@dataclass(frozen=True)
class _Server:
    """What a server says before a clone is made: git's object format, and whether it can filter."""

    object_format: str
    filters: bool


class GitClone:
    """A bare clone of one branch in a cache folder; nothing is done before it is used."""

    def __init__(self, repository: str, branch: str, cache: Path) -> None:
        self._url = repository
        self.branch = branch
        cache = cache.absolute()
        key = hashlib.sha256(f"{repository}\n{branch}".encode()).hexdigest()[:16]
        self._folder = cache / f"{key}.git"
        self._trusted = cache / f"{key}.gitconfig"
        self._lock = FileLock(str(cache / f"{key}.lock"), timeout=GIVE_UP_AFTER)
        self._configuration: Configuration = ()
        self._configured_at = float("-inf")
        self._is_new = False

    @property
    def repository(self) -> str:
        """The repository in words, without a user name, which may be a token."""
        return CREDENTIALS.sub("", self._url)

    @property
    def ref(self) -> str:
        """The branch's full name, here and there."""
        return f"refs/heads/{self.branch}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the clone.

        A clone that turns out to be damaged is removed, so that the next use makes it again.

        Raises:
            CloneUnderWay: it is not made yet.
            GitFailed: another process has held it for too long, or it cannot be made.
        """
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                try:
                    self._make_ready()
                    yield
                except GitUnusable:
                    raise
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
        # Right after the first clone there is nothing else to fetch.
        is_new = self._is_new
        self._refuse_shallow_source()
        try:
            if not is_new:
                self._fetch()
        except GitFailed as error:
            if _NO_BRANCH in str(error):
                raise BranchMissing(f"there is no branch {self.branch}") from None
            raise
        if (self._folder / "shallow").exists():
            raise ShallowSource(f"{self.repository} is a shallow clone")
        return self.tip()

    def remote_tip(self) -> str:
        """Ask the repository where the branch stands: one git process, and no use of the clone.

        Raises:
            BranchMissing: the repository has no such branch.
            GitFailed: the repository did not answer, or not in time.
        """
        try:
            if time.monotonic() - self._configured_at > CONFIGURED_FOR:
                self._folder.parent.mkdir(parents=True, exist_ok=True)
                self._read_configuration()
            listed = self.run("ls-remote", self._url, self.ref)
        except OSError as error:
            raise GitFailed(f"the cache {self._folder.parent} is unusable: {error}") from None
        except GitFailed:
            self._configured_at = float("-inf")
            raise
        # git lists every ref whose name ends so.
        named = (line.partition("\t") for line in listed.split("\n"))
        for sha, _, name in named:
            if name == self.ref:
                return sha
        raise BranchMissing(f"there is no branch {self.branch}")

    def fetch_to(self, tip: str) -> str:
        """Bring the branch up to date, unless it stands at that tip here, and give its tip.

        Raises:
            GitFailed: as `fetch`.
        """
        with suppress(GitFailed):
            if self.tip() == tip:
                return tip
        return self.fetch()

    def _fetch(self, *, again: bool = True) -> None:
        try:
            self.run(*self._fetching("--quiet"))
        except GitFailed as error:
            # The fetch of a process that was killed may outlive it, and move the branch just now.
            if not again or "cannot lock ref" not in str(error):
                raise
            self._fetch(again=False)

    def _fetching(self, how: str) -> tuple[str, ...]:
        """The fetch of our branch; the clone's configuration says whether it leaves out blobs."""
        # `_tidy` collects garbage, in a time of its own.
        ours = ("--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--recurse-submodules=no")
        return ("fetch", how, *ours, "origin", f"+{self.ref}:{self.ref}")

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
        """What is at a path of a commit; None when nothing does."""
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
        return self.output("cat-file", "blob", blob)

    def _make_ready(self) -> None:
        """Read the user's configuration, clear what killed gits have left, make a missing clone."""
        self._read_configuration()
        for pattern in _LEFT:
            for left in self._folder.glob(pattern):
                if not left.is_dir():
                    left.unlink(missing_ok=True)
        self._is_new = False
        if not all((self._folder / name).exists() for name in ("HEAD", "config")):
            self._make()

    def _read_configuration(self) -> None:
        self._configuration = users_configuration(self._url, self._folder, GIVE_UP_AFTER)
        self._write_trusted()
        self._configured_at = time.monotonic()

    def _write_trusted(self) -> None:
        """Keep `safe.directory` where a git that serves a folder of this machine reads it, too."""
        text = configuration_text(
            [each for each in self._configuration if each[0] == "safe.directory"]
        )
        if text and not (self._trusted.exists() and self._trusted.read_text() == text):
            self._trusted.write_text(text, encoding="utf-8")
        elif not text:
            self._trusted.unlink(missing_ok=True)

    def _make(self) -> None:
        """Make the clone beside its place and move it there, so that no half of one is met.

        Raises:
            CloneUnderWay: it takes longer than a run waits.
            GitFailed: it could not be made.
        """
        first = FirstClone.under_way(self._folder)
        if first is not None:
            self._finish(first, JOIN_SECONDS)
            return
        self._refuse_shallow_source()
        server = self._server()
        try:
            has_branch = self._finish(self._start(server), GIVE_UP_AFTER)
        except GitFailed as error:
            if not server.filters or not _NO_FILTER.search(str(error)):
                raise
            unfiltered = _Server(server.object_format, filters=False)
            has_branch = self._finish(self._start(unfiltered), GIVE_UP_AFTER)
        self._is_new = has_branch

    def _server(self) -> _Server:
        """Ask the server what git does not print: it is in the trace of the exchange."""
        trace = self._folder.with_suffix(".trace")
        trace.unlink(missing_ok=True)
        try:
            self.run("ls-remote", self._url, self.ref, environment={"GIT_TRACE_PACKET": str(trace)})
            said = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
        finally:
            trace.unlink(missing_ok=True)
        # Without the second version of the protocol, few servers give single blobs afterwards.
        gives_blobs = "ls-remote< version 2" in said or "allow-any-sha1-in-want" in said
        return _Server(
            object_format="sha256" if "object-format=sha256" in said else "sha1",
            filters=gives_blobs and re.search(r"[ =]filter\b", said) is not None,
        )

    def _start(self, server: _Server) -> FirstClone:
        first = FirstClone.beside(self._folder)
        how = ("--quiet", "--bare", "--template=", f"--object-format={server.object_format}")
        self._run(("init", *how, str(first.folder)), {})
        configuration = [("remote.origin.url", self._url)]
        if server.filters:
            configuration += [
                ("remote.origin.promisor", "true"),
                ("remote.origin.partialclonefilter", "blob:none"),
            ]
        with (first.folder / "config").open("a", encoding="utf-8") as file:
            file.write(configuration_text(configuration))
        arguments = (
            f"--git-dir={first.folder}",
            "-c",
            "fetch.unpackLimit=1",
            *self._fetching("--progress"),
        )
        first.start(arguments, self._environment({}))
        return first

    def _finish(self, first: FirstClone, seconds: float) -> bool:
        """Wait for a first clone and put it in its place; say whether it has the branch."""
        status = first.wait(seconds)
        if status is None:
            raise CloneUnderWay(first.progress())
        failure = first.failure(status) if status else ""
        # A clone of a branch that is not there yet is a clone, too.
        if failure and _NO_BRANCH not in failure:
            first.remove()
            raise GitFailed(failure)
        first.move_to(self._folder)
        return not failure

    def _tidy(self) -> None:
        """Let git pack what it says is too much, without ever failing or holding up a run."""
        failed = self._folder / "gc-failed"
        with suppress(OSError):
            if failed.exists() and time.time() - failed.stat().st_mtime < TIDY_AGAIN_AFTER:
                return
            try:
                self.output("gc", "--auto", "--quiet", seconds=TIDY_SECONDS)
            except GitFailed:
                failed.touch()
            else:
                failed.unlink(missing_ok=True)

    def _refuse_shallow_source(self) -> None:
        # git's filtered fetch from a shallow repository on this host calls itself without an end.
        source = Path(self._url.removeprefix("file://"))
        if not source.is_dir():
            return
        # A folder is never taken for a part of the repository around it.
        around = {"GIT_CEILING_DIRECTORIES": str(source.absolute().parent)}
        arguments = ("-C", str(source.absolute()), "rev-parse", "--is-shallow-repository")
        try:
            answer = self._run(arguments, around)
        except GitFailed:
            return
        if answer.strip() == b"true":
            raise ShallowSource(f"{self.repository} is a shallow clone")

    def run(
        self,
        *arguments: str,
        environment: Mapping[str, str] = {},
        given: bytes | None = None,
    ) -> str:
        """Run one git command in the clone and give what it prints, without the last line's end.

        Args:
            given: what the command reads.

        Raises:
            GitFailed: with git's own words.
        """
        output = self.output(*arguments, environment=environment, given=given)
        return output.decode("utf-8", "surrogateescape").removesuffix("\n")

    def output(
        self,
        *arguments: str,
        environment: Mapping[str, str] = {},
        given: bytes | None = None,
        seconds: float | None = None,
    ) -> bytes:
        """Run one git command in the clone and give the bytes that it prints.

        Raises:
            GitFailed: with git's own words.
        """
        # Named, since a user may forbid git to find a bare repository by itself.
        return self._run((f"--git-dir={self._folder}", *arguments), environment, given, seconds)

    def path(self, name: str) -> Path:
        """A file of one's own in the clone's folder."""
        return self._folder / name

    def _run(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        given: bytes | None = None,
        seconds: float | None = None,
    ) -> bytes:
        self._is_new = False
        return run_git(
            arguments,
            self._environment(environment),
            folder=self._folder.parent,
            seconds=GIVE_UP_AFTER if seconds is None else seconds,
            given=given,
        )

    def _environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        trusted = {"GIT_CONFIG_GLOBAL": str(self._trusted)} if self._trusted.exists() else {}
        return git_environment(self._configuration, {**trusted, **ours})
