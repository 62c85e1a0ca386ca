"""Every block of the documents is run, or loaded by what reads it; every link leads somewhere.

A page's commands run in its order in a reader's home: the checkout, a platform repository, a
catalog, an ECR and a Backstage. `<!-- exit: 3 -->` before a block is the exit code of its last
command, `<!-- world: held -->` what happens before it, `<!-- mirror: NAME -->` adds it to that
mirror file. Programs that cannot run here are replaced by ones that write down their words, which
are then judged. `ECR_CATALOG_WRITE_TRANSCRIPT=1` rewrites the transcripts of a page.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import apprise.cli
import boto3
import check_jsonschema  # type: ignore[import-untyped] # ships no types
import click
import dagster as dg
import kubernetes_validate  # type: ignore[import-untyped] # ships no types
import pytest
import yaml
from botocore import xform_name
from dagster._cli import create_dagster_cli
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from dagster_webserver.cli import create_dagster_webserver_cli
from jsonschema import validators  # type: ignore[import-untyped] # ships no types
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sqlalchemy import create_engine

from ecr_catalog_pipeline.cli import COMMANDS, cli
from ecr_catalog_pipeline.commands.schema import governance_schema
from ecr_catalog_pipeline.core.alerts import Alert, Condition, Signal
from ecr_catalog_pipeline.core.ecr_settings import Setting
from ecr_catalog_pipeline.core.governance import (
    EXCEPTION,
    ROOT_KEYS,
    SECTIONS,
    parse_governance,
)
from ecr_catalog_pipeline.core.health import markers
from ecr_catalog_pipeline.core.layers import laid_over
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs.mirror_files import GROUP, SETTINGS_VALID
from ecr_catalog_pipeline.demo.world import CREATION_TEMPLATES, FIRST_REPOSITORIES
from ecr_catalog_pipeline.housekeeping.job import HOUSEKEEPING, HousekeepingConfig
from ecr_catalog_pipeline.mirroring import GovernanceRead
from ecr_catalog_pipeline.settings import (
    FileTarget,
    GitTarget,
    LoadedMirrors,
    Mirror,
    RiskPolicySettings,
    S3Target,
    load_mirror,
)
from tests.fakes.aws import FakeAws
from tests.fakes.backstage import FakeBackstage
from tests.integration.conftest import Repository
from tests.integration.test_init import GOVERNANCE, TRANSCRIPT
from tests.integration.test_init import PATH as GOVERNANCE_PATH

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
SECONDS: Final = 180
REWRITE: Final = bool(os.environ.get("ECR_CATALOG_WRITE_TRANSCRIPT"))
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "SECURITY.md", "schemas/README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
) + sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("deploy/**/README.md"))

TARGET: Final = "catalog/resources/ecr-registry.yaml"
ENTITY: Final = "goldenpath-ecr-registry"

# What the reader's catalog holds: two files of the sprawl, a Location of both, a Component.
CATALOG: Final = {
    "catalog/all.yaml": "kind: Location\nmetadata: {name: all}\nspec:\n  targets:\n"
    "    - ./components.yaml\n    - ./ecr/payments-gateway.yaml\n"
    "    - ./ecr/payments-archive.yaml\n",
    "catalog/components.yaml": "kind: Component\nmetadata: {name: payments}\nspec:\n"
    "  type: service\n  dependsOn: [resource:payments-archive]\n",
    "catalog/ecr/payments-gateway.yaml": "kind: Resource\nmetadata:\n  name: payments-gateway\n"
    "spec:\n  type: ecr-repository\n  owner: app-team-payments\n  lifecycle: production\n",
    "catalog/ecr/payments-archive.yaml": "kind: Resource\nmetadata:\n  name: payments-archive\n"
    "spec:\n  type: ecr-repository\n  owner: app-team-payments\n",
}


# What a page holds


@dataclass(frozen=True)
class Block:
    """A fenced block; `file` is the one that the line before it names, `notes` its comment."""

    page: str
    line: int
    language: str
    text: str
    notes: Mapping[str, str]
    file: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _command(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command
    return command


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks() -> tuple[Block, ...]:
    return tuple(block for page in PAGES for block in _blocks(page))


def _blocks(page: str) -> Iterator[Block]:
    lines = text_of(page).splitlines()
    place = 0
    while place < len(lines):
        fence = re.fullmatch(r"( *)```(\S*)", lines[place])
        if not fence:
            assert "```" not in lines[place], f"{page}:{place + 1}: an odd fence"
            place += 1
            continue
        indent, end = len(fence[1]), lines.index(f"{fence[1]}```", place + 1)
        content = "".join(line[indent:] + "\n" for line in lines[place + 1 : end])
        before = [line.strip() for line in lines[:place] if line.strip()][-1]
        comment = re.fullmatch(r"<!-- (.*) -->", before)
        notes = dict(each.split(": ", 1) for each in comment[1].split("; ")) if comment else {}
        assert notes.keys() <= {"exit", "world", "mirror"}, f"{page}:{place}: {before}"
        named = re.search(r"`([\w.-]+)`[.:]$", before)
        yield Block(page, place + 1, fence[2], content, notes, named[1] if named else "")
        place = end + 1


def of(language: str, page: str | None = None) -> list[Block]:
    return [each for each in blocks() if each.language == language and page in {None, each.page}]


def prose(page: str) -> str:
    """The page without its blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def rows(page: str, heading: str, columns: int) -> list[list[str]]:
    """The cells of the tables with that many columns below a heading, without their heads."""
    section = re.split(rf"^#+ {re.escape(heading)}$", prose(page), flags=re.MULTILINE)
    assert len(section) == 2, f"{page}: no single heading {heading!r}"
    below = re.split(r"^#+ ", section[1], maxsplit=1, flags=re.MULTILINE)[0]
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in below.splitlines()
        if line.startswith("|")
    ]
    heads = {place - 1 for place, cells in enumerate(found) if set("".join(cells)) <= set("- ")}
    kept = [
        cells for place, cells in enumerate(found) if place not in heads and place - 1 not in heads
    ]
    kept = [cells for cells in kept if len(cells) == columns]
    assert kept, f"{page}: no such table below {heading!r}"
    return kept


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# The reader


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass
class Asked:
    """A program that was asked for and did not run."""

    words: list[str]
    folder: Path


