"""The change sensor: a run as soon as governance or ECR has moved, and never one too many."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from ecr_catalog_pipeline.core.parity import Basis
from ecr_catalog_pipeline.defs import change_sensor
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, DATA_VERSION_TAG
from ecr_catalog_pipeline.defs.event_log import STILL_HELD_TAG, read_parity
from tests.fakes.aws import FakeAws, Fault
from tests.integration.worlds import (
    GOVERNANCE_PATH,
    MIRROR,
    QUIET,
    FileTarget,
    World,
    a_world,
)

pytestmark = pytest.mark.history

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = ("team/one", "team/two", "team/three")


@dataclass
class Sensor:
    """The sensor as the daemon evaluates it, where each evaluation looks once."""

    world: World
    cursor: str | None = None

    def look(self, *, restart: bool = True) -> SensorExecutionData:
        """Look again.

        Args:
            restart: as a code server that knows no more than the cursor, and so looks at once.
        """
        if restart:
            self.world.restart()
        tick = evaluate(self.world, self.cursor)
        self.cursor = tick.cursor
        return tick

    def passes(self, time: timedelta) -> None:
        """Let some time pass since the last look."""
        self.seen = {**self.seen, "unchanged_until": (self.unchanged_until - time).isoformat()}

    @property
    def seen(self) -> dict[str, Any]:
        """What the cursor keeps of the mirror."""
        seen: dict[str, Any] = json.loads(self.cursor or "{}")["mirrors"][MIRROR]
        return seen

    @seen.setter
    def seen(self, seen: object) -> None:
        self.cursor = cursor_of(seen)

    @property
    def unchanged_until(self) -> datetime:
        return datetime.fromisoformat(self.seen["unchanged_until"])


def cursor_of(seen: object) -> str:
    return json.dumps({"version": 1, "mirrors": {MIRROR: seen}})


def evaluate(
    world: World, cursor: str | None, definitions: dg.Definitions | None = None
) -> SensorExecutionData:
    definitions = definitions or world.definitions
    sensor = definitions.resolve_sensor_def(CHANGE_SENSOR)
    with dg.build_sensor_context(
        instance=world.instance, cursor=cursor, definitions=definitions
    ) as context:
        return sensor.evaluate_tick(context)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a look as long as a busy machine takes."""
    monkeypatch.setattr(change_sensor, "STRAGGLER_SECONDS", 60)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have(*NAMES)
        yield world


@pytest.fixture
def sensor(world: World) -> Sensor:
    """A sensor that has had its first look."""
    sensor = Sensor(world)
    sensor.look()
    return sensor


def the_run(tick: SensorExecutionData) -> dg.RunRequest:
    (request,) = tick.run_requests or []
    return request


def observed(tick: SensorExecutionData) -> dict[str, str]:
    """The data version of every source that was observed to have moved."""
    found = {}
    for each in tick.asset_events:
        assert isinstance(each, dg.AssetObservation)
        found[each.asset_key.path[-1]] = (each.tags or {})[DATA_VERSION_TAG]
    return found


def skipped(tick: SensorExecutionData) -> str:
    assert not tick.run_requests
    assert tick.asset_events == []
    assert tick.skip_message
    return tick.skip_message


def test_the_first_look_starts_no_run(world: World) -> None:
    assert "first look" in skipped(Sensor(world).look())


# What was kept of an earlier look, and cannot be used


CURSORS: Final = {
    "cut off": '{"mirrors": {"goldenpath": {"sequence": 3, "blob": "ab',
    "a list": "[]",
    "a newer version": '{"version": 99, "anything": {"new": true}}',
    "of one mirror each, as before": '{"sequence": 3, "blob": "ab"}',
    "an empty part": cursor_of({"version": 1}),
    "a part that is a list": cursor_of(["sequence"]),
    "a part of a newer version": cursor_of({"version": 99, "anything": {"new": True}}),
    "another type": cursor_of(
        {"sequence": "many", "blob": 1, "fingerprint": None, "unchanged_until": []}
    ),
    "a number beyond all time": cursor_of(
        {"sequence": 1, "blob": "a", "fingerprint": "b", "pages": 10**30}
    ),
    "a moment without a zone": cursor_of(
        {"sequence": 1, "blob": "a", "fingerprint": "b", "unchanged_until": "2026-01-09T12:00:00"}
    ),
}


