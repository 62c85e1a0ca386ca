"""A held plan under the real daemon: one alert, one recovery, whatever runs come and go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.held import HELD, HELD_ENDED, approve, hold, receiving, settled_demo
from tests.integration.backstage import require_backstage

pytestmark = pytest.mark.timeout(900)


def test_a_plan_held_over_several_runs_is_one_alert_and_one_recovery_when_it_is_approved(
    tmp_path: Path,
) -> None:
    require_backstage()
    with receiving() as receiver, settled_demo(tmp_path, receiver) as demo:
        assert hold(demo, receiver, seconds=45, every=12) >= 2
        approve(demo, receiver)
        time.sleep(25)  # two more looks of the watch

    assert receiver.titles == [HELD, HELD_ENDED]
