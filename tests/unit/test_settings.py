from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ecr_catalog_pipeline.core.ecr_settings import Scanning
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.core.guard import RemovalLimits
from ecr_catalog_pipeline.core.policy import Policy
from ecr_catalog_pipeline.settings import (
    BackstageSettings,
    FileTarget,
    GitTarget,
    LoadedMirrors,
    Mirror,
    S3Target,
    cache_folder,
    load_mirror,
    load_mirrors,
    mirrors_folder,
    self_contained,
)

GIT: Final = {"kind": "git", "repository": "https://git.example.com/catalog.git"}
S3: Final = {"kind": "s3", "bucket": "a-bucket", "key": "ecr-registry.yaml"}
FILE: Final = {"kind": "file", "path": "out/ecr-registry.yaml"}

SMALLEST: Final[Mapping[str, Any]] = {
    "governance": {"repository": "https://git.example.com/governance.git"},
    "registry": {"region": "eu-west-2"},
    "publish": GIT,
}

EVERY_KEY: Final = """
name: goldenpath
governance:
  repository: ssh://git@git.example.com/team/governance.git
  branch: release/2026
  path: docs/20-contracts/resource-catalogs/ecr-catalog.yaml
registry:
  region: us-gov-west-1
  account_id: 012345678901
  role_arn: arn:aws-us-gov:iam::012345678901:role/catalog/reader
  endpoint_url: http://127.0.0.1:5055/
entity:
  name: goldenpath-ecr-registry
  namespace: platform
  title: GoldenPath ECR registry
  owner: group:default/platform
  system: registries
  list_limit: 5000
publish:
  kind: git
  repository: git@git.example.com:team/catalog.git
  branch: catalog
  path: entities/ecr.yaml
backstage:
  url: https://backstage.example.com/
  token_env: BACKSTAGE_TOKEN
parity:
  slo_seconds: 240
watch:
  seconds: 30
guard:
  max_removals: 5
  max_removal_percent: 12.5
adopt:
  tags: {owner: team, risk: class, environment: stage}
sprawl:
  repository: git@git.example.com:team/catalog.git
  branch: trunk
  paths: [catalog, more/entities.yaml]
health:
  path: docs/PLATFORM_HEALTH.md
  style: file
  env: prod
policy:
  risk:
    low: {scanning: on-push, keep_images: 20}
    high: {scanning: continuous, encryption: KMS, immutable_tags: true, keep_images: 50}
notify:
  backstage: true
"""


@pytest.fixture
def mirrors(tmp_path: Path) -> Path:
    folder = tmp_path / "mirrors"
    folder.mkdir()
    return folder


def changed(path: str, value: Any, base: Mapping[str, Any] = SMALLEST) -> dict[str, Any]:
    """Give a mirror with one key set: `governance.branch`, say."""
    key, _, rest = path.partition(".")
    inner = base.get(key)
    if rest:
        value = changed(rest, value, inner if isinstance(inner, dict) else {})
    return {**base, key: value}


def without(path: str) -> dict[str, Any]:
    """Give the smallest mirror without one key."""
    key, _, rest = path.partition(".")
    if not rest:
        return {k: v for k, v in SMALLEST.items() if k != key}
    return {**SMALLEST, key: {k: v for k, v in SMALLEST[key].items() if k != rest}}


def write(folder: Path, name: str, mirror: Mapping[str, Any] | str | bytes) -> Path:
    path = folder / name
    if isinstance(mirror, bytes):
        path.write_bytes(mirror)
    else:
        path.write_text(mirror if isinstance(mirror, str) else yaml.safe_dump(mirror))
    return path


def load(folder: Path, mirror: Mapping[str, Any] | str | bytes) -> Mirror:
    return load_mirror(write(folder, "goldenpath.yaml", mirror))


def error_of(folder: Path, mirror: Mapping[str, Any] | str | bytes) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(folder, mirror)
    error = caught.value
    assert error.problem.startswith("mirrors/goldenpath.yaml:")
    assert error.remediation
    assert error.needs == "human"
    return error


# Keys and defaults


def test_every_key_is_read(mirrors: Path) -> None:
    mirror = load(mirrors, EVERY_KEY)
    assert mirror.model_dump() == {
        "name": "goldenpath",
        "governance": {
            "repository": "ssh://git@git.example.com/team/governance.git",
            "branch": "release/2026",
            "path": "docs/20-contracts/resource-catalogs/ecr-catalog.yaml",
        },
        "registry": {
            "region": "us-gov-west-1",
            "account_id": "012345678901",
            "role_arn": "arn:aws-us-gov:iam::012345678901:role/catalog/reader",
            "endpoint_url": "http://127.0.0.1:5055",
        },
        "entity": {
            "name": "goldenpath-ecr-registry",
            "namespace": "platform",
            "title": "GoldenPath ECR registry",
            "owner": "group:default/platform",
            "system": "registries",
            "list_limit": 5_000,
        },
        "publish": {
            "kind": "git",
            "repository": "git@git.example.com:team/catalog.git",
            "branch": "catalog",
            "path": "entities/ecr.yaml",
        },
        "backstage": {"url": "https://backstage.example.com", "token_env": "BACKSTAGE_TOKEN"},
        "parity": {"slo_seconds": 240},
        "guard": {"max_removals": 5, "max_removal_percent": 12.5},
        "adopt": {"tags": {"owner": "team", "risk": "class", "environment": "stage"}},
        "watch": {"seconds": 30},
        "sprawl": {
            "repository": "git@git.example.com:team/catalog.git",
            "branch": "trunk",
            "paths": ("catalog", "more/entities.yaml"),
        },
        "health": {"path": "docs/PLATFORM_HEALTH.md", "style": "file", "env": "prod"},
        "notify": {"backstage": True},
        "policy": {
            "risk": {
                "low": {
                    "scanning": "on-push",
                    "encryption": None,
                    "immutable_tags": None,
                    "keep_images": 20,
                },
                "medium": None,
                "high": {
                    "scanning": "continuous",
                    "encryption": "KMS",
                    "immutable_tags": True,
                    "keep_images": 50,
                },
            }
        },
    }
    assert mirror.policies == {
        "low": Policy(scanning=Scanning.ON_PUSH, keep_images=20),
        "high": Policy(Scanning.CONTINUOUS, "KMS", immutable_tags=True, keep_images=50),
    }
    assert mirror.removal_limits == RemovalLimits(5, 12.5)


