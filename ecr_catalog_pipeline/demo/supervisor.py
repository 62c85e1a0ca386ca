"""Runs the demo: its ECR in this process, Dagster's webserver and daemon as children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
import dagster as dg
from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError
from dagster_graphql.client.utils import ReloadRepositoryLocationStatus
from requests import RequestException  # noqa: TID251 - what Dagster's client raises

from ecr_catalog_pipeline.core.errors import CatalogError, SettingsError
from ecr_catalog_pipeline.defs.conditions import UI_VARIABLE
from ecr_catalog_pipeline.defs.instance import kept_instance
from ecr_catalog_pipeline.defs.jobs import IN_FLIGHT
from ecr_catalog_pipeline.demo.backstage_server import backstage_beside
from ecr_catalog_pipeline.demo.ecr_server import running_ecr
from ecr_catalog_pipeline.demo.world import (
    DEMO_MIRROR,
    DemoWorld,
    build_world,
    demo_world,
    share_token,
)
from ecr_catalog_pipeline.settings import MIRRORS_VARIABLE, Mirror, sync_job_name

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 120
STOP_SECONDS: Final = 30
LOCATION: Final = "ecr_catalog_pipeline.definitions"

Stopped = Callable[[], bool]


def run_demo(mirror: Mirror, home: Path, ui_port: int) -> None:
    """Serve the demo until a signal ends it.

    Args:
        mirror: the demo's.
        home: the checkout: Dagster's home and working folder.

    Raises:
        CatalogError: a port is in use, or Dagster did not start, or exited.
    """
    world = demo_world(mirror)
    for name in ("workspace.yaml", "dagster.yaml"):
        if not (home / name).is_file():
            raise SettingsError(
                f"there is no {name} in {home}", remediation="Run `make run` in a checkout."
            )
    _check_port(ui_port, "the Dagster UI", "make run PORT=3001")
    _check_port(world.ecr_port, "the demo's ECR", "make run ECR_PORT=5056")
    if mirror.backstage:
        _check_port(
            urlsplit(mirror.backstage.url).port or 80,
            "the demo's Backstage",
            "make run BACKSTAGE_PORT=7008",
        )
    log = world.governance.parent / "dagster.log"
    with _stop_signals() as stopped, ExitStack() as stack:
        if build_world(world):
            click.echo(f"Made the demo's git repositories in {world.governance.parent}")
        share_token(mirror, world)
        stack.enter_context(running_ecr(world))
        click.echo(f"ECR of the demo     {world.endpoint_url}")
        prepare_instance(home)
        dagster = stack.enter_context(_dagster(home, ui_port, log))
        click.echo(f"Dagster is starting; its log is {log}")
        client = DagsterGraphQLClient(HOST, port_number=ui_port)
        _wait_for(lambda: _is_up(client, dagster, log), stopped, "Dagster")
        if not stopped():
            _first_sync(client, stopped)
        if not stopped():
            click.echo(_welcome(world, ui_port))
            stack.enter_context(
                backstage_beside(mirror, world, home, on_ready=lambda: _sync_again(client))
            )
        while not stopped():
            _check_alive(dagster, log)
            time.sleep(0.2)
        click.echo("\nStopping...")
    click.echo("Stopped. `make run` continues where this ended; `make clean` deletes it.")


def _first_sync(client: DagsterGraphQLClient, stopped: Stopped) -> None:
    """Launch a run at once and wait for its end."""
    run_id = _launch(client)
    click.echo("First sync...       ", nl=False)
    began = time.monotonic()
    ends = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    _wait_for(lambda: client.get_run_status(run_id) in ends, stopped, "the first sync")
    if not stopped():
        status = client.get_run_status(run_id)
        click.echo(f"{status.value.lower()} after {time.monotonic() - began:.0f} s")


def _launch(client: DagsterGraphQLClient) -> str:
    return client.submit_job_execution(
        sync_job_name(DEMO_MIRROR),
        repository_location_name=LOCATION,
        repository_name="__repository__",
    )


def _sync_again(client: DagsterGraphQLClient) -> None:
    """Let the next run ask Backstage now, and not at the next tick of the schedule."""
    with suppress(DagsterGraphQLClientError, RequestException, OSError):
        _launch(client)


def _welcome(world: DemoWorld, ui_port: int) -> str:
    command = Path(sys.argv[0])
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    folder = os.environ.get(MIRRORS_VARIABLE)
    export = f"\n  export {MIRRORS_VARIABLE}={folder}" if folder else ""
    return f"""
Look at             http://{HOST}:{ui_port}/asset-groups
The entity          {world.entity_file}
The governance file {world.governance_file}

Try, in another terminal; a sensor sees each within seconds:{export}
  {shown} demo request shop/vouchers    governed as pending: the entity lists it as pending
  {shown} demo delete shop/search       deleted in ECR: a ghost, removed from the entity
  {shown} demo break                    breaks the governance file: refused, the entity stays
  (undo with: demo create shop/search, demo repair)
  {shown} demo watch                    changes something, and times each stage

Ctrl-C stops everything."""


@contextmanager
def _dagster(home: Path, ui_port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run Dagster's webserver and daemon in a process group of their own."""
    command = [
        *(sys.executable, "-m", "dagster", "dev", "--workspace", str(home / "workspace.yaml")),
        *("--host", HOST, "--port", str(ui_port)),
    ]
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "AWS_EC2_METADATA_DISABLED": "true",
        UI_VARIABLE: f"http://{HOST}:{ui_port}",
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which then ends Dagster in order.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Dagster and all that it started."""
    for step in (signal.SIGINT, signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(step)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    # What is left of the group, such as a run's process, has no parent to end it.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def prepare_instance(home: Path) -> None:
    """Make Dagster's databases, and end the runs that ended with an earlier demo.

    The web server and the daemon would make them at once, and one of the two would end.
    """
    with kept_instance(home) as instance:
        instance.event_log_storage.get_maximum_record_id()
        instance.all_instigator_state()
        for run in instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT)):
            instance.report_run_canceled(run, "The demo that ran it was stopped.")


def _is_up(client: DagsterGraphQLClient, process: subprocess.Popen[bytes], log: Path) -> bool:
    _check_alive(process, log)
    try:
        info = client.reload_repository_location(LOCATION)
    except (DagsterGraphQLClientError, RequestException, OSError):
        return False
    if info.status is not ReloadRepositoryLocationStatus.SUCCESS:
        raise CatalogError(
            f"Dagster cannot load the mirrors: {info.message}",
            remediation="Run `dagster definitions validate -w workspace.yaml` for details.",
        )
    return True


def _check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise CatalogError(
            f"Dagster exited with {process.returncode}:\n{tail}", remediation=f"See {log}."
        )


def _wait_for(ready: Callable[[], bool], stopped: Stopped, what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not stopped() and not ready():
        if time.monotonic() > deadline:
            raise CatalogError(
                f"{what} was not ready after {START_SECONDS} s",
                remediation="See the log named above.",
            )
        time.sleep(0.3)


@contextmanager
def _stop_signals() -> Iterator[Stopped]:
    """Give a function that says whether SIGINT, SIGTERM or SIGHUP has arrived."""
    event = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: event.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield event.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(port: int, what: str, command: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise CatalogError(
                f"port {port} on {HOST} is in use, and {what} needs it",
                remediation=f"Stop the process that uses it, or choose another port: {command}.",
            ) from None
