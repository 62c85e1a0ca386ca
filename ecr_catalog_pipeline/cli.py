"""The command `ecr-catalog`. Exit codes are a contract; a traceback is never what a user sees."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from ecr_catalog_pipeline import mirroring, report, wiring
from ecr_catalog_pipeline.catalog_files import catalog_files
from ecr_catalog_pipeline.core.errors import CatalogError, TargetRefused, TargetUnavailable
from ecr_catalog_pipeline.core.last_publication import LastPublication, left_behind
from ecr_catalog_pipeline.core.parity import judge_plan, judge_published
from ecr_catalog_pipeline.core.sprawl import find_ad_hoc_entities
from ecr_catalog_pipeline.core.strict_yaml import readable
from ecr_catalog_pipeline.dagster_home import last_publication
from ecr_catalog_pipeline.demo.commands import demo
from ecr_catalog_pipeline.init import init
from ecr_catalog_pipeline.mirroring import Outcome, PlannedRegistry, Publication
from ecr_catalog_pipeline.retire import retire
from ecr_catalog_pipeline.schemas import schema_command
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
    """Show what the next publication would change; publish nothing.

    Exit code: 0 nothing to publish, 2 changes to publish, 3 held, 1 error.
    """
    mirror = _mirror(name)
    where = wiring.publisher(mirror, cache_folder(os.environ)).where
    last = last_publication(mirror, os.environ)
    with _telling_last_good(mirror):
        planned = plan_mirror(mirror, last)
    if as_json:
        # Written piece by piece: as one text, a large plan takes several times its memory.
        json.dump(report.plan_as_json(name, planned), sys.stdout, ensure_ascii=False, indent=2)
        click.echo()
    else:
        for line in report.plan_as_text(name, where, planned):
            click.echo(line, color=_colour())
    if stays := left_behind(last, where, mirror.identity.reference):
        click.echo(report.left_behind(stays), err=True)
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
    """Run the mirror's assets once: reconcile and publish.

    Keeps its history in the Dagster instance of DAGSTER_HOME, and none when that is unset.

    Exit code: 0 published or unchanged, 3 held, 1 error.
    """
    mirror = _mirror(name)
    last = last_publication(mirror, os.environ)
    with _progress("loading Dagster"):
        from ecr_catalog_pipeline.once import run_once  # noqa: PLC0415 - takes seconds
    with _telling_last_good(mirror), _progress(f"running the assets of {name}"):
        done = run_once(mirror, os.environ, approve=approve)
    plan, publication = done.planned.plan, done.publication
    where = wiring.publisher(mirror, cache_folder(os.environ)).where
    if stays := left_behind(last, where, mirror.identity.reference):
        click.echo(report.left_behind(stays), err=True)
    if publication.outcome is Outcome.HELD:
        if approve:
            click.echo(f"{approve} approves another plan; this one is {plan.plan_hash}.", err=True)
        for reason in plan.reasons_held:
            click.echo(f"held: {reason}")
        _tell_report(publication)
        click.echo(
            f"Nothing was published. Look with: ecr-catalog plan -m {name}\n"
            f"Approve with: ecr-catalog sync -m {name} --approve {plan.plan_hash}"
        )
        return HELD
    click.echo(f"{publication.outcome}: {plan.summary}\n{where}")
    _tell_report(publication)
    if mirror.backstage:
        shown = "visible in Backstage" if done.in_parity else "not yet visible in Backstage"
        click.echo(f"{shown}: {done.parity_reason}")
    return OK


@cli.command()
@_mirror_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def verify(name: str, *, as_json: bool) -> int:
    """Compare what Backstage serves with what governance and AWS call for now.

    Without `backstage:` in the mirror file, what is published is compared.

    Exit code: 0 in parity, 2 different or absent, 1 error.
    """
    mirror = _mirror(name)
    with _telling_last_good(mirror):
        plan = plan_mirror(mirror, last_publication(mirror, os.environ)).plan
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
            "published_digest": None if plan.target_is_absent else plan.published_digest,
            "reason": verdict.reason,
            "checked_at": mirroring.now_utc().isoformat(timespec="seconds"),
        }
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        click.echo(f"{'In parity' if verdict.parity else 'Not in parity'}: {verdict.reason}")
    return OK if verdict.parity else CHANGES


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "github"]),
    default="text",
    show_default=True,
    help="`github` prints annotations for GitHub Actions.",
)
@click.option(
    "--entity",
    "own",
    multiple=True,
    metavar="NAME",
    help="An entity that a mirror generates, where the mirror's file is not here. Repeatable.",
)
def guard(paths: tuple[str, ...], form: str, own: tuple[str, ...]) -> int:
    """Find YAML that declares an ad-hoc ECR entity.

    Takes files and folders; of a folder every .yaml, .yml and .json file below it. YAML that
    cannot be parsed, such as a template, is a warning; the other documents of its file count.

    Exit code: 0 clean, 1 found, 2 unreadable.
    """
    entities = {mirror.identity.name for mirror in _mirrors_if_any().mirrors.values()} | {*own}
    told = _as_annotation if form == "github" else _as_line
    found = unreadable = 0

    def refused(error: OSError) -> None:
        nonlocal unreadable
        told("unreadable", Path(error.filename), f"cannot be read: {error.strerror}")
        unreadable += 1

    for file in chain.from_iterable(catalog_files(Path(path), refused) for path in paths):
        try:
            if file.is_symlink() and file.is_dir():
                continue  # What it points to is looked at where it stands.
            text = file.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            told("unreadable", file, f"cannot be read: {error}")
            unreadable += 1
            continue
        inspection = find_ad_hoc_entities(text, entities)
        for entity in inspection.found:
            what = f"ad-hoc ECR entity {readable(entity.name)} ({entity.type})"
            told("found", file, what, entity.line, entity.column)
            found += 1
        for each in inspection.unparsed:
            told("unparsed", file, each.problem, each.line, each.column)
    if found:
        click.echo(
            f"{found} ad-hoc ECR entities. Remove them: govern the repository in "
            "ecr-catalog.yaml, and the mirror's entity lists it.",
            err=True,
        )
    if unreadable:
        return GUARD_UNREADABLE
    return GUARD_FOUND if found else OK


def _as_line(what: str, file: Path, words: str, line: int = 1, column: int = 1) -> None:
    """Tell a finding of the guard as FILE:LINE: on stdout, all else on stderr."""
    if what == "found":
        click.echo(f"{file}:{line}: {words}")
    elif what == "unparsed":
        click.echo(f"{file}:{line}:{column}: {words} (warning: not inspected)", err=True)
    else:
        click.echo(f"{file}: {words}", err=True)


def _as_annotation(what: str, file: Path, words: str, line: int = 1, column: int = 1) -> None:
    """Tell a finding of the guard as a workflow command of GitHub Actions."""
    level = "warning" if what == "unparsed" else "error"
    title = {"found": "Ad-hoc ECR entity", "unparsed": "Not inspected", "unreadable": "Unreadable"}
    message = words
    if what == "found":
        message += ". Govern the repository in ecr-catalog.yaml; the mirror's entity lists it."
    place = ",".join(
        f"{key}={_escaped(str(value), of_property=True)}"
        for key, value in (("file", file), ("line", line), ("col", column), ("title", title[what]))
    )
    click.echo(f"::{level} {place}::{_escaped(message)}")


def _escaped(text: str, *, of_property: bool = False) -> str:
    """Escape as GitHub's runner undoes it: a message, or a property before it."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if of_property else text