def test_what_is_left_out_has_its_default(mirrors: Path) -> None:
    mirror = load(mirrors, SMALLEST)
    assert mirror.name == "goldenpath"
    assert mirror.governance.branch == "main"
    assert mirror.governance.path == "ecr-catalog.yaml"
    assert mirror.registry.account_id is None
    assert mirror.registry.role_arn is None
    assert mirror.registry.endpoint_url is None
    assert mirror.identity.name == "goldenpath-ecr-registry"
    assert mirror.identity.namespace == "default"
    assert mirror.identity.title
    assert mirror.identity.owner == "platform-team"
    assert mirror.identity.system == "container-registry"
    assert isinstance(mirror.publish, GitTarget)
    assert mirror.publish.branch == "governance-registry"
    assert mirror.publish.path == "catalog/resources/ecr-registry.yaml"
    assert mirror.backstage is None
    assert mirror.parity.slo_seconds == 180
    assert mirror.removal_limits == RemovalLimits(10, 20)
    assert mirror.watch.seconds == 5
    assert mirror.sprawl is None
    assert mirror.health is None
    assert mirror.policy is None
    assert mirror.policies == {}
    assert mirror.s3_endpoint_url is None


def test_an_s3_target_is_read(mirrors: Path) -> None:
    target = load(mirrors, changed("publish", S3)).publish
    assert target == S3Target(kind="s3", bucket="a-bucket", key="ecr-registry.yaml")
    assert target.endpoint_url is None


@pytest.mark.parametrize(
    ("repository", "page"),
    [
        ("https://git.example.com/org/catalog.git", "https://git.example.com/org/catalog"),
        ("https://git.example.com:8443/org/catalog/", "https://git.example.com:8443/org/catalog"),
        ("git@git.example.com:org/group/catalog.git", "https://git.example.com/org/group/catalog"),
        ("ssh://git@git.example.com:2222/org/catalog.git", "https://git.example.com/org/catalog"),
    ],
)
def test_backstage_may_read_a_git_target_by_the_pages_of_its_host(
    mirrors: Path, repository: str, page: str
) -> None:
    target = {"kind": "git", "repository": repository, "branch": "a/b", "path": "c/ecr.yaml"}

    found = load(mirrors, changed("publish", target)).locations

    assert ("url", f"{page}/blob/a/b/c/ecr.yaml") in found
    assert ("url", f"{page}/-/blob/a/b/c/ecr.yaml") in found
    assert all(kind == "url" and url.startswith(f"{page}/") for kind, url in found)


def test_backstage_may_read_a_local_checkout_a_file_and_an_object(
    mirrors: Path, tmp_path: Path
) -> None:
    def locations(**target: str) -> tuple[tuple[str, str], ...]:
        return load(mirrors, changed("publish", target)).locations

    checkout = str(tmp_path / "catalog")
    assert locations(kind="git", repository=checkout, path="c/ecr.yaml") == (
        ("file", f"{checkout}/c/ecr.yaml"),
    )
    assert locations(kind="git", repository=f"file://{checkout}", path="c/ecr.yaml") == (
        ("file", f"{checkout}/c/ecr.yaml"),
    )
    assert locations(kind="file", path=f"{checkout}/ecr.yaml") == (
        ("file", f"{checkout}/ecr.yaml"),
    )
    region = SMALLEST["registry"]["region"]
    assert locations(kind="s3", bucket="a-bucket", key="ecr/a.yaml") == (
        ("url", f"https://a-bucket.s3.{region}.amazonaws.com/ecr/a.yaml"),
    )


@pytest.mark.parametrize(
    ("region", "endpoint", "start"),
    [
        ("eu-west-2", None, "https://a-bucket.s3.eu-west-2.amazonaws.com"),
        ("cn-north-1", None, "https://a-bucket.s3.cn-north-1.amazonaws.com.cn"),
        ("eu-west-2", "http://127.0.0.1:1", "http://127.0.0.1:1/a-bucket"),
    ],
)
def test_an_s3_target_is_addressed_where_its_bucket_is(
    mirrors: Path, region: str, endpoint: str | None, start: str
) -> None:
    target = {"kind": "s3", "bucket": "a-bucket", "key": "ecr/a b#c.yaml"}
    settings = {**changed("publish", target), "registry": {"region": region}}
    if endpoint:
        settings["registry"]["endpoint_url"] = endpoint
    mirror = load(mirrors, settings)
    assert mirror.locations == (("url", f"{start}/ecr/a%20b%23c.yaml"),)
    assert mirror.list_place.entity == f"{start}/full-lists/ecr/a%20b%23c.yaml"


def test_a_backstage_needs_no_token(mirrors: Path) -> None:
    mirror = load(mirrors, changed("backstage", {"url": "http://127.0.0.1:7007"}))
    assert mirror.backstage == BackstageSettings(url="http://127.0.0.1:7007")
    assert mirror.backstage.token_env is None


@pytest.mark.parametrize(
    ("of_registry", "of_target", "used"),
    [
        (None, None, None),
        ("http://127.0.0.1:1", None, "http://127.0.0.1:1"),
        (None, "http://127.0.0.1:2", "http://127.0.0.1:2"),
        ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:2"),
    ],
)
def test_the_registrys_endpoint_serves_every_service_of_the_mirror(
    mirrors: Path, of_registry: str | None, of_target: str | None, used: str | None
) -> None:
    mirror = changed("publish", {**S3, "endpoint_url": of_target})
    mirror = changed("registry.endpoint_url", of_registry, mirror)
    assert load(mirrors, mirror).s3_endpoint_url == used


