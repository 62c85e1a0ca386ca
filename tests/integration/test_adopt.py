"""`ecr-catalog adopt`: orphans become governance entries, printed or put into a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ecr_catalog_pipeline.core.governance import parse_governance
from tests.fakes.aws import Answer, Fault
from tests.integration.commands import Command, command_in
from tests.integration.worlds import FileTarget, World, a_world

PLATFORM: Final = Path(__file__).parents[1] / "data" / "platform" / "ecr-catalog.yaml"
MADE: Final = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
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


def planned(world: World, command: Command) -> Any:
    return json.loads(command("plan", "-m", world.name, "--json").out)


# The platform's own file


@pytest.fixture
def platform(world: World) -> World:
    """Eleven entries, of which two are in AWS."""
    world.commit(PLATFORM.read_bytes())
    for name in ("new-app-16", "new-wp-reg2"):
        world.fake.create(name, MADE)
    return world


def test_the_plan_of_the_platforms_file_says_what_a_person_would(
    platform: World, command: Command
) -> None:
    catalog = parse_governance(PLATFORM.read_bytes())
    assert (len(catalog.entries), catalog.findings) == (11, ())

    plan = planned(platform, command)

    assert plan["counts"] == {
        "live": 2,
        "pending": 6,
        "ghost": 3,
        "orphan": 0,
        "lingering": 0,
        "retired": 0,
    }
    assert plan["changes"]["added"] == ["new-app-16", "new-wp-reg2"]
    assert [(each["repository"], each["rule"]) for each in plan["findings"]] == [
        ("new-app-16", "promote-to-active"),
        ("new-wp-reg2", "promote-to-active"),
    ]
    reported = command("plan", "-m", platform.name).out
    assert "Plan: 2 to add, 0 to update, 0 to remove. 2 live, 6 pending, 3 ghost," in reported
    for name in ("base-images", "payments-gateway", "shop-search"):
        assert f"  ghost    {name} " in reported


def test_the_platform_has_nothing_to_adopt(platform: World, command: Command) -> None:
    done = command("adopt", "-m", platform.name)
    assert (done.code, done.out, done.err) == (0, "Nothing to adopt.\n", "")
    assert platform.fake.count("ListTagsForResource") == 0


def test_an_orphan_of_the_platform_becomes_an_entry_as_a_person_would_write_it(
    platform: World, command: Command, tmp_path: Path
) -> None:
    tags = {"goldenpath.idp/owner": "app-team-ml", "goldenpath.idp/risk": "Medium"}
    platform.fake.create("ml/notebooks", MADE, tags={**tags, "Environment": "dev"})
    file = tmp_path / "clone.yaml"
    file.write_bytes(PLATFORM.read_bytes())
    file.chmod(0o640)

    done = command("adopt", "-m", platform.name, "--write", file)

    assert done.code == 2
    assert done.out == f"Added 1 entry to {file}: ml/notebooks\n"
    assert done.err.endswith("Owner and risk are as the tags say.\n")
    entry = """\
  ml/notebooks:
    metadata:
      id: REGISTRY_ML_NOTEBOOKS
      owner: app-team-ml
      risk: medium
      environment: dev
      status: active
      created_date: "2026-01-05"

