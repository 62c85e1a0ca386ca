"""What the drills share: a world without credentials, and the table of what they observed."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Final

import pytest

from tests.drills.drill import Drill, summary

DRILL: Final = pytest.StashKey[Drill]()
DRILLS: Final = pytest.StashKey[list[Drill]]()
REMARKS: Final = pytest.StashKey[list[str]]()


@pytest.fixture(scope="package", autouse=True)
def nobodys_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave all drills no credentials, no proxy and nobody's configuration."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "GIT_")) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        for name in ("XDG_CONFIG_HOME", "EMAIL"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.chdir(home)
        yield


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Drill:
    """Give the row of this test in the table."""
    drill = Drill(name=request.node.name)
    request.node.stash[DRILL] = drill
    request.config.stash.setdefault(DRILLS, []).append(drill)
    return drill


@pytest.fixture
def remarks(request: pytest.FixtureRequest) -> list[str]:
    """Give the lines that stand under the table."""
    return request.config.stash.setdefault(REMARKS, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a drill know whether its test passed."""
    report = yield
    drill = item.stash.get(DRILL, None)
    if drill is not None and call.when == "call":
        drill.passed = report.passed
    elif drill is not None and not report.passed:
        drill.passed = False
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the drills observed."""
    stash = terminalreporter.config.stash
    if drills := stash.get(DRILLS, []):
        terminalreporter.section("failure drills")
        remarks = stash.setdefault(REMARKS, [])
        for line in summary(drills, remarks):
            terminalreporter.write_line(line)
