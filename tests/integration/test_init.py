"""`ecr-catalog init` as a new user meets it: with flags, with answers on a terminal, in trouble.

`ECR_CATALOG_WRITE_TRANSCRIPT=1` rewrites docs/transcripts/init-and-plan.txt.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_catalog_pipeline.commands.init import mirror_text, scalar
from ecr_catalog_pipeline.core.ecr_settings import Scanning
from ecr_catalog_pipeline.core.policy import Policy
from ecr_catalog_pipeline.core.strict_yaml import as_backstage_reads, as_written, parse_documents
from ecr_catalog_pipeline.settings import FileTarget, GitTarget, load_mirror
from tests.fakes.aws import FakeAws, Fault
from tests.fakes.backstage import FakeBackstage
from tests.integration.commands import InProcess
from tests.integration.conftest import Repository
from tests.integration.worlds import S3Target, s3_server

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = Path(sys.executable).with_name("ecr-catalog")
TRANSCRIPT: Final = ROOT / "docs" / "transcripts" / "init-and-plan.txt"
PATH: Final = "docs/20-contracts/resource-catalogs/ecr-catalog.yaml"
BRANCH: Final = "governance-registry"
SECONDS: Final = 120

GOVERNANCE: Final = """\
version: "1.0"
domain: delivery
owner: platform-team
repositories:
  base-images/python:
    metadata: {id: REGISTRY_PYTHON, owner: platform-team, risk: medium, status: active}
  payments-gateway:
    metadata: {id: REGISTRY_PAYMENTS, owner: app-team-payments, risk: high, status: active}
  payments-archive:
    metadata: {id: REGISTRY_ARCHIVE, owner: app-team-payments, risk: low, status: active}
  shop/vouchers:
    metadata: {id: REGISTRY_VOUCHERS, owner: app-team-shop, risk: low, status: pending}
