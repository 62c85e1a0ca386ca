"""`verify` and `sync` of a mirror that names a Backstage, as commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aws import Fault as AwsFault
from tests.fakes.backstage import FakeBackstage, Fault
from tests.integration.commands import InProcess
from tests.integration.test_cli import Shell, assert_an_error, shell_in
from tests.integration.worlds import FileTarget, World, a_world

TOKEN = "the-token-of-this-test"


@pytest.fixture
def backstage() -> Iterator[FakeBackstage]:
    with FakeBackstage(TOKEN) as served:
        yield served


@pytest.fixture
def world(tmp_path: Path, backstage: FakeBackstage) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.write_mirror(backstage={"url": backstage.url, "token_env": "A_TOKEN"})
        world.have(*(f"team/app-{number}" for number in range(5)))
        backstage.source = lambda: world.content
        yield world


@pytest.fixture
def shell(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Shell:
    shell = shell_in(world, tmp_path, InProcess(monkeypatch, capfd))
    return replace(shell, environment={**shell.environment, "A_TOKEN": TOKEN})


def verify(world: World, shell: Shell, **more: str) -> tuple[int, dict[str, Any]]:
    done = shell("verify", "-m", world.name, "--json", **more)
    return done.returncode, json.loads(done.stdout)


def test_sync_says_that_what_it_published_is_visible(world: World, shell: Shell) -> None:
    done = shell("sync", "-m", world.name)

    assert done.returncode == 0, done.stderr
    assert "\nvisible in Backstage: Backstage serves what it should" in done.stdout


def test_sync_says_that_what_it_published_is_not_yet_visible(
    world: World, shell: Shell, backstage: FakeBackstage
) -> None:
    backstage.close()

    done = shell("sync", "-m", world.name)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("published: 5 live")
    assert "\nnot yet visible in Backstage: " in done.stdout
    assert "does not answer" in done.stdout


def test_verify_asks_backstage_what_it_serves(
    world: World, shell: Shell, backstage: FakeBackstage
) -> None:
    shell("sync", "-m", world.name)
    code, answer = verify(world, shell)
    assert (code, answer["parity"], answer["reason"]) == (
        0,
        True,
        "Backstage serves what it should",
    )
    assert answer["served_digest"] == answer["expected_digest"] == answer["published_digest"]

    world.govern("team/app-1", owner="another-team")
    code, answer = verify(world, shell)
    assert (code, answer["parity"]) == (2, False)
    assert answer["served_digest"] == answer["published_digest"] != answer["expected_digest"]
    assert "next run" in answer["reason"]

    backstage.forget()
    code, answer = verify(world, shell)
    assert (code, answer["parity"], answer["served_digest"]) == (2, False, None)


def test_verify_cannot_tell_when_somebody_does_not_answer(
    world: World, shell: Shell, backstage: FakeBackstage
) -> None:
    shell("sync", "-m", world.name)
    denied = shell("verify", "-m", world.name, "--json", A_TOKEN="wrong")
    assert_an_error(denied, "401", "A_TOKEN")
    assert "wrong" not in denied.stderr

    backstage.fail(Fault.FORBIDDEN)
    assert_an_error(shell("verify", "-m", world.name, "--json"), "403")
    backstage.close()
    assert_an_error(shell("verify", "-m", world.name, "--json"), "does not answer")

    world.fake.fail("DescribeRepositories", AwsFault.ACCESS_DENIED)
    assert_an_error(shell("verify", "-m", world.name, "--json"), "ecr:DescribeRepositories")
