"""The command `ecr-catalog retire`: shows what would be removed, and removes it with --apply."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from ecr_catalog_pipeline.core.errors import CatalogError, SettingsError
from ecr_catalog_pipeline.core.strict_yaml import readable
from ecr_catalog_pipeline.mirroring import run_tick
from ecr_catalog_pipeline.settings import (
    LoadedMirrors,
    Mirror,
    load_mirrors,
    mirrors_folder,
)
from ecr_catalog_pipeline.sprawl.catalog_files import CatalogFolder, read_catalog, replace_files
from ecr_catalog_pipeline.sprawl.retirement import (
    Notice,
    Retirement,
    plan_retirement,
)
from ecr_catalog_pipeline.sprawl.standing import Comparison, RegistryView, RetiredEntity, Standing
from ecr_catalog_pipeline.terminal import echo, echo_json, style
from ecr_catalog_pipeline.wiring import adapters_of

NOTHING: Final = 0
DONE: Final = 0
SOMETHING: Final = 2

MAX_WARNINGS: Final = 20

_COLOURS: Final = {
    Standing.GONE: "red",
    Standing.GOVERNED: "green",
    Standing.UNGOVERNED: "yellow",
    Standing.UNKNOWN: "bright_black",
}
_COUNTED: Final = frozenset({"links", "tags", "labels", "annotations"})


RetiredEntityKey = tuple[str, int]
"""The path and the line of an entity that goes."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What the mirror says of every entity; `reason` says why it was not asked."""

    mirror: str | None
    standings: Mapping[RetiredEntityKey, Comparison]
    reason: str | None = None


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--apply", is_flag=True, help="Remove them; without it nothing is changed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option(
    "-m",
    "--mirror",
    "name",
    metavar="NAME",
    help="The mirror to compare with; by default the only one that there is.",
)
@click.option("--no-compare", is_flag=True, help="Ask neither governance nor AWS.")
def retire(path: Path, *, apply: bool, as_json: bool, name: str | None, no_compare: bool) -> int:
    """Find the ad-hoc ECR entities of a catalog, and remove them.

    PATH is a folder of Backstage files, or one file. Shown are the entities that Backstage will
    drop, what the mirror says of their repositories, what would be lost with them, and the
    references that would dangle; those are left to you. With --apply the entities go, and with
    them the targets of Location entities that list a file which goes. Every other byte stays.

    The `catalog.locations` of an app-config and locations that were registered in Backstage itself
    are not looked at. Targets that are patterns or URLs are shown, and left.

    Inspected is what `guard` inspects: .yaml, .yml and .json files of up to 20 MB in UTF-8. No
    symbolic link is followed.

    Exit code: 0 nothing to retire, or all of it removed; 2 something to retire, left, or not
    inspected; 1 error.
    """
    if name and no_compare:
        raise click.UsageError("-m and --no-compare exclude each other.")
    loaded = _mirrors(name)
    folder = read_catalog(path)
    texts, undecodable = _texts(folder)
    identities = {mirror.identity.name for mirror in loaded.mirrors.values()}
    retirement = plan_retirement(texts, identities)
    compared = Compared(None, {}, "there is nothing to compare")
    if not retirement.nothing:
        if apply:
            _refuse_unknown_mirrors(loaded)
        compared = _compare(retirement, loaded, name, no_compare=no_compare, strict=apply)
    if apply:
        replace_files(folder, _bytes(retirement.edits))
    warnings = [*_skipped(folder), *undecodable, *retirement.warnings]
    uninspected = len(folder.skipped) + len(undecodable)
    if as_json:
        answer = as_object(folder, path, retirement, compared, warnings, applied=apply)
        echo_json(answer)
    else:
        echo(*as_text(folder, path, retirement, compared, uninspected, applied=apply))
        _print_warnings(folder, warnings)
    if retirement.nothing:
        return SOMETHING if uninspected else NOTHING
    return DONE if apply and not retirement.left and not uninspected else SOMETHING


def as_object(
    folder: CatalogFolder,
    path: Path,
    retirement: Retirement,
    compared: Compared,
    warnings: Collection[Notice],
    *,
    applied: bool,
) -> dict[str, Any]:
    """Give the object that `ecr-catalog retire --json` prints.

    `{"path","applied","mirror","not_compared","entities":[{"file","line","name","namespace",
    "type","reference","repository","standing","state","lost","remark"}],"locations":[{"file",
    "line","name","target","outcome"}],"files":{"deleted":[],"changed":[],"unlisted":[]},
    "references":[{"file","line","entity","field","reference","to"}],"left":[{"file","line",
    "message"}],"warnings":[{"file","line","message"}]}`; unknown values are null.
    """
    edits = retirement.edits
    return {
        "path": str(path),
        "applied": applied,
        "mirror": compared.mirror,
        "not_compared": compared.reason,
        "entities": [
            {
                "file": folder.shown(each.path),
                "line": each.line,
                "name": each.name,
                "namespace": each.namespace,
                "type": each.type,
                "reference": each.reference,
                **_comparison_as_object(compared.standings.get(_key(each))),
            }
            for each in retirement.entities
        ],
        "locations": [
            {
                "file": folder.shown(each.path),
                "line": each.line,
                "name": each.name,
                "target": each.target,
                "outcome": each.outcome,
            }
            for each in retirement.locations
        ],
        "files": {
            "deleted": [folder.shown(name) for name, text in edits.items() if text is None],
            "changed": [folder.shown(name) for name, text in edits.items() if text is not None],
            "unlisted": [folder.shown(name) for name in retirement.unlisted],
        },
        "references": [
            {
                "file": folder.shown(each.path),
                "line": each.line,
                "entity": each.entity,
                "field": each.field,
                "reference": each.written,
                "to": each.to,
            }
            for each in retirement.references
        ],
        "left": [_notice_as_object(folder, each) for each in retirement.left],
        "warnings": [_notice_as_object(folder, each) for each in warnings],
    }


