"""The plan of a governance file that is proposed, for `ecr-catalog plan --governance FILE`."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ecr_catalog_pipeline.commands.common import progress, read_governance_file
from ecr_catalog_pipeline.commands.past import read_past_of
from ecr_catalog_pipeline.commands.plan_report import plan_as_json, plan_as_text
from ecr_catalog_pipeline.core.errors import (
    CatalogError,
    EntityInvalid,
    GovernanceRefused,
)
from ecr_catalog_pipeline.core.governance import Catalog, parse_governance
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.plan_comment import (
    Proposal,
    comment_on,
    comment_on_failure,
    comment_on_refused,
)
from ecr_catalog_pipeline.core.text import visible
from ecr_catalog_pipeline.mirroring import (
    GovernanceRead,
    Past,
    PlannedRegistry,
    Progress,
    now_utc,
    plan_publication,
    read_inventory,
)
from ecr_catalog_pipeline.settings import Mirror
from ecr_catalog_pipeline.terminal import echo, echo_json, echo_markdown, width
from ecr_catalog_pipeline.wiring import Adapters, adapters_of


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposed file's plan, and what it changes compared with the branch's tip."""

    planned: PlannedRegistry
    proposal: Proposal


def plan_file(mirror: Mirror, name: str, *, form: str, all_states: bool) -> Plan:
    """Plan with a proposed governance file, and print what it changes.

    Args:
        name: the file.
        form: text, json or markdown.
        all_states: in text, list everything.

    Raises:
        CatalogError: there is no plan; in markdown, that is printed, too.
    """
    adapters, past = adapters_of(mirror, os.environ), read_past_of(mirror, os.environ)
    content = read_governance_file(Path(name))
    try:
        proposed = plan_proposed(mirror, adapters, past, content, name=name, progress=progress)
    except CatalogError as error:
        if form == "markdown":
            echo_markdown(_problem(mirror, error, name, content))
        raise
    planned = proposed.planned
    if form == "markdown":
        echo_markdown(comment_on(proposed.proposal))
    elif form == "json":
        echo_json(plan_as_json(mirror.name, planned))
    else:
        lines = plan_as_text(
            mirror.name,
            adapters.publisher.where,
            planned,
            governance=f"{name} in place of {mirror.governance.path}",
            width=width(),
            all_states=all_states,
        )
        echo(*lines)
    return planned.plan


def _problem(mirror: Mirror, error: CatalogError, name: str, content: bytes) -> str:
    if isinstance(error, GovernanceRefused) and error.path == visible(name):
        return comment_on_refused(mirror.name, mirror.governance.path, error, content)
    return comment_on_failure(mirror.name, error)


def plan_proposed(
    mirror: Mirror, adapters: Adapters, past: Past, content: bytes, *, name: str, progress: Progress
) -> Proposed:
    """Plan with a proposed file, and with the branch's tip to compare with. Publish nothing.

    Args:
        content: of the proposed file.
        name: names it in errors.

    Raises:
        CatalogError: there is no plan.
    """
    catalog = parse_governance(content, path=name)
    began_at = now_utc()
    with progress("reading governance"):
        tip = adapters.governance.read()
    with progress("reading ECR") as on_page:
        inventory = read_inventory(adapters.registry, on_page=on_page)
    # When its changes were asked for is of no interest before they are merged.
    known = replace(past, baseline=None, still_held_at=None)

    def plan(governed: Catalog, blob: str) -> PlannedRegistry:
        read = GovernanceRead(
            governed, blob, tip.commit, tip.source_sha, tip.committed_at, began_at
        )
        return plan_publication(mirror, adapters, read, inventory, known)

    before, problem = None, ""
    with progress("comparing with what is published"):
        planned = plan(catalog, "")
        try:
            path = mirror.governance.path
            before = plan(adapters.catalogs.parse(tip.content, tip.blob, path), tip.blob)
        except (GovernanceRefused, EntityInvalid) as error:
            problem = error.problem
    return Proposed(
        planned,
        Proposal(
            mirror=mirror.name,
            path=mirror.governance.path,
            branch=mirror.governance.branch,
            before=before.registry if before else None,
            after=planned.registry,
            plan=planned.plan,
            problem=problem,
            held_before=before is not None and before.plan.held,
        ),
    )
