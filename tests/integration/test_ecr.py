from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from ecr_catalog_pipeline.adapters import aws, ecr
from ecr_catalog_pipeline.adapters.ecr import MAX_LOOK_UPS, EcrRegistry
from ecr_catalog_pipeline.core.errors import InventoryFailed
from ecr_catalog_pipeline.core.inventory import Inventory, Repository
from tests.fakes.aws import Answer, AnyFault, Call, FakeAws, Fault, StaleListing

LISTING: Final = "DescribeRepositories"
IDENTITY: Final = "GetCallerIdentity"
ROLE: Final = "AssumeRole"
OTHER: Final = "210987654321"
REAL_KEY: Final = "AKIAREALREALREALREAL"


@pytest.fixture
def fake() -> Iterator[FakeAws]:
    with FakeAws() as fake:
        yield fake


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without retries, which are proved apart and take their time."""
    monkeypatch.setattr(aws, "ATTEMPTS", 1)


@pytest.fixture(scope="module")
def warm() -> Iterator[tuple[FakeAws, EcrRegistry]]:
    """A registry of two pages, and a reader that tries once: making clients takes its time."""
    with FakeAws() as fake:
        fill(fake, 1001)
        reader = registry(fake)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_PROFILE", raising=False)
            patch.setattr(aws, "ATTEMPTS", 1)
            reader.read()
        yield fake, reader


def fails(
    warm: tuple[FakeAws, EcrRegistry],
    fault: AnyFault,
    *looked_up: str,
    at: int = 1,
) -> InventoryFailed:
    fake, reader = warm
    fake.fail(LISTING, fault, at=at)
    before = fake.count(LISTING)
    try:
        error = failed(reader, *looked_up)
    finally:
        fake.clear()
    assert "ecr:DescribeRepositories" in error.problem
    assert fake.count(LISTING) == before + at
    return error


def registry(fake: FakeAws, **arguments: Any) -> EcrRegistry:
    return EcrRegistry(fake.region, endpoint_url=fake.endpoint_url, **arguments)


def names(inventory: Inventory) -> list[str]:
    return [repository.name for repository in inventory.repositories]


def fill(fake: FakeAws, count: int) -> list[str]:
    """Create repositories so that a listing does not give them in the order of their names."""
    created = [f"team-{number % 7}/app-{number:05}" for number in range(count)]
    for name in created:
        fake.create(name)
    return sorted(created)


def absent(reader: EcrRegistry, *names: str) -> frozenset[str]:
    """Read, and prove the absence of these as a run does."""
    return reader.prove_absent(reader.read().account_id, names)


def calls(fake: FakeAws, operation: str = LISTING) -> list[Call]:
    return [call for call in fake.calls if call.operation == operation]


def listings(fake: FakeAws) -> list[Call]:
    return [call for call in calls(fake) if "repositoryNames" not in call.parameters]


def look_ups(fake: FakeAws) -> list[Call]:
    return [call for call in calls(fake) if "repositoryNames" in call.parameters]


def failed(registry: EcrRegistry, *looked_up: str) -> InventoryFailed:
    """Read, then look these names up; gives why that failed."""
    with pytest.raises(InventoryFailed) as caught:
        absent(registry, *looked_up)
    assert caught.value.needs == "time"
    assert caught.value.remediation
    return caught.value


# A complete read, and what it costs


def test_progress_is_reported_after_each_page(warm: tuple[FakeAws, EcrRegistry]) -> None:
    reported: list[tuple[int, int]] = []
    warm[1].read(lambda pages, repositories: reported.append((pages, repositories)))
    assert reported == [(1, 1000), (2, 1001)]


def test_tags_are_read_of_one_repository_and_a_denial_is_not_an_error() -> None:
    with FakeAws() as fake:
        fake.create("team/app", tags={"owner": "a team", "empty": ""})
        reader = registry(fake)
        account = reader.read().account_id
        assert reader.tags(account, "team/app") == {"owner": "a team", "empty": ""}
        with pytest.raises(InventoryFailed, match="RepositoryNotFoundException"):
            reader.tags(account, "team/gone")
        fake.fail("ListTagsForResource", Fault.ACCESS_DENIED)
        assert reader.tags(account, "team/app") is None


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_a_read_is_complete_and_keeps_its_budget(fake: FakeAws, count: int) -> None:
    expected = fill(fake, count)
    reader = registry(fake)

    assert names(reader.read()) == expected

    pages = max(1, -(-count // 1000))
    assert [call.parameters["maxResults"] for call in listings(fake)] == [1000] * pages
    assert fake.count(LISTING) == pages
    assert fake.count(IDENTITY) == 1
    assert len(fake.calls) == pages + 1

    assert names(reader.read()) == expected
    assert fake.count(LISTING) == 2 * pages
    assert fake.count(IDENTITY) == 1
    assert len(fake.calls) == 2 * pages + 1


def test_a_repository_is_read_as_ecr_describes_it(fake: FakeAws) -> None:
    created = datetime(2026, 1, 5, 7, 30, 15, tzinfo=UTC)
    uri = fake.create(
        "payments/gateway",
        created,
        scan_on_push=True,
        encryption="KMS",
        tag_mutability="IMMUTABLE_WITH_EXCLUSION",
        mutable_tags=["pr-*", "latest"],
    )
    inventory = registry(fake).read()
    assert inventory == Inventory(
        account_id=fake.account_id,
        region=fake.region,
        repositories=(
            Repository(
                "payments/gateway",
                uri,
                created,
                scan_on_push=True,
                encryption="KMS",
                tag_mutability="IMMUTABLE_WITH_EXCLUSION",
                mutable_tags=("latest", "pr-*"),
            ),
        ),
    )


def test_nothing_is_asked_before_the_first_read(fake: FakeAws) -> None:
    registry(fake, account_id=fake.account_id)
    assert fake.calls == []


def test_every_read_asks_again(fake: FakeAws) -> None:
    reader = registry(fake)
    fake.create("one")
    assert names(reader.read()) == ["one"]
    fake.create("two")
    fake.delete("one")
    assert names(reader.read()) == ["two"]


def test_the_same_repository_on_two_pages_is_one(fake: FakeAws) -> None:
    expected = fill(fake, 1001)
    fake.fail(LISTING, Fault.DUPLICATES, at=2)
    assert names(registry(fake).read()) == expected


def test_an_empty_page_is_not_the_end(fake: FakeAws) -> None:
    expected = fill(fake, 1001)
    fake.fail(LISTING, Fault.EMPTY_PAGE, at=1, times=1)
    fake.fail(LISTING, Fault.EMPTY_PAGE, at=3, times=1)
    assert names(registry(fake).read()) == expected


# Absence is proved


def test_each_name_is_looked_up_alone(fake: FakeAws) -> None:
    reader = registry(fake)
    assert absent(reader, "gone/one", "gone/two") == {"gone/one", "gone/two"}
    assert [call.parameters for call in look_ups(fake)] == [
        {"registryId": fake.account_id, "repositoryNames": ["gone/one"]},
        {"registryId": fake.account_id, "repositoryNames": ["gone/two"]},
    ]
    assert len(fake.calls) == 1 + 1 + 2


def test_a_read_looks_nothing_up(fake: FakeAws) -> None:
    fill(fake, 1500)
    assert absent(registry(fake)) == frozenset()
    assert len(look_ups(fake)) == 0


def test_at_most_fifty_are_looked_up(fake: FakeAws) -> None:
    gone = [f"gone-{number:03}" for number in range(60)]
    proved = absent(registry(fake), *gone)
    assert MAX_LOOK_UPS == 50
    assert len(look_ups(fake)) == 50
    assert proved == set(gone[:50])


def test_a_name_that_ecr_never_accepts_is_absent_without_a_look_up(fake: FakeAws) -> None:
    assert absent(registry(fake), "No-Such_Name", "x") == {"No-Such_Name", "x"}
    assert look_ups(fake) == []


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        (StaleListing({"team-3/app-01200"}), 1),
        (Fault.LOST_PAGE, 2),
        (Fault.EARLY_END, 1),
    ],
    ids=["a stale listing", "a lost page", "an early end"],
)
def test_one_that_is_found_by_its_name_shows_that_the_listing_was_wrong(
    fake: FakeAws, fault: AnyFault, at: int
) -> None:
    fill(fake, 2500)
    fake.fail(LISTING, fault, at=at)
    error = failed(registry(fake), "gone", "team-3/app-01200")
    assert "ecr:DescribeRepositories" in error.problem
    assert "team-3/app-01200" in error.problem


@pytest.mark.parametrize(
    "fault",
    [
        Fault.THROTTLING,
        Fault.ACCESS_DENIED,
        Fault.EXPIRED_CREDENTIALS,
        Fault.HTTP_500,
        Fault.DROP,
        Fault.EMPTY_OBJECT,
        Answer(b'{"repositories": []}'),
        Answer(b'{"__type": "InvalidParameterException", "message": "no"}', 400),
        Answer(b"", 404),
    ],
    ids=str,
)
def test_a_look_up_that_fails_proves_nothing(
    warm: tuple[FakeAws, EcrRegistry], fault: AnyFault
) -> None:
    fails(warm, fault, "gone", at=3)


# Complete or failed, nothing between

FAULTS: Final = [
    (Fault.THROTTLING, "ThrottlingException"),
    (Fault.ACCESS_DENIED, "AccessDeniedException"),
    (Fault.EXPIRED_CREDENTIALS, "ExpiredTokenException"),
    (Fault.HTTP_500, "ServerException"),
    (Fault.HTTP_503, "503"),
    (Fault.DROP, "closed"),
    (Fault.DROP_MID_BODY, ""),
    (Fault.TRUNCATED_BODY, ""),
    (Fault.MALFORMED_BODY, ""),
    (Fault.EMPTY_OBJECT, ""),
]


@pytest.mark.parametrize("page", [1, 2])
@pytest.mark.parametrize(("fault", "cause"), FAULTS, ids=str)
def test_a_page_that_fails_fails_the_read(
    warm: tuple[FakeAws, EcrRegistry], fault: Fault, cause: str, page: int
) -> None:
    error = fails(warm, fault, at=page)
    assert cause.lower() in error.problem.lower()
    fake, reader = warm
    assert names(reader.read()) == sorted(fake.names())


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize("page", [1, 2])
def test_a_page_that_never_comes_fails_the_read(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(aws, "READ_SECONDS", 1)
    fill(fake, 1001)
    fake.fail(LISTING, Fault.HANG, at=page)
    error = failed(registry(fake))
    assert "ecr:DescribeRepositories" in error.problem
    assert "timeout" in error.problem.lower()


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize("fault", [Fault.REPEATED_TOKEN, Fault.EXPIRED_TOKEN])
def test_a_page_token_that_is_no_good_fails_the_read(fake: FakeAws, fault: Fault) -> None:
    fill(fake, 2500)
    fake.fail(LISTING, fault, at=2)
    error = failed(registry(fake))
    assert "ecr:DescribeRepositories" in error.problem
    assert "token" in error.problem
    assert fake.count(LISTING) == 2


@pytest.mark.timeout(60)
def test_a_listing_without_an_end_is_given_up(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecr, "MAX_READ_AGE", timedelta(seconds=1))
    fake.create("one")
    fake.fail(LISTING, Fault.EMPTY_PAGE)
    began = time.monotonic()
    failed(registry(fake))
    assert time.monotonic() - began < 20


@pytest.mark.usefixtures("one_attempt")
def test_the_age_of_a_read_counts_from_its_first_call(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecr, "MAX_READ_AGE", timedelta(seconds=0.2))
    fake.after(IDENTITY, lambda _: time.sleep(0.3))
    assert "ECR was not read within" in failed(registry(fake)).problem
    assert fake.count(LISTING) == 0


def a_page(*items: Any) -> bytes:
    return json.dumps({"repositories": list(items)}).encode()


NAMED: Final = {"repositoryName": "one", "repositoryUri": "x/one"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"repositories"',
        b"17",
        b'{"repositories": null}',
        b'{"repositories": {}}',
        b'{"repositories": "one"}',
        b'{"repositories": [], "nextToken": 7}',
        b'{"repositories": [], "nextToken": ["x"]}',
        b'{"Repositories": []}',
        b'{"repositories": [',
        b"\xff\xfe",
        b"<html>Please log in</html>",
        a_page(None),
        a_page("one"),
        a_page([]),
        a_page({}),
        a_page({"repositoryName": "one"}),
        a_page({"repositoryUri": "x/one"}),
        a_page({"repositoryName": "", "repositoryUri": "x/"}),
        a_page({"repositoryName": 1, "repositoryUri": "x/1"}),
        a_page(NAMED | {"createdAt": "yesterday"}),
        a_page(NAMED | {"createdAt": 1e300}),
        a_page(NAMED | {"createdAt": [1]}),
        a_page(NAMED | {"imageScanningConfiguration": "yes"}),
        a_page(NAMED | {"encryptionConfiguration": ["KMS"]}),
        a_page(NAMED, {"repositoryName": "two"}),
    ],
    ids=repr,
)
def test_an_answer_that_is_no_listing_fails_the_read(
    warm: tuple[FakeAws, EcrRegistry], body: bytes
) -> None:
    fails(warm, Answer(body))


@pytest.mark.parametrize("status", [400, 403, 404, 413, 500])
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"repositories": []}'], ids=repr)
def test_an_error_in_any_words_fails_the_read(
    warm: tuple[FakeAws, EcrRegistry], status: int, body: bytes
) -> None:
    fails(warm, Answer(body, status))


def test_a_registry_that_is_down_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reader = EcrRegistry("eu-west-2", endpoint_url=f"http://127.0.0.1:{port}")
    assert "sts:GetCallerIdentity" in failed(reader).problem


@pytest.mark.usefixtures("one_attempt")
def test_a_denial_says_what_to_allow(fake: FakeAws) -> None:
    fake.fail(LISTING, Fault.ACCESS_DENIED)
    assert "Allow ecr:DescribeRepositories" in failed(registry(fake)).remediation


@pytest.mark.usefixtures("one_attempt")
def test_credentials_that_have_expired_are_to_be_renewed(fake: FakeAws) -> None:
    fake.fail(LISTING, Fault.EXPIRED_CREDENTIALS)
    assert "credentials" in failed(registry(fake)).remediation


# Retries, and their end


def test_the_limits_of_every_client_are_those_of_the_contract() -> None:
    config: Any = aws.client_config()
    assert (config.connect_timeout, config.read_timeout) == (3, 10)
    assert config.retries == {"mode": "adaptive", "total_max_attempts": 4}
    assert aws.GIVE_UP_AFTER == 40


def test_what_keeps_failing_is_tried_four_times(fake: FakeAws) -> None:
    fake.fail(LISTING, Fault.HTTP_500)
    failed(registry(fake))
    assert fake.count(LISTING) == 4


@pytest.mark.parametrize("fault", [Fault.THROTTLING, Fault.HTTP_500, Fault.HTTP_503, Fault.DROP])
def test_what_fails_once_is_tried_again(fake: FakeAws, fault: Fault) -> None:
    expected = fill(fake, 3)
    fake.fail(LISTING, fault, times=1)
    assert names(registry(fake).read()) == expected
    assert fake.count(LISTING) == 2


def test_no_attempt_is_started_that_could_end_too_late(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With these, the last moment to start is 1 s after the first attempt.
    monkeypatch.setattr(aws, "CONNECT_SECONDS", aws.GIVE_UP_AFTER - 2)
    monkeypatch.setattr(aws, "READ_SECONDS", 1)
    fake.fail(LISTING, Fault.HANG)
    began = time.monotonic()
    error = failed(registry(fake))
    assert time.monotonic() - began < 20
    assert fake.count(LISTING) == 1
    assert "given up after 40 s" in error.problem


def test_the_time_limit_goes_for_the_role_too(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "CONNECT_SECONDS", aws.GIVE_UP_AFTER - 2)
    monkeypatch.setattr(aws, "READ_SECONDS", 1)
    fake.fail(ROLE, Fault.HANG)
    failed(registry(fake, role_arn=f"arn:aws:iam::{OTHER}:role/reader"))
    assert fake.count(ROLE) == 1


def test_a_call_that_was_given_up_is_not_tried_again_later(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "READ_SECONDS", 1)
    client = registry(fake)._ecr
    monkeypatch.setattr(aws, "CONNECT_SECONDS", 0)
    monkeypatch.setattr(aws, "READ_SECONDS", 0)
    fake.fail(LISTING, Fault.HANG)
    before = set(threading.enumerate())
    with pytest.raises(aws.OutOfTimeError):
        aws.call_within(client, client.describe_repositories, seconds=0.5)

    (thread,) = [each for each in set(threading.enumerate()) - before if each.name == "AWS call"]
    thread.join(60)
    assert not thread.is_alive()
    assert fake.count(LISTING) == 1


# The account


def test_the_account_is_the_one_that_answers(fake: FakeAws) -> None:
    assert registry(fake).read().account_id == fake.account_id
    assert registry(fake, account_id=fake.account_id).read().account_id == fake.account_id


def test_another_account_than_the_mirrors_fails_before_anything_is_listed(fake: FakeAws) -> None:
    fake.create("one")
    error = failed(registry(fake, account_id=OTHER))
    assert f"account {fake.account_id}" in error.problem
    assert OTHER in error.problem
    assert "registry.account_id" in error.remediation
    assert fake.count(LISTING) == 0


def test_a_wrong_account_is_refused_at_every_read(fake: FakeAws) -> None:
    reader = registry(fake, account_id=OTHER)
    failed(reader)
    failed(reader)
    assert fake.count(LISTING) == 0


IDENTITY_XML: Final = (
    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
    "<GetCallerIdentityResult>{}</GetCallerIdentityResult></GetCallerIdentityResponse>"
)


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault.THROTTLING, "Throttling"),
        (Fault.ACCESS_DENIED, "AccessDenied"),
        (Fault.EXPIRED_CREDENTIALS, "ExpiredToken"),
        (Fault.HTTP_500, "InternalFailure"),
        (Fault.HTTP_503, "503"),
        (Fault.HANG, "timeout"),
        (Fault.DROP, "closed"),
        (Fault.DROP_MID_BODY, ""),
        (Fault.TRUNCATED_BODY, ""),
        (Fault.MALFORMED_BODY, ""),
        (Fault.EMPTY_OBJECT, ""),
        (Answer(b""), ""),
        (Answer(b"<html/>"), ""),
        (Answer(IDENTITY_XML.format("").encode()), "account"),
        (Answer(IDENTITY_XML.format("<Account/>").encode()), "account"),
    ],
    ids=str,
)
def test_an_identity_that_fails_fails_the_read_and_is_asked_for_again(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch, fault: AnyFault, cause: str
) -> None:
    monkeypatch.setattr(aws, "READ_SECONDS", 0.5)
    fake.create("one")
    fake.fail(IDENTITY, fault)
    reader = registry(fake)

    error = failed(reader)
    assert "sts:GetCallerIdentity" in error.problem
    assert cause.lower() in error.problem.lower()
    assert fake.count(LISTING) == 0

    fake.clear()
    assert names(reader.read()) == ["one"]


# The role


def assuming(fake: FakeAws, **arguments: Any) -> EcrRegistry:
    return registry(fake, role_arn=f"arn:aws:iam::{OTHER}:role/catalog/reader", **arguments)


def test_a_role_is_assumed_once_and_signs_every_call(fake: FakeAws) -> None:
    fake.create("ours")
    fake.create("theirs", account_id=OTHER)
    reader = assuming(fake, account_id=OTHER)

    inventory = reader.read()
    assert names(inventory) == ["theirs"]
    assert inventory.account_id == OTHER
    reader.read()

    (assumed,) = calls(fake, ROLE)
    assert assumed.access_key_id == "emulator"
    assert assumed.parameters["RoleSessionName"] == "ecr-catalog-pipeline"
    others = [call for call in fake.calls if call.operation != ROLE]
    assert [call.operation for call in others] == [IDENTITY, LISTING, LISTING]
    assert {call.access_key_id[:4] for call in others} == {"ASIA"}


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize(
    "fault", [Fault.ACCESS_DENIED, Fault.HTTP_500, Fault.DROP, Fault.MALFORMED_BODY]
)
def test_a_role_that_cannot_be_assumed_fails_the_read_in_its_name(
    fake: FakeAws, fault: Fault
) -> None:
    fake.fail(ROLE, fault)
    reader = assuming(fake)
    error = failed(reader)
    assert "sts:AssumeRole" in error.problem
    assert "GetCallerIdentity" not in str(error)
    fake.clear()
    assert reader.read().account_id == OTHER


# Credentials


@pytest.fixture
def real_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials in every place where boto3 looks first."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", REAL_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real token")
    shared = tmp_path / "credentials"
    keys = f"aws_access_key_id = {REAL_KEY}\naws_secret_access_key = real secret\n"
    shared.write_text(f"[default]\n{keys}[work]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))


@pytest.mark.usefixtures("real_credentials")
@pytest.mark.parametrize("reader_of", [registry, assuming])
@pytest.mark.parametrize("profile", [None, "work"])
def test_real_credentials_never_reach_an_emulator(
    fake: FakeAws,
    monkeypatch: pytest.MonkeyPatch,
    reader_of: Callable[[FakeAws], EcrRegistry],
    profile: str | None,
) -> None:
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    reader_of(fake).read()
    assert fake.calls[0].access_key_id == "emulator"
    assert REAL_KEY not in {call.access_key_id for call in fake.calls}


@pytest.mark.usefixtures("real_credentials")
@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        ("http://127.0.0.1:5055", "emulator"),
        ("http://127.8.9.10", "emulator"),
        ("http://[::1]:5055", "emulator"),
        ("http://localhost:5055", "emulator"),
        ("HTTP://LOCALHOST:5055", "emulator"),
        (None, REAL_KEY),
        ("https://127.0.0.1:5055", REAL_KEY),
        ("https://localhost", REAL_KEY),
        ("http://10.0.0.1:5055", REAL_KEY),
        ("http://0.0.0.0:5055", REAL_KEY),
        ("http://localhost.example.com", REAL_KEY),
        ("http://127.0.0.1.example.com", REAL_KEY),
        ("http://example.com#@127.0.0.1", REAL_KEY),
        ("http://127.0.0.1@example.com", REAL_KEY),
        ("https://ecr.eu-west-2.amazonaws.com", REAL_KEY),
    ],
)
def test_only_plain_http_on_loopback_is_an_emulator(endpoint: str | None, key: str) -> None:
    reader = EcrRegistry("eu-west-2", endpoint_url=endpoint)
    credentials = reader._session.get_credentials()
    assert credentials is not None
    assert credentials.access_key == key


@pytest.mark.parametrize("role_arn", [None, f"arn:aws:iam::{OTHER}:role/reader"])
def test_without_credentials_the_read_fails(role_arn: str | None) -> None:
    error = failed(EcrRegistry("eu-west-2", role_arn=role_arn))
    assert "credentials" in str(error).lower()


@pytest.mark.parametrize("role_arn", [None, f"arn:aws:iam::{OTHER}:role/reader"])
def test_a_profile_that_does_not_exist_fails_the_read(
    monkeypatch: pytest.MonkeyPatch, role_arn: str | None
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    error = failed(EcrRegistry("eu-west-2", role_arn=role_arn))
    assert "no-such-profile" in error.problem


def test_a_refusal_that_repeats_the_signed_request_is_reported_without_its_credentials(
    warm: tuple[FakeAws, EcrRegistry],
) -> None:
    reported = "bad: Authorization=AWS4-HMAC-SHA256 Credential=AKIAPLANTED, Signature=5ec2e7"
    words = f"{reported}\nX-Amz-Security-Token: PLANTEDTOKEN"
    body = json.dumps({"__type": "IncompleteSignatureException", "message": words}).encode()

    error = fails(warm, Answer(body, 400))

    assert "IncompleteSignatureException: bad: " in error.problem
    for secret in ("AKIAPLANTED", "5ec2e7", "PLANTEDTOKEN"):
        assert secret not in str(error)
