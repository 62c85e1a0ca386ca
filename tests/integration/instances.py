"""Dagster instances for tests: in memory, or with `--postgres` in PostgreSQL."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from tests.integration.postgres import Postgres


class _Storage:
    """Where the instances of this process keep their history; in memory without a server."""

    server: Postgres | None = None
    template: str | None = None


@contextmanager
def history_in(server: Postgres) -> Iterator[None]:
    """Let the instances made meanwhile keep their history in a PostgreSQL."""
    _Storage.server = server
    _Storage.template = server.new_database()
    try:
        with _on_postgres(server.url(_Storage.template)) as instance:
            assert instance.get_runs_count() == 0
        yield
    finally:
        _Storage.server = _Storage.template = None


@contextmanager
def an_instance() -> Iterator[dg.DagsterInstance]:
    """An instance without a history."""
    server = _Storage.server
    if server is None:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    name = server.new_database(template=_Storage.template)
    try:
        with _on_postgres(server.url(name)) as instance:
            # Connections are kept, as the web server keeps them: a run makes 500.
            instance.optimize_for_webserver(
                statement_timeout=60_000, pool_recycle=3_600, max_overflow=20
            )
            yield instance
    finally:
        server.drop_database(name)


@contextmanager
def _on_postgres(url: str) -> Iterator[dg.DagsterInstance]:
    with tempfile.TemporaryDirectory(prefix="home-") as home:
        Path(home, "dagster.yaml").write_text(
            json.dumps(
                {
                    "telemetry": {"enabled": False},
                    "storage": {"postgres": {"postgres_url": url}},
                }
            )
        )
        with dg.DagsterInstance.from_config(home) as instance:
            yield instance
