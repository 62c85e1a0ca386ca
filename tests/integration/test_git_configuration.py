"""A user's git configuration and environment, as bad as they get, under the real adapters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from ecr_catalog_pipeline.adapters.governance_repo import GovernanceRepo
from ecr_catalog_pipeline.adapters.publish_git import GitPublisher
from ecr_catalog_pipeline.commands.init import _of_git
from ecr_catalog_pipeline.core.errors import GovernanceUnavailable
from ecr_catalog_pipeline.sprawl.catalog_repo import CatalogRepo
from tests.integration.conftest import Repository
from tests.integration.publisher_contract import ONE, PROVENANCE, TWO
from tests.integration.worlds import GitTarget, a_world

PATH: Final = "catalogs/ecr-catalog.yaml"
FILE: Final = b"version: '1.0'\nrepositories: {}\n"
SPRAWL: Final = "kind: Resource\nmetadata: {name: pay}\nspec: {type: ecr-repository}\n"

# `{run}` leaves a mark when it runs, and fails.
HOSTILE: Final = """
[alias]
    fetch = !{run}
    cat-file = !{run}
[branch "main"]
    remote = /nowhere
    pushRemote = /nowhere
    merge = refs/heads/nowhere
[color]
    ui = always
[commit]
    gpgSign = true
[core]
    abbrev = 4
    alternateRefsCommand = {run}
    attributesFile = {folder}/attributes
    autocrlf = true
    bare = false
    fsmonitor = {run}
    hooksPath = {folder}/hooks
    logAllRefUpdates = always
    pager = {run}
    precomposeUnicode = true
    quotePath = true
    sparseCheckout = true
    splitIndex = true
    worktree = {folder}/nowhere
[diff]
    external = {run}
    noprefix = true
[feature]
    experimental = true
    manyFiles = true
[fetch]
    fsckObjects = true
    negotiationAlgorithm = noop
    output = compact
    prune = true
    pruneTags = true
    recurseSubmodules = true
    writeCommitGraph = true
[format]
    pretty = raw
[gc]
    auto = 1
    recentObjectsHook = {run}
[gpg]
    program = {run}
[i18n]
    commitEncoding = ISO-8859-1
    logOutputEncoding = UTF-16
[index]
    version = 4
[init]
    defaultBranch = other
    templateDir = {folder}/template
[log]
    date = relative
    decorate = full
    follow = true
    showSignature = true
[maintenance]
    strategy = incremental
[pager]
    log = {run}
[push]
    default = nothing
    followTags = true
    gpgSign = true
    pushOption = unknown
    recurseSubmodules = only
[receive]
    denyNonFastForwards = true
    maxInputSize = 1
[remote]
    pushDefault = /nowhere
