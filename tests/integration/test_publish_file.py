from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from filelock import FileLock

from ecr_catalog_pipeline.adapters import publish_file
from ecr_catalog_pipeline.adapters.publish_file import FilePublisher
from ecr_catalog_pipeline.adapters.publisher import Published
from ecr_catalog_pipeline.core.errors import LostRace, TargetRefused, TargetUnavailable
from tests.integration.publisher_contract import (
    FOREIGN,
    NOTHING,
    ONE,
    PROVENANCE,
    TWO,
    PublisherContract,
    lost_race,
    publish,
)


@dataclass(frozen=True)
class FileTarget:
    path: Path

    def publisher(self) -> FilePublisher:
        return FilePublisher(self.path)

    def content(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def write(self, content: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(content)

    def remove(self) -> None:
        self.path.unlink()

    def lists(self) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in self.path.parent.glob("*.jsonl")}

    def write_list(self, name: str, content: bytes | None) -> None:
        path = self.path.with_name(name)
        path.unlink() if content is None else path.write_bytes(content)

    @property
    def mode(self) -> str:
        return oct(stat.S_IMODE(self.path.stat().st_mode))

    @property
    def beside(self) -> set[str]:
        """All that lies in the folder, but for the lock, which stays."""
        kept = {self.path.name, f".{self.path.name}.lock"}
        return {each.name for each in self.path.parent.iterdir()} - kept


@pytest.fixture
def target(tmp_path: Path) -> FileTarget:
    """A file in a folder that does not exist yet."""
    return FileTarget(tmp_path / "catalog" / "resources" / "ecr-registry.yaml")


class TestContract(PublisherContract):
    """The contract, for a local file."""


# The file


def test_a_missing_folder_is_made_when_there_is_something_to_publish(target: FileTarget) -> None:
    publisher = target.publisher()
    assert publisher.read() == NOTHING
    assert not target.path.parent.exists()
    publish(publisher, ONE)
    assert target.content() == ONE


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_a_new_file_can_be_read_by_all(target: FileTarget, mask: int) -> None:
    before = os.umask(mask)
    try:
        publish(target.publisher(), ONE)
    finally:
        os.umask(before)
    assert target.mode == "0o644"


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664, 0o755])
def test_the_permissions_of_a_file_are_kept(target: FileTarget, mode: int) -> None:
    target.write(FOREIGN)
    target.path.chmod(mode)
    publish(target.publisher(), ONE)
    assert target.content() == ONE
    assert target.mode == oct(mode)


