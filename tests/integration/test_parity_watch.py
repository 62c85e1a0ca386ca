"""The alert drill: break each thing for real, and count what a real receiver hears."""

from __future__ import annotations

import json
import logging
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import dagster as dg
import pytest
import sqlalchemy as sql
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
)
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.notify import ALERT_URLS_VARIABLE
from ecr_catalog_pipeline.core.alerts import Signal
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs import change_sensor, conditions, parity_watch
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, PARITY_WATCH
from ecr_catalog_pipeline.defs.event_log import read_parity
from ecr_catalog_pipeline.settings import load_mirrors
from tests.fakes.aws import FakeAws, Fault
from tests.fakes.backstage import FakeBackstage
from tests.fakes.backstage import Fault as BackstageFault
from tests.integration.instances import an_instance
from tests.integration.worlds import MIRROR, FileTarget, World

pytestmark = pytest.mark.history

NAMES: Final = tuple(f"team/app-{number}" for number in range(5))
SECRET: Final = "hook-s3cr3t"
LOCATION: Final = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mirrors"), "__repository__")


class Receiver:
    """Takes what Apprise posts, as long as it is up."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if receiver.status == 200:
                    receiver.heard.append(body)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        port = self._server.server_port
        return f"json://robot:{SECRET}@127.0.0.1:{port}/{SECRET}/?+X-Key={SECRET}"

    @property
    def titles(self) -> list[str]:
        return [each["title"] for each in self.heard]

    @property
    def keys(self) -> list[str]:
        return [each["message"].rpartition("Key: ")[2] for each in self.heard]


@dataclass
class Drill:
    """A mirror in parity, somebody who watches it, and somebody who gets the alerts."""

    world: World
    backstage: FakeBackstage
    receiver: Receiver
    cursor: str | None = None
    files_cursor: str | None = None
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def definitions(self) -> dg.Definitions:
        environ = {**self.environ, "ECR_CATALOG_CACHE": str(self.world.cache)}
        return build_definitions(load_mirrors(self.world.mirrors), environ=environ)

    def sync(self, *, approve: str | None = None) -> None:
        self.world.sync(approve=approve)

    def look(self, times: int = 1) -> SensorExecutionData:
        """Evaluate the watch as the daemon does: new definitions, the cursor of the last time."""
        definitions = self.definitions
        for _ in range(times):
            tick = self.tick(definitions, PARITY_WATCH, self.cursor)
            self.cursor = tick.cursor
        return tick

    @property
    def kept(self) -> dict[str, Any]:
        """What the cursor keeps of the mirror."""
        kept: dict[str, Any] = json.loads(self.cursor or "{}")["mirrors"][MIRROR]
        return kept

    @kept.setter
    def kept(self, kept: object) -> None:
        self.cursor = json.dumps({"version": 1, "mirrors": {MIRROR: kept}})

    def look_at_files(self) -> SensorExecutionData:
        """Evaluate the watch of the mirror files after the code location was loaded again."""
        tick = self.tick(self.definitions, "mirror_files_watch", self.files_cursor)
        self.files_cursor = tick.cursor
        return tick

    def tick(
        self, definitions: dg.Definitions, name: str, cursor: str | None
    ) -> SensorExecutionData:
        sensor = definitions.resolve_sensor_def(name)
        with dg.build_sensor_context(
            instance=self.world.instance,
            cursor=cursor,
            definitions=definitions,
            resources={
                key: (definitions.resources or {})[key] for key in sensor.required_resource_keys
            },
        ) as context:
            tick = sensor.evaluate_tick(context)
        for event in tick.asset_events:
            assert isinstance(event, dg.AssetObservation | dg.AssetCheckEvaluation)
            self.world.instance.report_runless_asset_event(event)
        return tick

    def heard(self) -> list[str]:
        """Look several times; give what was reported since the last time."""
        before = len(self.receiver.titles)
        self.look(times=3)
        return self.receiver.titles[before:]


@pytest.fixture(autouse=True)
def quick_and_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask Backstage more often than a run in production does, and wait for every look."""
    monkeypatch.setattr(mirroring, "POLL_SECONDS", 0.02)
    # As long as a busy machine takes.
    monkeypatch.setattr(parity_watch, "STRAGGLER_SECONDS", 60)
    monkeypatch.setattr(change_sensor, "STRAGGLER_SECONDS", 60)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def drill(tmp_path: Path, receiver: Receiver) -> Iterator[Drill]:
    with (
        FakeAws() as aws,
        FakeBackstage() as backstage,
        an_instance() as instance,
    ):
        target = FileTarget(tmp_path)
        world = World(tmp_path, target, aws, instance, MIRROR)
        world.write_mirror(backstage={"url": backstage.url})
        backstage.source = target.content
        world.have(*NAMES)
        world.sync()
        drill = Drill(world, backstage, receiver)
        drill.environ[ALERT_URLS_VARIABLE] = receiver.url
        assert drill.heard() == []
        yield drill


