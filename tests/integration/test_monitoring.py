"""The alert rules, the dashboard, and a real Prometheus that scrapes the exporter."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from ecr_catalog_pipeline.adapters.exposition import Address, serving
from ecr_catalog_pipeline.core.metrics import (
    BUCKETS,
    EndedRun,
    MirrorMetrics,
    RunOutcome,
    Standing,
    Totals,
    families,
)
from ecr_catalog_pipeline.defs.metrics import Exporter
from ecr_catalog_pipeline.settings import ParitySettings
from tests.fakes.aws import Fault
from tests.integration.backstage import free_port, wait_for
from tests.integration.test_metrics import Kept, a_kept_world, assert_counted, lines_of
from tests.integration.test_metrics import count_over_the_event_log as count_log
from tests.integration.worlds import MIRROR

ROOT: Final = Path(__file__).parents[2]
MONITORING: Final = ROOT / "deploy" / "monitoring"
RULES: Final = MONITORING / "rules.yaml"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="Prometheus is not installed (Debian: prometheus)"
)


# The rules


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> set[str]:
    return {rule["alert"] for rule in rules() if "alert" in rule}


@needs_prometheus
@pytest.mark.parametrize(
    "command", [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]]
)
def test_promtool_finds_no_fault_with_the_rules_and_their_tests_pass(command: list[str]) -> None:
    assert PROMTOOL
    done = subprocess.run(
        [PROMTOOL, *command], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_raised_in_the_tests_of_the_rules() -> None:
    raised: set[str] = set()
    for test in yaml.safe_load((MONITORING / "rules.test.yaml").read_text())["tests"]:
        for each in test.get("alert_rule_test", ()):
            raised |= {each["alertname"]} if each["exp_alerts"] else set()
        for each in test.get("promql_expr_test", ()):
            for sample in each["exp_samples"]:
                if sample["value"]:
                    raised |= set(re.findall(r'alertname="(\w+)"', sample["labels"]))
    assert raised >= alerts()


def test_the_rules_count_what_is_late_by_the_slo_that_mirrors_have_by_default() -> None:
    slo = ParitySettings().slo_seconds
    assert slo in BUCKETS
    bounds = re.findall(r'le=~"([^"]*)"', RULES.read_text())
    assert len(bounds) == 5
    assert {bound.replace("\\\\", "\\") for bound in bounds} == {rf"{slo}(\.0)?"}


NAMES: Final = {
    sample.name
    for family in families(
        [
            MirrorMetrics(
                "a",
                180,
                Standing(
                    repositories={"live": 1},
                    findings={("r", "info"): 1},
                    excepted=0,
                    held=False,
                    in_parity=True,
                    verified_at=1,
                    changed_at=1,
                ),
                Totals().plus(1, EndedRun(RunOutcome.UNCHANGED, ended_at=1)),
            )
        ],
        "1",
    )
    for sample in family.samples
}


def test_rules_dashboard_and_page_name_only_metrics_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for text in (RULES.read_text(), (MONITORING / "dashboard.json").read_text()):
        used = set(re.findall(r"(?<![\w:])ecr_catalog_\w+", text)) - {"ecr_catalog_pipeline"}
        assert used <= NAMES
        assert set(re.findall(r"mirror:\w+:\w+", text)) <= recorded
    page = (ROOT / "docs" / "metrics.md").read_text()
    shown = set(re.findall(r"`(ecr_catalog_\w+)`", page))
    assert shown == {re.sub(r"_(bucket|count|sum)$", "", name) for name in NAMES}
    assert set(re.findall(r"`(EcrCatalog\w+)`", page)) == alerts()


# The dashboard


@dataclass(frozen=True)
class Query:
    panel: str
    expression: str
    instant: bool


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def queries() -> list[Query]:
    values = {"$mirror": ".+", "$__rate_interval": "5m", "$__range": "1h"}
    found = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            found.append(Query(panel["title"], expression, target.get("instant", False)))
    return found


def test_the_dashboard_has_the_form_that_grafana_describes() -> None:
    plugins.register_default_plugins()
    read = Dashboard.from_json(dashboard())
    written = json.loads(JSONEncoder(sort_keys=True).encode(read))
    assert not list(_lost(dashboard(), written, "dashboard"))


def _lost(ours: Any, theirs: Any, where: str) -> Iterator[str]:
    """Name what Grafana's own model does not know, or reads as something else."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from _lost(value, theirs.get(key, "nothing"), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _lost(one, other, f"{where}[{place}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} is read as {theirs!r}"