def as_text(
    folder: CatalogFolder,
    path: Path,
    retirement: Retirement,
    compared: Compared,
    uninspected: int,
    *,
    applied: bool,
) -> Iterator[str]:
    """Give the lines that `ecr-catalog retire` prints, with terminal colours."""
    if retirement.nothing and uninspected:
        yield f"No ad-hoc ECR entity was found in {path}, but {_files(uninspected)} not inspected."
        return
    if retirement.nothing:
        yield f"Nothing to retire: {path} declares no ad-hoc ECR entity."
        return
    if compared.mirror:
        counts = Counter(each.standing for each in compared.standings.values())
        known = ", ".join(f"{counts[standing]} {standing}" for standing in Standing)
        yield f"Compared with the mirror {style(compared.mirror, bold=True)}: {known}"
    else:
        yield style(f"Not compared: {compared.reason}", fg="yellow")
    yield ""
    if retirement.entities:
        heading = "Backstage drops:" if applied else "Backstage will drop:"
        yield style(heading, bold=True)
        for each in retirement.entities:
            yield from _entity_lines(folder, each, compared.standings.get(_key(each)))
        yield ""
        yield from _file_lines(folder, retirement, applied=applied)
    if retirement.references:
        yield style("Would dangle; fix these by hand:", fg="yellow", bold=True)
        for reference in retirement.references:
            yield (
                f"  {folder.shown(reference.path)}:{reference.line}: {readable(reference.entity)} "
                f"{reference.field} {readable(reference.written)}"
            )
        yield ""
    if retirement.left:
        yield style("Left as they are:", fg="red", bold=True)
        for notice in retirement.left:
            yield f"  {folder.shown(notice.path)}:{notice.line}: {notice.message}"
        yield ""
    yield style(_summary(retirement, applied=applied), bold=True)


def _mirrors(name: str | None) -> LoadedMirrors:
    folder = mirrors_folder(os.environ)
    if name is None and not folder.is_dir():
        return LoadedMirrors({}, {})
    loaded = load_mirrors(folder)
    for error in loaded.errors.values():
        echo(f"warning: {error}", err=True)
    if name is not None:
        loaded.get(name)
    return loaded


def _refuse_unknown_mirrors(loaded: LoadedMirrors) -> None:
    if loaded.errors:
        raise SettingsError(
            f"the entities of these mirrors are unknown: {', '.join(sorted(loaded.errors))}; "
            "nothing was removed",
            remediation="Fix their files first, so that no mirror's own entity is taken for an "
            "ad-hoc one.",
        )


def _compare(
    retirement: Retirement,
    loaded: LoadedMirrors,
    name: str | None,
    *,
    no_compare: bool,
    strict: bool,
) -> Compared:
    """Ask the mirror about every entity.

    Raises:
        CatalogError: `strict`, and there is a mirror that cannot be asked.
    """
    if no_compare:
        return Compared(None, {}, "--no-compare was given")
    if name is None and len(loaded.mirrors) != 1:
        if not loaded.mirrors:
            return Compared(None, {}, "no mirror is configured here")
        several = f"there are several mirrors: {', '.join(sorted(loaded.mirrors))}"
        if strict:
            raise SettingsError(
                f"{several}; nothing was removed",
                remediation="Name the one to compare with by -m, or give --no-compare.",
            )
        return Compared(None, {}, f"{several}; name one with -m")
    mirror = loaded.get(name) if name else next(iter(loaded.mirrors.values()))
    try:
        return _compare_with(mirror, retirement.entities)
    except CatalogError as error:
        if strict:
            error.add_note("Nothing was removed. --no-compare removes without asking.")
            raise
        return Compared(None, {}, str(error))


def _compare_with(mirror: Mirror, entities: Collection[RetiredEntity]) -> Compared:
    planned = run_tick(mirror, adapters_of(mirror, os.environ), publishes=False).planned
    registry = RegistryView(
        planned.registry.repositories,
        account_id=planned.account_id,
        region=mirror.registry.region,
    )
    return Compared(
        mirror.name,
        {_key(each): registry.compare(each) for each in entities},
    )


