"""Reads a health report back, as a person would: by its words, tables and charts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_BETWEEN_CELLS: Final = re.compile(r"(?<!\\)((?:\\\\)*)\|")
_TABLE: Final = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_PIE: Final = re.compile(r"```mermaid\npie showData\n    title (.*)\n((?:    \".*\n)+)```")
_SLICE: Final = re.compile(r'    "([^"]*)" : ([0-9]+)')

Rows = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ReadReport:
    """What a report says.

    Attributes:
        publication: the sentences about what is published, and what is held.
        named: the names as shown, with "and N more" where there are more.
        owners: the findings of each owner: error, warning, info.
        parity: the rows of the time to parity: over 24 hours, over 7 days.
        pies: the slices of each chart, by its title.
    """

    title: str
    publication: str
    counts: dict[str, int]
    named: dict[str, str]
    severities: dict[str, int]
    owners: dict[str, tuple[int, ...]]
    parity: Rows
    pies: dict[str, dict[str, int]]


def read_report(report: str | bytes) -> ReadReport:
    """Read a report, or a section of one, with any line ending."""
    text = report if isinstance(report, str) else report.decode()
    text = text.replace("\r\n", "\n").replace("\r", "\n") + "\n"
    tables = dict(_table(found[0]) for found in _TABLE.finditer(text))
    return ReadReport(
        title=_line(text, r"##? Registry health: (.*)"),
        publication=_line(text, r"((?:The published entity|\*\*A plan is held).*)"),
        counts={state: int(cells[0]) for state, cells in tables["State"].items()},
        named={
            word: unescaped(names)
            for word, names in re.findall(r"^\*\*(\w+):\*\* (.*)$", text, re.MULTILINE)
        },
        severities={each: int(cells[0]) for each, cells in tables.get("Severity", {}).items()},
        owners={each: tuple(map(int, cells)) for each, cells in tables.get("Owner", {}).items()},
        parity=tables[""],
        pies={
            title: {label: int(count) for label, count in _SLICE.findall(slices)}
            for title, slices in _PIE.findall(text)
        },
    )


def unescaped(markdown: str) -> str:
    """The text that Markdown shows."""
    return re.sub(r"\\(.)", r"\1", markdown)


def _line(text: str, pattern: str) -> str:
    found = re.search(f"^{pattern}$", text, re.MULTILINE)
    assert found, pattern
    return unescaped(found[1])


def _table(text: str) -> tuple[str, Rows]:
    """A table's first heading, and the rest of each row by its first cell."""
    head, ruler, *rows = ([_cell(cell) for cell in _cells(line)] for line in text.splitlines())
    assert set("".join(ruler)) <= set("-: "), ruler
    assert {len(row) for row in (ruler, *rows)} == {len(head)}, text
    assert len({row[0] for row in rows}) == len(rows), text
    return head[0], {row[0]: tuple(row[1:]) for row in rows}


def _cells(line: str) -> list[str]:
    assert line.startswith("| ")
    assert line.endswith(" |")
    return _BETWEEN_CELLS.sub("\\1\n", line[2:-2]).split("\n")


def _cell(text: str) -> str:
    return unescaped(text.strip())
