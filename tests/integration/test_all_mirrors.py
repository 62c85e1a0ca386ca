"""`--all`: every mirror at once, one table, the worst exit code, and no mirror in another's way."""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import re
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest

from ecr_catalog_pipeline.adapters import aws
from tests.fakes.aws import FakeAws, Fault
from tests.integration.commands import Command, command_in
from tests.integration.instances import an_instance
from tests.integration.worlds import FileTarget, World

Worlds = dict[str, World]

APPS: Final = tuple(f"team/app-{number}" for number in range(5))
STATES: Final = ("live", "pending", "ghost", "orphan", "lingering", "retired")


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    """Mirrors of one folder, each with an AWS, a governance file and a target of its own."""
    with ExitStack() as open_, an_instance() as instance:
        made = {}
        for name in ("denied", "hanging", "held", "moved", "quiet"):
            fake = open_.enter_context(FakeAws())
            made[name] = World(tmp_path, FileTarget(tmp_path / name), fake, instance, name)
            (tmp_path / name).mkdir()
            made[name].have(*APPS)
        yield made


@pytest.fixture
def command(
    worlds: Worlds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    (tmp_path / "here").mkdir()
    environ = worlds["quiet"].environ(tmp_path / "user")
    return command_in(tmp_path / "here", environ, monkeypatch, capfd)


@pytest.fixture
def trouble(worlds: Worlds, command: Command) -> Worlds:
    """One mirror denied, one held, one changed, two unchanged, one file broken."""
    assert command("sync", "--all").code == 0
    worlds["denied"].fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    for app in APPS[:4]:
        worlds["held"].fake.delete(app)
    worlds["moved"].have("team/new")
    (worlds["quiet"].mirrors / "broken.yaml").write_text("registry: {region: 5}\n")
    return worlds


@pytest.fixture
def hanging(trouble: Worlds, monkeypatch: pytest.MonkeyPatch) -> Worlds:
    """One of those unchanged hangs, and is given up within 10 s."""
    trouble["hanging"].fake.fail("DescribeRepositories", Fault.HANG)
    monkeypatch.setattr(aws, "CONNECT_SECONDS", aws.GIVE_UP_AFTER - 9)
    monkeypatch.setattr(aws, "READ_SECONDS", 1)
    return trouble


@pytest.mark.usefixtures("hanging")
def test_one_mirror_in_trouble_leaves_the_others_whole(command: Command) -> None:
    done = command("plan", "--all")

    rows = _rows(done.out)
    assert {name: row[0] for name, row in rows.items()} == {
        "broken": "error",
        "denied": "error",
        "hanging": "error",
        "held": "held",
        "moved": "changes",
        "quiet": "unchanged",
    }
    assert list(rows) == sorted(rows)
    assert rows["quiet"][1:7] == ["5", "0", "0", "0", "0", "0"]
    assert rows["moved"][1] == "6"
    assert rows["held"][1:4] == ["1", "0", "4"]
    assert "AccessDenied" in " ".join(rows["denied"][7:])
    assert done.out.endswith("\nMirrors: 3 error, 1 held, 1 changes, 1 unchanged.\n")
    assert done.code == 1
    for reported in (
        r"^broken: Error: mirrors/broken\.yaml: ",
        r"^denied: Error: ecr:DescribeRepositories failed with AccessDenied",
        r"^denied: Last good, as it was: 5 live",
        r"^hanging: Error: ecr:DescribeRepositories failed: ",
        r"^held: held: .*4",
    ):
        assert re.search(reported, done.err, re.MULTILINE), done.err


def test_a_held_plan_is_approved_by_the_hash_that_the_table_shows(
    trouble: Worlds, command: Command
) -> None:
    done = command("plan", "--all")
    shown = _rows(done.out)["held"][-1]

    assert f"ecr-catalog sync -m held --approve {shown}" in done.err
    assert command("sync", "-m", "held", "--approve", shown).code == 0
    assert list(trouble["held"].listed) == [APPS[4]]


@pytest.mark.usefixtures("trouble")
def test_json_gives_every_mirror_its_own_object_or_its_error(command: Command) -> None:
    mirrors = json.loads(command("plan", "--all", "--json").out)["mirrors"]

    assert list(mirrors) == ["broken", "denied", "hanging", "held", "moved", "quiet"]
    for name in ("broken", "denied"):
        assert set(mirrors[name]) == {"error"}
        assert set(mirrors[name]["error"]) == {"problem", "remediation"}
    for name in ("held", "quiet"):
        alone: Any = json.loads(command("plan", "-m", name, "--json").out)
        assert mirrors[name] == alone
    assert mirrors["moved"]["changes"]["added"] == ["team/new"]


def test_sync_publishes_what_can_be_published(hanging: Worlds, command: Command) -> None:
    before = hanging["held"].content, hanging["denied"].content

    done = command("sync", "--all")

    assert {name: row[0] for name, row in _rows(done.out).items()} == {
        "broken": "error",
        "denied": "error",
        "hanging": "error",
        "held": "held",
        "moved": "published",
        "quiet": "unchanged",
    }
    assert done.code == 1
    assert "team/new" in hanging["moved"].listed
    assert (hanging["held"].content, hanging["denied"].content) == before


@pytest.mark.usefixtures("trouble")
def test_verify_says_of_each_whether_it_is_in_parity(command: Command) -> None:
    done = command("verify", "--all", "--json")

    mirrors = json.loads(done.out)["mirrors"]
    assert {name: each.get("parity") for name, each in mirrors.items()} == {
        "broken": None,
        "denied": None,
        "hanging": True,
        "held": False,
        "moved": False,
        "quiet": True,
    }
    assert done.code == 1
    table = command("verify", "--all").out
    assert re.search(r"^quiet +in parity +5 ", table, re.MULTILINE), table
    assert re.search(r"^moved +not in parity +6 ", table, re.MULTILINE), table


def test_the_worst_exit_code_counts(worlds: Worlds, command: Command) -> None:
    assert command("plan", "--all").code == 2
    assert command("sync", "--all").code == 0
    assert command("plan", "--all").code == 0
    for app in APPS:
        worlds["held"].fake.delete(app)
    worlds["moved"].have("team/new")
    assert command("plan", "--all").code == 3
    worlds["denied"].fake.fail("GetCallerIdentity", Fault.ACCESS_DENIED)
    assert command("plan", "--all").code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "--all", "-m", "quiet"),
        ("verify", "--all", "-m", "quiet"),
        ("sync", "--all", "-m", "quiet"),
        ("sync", "--all", "--approve", "0" * 64),
        ("plan", "--all", "--all-states"),
    ],
    ids=" ".join,
)
def test_all_goes_with_no_name_and_no_approval(
    command: Command, arguments: tuple[str, ...]
) -> None:
    done = command(*arguments)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Usage: ")


