"""The change sensor: a run as soon as governance or ECR has moved, and never one too many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from ecr_catalog_pipeline.core.parity import Basis
from ecr_catalog_pipeline.defs import change_sensor
from ecr_catalog_pipeline.defs.common import DATA_VERSION_TAG
from ecr_catalog_pipeline.defs.event_log import STILL_HELD_TAG, read_parity
from tests.fakes.aws import Fault
from tests.integration.worlds import MIRROR, QUIET, FileTarget, World, a_world

NAMES: Final = ("team/one", "team/two", "team/three")


@dataclass
class Sensor:
    """The sensor as the daemon evaluates it: the cursor of the last time, some time later."""

    world: World
    cursor: str | None = None

    def look(self, *, later: timedelta = timedelta(minutes=1)) -> SensorExecutionData:
        if self.cursor and later:
            self.seen = {
                **self.seen,
                "unchanged_until": (self.unchanged_until - later).isoformat(),
            }
        definitions = self.world.definitions
        sensor = definitions.resolve_sensor_def(f"{MIRROR}_changes")
        with dg.build_sensor_context(
            instance=self.world.instance,
            cursor=self.cursor,
            definitions=definitions,
            resources={
                key: (definitions.resources or {})[key] for key in sensor.required_resource_keys
            },
        ) as context:
            tick = sensor.evaluate_tick(context)
        self.cursor = tick.cursor
        return tick

    @property
    def seen(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(self.cursor or "{}")
        return seen

    @seen.setter
    def seen(self, seen: dict[str, Any]) -> None:
        self.cursor = json.dumps(seen)

    @property
    def unchanged_until(self) -> datetime:
        return datetime.fromisoformat(self.seen["unchanged_until"])


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
    "cut off": '{"sequence": 3, "blob": "ab',
    "empty": "{}",
    "a list": "[]",
    "a newer version": '{"version": 99, "anything": {"new": true}}',
    "another type": '{"sequence": "many", "blob": 1, "fingerprint": null, "unchanged_until": []}',
    "a number beyond all time": json.dumps(
        {"sequence": 1, "blob": "a", "fingerprint": "b", "pages": 10**30}
    ),
    "a moment without a zone": json.dumps(
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

    tick = sensor.look(later=timedelta())
    the_run(tick)
    again = skipped(sensor.look())

    assert capfd.readouterr().err.count("starts over") == 1
    assert set(observed(tick)) == {"ecr_registry"}
    assert again == "no change: 4 repositories as before"


def test_a_cursor_that_cannot_be_read_asks_for_no_run_when_nothing_has_changed(
    world: World,
) -> None:
    world.sync()
    sensor = Sensor(world, "{}")

    assert "first look, since the cursor cannot be read" in skipped(sensor.look(later=timedelta()))
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

    tick = sensor.look(later=-timedelta(hours=1))

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


def test_the_run_is_told_when_nothing_had_moved_yet(world: World, sensor: Sensor) -> None:
    before = sensor.unchanged_until - timedelta(minutes=1)  # a look later
    world.fake.delete("team/two")

    request = the_run(sensor.look())

    assert datetime.fromisoformat(request.tags[STILL_HELD_TAG]) == before
    assert sensor.unchanged_until > before


def test_a_deletion_is_measured_from_the_last_look_that_still_saw_it(
    world: World, sensor: Sensor
) -> None:
    world.sync()
    before = sensor.unchanged_until
    while sensor.unchanged_until == before:  # it looks once a second at the most
        sensor.look(later=timedelta())
    world.fake.delete("team/two")
    while not (tick := sensor.look(later=timedelta())).run_requests:
        assert "read less often" in skipped(tick)
    request = the_run(tick)

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

    words = skipped(sensor.look(later=timedelta(seconds=2)))

    assert words.startswith("cannot look: ")
    assert ("AccessDenied" if source == "ecr" else "branch main") in words
    assert sensor.unchanged_until == until - timedelta(seconds=2)

    world.fake.clear()
    if source == "governance":
        branch.git("branch", "--move", "elsewhere", "main")
    request = the_run(sensor.look(later=timedelta(seconds=2)))
    assert datetime.fromisoformat(request.tags[STILL_HELD_TAG]) == until - timedelta(seconds=4)


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


def test_a_long_listing_is_read_less_often(world: World, sensor: Sensor) -> None:
    sensor.seen = {**sensor.seen, "pages": 40}
    world.fake.create("team/four")
    asked = world.fake.count("DescribeRepositories")

    assert "40 pages" in skipped(sensor.look(later=timedelta(seconds=1)))
    assert world.fake.count("DescribeRepositories") == asked
    the_run(sensor.look(later=timedelta(seconds=60)))


def test_a_look_is_one_call(world: World, sensor: Sensor) -> None:
    asked = world.fake.count("DescribeRepositories")

    sensor.look()

    assert world.fake.count("DescribeRepositories") == asked + 1


# Looks that take longer than a tick may


def test_a_look_that_takes_too_long_is_a_skip_goes_on_and_its_result_is_taken(
    world: World, sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_sensor, "LOOK_SECONDS", 0.1)
    until = sensor.unchanged_until
    world.fake.create("team/four")
    world.fake.fail("DescribeRepositories", Fault.HANG)
    asked = world.fake.count("DescribeRepositories")

    words = [skipped(sensor.look(later=timedelta(seconds=2))) for _ in range(3)]

    assert all("not read within the time of a tick" in each for each in words)
    assert "in a row" not in words[0]
    assert "3 times in a row, since" in words[2]
    assert world.fake.count("DescribeRepositories") <= asked + 1, "one look at a time"
    assert sensor.unchanged_until == until - timedelta(seconds=6)

    world.fake.clear()
    monkeypatch.setattr(change_sensor, "LOOK_SECONDS", 60)
    assert set(observed(sensor.look(later=timedelta(seconds=2)))) == {"ecr_registry"}


def test_looks_that_fail_in_a_row_are_counted_until_one_succeeds(
    world: World, sensor: Sensor
) -> None:
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    words = [skipped(sensor.look()) for _ in range(4)]
    assert ["in a row" in each for each in words] == [False, False, True, True]
    assert "4 times in a row" in words[3]

    world.fake.clear()
    assert "no change" in skipped(sensor.look())
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    assert "in a row" not in skipped(sensor.look())
