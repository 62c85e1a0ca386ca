"""Past the list limit the entity points to a list beside it; everything else stays the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.entity import (
    COUNTED,
    LIST_LIMIT,
    DesiredEntity,
    ListPlace,
    check_entity,
    content_digest,
    list_digest,
    read_published,
    read_served,
)
from ecr_catalog_pipeline.core.governance import Catalog, Status
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.parity import judge
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.reconcile import reconcile
from tests.unit.builders import (
    IDENTITY,
    SHA,
    catalog,
    desired_of,
    entry,
    inventory,
    live_registry,
    plan,
)
from tests.unit.test_core_properties import small_worlds, worlds

LIMITS = st.sampled_from([1, 2, 3, LIST_LIMIT])


def at(limit: int) -> ListPlace:
    return ListPlace("path", "ecr-registry.yaml", limit)


def desired(world: tuple[Catalog, Inventory], limit: int) -> DesiredEntity:
    return desired_of(reconcile(*world), world[1], place=at(limit))


def lists_of(entity: DesiredEntity) -> dict[str, bytes | None]:
    return {entity.listed: entity.full_list} if entity.listed else {}


def plan_on(before: DesiredEntity, world: tuple[Catalog, Inventory], limit: int) -> Plan:
    """Plan a world where `before` is published."""
    return plan(
        reconcile(*world),
        world[1],
        place=at(limit),
        published=before.content,
        read_list=lists_of(before).get,
    )


def registry_of(count: int, limit: int, **changes: Any) -> DesiredEntity:
    names = [f"team/r{number:03}" for number in range(count)]
    return desired_of(live_registry(*names, **changes), inventory(names), place=at(limit))


def spec_of(entity: DesiredEntity) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(entity.content)["spec"]
    return spec


def test_an_entity_lists_as_many_as_the_limit_and_not_one_more() -> None:
    assert "repositories" in spec_of(registry_of(3, 3))
    assert list(spec_of(registry_of(3, 2))) == ["type", "owner", "system", "summary", "listed"]


def test_live_and_pending_repositories_count_together() -> None:
    world = (catalog([entry("ab"), entry("cd", status=Status.PENDING)]), inventory(["ab"]))

    assert desired(world, 2).full_list is None
    beside = desired(world, 1).full_list
    assert beside is not None
    assert [json.loads(line) for line in beside.splitlines()] == [
        {
            "name": "ab",
            "owner": "platform-team",
            "risk": "low",
            "status": "active",
            "uri": "123456789012.dkr.ecr.eu-west-2.amazonaws.com/ab",
        },
        {"name": "cd", "owner": "platform-team", "risk": "low"},
    ]


def test_the_entity_says_where_its_list_is_and_what_is_in_it() -> None:
    entity = registry_of(3, 2)

    assert entity.full_list is not None
    digest = list_digest(entity.full_list)
    assert spec_of(entity)["listed"] == {
        "path": f"ecr-registry.yaml.{digest[7:23]}.jsonl",
        "digest": digest,
        "count": 3,
    }


def test_the_summary_counts_live_repositories_the_most_frequent_first() -> None:
    entries = [
        entry("ab", owner="one", environment="prod"),
        entry("cd", owner="two", risk="high"),
        entry("ef", owner="two", environment="dev"),
        entry("gh", owner=None, environment="dev"),
        entry("ij", owner="three", status=Status.PENDING),
    ]
    world = (catalog(entries), inventory(["ab", "cd", "ef", "gh"]))

    assert spec_of(desired(world, 4))["summary"] == {
        "owner": [
            {"name": "two", "count": 2},
            {"name": "one", "count": 1},
            {"name": "unassigned", "count": 1},
        ],
        "risk": [{"name": "low", "count": 3}, {"name": "high", "count": 1}],
        "environment": [
            {"name": "dev", "count": 2},
            {"name": "prod", "count": 1},
            {"name": "unassigned", "count": 1},
        ],
    }


def test_a_long_summary_counts_the_others_together() -> None:
    names = [f"r{number:03}" for number in range(COUNTED + 3)]
    world = (catalog(entry(name, owner=f"of-{name}") for name in names), inventory(names))

    owners = spec_of(desired(world, 1))["summary"]["owner"]

    assert len(owners) == COUNTED + 1
    assert owners[-1] == {"name": "others", "count": 3}
    assert sum(each["count"] for each in owners) == len(names)


@given(worlds(), LIMITS)
@example((catalog([entry("ab")]), inventory([])), 1)
def test_any_text_gives_a_valid_entity_and_a_list_that_are_read_as_they_were_meant(
    world: tuple[Catalog, Inventory], limit: int
) -> None:
    entity = desired(world, limit)

    parsed = yaml.safe_load(entity.content)
    check_entity(parsed)
    assert content_digest(parsed) == entity.digest
    assert read_published(entity.content, IDENTITY, lists_of(entity).get) == entity.read_in(
        entity.content
    )
    served = read_served(parsed, lists_of(entity).get)
    assert served == read_published(entity.content, IDENTITY, lists_of(entity).get)
    assert judge(entity.digest, parsed).parity


@given(small_worlds(), small_worlds(), LIMITS, LIMITS)
def test_a_plan_is_the_same_on_both_sides_of_the_limit_and_across_it(
    before: tuple[Catalog, Inventory], after: tuple[Catalog, Inventory], old: int, new: int
) -> None:
    usual = plan_on(desired(before, LIST_LIMIT), after, LIST_LIMIT)

    found = plan_on(desired(before, old), after, new)

    assert found.changes == usual.changes
    assert found.differences == usual.differences
    assert found.reasons_held == usual.reasons_held
    assert found.published_live == usual.published_live
    assert found.counts == usual.counts
    assert found.unchanged is (
        usual.unchanged and desired(before, old).digest == desired(before, new).digest
    )


OWNERS = st.fixed_dictionaries({name: st.sampled_from(["one", "two"]) for name in ("ab", "cd")})


@given(OWNERS, OWNERS)
def test_any_difference_in_a_list_is_a_difference_of_the_digest(
    one: dict[str, str], other: dict[str, str]
) -> None:
    first, second = (
        desired((catalog(entry(name, owner=owners[name]) for name in owners), inventory(owners)), 1)
        for owners in (one, other)
    )

    assert (first.digest == second.digest) is (first.full_list == second.full_list)
    assert (first.full_list == second.full_list) is (one == other)


WORLD = (catalog([entry(name) for name in ("ab", "cd", "ef")]), inventory(["ab", "cd", "ef"]))
ENTITY = desired(WORLD, 1)


@pytest.mark.parametrize("found", [None, b"", b"[}", b"[]\n", ENTITY.full_list + b"{}\n", b"\xff"])  # type: ignore[operator]
def test_a_list_that_is_missing_or_changed_is_published_again(found: bytes | None) -> None:
    found_plan = plan(
        reconcile(*WORLD),
        WORLD[1],
        place=at(1),
        published=ENTITY.content,
        read_list=lambda _: found,
    )

    assert not found_plan.unchanged
    assert not found_plan.held
    assert found_plan.differences == ()
    assert found_plan.full_list == ENTITY.full_list
    assert found_plan.published_list == ENTITY.listed


@pytest.mark.parametrize("found", [None, b"[}", b"[1]\n", b'{"name": 1}\n'])
def test_what_would_be_lost_with_an_unreadable_list_is_not_known_so_the_plan_is_held(
    found: bytes | None,
) -> None:
    after = (catalog([entry("ab")]), inventory(["ab"]))

    held = plan(
        reconcile(*after),
        after[1],
        place=at(1),
        published=ENTITY.content,
        read_list=lambda _: found,
    )

    assert held.held
    assert "list of repositories is missing or damaged" in " ".join(held.reasons_held)
    assert held.published_live is None


def test_a_removal_past_the_limit_is_held_like_any_other() -> None:
    held = plan_on(
        registry_of(50, 10), (catalog([entry("team/r000")]), inventory(["team/r000"])), 10
    )

    assert held.held
    assert len(held.changes.removed) == 49


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "g" * 64, "../../../etc/passwd"])
def test_what_is_not_a_digest_is_never_looked_for(digest: str) -> None:
    asked: list[str] = []

    def read_list(each: str) -> None:
        asked.append(each)

    content = ENTITY.content.replace(ENTITY.listed.encode(), digest.encode() or b"''")
    found = read_published(content, IDENTITY, read_list)

    assert found.damaged
    assert asked == []


def test_an_unchanged_world_is_unchanged_past_the_limit_too() -> None:
    again = plan_on(ENTITY, WORLD, 1)

    assert again.unchanged
    assert replace(again, source_sha=SHA).full_list == ENTITY.full_list
