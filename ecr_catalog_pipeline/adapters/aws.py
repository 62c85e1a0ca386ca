"""How every AWS client of ours is made: timeouts, retries, credentials, and a last moment."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ecr_catalog_pipeline.adapters.threads import in_thread
from ecr_catalog_pipeline.core.text import clean_text

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 10
ATTEMPTS: Final = 4
QUICK_SECONDS: Final = 3
MAX_MESSAGE: Final = 300
_CREDENTIALS: Final = re.compile(
    r"((?:security-token|authorization|credential|signature)[\w-]*\"?\s*[:=]\s*)"
    r"(?:AWS4-HMAC-SHA256\s+)?[^\s,&]+",
    re.IGNORECASE,
)
GIVE_UP_AFTER: Final = 40
"""Seconds after which a source is given up, whatever is still being retried."""


_Answer = TypeVar("_Answer")
_Key = TypeVar("_Key")


class OutOfTimeError(Exception):
    """A source has used up its time."""


def client_config(*, quick: bool = False) -> Config:
    """The timeouts and retries of every client.

    Args:
        quick: for what a run can do without, and does not wait for long.
    """
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=QUICK_SECONDS if quick else READ_SECONDS,
        retries={
            "mode": "standard" if quick else "adaptive",
            "total_max_attempts": min(ATTEMPTS, 2) if quick else ATTEMPTS,
        },
        user_agent_extra="ecr-catalog-pipeline",
    )


def new_session(
    region: str | None, endpoint_url: str | None, profile: str | None = None
) -> boto3.Session:
    """Give a session with the credentials that an endpoint may see.

    An emulator, which is plain HTTP on loopback, gets dummy ones, so that real ones never reach
    it. Everything else finds its credentials as boto3 does.
    """
    if is_emulator(endpoint_url):
        return boto3.Session("emulator", "emulator", region_name=region)
    return boto3.Session(region_name=region, profile_name=profile)


def is_emulator(endpoint_url: str | None) -> bool:
    """Whether an endpoint is plain HTTP on loopback."""
    parts = urlsplit(endpoint_url or "")
    if parts.scheme != "http" or not parts.hostname:
        return False
    if parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname).is_loopback
    except ValueError:
        return False


def message_of(error: Exception) -> str:
    """What an AWS error says, on one line and without credentials.

    An answer may repeat the request that was signed, and botocore's errors quote answers whole:
    one that cannot be read, perhaps the half of one that holds credentials, is not quoted at all.
    """
    if isinstance(error, ClientError):
        words = str(error.response.get("Error", {}).get("Message") or "")
    elif isinstance(error, BotoCoreError | OutOfTimeError):
        words = str(error)
    else:
        return f"its answer cannot be read ({type(error).__name__})"
    # After a wrong signature, more lines repeat the session's token.
    first_line = next(iter(words.strip().splitlines()), "")
    return clean_text(_CREDENTIALS.sub(r"\1...", first_line), MAX_MESSAGE)


def code_of(error: ClientError) -> str:
    """The code of an AWS error, such as AccessDenied; empty when there is none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status of an AWS error; 0 when there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


@contextmanager
def time_limit(client: Any, seconds: float = GIVE_UP_AFTER) -> Iterator[None]:
    """Let this thread start no further attempt that could not end within `seconds`."""
    thread = threading.get_ident()
    last_start = time.monotonic() + seconds - CONNECT_SECONDS - READ_SECONDS

    def check(**_: Any) -> None:
        if threading.get_ident() == thread and time.monotonic() > last_start:
            raise OutOfTimeError(f"given up after {seconds:.0f} s")

    service = client.meta.service_model.service_id.hyphenize()
    limit = f"time-limit-{thread}"
    client.meta.events.register(f"before-send.{service}", check, unique_id=limit)
    try:
        yield
    finally:
        client.meta.events.unregister(f"before-send.{service}", unique_id=limit)


def call_within(
    client: Any, call: Callable[[], _Answer], seconds: float = GIVE_UP_AFTER
) -> _Answer:
    """Call AWS through a client, and give up after `seconds` whatever happens.

    A read timeout ends a silence; an answer that trickles in without an end is left behind, with a
    thread of its own, which keeps the limit: what was given up is not tried again.

    Raises:
        OutOfTimeError: the time is up.
        Exception: what the call raised.
    """

    def limited() -> _Answer:
        with time_limit(client, seconds):
            return call()

    answer = in_thread(limited, "AWS call")
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():
            raise
        raise OutOfTimeError(f"given up after {seconds:.0f} s") from None


def all_within(
    calls: Mapping[_Key, Callable[[], _Answer]], seconds: float
) -> dict[_Key, Future[_Answer]]:
    """Make several calls at once, and leave those behind that take longer than `seconds`.

    Returns:
        what each came to; the ones left behind are not done.
    """
    answers = {key: in_thread(call, "AWS call") for key, call in calls.items()}
    wait(answers.values(), timeout=seconds)
    return answers
