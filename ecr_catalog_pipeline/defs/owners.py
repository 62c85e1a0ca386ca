"""Findings reach their owners: the check that looks owners up, and the notices of the watch."""

import logging
import time
from collections.abc import Mapping
from typing import Final

import dagster as dg

# Not exported: the record of a check's evaluation.
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from pydantic import TypeAdapter

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.owners import (
    MAX_OWNERS,
    Notice,
    Notified,
    OwnedFindings,
    advance_notified,
    after_notices,
    due_notices,
    owned_findings,
    owners_to_check,
    unknown_owners,
)
from ecr_catalog_pipeline.core.text import shortened
from ecr_catalog_pipeline.defs import tables
from ecr_catalog_pipeline.defs.common import key_of
from ecr_catalog_pipeline.mirroring import PlannedRegistry
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import Adapters

OWNERS_KNOWN: Final = "owners_known"
SECONDS: Final = 15
"""After that long no further notice is sent at one look; the rest is due at the next one."""

_OWNED: Final = "owned_findings"
_OWNED_TYPE: Final = TypeAdapter(OwnedFindings)
_LAST: Final = -100


def owner_checks(mirror: Mirror, adapters: Adapters) -> list[dg.AssetChecksDefinition]:
    """Define the check of a mirror that notifies owners; none of another one.

    It is a warning at the most: what Backstage does not say is never the mirror's failure.
    """
    backstage = adapters.backstage
    if backstage is None or not mirror.notify.backstage:
        return []

    @dg.asset_check(
        asset=key_of(mirror, "reconciled_registry"),
        name=OWNERS_KNOWN,
        description="Backstage knows the owner of every governed repository. Keeps the error "
        "findings of each owner for the parity watch, which notifies them.",
        op_tags={"dagster/priority": str(_LAST)},
    )
    def owners_known(
        context: dg.AssetCheckExecutionContext, reconciled_registry: PlannedRegistry
    ) -> dg.AssetCheckResult:
        try:
            known = backstage.known(owners_to_check(reconciled_registry.registry))
        except BackstageUnavailable as error:
            context.log.warning("owners were not looked up: %s", error)
            return _result(reconciled_registry, {}, f"not known: {error}")
        return _result(reconciled_registry, known, "")

    return [owners_known]


def _result(
    planned: PlannedRegistry, known: Mapping[str, bool], problem: str
) -> dg.AssetCheckResult:
    registry = planned.registry
    unknown = list(unknown_owners(registry, known))
    owned = owned_findings(registry, known)
    owners = sorted({owner for owner, _ in unknown})
    named = ", ".join(shortened(owner) for owner in owners[:5])
    said = f"{len(owners)} unknown: {named}" if owners else f"{len(known)} owners are known"
    cut = f"; the first {MAX_OWNERS} were looked up" if len(known) == MAX_OWNERS else ""
    return dg.AssetCheckResult(
        check_name=OWNERS_KNOWN,
        passed=not unknown and not problem,
        severity=dg.AssetCheckSeverity.WARN,
        description=tables.words(problem or said + cut),
        metadata={
            "findings": tables.findings(finding for _, finding in unknown),
            _OWNED: dg.MetadataValue.json(_OWNED_TYPE.dump_python(owned, mode="json")),
        },
    )


def notify_owners(
    log: logging.Logger,
    mirror: Mirror,
    backstage: BackstageCatalog,
    now: OwnedFindings | None,
    notified: Mapping[str, Notified],
) -> dict[str, Notified]:
    """Send the notices that are due, and give what owners were notified of after that.

    What does not arrive stays due: it is never a failure of the watch.

    Args:
        now: the findings of the last run that looked; None when none did.
    """
    if now is None:
        return dict(notified)
    link = mirror.identity.page
    after = advance_notified(notified, now)
    arrived, failed = set[str](), set[str]()
    deadline = time.monotonic() + SECONDS
    for notice in due_notices(after, now, mirror=mirror.name, link=link):
        if time.monotonic() > deadline:
            break
        (arrived if _arrives(log, backstage, notice) else failed).add(notice.key)
    return after_notices(after, arrived, failed)


def owned_key(mirror: Mirror) -> dg.AssetCheckKey:
    """The check that keeps the findings of each owner."""
    return dg.AssetCheckKey(key_of(mirror, "reconciled_registry"), OWNERS_KNOWN)


def owned_in(record: AssetCheckExecutionRecord | None) -> OwnedFindings | None:
    """Read the findings that an evaluation keeps; None when there was none, or unreadable ones."""
    evaluation = record.evaluation if record else None
    if evaluation is None:
        return None
    try:
        return _OWNED_TYPE.validate_python(evaluation.metadata[_OWNED].value)
    except (KeyError, ValueError):
        return None


def _arrives(log: logging.Logger, backstage: BackstageCatalog, notice: Notice) -> bool:
    try:
        backstage.notify(notice)
    except BackstageUnavailable as error:
        log.warning(
            "%s was not notified of %r, tried again at the next look: %s",
            *(notice.owner, notice.title, error),
        )
        return False
    return True
