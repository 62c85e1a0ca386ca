"""Looks in threads of their own: one at a time, and questions that several share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

import pytest

from ecr_catalog_pipeline.defs.looks import MAX_NAMED, Looks, Shared, in_words


def test_a_look_wakes_who_waits_and_its_result_is_taken_once() -> None:
    woken, looks_may_end = Event(), Event()
    looks = Looks[str](woken)
    assert idle_and_done(looks) == (True, False)

    looks.begin(lambda: str(looks_may_end.wait(60)))
    assert idle_and_done(looks) == (False, False)

    looks_may_end.set()
    assert woken.wait(60)
    assert idle_and_done(looks) == (False, True)
    assert looks.take() == "True"
    assert idle_and_done(looks) == (True, False)


def idle_and_done(looks: Looks[str]) -> tuple[bool, bool]:
    return looks.are_idle, looks.has_result


def test_the_error_of_a_look_is_raised_where_its_result_is_taken() -> None:
    woken = Event()
    looks = Looks[str](woken)

    looks.begin(lambda: str(1 // 0))
    assert woken.wait(60)

    with pytest.raises(ZeroDivisionError):
        looks.take()
    assert looks.are_idle


def test_who_asks_the_same_meanwhile_gets_the_same_answer() -> None:
    shared = Shared[int](3600)
    asked: list[str] = []
    may_answer = Event()

    def question() -> int:
        asked.append("a")
        may_answer.wait(60)
        return len(asked)

    before = datetime.now(UTC)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(shared.ask, "a", question) for _ in range(5)]
        may_answer.set()
        got = {each.result(60) for each in answers}

    assert asked == ["a"]
    ((answer, asked_at),) = got
    assert answer == 1
    assert before <= asked_at <= datetime.now(UTC)
    assert shared.ask("a", question) == (1, asked_at)
    assert shared.ask("another", question)[0] == 2


def test_an_error_is_shared_and_a_question_is_asked_again_after_its_time() -> None:
    shared = Shared[int](3600)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            shared.ask("a", lambda: 1 // 0)
    assert Shared[int](0).ask("a", lambda: 1)[0] == 1

    never_kept = Shared[int](0)
    count = iter(range(9))
    assert [never_kept.ask("a", lambda: next(count))[0] for _ in range(3)] == [0, 1, 2]


def test_no_thread_of_a_look_keeps_the_process_from_ending() -> None:
    may_end, woken = Event(), Event()
    looks = Looks[bool](woken)
    looks.begin(lambda: may_end.wait(60))
    (thread,) = [each for each in threading.enumerate() if each.name == "look"]
    assert thread.daemon
    may_end.set()
    assert woken.wait(60)


def test_the_words_name_what_needs_attention_and_count_the_rest() -> None:
    assert in_words({"a": "no change: 3"}, "no change") == "no change: 3"
    assert in_words({"a": "no change: 3", "b": "denied"}, "no change") == (
        "no change in 1 of 2 mirrors; b: denied"
    )
    many = {f"m{n:02}": "denied" for n in range(50)}
    words = in_words(many, "no change")
    assert words.count("denied") == MAX_NAMED
    assert words.endswith("; and 40 more")
