"""The asset `backstage_parity`: what it measures, and what it says when Backstage lags or lies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self

import dagster as dg
import pytest

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.notify import PING_URL_VARIABLE, Notifier
from ecr_catalog_pipeline.core.errors import GovernanceUnavailable
from ecr_catalog_pipeline.core.parity import Basis, Change, judge
from ecr_catalog_pipeline.defs.event_log import STILL_HELD_TAG, parity_metadata, read_parity
from ecr_catalog_pipeline.defs.outside import served_observation
from tests.fakes.aws import FakeAws
from tests.fakes.aws import Fault as AwsFault
from tests.fakes.backstage import FakeBackstage, Fault
from tests.integration.worlds import MIRROR, QUIET, FileTarget, Synced, World, a_world

pytestmark = pytest.mark.history

NAMES: Final = tuple(f"team/app-{number}" for number in range(4))
NEW: Final = "team/new"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for Backstage as a test can wait."""
    monkeypatch.setattr(mirroring, "POLL_SECONDS", 0.02)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run look at Backstage again a few times, by a clock that its own waits alone move."""
    waited = [0.0]
    clock = SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append)
    monkeypatch.setattr(mirroring, "time", clock)
    monkeypatch.setattr(mirroring, "POLL_SECONDS", mirroring.VISIBLE_SECONDS / 4)


@pytest.fixture
def backstage() -> Iterator[FakeBackstage]:
    with FakeBackstage() as backstage:
        yield backstage


@pytest.fixture
def world(tmp_path: Path, backstage: FakeBackstage) -> Iterator[World]:
    """A world in parity."""
    target = FileTarget(tmp_path)
    with a_world(tmp_path, target) as world:
        world.write_mirror(backstage={"url": backstage.url})
        backstage.source = target.content
        world.have(*NAMES)
        world.sync()
        yield world


def shown(run: Synced) -> dict[str, Any]:
    """The asset's metadata as values."""
    metadata = run.materialization("backstage_parity").metadata
    return {key: value.value for key, value in metadata.items()}


def rows(run: Synced) -> list[dict[str, Any]]:
    table = run.materialization("backstage_parity").metadata["last_changes"]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]


def recent(world: World, name: str = NEW) -> list[Change]:
    state = read_parity(world.instance, world.mirror)
    return [change for change in state.recent if change.repository == name]


def of(world: World, name: str = NEW) -> Change:
    (change,) = recent(world, name)
    return change


# What it measures


def test_every_change_has_its_time_to_parity(world: World) -> None:
    before = datetime.now(UTC)
    world.have(NEW)

    run = world.sync()

    after = datetime.now(UTC)
    figures = shown(run)
    assert figures["in_parity"] is True
    assert figures["reason"] == "Backstage serves what it should"
    assert figures["expected_digest"] == figures["served_digest"] == run.publication.digest
    assert figures["changes_closed"] == 1
    assert figures["changes_open"] == figures["changes_superseded"] == 0
    longest = (after - before).total_seconds() + 1  # git knows seconds only
    for name in (
        "time_to_parity_p50_seconds",
        "time_to_parity_p95_seconds",
        "time_to_parity_max_seconds",
    ):
        assert isinstance(figures[name], float)
        assert 0 < figures[name] <= longest
    assert 0 <= figures["age_of_verified_parity_seconds"] <= longest
    change = of(world)
    assert change.basis in {Basis.COMMIT, Basis.CREATED, Basis.LAST_READ}
    assert change.published_at is not None
    assert change.visible_at is not None
    assert before <= change.published_at <= change.visible_at <= after
    assert all(
        run.checks[check]
        for check in ("backstage_in_parity", "time_to_parity_within_slo", "parity_is_fresh")
    )


def test_a_repository_that_was_governed_before_is_measured_from_its_creation(
    world: World,
) -> None:
    world.govern(NEW, status="pending")
    world.sync()
    world.fake.create(NEW)

    world.sync()

    change, _ = recent(world)
    assert (change.old, change.new) == ("pending", "live")
    assert change.basis is Basis.CREATED


