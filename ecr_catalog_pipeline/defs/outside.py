"""The three things outside that a mirror reads or changes: observable, never computed.

Dagster compares an asset with an observation of what it depends on only where that is observable.
A run observes what it reads itself, and pins what it observed as the version that it read:
otherwise it would pin what was observed before its step began, and count as stale from then on.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import dagster as dg

from ecr_catalog_pipeline.core.parity import Verdict, judge
from ecr_catalog_pipeline.defs.common import DATA_VERSION_TAG, as_dagster_failure, key_of
from ecr_catalog_pipeline.defs.event_log import read_published
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import Adapters

GOVERNANCE_FILE: Final = "governance_file"
ECR_REGISTRY: Final = "ecr_registry"
BACKSTAGE_ENTITY: Final = "backstage_entity"
ABSENT: Final = "absent"
"""The data version of an entity that Backstage does not serve."""


def outside_assets(mirror: Mirror, adapters: Adapters) -> list[dg.AssetsDefinition]:
    """Define what a mirror reads and what Backstage makes of it; "Observe" in the UI looks."""
    source, registry, identity = mirror.governance, mirror.registry, mirror.identity

    def governance_file(_: dg.AssetExecutionContext) -> str:
        return adapters.governance.read().blob

    def ecr_registry(_: dg.AssetExecutionContext) -> str:
        return adapters.registry.read().fingerprint

    def backstage_entity(context: dg.AssetExecutionContext) -> str:
        if adapters.backstage is None:
            return read_published(context.instance, mirror).digest or ABSENT
        served = adapters.backstage.entity(identity.namespace, identity.name)
        return judge("", served).served or ABSENT

    return [
        _observable(
            mirror,
            GOVERNANCE_FILE,
            governance_file,
            kinds={"git", "yaml"},
            description=f"`{source.path}` on branch `{source.branch}` of `{source.repository}`: "
            "what the company means to have.",
        ),
        _observable(
            mirror,
            ECR_REGISTRY,
            ecr_registry,
            kinds={"aws", "ecr"},
            description=f"The ECR registry of account `{registry.account_id or 'any'}` in "
            f"`{registry.region}`: what is really there.",
        ),
        _observable(
            mirror,
            BACKSTAGE_ENTITY,
            backstage_entity,
            deps=[key_of(mirror, "published_entity")],
            kinds={"backstage"},
            description=f"`{identity.reference}`: what Backstage shows.",
        ),
    ]


def observation(mirror: Mirror, name: str, data_version: str) -> dg.AssetObservation:
    """Note in the lineage which version of something outside was seen."""
    return dg.AssetObservation(key_of(mirror, name), tags={DATA_VERSION_TAG: data_version})


def served_observation(mirror: Mirror, verdict: Verdict) -> dg.AssetObservation:
    """Note in the lineage what Backstage was seen to serve."""
    return dg.AssetObservation(
        key_of(mirror, BACKSTAGE_ENTITY),
        tags={DATA_VERSION_TAG: verdict.served or ABSENT},
        metadata={"in_parity": verdict.parity, "reason": verdict.reason},
    )


def pinned(mirror: Mirror, name: str, data_version: str) -> dict[str, str]:
    """Give the tag of a materialization that names the version which its step itself observed."""
    return {f"dagster/input_data_version/{key_of(mirror, name).to_user_string()}": data_version}


def _observable(
    mirror: Mirror, name: str, look: Callable[[dg.AssetExecutionContext], str], **of_spec: Any
) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(key_of(mirror, name), group_name=mirror.name, **of_spec)

    def observe(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        with as_dagster_failure():
            data_version = look(context)
        yield dg.ObserveResult(asset_key=spec.key, data_version=dg.DataVersion(data_version))

    with warnings.catch_warnings():
        # It is the only observable asset that may have dependencies, and its beta warning would
        # stand in every user's log.
        warnings.simplefilter("ignore", dg.BetaWarning)
        decorate = dg.multi_observable_source_asset(name="__".join(spec.key.path), specs=[spec])
        asset: dg.AssetsDefinition = decorate(observe)
    return asset
