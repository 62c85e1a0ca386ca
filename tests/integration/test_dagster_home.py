"""A DAGSTER_HOME that cannot be used: publishing goes on without a history, and says so."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._cli import cli as dagster_cli

from ecr_catalog_pipeline.commands.run_once import run_once
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.demo.supervisor import prepare_instance
from tests.drills.test_publisher_drills import tiny_disks
from tests.integration.worlds import MIRROR, FileTarget, World, a_world

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = Path(sys.executable).with_name("ecr-catalog")
GARBAGE: Final = b"no database " * 2_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have("team/one", "team/two")
        yield world


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "dagster-home"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    return home


def prepare(home: Path) -> None:
    """Have Dagster make its databases."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_runs() == []
        instance.event_log_storage.get_maximum_record_id()


def sync(world: World, home: Path) -> tuple[str, list[str]]:
    """What a run came to, and of what it warned."""
    warnings: list[str] = []
    environ = {**world.environ(home.parent / "user"), "DAGSTER_HOME": str(home)}
    del environ["ECR_CATALOG_CACHE"]
    done = run_once(world.mirror, environ, warn=warnings.append)
    assert done.publication
    return done.publication.outcome.value, warnings


def no_database(name: str) -> Callable[[Path], object]:
    return lambda home: (home / name).write_bytes(GARBAGE)


def no_folder(home: Path) -> None:
    shutil.rmtree(home / "history")
    (home / "history").write_text("somebody's")


def a_table_less(home: Path) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db")) as conn:
        conn.execute("DROP TABLE run_tags")
        conn.commit()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (no_database("history/runs.db"), "history/runs.db is not an SQLite database"),
        (no_database("history/runs/index.db"), "history/runs/index.db is not an SQLite database"),
        (no_folder, "File exists"),
        (a_table_less, "no such table"),
    ],
    ids=["runs.db", "index.db", "no folder", "a table less"],
)
def test_a_history_that_cannot_be_used_stops_no_publication(
    world: World, home: Path, broken: Callable[[Path], object], words: str
) -> None:
    prepare(home)
    broken(home)

    outcome, (warning,) = sync(world, home)

    assert outcome == "published"
    assert set(world.listed) == {"team/one", "team/two"}
    assert words in warning
    assert str(home) in warning
    assert "keeps no history, and asks Backstage alone" in warning


def test_a_history_of_a_newer_dagster_is_used_as_it_is(world: World, home: Path) -> None:
    prepare(home)
    for name in ("runs.db", "runs/index.db"):
        with closing(sqlite3.connect(home / "history" / name)) as conn:
            conn.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
            conn.commit()

    assert sync(world, home) == ("published", [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "line 1, column 5"),
        (b"- a list", "dagster.yaml cannot be used"),
        (b"no_such_key: 3", "no_such_key"),
        (b"\xff\xfe\x00binary", "dagster.yaml cannot be used"),
    ],
    ids=["no YAML", "a list", "an unknown key", "binary"],
)
def test_a_dagster_yaml_that_cannot_be_used_is_an_error_with_its_fix(
    world: World, home: Path, content: bytes, words: str
) -> None:
    (home / "dagster.yaml").write_bytes(content)

    with pytest.raises(SettingsError) as caught:
        sync(world, home)

    assert str(home / "dagster.yaml") in caught.value.problem
    assert words in caught.value.problem
    assert "\n" not in caught.value.problem
    assert caught.value.remediation


FAULTS: Final = {
    "full": ('head -c 9m /dev/zero > "$DAGSTER_HOME/filler" 2> /dev/null', "its disk is full"),
    "read-only": ('mount -o remount,ro "$DAGSTER_HOME"', "cannot be read or written"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_home_on_a_disk_that_takes_nothing_stops_no_publication(
    world: World, home: Path, fault: str
) -> None:
    unshare = tiny_disks()
    if unshare is None:
        pytest.skip("no process may mount a small disk of its own here")
    makes, words = FAULTS[fault]
    script = (
        'mount -t tmpfs -o size=2m none "$DAGSTER_HOME" && cp "$1" "$DAGSTER_HOME/"; '
        f'{makes}; shift; exec "$@"'
    )
    environ = {**world.environ(home.parent / "user"), "DAGSTER_HOME": str(home)}
    del environ["ECR_CATALOG_CACHE"]

    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", ROOT / "dagster.yaml", COMMAND, "sync", "-m", MIRROR],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert set(world.listed) == {"team/one", "team/two"}
    assert f"DAGSTER_HOME {home}" in done.stderr
    assert words in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


# Two processes on a fresh home at once


def opens(home: str, barrier: Barrier, said: SimpleQueue[str]) -> None:
    """Open what Dagster's daemon and web server open, at the same moment as the others."""
    barrier.wait(60)
    try:
        with dg.DagsterInstance.from_config(home) as instance:
            instance.get_runs(limit=1)
            instance.event_log_storage.get_maximum_record_id()
            instance.all_instigator_state()
        said.put("well")
    except Exception as error:  # noqa: BLE001 - the test tells of it
        said.put(str(error))


def as_documented(home: Path) -> None:
    done = CliRunner().invoke(dagster_cli, ["instance", "migrate"], env={"DAGSTER_HOME": str(home)})
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("prepares", [as_documented, prepare_instance])
def test_processes_that_start_at_once_on_a_prepared_home_are_all_well(
    tmp_path: Path, prepares: Callable[[Path], None]
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for number in range(5):
        home = tmp_path / f"home-{number}"
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        prepares(home)
        barrier, said = context.Barrier(4), context.SimpleQueue()
        processes = [
            context.Process(target=opens, args=(str(home), barrier, said), daemon=True)
            for _ in range(4)
        ]
        for each in processes:
            each.start()
        assert [said.get() for _ in processes] == ["well"] * len(processes)
        for each in processes:
            each.join(60)
