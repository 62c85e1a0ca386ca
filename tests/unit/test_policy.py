"""Every setting of a repository, held against what its risk or its entry asks."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.conformance import (
    MAX_ROWS,
    Learnt,
    check_conformance,
    needs_of,
)
from ecr_catalog_pipeline.core.ecr_settings import (
    EcrSettings,
    RegistryScanning,
    Scanning,
    ScanRule,
    Setting,
)
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.governance import Entry, parse_governance
from ecr_catalog_pipeline.core.inventory import Inventory, Repository
from ecr_catalog_pipeline.core.policy import Policy, policy_for
from ecr_catalog_pipeline.core.reconcile import Conformance, ReconciledRegistry, reconcile
from ecr_catalog_pipeline.core.retention import Retention
from tests.unit.builders import (
    ACCOUNT,
    DATA,
    NOW,
    REGION,
    catalog,
    entry,
    inventory,
    repository,
)

ALL: Final = Policy(Scanning.ON_PUSH, "KMS", immutable_tags=True, keep_images=50)
POLICIES: Final = dict.fromkeys(("low", "medium", "high"), ALL)
BASIC: Final = EcrSettings(scanning=RegistryScanning(enhanced=False))
CONFORMING: Final = repository(
    "ab", scan_on_push=True, encryption="KMS", tag_mutability="IMMUTABLE"
)
TODAY: Final = date(2026, 1, 9)


def judged(
    governed: Entry,
    found: Repository,
    *,
    policies: dict[str, Policy] = POLICIES,
    settings: EcrSettings = BASIC,
    keeps: int | None = 50,
    retention: Retention | None = None,
) -> ReconciledRegistry:
    present = Inventory(ACCOUNT, REGION, (found,))
    entries = catalog([governed])
    return check_conformance(
        reconcile(entries, present),
        catalog=entries,
        inventory=present,
        policies=policies,
        learnt=Learnt(settings, {found.name: retention or Retention(NOW, keeps)}),
        today=TODAY,
    )


def said(findings: tuple[Finding, ...]) -> list[tuple[str, str, str | None]]:
    assert all(each.message and each.remediation for each in findings)
    return [(each.rule, each.severity.value, each.control) for each in findings]


# Each setting in turn, for each risk

TURNED: Final[list[tuple[dict[str, Any], dict[str, Any], str, str, str]]] = [
    ({"scan_on_push": False}, {}, "image-scanning-off", "worse", "ECR.1"),
    ({"tag_mutability": "MUTABLE"}, {}, "tags-mutable", "worse", "ECR.2"),
    ({"tag_mutability": "MUTABLE_WITH_EXCLUSION"}, {}, "tags-mutable", "worse", "ECR.2"),
    (
        {"tag_mutability": "IMMUTABLE_WITH_EXCLUSION", "mutable_tags": ("latest", "pr-*")},
        {},
        "tags-immutable-with-exclusions",
        "info",
        "ECR.2",
    ),
    ({}, {"keeps": None}, "retention-missing", "warning", "ECR.3"),
    ({}, {"keeps": 49}, "retention-differs", "warning", "ECR.3"),
    ({}, {"keeps": 51}, "retention-differs", "warning", "ECR.3"),
    ({"encryption": "AES256"}, {}, "encryption-differs", "worse", "ECR.5"),
]


@pytest.mark.parametrize("risk", ["low", "medium", "high"])
@pytest.mark.parametrize("turn", TURNED, ids=lambda turn: turn[2])
def test_turning_one_setting_shows_just_its_finding_and_control(
    risk: str, turn: tuple[dict[str, Any], dict[str, Any], str, str, str]
) -> None:
    setting, learnt, rule, severity, control = turn
    if severity == "worse":
        severity = "error" if risk == "high" else "warning"
    governed = entry("ab", risk=risk)
    turned = judged(governed, replace(CONFORMING, **setting), **learnt)
    assert said(turned.findings) == [(rule, severity, control)]
    assert said(judged(governed, CONFORMING).findings) == []


def test_the_filters_of_tags_that_can_move_are_named() -> None:
    found = replace(
        CONFORMING, tag_mutability="IMMUTABLE_WITH_EXCLUSION", mutable_tags=("latest", "pr-*")
    )
    (finding,) = judged(entry("ab"), found).findings
    assert "latest, pr-*" in finding.message


@pytest.mark.parametrize(
    ("wanted", "there", "satisfied"),
    [
        ("KMS", "KMS", True),
        ("KMS", "KMS_DSSE", True),
        ("KMS", "AES256", False),
        ("AES256", "AES256", True),
        ("AES256", "KMS", True),
        ("AES256", "KMS_DSSE", True),
    ],
)
def test_the_same_or_a_stronger_encryption_satisfies(
    wanted: str, there: str, *, satisfied: bool
) -> None:
    policies = {"low": Policy(encryption=wanted)}
    found = judged(entry("ab"), replace(CONFORMING, encryption=there), policies=policies)
    assert said(found.findings) == (
        [] if satisfied else [("encryption-differs", "warning", "ECR.5")]
    )


@pytest.mark.parametrize(
    ("wanted", "effective", "satisfied"),
    [
        ("on-push", "off", False),
        ("on-push", "on-push", True),
        ("on-push", "continuous", True),
        ("continuous", "off", False),
        ("continuous", "on-push", False),
        ("continuous", "continuous", True),
    ],
)
def test_the_same_or_stronger_scanning_satisfies(
    wanted: str, effective: str, *, satisfied: bool
) -> None:
    settings = EcrSettings(
        scanning=RegistryScanning(enhanced=True, rules=(ScanRule(Scanning(effective), ("*",)),))
    )
    policies = {"low": Policy(scanning=Scanning(wanted))}
    found = judged(entry("ab"), CONFORMING, policies=policies, settings=settings)
    assert said(found.findings) == (
        [] if satisfied else [("image-scanning-off", "warning", "ECR.1")]
    )


# What is asked


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        ({}, ALL),
        ({"image_scanning": True}, replace(ALL, scanning=Scanning.ON_PUSH)),
        ({"image_scanning": False}, replace(ALL, scanning=None)),
        ({"encryption": "AES256"}, replace(ALL, encryption="AES256")),
        ({"encryption": "DES"}, ALL),
        ({"keep_images": 7}, replace(ALL, keep_images=7)),
        ({"risk": "low"}, Policy(keep_images=20)),
        ({"risk": "low", "encryption": "KMS"}, Policy(encryption="KMS", keep_images=20)),
        ({"risk": "medium"}, Policy()),
        ({"risk": None}, Policy()),
        ({"risk": None, "image_scanning": True}, Policy(scanning=Scanning.ON_PUSH)),
    ],
)
def test_an_entrys_own_block_overrides_its_risk(own: dict[str, Any], asked: Policy) -> None:
    policies = {"low": Policy(keep_images=20), "high": ALL}
    assert policy_for(entry("ab", **{"risk": "high", **own}), policies) == asked


def test_an_entrys_own_block_is_checked_without_any_policy() -> None:
    governed = entry("ab", image_scanning=True, encryption="KMS", keep_images=5)
    found = replace(CONFORMING, scan_on_push=False, encryption="AES256", tag_mutability="MUTABLE")
    assert [each.rule for each in judged(governed, found, policies={}).findings] == [
        "encryption-differs",
        "image-scanning-off",
        "retention-differs",
    ]
    put_right = replace(found, scan_on_push=True, encryption="KMS")
    assert judged(governed, put_right, policies={}, keeps=5).findings == ()


def test_only_what_is_written_is_checked() -> None:
    nothing = repository("ab", scan_on_push=False, encryption="AES256", tag_mutability="MUTABLE")
    found = judged(entry("ab"), nothing, policies={"high": ALL}, keeps=None)
    assert found.findings == ()
    assert found.conformance == ()


# What is unknown


@pytest.mark.parametrize(
    ("setting", "learnt", "unknown"),
    [
        ({}, {"settings": EcrSettings()}, "scanning"),
        ({"scan_on_push": None}, {}, "scanning"),
        ({"tag_mutability": None}, {}, "immutable_tags"),
        ({"tag_mutability": "SOMETHING_NEW"}, {}, "immutable_tags"),
        ({}, {"retention": Retention(NOW, problem="denied")}, "keep_images"),
        ({"encryption": None}, {}, "encryption"),
    ],
)
def test_what_could_not_be_read_is_unknown_and_no_violation(
    setting: dict[str, Any], learnt: dict[str, Any], unknown: str
) -> None:
    found = judged(entry("ab"), replace(CONFORMING, **setting), **learnt)
    assert found.findings == ()
    assert {each.aspect: each.unknown for each in found.conformance} == {
        "encryption": 0,
        "immutable_tags": 0,
        "keep_images": 0,
        "scanning": 0,
        unknown: 1,
    }


def test_a_lifecycle_policy_that_was_never_read_is_unknown() -> None:
    entries, present = catalog([entry("ab")]), Inventory(ACCOUNT, REGION, (CONFORMING,))
    found = check_conformance(
        reconcile(entries, present),
        catalog=entries,
        inventory=present,
        policies=POLICIES,
        learnt=Learnt(BASIC),
        today=TODAY,
    )
    assert found.findings == ()
    assert sum(each.unknown for each in found.conformance) == 1


def test_settings_that_rules_need_are_named_once_with_their_actions() -> None:
    unknown = {
        Setting.SCANNING: "denied",
        Setting.TEMPLATES: "throttled",
        Setting.LIFECYCLE: "denied",
        Setting.REPLICATION: "denied",
    }
    found = judged(entry("ab"), CONFORMING, settings=EcrSettings(unknown=unknown))
    (finding,) = found.findings
    assert (finding.repository, finding.rule) == ("", "registry-settings-unknown")
    assert (finding.severity, finding.control) == (Severity.INFO, None)
    for action in (Setting.SCANNING, Setting.TEMPLATES, Setting.LIFECYCLE):
        assert action in finding.message
    assert Setting.REPLICATION not in finding.message, "no rule needs it"
    assert (
        "Allow ecr:GetLifecyclePolicy and ecr:GetRegistryScanningConfiguration"
        in finding.remediation
    )


def test_a_lifecycle_policy_that_could_not_be_read_is_named_until_it_can_be() -> None:
    entries, present = catalog([entry("ab")]), Inventory(ACCOUNT, REGION, (CONFORMING,))

    def rules(problem: str) -> list[str]:
        kept = {"ab": Retention(NOW, problem=problem)}
        found = check_conformance(
            reconcile(entries, present),
            catalog=entries,
            inventory=present,
            policies=POLICIES,
            learnt=Learnt(BASIC, kept),
            today=TODAY,
        )
        return [each.rule for each in found.findings]

    assert rules("malformed answer") == ["registry-settings-unknown"]
    # A denial shows in each run, and a repository that is gone is nobody's fault.
    assert rules("denied") == rules("no such repository") == []


def test_what_is_throttled_needs_no_permission() -> None:
    unknown = {Setting.SCANNING: "throttled"}
    (finding,) = judged(entry("ab"), CONFORMING, settings=EcrSettings(unknown=unknown)).findings
    assert "Allow" not in finding.remediation


# What has to be read


def test_only_what_a_rule_needs_is_read() -> None:
    def needs(entries: list[Entry], present: list[str], **policies: Policy) -> tuple[Any, ...]:
        governed = catalog(entries)
        found = needs_of(reconcile(governed, inventory(present)), governed, policies)
        return found.settings, found.retention

    scanned = Policy(scanning=Scanning.ON_PUSH)
    kept = Policy(keep_images=20)
    origins = (Setting.TEMPLATES, Setting.CACHE_RULES, Setting.REPLICATION)
    assert needs([entry("ab")], ["ab"]) == ((), ())
    assert needs([entry("ab")], ["ab"], low=scanned) == ((Setting.SCANNING,), ())
    assert needs([entry("ab")], [], low=scanned) == ((), ()), "a ghost is not judged"
    assert needs([entry("ab", image_scanning=True)], ["ab"]) == ((Setting.SCANNING,), ())
    assert needs([entry("ab", image_scanning=False)], ["ab"], low=scanned) == ((), ())
    assert needs([entry("ab"), entry("cd")], ["ab", "orphan"], low=kept) == (origins, ("ab",))
    assert needs([entry("ab", keep_images=3)], ["ab"]) == ((), ("ab",))
    assert needs([entry("ab")], ["ab", "orphan"], low=scanned) == ((Setting.SCANNING, *origins), ())


# The table


def test_conformance_is_counted_by_policy_and_owner_the_worst_first() -> None:
    entries = catalog(
        [entry("ab", owner="jo"), entry("cd", owner="jo"), entry("ef", owner=None), entry("gh")]
    )
    present = Inventory(
        ACCOUNT,
        REGION,
        (
            repository("ab", encryption="KMS"),
            repository("cd", encryption="AES256"),
            repository("ef", encryption="AES256"),
            repository("gh", encryption=None),
        ),
    )
    found = check_conformance(
        reconcile(entries, present),
        catalog=entries,
        inventory=present,
        policies={"low": Policy(encryption="KMS")},
        learnt=Learnt(),
        today=TODAY,
    )
    assert found.conformance == (
        Conformance("encryption", "jo", kept=1, broken=1),
        Conformance("encryption", "nobody", broken=1),
        Conformance("encryption", "platform-team", unknown=1),
    )


@given(st.integers(MAX_ROWS - 2, MAX_ROWS + 20))
def test_the_table_stays_small_and_counts_every_repository(owners: int) -> None:
    entries = catalog(entry(f"r{n:04}", owner=f"team-{n}") for n in range(owners))
    present = inventory(each.name for each in entries.entries)
    found = check_conformance(
        reconcile(entries, present),
        catalog=entries,
        inventory=present,
        policies={"low": Policy(encryption="KMS")},
        learnt=Learnt(),
        today=TODAY,
    )
    assert len(found.conformance) <= MAX_ROWS + 1
    assert sum(each.unknown for each in found.conformance) == owners


# The platform's file


def test_policy_says_of_the_platforms_file_what_a_person_would() -> None:
    """Of 11 entries two are in AWS: made by hand, neither scanned nor with a lifecycle policy."""
    entries = parse_governance((DATA / "platform" / "ecr-catalog.yaml").read_bytes())
    by_hand = {"scan_on_push": False, "encryption": "AES256", "tag_mutability": "MUTABLE"}
    names = ("new-app-16", "new-wp-reg2")
    present = Inventory(ACCOUNT, REGION, tuple(repository(name, **by_hand) for name in names))
    low = Policy(Scanning.ON_PUSH, "AES256", keep_images=20)
    high = Policy(Scanning.ON_PUSH, "KMS", immutable_tags=True, keep_images=50)
    found = check_conformance(
        reconcile(entries, present),
        catalog=entries,
        inventory=present,
        policies={"low": low, "medium": replace(low, keep_images=30), "high": high},
        learnt=Learnt(BASIC, dict.fromkeys(names, Retention(NOW))),
        today=TODAY,
    )
    assert {state.value: count for state, count in found.counts().items() if count} == {
        "live": 2,
        "pending": 6,
        "ghost": 3,
    }
    assert [(each.repository, each.rule, each.control) for each in found.findings] == [
        (name, *said)
        for name in names
        for said in (
            ("image-scanning-off", "ECR.1"),
            ("promote-to-active", None),
            ("retention-missing", "ECR.3"),
        )
    ]
    assert [(row.aspect, row.kept, row.broken) for row in found.conformance] == [
        ("keep_images", 0, 2),
        ("scanning", 0, 2),
        ("encryption", 2, 0),
    ]
