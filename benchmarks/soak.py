"""A seeded storm of changes and faults over the whole running system, checked against a model.

    .venv/bin/python -m benchmarks.soak                        # 15 minutes
    .venv/bin/python -m benchmarks.soak --minutes 60 --seed 7 --keep /tmp/soak
    .venv/bin/python -m benchmarks.soak --repositories 10000
    .venv/bin/python -m benchmarks.soak --hostile              # as root

Real daemon, code server, git and Backstage, a fake AWS that speaks the protocol. Gusts, in which
servers are killed and sources fail, take turns with lulls, in which people go on changing things
and nothing may be late. Fails when a repository was removed wrongly, a ghost was served for longer
than the SLO while nothing disturbed, a hold was lost, or parity did not come back within one tick.

A hostile soak adds a git configuration that gets in the way of all it can, targets that vanish, a
DAGSTER_HOME that fills up, and a wall clock that jumps.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

import dagster as dg

from benchmarks.soak_model import SLO_SECONDS, Governed, SoakModel, rank
from benchmarks.soak_storm import TICK_SECONDS, Storm, Tally
from benchmarks.soak_world import MIRROR, SoakWorld, lacking_for_hostile, soak_world

REPOSITORIES: Final = 70
POLL_SECONDS: Final = 1.0
PROGRESS_SECONDS: Final = 30
EXTRA_SECONDS: Final = 345
"""What start, end and the last tick may take beside the storm itself."""


@dataclass
class Report:
    """What a soak came to."""

    model: SoakModel
    seed: int
    minutes: float
    tally: Tally = field(default_factory=Tally)
    runs: Counter[str] = field(default_factory=Counter)
    alerts_begun: Counter[str] = field(default_factory=Counter)
    alerts_recovered: Counter[str] = field(default_factory=Counter)
    publications: int = 0
    measured: list[float] = field(default_factory=list)
    parity_seconds: float | None = None
    still_different: list[str] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def failures(self) -> list[str]:
        """What was off, with its evidence; empty when the soak was passed."""
        model = self.model
        found = [
            *(f"wrong removal: {each}" for each in model.wrong_removals),
            *(f"old ghost: {each}" for each in model.old_ghosts),
            *(f"lost hold: {each}" for each in model.lost_holds),
            *(f"not in parity after the storm: {each}" for each in self.still_different[:20]),
            *(f"the soak itself: {each}" for each in self.tally.troubles),
        ]
        if self.parity_seconds is None and not found:
            found.append("not in parity after the storm: it was never asked")
        if not self.publications:
            found.append("the soak itself: nothing was published, so nothing was tested")
        return found

    def table(self) -> str:
        """The counts, as Markdown."""
        model = self.model
        seen = [each for each in model.changes if each.seconds is not None]
        calm = [each.seconds for each in seen if each.seconds is not None and not each.disturbed]
        parity = "never" if self.parity_seconds is None else f"{self.parity_seconds:.0f} s"
        rows = [
            ("wrong removals", len(model.wrong_removals)),
            (
                f"ghosts older than {SLO_SECONDS:.0f} s while nothing disturbed",
                len(model.old_ghosts),
            ),
            ("oldest ghost while nothing disturbed", f"{model.worst_ghost_seconds:.0f} s"),
            ("lost holds", len(model.lost_holds)),
            (
                "holds: begun, found held when asked, approved",
                _of(model.holds, model.holds_found_held, len(self.tally.approved)),
            ),
            (f"parity after the storm, {TICK_SECONDS} s at the most", parity),
            ("changes made", _counted(self.tally.changes)),
            (
                "changes of the entity, of these superseded",
                _of(len(model.changes), sum(each.superseded for each in model.changes)),
            ),
            ("publications", self.publications),
            ("faults", _counted(self.tally.faults)),
            ("kills", _counted(self.tally.kills)),
            ("runs", _counted(self.runs)),
            ("alerts begun", _counted(self.alerts_begun)),
            ("alerts recovered", _counted(self.alerts_recovered)),
            ("time to parity, as `backstage_parity` measured it", _times(self.measured)),
            ("time to parity, by the soak's poller, nothing disturbed", _times(calm)),
            (
                "time to parity, by the soak's poller, all",
                _times([each.seconds for each in seen if each.seconds is not None]),
            ),
            (
                "load average: least, most",
                _of(round(min(self.load, default=0), 1), round(max(self.load, default=0), 1)),
            ),
        ]
        size = f"{len(model.present())} repositories at the end"
        lines = [f"| soak of {self.minutes:g} min, seed {self.seed}, {size} | |", "|---|---|"]
        return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)])


class OutOfTimeError(Exception):
    """The soak has used up its time."""


class _Poller(threading.Thread):
    """Shows the model every second what is published and what Backstage serves."""

    def __init__(self, world: SoakWorld, model: SoakModel) -> None:
        super().__init__(name="poller")
        self._world = world
        self._model = model
        self._stopped = threading.Event()
        self.entity: dict[str, Any] | None = None
        self.commits_seen: dict[str, float] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        tip, live = "", None
        try:
            while not self._stopped.wait(POLL_SECONDS):
                at = time.time()
                if (now := self._world.tip()) != tip:
                    for commit in self._world.commits_since(tip, now):
                        self.commits_seen.setdefault(commit, at)
                    tip, live = now, self._world.published(now)
                self._model.published(live, at)
                with suppress(OSError, ValueError):
                    self.entity = self._world.served()
                    if self.entity is not None:
                        self._model.served(self.entity, at)
        except Exception as error:  # noqa: BLE001 - a dead poller would see nothing off
            self.error = error

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def soak(
    minutes: float,
    seed: int,
    folder: Path,
    *,
    hostile: bool = False,
    repositories: int = REPOSITORIES,
) -> Report:
    """Run a soak in an empty folder.

    Args:
        repositories: governed and in AWS when it begins.
    """
    model = SoakModel()
    report = Report(model, seed, minutes)
    choose = random.Random(seed)
    entries = {
        f"base/r{number:03}": Governed(
            f"team-{choose.choice('abcdefgh')}", choose.choice(["low", "medium", "high"]), "active"
        )
        for number in range(repositories)
    }
    try:
        with soak_world(folder, entries, hostile=hostile) as world:
            # They were there before the first read of any run, so nothing excuses removing them.
            model.governed(entries, began=0, ended=0)
            model.in_ecr(entries, present=True, began=0, ended=0)
            model.changes.clear()
            storm, poller = Storm(world, model, report.tally, seed), _Poller(world, model)
            poller.start()
            with _progress(report, world, poller):
                try:
                    storm.rage(minutes * 60)
                    _await_parity(report, poller, storm.calm())
                finally:
                    poller.stop()
                    storm.close()
                    _collect(report, world, poller)
    except Exception as error:  # noqa: BLE001 - whatever ended it, the counts are printed
        report.tally.troubles.append(f"ended by {error!r}")
    return report


def _await_parity(report: Report, poller: _Poller, since: float) -> None:
    """Wait for Backstage to serve what the model says; a late answer is noted as late."""
    report.still_different = ["Backstage was not asked"]
    while time.time() - since <= TICK_SECONDS:
        report.still_different = report.model.differences(poller.entity)
        if not report.still_different:
            report.parity_seconds = time.time() - since
            return
        time.sleep(POLL_SECONDS)


def _collect(report: Report, world: SoakWorld, poller: _Poller) -> None:
    """Judge all commits, and count what Dagster and the alert receiver have of it."""
    if poller.error is not None:
        report.tally.troubles.append(f"the poller failed: {poller.error!r}")
    # By the clock of this process: that of the mirror may have jumped.
    commits = [
        replace(commit, at=poller.commits_seen.get(commit.sha, commit.at))
        for commit in world.commits()
    ]
    report.model.committed(commits, report.tally.approved)
    report.publications = sum(commit.by_mirror for commit in commits)
    report.alerts_begun = world.receiver.begun
    report.alerts_recovered = world.receiver.recovered
    measured: dict[tuple[str, ...], float] = {}
    report.runs.update(run.status.value.lower() for run in world.instance.get_runs())
    key = dg.AssetKey([MIRROR, "backstage_parity"])
    for record in world.instance.fetch_materializations(key, limit=2_000).records:
        assert record.asset_materialization is not None
        state = record.asset_materialization.metadata["state"].value
        assert isinstance(state, dict)
        for change in state["recent"]:
            if change["asked_at"] is not None:
                asked, visible = (_moment(change[at]) for at in ("asked_at", "visible_at"))
                one = change["repository"], change["field"], change["visible_at"]
                measured[one] = max(0.0, visible - asked)
    report.measured = list(measured.values())


@contextmanager
def _progress(report: Report, world: SoakWorld, poller: _Poller) -> Iterator[None]:
    """Say on stderr every half a minute how far it is."""
    stopped, began = threading.Event(), time.time()

    def tell() -> None:
        while not stopped.wait(PROGRESS_SECONDS):
            report.load.append(os.getloadavg()[0])
            model = report.model
            different = len(model.differences(poller.entity))
            disturbs = ", ".join(sorted(model.disturbances())) or "nothing"
            print(
                f"{time.time() - began:5.0f} s: {report.tally.changes.total()} changes, "
                f"{report.tally.faults.total()} faults, {report.tally.kills.total()} kills, "
                f"{len(world.aws.names())} in AWS, {different} differences, disturbed by "
                f"{disturbs}, load {report.load[-1]:.1f}",
                file=sys.stderr,
                flush=True,
            )

    thread = threading.Thread(target=tell, name="progress")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End what is done within, in order, when its time is up or someone stops it."""

    def out_of_time(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise OutOfTimeError(f"not done after {seconds:.0f} s")

    def stopped(number: int, frame: FrameType | None) -> None:
        del frame
        raise KeyboardInterrupt(signal.Signals(number).name)

    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stopped)
    handlers[signal.SIGALRM] = out_of_time
    # Also where they were ignored, as in the background of a script.
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the soak and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and repositories")
    parser.add_argument("--hostile", action="store_true", help="clock, git, disk, targets as well")
    parser.add_argument("--repositories", type=int, default=REPOSITORIES, help="at the beginning")
    arguments = parser.parse_args()
    if arguments.hostile and (problem := lacking_for_hostile()):
        sys.exit(problem)
    print(f"seed {arguments.seed}", file=sys.stderr, flush=True)
    limit = arguments.minutes * 60 + EXTRA_SECONDS
    with _folder(arguments.keep) as folder, _at_most(limit):
        report = soak(
            arguments.minutes,
            arguments.seed,
            folder,
            hostile=arguments.hostile,
            repositories=arguments.repositories,
        )
    sys.exit(tell(report))


def tell(report: Report) -> int:
    """Print the table, and the evidence of what is off; gives the exit code."""
    print(report.table())
    failures = report.failures()
    if failures:
        print("\n".join(["", "Off:", *(f"- {each}" for each in failures)]))
    return 1 if failures else 0


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _of(*values: float) -> str:
    return ", ".join(str(value) for value in values)


def _counted(counter: Counter[str]) -> str:
    each = ", ".join(f"{number} {name}" for name, number in sorted(counter.items()))
    return f"{counter.total()}: {each}" if counter else "0"


def _times(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    p50, p95, most = (rank(seconds, percent) for percent in (50, 95, 100))
    return f"p50 {p50:.1f} s, p95 {p95:.1f} s, max {most:.1f} s, of {len(seconds)}"


if __name__ == "__main__":
    main()
