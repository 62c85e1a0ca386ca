"""Mirror files: from `mirrors/<name>.yaml` to typed settings. Nothing outside is contacted.

One mirror file that cannot be used never takes the others down: `load_mirrors` gives what is usable
and, beside it, one error for each file that is not.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ecr_catalog_pipeline.adapters.files import read_regular_file
from ecr_catalog_pipeline.core.ecr_settings import Scanning
from ecr_catalog_pipeline.core.entity import (
    LIST_LIMIT,
    MAX_NAME,
    NAME,
    NAMESPACE,
    EntityIdentity,
    ListPlace,
)
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.core.governance import RISKS
from ecr_catalog_pipeline.core.guard import RemovalLimits
from ecr_catalog_pipeline.core.layers import holds, laid_over, unset_paths, without
from ecr_catalog_pipeline.core.policy import Policies, Policy
from ecr_catalog_pipeline.core.strict_yaml import YamlFault, parse_documents, quoted
from ecr_catalog_pipeline.core.text import MAX_TEXT, clean_text

MIRRORS_VARIABLE: Final = "ECR_CATALOG_MIRRORS"
DEFAULTS_FILE: Final = "_defaults.yaml"
"""What the mirrors of a folder share; it is no mirror itself."""
CACHE_VARIABLE: Final = "ECR_CATALOG_CACHE"
MAX_SLO_SECONDS: Final = 604_800
MAX_BYTES: Final = 1_000_000
"""A larger file is refused."""

_WEB_VIEWS: Final = ("blob", "tree", "-/blob", "src", "src/branch")
"""How GitHub, GitLab, Bitbucket and Gitea address a file on a branch."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_BRANCH_PART: Final = re.compile(r"(?!\.)(?!.*\.\.)[A-Za-z0-9._@+-]+(?<!\.lock)(?<!\.)")
_TRANSPORT_HELPER: Final = re.compile(r"[A-Za-z0-9+.-]*::")
_SCP_LIKE: Final = re.compile(r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9._-]+):.+")
_NO_REPOSITORY: Final = "is not a repository: use https, ssh or a local path"
# What hosts begin their tokens with, and what a person or a bot is hardly called; APKA begins the
# id of an SSH key in CodeCommit, which is its user name and no secret.
_TOKEN: Final = re.compile(
    r"(?:gh[a-z]_|github_pat_|gl[a-z]+-|ATBB|ATCTT|eyJ)"
    r"|(?!APKA)(?=[A-Za-z_=-]*[0-9])[A-Za-z0-9]{20}[A-Za-z0-9_=-]*$"
)
_CREDENTIALS_ELSEWHERE: Final = (
    "leave it out and use a git credential helper, GIT_ASKPASS or an SSH agent"
)
# Names that Windows takes for `.git`, once their trailing dots and spaces are gone.
_GIT_FOLDERS: Final = frozenset({".git", "git~1"})
_DEVICES: Final = ("/dev", "/proc", "/sys")

_HTTP_URL_PATTERN: Final = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#@]+(?:/[^\s?#]*)?\??#?$"
_REPOSITORY_PATTERN: Final = (
    r"^(?!-)(?![A-Za-z0-9+.-]*::)"
    r"(?! *(?:[Hh][Tt][Tt][Pp][Ss]|[Ss][Ss][Hh])://[^/?#]*:[^/?#]*@)"
    r"(?:(?!.*://)| *(?:[Hh][Tt][Tt][Pp][Ss]|[Ss][Ss][Hh]|[Ff][Ii][Ll][Ee]):).+$"
)
_PATH_PATTERN: Final = (
    r"^(?!/)(?!(?:\.?/)*\.?$)(?!(?:.*/)?\.\.(?:/|$))"
    r"(?!(?:.*/)?(?:\.[Gg][Ii][Tt]|[Gg][Ii][Tt]~1)[. ]*(?::[^/]*)?(?:/|$))[^\\]+$"
)
_BRANCH_PATTERN: Final = rf"^(?!@$)(?!-){_BRANCH_PART.pattern}(?:/{_BRANCH_PART.pattern})*$"


