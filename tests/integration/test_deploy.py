"""What `deploy/` and the Dockerfile say is run here: steps, commands, their environment.

No image is built: each instruction of the build stage is carried out in a folder instead.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import boto3
import kubernetes_validate  # type: ignore[import-untyped] # ships no types
import pytest
import yaml
from botocore.validate import ParamValidator
from dagster._core.instance.ref import InstanceRef

from ecr_catalog_pipeline.settings import load_mirror
from tests.fakes.aws import Fault
from tests.integration.backstage import free_port, wait_for
from tests.integration.worlds import GitTarget, World, a_world

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
DAGSTER: Final = KUBERNETES / "dagster"
ECS: Final = ROOT / "deploy" / "ecs"
WORKFLOWS: Final = ROOT / "deploy" / "github-actions"
BIN: Final = Path(sys.executable).parent
# With the way to the package registry and uv's cache, of which a test has nothing.
OUTSIDE: Final = {name: text for name, text in os.environ.items() if name != "VIRTUAL_ENV"}
SIX: Final = tuple(f"team/app-{number}" for number in range(6))

# Installing brings what is missing in uv's cache from the package registry.
pytestmark = pytest.mark.timeout(600)

Done = subprocess.CompletedProcess[str]


def run(command: list[str] | str, folder: Path, environment: Mapping[str, str]) -> Done:
    return subprocess.run(
        command,
        cwd=folder,
        env={"LANG": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1", **environment},
        stdin=subprocess.DEVNULL,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


# The Dockerfile


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str


def dockerfile() -> list[list[Instruction]]:
    """Give the instructions of each stage; what comes before the first one is left out."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: list[list[Instruction]] = []
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(Instruction(word, rest.strip()))
    return stages


def let_through() -> set[str]:
    """Give what .dockerignore lets through of the files that git knows or would take up."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    extra = [".env", ".git/config", ".venv/bin/pip", "ecr_catalog_pipeline/__pycache__/cli.pyc"]
    return {file for file in [*listed, *extra] if not ignored(file)}


def ignored(file: str) -> bool:
    """Whether .dockerignore leaves a file out: its last pattern that matches decides."""
    parents = [str(each) for each in Path(file).parents][:-1]
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        anywhere = pattern.removeprefix("**/")
        names = [file, *parents]
        if anywhere != pattern:
            names = [each for name in names for each in (name, name.rsplit("/", 1)[-1])]
        if any(fnmatchcase(name, anywhere) for name in names):
            verdict = not line.startswith("!")
    return verdict


@dataclass(frozen=True)
class Image:
    """What the build stage made, in a folder."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "opt" / "ecr-catalog" / "bin"

    def here(self, text: str) -> str:
        return text.replace("/opt/", f"{self.folder}/opt/")

    def build(self, spoil: Callable[[Path], None] | None = None) -> Done:
        """Carry out the build stage up to its end, or to what fails."""
        source = self.folder / "src"
        source.mkdir(parents=True)
        done: Done | None = None
        for each in dockerfile()[0]:
            if each.word == "COPY":
                self._copy(shlex.split(each.rest), source)
                if spoil:
                    spoil(source)
            elif each.word == "RUN":
                path = os.pathsep.join([str(BIN), OUTSIDE["PATH"]])
                environment = {**OUTSIDE, "PATH": path}
                done = run(self.here(each.rest), source, environment)
                if done.returncode:
                    return done
            else:
                assert (each.word, each.rest) in {
                    ("FROM", "python:${PYTHON}-slim-bookworm AS build"),
                    ("WORKDIR", "/src"),
                }
        assert done is not None
        return done

    def _copy(self, words: list[str], target: Path) -> None:
        *sources, destination = words
        into = target / destination
        for source in sources:
            for file in sorted(let_through()):
                if file == source:
                    shutil.copy(ROOT / file, into / file if into.is_dir() else into)
                elif file.startswith(f"{source}/"):
                    placed = into / file.removeprefix(f"{source}/")
                    placed.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / file, placed)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    image = Image(tmp_path_factory.mktemp("image"))
    done = image.build()
    assert done.returncode == 0, done.stderr
    return image


def locked() -> set[tuple[str, str]]:
    lines = (ROOT / "requirements.lock").read_text()
    return set(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lines, re.MULTILINE))