"""
    before, after = PLATFORM.read_text().split("  new-app-10:\n")
    assert file.read_text() == f"{before}{entry}  new-app-10:\n{after}"
    assert file.stat().st_mode & 0o777 == 0o640

    platform.commit(file.read_bytes())
    plan = planned(platform, command)
    assert (plan["counts"]["live"], plan["counts"]["orphan"]) == (3, 0)
    assert command("adopt", "-m", platform.name).code == 0


# What it takes, and what it asks


def test_entries_are_printed_and_what_is_not_known_is_left_to_fill_in(
    world: World, command: Command
) -> None:
    world.have("team/app")
    for name in ("tmp-b", "tmp-a"):
        world.fake.create(name, MADE)

    done = command("adopt", "-m", world.name)

    assert done.code == 2
    entries = yaml.safe_load(done.out)
    assert list(entries) == ["tmp-a", "tmp-b"]
    assert entries["tmp-a"]["metadata"] == {
        "id": "REGISTRY_TMP_A",
        "owner": None,
        "risk": None,
        "status": "active",
        "created_date": "2026-01-05",
    }
    assert "owner:  # fill in: the team" in done.out
    assert done.err == (
        "2 entries for catalogs/ecr-catalog.yaml. Fill in: owner of 2 and risk of 2.\n"
    )
    assert [
        call.parameters["resourceArn"].rsplit("/", 1)[1]
        for call in world.fake.calls
        if call.operation == "ListTagsForResource"
    ] == ["tmp-a", "tmp-b"], "no other repository's tags are asked for"


def test_the_tags_are_those_of_the_mirror_file(world: World, command: Command) -> None:
    world.write_mirror(adopt={"tags": {"owner": "team", "environment": "stage"}})
    world.fake.create("tmp", tags={"team": "@a <b>", "stage": "no", "goldenpath.idp/risk": "low"})

    entry = yaml.safe_load(command("adopt", "-m", world.name).out)["tmp"]["metadata"]

    assert (entry["owner"], entry["environment"], entry["risk"]) == ("@a <b>", "no", "low")


def test_only_those_named_are_adopted_and_others_are_refused_with_their_state(
    world: World, command: Command
) -> None:
    world.have("team/app")
    world.govern("gone")
    for name in ("tmp-a", "tmp-b"):
        world.fake.create(name)

    one = command("adopt", "-m", world.name, "tmp-b", "tmp-b")
    assert (one.code, list(yaml.safe_load(one.out))) == (2, ["tmp-b"])

    done = command("adopt", "-m", world.name, "tmp-a", "team/app", "gone", "nowhere")
    assert (done.code, done.out) == (1, "")
    assert (
        "only orphans can be adopted: team/app is live, gone is ghost, "
        "nowhere is neither governed nor in AWS" in done.err
    )


def test_an_orphan_that_is_excepted_is_adopted_only_by_its_name(
    world: World, command: Command
) -> None:
    world.commit(
        'version: "1.0"\nrepositories: {}\nexceptions:\n'
        '  - {match: "cdk-*", rule: orphan, reason: "CDK bootstrap assets"}\n'
    )
    for name in ("cdk-assets", "tmp"):
        world.fake.create(name)

    assert list(yaml.safe_load(command("adopt", "-m", world.name).out)) == ["tmp"]
    named = command("adopt", "-m", world.name, "cdk-assets")
    assert list(yaml.safe_load(named.out)) == ["cdk-assets"]
    reported = command("plan", "-m", world.name).out
    assert "Accepted without an end: CDK bootstrap assets" in reported
    assert ", 1 excepted." in reported


def test_tags_that_may_not_be_read_are_left_to_fill_in_with_the_action_to_allow(
    world: World, command: Command
) -> None:
    for name in ("tmp-a", "tmp-b"):
        world.fake.create(name, tags={"goldenpath.idp/owner": "x"})
    world.fake.fail("ListTagsForResource", Fault.ACCESS_DENIED)

    done = command("adopt", "-m", world.name)

    assert done.code == 2
    assert done.err.count("warning: ecr:ListTagsForResource is denied") == 1
    assert done.out.count("owner:  # fill in") == 2
    assert world.fake.count("ListTagsForResource") == 1


@pytest.mark.parametrize(
    "fault", [Fault.EMPTY_OBJECT, Fault.TRUNCATED_BODY, Answer(b'{"tags": 1}')], ids=str
)
def test_tags_that_were_not_read_are_an_error(
    world: World, command: Command, fault: Fault | Answer, tmp_path: Path
) -> None:
    world.fake.create("tmp")
    world.fake.fail("ListTagsForResource", fault)
    file = tmp_path / "file.yaml"
    file.write_text("repositories: {}\n")

    done = command("adopt", "-m", world.name, "--write", file)

    assert (done.code, done.out) == (1, "")
    assert "ecr:ListTagsForResource" in done.err
    assert file.read_text() == "repositories: {}\n"


def test_what_the_file_governs_already_is_not_added_twice(
    world: World, command: Command, tmp_path: Path
) -> None:
    world.fake.create("tmp-a")
    file, link = tmp_path / "file.yaml", tmp_path / "link.yaml"
    file.write_text("repositories: {}\n")
    link.symlink_to(file)

    assert command("adopt", "-m", world.name, "--write", link).code == 2
    first = file.read_text()
    assert command("adopt", "-m", world.name, "--write", link).code == 0
    assert file.read_text() == first
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("repositories: {a1: {}}\n", "1:15: the entries are in braces. Run without --write"),
        ("repositories: [\n", "not YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_edited_is_left_as_it_is(
    world: World, command: Command, tmp_path: Path, content: str | None, words: str
) -> None:
    world.fake.create("tmp-a")
    file = tmp_path / "file.yaml"
    if content is not None:
        file.write_text(content)

    done = command("adopt", "-m", world.name, "--write", file)

    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert content is None or file.read_text() == content


def test_another_account_has_nothing_to_adopt(world: World, command: Command) -> None:
    world.write_mirror(
        registry={
            "region": world.fake.region,
            "account_id": "999999999999",
            "endpoint_url": world.fake.endpoint_url,
        }
    )
    done = command("adopt", "-m", world.name)
    assert done.code == 1
    assert "999999999999" in done.err
