from __future__ import annotations

from typing import Any

import pytest

from ecr_catalog_pipeline.core.guard import RemovalLimits, Removals, reasons_to_hold


def reasons(listed: int, removed: int, *, unproved: int = 0, **limits: Any) -> tuple[str, ...]:
    names = [f"repo-{number:04}" for number in range(removed)]
    removals = Removals(listed=listed, removed=names, unproved=names[:unproved])
    return reasons_to_hold(removals, RemovalLimits(**limits))


def test_the_limits_are_10_removals_and_20_percent() -> None:
    assert RemovalLimits() == RemovalLimits(max_removals=10, max_removal_percent=20)


@pytest.mark.parametrize(
    ("listed", "removed"),
    [
        (0, 0),
        (1, 0),
        (1000, 10),
        (15, 3),
        (50, 10),
        (3, 2),
        (2, 1),
    ],
    ids=[
        "nothing of nothing",
        "nothing of one",
        "max_removals exactly",
        "20 % exactly",
        "both limits exactly",
        "2 of 3: below three the percentage does not count",
        "1 of 2",
    ],
)
def test_a_plan_within_the_limits_is_not_held(listed: int, removed: int) -> None:
    assert reasons(listed, removed) == ()


@pytest.mark.parametrize(
    ("listed", "removed", "words"),
    [
        (1000, 11, ["max_removals (10)"]),
        (14, 3, ["3 of 14 repositories (21 %), more than max_removal_percent (20 %)"]),
        (49, 10, ["10 of 49 repositories (over 20 %), more than max_removal_percent (20 %)"]),
        (4, 3, ["max_removal_percent (20 %)"]),
        (54, 11, ["max_removals (10)", "max_removal_percent (20 %)"]),
        (1, 1, ["nothing"]),
        (2, 2, ["nothing"]),
        (3, 3, ["max_removal_percent (20 %)", "nothing"]),
        (11, 11, ["max_removals (10)", "max_removal_percent (20 %)", "nothing"]),
    ],
)
def test_a_plan_beyond_a_limit_is_held_for_each_limit_it_breaks(
    listed: int, removed: int, words: list[str]
) -> None:
    held = reasons(listed, removed)

    assert len(held) == len(words)
    assert all(word in reason for word, reason in zip(words, held, strict=True))


@pytest.mark.parametrize(
    ("limits", "held"),
    [
        ({"max_removals": 3, "max_removal_percent": 100}, False),
        ({"max_removals": 2, "max_removal_percent": 100}, True),
        ({"max_removals": 100, "max_removal_percent": 30}, False),
        ({"max_removals": 100, "max_removal_percent": 29.9}, True),
        ({"max_removals": 0, "max_removal_percent": 100}, True),
        ({"max_removals": 100, "max_removal_percent": 0}, True),
    ],
)
def test_the_mirrors_own_limits_count(limits: dict[str, Any], held: bool) -> None:
    assert bool(reasons(10, 3, **limits)) is held


def test_no_limit_lets_everything_go() -> None:
    assert reasons(5, 5, max_removals=1000, max_removal_percent=100) != ()


def test_one_removal_that_was_not_proved_holds_the_plan_and_is_named() -> None:
    (reason,) = reasons(1000, 2, unproved=1)

    assert "repo-0000" in reason
    assert "repo-0001" not in reason


def test_many_removals_that_were_not_proved_are_counted_and_ten_named() -> None:
    (reason,) = reasons(1000, 12, unproved=12, max_removals=12)

    assert reason.startswith("12 ")
    assert reason.count("repo-") == 10
    assert reason.endswith("repo-0009 and 2 more")


@pytest.mark.parametrize(
    ("listed", "removed"),
    [(1000, 12), (14, 3), (2, 2), (12, 12)],
    ids=["number", "percent", "all", "each"],
)
def test_the_first_reason_names_the_first_ten_removals_once(listed: int, removed: int) -> None:
    first, *others = reasons(listed, removed)

    names = [f"repo-{number:04}" for number in range(min(removed, 10))]
    more = f" and {removed - 10} more" if removed > 10 else ""
    assert first.endswith(f": {', '.join(names)}{more}")
    assert not any("repo-" in reason for reason in others)


def test_a_damaged_published_file_holds_the_plan() -> None:
    removals = Removals(listed=0, removed=(), uncounted="the published file is damaged")

    (reason,) = reasons_to_hold(removals, RemovalLimits())

    assert "damaged" in reason
