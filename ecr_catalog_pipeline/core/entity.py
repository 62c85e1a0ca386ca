"""The one Backstage entity of a mirror: its content, its bytes, its digest, its rules.

Same content, same bytes, but for the two lines that say when and from which commit. No key of the
entity ever comes from a user's data, and no user text leaves the field it was put in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
        damaged: recognisably ours, but its list of repositories cannot be read.
    """

    digest: str
    repositories: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pending: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    last_sync: str | None = None
    source_sha: str | None = None
    damaged: bool = False


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


def render_entity(entity: Mapping[str, Any], *, source_sha: str, last_sync: datetime) -> bytes:
    """Write the entity as YAML, one line a repository.

    Args:
        entity: the content, of `build_entity`.
        source_sha: the governance commit that the content comes from.
        last_sync: when the content changed.
    """
    metadata, spec = entity["metadata"], entity["spec"]
    stamp = last_sync.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
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
        f"    {CONTENT_DIGEST}: {content_digest(entity)}",
        f"    {LAST_SYNC}: '{stamp}'",
        "  links:",
        *(f"    - {_flow(link)}" for link in metadata["links"]),
        "spec:",
        *(f"  {key}: {_scalar(spec[key])}" for key in ("type", "owner", "system") if key in spec),
    ]
    for key in ("repositories", "pending"):
        lines.append(f"  {key}:" if spec[key] else f"  {key}: []")
        lines.extend(f"    - {_flow(line)}" for line in spec[key])
    return ("\n".join(lines) + "\n").encode()


def same_content(published: bytes, rendered: bytes) -> bool:
    """Whether two files differ at the most in `last-sync` and `source-sha`."""
    old, new = published.split(b"\n"), rendered.split(b"\n")
    return len(old) == len(new) and all(
        one == other or _both_move(one, other) for one, other in zip(old, new, strict=True)
    )


def last_sync_of(content: bytes) -> str | None:
    """When the content of an entity that we rendered changed, as the entity says."""
    found = _LAST_SYNC_LINE.search(content)
    return found[1].decode() if found else None


def read_published(content: bytes, identity: EntityIdentity) -> PublishedEntity:
    """Read the entity that is published now.

    Raises:
        TargetRefused: the file is not this mirror's entity, so it is not ours to overwrite.
    """
    try:
        documents = list(
            parse_documents(content.decode("utf-8"), scalar=as_backstage_reads, tags_allowed=True)
        )
    except (UnicodeDecodeError, YamlFault):
        documents = []
    entity = documents[0].value if len(documents) == 1 else None
    if not isinstance(entity, dict):
        if _looks_like(content, identity):
            return _damaged(content)
        raise _not_ours("no readable YAML entity", identity)
    metadata = _mapping(entity.get("metadata"))
    kind, name = entity.get("kind"), metadata.get("name")
    if kind != KIND or name != identity.name:
        found = f"{readable(str(kind))} {readable(str(name))}"
        raise _not_ours(found, identity, renamed=_is_of_ours(entity))
    return _published(entity) or _damaged(content)


def _published(entity: Mapping[str, Any]) -> PublishedEntity | None:
    """Read a parsed entity; None when its lists cannot be read."""
    spec = _mapping(entity.get("spec"))
    live, pending = spec.get("repositories"), spec.get("pending")
    if not (_are_lines(live) and _are_lines(pending)):
        return None
    annotations = _mapping(_mapping(entity.get("metadata")).get("annotations"))
    return PublishedEntity(
        digest=content_digest(entity),
        repositories={line["name"]: line for line in live},
        pending={line["name"]: line for line in pending},
        last_sync=_optional_text(annotations.get(LAST_SYNC)),
        source_sha=_optional_text(annotations.get(SOURCE_SHA)),
    )


def read_served(served: Mapping[str, Any] | None) -> PublishedEntity | None:
    """Read an entity as Backstage serves it under our name; None when it is not one of ours."""
    if served is None:
        return None
    if not _is_of_ours(served):
        return None
    return _published(served) or PublishedEntity(digest=content_digest(served), damaged=True)


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
    cleaned = (
        (key, clean_text(value, MAX_URI if key == "uri" else MAX_TEXT))
        for key, value in fields.items()
        if value is not None
    )
    return {key: value for key, value in cleaned if value}


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
    return escape_markdown(clean_text(each.environment or "")) or "unassigned"


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


def _flow(line: Mapping[str, str]) -> str:
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
    if isinstance(value, dict):
        yield path, value.keys()
        for key, inner in value.items():
            yield from _key_sets(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _key_sets(inner, f"{path}[]")
