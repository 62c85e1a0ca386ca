"""The governance file: text in, catalog out.

Strict about the file, lenient about an entry: a file that is not what it should be is refused whole
with the place of the fault; an entry that lacks something is kept, with a finding.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum, StrEnum, auto
from operator import attrgetter
from typing import Any, Final

from ecr_catalog_pipeline.core.errors import GovernanceRefused
from ecr_catalog_pipeline.core.exceptions import (
    EXCEPTION_MALFORMED,
    NEVER_EXCEPTED,
    ORPHAN,
    GovernanceException,
)
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.origins import OrphanOrigin
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
MAX_EXCEPTIONS: Final = 1_000
"""How many exceptions are read; one finding says that there are more."""
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
DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Status(StrEnum):
    """What governance says a repository is meant to be."""

    PENDING = "pending"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    DECOMMISSIONED = "decommissioned"


class Form(Enum):
    """What a value has to be."""

    ANYTHING = auto()
    VERSION = auto()
    TEXT = auto()
    CHOICE = auto()
    ID = auto()
    TRUTH = auto()
    LIFECYCLE = auto()
    DAY = auto()
    EXCEPTIONS = auto()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the file.

    Attributes:
        remediation: of a value that is not of its form.
        choices: what a CHOICE takes.
        required: the severity of the finding that it is missing; None where it may be.
        to_add: the remediation where it is missing, if that is another one.
    """

    description: str
    form: Form = Form.ANYTHING
    remediation: str = "Write one line of text."
    choices: tuple[str, ...] = ()
    required: Severity | None = None
    to_add: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping in an entry."""

    description: str
    keys: Mapping[str, Key]

    @property
    def required(self) -> list[str]:
        """The keys that must be there."""
        return [name for name, key in self.keys.items() if key.required]


def _one_of(description: str, choices: Iterable[str], required: Severity | None = None) -> Key:
    texts = tuple(choices)
    return Key(description, Form.CHOICE, f"Use one of {', '.join(texts)}.", texts, required)


# The parser's findings and the JSON Schemas both come from these two tables.
ROOT_KEYS: Final[Mapping[str, Key]] = {
    "version": Key("The version of the file's form.", Form.VERSION),
    "domain": Key("The domain that the registry belongs to."),
    "owner": Key("Who answers for this file."),
    "last_updated": Key("The day of the last change."),
    "managed_by": Key("Who manages the registry."),
    "physical_registry": Key("The name of the registry in AWS."),
    "repositories": Key("Every container repository that is meant to be, by its name in ECR."),
    "registries": Key("The older name of `repositories`: rename it."),
    "exceptions": Key("What is accepted, for a reason and until a day; optional.", Form.EXCEPTIONS),
}
SECTIONS: Final[Mapping[str, Section]] = {
    "metadata": Section(
        "Whose it is, and what it is meant to be.",
        {
            "id": Key(
                "The repository's own id, such as REGISTRY_PAYMENTS_GATEWAY; no other one has it.",
                Form.ID,
                "Use REGISTRY_ and capital letters, digits and underscores.",
                required=Severity.WARNING,
                to_add="Add an id such as REGISTRY_PAYMENTS_GATEWAY.",
            ),
            "owner": Key(
                "The team that answers for the repository.",
                Form.TEXT,
                required=Severity.ERROR,
                to_add="Name the team that answers for this repository.",
            ),
            "risk": _one_of("How much harm its misuse would do.", RISKS, Severity.WARNING),
            "environment": Key("The environment that the repository serves; optional.", Form.TEXT),
            "status": _one_of(
                "What the repository is meant to be. `pending` asks for it, `decommissioned` "
                "says that it is to go.",
                Status,
                Severity.WARNING,
            ),
            "created_date": Key("The day it was asked for.", Form.TEXT),
            "requested_by": Key("Who asked for it; optional.", Form.TEXT),
            "domain": Key("The domain it belongs to; optional.", Form.TEXT),
        },
    ),
    "aws": Section(
        "What AWS knows of it; optional.",
        {"repository_url": Key("Its URI in ECR; optional, and never published.")},
    ),
    "governance": Section(
        "What is asked of it; optional.",
        {
            "image_scanning": Key(
                "Whether its images are scanned on push.", Form.TRUTH, "Write true or false."
            ),
            "encryption": _one_of("How it is encrypted.", ENCRYPTIONS),
            "lifecycle_policy": Key(
                "How many images it keeps: {keep_image_count: 50}.",
                Form.LIFECYCLE,
                "Write `lifecycle_policy: {keep_image_count: 50}`.",
            ),
        },
    ),
}
EXCEPTION: Final = Section(
    "One exception: what it accepts, and why.",
    {
        "match": Key(
            "A glob over the names of repositories, such as `cdk-*`.",
            Form.TEXT,
            "Write a glob over names, such as `cdk-*`.",
            required=Severity.WARNING,
        ),
        "rule": Key(
            "The rule of a finding, or `orphan`, `ghost` or `lingering`.",
            Form.TEXT,
            "Name the rule of a finding, or `orphan`, `ghost` or `lingering`.",
            required=Severity.WARNING,
        ),
        "origin": _one_of("Accept only orphans of this origin; optional.", OrphanOrigin),
        "reason": Key(
            "Why it is accepted.",
            Form.TEXT,
            "Say why it is accepted.",
            required=Severity.WARNING,
        ),
        "expires": Key(
            "The last day on which it holds, in UTC; optional.",
            Form.DAY,
            'Write a day such as "2027-06-30".',
        ),
    },
)


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
    keep_images: int | None = None

    @property
    def name_is_possible(self) -> bool:
        """Whether ECR could ever hold a repository of this name."""
        return is_repository_name(self.name)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the governance file says.

    Attributes:
        entries: sorted by name.
        findings: about the file, sorted; its exceptions are not applied.
        exceptions: in the file's order.
    """

    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    exceptions: tuple[GovernanceException, ...] = ()


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
    exceptions, odd_exceptions = _exceptions(root.get("exceptions"))
    findings = [*_root_findings(root), *odd_exceptions]
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
    return Catalog(tuple(entries), tuple(sorted(findings)), exceptions)


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
            "both `repositories:` and `registries:` are in the file",
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
        keep_images=_images_kept(governance.get("lifecycle_policy")),
    )


