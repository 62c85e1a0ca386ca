"""Runs forked from a process that has imported what they need: real processes, a real history."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import dagster as dg
import pytest
from dagster._core.code_pointer import CodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._grpc.types import ExecuteRunArgs

from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.defs.jobs import end_lost_runs, process_of
from ecr_catalog_pipeline.defs.run_launcher import ForkRunLauncher, ForkServer
from ecr_catalog_pipeline.defs.run_process import JOB_VARIABLE
from ecr_catalog_pipeline.housekeeping.job import HOUSEKEEPING
from tests.fakes.aws import Fault
from tests.integration import other_location
from tests.integration.backstage import free_port, wait_for
from tests.integration.worlds import MIRROR, FileTarget, World, a_world

ROOT: Final = Path(__file__).parents[2]
MODULE: Final = "ecr_catalog_pipeline.definitions"
JOB: Final = f"{MIRROR}_sync"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose history is in a DAGSTER_HOME as we ship it, for the processes of runs, too."""
    home = tmp_path / "dagster-home"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have("team/one", "team/two")
        for name, value in world.environ(tmp_path / "user").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            world.instance = instance
            yield world


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.end()


def a_run(world: World) -> tuple[dg.DagsterRun, list[str]]:
    """A run of the mirror that waits for its process, and the arguments of its command."""
    pointer = CodePointer.from_module(MODULE, "defs", None)
    repository = ReconstructableRepository(pointer, executable_path=sys.executable)
    origin = repository.get_reconstructable_job(JOB).get_python_origin()
    job = world.definitions.resolve_job_def(JOB)
    run = world.instance.create_run_for_job(job, job_code_origin=origin, tags=job.run_tags)
    command = ExecuteRunArgs(origin, run.run_id, world.instance.get_ref()).get_command_args()
    return run, list(command[command.index("api") :])


def forked(world: World, server: ForkServer) -> dg.DagsterRun:
    """A run of the mirror in a process that was just forked."""
    run, arguments = a_run(world)
    server.fork(arguments, {JOB_VARIABLE: JOB})
    return run


def now(world: World, run: dg.DagsterRun) -> dg.DagsterRun:
    found = world.instance.get_run_by_id(run.run_id)
    assert found
    return found


def ended(world: World, run: dg.DagsterRun) -> dg.DagsterRun:
    """The run when it has ended."""
    wait_for(lambda: now(world, run).is_finished, 60, "the end of the run")
    return now(world, run)


def succeeded(world: World, run: dg.DagsterRun) -> bool:
    return ended(world, run).status is dg.DagsterRunStatus.SUCCESS


def hanging(world: World, start: Callable[[], dg.DagsterRun]) -> dg.DagsterRun:
    """A run that waits for AWS."""
    world.fake.fail("DescribeRepositories", Fault.HANG)
    run = start()
    wait_for(lambda: world.fake.count("DescribeRepositories"), 60, "the listing")
    return run


OURS_AND_ANOTHER: Final = (
    f"load_from: [{{python_module: {MODULE}}}, {{python_file: '{other_location.__file__}'}}]\n"
)


@contextmanager
def a_workspace(
    world: World, folder: Path, locations: str = OURS_AND_ANOTHER
) -> Iterator[WorkspaceProcessContext]:
    """Our code location and another one, each in a code server, or other ones."""
    workspace = folder / "workspace.yaml"
    workspace.write_text(locations)
    with WorkspaceProcessContext(world.instance, WorkspaceFileTarget([str(workspace)])) as context:
        yield context


def launched(
    context: WorkspaceProcessContext, world: World, location: str, job: dg.JobDefinition
) -> dg.DagsterRun:
    """A run that was launched as the daemon does."""
    request = context.create_request_context()
    run = prepared(request, world, location, job)
    world.instance.launch_run(run.run_id, request)
    return run


def prepared(
    request: WorkspaceRequestContext, world: World, location: str, job: dg.JobDefinition
) -> dg.DagsterRun:
    """A run that is to be launched."""
    repository = request.get_code_location(location).get_repository("__repository__")
    remote = repository.get_full_job(job.name)
    return world.instance.create_run_for_job(
        job,
        tags=job.run_tags,
        remote_job_origin=remote.get_remote_origin(),
        job_code_origin=remote.get_python_origin(),
    )


