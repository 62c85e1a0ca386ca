from __future__ import annotations

import multiprocessing
import shlex
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from ecr_catalog_pipeline.adapters import git_clone
from ecr_catalog_pipeline.adapters.publish_git import (
    DEFAULT_EMAIL,
    DEFAULT_NAME,
    TRIES,
    GitPublisher,
)
from ecr_catalog_pipeline.adapters.publisher import Lists, Published
from ecr_catalog_pipeline.core.entity import list_digest, list_name
from ecr_catalog_pipeline.core.errors import LostRace, TargetRefused, TargetUnavailable
from tests.integration.conftest import EXECUTABLE, SUBMODULE, SYMLINK, Entry, Repository
from tests.integration.publisher_contract import (
    FOREIGN,
    LIST,
    NOTHING,
    ONE,
    OTHER_LIST,
    PROVENANCE,
    TWO,
    PublisherContract,
    lost_race,
    publish,
)

BRANCH: Final = "governance-registry"
PATH: Final = "catalog/resources/ecr-registry.yaml"


@dataclass
class GitTarget:
    """A bare repository with a branch that holds other files already."""

    remote: Repository
    caches: Path
    made: int = field(default=0, init=False)

    def publisher(self, path: str = PATH, *, url: str | None = None) -> GitPublisher:
        self.made += 1
        cache = self.caches / str(self.made)
        return GitPublisher(url or str(self.remote.folder), BRANCH, path, cache)

    def content(self) -> bytes | None:
        return self.remote.content(PATH, BRANCH)

    def write(self, content: bytes) -> None:
        self.commit({PATH: content})

    def remove(self) -> None:
        self.commit({PATH: None})

    def lists(self) -> dict[str, bytes]:
        if not self.tip:
            return {}
        names = self.remote.git("ls-tree", "-r", "--name-only", BRANCH).splitlines()
        found = {name: self.remote.content(name, BRANCH) for name in names if ".jsonl" in name}
        return {name: content for name, content in found.items() if content is not None}

    def write_list(self, name: str, content: bytes | None) -> None:
        self.commit({name: content})

    def commit(self, changes: dict[str, Entry | bytes | str | None]) -> str:
        return self.remote.commit(changes, branch=BRANCH)

    @property
    def tip(self) -> str:
        return self.remote.tip(BRANCH) or ""

    def log(self, form: str, commit: str = BRANCH) -> str:
        return self.remote.git("log", "-1", f"--format={form}", commit)


@pytest.fixture
def target(tmp_path: Path, cache: Path) -> GitTarget:
    remote = Repository.create(tmp_path / "remote.git", bare=True)
    remote.commit({"README.md": "main\n"})
    target = GitTarget(remote, cache)
    target.commit(
        {
            "catalog/resources/other.yaml": "kind: Component\n",
            "run.sh": Entry("#!/bin/sh\n", EXECUTABLE),
            "link": Entry("README.md", SYMLINK),
            "modules/one": Entry(remote.tip() or "", SUBMODULE),
        }
    )
    return target


def refused(publish: Callable[[], object]) -> TargetRefused:
    with pytest.raises(TargetRefused) as caught:
        publish()
    assert caught.value.needs == "human"
    assert caught.value.remediation
    return caught.value


class TestContract(PublisherContract):
    """The contract, where the branch holds other files."""


class TestContractOnANewBranch(PublisherContract):
    """The contract, where the repository is empty at first."""

    @pytest.fixture
    def target(self, tmp_path: Path, cache: Path) -> GitTarget:
        return GitTarget(Repository.create(tmp_path / "empty.git", bare=True), cache)


# What a publication changes


def test_only_our_path_changes(target: GitTarget) -> None:
    before = target.tip
    listed = target.remote.git("ls-tree", "-r", BRANCH)
    publish(target.publisher(), ONE)
    assert target.remote.git("diff", "--name-status", before, BRANCH) == f"A\t{PATH}"
    after = target.remote.git("ls-tree", "-r", BRANCH).splitlines()
    assert set(listed.splitlines()) == {line for line in after if not line.endswith(PATH)}
    assert target.remote.git("rev-parse", f"{BRANCH}^@") == before


