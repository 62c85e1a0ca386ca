"""The demo's ECR: moto's server on loopback, with a memory that outlives it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.ecr.models import ecr_backends
from moto.ecr.responses import ECRResponse
from moto.server import ThreadedMotoServer

from ecr_catalog_pipeline.demo.world import CREATION_TEMPLATES, FIRST_REPOSITORIES, DemoWorld

SAVE_SECONDS: Final = 0.5


# What moto does not know of ECR, and a run asks for.


def _templates(_: ECRResponse) -> ActionResult:
    return ActionResult({"repositoryCreationTemplates": list(CREATION_TEMPLATES)})


def _cache_rules(_: ECRResponse) -> ActionResult:
    return ActionResult({"pullThroughCacheRules": []})


@contextmanager
def running_ecr(world: DemoWorld) -> Iterator[None]:
    """Serve the demo's ECR, and keep what it holds in a file."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto_ecr: Any = ECRResponse
    moto_ecr.describe_repository_creation_templates = _templates
    moto_ecr.describe_pull_through_cache_rules = _cache_rules
    backend = ecr_backends[DEFAULT_ACCOUNT_ID][world.region]
    _restore(backend, world.ecr_state)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=world.ecr_port, verbose=False)
    server.start()
    stopped = threading.Event()
    keeper = threading.Thread(target=_keep, args=(backend, world.ecr_state, stopped))
    keeper.start()
    try:
        yield
    finally:
        stopped.set()
        keeper.join()
        server.stop()


def _keep(backend: Any, path: Path, stopped: threading.Event) -> None:
    """Save what the backend holds whenever it has changed."""
    saved = ""
    while True:
        last_round = stopped.wait(SAVE_SECONDS)
        held = json.dumps(
            [_as_json(each) for each in list(backend.repositories.values())], indent=1
        )
        if held != saved:
            beside = path.with_suffix(".tmp")
            beside.write_text(held, encoding="utf-8")
            beside.replace(path)
            saved = held
        if last_round:
            return


def _restore(backend: Any, path: Path) -> None:
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
    else:
        held = [{"repositoryName": name, **how} for name, how in FIRST_REPOSITORIES.items()]
    for each in held:
        repository = backend.create_repository(
            registry_id=None,
            repository_name=each["repositoryName"],
            encryption_config=each.get("encryptionConfiguration"),
            image_scan_config=each.get("imageScanningConfiguration"),
            image_tag_mutability="MUTABLE",
            tags=[],
        )
        if "createdAt" in each:
            repository.created_at = datetime.fromisoformat(each["createdAt"])


def _as_json(repository: Any) -> dict[str, Any]:
    return {
        "repositoryName": repository.name,
        "createdAt": repository.created_at.isoformat(),
        "imageScanningConfiguration": repository.image_scanning_configuration,
        "encryptionConfiguration": repository.encryption_configuration,
    }
