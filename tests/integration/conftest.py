"""What integration tests share: a world without credentials, and git repositories in it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache as cache_calls
from pathlib import Path
from typing import Final, Self

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from botocore.loaders import create_loader
from sqlalchemy import Engine, event

NOON: Final = datetime(2026, 1, 9, 12, 0, tzinfo=UTC)

FILE: Final = "100644"
EXECUTABLE: Final = "100755"
SYMLINK: Final = "120000"
SUBMODULE: Final = "160000"

_GIT: Final = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Someone Else",
    "GIT_AUTHOR_EMAIL": "someone.else@example.com",
    "GIT_COMMITTER_NAME": "Someone Else",
    "GIT_COMMITTER_EMAIL": "someone.else@example.com",
    "LC_ALL": "C",
}


@dataclass(frozen=True)
class Entry:
    """What a commit puts at a path; of a submodule, the content is the commit's id."""

    content: bytes | str
    mode: str = FILE


@dataclass(frozen=True)
class Repository:
    """A git repository as somebody else works in it, with nobody's configuration."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, *, bare: bool = False) -> Self:
        folder.mkdir(parents=True)
        repository = cls(folder)
        repository.git("init", "--quiet", "-b", "main", *(["--bare"] if bare else []))
        return repository

    @property
    def git_folder(self) -> Path:
        inside = self.folder / ".git"
        return inside if inside.exists() else self.folder

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def git(self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] = {}) -> str:
        output = self.bytes_of(*arguments, stdin=stdin, environment=environment)
        return output.decode().rstrip("\n")

    def bytes_of(
        self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] = {}
    ) -> bytes:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env={**inherited, **_GIT, **environment},
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def commit(
        self,
        changes: Mapping[str, Entry | bytes | str | None],
        *,
        branch: str = "main",
        parents: Sequence[str] | None = None,
        at: datetime = NOON,
        message: str = "Change something",
    ) -> str:
        """Commit to a branch, without a working tree; None removes a path.

        Args:
            parents: instead of the branch's tip; the first one's files are kept.
        """
        tip = self.tip(branch)
        parents = ([tip] if tip else []) if parents is None else parents
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            if parents:
                self.git("read-tree", parents[0], environment=index)
            lines = (self._line(path, change) for path, change in changes.items())
            update = ("update-index", "-z", "--add", "--replace", "--index-info")
            self.git(*update, stdin=b"".join(lines), environment=index)
            tree = self.git("write-tree", environment=index)
        before = [part for parent in parents for part in ("-p", parent)]
        when = f"{int(at.timestamp())} +0000"
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        commit = self.git("commit-tree", tree, *before, "-m", message, environment=dates)
        self.git("update-ref", f"refs/heads/{branch}", commit)
        return commit

    def tip(self, branch: str = "main") -> str | None:
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}") or None

    def content(self, path: str, branch: str = "main") -> bytes | None:
        if not self.tip(branch) or not self.git("ls-tree", branch, "--", path):
            return None
        return self.bytes_of("cat-file", "blob", f"{branch}:{path}")

    def hook(self, name: str, script: str) -> Path:
        """Install a hook in sh; gives the folder where it may leave notes."""
        hook = self.git_folder / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{script}\n")
        hook.chmod(0o755)
        return self.git_folder

    def _line(self, path: str, change: Entry | bytes | str | None) -> bytes:
        """Say it in the form of `git update-index --index-info`."""
        if change is None:
            return f"0 {'0' * 40}\t{path}\0".encode()
        entry = change if isinstance(change, Entry) else Entry(change)
        content = entry.content.encode() if isinstance(entry.content, str) else entry.content
        if entry.mode == SUBMODULE:
            blob = content.decode()
        else:
            blob = self.git("hash-object", "-w", "--stdin", stdin=content)
        return f"{entry.mode} {blob}\t{path}\0".encode()


@pytest.fixture(autouse=True, scope="session")
def quick_libraries() -> Iterator[None]:
    """Let libraries read their own files once, and SQLite not wait for the disk.

    The files are botocore's models of AWS, and the revisions of the schema of Dagster's storage.
    What SQLite does not flush is lost with the machine only, not with a process.
    """
    from_config = ScriptDirectory.from_config
    scripts: dict[str | None, ScriptDirectory] = {}

    def kept(config: Config) -> ScriptDirectory:
        where = config.get_main_option("script_location")
        if where not in scripts:
            scripts[where] = from_config(config)
        return scripts[where]

    def unflushed(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("botocore.session.create_loader", cache_calls(create_loader))
        changed.setattr(ScriptDirectory, "from_config", kept)
        event.listen(Engine, "connect", unflushed)
        yield
        event.remove(Engine, "connect", unflushed)


@pytest.fixture(autouse=True)
def nobodys_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave the code under test no credentials, no proxy and nobody's configuration."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GIT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("EMAIL", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of the clones; it does not exist yet."""
    return tmp_path / "cache"
