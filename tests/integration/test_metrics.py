"""The metrics out of real histories, what the exporter serves, and the file that `sync` writes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
)
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from ecr_catalog_pipeline.adapters.exposition import Address, Page, read_text, serving, write_text
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.core.metrics import BUCKETS, MirrorMetrics, families, read_samples
from ecr_catalog_pipeline.defs import metrics as metrics_module
from ecr_catalog_pipeline.defs.jobs import MIRROR_TAG
from ecr_catalog_pipeline.defs.metrics import Exporter, MetricsReader
from ecr_catalog_pipeline.defs.run_totals import (
    TOTALS_KEY,
    RunCounter,
    RunHistory,
    count_ended,
)
from ecr_catalog_pipeline.housekeeping.history import KEPT_ENDED_RUNS
from ecr_catalog_pipeline.housekeeping.job import HousekeepingConfig, keep_house
from ecr_catalog_pipeline.settings import load_mirrors
from tests.fakes.aws import FakeAws, Fault
from tests.fakes.backstage import FakeBackstage
from tests.fakes.backstage import Fault as BackstageFault
from tests.integration.backstage import free_port, wait_for
from tests.integration.commands import Command, command_in
from tests.integration.postgres import Postgres
from tests.integration.worlds import GOVERNANCE_PATH, MIRROR, QUIET, FileTarget, World

VERSION: Final = "9.9.9"
SECONDS: Final = 60


# Worlds with a history


@dataclass
class Kept:
    """A world whose history lies in a DAGSTER_HOME."""

    world: World
    home: Path
    backstage: FakeBackstage

    def tick(self) -> bool:
        """Run the mirror's job for real; say whether it succeeded."""
        job = self.world.definitions.resolve_job_def(f"{MIRROR}_sync")
        done = job.execute_in_process(
            instance=self.world.instance, run_config=QUIET, raise_on_error=False
        )
        return done.success

    def metrics(self) -> dict[str, MirrorMetrics]:
        """Read what an exporter that starts now would say."""
        loaded = load_mirrors(self.world.mirrors)
        return {each.mirror: each for each in MetricsReader(self.world.instance).read(loaded)}

    def shown(self) -> dict[str, float]:
        """Give the samples of the mirror as they are written, without the mirror's name."""
        return lines_of(write_text(families(self.metrics().values(), VERSION)))

    def housekeep(self, keep_days: int = 7) -> int:
        """Run the housekeeping; gives how many runs it removed."""
        return keep_house(
            self.world.instance,
            HousekeepingConfig(keep_days=keep_days),
            mirrors=frozenset({MIRROR}),
            location=None,
            say=lambda _: None,
        ).freed.runs


def lines_of(text: bytes, mirror: str = MIRROR) -> dict[str, float]:
    found = {}
    for each in read_text(text):
        labels = dict(each.labels)
        if labels.pop("mirror", mirror) == mirror:
            inside = ",".join(f"{name}={labels[name]}" for name in sorted(labels))
            found[each.name.removeprefix("ecr_catalog_") + (f"{{{inside}}}" * bool(inside))] = (
                each.value
            )
    return found


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.full)])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    settings = "telemetry: {enabled: false}\n"
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        settings += (
            f"storage: {{postgres: {{postgres_url: '{server.url(server.new_database())}'}}}}\n"
        )
    with a_kept_world(tmp_path, settings) as found:
        yield found