[remote "origin"]
    fetch = +refs/*:refs/*
    mirror = true
    partialclonefilter = tree:0
    prune = true
    push = refs/heads/nowhere
    pushurl = /nowhere
    receivepack = {run}
    tagOpt = --tags
    uploadpack = {run}
    url = /nowhere
    vcs = nowhere
[safe]
    bareRepository = explicit
[trace2]
    eventTarget = 2
    normalTarget = 2
[transfer]
    fsckObjects = true
    hideRefs = refs/heads
    unpackLimit = 1
[uploadpack]
    hideRefs = refs/heads
    packObjectsHook = {run}
[url "{folder}/"]
    insteadOf = https://git.example.com/
[user]
    email = conny@example.com
    name = Conny
    signingKey = nowhere
"""
VARIABLES: Final = {
    "GIT_COMMITTER_DATE": "no date",
    "GIT_CURL_VERBOSE": "1",
    "GIT_DEFAULT_HASH": "sha256",
    "GIT_EXTERNAL_DIFF": "{run}",
    "GIT_GLOB_PATHSPECS": "1",
    "GIT_ICASE_PATHSPECS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_PAGER": "{run}",
    "GIT_TEMPLATE_DIR": "{folder}/template",
    "GIT_TRACE": "1",
    "GIT_TRACE2": "1",
    "GIT_TRACE_PACKET": "2",
}
HOOKS: Final = (
    *("applypatch-msg", "fsmonitor-watchman", "post-checkout", "post-commit", "post-receive"),
    *("post-update", "pre-auto-gc", "pre-commit", "pre-push", "pre-receive", "proc-receive"),
    *("push-to-checkout", "reference-transaction", "update", "post-index-change"),
)


def executable(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hostile configuration and environment; gives the file that a hook or program leaves."""
    folder, mark = tmp_path / "hostile", tmp_path / "mark"
    run = folder / "run"
    executable(run, f'echo "$0 $*" >> {mark}; exit 1')
    for name in HOOKS:
        executable(folder / "hooks" / name, f"exec {run} {name}")
        executable(folder / "template/hooks" / name, f"exec {run} template {name}")
    (folder / "attributes").write_text("* text eol=crlf working-tree-encoding=UTF-16\n")
    places = {"folder": folder, "run": run}
    (tmp_path / "home/.gitconfig").write_text(HOSTILE.format(**places))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value.format(**places))
    return mark


def signed(repository: Repository, branch: str) -> None:
    """Give a branch's last commit a signature."""
    commit = repository.git("cat-file", "commit", branch)
    head, _, message = commit.partition("\n\n")
    lines = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n bm90aGluZw==\n -----END PGP SIGNATURE-----"
    made = repository.git(
        *("hash-object", "-t", "commit", "-w", "--stdin"),
        stdin=f"{head}\n{lines}\n\n{message}\n".encode(),
    )
    repository.git("update-ref", f"refs/heads/{branch}", made)


def test_a_plan_a_publication_and_a_second_run_are_what_they_are_without_the_configuration(
    tmp_path: Path, mark: Path
) -> None:
    with a_world(tmp_path, target := GitTarget(tmp_path)) as world:
        catalog = Repository.create(tmp_path / "sprawl.git", bare=True)
        catalog.commit({"catalog/gr\u00fc\u00dfe.yaml": SPRAWL})
        signed(catalog, "main")
        world.write_mirror(sprawl={"repository": str(catalog.folder)})
        world.have("team/app", "team/other")
        signed(world.governance, "main")

        first = world.sync()
        assert first.outcome == "published"
        assert first.checks["no_ad_hoc_entities"] is False
        assert list(world.listed) == ["team/app", "team/other"]
        signed(target.repository, target.branch)

        world.restart()
        assert world.sync().outcome == "unchanged"
        world.have("team/third")
        assert world.sync().outcome == "published"
        assert target.repository.git("log", "-1", "--format=%cn <%ce>", target.branch) == (
            "Conny <conny@example.com>"
        ), "who commits is the user's to say"
        assert len(target.history()) == 2
    assert not mark.exists(), mark.read_text()
    assert list(world.cache.glob("*.git/hooks")) == []


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
@pytest.mark.parametrize("filters", [False, True])
def test_source_target_and_catalog_work_in_either_object_format_under_such_a_configuration(
    tmp_path: Path, cache: Path, mark: Path, object_format: str, *, filters: bool
) -> None:
    # Addresses of https stand for the folder, so the configuration's `insteadOf` is in use.
    repositories = {}
    for name in ("source", "target", "empty", "catalog"):
        folder = tmp_path / "hostile" / name
        folder.mkdir()
        repository = Repository(folder)
        repository.git("init", "--quiet", "--bare", f"--object-format={object_format}")
        repository.git("config", "uploadpack.allowFilter", str(filters).lower())
        repositories[name] = repository
    made = repositories["source"].git("hash-object", "-w", "--stdin", stdin=FILE)
    for name, path in (("source", PATH), ("target", "README.md"), ("catalog", "a/pay.yaml")):
        content = FILE if name == "source" else SPRAWL.encode()
        blob = repositories[name].git("hash-object", "-w", "--stdin", stdin=content)
        commit_to_main(repositories[name], path, blob)
        signed(repositories[name], "main")

    def address(name: str) -> str:
        return f"https://git.example.com/{name}"

    read = GovernanceRepo(address("source"), "main", PATH, cache).read()
    assert (read.content, read.blob) == (FILE, made)
    assert read.source_sha == repositories["source"].tip()
    assert len(read.source_sha) == {"sha1": 40, "sha256": 64}[object_format]

    for name, branch in (("target", "main"), ("empty", "governance-registry")):
        publisher = GitPublisher(address(name), branch, "catalog/ecr.yaml", cache)
        version = publisher.publish(ONE, publisher.read().version, PROVENANCE)
        publisher.publish(TWO, version, PROVENANCE)
        assert repositories[name].content("catalog/ecr.yaml", branch) == TWO
        assert publisher.read().content == TWO

    found = CatalogRepo(address("catalog"), "main", (), cache).sprawl(())
    assert [path for path, _ in found.found] == ["a/pay.yaml"]
    assert not mark.exists(), mark.read_text()


def commit_to_main(repository: Repository, path: str, blob: str) -> None:
    *folders, file = path.split("/")
    tree = repository.git("mktree", stdin=f"100644 blob {blob}\t{file}\n".encode())
    for folder in reversed(folders):
        tree = repository.git("mktree", stdin=f"040000 tree {tree}\t{folder}\n".encode())
    repository.git("update-ref", "refs/heads/main", repository.git("commit-tree", tree, "-m", "x"))


def test_init_reads_the_working_folder_under_such_a_configuration(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Repository.create(tmp_path / "work")
    work.commit({"gr\u00fc\u00dfe/ecr-catalog.yaml": FILE})
    work.git("reset", "--quiet", "--hard")
    monkeypatch.chdir(work.folder)
    monkeypatch.delenv("GIT_TRACE_PACKET")
    assert _of_git()["governance.path"] == "gr\u00fc\u00dfe/ecr-catalog.yaml"
    assert not mark.exists(), mark.read_text()


# What the configuration says of trust, and what it says badly


@pytest.mark.parametrize("trusted", [False, True])
def test_a_repository_of_another_user_is_read_when_the_user_trusts_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    source = Repository.create(tmp_path / 'a "source"', bare=True)
    source.commit({PATH: FILE})
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    # git's own way to test that: every repository seems to be another user's.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    if trusted:
        subprocess.run(
            ["git", "config", "--global", "--add", "safe.directory", str(source.folder)], check=True
        )
    reader = GovernanceRepo(str(source.folder), "main", PATH, cache)
    if trusted:
        assert reader.read().content == FILE
        assert reader.read().content == FILE
    else:
        with pytest.raises(GovernanceUnavailable, match="dubious ownership"):
            reader.read()


def test_a_configuration_for_some_addresses_holds_for_those(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Repository.create(tmp_path / "team" / "source", bare=True)
    source.commit({PATH: FILE})
    home = tmp_path / "home"
    (home / ".gitconfig").write_text(
        '[includeIf "hasconfig:remote.*.url:https://git.example.com/**"]\n    path = work\n'
    )
    (home / "work").write_text(f'[url "{tmp_path}/"]\n    insteadOf = https://git.example.com/\n')
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    read = GovernanceRepo("https://git.example.com/team/source", "main", PATH, cache).read()
    assert read.content == FILE


def test_a_configuration_that_git_cannot_read_is_reported_in_gits_words_and_costs_no_clone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Repository.create(tmp_path / "source", bare=True)
    source.commit({PATH: FILE})
    reader = GovernanceRepo(str(source.folder), "main", PATH, cache)
    reader.read()
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    (tmp_path / "home/.gitconfig").write_text("[user\n")
    with pytest.raises(GovernanceUnavailable) as caught:
        reader.read()
    assert "bad config line 1 in file" in caught.value.problem
    assert "Correct git's configuration" in caught.value.remediation
    assert len(list(cache.glob("*.git"))) == 1


@pytest.mark.parametrize(
    ("has_git", "words"), [(False, "git is not installed"), (True, "bad config line 1 in file")]
)
def test_what_needs_no_git_works_without_a_healthy_one_and_what_needs_it_says_so(
    tmp_path: Path, words: str, *, has_git: bool
) -> None:
    home = tmp_path / "elsewhere"
    home.mkdir()
    (home / ".gitconfig").write_text("[user\n")
    path = os.environ["PATH"] if has_git else str(home)
    (home / "a.yaml").write_text("kind: Component\n")
    (home / "mirrors").mkdir()
    (home / "mirrors/one.yaml").write_text(
        f"governance: {{repository: {home}}}\nregistry: {{region: eu-west-2, "
        "endpoint_url: 'http://127.0.0.1:1'}\npublish: {kind: file, path: ./out.yaml}\n"
    )
    environment = {"PATH": path, "HOME": str(home), "ECR_CATALOG_CACHE": str(home / "cache")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from ecr_catalog_pipeline.cli import main; main()", *arguments],
            cwd=home,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert run("guard", "a.yaml").returncode == 0
    failed = run("plan", "-m", "one")
    assert failed.returncode == 1
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr
