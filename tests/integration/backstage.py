"""A real Backstage on loopback, and what it reads: an HTTP server of files, an S3 bucket.

`backstage/` must be installed (`npm ci` there). Where it is not, tests skip; with
`ECR_CATALOG_REQUIRE_ALL` set they fail.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from mypy_boto3_s3 import S3Client

BACKSTAGE: Final = Path(__file__).parents[2] / "backstage"
DEMO_CONFIG: Final = BACKSTAGE / "app-config.yaml"
TOKEN: Final = "a-token-of-the-tests"
REGION: Final = "eu-west-2"

START_SECONDS: Final = 60
STOP_SECONDS: Final = 20

# For a configuration that says neither where to listen nor what database to use.
ON_LOOPBACK: Final[Mapping[str, Any]] = {
    "baseUrl": "http://127.0.0.1:${BACKSTAGE_PORT}",
    "listen": {"host": "127.0.0.1", "port": "${BACKSTAGE_PORT}"},
    "database": {"client": "better-sqlite3", "connection": ":memory:"},
    "logger": {"level": "warn"},
}
# What S3 clients of Backstage find in their environment; real keys never get there.
DUMMY_AWS: Final[Mapping[str, str]] = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def require_backstage() -> None:
    """Skip the test where Backstage cannot run, or fail it if nothing may be skipped."""
    if shutil.which("node") is None:
        missing = "Node is not installed"
    elif not (BACKSTAGE / "node_modules" / ".package-lock.json").is_file():
        missing = "Backstage is not installed: run `npm ci` in backstage/"
    else:
        return
    if os.environ.get("ECR_CATALOG_REQUIRE_ALL"):
        pytest.fail(f"{missing}, and ECR_CATALOG_REQUIRE_ALL lets nothing be skipped")
    pytest.skip(missing)


@dataclass(frozen=True)
class Backstage:
    """A Backstage backend that answers."""

    url: str
    token: str
    log: Path
    _process: subprocess.Popen[bytes] = field(repr=False)

    @classmethod
    def start(
        cls,
        folder: Path,
        configs: Sequence[Path],
        *,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        token: str = TOKEN,
    ) -> Backstage:
        """Start the backend of `backstage/` and wait until it is ready.

        Args:
            folder: for its log and its home; nothing else of this machine's is passed on.
            configs: the `--config` files in their order.
            overrides: a last `--config`.
            environment: what the configuration substitutes, besides port and token.
        """
        require_backstage()
        home = folder / "home"
        home.mkdir(exist_ok=True)
        port, log = free_port(), folder / "backstage.log"
        files = list(configs)
        if overrides is not None:
            files.append(folder / "app-config.overrides.yaml")
            files[-1].write_text(yaml.safe_dump(dict(overrides)), encoding="utf-8")
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["node", "index.js", *(word for file in files for word in ("--config", str(file)))],
                cwd=BACKSTAGE,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(home),
                    "BACKSTAGE_PORT": str(port),
                    "BACKSTAGE_TOKEN": token,
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = cls(f"http://127.0.0.1:{port}", token, log, process)
        try:
            wait_for(started._is_ready, START_SECONDS, "Backstage to be ready")
        except BaseException:
            started.stop()
            raise
        return started

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def entity(self, reference: str) -> dict[str, Any] | None:
        """Give the entity of a reference such as `resource:default/name`; None when unknown."""
        kind, _, rest = reference.partition(":")
        namespace, _, name = rest.partition("/")
        path = "/".join(quote(part, safe="") for part in (kind, namespace, name))
        status, body = self.ask("GET", f"/api/catalog/entities/by-name/{path}")
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        assert status == http.HTTPStatus.OK, (status, body)
        assert isinstance(body, dict)
        return body

    def entities(self) -> list[dict[str, Any]]:
        status, body = self.ask("GET", "/api/catalog/entities")
        assert status == http.HTTPStatus.OK, (status, body)
        assert isinstance(body, list)
        return body

    def refresh(self, reference: str) -> bool:
        """Ask for a re-read; False when the entity is unknown."""
        status, body = self.ask("POST", "/api/catalog/refresh", {"entityRef": reference})
        assert status in {http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND}, (status, body)
        return status == http.HTTPStatus.OK

    def errors(self, reference: str) -> str:
        """What went wrong the last time that this entity was processed; empty when nothing did."""
        entity = self.entity(reference) or {}
        items = entity.get("status", {}).get("items", [])
        return "\n".join(item["message"] for item in items if item["level"] == "error")

    def ask(
        self, method: str, path: str, payload: object = None, *, token: str | None = None
    ) -> tuple[int, Any]:
        """Give status and body of an answer.

        Args:
            token: instead of the right one; empty sends none.
        """
        token = self.token if token is None else token
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            body = None if payload is None else json.dumps(payload)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(content)
        except ValueError:
            return answer.status, content.decode(errors="replace")

    def _is_ready(self) -> bool:
        said = self.log.read_text(errors="replace")[-3000:]
        assert self._process.poll() is None, f"Backstage ended by itself:\n{said}"
        try:
            status, _ = self.ask("GET", "/.backstage/health/v1/readiness")
        except OSError:
            return False
        return status == http.HTTPStatus.OK


@contextmanager
def running_backstage(
    folder: Path,
    configs: Sequence[Path],
    *,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    token: str = TOKEN,
) -> Iterator[Backstage]:
    """Run a Backstage; `Backstage.start` says what the arguments mean."""
    backstage = Backstage.start(
        folder, configs, overrides=overrides, environment=environment, token=token
    )
    try:
        yield backstage
    finally:
        backstage.stop()


class FileServer:
    """Serves files on loopback, with ETags. Backstage must be allowed to read from `host`."""

    def __init__(self) -> None:
        files: dict[str, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = files.get(self.path.removeprefix("/"))
                etag = f'"{hashlib.sha256(content or b"").hexdigest()}"'
                if content is None:
                    status, content = http.HTTPStatus.NOT_FOUND, b"not found"
                elif self.headers.get("If-None-Match") == etag:
                    status, content = http.HTTPStatus.NOT_MODIFIED, b""
                else:
                    status = http.HTTPStatus.OK
                self.send_response(status)
                self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._files = files
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.host = f"127.0.0.1:{self._server.server_port}"

    def put(self, name: str, content: bytes) -> None:
        self._files[name] = content

    def delete(self, name: str) -> None:
        del self._files[name]

    def url(self, name: str) -> str:
        return f"http://{self.host}/{name}"

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket at an endpoint on loopback."""

    name: str
    endpoint: str
    _client: S3Client = field(repr=False)

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.name}"

    @property
    def integration(self) -> dict[str, Any]:
        """What Backstage needs under `integrations` to read it."""
        return {"awsS3": [{"endpoint": self.endpoint, "s3ForcePathStyle": True}]}

    def put(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=key)


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    """Serve an empty bucket; moto shares what it holds with every other server of this process."""
    name = f"backstage-{uuid.uuid4()}"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=DUMMY_AWS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=DUMMY_AWS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield Bucket(name, endpoint, client)
    finally:
        server.stop()


def wait_for(ready: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something is true; gives the seconds that it took."""
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < seconds, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
