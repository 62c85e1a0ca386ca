"""Retiring ad-hoc ECR entities: what goes, what points to it, and the edits.

An edit is believed only when the text that is left parses to just the documents that were to stay.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import yaml

from ecr_catalog_pipeline.core.entity import CONTENT_DIGEST
from ecr_catalog_pipeline.core.strict_yaml import (
    Value,
    YamlFault,
    as_written,
    parse_documents,
    readable,
)
from ecr_catalog_pipeline.sprawl.ad_hoc import (
    Piece,
    documents_of,
    is_ad_hoc,
    is_alike,
    part,
    pieces,
)
from ecr_catalog_pipeline.sprawl.edits import (
    Cut,
    EditRefused,
    child_of,
    cut,
    cuts_of_document,
    cuts_of_ends,
    cuts_of_targets,
    has_directives,
    root_of,
)
from ecr_catalog_pipeline.sprawl.standing import RetiredEntity

REFERENCE_FIELDS: Final[Mapping[str, str]] = {
    "dependsOn": "resource",
    "dependencyOf": "resource",
    "subcomponentOf": "component",
}
"""Fields of `spec` that refer to entities, and the kind that a reference without one means.

Backstage gives `dependsOn` and `dependencyOf` no kind of their own and refuses a bare name there;
it is shown all the same, since a person who wrote it meant something.
"""


_BOM: Final = "\ufeff"
_GLOB: Final = re.compile(r"[*?\[\]{}]")
_TEMPLATED: Final = re.compile(r"\{\{|\{%")
_ODD_BREAK: Final = re.compile(r"\r(?!\n)|[\x85\u2028\u2029]")
_ESCAPED: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


@dataclass(frozen=True, slots=True)
class LocationEdit:
    """A target that goes from a Location, and what becomes of that.

    Attributes:
        outcome: `edited`, `removed` with its last target, or `emptied`: kept without a target.
    """

    path: str
    line: int
    name: str
    target: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference of an entity that stays to one that goes."""

    path: str
    line: int
    entity: str
    field: str
    written: str
    to: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that is left as it is, and why."""

    path: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Retirement:
    """What retiring the ad-hoc ECR entities of a catalog comes to.

    Attributes:
        edits: the new text of every file that changes; None deletes it.
        unlisted: files that are deleted and that no Location here lists.
        left: entities that should go and cannot be taken out safely.
        warnings: what was not judged, such as templates.
    """

    entities: tuple[RetiredEntity, ...]
    locations: tuple[LocationEdit, ...]
    edits: Mapping[str, str | None]
    references: tuple[Reference, ...]
    unlisted: tuple[str, ...]
    left: tuple[Notice, ...]
    warnings: tuple[Notice, ...]

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to retire."""
        return not self.entities and not self.left


@dataclass(frozen=True, slots=True)
class _Document:
    path: str
    piece: Piece
    value: Value
    line: int

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.piece.start

    @property
    def kind(self) -> object:
        return self.value.get("kind") if isinstance(self.value, dict) else None

    @property
    def name(self) -> str:
        return str(part(self.value, "metadata").get("name"))

    @property
    def namespace(self) -> str:
        namespace = part(self.value, "metadata").get("namespace")
        return namespace if isinstance(namespace, str) and namespace else "default"

    @property
    def reference(self) -> str:
        return f"{self.kind}:{self.namespace}/{self.name}".lower()

    @property
    def targets(self) -> list[str]:
        """The targets of a Location, as written; none of anything else."""
        if self.kind != "Location":
            return []
        spec = part(self.value, "spec")
        several = spec.get("targets")
        listed = [spec.get("target"), *(several if isinstance(several, list) else [])]
        return [each for each in listed if isinstance(each, str)]


