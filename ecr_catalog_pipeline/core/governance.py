"""The governance file: text in, catalog out.

Strict about the file, lenient about an entry: a file that is not what it should be is refused whole
with the place of the fault; an entry that lacks something is kept, with a finding.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

from ecr_catalog_pipeline.core.errors import GovernanceRefused
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.strict_yaml import (
    Document,
    Limits,
    Value,
    YamlFault,
    YamlTooLarge,
    parse_documents,
    quoted,
)

MAX_BYTES: Final = 20_000_000
MAX_ENTRIES: Final = 200_000
MAX_NODES: Final = 3_000_000
"""As many keys and values as fit into MAX_BYTES where entries say what they should."""
MAX_FINDINGS_OF_RULE: Final = 20_000
"""How many findings of one rule are kept; one more says how many there are besides."""
MAX_UNKNOWN_KEYS: Final = 5
"""How many unknown keys of one part of the file get findings of their own."""

KNOWN_VERSIONS: Final = frozenset({"1.0"})
RISKS: Final = ("low", "medium", "high")
ENCRYPTIONS: Final = ("AES256", "KMS")

# The pattern of the ECR API's own model, for RepositoryName.
REPOSITORY_NAME: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_WITHIN_ENTRY: Final = attrgetter("rule", "severity", "message", "remediation")
ENTRY_ID: Final = re.compile(r"REGISTRY_[A-Z0-9_]+")

ROOT_KEYS: Final = frozenset(
    {
        "version",
        "domain",
        "owner",
        "last_updated",
        "managed_by",
        "physical_registry",
        "repositories",
        "registries",
    }
)
ENTRY_KEYS: Final = {
    "": frozenset({"metadata", "aws", "governance"}),
    "metadata": frozenset(
        {
            "id",
            "owner",
            "risk",
            "environment",
            "status",
            "created_date",
            "requested_by",
            "domain",
        }
    ),
    "aws": frozenset({"repository_url"}),
    "governance": frozenset({"image_scanning", "encryption", "lifecycle_policy"}),
}


class Status(StrEnum):
    """What governance says a repository is meant to be."""

    PENDING = "pending"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    DECOMMISSIONED = "decommissioned"


@dataclass(frozen=True, slots=True)
class Entry:
    """One governed repository; None where governance says nothing usable."""

    name: str
    owner: str | None = None
    risk: str | None = None
    environment: str | None = None
    status: Status | None = None
    created_date: str | None = None
    repository_url: str | None = None
    image_scanning: bool | None = None
    encryption: str | None = None

    @property
    def name_is_possible(self) -> bool:
        """Whether ECR could ever hold a repository of this name."""
        return is_repository_name(self.name)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the governance file says: entries sorted by name, findings about the file."""

    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]


def is_repository_name(name: str) -> bool:
    """Whether ECR accepts this as the name of a repository."""
    return 2 <= len(name) <= 256 and REPOSITORY_NAME.fullmatch(name) is not None


def parse_governance(content: bytes, *, path: str = "ecr-catalog.yaml") -> Catalog:
    """Parse the governance file.

    Args:
        content: the file's bytes at one commit.
        path: names the file in errors.

    Raises:
        GovernanceRefused: the file as a whole cannot be used; nothing of it is.
    """
    document = _document(content, path)
    root = document.value
    repositories = _repositories(document, path)
    ids = Counter(filter(None, map(_identifier, repositories.values())))
    entries: list[Entry] = []
    findings = list(_root_findings(root))
    found: Counter[str] = Counter()
    withheld: dict[str, Finding] = {}
    for name in sorted(repositories):
        raw = repositories[name]
        entry = _entry(name, raw)
        entries.append(entry)
        for finding in sorted(_entry_findings(entry, raw, ids), key=_WITHIN_ENTRY):
            found[finding.rule] += 1
            if found[finding.rule] <= MAX_FINDINGS_OF_RULE:
                findings.append(finding)
            else:
                withheld[finding.rule] = finding
    for rule, last in withheld.items():
        more = found[rule] - MAX_FINDINGS_OF_RULE
        findings.append(replace(last, repository="", message=f"{more} more findings of this rule"))
    return Catalog(tuple(entries), tuple(sorted(findings)))


