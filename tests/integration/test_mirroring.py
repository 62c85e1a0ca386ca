"""A mirror's job, run for real: what governance and AWS call for gets published, nothing else."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import dagster as dg
import pytest

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters import aws
from ecr_catalog_pipeline.core.errors import StalePlan
from ecr_catalog_pipeline.mirroring import Outcome, PlannedRegistry
from tests.drills.s3_faults import Broken, S3Faults
from tests.fakes.aws import Answer, AnyFault, Fault, OtherAccount, StaleListing
from tests.integration.worlds import (
    GOVERNANCE_PATH,
    KINDS,
    FileTarget,
    GitTarget,
    S3Target,
    Target,
    World,
    a_world,
    apart_from_when,
    meddling,
    s3_server,
)

TEN: Final = tuple(f"team/app-{number}" for number in range(10))
SIX: Final = TEN[:6]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint_url:
        yield endpoint_url


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world for each kind of target."""
    target: Target
    if request.param == "git":
        target = GitTarget(tmp_path)
    elif request.param == "file":
        target = FileTarget(tmp_path)
    else:
        target = S3Target(request.getfixturevalue("s3"))
    with a_world(tmp_path, target) as world:
        yield world


@pytest.fixture
def file_world(tmp_path: Path) -> Iterator[World]:
    """A world for what is the same with every target."""
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        yield world


# What gets published


def test_the_entity_follows_ecr_and_governance(world: World) -> None:
    def published() -> Mapping[str, str]:
        assert world.sync().outcome == "published"
        assert b"toolbox" not in (world.content or b""), "never governed, never published"
        return world.listed

    world.have(*SIX)
    world.fake.create("toolbox")
    world.govern("wanted", status="pending", created_date="2026-01-06")
    assert published() == dict.fromkeys(SIX, "active")
    assert [line["name"] for line in world.entity["spec"]["pending"]] == ["wanted"]

    uri = world.fake.create("wanted")
    world.govern(SIX[0], status="deprecated")
    assert published() == {
        **dict.fromkeys(SIX, "active"),
        SIX[0]: "deprecated",
        "wanted": "pending",
    }
    assert world.entity["spec"]["repositories"][-1]["uri"] == uri
    assert world.entity["spec"]["pending"] == []

    world.fake.delete(SIX[1])
    world.govern(SIX[2], status="decommissioned")
    assert list(published()) == [SIX[0], *SIX[3:], "wanted"]
    assert (
        world.entity["metadata"]["annotations"]
        | {
            "platform/repo-count": "5",
            "platform/ghost-count": "1",
            "platform/orphan-count": "1",
            "platform/pending-count": "0",
        }
        == (world.entity["metadata"]["annotations"])
    )


def test_what_changes_no_content_writes_nothing(world: World) -> None:
    world.have(*SIX)
    world.sync()
    before, history = world.content, world.target.history()

    def disturb() -> None:
        world.commit("hello\n", path="README.md")
        world.govern(SIX[0], requested_by="jo")  # which nobody publishes
        world.commit(world.governance_file.read_text() + "# Reviewed by everybody.\n")

    for what in ("nothing", "no content"):
        if what == "no content":
            disturb()
        synced = world.sync()
        assert synced.outcome == "unchanged", what
        assert synced.checks["published_equals_desired"], what
        assert (world.content, world.target.history()) == (before, history), what


def test_a_reverted_governance_commit_brings_the_former_bytes_back(world: World) -> None:
    world.have(*SIX)
    world.fake.create("newcomer")
    world.sync()
    former = world.content

    world.govern("newcomer", owner="app-team")
    world.sync()
    assert "newcomer" in world.listed
    reverted = world.revert()
    world.sync()

    assert apart_from_when(world.content) == apart_from_when(former)
    assert world.entity["metadata"]["annotations"]["platform/source-sha"] == reverted


def test_tampering_with_the_published_file_is_repaired(world: World) -> None:
    world.have(*SIX)
    world.sync()
    good = world.content
    assert good is not None
    first_line = next(each for each in good.splitlines(keepends=True) if b"- {name: " in each)

    for tampered in (
        good.replace(b"owner: platform-team", b"owner: someone-else"),
        good.replace(first_line, b""),
        good.replace(b"\n", b"\r\n"),
    ):
        assert tampered != good
        world.target.overwrite(tampered)
        assert world.sync().outcome == "published", tampered
        assert apart_from_when(world.content) == apart_from_when(good), tampered


