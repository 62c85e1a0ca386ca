"""Prometheus' text format: written and read with its own library, and served over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.core.metrics import Family, Sample

_CLIENT_SECONDS: Final = 10
"""How long a client may take to say what it wants, and to read the answer."""
_WORDS: Final = "text/plain; charset=utf-8"


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name.removesuffix("_total"), family.description, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric


def write_text(families: Iterable[Family]) -> bytes:
    """Write metrics in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


def read_text(content: bytes) -> list[Sample]:
    """Read the samples of a text.

    Raises:
        ValueError: it is not in the text format.
    """
    try:
        return [
            Sample(sample.name, sample.labels, float(sample.value))
            for family in text_string_to_metric_families(content.decode())
            for sample in family.samples
        ]
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"not in Prometheus' text format: {error}") from None


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Page:
    """What is served.

    Attributes:
        content: of /metrics; None while there is nothing true to say.
        problem: why there is nothing; empty when there is.
    """

    content: bytes | None
    problem: str = ""


@contextmanager
def serving(address: Address, page: Callable[[], Page]) -> Iterator[Address]:
    """Serve /metrics and /healthz in the background; gives where.

    Args:
        page: gives what to serve, at once.

    Raises:
        SettingsError: nobody can listen there.
    """
    try:
        server = _Server(address, page)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {address}: {error.strerror or error}",
            remediation="Choose another address with --listen ADDRESS:PORT.",
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield Address(*server.server_address[:2])  # type: ignore[arg-type] # the class knows any family
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _CLIENT_SECONDS
    server: _Server

    def do_GET(self) -> None:
        now, path = self.server.page(), self.path.partition("?")[0]
        if path not in {"/metrics", "/healthz"}:
            self._send(404, _WORDS, b"There are /metrics and /healthz.\n")
        elif now.content is None:
            self._send(503, _WORDS, f"{now.problem}\n".encode())
        elif path == "/healthz":
            self._send(200, _WORDS, b"ok\n")
        else:
            self._send(200, CONTENT_TYPE_PLAIN_0_0_4, now.content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, code: int, content_type: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: a line for every scrape fills a log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Address, page: Callable[[], Page]) -> None:
        self.address_family = AF_INET6 if ":" in address.host else AF_INET
        self.page = page
        super().__init__((address.host, address.port), _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that went away."""
