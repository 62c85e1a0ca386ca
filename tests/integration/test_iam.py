"""The policies of `deploy/iam/` allow every call that we make, and nothing that we do not make.

Whole runs are recorded on the wire: ECR and STS by the fake AWS, S3 by a proxy before moto. A small
evaluator then holds each call against the policies as IAM would.
"""

from __future__ import annotations

import fnmatch
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import urllib3

from tests.fakes.aws import Fault, StaleListing
from tests.integration.worlds import S3Target, World, a_world, s3_server

POLICIES: Final = Path(__file__).parents[2] / "deploy" / "iam"
READER: Final = "catalog-reader"
NAMES: Final = tuple(f"team/app-{number}" for number in range(5))

# What IAM checks for each request. GetCallerIdentity needs no permission, says AWS's reference.
_OF_REPOSITORIES: Final = frozenset({"DescribeRepositories", "GetLifecyclePolicy"})
_OF_THE_REGISTRY: Final = frozenset(
    {
        "GetRegistryScanningConfiguration",
        "DescribeRepositoryCreationTemplates",
        "DescribePullThroughCacheRules",
        "DescribeRegistry",
    }
)
_FREE: Final = frozenset({"GetCallerIdentity"})


@dataclass(frozen=True)
class Action:
    """One action on one resource, with the condition keys that the request carries."""

    name: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()


# A small evaluator of identity policies


class Policies:
    """Statements of Effect, Action, Resource and string conditions, placeholders filled in."""

    def __init__(self, names: tuple[str, ...], values: Mapping[str, str]) -> None:
        self.statements: list[Mapping[str, Any]] = []
        for name in names:
            text = (POLICIES / f"{name}.json").read_text(encoding="utf-8")
            for key, value in values.items():
                text = text.replace(f"<{key}>", value)
            assert "<" not in text, f"{name}.json has a placeholder that no test fills in"
            policy = json.loads(text)
            assert policy["Version"] == "2012-10-17"
            self.statements += policy["Statement"]

    @property
    def actions(self) -> set[str]:
        return {action for each in self.statements for action in _listed(each["Action"])}

    def allow(self, action: Action) -> bool:
        matching = [each["Effect"] for each in self.statements if _matches(each, action)]
        return "Allow" in matching and "Deny" not in matching