def test_a_foreign_file_at_the_target_is_never_overwritten(world: World) -> None:
    world.have(*SIX)
    foreign = b"apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: mine}\n"
    world.target.overwrite(foreign)
    history = world.target.history()

    failure = world.sync_fails()

    assert "Component mine" in (failure.description or "")
    assert (
        failure.metadata["remediation"].value
        == "Point `publish:` elsewhere, or move that file away."
    )
    assert (world.content, world.target.history()) == (foreign, history)


# The removal guard


def test_a_first_publication_is_never_held(world: World) -> None:
    world.govern("long/gone")
    world.have(*TEN)
    assert world.sync().outcome == "published"
    assert list(world.listed) == list(TEN)


def test_a_held_plan_waits_for_the_approval_of_that_very_plan(file_world: World) -> None:
    world = file_world
    world.have(*TEN)
    first = world.sync()
    last_good_at = first.materialization("published_entity").metadata["last_good_at"].value
    last_good, history = world.content, world.target.history()
    for name in TEN[:3]:
        world.fake.delete(name)
    world.have("newcomer")

    held = world.sync()

    plan_hash = held.planned.plan.plan_hash
    guard = held.evaluations["removal_guard"]
    assert held.outcome == "held"
    assert not held.checks["removal_guard"]
    assert not held.checks["published_equals_desired"]
    assert held.checks["entity_valid"]
    assert guard.description is not None
    assert "3 of 10 repositories (30 %)" in guard.description
    assert guard.metadata["plan_hash"].value == plan_hash
    held_since = guard.metadata["held_since"].value
    good = held.evaluations["last_known_good"]
    assert not good.passed
    assert good.description is not None
    assert "3 of 10 repositories (30 %)" in good.description
    assert good.metadata["last_good_at"].value == last_good_at
    assert plan_hash in str(guard.metadata["approve"].value)

    def assert_still_held(approve: str | None = None) -> str:
        again = world.sync(approve=approve)
        assert again.outcome == "held"
        assert not again.checks["removal_guard"]
        assert again.evaluations["removal_guard"].metadata["held_since"].value == held_since
        assert again.evaluations["last_known_good"].metadata["last_good_at"].value == last_good_at
        assert (world.content, world.target.history()) == (last_good, history)
        assert again.data_version("published_entity") == held.data_version("published_entity")
        return again.planned.plan.plan_hash

    assert assert_still_held() == plan_hash, "no clock in it, and never forgotten"
    assert assert_still_held(approve="0" * 64) == plan_hash
    world.fake.delete(TEN[3])
    moved = assert_still_held(approve=plan_hash)
    assert moved != plan_hash

    approved = world.sync(approve=moved)
    assert approved.outcome == "published"
    assert approved.checks["removal_guard"]
    assert approved.checks["last_known_good"]
    assert "held_since" not in approved.materialization("published_entity").metadata
    assert list(world.listed) == ["newcomer", *TEN[4:]]
    assert world.sync().outcome == "unchanged"


def test_an_approval_that_was_used_approves_the_same_removal_never_again(
    file_world: World,
) -> None:
    world = file_world

    def removal() -> str:
        """Delete three in AWS, and give the hash of the plan that is held."""
        for name in TEN[:3]:
            world.fake.delete(name)
        held = world.sync()
        assert held.outcome == "held"
        return held.planned.plan.plan_hash

    world.have(*TEN)
    world.sync()
    used = removal()
    assert world.sync(approve=used).outcome == "published"

    for name in TEN[:3]:
        world.fake.create(name)
    wait_for_another_second(world)
    assert world.sync(approve=used).outcome == "published", "old content, published again"
    again = removal()

    assert again != used
    assert world.sync(approve=used).outcome == "held", "as by a CronJob that keeps its --approve"
    assert world.sync(approve=again).outcome == "published"


def wait_for_another_second(world: World) -> None:
    """Wait until a publication of now has another `last-sync` than the one that stands there."""
    stands = datetime.fromisoformat(world.entity["metadata"]["annotations"]["platform/last-sync"])
    while datetime.now(UTC) < stands + timedelta(seconds=1):
        time.sleep(0.05)


def test_while_a_plan_is_held_parity_is_verified_against_the_last_good(file_world: World) -> None:
    world = file_world
    world.have(*TEN)
    world.sync()
    for name in TEN[:3]:
        world.fake.delete(name)

    held = world.sync()

    assert held.outcome == "held"
    assert held.checks["backstage_in_parity"]


