"""The command `ecr-catalog` as a user and a pipeline meet it: words, streams, exit codes.

Most of it runs in this process. What depends on a process of its own starts one: terminals,
signals, pipes, what is left behind, and that the installed command is this one.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest

from tests.fakes.aws import Fault
from tests.integration.commands import InProcess
from tests.integration.worlds import FileTarget, GitTarget, World, a_world

COMMAND: Final = Path(sys.executable).with_name("ecr-catalog")
FIVE: Final = tuple(f"team/app-{number}" for number in range(5))

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Shell:
    """A shell in an empty folder, of a user whose home is empty, too."""

    environment: Mapping[str, str]
    folder: Path = field(kw_only=True)
    in_process: InProcess = field(kw_only=True)

    def __call__(self, *arguments: str, **more: str) -> Done:
        return self.in_process(
            *arguments, folder=self.folder, environment={**self.environment, **more}
        )

    def start(self, *arguments: str) -> Done:
        """Run the installed command in a process of its own."""
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def on_a_terminal(
        self, *arguments: str, stream: str = "stdout", **more: str
    ) -> tuple[str, str]:
        """Run a command with one of its streams on a terminal.

        Returns:
            What it wrote there, and what it wrote to the other stream.
        """
        ours, theirs = pty.openpty()
        other = "stderr" if stream == "stdout" else "stdout"
        with subprocess.Popen(
            [COMMAND, *arguments],
            cwd=self.folder,
            env={**self.environment, "TERM": "xterm-256color", **more},
            stdin=subprocess.DEVNULL,
            text=True,
            **{stream: theirs, other: subprocess.PIPE},  # type: ignore[call-overload]
        ) as process:
            os.close(theirs)
            shown = b""
            # A terminal that nobody writes to any more reads as an error.
            try:
                while read := os.read(ours, 65_536):
                    shown += read
            except OSError:
                pass
            pipe = process.stdout or process.stderr
            assert pipe is not None
            said = pipe.read()
        os.close(ours)
        return shown.decode(), said


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        yield world


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    return InProcess(monkeypatch, capfd)


@pytest.fixture
def shell(world: World, tmp_path: Path, in_process: InProcess) -> Shell:
    return shell_in(world, tmp_path, in_process)


def shell_in(world: World, tmp_path: Path, in_process: InProcess) -> Shell:
    folder, scratch = tmp_path / "here", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    environment = {**world.environ(tmp_path / "user"), "TMPDIR": str(scratch)}
    return Shell(environment, folder=folder, in_process=in_process)


def test_whatever_fails_plan_verify_and_sync_say_what_stays_published(
    world: World, shell: Shell
) -> None:
    world.have(*FIVE)
    world.sync()
    kept = re.compile(
        r"^Last good, as it was: 5 live and 0 pending, content of "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, \d+ (s|min|min \d+ s) ago\.$",
        re.MULTILINE,
    )

    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    for command in ("plan", "verify", "sync"):
        done = shell(command, "-m", world.name)
        assert_an_error(done, "ecr:DescribeRepositories failed with AccessDenied")
        assert kept.search(done.stderr), done.stderr

    world.fake.clear()
    world.commit("repositories: [")
    done = shell("plan", "-m", world.name, "--json")
    assert_an_error(done, "ecr-catalog.yaml:")
    assert kept.search(done.stderr), done.stderr


def test_a_plan_says_what_is_published_now_and_a_held_one_that_it_stays(
    world: World, shell: Shell
) -> None:
    world.have(*FIVE)
    assert "Published now: nothing is published yet" in shell("plan", "-m", world.name).stdout
    world.sync()
    for name in FIVE:
        world.fake.delete(name)

    held = shell("plan", "-m", world.name)
    verified = shell("verify", "-m", world.name, "--json")

    assert "Published now: 5 live and 0 pending, content of " in held.stdout
    assert "Until then the last good stays: 5 live and 0 pending, content of " in held.stdout
    assert "the last good stays: 5 live" in json.loads(verified.stdout)["reason"]


def assert_an_error(done: Done, *words: str) -> None:
    """One sentence on stderr, nothing on stdout, no traceback, exit code 1."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.startswith("Error: "), done.stderr
    assert "Traceback" not in done.stderr
    assert "defect of ours" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def drift(world: World) -> None:
    """Publish five repositories, and then let everything happen that can."""
    world.have(*FIVE)
    world.sync()
    world.have("team/new")
    world.govern(FIVE[1], status="deprecated")
    world.fake.delete(FIVE[2])
    world.govern(FIVE[3], status="decommissioned")
    world.govern("retired/app", status="decommissioned")
    world.govern("wanted", status="pending", environment="dev")
    world.govern("messy", status="activ", risk="extreme", owner="app-team-mess")
    world.fake.create("messy")
    world.fake.create("toolbox")


