"""The one Backstage entity of a mirror: its content, its bytes, its digest, its rules.

Same content, same bytes, but for the two lines that say when and from which commit. No key of the
entity ever comes from a user's data, and no user text leaves the field it was put in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from ecr_catalog_pipeline.core.errors import EntityInvalid, TargetRefused
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, ReconciledRepository, State
from ecr_catalog_pipeline.core.strict_yaml import (
    YamlFault,
    as_backstage_reads,
    parse_documents,
    readable,
)
from ecr_catalog_pipeline.core.text import MAX_TEXT, clean_text, escape_markdown

API_VERSION: Final = "backstage.io/v1alpha1"
KIND: Final = "Resource"
TYPE: Final = "container-registry"
DESCRIBED_REPOSITORIES: Final = 100
MAX_URI: Final = 512
LIST_LIMIT: Final = 10_000
"""How many live and pending repositories an entity lists itself, unless the mirror says another."""
COUNTED: Final = 100
"""How many owners, risks and environments the summary of a longer list counts apart."""
UNASSIGNED: Final = "unassigned"
OTHERS: Final = "others"

ReadList = Callable[[str], bytes | None]
"""Reads the published list of a digest; None when it is not there."""

CONTENT_DIGEST: Final = "platform/content-digest"
LAST_SYNC: Final = "platform/last-sync"
SOURCE_SHA: Final = "platform/source-sha"
_NOT_CONTENT: Final = frozenset({CONTENT_DIGEST, LAST_SYNC, SOURCE_SHA})

MAX_NAME: Final = 63
NAME: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
NAMESPACE: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_TAG: Final = re.compile(r"[a-z0-9:+#]+(?:-[a-z0-9:+#]+)*")
_ANNOTATION: Final = re.compile(
    r"(?:[a-z0-9]+(?:[-.][a-z0-9]+)*/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_ROOT_KEYS: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "relations"})

# Plain in YAML 1.1 and 1.2 alike: starts with a letter or holds a slash, and is no word below.
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*|[0-9][A-Za-z0-9._-]*/[A-Za-z0-9._/-]*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_MOVING_LINE: Final = re.compile(
    rb"    platform/(last-sync): '\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ'"
    rb"|    platform/(source-sha): '(?:[0-9a-f]{40}|[0-9a-f]{64})'"
)
_LAST_SYNC_LINE: Final = re.compile(rb"^    platform/last-sync: '([^'\n]+)'$", re.MULTILINE)
_SOURCE_SHA_LINE: Final = re.compile(rb"^    platform/source-sha: '([^'\n]+)'$", re.MULTILINE)
_LIST_HEADS: Final = (
    ("  repositories: []", "  repositories:"),
    ("  pending: []", "  pending:"),
)
_LINE_KEYS: Final = frozenset(
    {"name", "owner", "risk", "environment", "status", "uri", "requested"}
)
_FIELD: Final = re.compile(r'(\w+): ("(?:[^"\\]|\\.)*"|[^",{}]+)(?:, |$)')
_ONLY_TEXT: Final = frozenset({str})
_LIST_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_STAMP: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class EntityIdentity:
    """What the mirror's settings say of the entity; `system` None leaves it out."""

    name: str
    namespace: str
    title: str
    owner: str
    system: str | None

    @property
    def reference(self) -> str:
        """How Backstage refers to the entity."""
        return f"resource:{self.namespace}/{self.name}"

    @property
    def page(self) -> str:
        """The path of the entity's page in Backstage."""
        return f"/catalog/{self.namespace}/resource/{self.name}"

    def problems(self) -> list[str]:
        """What Backstage would refuse in it, one sentence each."""
        found = []
        if not (len(self.name) <= MAX_NAME and NAME.fullmatch(self.name)):
            found.append(
                "name must be 1-63 of A-Z a-z 0-9 - _ . and start and end with none of - _ ."
            )
        if not (len(self.namespace) <= MAX_NAME and NAMESPACE.fullmatch(self.namespace)):
            found.append("namespace must be 1-63 lower-case letters and digits, joined by -")
        for key, value in (("title", self.title), ("owner", self.owner), ("system", self.system)):
            if value is not None and (not value.strip() or clean_text(value) != value):
                found.append(f"{key} must be one line of text, {MAX_TEXT} characters at most")
        return found