@pytest.mark.parametrize(
    ("listed", "removed", "limits", "reason"),
    [
        (100, 11, {}, "11 removals, more than max_removals (10)"),
        (100, 10, {}, None),
        (2, 2, {}, "nothing that is listed now would be left"),
        (
            60,
            51,
            {"max_removals": 1000, "max_removal_percent": 100},
            "1 removals that no look-up proved",
        ),
    ],
)
def test_the_removal_guard_holds_what_removes_too_much(
    file_world: World, listed: int, removed: int, limits: Mapping[str, int], reason: str | None
) -> None:
    world = file_world
    world.write_mirror(guard=limits)
    names = [f"team/app-{number:03}" for number in range(listed)]
    world.have(*names)
    world.sync()
    before = world.content
    for name in names[:removed]:
        world.fake.delete(name)

    synced = world.sync()

    assert synced.outcome == ("held" if reason else "published")
    assert (world.content == before) is bool(reason)
    assert (reason or "nothing waits for approval") in (
        synced.evaluations["removal_guard"].description or ""
    )


def test_a_file_damaged_beyond_reading_is_held_and_repaired_on_approval(file_world: World) -> None:
    world = file_world
    world.have(*SIX)
    world.sync()
    good = world.content or b""
    damaged = good[: good.index(b"- {name: ") + 5]
    world.target.overwrite(damaged)

    held = world.sync()
    assert held.outcome == "held"
    assert world.content == damaged

    assert world.sync(approve=held.planned.plan.plan_hash).outcome == "published"
    assert apart_from_when(world.content) == apart_from_when(good)


# Races and old plans


@pytest.mark.parametrize("first", [True, False], ids=["first publication", "later one"])
def test_a_race_lost_to_a_writer_overwrites_nothing(world: World, *, first: bool) -> None:
    world.have(*SIX)
    if not first:
        world.sync()
        world.have("newcomer")
    theirs: list[bytes] = []

    def overwrite(ours: bytes) -> None:
        theirs.append(ours.replace(b"owner: platform-team", b"owner: someone-else"))
        world.target.overwrite(theirs[0])

    failure = world.sync_fails(overrides=meddling(world, overwrite))

    assert "was changed by someone else after it was read" in (failure.description or "")
    assert failure.metadata["needs"].value == "time"
    assert [world.content] == theirs
    if not first:
        assert world.sync().outcome == "published", "the next run plans again"
        assert b"someone-else" not in (world.content or b"")


def test_what_was_removed_after_it_was_read_is_not_brought_back(world: World) -> None:
    world.have(*SIX)
    world.sync()
    world.have("newcomer")

    failure = world.sync_fails(overrides=meddling(world, lambda _: world.target.remove()))

    assert "was changed by someone else after it was read" in (failure.description or "")
    assert world.content is None


def test_a_branch_that_was_removed_after_it_was_read_is_not_brought_back(tmp_path: Path) -> None:
    target = GitTarget(tmp_path)
    with a_world(tmp_path, target) as world:
        world.have(*SIX)
        world.sync()
        world.have("newcomer")

        with pytest.raises(dg.Failure, match="was changed by someone else after it was read"):
            world.sync(overrides=meddling(world, lambda _: target.remove_branch()))

    assert target.history() == ()


def test_others_may_commit_beside_the_entity_while_it_is_published(tmp_path: Path) -> None:
    target = GitTarget(tmp_path)
    with a_world(tmp_path, target) as world:
        world.have(*SIX)
        world.sync()
        world.have("newcomer")

        def commit(_: bytes) -> None:
            target.repository.commit({"other.yaml": "theirs\n"}, branch=target.branch)

        assert world.sync(overrides=meddling(world, commit)).outcome == "published"

    assert "newcomer" in world.listed
    assert target.repository.content("other.yaml", target.branch) == b"theirs\n"
    message = target.repository.git("log", "-1", "--format=%s%n%(trailers:only)", target.branch)
    subject, *trailers = message.splitlines()
    assert "goldenpath" in subject
    assert "7 live (+1 ~0 -0)" in subject
    assert [each.split(": ")[0] for each in trailers] == ["Source-Sha", "Plan-Hash", "Run-Id"]


