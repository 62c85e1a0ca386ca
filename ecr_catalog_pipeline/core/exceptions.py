"""What the governance file accepts for a reason, until a date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Why something is accepted.

    Attributes:
        expires: the last day on which it is, in UTC; None when it has no end.
    """

    reason: str
    expires: date | None = None


def accepted_in_words(acceptance: Acceptance) -> str:
    """Say why something is accepted, and until when."""
    until = f"until {acceptance.expires}" if acceptance.expires else "without an end"
    return f"{until}: {acceptance.reason}"
