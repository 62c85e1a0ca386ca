"""What the drills share: a world without credentials, and the table of what they observed."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator
from dataclasses import asdict
from typing import Any, Final

import pytest

from tests.drills.drill import Drill, summary
from tests.integration.conftest import quick_libraries

__all__ = ["quick_libraries"]

DRILL: Final = pytest.StashKey[Drill]()
REMARKS: Final = pytest.StashKey[list[str]]()

reports: Final[list[pytest.TestReport]] = []
"""Of the drills that are over, whichever worker ran them."""


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
    stash: pytest.Stash = request.node.stash
    return stash.setdefault(DRILL, Drill(name=request.node.name))


@pytest.fixture
def remarks(request: pytest.FixtureRequest) -> list[str]:
    """Give the lines that stand under the table."""
    stash: pytest.Stash = request.node.stash
    return stash.setdefault(REMARKS, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the last report of a test carry its drill: reports are all that leaves a worker."""
    report = yield
    drill = item.stash.get(DRILL, None)
    if drill is not None and call.when == "call":
        drill.passed = report.passed
    elif drill is not None and not report.passed:
        drill.passed = False
    if call.when == "teardown":
        row = drill and asdict(drill) | {"wrong_removals": _listed(drill.wrong_removals)}
        report.user_properties += [("drill", row), ("remarks", item.stash.get(REMARKS, []))]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a drill observed."""
    if "drill" in dict(report.user_properties):
        reports.append(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the drills observed, in the order of their files."""
    ended: list[dict[str, Any]] = [
        dict(report.user_properties) for report in sorted(reports, key=lambda each: each.location)
    ]
    drills = [Drill(**each["drill"]) for each in ended if each["drill"]]
    if drills:
        terminalreporter.section("failure drills")
        remarks = [line for each in ended for line in each["remarks"]]
        for line in summary(drills, remarks):
            terminalreporter.write_line(line)


def _listed(names: Collection[str] | None) -> list[str] | None:
    """A form that travels between processes."""
    return None if names is None else list(names)
