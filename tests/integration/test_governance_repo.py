from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psutil
import pytest

from ecr_catalog_pipeline.adapters import git_clone
from ecr_catalog_pipeline.adapters.git_clone import GitClone
from ecr_catalog_pipeline.adapters.governance_repo import (
    GovernanceFile,
    GovernanceRepo,
    GovernanceVersion,
)
from ecr_catalog_pipeline.core.errors import GovernanceRefused, GovernanceUnavailable
from ecr_catalog_pipeline.core.governance import MAX_BYTES
from tests.integration.conftest import NOON, SUBMODULE, SYMLINK, Entry, Repository

PATH: Final = "catalogs/ecr-catalog.yaml"
ONE: Final = b"version: '1.0'\nrepositories: {}\n"
TWO: Final = b"version: '1.0'\nrepositories: {app: {}}\n"


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    """A repository with a governance file, one commit old."""
    source = Repository.create(tmp_path / "source")
    source.commit({PATH: ONE, "README.md": "hello\n"})
    return source


def repo(source: Repository | str, cache: Path, path: str = PATH) -> GovernanceRepo:
    where = source if isinstance(source, str) else str(source.folder)
    return GovernanceRepo(where, "main", path, cache)


def unavailable(repo: GovernanceRepo) -> GovernanceUnavailable:
    with pytest.raises(GovernanceUnavailable) as caught:
        repo.read()
    assert caught.value.needs == "time"
    assert caught.value.remediation
    return caught.value


def refused(repo: GovernanceRepo) -> GovernanceRefused:
    with pytest.raises(GovernanceRefused) as caught:
        repo.read()
    assert caught.value.needs == "human"
    assert str(caught.value).startswith(f"{PATH}:1:1: ")
    return caught.value


# What is read


def test_the_file_is_read_at_the_tip_of_the_branch(source: Repository, cache: Path) -> None:
    tip = source.tip()
    assert tip
    assert repo(source, cache).read() == GovernanceFile(
        content=ONE,
        blob=source.git("rev-parse", f"main:{PATH}"),
        commit=tip,
        source_sha=tip,
        committed_at=NOON,
    )


def test_nothing_is_done_before_the_first_read(source: Repository, cache: Path) -> None:
    repo(source, cache)
    assert not cache.exists()


def test_the_working_tree_and_the_index_are_never_read(source: Repository, cache: Path) -> None:
    source.git("reset", "--quiet", "--hard")
    (source.folder / PATH).write_bytes(TWO)
    source.git("add", PATH)
    (source.folder / PATH).write_bytes(b"half a sent")
    assert repo(source, cache).read().content == ONE


def test_what_is_checked_out_does_not_matter(source: Repository, cache: Path) -> None:
    source.commit({PATH: TWO}, branch="feature", parents=[source.tip() or ""])
    source.git("checkout", "--quiet", "feature")
    assert repo(source, cache).read().content == ONE


@pytest.mark.parametrize("content", [b"", b"no newline", b"\r\n\xff\x00\n\n", b"\n\n  \n"])
def test_every_byte_is_read_as_it_was_committed(
    source: Repository, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.autocrlf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    source.commit({PATH: content})
    assert repo(source, cache).read().content == content


def test_a_later_commit_is_read_by_the_next_read(source: Repository, cache: Path) -> None:
    reader = repo(source, cache)
    first = reader.read()
    commit = source.commit({PATH: TWO}, at=NOON + timedelta(hours=1))
    second = reader.read()
    assert first.content == ONE
    assert second.content == TWO
    assert second.commit == second.source_sha == commit
    assert second.committed_at == NOON + timedelta(hours=1)


def test_other_branches_and_tags_are_left_alone(source: Repository, cache: Path) -> None:
    source.commit({PATH: TWO}, branch="feature", parents=[source.tip() or ""])
    source.git("tag", "v1")
    repo(source, cache).read()
    (clone,) = cache.glob("*.git")
    assert Repository(clone).git("for-each-ref", "--format=%(refname)") == "refs/heads/main"


# A look


def processes(trace: Path) -> int:
    """How many git commands of ours were run; what they run themselves says so, too."""
    started = [line.partition("trace: ")[2] for line in trace.read_text().splitlines()]
    ours = [line for line in started if line.startswith("built-in: git ")]
    trace.write_text("")
    return len([line for line in ours if "upload-pack" not in line])


def test_a_look_that_finds_the_branch_where_it_was_is_one_git_process(
    source: Repository, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = repo(source, cache)
    blob = looked.blob_at(looked.tip())
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))

    assert looked.blob_at(looked.tip()) == blob

    assert processes(trace) == 1
    looked.read()
    assert processes(trace) > 1, "the trace counts"


