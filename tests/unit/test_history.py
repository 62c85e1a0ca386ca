"""What becomes of a stored run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from ecr_catalog_pipeline.housekeeping.fate import Fate, StoredRun, fate_of

NOW: Final = datetime(2026, 1, 9, 12, tzinfo=UTC)
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)


def fate(age: timedelta | None, *, needed: bool = False, counted: int = 1, **facts: Any) -> Fate:
    run = StoredRun(
        place=1,
        run_id="a",
        ended_at=None if age is None else NOW - age,
        **{"ours": True, "routine": False, **facts},
    )
    return fate_of(
        run,
        needed={"a"} if needed else set(),
        counted=counted,
        remove_before=NOW - 7 * DAY,
        slim_before=NOW - HOUR,
    )


def test_a_run_that_the_metrics_have_not_counted_is_not_removed() -> None:
    assert fate(8 * DAY, counted=0) is Fate.KEPT
    assert fate(8 * DAY, counted=1) is Fate.REMOVED


@pytest.mark.parametrize(
    ("age", "routine", "expected"),
    [
        (HOUR / 2, True, Fate.KEPT),
        (HOUR, True, Fate.KEPT),
        (2 * HOUR, True, Fate.SLIMMED),
        (2 * HOUR, False, Fate.PACKED),
        (7 * DAY, False, Fate.PACKED),
        (7 * DAY + HOUR, False, Fate.REMOVED),
        (7 * DAY + HOUR, True, Fate.REMOVED),
    ],
)
def test_a_run_goes_by_its_age(age: timedelta, routine: bool, expected: Fate) -> None:
    assert fate(age, routine=routine) is expected


@pytest.mark.parametrize("age", [2 * HOUR, 400 * DAY])
def test_what_holds_the_latest_of_something_is_needed_however_old(age: timedelta) -> None:
    assert fate(age, routine=True, needed=True) is Fate.NEEDED


@pytest.mark.parametrize("needed", [True, False])
def test_a_run_under_way_is_kept(needed: bool) -> None:
    assert fate(None, routine=True, needed=needed) is Fate.KEPT


def test_somebody_elses_run_is_kept_however_old() -> None:
    assert fate(400 * DAY, ours=False) is Fate.KEPT