"""

Done = subprocess.CompletedProcess[str]


@dataclass
class User:
    """Somebody's home: a platform repository, a clone of it, an AWS, and an empty folder."""

    home: Path
    fake: FakeAws
    in_process: InProcess
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def platform(self) -> Repository:
        return Repository(self.home / "platform.git")

    @property
    def flags(self) -> list[str]:
        """Give flags for all that has no default."""
        return [
            *("--governance-repository", "../platform.git", "--governance-path", PATH),
            *("--region", "eu-west-2", "--endpoint-url", self.fake.endpoint_url),
        ]

    def mirror(self, name: str = "goldenpath") -> Path:
        return self.home / "mirroring" / "mirrors" / f"{name}.yaml"

    def run(self, *words: str, folder: str = "mirroring", **more: str) -> Done:
        return self.in_process(
            *words, folder=self.home / folder, environment={**self.environment, **more}
        )

    def start(self, *words: str, folder: str = "mirroring", **more: str) -> Done:
        """Run the command in a process of its own."""
        return subprocess.run(
            [COMMAND, *words],
            cwd=self.home / folder,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def answer(
        self, *words: str, answers: Sequence[str], folder: str, stop: bool = False
    ) -> tuple[int, str]:
        """Run a command on a terminal and answer its questions in turn.

        Args:
            stop: send an interrupt instead of a further answer.

        Returns:
            Its exit code, and all that the terminal showed.
        """
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            # A job in the background of a shell that is no terminal ignores interrupts.
            ["env", "--default-signal=INT", COMMAND, *words],
            cwd=self.home / folder,
            env={**self.environment, "NO_COLOR": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            shown, left, asked = b"", list(answers), 0
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                if not select.select([ours], [], [], 2)[0]:
                    if stop and asked and not left:
                        # One that comes just before the terminal is read is not noticed.
                        process.send_signal(signal.SIGINT)
                    continue
                try:
                    read = os.read(ours, 65_536)
                except OSError:  # A terminal that nobody writes to any more.
                    break
                shown += read
                if not shown[asked:].endswith(b": "):
                    continue
                asked = len(shown)
                if left:
                    os.write(ours, left.pop(0).encode() + b"\n")
            else:
                process.kill()
            code = process.wait()
        os.close(ours)
        assert not left, shown.decode()
        return code, shown.decode().replace("\r\n", "\n")


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[User]:
    home = tmp_path / "jo"
    (home / "mirroring").mkdir(parents=True)
    with FakeAws() as fake:
        for name in ("base-images/python", "payments-gateway", "tmp-debug-jo"):
            fake.create(name)
        user = User(home, fake, InProcess(monkeypatch, capfd))
        Repository.create(home / "platform.git", bare=True).commit(
            {PATH: GOVERNANCE, "old/copies/of/the/ecr-catalog.yaml": "repositories: {}\n"}
        )
        user.platform.git("clone", "--quiet", str(user.platform.folder), "../platform")
        user.environment |= {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "eu-west-2",
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        yield user


def granted(done: Done) -> dict[str, bool]:
    """Say of each subject whether it gives us access, as the command says."""
    return {
        subject.strip(): mark == "✓"
        for mark, subject in re.findall(r"^  ([✓✗]) (.{10})  ", done.stdout, re.MULTILINE)
    }


# The transcript


def test_init_and_plan_alone_bring_a_new_user_to_a_plan(user: User) -> None:
    def plain(text: str) -> str:
        text = text.replace(str(user.home), "/home/jo")
        return text.replace(user.fake.endpoint_url, "http://127.0.0.1:5055")

    flags = [*user.flags, "--account-id", user.fake.account_id]
    wrote = user.start("init", "goldenpath", *flags, "--yes")
    planned = user.start("plan", "-m", "goldenpath")
    assert (wrote.returncode, wrote.stderr) == (0, "")
    assert (planned.returncode, planned.stderr) == (2, "")

    # Enter takes the default.
    answers = ["", "", "", "", "", user.fake.account_id, "", "", "git", "", "", "", ""]
    endpoint = ("--endpoint-url", user.fake.endpoint_url)
    code, shown = user.answer("init", *endpoint, answers=answers, folder="platform")
    assert code == 0, shown
    again = user.run("plan", "-m", "platform", folder="platform")
    assert again.returncode == 2, again.stderr

    lines = [
        "~/mirroring$ ecr-catalog init goldenpath --yes \\",
        *(f"    {one} {two} \\" for one, two in zip(flags[::2], flags[1::2], strict=True)),
    ]
    lines[-1] = lines[-1].removesuffix(" \\")
    text = plain(
        "\n".join(lines)
        + f"\n{wrote.stdout}\n~/mirroring$ ecr-catalog plan -m goldenpath\n{planned.stdout}\n"
        + f"~/platform$ ecr-catalog init {' '.join(endpoint)}\n{shown}\n"
        + f"~/platform$ ecr-catalog plan -m platform\n{again.stdout}"
    )
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if os.environ.get("ECR_CATALOG_WRITE_TRANSCRIPT"):
        TRANSCRIPT.write_text(text, encoding="utf-8")
    assert text == TRANSCRIPT.read_text(encoding="utf-8")


# What it writes


def test_what_is_written_says_what_was_answered_and_nothing_is_published(user: User) -> None:
    before = user.platform.git("for-each-ref")
    done = user.run("init", "goldenpath", *user.flags, "--entity-owner", "team-a", "--yes")

    assert done.returncode == 0, done.stderr
    mirror = load_mirror(user.mirror())
    assert mirror.governance.path == PATH
    assert mirror.governance.repository == str(user.home / "platform.git")
    assert mirror.entity.owner == "team-a"
    assert isinstance(mirror.publish, GitTarget)
    assert mirror.publish.repository == str(user.home / "platform.git")
    assert (mirror.publish.branch, mirror.publish.path) == (
        BRANCH,
        "catalog/resources/ecr-registry.yaml",
    )
    assert mirror.backstage is None
    assert user.platform.git("for-each-ref") == before
    assert [path.name for path in user.mirror().parent.iterdir()] == ["goldenpath.yaml"]


def test_a_system_that_is_answered_with_nothing_is_left_out(user: User) -> None:
    flags = [*user.flags, "--entity-system", "", "--yes"]
    assert user.run("init", "goldenpath", *flags).returncode == 0
    assert load_mirror(user.mirror()).entity.system is None


def test_paths_are_relative_to_the_working_folder(user: User) -> None:
    inside = user.home / "mirroring" / "inside"
    inside.mkdir()
    flags = [*user.flags, "--publish", "file", "--publish-path", "out/ecr.yaml", "--yes"]
    flags[flags.index("../platform.git")] = "../../platform.git"
    done = user.run(
        "init", "goldenpath", *flags, folder="mirroring/inside", ECR_CATALOG_MIRRORS="../mirrors"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    mirror = load_mirror(user.mirror())
    assert mirror.governance.repository == str(user.home / "platform.git")
    assert isinstance(mirror.publish, FileTarget)
    assert mirror.publish.path == str(inside / "out" / "ecr.yaml")


SHARED: Final = """\
governance:
  repository: ../../platform.git
  path: docs/20-contracts/resource-catalogs/ecr-catalog.yaml
publish: {kind: git, repository: ../../platform.git, branch: governance-registry}
entity: {owner: team-a}
"""


@pytest.fixture
def sharing(user: User) -> User:
    """A user whose mirrors share what they have in common."""
    user.mirror().parent.mkdir()
    user.mirror("_defaults").write_text(SHARED)
    return user


def test_what_is_shared_is_neither_asked_for_nor_written(sharing: User) -> None:
    endpoint = ("--endpoint-url", sharing.fake.endpoint_url)
    # Branch, region, account, system, path, Backstage.
    answers = ["", "", "", "", "", ""]
    code, shown = sharing.answer(
        "init", "goldenpath", *endpoint, answers=answers, folder="mirroring"
    )

    assert code == 0, shown
    for word in ("git repository", "file in it", "owner in Backstage", "Publish to", "tokens"):
        assert word not in shown
    settings = yaml.safe_load(sharing.mirror().read_text())
    assert settings == {
        "governance": {"branch": "main"},
        "registry": {"region": "eu-west-2", "endpoint_url": sharing.fake.endpoint_url},
        "entity": {"system": "container-registry"},
        "publish": {"path": "catalog/resources/ecr-registry.yaml"},
    }
    text = sharing.mirror().read_text()
    assert "# repository:" not in text
    assert "# owner:" not in text
    assert "_defaults.yaml" in text
    mirror = load_mirror(sharing.mirror())
    assert mirror.entity.owner == "team-a"
    assert mirror.governance.repository == str(sharing.home / "platform.git")


def test_a_flag_counts_before_what_is_shared(sharing: User) -> None:
    done = sharing.run(
        *("init", "goldenpath", "--yes", "--endpoint-url", sharing.fake.endpoint_url),
        *("--publish", "file", "--publish-path", "out.yaml", "--entity-owner", "team-b"),
    )

    assert done.returncode == 0, done.stderr + done.stdout
    mirror = load_mirror(sharing.mirror())
    assert mirror.entity.owner == "team-b"
    assert mirror.publish == FileTarget(
        kind="file", path=str(sharing.home / "mirroring" / "out.yaml")
    )


def test_what_is_shared_and_broken_is_said_before_anything_is_asked(sharing: User) -> None:
    sharing.mirror("_defaults").write_text("guard: [\n")

    done = sharing.run("init", "goldenpath", *sharing.flags, "--yes")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: mirrors/_defaults.yaml:2:1: ")
    assert not sharing.mirror().exists()


def test_every_key_that_stands_there_as_a_comment_may_be_taken_in(tmp_path: Path) -> None:
    kinds = {
        "git": {"publish.repository": "../catalog"},
        "s3": {"publish.bucket": "a-bucket", "publish.key": "a"},
        "file": {"publish.path": "out.yaml"},
    }
    for kind, target in kinds.items():
        answers = {
            "governance.repository": "../platform",
            "registry.region": "eu-west-2",
            "publish.kind": kind,
            **target,
        }
        text = mirror_text("goldenpath", answers, with_schema=True)
        load_mirror(tmp_path / "goldenpath.yaml", text)
        taken = re.sub(r"^((?:  )?)# ((?:  )*[a-z_]+:(?: .*)?)$", r"\1\2", text, flags=re.MULTILINE)
        assert taken != text
        if kind != "git":  # The health report is pushed with the entity.
            taken = taken[: taken.index("health:")]
        full = load_mirror(tmp_path / "goldenpath.yaml", taken)
        assert full.registry.role_arn
        assert full.backstage
        assert all(len(line) <= 100 for line in text.splitlines())


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_a_value_is_read_as_it_was_given(value: str) -> None:
    text = f"key: {scalar(value)}\n"
    for reading in (as_written, as_backstage_reads):
        (document,) = parse_documents(text, scalar=reading)
        assert document.value == {"key": value}
    assert yaml.safe_load(text) == {"key": value}


@pytest.mark.parametrize(
    "value", ["no", "2026", "1.5", "~", "null", "a: b", "a #b", "git@host:team/a.git", "../a", "é:"]
)
def test_a_value_that_yaml_would_change_is_quoted(value: str) -> None:
    assert yaml.safe_load(f"key: {scalar(value)}") == {"key": value}


def test_a_mirror_file_is_only_replaced_when_forced(user: User) -> None:
    user.mirror().parent.mkdir()
    user.mirror().write_text("mine: true\n")

    kept = user.run("init", "goldenpath", *user.flags, "--yes")
    assert kept.returncode == 1
    assert "mirrors/goldenpath.yaml exists" in kept.stderr
    assert user.mirror().read_text() == "mine: true\n"

    forced = user.run("init", "goldenpath", *user.flags, "--yes", "--force")
    assert forced.returncode == 0, forced.stderr
    assert load_mirror(user.mirror()).name == "goldenpath"


def test_a_second_mirror_of_one_target_is_not_written(user: User) -> None:
    assert user.run("init", "one", *user.flags, "--yes").returncode == 0
    done = user.run("init", "two", *user.flags, "--yes")
    assert done.returncode == 1
    assert "the mirror one publishes to that target already" in done.stderr
    assert not user.mirror("two").exists()


def test_a_second_mirror_of_one_entity_is_not_written(user: User) -> None:
    assert user.run("init", "one", *user.flags, "--yes").returncode == 0
    elsewhere = ["--publish-path", "catalog/other.yaml", "--entity-name", "ONE-ecr-registry"]
    done = user.run("init", "two", *user.flags, *elsewhere, "--yes")
    assert done.returncode == 1
    assert "the mirror one publishes resource:default/one-ecr-registry already" in done.stderr
    assert not user.mirror("two").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init"], "NAME is missing"),
        (["init", "Gold-Path"], "'Gold-Path' cannot name a mirror"),
        (["init", "goldenpath"], "--governance-repository is missing: The git repository"),
        (
            ["init", "goldenpath", "--governance-repository", "http://a.example.com/b"],
            "--governance-repository uses http: use https, ssh or a local path",
        ),
        (
            ["init", "goldenpath", "--governance-repository", "../a", "--region", "Ireland"],
            "--region ",
        ),
        (
            ["init", "goldenpath", "--governance-repository", "../a", "--publish", "s3"],
            "--bucket is missing: The bucket that Backstage reads.",
        ),
        (
            ["init", "goldenpath", "--governance-repository", "../a", "--bucket", "abc"],
            "--bucket does not go with --publish git",
        ),
        (
            ["init", "goldenpath", "--governance-repository", "../a", "--token-env", "T"],
            "--token-env goes with --backstage-url",
        ),
        (["init", "--check"], "--check takes the NAME of a mirror"),
        (["init", "--check", "goldenpath"], "the mirrors folder "),
    ],
)
def test_what_is_missing_or_wrong_is_named_and_nothing_written(
    user: User, words: list[str], said: str
) -> None:
    done = user.run(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not user.mirror().parent.exists()


def test_without_a_region_anywhere_the_flag_is_named(user: User) -> None:
    del user.environment["AWS_REGION"]
    done = user.run("init", "goldenpath", "--governance-repository", "../a")
    assert done.returncode == 1
    assert "--region is missing: The AWS region of the registry." in done.stderr


def test_in_a_clone_of_this_project_its_own_files_are_no_default(
    user: User, tmp_path: Path
) -> None:
    words = ("init", "goldenpath", "--yes")
    done = user.run(*words, folder=str(ROOT), ECR_CATALOG_MIRRORS=str(tmp_path / "mirrors"))
    assert done.returncode == 1
    assert "--governance-repository is missing" in done.stderr


# Answers on a terminal


def test_a_wrong_answer_is_asked_again(user: User) -> None:
    code, shown = user.answer(
        *("init", *user.flags),
        answers=["Gold Path", "goldenpath", "", "12", "", "", "", "", "", "", "", ""],
        folder="mirroring",
    )
    assert code == 0, shown
    assert "cannot name a mirror" in shown
    assert "--account-id " in shown
    assert load_mirror(user.mirror()).registry.account_id is None


def test_an_interrupt_writes_nothing(user: User) -> None:
    code, shown = user.answer(
        "init", answers=["goldenpath", "../platform.git"], folder="mirroring", stop=True
    )
    assert code == 1, shown
    assert shown.rstrip().endswith("Stopped."), shown
    assert not user.mirror().parent.exists()


def test_neither_a_token_in_the_remote_nor_one_in_the_environment_is_written_or_shown(
    user: User,
) -> None:
    secret = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
    clone = Repository(user.home / "platform")
    clone.git("remote", "set-url", "origin", f"https://jo:{secret}@127.0.0.1:9/platform.git")
    done = user.run(
        *("init", "goldenpath", "--yes", "--endpoint-url", user.fake.endpoint_url),
        *("--backstage-url", "http://127.0.0.1:9"),
        folder="platform",
        BACKSTAGE_TOKEN=secret,
    )
    assert done.returncode == 2
    written = (user.home / "platform" / "mirrors" / "goldenpath.yaml").read_text()
    assert "repository: https://127.0.0.1:9/platform.git\n" in written
    assert "  token_env: BACKSTAGE_TOKEN\n" in written
    assert secret not in written + done.stdout + done.stderr


# Access


def test_every_denied_access_is_named_with_its_remedy(user: User) -> None:
    user.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    user.platform.commit({PATH: "repositories: [\n"})
    with FakeBackstage(token="the-right-one") as backstage:
        flags = [*user.flags, "--backstage-url", backstage.url]
        done = user.run("init", "goldenpath", *flags, "--yes", BACKSTAGE_TOKEN="a-wrong-one")

        assert done.returncode == 2
        assert granted(done) == {
            "governance": False,
            "ECR": False,
            "target": True,
            "Backstage": False,
        }
        assert "ecr-catalog.yaml:2:1: not YAML" in done.stdout
        assert "ecr:DescribeRepositories failed with AccessDenied" in done.stdout
        assert "deploy/iam/" in done.stdout
        assert "refuses us with 401" in done.stdout
        assert "Put a valid token into the environment variable BACKSTAGE_TOKEN" in done.stdout
        assert "Fix what is marked above, then: ecr-catalog init --check" in done.stdout
        assert "Next:" not in done.stdout

        user.fake.clear()
        user.platform.commit({PATH: GOVERNANCE})
        before = user.mirror().read_bytes()
        repaired = user.run("init", "--check", "goldenpath", BACKSTAGE_TOKEN="the-right-one")

        assert repaired.returncode == 0, repaired.stdout
        assert set(granted(repaired).values()) == {True}
        assert f"{backstage.url} answers and takes the token of BACKSTAGE_TOKEN" in repaired.stdout
        assert "whether its rules allow it cannot be asked" in repaired.stdout
        assert user.mirror().read_bytes() == before


def test_an_action_that_policy_needs_and_that_is_denied_is_named(user: User) -> None:
    user.fake.create("payments/gateway")
    denied = ("GetRegistryScanningConfiguration", "GetLifecyclePolicy")
    for operation in denied:
        user.fake.fail(operation, Fault.ACCESS_DENIED)
    done = user.run("init", "goldenpath", *user.flags, "--yes")
    assert done.returncode == 2
    assert granted(done)["ECR"]
    assert "denied: ecr:GetLifecyclePolicy, ecr:GetRegistryScanningConfiguration" in done.stdout
    assert "Allow ecr:GetLifecyclePolicy and ecr:GetRegistryScanning" in done.stdout
    user.fake.clear()
    assert user.run("init", "--check", "goldenpath").returncode == 0


def test_the_platforms_policy_is_offered_as_a_comment(tmp_path: Path) -> None:
    answers = {
        "governance.repository": "../platform",
        "registry.region": "eu-west-2",
        "publish.kind": "git",
        "publish.repository": "../catalog",
    }
    text = mirror_text("goldenpath", answers, with_schema=False)
    assert load_mirror(tmp_path / "goldenpath.yaml", text).policies == {}
    block, _, _ = text[text.index("# policy:") :].partition("\n\n")
    offered = block.replace("\n#", "\n").removeprefix("# ")
    mirror = load_mirror(tmp_path / "goldenpath.yaml", f"{text}\n{offered}")
    low = Policy(Scanning.ON_PUSH, "AES256", keep_images=20)
    assert mirror.policies == {
        "low": low,
        "medium": replace(low, keep_images=30),
        "high": Policy(Scanning.ON_PUSH, "KMS", immutable_tags=True, keep_images=50),
    }


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--governance-branch", "release"], "has no branch release"),
        (["--governance-path", "nowhere.yaml"], "there is no nowhere.yaml on branch main"),
    ],
)
def test_a_missing_governance_file_is_reported(user: User, flags: list[str], said: str) -> None:
    done = user.run("init", "goldenpath", *user.flags, *flags, "--yes")
    assert done.returncode == 2
    assert granted(done) == {"governance": False, "ECR": True, "target": True, "Backstage": True}
    assert said in done.stdout


def test_a_git_target_that_takes_no_push_is_reported(user: User) -> None:
    refusing = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "url./nowhere/.pushInsteadOf",
        "GIT_CONFIG_VALUE_0": "/",
    }
    done = user.run("init", "goldenpath", *user.flags, "--yes", **refusing)
    assert done.returncode == 2
    assert granted(done) == {"governance": True, "ECR": True, "target": False, "Backstage": True}
    assert "can be read, and takes no push" in done.stdout