def test_a_look_sees_what_a_read_would_see(source: Repository, cache: Path) -> None:
    looked = repo(source, cache)
    assert looked.blob_at(looked.tip()) == looked.read().blob

    source.commit({"README.md": "more\n"})
    assert looked.blob_at(looked.tip()) == looked.read().blob

    source.commit({PATH: TWO})
    changed = looked.blob_at(looked.tip())
    assert changed == looked.read().blob
    assert repo(source, cache).blob_at(looked.tip()) == changed


def test_a_look_at_a_branch_that_moved_on_meanwhile_sees_its_newest_tip(
    source: Repository, cache: Path
) -> None:
    looked = repo(source, cache)
    before = looked.tip()
    source.commit({PATH: TWO})

    assert looked.blob_at(before) == looked.read().blob


def test_a_look_distinguishes_a_branch_from_others_whose_names_end_alike(
    source: Repository, cache: Path
) -> None:
    source.git("branch", "a/refs/heads/main", "HEAD")
    source.commit({PATH: TWO})

    assert repo(source, cache).tip() == source.git("rev-parse", "refs/heads/main")


@pytest.mark.parametrize("what", ["repository", "branch", "file"])
def test_a_look_at_what_is_gone_says_so_and_sees_it_again_later(
    source: Repository, cache: Path, what: str
) -> None:
    looked = repo(source, cache)
    blob = looked.blob_at(looked.tip())
    away = source.folder.with_name("away")
    if what == "repository":
        source.folder.rename(away)
    elif what == "branch":
        source.git("branch", "--move", "main", "elsewhere")
    else:
        source.commit({PATH: None})

    with pytest.raises(GovernanceUnavailable) as caught:
        looked.blob_at(looked.tip())
    assert caught.value.remediation
    assert {"branch": "has no branch main", "file": f"there is no {PATH}"}.get(what, "") in str(
        caught.value
    )

    if what == "repository":
        away.rename(source.folder)
    elif what == "branch":
        source.git("branch", "--move", "elsewhere", "main")
    else:
        source.commit({PATH: ONE})
    assert looked.blob_at(looked.tip()) == blob


def test_a_look_refuses_what_is_no_file(source: Repository, cache: Path) -> None:
    looked = repo(source, cache)
    source.commit({PATH: Entry("README.md", SYMLINK)})

    with pytest.raises(GovernanceRefused):
        looked.blob_at(looked.tip())


# Which commit counts


def test_an_unrelated_commit_moves_the_commit_alone(source: Repository, cache: Path) -> None:
    reader = repo(source, cache)
    first = reader.read()
    tip = source.commit({"README.md": "other\n"}, at=NOON + timedelta(hours=1))
    second = reader.read()
    assert second.commit == tip != first.commit
    assert (second.source_sha, second.blob) == (first.source_sha, first.blob)
    assert second.committed_at == first.committed_at


def test_a_merge_counts_when_it_was_merged(source: Repository, cache: Path) -> None:
    source.git("reset", "--quiet", "--hard")
    long_ago = "2025-11-01T08:00:00Z"
    source.git("checkout", "--quiet", "-b", "request")
    (source.folder / PATH).write_bytes(TWO)
    dates = {"GIT_AUTHOR_DATE": long_ago, "GIT_COMMITTER_DATE": long_ago}
    source.git("commit", "--quiet", "-am", "Ask for app", environment=dates)
    source.git("checkout", "--quiet", "main")
    merged = "2026-01-10T09:30:00+02:00"
    dates = {"GIT_AUTHOR_DATE": merged, "GIT_COMMITTER_DATE": merged}
    merge = ("merge", "--quiet", "--no-ff", "-m", "Merge the request", "request")
    source.git(*merge, environment=dates)
    source.commit({"README.md": "later\n"}, at=NOON + timedelta(days=9))

    read = repo(source, cache).read()

    assert read.content == TWO
    assert read.source_sha == source.git("rev-parse", "main~1")
    assert source.git("rev-parse", f"{read.source_sha}^2") == source.tip("request")
    assert read.committed_at == datetime(2026, 1, 10, 7, 30, tzinfo=UTC)


