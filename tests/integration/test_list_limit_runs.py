"""Whole runs past the list limit: the entity and the list beside it are one publication."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecr_catalog_pipeline.core.entity import list_digest
from ecr_catalog_pipeline.settings import list_key
from tests.fakes.backstage import FakeBackstage
from tests.integration.commands import command_in
from tests.integration.worlds import (
    KINDS,
    FileTarget,
    GitTarget,
    S3Target,
    World,
    a_world,
    s3_server,
)

NAMES = ("team/a", "team/b", "team/c")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint_url:
        yield endpoint_url


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    match request.param:
        case "git":
            target: GitTarget | FileTarget | S3Target = GitTarget(tmp_path)
        case "file":
            target = FileTarget(tmp_path)
        case _:
            target = S3Target(request.getfixturevalue("s3"))
    with a_world(tmp_path, target) as world:
        yield world


def set_limit(world: World, limit: int, **settings: Any) -> None:
    world.write_mirror(entity={"list_limit": limit}, **settings)


def published_list(world: World) -> list[dict[str, str]]:
    """The list that the published entity points to, read by what the entity says of it."""
    listed = world.entity["spec"]["listed"]
    content = raw_list(world, listed)
    assert list_digest(content) == listed["digest"]
    lines = [json.loads(line) for line in content.splitlines()]
    assert len(lines) == listed["count"]
    return lines


def raw_list(world: World, listed: dict[str, str]) -> bytes:
    match world.target:
        case GitTarget() as git:
            folder = git.path.rpartition("/")[0]
            content = git.repository.content(f"{folder}/{listed['path']}", git.branch)
        case FileTarget() as file:
            content = file.path.with_name(listed["path"]).read_bytes()
        case S3Target() as s3:
            key = listed["url"].removeprefix(f"{s3.endpoint_url}/{s3.bucket}/")
            content = s3._s3.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
        case _:
            raise AssertionError(world.target)
    assert content is not None
    return content


def damage_list(world: World, content: bytes | None) -> None:
    """Let somebody write or remove the list, and leave the entity."""
    listed = world.entity["spec"]["listed"]
    match world.target:
        case GitTarget() as git:
            folder = git.path.rpartition("/")[0]
            git.repository.commit({f"{folder}/{listed['path']}": content}, branch=git.branch)
        case FileTarget() as file:
            path = file.path.with_name(listed["path"])
            path.unlink() if content is None else path.write_bytes(content)
        case S3Target() as s3:
            key = listed["url"].removeprefix(f"{s3.endpoint_url}/{s3.bucket}/")
            assert key.startswith(list_key(s3.key))
            if content is None:
                s3._s3.delete_object(Bucket=s3.bucket, Key=key)
            else:
                s3._s3.put_object(Bucket=s3.bucket, Key=key, Body=content)
        case _:
            raise AssertionError(world.target)


def test_a_mirror_crosses_the_limit_goes_on_past_it_and_comes_back(world: World) -> None:
    world.have(*NAMES)
    world.govern("team/asked-for", status="pending")
    world.sync()
    set_limit(world, 3)

    crossed = world.sync()

    assert crossed.outcome == "published"
    assert crossed.planned.plan.differences == ()
    assert [line["name"] for line in published_list(world)] == [*NAMES, "team/asked-for"]
    assert "repositories" not in world.entity["spec"]
    assert crossed.checks["published_equals_desired"]
    before = world.content, world.target.history()
    assert world.sync().outcome == "unchanged"
    assert (world.content, world.target.history()) == before

    world.fake.create("team/asked-for")
    world.govern("team/asked-for", owner="another-team")
    added = world.sync().planned.plan
    assert added.changes.added == ("team/asked-for",)
    assert "uri" in published_list(world)[0]

    set_limit(world, 4)
    back = world.sync()
    assert back.outcome == "published"
    assert back.planned.plan.differences == ()
    assert [*world.listed] == sorted([*NAMES, "team/asked-for"])
    assert world.sync().outcome == "unchanged"


@pytest.mark.parametrize("found", [None, b"", b'{"name": "team/a"}\n', b"[}"])
def test_a_list_that_somebody_changed_is_published_again(world: World, found: bytes | None) -> None:
    set_limit(world, 1)
    world.have(*NAMES)
    world.sync()
    whole = published_list(world)
    damage_list(world, found)

    assert world.sync().outcome == "published"

    assert published_list(world) == whole
    assert world.sync().outcome == "unchanged"


def test_a_mass_removal_past_the_limit_is_held_and_its_approval_publishes_it(
    world: World,
) -> None:
    set_limit(world, 1)
    world.have(*NAMES)
    world.sync()
    before = published_list(world)
    world.commit("repositories: {}")

    held = world.sync()

    assert held.outcome == "held"
    assert held.planned.plan.changes.removed == NAMES
    assert published_list(world) == before
    assert world.sync(approve=held.planned.plan.plan_hash).outcome == "published"
    assert world.listed == {}


def test_an_absence_past_the_limit_is_proved_by_a_look_up(world: World) -> None:
    set_limit(world, 1)
    world.have(*NAMES)
    world.sync()
    world.fake.delete("team/b")

    removed = world.sync()

    assert removed.outcome == "published"
    assert removed.planned.proved_absent == 1
    assert [line["name"] for line in published_list(world)] == ["team/a", "team/c"]


def test_plan_and_verify_say_the_same_past_the_limit(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with FakeBackstage() as backstage:
        backstage.source = lambda: world.content
        set_limit(world, 1, backstage={"url": backstage.url})
        world.have(*NAMES)
        world.sync()
        run = command_in(tmp_path, world.environ(tmp_path / "home"), monkeypatch, capfd)

        assert run("plan", "-m", world.name).code == 0
        assert run("verify", "-m", world.name).code == 0
        world.fake.create("team/d")
        world.govern("team/d")
        assert run("plan", "-m", world.name).code == 2
        verified = run("verify", "-m", world.name, "--json")
        assert verified.code == 2
        assert not json.loads(verified.out)["parity"]
