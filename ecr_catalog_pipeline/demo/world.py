"""The demo's two git repositories, and what its ECR holds at first."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import yaml

from ecr_catalog_pipeline.adapters.aws import client_config, is_emulator, new_session
from ecr_catalog_pipeline.adapters.git_command import GitUnusable, find_git, git_python
from ecr_catalog_pipeline.core.errors import CatalogError, SettingsError
from ecr_catalog_pipeline.core.governance import is_repository_name
from ecr_catalog_pipeline.settings import GitTarget, Mirror

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

DEMO_MIRROR: Final = "demo"
BREAK_SUBJECT: Final = "Break the governance file"

_SCANNED: Final = {
    "imageScanningConfiguration": {"scanOnPush": True},
    "encryptionConfiguration": {"encryptionType": "KMS"},
}
FIRST_REPOSITORIES: Final[Mapping[str, Mapping[str, object]]] = {
    "payments/gateway": _SCANNED,
    "payments/ledger": _SCANNED,
    "payments/fraud-scoring": {"encryptionConfiguration": {"encryptionType": "KMS"}},
    "shop/storefront": {},
    "shop/cart": {},
    "shop/checkout": {},
    "shop/search": {},
    "shop/legacy-cart": {},
    "shop/recommendations": {},
    "shop/loyalty": {},
    "base-images/python": {"imageScanningConfiguration": {"scanOnPush": True}},
    "base-images/node": {"imageScanningConfiguration": {"scanOnPush": True}},
    "ingress-controller": {},
    "ci-runner": {},
    "toolbox": {},
    "jenkins-agent": {},
    "tmp-debug-jo": {},
    "shop/black-friday-2024": {},
}
CREATION_TEMPLATES: Final = ({"prefix": "shop", "appliedFor": ["CREATE_ON_PUSH"]},)
# The demo's repositories are its own, on this host: they need none of the user's configuration.
_ENVIRONMENT: Final = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Demo",
    "GIT_AUTHOR_EMAIL": "demo@localhost",
    "GIT_COMMITTER_NAME": "Demo",
    "GIT_COMMITTER_EMAIL": "demo@localhost",
}


@dataclass(frozen=True)
class DemoWorld:
    """Where the demo lies, all of it taken from its mirror file."""

    governance: Path
    governance_file: Path
    catalog: Path
    catalog_branch: str
    entity_file: Path
    endpoint_url: str
    region: str

    @property
    def ecr_state(self) -> Path:
        """The file that keeps what the demo's ECR holds."""
        return self.governance.parent / "ecr.json"

    @property
    def backstage_token(self) -> Path:
        """The file that holds the token of the demo's Backstage."""
        return self.governance.parent / "backstage-token"

    @property
    def mirrors(self) -> Path:
        """The folder of the mirror file with other ports, if any were asked for."""
        return self.governance.parent / "mirrors"

    @property
    def ecr_port(self) -> int:
        """The port of the demo's ECR."""
        port = urlsplit(self.endpoint_url).port
        assert port is not None
        return port


EcrChange = Callable[[DemoWorld, str], None]


def demo_world(mirror: Mirror) -> DemoWorld:
    """Take the demo's places from its mirror file.

    Raises:
        SettingsError: the mirror file does not describe a world on this host.
    """
    endpoint = mirror.registry.endpoint_url
    target = mirror.publish
    local = (
        is_emulator(endpoint)
        and endpoint
        and urlsplit(endpoint).port
        and isinstance(target, GitTarget)
        and Path(mirror.governance.repository).is_absolute()
        and Path(target.repository).is_absolute()
    )
    if not local or endpoint is None or not isinstance(target, GitTarget):
        raise SettingsError(
            "mirrors/demo.yaml no longer describes the demo on this host",
            remediation="Its repositories must be local paths and its registry.endpoint_url "
            "http://127.0.0.1:PORT; `git checkout mirrors/demo.yaml` brings it back.",
        )
    governance, catalog = Path(mirror.governance.repository), Path(target.repository)
    return DemoWorld(
        governance=governance,
        governance_file=governance / mirror.governance.path,
        catalog=catalog,
        catalog_branch=target.branch,
        entity_file=catalog / target.path,
        endpoint_url=endpoint,
        region=mirror.registry.region,
    )


def build_world(world: DemoWorld) -> bool:
    """Make the demo's repositories if they are not there; say whether they were made."""
    made = False
    if not (world.governance / ".git").exists():
        template = resources.files("ecr_catalog_pipeline.demo").joinpath("ecr-catalog.yaml")
        _make_repository(
            world.governance,
            "main",
            {world.governance_file: template.read_text(encoding="utf-8")},
            "Govern our container repositories",
        )
        made = True
    if not (world.catalog / ".git").exists():
        readme = world.catalog / "README.md"
        _make_repository(
            world.catalog,
            world.catalog_branch,
            {readme: "# What Backstage reads\n\nOnly the mirror commits here.\n"},
            "Start the catalog",
        )
        # Pushes update the files here, so that Backstage can read them from the checkout.
        git(world.catalog, "config", "receive.denyCurrentBranch", "updateInstead")
        made = True
    return made