def test_a_system_may_be_left_out(mirrors: Path) -> None:
    assert load(mirrors, changed("entity.system", None)).identity.system is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("012345678901", "012345678901"),
        ("000000000000", "000000000000"),
        ("'012345678901'", "012345678901"),
        ("123456789012", "123456789012"),
    ],
)
def test_an_account_id_is_read_as_it_is_written(mirrors: Path, written: str, read: str) -> None:
    text = yaml.safe_dump(changed("registry.account_id", "ACCOUNT")).replace("ACCOUNT", written)
    assert load(mirrors, text).registry.account_id == read


@pytest.mark.parametrize(
    "region", ["eu-west-2", "us-gov-west-1", "cn-northwest-1", "us-iso-east-1", "ap-southeast-10"]
)
def test_regions_of_every_partition_are_accepted(mirrors: Path, region: str) -> None:
    assert load(mirrors, changed("registry.region", region)).registry.region == region


def test_loading_contacts_nobody_and_reads_no_secret(mirrors: Path) -> None:
    mirror = changed("governance.repository", "https://no-such-host.invalid/governance.git")
    mirror = changed("backstage", {"url": "https://no-such-host.invalid"}, mirror)
    mirror = changed("backstage.token_env", "NO_SUCH_VARIABLE", mirror)
    loaded = load(mirrors, mirror)
    assert loaded.backstage
    assert loaded.backstage.token_env == "NO_SUCH_VARIABLE"


# What is refused, by its key


@pytest.mark.parametrize(
    "key",
    [
        "governnance",
        "schedule",
        "governance.ref",
        "registry.account",
        "entity.tags",
        "publish.bucket",
        "publish.token",
        "backstage.token",
        "parity.slo",
        "guard.enabled",
    ],
)
def test_an_unknown_key_is_refused(mirrors: Path, key: str) -> None:
    base = changed("backstage.url", "http://127.0.0.1:7007")
    error = error_of(mirrors, changed(key, "x", base))
    assert f"{key}: is not a key of a mirror file" in error.problem


@pytest.mark.parametrize("target", [S3, FILE])
def test_an_unknown_key_of_a_target_is_refused(mirrors: Path, target: Mapping[str, Any]) -> None:
    error = error_of(mirrors, changed("publish", {**target, "branch": "main"}))
    assert "publish.branch: is not a key of a mirror file" in error.problem


@pytest.mark.parametrize(
    "key",
    [
        "governance",
        "governance.repository",
        "registry",
        "registry.region",
        "publish",
        "publish.repository",
    ],
)
def test_a_required_key_that_is_missing_is_named(mirrors: Path, key: str) -> None:
    assert f"{key}: is required" in error_of(mirrors, without(key)).problem


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ({"kind": "s3", "key": "x"}, "publish.bucket"),
        ({"kind": "s3", "bucket": "a-bucket"}, "publish.key"),
        ({"kind": "file"}, "publish.path"),
    ],
)
def test_a_required_key_of_a_target_is_named(
    mirrors: Path, target: Mapping[str, Any], key: str
) -> None:
    assert f"{key}: is required" in error_of(mirrors, changed("publish", target)).problem


@pytest.mark.parametrize("kind", [None, "", "GIT", "gcs"])
def test_a_target_of_no_known_kind_is_refused(mirrors: Path, kind: str | None) -> None:
    target = {"path": "x"} if kind is None else {"kind": kind, "path": "x"}
    error = error_of(mirrors, changed("publish", target))
    assert "publish.kind: must be git, s3 or file" in error.problem


def test_every_problem_of_a_file_is_reported_at_once(mirrors: Path) -> None:
    error = error_of(mirrors, {"governance": {}, "registry": {"region": "mars"}, "extra": "x"})
    for key in ("governance.repository", "registry.region", "publish", "extra"):
        assert f"{key}: " in error.problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("governance", "text"),
        ("governance", ["list"]),
        ("governance", None),
        ("governance.repository", None),
        ("governance.repository", ""),
        ("governance.repository", ["x"]),
        ("governance.branch", None),
        ("governance.branch", {"name": "main"}),
        ("registry", "eu-west-2"),
        ("registry.region", "mars"),
        ("registry.region", "eu-west"),
        ("registry.region", "eu-west-2\n"),
        ("registry.region", "eu-west-2.evil.example.com"),
        ("registry.account_id", "12345678901"),
        ("registry.account_id", "1234567890123"),
        ("registry.account_id", "1234-5678-9012"),
        ("registry.account_id", "0x1234567890"),
        ("registry.account_id", "123456789012\n"),
        ("registry.account_id", "\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669012"),
        ("registry.role_arn", "reader"),
        ("registry.role_arn", "arn:aws:iam::123:role/reader"),
        ("registry.role_arn", "arn:aws:iam::123456789012:user/reader"),
        ("registry.endpoint_url", "127.0.0.1:5055"),
        ("registry.endpoint_url", "ftp://127.0.0.1"),
        ("registry.endpoint_url", "http://"),
        ("registry.endpoint_url", "http://[::1"),
        ("registry.endpoint_url", "http://127.0.0.1:port"),
        ("registry.endpoint_url", "http://127.0.0.1:99999"),
        ("registry.endpoint_url", "http://key:secret@127.0.0.1"),
        ("registry.endpoint_url", "http://key@127.0.0.1"),
        ("entity", []),
        ("entity.owner", ["a", "b"]),
        ("publish", None),
        ("publish", "git"),
        ("publish", [GIT]),
        ("publish", {**S3, "bucket": "ab"}),
        ("publish", {**S3, "key": ""}),
        ("publish", {**S3, "endpoint_url": "s3.example.com"}),
        ("publish", {**FILE, "path": ""}),
        ("backstage", {}),
        ("backstage", "http://127.0.0.1:7007"),
        ("backstage", {"url": "127.0.0.1:7007"}),
        ("backstage", {"url": "https://user:secret@backstage.example.com"}),
        ("backstage", {"url": "http://b", "token_env": "$TOKEN"}),
        ("backstage", {"url": "http://b", "token_env": "a secret, not a name"}),
        ("backstage", {"url": "http://b", "token_env": ""}),
        ("parity", "fast"),
        ("parity.slo_seconds", "soon"),
        ("parity.slo_seconds", 0),
        ("parity.slo_seconds", -180),
        ("parity.slo_seconds", 1.5),
        ("parity.slo_seconds", True),
        ("watch.seconds", 0),
        ("watch.seconds", "often"),
        ("watch.seconds", 3_601),
        ("guard.max_removals", "many"),
        ("guard.max_removals", -1),
        ("guard.max_removals", 2.5),
        ("guard.max_removals", None),
        ("guard.max_removal_percent", "20 %"),
        ("guard.max_removal_percent", -1),
        ("guard.max_removal_percent", 100.1),
        ("guard.max_removal_percent", "nan"),
        ("guard.max_removal_percent", "inf"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_key(
    mirrors: Path, key: str, value: Any
) -> None:
    error = error_of(mirrors, changed(key, value))
    assert f" {key}" in error.problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "-starts-wrong"),
        ("name", "x" * 64),
        ("name", "two words"),
        ("namespace", "Default"),
        ("namespace", ""),
        ("title", " "),
        ("title", "two\nlines"),
        ("owner", ""),
        ("system", ""),
    ],
)
def test_an_entity_that_backstage_would_refuse_is_refused(
    mirrors: Path, key: str, value: str
) -> None:
    error = error_of(mirrors, changed(f"entity.{key}", value))
    assert "entity" in error.problem
    assert key in error.problem