def _repository(value: str, info: ValidationInfo) -> str:
    """Accept https, ssh and local paths; resolve a relative path against the mirror's folder."""
    odd = not value or not value.isprintable() or value.startswith("-")
    if odd or _TRANSPORT_HELPER.match(value):
        raise ValueError(_NO_REPOSITORY)
    if "://" in value:
        return _repository_url(value)
    scp = _SCP_LIKE.fullmatch(value)
    if scp and not is_local_path(value):
        if scp["host"].startswith("-") or (scp["user"] or "").startswith("-"):
            raise ValueError(_NO_REPOSITORY)
        _refuse_token(scp["user"] or scp["host"])
        return value
    return str(_resolved(_local_path(value, info)))


def is_local_path(repository: str) -> bool:
    """Whether a repository is a path on this machine, and neither a URL nor `host:path`."""
    remote = "://" in repository or _SCP_LIKE.fullmatch(repository)
    return not remote or repository.startswith((".", "/", "~"))


def _repository_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"https", "ssh", "file"}:
        raise ValueError(f"uses {parts.scheme}: use https, ssh or a local path")
    if parts.password is not None:
        raise ValueError(f"carries a password: {_CREDENTIALS_ELSEWHERE}")
    if parts.scheme != "file" and (parts.query or parts.fragment):
        raise ValueError(f"carries a query or a fragment: {_CREDENTIALS_ELSEWHERE}")
    _refuse_token(unquote(parts.username or ""))
    if parts.scheme == "file":
        return value
    _check_port(parts)
    hostname, username = parts.hostname or "-", parts.username or ""
    if hostname.startswith("-") or username.startswith("-"):
        raise ValueError(_NO_REPOSITORY)
    return value


def _refuse_token(user: str) -> None:
    """Refuse a user name that is a secret: git would keep it, and processes would show it."""
    if _TOKEN.match(user):
        raise ValueError(f"carries a token as its user name: {_CREDENTIALS_ELSEWHERE}")


def _check_port(parts: SplitResult) -> None:
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("has an invalid port") from None


def _local_path(value: str, info: ValidationInfo) -> Path:
    if not value.isprintable():
        raise ValueError("must be a path of printable characters")
    try:
        return _folder(info) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"names a home folder that is not known: {value}") from None


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise ValueError("leads through symbolic links without an end") from None


def _path_in_repository(value: str) -> str:
    path = PurePosixPath(value)
    odd = not value.isprintable() or "\\" in value
    if odd or path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError("must be a path inside the repository, without ..")
    if any(_is_git_folder(part) for part in path.parts):
        raise ValueError("must not lie in .git")
    return str(path)


def _is_git_folder(part: str) -> bool:
    """Whether some file system takes a name for `.git`: any case, `.git .`, `.git::$INDEX`."""
    return part.partition(":")[0].rstrip(". ").lower() in _GIT_FOLDERS


def _branch(value: str) -> str:
    if (
        value in {"", "@"}
        or value.startswith("-")
        or not all(map(_BRANCH_PART.fullmatch, value.split("/")))
    ):
        raise ValueError("is not a branch name")
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not _is_line(value):
        raise ValueError("must be a URL such as https://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must carry no credentials, no query and no fragment")
    _check_port(parts)
    return value.rstrip("/")


def _is_line(value: str) -> bool:
    """Whether a text is printable and holds no space."""
    return value.isprintable() and " " not in value


