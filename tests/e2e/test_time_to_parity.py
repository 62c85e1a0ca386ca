"""A change passes the whole running system, and what we measure of it is true by another clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import pytest

from ecr_catalog_pipeline.demo.world import create_in_ecr, delete_in_ecr
from tests.e2e.running import RunningDemo, wait_for

SLO_SECONDS = 180
# The change sensor is due every 10 s, and the daemon looks every 5 s whether it is.
POLL_SECONDS = 15
ROUNDING = 0.05

Lines = Mapping[str, Mapping[str, Any]]

pytestmark = [pytest.mark.essential, pytest.mark.timeout(600)]


def test_a_governed_repository_created_in_ecr_becomes_visible_and_is_measured_truly(
    running: RunningDemo,
) -> None:
    truth = visible_after(
        running,
        lambda: create_in_ecr(running.world, "edge-cache"),
        lambda lines: "edge-cache" in lines,
    )

    change = recorded(running, "edge-cache", "state", "live")
    assert change["basis"] == "creation in ECR"
    assert_true(change, truth)


def test_a_repository_deleted_in_ecr_disappears_and_is_measured_truly(
    running: RunningDemo,
) -> None:
    truth = visible_after(
        running,
        lambda: delete_in_ecr(running.world, "shop/cart"),
        lambda lines: "shop/cart" not in lines,
    )

    change = recorded(running, "shop/cart", "state", None)
    assert change["basis"] == "last listing that still held it (upper bound)"
    assert_true(change, truth)


def test_a_governance_edit_shows_and_is_measured_truly(running: RunningDemo) -> None:
    before = running.world.governance_file.read_text()
    handed_over = before.replace(
        "REGISTRY_CI_RUNNER, owner: platform-team", "REGISTRY_CI_RUNNER, owner: team-new"
    )
    assert handed_over != before

    truth = visible_after(
        running,
        lambda: running.govern(handed_over, "Hand over the runner"),
        lambda lines: lines["ci-runner"]["owner"] == "team-new",
    )

    change = recorded(running, "ci-runner", "owner", "team-new")
    # Git keeps whole seconds: a commit may seem up to one second older than it is.
    assert_true(change, truth, clock=1.0)


def visible_after(
    demo: RunningDemo, act: Callable[[], None], is_visible: Callable[[Lines], bool]
) -> float:
    """Do something, and tell by our own clock after how many seconds Backstage shows it."""

    def shows() -> bool:
        entity = demo.served()
        assert entity is not None
        return is_visible({line["name"]: line for line in entity["spec"]["repositories"]})

    assert not shows()
    began = time.monotonic()
    act()
    wait_for(shows, SLO_SECONDS, "Backstage to show the change", every=0.1)
    return time.monotonic() - began


def recorded(demo: RunningDemo, repository: str, field: str, new: str | None) -> dict[str, Any]:
    """What backstage_parity has recorded of a change."""
    found: list[dict[str, Any]] = []

    def closed() -> bool:
        found[:] = [
            change
            for change in parity_state(demo)["recent"]
            if (change["repository"], change["field"], change["new"]) == (repository, field, new)
        ]
        return bool(found)

    wait_for(closed, SLO_SECONDS, f"{repository} to be recorded")
    return found[0]


def parity_state(demo: RunningDemo) -> dict[str, Any]:
    answer = demo.graphql(
        '{ assetOrError(assetKey: {path: ["demo", "backstage_parity"]}) { ... on Asset {'
        " assetMaterializations(limit: 1) { metadataEntries { label"
        " ... on JsonMetadataEntry { jsonString } } } } } }"
    )
    (latest,) = answer["assetOrError"]["assetMaterializations"]
    entries = {entry["label"]: entry.get("jsonString") for entry in latest["metadataEntries"]}
    state: dict[str, Any] = json.loads(entries["state"])
    return state


def assert_true(change: Mapping[str, Any], truth: float, *, clock: float = 0.0) -> None:
    """Never under the truth, and over it by one poll and 2 s at the most."""
    asked, visible = (moment(change[key]) for key in ("asked_at", "visible_at"))
    measured = visible - asked
    # Our own poller sees the change up to one look and one answer after it is visible.
    assert measured >= truth - 0.5 - ROUNDING, (measured, truth)
    assert measured <= truth + POLL_SECONDS + 2 + clock, (measured, truth)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
