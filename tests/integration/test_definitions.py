"""The code location: what Dagster sees of the mirrors, and what loading it does not do."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import CodePointer
from dagster._core.definitions.reconstruct import (
    ReconstructableJob,
    ReconstructableRepository,
)

from ecr_catalog_pipeline.definitions import build_definitions, defs
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, PARITY_WATCH
from ecr_catalog_pipeline.defs.jobs import MIRROR_TAG
from ecr_catalog_pipeline.settings import load_mirrors
from tests.integration.worlds import (
    GOVERNANCE_PATH,
    KINDS,
    QUIET,
    FileTarget,
    GitTarget,
    World,
    a_world,
)

ROOT: Final = Path(__file__).parents[2]
DAGSTER: Final = Path(sys.executable).with_name("dagster")

EXTERNAL: Final = {"governance_file", "ecr_registry", "backstage_entity"}
COMPUTED: Final = {
    "governance_catalog",
    "ecr_inventory",
    "reconciled_registry",
    "published_entity",
    "backstage_parity",
}
CHECKS: Final = {
    "governance_catalog:governance_findings",
    "reconciled_registry:no_ghosts",
    "reconciled_registry:no_orphans",
    "reconciled_registry:entity_valid",
    "published_entity:removal_guard",
    "published_entity:last_known_good",
    "published_entity:published_equals_desired",
    "backstage_parity:backstage_in_parity",
    "backstage_parity:parity_is_fresh",
    "backstage_parity:time_to_parity_within_slo",
}
UPSTREAM: Final = {
    "governance_catalog": {"governance_file"},
    "ecr_inventory": {"ecr_registry"},
    "reconciled_registry": {"governance_catalog", "ecr_inventory"},
    "published_entity": {"reconciled_registry"},
    "backstage_entity": {"published_entity"},
    "backstage_parity": {"published_entity", "backstage_entity"},
}
PUBLISH: Final = {
    "git": {"kind": "git", "repository": "https://git.example.com/catalog.git"},
    "s3": {"kind": "s3", "bucket": "catalog", "key": "ecr-registry.yaml"},
    "file": {"kind": "file", "path": "out/ecr-registry.yaml"},
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, GitTarget(tmp_path)) as world:
        world.have("team/api", "team/web")
        yield world


def write_mirror(folder: Path, name: str, kind: str = "file", **settings: Any) -> None:
    """Write a mirror file that reaches out to nothing on this host."""
    publish = dict(PUBLISH[kind])
    if kind == "file":
        publish["path"] = f"out/{name}.yaml"
    content = {
        "governance": {"repository": "https://git.example.com/governance.git"},
        "registry": {
            "region": "eu-west-2",
            "account_id": "123456789012",
            "role_arn": "arn:aws:iam::123456789012:role/reader",
        },
        "publish": publish,
        **settings,
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def load(folder: Path) -> dg.Definitions:
    definitions = build_definitions(
        load_mirrors(folder), environ={"ECR_CATALOG_CACHE": str(folder / "cache")}
    )
    dg.Definitions.validate_loadable(definitions)
    return definitions


def specs_of(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {each.key.to_user_string(): each for each in definitions.resolve_all_asset_specs()}


def keys(mirror: str, names: Iterable[str]) -> set[str]:
    return {f"{mirror}/{name}" for name in names}


# What Dagster sees


def test_a_mirror_has_these_keys_and_no_others(tmp_path: Path) -> None:
    write_mirror(tmp_path, "goldenpath")

    definitions = load(tmp_path)

    repository = definitions.get_repository_def()
    assert set(specs_of(definitions)) == keys("goldenpath", COMPUTED | EXTERNAL)
    assert {each.to_user_string() for each in repository.asset_graph.asset_check_keys} == keys(
        "goldenpath", CHECKS
    )
    assert set(repository.job_names) - {"__ASSET_JOB"} == {
        "goldenpath_sync",
        "ecr_catalog_housekeeping",
    }
    assert {each.name for each in repository.schedule_defs} == {
        "goldenpath_every_2_minutes",
        "ecr_catalog_housekeeping_hourly",
    }
    assert {each.name for each in repository.sensor_defs} == {
        CHANGE_SENSOR,
        PARITY_WATCH,
        "mirror_files_watch",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_assets_say_whose_and_what_they_are(tmp_path: Path, kind: str) -> None:
    write_mirror(tmp_path, "one", kind, entity={"owner": "group:default/platform-team"})

    specs = specs_of(load(tmp_path))

    assert {each.group_name for each in specs.values()} == {"one"}
    assert {name: set(each.kinds) for name, each in specs.items()} == {
        "one/governance_file": {"git", "yaml"},
        "one/governance_catalog": {"git", "yaml"},
        "one/ecr_registry": {"aws", "ecr"},
        "one/ecr_inventory": {"aws", "ecr"},
        "one/reconciled_registry": {"python"},
        "one/published_entity": {"backstage", kind},
        "one/backstage_entity": {"backstage"},
        "one/backstage_parity": {"backstage"},
    }
    for name in keys("one", COMPUTED):
        spec = specs[name]
        assert list(spec.owners) == ["team:platform-team"], name
        assert spec.code_version, name
        assert spec.freshness_policy == dg.FreshnessPolicy.time_window(
            fail_window=timedelta(seconds=180), warn_window=timedelta(seconds=150)
        ), name
        assert spec.metadata["freshness"] == (
            "warns 150 s after the last materialization, fails after 180 s"
        ), name
    assert all(each.description for each in specs.values())


def test_the_lineage_is_whole(tmp_path: Path) -> None:
    write_mirror(tmp_path, "one")

    graph = load(tmp_path).resolve_asset_graph()

    upstream = {
        node.key.to_user_string(): {parent.to_user_string() for parent in node.parent_keys}
        for node in graph.asset_nodes
        if node.parent_keys
    }
    assert upstream == {f"one/{name}": keys("one", above) for name, above in UPSTREAM.items()}
    assert {key.to_user_string() for key in graph.external_asset_keys} == keys("one", EXTERNAL)


def test_data_versions_come_from_content_alone(world: World) -> None:
    def versions() -> dict[str, str]:
        synced = world.sync()
        return {name: synced.data_version(name) for name in COMPUTED}

    first = versions()
    digest = world.entity["metadata"]["annotations"]["platform/content-digest"]
    assert first["governance_catalog"] == world.governance.git(
        "rev-parse", f"HEAD:{GOVERNANCE_PATH}"
    )
    assert first["ecr_inventory"].startswith("sha256:")
    assert first["reconciled_registry"] == digest
    assert first["published_entity"] == digest
    assert first["backstage_parity"] == digest
    assert versions() == first

    world.commit("hello\n", path="README.md")
    assert versions() == first
    world.commit(world.governance_file.read_text() + "# Reviewed.\n")
    commented = versions()
    assert {name for name in COMPUTED if commented[name] != first[name]} == {"governance_catalog"}
    world.fake.create("orphan")
    created = versions()
    assert {name for name in COMPUTED if created[name] == commented[name]} == {"governance_catalog"}


# Jobs, schedules, one run at a time


def test_each_mirror_has_a_schedule_that_runs_by_default(tmp_path: Path) -> None:
    write_mirror(tmp_path, "one")
    write_mirror(tmp_path, "two")

    repository = load(tmp_path).get_repository_def()

    assert {
        each.name: (each.cron_schedule, each.job_name, each.default_status)
        for each in repository.schedule_defs
    } == {
        f"{name}_every_2_minutes": (
            cron,
            f"{name}_sync",
            dg.DefaultScheduleStatus.RUNNING,
        )
        # Not all mirrors at the same minute.
        for name, cron in (("one", "1-59/2 * * * *"), ("two", "*/2 * * * *"))
    } | {
        "ecr_catalog_housekeeping_hourly": (
            "41 * * * *",
            "ecr_catalog_housekeeping",
            dg.DefaultScheduleStatus.RUNNING,
        )
    }


def test_all_runs_of_a_mirror_share_one_pool_and_no_other_mirrors(tmp_path: Path) -> None:
    write_mirror(tmp_path, "one")
    write_mirror(tmp_path, "two")
    definitions = load(tmp_path)

    pools = {
        name: {
            pool
            for node in definitions.resolve_job_def(f"{name}_sync").nodes
            for pool in node.definition.pools or {"none"}
        }
        for name in ("one", "two")
    }

    assert pools["one"] != pools["two"]
    assert [len(each) for each in pools.values()] == [1, 1]
    assert not any("none" in each for each in pools.values())


def test_the_shipped_instance_lets_one_run_through_a_pool(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        limits = instance.get_concurrency_config().pool_config
        assert limits.default_pool_limit == 1
        assert limits.pool_granularity is not None
        assert limits.pool_granularity.value == "run"
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_poll_interval_seconds == 10
        assert not instance.telemetry_enabled


def test_a_run_ends_before_the_next_two_ticks(world: World) -> None:
    run = world.sync().result.dagster_run

    assert 90 < int(run.tags["dagster/max_runtime"]) < 240


def test_the_schedule_adds_no_run_to_one_under_way(tmp_path: Path) -> None:
    write_mirror(tmp_path / "mirrors", "one")
    write_mirror(tmp_path / "mirrors", "two")
    repository = load(tmp_path / "mirrors").get_repository_def()

    with dg.DagsterInstance.local_temp(overrides={"telemetry": {"enabled": False}}) as instance:

        def tick(mirror: str) -> tuple[int, str | None]:
            schedule = repository.get_schedule_def(f"{mirror}_every_2_minutes")
            with dg.build_schedule_context(instance=instance) as context:
                ticked = schedule.evaluate_tick(context)
            return len(ticked.run_requests or []), ticked.skip_message

        for status in (
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.CANCELING,
        ):
            assert tick("one") == (1, None), f"before {status}"
            run = instance.add_run(
                dg.DagsterRun(
                    job_name="one_sync",
                    run_id=str(uuid4()),
                    status=status,
                    tags={MIRROR_TAG: "one"},
                )
            )
            requests, why = tick("one")
            assert (requests, bool(why)) == (0, True), status
            assert tick("two") == (1, None), "another mirror's run is no reason"
            instance.delete_run(run.run_id)


# Mirror files that cannot be used


def test_a_bad_mirror_file_shows_itself_and_takes_no_other_down(tmp_path: Path) -> None:
    write_mirror(tmp_path, "good")
    (tmp_path / "no_yaml.yaml").write_text("name: no_yaml\npublish: }\n")
    (tmp_path / "no_region.yaml").write_text("publish: {kind: file, path: x.yaml}\n")
    (tmp_path / "Upper-Case.yaml").write_text("{}")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    write_mirror(tmp_path, "twin_a", publish={"kind": "file", "path": "twins.yaml"})
    write_mirror(tmp_path, "twin_b", publish={"kind": "file", "path": "twins.yaml"})

    definitions = load(tmp_path)

    specs = specs_of(definitions)
    assert {key for key in specs if key.startswith("good/")} == keys("good", COMPUTED | EXTERNAL)
    assert definitions.resolve_job_def("good_sync").name == "good_sync"
    refused = {key: specs[key].description or "" for key in specs if not key.startswith("good/")}
    assert len(refused) == 8, "each of them shows itself"
    for name, words in {
        "no_yaml": "no_yaml.yaml:2:10: not YAML",
        "no_region": "registry: is required",
        "Upper": "'Upper-Case' cannot name a mirror",
        "twin_a": "is also the target of twin_b",
    }.items():
        assert any(name in key and words in shown for key, shown in refused.items()), name


def test_bad_mirror_files_of_similar_names_take_no_other_down(tmp_path: Path) -> None:
    write_mirror(tmp_path, "good")
    for name in ("a-b.yaml", "a.b.yaml", "a b.yaml", "good.yml"):
        (tmp_path / name).write_text("{}")

    specs = specs_of(load(tmp_path))

    assert keys("good", COMPUTED) <= set(specs)
    shown = " ".join(each.description or "" for each in specs.values())
    for name in ("a-b.yaml", "a.b.yaml", "a b.yaml", "good.yml"):
        assert name in shown


@pytest.mark.parametrize(
    "owner", ["平台团队", "group:default/平台", "user:default/jo@example.com", "-"]
)
def test_an_owner_that_dagster_cannot_spell_takes_no_mirror_down(
    tmp_path: Path, owner: str
) -> None:
    write_mirror(tmp_path, "good")
    write_mirror(tmp_path, "other", entity={"owner": owner})

    assert keys("good", COMPUTED) <= set(specs_of(load(tmp_path)))


def test_two_mirrors_run_at_once_from_one_code_location(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        a_world(tmp_path / "one", GitTarget(tmp_path / "one"), name="one") as one,
        a_world(tmp_path / "two", FileTarget(tmp_path / "two"), name="two") as two,
    ):
        shared = tmp_path / "mirrors"
        shared.mkdir()
        for world in (one, two):
            shutil.copy(world.mirror_file, shared)
        one.have("team/api", "team/web")
        two.have("shop/cart")
        two.fake.create("shop/orphan")
        definitions = load(shared)

        def run(name: str) -> bool:
            job = definitions.resolve_job_def(f"{name}_sync")
            return job.execute_in_process(run_config=QUIET).success

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(run, ("one", "two"))) == [True, True]

        assert list(one.listed) == ["team/api", "team/web"]
        assert list(two.listed) == ["shop/cart"]
        assert one.entity["metadata"]["name"] == "one-ecr-registry"
        assert two.entity["metadata"]["name"] == "two-ecr-registry"


# What the process of a run defines


def put_the_jobs_defined_here(answer: Any, *_: object) -> None:
    repository = defs().get_repository_def()
    answer.put(sorted(name for name in repository.job_names if not name.startswith("__")))


def jobs_defined_by_a_process(*arguments: object) -> list[str]:
    """Start a process as Dagster's default launcher starts the one of a run."""
    spawning = multiprocessing.get_context("spawn")
    answer = spawning.Queue()
    process = spawning.Process(target=put_the_jobs_defined_here, args=[answer, *arguments])
    process.start()
    try:
        jobs: list[str] = answer.get(timeout=120)
    finally:
        process.kill()
        process.join()
    return jobs


