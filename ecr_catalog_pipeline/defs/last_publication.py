"""The last publication of a mirror, as the event log keeps it: in `published_entity`."""

from collections.abc import Mapping
from typing import Any, Final

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from ecr_catalog_pipeline.core.entity import EntityIdentity
from ecr_catalog_pipeline.core.last_publication import LastPublication
from ecr_catalog_pipeline.core.reconcile import State
from ecr_catalog_pipeline.defs.last_good import CONTENT_DIGEST
from ecr_catalog_pipeline.mirroring import Outcome, PlannedRegistry, Publication

_LAST: Final = "last_publication"
_TYPE: Final = TypeAdapter(LastPublication)


def read_last_publication(
    instance: dg.DagsterInstance, published_entity: dg.AssetKey
) -> LastPublication | None:
    """Read what the latest materialization of a mirror's `published_entity` says.

    Returns:
        None when nothing was ever published.
    """
    event = instance.get_latest_materialization_event(published_entity)
    materialization = event.asset_materialization if event else None
    metadata: Mapping[str, Any] = materialization.metadata if materialization else {}
    digest = _text(metadata, CONTENT_DIGEST)
    if not digest:
        return None
    try:
        return _TYPE.validate_python(metadata[_LAST].value)
    except (KeyError, AttributeError, ValidationError):
        # Another version wrote it, or it is damaged: what it surely says is that there was one.
        return LastPublication(digest, target=_text(metadata, "target"))


def after_run(
    last: LastPublication | None,
    planned: PlannedRegistry,
    publication: Publication,
    *,
    kind: str,
    where: str,
    identity: EntityIdentity,
) -> LastPublication:
    """Give the last publication after a run got as far as its own."""
    plan = planned.plan
    if publication.outcome is not Outcome.HELD:
        return LastPublication(
            digest=publication.digest,
            live=plan.counts[State.LIVE],
            last_sync=publication.last_sync,
            kind=kind,
            target=where,
            entity=identity.reference,
            account_id=planned.account_id,
        )
    if plan.target_is_absent and last is not None:
        return last
    return LastPublication(
        digest=publication.digest,
        live=plan.published_live,
        last_sync=plan.published_last_sync,
        kind="" if plan.target_is_absent else kind,
        target="" if plan.target_is_absent else where,
        entity=identity.reference,
        # Which account answers is part of what may be held.
        account_id=last.account_id if last else "",
    )


def last_publication_metadata(last: LastPublication) -> dict[str, dg.JsonMetadataValue]:
    """What the next run reads."""
    return {_LAST: dg.MetadataValue.json(_TYPE.dump_python(last, mode="json"))}


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = getattr(metadata.get(key), "value", None)
    return value if isinstance(value, str) else ""
