"""Plans on pull requests: the scripts of GitHub's workflow and of GitLab's job, run here.

The pull request is a branch of a real git repository, AWS is the fake one, and the comments are
those of a server on loopback that speaks as much of both APIs as is used.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import SplitResult, parse_qs, urlsplit

import pytest
import yaml

from tests.fakes.aws import Fault
from tests.integration.conftest import Repository
from tests.integration.test_deploy import (
    BIN,
    SIX,
    Runner,
    assert_no_step_runs_what_comes_from_outside,
    password,
    run,
    steps,
    workflow,
)
from tests.integration.test_docs import of
from tests.integration.worlds import GOVERNANCE_PATH, GitTarget, World, a_world

REPOSITORY: Final = "example/platform"
NUMBER: Final = 7
TOKEN: Final = "a-token-of-the-job"
BOT: Final = "github-actions[bot]"


@dataclass
class Comment:
    id: int
    author: str
    body: str


@dataclass
class Comments:
    """The comments of one pull request, behind the APIs of GitHub and of GitLab."""

    token: str = TOKEN
    listed: list[Comment] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        comments = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = comments.answer(self.command, self.path, self.headers, None)
                self._reply(status, answer)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = comments.answer(self.command, self.path, self.headers, body)
                self._reply(status, answer)

            do_PATCH = do_PUT = do_POST  # noqa: N815 - what the base class calls

            def _reply(self, status: int, answer: object) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, body: str, author: str = "jo") -> Comment:
        comment = Comment(len(self.listed) + 1, author, body)
        self.listed.append(comment)
        return comment

    def answer(self, method: str, target: str, headers: Message, body: Any) -> tuple[int, object]:
        if self.token not in {headers.get("PRIVATE-TOKEN"), headers.get("Authorization", "")[7:]}:
            return 401, {"message": "Bad credentials"}
        parts = urlsplit(target)
        if parts.path.startswith("/api/v4/"):
            return self._answer_as_gitlab(method, parts, body)
        return self._answer_as_github(method, parts, body)

    def _answer_as_github(self, method: str, parts: SplitResult, body: Any) -> tuple[int, object]:
        issues = f"/repos/{REPOSITORY}/issues"
        if method == "GET" and parts.path == f"{issues}/{NUMBER}/comments":
            query = parse_qs(parts.query)
            size, page = int(query["per_page"][0]), int(query["page"][0])
            shown = self.listed[(page - 1) * size : page * size]
            return 200, [
                {"id": each.id, "body": each.body, "user": {"login": each.author}} for each in shown
            ]
        if method == "POST" and parts.path == f"{issues}/{NUMBER}/comments":
            self.written.append("new")
            self.add(body["body"], BOT)
            return 201, {}
        found = re.fullmatch(rf"{issues}/comments/(\d+)", parts.path)
        if method == "PATCH" and found:
            self.written.append("renewed")
            (comment,) = (each for each in self.listed if each.id == int(found[1]))
            if comment.author != BOT:
                return 403, {"message": "Resource not accessible by integration"}
            comment.body = body["body"]
            return 200, {}
        return 404, {"message": "Not Found"}

    def _answer_as_gitlab(self, method: str, parts: SplitResult, body: Any) -> tuple[int, object]:
        notes = f"/api/v4/projects/3/merge_requests/{NUMBER}/notes"
        people = {BOT: 1}
        if (method, parts.path) == ("GET", "/api/v4/user"):
            return 200, {"id": people[BOT]}
        if (method, parts.path) == ("GET", notes):
            query = parse_qs(parts.query)
            size, page = int(query["per_page"][0]), int(query["page"][0])
            return 200, [
                {"id": each.id, "body": each.body, "author": {"id": people.get(each.author, 2)}}
                for each in self.listed[(page - 1) * size : page * size]
            ]
        if (method, parts.path) == ("POST", notes):
            self.written.append("new")
            self.add(body["body"], BOT)
            return 201, {}
        if method == "PUT" and parts.path.startswith(f"{notes}/"):
            self.written.append("renewed")
            self.listed[int(parts.path.rsplit("/", 1)[1]) - 1].body = body["body"]
            return 200, {}
        return 404, {"message": "404 Not Found"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, GitTarget(tmp_path)) as world:
        world.have(*SIX)
        world.sync()
        yield world


@pytest.fixture
def comments() -> Iterator[Comments]:
    with Comments() as comments:
        yield comments


@dataclass
class PullRequest:
    """A branch that changes the governance file, checked out as a merge would give it."""

    world: World
    checkout: Repository

    @classmethod
    def of(cls, world: World) -> Self:
        checkout = Repository(world.folder / "checkout")
        world.governance.git("clone", "--quiet", world.governance.url, str(checkout.folder))
        checkout.git("switch", "--quiet", "--create", "change")
        (checkout.folder / "mirrors").symlink_to(world.mirrors)
        return cls(world, checkout)

    def push(self, content: str) -> None:
        (self.checkout.folder / GOVERNANCE_PATH).write_text(content)
        self.checkout.git("commit", "--quiet", "--all", "-m", "Change governance")
        self.checkout.git("push", "--quiet", "--force", "origin", "change")

    def replace(self, old: str, new: str) -> None:
        text = (self.checkout.folder / GOVERNANCE_PATH).read_text()
        assert old in text
        self.push(text.replace(old, new, 1))


@pytest.fixture
def request_(world: World) -> PullRequest:
    return PullRequest.of(world)


@pytest.fixture
def runner(world: World, request_: PullRequest, comments: Comments, tmp_path: Path) -> Runner:
    folder = tmp_path / "runner"
    folder.mkdir()
    contexts = {
        "vars.ECR_CATALOG_MIRROR": world.name,
        "vars.ECR_CATALOG_GOVERNANCE": GOVERNANCE_PATH,
        "github.event.pull_request.number": str(NUMBER),
        "github.workspace": str(request_.checkout.folder),
        "github.server_url": "https://github.com",
        "github.repository": REPOSITORY,
        "github.run_id": "42",
        "github.token": TOKEN,
    }
    variables = {"GITHUB_API_URL": comments.url, "GITHUB_REPOSITORY": REPOSITORY}
    return Runner(world, folder, contexts, "plan", request_.checkout.folder, variables)


def test_a_pull_request_gets_one_comment_that_is_renewed(
    runner: Runner, request_: PullRequest, comments: Comments, world: World
) -> None:
    published = world.target.history()
    for number in range(130):
        comments.add(f"Comment {number}")
    imitation = comments.add("<!-- ecr-catalog:plan:goldenpath --> I am the plan")
    request_.replace('"active"', '"deprecated"')

    code, log = runner.job()
    assert code == 0, log
    ours = comments.listed[-1]
    assert (ours.author, comments.written) == (BOT, ["new"])
    assert "**1 changes.**" in ours.body
    assert f"| `{SIX[0]}` | status: `active` → `deprecated` |" in ours.body
    assert ours.body in runner.summary

    request_.replace('"owner": "platform-team"', '"owner": "app-team"')
    code, log = runner.job()
    assert code == 0, log
    assert comments.written == ["new", "renewed"]
    assert "owner: `platform-team` → `app-team`" in ours.body
    assert imitation.body.endswith("I am the plan")
    assert len(comments.listed) == 132
    assert world.target.history() == published, "it never publishes"
    assert TOKEN not in log


def test_a_held_plan_warns_and_a_broken_file_fails_with_its_line(
    runner: Runner, request_: PullRequest, comments: Comments
) -> None:
    request_.push('version: "1.0"\nrepositories: {}\n')
    code, log = runner.job()
    assert code == 0, log
    assert "::warning title=Held for approval::" in log
    assert "**It would be held for approval**" in comments.listed[-1].body

    request_.push('version: "1.0"\nrepositories: [\n')
    code, log = runner.job()
    assert code == 1
    assert f"Error: {GOVERNANCE_PATH}:" in log
    assert comments.written == ["new", "renewed"]
    assert "**This file cannot be used.**" in comments.listed[-1].body
    assert "| repositories: [" in comments.listed[-1].body


def test_the_comment_says_what_stops_the_plan(
    runner: Runner, request_: PullRequest, comments: Comments, world: World
) -> None:
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    code, _ = runner.job()
    assert code == 1
    assert "**There is no plan.**" in comments.listed[-1].body
    assert "AccessDenied" in comments.listed[-1].body

    (request_.checkout.folder / GOVERNANCE_PATH).unlink()
    code, log = runner.job()
    assert code == 1
    assert "cannot be read" in log
    said = "[The run](https://github.com/example/platform/actions/runs/42) says why."
    assert said in comments.listed[-1].body
    assert comments.written == ["new", "renewed"]


def test_a_comment_that_is_refused_fails_the_job_and_shows_no_token(
    runner: Runner, comments: Comments
) -> None:
    comments.token = "another"

    code, log = runner.job()

    assert code != 0
    assert "401" in log
    assert TOKEN not in log


def test_a_pull_request_from_a_fork_needs_no_secret_and_its_comment_says_that_there_is_no_plan(
    runner: Runner, comments: Comments
) -> None:
    jobs = workflow("plan")["jobs"]
    fork = jobs["fork"]
    assert fork["if"] == "github.event.pull_request.head.repo.full_name != github.repository"
    assert jobs["plan"]["if"] == fork["if"].replace("!=", "==")
    assert not {"permissions", "env"} & fork.keys()
    assert not re.search(r"secrets\.|vars\.|github\.token", json.dumps(fork))
    (step,) = fork["steps"]

    done = runner.step(step)

    assert done.returncode == 0
    assert done.stdout.startswith("::notice title=No plan::There is no plan: a pull request from")
    assert "There is no plan" in runner.summary
    assert comments.written == []


def test_the_workflow_can_read_and_comment_and_nothing_else() -> None:
    content = workflow("plan")
    assert content["permissions"] == {}
    assert content["jobs"]["plan"]["permissions"] == {
        "contents": "read",
        "id-token": "write",
        "pull-requests": "write",
    }
    assert "secrets." not in json.dumps(content)
    assert content["on"].keys() == {"pull_request"}, (
        "with pull_request_target a fork would reach AWS"
    )
    assert "sync" not in " ".join(step.get("run", "") for step in steps("plan"))
    assert content["concurrency"]["cancel-in-progress"] == "true"
    for job in content["jobs"].values():
        assert_no_step_runs_what_comes_from_outside(job["steps"])


@pytest.mark.parametrize("hostile", ['x"; touch pwned; "', "$(touch pwned)", "`touch pwned`"])
def test_what_comes_from_outside_is_never_run(runner: Runner, hostile: str) -> None:
    for name in ("vars.ECR_CATALOG_MIRROR", "vars.ECR_CATALOG_GOVERNANCE"):
        runner.contexts[name] = hostile
    assert runner.job()[0] != 0
    assert not list(runner.world.folder.rglob("pwned"))


# GitLab


def gitlab_job() -> dict[str, Any]:
    (block,) = [each for each in of("yaml") if "ecr-catalog-plan:" in each.text]
    job: dict[str, Any] = yaml.safe_load(block.text)["ecr-catalog-plan"]
    return job


def run_gitlab_job(request: PullRequest, comments: Comments, folder: Path) -> tuple[int, str]:
    given = {
        "CI_API_V4_URL": f"{comments.url}/api/v4",
        "CI_PROJECT_ID": "3",
        "CI_PROJECT_DIR": str(request.checkout.folder),
        "CI_MERGE_REQUEST_IID": str(NUMBER),
        "CI_JOB_URL": "https://gitlab.example.com/jobs/9",
        "CI_SERVER_URL": "https://gitlab.example.com",
        "CI_JOB_TOKEN": "a-job-token",
        "AWS_ID_TOKEN": "an-id-token",
        "PLAN_TOKEN": TOKEN,
    }
    # GitLab puts known variables into others; `$$` is a dollar.
    variables = {
        name: re.sub(r"\$(\$|[A-Z_]+)", lambda found: given.get(found[1], "$"), value)
        for name, value in gitlab_job()["variables"].items()
    }
    (script,) = gitlab_job()["script"]
    done = run(
        ["bash", "-e", "-c", script],
        request.checkout.folder,
        {
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
            "HOME": str(folder),
            "AWS_EC2_METADATA_DISABLED": "true",
            "ECR_CATALOG_CACHE": str(request.world.cache),
            **given,
            **variables,
            "MIRROR": request.world.name,
            "GOVERNANCE": GOVERNANCE_PATH,
        },
    )
    return done.returncode, done.stdout + done.stderr


def test_a_merge_request_of_gitlab_gets_one_note_that_is_renewed(
    request_: PullRequest, comments: Comments, tmp_path: Path
) -> None:
    for number in range(101):
        comments.add(f"<!-- ecr-catalog:plan:goldenpath --> Note {number}")
    request_.replace('"active"', '"deprecated"')

    code, log = run_gitlab_job(request_, comments, tmp_path)
    assert code == 0, log
    assert "status: `active` → `deprecated`" in comments.listed[-1].body

    request_.push("repositories: [")
    code, log = run_gitlab_job(request_, comments, tmp_path)
    assert code == 1
    assert "**This file cannot be used.**" in comments.listed[-1].body
    assert comments.written == ["new", "renewed"]
    assert len(comments.listed) == 102

    (request_.checkout.folder / GOVERNANCE_PATH).unlink()
    code, log = run_gitlab_job(request_, comments, tmp_path)
    assert code == 1
    assert "[The job](https://gitlab.example.com/jobs/9) says why." in comments.listed[-1].body
    assert TOKEN not in log


def test_gitlabs_job_gives_git_the_jobs_token_and_runs_for_no_fork() -> None:
    job = gitlab_job()
    helper = job["variables"]["GIT_CONFIG_VALUE_0"].replace("$$", "$")
    said = password(
        {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "credential.https://github.com.helper",
            "GIT_CONFIG_VALUE_0": helper,
            "CI_JOB_TOKEN": "a-job-token",
        }
    )
    assert "username=gitlab-ci-token\npassword=a-job-token\n" in said
    (rule,) = job["rules"]
    assert "$CI_MERGE_REQUEST_SOURCE_PROJECT_ID == $CI_PROJECT_ID" in rule["if"]
