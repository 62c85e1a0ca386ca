"""Parsed governance is kept in the process and on disk, and never believed too easily."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from ecr_catalog_pipeline.adapters.catalog_cache import KEPT, CatalogCache
from ecr_catalog_pipeline.core.errors import GovernanceRefused
from ecr_catalog_pipeline.core.governance import Catalog, parse_governance

ONE: Final = b"""version: "1.0"
repositories:
  ab: {metadata: {id: REGISTRY_AB, owner: team, risk: low, environment: dev, status: pending}}
  cd: {metadata: {owner: 12, status: gone}, aws: {repository_url: x/cd}, odd: 1}
  no:
    metadata: {id: REGISTRY_NO, owner: caf\xc3\xa9, status: active, created_date: 2026-01-09}
    governance: {image_scanning: true, encryption: KMS, lifecycle_policy: {keep_image_count: 5}}
  Not A Name:
"""
TWO: Final = b"repositories: {}"


def blob_of(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def cache(folder: Path, file: str = "governance") -> CatalogCache:
    """A cache as another process makes it."""
    return CatalogCache(folder / "governance", file)


def parsed(folder: Path, content: bytes, *, blob: str | None = None) -> Catalog:
    return cache(folder).parse(content, blob or blob_of(content), "ecr-catalog.yaml")


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "governance").glob("*.json"))


def test_what_was_parsed_is_the_same_from_the_cache(tmp_path: Path) -> None:
    first = parsed(tmp_path, ONE)

    assert first == parse_governance(ONE)
    assert first.findings
    assert parsed(tmp_path, ONE) == first


def test_another_process_does_not_parse_what_was_parsed(tmp_path: Path) -> None:
    first = parsed(tmp_path, ONE)

    # Content that is not looked at cannot be refused.
    assert parsed(tmp_path, b"[}", blob=blob_of(ONE)) == first


def test_the_same_process_reads_nothing_again(tmp_path: Path) -> None:
    catalogs = cache(tmp_path)
    first = catalogs.parse(ONE, blob_of(ONE), "")
    (file,) = kept(tmp_path)
    file.unlink()

    assert catalogs.parse(b"[}", blob_of(ONE), "") is first


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    parsed(tmp_path, ONE)
    (file,) = kept(tmp_path)
    name = file.name.partition("-")[0]
    left = file.with_name(f".{name}.ecr-catalog-abc123")
    left.write_bytes(b"half a catalog")

    parsed(tmp_path, TWO)

    assert not left.exists()
    assert len(kept(tmp_path)) == 2


def test_another_blob_is_another_catalog(tmp_path: Path) -> None:
    catalogs = cache(tmp_path)
    for content in (ONE, TWO, ONE):
        assert catalogs.parse(content, blob_of(content), "") == parse_governance(content)


def test_a_refused_file_is_refused_each_time_by_its_own_name(tmp_path: Path) -> None:
    catalogs = cache(tmp_path)
    for path in ("one.yaml", "two.yaml"):
        with pytest.raises(GovernanceRefused, match=f"^{path}:1:2: "):
            catalogs.parse(b"[}", blob_of(b"[}"), path)
    assert kept(tmp_path) == []


def test_what_is_looked_at_once_is_not_kept(tmp_path: Path) -> None:
    cache(tmp_path).parse(ONE, blob_of(ONE), "", keep=False)

    assert kept(tmp_path) == []


def test_only_the_last_versions_of_each_file_stay(tmp_path: Path) -> None:
    other = cache(tmp_path, "another file")
    other.parse(TWO, blob_of(TWO), "")
    versions = [TWO + b"\n" * number for number in range(KEPT + 3)]
    for place, content in enumerate(versions):
        parsed(tmp_path, content)
        for file in kept(tmp_path):
            if blob_of(content) in file.name:
                os.utime(file, (place, place))

    names = "".join(file.name for file in kept(tmp_path))
    assert len(kept(tmp_path)) == KEPT + 1
    assert all(blob_of(content) in names for content in versions[-KEPT:])


def head(body: bytes, **changes: str) -> bytes:
    """The first line of a kept file, as this version of ours writes it, but for changes."""
    from ecr_catalog_pipeline.adapters import catalog_cache  # noqa: PLC0415

    said = json.loads(catalog_cache._head(blob_of(ONE), body))
    return json.dumps({**said, **changes}).encode()


def of_another_version(content: bytes) -> bytes:
    body = content.partition(b"\n")[2].replace(b"team", b"mate")
    return head(body, parser="0" * 64) + b"\n" + body


def of_another_blob(content: bytes) -> bytes:
    body = content.partition(b"\n")[2].replace(b"team", b"mate")
    return head(body, blob=blob_of(TWO)) + b"\n" + body


def hostile(body: bytes) -> Callable[[bytes], bytes]:
    return lambda _: head(body) + b"\n" + body


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content + b" ",
        lambda content: content.replace(b"team", b"mate"),
        lambda content: content.replace(b"\n", b"", 1),
        lambda content: b"\x00" * len(content),
        of_another_version,
        of_another_blob,
        hostile(b"[]"),
        hostile(b"{}"),
        hostile(b"[" * 100_000),
        hostile(b'{"entries": [{"owner": "x"}], "findings": []}'),
        hostile(b'{"entries": [{"name": "x", "status": "gone"}], "findings": []}'),
        hostile(b'{"entries": [{"name": ["x"]}], "findings": []}'),
        hostile(b'{"entries": [], "findings": [{"repository": "x"}]}'),
    ],
)
def test_a_kept_file_that_is_not_what_was_written_is_parsed_again_and_put_right(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    parsed(tmp_path, ONE)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))

    assert parsed(tmp_path, ONE) == parse_governance(ONE)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("stands", ["folder", "pipe", "dead link"])
def test_something_else_in_its_place_is_not_an_error(tmp_path: Path, stands: str) -> None:
    parsed(tmp_path, ONE)
    (file,) = kept(tmp_path)
    file.unlink()
    match stands:
        case "folder":
            (file / "inside").mkdir(parents=True)
        case "pipe":
            os.mkfifo(file)
        case _:
            file.symlink_to(tmp_path / "nowhere")

    assert parsed(tmp_path, ONE) == parse_governance(ONE)


def test_a_cache_that_cannot_be_written_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "governance").write_text("a file")

    assert parsed(tmp_path, ONE) == parse_governance(ONE)


@pytest.mark.parametrize("blob", ["", "../../escape", "x", "0" * 41])
def test_what_is_not_a_blob_is_parsed_and_not_kept(tmp_path: Path, blob: str) -> None:
    assert cache(tmp_path).parse(ONE, blob, "") == parse_governance(ONE)
    assert kept(tmp_path) == []