@pytest.mark.parametrize("cursor", CURSORS.values(), ids=CURSORS.keys())
def test_a_cursor_that_cannot_be_read_is_said_once_and_loses_no_change(
    world: World, cursor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    world.sync()
    world.fake.create("team/four")
    sensor = Sensor(world, cursor)

    tick = sensor.look()
    the_run(tick)
    again = skipped(sensor.look())

    assert capfd.readouterr().err.count("starts over") == 1
    assert set(observed(tick)) == {"ecr_registry"}
    assert again == "no change: 4 repositories as before"


def test_a_cursor_that_cannot_be_read_asks_for_no_run_when_nothing_has_changed(
    world: World,
) -> None:
    world.sync()
    sensor = Sensor(world, cursor_of({}))

    assert "first look, since the cursor cannot be read" in skipped(sensor.look())
    assert skipped(sensor.look()) == "no change: 3 repositories as before"


def test_a_first_look_counts_what_only_a_failed_run_has_read_as_a_change(world: World) -> None:
    world.sync()
    world.fake.create("team/four")
    world.target.overwrite(b"kind: Component\n")
    world.sync_fails()

    assert "ecr_registry" in observed(Sensor(world).look())


def test_starting_over_uses_no_run_key_again(world: World) -> None:
    created_at = datetime(2026, 1, 9, 12, tzinfo=UTC)
    world.sync()
    keys = []
    for _ in range(2):
        sensor = Sensor(world)
        sensor.look()
        world.fake.create("team/four", created_at)
        keys.append(the_run(sensor.look()).run_key)
        world.fake.delete("team/four")

    assert len(set(keys)) == 2, "Dagster ignores a run key that it knows"


def test_a_cursor_of_before_the_versions_is_read(sensor: Sensor) -> None:
    sensor.seen = {name: value for name, value in sensor.seen.items() if name != "version"}

    assert skipped(sensor.look()) == "no change: 3 repositories as before"


def test_a_clock_that_was_set_back_mutes_nothing(world: World, sensor: Sensor) -> None:
    world.fake.create("team/four")

    sensor.passes(-timedelta(hours=1))
    tick = sensor.look()

    until = datetime.fromisoformat(the_run(tick).tags[STILL_HELD_TAG])
    assert until <= datetime.now(UTC), "a moment ahead of now says nothing"


def test_without_a_change_it_says_so(sensor: Sensor) -> None:
    assert skipped(sensor.look()) == "no change: 3 repositories as before"


def test_a_governance_commit_starts_a_run_and_is_observed(world: World, sensor: Sensor) -> None:
    world.govern("team/four")

    tick = sensor.look()

    request = the_run(tick)
    blob = world.governance.git("rev-parse", "HEAD:catalogs/ecr-catalog.yaml")
    assert observed(tick) == {"governance_file": blob}
    assert request.tags["ecr_catalog/moved"] == "governance_file"


def run_of(world: World, request: dg.RunRequest) -> dg.DagsterRun:
    """The run that the daemon makes of a request, not begun yet."""
    assert request.run_key
    job = world.definitions.resolve_job_def(f"{MIRROR}_sync")
    return world.instance.create_run_for_job(
        job, tags={**request.tags, "dagster/run_key": request.run_key}
    )


def test_a_run_whose_process_was_killed_is_asked_for_again(world: World, sensor: Sensor) -> None:
    world.fake.delete("team/two")
    first = the_run(sensor.look())
    held_until = first.tags[STILL_HELD_TAG]
    world.instance.report_run_failed(run_of(world, first), "Exceeded maximum runtime")

    tick = sensor.look()

    again = the_run(tick)
    assert again.run_key != first.run_key
    assert again.tags[STILL_HELD_TAG] == held_until, "the change was asked for then"
    assert observed(tick) == {}
    world.instance.report_run_failed(run_of(world, again), "Exceeded maximum runtime")
    assert the_run(sensor.look()).tags[STILL_HELD_TAG] == held_until


def test_a_run_that_succeeded_or_whose_step_failed_is_not_asked_for_again(
    world: World, sensor: Sensor
) -> None:
    world.fake.delete("team/two")
    done = run_of(world, the_run(sensor.look()))
    world.instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, done.job_name), done.run_id
    )
    assert "no change" in skipped(sensor.look())

    world.commit("]")
    request = the_run(sensor.look())
    assert request.run_key
    refused = world.definitions.resolve_job_def(f"{MIRROR}_sync").execute_in_process(
        run_config=QUIET,
        instance=world.instance,
        tags={**request.tags, "dagster/run_key": request.run_key},
        raise_on_error=False,
    )
    assert not refused.success
    assert "no change" in skipped(sensor.look())


