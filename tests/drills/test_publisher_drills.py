"""Publishing under every trouble: compare-and-swap, the fence, whole files and the hold.

Every drill asserts the same: nothing was overwritten that was not read, what is published is a
whole entity, no repository that is still live was removed, the error says what and how to fix it,
and the next healthy run recovers alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self, cast

import dagster as dg
import pytest
from filelock import FileLock

from ecr_catalog_pipeline.adapters import aws, git_clone, git_command, publish_file
from ecr_catalog_pipeline.core.entity import read_published
from ecr_catalog_pipeline.core.errors import (
    CatalogError,
    LostRace,
    StalePlan,
    TargetRefused,
    TargetUnavailable,
)
from tests.drills.drill import Drill, Met, Standing, meet, wrongly_removed
from tests.drills.processes import Came, RunProcess, run_process
from tests.drills.s3_faults import Broken, S3Faults
from tests.integration.conftest import SYMLINK, Entry, Repository
from tests.integration.worlds import (
    KINDS,
    FileTarget,
    GitTarget,
    S3Target,
    World,
    a_world,
    meddling,
    s3_server,
)

TEN: Final = tuple(f"team/app-{number}" for number in range(10))
SECRET: Final = "S3cr3tOfTheProcess"
ROUNDS: Final = 8
KILLS: Final = int(os.environ.get("ECR_CATALOG_KILLS", "24"))
"""Of each target, every second one in the publication. 200 is a drill of minutes."""


class FaultyS3Target(S3Target):
    """A bucket that the mirror reaches through a proxy, and everybody else directly."""

    def __init__(self, endpoint_url: str, faults: S3Faults) -> None:
        super().__init__(endpoint_url)
        self.faults = faults

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"endpoint_url": self.faults.endpoint_url}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint_url:
        yield endpoint_url


@contextmanager
def world_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world of ten live repositories that are published."""
    if kind == "s3":
        endpoint_url = request.getfixturevalue("s3")
        with S3Faults(endpoint_url) as faults:
            target = FaultyS3Target(endpoint_url, faults)
            with a_world(folder, target) as world:
                yield world
        return
    with a_world(folder, GitTarget(folder) if kind == "git" else FileTarget(folder)) as world:
        yield world


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world of each kind of target."""
    with world_of(request.param, tmp_path, request) as world:
        yield published(world)


@pytest.fixture
def git_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_of("git", tmp_path, request) as world:
        yield published(world)


@pytest.fixture
def file_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_of("file", tmp_path, request) as world:
        yield published(world)


@pytest.fixture
def s3_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_of("s3", tmp_path, request) as world:
        yield published(world)


@pytest.fixture(autouse=True)
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry once, and wait for nobody for long: as good as in earnest, and sooner done."""
    monkeypatch.setattr(aws, "ATTEMPTS", 2)
    monkeypatch.setattr(aws, "READ_SECONDS", 2)
    monkeypatch.setattr(publish_file, "LOCK_SECONDS", 1)
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'drill.secret={SECRET}'")


def published(world: World) -> World:
    world.have(*TEN)
    assert world.sync().outcome == "published"
    return world


def git_target(world: World) -> GitTarget:
    assert isinstance(world.target, GitTarget)
    return world.target


def file_target(world: World) -> FileTarget:
    assert isinstance(world.target, FileTarget)
    return world.target


def faults_of(world: World) -> S3Faults:
    assert isinstance(world.target, FaultyS3Target)
    return world.target.faults


def kind_of(world: World) -> str:
    return str(world.target.settings()["kind"])


# What holds after every drill


def assert_whole(world: World, content: bytes | None) -> None:
    """It is an entity of ours from its first byte to its last."""
    assert content is not None
    assert not read_published(content, world.mirror.identity).damaged
    assert content.endswith(b"\n")


def assert_called_for(world: World) -> None:
    """What is published is what governance and AWS call for now: every name of ours is in both."""
    assert set(world.listed) == set(world.fake.names())
    assert_whole(world, world.content)


def recovers(world: World, drill: Drill) -> None:
    """Let a healthy run try, in adapters of its own; a target that vanished takes an approval."""
    world.restart()
    outcome = (meet_approved(world) if world.content is None else meet(world)).outcome
    assert_called_for(world)
    assert meet(world).outcome == "unchanged"
    drill.recovered = outcome in {"published", "unchanged"}
    assert drill.recovered


def meet_approved(world: World) -> Met:
    """Run where the target vanished: its names are unknown, so that somebody has to approve."""
    held = meet(world)
    assert held.outcome == "held", held.words
    assert held.synced is not None
    return meet(world, approve=held.synced.planned.plan.plan_hash)


