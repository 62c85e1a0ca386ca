"""The client of a Backstage catalog against one that speaks HTTP on a loopback port."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

import pytest

from ecr_catalog_pipeline.adapters import backstage as client
from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.core.entity import content_digest
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.parity import judge
from tests.fakes.backstage import FakeBackstage, Fault
from tests.unit.builders import IDENTITY, published, uri_of

VARIABLE: Final = "A_BACKSTAGE_TOKEN"
SECRET: Final = "s3cr3t-t0ken"
REFERENCE: Final = (IDENTITY.namespace, IDENTITY.name)
CALLS: Final[list[Callable[[BackstageCatalog], object]]] = [
    lambda catalog: catalog.entity(*REFERENCE),
    lambda catalog: catalog.refresh(*REFERENCE),
]
both_calls = pytest.mark.parametrize("call", CALLS, ids=["entity", "refresh"])
Call = Callable[[BackstageCatalog], object]


@pytest.fixture
def fake() -> Iterator[FakeBackstage]:
    with FakeBackstage() as fake:
        yield fake


def catalog_of(fake: FakeBackstage) -> BackstageCatalog:
    return BackstageCatalog(fake.url, VARIABLE)


def problem_of(call: Call, catalog: BackstageCatalog) -> BackstageUnavailable:
    with pytest.raises(BackstageUnavailable) as caught:
        call(catalog)
    assert caught.value.__cause__ is None
    assert caught.value.needs == "time"
    return caught.value


def test_what_is_served_is_read_back_as_published(fake: FakeBackstage) -> None:
    fake.serve(published("ab"))

    entity = catalog_of(fake).entity(*REFERENCE)

    assert entity is not None
    assert entity["metadata"]["uid"]
    assert judge(content_digest(entity), entity).parity


def test_an_unknown_entity_is_none_and_not_refreshed(fake: FakeBackstage) -> None:
    assert catalog_of(fake).entity(*REFERENCE) is None
    assert catalog_of(fake).refresh(*REFERENCE) is False


def test_a_known_entity_is_refreshed_by_its_reference(fake: FakeBackstage) -> None:
    fake.serve(published("ab"))
    fake.source = lambda: published("ab", "cd")

    assert catalog_of(fake).refresh(*REFERENCE) is True

    assert fake.asked[-1].body == {"entityRef": "resource:default/goldenpath-ecr-registry"}
    entity = catalog_of(fake).entity(*REFERENCE)
    assert entity is not None
    assert len(entity["spec"]["repositories"]) == 2


def test_a_location_is_refreshed_by_its_type_and_target(fake: FakeBackstage) -> None:
    fake.looks = False
    url = "https://git.example.com/org/catalog/blob/main/ecr-registry.yaml"
    fake.locations = [("url", url)]
    fake.source = lambda: published("ab")

    assert catalog_of(fake).refresh_location("file", url) is False
    assert catalog_of(fake).entity(*REFERENCE) is None
    assert catalog_of(fake).refresh_location("url", url) is True
    assert catalog_of(fake).entity(*REFERENCE) is not None


@pytest.mark.parametrize("name", ["a b", "a?b=c", "a#b", "a%2Fb", "é"])
def test_names_are_quoted(fake: FakeBackstage, name: str) -> None:
    assert catalog_of(fake).entity("default", name) is None

    path = fake.asked[-1].path
    assert path.startswith("/api/catalog/entities/by-name/resource/default/a") or name == "é"
    assert " " not in path
    assert "?" not in path
    assert "#" not in path


def test_a_slash_in_a_name_is_part_of_the_name(fake: FakeBackstage) -> None:
    catalog_of(fake).entity("de/fault", "a/b")

    assert fake.asked[-1].path.endswith("/resource/de%2Ffault/a%2Fb")


# The token


def test_the_token_is_read_at_each_call(
    fake: FakeBackstage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.token = SECRET
    catalog = catalog_of(fake)
    monkeypatch.setenv(VARIABLE, "old")
    problem_of(CALLS[0], catalog)

    monkeypatch.setenv(VARIABLE, SECRET)

    assert catalog.entity(*REFERENCE) is None
    assert [each.authorization for each in fake.asked] == ["Bearer old", f"Bearer {SECRET}"]


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_token_none_is_sent(
    fake: FakeBackstage, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    catalog_of(fake).entity(*REFERENCE)
    BackstageCatalog(fake.url).entity(*REFERENCE)

    assert [each.authorization for each in fake.asked] == [None, None]


@both_calls
def test_a_wrong_token_names_its_variable_and_never_its_value(
    fake: FakeBackstage, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    fake.token = "another"
    monkeypatch.setenv(VARIABLE, SECRET)

    problem = problem_of(call, catalog_of(fake))

    assert "401" in problem.problem
    assert fake.url in problem.problem
    assert VARIABLE in problem.remediation
    assert SECRET not in repr(problem)


@both_calls
@pytest.mark.parametrize("token", ["two\nlines", "two\r\nX-Evil: 1", "snowman \u2603"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(
    fake: FakeBackstage, monkeypatch: pytest.MonkeyPatch, call: Call, token: str
) -> None:
    monkeypatch.setenv(VARIABLE, token)

    problem = problem_of(call, catalog_of(fake))

    assert token not in str(problem)
    assert VARIABLE in str(problem)
    assert fake.asked == []


def test_the_line_end_of_a_mounted_secret_is_no_part_of_the_token(
    fake: FakeBackstage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.token = SECRET
    monkeypatch.setenv(VARIABLE, f"{SECRET}\n")

    assert catalog_of(fake).entity(*REFERENCE) is None


# What goes wrong


@both_calls
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.FORBIDDEN, "refuses us with 403"),
        (Fault.SERVER_ERROR, "with 500"),
        (Fault.DROP, "does not answer"),
        (Fault.REDIRECT, ""),
    ],
)
def test_a_backstage_that_fails_is_unavailable(
    fake: FakeBackstage,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    fault: Fault,
    words: str,
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    fake.serve(published("ab"))
    fake.fail(fault)

    problem = problem_of(call, catalog_of(fake))

    assert words in problem.problem
    assert fake.url in problem.problem
    assert SECRET not in str(problem)

    fake.clear()
    assert call(catalog_of(fake))


@pytest.mark.parametrize("fault", [Fault.GARBAGE, Fault.A_LIST])
def test_an_answer_that_is_no_entity_is_no_absence(fake: FakeBackstage, fault: Fault) -> None:
    fake.fail(fault)

    assert "not an entity" in problem_of(CALLS[0], catalog_of(fake)).problem


@both_calls
def test_a_backstage_that_hangs_is_given_up(
    fake: FakeBackstage, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr(client, "READ_SECONDS", 0.3)
    fake.fail(Fault.HANG)

    assert "does not answer: ReadTimeoutError" in problem_of(call, catalog_of(fake)).problem


# What a proxy answers in its place


class Wire:
    """Answers every connection with the same pieces, one after the other."""

    def __init__(self) -> None:
        self.pieces: Callable[[], Iterable[bytes]] = list
        wire = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.readline().strip():
                    pass
                with contextlib.suppress(OSError):
                    for piece in wire.pieces():
                        self.connection.sendall(piece)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.server.shutdown()
    wire.server.server_close()


def answer(status: str, body: bytes, *headers: str) -> list[bytes]:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ["\r\n".join([*head, "", ""]).encode(), body]


NO_ENTITY: Final = b'{"error":{"name":"NotFoundError","message":"No entity named"},"response":{}}'


@both_calls
@pytest.mark.parametrize(
    "body",
    [
        b"<html>404 page not found</html>",
        b"default backend - 404",
        b"",
        b'{"message":"no Route matched with those values"}',
        b'{"error":"NotFoundError"}',
        b'{"error":{"name":"ServiceUnavailableError"}}',
        b"[]",
        b'{"error":{"name":"NotFoundErr',
    ],
    ids=lambda body: body.decode()[:20],
)
def test_a_404_that_is_not_backstages_own_is_no_absence(
    wire: Wire, call: Call, body: bytes
) -> None:
    wire.pieces = lambda: answer("404 Not Found", body)

    problem = problem_of(call, BackstageCatalog(wire.url))

    assert "with a 404 that is not Backstage's own" in problem.problem


def test_backstages_own_404_is_an_absence(wire: Wire) -> None:
    wire.pieces = lambda: answer("404 Not Found", NO_ENTITY)
    catalog = BackstageCatalog(wire.url)

    assert catalog.entity(*REFERENCE) is None
    assert catalog.refresh(*REFERENCE) is False


def spaces(size: int) -> Iterator[bytes]:
    for _ in range(size // 65_536):
        yield b" " * 65_536
    yield b" " * (size % 65_536)


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Error"])
@pytest.mark.parametrize("more", [1, 10**12], ids=["a byte more", "without an end"])
def test_an_answer_beyond_16_mb_is_not_read(wire: Wire, status: str, more: int) -> None:
    size = client.MAX_BYTES - 2 + more
    head = f"HTTP/1.1 {status}\r\n\r\n{{}}".encode()
    wire.pieces = lambda: chain([head], spaces(size))

    problem = problem_of(CALLS[0], BackstageCatalog(wire.url))

    assert "answers with more than 16,777,216 bytes" in problem.problem


def test_an_entity_of_80_000_repositories_fits(wire: Wire) -> None:
    line = {
        "name": "team/" + "x" * 20,
        "owner": "app-team-payments",
        "risk": "medium",
        "environment": "prod",
        "status": "active",
        "uri": uri_of("team/" + "x" * 20),
    }
    content = json.dumps({"spec": {"repositories": [line] * 80_000}}, separators=(",", ":"))
    assert len(content) > 15_000_000
    wire.pieces = lambda: answer("200 OK", content.encode())

    entity = BackstageCatalog(wire.url).entity(*REFERENCE)

    assert entity is not None
    assert len(entity["spec"]["repositories"]) == 80_000


def trickle(before: bytes, piece: bytes) -> Iterator[bytes]:
    yield before
    while True:
        time.sleep(0.02)
        yield piece


@both_calls
@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{", b" "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n{", b" "),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"H", b""),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["body", "with a length", "in a chunk", "head", "nothing", "heads", "chunks"],
)
def test_an_answer_that_trickles_is_given_up(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, call: Call, before: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)
    wire.pieces = lambda: trickle(before, piece)

    problem_of(call, BackstageCatalog(wire.url))


@both_calls
def test_a_closed_port_is_unavailable(call: Call) -> None:
    with FakeBackstage() as fake:
        catalog = catalog_of(fake)

    problem = problem_of(call, catalog)

    assert "does not answer" in problem.problem
    assert fake.url in problem.problem


def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    problem = problem_of(CALLS[0], BackstageCatalog("http://backstage.invalid:7007"))

    assert "http://backstage.invalid:7007 does not answer" in problem.problem


def test_one_answer_after_a_failure_is_enough(fake: FakeBackstage) -> None:
    catalog = catalog_of(fake)
    fake.close()
    problem_of(CALLS[0], catalog)

    fake.open()

    assert catalog.entity(*REFERENCE) is None
    fake.close()