def test_a_commit_beside_the_governance_file_starts_no_run(world: World, sensor: Sensor) -> None:
    world.commit("something else", path="README.md")

    assert "no change" in skipped(sensor.look())


def test_a_broken_governance_file_is_a_change_too(world: World, sensor: Sensor) -> None:
    world.commit("]")

    assert list(observed(sensor.look())) == ["governance_file"]


@pytest.mark.parametrize("what", ["created", "deleted", "created again"])
def test_a_change_in_ecr_starts_a_run_and_is_observed(
    world: World, sensor: Sensor, what: str
) -> None:
    if what != "created":
        world.fake.delete("team/two")
    if what != "deleted":
        world.fake.create("team/two" if what == "created again" else "team/four")

    tick = sensor.look()

    the_run(tick)
    versions = observed(tick)
    assert list(versions) == ["ecr_registry"]
    assert versions["ecr_registry"] == world.sync().data_version("ecr_inventory")


def test_both_sources_at_once_are_one_run(world: World, sensor: Sensor) -> None:
    world.have("team/four")

    tick = sensor.look()

    assert set(observed(tick)) == {"governance_file", "ecr_registry"}
    the_run(tick)


def test_a_change_starts_one_run_only(world: World, sensor: Sensor) -> None:
    world.have("team/four")
    the_run(sensor.look())

    assert "no change" in skipped(sensor.look())


def test_a_registry_that_returns_to_an_earlier_state_still_gets_a_run(
    world: World, sensor: Sensor
) -> None:
    created_at = datetime(2026, 1, 9, 12, tzinfo=UTC)
    keys, versions = [], []
    for _ in range(2):
        world.fake.create("team/four", created_at)
        tick = sensor.look()
        keys.append(the_run(tick).run_key)
        versions.append(observed(tick)["ecr_registry"])
        world.fake.delete("team/four")
        keys.append(the_run(sensor.look()).run_key)

    assert versions[0] == versions[1]
    assert len(set(keys)) == 4


def test_the_run_learns_when_nothing_had_moved_yet(world: World, sensor: Sensor) -> None:
    before = sensor.unchanged_until
    world.fake.delete("team/two")

    request = the_run(sensor.look())

    assert datetime.fromisoformat(request.tags[STILL_HELD_TAG]) == before
    assert sensor.unchanged_until > before


def test_a_deletion_is_measured_from_the_last_look_that_still_saw_it(
    world: World, sensor: Sensor
) -> None:
    world.sync()
    sensor.look()
    world.fake.delete("team/two")
    request = the_run(sensor.look())

    job = world.definitions.resolve_job_def(f"{MIRROR}_sync")
    job.execute_in_process(run_config=QUIET, instance=world.instance, tags=dict(request.tags))

    (change,) = [
        each for each in read_parity(world.instance, world.mirror).recent if each.old == "live"
    ]
    assert change.basis is Basis.LAST_LISTING
    assert change.asked_at is not None
    assert change.asked_at.isoformat() == request.tags[STILL_HELD_TAG]


# When it cannot look, or should not


@pytest.mark.parametrize("source", ["ecr", "governance"])
def test_a_source_that_fails_is_no_change_and_is_looked_at_again(
    world: World, sensor: Sensor, source: str
) -> None:
    world.fake.create("team/four")
    branch = world.governance
    if source == "ecr":
        world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    else:
        branch.git("branch", "--move", "main", "elsewhere")
    until = sensor.unchanged_until

    words = skipped(sensor.look())

    assert words.startswith("cannot look: ")
    assert ("AccessDenied" if source == "ecr" else "branch main") in words
    assert sensor.unchanged_until == until

    world.fake.clear()
    if source == "governance":
        branch.git("branch", "--move", "elsewhere", "main")
    request = the_run(sensor.look())
    assert datetime.fromisoformat(request.tags[STILL_HELD_TAG]) == until


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_a_run_in_flight_is_waited_for_and_the_change_is_seen_afterwards(
    world: World, sensor: Sensor, status: dg.DagsterRunStatus
) -> None:
    job = world.definitions.resolve_job_def(f"{MIRROR}_sync")
    run = world.instance.create_run_for_job(job, status=status, tags=job.run_tags)
    world.fake.create("team/four")
    asked = world.fake.count("DescribeRepositories")

    assert "queued or under way" in skipped(sensor.look())
    assert world.fake.count("DescribeRepositories") == asked

    world.instance.report_run_canceled(run)
    assert set(observed(sensor.look())) == {"ecr_registry"}


