"""The fake AWS of `benchmarks.listing`, in a process of its own, its listing rendered beforehand.

    python -m benchmarks.listing_aws REPOSITORIES MILLISECONDS

Prints its URL, then serves until its input ends. Each call takes so many milliseconds. A page is
rendered once, so that the fake is not what is measured; all else is the strict fake of the tests.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any, Final, Self

from tests.fakes.aws import FakeAws
from tests.fakes.aws_wire import JSON, Reply, Server

FIRST_CREATED: Final = datetime(2025, 1, 1, tzinfo=UTC)


def name_of(number: int) -> str:
    """Name a repository of the benchmark."""
    return f"team-{number % 97:02}/service-{number:06}"


class RenderedAws(FakeAws):
    """An AWS whose listing was rendered before it is asked for."""

    def __init__(self, repositories: int, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        for number in range(repositories):
            at = FIRST_CREATED + timedelta(seconds=number)
            self.create(name_of(number), at, scan_on_push=True)
        listed = [each.described for each in self._registry(self.account_id).values()]
        self._pages = {size: _rendered(listed, size) for size in (100, 1_000)}

    def __enter__(self) -> Self:
        self._server = Server(self._respond_after_a_while)
        return self

    def _respond_after_a_while(self, headers: Message, body: bytes) -> Reply | None:
        time.sleep(self._seconds)
        target = headers.get("X-Amz-Target", "")
        if target.endswith(".ListTagsForResource"):
            return Reply(200, JSON.content_type, b'{"tags": []}')
        asked = json.loads(body) if target.endswith(".DescribeRepositories") else {}
        page = self._page(asked)
        if page is None:
            reply = self._respond(headers, body)
            self._calls.clear()
            return reply
        return Reply(200, JSON.content_type, page)

    def _page(self, asked: Mapping[str, Any]) -> bytes | None:
        pages = self._pages.get(asked.get("maxResults", 0))
        place = int(str(asked.get("nextToken", "page-0")).removeprefix("page-"))
        return pages[place] if pages else None


def _rendered(listed: list[dict[str, Any]], size: int) -> list[bytes]:
    starts = range(0, max(1, len(listed)), size)
    return [
        json.dumps(
            {
                "repositories": listed[start : start + size],
                **({"nextToken": f"page-{place + 1}"} if place + 1 < len(starts) else {}),
            }
        ).encode()
        for place, start in enumerate(starts)
    ]


def main() -> None:
    """Serve until the input ends."""
    repositories, milliseconds = int(sys.argv[1]), float(sys.argv[2])
    with RenderedAws(repositories, milliseconds / 1_000) as aws:
        print(aws.endpoint_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
