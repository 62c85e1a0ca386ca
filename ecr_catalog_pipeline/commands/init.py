"""The command `ecr-catalog init`: answers become a mirror file, and all that it names is asked.

The words of questions, help and comments are the descriptions in `settings`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args
from urllib.parse import urlsplit, urlunsplit

import boto3
import click
from botocore.exceptions import BotoCoreError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ecr_catalog_pipeline.adapters.files import replace_file
from ecr_catalog_pipeline.adapters.git_command import GitUnusable, find_git, git_python
from ecr_catalog_pipeline.commands.access import Access, check_access
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.settings import (
    DEFAULTS_FILE,
    FileTarget,
    GitTarget,
    Mirror,
    S3Target,
    is_local_path,
    load_mirror,
    load_mirrors,
    mirrors_folder,
    read_defaults,
)
from ecr_catalog_pipeline.terminal import echo, style

NOT_ALL: Final = 2
"""The exit code when the file is written and some access is missing."""

GIT_SECONDS: Final = 10
SCHEMA: Final = "../schemas/mirror.schema.json"
SCHEMA_WITH_DEFAULTS: Final = "../schemas/mirror-defaults.schema.json"

_TARGETS: Final[Mapping[str, type[BaseModel]]] = {
    "git": GitTarget,
    "s3": S3Target,
    "file": FileTarget,
}
_MIRROR_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
# YAML of either version reads it as this very text, and so does a person.
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9._/@+-]*(?::[A-Za-z0-9._/@+-]+)*|\.\.?/[\w./-]+")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_WIDTH: Final = 96


def _model(section: str, kind: str) -> type[BaseModel]:
    """Give the model of a block; that of `publish` depends on its kind."""
    if section == "publish":
        return _TARGETS[kind]
    annotation = Mirror.model_fields[section].annotation
    options: Sequence[Any] = get_args(annotation) or (annotation,)
    return next(each for each in options if isinstance(each, type) and issubclass(each, BaseModel))


@dataclass(frozen=True)
class Question:
    """One key of the mirror file, as a flag and, when it has a prompt, as a question.

    Attributes:
        kinds: the kinds of target that have the key.
        optional: an empty answer leaves it out.
    """

    key: str
    flag: str
    prompt: str = ""
    kinds: tuple[str, ...] = tuple(_TARGETS)
    optional: bool = False

    @property
    def parameter(self) -> str:
        """What click calls it."""
        return self.flag.removeprefix("--").replace("-", "_")

    def field(self, kind: str) -> FieldInfo:
        """Where the settings describe it, for a kind of target."""
        section, _, name = self.key.partition(".")
        return _model(section, kind).model_fields[name]


KIND: Final = Question("publish.kind", "--publish", "Publish to git, s3 or file")
QUESTIONS: Final = (
    Question("governance.repository", "--governance-repository", "Governance: git repository"),
    Question("governance.branch", "--governance-branch", "Governance: branch"),
    Question("governance.path", "--governance-path", "Governance: file in it"),
    Question("registry.region", "--region", "ECR: AWS region"),
    Question("registry.account_id", "--account-id", "ECR: AWS account (empty: any)", optional=True),
    Question("registry.role_arn", "--role-arn"),
    Question("registry.endpoint_url", "--endpoint-url"),
    Question("entity.name", "--entity-name"),
    Question("entity.owner", "--entity-owner", "Entity: owner in Backstage"),
    Question("entity.system", "--entity-system", "Entity: system (empty: none)", optional=True),
    KIND,
    Question("publish.repository", "--publish-repository", "Publish: git repository", ("git",)),
    Question("publish.branch", "--publish-branch", "Publish: branch", ("git",)),
    Question("publish.path", "--publish-path", "Publish: file", ("git", "file")),
    Question("publish.bucket", "--bucket", "Publish: bucket", ("s3",)),
    Question("publish.key", "--key", "Publish: key", ("s3",)),
    Question("backstage.url", "--backstage-url", "Backstage: URL (empty: none)", optional=True),
    Question("backstage.token_env", "--token-env", "Backstage: variable of its token"),
)


def _with_flags(command: Callable[..., int]) -> Callable[..., int]:
    for question in reversed(QUESTIONS):
        described = question.field(question.kinds[0]).description or ""
        first = described.partition(". ")[0].removesuffix(".") + "."
        kind = click.Choice([*_TARGETS]) if question is KIND else str
        command = click.option(question.flag, question.parameter, type=kind, help=first)(command)
    return command


@click.command()
@click.argument("name", required=False)
@_with_flags
@click.option("--yes", is_flag=True, help="Ask nothing: take flags and defaults.")
@click.option("--force", is_flag=True, help="Replace a mirror file of that name.")
@click.option("--check", is_flag=True, help="Write nothing: check the access of mirror NAME.")
def init(name: str | None, *, yes: bool, force: bool, check: bool, **flags: str | None) -> int:
    """Write mirrors/NAME.yaml from a few answers, and check access to all that it names.

    Defaults come from the working folder's git repository and from the AWS configuration. Paths
    are relative to the working folder. Secrets are neither asked for nor written. Nothing is
    published.

    Exit code: 0 all access granted, 2 file written but some access missing, 1 error.
    """
    folder = mirrors_folder(os.environ)
    if check:
        if not name or any(flags.values()):
            raise click.UsageError("--check takes the NAME of a mirror, and no other flags")
        return _report(load_mirrors(folder).get(name))
    # Without a terminal there are no answers.
    asked = sys.stdin.isatty() and not yes
    found = _surroundings()
    name = _name(name, found, folder, asked=asked, force=force)
    shared = _shared(folder)
    answers = _answers(flags, found, shared, folder, asked=asked)
    path = folder / f"{name}.yaml"
    text = mirror_text(name, answers, shared, with_schema=(folder / SCHEMA).is_file())
    mirror = load_mirror(path, text)
    _refuse_shared_target(mirror, folder)
    _put(path, text, force=force)
    echo(f"Wrote {_shown(path)}")
    return _report(mirror)


def _report(mirror: Mirror) -> int:
    echo("")
    complete = True
    for each in check_access(mirror, os.environ):
        complete = complete and each.granted
        for line in _access_lines(each):
            echo(line)
    if complete:
        echo("", f"Next: ecr-catalog plan -m {mirror.name}")
        return 0
    echo("", f"Fix what is marked above, then: ecr-catalog init --check {mirror.name}")
    return NOT_ALL


def _access_lines(access: Access) -> Iterator[str]:
    good, bad = _marks()
    yield f"  {good if access.granted else bad} {access.subject:<10}  {access.found}"
    if access.remediation:
        yield f"{'':16}{access.remediation}"


def _marks() -> tuple[str, str]:
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok", "NO"
    return style("✓", fg="green"), style("✗", fg="red")


# Answers


def _name(
    name: str | None, found: Mapping[str, str], folder: Path, *, asked: bool, force: bool
) -> str:
    def checked(value: str) -> str:
        if not _MIRROR_NAME.fullmatch(value):
            raise click.UsageError(
                f"{value!r} cannot name a mirror: a lower-case letter, then at most 40 of a-z 0-9 _"
            )
        path = folder / f"{value}.yaml"
        if path.exists() and not force:
            raise click.UsageError(f"{_shown(path)} exists: take another name, or --force")
        return value

    if name is not None:
        return checked(name)
    default = _slug(found.get("governance.repository", ""))
    if asked:
        return str(click.prompt("Name of the mirror", default=default, value_proc=checked))
    if default is None:
        raise click.UsageError("NAME is missing: the name of the mirror")
    return checked(default)


def _answers(
    flags: Mapping[str, str | None],
    found: Mapping[str, str],
    shared: Mapping[str, Any],
    folder: Path,
    *,
    asked: bool,
) -> dict[str, str | None]:
    """Give a value for each key that has one: a flag's, an answer, or a default.

    None is an optional key that has a default and was answered with nothing. What is shared is
    answered by a flag only.
    """
    answers: dict[str, str | None] = {}
    known = {**found, **_known(shared, folder)}
    for question in QUESTIONS:
        kind, given = _kind(answers, shared), flags[question.parameter]
        if reason := _not_applicable(question, kind, {**known, **answers}):
            if given is not None:
                raise click.UsageError(f"{question.flag} {reason}")
            continue
        if given is None and question.key in _counting(shared, answers):
            continue
        default = _default(question, kind, {**known, **answers})
        if given is not None:
            value = _checked(question, kind, given)
        elif asked and question.prompt:
            value = _ask(question, kind, default)
        else:
            value = default or ""
        if value:
            answers[question.key] = value
        elif question.optional and default:
            answers[question.key] = None
        elif question.prompt and not question.optional:
            described = question.field(kind or question.kinds[0]).description or ""
            raise click.UsageError(f"{question.flag} is missing: {described}")
    kind = _kind(answers, shared)
    return {key: _in_the_file(key, value, kind, folder) for key, value in answers.items()}


def _shared(folder: Path) -> dict[str, Any]:
    """Give what the mirrors of a folder share, by key."""
    return {
        f"{section}.{key}": value
        for section, block in read_defaults(folder).items()
        for key, value in (block.items() if isinstance(block, dict) else ())
    }


def _known(shared: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Give what is shared as answers: a path starts in the working folder, not in `folder`."""
    known = {key: value for key, value in shared.items() if isinstance(value, str)}
    for key, value in known.items():
        if key.endswith(".repository") and is_local_path(value) and value[0] not in "/~":
            known[key] = os.path.relpath(folder / value)
    return known


