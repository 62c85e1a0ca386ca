"""What the Dagster UI shows of an asset that failed, and of checks that its run did not get to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest

# What the Dagster UI shows of a check.
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionResolvedStatus,
)

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.defs.kept import moment_of, text_of
from tests.fakes.aws import Fault
from tests.fakes.backstage import FakeBackstage
from tests.integration.worlds import FileTarget, World, a_world

pytestmark = pytest.mark.history

JUDGED = {
    AssetCheckExecutionResolvedStatus.SUCCEEDED,
    AssetCheckExecutionResolvedStatus.FAILED,
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world with a plan that is held, and a Backstage that reads nothing."""
    monkeypatch.setattr(mirroring, "VISIBLE_SECONDS", 0)
    with FakeBackstage() as backstage, a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.write_mirror(backstage={"url": backstage.url}, guard={"max_removals": 1})
        world.have(*(f"team/app-{number}" for number in range(6)))
        world.sync()
        for number in range(3):
            world.fake.delete(f"team/app-{number}")
        assert world.sync().outcome == "held"
        yield world


def shown(world: World) -> dict[str, AssetCheckExecutionRecord]:
    """The last execution of each check, by its name."""
    keys = world.definitions.resolve_asset_graph().asset_check_keys
    latest = world.instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    assert len(latest) == 10
    return {key.name: record for key, record in latest.items()}


def statuses(world: World) -> dict[str, AssetCheckExecutionResolvedStatus]:
    async def resolved() -> dict[str, AssetCheckExecutionResolvedStatus]:
        context = LoadingContextForTest(world.instance)
        return {name: await each.resolve_status(context) for name, each in shown(world).items()}

    return asyncio.run(resolved())


def said(world: World, check: str) -> dg.AssetCheckEvaluation:
    evaluation = shown(world)[check].evaluation
    assert evaluation
    return evaluation


def last_observation(world: World, asset: str) -> dg.AssetObservation:
    (record,) = world.instance.fetch_observations(dg.AssetKey([world.name, asset]), 1).records
    assert record.asset_observation
    return record.asset_observation


def judged_at(world: World, check: str) -> datetime | None:
    return moment_of(said(world, check).metadata, "judged_at")


def test_checks_that_a_failed_read_leaves_unjudged_keep_what_they_said(world: World) -> None:
    before = statuses(world)
    world.commit("repositories: [")
    failure = world.sync_fails()

    assert statuses(world) == before
    guard = said(world, "removal_guard")
    assert not guard.passed
    assert guard.description
    assert guard.description.startswith("not judged by the last run: ")
    assert "ecr-catalog.yaml:" in guard.description
    assert "held: " in guard.description
    assert text_of(guard.metadata, "approve"), "how to approve stays at hand"
    assert str(failure.metadata["problem"].value) in guard.description


def test_checks_left_unjudged_still_stand_on_the_materialization_that_they_judged(
    world: World,
) -> None:
    judged = {name: said(world, name).target_materialization_data for name in shown(world)}
    assert all(judged.values())
    world.commit("repositories: [")
    world.sync_fails()

    assert {name: said(world, name).target_materialization_data for name in judged} == judged


def test_what_a_failed_read_met_stands_on_its_asset(world: World) -> None:
    world.commit("repositories: [")
    failure = world.sync_fails()

    metadata = last_observation(world, "governance_catalog").metadata
    for name in ("problem", "remediation"):
        assert text_of(metadata, name) == failure.metadata[name].value

    world.revert()
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    world.sync_fails()
    problem = text_of(last_observation(world, "ecr_inventory").metadata, "problem")
    assert problem
    assert "AccessDenied" in problem


def test_failing_again_does_not_move_when_a_check_was_judged(world: World) -> None:
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    world.sync_fails()
    first, words = judged_at(world, "removal_guard"), said(world, "removal_guard").description
    world.sync_fails()

    assert first
    assert judged_at(world, "removal_guard") == first
    assert said(world, "removal_guard").description == words


def test_a_run_that_gets_to_them_judges_them_anew(world: World) -> None:
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    world.sync_fails()
    world.fake.clear()
    world.have(*(f"team/app-{number}" for number in range(3)))
    world.sync()

    assert set(statuses(world).values()) <= JUDGED
    assert said(world, "removal_guard").passed
    assert judged_at(world, "removal_guard") is None


def test_a_check_that_a_later_step_leaves_unjudged_keeps_what_it_said_and_others_are_new(
    world: World,
) -> None:
    world.target.overwrite(b"kind: Component\n")
    world.sync_fails()

    assert set(statuses(world).values()) <= JUDGED
    assert judged_at(world, "removal_guard")
    assert judged_at(world, "governance_findings") is None


def test_a_check_that_never_said_anything_is_left_to_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "VISIBLE_SECONDS", 0)
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.commit("repositories: [")
        world.sync_fails()

        assert set(statuses(world).values()) == {AssetCheckExecutionResolvedStatus.EXECUTION_FAILED}