def test_a_plan_older_than_90_seconds_is_never_published(file_world: World) -> None:
    world = file_world
    world.have(*SIX)
    publisher = world.adapters.publisher
    began = datetime.now(UTC)
    planned = planned_at(world, began)

    def publish(after: timedelta) -> Outcome:
        return mirroring.publish(
            publisher, planned, mirror="m", run_id="r", clock=lambda: began + after
        ).outcome

    with pytest.raises(StalePlan, match="91 s ago"):
        publish(timedelta(seconds=91))
    assert world.content is None
    assert publish(timedelta(seconds=90)) is Outcome.PUBLISHED


def test_a_plan_that_grows_too_old_on_the_way_to_the_target_is_not_written(
    file_world: World,
) -> None:
    world = file_world
    world.have(*SIX)
    publisher = world.adapters.publisher
    began = datetime.now(UTC)
    planned = planned_at(world, began)
    # In time when the publication begins, too late when its turn at the target has come.
    times = iter([timedelta(seconds=89), timedelta(seconds=91)])

    with pytest.raises(StalePlan, match="91 s ago"):
        mirroring.publish(
            publisher, planned, mirror="m", run_id="r", clock=lambda: began + next(times)
        )
    assert world.content is None


def planned_at(world: World, began: datetime) -> PlannedRegistry:
    adapters = world.adapters
    governance = mirroring.read_governance(world.mirror, adapters, lambda: began)
    inventory = mirroring.read_inventory(adapters.registry, lambda: began + timedelta(seconds=30))
    return mirroring.plan_publication(
        world.mirror, adapters, governance, inventory, mirroring.Past()
    )


def test_a_run_that_resumes_an_old_plan_fails(file_world: World) -> None:
    world = file_world
    world.have(*SIX)
    world.sync(only=["governance_catalog", "ecr_inventory", "reconciled_registry"])
    stored = Path(world.instance.storage_directory(), world.name, "reconciled_registry.json")
    fresh = stored.read_text()
    planned = json.loads(fresh)
    planned["plan"]["reads_began_at"] = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
    stored.write_text(json.dumps(planned))

    failure = world.sync_fails(only=["published_entity"])
    assert re.match(r"the plan's reads began 12\d s ago", failure.description or "")
    assert world.content is None

    stored.write_text(fresh)
    assert world.sync(only=["published_entity"]).outcome == "published"
    assert list(world.listed) == list(SIX)


def test_a_publication_that_cannot_be_read_back_counts_and_says_so(tmp_path: Path, s3: str) -> None:
    with S3Faults(s3) as faults:
        target = S3Target(s3)
        with a_world(tmp_path, target) as world:
            world.have(*SIX)
            publish = {**target.settings(), "endpoint_url": faults.endpoint_url}
            world.write_mirror(publish=publish)
            unreadable = meddling(world, lambda _: faults.fail("GET", Broken.ACCESS_DENIED))

            synced = world.sync(overrides=unreadable)

            assert synced.outcome == "published"
            assert synced.publication.published_at is not None
            assert list(world.listed) == list(SIX)
            said = synced.evaluations["published_equals_desired"].description or ""
            assert "the target took the file; reading it back failed: s3:GetObject" in said


# A source that fails


def test_a_refused_governance_file_leaves_the_last_good_entity(file_world: World) -> None:
    world = file_world
    world.have(*SIX)
    world.sync()
    before, history = world.content, world.target.history()
    world.fake.delete(SIX[0])
    good = world.governance_file.read_text()

    for content, where, what in (
        (b"repositories:\n  app: [\n", "ecr-catalog.yaml:3:1: ", "not YAML"),
        (b"version: '1.0'\nrepositories:\n", "ecr-catalog.yaml:2:1: ", "`repositories:` is null"),
        (b"repositories:\n  aa: {}\n  aa: {}\n", "ecr-catalog.yaml:3:3: ", "'aa' is twice"),
        (b"\x89PNG\r\n\x1a\n", "ecr-catalog.yaml:1:1: ", "binary or not UTF-8"),
    ):
        world.commit(content)
        failure = world.sync_fails()
        description = failure.description or ""
        assert description.startswith(where), description
        assert what in description
        assert str(failure.metadata["remediation"].value) in description
        assert failure.metadata["needs"].value == "human"
        assert (world.content, world.target.history()) == (before, history)

    world.commit(good)
    assert world.sync().outcome == "published"
    assert list(world.listed) == list(SIX[1:])


