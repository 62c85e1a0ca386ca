"""One running demo serves every test that only needs one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.running import RunningDemo, running_demo


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    if shutil.which("node") is None:
        pytest.skip("Node 20+ is not installed: there is no Backstage to ask")
    with running_demo(tmp_path_factory.mktemp("running")) as demo:
        yield demo
