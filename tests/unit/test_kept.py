"""State that another version of us kept: what can be used of it, and that nothing of it raises."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core.alerts import Condition, Raised, Signal
from ecr_catalog_pipeline.core.parity import Basis, Change, ParityState, Pause, Sources, Why
from ecr_catalog_pipeline.defs.kept import read_kept, read_kept_data, write_kept
from ecr_catalog_pipeline.defs.parity_watch import Watched
from tests.unit.builders import NOW


@dataclass(frozen=True, slots=True)
class Look:
    """State with and without defaults."""

    blob: str
    at: datetime
    pages: int = 1


LOOK: Final = TypeAdapter(Look)
WATCHED: Final = TypeAdapter(Watched)
STATE: Final = TypeAdapter(ParityState)
FULL_WATCHED: Final = Watched(
    raised={
        signal: Raised(Condition(signal, NOW, "it broke", "fix it"), delivered=True)
        for signal in (Signal.PLAN_HELD, Signal.BACKSTAGE_DIFFERS)
    },
    served="sha256:1",
    verified_at=NOW,
    watched_since=NOW,
)
FULL_STATE: Final = ParityState(
    open=(Change("team/app", "state", None, "live", NOW, Basis.COMMIT),),
    recent=(Change("team/web", "owner", "a", "b", NOW, Basis.COMMIT, NOW, NOW),),
    superseded=3,
    verified_at=NOW,
    measured=7,
    sources=Sources("blob", "sha256:2", "sha256:1", NOW),
    pauses=(Pause(Why.HELD, NOW),),
)


@pytest.mark.parametrize(
    ("adapter", "value"), [(WATCHED, FULL_WATCHED), (STATE, FULL_STATE)], ids=["cursor", "state"]
)
def test_what_is_written_is_read_back_whole(adapter: TypeAdapter[Any], value: object) -> None:
    text = write_kept(adapter, 3, value)

    assert json.loads(text)["version"] == 3
    kept = read_kept(adapter, 3, text)
    assert (kept.value, kept.problem) == (value, "")


@pytest.mark.parametrize("text", [None, ""])
def test_nothing_kept_is_no_problem(text: str | None) -> None:
    kept = read_kept(LOOK, 1, text)

    assert (kept.value, kept.problem) == (None, "")


def test_what_carries_no_version_is_of_the_first_one() -> None:
    kept = read_kept(LOOK, 1, '{"blob": "b", "at": "2026-01-09T12:00:00Z"}')

    assert kept.value == Look("b", datetime(2026, 1, 9, 12, tzinfo=UTC))
    assert not kept.problem


def test_an_older_version_gives_what_is_compatible() -> None:
    older = '{"version": 1, "blob": "b", "at": "2026-01-09T12:00:00Z", "gone_since": {"x": 1}}'

    assert read_kept(LOOK, 2, older).value == Look("b", datetime(2026, 1, 9, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a mapping"),
        ('"text"', "is not a mapping"),
        ('{"version": 9, "blob": "b", "at": "2026-01-09T12:00:00Z"}', "newer version"),
        ('{"version": "1"}', "names no version that exists"),
        ('{"version": 0}', "names no version that exists"),
        ('{"blob": "b"}', "cannot be read at at"),
        ('{"blob": 7, "at": "2026-01-09T12:00:00Z"}', "cannot be read at blob"),
        ('{"blob": "b", "at": "2026-01-09T12:00:00"}', "without a time zone"),
        ('{"blob": "b", "at": "9999-12-31T23:59:59Z"}', "in the year 9999"),
    ],
)
def test_what_cannot_be_used_starts_over_and_says_why(text: str, problem: str) -> None:
    kept = read_kept(LOOK, 1, text)

    assert kept.value is None
    assert problem in kept.problem


def test_a_field_that_has_a_default_is_left_out_alone() -> None:
    kept = read_kept(LOOK, 1, '{"blob": "b", "at": "2026-01-09T12:00:00Z", "pages": "many"}')

    assert kept.value == Look("b", datetime(2026, 1, 9, 12, tzinfo=UTC))
    assert "pages" in kept.problem


def test_an_unknown_signal_takes_no_other_alert_with_it() -> None:
    text = write_kept(WATCHED, 1, FULL_WATCHED).replace('"plan-held": {"cond', '"moon": {"cond')

    kept = read_kept(WATCHED, 1, text)

    assert kept.value is not None
    assert set(kept.value.raised) == {Signal.BACKSTAGE_DIFFERS}
    assert kept.value.verified_at == NOW
    assert "raised.moon" in kept.problem


def test_one_change_that_cannot_be_read_takes_no_other_with_it() -> None:
    data = json.loads(write_kept(STATE, 1, FULL_STATE))
    data["open"].append({"repository": "team/new"})

    kept = read_kept_data(STATE, 1, data)

    assert kept.value == FULL_STATE
    assert "open.1" in kept.problem


JSON_VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["2026-01-09T12:00:00", "2026-01-09", "9999-12-31T23:59:59Z", 1e300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(st.sampled_from([(WATCHED, FULL_WATCHED), (STATE, FULL_STATE)]), st.data())
def test_nothing_that_another_version_could_have_kept_ever_raises(
    kind: tuple[TypeAdapter[Any], object], data: st.DataObject
) -> None:
    adapter, value = kind
    kept = json.loads(write_kept(adapter, 1, value))
    place = kept
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [each for each in place.values() if isinstance(each, dict) and each]
        place = data.draw(st.sampled_from(inner)) if inner else place
    name = data.draw(st.sampled_from(sorted(place)))
    match data.draw(st.sampled_from(["add", "remove", "rename", "retype", "version"])):
        case "add":
            place["added_by_another_version"] = data.draw(JSON_VALUES)
        case "remove":
            del place[name]
        case "rename":
            place["renamed_" + name] = place.pop(name)
        case "retype":
            place[name] = data.draw(JSON_VALUES)
        case _:
            kept["version"] = data.draw(JSON_VALUES)
    text = json.dumps(kept)
    cut = data.draw(st.sampled_from([len(text), len(text), len(text) // 2]))

    found = read_kept(adapter, 1, text[:cut])

    assert found.value is not None or found.problem
    if found.value is not None:
        assert read_kept(adapter, 1, write_kept(adapter, 1, found.value)).value == found.value