def _exceptions(raw: Value) -> tuple[tuple[GovernanceException, ...], list[Finding]]:
    """Read the file's exceptions; one that is not well formed accepts nothing, with a finding."""
    if raw is None:
        return (), []
    if not isinstance(raw, list):
        problem = f"`exceptions` is {_kind(raw)}, not a list"
        return (), [_malformed(problem, "Write a list of exceptions, each with a leading dash.")]
    exceptions, findings = [], []
    for number, item in enumerate(raw[:MAX_EXCEPTIONS], 1):
        odd = list(_exception_findings(f"exception {number}", item))
        findings += odd
        if all(each.rule != EXCEPTION_MALFORMED for each in odd):
            exceptions.append(_exception(item))
    if (more := len(raw) - MAX_EXCEPTIONS) > 0:
        problem = f"{more} exceptions beyond the first {MAX_EXCEPTIONS} are not read"
        findings.append(_malformed(problem, "Join them: one glob can match many names."))
    return tuple(exceptions), findings


def _exception(item: Mapping[str, Value]) -> GovernanceException:
    origin = _text(item.get("origin"))
    return GovernanceException(
        match=_text(item.get("match")) or "",
        rule=_text(item.get("rule")) or "",
        reason=_text(item.get("reason")) or "",
        origin=OrphanOrigin(origin) if origin else None,
        expires=_day(item.get("expires")),
    )


