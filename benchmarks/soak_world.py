"""The world of the soak: AWS, git, Backstage, Dagster's daemon and code server, an alert receiver.

Each server is a process of its own that can be killed, frozen and started again, as a supervisor
such as Kubernetes does. Everything is on loopback and in one folder, and ends with the world.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psutil
import yaml

from benchmarks.soak_model import Commit, Governed
from tests.e2e.running import free_port
from tests.fakes.aws import FakeAws
from tests.integration.conftest import Repository

ROOT: Final = Path(__file__).parents[1]
MIRROR: Final = "soak"
ENTITY: Final = "soak-ecr-registry"
LIST_LIMIT: Final = 20_000
BRANCH: Final = "governance-registry"
ENTITY_PATH: Final = "catalog/resources/ecr-registry.yaml"
GOVERNANCE_PATH: Final = "contracts/ecr-catalog.yaml"
TOKEN: Final = "a-token-of-the-soak"
COMMAND_SECONDS: Final = 90
UP_SECONDS: Final = 90
HOME_SIZE: Final = "size=400m"
HOSTILE_GIT: Final = """\
[safe]
	bareRepository = explicit
[log]
	showSignature = true
[color]
	ui = always
[core]
	pager = false
	quotePath = false
	fsmonitor = true
[fetch]
	prune = true
	recurseSubmodules = on-demand
	writeCommitGraph = true
[push]
	followTags = true
	gpgSign = if-asked
[commit]
	gpgSign = true
[gc]
	auto = 1
[transfer]
	fsckObjects = true
"""
_NOT_INHERITED: Final = ("AWS_", "DAGSTER_", "ECR_CATALOG_", "GIT_", "BACKSTAGE_")


class Service:
    """A server in a process of its own."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        log: Path,
        answers: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self._command = command
        self._cwd = cwd
        self._environment = dict(environment)
        self._log = log
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []

    def start(self) -> None:
        """Start it; what it says is appended to its log."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A process started in the background may ignore Ctrl-C, and so may its children.
                start_new_session=True,
            )
        self._groups.append(self._process.pid)

    @property
    def is_running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_up(self) -> bool:
        """Whether it runs and answers."""
        return self.is_running and self._answers()

    def kill(self) -> None:
        """Kill it and all that it has started, but for what git runs on a server's side.

        The repositories stand for remote ones, which live on when one of their clients dies.
        """
        if self._process is None:
            return
        for process in [psutil.Process(self._process.pid), *self.children()]:
            with suppress(psutil.NoSuchProcess):
                if not _serves_git(process):
                    process.kill()
        self._process.wait()

    def children(self) -> list[psutil.Process]:
        """All that it has started, and they."""
        if not self.is_running or self._process is None:
            return []
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def freeze(self) -> None:
        """Stop its process without ending it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Leave nothing behind of it, nor of what was started by those that were killed."""
        for group in self._groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


@dataclass
class Receiver:
    """Takes what Apprise posts to json:// URLs."""

    begun: Counter[str] = field(default_factory=Counter)
    recovered: Counter[str] = field(default_factory=Counter)
    port: int = 0

    def take(self, title: str) -> None:
        """Count an alert by its signal."""
        what = title.partition("] ")[2]
        if what.startswith("RECOVERED: "):
            self.recovered[what.removeprefix("RECOVERED: ")] += 1
        else:
            self.begun[what] += 1


