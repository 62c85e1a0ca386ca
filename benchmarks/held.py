"""The alerts of a held plan, and of a mirror that nothing compares any more, under the real daemon.

    .venv/bin/python -m benchmarks.held                 # a plan held for 10 minutes, on SQLite
    .venv/bin/python -m benchmarks.held --postgres      # the same on PostgreSQL

Runs the whole demo with a receiver of its own. Fails unless the held plan is one alert and one
recovery, however many runs come and go meanwhile, and unless stale parity is an alert within the
SLO and 30 s after the schedule and the change sensor were stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR
from ecr_catalog_pipeline.demo.world import create_in_ecr, delete_in_ecr, git
from tests.e2e.running import NOT_INHERITED, ROOT, TOKEN, RunningDemo, running_demo, wait_for
from tests.integration.postgres import a_postgres

HELD: Final = "[demo] plan held"
HELD_ENDED: Final = "[demo] RECOVERED: plan held"
STALE: Final = "[demo] parity stale"
STALE_GRACE: Final = 30
EXTRA: Final = "nobody-governs-this"


@dataclass
class Receiver:
    """Takes what Apprise posts to json:// URLs."""

    alerts: list[tuple[float, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    @property
    def titles(self) -> list[str]:
        return [alert["title"] for _, alert in self.alerts]

    @property
    def is_even(self) -> bool:
        """Whether every alert that began has ended."""
        ended = [title for title in self.titles if "RECOVERED" in title]
        return len(self.alerts) == 2 * len(ended)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen on loopback."""
    taken = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.alerts.append((time.monotonic(), json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    taken.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def settled_demo(folder: Path, receiver: Receiver, postgres_url: str = "") -> Iterator[RunningDemo]:
    """Run the demo until whatever its start was alerted on is over."""
    environment = {"ECR_CATALOG_ALERT_URLS": f"json://127.0.0.1:{receiver.port}/alerts"}
    storage = {"storage": {"postgres": {"postgres_url": postgres_url}}} if postgres_url else {}
    instance = "".join(f"{key}: {json.dumps(value)}\n" for key, value in storage.items())
    with running_demo(folder, environment=environment, instance=instance) as demo:
        # The first look of the watch comes within 10 s, the second one sends what is over.
        time.sleep(25)
        wait_for(lambda: receiver.is_even, 240, "every beginning to have its end")
        receiver.alerts.clear()
        yield demo


def hold(demo: RunningDemo, receiver: Receiver, seconds: float, every: float) -> int:
    """Hold a plan while ECR changes again and again; gives the runs that came meanwhile.

    Args:
        every: seconds between two changes, each of which starts a run.
    """
    served = demo.served()
    assert served is not None
    names = sorted(line["name"] for line in served["spec"]["repositories"])[:5]
    for name in names:
        delete_in_ecr(demo.world, name)
    wait_for(lambda: HELD in receiver.titles, 120, "the alert on the held plan")
    before, began, changes = runs(demo), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        change = delete_in_ecr if changes % 2 else create_in_ecr
        change(demo.world, EXTRA)
        changes += 1
        time.sleep(every)
        assert receiver.titles == [HELD], receiver.titles
    if changes % 2:
        delete_in_ecr(demo.world, EXTRA)
        time.sleep(every)
    return len(runs(demo)) - len(before)


def approve(demo: RunningDemo, receiver: Receiver) -> None:
    """Approve the held plan with the command that the check names, and wait for the recovery."""
    plan = _command(demo, "ecr-catalog", "plan", "-m", "demo", "--json", succeeds=False)
    plan_hash = json.loads(plan)["plan_hash"]
    _command(demo, "ecr-catalog", "sync", "-m", "demo", "--approve", plan_hash)
    wait_for(lambda: len(receiver.alerts) > 1, 60, "the recovery")


def stop_all_looks(demo: RunningDemo) -> None:
    """Stop the schedule and the change sensor, as a person does."""
    workspace = ("-w", "workspace.yaml")
    _command(demo, "dagster", "schedule", "stop", "demo_every_2_minutes", *workspace)
    _command(demo, "dagster", "sensor", "stop", CHANGE_SENSOR, *workspace)


def stale_after(demo: RunningDemo, receiver: Receiver) -> float:
    """Stop all looks, change governance, and give the seconds until parity is said to be stale."""
    receiver.alerts.clear()
    stop_all_looks(demo)
    wait_for(lambda: not under_way(demo), 120, "the last run to end")
    stopped = time.monotonic()
    text = demo.world.governance_file.read_text(encoding="utf-8")
    demo.world.governance_file.write_text(f"# A change that nothing looks at\n{text}")
    git(demo.world.governance, "commit", "--quiet", "--all", "-m", "Change what nothing looks at")
    limit = demo.mirror.parity.slo_seconds + STALE_GRACE
    wait_for(lambda: STALE in receiver.titles, limit, "the alert on stale parity", every=0.2)
    return receiver.alerts[0][0] - stopped


def runs(demo: RunningDemo) -> set[str]:
    """The runs of the mirror."""
    return {run_id for run_id, _ in _runs(demo)}


def under_way(demo: RunningDemo) -> bool:
    """Whether a run of the mirror is queued or under way."""
    return any(status not in {"SUCCESS", "FAILURE", "CANCELED"} for _, status in _runs(demo))


def _runs(demo: RunningDemo) -> list[tuple[str, str]]:
    answer = demo.graphql(
        '{ runsOrError(filter: {pipelineName: "demo_sync"}, limit: 200) {'
        " ... on Runs { results { runId status } } } }"
    )
    return [(run["runId"], run["status"]) for run in answer["runsOrError"]["results"]]


def _command(demo: RunningDemo, program: str, *arguments: str, succeeds: bool = True) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    done = subprocess.run(
        [str(ROOT / ".venv/bin" / program), *arguments],
        cwd=demo.folder,
        env=kept | {"DAGSTER_HOME": str(demo.folder), "BACKSTAGE_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0 or not succeeds, done.stderr
    return done.stdout


def main() -> int:
    """Run the drill, and print what the receiver heard."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long the plan is held")
    parser.add_argument("--every", type=float, default=45, help="seconds between two changes")
    parser.add_argument("--postgres", action="store_true", help="keep the history in PostgreSQL")
    options = parser.parse_args()
    with (
        a_postgres() if options.postgres else nullcontext() as server,
        tempfile.TemporaryDirectory(prefix="held-") as place,
        receiving() as receiver,
        settled_demo(Path(place), receiver, server.new_database() if server else "") as demo,
    ):
        count = hold(demo, receiver, options.seconds, options.every)
        approve(demo, receiver)
        time.sleep(60)
        held = receiver.titles
        print(f"held for {options.seconds:.0f} s over {count} runs, then approved: {held}")
        assert held == [HELD, HELD_ENDED], held
        seconds = stale_after(demo, receiver)
        print(f"schedule and sensor stopped: {receiver.titles} after {seconds:.0f} s")
        assert receiver.titles == [STALE], receiver.titles
    return 0


if __name__ == "__main__":
    sys.exit(main())
