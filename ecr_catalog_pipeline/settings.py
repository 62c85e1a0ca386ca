"""Mirror files: from `mirrors/<name>.yaml` to typed settings. Nothing outside is contacted.

One mirror file that cannot be used never takes the others down: `load_mirrors` gives what is usable
and, beside it, one error for each file that is not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ecr_catalog_pipeline.core.entity import EntityIdentity
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.core.guard import RemovalLimits
from ecr_catalog_pipeline.core.strict_yaml import YamlFault, parse_documents

MIRRORS_VARIABLE: Final = "ECR_CATALOG_MIRRORS"
CACHE_VARIABLE: Final = "ECR_CATALOG_CACHE"

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_BRANCH_PART: Final = re.compile(r"(?!\.)(?!.*\.\.)[A-Za-z0-9._@+-]+(?<!\.lock)(?<!\.)")
_TRANSPORT_HELPER: Final = re.compile(r"[A-Za-z0-9+.-]*::")
_SCP_LIKE: Final = re.compile(r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9._-]+):.+")
_NO_REPOSITORY: Final = "is no repository: use https, ssh or a local path"


def _repository(value: str, info: ValidationInfo) -> str:
    """Accept https, ssh and local paths; resolve a relative path against the mirror's folder."""
    odd = not value or not value.isprintable() or value.startswith("-")
    if odd or _TRANSPORT_HELPER.match(value):
        raise ValueError(_NO_REPOSITORY)
    if "://" in value:
        return _repository_url(value)
    scp = _SCP_LIKE.fullmatch(value)
    if scp and not value.startswith((".", "/", "~")):
        if scp["host"].startswith("-") or (scp["user"] or "").startswith("-"):
            raise ValueError(_NO_REPOSITORY)
        return value
    return str(_local_path(value, info).resolve())


def _repository_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"https", "ssh", "file"}:
        raise ValueError(f"uses {parts.scheme}: use https, ssh or a local path")
    if parts.password is not None:
        raise ValueError(
            "carries a password: leave it out and use a git credential helper, "
            "GIT_ASKPASS or an SSH agent"
        )
    if parts.scheme == "file":
        return value
    _check_port(parts)
    hostname, username = parts.hostname or "-", parts.username or ""
    if hostname.startswith("-") or username.startswith("-"):
        raise ValueError(_NO_REPOSITORY)
    return value


def _check_port(parts: SplitResult) -> None:
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("names a port that is none") from None


def _local_path(value: str, info: ValidationInfo) -> Path:
    if not value.isprintable():
        raise ValueError("must be a path of printable characters")
    try:
        return _folder(info) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"names a home folder that is not known: {value}") from None


def _path_in_repository(value: str) -> str:
    path = PurePosixPath(value)
    odd = not value.isprintable() or "\\" in value
    if odd or path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError("must be a path inside the repository, without ..")
    if any(part.lower() == ".git" for part in path.parts):
        raise ValueError("must not lie in .git")
    return str(path)


def _branch(value: str) -> str:
    if (
        value in {"", "@"}
        or value.startswith("-")
        or not all(map(_BRANCH_PART.fullmatch, value.split("/")))
    ):
        raise ValueError("is no name of a branch")
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL such as https://host:port")
    if parts.username is not None:
        raise ValueError("must carry no credentials")
    _check_port(parts)
    return value.rstrip("/")


def _folder(info: ValidationInfo) -> Path:
    context: Mapping[str, Any] = info.context or {}
    folder: Path = context.get("folder", Path())
    return folder


