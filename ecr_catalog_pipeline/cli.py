"""The command `ecr-catalog`. Exit codes are a contract; a traceback is never what a user sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from ecr_catalog_pipeline import mirroring, report, wiring
from ecr_catalog_pipeline.catalog_files import CatalogFile, catalog_files
from ecr_catalog_pipeline.core.errors import CatalogError, TargetRefused, TargetUnavailable
from ecr_catalog_pipeline.core.last_publication import LastPublication, left_behind
from ecr_catalog_pipeline.core.parity import judge_plan, judge_published
from ecr_catalog_pipeline.core.sprawl import find_ad_hoc_entities
from ecr_catalog_pipeline.core.strict_yaml import readable
from ecr_catalog_pipeline.core.text import visible
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
from ecr_catalog_pipeline.terminal import (
    echo,
    echo_command,
    echo_json,
    print_what_cannot_be_encoded_as_escapes,
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
        echo_json(report.plan_as_json(name, planned))
    else:
        echo(*report.plan_as_text(name, where, planned))
    if stays := left_behind(last, where, mirror.identity.reference):
        echo(report.left_behind(stays), err=True)
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
        done = run_once(
            mirror,
            os.environ,
            approve=approve,
            warn=lambda words: click.echo(f"warning: {words}", err=True),
        )
    plan, publication = done.planned.plan, done.publication
    where = wiring.publisher(mirror, cache_folder(os.environ)).where
    if stays := left_behind(last, where, mirror.identity.reference):
        echo(report.left_behind(stays), err=True)
    if publication.outcome is Outcome.HELD:
        if approve:
            echo(f"{approve} approves another plan; this one is {plan.plan_hash}.", err=True)
        echo(*(f"held: {reason}" for reason in plan.reasons_held))
        _tell_report(publication)
        echo(
            f"Nothing was published. Look with: ecr-catalog plan -m {name}",
            f"Approve with: ecr-catalog sync -m {name} --approve {plan.plan_hash}",
        )
        return HELD
    echo(f"{publication.outcome}: {plan.summary}", where)
    _tell_report(publication)
    if mirror.backstage:
        shown = "visible in Backstage" if done.in_parity else "not yet visible in Backstage"
        echo(f"{shown}: {done.parity_reason}")
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
        echo_json(answer)
    else:
        echo(f"{'In parity' if verdict.parity else 'Not in parity'}: {verdict.reason}")
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

    Takes files and folders; of a folder every .yaml, .yml and .json file below it, of up to 20 MB
    in UTF-8. No symbolic link below a folder is followed. YAML that cannot be parsed, such as a
    template, is a warning; the other documents of its file count. A type that differs from one of
    an ad-hoc entity in case only is a warning, too.

    Exit code: 0 clean, 1 found, 2 a file that was not inspected.
    """
    entities = {mirror.identity.name for mirror in _mirrors_if_any().mirrors.values()} | {*own}
    told = _as_annotation if form == "github" else _as_line
    found = unreadable = 0
    for file in chain.from_iterable(catalog_files(Path(path)) for path in paths):
        if file.link and file.folder:
            told("skipped", file.path, file.problem)
            continue
        try:
            text = _text_of(file)
        except ValueError as error:
            told("unreadable", file.path, str(error))
            unreadable += 1
            continue
        inspection = find_ad_hoc_entities(text, entities)
        for entity in inspection.found:
            what = f"ad-hoc ECR entity {readable(entity.name)} ({entity.type})"
            told("found", file.path, what, entity.line, entity.column)
            found += 1
        for entity in inspection.alike:
            what = (
                f"the type {readable(entity.type)} of {readable(entity.name)} differs from the one "
                "of an ad-hoc ECR entity in case only"
            )
            told("alike", file.path, what, entity.line, entity.column)
        for each in inspection.unparsed:
            told("unparsed", file.path, each.problem, each.line, each.column)
    if found:
        echo(
            f"{found} ad-hoc ECR entities. Remove them: govern the repository in "
            "ecr-catalog.yaml, and the mirror's entity lists it.",
            err=True,
        )
    if unreadable:
        return GUARD_UNREADABLE
    return GUARD_FOUND if found else OK


def _text_of(file: CatalogFile) -> str:
    """Give a file's text.

    Raises:
        ValueError: it was not inspected; says why.
    """
    if file.content is None:
        words = "cannot be read" if file.unreadable else "not inspected"
        raise ValueError(f"{words}: {file.problem}")
    try:
        return file.content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot be read: not UTF-8 (byte {error.start})") from None


_REMARKS: Final = {
    "unparsed": " (warning: not inspected)",
    "skipped": " (warning: not inspected)",
    "alike": " (warning)",
}


def _as_line(what: str, file: Path, words: str, line: int = 1, column: int = 1) -> None:
    """Print a finding of the guard as FILE:LINE: on stdout, all else on stderr."""
    if what == "found":
        echo(f"{file}:{line}: {words}")
    elif what in _REMARKS:
        echo(f"{file}:{line}:{column}: {words}{_REMARKS[what]}", err=True)
    else:
        echo(f"{file}: {words}", err=True)


def _as_annotation(what: str, file: Path, words: str, line: int = 1, column: int = 1) -> None:
    """Print a finding of the guard as a workflow command of GitHub Actions."""
    level = "warning" if what in _REMARKS else "error"
    title = {
        "found": "Ad-hoc ECR entity",
        "alike": "Type in another case",
        "unreadable": "Unreadable",
    }.get(what, "Not inspected")
    message = words
    if what == "found":
        message += ". Govern the repository in ecr-catalog.yaml; the mirror's entity lists it."
    place = ",".join(
        f"{key}={_escaped(str(value), of_property=True)}"
        for key, value in (("file", file), ("line", line), ("col", column), ("title", title))
    )
    echo_command(f"::{level} {place}::{_escaped(visible(message))}")


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
    print_what_cannot_be_encoded_as_escapes()
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        _show_usage(error)
        code = ERROR
    except click.Abort:
        echo("Stopped.", err=True)
        code = ERROR
    except CatalogError as error:
        echo(f"Error: {error}", *getattr(error, "__notes__", ()), err=True)
        code = ERROR
    except Exception as error:
        if debug:
            raise
        echo(
            f"Error: unexpected {type(error).__name__}: {error}. This is a defect of ours; run "
            "again with `ecr-catalog --debug ...` and report what it prints.",
            err=True,
        )
        code = ERROR
    sys.exit(code)


def _tell_report(publication: Publication) -> None:
    """Say why the health report is not what it should be; nothing when it is."""
    if publication.report and publication.report.problem:
        echo(
            f"health report: {publication.report.problem}. {publication.report.remediation}",
            err=True,
        )


def _show_usage(error: click.ClickException) -> None:
    """Print what click would, but for what the arguments hold."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(context.get_usage(), err=True)
        echo(f"Try '{context.command_path} {context.help_option_names[0]}' for help.", "", err=True)
    echo(f"Error: {error.format_message()}", err=True)


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
        echo(f"warning: {error}", err=True)
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
        click.echo("\r\x1b[K", err=True, nl=False)  # Our own: it clears the line.
