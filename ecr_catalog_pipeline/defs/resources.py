"""The resources of a mirror: its adapters, under keys of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster_aws.s3 import S3Resource

from ecr_catalog_pipeline import wiring
from ecr_catalog_pipeline.adapters.aws import client_config, new_session
from ecr_catalog_pipeline.settings import Mirror

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOTIFIER: Final = "notifier"


class CatalogS3Resource(S3Resource):
    """dagster-aws's S3, with the timeouts and retries of every client of ours."""

    def get_client(self) -> S3Client:
        """Make a client; nothing is contacted before its first call."""
        session = new_session(self.region_name, self.endpoint_url, self.profile_name)
        client: S3Client = session.client(
            "s3", endpoint_url=self.endpoint_url, config=client_config()
        )
        return client


def mirror_resources(mirror: Mirror, cache: Path) -> Mapping[str, Any]:
    """Give a mirror's adapters under their resource keys."""
    return {
        governance_key(mirror): wiring.governance_repo(mirror, cache),
        registry_key(mirror): wiring.ecr_registry(mirror),
        publisher_key(mirror): wiring.publisher(mirror, cache),
        backstage_key(mirror): wiring.backstage(mirror),
    }


def governance_key(mirror: Mirror) -> str:
    """The resource key of the governance repository."""
    return f"{mirror.name}_governance_repo"


def backstage_key(mirror: Mirror) -> str:
    """The resource key of Backstage; None stands there when the mirror names none."""
    return f"{mirror.name}_backstage"


def registry_key(mirror: Mirror) -> str:
    """The resource key of the ECR registry."""
    return f"{mirror.name}_ecr_registry"


def publisher_key(mirror: Mirror) -> str:
    """The resource key of the publication target."""
    return f"{mirror.name}_publisher"
