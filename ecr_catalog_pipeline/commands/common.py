"""What the commands share: exit codes, the mirror they are for, progress, the last good entity."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.ecr import OnPage
from ecr_catalog_pipeline.adapters.files import read_regular_file
from ecr_catalog_pipeline.core.errors import (
    CatalogError,
    GovernanceUnavailable,
    SettingsError,
    TargetRefused,
    TargetUnavailable,
)
from ecr_catalog_pipeline.core.governance import MAX_BYTES
from ecr_catalog_pipeline.core.text import counted
from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror, load_mirrors, mirrors_folder
from ecr_catalog_pipeline.terminal import echo
from ecr_catalog_pipeline.wiring import adapters_of

OK: Final = 0
ERROR: Final = 1
CHANGES: Final = 2
HELD: Final = 3

_CLEAR_LINE: Final = "\r\x1b[K"

mirror_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "-m",
    "--mirror",
    "name",
    metavar="NAME",
    help="The mirror: a file NAME.yaml of the mirrors folder. May be left out where there is one.",
)
all_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--all",
    "every",
    is_flag=True,
    help="Every mirror of the folder, several at once; ends with the worst exit code.",
)
json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)


def get_mirror(name: str | None) -> Mirror:
    """Load a mirror by its name, or the only one that there is.

    Raises:
        SettingsError: there is no such mirror, its file cannot be used, or there are several.
    """
    loaded = load_mirrors(mirrors_folder(os.environ))
    if name is not None:
        return loaded.get(name)
    names = sorted({*loaded.mirrors, *loaded.errors})
    if len(names) == 1:
        return loaded.get(names[0])
    if not names:
        raise no_mirror()
    raise SettingsError(
        f"there are several mirrors: {', '.join(names)}", remediation="Name one with -m NAME."
    )


def no_mirror() -> SettingsError:
    """Give the error of a folder without a mirror file."""
    return SettingsError(
        "there is no mirror", remediation="Write a mirror file with `ecr-catalog init`."
    )


def mirrors_if_any() -> LoadedMirrors:
    """Load the mirrors where there is a folder of them; warn of those that cannot be used."""
    folder = mirrors_folder(os.environ)
    loaded = load_mirrors(folder) if folder.is_dir() else LoadedMirrors({}, {})
    for error in loaded.errors.values():
        echo(f"warning: {error}", err=True)
    return loaded


def read_governance_file(path: Path) -> bytes:
    """Read a governance file of this machine, committed or not.

    Raises:
        GovernanceUnavailable: it cannot be read.
    """
    try:
        return read_regular_file(path, MAX_BYTES)
    except OSError as error:
        raise GovernanceUnavailable(
            f"{path} cannot be read: {error.strerror or error}",
            remediation="Name the governance file in a clone of its repository.",
        ) from None


@contextmanager
def with_last_good(mirror: Mirror) -> Iterator[None]:
    """Note on an error what stays published in spite of it, where the target can be read."""
    try:
        yield
    except (TargetUnavailable, TargetRefused):
        raise
    except CatalogError as error:
        try:
            publisher = adapters_of(mirror, os.environ).publisher
            kept = mirroring.last_good(publisher, mirror.identity)
        except CatalogError as unreadable:
            error.add_note(f"What is published cannot be read, either: {unreadable.problem}.")
        else:
            error.add_note(f"Last good, as it was: {kept}.")
        raise


@contextmanager
def progress(what: str) -> Iterator[OnPage]:
    """Say on a terminal what takes long; gives what adds the pages that were read."""
    if not sys.stderr.isatty():
        yield lambda _pages, _repositories: None
        return

    def on_page(pages: int, repositories: int) -> None:
        read = f"{counted(pages, 'page')}, {counted(repositories, 'repository')}"
        click.echo(f"{_CLEAR_LINE}{what}... {read}", err=True, nl=False)

    click.echo(f"{what}...", err=True, nl=False)
    try:
        yield on_page
    finally:
        click.echo(_CLEAR_LINE, err=True, nl=False)
