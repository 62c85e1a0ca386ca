"""Ad-hoc ECR entities: files that declare by hand what the one generated entity mirrors.

A stream is taken apart at its `---` and `...` lines, which YAML lets stand nowhere else, so that a
document which cannot be parsed hides no other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ecr_catalog_pipeline.core.entity import KIND, TYPE
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.core.strict_yaml import Document, YamlFault, parse_documents

REPOSITORY_TYPES: Final = frozenset(
    {"container-repository", "ecr-repository", "aws-ecr-repository"}
)
CATALOG_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
"""How the names of files end that Backstage may read entities from."""

_MARKER: Final = re.compile(r"(?:\A|(?<=[\r\n]))(?P<mark>---|\.\.\.)(?=[ \t\r\n]|\Z)")
_LINE_END: Final = re.compile(r"\r\n|\r|\n|\Z")
_LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")
# Blank, a comment, or a directive: nothing that a document could consist of.
_NO_CONTENT: Final = re.compile(r"\s*(?:#.*)?|%.*")
# How JSON writes what lies beyond the first plane, and libyaml refuses to read.
_SURROGATES: Final = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)


class CatalogUnavailable(CatalogError):
    """The files of a catalog could not be read or written."""

    needs = "time"


@dataclass(frozen=True, slots=True)
class Piece:
    """The stretch of a stream that one document takes; offsets count characters.

    Attributes:
        line: the first line, counted from 1.
        marker: where its `---` line begins; None when it has none.
        ended: where its `...` line begins; None when it has none.
        blank: it holds comments at the most.
    """

    start: int
    end: int
    line: int
    marker: int | None
    ended: int | None
    blank: bool


@dataclass(frozen=True, slots=True)
class AdHocEntity:
    """One ad-hoc ECR entity; line and column count from 1 and are those of its `kind`."""

    line: int
    column: int
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A document that cannot be parsed: where and why."""

    line: int
    column: int
    problem: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file declares.

    Attributes:
        unparsed: its documents that could not be parsed.
        alike: Resources whose type differs from an ad-hoc one in case only.
    """

    found: tuple[AdHocEntity, ...]
    unparsed: tuple[Unparsed, ...] = ()
    alike: tuple[AdHocEntity, ...] = ()


def find_ad_hoc_entities(text: str, mirror_entities: Collection[str]) -> Inspection:
    """Find every ad-hoc ECR entity of a YAML stream.

    Args:
        mirror_entities: names of entities that mirrors generate; those are no sprawl.
    """
    text = text.removeprefix("\ufeff")
    found: list[AdHocEntity] = []
    alike: list[AdHocEntity] = []
    unparsed: list[Unparsed] = []
    for piece in pieces(text):
        try:
            for document in documents_of(text, piece):
                if is_ad_hoc(document.value, mirror_entities):
                    found.append(_entity(document, piece))
                elif is_alike(document.value):
                    alike.append(_entity(document, piece))
        except YamlFault as fault:
            unparsed.append(Unparsed(piece.line + fault.line - 1, fault.column, fault.problem))
    return Inspection(tuple(found), tuple(unparsed), tuple(alike))


def is_ad_hoc(entity: object, mirror_entities: Collection[str]) -> bool:
    """Whether a parsed document is an ad-hoc ECR entity."""
    if not isinstance(entity, dict) or entity.get("kind") != KIND:
        return False
    entity_type = part(entity, "spec").get("type")
    if entity_type == TYPE:
        return part(entity, "metadata").get("name") not in mirror_entities
    return entity_type in REPOSITORY_TYPES if isinstance(entity_type, str) else False


def is_alike(entity: object) -> bool:
    """Whether a parsed document would be an ad-hoc ECR entity if its type were in lower case."""
    if not isinstance(entity, dict) or entity.get("kind") != KIND:
        return False
    entity_type = part(entity, "spec").get("type")
    types = REPOSITORY_TYPES | {TYPE}
    return (
        isinstance(entity_type, str) and entity_type not in types and entity_type.lower() in types
    )


def part(entity: object, key: str) -> dict[str, Any]:
    """Give a mapping of an entity, an empty one when the value is something else."""
    value = entity.get(key) if isinstance(entity, Mapping) else None
    return value if isinstance(value, dict) else {}


def pieces(text: str) -> Iterator[Piece]:
    """Take a stream apart, without a gap: every character lies in one piece."""
    start, line = 0, 1
    marker: int | None = None

    def piece(end: int, ended: int | None = None) -> Piece:
        blank = marker is None and not _has_content(text[start : end if ended is None else ended])
        return Piece(start, end, line, marker, ended, blank)

    for found in _MARKER.finditer(text):
        if found["mark"] == "---":
            if marker is None and not _has_content(text[start : found.start()]):
                marker = found.start()
                continue
            end, ended = found.start(), None
        else:
            end, ended = line_end(text, found.start()), found.start()
        yield piece(end, ended)
        line += len(_LINE_BREAK.findall(text, start, end))
        start = end
        marker = end if ended is None else None
    if start < len(text):
        yield piece(len(text))


def documents_of(text: str, piece: Piece) -> list[Document]:
    """Parse one piece; places count from the piece's first line.

    Raises:
        YamlFault: it cannot be parsed.
    """
    if piece.blank:
        return []
    own = text[piece.start : piece.end]
    try:
        return list(parse_documents(own, tags_allowed=True))
    except YamlFault:
        joined = _SURROGATES.sub(_one_character, own)
        if joined == own:
            raise
        return list(parse_documents(joined, tags_allowed=True))


def line_end(text: str, position: int) -> int:
    """Give where the line of a position ends, its line break included."""
    found = _LINE_END.search(text, position)
    assert found
    return found.end()


def _has_content(text: str) -> bool:
    return not all(map(_NO_CONTENT.fullmatch, _LINE_BREAK.split(text)))


def _entity(document: Document, piece: Piece) -> AdHocEntity:
    entity = document.value
    # A merge key may bring the kind in; then it has no place of its own.
    line, column = document.key_places.get("kind", (document.line, document.column))
    name = part(entity, "metadata").get("name")
    return AdHocEntity(piece.line + line - 1, column, str(name), str(entity["spec"]["type"]))


def _one_character(pair: re.Match[str]) -> str:
    high, low = int(pair[1], 16), int(pair[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"