@contextmanager
def a_kept_world(folder: Path, settings: str = "telemetry: {enabled: false}\n") -> Iterator[Kept]:
    """Give a world of four repositories whose history is kept, and a Backstage.

    Args:
        settings: of the instance.
    """
    home = folder / "dagster-home"
    home.mkdir()
    (home / "dagster.yaml").write_text(settings)
    with (
        FakeAws() as fake,
        FakeBackstage() as backstage,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        world = World(folder / "world", FileTarget(folder), fake, instance, MIRROR)
        world.write_mirror(backstage={"url": backstage.url}, guard={"max_removals": 1})
        backstage.source = lambda: world.content
        world.have("team/api", "team/web", "team/db", "team/mq")
        yield Kept(world, home, backstage)


# What is counted


@dataclass
class Log:
    """A count over the event log, by Dagster's public API alone."""

    runs: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def add(self, more: Log) -> None:
        self.runs += more.runs
        self.sources += more.sources
        self.times += more.times


def count_over_the_event_log(
    instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun] | None = None
) -> Log:
    """Count all runs, or some."""
    sources = {
        "GovernanceRefused": "governance",
        "InventoryFailed": "ecr",
        "TargetRefused": "target",
        "TargetUnavailable": "target",
    }
    log = Log()
    for run in instance.get_runs() if runs is None else runs:
        events = [each.dagster_event for each in instance.all_logs(run.run_id)]
        said = {
            each.asset_key.path[-1]: each.step_materialization_data.materialization.metadata
            for each in events
            if each and each.is_step_materialization and each.asset_key
        }
        failed = [each.step_failure_data for each in events if each and each.is_step_failure]
        if run.status is dg.DagsterRunStatus.FAILURE:
            log.runs["failed"] += 1
        elif run.status is dg.DagsterRunStatus.SUCCESS:
            log.runs[str(said["published_entity"]["outcome"].value)] += 1
        kinds = [
            str(each.user_failure_data.metadata["kind"].value)
            for each in failed
            if each.user_failure_data
        ]
        log.sources.update({sources[kind] for kind in kinds})
        if "backstage_parity" in said:
            if "backstage_down" in said["backstage_parity"]:
                log.sources["backstage"] += 1
            times: Any = said["backstage_parity"].get("times_for_slo")
            log.times += times.value if times else []
    return log


def assert_counted(shown: Mapping[str, float], log: Log) -> None:
    for outcome in ("published", "unchanged", "held", "failed"):
        assert shown[f"runs_total{{outcome={outcome}}}"] == log.runs[outcome], outcome
    for source in ("governance", "ecr", "target", "backstage"):
        assert shown[f"source_errors_total{{source={source}}}"] == log.sources[source], source
    assert shown["time_to_parity_seconds_count"] == len(log.times)
    assert shown["time_to_parity_seconds_sum"] == pytest.approx(sum(log.times), abs=1e-6)
    for bound in BUCKETS:
        within = sum(each <= bound for each in log.times)
        assert shown[f"time_to_parity_seconds_bucket{{le={bound}}}"] == within, bound


def eventful(kept: Kept) -> None:
    """Let some ticks pass with changes, failures of every source, and a plan that is held."""
    world, fake = kept.world, kept.world.fake
    assert kept.tick()
    world.have("team/new")
    assert kept.tick()
    assert kept.tick()
    fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    assert not kept.tick()
    good = world.governance_file.read_text()
    world.commit("repositories: [")
    assert not kept.tick()  # both sources at once
    fake.clear()
    world.commit(good)
    kept.backstage.fail(BackstageFault.SERVER_ERROR)
    world.have("team/another")
    assert kept.tick()
    kept.backstage.clear()
    assert kept.tick()
    content = world.content
    assert content
    world.target.overwrite(b"kind: Component\n")
    assert not kept.tick()
    world.target.overwrite(content)
    for name in ("team/api", "team/web", "team/db"):
        fake.delete(name)
    assert kept.tick()
    assert kept.tick()


def test_counters_and_histogram_are_what_a_count_over_the_event_log_gives(kept: Kept) -> None:
    loaded = load_mirrors(kept.world.mirrors)
    running = MetricsReader(kept.world.instance)
    running.read(loaded)
    eventful(kept)

    log = count_over_the_event_log(kept.world.instance)

    assert set(log.runs) == {"published", "unchanged", "held", "failed"}
    assert set(log.sources) == {"governance", "ecr", "target", "backstage"}
    assert log.times
    assert_counted(lines_of(write_text(families(running.read(loaded), VERSION))), log)
    assert_counted(kept.shown(), log)  # of an exporter that starts now