def test_nothing_but_the_file_and_its_lock_is_left(target: FileTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    publish(publisher, TWO)
    lost_race(publisher, ONE, version)
    assert target.beside == set()


def test_reading_writes_nothing(target: FileTarget) -> None:
    target.write(ONE)
    before = target.path.stat()
    target.publisher().read()
    assert target.path.stat().st_mtime_ns == before.st_mtime_ns
    assert [each.name for each in target.path.parent.iterdir()] == [target.path.name]


def test_the_file_is_replaced_and_not_rewritten(target: FileTarget) -> None:
    target.write(ONE)
    with target.path.open("rb") as reader:
        publish(target.publisher(), TWO)
        assert reader.read() == ONE


def test_a_reader_sees_the_old_file_or_the_new_one(target: FileTarget) -> None:
    contents = [letter * 2_000_000 for letter in (b"a", b"b")]
    publisher = target.publisher()
    publish(publisher, contents[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(target.path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(1, 9):
            publish(publisher, contents[turn % 2])
    finally:
        done.set()
        reader.join()
    assert seen <= set(contents)


# What stands there


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_refused(target: FileTarget, tmp_path: Path, *, dangling: bool) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    if not dangling:
        elsewhere.write_bytes(ONE)
    target.path.parent.mkdir(parents=True)
    target.path.symlink_to(elsewhere)
    publisher = target.publisher()
    for expected in (None, "0" * 64):
        with pytest.raises(TargetRefused, match="symbolic link") as caught:
            publisher.publish(TWO, expected, PROVENANCE)
        assert caught.value.needs == "human"
        assert "publish.path" in caught.value.remediation
    with pytest.raises(TargetRefused, match="symbolic link"):
        publisher.read()
    assert target.path.is_symlink()
    assert elsewhere.exists() != dangling
    assert target.beside == set()


def test_a_link_that_appeared_in_between_is_refused(target: FileTarget, tmp_path: Path) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    elsewhere = tmp_path / "elsewhere.yaml"
    target.path.rename(elsewhere)
    target.path.symlink_to(elsewhere)
    with pytest.raises(TargetRefused, match="symbolic link"):
        publisher.publish(TWO, version, PROVENANCE)
    assert elsewhere.read_bytes() == ONE


def test_a_folder_behind_a_symbolic_link_is_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    publish(FilePublisher(tmp_path / "linked" / "entity.yaml"), ONE)
    assert (tmp_path / "real" / "entity.yaml").read_bytes() == ONE


def test_a_folder_at_the_path_is_not_replaced(target: FileTarget) -> None:
    target.path.mkdir(parents=True)
    publisher = target.publisher()
    for act in (publisher.read, lambda: publisher.publish(ONE, None, PROVENANCE)):
        with pytest.raises((TargetRefused, TargetUnavailable), match=r"ecr-registry\.yaml"):
            act()
    assert target.path.is_dir()
    assert target.beside == set()


def test_a_file_where_a_folder_is_needed_is_not_replaced(target: FileTarget) -> None:
    target.path.parent.parent.mkdir()
    target.path.parent.write_bytes(FOREIGN)
    publisher = target.publisher()
    for act in (publisher.read, lambda: publisher.publish(ONE, None, PROVENANCE)):
        with pytest.raises((TargetRefused, TargetUnavailable), match=r"ecr-registry\.yaml"):
            act()
    assert target.path.parent.read_bytes() == FOREIGN


# What goes wrong while it is written


def _publish_with_little_room(path: Path, limit: int) -> None:
    """Publish where no file may grow past the limit: the disk is full in the middle of it."""
    publisher = FilePublisher(path)
    version = publisher.read().version
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        publisher.publish(b"x" * 4 * limit, version, PROVENANCE)
    except TargetUnavailable as error:
        sys.exit(0 if "cannot be written: File too large" in str(error) else 2)
    sys.exit(1)


@pytest.mark.parametrize("before", [ONE, None])
def test_a_write_that_fails_in_the_middle_leaves_the_old_file(
    target: FileTarget, before: bytes | None
) -> None:
    if before is not None:
        target.write(before)
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_publish_with_little_room, args=(target.path, 64 * 1024))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
    assert target.content() == before
    assert target.beside == set()


def test_a_file_that_was_replaced_before_something_failed_counts_as_published(
    target: FileTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def no_folder_reaches_the_disk(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", no_folder_reaches_the_disk)

    version = publish(target.publisher(), ONE)

    assert target.publisher().read() == Published(ONE, version)


def test_a_process_that_was_killed_leaves_the_file_whole_and_the_lock_free(
    target: FileTarget,
) -> None:
    target.write(ONE)
    script = (
        "import os, sys, signal; from pathlib import Path\n"
        "from filelock import FileLock\n"
        "FileLock(sys.argv[1]).acquire()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    lock = target.path.with_name(f".{target.path.name}.lock")
    subprocess.run([sys.executable, "-c", script, str(lock)], check=False, timeout=60)
    assert lock.exists()
    publish(target.publisher(), TWO)
    assert target.content() == TWO


def test_a_lock_that_stays_held_is_given_up(
    target: FileTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_file, "LOCK_SECONDS", 0.2)
    target.write(ONE)
    publisher = target.publisher()
    version = publisher.read().version
    with (
        FileLock(str(target.path.with_name(f".{target.path.name}.lock"))),
        pytest.raises(TargetUnavailable, match="another process") as caught,
    ):
        publisher.publish(TWO, version, PROVENANCE)
    assert caught.value.needs == "time"
    assert target.content() == ONE
    publisher.publish(TWO, version, PROVENANCE)
    assert target.content() == TWO


ROUNDS: Final = 20


def _compete(path: Path, name: str, notes: Path) -> None:
    """In every round, publish on what the round before left; note the rounds that were won."""
    publisher = FilePublisher(path)
    won = []
    for turn in range(ROUNDS):
        version = publisher.read().version
        (notes / f"{name}.{turn}").touch()
        while len(list(notes.glob(f"*.{turn}"))) < 2:
            time.sleep(0)
        try:
            publisher.publish(f"{name} {turn}".encode(), version, PROVENANCE)
        except LostRace:
            pass
        else:
            won.append(f"{name} {turn}")
        (notes / f"{name}.{turn}.done").touch()
        while len(list(notes.glob(f"*.{turn}.done"))) < 2:
            time.sleep(0)
    (notes / f"{name}.won").write_text("\n".join(won))


def test_of_two_processes_at_once_exactly_one_wins(target: FileTarget, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_compete, args=(target.path, name, notes)) for name in ("ann", "bob")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    won = [line for file in notes.glob("*.won") for line in file.read_text().splitlines()]
    assert sorted(int(line.split()[1]) for line in won) == list(range(ROUNDS))
    (last,) = (line for line in won if line.endswith(f" {ROUNDS - 1}"))
    assert target.content() == last.encode()
    assert target.beside == set()