def _key(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable characters")
    return value


def _folder(info: ValidationInfo) -> Path:
    context: Mapping[str, Any] = info.context or {}
    folder: Path = context.get("folder", Path())
    return folder


# The patterns are for the JSON Schema: what a validator accepts they accept, and they catch most of
# what it refuses.
Repository = Annotated[
    str, AfterValidator(_repository), Field(json_schema_extra={"pattern": _REPOSITORY_PATTERN})
]
RepositoryPath = Annotated[
    str, AfterValidator(_path_in_repository), Field(json_schema_extra={"pattern": _PATH_PATTERN})
]
Branch = Annotated[
    str, AfterValidator(_branch), Field(json_schema_extra={"pattern": _BRANCH_PATTERN})
]
HttpUrl = Annotated[
    str, AfterValidator(_http_url), Field(json_schema_extra={"pattern": _HTTP_URL_PATTERN})
]


_LINE_SCHEMA: Final[dict[str, JsonValue]] = {"pattern": r"\S", "maxLength": MAX_TEXT}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GovernanceSettings(_Settings):
    """Where the governance file lies."""

    repository: Repository = Field(
        description="The git repository of the governance file: an https or ssh URL, or a path. "
        "A path is relative to this file. No password: git's own helpers bring credentials.",
        examples=["git@github.com:example/platform.git"],
    )
    branch: Branch = Field(default="main", description="The branch that is read, at its tip.")
    path: RepositoryPath = Field(
        default="ecr-catalog.yaml", description="The governance file inside that repository."
    )


class RegistrySettings(_Settings):
    """Which ECR registry is mirrored."""

    region: str = Field(
        pattern=r"^[a-z]{2,}(-[a-z]+)+-[0-9]+$",
        description="The AWS region of the registry.",
        examples=["eu-west-2"],
    )
    account_id: str | None = Field(
        default=None,
        pattern=r"^[0-9]{12}$",
        description="The AWS account of the registry; an answer from any other one is refused. "
        "Without it, the account of the last publication counts.",
        examples=["123456789012"],
    )
    role_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+$",
        description="The role to assume with the process's own credentials; none by default.",
        examples=["arn:aws:iam::123456789012:role/ecr-catalog"],
    )
    endpoint_url: HttpUrl | None = Field(
        default=None,
        description="Where every AWS service of this mirror answers, instead of AWS itself. "
        "Plain HTTP on loopback counts as an emulator and only ever gets dummy keys.",
        examples=["http://127.0.0.1:5055"],
    )


class EntitySettings(_Settings):
    """What the entity says of itself; name and title follow from the mirror's name."""

    name: str | None = Field(
        default=None,
        description="The entity's name in Backstage; by default the mirror's name and "
        "`-ecr-registry`.",
        examples=["goldenpath-ecr-registry"],
        json_schema_extra={"pattern": f"^(?:{NAME.pattern})?$", "maxLength": MAX_NAME},
    )
    namespace: str = Field(
        default="default",
        description="The entity's namespace in Backstage.",
        json_schema_extra={"pattern": f"^{NAMESPACE.pattern}$", "maxLength": MAX_NAME},
    )
    title: str | None = Field(
        default=None,
        description="What Backstage shows as the entity's title; one line.",
        json_schema_extra={"maxLength": MAX_TEXT},
    )
    owner: str = Field(
        default="platform-team",
        description="The owner of the entity: a group or user that Backstage knows.",
        json_schema_extra=_LINE_SCHEMA,
    )
    system: str | None = Field(
        default="container-registry",
        description="The system that the entity belongs to; null leaves it out.",
        json_schema_extra=_LINE_SCHEMA,
    )
    list_limit: int = Field(
        default=LIST_LIMIT,
        gt=0,
        description="How many live and pending repositories the entity lists. Past it, the entity "
        "has a summary, and points to the full list beside it.",
    )


class GitTarget(_Settings):
    """Publish as a commit."""

    kind: Literal["git"] = Field(description="Where the entity is published: git, s3 or file.")
    repository: Repository = Field(
        description="The git repository that the entity is pushed to: an https or ssh URL, or a "
        "path. A path is relative to this file. No password: git's own helpers bring credentials.",
        examples=["git@github.com:example/platform.git"],
    )
    branch: Branch = Field(
        default="governance-registry",
        description="The branch that is pushed to; made when it is missing.",
    )
    path: RepositoryPath = Field(
        default="catalog/resources/ecr-registry.yaml",
        description="The entity's file; nothing else of the repository is changed.",
    )

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two targets the same one."""
        return ("git", _same_repository(self.repository), self.branch, self.path)


class S3Target(_Settings):
    """Publish as an object, which Backstage reads natively."""

    kind: Literal["s3"] = Field(description="Where the entity is published: git, s3 or file.")
    bucket: str = Field(
        min_length=3,
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="The bucket that Backstage reads.",
        examples=["example-catalog"],
    )
    key: Annotated[str, AfterValidator(_key)] = Field(
        min_length=1,
        max_length=1024,
        description="The entity's key in the bucket.",
        examples=["ecr-registries/goldenpath.yaml"],
    )
    endpoint_url: HttpUrl | None = Field(
        default=None,
        description="Where S3 answers; by default where every AWS service of this mirror does.",
    )

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two targets the same one."""
        return ("s3", self.bucket, self.key)


