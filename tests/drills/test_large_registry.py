"""The removal guard, and the faults that can hide repositories, at 10,000 repositories.

Pages of 1,000, as in production; all repositories listed by the entity, and past the list limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.drills.drill import Drill, Standing, live, meet
from tests.drills.test_aws_drills import (
    IDENTITY,
    LISTING,
    MOVERS,
    Case,
    Layout,
    Place,
    assert_nothing_was_removed,
    break_and_mend,
    faults_at,
    healthy_world,
    page_of,
)
from tests.integration.worlds import World

PAGE: Final = 1_000
PAGES: Final = 10
TEN_PAGES: Final[Layout] = (
    *(page_of(number, PAGE) for number in range(1, PAGES)),
    [*page_of(PAGES, PAGE - 1), MOVERS[0]],
)
LOOK_UP: Final = Place("ecr:DescribeRepositories, look-up by name", "ecr", LISTING, at=PAGES + 1)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", params=[10_000, 1_000], ids=["listed", "past the list limit"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One of 10,000 live repositories, which every test leaves as it found it."""
    folder = tmp_path_factory.mktemp("large") / "world"
    defaults = {"entity": {"list_limit": request.param}}
    with healthy_world(folder, TEN_PAGES, defaults=defaults) as world:
        assert ("listed" in world.entity["spec"]) == (request.param == PAGE)
        assert len(world.listed) == PAGE * PAGES
        yield world


def page(number: int) -> Place:
    words = f"ecr:DescribeRepositories, page {number} of {PAGES}"
    return Place(words, "ecr", LISTING, number, number)


def case(place: Place, fault: str, *, lasting: bool) -> Case:
    return Case(place, fault, faults_at(place)[fault], lasting)


CASES: Final = (
    case(page(1), "ACCESS_DENIED", lasting=True),
    case(page(1), "an empty listing", lasting=True),
    case(page(3), "DUPLICATES", lasting=False),
    case(page(5), "THROTTLING", lasting=True),
    case(page(5), "DROP", lasting=False),
    case(page(5), "LOST_PAGE", lasting=False),
    case(page(7), "EXPIRED_TOKEN", lasting=False),
    case(page(9), "EARLY_END", lasting=False),
    case(page(PAGES), "StaleListing", lasting=False),
    case(LOOK_UP, "an empty listing", lasting=True),
    case(IDENTITY, "OtherAccount", lasting=True),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_of_aws_removes_none_of_ten_thousand(
    world: World, case: Case, drill: Drill
) -> None:
    drill.broken, drill.fault = case.place.words, f"{case.fault_words}, 10,000 repositories"

    assert_nothing_was_removed(case, break_and_mend(case, world), drill)


def test_ten_removals_are_published_and_eleven_are_held(world: World, drill: Drill) -> None:
    names = page_of(4, 11)
    with removed(world, drill, "10 and then 11 are dropped from governance"):
        world.ungovern(*names[1:])
        assert meet(world).outcome == "published"
        assert len(world.listed) == PAGE * PAGES - 10

        world.govern(*names)
        assert meet(world).outcome == "published"
        before = Standing.of(world)
        world.ungovern(*names)
        held = meet(world)
        drill.observe(world, before, held)

        assert held.outcome == "held"
        assert "11" in held.words
        assert drill.touched is False
        assert held.synced
        approval = held.synced.planned.plan.plan_hash
        assert meet(world, approve=approval).outcome == "published"
        assert set(before.listed) - set(world.listed) == set(names)
        world.govern(*names)


def test_a_fifth_may_go_where_the_guard_lets_it_and_not_one_more(
    world: World, drill: Drill
) -> None:
    fifth = [*page_of(1, PAGE), *page_of(2, PAGE)]
    one_more = page_of(3, 1)
    with removed(world, drill, "2,000 and then 2,001 are dropped from governance"):
        world.write_mirror(guard={"max_removals": PAGE * PAGES})
        before = Standing.of(world)
        world.ungovern(*fifth, *one_more)
        held = meet(world)
        drill.observe(world, before, held)

        assert held.outcome == "held"
        assert drill.touched is False
        world.govern(*one_more)
        assert meet(world).outcome == "published"
        assert len(world.listed) == PAGE * (PAGES - 2)
        world.govern(*fifth)


def test_a_registry_that_is_truly_emptied_is_held(world: World, drill: Drill) -> None:
    names = world.fake.names()
    with removed(world, drill, "all 10,000 are truly deleted"):
        world.write_mirror(guard={"max_removals": PAGE * PAGES, "max_removal_percent": 100})
        before, asked = Standing.of(world), world.fake.count(LISTING)
        for name in names:
            world.fake.delete(name)
        held = meet(world)
        drill.observe(world, before, held)

        assert held.outcome == "held"
        assert "nothing that is listed now would be left" in held.words
        assert "9950 removals that no look-up proved" in held.words.replace(",", "")
        assert world.fake.count(LISTING) - asked == 1 + 50
        assert drill.touched is False
        for name in names:
            world.fake.create(name)


@contextmanager
def removed(world: World, drill: Drill, fault: str) -> Iterator[None]:
    """The test undoes what it did; then all are published again, under the usual guard."""
    drill.broken, drill.fault = "10,000 repositories", fault
    try:
        yield
    finally:
        world.write_mirror()
        meet(world)
    drill.recovered = list(world.listed) == live(world) and len(world.listed) == PAGE * PAGES
    assert drill.recovered