def no_file(world: World) -> None:
    world.governance.git("mv", GOVERNANCE_PATH, "elsewhere.yaml")
    world.governance.git("commit", "--quiet", "-m", "Move it")


def no_branch(world: World) -> None:
    world.governance.git("branch", "--move", "main", "trunk")


def no_repository(world: World) -> None:
    world.governance.folder.rename(world.folder / "moved")


@pytest.mark.parametrize(
    ("lose", "find", "what", "remediation"),
    [
        (
            no_file,
            lambda world: world.revert(),
            f"there is no {GOVERNANCE_PATH} on branch main of ",
            "Correct governance.path, or `git revert`",
        ),
        (
            no_branch,
            lambda world: world.governance.git("branch", "--move", "trunk", "main"),
            "has no branch main",
            "Correct governance.branch, or create the branch.",
        ),
        (
            no_repository,
            lambda world: (world.folder / "moved").rename(world.governance.folder),
            "cannot be read: ",
            "Check that governance.repository exists",
        ),
    ],
    ids=["file", "branch", "repository"],
)
def test_governance_that_cannot_be_had_leaves_the_last_good_entity(
    file_world: World,
    lose: Callable[[World], None],
    find: Callable[[World], object],
    what: str,
    remediation: str,
) -> None:
    world = file_world
    world.have(*SIX)
    world.sync()
    before, history = world.content, world.target.history()
    world.fake.delete(SIX[0])
    lose(world)

    failure = world.sync_fails()

    assert what in (failure.description or "")
    assert str(world.governance.folder) in (failure.description or "")
    assert str(failure.metadata["remediation"].value).startswith(remediation)
    assert (world.content, world.target.history()) == (before, history)
    find(world)
    assert world.sync().outcome == "published"
    assert list(world.listed) == list(SIX[1:])


def test_a_target_that_is_down_fails_the_run_until_it_is_back(tmp_path: Path) -> None:
    target = GitTarget(tmp_path)
    with a_world(tmp_path, target) as world:
        world.have(*SIX)
        world.sync()
        world.have("newcomer")
        away = target.repository.folder.rename(tmp_path / "away")

        failure = world.sync_fails()
        assert f"{target.path} on branch {target.branch} of " in (failure.description or "")
        assert "cannot be reached" in (failure.description or "")

        away.rename(target.repository.folder)
        assert world.sync().outcome == "published"
        assert "newcomer" in world.listed


@dataclass(frozen=True)
class Trouble:
    """A fault of AWS, and what a run that meets it says."""

    fault: AnyFault
    says: str
    operation: str = "DescribeRepositories"
    at: int = 1
    look_up: bool = False  # the call that proves the absence of what was deleted

    def __str__(self) -> str:
        fault = self.fault.name if isinstance(self.fault, Fault) else type(self.fault).__name__
        return f"{'look-up' if self.look_up else self.operation} {self.at} {fault}"

    @property
    def needs_two_pages(self) -> bool:
        return self.at == PAGE_2 or self.fault is Fault.EARLY_END


