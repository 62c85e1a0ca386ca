"""Values of the core as the tables and texts that the Dagster UI shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, fields
from datetime import datetime
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

import dagster as dg

from ecr_catalog_pipeline.core.ecr_settings import EcrSettings, settings_in_words
from ecr_catalog_pipeline.core.exceptions import accepted_in_words
from ecr_catalog_pipeline.core.findings import Finding
from ecr_catalog_pipeline.core.last_good import age_in_words
from ecr_catalog_pipeline.core.parity import Change
from ecr_catalog_pipeline.core.plan import Changes
from ecr_catalog_pipeline.core.reconcile import Conformance, ReconciledRepository
from ecr_catalog_pipeline.core.retention import Rotation
from ecr_catalog_pipeline.core.text import inert, shortened, visible

MAX_ROWS: Final = 500
MAX_CELL: Final = 256
"""What is longer is cut; names of what a plan changes are whole, so that no two look alike."""
MAX_WORDS: Final = 1_000
"""How long a text is shown that quotes others: an error, a reason."""


def words(text: str) -> str:
    """A text that quotes others, as the UI may show it: it renders descriptions as Markdown."""
    return inert(shortened(text, MAX_WORDS))


def repositories(rows: Iterable[ReconciledRepository]) -> dg.TableMetadataValue:
    """One row a repository, in the order given; its URI, which is long, last."""
    columns = [field.name for field in fields(ReconciledRepository) if field.name != "uri"]
    columns.append("uri")
    return table(columns, map(_repository_row, rows))


def findings(rows: Iterable[Finding]) -> dg.TableMetadataValue:
    """One row a finding, the most severe first."""
    order = {severity: place for place, severity in enumerate(("error", "warning", "info"))}
    ranked = sorted(rows, key=lambda row: order[row.severity])
    columns = ["severity", "repository", "message", "remediation", "rule", "control"]
    return table(columns, (asdict(row) for row in ranked))


def changes(plan_changes: Changes) -> dg.TableMetadataValue:
    """One row a change."""
    return table(["change", "repository"], _change_rows(plan_changes), whole=("repository",))


def parity_changes(rows: Iterable[Change]) -> dg.TableMetadataValue:
    """One row a change, with its times and its time to parity in seconds."""
    columns = [
        *("repository", "seconds", "field", "old", "new"),
        *("asked", "published", "visible", "basis", "not counted"),
    ]
    return table(
        columns,
        (
            {
                "repository": row.repository,
                "field": row.field,
                "old": row.old,
                "new": row.new,
                "asked": _moment(row.asked_at),
                "basis": row.basis.value,
                "published": _moment(row.published_at),
                "visible": _moment(row.visible_at),
                "seconds": "" if row.seconds is None else f"{row.seconds:.1f}",
                "not counted": row.excused,
            }
            for row in rows
        ),
    )


def conformance(rows: Iterable[Conformance]) -> dg.TableMetadataValue:
    """One row an aspect of policy and owner, as it comes."""
    columns = [field.name for field in fields(Conformance)]
    return table(columns, ({**asdict(row), **_numbers(row)} for row in rows))


def retention(rotation: Rotation, now: datetime) -> dg.TableMetadataValue:
    """One row a lifecycle policy that was read, the oldest answer first."""
    oldest_first = sorted(rotation.answers.items(), key=lambda each: (each[1].at, each[0]))
    return table(
        ["repository", "keeps", "read", "age"],
        (
            {
                "repository": name,
                "keeps": answer.problem or str(answer.keeps or "all images"),
                "read": _moment(answer.at),
                "age": age_in_words(now - answer.at),
            }
            for name, answer in oldest_first
        ),
    )


def registry_settings(settings: EcrSettings) -> dg.TableMetadataValue:
    """One row a setting of the registry that was asked for."""
    return table(
        ["setting", "value"],
        ({"setting": name, "value": value} for name, value in settings_in_words(settings).items()),
    )


def diff(plan_changes: Changes) -> dg.MarkdownMetadataValue:
    """The changes as a Markdown diff."""
    signs = {"added": "+", "updated": "!", "removed": "-"}
    lines = [
        f"{signs[row['change']]} {visible(row['repository'])}" for row in _change_rows(plan_changes)
    ]
    shown = [
        *lines[:MAX_ROWS],
        *([f"# and {len(lines) - MAX_ROWS} more"] * (len(lines) > MAX_ROWS)),
    ]
    return dg.MetadataValue.md(
        "\n".join(["```diff", *shown, "```"]) if shown else "No repository changes."
    )


def commit(repository: str, sha: str) -> dg.MetadataValue[Any]:
    """A link to a commit where the repository's host is known to have such pages."""
    host, path = _host_and_path(repository)
    if not host:
        return dg.MetadataValue.text(visible(f"{sha} in {repository}"))
    page = "commits" if host.startswith("bitbucket.") else "commit"
    return dg.MetadataValue.url(f"https://{host}/{path}/{page}/{sha}")


def _host_and_path(repository: str) -> tuple[str, str]:
    if "://" in repository:
        parts = urlsplit(repository)
        host, path = parts.hostname or "", parts.path
    elif ":" in repository and not repository.startswith("/"):
        host, path = repository.rsplit("@", maxsplit=1)[-1].split(":", 1)
    else:
        return "", ""
    return host, path.strip("/").removesuffix(".git")


def _numbers(row: Conformance) -> dict[str, str]:
    """A number that is 0 is shown."""
    return {name: str(value) for name, value in asdict(row).items() if isinstance(value, int)}


def _repository_row(row: ReconciledRepository) -> dict[str, Any]:
    return {**asdict(row), "exception": accepted_in_words(row.exception) if row.exception else ""}


def _change_rows(plan_changes: Changes) -> Iterator[dict[str, str]]:
    for change in ("added", "removed", "updated"):
        for name in getattr(plan_changes, change):
            yield {"change": change, "repository": name}


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else ""


def table(
    columns: list[str], rows: Iterable[dict[str, Any]], *, whole: Collection[str] = ()
) -> dg.TableMetadataValue:
    """The first MAX_ROWS rows, their long cells cut but for those of the whole columns."""
    records = [
        dg.TableRecord(
            {
                column: _cell(str(row[column] or ""), None if column in whole else MAX_CELL)
                for column in columns
            }
        )
        for row in islice(rows, MAX_ROWS)
    ]
    schema = dg.TableSchema([dg.TableColumn(column, "string") for column in columns])
    return dg.MetadataValue.table(records=records, schema=schema)


def _cell(text: str, limit: int | None) -> str:
    return inert(visible(text) if limit is None else shortened(text, limit))
