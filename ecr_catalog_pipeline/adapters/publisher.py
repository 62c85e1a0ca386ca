"""What every publication target offers: read what is there, and compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ecr_catalog_pipeline.core.health import Placement


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
class Beside:
    """A second file of the same target, which goes along with the entity if it can.

    Attributes:
        place: what becomes of the file, given its content now; of None when there is no file.
    """

    path: str
    place: Callable[[bytes | None], Placement]


@dataclass(frozen=True, slots=True)
class BesidePublished:
    """What became of a second file.

    Attributes:
        commit: the one that wrote it; None when it stayed as it was.
        problem: why it does not say what it should; empty when it does.
        remediation: what to do about it.
    """

    commit: str | None = None
    problem: str = ""
    remediation: str = ""


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

        An answer that was lost is no failure: what stands there is read back first.

        Raises:
            LostRace: the target no longer holds the expected version.
            TargetUnavailable: it cannot be written now, or cannot be read back after a write of
                which it is unknown whether it was taken.
            TargetRefused: it does not let us write.
        """


class PublisherBeside(Publisher, Protocol):
    """A publication target that takes a second file in the same step.

    Whatever is wrong with that file is told; the entity goes out all the same. Its lost races are
    no failures: it is placed anew into what stands there by then.
    """

    def publish_with(
        self, new: bytes, expected: str | None, provenance: Provenance, beside: Beside
    ) -> tuple[str, BesidePublished]:
        """Publish the entity, and a second file with it; raises what `publish` does."""

    def publish_beside(self, provenance: Provenance, beside: Beside) -> BesidePublished:
        """Publish the second file alone, unless it is up to date; raises what `publish` does."""
