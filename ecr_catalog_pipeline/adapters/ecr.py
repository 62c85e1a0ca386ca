"""Reads an ECR registry: completely, or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import cached_property, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from botocore.session import Session as BotocoreSession

from ecr_catalog_pipeline.adapters.aws import (
    OutOfTimeError,
    all_within,
    call_within,
    client_config,
    code_of,
    message_of,
    new_session,
    status_of,
)
from ecr_catalog_pipeline.core.ecr_settings import (
    DENIED,
    MALFORMED,
    EcrSettings,
    Setting,
    Unreadable,
    parse_settings,
)
from ecr_catalog_pipeline.core.errors import CatalogError, InventoryFailed
from ecr_catalog_pipeline.core.governance import is_repository_name
from ecr_catalog_pipeline.core.inventory import (
    WAIT,
    Inventory,
    Repository,
    check_account,
    is_account_id,
    merge_pages,
    parse_page,
)
from ecr_catalog_pipeline.core.plan import MAX_READ_AGE
from ecr_catalog_pipeline.core.retention import NO_SUCH_REPOSITORY, Retention, keeps_images
from ecr_catalog_pipeline.core.text import clean_text

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_sts import STSClient

PAGE_SIZE: Final = 1_000
MAX_LOOK_UPS: Final = 50
LEARN_SECONDS: Final = 6
"""How long a run waits for what it learns beside the listing."""
MAX_EMPTY_PAGES: Final = 10

_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_BAD_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_THROTTLED: Final = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException"})
_LIST: Final = "ecr:DescribeRepositories"
_TAGS: Final = "ecr:ListTagsForResource"

OnPage = Callable[[int, int], object]
"""Hears of each page of a listing: how many pages and repositories were read so far."""


class EcrRegistry:
    """One ECR registry. Its clients are made on use and kept."""

    def __init__(
        self,
        region: str,
        *,
        account_id: str | None = None,
        role_arn: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        self.region = region
        self._expected_account = account_id
        self._role_arn = role_arn
        self._endpoint_url = endpoint_url
        self._answering_account: str | None = None

    def read(self, on_page: OnPage = lambda _pages, _repositories: None) -> Inventory:
        """Read the whole registry.

        Raises:
            InventoryFailed: one part could not be read, so nothing is known.
        """
        deadline = _deadline()
        account = self._account()
        return Inventory(
            account_id=account,
            region=self.region,
            repositories=merge_pages(_counted(self._pages(account, deadline), on_page)),
        )

    def prove_absent(self, account_id: str, names: Sequence[str]) -> frozenset[str]:
        """Look names up that a listing of that account lacks, and give those that are gone.

        Args:
            names: the first MAX_LOOK_UPS of them are looked up; the others stay unproved.

        Raises:
            InventoryFailed: one is there, so the listing was wrong, or a look-up failed.
        """
        return frozenset(self._proved_absent(account_id, names[:MAX_LOOK_UPS], _deadline()))

    def learn(
        self, account_id: str, settings: Collection[Setting], names: Sequence[str] = ()
    ) -> tuple[EcrSettings, dict[str, Retention]]:
        """Read settings of the registry, and lifecycle policies, beside the listing.

        What cannot be read in LEARN_SECONDS is unknown, with the reason; nothing is raised.

        Args:
            settings: one call each.
            names: the repositories whose lifecycle policies are read, one call each.

        Returns:
            the settings, and the answers by repository, in their order. Those that are missing
            were not reached.
        """
        if not settings and not names:
            return EcrSettings(), {}
        asked = {*settings, *([Setting.LIFECYCLE] if names else [])}
        try:
            client = self._quick_ecr
        except CatalogError:
            return EcrSettings(unknown=dict.fromkeys(asked, "no AWS client")), {}
        policies = _LifecyclePolicies(client, account_id, names)
        ended = all_within(
            {each: partial(_setting, client, each, account_id) for each in settings}
            | ({Setting.LIFECYCLE: policies.read} if names else {}),
            LEARN_SECONDS,
        )
        failed = {each: why for each, future in ended.items() if (why := _why_unknown(future))}
        answers = {each: future.result() for each, future in ended.items() if each not in failed}
        answers.pop(Setting.LIFECYCLE, None)
        return parse_settings(answers, failed, account_id), policies.found

    def tags(self, account_id: str, name: str) -> Mapping[str, str] | None:
        """Give the tags of a repository; None where this role may not read them.

        Raises:
            InventoryFailed: they could not be read.
        """
        arn = f"arn:{self._ecr.meta.partition}:ecr:{self.region}:{account_id}:repository/{name}"
        try:
            answer = self._client_call(self._ecr, "list_tags_for_resource", resourceArn=arn)
        except ClientError as error:
            if code_of(error) in _DENIED:
                return None
            raise _failed(error, f"{_TAGS} of {name}") from None
        tags = answer.get("tags")
        if not isinstance(tags, list):
            raise InventoryFailed(f"{_TAGS} of {name} answered without its tags", remediation=WAIT)
        return {each["Key"]: each["Value"] for each in tags if {"Key", "Value"} <= each.keys()}

    def _account(self) -> str:
        """Give the answering account; asked once, unless it is the wrong one."""
        if self._answering_account:
            return self._answering_account
        answer = self._call(self._sts, "get_caller_identity")
        account = answer.get("Account")
        if not isinstance(account, str) or not is_account_id(account):
            raise InventoryFailed(
                "sts:GetCallerIdentity answered without an account", remediation=WAIT
            )
        check_account(account, self._expected_account)
        self._answering_account = account
        return account

    def _pages(self, account: str, deadline: float) -> Iterator[list[Repository]]:
        """Give every page of that account's registry: credentials may change under a client."""
        seen: set[str] = set()
        token: str | None = None
        empty = 0
        while True:
            _check_deadline(deadline)
            more = {"nextToken": token} if token else {}
            answer = self._call(
                self._ecr, "describe_repositories", registryId=account, maxResults=PAGE_SIZE, **more
            )
            page = parse_page(answer)
            yield page
            empty = 0 if page else empty + 1
            if empty > MAX_EMPTY_PAGES:
                raise InventoryFailed(
                    f"{_LIST} gave {empty} empty pages in a row", remediation=WAIT
                )
            token = answer.get("nextToken")
            if not token:
                return
            if not isinstance(token, str):
                raise InventoryFailed(
                    f"{_LIST} answered with a page token that is not text", remediation=WAIT
                )
            if token in seen:
                raise InventoryFailed(f"{_LIST} repeats its page token", remediation=WAIT)
            seen.add(token)

    def _proved_absent(self, account: str, names: Sequence[str], deadline: float) -> Iterator[str]:
        """Look up each name alone: with several, the call fails at the first missing one."""
        for name in names:
            if not is_repository_name(name):
                yield name
                continue
            _check_deadline(deadline)
            try:
                answer = self._client_call(
                    self._ecr, "describe_repositories", registryId=account, repositoryNames=[name]
                )
            except ClientError as error:
                if code_of(error) != "RepositoryNotFoundException":
                    raise _failed(error, f"{_LIST} of {name}") from None
                yield name
                continue
            if name in {each.name for each in parse_page(answer)}:
                raise InventoryFailed(
                    f"{_LIST} lists no {name}, yet finds it by name: the listing is incomplete",
                    remediation=WAIT,
                )
            raise InventoryFailed(
                f"{_LIST} of {name} says neither that it is there nor that it is not",
                remediation=WAIT,
            )

    def _call(self, client: Any, operation: str, **parameters: Any) -> Mapping[str, Any]:
        try:
            return self._client_call(client, operation, **parameters)
        except ClientError as error:
            raise _failed(error, _action(client, operation)) from None

    def _client_call(self, client: Any, operation: str, **parameters: Any) -> Mapping[str, Any]:
        """Call AWS; only a ClientError, AWS's own refusal, is left to the caller."""
        try:
            answer: Mapping[str, Any] = call_within(
                client, partial(getattr(client, operation), **parameters)
            )
        except (ClientError, CatalogError):
            raise
        except (BotoCoreError, OutOfTimeError) as error:
            raise InventoryFailed(
                f"{_action(client, operation)} failed: {type(error).__name__}: {message_of(error)}",
                remediation="Check the network, the region and the credentials of this mirror. "
                + WAIT,
            ) from None
        except Exception as error:  # noqa: BLE001 - botocore meets a broken answer with any error
            raise InventoryFailed(
                f"{_action(client, operation)} failed: {message_of(error)}",
                remediation="Check that AWS itself answers, not a proxy. " + WAIT,
            ) from None
        return answer

    @cached_property
    def _session(self) -> boto3.Session:
        try:
            session = new_session(self.region, self._endpoint_url)
        except BotoCoreError as error:
            raise InventoryFailed(
                f"no AWS session: {error}",
                remediation="Check AWS_PROFILE and the AWS configuration.",
            ) from None
        if not self._role_arn:
            return session
        assumed = BotocoreSession()
        assumed._credentials = RefreshableCredentials.create_from_metadata(  # type: ignore[attr-defined] # noqa: SLF001 - botocore has no public way to put refreshable credentials into a session
            metadata=self._assume_role(session),
            refresh_using=lambda: self._assume_role(session),
            method="assume-role",
        )
        return boto3.Session(botocore_session=assumed, region_name=self.region)

    def _assume_role(self, session: boto3.Session) -> dict[str, str]:
        """Give temporary credentials, in the form that botocore keeps and renews."""
        client = self._client(session, "sts")
        answer = self._call(
            client, "assume_role", RoleArn=self._role_arn, RoleSessionName="ecr-catalog-pipeline"
        )
        given = answer.get("Credentials")
        given = given if isinstance(given, dict) else {}
        credentials: dict[str, str] = {
            "access_key": given.get("AccessKeyId", ""),
            "secret_key": given.get("SecretAccessKey", ""),
            "token": given.get("SessionToken", ""),
        }
        ends = given.get("Expiration")
        if not all(credentials.values()) or not isinstance(ends, datetime):
            raise InventoryFailed("sts:AssumeRole answered without credentials", remediation=WAIT)
        if ends <= datetime.now(UTC):
            raise InventoryFailed(
                f"sts:AssumeRole answered with credentials that ended at {ends.isoformat()}",
                remediation="Check the clock of this machine.",
            )
        return {**credentials, "expiry_time": ends.isoformat()}

    @cached_property
    def _ecr(self) -> ECRClient:
        client: ECRClient = self._client(self._session, "ecr")
        client.meta.events.register("before-parse.ecr.DescribeRepositories", _take_listing)
        return client

    @cached_property
    def _quick_ecr(self) -> ECRClient:
        """A client of its own, so that what is throttled does not slow the listing down."""
        client: ECRClient = self._client(self._session, "ecr", quick=True)
        return client

    @cached_property
    def _sts(self) -> STSClient:
        client: STSClient = self._client(self._session, "sts")
        return client

    def _client(self, session: boto3.Session, service: Any, *, quick: bool = False) -> Any:
        config = client_config(quick=quick)
        try:
            return session.client(service, endpoint_url=self._endpoint_url, config=config)
        except BotoCoreError as error:
            raise InventoryFailed(
                f"no AWS client for {service}: {error}",
                remediation="Check the AWS profile and configuration of this process.",
            ) from None