def _kind(answers: Mapping[str, str | None], shared: Mapping[str, Any]) -> str:
    return answers.get(KIND.key) or str(shared.get(KIND.key) or "")


def _counting(shared: Mapping[str, Any], answers: Mapping[str, str | None]) -> set[str]:
    """Name what is shared and counts: a target of another kind has nothing of the shared one."""
    other = answers.get(KIND.key) not in {None, shared.get(KIND.key, answers.get(KIND.key))}
    return {key for key in shared if not (other and key.startswith("publish."))}


def _in_the_file(key: str, value: str | None, kind: str, folder: Path) -> str | None:
    """Spell a relative path as the mirror file means it: relative to its own folder."""
    is_path = key == "publish.path" and kind == "file"
    if value is None or not (is_path or (key.endswith(".repository") and is_local_path(value))):
        return value
    if Path(value).is_absolute() or value.startswith("~"):
        return value
    return os.path.relpath(value, folder)


def _not_applicable(question: Question, kind: str, answers: Mapping[str, str | None]) -> str:
    """Say why a flag does not apply after the answers before it; empty when it does."""
    if kind and kind not in question.kinds:
        return f"does not go with --publish {kind}"
    if question.key == "backstage.token_env" and "backstage.url" not in answers:
        return "goes with --backstage-url"
    return ""


def _ask(question: Question, kind: str, default: str | None) -> str:
    def checked(value: str) -> str:
        return _checked(question, kind, value.strip())

    empty = "" if question.optional else None
    return str(
        click.prompt(
            question.prompt,
            default=empty if default is None else default,
            show_default=default is not None,
            value_proc=checked,
        )
    )


def _checked(question: Question, kind: str, value: str) -> str:
    """Give the value as it was written, if the settings accept it. Paths start here.

    Raises:
        UsageError: in the settings' own words; a prompt asks again.
    """
    if question.optional and not value:
        return value
    field = question.field(kind or question.kinds[0])
    if question is KIND:
        if value not in _TARGETS:
            raise click.UsageError("must be git, s3 or file")
        return value
    try:
        known: Any = Annotated[field.annotation, field]
        TypeAdapter(known).validate_python(value, context={"folder": Path.cwd()})
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise click.UsageError(f"{question.flag} {problem}") from None
    return value


def _default(question: Question, kind: str, known: Mapping[str, str | None]) -> str | None:
    if question is KIND:
        return "git"
    if question.key in known:
        return known[question.key]
    if question.key == "publish.repository":
        return known.get("governance.repository")
    if question.key == "backstage.token_env":
        return "BACKSTAGE_TOKEN"
    # The loader knows the defaults of what is not asked for.
    default = question.field(kind or question.kinds[0]).default if question.prompt else None
    return default if isinstance(default, str) else None


# Surroundings


def _surroundings() -> dict[str, str]:
    """Give what the working folder and the environment say already, by key."""
    return {**_of_git(), **_of_aws()}


def _of_git() -> dict[str, str]:
    top = _git("rev-parse", "--show-toplevel")
    if not top or Path(top) == Path(__file__).parents[2]:
        return {}  # No repository, or a clone of this very project.
    found = {}
    remote = _without_secret(_git("remote", "get-url", "origin"))
    repository = remote or os.path.relpath(top)
    if _is_repository(repository):
        found["governance.repository"] = repository
    if branch := _git("symbolic-ref", "--short", "HEAD"):
        found["governance.branch"] = branch
    files = _git("-C", top, "ls-files", "--", "ecr-catalog.yaml", "*/ecr-catalog.yaml").splitlines()
    if files:
        found["governance.path"] = min(files, key=lambda file: (file.count("/"), file))
    return found


def _git(*arguments: str) -> str:
    """Give what git prints; nothing when it fails, or is not there."""
    # Paths as they are, and nothing that the user's configuration would run.
    settings = ("core.quotePath=false", "core.fsmonitor=false", f"core.hooksPath={os.devnull}")
    try:
        git = find_git(os.environ)
    except GitUnusable:
        return ""
    _, output, _ = git_python()().execute(
        [git, *(word for setting in settings for word in ("-c", setting)), *arguments],
        with_extended_output=True,
        with_exceptions=False,
        kill_after_timeout=GIT_SECONDS,
    )
    return str(output)


def _without_secret(remote: str) -> str:
    """Take user and password out of a URL: either may be a token."""
    parts = urlsplit(remote)
    if parts.scheme not in {"https", "http"} or "@" not in parts.netloc:
        return remote
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _is_repository(value: str) -> bool:
    try:
        _checked(QUESTIONS[0], "", value)
    except click.UsageError:
        return False
    return True