def test_no_counter_goes_down_when_housekeeping_removes_what_it_counted(kept: Kept) -> None:
    running = MetricsReader(kept.world.instance)
    loaded = load_mirrors(kept.world.mirrors)
    eventful(kept)
    log = count_over_the_event_log(kept.world.instance)
    first = kept.world.instance.get_runs()[-1].run_id
    age_every_run(kept.world.instance)
    store_runs_that_came_to_nothing(kept.world.instance, KEPT_ENDED_RUNS)

    # What stays holds the latest of an asset: of `ecr_inventory`, that its last read failed, too.
    assert kept.housekeep() == 7

    assert not kept.world.instance.get_run_by_id(first)
    assert_counted(kept.shown(), log)
    assert_counted(lines_of(write_text(families(running.read(loaded), VERSION))), log)
    kept.tick()
    log.runs["held"] += 1
    assert_counted(kept.shown(), log)
    assert_counted(lines_of(write_text(families(running.read(loaded), VERSION))), log)
    kept.housekeep()
    assert_counted(kept.shown(), log)


def age_every_run(instance: dg.DagsterInstance) -> None:
    """Let every run have ended 9 days earlier."""
    storage, days = instance.run_storage, timedelta(days=9)
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as conn:
        conn.execute(
            RunsTable.update().values(
                end_time=RunsTable.c.end_time - days.total_seconds(),
                create_timestamp=datetime.now(UTC).replace(tzinfo=None) - days,
            )
        )


def store_runs_that_came_to_nothing(instance: dg.DagsterInstance, count: int) -> None:
    """Store runs that ended and materialized nothing: the last ones of a job always stay."""
    for _ in range(count):
        instance.add_run(
            dg.DagsterRun(
                job_name=f"{MIRROR}_sync",
                run_id=str(uuid4()),
                status=dg.DagsterRunStatus.SUCCESS,
                tags={MIRROR_TAG: MIRROR},
            )
        )


def test_a_run_that_ends_long_after_later_ones_is_counted_when_it_does(kept: Kept) -> None:
    instance = kept.world.instance
    history = RunHistory(instance)
    kept.tick()
    stuck = instance.add_run(
        dg.DagsterRun(
            job_name=f"{MIRROR}_sync",
            run_id=str(uuid4()),
            status=dg.DagsterRunStatus.STARTED,
            tags={MIRROR_TAG: MIRROR},
        )
    )
    store_runs_that_came_to_nothing(instance, 2 * KEPT_ENDED_RUNS)
    running = RunCounter(history)
    assert running.totals()[MIRROR].runs == {"published": 1}
    count_ended(history)
    totals, _ = history.kept()
    assert totals.waiting == {stuck.run_id}

    instance.report_run_failed(stuck)

    for each in (running, RunCounter(history)):
        assert each.totals()[MIRROR].runs == {"published": 1, "failed": 1}
    count_ended(history)
    assert history.kept()[0].mirrors[MIRROR].runs == {"published": 1, "failed": 1}
    assert not history.kept()[0].waiting


def test_a_failed_run_whose_database_is_damaged_counts_as_failed(tmp_path: Path) -> None:
    with a_kept_world(tmp_path) as kept:
        kept.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
        kept.tick()
        (run,) = kept.world.instance.get_runs()
        for each in (kept.home / "history" / "runs").glob(f"{run.run_id}.db*"):
            each.write_bytes(b"no database" * 1_000)

        shown = kept.shown()

        assert shown["runs_total{outcome=failed}"] == 1
        assert shown["source_errors_total{source=ecr}"] == 0


def test_of_two_that_count_at_once_one_is_refused_and_nothing_is_counted_twice(kept: Kept) -> None:
    history = RunHistory(kept.world.instance)
    kept.tick()
    store_runs_that_came_to_nothing(kept.world.instance, KEPT_ENDED_RUNS)
    nothing, text = history.kept()
    assert text is None
    count_ended(history)
    counted, text = history.kept()

    assert not history.keep(nothing, None)
    assert not history.keep(nothing, "something else")
    assert history.kept() == (counted, text)
    assert history.keep(counted, text)
    assert counted.mirrors[MIRROR].runs == {"published": 1}


def test_totals_that_another_version_wrote_are_counted_again_from_what_there_is(
    kept: Kept,
) -> None:
    kept.tick()
    kept.world.instance.run_storage.set_cursor_values({TOTALS_KEY: '{"version": 99}'})
    assert kept.shown()["runs_total{outcome=published}"] == 1


# How a mirror stands


