"""What becomes of a stored run: kept, packed, slimmed or removed."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Fate(StrEnum):
    """What housekeeping does with a run."""

    KEPT = "kept"
    NEEDED = "needed"
    """Old enough for something else, but it holds the latest of something."""
    PACKED = "packed"
    """Its database is rewritten, smaller; nothing is lost."""
    SLIMMED = "slimmed"
    """Loses its details; the run, its asset events and its checks stay."""
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the history holds it.

    Attributes:
        place: grows with every run that is stored.
        ended_at: None while the run is queued or under way.
        ours: belongs to a mirror or to housekeeping; an instance may serve others, too.
        routine: succeeded, and nothing but the clock asked for it.
    """

    place: int
    run_id: str
    ended_at: datetime | None
    ours: bool
    routine: bool


def fate_of(
    run: StoredRun,
    *,
    needed: AbstractSet[str],
    counted: int,
    remove_before: datetime,
    slim_before: datetime,
) -> Fate:
    """Decide what becomes of a run.

    Args:
        needed: ids of runs that hold the latest of something: never touched.
        counted: the place up to which runs are counted for the metrics: no other one is removed.
    """
    if run.ended_at is None or not run.ours:
        return Fate.KEPT
    if run.ended_at < remove_before:
        fate = Fate.REMOVED if run.place <= counted else Fate.KEPT
    elif run.ended_at < slim_before:
        fate = Fate.SLIMMED if run.routine else Fate.PACKED
    else:
        return Fate.KEPT
    return Fate.NEEDED if run.run_id in needed else fate