def assert_told(world: World, met: Met, kind: type[CatalogError], *words: str) -> None:
    """The error names the target and the cause, has a way out, and tells no secret."""
    assert met.failure is not None, met.words
    error = met.failure.__cause__
    assert isinstance(error, kind), met.words
    assert world.adapters.publisher.where in error.problem
    for word in words:
        assert word in error.problem
    assert error.remediation
    assert SECRET not in met.description
    assert "\n" not in met.description


def met_by(world: World, meddle: Callable[[bytes], object]) -> Met:
    """Run the job, and let somebody meddle between its plan and its publication."""
    return meet(world, overrides=meddling(world, meddle))


# Somebody else, between the plan and the publication: the same for every target


def by_hand(world: World) -> bytes:
    """The published entity with a line that somebody changed by hand."""
    content = world.content
    assert content is not None
    changed = content.replace(b"owner: platform-team", b"owner: by-hand", 1)
    assert changed != content
    return changed


def test_what_somebody_wrote_in_between_is_not_overwritten(world: World, drill: Drill) -> None:
    drill.broken, drill.fault = f"{kind_of(world)}: the published file", "edited in between"
    world.have("newcomer")
    before, theirs = Standing.of(world), by_hand(world)

    met = met_by(world, lambda _: world.target.overwrite(theirs))

    drill.observe(world, before, met)
    assert world.content == theirs
    assert_told(world, met, LostRace, "was changed by someone else after it was read")
    recovers(world, drill)


def test_what_somebody_removed_in_between_is_not_brought_back(world: World, drill: Drill) -> None:
    drill.broken, drill.fault = f"{kind_of(world)}: the published file", "removed in between"
    world.have("newcomer")
    before = Standing.of(world)

    met = met_by(world, lambda _: world.target.remove())

    drill.happened, drill.touched = met.words, False
    assert world.content is None
    assert_told(world, met, LostRace)
    recovers(world, drill)
    drill.wrong_removals = wrongly_removed(world, before)
    assert not drill.wrong_removals


# Runs that are late


LATE: Final = ["governance_catalog", "ecr_inventory", "reconciled_registry"]


def test_a_run_given_up_that_publishes_late_is_stale(world: World, drill: Drill) -> None:
    drill.broken, drill.fault = (
        f"{kind_of(world)}: a run, given up",
        "publishes 91 s after its reads",
    )
    world.have("newcomer")
    before = Standing.of(world)
    world.sync(only=LATE)
    stored = Path(world.instance.storage_directory(), world.name, "reconciled_registry.json")
    planned = json.loads(stored.read_text())
    began = datetime.now(UTC) - timedelta(seconds=91)
    planned["plan"]["reads_began_at"] = began.isoformat()
    stored.write_text(json.dumps(planned))

    met = meet(world, only=["published_entity"])

    drill.observe(world, before, met)
    assert not drill.touched
    assert met.failure is not None
    assert isinstance(met.failure.__cause__, StalePlan)
    recovers(world, drill)


def test_a_run_that_wakes_after_another_published_loses_the_race(
    world: World, drill: Drill
) -> None:
    drill.broken, drill.fault = f"{kind_of(world)}: a run, given up", "SIGSTOP, then SIGCONT"
    world.have("newcomer")
    before = Standing.of(world)
    with run_process(world.mirrors, world.name, world.cache) as late:
        assert late.came().outcome == "ready"
        assert late.does("plan").outcome == "planned"
        late.signal(signal.SIGSTOP)
        late.tell("publish")
        world.have("newer")
        met = meet(world)
        assert met.outcome == "published"
        newest, history = world.content, list(world.target.history())
        late.signal(signal.SIGCONT)
        came = late.came()

    assert (came.outcome, came.error) == (None, "LostRace"), came.words
    assert (world.content, list(world.target.history())) == (newest, history)
    drill.observe(world, before, met)
    drill.happened = f"{came.error}: {came.words}"
    recovers(world, drill)


# Two at once


class Watching:
    """A reader that looks all the time, as Backstage might."""

    def __init__(self, world: World) -> None:
        self.seen: set[bytes] = set()
        self.looks = 0
        self._look = self._looking(world)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            content = self._look()
            if content is not None:
                self.seen.add(content)
            self.looks += 1
            time.sleep(0.001)

    @staticmethod
    def _looking(world: World) -> Callable[[], bytes | None]:
        if not isinstance(world.target, GitTarget):
            return world.target.content
        repository, name = world.target.repository, f"{world.target.branch}:{world.target.path}"
        return lambda: repository.bytes_of("cat-file", "blob", name)


