"""The fake AWS is what boto3 meets at AWS, and each of its faults does what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    PaginationError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from tests.fakes.aws import (
    Answer,
    AnyFault,
    ApiError,
    Call,
    FakeAws,
    Fault,
    OtherAccount,
    StaleListing,
)

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_sts import STSClient

LIST = "DescribeRepositories"
WHO = "GetCallerIdentity"
ACCOUNT = "123456789012"
ELSEWHERE = "999999999999"


@pytest.fixture
def fake() -> Iterator[FakeAws]:
    with FakeAws() as fake:
        yield fake


@pytest.fixture
def ecr(fake: FakeAws) -> ECRClient:
    client: ECRClient = client_of(fake, "ecr")
    return client


@pytest.fixture
def sts(fake: FakeAws) -> STSClient:
    client: STSClient = client_of(fake, "sts")
    return client


def client_of(
    fake: FakeAws,
    service: Any,
    *,
    key: str = "AKIAOFATEST",
    token: str | None = None,
    region: str | None = None,
    attempts: int = 1,
    **config: Any,
) -> Any:
    settings = {"read_timeout": 5, "connect_timeout": 1} | config
    return boto3.client(
        service,
        region_name=region or fake.region,
        endpoint_url=fake.endpoint_url,
        aws_access_key_id=key,
        aws_secret_access_key="secret",
        aws_session_token=token,
        config=Config(retries={"mode": "standard", "total_max_attempts": attempts}, **settings),
    )


def filled(fake: FakeAws, number: int) -> list[str]:
    for each in range(number):
        fake.create(f"app-{each:04}")
    return list(fake.names())


def listed(ecr: ECRClient, page_size: int = 2) -> list[str]:
    pages = ecr.get_paginator("describe_repositories").paginate(
        PaginationConfig={"PageSize": page_size}
    )
    return [each["repositoryName"] for page in pages for each in page["repositories"]]


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return caught.value.response["Error"]["Code"]


# What AWS does


def test_a_page_holds_a_hundred_repositories_unless_asked_otherwise(
    fake: FakeAws, ecr: ECRClient
) -> None:
    filled(fake, 101)

    page = ecr.describe_repositories()

    assert len(page["repositories"]) == 100
    assert len(ecr.describe_repositories(nextToken=page["nextToken"])["repositories"]) == 1


@pytest.mark.parametrize(
    ("number", "page_size", "calls"),
    [(0, 1000, 1), (1, 1, 1), (5, 2, 3), (6, 2, 3), (1000, 1000, 1), (1001, 1000, 2)],
)
def test_pages_hold_every_repository_once_and_the_last_one_has_no_token(
    fake: FakeAws, ecr: ECRClient, number: int, page_size: int, calls: int
) -> None:
    names = filled(fake, number)

    assert listed(ecr, page_size) == names
    assert fake.count(LIST) == calls


def test_a_page_of_more_than_a_thousand_is_refused(ecr: ECRClient) -> None:
    with pytest.raises(ecr.exceptions.InvalidParameterException, match="maxResults"):
        ecr.describe_repositories(maxResults=1001)


def test_a_token_that_was_never_given_is_refused(fake: FakeAws, ecr: ECRClient) -> None:
    filled(fake, 3)

    with pytest.raises(ecr.exceptions.InvalidParameterException, match="nextToken"):
        ecr.describe_repositories(nextToken="2")


def test_a_token_of_another_account_is_refused(fake: FakeAws, ecr: ECRClient) -> None:
    filled(fake, 3)
    token = ecr.describe_repositories(maxResults=2)["nextToken"]
    fake.fail(LIST, OtherAccount(ELSEWHERE), times=1)

    with pytest.raises(ecr.exceptions.InvalidParameterException, match="nextToken"):
        ecr.describe_repositories(maxResults=2, nextToken=token)

    assert len(ecr.describe_repositories(maxResults=2, nextToken=token)["repositories"]) == 1


@pytest.mark.parametrize("paging", [{"maxResults": 10}, {"nextToken": "anything"}])
def test_names_and_paging_exclude_each_other(
    fake: FakeAws, ecr: ECRClient, paging: dict[str, Any]
) -> None:
    fake.create("here")

    with pytest.raises(ecr.exceptions.InvalidParameterException, match=next(iter(paging))):
        ecr.describe_repositories(repositoryNames=["here"], **paging)


def test_a_look_up_fails_whole_at_the_first_missing_name(fake: FakeAws, ecr: ECRClient) -> None:
    fake.create("here")

    with pytest.raises(ecr.exceptions.RepositoryNotFoundException, match="'gone-1' does not exist"):
        ecr.describe_repositories(repositoryNames=["here", "gone-1", "gone-2"])

    found = ecr.describe_repositories(repositoryNames=["here"])
    assert [each["repositoryName"] for each in found["repositories"]] == ["here"]


@pytest.mark.parametrize("name", ["Upper", "a b", "/lead", "trail/", "a__-b", "a..b", "x" * 257])
def test_a_name_that_ecr_could_not_hold_is_refused(ecr: ECRClient, name: str) -> None:
    with pytest.raises(ecr.exceptions.InvalidParameterException, match="regular expression"):
        ecr.describe_repositories(repositoryNames=[name])
    with pytest.raises(ecr.exceptions.InvalidParameterException, match="regular expression"):
        ecr.create_repository(repositoryName=name)


def test_a_repository_is_described_as_ecr_describes_it(fake: FakeAws, ecr: ECRClient) -> None:
    created_at = datetime(2026, 1, 9, 23, 3, 13, 250_000, UTC)
    uri = fake.create("team/app", created_at, scan_on_push=True, encryption="KMS", kms_key="mine")

    (described,) = ecr.describe_repositories()["repositories"]

    assert uri == "123456789012.dkr.ecr.eu-west-2.amazonaws.com/team/app"
    assert described == {
        "repositoryArn": "arn:aws:ecr:eu-west-2:123456789012:repository/team/app",
        "registryId": ACCOUNT,
        "repositoryName": "team/app",
        "repositoryUri": uri,
        "createdAt": created_at,
        "imageTagMutability": "MUTABLE",
        "imageScanningConfiguration": {"scanOnPush": True},
        "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": "mine"},
    }


def test_repositories_are_created_and_deleted_over_the_wire(fake: FakeAws, ecr: ECRClient) -> None:
    created = ecr.create_repository(
        repositoryName="app",
        imageScanningConfiguration={"scanOnPush": True},
        tags=[{"Key": "team", "Value": "payments"}],
    )["repository"]

    assert datetime.now(UTC) - created["createdAt"] < timedelta(minutes=1)
    assert created["imageScanningConfiguration"] == {"scanOnPush": True}
    assert created["encryptionConfiguration"] == {"encryptionType": "AES256"}
    assert ecr.describe_repositories()["repositories"] == [created]
    with pytest.raises(ecr.exceptions.RepositoryAlreadyExistsException, match="'app' already"):
        ecr.create_repository(repositoryName="app")
    assert ecr.delete_repository(repositoryName="app", force=True)["repository"] == created
    assert fake.names() == ()
    with pytest.raises(ecr.exceptions.RepositoryNotFoundException):
        ecr.delete_repository(repositoryName="app")


def test_a_deletion_between_two_pages_hides_no_other_repository(
    fake: FakeAws, ecr: ECRClient
) -> None:
    names = filled(fake, 6)
    fake.after(LIST, lambda _: fake.delete(names[0]))

    assert listed(ecr) == names


def test_another_registry_is_denied(ecr: ECRClient) -> None:
    with pytest.raises(ClientError) as caught:
        ecr.describe_repositories(registryId=ELSEWHERE)
    assert code_of(caught) == "AccessDeniedException"


def test_the_caller_is_identified(sts: STSClient) -> None:
    identity = sts.get_caller_identity()

    assert identity["Account"] == ACCOUNT
    assert identity["Arn"] == "arn:aws:iam::123456789012:user/fake"


def test_calls_of_an_assumed_role_are_recognisable_and_see_its_own_account(
    fake: FakeAws, sts: STSClient
) -> None:
    fake.create("ours")
    fake.create("theirs", account_id=ELSEWHERE)
    assumed = sts.assume_role(
        RoleArn=f"arn:aws:iam::{ELSEWHERE}:role/some/path/reader", RoleSessionName="test"
    )
    given = assumed["Credentials"]
    session: dict[str, Any] = {"key": given["AccessKeyId"], "token": given["SessionToken"]}

    identity = client_of(fake, "sts", **session).get_caller_identity()
    names = listed(client_of(fake, "ecr", **session))

    assert identity["Account"] == ELSEWHERE
    assert identity["Arn"] == assumed["AssumedRoleUser"]["Arn"]
    assert identity["Arn"] == f"arn:aws:sts::{ELSEWHERE}:assumed-role/reader/test"
    assert names == ["theirs"]
    assert given["Expiration"] > datetime.now(UTC) + timedelta(minutes=50)
    keys = [(call.operation, call.access_key_id) for call in fake.calls]
    assert keys == [
        ("AssumeRole", "AKIAOFATEST"),
        (WHO, given["AccessKeyId"]),
        (LIST, given["AccessKeyId"]),
    ]


def test_a_revoked_session_is_refused_and_its_secrets_stay_known(
    fake: FakeAws, sts: STSClient
) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/reader"
    given = sts.assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    reader = client_of(fake, "ecr", key=given["AccessKeyId"], token=given["SessionToken"])
    reader.describe_repositories()

    fake.revoke()

    with pytest.raises(ClientError) as caught:
        reader.describe_repositories()
    assert code_of(caught) == "UnrecognizedClientException"
    assert fake.secrets_given == {given["SecretAccessKey"], given["SessionToken"]}


@pytest.mark.parametrize(
    ("caller", "code"),
    [
        ({"key": "ASIAFORGED", "token": "forged"}, "UnrecognizedClientException"),
        ({"region": "us-east-1"}, "InvalidSignatureException"),
        ({"signature_version": UNSIGNED}, "MissingAuthenticationTokenException"),
    ],
)
def test_a_caller_without_good_credentials_for_the_region_is_refused(
    fake: FakeAws, caller: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError) as caught:
        client_of(fake, "ecr", **caller).describe_repositories()
    assert code_of(caught) == code


def test_an_operation_that_the_fake_does_not_know_is_refused_and_recorded(
    fake: FakeAws, ecr: ECRClient
) -> None:
    with pytest.raises(ClientError) as caught:
        ecr.list_images(repositoryName="app")

    assert code_of(caught) == "UnknownOperationException"
    assert fake.count("ListImages") == 1


def test_every_call_is_recorded(fake: FakeAws, ecr: ECRClient, sts: STSClient) -> None:
    start = datetime.now(UTC)
    sts.get_caller_identity()
    ecr.describe_repositories(maxResults=7)

    first, second = fake.calls

    assert start <= first.time <= second.time
    assert first == Call("sts", WHO, {}, "AKIAOFATEST", first.time, None)
    assert second == Call("ecr", LIST, {"maxResults": 7}, "AKIAOFATEST", second.time, None)


def test_many_clients_at_once_are_served_and_counted(fake: FakeAws, ecr: ECRClient) -> None:
    names = filled(fake, 20)

    with ThreadPoolExecutor(8) as pool:
        listings = list(pool.map(lambda _: listed(ecr, 5), range(25)))

    assert listings == [names] * 25
    assert fake.count(LIST) == 100


# What goes wrong


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (Fault.THROTTLING, "ThrottlingException", 400),
        (Fault.ACCESS_DENIED, "AccessDeniedException", 400),
        (Fault.EXPIRED_CREDENTIALS, "ExpiredTokenException", 400),
        (Fault.HTTP_500, "ServerException", 500),
        (Fault.HTTP_503, "503", 503),
        (Answer(b"<html>Who are you?</html>", 407), "407", 407),
    ],
)
def test_ecr_refuses(
    fake: FakeAws, ecr: ECRClient, fault: AnyFault, code: str, status: int
) -> None:
    fake.fail(LIST, fault)

    with pytest.raises(ClientError) as caught:
        ecr.describe_repositories()

    assert code_of(caught) == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (Fault.THROTTLING, "Throttling", 400),
        (Fault.ACCESS_DENIED, "AccessDenied", 403),
        (Fault.EXPIRED_CREDENTIALS, "ExpiredToken", 403),
        (Fault.HTTP_500, "InternalFailure", 500),
        (Fault.HTTP_503, "503", 503),
    ],
)
def test_sts_refuses(fake: FakeAws, sts: STSClient, fault: Fault, code: str, status: int) -> None:
    fake.fail(WHO, fault)

    with pytest.raises(ClientError) as caught:
        sts.get_caller_identity()

    assert code_of(caught) == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_a_refused_call_does_nothing(fake: FakeAws, ecr: ECRClient) -> None:
    fake.fail("CreateRepository", Fault.HTTP_500)

    with pytest.raises(ecr.exceptions.ServerException):
        ecr.create_repository(repositoryName="app")

    assert fake.names() == ()


def test_a_fault_strikes_at_the_call_and_as_often_as_asked(fake: FakeAws, ecr: ECRClient) -> None:
    names = filled(fake, 6)
    ecr.describe_repositories()
    fake.fail(LIST, Fault.ACCESS_DENIED, at=2, times=2)

    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(listed(ecr, 1000) == names)
        except ClientError:
            outcomes.append(False)

    assert outcomes == [True, False, False, True]
    assert [call.fault for call in fake.calls][1:] == [
        None,
        Fault.ACCESS_DENIED,
        Fault.ACCESS_DENIED,
        None,
    ]


def test_a_fault_holds_until_it_is_cleared(fake: FakeAws, ecr: ECRClient, sts: STSClient) -> None:
    fake.fail(LIST, Fault.ACCESS_DENIED)
    fake.fail(WHO, Fault.ACCESS_DENIED)
    for _ in range(3):
        with pytest.raises(ClientError):
            ecr.describe_repositories()

    fake.clear(LIST)

    ecr.describe_repositories()
    with pytest.raises(ClientError):
        sts.get_caller_identity()
    fake.clear()
    sts.get_caller_identity()


def test_each_retry_is_a_call(fake: FakeAws) -> None:
    names = filled(fake, 3)
    fake.fail(LIST, Fault.HTTP_503, times=2)

    assert listed(client_of(fake, "ecr", attempts=3), 1000) == names
    assert fake.count(LIST) == 3


def test_a_hanging_call_never_answers(fake: FakeAws) -> None:
    fake.fail(LIST, Fault.HANG)
    impatient = client_of(fake, "ecr", read_timeout=0.3)

    start = time.monotonic()
    with pytest.raises(ReadTimeoutError):
        impatient.describe_repositories()

    assert 0.3 <= time.monotonic() - start < 10
    assert fake.count(LIST) == 1


def test_a_body_trickles_in_faster_than_a_reader_loses_patience(fake: FakeAws) -> None:
    filled(fake, 3)
    fake.fail(LIST, Fault.TRICKLE)
    impatient = client_of(fake, "ecr", read_timeout=5)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(impatient.describe_repositories)
        with pytest.raises(TimeoutError):
            answer.result(timeout=2)

        fake.clear()

        # The rest never comes, and botocore reads what there is for an answer.
        assert "repositories" not in answer.result(timeout=60)
    assert fake.count(LIST) == 1


@pytest.mark.parametrize("release", [FakeAws.clear, FakeAws.close])
def test_a_hanging_call_is_dropped_once_the_fault_is_cleared_or_the_fake_closed(
    release: Any,
) -> None:
    before = threading.active_count()
    with FakeAws() as fake, ThreadPoolExecutor(1) as pool:
        fake.fail(LIST, Fault.HANG)
        answer = pool.submit(client_of(fake, "ecr", read_timeout=120).describe_repositories)
        while not fake.count(LIST):
            time.sleep(0.005)

        release(fake)

        with pytest.raises(ConnectionClosedError):
            answer.result(timeout=60)
    assert threading.active_count() == before


def test_a_connection_dropped_before_the_answer_is_an_error(fake: FakeAws, ecr: ECRClient) -> None:
    fake.fail("CreateRepository", Fault.DROP)

    with pytest.raises(ConnectionClosedError):
        ecr.create_repository(repositoryName="app")

    assert fake.names() == ("app",)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.DROP_MID_BODY,
        Fault.TRUNCATED_BODY,
        Fault.MALFORMED_BODY,
        Fault.EMPTY_OBJECT,
        Answer(b""),
        Answer(b"<html>Sign in to the guest network</html>"),
        Answer(b'{"repositories": null}'),
    ],
)
def test_botocore_takes_a_broken_body_for_an_answer_without_repositories(
    fake: FakeAws, fault: AnyFault
) -> None:
    filled(fake, 3)
    fake.fail(LIST, fault)

    answer = client_of(fake, "ecr", attempts=3).describe_repositories()

    assert "repositories" not in answer
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert fake.count(LIST) == 1, "botocore does not retry it either"


def test_a_cut_body_has_the_length_it_says_and_a_dropped_one_has_not(
    fake: FakeAws, ecr: ECRClient
) -> None:
    def stated_length() -> int:
        headers = ecr.describe_repositories()["ResponseMetadata"]["HTTPHeaders"]
        return int(headers["content-length"])

    filled(fake, 3)
    whole = stated_length()
    fake.fail(LIST, Fault.TRUNCATED_BODY, times=1)
    assert stated_length() == whole // 2
    fake.fail(LIST, Fault.DROP_MID_BODY, times=1)
    assert stated_length() == whole


@pytest.mark.parametrize(
    "fault",
    [Fault.DROP_MID_BODY, Fault.TRUNCATED_BODY, Fault.MALFORMED_BODY, Fault.EMPTY_OBJECT],
)
def test_botocore_rejects_a_broken_body_of_sts(fake: FakeAws, sts: STSClient, fault: Fault) -> None:
    fake.fail(WHO, fault)

    with pytest.raises(ResponseParserError):
        sts.get_caller_identity()


def test_an_empty_page_goes_on_from_the_same_place(fake: FakeAws, ecr: ECRClient) -> None:
    names = filled(fake, 5)
    fake.fail(LIST, Fault.EMPTY_PAGE, times=2)

    page = ecr.describe_repositories(maxResults=2)

    assert page["repositories"] == []
    assert page["nextToken"] != ecr.describe_repositories(maxResults=2)["nextToken"]
    rest = ecr.describe_repositories(nextToken=page["nextToken"])
    assert [each["repositoryName"] for each in rest["repositories"]] == names


@pytest.mark.parametrize(
    ("at", "left"), [(1, [2, 3, 4]), (2, [0, 1, 4]), (3, [0, 1, 2, 3])], ids=str
)
def test_a_page_is_lost_silently(fake: FakeAws, ecr: ECRClient, at: int, left: list[int]) -> None:
    names = filled(fake, 5)
    fake.fail(LIST, Fault.LOST_PAGE, at=at, times=1)

    assert listed(ecr) == [names[each] for each in left]


def test_a_listing_ends_early(fake: FakeAws, ecr: ECRClient) -> None:
    names = filled(fake, 5)
    fake.fail(LIST, Fault.EARLY_END, at=2)

    assert listed(ecr) == names[:4]


def test_pages_repeat_the_last_repository_of_the_page_before(fake: FakeAws, ecr: ECRClient) -> None:
    a, b, c, d, e = filled(fake, 5)
    fake.fail(LIST, Fault.DUPLICATES)

    assert listed(ecr) == [a, b, b, c, d, d, e]


def test_a_token_repeats_for_ever(fake: FakeAws, ecr: ECRClient) -> None:
    filled(fake, 5)
    fake.fail(LIST, Fault.REPEATED_TOKEN)

    token = ecr.describe_repositories(maxResults=2)["nextToken"]
    for _ in range(5):
        assert ecr.describe_repositories(maxResults=2, nextToken=token)["nextToken"] == token
    with pytest.raises(PaginationError, match="same next token was received twice"):
        listed(ecr)


def test_a_token_expires(fake: FakeAws, ecr: ECRClient) -> None:
    names = filled(fake, 5)
    fake.fail(LIST, Fault.EXPIRED_TOKEN)

    with pytest.raises(ecr.exceptions.InvalidParameterException, match="expired"):
        listed(ecr)

    assert fake.count(LIST) == 2
    assert listed(ecr, 1000) == names, "a listing of one page uses no token"


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_deletions_shift_the_pages_where_a_token_counts(
    fake: FakeAws, ecr: ECRClient, deleted: int
) -> None:
    names = filled(fake, 6)
    fake.fail(LIST, Fault.SHIFTED_PAGE)

    def delete(_: Call) -> None:
        for name in names[:deleted]:
            fake.delete(name)

    fake.after(LIST, delete)

    assert listed(ecr) == names[:2] + names[2 + deleted :]


def test_an_empty_page_hides_nothing_where_a_token_counts(fake: FakeAws, ecr: ECRClient) -> None:
    names = filled(fake, 5)
    fake.fail(LIST, Fault.SHIFTED_PAGE)
    fake.fail(LIST, Fault.EMPTY_PAGE, at=2, times=1)

    assert listed(ecr) == names


def test_a_stale_listing_omits_what_a_look_up_finds(fake: FakeAws, ecr: ECRClient) -> None:
    names = filled(fake, 5)
    fake.fail(LIST, StaleListing(names[1:3]))

    assert listed(ecr) == [names[0], *names[3:]]
    assert ecr.describe_repositories(repositoryNames=[names[1]])["repositories"]


def test_another_account_answers(fake: FakeAws, ecr: ECRClient, sts: STSClient) -> None:
    fake.create("ours")
    fake.fail(WHO, OtherAccount(ELSEWHERE))

    assert sts.get_caller_identity()["Account"] == ELSEWHERE
    assert listed(ecr) == ["ours"]


def test_the_registry_of_another_account_is_listed(
    fake: FakeAws, ecr: ECRClient, sts: STSClient
) -> None:
    fake.create("ours")
    fake.fail(LIST, OtherAccount(ELSEWHERE))

    assert sts.get_caller_identity()["Account"] == ACCOUNT
    assert listed(ecr) == []
    uri = fake.create("ours", account_id=ELSEWHERE)
    assert ecr.describe_repositories()["repositories"][0]["repositoryUri"] == uri
    assert uri.startswith(ELSEWHERE)


def test_a_repository_vanishes_between_listing_and_look_up(fake: FakeAws, ecr: ECRClient) -> None:
    fake.create("app")
    fake.after(LIST, lambda _: fake.delete("app"))

    assert listed(ecr) == ["app"]
    with pytest.raises(ecr.exceptions.RepositoryNotFoundException):
        ecr.describe_repositories(repositoryNames=["app"])


def test_the_newest_of_several_faults_counts(fake: FakeAws, ecr: ECRClient) -> None:
    filled(fake, 2)
    fake.fail(LIST, Fault.EMPTY_OBJECT)
    fake.fail(LIST, Fault.ACCESS_DENIED, times=1)

    with pytest.raises(ClientError):
        ecr.describe_repositories()
    assert "repositories" not in ecr.describe_repositories()


# What the user of the fake gets wrong


def test_a_fault_that_could_never_strike_is_an_error(fake: FakeAws) -> None:
    with pytest.raises(ValueError, match="no operation ListRepositories"):
        fake.fail("ListRepositories", Fault.THROTTLING)
    with pytest.raises(ValueError, match="GetCallerIdentity lists nothing"):
        fake.fail(WHO, Fault.LOST_PAGE)


def test_what_cannot_be_in_a_registry_is_not_put_there(fake: FakeAws) -> None:
    fake.create("app")

    with pytest.raises(ApiError, match="RepositoryAlreadyExistsException"):
        fake.create("app")
    with pytest.raises(ApiError, match="InvalidParameterException"):
        fake.create("No Name")
    with pytest.raises(ApiError, match="RepositoryNotFoundException"):
        fake.delete("gone")


def test_a_hook_that_raises_fails_the_test_that_set_it() -> None:
    def close_with_a_failed_hook() -> None:
        with FakeAws() as fake:
            fake.after(LIST, lambda _: fake.delete("gone"))
            with pytest.raises(ConnectionClosedError):
                client_of(fake, "ecr").describe_repositories()

    with pytest.raises(ApiError, match="'gone' does not exist"):
        close_with_a_failed_hook()


def test_closing_leaves_no_thread_and_nothing_that_answers() -> None:
    before = threading.active_count()
    with FakeAws() as fake:
        ecr = client_of(fake, "ecr")
        ecr.describe_repositories()  # its connection stays open

    assert threading.active_count() == before
    with pytest.raises(Exception, match=r"Could not connect|Connection was closed"):
        ecr.describe_repositories()


def test_a_client_that_is_killed_within_its_request_is_no_fault_of_the_fake() -> None:
    with FakeAws() as fake:
        address = urlsplit(fake.endpoint_url)
        assert address.hostname
        assert address.port
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{}")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
