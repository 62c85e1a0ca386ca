from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ecr_catalog_pipeline.adapters import aws
from ecr_catalog_pipeline.adapters.publisher import Lists, Published, Publisher
from ecr_catalog_pipeline.core.entity import list_digest
from ecr_catalog_pipeline.core.errors import CatalogError, TargetRefused, TargetUnavailable
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import adapters_of
from tests.drills.s3_faults import Broken, S3Faults
from tests.integration.publisher_contract import (
    LIST,
    NOTHING,
    ONE,
    OTHER_LIST,
    PROVENANCE,
    TWO,
    PublisherContract,
    lost_race,
    publish,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY: Final = "catalog/ecr-registry.yaml"
REGION: Final = "eu-west-2"
REAL_KEY: Final = "AKIAREALREALREALREAL"


def publisher_of(
    endpoint: str | None, *, bucket: str = "a-bucket", of_registry: str | None = None
) -> Publisher:
    """Make a publisher as a run does: from a mirror's settings."""
    mirror = Mirror.model_validate(
        {
            "name": "goldenpath",
            "governance": {"repository": "https://git.example.com/governance.git"},
            "registry": {"region": REGION, "endpoint_url": of_registry},
            "publish": {"kind": "s3", "bucket": bucket, "key": KEY, "endpoint_url": endpoint},
        }
    )
    return adapters_of(mirror, {"ECR_CATALOG_CACHE": "unused"}).publisher


# Against moto, which keeps buckets as S3 does


@dataclass(frozen=True)
class S3Target:
    endpoint: str
    bucket: str

    def publisher(self) -> Publisher:
        return publisher_of(self.endpoint, bucket=self.bucket)

    @property
    def client(self) -> S3Client:
        return boto3.client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="someone",
            aws_secret_access_key="else",
        )

    def content(self) -> bytes | None:
        client = self.client
        if not client.list_objects_v2(Bucket=self.bucket, Prefix=KEY).get("Contents"):
            return None
        return client.get_object(Bucket=self.bucket, Key=KEY)["Body"].read()

    def write(self, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=KEY, Body=content)

    def remove(self) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=KEY)

    def lists(self) -> dict[str, bytes]:
        client = self.client
        listed = client.list_objects_v2(Bucket=self.bucket, Prefix="full-lists/")
        return {
            each["Key"]: client.get_object(Bucket=self.bucket, Key=each["Key"])["Body"].read()
            for each in listed.get("Contents", [])
        }

    def write_list(self, name: str, content: bytes | None) -> None:
        if content is None:
            self.client.delete_object(Bucket=self.bucket, Key=name)
        else:
            self.client.put_object(Bucket=self.bucket, Key=name, Body=content)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


_numbers = count(1)


