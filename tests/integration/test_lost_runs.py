"""Runs that nobody runs any more: they are ended at the next look, and asked for again."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import dagster as dg
import pytest

from ecr_catalog_pipeline.adapters.process import is_gone, this_process
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs.jobs import (
    PROCESS_TAG,
    end_lost_runs,
    in_flight,
    run_by_this_process,
)
from ecr_catalog_pipeline.settings import load_mirrors
from tests.fakes.aws import Fault
from tests.integration.test_change_sensor import Sensor, the_run
from tests.integration.worlds import MIRROR, FileTarget, World, a_world

pytestmark = pytest.mark.history

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = Path(sys.executable).with_name("ecr-catalog")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have("team/one", "team/two")
        yield world


def a_run(world: World, **tags: str) -> dg.DagsterRun:
    """A run that is stored as under way."""
    job = world.definitions.resolve_job_def(f"{MIRROR}_sync")
    return world.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={**job.run_tags, **tags}
    )


def status_of(world: World, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = world.instance.get_run_by_id(run.run_id)
    assert found
    return found.status


def marked(world: World, by: str) -> dg.DagsterRun:
    """A run under way whose tag names the process of another tag's text."""
    run = a_run(world)
    world.instance.add_run_tags(run.run_id, {PROCESS_TAG: by.replace("THE-RUN", run.run_id)})
    return run


def of_a_dead_process() -> str:
    """The tag that a process wrote which has ended."""
    script = (
        "from ecr_catalog_pipeline.defs.jobs import run_by_this_process as by;"
        "print(*by('THE-RUN').values())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_process_is_gone_when_it_was_killed_and_also_before_anybody_took_note() -> None:
    script = (
        "import time; from ecr_catalog_pipeline.adapters.process import this_process;"
        "print(this_process().started, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout
        theirs = replace(
            this_process(), pid=child.pid, started=child.stdout.readline().decode().strip()
        )
        assert not is_gone(theirs)
        assert is_gone(replace(theirs, started="1")), "another process with that number"
        assert is_gone(replace(theirs, life="before the restart"))
        assert not is_gone(replace(theirs, host="elsewhere", pid=1)), "nothing is known of it"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(theirs), "a zombie runs nothing"
    assert is_gone(theirs)


def test_a_process_is_not_gone_because_too_many_files_are_open_to_look_at_it() -> None:
    ours = this_process()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        gone = is_gone(ours)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not gone


def test_a_lost_run_is_ended_and_all_others_are_left_alone(world: World) -> None:
    dead = of_a_dead_process()
    lost = marked(world, dead)
    launched_again = marked(world, dead.replace("THE-RUN", "the first one"))
    unknown = a_run(world)
    alive = a_run(world)
    world.instance.add_run_tags(alive.run_id, dict(run_by_this_process(alive.run_id)))
    damaged = marked(world, "{")

    assert end_lost_runs(world.instance, MIRROR)

    assert status_of(world, lost) is dg.DagsterRunStatus.FAILURE
    for run in (launched_again, unknown, alive, damaged):
        assert status_of(world, run) is dg.DagsterRunStatus.STARTED
    assert not end_lost_runs(world.instance, MIRROR)


def test_the_schedule_ends_a_lost_run_and_asks_for_another_in_the_same_tick(
    world: World, tmp_path: Path
) -> None:
    schedule = world.definitions.resolve_schedule_def(f"{MIRROR}_every_2_minutes")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as world.instance:
        lost = marked(world, of_a_dead_process())

        with dg.build_schedule_context(instance=world.instance) as context:
            tick = schedule.evaluate_tick(context)

        assert len(tick.run_requests or []) == 1
        assert status_of(world, lost) is dg.DagsterRunStatus.FAILURE


def test_a_run_of_another_team_with_the_name_of_our_job_is_no_run_of_ours(world: World) -> None:
    @dg.job(name=f"{MIRROR}_sync")
    def theirs() -> None: ...

    world.instance.create_run_for_job(theirs, status=dg.DagsterRunStatus.STARTED)

    assert not in_flight(world.instance, MIRROR)


def sync_job_of_this_test() -> dg.JobDefinition:
    loaded = load_mirrors(Path(os.environ["ECR_CATALOG_MIRRORS"]))
    return build_definitions(loaded, environ=os.environ).resolve_job_def(f"{MIRROR}_sync")


def test_a_run_that_dagster_launches_notes_its_process(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.environ(tmp_path / "user").items():
        monkeypatch.setenv(name, value)
    home = a_home(tmp_path)

    with dg.DagsterInstance.from_config(str(home)) as instance:
        job = dg.reconstructable(sync_job_of_this_test)
        with dg.execute_job(job, instance=instance) as done:
            assert done.success
        run = instance.get_run_by_id(done.run_id)

    assert run
    assert dict(run_by_this_process(done.run_id)).items() <= run.tags.items()


def a_home(folder: Path) -> Path:
    """A DAGSTER_HOME as we ship it."""
    home = folder / "dagster-home"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    return home


def test_a_sync_that_was_killed_is_ended_and_asked_for_again_at_the_first_look(
    world: World, tmp_path: Path
) -> None:
    home = a_home(tmp_path)
    world.fake.fail("DescribeRepositories", Fault.HANG)
    environment = {**world.environ(tmp_path / "user"), "DAGSTER_HOME": str(home)}
    with subprocess.Popen(
        [COMMAND, "sync", "-m", MIRROR],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as sync:
        deadline = time.monotonic() + 120
        while not world.fake.count("DescribeRepositories"):
            assert sync.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        sync.send_signal(signal.SIGKILL)
    world.fake.clear()

    with dg.DagsterInstance.from_config(str(home)) as instance:
        world.instance = instance
        (killed,) = instance.get_runs()
        assert killed.status is dg.DagsterRunStatus.STARTED

        request = the_run(Sensor(world).look())

        assert request.tags["ecr_catalog/moved"] == "nothing since a run that was lost"
        assert status_of(world, killed) is dg.DagsterRunStatus.FAILURE
        pools = instance.event_log_storage.get_concurrency_keys()
        for pool in pools:
            info = instance.event_log_storage.get_concurrency_info(pool)
            assert not info.claimed_slots
            assert not info.pending_steps