def _document(content: bytes, path: str) -> Document:
    def refused(
        problem: str, remediation: str, line: int = 1, column: int = 1
    ) -> GovernanceRefused:
        return GovernanceRefused(
            problem, remediation=remediation, path=path, line=line, column=column
        )

    if len(content) > MAX_BYTES:
        raise refused(
            f"the file has {len(content):,} bytes, more than {MAX_BYTES:,}",
            "Split the registry over several mirrors.",
        )
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "ignore")
        raise refused(
            f"the file is binary or not UTF-8 (byte {error.start})",
            "Save it as UTF-8 text.",
            before.count("\n") + 1,
            len(before) - before.rfind("\n"),
        ) from None
    try:
        documents = list(parse_documents(text, limits=Limits(MAX_ENTRIES, MAX_NODES)))
    except YamlTooLarge as fault:
        raise refused(
            fault.problem, "Split the registry over several mirrors.", fault.line, fault.column
        ) from None
    except YamlFault as fault:
        raise refused(
            fault.problem,
            "Fix it there, or `git revert` the commit that broke it.",
            fault.line,
            fault.column,
        ) from None
    if not documents:
        raise refused("the file is empty", "A registry without repositories is `repositories: {}`.")
    if len(documents) > 1:
        second = documents[1]
        raise refused(
            "the file holds several YAML documents",
            "Keep one document: remove the `---` and what does not belong.",
            second.line,
            second.column,
        )
    document = documents[0]
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "no mapping"
        raise refused(
            f"the root is {kind}",
            "The root is a mapping with the key `repositories:`.",
            document.line,
            document.column,
        )
    return document


def _repositories(document: Document, path: str) -> Mapping[str, Value]:
    root = document.value
    present = [key for key in ("repositories", "registries") if key in root]
    if not present:
        raise GovernanceRefused(
            "the key `repositories:` is missing",
            remediation="A registry without repositories is `repositories: {}`.",
            path=path,
            line=document.line,
            column=document.column,
        )
    line, column = document.key_places.get(present[-1], (document.line, document.column))
    if len(present) > 1:
        raise GovernanceRefused(
            "both `repositories:` and `registries:` stand in the file",
            remediation="Keep `repositories:` and move every entry there.",
            path=path,
            line=line,
            column=column,
        )
    repositories = root[present[0]]
    if not isinstance(repositories, dict):
        found = "null" if repositories is None else _kind(repositories)
        raise GovernanceRefused(
            f"`{present[0]}:` is {found}, not a mapping of names",
            remediation="A registry without repositories is `repositories: {}`.",
            path=path,
            line=line,
            column=column,
        )
    return repositories


def _entry(name: str, raw: Value) -> Entry:
    metadata = _section(raw, "metadata")
    governance = _section(raw, "governance")
    status = _text(metadata.get("status"))
    risk = _text(metadata.get("risk"))
    return Entry(
        name=name,
        owner=_text(metadata.get("owner")),
        risk=risk if risk in RISKS else None,
        environment=_text(metadata.get("environment")),
        status=Status(status) if status in set(Status) else None,
        created_date=_text(metadata.get("created_date")),
        repository_url=_text(_section(raw, "aws").get("repository_url")),
        image_scanning=_boolean(governance.get("image_scanning")),
        encryption=_text(governance.get("encryption")),
    )


def _root_findings(root: Mapping[str, Value]) -> Iterator[Finding]:
    if "registries" in root:
        yield Finding(
            "",
            "registries-key",
            Severity.INFO,
            "the file still says `registries:`",
            "Rename the key to `repositories:`.",
        )
    version = _text(root.get("version"))
    if version not in KNOWN_VERSIONS:
        yield Finding(
            "",
            "version-unknown",
            Severity.WARNING,
            f"the file's version is {_shown(root.get('version'))}",
            'Write `version: "1.0"`.',
        )
    yield from _unknown_keys("", "", root.keys() - ROOT_KEYS)


def _identifier(raw: Value) -> str | None:
    return _text(_section(raw, "metadata").get("id"))


def _entry_findings(entry: Entry, raw: Value, ids: Mapping[str, int]) -> Iterator[Finding]:
    def finding(rule: str, severity: Severity, message: str, remediation: str) -> Finding:
        return Finding(entry.name, rule, severity, message, remediation)

    if not entry.name_is_possible:
        yield finding(
            "name-invalid",
            Severity.ERROR,
            "ECR accepts no repository of this name, so it can never exist",
            "Use 2-256 lower-case letters and digits, joined by one of . _ - /, and no more.",
        )
    for section in ("metadata", "aws", "governance"):
        value = raw.get(section) if isinstance(raw, dict) else None
        if value is not None and not isinstance(value, dict):
            yield finding(
                "entry-malformed",
                Severity.ERROR,
                f"`{section}` is {_kind(value)}, not a mapping",
                f"Write the keys of `{section}` below it, indented.",
            )
    if not isinstance(raw, dict):
        yield finding(
            "entry-malformed",
            Severity.ERROR,
            f"the entry is {_kind(raw)}, not a mapping",
            "Give it a `metadata:` mapping with id, owner, risk and status.",
        )
    metadata = _section(raw, "metadata")
    identifier = _identifier(raw)
    if identifier and ids[identifier] > 1:
        yield finding(
            "id-duplicate",
            Severity.WARNING,
            f"metadata.id {_shown(identifier)} is used by {ids[identifier]} repositories",
            "Give every repository an id of its own.",
        )
    yield from _metadata_findings(entry, metadata)
    yield from _governance_findings(entry, _section(raw, "governance"))
    for section, known in ENTRY_KEYS.items():
        keys = raw if section == "" and isinstance(raw, dict) else _section(raw, section)
        yield from _unknown_keys(entry.name, section, keys.keys() - known)