SHIM: Final = """#!/bin/sh
{{ pwd -P; printf '%s\\n' "${{0##*/}}" "$@"; }} > "{asked}/$$"
case "$*" in *"-o json"*) cat "{job}";; *"-f -"*) cat > "{stdin}";; esac
"""
GIT: Final = """#!/bin/sh
case "$1 $2" in
  "clone https://"*) exec ln -s . "$(basename "$2" .git)";;
esac
exec {git} "$@"
"""
REPLACED: Final = (
    *("apprise", "dagster", "dagster-daemon", "dagster-webserver"),
    *("aws", "docker", "helm", "kubectl", "make", "node", "oauth2-proxy", "promtool"),
)
REAL: Final = ("basename", "cat", "cp", "env", "jq", "ln", "mkdir", "openssl", "rm")


class Reader:
    """Somebody who follows a page, in a home of their own."""

    def __init__(self, folder: Path, fake: FakeAws, backstage: FakeBackstage) -> None:
        self.fake, self.backstage = fake, backstage
        self.home = folder / "jo"
        self.checkout = self.home / "mirroring"
        self._state = folder / "state"
        self._asked = folder / "asked"
        self._asked.mkdir()
        self.stdin = folder / "stdin"
        self._make_checkout()
        self.platform = Repository.create(self.home / "platform.git", bare=True)
        self.platform.commit({GOVERNANCE_PATH: GOVERNANCE})
        self.catalog = Repository.create(self.home / "catalog.git", bare=True)
        self.catalog.commit(CATALOG)
        for each in (self.platform, self.catalog):
            each.git("clone", "--quiet", str(each.folder), f"../{each.folder.stem}")
        for name in ("base-images/python", "payments-gateway", "tmp-debug-jo"):
            fake.create(name, datetime(2026, 1, 5, tzinfo=UTC))
        backstage.source = lambda: self.platform.content(TARGET, "governance-registry")
        self.places = {
            "https://backstage.example.com": backstage.url,
            "git@github.com:example/catalog.git": str(self.catalog.folder),
        }
        self.environment = {
            "PATH": str(self.checkout / ".venv" / "bin"),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "AWS_EC2_METADATA_DISABLED": "true",
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{role}_NAME": "Jo" for role in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{role}_EMAIL": "jo@example.com" for role in ("AUTHOR", "COMMITTER")},
            "ECR_CATALOG_CACHE": str(self.home / "cache"),
            "ECR_CATALOG_ALERT_URLS": "json://127.0.0.1:9/",
            "GIT_TOKEN": "a-git-token",
            "BACKSTAGE_TOKEN": "a-backstage-token",
        }
        self._remember(self.checkout, "")

    def _make_checkout(self) -> None:
        programs = self.checkout / ".venv" / "bin"
        programs.mkdir(parents=True)
        (self.checkout / "mirrors").mkdir()
        for path in ROOT.iterdir():
            if path.name not in {".git", ".venv", "mirrors"} and not path.name.startswith("."):
                (self.checkout / path.name).symlink_to(path)
        (self.checkout / "ecr-catalog.yaml").write_text(GOVERNANCE)
        for name in ("ecr-catalog", "check-jsonschema"):
            (programs / name).symlink_to(BIN / name)
        job = self._asked.parent / "job.json"
        template = _manifest("deploy/kubernetes/cronjob.yaml")["spec"]["jobTemplate"]
        job.write_text(
            json.dumps(
                {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "approve"}}
                | template
            )
        )
        shim = SHIM.format(asked=self._asked, job=job, stdin=self.stdin)
        scripts = dict.fromkeys(REPLACED, shim)
        scripts["git"] = GIT.format(git=shutil.which("git"))
        for name in REAL:
            if found := shutil.which(name):
                (programs / name).symlink_to(found)
            else:
                scripts[name] = shim
        for name, script in scripts.items():
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)

    @property
    def mirror_file(self) -> Path:
        return self.checkout / "mirrors" / "goldenpath.yaml"

    def write_mirror(self, **more: Any) -> None:
        """Write the mirror file that the transcript's `init` writes, and more."""
        settings = {
            "governance": {"repository": "../../platform.git", "path": GOVERNANCE_PATH},
            "registry": {
                "region": self.fake.region,
                "account_id": self.fake.account_id,
                "endpoint_url": self.fake.endpoint_url,
            },
            "publish": {"kind": "git", "repository": "../../platform.git"},
        }
        self.mirror_file.write_text(yaml.safe_dump(settings | more))

    def take_up(self, block: Block) -> None:
        """Add what a page says to the mirror file."""
        assert self.mirror_file.stem == block.notes["mirror"]
        text = block.text
        for public, here in self.places.items():
            text = text.replace(public, here)
        self.mirror_file.write_text(self.mirror_file.read_text() + text)
        load_mirror(self.mirror_file)

    def run(self, command: str) -> Done:
        """Run one command in a shell of its own, where and with what the last one ended."""
        folder, exported = self._memory
        after = self._state.with_suffix(".after")
        script = (
            f"{exported}\ncd {shlex.quote(folder)}\nset -o pipefail\n{command}\ncode=$?\n"
            f"{{ pwd -P; export -p; }} > {shlex.quote(str(after))}\nexit $code\n"
        )
        done = subprocess.run(
            [shutil.which("bash") or "bash", "--noprofile", "--norc", "-c", script],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if after.exists():
            where, _, exports = after.read_text().partition("\n")
            self._remember(Path(where), exports)
        self.backstage.reread()  # as its processing loop does, by itself
        return Done(done.returncode, done.stdout, done.stderr)

    def asked(self) -> Iterator[Asked]:
        """Give what was asked of programs that did not run, once."""
        for path in sorted(self._asked.iterdir()):
            folder, *words = path.read_text().splitlines()
            yield Asked(words, Path(folder))
        for path in list(self._asked.iterdir()):
            path.unlink()

    def _remember(self, folder: Path, exported: str) -> None:
        self._memory = str(folder), exported

    # What happens before a block

    def held(self) -> None:
        """AWS loses all that is published."""
        for name in ("base-images/python", "payments-gateway"):
            self.fake.delete(name)
        done = self.run("ecr-catalog plan -m goldenpath --json")
        assert done.code == 3, done.err
        self.environment["PLAN_HASH"] = json.loads(done.out)["plan_hash"]
        self._remember(Path(self._memory[0]), "")

    def merged(self) -> None:
        """Somebody merges the retirement of a repository."""
        self.platform.commit({GOVERNANCE_PATH: GOVERNANCE.replace("active", "deprecated")})


@contextmanager
def a_reader(folder: Path) -> Iterator[Reader]:
    with FakeAws() as fake, FakeBackstage() as backstage:
        reader = Reader(folder, fake, backstage)
        reader.write_mirror()
        yield reader


def _manifest(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def commands(block: Block) -> list[tuple[str, str | None]]:
    """The commands of a block, with the output that a transcript shows of each."""
    found: list[tuple[str, str | None]] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        reported = re.match(r"(?:~/\S+)?\$ ", line) if block.language != "sh" else None
        if block.language == "sh" or reported:
            command = line.removeprefix(reported[0]) if reported else line
            # A pipe that begins the next line belongs to a command, as a backslash does.
            while command.endswith("\\"):
                command = f"{command}\n{next(lines)}"
            if not re.fullmatch(r"\s*(#.*)?", command):
                found.append((command, "" if reported else None))
        else:
            command, output = found[-1]
            found[-1] = command, f"{output}{line}\n"
    return found


def plain(text: str, reader: Reader) -> list[str]:
    """A transcript without what differs from time to time and place to place."""
    text = text.replace(str(reader.home), "/home/jo")
    text = re.sub(r"\b(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{12})\b", "HASH", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?: UTC|Z)", "TIME", text)
    text = re.sub(r"TIME, (?:(?:\d+ (?:d|h|min|s)) ?)+ ago", "TIME, AGE ago", text)
    return [line.rstrip() for line in text.strip().splitlines()]


# What programs are asked for


def judge(reader: Reader, asked: Asked) -> str:
    """Say whether a program that did not run would take its words; gives its name."""
    program, *words = asked.words
    assert program in JUDGES, f"nobody judges {program}"
    JUDGES[program](reader, asked.folder, words)
    return program


def _make(_: Reader, folder: Path, words: list[str]) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _parsed_by(command: click.Command) -> Callable[[Reader, Path, list[str]], None]:
    def judge_words(_: Reader, folder: Path, words: list[str]) -> None:
        before = Path.cwd()
        os.chdir(folder)
        try:
            parse(command, words)
        finally:
            os.chdir(before)

    return judge_words


def parse(command: click.Command, words: Sequence[str]) -> None:
    """Let click read a command line, and run nothing of it."""
    rest = list(words)
    context = None
    while isinstance(command, click.Group) and rest:
        context = command.make_context(command.name, rest, parent=context, resilient_parsing=True)
        _, found, rest = command.resolve_command(context, rest)
        assert found, f"no such command: {words}"
        command = found
    command.make_context(command.name, rest, parent=context).close()


def program(name: str) -> str | None:
    """Find a program that a page calls; CI has it."""
    found = shutil.which(name)
    assert found or not os.environ.get("ECR_CATALOG_REQUIRE_ALL"), f"{name} is not installed"
    return found


def _kubectl(reader: Reader, folder: Path, words: list[str]) -> None:
    verb = " ".join(words[:2])
    if words[0] == "apply":
        assert words[1] == "-k"
        assert (folder / words[2] / "kustomization.yaml").is_file()
        if kubectl := program("kubectl"):
            _runs([kubectl, "kustomize", str((folder / words[2]).resolve())])
    elif verb == "create secret":
        name, *literals = words[3:]
        referred = {
            path
            for path in (ROOT / "deploy").rglob("*.yaml")
            if re.search(rf"(?:[nN]ame: |\[){name}\b", path.read_text())
        }
        assert referred, name
        for each in literals:
            key = each.removeprefix("--from-literal=").partition("=")[0]
            assert any(key in path.read_text() for path in referred), key
        if kubectl := program("kubectl"):
            _runs([kubectl, *words, "--dry-run=client", "-o", "name"])
    elif verb == "create configmap":
        name, source = words[2:]
        assert (
            f"name: {name}" in (ROOT / "deploy/kubernetes/helm/values-user-code.yaml").read_text()
        )
        assert (folder / source.removeprefix("--from-file=")).is_dir()
    elif verb == "create job":
        name = words[2].removeprefix("--from=cronjob/")
        assert name == _manifest("deploy/kubernetes/cronjob.yaml")["metadata"]["name"]
    elif verb == "create -f":
        if not shutil.which("jq"):
            return
        job = json.loads(reader.stdin.read_text())
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["sync", "-m", "goldenpath", "--approve", "PLAN_HASH"]
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    else:
        assert words[0] == "port-forward"
        deployment = _manifest("deploy/kubernetes/dagster/deployment.yaml")
        assert words[1:] == [f"deployment/{deployment['metadata']['name']}", "3000"]


def _runs(command: Sequence[str]) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": os.devnull}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr


# Files of a Backstage that somebody has already.
THEIRS: Final = {"packages/backend", "app-config.yaml", "app-config.production.yaml"}


def _of_backstage(_: Reader, folder: Path, words: list[str]) -> None:  # noqa: ARG001 - one shape
    named = [word for word in words if word.endswith(".yaml") or "packages" in word]
    for name in named:
        assert name in THEIRS or (ROOT / "deploy" / "backstage" / name).is_file(), name


def _helm(reader: Reader, folder: Path, words: list[str]) -> None:
    if "dagster-io/dagster" not in words:
        _of_backstage(reader, folder, words)
        return
    for word in words:
        if word.endswith(".yaml"):
            assert word == "your-values.yaml" or (folder / word).is_file(), word


def _aws(_: Reader, folder: Path, words: list[str]) -> None:
    """Hold options against the API's own model."""
    service, command, *rest = words
    client: Any = boto3.client(service, region_name="eu-west-2")  # type: ignore[call-overload] # any
    operation = "".join(part.capitalize() for part in command.split("-"))
    members = client.meta.service_model.operation_model(operation).input_shape.members
    known = {"cli-input-json", *(xform_name(name, "-") for name in members)}
    for word in rest:
        assert not word.startswith("--") or word.removeprefix("--") in known, word
        if word.startswith("file://"):
            assert (folder / word.removeprefix("file://")).is_file(), word


def _docker(_: Reader, folder: Path, words: list[str]) -> None:
    assert words[0] == "build"
    assert (folder / words[-1] / "Dockerfile").is_file()


def _proxy(_: Reader, folder: Path, words: list[str]) -> None:
    assert words[0] == "--config"
    assert tomllib.loads((folder / words[1]).read_text())["provider"]


def _promtool(_: Reader, folder: Path, words: list[str]) -> None:
    assert (folder / words[-1]).is_file()
    if promtool := program("promtool"):
        _runs([promtool, *words[:-1], str((folder / words[-1]).resolve())])


def _filter(_: Reader, folder: Path, words: list[str]) -> None: ...


JUDGES: Final[Mapping[str, Callable[[Reader, Path, list[str]], None]]] = {
    "apprise": _parsed_by(apprise.cli.main),
    "dagster": _parsed_by(create_dagster_cli()),  # type: ignore[no-untyped-call] # Dagster's own
    "dagster-daemon": _parsed_by(create_dagster_daemon_cli()),
    "dagster-webserver": _parsed_by(create_dagster_webserver_cli()),  # type: ignore[no-untyped-call] # Dagster's own
    "aws": _aws,
    "docker": _docker,
    "helm": _helm,
    "jq": _filter,
    "kubectl": _kubectl,
    "make": _make,
    "node": _of_backstage,
    "oauth2-proxy": _proxy,
    "openssl": _filter,
    "promtool": _promtool,
}


# Commands


def _published(reader: Reader) -> None:
    reader.write_mirror(backstage={"url": reader.backstage.url, "token_env": "BACKSTAGE_TOKEN"})
    assert reader.run("ecr-catalog sync -m goldenpath").code == 0


def _approved_and_rolled_back(reader: Reader) -> None:
    entity = yaml.safe_load(reader.platform.content(TARGET, "governance-registry") or b"")
    assert entity["spec"]["repositories"] == []
    assert reader.platform.content(GOVERNANCE_PATH) == GOVERNANCE.encode()


def _retired(reader: Reader) -> None:
    def gone(repository: Repository, branch: str) -> bool:
        return repository.content("catalog/ecr/payments-gateway.yaml", branch) is None

    assert gone(reader.catalog, "retire-ecr-files")
    assert not gone(reader.catalog, "main")


BEFORE: Final = {"docs/operating.md": _published}
AFTER: Final = {"docs/operating.md": _approved_and_rolled_back, "docs/adopting.md": _retired}
# Transcripts of the demo, which has a test of its own here or in tests/e2e.
OF_THE_DEMO: Final = (" demo watch", " -m demo")

runnable = [
    page
    for page in PAGES
    if any(block.page == page and block.language in {"sh", "console"} for block in blocks())
]


@pytest.mark.parametrize("page", runnable)
def test_every_command_of_a_page_does_what_the_page_says(page: str, tmp_path: Path) -> None:
    with a_reader(tmp_path) as reader:
        BEFORE.get(page, lambda _: None)(reader)
        for block in blocks():
            if block.page != page:
                continue
            if "world" in block.notes:
                getattr(reader, block.notes["world"])()
            if "mirror" in block.notes:
                reader.take_up(block)
            if block.file and block.language not in {"sh", "console"}:
                (reader.checkout / block.file).write_text(block.text)
            if block.language in {"sh", "console"} and block.text != TRANSCRIPT.read_text():
                _run_block(reader, block)
        AFTER.get(page, lambda _: None)(reader)


def _run_block(reader: Reader, block: Block) -> None:
    asked_for = commands(block)
    assert asked_for, str(block)
    written = ""
    for place, (command, shown) in enumerate(asked_for, 1):
        code = int(block.notes.get("exit", 0)) if place == len(asked_for) else 0
        done = reader.run(command)
        reported = f"{block}: {command}\n{done.out}\n{done.err}"
        assert done.code == code, reported
        assert "Traceback" not in done.err, reported
        judged = [judge(reader, each) for each in reader.asked()]
        assert set(REPLACED) & set(judged) == set(REPLACED) & set(command.split()), reported
        written += f"$ {command}\n{done.out.replace(str(reader.home), '/home/jo')}"
        if shown is not None and not REWRITE:
            assert plain(done.out, reader) == plain(shown, reader), reported
    if REWRITE and block.language == "console":
        text = text_of(block.page)
        (ROOT / block.page).write_text(
            text.replace(f"```console\n{block.text}", f"```console\n{written}")
        )


def test_a_transcript_that_is_shown_is_the_tested_one() -> None:
    shown = [block for block in of("console") if "ecr-catalog init" in block.text]
    assert [block.text for block in shown] == [TRANSCRIPT.read_text()]


def test_the_plan_of_the_readme_is_one_of_the_demo(tmp_path: Path) -> None:
    (block,) = [each for each in of("") if "plan -m demo" in each.text]
    template = (ROOT / "ecr_catalog_pipeline" / "demo" / "ecr-catalog.yaml").read_text()
    then = re.sub(r"(legacy-cart:.*\n.*status: )deprecated", r"\1active", template)
    assert then != template
    voucher = "  shop/vouchers:\n    metadata: {owner: app-team-shop, risk: low, status: pending}\n"
    with a_reader(tmp_path) as reader:
        governance = Repository.create(reader.checkout / ".demo" / "governance")
        Repository.create(reader.checkout / ".demo" / "catalog", bare=True)
        mirror = (ROOT / "mirrors" / "demo.yaml").read_text()
        (reader.checkout / "mirrors" / "demo.yaml").write_text(
            mirror.replace("http://127.0.0.1:5055", reader.fake.endpoint_url)
        )
        reader.fake.delete("payments-gateway")
        for name in FIRST_REPOSITORIES.keys() - {"base-images/python", "tmp-debug-jo"}:
            reader.fake.create(name)
        for each in CREATION_TEMPLATES:
            reader.fake.template(str(each["prefix"]), *each["appliedFor"])
        governance.commit({GOVERNANCE_PATH: then})
        assert reader.run("ecr-catalog sync -m demo").code == 0
        governance.commit({GOVERNANCE_PATH: template + voucher})
        reader.fake.create("shop/vouchers")
        reader.fake.delete("shop/search")
        done = reader.run("ecr-catalog plan -m demo")
        reported = [" ".join(line.split()) for line in plain(done.out, reader)]
        reported = [line.replace("/home/jo/mirroring/", "") for line in reported]
        ((_, shown),) = commands(block)
        assert shown
        wanted = [" ".join(line.split()) for line in plain(shown, reader)]

    assert done.code == 2, done.err
    for line in wanted:
        if line.endswith("..."):
            assert [each for each in reported if each.startswith(line.removesuffix("..."))], line
        else:
            assert line in reported, done.out


def test_what_else_the_readme_shows_of_the_demo_is_what_the_demo_says() -> None:
    shown = [block for block in of("") if "plan -m demo" not in block.text]
    sources = (ROOT / "ecr_catalog_pipeline" / "demo").glob("*.py")
    said = "\n".join(path.read_text() for path in sources)
    said += (ROOT / "ecr_catalog_pipeline" / "adapters" / "publish_git.py").read_text()
    assets = {key.path[-1] for key in whole_mirror().resolve_asset_graph().get_all_asset_keys()}
    for block in shown:
        if "─▶" in block.text:
            assert set(re.findall(r"[a-z]+_[a-z]+", block.text)) <= assets
            continue
        lines = [line for line in block.text.splitlines() if line and line != "..."]
        for line in lines:
            if line.startswith("$ "):
                parse(cli, shlex.split(line)[2:])
                continue
            words = re.sub(r"^ *[0-9.]+ s  ", "", line)
            start = re.split(r"  +|\.\.\.|: | to | at | created", words)[0]
            assert start in said or start == "edge-cache", line


# Configuration


def whole_mirror() -> dg.Definitions:
    """The definitions of a mirror that has every block."""
    (full,) = list(of("yaml", "README.md"))
    settings = yaml.safe_load(full.text) | {
        "backstage": {"url": "https://backstage.example.com"},
        "sprawl": {"repository": "git@github.com:example/catalog.git"},
        "health": {"path": "HEALTH.md"},
        "notify": {"backstage": True},
    }
    mirror = load_mirror(Path("mirrors/goldenpath.yaml"), yaml.safe_dump(settings))
    loaded = LoadedMirrors({mirror.name: mirror}, {})
    return build_definitions(loaded, environ={"ECR_CATALOG_CACHE": "/nonexistent"})


def _as_mirror(block: Block, _: Path) -> None:
    least = yaml.safe_load(of("yaml", "docs/configuring.md")[0].text)
    value = yaml.safe_load(block.text)
    whole = laid_over(least, value)
    for settings in (whole, *([value] if {"governance", "registry"} <= value.keys() else [])):
        load_mirror(Path("mirrors/goldenpath.yaml"), yaml.safe_dump(settings))
    schema = json.loads((ROOT / "schemas" / "mirror.schema.json").read_text())
    validators.validator_for(schema)(schema).validate(whole)


def _as_governance(block: Block, _: Path) -> None:
    assert parse_governance(block.text.encode()).findings == ()
    schema = governance_schema(strict=True)
    validators.validator_for(schema)(schema).validate(yaml.safe_load(block.text))


def _as_pre_commit(block: Block, _: Path) -> None:
    ours = {hook["id"]: hook for hook in _manifest(".pre-commit-hooks.yaml")}
    for repository in yaml.safe_load(block.text)["repos"]:
        assert repository["rev"]
        for hook in repository["hooks"]:
            program, *words = ours[hook["id"]]["entry"].split()
            assert program == "ecr-catalog"
            parse(cli, [*words, *hook["args"], "a.yaml"])


def _as_workflow(block: Block, _: Path) -> None:
    # YAML 1.1 reads the key `on` as true; GitHub does not.
    value = yaml.load(block.text, yaml.BaseLoader)
    vendored = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((vendored / "github-workflows.json").read_text())
    validators.validator_for(schema)(schema).validate(value)
    for job in value["jobs"].values():
        file = ROOT / "deploy" / "github-actions" / Path(job["uses"]).name
        called = yaml.load(file.read_text(), yaml.BaseLoader)
        assert job["with"].keys() <= called["on"]["workflow_call"]["inputs"].keys()


def _as_gitlab_job(block: Block, _: Path) -> None:
    vendored = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((vendored / "gitlab-ci.json").read_text())
    validators.validator_for(schema)(schema).validate(yaml.safe_load(block.text))


def _as_instance(block: Block, folder: Path) -> None:
    (folder / "dagster.yaml").write_text(block.text)
    reference = InstanceRef.from_dir(str(folder))
    written = yaml.safe_load(block.text)
    if "storage" in written:
        assert reference.storage_data
        assert reference.storage_data.class_name == "DagsterPostgresStorage"
        return
    with dg.DagsterInstance.from_ref(reference) as instance:
        assert instance.run_monitoring_enabled
        assert instance.get_concurrency_config().pool_config.pool_granularity
        queue = instance.run_coordinator
        assert isinstance(queue, QueuedRunCoordinator)
        assert queue.dequeue_interval_seconds == written["run_queue"]["dequeue_interval_seconds"]
    # What the page says is what the project's own file says.
    ours = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for key, value in written.items():
        assert value == {name: ours[key][name] for name in value}, key


def _as_run_config(block: Block, _: Path) -> None:
    job = whole_mirror().resolve_job_def(HOUSEKEEPING)
    config = yaml.safe_load(block.text)
    assert dg.validate_run_config(job, config)
    (op,) = config["ops"].values()
    assert op["config"].keys() == HousekeepingConfig.model_fields.keys()


def _as_prometheus(block: Block, folder: Path) -> None:
    value = yaml.safe_load(block.text)
    (rules,) = value["rule_files"]
    assert (ROOT / "deploy" / "monitoring" / Path(rules).name).is_file()
    (job,) = value["scrape_configs"]
    (listen,) = [each for each in _command("metrics").params if each.name == "listen"]
    assert job["static_configs"] == [{"targets": [listen.default]}]
    if promtool := program("promtool"):
        (folder / "prometheus.yml").write_text(block.text)
        _runs([promtool, "check", "config", "--syntax-only", str(folder / "prometheus.yml")])


def _as_nothing(block: Block, _: Path) -> None:
    assert "$schema=" in block.text


KINDS: Final[Sequence[tuple[set[str], Callable[[Block, Path], None]]]] = (
    ({"repositories"}, _as_governance),
    ({"repos"}, _as_pre_commit),
    ({"jobs"}, _as_workflow),
    ({"ecr-catalog-plan"}, _as_gitlab_job),
    (set(Mirror.model_fields), _as_mirror),
    ({"storage", "concurrency", "run_queue", "run_monitoring"}, _as_instance),
    ({"ops"}, _as_run_config),
    ({"scrape_configs"}, _as_prometheus),
)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_every_yaml_is_loaded_by_what_reads_it(block: Block, tmp_path: Path) -> None:
    for schema in re.findall(r"\$schema=(\S+)", block.text):
        assert (ROOT / "schemas" / Path(schema).name).is_file()
    value = yaml.safe_load(block.text) or {}
    kinds = [reads for keys, reads in KINDS if keys & value.keys()]
    assert kinds or "$schema=" in block.text, f"{block}: nothing known reads this"
    (kinds[0] if kinds else _as_nothing)(block, tmp_path)


def test_the_postgresql_that_is_documented_is_reached_by_the_driver_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (exported,) = [
        block.text for block in of("sh", "docs/configuring.md") if "POSTGRES_URL" in block.text
    ]
    url = shlex.split(exported)[1].partition("=")[2]
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "a-password")
    configured = [block for block in of("yaml", "docs/configuring.md") if "storage:" in block.text]
    assert len(configured) == 2
    for block in configured:
        (tmp_path / "dagster.yaml").write_text(block.text)
        data = InstanceRef.from_dir(str(tmp_path)).storage_data
        assert data
        known = resolve_to_config_type(DagsterPostgresStorage.config_type())
        read = process_config(known, data.config_dict)
        assert read.value, read.errors
        assert create_engine(pg_url_from_config(read.value)).driver == "psycopg2"
    # With the SQLAlchemy of the extra `postgres`, as Dagster's Helm chart writes it.
    assert create_engine(url.replace("+psycopg2", "")).driver == "psycopg2"


def test_the_extension_that_is_shown_loads_beside_our_assets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    least = yaml.safe_load(of("yaml", "docs/configuring.md")[0].text)
    (tmp_path / "goldenpath.yaml").write_text(yaml.safe_dump(least))
    monkeypatch.setenv("ECR_CATALOG_MIRRORS", str(tmp_path))
    (block,) = of("python")
    loaded: dict[str, Any] = {"__name__": "extension"}
    exec(block.text, loaded)
    dg.Definitions.validate_loadable(loaded["defs"])
    checks = loaded["defs"].resolve_asset_graph().asset_check_keys
    assert "owners_are_teams" in {key.name for key in checks}
    governance = parse_governance(
        b"repositories: {a: {metadata: {owner: jo}}, b: {metadata: {owner: team-b}}}"
    )
    read = GovernanceRead(governance, "", "", "", datetime.now(UTC), datetime.now(UTC))
    assert [each.repository for each in loaded["owner_findings"](read)] == ["a"]


# The other languages


# No parser of mermaid is at hand: the diagram keeps to arrows between nodes.
NODE: Final = r"[a-z_]+(?:\[\([^()\[\]{}|\"]+\)\]|\{[^{}()\[\]|\"]+\}|\(\[[^()\[\]{}|\"]+\]\))?"


def test_the_diagram_is_of_elementary_syntax_and_of_our_assets() -> None:
    (block,) = of("mermaid")
    head, *lines = block.text.splitlines()
    assert head == "flowchart LR"
    for line in lines:
        assert re.fullmatch(rf"  {NODE} -->(?:\|[^|\[\](){{}}\"]+\|)? {NODE}", line), line
    nodes = set(re.findall(r"(?:^  |[>|] )([a-z_]+)", block.text, re.MULTILINE))
    assert not nodes & {"end", "graph", "subgraph", "style", "class", "click"}
    assets = {key.path[-1] for key in whole_mirror().resolve_asset_graph().get_all_asset_keys()}
    assert {node for node in nodes if "_" in node} <= assets
    assert {"governance_catalog", "published_entity", "backstage_parity"} <= nodes


def test_the_proxies_stand_before_the_web_servers() -> None:
    commands_shown = "".join(block.text for block in of("sh", "SECURITY.md"))
    served = set(re.findall(r"dagster-webserver .*--port (\d+)", commands_shown))
    (proxy,) = [tomllib.loads(block.text) for block in of("toml")]
    (upstream,) = proxy["upstreams"]
    assert re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", upstream)[1] in served  # type: ignore[index] # asserted
    behind = served | {proxy["http_address"].rpartition(":")[2], "4180"}
    assert "port\n4180" in text_of("SECURITY.md")
    for block in of("caddyfile"):
        depth = 0
        for line in block.text.splitlines():
            depth += line.endswith(" {") - (line.strip() == "}")
            assert depth >= 0
        assert depth == 0
        ports = re.findall(r"^\treverse_proxy 127\.0\.0\.1:(\d+)$", block.text, re.MULTILINE)
        assert ports
        assert set(ports) <= behind


def test_the_markers_that_are_shown_are_those_that_are_looked_for() -> None:
    (block,) = of("markdown")
    assert tuple(block.text.splitlines()) == markers("goldenpath")


def test_the_lines_for_somebodys_backstage_are_those_of_the_app_and_of_a_test() -> None:
    plugins = ROOT / "backstage" / "plugins"
    sources = (plugins / "app/src/index.tsx", plugins / "ecr-catalog/src/legacyApp.test.tsx")
    tested = {line.strip() for source in sources for line in source.read_text().splitlines()}
    shown = {line for block in of("tsx") for line in block.text.splitlines() if line}
    assert len(shown) == 5
    assert shown <= tested


def test_no_block_is_of_a_language_that_nobody_tests() -> None:
    tested = {
        "",
        "caddyfile",
        "console",
        "markdown",
        "mermaid",
        "python",
        "sh",
        "toml",
        "tsx",
        "yaml",
    }
    assert {block.language for block in blocks()} <= {"", *tested}
    assert {block.page for block in of("")} == {"README.md"}


# Tables


def keys_of(model: type[BaseModel], prefix: str) -> dict[str, str]:
    """Give the default of every key, as a document writes it."""
    found: dict[str, str] = {}
    for name, info in model.model_fields.items():
        if info.default is PydanticUndefined:
            default = "required"
        elif isinstance(info.default, BaseModel):
            found |= keys_of(type(info.default), f"{prefix}{name}.")
            continue
        elif info.default in (None, ()):
            default = "none"
        elif isinstance(info.default, bool):
            default = str(info.default).lower()
        else:
            default = f"{info.default:g}" if isinstance(info.default, float) else info.default
        found[f"{prefix}{name}"] = str(default)
    return found


# Defaults that the models leave to what computes them.
COMPUTED: Final = {
    "entity.name": "the mirror's name and `-ecr-registry`",
    "entity.title": "from the mirror's name",
    "sprawl.paths": "the whole repository",
    "health.env": "the mirror's name",
    "publish.endpoint_url": "that of the registry",
}


def test_every_key_of_a_mirror_file_is_documented_with_its_default() -> None:
    page = "docs/configuring.md"
    models = {
        name: next(
            each
            for each in [info.annotation, *getattr(info.annotation, "__args__", ())]
            if isinstance(each, type)
        )
        for name, info in Mirror.model_fields.items()
        if name not in {"name", "publish"}
    }
    general: dict[str, str] = {"name": "the file's stem"}
    for name, model in models.items():
        assert issubclass(model, BaseModel)
        general |= keys_of(model, f"{name}.")
    sections = {
        "The mirror file": general,
        **{
            f"publish, kind: {kind}": keys_of(model, "publish.")
            for kind, model in (("git", GitTarget), ("s3", S3Target), ("file", FileTarget))
        },
    }
    for heading, expected in sections.items():
        shown = {codes(key)[0]: default for key, _, default in rows(page, heading, 3)}
        assert shown.keys() == expected.keys(), heading
        for key, default in expected.items():
            if key in COMPUTED:
                assert (default, shown[key]) == ("none", COMPUTED[key])
            else:
                assert shown[key].strip("`") == default, key


def test_every_key_of_the_governance_file_is_documented() -> None:
    section = "The governance file"
    root = [code for key, _ in rows("docs/configuring.md", section, 2) for code in codes(key)]
    entry = {f"{name}.{key}" for name, section in SECTIONS.items() for key in section.keys}
    assert set(root) == entry | ROOT_KEYS.keys()
    assert len(root) == len(set(root))


def test_every_key_of_policy_and_exceptions_is_documented() -> None:
    page = "docs/policy.md"
    keys = [codes(cells[0])[0] for cells in rows(page, "Policy by risk", 2)]
    assert keys == list(RiskPolicySettings.model_fields)
    of_exceptions = [codes(cells[0])[0] for cells in rows(page, "Exceptions", 2)]
    assert of_exceptions == list(EXCEPTION.keys)


def test_every_action_of_aws_is_documented() -> None:
    heading = "What is read, and what happens when it cannot be"
    reported = [code for cells in rows("docs/policy.md", heading, 3) for code in codes(cells[0])]
    assert set(reported) == set(Setting)


def read_variables() -> set[str]:
    """The variables that the code reads from an environment, by their names."""
    trees = [
        ast.parse(path.read_text())
        for folder in ("ecr_catalog_pipeline", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    ]
    constants = {
        ast.unparse(node.target): node.value.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant)
    }
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                place, key = node.func.value, node.args[0] if node.args else None
                asks = node.func.attr in {"get", "pop", "setdefault"}
            elif isinstance(node, ast.Subscript):
                place, key, asks = node.value, node.slice, True
            else:
                continue
            if asks and key is not None and ast.unparse(place).endswith("environ"):
                found |= _named(key, constants)
    return found


def _named(key: ast.expr, constants: Mapping[str, Any]) -> set[str]:
    if isinstance(key, ast.Constant):
        return {str(key.value)}
    written = ast.unparse(key)
    if isinstance(key, ast.JoinedStr):
        return {eval(written, {"role": role}) for role in ("AUTHOR", "COMMITTER")}
    if written in constants:
        return {constants[written]}
    # The variable that a mirror file names.
    assert written in {"self._token_env", "settings.token_env", "variable"}, written
    return set()


def test_every_variable_that_the_code_reads_is_documented_and_no_other() -> None:
    shown = [
        name for key, _, _ in rows("docs/configuring.md", "Environment", 3) for name in codes(key)
    ]
    assert set(shown) == read_variables()
    assert len(shown) == len(set(shown))


def test_the_variables_of_what_is_deployed_are_documented() -> None:
    workflows = "".join(
        path.read_text() for path in (ROOT / "deploy/github-actions").glob("*.yaml")
    )
    asked_for = set(re.findall(r"(?:vars|secrets)\.([A-Z_]+)", workflows))
    page = "deploy/github-actions/README.md"
    tables = [rows(page, heading, 2) for heading in ("`sync.yaml`", "`plan.yaml`")]
    assert {name for table in tables for key, _ in table for name in codes(key)} == asked_for

    fragments = "".join(path.read_text() for path in (ROOT / "deploy/backstage").glob("*.yaml"))
    asked_for = set(re.findall(r"\$\{(ECR_CATALOG_[A-Z_]+|BACKSTAGE_TOKEN)\}", fragments))
    page = "deploy/backstage/README.md"
    shown = {name for key, _, _ in rows(page, "The variables", 3) for name in codes(key)}
    assert shown == asked_for


def test_every_alert_and_every_check_has_its_row_in_the_runbook() -> None:
    page = "docs/operating.md"
    shown = [alert for alert, _, _ in rows(page, "Alerts", 3)]
    assert sorted(shown) == sorted(signal.replace("-", " ") for signal in Signal)

    graph = whole_mirror().resolve_asset_graph()
    expected = {(key.name, key.asset_key.path[-1]) for key in graph.asset_check_keys}
    listed = [
        (codes(check)[0], codes(of_asset)[0]) for check, of_asset, _, _ in rows(page, "Checks", 4)
    ]
    # The checks of files that are no mirror's have names of their own.
    refused = {(SETTINGS_VALID, f"{GROUP}/...")}
    assert sorted(listed) == sorted(expected | refused)


@pytest.mark.parametrize("signal", Signal)
def test_every_alert_names_a_section_that_helps(signal: Signal) -> None:
    condition = Condition(signal, datetime.now(UTC), "it broke", "Repair it.")
    page, _, anchor = Alert("goldenpath", condition, None, "none").help_page.partition("#")

    assert page in PAGES
    assert anchor in anchors(ROOT / page)


def test_the_runbook_says_what_housekeeping_keeps() -> None:
    reported = rows("docs/operating.md", "Where the history is", 3)
    fields = HousekeepingConfig.model_fields
    kept = {codes(key)[0]: stays for _, stays, key in reported}
    assert kept.keys() == fields.keys()
    assert kept["keep_days"] == f"{fields['keep_days'].default} days"
    assert kept["keep_details_hours"] == f"{fields['keep_details_hours'].default} hour"
    (schedule,) = [
        each for each in whole_mirror().schedules or () if each.name == f"{HOUSEKEEPING}_hourly"
    ]
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.cron_schedule == "41 * * * *"
    assert "every hour, at :41" in text_of("docs/operating.md")


def test_the_readme_lists_every_command_and_every_place() -> None:
    listed = [codes(command)[0] for command, _, _ in rows("README.md", "Commands", 3)]
    names = {words.split()[1] for words in listed if words.startswith("ecr-catalog ")}
    assert names == set(COMMANDS)
    places = [codes(place)[0] for place, _ in rows("README.md", "Where things are", 2)]
    for place in places:
        assert (ROOT / place).exists(), place
    tops = {place.split("/")[0] for place in places}
    folders = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    visible = {path.split("/")[0] for path in folders if "/" in path and path[0] != "."}
    assert visible <= tops


def test_every_command_states_in_its_help_the_exit_codes_of_the_readme() -> None:
    listed = {
        codes(command)[0].split()[1]: set(re.findall(r"\b\d\b", meaning))
        for command, _, meaning in rows("README.md", "Commands", 3)
        if codes(command)[0].startswith("ecr-catalog ")
    }
    stated = {
        name: set(re.findall(r"\b\d\b", (command.help or "").partition("Exit code")[2]))
        for name, command in ((each, _command(each)) for each in COMMANDS)
    }

    assert stated == listed


# Words in the text


def inline() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for code in codes(prose(page).replace("\n", " ")):
            yield page, code.removeprefix(".venv/bin/")


def test_every_command_in_the_text_is_one() -> None:
    seen = 0
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, code in inline():
        program, *words = code.split()[:1] + re.sub(r"\[--?[^]]*\]", "", code).split()[1:]
        where = f"{page}: {code}"
        if program == "ecr-catalog" and words and words[0].isalpha():
            seen += 1
            filled = [{"PATH...": "a", "PATH": "."}.get(word, word.strip("[]")) for word in words]
            assert words[0] in COMMANDS, where
            if len(words) > 1 and "COMMAND" not in words:
                parse(cli, ["goldenpath" if word == "NAME" else word for word in filled])
        elif program == "make":
            seen += 1
            assert set(words) <= targets, where
        elif code.startswith(("python -m benchmarks", "demo ")):
            seen += 1
            if program == "python":
                assert (ROOT / f"{words[1].replace('.', '/')}.py").is_file(), where
            else:
                parse(cli, [program, *words])
    assert seen > 20


def test_every_link_leads_somewhere() -> None:
    seen = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if target.startswith(("http://", "https://")):
                continue
            seen += 1
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.exists(), f"{page}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page}: {target}"
    assert seen > 25


def anchors(file: Path) -> set[str]:
    headings = (
        re.findall(r"^#+ (.+)$", prose(file.relative_to(ROOT).as_posix()), re.MULTILINE)
        if file.is_relative_to(ROOT)
        else []
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page)):
            file = ((ROOT / page).parent / target).resolve()
            if file.suffix == ".md" and file.exists():
                waiting.append(file.relative_to(ROOT).as_posix())
            elif (file / "README.md").exists():
                waiting.append((file / "README.md").relative_to(ROOT).as_posix())
    assert set(PAGES) <= reached