def test_a_run_of_another_mirror_is_no_reason_to_wait(world: World, sensor: Sensor) -> None:
    @dg.job(name="other_sync")
    def other_sync() -> None: ...

    world.instance.create_run_for_job(other_sync, status=dg.DagsterRunStatus.STARTED)
    world.fake.create("team/four")

    the_run(sensor.look())


def test_a_look_is_one_call(world: World, sensor: Sensor) -> None:
    asked = Counter(call.operation for call in world.fake.calls)

    sensor.look()

    asked_then = Counter(call.operation for call in world.fake.calls)
    assert asked_then - asked <= Counter(DescribeRepositories=1, GetCallerIdentity=1)
    assert asked_then["DescribeRepositories"] == asked["DescribeRepositories"] + 1


# How often it looks


def test_it_looks_again_after_the_seconds_of_the_mirror_file(world: World, sensor: Sensor) -> None:
    world.write_mirror(watch={"seconds": 3600})
    sensor.look()
    world.fake.create("team/four")

    assert skipped(sensor.look(restart=False)) == "no look was due"

    world.write_mirror(watch={"seconds": 1})
    the_run(sensor.look())


def test_a_long_listing_is_read_less_often(world: World, sensor: Sensor) -> None:
    world.write_mirror(watch={"seconds": 1})
    sensor.seen = {**sensor.seen, "pages": 3600}
    sensor.look(restart=False)
    asked = world.fake.count("DescribeRepositories")
    time.sleep(1)

    assert skipped(sensor.look(restart=False)) == "no look was due"
    assert world.fake.count("DescribeRepositories") == asked


# Looks that take longer than an evaluation may


def test_a_look_that_takes_too_long_goes_on_and_its_result_is_taken_later(
    world: World, sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_sensor, "STRAGGLER_SECONDS", 0.1)
    monkeypatch.setattr(change_sensor, "OVERDUE_SECONDS", 0.1)
    world.restart()
    until = sensor.unchanged_until
    world.fake.create("team/four")
    world.fake.fail("DescribeRepositories", Fault.HANG)
    asked = world.fake.count("DescribeRepositories")

    words = [skipped(sensor.look(restart=False)) for _ in range(3)]

    assert all("not read within" in each for each in words)
    assert all("goes on" in each for each in words)
    assert world.fake.count("DescribeRepositories") <= asked + 1, "one look at a time"
    assert sensor.unchanged_until == until

    world.fake.clear()
    monkeypatch.setattr(change_sensor, "STRAGGLER_SECONDS", 60)
    assert set(observed(sensor.look(restart=False))) == {"ecr_registry"}