def _texts(folder: CatalogFolder) -> tuple[dict[str, str], list[Notice]]:
    texts: dict[str, str] = {}
    undecodable: list[Notice] = []
    for name, content in folder.contents.items():
        try:
            texts[name] = content.decode("utf-8")
        except UnicodeDecodeError as error:
            undecodable.append(Notice(name, 1, f"not judged: not UTF-8 (byte {error.start})"))
    return texts, undecodable


def _bytes(edits: Mapping[str, str | None]) -> dict[str, bytes | None]:
    return {name: None if text is None else text.encode() for name, text in edits.items()}


def _skipped(folder: CatalogFolder) -> Iterator[Notice]:
    for name, reason in sorted({**folder.skipped, **folder.links}.items()):
        yield Notice(name, 1, f"not judged: {reason}")


def _files(count: int) -> str:
    return f"{count} file was" if count == 1 else f"{count} files were"


def _key(entity: RetiredEntity) -> RetiredEntityKey:
    return entity.path, entity.line


def _comparison_as_object(found: Comparison | None) -> dict[str, Any]:
    return {
        "repository": found.repository if found else None,
        "standing": found.standing.value if found else None,
        "state": found.state.value if found and found.state else None,
        "lost": dict(found.lost) if found else None,
        "remark": (found.remark or None) if found else None,
    }


def _notice_as_object(folder: CatalogFolder, notice: Notice) -> dict[str, Any]:
    return {"file": folder.shown(notice.path), "line": notice.line, "message": notice.message}


def _entity_lines(
    folder: CatalogFolder, entity: RetiredEntity, found: Comparison | None
) -> Iterator[str]:
    place = f"{folder.shown(entity.path)}:{entity.line}"
    yield style("  - ", fg="red") + f"{readable(entity.reference)}  ({place})"
    if found is None:
        return
    yield f"      {style(found.standing, fg=_COLOURS[found.standing])}: {_standing_in_words(found)}"
    if found.lost and found.standing is not Standing.GONE:
        yield f"      would be lost: {', '.join(_lost_in_words(found.lost))}"


def _standing_in_words(found: Comparison) -> str:
    if found.remark:
        return found.remark
    name = readable(found.repository or "")
    if found.standing is Standing.GONE:
        governed = f"governance has it as {found.state}" if found.state else "and not governed"
        return f"{name} is not in AWS, {governed}: a ghost in Backstage"
    if found.standing is Standing.UNGOVERNED:
        return f"{name} is in AWS and not governed: nothing but this entity describes it"
    return f"{name} is {found.state}"


def _lost_in_words(lost: Mapping[str, Any]) -> Iterator[str]:
    for key, value in lost.items():
        if key in _COUNTED and isinstance(value, list | dict):
            yield f"{len(value)} {key}"
        elif isinstance(value, str):
            yield f"{readable(key)} {readable(value)}"
        else:
            yield readable(key)


def _file_lines(folder: CatalogFolder, retirement: Retirement, *, applied: bool) -> Iterator[str]:
    yield style("Files:", bold=True)
    targets: dict[str, list[str]] = {}
    for each in retirement.locations:
        emptied = ", and is left without targets" if each.outcome == "emptied" else ""
        words = f"{readable(each.name)} no longer lists {readable(each.target)}{emptied}"
        targets.setdefault(each.path, []).append(words)
    for name, text in retirement.edits.items():
        verb = (
            ("deleted" if applied else "delete")
            if text is None
            else ("changed" if applied else "change")
        )
        yield f"  {style(verb, fg='red' if text is None else 'yellow')} {folder.shown(name)}"
        for words in targets.get(name, []) if text is not None else []:
            yield f"      Location {words}"
    yield ""
    if retirement.unlisted:
        yield style("No Location here lists these files:", fg="yellow", bold=True)
        yield from (f"  {folder.shown(name)}" for name in retirement.unlisted)
        yield "If Backstage reads such a file directly, unregister it there: it keeps showing"
        yield "an entity whose file is gone."
        yield ""


def _summary(retirement: Retirement, *, applied: bool) -> str:
    deleted = sum(text is None for text in retirement.edits.values())
    changed = len(retirement.edits) - deleted
    files = f"{deleted} files {'deleted' if applied else 'to delete'}, {changed} "
    files += "changed" if applied else "to change"
    left = f", {len(retirement.left)} left as they are" if retirement.left else ""
    head = "Retired" if applied else "To retire"
    line = f"{head}: {len(retirement.entities)} entities, {files}{left}."
    return line if applied else f"{line} Run again with --apply."


def _print_warnings(folder: CatalogFolder, warnings: Collection[Notice]) -> None:
    for each in list(warnings)[:MAX_WARNINGS]:
        echo(f"{folder.shown(each.path)}:{each.line}: warning: {each.message}", err=True)
    if len(warnings) > MAX_WARNINGS:
        echo(f"and {len(warnings) - MAX_WARNINGS} warnings more; --json has all", err=True)