class FileTarget(_Settings):
    """Publish as a local file."""

    kind: Literal["file"] = Field(description="Where the entity is published: git, s3 or file.")
    path: str = Field(
        min_length=1,
        description="The entity's file. A relative path is relative to the folder of this file.",
        examples=["../published/ecr-registry.yaml"],
    )

    @field_validator("path")
    @classmethod
    def _resolve(cls, value: str, info: ValidationInfo) -> str:
        path = _local_path(value, info)
        # The last part stays as written, so that a symbolic link there is seen.
        resolved = _resolved(path.parent) / path.name
        if any(resolved.is_relative_to(device) for device in _DEVICES):
            raise ValueError(f"lies in {', '.join(_DEVICES)}: name a file")
        return str(resolved)

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two targets the same one."""
        return ("file", self.path)


def list_key(key: str) -> str:
    """The key of an S3 entity's lists, which no provider that reads the entity's prefix may see."""
    return f"full-lists/{key}"


Target = Annotated[GitTarget | S3Target | FileTarget, Field(discriminator="kind")]


class BackstageSettings(_Settings):
    """The Backstage that shows the entity; the token is read from that variable when used."""

    url: HttpUrl = Field(
        description="Where Backstage's backend answers.", examples=["https://backstage.example.com"]
    )
    token_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The name of the environment variable that holds the token for Backstage; the "
        "token itself is never written here.",
        examples=["BACKSTAGE_TOKEN"],
    )


class ParitySettings(_Settings):
    """The promise, in seconds from a change to its being visible."""

    slo_seconds: int = Field(
        default=180,
        gt=0,
        le=MAX_SLO_SECONDS,
        description="How many seconds a change may take until Backstage shows it.",
    )


class GuardSettings(_Settings):
    """What a plan may remove without approval."""

    max_removals: int = Field(
        default=10,
        ge=0,
        description="How many repositories a plan may remove before it is held for approval.",
    )
    max_removal_percent: float = Field(
        default=20.0,
        ge=0,
        le=100,
        description="How many per cent of the listed repositories a plan that removes 3 or more "
        "may remove before it is held.",
    )


class WatchSettings(_Settings):
    """How often both sources are looked at for changes."""

    seconds: int = Field(
        default=5,
        ge=1,
        le=3_600,
        description="How many seconds pass between two looks at governance and ECR; at least one "
        "for each page of 1,000 repositories.",
    )


class SprawlSettings(_Settings):
    """Where ECR entities may be declared by hand."""

    repository: Repository = Field(
        description="The git repository of the Backstage catalog, in which ad-hoc ECR entities "
        "are looked for.",
        examples=["git@github.com:example/catalog.git"],
    )
    branch: Branch = Field(default="main", description="The branch that is read, at its tip.")
    paths: tuple[RepositoryPath, ...] = Field(
        default=(),
        description="The folders and files to look at; the whole repository by default.",
        examples=[["catalog"]],
    )


class HealthSettings(_Settings):
    """Where the health report goes: published after the entity, in a commit of its own."""

    path: RepositoryPath = Field(
        description="The report's file, in the repository and on the branch of `publish`, which "
        "must be of kind git.",
        examples=["docs/PLATFORM_HEALTH.md"],
    )
    style: Literal["section", "file"] = Field(
        default="section",
        description="section: between two marker lines in a file of yours. file: a file of its "
        "own, with frontmatter.",
    )
    env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="What the frontmatter calls the environment; by default the mirror's name.",
        examples=["prod"],
    )


class RiskPolicySettings(_Settings):
    """What is asked of the repositories of one risk; only what is written is checked."""

    scanning: Literal["on-push", "continuous"] | None = Field(
        default=None,
        description="How images are scanned at the least, by the registry's rules or, with basic "
        "scanning, by the repository's own setting.",
    )
    encryption: Literal["AES256", "KMS"] | None = Field(
        default=None, description="How the repository is encrypted at the least."
    )
    immutable_tags: bool | None = Field(
        default=None, description="true: tags are immutable. false asks nothing."
    )
    keep_images: int | None = Field(
        default=None,
        ge=1,
        description="How many images a lifecycle rule leaves: any image beyond expires.",
    )

    @property
    def policy(self) -> Policy:
        """The same in the words of the core."""
        return Policy(
            scanning=Scanning(self.scanning) if self.scanning else None,
            encryption=self.encryption,
            immutable_tags=bool(self.immutable_tags),
            keep_images=self.keep_images,
        )


class RisksSettings(_Settings):
    """What is asked by risk."""

    low: RiskPolicySettings | None = Field(
        default=None,
        description="What is asked at risk low.",
        examples=[
            {
                "scanning": "on-push",
                "encryption": "AES256",
                "immutable_tags": False,
                "keep_images": 20,
            }
        ],
    )
    medium: RiskPolicySettings | None = Field(
        default=None,
        description="What is asked at risk medium.",
        examples=[
            {
                "scanning": "on-push",
                "encryption": "AES256",
                "immutable_tags": False,
                "keep_images": 30,
            }
        ],
    )
    high: RiskPolicySettings | None = Field(
        default=None,
        description="What is asked at risk high.",
        examples=[
            {"scanning": "on-push", "encryption": "KMS", "immutable_tags": True, "keep_images": 50}
        ],
    )


class PolicySettings(_Settings):
    """What governance asks of repositories beside their entries."""

    risk: RisksSettings = Field(
        description="What is asked of a repository by its risk; its own `governance:` block in "
        "the governance file overrides it."
    )


TagKey = Annotated[str, AfterValidator(_key), Field(min_length=1, max_length=128)]


class AdoptTags(_Settings):
    """Which tags of a repository in AWS say what."""

    owner: TagKey = Field(
        default="goldenpath.idp/owner", description="The tag that names the team that answers."
    )
    risk: TagKey = Field(
        default="goldenpath.idp/risk", description="The tag that says low, medium or high."
    )
    environment: TagKey = Field(
        default="Environment", description="The tag that names the environment."
    )


class AdoptSettings(_Settings):
    """How `ecr-catalog adopt` makes governance entries of orphans."""

    tags: AdoptTags = Field(
        default=AdoptTags(), description="Which tags of a repository in AWS say what."
    )


class NotifySettings(_Settings):
    """Whether owners are notified of the findings of their repositories."""

    backstage: bool = Field(
        default=False,
        description="Notify the owner of a repository of each of its error findings, once when it "
        "begins and once when it ends, through Backstage's notifications.",
    )


class Mirror(_Settings):
    """One governance file, one ECR registry, one entity."""

    name: str = Field(
        description="The mirror's name. Optional: it is the file's name without .yaml, and must "
        "equal it.",
        json_schema_extra={"pattern": f"^{_NAME.pattern}$"},
    )
    governance: GovernanceSettings = Field(description="Where the governance file lies.")
    registry: RegistrySettings = Field(description="Which ECR registry is mirrored.")
    entity: EntitySettings = Field(
        default=EntitySettings(),
        description="What the entity says of itself; all of it is optional.",
    )
    publish: Target = Field(description="Where the entity is published.")
    backstage: BackstageSettings | None = Field(
        default=None,
        description="The Backstage that shows the entity and is asked whether it does. Without it "
        "parity is measured to the publication.",
    )
    parity: ParitySettings = Field(
        default=ParitySettings(), description="The promise that is measured and alerted on."
    )
    guard: GuardSettings = Field(
        default=GuardSettings(), description="What a plan may remove without approval."
    )
    adopt: AdoptSettings = Field(
        default=AdoptSettings(),
        description="How `ecr-catalog adopt` makes governance entries of orphans.",
    )
    watch: WatchSettings = Field(
        default=WatchSettings(), description="How often both sources are looked at for changes."
    )
    sprawl: SprawlSettings | None = Field(
        default=None,
        description="Look for ad-hoc ECR entities in the catalog repository at every tick.",
    )
    health: HealthSettings | None = Field(
        default=None,
        description="Publish the registry's health as Markdown after the entity; only with "
        "publish.kind git.",
    )

    policy: PolicySettings | None = Field(
        default=None,
        description="What is asked of the repositories' settings in AWS; what is not so is a "
        "finding.",
    )

    notify: NotifySettings = Field(
        default=NotifySettings(),
        description="Who is notified of findings besides the platform team, which gets the alerts.",
    )

    @model_validator(mode="after")
    def _check_notify(self) -> Self:
        if self.notify.backstage and self.backstage is None:
            raise ValueError(
                "notify.backstage: sends through Backstage: write a `backstage:` block, or leave "
                "it out"
            )
        return self

    @model_validator(mode="after")
    def _check_health(self) -> Self:
        if self.health is None:
            return self
        if self.publish.kind != "git":
            raise ValueError(
                "health: is published to the git repository of the entity: use publish.kind git, "
                "or leave health out"
            )
        entity, report = PurePosixPath(self.publish.path), PurePosixPath(self.health.path)
        if entity == report or entity in report.parents or report in entity.parents:
            raise ValueError("health.path: must name another file than publish.path")
        return self

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
    def list_place(self) -> ListPlace:
        """Where the full list goes: beside the entity or, in S3, under a prefix of its own."""
        limit = self.entity.list_limit
        match self.publish:
            case FileTarget(path=path) | GitTarget(path=path):
                return ListPlace("path", PurePosixPath(path).name, limit)
            case S3Target() as target:
                return ListPlace("url", self._object_url(list_key(target.key)), limit)

    def _object_url(self, key: str) -> str:
        """How Backstage and people address an object of the S3 target's bucket."""
        target = self.publish
        assert isinstance(target, S3Target)
        key = quote(key)
        if endpoint := self.s3_endpoint_url:
            return f"{endpoint}/{target.bucket}/{key}"
        region = self.registry.region
        host = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        return f"https://{target.bucket}.s3.{region}.{host}/{key}"

    @property
    def removal_limits(self) -> RemovalLimits:
        """The limits of the removal guard."""
        return RemovalLimits(self.guard.max_removals, self.guard.max_removal_percent)

    @property
    def policies(self) -> Policies:
        """What is asked by risk; empty without `policy:`."""
        risks = self.policy.risk if self.policy else RisksSettings()
        return {risk: each.policy for risk in RISKS if (each := getattr(risks, risk)) is not None}

    @property
    def target_identity(self) -> tuple[str, ...]:
        """What makes the targets of two mirrors the same one."""
        endpoint = self.s3_endpoint_url if isinstance(self.publish, S3Target) else None
        return (endpoint or "", *self.publish.identity)

    @property
    def health_identity(self) -> tuple[str, ...] | None:
        """What makes the files of two health reports, or of one and an entity, the same one."""
        if self.health is None or not isinstance(self.publish, GitTarget):
            return None
        return ("", *self.publish.model_copy(update={"path": self.health.path}).identity)

    @property
    def locations(self) -> tuple[tuple[str, str], ...]:
        """Type and target of the locations by which a Backstage may read the entity."""
        match self.publish:
            case FileTarget(path=path):
                return (("file", path),)
            case S3Target(key=key):
                return (("url", self._object_url(key)),)
            case GitTarget(repository=repository, branch=branch, path=path):
                page = _web_page(repository)
                if page is None:
                    return (("file", f"{repository.removeprefix('file://')}/{path}"),)
                return tuple(("url", f"{page}/{view}/{branch}/{path}") for view in _WEB_VIEWS)

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
    folder: Path | None = field(default=None, compare=False)

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
            remediation=f"Mirrors here: {known}. Set {MIRRORS_VARIABLE} to use another folder.",
        )