def test_no_error_repeats_a_secret(mirrors: Path) -> None:
    secret = "hunter2secret"
    for key in ("governance.repository", "publish.repository", "registry.endpoint_url"):
        error = error_of(mirrors, changed(key, f"https://user:{secret}@git.example.com/x.git"))
        assert secret not in str(error)
        assert secret not in repr(error)


# Branches, paths and repositories


@pytest.mark.parametrize("key", ["governance.branch", "publish.branch"])
@pytest.mark.parametrize(
    "branch",
    [
        "",
        "-D",
        "--upload-pack=touch x",
        "two words",
        "a..b",
        "a~1",
        "a^",
        "a:b",
        "a?b",
        "a*",
        "a[b",
        "a\\b",
        "a@{1}",
        "a//b",
        "/a",
        "a/",
        "a.",
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a\nb",
        "main\n",
    ],
    ids=repr,
)
def test_what_git_takes_for_no_branch_is_refused(mirrors: Path, key: str, branch: str) -> None:
    checked = subprocess.run(
        ["git", "check-ref-format", f"refs/heads/{branch}"], check=False, stdin=subprocess.DEVNULL
    )
    assert checked.returncode or branch.startswith("-")
    assert f"{key}: " in error_of(mirrors, changed(key, branch)).problem


@pytest.mark.parametrize("branch", ["main", "release/2026.1", "feature/JIRA-1_x", "a+b", "u@h"])
def test_branches_of_every_day_are_accepted(mirrors: Path, branch: str) -> None:
    assert load(mirrors, changed("governance.branch", branch)).governance.branch == branch


@pytest.mark.parametrize("key", ["governance.path", "publish.path"])
@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../ecr.yaml",
        "catalog/../../ecr.yaml",
        "catalog/..",
        "/etc/passwd",
        "//etc/passwd",
        ".git/config",
        ".GIT/config",
        "./.git/config",
        "catalog/.git/hooks/x",
        "catalog\\..\\..\\x",
        "a\nb",
        "a\0b",
    ],
    ids=repr,
)
def test_a_path_out_of_the_repository_is_refused(mirrors: Path, key: str, path: str) -> None:
    assert f"{key}: " in error_of(mirrors, changed(key, path)).problem


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ecr.yaml", "ecr.yaml"),
        ("./a/b.yaml", "a/b.yaml"),
        ("a//b.yaml", "a/b.yaml"),
        (".github/ecr.yaml", ".github/ecr.yaml"),
        ("a..b/c.yaml", "a..b/c.yaml"),
        ("a b/\u00e9.yaml", "a b/\u00e9.yaml"),
    ],
)
def test_a_path_in_the_repository_is_accepted(mirrors: Path, written: str, read: str) -> None:
    assert load(mirrors, changed("governance.path", written)).governance.path == read


@pytest.mark.parametrize("key", ["governance.repository", "publish.repository"])
@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c touch% /tmp/x",
        "ext::ssh://git.example.com/x",
        "fd::17",
        "transport::address",
        "-oProxyCommand=touch x",
        "--upload-pack=touch x",
        "ssh://-oProxyCommand=touch@git.example.com/x",
        "ssh://-oProxyCommand=touch/x",
        "git@-oProxyCommand:x",
        "http://git.example.com/x.git",
        "HTTP://git.example.com/x.git",
        "git://git.example.com/x.git",
        "ftp://git.example.com/x.git",
        "ext://sh -c touch",
        "https:///x.git",
        "https://user:password@git.example.com/x.git",
        "https://user:@git.example.com/x.git",
        "https://:password@git.example.com/x.git",
        "ssh://git:password@git.example.com/x.git",
        "https://git.example.com:port/x.git",
        "ssh://git@git.example.com:99999/x.git",
        "https://git.example.com/x\n.git",
        "https://git.example.com/x\x00.git",
        "git@git.example.com:x\ny",
        "some\tfolder",
        "some\x7ffolder",
    ],
    ids=repr,
)
def test_a_repository_that_could_harm_is_refused(mirrors: Path, key: str, repository: str) -> None:
    assert f"{key}: " in error_of(mirrors, changed(key, repository)).problem


