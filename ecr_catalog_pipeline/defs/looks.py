"""Looks at what lies outside, each in a thread of its own, so that none waits for another."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from datetime import datetime
from threading import Event, Lock
from typing import Final, Generic, TypeVar

from ecr_catalog_pipeline.adapters.threads import in_thread, settle
from ecr_catalog_pipeline.mirroring import now_utc

T = TypeVar("T")

MAX_NAMED: Final = 10
"""Mirrors that the words of an evaluation name, at the most."""


class Looks(Generic[T]):
    """The looks of one mirror: one at a time. A result waits until it is taken.

    Args:
        woken: set whenever a look ends.
    """

    def __init__(self, woken: Event) -> None:
        self._woken = woken
        self._under_way: Future[T] | None = None
        self.began_at = now_utc()
        self._began = time.monotonic()

    @property
    def are_idle(self) -> bool:
        """Whether no look is under way, and no result waits."""
        return self._under_way is None

    @property
    def has_result(self) -> bool:
        """Whether a look has ended whose result was not taken yet."""
        return self._under_way is not None and self._under_way.done()

    @property
    def seconds(self) -> float:
        """Since when the last look began."""
        return time.monotonic() - self._began

    def begin(self, look: Callable[[], T]) -> None:
        """Begin a look; it keeps no process from ending."""
        self.began_at, self._began = now_utc(), time.monotonic()
        self._under_way = in_thread(look, "look")
        self._under_way.add_done_callback(lambda _: self._woken.set())

    def take(self) -> T:
        """Give the result, or raise what the look raised."""
        assert self._under_way is not None
        done, self._under_way = self._under_way, None
        return done.result(0)


class Shared(Generic[T]):
    """Questions that several looks have in common: an answer serves all of them for a moment.

    Args:
        seconds: for how long, counted from when the question was asked.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = Lock()
        self._asked: dict[Hashable, tuple[float, datetime, Future[T]]] = {}

    def ask(self, key: Hashable, question: Callable[[], T]) -> tuple[T, datetime]:
        """Give the answer, or raise its error, and when the question was asked.

        The first who asks waits for the answer, and so do all who ask meanwhile.
        """
        with self._lock:
            known = self._asked.get(key)
            is_ours = known is None or time.monotonic() - known[0] >= self._seconds
            if known is None or is_ours:
                known = self._asked[key] = (time.monotonic(), now_utc(), Future[T]())
        _, asked_at, future = known
        if is_ours:
            settle(future, question)
        return future.result(), asked_at


def in_words(words: Mapping[str, str], usual: str) -> str:
    """Say what was found of each mirror; those as usual in one number, of many the first ones.

    Args:
        words: by the mirror's name.
        usual: how the words begin of a mirror that needs no attention.
    """
    if len(words) == 1:
        return next(iter(words.values()))
    odd = sorted(each for each in words.items() if not each[1].startswith(usual))
    named = [f"{name}: {said}" for name, said in odd]
    as_usual = [f"{usual} in {len(words) - len(odd)} of {len(words)} mirrors"]
    more = [f"and {len(named) - MAX_NAMED} more"] if len(named) > MAX_NAMED else []
    return "; ".join([*as_usual, *named[:MAX_NAMED], *more])
