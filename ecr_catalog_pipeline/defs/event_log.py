"""What is read back from Dagster: the last publication, parity, failed runs, looks, checks.

Everything here was written by a run or a sensor of ours, maybe of another version. It is read
leniently: what cannot be read counts as unknown and is never an error.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

# What a sensor keeps is reached by the state of its instigator only.
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import SensorInstigatorData

# The public API knows the latest row of a check only, whether or not it was evaluated yet.
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    AssetCheckExecutionRecord,
)
from pydantic import TypeAdapter, ValidationError

from ecr_catalog_pipeline.core.last_publication import LastPublication
from ecr_catalog_pipeline.core.parity import ParityState, Pause, Sources, Why
from ecr_catalog_pipeline.core.retention import Rotation, packed, unpacked
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, DATA_VERSION_TAG, PARITY_WATCH, key_of
from ecr_catalog_pipeline.defs.kept import (
    FIRST_VERSION,
    Kept,
    moment_of,
    read_kept_data,
    read_parts,
    text_of,
    write_kept,
)
from ecr_catalog_pipeline.mirroring import Outcome, Past, Publication, now_utc
from ecr_catalog_pipeline.settings import Mirror, sync_job_name

STILL_HELD_TAG: Final = "ecr_catalog/unchanged_until"
ENDED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
STATE_VERSION: Final = 1
SOURCE_ERRORS: Final = frozenset({"GovernanceRefused", "GovernanceUnavailable", "InventoryFailed"})
LOOK_BACK: Final = 200
"""Runs. Housekeeping keeps at least 30 that ended, and all of the last 7 days."""

_CONTENT_DIGEST: Final = "content_digest"
_LAST_GOOD_AT: Final = "last_good_at"
_HELD_SINCE: Final = "held_since"
_LAST_PUBLICATION: Final = "last_publication"
_STATE: Final = "state"
_ROTATION: Final = "retention_rotation"
_LAST_PUBLICATION_TYPE: Final = TypeAdapter(LastPublication)
_STATE_TYPE: Final = TypeAdapter(ParityState)


# The last publication, in `published_entity`


@dataclass(frozen=True, slots=True)
class Published:
    """What the latest materialization of `published_entity` says.

    Attributes:
        digest: of the content that is published; empty when nothing is.
        at: when it was published, if the run that said so did it.
        good_at: when a run last found it to be what governance and AWS call for.
        held_since: since when a plan is held, this one or the one before; None when none is.
        last: the last publication; None when nothing was ever published.
    """

    digest: str = ""
    at: datetime | None = None
    good_at: datetime | None = None
    held_since: datetime | None = None
    last: LastPublication | None = None

    def after(self, publication: Publication, last: LastPublication, now: datetime) -> "Published":
        """What it is after a run got as far as the publication."""
        after = replace(self, digest=publication.digest, at=publication.published_at, last=last)
        if publication.outcome is Outcome.HELD:
            return replace(after, held_since=self.held_since or now)
        if not publication.equals_desired:
            return replace(after, held_since=None)
        return replace(after, good_at=now, held_since=None)

    def metadata(self) -> dict[str, Any]:
        """What the next run reads."""
        moments = {_LAST_GOOD_AT: self.good_at, _HELD_SINCE: self.held_since}
        last = _LAST_PUBLICATION_TYPE.dump_python(self.last, mode="json") if self.last else None
        return {
            _CONTENT_DIGEST: self.digest,
            **{name: dg.MetadataValue.timestamp(at) for name, at in moments.items() if at},
            **({_LAST_PUBLICATION: dg.MetadataValue.json(last)} if last else {}),
        }


def published_key(mirror: Mirror) -> dg.AssetKey:
    """The asset that says what is published."""
    return key_of(mirror, "published_entity")


def parity_key(mirror: Mirror) -> dg.AssetKey:
    """The asset that says what was measured."""
    return key_of(mirror, "backstage_parity")


def read_published(instance: dg.DagsterInstance, mirror: Mirror) -> Published:
    """Read what the last run left published."""
    return published_of(instance.get_latest_materialization_event(published_key(mirror)))


def published_of(event: dg.EventLogEntry | None) -> Published:
    """Read what a materialization of `published_entity` says; None when there was none."""
    materialization = event.asset_materialization if event else None
    if event is None or materialization is None:
        return Published()
    metadata: Mapping[str, Any] = materialization.metadata
    digest = text_of(metadata, _CONTENT_DIGEST) or ""
    wrote = text_of(metadata, "outcome") == Outcome.PUBLISHED
    return Published(
        digest=digest,
        at=datetime.fromtimestamp(event.timestamp, UTC) if wrote else None,
        good_at=moment_of(metadata, _LAST_GOOD_AT),
        held_since=moment_of(metadata, _HELD_SINCE),
        last=_last_publication(metadata, digest) if digest else None,
    )


def _last_publication(metadata: Mapping[str, Any], digest: str) -> LastPublication:
    try:
        return _LAST_PUBLICATION_TYPE.validate_python(metadata[_LAST_PUBLICATION].value)
    except (KeyError, AttributeError, ValidationError):
        # Another version wrote it, or it is damaged: what it surely says is that there was one.
        return LastPublication(digest, target=text_of(metadata, "target") or "")


def read_past(
    instance: dg.DagsterInstance, mirror: Mirror, tags: Mapping[str, str] | None = None
) -> Past:
    """Read what a run goes by of the runs before it.

    Args:
        tags: of the run; the change sensor says there until when nothing had changed.
    """
    return Past(
        last=read_published(instance, mirror).last,
        baseline=read_parity(instance, mirror).baseline,
        still_held_at=_still_held_at(tags or {}),
        rotation=read_rotation(instance, mirror),
    )


def read_rotation(instance: dg.DagsterInstance, mirror: Mirror) -> Rotation:
    """Read what the runs before have read of lifecycle policies."""
    event = instance.get_latest_materialization_event(key_of(mirror, "reconciled_registry"))
    materialization = event.asset_materialization if event else None
    return unpacked(text_of(materialization.metadata, _ROTATION) if materialization else None)


def rotation_metadata(rotation: Rotation) -> dict[str, str]:
    """What the next run reads; nothing while nothing was asked."""
    return {_ROTATION: packed(rotation)} if rotation.answers else {}


def _still_held_at(tags: Mapping[str, str]) -> datetime | None:
    try:
        at = datetime.fromisoformat(tags.get(STILL_HELD_TAG, ""))
    except ValueError:
        return None
    return at if at.tzinfo and at <= now_utc() else None


# Parity, in `backstage_parity`


def read_kept_parity(instance: dg.DagsterInstance, mirror: Mirror) -> Kept[ParityState]:
    """Read what the last run measured, and what of that cannot be read."""
    return kept_parity_of(instance.get_latest_materialization_event(parity_key(mirror)))


def kept_parity_of(event: dg.EventLogEntry | None) -> Kept[ParityState]:
    """Read what a materialization of `backstage_parity` keeps; None when there was none."""
    materialization = event.asset_materialization if event else None
    if materialization is None or _STATE not in materialization.metadata:
        return Kept()
    return read_kept_data(_STATE_TYPE, STATE_VERSION, materialization.metadata[_STATE].value)


def read_parity(instance: dg.DagsterInstance, mirror: Mirror) -> ParityState:
    """Read what the last run measured; what cannot be read starts over."""
    return read_kept_parity(instance, mirror).value or ParityState()


def parity_metadata(state: ParityState) -> dict[str, dg.JsonMetadataValue]:
    """What the next run reads."""
    kept = json.loads(write_kept(_STATE_TYPE, STATE_VERSION, state))
    return {_STATE: dg.MetadataValue.json(kept)}


def times_served(instance: dg.DagsterInstance, mirror: Mirror, digest: str) -> list[datetime]:
    """When Backstage was lately seen to begin to serve that digest."""
    seen = instance.fetch_observations(key_of(mirror, "backstage_entity"), limit=20).records
    return [
        datetime.fromtimestamp(record.timestamp, UTC)
        for record in seen
        if (record.asset_observation.tags if record.asset_observation else {}).get(DATA_VERSION_TAG)
        == digest
    ]


# Runs


@dataclass(frozen=True, slots=True)
class FailedStep:
    """A step that failed.

    Attributes:
        asset: what it computes.
        kind: the class of our error; empty when another one was raised.
    """

    asset: str
    cause: str
    remediation: str
    kind: str


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a run that ended, by the assets that they compute.

    Attributes:
        failed: in the order in which they did; none of a run that was killed.
    """

    failed: Sequence[FailedStep]
    succeeded: frozenset[str]