def _unknown_keys(repository: str, section: str, unknown: Collection[str]) -> Iterator[Finding]:
    """Find keys that mean nothing: the first ones by name, the others as a number."""
    prefix = f"{section}." if section else ""
    first = heapq.nsmallest(MAX_UNKNOWN_KEYS, unknown)
    said = [f"the key {_shown(f'{prefix}{key}')} means nothing here" for key in first]
    if more := len(unknown) - len(first):
        said.append(f"{more} more keys{f' of {section}' if section else ''} mean nothing here")
    for message in said:
        yield Finding(
            repository,
            "key-unknown",
            Severity.INFO,
            message,
            "Remove it, or correct its spelling.",
        )


def _metadata_findings(entry: Entry, metadata: Mapping[str, Value]) -> Iterator[Finding]:
    def finding(rule: str, severity: Severity, message: str, remediation: str) -> Finding:
        return Finding(entry.name, rule, severity, message, remediation)

    identifier = metadata.get("id")
    if identifier is None:
        yield finding(
            "id-missing",
            Severity.WARNING,
            "metadata.id is missing",
            "Add an id such as REGISTRY_PAYMENTS_GATEWAY.",
        )
    elif not (isinstance(identifier, str) and ENTRY_ID.fullmatch(identifier)):
        yield finding(
            "id-invalid",
            Severity.WARNING,
            f"metadata.id {_shown(identifier)} does not match ^REGISTRY_[A-Z0-9_]+$",
            "Use REGISTRY_ and capital letters, digits and underscores.",
        )
    if entry.owner is None:
        yield finding(
            "owner-missing",
            Severity.ERROR,
            "metadata.owner is missing",
            "Name the team that answers for this repository.",
        )
    if entry.risk is None:
        missing = metadata.get("risk") is None
        yield finding(
            "risk-missing" if missing else "risk-unknown",
            Severity.WARNING,
            "metadata.risk is missing"
            if missing
            else f"metadata.risk {_shown(metadata.get('risk'))} is unknown",
            f"Use one of {', '.join(RISKS)}.",
        )
    if entry.status is None:
        missing = metadata.get("status") is None
        yield finding(
            "status-missing" if missing else "status-unknown",
            Severity.WARNING,
            "metadata.status is missing"
            if missing
            else f"metadata.status {_shown(metadata.get('status'))} is unknown",
            f"Use one of {', '.join(Status)}.",
        )
    for key in ("owner", "environment", "created_date", "requested_by", "domain"):
        value = metadata.get(key)
        if value is not None and not isinstance(value, str):
            yield finding(
                "value-malformed",
                Severity.WARNING,
                f"metadata.{key} is {_kind(value)}, not text",
                "Write one line of text.",
            )


def _governance_findings(entry: Entry, governance: Mapping[str, Value]) -> Iterator[Finding]:
    scanning = governance.get("image_scanning")
    if scanning is not None and entry.image_scanning is None:
        yield Finding(
            entry.name,
            "image-scanning-unknown",
            Severity.WARNING,
            f"governance.image_scanning {_shown(scanning)} is neither true nor false",
            "Write true or false.",
        )
    encryption = governance.get("encryption")
    if encryption is not None and entry.encryption not in ENCRYPTIONS:
        yield Finding(
            entry.name,
            "encryption-unknown",
            Severity.WARNING,
            f"governance.encryption {_shown(encryption)} is unknown",
            f"Use one of {', '.join(ENCRYPTIONS)}.",
        )
    lifecycle = governance.get("lifecycle_policy")
    if lifecycle is None:
        return
    keep = lifecycle.get("keep_image_count") if isinstance(lifecycle, dict) else None
    if not (isinstance(keep, str) and keep.isascii() and keep.isdigit() and int(keep[:9]) > 0):
        yield Finding(
            entry.name,
            "lifecycle-policy-malformed",
            Severity.WARNING,
            "governance.lifecycle_policy has no keep_image_count of 1 or more",
            "Write `lifecycle_policy: {keep_image_count: 50}`.",
        )


def _section(raw: Value, key: str) -> Mapping[str, Value]:
    section = raw.get(key) if isinstance(raw, dict) else None
    return section if isinstance(section, dict) else {}


def _text(value: Value) -> str | None:
    """Give text that says something, or None."""
    if not isinstance(value, str):
        return None
    return value.strip() or None


def _boolean(value: Value) -> bool | None:
    if not isinstance(value, str):
        return None
    return {"true": True, "false": False}.get(value.lower())


def _kind(value: Value) -> str:
    if value is None:
        return "null"
    names: dict[type[Any], str] = {dict: "a mapping", list: "a list", str: "text"}
    return names[type(value)]


def _shown(value: Value) -> str:
    """Say a user's value in a message."""
    if not isinstance(value, str):
        return _kind(value)
    return quoted(value)
