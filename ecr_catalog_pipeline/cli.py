"""The command `ecr-catalog`. Exit codes are a contract; a traceback is never what a user sees."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from ecr_catalog_pipeline import controller, report, wiring
from ecr_catalog_pipeline.controller import Outcome, PlannedRegistry
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.core.parity import judge_plan, judge_published
from ecr_catalog_pipeline.core.sprawl import find_ad_hoc_entities
from ecr_catalog_pipeline.demo.commands import demo
from ecr_catalog_pipeline.settings import (
    LoadedMirrors,
    Mirror,
    cache_folder,
    load_mirrors,
    mirrors_folder,
)

OK: Final = 0
ERROR: Final = 1
CHANGES: Final = 2
HELD: Final = 3

GUARD_FOUND: Final = 1
GUARD_UNREADABLE: Final = 2

_CATALOG_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_SKIPPED_FOLDERS: Final = frozenset({".git", "node_modules", ".venv"})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ecr-catalog-pipeline")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.pass_context
def cli(context: click.Context, *, debug: bool) -> None:
    """Keep Backstage's picture of AWS ECR true.

    Mirrors are the files of the folder ECR_CATALOG_MIRRORS, or of mirrors/ here.
    """
    context.obj = {"debug": debug}


_mirror_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "-m",
    "--mirror",
    "name",
    required=True,
    metavar="NAME",
    help="The mirror: a file NAME.yaml of the mirrors folder.",
)


@cli.command()
@_mirror_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def plan(name: str, *, as_json: bool) -> int:
    r"""Show what the next publication would change; publish nothing.

    \b
    Exit code: 0 nothing to publish, 2 changes to publish, 3 held, 1 error.
    """
    mirror = _mirror(name)
    publisher = wiring.publisher(mirror, cache_folder(os.environ))
    planned = plan_mirror(mirror)
    if as_json:
        click.echo(json.dumps(report.plan_as_json(name, planned), ensure_ascii=False, indent=2))
    else:
        for line in report.plan_as_text(name, publisher.where, planned):
            click.echo(line, color=_colour())
    if planned.plan.unchanged:
        return OK
    return HELD if planned.plan.held else CHANGES


@cli.command()
@_mirror_option
@click.option(
    "--approve",
    metavar="PLAN_HASH",
    help="Publish a held plan. Goes for that very plan, and is void when the world moves.",
)
def sync(name: str, approve: str | None) -> int:
    r"""Run the mirror's assets once: reconcile and publish.

    Keeps its history in the Dagster instance of DAGSTER_HOME, and none when that is unset.

    \b
    Exit code: 0 published or unchanged, 3 held, 1 error.
    """
    mirror = _mirror(name)
    with _progress("loading Dagster"):
        from ecr_catalog_pipeline.once import run_once  # noqa: PLC0415 - takes seconds
    with _progress(f"running the assets of {name}"):
        done = run_once(mirror, os.environ, approve=approve)
    plan, publication = done.planned.plan, done.publication
    where = wiring.publisher(mirror, cache_folder(os.environ)).where
    if publication.outcome is Outcome.HELD:
        if approve:
            click.echo(f"{approve} approves another plan; this one is {plan.plan_hash}.", err=True)
        for reason in plan.reasons_held:
            click.echo(f"held: {reason}")
        click.echo(
            f"Nothing was published. Look with: ecr-catalog plan -m {name}\n"
            f"Approve with: ecr-catalog sync -m {name} --approve {plan.plan_hash}"
        )
        return HELD
    click.echo(f"{publication.outcome}: {plan.summary}\n{where}")
    if mirror.backstage:
        shown = "visible in Backstage" if done.in_parity else "not yet visible in Backstage"
        click.echo(f"{shown}: {done.parity_reason}")
    return OK


@cli.command()
@_mirror_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def verify(name: str, *, as_json: bool) -> int:
    r"""Compare what Backstage serves with what governance and AWS call for now.

    Without `backstage:` in the mirror file, what is published is compared.

    \b
    Exit code: 0 in parity, 2 different or absent, 1 error.
    """
    mirror = _mirror(name)
    plan = plan_mirror(mirror).plan
    backstage = wiring.backstage(mirror)
    if backstage is None:
        verdict = judge_published(plan)
    else:
        with _progress("asking Backstage"):
            served = backstage.entity(mirror.identity.namespace, mirror.identity.name)
        verdict = judge_plan(plan, served)
    if as_json:
        answer = {
            "mirror": name,
            "parity": verdict.parity,
            "expected_digest": verdict.expected,
            "served_digest": verdict.served,
            "published_digest": plan.published_digest,
            "reason": verdict.reason,
            "checked_at": controller.now_utc().isoformat(timespec="seconds"),
        }
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        click.echo(f"{'In parity' if verdict.parity else 'Not in parity'}: {verdict.reason}")
    return OK if verdict.parity else CHANGES


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def guard(paths: tuple[str, ...]) -> int:
    r"""Find YAML that declares an ad-hoc ECR entity.

    Takes files and folders; of a folder every .yaml, .yml and .json file below it. YAML that
    cannot be parsed, such as a template, is a warning.

    \b
    Exit code: 0 clean, 1 found, 2 unreadable.
    """
    entities = {mirror.identity.name for mirror in _mirrors_if_any().mirrors.values()}
    found = unreadable = 0
    for file in _catalog_files(paths):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            click.echo(f"{file}: cannot be read: {error}", err=True)
            unreadable += 1
            continue
        inspection = find_ad_hoc_entities(text, entities)
        for entity in inspection.found:
            click.echo(f"{file}:{entity.line}: ad-hoc ECR entity {entity.name} ({entity.type})")
            found += 1
        if inspection.unparsed:
            click.echo(f"{file}:{inspection.unparsed} (warning: not inspected further)", err=True)
    if found:
        click.echo(
            f"{found} ad-hoc ECR entities. Remove them: govern the repository in "
            "ecr-catalog.yaml, and the mirror's entity lists it.",
            err=True,
        )
    if unreadable:
        return GUARD_UNREADABLE
    return GUARD_FOUND if found else OK


cli.add_command(demo)


def plan_mirror(mirror: Mirror) -> PlannedRegistry:
    """Compute the plan of a mirror, with progress on a terminal."""
    cache = cache_folder(os.environ)
    publisher = wiring.publisher(mirror, cache)
    with _progress("reading governance"):
        governance = controller.read_governance(
            wiring.governance_repo(mirror, cache), mirror.governance.path
        )
    with _progress("reading ECR"):
        inventory = controller.read_inventory(
            wiring.ecr_registry(mirror), publisher, mirror.identity
        )
    with _progress("comparing with what is published"):
        return controller.plan_publication(mirror, governance, inventory, publisher)


def main() -> None:
    """Run `ecr-catalog`."""
    run(cli)


def run(command: click.Command) -> NoReturn:
    """Run a command; every error becomes a sentence and an exit code."""
    debug = "--debug" in sys.argv
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = ERROR
    except click.Abort:
        click.echo("Stopped.", err=True)
        code = ERROR
    except CatalogError as error:
        click.echo(f"Error: {error}", err=True)
        code = ERROR
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"Error: unexpected {type(error).__name__}: {error}. This is a defect of ours; run "
            "again with `ecr-catalog --debug ...` and report what it prints.",
            err=True,
        )
        code = ERROR
    sys.exit(code)


def _mirror(name: str) -> Mirror:
    return load_mirrors(mirrors_folder(os.environ)).get(name)


def _mirrors_if_any() -> LoadedMirrors:
    folder = mirrors_folder(os.environ)
    loaded = load_mirrors(folder) if folder.is_dir() else LoadedMirrors({}, {})
    for error in loaded.errors.values():
        click.echo(f"warning: {error}", err=True)
    return loaded


def _catalog_files(paths: tuple[str, ...]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
            yield from (
                Path(folder, file)
                for file in sorted(files)
                if Path(file).suffix.lower() in _CATALOG_SUFFIXES
            )


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """Say on a terminal what takes long."""
    if not sys.stderr.isatty():
        yield
        return
    click.echo(f"{what}...", err=True, nl=False)
    try:
        yield
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)


def _colour() -> bool | None:
    """None lets click decide: colour only on a terminal."""
    return False if os.environ.get("NO_COLOR") else None