# plan


def test_plan_prints_the_contract_as_one_json_object(world: World, shell: Shell) -> None:
    drift(world)
    before = world.content, world.target.history()

    done = shell.start("plan", "-m", world.name, "--json")

    assert done.returncode == 2
    assert done.stderr == ""
    plan = json.loads(done.stdout)

    def row(name: str, state: str, status: str | None, **more: str | None) -> dict[str, Any]:
        present = state in {"live", "orphan", "lingering"}
        account, region = world.fake.account_id, world.fake.region
        return {
            "name": name,
            "state": state,
            "owner": "platform-team",
            "risk": "low",
            "environment": None,
            "status": status,
            "uri": f"{account}.dkr.ecr.{region}.amazonaws.com/{name}" if present else None,
            "origin": None,
            "exception": None,
            **more,
        }

    plan_hash, findings = plan.pop("plan_hash"), plan.pop("findings")
    assert re.fullmatch("[0-9a-f]{64}", plan_hash)
    assert plan == {
        "mirror": "goldenpath",
        "source_sha": world.governance.git("rev-parse", "HEAD"),
        "held": False,
        "counts": {
            "live": 5,
            "pending": 1,
            "ghost": 1,
            "orphan": 1,
            "lingering": 1,
            "retired": 1,
        },
        "repositories": [
            row("messy", "live", None, owner="app-team-mess", risk=None),
            row("retired/app", "retired", "decommissioned"),
            row(FIVE[0], "live", "active"),
            row(FIVE[1], "live", "deprecated"),
            row(FIVE[2], "ghost", "active"),
            row(FIVE[3], "lingering", "decommissioned"),
            row(FIVE[4], "live", "active"),
            row("team/new", "live", "active"),
            row("toolbox", "orphan", None, owner=None, risk=None, origin="unknown"),
            row("wanted", "pending", "pending", environment="dev"),
        ],
        "changes": {
            "added": ["messy", "team/new"],
            "removed": [FIVE[2], FIVE[3]],
            "updated": [FIVE[1]],
        },
        "excepted": [],
    }
    assert {(each["repository"], each["rule"]) for each in findings} == {
        ("messy", "status-unknown"),
        ("messy", "risk-unknown"),
    }
    for finding in findings:
        keys = {"rule", "severity", "repository", "message", "remediation", "control"}
        assert set(finding) == keys
        assert finding["severity"] in {"error", "warning", "info"}
        assert finding["message"]
        assert finding["remediation"]
    assert (world.content, world.target.history()) == before, "it publishes nothing"


def test_plan_reads_like_a_plan(world: World, shell: Shell) -> None:
    drift(world)

    done = shell("plan", "-m", world.name)

    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr, "no colour for a pipe"
    lines = done.stdout.splitlines()
    signed = [line.strip() for line in lines if re.match(r" *[+~-] ", line)]
    assert [line for line in signed if line[0] == "+"] == ["+ messy", "+ team/new"]
    assert [line for line in signed if line[0] == "-"] == [f"- {FIVE[2]}", f"- {FIVE[3]}"]
    (updated,) = (line for line in signed if line[0] == "~")
    assert updated.startswith(f"~ {FIVE[1]} ")
    assert "active -> deprecated" in updated
    rule = next(place for place, line in enumerate(lines) if "status-unknown" in line)
    assert lines[rule].startswith("  warning  status-unknown (1): Use one of pending, ")
    assert lines[rule + 1] == "    messy: metadata.status 'activ' is unknown"
    heads = ["STATE", "REPOSITORY", "OWNER", "RISK", "ENVIRONMENT", "STATUS"]
    assert [line.split() for line in lines].count(heads) == 1
    assert any(re.search(r"\bghost\b.*team/app-2", line) for line in lines)
    summaries = [line for line in lines if line.startswith("Plan: ")]
    assert summaries == [lines[3]], "it is the first thing after what the plan is of"
    assert summaries[0].startswith("Plan: 2 to add, 1 to update, 2 to remove.")


