"""The check `no_ad_hoc_entities`: there when the mirror names a catalog, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest

from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.core.text import inert, visible
from ecr_catalog_pipeline.defs.conditions import Known, read_known
from ecr_catalog_pipeline.settings import load_mirror
from ecr_catalog_pipeline.sprawl.ad_hoc import CatalogUnavailable
from ecr_catalog_pipeline.sprawl.catalog_repo import CatalogRepo
from tests.fakes.aws import Fault
from tests.integration.conftest import FILE, NOON, SUBMODULE, SYMLINK, Entry, Repository
from tests.integration.worlds import QUIET, FileTarget, World, a_world

CHECK: Final = "no_ad_hoc_entities"
PAY: Final = "# c\nkind: Resource\nmetadata: {name: pay}\nspec: {type: ecr-repository}\n"
APP: Final = "kind: Component\nmetadata: {name: app}\n"


@pytest.fixture
def catalog(tmp_path: Path) -> Repository:
    repository = Repository.create(tmp_path / "catalog.git", bare=True)
    repository.commit({"catalog/app.yaml": APP})
    return repository


@pytest.fixture
def world(tmp_path: Path, catalog: Repository) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have("pay", "search")
        world.write_mirror(sprawl={"repository": str(catalog.folder)})
        yield world


def rows(evaluation: dg.AssetCheckEvaluation) -> list[dict[str, Any]]:
    table = evaluation.metadata["entities"]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(each.data) for each in table.records]


# The asset check


def test_a_mirror_without_a_catalog_has_no_such_check(world: World) -> None:
    world.write_mirror()
    assert CHECK not in world.sync().checks


def test_every_run_looks_at_the_tip_and_what_it_finds_is_a_warning(
    world: World, catalog: Repository
) -> None:
    clean = world.sync()
    assert clean.checks[CHECK] is True

    catalog.commit({"catalog/pay.yaml": PAY})
    found = world.sync()
    evaluation = found.evaluations[CHECK]
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert evaluation.metadata["count"].value == 1
    assert rows(evaluation) == [
        {"file": "catalog/pay.yaml", "line": "2", "name": "pay", "type": "ecr-repository"}
    ]
    assert alerts_nobody(world)

    catalog.commit({"catalog/pay.yaml": None})
    assert world.sync().checks[CHECK] is True


def alerts_nobody(world: World) -> bool:
    known = read_known(world.instance, [world.mirror], NOON)[world.name]
    return isinstance(known, Known) and known.conditions == {}


def test_what_cannot_be_inspected_is_a_warning_and_never_clean(
    world: World, catalog: Repository
) -> None:
    catalog.commit({"huge.yaml": PAY + "#" * 2_000_000, "latin.yaml": b"# \xe9\n"})

    for _ in range(2):  # The second time from what was remembered.
        evaluation = world.sync().evaluations[CHECK]
        world.restart()
        assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "2 files cannot be inspected" in str(evaluation.description)
        assert "huge.yaml, latin.yaml" in str(evaluation.description)
        assert evaluation.metadata["uninspected"].value == 2


def test_a_hostile_catalog_hides_nothing_in_the_ui(world: World, catalog: Repository) -> None:
    evil = "\x1b[2J\u202e <a href=https://evil.example>"
    catalog.commit({"\x1b[2J\u202e.yaml": PAY.replace("name: pay", f"name: {json.dumps(evil)}")})

    evaluation = world.sync().evaluations[CHECK]

    (row,) = rows(evaluation)
    assert row["file"] == r"\x1b[2J\u202e.yaml"
    assert row["name"] == inert(visible(evil))


def test_the_entities_of_all_mirrors_are_no_sprawl(world: World, catalog: Repository) -> None:
    world.sync()
    assert world.content is not None
    theirs = PAY.replace("ecr-repository", "container-registry")
    catalog.commit({"ours.yaml": world.content, "theirs.yaml": theirs})
    assert [row["file"] for row in rows(world.sync().evaluations[CHECK])] == ["theirs.yaml"]

    second = world.mirror_file.read_text().replace("/published/", "/second/")
    (world.mirrors / "second.yaml").write_text(f"{second}entity: {{name: pay}}\n")
    world.restart()
    assert world.sync().checks[CHECK] is True


def test_a_catalog_that_cannot_be_read_fails_the_check_and_nothing_else(
    world: World, tmp_path: Path
) -> None:
    world.write_mirror(sprawl={"repository": str(tmp_path / "nowhere")})
    done = world.sync()

    evaluation = done.evaluations[CHECK]
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(evaluation.description).startswith("not known: ")
    assert done.outcome == "published"
    assert alerts_nobody(world)


def test_a_defect_of_the_look_itself_fails_no_run(world: World) -> None:
    done = world.sync(overrides={"catalog": object()})
    assert "not known: unexpected AttributeError" in str(done.evaluations[CHECK].description)
    assert done.outcome == "published"


def test_it_comes_last_and_even_when_the_inventory_fails(world: World, catalog: Repository) -> None:
    done = world.sync()
    steps = [
        each.step_key for each in done.result.all_events if each.event_type_value == "STEP_START"
    ]
    assert steps[-1] == f"goldenpath__governance_catalog_{CHECK}"

    catalog.commit({"pay.yaml": PAY})
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    job = world.definitions.resolve_job_def("goldenpath_sync")
    failed = job.execute_in_process(run_config=QUIET, instance=world.instance, raise_on_error=False)
    assert not failed.success
    (evaluation,) = [
        each for each in failed.get_asset_check_evaluations() if each.check_name == CHECK
    ]
    assert evaluation.metadata["count"].value == 1


# The catalog repository


def repo(catalog: Repository, cache: Path, *paths: str, branch: str = "main") -> CatalogRepo:
    return CatalogRepo(catalog.url, branch, paths, cache)


def found(looking: CatalogRepo, **how: Any) -> list[tuple[str, int]]:
    return [(path, entity.line) for path, entity in looking.sprawl((), **how).found]


def test_links_submodules_and_other_files_are_not_read(catalog: Repository, cache: Path) -> None:
    commit = catalog.tip()
    assert commit
    catalog.commit(
        {
            "a.yaml": Entry("catalog/pay.yaml", SYMLINK),
            "b.yaml": Entry(commit, SUBMODULE),
            "c.txt": PAY,
            "d.json": b"\xff\xfe",
            "e.yml": Entry(f"{APP}---\n{PAY}", FILE),
            "ü ä.yaml": PAY,
        }
    )
    assert found(repo(catalog, cache)) == [("e.yml", 5), ("ü ä.yaml", 2)]


def test_only_the_named_paths_are_looked_at(catalog: Repository, cache: Path) -> None:
    catalog.commit({"catalog/pay.yaml": PAY, "other/pay.yaml": PAY, "catalog2/pay.yaml": PAY})
    assert found(repo(catalog, cache, "catalog")) == [("catalog/pay.yaml", 2)]
    assert found(repo(catalog, cache, "other/pay.yaml", "catalog2")) == [
        ("catalog2/pay.yaml", 2),
        ("other/pay.yaml", 2),
    ]
    with pytest.raises(CatalogUnavailable, match=r"there is no nowhere on branch main .*paths"):
        found(repo(catalog, cache, "catalog", "nowhere"))


def test_a_missing_branch_and_an_unreachable_repository_say_so(
    catalog: Repository, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(CatalogUnavailable, match=r"has no branch gone\. Correct sprawl\.branch"):
        found(repo(catalog, cache, branch="gone"))
    with pytest.raises(CatalogUnavailable, match="cannot be read"):
        CatalogRepo(str(tmp_path / "none"), "main", (), cache).sprawl(())


def filtering(catalog: Repository) -> Repository:
    """Let a repository serve clones that lack its blobs, as the big hosts do."""
    catalog.git("config", "uploadpack.allowFilter", "true")
    catalog.git("config", "uploadpack.allowAnySHA1InWant", "true")
    return catalog


def test_blobs_are_fetched_once_and_together(
    catalog: Repository, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"catalog/e{number}.yaml": f"{PAY}# {number}\n" for number in range(40)}
    filtering(catalog).commit({**files, "big.bin": b"x" * 1000, "apps/other.yaml": PAY})
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(trace))

    def counted() -> tuple[int, int]:
        """How often git has asked the repository for something, and read blobs."""
        events = [json.loads(line) for line in trace.read_text().splitlines()]
        trace.unlink()
        starts = [" ".join(each["argv"]) for each in events if each["event"] == "start"]
        return sum("upload-pack" in each for each in starts), sum(
            "cat-file" in each for each in starts
        )

    looking = repo(catalog, cache, "catalog")
    assert len(found(looking)) == 40
    assert counted() == (3, 1), "what it can, one fetch of commits and trees, one of all blobs"
    assert len(found(repo(catalog, cache, "catalog"))) == 40
    assert counted() == (1, 0), "what was inspected is remembered, even by another process"

    catalog.commit({"catalog/e1.yaml": APP, "catalog/new.yaml": PAY})
    assert len(found(looking)) == 40
    assert counted() == (2, 1)


def test_a_look_that_runs_out_of_time_is_continued(catalog: Repository, cache: Path) -> None:
    catalog.commit({f"e{number}.yaml": f"{PAY}# {number}\n" for number in range(3)})
    cut_off = repo(catalog, cache).sprawl((), seconds=0)
    assert (cut_off.found, cut_off.files, cut_off.waiting) == ((), 4, 4)
    assert repo(catalog, cache).sprawl(()).waiting == 0


@pytest.mark.parametrize(
    "memory", ["", "{", "[]", '{"version": 1}', '{"version":1,"blobs":{"a":1}}']
)
def test_a_damaged_memory_is_forgotten(catalog: Repository, cache: Path, memory: str) -> None:
    catalog.commit({"pay.yaml": PAY})
    looking = repo(catalog, cache)
    looking.sprawl(())
    (file,) = cache.glob("*.git/sprawl.json")
    file.write_text(memory)
    assert found(looking) == [("pay.yaml", 2)]


# Settings


@pytest.mark.parametrize(
    ("sprawl", "problem"),
    [
        ({}, "sprawl.repository: is required"),
        ({"repository": "https://user:secret@host/x.git"}, "sprawl.repository: carries a password"),
        ({"repository": "./c", "paths": ["../x"]}, "sprawl.paths.0: must be a path inside"),
        ({"repository": "./c", "branch": "-x"}, "sprawl.branch: is not a branch name"),
        ({"repository": "./c", "folder": "x"}, "sprawl.folder: is not a key of a mirror file"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    world: World, sprawl: dict[str, Any], problem: str
) -> None:
    world.write_mirror(sprawl=sprawl)
    with pytest.raises(SettingsError) as caught:
        load_mirror(world.mirror_file)
    assert problem in str(caught.value)
