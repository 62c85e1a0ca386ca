"""What every publication target offers: read what is there, and compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Published:
    """What a target holds now; content and version are None together when it holds nothing."""

    content: bytes | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a publication comes from; a target keeps it as well as it can.

    Attributes:
        fence: called right before each attempt to write; raises when it has become too late.
    """

    mirror: str
    summary: str
    source_sha: str
    plan_hash: str
    run_id: str
    fence: Callable[[], None] = field(default=lambda: None, compare=False)


class Publisher(Protocol):
    """A publication target."""

    @property
    def where(self) -> str:
        """The target in words, without secrets."""

    def read(self) -> Published:
        """Read what is published now.

        Raises:
            TargetUnavailable: it cannot be read.
            TargetRefused: what is there cannot be replaced by us.
        """

    def publish(self, new: bytes, expected: str | None, provenance: Provenance) -> str:
        """Replace what `expected` names by `new`, and give the new version.

        An answer that was lost is not a failure: what is there is read back first.

        Raises:
            LostRace: the target no longer holds the expected version.
            TargetUnavailable: it cannot be written now, or cannot be read back after a write of
                which it is unknown whether it was taken.
            TargetRefused: write access is denied.
        """
