"""The conditions of a mirror that Dagster's event log shows: its last runs, its last checks."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import dagster as dg

# Not exported: the status in the record of a check's evaluation, and the record.
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from ecr_catalog_pipeline.core.alerts import Condition, Signal
from ecr_catalog_pipeline.core.owners import OwnedFindings
from ecr_catalog_pipeline.core.parity import ParityState, Sources
from ecr_catalog_pipeline.defs import checks
from ecr_catalog_pipeline.defs.common import key_of
from ecr_catalog_pipeline.defs.event_log import (
    KeptBySensors,
    Published,
    Steps,
    began_at,
    cause_of_failure,
    ended_runs,
    evaluated_checks,
    kept_looks,
    kept_parity_of,
    last_look_that_found,
    parity_key,
    published_key,
    published_of,
    steps_of,
)
from ecr_catalog_pipeline.defs.jobs import MIRROR_TAG, runs_in_flight
from ecr_catalog_pipeline.defs.kept import text_of
from ecr_catalog_pipeline.defs.not_judged import judged_at, judgement
from ecr_catalog_pipeline.defs.owners import owned_in, owned_key
from ecr_catalog_pipeline.settings import Mirror

HUNG_AFTER: Final = timedelta(seconds=100)
QUEUED_AFTER: Final = timedelta(seconds=60)
LOOK_BACK: Final = 30
READ_AGAIN: Final = timedelta(seconds=60)
"""After which the event log is read again, whether or not any run says that something happened."""
MANY_RUNS: Final = 200
CLOCKS_DIFFER: Final = timedelta(seconds=10)
"""How much the clock of who wrote a run may be behind."""
UI_VARIABLE: Final = "ECR_CATALOG_UI_URL"
DEFAULT_UI: Final = "http://127.0.0.1:3000"

_SIGNAL_OF: Final = {
    "GovernanceRefused": Signal.GOVERNANCE_REFUSED,
    "GovernanceUnavailable": Signal.GOVERNANCE_REFUSED,
    "InventoryFailed": Signal.INVENTORY_FAILED,
}
"""By the kind of the error; every other one is a run that failed."""
_READ_BY: Final = {
    "governance_catalog": Signal.GOVERNANCE_REFUSED,
    "ecr_inventory": Signal.INVENTORY_FAILED,
}
"""The signal of a source, by the step that reads it."""
_NOT_STARTED: Final = frozenset(
    {
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
    }
)
# The watch asks Backstage itself; the other checks speak for the run they belong to.
_ALERTING_CHECKS: Final = (
    ("governance_catalog", checks.GOVERNANCE_FINDINGS),
    ("reconciled_registry", checks.ENTITY_VALID),
    ("published_entity", checks.REMOVAL_GUARD),
    ("published_entity", checks.PUBLISHED_EQUALS_DESIRED),
    ("backstage_parity", checks.TIME_TO_PARITY_WITHIN_SLO),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known without asking anyone outside.

    Attributes:
        published: what the last run left published.
        verified_at: when a run last verified parity.
        sources: what the last successful run compared; None before the first.
        looked_at: when the last look of the change sensor began that found these sources.
        unseen: signals of sources that the last run did not get to read.
        owned: the findings of each owner, where the mirror notifies owners.
        link: into the Dagster UI.
    """

    conditions: Mapping[Signal, Condition]
    published: Published
    verified_at: datetime | None
    sources: Sources | None
    looked_at: datetime | None
    owned: OwnedFindings | None
    link: str
    unseen: frozenset[Signal]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What is read once for all mirrors: their runs in flight, and the cursors of the sensors."""

    in_flight: Mapping[str, Sequence[dg.RunRecord]]
    looks: KeptBySensors

    @classmethod
    def read(cls, instance: dg.DagsterInstance, mirrors: Sequence[Mirror]) -> "_Shared":
        names = [mirror.name for mirror in mirrors]
        return cls(runs_in_flight(instance, names), kept_looks(instance))


class KnownOf:
    """What is known of mirrors, read again where something may have happened since."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[datetime, Known]] = {}

    def read(
        self, instance: dg.DagsterInstance, mirrors: Sequence[Mirror], now: datetime
    ) -> dict[str, Known | Exception]:
        """Give what is known of mirrors, by name, as `read_known` does."""
        known: dict[str, Known | Exception] = {}
        shared: _Shared | None = None
        try:
            shared = _Shared.read(instance, mirrors)
            happened = self._happened(instance, mirrors, shared.in_flight, now)
            looks = shared.looks
            for mirror in mirrors:
                if mirror.name not in happened:
                    known[mirror.name] = _with_look(self._read[mirror.name][1], looks, mirror, now)
        except Exception:  # noqa: BLE001 - then all is read again, and says why it cannot be
            known = {}
        again = [mirror for mirror in mirrors if mirror.name not in known]
        for name, each in read_known(instance, again, now, shared).items() if again else ():
            known[name] = each
            self._read.pop(name, None)
            if isinstance(each, Known) and not each.conditions:
                self._read[name] = now, each
        return known

    def _happened(
        self,
        instance: dg.DagsterInstance,
        mirrors: Sequence[Mirror],
        in_flight: Collection[str],
        now: datetime,
    ) -> set[str]:
        """The mirrors of which something may have changed since they were read.

        A run that names no mirror may have computed any asset. What no run wrote is read in time.
        """
        names = [mirror.name for mirror in mirrors]
        read_at = {name: self._read[name][0] for name in names if name in self._read}
        fresh = {name for name, at in read_at.items() if timedelta() <= now - at < READ_AGAIN}
        if not fresh:
            return set(names)
        since = min(read_at[name] for name in fresh) - CLOCKS_DIFFER
        updated = instance.get_run_records(dg.RunsFilter(updated_after=since), limit=MANY_RUNS)
        if len(updated) == MANY_RUNS:
            return set(names)
        changed = set(in_flight)
        for record in updated:
            run = record.dagster_run
            mirror = run.tags.get(MIRROR_TAG)
            concerned = set(names) if mirror is None else {mirror}
            changed |= {
                name
                for name in concerned & fresh
                if record.update_timestamp > read_at[name] - CLOCKS_DIFFER
            }
        return changed | (set(names) - fresh)