def test_a_file_target_below_a_file_is_reported(user: User) -> None:
    (user.home / "mirroring" / "out").touch()
    flags = ["--publish", "file", "--publish-path", "out/ecr-registry.yaml"]
    done = user.run("init", "goldenpath", *user.flags, *flags, "--yes")
    assert done.returncode == 2
    assert not granted(done)["target"]

    (user.home / "mirroring" / "out").unlink()
    done = user.run("init", "--check", "goldenpath")
    assert done.returncode == 0, done.stdout
    assert "the folder can be written" in done.stdout
    assert not (user.home / "mirroring" / "out").exists()


def test_of_a_bucket_it_is_said_that_writing_comes_first_with_the_first_sync(user: User) -> None:
    with s3_server() as url:
        target = S3Target(url)
        flags = [*user.flags, "--publish", "s3", "--bucket", target.bucket, "--key", target.key]
        # S3 and ECR are served by two fakes here; an endpoint of its own is a key without a flag.
        wrote = user.run("init", "goldenpath", *flags, "--yes")
        assert wrote.returncode == 2
        text = user.mirror().read_text()
        user.mirror().write_text(text.replace("  # endpoint_url:", "  endpoint_url:"))
        content = yaml.safe_load(user.mirror().read_text())
        content["publish"]["endpoint_url"] = url
        user.mirror().write_text(yaml.safe_dump(content))

        done = user.run("init", "--check", "goldenpath")

        assert done.returncode == 0, done.stdout
        assert f"s3://{target.bucket}/{target.key}: nothing is published yet" in done.stdout
        assert "writing is first tried by the first sync" in done.stdout
        assert target.content() is None


def test_a_terminal_that_knows_no_marks_gets_words(user: User) -> None:
    done = user.start("init", "goldenpath", *user.flags, "--yes", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "\n  ok governance  4 repositories and 0 findings in " in done.stdout