def test_of_two_processes_at_once_exactly_one_wins_each_round(world: World, drill: Drill) -> None:
    drill.broken, drill.fault = (
        f"{kind_of(world)}: single flight",
        f"two processes, {ROUNDS} rounds",
    )
    before = Standing.of(world)
    whole = {before.content}
    results: list[Came] = []
    shared = world.cache
    with (
        run_process(world.mirrors, world.name, shared) as ann,
        run_process(world.mirrors, world.name, shared.with_name("cache-of-bob")) as bob,
        Watching(world) as reader,
    ):
        both = (ann, bob)
        for each in both:
            each.came()
        for turn in range(ROUNDS):
            world.have(f"newcomer-{turn}")
            for seconds, each in enumerate(both):
                each.tell("plan", ahead=timedelta(seconds=30 * seconds))
            plans = [each.came().content for each in both]
            assert plans[0] != plans[1]
            for each in random.Random(turn).sample(both, 2):
                each.tell("publish")
            came = [each.came() for each in both]
            results += came
            (winner,) = (each for each in came if each.error is None)
            assert winner.outcome == "published"
            assert sorted([each.error for each in came], key=str) == ["LostRace", None]
            assert world.content == winner.content
            whole |= set(plans)
    assert reader.looks > ROUNDS
    assert reader.seen <= whole
    assert len(reader.seen) > 1
    assert len(world.target.history()) == (1 if kind_of(world) == "file" else 1 + ROUNDS)
    drill.observe(world, before, Met(synced=world.sync()))
    drill.happened = f"{ROUNDS} won, {ROUNDS} LostRace; a reader looked {reader.looks} times"
    assert not drill.wrong_removals
    recovers(world, drill)


def test_of_two_whole_runs_at_once_one_publishes_and_none_harms(world: World, drill: Drill) -> None:
    drill.broken, drill.fault = (
        f"{kind_of(world)}: single flight",
        "two whole runs, one shared cache",
    )
    before = Standing.of(world)
    outcomes: list[tuple[str, ...]] = []
    with (
        run_process(world.mirrors, world.name, world.cache) as ann,
        run_process(world.mirrors, world.name, world.cache) as bob,
    ):
        for each in (ann, bob):
            each.came()
        for turn in range(ROUNDS):
            world.have(f"newcomer-{turn}")
            ann.tell("run")
            bob.tell("run", ahead=timedelta(seconds=1))
            came = [each.came() for each in (ann, bob)]
            outcomes.append(tuple(sorted(each.outcome or each.error or "" for each in came)))
            assert world.content in [each.content for each in came if each.outcome == "published"]
            assert_called_for(world)
    assert set(outcomes) <= {("LostRace", "published"), ("published", "unchanged")}
    drill.observe(world, before, Met(synced=world.sync()))
    lost = outcomes.count(("LostRace", "published"))
    drill.happened = f"{ROUNDS} published once; the other: {lost} LostRace, else unchanged"
    recovers(world, drill)


# Killed at any point


def residue(world: World) -> list[str]:
    """What killed processes have left beside the published file and in the clones."""
    left = [
        each.name
        for each in world.cache.rglob("*")
        if (each.suffix in {".lock", ".new"} and each.parent != world.cache)
        or each.name.startswith(("tmp_", ".tmp-"))
    ]
    return left + beside(world)


def beside(world: World) -> list[str]:
    """What lies beside the published file, but for its lock, which stays."""
    if not isinstance(world.target, FileTarget):
        return []
    path = world.target.path
    kept = {path.name, f".{path.name}.lock"}
    return [each.name for each in path.parent.iterdir() if each.name not in kept]