def test_a_late_push_is_measured_from_the_last_read_that_lacked_it(world: World) -> None:
    state = read_parity(world.instance, world.mirror)
    world.govern(NEW, status="pending")
    late = "2026-01-09T12:00:00+00:00"
    environment = {"GIT_COMMITTER_DATE": late, "GIT_AUTHOR_DATE": late}
    world.governance.git("commit", "--amend", "--no-edit", environment=environment)

    world.sync()

    change = of(world)
    assert state.baseline is not None
    assert change.basis is Basis.LAST_READ
    assert change.asked_at == state.baseline.governance_began_at


def test_a_deletion_is_measured_from_the_last_listing_and_labelled_an_upper_bound(
    world: World,
) -> None:
    state = read_parity(world.instance, world.mirror)
    world.fake.delete(NAMES[0])

    run = world.sync()

    change = next(each for each in recent(world, NAMES[0]) if each.new is None)
    assert state.baseline is not None
    assert change.asked_at == state.baseline.inventory_began_at
    assert any(
        NAMES[0] in row.values() and any("upper bound" in str(cell) for cell in row.values())
        for row in rows(run)
    )


def test_the_first_publication_is_of_unknown_age(world: World) -> None:
    change = of(world, NAMES[0])

    assert change.basis is Basis.UNKNOWN
    assert change.seconds is None


def test_a_run_without_a_change_still_verifies(world: World, backstage: FakeBackstage) -> None:
    asked = backstage.count("GET")

    run = world.sync()

    assert backstage.count("GET") == asked + 1
    assert shown(run)["in_parity"] is True
    assert shown(run)["changes_closed"] == 0
    assert "time_to_parity_p50_seconds" not in shown(run)


def test_the_recent_changes_stay_in_view_over_runs(world: World) -> None:
    world.have(NEW)
    before = rows(world.sync())

    after = rows(world.sync())

    assert any(NEW in row.values() for row in before)
    assert after == before


def test_the_state_survives_a_restart_of_dagster(tmp_path: Path, backstage: FakeBackstage) -> None:
    target = FileTarget(tmp_path)
    backstage.source = target.content
    home = tmp_path / "home-of-dagster"
    home.mkdir()
    with FakeAws() as aws:
        with dg.DagsterInstance.local_temp(str(home)) as instance:
            world = World(tmp_path, target, aws, instance, MIRROR)
            world.write_mirror(backstage={"url": backstage.url})
            world.have(*NAMES)
            world.sync()
        world.have(NEW)
        with dg.DagsterInstance.local_temp(str(home)) as instance:
            world.instance = instance
            world.sync()

            assert of(world).seconds is not None
            assert recent(world, NAMES[0])


@pytest.mark.usefixtures("impatient")
def test_a_change_later_than_the_slo_fails_its_check_and_is_named(
    world: World, backstage: FakeBackstage
) -> None:
    world.write_mirror(backstage={"url": backstage.url}, parity={"slo_seconds": 1})
    source, backstage.source = backstage.source, lambda: None
    world.have(NEW)
    world.sync()
    (change,) = read_parity(world.instance, world.mirror).open
    assert change.asked_at is not None
    while datetime.now(UTC) - change.asked_at <= timedelta(seconds=1):
        backstage.reread()
    backstage.source = source

    run = world.sync()

    assert not run.checks["time_to_parity_within_slo"]
    words = str(run.evaluations["time_to_parity_within_slo"].description)
    assert words.startswith(f"later than 1 s: {NEW} (")
    assert run.checks["backstage_in_parity"]


# When Backstage lags


@pytest.mark.usefixtures("impatient")
def test_a_change_that_is_not_visible_yet_stays_open_and_is_closed_by_a_later_run(
    world: World, backstage: FakeBackstage
) -> None:
    source, backstage.source = backstage.source, lambda: None
    world.have(NEW)
    refreshed = backstage.count("POST")

    run = world.sync()

    assert run.outcome == "published"
    assert shown(run)["in_parity"] is False
    assert "an older version is served" in shown(run)["reason"]
    assert (shown(run)["changes_open"], shown(run)["changes_closed"]) == (1, 0)
    assert not run.checks["backstage_in_parity"]
    assert any(NEW in row.values() for row in rows(run))
    assert backstage.count("POST") == refreshed + 1

    backstage.source = source
    run = world.sync()

    assert run.outcome == "unchanged"
    assert (shown(run)["changes_open"], shown(run)["changes_closed"]) == (0, 1)
    assert run.checks["backstage_in_parity"]
    assert of(world).seconds is not None


