"""A PostgreSQL of one's own: on a Unix socket in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg2

USER: Final = "history"


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    folder: Path

    def new_database(self, *, template: str | None = None) -> str:
        """Create a database, maybe as a copy of another; gives its name."""
        name = f"db_{uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template1'}")
        return name

    def drop_database(self, name: str) -> None:
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, database: str) -> str:
        """Name the driver that dagster-postgres installs."""
        return f"postgresql+psycopg2://{USER}@/{database}?host={self.folder}"

    def _execute(self, statement: str) -> None:
        with closing(psycopg2.connect(host=str(self.folder), user=USER, dbname="postgres")) as conn:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute(statement)


def postgres_program(name: str) -> str | None:
    """Find a program of PostgreSQL where Debian puts it, too."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


@contextmanager
def a_postgres() -> Iterator[Postgres]:
    """Start a server as somebody who is not root, which it refuses to serve."""
    initdb, pg_ctl = postgres_program("initdb"), postgres_program("pg_ctl")
    assert initdb
    assert pg_ctl
    with tempfile.TemporaryDirectory(prefix="pg-") as place:
        folder = Path(place)
        who: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            who = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}"]
            who.append("--clear-groups")
        data, log = str(folder / "data"), str(folder / "log")
        run = [*who, initdb, "-D", data, "-U", USER, "-A", "trust", "--no-sync"]
        _call([*run, "-E", "UTF8", "--locale=C"], folder)
        options = f"-c listen_addresses='' -k {folder} -c fsync=off -c timezone=UTC"
        control = [*who, pg_ctl, "-D", data, "-w", "-t", "60"]
        _call([*control, "-l", log, "-o", options, "start"], folder)
        try:
            yield Postgres(folder)
        finally:
            _call([*control, "-m", "immediate", "stop"], folder)


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    log = folder / "log"
    assert done.returncode == 0, (command, log.read_text() if log.exists() else "no log")