@dataclass(frozen=True, slots=True)
class PublishedEntity:
    """What is published now, as far as it can be read.

    Attributes:
        digest: of the content as parsed; of the bytes when damaged.
        repositories, pending: the lines of either list, by name.
        listed: the digest of the list beside the entity; empty where the entity lists them itself.
        damaged: recognisably ours, but its list of repositories cannot be read.
    """

    digest: str
    repositories: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pending: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    last_sync: str | None = None
    source_sha: str | None = None
    listed: str = ""
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Where the full list of repositories is published when the entity does not hold it.

    Attributes:
        key: what `spec.listed` calls it, `path` or `url`.
        entity: the entity's own place; that of the list follows from it.
        limit: how many live and pending repositories an entity lists itself.
    """

    key: str
    entity: str
    limit: int = LIST_LIMIT

    def named(self, digest: str) -> str:
        """The place of the list of a digest."""
        return list_name(self.entity, digest)


def list_name(entity: str, digest: str) -> str:
    """The name of a list, from the name of its entity: another one for every content.

    So the entity never points to a list that is not there, whichever of them is read first.
    """
    return f"{entity}.{digest.removeprefix('sha256:')[:16]}.jsonl"


def list_digest(full_list: bytes) -> str:
    """What `spec.listed` says of a list."""
    return f"sha256:{hashlib.sha256(full_list).hexdigest()}"


@dataclass(frozen=True, slots=True)
class DesiredEntity:
    """The entity that governance and AWS call for, ready to be published.

    Attributes:
        content: the file, whole.
        digest: of its content.
        repositories, pending: the lines of either list, by name.
        full_list: the file beside it; None where the entity lists them itself.
    """

    content: bytes
    digest: str
    repositories: Mapping[str, Mapping[str, str]]
    pending: Mapping[str, Mapping[str, str]]
    full_list: bytes | None = None

    @property
    def listed(self) -> str:
        """The digest of the list beside it; empty where the entity lists them itself."""
        return "" if self.full_list is None else list_digest(self.full_list)

    def is_in(self, content: bytes) -> bool:
        """Whether a file says the same, apart from when and from which commit."""
        return same_content(content, self.content)

    def read_in(self, content: bytes) -> PublishedEntity:
        """Read a file that says the same: of its own it has two lines only."""
        return PublishedEntity(
            digest=self.digest,
            repositories=self.repositories,
            pending=self.pending,
            last_sync=_found(_LAST_SYNC_LINE, content),
            source_sha=_found(_SOURCE_SHA_LINE, content),
            listed=self.listed,
        )


def desired_entity(
    identity: EntityIdentity,
    registry: ReconciledRegistry,
    *,
    account_id: str,
    region: str,
    source_sha: str,
    now: datetime,
    place: ListPlace,
) -> DesiredEntity:
    """Build, check and render the entity.

    Args:
        source_sha: the last governance commit that touched the file.
        now: becomes `last-sync`.
        place: where the list goes that is too long for the entity.

    Raises:
        EntityInvalid: Backstage would refuse it.
    """
    entity = build_entity(identity, registry, account_id=account_id, region=region)
    spec = entity["spec"]
    live, pending = spec["repositories"], spec["pending"]
    full_list = None
    if len(live) + len(pending) > place.limit:
        full_list = _render_list([*live, *pending])
        del spec["repositories"], spec["pending"]
        spec["summary"] = _summary(live)
        digest = list_digest(full_list)
        spec["listed"] = {
            place.key: place.named(digest),
            "digest": digest,
            "count": len(live) + len(pending),
        }
    check_entity(entity)
    digest = content_digest(entity)
    stamp = now.astimezone(UTC).strftime(_STAMP)
    return DesiredEntity(
        content=render_entity(entity, digest, source_sha, stamp),
        digest=digest,
        repositories=_by_name(live),
        pending=_by_name(pending),
        full_list=full_list,
    )


def build_entity(
    identity: EntityIdentity, registry: ReconciledRegistry, *, account_id: str, region: str
) -> dict[str, Any]:
    """Build the entity's content, without the annotations that are no content."""
    counts = registry.counts()
    live = registry.in_state(State.LIVE)
    spec: dict[str, Any] = {"type": TYPE, "owner": identity.owner}
    if identity.system is not None:
        spec["system"] = identity.system
    spec["repositories"] = [_live_line(each) for each in live]
    spec["pending"] = [_pending_line(each) for each in registry.in_state(State.PENDING)]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": identity.name,
            "namespace": identity.namespace,
            "title": identity.title,
            "description": _description(live),
            "annotations": {
                "platform/repo-count": str(counts[State.LIVE]),
                "platform/pending-count": str(counts[State.PENDING]),
                "platform/ghost-count": str(counts[State.GHOST]),
                "platform/orphan-count": str(counts[State.ORPHAN]),
            },
            "links": [{"url": console_url(account_id, region), "title": "AWS ECR Console"}],
        },
        "spec": spec,
    }