@dataclass
class SoakWorld:
    """Where everything is, and what people and programs do with it."""

    folder: Path
    aws: FakeAws
    governance: Repository
    catalog: Repository
    human: Repository
    receiver: Receiver
    environment: dict[str, str]
    backstage_port: int
    instance: dg.DagsterInstance
    home: Path
    hostile: bool = False
    clock_offset: int = 0
    services: dict[str, Service] = field(default_factory=dict)
    pushed_by_people: set[str] = field(default_factory=set)
    _published: dict[str, frozenset[str] | None] = field(default_factory=dict)

    def step_clock(self, seconds: int) -> None:
        """Step the wall clock of the mirror's processes: Dagster's, ours and their git's."""
        self.clock_offset += seconds
        with (self.folder / "clock").open("r+b") as file:
            file.write(struct.pack("=q", self.clock_offset))

    # What people do

    def govern(self, entries: Mapping[str, Governed], message: str, *, merge: bool = False) -> None:
        """Push a governance file with these entries, maybe as the merge of a branch."""
        self.push_governance(governance_file(entries, message), message, merge=merge)

    def push_governance(self, text: str, message: str, *, merge: bool = False) -> None:
        """Push a governance file, whatever it says."""
        repository, now = self.governance, datetime.now(UTC)
        tip = repository.tip()
        if merge and tip is not None:
            branch = repository.commit(
                {GOVERNANCE_PATH: text}, branch="feature", parents=[tip], at=now, message=message
            )
            repository.commit(
                {GOVERNANCE_PATH: text}, parents=[tip, branch], at=now, message=f"Merge: {message}"
            )
        else:
            repository.commit({GOVERNANCE_PATH: text}, at=now, message=message)
        repository.git("push", "--quiet", "origin", "main")

    def push_to_catalog(
        self, change: Callable[[bytes], dict[str, bytes | None]], message: str
    ) -> bool:
        """Push as a person to the catalog branch; False when the mirror was always faster.

        Args:
            change: from the entity file as it is now to the paths that the commit changes; None
                removes one. Not called while there is no entity file.
        """
        for _ in range(3):
            self.human.git("fetch", "--quiet", "origin", f"+{BRANCH}:{BRANCH}")
            if not self.human.git("ls-tree", BRANCH, "--", ENTITY_PATH):
                return False
            before = self.human.bytes_of("cat-file", "blob", f"{BRANCH}:{ENTITY_PATH}")
            commit = self.human.commit(
                dict(change(before)), branch=BRANCH, at=datetime.now(UTC), message=message
            )
            with suppress(AssertionError):
                self.human.git("push", "--quiet", "origin", BRANCH)
                self.pushed_by_people.add(commit)
                return True
        return False

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `ecr-catalog`, as a person does, against the same Dagster instance."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "ecr-catalog"), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    # What is seen

    def served(self) -> dict[str, Any] | None:
        """The entity as Backstage serves it; None when it knows none.

        Raises:
            OSError: it does not answer.
        """
        path = f"/api/catalog/entities/by-name/resource/default/{ENTITY}"
        connection = http.client.HTTPConnection("127.0.0.1", self.backstage_port, timeout=5)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"Backstage answers with {answer.status}")
        entity: dict[str, Any] = json.loads(body)
        return entity

    def tip(self) -> str:
        """The tip of the catalog branch."""
        return self.catalog.git("rev-parse", f"refs/heads/{BRANCH}")

    def published(self, commit: str) -> frozenset[str] | None:
        """The names that the entity of a commit lists as live; None without an entity."""
        if commit not in self._published:
            self._published[commit] = self._read_published(commit)
        return self._published[commit]

    def _read_published(self, commit: str) -> frozenset[str] | None:
        if not self.catalog.git("ls-tree", commit, "--", ENTITY_PATH):
            return None
        content = self.catalog.bytes_of("cat-file", "blob", f"{commit}:{ENTITY_PATH}")
        entity = yaml.load(content, Loader=yaml.CSafeLoader)
        return frozenset(line["name"] for line in entity["spec"]["repositories"])

    def commits_since(self, before: str, now: str) -> list[str]:
        """The commits after one, or all of them, up to another, in no order."""
        since = (f"^{before}",) if before else ()
        return self.catalog.git("rev-list", "--first-parent", now, *since).split()

    def commits(self) -> list[Commit]:
        """All commits of the catalog branch, oldest first."""
        trailer = "%(trailers:key=Plan-Hash,valueonly,separator=%x20)"
        logged = self.catalog.git(
            "log", "--reverse", "--first-parent", f"--format=%H\t%ct\t{trailer}", BRANCH
        )
        found = []
        for sha, at, plan_hash in (line.split("\t") for line in logged.splitlines()):
            by_mirror = bool(plan_hash.strip()) and sha not in self.pushed_by_people
            found.append(Commit(sha, float(at), by_mirror, plan_hash.strip(), self.published(sha)))
        return found

    def run_workers(self) -> list[psutil.Process]:
        """The processes in which runs are under way."""
        found = []
        for process in self.services["code server"].children():
            with suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
        return found


