"""A held plan on the whole running demo: seen in a real browser, approved in the launchpad."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from ecr_catalog_pipeline.demo.world import create_in_ecr, delete_in_ecr
from tests.e2e.running import RunningDemo, wait_for
from tests.e2e.test_browser import CHROMIUM, page

__all__ = ["page"]

LOCATION = "ecr_catalog_pipeline.definitions"
STALE_HASH = "0" * 64

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)"),
    pytest.mark.skipif(shutil.which("node") is None, reason="Node 20+ is not installed"),
    pytest.mark.timeout(900),
]


@pytest.fixture
def deleted(running: RunningDemo) -> Iterator[list[str]]:
    """Repositories of the demo that were just deleted in ECR: more than the guard lets pass."""
    names = sorted(live(running))[:5]
    for name in names:
        delete_in_ecr(running.world, name)
    yield names
    for name in names:
        create_in_ecr(running.world, name)
    wait_for(lambda: set(names) <= live(running), 180, "the repositories to be back")


def test_a_held_plan_is_seen_approved_in_the_launchpad_and_then_published(
    running: RunningDemo, deleted: list[str], page: Page
) -> None:
    wait_for(lambda: guard(running)["status"] == "FAILED", 120, "the plan to be held")
    before = live(running)
    assert set(deleted) <= before, "what is held is not published"

    page.goto(f"http://127.0.0.1:{running.ui_port}/assets/demo/published_entity?view=checks")
    page.get_by_text("removal_guard").first.click()
    wait_for(lambda: bool(guard(running)["plan_hash"]), 60, "the verdict of the guard")
    plan_hash = guard(running)["plan_hash"]
    for shown in (
        "held: 5 of ",
        "held_since",
        plan_hash,
        "--approve",
        "approve_in_the_launchpad_of_demo_sync",
    ):
        expect(page.get_by_text(shown).first).to_be_visible()
    expect(page.get_by_text(deleted[0]).first).to_be_visible()

    launch(running, page, STALE_HASH)
    wait_for(lambda: guard(running)["status"] == "FAILED", 60, "the verdict of the guard")
    assert set(deleted) <= live(running)

    launch(running, page, plan_hash)
    wait_for(lambda: not set(deleted) & live(running), 60, "Backstage to drop what was approved")
    assert live(running) == before - set(deleted)
    wait_for(lambda: guard(running)["status"] == "SUCCEEDED", 60, "the verdict of the guard")


def launch(demo: RunningDemo, page: Page, approve: str) -> None:
    """Approve a hash in the launchpad, as a person does, and wait for the end of that run."""
    config = f"ops: {{demo__published_entity: {{config: {{approve: '{approve}'}}}}}}"
    page.goto(
        f"http://127.0.0.1:{demo.ui_port}/locations/{LOCATION}/jobs/demo_sync/playground/setup"
        f"?config={quote(config)}"
    )
    button = page.get_by_role("button", name="Launch Run")
    expect(button).to_be_enabled()
    before = runs(demo)
    button.click()
    wait_for(lambda: bool(ended(demo) - before), 120, "the launched run")


def live(demo: RunningDemo) -> set[str]:
    """What the real Backstage shows as live."""
    served = demo.served()
    assert served is not None
    return {line["name"] for line in served["spec"]["repositories"]}


def guard(demo: RunningDemo) -> dict[str, str]:
    """The last verdict of the removal guard, and the hash of the plan that it holds."""
    answer = demo.graphql(
        '{ assetChecksOrError: assetNodeOrError(assetKey: {path: ["demo", "published_entity"]}) {'
        " ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks { name"
        " executionForLatestMaterialization { status evaluation { metadataEntries { label"
        " ... on TextMetadataEntry { text } } } } } } } } } }"
    )
    checks = answer["assetChecksOrError"]["assetChecksOrError"]["checks"]
    (check,) = [each for each in checks if each["name"] == "removal_guard"]
    execution = check["executionForLatestMaterialization"]
    # While a run is under way there is no verdict.
    if execution is None or execution["evaluation"] is None:
        return {"status": "NONE", "plan_hash": ""}
    entries = execution["evaluation"]["metadataEntries"]
    hashes = [entry["text"] for entry in entries if entry["label"] == "plan_hash"]
    return {"status": execution["status"], "plan_hash": hashes[0] if hashes else ""}


def runs(demo: RunningDemo) -> set[str]:
    return {run["runId"] for run in all_runs(demo)}


def ended(demo: RunningDemo) -> set[str]:
    return {run["runId"] for run in all_runs(demo) if run["status"] in {"SUCCESS", "FAILURE"}}


def all_runs(demo: RunningDemo) -> list[dict[str, str]]:
    answer = demo.graphql(
        '{ runsOrError(filter: {pipelineName: "demo_sync"}, limit: 50) {'
        " ... on Runs { results { runId status } } } }"
    )
    results: list[dict[str, str]] = answer["runsOrError"]["results"]
    return results
