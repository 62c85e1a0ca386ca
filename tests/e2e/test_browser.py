"""The Dagster UI in a real browser: the graph, the parity plot, the checks.

`ECR_CATALOG_SCREENSHOTS=docs/images` retakes the README's pictures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ecr_catalog_pipeline.demo.world import create_in_ecr, delete_in_ecr
from tests.e2e.running import RunningDemo, wait_for

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SLOW = 60_000

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)"),
    pytest.mark.skipif(shutil.which("node") is None, reason="Node 20+ is not installed"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def demo(running: RunningDemo) -> RunningDemo:
    """A demo in which several changes have become visible, so that there is a plot."""
    world = running.world
    changes: list[Callable[[], None]] = [
        lambda: create_in_ecr(world, "shop/gift-cards"),
        lambda: delete_in_ecr(world, "shop/search"),
        lambda: create_in_ecr(world, "shop/search"),
    ]
    for change in changes:
        before = closed_runs(running)
        change()
        wait_for(partial(has_closed_more, running, before), 120, "the change to be visible")
    return running


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(SLOW)
        expect.set_options(timeout=SLOW)
        yield page
        browser.close()


def test_the_asset_graph_shows_the_whole_lineage(demo: RunningDemo, page: Page) -> None:
    page.goto(f"http://127.0.0.1:{demo.ui_port}/asset-groups")
    page.get_by_text("Global asset lineage").first.wait_for()

    for name in (
        "governance_file",
        "governance_catalog",
        "ecr_registry",
        "ecr_inventory",
        "reconciled_registry",
        "published_entity",
        "backstage_entity",
        "backstage_parity",
    ):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    shoot(page, "graph")


def test_the_parity_plot_shows_the_measured_times(demo: RunningDemo, page: Page) -> None:
    measured = latest_figures(demo)["time_to_parity_max_seconds"]
    assert 0 < measured < 180

    page.goto(f"http://127.0.0.1:{demo.ui_port}/assets/demo/backstage_parity")
    expect(page.get_by_text("time_to_parity_max_seconds").first).to_be_visible()
    expect(page.get_by_text(f"{measured:g}").first).to_be_visible()
    page.get_by_text("Plots", exact=True).first.click()

    plot = page.locator("canvas").first
    expect(plot).to_be_visible()
    expect(page.get_by_text("time_to_parity_p50_seconds").first).to_be_visible()
    expect(page.get_by_text("Unsynced")).to_have_count(0)
    page.set_viewport_size({"width": 1280, "height": 1900})
    shoot(page, "parity")


def test_the_checks_say_what_they_found(demo: RunningDemo, page: Page) -> None:
    page.goto(f"http://127.0.0.1:{demo.ui_port}/assets/demo/backstage_parity?view=checks")

    for check in ("backstage_in_parity", "parity_is_fresh", "time_to_parity_within_slo"):
        expect(page.get_by_text(check).first).to_be_visible()
    expect(page.get_by_text("Passed").first).to_be_visible()


def has_closed_more(demo: RunningDemo, before: int) -> bool:
    return closed_runs(demo) > before


def closed_runs(demo: RunningDemo) -> int:
    """How many runs have closed a measured change."""
    return sum("time_to_parity_max_seconds" in figures for figures in all_figures(demo))


def latest_figures(demo: RunningDemo) -> dict[str, float]:
    return next(figures for figures in all_figures(demo) if "time_to_parity_max_seconds" in figures)


def all_figures(demo: RunningDemo) -> list[dict[str, float]]:
    """The numeric metadata of each materialization of backstage_parity, newest first."""
    answer = demo.graphql(
        '{ assetOrError(assetKey: {path: ["demo", "backstage_parity"]}) { ... on Asset {'
        " assetMaterializations(limit: 50) { metadataEntries { label"
        " ... on FloatMetadataEntry { floatValue } } } } } }"
    )
    return [
        {
            entry["label"]: entry["floatValue"]
            for entry in materialization["metadataEntries"]
            if entry.get("floatValue") is not None
        }
        for materialization in answer["assetOrError"]["assetMaterializations"]
    ]


def shoot(page: Page, name: str) -> None:
    folder = os.environ.get("ECR_CATALOG_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(3_000)
        page.screenshot(path=Path(folder) / f"{name}.png")
