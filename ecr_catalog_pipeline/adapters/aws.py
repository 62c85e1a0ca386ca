"""How every AWS client of ours is made: timeouts, retries, credentials, and a last moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 10
ATTEMPTS: Final = 4
GIVE_UP_AFTER: Final = 40
"""Seconds after which a source is given up, whatever is still being retried."""


class OutOfTimeError(Exception):
    """A source has used up its time."""


def client_config() -> Config:
    """The timeouts and retries of every client."""
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "adaptive", "total_max_attempts": ATTEMPTS},
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


@contextmanager
def time_limit(client: Any, seconds: float = GIVE_UP_AFTER) -> Iterator[None]:
    """Let a client start no further attempt that could not end within `seconds`."""
    last_start = time.monotonic() + seconds - CONNECT_SECONDS - READ_SECONDS

    def check(**_: Any) -> None:
        if time.monotonic() > last_start:
            raise OutOfTimeError(f"given up after {seconds:.0f} s")

    service = client.meta.service_model.service_id.hyphenize()
    client.meta.events.register(f"before-send.{service}", check, unique_id="time-limit")
    try:
        yield
    finally:
        client.meta.events.unregister(f"before-send.{service}", unique_id="time-limit")
