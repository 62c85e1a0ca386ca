"""What governance asks of a repository's settings, and whether ECR holds it so.

Only what is written is asked: by risk in the mirror file, or by the entry itself, which overrides
its risk. What could not be read is unknown, which is no violation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ecr_catalog_pipeline.core.ecr_settings import EcrSettings, Scanning
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.governance import ENCRYPTIONS, Entry
from ecr_catalog_pipeline.core.inventory import Repository
from ecr_catalog_pipeline.core.retention import Retention

HIGH: Final = "high"
AES256, KMS = ENCRYPTIONS
_ENCRYPTED_BY: Final[Mapping[str, frozenset[str]]] = {
    AES256: frozenset({"AES256", "KMS", "KMS_DSSE"}),
    KMS: frozenset({"KMS", "KMS_DSSE"}),
}
_IMMUTABLE: Final = frozenset({"IMMUTABLE", "IMMUTABLE_WITH_EXCLUSION"})
_MUTABLE: Final = frozenset({"MUTABLE", "MUTABLE_WITH_EXCLUSION"})


class Aspect(StrEnum):
    """What can be governed, by its key in the mirror file."""

    SCANNING = "scanning"
    TAGS = "immutable_tags"
    RETENTION = "keep_images"
    ENCRYPTION = "encryption"


class Verdict(StrEnum):
    """Whether a repository is as governed."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of a repository; None and False ask nothing."""

    scanning: Scanning | None = None
    encryption: str | None = None
    immutable_tags: bool = False
    keep_images: int | None = None


Policies = Mapping[str, Policy]
"""What is asked by risk."""

NOTHING: Final = Policy()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be said of one aspect of one repository."""

    aspect: Aspect
    verdict: Verdict
    finding: Finding | None = None


def policy_for(entry: Entry, policies: Policies) -> Policy:
    """Say what is asked of an entry: what it says itself, else what its risk does."""
    policy = policies.get(entry.risk or "", NOTHING)
    own: dict[str, object] = {}
    if entry.image_scanning is not None:
        own["scanning"] = Scanning.ON_PUSH if entry.image_scanning else None
    if entry.encryption in ENCRYPTIONS:
        own["encryption"] = entry.encryption
    if entry.keep_images is not None:
        own["keep_images"] = entry.keep_images
    return replace(policy, **own) if own else policy  # type: ignore[arg-type]


def judge_repository(
    entry: Entry,
    found: Repository,
    policy: Policy,
    settings: EcrSettings,
    retention: Retention | None,
) -> Iterator[Judgement]:
    """Judge a live repository, aspect by aspect.

    Args:
        retention: the last answer about its lifecycle policy; None when it was never read.
    """
    severity = Severity.ERROR if entry.risk == HIGH else Severity.WARNING
    if policy.scanning is not None:
        yield _scanning(found, policy.scanning, settings, severity)
    if policy.immutable_tags:
        yield _tags(found, severity)
    if policy.keep_images is not None:
        yield _retention(found, policy.keep_images, retention)
    if policy.encryption is not None:
        yield _encryption(found, policy.encryption, severity)


def _scanning(
    found: Repository, wanted: Scanning, settings: EcrSettings, severity: Severity
) -> Judgement:
    scanning = settings.scanning
    if scanning is None:
        return Judgement(Aspect.SCANNING, Verdict.UNKNOWN)
    effective = scanning.effective(found.name, scan_on_push=found.scan_on_push)
    if effective is None:
        return Judgement(Aspect.SCANNING, Verdict.UNKNOWN)
    if effective.satisfies(wanted):
        return Judgement(Aspect.SCANNING, Verdict.KEPT)
    own = "" if scanning.enhanced else "turn on its own scanOnPush, "
    return _broken(
        Aspect.SCANNING,
        Finding(
            found.name,
            "image-scanning-off",
            severity,
            f"governance wants scanning {wanted}, and effectively it is {effective}",
            f"Let a scanning rule of the registry match it, {own}or change governance.",
            control="ECR.1",
        ),
    )


def _tags(found: Repository, severity: Severity) -> Judgement:
    mutability = found.tag_mutability
    if mutability in _MUTABLE:
        return _broken(
            Aspect.TAGS,
            Finding(
                found.name,
                "tags-mutable",
                severity,
                f"governance wants immutable tags, ECR says {mutability}",
                "Set imageTagMutability of the repository to IMMUTABLE, or change the policy.",
                control="ECR.2",
            ),
        )
    if mutability not in _IMMUTABLE:
        return Judgement(Aspect.TAGS, Verdict.UNKNOWN)
    if mutability == "IMMUTABLE":
        return Judgement(Aspect.TAGS, Verdict.KEPT)
    filters = ", ".join(found.mutable_tags) or "filters that are not known"
    return Judgement(
        Aspect.TAGS,
        Verdict.KEPT,
        Finding(
            found.name,
            "tags-immutable-with-exclusions",
            Severity.INFO,
            f"tags are immutable but for {filters}",
            "Nothing has to be done. Remove the filters if those tags should not move.",
            control="ECR.2",
        ),
    )


def _retention(found: Repository, wanted: int, retention: Retention | None) -> Judgement:
    if retention is None or retention.problem:
        return Judgement(Aspect.RETENTION, Verdict.UNKNOWN)
    if retention.keeps == wanted:
        return Judgement(Aspect.RETENTION, Verdict.KEPT)
    rule = f"a lifecycle rule that expires any image beyond {wanted}"
    selection = f"(tagStatus any, imageCountMoreThan {wanted})"
    if retention.keeps is None:
        name, said = "retention-missing", f"governance wants {rule}, there is none"
    else:
        name = "retention-differs"
        said = (
            f"governance wants {wanted} images kept, the lifecycle policy keeps {retention.keeps}"
        )
    return _broken(
        Aspect.RETENTION,
        Finding(
            found.name,
            name,
            Severity.WARNING,
            said,
            f"Give the repository {rule} {selection}, or change governance.",
            control="ECR.3",
        ),
    )


def _encryption(found: Repository, wanted: str, severity: Severity) -> Judgement:
    if found.encryption is None:
        return Judgement(Aspect.ENCRYPTION, Verdict.UNKNOWN)
    if found.encryption in _ENCRYPTED_BY[wanted]:
        return Judgement(Aspect.ENCRYPTION, Verdict.KEPT)
    return _broken(
        Aspect.ENCRYPTION,
        Finding(
            found.name,
            "encryption-differs",
            severity,
            f"governance wants {wanted}, ECR uses {found.encryption}",
            "Encryption is fixed at creation: create the repository again, or change governance.",
            control="ECR.5",
        ),
    )


def _broken(aspect: Aspect, finding: Finding) -> Judgement:
    return Judgement(aspect, Verdict.BROKEN, finding)
