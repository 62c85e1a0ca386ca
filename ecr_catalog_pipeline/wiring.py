"""From a mirror's settings to its adapters. Making them contacts nothing and reads no secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.adapters.catalog_cache import CatalogCache
from ecr_catalog_pipeline.adapters.ecr import EcrRegistry
from ecr_catalog_pipeline.adapters.governance_repo import GovernanceRepo
from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.adapters.publish_file import FilePublisher
from ecr_catalog_pipeline.adapters.publish_git import GitPublisher
from ecr_catalog_pipeline.adapters.publish_s3 import S3Publisher
from ecr_catalog_pipeline.adapters.publisher import Publisher
from ecr_catalog_pipeline.demo.world import token_file
from ecr_catalog_pipeline.settings import (
    FileTarget,
    GitTarget,
    Mirror,
    S3Target,
    cache_folder,
    list_key,
)
from ecr_catalog_pipeline.sprawl.catalog_repo import CatalogRepo


@dataclass(frozen=True, slots=True)
class Adapters:
    """All that one mirror reads, writes and alerts.

    Attributes:
        catalogs: governance as it was parsed.
        report: where the health report is published; None without `health:`.
        backstage: None without `backstage:`.
        catalog: the catalog repository that is searched for ad-hoc entities; None without
            `sprawl:`.
    """

    governance: GovernanceRepo
    catalogs: CatalogCache
    registry: EcrRegistry
    publisher: Publisher
    report: Publisher | None
    backstage: BackstageCatalog | None
    catalog: CatalogRepo | None
    notifier: Notifier


AdaptersOf = Callable[[Mirror, Mapping[str, str]], Adapters]
"""Makes the adapters of a mirror; the seam where tests and extensions replace any of them."""


def adapters_of(mirror: Mirror, environ: Mapping[str, str]) -> Adapters:
    """Make the adapters of a mirror.

    Args:
        environ: says where clones are cached and who is alerted.
    """
    cache = cache_folder(environ)
    source, registry, backstage = mirror.governance, mirror.registry, mirror.backstage
    sprawl = mirror.sprawl
    return Adapters(
        governance=GovernanceRepo(source.repository, source.branch, source.path, cache),
        catalogs=CatalogCache(
            cache / "governance", f"{source.repository}\n{source.branch}\n{source.path}"
        ),
        registry=EcrRegistry(
            registry.region,
            account_id=registry.account_id,
            role_arn=registry.role_arn,
            endpoint_url=registry.endpoint_url,
        ),
        publisher=_publisher(mirror, cache),
        report=_report_publisher(mirror, cache),
        backstage=(
            BackstageCatalog(backstage.url, backstage.token_env, token_file=token_file(mirror))
            if backstage
            else None
        ),
        catalog=(
            CatalogRepo(sprawl.repository, sprawl.branch, sprawl.paths, cache) if sprawl else None
        ),
        notifier=Notifier(environ),
    )


def _publisher(mirror: Mirror, cache: Path) -> Publisher:
    match mirror.publish:
        case GitTarget() as target:
            return GitPublisher(target.repository, target.branch, target.path, cache)
        case FileTarget() as target:
            return FilePublisher(Path(target.path))
        case S3Target() as target:
            return _s3_publisher(mirror, target)


def _s3_publisher(mirror: Mirror, target: S3Target) -> Publisher:
    # Imported here: dagster-aws takes two seconds to import, and only this target needs it.
    from ecr_catalog_pipeline.defs.s3 import CatalogS3Resource  # noqa: PLC0415

    resource = CatalogS3Resource(
        region_name=mirror.registry.region, endpoint_url=mirror.s3_endpoint_url
    )
    return S3Publisher(resource.get_client, target.bucket, target.key, list_key(target.key))


def _report_publisher(mirror: Mirror, cache: Path) -> Publisher | None:
    target, health = mirror.publish, mirror.health
    if health is None or not isinstance(target, GitTarget):
        return None
    return GitPublisher(target.repository, target.branch, health.path, cache, key="health.path")
