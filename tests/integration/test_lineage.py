"""What a mirror's assets say of their lineage: stale only between a change and its run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

# What the Dagster UI asks for its badges.
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.defs.outside import ECR_REGISTRY, GOVERNANCE_FILE, observation
from tests.fakes.backstage import FakeBackstage
from tests.integration.worlds import FileTarget, World, a_world

pytestmark = pytest.mark.history


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose Backstage reads nothing; what a run says of it is asked once."""
    monkeypatch.setattr(mirroring, "VISIBLE_SECONDS", 0)
    with FakeBackstage() as backstage, a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.write_mirror(backstage={"url": backstage.url})
        world.have(*(f"team/app-{number}" for number in range(6)))
        yield world


def stale(world: World) -> set[str]:
    """The assets that the UI would mark as stale or unsynced."""
    graph = world.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(
        world.instance, graph, LoadingContextForTest(world.instance)
    )
    keys = {key for key in graph.get_all_asset_keys() if key.path[0] == world.name}
    assert len(keys) == 8
    return {key.path[-1] for key in keys if resolver.get_status(key) is not StaleStatus.FRESH}


def observe(world: World, name: str) -> None:
    """Note a change outside, as the change sensor does."""
    seen = observation(world.mirror, name, "another version")
    world.instance.report_runless_asset_event(seen)


def test_nothing_is_stale_after_any_run(world: World) -> None:
    world.sync()
    assert stale(world) == set()
    world.sync()
    assert stale(world) == set()
    world.have("team/new")
    world.sync()
    assert stale(world) == set()


def test_what_reads_a_source_is_stale_from_an_observed_change_to_its_run(world: World) -> None:
    world.sync()
    observe(world, ECR_REGISTRY)
    assert stale(world) == {"ecr_inventory"}
    observe(world, GOVERNANCE_FILE)
    assert stale(world) == {"ecr_inventory", "governance_catalog"}
    world.sync()
    assert stale(world) == set()


def test_nothing_is_stale_while_a_plan_is_held(world: World) -> None:
    world.sync()
    for number in range(6):
        world.fake.delete(f"team/app-{number}")
    assert world.sync().outcome == "held"
    assert stale(world) == set()


def test_the_parity_asset_is_stale_once_backstage_was_seen_to_serve_something_else(
    world: World,
) -> None:
    world.sync()
    observe(world, "backstage_entity")
    assert stale(world) == {"backstage_parity"}


@pytest.mark.parametrize("name", ["governance_file", "ecr_registry"])
def test_observing_a_source_by_hand_finds_what_the_run_read(world: World, name: str) -> None:
    world.sync()
    key = dg.AssetKey([world.name, name])
    job = dg.define_asset_job("observe", dg.AssetSelection.assets(key))
    assets = list(world.definitions.assets or ())
    done = dg.Definitions(assets=assets, jobs=[job]).resolve_job_def("observe")
    assert done.execute_in_process(instance=world.instance).success
    assert stale(world) == set()
