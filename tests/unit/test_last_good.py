"""The last known good in words: what is published, and how old it is."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ecr_catalog_pipeline.core.entity import read_published
from ecr_catalog_pipeline.core.last_good import age_in_words, last_good_in_words
from tests.unit.builders import IDENTITY, NOW, published


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_661, "1 h 1 min"),
        (3_605, "1 h"),
        (86_400 * 3 + 3_600 * 4 + 59, "3 d 4 h"),
    ],
)
def test_an_age_is_reported_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert age_in_words(timedelta(seconds=seconds)) == words


def test_the_last_good_is_reported_with_its_size_and_age() -> None:
    entity = read_published(published("ab", "cd"), IDENTITY)

    words = last_good_in_words(entity, NOW + timedelta(hours=5, minutes=10))

    assert words == ("2 live and 0 pending, content of 2026-01-09 23:03:13 UTC, 5 h 10 min ago")


@pytest.mark.parametrize("stamp", [b"'yesterday'", b"''", b"[1]", b"null"])
def test_a_tampered_time_makes_the_age_unknown(stamp: bytes) -> None:
    tampered = published("ab").replace(b"'2026-01-09T23:03:13Z'", stamp)
    assert tampered != published("ab")

    words = last_good_in_words(read_published(tampered, IDENTITY), NOW)

    assert words == "1 live and 0 pending, content of an unknown time"


def test_nothing_and_damage_are_reported_as_such() -> None:
    damaged = published("ab").replace(b"  repositories:\n", b"  repositories: 7\n  more:\n")

    assert last_good_in_words(None, NOW) == "nothing is published yet"
    assert last_good_in_words(read_published(damaged, IDENTITY), NOW) == (
        "a damaged file, of unknown age"
    )
