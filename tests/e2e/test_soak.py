"""A short soak of the whole running system, so that the benchmark keeps working and is passed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.soak import Report, soak, tell
from benchmarks.soak_model import SoakModel
from tests.integration.backstage import require_backstage

SEED = 11
MINUTES = 1.5


@pytest.mark.timeout(900)
def test_a_short_storm_breaks_no_promise(tmp_path: Path) -> None:
    require_backstage()

    report = soak(MINUTES, SEED, tmp_path)

    assert report.failures() == [], report.table()
    assert report.parity_seconds is not None
    # A storm that did nothing would have passed, too.
    assert report.publications > 1
    assert report.tally.changes.total() >= 10
    assert report.tally.faults.total() >= 2
    assert report.tally.kills["daemon"] >= 1
    assert report.tally.kills["code server"] >= 1
    assert report.model.holds_found_held >= 1
    assert any(each.seconds is not None for each in report.model.changes)


def passed() -> Report:
    """The report of a soak in which nothing was off."""
    return Report(SoakModel(), seed=1, minutes=1, publications=3, parity_seconds=12.0)


def test_a_soak_in_which_nothing_is_off_is_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(passed()) == 0

    assert "| wrong removals | 0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda r: r.model.wrong_removals.append("EVIDENCE"), id="wrong removal"),
        pytest.param(lambda r: r.model.old_ghosts.append("EVIDENCE"), id="old ghost"),
        pytest.param(lambda r: r.model.lost_holds.append("EVIDENCE"), id="lost hold"),
        pytest.param(lambda r: r.still_different.append("EVIDENCE"), id="no parity after it"),
        pytest.param(lambda r: r.tally.troubles.append("EVIDENCE"), id="the soak itself failed"),
    ],
)
def test_anything_off_fails_the_soak_with_its_evidence(
    spoil: Callable[[Report], None], capsys: pytest.CaptureFixture[str]
) -> None:
    report = passed()
    spoil(report)

    assert tell(report) == 1
    assert "EVIDENCE" in capsys.readouterr().out


@pytest.mark.parametrize("lacking", ["publications", "parity_seconds"])
def test_a_soak_that_proved_nothing_is_not_passed(lacking: str) -> None:
    report = passed()
    setattr(report, lacking, None)

    assert report.failures()
