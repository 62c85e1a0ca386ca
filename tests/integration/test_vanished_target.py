"""A target that vanished is not a first publication: the last known entity counts as published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest

from tests.fakes.aws import OtherAccount, StaleListing
from tests.fakes.backstage import FakeBackstage, Fault
from tests.integration.commands import Command, command_in
from tests.integration.instances import an_instance
from tests.integration.worlds import (
    FileTarget,
    GitTarget,
    S3Target,
    World,
    a_world,
    apart_from_when,
    s3_server,
)

pytestmark = pytest.mark.history

TEN: Final = tuple(f"team/app-{number}" for number in range(10))
NOTHING_GOVERNED: Final = 'version: "1.0"\nrepositories: {}\n'
OTHER: Final = "210987654321"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint_url:
        yield endpoint_url


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        yield world


@pytest.fixture
def backstage(world: World) -> Iterator[FakeBackstage]:
    """The Backstage of the world's mirror; it reads what is published, and keeps what it read."""
    with FakeBackstage() as backstage:
        backstage.source = lambda: world.content
        world.write_mirror(backstage={"url": backstage.url})
        yield backstage


def git(folder: Path, _: str) -> GitTarget:
    return GitTarget(folder)


def file(folder: Path, _: str) -> FileTarget:
    return FileTarget(folder)


def s3_object(_: Path, endpoint_url: str) -> S3Target:
    return S3Target(endpoint_url)


@pytest.mark.parametrize(
    ("make", "vanish"),
    [
        (git, GitTarget.remove),
        (git, GitTarget.remove_branch),
        (file, FileTarget.remove),
        (s3_object, S3Target.remove),
    ],
    ids=["git file", "git branch", "file", "S3 object"],
)
def test_a_held_plan_stays_held_when_the_target_vanishes_and_is_published_on_approval(
    tmp_path: Path, s3: str, make: Callable[[Path, str], Any], vanish: Callable[[Any], None]
) -> None:
    target = make(tmp_path, s3)
    with a_world(tmp_path, target) as world:
        world.have(*TEN)
        world.sync()
        world.commit(NOTHING_GOVERNED)
        first = world.sync()
        vanish(target)

        held = [world.sync(), world.sync()]

        assert [each.outcome for each in (first, *held)] == ["held"] * 3
        assert world.content is None
        for each in held:
            (reason,) = each.planned.plan.reasons_held
            assert "is absent, though 10 repositories were published there, content of 20" in reason
            assert each.publication.digest == first.publication.digest, "the last good"
        hashes = {each.planned.plan.plan_hash for each in (first, *held)}
        assert len(hashes) == 1, "as if it were still there"

        assert world.sync(approve=hashes.pop()).outcome == "published"
        assert world.listed == {}
        assert world.sync().outcome == "unchanged"


@pytest.mark.usefixtures("backstage")
def test_nothing_live_is_lost_when_the_target_vanished_and_a_listing_is_stale(
    world: World,
) -> None:
    world.have(*TEN)
    world.sync()
    published = world.content
    assert isinstance(world.target, FileTarget)
    world.target.remove()
    world.fake.fail("DescribeRepositories", StaleListing(TEN[3:5]))

    failure = world.sync_fails()

    assert f"lists no {TEN[3]}, yet finds it by name" in (failure.description or "")
    assert failure.metadata["kind"].value == "InventoryFailed"
    assert world.content is None

    world.fake.clear()
    assert world.sync().outcome == "published", "Backstage knows the names, and none is lost"
    assert apart_from_when(world.content) == apart_from_when(published)


@pytest.mark.usefixtures("backstage")
def test_what_backstage_still_serves_is_what_the_guard_counts_by(
    world: World,
) -> None:
    world.have(*TEN)
    world.sync()
    world.target.remove()
    for name in TEN[:3]:
        world.fake.delete(name)
    # As in a run that keeps no history: only Backstage knows.
    with an_instance() as world.instance:
        held = world.sync()

        assert held.outcome == "held"
        assert held.planned.plan.changes.removed == TEN[:3]
        assert held.planned.proved_absent == 3
        (reason,) = held.planned.plan.reasons_held
        assert "3 of 10 repositories (30 %)" in reason
        assert "the target is absent, Backstage serves 10 live" in held.planned.plan.last_good
        assert held.checks["backstage_in_parity"], "it serves the last good"

        approved = world.sync(approve=held.planned.plan.plan_hash)
        assert approved.outcome == "published"
        assert list(world.listed) == list(TEN[3:])


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.DROP, None])
def test_a_backstage_that_does_not_say_leaves_it_to_the_history(
    world: World, backstage: FakeBackstage, fault: Fault | None
) -> None:
    world.have(*TEN)
    world.sync()
    world.target.remove()
    backstage.forget()
    if fault:
        backstage.fail(fault)

    held = world.sync(only=["governance_catalog", "ecr_inventory", "reconciled_registry"])

    (reason,) = held.planned.plan.reasons_held
    assert "10 repositories were published there" in reason
    assert "cannot be counted" in reason