def console_url(account_id: str, region: str) -> str:
    """The sign-in link that opens the ECR console of that account and region."""
    if region.startswith("cn-"):
        host = "signin.amazonaws.cn"
    elif region.startswith("us-gov-"):
        host = "signin.amazonaws-us-gov.com"
    else:
        host = "signin.aws.amazon.com"
    return f"https://{account_id}.{host}/console/ecr/private-registry/repositories?region={region}"


def content_digest(entity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what counts as content.

    Takes the entity as parsed, from a file or from Backstage; what either adds does not count.
    """
    metadata = _mapping(entity.get("metadata"))
    kept: dict[str, Any] = {
        key: metadata[key]
        for key in ("name", "namespace", "title", "description", "links", "tags")
        if key in metadata
    }
    kept["annotations"] = {
        key: value
        for key, value in _mapping(metadata.get("annotations")).items()
        if key.startswith("platform/") and key not in _NOT_CONTENT
    }
    content = {key: entity[key] for key in ("apiVersion", "kind", "spec") if key in entity}
    content["metadata"] = kept
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode('utf-8', 'surrogatepass')).hexdigest()}"


def render_entity(entity: Mapping[str, Any], digest: str, source_sha: str, stamp: str) -> bytes:
    """Write the entity as YAML, one line a repository.

    Args:
        entity: the content, of `build_entity`.
        digest: of that content.
        source_sha: the governance commit that the content comes from.
        stamp: when the content changed, as `last-sync` says it.
    """
    metadata, spec = entity["metadata"], entity["spec"]
    lines = [
        f"apiVersion: {entity['apiVersion']}",
        f"kind: {entity['kind']}",
        "metadata:",
        f"  name: {_scalar(metadata['name'])}",
        f"  namespace: {_scalar(metadata['namespace'])}",
        f"  title: {_scalar(metadata['title'])}",
        "  description: |-",
        *(f"    {line}" if line else "" for line in metadata["description"].split("\n")),
        "  annotations:",
        *(f"    {key}: '{value}'" for key, value in metadata["annotations"].items()),
        f"    {SOURCE_SHA}: '{source_sha}'",
        f"    {CONTENT_DIGEST}: {digest}",
        f"    {LAST_SYNC}: '{stamp}'",
        "  links:",
        *(f"    - {_flow(link)}" for link in metadata["links"]),
        "spec:",
        *(f"  {key}: {_scalar(spec[key])}" for key in ("type", "owner", "system") if key in spec),
    ]
    for key in ("repositories", "pending"):
        if key in spec:
            lines.extend(_rendered_list(f"  {key}", spec[key]))
    if "summary" in spec:
        lines.append("  summary:")
        for key, counts in spec["summary"].items():
            lines.extend(_rendered_list(f"    {key}", counts))
        lines.append(f"  listed: {_flow(spec['listed'])}")
    return ("\n".join(lines) + "\n").encode()


def _rendered_list(key: str, lines: Sequence[Mapping[str, str | int]]) -> Iterator[str]:
    """Write a list of lines under its indented key."""
    yield f"{key}:" if lines else f"{key}: []"
    indent = " " * (len(key) - len(key.lstrip()) + 2)
    yield from (f"{indent}- {_flow(line)}" for line in lines)


def _render_list(lines: Iterable[Mapping[str, str]]) -> bytes:
    """Write the list beside the entity: JSON Lines, the live ones with their `uri` first."""
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()


def _summary(live: Sequence[Mapping[str, str]]) -> dict[str, list[dict[str, str | int]]]:
    """Count the live repositories by owner, risk and environment, the most frequent first."""
    return {key: _counted(live, key) for key in ("owner", "risk", "environment")}


def _counted(live: Sequence[Mapping[str, str]], key: str) -> list[dict[str, str | int]]:
    found = Counter(line.get(key, UNASSIGNED) for line in live)
    ranked = sorted(found.items(), key=lambda each: (-each[1], each[0]))
    counts: list[dict[str, str | int]] = [
        {"name": name, "count": count} for name, count in ranked[:COUNTED]
    ]
    if others := sum(count for _, count in ranked[COUNTED:]):
        counts.append({"name": OTHERS, "count": others})
    return counts


def same_content(published: bytes, rendered: bytes) -> bool:
    """Whether two files differ at the most in `last-sync` and `source-sha`."""
    old, new = published.split(b"\n"), rendered.split(b"\n")
    return len(old) == len(new) and all(
        one == other or _both_move(one, other) for one, other in zip(old, new, strict=True)
    )


def last_sync_of(content: bytes) -> str | None:
    """When the content of an entity that we rendered changed, as the entity says."""
    return _found(_LAST_SYNC_LINE, content)


def _found(line: re.Pattern[bytes], content: bytes) -> str | None:
    found = line.search(content)
    return found[1].decode() if found else None


def read_published(
    content: bytes, identity: EntityIdentity, read_list: ReadList = lambda _: None
) -> PublishedEntity:
    """Read the entity that is published now.

    One that we rendered with its lists is read line by line, any other one as the YAML it is.

    Args:
        read_list: gives the list beside the entity, where the entity points to one.

    Raises:
        TargetRefused: the file is not this mirror's entity, so it is not ours to overwrite.
    """
    entity = _as_rendered(content)
    if entity is None:
        entity = _as_yaml(content)
    if not isinstance(entity, dict):
        if _looks_like(content, identity):
            return _damaged(content)
        raise _not_ours("no readable YAML entity", identity)
    metadata = _mapping(entity.get("metadata"))
    kind, name = entity.get("kind"), metadata.get("name")
    if kind != KIND or name != identity.name:
        found = f"{readable(str(kind))} {readable(str(name))}"
        raise _not_ours(found, identity, renamed=_is_of_ours(entity))
    return _published(entity, read_list) or _damaged(content)


def _as_yaml(content: bytes) -> Any:
    """Parse a file as Backstage does; None when it is not one YAML document."""
    try:
        documents = list(
            parse_documents(content.decode("utf-8"), scalar=as_backstage_reads, tags_allowed=True)
        )
    except (UnicodeDecodeError, YamlFault):
        return None
    return documents[0].value if len(documents) == 1 else None


def _as_rendered(content: bytes) -> dict[str, Any] | None:
    """Parse a file that `render_entity` wrote with its lists, as `_as_yaml` would; else None.

    Only what is above the two lists is parsed as YAML. What comes out counts only if it gives
    the same bytes when it is rendered again: so nothing is read otherwise than YAML says.
    """
    try:
        lines = content.decode("utf-8").split("\n")
        first = next(place for place, line in enumerate(lines) if line in _LIST_HEADS[0])
        second = next(place for place, line in enumerate(lines) if line in _LIST_HEADS[1])
        without = [*lines[:first], *(head[0] for head in _LIST_HEADS), ""]
        entity = _as_yaml("\n".join(without).encode())
        entity["spec"]["repositories"] = [_as_flow(line) for line in lines[first + 1 : second]]
        entity["spec"]["pending"] = [_as_flow(line) for line in lines[second + 1 : -1]]
        moving = {key: entity["metadata"]["annotations"][key] for key in _NOT_CONTENT}
        again = render_entity(
            _without_moving(entity), moving[CONTENT_DIGEST], moving[SOURCE_SHA], moving[LAST_SYNC]
        )
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
        # Something is not there, or is something else than in a file of ours.
        return None
    return entity if again == content else None


def _without_moving(entity: Mapping[str, Any]) -> dict[str, Any]:
    """Give the entity as `build_entity` does: without the annotations that are no content."""
    metadata = entity["metadata"]
    kept = {key: text for key, text in metadata["annotations"].items() if key not in _NOT_CONTENT}
    return {**entity, "metadata": {**metadata, "annotations": kept}}


def _as_flow(line: str) -> dict[str, str]:
    """Read a line of either list that `_flow` wrote.

    Raises:
        ValueError: `_flow` did not write it.
    """
    inside = line.removeprefix("    - {").removesuffix("}")
    if '"' in inside:
        fields = {key: _unquoted(text) for key, text in _FIELD.findall(inside)}
    else:
        fields = dict(field.split(": ", 1) for field in inside.split(", "))
    if not ("name" in fields and fields.keys() <= _LINE_KEYS):
        raise ValueError(line)
    return fields


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    value = json.loads(text)
    if clean_text(value, len(value)) != value:
        # JSON and YAML differ in what neither we nor a line of text ever hold.
        raise ValueError(text)
    return str(value)


def _published(entity: Mapping[str, Any], read_list: ReadList) -> PublishedEntity | None:
    """Read a parsed entity; None when it neither has its lists nor says where they are."""
    spec = _mapping(entity.get("spec"))
    annotations = _mapping(_mapping(entity.get("metadata")).get("annotations"))
    found = PublishedEntity(
        digest=content_digest(entity),
        last_sync=_optional_text(annotations.get(LAST_SYNC)),
        source_sha=_optional_text(annotations.get(SOURCE_SHA)),
    )
    live, pending = spec.get("repositories"), spec.get("pending")
    if _are_lines(live) and _are_lines(pending):
        return replace(found, repositories=_by_name(live), pending=_by_name(pending))
    listed = _mapping(spec.get("listed")).get("digest")
    if not (isinstance(listed, str) and _LIST_DIGEST.fullmatch(listed)):
        return None
    lines = _lines_of_list(read_list(listed))
    if lines is None:
        return replace(found, listed=listed, damaged=True)
    return replace(
        found,
        listed=listed,
        repositories=_by_name(line for line in lines if "uri" in line),
        pending=_by_name(line for line in lines if "uri" not in line),
    )


def _lines_of_list(full_list: bytes | None) -> list[dict[str, Any]] | None:
    """Read a list beside an entity; None when it is missing or is none."""
    if full_list is None:
        return None
    try:
        # All lines at once: a tenth of the time.
        lines = json.loads(b"[" + b",".join(filter(None, full_list.split(b"\n"))) + b"]")
    except (ValueError, RecursionError):
        return None
    return lines if _are_lines(lines) else None


def _by_name(lines: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in lines}


def read_served(
    served: Mapping[str, Any] | None, read_list: ReadList = lambda _: None
) -> PublishedEntity | None:
    """Read an entity as Backstage serves it under our name; None when it is not one of ours.

    Args:
        read_list: gives the list beside the entity, where the entity points to one.
    """
    if served is None:
        return None
    if not _is_of_ours(served):
        return None
    return _published(served, read_list) or PublishedEntity(
        digest=content_digest(served), damaged=True
    )


def check_entity(entity: Mapping[str, Any]) -> None:
    """Hold an entity against the rules of a real Backstage catalog backend.

    Raises:
        EntityInvalid: naming every rule that it breaks.
    """
    problems = list(_entity_problems(entity))
    if problems:
        raise EntityInvalid(
            f"Backstage would refuse the entity: {'; '.join(problems)}",
            remediation="Correct the `entity:` block of the mirror file. Nothing was published.",
        )


def _live_line(each: ReconciledRepository) -> dict[str, str]:
    return _known(
        name=each.name,
        owner=each.owner,
        risk=each.risk,
        environment=each.environment,
        status=each.status,
        uri=each.uri,
    )


def _pending_line(each: ReconciledRepository) -> dict[str, str]:
    return _known(
        name=each.name,
        owner=each.owner,
        risk=each.risk,
        environment=each.environment,
        requested=each.requested,
    )


def _known(**fields: str | None) -> dict[str, str]:
    return {
        key: cleaned
        for key, value in fields.items()
        if value and (cleaned := clean_text(value, MAX_URI if key == "uri" else MAX_TEXT))
    }


def _description(live: Sequence[ReconciledRepository]) -> str:
    count = len(live)
    noun = "repository" if count == 1 else "repositories"
    head = f"Master AWS ECR Registry. Manages {count} {noun}"
    if not live:
        return f"{head}."
    bullets = [
        f"- {escape_markdown(each.name)} ({_environment(each)})"
        for each in live[:DESCRIBED_REPOSITORIES]
    ]
    if count > DESCRIBED_REPOSITORIES:
        bullets.append(f"- and {count - DESCRIBED_REPOSITORIES} more")
    return "\n".join([f"{head}:", "", *bullets])


def _environment(each: ReconciledRepository) -> str:
    return escape_markdown(clean_text(each.environment or "")) or UNASSIGNED


def _scalar(text: str | int) -> str:
    if isinstance(text, int):
        return str(text)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


def _flow(line: Mapping[str, str | int]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in line.items()) + "}"


def _both_move(one: bytes, other: bytes) -> bool:
    """Whether two lines are the same one of the two that say when and from which commit."""
    found, expected = _MOVING_LINE.fullmatch(one), _MOVING_LINE.fullmatch(other)
    return bool(found and expected and found.groups(b"")[0] == expected.groups(b"")[0])


def _looks_like(content: bytes, identity: EntityIdentity) -> bool:
    """Whether a file that cannot be parsed still says that it is this entity."""
    lines = content.split(b"\n")
    return (
        f"kind: {KIND}".encode() in lines and f"  name: {_scalar(identity.name)}".encode() in lines
    )


def _damaged(content: bytes) -> PublishedEntity:
    return PublishedEntity(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", damaged=True)


def _is_of_ours(entity: Mapping[str, Any]) -> bool:
    """Whether an entity is one that a mirror generates, under whatever name."""
    annotations = _mapping(_mapping(entity.get("metadata")).get("annotations"))
    is_registry = entity.get("kind") == KIND and _mapping(entity.get("spec")).get("type") == TYPE
    return is_registry and isinstance(annotations.get(CONTENT_DIGEST), str)


def _not_ours(found: str, identity: EntityIdentity, *, renamed: bool = False) -> TargetRefused:
    remediation = "Point `publish:` elsewhere, or move that file away."
    if renamed:
        remediation += (
            " If this mirror's entity was renamed, remove that file: Backstage drops the old "
            "entity, and the next run publishes the new one."
        )
    return TargetRefused(
        f"the target holds {found}, not {KIND} {identity.name}; it is not overwritten",
        remediation=remediation,
    )


def _are_lines(lines: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(lines, list) and all(
        isinstance(line, dict) and isinstance(line.get("name"), str) for line in lines
    )


def _optional_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _entity_problems(entity: Mapping[str, Any]) -> Iterator[str]:
    metadata, spec = _mapping(entity.get("metadata")), _mapping(entity.get("spec"))
    if unknown := sorted(entity.keys() - _ROOT_KEYS):
        yield f"unknown root keys {', '.join(unknown)}"
    yield from EntityIdentity(
        name=_optional_text(metadata.get("name")) or "",
        namespace=_optional_text(metadata.get("namespace", "default")) or "",
        title=_optional_text(metadata.get("title")) or "",
        owner=_optional_text(spec.get("owner")) or "",
        system=_optional_text(spec["system"]) or "" if "system" in spec else None,
    ).problems()
    yield from _metadata_problems(metadata)
    if not isinstance(spec.get("type"), str) or not spec["type"]:
        yield "spec.type is missing"
    for path, keys in _key_sets(entity, "the entity"):
        if len({key.casefold() for key in keys}) < len(keys):
            yield f"keys of {path} differ only by case"
        if path.startswith("the entity.spec") and any(key.startswith("$") for key in keys):
            yield f"a key of {path} starts with $"


def _metadata_problems(metadata: Mapping[str, Any]) -> Iterator[str]:
    annotations = _mapping(metadata.get("annotations"))
    for key, value in annotations.items():
        if not _ANNOTATION.fullmatch(key) or not isinstance(value, str):
            yield f"annotation {key!r} has an odd key or is not text"
        if key.startswith("backstage.io/managed-by-"):
            yield f"annotation {key!r} is Backstage's own"
    for tag in metadata.get("tags", []):
        if not (isinstance(tag, str) and len(tag) <= 63 and _TAG.fullmatch(tag)):
            yield f"tag {tag!r} is not lower case or too long"
    for link in metadata.get("links", []):
        if not (isinstance(link, dict) and link.get("url") and link.get("title")):
            yield "a link lacks its url or its title"


def _key_sets(value: object, path: str) -> Iterator[tuple[str, Collection[str]]]:
    """Give the keys of every mapping; of lines of text in a list each set of keys once."""
    if isinstance(value, dict):
        yield path, value.keys()
        for key, inner in value.items():
            yield from _key_sets(inner, f"{path}.{key}")
    elif isinstance(value, list):
        seen = set()
        for inner in value:
            if isinstance(inner, dict) and _ONLY_TEXT.issuperset(map(type, inner.values())):
                keys = tuple(inner)
                if keys in seen:
                    continue
                seen.add(keys)
            yield from _key_sets(inner, f"{path}[]")