Repository = Annotated[str, AfterValidator(_repository)]
RepositoryPath = Annotated[str, AfterValidator(_path_in_repository)]
Branch = Annotated[str, AfterValidator(_branch)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GovernanceSettings(_Settings):
    """Where the governance file lies."""

    repository: Repository
    branch: Branch = "main"
    path: RepositoryPath = "ecr-catalog.yaml"


class RegistrySettings(_Settings):
    """Which ECR registry is mirrored."""

    region: str = Field(pattern=r"^[a-z]{2,}(-[a-z]+)+-[0-9]+$")
    account_id: str | None = Field(default=None, pattern=r"^[0-9]{12}$")
    role_arn: str | None = Field(default=None, pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/.+$")
    endpoint_url: HttpUrl | None = None


class EntitySettings(_Settings):
    """What the entity says of itself; name and title follow from the mirror's name."""

    name: str | None = None
    namespace: str = "default"
    title: str | None = None
    owner: str = "platform-team"
    system: str | None = "container-registry"


class GitTarget(_Settings):
    """Publish as a commit."""

    kind: Literal["git"]
    repository: Repository
    branch: Branch = "governance-registry"
    path: RepositoryPath = "catalog/resources/ecr-registry.yaml"

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two targets the same one."""
        return ("git", _same_repository(self.repository), self.branch, self.path)


class S3Target(_Settings):
    """Publish as an object, which Backstage reads natively."""

    kind: Literal["s3"]
    bucket: str = Field(min_length=3, max_length=63)
    key: str = Field(min_length=1, max_length=1024)
    endpoint_url: HttpUrl | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two targets the same one."""
        return ("s3", self.bucket, self.key)


class FileTarget(_Settings):
    """Publish as a local file."""

    kind: Literal["file"]
    path: str = Field(min_length=1)

    @field_validator("path")
    @classmethod
    def _resolve(cls, value: str, info: ValidationInfo) -> str:
        path = _local_path(value, info)
        # The last part stays as written, so that a symbolic link there is seen.
        return str(path.parent.resolve() / path.name)

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two targets the same one."""
        return ("file", self.path)


Target = Annotated[GitTarget | S3Target | FileTarget, Field(discriminator="kind")]


class BackstageSettings(_Settings):
    """The Backstage that shows the entity; the token is read from that variable when used."""

    url: HttpUrl
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")


class ParitySettings(_Settings):
    """The promise, in seconds from a change to its being visible."""

    slo_seconds: int = Field(default=180, gt=0)


class GuardSettings(_Settings):
    """What a plan may remove unasked."""

    max_removals: int = Field(default=10, ge=0)
    max_removal_percent: float = Field(default=20.0, ge=0, le=100)


class Mirror(_Settings):
    """One governance file, one ECR registry, one entity."""

    name: str
    governance: GovernanceSettings
    registry: RegistrySettings
    entity: EntitySettings = EntitySettings()
    publish: Target
    backstage: BackstageSettings | None = None
    parity: ParitySettings = ParitySettings()
    guard: GuardSettings = GuardSettings()

    @model_validator(mode="after")
    def _check_entity(self) -> Self:
        if problems := self.identity.problems():
            raise ValueError(f"entity: {'; '.join(problems)}")
        return self

    @property
    def identity(self) -> EntityIdentity:
        """The entity's own words, defaults filled in."""
        return EntityIdentity(
            name=self.entity.name or f"{self.name}-ecr-registry",
            namespace=self.entity.namespace,
            title=self.entity.title or f"AWS ECR registry ({self.name})",
            owner=self.entity.owner,
            system=self.entity.system,
        )

    @property
    def removal_limits(self) -> RemovalLimits:
        """The limits of the removal guard."""
        return RemovalLimits(self.guard.max_removals, self.guard.max_removal_percent)

    @property
    def target_identity(self) -> tuple[str, ...]:
        """What makes the targets of two mirrors the same one."""
        endpoint = self.s3_endpoint_url if isinstance(self.publish, S3Target) else None
        return (endpoint or "", *self.publish.identity)

    @property
    def s3_endpoint_url(self) -> str | None:
        """The endpoint of the S3 target: its own, or the one of every AWS service here."""
        own = self.publish.endpoint_url if isinstance(self.publish, S3Target) else None
        return own or self.registry.endpoint_url


@dataclass(frozen=True)
class LoadedMirrors:
    """What a mirrors folder holds: usable mirrors, and an error for each file that is not one."""

    mirrors: Mapping[str, Mirror]
    errors: Mapping[str, SettingsError]

    def get(self, name: str) -> Mirror:
        """Give one mirror.

        Raises:
            SettingsError: its file cannot be used, or there is none.
        """
        if name in self.mirrors:
            return self.mirrors[name]
        if name in self.errors:
            raise self.errors[name]
        known = ", ".join(sorted(self.mirrors)) or "none"
        raise SettingsError(
            f"there is no mirror {name!r}",
            mend=f"Mirrors here: {known}. Set {MIRRORS_VARIABLE} to use another folder.",
        )


def mirrors_folder(environ: Mapping[str, str]) -> Path:
    """The folder of mirror files: ECR_CATALOG_MIRRORS, or `mirrors/` in the working folder."""
    return Path(environ.get(MIRRORS_VARIABLE) or "mirrors").absolute()


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where clones are kept: ECR_CATALOG_CACHE, beside the Dagster instance, or the user's cache.

    All that lies there can be fetched again.
    """
    if chosen := environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    if home := environ.get("DAGSTER_HOME"):
        return Path(home) / "cache"
    user_cache = environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(user_cache) / "ecr-catalog-pipeline"


def load_mirrors(folder: Path) -> LoadedMirrors:
    """Load every mirror file of a folder.

    Raises:
        SettingsError: the folder itself cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"})
    except OSError as error:
        raise SettingsError(
            f"the mirrors folder {folder} cannot be read: {error.strerror}",
            mend=f"Set {MIRRORS_VARIABLE} to the folder of your mirror files.",
        ) from None
    mirrors: dict[str, Mirror] = {}
    errors: dict[str, SettingsError] = {}
    for path in paths:
        try:
            mirrors[path.stem] = load_mirror(path)
        except SettingsError as error:
            errors[path.stem if path.suffix == ".yaml" else path.name] = error
    shared = _shared_targets(mirrors, folder.name)
    usable = {name: mirror for name, mirror in mirrors.items() if name not in shared}
    return LoadedMirrors(usable, {**errors, **shared})


def load_mirror(path: Path) -> Mirror:
    """Load one mirror file.

    Raises:
        SettingsError: naming the file, the key and the mend.
    """
    shown = f"{path.parent.name}/{path.name}"
    if path.suffix != ".yaml" or not _NAME.fullmatch(path.stem):
        raise SettingsError(
            f"{shown}: {path.stem!r} cannot name a mirror",
            mend="Name the file NAME.yaml: a lower-case letter, then at most 40 of a-z 0-9 _.",
        )
    try:
        documents = list(parse_documents(path.read_text(encoding="utf-8")))
    except YamlFault as fault:
        raise SettingsError(
            f"{shown}:{fault.line}:{fault.column}: {fault.problem}", mend="Mend it there."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{shown}: cannot be read: {error}", mend="Make it a readable UTF-8 file."
        ) from None
    data = documents[0].value if len(documents) == 1 else None
    if not isinstance(data, dict):
        raise SettingsError(
            f"{shown}: is not one YAML mapping",
            mend="Start from mirrors/demo.yaml: governance, registry and publish are required.",
        )
    if data.setdefault("name", path.stem) != path.stem:
        raise SettingsError(
            f"{shown}: name: is {data['name']!r}, the file's stem is {path.stem!r}",
            mend="Make them equal, or leave `name` out.",
        )
    try:
        return Mirror.model_validate(data, context={"folder": path.parent})
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()]
        raise SettingsError(f"{shown}: {'; '.join(problems)}", mend="Mend these keys.") from None


def _problem(detail: Any) -> str:
    """Say what one validation error means, in the words of the file."""
    steps = [str(step) for step in detail["loc"]]
    # pydantic puts the chosen kind of target into the path; the file has no such key.
    if len(steps) > 1 and steps[0] == "publish" and steps[1] in {"git", "s3", "file"}:
        del steps[1]
    key = ".".join(steps)
    if detail["type"] == "missing":
        return f"{key}: is required"
    if detail["type"] == "extra_forbidden":
        return f"{key}: is no key of a mirror file"
    if detail["type"].startswith("union_tag"):
        return f"{key}.kind: must be git, s3 or file"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _same_repository(repository: str) -> str:
    """Spell a repository so that two spellings of one are equal: no user, no .git, no file://."""
    plain = repository.removeprefix("file://").rstrip("/").removesuffix(".git")
    if "://" not in plain:
        return plain
    parts = urlsplit(plain)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}"


def _shared_targets(mirrors: Mapping[str, Mirror], folder: str) -> dict[str, SettingsError]:
    """Refuse every mirror that shares its target: none of them is known to be the right one."""
    by_target: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, mirror in mirrors.items():
        by_target[mirror.target_identity].append(name)
    return {
        name: SettingsError(
            f"{folder}/{name}.yaml: publish: is also the target of "
            f"{', '.join(other for other in names if other != name)}",
            mend="Give every mirror a target of its own.",
        )
        for names in by_target.values()
        if len(names) > 1
        for name in names
    }