def dont_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run look at Backstage once and not wait for it."""
    monkeypatch.setattr(mirroring, "VISIBLE_SECONDS", 0)


def begins(signal: Signal) -> str:
    return f"[{MIRROR}] {signal.replace('-', ' ')}"


def ends(signal: Signal) -> str:
    return f"[{MIRROR}] RECOVERED: {signal.replace('-', ' ')}"


def delete_most(drill: Drill) -> str:
    """Delete more than the guard lets pass; gives the hash of the held plan."""
    for name in NAMES[1:]:
        drill.world.fake.delete(name)
    return drill.world.sync().planned.plan.plan_hash


# Each thing that can be wrong: one alert when it begins, one when it ends


def test_a_mirror_in_parity_says_so_and_alerts_nobody(drill: Drill) -> None:
    tick = drill.look()

    assert tick.skip_message == "all is well"
    assert drill.receiver.heard == []


@pytest.mark.parametrize("how", ["closed", BackstageFault.FORBIDDEN])
def test_a_backstage_that_is_down_is_one_alert(drill: Drill, how: str | BackstageFault) -> None:
    if isinstance(how, BackstageFault):
        drill.backstage.fail(how)
    else:
        drill.backstage.close()

    assert drill.heard() == [begins(Signal.BACKSTAGE_UNREACHABLE)]
    drill.sync()
    assert drill.heard() == []

    drill.backstage.clear()
    if how == "closed":
        drill.backstage.open()

    assert drill.heard() == [ends(Signal.BACKSTAGE_UNREACHABLE)]
    drill.sync()
    assert drill.heard() == []


def test_an_inventory_that_is_denied_is_one_alert(drill: Drill) -> None:
    drill.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    drill.world.sync_fails()

    assert drill.heard() == [begins(Signal.INVENTORY_FAILED)]
    drill.world.sync_fails()
    assert drill.heard() == []

    drill.world.fake.clear()
    drill.sync()
    assert drill.heard() == [ends(Signal.INVENTORY_FAILED)]


def test_a_broken_governance_file_is_one_alert(drill: Drill) -> None:
    drill.world.commit("version: '1.0'\nrepositories: [broken\n")
    drill.world.sync_fails()

    assert drill.heard() == [begins(Signal.GOVERNANCE_REFUSED)]
    assert "ecr-catalog.yaml:" in drill.receiver.heard[-1]["message"]
    drill.world.sync_fails()
    assert drill.heard() == []

    drill.world.revert()
    drill.sync()
    assert drill.heard() == [ends(Signal.GOVERNANCE_REFUSED)]


def last_known_good(drill: Drill) -> dg.AssetCheckEvaluation:
    """The check of that name, as the UI shows it now."""
    key = dg.AssetCheckKey(dg.AssetKey([MIRROR, "published_entity"]), "last_known_good")
    latest = drill.world.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
    event = latest[key].event
    assert event is not None
    evaluation = event.get_dagster_event().asset_check_evaluation_data
    assert isinstance(evaluation, dg.AssetCheckEvaluation)
    return evaluation


def test_a_run_that_fails_leaves_the_age_of_the_last_good_entity_and_the_reason(
    drill: Drill,
) -> None:
    assert last_known_good(drill).passed
    before = last_known_good(drill).metadata["last_good_at"].value

    drill.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    drill.world.sync_fails()
    assert len(drill.look().asset_events) == 1
    assert drill.look().asset_events == [], "the same reason is not written down at every look"

    kept = last_known_good(drill)
    assert not kept.passed
    assert kept.severity is dg.AssetCheckSeverity.WARN
    assert kept.description is not None
    assert "ecr:DescribeRepositories failed with AccessDenied" in kept.description
    assert kept.metadata["last_good_at"].value == before
    age = kept.metadata["age"].value
    assert isinstance(age, float)
    assert age > 0

    drill.world.fake.clear()
    drill.world.commit("repositories: [")
    drill.world.sync_fails()
    drill.look()
    another = last_known_good(drill).description
    assert another is not None
    assert "ecr-catalog.yaml:" in another

    drill.world.revert()
    drill.sync()
    assert last_known_good(drill).passed
    assert drill.look().asset_events == []


def test_the_age_of_an_entity_that_no_run_renews_is_written_down_every_two_minutes(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    drill.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    drill.world.sync_fails()
    drill.look()
    first = last_known_good(drill).metadata["age"].value

    monkeypatch.setattr(parity_watch, "AGE_EVERY", timedelta(0))
    assert len(drill.look().asset_events) == 1

    later = last_known_good(drill).metadata["age"].value
    assert isinstance(first, float)
    assert isinstance(later, float)
    assert later > first


def test_a_held_plan_is_one_alert_that_says_how_to_approve_it(drill: Drill) -> None:
    plan_hash = delete_most(drill)

    assert drill.heard() == [begins(Signal.PLAN_HELD)]
    assert f"sync -m {MIRROR} --approve {plan_hash}" in drill.receiver.heard[-1]["message"]
    drill.sync()
    assert drill.heard() == []

    drill.sync(approve=plan_hash)
    assert drill.heard() == [ends(Signal.PLAN_HELD)]


def test_a_run_that_hangs_is_one_alert_until_the_next_one_succeeds(drill: Drill) -> None:
    hung = started_run(drill, since=timedelta(minutes=5))

    assert drill.heard() == [begins(Signal.RUN_HUNG)]
    assert hung.run_id in drill.receiver.heard[-1]["message"]

    drill.world.instance.report_run_failed(hung, "Exceeded maximum runtime")
    assert drill.heard() == []

    drill.sync()
    assert drill.heard() == [ends(Signal.RUN_HUNG)]


def test_a_run_that_is_under_way_is_no_alert(drill: Drill) -> None:
    started_run(drill, since=timedelta(seconds=60))

    assert drill.heard() == []


def started_run(drill: Drill, since: timedelta) -> dg.DagsterRun:
    """Write a run into the event log that was started and says nothing since."""
    instance = drill.world.instance
    job = drill.definitions.resolve_job_def(f"{MIRROR}_sync")
    run = instance.create_run_for_job(job, tags=job.run_tags)
    event = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
    then = datetime.now(UTC) - since
    instance.run_storage.handle_run_event(run.run_id, event, then)
    (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
    assert record.dagster_run.status is dg.DagsterRunStatus.STARTED
    return run


def test_a_backstage_that_serves_something_else_is_one_alert(drill: Drill) -> None:
    drill.sync()  # publishes nothing, so nothing is on its way any more
    drill.backstage.tampering = lambda entity: entity["metadata"].update(title="Mine")
    drill.backstage.reread()

    assert drill.heard() == [begins(Signal.BACKSTAGE_DIFFERS)]
    assert "tampered" in drill.receiver.heard[-1]["message"]

    drill.backstage.tampering = lambda _: None
    drill.backstage.reread()
    assert drill.heard() == [ends(Signal.BACKSTAGE_DIFFERS)]


def test_backstage_may_serve_the_old_version_for_a_moment_after_a_publication(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    dont_wait(monkeypatch)
    drill.backstage.source = lambda: None
    drill.world.have("team/new")
    drill.sync()

    assert drill.heard() == []


def test_a_backstage_that_differs_has_not_recovered_because_something_was_just_published(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    drill.sync()
    drill.backstage.tampering = lambda entity: entity["metadata"].update(title="Mine")
    drill.backstage.reread()
    assert drill.heard() == [begins(Signal.BACKSTAGE_DIFFERS)]

    dont_wait(monkeypatch)
    drill.world.have("team/new")
    drill.sync()
    assert drill.heard() == []

    drill.backstage.tampering = lambda _: None
    drill.backstage.reread()
    assert drill.heard() == [ends(Signal.BACKSTAGE_DIFFERS)]


def test_a_finding_of_severity_error_is_one_alert(drill: Drill) -> None:
    drill.world.govern("No/Such Name")
    assert not drill.world.sync().checks["governance_findings"]

    assert drill.heard() == [begins(Signal.GOVERNANCE_FINDINGS)]
    assert "governance_findings" in drill.receiver.heard[-1]["message"]

    drill.world.revert()
    drill.sync()
    assert drill.heard() == [ends(Signal.GOVERNANCE_FINDINGS)]


def test_a_parity_that_nobody_verifies_any_more_is_one_alert(drill: Drill) -> None:
    drill.world.write_mirror(parity={"slo_seconds": 10})  # no Backstage that the watch could ask
    drill.sync()
    assert drill.heard() == []

    while not (heard := drill.heard()):
        pass
    assert heard == [begins(Signal.PARITY_STALE)]
    assert "the SLO is 10 s" in drill.receiver.heard[-1]["message"]

    drill.sync()
    assert drill.heard()[:1] == [ends(Signal.PARITY_STALE)]


# One cause, one alert; no false recovery


def test_a_backstage_that_differed_and_goes_down_has_not_recovered(drill: Drill) -> None:
    drill.sync()
    drill.backstage.forget()
    drill.backstage.source = lambda: None
    assert drill.heard() == [begins(Signal.BACKSTAGE_DIFFERS)]

    drill.backstage.fail(BackstageFault.SERVER_ERROR)
    assert drill.heard() == [begins(Signal.BACKSTAGE_UNREACHABLE)]

    drill.backstage.clear()
    assert drill.heard() == [ends(Signal.BACKSTAGE_UNREACHABLE)]


def test_a_held_plan_is_still_held_while_ecr_cannot_be_read(drill: Drill) -> None:
    delete_most(drill)
    assert drill.heard() == [begins(Signal.PLAN_HELD)]

    drill.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    drill.world.sync_fails()
    assert drill.heard() == [begins(Signal.INVENTORY_FAILED)]

    drill.world.fake.clear()
    drill.sync()
    assert drill.heard() == [ends(Signal.INVENTORY_FAILED)]


def test_two_causes_at_a_time_are_two_alerts(drill: Drill) -> None:
    drill.backstage.close()
    drill.world.commit("]")
    drill.world.sync_fails()

    reported = sorted(drill.heard())

    assert reported == sorted(
        [begins(Signal.BACKSTAGE_UNREACHABLE), begins(Signal.GOVERNANCE_REFUSED)]
    )


# What is only planned, queued or under way begins and ends nothing


def planned_run(drill: Drill, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """Store a run with all that it plans, checks included, as the daemon does."""
    job = drill.definitions.resolve_job_def(f"{MIRROR}_sync")
    return drill.world.instance.create_run_for_job(
        job,
        status=status,
        tags=job.run_tags,
        remote_job_origin=LOCATION.get_job_origin(job.name),
    )


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
def test_a_held_plan_has_not_recovered_because_a_run_waits_or_is_under_way(
    drill: Drill, status: dg.DagsterRunStatus
) -> None:
    plan_hash = delete_most(drill)
    assert drill.heard() == [begins(Signal.PLAN_HELD)]

    for _ in range(3):
        run = planned_run(drill, status)
        assert drill.heard() == []
        drill.world.instance.report_run_canceled(run)
        assert drill.heard() == [], "a run that was canceled has judged nothing"

    drill.sync(approve=plan_hash)
    assert drill.heard() == [ends(Signal.PLAN_HELD)]


def test_a_finding_has_not_recovered_because_a_run_is_under_way_or_failed_before_the_check(
    drill: Drill,
) -> None:
    drill.world.govern("No/Such Name")
    drill.sync()
    assert drill.heard() == [begins(Signal.GOVERNANCE_FINDINGS)]

    run = planned_run(drill, dg.DagsterRunStatus.STARTED)
    assert drill.heard() == []
    drill.world.instance.report_run_failed(run, "killed")
    assert drill.heard() == [begins(Signal.RUN_HUNG)]
    assert "none of its steps did: killed" in drill.receiver.heard[-1]["message"]

    drill.world.revert()
    drill.sync()
    assert sorted(drill.heard()) == sorted(
        [ends(Signal.RUN_HUNG), ends(Signal.GOVERNANCE_FINDINGS)]
    )


def test_a_run_that_hangs_has_not_repaired_the_source_that_failed_before(drill: Drill) -> None:
    drill.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    drill.world.sync_fails()
    assert drill.heard() == [begins(Signal.INVENTORY_FAILED)]

    hung = started_run(drill, since=timedelta(minutes=5))
    drill.world.instance.report_run_failed(hung, "Exceeded maximum runtime")
    assert drill.heard() == [begins(Signal.RUN_HUNG)]

    drill.world.fake.clear()
    drill.sync()
    assert sorted(drill.heard()) == sorted([ends(Signal.INVENTORY_FAILED), ends(Signal.RUN_HUNG)])


def test_a_source_that_a_failed_run_did_not_get_to_read_has_not_recovered(drill: Drill) -> None:
    drill.world.commit("version: '1.0'\nrepositories: [broken\n")
    drill.world.sync_fails()
    assert drill.heard() == [begins(Signal.GOVERNANCE_REFUSED)]

    drill.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    drill.world.sync_fails(only=["ecr_inventory"])
    assert drill.heard() == [begins(Signal.INVENTORY_FAILED)]

    drill.world.fake.clear()
    drill.world.revert()
    drill.sync()
    assert sorted(drill.heard()) == sorted(
        [ends(Signal.GOVERNANCE_REFUSED), ends(Signal.INVENTORY_FAILED)]
    )


def test_a_run_that_waits_too_long_is_an_alert_of_its_own(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned_run(drill, dg.DagsterRunStatus.QUEUED)
    assert drill.heard() == [], "every run waits for a moment"

    monkeypatch.setattr(conditions, "QUEUED_AFTER", timedelta(0))
    assert drill.heard() == [begins(Signal.RUN_QUEUED)]
    assert run.run_id in drill.receiver.heard[-1]["message"]

    drill.world.instance.report_run_canceled(run)
    assert drill.heard() == [ends(Signal.RUN_QUEUED)]


def test_a_run_that_waits_for_another_one_of_its_mirror_is_no_alert(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "QUEUED_AFTER", timedelta(0))
    started_run(drill, since=timedelta(seconds=60))
    planned_run(drill, dg.DagsterRunStatus.QUEUED)

    assert drill.heard() == []


# Parity is verified only as far as the sources were compared


class Looks:
    """The change sensor, evaluated and kept as the daemon does."""

    def __init__(self, drill: Drill) -> None:
        self.drill = drill
        self.state = InstigatorState(
            LOCATION.get_instigator_origin(CHANGE_SENSOR),
            InstigatorType.SENSOR,
            InstigatorStatus.RUNNING,
            SensorInstigatorData(),
        )
        drill.world.instance.add_instigator_state(self.state)

    def look(self) -> datetime:
        """Look at both sources; gives when that began."""
        before = datetime.now(UTC)
        self.drill.world.restart()
        self._tick()
        return before

    def _tick(self) -> SensorExecutionData:
        definitions, instance = self.drill.world.definitions, self.drill.world.instance
        sensor = definitions.resolve_sensor_def(CHANGE_SENSOR)
        data = self.state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        with dg.build_sensor_context(
            instance=instance,
            cursor=data.cursor,
            definitions=definitions,
            resources={
                key: (definitions.resources or {})[key] for key in sensor.required_resource_keys
            },
        ) as context:
            tick = sensor.evaluate_tick(context)
        self.state = self.state.with_data(SensorInstigatorData(cursor=tick.cursor or data.cursor))
        instance.update_instigator_state(self.state)
        return tick


@pytest.fixture
def kept_drill(tmp_path: Path, receiver: Receiver) -> Iterator[Drill]:
    """A mirror, whose instance keeps the state of sensors."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with (
        FakeAws() as aws,
        FakeBackstage() as backstage,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        target = FileTarget(tmp_path)
        world = World(tmp_path, target, aws, instance, MIRROR)
        world.write_mirror(backstage={"url": backstage.url}, parity={"slo_seconds": 600})
        backstage.source = target.content
        world.have(*NAMES)
        drill = Drill(world, backstage, receiver)
        drill.environ[ALERT_URLS_VARIABLE] = receiver.url
        yield drill