def test_a_merge_that_leaves_the_file_as_it_was_does_not_count(
    source: Repository, cache: Path
) -> None:
    first = source.tip()
    assert first
    side = source.commit({"docs/a.md": "a\n"}, branch="side", parents=[first])
    source.commit({"docs/a.md": "a\n"}, parents=[first, side])
    assert repo(source, cache).read().source_sha == first


def test_a_file_that_came_back_counts_from_its_return(source: Repository, cache: Path) -> None:
    source.commit({PATH: None})
    back = source.commit({PATH: ONE}, at=NOON + timedelta(hours=2))
    read = repo(source, cache).read()
    assert read.source_sha == back
    assert read.committed_at == NOON + timedelta(hours=2)


@pytest.mark.parametrize("path", ["catalogs/ecr[1].yaml", "catalogs/*.yaml", ":(top)ecr.yaml"])
def test_a_path_is_no_pattern(source: Repository, cache: Path, path: str) -> None:
    ours = source.commit({path: ONE})
    source.commit({"catalogs/ecr1.yaml": "not ours\n", "ecr.yaml": "nor this\n"})
    read = repo(source, cache, path).read()
    assert read.content == ONE
    assert read.source_sha == ours


def test_a_rewritten_history_is_followed(source: Repository, cache: Path) -> None:
    reader = repo(source, cache)
    source.commit({PATH: TWO})
    reader.read()
    rewritten = source.commit({PATH: b"rewritten\n"}, parents=[], at=NOON - timedelta(days=1))
    read = reader.read()
    assert read.content == b"rewritten\n"
    assert read.commit == read.source_sha == rewritten
    assert read.committed_at == NOON - timedelta(days=1)


@pytest.mark.parametrize("seconds", ["292277026596000000", "99999999999999999999", "253402300799"])
def test_a_commit_of_a_time_that_no_date_holds_is_read_as_of_an_unknown_time(
    source: Repository, cache: Path, seconds: str
) -> None:
    first = source.tip()
    assert first
    blob = source.git("hash-object", "-w", "--stdin", stdin=TWO)
    tree = source.git("mktree", stdin=f"100644 blob {blob}\tecr.yaml\n".encode())
    said = f"tree {tree}\nparent {first}\nauthor A <a@b> 1 +0000\n"
    said += f"committer A <a@b> {seconds} +0000\n\nAhead of time\n"
    how = ("hash-object", "-t", "commit", "-w", "--stdin", "--literally")
    commit = source.git(*how, stdin=said.encode())
    source.git("update-ref", "refs/heads/main", commit)
    reader = repo(source, cache, "ecr.yaml")

    read = reader.read()

    assert (read.content, read.source_sha) == (TWO, commit)
    assert read.committed_at == datetime(1970, 1, 1, tzinfo=UTC)
    assert reader.history(commit, commit) == [GovernanceVersion(read.committed_at, read.blob, TWO)]


# What cannot be had


def test_a_missing_branch_is_named(source: Repository, cache: Path) -> None:
    error = unavailable(GovernanceRepo(str(source.folder), "trunk", PATH, cache))
    assert "has no branch trunk" in error.problem
    assert "governance.branch" in error.remediation


def test_a_branch_that_vanished_is_not_read_from_the_cache(source: Repository, cache: Path) -> None:
    reader = repo(source, cache)
    reader.read()
    source.git("update-ref", "-d", "refs/heads/main")
    assert "has no branch main" in unavailable(reader).problem


def test_a_missing_file_is_named_with_the_commit(source: Repository, cache: Path) -> None:
    error = unavailable(repo(source, cache, "catalogs/nowhere.yaml"))
    assert "there is no catalogs/nowhere.yaml on branch main" in error.problem
    assert str(source.tip())[:12] in error.problem
    assert "governance.path" in error.remediation


def test_a_file_that_vanished_is_not_read_from_the_cache(source: Repository, cache: Path) -> None:
    reader = repo(source, cache)
    reader.read()
    source.commit({PATH: None})
    assert f"there is no {PATH}" in unavailable(reader).problem