def test_a_folder_without_mirrors_is_an_error(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECR_CATALOG_MIRRORS", str(tmp_path / "here"))

    done = command("plan", "--all")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: there is no mirror.")


def test_a_terminal_shows_how_many_are_done(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", buffering=1) as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert command("sync", "--all").code == 0
        shown = b""
        while not shown.endswith(b"\r\x1b[K") and select.select([ours], [], [], 10)[0]:
            shown += os.read(ours, 65_536)
    os.close(ours)

    assert b"0 of 5 mirrors done" in shown
    assert b"4 of 5 mirrors done" in shown
    assert shown.endswith(b"\r\x1b[K")


def test_with_a_history_each_mirror_has_a_run_and_a_process_of_its_own(
    worlds: Worlds, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    worlds["denied"].fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    worlds["hanging"].fake.fail("DescribeRepositories", Fault.HANG)
    for name in ("held", "moved"):
        worlds[name].mirror_file.unlink()
    killed = threading.Thread(target=_kill_who_asks, args=(worlds["hanging"].fake,), daemon=True)
    killed.start()

    done = command("sync", "--all")

    killed.join()
    assert {name: row[0] for name, row in _rows(done.out).items()} == {
        "denied": "error",
        "hanging": "error",
        "quiet": "published",
    }
    assert done.code == 1
    assert "hanging: Error: the process of this run ended without a result." in done.err
    assert "denied: Error: ecr:DescribeRepositories failed with AccessDenied" in done.err
    assert "warning" not in done.err
    assert not multiprocessing.active_children()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        states = {run.job_name: run.status for run in instance.get_runs()}
    assert states["quiet_sync"] is dg.DagsterRunStatus.SUCCESS
    assert states["denied_sync"] is dg.DagsterRunStatus.FAILURE


def _kill_who_asks(fake: FakeAws) -> None:
    """Kill the last process that is left, once it asks an AWS that hangs."""
    until = time.monotonic() + 120
    while not fake.count("DescribeRepositories") or len(multiprocessing.active_children()) != 1:
        assert time.monotonic() < until, "no process was left that asks"
        time.sleep(0.05)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)


def _rows(out: str) -> dict[str, list[str]]:
    """The cells of each mirror; `not in parity` counts as three."""
    head, *lines = out.partition("\n\n")[0].splitlines()
    assert head.split() == ["mirror", "outcome", *STATES]
    return {line.split()[0]: line.split()[1:] for line in lines}