def verified_at(drill: Drill) -> datetime:
    return datetime.fromisoformat(drill.kept["verified_at"])


def test_parity_is_verified_by_both_the_looks_at_the_sources_and_those_at_backstage(
    kept_drill: Drill,
) -> None:
    kept_drill.sync()
    state = read_parity(kept_drill.world.instance, kept_drill.world.mirror)
    assert state.sources is not None
    kept_drill.look(times=2)
    assert verified_at(kept_drill) == state.sources.began_at, "Backstage alone verifies nothing"

    looks = Looks(kept_drill)
    began = looks.look()
    kept_drill.look()
    verified = verified_at(kept_drill)
    assert verified >= began, "both sources are as the run read them, Backstage serves that"

    kept_drill.backstage.tampering = lambda entity: entity["metadata"].update(title="Mine")
    kept_drill.backstage.reread()
    looks.look()
    kept_drill.look()
    assert verified_at(kept_drill) == verified, "the sources alone verify nothing either"

    kept_drill.backstage.tampering = lambda _: None
    kept_drill.backstage.reread()
    looks.look()
    kept_drill.world.fake.create("team/new")
    looks.look()
    kept_drill.look()
    assert verified_at(kept_drill) == verified, "ECR has changed since the run"
    kept_drill.world.fake.delete("team/new")
    began = looks.look()
    kept_drill.look()
    verified = verified_at(kept_drill)
    assert verified >= began

    kept_drill.world.govern("team/new")
    looks.look()
    kept_drill.look()
    assert verified_at(kept_drill) == verified, "governance has changed since the run"


