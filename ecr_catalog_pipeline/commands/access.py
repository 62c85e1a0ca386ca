"""Checks access to everything that a mirror needs. Nothing is published by it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.git_clone import BranchMissing, GitClone
from ecr_catalog_pipeline.adapters.git_command import GitFailed
from ecr_catalog_pipeline.adapters.publish_git import GitPublisher
from ecr_catalog_pipeline.core.ecr_settings import DENIED, REGISTRY_SETTINGS
from ecr_catalog_pipeline.core.errors import CatalogError, InventoryFailed, TargetRefused
from ecr_catalog_pipeline.settings import GitTarget, Mirror, S3Target
from ecr_catalog_pipeline.wiring import Adapters, adapters_of

_TRIAL_AUTHOR: Final = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "ecr-catalog-pipeline"), ("EMAIL", "ecr-catalog-pipeline@local"))
}


@dataclass(frozen=True, slots=True)
class Access:
    """Whether access to one thing works; `remediation` says what to do when it does not."""

    subject: str
    granted: bool
    found: str
    remediation: str = ""


def check_access(mirror: Mirror, environ: Mapping[str, str]) -> Iterator[Access]:
    """Ask governance, ECR, the target and Backstage in turn.

    Of what policy and origins need to know of ECR, only what is denied is reported.
    """
    checks: tuple[tuple[str, Callable[[Mirror, Adapters], str], str], ...] = (
        ("governance", _governance, ""),
        ("ECR", _registry, " The permissions that it takes are in deploy/iam/."),
        ("ECR rules", _registry_settings, " The permissions that it takes are in deploy/iam/."),
        ("target", _target, ""),
        ("Backstage", _backstage, " deploy/backstage/ says how to allow the pipeline."),
    )
    adapters = adapters_of(mirror, environ)
    for subject, check, more in checks:
        try:
            if found := check(mirror, adapters):
                yield Access(subject, granted=True, found=found)
        except CatalogError as error:
            yield Access(
                subject, granted=False, found=error.problem, remediation=error.remediation + more
            )


def _governance(mirror: Mirror, adapters: Adapters) -> str:
    catalog = mirroring.read_governance(mirror, adapters).catalog
    return (
        f"{_count(len(catalog.entries), 'repository', 'repositories')} and "
        f"{_count(len(catalog.findings), 'finding', 'findings')} in {adapters.governance.where}"
    )


def _registry(mirror: Mirror, adapters: Adapters) -> str:
    inventory = adapters.registry.read()
    found = (
        f"account {inventory.account_id} answers for {inventory.region}, with "
        f"{_count(len(inventory.repositories), 'repository', 'repositories')}"
    )
    if mirror.registry.account_id is None:
        found += "; write it as registry.account_id, and any other account is refused"
    return found


def _registry_settings(_: Mirror, adapters: Adapters) -> str:
    """Say which settings of the registry are denied; nothing when none is."""
    try:
        inventory = adapters.registry.read()
    except CatalogError:
        return ""  # It was reported above.
    names = [each.name for each in inventory.repositories[:1]]
    settings, _policies = adapters.registry.learn(inventory.account_id, REGISTRY_SETTINGS, names)
    denied = [action for action, why in sorted(settings.unknown.items()) if why == DENIED]
    if denied:
        raise InventoryFailed(
            f"denied: {', '.join(denied)}; what depends on it is unknown, all else is mirrored",
            remediation=f"Allow {' and '.join(denied)} to this mirror's role.",
        )
    return ""


def _target(mirror: Mirror, adapters: Adapters) -> str:
    publisher = adapters.publisher
    held = mirroring.last_good(publisher, mirror.identity)
    target = mirror.publish
    if isinstance(target, GitTarget) and isinstance(publisher, GitPublisher):
        _check_push(publisher.clone, Path(target.repository.removeprefix("file://")))
        taken = "dry-run push succeeded; branch rules and hooks are not checked"
    elif isinstance(target, S3Target):
        taken = "it can be read; writing is first tried by the first sync"
    else:
        _check_folder(Path(target.path))
        taken = "the folder can be written"
    return f"{publisher.where}: {held}; {taken}"


def _check_push(clone: GitClone, repository: Path) -> None:
    """Push what is there already, or an empty commit, to see whether it is allowed; a dry run."""
    try:
        _check_source(repository)
        with clone.locked():
            try:
                commit = clone.fetch()
            except BranchMissing:
                tree = clone.run("hash-object", "-t", "tree", "-w", os.devnull)
                commit = clone.run("commit-tree", tree, "-m", "Access", environment=_TRIAL_AUTHOR)
            clone.run("push", "--dry-run", "--quiet", "origin", f"{commit}:{clone.ref}")
    except GitFailed as error:
        raise TargetRefused(
            f"{clone.repository} can be read, and takes no push: {error}",
            remediation=error.remediation
            or "Give git's credential helper, GIT_ASKPASS or the SSH agent a key or "
            "token that may write there.",
        ) from None


def _check_source(repository: Path) -> None:
    """See whether a repository on this machine can be written: a dry run does not look."""
    inside = repository / ".git" / "objects"
    objects = inside if inside.is_dir() else repository / "objects"
    if repository.is_dir() and not os.access(objects, os.W_OK | os.X_OK):
        raise GitFailed(f"{repository} cannot be written by this user")


def _check_folder(path: Path) -> None:
    folder = next(each for each in path.parents if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise TargetRefused(
            f"{path} cannot be made: {folder} is not a folder that this user may write to",
            remediation="Correct publish.path, or the permissions of that folder.",
        )


def _backstage(mirror: Mirror, adapters: Adapters) -> str:
    settings, backstage = mirror.backstage, adapters.backstage
    if settings is None or backstage is None:
        return "none is named, so parity is measured to the publication"
    identity = mirror.identity
    reference = f"resource:{identity.namespace}/{identity.name}"
    served = backstage.entity(identity.namespace, identity.name) is not None
    if settings.token_env and os.environ.get(settings.token_env):
        found = f"{settings.url} answers and takes the token of {settings.token_env}"
    elif settings.token_env:
        found = f"{settings.url} answers without a token; {settings.token_env} is not set here"
    else:
        found = f"{settings.url} answers without a token"
    if served:
        return f"{found}; it serves {reference}"
    return (
        f"{found}; it does not serve {reference} yet, and whether its rules allow it cannot be "
        "asked: see deploy/backstage/"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