class _Refused(Exception):
    """An edit that cannot be made safely."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem


def plan_retirement(files: Mapping[str, str], mirror_entities: Collection[str]) -> Retirement:
    """Find the ad-hoc ECR entities of a catalog and work out how they go.

    Args:
        files: the text of every file by its path relative to the catalog, with `/`, byte order
            marks and line breaks as they are.
        mirror_entities: names of entities that mirrors generate; those stay.
    """
    survey = _Survey(files, mirror_entities)
    blocked: dict[str, str] = {}
    while True:
        draft = _Draft(survey, blocked)
        try:
            edits = draft.edits()
        except _Refused as refusal:
            # What a Location lists stays as long as the Location does: Backstage goes on serving
            # an entity whose file it misses.
            stay = {refusal.path, *draft.emptied_by(refusal.path)} - blocked.keys()
            if not stay:
                raise AssertionError(refusal.problem) from None
            blocked.update(dict.fromkeys(stay, f"{refusal.path}: {refusal.problem}"))
            continue
        return draft.retirement(edits)


class _Survey:
    """What the files hold: read once."""

    def __init__(self, files: Mapping[str, str], mirror_entities: Collection[str]) -> None:
        self.texts = {path: text.removeprefix(_BOM) for path, text in files.items()}
        self.marks = {path: _BOM if text.startswith(_BOM) else "" for path, text in files.items()}
        self.documents: dict[str, list[_Document]] = {}
        self.ad_hoc: list[_Document] = []
        self.warnings: list[Notice] = []
        self.whole: dict[str, bool] = {}
        for path in sorted(self.texts):
            self._read(path, mirror_entities)

    def _read(self, path: str, mirror_entities: Collection[str]) -> None:
        text = self.texts[path]
        self.documents[path] = []
        self.whole[path] = True
        for piece in pieces(text):
            try:
                documents = documents_of(text, piece)
            except YamlFault as fault:
                self.whole[path] = False
                line = piece.line + fault.line - 1
                problem = f"cannot be parsed, so it was not judged: {fault.problem}"
                self.warnings.append(Notice(path, line, problem))
                continue
            if len(documents) > 1:
                self.whole[path] = False
            for document in documents:
                line, _ = document.key_places.get("kind", (document.line, document.column))
                found = _Document(path, piece, document.value, piece.line + line - 1)
                if found.value is not None:
                    self.documents[path].append(found)
                if is_ad_hoc(found.value, mirror_entities):
                    self._judge(found)
                elif is_alike(found.value):
                    words = "its type differs from the one of an ad-hoc ECR entity in case only"
                    message = f"left as it is: {readable(found.name)}: {words}"
                    self.warnings.append(Notice(path, found.line, message))

    def _judge(self, found: _Document) -> None:
        if _TEMPLATED.search(found.name) or _TEMPLATED.search(found.namespace):
            message = "a template of ad-hoc ECR entities: fix what makes them"
        elif CONTENT_DIGEST in part(part(found.value, "metadata"), "annotations"):
            message = f"{readable(found.name)} is generated by a mirror that is unknown here"
        else:
            self.ad_hoc.append(found)
            return
        self.warnings.append(Notice(found.path, found.line, f"left as it is: {message}"))


class _Draft:
    """One attempt: which documents go, given the files that must stay."""

    def __init__(self, survey: _Survey, blocked: Mapping[str, str]) -> None:
        self._survey = survey
        self._blocked = blocked
        self.left: list[Notice] = []
        self.retired: list[_Document] = []
        for found in survey.ad_hoc:
            if found.path in blocked:
                self.left.append(Notice(found.path, found.line, blocked[found.path]))
            elif not survey.whole[found.path]:
                problem = "a part of the file cannot be parsed, so the file is not edited"
                self.left.append(Notice(found.path, found.line, problem))
            else:
                self.retired.append(found)
        self._going = {each.key for each in self.retired}
        self._locations = [
            each for documents in survey.documents.values() for each in documents if each.targets
        ]
        # Who lists a file by its path, and who names files by a pattern, a URL or from the root.
        self._listed_by: defaultdict[str, list[_Document]] = defaultdict(list)
        self._vague: list[tuple[_Document, str]] = []
        for location in self._locations:
            for target in location.targets:
                paths = _resolved(location.path, target)
                if not paths:
                    self._vague.append((location, target))
                for path in paths:
                    self._listed_by[path].append(location)
        self._wanted: dict[tuple[str, int], list[str]] = {}
        self._settle()

    def emptied_by(self, location_path: str) -> set[str]:
        """The files that a file's Locations list and that were to be deleted."""
        return {
            resolved
            for each in self._locations
            if each.path == location_path
            for target in self._wanted.get(each.key, ())
            for resolved in _resolved(each.path, target)
        }

    def edits(self) -> dict[str, str | None]:
        """Give the new texts.

        Raises:
            _Refused: one cannot be had safely.
        """
        touched = {path for path, _ in self._going} | {path for path, _ in self._wanted}
        return {path: self._edit(path) for path in sorted(touched)}

    def retirement(self, edits: Mapping[str, str | None]) -> Retirement:
        """Put the outcome together."""
        deleted = {path for path, text in edits.items() if text is None}
        unlisted = {path for path in deleted if not self._is_listed(path)}
        return Retirement(
            entities=tuple(_retired_entity(each) for each in self.retired),
            locations=tuple(self._location_edits()),
            edits=edits,
            references=tuple(self._references()),
            unlisted=tuple(sorted(unlisted)),
            left=tuple(self.left),
            warnings=(*self._survey.warnings, *self._vague_notices(deleted)),
        )

    def _settle(self) -> None:
        """Let Locations lose their targets, and go with the last one, until nothing changes."""
        while True:
            emptied = self._emptied()
            before = len(self._going)
            self._wanted = {}
            for location in self._locations:
                if location.key in self._going:
                    continue
                wanted = [
                    target
                    for target in location.targets
                    if any(path in emptied for path in _resolved(location.path, target))
                ]
                if not wanted:
                    continue
                if len(wanted) == len(location.targets) and self._may_go(location):
                    self._going.add(location.key)
                else:
                    self._wanted[location.key] = wanted
            if len(self._going) == before:
                return

    def _emptied(self) -> set[str]:
        return {
            path
            for path, _ in self._going
            if all(each.key in self._going for each in self._survey.documents[path])
        }

    def _may_go(self, location: _Document) -> bool:
        """Whether Backstage notices: something else reads the file, or goes on reading it."""
        if location.path in self._blocked or not self._survey.whole[location.path]:
            return False
        others = (each for each in self._survey.documents[location.path] if each is not location)
        if any(each.key not in self._going for each in others):
            return True
        return self._is_listed(location.path, apart_from=location)

    def _is_listed(self, path: str, *, apart_from: _Document | None = None) -> bool:
        return any(each is not apart_from for each in self._listed_by.get(path, ())) or any(
            _may_mean(each.path, target, path)
            for each, target in self._vague
            if each is not apart_from
        )

    def _edit(self, path: str) -> str | None:
        text = self._survey.texts[path]
        if _ODD_BREAK.search(text):
            raise _Refused(path, "it holds line breaks that not every parser takes for such")
        documents = self._survey.documents[path]
        if documents and all(each.key in self._going for each in documents):
            return None
        before = _exact(text) if self._survey.whole[path] else None
        if before is None or len(before) != len(documents):
            raise _Refused(path, "a part of it cannot be parsed; edit it by hand")
        self._refuse_lost_directives(path, text)
        try:
            edited, expected = self._cut(text, documents, before)
        except EditRefused as refusal:
            raise _Refused(path, refusal.problem) from None
        if _exact(edited) != expected:
            raise _Refused(path, "what is left would read differently; edit it by hand")
        return self._survey.marks[path] + edited

    def _cut(
        self, text: str, documents: list[_Document], values: list[Value]
    ) -> tuple[str, list[Value]]:
        """Give the text without what goes, and what it has to parse to."""
        cuts: list[Cut] = []
        going: set[int] = set()
        expected: list[Value] = []
        for document, value in zip(documents, values, strict=True):
            if document.key in self._going:
                cuts.extend(cuts_of_document(text, document.piece))
                going.add(document.piece.start)
            elif wanted := self._wanted.get(document.key):
                empties = len(wanted) == len(document.targets)
                cuts.extend(cuts_of_targets(text, document.piece, wanted, empties=empties))
                expected.append(_without_targets(value, wanted, empties=empties))
            else:
                expected.append(value)
        cuts.extend(cuts_of_ends(text, going))
        return cut(text, cuts), expected

    def _refuse_lost_directives(self, path: str, text: str) -> None:
        """Backstage's parser lets `%YAML 1.1` last for the documents after it, too."""
        lost = False
        for document in self._survey.documents[path]:
            piece = document.piece
            if document.key not in self._going:
                if lost:
                    raise _Refused(path, "a directive is before what would go; edit it by hand")
            else:
                lost = lost or has_directives(text, piece)

    def _location_edits(self) -> Iterator[LocationEdit]:
        emptied = self._emptied()
        for location in self._locations:
            gone = location.key in self._going
            wanted = location.targets if gone else self._wanted.get(location.key, [])
            kept_empty = not gone and len(wanted) == len(location.targets)
            outcome = "removed" if gone else "emptied" if kept_empty else "edited"
            for target in wanted:
                if any(path in emptied for path in _resolved(location.path, target)):
                    yield LocationEdit(location.path, location.line, location.name, target, outcome)

    def _vague_notices(self, deleted: set[str]) -> Iterator[Notice]:
        for location, target in self._vague:
            if location.key in self._going:
                continue
            meant = {path for path in self._survey.texts if _may_mean(location.path, target, path)}
            if not meant & deleted:
                continue
            words = f"the target {readable(target)} is left as it is; it may mean "
            words += f"{len(meant & deleted)} of the files that go"
            if meant <= deleted:
                words += (
                    ", and would find none: remove it by hand, since Backstage goes on showing "
                    "what a target declared that it no longer finds"
                )
            yield Notice(location.path, location.line, words)

    def _references(self) -> Iterator[Reference]:
        staying = {
            each.reference
            for documents in self._survey.documents.values()
            for each in documents
            if each.key not in self._going
        }
        gone = {each.reference for each in self.retired} - staying
        for documents in self._survey.documents.values():
            for document in documents:
                if document.key not in self._going:
                    yield from self._references_of(document, gone)

    def _references_of(self, document: _Document, gone: set[str]) -> Iterator[Reference]:
        spec = part(document.value, "spec")
        lines: Mapping[str, list[int]] | None = None
        for name, kind in REFERENCE_FIELDS.items():
            value = spec.get(name)
            for place, written in enumerate(value if isinstance(value, list) else [value]):
                to = _full_reference(written, kind, document.namespace)
                if to not in gone:
                    continue
                if lines is None:
                    lines = _reference_lines(self._survey.texts[document.path], document.piece)
                found = lines.get(name, [])
                line = found[place] if place < len(found) else document.line
                yield Reference(document.path, line, document.reference, name, written, to)


