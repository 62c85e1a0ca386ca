"""What the drills share: a world without credentials, and the table of what they observed."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Final

import pytest

from tests.drills.drill import REMARK, ROW, Drill

DRILL: Final = pytest.StashKey[Drill]()
REMARKS: Final = pytest.StashKey[list[str]]()


@pytest.fixture(scope="package", autouse=True)
def nobodys_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave all drills no credentials, no proxy and nobody's configuration.

    For the whole package at once, so that drills may run at the same time.
    """
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
    return drill


@pytest.fixture
def remarks(request: pytest.FixtureRequest) -> list[str]:
    """Give the lines that stand under the table."""
    lines: list[str] = []
    request.node.stash[REMARKS] = lines
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send what was observed along with the last report."""
    report = yield
    drill = item.stash.get(DRILL, None)
    if drill is not None and call.when == "call":
        drill.passed = report.passed
    elif drill is not None and not report.passed:
        drill.passed = False
    if call.when == "teardown":
        if drill is not None:
            report.user_properties.append((ROW, drill.as_sent()))
        report.user_properties.extend((REMARK, line) for line in item.stash.get(REMARKS, []))
    return report