def test_the_gauges_say_how_the_last_run_found_the_mirror(kept: Kept) -> None:
    world = kept.world
    assert "repositories{state=live}" not in kept.shown()
    world.govern("team/gone", "team/early", status="pending")
    world.govern("team/gone", risk="grave")
    world.fake.create("team/stray")
    exceptions = 'exceptions: [{match: "team/stray", rule: orphan, reason: "a trial"}]\n'
    world.commit(world.governance_file.read_text() + exceptions)
    before = time.time()
    kept.tick()
    after = time.time()

    shown = kept.shown()
    assert {k: v for k, v in shown.items() if k.startswith("repositories")} == {
        "repositories{state=live}": 4,
        "repositories{state=pending}": 1,
        "repositories{state=ghost}": 1,
        "repositories{state=orphan}": 1,
        "repositories{state=lingering}": 0,
        "repositories{state=retired}": 0,
    }
    findings = {k: v for k, v in shown.items() if k.startswith("findings")}
    assert findings == {"findings{rule=risk-unknown,severity=warning}": 1}
    assert shown["excepted"] == 1
    assert (shown["plan_held"], shown["in_parity"], shown["slo_seconds"]) == (0, 1, 180)
    for name in ("last_run", "last_success", "last_parity"):
        assert before - 1 <= shown[f"{name}_timestamp_seconds"] <= after + 1, name
    published = datetime.fromisoformat(
        world.entity["metadata"]["annotations"]["platform/last-sync"]
    )
    assert shown["last_change_timestamp_seconds"] == published.timestamp()


def test_while_a_plan_is_held_and_a_source_fails_the_gauges_say_so(kept: Kept) -> None:
    kept.tick()
    good = kept.shown()
    for name in ("team/api", "team/web", "team/db"):
        kept.world.fake.delete(name)
    kept.tick()
    held = kept.shown()
    assert held["plan_held"] == 1
    assert held["last_change_timestamp_seconds"] == good["last_change_timestamp_seconds"]

    kept.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    kept.tick()
    failed = kept.shown()
    assert failed["last_run_timestamp_seconds"] > held["last_run_timestamp_seconds"]
    for name in ("last_success_timestamp_seconds", "plan_held", "repositories{state=ghost}"):
        assert failed[name] == held[name]


def test_parity_is_verified_when_the_watch_says_so_if_that_is_later(kept: Kept) -> None:
    kept.tick()
    by_run = kept.shown()["last_parity_timestamp_seconds"]
    definitions, instance = kept.world.definitions, kept.world.instance
    (watch,) = [each for each in definitions.sensors or () if "parity_watch" in each.name]
    assert isinstance(watch, dg.SensorDefinition)
    with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
        cursor = watch.evaluate_tick(context).cursor
    assert cursor
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mirrors"), "__repository__")
    state = InstigatorState(
        origin.get_instigator_origin(watch.name),
        InstigatorType.SENSOR,
        InstigatorStatus.RUNNING,
        SensorInstigatorData(),
    )
    instance.add_instigator_state(state)

    def shown_after(verified_at: float) -> float:
        at = datetime.fromtimestamp(verified_at, UTC).isoformat()
        kept_now, found = re.subn('"verified_at": "[^"]*"', f'"verified_at": "{at}"', cursor)
        assert found == 1, cursor
        data = SensorInstigatorData(cursor=kept_now)
        instance.update_instigator_state(state.with_data(data))
        return kept.shown()["last_parity_timestamp_seconds"]

    assert kept.shown()["last_parity_timestamp_seconds"] == by_run
    assert shown_after(by_run - 50) == by_run
    assert shown_after(by_run + 0.001) == pytest.approx(by_run + 0.001)
    assert shown_after(time.time() + 3_600) == by_run


