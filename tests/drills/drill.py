"""A failure drill: something is broken on purpose, and what came of it is put down as observed.

    def test_...(world: World, drill: Drill) -> None:
        drill.broken, drill.fault = "ecr:DescribeRepositories, page 2", "THROTTLING, lasting"
        before = Standing.of(world)
        met = meet(world)                  # the run that meets the fault
        drill.observe(world, before, met)
        ...                                # repair it, and let a healthy run try
        drill.recovered = meet(world).outcome == "published"

The test asserts what must have happened; the table at the end of the test run shows what did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import yaml

from tests.integration.worlds import Synced, World

HEADER: Final = ("broken", "fault", "what happened", "target", "next healthy run", "drill")
WIDTHS: Final = (36, 34, 78, 10, 16, 6)
"""The widest that each column gets; what is longer is cut."""


@dataclass(frozen=True)
class Standing:
    """What stood at the target at one moment."""

    content: bytes | None
    history: Sequence[object]
    listed: Collection[str]

    @classmethod
    def of(cls, world: World) -> Standing:
        content = world.content
        return cls(
            content, list(world.target.history()), set(world.listed) if content is not None else ()
        )


@dataclass(frozen=True)
class Met:
    """What a run came to: what Dagster shows of its failure, or its success."""

    failure: dg.Failure | None = None
    synced: Synced | None = None

    @property
    def outcome(self) -> str:
        """`failed`, or what the publication came to."""
        return self.synced.outcome if self.synced else "failed"

    @property
    def description(self) -> str:
        """What Dagster shows of the failure; empty without one."""
        return (self.failure.description or "") if self.failure else ""

    @property
    def shown(self) -> dict[str, str]:
        """The failure's metadata; empty without one."""
        metadata = self.failure.metadata if self.failure else {}
        return {key: str(each.value) for key, each in metadata.items()}

    @property
    def words(self) -> str:
        """The error's class and problem, or why a plan is held, or the outcome."""
        if self.failure is not None:
            cause = type(self.failure.__cause__ or self.failure).__name__
            return f"{cause}: {self.shown.get('problem', self.description)}"
        assert self.synced is not None
        reasons = self.synced.planned.plan.reasons_held
        return f"{self.outcome}: {'; '.join(reasons)}" if reasons else self.outcome


def meet(world: World, **how: Any) -> Met:
    """Run the mirror's job, whatever comes of it; any other error than a Failure is a defect."""
    try:
        return Met(synced=world.sync(**how))
    except dg.Failure as failure:
        return Met(failure=failure)


def live(world: World) -> list[str]:
    """Name what is governed and in AWS now, by the fake's own word: what is to be published."""
    governed = yaml.load(world.governance_file.read_text(), yaml.CSafeLoader)["repositories"]
    there = set(world.fake.names())
    return sorted(
        name
        for name, each in governed.items()
        if name in there and each["metadata"]["status"] != "decommissioned"
    )


def wrongly_removed(world: World, before: Standing) -> list[str]:
    """Name what was published before and no longer is, though it is live."""
    now = world.listed if world.content is not None else {}
    return [name for name in live(world) if name in before.listed and name not in now]


@dataclass(frozen=True)
class Observed:
    """What the run that met the fault did."""

    happened: str
    touched: bool
    wrong_removals: Collection[str]

    @classmethod
    def of(cls, world: World, before: Standing, met: Met) -> Observed:
        now = Standing.of(world)
        return cls(
            happened=met.words,
            touched=(now.content, now.history) != (before.content, before.history),
            wrong_removals=wrongly_removed(world, before),
        )


@dataclass
class Drill:
    """One row of the table; None where the drill did not come to look."""

    name: str
    broken: str | None = None
    fault: str | None = None
    happened: str | None = None
    touched: bool | None = None
    wrong_removals: Collection[str] | None = None
    recovered: bool | None = None
    passed: bool = False

    def observe(self, world: World, before: Standing, met: Met) -> None:
        """Put down what the run that met the fault did."""
        self.put_down(Observed.of(world, before, met))

    def put_down(self, observed: Observed) -> None:
        self.happened = observed.happened
        self.touched = observed.touched
        self.wrong_removals = observed.wrong_removals

    @property
    def row(self) -> tuple[str, ...]:
        recovered = {None: "?", False: "NOT RECOVERED", True: "recovered"}[self.recovered]
        return (
            self.broken or self.name,
            self.fault or "?",
            self.happened or "?",
            self._target,
            recovered,
            "passed" if self.passed else "FAILED",
        )

    @property
    def _target(self) -> str:
        if self.wrong_removals:
            return f"LOST {len(self.wrong_removals)}"
        return {None: "?", False: "untouched", True: "written"}[self.touched]


def summary(drills: Sequence[Drill], remarks: Sequence[str]) -> Iterator[str]:
    """Lay out what all drills observed, the remarks, and the counts."""
    yield from table(drills)
    yield from remarks
    yield totals(drills)


def table(drills: Sequence[Drill]) -> Iterator[str]:
    """Lay out every drill in a line."""
    rows = [HEADER, *(each.row for each in drills)]
    widths = [
        min(limit, max(len(row[column]) for row in rows)) for column, limit in enumerate(WIDTHS)
    ]
    for row in rows:
        cells = (_fit(cell, width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def totals(drills: Sequence[Drill]) -> str:
    """Count what the drills observed."""
    seen = [each for each in drills if each.wrong_removals is not None]
    wrong = sum(len(each.wrong_removals or ()) for each in seen)
    written = sum(each.touched is True for each in drills)
    untouched = sum(each.touched is False for each in drills)
    recovered = sum(each.recovered is True for each in drills)
    passed = sum(each.passed for each in drills)
    blind = f" ({len(drills) - len(seen)} drills did not look)" if len(seen) < len(drills) else ""
    return (
        f"{len(drills)} drills: {passed} passed, {len(drills) - passed} failed; "
        f"{wrong} wrong removals{blind}; "
        f"target untouched in {untouched}, written in {written}; "
        f"{recovered} recovered by the next healthy run"
    )


def _fit(text: str, width: int) -> str:
    line = " ".join(text.split())
    return (line if len(line) <= width else line[: width - 1] + "…").ljust(width)
