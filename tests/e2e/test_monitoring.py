"""Prometheus beside the whole running demo: it has its figures, and its alerts follow ECR."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster_graphql import DagsterGraphQLClient

from ecr_catalog_pipeline.adapters.exposition import Address
from ecr_catalog_pipeline.demo.world import create_in_ecr, delete_in_ecr
from tests.e2e.running import NOT_INHERITED, ROOT, RunningDemo, free_port, wait_for
from tests.integration.test_monitoring import Prometheus, a_prometheus, needs_prometheus

COMMAND = ROOT / ".venv/bin/ecr-catalog"
STATES = ("live", "pending", "ghost", "orphan", "lingering", "retired")

pytestmark = [
    needs_prometheus,
    pytest.mark.skipif(shutil.which("node") is None, reason="Node 20+ is not installed"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def prometheus(running: RunningDemo, tmp_path: Path) -> Iterator[Prometheus]:
    """Scrapes the exporter that reads the history of the demo."""
    address = Address("127.0.0.1", free_port())
    log = tmp_path / "exporter.log"
    with log.open("wb") as stream:
        exporter = subprocess.Popen(
            [COMMAND, "metrics", "--listen", str(address)],
            cwd=running.folder,
            env=environment(running),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: exporter.poll() is not None or is_healthy(address), 60, "the exporter")
        assert exporter.poll() is None, log.read_text()
        with a_prometheus(tmp_path, address) as server:
            yield server
    finally:
        exporter.send_signal(signal.SIGTERM)
        exporter.wait(60)


@pytest.fixture
def aws(running: RunningDemo) -> Iterator[Aws]:
    demo = Aws(running)
    yield demo
    demo.allow()


class Aws:
    """Lets the demo's AWS check credentials, by moto's own switch; the demo's are unknown to it."""

    def __init__(self, demo: RunningDemo) -> None:
        self._url = f"{demo.world.endpoint_url}/moto-api/reset-auth"

    def deny(self) -> None:
        self._check_after("0")

    def allow(self) -> None:
        self._check_after("inf")

    def _check_after(self, calls: str) -> None:
        request = urllib.request.Request(
            self._url, calls.encode(), {"Content-Type": "text/plain"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()


def test_prometheus_has_the_demos_figures_and_follows_a_deletion(
    running: RunningDemo, prometheus: Prometheus
) -> None:
    sync(running)
    wait_for(lambda: repositories(prometheus) == counts(running), 60, "the figures of the demo")
    before = repositories(prometheus)
    assert before["live"] > 0
    deleted = served_names(running)[0]
    delete_in_ecr(running.world, deleted)
    try:
        wait_for(
            lambda: repositories(prometheus)["live"] == before["live"] - 1, 180, "one live fewer"
        )
        assert repositories(prometheus) == counts(running)
    finally:
        create_in_ecr(running.world, deleted)
    wait_for(lambda: deleted in served_names(running), 180, "the repository to be back")

    measured = "sum(ecr_catalog_time_to_parity_seconds_count) >= 2"
    wait_for(lambda: bool(prometheus.values(measured)), 60, "both changes to be measured")
    assert prometheus.values("ecr_catalog_slo_seconds") == [
        ({**labels(prometheus), "__name__": "ecr_catalog_slo_seconds", "mirror": "demo"}, "180")
    ]


def test_an_alert_fires_while_aws_denies_and_ends_when_it_allows(
    running: RunningDemo, prometheus: Prometheus, aws: Aws
) -> None:
    sync(running)
    failed = "EcrCatalogInventoryFailed"
    wait_for(lambda: bool(repositories(prometheus)), 60, "the first figures")
    before = repositories(prometheus)
    assert failed not in prometheus.firing()

    aws.deny()
    sync(running)
    wait_for(lambda: failed in prometheus.firing(), 60, "the alert")
    assert "EcrCatalogRunFailed" not in prometheus.firing(), "one cause, one alert"
    assert repositories(prometheus) == before

    aws.allow()
    sync(running)
    wait_for(lambda: failed not in prometheus.firing(), 60, "the end of the alert")


def environment(demo: RunningDemo) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    return kept | {"DAGSTER_HOME": str(demo.folder)}


def is_healthy(address: Address) -> bool:
    with urllib.request.urlopen(f"http://{address}/healthz", timeout=10) as answer:
        return bool(answer.status == 200)


def sync(demo: RunningDemo) -> None:
    """Launch a run, as someone does in the Dagster UI."""
    DagsterGraphQLClient("127.0.0.1", port_number=demo.ui_port).submit_job_execution(
        "demo_sync",
        repository_location_name="ecr_catalog_pipeline.definitions",
        repository_name="__repository__",
    )


def repositories(prometheus: Prometheus) -> dict[str, int]:
    return {
        metric["state"]: int(value)
        for metric, value in prometheus.values("ecr_catalog_repositories")
    }


def counts(demo: RunningDemo) -> dict[str, int]:
    """The demo's repositories by state, as a plan says them."""
    done = subprocess.run(
        [COMMAND, "plan", "-m", "demo", "--json"],
        cwd=demo.folder,
        env=environment(demo),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["counts"]
    return {state: int(found[state]) for state in STATES}


def served_names(demo: RunningDemo) -> list[str]:
    entity = demo.served()
    assert entity
    return sorted(each["name"] for each in entity["spec"]["repositories"])


def labels(prometheus: Prometheus) -> dict[str, str]:
    """What Prometheus adds to each series."""
    ((found, _),) = prometheus.values("up")
    return {key: value for key, value in found.items() if key != "__name__"}
