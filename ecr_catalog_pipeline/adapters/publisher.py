"""What every publication target offers: read what is there, and compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ecr_catalog_pipeline.core.entity import list_digest


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


@dataclass(frozen=True, slots=True)
class Lists:
    """What becomes of the full lists beside an entity.

    Attributes:
        new: the one that the new entity points to; None when it points to none.
        old: the digest of the one that the replaced entity points to; empty when it points to none.
    """

    new: bytes | None = None
    old: str = ""

    @property
    def new_digest(self) -> str:
        """The digest of the new one; empty when there is none."""
        return "" if self.new is None else list_digest(self.new)

    @property
    def left(self) -> str:
        """The digest of the one that nothing points to any more; empty when there is none."""
        return "" if self.old == self.new_digest else self.old


NO_LISTS: Final = Lists()


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

    def read_list(self, digest: str) -> bytes | None:
        """Read the full list of a digest beside the entity; None when it is not there.

        Raises:
            TargetUnavailable, TargetRefused: as for `read`.
        """

    def publish(
        self, new: bytes, expected: str | None, provenance: Provenance, lists: Lists = NO_LISTS
    ) -> str:
        """Replace what `expected` names by `new`, and give the new version.

        A new list is there before the entity that points to it. The old one goes afterwards, as far
        as that can be done: nothing depends on it.

        An answer that was lost is not a failure: what is there is read back first.

        Raises:
            LostRace: the target no longer holds the expected version.
            TargetUnavailable: it cannot be written now, or cannot be read back after a write of
                which it is unknown whether it was taken.
            TargetRefused: write access is denied.
        """