@pytest.mark.usefixtures("impatient")
def test_what_the_watch_saw_in_between_closes_the_change_at_that_time(
    world: World, backstage: FakeBackstage
) -> None:
    source, backstage.source = backstage.source, lambda: None
    world.have(NEW)
    digest = world.sync().publication.digest
    backstage.source = source
    backstage.reread()
    (entity,) = backstage.served.values()
    observation = served_observation(world.mirror, judge(digest, entity))
    world.instance.report_runless_asset_event(observation)
    seen_by = datetime.now(UTC)

    run = world.sync()

    change = of(world)
    assert change.visible_at is not None
    assert change.published_at is not None
    assert change.published_at <= change.visible_at <= seen_by
    state = read_parity(world.instance, world.mirror)
    assert state.verified_at is not None
    assert state.sources is not None
    assert state.verified_at == state.sources.began_at > seen_by, "this run verified parity"
    assert run.checks["parity_is_fresh"]


def test_a_mirror_that_backstage_never_saw_is_found_without_a_refresh(
    world: World, backstage: FakeBackstage
) -> None:
    backstage.forget()

    run = world.sync()

    assert shown(run)["in_parity"] is True
    assert shown(run)["changes_closed"] == 0


def test_an_entity_that_backstage_does_not_know_is_found_by_its_location(
    world: World, backstage: FakeBackstage
) -> None:
    backstage.forget()
    backstage.looks = False
    backstage.locations = [*world.mirror.locations]

    run = world.sync()

    assert shown(run)["in_parity"] is True


# When Backstage serves something else


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": {"title": "Mine"}}, "tampered"),
        ({"spec": {"type": "database"}}, "someone else's entity"),
        (
            {"status": {"items": [{"level": "error", "error": {"message": "Policy failed"}}]}},
            "rejects what it reads",
        ),
        (None, "an older version"),
    ],
)
def test_what_is_served_instead_is_named_and_fails_the_check(
    world: World, backstage: FakeBackstage, change: dict[str, Any] | None, reason: str
) -> None:
    old = world.content
    assert old is not None
    world.have(NEW)
    backstage.source = world.target.content if change else lambda: old
    if change:
        backstage.tampering = lambda entity: merge(entity, {"metadata": {"title": "X"}, **change})

    run = world.sync()

    assert run.publication.equals_desired
    assert shown(run)["in_parity"] is False
    assert reason in shown(run)["reason"]
    assert not run.checks["backstage_in_parity"]
    assert reason in str(run.evaluations["backstage_in_parity"].description)
    assert shown(run)["changes_open"] == 1


