"""The soak's model sees what it is there to see: each defect once, and none where there is none."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak_model
from benchmarks.soak_model import Commit, Governed, SoakModel, beyond_guard

NAMES = [f"team/r{number:02}" for number in range(20)]
ACTIVE = Governed("team-a", "low", "active")


@pytest.fixture
def model() -> SoakModel:
    """Twenty repositories, governed and present since the beginning."""
    model = SoakModel()
    model.governed(dict.fromkeys(NAMES, ACTIVE), began=0, ended=1)
    model.in_ecr(NAMES, present=True, began=0, ended=1)
    return model


def commit(at: float, live: Collection[str], plan_hash: str = "", *, mirror: bool = True) -> Commit:
    return Commit(f"{at:040.0f}", at, mirror, plan_hash, frozenset(live))


def without(*gone: str) -> list[str]:
    return [name for name in NAMES if name not in gone]


def entity(live: Collection[str], pending: Collection[str] = (), **counts: int) -> dict[str, Any]:
    """An entity as Backstage serves it."""
    numbers = {"repo": len(live), "pending": len(pending), "ghost": 0, "orphan": 0} | counts
    return {
        "metadata": {
            "annotations": {f"platform/{key}-count": str(count) for key, count in numbers.items()}
        },
        "spec": {
            "repositories": [
                {"name": name, "owner": "team-a", "risk": "low", "status": "active", "uri": "..."}
                for name in live
            ],
            "pending": [{"name": name, "owner": "team-a", "risk": "low"} for name in pending],
        },
    }


# Wrong removals


def test_a_removal_of_what_was_there_all_the_time_is_wrong(model: SoakModel) -> None:
    model.committed([commit(100, NAMES), commit(500, without(NAMES[3]))], ())

    (reported,) = model.wrong_removals
    assert NAMES[3] in reported


@pytest.mark.parametrize(
    ("deleted", "back", "wrong"),
    [
        pytest.param(495, None, 0, id="deleted right before"),
        pytest.param(100, 405, 1, id="back before the oldest read that may be published"),
        pytest.param(100, 415, 0, id="back after the oldest read that may be published"),
        pytest.param(500.5, None, 0, id="deleted in the second of the commit"),
        pytest.param(502, None, 1, id="deleted after the commit"),
    ],
)
def test_a_removal_is_right_if_any_read_of_the_last_90_s_may_have_lacked_it(
    model: SoakModel, deleted: float, back: float | None, wrong: int
) -> None:
    model.in_ecr(NAMES[:1], present=False, began=deleted, ended=deleted)
    if back is not None:
        model.in_ecr(NAMES[:1], present=True, began=back, ended=back)

    model.committed([commit(50, NAMES), commit(500, without(NAMES[0]))], ())

    assert len(model.wrong_removals) == wrong


@pytest.mark.parametrize("entry", [None, Governed("team-a", "low", "decommissioned")])
def test_a_removal_of_what_governance_gave_up_is_right(
    model: SoakModel, entry: Governed | None
) -> None:
    entries = dict.fromkeys(NAMES[1:], ACTIVE) | ({NAMES[0]: entry} if entry else {})
    model.governed(entries, began=450, ended=451)

    model.committed([commit(100, NAMES), commit(500, without(NAMES[0]))], ())

    assert model.wrong_removals == []


def test_what_people_remove_is_not_the_mirrors_removal(model: SoakModel) -> None:
    model.committed([commit(100, NAMES), commit(500, [], mirror=False), commit(520, NAMES)], ())

    assert model.wrong_removals == []
    assert model.lost_holds == []


def test_what_people_invented_may_be_removed(model: SoakModel) -> None:
    invented = commit(400, [*NAMES, "aa/invented"], mirror=False)

    model.committed([commit(100, NAMES), invented, commit(500, NAMES)], ())

    assert model.wrong_removals == []


# Old ghosts


def test_a_ghost_older_than_the_slo_is_reported_once(model: SoakModel) -> None:
    model.served(entity(NAMES), 90)
    model.in_ecr(NAMES[:1], present=False, began=99, ended=100)
    for at in range(100, 281):
        model.served(entity(NAMES), at)
    assert model.old_ghosts == []
    assert model.worst_ghost_seconds == 180

    model.served(entity(NAMES), 281)
    model.served(entity(NAMES), 282)

    (reported,) = model.old_ghosts
    assert NAMES[0] in reported


def test_a_line_that_someone_invented_is_a_ghost_from_when_it_is_served(model: SoakModel) -> None:
    model.served(entity([*NAMES, "aa/invented"]), 1000)
    assert model.old_ghosts == []

    model.served(entity([*NAMES, "aa/invented"]), 1181)

    assert len(model.old_ghosts) == 1


def test_a_ghost_does_not_age_while_something_disturbs(model: SoakModel) -> None:
    model.in_ecr(NAMES[:1], present=False, began=100, ended=100)
    model.disturbed("AWS", 200)
    model.disturbed("daemon", 210)
    model.served(entity(NAMES), 500)
    model.undisturbed("AWS", 510)
    model.served(entity(NAMES), 600)
    model.undisturbed("daemon", 620)
    model.served(entity(NAMES), 800)
    assert model.old_ghosts == []

    model.served(entity(NAMES), 801)

    assert len(model.old_ghosts) == 1


def test_what_is_no_longer_served_or_lives_again_is_no_ghost(model: SoakModel) -> None:
    model.in_ecr(NAMES[:2], present=False, began=100, ended=100)
    model.served(entity(NAMES), 110)
    model.in_ecr(NAMES[:1], present=True, began=120, ended=120)
    model.served(entity(without(NAMES[1])), 130)

    model.served(entity(without(NAMES[1])), 900)

    assert model.old_ghosts == []


# Lost holds


@pytest.mark.parametrize(
    ("removed", "listed", "beyond"),
    [
        (10, 50, False),
        (11, 1000, True),
        (2, 4, False),
        (3, 15, False),
        (3, 14, True),
        (1, 1, True),
        (2, 2, True),
        (0, 0, False),
    ],
)
def test_the_guards_limits_are_read_as_the_contract_says_them(
    removed: int, listed: int, beyond: bool
) -> None:
    assert beyond_guard(removed, listed) is beyond


@pytest.mark.parametrize(("approved", "lost"), [((), 1), (("other",), 1), (("right",), 0)])
def test_a_mass_removal_needs_the_approval_of_that_very_plan(
    model: SoakModel, approved: tuple[str, ...], lost: int
) -> None:
    model.in_ecr(NAMES[:5], present=False, began=450, ended=450)

    model.committed([commit(100, NAMES), commit(500, NAMES[5:], "right")], approved)

    assert len(model.lost_holds) == lost
    assert model.wrong_removals == []


def test_a_hold_that_the_system_has_forgotten_is_lost(model: SoakModel) -> None:
    model.held(found=True, when="before the restart")
    assert model.lost_holds == []

    model.held(found=False, when="after the restart")

    (reported,) = model.lost_holds
    assert "after the restart" in reported


def test_a_hold_disturbs_until_the_removals_are_published_or_taken_back(model: SoakModel) -> None:
    model.in_ecr(NAMES[:5], present=False, began=100, ended=100)

    assert model.published(NAMES, 101)
    assert model.disturbances() == {"hold": 101}
    assert not model.published(NAMES[5:], 300)
    assert model.disturbances() == {}
    assert model.quiet_seconds(310) == 10
    assert model.holds == 1


# Parity


def test_what_is_served_as_it_should_be_makes_no_difference(model: SoakModel) -> None:
    model.in_ecr(["team/orphan"], present=True, began=10, ended=10)
    model.in_ecr(NAMES[:1], present=False, began=10, ended=10)
    entries = model.entries | {"team/new": Governed("team-a", "low", "pending")}
    model.governed(entries, began=20, ended=20)

    served = entity(NAMES[1:], ["team/new"], ghost=1, orphan=1)

    assert model.differences(served) == []


def test_every_way_in_which_the_served_entity_may_differ_is_reported(model: SoakModel) -> None:
    lacks, invents = entity(NAMES[1:], repo=20), entity([*NAMES, "aa/invented"], repo=20)
    edited = entity(NAMES)
    edited["spec"]["repositories"][0]["owner"] = "someone"

    assert NAMES[0] in "".join(model.differences(lacks))
    assert "aa/invented" in "".join(model.differences(invents))
    assert "someone" in "".join(model.differences(edited))
    assert "ghost-count" in "".join(model.differences(entity(NAMES, ghost=1)))
    assert model.differences(None) == ["Backstage serves no entity"]


def test_a_change_is_timed_from_when_it_was_made_to_when_it_is_served(model: SoakModel) -> None:
    model.changes.clear()
    model.served(entity(NAMES), 90)
    model.in_ecr(NAMES[:1], present=False, began=100, ended=101)
    model.served(entity(NAMES), 105)
    model.served(entity(NAMES[1:]), 112)

    (change,) = model.changes
    assert change.seconds == 12
    assert not change.disturbed


def test_a_change_that_is_overtaken_is_superseded_and_not_timed(model: SoakModel) -> None:
    model.changes.clear()
    model.in_ecr(NAMES[:1], present=False, began=100, ended=101)
    model.disturbed("AWS", 102)
    model.in_ecr(NAMES[:1], present=True, began=110, ended=111)
    model.served(entity(NAMES), 120)

    first, second = model.changes
    assert first.superseded
    assert first.seconds is None
    assert second.seconds == 10
    assert second.disturbed


def test_the_model_is_independent_of_what_it_judges() -> None:
    imported = set[str]()
    for node in ast.walk(ast.parse(Path(soak_model.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")

    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
