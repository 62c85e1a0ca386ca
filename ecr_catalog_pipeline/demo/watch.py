"""Follows one change of the demo through each stage, with its own clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from ecr_catalog_pipeline.core.entity import read_published
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.demo import world as worlds
from ecr_catalog_pipeline.demo.world import DemoWorld
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.wiring import adapters_of

POLL_SECONDS: Final = 0.25


def watch_change(mirror: Mirror, world: DemoWorld, name: str, seconds: int) -> Iterator[str]:
    """Create or delete a repository in ECR, and give a line for each stage that it passes.

    Raises:
        CatalogError: a stage was not passed in time.
    """
    adapters = adapters_of(mirror, os.environ)
    publisher, backstage = adapters.publisher, adapters.backstage
    client = worlds.ecr_client(world)
    pages = client.get_paginator("describe_repositories").paginate()
    present = {each["repositoryName"] for page in pages for each in page["repositories"]}
    appears = name not in present

    def published() -> bool:
        content = publisher.read().content
        if content is None:
            return not appears
        entity = read_published(content, mirror.identity, publisher.read_list)
        return (name in entity.repositories) is appears

    def visible() -> bool:
        assert backstage is not None
        entity = backstage.entity(mirror.identity.namespace, mirror.identity.name)
        lines = (entity or {}).get("spec", {}).get("repositories", [])
        return entity is not None and any(line["name"] == name for line in lines) is appears

    began = time.monotonic()
    if appears:
        worlds.create_in_ecr(world, name)
    else:
        worlds.delete_in_ecr(world, name)
    yield f"   0.0 s  {name} {'created' if appears else 'deleted'} in ECR"
    yield f"{_wait(published, began, seconds, 'published'):6.1f} s  published to {publisher.where}"
    if backstage is None:
        yield "The mirror file names no Backstage: time to parity is measured to the publication."
        return
    took = _wait(visible, began, seconds, "visible in Backstage")
    yield f"{took:6.1f} s  visible in Backstage at {backstage.url}"
    yield f"Time to parity: {took:.1f} s"


def _wait(passed: Callable[[], bool], began: float, seconds: int, stage: str) -> float:
    while not passed():
        if time.monotonic() - began > seconds:
            raise CatalogError(
                f"not {stage} after {seconds} s",
                remediation="Is the repository governed and `make run` running? Look at the last "
                "run in the Dagster UI, or at `ecr-catalog plan -m demo`.",
            )
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began
