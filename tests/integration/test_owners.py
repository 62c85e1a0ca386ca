"""Findings reach their owners: looked up in Backstage, notified at the beginning and the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.owners import Notice
from ecr_catalog_pipeline.settings import load_mirror
from tests.fakes.aws import FakeAws
from tests.fakes.backstage import BY_REFS, NOTIFICATIONS, FakeBackstage, Fault
from tests.integration.instances import an_instance
from tests.integration.test_parity_watch import Drill, Receiver
from tests.integration.worlds import MIRROR, FileTarget, World

pytestmark = pytest.mark.history

TEAM: Final = "group:default/team-a"
OTHER: Final = "group:default/team-b"
WRONG: Final = "Wrong-Name"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def drill(tmp_path: Path, receiver: Receiver) -> Iterator[Drill]:
    with (
        FakeAws() as aws,
        FakeBackstage("a-token") as backstage,
        an_instance() as instance,
        pytest.MonkeyPatch.context() as changed,
    ):
        changed.setenv("BACKSTAGE_TOKEN", "a-token")
        changed.setattr(mirroring, "POLL_SECONDS", 0.02)
        target = FileTarget(tmp_path)
        world = World(tmp_path, target, aws, instance, MIRROR)
        notifying(world, backstage)
        backstage.source = target.content
        backstage.groups |= {TEAM: ["user:default/ann", "user:default/bob"], OTHER: []}
        world.govern("team/app", owner="team-a")
        aws.create("team/app")
        yield Drill(world, backstage, receiver)


def notifying(world: World, backstage: FakeBackstage, *, on: bool = True) -> None:
    world.write_mirror(
        backstage={"url": backstage.url, "token_env": "BACKSTAGE_TOKEN"}, notify={"backstage": on}
    )


def break_one(drill: Drill, name: str = WRONG, owner: str = "team-a") -> None:
    """Govern a name that ECR would never accept, which is an error finding."""
    drill.world.govern(name, owner=owner)


def notified(drill: Drill) -> list[str]:
    """Run the mirror, look several times, and give the titles that were sent since."""
    before = len(drill.backstage.sent())
    drill.sync()
    drill.look(3)
    return drill.backstage.sent()[before:]


def owners_known(drill: Drill) -> dg.AssetCheckEvaluation:
    return drill.world.sync().evaluations["owners_known"]


def rows(found: dg.AssetCheckEvaluation) -> list[Mapping[str, Any]]:
    table = found.metadata["findings"]
    assert isinstance(table, dg.TableMetadataValue)
    return [record.data for record in table.records]


def test_each_member_of_the_owner_is_notified_once_of_an_error_and_of_its_end(drill: Drill) -> None:
    assert notified(drill) == []
    break_one(drill)

    (title,) = notified(drill)

    assert title.startswith(f"{WRONG}: ")
    assert drill.backstage.titles_of("user:default/ann") == [title]
    assert drill.backstage.titles_of("user:default/bob") == [title]
    payload = drill.backstage.inbox[
        "user:default/ann", f"ecr-catalog/{MIRROR}/name-invalid/{WRONG}"
    ]
    assert payload["severity"] == "high"
    assert payload["link"] == f"/catalog/default/resource/{MIRROR}-ecr-registry"
    assert payload["topic"] == "ecr-catalog"
    assert notified(drill) == []

    drill.world.ungovern(WRONG)
    assert notified(drill) == [f"Resolved: {title}"]
    assert drill.backstage.titles_of("user:default/ann") == [f"Resolved: {title}"]
    assert notified(drill) == []


def test_a_restart_sends_nothing_again_and_a_lost_cursor_replaces_what_was_sent(
    drill: Drill,
) -> None:
    break_one(drill)
    (title,) = notified(drill)
    drill.world.restart()
    assert notified(drill) == []

    drill.cursor = None
    assert notified(drill) == [title]
    assert drill.backstage.titles_of("user:default/ann") == [title]


@pytest.mark.parametrize("how", ["down", "no plugin", "refused", Fault.SERVER_ERROR])
def test_what_does_not_arrive_fails_nothing_and_is_sent_when_it_can_be(
    drill: Drill, how: str | Fault
) -> None:
    notified(drill)
    break_one(drill)
    drill.sync()
    match how:
        case "down":
            drill.backstage.close()
        case "no plugin":
            drill.backstage.notifies = False
        case "refused":
            drill.backstage.refuses.add(TEAM)
        case Fault():
            drill.backstage.fail(how)
    for _ in range(2):
        drill.look()
    drill.backstage.clear()
    if how == "down":
        drill.backstage.open()
    drill.backstage.notifies = True
    drill.backstage.refuses.clear()
    assert drill.backstage.inbox == {}

    drill.look(3)

    (title,) = drill.backstage.titles_of("user:default/ann")
    assert title.startswith(f"{WRONG}: ")


def test_a_run_that_fails_ends_nothing(drill: Drill) -> None:
    break_one(drill)
    notified(drill)
    drill.world.commit("repositories: [")
    drill.world.sync_fails()
    before = len(drill.backstage.sent())

    drill.look(2)

    assert len(drill.backstage.sent()) == before


def test_a_new_owner_is_notified_and_the_one_before_of_the_end(drill: Drill) -> None:
    drill.backstage.groups[OTHER] = ["user:default/cem"]
    break_one(drill)
    (title,) = notified(drill)
    break_one(drill, owner="team-b")

    assert sorted(notified(drill)) == sorted([title, f"Resolved: {title}"])
    assert drill.backstage.titles_of("user:default/ann") == [f"Resolved: {title}"]
    assert drill.backstage.titles_of("user:default/cem") == [title]


def test_no_more_than_twenty_are_sent_at_one_look(drill: Drill) -> None:
    for number in range(23):
        break_one(drill, f"Wrong-{number:02}")
    drill.sync()

    drill.look()
    assert len(drill.backstage.sent()) == 20
    drill.look()
    assert len(drill.backstage.sent()) == 23


def test_owners_are_looked_up_in_one_request_and_an_unknown_one_is_a_warning(
    drill: Drill,
) -> None:
    drill.world.govern("team/other", owner="team-b", status="pending")
    drill.world.govern("team/gone", owner="gone", status="pending")
    break_one(drill, owner="gone")

    found = owners_known(drill)

    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert found.description == "1 unknown: gone"
    assert {(row["repository"], row["rule"]) for row in rows(found)} == {
        ("team/gone", "owner-unknown"),
        (WRONG, "owner-unknown"),
    }
    (asked,) = [each for each in drill.backstage.asked if each.path == BY_REFS]
    assert len(asked.body["entityRefs"]) == 3
    drill.look(2)
    assert drill.backstage.sent() == []  # Nobody is there to be notified.
    drill.backstage.groups["group:default/gone"] = ["user:default/dee"]
    assert len(notified(drill)) == 1
    assert owners_known(drill).passed


def test_where_backstage_does_not_answer_owners_are_not_known_and_the_run_succeeds(
    drill: Drill,
) -> None:
    drill.sync()
    drill.backstage.fail(Fault.GARBAGE)

    found = owners_known(drill)

    assert not found.passed
    assert found.description
    assert found.description.startswith("not known: Backstage at ")
    assert rows(found) == []


def test_a_mirror_that_does_not_ask_for_it_asks_and_sends_nothing(drill: Drill) -> None:
    notifying(drill.world, drill.backstage, on=False)
    break_one(drill)

    assert notified(drill) == []
    assert "owners_known" not in drill.world.sync().checks
    assert not {BY_REFS, NOTIFICATIONS} & {each.path for each in drill.backstage.asked}


def test_telling_owners_needs_a_backstage(drill: Drill) -> None:
    drill.world.write_mirror(notify={"backstage": True})

    with pytest.raises(Exception, match=r"notify\.backstage: sends through Backstage"):
        load_mirror(drill.world.mirror_file)


@pytest.mark.parametrize("fault", [Fault.A_LIST, Fault.GARBAGE, Fault.FORBIDDEN, Fault.DROP])
def test_an_answer_that_says_nothing_of_owners_is_no_answer(drill: Drill, fault: Fault) -> None:
    catalog = BackstageCatalog(drill.backstage.url, "BACKSTAGE_TOKEN")
    assert catalog.known([TEAM, "group:default/nobody"]) == {
        TEAM: True,
        "group:default/nobody": False,
    }
    drill.backstage.fail(fault)

    with pytest.raises(BackstageUnavailable):
        catalog.known([TEAM])


def test_a_backstage_without_notifications_says_so(drill: Drill) -> None:
    drill.backstage.notifies = False
    notice = Notice("k", TEAM, "t", "d", "high", "/catalog", "s")

    with pytest.raises(BackstageUnavailable, match="has no notifications"):
        BackstageCatalog(drill.backstage.url, "BACKSTAGE_TOKEN").notify(notice)
