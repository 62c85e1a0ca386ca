"""The lineage badges of the running demo, as the Dagster UI asks for them."""

from __future__ import annotations

import pytest

from ecr_catalog_pipeline.demo import world as worlds
from tests.e2e.running import RunningDemo, wait_for

pytestmark = [pytest.mark.essential, pytest.mark.timeout(600)]

QUERY = "{ assetNodes { assetKey { path } staleStatus } }"


def badges(running: RunningDemo) -> dict[str, str]:
    nodes = running.graphql(QUERY)["assetNodes"]
    return {node["assetKey"]["path"][-1]: node["staleStatus"] for node in nodes}


def test_no_asset_is_unsynced_after_scheduled_and_sensor_made_runs(running: RunningDemo) -> None:
    def fresh() -> bool:
        found = badges(running)
        assert len(found) == 8
        return set(found.values()) == {"FRESH"}

    wait_for(fresh, 150, "an overview without a badge", reported=lambda: str(badges(running)))
    before = running.graphql("{ runsOrError { ... on Runs { count } } }")["runsOrError"]["count"]
    worlds.create_in_ecr(running.world, "lineage/new")

    def another_run() -> bool:
        runs = running.graphql("{ runsOrError { ... on Runs { count } } }")["runsOrError"]
        return bool(runs["count"] > before)

    wait_for(another_run, 150, "a run for the change")
    wait_for(fresh, 150, "an overview without a badge", reported=lambda: str(badges(running)))
    worlds.delete_in_ecr(running.world, "lineage/new")