def test_a_large_plan_shows_what_needs_attention_and_the_rest_on_request(
    world: World, shell: Shell
) -> None:
    names = [f"team/app-{number:03}" for number in range(300)]
    world.have(*names)
    world.sync()
    world.govern(*names[:30], status="activ")
    world.govern(*(f"gone-{number:02}" for number in range(25)))
    world.fake.create("toolbox")
    world.govern(*(f"new/app-{number:02}" for number in range(45)))
    for number in range(45):
        world.fake.create(f"new/app-{number:02}")

    done = shell("plan", "-m", world.name)

    lines = done.stdout.splitlines()
    assert len(lines) < 130
    assert lines[3].startswith("Plan: 45 to add, 30 to update, 0 to remove. 345 live,")
    assert len([line for line in lines if line.startswith("  + ")]) == 20
    assert "    and 25 more additions; --all-states lists all" in lines
    assert "    and 10 more updates; --all-states lists all" in lines
    table = lines[lines.index("Needs attention:") + 2 :]
    assert [line.split()[0] for line in table[:21]] == ["ghost"] * 20 + ["orphan"]
    assert table[21] == "  and 5 more ghost; --all-states lists all"
    assert not any(line.startswith("  live ") for line in lines)
    (rule,) = (place for place, line in enumerate(lines) if "status-unknown (30): " in line)
    assert lines[rule + 21] == "    and 10 more of this rule; --all-states lists all"

    whole = shell("plan", "-m", world.name, "--all-states").stdout.splitlines()
    assert len([line for line in whole if line.startswith("  live ")]) == 345
    assert len([line for line in whole if line.startswith("  + ")]) == 45
    assert len([line for line in whole if "'activ' is unknown" in line]) == 30
    assert "--all-states" not in "".join(whole)


def test_a_large_plan_names_every_removal_and_says_when_nothing_needs_attention(
    world: World, shell: Shell
) -> None:
    names = [f"team/app-{number:03}" for number in range(100)]
    world.have(*names)
    world.sync()
    calm = shell("plan", "-m", world.name).stdout
    assert "Needs attention:\n  no repository; --all-states lists all\n" in calm

    world.govern(*names[:25], status="decommissioned")

    held = shell("plan", "-m", world.name)
    assert held.returncode == 3
    removed = [line for line in held.stdout.splitlines() if line.startswith("  - ")]
    assert removed == [f"  - {name}" for name in names[:25]]


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_the_table_fits_the_terminal_and_a_pipe_gets_all_of_it(
    world: World, shell: Shell, columns: int
) -> None:
    name = f"team/{'x' * 45}"
    world.have(name)
    world.govern(name, owner="a-team-with-quite-a-long-name", environment="pre-production")

    shown, _ = shell.on_a_terminal("plan", "-m", world.name, COLUMNS=str(columns))
    lines = re.sub(r"\x1b\[\d*m", "", shown).splitlines()
    table = [line for line in lines if re.match("  (STATE|live) ", line)]
    assert [line.split()[0] for line in table] == ["STATE", "live"]
    assert max(map(len, table)) <= max(columns, 50), "a column keeps at least six characters"
    assert "…" in table[1]

    piped = shell("plan", "-m", world.name, COLUMNS=str(columns)).stdout
    (row,) = (line for line in piped.splitlines() if line.startswith("  live "))
    assert row.split() == [
        "live",
        name,
        "a-team-with-quite-a-long-name",
        "low",
        "pre-production",
        "active",
    ]


def test_plan_exits_with_what_it_found(world: World, shell: Shell) -> None:
    world.have(*FIVE)
    first = shell("plan", "-m", world.name, "--json")
    assert first.returncode == 2
    assert json.loads(first.stdout)["changes"]["added"] == list(FIVE)
    assert world.content is None

    world.sync()
    unchanged = shell("plan", "-m", world.name)
    assert unchanged.returncode == 0
    assert "No changes" in unchanged.stdout
    nothing = json.loads(shell("plan", "-m", world.name, "--json").stdout)
    assert nothing["changes"] == {"added": [], "removed": [], "updated": []}
    assert re.fullmatch("[0-9a-f]{64}", nothing["plan_hash"])

    for name in FIVE[:3]:
        world.fake.delete(name)
    held = shell("plan", "-m", world.name, "--json")
    assert held.returncode == 3
    assert json.loads(held.stdout)["held"] is True
    reported = shell("plan", "-m", world.name)
    assert reported.returncode == 3
    assert json.loads(held.stdout)["plan_hash"] in reported.stdout
    assert "3 of 5 repositories (60 %)" in reported.stdout