def _setting(client: ECRClient, setting: Setting, account: str) -> Mapping[str, Any]:
    match setting:
        case Setting.SCANNING:
            return client.get_registry_scanning_configuration()
        case Setting.TEMPLATES:
            return client.describe_repository_creation_templates(maxResults=PAGE_SIZE)
        case Setting.CACHE_RULES:
            return client.describe_pull_through_cache_rules(
                registryId=account, maxResults=PAGE_SIZE
            )
        case _:
            return client.describe_registry()


class _LifecyclePolicies:
    """Reads the lifecycle policies of repositories, one after the other.

    One that is denied or malformed counts as an answer, so that the rotation goes on. A refusal
    ends the reading: the next ones would be refused, too.
    """

    def __init__(self, client: ECRClient, account: str, names: Sequence[str]) -> None:
        self._client = client
        self._account = account
        self._names = names
        self._deadline = time.monotonic() + LEARN_SECONDS
        self._found: dict[str, Retention] = {}

    @property
    def found(self) -> dict[str, Retention]:
        """The answers up to now; a thread that was left behind may still be at it."""
        return dict(self._found)

    def read(self) -> Mapping[str, Any]:
        """Read them until the time is up.

        Raises:
            Unreadable: one of them says nothing.
            Exception: what botocore raised at the first one that was refused.
        """
        problem = ""
        for name in self._names:
            if time.monotonic() > self._deadline:
                break
            at = datetime.now(UTC)
            try:
                self._found[name] = Retention(at, self._keeps(name))
            except ClientError as error:
                code = code_of(error)
                if code == "RepositoryNotFoundException":
                    self._found[name] = Retention(at, problem=NO_SUCH_REPOSITORY)
                    continue
                if code in _DENIED:
                    self._found[name] = Retention(at, problem=DENIED)
                raise
            except (Unreadable, ResponseParserError):
                problem = MALFORMED
                self._found[name] = Retention(at, problem=problem)
        if problem:
            raise Unreadable(problem)
        return {}

    def _keeps(self, name: str) -> int | None:
        try:
            answer = self._client.get_lifecycle_policy(
                registryId=self._account, repositoryName=name
            )
        except ClientError as error:
            if code_of(error) == "LifecyclePolicyNotFoundException":
                return None
            raise
        return keeps_images(answer.get("lifecyclePolicyText"))


