"""YAML without surprises: one value per key, no tags, no bombs, every fault with its place.

Built on libyaml's event stream, so that nesting, aliases and duplicate keys are judged before a
value exists. What belongs here is YAML; what a document means belongs to its reader.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml._yaml import CParser

Value = Any
"""str, int, float, bool, None, or a list or a dict with text keys of the same."""

MAX_DEPTH: Final = 64
MAX_ALIASED_NODES: Final = 1_000_000
MAX_SHOWN: Final = 60

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,2})?")
_MAX_NUMBER: Final = 64
_STRING_TAG: Final = "tag:yaml.org,2002:str"
_COLLECTION_TAGS: Final = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


class YamlFault(Exception):
    """Text that is refused, and where. Line and column count from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(problem, line, column)
        self.problem = problem
        self.line = line
        self.column = column


class YamlTooLarge(YamlFault):
    """Text that holds more than its reader takes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a document is taken; what goes beyond is refused before it is built.

    Attributes:
        entries: of one mapping or list.
        nodes: scalars, aliases, mappings and lists of the document, keys included.
    """

    entries: int
    nodes: int


NO_LIMITS: Final = Limits(sys.maxsize, sys.maxsize)


@dataclass(slots=True)
class Document:
    """One parsed document: its value, its place, and the places of its root keys."""

    value: Value
    line: int
    column: int
    key_places: dict[str, tuple[int, int]] = field(default_factory=dict)


def as_written(text: str, plain: bool) -> Value:
    """Read a scalar as the text that was written; only an empty or null plain one is None."""
    return None if plain and text in _NULLS else text


def as_backstage_reads(text: str, plain: bool) -> Value:
    """Read a scalar as YAML 1.2's core schema does, which is what Backstage uses.

    Numbers that JSON cannot carry, or written in another base, stay text.
    """
    if not plain:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) <= _MAX_NUMBER and _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= _MAX_NUMBER and _FLOAT.fullmatch(text):
        return float(text)
    return text


def parse_documents(
    text: str,
    *,
    scalar: Callable[[str, bool], Value] = as_written,
    tags_allowed: bool = False,
    limits: Limits = NO_LIMITS,
) -> Iterator[Document]:
    """Parse each document of a stream in turn.

    Args:
        text: the stream; a byte order mark is ignored.
        scalar: gives a scalar its value from its text and whether it was written plain.
        tags_allowed: keep a tagged value as if it had no tag, instead of refusing it.
        limits: what goes beyond is refused.

    Raises:
        YamlTooLarge: where the text goes beyond the limits.
        YamlFault: at the first fault; the documents before it have been yielded.
    """
    text = text.removeprefix("\ufeff")
    composer = _Composer(text, scalar, tags_allowed, limits)
    try:
        yield from composer.documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise YamlFault(f"not YAML: {problem}", line, column) from None
    except UnicodeDecodeError:
        # libyaml gives the bytes of a %-escaped tag unchecked.
        raise YamlFault("not YAML: a tag is not UTF-8 text", *composer.place) from None
    except yaml.reader.ReaderError as error:
        line, column = _place_of_byte(text, error.position)
        raise YamlFault(f"not YAML: {error.reason}", line, column) from None