def test_the_runs_of_mirrors_are_forked_and_all_others_launched_as_dagster_does(
    world: World, tmp_path: Path
) -> None:
    assert isinstance(world.instance.run_launcher, ForkRunLauncher)
    with a_workspace(world, tmp_path) as context:
        ours = world.definitions.resolve_job_def(JOB)
        housekeeping = world.definitions.resolve_job_def(HOUSEKEEPING)
        runs = [
            launched(context, world, MODULE, ours),
            launched(context, world, MODULE, housekeeping),
            launched(context, world, "other_location.py", other_location.theirs),
        ]
        assert [succeeded(world, run) for run in runs] == [True, True, True]

    assert list(world.listed) == ["team/one", "team/two"]
    assert [GRPC_INFO_TAG in now(world, run).tags for run in runs] == [False, True, True]


@pytest.mark.filterwarnings("ignore:Error loading repository location")
def test_a_run_is_launched_though_the_code_server_does_not_answer(
    world: World, tmp_path: Path
) -> None:
    ours = world.definitions.resolve_job_def(JOB)
    with a_workspace(world, tmp_path) as context:
        run = prepared(context.create_request_context(), world, MODULE, ours)
    nobody = f"{{host: localhost, port: {free_port()}, location_name: {MODULE}}}"
    with a_workspace(world, tmp_path, f"load_from: [{{grpc_server: {nobody}}}]\n") as context:
        request = context.create_request_context()
        assert request.has_code_location_error(MODULE)

        world.instance.launch_run(run.run_id, request)

        assert succeeded(world, run)


def test_a_run_that_is_terminated_is_interrupted(world: World, tmp_path: Path) -> None:
    ours = world.definitions.resolve_job_def(JOB)
    with a_workspace(world, tmp_path) as context:
        run = hanging(world, lambda: launched(context, world, MODULE, ours))

        # The web server has an instance, and a launcher, of its own.
        with dg.DagsterInstance.from_ref(world.instance.get_ref()) as another:
            assert another.run_launcher.terminate(run.run_id)

            assert ended(world, run).status is dg.DagsterRunStatus.CANCELED
            assert not another.run_launcher.terminate(run.run_id)
    assert world.content is None


def test_a_run_that_was_killed_is_seen_to_be_gone(world: World, server: ForkServer) -> None:
    run = hanging(world, lambda: forked(world, server))
    process = process_of(now(world, run))
    assert process

    os.kill(process.pid, signal.SIGKILL)

    wait_for(lambda: end_lost_runs(world.instance, MIRROR), 60, "the end of the process")
    assert now(world, run).status is dg.DagsterRunStatus.FAILURE


def test_a_run_goes_on_when_the_server_ends(world: World, server: ForkServer) -> None:
    run = hanging(world, lambda: forked(world, server))

    server.end()
    world.fake.clear()

    assert succeeded(world, run)


def test_a_server_that_was_killed_is_started_again(world: World, server: ForkServer) -> None:
    first = forked(world, server)
    killed = server.pid
    assert killed
    assert succeeded(world, first)
    os.kill(killed, signal.SIGKILL)

    assert succeeded(world, forked(world, server))

    assert server.pid not in {None, killed}


def test_the_server_has_one_thread_so_that_a_fork_copies_all_of_it(
    world: World, server: ForkServer
) -> None:
    run = forked(world, server)

    assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1
    assert succeeded(world, run)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our package, which the processes of the test import."""
    package = tmp_path / "lib" / "ecr_catalog_pipeline"
    shutil.copytree(ROOT / "ecr_catalog_pipeline", package)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package


def test_code_that_changed_since_the_server_began_is_what_the_next_run_executes(
    world: World, server: ForkServer, package: Path, tmp_path: Path
) -> None:
    assert succeeded(world, forked(world, server))
    new = tmp_path / "new-code-ran"
    with (package / "definitions.py").open("a") as file:
        file.write(f"\nopen({str(new)!r}, 'w').close()\n")

    assert succeeded(world, forked(world, server))

    assert new.exists()


def test_a_server_that_cannot_start_is_an_error_with_the_command_to_try(
    world: World, server: ForkServer, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, arguments = a_run(world)
    (package / "definitions.py").write_text("raise RuntimeError('broken on purpose')\n")

    with pytest.raises(CatalogError) as caught:
        server.fork(arguments, {})

    assert "python -m ecr_catalog_pipeline.defs.fork_server" in " ".join(
        (caught.value.remediation or "").replace(sys.executable, "python").split()
    )
    assert "broken on purpose" in capfd.readouterr().err
