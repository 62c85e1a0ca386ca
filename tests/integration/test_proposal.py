"""`ecr-catalog plan --governance FILE`: the plan of a pull request, which publishes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.aws import Fault
from tests.integration.commands import Command, command_in
from tests.integration.worlds import FileTarget, World, a_world

FIVE = tuple(f"team/app-{number}" for number in range(5))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have(*FIVE)
        world.sync()
        yield world


@pytest.fixture
def command(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    folder = tmp_path / "here"
    folder.mkdir()
    return command_in(folder, world.environ(tmp_path / "user"), monkeypatch, capfd)


def proposed(world: World, *changes: tuple[str, str]) -> Path:
    """Write the governance file with replacements, and leave the branch as it is."""
    text = world.governance_file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    file = world.folder / "proposed.yaml"
    file.write_text(text)
    return file


def in_markdown(world: World, file: Path) -> tuple[str, ...]:
    return ("plan", "-m", world.name, "--governance", str(file), "--format", "markdown")


def test_a_plan_of_a_file_is_the_plan_that_the_branch_would_have(
    world: World, command: Command
) -> None:
    world.fake.create("team/new")
    file = proposed(
        world,
        ("  team/app-0:\n", "  team/new:\n    metadata: {owner: jo, risk: low}\n  team/app-0:\n"),
        ('"status": "active"', '"status": "deprecated"'),
    )
    before = world.content, world.target.history()

    done = command("plan", "-m", world.name, "--governance", file, "--json")
    reported = command("plan", "-m", world.name, "--governance", file)

    planned = json.loads(done.out)
    assert (done.code, reported.code) == (2, 2)
    assert planned["changes"] == {"added": ["team/new"], "removed": [], "updated": [FIVE[0]]}
    assert f"governance {file} in place of catalogs/ecr-catalog.yaml" in reported.out
    assert (world.content, world.target.history()) == before, "it publishes nothing"

    world.commit(file.read_bytes())
    merged = json.loads(command("plan", "-m", world.name, "--json").out)
    for key in ("plan_hash", "changes", "findings", "repositories", "counts", "held"):
        assert merged[key] == planned[key], key


def test_the_comment_compares_with_the_branch(world: World, command: Command) -> None:
    world.govern("team/app-9", owner="")
    file = proposed(world, ('"owner": ""', '"owner": "app-team"'), ('"active"', '"decommissioned"'))

    done = command(*in_markdown(world, file))

    assert (done.code, done.err) == (2, "")
    assert "**1 disappears, 1 finding goes.**" in done.out
    assert f"| `{FIVE[0]}` | `platform-team` | lingering: decommissioned, but still" in done.out
    assert "| error | `team/app-9` | metadata.owner is missing `owner-missing` |" in done.out


def test_a_held_one_says_so_and_whether_the_branch_is_held_already(
    world: World, command: Command
) -> None:
    file = world.folder / "proposed.yaml"
    file.write_text('version: "1.0"\nrepositories: {}\n')

    held = command(*in_markdown(world, file))
    assert held.code == 3
    assert "by the removal guard:\n\n- 5 of 5 repositories" in held.out

    world.commit('version: "1.0"\nrepositories: {}\n')
    file.write_text('version: "1.0"\nrepositories: {}\n# a comment\n')
    already = command(*in_markdown(world, file))
    assert already.code == 3
    assert "**It changes nothing.**" in already.out
    assert "as the plan of `main` already is" in already.out


def test_a_broken_file_is_shown_with_its_line(world: World, command: Command) -> None:
    file = proposed(world, ("  team/app-1:\n", "  team/app-0:\n"))

    done = command(*in_markdown(world, file))

    assert done.code == 1
    assert "`catalogs/ecr-catalog.yaml:6:3`" in done.out
    assert "> 6 |   team/app-0:\n    |   ^\n" in done.out
    assert done.err.startswith(f"Error: {file}:6:3: ")
    assert command("plan", "-m", world.name, "--governance", file).out == ""


def test_a_file_that_repairs_the_branch_is_planned(world: World, command: Command) -> None:
    file = proposed(world)
    world.commit("repositories: [")

    done = command(*in_markdown(world, file))

    assert done.code == 0
    assert "The file on `main` cannot be used" in done.out
    assert re.search(r"catalogs/ecr-catalog\.yaml\\:\d+\\:\d+\\: ", done.out)


def test_a_source_that_fails_is_reported_in_the_comment_too(world: World, command: Command) -> None:
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)

    done = command(*in_markdown(world, proposed(world)))

    assert done.code == 1
    assert "**There is no plan.** ecr\\:DescribeRepositories failed with AccessDenied" in done.out
    assert "Error: ecr:DescribeRepositories failed" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--format", "markdown"),
        ("--format", "markdown", "--governance", "x.yaml", "--json"),
        ("--format", "html", "--governance", "x.yaml"),
        ("--governance",),
        ("--governance", "/no/such/file.yaml"),
        ("--governance", "/dev/null"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_planned_is_an_error(
    world: World, command: Command, arguments: tuple[str, ...]
) -> None:
    done = command("plan", "-m", world.name, *arguments)

    assert (done.code, done.out) == (1, "")
    assert "Error: " in done.err


def test_ecr_is_listed_once_for_both_plans(world: World, command: Command) -> None:
    listed = world.fake.count("DescribeRepositories")
    command(*in_markdown(world, proposed(world)))
    assert world.fake.count("DescribeRepositories") == listed + 1


def test_what_a_file_excepts_is_shown_to_its_reviewers(world: World, command: Command) -> None:
    world.fake.create("cdk-assets")
    exception = '{match: "cdk-*", rule: orphan, reason: "CDK @bootstrap assets"}'
    file = proposed(world)
    file.write_text(f"{file.read_text()}exceptions:\n  - {exception}\n")

    done = command(*in_markdown(world, file))

    assert "**1 newly excepted.**" in done.out
    assert "| warning | `cdk-assets` |" in done.out
    assert "CDK \uff20bootstrap assets" in done.out


def test_a_registry_past_the_list_limit_is_compared_name_by_name(
    world: World, command: Command
) -> None:
    world.write_mirror(entity={"list_limit": 3})
    world.sync()
    file = proposed(world, ('"active"', '"decommissioned"'))

    done = command(*in_markdown(world, file))

    assert done.code == 2
    assert "**1 disappears.**" in done.out
    assert "would list 4 live repositories: 0 added, 0 updated, 1 removed." in done.out