def test_series_follow_the_mirror_files(kept: Kept) -> None:
    kept.tick()
    reader = MetricsReader(kept.world.instance)

    def read() -> dict[str, MirrorMetrics]:
        return {each.mirror: each for each in reader.read(load_mirrors(kept.world.mirrors))}

    assert set(read()) == {MIRROR}
    good = kept.world.mirror_file.read_text()
    kept.world.mirror_file.write_text("governance: {")
    (refused,) = read().values()
    assert refused.slo_seconds is None
    assert refused.totals.runs == {"published": 1}
    (kept.world.mirrors / "no mirror.yaml").write_text("{}")
    assert set(read()) == {MIRROR}
    kept.world.mirror_file.unlink()
    assert read() == {}
    kept.world.mirror_file.write_text(good)
    assert read()[MIRROR].totals.runs == {"published": 1}


# The exporter


def get(address: Address, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=SECONDS) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


LOOPBACK: Final = Address("127.0.0.1", 0)


def test_the_exporter_serves_what_the_history_says_and_goes_on_reading(kept: Kept) -> None:
    kept.tick()
    exporter = Exporter(kept.home, kept.world.mirrors, VERSION, print)
    with (
        exporter.reading(every=0.05),
        serving(LOOPBACK, exporter.page) as address,
    ):
        wait_for(lambda: get(address, "/healthz")[0] == 200, SECONDS, "the first reading")
        code, kind, text = get(address, "/metrics")
        assert (code, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert_counted(lines_of(text.encode()), count_over_the_event_log(kept.world.instance))
        assert get(address, "/metrics?name=x")[0] == 200
        assert get(address, "/")[0] == 404
        calls = len(kept.world.fake.calls), len(kept.backstage.asked)

        for _ in range(3):
            get(address, "/metrics")
        assert (len(kept.world.fake.calls), len(kept.backstage.asked)) == calls

        kept.tick()
        wait_for(
            lambda: lines_of(get(address, "/metrics")[2].encode())["runs_total{outcome=unchanged}"],
            SECONDS,
            "the second run",
        )
    assert exporter.page().content is not None


def test_an_exporter_that_cannot_read_logs_why_once_and_recovers(tmp_path: Path) -> None:
    mirrors, said = tmp_path / "mirrors", list[str]()
    exporter = Exporter(tmp_path, mirrors, VERSION, said.append)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with (
        exporter.reading(every=0.05),
        serving(LOOPBACK, exporter.page) as address,
    ):
        wait_for(lambda: "says why" in get(address, "/metrics")[2], SECONDS, "a problem")
        assert get(address, "/metrics")[0] == get(address, "/healthz")[0] == 503
        time.sleep(0.3)
        (reason,) = said
        assert "mirrors folder" in reason
        assert str(tmp_path) not in get(address, "/metrics")[2], "nobody has to log in there"
        mirrors.mkdir()
        wait_for(lambda: get(address, "/healthz")[0] == 200, SECONDS, "the first reading")
        assert "ecr_catalog_build_info" in get(address, "/metrics")[2]


def test_what_was_read_too_long_ago_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirrors").mkdir()
    said = list[str]()
    exporter = Exporter(tmp_path, tmp_path / "mirrors", VERSION, said.append)
    with exporter.reading(every=0.05):
        wait_for(lambda: exporter.page().content, SECONDS, "the first reading")
        (tmp_path / "mirrors").rmdir()
        wait_for(lambda: said, SECONDS, "the reason")
        assert exporter.page().content
        now = time.monotonic()
        monkeypatch.setattr(metrics_module, "monotonic", lambda: now + 61)
        assert exporter.page().content is None


def test_it_listens_on_ipv6_and_refuses_an_address_that_is_taken() -> None:
    with serving(Address("::1", 0), lambda: Page(b"x 1\n")) as address:
        assert str(address).startswith("[::1]:")
        assert get(address, "/metrics")[2] == "x 1\n"
        with (
            pytest.raises(SettingsError, match="cannot listen on"),
            serving(address, lambda: Page(b"")),
        ):
            pass


def test_a_head_request_has_no_body() -> None:
    with serving(LOOPBACK, lambda: Page(b"x 1\n")) as address:
        request = urllib.request.Request(f"http://{address}/metrics", method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            assert (answer.headers["Content-Length"], answer.read()) == ("4", b"")


# The commands


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Kept]:
    with a_kept_world(tmp_path) as found:
        yield found


@pytest.fixture
def command(
    on_sqlite: Kept, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    environment = {
        **on_sqlite.world.environ(on_sqlite.home.parent / "user"),
        "AWS_ACCESS_KEY_ID": "a-test",
        "AWS_SECRET_ACCESS_KEY": "a-test",
    }
    return command_in(on_sqlite.home.parent, environment, monkeypatch, capfd)


def test_without_a_history_the_command_says_what_to_do(command: Command) -> None:
    done = command("metrics")
    assert done.code == 1
    assert "DAGSTER_HOME is not set" in done.err
    assert "--metrics-file" in done.err


def test_a_history_in_a_missing_folder_is_reported(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "/no/such/folder")
    done = command("metrics")
    assert done.code == 1
    assert "DAGSTER_HOME is /no/such/folder" in done.err


def test_once_prints_what_the_exporter_would_serve_and_promtool_finds_no_fault(
    on_sqlite: Kept, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    eventful(on_sqlite)
    monkeypatch.setenv("DAGSTER_HOME", str(on_sqlite.home))

    done = command("metrics", "--once")

    assert (done.code, done.err) == (0, "")
    assert_counted(lines_of(done.out.encode()), count_over_the_event_log(on_sqlite.world.instance))
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=done.out, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("address", ["9780", "host", "host:", ":9780", "127.0.0.1:70000", "::1:9"])
def test_an_address_that_is_none_is_refused(command: Command, address: str) -> None:
    done = command("metrics", "--listen", address)
    assert done.code == 1
    assert "is no ADDRESS:PORT" in done.err


def test_the_command_serves_until_it_is_stopped(on_sqlite: Kept) -> None:
    port = free_port()
    environment = {
        **on_sqlite.world.environ(on_sqlite.home.parent / "user"),
        "DAGSTER_HOME": str(on_sqlite.home),
    }
    program = Path(sys.executable).with_name("ecr-catalog")
    with subprocess.Popen(
        [program, "metrics", "--listen", f"127.0.0.1:{port}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == f"Serving http://127.0.0.1:{port}/metrics\n"
            address = Address("127.0.0.1", port)
            wait_for(lambda: get(address, "/healthz")[0] == 200, SECONDS, "the first reading")
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (0, ("", ""))


# The file of `sync`


def test_sync_accumulates_in_its_file_what_it_knows_without_a_history(
    on_sqlite: Kept, command: Command, tmp_path: Path
) -> None:
    world, file = on_sqlite.world, tmp_path / "ecr-catalog.prom"

    def sync(code: int) -> dict[str, float]:
        assert command("sync", "--metrics-file", file).code == code
        return lines_of(file.read_bytes())

    first = sync(0)
    assert first["runs_total{outcome=published}"] == first["in_parity"] == 1
    assert first["repositories{state=live}"] == 4
    assert first["last_success_timestamp_seconds"] == first["last_run_timestamp_seconds"]
    assert not any(name.startswith("time_to_parity") for name in first)

    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    failed = sync(1)
    assert failed["runs_total{outcome=failed}"] == failed["source_errors_total{source=ecr}"] == 1
    assert failed["last_run_timestamp_seconds"] > failed["last_success_timestamp_seconds"]
    for name in ("repositories{state=live}", "in_parity", "last_parity_timestamp_seconds"):
        assert failed[name] == first[name]

    world.fake.clear()
    on_sqlite.backstage.fail(BackstageFault.SERVER_ERROR)
    down = sync(0)
    assert (down["in_parity"], down["source_errors_total{source=backstage}"]) == (0, 1)
    assert down["last_parity_timestamp_seconds"] == first["last_parity_timestamp_seconds"]
    on_sqlite.backstage.clear()

    for name in ("team/api", "team/web", "team/db"):
        world.fake.delete(name)
    held = sync(3)
    assert (held["plan_held"], held["runs_total{outcome=held}"]) == (1, 1)
    assert held["runs_total{outcome=published}"] == 1
    assert held["source_errors_total{source=ecr}"] == 1
    assert file.stat().st_mode & 0o777 == 0o644
    left = [path.name for path in tmp_path.iterdir() if "ecr-catalog.prom" in path.name]
    assert sorted(left) == [".ecr-catalog.prom.lock", "ecr-catalog.prom"]


def test_with_a_history_the_file_says_what_the_exporter_does(
    on_sqlite: Kept, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(on_sqlite.home))
    file = tmp_path / "ecr-catalog.prom"
    assert command("sync", "--metrics-file", file).code == 0
    on_sqlite.world.have("team/new")
    assert command("sync").code == 0
    on_sqlite.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    assert command("sync", "--metrics-file", file).code == 1

    shown = lines_of(file.read_bytes())
    assert_counted(shown, count_over_the_event_log(on_sqlite.world.instance))
    assert shown["time_to_parity_seconds_count"] == 1
    assert file.read_text() == command("metrics", "--once").out


def test_mirrors_share_a_file_and_one_that_is_removed_leaves_it(
    on_sqlite: Kept, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "ecr-catalog.prom"
    others = [MirrorMetrics("another", 60), MirrorMetrics("removed", 60)]
    file.write_bytes(write_text(families(others, "0.0.1")))
    (on_sqlite.world.mirrors / "another.yaml").write_text("governance: {")

    assert command("sync", "-m", MIRROR, "--metrics-file", file).code == 0

    found = read_samples(read_text(file.read_bytes()))
    assert set(found) == {"another", MIRROR}
    assert found["another"].slo_seconds == 60
    assert file.read_text().count("build_info{") == 1


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"ecr_catalog_excepted{", b"\0" * 100])
def test_a_damaged_file_starts_over(
    on_sqlite: Kept, command: Command, tmp_path: Path, damage: bytes
) -> None:
    file = tmp_path / "ecr-catalog.prom"
    file.write_bytes(damage)
    done = command("sync", "--metrics-file", file)
    assert done.code == 0
    assert "starts over" in done.err
    assert lines_of(file.read_bytes())["runs_total{outcome=published}"] == 1
    assert on_sqlite.world.content


def test_a_file_that_cannot_be_written_is_a_warning(
    on_sqlite: Kept, command: Command, tmp_path: Path
) -> None:
    done = command("sync", "--metrics-file", tmp_path / "missing" / "ecr-catalog.prom")
    assert done.code == 0
    assert "warning: " in done.err
    assert "does not hold the metrics of this run" in done.err
    assert on_sqlite.world.content


def test_a_history_that_cannot_be_used_leaves_the_metrics_of_the_run_alone(
    on_sqlite: Kept, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, file = tmp_path / "damaged", tmp_path / "ecr-catalog.prom"
    (home / "history").mkdir(parents=True)
    (home / "history" / "runs.db").write_bytes(b"no database" * 100)
    monkeypatch.setenv("DAGSTER_HOME", str(home))

    assert command("sync", "--metrics-file", file).code == 0

    assert lines_of(file.read_bytes())["runs_total{outcome=published}"] == 1
    assert on_sqlite.world.content


def test_all_mirrors_at_once_write_one_file(
    on_sqlite: Kept, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ecr-catalog.prom"
    good = on_sqlite.world.mirror_file.read_text()
    for name in ("second", "third"):
        text = good.replace("ecr-registry.yaml", f"{name}.yaml")
        (on_sqlite.world.mirrors / f"{name}.yaml").write_text(text)
    third = on_sqlite.world.mirrors / "third.yaml"
    third.write_text(third.read_text().replace(GOVERNANCE_PATH, "nowhere.yaml"))

    assert command("sync", "--all", "--metrics-file", file).code == 1
    alone = {name: lines_of(file.read_bytes(), name) for name in (MIRROR, "second", "third")}
    monkeypatch.setenv("DAGSTER_HOME", str(on_sqlite.home))
    assert command("sync", "--all", "--metrics-file", file).code == 1
    with_history = {name: lines_of(file.read_bytes(), name) for name in alone}

    for shown in (alone, with_history):
        assert shown["third"]["source_errors_total{source=governance}"] == 1
        assert shown["third"]["runs_total{outcome=failed}"] == 1
        assert shown[MIRROR]["runs_total{outcome=failed}"] == 0
    for name in (MIRROR, "second"):
        assert alone[name]["runs_total{outcome=published}"] == 1
        assert with_history[name]["runs_total{outcome=unchanged}"] == 1
        assert with_history[name]["time_to_parity_seconds_count"] == 0