def read_known(
    instance: dg.DagsterInstance,
    mirrors: Sequence[Mirror],
    now: datetime,
    shared: _Shared | None = None,
) -> dict[str, Known | Exception]:
    """Read the last runs, the last checks and the last publication of mirrors, by name.

    A few queries serve all of them. Where that fails, each one is read by itself, and the error of
    one that cannot be takes its place.

    Args:
        shared: read before; None reads it here.
    """
    try:
        return _read_known(instance, mirrors, now, shared or _Shared.read(instance, mirrors))
    except Exception as error:  # noqa: BLE001 - a watch that raises sends no alert
        if len(mirrors) == 1:
            return {mirrors[0].name: error}
    alone = (read_known(instance, [mirror], now) for mirror in mirrors)
    return {name: known for each in alone for name, known in each.items()}


def _read_known(
    instance: dg.DagsterInstance, mirrors: Sequence[Mirror], now: datetime, shared: _Shared
) -> dict[str, Known | Exception]:
    latest = instance.event_log_storage.get_latest_materialization_events(
        [key for mirror in mirrors for key in (published_key(mirror), parity_key(mirror))]
    )
    evaluated = evaluated_checks(
        instance,
        [key for mirror in mirrors for key in (*_alerting_checks(mirror), owned_key(mirror))],
    )
    known: dict[str, Known | Exception] = {}
    for mirror in mirrors:
        of_mirror = {key: evaluated[key] for key in _alerting_checks(mirror) if key in evaluated}
        # What is planned, queued or under way changes nothing: the last run that ended counts.
        ended, unseen = _ended(instance, mirror, now)
        found = [
            *_in_flight(shared.in_flight.get(mirror.name, []), now),
            *_failed_checks(mirror, of_mirror),
            *ended,
        ]
        state = kept_parity_of(latest.get(parity_key(mirror))).value or ParityState()
        each = Known(
            # Of two that are alike, the first is the cause.
            conditions={each.signal: each for each in reversed(found)},
            published=published_of(latest.get(published_key(mirror))),
            verified_at=state.verified_at,
            sources=state.sources,
            looked_at=None,
            owned=owned_in(evaluated.get(owned_key(mirror))),
            link=link_of(mirror),
            unseen=unseen,
        )
        known[mirror.name] = _with_look(each, shared.looks, mirror, now)
    return known


def _with_look(known: Known, looks: KeptBySensors, mirror: Mirror, now: datetime) -> Known:
    if known.sources is None:
        return known
    return replace(known, looked_at=last_look_that_found(looks, mirror, known.sources, now))


def link_of(mirror: Mirror) -> str:
    """Where the Dagster UI shows the parity of a mirror."""
    return ui_link(f"assets/{mirror.name}/backstage_parity")


def ui_link(path: str) -> str:
    """Where the Dagster UI shows something."""
    return f"{os.environ.get(UI_VARIABLE, DEFAULT_UI).rstrip('/')}/{path}"


