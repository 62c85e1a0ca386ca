"""Shared builders: the smallest honest value of each kind, and what a test varies of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ecr_catalog_pipeline.core.entity import (
    DesiredEntity,
    EntityIdentity,
    ListPlace,
    ReadList,
    build_entity,
    content_digest,
    desired_entity,
    render_entity,
)
from ecr_catalog_pipeline.core.governance import Catalog, Entry, Status
from ecr_catalog_pipeline.core.guard import RemovalLimits
from ecr_catalog_pipeline.core.inventory import Inventory, Repository
from ecr_catalog_pipeline.core.plan import Current, Plan, make_plan
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, reconcile

ROOT: Final = Path(__file__).parents[2]
DATA: Final = ROOT / "tests" / "data"

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-west-2"
SHA: Final = "3f2c9d1e8b7a6f5c4d3e2b1a0f9e8d7c6b5a4f3e"
OTHER_SHA: Final = "0123456789abcdef0123456789abcdef01234567"
NOW: Final = datetime(2026, 1, 9, 23, 3, 13, tzinfo=UTC)

IDENTITY: Final = EntityIdentity(
    name="goldenpath-ecr-registry",
    namespace="default",
    title="GoldenPath ECR Registry",
    owner="platform-team",
    system="container-registry",
)


BESIDE: Final = ListPlace("path", "entity.yaml")


def uri_of(name: str) -> str:
    return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{name}"


def repository(name: str, **changes: Any) -> Repository:
    return replace(Repository(name, uri_of(name)), **changes)


def inventory(names: Iterable[str]) -> Inventory:
    return Inventory(
        account_id=ACCOUNT,
        region=REGION,
        repositories=tuple(repository(name) for name in sorted(names)),
    )


def entry(name: str, **changes: Any) -> Entry:
    complete = Entry(name, owner="platform-team", risk="low", status=Status.ACTIVE)
    return replace(complete, **changes)


def catalog(entries: Iterable[Entry]) -> Catalog:
    return Catalog(tuple(sorted(entries, key=lambda each: each.name)), findings=())


def live_registry(*names: str, **changes: Any) -> ReconciledRegistry:
    """Every name governed and present; `changes` go into every entry."""
    return reconcile(catalog(entry(name, **changes) for name in names), inventory(names))


def entity_of(
    registry: ReconciledRegistry, *, identity: EntityIdentity = IDENTITY
) -> dict[str, Any]:
    return build_entity(identity, registry, account_id=ACCOUNT, region=REGION)


def rendered(entity: dict[str, Any], *, sha: str = SHA, at: datetime = NOW) -> bytes:
    stamp = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return render_entity(entity, content_digest(entity), sha, stamp)


def published(*names: str, at: datetime = NOW, **changes: Any) -> bytes:
    """The file of a registry in which every name is live."""
    return rendered(entity_of(live_registry(*names, **changes)), at=at)


def plan(
    registry: ReconciledRegistry,
    present: Inventory,
    **changes: Any,
) -> Plan:
    """A plan against `published`, the target's file; `current` is what else may be known."""
    content = changes.pop("published", None)
    version = changes.pop("expected", None if content is None else "a-version")
    identity, now = changes.pop("identity", IDENTITY), changes.pop("now", NOW)
    read_list: ReadList = changes.pop("read_list", lambda _: None)
    desired = desired_of(
        registry,
        present,
        identity=identity,
        sha=changes.get("source_sha", SHA),
        at=now,
        place=changes.pop("place", BESIDE),
    )
    arguments: dict[str, Any] = {
        "desired": desired,
        "limits": RemovalLimits(),
        "source_sha": SHA,
        "reads_began_at": NOW,
    }
    if "current" not in changes:
        arguments["current"] = Current.at_target(content, version, identity, desired, read_list)
    return make_plan(registry=registry, inventory=present, **{**arguments, "now": now, **changes})


def desired_of(
    registry: ReconciledRegistry,
    present: Inventory,
    *,
    identity: EntityIdentity = IDENTITY,
    sha: str = SHA,
    at: datetime = NOW,
    place: ListPlace = BESIDE,
) -> DesiredEntity:
    """What a registry calls for, ready to be published."""
    return desired_entity(
        identity,
        registry,
        account_id=present.account_id,
        region=present.region,
        source_sha=sha,
        now=at,
        place=place,
    )
