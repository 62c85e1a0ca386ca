"""Asks a Backstage catalog what it serves. What the answer means is decided in `core.parity`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import urllib3

from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.owners import TOPIC, Notice

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 10
ANSWER_SECONDS: Final = 20
"""How long the head of an answer may take, and then its body, however steadily they trickle."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""A longer answer is none; an entity that lists 80,000 repositories takes less."""
MAX_DEPTH: Final = 100
"""An entity that nests deeper is none: what digests and compares it could not walk it."""

_PART: Final = 65_536
_DENIED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class BackstageCatalog:
    """One Backstage. The token is read from its variable at each call and never kept.

    Args:
        token_file: read where the variable is not set; the demo's.
    """

    def __init__(
        self, url: str, token_env: str | None = None, *, token_file: Path | None = None
    ) -> None:
        self.url = url
        self._token_env = token_env
        self._token_file = token_file

    def entity(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Give the Resource of that name as it is served; None when there is none.

        Raises:
            BackstageUnavailable: it does not answer, or not to us.
        """
        path = f"/api/catalog/entities/by-name/resource/{_quoted(namespace)}/{_quoted(name)}"
        status, body = self._call("GET", path)
        if status == HTTPStatus.NOT_FOUND:
            return None
        entity = _object(body)
        if entity is None:
            raise self._unavailable("answers with something that is not an entity")
        return entity

    def refresh(self, namespace: str, name: str) -> bool:
        """Ask for a re-read of the entity's location; False when the entity is unknown.

        Raises:
            BackstageUnavailable: it does not answer, or not to us.
        """
        return self._refresh(f"resource:{namespace}/{name}")

    def refresh_location(self, kind: str, target: str) -> bool:
        """Ask for a re-read of a configured location; False when Backstage has no such one.

        Its Location entity has a name that follows from type and target, and can be refreshed
        before anything was ever read from there.

        Raises:
            BackstageUnavailable: it does not answer, or not to us.
        """
        digest = hashlib.sha1(f"{kind}:{target}".encode(), usedforsecurity=False).hexdigest()
        return self._refresh(f"location:default/generated-{digest}")

    def known(self, references: Sequence[str]) -> dict[str, bool]:
        """Say of each entity reference whether there is such an entity, in one request.

        Raises:
            BackstageUnavailable: it does not answer, or not to us.
        """
        if not references:
            return {}
        fields = ["kind", "metadata.name", "metadata.namespace"]
        payload = {"entityRefs": list(references), "fields": fields}
        status, body = self._call("POST", "/api/catalog/entities/by-refs", payload)
        answer = _object(body) if status == HTTPStatus.OK else None
        items = answer.get("items") if answer else None
        if not isinstance(items, list) or len(items) != len(references):
            raise self._unavailable("answers with something that is not a list of entities")
        found = (isinstance(item, dict) for item in items)
        return dict(zip(references, found, strict=True))

    def notify(self, notice: Notice) -> None:
        """Send a notice to its owner; one of the same scope takes the place of the one before.

        Raises:
            BackstageUnavailable: it does not take it, or has no notifications.
        """
        payload = {
            "recipients": {"type": "entity", "entityRef": notice.owner},
            "payload": {
                "title": notice.title,
                "description": notice.description,
                "severity": notice.severity,
                "link": notice.link,
                "scope": notice.scope,
                "topic": TOPIC,
            },
        }
        path = "/api/notifications/notifications"
        status, _ = self._call("POST", path, payload, may_lack=True)
        if status == HTTPStatus.NOT_FOUND:
            raise BackstageUnavailable(
                f"Backstage at {self.url} has no notifications",
                remediation="Install its notifications backend, or set notify.backstage to false.",
            )

    def _refresh(self, reference: str) -> bool:
        status, _ = self._call("POST", "/api/catalog/refresh", {"entityRef": reference})
        return status != HTTPStatus.NOT_FOUND

    def _call(
        self, method: str, path: str, payload: object = None, *, may_lack: bool = False
    ) -> tuple[int, bytes]:
        """Give status and body of an answer.

        Args:
            may_lack: the path belongs to a plugin that Backstage may lack; its 404 of such a path
                is not that of its plugins.
        """
        headers = {"Accept": "application/json"}
        token = self._token()
        if not (token.isascii() and token.isprintable()):
            raise BackstageUnavailable(
                f"the token for Backstage at {self.url} holds characters that no header can carry",
                remediation=f"Put the bare token into the environment variable {self._token_env}.",
            )
        if token:
            headers["Authorization"] = f"Bearer {token}"
        body = None if payload is None else json.dumps(payload).encode()
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = self._pool.request(
                *(method, self.url + path),
                body=body,
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            content = self._content(answer)
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise self._unavailable(f"does not answer: {type(reason).__name__}") from None
        if not (may_lack and answer.status == HTTPStatus.NOT_FOUND):
            self._check_status(answer.status, content, f"{method} {path}")
        return answer.status, content

    def _content(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        """Read the body, as much of it and as long as an answer of Backstage can take."""
        deadline = time.monotonic() + ANSWER_SECONDS
        content = bytearray()
        with closing(answer):
            while part := answer.read1(_PART):
                content += part
                if len(content) > MAX_BYTES:
                    raise self._unavailable(f"answers with more than {MAX_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise self._unavailable(f"takes more than {ANSWER_SECONDS} s to answer")
            answer.release_conn()
        return bytes(content)

    def _check_status(self, status: int, content: bytes, call: str) -> None:
        if status in _DENIED:
            raise BackstageUnavailable(
                f"Backstage at {self.url} refuses us with {status}",
                remediation=f"Put a valid token into the environment variable "
                f"{self._token_env or 'that backstage.token_env names'}.",
            )
        if status == HTTPStatus.NOT_FOUND and not _is_not_found(content):
            raise self._unavailable(
                f"answers {call} with a 404 that is not Backstage's own: a proxy's, or another "
                "service's"
            )
        if status >= HTTPStatus.MULTIPLE_CHOICES and status != HTTPStatus.NOT_FOUND:
            raise self._unavailable(f"answers {call} with {status}")

    def _token(self) -> str:
        given = os.environ.get(self._token_env, "").strip() if self._token_env else ""
        if given or self._token_file is None:
            return given
        try:
            return self._token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return ""

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        # Of headers that it cannot read urllib3 warns with a traceback.
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), retries=False
        )
        pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return pool

    def _unavailable(self, what: str) -> BackstageUnavailable:
        return BackstageUnavailable(
            f"Backstage at {self.url} {what}",
            remediation="Check backstage.url, the network and Backstage itself; what is published "
            "stays.",
        )


class _BoundedHead(urllib3.connection.HTTPConnection):
    """A connection that is shut down when the head of an answer takes too long.

    A timeout counts from byte to byte, so that a head which trickles in would never time out.
    """

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        late = threading.Event()
        timer = threading.Timer(ANSWER_SECONDS, _shut_down, (self.sock, late))
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()
        finally:
            timer.cancel()
        if late.is_set():  # What was read of the head reads like a whole one.
            raise urllib3.exceptions.TimeoutError
        return answer


class _BoundedHttpsHead(_BoundedHead, urllib3.connection.HTTPSConnection):
    pass


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _BoundedHead


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _BoundedHttpsHead


def _shut_down(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        # Of TLS, too, below the protocol: what reads it then meets the end.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _is_not_found(body: bytes) -> bool:
    """Whether a body is what Backstage says of an entity that it does not know."""
    answer = _object(body)
    error = answer.get("error") if answer else None
    return isinstance(error, dict) and error.get("name") == "NotFoundError"


def _object(body: bytes) -> dict[str, Any] | None:
    """Give the object that a body holds; None when it holds none, or one that nests too deep."""
    try:
        entity = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return entity if isinstance(entity, dict) and _depth(entity) <= MAX_DEPTH else None


def _depth(value: object) -> int:
    """How deep a JSON value nests, counted without recursion."""
    depth, level = 0, [value]
    while level := [inner for each in level for inner in _inside(each)]:
        depth += 1
    return depth


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _quoted(part: str) -> str:
    return quote(part, safe="")
