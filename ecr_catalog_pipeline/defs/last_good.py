"""The last known good, as the event log keeps it: in the metadata of `published_entity`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import dagster as dg

from ecr_catalog_pipeline.defs.kept import moment_of, text_of
from ecr_catalog_pipeline.mirroring import Outcome, Publication

LAST_GOOD_AT: Final = "last_good_at"
HELD_SINCE: Final = "held_since"
CONTENT_DIGEST: Final = "content_digest"


@dataclass(frozen=True, slots=True)
class LastGood:
    """What is published, and when a run last vouched for it.

    Attributes:
        at: when a run last found it to be what governance and AWS call for; None when unknown.
        digest: of its content; empty when nothing is published.
        held_since: since when a plan is held, this one or the one before; None when none is.
    """

    at: datetime | None = None
    digest: str = ""
    held_since: datetime | None = None

    def after(self, publication: Publication, now: datetime) -> "LastGood":
        """What it is after a run got as far as the publication."""
        if publication.outcome is Outcome.HELD:
            return LastGood(self.at, publication.digest, self.held_since or now)
        if not publication.equals_desired:
            return replace(self, held_since=None)
        return LastGood(now, publication.digest)

    def metadata(self) -> dict[str, Any]:
        """What the next run reads."""
        moments = {LAST_GOOD_AT: self.at, HELD_SINCE: self.held_since}
        return {name: dg.MetadataValue.timestamp(at) for name, at in moments.items() if at}


def read_last_good(instance: dg.DagsterInstance, published_entity: dg.AssetKey) -> LastGood:
    """Read what the latest materialization of a mirror's `published_entity` says."""
    event = instance.get_latest_materialization_event(published_entity)
    materialization = event.asset_materialization if event else None
    metadata: Mapping[str, Any] = materialization.metadata if materialization else {}
    return LastGood(
        moment_of(metadata, LAST_GOOD_AT),
        text_of(metadata, CONTENT_DIGEST) or "",
        moment_of(metadata, HELD_SINCE),
    )
