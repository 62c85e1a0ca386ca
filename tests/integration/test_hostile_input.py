"""Hostile input on its way in: mirror files, repositories, and what answers on the wire.

What can be judged without contacting anybody is refused when a mirror file is loaded. What comes
from outside is never executed, and ends in one of our own errors.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.adapters.ecr import EcrRegistry
from ecr_catalog_pipeline.adapters.governance_repo import GovernanceRepo
from ecr_catalog_pipeline.adapters.notify import ALERT_URLS_VARIABLE, PING_URL_VARIABLE, Notifier
from ecr_catalog_pipeline.adapters.publish_git import GitPublisher
from ecr_catalog_pipeline.adapters.publisher import Provenance
from ecr_catalog_pipeline.core.alerts import Alert, Condition, Signal
from ecr_catalog_pipeline.core.errors import (
    BackstageUnavailable,
    CatalogError,
    GovernanceRefused,
    GovernanceUnavailable,
    InventoryFailed,
    SettingsError,
    TargetRefused,
)
from ecr_catalog_pipeline.settings import load_mirror, load_mirrors
from tests.fakes.aws import Answer, FakeAws
from tests.integration.conftest import NOON, SUBMODULE, SYMLINK, Entry, Repository
from tests.unit.test_hostile import assert_readable, is_one_line

SMALLEST: Final[dict[str, Any]] = {
    "governance": {"repository": "https://git.example.com/governance.git"},
    "registry": {"region": "eu-west-2"},
    "publish": {"kind": "git", "repository": "https://git.example.com/catalog.git"},
}
PATH: Final = "catalogs/ecr-catalog.yaml"
ONE: Final = b"version: '1.0'\nrepositories: {}\n"
PROVENANCE: Final = Provenance("goldenpath", "1 live", "f" * 40, "e" * 64, "a-run")


def refusal(folder: Path, block: str, **changes: Any) -> SettingsError:
    """Give the error of a mirror file in which one block is changed."""
    folder.mkdir(exist_ok=True)
    mirror = {**SMALLEST, block: {**SMALLEST.get(block, {}), **changes}}
    path = folder / "goldenpath.yaml"
    path.write_text(yaml.safe_dump(mirror), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_mirror(path)
    assert_readable(caught.value)
    (key, *_) = changes
    if block == "publish" and "kind" in changes:
        key = next(each for each in changes if each != "kind")
    assert f"{block}.{key}: " in caught.value.problem
    return caught.value


# Mirror files


@pytest.mark.parametrize("block", ["governance", "publish"])
@pytest.mark.parametrize(
    "path",
    [
        "git~1/config",
        "GIT~1/hooks/post-checkout",
        ".git /config",
        ".git./config",
        ".git . ./config",
        ".git::$INDEX_ALLOCATION/config",
        "a/.GiT:stream",
        ".g\u200cit/config",
        ".\ufeffgit/config",
        ".git\u2028/config",
        "catalog/\u202elmay.rce",
        "a/../../b",
        "a/./../..",
        "\\\\host\\share",
        "a\x1b[31m.yaml",
    ],
    ids=ascii,
)
def test_a_path_that_some_file_system_takes_for_another_is_refused(
    tmp_path: Path, block: str, path: str
) -> None:
    refusal(tmp_path, block, path=path)


@pytest.mark.parametrize("block", ["governance", "publish"])
@pytest.mark.parametrize(
    "repository",
    [
        "https://ghp_0123456789abcdefghijABCDEFGHIJ012345@git.example.com/x.git",
        "https://github_pat_11ABCDEFG@git.example.com/x.git",
        "https://glpat-abcdefghij0123456789@git.example.com/x.git",
        "https://gh%70_token@git.example.com/x.git",
        "https://0123456789abcdef0123456789abcdef01234567@git.example.com/x.git",
        "https://abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst@git.example.com/x.git",
        "https://eyJhbGciOiJIUzI1NiJ9.e30.abc@git.example.com/x.git",
        "ssh://ghp_token@git.example.com/x.git",
        "ghp_token@git.example.com:x.git",
        "ghp_token:x-oauth-basic@git.example.com/x.git",
        "https://git.example.com/x.git?private_token=secret",
        "https://git.example.com/x.git#secret",
    ],
)
def test_a_secret_in_a_repositorys_url_is_refused_and_not_repeated(
    tmp_path: Path, block: str, repository: str
) -> None:
    error = refusal(tmp_path, block, repository=repository)
    for secret in ("gh", "glpat", "0123", "234567", "eyJ", "secret", "token@", "x-oauth"):
        assert secret not in error.problem.partition("repository: ")[2].partition(" carries")[0]
    assert "git.example.com" not in error.problem


@pytest.mark.parametrize(
    "repository",
    [
        "https://x-access-token@git.example.com/x.git",
        "https://x-bitbucket-api-token-auth@git.example.com/x.git",
        "https://a-team-with-a-long-name@dev.example.com/a-team/_git/x",
        "ssh://APKAEIBAERJR2EXAMPLE@git.example.com/v1/repos/x",
        "https://alice-at-123456789012@git.example.com/v1/repos/x",
    ],
)
def test_a_user_name_that_is_none_of_that_is_accepted(tmp_path: Path, repository: str) -> None:
    mirror = {**SMALLEST, "governance": {"repository": repository}}
    (tmp_path / "goldenpath.yaml").write_text(yaml.safe_dump(mirror), encoding="utf-8")
    assert load_mirror(tmp_path / "goldenpath.yaml").governance.repository == repository


@pytest.mark.parametrize(
    ("block", "changes"),
    [
        ("registry", {"endpoint_url": "https://127.0.0.1/?token=secret"}),
        ("registry", {"endpoint_url": "https://127.0.0.1/#secret"}),
        ("registry", {"endpoint_url": "http://127.0.0.1:5055\n.evil.example.com"}),
        ("registry", {"endpoint_url": "http://127.0.0.1 .evil.example.com"}),
        ("registry", {"role_arn": "arn:aws:iam::123456789012:role/a\tb"}),
        ("registry", {"role_arn": "arn:aws:iam::123456789012:role/a b"}),
        ("backstage", {"url": "https://backstage.example.com?token=secret"}),
        ("backstage", {"url": "https://backstage.example.com/\u202e"}),
        ("parity", {"slo_seconds": 10**18}),
        ("parity", {"slo_seconds": "9" * 5_000}),
        ("publish", {"kind": "s3", "bucket": "../bucket", "key": "k"}),
        ("publish", {"kind": "s3", "bucket": "a/b/c", "key": "k"}),
        ("publish", {"kind": "s3", "key": "a\nb", "bucket": "bucket"}),
        ("publish", {"kind": "file", "path": "/dev/null"}),
        ("publish", {"kind": "file", "path": "/dev/../dev/zero"}),
        ("publish", {"kind": "file", "path": "/proc/self/environ"}),
        ("publish", {"kind": "file", "path": "/sys/power/state"}),
    ],
    ids=lambda each: ascii(each)[:60],
)
def test_a_setting_that_could_harm_is_refused(
    tmp_path: Path, block: str, changes: dict[str, Any]
) -> None:
    mirror = {key: value for key, value in SMALLEST.items() if key != block or block != "publish"}
    before = mirror.get(block, {})
    path = tmp_path / "goldenpath.yaml"
    path.write_text(yaml.safe_dump({**mirror, block: {**before, **changes}}), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_mirror(path)
    assert_readable(caught.value)
    assert f" {block}." in caught.value.problem
    assert "secret" not in str(caught.value)


def test_links_without_an_end_are_refused_by_their_key(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    refusal(tmp_path / "mirrors", "governance", repository="../one/x")
    (tmp_path / "mirrors" / "goldenpath.yaml").write_text(
        yaml.safe_dump({**SMALLEST, "publish": {"kind": "file", "path": "../one/ecr.yaml"}})
    )
    with pytest.raises(SettingsError, match=r"publish\.path: leads through symbolic links"):
        load_mirror(tmp_path / "mirrors" / "goldenpath.yaml")


def test_a_device_behind_a_link_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev")
    refusal(tmp_path / "mirrors", "publish", kind="file", path=str(tmp_path / "link" / "zero"))


def test_files_of_any_name_and_content_never_take_the_others_down(tmp_path: Path) -> None:
    good = yaml.safe_dump(SMALLEST).encode()
    bomb = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (at + 1, at + 1, b", ".join([b"*%c" % at] * 9)) for at in b"abcdefgh"
    )
    hostile = {
        b"new\nline.yaml": good,
        b"\x1b[31mred.yaml": good,
        b"\xff\xfe.yaml": good,
        "\u202elmay.yaml".encode(): good,
        b"-rf.yaml": good,
        b"bomb.yaml": bomb,
        b"deep.yaml": b"[" * 100_000,
        b"tagged.yaml": b"!!python/object/apply:os.system [touch pwned]",
        b"keys.yaml": b"governance: 1\ngovernance: 2\n",
        b"evil_key.yaml": good + b'"\\e[31m\\n": 1\n',
        b"evil_name.yaml": good + b'name: "\\e[31m\\n"\n',
        b"long_name.yaml": good + b"name: " + b"x" * 5_000 + b"\n",
        b"tag.yaml": good + b"x: !%0A y\n",
    }
    for name, content in hostile.items():
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(content)
    (tmp_path / "fine.yaml").write_bytes(good)

    loaded = load_mirrors(tmp_path)

    assert list(loaded.mirrors) == ["fine"]
    assert len(loaded.errors) == len(hostile)
    for shown, error in loaded.errors.items():
        assert is_one_line(shown)
        assert_readable(error)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.timeout(60)
def test_a_mirror_file_that_is_no_file_is_an_error_and_hangs_nothing(tmp_path: Path) -> None:
    good = (
        "governance: {repository: ./g}\nregistry: {region: eu-west-2}\n"
        "publish: {kind: file, path: out/x.yaml}\n"
    )
    (tmp_path / "fine.yaml").write_text(good)
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "huge.yaml").write_text(good + "# " + "x" * 1_000_000)

    loaded = load_mirrors(tmp_path)

    assert list(loaded.mirrors) == ["fine"]
    problems = {name: error.problem.partition(": ")[2] for name, error in loaded.errors.items()}
    assert problems == {
        "fifo": "cannot be read: no regular file",
        "zero": "cannot be read: no regular file",
        "folder": "cannot be read: Is a directory",
        "huge": "cannot be read: larger than 1,000,000 bytes",
    }


# Repositories


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    source = Repository.create(tmp_path / "source")
    source.commit({PATH: ONE})
    return source


@pytest.mark.parametrize("mode", [SYMLINK, SUBMODULE])
def test_a_file_below_what_is_no_folder_is_not_followed(
    source: Repository, cache: Path, tmp_path: Path, mode: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ecr-catalog.yaml").write_bytes(ONE)
    target = str(outside) if mode == SYMLINK else str(source.tip())
    source.commit({PATH: None, "catalogs": Entry(target, mode)})
    with pytest.raises(GovernanceUnavailable) as caught:
        GovernanceRepo(str(source.folder), "main", PATH, cache).read()
    assert f"there is no {PATH}" in caught.value.problem


@pytest.mark.parametrize("to", ["ecr-catalog.yaml", "../catalogs/ecr-catalog.yaml", "/etc/passwd"])
def test_a_link_to_itself_or_elsewhere_is_refused(source: Repository, cache: Path, to: str) -> None:
    source.commit({PATH: Entry(to, SYMLINK)})
    with pytest.raises(GovernanceRefused, match="a symbolic link"):
        GovernanceRepo(str(source.folder), "main", PATH, cache).read()


def test_attributes_of_the_repository_change_no_byte_and_run_nothing(
    source: Repository, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    configuration = tmp_path / "gitconfig"
    # Even where a user's own git knows such a filter.
    configuration.write_text(
        f'[filter "evil"]\n smudge = touch {mark}\n clean = touch {mark}\n process = touch {mark}\n'
        f'[diff "evil"]\n textconv = touch {mark}\n command = touch {mark}\n'
        f'[merge "evil"]\n driver = touch {mark}\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    content = b"# $Id$ $Format:%H$\nrepositories: {}\n"
    attributes = "* filter=evil diff=evil merge=evil export-subst ident eol=crlf text\n"
    source.commit({".gitattributes": attributes, PATH: content})
    reader = GovernanceRepo(str(source.folder), "main", PATH, cache)
    assert reader.read().content == content
    first = reader.read().commit
    source.commit({PATH: content + b"# again\n"})
    assert reader.history(first, reader.read().commit)[-1].content == content + b"# again\n"

    target = Repository.create(tmp_path / "target.git", bare=True)
    target.commit({".gitattributes": attributes, "other": "x\n"})
    GitPublisher(str(target.folder), "main", PATH, cache).publish(content, None, PROVENANCE)
    assert target.content(PATH) == content
    assert not mark.exists()


HOSTILE_CONFIG: Final = """
[core]
    fsmonitor = touch {mark}
    sshCommand = touch {mark}
    hooksPath = {hooks}
    pager = touch {mark}
    editor = touch {mark}
    gitProxy = touch {mark}
    askPass = {hooks}/post-checkout