def test_plan_is_coloured_on_a_terminal_alone(world: World, shell: Shell) -> None:
    drift(world)

    shown, _ = shell.on_a_terminal("plan", "-m", world.name)
    assert "\x1b[32m  + messy\x1b[0m" in shown
    assert "\x1b[31m  - team/app-2\x1b[0m" in shown

    plain, _ = shell.on_a_terminal("plan", "-m", world.name, NO_COLOR="1")
    assert "\x1b" not in plain
    assert "  + messy" in plain

    progress, said = shell.on_a_terminal("plan", "-m", world.name, "--json", stream="stderr")
    assert "reading ECR..." in progress
    assert "reading ECR... 1 page, 7 repositories" in progress
    assert json.loads(said)["mirror"] == world.name, "progress never mixes with the answer"


# verify, without `backstage:`


def test_verify_compares_with_what_is_published(world: World, shell: Shell) -> None:
    world.have(*FIVE)

    def verify() -> tuple[int, dict[str, Any]]:
        done = shell("verify", "-m", world.name, "--json")
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    code, absent = verify()
    assert code == 2
    assert set(absent) == {
        "mirror",
        "parity",
        "expected_digest",
        "served_digest",
        "published_digest",
        "reason",
        "checked_at",
    }
    assert (absent["mirror"], absent["parity"]) == (world.name, False)
    assert (absent["published_digest"], absent["served_digest"]) == (None, None)
    assert absent["reason"]
    assert datetime.fromisoformat(absent["checked_at"]).utcoffset() == timedelta()

    world.sync()
    code, same = verify()
    assert (code, same["parity"]) == (0, True)
    assert same["expected_digest"] == same["published_digest"] == absent["expected_digest"]

    world.fake.create("toolbox")
    code, moved = verify()
    assert (code, moved["parity"]) == (2, False)
    assert moved["published_digest"] == same["published_digest"] != moved["expected_digest"]

    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    assert_an_error(shell("verify", "-m", world.name, "--json"), "Allow ecr:DescribeRepositories")


# sync


def test_sync_says_what_it_did_and_leaves_nothing_behind(world: World, shell: Shell) -> None:
    world.have(*FIVE)
    content = None
    for outcome in ("published", "unchanged"):
        done = shell.start("sync", "-m", world.name)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        first, where = done.stdout.splitlines()
        assert first.startswith(f"{outcome}: 5 live")
        assert where == str(world.target.settings()["path"])
        content = content or world.content
        assert world.content == content
    assert list(world.listed) == list(FIVE)

    for left in (shell.folder, Path(shell.environment["HOME"]), Path(shell.environment["TMPDIR"])):
        assert sorted(left.rglob("*")) == [], "a run without DAGSTER_HOME keeps nothing"


def test_the_cache_lies_where_the_user_keeps_caches(world: World, shell: Shell) -> None:
    caches = shell.folder.parent / "caches"
    environment = dict(shell.environment)
    del environment["ECR_CATALOG_CACHE"]

    done = replace(shell, environment=environment)(
        "plan", "-m", world.name, XDG_CACHE_HOME=str(caches)
    )

    assert done.returncode == 2, done.stderr
    assert [each.name for each in caches.iterdir()] == ["ecr-catalog-pipeline"]
    assert list(shell.folder.iterdir()) == list(Path(environment["HOME"]).iterdir()) == []


def test_sync_holds_until_that_very_plan_is_approved(world: World, shell: Shell) -> None:
    world.have(*FIVE)
    world.sync()
    before = world.content
    for name in FIVE[:3]:
        world.fake.delete(name)

    held = shell("sync", "-m", world.name)
    assert held.returncode == 3
    assert "held: 3 of 5 repositories (60 %)" in held.stdout
    approve = re.search(r"sync -m goldenpath --approve ([0-9a-f]{64})$", held.stdout, re.MULTILINE)
    assert approve

    world.fake.delete(FIVE[3])
    void = shell("sync", "-m", world.name, "--approve", approve[1])
    assert void.returncode == 3
    assert f"{approve[1]} approves another plan" in void.stderr
    assert world.content == before
    moved = re.search(r"--approve ([0-9a-f]{64})$", void.stdout, re.MULTILINE)
    assert moved

    done = shell("sync", "-m", world.name, "--approve", moved[1])
    assert done.returncode == 0
    assert done.stdout.startswith("published: 1 live (+0 ~0 -4)")
    assert list(world.listed) == [FIVE[4]]


