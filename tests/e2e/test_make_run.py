"""`make run`, started as a user would: in a copy of the checkout, stopped with Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import NOT_INHERITED, ROOT, free_port, graphql, wait_for

SCHEDULE_SECONDS = 120
SELECTOR = (
    'repositoryName: "__repository__", repositoryLocationName: "ecr_catalog_pipeline.definitions"'
)


class Demo:
    """A copy of the checkout with ports of its own, and what runs in it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.ui_port = free_port()
        self.ecr_port = free_port()
        self.backstage_port = free_port()
        self.output = folder.parent / "make-run.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def make_run(self) -> list[str]:
        return [
            *("make", "run", f"PORT={self.ui_port}"),
            *(f"ECR_PORT={self.ecr_port}", f"BACKSTAGE_PORT={self.backstage_port}"),
        ]

    @property
    def entity(self) -> Path:
        return self.folder / ".demo/catalog/catalog/resources/ecr-registry.yaml"

    @property
    def environment(self) -> dict[str, str]:
        ours = (*NOT_INHERITED, "MAKE", "MFLAGS", "VIRTUAL_ENV")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        # The packages that this checkout was set up with need not be fetched again.
        cache = os.environ.get("UV_CACHE_DIR") or run_uv_cache_dir()
        return kept | {
            "HOME": str(self.home),
            "UV_CACHE_DIR": cache,
            "AWS_ACCESS_KEY_ID": "AKIAREALREALREALREAL",
            "AWS_SECRET_ACCESS_KEY": "a-real-secret-that-must-not-leave",
        }

    def start(self) -> None:
        with self.output.open("wb") as stream:
            self._process = subprocess.Popen(
                self.make_run,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._ready, 240, "the words `Ctrl-C stops everything`")

    def _ready(self) -> bool:
        assert self._process is not None
        text = self.output.read_text()
        assert self._process.poll() is None, text
        return "Ctrl-C stops everything" in text

    def interrupt(self) -> str:
        """Press Ctrl-C: the terminal signals the whole foreground group. Give what was printed."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(60)
        self._process = None
        return self.output.read_text()

    def kill_if_running(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGINT)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / ".venv/bin/ecr-catalog", *arguments],
            cwd=self.folder,
            # What the demo prints to export in another terminal.
            env=self.environment | {"ECR_CATALOG_MIRRORS": str(self.folder / ".demo/mirrors")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def verify(self) -> subprocess.CompletedProcess[str]:
        """Type it in a second terminal, as the README shows."""
        return self.command("verify", "-m", "demo")

    def state(self) -> str:
        """What a failed test needs to be understood."""
        verified = self.verify()
        runs = self.graphql(
            "{ runsOrError(limit: 12) { ... on Runs { results"
            " { status startTime endTime tags { key value } } } } }"
        )["runsOrError"]["results"]
        return "\n".join(
            [
                f"verify: {verified.returncode} {verified.stdout}{verified.stderr}",
                *map(json.dumps, runs),
                self.git("log", "-5", "--format=%h %cI %s"),
                self.output.read_text()[-1500:],
                (self.folder / ".demo" / "backstage.log").read_text()[-4000:],
            ]
        )

    def graphql(self, query: str) -> Any:
        return graphql(self.ui_port, query)

    def runs(self) -> list[dict[str, Any]]:
        query = (
            '{ runsOrError(filter: {pipelineName: "demo_sync"})'
            " { ... on Runs { results { id status tags { key value } } } } }"
        )
        results: list[dict[str, Any]] = self.graphql(query)["runsOrError"]["results"]
        return results

    def commits(self) -> int:
        return int(self.git("rev-list", "--count", "HEAD"))

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", self.folder / ".demo/catalog", *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def processes(self) -> list[int]:
        """Every process that works in this copy or was started from it."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                cwd = str((entry / "cwd").readlink())
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                zombie = ") Z " in (entry / "stat").read_text()
            except OSError:
                continue
            if not zombie and (cwd.startswith(str(self.folder)) or str(self.folder) in line):
                found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    base = tmp_path_factory.mktemp("demo")
    folder, home = base / "checkout", base / "home"
    home.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, target)
    if (ROOT / "backstage" / "node_modules").is_dir():
        (folder / "backstage" / "node_modules").symlink_to(ROOT / "backstage" / "node_modules")
    running = Demo(folder, home)
    yield running
    running.kill_if_running()