def _matches(statement: Mapping[str, Any], action: Action) -> bool:
    assert not statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}
    return (
        any(_like(action.name.lower(), each.lower()) for each in _listed(statement["Action"]))
        and any(_like(action.resource, each) for each in _listed(statement["Resource"]))
        and all(
            _holds(operator, dict(action.context).get(key), _listed(wanted))
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    if value is None:
        return operator.endswith("IfExists")
    kind = operator.removesuffix("IfExists")
    assert kind in {"StringEquals", "StringLike"}, operator
    return any(value == each if kind == "StringEquals" else _like(value, each) for each in wanted)


def _like(value: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# What is called


class S3Proxy:
    """Passes everything on to an S3 and keeps what was asked."""

    def __init__(self, behind: str) -> None:
        self.requests: list[tuple[str, str, int]] = []
        self.before_put: Callable[[], None] = lambda: None
        proxy, pool = self, urllib3.PoolManager()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.command == "PUT":
                    proxy.before_put()
                headers = {key: value for key, value in self.headers.items() if key != "Expect"}
                answer = pool.request(
                    self.command, behind + self.path, body=body, headers=headers, retries=False
                )
                proxy.requests.append((self.command, self.path, answer.status))
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    if key.lower() not in {"content-length", "connection", "transfer-encoding"}:
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)

            do_PUT = do_GET  # noqa: N815 - what the base class calls
            do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 - what the base class calls

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def actions(self) -> set[Action]:
        """What IAM checks for them, as S3's documentation says."""
        found = set()
        for method, target, status in self.requests:
            parts = urlsplit(target)
            bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
            query = parse_qs(parts.query, keep_blank_values=True)
            assert key, f"{method} {target} is an action that this test does not know"
            assert set(query) <= {"x-id"}, f"{method} {target} asks for more than the object"
            names = {
                "GET": "s3:GetObject",
                "PUT": "s3:PutObject",
                "DELETE": "s3:DeleteObject",
            }
            found.add(Action(names[method], f"arn:aws:s3:::{bucket}/{key}"))
            if status == 404:
                # That the key is missing, and not denied, is said to who may list the bucket.
                found.add(Action("s3:ListBucket", f"arn:aws:s3:::{bucket}"))
        return found


def aws_actions(world: World) -> set[Action]:
    """What IAM checks for the calls that the fake AWS got."""
    fake = world.fake
    repositories = f"arn:aws:ecr:{fake.region}:{fake.account_id}:repository"
    found = set()
    for call in fake.calls:
        if call.operation in _FREE:
            continue
        if call.operation == "AssumeRole":
            context = (("sts:RoleSessionName", call.parameters["RoleSessionName"]),)
            found.add(Action("sts:AssumeRole", call.parameters["RoleArn"], context))
            continue
        if call.operation in _OF_THE_REGISTRY:
            # No such action can be limited to a resource.
            found.add(Action(f"ecr:{call.operation}", "*"))
            continue
        assert call.operation in _OF_REPOSITORIES
        # A listing is checked against every repository, a look-up against the one.
        named = call.parameters.get("repositoryName")
        for name in [named] if named else call.parameters.get("repositoryNames", ["*"]):
            found.add(Action(f"ecr:{call.operation}", f"{repositories}/{name}"))
    return found


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@dataclass
class Recorded:
    world: World
    proxy: S3Proxy
    bucket: str
    settings: Mapping[str, Any]

    @property
    def values(self) -> dict[str, str]:
        fake = self.world.fake
        return {
            "REGION": fake.region,
            "ACCOUNT_ID": fake.account_id,
            "READER_ROLE": READER,
            "BUCKET": self.bucket,
            "KEY": S3Target.key,
        }

    def actions(self) -> set[Action]:
        return aws_actions(self.world) | self.proxy.actions()


@pytest.fixture
def recorded(tmp_path: Path, s3: str) -> Iterator[Recorded]:
    """A mirror that assumes a role and publishes to S3; everything that it calls is kept."""
    target = S3Target(s3)
    with S3Proxy(s3) as proxy, a_world(tmp_path, target) as world:
        settings = {
            "registry": {
                "region": world.fake.region,
                "account_id": world.fake.account_id,
                "endpoint_url": world.fake.endpoint_url,
                "role_arn": f"arn:aws:iam::{world.fake.account_id}:role/{READER}",
            },
            "publish": {**target.settings(), "endpoint_url": proxy.url},
            "policy": {"risk": {"low": {"scanning": "on-push", "keep_images": 20}}},
        }
        world.write_mirror(**settings)
        yield Recorded(world, proxy, target.bucket, settings)


def run_everything(recorded: Recorded) -> None:
    """Let every kind of run happen: each branch that calls AWS is taken once."""
    world = recorded.world
    world.have(*NAMES)
    world.fake.create("orphan")
    assert world.sync().outcome == "published"  # the first time: there is no object yet
    assert world.sync().outcome == "unchanged"
    world.fake.delete(NAMES[0])
    assert world.sync().planned.plan.changes.removed == (NAMES[0],)  # proved by a look-up
    world.fake.fail("DescribeRepositories", StaleListing(omits=[NAMES[1]]))
    world.sync_fails()  # found by its name
    world.fake.clear()
    world.have("team/new")
    content = world.content
    assert content is not None
    recorded.proxy.before_put = lambda: world.target.overwrite(content + b"# changed\n")
    assert "changed by someone else" in str(world.sync_fails().description)
    recorded.proxy.before_put = lambda: None
    world.fake.fail("DescribeRepositories", Fault.THROTTLING, times=1)
    world.sync()
    world.write_mirror(entity={"list_limit": 1}, **recorded.settings)
    world.sync()
    world.have("team/newer")  # past the limit: another list, and the old one goes
    world.sync()
    world.restart()
    world.fake.fail("AssumeRole", Fault.ACCESS_DENIED)
    world.sync_fails()


def test_the_policies_allow_just_what_whole_runs_call(recorded: Recorded) -> None:
    run_everything(recorded)

    policies = Policies(("ecr-reader", "assume-reader", "s3-publisher"), recorded.values)
    made = recorded.actions()
    assert [each for each in made if not policies.allow(each)] == []
    assert (
        {each.name for each in made}
        == policies.actions
        == {
            "ecr:DescribeRepositories",
            "ecr:GetLifecyclePolicy",
            *(f"ecr:{operation}" for operation in _OF_THE_REGISTRY),
            "sts:AssumeRole",
            "s3:GetObject",
            "s3:PutObject",
            "s3:DeleteObject",
            "s3:ListBucket",
        }
    )
    repositories = f"arn:aws:ecr:{recorded.world.fake.region}:{recorded.world.fake.account_id}"
    assert Action("ecr:DescribeRepositories", f"{repositories}:repository/{NAMES[0]}") in made
    for statement in list(policies.statements):
        policies.statements.remove(statement)
        assert any(not policies.allow(each) for each in made), statement["Sid"]
        policies.statements.append(statement)


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("ecr:DescribeRepositories", "arn:aws:ecr:eu-west-2:999999999999:repository/x"),
        ("ecr:DescribeRepositories", "arn:aws:ecr:us-east-1:123456789012:repository/x"),
        ("ecr:GetLifecyclePolicy", "arn:aws:ecr:eu-west-2:999999999999:repository/x"),
        ("ecr:PutLifecyclePolicy", "arn:aws:ecr:eu-west-2:123456789012:repository/x"),
        ("ecr:PutRegistryScanningConfiguration", "*"),
        ("ecr:DeleteRepository", "arn:aws:ecr:eu-west-2:123456789012:repository/x"),
        ("ecr:BatchGetImage", "arn:aws:ecr:eu-west-2:123456789012:repository/x"),
        ("ecr:GetAuthorizationToken", "*"),
        ("s3:GetObject", "arn:aws:s3:::the-bucket/other.yaml"),
        ("s3:PutObject", "arn:aws:s3:::the-bucket/other.yaml"),
        ("s3:PutObject", "arn:aws:s3:::another-bucket/catalog/ecr-registry.yaml"),
        ("s3:DeleteObject", "arn:aws:s3:::the-bucket/catalog/ecr-registry.yaml"),
        ("s3:ListBucket", "arn:aws:s3:::another-bucket"),
        ("sts:AssumeRole", "arn:aws:iam::123456789012:role/administrator"),
    ],
)
def test_what_we_never_call_is_not_allowed(name: str, resource: str) -> None:
    values = {
        "REGION": "eu-west-2",
        "ACCOUNT_ID": "123456789012",
        "READER_ROLE": READER,
        "BUCKET": "the-bucket",
        "KEY": S3Target.key,
    }
    policies = Policies(("ecr-reader", "assume-reader", "s3-publisher"), values)
    assert not policies.allow(Action(name, resource))


