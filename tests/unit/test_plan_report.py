"""What `plan` says of orphans, exceptions and controls, and how its table fits."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from typing import Final

import click
from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline import terminal
from ecr_catalog_pipeline.commands.plan_report import plan_as_text
from ecr_catalog_pipeline.core.exceptions import Acceptance
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.origins import OrphanOrigin
from ecr_catalog_pipeline.core.parity import Baseline, Evidence, ParityInput
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State, reconcile
from ecr_catalog_pipeline.mirroring import PlannedRegistry
from tests.unit.builders import NOW, catalog, entry, inventory, plan

ACCEPTED: Final = Acceptance("CDK bootstrap assets", date(2027, 6, 30))
FINDING: Final = Finding(
    "team/app", "image-scanning-off", Severity.ERROR, "it is off", "Turn it on.", "ECR.1"
)


def reported(registry: ReconciledRegistry, **how: int | None) -> list[str]:
    present = inventory(each.name for each in registry.repositories if each.uri)
    parity = ParityInput(Baseline("c", NOW, NOW), "b", "f", (), Evidence(None))
    planned = PlannedRegistry(registry, plan(registry, present), parity)
    return [
        click.unstyle(line.replace(terminal._OURS, "\x1b"))
        for line in plan_as_text("goldenpath", "somewhere", planned, **how)  # type: ignore[arg-type]
    ]


def an_orphan(**changes: object) -> ReconciledRegistry:
    registry = reconcile(catalog([entry("team/app")]), inventory(["team/app", "tmp"]))
    app, orphan = registry.repositories
    return replace(registry, repositories=(app, replace(orphan, **changes)))  # type: ignore[arg-type]


def test_an_orphan_says_where_it_probably_came_from() -> None:
    lines = reported(an_orphan(origin=OrphanOrigin.CREATE_ON_PUSH))
    (row,) = (line for line in lines if line.startswith("  orphan"))
    assert row.endswith("  probably create-on-push")
    assert any(line.endswith("  NOTE") for line in lines)

    for registry in (an_orphan(), an_orphan(origin=OrphanOrigin.UNKNOWN)):
        assert not any("NOTE" in line or "probably" in line for line in reported(registry))


def test_what_is_excepted_says_until_when_and_is_listed_apart() -> None:
    excepted = Finding("tmp", "orphan", Severity.WARNING, "in AWS, not governed", "Govern it.")
    registry = replace(an_orphan(exception=ACCEPTED), excepted=(excepted,))

    lines = reported(registry)

    (row,) = (line for line in lines if line.startswith("  orphan"))
    assert row.endswith("  Accepted until 2027-06-30: CDK bootstrap assets")
    assert lines[lines.index("Excepted:") + 1] == "  warning  orphan (1): Govern it."
    assert "Findings:" not in lines
    assert lines[3].endswith(" 0 retired, 1 excepted.")


def test_a_finding_names_its_control() -> None:
    lines = reported(replace(an_orphan(), findings=(FINDING,)))
    assert "  error    image-scanning-off [ECR.1] (1): Turn it on." in lines
    assert "    team/app: it is off" in lines


def test_in_a_large_registry_what_is_excepted_needs_no_attention() -> None:
    names = [f"team/app-{number}" for number in range(70)]
    registry = reconcile(catalog([]), inventory(names))
    accepted = tuple(replace(each, exception=ACCEPTED) for each in registry.repositories[1:])
    registry = replace(registry, repositories=(registry.repositories[0], *accepted))

    lines = reported(registry)

    assert len([line for line in lines if line.startswith(f"  {State.ORPHAN} ")]) == 1
    assert not any("more orphan" in line for line in lines)


@given(
    width=st.integers(10, 200),
    names=st.lists(
        st.text("abc日\x1b", min_size=1, max_size=90), min_size=1, max_size=4, unique=True
    ),
)
def test_a_table_is_never_wider_than_the_terminal_or_its_least(width: int, names: set[str]) -> None:
    registry = reconcile(catalog(entry(name, owner=name * 2) for name in names), inventory([]))

    lines = reported(registry, width=width)

    table = [line for line in lines if re.match("  (STATE|ghost)", line)]
    assert len(table) == len(names) + 1
    assert max(map(len, table)) <= max(width, 50)
