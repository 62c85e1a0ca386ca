"""`--all`: one command for every mirror, several at once; one table, and the worst exit code."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

import click

from ecr_catalog_pipeline.commands.common import (
    CHANGES,
    ERROR,
    HELD,
    OK,
    no_mirror,
)
from ecr_catalog_pipeline.commands.past import read_pasts_of
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.core.reconcile import State
from ecr_catalog_pipeline.core.text import shortened
from ecr_catalog_pipeline.mirroring import Past
from ecr_catalog_pipeline.settings import Mirror, load_mirrors, mirrors_folder
from ecr_catalog_pipeline.terminal import echo, echo_json, style, width

AT_ONCE: Final = 8
"""How many mirrors are worked on at once: most of their time they wait for git and AWS."""

_WORST_FIRST: Final = (ERROR, HELD, CHANGES, OK)
_COLOURS: Final = {ERROR: "red", HELD: "red", CHANGES: "yellow", OK: "green"}
_MAX_WIDTH: Final = 160
"""How wide a line gets where no terminal says how wide it is."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a command came to for one mirror.

    Attributes:
        code: the exit code.
        words: what changed, or what failed, on one line.
        plan_hash: of a held plan; empty when nothing is held.
        value: what `--json` prints.
        notes: what else there is to say, a line each.
    """

    code: int
    outcome: str
    words: str = ""
    counts: Mapping[State, int] = field(default_factory=dict)
    plan_hash: str = ""
    value: Any = None
    notes: tuple[str, ...] = ()


Work = Callable[[Mirror, Past], Row]


def for_all(name: str | None, work: Work, *, as_json: bool = False, reads_past: bool = True) -> int:
    """Do the same for every mirror of the folder, and print what it came to.

    Args:
        name: the mirror that `-m` names, which does not go with `--all`.
        work: gives the row of one mirror, from its settings and what its history knows. Called in
            a thread; what it raises is that mirror's error, and stops no other.
        reads_past: False where the work reads the history itself.

    Returns:
        The worst exit code: 1, then 3, then 2, then 0.
    """
    if name is not None:
        raise click.UsageError("--all stands in place of -m NAME")
    loaded = load_mirrors(mirrors_folder(os.environ))
    if not (loaded.mirrors or loaded.errors):
        raise no_mirror()
    rows = {each: _failed(error) for each, error in loaded.errors.items()}
    pasts = read_pasts_of(loaded.mirrors.values(), os.environ) if reads_past else {}
    rows |= _in_parallel(work, loaded.mirrors, pasts)
    rows = dict(sorted(rows.items()))
    if as_json:
        echo_json({"mirrors": {each: row.value for each, row in rows.items()}})
    else:
        echo(*_table(rows))
    for each, row in rows.items():
        echo(*(f"{each}: {note}" for note in row.notes), err=True)
        if row.plan_hash:
            echo(
                f"{each}: approve with: ecr-catalog sync -m {each} --approve {row.plan_hash}",
                err=True,
            )
    return min((row.code for row in rows.values()), key=_WORST_FIRST.index)


def _failed(error: CatalogError) -> Row:
    """Give the row of a mirror that ended with an error."""
    return Row(
        ERROR,
        "error",
        error.problem,
        value={"error": {"problem": error.problem, "remediation": error.remediation}},
        notes=(f"Error: {error}", *getattr(error, "__notes__", ())),
    )


def _in_parallel(
    work: Work, mirrors: Mapping[str, Mirror], pasts: Mapping[str, Past]
) -> dict[str, Row]:
    waiting: SimpleQueue[str] = SimpleQueue()
    done: SimpleQueue[tuple[str, Row]] = SimpleQueue()
    for name in mirrors:
        waiting.put(name)

    def take() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except Empty:
                return
            done.put((name, row_of(work, mirrors[name], pasts.get(name, Past()))))

    # A daemon thread: a command that is interrupted does not wait for what hangs.
    for _ in range(min(AT_ONCE, len(mirrors))):
        Thread(target=take, name="a mirror of --all", daemon=True).start()
    rows: dict[str, Row] = {}
    try:
        while len(rows) < len(mirrors):
            _show(f"{len(rows)} of {len(mirrors)} mirrors done...")
            name, row = done.get()
            rows[name] = row
    finally:
        _show("")
    return rows


def row_of(work: Work, mirror: Mirror, past: Past) -> Row:
    """Give the row of a mirror, of an error whatever it is."""
    try:
        return work(mirror, past)
    except CatalogError as error:
        return _failed(error)
    except Exception as error:  # noqa: BLE001 - a defect of ours at one mirror stops no other
        return _failed(
            CatalogError(
                f"unexpected {type(error).__name__}: {error}",
                remediation="This is a defect of ours; run `ecr-catalog --debug ...` with "
                f"-m {mirror.name} and report what it prints.",
            )
        )


def _show(progress: str) -> None:
    """Replace the line of progress on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{progress}", err=True, nl=False)


def _table(rows: Mapping[str, Row]) -> Iterator[str]:
    heads = ("mirror", "outcome", *(state.value for state in State))
    lines = [
        (name, row.outcome, *(str(row.counts.get(state, "-")) for state in State))
        for name, row in ((shortened(name, 60), row) for name, row in rows.items())
    ]
    widths = [max(map(len, cells)) for cells in zip(heads, *lines, strict=True)]
    yield style(_line(heads, widths), bold=True)
    room = (width() or _MAX_WIDTH) - len(_line(heads, widths)) - 2
    for cells, row in zip(lines, rows.values(), strict=True):
        # A hash that is cut approves nothing.
        said = row.plan_hash or shortened(row.words, max(room, 20))
        shown = _line(cells, widths)
        start, end = widths[0] + 2, widths[0] + 2 + widths[1]
        outcome = style(shown[start:end], fg=_COLOURS[row.code])
        yield f"{shown[:start]}{outcome}{shown[end:]}  {said}".rstrip()
    yield ""
    counted = Counter(row.outcome for row in sorted(rows.values(), key=_how_bad))
    yield f"Mirrors: {', '.join(f'{count} {outcome}' for outcome, count in counted.items())}."


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    words = (f"{cell:<{size}}" for cell, size in zip(cells[:2], widths, strict=False))
    counts = (f"{cell:>{size}}" for cell, size in zip(cells[2:], widths[2:], strict=True))
    return "  ".join((*words, *counts))


def _how_bad(row: Row) -> int:
    return _WORST_FIRST.index(row.code)