def test_sync_keeps_its_history_where_dagster_has_a_home(world: World, shell: Shell) -> None:
    home = shell.folder.parent / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    world.have(*FIVE)

    assert shell("sync", "-m", world.name, DAGSTER_HOME=str(home)).returncode == 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert (run.job_name, run.status) == ("goldenpath_sync", dg.DagsterRunStatus.SUCCESS)
        key = dg.AssetKey(["goldenpath", "published_entity"])
        event = instance.get_latest_materialization_event(key)
        assert event is not None
        assert event.run_id == run.run_id
    assert list(shell.folder.iterdir()) == []


# Errors


def test_an_invalid_mirror_file_is_reported_with_its_remedy(world: World, shell: Shell) -> None:
    (world.mirrors / "broken.yaml").write_text(
        "governance: {repository: /nowhere}\nregistry: {regoin: eu-west-2}\n"
        "publish: {kind: file, path: x.yaml}\n"
    )

    broken = shell("plan", "-m", "broken", "--json")
    assert_an_error(broken, "broken.yaml", "registry.region: is required", "registry.regoin")
    unknown = shell("plan", "-m", "nope")
    assert_an_error(unknown, "there is no mirror 'nope'", "Mirrors here: goldenpath.")
    assert shell("plan", "-m", world.name).returncode == 2, "the other mirror is usable"
    nowhere = shell("sync", "-m", world.name, ECR_CATALOG_MIRRORS="/no/such/folder")
    assert_an_error(nowhere, "the mirrors folder /no/such/folder cannot be read", "Set ECR_CATALOG")