def _without_targets(value: Value, wanted: Collection[str], *, empties: bool) -> Value:
    """What a Location parses to once its targets are gone."""
    wanted = frozenset(wanted)
    spec = dict(value["spec"])
    if _is_one_of(spec.get("target"), wanted):
        del spec["target"]
    if isinstance(spec.get("targets"), list):
        spec["targets"] = [each for each in spec["targets"] if not _is_one_of(each, wanted)]
    elif empties:
        spec["targets"] = []
    return {**value, "spec": spec}


def _exact(text: str) -> list[Value] | None:
    """Parse a stream so that two values are equal only if they were written alike.

    Returns:
        The documents that are not null; None when one cannot be parsed.
    """
    try:
        return _values(text)
    except YamlFault:
        pass
    # libyaml knows no document without a `---` but the first; YAML 1.2, and Backstage, do.
    try:
        apart = [_values(text[each.start : each.end]) for each in pieces(text) if not each.blank]
    except YamlFault:
        return None
    return [value for values in apart for value in values]


def _values(text: str) -> list[Value]:
    documents = parse_documents(text, scalar=lambda *read: read, tags_allowed=True)
    return [each.value for each in documents if not _is_null(each.value)]


def _is_null(value: Value) -> bool:
    return isinstance(value, tuple) and as_written(*value) is None