[uploadpack]
    packObjectsHook = touch {mark}
[credential]
    helper = !touch {mark}
[gpg]
    program = {hooks}/post-checkout
[commit]
    gpgSign = true
[log]
    showSignature = true
[diff]
    external = touch {mark}
[alias]
    fetch = !touch {mark}
[remote "origin"]
    uploadpack = touch {mark}
"""


def test_the_configuration_of_a_local_repository_runs_nothing_when_it_is_read(
    source: Repository, cache: Path, tmp_path: Path
) -> None:
    mark, hooks = tmp_path / "mark", tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc"):
        source.hook(name, f"touch {mark}")
        (hooks / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (hooks / name).chmod(0o755)
    with (source.git_folder / "config").open("a") as stream:
        stream.write(HOSTILE_CONFIG.format(mark=mark, hooks=hooks))
    reader = GovernanceRepo(str(source.folder), "main", PATH, cache)

    assert reader.read().content == ONE
    assert reader.history(reader.read().commit, reader.read().commit)[0].content == ONE

    assert not mark.exists()


def test_hooks_of_a_clone_never_come_from_what_is_fetched(
    source: Repository, cache: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    source.commit({"hooks/post-checkout": Entry(f"#!/bin/sh\ntouch {mark}\n", "100755")})
    source.commit({"config": "[core]\n\tfsmonitor = false\n", "HEAD": "ref: refs/heads/evil\n"})
    reader = GovernanceRepo(str(source.folder), "main", PATH, cache)
    assert reader.read().content == ONE
    (clone,) = cache.glob("*.git")
    hooks = {each.name for each in (clone / "hooks").glob("*") if each.suffix != ".sample"}
    assert hooks == set()
    assert "fsmonitor" not in (clone / "config").read_text()


@pytest.mark.parametrize("path", ["-x.yaml", "--output=x", "a,b.yaml", "a b/é.yaml", "100644,x"])
def test_a_path_of_the_settings_is_never_an_option(
    source: Repository, cache: Path, tmp_path: Path, path: str
) -> None:
    source.commit({path: ONE}, at=NOON)
    assert GovernanceRepo(str(source.folder), "main", path, cache).read().content == ONE
    target = Repository.create(tmp_path / "target.git", bare=True)
    GitPublisher(str(target.folder), "main", path, cache).publish(ONE, None, PROVENANCE)
    assert target.content(path) == ONE
    assert target.git("ls-tree", "-r", "--name-only", "-z", "main") == f"{path}\0"


@pytest.mark.parametrize("path", [".git/hooks/x", "a/.git/config", "../x", "a/../../x", "/abs"])
def test_git_itself_refuses_a_path_that_slipped_through(
    cache: Path, tmp_path: Path, path: str
) -> None:
    target = Repository.create(tmp_path / "target.git", bare=True)
    target.commit({"other": "x\n"})
    before = target.tip()
    with pytest.raises(CatalogError) as caught:
        GitPublisher(str(target.folder), "main", path, cache).publish(ONE, None, PROVENANCE)
    assert_readable(caught.value)
    assert isinstance(caught.value, TargetRefused) or caught.value.needs == "time"
    assert target.tip() == before


# On the wire

words = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["\ud800", "\x1b[31m", "a\nb", "\u202e", "x" * 500, "../..", "<a>&amp;"]),
)
values = st.recursive(
    st.one_of(words, st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
REPOSITORY: Final = {
    "repositoryName": "team/app",
    "repositoryUri": "123456789012.dkr.ecr.eu-west-2.amazonaws.com/team/app",
    "createdAt": 1_767_225_600.0,
    "imageScanningConfiguration": {"scanOnPush": False},
    "encryptionConfiguration": {"encryptionType": "AES256"},
}
moments = st.sampled_from(
    [1e400, -1e18, 253402300800, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "", {}]
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=60))
    key = draw(st.sampled_from([*REPOSITORY, "extra"]))
    odd = {**REPOSITORY, key: draw(st.one_of(values, moments))}
    answer: dict[str, Any] = {
        "repositories": [odd, draw(st.sampled_from([REPOSITORY, odd, None, {}]))]
    }
    if draw(st.booleans()):
        answer[draw(st.sampled_from(["nextToken", "repositories", "x"]))] = draw(values)
    body = json.dumps(answer).encode()
    return body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body


@pytest.fixture(scope="module")
def aws() -> Iterator[FakeAws]:
    with FakeAws() as aws:
        yield aws


@pytest.fixture(scope="module")
def registry(aws: FakeAws) -> EcrRegistry:
    return EcrRegistry(aws.region, endpoint_url=aws.endpoint_url)


def inventory_or_error(aws: FakeAws, registry: EcrRegistry) -> None:
    try:
        found = registry.read()
        registry.prove_absent(found.account_id, ["team/gone"])
    except InventoryFailed as error:
        assert_readable(error)
    else:
        assert found.fingerprint
        assert found.account_id == aws.account_id
        assert all(is_one_line(f"{each.name}{each.uri}") for each in found.repositories)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=bodies())
def test_any_listing_on_the_wire(aws: FakeAws, registry: EcrRegistry, body: bytes) -> None:
    aws.fail("DescribeRepositories", Answer(body))
    inventory_or_error(aws, registry)
    aws.clear()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(code=words, message=words)
def test_any_refusal_on_the_wire(
    aws: FakeAws, registry: EcrRegistry, code: str, message: str
) -> None:
    body = json.dumps({"__type": code, "message": f"{message}\n{message}"}).encode()
    aws.fail("DescribeRepositories", Answer(body, 400))
    inventory_or_error(aws, registry)
    aws.clear()


@pytest.mark.parametrize(
    "inside",
    [
        "<Account>1&#10;2</Account>",
        "<Account>../evil.example.com</Account>",
        "<Account></Account>",
        "<Account>123456789012</Account><Account>210987654321</Account>",
        "",
        "<!DOCTYPE x [<!ENTITY a 'x'>]><Account>&a;</Account>",
    ],
)
def test_any_identity_on_the_wire(aws: FakeAws, inside: str) -> None:
    result = f"<GetCallerIdentityResult>{inside}</GetCallerIdentityResult>"
    name = "GetCallerIdentityResponse"
    body = f'<{name} xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{result}</{name}>'
    aws.fail("GetCallerIdentity", Answer(body.encode()))
    inventory_or_error(aws, EcrRegistry(aws.region, endpoint_url=aws.endpoint_url))
    aws.clear()


@pytest.mark.parametrize("lacks", ["AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"])
def test_credentials_of_a_role_that_are_not_whole_are_an_error_that_shows_none(
    aws: FakeAws, lacks: str
) -> None:
    parts = {
        "AccessKeyId": "ASIAPLANTED",
        "SecretAccessKey": "pl4nted",
        "SessionToken": "pl4nted",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in parts.items() if key != lacks)
    result = f"<AssumeRoleResult><Credentials>{inside}</Credentials></AssumeRoleResult>"
    body = f"<AssumeRoleResponse>{result}</AssumeRoleResponse>".encode()
    role = "arn:aws:iam::123456789012:role/reader"
    for content in (body, body[: len(body) - 40]):
        aws.fail("AssumeRole", Answer(content))
        with pytest.raises(InventoryFailed) as caught:
            EcrRegistry(aws.region, endpoint_url=aws.endpoint_url, role_arn=role).read()
        aws.clear()
        assert_readable(caught.value)
        assert "pl4nted" not in f"{caught.value!r}"


class Raw:
    """Answers every request with the same bytes, a head included, and closes."""

    def __init__(self) -> None:
        self.reply = b""
        raw = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.wfile.write(raw.reply)
                self.close_connection = True

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=lambda: self.server.serve_forever(0.02), daemon=True).start()


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    raw = Raw()
    yield raw
    raw.server.shutdown()
    raw.server.server_close()


HEAD: Final = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
replies = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda odd: HEAD + odd + b"\r\n\r\n{}", st.binary(max_size=40)),
    st.builds(lambda body: HEAD + b"\r\n" + body, st.binary(max_size=60)),
    st.builds(lambda value: HEAD + b"\r\n" + json.dumps(value).encode(), values),
    st.sampled_from(
        [
            HEAD + b"\r\n" + b"[" * 100_000,
            HEAD + b"\r\n" + b'{"a":' * 100_000,
            HEAD + b"Content-Encoding: gzip\r\n\r\nno gzip",
            HEAD + b"Content-Length: -1\r\n\r\n{}",
            HEAD + b"Content-Length: 1, 2\r\n\r\n{}",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
            HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n{}",
            HEAD + b"X: y\r\n" * 200 + b"\r\n{}",
            b"HTTP/1.1 999 \x1b[31m\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
            b"HTTP/9 200\r\n\r\n",
        ]
    ),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(reply=replies)
def test_any_answer_of_backstage_on_the_wire(raw: Raw, reply: bytes) -> None:
    raw.reply = reply
    catalog = BackstageCatalog(raw.url)
    try:
        entity = catalog.entity("default", "goldenpath-ecr-registry")
    except BackstageUnavailable as error:
        assert_readable(error)
    else:
        assert entity is None or isinstance(entity, dict)


HOSTILE_URLS: Final = (
    "http://[::1",
    "http://127.0.0.1:99999999/x",
    "http://127.0.0.1:port/x",
    "ftp://127.0.0.1/x",
    "://",
    "http://",
    "http://\u2028/",
    "http://" + "a" * 300 + "/",
    "http://127.0.0.1:1/\r\nHost:evil",
    "file:///etc/passwd",
    "json://",
    "json://%",
    "json://127.0.0.1:99999999/",
    "slack://x",
    "nonsense://x",
    "\x00",
)


@pytest.mark.parametrize("url", HOSTILE_URLS, ids=ascii)
def test_no_url_of_the_environment_ends_in_anything_but_false(
    url: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "pl4nted-t0ken"
    spoilt = f"{url}{secret}"
    notifier = Notifier({ALERT_URLS_VARIABLE: spoilt, PING_URL_VARIABLE: spoilt})
    condition = Condition(Signal.RUN_FAILED, NOON, "a cause", "a fix")
    assert notifier.ping() is False
    assert notifier.send(Alert("goldenpath", condition, None, "none")) is False
    out, err = capfd.readouterr()
    assert secret not in out + err + caplog.text