def can_name_a_mirror(name: str) -> bool:
    """Whether a mirror could have that name."""
    return _NAME.fullmatch(name) is not None


def sync_job_name(mirror: str) -> str:
    """The name of the Dagster job that runs a mirror."""
    return f"{mirror}_sync"


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
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix in {".yaml", ".yml"} and path.name != DEFAULTS_FILE
        )
    except OSError as error:
        raise SettingsError(
            f"the mirrors folder {folder} cannot be read: {error.strerror}",
            remediation=f"Set {MIRRORS_VARIABLE} to the folder of your mirror files.",
        ) from None
    try:
        shared = read_defaults(folder)
    except SettingsError:
        shared = None  # Each mirror reads it again, and says what is wrong.
    mirrors: dict[str, Mirror] = {}
    errors: dict[str, SettingsError] = {}
    for path in paths:
        try:
            mirrors[path.stem] = load_mirror(path, defaults=shared)
        except SettingsError as error:
            errors[clean_text(path.stem if path.suffix == ".yaml" else path.name)] = error
    shared = _shared_targets(mirrors, folder.name)
    usable = {name: mirror for name, mirror in mirrors.items() if name not in shared}
    return LoadedMirrors(usable, {**errors, **shared}, folder)


def load_mirror(
    path: Path, text: str | None = None, *, defaults: Mapping[str, Any] | None = None
) -> Mirror:
    """Load one mirror file, over the settings that the mirrors of its folder share.

    Args:
        text: read instead of the file, as if it stood there.
        defaults: instead of those of the folder.

    Raises:
        SettingsError: naming the file, the key and the fix.
    """
    return _load(path, text, defaults)[0]


