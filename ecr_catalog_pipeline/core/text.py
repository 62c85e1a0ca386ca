"""A user's text made safe to show: on one line, in Markdown, on a terminal, in a message."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_TEXT: Final = 256

# Printable by their category, and yet nothing is seen of them: fillers, variation selectors.
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
)
_SELECTORS: Final = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
_NOT_PLAIN: Final = re.compile(r"[^\x20-\x7e]")
_MARKDOWN: Final = re.compile(
    r"([\\`*{}\[\]()<>#+!|~$&@:]|(?<=www)\.|(?<![^\W_])_|_(?![^\W_]))", re.IGNORECASE
)
_PLAIN_CODE: Final = re.compile(r"(?! )[^`|\\]+(?<! )")
_DEAD_LINKS: Final = {"://": "[:]//", "@": "\uff20"}
_DEAD_MARKUP: Final = {"](": "] (", "<": "\u2039", ">": "\u203a"}
_LINK: Final = re.compile(
    r"(?P<word>\bwww(?=\.)|\b(?:mailto|xmpp|tel|javascript|data)(?=:))(?P<mark>.)|://|@",
    re.IGNORECASE | re.DOTALL,
)
_MARKUP: Final = re.compile(r"\]\(|[<>]")


def visible(text: str) -> str:
    r"""Show what a text hides: everything that is not printable becomes an escape.

    Control characters, line breaks, bidirectional controls, zero-width characters, lone surrogates
    and odd spaces come out as `\x1b`, `\n`, `\u202e`. The result is one line, can be encoded, and
    stays as it is when it is made visible again.
    """
    return _NOT_PLAIN.sub(_escaped, text)


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """Show at most `limit` characters of a text, visibly; a text that is cut ends in `…`."""
    shown = visible(text[: limit + 1])
    return shown if len(shown) <= limit and len(text) <= limit else f"{shown[: limit - 1]}…"


def unlinked(text: str) -> str:
    """Break URLs, addresses and mentions, in a way that can be seen: `https[:]//x`, `jo\uff20x`.

    Escapes do not help: what renders Markdown and chat looks for them after escapes are undone.
    """
    return _LINK.sub(_broken, text)


def inert(text: str) -> str:
    """Break links, mentions, HTML and Markdown links, for a reader of unknown habits."""
    return _MARKUP.sub(lambda found: _DEAD_MARKUP[found[0]], unlinked(text))


def counted(number: int, noun: str) -> str:
    """Say a number of things: `1 repository`, `3,000 repositories`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Make one line of printable text of a user's, cut at `limit` characters.

    Control characters, line separators and what YAML or JSON cannot carry become spaces; runs of
    white space become one.
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(character if _is_printable(character) else " " for character in text)
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def escape_markdown(text: str) -> str:
    """Make Markdown show the text as it is: no markup, no HTML; links are broken visibly."""
    return _MARKDOWN.sub(r"\\\1", unlinked(text))


def markdown_code(text: str, limit: int = MAX_TEXT) -> str:
    """Make Markdown show the text as code, in a line or in the cell of a table.

    What could end the code, or the cell, is written as numbers, with links broken visibly.
    """
    shown = shortened(text, limit)
    if _PLAIN_CODE.fullmatch(shown):
        return f"`{shown}`"
    numbers = (
        character if character.isalnum() and character.isascii() else f"&#{ord(character)};"
        for character in unlinked(shown)
    )
    return f"<code>{''.join(numbers)}</code>"


def markdown_prose(text: str, limit: int = MAX_TEXT) -> str:
    """Make Markdown show the start of a text as it is, on one line, with no reference to `#1`."""
    return escape_markdown(shortened(text, limit)).replace(r"\#", "\uff03")


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable() and not _is_unseen(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


def _is_unseen(character: str) -> bool:
    return character in _UNSEEN or any(ord(character) in each for each in _SELECTORS)


def _broken(found: re.Match[str]) -> str:
    if found["word"]:
        return f"{found['word']}[{found['mark']}]"
    return _DEAD_LINKS[found[0]]


def _is_printable(character: str) -> bool:
    if character in "\ufffe\uffff":
        return False
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}