@pytest.fixture
def two_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        write_mirror(tmp_path / "mirrors", name)
    monkeypatch.setenv("ECR_CATALOG_MIRRORS", str(tmp_path / "mirrors"))


def the_job(name: str) -> ReconstructableJob:
    pointer = CodePointer.from_module("ecr_catalog_pipeline.definitions", "defs", None)
    return ReconstructableJob(ReconstructableRepository(pointer), name)


@pytest.mark.usefixtures("two_mirrors")
def test_the_process_of_a_run_defines_its_mirror_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs_defined_by_a_process("run arguments", the_job("two_sync")) == ["two_sync"]

    monkeypatch.setenv("DAGSTER_RUN_JOB_NAME", "one_sync")
    assert jobs_defined_by_a_process() == ["one_sync"]


@pytest.mark.usefixtures("two_mirrors")
def test_every_other_process_defines_every_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    every = ["ecr_catalog_housekeeping", "one_sync", "two_sync"]

    assert jobs_defined_by_a_process() == every
    assert jobs_defined_by_a_process(the_job("ecr_catalog_housekeeping")) == every
    monkeypatch.setenv("DAGSTER_RUN_JOB_NAME", "three_sync")
    assert jobs_defined_by_a_process() == every


# What loading does not do

LOAD_UNDER_WATCH: Final = """
import json, os, socket, sys

SECRETS = {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "BACKSTAGE_TOKEN", "GIT_ASKPASS",
    "ECR_CATALOG_ALERT_URLS"}
reads, network = [], []


class Watched(type(os.environ)):
    previous = None

    def __getitem__(self, key):
        # Libraries copy or search all of it; in such a sweep each key follows the one before.
        order = list(self)
        swept = key in order[1:] and order[order.index(key) - 1] == self.previous
        self.previous = key
        if key in SECRETS and not swept:
            reads.append(key)
        return super().__getitem__(key)


def watch(event, arguments):
    if event in {
        "socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"
    }:
        network.append(event)
        raise ConnectionRefusedError(event)


os.environ.__class__ = Watched
sys.addaudithook(watch)

from ecr_catalog_pipeline.definitions import defs

repository = defs().get_repository_def()
repository.load_all_definitions()
keys = sorted(key.to_user_string() for key in repository.asset_graph.get_all_asset_keys())
found = {"keys": keys, "reads": list(reads), "network": list(network)}

# The watch itself works.
os.environ.get("BACKSTAGE_TOKEN")
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
print(json.dumps(found | {"noticed": [len(reads), len(network)]}))
"""


