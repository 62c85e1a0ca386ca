"""Lifecycle policies: how many images they leave, and whose turn it is to be read."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core import retention
from ecr_catalog_pipeline.core.ecr_settings import Unreadable
from ecr_catalog_pipeline.core.retention import (
    MAX_ASKED,
    Retention,
    Rotation,
    keeps_images,
    packed,
    unpacked,
)
from tests.fakes.aws import lifecycle_policy
from tests.unit.builders import NOW


def rule(**changes: Any) -> dict[str, Any]:
    selection = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 50}
    action = changes.pop("action", {"type": "expire"})
    return {"rulePriority": 1, "selection": {**selection, **changes}, "action": action}


@pytest.mark.parametrize(
    ("rules", "keeps"),
    [
        ([rule()], 50),
        ([rule(countNumber=1)], 1),
        ([], None),
        ([rule(tagStatus="untagged")], None),
        ([rule(tagStatus="tagged", tagPrefixList=["v"])], None),
        ([rule(countType="sinceImagePushed", countUnit="days")], None),
        ([rule(action={"type": "transition", "targetStorageClass": "archive"})], None),
        ([rule(tagStatus="untagged", countNumber=3), rule(countNumber=30)], 30),
    ],
)
def test_a_rule_that_expires_any_image_beyond_a_number_counts(
    rules: list[Any], keeps: int | None
) -> None:
    assert keeps_images(json.dumps({"rules": rules})) == keeps


def test_the_policy_of_the_fake_is_one() -> None:
    assert keeps_images(lifecycle_policy(20)) == 20
    assert keeps_images(lifecycle_policy(20, tagStatus="untagged")) is None


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "{", "[]", "7", '{"rules": 7}', '{"rules": [7]}', '{"rules": [{}]}'),
        json.dumps({"rules": [rule(countNumber="50")]}),
        json.dumps({"rules": [rule(countNumber=0)]}),
        "[" * 100_000,
    ],
)
def test_what_is_no_lifecycle_policy_says_nothing(text: object) -> None:
    with pytest.raises(Unreadable):
        keeps_images(text)


# The rotation


def names(count: int) -> list[str]:
    return [f"team/app-{number:05}" for number in range(count)]


def test_every_policy_is_read_once_before_one_is_read_again() -> None:
    governed, rotation = names(3 * MAX_ASKED), Rotation()
    asked: list[str] = []
    for turn in range(6):
        chosen = rotation.next_names(governed)
        assert len(chosen) == MAX_ASKED
        at = NOW + timedelta(minutes=2 * turn)
        rotation = rotation.after(dict.fromkeys(chosen, Retention(at, 20)), governed)
        asked += chosen
    assert sorted(asked[: len(governed)]) == governed
    assert asked[len(governed) :] == asked[: len(governed)]


def test_the_oldest_answer_comes_first_and_the_missing_one_before_it() -> None:
    governed = names(MAX_ASKED + 3)
    answers = {name: Retention(NOW - timedelta(hours=n), 20) for n, name in enumerate(governed[1:])}
    chosen = Rotation(answers).next_names(governed)
    assert chosen[0] == governed[0]
    assert list(chosen[1:]) == governed[:3:-1][: MAX_ASKED - 1]


def test_what_cannot_be_read_does_not_stop_the_rotation() -> None:
    governed, rotation = names(2 * MAX_ASKED), Rotation()
    seen: set[str] = set()
    for turn in range(2 * MAX_ASKED):
        first = rotation.next_names(governed)[0]
        seen.add(first)
        denied = {first: Retention(NOW + timedelta(minutes=turn), problem="denied")}
        rotation = rotation.after(denied, governed)
    assert seen == set(governed)


def test_what_is_no_longer_governed_is_forgotten() -> None:
    rotation = Rotation().after({"ab": Retention(NOW, 5), "cd": Retention(NOW, 6)}, ["ab", "cd"])
    assert rotation.after({}, ["cd"]).answers == {"cd": Retention(NOW, 6)}


def test_more_repositories_than_answers_are_kept_are_all_read_in_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "MAX_ANSWERS", 50)
    governed, rotation = names(130), Rotation()
    seen: set[str] = set()
    for turn in range(7):
        chosen = rotation.next_names(governed)
        seen.update(chosen)
        at = NOW + timedelta(minutes=2 * turn)
        rotation = rotation.after(dict.fromkeys(chosen, Retention(at, 20)), governed)
        assert len(rotation.answers) <= 50
    assert seen == set(governed)


# What is kept

answers = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.builds(
        Retention,
        st.integers(0, 10**6).map(lambda seconds: NOW + timedelta(seconds=seconds)),
        st.none() | st.integers(1, 10**6),
        st.sampled_from(["", "denied"]),
    ),
    max_size=8,
)


@given(answers, st.text(max_size=5))
def test_a_rotation_is_kept_from_run_to_run(kept: dict[str, Retention], last: str) -> None:
    assert unpacked(packed(Rotation(kept, last))) == Rotation(kept, last)


@pytest.mark.parametrize("text", [None, "", "x", "eJw=", packed(Rotation())[:-4], "é"])
def test_what_cannot_be_read_back_starts_from_nothing(text: str | None) -> None:
    assert unpacked(text) == Rotation()


@given(st.text())
def test_any_text_is_a_rotation_or_none(text: str) -> None:
    assert isinstance(unpacked(text), Rotation)


def test_ten_thousand_answers_stay_small() -> None:
    chosen = random.Random(7)
    governed = [f"team-{n % 97}/service-{chosen.randrange(10**6)}-{n}" for n in range(10_000)]
    found = {
        name: Retention(NOW + timedelta(minutes=n // MAX_ASKED), chosen.choice([20, 30, 50, None]))
        for n, name in enumerate(governed)
    }
    assert len(packed(Rotation(found))) < 200_000
