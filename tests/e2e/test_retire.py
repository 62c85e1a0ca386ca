"""Retiring a catalog's sprawl under a real Backstage: the ghosts go, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.integration.backstage import (
    DEMO_CONFIG,
    Backstage,
    FileServer,
    running_backstage,
    wait_for,
)
from tests.integration.commands import Command, command_in
from tests.unit.builders import IDENTITY, published

OURS: Final = f"resource:default/{IDENTITY.name}"
INTERVAL_SECONDS: Final = 2
# Backstage looks for orphans every 30 s, and a location every 2 to 3 s.
GONE_SECONDS: Final = 150
# Long enough to read every location again, and to look for orphans.
LONG_ENOUGH: Final = 45

HEAD: Final = "apiVersion: backstage.io/v1alpha1\n"


def entity(kind: str, name: str, entity_type: str, more: str = "") -> str:
    extra = "  lifecycle: production\n" if kind == "Component" else ""
    return (
        f"{HEAD}kind: {kind}\nmetadata:\n  name: {name}  # kept\nspec:\n"
        f"  type: {entity_type}\n  owner: platform-team\n{extra}{more}"
    )


def location(name: str, *targets: str) -> str:
    listed = "".join(f"    - {target}\n" for target in targets)
    return f"{HEAD}kind: Location\nmetadata:\n  name: {name}\nspec:\n  targets:\n{listed}"


USES_PAY: Final = "  dependsOn:\n    - resource:default/pay\n    - resource:default/orders\n"
CATALOG: Final = {
    "all.yaml": location("all", "./apps/all.yaml", "./ecr/all.yaml", "./ecr/vouchers.yaml"),
    "apps/all.yaml": location("apps", "./shop.yaml", "./mixed.yaml"),
    "apps/shop.yaml": entity("Component", "shop", "service", USES_PAY),
    "apps/mixed.yaml": "---\n".join(
        [
            entity("Resource", "orders", "database"),
            entity("Resource", "mixed-images", "container-repository"),
            entity("Component", "mixed", "library"),
        ]
    ),
    "ecr/all.yaml": location("ecr", "./pay.yaml", "./search.yaml"),
    "ecr/pay.yaml": entity("Resource", "pay", "ecr-repository"),
    "ecr/search.yaml": entity("Resource", "search", "aws-ecr-repository"),
    "ecr/vouchers.yaml": entity("Resource", "vouchers", "ecr-repository"),
    # A root of its own that lists nothing but what goes.
    "images.yaml": location("images", "./registered/more.yaml"),
    "registered/more.yaml": entity("Resource", "more", "ecr-repository"),
    # Read by Backstage itself, as a scaffolder registers it.
    "registered/alone.yaml": entity("Resource", "alone", "ecr-repository"),
}
ROOTS: Final = ("all.yaml", "images.yaml", "registered/alone.yaml", "ours.yaml")

GHOSTS: Final = {
    f"resource:default/{name}" for name in ("pay", "search", "vouchers", "mixed-images", "more")
}
REGISTERED: Final = "resource:default/alone"
OTHERS: Final = {
    OURS,
    "component:default/shop",
    "component:default/mixed",
    "resource:default/orders",
    "location:default/all",
    "location:default/apps",
    "location:default/images",
}


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer().running() as server:
        yield server


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    folder = tmp_path / "catalog"
    for path, text in CATALOG.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "ours.yaml").write_bytes(published("shop/search"))
    return folder


@pytest.fixture
def command(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    return command_in(catalog.parent, {}, monkeypatch, capfd)


def serve(files: FileServer, catalog: Path) -> None:
    """Serve what is in the folder now, and nothing else of it."""
    for path in [*CATALOG, "ours.yaml"]:
        if (catalog / path).exists():
            files.put(path, (catalog / path).read_bytes())
        else:
            files.delete(path)


def reading(files: FileServer) -> dict[str, Any]:
    """A configuration that reads the catalog as its owners do, and allows what they declare."""
    demo = yaml.safe_load(DEMO_CONFIG.read_text(encoding="utf-8"))
    return {
        "backend": {**demo["backend"], "reading": {"allow": [{"host": files.host}]}},
        "catalog": {
            "processingInterval": {"seconds": INTERVAL_SECONDS},
            "rules": [{"allow": ["Component", "System", "API", "Resource", "Location"]}],
            "locations": [{"type": "url", "target": files.url(path)} for path in ROOTS],
        },
    }


def served(backstage: Backstage) -> dict[str, dict[str, Any]]:
    """What Backstage serves, without the Location entities that it makes itself."""
    return {
        f"{each['kind']}:{each['metadata'].get('namespace', 'default')}/"
        f"{each['metadata']['name']}".lower(): each
        for each in backstage.entities()
        if not each["metadata"]["name"].startswith("generated-")
    }


def substance(each: dict[str, Any]) -> dict[str, Any]:
    """What makes an entity the same one, by its identifier, and untouched, by its content.

    Its etag changes with its relations, which are computed from those of others.
    """
    metadata = {key: value for key, value in each["metadata"].items() if key != "etag"}
    return {"metadata": metadata, "spec": each["spec"], "kind": each["kind"]}


def test_the_ghosts_go_the_mirrors_entity_and_every_other_stay(
    files: FileServer, catalog: Path, command: Command, tmp_path: Path
) -> None:
    serve(files, catalog)
    with running_backstage(tmp_path, [], overrides=reading(files)) as backstage:
        everything = GHOSTS | OTHERS | {REGISTERED, "location:default/ecr"}
        wait_for(lambda: served(backstage).keys() == everything, 60, "the whole catalog")
        before = served(backstage)

        done = command("retire", "catalog", "--apply", "--no-compare")
        # The mirror's entity is known by its digest, and left, where its mirror is not configured.
        assert done.code == 0, done
        assert "ours.yaml:" in done.err
        assert "No Location here lists these files:\n  catalog/registered/alone.yaml\n" in done.out
        assert "Location images no longer lists ./registered/more.yaml, and is left" in done.out
        assert "catalog/apps/shop.yaml:10: component:default/shop dependsOn" in done.out
        serve(files, catalog)

        wait_for(lambda: not served(backstage).keys() & GHOSTS, GONE_SECONDS, "the ghosts to go")
        # What Backstage was configured to read by itself and cannot find, it goes on serving.
        time.sleep(LONG_ENOUGH)
        after = served(backstage)

    assert after.keys() == OTHERS | {REGISTERED}
    changed = {"location:default/all", "location:default/images"}
    for reference in OTHERS - changed:
        assert substance(after[reference]) == substance(before[reference]), reference
    for reference in changed:
        assert after[reference]["metadata"]["uid"] == before[reference]["metadata"]["uid"]
    assert after["location:default/all"]["spec"]["targets"] == ["./apps/all.yaml"]
    assert after["location:default/images"]["spec"]["targets"] == []
    assert (catalog / "ours.yaml").read_bytes() == published("shop/search")
