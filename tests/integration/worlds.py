"""A small world in a folder: governance in git, an AWS, a target to publish to, a mirror file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

import boto3
import dagster as dg
import pytest
import yaml
from moto.server import ThreadedMotoServer

from ecr_catalog_pipeline.adapters.publisher import (
    NO_LISTS,
    Lists,
    Provenance,
    Published,
    Publisher,
)
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.mirroring import PlannedRegistry, Publication
from ecr_catalog_pipeline.settings import Mirror, load_mirrors
from ecr_catalog_pipeline.wiring import Adapters, adapters_of
from tests.fakes.aws import FakeAws
from tests.integration.conftest import Repository
from tests.integration.instances import an_instance

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIRROR: Final = "goldenpath"
KINDS: Final = ("git", "file", "s3")
GOVERNANCE_PATH: Final = "catalogs/ecr-catalog.yaml"
QUIET: Final = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

_WHEN: Final = (b"    platform/last-sync: ", b"    platform/source-sha: ")


def apart_from_when(entity: bytes | None) -> bytes:
    """An entity file without its two lines that say when and from which commit."""
    assert entity is not None
    lines = entity.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(_WHEN)]
    assert len(kept) == len(lines) - len(_WHEN)
    return b"".join(kept)


# Where an entity is published, as somebody else meets it


class Target(Protocol):
    def settings(self) -> dict[str, Any]:
        """Give the `publish:` block of a mirror file."""

    def content(self) -> bytes | None: ...

    def overwrite(self, content: bytes) -> None: ...

    def remove(self) -> None: ...

    def history(self) -> Sequence[object]:
        """Give what every write adds to or changes, whoever writes and whatever."""


class GitTarget:
    branch: Final = "governance-registry"
    path: Final = "catalog/resources/ecr-registry.yaml"

    def __init__(self, folder: Path) -> None:
        self.repository = Repository.create(folder / "catalog.git", bare=True)

    def settings(self) -> dict[str, Any]:
        return {
            "kind": "git",
            "repository": str(self.repository.folder),
            "branch": self.branch,
            "path": self.path,
        }

    def content(self) -> bytes | None:
        return self.repository.content(self.path, self.branch)

    def overwrite(self, content: bytes) -> None:
        self.repository.commit({self.path: content}, branch=self.branch)

    def remove(self) -> None:
        empty = self.repository.git("mktree")
        removal = self.repository.git("commit-tree", empty, "-p", self.branch, "-m", "Remove all")
        self.repository.git("update-ref", f"refs/heads/{self.branch}", removal)

    def remove_branch(self) -> None:
        self.repository.git("branch", "--delete", "--force", self.branch)

    def history(self) -> Sequence[object]:
        if not self.repository.tip(self.branch):
            return ()
        return self.repository.git("rev-list", self.branch).split()


class FileTarget:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "published" / "ecr-registry.yaml"

    def settings(self) -> dict[str, Any]:
        return {"kind": "file", "path": str(self.path)}

    def content(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def overwrite(self, content: bytes) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_bytes(content)

    def remove(self) -> None:
        self.path.unlink()

    def history(self) -> Sequence[object]:
        if not self.path.exists():
            return ()
        now = self.path.stat()
        return [(now.st_ino, now.st_mtime_ns, now.st_ctime_ns)]


class S3Target:
    """A key in a bucket of its own that keeps every version."""

    key: Final = "catalog/ecr-registry.yaml"

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self.bucket = f"catalog-{uuid4()}"
        self._s3.create_bucket(
            Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-2"}
        )
        self._s3.put_bucket_versioning(
            Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"}
        )

    def settings(self) -> dict[str, Any]:
        return {
            "kind": "s3",
            "bucket": self.bucket,
            "key": self.key,
            "endpoint_url": self.endpoint_url,
        }

    def content(self) -> bytes | None:
        try:
            return self._s3.get_object(Bucket=self.bucket, Key=self.key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None

    def overwrite(self, content: bytes) -> None:
        self._s3.put_object(Bucket=self.bucket, Key=self.key, Body=content)

    def remove(self) -> None:
        self._s3.delete_object(Bucket=self.bucket, Key=self.key)

    def history(self) -> Sequence[object]:
        listed = self._s3.list_object_versions(Bucket=self.bucket)
        return [each["VersionId"] for each in listed.get("Versions", [])]

    @cached_property
    def _s3(self) -> S3Client:
        client: S3Client = boto3.client(
            "s3",
            region_name="eu-west-2",
            endpoint_url=self.endpoint_url,
            aws_access_key_id="a-test",
            aws_secret_access_key="a-test",
        )
        return client


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 on a loopback port; gives its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


# The world


@dataclass(frozen=True)
class Synced:
    """One run of a mirror's job that succeeded."""

    result: dg.ExecuteInProcessResult
    mirror: str

    @property
    def planned(self) -> PlannedRegistry:
        planned: PlannedRegistry = self.result.asset_value([self.mirror, "reconciled_registry"])
        return planned

    @property
    def publication(self) -> Publication:
        publication: Publication = self.result.asset_value([self.mirror, "published_entity"])
        return publication

    @property
    def outcome(self) -> str:
        """What the publication came to, as the asset graph shows it."""
        shown = self.materialization("published_entity").metadata["outcome"].value
        assert isinstance(shown, str)
        return shown

    @property
    def checks(self) -> dict[str, bool]:
        return {each.check_name: each.passed for each in self.evaluations.values()}

    @property
    def evaluations(self) -> dict[str, dg.AssetCheckEvaluation]:
        return {each.check_name: each for each in self.result.get_asset_check_evaluations()}

    def materialization(self, asset: str) -> dg.AssetMaterialization:
        (found,) = self.result.asset_materializations_for_node(f"{self.mirror}__{asset}")
        return found

    def data_version(self, asset: str) -> str:
        tags = self.materialization(asset).tags
        assert tags
        return tags["dagster/data_version"]