def test_when_no_look_and_no_run_compares_the_sources_parity_is_stale_beside_a_lasting_finding(
    kept_drill: Drill,
) -> None:
    kept_drill.world.govern("No/Such Name")
    kept_drill.sync()
    assert kept_drill.heard() == [begins(Signal.GOVERNANCE_FINDINGS)]

    kept_drill.world.write_mirror(
        backstage={"url": kept_drill.backstage.url}, parity={"slo_seconds": 1}
    )
    while not (heard := kept_drill.heard()):
        time.sleep(0.2)

    assert heard == [begins(Signal.PARITY_STALE)]


def test_a_mirror_whose_runs_never_come_is_stale_too(kept_drill: Drill) -> None:
    assert kept_drill.heard() == []

    kept_drill.world.write_mirror(
        backstage={"url": kept_drill.backstage.url}, parity={"slo_seconds": 1}
    )
    while not (heard := kept_drill.heard()):
        time.sleep(0.2)

    assert heard == [begins(Signal.PARITY_STALE)]
    assert "never verified" in kept_drill.receiver.heard[-1]["message"]


# What was kept and cannot be read, and what goes wrong in the watch itself


@pytest.mark.parametrize(
    "cursor",
    [
        "{",
        "[]",
        '{"version": 99, "raised": {}}',
        '{"raised": {}, "served": "what one mirror kept before"}',
        '{"mirrors": {"goldenpath": []}}',
        '{"mirrors": {"goldenpath": {"raised": "none"}}}',
        '{"mirrors": {"goldenpath": {"raised": {}, "verified_at": "2026-01-09T12:00:00"}}}',
        '{"mirrors": {"goldenpath": {"raised": {"moon-full": {}}, "verified_at": 1e300}}}',
        '{"mirrors": {"goldenpath": {"raised": {}, "verified_at": "2999-01-01T00:00:00Z"}}}',
    ],
)
def test_a_cursor_that_cannot_be_used_silences_nothing_and_heals(drill: Drill, cursor: str) -> None:
    drill.backstage.close()
    drill.cursor = cursor

    tick = drill.look()

    assert drill.receiver.titles == [begins(Signal.BACKSTAGE_UNREACHABLE)]
    if "2999" not in cursor:  # a time ahead of now is readable, and not trusted
        assert "starts over" in str(tick.skip_message)
    assert "starts over" not in str(drill.look().skip_message), "it is said once"
    assert verified_at(drill) <= datetime.now(UTC)
    assert drill.heard() == []


