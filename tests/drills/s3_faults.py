"""An S3 on loopback that goes wrong on demand: a proxy in front of a real one.

    with S3Faults(upstream) as faults:
        faults.fail("PUT", Broken.STORED_THEN_500, times=1)

Strict: it serves the methods GET, PUT and DELETE of objects; each fault is applied after or before
the upstream's work, as its name says.
"""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit


class Broken(Enum):
    """What goes wrong with a request."""

    # Refused before anything is done.
    INTERNAL_ERROR = 500
    SLOW_DOWN = 503
    ACCESS_DENIED = 403
    NO_SUCH_BUCKET = 404
    CONFLICT = 409
    PRECONDITION_FAILED = 412
    DROPPED = "dropped"  # the connection is closed without an answer
    HANGING = "hanging"  # no answer until the faults end

    # Done, and the answer is spoilt.
    DONE_THEN_500 = "done_then_500"
    DONE_THEN_DROPPED = "done_then_dropped"
    CUT_OFF = "cut_off"  # half of the body, Content-Length promises all
    SHORTENED = "shortened"  # half of the body, Content-Length says so, a checksum does not match
    NO_ETAG = "no_etag"
    LOGIN_PAGE = "login_page"  # 200, HTML


_CODES: Final = {
    Broken.INTERNAL_ERROR: "InternalError",
    Broken.SLOW_DOWN: "SlowDown",
    Broken.ACCESS_DENIED: "AccessDenied",
    Broken.NO_SUCH_BUCKET: "NoSuchBucket",
    Broken.CONFLICT: "ConditionalRequestConflict",
    Broken.PRECONDITION_FAILED: "PreconditionFailed",
}
_HOP_BY_HOP: Final = frozenset({"connection", "transfer-encoding", "content-length", "date"})


@dataclass
class _Injection:
    method: str
    broken: Broken
    left: int | None


@dataclass
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    promised: int | None = field(default=None)


class S3Faults:
    """The proxy; a context manager that serves inside `with`."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._injections: list[_Injection] = []
        self.asked: list[tuple[str, Broken | None]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = proxy._answer(self.command, self.path, dict(self.headers.items()), body)
                self.close_connection = True
                if answer is None:
                    return
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                length = len(answer.body) if answer.promised is None else answer.promised
                self.send_header("Content-Length", str(length))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(answer.body)

            def do_GET(self) -> None:
                self.serve()

            def do_PUT(self) -> None:
                self.serve()

            def do_DELETE(self) -> None:
                self.serve()

            def log_message(self, *_: object) -> None:
                """Say nothing; `asked` is the log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, method: str, broken: Broken, *, times: int | None = None) -> None:
        """Let the next `times` requests of a method go wrong; all of them until `clear`."""
        with self._lock:
            self._injections.append(_Injection(method, broken, times))

    def clear(self) -> None:
        """End all faults; what hangs is dropped."""
        with self._lock:
            self._injections.clear()
            self._ended.set()
            self._ended = threading.Event()

    def _due(self, method: str) -> tuple[Broken | None, threading.Event]:
        with self._lock:
            for each in self._injections:
                if each.method == method and each.left != 0:
                    if each.left is not None:
                        each.left -= 1
                    self.asked.append((method, each.broken))
                    return each.broken, self._ended
            self.asked.append((method, None))
            return None, self._ended

    def _answer(  # noqa: PLR0911 - one answer for each fault
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> _Answer | None:
        """Answer a request; None drops the connection."""
        broken, ended = self._due(method)
        if broken in _CODES:
            return _refusal(broken)
        if broken is Broken.DROPPED:
            return None
        if broken is Broken.HANGING:
            ended.wait(60)
            return None
        answer = self._ask(method, path, headers, body)
        match broken:
            case Broken.DONE_THEN_500:
                return _refusal(Broken.INTERNAL_ERROR)
            case Broken.DONE_THEN_DROPPED:
                return None
            case Broken.CUT_OFF:
                half = answer.body[: len(answer.body) // 2]
                return _Answer(answer.status, answer.headers, half, promised=len(answer.body))
            case Broken.SHORTENED:
                return _Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2])
            case Broken.NO_ETAG:
                kept = [each for each in answer.headers if each[0].lower() != "etag"]
                return _Answer(answer.status, kept, answer.body)
            case Broken.LOGIN_PAGE:
                return _Answer(200, [("Content-Type", "text/html")], b"<html>Log in</html>")
            case _:
                return answer

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> _Answer:
        passed = {name: value for name, value in headers.items() if name.lower() != "expect"}
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            connection.request(method, path, body=body, headers=passed)
            answer = connection.getresponse()
            kept = [each for each in answer.getheaders() if each[0].lower() not in _HOP_BY_HOP]
            return _Answer(answer.status, kept, answer.read())
        finally:
            connection.close()


def _refusal(broken: Broken) -> _Answer:
    body = f"<Error><Code>{_CODES[broken]}</Code><Message>In our words</Message></Error>"
    return _Answer(int(broken.value), [("Content-Type", "application/xml")], body.encode())
