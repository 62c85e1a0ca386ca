"""The command `ecr-catalog adopt`: orphans become entries of the governance file, for review."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from ecr_catalog_pipeline.adapters.ecr import EcrRegistry
from ecr_catalog_pipeline.adapters.files import replace_file
from ecr_catalog_pipeline.commands.common import (
    CHANGES,
    OK,
    get_mirror,
    mirror_option,
    progress,
    read_governance_file,
)
from ecr_catalog_pipeline.core.adopt import (
    Adoption,
    adoption,
    entries_as_text,
    ids_of,
    insert_entries,
)
from ecr_catalog_pipeline.core.conformance import Learnt, check_conformance, needs_of
from ecr_catalog_pipeline.core.errors import CatalogError, GovernanceUnavailable
from ecr_catalog_pipeline.core.governance import Catalog, parse_governance
from ecr_catalog_pipeline.core.inventory import Inventory
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State, reconcile
from ecr_catalog_pipeline.core.text import counted
from ecr_catalog_pipeline.mirroring import now_utc, read_inventory
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.terminal import echo
from ecr_catalog_pipeline.wiring import adapters_of


@click.command()
@mirror_option
@click.argument("repositories", nargs=-1, metavar="[NAME]...")
@click.option("--write", "file", metavar="FILE", help="Add the entries to this governance file.")
def adopt(name: str | None, repositories: tuple[str, ...], file: str | None) -> int:
    """Turn orphans into governance entries for review: all of them, or those named.

    Owner, risk and environment come from the tags of the repository in AWS; what they do not say is
    left to fill in. With --write the entries go into FILE, whose other bytes stay as they are.

    Exit code: 0 nothing to adopt, 2 entries given, 1 error.
    """
    mirror = get_mirror(name)
    adapters = adapters_of(mirror, os.environ)
    with progress("reading governance"):
        tip = adapters.governance.read()
        content = tip.content
        catalog = adapters.catalogs.parse(content, tip.blob, mirror.governance.path)
    with progress("reading ECR") as on_page:
        inventory = read_inventory(adapters.registry, on_page=on_page).inventory
    registry = _with_exceptions(mirror, adapters.registry, catalog, inventory)
    chosen = _chosen(registry, repositories)
    target = Path(file).resolve() if file is not None else None
    if target is not None:
        content = read_governance_file(target)
        governed = {each.name for each in parse_governance(content, path=str(file)).entries}
        chosen = [each for each in chosen if each not in governed]
    if not chosen:
        echo("Nothing to adopt.")
        return OK
    with progress("reading tags"):
        adoptions = _adoptions(mirror, adapters.registry, inventory, chosen)
    if target is None:
        ids = ids_of(content, mirror.governance.path)
        echo(*entries_as_text(adoptions, ids=ids).splitlines())
        done = f"{_entries(adoptions)} for {mirror.governance.path}"
    else:
        _write(target, insert_entries(content, adoptions, str(file)))
        echo(f"Added {_entries(adoptions)} to {file}: {', '.join(chosen)}")
        done = "Look at the change with `git diff`"
    echo(f"{done}. {_to_fill_in(adoptions)}", err=True)
    return CHANGES


def _with_exceptions(
    mirror: Mirror, ecr: EcrRegistry, catalog: Catalog, inventory: Inventory
) -> ReconciledRegistry:
    """Reconcile, with what the governance file accepts; only then AWS is asked for settings."""
    registry = reconcile(catalog, inventory)
    if not catalog.exceptions:
        return registry
    needs = needs_of(registry, catalog, mirror.policies)
    settings, _ = ecr.learn(inventory.account_id, needs.settings, ())
    return check_conformance(
        registry,
        catalog=catalog,
        inventory=inventory,
        policies=mirror.policies,
        learnt=Learnt(settings),
        today=now_utc().date(),
    )


def _chosen(registry: ReconciledRegistry, names: Sequence[str]) -> list[str]:
    """Give the orphans to adopt; without names, all that no exception accepts.

    Raises:
        CatalogError: one of the names is not an orphan.
    """
    orphans = {each.name: each for each in registry.in_state(State.ORPHAN)}
    if not names:
        return [name for name, each in orphans.items() if not each.exception]
    states = {each.name: each.state.value for each in registry.repositories}
    others = [
        f"{name} is {states.get(name, 'neither governed nor in AWS')}"
        for name in dict.fromkeys(names)
        if name not in orphans
    ]
    if others:
        raise CatalogError(
            f"only orphans can be adopted: {', '.join(others)}",
            remediation="See `ecr-catalog plan` for the states.",
        )
    return sorted(set(names))


def _adoptions(
    mirror: Mirror, registry: EcrRegistry, inventory: Inventory, names: Sequence[str]
) -> list[Adoption]:
    keys = mirror.adopt.tags.model_dump()
    repositories = {each.name: each for each in inventory.repositories}
    adoptions = []
    readable = True
    for name in names:
        tags = registry.tags(inventory.account_id, name) if readable else {}
        if tags is None:
            readable = False
            echo(
                "warning: ecr:ListTagsForResource is denied, so owner, risk and environment are "
                "left to fill in. Allow it to this mirror's role to take them from the tags.",
                err=True,
            )
        adoptions.append(adoption(repositories[name], tags or {}, keys))
    return adoptions


def _entries(adoptions: Sequence[Adoption]) -> str:
    return counted(len(adoptions), "entry")


def _to_fill_in(adoptions: Sequence[Adoption]) -> str:
    missing = {key: sum(key in each.to_fill_in for each in adoptions) for key in ("owner", "risk")}
    words = " and ".join(f"{key} of {number}" for key, number in missing.items() if number)
    return f"Fill in: {words}." if words else "Owner and risk are as the tags say."


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise GovernanceUnavailable(
            f"{path} cannot be written: {error.strerror or error}",
            remediation="Check the file, its folder and the disk. Nothing was changed.",
        ) from None
