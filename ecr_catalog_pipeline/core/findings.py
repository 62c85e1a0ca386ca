"""What a finding is: a policy or metadata violation, with its remediation."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters, most severe first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One violation.

    Attributes:
        repository: "" when it concerns the file or the registry as a whole.
        control: the id of AWS Security Hub's control, such as ECR.1; None where there is none.
    """

    repository: str
    rule: str
    severity: Severity
    message: str
    remediation: str
    # Follows from the rule. None has no order.
    control: str | None = field(default=None, compare=False)