def somebody_elses(entity: dict[str, Any]) -> None:
    del entity["metadata"]["annotations"]["platform/content-digest"]


def another_kind_of_resource(entity: dict[str, Any]) -> None:
    entity["spec"]["type"] = "database"


@pytest.mark.parametrize("tampering", [somebody_elses, another_kind_of_resource])
def test_an_entity_in_backstage_that_is_not_ours_is_no_earlier_publication(
    world: World, backstage: FakeBackstage, tampering: Callable[[dict[str, Any]], None]
) -> None:
    world.have(*TEN)
    world.sync()
    published = world.content
    assert published is not None
    world.target.remove()
    backstage.tampering = tampering
    backstage.serve(published)
    world.commit(NOTHING_GOVERNED)
    with an_instance() as world.instance:
        planned = world.sync(only=["governance_catalog", "ecr_inventory", "reconciled_registry"])

    assert not planned.planned.plan.held


def test_history_of_an_earlier_version_still_says_that_there_was_a_publication(
    world: World,
) -> None:
    world.have(*TEN)
    key = dg.AssetKey([world.name, "published_entity"])
    earlier = {"content_digest": "sha256:" + "0f" * 32, "outcome": "published"}
    for unreadable in ({}, {"last_publication": "of a newer version"}):
        world.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, metadata={**earlier, **unreadable})
        )

        held = world.sync(only=["governance_catalog", "ecr_inventory", "reconciled_registry"])

        (reason,) = held.planned.plan.reasons_held
        assert "is absent, though an entity was published there" in reason