def test_the_entity_and_its_list_change_in_one_commit(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
    before = target.tip
    publisher.publish(TWO, version, PROVENANCE, Lists(OTHER_LIST, old=list_digest(LIST)))
    changed = target.remote.git("diff", "--no-renames", "--name-status", before, BRANCH)
    assert target.remote.git("rev-list", "--count", f"{before}..{BRANCH}") == "1"
    assert changed.splitlines() == sorted(
        [
            f"M\t{PATH}",
            f"A\t{list_name(PATH, list_digest(OTHER_LIST))}",
            f"D\t{list_name(PATH, list_digest(LIST))}",
        ],
        key=lambda line: line[2:],
    )


def test_the_version_is_the_blob_at_our_path(target: GitTarget) -> None:
    version = publish(target.publisher(), ONE)
    assert version == target.remote.git("rev-parse", f"{BRANCH}:{PATH}")
    assert target.remote.git("ls-tree", BRANCH, "--", PATH).startswith("100644 blob")


def test_other_branches_stay(target: GitTarget) -> None:
    main = target.remote.tip()
    publish(target.publisher(), ONE)
    assert target.remote.tip() == main
    refs = target.remote.git("for-each-ref", "--format=%(refname)").splitlines()
    assert refs == [f"refs/heads/{BRANCH}", "refs/heads/main"]


def test_a_missing_branch_is_created_with_our_file_alone(tmp_path: Path, cache: Path) -> None:
    remote = Repository.create(tmp_path / "remote.git", bare=True)
    remote.commit({"README.md": "main\n"})
    publisher = GitTarget(remote, cache).publisher()
    assert publisher.read() == NOTHING
    publish(publisher, ONE)
    assert remote.git("ls-tree", "-r", "--name-only", BRANCH) == PATH
    assert remote.git("rev-list", "--count", BRANCH) == "1"


def test_every_publication_is_one_commit_on_the_last(target: GitTarget) -> None:
    publisher = target.publisher()
    before = target.tip
    version = publish(publisher, ONE)
    publisher.publish(TWO, version, PROVENANCE)
    assert target.remote.git("rev-list", "--count", f"{before}..{BRANCH}") == "2"
    assert target.remote.git("rev-list", "--merges", BRANCH) == ""


def test_users_line_endings_and_filters_change_nothing(
    target: GitTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.autocrlf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "input")
    target.commit({".gitattributes": "* text=auto eol=lf\n"})
    publish(target.publisher(), b"a\r\nb\r\n")
    assert target.content() == b"a\r\nb\r\n"


# What the commit says


def test_the_message_names_mirror_and_counts(target: GitTarget) -> None:
    publish(target.publisher(), ONE)
    assert target.log("%s") == (
        "ecr-catalog(goldenpath): 2 live (+2 ~0 -0), 6 pending, 3 ghosts, 0 orphans"
    )


def test_the_trailers_say_where_it_comes_from(target: GitTarget) -> None:
    publish(target.publisher(), ONE)
    message = target.log("%B").encode()
    parsed = target.remote.git("interpret-trailers", "--parse", stdin=message).splitlines()
    assert parsed == [
        f"Source-Sha: {PROVENANCE.source_sha}",
        f"Plan-Hash: {PROVENANCE.plan_hash}",
        f"Run-Id: {PROVENANCE.run_id}",
    ]


PEOPLE: Final = "%an <%ae> %cn <%ce>"


def test_without_an_identity_the_author_is_ours(target: GitTarget) -> None:
    publish(target.publisher(), ONE)
    ours = f"{DEFAULT_NAME} <{DEFAULT_EMAIL}>"
    assert target.log(PEOPLE) == f"{ours} {ours}"


def test_the_author_comes_from_gits_environment(
    target: GitTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role, name in (("AUTHOR", "Ann"), ("COMMITTER", "Com")):
        monkeypatch.setenv(f"GIT_{role}_NAME", name)
        monkeypatch.setenv(f"GIT_{role}_EMAIL", f"{name.lower()}@example.com")
    publish(target.publisher(), ONE)
    assert target.log(PEOPLE) == "Ann <ann@example.com> Com <com@example.com>"


def test_a_part_of_the_identity_is_completed(
    target: GitTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Ann")
    publish(target.publisher(), ONE)
    ours = f"{DEFAULT_NAME} <{DEFAULT_EMAIL}>"
    assert target.log(PEOPLE) == f"Ann <{DEFAULT_EMAIL}> {ours}"


def test_the_author_comes_from_gits_configuration(
    target: GitTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configuration = tmp_path / "gitconfig"
    configuration.write_text("[user]\n  name = Conny\n  email = conny@example.com\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    publish(target.publisher(), ONE)
    assert target.log(PEOPLE) == "Conny <conny@example.com> Conny <conny@example.com>"


# Somebody else, in between


def test_another_file_that_was_pushed_in_between_is_kept(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    theirs = target.commit({"catalog/new.yaml": "kind: API\n"})
    publisher.publish(TWO, version, PROVENANCE)
    assert target.content() == TWO
    assert target.remote.content("catalog/new.yaml", BRANCH) == b"kind: API\n"
    assert target.remote.git("rev-parse", f"{BRANCH}^@") == theirs


def test_a_branch_that_others_created_in_between_is_kept(tmp_path: Path, cache: Path) -> None:
    target = GitTarget(Repository.create(tmp_path / "empty.git", bare=True), cache)
    publisher = target.publisher()
    assert publisher.read() == NOTHING
    theirs = target.commit({"README.md": "hello\n"})
    publish(publisher, ONE)
    assert target.remote.git("rev-parse", f"{BRANCH}^@") == theirs
    assert target.content() == ONE


def test_a_rewritten_history_is_followed(target: GitTarget) -> None:
    publisher = target.publisher()
    publish(publisher, ONE)
    rewritten = target.remote.commit({PATH: FOREIGN}, branch=BRANCH, parents=[])
    found = publisher.read()
    assert found.content == FOREIGN
    publisher.publish(TWO, found.version, PROVENANCE)
    assert target.remote.git("rev-parse", f"{BRANCH}^@") == rewritten


def test_a_history_that_was_rewritten_in_between_is_kept(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    rewritten = target.remote.commit({PATH: ONE, "new": "x"}, branch=BRANCH, parents=[])
    publisher.publish(TWO, version, PROVENANCE)
    assert target.remote.git("rev-parse", f"{BRANCH}^@") == rewritten
    assert target.content() == TWO


def test_a_branch_that_was_rewound_in_between_stays_rewound(target: GitTarget) -> None:
    publisher = target.publisher()
    first = publish(publisher, ONE)
    earlier = target.tip
    second = publisher.publish(TWO, first, PROVENANCE)
    target.remote.git("update-ref", f"refs/heads/{BRANCH}", earlier)
    lost_race(publisher, b"three\n", second)
    assert target.tip == earlier


def test_a_branch_that_was_deleted_in_between_stays_deleted(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    target.remote.git("update-ref", "-d", f"refs/heads/{BRANCH}")
    lost_race(publisher, TWO, version)
    assert target.tip == ""


def test_a_deleted_branch_reads_as_nothing_and_can_be_made_again(target: GitTarget) -> None:
    publisher = target.publisher()
    publish(publisher, ONE)
    target.remote.git("update-ref", "-d", f"refs/heads/{BRANCH}")
    assert publisher.read() == NOTHING
    publish(publisher, TWO)
    assert target.remote.git("ls-tree", "-r", "--name-only", BRANCH) == PATH
    assert target.remote.git("rev-list", "--count", BRANCH) == "1"


# A server that runs this before it takes a push, and moves the branch by a commit.
MOVE: Final = f"""
unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
echo try >> tries
[ "$(wc -l < tries)" -le {{times}} ] || exit 0
export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@x
export GIT_INDEX_FILE=moving-index
git read-tree {BRANCH}
blob=$(wc -l < tries | git hash-object -w --stdin)
git update-index --add --cacheinfo 100644,$blob,{{path}}
tree=$(git write-tree)
commit=$(git commit-tree "$tree" -p {BRANCH} -m "Move on")
git update-ref refs/heads/{BRANCH} "$commit"
"""


def move_at_each_push(target: GitTarget, *, times: int, path: str) -> Callable[[], int]:
    notes = target.remote.hook("pre-receive", MOVE.format(times=times, path=shlex.quote(path)))
    return lambda: len((notes / "tries").read_text().splitlines())


def test_a_push_that_keeps_losing_ends(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    tries = move_at_each_push(target, times=1_000, path="theirs")
    error = lost_race(publisher, TWO, version)
    assert tries() == TRIES == 3
    assert "moved 3 times" in error.problem
    assert target.content() == ONE
    assert target.remote.content("theirs", BRANCH) == b"3\n"


def test_the_last_try_may_win(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    tries = move_at_each_push(target, times=TRIES - 1, path="theirs")
    publisher.publish(TWO, version, PROVENANCE)
    assert tries() == TRIES
    assert target.content() == TWO
    assert target.remote.content("theirs", BRANCH) == b"2\n"


def test_a_push_that_loses_our_path_is_not_tried_again(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    tries = move_at_each_push(target, times=1_000, path=PATH)
    lost_race(publisher, TWO, version)
    assert tries() == 1
    assert target.content() == b"1\n"


def test_a_push_whose_answer_was_lost_counts(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    before = target.tip
    # The branch has moved, and the process that would say so dies.
    target.remote.hook("reference-transaction", '[ "$1" = committed ] && kill -9 $PPID; exit 0')
    second = publisher.publish(TWO, version, PROVENANCE)
    assert target.content() == TWO
    assert publisher.read() == Published(TWO, second)
    assert target.remote.git("rev-parse", f"{BRANCH}^@") == before


def behind_ssh(folder: Path, monkeypatch: pytest.MonkeyPatch, *, push: str, read: str) -> None:
    """Put a server behind SSH; scripts say what it does after a push, and instead of being read."""
    ssh = folder / "ssh"
    ssh.write_text(
        "#!/bin/sh\nfor command; do :; done\ncase $command in\n"
        f'*receive-pack*) sh -c "$command"; touch {folder}/pushed; {push};;\n'
        f'*) if [ -e {folder}/pushed ]; then {read}; fi; exec sh -c "$command";;\nesac\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")


@pytest.mark.parametrize("push", ["exec sleep 600", "exit 255"], ids=["silent", "broken off"])
def test_a_push_that_was_taken_and_then_got_no_answer_counts(
    target: GitTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, push: str
) -> None:
    behind_ssh(tmp_path, monkeypatch, push=push, read=":")
    publisher = target.publisher(url=f"ssh://git.example.com{target.remote.folder}")
    version = publisher.read().version
    monkeypatch.setattr(git_clone, "GIVE_UP_AFTER", 2)
    published = publisher.publish(ONE, version, PROVENANCE)
    assert target.content() == ONE
    assert publisher.read() == Published(ONE, published)


def test_a_push_that_was_taken_and_cannot_be_read_back_is_not_said_to_have_changed_nothing(
    target: GitTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind_ssh(tmp_path, monkeypatch, push="exec sleep 600", read="exit 255")
    publisher = target.publisher(url=f"ssh://git.example.com{target.remote.folder}")
    version = publisher.read().version
    monkeypatch.setattr(git_clone, "GIVE_UP_AFTER", 2)
    with pytest.raises(TargetUnavailable) as caught:
        publisher.publish(ONE, version, PROVENANCE)
    assert "whether the commit was taken is not known: git push did not end in 2 s" in str(
        caught.value
    )
    assert "stays" not in str(caught.value)
    (tmp_path / "pushed").unlink()
    assert publisher.read().content == ONE


def test_a_push_that_was_taken_counts_though_the_clone_cannot_note_it(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    (clone,) = target.caches.glob("*/*.git")
    # The server takes the push, and the clone's branch is locked then.
    target.remote.hook("post-receive", f"touch {clone}/refs/heads/{BRANCH}.lock")
    published = publisher.publish(TWO, version, PROVENANCE)
    (target.remote.folder / "hooks/post-receive").unlink()
    assert publisher.read() == Published(TWO, published)


def test_a_branch_that_is_named_like_what_git_leaves_behind_is_published_to(
    tmp_path: Path, cache: Path
) -> None:
    remote = Repository.create(tmp_path / "remote.git", bare=True)
    publisher = GitPublisher(str(remote.folder), "tmp_work/eu", PATH, cache)
    for content in (ONE, TWO):
        publish(publisher, content)
        assert remote.content(PATH, "tmp_work/eu") == content


def _publish(path: str, cache: Path, name: str, notes: Path) -> None:
    publisher = GitPublisher(path, BRANCH, PATH, cache)
    version = publisher.read().version
    (notes / f"{name}.ready").touch()
    while not (notes / "go").exists():
        time.sleep(0.002)
    try:
        publisher.publish(name.encode(), version, PROVENANCE)
    except LostRace:
        (notes / f"{name}.lost").touch()
    else:
        (notes / f"{name}.won").touch()


@pytest.mark.parametrize("shared", [True, False], ids=["one cache", "a cache each"])
def test_of_several_processes_at_once_one_wins(
    target: GitTarget, tmp_path: Path, *, shared: bool
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    spawn = multiprocessing.get_context("spawn")
    processes = []
    for name in ("ann", "bob", "cid"):
        cache = tmp_path / ("cache" if shared else f"cache-of-{name}")
        arguments = (str(target.remote.folder), cache, name, notes)
        processes.append(spawn.Process(target=_publish, args=arguments))
    for process in processes:
        process.start()
    while len(list(notes.glob("*.ready"))) < len(processes):
        assert all(process.exitcode is None for process in processes)
        time.sleep(0.01)
    (notes / "go").touch()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (winner,) = notes.glob("*.won")
    assert len(list(notes.glob("*.lost"))) == 2
    assert target.content() == winner.stem.encode()


# What does not take it


def test_a_hook_that_declines_is_quoted(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    hook = "echo 'Only people may push here' >&2; exit 1"
    target.remote.hook("pre-receive", hook)
    error = refused(lambda: publisher.publish(TWO, version, PROVENANCE))
    assert publisher.where in error.problem
    assert "Only people may push here" in error.problem
    assert "pre-receive hook declined" in error.problem
    assert target.content() == ONE


def test_a_hook_is_quoted_from_its_first_line(target: GitTarget) -> None:
    words = (
        "error: GH006: Protected branch update failed for refs/heads/main",
        "",
        "- Changes must be made through a pull request",
        "- Required status check is expected",
    )
    lines = "; ".join(f"echo {shlex.quote(line)} >&2" for line in words)
    target.remote.hook("pre-receive", f"{lines}; exit 1")
    error = refused(lambda: publish(target.publisher(), ONE))
    for line in words:
        assert line in error.problem


def test_after_a_refusal_nothing_is_remembered_as_published(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    folder = target.remote.hook("pre-receive", "exit 1")
    refused(lambda: publisher.publish(TWO, version, PROVENANCE))
    assert publisher.read() == Published(ONE, version)
    refused(lambda: publisher.publish(TWO, version, PROVENANCE))
    (folder / "hooks/pre-receive").unlink()
    publisher.publish(TWO, version, PROVENANCE)
    assert target.content() == TWO


@pytest.mark.parametrize(
    "entry",
    [
        Entry("../../README.md", SYMLINK),
        Entry("3f2c9d1e8b7a6f5c4d3e2b1a0f9e8d7c6b5a4f3e", SUBMODULE),
    ],
    ids=["a symbolic link", "a submodule"],
)
def test_what_is_no_plain_file_is_not_overwritten(target: GitTarget, entry: Entry) -> None:
    target.commit({PATH: entry})
    before = target.tip
    publisher = target.publisher()
    refused(publisher.read)
    refused(lambda: publisher.publish(ONE, None, PROVENANCE))
    assert target.tip == before


def test_a_folder_at_our_path_is_not_overwritten(target: GitTarget) -> None:
    target.commit({f"{PATH}/inside.yaml": "x\n"})
    before = target.tip
    publisher = target.publisher()
    assert "a folder" in refused(publisher.read).problem
    refused(lambda: publisher.publish(ONE, None, PROVENANCE))
    assert target.tip == before


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a file\n"),
        Entry("resources", SYMLINK),
        Entry("3f2c9d1e8b7a6f5c4d3e2b1a0f9e8d7c6b5a4f3e", SUBMODULE),
    ],
    ids=["a file", "a symbolic link", "a submodule"],
)
def test_what_stands_where_a_folder_is_needed_is_not_overwritten(
    target: GitTarget, entry: Entry
) -> None:
    target.commit({"where": entry})
    before = target.tip
    publisher = target.publisher("where/it/is.yaml")
    assert publisher.read() == NOTHING
    error = refused(lambda: publisher.publish(ONE, None, PROVENANCE))
    assert "publish.path" in error.remediation
    assert target.tip == before


@pytest.mark.parametrize("path", ["catalog/ecr[1].yaml", "catalog/*.yaml", ":(top)ecr.yaml"])
def test_a_path_is_no_pattern(target: GitTarget, path: str) -> None:
    target.commit({"catalog/ecr1.yaml": FOREIGN, "ecr.yaml": FOREIGN})
    publisher = target.publisher(path)
    assert publisher.read() == NOTHING
    publish(publisher, ONE)
    assert publisher.read().content == ONE
    assert target.remote.content("ecr.yaml", BRANCH) == FOREIGN
    assert target.remote.content("catalog/ecr1.yaml", BRANCH) == FOREIGN


def test_a_missing_repository_is_named(tmp_path: Path, cache: Path) -> None:
    publisher = GitPublisher(str(tmp_path / "nowhere"), BRANCH, PATH, cache)
    for act in (publisher.read, lambda: publisher.publish(ONE, None, PROVENANCE)):
        with pytest.raises(TargetUnavailable, match="nowhere cannot be reached") as caught:
            act()
        assert caught.value.needs == "time"
        assert "publish.repository" in caught.value.remediation


def test_a_repository_that_vanished_is_not_read_from_the_cache(target: GitTarget) -> None:
    publisher = target.publisher()
    version = publish(publisher, ONE)
    target.remote.folder.rename(target.remote.folder.with_name("moved"))
    with pytest.raises(TargetUnavailable):
        publisher.read()
    with pytest.raises(TargetUnavailable):
        publisher.publish(TWO, version, PROVENANCE)


# Repositories of other kinds


def test_a_checked_out_branch_gets_its_working_tree_updated(tmp_path: Path, cache: Path) -> None:
    remote = Repository.create(tmp_path / "checked-out")
    remote.commit({"README.md": "hello\n"}, branch=BRANCH)
    remote.git("checkout", "--quiet", "--force", BRANCH)
    remote.git("config", "receive.denyCurrentBranch", "updateInstead")
    publisher = GitTarget(remote, cache).publisher()
    version = publish(publisher, ONE)
    publisher.publish(TWO, version, PROVENANCE)
    assert (remote.folder / PATH).read_bytes() == TWO
    assert remote.git("status", "--porcelain") == ""


def test_a_checked_out_branch_with_local_changes_is_refused(tmp_path: Path, cache: Path) -> None:
    remote = Repository.create(tmp_path / "checked-out")
    remote.commit({"README.md": "hello\n"}, branch=BRANCH)
    remote.git("checkout", "--quiet", "--force", BRANCH)
    remote.git("config", "receive.denyCurrentBranch", "updateInstead")
    (remote.folder / "README.md").write_text("half a sent")
    before = remote.tip(BRANCH)
    publisher = GitTarget(remote, cache).publisher()
    error = refused(lambda: publish(publisher, ONE))
    assert "unstaged changes" in error.problem
    assert remote.tip(BRANCH) == before
    assert (remote.folder / "README.md").read_text() == "half a sent"


def test_a_checked_out_branch_that_takes_no_push_is_refused(tmp_path: Path, cache: Path) -> None:
    remote = Repository.create(tmp_path / "checked-out")
    remote.commit({"README.md": "hello\n"}, branch=BRANCH)
    remote.git("checkout", "--quiet", "--force", BRANCH)
    publisher = GitTarget(remote, cache).publisher()
    error = refused(lambda: publish(publisher, ONE))
    assert "branch is currently checked out" in error.problem


def test_a_target_that_filters_is_published_to_without_its_blobs(target: GitTarget) -> None:
    target.remote.git("config", "uploadpack.allowFilter", "true")
    target.commit({"big.bin": b"x" * 100_000})
    before = target.remote.git("ls-tree", "-r", BRANCH)
    publisher = target.publisher(url=target.remote.url)
    assert publisher.read() == NOTHING

    version = publish(publisher, ONE)
    target.commit({"theirs": "x\n"})
    publisher.publish(TWO, version, PROVENANCE)

    assert target.content() == TWO
    assert set(before.splitlines()) < set(target.remote.git("ls-tree", "-r", BRANCH).splitlines())
    target.remote.git("fsck", "--strict")
    (clone,) = target.caches.glob("*/*.git")
    missing = Repository(clone).git("rev-list", "--objects", "--missing=print", BRANCH)
    assert "?" + target.remote.git("rev-parse", f"{BRANCH}:big.bin") in missing.splitlines()


# The environment, secrets


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE"])
def test_the_repository_we_run_in_is_left_alone(
    target: GitTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    other = Repository.create(tmp_path / "other")
    other.commit({PATH: "the wrong one\n"})
    other.git("reset", "--quiet", "--hard")
    inside = {"GIT_OBJECT_DIRECTORY": "objects", "GIT_INDEX_FILE": "index"}
    objects = sorted(other.git_folder.rglob("*"))
    monkeypatch.setenv(variable, str(other.git_folder / inside.get(variable, "")))

    publish(target.publisher(), ONE)
    publish(target.publisher(), TWO)

    assert target.content() == TWO
    assert sorted(other.git_folder.rglob("*")) == objects
    assert other.git("status", "--porcelain") == ""


SECRET: Final = "ghp_S3cr3tT0ken"


def shown(error: BaseException) -> str:
    """All that a log or a user interface may print of an error."""
    return f"{error!r} {''.join(traceback.format_exception(error))}"


def test_a_token_in_gits_configuration_is_nowhere(
    target: GitTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configuration = tmp_path / "gitconfig"
    configuration.write_text(
        f'[url "https://bot:{SECRET}@127.0.0.1:1/"]\n  insteadOf = https://git.example.com/\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    publisher = target.publisher(url="https://git.example.com/team/catalog.git")
    for act in (publisher.read, lambda: publisher.publish(ONE, None, PROVENANCE)):
        with pytest.raises(TargetUnavailable) as caught:
            act()
        assert SECRET not in shown(caught.value)
    kept = b"".join(path.read_bytes() for path in target.caches.rglob("*") if path.is_file())
    assert SECRET.encode() not in kept


def test_a_token_as_a_urls_user_name_is_in_no_error(target: GitTarget) -> None:
    publisher = target.publisher(url=f"https://{SECRET}@127.0.0.1:1/team/catalog.git")
    with pytest.raises(TargetUnavailable) as caught:
        publisher.read()
    assert SECRET not in shown(caught.value)
    assert SECRET not in publisher.where


def test_a_token_that_a_hook_repeats_is_in_no_error(target: GitTarget) -> None:
    words = f"echo 'Use https://bot:{SECRET}@git.example.com/ instead' >&2; exit 1"
    target.remote.hook("pre-receive", words)
    error = refused(lambda: publish(target.publisher(), ONE))
    assert "git.example.com/ instead" in error.problem
    assert SECRET not in shown(error)