def self_contained(path: Path, text: str) -> str:
    """Write a mirror file so that it says the same without what is shared in its folder.

    Raises:
        SettingsError: it cannot be used.
    """
    if not _is_there(path.parent / DEFAULTS_FILE):
        return text
    # Every scalar was read as text, and JSON keeps it one.
    return json.dumps(_load(path, text, None)[1], ensure_ascii=False, indent=2) + "\n"


def read_defaults(folder: Path) -> Mapping[str, Any]:
    """Read the settings that the mirrors of a folder share; none where there is no such file.

    Raises:
        SettingsError: naming the file, the place and the fix.
    """
    path = folder / DEFAULTS_FILE
    if not _is_there(path):
        return {}
    defaults = _read_mapping(path, None, _shown_path(path), may_be_empty=True)
    if "name" in defaults:
        raise SettingsError(
            f"{_shown_path(path)}: name: is each mirror's own",
            remediation="Take it out: a mirror's name is its file's stem.",
        )
    return defaults


def _load(
    path: Path, text: str | None, defaults: Mapping[str, Any] | None
) -> tuple[Mirror, Mapping[str, Any]]:
    """Give a mirror, and the settings of both files that make it."""
    shown = _shown_path(path)
    if path.suffix != ".yaml" or not _NAME.fullmatch(path.stem):
        raise SettingsError(
            f"{shown}: {clean_text(path.stem)!r} cannot name a mirror",
            remediation="Name the file NAME.yaml: a lower-case letter, then at most 40 of a-z 0-9 "
            "_.",
        )
    own = _read_mapping(path, text, shown)
    shared = read_defaults(path.parent) if defaults is None else defaults
    if own.setdefault("name", path.stem) != path.stem:
        raise SettingsError(
            f"{shown}: name: is {_shown(own['name'])}, the file's stem is {path.stem!r}",
            remediation="Make them equal, or leave `name` out.",
        )
    try:
        return _validated(laid_over(shared, own), set(unset_paths(shared, own)), path.parent)
    except ValidationError as error:
        found = error.errors()
    problems: defaultdict[str, list[str]] = defaultdict(list)
    for detail in found:
        is_own = holds(own, _steps(detail)) or not holds(shared, _steps(detail))
        file = shown if is_own else _shown_path(path.parent / DEFAULTS_FILE)
        problems[file].append(_problem(detail))
    raise SettingsError(
        "; ".join(f"{file}: {'; '.join(each)}" for file, each in problems.items()),
        remediation="Correct these keys.",
    )