class World:
    """One mirror and all that it reads and writes. Every change is one that anybody could make."""

    def __init__(
        self, folder: Path, target: Target, fake: FakeAws, instance: dg.DagsterInstance, name: str
    ) -> None:
        self.folder = folder
        self.target = target
        self.fake = fake
        self.name = name
        self.mirrors = folder / "mirrors"
        self.cache = folder / "cache"
        self.governance = Repository.create(folder / f"{name}-governance")
        self._entries: dict[str, dict[str, str]] = {}
        self.instance = instance
        self._loaded: tuple[str, dg.Definitions] | None = None
        self.write_mirror()
        self._write_entries("Govern our container repositories")

    # The mirror file

    def write_mirror(self, **settings: Any) -> None:
        """Write the mirror file; `settings` replace blocks of it."""
        content = {
            "governance": {
                "repository": str(self.governance.folder),
                "branch": "main",
                "path": GOVERNANCE_PATH,
            },
            "registry": {
                "region": self.fake.region,
                "account_id": self.fake.account_id,
                "endpoint_url": self.fake.endpoint_url,
            },
            "publish": self.target.settings(),
            **settings,
        }
        self.mirrors.mkdir(exist_ok=True)
        self.mirror_file.write_text(yaml.safe_dump(content, sort_keys=False))

    @property
    def mirror_file(self) -> Path:
        return self.mirrors / f"{self.name}.yaml"

    @property
    def mirror(self) -> Mirror:
        return load_mirrors(self.mirrors).get(self.name)

    @property
    def settings_environ(self) -> Mapping[str, str]:
        return {"ECR_CATALOG_CACHE": str(self.cache)}

    @property
    def adapters(self) -> Adapters:
        """Adapters as the mirror's own, made again."""
        return adapters_of(self.mirror, self.settings_environ)

    # Governance

    @property
    def governance_file(self) -> Path:
        return self.governance.folder / GOVERNANCE_PATH

    def govern(self, *names: str, status: str = "active", **metadata: str) -> str:
        """Govern repositories, or govern them otherwise; gives the commit."""
        for name in names:
            self._entries[name] = {
                "id": "REGISTRY_" + "".join(c if c.isalnum() else "_" for c in name).upper(),
                "owner": "platform-team",
                "risk": "low",
                "status": status,
                **metadata,
            }
        return self._write_entries(f"Govern {', '.join(names)[:50]} as {status}")

    def ungovern(self, *names: str) -> str:
        """Take repositories out of governance; gives the commit."""
        for name in names:
            del self._entries[name]
        return self._write_entries(f"Govern {', '.join(names)[:50]} no more")

    def have(self, *names: str) -> None:
        """Govern repositories as active, and create them in ECR."""
        self.govern(*names)
        for name in names:
            self.fake.create(name)

    def commit(self, content: str | bytes, *, path: str = GOVERNANCE_PATH) -> str:
        """Commit a file to the governance repository; gives the commit."""
        file = self.governance.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        self.governance.git("add", "--all")
        self.governance.git("commit", "--quiet", "--allow-empty", "-m", f"Write {path}")
        return self.governance.git("rev-parse", "HEAD")

    def revert(self) -> str:
        """`git revert` the last governance commit; gives the commit."""
        self.governance.git("revert", "--no-edit", "HEAD")
        return self.governance.git("rev-parse", "HEAD")

    def _write_entries(self, message: str) -> str:
        lines = [
            f"  {name}:\n    metadata: {json.dumps(metadata)}\n"
            for name, metadata in self._entries.items()
        ]
        body = "".join(["repositories:\n", *lines]) if lines else "repositories: {}\n"
        return self.commit(f'# {message}\nversion: "1.0"\n{body}')

    # What is published

    @property
    def content(self) -> bytes | None:
        return self.target.content()

    @property
    def entity(self) -> Any:
        """The published entity, parsed."""
        content = self.content
        assert content is not None
        return yaml.load(content, yaml.CSafeLoader)

    @property
    def listed(self) -> dict[str, str]:
        """The status of every live repository that is published, in the file's order.

        Past the list limit, read from the list beside the entity of a file target.
        """
        spec = self.entity["spec"]
        if "listed" in spec:
            assert isinstance(self.target, FileTarget)
            file = self.target.path.parent / spec["listed"]["path"]
            lines = [json.loads(line) for line in file.read_bytes().splitlines()]
            spec["repositories"] = [each for each in lines if "uri" in each]
        return {line["name"]: line["status"] for line in spec["repositories"]}

    # Runs

    @property
    def definitions(self) -> dg.Definitions:
        return self._definitions({})

    def restart(self) -> None:
        """Let the next run have adapters of its own, as a run in a process of its own has."""
        self._loaded = None

    def sync(
        self,
        *,
        approve: str | None = None,
        overrides: Mapping[str, Any] = {},
        only: Sequence[str] | None = None,
    ) -> Synced:
        """Run the mirror's job in this process.

        Args:
            overrides: adapters to use instead, by their place in `Adapters`.
            only: the assets to materialize; all by default.
        """
        job = self._definitions(overrides).resolve_job_def(f"{self.name}_sync")
        config: dict[str, object] = {**QUIET}
        if approve is not None:
            config["ops"] = {
                f"{self.name}__published_entity": {"config": {"approve": approve}},
            }
        selection = [dg.AssetKey([self.name, each]) for each in only] if only else None
        result = job.execute_in_process(
            run_config=config, instance=self.instance, asset_selection=selection
        )
        assert result.success
        return Synced(result, self.name)

    def sync_fails(self, **how: Any) -> dg.Failure:
        """Run the mirror's job, which fails; gives what Dagster shows of it."""
        with pytest.raises(dg.Failure) as caught:
            self.sync(**how)
        return caught.value

    def environ(self, home: Path) -> dict[str, str]:
        """Give the environment of a command: an empty home, and a PATH to find git."""
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "AWS_EC2_METADATA_DISABLED": "true",
            "GIT_CONFIG_NOSYSTEM": "1",
            "ECR_CATALOG_MIRRORS": str(self.mirrors),
            "ECR_CATALOG_CACHE": str(self.cache),
        }

    def _definitions(self, overrides: Mapping[str, Any]) -> dg.Definitions:
        """Build definitions, or take those of before, as a code server does until it reloads."""
        settings = self.mirror_file.read_text()
        if overrides or self._loaded is None or self._loaded[0] != settings:
            definitions = build_definitions(
                load_mirrors(self.mirrors),
                environ=self.settings_environ,
                make_adapters=lambda mirror, environ: replace(
                    adapters_of(mirror, environ), **overrides
                ),
            )
            if overrides:
                return definitions
            self._loaded = settings, definitions
        return self._loaded[1]


@contextmanager
def a_world(folder: Path, target: Target, name: str = MIRROR) -> Iterator[World]:
    """A world in which nothing is governed and ECR is empty."""
    with FakeAws() as fake, an_instance() as instance:
        yield World(folder, target, fake, instance, name)


@dataclass(frozen=True)
class Meddled:
    """A publisher whose target somebody else changes in the moment before it writes."""

    publisher: Publisher
    meddle: Callable[[bytes], object]

    @property
    def where(self) -> str:
        return self.publisher.where

    def read(self) -> Published:
        return self.publisher.read()

    def read_list(self, digest: str) -> bytes | None:
        return self.publisher.read_list(digest)

    def publish(
        self, new: bytes, expected: str | None, provenance: Provenance, lists: Lists = NO_LISTS
    ) -> str:
        self.meddle(new)
        return self.publisher.publish(new, expected, provenance, lists)


def meddling(world: World, meddle: Callable[[bytes], object]) -> Mapping[str, Any]:
    """Give the adapters of a run between whose plan and publication somebody meddles."""
    return {"publisher": Meddled(world.adapters.publisher, meddle)}
