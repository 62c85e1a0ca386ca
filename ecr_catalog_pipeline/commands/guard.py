"""The command `ecr-catalog guard`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Final

import click

from ecr_catalog_pipeline.commands.common import OK, mirrors_if_any
from ecr_catalog_pipeline.core.strict_yaml import readable
from ecr_catalog_pipeline.core.text import visible
from ecr_catalog_pipeline.sprawl.ad_hoc import find_ad_hoc_entities
from ecr_catalog_pipeline.sprawl.catalog_files import CatalogFile, catalog_files
from ecr_catalog_pipeline.terminal import echo, echo_command

FOUND: Final = 1
UNREADABLE: Final = 2


@click.command()
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
    entities = {mirror.identity.name for mirror in mirrors_if_any().mirrors.values()} | {*own}
    show = _as_annotation if form == "github" else _as_line
    found = unreadable = 0
    for file in chain.from_iterable(catalog_files(Path(path)) for path in paths):
        if file.link and file.folder:
            show("skipped", file.path, file.problem)
            continue
        try:
            text = _text_of(file)
        except ValueError as error:
            show("unreadable", file.path, str(error))
            unreadable += 1
            continue
        inspection = find_ad_hoc_entities(text, entities)
        for entity in inspection.found:
            what = f"ad-hoc ECR entity {readable(entity.name)} ({entity.type})"
            show("found", file.path, what, entity.line, entity.column)
            found += 1
        for entity in inspection.alike:
            what = (
                f"the type {readable(entity.type)} of {readable(entity.name)} differs from the one "
                "of an ad-hoc ECR entity in case only"
            )
            show("alike", file.path, what, entity.line, entity.column)
        for each in inspection.unparsed:
            show("unparsed", file.path, each.problem, each.line, each.column)
    if found:
        echo(
            f"{found} ad-hoc ECR entities. Remove them: govern the repository in "
            "ecr-catalog.yaml, and the mirror's entity lists it.",
            err=True,
        )
    if unreadable:
        return UNREADABLE
    return FOUND if found else OK


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