def _why_unknown(answer: Future[Any]) -> str:
    """Say in a few words why there is no answer; empty when there is one."""
    if not answer.done():
        return f"no answer within {LEARN_SECONDS} s"
    error = answer.exception()
    if error is None:
        return ""
    if isinstance(error, ClientError):
        code = code_of(error)
        if code in _DENIED:
            return DENIED
        return "throttled" if code in _THROTTLED else clean_text(code) or str(status_of(error))
    return type(error).__name__ if isinstance(error, BotoCoreError) else MALFORMED


def _counted(pages: Iterable[list[Repository]], on_page: OnPage) -> Iterator[list[Repository]]:
    repositories = 0
    for number, page in enumerate(pages, 1):
        repositories += len(page)
        on_page(number, repositories)
        yield page


def _deadline() -> float:
    return time.monotonic() + MAX_READ_AGE.total_seconds()


def _check_deadline(deadline: float) -> None:
    """Stop a read that has become too old to plan with, such as a listing without an end."""
    if time.monotonic() > deadline:
        raise InventoryFailed(
            f"ECR was not read within {MAX_READ_AGE.total_seconds():.0f} s", remediation=WAIT
        )


def _take_listing(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Take the listing as the JSON that it is, before botocore does.

    botocore would read a body that is cut off, malformed or foreign as an empty listing; this
    refuses it. And it would make as much of each member as half of a run takes: it gets the rest.
    """
    if response_dict["status_code"] != HTTPStatus.OK:
        return
    try:
        body = json.loads(response_dict["body"])
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("repositories"), list):
        raise InventoryFailed(
            f"{_LIST} answered with something that is not a listing", remediation=WAIT
        )
    customized_response_dict["repositories"] = body.pop("repositories")
    response_dict["body"] = json.dumps(body).encode()


def _action(client: Any, operation: str) -> str:
    service = client.meta.service_model.endpoint_prefix.removeprefix("api.")
    return f"{service}:{client.meta.method_to_api_mapping[operation]}"


def _failed(error: ClientError, action: str) -> InventoryFailed:
    code = code_of(error)
    if code in _DENIED:
        remediation = f"Allow {action.split(' ', maxsplit=1)[0]} to this mirror's role."
    elif code in _BAD_CREDENTIALS:
        remediation = "Renew the AWS credentials of this process. Check its clock, too."
    else:
        remediation = WAIT
    return InventoryFailed(
        f"{action} failed with {clean_text(code) or status_of(error)}: {message_of(error)}".rstrip(
            ": "
        ),
        remediation=remediation,
    )
