"""What dagster-aws gives for S3. Apart from `adapters/`, which loads no Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_aws.s3 import S3Resource
from dagster_aws.s3.io_manager import PickledObjectS3IOManager
from upath import UPath

from ecr_catalog_pipeline.adapters.aws import client_config, new_session
from ecr_catalog_pipeline.defs.io import as_json, from_json

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


class JsonS3IOManager(PickledObjectS3IOManager):
    """dagster-aws's S3 storage of values, with JSON in place of pickle, which runs what it reads.

    Region, endpoint and credentials are those of the AWS environment.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        super().__init__(bucket, CatalogS3Resource().get_client(), prefix)

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:  # noqa: ARG002 - the base class gives it by name
        """Write a value; S3 shows it whole or not at all."""
        self.s3.put_object(Bucket=self.bucket, Key=path.as_posix(), Body=as_json(obj))

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """Read a value as the type of the asset's parameter.

        Raises:
            FileNotFoundError: it was never written.
        """
        try:
            answer = self.s3.get_object(Bucket=self.bucket, Key=path.as_posix())
        except self.s3.exceptions.NoSuchKey:
            raise FileNotFoundError(f"s3://{self.bucket}/{path}: no such value") from None
        return from_json(context, answer["Body"].read())
