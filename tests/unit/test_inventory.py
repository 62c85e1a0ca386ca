from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from ecr_catalog_pipeline.core.errors import InventoryFailed
from ecr_catalog_pipeline.core.inventory import (
    Inventory,
    Repository,
    accounts_of,
    check_account,
    merge_pages,
    parse_page,
)
from tests.unit.builders import ACCOUNT, REGION, repository, uri_of

OTHER_ACCOUNT = "999999999999"


def described(name: str = "ab", **changes: Any) -> dict[str, Any]:
    return {"repositoryName": name, "repositoryUri": uri_of(name), **changes}


def fingerprint(*repositories: Repository) -> str:
    return Inventory(ACCOUNT, REGION, repositories).fingerprint


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"nextToken": "more"},
        {"repositories": None},
        {"repositories": {}},
        {"repositories": "ab"},
        {"Repositories": []},
    ],
)
def test_an_answer_without_its_list_is_a_failure_and_never_an_empty_registry(
    answer: dict[str, Any],
) -> None:
    with pytest.raises(InventoryFailed) as caught:
        parse_page(answer)

    assert caught.value.needs == "time"
    assert caught.value.remediation


def test_an_answer_with_an_empty_list_is_an_empty_page() -> None:
    assert parse_page({"repositories": []}) == []


@pytest.mark.parametrize(
    "item",
    [
        None,
        "ab",
        ["ab"],
        {},
        {"repositoryName": "ab"},
        {"repositoryUri": uri_of("ab")},
        described(repositoryName=""),
        described(repositoryName=None),
        described(repositoryName=12),
        described(repositoryUri=""),
        described(repositoryUri=None),
        described(imageScanningConfiguration="on"),
        described(encryptionConfiguration=["KMS"]),
    ],
)
def test_one_malformed_repository_fails_the_page(item: object) -> None:
    with pytest.raises(InventoryFailed):
        parse_page({"repositories": [described("cd"), item]})


def test_a_repository_is_read_whole_with_its_time_in_utc() -> None:
    item = described(
        createdAt=datetime(2026, 1, 9, 23, 0, tzinfo=timezone(timedelta(hours=2))),
        imageScanningConfiguration={"scanOnPush": False},
        encryptionConfiguration={"encryptionType": "KMS", "kmsKey": "x"},
        imageTagMutability="MUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filter": "v*", "filterType": "WILDCARD"}, {}, "x"],
    )

    (read,) = parse_page({"repositories": [item]})

    created = datetime(2026, 1, 9, 21, 0, tzinfo=UTC)
    assert read == Repository(
        "ab",
        uri_of("ab"),
        created,
        scan_on_push=False,
        encryption="KMS",
        tag_mutability="MUTABLE_WITH_EXCLUSION",
        mutable_tags=("v*",),
    )
    assert read.created_at is not None
    assert read.created_at.tzinfo is UTC


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"createdAt": None, "imageScanningConfiguration": None, "encryptionConfiguration": None},
        {"createdAt": None, "imageScanningConfiguration": {}, "encryptionConfiguration": {}},
        {"imageScanningConfiguration": {"scanOnPush": "yes"}},
        {"encryptionConfiguration": {"encryptionType": 1}},
        {"imageTagMutability": {}, "imageTagMutabilityExclusionFilters": {}},
    ],
)
def test_what_a_repository_does_not_say_is_unknown(nothing: dict[str, Any]) -> None:
    assert parse_page({"repositories": [described(**nothing)]}) == [repository("ab")]


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 9, 21, 0, tzinfo=UTC),
        1767992400,
        1767992400.0,
        "2026-01-09T21:00:00Z",
        "2026-01-09T22:00:00+01:00",
    ],
)
def test_a_time_is_read_as_botocore_gives_it_and_as_aws_writes_it(moment: object) -> None:
    (read,) = parse_page({"repositories": [described(createdAt=moment)]})

    assert read.created_at == datetime(2026, 1, 9, 21, 0, tzinfo=UTC)


@pytest.mark.parametrize("moment", ["yesterday", "", [1], {}, 1e300, float("nan"), -1e300])
def test_what_is_not_a_time_fails_the_read(moment: object) -> None:
    with pytest.raises(InventoryFailed, match="no calendar"):
        parse_page({"repositories": [described(createdAt=moment)]})


def test_pages_are_merged_by_name_with_the_same_repository_once() -> None:
    pages = [
        [repository("cd"), repository("ab")],
        [],
        [repository("ab"), repository("a/b")],
    ]

    assert [each.name for each in merge_pages(pages)] == ["a/b", "ab", "cd"]


def test_no_pages_and_empty_pages_hold_no_repositories() -> None:
    assert merge_pages([]) == merge_pages([[], []]) == ()


@pytest.mark.parametrize(
    ("expected", "last_published"),
    [(ACCOUNT, ""), (ACCOUNT, ACCOUNT), (ACCOUNT, OTHER_ACCOUNT), (None, ACCOUNT), (None, "")],
)
def test_the_mirrors_account_may_answer(expected: str | None, last_published: str) -> None:
    check_account(ACCOUNT, expected, last_published)


@pytest.mark.parametrize(
    ("expected", "last_published"), [(ACCOUNT, ""), (ACCOUNT, OTHER_ACCOUNT), (None, ACCOUNT)]
)
def test_another_account_is_refused_and_both_are_named(
    expected: str | None, last_published: str
) -> None:
    with pytest.raises(InventoryFailed) as caught:
        check_account(OTHER_ACCOUNT, expected, last_published)

    assert OTHER_ACCOUNT in caught.value.problem
    assert ACCOUNT in caught.value.problem
    assert "registry.account_id" in caught.value.remediation


@pytest.mark.parametrize(
    ("uris", "accounts"),
    [
        ([uri_of("ab"), uri_of("cd")], {ACCOUNT}),
        ([], set()),
        (["localhost:5000/ab", "registry.example.org/ab", "127.0.0.1:5000/ab", ""], set()),
        (["twelveletter.example.org/ab", uri_of("ab")], {ACCOUNT}),
    ],
)
def test_uris_name_the_accounts_of_ecr_registries_alone(
    uris: list[str], accounts: set[str]
) -> None:
    assert accounts_of(uris) == accounts


CREATED = datetime(2026, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "changed",
    [
        [],
        [repository("ab", created_at=CREATED + timedelta(microseconds=1))],
        [repository("ab")],
        [repository("ab", created_at=CREATED, uri=uri_of("cd"))],
        [repository("ac", created_at=CREATED, uri=uri_of("ab"))],
        [repository("ab", created_at=CREATED), repository("cd")],
    ],
)
def test_the_fingerprint_moves_with_every_repository(changed: list[Repository]) -> None:
    assert fingerprint(*changed) != fingerprint(repository("ab", created_at=CREATED))


def test_create_then_delete_returns_to_the_earlier_fingerprint() -> None:
    before = fingerprint(repository("ab", created_at=CREATED))
    fingerprint(repository("ab", created_at=CREATED), repository("cd"))

    assert fingerprint(repository("ab", created_at=CREATED)) == before


def test_an_empty_registry_has_a_fingerprint_too() -> None:
    assert fingerprint().startswith("sha256:")
