"""Keeps governance files as they were parsed, in the process and on disk.

A file is known by its git blob and by the code that parsed it. The cache only ever saves time: what
cannot be read, written or believed is parsed again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from contextlib import suppress
from functools import cache as cache_calls
from pathlib import Path
from typing import Final

import yaml
from pydantic import TypeAdapter

from ecr_catalog_pipeline import core
from ecr_catalog_pipeline.adapters.files import clear_beside, read_regular_file, replace_file
from ecr_catalog_pipeline.core.governance import MAX_BYTES, Catalog, parse_governance

KEPT: Final = 3
"""How many versions of one governance file are kept on disk."""
MAX_KEPT_BYTES: Final = 10 * MAX_BYTES

_BLOB: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_CATALOG: Final = TypeAdapter(Catalog)


class CatalogCache:
    """The parsed versions of one governance file.

    Args:
        folder: where they are kept; made when something is.
        file: names the governance file among those of other mirrors.
    """

    def __init__(self, folder: Path, file: str) -> None:
        self._folder = folder
        self._name = hashlib.sha256(file.encode()).hexdigest()[:16]
        self._last: tuple[str, Catalog] | None = None

    def parse(self, content: bytes, blob: str, path: str, *, keep: bool = True) -> Catalog:
        """Parse a governance file, or give what came of it when it was parsed before.

        Args:
            blob: the git blob of the content.
            path: names the file in errors.
            keep: for the next time.

        Raises:
            GovernanceRefused: the file as a whole cannot be used.
        """
        last = self._last
        if last is not None and last[0] == blob:
            return last[1]
        catalog = self._read(blob)
        if catalog is None:
            catalog = parse_governance(content, path=path)
            if keep:
                self._write(blob, catalog)
        if keep:
            self._last = blob, catalog
        return catalog

    def _read(self, blob: str) -> Catalog | None:
        try:
            kept = read_regular_file(self._file(blob), MAX_KEPT_BYTES)
            head, _, body = kept.partition(b"\n")
            return _CATALOG.validate_json(body) if head == _head(blob, body) else None
        except (OSError, ValueError):
            return None

    def _write(self, blob: str, catalog: Catalog) -> None:
        body = _CATALOG.dump_json(catalog, exclude_defaults=True)
        with suppress(OSError, ValueError):
            file = self._file(blob)
            file.parent.mkdir(parents=True, exist_ok=True)
            # One name for all versions, so that what a killed process left is cleared, too.
            beside = self._folder / self._name
            clear_beside(beside)
            replace_file(file, _head(blob, body) + b"\n" + body, beside=beside)
            self._forget_older()

    def _forget_older(self) -> None:
        kept = [(each.stat().st_mtime_ns, each) for each in self._folder.glob(f"{self._name}-*")]
        for _, each in sorted(kept)[:-KEPT]:
            each.unlink(missing_ok=True)

    def _file(self, blob: str) -> Path:
        if not _BLOB.fullmatch(blob):
            raise ValueError(blob)
        return self._folder / f"{self._name}-{blob}.json"


def _head(blob: str, body: bytes) -> bytes:
    """The first line of a kept version: whose it is, and that it is whole."""
    digest = hashlib.sha256(body).hexdigest()
    return json.dumps({"parser": _parser(), "blob": blob, "sha256": digest}).encode()


@cache_calls
def _parser() -> str:
    """Name the code that parses: all of our core, and what it uses."""
    digest = hashlib.sha256(f"{yaml.__version__} {sys.version}".encode())
    for file in sorted(Path(*core.__path__).glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
