"""What a command prints. Every line goes through `echo`, so that no text of others acts on it.

A line holds our own words, our own colours, and text of others: names, paths, errors of remote
programs. Only colours that `style` put there reach the terminal; all else is shown escaped.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import sys
from typing import Any, Final

import click

from ecr_catalog_pipeline.core.text import visible

# Our colours carry a word that no text of others can know, so that it cannot imitate them.
_OURS: Final = f"\x1b{secrets.token_hex(8)}"
_CODE: Final = rf"{_OURS}\[[0-9;]*m"
_COLOUR: Final = re.compile(rf"({_CODE})")
# What GitHub's runner takes for a command, wherever a line is printed: `::` at its beginning, with
# or without colours.
_RUNNER_COMMAND: Final = re.compile(
    rf"\A(?P<before>(?:\s|{_CODE})*):(?=(?:{_CODE})*:)|#(?=(?:{_CODE})*#(?:{_CODE})*\[)"
)
_NOT_PLAIN: Final = re.compile(r"[^\n\x20-\x7e]")


def style(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
    """Colour a text for `echo`; the text itself is made visible."""
    begin, _, end = click.style("|", fg=fg, bold=bold).partition("|")
    return f"{_marked(begin)}{visible(text)}{_marked(end)}"


def width() -> int | None:
    """How many columns stdout has; None where it is no terminal: any line fits there."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def echo(*lines: str, err: bool = False) -> None:
    """Print lines, each on one line whatever it holds. Colours go to a terminal only."""
    for line in lines:
        parts = _COLOUR.split(line)
        parts[::2] = map(visible, parts[::2])
        shown = _RUNNER_COMMAND.sub(_spelt_out, "".join(parts)).replace(_OURS, "\x1b")
        click.echo(shown, err=err, color=False if os.environ.get("NO_COLOR") else None)


def echo_command(line: str) -> None:
    """Print a command for GitHub's runner; what it quotes is escaped by who builds it."""
    click.echo(visible(line))


def echo_json(value: Any) -> None:
    """Print a value as JSON: exactly, with what is not printable as escapes of JSON."""
    # Written piece by piece: as one text, a large plan takes several times its memory.
    for piece in json.JSONEncoder(ensure_ascii=False, indent=2).iterencode(value):
        sys.stdout.write(_NOT_PLAIN.sub(_as_json, piece))
    click.echo()


def echo_markdown(text: str) -> None:
    """Print Markdown of ours, in which text of others is escaped already, line by line."""
    echo(*text.splitlines())


def print_what_cannot_be_encoded_as_escapes() -> None:
    """Let no locale turn a character into an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _marked(codes: str) -> str:
    return codes.replace("\x1b", _OURS)


def _spelt_out(found: re.Match[str]) -> str:
    return rf"{found['before']}\x3a" if found["before"] is not None else r"\x23"


def _as_json(found: re.Match[str]) -> str:
    character = found[0]
    return character if visible(character) == character else json.dumps(character)[1:-1]