def test_a_missing_repository_is_named(tmp_path: Path, cache: Path) -> None:
    error = unavailable(repo(str(tmp_path / "nowhere"), cache))
    assert f"{tmp_path}/nowhere cannot be read" in error.problem
    assert "governance.repository" in error.remediation


def test_a_repository_that_vanished_is_not_read_from_the_cache(
    source: Repository, cache: Path
) -> None:
    reader = repo(source, cache)
    reader.read()
    source.folder.rename(source.folder.with_name("moved"))
    unavailable(reader)


def test_a_folder_that_is_no_repository_is_named(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "ecr-catalog.yaml").write_bytes(ONE)
    error = unavailable(repo(str(folder), cache, "ecr-catalog.yaml"))
    assert f"{folder} cannot be read" in error.problem


def test_an_empty_repository_has_no_branch(tmp_path: Path, cache: Path) -> None:
    empty = Repository.create(tmp_path / "empty", bare=True)
    assert "has no branch main" in unavailable(repo(empty, cache)).problem


def test_a_shallow_source_is_refused(source: Repository, tmp_path: Path, cache: Path) -> None:
    source.commit({"README.md": "later\n"})
    shallow = Repository(tmp_path / "shallow")
    source.git("clone", "--quiet", "--depth=1", source.url, str(shallow.folder))

    answer = finish(start_reader(shallow, cache), within=8)
    assert answer.startswith("GovernanceUnavailable: ")
    assert "shallow" in answer
    assert "--unshallow" in answer

    shallow.git("fetch", "--quiet", "--unshallow")
    assert repo(shallow, cache).read().source_sha == source.git("rev-parse", "main~1")


# What stands there and is no governance file


def test_a_symbolic_link_is_refused(source: Repository, cache: Path) -> None:
    source.commit({PATH: Entry("../README.md", SYMLINK)})
    assert "a symbolic link" in refused(repo(source, cache)).problem


def test_a_submodule_is_refused(source: Repository, cache: Path) -> None:
    source.commit({PATH: Entry(source.tip() or "", SUBMODULE)})
    assert "a submodule" in refused(repo(source, cache)).problem


def test_a_folder_is_refused(source: Repository, cache: Path) -> None:
    source.commit({f"{PATH}/inside.yaml": ONE})
    assert "a folder" in refused(repo(source, cache)).problem


def test_a_file_behind_a_symbolic_link_is_not_found(source: Repository, cache: Path) -> None:
    source.commit({"linked": Entry("catalogs", SYMLINK)})
    assert "there is no linked/" in unavailable(repo(source, cache, f"linked/{PATH[9:]}")).problem


def test_a_file_of_20_mb_is_read_and_one_byte_more_is_refused(
    source: Repository, cache: Path
) -> None:
    reader = repo(source, cache)
    source.commit({PATH: b" " * MAX_BYTES})
    assert len(reader.read().content) == MAX_BYTES
    source.commit({PATH: b" " * (MAX_BYTES + 1)})
    assert "the file has 20,000,001 bytes, more than 20,000,000" in refused(reader).problem


# The cached clone


def test_a_server_that_filters_gives_a_clone_without_foreign_blobs(
    source: Repository, cache: Path
) -> None:
    source.git("config", "uploadpack.allowFilter", "true")
    source.commit({PATH: TWO, "big.bin": b"x" * 100_000})
    reader = repo(source.url, cache)

    assert reader.read().content == TWO
    (clone,) = cache.glob("*.git")
    missing = {
        line[1:]
        for line in Repository(clone)
        .git("rev-list", "--objects", "--missing=print", "main")
        .splitlines()
        if line.startswith("?")
    }
    foreign = {
        source.git("rev-parse", spec)
        for spec in ("main:big.bin", "main:README.md", f"main~1:{PATH}")
    }
    assert missing == foreign

    source.commit({PATH: b"later\n"})
    assert reader.read().content == b"later\n"


def test_a_server_that_does_not_filter_is_read_all_the_same(
    source: Repository, cache: Path
) -> None:
    source.git("config", "uploadpack.allowFilter", "false")
    reader = repo(source.url, cache)
    assert reader.read().content == ONE
    source.commit({PATH: TWO})
    assert reader.read().content == TWO


