"""The errors a user may see, sorted by who can fix them.

Every error says what went wrong, where, and how to fix it. An error that is none of these is a
defect of ours.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from ecr_catalog_pipeline.core.text import visible


class CatalogError(Exception):
    """An error with its remediation.

    It may quote files, remote programs and names: what is not printable in it is shown escaped,
    wherever the error ends up.

    Args:
        problem: what is wrong and where, one sentence without a final stop.
        remediation: what the reader can do about it.
    """

    needs: ClassVar[Literal["human", "time"]] = "human"

    def __init__(self, problem: str, *, remediation: str) -> None:
        self.problem = visible(problem)
        self.remediation = visible(remediation)
        super().__init__(self.problem, self.remediation)

    def __str__(self) -> str:
        return f"{self.problem}. {self.remediation}"


class SettingsError(CatalogError):
    """A mirror file that cannot be used."""


class GovernanceRefused(CatalogError):
    """The governance file was read and cannot be used.

    Args:
        line, column: counted from 1; the place of the fault.
    """

    def __init__(
        self, problem: str, *, remediation: str, path: str, line: int, column: int
    ) -> None:
        super().__init__(f"{path}:{line}:{column}: {problem}", remediation=remediation)
        self.path = visible(path)
        self.line = line
        self.column = column


class GovernanceUnavailable(CatalogError):
    """The governance file could not be read at all."""

    needs = "time"


class InventoryFailed(CatalogError):
    """ECR was not read completely, so nothing about absence is known."""

    needs = "time"


class EntityInvalid(CatalogError):
    """Backstage would refuse, or silently freeze, this entity."""


class TargetUnavailable(CatalogError):
    """The publication target could not be read or written."""

    needs = "time"


class TargetRefused(CatalogError):
    """The target holds something that is not ours, or denies write access."""


class LostRace(CatalogError):
    """The target changed after the plan was computed; the next run plans again."""

    needs = "time"

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem,
            remediation="Nothing was overwritten. The next run plans again; if this repeats, find "
            "out who else writes there.",
        )


class StalePlan(CatalogError):
    """The plan's reads are too old to act on."""

    needs = "time"


class BackstageUnavailable(CatalogError):
    """Backstage does not answer, or not to us."""

    needs = "time"
