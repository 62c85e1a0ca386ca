"""The token of the demo's Backstage: found by every command, and sent nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ecr_catalog_pipeline.demo.world import token_file
from tests.fakes.backstage import FakeBackstage
from tests.integration.commands import command_in
from tests.integration.worlds import GitTarget, World, a_world

TOKEN: Final = "t0ken-of-the-demo"
VARIABLE: Final = "BACKSTAGE_TOKEN"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@contextmanager
def a_demo(folder: Path, url: str, name: str = "demo") -> Iterator[World]:
    """A world that lies as the demo does, with the token beside it."""
    with a_world(folder, GitTarget(folder), name=name) as world:
        world.write_mirror(backstage={"url": url, "token_env": VARIABLE})
        (folder / "backstage-token").write_text(f"{TOKEN}\n")
        yield world


def sent(world: World, fake: FakeBackstage) -> str | None:
    """The authorization that a call of the mirror's Backstage carries."""
    backstage = world.adapters.backstage
    assert backstage
    backstage.entity("default", "anything")
    return fake.asked[-1].authorization


def test_verify_finds_the_demos_token_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeBackstage(token=TOKEN) as fake, a_demo(tmp_path, fake.url) as world:
        world.have("team/one")
        command = command_in(tmp_path, world.environ(tmp_path / "user"), monkeypatch, capfd)

        done = command("verify", "-m", "demo")

        assert done.code == 2, done.err
        assert "Not in parity" in done.out
        assert TOKEN not in done.out + done.err


def test_a_token_in_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "another")
    with FakeBackstage() as fake, a_demo(tmp_path, fake.url) as world:
        assert sent(world, fake) == "Bearer another"


def test_the_demos_token_is_sent_for_no_other_mirror(tmp_path: Path) -> None:
    with FakeBackstage() as fake, a_demo(tmp_path, fake.url, name="goldenpath") as world:
        assert sent(world, fake) is None


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:7007", "http://backstage.example.com", "http://10.0.0.7:7007"]
)
def test_the_demos_token_is_sent_to_loopback_alone(tmp_path: Path, url: str) -> None:
    with a_demo(tmp_path, url) as world:
        assert token_file(world.mirror) is None


def test_without_the_file_no_token_is_sent(tmp_path: Path) -> None:
    with FakeBackstage() as fake, a_demo(tmp_path, fake.url) as world:
        (tmp_path / "backstage-token").unlink()
        assert sent(world, fake) is None
