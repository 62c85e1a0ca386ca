"""A Backstage catalog as a client of its API meets it, on a loopback port, and its faults.

    with FakeBackstage() as backstage:
        backstage.source = lambda: path.read_bytes()  # what a re-read finds
        backstage.fail(Fault.SERVER_ERROR)

It knows the endpoints that we use, and refuses every other one. What is asked of it is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote

import yaml

BY_NAME: Final = "/api/catalog/entities/by-name/"
REFRESH: Final = "/api/catalog/refresh"
BY_REFS: Final = "/api/catalog/entities/by-refs"
NOTIFICATIONS: Final = "/api/notifications/notifications"
LOCATION: Final = "url:https://git.example.com/catalog.yaml"


class Fault(Enum):
    """What can go wrong with every call until the fault is cleared."""

    FORBIDDEN = auto()
    SERVER_ERROR = auto()
    REDIRECT = auto()  # to a login page, as proxies do
    GARBAGE = auto()  # status 200 and HTML
    A_LIST = auto()  # status 200 and JSON that is no entity
    DROP = auto()  # the connection is closed without an answer
    HANG = auto()  # no answer until the fault is cleared or the fake closed


@dataclass(frozen=True)
class Asked:
    """One HTTP request."""

    method: str
    path: str
    authorization: str | None
    body: Any = None


class FakeBackstage:
    """A context manager: it serves inside `with`.

    Attributes:
        token: the bearer token that it insists on; None allows everybody.
        source: gives the file that a re-read finds; None finds nothing, and changes nothing.
        looks: whether its processing finds a new entity by itself.
        locations: type and target of those that it is configured to read.
        tampering: what happens to an entity between its location and the API.
        groups: the members of each Group that it knows, by references.
        inbox: the notifications that each user has, by user and scope.
        notifies: whether it has the plugin that sends notifications.
        refuses: the recipients whose notifications it refuses.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.source: Callable[[], bytes | None] = lambda: None
        self.tampering: Callable[[dict[str, Any]], None] = lambda _: None
        self.looks = True
        self.locations: list[tuple[str, str]] = []
        self.groups: dict[str, list[str]] = {}
        self.inbox: dict[tuple[str, str], dict[str, Any]] = {}
        self.notifies = True
        self.refuses: set[str] = set()
        self.asked: list[Asked] = []
        self.served: dict[str, dict[str, Any]] = {}
        self._fault: Fault | None = None
        self._cleared = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Serve, at the same port as before if it served before."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake._handle(self)

            def do_POST(self) -> None:
                fake._handle(self)

            def log_message(self, *_: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                """Say nothing: a client may leave before it has its answer."""

        server = Quiet(("127.0.0.1", self._port), Handler)
        self._server, self._port = server, server.server_port
        threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True).start()

    def close(self) -> None:
        """Close the port; what still hangs is let go."""
        self.clear()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # What it serves

    def serve(self, content: bytes) -> None:
        """Serve a file from now on, with what Backstage adds."""
        entity: dict[str, Any] = yaml.safe_load(content)
        metadata = entity["metadata"]
        metadata["uid"], metadata["etag"] = "7f3a", "b1"
        metadata["annotations"]["backstage.io/managed-by-location"] = LOCATION
        entity["relations"] = [{"type": "ownedBy", "targetRef": "group:default/platform-team"}]
        self.tampering(entity)
        self.served[_reference(metadata.get("namespace", "default"), metadata["name"])] = entity

    def reread(self) -> None:
        """Serve what the location holds now, as the processing loop does by itself."""
        content = self.source()
        if content is not None:
            self.serve(content)

    def forget(self) -> None:
        """Serve nothing."""
        self.served.clear()

    def count(self, method: str) -> int:
        return sum(each.method == method for each in self.asked)

    # What goes wrong

    def fail(self, fault: Fault) -> None:
        self._cleared.clear()
        self._fault = fault

    def clear(self) -> None:
        self._fault = None
        self._cleared.set()

    # One request

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else None
        authorization = handler.headers.get("Authorization")
        self.asked.append(Asked(handler.command, handler.path, authorization, body))
        fault = self._fault
        if fault is Fault.HANG:
            self._cleared.wait()
        if fault in {Fault.HANG, Fault.DROP}:
            handler.close_connection = True
            return
        status, answer = self._answer(handler.command, handler.path, authorization, body, fault)
        if status == 404 and handler.command == "GET" and self.looks:
            self.reread()  # its processing finds a new entity by itself, soon
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        handler.send_response(status)
        if status == 302:
            handler.send_header("Location", f"{self.url}/login")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _answer(
        self, method: str, path: str, authorization: str | None, body: Any, fault: Fault | None
    ) -> tuple[int, Any]:
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, {"error": {"name": "AuthenticationError", "message": "Illegal token"}}
        spoilt: dict[Fault | None, tuple[int, Any]] = {
            Fault.FORBIDDEN: (403, {"error": {"name": "NotAllowedError"}}),
            Fault.SERVER_ERROR: (500, {"error": {"name": "Error"}}),
            Fault.REDIRECT: (302, b"<html>elsewhere</html>"),
            Fault.GARBAGE: (200, b"<html>Sign in</html>"),
            Fault.A_LIST: (200, [1, 2]),
        }
        if fault in spoilt:
            return spoilt[fault]
        if method == "GET" and path.startswith(f"{BY_NAME}resource/"):
            parts = path.removeprefix(f"{BY_NAME}resource/").split("/")
            found = self.served.get(_reference(*map(unquote, parts))) if len(parts) == 2 else None
            return (200, deepcopy(found)) if found is not None else (404, _NOT_FOUND)
        posted = {REFRESH: self._refresh, BY_REFS: self._by_refs, NOTIFICATIONS: self._notify}
        return posted[path](body) if method == "POST" and path in posted else (404, _NOT_FOUND)

    def _refresh(self, body: Any) -> tuple[int, Any]:
        reference = str((body or {}).get("entityRef")).lower()
        known = {f"resource:{each}" for each in self.served}
        known |= {location_reference(*each) for each in self.locations}
        if reference not in known:
            return 404, _NOT_FOUND
        self.reread()
        return 200, b""

    def _by_refs(self, body: Any) -> tuple[int, Any]:
        if set(body) - {"entityRefs", "fields"} or len(json.dumps(body)) > 100_000:
            return _refused("a key or a size that it does not take")
        parts = [_REFERENCE.fullmatch(each) for each in body["entityRefs"]]
        if not all(parts):
            return _refused("no entity reference")
        return 200, {
            "items": [
                {"kind": "Group", "metadata": {"name": found["name"]}}
                if found and found[0].lower() in self.groups
                else None
                for found in parts
            ]
        }

    def _notify(self, body: Any) -> tuple[int, Any]:
        if not self.notifies:  # Not in the words of a plugin: there is none.
            return 404, b""
        if why := self._invalid(body):
            return _refused(why)
        owner, payload = body["recipients"]["entityRef"], body["payload"]
        users = [owner] if owner.startswith("user:") else self.groups.get(owner, [])
        for user in users:  # One of the same scope is replaced, and unread again.
            self.inbox[user, payload["scope"]] = payload
        return 200, [{"user": user, "payload": payload} for user in users]

    def _invalid(self, body: Any) -> str:
        recipients, payload = body.get("recipients"), body.get("payload")
        owner = recipients.get("entityRef") if recipients else ""
        faults = {
            "no recipients or no title": not (recipients and payload and payload.get("title")),
            "another key": set(body) != {"recipients", "payload"} or set(payload) - _PAYLOAD,
            "another severity": payload.get("severity") not in _SEVERITIES,
            "a text that is too long": any(len(payload[key]) > 255 for key in _SHORT),
            "recipients of another type": recipients != {"type": "entity", "entityRef": owner},
            "unknown receivers": owner in self.refuses or not _REFERENCE.fullmatch(owner),
        }
        return next((why for why, is_so in faults.items() if is_so), "")

    def titles_of(self, user: str) -> list[str]:
        """What a user finds, in the order of scopes."""
        return [self.inbox[key]["title"] for key in sorted(self.inbox) if key[0] == user]

    def sent(self) -> list[str]:
        """The titles of all notifications that were asked for, in order."""
        return [each.body["payload"]["title"] for each in self.asked if each.path == NOTIFICATIONS]


def _refused(why: str) -> tuple[int, Any]:
    return 400, {"error": {"name": "InputError", "message": why}}


_REFERENCE: Final = re.compile(r"[a-z]+:[^/:]+/(?P<name>[^/:]+)", re.IGNORECASE)
_PAYLOAD: Final = {"title", "description", "severity", "link", "scope", "topic"}
_SHORT: Final = ("title", "scope", "topic")
_SEVERITIES: Final = {"critical", "high", "normal", "low"}
_NOT_FOUND: Final = {"error": {"name": "NotFoundError"}}


def _reference(namespace: str, name: str) -> str:
    return f"{namespace}/{name}".lower()


def location_reference(kind: str, target: str) -> str:
    """The reference of the Location entity that Backstage makes of a configured location.

    It can be refreshed even before anything has been read from there.
    """
    digest = hashlib.sha1(f"{kind}:{target}".encode(), usedforsecurity=False).hexdigest()
    return f"location:default/generated-{digest}"