def _validated(
    data: dict[str, Any], unset: set[tuple[str, ...]], folder: Path
) -> tuple[Mirror, Mapping[str, Any]]:
    """Validate settings, and give what counted of them.

    Args:
        unset: where null takes away what is shared. It is a value where it is accepted as one, as
            in `entity.system`; elsewhere the key counts as not being there.
    """
    context = {"folder": folder}
    try:
        return Mirror.model_validate(data, context=context), data
    except ValidationError as error:
        nulls = {_steps(each) for each in error.errors() if each["input"] is None} & unset
        if not nulls:
            raise
    for null in nulls:
        data = without(data, null)
    return Mirror.model_validate(data, context=context), data


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # Reading it says what is wrong.
    return True


def _shown_path(path: Path) -> str:
    # A file's name may hold anything, even bytes that are no text.
    return clean_text(f"{path.parent.name}/{path.name}")


def _read_mapping(
    path: Path, text: str | None, shown: str, *, may_be_empty: bool = False
) -> dict[str, Any]:
    try:
        content = read_regular_file(path, MAX_BYTES).decode() if text is None else text
        documents = list(parse_documents(content))
    except YamlFault as fault:
        raise SettingsError(
            f"{shown}:{fault.line}:{fault.column}: {fault.problem}", remediation="Fix it there."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{shown}: cannot be read: {_reason(error)}",
            remediation="Make it a readable UTF-8 file.",
        ) from None
    if may_be_empty and all(each.value is None for each in documents):
        return {}
    data = documents[0].value if len(documents) == 1 else None
    if not isinstance(data, dict):
        raise SettingsError(
            f"{shown}: is not one YAML mapping",
            remediation="Start from mirrors/demo.yaml: governance, registry and publish are "
            "required.",
        )
    return data


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else "no text"


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return error.strerror or type(error).__name__


