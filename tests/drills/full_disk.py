"""Publishes where a disk fills up and gets room again; run where `unshare` has made a tiny one.

    unshare --mount python -m tests.drills.full_disk DISK FOLDER file|remote|clone

Mounts a tmpfs of 2 MB on DISK, which is gone with the process. Prints one JSON object: what the
publication said while the disk was full, what was read meanwhile, and what the next ones came to.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline.adapters.publish_file import FilePublisher
from ecr_catalog_pipeline.adapters.publish_git import GitPublisher
from ecr_catalog_pipeline.adapters.publisher import Provenance, Publisher
from ecr_catalog_pipeline.core.errors import CatalogError
from tests.integration.conftest import Repository

OLD: Final = b"old: " + b"x" * 5_000
NEW: Final = b"new: " + bytes(range(256)) * 200
BRANCH: Final = "governance-registry"
PATH: Final = "catalog/entity.yaml"
BY_DRILL: Final = Provenance("goldenpath", "a drill", "0" * 40, "0" * 64, "a-run")


def fill(disk: Path) -> Path:
    """Leave no byte and no inode."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4_096)
        except OSError:
            return filler


def made(what: str, disk: Path, folder: Path) -> Publisher:
    if what == "file":
        return FilePublisher(disk / "published" / "entity.yaml")
    remote = Repository.create((disk if what == "remote" else folder) / "remote.git", bare=True)
    cache = (disk if what == "clone" else folder) / "cache"
    return GitPublisher(str(remote.folder), BRANCH, PATH, cache)


def main(disk: Path, folder: Path, what: str) -> dict[str, object]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], check=True)
    publisher = made(what, disk, folder)
    old = publisher.publish(OLD, None, BY_DRILL)
    filler = fill(disk)
    found: dict[str, object] = {"where": publisher.where}
    try:
        publisher.publish(NEW, old, BY_DRILL)
    except CatalogError as error:
        found |= {
            "error": type(error).__name__,
            "words": str(error),
            "remediation": error.remediation,
        }
    found["left"] = sorted(each.name for each in disk.glob("published/*"))
    filler.unlink()
    found["meanwhile"] = publisher.read().content == OLD
    publisher.publish(NEW, old, BY_DRILL)
    found["after"] = publisher.read().content == NEW
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