def merge(entity: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(entity.get(key), dict):
            merge(entity[key], value)
        else:
            entity[key] = value


@pytest.mark.parametrize("how", ["closed", Fault.GARBAGE])
def test_an_unreachable_backstage_fails_the_check_and_not_the_run(
    world: World, backstage: FakeBackstage, how: str | Fault
) -> None:
    if isinstance(how, Fault):
        backstage.fail(how)
    else:
        backstage.close()
    world.have(NEW)

    run = world.sync()

    assert run.outcome == "published"
    assert NEW in world.listed
    assert shown(run)["in_parity"] is False
    assert backstage.url in shown(run)["reason"]
    assert not run.checks["backstage_in_parity"]
    assert shown(run)["changes_open"] == 1

    backstage.clear()
    if how == "closed":
        backstage.open()
    assert shown(world.sync())["changes_closed"] == 1


def test_a_token_that_is_refused_fails_the_check_and_not_the_run(
    world: World, backstage: FakeBackstage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write_mirror(backstage={"url": backstage.url, "token_env": "A_TOKEN"})
    monkeypatch.setenv("A_TOKEN", "s3cr3t")
    backstage.token = "another"

    run = world.sync()

    assert "A_TOKEN" in shown(run)["reason"]
    assert "s3cr3t" not in str(shown(run))


# Held plans


def test_while_a_plan_is_held_parity_is_verified_against_the_last_good(world: World) -> None:
    last_good = world.sync().publication.digest
    for name in NAMES[1:]:
        world.fake.delete(name)

    run = world.sync()

    assert run.outcome == "held"
    assert shown(run)["in_parity"] is True
    assert shown(run)["expected_digest"] == last_good
    assert shown(run)["reason"] == "in parity with the last good entity; a plan is held"
    assert run.checks["backstage_in_parity"]
    assert not run.checks["removal_guard"]
    assert (shown(run)["changes_open"], shown(run)["changes_closed"]) == (3, 0)


def test_held_changes_keep_their_time_until_they_are_approved(world: World) -> None:
    for name in NAMES[1:]:
        world.fake.delete(name)
    held = world.sync()
    asked = {each.key: each.asked_at for each in read_parity(world.instance, world.mirror).open}
    world.sync()

    run = world.sync(approve=held.planned.plan.plan_hash)

    assert shown(run)["changes_closed"] == 3
    closed = read_parity(world.instance, world.mirror).recent[:3]
    assert {each.key: each.asked_at for each in closed} == asked


def later_than_a_second(world: World) -> None:
    """Wait until the open changes are older than an SLO of 1 s."""
    (asked, *_) = [each.asked_at for each in read_parity(world.instance, world.mirror).open]
    assert asked is not None
    while datetime.now(UTC) - asked <= timedelta(seconds=1):
        time.sleep(0.1)


def not_counted(run: Synced) -> list[str]:
    return [str(row["not counted"]) for row in rows(run)]


def test_a_plan_that_was_held_and_then_approved_is_not_late_and_says_for_how_long_it_was_held(
    world: World, backstage: FakeBackstage
) -> None:
    for name in NAMES[1:]:
        world.fake.delete(name)
    held = world.sync()
    later_than_a_second(world)
    slo = {"slo_seconds": HELD_SLO}
    world.write_mirror(backstage={"url": backstage.url}, parity=slo)
    assert len(read_parity(world.instance, world.mirror).pauses) == 1
    # As if the plan were held for as long as people need; the changes are as old.
    report_older_state(world, by=timedelta(seconds=10 * HELD_SLO))

    run = world.sync(approve=held.planned.plan.plan_hash)

    assert run.checks["time_to_parity_within_slo"]
    words = str(run.evaluations["time_to_parity_within_slo"].description)
    assert "of which held" in words
    change = recent(world, NAMES[1])[0]
    assert change.seconds is not None
    assert change.seconds > 10 * HELD_SLO, "the measured time stays what it was"
    assert change.held_seconds > 10 * HELD_SLO - 1
    assert all(each.startswith("held ") for each in not_counted(run)[:3])
    assert read_parity(world.instance, world.mirror).pauses == ()


HELD_SLO: Final = 60


def report_older_state(world: World, by: timedelta) -> None:
    """Materialize `backstage_parity` with its open changes and pauses moved into the past."""
    state = read_parity(world.instance, world.mirror)
    older = replace(
        state,
        open=tuple(
            replace(each, asked_at=each.asked_at and each.asked_at - by) for each in state.open
        ),
        pauses=tuple(replace(each, began_at=each.began_at - by) for each in state.pauses),
    )
    world.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            dg.AssetKey([MIRROR, "backstage_parity"]), metadata=parity_metadata(older)
        )
    )


def test_time_for_which_a_source_could_not_be_read_is_not_counted(world: World) -> None:
    world.fake.fail("DescribeRepositories", AwsFault.ACCESS_DENIED)
    world.have(NEW)
    world.sync_fails()
    world.fake.clear()

    run = world.sync()

    change = of(world)
    assert change.seconds is not None
    assert 0 < change.down_seconds <= change.seconds
    assert not_counted(run)[0] == change.excused


@pytest.mark.usefixtures("impatient")
def test_time_for_which_backstage_did_not_answer_is_not_counted(
    world: World, backstage: FakeBackstage
) -> None:
    backstage.fail(Fault.SERVER_ERROR)
    world.have(NEW)
    world.sync()
    later_than_a_second(world)
    backstage.clear()

    run = world.sync()

    change = of(world)
    assert change.seconds is not None
    assert 0 < change.down_seconds <= change.seconds
    assert not_counted(run)[0].startswith("down ")


# State of another version


@pytest.mark.parametrize("state", [{"open": "x"}, {"version": 99}, {"recent": [{"at": "noon"}]}])
def test_a_state_that_cannot_be_read_fails_no_run_and_is_said_once(
    world: World, state: dict[str, Any]
) -> None:
    world.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            dg.AssetKey([MIRROR, "backstage_parity"]),
            metadata={"state": dg.MetadataValue.json(state)},
        )
    )

    first, second = world.sync(), world.sync()

    words = str(first.evaluations["time_to_parity_within_slo"].description)
    assert "measuring starts over" in words
    assert "starts over" not in str(second.evaluations["time_to_parity_within_slo"].description)
    assert shown(first)["in_parity"] is True
    assert read_parity(world.instance, world.mirror).baseline is not None