def steps_of(instance: dg.DagsterInstance, run_id: str) -> Steps:
    """Read how the steps of a run ended."""
    ends = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SUCCESS}
    records = instance.get_records_for_run(run_id, of_type=ends, limit=50).records
    events = [event for each in records if (event := each.event_log_entry.dagster_event)]
    return Steps(
        failed=[_failed(event) for event in events if event.is_step_failure],
        succeeded=frozenset(_asset_of(event) for event in events if event.is_step_success),
    )


def _asset_of(event: dg.DagsterEvent) -> str:
    return (event.step_key or "").rpartition("__")[2]


def _failed(event: dg.DagsterEvent) -> FailedStep:
    failure = event.step_failure_data
    by_us = failure.user_failure_data
    metadata = by_us.metadata if by_us else {}
    cause = (
        text_of(metadata, "problem")
        or (by_us and by_us.description)
        or (failure.error and failure.error.message)
        or "unknown"
    )
    return FailedStep(
        _asset_of(event),
        cause.strip(),
        text_of(metadata, "remediation") or "",
        text_of(metadata, "kind") or "",
    )


def cause_of_failure(instance: dg.DagsterInstance, run_id: str) -> str:
    """Say in one line what Dagster noted when a run failed outside its steps."""
    failures = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1, ascending=False
    ).records
    event = failures[0].event_log_entry.dagster_event if failures else None
    if event is None:
        return "Dagster does not say why"
    error = event.job_failure_data.error if event.event_specific_data else None
    return " ".join(f"{event.message or ''} {error.message if error else ''}".split())