@pytest.mark.parametrize(
    "repository",
    [
        "https://git.example.com/team/governance.git",
        "https://git.example.com:8443/governance",
        "https://bot@git.example.com/governance.git",
        "https://[2001:db8::1]/governance.git",
        "ssh://git@git.example.com:2222/team/governance.git",
        "git@git.example.com:team/governance.git",
        "git.example.com:governance.git",
        "file:///srv/governance.git",
    ],
)
def test_a_repository_elsewhere_is_kept_as_it_is_written(mirrors: Path, repository: str) -> None:
    mirror = load(mirrors, changed("governance.repository", repository))
    assert mirror.governance.repository == repository


def test_local_paths_are_relative_to_the_mirrors_folder(
    mirrors: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def repository(written: str) -> str:
        return load(mirrors, changed("governance.repository", written)).governance.repository

    assert repository("../governance") == str(tmp_path / "governance")
    assert repository("governance.git") == str(mirrors / "governance.git")
    assert repository("./a:b") == str(mirrors / "a:b")
    assert repository("/srv/governance") == "/srv/governance"

    target = load(mirrors, changed("publish", {**GIT, "repository": "../catalog"})).publish
    assert isinstance(target, GitTarget)
    assert target.repository == str(tmp_path / "catalog")


def test_a_file_target_is_relative_to_the_mirrors_folder(mirrors: Path, tmp_path: Path) -> None:
    def target(written: str) -> str:
        target = load(mirrors, changed("publish", {**FILE, "path": written})).publish
        assert isinstance(target, FileTarget)
        return target.path

    assert target("out/ecr.yaml") == str(mirrors / "out" / "ecr.yaml")
    assert target("../out/ecr.yaml") == str(tmp_path / "out" / "ecr.yaml")
    assert target("/srv/ecr.yaml") == "/srv/ecr.yaml"


def test_a_relative_folder_of_mirrors_gives_absolute_paths(
    mirrors: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(mirrors, "one.yaml", changed("governance.repository", "../governance"))
    write(mirrors, "two.yaml", changed("publish", FILE))
    monkeypatch.chdir(tmp_path)
    loaded = load_mirrors(Path("mirrors"))
    target = loaded.get("two").publish
    assert loaded.get("one").governance.repository == str(tmp_path / "governance")
    assert isinstance(target, FileTarget)
    assert target.path == str(mirrors / "out/ecr-registry.yaml")


def test_a_symbolic_link_as_a_file_target_stays_a_link(mirrors: Path, tmp_path: Path) -> None:
    (mirrors / "link.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    target = load(mirrors, changed("publish", {**FILE, "path": "link.yaml"})).publish
    assert isinstance(target, FileTarget)
    assert target.path == str(mirrors / "link.yaml")


@pytest.mark.parametrize("path", ["~no-such-user/ecr.yaml", "a\0b", "a\nb"], ids=repr)
def test_a_file_target_that_cannot_be_is_refused(mirrors: Path, path: str) -> None:
    error = error_of(mirrors, changed("publish", {**FILE, "path": path}))
    assert "publish.path: " in error.problem


def test_a_repository_of_an_unknown_user_is_refused(mirrors: Path) -> None:
    error = error_of(mirrors, changed("governance.repository", "~no-such-user/governance"))
    assert "governance.repository: " in error.problem


def test_a_tilde_is_the_home_folder(
    mirrors: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mirror = load(mirrors, changed("governance.repository", "~/governance"))
    assert mirror.governance.repository == str(tmp_path / "governance")


# Files and their names


@pytest.mark.parametrize("stem", ["a", "demo", "team_7", "a" * 41])
def test_a_stem_that_dagster_takes_names_a_mirror(mirrors: Path, stem: str) -> None:
    write(mirrors, f"{stem}.yaml", {**SMALLEST, "name": stem})
    assert load_mirrors(mirrors).get(stem).name == stem


@pytest.mark.parametrize(
    "file",
    ["Demo.yaml", "1a.yaml", "_a.yaml", "a-b.yaml", "a.b.yaml", f"{'a' * 42}.yaml", "demo.yml"],
)
def test_another_name_of_a_file_is_refused(mirrors: Path, file: str) -> None:
    write(mirrors, file, SMALLEST)
    loaded = load_mirrors(mirrors)
    assert loaded.mirrors == {}
    (error,) = loaded.errors.values()
    assert f"mirrors/{file}: " in error.problem
    assert "NAME.yaml" in error.remediation


@pytest.mark.parametrize("name", ["silverpath", "Goldenpath", "", None, ["goldenpath"]])
def test_a_name_other_than_the_stem_is_refused(mirrors: Path, name: Any) -> None:
    assert "name: " in error_of(mirrors, {**SMALLEST, "name": name}).problem


@pytest.mark.parametrize(
    "file", ["README.md", "demo.yaml.bak", ".gitkeep", "demo.json", "demo.yaml~"]
)
def test_other_files_are_no_mirrors(mirrors: Path, file: str) -> None:
    write(mirrors, file, "hello")
    assert load_mirrors(mirrors) == LoadedMirrors({}, {})


BAD_FILES: Final[Mapping[str, bytes]] = {
    "empty": b"",
    "only a comment": b"# nothing\n",
    "not YAML": b"governance: [\n",
    "binary": b"\x00\x01\x02",
    "not UTF-8": b"name: \xff\xfe\n",
    "a list": b"- a\n- b\n",
    "text": b"hello\n",
    "several documents": b"name: a\n---\nname: b\n",
    "a key twice": b"publish: {}\npublish: {}\n",
    "a tag": b"publish: !!python/object/apply:os.system ['touch /tmp/x']\n",
    "a bomb": b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n".encode()
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep": b"a: " + b"[" * 10_000,
    "wrong keys": b"hello: world\n",
    "no values": b"governance:\nregistry:\npublish:\n",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_one_bad_file_never_takes_the_others_down(mirrors: Path, content: bytes) -> None:
    write(mirrors, "alpha.yaml", SMALLEST)
    write(mirrors, "bad.yaml", content)
    write(mirrors, "omega.yaml", changed("publish", S3))

    loaded = load_mirrors(mirrors)

    assert set(loaded.mirrors) == {"alpha", "omega"}
    assert set(loaded.errors) == {"bad"}
    assert loaded.get("alpha").name == "alpha"
    with pytest.raises(SettingsError, match=r"mirrors/bad\.yaml") as caught:
        loaded.get("bad")
    assert caught.value.remediation


def test_a_fault_of_yaml_is_named_with_its_place(mirrors: Path) -> None:
    error = error_of(mirrors, "name: goldenpath\nregistry: {}\nregistry: {}\n")
    assert error.problem.startswith("mirrors/goldenpath.yaml:3:1: ")
    assert "registry" in error.problem


def test_what_is_no_file_never_takes_the_others_down(mirrors: Path, tmp_path: Path) -> None:
    write(mirrors, "alpha.yaml", SMALLEST)
    (mirrors / "folder.yaml").mkdir()
    (mirrors / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    (mirrors / "loop.yaml").symlink_to(mirrors / "loop.yaml")
    loaded = load_mirrors(mirrors)
    assert set(loaded.mirrors) == {"alpha"}
    assert set(loaded.errors) == {"folder", "dangling", "loop"}
    for name, error in loaded.errors.items():
        assert f"mirrors/{name}.yaml: cannot be read" in error.problem


@pytest.mark.parametrize(
    "target",
    [
        {**FILE, "path": "~no-such-user/x.yaml"},
        {**GIT, "repository": "~no-such-user/catalog"},
        {**GIT, "repository": "https://git.example.com:port/x.git"},
        {**GIT, "repository": "https://[::1/x.git"},
    ],
)
def test_a_target_that_cannot_be_never_takes_the_others_down(
    mirrors: Path, target: Mapping[str, Any]
) -> None:
    write(mirrors, "alpha.yaml", SMALLEST)
    write(mirrors, "bad.yaml", changed("publish", target))
    loaded = load_mirrors(mirrors)
    assert set(loaded.mirrors) == {"alpha"}
    assert set(loaded.errors) == {"bad"}


def test_a_file_with_the_wrong_ending_never_takes_its_namesake_down(mirrors: Path) -> None:
    write(mirrors, "alpha.yaml", SMALLEST)
    write(mirrors, "alpha.yml", changed("publish", S3))
    loaded = load_mirrors(mirrors)
    assert loaded.get("alpha").publish.kind == "git"
    assert len(loaded.errors) == 1


def test_a_mirror_that_does_not_exist_is_reported_with_those_that_do(mirrors: Path) -> None:
    write(mirrors, "alpha.yaml", SMALLEST)
    write(mirrors, "omega.yaml", changed("publish", S3))
    with pytest.raises(SettingsError, match="no mirror 'beta'") as caught:
        load_mirrors(mirrors).get("beta")
    assert "alpha, omega" in caught.value.remediation
    assert "ECR_CATALOG_MIRRORS" in caught.value.remediation


def test_an_empty_folder_has_no_mirrors(mirrors: Path) -> None:
    loaded = load_mirrors(mirrors)
    assert loaded == LoadedMirrors({}, {})
    with pytest.raises(SettingsError, match="no mirror"):
        loaded.get("alpha")


@pytest.mark.parametrize("there", [False, True], ids=["missing", "a file"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, *, there: bool) -> None:
    folder = tmp_path / "nowhere"
    if there:
        folder.touch()
    with pytest.raises(SettingsError, match=re.escape(str(folder))) as caught:
        load_mirrors(folder)
    assert "ECR_CATALOG_MIRRORS" in caught.value.remediation


# One target, one mirror


def both_refused(mirrors: Path, one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Load two mirrors with these targets, and a third one."""
    write(mirrors, "one.yaml", changed("publish", one))
    write(mirrors, "two.yaml", changed("publish", two))
    write(mirrors, "three.yaml", changed("publish", {**S3, "bucket": "a-bucket-of-its-own"}))
    loaded = load_mirrors(mirrors)
    assert "three" in loaded.mirrors
    if not loaded.errors:
        return False
    assert set(loaded.mirrors) == {"three"}
    assert set(loaded.errors) == {"one", "two"}
    for name, other in (("one", "two"), ("two", "one")):
        problem = loaded.errors[name].problem
        assert problem.startswith(f"{mirrors.name}/{name}.yaml: publish: ")
        assert other in problem
        assert loaded.errors[name].remediation
    return True


GIT_URL: Final = "https://git.example.com/catalog"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (GIT, GIT),
        (GIT, {**GIT, "repository": GIT_URL}),
        (GIT, {**GIT, "repository": f"{GIT_URL}/"}),
        (GIT, {**GIT, "repository": f"{GIT_URL}.git/"}),
        (GIT, {**GIT, "repository": "https://GIT.example.com/catalog.git"}),
        (GIT, {**GIT, "repository": "https://bot@git.example.com/catalog.git"}),
        (GIT, {**GIT, "path": "./catalog/resources//ecr-registry.yaml"}),
        ({**GIT, "repository": "../catalog"}, {**GIT, "repository": "../mirrors/../catalog"}),
        ({**GIT, "repository": "/srv/catalog"}, {**GIT, "repository": "file:///srv/catalog"}),
        (S3, S3),
        (S3, {**S3, "endpoint_url": None}),
        (FILE, FILE),
        (FILE, {**FILE, "path": "./out/../out/ecr-registry.yaml"}),
    ],
)
def test_two_mirrors_with_one_target_are_both_refused(
    mirrors: Path, one: Mapping[str, Any], two: Mapping[str, Any]
) -> None:
    assert both_refused(mirrors, one, two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (GIT, {**GIT, "branch": "other"}),
        (GIT, {**GIT, "path": "other.yaml"}),
        (GIT, {**GIT, "repository": "https://git.example.com/other.git"}),
        ({**GIT, "repository": "/srv/Catalog"}, {**GIT, "repository": "/srv/catalog"}),
        (S3, {**S3, "key": "other"}),
        (S3, {**S3, "bucket": "other"}),
        (S3, {**S3, "endpoint_url": "http://127.0.0.1:9000"}),
        (FILE, {**FILE, "path": "other.yaml"}),
        (FILE, {**FILE, "path": "out/ECR-registry.yaml"}),
        (GIT, S3),
        (S3, FILE),
    ],
)
def test_two_mirrors_with_targets_of_their_own_are_both_loaded(
    mirrors: Path, one: Mapping[str, Any], two: Mapping[str, Any]
) -> None:
    assert not both_refused(mirrors, one, two)


@pytest.mark.parametrize(
    ("one", "two", "refused"),
    [
        ({"name": "registry"}, {"name": "registry"}, True),
        ({"name": "registry"}, {"name": "Registry"}, True),
        ({"name": "one-ecr-registry"}, {"name": "one-ecr-registry", "namespace": "default"}, True),
        ({"name": "registry"}, {"name": "registry", "namespace": "other"}, False),
        ({"name": "registry"}, {"name": "registry-2"}, False),
    ],
)
def test_two_mirrors_with_one_entity_are_both_refused_whatever_their_targets(
    mirrors: Path, one: Mapping[str, str], two: Mapping[str, str], *, refused: bool
) -> None:
    for name, entity, target in (("one", one, GIT), ("two", two, S3)):
        write(mirrors, f"{name}.yaml", {**changed("publish", target), "entity": entity})

    errors = load_mirrors(mirrors).errors

    assert set(errors) == ({"one", "two"} if refused else set())
    if refused:
        assert "is also the entity of two" in errors["one"].problem
        assert "entity.namespace" in errors["one"].remediation


def test_one_file_behind_two_folders_is_one_target(mirrors: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(mirrors)
    linked = {**FILE, "path": "../linked/out/ecr-registry.yaml"}
    assert both_refused(mirrors, FILE, linked)


def test_the_errors_name_the_folder_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "production"
    folder.mkdir()
    assert both_refused(folder, GIT, GIT)


@pytest.mark.parametrize(
    ("endpoints", "refused"),
    [
        # of mirror one: registry, target; of mirror two: registry, target
        ((None, "http://127.0.0.1:9000", "http://127.0.0.1:9000", None), True),
        (("http://127.0.0.1:9000", None, "http://127.0.0.1:9001", None), False),
    ],
    ids=["one endpoint", "two endpoints"],
)
def test_one_object_is_one_target_at_the_endpoint_that_is_used(
    mirrors: Path, endpoints: tuple[str | None, ...], *, refused: bool
) -> None:
    for name, of_registry, of_target in (("one", *endpoints[:2]), ("two", *endpoints[2:])):
        mirror = changed("publish", {**S3, "endpoint_url": of_target})
        write(mirrors, f"{name}.yaml", changed("registry.endpoint_url", of_registry, mirror))
    assert set(load_mirrors(mirrors).errors) == ({"one", "two"} if refused else set())


# Folders from the environment


def test_the_mirrors_folder_is_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mirrors_folder({}) == tmp_path / "mirrors"
    assert mirrors_folder({"ECR_CATALOG_MIRRORS": ""}) == tmp_path / "mirrors"


def test_the_mirrors_folder_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECR_CATALOG_MIRRORS", "/of/the/process")
    assert mirrors_folder({"ECR_CATALOG_MIRRORS": "/etc/mirrors"}) == Path("/etc/mirrors")
    assert mirrors_folder({"ECR_CATALOG_MIRRORS": "conf"}) == tmp_path / "conf"
    assert mirrors_folder({}) == tmp_path / "mirrors"


def test_the_cache_is_where_it_is_said_then_beside_dagster_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    every = {
        "ECR_CATALOG_CACHE": "/var/cache/ours",
        "DAGSTER_HOME": "/srv/dagster",
        "XDG_CACHE_HOME": "/home/jo/caches",
    }
    assert cache_folder(every) == Path("/var/cache/ours")
    assert cache_folder({**every, "ECR_CATALOG_CACHE": "here"}) == tmp_path / "here"
    del every["ECR_CATALOG_CACHE"]
    assert cache_folder(every) == Path("/srv/dagster/cache")
    del every["DAGSTER_HOME"]
    assert cache_folder(every) == Path("/home/jo/caches/ecr-catalog-pipeline")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder({}) == tmp_path / ".cache" / "ecr-catalog-pipeline"


def test_looking_for_folders_makes_none(tmp_path: Path) -> None:
    cache_folder({"ECR_CATALOG_CACHE": str(tmp_path / "cache")})
    mirrors_folder({"ECR_CATALOG_MIRRORS": str(tmp_path / "mirrors")})
    assert list(tmp_path.iterdir()) == []


# What mirrors share


SHARED: Final = {
    "governance": {"repository": "../platform.git", "path": "catalogs/ecr-catalog.yaml"},
    "registry": {"account_id": "123456789012"},
    "publish": {"kind": "git", "repository": "../catalog.git", "branch": "shared"},
    "backstage": {"url": "https://backstage.example.com"},
    "guard": {"max_removals": "3"},
    "entity": {"system": "registries"},
}
OWN: Final = {"registry": {"region": "eu-west-2"}}


def shared_by(
    folder: Path, shared: Mapping[str, Any] | str, **mirrors: Mapping[str, Any] | str
) -> LoadedMirrors:
    write(folder, "_defaults.yaml", shared)
    for name, mirror in mirrors.items():
        write(folder, f"{name}.yaml", mirror)
    return load_mirrors(folder)


def test_what_mirrors_share_is_written_once_and_is_no_mirror(mirrors: Path) -> None:
    loaded = shared_by(mirrors, SHARED, one=OWN, two={**OWN, "publish": {"path": "two.yaml"}})

    assert set(loaded.mirrors) == {"one", "two"}
    assert not loaded.errors
    one = loaded.get("one")
    assert one.name == "one"
    assert one.registry.region == "eu-west-2"
    assert one.registry.account_id == "123456789012"
    assert one.governance.repository == str(mirrors.parent / "platform.git")
    assert one.removal_limits == RemovalLimits(3, 20)
    assert isinstance(one.publish, GitTarget)
    assert one.publish.branch == "shared"
    assert one.identity.name == "one-ecr-registry"
    assert isinstance(loaded.get("two").publish, GitTarget)


def test_a_mirror_beside_what_is_shared_says_it_as_if_it_were_its_own(mirrors: Path) -> None:
    loaded = shared_by(mirrors, SHARED, one=OWN)
    whole = {**SHARED, "registry": {**SHARED["registry"], **OWN["registry"]}}
    alone = load_mirror(mirrors / "one.yaml", yaml.safe_dump(whole), defaults={})

    assert loaded.get("one") == alone
    standing_alone = self_contained(mirrors / "one.yaml", yaml.safe_dump(OWN))
    assert load_mirror(mirrors / "one.yaml", standing_alone, defaults={}) == alone


def test_a_target_of_another_kind_has_nothing_of_the_shared_one(mirrors: Path) -> None:
    loaded = shared_by(mirrors, SHARED, one={**OWN, "publish": FILE})

    assert loaded.get("one").publish == FileTarget(
        kind="file", path=str(mirrors / "out/ecr-registry.yaml")
    )


def test_null_takes_away_what_is_shared(mirrors: Path) -> None:
    nulls = {
        "backstage": None,
        "guard": None,
        "registry": {"region": "eu-west-2", "account_id": None},
        "governance": {"path": None},
        "entity": {"system": None},
    }
    one = shared_by(mirrors, SHARED, one=nulls).get("one")

    assert one.backstage is None
    assert one.removal_limits == RemovalLimits(10, 20)
    assert one.registry.account_id is None
    assert one.governance.path == "ecr-catalog.yaml"
    assert one.identity.system is None
    standing_alone = self_contained(mirrors / "one.yaml", yaml.safe_dump(nulls))
    assert load_mirror(mirrors / "one.yaml", standing_alone, defaults={}) == one


def test_null_that_takes_away_what_is_required_says_so(mirrors: Path) -> None:
    loaded = shared_by(mirrors, SHARED, one={**OWN, "governance": {"repository": None}})

    assert loaded.errors["one"].problem == "mirrors/one.yaml: governance.repository: is required"


def test_null_without_anything_shared_is_refused_as_before(mirrors: Path) -> None:
    loaded = shared_by(mirrors, {}, one={**SMALLEST, "guard": None})

    assert loaded.errors["one"].problem.startswith("mirrors/one.yaml: guard: ")


@pytest.mark.parametrize(
    ("shared", "problem"),
    [
        ("guard: {max_removals: lots}\n", "guard.max_removals: "),
        ("gaurd: {max_removals: 3}\n", "gaurd: is not a key of a mirror file"),
        ("publish: {kind: ftp}\n", "publish.kind: must be git, s3 or file"),
        ("guard: [\n", "2:1: "),
        ("name: one\n", "name: is each mirror's own"),
        ("- a\n", "is not one YAML mapping"),
    ],
)
def test_a_shared_error_names_its_file_and_is_the_error_of_each_mirror_that_has_it(
    mirrors: Path, shared: str, problem: str
) -> None:
    own = {key: value for key, value in SMALLEST.items() if key != "publish"}
    loaded = shared_by(
        mirrors,
        shared,
        one={**own, "publish": {"repository": "../a"} if "ftp" in shared else GIT},
        two={**own, "publish": {"path": "b"} if "ftp" in shared else FILE},
    )

    assert set(loaded.errors) == {"one", "two"}
    for error in loaded.errors.values():
        assert re.match(rf"mirrors/_defaults\.yaml:(?: |)(?:{problem})", error.problem), error


def test_ones_own_key_repairs_a_shared_one(mirrors: Path) -> None:
    loaded = shared_by(
        mirrors,
        {"guard": {"max_removals": "lots"}},
        one={**SMALLEST, "guard": {"max_removals": 4}},
        two={**SMALLEST, "publish": FILE},
    )

    assert set(loaded.mirrors) == {"one"}
    assert set(loaded.errors) == {"two"}


def test_an_error_of_each_file_is_reported_of_each(mirrors: Path) -> None:
    loaded = shared_by(
        mirrors,
        {"guard": {"max_removals": "lots"}},
        one={**SMALLEST, "registry": {"region": 5}, "guard": {"max_removal_percent": 200}},
    )

    problem = loaded.errors["one"].problem
    own, _, other = problem.partition("; mirrors/_defaults.yaml: ")
    assert own.startswith("mirrors/one.yaml: ")
    assert "registry.region: " in own
    assert "guard.max_removal_percent: " in own
    assert other.startswith("guard.max_removals: ")


def test_a_shared_target_is_refused_where_it_is_the_target_of_two(mirrors: Path) -> None:
    loaded = shared_by(mirrors, {**SHARED, "entity": {"name": "same"}}, one=OWN, two=OWN)

    assert set(loaded.errors) == {"one", "two"}
    assert "is also the target of" in loaded.errors["one"].problem


@pytest.mark.parametrize("shared", ["", "# nothing yet\n", "---\n"])
def test_a_file_that_shares_nothing_changes_nothing(mirrors: Path, shared: str) -> None:
    loaded = shared_by(mirrors, shared, one=SMALLEST)

    assert loaded.get("one").name == "one"