def lacking_for_hostile() -> str:
    """What a hostile soak needs and does not find here; empty when all is there."""
    if os.geteuid() != 0:
        return "A hostile soak mounts a small disk for DAGSTER_HOME: run it as root."
    if not shutil.which("cc"):
        return "A hostile soak compiles the clock that jumps: install a C compiler (cc)."
    return ""


@contextmanager
def _small_disk(home: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", HOME_SIZE, "none", home], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


def _hostility(folder: Path) -> dict[str, str]:
    """The environment of a mirror with an odd git configuration and a clock that can jump."""
    hooks = folder / "hostile-template" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("pre-push", "reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    configuration = folder / "hostile-gitconfig"
    configuration.write_text(HOSTILE_GIT)
    library = folder / "jumping_clock.so"
    source = ROOT / "benchmarks" / "jumping_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    (folder / "clock").write_bytes(struct.pack("=q", 0))
    return {
        "LD_PRELOAD": str(library),
        "JUMPING_CLOCK": str(folder / "clock"),
        "GIT_CONFIG_GLOBAL": str(configuration),
        "GIT_TEMPLATE_DIR": str(hooks.parent),
        "GIT_DEFAULT_HASH": "sha256",
    }


@contextmanager
def soak_world(
    folder: Path, entries: Mapping[str, Governed], *, hostile: bool = False
) -> Iterator[SoakWorld]:
    """Make a world in an empty folder, all servers running, everything governed and present.

    Raises:
        RuntimeError: a server did not come up, or the first publication failed.
    """
    with ExitStack() as stack:
        aws = stack.enter_context(FakeAws())
        receiver = stack.enter_context(_receiver())
        home = folder / "home"
        home.mkdir()
        if hostile:
            stack.enter_context(_small_disk(home))
        shutil.copy2(ROOT / "dagster.yaml", home / "dagster.yaml")
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        world = _make(folder, aws, receiver, instance, hostile=hostile)
        for name in entries:
            aws.create(name)
        world.govern(entries, "Govern our repositories")
        for service in world.services.values():
            stack.callback(service.end)
        world.services["backstage"].start()
        first = world.command("sync", "-m", MIRROR)
        if first.returncode != 0:
            raise RuntimeError(f"the first publication failed: {first.stdout}{first.stderr}")
        world.services["code server"].start()
        world.services["daemon"].start()
        for service in world.services.values():
            await_up(service)
        yield world


def await_up(service: Service) -> None:
    """Wait until a server answers.

    Raises:
        RuntimeError: it does not.
    """
    deadline = time.monotonic() + UP_SECONDS
    while not service.is_up:
        if time.monotonic() > deadline or not service.is_running:
            raise RuntimeError(f"the {service.name} did not come up")
        time.sleep(0.2)


def governance_file(entries: Mapping[str, Governed], remark: str) -> str:
    """Write a governance file."""
    lines = [f"# {remark}", 'version: "1.0"', "repositories:" if entries else "repositories: {}"]
    for name, entry in entries.items():
        fields = [f"owner: {entry.owner}", f"risk: {entry.risk}", f"status: {entry.status}"]
        if entry.environment:
            fields.append(f"environment: {entry.environment}")
        identifier = "".join(each if each.isalnum() else "_" for each in name).upper()
        lines.append(f"  {name}:")
        lines.append(f"    metadata: {{id: REGISTRY_{identifier}, {', '.join(fields)}}}")
    return "\n".join(lines) + "\n"


def _make(
    folder: Path,
    aws: FakeAws,
    receiver: Receiver,
    instance: dg.DagsterInstance,
    *,
    hostile: bool,
) -> SoakWorld:
    remote = Repository.create(folder / "governance.git", bare=True)
    governance = Repository.create(folder / "governance")
    governance.git("remote", "add", "origin", str(remote.folder))
    catalog = Repository.create(folder / "catalog")
    catalog.git("symbolic-ref", "HEAD", f"refs/heads/{BRANCH}")
    (catalog.folder / "README.md").write_text("# What Backstage reads\n")
    catalog.git("add", "--all")
    catalog.git("commit", "--quiet", "-m", "Start the catalog")
    # Pushes update the files here, so that Backstage can read them from the checkout.
    catalog.git("config", "receive.denyCurrentBranch", "updateInstead")
    catalog.git("clone", "--quiet", "--bare", str(catalog.folder), str(folder / "human.git"))
    backstage_port, code_port = free_port(), free_port()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
    world = SoakWorld(
        folder=folder,
        aws=aws,
        governance=governance,
        catalog=catalog,
        human=Repository(folder / "human.git"),
        receiver=receiver,
        environment=kept
        | {
            "AWS_EC2_METADATA_DISABLED": "true",
            "BACKSTAGE_TOKEN": TOKEN,
            "DAGSTER_HOME": str(folder / "home"),
            "ECR_CATALOG_ALERT_URLS": f"json://127.0.0.1:{receiver.port}/alerts",
            "ECR_CATALOG_MIRRORS": str(folder / "mirrors"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PYTHONPATH": str(ROOT),
        }
        | (_hostility(folder) if hostile else {}),
        home=folder / "home",
        hostile=hostile,
        backstage_port=backstage_port,
        instance=instance,
    )
    (folder / "mirrors").mkdir()
    (folder / "mirrors" / f"{MIRROR}.yaml").write_text(yaml.safe_dump(_mirror(world, remote)))
    workspace = folder / "workspace.yaml"
    server = {"host": "127.0.0.1", "port": code_port, "location_name": MIRROR}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    _add_services(world, workspace, code_port)
    return world


def _mirror(world: SoakWorld, governance: Repository) -> dict[str, Any]:
    return {
        "governance": {
            "repository": str(governance.folder),
            "branch": "main",
            "path": GOVERNANCE_PATH,
        },
        "registry": {
            "region": world.aws.region,
            "account_id": world.aws.account_id,
            "endpoint_url": world.aws.endpoint_url,
        },
        # The model compares what the entity itself lists.
        "entity": {"name": ENTITY, "list_limit": LIST_LIMIT},
        "publish": {
            "kind": "git",
            "repository": str(world.catalog.folder),
            "branch": BRANCH,
            "path": ENTITY_PATH,
        },
        "backstage": {
            "url": f"http://127.0.0.1:{world.backstage_port}",
            "token_env": "BACKSTAGE_TOKEN",
        },
    }


def _add_services(world: SoakWorld, workspace: Path, code_port: int) -> None:
    dagster = [sys.executable, "-m"]
    module = ["-m", "ecr_catalog_pipeline.definitions"]
    where = ["-h", "127.0.0.1", "-p", str(code_port)]
    folder, environment = world.folder, world.environment

    def serves() -> bool:
        try:
            world.served()
        except (OSError, ValueError):
            return False
        return True

    def listens() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", code_port), 1):
            return True
        return False

    world.services = {
        "backstage": Service(
            "backstage",
            ["node", "index.js", "--config", "app-config.yaml"],
            cwd=ROOT / "backstage",
            environment={key: value for key, value in environment.items() if key != "LD_PRELOAD"}
            | {
                "BACKSTAGE_PORT": str(world.backstage_port),
                "ECR_CATALOG_ENTITY_FILE": str(world.catalog.folder / ENTITY_PATH),
            },
            log=folder / "backstage.log",
            answers=serves,
        ),
        "code server": Service(
            "code server",
            [*dagster, "dagster", "api", "grpc", *module, *where],
            cwd=folder,
            environment=environment,
            log=folder / "code-server.log",
            answers=listens,
        ),
        "daemon": Service(
            "daemon",
            [*dagster, "dagster._daemon", "run", "-w", str(workspace)],
            cwd=folder,
            environment=environment,
            log=folder / "daemon.log",
        ),
    }


@contextmanager
def _receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(json.loads(body)["title"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, name="alert receiver")
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _serves_git(process: psutil.Process) -> bool:
    """Whether a process belongs to the server's side of a push."""
    return any("receive-pack" in " ".join(each.cmdline()) for each in [process, *process.parents()])