def report_state(drill: Drill, state: Any) -> None:
    """Materialize `backstage_parity` as another version of us would."""
    drill.world.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            dg.AssetKey([MIRROR, "backstage_parity"]),
            metadata={"state": dg.MetadataValue.json(state)},
        )
    )


@pytest.mark.parametrize("state", [{"open": "x"}, {"version": 99}, ["x"], {"verified_at": "noon"}])
def test_a_parity_state_that_cannot_be_used_silences_no_alert(drill: Drill, state: Any) -> None:
    report_state(drill, state)
    drill.backstage.close()

    assert drill.heard() == [begins(Signal.BACKSTAGE_UNREACHABLE)]


def test_a_watch_that_fails_alerts_on_itself_keeps_what_it_knows_and_recovers(
    drill: Drill,
) -> None:
    drill.world.govern("No/Such Name")
    drill.sync()
    assert drill.heard() == [begins(Signal.GOVERNANCE_FINDINGS)]

    rename_checks(drill, "asset_check_executions", "asset_check_executions_away")
    assert drill.heard() == [begins(Signal.WATCH_FAILED)]
    # SQLite calls it operational, PostgreSQL a defect of the program.
    assert re.search("(Operational|Programming)Error", drill.receiver.heard[-1]["message"])
    assert drill.heard() == []

    rename_checks(drill, "asset_check_executions_away", "asset_check_executions")
    assert drill.heard() == [ends(Signal.WATCH_FAILED)]


