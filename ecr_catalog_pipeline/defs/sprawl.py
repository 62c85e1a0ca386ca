"""The check that looks for ad-hoc ECR entities in the catalog repository of a mirror."""

from collections.abc import Collection

import dagster as dg

from ecr_catalog_pipeline.adapters.catalog_repo import CatalogRepo
from ecr_catalog_pipeline.core.sprawl import CatalogUnavailable
from ecr_catalog_pipeline.defs import checks
from ecr_catalog_pipeline.defs.assets import key_of
from ecr_catalog_pipeline.defs.resources import catalog_key
from ecr_catalog_pipeline.settings import Mirror

LAST = -100
"""The priority of a step that runs when every other one that can has run."""


def sprawl_checks(
    mirror: Mirror, mirror_entities: Collection[str]
) -> list[dg.AssetChecksDefinition]:
    """Define the check of a mirror that names a catalog repository; none of another one.

    It is a step of its own, after the assets that need not wait for it, and a warning at the most:
    neither what it finds nor what it cannot read is the mirror's failure.

    Args:
        mirror_entities: names of entities that mirrors generate; those are no sprawl.
    """
    if mirror.sprawl is None:
        return []
    resource = catalog_key(mirror)

    @dg.asset_check(
        asset=key_of(mirror, "governance_catalog"),
        name=checks.NO_AD_HOC_ENTITIES,
        description="The catalog repository declares no ECR entity by hand.",
        required_resource_keys={resource},
        op_tags={"dagster/priority": str(LAST)},
    )
    def no_ad_hoc_entities(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        repo: CatalogRepo = getattr(context.resources, resource)
        try:
            return checks.no_ad_hoc_entities(repo.sprawl(mirror_entities), repo.where)
        except CatalogUnavailable as error:
            return checks.sprawl_unknown(str(error))
        except Exception as error:
            context.log.exception("the catalog repository could not be inspected")
            return checks.sprawl_unknown(f"unexpected {type(error).__name__}: {error}")

    return [no_ad_hoc_entities]