def test_plan_and_verify_look_at_the_history_of_dagster_home_too(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = command_with_history(world, tmp_path, monkeypatch, capfd)
    world.have(*TEN)
    assert command("plan", "-m", world.name).code == 2, "nothing has run there yet"
    assert command("sync", "-m", world.name).code == 0
    world.target.remove()

    planned = command("plan", "-m", world.name)

    assert planned.code == 3
    assert "10 repositories were published there" in planned.out
    verified = command("verify", "-m", world.name, "--json")
    assert verified.code == 2
    assert json.loads(verified.out)["published_digest"] is None
    assert "is absent" in json.loads(verified.out)["reason"]
    assert command("sync", "-m", world.name).code == 3


def command_with_history(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    home = tmp_path / "dagster-home"
    home.mkdir()
    environment = {**world.environ(tmp_path / "user"), "DAGSTER_HOME": str(home)}
    return command_in(tmp_path, environment, monkeypatch, capfd)


def test_a_history_that_cannot_be_read_is_a_warning_of_plan(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = command_with_history(world, tmp_path, monkeypatch, capfd)
    world.have(*TEN)
    (tmp_path / "dagster-home" / "dagster.yaml").write_text("storage: [\n")

    planned = command("plan", "-m", world.name)

    assert planned.code == 2
    assert "warning: Dagster's history in " in planned.err
    assert "cannot be read" in planned.err


# The account, where the mirror names none


def write_mirror_without_account(world: World) -> None:
    registry = {"region": world.fake.region, "endpoint_url": world.fake.endpoint_url}
    world.write_mirror(registry=registry)


def tamper_with_the_account(world: World) -> None:
    assert world.content is not None
    tampered = world.content.replace(world.fake.account_id.encode(), OTHER.encode())
    world.target.overwrite(tampered)


def test_tampered_uris_are_repaired_where_history_knows_the_account(world: World) -> None:
    write_mirror_without_account(world)
    world.have(*TEN)
    world.sync()
    good = world.content
    tamper_with_the_account(world)

    assert world.sync().outcome == "published"
    assert apart_from_when(world.content) == apart_from_when(good)


def test_tampered_uris_hold_the_plan_where_nobody_knows_the_account(world: World) -> None:
    write_mirror_without_account(world)
    world.have(*TEN)
    world.sync()
    good = world.content
    tamper_with_the_account(world)
    with an_instance() as world.instance:
        held = [world.sync(), world.sync()]

        assert [each.outcome for each in held] == ["held", "held"], "holding it vouches for nothing"
        (reason,) = held[1].planned.plan.reasons_held
        assert f"name account {OTHER}, and {world.fake.account_id} answers" in reason
        assert world.sync(approve=held[1].planned.plan.plan_hash).outcome == "published"
        assert apart_from_when(world.content) == apart_from_when(good)


def test_another_account_than_that_of_the_last_publication_is_an_inventory_failure(
    world: World,
) -> None:
    write_mirror_without_account(world)
    world.have(*TEN)
    world.sync()
    world.restart()
    for operation in ("GetCallerIdentity", "DescribeRepositories"):
        world.fake.fail(operation, OtherAccount(OTHER))

    failure = world.sync_fails()

    assert failure.metadata["kind"].value == "InventoryFailed"
    assert f"account {OTHER}, not for {world.fake.account_id}" in (failure.description or "")
    assert "registry.account_id" in str(failure.metadata["remediation"].value)


# What a mirror leaves behind that publishes elsewhere


def test_a_changed_target_is_named_with_what_stays_there_by_plan_sync_and_the_ui(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = command_with_history(world, tmp_path, monkeypatch, capfd)
    old, new = world.target.settings()["path"], tmp_path / "elsewhere" / "registry.yaml"
    world.have(*TEN)
    assert "Left behind" not in command("sync", "-m", world.name).err
    world.write_mirror(publish={"kind": "file", "path": str(new)})

    planned = command("plan", "-m", world.name)
    held = command("sync", "-m", world.name)

    for done in (planned, held):
        assert done.code == 3
        assert f"Left behind: the last publication went to {old}, and that file stays." in done.err
        assert "Remove it there with `rm`" in done.err
        assert f"{new} is absent, though 10 repositories were published at {old}" in done.out
    (plan_hash,) = {word for word in held.out.split() if len(word) == 64}
    assert "Left behind" in command("sync", "-m", world.name, "--approve", plan_hash).err
    assert new.exists()
    assert "Left behind" not in command("sync", "-m", world.name).err


def test_a_changed_target_shows_in_the_run_that_publishes_there(world: World) -> None:
    world.have(*TEN)
    world.sync()
    old = world.target.settings()["path"]
    moved = FileTarget(world.folder / "moved")
    moved.path.parent.mkdir(parents=True)
    moved.overwrite(world.content or b"")
    world.write_mirror(publish=moved.settings(), entity={"owner": "another-team"})

    metadata = world.sync().materialization("published_entity").metadata

    assert f"went to {old}, and that file stays" in str(metadata["left_behind"].value)
    assert "left_behind" not in world.sync().materialization("published_entity").metadata


def test_a_changed_namespace_is_named_though_the_target_is_the_same(world: World) -> None:
    world.have(*TEN)
    world.sync()
    world.write_mirror(entity={"namespace": "other"})

    metadata = world.sync().materialization("published_entity").metadata

    said = str(metadata["left_behind"].value)
    assert "the last publication was resource:default/goldenpath-ecr-registry" in said
    assert "drops it as an orphan" in said


def test_a_renamed_entity_never_overwrites_the_old_one_and_says_how_to_go_on(world: World) -> None:
    world.have(*TEN)
    world.sync()
    world.write_mirror(entity={"name": "another"})

    refused = world.sync_fails()

    assert "the target holds Resource goldenpath-ecr-registry" in (refused.description or "")
    assert "was renamed, remove that file" in (refused.description or "")
    world.target.remove()
    assert world.sync().outcome == "published"


def test_an_entity_under_a_new_name_at_a_new_place_is_a_first_publication(world: World) -> None:
    world.have(*TEN)
    world.sync()
    world.write_mirror(
        publish=FileTarget(world.folder / "moved").settings(), entity={"name": "another"}
    )

    renamed = world.sync()

    assert renamed.outcome == "published"
    said = str(renamed.materialization("published_entity").metadata["left_behind"].value)
    assert "Backstage goes on serving resource:default/goldenpath-ecr-registry" in said
