"""The ECR inventory: answers of the API in, a complete set of repositories out.

A missing or malformed part is an error, never an absence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, TypeGuard

from ecr_catalog_pipeline.core.errors import InventoryFailed

WAIT: Final = "Wait for the next run. If that fails, too, check the network and AWS's status."


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository as ECR describes it; None where it does not say.

    Attributes:
        created_at: in UTC.
        mutable_tags: the filters of tags that are not immutable though the others are.
    """

    name: str
    uri: str
    created_at: datetime | None = None
    scan_on_push: bool | None = None
    encryption: str | None = None
    tag_mutability: str | None = None
    mutable_tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """Everything that one ECR registry holds, read completely.

    Attributes:
        repositories: sorted by name, each name once.
    """

    account_id: str
    region: str
    repositories: tuple[Repository, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every repository's name, URI and time of creation."""
        lines = []
        for repository in self.repositories:
            created = repository.created_at.isoformat() if repository.created_at else ""
            lines.append(f"{repository.name}\n{repository.uri}\n{created}\n")
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def parse_page(answer: Mapping[str, Any]) -> list[Repository]:
    """Read one answer of DescribeRepositories, as JSON or as botocore reads it.

    Raises:
        InventoryFailed: the answer lacks its list, or a repository lacks its name or URI.
    """
    # botocore turns a JSON body that was cut off into an answer without its members.
    page = answer.get("repositories")
    if not isinstance(page, list):
        raise InventoryFailed(
            "ecr:DescribeRepositories answered without its list of repositories", remediation=WAIT
        )
    return [_repository(item) for item in page]


def merge_pages(pages: Iterable[list[Repository]]) -> tuple[Repository, ...]:
    """Sort the repositories of all pages by name, the same one once."""
    by_name = {repository.name: repository for page in pages for repository in page}
    return tuple(by_name[name] for name in sorted(by_name))


def check_account(answering: str, expected: str | None, last_published: str = "") -> None:
    """Refuse an answer from another account than the mirror's.

    Args:
        answering: the account of GetCallerIdentity.
        expected: the mirror's `account_id`.
        last_published: the account of the last publication, which counts where the mirror names
            none; empty when unknown.

    Raises:
        InventoryFailed: the wrong account's emptiness proves nothing.
    """
    if expected and answering != expected:
        raise InventoryFailed(
            f"sts:GetCallerIdentity answered for account {answering}, not for {expected}",
            remediation="Use credentials of the mirror's account, or correct registry.account_id.",
        )
    if not expected and last_published and answering != last_published:
        raise InventoryFailed(
            f"sts:GetCallerIdentity answered for account {answering}, not for {last_published}, "
            "whose repositories the last publication lists",
            remediation="Use credentials of that account. If the mirror has moved, write the new "
            "one as registry.account_id.",
        )


def is_account_id(text: str) -> bool:
    """Whether a text is the number of an AWS account."""
    return len(text) == 12 and text.isascii() and text.isdigit()


def accounts_of(uris: Iterable[str]) -> set[str]:
    """The AWS accounts that URIs of ECR repositories name."""
    hosts = (uri.split(".", 1)[0] for uri in uris)
    return {host for host in hosts if is_account_id(host)}


def _repository(item: Any) -> Repository:
    name = item.get("repositoryName") if isinstance(item, dict) else None
    uri = item.get("repositoryUri") if isinstance(item, dict) else None
    if not (_is_text(name) and _is_text(uri)):
        raise InventoryFailed(
            "ecr:DescribeRepositories answered with a repository that has no name or no URI",
            remediation=WAIT,
        )
    scanning = _part(item, "imageScanningConfiguration").get("scanOnPush")
    encryption = _part(item, "encryptionConfiguration").get("encryptionType")
    mutability = item.get("imageTagMutability")
    return Repository(
        name=name,
        uri=uri,
        created_at=_in_utc(item.get("createdAt")),
        scan_on_push=scanning if isinstance(scanning, bool) else None,
        encryption=encryption if _is_text(encryption) else None,
        tag_mutability=mutability if _is_text(mutability) else None,
        mutable_tags=_filters(item.get("imageTagMutabilityExclusionFilters")),
    )


def _filters(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else []
    texts = (each.get("filter") for each in items if isinstance(each, dict))
    return tuple(sorted(text for text in texts if _is_text(text)))


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is one line of text that can be written down and shown."""
    return isinstance(value, str) and bool(value) and value.isprintable()


def _in_utc(moment: object) -> datetime | None:
    """Give a time that is a date, a date's text or, as in AWS's JSON, seconds since 1970."""
    if moment is None:
        return None
    try:
        if isinstance(moment, float | int):
            return datetime.fromtimestamp(moment, UTC)
        at = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)  # type: ignore[arg-type] # what is no text raises, too
        return at.astimezone(UTC)
    except (OverflowError, OSError, TypeError, ValueError):
        raise InventoryFailed(
            "ecr:DescribeRepositories answered with a time that no calendar has", remediation=WAIT
        ) from None


def _part(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = item.get(key)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise InventoryFailed(
            f"ecr:DescribeRepositories answered with a repository of malformed {key}",
            remediation=WAIT,
        )
    return part
