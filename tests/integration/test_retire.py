"""`ecr-catalog retire` on a catalog of many entities, beside a mirror that can be asked or not."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from ecr_catalog_pipeline.sprawl.ad_hoc import CatalogUnavailable
from ecr_catalog_pipeline.sprawl.catalog_files import read_catalog, replace_files
from tests.fakes.aws import Fault
from tests.integration.commands import Command, command_in
from tests.integration.worlds import FileTarget, World, a_world

COMPONENT: Final = (
    "# {name}\nkind: Component\nmetadata:\n  name: {name}  # é\nspec: {{type: service}}\n"
)
ECR: Final = (
    "# made by a scaffolder\nkind: Resource\nmetadata:\n  name: {name}\nspec:\n"
    "  type: {type}\n  owner: {owner}\n"
)
TYPES: Final = ("container-repository", "ecr-repository", "aws-ecr-repository")


def ecr(name: str, entity_type: str = "ecr-repository", owner: str = "platform-team") -> str:
    return ECR.format(name=name, type=entity_type, owner=owner)


def write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "catalog"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def command(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    return command_in(catalog.parent, {}, monkeypatch, capfd)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        yield world


@pytest.fixture
def asking(
    catalog: Path,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """The command where a mirror is configured."""
    return command_in(catalog.parent, world.environ(tmp_path / "user"), monkeypatch, capfd)


# A catalog of 200 entities


def mixed_catalog(seed: int) -> tuple[dict[str, str], dict[str, str | None]]:
    """Make files of 200 entities, and what they are to be afterwards; None is gone."""
    chance = random.Random(seed)
    before: dict[str, str] = {}
    after: dict[str, str | None] = {}
    listing: dict[str, list[tuple[str, bool]]] = {}
    folders = ["apps", "apps/shop", "ecr", "ecr/team a/deep", "platform/registry"]
    for number in range(120):
        folder = chance.choice(folders)
        end = chance.choice(["\n", "\n", "\r\n"])
        mark = chance.choice(["", "", "\ufeff"])
        header = chance.choice(["", "# Licence: Apache-2.0\n---\n"])
        documents = [
            (kind, f"e{number}-{place}")
            for place, kind in enumerate(
                chance.choices(["component", "ecr", "database"], [4, 5, 1], k=1 + (number < 80))
            )
        ]
        old, new = "", ""
        for place, (kind, name) in enumerate(documents):
            if kind == "component":
                text = COMPONENT.format(name=name)
            else:
                text = ecr(name, "database" if kind == "database" else chance.choice(TYPES))
            first = bool(header) or place == 0
            old += ("" if first and place == 0 else "---\n") + text
            if kind == "ecr":
                # A comment before a document without a marker stays: it may be the file's.
                new += "# made by a scaffolder\n" if place == 0 and not header else ""
            else:
                new += ("" if first and place == 0 else "---\n") + text
        if header and documents[0][0] == "ecr":
            new = new.removeprefix("---\n")
        path = f"{folder}/e{number}.yaml"
        gone = all(kind == "ecr" for kind, _ in documents)
        before[path] = mark + (header + old).replace("\n", end)
        if header and documents[0][0] == "ecr":
            header = header.removesuffix("---\n") + "---\n"
        after[path] = None if gone else mark + (header + new).replace("\n", end)
        listing.setdefault(folder, []).append((f"./e{number}.yaml", gone))
    for folder, listed in listing.items():
        lines = [f"  targets: # of {folder}\n"]
        kept = list(lines)
        for target, gone in listed:
            lines.append(f"    # {target}\n    - {target}\n")
            kept.append(f"    # {target}\n" + ("" if gone else f"    - {target}\n"))
        head = f"# {folder}\napiVersion: backstage.io/v1alpha1\nkind: Location\nspec:\n"
        before[f"{folder}/all.yaml"] = head + "".join(lines)
        after[f"{folder}/all.yaml"] = head + "".join(kept)
    root = "kind: Location\nspec:\n  targets:\n" + "".join(
        f"    - ./{f}/all.yaml\n" for f in folders
    )
    before["all.yaml"] = after["all.yaml"] = root
    before["notes.txt"] = after["notes.txt"] = ecr("no-catalog-file")
    return before, after


@pytest.mark.parametrize("seed", range(3))
def test_a_catalog_of_200_entities_keeps_every_other_byte(
    command: Command, catalog: Path, seed: int
) -> None:
    before, after = mixed_catalog(seed)
    assert sum(text.count("kind: ") for text in before.values()) > 200
    write(catalog, before)
    retired = sum(
        len(re.findall(rf"type: (?:{'|'.join(TYPES)})\b", text)) for text in before.values()
    )

    planned = command("retire", "catalog", "--json")
    assert planned.code == 2
    assert len(json.loads(planned.out)["entities"]) == retired - 1, "all but that of notes.txt"
    assert snapshot(catalog) == {path: text.encode() for path, text in before.items()}

    done = command("retire", "catalog", "--apply")
    assert done.code == 0, done
    assert snapshot(catalog) == {
        path: text.encode() for path, text in after.items() if text is not None
    }

    again = command("retire", "catalog", "--apply", "--json")
    assert again.code == 0
    answer = json.loads(again.out)
    assert (answer["entities"], answer["files"]["deleted"], answer["left"]) == ([], [], [])
    assert command("guard", "catalog").code == 0


# The plan


@pytest.fixture
def small(catalog: Path) -> Path:
    write(
        catalog,
        {
            "all.yaml": "kind: Location\nmetadata: {name: all}\nspec:\n  targets:\n"
            "    - ./ecr/pay.yaml\n    - ./app.yaml\n    - ./ecr/*.yaml\n",
            "app.yaml": COMPONENT.format(name="app").replace(
                "{type: service}", "{type: service, dependsOn: [Resource:default/Pay]}"
            ),
            "ecr/pay.yaml": ecr("pay", owner="team-pay"),
            "ecr/gone.yaml": ecr("gone"),
            "ecr/stray.yaml": ecr("stray"),
            "skeleton.yaml": "kind: Resource\nmetadata: {name: {{ name }}}\n",
        },
    )
    return catalog


def test_a_plan_shows_what_goes_what_dangles_and_what_was_not_judged(
    command: Command, small: Path
) -> None:
    before = snapshot(small)
    done = command("retire", "catalog")

    assert done.code == 2
    assert snapshot(small) == before
    for words in (
        "Not compared: no mirror is configured here\n",
        "  - resource:default/pay  (catalog/ecr/pay.yaml:2)\n",
        "  delete catalog/ecr/pay.yaml\n",
        "  change catalog/all.yaml\n",
        "      Location all no longer lists ./ecr/pay.yaml\n",
        "  catalog/app.yaml:5: component:default/app dependsOn Resource:default/Pay\n",
        "To retire: 3 entities, 3 files to delete, 1 to change. Run again with --apply.\n",
    ):
        assert words in done.out
    assert "\x1b" not in done.out
    assert re.search(r"^catalog/skeleton.yaml:2: warning: cannot be parsed", done.err, re.MULTILINE)
    assert "catalog/all.yaml:1: warning: the target ./ecr/*.yaml is left as it is" in done.err


def test_json_has_one_object_of_a_stable_shape(command: Command, small: Path) -> None:
    done = command("retire", str(small), "--json")
    answer = json.loads(done.out)

    assert list(answer) == [
        *("path", "applied", "mirror", "not_compared", "entities", "locations", "files"),
        *("references", "left", "warnings"),
    ]
    assert answer["entities"][1] == {
        "file": f"{small}/ecr/pay.yaml",
        "line": 2,
        "name": "pay",
        "namespace": "default",
        "type": "ecr-repository",
        "reference": "resource:default/pay",
        "repository": None,
        "standing": None,
        "state": None,
        "lost": None,
        "remark": None,
    }
    assert answer["files"]["changed"] == [f"{small}/all.yaml"]
    assert answer["references"][0]["to"] == "resource:default/pay"
    assert {each["file"] for each in answer["warnings"]} == {
        f"{small}/all.yaml",
        f"{small}/skeleton.yaml",
    }


def test_a_clean_catalog_asks_nobody(asking: Command, catalog: Path, world: World) -> None:
    write(catalog, {"app.yaml": COMPONENT.format(name="app")})
    done = asking("retire", "catalog", "--apply")
    assert done.code == 0
    assert done.out == "Nothing to retire: catalog declares no ad-hoc ECR entity.\n"
    assert world.fake.count("DescribeRepositories") == 0


# The mirror


def test_each_entity_is_held_against_the_mirror(asking: Command, small: Path, world: World) -> None:
    world.have("pay")
    world.govern("gone")
    world.fake.create("stray")

    done = asking("retire", "catalog", "--json")
    found = {each["name"]: each for each in json.loads(done.out)["entities"]}
    assert {
        name: (each["standing"], each["state"], each["lost"]) for name, each in found.items()
    } == {
        "pay": ("governed", "live", {"owner": "team-pay"}),
        "gone": ("gone", "ghost", {}),
        "stray": ("ungoverned", "orphan", {"owner": "platform-team"}),
    }

    words = asking("retire", "catalog", "-m", world.name).out
    assert (
        "Compared with the mirror goldenpath: 1 gone, 1 governed, 1 ungoverned, 0 unknown" in words
    )
    assert "governed: pay is live\n      would be lost: owner team-pay\n" in words
    assert "gone: gone is not in AWS, governance has it as ghost: a ghost in Backstage" in words
    assert asking("retire", "catalog", "--apply").code == 0
    assert not (small / "ecr" / "pay.yaml").exists()


def test_the_mirrors_own_entity_stays(asking: Command, small: Path, world: World) -> None:
    world.have("pay")
    world.sync()
    assert world.content is not None
    (small / "ours.yaml").write_bytes(world.content)

    assert asking("retire", "catalog", "--apply").code == 0
    assert (small / "ours.yaml").read_bytes() == world.content


@pytest.mark.parametrize("broken", ["ecr", "governance", "mirror"])
def test_nothing_is_removed_on_the_strength_of_a_failed_read(
    asking: Command, small: Path, world: World, broken: str
) -> None:
    before = snapshot(small)
    if broken == "ecr":
        world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    elif broken == "governance":
        world.commit("repositories: [")
    else:
        world.mirror_file.write_text("governance: 1\n")

    plan = asking("retire", "catalog")
    assert plan.code == 2
    assert "Not compared: " in plan.out

    done = asking("retire", "catalog", "--apply")
    assert done.code == 1
    assert done.out == ""
    assert "othing was removed" in done.err
    assert snapshot(small) == before

    if broken != "mirror":
        assert asking("retire", "catalog", "--apply", "--no-compare").code == 0
        assert snapshot(small) != before


def test_of_several_mirrors_one_is_named(asking: Command, small: Path, world: World) -> None:
    second = world.mirror_file.read_text().replace("ecr-registry.yaml", "second.yaml")
    (world.mirrors / "second.yaml").write_text(second)

    assert "there are several mirrors: goldenpath, second" in asking("retire", "catalog").out
    before = snapshot(small)
    done = asking("retire", "catalog", "--apply")
    assert done.code == 1
    assert "Name the one to compare with by -m" in done.err
    assert asking("retire", "catalog", "--apply", "-m", "nobody").code == 1
    assert asking("retire", "catalog", "--apply", "-m", "second", "--no-compare").code == 1
    assert snapshot(small) == before
    assert asking("retire", "catalog", "--apply", "-m", "second").code == 0


# Files


def test_one_file_can_be_retired(command: Command, small: Path) -> None:
    assert command("retire", "catalog/ecr/pay.yaml", "--apply").code == 0
    assert not (small / "ecr" / "pay.yaml").exists()
    assert (small / "ecr" / "gone.yaml").exists()


def test_links_are_reported_and_never_followed(
    command: Command, small: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    write(outside, {"pay.yaml": ecr("outside")})
    (small / "linked").symlink_to(outside)
    (small / "linked.yaml").symlink_to(outside / "pay.yaml")
    write(small, {"node_modules/x.yaml": ecr("dependency"), ".git/x.yaml": ecr("git")})

    done = command("retire", "catalog", "--apply")

    assert done.code == 0
    assert snapshot(outside) == {"pay.yaml": ecr("outside").encode()}
    assert (small / "linked.yaml").is_symlink()
    assert (small / "node_modules" / "x.yaml").exists()
    for name in ("linked", "linked.yaml"):
        assert f"catalog/{name}:1: warning: not judged: a symbolic link" in done.err


def test_what_is_left_is_reported_by_exit_code_2(command: Command, small: Path) -> None:
    write(small, {"half.yaml": f"{ecr('half')}---\n{{{{ x }}}}\n"})
    done = command("retire", "catalog", "--apply")
    assert done.code == 2
    assert (
        "Left as they are:\n  catalog/half.yaml:2: a part of the file cannot be parsed" in done.out
    )
    assert not (small / "ecr" / "pay.yaml").exists()
    assert (small / "half.yaml").exists()


def test_modes_stay_and_nothing_else_is_left_beside(command: Command, small: Path) -> None:
    (small / "all.yaml").chmod(0o640)
    assert command("retire", "catalog", "--apply").code == 0
    assert (small / "all.yaml").stat().st_mode & 0o777 == 0o640
    assert set(snapshot(small)) == {"all.yaml", "app.yaml", "skeleton.yaml"}


def test_no_such_path_is_an_error(command: Command) -> None:
    done = command("retire", "nowhere")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: there is no nowhere.")


def test_a_run_that_is_cut_off_leaves_whole_files_and_the_next_one_finishes(
    command: Command, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at each write and each removal in turn."""
    before = snapshot(small)
    whole = command("retire", "catalog", "--apply")
    assert whole.code == 0
    after = snapshot(small)
    for allowed in range(4):
        write(small, {path: content.decode() for path, content in before.items()})
        ending = Ending(allowed)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", ending)
            assert command("retire", "catalog", "--apply").code == 1
        now = snapshot(small)
        for path, content in now.items():
            assert content in {before.get(path), after.get(path)}, path
        listed = now["all.yaml"].decode()
        assert (small / "ecr" / "pay.yaml").exists() or "pay.yaml" not in listed
        assert command("retire", "catalog", "--apply").code == 0
        assert snapshot(small) == after


class Ending:
    """An fsync that interrupts the process, after some that did not."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._fsync = os.fsync

    def __call__(self, handle: int) -> None:
        if self._allowed == 0:
            raise KeyboardInterrupt
        self._allowed -= 1
        self._fsync(handle)


def test_a_file_that_changes_meanwhile_is_not_overwritten(small: Path) -> None:
    folder = read_catalog(small)
    edits: dict[str, Any] = {"app.yaml": b"new", "ecr/pay.yaml": None}
    (small / "ecr" / "pay.yaml").write_text("somebody else's")

    with pytest.raises(CatalogUnavailable, match="has changed since it was read; nothing was"):
        replace_files(folder, edits)

    assert (small / "app.yaml").read_bytes() == folder.contents["app.yaml"]
