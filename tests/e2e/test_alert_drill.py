"""Alerts and the ping of the whole running system, taken by a real receiver on loopback."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ecr_catalog_pipeline.demo.world import (
    break_governance,
    create_in_ecr,
    delete_in_ecr,
    repair_governance,
)
from tests.e2e.running import RunningDemo, running_demo, wait_for
from tests.integration.backstage import require_backstage

# The sensor sees the change, the run fails, and within 30 s more the watch has sent an alert.
TOLD_SECONDS = 30 + 30

pytestmark = pytest.mark.timeout(600)


@dataclass
class Receiver:
    """Takes what Apprise posts to json:// URLs, and counts pings."""

    alerts: list[dict[str, str]] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    port: int = 0

    def titles(self) -> list[str]:
        return [alert["title"] for alert in self.alerts]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    taken = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.alerts.append(json.loads(body))
            self._ok()

        def do_GET(self) -> None:
            taken.pings.append(time.monotonic())
            self._ok()

        def _ok(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    taken.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield taken
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_alert_when_it_begins_one_when_it_ends_and_the_ping_stops_with_the_daemon(
    receiver: Receiver, tmp_path: Path
) -> None:
    require_backstage()
    environment = {
        "ECR_CATALOG_ALERT_URLS": f"json://127.0.0.1:{receiver.port}/alerts",
        "ECR_CATALOG_PING_URL": f"http://127.0.0.1:{receiver.port}/ping",
    }
    with running_demo(tmp_path, environment=environment) as demo:
        wait_for(lambda: bool(receiver.pings), 120, "the first ping")
        # Backstage was not up at the first run: that was reported, and that it ended.
        wait_for(lambda: is_even(receiver), TOLD_SECONDS, "every beginning to have its end")
        receiver.alerts.clear()

        break_governance(demo.world)
        wait_for(lambda: bool(receiver.alerts), TOLD_SECONDS, "the alert")
        pinged = len(receiver.pings)
        # Several looks of the watch go by.
        time.sleep(25)
        assert receiver.titles() == ["[demo] governance refused"]
        begun = receiver.alerts[0]["message"]
        assert "ecr-catalog.yaml:" in begun
        assert "What to do: " in begun
        assert f"http://127.0.0.1:{demo.ui_port}/runs/" in begun
        assert len(receiver.pings) == pinged

        repair_governance(demo.world)
        wait_for(lambda: len(receiver.alerts) > 1, 180, "the alert of recovery")
        assert receiver.titles()[1] == "[demo] RECOVERED: governance refused", last_runs(demo)
        assert key_of(receiver.alerts[1]) == key_of(receiver.alerts[0])

        create_in_ecr(demo.world, "edge-cache")
        pinged = len(receiver.pings)
        wait_for(lambda: len(receiver.pings) > pinged, 120, "the ping after a verified parity")

        daemon = daemon_of(demo)
        os.kill(daemon, signal.SIGSTOP)
        try:
            time.sleep(8)  # a run that was under way may still end
            pinged = len(receiver.pings)
            delete_in_ecr(demo.world, "edge-cache")
            time.sleep(40)
            assert len(receiver.pings) == pinged
        finally:
            os.kill(daemon, signal.SIGCONT)


def is_even(receiver: Receiver) -> bool:
    """Whether every alert that began has ended."""
    ended = [title for title in receiver.titles() if "RECOVERED" in title]
    return len(receiver.alerts) == 2 * len(ended)


def last_runs(demo: RunningDemo) -> str:
    """What a failed test needs to be understood."""
    runs = demo.graphql(
        "{ runsOrError(limit: 4) { ... on Runs { results { runId status tags { key value }"
        " eventConnection { events { ... on MessageEvent { timestamp message } } } } } } }"
    )
    return json.dumps(runs, indent=1)


def key_of(alert: dict[str, str]) -> str:
    (line,) = [line for line in alert["message"].splitlines() if line.startswith("Key: ")]
    return line


def daemon_of(demo: RunningDemo) -> int:
    """The process of this demo's dagster-daemon."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = (entry / "cwd").readlink() == demo.folder
        except OSError:
            continue
        if ours and "dagster._daemon" in command:
            return int(entry.name)
    raise AssertionError("there is no daemon")
