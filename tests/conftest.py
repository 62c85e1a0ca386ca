"""What all tests share: which of them are slow, that in CI none is skipped, and PostgreSQL.

`make test` runs all but those marked `full`; `make test-all` runs those. Fault drills and whole
demos are `full` unless they are marked `essential`. With `--postgres` the instances that tests
make keep their history in PostgreSQL.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator

import pytest

from tests.integration.instances import history_in
from tests.integration.postgres import Postgres, a_postgres, postgres_program

WHOLE: frozenset[str] = frozenset({"drills", "e2e"})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        action="store_true",
        help="keep the history of Dagster instances in PostgreSQL",
    )


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start, also in the background of a shell that ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes whole demos or minutes, before the marks select anything."""
    for item in items:
        if item.path.parent.name in WHOLE and not item.get_closest_marker("essential"):
            item.add_marker("full")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if postgres_program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    with a_postgres() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def kept_history(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep the history of instances where the tests were asked to."""
    if not request.config.getoption("postgres"):
        yield
        return
    with history_in(request.getfixturevalue("postgres")):
        yield


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what stays: a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where every optional part is mandatory."""
    report = yield
    if report.skipped and os.environ.get("ECR_CATALOG_REQUIRE_ALL"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and nothing may be here: {report.longrepr}"
    return report
