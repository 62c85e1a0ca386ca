from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core.exceptions import Acceptance
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.governance import Entry, Status, parse_governance
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.origins import OrphanOrigin
from ecr_catalog_pipeline.core.reconcile import (
    ReconciledRegistry,
    ReconciledRepository,
    State,
    reconcile,
    state_of,
)
from tests.unit.builders import ACCOUNT, REGION, catalog, entry, inventory, repository, uri_of


def registry(status: str | None, *, present: bool, name: str = "ab") -> ReconciledRegistry:
    """One governed repository, from governance's text to its state."""
    metadata = {"id": "REGISTRY_A", "owner": "jo", "risk": "low"}
    if status is not None:
        metadata["status"] = status
    content = {"version": "1.0", "repositories": {name: {"metadata": metadata}}}
    return reconcile(
        parse_governance(json.dumps(content).encode()), inventory([name] if present else [])
    )


def rules(found: ReconciledRegistry) -> list[tuple[str, str]]:
    return [(finding.repository, finding.rule) for finding in found.findings]


STATES = [
    ("pending", True, State.LIVE, ["promote-to-active"]),
    ("pending", False, State.PENDING, []),
    ("active", True, State.LIVE, []),
    ("active", False, State.GHOST, []),
    ("deprecated", True, State.LIVE, []),
    ("deprecated", False, State.GHOST, []),
    ("decommissioned", True, State.LINGERING, []),
    ("decommissioned", False, State.RETIRED, []),
    (None, True, State.LIVE, ["status-missing"]),
    (None, False, State.GHOST, ["status-missing"]),
    ("retired", True, State.LIVE, ["status-unknown"]),
    ("retired", False, State.GHOST, ["status-unknown"]),
]


@pytest.mark.parametrize(("status", "present", "state", "findings"), STATES)
def test_every_status_and_presence_has_one_state_and_its_findings(
    status: str | None, present: bool, state: State, findings: list[str]
) -> None:
    found = registry(status, present=present)

    assert [(each.name, each.state) for each in found.repositories] == [("ab", state)]
    assert rules(found) == [("ab", rule) for rule in findings]


def test_a_repository_that_is_not_governed_is_an_orphan() -> None:
    found = reconcile(catalog([]), inventory(["ab"]))

    assert found.repositories == (ReconciledRepository("ab", State.ORPHAN, uri=uri_of("ab")),)
    assert found.findings == ()


def test_a_repository_that_is_neither_governed_nor_present_has_no_state() -> None:
    with pytest.raises(ValueError, match="governed"):
        state_of(None, present=False)


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("status", [*(status.value for status in Status), None, "retired"])
def test_a_name_that_ecr_never_accepts_is_only_ever_a_ghost(
    status: str | None, present: bool
) -> None:
    found = registry(status, present=present, name="Not_A_Name")

    assert [each.state for each in found.repositories] == [State.GHOST]
    assert ("Not_A_Name", "name-invalid") in rules(found)
    assert ("Not_A_Name", "promote-to-active") not in rules(found)


def test_a_name_is_matched_exactly() -> None:
    found = reconcile(catalog([entry("team/ab")]), inventory(["team-ab", "ab"]))

    assert {each.name: each.state for each in found.repositories} == {
        "ab": State.ORPHAN,
        "team-ab": State.ORPHAN,
        "team/ab": State.GHOST,
    }


def test_a_repository_shows_what_both_sides_say_of_it() -> None:
    governed = entry(
        "ab",
        owner="jo",
        risk="high",
        environment="prod",
        status=Status.DEPRECATED,
        created_date="2026-01-05",
    )

    found = reconcile(catalog([governed]), inventory(["ab"]))

    assert found.repositories == (
        ReconciledRepository(
            "ab",
            State.LIVE,
            owner="jo",
            risk="high",
            environment="prod",
            status="deprecated",
            uri=uri_of("ab"),
            requested="2026-01-05",
        ),
    )


@pytest.mark.parametrize(
    ("governed", "present", "expected"),
    [
        ({"repository_url": "elsewhere/ab"}, {}, ["repository-url-differs"]),
        ({"repository_url": uri_of("ab")}, {}, []),
        ({"repository_url": None}, {}, []),
    ],
)
def test_a_live_repository_that_is_not_as_governed_is_a_finding(
    governed: dict[str, Any], present: dict[str, Any], expected: list[str]
) -> None:
    aws = Inventory(ACCOUNT, REGION, (repository("ab", **present),))

    found = reconcile(catalog([entry("ab", **governed)]), aws)

    assert rules(found) == [("ab", rule) for rule in expected]
    assert all(finding.message and finding.remediation for finding in found.findings)


def test_what_is_not_live_is_not_compared() -> None:
    different = {"repository_url": "elsewhere", "image_scanning": True, "encryption": "KMS"}
    aws = Inventory(ACCOUNT, REGION, (repository("ab", scan_on_push=False, encryption="AES256"),))

    found = reconcile(
        catalog([entry("ab", status=Status.DECOMMISSIONED, **different), entry("cd", **different)]),
        aws,
    )

    assert [each.state for each in found.repositories] == [State.LINGERING, State.GHOST]
    assert found.findings == ()


def test_findings_of_both_sides_are_kept_sorted() -> None:
    content = (
        b"repositories: {cd: {}, ab: {metadata: {id: REGISTRY_A, owner: jo, status: pending}}}"
    )

    found = reconcile(parse_governance(content), inventory(["ab", "cd"]))

    assert rules(found) == [
        ("", "version-unknown"),
        ("ab", "promote-to-active"),
        ("ab", "risk-missing"),
        ("cd", "id-missing"),
        ("cd", "owner-missing"),
        ("cd", "risk-missing"),
        ("cd", "status-missing"),
    ]


def test_states_are_counted_and_listed_sorted_with_the_empty_ones_included() -> None:
    found = reconcile(
        catalog([entry("zz"), entry("ab"), Entry("gone", status=Status.ACTIVE)]),
        inventory(["ab", "orphan", "zz"]),
    )

    assert found.counts() == {
        State.LIVE: 2,
        State.PENDING: 0,
        State.GHOST: 1,
        State.ORPHAN: 1,
        State.LINGERING: 0,
        State.RETIRED: 0,
    }
    assert [each.name for each in found.in_state(State.LIVE)] == ["ab", "zz"]
    assert found.in_state(State.RETIRED) == ()


def test_a_registry_travels_between_assets_with_all_that_it_says() -> None:
    accepted = Acceptance("bootstrap assets", date(2027, 6, 30))
    orphan = ReconciledRepository(
        "cdk", State.ORPHAN, origin=OrphanOrigin.REPLICATION, exception=accepted
    )
    finding = Finding("ab", "image-scanning-off", Severity.WARNING, "m", "r", control="ECR.1")
    sent = ReconciledRegistry((orphan,), (finding,), (finding,))
    kind = TypeAdapter(ReconciledRegistry)
    received = kind.validate_json(kind.dump_json(sent))
    assert received == sent
    assert [each.control for each in (*received.findings, *received.excepted)] == ["ECR.1"] * 2


def test_findings_with_and_without_a_control_have_an_order() -> None:
    with_one = Finding("ab", "rule", Severity.INFO, "m", "r", control="ECR.1")
    without = Finding("ab", "rule", Severity.INFO, "m", "r")
    assert sorted([with_one, without]) == [with_one, without]