def write_mirror_with_ports(mirror: Mirror, ecr: int | None, backstage: int | None) -> Path:
    """Write the demo's mirror file with other ports into a mirrors folder of the demo.

    Returns:
        That folder: every command that is to find the demo on these ports needs it.
    """
    folder = demo_world(mirror).mirrors
    settings = mirror.model_dump(mode="json", exclude_unset=True)
    if ecr:
        settings["registry"]["endpoint_url"] = f"http://127.0.0.1:{ecr}"
    if backstage and mirror.backstage:
        settings["backstage"]["url"] = f"http://127.0.0.1:{backstage}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{mirror.name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def share_token(mirror: Mirror, world: DemoWorld) -> None:
    """Put the demo's Backstage token into this process's environment, where it has none yet.

    The token is made once and lies beside the demo's repositories.
    """
    variable = mirror.backstage.token_env if mirror.backstage else None
    if variable is None or os.environ.get(variable):
        return
    if not world.backstage_token.exists():
        world.backstage_token.parent.mkdir(parents=True, exist_ok=True)
        world.backstage_token.touch(mode=0o600)
        world.backstage_token.write_text(secrets.token_hex(16), encoding="utf-8")
    os.environ[variable] = world.backstage_token.read_text(encoding="utf-8").strip()


def token_file(mirror: Mirror) -> Path | None:
    """Name the file with the token of the demo's Backstage, for a mirror that asks that one.

    Returns:
        None for every other mirror, and for a Backstage that is not on loopback.
    """
    if mirror.name != DEMO_MIRROR or mirror.backstage is None:
        return None
    if not is_emulator(mirror.backstage.url):
        return None
    try:
        return demo_world(mirror).backstage_token
    except SettingsError:
        return None


def request_repository(world: DemoWorld, name: str, owner: str) -> None:
    """Govern a repository as pending: a team's request, merged.

    Raises:
        CatalogError: the name is taken or impossible, or the file is broken.
    """
    if not is_repository_name(name):
        raise CatalogError(
            f"ECR accepts no repository named {name!r}",
            remediation="Use lower-case letters and digits, joined by one of . _ - /.",
        )
    if not owner.replace("-", "").isalnum():
        raise CatalogError(
            f"{owner!r} is not the name of a team", remediation="Use letters, digits and -."
        )
    text = _governance_text(world)
    try:
        governed = yaml.safe_load(text)["repositories"]
    except (yaml.YAMLError, KeyError, TypeError):
        raise CatalogError(
            f"{world.governance_file} is broken", remediation="Run `ecr-catalog demo repair` first."
        ) from None
    if name in governed:
        raise CatalogError(f"{name} is governed already", remediation="Choose another name.")
    identifier = "REGISTRY_" + "".join(c if c.isalnum() else "_" for c in name).upper()
    entry = (
        f"  {name}:\n"
        f"    metadata: {{id: {identifier}, owner: {owner}, risk: low, environment: dev, "
        "status: pending}\n"
    )
    _commit_governance(world, text.rstrip("\n") + "\n" + entry, f"Request {name}")


def break_governance(world: DemoWorld) -> None:
    """Commit a governance file that is not valid YAML."""
    _commit_governance(world, _governance_text(world) + "  broken: [\n", BREAK_SUBJECT)


def repair_governance(world: DemoWorld) -> None:
    """Revert the commit that broke the governance file.

    Raises:
        CatalogError: the last commit broke nothing.
    """
    subject = git(world.governance, "log", "-1", "--format=%s")
    if subject != BREAK_SUBJECT:
        raise CatalogError(
            f"the last commit in {world.governance} is {subject!r}: nothing to repair",
            remediation="Run `ecr-catalog demo break` first.",
        )
    git(world.governance, "revert", "--no-edit", "HEAD")


def create_in_ecr(world: DemoWorld, name: str) -> None:
    """Create a repository in the demo's ECR."""
    ecr_client(world).create_repository(repositoryName=name)


def delete_in_ecr(world: DemoWorld, name: str) -> None:
    """Delete a repository in the demo's ECR."""
    ecr_client(world).delete_repository(repositoryName=name, force=True)


def ecr_client(world: DemoWorld) -> ECRClient:
    """A client of the demo's ECR, with dummy credentials."""
    session = new_session(world.region, world.endpoint_url)
    return session.client("ecr", endpoint_url=world.endpoint_url, config=client_config())


def git(folder: Path, *arguments: str) -> str:
    """Run git in one of the demo's repositories, as the demo's own author."""
    # GitPython can only add to the environment, so `env` takes out what names another repository.
    removed = [word for name in os.environ if name.startswith("GIT_") for word in ("-u", name)]
    kept = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
    try:
        command = ["env", *removed, *kept, find_git(os.environ), *arguments]
    except GitUnusable as error:
        raise CatalogError(
            str(error), remediation="Install git: the demo makes two repositories."
        ) from None
    status, output, errors = git_python()(str(folder)).execute(
        command, with_extended_output=True, with_exceptions=False
    )
    if status:
        raise CatalogError(
            f"git {arguments[0]} failed in {folder}: {errors.strip()}",
            remediation="`make clean` removes the demo; `make run` makes it again.",
        )
    return output


def _governance_text(world: DemoWorld) -> str:
    try:
        return world.governance_file.read_text(encoding="utf-8")
    except OSError:
        raise CatalogError(
            f"there is no demo at {world.governance.parent}", remediation="Run `make run` first."
        ) from None


def _commit_governance(world: DemoWorld, text: str, subject: str) -> None:
    world.governance_file.write_text(text, encoding="utf-8")
    git(world.governance, "commit", "--quiet", "--all", "-m", subject)


def _make_repository(folder: Path, branch: str, files: Mapping[Path, str], subject: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", f"--initial-branch={branch}")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", subject)