def rename_checks(drill: Drill, before: str, after: str) -> None:
    """Break the event log of the instance under the watch, or repair it."""
    storage = drill.world.instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as conn:
        conn.execute(sql.text(f"ALTER TABLE {before} RENAME TO {after}"))


def test_thirty_upgrades_and_rollbacks_of_stored_state_lose_no_hold_and_repeat_no_alert(
    drill: Drill,
) -> None:
    """Whatever another version keeps: the hold stays, and no tick fails."""
    chance = random.Random(9)
    delete_most(drill)
    assert drill.heard() == [begins(Signal.PLAN_HELD)]

    for number in range(30):
        text, loses_alert = of_another_version(chance, drill.kept)
        drill.cursor = text
        report_state(drill, {**chance.choice(OTHER_STATES)})
        before = len(drill.receiver.titles)
        drill.look(times=2)

        reported = drill.receiver.titles[before:]
        assert reported == ([begins(Signal.PLAN_HELD)] if loses_alert else []), (number, text)
        assert drill.kept["raised"]["plan-held"]["delivered"]
        if number % 10 == 9:
            assert drill.world.sync().outcome == "held"

    drill.sync(approve=drill.world.sync().planned.plan.plan_hash)
    assert drill.heard() == [ends(Signal.PLAN_HELD)]


OTHER_STATES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"open": "x"},
    {"version": 7, "changes": []},
    {"superseded": "many", "hours": {"noon": 1}},
    {"recent": [{"repository": "team/app"}], "measured": 3},
    {"pauses": [{"why": "moon", "began_at": "2026-01-01"}], "sources": None},
)


def of_another_version(chance: random.Random, kept: dict[str, Any]) -> tuple[str, bool]:
    """Change a cursor as an upgrade or a rollback does; say whether it loses the alert."""
    renamed = {"alerts" if key == "raised" else key: value for key, value in kept.items()}
    unversioned = {key: value for key, value in kept.items() if key != "version"}
    without = {key: value for key, value in kept.items() if key != "served"}
    part, loses_alert = chance.choice(
        [
            (kept | {"moon": {"phase": 1}}, False),
            (kept | {"served": 7, "verified_at": "noon"}, False),
            (without, False),
            (unversioned, False),
            (renamed, True),
            (kept | {"version": 99}, True),
            (kept, True),
        ]
    )
    text = json.dumps({"version": 1, "mirrors": {MIRROR: part}})
    return text[: chance.randrange(1, 200)] if part == kept else text, loses_alert


# A mirror file that breaks


def check_of_file(drill: Drill, asset: str) -> AssetCheckExecutionRecord:
    key = dg.AssetCheckKey(dg.AssetKey(["refused_mirrors", asset]), "settings_valid")
    latest = drill.world.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
    return latest[key]


def sensors(drill: Drill) -> set[str]:
    return {each.name for each in drill.definitions.get_repository_def().sensor_defs}


def test_a_mirror_file_that_breaks_is_one_alert_a_failed_check_and_one_recovery(
    drill: Drill,
) -> None:
    assert drill.look_at_files().skip_message == "every mirror file can be used"
    good = drill.world.mirror_file.read_text()
    drill.world.mirror_file.write_text(good.replace("region:", "regoin:"))

    for _ in range(3):
        drill.look_at_files()
    assert drill.receiver.titles == [begins(Signal.SETTINGS_REFUSED)]
    assert "registry.region: is required" in drill.receiver.heard[-1]["message"]
    shown = check_of_file(drill, f"1_{MIRROR}")
    assert shown.status is AssetCheckExecutionRecordStatus.FAILED
    assert shown.evaluation is not None
    assert "registry.region: is required" in str(shown.evaluation.description)

    drill.world.mirror_file.write_text(good)
    for _ in range(3):
        drill.look_at_files()
    assert drill.receiver.titles[1:] == [ends(Signal.SETTINGS_REFUSED)]


