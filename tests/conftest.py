"""What all tests share: in CI nothing may be skipped, and drills show what they observed."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    properties = [
        each
        for reports in terminalreporter.stats.values()
        for report in reports
        for each in (report.user_properties if getattr(report, "when", "") == "teardown" else ())
    ]
    if not properties:
        return
    from tests.drills.drill import summary  # noqa: PLC0415 - most runs have no drills

    lines = list(summary(properties))
    if lines:
        terminalreporter.section("failure drills")
        for line in lines:
            terminalreporter.write_line(line)