def _exception_findings(which: str, item: Value) -> Iterator[Finding]:
    if not isinstance(item, dict):
        yield _malformed(
            f"{which} is {_kind(item)}, not a mapping", "Give it match, rule and reason."
        )
        return
    for name, key in EXCEPTION.keys.items():
        for each in _key_findings("", "", name, key, item.get(name)):
            yield _malformed(f"{which}: {each.message}", key.remediation)
    rule, origin = _text(item.get("rule")), item.get("origin")
    if rule in NEVER_EXCEPTED:
        yield _malformed(f"{which}: {rule} is a rule about exceptions", "Accept something else.")
    if origin is not None and rule != ORPHAN:
        yield _malformed(
            f"{which}: origin narrows orphans, and the rule is {_shown(rule)}",
            "Leave origin out, or write `rule: orphan`.",
        )
    yield from _unknown_keys("", which, item.keys() - EXCEPTION.keys.keys())


def _malformed(problem: str, remediation: str) -> Finding:
    return Finding("", EXCEPTION_MALFORMED, Severity.WARNING, problem, remediation)


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
    yield from _unknown_keys("", "", root.keys() - ROOT_KEYS.keys())


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
    for section in SECTIONS:
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
    identifier = _identifier(raw)
    if identifier and ids[identifier] > 1:
        yield finding(
            "id-duplicate",
            Severity.WARNING,
            f"metadata.id {_shown(identifier)} is used by {ids[identifier]} repositories",
            "Give every repository an id of its own.",
        )
    for section, allowed in SECTIONS.items():
        given = _section(raw, section)
        for name, key in allowed.keys.items():
            yield from _key_findings(entry.name, section, name, key, given.get(name))
        yield from _unknown_keys(entry.name, section, given.keys() - allowed.keys.keys())
    if isinstance(raw, dict):
        yield from _unknown_keys(entry.name, "", raw.keys() - SECTIONS.keys())


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


def _key_findings(
    repository: str, section: str, name: str, key: Key, value: Value
) -> Iterator[Finding]:
    """Find that a key is missing, or that its value is not of its form."""
    path, rule = f"{section}.{name}" if section else name, name.replace("_", "-")
    if key.required and (value is None or (key.form is Form.TEXT and _text(value) is None)):
        remediation = key.to_add or key.remediation
        yield Finding(
            repository, f"{rule}-missing", key.required, f"{path} is missing", remediation
        )
    if value is None or (fault := _fault(key, value)) is None:
        return
    ending, words = fault
    if key.form is not Form.TEXT:
        ending = f"{rule}-{ending}"
    yield Finding(repository, ending, Severity.WARNING, f"{path} {words}", key.remediation)


def _fault(key: Key, value: Value) -> tuple[str, str] | None:
    """Say what is wrong with a value: how the name of the rule ends, and in words."""
    match key.form:
        case Form.TEXT if not isinstance(value, str):
            return "value-malformed", f"is {_kind(value)}, not text"
        case Form.CHOICE if _text(value) not in key.choices:
            return "unknown", f"{_shown(value)} is unknown"
        case Form.ID if not (isinstance(value, str) and ENTRY_ID.fullmatch(value)):
            return "invalid", f"{_shown(value)} does not match ^{ENTRY_ID.pattern}$"
        case Form.TRUTH if _boolean(value) is None:
            return "unknown", f"{_shown(value)} is neither true nor false"
        case Form.LIFECYCLE | Form.DAY if words := _malformed_value(key, value):
            return "malformed", words
        case _:
            return None


def _malformed_value(key: Key, value: Value) -> str:
    if key.form is Form.DAY:
        return "" if _day(value) else f"{_shown(value)} is not a day"
    return "" if _images_kept(value) else "has no keep_image_count of 1 or more"


def _images_kept(lifecycle: Value) -> int | None:
    keep = lifecycle.get("keep_image_count") if isinstance(lifecycle, dict) else None
    if not (isinstance(keep, str) and keep.isascii() and keep.isdigit()):
        return None
    return int(keep.lstrip("0")[:18] or 0) or None


def _day(value: Value) -> date | None:
    """Read a day that is written as YYYY-MM-DD."""
    try:
        return date.fromisoformat(value) if DAY.fullmatch(value) else None
    except (TypeError, ValueError):
        return None


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
