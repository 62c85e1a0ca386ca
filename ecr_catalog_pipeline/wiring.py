"""From a mirror's settings to its adapters. Making one contacts nobody and reads no secret."""

from __future__ import annotations

from pathlib import Path

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.adapters.catalog_repo import CatalogRepo
from ecr_catalog_pipeline.adapters.ecr import EcrRegistry
from ecr_catalog_pipeline.adapters.governance_repo import GovernanceRepo
from ecr_catalog_pipeline.adapters.publish_file import FilePublisher
from ecr_catalog_pipeline.adapters.publish_git import GitPublisher
from ecr_catalog_pipeline.adapters.publisher import Publisher
from ecr_catalog_pipeline.demo.world import token_file
from ecr_catalog_pipeline.settings import FileTarget, GitTarget, Mirror, S3Target


def governance_repo(mirror: Mirror, cache: Path) -> GovernanceRepo:
    """Give the reader of a mirror's governance file."""
    source = mirror.governance
    return GovernanceRepo(source.repository, source.branch, source.path, cache)


def ecr_registry(mirror: Mirror) -> EcrRegistry:
    """Give the reader of a mirror's ECR registry."""
    registry = mirror.registry
    return EcrRegistry(
        registry.region,
        account_id=registry.account_id,
        role_arn=registry.role_arn,
        endpoint_url=registry.endpoint_url,
    )


def backstage(mirror: Mirror) -> BackstageCatalog | None:
    """Give the Backstage of a mirror; None when it names none."""
    settings = mirror.backstage
    if settings is None:
        return None
    return BackstageCatalog(settings.url, settings.token_env, token_file=token_file(mirror))


def catalog_repo(mirror: Mirror, cache: Path) -> CatalogRepo | None:
    """Give the catalog repository of a mirror; None when it names none."""
    sprawl = mirror.sprawl
    return CatalogRepo(sprawl.repository, sprawl.branch, sprawl.paths, cache) if sprawl else None


def publisher(mirror: Mirror, cache: Path) -> Publisher:
    """Give the publication target of a mirror."""
    target = mirror.publish
    if isinstance(target, GitTarget):
        return GitPublisher(target.repository, target.branch, target.path, cache)
    if isinstance(target, FileTarget):
        return FilePublisher(Path(target.path))
    return _s3_publisher(mirror, target)


def _s3_publisher(mirror: Mirror, target: S3Target) -> Publisher:
    # Imported here: dagster-aws takes two seconds to import, and only this target needs it.
    from ecr_catalog_pipeline.adapters.publish_s3 import (  # noqa: PLC0415
        CatalogS3Resource,
        S3Publisher,
    )

    resource = CatalogS3Resource(
        region_name=mirror.registry.region, endpoint_url=mirror.s3_endpoint_url
    )
    return S3Publisher(resource.get_client, target.bucket, target.key)
