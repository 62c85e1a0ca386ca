"""Adoption: orphans become governance entries, in the style of the file that they go into.

Only whole lines are added, but for the `{}` of a registry that was empty; every other byte stays.
The result is parsed again, and has to say exactly what the file said before and the new entries.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import count, pairwise
from typing import Any, Final

import yaml

from ecr_catalog_pipeline.core.errors import GovernanceRefused
from ecr_catalog_pipeline.core.governance import RISKS, parse_governance
from ecr_catalog_pipeline.core.inventory import Repository
from ecr_catalog_pipeline.core.strict_yaml import Value, parse_documents
from ecr_catalog_pipeline.core.text import clean_text, visible

_TO_FILL_IN: Final = {
    "owner": "the team that answers for this repository",
    "risk": f"{', '.join(RISKS[:-1])} or {RISKS[-1]}",
}
_LOOKED_AT: Final = 200
"""How many entries tell the style of a file."""
_BY_HAND: Final = "Run without --write, and put the entries in by hand."
_BOM: Final = "\ufeff"

_EMPTY_MAPPING: Final = re.compile(r"\{\s*\}")
_REST_OF_LINE: Final = re.compile(r"[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)")
_COMMENT_LINE: Final = re.compile(r"(?P<indent> *)#[^\n]*(?:\n|\Z)")
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]*\n")
# What may be written plain, if YAML then reads it as text.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+@=-]*(?: [A-Za-z0-9_./+@=-]+)*")
_RESOLVER: Final[Any] = yaml.resolver.Resolver()
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_CREATED: Final = "created_date"


@dataclass(frozen=True, slots=True)
class Adoption:
    """An orphan that is to be governed; None where somebody has to fill in what is not known."""

    name: str
    owner: str | None = None
    risk: str | None = None
    environment: str | None = None
    created: date | None = None

    @property
    def to_fill_in(self) -> list[str]:
        """The keys that somebody has to fill in."""
        return [key for key in _TO_FILL_IN if getattr(self, key) is None]


_Entry = tuple[Adoption, dict[str, Value]]
"""An adoption, and its entry as it is parsed."""


@dataclass(frozen=True, slots=True)
class EntryStyle:
    """How a file writes its entries.

    Attributes:
        indent: the column of a name.
        steps: how much deeper the keys of an entry are, and those of `metadata`.
        quotes: how a key's value is quoted, where the file says; empty for plain.
        name_quote: how names are quoted; empty for plain.
        quote: the quote of what cannot be plain.
        blank: a blank line is between two entries.
        line_end: of every line.
    """

    indent: int = 2
    steps: tuple[int, int] = (2, 2)
    quotes: Mapping[str, str] = field(default_factory=dict)
    name_quote: str = ""
    quote: str = '"'
    blank: bool = False
    line_end: str = "\n"


def adoption(repository: Repository, tags: Mapping[str, str], keys: Mapping[str, str]) -> Adoption:
    """Make of an orphan what can be known of it.

    Args:
        tags: of the repository.
        keys: the tags that say the `owner`, the `risk` and the `environment`.
    """
    said = {name: clean_text(tags.get(key, "")) or None for name, key in keys.items()}
    risk = (said.get("risk") or "").lower()
    created = repository.created_at.date() if repository.created_at else None
    return Adoption(
        repository.name,
        owner=said.get("owner"),
        risk=risk if risk in RISKS else None,
        environment=said.get("environment"),
        created=created,
    )


def entries_as_text(
    adoptions: Sequence[Adoption], *, ids: Collection[str] = (), style: EntryStyle | None = None
) -> str:
    """Write entries, sorted by name.

    Args:
        ids: that other entries have already.
    """
    style = style or EntryStyle()
    written = [_entry_text(each, raw, style) for each, raw in _with_raw(adoptions, ids)]
    return (style.line_end if style.blank else "").join(written)


def ids_of(content: bytes, path: str) -> set[str]:
    """Give the ids that a governance file uses.

    Raises:
        GovernanceRefused: it cannot be used.
    """
    root = _root(_text(content, path))
    return _ids(root[_key_of(root)])


def insert_entries(content: bytes, adoptions: Sequence[Adoption], path: str) -> bytes:
    """Add entries to a governance file.

    Args:
        adoptions: of names that the file does not have.
        path: names the file in errors.

    Raises:
        GovernanceRefused: the file cannot be used, or cannot be edited safely.
    """
    text = _text(content, path)
    before = _root(text)
    key = _key_of(before)
    entries = list(_with_raw(adoptions, _ids(before[key])))
    wanted = {**before, key: {**before[key], **{each.name: raw for each, raw in entries}}}
    mark = content[: len(content) - len(text.encode("utf-8"))]
    # A text block that keeps its line ends would take up a blank line before the new entry.
    for apart in (True, False):
        edited = _Editor(text, key, path, apart=apart).insert(entries)
        result = mark + edited.encode("utf-8")
        if _says(result, edited, wanted, path):
            return result
    raise _refused("the file is written in a way that cannot be edited safely", path)


def _says(content: bytes, text: str, wanted: Mapping[str, Value], path: str) -> bool:
    """Whether an edited file can be used and says what it should."""
    try:
        parse_governance(content, path=path)
    except GovernanceRefused:
        return False
    return _root(text) == wanted


def _text(content: bytes, path: str) -> str:
    """Give the text of a file that can be used, without its byte order mark."""
    parse_governance(content, path=path)
    return content.decode("utf-8").removeprefix(_BOM)


def _root(text: str) -> dict[str, Value]:
    (document,) = parse_documents(text)
    root: dict[str, Value] = document.value
    return root


def _key_of(root: Mapping[str, Value]) -> str:
    return "repositories" if "repositories" in root else "registries"


def _ids(entries: Mapping[str, Value]) -> set[str]:
    found = set()
    for entry in entries.values():
        metadata = entry.get("metadata") if isinstance(entry, dict) else None
        identifier = metadata.get("id") if isinstance(metadata, dict) else None
        if isinstance(identifier, str):
            found.add(identifier)
    return found


def _refused(problem: str, path: str, mark: Any = None) -> GovernanceRefused:
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return GovernanceRefused(problem, remediation=_BY_HAND, path=path, line=line, column=column)


# Entries


def _with_raw(adoptions: Sequence[Adoption], ids: Collection[str]) -> Iterator[_Entry]:
    """Give each adoption with its entry as it is parsed, sorted by name."""
    taken = set(ids)
    for each in sorted(adoptions, key=lambda each: each.name):
        identifier = _free_id(each.name, taken)
        taken.add(identifier)
        metadata: dict[str, Value] = {"id": identifier, "owner": each.owner, "risk": each.risk}
        if each.environment is not None:
            metadata["environment"] = each.environment
        metadata["status"] = "active"
        if each.created is not None:
            metadata[_CREATED] = each.created.isoformat()
        yield each, {"metadata": metadata}


def _free_id(name: str, taken: Collection[str]) -> str:
    """Make an id of a name; two names may differ only by what an id cannot hold."""
    first = f"REGISTRY_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"
    if first not in taken:
        return first
    return next(each for number in count(2) if (each := f"{first}_{number}") not in taken)


def _entry_text(each: Adoption, raw: Mapping[str, Value], style: EntryStyle) -> str:
    name, metadata = " " * style.indent, " " * (style.indent + style.steps[0])
    keys = metadata + " " * style.steps[1]
    lines = [f"{name}{_scalar(each.name, style.name_quote, style)}:", f"{metadata}metadata:"]
    for key, value in raw["metadata"].items():
        if value is None:
            lines.append(f"{keys}{key}:  # fill in: {_TO_FILL_IN[key]}")
        else:
            lines.append(f"{keys}{key}: {_value(key, value, style)}")
        if key == "risk" and each.environment is None:
            lines.append(f"{keys}# environment: fill in, if it serves one")
    return "".join(f"{line}{style.line_end}" for line in lines)


def _value(key: str, value: str, style: EntryStyle) -> str:
    if key == _CREATED and style.quotes.get(key) == "":
        return value  # YAML 1.1 reads a date, as it does everywhere else in that file.
    return _scalar(value, style.quotes.get(key, '"' if key == _CREATED else ""), style)


def _scalar(text: str, quote: str, style: EntryStyle) -> str:
    """Write a text so that YAML 1.1 and 1.2 read it as this text."""
    if not quote and not _can_be_plain(text):
        quote = style.quote
    if not quote:
        return text
    if quote == "'" and visible(text) == text:
        return "'" + text.replace("'", "''") + "'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(_in_double_quotes(character) for character in escaped) + '"'


def _in_double_quotes(character: str) -> str:
    if visible(character) == character:
        return character
    return f"\\U{ord(character):08x}"


def _can_be_plain(text: str) -> bool:
    if not _PLAIN.fullmatch(text):
        return False
    return bool(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) == _TEXT_TAG)


# The file


class _Editor:
    """Finds where entries go, and how they are to be written there."""

    def __init__(self, text: str, key: str, path: str, *, apart: bool) -> None:
        self._text = text
        self._path = path
        self._apart = apart
        root: Any = yaml.compose(text, Loader=yaml.CSafeLoader)
        if root.flow_style:
            raise _refused("the file is one mapping in braces", path, root.start_mark)
        self._root_column = root.value[0][0].start_mark.column
        self._key, self._entries = next(pair for pair in root.value if pair[0].value == key)
        self._line_end = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"

    def insert(self, entries: Sequence[_Entry]) -> str:
        node = self._entries
        if node.start_mark.index < self._key.end_mark.index:
            raise _refused("the entries are an alias", self._path, self._key.start_mark)
        if not node.value:
            return self._fill(entries)
        if node.flow_style:
            raise _refused("the entries are in braces", self._path, node.start_mark)
        return self._add(entries)

    def _fill(self, entries: Sequence[_Entry]) -> str:
        """Put entries in place of the `{}`."""
        text, node = self._text, self._entries
        start, end = node.start_mark.index, node.end_mark.index
        colon = text.find(":", self._key.end_mark.index) + 1
        rest = _REST_OF_LINE.match(text, end)
        if (
            not _EMPTY_MAPPING.fullmatch(text, start, end)
            or text[colon:start].strip(" \t\r\n")
            or rest is None
        ):
            raise _refused("the empty mapping shares its lines", self._path, node.start_mark)
        style = EntryStyle(indent=self._root_column + 2, line_end=self._line_end)
        kept = text[:colon] + text[end : rest.end()]
        return self._lines_after(kept, entries, style) + text[rest.end() :]

    def _add(self, entries: Sequence[_Entry]) -> str:
        style = self._style()
        pairs = [pair for pair in self._entries.value if pair[0].value != "<<"]
        names = [key.value for key, _ in pairs]
        places: dict[int, list[_Entry]] = {}
        ordered = names == sorted(names)
        for each in entries:
            place = bisect_left(names, each[0].name) if ordered else len(names)
            places.setdefault(place, []).append(each)
        text = self._text
        for place in sorted(places, reverse=True):
            if place < len(names):
                at = self._start_of(pairs, place)
                new = self._joined(places[place], style) + (style.line_end if style.blank else "")
                text = text[:at] + new + text[at:]
            else:
                at = self._end_of_entries()
                head = text[:at]
                if style.blank:
                    head = self._ended(head) + style.line_end
                text = self._lines_after(head, places[place], style) + text[at:]
        return text

    def _lines_after(self, head: str, entries: Sequence[_Entry], style: EntryStyle) -> str:
        return self._ended(head) + self._joined(entries, style)

    def _ended(self, head: str) -> str:
        return head if head.endswith("\n") else head + self._line_end

    def _joined(self, entries: Sequence[_Entry], style: EntryStyle) -> str:
        between = style.line_end if style.blank else ""
        return between.join(_entry_text(each, raw, style) for each, raw in entries)

    def _start_of(self, pairs: Sequence[tuple[Any, Any]], place: int) -> int:
        """Where the lines of an entry begin, the comment right above its name included."""
        key = pairs[place][0]
        start = self._text.rfind("\n", 0, key.start_mark.index) + 1
        if self._text[start : key.start_mark.index].strip(" "):
            raise _refused("a name is not alone on its line", self._path, key.start_mark)
        before = _end_of(pairs[place - 1]) if place else self._key.end_mark.index
        while start > before:
            above = self._text.rfind("\n", 0, start - 1) + 1
            comment = _COMMENT_LINE.fullmatch(self._text, above, start)
            own = comment is not None and len(comment["indent"]) == key.start_mark.column
            if not own or above <= before:
                break
            start = above
        return start

    def _end_of_entries(self) -> int:
        """Where the lines of the last entry end, with the comments right below."""
        text, last = self._text, self._entries.value[-1]
        column = last[0].start_mark.column
        end = _end_of(last)
        if not text[:end].endswith("\n"):
            end = text.find("\n", end) + 1 or len(text)
        while comment := _COMMENT_LINE.match(text, end):
            if len(comment["indent"]) < column or comment.end() == end:
                break
            end = comment.end()
        return end

    def _style(self) -> EntryStyle:
        """Tell from its entries how the file is written."""
        pairs = self._entries.value[:_LOOKED_AT]
        indent = pairs[0][0].start_mark.column
        default = max(1, indent - self._root_column)
        steps: Counter[int] = Counter()
        inner: Counter[int] = Counter()
        quotes: dict[str, Counter[str]] = {}
        for name, entry in pairs:
            for key, value in _block_pairs(entry):
                steps[key.start_mark.column - name.start_mark.column] += 1
                if key.value != "metadata":
                    continue
                for each, _ in _block_pairs(value):
                    inner[each.start_mark.column - key.start_mark.column] += 1
                for each, said in value.value if isinstance(value, yaml.MappingNode) else ():
                    if isinstance(said, yaml.ScalarNode) and said.value:
                        quotes.setdefault(each.value, Counter())[_quote_of(said)] += 1
        step = _most(steps, default)
        used = sum((found for found in quotes.values()), Counter())
        return EntryStyle(
            indent=indent,
            steps=(step, _most(inner, step)),
            quotes={key: _most(found, "") for key, found in quotes.items()},
            name_quote=_most(Counter(_quote_of(name) for name, _ in pairs), ""),
            quote=_most(Counter({each: n for each, n in used.items() if each}), '"'),
            blank=self._apart
            and _most(Counter(map(self._is_apart, pairwise(pairs))), default=False),
            line_end=self._line_end,
        )

    def _is_apart(self, neighbours: tuple[tuple[Any, Any], tuple[Any, Any]]) -> bool:
        first, second = neighbours
        # A block scalar ends where the next line begins.
        end = max(0, _end_of(first) - 1)
        return _BLANK_LINE.search(self._text, end, second[0].start_mark.index) is not None


def _end_of(pair: tuple[Any, Any]) -> int:
    """Where the last text or bracket of an entry ends: a block mapping ends at what follows."""
    end = 0
    waiting = list(pair)
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.ScalarNode) or node.flow_style:
            end = max(end, node.end_mark.index)
        elif isinstance(node, yaml.MappingNode):
            waiting += [each for child in node.value for each in child]
        else:
            waiting += node.value
    return end


def _block_pairs(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return list(node.value)
    return []


def _quote_of(node: Any) -> str:
    return node.style if node.style in {"'", '"'} else ""


def _most(found: Counter[Any], default: Any) -> Any:
    """Give what was found most often."""
    return found.most_common(1)[0][0] if found else default