def ended_runs(instance: dg.DagsterInstance, mirror: Mirror, limit: int) -> Sequence[dg.RunRecord]:
    """Give the last runs of a mirror that succeeded or failed, newest first."""
    ended = dg.RunsFilter(job_name=sync_job_name(mirror.name), statuses=ENDED)
    return instance.get_run_records(ended, limit=limit)


def began_at(record: dg.RunRecord) -> datetime:
    """When a run began; when it was stored, if it never did."""
    if record.start_time:
        return datetime.fromtimestamp(record.start_time, UTC)
    return record.create_timestamp


def source_outages(instance: dg.DagsterInstance, mirror: Mirror, until: datetime) -> list[Pause]:
    """For how long, since the last successful run, a source could not be read; oldest first.

    Each run that failed on a source counts until the next run began.

    Args:
        until: when the run that is under way began.
    """
    return list(reversed(list(_outages(instance, mirror, until))))


def _outages(instance: dg.DagsterInstance, mirror: Mirror, until: datetime) -> Iterator[Pause]:
    next_began = until
    for record in ended_runs(instance, mirror, LOOK_BACK):
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            return
        began = began_at(record)
        steps = steps_of(instance, record.dagster_run.run_id)
        if any(step.kind in SOURCE_ERRORS for step in steps.failed):
            yield Pause(Why.DOWN, began, next_began)
        next_began = began


# Checks


def evaluated_checks(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, AssetCheckExecutionRecord]:
    """Give the last evaluation of each check; a run under way has only planned its own."""
    storage = instance.event_log_storage
    found = dict(storage.get_latest_asset_check_execution_by_key(keys))
    for key, record in list(found.items()):
        if record.status not in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES:
            del found[key]
            for evaluated in storage.get_asset_check_execution_history(
                key, limit=1, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
            ):
                found[key] = evaluated
    return found


# The looks of the change sensor


@dataclass(frozen=True, slots=True)
class _Look:
    """The part of the change sensor's cursor that says what it saw, and when it began to look."""

    blob: str
    fingerprint: str
    unchanged_until: datetime


_LOOK: Final = TypeAdapter(_Look)

KeptBySensors = Sequence[Mapping[str, object]]
"""What sensors of one name keep, by mirror: one of each code location."""


def kept_looks(instance: dg.DagsterInstance) -> KeptBySensors:
    """Read what the change sensor keeps of its last look at each mirror.

    The cursor alone says so: an observation of every look would fill the event log.
    """
    return _kept_by(instance, CHANGE_SENSOR)


def _kept_by(instance: dg.DagsterInstance, sensor: str) -> KeptBySensors:
    if instance.schedule_storage is None:  # an instance that ends with its run has no sensors
        return []
    return [
        read_parts(state.instigator_data.cursor).value or {}
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.name == sensor and isinstance(state.instigator_data, SensorInstigatorData)
    ]


def last_look_that_found(
    looks: KeptBySensors, mirror: Mirror, sources: Sources, now: datetime
) -> datetime | None:
    """Find when the last look began that saw the sources of a run; None when none is known.

    A mirror of that name in another code location counts only if it saw the very same.
    """
    found = (read_kept_data(_LOOK, FIRST_VERSION, each.get(mirror.name)).value for each in looks)
    return max(
        (
            look.unchanged_until
            for look in found
            if look
            and (look.blob, look.fingerprint) == (sources.blob, sources.fingerprint)
            and look.unchanged_until <= now
        ),
        default=None,
    )


# What the parity watch knows


@dataclass(frozen=True, slots=True)
class _Verified:
    """The part of the parity watch's cursor that says when parity was last verified."""

    verified_at: datetime | None = None


_VERIFIED: Final = TypeAdapter(_Verified)


def verified_by_watch(instance: dg.DagsterInstance) -> dict[str, datetime]:
    """Read when parity was last verified as far as the parity watch knows, by the mirror's name."""
    found: dict[str, datetime] = {}
    for parts in _kept_by(instance, PARITY_WATCH):
        for mirror, part in parts.items():
            kept = read_kept_data(_VERIFIED, FIRST_VERSION, part).value
            if kept and kept.verified_at:
                found[mirror] = max(kept.verified_at, found.get(mirror, kept.verified_at))
    return found