def test_several_processes_share_a_cold_cache(source: Repository, cache: Path) -> None:
    readers = [start_reader(source, cache) for _ in range(4)]
    answers = {finish(reader) for reader in readers}
    assert answers == {f"{source.tip()} {ONE!r}"}
    assert len(list(cache.glob("*.git"))) == 1


def test_a_clone_in_use_is_waited_for(source: Repository, cache: Path) -> None:
    with GitClone(str(source.folder), "main", cache).locked():
        reader = start_reader(source, cache)
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(timeout=1.5)
    assert finish(reader) == f"{source.tip()} {ONE!r}"


def test_a_clone_that_stays_in_use_is_given_up(
    source: Repository, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_clone, "GIVE_UP_AFTER", 0.2)
    with GitClone(str(source.folder), "main", cache).locked():
        assert "another process" in unavailable(repo(source, cache)).problem


def test_a_process_that_was_killed_leaves_nothing_locked(source: Repository, cache: Path) -> None:
    repo(source, cache).read()
    (clone,) = cache.glob("*.git")
    # What git leaves behind when it is killed while it writes its configuration or a branch.
    (clone / "config.lock").touch()
    (clone / "refs/heads/main.lock").touch()
    source.commit({PATH: TWO})
    assert repo(source, cache).read().content == TWO


@pytest.mark.parametrize("branch", ["tmp_work/eu", "team/tmp_work", "tmp_obj_1", "tmp_pack"])
def test_a_branch_that_is_named_like_what_git_leaves_behind_stays(
    source: Repository, cache: Path, branch: str
) -> None:
    source.commit({PATH: TWO}, branch=branch)
    reader = GovernanceRepo(str(source.folder), branch, PATH, cache)
    assert [reader.read().content for _ in range(3)] == [TWO] * 3


def test_what_a_killed_git_leaves_behind_is_removed(source: Repository, cache: Path) -> None:
    repo(source, cache).read()
    (clone,) = cache.glob("*.git")
    some = next(clone.glob("objects/??"), clone / "objects/aa")
    some.mkdir(exist_ok=True)
    left = [
        clone / "packed-refs.lock",
        clone / "objects/pack/tmp_pack_x",
        clone / "objects/pack/.tmp-1-pack-x.pack",
        some / "tmp_obj_x",
    ]
    for each in left:
        each.touch()
    repo(source, cache).read()
    assert [each for each in left if each.exists()] == []


def test_a_use_of_the_clone_writes_no_configuration(source: Repository, cache: Path) -> None:
    source.git("config", "uploadpack.allowFilter", "true")
    reader = repo(source.url, cache)
    reader.read()
    (clone,) = cache.glob("*.git")
    before = (clone / "config").stat()
    source.commit({PATH: TWO})
    assert reader.read().content == TWO
    after = (clone / "config").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("version", ["0", "2"])