LISTING: Final = "ecr:DescribeRepositories"
PAGE_2: Final = 2
TROUBLES: Final = [
    Trouble(Fault.HANG, f"{LISTING} failed: "),
    Trouble(Fault.THROTTLING, f"{LISTING} failed with ThrottlingException: Rate exceeded"),
    Trouble(Fault.ACCESS_DENIED, f"Allow {LISTING} to this mirror's role."),
    Trouble(Fault.EXPIRED_CREDENTIALS, "Renew the AWS credentials of this process."),
    Trouble(Fault.HTTP_500, f"{LISTING} failed with ServerException"),
    Trouble(Fault.HTTP_503, f"{LISTING} failed with 503"),
    Trouble(Fault.DROP, f"{LISTING} failed: "),
    Trouble(Fault.DROP_MID_BODY, "is not a listing"),
    Trouble(Fault.TRUNCATED_BODY, "is not a listing"),
    Trouble(Fault.MALFORMED_BODY, "is not a listing"),
    Trouble(Answer(b'{"repositories": null}'), "is not a listing"),
    Trouble(StaleListing(("team/app-1",)), "lists no team/app-1, yet finds it by name"),
    Trouble(Fault.EARLY_END, "the listing is incomplete"),
    Trouble(Fault.LOST_PAGE, "the listing is incomplete", at=PAGE_2),
    Trouble(Fault.REPEATED_TOKEN, "repeats its page token", at=PAGE_2),
    Trouble(Fault.EXPIRED_TOKEN, "Invalid or expired token", at=PAGE_2),
    Trouble(Fault.TRUNCATED_BODY, "is not a listing", at=PAGE_2),
    Trouble(Fault.ACCESS_DENIED, f"{LISTING} of team/app-0 failed", look_up=True),
    Trouble(Fault.HTTP_500, f"{LISTING} of team/app-0 failed", look_up=True),
    Trouble(Fault.EMPTY_OBJECT, "is not a listing", look_up=True),
    Trouble(Fault.THROTTLING, "sts:GetCallerIdentity failed", "GetCallerIdentity"),
    Trouble(Fault.ACCESS_DENIED, "Allow sts:GetCallerIdentity", "GetCallerIdentity"),
    Trouble(Fault.MALFORMED_BODY, "sts:GetCallerIdentity failed", "GetCallerIdentity"),
    Trouble(
        OtherAccount("999999999999"),
        "answered for account 999999999999, not for 123456789012",
        "GetCallerIdentity",
    ),
]
HARMLESS: Final = [
    Trouble(Fault.DUPLICATES, "", at=PAGE_2),
    Trouble(StaleListing(("team/app-0",)), ""),  # which is deleted
]


@dataclass(frozen=True)
class Aftermath:
    """What a run did that met trouble after a deletion in AWS, and what the next one did.

    Attributes:
        failure: what Dagster shows of it; None when it succeeded.
        touched: the target was written.
        listed_then: what the next run, without the trouble, published.
    """

    failure: dg.Failure | None
    touched: bool
    listed_then: Sequence[str]


def aftermath_of(trouble: Trouble, folder: Path, published: bytes) -> Aftermath:
    with troubled_world(folder, fillers=1_000 if trouble.needs_two_pages else 0) as world:
        world.target.overwrite(published)
        before = world.content, world.target.history()
        world.fake.delete(SIX[0])

        # A listing of one page is one call, so the look-up is the second one.
        at = 2 if trouble.look_up else trouble.at
        world.fake.fail(trouble.operation, trouble.fault, at=at)
        failure = None
        try:
            world.sync()
        except dg.Failure as error:
            failure = error
        touched = (world.content, world.target.history()) != before
        world.fake.clear()

        world.restart()
        world.sync()
        return Aftermath(failure, touched, list(world.listed))


@contextmanager
def troubled_world(folder: Path, fillers: int) -> Iterator[World]:
    """A world whose listing has the governed repositories after so many orphans."""
    folder.mkdir()
    with a_world(folder, FileTarget(folder)) as world:
        for number in range(fillers):
            world.fake.create(f"filler/{number:04}")
        world.have(*SIX)
        yield world


@pytest.fixture(scope="module")
def aftermaths(
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[Trouble, Future[Aftermath]]:
    """Every trouble at once, because most of their time is spent in waiting before retries."""
    folder = tmp_path_factory.mktemp("troubles")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # The drills keep the real limit.
        patch.setattr(aws, "READ_SECONDS", 2)
        with troubled_world(folder / "healthy", fillers=0) as healthy:
            healthy.sync()
            published = healthy.content
        assert published is not None
        return {
            trouble: pool.submit(aftermath_of, trouble, folder / str(number), published)
            for number, trouble in enumerate([*TROUBLES, *HARMLESS])
        }


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_trouble_with_aws_leaves_the_last_good_entity(
    aftermaths: Mapping[Trouble, Future[Aftermath]], trouble: Trouble
) -> None:
    aftermath = aftermaths[trouble].result()

    assert aftermath.failure is not None
    assert trouble.says in (aftermath.failure.description or "")
    assert aftermath.failure.metadata["needs"].value == "time"
    assert aftermath.failure.metadata["remediation"].value
    assert not aftermath.touched
    assert aftermath.listed_then == list(SIX[1:]), "the next healthy run recovers alone"


@pytest.mark.parametrize("trouble", HARMLESS, ids=str)
def test_what_a_listing_may_do_is_no_trouble(
    aftermaths: Mapping[Trouble, Future[Aftermath]], trouble: Trouble
) -> None:
    aftermath = aftermaths[trouble].result()

    assert aftermath.failure is None
    assert aftermath.listed_then == list(SIX[1:])