@pytest.mark.full
def test_the_image_holds_what_runs_in_the_locked_versions_and_nothing_else(image: Image) -> None:
    listing = (
        "import json; from importlib.metadata import distributions as d; "
        "print(json.dumps([[e.metadata['Name'], e.version] for e in d()]))"
    )
    done = run([str(image.bin / "python"), "-c", listing], image.folder, {})
    installed = {
        (re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in json.loads(done.stdout)
    }
    names = {name for name, _ in installed}

    assert {each for each in installed if each[0] != "ecr-catalog-pipeline"} <= locked()
    dagsters = {"dagster-webserver", "dagster-postgres", "dagster-aws", "dagster-k8s"}
    assert {"ecr-catalog-pipeline"} | dagsters <= names
    assert not names & {"pip", "uv", "pytest", "moto", "mypy", "flask", "playwright"}
    for program in ("ecr-catalog", "dagster", "dagster-webserver", "dagster-daemon"):
        assert os.access(image.bin / program, os.X_OK)


@pytest.mark.full
def test_a_package_that_is_not_the_locked_one_is_not_built_in(tmp_path: Path) -> None:
    def spoil(source: Path) -> None:
        lock = source / "requirements.lock"
        hashes = re.compile(r"^(click==[^\n]*\n)(?:    --hash[^\n]*\n)+", re.MULTILINE)
        text, changed = hashes.subn(rf"\1    --hash=sha256:{'0' * 64}\n", lock.read_text())
        assert changed == 1
        lock.write_text(text)

    done = Image(tmp_path / "image").build(spoil)

    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
    assert "click" in done.stderr


def test_only_what_the_build_needs_gets_near_the_image() -> None:
    files = let_through()
    roots = {file.split("/")[0] for file in files}
    assert roots == {
        "LICENSE",
        "README.md",
        "ecr_catalog_pipeline",
        "pyproject.toml",
        "requirements.lock",
        "workspace.yaml",
    }
    assert "ecr_catalog_pipeline/cli.py" in files
    assert not any(file.endswith(".pyc") for file in files)


def test_the_last_stage_is_small_runs_as_nobody_special_and_knows_no_secret() -> None:
    build, last = dockerfile()
    words = [each.word for each in last]
    one = {each.word: each.rest for each in last}

    (copied,) = [each.rest for each in last if each.rest.startswith("--from=")]
    assert copied == "--from=build /opt/ecr-catalog /opt/ecr-catalog"
    (installed,) = [each.rest for each in last if "apt-get install" in each.rest]
    assert "--no-install-recommends ca-certificates git openssh-client procps &&" in " ".join(
        installed.split()
    )
    assert installed.endswith("rm -rf /var/lib/apt/lists/*")
    assert words.count("USER") == 1
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", one["USER"])
    assert words.index("USER") > max(i for i, word in enumerate(words) if word == "RUN")
    assert f"--uid {one['USER'].split(':')[0]} " in " ".join(each.rest for each in last)
    assert "DAGSTER_HOME" not in one["ENV"]
    for each in [*build, *last]:
        if each.word in {"ENV", "ARG"}:
            assert not re.search("TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY", each.rest, re.IGNORECASE)


@pytest.mark.parametrize(
    ("given", "started"),
    [
        ("sync -m one", "ecr-catalog sync -m one"),
        ("--help", "ecr-catalog --help"),
        ("", "ecr-catalog"),
        ("ecr-catalog plan -m one", "ecr-catalog plan -m one"),
        ("dagster api grpc -p 3030", "dagster api grpc -p 3030"),
        ("dagster-daemon run", "dagster-daemon run"),
    ],
)
def test_the_entry_point_takes_our_words_and_the_whole_commands_of_dagsters_launchers(
    tmp_path: Path, given: str, started: str
) -> None:
    for name in ("ecr-catalog", "dagster", "dagster-daemon"):
        Container(tmp_path).program(name, 7)
    (entry,) = [each.rest for each in dockerfile()[1] if each.word == "ENTRYPOINT"]
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = run([*json.loads(entry), *given.split()], tmp_path, {"PATH": path})
    assert done.returncode == 7
    assert Container(tmp_path).asked == [started if given else "ecr-catalog "]


@dataclass(frozen=True)
class Container:
    """What Docker would ask about its health: the process 1 of it, and programs that it has."""

    folder: Path

    def healthy(self, *main: str) -> bool:
        cmdline = self.folder / "cmdline"
        cmdline.write_bytes(b"\0".join(word.encode() for word in main) + b"\0")
        (check,) = [each.rest for each in dockerfile()[1] if each.word == "HEALTHCHECK"]
        command = check.split("CMD ", 1)[1]
        assert "/proc/1/cmdline" in command
        command = command.replace("/proc/1/cmdline", str(cmdline))
        command = re.sub(":(3000|9780)", f":{self.port}", command)
        path = os.pathsep.join([str(self.folder), str(BIN), os.environ["PATH"]])
        return run(command, self.folder, {"PATH": path}).returncode == 0

    port: int = field(default=9)

    def program(self, name: str, code: int) -> None:
        """Put a program there that notes its words and ends with a code."""
        file = self.folder / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/asked\nexit {code}\n')
        file.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


def test_a_container_is_as_healthy_as_the_server_in_it(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ServerInfo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        webserver = Container(tmp_path, port=server.server_port)
        assert webserver.healthy("python", "/opt/ecr-catalog/bin/dagster-webserver", "-p", "3000")
        assert webserver.healthy("python", "/opt/ecr-catalog/bin/ecr-catalog", "metrics")
        server.shutdown()
    assert not webserver.healthy("python", "/opt/ecr-catalog/bin/ecr-catalog", "metrics")
    assert not webserver.healthy("python", "/opt/ecr-catalog/bin/dagster-webserver", "-p", "3000")

    for code in (0, 1):
        webserver.program("dagster-daemon", code)
        webserver.program("dagster", code)
        assert webserver.healthy("python", "dagster-daemon", "run") == (code == 0)
        assert webserver.healthy("python", "dagster", "code-server", "start") == (code == 0)
    assert webserver.asked[:2] == [
        "dagster-daemon liveness-check",
        "dagster api grpc-health-check -p 4000",
    ]
    assert webserver.healthy("python", "/opt/ecr-catalog/bin/ecr-catalog", "sync", "-m", "x")
    assert len(webserver.asked) == 4


class _ServerInfo(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in {"/server_info", "/healthz"} else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


# The worlds that workflow and CronJob meet


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, GitTarget(tmp_path)) as world:
        world.have(*SIX)
        yield world


def hold(world: World) -> None:
    """Publish six repositories, and let AWS lose five of them."""
    world.sync()
    for name in SIX[1:]:
        world.fake.delete(name)


# The GitHub workflow


def workflow(name: str = "sync") -> Any:
    # YAML 1.1 reads the key `on` as true; GitHub does not.
    return yaml.load((WORKFLOWS / f"{name}.yaml").read_text(), yaml.BaseLoader)


def steps(name: str = "sync") -> list[dict[str, Any]]:
    """Give the steps of the job that is called as its workflow."""
    listed: list[dict[str, Any]] = workflow(name)["jobs"][name]["steps"]
    return listed


@dataclass
class Runner:
    """Runs a workflow's own scripts, as a runner of GitHub's does after its actions."""

    world: World
    folder: Path
    contexts: dict[str, str]
    name: str = "sync"
    workspace: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def job(self) -> tuple[int, str]:
        """Run each script until one fails; gives the exit code and the log."""
        log = ""
        for step in steps(self.name):
            if "run" not in step or step["name"] == "Install the pipeline":
                continue
            done = self.step(step, self.workspace)
            log += done.stdout + done.stderr
            self._take_outputs(step)
            if done.returncode:
                return done.returncode, log
        return 0, log

    def step(
        self,
        step: Mapping[str, Any],
        workspace: Path | None = None,
        outside: Mapping[str, str] = {},
    ) -> Done:
        job = workflow(self.name)["jobs"][self.name]
        script = self.folder / "step.sh"
        script.write_text(step["run"])
        environment = {**job.get("env", {}), **step.get("env", {})}
        return run(
            ["bash", "-e", str(script)],
            (workspace or self.world.folder) / step.get("working-directory", ""),
            {
                "HOME": os.environ["HOME"],
                **outside,
                "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
                "AWS_EC2_METADATA_DISABLED": "true",
                "ECR_CATALOG_CACHE": str(self.world.cache),
                "RUNNER_TEMP": str(self.folder),
                "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
                "GITHUB_PATH": str(self.folder / "path"),
                "GITHUB_ENV": str(self.folder / "env"),
                "GITHUB_OUTPUT": str(self.folder / "output"),
                **self.variables,
                **{name: self.value(text) for name, text in environment.items()},
            },
        )

    def _take_outputs(self, step: Mapping[str, Any]) -> None:
        output = self.folder / "output"
        if "id" in step and output.exists():
            for line in output.read_text().splitlines():
                key, _, value = line.partition("=")
                self.contexts[f"steps.{step['id']}.outputs.{key}"] = value
            output.unlink()

    def value(self, text: str) -> str:
        """Work out the expressions of a value; of one with `||`, the first that is not empty."""

        def found(match: re.Match[str]) -> str:
            names = [name.strip() for name in match[1].split("||")]
            return next((self.contexts[name] for name in names if self.contexts[name]), "")

        return re.sub(r"\$\{\{(.*?)\}\}", found, text)

    @property
    def summary(self) -> str:
        return (self.folder / "summary.md").read_text()


@pytest.fixture
def runner(world: World, tmp_path: Path) -> Runner:
    folder = tmp_path / "runner"
    folder.mkdir()
    contexts = {
        "inputs.mirror": "",
        "inputs.approve": "",
        "vars.ECR_CATALOG_MIRROR": world.name,
        "github.workspace": str(world.folder),
        "github.server_url": "https://github.com",
        "github.token": "a-token-of-the-job",
        "secrets.BACKSTAGE_TOKEN": "",
        "secrets.ECR_CATALOG_PING_URL": "",
    }
    return Runner(world, folder, contexts)


@pytest.mark.parametrize("name", ["sync", "plan", "guard"])
def test_the_workflow_is_one_that_github_takes(name: str) -> None:
    done = run(
        [
            str(BIN / "check-jsonschema"),
            *("--builtin-schema", "vendor.github-workflows", str(WORKFLOWS / f"{name}.yaml")),
        ],
        ROOT,
        {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
    )
    assert done.returncode == 0, done.stdout


def test_the_workflow_may_do_little_and_pins_what_it_uses() -> None:
    content = workflow()
    job = content["jobs"]["sync"]

    assert content["permissions"] == {}
    assert job["permissions"] == {"contents": "write", "id-token": "write"}
    assert int(job["timeout-minutes"]) <= 15
    assert content["concurrency"]["cancel-in-progress"] == "false"
    assert content["on"]["schedule"] == [{"cron": "*/5 * * * *"}]
    assert_no_step_runs_what_comes_from_outside(steps())


def assert_no_step_runs_what_comes_from_outside(listed: list[dict[str, Any]]) -> None:
    for step in listed:
        assert "${{" not in step.get("run", ""), "a script takes variables, never expressions"
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.full
def test_the_workflow_installs_the_pipeline_in_the_locked_versions(
    runner: Runner, tmp_path: Path
) -> None:
    (install,) = [step for step in steps() if step.get("name") == "Install the pipeline"]
    (checkout,) = [step for step in steps() if step.get("with", {}).get("path")]
    assert install["working-directory"] == checkout["with"]["path"]
    clone = tmp_path / install["working-directory"]
    for file in let_through():
        if file != "workspace.yaml":
            (clone / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, clone / file)

    done = runner.step(install, tmp_path, OUTSIDE)

    assert done.returncode == 0, done.stderr
    (added,) = (runner.folder / "path").read_text().splitlines()
    assert (runner.folder / "env").read_text() == f"ECR_CATALOG_CACHE={runner.folder}/cache\n"
    said = run([f"{added}/ecr-catalog", "--version"], tmp_path, {"HOME": os.environ["HOME"]})
    assert said.stdout.startswith("ecr-catalog, version ")


def test_the_workflow_publishes_and_sums_up(runner: Runner, world: World) -> None:
    code, log = runner.job()

    assert code == 0, log
    assert list(world.listed) == list(SIX)
    assert "published: 6 live" in log
    assert "Plan: 6 to add" in runner.summary
    assert "\x1b" not in runner.summary


def test_the_workflow_fails_clearly_when_held_and_publishes_once_approved(
    runner: Runner, world: World
) -> None:
    hold(world)

    code, log = runner.job()

    assert code == 3, log
    assert "::error title=Held by the removal guard::" in log
    assert len(world.listed) == 6
    assert "**Held.**" in runner.summary
    (plan_hash,) = set(re.findall(r"--approve ([0-9a-f]{64})", runner.summary))

    runner.contexts["inputs.approve"] = plan_hash
    code, log = runner.job()

    assert code == 0, log
    assert list(world.listed) == [SIX[0]]


def test_the_workflow_fails_when_a_source_does(runner: Runner, world: World) -> None:
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    code, log = runner.job()
    assert code == 1
    assert "ecr:DescribeRepositories failed with AccessDenied" in log
    assert world.content is None


@pytest.mark.parametrize("given", ["inputs.mirror", "inputs.approve"])
def test_what_is_typed_into_the_workflow_is_never_run(runner: Runner, given: str) -> None:
    for hostile in ('x"; touch pwned; "', "$(touch pwned)", "`touch pwned`", "--help"):
        runner.contexts[given] = hostile
        sync = steps()[-1]
        assert sync["name"] == "Sync"
        if given == "inputs.approve":
            # Far enough to see how the command takes it; nothing is read of a mirror unknown.
            runner.contexts["inputs.mirror"] = "nowhere"
        assert runner.step(sync).returncode == 1
    assert not list(runner.world.folder.rglob("pwned"))


def password(environment: Mapping[str, str]) -> str:
    """Give what git takes for a password, when it asks for one at GitHub."""
    done = subprocess.run(
        ["git", "credential", "fill"],
        input="protocol=https\nhost=github.com\n\n",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_git_takes_the_jobs_token_from_its_environment(runner: Runner) -> None:
    for step in steps()[-2:]:
        settings = {**workflow()["jobs"]["sync"]["env"], **step["env"]}
        environment = {name: runner.value(text) for name, text in settings.items()}
        said = password(environment)
        assert "username=x-access-token\npassword=a-token-of-the-job\n" in said
        assert [name for name, text in environment.items() if "a-token" in text] == ["GIT_TOKEN"]


# Kubernetes


def manifest(name: str) -> Any:
    return yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())


@dataclass(frozen=True)
class CronJob:
    """The CronJob's container, with the volumes that it mounts in folders here."""

    world: World
    image: Image
    folder: Path

    @cached_property
    def pod(self) -> Any:
        return manifest("cronjob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    @property
    def container(self) -> Any:
        (container,) = self.pod["containers"]
        return container

    @cached_property
    def mounts(self) -> dict[str, Path]:
        found = {}
        for mount in self.container["volumeMounts"]:
            place = self.folder / mount["name"]
            if mount["name"] == "mirrors":
                place = self.world.mirrors
            place.mkdir(exist_ok=True)
            found[mount["mountPath"]] = place
        return found

    def environment(self, secrets: Mapping[str, str]) -> dict[str, str]:
        found = {}
        for each in self.container["env"]:
            if "value" in each:
                found[each["name"]] = self._placed(each["value"])
            else:
                reference = each["valueFrom"]["secretKeyRef"]
                assert reference["optional"]
                if reference["key"] in secrets:
                    found[each["name"]] = secrets[reference["key"]]
        return found

    def _placed(self, value: str) -> str:
        if not value.startswith("/"):
            return value
        return str(self.mounts[value])

    def run(self, **secrets: str) -> Done:
        """Run the image's entry point with the manifest's words, as Kubernetes would."""
        one = {each.word: each.rest for each in dockerfile()[1]}
        assert "command" not in self.container
        return run(
            [*json.loads(one["ENTRYPOINT"]), *self.container["args"]],
            self.folder,
            {
                "PATH": os.pathsep.join([str(self.image.bin), os.environ["PATH"]]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "TMPDIR": str(self.mounts["/tmp"]),
                "AWS_EC2_METADATA_DISABLED": "true",
                **self.environment(secrets),
            },
        )


@pytest.fixture
def cronjob(world: World, image: Image, tmp_path: Path) -> CronJob:
    folder = tmp_path / "pod"
    folder.mkdir()
    return CronJob(world, image, folder)


def test_the_cronjob_publishes_then_writes_nothing(cronjob: CronJob, world: World) -> None:
    first = cronjob.run()
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("published: 6 live")
    assert list(world.listed) == list(SIX)

    commits = world.target.history()
    again = cronjob.run()
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("unchanged: ")
    assert world.target.history() == commits


def test_the_cronjob_fails_when_held_and_when_a_source_does(cronjob: CronJob, world: World) -> None:
    hold(world)
    held = cronjob.run()
    assert held.returncode == 3
    assert "held: " in held.stdout
    assert "Approve with: ecr-catalog sync" in held.stdout

    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    failed = cronjob.run()
    assert failed.returncode == 1
    assert "ecr:DescribeRepositories failed with AccessDenied" in failed.stderr
    assert len(world.listed) == 6


def test_git_takes_the_secrets_token_in_the_cronjob(world: World, tmp_path: Path) -> None:
    cronjob = CronJob(world, Image(tmp_path), tmp_path)
    environment = cronjob.environment({"GIT_TOKEN": "a-token-of-the-secret"})
    assert "password=a-token-of-the-secret\n" in password(environment)
    assert [name for name, text in environment.items() if "a-token" in text] == ["GIT_TOKEN"]


def test_the_cronjob_runs_alone_as_nobody_and_can_write_only_what_it_mounts() -> None:
    cronjob = manifest("cronjob")["spec"]
    job = cronjob["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]

    assert cronjob["schedule"] == "*/2 * * * *"
    assert cronjob["concurrencyPolicy"] == "Forbid"
    assert cronjob["startingDeadlineSeconds"] >= 10
    assert job["backoffLimit"] == 0
    assert job["activeDeadlineSeconds"] <= 300
    assert pod["restartPolicy"] == "Never"
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == manifest("service-account")["metadata"]["name"]
    user, group = (int(each) for each in _user().split(":"))
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts["/mirrors"]["readOnly"]
    assert {each["name"] for each in pod["volumes"]} == {each["name"] for each in mounts.values()}
    for each in container["env"]:
        if each.get("value", "").startswith("/"):
            assert each["value"] in mounts


def _user() -> str:
    (user,) = [each.rest for each in dockerfile()[1] if each.word == "USER"]
    return user


every_way = pytest.mark.parametrize(
    "folder", [KUBERNETES, DAGSTER], ids=["without Dagster", "with Dagster"]
)


@every_way
def test_every_manifest_is_one_that_kubernetes_takes(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = kustomization["resources"]
    generated = [file for each in kustomization["configMapGenerator"] for file in each["files"]]
    assert {*files, *generated, "kustomization.yaml"} == {
        str(path.relative_to(folder))
        for path in [*folder.glob("*.yaml"), *folder.glob("mirrors/*.yaml")]
    }
    for file in files:
        (content,) = yaml.safe_load_all((folder / file).read_text())
        if content["kind"] == "Deployment":
            # Kustomize writes the label into both.
            labels = kustomization["labels"][0]["pairs"]
            content["spec"]["selector"] = {"matchLabels": labels}
        if content["kind"] == "Service":
            content["spec"]["selector"] = kustomization["labels"][0]["pairs"]
        kubernetes_validate.validate(content, kubernetes_validate.latest_version(), strict=True)


def test_the_mirror_beside_the_manifests_can_be_loaded_and_is_the_one_they_run() -> None:
    (generated,) = manifest("kustomization")["configMapGenerator"]
    pod = manifest("cronjob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (source,) = [each["configMap"] for each in pod["volumes"] if "configMap" in each]
    (file,) = generated["files"]

    assert source["name"] == generated["name"]
    mirror = load_mirror(KUBERNETES / file)
    assert pod["containers"][0]["args"] == ["sync", "-m", mirror.name]
    assert mirror.backstage
    assert mirror.backstage.token_env in {each["name"] for each in pod["containers"][0]["env"]}


@every_way
def test_kustomize_puts_the_manifests_together(folder: Path, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; the files are checked one by one above")
    done = run([kubectl, "kustomize", str(folder)], tmp_path, {"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    for each in made:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    (workload,) = [each for each in made if each["kind"] in {"CronJob", "Deployment"}]
    maps = {each["metadata"]["name"] for each in made if each["kind"] == "ConfigMap"}
    spec = workload["spec"].get("jobTemplate", workload)["spec"]
    pod = spec["template"]["spec"]
    mounted = [each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each]
    assert set(mounted) == maps
    for container in pod["containers"]:
        assert re.fullmatch(r"ecr-catalog-pipeline:[0-9.]+", container["image"])


# Dagster on Kubernetes


def deployment() -> Any:
    return yaml.safe_load((DAGSTER / "deployment.yaml").read_text())["spec"]


def test_dagsters_processes_listen_on_loopback_alone_and_are_as_locked_as_the_cronjob() -> None:
    spec, job = deployment(), manifest("cronjob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod = spec["template"]["spec"]

    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == job["securityContext"]
    (prepare,) = pod["initContainers"]
    assert prepare["command"] == ["dagster", "instance", "migrate"], "before four meet at once"
    for container in [prepare, *pod["containers"]]:
        assert container["securityContext"] == job["containers"][0]["securityContext"]
        words = container["command"]
        assert ("ports" in container) == (words[:2] == ["ecr-catalog", "metrics"])
        if "-h" in words:
            assert words[words.index("-h") + 1] == "127.0.0.1"
        assert container is prepare or container["livenessProbe"]
        mounts = {each["mountPath"] for each in container["volumeMounts"]}
        for each in container["env"]:
            assert not each.get("value", "").startswith("/") or each["value"] in mounts
    assert (DAGSTER / "service-account.yaml").read_bytes() == (
        KUBERNETES / "service-account.yaml"
    ).read_bytes()


def test_the_exporter_is_scraped_where_it_listens_and_knows_no_token() -> None:
    (exporter,) = [
        each for each in deployment()["template"]["spec"]["containers"] if each["name"] == "metrics"
    ]
    service = yaml.safe_load((DAGSTER / "metrics.yaml").read_text())
    (port,) = exporter["ports"]
    words = exporter["command"]

    assert words == ["ecr-catalog", "metrics", "--listen", f"0.0.0.0:{port['containerPort']}"]
    (served,) = service["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (port["containerPort"], port["name"])
    assert service["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port["containerPort"]),
        "prometheus.io/path": "/metrics",
    }
    assert {probe["httpGet"]["path"] for probe in _probes(exporter)} == {"/healthz"}
    assert {probe["httpGet"]["port"] for probe in _probes(exporter)} == {port["name"]}
    assert {each["name"] for each in exporter["env"]} == {
        "DAGSTER_HOME",
        "DAGSTER_POSTGRES_URL",
        "ECR_CATALOG_MIRRORS",
        "HOME",
    }


def _probes(container: Any) -> list[Any]:
    return [container[name] for name in ("livenessProbe", "readinessProbe")]


def test_its_instance_is_the_projects_own_with_the_history_in_postgresql() -> None:
    theirs = yaml.safe_load((DAGSTER / "dagster.yaml").read_text())
    storage = theirs.pop("storage")
    ours = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    # It takes daemon, code server and web server in one container.
    ours.pop("run_launcher")
    assert theirs == ours
    variable = storage["postgres"]["postgres_url"]["env"]
    pod = deployment()["template"]["spec"]
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert variable in {each["name"] for each in container["env"]}

    known = InstanceRef.from_dir(str(DAGSTER)).storage_data
    assert known is not None
    assert known.class_name == "DagsterPostgresStorage"


def test_the_code_server_runs_and_its_probes_see_it(
    image: Image, world: World, tmp_path: Path
) -> None:
    container = deployment()["template"]["spec"]["containers"][0]
    (server,) = yaml.safe_load((DAGSTER / "workspace.yaml").read_text())["load_from"]
    assert str(server["grpc_server"]["port"]) in container["command"]
    port = str(free_port())
    program, *words = [port if word == "4000" else word for word in container["command"]]
    probe = [
        port if word == "4000" else word for word in container["livenessProbe"]["exec"]["command"]
    ]
    path = os.pathsep.join([str(image.bin), os.environ["PATH"]])
    environment = {**world.environ(tmp_path / "user"), "PATH": path}
    inside = Container(tmp_path, port=9)

    def probed() -> bool:
        return run([str(image.bin / probe[0]), *probe[1:]], tmp_path, environment).returncode == 0

    assert not probed()
    with subprocess.Popen(
        [str(image.bin / program), *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(probed, 120, "the code server")
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")
            for name in ("dagster", "dagster-daemon"):
                inside.program(name, 0)
            assert inside.healthy(*shown)
            assert inside.asked == ["dagster api grpc-health-check -p 4000"]
        finally:
            process.terminate()
            process.wait(60)


# The official Helm chart


def without_required(schema: Any) -> Any:
    """A schema of values that are merged with the chart's own: any of them may be left out."""
    if isinstance(schema, dict):
        return {
            key: without_required(value)
            for key, value in schema.items()
            if key != "required" or not isinstance(value, list)
        }
    return [without_required(each) for each in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("name", ["values.yaml", "values-user-code.yaml"])
def test_the_values_are_ones_that_the_official_chart_takes(name: str, tmp_path: Path) -> None:
    chart = ROOT / "tests" / "data" / "dagster-helm-values.schema.json"
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(without_required(json.loads(chart.read_text()))))

    def check(values: Path) -> Done:
        words = [str(BIN / "check-jsonschema"), "--schemafile", str(schema), str(values)]
        return run(words, tmp_path, {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})

    done = check(KUBERNETES / "helm" / name)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((KUBERNETES / "helm" / name).read_text() + "\npythonLogs: 3\n")
    assert check(wrong).returncode != 0


def test_the_user_code_has_what_the_manifests_have_and_is_as_locked() -> None:
    values = yaml.safe_load((KUBERNETES / "helm" / "values-user-code.yaml").read_text())
    (ours,) = values["dagster-user-deployments"]["deployments"]
    job = manifest("cronjob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    assert ours["podSecurityContext"] == job["securityContext"]
    locked = dict(job["containers"][0]["securityContext"])
    # The chart's instance writes into DAGSTER_HOME.
    del locked["readOnlyRootFilesystem"]
    assert ours["securityContext"] == locked
    environment = {each["name"]: each.get("value", "") for each in ours["env"]}
    for each in job["containers"][0]["env"]:
        if "value" in each:
            assert environment[each["name"]] == each["value"]
    mounts = {each["mountPath"] for each in ours["volumeMounts"]}
    assert environment["ECR_CATALOG_MIRRORS"] in mounts
    assert {each["name"] for each in ours["volumes"]} == {
        each["name"] for each in ours["volumeMounts"]
    }
    assert ours["dagsterApiGrpcArgs"][-1] == "ecr_catalog_pipeline.definitions"


# ECS


def task(name: str) -> Any:
    return json.loads((ECS / f"task-{name}.json").read_text())


def test_its_instance_on_ecs_is_the_projects_own_but_for_where_runs_and_history_are() -> None:
    theirs = yaml.safe_load((ECS / "dagster.yaml").read_text())
    ours = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    launcher = theirs.pop("run_launcher")["config"]
    for key in ("storage", "compute_logs"):
        theirs.pop(key)
    # A task takes longer to start than a process.
    ours["run_monitoring"]["start_timeout_seconds"] = 180
    ours.pop("nux")
    ours.pop("run_launcher")
    assert theirs == ours
    run = task("run")
    assert launcher["task_definition"] == run["family"]
    assert [each["name"] for each in run["containerDefinitions"]] == [launcher["container_name"]]
    assert InstanceRef.from_dir(str(ECS)).storage_data is not None


def test_every_task_on_ecs_is_one_that_ecs_takes_and_listens_on_loopback_alone() -> None:
    ecs = boto3.client("ecs", region_name="eu-west-2")
    shape = ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
    for name in ("run", "dagster"):
        definition = task(name)
        assert not ParamValidator().validate(definition, shape).has_errors()
        for container in definition["containerDefinitions"]:
            assert container["user"] == _user()
            assert "portMappings" not in container
            words = container["command"]
            if "-h" in words:
                assert words[words.index("-h") + 1] == "127.0.0.1"
            given = {each["name"]: each["value"] for each in container["environment"]}
            assert given["ECR_CATALOG_MIRRORS"] == "/mirrors"
            secrets = {each["name"] for each in container["secrets"]}
            assert {"DAGSTER_POSTGRES_URL", "GIT_TOKEN"} <= secrets
            assert not {name for name in given if "TOKEN" in name and "GIT_" not in name}