@pytest.mark.parametrize("moment", ["noon", "2026-01-09T12:00:00", "2999-01-01T00:00:00+00:00"])
def test_a_time_of_the_change_sensor_that_cannot_be_used_is_left_out(
    world: World, moment: str
) -> None:
    world.fake.delete(NAMES[0])
    job = world.definitions.resolve_job_def(f"{MIRROR}_sync")

    result = job.execute_in_process(
        instance=world.instance, run_config=QUIET, tags={STILL_HELD_TAG: moment}
    )

    assert result.success
    change = recent(world, NAMES[0])[0]
    assert change.new is None
    assert change.asked_at is not None
    assert change.asked_at <= datetime.now(UTC)


# Without Backstage


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """A world whose mirror names no Backstage."""
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have(*NAMES)
        world.sync()
        yield world


def test_without_backstage_parity_is_measured_to_the_publication_and_says_so(
    alone: World,
) -> None:
    alone.have(NEW)

    run = alone.sync()

    assert shown(run)["in_parity"] is True
    assert "no `backstage:`" in shown(run)["reason"]
    assert "measured to the publication" in shown(run)["reason"]
    change = of(alone)
    assert change.visible_at == change.published_at
    assert change.seconds is not None
    assert run.checks["backstage_in_parity"]


def test_without_backstage_a_held_plan_is_said_to_be_held(alone: World) -> None:
    for name in NAMES[1:]:
        alone.fake.delete(name)

    run = alone.sync()

    assert run.outcome == "held"
    assert "held" in shown(run)["reason"]


# No change gets lost


def test_a_change_whose_history_cannot_be_read_is_not_lost(world: World) -> None:
    class WithoutHistory:
        def __init__(self) -> None:
            self._repo = world.adapters.governance

        def read(self) -> Any:
            return self._repo.read()

        def history(self, *_: object) -> Any:
            raise GovernanceUnavailable("the network is down", remediation="Try again.")

    world.have(NEW)

    with suppress(dg.Failure):
        world.sync(overrides={"governance": WithoutHistory()})
    assert NEW in world.listed
    world.sync()

    assert recent(world), "published, visible, and never recorded"


# The dead-man's switch


class Switch:
    """Counts who fetches it."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.status = 200
        switch = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                switch.fetched.append(self.path)
                self.send_response(switch.status)
                self.send_header("Content-Length", "0")
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
    def notifier(self) -> Notifier:
        url = f"http://127.0.0.1:{self._server.server_port}/s3cr3t-check"
        return Notifier({PING_URL_VARIABLE: url})


@pytest.mark.usefixtures("impatient")
def test_the_ping_url_is_fetched_after_each_verified_parity_only(
    world: World, backstage: FakeBackstage
) -> None:
    with Switch() as switch:
        overrides = {"notifier": switch.notifier}
        world.sync(overrides=overrides)
        world.sync(overrides=overrides)
        assert switch.fetched == ["/s3cr3t-check"] * 2

        backstage.source = lambda: None
        world.have(NEW)
        world.sync(overrides=overrides)
        backstage.close()
        world.sync(overrides=overrides)
        world.commit("]")
        world.sync_fails(overrides=overrides)

        assert len(switch.fetched) == 2


def test_a_ping_that_fails_fails_no_run_and_shows_no_secret(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Switch() as switch:
        switch.status = 500
        notifier = switch.notifier
        assert shown(world.sync(overrides={"notifier": notifier}))["in_parity"] is True
    run = world.sync(overrides={"notifier": notifier})

    assert shown(run)["in_parity"] is True
    assert PING_URL_VARIABLE in caplog.text
    assert "s3cr3t" not in caplog.text


def test_the_asset_says_when_nobody_listens(world: World) -> None:
    listens = Notifier({"ECR_CATALOG_ALERT_URLS": "json://127.0.0.1:9"})

    assert "only go to the log" in shown(world.sync())["alerts"]
    assert "only go to the log" not in shown(world.sync(overrides={"notifier": listens}))["alerts"]