def _steps(detail: Any) -> tuple[str, ...]:
    """The keys that lead to what a validation error is about."""
    steps = [str(step) for step in detail["loc"]]
    # pydantic puts the chosen kind of target into the path; the file has no such key.
    if len(steps) > 1 and steps[0] == "publish" and steps[1] in {"git", "s3", "file"}:
        del steps[1]
    return (*steps, "kind") if detail["type"].startswith("union_tag") else tuple(steps)


def _problem(detail: Any) -> str:
    """Say what one validation error means, in the words of the file."""
    key = ".".join(clean_text(step) for step in _steps(detail))
    if detail["type"] == "missing":
        return f"{key}: is required"
    if detail["type"] == "extra_forbidden":
        return f"{key}: is not a key of a mirror file"
    if detail["type"].startswith("union_tag"):
        return f"{key}: must be git, s3 or file"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _web_page(repository: str) -> str | None:
    """The page of a repository at its git host; None of a local one."""
    plain = repository.rstrip("/").removesuffix(".git")
    scp = _SCP_LIKE.fullmatch(plain)
    if plain.startswith("file://") or is_local_path(plain):
        return None
    if "://" not in plain and scp:
        return f"https://{scp['host']}/{plain.partition(':')[2].lstrip('/')}"
    parts = urlsplit(plain)
    # The port of ssh says nothing of the one of the pages.
    port = f":{parts.port}" if parts.port and parts.scheme == "https" else ""
    return f"https://{parts.hostname}{port}{parts.path}"


def _same_repository(repository: str) -> str:
    """Spell a repository so that two spellings of one are equal: no user, no .git, no file://."""
    plain = repository.removeprefix("file://").rstrip("/").removesuffix(".git")
    if "://" not in plain:
        return plain
    parts = urlsplit(plain)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}"


def _shared_targets(mirrors: Mapping[str, Mirror], folder: str) -> dict[str, SettingsError]:
    """Refuse every mirror that shares its target or its entity: none is known to be the right one.

    Only the sections of several health reports may go to one file.
    """
    sharing: defaultdict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    owning: set[tuple[str, ...]] = set()
    for name, mirror in mirrors.items():
        sharing[mirror.target_identity].append((name, "publish"))
        owning.add(mirror.target_identity)
        if mirror.health and (report := mirror.health_identity):
            sharing[report].append((name, "health.path"))
            if mirror.health.style == "file":
                owning.add(report)
    shared_targets = {
        name: SettingsError(
            f"{folder}/{name}.yaml: {key}: is also the target of "
            f"{', '.join(other for other, _ in found if other != name)}",
            remediation="Give every mirror a target of its own.",
        )
        for target, found in sharing.items()
        if target in owning and len(found) > 1
        for name, key in found
    }
    return {**_shared_entities(mirrors, folder), **shared_targets}


def _shared_entities(mirrors: Mapping[str, Mirror], folder: str) -> dict[str, SettingsError]:
    sharing: defaultdict[str, list[str]] = defaultdict(list)
    for name, mirror in mirrors.items():
        sharing[mirror.identity.reference.lower()].append(name)
    return {
        name: SettingsError(
            f"{folder}/{name}.yaml: entity: {mirrors[name].identity.reference} is also the entity "
            f"of {', '.join(other for other in names if other != name)}; Backstage compares names "
            "without regard to case",
            remediation="Give every mirror an entity.name or an entity.namespace of its own.",
        )
        for names in sharing.values()
        if len(names) > 1
        for name in names
    }