def test_a_listing_of_other_prefixes_is_not_allowed() -> None:
    for name, ours in (("s3-publisher", "ecr.yaml"), ("backstage-reader", "ecr-registries/")):
        policies = Policies((name,), {"BUCKET": "the-bucket", "KEY": "ecr.yaml"})
        bucket = "arn:aws:s3:::the-bucket"
        assert policies.allow(Action("s3:ListBucket", bucket, (("s3:prefix", ours),)))
        assert not policies.allow(Action("s3:ListBucket", bucket, (("s3:prefix", "secret/"),)))


def test_backstage_may_read_what_its_configuration_reads_and_write_nothing() -> None:
    config = POLICIES.parent / "backstage" / "app-config.ecr-catalog-s3.yaml"
    assert "prefix: ecr-registries/\n" in config.read_text(encoding="utf-8")
    policies = Policies(("backstage-reader",), {"BUCKET": "the-bucket"})
    assert policies.actions == {"s3:GetObject", "s3:ListBucket"}
    inside = "arn:aws:s3:::the-bucket/ecr-registries/goldenpath.yaml"
    assert policies.allow(Action("s3:GetObject", inside))
    assert not policies.allow(Action("s3:GetObject", "arn:aws:s3:::the-bucket/other.yaml"))


def test_the_trust_policy_lets_the_session_in_that_we_open(recorded: Recorded) -> None:
    recorded.world.have(*NAMES)
    recorded.world.sync()

    text = (POLICIES / "ecr-reader-trust.json").read_text(encoding="utf-8")
    (statement,) = json.loads(text)["Statement"]
    assert statement["Principal"] == {
        "AWS": "arn:aws:iam::<PIPELINE_ACCOUNT_ID>:role/<PIPELINE_ROLE>"
    }
    trusted = {key: statement[key] for key in ("Sid", "Effect", "Action", "Condition")}
    (opened,) = (each for each in recorded.actions() if each.name == "sts:AssumeRole")
    assert _matches({**trusted, "Resource": "*"}, opened)
    other = Action(opened.name, opened.resource, (("sts:RoleSessionName", "somebody"),))
    assert not _matches({**trusted, "Resource": "*"}, other)


def test_every_policy_is_described() -> None:
    readme = (POLICIES / "README.md").read_text(encoding="utf-8")
    for path in POLICIES.glob("*.json"):
        assert f"`{path.name}`" in readme