class Moments:
    """When to kill, seeded: all over the time that a step takes, which is found out on the way."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._reach = {"run": 0.3, "publish": 0.03}

    def kill_in(self, victim: RunProcess, step: str) -> None:
        seconds = self._chance.random() * self._reach[step]
        victim.tell(step)
        time.sleep(seconds)
        # Not yet done at the latest moment: the next ones may be later; done: sooner.
        done = victim.has_come()
        victim.kill()
        self._reach[step] *= 0.8 if done else 1.4


@pytest.mark.timeout(300 + 10 * KILLS)
def test_a_process_killed_at_any_point_leaves_old_or_new_and_blocks_nobody(
    world: World, drill: Drill
) -> None:
    drill.broken, drill.fault = f"{kind_of(world)}: a run", f"SIGKILL at {KILLS} moments"
    first = Standing.of(world)
    moments = Moments(20260109)
    with run_process(world.mirrors, world.name, world.cache) as survivor:
        survivor.came()
        after_kill = {"old": 0, "new": 0}
        in_publication = 0
        most_residue = 0
        next_one = RunProcess(world.mirrors, world.name, world.cache)
        for turn in range(KILLS):
            victim, next_one = next_one, RunProcess(world.mirrors, world.name, world.cache)
            victim.came()
            world.have(f"newcomer-{turn}")
            old = world.content
            if turn % 15 == 14:
                shutil.rmtree(world.cache)  # the clones are made again while it is killed
            if turn % 2:
                assert victim.does("plan").outcome == "planned"
            moments.kill_in(victim, "publish" if turn % 2 else "run")

            now = world.content
            assert_whole(world, now)
            after_kill["old" if now == old else "new"] += 1
            in_publication += turn % 2
            if now != old:
                assert set(world.listed) == set(world.fake.names())
            most_residue = max(most_residue, len(residue(world)))
            came = survivor.does("run")
            if came.error == "LostRace":
                # A git that outlived its process pushed meanwhile: wholly new, and not lost.
                assert kind_of(world) == "git"
                came = survivor.does("run")
            assert came.outcome in {"published", "unchanged"}, came.words
            assert set(world.listed) == set(world.fake.names())
            if came.outcome == "published":
                assert beside(world) == []
        next_one.kill()
        world.have("last")
        assert survivor.does("run").outcome == "published"
        # A git that outlives its process may leave something late, for the use after it to clear.
        assert survivor.does("run").outcome == "unchanged"
    assert residue(world) == []
    assert after_kill["new"], after_kill
    assert after_kill["old"], after_kill
    drill.observe(world, first, Met(synced=world.sync()))
    drill.happened = (
        f"{after_kill['old']} wholly old, {after_kill['new']} wholly new, {in_publication} "
        f"of all aimed at the publication; at most {most_residue} "
        f"files left behind, none after the next publication"
    )
    assert not drill.wrong_removals
    recovers(world, drill)
    if isinstance(world.target, GitTarget):
        world.target.repository.git("fsck", "--strict")


# The hold


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Callable[[], dg.DagsterInstance]]:
    """Give an instance that has the same storage each time, as a restarted Dagster has."""
    opened: list[dg.DagsterInstance] = []
    home = tmp_path / "dagster-home"
    home.mkdir()

    def start() -> dg.DagsterInstance:
        for each in opened:
            each.dispose()
        opened[:] = [dg.DagsterInstance.local_temp(str(home))]
        return opened[0]

    yield start
    for each in opened:
        each.dispose()


def test_a_held_plan_stays_held_whatever_happens_and_old_approvals_are_void(
    world: World, drill: Drill, kept: Callable[[], dg.DagsterInstance]
) -> None:
    drill.broken, drill.fault = (
        f"{kind_of(world)}: a held plan",
        "kills, races, restarts, additions",
    )
    first = Standing.of(world)
    world.instance = kept()
    for name in TEN[:4]:
        world.fake.delete(name)
    good, history = world.content, list(world.target.history())
    hashes = []

    def still_held(why: str) -> None:
        met = meet(world)
        assert met.outcome == "held", why
        assert (world.content, list(world.target.history())) == (good, history), why
        assert met.synced is not None
        hashes.append(met.synced.planned.plan.plan_hash)

    still_held("at first")
    with run_process(world.mirrors, world.name, world.cache) as another:
        another.came()
        assert another.does("run").outcome == "held"
    still_held("in a new process")
    for turn in range(4):
        victim = RunProcess(world.mirrors, world.name, world.cache)
        victim.came()
        victim.tell("run")
        time.sleep(0.06 * turn)
        victim.kill()
    still_held("after kills")
    world.instance = kept()
    world.restart()
    still_held("after a restart of Dagster")
    assert len(set(hashes)) == 1, "nothing has moved, and the plan is the very same"
    world.have("newcomer")
    still_held("with an addition, which waits")
    old, new = hashes[-2:]
    assert old != new
    world.fake.delete(TEN[4])
    still_held("with one more removal")
    for void in (old, new, hashes[-1][:-1], hashes[-1].upper(), "", "approved"):
        assert meet(world, approve=void).outcome == "held", void
        assert (world.content, list(world.target.history())) == (good, history), void

    lost = met_by_approved(world, hashes[-1])
    assert_told(world, lost, LostRace)
    theirs = world.content
    assert theirs is not None
    assert b"by-hand" in theirs
    assert meet(world, approve=hashes[-1]).outcome == "held", "what is published has moved"
    assert world.content == theirs
    held = meet(world).synced
    assert held is not None
    assert meet(world, approve=held.planned.plan.plan_hash).outcome == "published"
    assert set(world.listed) == {*TEN[5:], "newcomer"}
    drill.observe(world, first, Met(synced=held))
    drill.happened = f"held {len(hashes)} times; 7 void approvals, 1 lost race; then approved"
    assert not drill.wrong_removals
    recovers(world, drill)


def met_by_approved(world: World, plan_hash: str) -> Met:
    """Approve the plan that is held now, while somebody edits the file."""
    theirs = by_hand(world)
    meddled = meddling(world, lambda _: world.target.overwrite(theirs))
    return meet(world, approve=plan_hash, overrides=meddled)


# git


def test_a_push_beside_ours_is_kept_and_so_is_ours(git_world: World, drill: Drill) -> None:
    world, target = git_world, git_target(git_world)
    drill.broken, drill.fault = "git: the branch", "a human pushes another path in between"
    world.have("newcomer")
    before = Standing.of(world)

    met = met_by(
        world,
        lambda _: target.repository.commit({"theirs.yaml": "theirs\n"}, branch=target.branch),
    )

    drill.observe(world, before, met)
    assert met.outcome == "published"
    assert target.repository.content("theirs.yaml", target.branch) == b"theirs\n"
    assert_called_for(world)
    recovers(world, drill)


def unrelated(target: GitTarget) -> None:
    target.repository.commit({"README.md": "new\n"}, branch=target.branch, parents=[])
    target.repository.commit({target.path: None}, branch=target.branch)


def behind_a_link(target: GitTarget) -> None:
    target.repository.commit(
        {target.path: None, "catalog/resources": Entry("elsewhere", SYMLINK)}, branch=target.branch
    )


@pytest.mark.parametrize(
    ("fault", "meddle"),
    [
        ("force-push that rewinds it", None),
        ("deleted", GitTarget.remove_branch),
        ("force-push of an unrelated history", unrelated),
        ("the folder became a symbolic link", behind_a_link),
    ],
    ids=["rewound", "deleted", "unrelated", "link"],
)
def test_what_somebody_did_to_the_branch_in_between_stays(
    git_world: World, drill: Drill, fault: str, meddle: Callable[[GitTarget], object] | None
) -> None:
    world, target = git_world, git_target(git_world)
    drill.broken, drill.fault = "git: the branch", f"{fault}, in between"
    first = str(target.repository.tip(target.branch))
    world.have("second")
    world.sync()
    world.have("newcomer")
    before = Standing.of(world)
    tips: list[str | None] = []

    def happen(_: bytes) -> None:
        if meddle is None:
            target.repository.git("update-ref", f"refs/heads/{target.branch}", first)
        else:
            meddle(target)
        tips.append(target.repository.tip(target.branch))

    met = met_by(world, happen)

    drill.happened, drill.touched = met.words, target.repository.tip(target.branch) != tips[0]
    assert not drill.touched
    assert_told(world, met, LostRace)
    if meddle is behind_a_link:
        refused = meet_approved(world)
        assert_told(world, refused, TargetRefused, "cannot be written")
        assert target.repository.tip(target.branch) == tips[0]
        target.repository.commit({"catalog/resources": None}, branch=target.branch)
    recovers(world, drill)
    drill.wrong_removals = wrongly_removed(world, before)
    assert not drill.wrong_removals


@contextmanager
def hook(target: GitTarget, name: str, script: str) -> Iterator[None]:
    target.repository.hook(name, script)
    yield
    (target.repository.git_folder / "hooks" / name).unlink()


@contextmanager
def moved(path: Path) -> Iterator[None]:
    away = path.with_name("away")
    path.rename(away)
    yield
    if path.exists():
        shutil.rmtree(path)
    away.rename(path)


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """A file or folder that nobody can change, not even root; skips where that cannot be had."""
    if os.geteuid() != 0:
        mode = path.stat().st_mode
        path.chmod(mode & ~0o222)
        yield
        path.chmod(mode)
        return
    chattr = shutil.which("chattr")
    if not chattr or subprocess.run([chattr, "+i", path], check=False).returncode != 0:
        pytest.skip("root may write everywhere, and this file system has no immutable files")
    try:
        yield
    finally:
        subprocess.run([chattr, "-i", path], check=True)


PROTECTED: Final = (
    "echo 'GH006: Protected branch update failed.' >&2; "
    f"echo 'See https://bot:{SECRET}@git.example.com/' >&2; exit 1"
)
REMOTE_FAULTS: Final[Mapping[str, tuple[Callable[[GitTarget], Any], type[CatalogError], str]]] = {
    "protected": (
        lambda target: hook(target, "pre-receive", PROTECTED),
        TargetRefused,
        "Protected branch",
    ),
    "an update hook refuses": (
        lambda target: hook(target, "update", "echo 'Not you' >&2; exit 1"),
        TargetRefused,
        "Not you",
    ),
    "objects folder read-only": (
        lambda target: immutable(target.repository.git_folder / "objects"),
        TargetUnavailable,
        "unpack",
    ),
    "gone": (
        lambda target: moved(target.repository.folder),
        TargetUnavailable,
        "cannot be reached",
    ),
    "the connection dies before it is taken": (
        lambda target: hook(target, "pre-receive", "kill -9 $PPID; exit 0"),
        TargetUnavailable,
        "does not hold the commit so far",
    ),
}


@pytest.mark.parametrize("when", ["before", "in between"])
@pytest.mark.parametrize("fault", list(REMOTE_FAULTS))
def test_a_remote_that_takes_nothing_keeps_what_it_has(
    git_world: World, drill: Drill, fault: str, when: str
) -> None:
    world, target = git_world, git_target(git_world)
    drill.broken, drill.fault = "git: the remote", f"{fault}, {when}"
    broken, kind, words = REMOTE_FAULTS[fault]
    world.have("newcomer")
    before = Standing.of(world)
    fault_is_on = broken(target)

    if when == "before":
        with fault_is_on:
            met = meet(world)
    else:
        met = met_by(world, lambda _: fault_is_on.__enter__())
        fault_is_on.__exit__(None, None, None)

    drill.observe(world, before, met)
    assert not drill.touched
    assert_told(world, met, kind, words)
    recovers(world, drill)


MOVES_ON: Final = """
git read-tree {branch} --index-output=moved-index 2>/dev/null
export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@x
commit=$(git commit-tree {branch}^{{tree}} -p {branch} -m "On top of it")
git update-ref refs/heads/{branch} $commit
kill -9 $PPID
"""


@pytest.mark.parametrize(
    ("fault", "name", "script"),
    [
        ("the answer is lost", "reference-transaction", '[ "$1" = committed ] && kill -9 $PPID'),
        ("the answer is lost, and a human pushes on top", "post-receive", MOVES_ON),
    ],
    ids=["lost", "lost and overtaken"],
)
def test_a_push_that_was_taken_counts_though_its_answer_is_lost(
    git_world: World, drill: Drill, fault: str, name: str, script: str
) -> None:
    world, target = git_world, git_target(git_world)
    drill.broken, drill.fault = "git: the push is taken", fault
    world.have("newcomer")
    before = Standing.of(world)

    with hook(target, name, script.format(branch=target.branch) + "\nexit 0"):
        met = meet(world)

    drill.observe(world, before, met)
    assert met.outcome == "published", met.words
    assert_called_for(world)
    recovers(world, drill)


def damage_head(clone: Path) -> None:
    (clone / "HEAD").write_bytes(b"")


def damage_ref(clone: Path) -> None:
    for each in (clone / "refs/heads").iterdir():
        each.write_bytes(b"\0" * 41)


def damage_objects(clone: Path) -> None:
    for each in (clone / "objects").glob("??/*"):
        each.chmod(0o644)
        each.write_bytes(b"")
    for each in (clone / "objects/pack").glob("*.pack"):
        each.chmod(0o644)
        each.write_bytes(b"PACK")


def damage_config(clone: Path) -> None:
    (clone / "config").write_bytes(b"\0\0\0\0[")


def lose_objects(clone: Path) -> None:
    shutil.rmtree(clone / "objects")
    (clone / "objects").mkdir()


@pytest.mark.parametrize(
    "damage", [damage_head, damage_ref, damage_objects, damage_config, lose_objects]
)
def test_a_damaged_clone_is_made_anew(
    git_world: World, drill: Drill, damage: Callable[[Path], None]
) -> None:
    world = git_world
    drill.broken, drill.fault = "git: the cached clones", damage.__name__.replace("_", " ")
    world.have("newcomer")
    before = Standing.of(world)
    for clone in world.cache.glob("*.git"):
        damage(clone)

    met = meet(world)

    drill.observe(world, before, met)
    attempts = 1
    while meet(world).outcome == "failed":
        attempts += 1
        assert attempts <= 2, "each of two clones may cost a run, no more"
    recovers(world, drill)


def test_a_damaged_clone_never_lets_git_loose_on_the_repository_around_it(tmp_path: Path) -> None:
    around = Repository.create(tmp_path / "around")
    around.commit({"file": "theirs\n"})
    source = Repository.create(tmp_path / "source")
    source.commit({"file": "ours\n"})
    before = (around.git("for-each-ref"), (around.git_folder / "config").read_bytes())
    clone = git_clone.GitClone(str(source.folder), "main", around.folder / "cache")
    with clone.locked():
        clone.fetch()
    (folder,) = (around.folder / "cache").glob("*.git")
    (folder / "HEAD").write_bytes(b"")

    with pytest.raises(git_command.GitFailed), clone.locked():
        clone.fetch()
    assert (around.git("for-each-ref"), (around.git_folder / "config").read_bytes()) == before

    with clone.locked():
        assert clone.fetch() == source.tip()


def test_a_gc_that_never_ends_holds_up_one_run_and_fails_none(
    git_world: World, drill: Drill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = git_world
    drill.broken, drill.fault = "git: gc of the cached clone", "never ends"
    git = shutil.which("git")
    notes = tmp_path / "gc-runs"
    stand_in = tmp_path / "bin" / "git"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\ncase "$*" in *" gc "*) echo gc >> {notes}; exec sleep 600;; esac\n'
        f'exec {git} "$@"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(git_clone, "TIDY_SECONDS", 0.3)
    world.have("newcomer")
    before = Standing.of(world)

    met = meet(world)

    drill.observe(world, before, met)
    assert met.outcome == "published", met.words
    assert notes.read_text().splitlines() == ["gc"] * 2, "once for each of the two clones"
    assert_called_for(world)
    monkeypatch.undo()
    world.have("another")
    recovers(world, drill)


def test_a_clone_is_packed_before_it_grows_without_bound(tmp_path: Path) -> None:
    remote = Repository.create(tmp_path / "remote.git", bare=True)
    remote.git("config", "uploadpack.allowFilter", "true")
    clone = git_clone.GitClone(remote.url, "main", tmp_path / "cache")
    most = 0
    for turn in range(56):
        remote.commit({"file": f"{turn}\n"})
        with clone.locked():
            clone.fetch()
        (folder,) = (tmp_path / "cache").glob("*.git")
        most = max(most, len(list(folder.glob("objects/pack/*.pack"))))
    assert 40 < most <= 51
    assert len(list(folder.glob("objects/pack/*.pack"))) < 10


# S3


S3_FAULTS: Final[Mapping[tuple[str, Broken], tuple[type[CatalogError], str]]] = {
    ("GET", Broken.INTERNAL_ERROR): (TargetUnavailable, "InternalError"),
    ("GET", Broken.SLOW_DOWN): (TargetUnavailable, "SlowDown"),
    ("GET", Broken.ACCESS_DENIED): (TargetRefused, "AccessDenied"),
    ("GET", Broken.NO_SUCH_BUCKET): (TargetRefused, "NoSuchBucket"),
    ("GET", Broken.DROPPED): (TargetUnavailable, "s3:GetObject"),
    ("GET", Broken.HANGING): (TargetUnavailable, "s3:GetObject"),
    ("GET", Broken.CUT_OFF): (TargetUnavailable, "s3:GetObject"),
    ("GET", Broken.SHORTENED): (TargetUnavailable, "s3:GetObject"),
    ("GET", Broken.NO_ETAG): (TargetUnavailable, "without an ETag"),
    ("GET", Broken.LOGIN_PAGE): (TargetUnavailable, "without an ETag"),
    ("PUT", Broken.INTERNAL_ERROR): (TargetUnavailable, "InternalError"),
    ("PUT", Broken.SLOW_DOWN): (TargetUnavailable, "SlowDown"),
    ("PUT", Broken.ACCESS_DENIED): (TargetRefused, "AccessDenied"),
    ("PUT", Broken.NO_SUCH_BUCKET): (TargetRefused, "NoSuchBucket"),
    ("PUT", Broken.CONFLICT): (LostRace, "was changed by someone else"),
    ("PUT", Broken.PRECONDITION_FAILED): (LostRace, "was changed by someone else"),
    ("PUT", Broken.DROPPED): (TargetUnavailable, "s3:PutObject"),
    ("PUT", Broken.HANGING): (TargetUnavailable, "s3:PutObject"),
}


@pytest.mark.parametrize(
    ("method", "broken"), list(S3_FAULTS), ids=[f"{m} {b.name}" for m, b in S3_FAULTS]
)
def test_a_bucket_in_trouble_keeps_what_it_has(
    s3_world: World, drill: Drill, method: str, broken: Broken
) -> None:
    world = s3_world
    drill.broken, drill.fault = f"s3: {method} of the object", f"{broken.name}, lasting"
    kind, words = S3_FAULTS[method, broken]
    world.have("newcomer")
    before = Standing.of(world)
    faults_of(world).fail(method, broken)

    met = meet(world)

    faults_of(world).clear()
    drill.observe(world, before, met)
    assert not drill.touched
    assert_told(world, met, kind, words)
    recovers(world, drill)


@pytest.mark.parametrize("broken", [Broken.DONE_THEN_500, Broken.DONE_THEN_DROPPED])
@pytest.mark.parametrize("times", [1, None], ids=["once", "each time"])
def test_a_put_that_was_stored_counts_though_its_answer_is_lost(
    s3_world: World, drill: Drill, broken: Broken, times: int | None
) -> None:
    world = s3_world
    drill.broken = "s3: PUT of the object"
    drill.fault = f"{broken.name}, {'once' if times else 'lasting'}"
    world.have("newcomer")
    before = Standing.of(world)
    faults_of(world).fail("PUT", broken, times=times)

    met = meet(world)

    faults_of(world).clear()
    drill.observe(world, before, met)
    assert_called_for(world)
    assert len(world.target.history()) == len(before.history) + 1, "stored once, not again"
    assert met.outcome == "published", met.words
    recovers(world, drill)


def test_a_put_answered_without_an_etag_is_read_back_and_counts(
    s3_world: World, drill: Drill
) -> None:
    world = s3_world
    drill.broken, drill.fault = "s3: PUT of the object", "NO_ETAG"
    world.have("newcomer")
    before = Standing.of(world)
    faults_of(world).fail("PUT", Broken.NO_ETAG)

    met = meet(world)

    faults_of(world).clear()
    drill.observe(world, before, met)
    assert met.outcome == "published", met.words
    assert_called_for(world)
    recovers(world, drill)


# Files


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.yaml"))
    path.symlink_to("elsewhere.yaml")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("when", ["before", "in between"])
@pytest.mark.parametrize("stands", [a_folder, a_link, a_pipe])
def test_what_is_no_plain_file_is_refused_at_once_and_stays(
    file_world: World, drill: Drill, stands: Callable[[Path], None], when: str
) -> None:
    world, path = file_world, file_target(file_world).path
    drill.broken = "file: the target"
    drill.fault = f"is {stands.__name__.replace('_', ' ')}, {when}"
    world.have("newcomer")
    before = Standing.of(world)
    content = path.read_bytes()

    if when == "before":
        stands(path)
        met = meet(world)
    else:
        met = met_by(world, lambda _: stands(path))

    drill.happened = met.words
    drill.touched = path.is_file() and not path.is_symlink()
    assert not drill.touched
    assert_told(world, met, TargetRefused)
    elsewhere = path.with_name("elsewhere.yaml")
    if elsewhere.exists():
        assert elsewhere.read_bytes() == content
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    path.write_bytes(content)
    recovers(world, drill)
    drill.wrong_removals = wrongly_removed(world, before)
    assert not drill.wrong_removals


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/null"])
def test_a_device_is_neither_read_nor_written(device: str) -> None:
    publisher = publish_file.FilePublisher(Path(device))
    with pytest.raises(TargetRefused, match=device) as caught:
        publisher.read()
    assert caught.value.remediation


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_target_keeps_what_it_has(file_world: World, drill: Drill, what: str) -> None:
    world, path = file_world, file_target(file_world).path
    drill.broken, drill.fault = f"file: the {what}", "read-only"
    if what == "file" and os.geteuid() != 0:
        path.parent.chmod(0o755)
    world.have("newcomer")
    before = Standing.of(world)

    with immutable(path if what == "file" and os.geteuid() == 0 else path.parent):
        met = meet(world)

    drill.observe(world, before, met)
    # Its flags have changed, and with them its time of change.
    drill.touched = world.content != before.content
    assert not drill.touched
    assert_told(world, met, TargetUnavailable, "cannot be written")
    assert residue(world) == []
    recovers(world, drill)


def test_a_lock_that_another_holds_is_waited_for_and_given_up(
    file_world: World, drill: Drill
) -> None:
    world, path = file_world, file_target(file_world).path
    drill.broken, drill.fault = "file: the lock", "held by another process"
    world.have("newcomer")
    before = Standing.of(world)

    with FileLock(path.with_name(f".{path.name}.lock")):
        met = meet(world)

    drill.observe(world, before, met)
    assert not drill.touched
    assert_told(world, met, TargetUnavailable, "another process has held the lock")
    recovers(world, drill)


# Disks that are full


def tiny_disks() -> list[str] | None:
    """How a process gets a mount of its own here; None where it cannot."""
    for flags in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        with suppress(OSError):
            tried = ["unshare", *flags, "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
            if subprocess.run(tried, check=False, capture_output=True).returncode == 0:
                return ["unshare", *flags]
    return None


@pytest.mark.parametrize("what", ["file", "remote", "clone"])
def test_a_full_disk_leaves_the_old_content_and_the_next_run_recovers(
    tmp_path: Path, drill: Drill, what: str
) -> None:
    unshare = tiny_disks()
    if unshare is None:
        pytest.skip("no process may mount a small disk of its own here")
    drill.broken, drill.fault = f"the disk of the {what}", "full (a tmpfs of 2 MB)"
    disk, folder = tmp_path / "disk", tmp_path / "folder"
    disk.mkdir()
    folder.mkdir()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*unshare, sys.executable, "-m", "tests.drills.full_disk", disk, folder, what],
        check=False,
        capture_output=True,
        cwd=root,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = cast("dict[str, Any]", json.loads(done.stdout))
    drill.happened = f"{found['error']}: {found['words']}"
    drill.touched, drill.recovered = not found["meanwhile"], found["after"]
    drill.wrong_removals = ()
    assert found["error"] == "TargetUnavailable"
    assert found["where"] in found["words"]
    assert found["remediation"]
    if what != "clone":
        assert "No space left on device" in found["words"]
    assert found["left"] in ([], [".entity.yaml.lock", "entity.yaml"]), "no half file is left"
    assert found["meanwhile"], "the old content was read while the disk was full"
    assert found["after"], "the next publication recovered"
