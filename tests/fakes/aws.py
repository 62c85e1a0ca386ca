"""AWS as boto3 meets it, on a loopback port: ECR and STS of one region, and their faults.

    with FakeAws() as fake:
        fake.create("team/app")
        fake.fail("DescribeRepositories", Fault.THROTTLING, at=2, times=1)
        ecr = boto3.client("ecr", region_name=fake.region, endpoint_url=fake.endpoint_url, ...)

Strict where AWS is strict: page sizes, tokens, names, one missing name that fails a whole look-up.
An operation or a parameter that the fake does not know is refused, never guessed at.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from enum import Enum, auto
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from tests.fakes.aws_wire import JSON, QUERY, ApiError, Reply, Server, Signature, WireProtocol

__all__ = [
    "Answer",
    "AnyFault",
    "ApiError",
    "Call",
    "FakeAws",
    "Fault",
    "OtherAccount",
    "StaleListing",
    "lifecycle_policy",
]


class Fault(Enum):
    """What can go wrong with a call. Those of a listing leave look-ups by name alone."""

    # AWS refuses; nothing is done.
    THROTTLING = auto()
    ACCESS_DENIED = auto()
    EXPIRED_CREDENTIALS = auto()
    HTTP_500 = auto()  # AWS's own words
    HTTP_503 = auto()  # a load balancer's HTML

    # The connection fails.
    HANG = auto()  # no answer until the fault is cleared or the fake closed; nothing is done
    DROP = auto()  # closed without an answer; what was asked for is done
    DROP_MID_BODY = auto()  # closed after half of the body
    TRICKLE = auto()  # a byte of the body now and then, until cleared or closed

    # Status 200 and a body that is no answer, its Content-Length as it should be.
    TRUNCATED_BODY = auto()  # the first half of the answer
    MALFORMED_BODY = auto()  # neither JSON nor XML
    EMPTY_OBJECT = auto()  # {}

    # A listing goes wrong.
    EMPTY_PAGE = auto()  # no repositories, a token that goes on from the same place
    LOST_PAGE = auto()  # the page asked for is skipped: the one after it is the answer
    EARLY_END = auto()  # no token though there is more
    DUPLICATES = auto()  # the page begins with the last repository of the page before
    REPEATED_TOKEN = auto()  # the token that was sent comes back
    EXPIRED_TOKEN = auto()  # a token is no longer known; a first page has none
    SHIFTED_PAGE = auto()  # a token counts, so what is deleted before it hides as many behind


LISTING_FAULTS: Final = frozenset(
    {
        Fault.EMPTY_PAGE,
        Fault.LOST_PAGE,
        Fault.EARLY_END,
        Fault.DUPLICATES,
        Fault.REPEATED_TOKEN,
        Fault.EXPIRED_TOKEN,
        Fault.SHIFTED_PAGE,
    }
)


@dataclass(frozen=True)
class StaleListing:
    """The listing lacks these names, though a look-up finds them."""

    omits: Collection[str]


@dataclass(frozen=True)
class OtherAccount:
    """The answer is the one that a caller of another account gets: its identity, its registry."""

    account_id: str


@dataclass(frozen=True)
class Answer:
    """The answer is these very bytes."""

    body: bytes
    status: int = 200


AnyFault = Fault | StaleListing | OtherAccount | Answer


@dataclass(frozen=True)
class Call:
    """One HTTP request, so each retry is one; recorded when it arrives."""

    service: str
    operation: str
    parameters: dict[str, Any]
    access_key_id: str
    time: datetime
    fault: AnyFault | None


class FakeAws:
    """An AWS of one region, empty at first. A context manager: it serves inside `with`."""

    def __init__(self, account_id: str = "123456789012", region: str = "eu-west-2") -> None:
        self.account_id = account_id
        self.region = region
        self._lock = threading.RLock()
        self._registries: dict[str, dict[str, _Repository]] = {}
        self._lifecycles: dict[str, str] = {}
        self._scanning: dict[str, Any] = {"scanType": "BASIC", "rules": []}
        self._templates: dict[str, dict[str, Any]] = {}
        self._cache_rules: dict[str, dict[str, Any]] = {}
        self._replication: list[dict[str, Any]] = []
        self._numbers = count(1)
        self._tokens: dict[str, _Place] = {}
        self._sessions: dict[str, _Session] = {}
        self._secrets: set[str] = set()
        self._calls: list[Call] = []
        self._injections: list[_Injection] = []
        self._hooks: list[_Hook] = []
        self._server: Server | None = None
        self._operations: dict[str, _Operation] = {
            "DescribeRepositories": self._describe_repositories,
            "CreateRepository": self._create_repository,
            "DeleteRepository": self._delete_repository,
            "GetRegistryScanningConfiguration": self._get_scanning,
            "DescribeRepositoryCreationTemplates": self._describe_templates,
            "DescribePullThroughCacheRules": self._describe_cache_rules,
            "DescribeRegistry": self._describe_registry,
            "GetLifecyclePolicy": self._get_lifecycle_policy,
            "ListTagsForResource": self._list_tags_for_resource,
            "GetCallerIdentity": self._get_caller_identity,
            "AssumeRole": self._assume_role,
        }

    # Serving

    def __enter__(self) -> Self:
        self._server = Server(self._respond)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; what still hangs is let go. Raises what a hook raised, if one did."""
        self.clear()
        server, self._server = self._server, None
        if server is not None:
            server.close()

    @property
    def endpoint_url(self) -> str:
        assert self._server is not None, "a FakeAws serves inside `with` only"
        return f"http://127.0.0.1:{self._server.server_port}"

    # What is in the registry

    def create(
        self,
        name: str,
        created_at: datetime | None = None,
        *,
        scan_on_push: bool = False,
        encryption: str = "AES256",
        kms_key: str | None = None,
        tag_mutability: str = "MUTABLE",
        mutable_tags: Sequence[str] = (),
        tags: Mapping[str, str] = {},
        account_id: str | None = None,
    ) -> str:
        """Put a repository into the registry (or another account's) and return its URI."""
        encrypted_by = {"encryptionType": encryption} | ({"kmsKey": kms_key} if kms_key else {})
        parameters: dict[str, Any] = {
            "repositoryName": name,
            "imageTagMutability": tag_mutability,
            "imageScanningConfiguration": {"scanOnPush": scan_on_push},
            "encryptionConfiguration": encrypted_by,
            "tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }
        if mutable_tags:
            parameters["imageTagMutabilityExclusionFilters"] = _wildcards(mutable_tags)
        with self._lock:
            repository = self._add(account_id or self.account_id, parameters, created_at)
        return str(repository.described["repositoryUri"])

    def delete(self, name: str, account_id: str | None = None) -> None:
        with self._lock:
            self._remove(account_id or self.account_id, name)

    def change(self, name: str, **described: Any) -> None:
        """Change what the listing says of a repository, by ECR's own keys."""
        with self._lock:
            self._find(self.account_id, name).described.update(described)

    def expire_images(self, name: str, policy: str | int | None) -> None:
        """Give a repository a lifecycle policy: its text, or how many images it leaves."""
        with self._lock:
            self._find(self.account_id, name)
            self._lifecycles.pop(name, None)
            if policy is not None:
                text = lifecycle_policy(policy) if isinstance(policy, int) else policy
                self._lifecycles[name] = text

    # The settings of the registry

    def scan(self, scan_type: str, **filters_by_frequency: Sequence[str]) -> None:
        """Let the registry scan so: `scan("ENHANCED", CONTINUOUS_SCAN=["prod*"])`."""
        rules = [
            {"scanFrequency": frequency, "repositoryFilters": _wildcards(filters)}
            for frequency, filters in filters_by_frequency.items()
        ]
        with self._lock:
            self._scanning = {"scanType": scan_type, "rules": rules}

    def template(self, prefix: str, *applied_for: str) -> None:
        with self._lock:
            self._templates[prefix] = {
                "prefix": prefix,
                "encryptionConfiguration": {"encryptionType": "AES256"},
                "imageTagMutability": "MUTABLE",
                "appliedFor": list(applied_for),
                "createdAt": time.time(),
            }

    def cache(self, prefix: str, upstream: str = "public.ecr.aws") -> None:
        with self._lock:
            self._cache_rules[prefix] = {
                "ecrRepositoryPrefix": prefix,
                "upstreamRegistryUrl": upstream,
                "registryId": self.account_id,
                "createdAt": time.time(),
            }

    def replicate(self, region: str, account_id: str) -> None:
        """Replicate the registry to another one."""
        with self._lock:
            self._replication.append(
                {"destinations": [{"region": region, "registryId": account_id}]}
            )

    def names(self, account_id: str | None = None) -> tuple[str, ...]:
        """Name what is there, in the order of creation, which is also that of a listing."""
        with self._lock:
            return tuple(self._registry(account_id or self.account_id))

    # What was asked

    @property
    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    def count(self, operation: str) -> int:
        return sum(call.operation == operation for call in self.calls)

    def revoke(self) -> None:
        """End every session of an assumed role."""
        with self._lock:
            self._sessions.clear()

    @property
    def secrets_given(self) -> frozenset[str]:
        """Everything secret that was ever given to somebody who assumed a role."""
        with self._lock:
            return frozenset(self._secrets)

    # What goes wrong

    def fail(
        self, operation: str, fault: AnyFault, *, at: int = 1, times: int | None = None
    ) -> None:
        """Let calls of an operation fail.

        Args:
            at: the first call that fails, counted from now: 1 is the next one. Look-ups by name
                and retries count, too.
            times: how many calls fail from there on; None: all, until `clear`.

        Where several faults meet in one call, the newest one counts.
        """
        self._check_operation(operation)
        of_a_listing = isinstance(fault, StaleListing) or fault in LISTING_FAULTS
        if of_a_listing and operation != "DescribeRepositories":
            raise ValueError(f"{operation} lists nothing: {fault}")
        with self._lock:
            self._injections.append(_Injection(operation, at, times, fault))

    def clear(self, operation: str | None = None) -> None:
        """End the faults of one operation, or all; calls that hang for them are dropped."""
        with self._lock:
            ended = [each for each in self._injections if operation in {None, each.operation}]
            self._injections = [each for each in self._injections if each not in ended]
        for each in ended:
            each.cleared.set()

    def after(
        self,
        operation: str,
        callback: Callable[[Call], object],
        *,
        at: int = 1,
        times: int | None = 1,
    ) -> None:
        """Call back once a call is done, before its caller has the answer; `at` as in `fail`."""
        self._check_operation(operation)
        with self._lock:
            self._hooks.append(_Hook(operation, at, times, callback))

    def _check_operation(self, operation: str) -> None:
        if operation not in self._operations:
            raise ValueError(f"no operation {operation}; there are {', '.join(self._operations)}")

    # One request: the one place where faults apply

    def _respond(self, headers: Message, body: bytes) -> Reply | None:
        """Answer a request; None: drop the connection without an answer."""
        protocol = JSON if "X-Amz-Target" in headers else QUERY
        operation, parameters = protocol.read(headers, body)
        signature = Signature.of(headers)
        call, injection, hooks = self._record(protocol, operation, parameters, signature)
        fault = call.fault
        if injection is not None and fault is Fault.HANG:
            injection.cleared.wait()
            return None
        try:
            result = self._execute(call, signature)
            reply = Reply(200, protocol.content_type, protocol.write(operation, result))
        except ApiError as error:
            reply = Reply(error.status, protocol.content_type, protocol.write_error(error))
        for hook in hooks:
            hook.callback(call)
        if injection is not None and fault is Fault.TRICKLE:
            return replace(reply, trickles_until=injection.cleared)
        return _spoil(reply, fault)

    def _record(
        self,
        protocol: WireProtocol,
        operation: str,
        parameters: dict[str, Any],
        signature: Signature,
    ) -> tuple[Call, _Injection | None, list[_Hook]]:
        with self._lock:
            # A list, not a generator: each must count this call.
            due = [each for each in self._injections if each.is_due(operation)]
            hooks = [each for each in self._hooks if each.is_due(operation)]
            injection = due[-1] if due else None
            call = Call(
                service=protocol.service,
                operation=operation,
                parameters=parameters,
                access_key_id=signature.access_key_id,
                time=datetime.now(UTC),
                fault=injection.fault if injection else None,
            )
            self._calls.append(call)
        return call, injection, hooks

    def _execute(self, call: Call, signature: Signature) -> dict[str, Any]:
        with self._lock:
            if call.operation not in self._operations:
                raise ApiError("UnknownOperationException", f"no operation {call.operation}")
            caller = self._authenticate(call, signature)
            if isinstance(call.fault, OtherAccount):
                caller = _Caller.user(call.fault.account_id)
            _refuse(call, caller)
            return self._operations[call.operation](call.parameters, caller, call.fault)

    def _authenticate(self, call: Call, signature: Signature) -> _Caller:
        if not signature.access_key_id:
            raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
        if signature.service != call.service:
            raise ApiError("InvalidSignatureException", f"scope: not {call.service}", 403)
        if signature.region != self.region and call.service == "ecr":
            # STS, unlike ECR, is one for all regions.
            raise ApiError("InvalidSignatureException", f"scope: not {self.region}", 403)
        if not signature.access_key_id.startswith("ASIA"):
            return _Caller.user(self.account_id)
        session = self._sessions.get(signature.access_key_id)
        if session is None or session.token != signature.session_token:
            raise ApiError(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        return session.caller

    # ECR

    def _describe_repositories(
        self, parameters: Mapping[str, Any], caller: _Caller, fault: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters, "registryId", "repositoryNames", "maxResults", "nextToken")
        self._check_registry(parameters, caller)
        names = parameters.get("repositoryNames")
        if names is None:
            return self._list(parameters, caller, fault)
        for excluded in ("maxResults", "nextToken"):
            if excluded in parameters:
                raise _invalid(excluded, f"{excluded} can not be used with repositoryNames")
        if not isinstance(names, list) or not 1 <= len(names) <= 100:
            raise _invalid("repositoryNames", "Member must have between 1 and 100 items")
        for name in names:
            _check_name(name)
        found = [self._find(caller.account_id, name) for name in dict.fromkeys(names)]
        return {"repositories": [each.described for each in found]}

    def _list(
        self, parameters: Mapping[str, Any], caller: _Caller, fault: AnyFault | None
    ) -> dict[str, Any]:
        size, token = _page_size(parameters), parameters.get("nextToken")
        come_to = _Place(caller.account_id) if token is None else self._tokens.get(token)
        expired = fault is Fault.EXPIRED_TOKEN and token is not None
        if come_to is None or come_to.account_id != caller.account_id or expired:
            raise _invalid("nextToken", "Invalid or expired token")

        omitted = fault.omits if isinstance(fault, StaleListing) else ()
        listed = [
            each
            for each in self._registry(caller.account_id).values()
            if each.described["repositoryName"] not in omitted
        ]
        before = [each for each in listed if each.number <= come_to.after]
        if fault is Fault.SHIFTED_PAGE:
            before = listed[: come_to.count]
        rest = listed[len(before) :]
        page, rest = rest[:size], rest[size:]
        more = bool(rest)
        match fault:
            case Fault.EMPTY_PAGE:
                page, rest, more = [], page + rest, True
            case Fault.LOST_PAGE:
                page, rest = rest[:size], rest[size:]
                more = bool(rest)
            case Fault.EARLY_END:
                more = False
            case Fault.DUPLICATES:
                page = before[-1:] + page
            case _:
                pass
        answer: dict[str, Any] = {"repositories": [each.described for each in page]}
        if fault is Fault.REPEATED_TOKEN and token is not None:
            answer["nextToken"] = token
        elif more or fault is Fault.REPEATED_TOKEN:
            after = page[-1].number if page else come_to.after
            answer["nextToken"] = secrets.token_urlsafe(48)
            self._tokens[answer["nextToken"]] = _Place(
                caller.account_id, after, len(listed) - len(rest)
            )
        return answer

    def _create_repository(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(
            parameters,
            "registryId",
            "repositoryName",
            "tags",
            "imageTagMutability",
            "imageTagMutabilityExclusionFilters",
            "imageScanningConfiguration",
            "encryptionConfiguration",
        )
        self._check_registry(parameters, caller)
        return {"repository": self._add(caller.account_id, parameters, None).described}

    def _delete_repository(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters, "registryId", "repositoryName", "force")
        self._check_registry(parameters, caller)
        removed = self._remove(caller.account_id, parameters.get("repositoryName"))
        return {"repository": removed.described}

    def _list_tags_for_resource(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters, "resourceArn")
        arn = str(parameters.get("resourceArn"))
        prefix = f"arn:aws:ecr:{self.region}:{caller.account_id}:repository/"
        if not arn.startswith(prefix):
            raise _invalid("resourceArn", "Invalid ARN")
        return {"tags": self._find(caller.account_id, arn.removeprefix(prefix)).tags}

    def _registry(self, account_id: str) -> dict[str, _Repository]:
        return self._registries.setdefault(account_id, {})

    def _check_registry(self, parameters: Mapping[str, Any], caller: _Caller) -> None:
        if parameters.get("registryId", caller.account_id) != caller.account_id:
            raise ApiError("AccessDeniedException", f"{caller.arn} is of {caller.account_id} only")

    def _find(self, account_id: str, name: str) -> _Repository:
        repository = self._registry(account_id).get(name)
        if repository is None:
            raise ApiError(
                "RepositoryNotFoundException",
                f"The repository with name '{name}' does not exist in the registry with id "
                f"'{account_id}'",
            )
        return repository

    def _add(
        self, account_id: str, parameters: Mapping[str, Any], created_at: datetime | None
    ) -> _Repository:
        name = _check_name(parameters.get("repositoryName"))
        if name in self._registry(account_id):
            raise ApiError(
                "RepositoryAlreadyExistsException",
                f"The repository with name '{name}' already exists in the registry with id "
                f"'{account_id}'",
            )
        arn = f"arn:aws:ecr:{self.region}:{account_id}:repository/{name}"
        encryption = dict(parameters.get("encryptionConfiguration", {"encryptionType": "AES256"}))
        if encryption["encryptionType"] not in {"AES256", "KMS", "KMS_DSSE"}:
            raise _invalid("encryptionConfiguration", "Member must be AES256, KMS or KMS_DSSE")
        if encryption["encryptionType"] != "AES256":
            key = f"arn:aws:kms:{self.region}:{account_id}:key/0a1b2c3d-0000-4000-8000-000000000000"
            encryption.setdefault("kmsKey", key)
        created = created_at.timestamp() if created_at else time.time()
        described = {
            "repositoryArn": arn,
            "registryId": account_id,
            "repositoryName": name,
            "repositoryUri": f"{account_id}.dkr.ecr.{self.region}.amazonaws.com/{name}",
            "createdAt": round(created, 3),
            "imageTagMutability": parameters.get("imageTagMutability", "MUTABLE"),
            "imageScanningConfiguration": parameters.get(
                "imageScanningConfiguration", {"scanOnPush": False}
            ),
            "encryptionConfiguration": encryption,
        }
        if filters := parameters.get("imageTagMutabilityExclusionFilters"):
            described["imageTagMutabilityExclusionFilters"] = filters
        repository = _Repository(next(self._numbers), described, parameters.get("tags", []))
        self._registry(account_id)[name] = repository
        return repository

    def _remove(self, account_id: str, name: Any) -> _Repository:
        found = self._find(account_id, _check_name(name))
        del self._registry(account_id)[name]
        self._lifecycles.pop(name, None)
        return found

    def _get_scanning(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters)
        return {"registryId": caller.account_id, "scanningConfiguration": self._scanning}

    def _describe_templates(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters, "maxResults")
        page = list(self._templates.values())[: _page_size(parameters)]
        more = {"nextToken": "more"} if len(page) < len(self._templates) else {}
        return {"registryId": caller.account_id, "repositoryCreationTemplates": page, **more}

    def _describe_cache_rules(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters, "registryId", "maxResults")
        self._check_registry(parameters, caller)
        page = list(self._cache_rules.values())[: _page_size(parameters)]
        more = {"nextToken": "more"} if len(page) < len(self._cache_rules) else {}
        return {"pullThroughCacheRules": page, **more}

    def _describe_registry(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters)
        configuration = {"rules": self._replication}
        return {"registryId": caller.account_id, "replicationConfiguration": configuration}

    def _get_lifecycle_policy(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters, "registryId", "repositoryName")
        self._check_registry(parameters, caller)
        name = _check_name(parameters.get("repositoryName"))
        self._find(caller.account_id, name)
        if name not in self._lifecycles:
            raise ApiError(
                "LifecyclePolicyNotFoundException",
                f"Lifecycle policy does not exist for the repository with name '{name}' in the "
                f"registry with id '{caller.account_id}'",
            )
        return {
            "registryId": caller.account_id,
            "repositoryName": name,
            "lifecyclePolicyText": self._lifecycles[name],
            "lastEvaluatedAt": time.time(),
        }

    # STS

    def _get_caller_identity(
        self, parameters: Mapping[str, Any], caller: _Caller, _: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters)
        return {"Arn": caller.arn, "UserId": caller.user_id, "Account": caller.account_id}

    def _assume_role(
        self, parameters: Mapping[str, Any], _: _Caller, __: AnyFault | None
    ) -> dict[str, Any]:
        _check_known(parameters, "RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId")
        role = _ROLE_ARN.fullmatch(str(parameters.get("RoleArn")))
        session_name = parameters.get("RoleSessionName")
        if role is None or not session_name:
            raise ApiError("ValidationError", "RoleArn or RoleSessionName is missing or invalid")
        account_id, name = role["account"], role["path"].rsplit("/", 1)[-1]
        role_id = "AROA" + secrets.token_hex(8).upper()
        caller = _Caller(
            account_id=account_id,
            arn=f"arn:aws:sts::{account_id}:assumed-role/{name}/{session_name}",
            user_id=f"{role_id}:{session_name}",
        )
        access_key_id = "ASIA" + secrets.token_hex(8).upper()
        session = _Session(
            caller, token=secrets.token_urlsafe(96), secret=secrets.token_urlsafe(30)
        )
        self._sessions[access_key_id] = session
        self._secrets |= {session.secret, session.token}
        ends = datetime.now(UTC) + timedelta(seconds=int(parameters.get("DurationSeconds", 3600)))
        return {
            "Credentials": {
                "AccessKeyId": access_key_id,
                "SecretAccessKey": session.secret,
                "SessionToken": session.token,
                "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            "AssumedRoleUser": {"AssumedRoleId": caller.user_id, "Arn": caller.arn},
        }


# What the fake keeps


@dataclass(frozen=True)
class _Repository:
    number: int  # a listing's order and a token's place in it; never used twice
    described: dict[str, Any]
    tags: list[dict[str, str]]


@dataclass(frozen=True)
class _Place:
    """How far a listing has come, in whose registry."""

    account_id: str
    after: int = 0  # the number of the last repository, whatever is created or deleted meanwhile
    count: int = 0  # how many repositories stood before


@dataclass(frozen=True)
class _Caller:
    account_id: str
    arn: str
    user_id: str

    @classmethod
    def user(cls, account_id: str) -> _Caller:
        return cls(account_id, f"arn:aws:iam::{account_id}:user/fake", "AIDAFAKEFAKEFAKEFAKE")


@dataclass(frozen=True)
class _Session:
    caller: _Caller
    token: str
    secret: str


_Operation = Callable[[Mapping[str, Any], _Caller, AnyFault | None], dict[str, Any]]


@dataclass(eq=False)
class _Timed:
    operation: str
    at: int
    times: int | None
    seen: int = field(default=0, init=False)

    def is_due(self, operation: str) -> bool:
        """Count a call of the operation and say whether it is one of those meant."""
        if operation != self.operation:
            return False
        self.seen += 1
        return self.at <= self.seen and (self.times is None or self.seen < self.at + self.times)


@dataclass(eq=False)
class _Injection(_Timed):
    fault: AnyFault
    cleared: threading.Event = field(default_factory=threading.Event, init=False)


@dataclass(eq=False)
class _Hook(_Timed):
    callback: Callable[[Call], object]


# Refusals

_NAME_PART: Final = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_NAME_PART}(/{_NAME_PART})*")
_ROLE_ARN: Final = re.compile(r"arn:aws:iam::(?P<account>\d{12}):role/(?P<path>[\w+=,.@/-]+)")


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not 2 <= len(name) <= 256 or not _NAME.fullmatch(name):
        raise _invalid("repositoryName", f"must satisfy regular expression '{_NAME.pattern}'")
    return name


def _page_size(parameters: Mapping[str, Any]) -> int:
    size = parameters.get("maxResults", 100)
    if not isinstance(size, int) or not 1 <= size <= 1_000:
        bound = "greater than or equal to 1" if size == 0 else "less than or equal to 1000"
        raise _invalid("maxResults", f"Member must have value {bound}")
    return size


def _wildcards(filters: Iterable[str]) -> list[dict[str, str]]:
    return [{"filter": each, "filterType": "WILDCARD"} for each in filters]


def lifecycle_policy(images: int, **selection: Any) -> str:
    """A lifecycle policy of one rule that leaves so many images; `selection` varies the rule."""
    rule = {
        "rulePriority": 1,
        "description": "Keep the newest images",
        "selection": {
            "tagStatus": "any",
            "countType": "imageCountMoreThan",
            "countNumber": images,
            **selection,
        },
        "action": {"type": "expire"},
    }
    return json.dumps({"rules": [rule]})


def _check_known(parameters: Iterable[str], *known: str) -> None:
    unknown = set(parameters) - set(known)
    if unknown:
        raise ApiError("InvalidParameterException", f"FakeAws does not know {sorted(unknown)}")


def _invalid(parameter: str, constraint: str) -> ApiError:
    return ApiError(
        "InvalidParameterException",
        f"Invalid parameter at '{parameter}' failed to satisfy constraint: '{constraint}'",
    )


_REFUSALS: Final = {
    # what ECR says, what STS says, in which words
    Fault.THROTTLING: (("ThrottlingException", 400), ("Throttling", 400), "Rate exceeded"),
    Fault.ACCESS_DENIED: (
        ("AccessDeniedException", 400),
        ("AccessDenied", 403),
        "User: {caller} is not authorized to perform: {action}",
    ),
    Fault.EXPIRED_CREDENTIALS: (
        ("ExpiredTokenException", 400),
        ("ExpiredToken", 403),
        "The security token included in the request is expired",
    ),
    Fault.HTTP_500: (("ServerException", 500), ("InternalFailure", 500), "Internal failure"),
    Fault.HTTP_503: (("ServiceUnavailable", 503), ("ServiceUnavailable", 503), "see _spoil"),
}


def _refuse(call: Call, caller: _Caller) -> None:
    if isinstance(call.fault, Fault) and call.fault in _REFUSALS:
        of_ecr, of_sts, message = _REFUSALS[call.fault]
        code, status = of_ecr if call.service == "ecr" else of_sts
        action = f"{call.service}:{call.operation}"
        raise ApiError(code, message.format(caller=caller.arn, action=action), status)


# Spoilt answers

_NO_ANSWERS: Final = {Fault.MALFORMED_BODY: b"{repositories: [}", Fault.EMPTY_OBJECT: b"{}"}
_FROM_A_LOAD_BALANCER: Final = b"<html><body><h1>503 Service Temporarily Unavailable</h1></body>"


def _spoil(reply: Reply, fault: AnyFault | None) -> Reply | None:
    match fault:
        case Answer():
            spoilt = replace(reply, status=fault.status, body=fault.body)
        case Fault.HTTP_503:
            spoilt = replace(reply, content_type="text/html", body=_FROM_A_LOAD_BALANCER)
        case Fault.MALFORMED_BODY | Fault.EMPTY_OBJECT:
            spoilt = replace(reply, status=200, body=_NO_ANSWERS[fault])
        case Fault.TRUNCATED_BODY:
            spoilt = replace(reply, status=200, body=reply.body[: len(reply.body) // 2])
        case Fault.DROP_MID_BODY:
            spoilt = replace(reply, cut=True)
        case Fault.DROP:
            return None
        case _:
            return reply
    return spoilt
