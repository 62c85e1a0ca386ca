"""The check that looks for ad-hoc ECR entities in the catalog repository of a mirror."""

from collections.abc import Collection, Iterable

import dagster as dg

from ecr_catalog_pipeline.core.text import shortened
from ecr_catalog_pipeline.defs import tables
from ecr_catalog_pipeline.defs.common import key_of
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.sprawl.ad_hoc import AdHocEntity, CatalogUnavailable
from ecr_catalog_pipeline.sprawl.catalog_repo import MAX_BYTES, Sprawl
from ecr_catalog_pipeline.wiring import Adapters

NO_AD_HOC_ENTITIES = "no_ad_hoc_entities"

LAST = -100
"""The priority of a step that runs when every other one that can has run."""


def sprawl_checks(
    mirror: Mirror, adapters: Adapters, mirror_entities: Collection[str]
) -> list[dg.AssetChecksDefinition]:
    """Define the check of a mirror that names a catalog repository; none of another one.

    It is a step of its own, after the assets that need not wait for it, and a warning at the most:
    neither what it finds nor what it cannot read is the mirror's failure.

    Args:
        mirror_entities: names of entities that mirrors generate; those are no sprawl.
    """
    repo = adapters.catalog
    if repo is None:
        return []

    @dg.asset_check(
        asset=key_of(mirror, "governance_catalog"),
        name=NO_AD_HOC_ENTITIES,
        description="The catalog repository declares no ECR entity by hand.",
        op_tags={"dagster/priority": str(LAST)},
    )
    def no_ad_hoc_entities(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        try:
            return _result(repo.sprawl(mirror_entities), repo.where)
        except CatalogUnavailable as error:
            return _unknown(str(error))
        except Exception as error:
            context.log.exception("the catalog repository could not be inspected")
            return _unknown(f"unexpected {type(error).__name__}: {error}")

    return [no_ad_hoc_entities]


def _result(sprawl: Sprawl, where: str) -> dg.AssetCheckResult:
    """Warn of ECR entities that are declared by hand."""
    found = f"{len(sprawl.found)} ad-hoc ECR entities" if sprawl.found else "no ad-hoc ECR entity"
    waiting = f"; {sprawl.waiting} files are still to be inspected" if sprawl.waiting else ""
    not_inspected = (
        f"; {len(sprawl.uninspected)} files cannot be inspected, larger than {MAX_BYTES:,} bytes "
        f"or not UTF-8: {', '.join(shortened(path) for path in sprawl.uninspected[:5])}"
        if sprawl.uninspected
        else ""
    )
    return dg.AssetCheckResult(
        check_name=NO_AD_HOC_ENTITIES,
        passed=not (sprawl.found or sprawl.waiting or sprawl.uninspected),
        severity=dg.AssetCheckSeverity.WARN,
        description=tables.words(
            f"{found} in {sprawl.files} files of {where}{waiting}{not_inspected}"
        ),
        metadata={
            "count": len(sprawl.found),
            "files": sprawl.files,
            "waiting": sprawl.waiting,
            "uninspected": len(sprawl.uninspected),
            "commit": sprawl.commit,
            "entities": ad_hoc_table(sprawl.found),
        },
    )


def _unknown(reason: str) -> dg.AssetCheckResult:
    """Warn that the catalog repository could not be looked at."""
    return dg.AssetCheckResult(
        check_name=NO_AD_HOC_ENTITIES,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=tables.words(f"not known: {reason}"),
    )


def ad_hoc_table(rows: Iterable[tuple[str, AdHocEntity]]) -> dg.TableMetadataValue:
    columns = ["file", "line", "name", "type"]
    return tables.table(
        columns,
        (
            {"file": path, "line": row.line, "name": row.name, "type": row.type}
            for path, row in rows
        ),
    )
