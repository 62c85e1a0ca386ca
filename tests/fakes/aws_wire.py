"""The wire under the fake AWS: an HTTP server, AWS's JSON 1.1 and query protocols, errors.

Signatures are read (who calls which service in which region) and not verified. A request that no
AWS SDK would send is a bug of the fake or its user: it fails the test when the server closes.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape


class ApiError(Exception):
    """A refusal in AWS's words."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Reply:
    status: int
    content_type: str
    body: bytes
    cut: bool = False  # the connection is dropped after half of the body
    trickles_until: threading.Event | None = None  # a byte at a time, then it is dropped


@dataclass(frozen=True)
class Signature:
    """What a request's signature claims; empty where there is none."""

    access_key_id: str = ""
    region: str = ""
    service: str = ""
    session_token: str | None = None

    @classmethod
    def of(cls, headers: Message) -> Signature:
        claim = re.match(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request,",
            headers.get("Authorization", ""),
        )
        if claim is None:
            return cls()
        access_key_id, region, service = claim.groups()
        return cls(access_key_id, region, service, headers.get("X-Amz-Security-Token"))


class WireProtocol(Protocol):
    service: str
    content_type: str

    def read(self, headers: Message, body: bytes) -> tuple[str, dict[str, Any]]: ...

    def write(self, operation: str, result: dict[str, Any]) -> bytes: ...

    def write_error(self, error: ApiError) -> bytes: ...


class _Json:
    service = "ecr"
    content_type = "application/x-amz-json-1.1"

    def read(self, headers: Message, body: bytes) -> tuple[str, dict[str, Any]]:
        operation = headers["X-Amz-Target"].removeprefix("AmazonEC2ContainerRegistry_V20150921.")
        assert headers["Content-Type"] == self.content_type, headers["Content-Type"]
        parameters = json.loads(body)
        assert isinstance(parameters, dict), parameters
        return operation, parameters

    def write(self, operation: str, result: dict[str, Any]) -> bytes:
        del operation  # the query protocol names it, JSON does not
        return json.dumps(result).encode()

    def write_error(self, error: ApiError) -> bytes:
        return json.dumps({"__type": error.code, "message": error.message}).encode()


class _Query:
    service = "sts"
    content_type = "text/xml"
    namespace = "https://sts.amazonaws.com/doc/2011-06-15/"

    def read(self, headers: Message, body: bytes) -> tuple[str, dict[str, Any]]:
        assert headers["Content-Type"].startswith("application/x-www-form-urlencoded"), headers
        parameters: dict[str, Any] = dict(parse_qsl(body.decode(), strict_parsing=True))
        assert parameters.pop("Version") == "2011-06-15"
        return parameters.pop("Action"), parameters

    def write(self, operation: str, result: dict[str, Any]) -> bytes:
        request_id = {"RequestId": secrets.token_hex(16)}
        content = {f"{operation}Result": result, "ResponseMetadata": request_id}
        return self._document(f"{operation}Response", content)

    def write_error(self, error: ApiError) -> bytes:
        kind = "Sender" if error.status < 500 else "Receiver"
        described = {"Type": kind, "Code": error.code, "Message": error.message}
        content = {"Error": described, "RequestId": secrets.token_hex(16)}
        return self._document("ErrorResponse", content)

    def _document(self, root: str, content: dict[str, Any]) -> bytes:
        return f'<{root} xmlns="{self.namespace}">{self._xml(content)}</{root}>'.encode()

    def _xml(self, value: Any) -> str:
        if not isinstance(value, dict):
            return escape(str(value))
        return "".join(f"<{key}>{self._xml(each)}</{key}>" for key, each in value.items())


TRICKLE_SECONDS: Final = 0.5
JSON: Final = _Json()
QUERY: Final = _Query()


class Server(ThreadingHTTPServer):
    """Serves from its construction to `close`, which leaves no thread and no socket behind."""

    daemon_threads = False  # so that closing waits for every handler
    request_queue_size = 128

    def __init__(self, respond: Callable[[Message, bytes], Reply | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.respond = respond
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        self._crashes: list[BaseException] = []
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, name="FakeAws"
        )
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._connections_lock:
            for each in self._connections:  # clients keep theirs open between calls
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self.server_close()
        if self._crashes:
            raise self._crashes[0]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong in the fake or in a hook; a client that went away is nothing."""
        del request, client_address
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self._crashes.append(error)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client went away before it had said all")
        reply = self.server.respond(self.headers, body)
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        self.send_header("x-amzn-RequestId", secrets.token_hex(16))
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if reply.trickles_until is not None:
            self._trickle(reply.body, reply.trickles_until)
            return
        self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
        self.close_connection |= reply.cut

    def _trickle(self, body: bytes, until: threading.Event) -> None:
        self.close_connection = True
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if until.wait(TRICKLE_SECONDS):
                return

    def log_message(self, *_: Any) -> None:
        """Say nothing: `FakeAws.calls` is the log."""
