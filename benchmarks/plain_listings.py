"""What a person would write instead, each as a process of its own that imports boto3 alone.

    python -m benchmarks.plain_listings bare ENDPOINT   # one paginator, pages of 1,000
    python -m benchmarks.plain_listings usual ENDPOINT  # pages of 100, one ListTagsForResource each

Prints how many repositories it saw.
"""

from __future__ import annotations

import sys

import boto3


def main() -> None:
    """List everything in one of the two ways."""
    way, endpoint_url = sys.argv[1:]
    client = boto3.client(
        "ecr",
        region_name="eu-west-2",
        endpoint_url=endpoint_url,
        aws_access_key_id="a-benchmark",
        aws_secret_access_key="a-benchmark",
    )
    seen = 0
    size = 1_000 if way == "bare" else 100
    paginator = client.get_paginator("describe_repositories")
    for page in paginator.paginate(PaginationConfig={"PageSize": size}):
        for repository in page["repositories"]:
            seen += 1
            if way == "usual":
                client.list_tags_for_resource(resourceArn=repository["repositoryArn"])
    print(seen)


if __name__ == "__main__":
    main()