class _Composer:
    """Builds values from libyaml's events, keeping count of depth and aliases."""

    def __init__(
        self, text: str, scalar: Callable[[str, bool], Value], tags: bool, limits: Limits
    ) -> None:
        self._parser = CParser(text)
        self._last: Any = None
        self._scalar = scalar
        self._tags_allowed = tags
        self._anchors: dict[str, tuple[Value, int] | None] = {}
        self._aliased = 0
        self._limits = limits
        self._nodes = 0
        self._key_places: dict[str, tuple[int, int]] = {}

    @property
    def place(self) -> tuple[int, int]:
        """Where the last event that could be read ends."""
        mark = self._last.end_mark if self._last else None
        return (mark.line + 1, mark.column + 1) if mark else (1, 1)

    def _next(self) -> Any:
        self._last = self._parser.get_event()
        return self._last

    def documents(self) -> Iterator[Document]:
        self._next()  # StreamStart
        while isinstance(event := self._next(), yaml.DocumentStartEvent):
            self._anchors = {}
            self._aliased = self._nodes = 0
            self._key_places = {}
            start = self._next()
            value, _ = self._node(start, 0)
            line, column = _place(start)
            yield Document(value, line, column, self._key_places)
            self._next()  # DocumentEnd
        assert isinstance(event, yaml.StreamEndEvent)

    def _node(self, event: Any, depth: int) -> tuple[Value, int]:
        """Give the value, and how many values it counts for when aliases multiply it."""
        self._count(event)
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_tag(event)
            plain = not event.style and event.tag is None
            node = self._scalar(event.value, plain), _weight(event.value)
            if event.anchor:
                self._anchors[event.anchor] = node
            return node
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth >= MAX_DEPTH:
            raise YamlFault(f"nested deeper than {MAX_DEPTH} levels", *_place(event))
        self._refuse_tag(event)
        anchor = event.anchor
        if anchor:
            self._anchors[anchor] = None
        value, nodes = (
            self._sequence(depth)
            if isinstance(event, yaml.SequenceStartEvent)
            else self._mapping(depth)
        )
        if anchor:
            self._anchors[anchor] = (value, nodes)
        return value, nodes

    def _alias(self, event: Any) -> tuple[Value, int]:
        known = self._anchors.get(event.anchor)
        if known is None:
            inside = event.anchor in self._anchors
            problem = "is inside its own anchor" if inside else "has no anchor before it"
            raise YamlFault(f"alias *{readable(event.anchor)} {problem}", *_place(event))
        self._aliased += known[1]
        if self._aliased > MAX_ALIASED_NODES:
            raise YamlFault(
                f"aliases stand for more than {MAX_ALIASED_NODES} values", *_place(event)
            )
        return known

    def _sequence(self, depth: int) -> tuple[list[Value], int]:
        items: list[Value] = []
        nodes = 1
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            self._check_entries(items, event, "list")
            value, count = self._node(event, depth + 1)
            items.append(value)
            nodes += count
        return items, nodes

    def _mapping(self, depth: int) -> tuple[dict[str, Value], int]:
        items: dict[str, Value] = {}
        merged: list[dict[str, Value]] = []
        nodes = 1
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlFault("a key must be plain text", *_place(event))
            self._refuse_tag(event)
            self._count(event)
            self._check_entries(items, event, "mapping")
            key = event.value
            place = _place(event)
            value, count = self._node(self._next(), depth + 1)
            nodes += count + _weight(key)
            if key == "<<" and not event.style:
                sources = value if isinstance(value, list) else [value]
                if not all(isinstance(source, dict) for source in sources):
                    raise YamlFault("only mappings can be merged", *place)
                merged.extend(sources)
                continue
            if key in items:
                raise YamlFault(f"the key {quoted(key)} is twice in one mapping", *place)
            items[key] = value
            if event.anchor:
                self._anchors[event.anchor] = (key, _weight(key))
            if depth == 0:
                self._key_places[key] = place
        for source in merged:
            for key, value in source.items():
                items.setdefault(key, value)
        return items, nodes

    def _count(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > self._limits.nodes:
            raise YamlTooLarge(
                f"the document holds more than {self._limits.nodes:,} keys and values",
                *_place(event),
            )

    def _check_entries(self, items: Sized, event: Any, kind: str) -> None:
        if len(items) >= self._limits.entries:
            raise YamlTooLarge(
                f"a {kind} holds more than {self._limits.entries:,} entries", *_place(event)
            )

    def _refuse_tag(self, event: Any) -> None:
        tag = event.tag
        if tag is None or tag == "!" or self._tags_allowed:
            return
        if tag == _STRING_TAG and isinstance(event, yaml.ScalarEvent):
            return
        if tag in _COLLECTION_TAGS and not isinstance(event, yaml.ScalarEvent):
            return
        raise YamlFault(
            f"the tag {readable(tag)} is not allowed: only plain data is read", *_place(event)
        )


def quoted(text: str) -> str:
    """Quote a text of the file for a message: one line, cut to a readable length."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}...")


def readable(text: str) -> str:
    """Show a text of the file in a message without quotes, escaped and cut as `quoted` does."""
    return quoted(text)[1:-1]


def _weight(text: str) -> int:
    """How many values a text counts for when aliases multiply it."""
    return 1 + len(text) // 100


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _place_of_byte(text: str, position: int) -> tuple[int, int]:
    before = text.encode("utf-8")[:position].decode("utf-8", "ignore")
    return before.count("\n") + 1, len(before) - before.rfind("\n")