def test_every_panel_has_a_unit_a_description_and_the_variables() -> None:
    board = dashboard()
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "mirror"]
    assert board["templating"]["list"][1]["query"]["query"] == (
        "label_values(ecr_catalog_runs_total, mirror)"
    )
    panels = [each for each in board["panels"] if each["type"] != "row"]
    assert len(panels) > 10
    for panel in panels:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        for target in [panel, *panel["targets"]]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert "$mirror" in target["expr"] or "build_info" in target["expr"], panel["title"]
    places = {(x, y) for each in board["panels"] for x, y in _cells(each["gridPos"])}
    assert len(places) == sum(
        each["gridPos"]["w"] * each["gridPos"]["h"] for each in board["panels"]
    )


def _cells(grid: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(grid["x"], grid["x"] + grid["w"]):
        for y in range(grid["y"], grid["y"] + grid["h"]):
            yield x, y


# A real Prometheus


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def ready(self) -> bool:
        try:
            return bool(self.ask("query", query="up")["result"])
        except (urllib.error.URLError, ConnectionError):
            return False

    def values(self, query: str) -> list[tuple[dict[str, str], str]]:
        return [
            (each["metric"], each["value"][1]) for each in self.ask("query", query=query)["result"]
        ]

    def firing(self) -> set[str]:
        return {
            each["labels"]["alertname"]
            for each in self.ask("alerts")["alerts"]
            if each["state"] == "firing"
        }


@contextmanager
def a_prometheus(folder: Path, scraped: Address) -> Iterator[Prometheus]:
    """Scrape and evaluate every second, with our rules, which wait for nothing."""
    assert PROMETHEUS
    content = yaml.safe_load(RULES.read_text())
    for group in content["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(content))
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [
                    {"job_name": "ecr-catalog", "static_configs": [{"targets": [str(scraped)]}]}
                ],
            }
        )
    )
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        server = Prometheus(port)
        wait_for(lambda: process.poll() is not None or server.ready(), 60, "Prometheus")
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@needs_prometheus
@pytest.mark.full
def test_a_real_prometheus_answers_the_dashboard_and_raises_and_ends_alerts(
    tmp_path: Path,
) -> None:
    with a_kept_world(tmp_path) as kept:
        world, exporter = kept.world, Exporter(kept.home, kept.world.mirrors, "9.9.9", print)
        world.govern("team/gone", risk="grave")
        kept.tick()
        with (
            exporter.reading(every=0.2),
            serving(Address("127.0.0.1", 0), exporter.page) as address,
            a_prometheus(tmp_path, address) as prometheus,
        ):
            answers_the_dashboard(kept, prometheus, address)
            raises_and_ends(kept, prometheus)


def answers_the_dashboard(kept: Kept, prometheus: Prometheus, address: Address) -> None:
    runs = "sum(ecr_catalog_runs_total)"
    wait_for(lambda: prometheus.values(runs) == [({}, "1")], 30, "the first run")
    kept.world.have("team/new")
    kept.tick()
    wait_for(lambda: prometheus.values(runs) == [({}, "2")], 30, "the second run")
    wait_for(
        lambda: prometheus.values("sum(increase(ecr_catalog_runs_total[5m])) > 0"),
        30,
        "an increase",
    )
    for query in queries():
        assert prometheus.values(query.expression), query
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        shown = lines_of(answer.read())
    assert_counted(shown, count_log(kept.world.instance))
    states = {
        metric["state"]: float(value)
        for metric, value in prometheus.values("ecr_catalog_repositories")
    }
    assert states == {
        name.removeprefix("repositories{state=").rstrip("}"): value
        for name, value in shown.items()
        if name.startswith("repositories")
    }
    assert states["live"] == 5
    mirrors = prometheus.ask("label/mirror/values", **{"match[]": "ecr_catalog_runs_total"})
    assert mirrors == [MIRROR]


def raises_and_ends(kept: Kept, prometheus: Prometheus) -> None:
    assert not prometheus.firing()
    kept.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    kept.tick()
    wait_for(lambda: prometheus.firing() == {"EcrCatalogInventoryFailed"}, 30, "the alert")
    kept.world.fake.clear()
    kept.tick()
    wait_for(lambda: not prometheus.firing(), 30, "the end of the alert")