def test_it_is_said_since_when_no_look_has_succeeded_until_one_does(
    world: World, sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    assert "none succeeded" not in skipped(sensor.look(restart=False))

    monkeypatch.setattr(change_sensor, "BLIND_SECONDS", 0)
    world.write_mirror(watch={"seconds": 1})
    assert "none succeeded since" in skipped(sensor.look(restart=False))

    world.fake.clear()
    assert "no change" in skipped(sensor.look())
    monkeypatch.setattr(change_sensor, "BLIND_SECONDS", 30)
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    assert "none succeeded" not in skipped(sensor.look())


# Several mirrors


@pytest.fixture
def other(world: World) -> Iterator[World]:
    """Another mirror of the same instance, with an AWS of its own."""
    with FakeAws() as fake:
        other = World(world.folder, FileTarget(world.folder / "2"), fake, world.instance, "other")
        other.have("team/x")
        yield other


def keep_looking(
    monkeypatch: pytest.MonkeyPatch, world: World, folder: Path
) -> contextlib.AbstractContextManager[dg.DagsterInstance]:
    """An instance whose daemon evaluates several sensors at a time, as the one that we ship."""
    monkeypatch.setattr(change_sensor, "KEEP_LOOKING_SECONDS", 600)
    folder.mkdir()
    shutil.copy(ROOT / "dagster.yaml", folder)
    world.write_mirror(watch={"seconds": 1})
    return dg.DagsterInstance.from_config(str(folder))


def test_a_change_of_one_mirror_starts_a_run_of_that_mirror_alone(
    world: World, other: World
) -> None:
    sensor = Sensor(world)
    assert "first look" in skipped(sensor.look())
    assert skipped(sensor.look()) == "no change in 2 of 2 mirrors"

    other.fake.create("team/y")
    tick = sensor.look()

    assert the_run(tick).job_name == "other_sync"
    assert [each.asset_key.path for each in tick.asset_events] == [["other", "ecr_registry"]]
    assert skipped(sensor.look()) == "no change in 2 of 2 mirrors"


def test_changes_of_several_mirrors_are_a_run_of_each(world: World, other: World) -> None:
    sensor = Sensor(world)
    sensor.look()
    world.fake.create("team/four")
    other.fake.create("team/y")

    # The sensor does not wait for the second one when the first one has moved.
    requests = [each for _ in range(2) for each in sensor.look().run_requests or []]

    assert sorted(str(each.job_name) for each in requests) == ["goldenpath_sync", "other_sync"]


@pytest.mark.parametrize("fault", [Fault.ACCESS_DENIED, Fault.HANG, Fault.THROTTLING])
def test_a_mirror_that_cannot_be_looked_at_delays_no_other(
    world: World, other: World, fault: Fault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other.fake.fail("DescribeRepositories", fault)
    with keep_looking(monkeypatch, world, tmp_path / "dagster") as world.instance:
        sensor = Sensor(world)
        world.sync()
        world.fake.create("team/four")

        tick = sensor.look()

        assert the_run(tick).job_name == f"{MIRROR}_sync"
        assert "other" not in json.loads(sensor.cursor or "")["mirrors"]
        other.fake.clear()


def test_it_keeps_looking_where_no_other_sensor_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with keep_looking(monkeypatch, world, tmp_path / "dagster") as world.instance:
        world.sync()
        asked = world.fake.count("DescribeRepositories")
        with ThreadPoolExecutor(1) as pool:
            evaluation = pool.submit(Sensor(world).look)
            while world.fake.count("DescribeRepositories") < asked + 2:
                assert not evaluation.done()
                time.sleep(0.05)
            world.fake.create("team/four")

            assert set(observed(evaluation.result(120))) == {"ecr_registry"}


def test_what_the_last_successful_run_has_read_already_needs_no_other_run(
    world: World, sensor: Sensor
) -> None:
    world.fake.create("team/four")
    world.sync()

    assert skipped(sensor.look()) == "no change since the last successful run"
    assert skipped(sensor.look()) == "no change: 4 repositories as before"


def test_a_mirror_that_is_gone_loses_its_part_of_the_cursor(world: World, other: World) -> None:
    sensor = Sensor(world)
    sensor.look()
    assert set(json.loads(sensor.cursor or "")["mirrors"]) == {MIRROR, "other"}

    other.mirror_file.unlink()
    world.write_mirror(watch={"seconds": 1})
    sensor.look()

    assert set(json.loads(sensor.cursor or "")["mirrors"]) == {MIRROR}


def test_mirrors_of_one_branch_share_the_look_at_it(
    world: World, other: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (world, other):
        each.write_mirror(
            governance={"repository": str(world.governance.folder), "path": GOVERNANCE_PATH}
        )
    sensor = Sensor(world)
    sensor.look()
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))

    assert skipped(sensor.look()) == "no change in 2 of 2 mirrors"

    assert trace.read_text().count("built-in: git ls-remote") == 1


@pytest.mark.usefixtures("other")
def test_a_damaged_part_of_one_mirror_loses_nothing_of_another(world: World) -> None:
    sensor = Sensor(world)
    sensor.look()
    kept = json.loads(sensor.cursor or "")
    kept["mirrors"]["other"] = {"version": 99}
    sensor.cursor = json.dumps(kept)

    words = skipped(sensor.look())

    assert words.startswith("no change in 1 of 2 mirrors; other: first look, since the cursor")