@pytest.mark.timeout(900)
def test_make_run_mirrors_the_demo_until_ctrl_c_and_goes_on_the_next_time(demo: Demo) -> None:
    # The first sync comes by itself.
    demo.start()
    assert f"export ECR_CATALOG_MIRRORS={demo.folder}/.demo/mirrors" in demo.output.read_text()
    assert "First sync... " in demo.output.read_text()
    first = demo.runs()
    assert [run["status"] for run in first[-1:]] == ["SUCCESS"]
    assert materialized_assets(demo) == {
        "governance_catalog",
        "ecr_inventory",
        "reconciled_registry",
        "published_entity",
        "backstage_parity",
    }
    assert "{name: shop/search," in demo.entity.read_text()
    assert demo.git("status", "--porcelain") == ""

    # A change in ECR and one in governance are seen within seconds, and the schedule ticks.
    assert demo.command("demo", "delete", "shop/search").returncode == 0
    assert demo.command("demo", "request", "shop/vouchers").returncode == 0
    planned = demo.command("plan", "-m", "demo", "--json")
    # A sensor may have been quicker, and left nothing to publish.
    assert planned.returncode in {0, 2}, planned.stderr
    if planned.returncode == 2:
        assert json.loads(planned.stdout)["changes"]["removed"] == ["shop/search"]
    wait_for(
        lambda: "{name: shop/search," not in demo.entity.read_text(),
        SCHEDULE_SECONDS,
        "the entity to lose shop/search",
    )
    wait_for(
        lambda: "{name: shop/vouchers," in demo.entity.read_text(),
        SCHEDULE_SECONDS,
        "the entity to gain shop/vouchers",
    )
    wait_for(
        lambda: bool(scheduled_runs(demo)), SCHEDULE_SECONDS + 30, "the schedule to start a run"
    )
    wait_for(lambda: "SUCCESS" in schedule_ticks(demo), 60, "a tick of the schedule to end")
    if shutil.which("node"):
        wait_for(lambda: "serves the entity" in demo.output.read_text(), 300, "Backstage to serve")
        wait_for(
            lambda: demo.verify().returncode == 0,
            SCHEDULE_SECONDS,
            "Backstage to be in parity",
            reported=demo.state,
        )

    # Ctrl-C ends all of it.
    assert len(demo.processes()) >= 4
    assert "Stopped." in demo.interrupt()
    wait_for(lambda: not demo.processes(), 5, "every process to be gone")

    # The second run continues: same history, same ECR, nothing to commit.
    commits, runs_before = demo.commits(), {run["id"] for run in first}
    demo.start()
    assert runs_before <= {run["id"] for run in demo.runs()}
    assert demo.runs()[0]["status"] == "SUCCESS"
    assert demo.commits() == commits
    assert "{name: shop/search," not in demo.entity.read_text()
    states = json.loads(demo.command("plan", "-m", "demo", "--json").stdout)["repositories"]
    assert {row["state"] for row in states} == {
        "live", "pending", "ghost", "orphan", "lingering", "retired",
    }  # fmt: skip
    demo.interrupt()
    wait_for(lambda: not demo.processes(), 5, "every process to be gone")
    assert not secrets_written(demo)


@pytest.mark.timeout(300)
def test_a_port_in_use_is_an_error_that_names_it_and_a_remediation(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", demo.ui_port)):
        result = subprocess.run(
            demo.make_run,
            cwd=demo.folder,
            env=demo.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    assert result.returncode != 0
    assert f"port {demo.ui_port} on 127.0.0.1 is in use" in result.stderr
    assert "make run PORT=3001" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert not demo.processes()


def materialized_assets(demo: Demo) -> set[str]:
    nodes = demo.graphql(
        "{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { timestamp } } }"
    )["assetNodes"]
    return {node["assetKey"]["path"][-1] for node in nodes if node["assetMaterializations"]}


def scheduled_runs(demo: Demo) -> list[dict[str, Any]]:
    tag = {"key": "dagster/schedule_name", "value": "demo_every_2_minutes"}
    return [run for run in demo.runs() if tag in run["tags"]]


def schedule_ticks(demo: Demo) -> set[str]:
    query = (
        f"{{ scheduleOrError(scheduleSelector: {{ {SELECTOR},"
        ' scheduleName: "demo_every_2_minutes" })'
        " { ... on Schedule { scheduleState { status ticks { status } } } } }"
    )
    state = demo.graphql(query)["scheduleOrError"]["scheduleState"]
    assert state["status"] == "RUNNING"
    return {tick["status"] for tick in state["ticks"]}


def secrets_written(demo: Demo) -> list[Path]:
    """Files of the running demo that hold the planted AWS secret."""
    secret = demo.environment["AWS_SECRET_ACCESS_KEY"].encode()
    folders = [demo.folder / name for name in (".demo", "history", "schedules", "storage", "cache")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if secret in file.read_bytes()]


def run_uv_cache_dir() -> str:
    return subprocess.run(
        [ROOT / ".venv/bin/uv", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
