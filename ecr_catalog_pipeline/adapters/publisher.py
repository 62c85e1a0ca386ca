"""What every publication target offers: read what is there, and compare-and-swap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Published:
    """What a target holds now; content and version are None together when it holds nothing."""

    content: bytes | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a publication comes from; a target keeps it as well as it can."""

    mirror: str
    summary: str
    source_sha: str
    plan_hash: str
    run_id: str


class Publisher(Protocol):
    """A publication target."""

    @property
    def where(self) -> str:
        """The target in words, without secrets."""

    def read(self) -> Published:
        """Read what is published now.

        Raises:
            TargetUnavailable: it cannot be read.
            TargetRefused: what stands there is nothing that we could replace.
        """

    def publish(self, new: bytes, expected: str | None, provenance: Provenance) -> str:
        """Replace what `expected` names by `new`, and give the new version.

        Raises:
            LostRace: the target no longer holds the expected version.
            TargetUnavailable: it cannot be written now.
            TargetRefused: it does not let us write.
        """