def test_a_server_that_offers_to_filter_and_cannot_is_read_whole(
    source: Repository, cache: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    source.git("config", "uploadpack.allowFilter", "true")
    if version == "2":
        source.git("config", "uploadpackfilter.allow", "false")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", version)
    reader = repo(source.url, cache)
    assert reader.read().content == ONE
    source.commit({PATH: TWO})
    assert reader.read().content == TWO


# The first clone


@dataclass
class SlowServer:
    """A server behind SSH that sends one megabyte of two, and waits until it may go on."""

    folder: Path
    source: Repository

    @property
    def url(self) -> str:
        return f"ssh://git.example.com{self.source.folder}"

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def go_on(self) -> None:
        (self.folder / "go").touch()


SSH: Final = """#!{python} -S
import os, subprocess, sys, time
from pathlib import Path
folder = Path("{folder}")
with (folder / "calls").open("a") as calls:
    calls.write(sys.argv[-1] + "\\n")
sent = 0
with subprocess.Popen(sys.argv[-1], shell=True, stdout=subprocess.PIPE) as served:
    while some := os.read(served.stdout.fileno(), 65536):
        while sent > 1_000_000 and not (folder / "go").exists():
            time.sleep(0.02)
        sent += os.write(1, some)
"""


@pytest.fixture
def slow(source: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowServer:
    rng = random.Random(1)
    source.commit({f"big/{n}": rng.randbytes(50_000) for n in range(40)})
    server = SlowServer(tmp_path / "slow", source)
    server.folder.mkdir()
    ssh = server.folder / "ssh"
    ssh.write_text(SSH.format(python=sys.executable, folder=server.folder))
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    return server


def test_a_first_clone_that_takes_longer_than_a_run_waits_goes_on_and_says_how_far_it_is(
    slow: SlowServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_clone, "GIVE_UP_AFTER", 2)
    monkeypatch.setattr(git_clone, "JOIN_SECONDS", 0.1)
    reader = repo(slow.url, cache)
    for _ in range(2):
        error = unavailable(reader)
        assert re.search(r"the first clone is under way: \d+ %", error.problem)
        assert "goes on in the background" in error.remediation
    assert len(slow.calls()) == 2, "one question, and one fetch that both runs wait for"
    slow.go_on()
    monkeypatch.setattr(git_clone, "JOIN_SECONDS", 120)
    assert reader.read().content == ONE
    assert len(list(cache.glob("*.new*"))) == 0


def test_a_first_clone_outlives_the_process_that_started_it(
    slow: SlowServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_reader(slow.url, cache)
    wait_until(lambda: (slow.folder / "calls").exists() and len(slow.calls()) == 2)
    process.kill()
    process.wait()
    slow.go_on()
    monkeypatch.setattr(git_clone, "JOIN_SECONDS", 120)
    assert repo(slow.url, cache).read().content == ONE
    assert len(slow.calls()) == 3, "what was fetched by then is kept"


def test_a_first_clone_whose_process_is_gone_is_started_again(
    slow: SlowServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_clone, "GIVE_UP_AFTER", 0.5)
    reader = repo(slow.url, cache)
    before = set(psutil.Process().children())
    assert "under way" in unavailable(reader).problem
    (half,) = cache.glob("*.new*")
    ours = set(psutil.Process().children()) - before
    clones = [one for one in ours if os.getpgid(one.pid) == one.pid]
    assert clones
    for clone in clones:
        os.killpg(clone.pid, signal.SIGKILL)
        clone.wait()
    monkeypatch.setattr(git_clone, "GIVE_UP_AFTER", 120)
    slow.go_on()
    assert repo(slow.url, cache).read().content == ONE
    assert not half.exists()


def test_a_first_clone_has_a_time_of_its_own(
    slow: SlowServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECR_CATALOG_CLONE_SECONDS", "1")
    error = unavailable(repo(slow.url, cache))
    assert "the first clone was ended after 1 s" in error.problem
    assert "ECR_CATALOG_CLONE_SECONDS gives it more time" in error.problem
    monkeypatch.setenv("ECR_CATALOG_CLONE_SECONDS", "an hour")
    assert "not a whole number of seconds" in unavailable(repo(slow.url, cache)).problem


def test_a_git_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    note = tmp_path / "pid"
    ssh.write_text(f"#!/bin/sh\necho $PPID > {note}.new; mv {note}.new {note}; exec sleep 600\n")
    ssh.chmod(0o755)
    process = start_reader("git@git.example.com:x.git", tmp_path / "cache", GIT_SSH=str(ssh))
    wait_until(note.exists)
    git = psutil.Process(int(note.read_text()))
    hanging = git.children()
    process.kill()
    process.wait()
    wait_until(lambda: not git.is_running() or git.status() == psutil.STATUS_ZOMBIE)
    for each in hanging:
        each.kill()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_half_made_clone_is_made_again(source: Repository, cache: Path) -> None:
    repo(source, cache).read()
    (clone,) = cache.glob("*.git")
    (clone / "config").unlink()
    (clone / "refs/heads/main").unlink()
    assert repo(source, cache).read().content == ONE


def test_two_branches_of_one_repository_do_not_meet(source: Repository, cache: Path) -> None:
    source.commit({PATH: TWO}, branch="next", parents=[source.tip() or ""])
    ours = repo(source, cache)
    other = GovernanceRepo(str(source.folder), "next", PATH, cache)
    assert [ours.read().content, other.read().content, ours.read().content] == [ONE, TWO, ONE]


def start_reader(
    source: Repository | str, cache: Path, **environment: str
) -> subprocess.Popen[str]:
    """Read in a process, and process group, of its own."""
    script = (
        "import sys; from pathlib import Path\n"
        "from ecr_catalog_pipeline.adapters.governance_repo import GovernanceRepo\n"
        "from ecr_catalog_pipeline.core.errors import CatalogError\n"
        "repo = GovernanceRepo(sys.argv[1], 'main', sys.argv[2], Path(sys.argv[3]))\n"
        "try: read = repo.read(); print(read.commit, read.content)\n"
        "except CatalogError as error: print(f'{type(error).__name__}: {error}')"
    )
    where = source if isinstance(source, str) else str(source.folder)
    return subprocess.Popen(
        [sys.executable, "-c", script, where, PATH, str(cache)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(reader: subprocess.Popen[str], *, within: float = 120) -> str:
    try:
        output, _ = reader.communicate(timeout=within)
    finally:
        # Whatever git has started ends with it, even if the reader itself is gone.
        with suppress(ProcessLookupError):
            os.killpg(reader.pid, signal.SIGKILL)
    assert reader.returncode == 0
    return output.strip()


# The environment


@pytest.mark.parametrize(
    "variable",
    ["GIT_DIR", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE", "GIT_WORK_TREE"],
)
def test_the_repository_we_run_in_does_not_confuse_git(
    source: Repository,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    other = Repository.create(tmp_path / "other")
    other.commit({PATH: b"the wrong one\n"})
    before = snapshot(other.git_folder)
    inside = {"GIT_OBJECT_DIRECTORY": ".git/objects", "GIT_INDEX_FILE": ".git/index"}
    place = "" if variable == "GIT_WORK_TREE" else inside.get(variable, ".git")
    monkeypatch.setenv(variable, str(other.folder / place))

    assert repo(source, cache).read().content == ONE

    assert snapshot(other.git_folder) == before


def test_git_speaks_english_whatever_the_locale(
    source: Repository, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.setenv(name, "de_DE.UTF-8")
    error = unavailable(GovernanceRepo(str(source.folder), "trunk", PATH, cache))
    assert "has no branch trunk" in error.problem


def test_a_missing_git_is_said(
    source: Repository, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "git is not installed" in unavailable(repo(source, cache)).problem


def test_an_unusable_cache_is_said(source: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "the cache" in unavailable(repo(source, tmp_path / "file")).problem


@pytest.mark.parametrize("address", ["ext::sh -c 'touch {mark}'", "git://127.0.0.1:1/x"])
def test_a_transport_that_is_not_ours_is_not_used(
    tmp_path: Path, cache: Path, address: str
) -> None:
    mark = tmp_path / "mark"
    unavailable(repo(address.format(mark=mark), cache))
    assert not mark.exists()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Secrets and silence

SECRET: Final = "ghp_S3cr3tT0ken"


def shown(error: BaseException) -> str:
    """All that a log or a user interface may print of an error."""
    return f"{error!r} {''.join(traceback.format_exception(error))}"


@pytest.mark.parametrize("credentials", [f"{SECRET}@", f"bot:{SECRET}@", f"{SECRET}:x-oauth@"])
def test_a_token_in_gits_configuration_is_in_no_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: str
) -> None:
    configuration = tmp_path / "gitconfig"
    configuration.write_text(
        f'[url "https://{credentials}127.0.0.1:1/"]\n  insteadOf = https://git.example.com/\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    error = unavailable(repo("https://git.example.com/team/catalog.git", cache))
    assert "git.example.com/team/catalog.git" in error.problem
    assert SECRET not in shown(error)


def test_a_token_as_a_urls_user_name_is_in_no_error(cache: Path) -> None:
    reader = repo(f"https://{SECRET}@127.0.0.1:1/team/catalog.git", cache)
    error = unavailable(reader)
    assert "127.0.0.1:1/team/catalog.git" in error.problem
    assert SECRET not in shown(error)
    assert SECRET not in reader.where


def test_a_server_that_asks_for_a_password_is_an_error_not_a_prompt(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marker = tmp_path / "asked"
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" > {marker}\necho "Permission denied" >&2\nexit 255\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    error = unavailable(repo("git@git.example.com:team/catalog.git", cache))
    assert "git.example.com" in marker.read_text()
    assert "git@git.example.com:team/catalog.git cannot be read" in error.problem


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_is_given_up(
    silent_server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_clone, "GIVE_UP_AFTER", 1)
    began = time.monotonic()
    error = unavailable(repo(f"https://{silent_server}/team/catalog.git", cache))
    assert time.monotonic() - began < 20
    assert "in 1 s" in error.problem or "1 secs" in error.problem
