"""Edits of a YAML stream that only take bytes away, but for the `[]` of a list that is emptied.

Edits cut by position; the stream is not rewritten. The caller parses what is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml
from yaml._yaml import CParser

from ecr_catalog_pipeline.sprawl.ad_hoc import Piece, line_end, pieces

_BLOCK_ITEM: Final = re.compile(r"[ \t]*-[ \t]+")
_REST_OF_LINE: Final = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n|\Z)")
_TRAILING: Final = re.compile(r"[ \t]*(?:\r\n|\r|\n)|[ \t]+#[^\r\n]*(?:\r\n|\r|\n|\Z)|[ \t]+\Z")
_DIRECTIVE: Final = re.compile(r"^%[^\r\n]*(?:\r\n|\r|\n)", re.MULTILINE)


class EditRefused(Exception):
    """Text that is written in a way that cannot be edited safely."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Cut:
    """Characters to replace, and their replacement."""

    start: int
    end: int
    instead: str = ""


def cut(text: str, cuts: Collection[Cut]) -> str:
    """Make cuts that do not overlap."""
    kept: list[str] = []
    position = 0
    for each in sorted(cuts, key=lambda each: each.start):
        kept += [text[position : each.start], each.instead]
        position = each.end
    return "".join([*kept, text[position:]])


def cuts_of_document(text: str, piece: Piece) -> Iterator[Cut]:
    """Take out a document from its `---` to its last line; comments around it stay."""
    first, last = _extent(text, piece)
    if piece.marker is None:
        first = max(text.rfind("\n", 0, first), text.rfind("\r", 0, first)) + 1
    else:
        first = piece.marker
        for directive in _DIRECTIVE.finditer(text, piece.start, piece.marker):
            yield Cut(directive.start(), directive.end())
    limit = piece.end if piece.ended is None else piece.ended
    at_line_start = last > 0 and text[last - 1] in "\r\n"
    end = min(last if at_line_start else line_end(text, last), limit)
    while end < limit and (trailing := _TRAILING.match(text, end, limit)) and trailing.end() > end:
        end = trailing.end()
    yield Cut(first, end)


def _extent(text: str, piece: Piece) -> tuple[int, int]:
    """Where the content of a document begins, and where its last scalar or bracket ends."""
    parser = CParser(text[piece.start : piece.end])
    first: int | None = None
    last = 0
    flows: list[bool] = []
    while not isinstance(event := _event(parser), yaml.StreamEndEvent):
        begins_at, ends_at = event.start_mark.index, event.end_mark.index
        closes = isinstance(event, yaml.ScalarEvent | yaml.AliasEvent)
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            flows.append(bool(event.flow_style))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closes = flows.pop()
        if isinstance(event, yaml.NodeEvent) and first is None:
            first = begins_at
        if closes:
            last = max(last, ends_at)
    return piece.start + (first or 0), piece.start + last


def _event(parser: CParser) -> Any:
    return parser.get_event()


def cuts_of_ends(text: str, going: Collection[int]) -> Iterator[Cut]:
    """Take out the `...` of documents that go, but where it ends the one before them, too."""
    taken = list(pieces(text))
    is_open = False
    for place, piece in enumerate(taken):
        if piece.start not in going:
            is_open = piece.ended is None and (is_open or not piece.blank)
        elif piece.ended is not None:
            following = taken[place + 1] if place + 1 < len(taken) else None
            if is_open and following and _needs_an_end_before(text, following):
                is_open = False
            else:
                yield Cut(piece.ended, piece.end)


def _needs_an_end_before(text: str, piece: Piece) -> bool:
    """Whether a document has no `---`, or directives before it."""
    if piece.marker is None:
        return not piece.blank
    return has_directives(text, piece)


def has_directives(text: str, piece: Piece) -> bool:
    """Whether `%` lines stand before a document's `---`."""
    marker = piece.marker
    return marker is not None and _DIRECTIVE.search(text, piece.start, marker) is not None


def cuts_of_targets(
    text: str, piece: Piece, wanted: Collection[str], *, empties: bool
) -> Iterator[Cut]:
    """Take targets out of a Location.

    Raises:
        EditRefused: they are written in a way that cannot be edited safely.
    """
    wanted = frozenset(wanted)
    own = text[piece.start : piece.end]
    spec = child_of(root_of(own), "spec")
    single, several = _pair(spec, "target"), _pair(spec, "targets")
    items = several[1].value if several and isinstance(several[1], yaml.SequenceNode) else []
    going = [each for each in items if _is_scalar_of(each, wanted)]
    cuts: list[Cut] = []
    if several and going:
        if several[1].flow_style:
            raise EditRefused("its targets are a list in brackets; edit it by hand")
        cuts.extend(_block_cuts(own, going))
        if len(going) == len(items):
            colon = own.find(":", several[0].end_mark.index) + 1
            cuts.append(Cut(colon, colon, " []"))
    if single and _is_scalar_of(single[1], wanted):
        cuts.append(_single_cut(own, single, empties=empties and not several))
    for each in cuts:
        yield replace(each, start=each.start + piece.start, end=each.end + piece.start)


def _single_cut(own: str, pair: tuple[Any, Any], *, empties: bool) -> Cut:
    key, value = pair
    if empties:
        quote = own[key.start_mark.index] if key.style else ""
        return Cut(key.start_mark.index, value.end_mark.index, f"{quote}targets{quote}: []")
    start = _line_start(own, key.start_mark.index)
    rest = _REST_OF_LINE.match(own, value.end_mark.index)
    if own[start : key.start_mark.index].strip(" ") or not rest:
        raise EditRefused("`target` shares its line with other keys; edit it by hand")
    return Cut(start, rest.end())


def _block_cuts(own: str, going: Collection[Any]) -> Iterator[Cut]:
    for item in going:
        start = _line_start(own, item.start_mark.index)
        rest = _REST_OF_LINE.match(own, item.end_mark.index)
        if not _BLOCK_ITEM.fullmatch(own, start, item.start_mark.index) or not rest:
            raise EditRefused("a target does not have a line of its own; edit it by hand")
        yield Cut(start, rest.end())


def root_of(own: str) -> Any:
    """The nodes of a document, with their places; None when it cannot be read."""
    try:
        return yaml.compose(own, Loader=yaml.CSafeLoader)
    except yaml.YAMLError:
        return None


def _is_scalar_of(node: Any, wanted: Collection[str]) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value in wanted


def _pair(node: Any, key: str) -> tuple[Any, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value == key:
                return name, value
    return None


def child_of(node: Any, key: str) -> Any:
    """Give the node at a key of a mapping; None when there is none."""
    pair = _pair(node, key)
    return pair[1] if pair else None


def _line_start(text: str, position: int) -> int:
    return max(text.rfind("\n", 0, position), text.rfind("\r", 0, position)) + 1