def _is_one_of(value: Value, wanted: Collection[str]) -> bool:
    """Whether a value, parsed exactly, is one of these texts."""
    return isinstance(value, tuple) and value[0] in wanted


def _reference_lines(text: str, piece: Piece) -> dict[str, list[int]]:
    """The lines of the values of each field that refers to entities."""
    spec = child_of(root_of(text[piece.start : piece.end]), "spec")
    lines: defaultdict[str, list[int]] = defaultdict(list)
    for name in REFERENCE_FIELDS:
        value = child_of(spec, name)
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        lines[name] = [piece.line + node.start_mark.line for node in nodes if node is not None]
    return lines


def _full_reference(written: object, kind: str, namespace: str) -> str:
    """Spell a reference out, in lower case; empty when it is none."""
    if not isinstance(written, str):
        return ""
    before, colon, rest = written.partition(":")
    if not colon or "/" in before:
        before, rest = kind, written
    space, slash, name = rest.partition("/")
    if not slash:
        space, name = namespace, rest
    return f"{before}:{space}/{name}".lower()


def _resolved(path: str, target: str) -> tuple[str, ...]:
    """The file of the catalog that a target means, when it is plainly relative."""
    if "://" in target or target.startswith("/") or _GLOB.search(target):
        return ()
    folder = posixpath.dirname(path)
    spellings = {target, _unescaped(target)}
    return tuple(posixpath.normpath(posixpath.join(folder, each)) for each in spellings)


def _may_mean(path: str, target: str, file: str) -> bool:
    """Whether a pattern, a URL or an absolute path could mean a file of the catalog."""
    if "://" in target:
        return _unescaped(re.split(r"[?#]", target)[0]).endswith(f"/{file}")
    if target.startswith("/"):
        return target.endswith(f"/{file}")
    if not _GLOB.search(target):
        return file in _resolved(path, target)
    pattern = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return _glob(pattern).fullmatch(file) is not None


def _unescaped(target: str) -> str:
    """Undo the %-escapes of a URL."""
    return _ESCAPED.sub(
        lambda found: bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "replace"), target
    )


@lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    """Make an expression of a pattern as Backstage's readers take it: `*`, `**`, `?`."""
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(wild.get(each, re.escape(each)) for each in parts))


def _retired_entity(document: _Document) -> RetiredEntity:
    return RetiredEntity(
        path=document.path,
        line=document.line,
        name=document.name,
        namespace=document.namespace,
        type=str(document.value["spec"]["type"]),
        value=document.value,
    )