def test_while_its_file_is_broken_a_mirror_is_watched_with_its_last_good_settings(
    drill: Drill,
) -> None:
    drill.look_at_files()
    drill.backstage.close()
    assert drill.heard() == [begins(Signal.BACKSTAGE_UNREACHABLE)]

    good = drill.world.mirror_file.read_text()
    drill.world.mirror_file.write_text("]")
    drill.look_at_files()
    assert sensors(drill) == {PARITY_WATCH, "mirror_files_watch"}
    assert not drill.definitions.get_repository_def().has_job(f"{MIRROR}_sync")
    assert drill.heard() == []
    drill.backstage.open()
    assert drill.heard() == [ends(Signal.BACKSTAGE_UNREACHABLE)]

    drill.world.mirror_file.write_text(good)
    assert CHANGE_SENSOR in sensors(drill)
    assert drill.heard() == []


def test_while_what_mirrors_share_is_broken_a_mirror_is_watched_with_what_it_shared(
    drill: Drill,
) -> None:
    settings = yaml.safe_load(drill.world.mirror_file.read_text())
    defaults = drill.world.mirrors / "_defaults.yaml"
    shared = yaml.safe_dump({"backstage": settings.pop("backstage")})
    defaults.write_text(shared)
    drill.world.mirror_file.write_text(yaml.safe_dump(settings))
    drill.look_at_files()
    assert CHANGE_SENSOR in sensors(drill)

    defaults.write_text("]")
    drill.look_at_files()
    assert drill.receiver.titles == [begins(Signal.SETTINGS_REFUSED)]
    assert sensors(drill) == {PARITY_WATCH, "mirror_files_watch"}
    drill.backstage.close()
    assert drill.heard() == [begins(Signal.BACKSTAGE_UNREACHABLE)]
    drill.backstage.open()
    assert drill.heard() == [ends(Signal.BACKSTAGE_UNREACHABLE)]

    defaults.write_text(shared)
    drill.look_at_files()
    assert drill.receiver.titles[-1] == ends(Signal.SETTINGS_REFUSED)


def test_what_mirrors_share_that_changed_since_it_was_loaded_is_not_kept(drill: Drill) -> None:
    defaults = drill.world.mirrors / "_defaults.yaml"
    defaults.write_text("parity: {slo_seconds: 200}\n")
    drill.look_at_files()
    loaded = drill.definitions
    defaults.write_text("parity: {slo_seconds: 300}\n")

    drill.tick(loaded, "mirror_files_watch", drill.files_cursor)

    (copy,) = (drill.world.cache / "last-good-mirrors").iterdir()
    assert json.loads(copy.read_text())["parity"] == {"slo_seconds": "200"}


def test_stale_parity_follows_from_a_refused_file_and_is_not_over_while_that_lasts(
    drill: Drill,
) -> None:
    drill.look_at_files()
    drill.world.mirror_file.write_text("]")
    drill.kept = drill.kept | {"verified_at": "2026-01-09T12:00:00Z"}
    report_state(drill, {})

    assert drill.heard() == []


def test_a_file_that_was_never_good_has_a_check_and_an_alert_and_nothing_to_watch(
    drill: Drill,
) -> None:
    (drill.world.mirrors / "a b.yaml").write_text("{}")

    drill.look_at_files()

    assert drill.receiver.titles == ["[a b] settings refused"]
    assert check_of_file(drill, "1_a_b").status is AssetCheckExecutionRecordStatus.FAILED
    (drill.world.mirrors / "a b.yaml").unlink()
    drill.look_at_files()
    assert drill.receiver.titles[1:] == ["[a b] RECOVERED: settings refused"]


def test_a_file_that_breaks_before_it_is_loaded_again_leaves_the_copy_of_the_good_one(
    drill: Drill,
) -> None:
    drill.look_at_files()
    loaded = drill.definitions
    drill.world.mirror_file.write_text("]")

    drill.tick(loaded, "mirror_files_watch", drill.files_cursor)

    assert PARITY_WATCH in sensors(drill)


