"""Nothing of the demo can be reached from another machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

import psutil
import pytest

from tests.e2e.running import RunningDemo

pytestmark = pytest.mark.timeout(600)


def test_everything_that_make_run_starts_listens_on_loopback_only(running: RunningDemo) -> None:
    assert running.mirror.backstage
    (demo,) = [
        each
        for each in psutil.process_iter(["cmdline", "cwd"])
        if each.info["cwd"] == str(running.folder) and "demo" in (each.info["cmdline"] or ())
    ]

    listening = [
        connection.laddr
        for process in (demo, *demo.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert {each.port for each in listening} >= {
        running.ui_port,
        running.world.ecr_port,
        urlsplit(running.mirror.backstage.url).port,
    }
    assert [each for each in listening if not ip_address(each.ip).is_loopback] == []
