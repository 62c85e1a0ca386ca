"""The wheel, installed where there is no checkout, is the whole product."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.integration.worlds import FileTarget, a_world

ROOT: Final = Path(__file__).parents[2]
UV: Final = Path(sys.executable).with_name("uv")

# Building and installing bring what is missing in uv's cache from the package registry.
pytestmark = pytest.mark.timeout(600)

KEYS: Final = """
import json
import ecr_catalog_pipeline
from ecr_catalog_pipeline.definitions import defs
repository = defs().get_repository_def()
repository.load_all_definitions()
graph = repository.asset_graph
print(json.dumps({
    "from": ecr_catalog_pipeline.__file__,
    "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
    "checks": sorted(key.to_user_string() for key in graph.asset_check_keys),
}))
"""


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel and what it asks for, in the locked versions."""

    wheel: Path
    venv: Path
    empty: Path

    def run(self, *command: str, **environment: str) -> str:
        """Run one of its programs far from the checkout; gives what it prints."""
        done = subprocess.run(
            [self.venv / "bin" / command[0], *command[1:]],
            cwd=self.empty,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.empty), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "\n".join(line.removesuffix("\\") for line in locked if not line.startswith(" "))
    )
    uv("build", "--wheel", "--out-dir", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv, empty = folder / "venv", folder / "empty"
    empty.mkdir()
    uv("venv", "--python", sys.executable, venv)
    uv("pip", "install", "--python", venv / "bin" / "python", "--constraint", constraints, wheel)
    return Installed(wheel, venv, empty)


def uv(*arguments: str | Path) -> None:
    done = subprocess.run(
        [UV, "--quiet", *arguments], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_loads_the_same_keys_as_the_checkout(
    installed: Installed, tmp_path: Path
) -> None:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        asset_graph = world.definitions.resolve_asset_graph()
        loaded = json.loads(
            installed.run("python", "-c", KEYS, ECR_CATALOG_MIRRORS=str(world.mirrors))
        )

    assert Path(loaded["from"]).is_relative_to(installed.venv)
    assert loaded["assets"] == sorted(
        key.to_user_string() for key in asset_graph.get_all_asset_keys()
    )
    assert loaded["checks"] == sorted(key.to_user_string() for key in asset_graph.asset_check_keys)
    assert loaded["checks"]


def test_the_installed_command_explains_and_runs_itself(
    installed: Installed, tmp_path: Path
) -> None:
    helped = installed.run("ecr-catalog", "--help")
    for command in ("plan", "sync", "guard", "demo"):
        assert f"\n  {command} " in helped
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.have("team/api")
        said = installed.run("ecr-catalog", "sync", "-m", world.name, **world.environ(tmp_path))
        assert said.startswith("published: 1 live")
        assert list(world.listed) == ["team/api"]


def test_the_wheel_brings_what_the_demo_reads(installed: Installed) -> None:
    files = zipfile.ZipFile(installed.wheel).namelist()

    assert "ecr_catalog_pipeline/demo/ecr-catalog.yaml" in files
    assert {name.split("/")[0] for name in files if ".dist-info" not in name} == {
        "ecr_catalog_pipeline"
    }


def test_the_wheel_is_typed_as_it_says(installed: Installed) -> None:
    assert "ecr_catalog_pipeline/py.typed" in zipfile.ZipFile(installed.wheel).namelist()
