"""How many images repositories keep: lifecycle policies, read a few a run on a rotation."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ecr_catalog_pipeline.core.ecr_settings import MALFORMED, Unreadable

MAX_ASKED: Final = 20
"""How many lifecycle policies a run reads."""
MAX_ANSWERS: Final = 10_000
"""How many answers are kept; the oldest ones beyond are forgotten."""
NO_SUCH_REPOSITORY: Final = "no such repository"
"""The problem of a repository that was deleted since the listing."""
_MAX_KEPT_BYTES: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """What a repository's lifecycle policy says.

    Attributes:
        at: when it was asked.
        keeps: how many images it leaves; None when no rule limits them.
        problem: why the policy could not be read; empty when it was.
    """

    at: datetime
    keeps: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Rotation:
    """The answers of earlier runs, by repository.

    Attributes:
        last: the repository that was asked last; those that were never asked follow on it by name.
    """

    answers: Mapping[str, Retention] = field(default_factory=dict)
    last: str = ""

    def next_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Choose whom to ask next: the oldest answer first, MAX_ASKED of them.

        Args:
            names: the repositories whose retention is governed, sorted.
        """

        def age(name: str) -> tuple[bool, float, bool, str]:
            answer = self.answers.get(name)
            if answer is None:
                return (False, 0.0, name <= self.last, name)
            return (True, answer.at.timestamp(), False, name)

        return tuple(sorted(names, key=age)[:MAX_ASKED])

    def after(self, found: Mapping[str, Retention], names: Collection[str]) -> Rotation:
        """Give the rotation after a run.

        Args:
            found: the new answers, in the order in which they were given.
            names: the repositories whose retention is governed; others are forgotten.
        """
        governed = set(names)
        answers = {
            name: answer for name, answer in {**self.answers, **found}.items() if name in governed
        }
        newest = sorted(answers, key=lambda name: answers[name].at, reverse=True)[:MAX_ANSWERS]
        return Rotation({name: answers[name] for name in sorted(newest)}, [self.last, *found][-1])


def keeps_images(policy: object) -> int | None:
    """How many images a lifecycle policy leaves; None when no rule limits them.

    Args:
        policy: its text, as ECR gives it.

    Raises:
        Unreadable: it is not a lifecycle policy.
    """
    try:
        rules = json.loads(policy if isinstance(policy, str) else "")["rules"]
        counts = [count for rule in rules if (count := _count(rule)) is not None]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise Unreadable(MALFORMED) from None
    return min(counts, default=None)


def _count(rule: Mapping[str, Any]) -> int | None:
    """How many images of any tag a rule leaves; None when it is another rule."""
    selection, action = rule["selection"], rule["action"]
    wanted = (selection.get("tagStatus"), selection.get("countType"), action.get("type"))
    if wanted != ("any", "imageCountMoreThan", "expire"):
        return None
    count = selection["countNumber"]
    if type(count) is not int or count < 1:
        raise ValueError
    return count


# What the next run reads. Runs are many, so names are packed: 10,000 of them in some 100 KB.


def packed(rotation: Rotation) -> str:
    """Write a rotation as short text."""
    kept = {
        "last": rotation.last,
        "answers": [
            [name, int(each.at.timestamp()), each.keeps, each.problem]
            for name, each in rotation.answers.items()
        ],
    }
    text = json.dumps(kept, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(text, 6)).decode()


def unpacked(text: str | None) -> Rotation:
    """Read what `packed` wrote; what cannot be read starts from nothing."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text or ""), _MAX_KEPT_BYTES)
        kept = json.loads(data)
        return Rotation(dict(_answers(kept["answers"])), str(kept["last"]))
    except (ValueError, zlib.error, RecursionError, TypeError, KeyError, OverflowError, OSError):
        return Rotation()


def _answers(kept: Iterable[Sequence[Any]]) -> Iterable[tuple[str, Retention]]:
    for name, at, keeps, problem in kept:
        number = keeps if type(keeps) is int and keeps > 0 else None
        yield str(name), Retention(datetime.fromtimestamp(at, UTC), number, str(problem))