def _ended(
    instance: dg.DagsterInstance, mirror: Mirror, now: datetime
) -> tuple[list[Condition], frozenset[Signal]]:
    """Say why the last run that ended failed, and the signals that it has not looked at."""
    last = ended_runs(instance, mirror, 1)
    if not last or last[0].dagster_run.status is dg.DagsterRunStatus.SUCCESS:
        return [], frozenset()
    ended = ended_runs(instance, mirror, LOOK_BACK)
    since = now
    for record in ended:
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            break
        since = began_at(record)
    run_id = ended[0].dagster_run.run_id
    steps = steps_of(instance, run_id)
    known = {*steps.succeeded, *(step.asset for step in steps.failed)}
    unseen = frozenset(_READ_BY[step] for step in _READ_BY.keys() - known)
    if not steps.failed:
        cause = cause_of_failure(instance, run_id)
        return [_hung(run_id, since, f"a run failed, and none of its steps did: {cause}")], unseen
    return list(_failed(steps, run_id, since)), unseen


def _in_flight(records: Iterable[dg.RunRecord], now: datetime) -> Iterator[Condition]:
    """Find runs that do not end, and runs that do not begin though no other one is under way."""
    waiting: list[dg.RunRecord] = []
    under_way = False
    for record in records:
        if record.dagster_run.status in _NOT_STARTED:
            waiting.append(record)
            continue
        under_way = True
        began = began_at(record)
        if now - began > HUNG_AFTER:
            yield _hung(record.dagster_run.run_id, began, "a run does not end")
    queued = min(waiting, key=lambda each: each.create_timestamp, default=None)
    if queued is None or under_way or now - queued.create_timestamp <= QUEUED_AFTER:
        return
    yield Condition(
        Signal.RUN_QUEUED,
        queued.create_timestamp,
        f"a run waits for {(now - queued.create_timestamp).total_seconds():.0f} s and does not "
        "begin; until it does, no other one is asked for",
        "Look at the concurrency of the instance (Deployment, Concurrency) for who holds the "
        "mirror's pool; free that slot, or cancel the run.",
        ui_link(f"runs/{queued.dagster_run.run_id}"),
    )


def _failed(steps: Steps, run_id: str, since: datetime) -> Iterator[Condition]:
    """Say why a run failed, in the words of each step that did."""
    for step in steps.failed:
        yield Condition(
            _SIGNAL_OF.get(step.kind, Signal.RUN_FAILED),
            since,
            f"{step.asset}: {step.cause}",
            step.remediation or "Read the log of the run for what its step met.",
            ui_link(f"runs/{run_id}"),
        )


def _hung(run_id: str, since: datetime, problem: str) -> Condition:
    return Condition(
        Signal.RUN_HUNG,
        since,
        problem,
        "Look at its log for the step that waits; the next run starts when its slot is free.",
        ui_link(f"runs/{run_id}"),
    )


def _failed_checks(
    mirror: Mirror, evaluated: Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord]
) -> Iterator[Condition]:
    failed = []
    for key, record in evaluated.items():
        evaluation = record.evaluation
        if record.status is not AssetCheckExecutionRecordStatus.FAILED or evaluation is None:
            continue
        if evaluation.severity is not dg.AssetCheckSeverity.ERROR:
            continue
        at, description = judged_at(record), judgement(evaluation)
        if key.name == checks.REMOVAL_GUARD:
            yield Condition(
                Signal.PLAN_HELD,
                at,
                description,
                "Look at the plan; approve it with "
                + (text_of(evaluation.metadata, "approve") or "sync"),
                ui_link(f"assets/{mirror.name}/published_entity?view=checks"),
            )
        elif key.name == checks.GOVERNANCE_FINDINGS:
            yield Condition(
                Signal.GOVERNANCE_FINDINGS,
                at,
                f"{key.asset_key.path[-1]}: {key.name}: {description}",
                "Correct the entries that the check names; all others are mirrored meanwhile.",
                ui_link(f"assets/{mirror.name}/governance_catalog?view=checks"),
            )
        else:
            failed.append((at, f"{key.asset_key.path[-1]}: {key.name}: {description}"))
    if failed:
        yield Condition(
            Signal.CHECK_FAILED,
            min(at for at, _ in failed),
            "; ".join(words for _, words in failed),
            "Look at the failed checks in the Dagster UI.",
            ui_link("asset-groups"),
        )


def _alerting_checks(mirror: Mirror) -> list[dg.AssetCheckKey]:
    return [dg.AssetCheckKey(key_of(mirror, asset), name) for asset, name in _ALERTING_CHECKS]
