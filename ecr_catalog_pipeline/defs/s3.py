"""The S3 resource of Dagster. Apart from `adapters/`, which loads no Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster_aws.s3 import S3Resource

from ecr_catalog_pipeline.adapters.aws import client_config, new_session

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class CatalogS3Resource(S3Resource):
    """dagster-aws's S3, with the timeouts and retries of every client of ours."""

    def get_client(self) -> S3Client:
        """Make a client; nothing is contacted before its first call."""
        session = new_session(self.region_name, self.endpoint_url, self.profile_name)
        client: S3Client = session.client(
            "s3", endpoint_url=self.endpoint_url, config=client_config()
        )
        return client