def test_unreachable_sources_are_reported_with_their_remedy(world: World, shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        world.write_mirror(registry={"region": "eu-west-2", "endpoint_url": closed})
        assert_an_error(
            shell("plan", "-m", world.name, "--json"), closed, "failed", "Check the network"
        )
    world.write_mirror(governance={"repository": "nowhere"})
    gone = shell("sync", "-m", world.name)
    assert_an_error(gone, str(world.mirrors / "nowhere"), "Check that governance.repository exists")


def test_an_unreachable_target_is_reported_with_its_remedy(
    tmp_path: Path, in_process: InProcess
) -> None:
    target = GitTarget(tmp_path)
    with a_world(tmp_path, target) as world:
        target.repository.folder.rename(tmp_path / "away")
        done = shell_in(world, tmp_path, in_process)("plan", "-m", world.name)

    assert_an_error(done, "cannot be reached", "Check publish.repository")


def test_a_run_that_would_overwrite_a_foreign_file_is_an_error(world: World, shell: Shell) -> None:
    world.target.overwrite(b"kind: Component\nmetadata: {name: theirs}\n")

    assert_an_error(
        shell("plan", "-m", world.name), "Component theirs", "Point `publish:` elsewhere"
    )


def test_a_dagster_home_that_does_not_exist_is_reported(world: World, shell: Shell) -> None:
    done = shell("sync", "-m", world.name, DAGSTER_HOME="/no/such/folder")

    assert_an_error(done, "DAGSTER_HOME", "/no/such/folder")


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "-m"),
        ("plan", "-m", "goldenpath", "--yaml"),
        ("plan", "-m", "goldenpath", "extra"),
        ("sync", "-m", "goldenpath", "--approve"),
        ("guard",),
        ("destroy",),
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_1(shell: Shell, arguments: tuple[str, ...]) -> None:
    done = shell(*arguments)

    assert done.returncode == 1
    assert done.stdout == ""
    assert re.match("Usage: |Error: ", done.stderr)
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_stops_without_a_traceback(world: World, shell: Shell) -> None:
    world.fake.fail("GetCallerIdentity", Fault.HANG)
    with subprocess.Popen(
        [COMMAND, "plan", "-m", world.name, "--json"],
        env=shell.environment,
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not world.fake.count("GetCallerIdentity") and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, reported = process.communicate(timeout=120)

    assert process.returncode == 1
    assert said == ""
    assert reported.strip() == "Stopped."


def test_a_reader_that_leaves_early_sees_no_error(world: World, shell: Shell) -> None:
    world.have(*FIVE)
    with subprocess.Popen(
        [COMMAND, "plan", "-m", world.name],
        env=shell.environment,
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        reported = process.stderr.read()

    assert reported == ""


# guard

RESOURCE: Final = """\
apiVersion: backstage.io/v1alpha1
kind: Resource
metadata:
  name: {name}
spec:
  type: {type}
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A folder of Backstage files in which nothing is wrong."""
    folder = tmp_path / "catalog"
    (folder / "deep" / "down").mkdir(parents=True)
    (folder / "component.yaml").write_text(
        "kind: Component\nmetadata: {name: app}\nspec: {type: container-repository}\n"
    )
    (folder / "system.yml").write_text("kind: System\nmetadata: {name: all}\n")
    (folder / "bucket.yaml").write_text(RESOURCE.format(name="bucket", type="s3-bucket"))
    (folder / "ours.yaml").write_text(
        RESOURCE.format(name="goldenpath-ecr-registry", type="container-registry")
    )
    (folder / "notes.txt").write_text(RESOURCE.format(name="x", type="ecr-repository"))
    return folder


def test_guard_is_content_with_what_is_no_sprawl(shell: Shell, catalog: Path) -> None:
    done = shell("guard", str(catalog))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_guard_finds_each_ad_hoc_entity_with_file_and_line(shell: Shell, catalog: Path) -> None:
    deep = catalog / "deep" / "down" / "all.yml"
    deep.write_text(
        "---\n"
        + RESOURCE.format(name="first", type="ecr-repository")
        + "---\nkind: Component\nmetadata: {name: between}\n---\n"
        + RESOURCE.format(name="second", type="aws-ecr-repository")
    )
    (catalog / "theirs.yaml").write_text(
        RESOURCE.format(name="another-registry", type="container-registry")
    )
    as_json = catalog / "third.json"
    as_json.write_text(
        '{"kind": "Resource", "metadata": {"name": "third"},'
        ' "spec": {"type": "container-repository"}}\n'
    )

    done = shell("guard", str(catalog))

    assert done.returncode == 1
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert {place: words.split(" ")[-2:] for place, words in found.items()} == {
        f"{deep}:3": ["first", "(ecr-repository)"],
        f"{deep}:13": ["second", "(aws-ecr-repository)"],
        f"{catalog / 'theirs.yaml'}:2": ["another-registry", "(container-registry)"],
        f"{as_json}:1": ["third", "(container-repository)"],
    }
    one = shell("guard", str(catalog / "theirs.yaml"))
    assert one.returncode == 1
    assert len(one.stdout.splitlines()) == 1


def test_guard_warns_of_templates_and_goes_on(shell: Shell, catalog: Path) -> None:
    template = catalog / "skeleton.yaml"
    template.write_text("kind: Resource\nmetadata:\n  name: {{ name }}\n{% if x %}\n")

    done = shell("guard", str(catalog))
    assert done.returncode == 0
    assert done.stdout == ""
    assert re.match(rf"{re.escape(str(template))}:\d+:\d+: .*warning", done.stderr)

    template.write_text(RESOURCE.format(name="before", type="ecr-repository") + "---\n{% if x %}\n")
    done = shell("guard", str(catalog))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{template}:2: ")


def test_guard_says_what_it_cannot_read(shell: Shell, catalog: Path) -> None:
    missing, binary = catalog / "missing.yaml", catalog / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")

    for unreadable in (missing, binary):
        done = shell("guard", str(unreadable))
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"{unreadable}: cannot be read: ")


def test_guard_passes_over_no_folder_that_it_cannot_read(shell: Shell, catalog: Path) -> None:
    # Deeper than the system takes in one path; permissions do not stop root.
    at = os.open(catalog, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    (catalog / "ours.yaml").unlink()

    done = shell("guard", str(catalog))

    assert done.returncode == 2
    assert re.search(r"d{250}: cannot be read: File name too long$", done.stderr, re.MULTILINE)


def test_guard_needs_no_mirrors(shell: Shell, catalog: Path) -> None:
    done = shell("guard", str(catalog), ECR_CATALOG_MIRRORS="/no/such/folder")

    assert done.returncode == 1
    assert done.stdout.startswith(f"{catalog / 'ours.yaml'}:2: "), "no mirror here calls it its own"
