"""Nothing of the demo can be reached from another machine."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import psutil
import pytest

from tests.e2e.running import RunningDemo

pytestmark = [pytest.mark.essential, pytest.mark.timeout(600)]


def test_everything_that_make_run_starts_listens_on_loopback_only(running: RunningDemo) -> None:
    assert running.mirror.backstage
    (demo,) = [
        each
        for each in psutil.process_iter(["cmdline", "cwd"])
        if each.info["cwd"] == str(running.folder) and "demo" in (each.info["cmdline"] or ())
    ]

    listening = []
    for process in (demo, *demo.children(recursive=True)):
        # A run's process may end while we look.
        with suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            listening += [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]

    assert {each.port for each in listening} >= {
        running.ui_port,
        running.world.ecr_port,
        urlsplit(running.mirror.backstage.url).port,
    }
    assert [each for each in listening if not ip_address(each.ip).is_loopback] == []
