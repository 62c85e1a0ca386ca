"""What a finding is: a policy or metadata violation, with its remediation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters, most severe first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One violation. `repository` is "" when it concerns the file as a whole."""

    repository: str
    rule: str
    severity: Severity
    message: str
    remediation: str
