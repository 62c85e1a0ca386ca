"""One running demo serves every test that only needs one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.running import RunningDemo, running_demo


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker run all that use the one demo, before xdist looks."""
    for item in items:
        if isinstance(item, pytest.Function) and "running" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("running"))


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    if shutil.which("node") is None:
        pytest.skip("Node 20+ is not installed: there is no Backstage to ask")
    with running_demo(tmp_path_factory.mktemp("running")) as demo:
        yield demo