def no_network() -> list[str]:
    """Give what takes a command's network away, where this host lets us."""
    try:
        subprocess.run(["unshare", "-rn", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return ["unshare", "-rn"]


def test_loading_calls_nobody_and_reads_no_secret(tmp_path: Path) -> None:
    mirrors, home = tmp_path / "mirrors", tmp_path / "empty"
    home.mkdir()
    for kind in KINDS:
        backstage = {"url": "https://backstage.example.com", "token_env": "BACKSTAGE_TOKEN"}
        write_mirror(mirrors, f"to_{kind}", kind, backstage=backstage)

    done = subprocess.run(
        [*no_network(), sys.executable, "-c", LOAD_UNDER_WATCH],
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "ECR_CATALOG_MIRRORS": str(mirrors),
            "AWS_ACCESS_KEY_ID": "planted",
            "AWS_SECRET_ACCESS_KEY": "planted",
            "AWS_SESSION_TOKEN": "planted",
            "BACKSTAGE_TOKEN": "planted",
            "GIT_ASKPASS": "/planted",
            "ECR_CATALOG_ALERT_URLS": "slack://planted",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reads"] == []
    assert found["network"] == []
    assert found["noticed"] == [1, 1]
    for kind in KINDS:
        assert keys(f"to_{kind}", COMPUTED | EXTERNAL) <= set(found["keys"])
    assert list(home.iterdir()) == [], "nor does it write"


def in_the_clone(home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of Dagster's in this clone, with a DAGSTER_HOME of its own."""
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ECR_CATALOG_")}
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_shipped_workspace_is_valid(tmp_path: Path) -> None:
    done = in_the_clone(tmp_path, DAGSTER, "definitions", "validate", "-w", "workspace.yaml")

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "All code locations passed validation" in said
    for word in ("WARNING", "ERROR", "Traceback", "is not loaded"):
        assert word not in said


@pytest.mark.full
def test_dg_lists_and_checks_the_clone(tmp_path: Path) -> None:
    def dg_says(*words: str) -> str:
        done = in_the_clone(tmp_path, DAGSTER.with_name("dg"), *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = json.loads(dg_says("list", "defs", "--json"))
    assert {each["asset_key"] for each in listed["assets"]} == {
        f"demo/{asset}" for asset in COMPUTED | EXTERNAL
    }
    assert "All definitions loaded successfully." in dg_says("check", "defs")
