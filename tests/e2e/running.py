"""The demo, running whole in a folder of its own: ECR, git, Dagster, Backstage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.demo.world import DemoWorld, build_world, demo_world, git
from ecr_catalog_pipeline.settings import Mirror, load_mirrors

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests"
NOT_INHERITED = ("AWS_", "DAGSTER_", "ECR_CATALOG_", "GIT_", "BACKSTAGE_")

# On Linux, Ctrl-C for a demo whose test process was killed, as an interrupted xdist kills workers.
ENDS_WITH_US = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []


@dataclass(frozen=True)
class RunningDemo:
    """Where a running demo is reached."""

    folder: Path
    mirror: Mirror
    world: DemoWorld
    ui_port: int

    def graphql(self, query: str) -> Any:
        return graphql(self.ui_port, query)

    def served(self) -> dict[str, Any] | None:
        """The entity as Backstage serves it now."""
        assert self.mirror.backstage
        catalog = BackstageCatalog(self.mirror.backstage.url, "BACKSTAGE_TOKEN")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BACKSTAGE_TOKEN", TOKEN)
            return catalog.entity(self.mirror.identity.namespace, self.mirror.identity.name)

    def govern(self, text: str, subject: str) -> None:
        """Commit a governance file."""
        self.world.governance_file.write_text(text, encoding="utf-8")
        git(self.world.governance, "commit", "--quiet", "--all", "-m", subject)


@contextmanager
def running_demo(
    folder: Path,
    *,
    governance: str | None = None,
    ecr: list[dict[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    instance: str = "",
) -> Iterator[RunningDemo]:
    """Serve a demo in an empty folder until Backstage shows its entity, and end it after.

    Args:
        governance: the text of its governance file; the demo's own by default.
        ecr: what its ECR holds at first, as the demo's `ecr.json` keeps it.
        instance: more of `dagster.yaml`.
    """
    ui_port, ecr_port, backstage_port = free_port(), free_port(), free_port()
    for name in ("workspace.yaml", "dagster.yaml"):
        shutil.copy2(ROOT / name, folder / name)
    with (folder / "dagster.yaml").open("a") as file:
        file.write(instance)
    (folder / "backstage").symlink_to(ROOT / "backstage")
    (folder / "mirrors").mkdir()
    settings = (ROOT / "mirrors" / "demo.yaml").read_text()
    settings = settings.replace(":5055", f":{ecr_port}").replace(":7007", f":{backstage_port}")
    (folder / "mirrors" / "demo.yaml").write_text(settings)
    mirror = load_mirrors(folder / "mirrors").get("demo")
    demo = RunningDemo(folder, mirror, demo_world(mirror), ui_port)
    build_world(demo.world)
    if governance is not None:
        demo.govern(governance, "Govern other repositories")
    if ecr is not None:
        demo.world.ecr_state.write_text(json.dumps(ecr))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    output = folder / "run.log"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [*ENDS_WITH_US, ROOT / ".venv/bin/ecr-catalog", "demo", "run", "--port", str(ui_port)],
            cwd=folder,
            env=kept | {"BACKSTAGE_TOKEN": TOKEN} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: _serves(process, output), 300, "the demo and its Backstage", every=0.5)
        yield demo
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _serves(process: subprocess.Popen[bytes], output: Path) -> bool:
    text = output.read_text()
    assert process.poll() is None, text
    assert "not started" not in text, text
    return "serves the entity" in text


def graphql(port: int, query: str) -> Any:
    """Ask the Dagster webserver."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["data"]


def wait_for(
    ready: Callable[[], bool],
    seconds: float,
    what: str,
    *,
    every: float = 0.5,
    reported: Callable[[], str] = str,
) -> float:
    """Wait until something is true, and give how long that took; a failure adds `reported()`."""
    began = time.monotonic()
    while True:
        try:
            if ready():
                return time.monotonic() - began
        except (urllib.error.URLError, FileNotFoundError):
            pass
        assert time.monotonic() - began < seconds, f"waited {seconds} s for {what}\n{reported()}"
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