# What a look costs, and several mirrors


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked of the databases meanwhile, but for what Dagster asks of its own tables."""
    asked: list[str] = []
    own = re.compile("pg_catalog|secondary_indexes")

    def ask(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("SELECT") and not own.search(statement):
            asked.append(statement)

    sql.event.listen(sql.Engine, "before_cursor_execute", ask)
    try:
        yield asked
    finally:
        sql.event.remove(sql.Engine, "before_cursor_execute", ask)


def test_a_look_before_which_nothing_happened_asks_dagster_little_and_misses_nothing(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "CLOCKS_DIFFER", timedelta(0))
    definitions = drill.definitions

    def look() -> SensorExecutionData:
        tick = drill.tick(definitions, PARITY_WATCH, drill.cursor)
        drill.cursor = tick.cursor
        return tick

    with statements() as first:
        look()
    with statements() as quiet:
        assert look().skip_message == "all is well"
    assert len(quiet) <= 3 < len(first)

    drill.backstage.fail(BackstageFault.SERVER_ERROR)
    assert str(look().skip_message).startswith("backstage-unreachable")
    drill.backstage.clear()
    look()

    drill.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    drill.world.sync_fails()
    assert str(look().skip_message).startswith("inventory-failed")
    drill.world.fake.clear()
    drill.sync()
    look()
    delete_most(drill)
    assert str(look().skip_message).startswith("plan-held")


def test_a_mirror_whose_backstage_hangs_delays_no_other(
    drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeBackstage() as hanging:
        target = FileTarget(tmp_path / "2")
        other = World(tmp_path, target, drill.world.fake, drill.world.instance, "other")
        other.write_mirror(backstage={"url": hanging.url})
        hanging.source = target.content
        other.govern(*NAMES)
        other.sync()
        definitions = drill.definitions
        monkeypatch.setattr(parity_watch, "STRAGGLER_SECONDS", 1)
        hanging.fail(BackstageFault.HANG)
        drill.backstage.close()
        for _ in range(20):  # a busy machine
            tick = drill.tick(definitions, PARITY_WATCH, drill.cursor)
            drill.cursor = tick.cursor
            if drill.receiver.titles:
                break

        assert drill.receiver.titles == [begins(Signal.BACKSTAGE_UNREACHABLE)]
        assert "other: the look goes on" in str(tick.skip_message)
        assert set(json.loads(drill.cursor or "")["mirrors"]) == {MIRROR}

        hanging.clear()
        monkeypatch.setattr(parity_watch, "STRAGGLER_SECONDS", 60)
        tick = drill.tick(definitions, PARITY_WATCH, drill.cursor)
        assert set(json.loads(tick.cursor or "")["mirrors"]) == {MIRROR, "other"}


# At least once, with one key


def test_the_watch_picks_up_after_a_restart_where_it_was(drill: Drill) -> None:
    drill.backstage.close()
    drill.look()
    cursor = drill.cursor

    drill.look()
    drill.cursor = cursor  # the tick after it was lost

    assert drill.heard() == []


def test_a_watch_that_lost_its_cursor_alerts_again_with_the_same_key(drill: Drill) -> None:
    drill.backstage.close()
    drill.look()
    drill.cursor = None

    drill.look()
    drill.backstage.open()
    drill.look()

    assert drill.receiver.keys == [f"ecr-catalog/{MIRROR}/backstage-unreachable"] * 3


def test_an_alert_that_nobody_took_is_delivered_later(drill: Drill) -> None:
    drill.receiver.status = 503
    drill.backstage.close()
    assert drill.heard() == []

    drill.receiver.status = 200
    assert drill.heard() == [begins(Signal.BACKSTAGE_UNREACHABLE)]

    drill.receiver.status = 503
    drill.backstage.open()
    assert drill.heard() == []

    drill.receiver.status = 200
    assert drill.heard() == [ends(Signal.BACKSTAGE_UNREACHABLE)]


def test_a_receiver_that_is_down_does_not_make_the_others_hear_it_again(drill: Drill) -> None:
    with Receiver() as broken:
        broken.status = 503
        drill.environ[ALERT_URLS_VARIABLE] += f" {broken.url}"
        drill.backstage.close()

        assert drill.heard() == [begins(Signal.BACKSTAGE_UNREACHABLE)]


def test_when_nobody_is_configured_the_watch_says_so(drill: Drill) -> None:
    drill.environ.clear()
    assert "only go to the log" in str(drill.look().skip_message)

    drill.backstage.close()

    message = str(drill.look().skip_message)
    assert message.startswith("backstage-unreachable")
    assert "only go to the log" in message
    assert drill.receiver.heard == []


# What an alert carries, and what it never does


def test_an_alert_says_all_that_a_person_needs(drill: Drill) -> None:
    before = time.time()
    drill.backstage.close()
    drill.look()
    drill.backstage.open()
    drill.look()

    begin, end = drill.receiver.heard
    lines = dict(line.split(": ", 1) for line in begin["message"].split("\n"))
    assert begin["type"] == "failure"
    assert lines["Mirror"] == MIRROR
    since = datetime.strptime(lines["Since"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert -1 <= since.timestamp() - before <= 30
    assert drill.backstage.url.replace("://", "[:]//") in lines["Cause"]
    assert lines["Last good"].startswith("parity verified 20")
    assert "backstage.url" in lines["What to do"]
    assert lines["Look"] == f"http://127.0.0.1:3000/assets/{MIRROR}/backstage_parity"
    assert end["type"] == "success"
    assert "Ended: " in end["message"]
    assert f"Since: {lines['Since']}" in end["message"]


def test_the_secrets_of_an_alert_url_are_written_nowhere(
    drill: Drill, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    drill.receiver.status = 500
    drill.backstage.close()

    for url in (
        drill.receiver.url,
        f"slakc://{SECRET}/{SECRET}",
        f"https://hooks.example/{SECRET}",
        f"slack://{SECRET}",
    ):
        drill.environ[ALERT_URLS_VARIABLE] = url
        tick = drill.look()

        output = capfd.readouterr()
        for where in (caplog.text, output.out, output.err, tick.cursor, tick.skip_message):
            assert SECRET not in str(where)
    assert ALERT_URLS_VARIABLE in caplog.text
