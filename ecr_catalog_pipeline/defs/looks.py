"""When the change sensor last found both sources as the last successful run read them.

It says so in its cursor alone: an observation of every look would fill the event log.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import dagster as dg

# What a sensor keeps is reached by the state of its instigator only.
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import SensorInstigatorData
from pydantic import TypeAdapter

from ecr_catalog_pipeline.core.parity import Sources
from ecr_catalog_pipeline.defs.kept import FIRST_VERSION, read_kept
from ecr_catalog_pipeline.settings import Mirror


@dataclass(frozen=True, slots=True)
class _Look:
    """The part of the change sensor's cursor that says what it saw, and when it began to look."""

    blob: str
    fingerprint: str
    unchanged_until: datetime


_LOOK: Final = TypeAdapter(_Look)


def last_look_that_found(
    instance: dg.DagsterInstance, mirror: Mirror, sources: Sources, now: datetime
) -> datetime | None:
    """Find when the last look began that saw the sources of a run; None when none is known.

    A sensor of that name in another code location counts only if it saw the very same.
    """
    if instance.schedule_storage is None:  # an instance that ends with its run has no sensors
        return None
    looks = (
        read_kept(_LOOK, FIRST_VERSION, state.instigator_data.cursor).value
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.name == f"{mirror.name}_changes"
        and isinstance(state.instigator_data, SensorInstigatorData)
    )
    return max(
        (
            look.unchanged_until
            for look in looks
            if look
            and (look.blob, look.fingerprint) == (sources.blob, sources.fingerprint)
            and look.unchanged_until <= now
        ),
        default=None,
    )