cli.add_command(demo)
cli.add_command(retire)
cli.add_command(schema_command)
cli.add_command(init)


def plan_mirror(mirror: Mirror, last: LastPublication | None = None) -> PlannedRegistry:
    """Compute the plan of a mirror, with progress on a terminal.

    Args:
        last: the last publication that Dagster's history knows; None when it knows none.
    """
    cache = cache_folder(os.environ)
    publisher = wiring.publisher(mirror, cache)
    with _progress("reading governance"):
        governance = mirroring.read_governance(
            wiring.governance_repo(mirror, cache), mirror.governance.path
        )
    with _progress("reading ECR"):
        ecr = wiring.ecr_registry(mirror)
        inventory = mirroring.read_inventory(ecr)
    with _progress("comparing with what is published"):
        return mirroring.plan_publication(
            mirror,
            governance,
            inventory,
            ecr=ecr,
            publisher=publisher,
            backstage=wiring.backstage(mirror),
            last=last,
        )


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
        click.echo("\n".join([f"Error: {error}", *getattr(error, "__notes__", ())]), err=True)
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


def _tell_report(publication: Publication) -> None:
    """Say why the health report is not what it should be; nothing when it is."""
    if publication.report and publication.report.problem:
        click.echo(
            f"health report: {publication.report.problem}. {publication.report.remediation}",
            err=True,
        )


@contextmanager
def _telling_last_good(mirror: Mirror) -> Iterator[None]:
    """Note on an error what stays published in spite of it, where the target can be read."""
    try:
        yield
    except (TargetUnavailable, TargetRefused):
        raise
    except CatalogError as error:
        try:
            kept = mirroring.last_good(
                wiring.publisher(mirror, cache_folder(os.environ)), mirror.identity
            )
        except CatalogError as unreadable:
            error.add_note(f"What is published cannot be read, either: {unreadable.problem}.")
        else:
            error.add_note(f"Last good, as it was: {kept}.")
        raise


def _mirror(name: str) -> Mirror:
    return load_mirrors(mirrors_folder(os.environ)).get(name)


def _mirrors_if_any() -> LoadedMirrors:
    folder = mirrors_folder(os.environ)
    loaded = load_mirrors(folder) if folder.is_dir() else LoadedMirrors({}, {})
    for error in loaded.errors.values():
        click.echo(f"warning: {error}", err=True)
    return loaded


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