def _of_aws() -> dict[str, str]:
    region = os.environ.get("AWS_REGION")
    try:
        region = region or boto3.Session().region_name
    except BotoCoreError:
        return {}
    return {"registry.region": region} if region else {}


def _slug(repository: str) -> str | None:
    """Make a mirror's name of a repository's: `git@host:team/My-Platform.git` is `my_platform`."""
    last = re.split(r"[/:]", repository.rstrip("/"))[-1].removesuffix(".git")
    name = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_")[:41]
    return name if _MIRROR_NAME.fullmatch(name) else None


# The file


def mirror_text(
    name: str,
    answers: Mapping[str, str | None],
    shared: Mapping[str, Any] = {},
    *,
    with_schema: bool,
) -> str:
    """Write a mirror file: what was answered, and every other key as a comment.

    Args:
        shared: what the mirrors of the folder share, by key; it is left out.
    """
    lines = [f"# The mirror {name}; `ecr-catalog schema mirror` describes every key."]
    if shared:
        lines.append(f"# What is not set here may be in {DEFAULTS_FILE}.")
    if with_schema:
        schema = SCHEMA_WITH_DEFAULTS if shared else SCHEMA
        lines.insert(0, f"# yaml-language-server: $schema={schema}")
    kind, elsewhere = _kind(answers, shared), _counting(shared, answers)
    own = {"entity.name": f"{name}-ecr-registry"}
    for section, field in Mirror.model_fields.items():
        if section == "name":
            continue
        chosen = {
            key.partition(".")[2]: value
            for key, value in answers.items()
            if key.startswith(f"{section}.")
        }
        model = _model(section, kind)
        if not chosen and elsewhere.issuperset(f"{section}.{key}" for key in model.model_fields):
            continue
        lines += ["", *_comment(field.description or "", "")]
        # An optional block without an answer is shown, and means nothing yet.
        off = "" if chosen else "# "
        lines.append(f"{off}{section}:")
        for key, each in model.model_fields.items():
            if key in chosen:
                lines += _comment(each.description or "", "  ")
                lines.append(f"  {key}: {scalar(chosen[key])}")
            elif f"{section}.{key}" not in elsewhere:
                lines += _offered(key, each, own.get(f"{section}.{key}"), alone=not chosen)
    return "\n".join(lines) + "\n"


def _offered(key: str, field: FieldInfo, example: str | None, *, alone: bool) -> Iterator[str]:
    """Give a key as a comment; alone, its whole block is one and needs no further words."""
    model, shown = field.annotation, example or _example(field)
    if shown is not None:
        yield from () if alone else _comment(field.description or "", "  ")
        yield f"#   {key}: {shown}" if alone else f"  # {key}: {shown}"
    elif isinstance(model, type) and issubclass(model, BaseModel):
        yield f"#   {key}:"
        inner = {name: _example(each) for name, each in model.model_fields.items()}
        yield from (f"#     {name}: {each}" for name, each in inner.items() if each)


def scalar(value: object) -> str:
    """Write a value so that it is read as what it is."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


def _example(field: FieldInfo) -> str | None:
    value = field.default
    if isinstance(value, BaseModel):
        said = (f"{key}: {scalar(each)}" for key, each in value.model_dump().items())
        return f"{{{', '.join(said)}}}"
    if (value is None or field.is_required()) and field.examples:
        value = field.examples[0]
    if isinstance(value, dict):
        inner = (f"{key}: {scalar(each)}" for key, each in value.items())
        return f"{{{', '.join(inner)}}}"
    return scalar(value) if isinstance(value, str | int | float) else None


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _refuse_shared_target(mirror: Mirror, folder: Path) -> None:
    others = load_mirrors(folder).mirrors if folder.is_dir() else {}
    for other in others.values():
        if other.name == mirror.name:
            continue
        if other.target_identity == mirror.target_identity:
            raise SettingsError(
                f"the mirror {other.name} publishes to that target already",
                remediation="Give every mirror a target of its own: --publish-path, say.",
            )
        if other.identity.reference.lower() == mirror.identity.reference.lower():
            raise SettingsError(
                f"the mirror {other.name} publishes {other.identity.reference} already",
                remediation="Give every mirror an entity of its own: --entity-name, say.",
            )


def _put(path: Path, text: str, *, force: bool) -> None:

    def look() -> None:
        if path.exists() and not force:
            raise FileExistsError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode(), last_look=look)
    except FileExistsError:
        raise SettingsError(
            f"{_shown(path)} exists", remediation="Take another name, or --force."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"{_shown(path)} cannot be written: {error.strerror}",
            remediation="Check the folder, its permissions and the disk.",
        ) from None


def _shown(path: Path) -> str:
    """Show a path as it is found from the working folder, when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
