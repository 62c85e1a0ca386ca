"""The metrics of a run, in a file for a textfile collector."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
from filelock import FileLock, Timeout

from ecr_catalog_pipeline.adapters.files import read_regular_file, replace_file
from ecr_catalog_pipeline.commands.run_once import dagster_home
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.core.metrics import (
    EndedRun,
    MirrorMetrics,
    RunOutcome,
    Source,
    Standing,
    after_run,
    count_by_rule,
    families,
    read_samples,
    sources_of,
    unix_time,
)
from ecr_catalog_pipeline.mirroring import Outcome, Tick, now_utc
from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror, load_mirrors, mirrors_folder

MAX_BYTES: Final = 20_000_000
LOCK_SECONDS: Final = 10

metrics_file_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--metrics-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the metrics there after the run, for a textfile collector: a name ending in .prom. "
    "All mirrors share one file.",
)


class RunUnderWay:
    """A run whose metrics are written when it has ended."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self.done: Tick | None = None
        """What it came to; None of a run that failed."""
        self.history_is_kept = True

    def without_history(self, words: str) -> None:
        """Warn that the run keeps no history."""
        self.history_is_kept = False
        self._warn(words)


@contextmanager
def metrics_of_run(
    path: Path | None,
    mirror: Mirror,
    environ: Mapping[str, str],
    warn: Callable[[str], object],
) -> Iterator[RunUnderWay]:
    """Write the metrics of a run when it ends, also when it fails.

    A file that cannot be written is a warning: publishing does not depend on it.

    Args:
        path: of the file; None writes none.
        warn: gets what is wrong with the file; of a run that failed it is a note on the error.
    """
    run = RunUnderWay(warn)
    try:
        yield run
    except Exception as error:
        if path:
            _File(path, mirror, environ, partial(_note, error)).write(run, type(error).__name__)
        raise
    if path:
        _File(path, mirror, environ, warn).write(run, "")


def _note(error: Exception, words: str) -> None:
    error.add_note(f"warning: {words}")


@dataclass(frozen=True, slots=True)
class _File:
    """The file, as one run of a mirror meets it."""

    path: Path
    mirror: Mirror
    environ: Mapping[str, str]
    warn: Callable[[str], object]

    def write(self, run: RunUnderWay, kind: str) -> None:
        """Put the metrics of the mirror in, and leave those of others.

        Args:
            kind: the class of the error that ended the run; empty where none did.
        """
        # Only a run that writes a file needs Prometheus' library.
        from ecr_catalog_pipeline.adapters.exposition import write_text  # noqa: PLC0415

        path, mirror = self.path, self.mirror
        out_of_history = self._from_history() if run.history_is_kept else None
        try:
            if not path.absolute().parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "no such folder", str(path.parent))
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
                known = self._read()
                before = known.get(mirror.name, MirrorMetrics(mirror.name))
                known[mirror.name] = out_of_history or after_run(
                    before, _ended(run.done, kind), _standing(run.done), mirror.parity.slo_seconds
                )
                text = write_text(families(known.values(), version("ecr-catalog-pipeline")))
                replace_file(path, text)
        except (OSError, Timeout) as error:
            self.warn(f"{path} does not hold the metrics of this run: {error}")

    def _read(self) -> dict[str, MirrorMetrics]:
        """Read what the runs before wrote of mirrors that have a file."""
        from ecr_catalog_pipeline.adapters.exposition import read_text  # noqa: PLC0415

        loaded = load_mirrors(mirrors_folder(self.environ))
        names = {*loaded.mirrors, *loaded.errors, self.mirror.name}
        try:
            found = read_samples(read_text(read_regular_file(self.path, MAX_BYTES)))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            self.warn(f"{self.path} starts over: it is {error}")
            return {}
        return {name: each for name, each in found.items() if name in names}

    def _from_history(self) -> MirrorMetrics | None:
        """Read the metrics of the mirror out of Dagster's history; None where it has none."""
        home = dagster_home(self.environ)
        if home is None:
            return None
        # Dagster takes seconds to import.
        from ecr_catalog_pipeline.defs.instance import kept_instance  # noqa: PLC0415
        from ecr_catalog_pipeline.defs.metrics import MetricsReader  # noqa: PLC0415

        loaded = LoadedMirrors({self.mirror.name: self.mirror}, {})
        try:
            with kept_instance(home) as instance:
                (found,) = MetricsReader(instance).read(loaded)
        except CatalogError as error:
            self.warn(f"the metrics are those of this run alone: {error.problem}")
            return None
        return found


def _ended(done: Tick | None, kind: str) -> EndedRun:
    """What a run without a history came to.

    Args:
        kind: the class of the error that ended it.
    """
    sources, ended_at = sources_of([kind]), now_utc().timestamp()
    if done is None or done.publication is None:
        return EndedRun(RunOutcome.FAILED, sources, ended_at=ended_at)
    if done.backstage_down:
        sources |= {Source.BACKSTAGE}
    return EndedRun(RunOutcome(done.publication.outcome), sources, ended_at=ended_at)


def _standing(done: Tick | None) -> Standing | None:
    if done is None or done.publication is None or done.verdict is None:
        return None
    plan, registry = done.planned.plan, done.planned.registry
    reads = done.planned.parity.reads
    began_at = min(reads.governance_began_at, reads.inventory_began_at)
    return Standing(
        repositories={state.value: count for state, count in plan.counts.items()},
        findings={
            (rule, severity): count
            for rule, by_severity in count_by_rule(registry.findings).items()
            for severity, count in by_severity.items()
        },
        excepted=len(registry.excepted),
        held=done.publication.outcome is Outcome.HELD,
        in_parity=done.verdict.parity,
        verified_at=began_at.timestamp() if done.verdict.parity else None,
        changed_at=unix_time(done.publication.last_sync),
    )
