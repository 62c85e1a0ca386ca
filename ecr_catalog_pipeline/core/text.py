"""A user's text made safe to show: on one line, in Markdown."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_TEXT: Final = 256

_MARKDOWN: Final = re.compile(
    r"([\\`*{}\[\]()<>#+!|~$&@:]|(?<=www)\.|(?<![^\W_])_|_(?![^\W_]))", re.IGNORECASE
)


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Make one line of printable text of a user's, cut at `limit` characters.

    Control characters, line separators and what YAML or JSON cannot carry become spaces; runs of
    white space become one.
    """
    printable = (character if _is_printable(character) else " " for character in text)
    line = " ".join("".join(printable).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def escape_markdown(text: str) -> str:
    """Make Markdown show the text as it is: no markup, no HTML, no link."""
    return _MARKDOWN.sub(r"\\\1", text)


def _is_printable(character: str) -> bool:
    if character in "\ufffe\uffff":
        return False
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}
