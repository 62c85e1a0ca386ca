"""What one run tells the next of parity, as the event log keeps it: in `backstage_parity`."""

import json
from typing import Final

import dagster as dg
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core.parity import ParityState
from ecr_catalog_pipeline.defs.kept import Kept, read_kept_data, write_kept

STATE_VERSION: Final = 1
_STATE: Final = "state"
_STATE_TYPE: Final = TypeAdapter(ParityState)


def read_state(instance: dg.DagsterInstance, backstage_parity: dg.AssetKey) -> Kept[ParityState]:
    """Read what the latest materialization of a mirror's `backstage_parity` says."""
    event = instance.get_latest_materialization_event(backstage_parity)
    materialization = event.asset_materialization if event else None
    if materialization is None or _STATE not in materialization.metadata:
        return Kept()
    return read_kept_data(_STATE_TYPE, STATE_VERSION, materialization.metadata[_STATE].value)


def state_metadata(state: ParityState) -> dict[str, dg.JsonMetadataValue]:
    """What the next run reads."""
    kept = json.loads(write_kept(_STATE_TYPE, STATE_VERSION, state))
    return {_STATE: dg.MetadataValue.json(kept)}