@pytest.fixture
def target(moto: str) -> S3Target:
    """A bucket of its own, empty."""
    target = S3Target(moto, f"bucket-{next(_numbers)}")
    target.client.create_bucket(
        Bucket=target.bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    return target


class TestContract(PublisherContract):
    """The contract, for an object in a bucket."""


def test_the_version_is_the_etag(target: S3Target) -> None:
    version = publish(target.publisher(), ONE)
    assert version == target.client.head_object(Bucket=target.bucket, Key=KEY)["ETag"]


def test_the_object_says_its_type_and_where_it_comes_from(target: S3Target) -> None:
    publish(target.publisher(), ONE)
    head = target.client.head_object(Bucket=target.bucket, Key=KEY)
    assert head["ContentType"] == "application/yaml"
    assert head["Metadata"] == {
        "mirror": PROVENANCE.mirror,
        "source-sha": PROVENANCE.source_sha,
        "plan-hash": PROVENANCE.plan_hash,
        "run-id": PROVENANCE.run_id,
    }


def test_only_our_key_changes(target: S3Target) -> None:
    target.client.put_object(Bucket=target.bucket, Key="catalog/other.yaml", Body=b"other")
    publish(target.publisher(), ONE)
    listed = target.client.list_objects_v2(Bucket=target.bucket)["Contents"]
    assert [(each["Key"], each["Size"]) for each in listed] == [
        (KEY, len(ONE)),
        ("catalog/other.yaml", 5),
    ]


def test_a_missing_bucket_is_refused(moto: str) -> None:
    publisher = publisher_of(moto, bucket="no-such-bucket")
    for act in (publisher.read, lambda: publisher.publish(ONE, None, PROVENANCE)):
        with pytest.raises(TargetRefused, match="NoSuchBucket") as caught:
            act()
        assert caught.value.needs == "human"
        assert f"s3://no-such-bucket/{KEY}" in caught.value.problem
        assert "publish.bucket" in caught.value.remediation


# Against a server that says what it is set to and notes what it is asked


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    promised: int | None = None  # what Content-Length says, if not the truth


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Message
    body: bytes


def refusal(status: int, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>In our words</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


def found(content: bytes, etag: str) -> Answer:
    return Answer(200, content, {"ETag": etag})


NO_KEY: Final = refusal(404, "NoSuchKey")


class ScriptedS3:
    """Answers from a list, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, self.headers, body)
                scripted.requests.append(request)
                script = scripted.answers
                answer = script.pop(0) if len(script) > 1 else script[0]
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                length = len(answer.body) if answer.promised is None else answer.promised
                self.send_header("Content-Length", str(length))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(answer.body)
                self.close_connection = True

            def do_GET(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def do_HEAD(self) -> None:
                self.answer()

            def log_message(self, *_: Any) -> None:
                """Say nothing; `requests` is the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def will(self, *answers: Answer) -> None:
        self.answers[:] = answers
        self.requests.clear()

    @property
    def request(self) -> Request:
        (request,) = self.requests
        return request


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    scripted = ScriptedS3()
    thread = threading.Thread(target=scripted.server.serve_forever, args=(0.02,))
    thread.start()
    yield scripted
    scripted.server.shutdown()
    thread.join()
    scripted.server.server_close()


@pytest.fixture
def two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry once, which is as good as three times and sooner done."""
    monkeypatch.setattr(aws, "ATTEMPTS", 2)


def test_the_first_put_asks_for_absence(s3: ScriptedS3) -> None:
    s3.will(found(b"", '"new"'))
    assert publisher_of(s3.endpoint).publish(ONE, None, PROVENANCE) == '"new"'
    assert s3.request.method == "PUT"
    assert s3.request.path == f"/a-bucket/{KEY}"
    assert s3.request.headers["If-None-Match"] == "*"
    assert "If-Match" not in s3.request.headers


def test_a_later_put_asks_for_the_version_that_was_read(s3: ScriptedS3) -> None:
    publisher = publisher_of(s3.endpoint)
    s3.will(found(ONE, '"old"'))
    version = publisher.read().version
    s3.will(found(b"", '"new"'))
    assert publisher.publish(TWO, version, PROVENANCE) == '"new"'
    assert s3.request.headers["If-Match"] == '"old"'
    assert "If-None-Match" not in s3.request.headers


def test_nothing_is_asked_before_it_is_used(s3: ScriptedS3) -> None:
    publisher_of(s3.endpoint)
    assert s3.requests == []


def test_a_missing_key_reads_as_nothing(s3: ScriptedS3) -> None:
    s3.will(NO_KEY)
    assert publisher_of(s3.endpoint).read() == NOTHING


@pytest.mark.parametrize(
    "answer",
    [refusal(412, "PreconditionFailed"), refusal(409, "ConditionalRequestConflict"), NO_KEY],
    ids=["changed", "at once", "deleted"],
)
def test_a_condition_that_fails_is_a_lost_race(s3: ScriptedS3, answer: Answer) -> None:
    s3.will(answer, found(b"theirs", '"theirs"'))
    lost_race(publisher_of(s3.endpoint), ONE, '"old"')
    assert [each.method for each in s3.requests] == ["PUT", "GET"]


@pytest.mark.usefixtures("two_attempts")
def test_a_put_whose_answer_was_lost_counts(s3: ScriptedS3) -> None:
    s3.will(refusal(500, "InternalError"), refusal(412, "PreconditionFailed"), found(ONE, '"ours"'))
    assert publisher_of(s3.endpoint).publish(ONE, '"old"', PROVENANCE) == '"ours"'
    assert [each.method for each in s3.requests] == ["PUT", "PUT", "GET"]
    assert [each.headers["If-Match"] for each in s3.requests[:2]] == ['"old"', '"old"']


TAKEN: Final = (Broken.DONE_THEN_500, Broken.DONE_THEN_DROPPED, Broken.NO_ETAG, Broken.LOGIN_PAGE)


@pytest.mark.usefixtures("two_attempts")
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("broken", TAKEN)
def test_a_put_none_of_whose_answers_arrives_is_read_back_and_counts(
    target: S3Target, broken: Broken, *, first: bool
) -> None:
    with S3Faults(target.endpoint) as faults:
        publisher = publisher_of(faults.endpoint_url, bucket=target.bucket)
        version = None if first else publish(publisher, ONE)
        faults.fail("PUT", broken)

        published = publisher.publish(TWO, version, PROVENANCE)

        assert publisher.read() == Published(TWO, published)


@pytest.mark.usefixtures("two_attempts")
def test_a_list_that_cannot_be_put_leaves_the_entity_as_it_was(target: S3Target) -> None:
    with S3Faults(target.endpoint) as faults:
        publisher = publisher_of(faults.endpoint_url, bucket=target.bucket)
        version = publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
        faults.fail("PUT", Broken.DROPPED)

        with pytest.raises(TargetUnavailable, match="s3:PutObject"):
            publisher.publish(TWO, version, PROVENANCE, changed_list())

    assert target.content() == ONE
    assert list(target.lists().values()) == [LIST]


@pytest.mark.usefixtures("two_attempts")
def test_a_list_whose_answer_is_lost_counts_as_put(target: S3Target) -> None:
    with S3Faults(target.endpoint) as faults:
        publisher = publisher_of(faults.endpoint_url, bucket=target.bucket)
        # Both attempts of the list's put.
        faults.fail("PUT", Broken.DONE_THEN_DROPPED, times=2)

        publisher.publish(ONE, None, PROVENANCE, Lists(LIST))

    assert target.content() == ONE
    assert list(target.lists().values()) == [LIST]


def changed_list() -> Lists:
    return Lists(OTHER_LIST, old=list_digest(LIST))


@pytest.mark.usefixtures("two_attempts")
def test_an_entity_that_cannot_be_put_after_its_list_points_to_the_list_of_before(
    target: S3Target,
) -> None:
    with S3Faults(target.endpoint) as faults:
        publisher = publisher_of(faults.endpoint_url, bucket=target.bucket)
        version = publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
        # The first put is the list's.
        faults.fail("PUT", Broken.DONE_THEN_DROPPED, times=1)
        faults.fail("PUT", Broken.DROPPED)

        with pytest.raises(TargetUnavailable, match="s3:PutObject"):
            publisher.publish(TWO, version, PROVENANCE, changed_list())

        assert target.content() == ONE
        assert publisher.read_list(list_digest(LIST)) == LIST
        faults.clear()
        publisher.publish(TWO, publisher.read().version, PROVENANCE, changed_list())
        assert target.content() == TWO
        assert list(target.lists().values()) == [OTHER_LIST]


def test_a_list_that_cannot_be_deleted_stays_and_is_not_an_error(target: S3Target) -> None:
    with S3Faults(target.endpoint) as faults:
        publisher = publisher_of(faults.endpoint_url, bucket=target.bucket)
        version = publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
        faults.fail("DELETE", Broken.ACCESS_DENIED)

        publisher.publish(TWO, version, PROVENANCE, changed_list())

    assert target.content() == TWO
    assert len(target.lists()) == 2


@pytest.mark.usefixtures("two_attempts")
def test_a_put_that_was_not_taken_says_that_what_is_published_stays(target: S3Target) -> None:
    with S3Faults(target.endpoint) as faults:
        publisher = publisher_of(faults.endpoint_url, bucket=target.bucket)
        version = publish(publisher, ONE)
        faults.fail("PUT", Broken.DROPPED)

        with pytest.raises(TargetUnavailable) as caught:
            publisher.publish(TWO, version, PROVENANCE)

    assert "what is published stays" in caught.value.remediation
    assert target.content() == ONE


@pytest.mark.usefixtures("two_attempts")
@pytest.mark.parametrize("broken", [Broken.DONE_THEN_DROPPED, Broken.DROPPED])
def test_a_put_that_cannot_be_read_back_does_not_say_what_is_published(
    target: S3Target, broken: Broken
) -> None:
    with S3Faults(target.endpoint) as faults:
        publisher = publisher_of(faults.endpoint_url, bucket=target.bucket)
        version = publish(publisher, ONE)
        faults.fail("PUT", broken)
        faults.fail("GET", Broken.DROPPED)

        with pytest.raises(TargetUnavailable, match="unknown whether") as caught:
            publisher.publish(TWO, version, PROVENANCE)

    assert "s3:PutObject" in caught.value.problem
    assert "s3:GetObject" in caught.value.problem
    assert "stays" not in str(caught.value)
    assert caught.value.needs == "time"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("KMS.Disabled", "The key is disabled"),
        ("KMS.DisabledException", "arn:aws:kms:eu-west-2:123456789012:key/1 is disabled."),
        ("KMS.NotFoundException", "Key does not exist"),
        ("KMSInvalidStateException", "Key is pending deletion"),
        ("AccessDenied", "User is not authorized to perform: kms:GenerateDataKey"),
    ],
)
def test_a_kms_key_that_is_at_fault_is_named_in_the_remediation(
    s3: ScriptedS3, code: str, message: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    s3.will(Answer(400, body, {"Content-Type": "application/xml"}))
    publisher = publisher_of(s3.endpoint)
    for act in (publisher.read, publishing(publisher)):
        error = failed(act)
        assert isinstance(error, TargetRefused)
        assert code in error.problem
        assert "Enable the KMS key" in error.remediation


def publishing(publisher: Publisher) -> Callable[[], object]:
    return lambda: publisher.publish(ONE, None, PROVENANCE)


def failed(act: Callable[[], object]) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        act()
    error = caught.value
    assert f"s3://a-bucket/{KEY}" in error.problem
    assert error.remediation
    return error


def test_a_denial_is_refused(s3: ScriptedS3) -> None:
    s3.will(refusal(403, "AccessDenied"))
    publisher = publisher_of(s3.endpoint)
    for act, action in ((publisher.read, "s3:GetObject"), (publishing(publisher), "s3:PutObject")):
        error = failed(act)
        assert isinstance(error, TargetRefused)
        assert action in error.problem
        assert "AccessDenied" in error.problem
        assert "s3:ListBucket" in error.remediation


@pytest.mark.usefixtures("two_attempts")
@pytest.mark.parametrize(
    "answer",
    [
        refusal(500, "InternalError"),
        refusal(503, "SlowDown"),
        Answer(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}),
        refusal(404, "SomethingElse"),
        Answer(404),
        Answer(301, refusal(301, "PermanentRedirect").body, {"x-amz-bucket-region": "us-east-1"}),
    ],
    ids=["500", "slow down", "a load balancer", "another 404", "an empty 404", "moved"],
)
def test_any_other_answer_is_a_failure_and_no_absence(s3: ScriptedS3, answer: Answer) -> None:
    s3.will(answer)
    publisher = publisher_of(s3.endpoint)
    assert isinstance(failed(publisher.read), TargetUnavailable | TargetRefused)
    assert isinstance(failed(publishing(publisher)), TargetUnavailable | TargetRefused)


def test_an_answer_without_a_version_is_a_failure(s3: ScriptedS3) -> None:
    s3.will(Answer(200, b"<html>Please log in</html>"))
    publisher = publisher_of(s3.endpoint)
    assert isinstance(failed(publisher.read), TargetUnavailable)
    assert isinstance(failed(publishing(publisher)), TargetUnavailable)


@pytest.mark.usefixtures("two_attempts")
def test_half_an_object_is_never_read(s3: ScriptedS3) -> None:
    s3.will(Answer(200, ONE[:10], {"ETag": '"old"'}, promised=len(ONE)))
    assert isinstance(failed(publisher_of(s3.endpoint).read), TargetUnavailable)


@pytest.mark.usefixtures("two_attempts")
def test_an_endpoint_that_is_down_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    publisher = publisher_of(f"http://127.0.0.1:{port}")
    assert isinstance(failed(publisher.read), TargetUnavailable)
    assert isinstance(failed(publishing(publisher)), TargetUnavailable)


@pytest.mark.usefixtures("two_attempts")
def test_an_endpoint_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "READ_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publisher = publisher_of(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "timeout" in failed(publisher.read).problem.lower()


# Credentials


@pytest.fixture
def real_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials in every place where boto3 looks first."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", REAL_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real token")
    profile = f"aws_access_key_id = {REAL_KEY}\naws_secret_access_key = real secret\n"
    shared = tmp_path / "credentials"
    shared.write_text(f"[default]\n{profile}[work]\n{profile}aws_session_token = real token\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))


@pytest.mark.usefixtures("real_credentials")
@pytest.mark.parametrize("profile", [None, "work"])
@pytest.mark.parametrize("named_by", ["publish", "registry"])
def test_real_credentials_never_reach_an_emulator(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, profile: str | None, named_by: str
) -> None:
    if profile is not None:
        monkeypatch.setenv("AWS_PROFILE", profile)
    s3.will(NO_KEY, found(b"", '"new"'))
    publisher = (
        publisher_of(s3.endpoint)
        if named_by == "publish"
        else publisher_of(None, of_registry=s3.endpoint)
    )
    publish(publisher, ONE)
    assert [each.method for each in s3.requests] == ["GET", "PUT"]
    for request in s3.requests:
        assert "Credential=emulator/" in request.headers["Authorization"]
        assert "X-Amz-Security-Token" not in request.headers
        assert REAL_KEY not in str(request.headers)
        assert "real token" not in str(request.headers)


def test_without_credentials_a_real_bucket_is_unavailable() -> None:
    publisher = publisher_of(None)
    assert "credentials" in failed(publisher.read).problem.lower()


def test_a_profile_that_does_not_exist_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    assert "no-such-profile" in failed(publisher_of(None).read).problem


def test_a_published_object_reads_as_its_bytes_and_etag(s3: ScriptedS3) -> None:
    s3.will(found(ONE, '"old"'))
    assert publisher_of(s3.endpoint).read() == Published(ONE, '"old"')
