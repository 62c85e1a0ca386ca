"""Housekeeping on real histories, in SQLite and in PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import dagster as dg
import pytest
import sqlalchemy as sql
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from ecr_catalog_pipeline.defs.conditions import Known, read_known
from ecr_catalog_pipeline.defs.event_log import read_parity
from ecr_catalog_pipeline.defs.jobs import IN_FLIGHT, MIRROR_TAG
from ecr_catalog_pipeline.housekeeping.history import KEPT_ENDED_RUNS, KEPT_OBSERVATIONS
from ecr_catalog_pipeline.housekeeping.job import (
    HOUSEKEEPING,
    HOUSEKEEPING_TAG,
    LOCATION_TAG,
    SCHEDULE_TAG,
    HousekeepingConfig,
    Kept,
    keep_house,
)
from tests.fakes.aws import FakeAws, Fault
from tests.integration.instances import an_instance
from tests.integration.postgres import Postgres
from tests.integration.worlds import MIRROR, QUIET, FileTarget, World

ANCIENT: Final = timedelta(days=400)
OLD: Final = timedelta(days=8)
YESTERDAY: Final = timedelta(days=1)
SCHEDULED: Final[Mapping[str, Any]] = {SCHEDULE_TAG: f"{MIRROR}_every_2_minutes"}


@dataclass
class History:
    """The history of one mirror, with a clock that can be moved."""

    world: World
    home: Path

    @property
    def instance(self) -> dg.DagsterInstance:
        return self.world.instance

    @property
    def events(self) -> SqlEventLogStorage:
        storage = self.instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        return storage

    @property
    def runs(self) -> SqlRunStorage:
        storage = self.instance.run_storage
        assert isinstance(storage, SqlRunStorage)
        return storage

    def run(self, age: timedelta | None = None, *, fails: bool = False, **tags: str) -> str:
        """Run the mirror's job for real, as if that long ago; gives the run's id."""
        job = self.world.definitions.resolve_job_def(f"{MIRROR}_sync")
        done = job.execute_in_process(
            instance=self.instance, run_config=QUIET, tags=tags, raise_on_error=False
        )
        assert done.success is not fails
        if age:
            self.age(done.run_id, age)
        return done.run_id

    def light_run(
        self,
        age: timedelta,
        status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS,
        *,
        job: str = f"{MIRROR}_sync",
        tags: Mapping[str, str] = {MIRROR_TAG: MIRROR},
        says: str = "said something",
    ) -> str:
        """Store a run that said one thing, and no more."""
        run = self.instance.add_run(dg.DagsterRun(job_name=job, run_id=str(uuid4()), tags=tags))
        with self.runs.connect() as conn:
            # A queued run is only taken from a daemon, which is not here.
            row = RunsTable.c.run_id == run.run_id
            conn.execute(RunsTable.update().where(row).values(status=status.value))
        self.instance.report_engine_event(says, run)
        self.age(run.run_id, age)
        return run.run_id

    def many_young(self, status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS) -> None:
        """Store as many young runs as the parity watch looks at."""
        for _ in range(KEPT_ENDED_RUNS):
            self.instance.add_run(
                dg.DagsterRun(
                    job_name=f"{MIRROR}_sync",
                    run_id=str(uuid4()),
                    status=status,
                    tags={MIRROR_TAG: MIRROR},
                )
            )

    def age(self, run_id: str, age: timedelta) -> None:
        """Let a run, or with the empty id all that belongs to none, be that old."""
        at = datetime.now(UTC) - age
        naive = at.replace(tzinfo=None)
        ended = self.instance.get_run_record_by_id(run_id) if run_id else None
        times: dict[str, Any] = {"create_timestamp": naive, "update_timestamp": naive}
        if ended and ended.end_time:
            times |= {"start_time": at.timestamp() - 5, "end_time": at.timestamp()}
        events = SqlEventLogStorageTable
        checks = AssetCheckExecutionsTable
        with self.runs.connect() as conn:
            conn.execute(RunsTable.update().where(RunsTable.c.run_id == run_id).values(times))
        for connection in (self.events.index_connection, lambda: self.events.run_connection("")):
            with connection() as conn:
                conn.execute(
                    events.update().where(events.c.run_id == run_id).values(timestamp=naive)
                )
                conn.execute(
                    checks.update()
                    .where(checks.c.run_id == run_id)
                    .values(evaluation_event_timestamp=naive)
                )

    def keep(self, **config: int) -> Kept:
        return keep_house(
            self.instance,
            HousekeepingConfig(**config),
            mirrors=frozenset({MIRROR}),
            location=None,
            say=lambda _: None,
        )

    def has(self, run_id: str) -> bool:
        return self.instance.get_run_by_id(run_id) is not None

    def rows_of(self, run_id: str) -> dict[str, int]:
        """Count what the databases that all runs share hold of a run."""
        count = sql.select(sql.func.count())
        with self.runs.connect() as conn:
            found = {
                each.name: conn.scalar(count.where(each.c.run_id == run_id))
                for each in (RunsTable, RunTagsTable)
            }
        with self.events.index_connection() as conn:
            for each in (SqlEventLogStorageTable, AssetCheckExecutionsTable):
                found[each.name] = conn.scalar(count.where(each.c.run_id == run_id))
        return {name: number or 0 for name, number in found.items()}

    def files_of(self, run_id: str) -> list[Path]:
        return [path for path in self.home.rglob("*") if run_id in str(path)]

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([MIRROR, asset])

    def what_is_known(self) -> object:
        """All that mirrors, alerts and the asset pages read of the past."""
        mirror = self.world.mirror
        definitions = self.world.definitions
        graph = definitions.resolve_asset_graph()
        keys = sorted(graph.get_all_asset_keys())
        checks = sorted(graph.asset_check_keys)
        then = datetime(2030, 1, 1, tzinfo=UTC)
        known = read_known(self.instance, [mirror], then)[mirror.name]
        assert isinstance(known, Known)
        latest = self.events.get_latest_asset_check_execution_by_key(checks)
        return (
            read_parity(self.instance, mirror),
            known.published,
            known.verified_at,
            sorted(known.conditions),
            [self.instance.get_latest_materialization_event(key) for key in keys],
            [
                record.storage_id
                for key in keys
                for record in self.instance.fetch_observations(key, limit=1).records
            ],
            {key: (record.id, record.status) for key, record in latest.items()},
            [
                (each.asset_entry.last_run_id, each.asset_entry.last_materialization_storage_id)
                for each in self.instance.get_asset_records(keys)
            ],
        )


def a_home(folder: Path, settings: str = "") -> Path:
    home = folder / "dagster-home"
    home.mkdir()
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{settings}")
    return home


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.full)])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    settings = ""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        settings = (
            f"storage: {{postgres: {{postgres_url: '{server.url(server.new_database())}'}}}}\n"
        )
    yield from _history(tmp_path, a_home(tmp_path, settings))


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[History]:
    yield from _history(tmp_path, a_home(tmp_path))


def _history(folder: Path, home: Path) -> Iterator[History]:
    with FakeAws() as fake, dg.DagsterInstance.from_config(str(home)) as instance:
        world = World(folder / "world", FileTarget(folder), fake, instance, MIRROR)
        world.have("team/api", "team/web")
        yield History(world, home)


# What goes


def test_what_is_older_goes_with_all_that_it_left_and_what_is_younger_stays(
    history: History,
) -> None:
    old = [history.run(OLD), history.run(OLD)]
    young = history.run()
    history.many_young()
    before = history.rows_of(young), len(history.instance.all_logs(young))
    assert all(history.rows_of(run)["asset_check_executions"] for run in old)
    assert all(history.files_of(run) for run in old)

    kept = history.keep()

    for run in old:
        assert set(history.rows_of(run).values()) == {0}
        assert history.files_of(run) == []
    assert (history.rows_of(young), len(history.instance.all_logs(young))) == before
    assert kept.freed.runs == kept.freed.compute_logs == 2
    if (history.home / "history" / "runs").exists():
        assert kept.bytes_after < kept.bytes_before
    assert not kept.notes


def test_a_second_housekeeping_finds_nothing(history: History) -> None:
    history.light_run(OLD)
    history.run(YESTERDAY, **SCHEDULED)
    history.run()
    history.many_young()
    assert history.keep().freed.runs == 1

    freed = history.keep().freed

    assert not any(getattr(freed, name) for name in freed.__slots__)


def test_the_days_to_keep_are_those_that_were_asked_for(history: History) -> None:
    ages = (1, 3, 5, 8)
    runs = {days: history.light_run(timedelta(days=days, hours=1)) for days in ages}
    history.many_young()

    history.keep(keep_days=4)

    assert [days for days, run in runs.items() if history.has(run)] == [1, 3]


@pytest.mark.parametrize("wrong", [{"keep_days": 0}, {"keep_days": -1}, {"keep_details_hours": 0}])
def test_nothing_is_removed_for_a_number_that_makes_no_sense(
    on_sqlite: History, wrong: dict[str, int]
) -> None:
    old = on_sqlite.light_run(OLD)
    on_sqlite.many_young()
    job = on_sqlite.world.definitions.resolve_job_def(HOUSEKEEPING)

    config = {"ops": {"remove_old_history": {"config": wrong}}, **QUIET}
    done = job.execute_in_process(
        run_config=config, instance=on_sqlite.instance, raise_on_error=False
    )

    assert not done.success
    assert on_sqlite.has(old)


# What stays, however old


def test_the_latest_of_everything_stays_and_nobody_notices(history: History) -> None:
    earlier, last = history.run(ANCIENT), history.run(ANCIENT)
    for number in range(3):
        history.instance.report_runless_asset_event(
            dg.AssetObservation(history.key("governance_file"), metadata={"number": number})
        )
    history.age("", ANCIENT)
    history.many_young()
    before = history.what_is_known()

    kept = history.keep()

    assert not history.has(earlier)
    assert history.has(last)
    assert kept.runs_needed == 1
    assert history.what_is_known() == before
    records = history.instance.get_asset_records([history.key("published_entity")])
    assert [each.asset_entry.last_run_id for each in records] == [last]
    assert history.instance.all_logs(last)


def test_the_last_good_run_stays_while_a_mirror_fails_for_longer_than_the_days_kept(
    history: History,
) -> None:
    good = history.run(ANCIENT)
    history.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    failed = history.run(OLD, fails=True)
    history.many_young(dg.DagsterRunStatus.FAILURE)
    before = history.what_is_known()

    history.keep()

    assert history.has(good)
    assert history.has(failed), "it planned the assets last"
    assert history.what_is_known() == before


def test_the_runs_that_the_parity_watch_looks_at_stay(history: History) -> None:
    runs = [history.light_run(OLD) for _ in range(KEPT_ENDED_RUNS + 2)]

    history.keep()

    assert [history.has(run) for run in runs] == [False] * 2 + [True] * KEPT_ENDED_RUNS


def test_the_latest_of_an_asset_that_is_defined_no_more_stays(history: History) -> None:
    run = history.instance.add_run(
        dg.DagsterRun(
            job_name="gone_sync",
            run_id=str(uuid4()),
            status=dg.DagsterRunStatus.SUCCESS,
            tags={MIRROR_TAG: "gone"},
        )
    )
    key = dg.AssetKey(["gone", "published_entity"])
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name="gone_sync",
        event_specific_data=dg._core.events.StepMaterializationData(dg.AssetMaterialization(key)),
    )
    history.instance.report_dagster_event(event, run_id=run.run_id)
    history.age(run.run_id, ANCIENT)
    for _ in range(KEPT_ENDED_RUNS):
        history.light_run(OLD, job="gone_sync")

    history.keep()

    assert history.has(run.run_id)
    assert history.instance.get_latest_materialization_event(key)


def test_runs_under_way_are_untouched_however_old(history: History) -> None:
    # A queued run needs a code location to come from, which is not here.
    stored = [each for each in IN_FLIGHT if each is not dg.DagsterRunStatus.QUEUED]
    runs = [history.light_run(ANCIENT, status) for status in stored]
    history.many_young()
    before = [(history.rows_of(run), len(history.instance.all_logs(run))) for run in runs]

    history.keep()

    after = [(history.rows_of(run), len(history.instance.all_logs(run))) for run in runs]
    assert after == before


OURS: Final = "__repository__@ours"
MARKS: Final[Mapping[str, tuple[str, Mapping[str, str], bool]]] = {
    "a mirror's, from the command line": (f"{MIRROR}_sync", {MIRROR_TAG: MIRROR}, True),
    "a mirror's, in our location": ("any", {MIRROR_TAG: MIRROR, LOCATION_TAG: OURS}, True),
    "a mirror's, of another location": ("any", {MIRROR_TAG: MIRROR, LOCATION_TAG: "theirs"}, False),
    "housekeeping": (HOUSEKEEPING, {HOUSEKEEPING_TAG: "true", LOCATION_TAG: OURS}, True),
    "our name alone": (HOUSEKEEPING, {LOCATION_TAG: "theirs"}, False),
    "our location alone": ("reports", {LOCATION_TAG: OURS}, False),
    "no mark": ("payroll", {}, False),
    "housekeeping of theirs": ("housekeeping", {LOCATION_TAG: "theirs"}, False),
    "housekeeping of nobody": ("housekeeping", {"dagster/max_runtime": "1800"}, False),
    "housekeeping of a user in our location": ("housekeeping", {LOCATION_TAG: OURS}, False),
    "ours under its earlier name": (
        "housekeeping",
        {LOCATION_TAG: OURS, "dagster/max_runtime": "1800"},
        True,
    ),
}


def test_only_what_carries_our_mark_is_ours_in_a_shared_instance(history: History) -> None:
    runs = {
        what: history.light_run(ANCIENT, job=job, tags=tags)
        for what, (job, tags, _) in MARKS.items()
    }
    for job in {job for job, _, _ in MARKS.values()}:
        for _ in range(KEPT_ENDED_RUNS):
            history.light_run(timedelta(0), job=job, tags={})

    keep_house(
        history.instance,
        HousekeepingConfig(),
        mirrors=frozenset({MIRROR}),
        location=OURS,
        say=lambda _: None,
    )

    removed = {what for what, run in runs.items() if not history.has(run)}
    assert removed == {what for what, (_, _, ours) in MARKS.items() if ours}


def test_an_end_ahead_of_now_is_not_trusted(history: History) -> None:
    ahead = [history.light_run(-ANCIENT) for _ in range(2)]
    history.light_run(OLD)
    last = history.light_run(-ANCIENT)
    history.many_young()
    young = history.light_run(-ANCIENT)

    history.keep()

    assert [history.has(run) for run in [*ahead, last, young]] == [False, False, True, True]


def test_of_what_no_run_reported_the_latest_stays(history: History) -> None:
    def observe(asset: dg.AssetKey, count: int) -> None:
        for number in range(count):
            history.instance.report_runless_asset_event(
                dg.AssetObservation(
                    asset,
                    tags={"dagster/data_version": str(number)},
                    metadata={"number": number},
                )
            )

    def numbers(asset: dg.AssetKey) -> Sequence[Any]:
        records = history.instance.fetch_observations(asset, limit=100).records
        found = [each.asset_observation for each in records]
        return [each.metadata["number"].value for each in found if each]

    backstage, other = history.key("backstage_entity"), dg.AssetKey(["payroll", "table"])
    observe(backstage, KEPT_OBSERVATIONS + 5)
    observe(other, KEPT_OBSERVATIONS + 5)
    history.age("", OLD)
    observe(history.key("ecr_registry"), KEPT_OBSERVATIONS + 5)

    kept = history.keep()

    assert numbers(backstage) == list(range(KEPT_OBSERVATIONS + 4, 4, -1))
    assert len(numbers(history.key("ecr_registry"))) == KEPT_OBSERVATIONS + 5, "they are young"
    assert len(numbers(other)) == KEPT_OBSERVATIONS + 5, "somebody else's"
    assert kept.freed.runless_events == 5


def test_what_no_run_reported_ahead_of_now_is_as_old_as_what_came_after_it(
    history: History,
) -> None:
    def observe(count: int) -> None:
        for _ in range(count):
            history.instance.report_runless_asset_event(
                dg.AssetObservation(history.key("backstage_entity"))
            )

    observe(3)
    history.age("", -OLD)
    with history.events.index_connection() as conn:
        (last,) = conn.execute(sql.select(sql.func.max(SqlEventLogStorageTable.c.id))).one()
    observe(1)
    at = (datetime.now(UTC) - OLD).replace(tzinfo=None)
    with history.events.index_connection() as conn:
        events = SqlEventLogStorageTable
        conn.execute(events.update().where(events.c.id > last).values(timestamp=at))
    observe(KEPT_OBSERVATIONS)

    assert history.keep().freed.runless_events == 4


def test_of_checks_that_no_run_evaluated_the_latest_stays(history: History) -> None:
    key = dg.AssetCheckKey(history.key("published_entity"), "by_hand")
    for number in range(3):
        history.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=number == 2,
                metadata={"number": number},
            )
        )
    history.age("", OLD)

    history.keep()

    executions = history.events.get_asset_check_execution_history(key, limit=10)
    assert [each.status.value for each in executions] == ["SUCCEEDED"]


# Details


def test_a_scheduled_run_loses_its_details_and_keeps_its_assets_and_checks(
    history: History,
) -> None:
    routine = history.run(YESTERDAY, **SCHEDULED)
    asked_for = history.run(YESTERDAY)
    history.world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    failed = history.run(YESTERDAY, fails=True, **SCHEDULED)
    history.world.fake.clear()
    history.run(YESTERDAY)
    history.many_young()

    def asset_rows(run_id: str) -> list[int]:
        records = history.instance.fetch_materializations(
            history.key("published_entity"), limit=10
        ).records
        return [each.storage_id for each in records if each.run_id == run_id]

    before = asset_rows(routine), history.rows_of(routine)["asset_check_executions"]
    untouched = {run: len(history.instance.all_logs(run)) for run in (asked_for, failed)}
    assert all(untouched.values())
    size = sum(path.stat().st_size for path in history.files_of(routine))

    kept = history.keep()

    assert kept.freed.slimmed_runs == 1
    assert (asset_rows(routine), history.rows_of(routine)["asset_check_executions"]) == before
    assert before[0]
    assert before[1]
    stats = history.instance.get_run_stats(routine)
    assert stats.start_time
    assert stats.end_time
    types = {each.dagster_event_type for each in history.instance.all_logs(routine)}
    assert dg.DagsterEventType.RUN_SUCCESS in types
    assert dg.DagsterEventType.STEP_OUTPUT not in types
    assert {run: len(history.instance.all_logs(run)) for run in untouched} == untouched
    left = sum(path.stat().st_size for path in history.files_of(routine))
    assert left < size / 5


def test_dagster_can_still_delete_a_slim_run_itself(history: History) -> None:
    routine = history.run(YESTERDAY, **SCHEDULED)
    history.run()
    history.many_young()
    assert history.keep().freed.slimmed_runs == 1

    history.instance.delete_run(routine)

    assert not history.has(routine)


# Interrupted, and beside others


REFUSALS: Final = {
    "sqlite": (
        ["CREATE TRIGGER cut BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'cut off'); END"],
        ["DROP TRIGGER cut"],
    ),
    "postgresql": (
        [
            """CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'cut off'; END $$""",
            "CREATE TRIGGER cut BEFORE DELETE ON runs FOR EACH ROW EXECUTE FUNCTION cut()",
        ],
        ["DROP TRIGGER cut ON runs"],
    ),
}


def test_a_housekeeping_that_was_cut_off_is_finished_by_the_next(history: History) -> None:
    old = [history.run(OLD), history.run(OLD)]
    history.run()
    history.many_young()
    with history.runs.connect() as conn:
        cut, repair = REFUSALS[conn.dialect.name]
        for statement in cut:
            conn.execute(sql.text(statement))
    with pytest.raises(sql.exc.DBAPIError, match="cut off"):
        history.keep()
    assert all(history.has(run) for run in old)
    assert not any(history.files_of(run) for run in old), "it was cut off in the middle"
    with history.runs.connect() as conn:
        for statement in repair:
            conn.execute(sql.text(statement))

    history.keep()

    for run in old:
        assert set(history.rows_of(run).values()) == {0}
        assert history.files_of(run) == []


def test_runs_are_written_while_house_is_kept(history: History) -> None:
    for _ in range(30):
        history.light_run(OLD)
    history.many_young()
    done = threading.Event()
    errors: list[Exception] = []
    with dg.DagsterInstance.from_config(str(history.home)) as beside:

        def keep_on() -> None:
            try:
                while not done.wait(0.5):
                    keep_house(
                        beside,
                        HousekeepingConfig(),
                        mirrors=frozenset({MIRROR}),
                        location=None,
                        say=lambda _: None,
                    )
            except Exception as error:  # noqa: BLE001 - the test tells of it
                errors.append(error)

        thread = threading.Thread(target=keep_on)
        thread.start()
        try:
            for _ in range(3):
                assert history.world.sync().result.success
        finally:
            done.set()
            thread.join()
    assert errors == []


# Files


def test_what_others_put_there_is_untouched(on_sqlite: History, tmp_path: Path) -> None:
    on_sqlite.run(OLD)
    on_sqlite.run()
    on_sqlite.many_young()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    shards, storage = on_sqlite.home / "history" / "runs", on_sqlite.home / "storage"
    (shards / f"{uuid4()}.db").symlink_to(outside / "precious")
    (storage / str(uuid4())).symlink_to(outside)
    ours = [shards / "notes.db", shards / "backup.txt", storage / "notes", storage / f"x{uuid4()}"]
    for path in ours:
        path.write_text("somebody's")
    within = storage / str(uuid4())
    within.mkdir()
    (within / "link").symlink_to(outside)
    values = sorted((storage / MIRROR).iterdir())
    long_ago = (datetime.now(UTC) - ANCIENT).timestamp()
    for path in [*ours, *values, within, outside / "precious", outside]:
        os.utime(path, (long_ago, long_ago))
    links = [path for path in on_sqlite.home.rglob("*") if path.is_symlink()]
    for path in links:
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)

    on_sqlite.keep()

    assert not within.exists(), "compute logs of no run go, but not what they link to"
    assert (outside / "precious").read_text() == "precious"
    assert all(path.exists() for path in [*ours, *values])
    assert {path for path in links if path.parent != within} <= set(on_sqlite.home.rglob("*"))


def test_what_runs_left_behind_that_dagster_deleted_goes_when_it_is_old(
    on_sqlite: History,
) -> None:
    deleted = [on_sqlite.run() for _ in range(2)]
    on_sqlite.run()
    on_sqlite.many_young()
    for run in deleted:
        on_sqlite.instance.delete_run(run)
    assert all(on_sqlite.files_of(run) for run in deleted), "Dagster leaves them"
    old, young = deleted
    long_ago = (datetime.now(UTC) - OLD).timestamp()
    for path in reversed(on_sqlite.files_of(old)):
        os.utime(path, (long_ago, long_ago))

    on_sqlite.keep()

    assert on_sqlite.files_of(old) == []
    assert on_sqlite.files_of(young)


def test_a_run_database_that_somebody_reads_is_slimmed_the_next_time(on_sqlite: History) -> None:
    routine = on_sqlite.run(YESTERDAY, **SCHEDULED)
    on_sqlite.run()
    on_sqlite.many_young()
    (database,) = [path for path in on_sqlite.files_of(routine) if path.suffix == ".db"]
    with closing(sqlite3.connect(database)) as conn:
        conn.execute("BEGIN")
        count = "SELECT count(*) FROM event_logs"
        before = conn.execute(count).fetchone()

        assert on_sqlite.keep().notes == ["1 run databases were in use"]

        assert conn.execute(count).fetchone() == before

    assert on_sqlite.keep().notes == []
    assert database.stat().st_size < 32 * 1024


# The job


def test_the_job_says_what_it_freed(history: History) -> None:
    history.light_run(OLD)
    history.light_run(OLD)
    history.many_young()
    job = history.world.definitions.resolve_job_def(HOUSEKEEPING)

    done = job.execute_in_process(instance=history.instance, run_config=QUIET)

    (event,) = [each for each in done.all_events if each.is_successful_output]
    metadata = event.step_output_data.metadata
    assert metadata["removed_runs"].value == 2
    assert metadata["keep_days"].value == 7
    assert isinstance(metadata["bytes_freed"].value, int)
    assert metadata["notes"].value == "none"


def test_the_schedule_adds_no_housekeeping_to_one_under_way(on_sqlite: History) -> None:
    schedule = on_sqlite.world.definitions.resolve_schedule_def(f"{HOUSEKEEPING}_hourly")

    def tick() -> int:
        with dg.build_schedule_context(instance=on_sqlite.instance) as context:
            return len(schedule.evaluate_tick(context).run_requests or [])

    def under_way(**tags: str) -> None:
        on_sqlite.instance.add_run(
            dg.DagsterRun(
                job_name=HOUSEKEEPING,
                run_id=str(uuid4()),
                status=dg.DagsterRunStatus.STARTED,
                tags=tags,
            )
        )

    under_way()
    assert tick() == 1, "somebody else's"
    under_way(**{HOUSEKEEPING_TAG: "true"})
    assert tick() == 0


def test_housekeeping_waits_for_no_mirror(on_sqlite: History) -> None:
    job = on_sqlite.world.definitions.resolve_job_def(HOUSEKEEPING)

    assert [each.definition.pools for each in job.nodes] == [set()]


def test_a_history_in_memory_is_no_trouble() -> None:
    with an_instance() as instance:
        kept = keep_house(
            instance,
            HousekeepingConfig(),
            mirrors=frozenset(),
            location=None,
            say=lambda _: None,
        )
    assert kept.freed.runs == 0
