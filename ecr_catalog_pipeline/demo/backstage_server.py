"""The demo's Backstage: installed and started beside Dagster when Node is there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.demo.world import DemoWorld
from ecr_catalog_pipeline.settings import BackstageSettings, Mirror

NODE_MAJOR: Final = 20
START_SECONDS: Final = 120
STOP_SECONDS: Final = 10
REPORT_SECONDS: Final = 20


@contextmanager
def backstage_beside(
    mirror: Mirror, world: DemoWorld, home: Path, on_ready: Callable[[], object]
) -> Iterator[None]:
    """Start Backstage in the background; the demo runs without it where something is missing.

    Args:
        home: the checkout, which holds `backstage/`.
        on_ready: called once when it serves.
    """
    settings = mirror.backstage
    problem = _missing(home) if settings else "mirrors/demo.yaml names no Backstage"
    if problem or settings is None:
        click.echo(f"Backstage           not started: {problem}")
        yield
        return
    server = _Server(settings, mirror, world, home, on_ready)
    server.start()
    try:
        yield
    finally:
        server.stop()


def _missing(home: Path) -> str | None:
    """Say what is missing to run Backstage, and how to get it."""
    if not (home / "backstage" / "package.json").is_file():
        return f"there is no backstage/ in {home}"
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return f"install Node {NODE_MAJOR} or newer with npm, then `make run` again"
    version = subprocess.run(  # noqa: S603 - the Node on the PATH, which is about to be run
        [node, "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    major = version.removeprefix("v").split(".")[0]
    if not major.isdigit() or int(major) < NODE_MAJOR:
        return f"Node {version or '?'} is too old, {NODE_MAJOR} or newer is needed"
    return None


class _Server:
    """A thread that installs and starts Backstage; each child has its own process group."""

    def __init__(
        self,
        settings: BackstageSettings,
        mirror: Mirror,
        world: DemoWorld,
        home: Path,
        on_ready: Callable[[], object],
    ) -> None:
        self._catalog = BackstageCatalog(settings.url, settings.token_env)
        self._settings = settings
        self._identity = mirror.identity
        self._entity_file = world.entity_file
        self._folder = home / "backstage"
        self._log = world.governance.parent / "backstage.log"
        self._on_ready = on_ready
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="backstage")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            child = self._child
        if child is not None:
            _end(child)
        self._thread.join()

    def _run(self) -> None:
        if not self._install() or self._stopped.is_set():
            return
        self._start_child(["node", "index.js", *_options(self._folder)])
        deadline = time.monotonic() + START_SECONDS
        while not self._stopped.wait(0.5):
            if self._child is None or self._child.poll() is not None:
                click.echo(f"Backstage           exited; see {self._log}")
                return
            if self._serves():
                click.echo(f"Backstage           {self._settings.url} serves the entity")
                if _has_pages(self._folder):
                    click.echo(
                        f"Its page            {self._settings.url.rstrip('/')}{self._identity.page}"
                    )
                self._on_ready()
                return
            if time.monotonic() > deadline:
                click.echo(f"Backstage           does not answer; see {self._log}")
                return

    def _install(self) -> bool:
        """Install what the lock names, once; report progress."""
        done = self._folder / "node_modules" / ".package-lock.json"
        if done.is_file() and done.stat().st_mtime >= (
            (self._folder / "package-lock.json").stat().st_mtime
        ):
            return True
        click.echo("Backstage           installing, once, 1 to 4 minutes (npm ci)")
        began = reported = time.monotonic()
        child = self._start_child(["npm", "ci", "--no-audit", "--no-fund"])
        while child is not None and child.poll() is None:
            if self._stopped.wait(0.2):
                return False
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                click.echo(f"Backstage           installing for {reported - began:.0f} s")
        if child is None or child.returncode != 0:
            click.echo(
                f"Backstage           npm ci failed, see {self._log}; `make run` tries again"
            )
            return False
        done.touch()
        return True

    def _start_child(self, command: list[str]) -> subprocess.Popen[bytes] | None:
        environment = {
            **os.environ,
            "BACKSTAGE_PORT": str(urlsplit(self._settings.url).port or 80),
            "ECR_CATALOG_ENTITY_FILE": str(self._entity_file),
        }
        if _has_pages(self._folder):
            # The backend looks for the package `app` there.
            environment |= {"ECR_CATALOG_UI": "1", "NODE_PATH": str(self._folder / "plugins")}
        with self._lock, self._log.open("ab") as log:
            if self._stopped.is_set():
                return None
            self._child = subprocess.Popen(  # noqa: S603 - our own arguments
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return self._child

    def _serves(self) -> bool:
        try:
            entity = self._catalog.entity(self._identity.namespace, self._identity.name)
        except BackstageUnavailable:
            return False
        return entity is not None


def _has_pages(folder: Path) -> bool:
    """Whether `make backstage-ui` has built Backstage's own pages."""
    return (folder / "plugins" / "app" / "dist" / "index.html").is_file()


def _options(folder: Path) -> list[str]:
    configs = ["app-config.yaml", *(["app-config.ui.yaml"] if _has_pages(folder) else [])]
    return [word for config in configs for word in ("--config", config)]


def _end(child: subprocess.Popen[bytes]) -> None:
    for step in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, step)
            child.wait(STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
