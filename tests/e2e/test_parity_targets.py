"""S3 and file, read by a real Backstage: changes show, are measured truly, and intruders are named.

Publication to git is proved on the whole running demo, in `test_time_to_parity.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.e2e.test_backstage import FRAGMENT
from tests.integration.backstage import (
    DEMO_CONFIG,
    DUMMY_AWS,
    ON_LOOPBACK,
    TOKEN,
    Backstage,
    running_backstage,
    wait_for,
)
from tests.integration.worlds import FileTarget, S3Target, World, a_world, s3_server

ROUNDING = 0.5
"""Our own poller sees a change up to one look and one answer after it is visible."""

Lines = Mapping[str, Mapping[str, Any]]

pytestmark = pytest.mark.timeout(300)


@dataclass
class Shown:
    """A mirrored world, and the Backstage that shows it."""

    world: World
    backstage: Backstage
    reference: str

    def lines(self) -> Lines:
        entity = self.backstage.entity(self.reference)
        assert entity is not None
        return {line["name"]: line for line in entity["spec"]["repositories"]}


@pytest.fixture(params=["file", "s3"])
def shown(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shown]:
    monkeypatch.setenv("BACKSTAGE_TOKEN", TOKEN)
    with ExitStack() as stack:
        world, backstage = stack.enter_context(SERVED[request.param](tmp_path))
        identity = world.mirror.identity
        reference = f"resource:{identity.namespace}/{identity.name}"
        wait_for(lambda: backstage.entity(reference), 60, "Backstage to load the entity")
        world.write_mirror(backstage={"url": backstage.url, "token_env": "BACKSTAGE_TOKEN"})
        assert world.sync().checks["backstage_in_parity"]
        yield Shown(world, backstage, reference)


@contextmanager
def served_from_a_file(folder: Path) -> Iterator[tuple[World, Backstage]]:
    target = FileTarget(folder)
    with a_world(folder, target) as world:
        first_publication(world)
        environment = {"ECR_CATALOG_ENTITY_FILE": str(target.path)}
        with running_backstage(folder, [DEMO_CONFIG], environment=environment) as backstage:
            yield world, backstage


@contextmanager
def served_from_s3(folder: Path) -> Iterator[tuple[World, Backstage]]:
    with s3_server() as endpoint:
        target = S3Target(endpoint)
        with a_world(folder, target) as world:
            first_publication(world)
            reads = {"awsS3": [{"endpoint": endpoint, "s3ForcePathStyle": True}]}
            url = f"{endpoint}/{target.bucket}/{target.key}"
            with running_backstage(
                folder,
                [FRAGMENT],
                overrides={"backend": ON_LOOPBACK, "integrations": reads},
                environment={"ECR_CATALOG_ENTITY_URL": url, **DUMMY_AWS},
            ) as backstage:
                yield world, backstage


SERVED = {"file": served_from_a_file, "s3": served_from_s3}


def first_publication(world: World) -> None:
    world.have(*(f"team/app-{number}" for number in range(12)))
    world.sync()


def test_changes_become_visible_and_are_measured_truly(shown: Shown) -> None:
    world = shown.world

    # A governed repository created in ECR becomes visible.
    world.govern("team/new", status="pending")
    world.sync()
    truth, polled = passes(
        shown, lambda: world.fake.create("team/new", datetime.now(UTC)), lambda s: "team/new" in s
    )
    assert_true(recorded(shown, "team/new", "live"), truth, polled)

    # A deleted one disappears.
    truth, polled = passes(
        shown, lambda: world.fake.delete("team/app-3"), lambda s: "team/app-3" not in s
    )
    assert_true(recorded(shown, "team/app-3", None), truth, polled)

    # A governance edit shows. Git keeps whole seconds.
    truth, polled = passes(
        shown,
        lambda: world.govern("team/app-4", owner="team-new"),
        lambda s: s["team/app-4"]["owner"] == "team-new",
    )
    assert_true(recorded(shown, "team/app-4", "team-new"), truth, polled + 1)


def test_an_entity_that_was_tampered_with_is_repaired_within_one_tick(shown: Shown) -> None:
    world = shown.world
    good = world.content
    assert good is not None
    world.target.overwrite(good.replace(b"owner: platform-team, risk", b"owner: intruder, risk"))
    shown.backstage.refresh(shown.reference)
    wait_for(lambda: shown.lines()["team/app-1"]["owner"] == "intruder", 30, "the intruder")

    synced = world.sync()

    assert synced.checks["backstage_in_parity"]
    assert shown.lines()["team/app-1"]["owner"] == "platform-team"


def test_an_entity_frozen_at_an_older_version_is_out_of_parity_with_the_reason(
    shown: Shown,
) -> None:
    world = shown.world
    published = world.content
    assert published is not None
    # Something between us and Backstage: it reads what it will not take, and keeps the old one.
    frozen = published.replace(b"spec:\n", b"spec:\n  Extra: {a: 1, A: 2}\n", 1)
    world.govern("team/app-5", owner="team-new")
    stopped = threading.Event()
    tamper = threading.Thread(target=keep, args=(world, published, frozen, stopped))
    tamper.start()
    try:
        synced = world.sync()
    finally:
        stopped.set()
        tamper.join()

    assert not synced.checks["backstage_in_parity"]
    reason = synced.evaluations["backstage_in_parity"].description
    assert reason
    assert "older version" in reason


def keep(world: World, published: bytes, frozen: bytes, stopped: threading.Event) -> None:
    """Replace whatever new is published by a version that Backstage freezes on."""
    while not stopped.wait(0.02):
        if world.content not in {published, frozen}:
            world.target.overwrite(frozen)


def passes(
    shown: Shown, act: Callable[[], object], is_visible: Callable[[Lines], bool]
) -> tuple[float, float]:
    """Act, sync, and tell after how long Backstage showed it, and how long ago we last read."""
    seen: list[float] = []
    began_read = time.monotonic()
    shown.world.sync()
    began = time.monotonic()
    act()
    poller = threading.Thread(target=poll, args=(shown, is_visible, seen))
    poller.start()
    shown.world.sync()
    poller.join()
    return seen[0] - began, began - began_read


def poll(shown: Shown, is_visible: Callable[[Lines], bool], seen: list[float]) -> None:
    wait_for(lambda: is_visible(shown.lines()), 60, "Backstage to show the change")
    seen.append(time.monotonic())


def recorded(shown: Shown, repository: str, new: str | None) -> Mapping[str, Any]:
    key = dg.AssetKey([shown.world.name, "backstage_parity"])
    event = shown.world.instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    state: Any = event.asset_materialization.metadata["state"].value
    found: list[Mapping[str, Any]] = [
        each for each in state["recent"] if (each["repository"], each["new"]) == (repository, new)
    ]
    return found[0]


def assert_true(change: Mapping[str, Any], truth: float, polled: float) -> None:
    """Never under the truth, and over it by one poll and 2 s at the most."""
    asked, visible = (
        datetime.fromisoformat(change[key]).timestamp() for key in ("asked_at", "visible_at")
    )
    assert visible - asked >= truth - ROUNDING
    assert visible - asked <= truth + polled + 2
