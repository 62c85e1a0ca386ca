"""Where an orphan probably came from."""

from __future__ import annotations

from enum import StrEnum


class OrphanOrigin(StrEnum):
    """What created a repository that nobody governs, as far as the registry's settings tell."""

    CREATE_ON_PUSH = "create-on-push"
    PULL_THROUGH_CACHE = "pull-through-cache"
    REPLICATION = "replication"
    UNKNOWN = "unknown"
