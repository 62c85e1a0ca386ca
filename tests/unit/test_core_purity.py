"""The core is a function of its arguments: it loads no framework and opens nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from tests.unit.builders import DATA, ROOT

BANNED = (
    "boto3",
    "botocore",
    "dagster",
    "git",
    "http",
    "httpx",
    "requests",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "urllib.request",
    "urllib3",
)


def import_all(package: str) -> str:
    return f"""
import importlib, pkgutil, sys
import ecr_catalog_pipeline.{package} as package
names = [each.name for each in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
"""


IMPORT_ALL = import_all("core")

LIST_LOADED = """
print(len(names))
for name in sorted(sys.modules):
    print(name)
"""

# A first pass may import codecs lazily; only the second is watched.
RUN_WATCHED = """
from datetime import datetime, timezone
from ecr_catalog_pipeline.core.entity import EntityIdentity, ListPlace, desired_entity
from ecr_catalog_pipeline.core.errors import GovernanceRefused
from ecr_catalog_pipeline.core.governance import parse_governance
from ecr_catalog_pipeline.core.guard import RemovalLimits
from ecr_catalog_pipeline.core.inventory import Inventory, merge_pages, parse_page
from ecr_catalog_pipeline.core.plan import Current, make_plan
from ecr_catalog_pipeline.core.reconcile import reconcile

GOVERNANCE = sys.stdin.buffer.read()
NOW = datetime(2026, 1, 9, 23, 3, 13, tzinfo=timezone.utc)

def run():
    page = parse_page({"repositories": [
        {"repositoryName": name, "repositoryUri": "x/" + name, "createdAt": NOW}
        for name in ("payments-gateway", "no", "stray")
    ]})
    inventory = Inventory("123456789012", "eu-west-2", merge_pages([page]))
    published = None
    for content in (GOVERNANCE, b"repositories: {}"):
        identity = EntityIdentity("registry", "default", "Registry", "team", None)
        registry = reconcile(parse_governance(content), inventory)
        desired = desired_entity(
            identity, registry, account_id=inventory.account_id, region=inventory.region,
            source_sha="0" * 40, now=NOW, place=ListPlace("path", "e.yaml"),
        )
        current = Current.at_target(published, None, identity, desired)
        plan = make_plan(
            desired=desired, limits=RemovalLimits(), registry=registry,
            inventory=inventory, current=current, source_sha="0" * 40,
            reads_began_at=NOW, now=NOW,
        )
        plan.check_age(NOW)
        published = plan.content
    assert plan.held and inventory.fingerprint and plan.plan_hash
    for refused in (b"[}", b"\\xff", b"a: !!python/object:os.system {}", b"x: \\x00"):
        try:
            parse_governance(refused)
        except GovernanceRefused:
            continue
        raise AssertionError(refused)
    return published

run()
events = []
watching = True
def watch(event, arguments):
    if watching:
        events.append(event)
sys.addaudithook(watch)
open(sys.executable, "rb").close()
assert "open" in events  # the watch sees
events.clear()
result = run()
watching = False
sys.stdout.write("\\n".join(events) + "\\n--\\n")
sys.stdout.flush()
sys.stdout.buffer.write(result)
"""


def run(script: str, *, seed: str = "0") -> str:
    answer = subprocess.run(
        [sys.executable, "-c", script],
        input=(DATA / "golden" / "ecr-catalog.yaml").read_bytes(),
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"},
    )
    return answer.stdout.decode()


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    return run(IMPORT_ALL + LIST_LOADED).splitlines()


def test_every_module_of_the_core_is_imported_by_this_test(loaded: list[str]) -> None:
    core = ROOT / "ecr_catalog_pipeline" / "core"
    modules = {path.stem for path in core.glob("*.py")} - {"__init__"}

    assert {f"ecr_catalog_pipeline.core.{name}" for name in modules} <= set(loaded)
    assert loaded[0] == str(len(modules))


@pytest.mark.parametrize(
    "name",
    [
        *("sprawl.ad_hoc", "sprawl.edits", "sprawl.retirement", "sprawl.standing"),
        "housekeeping.fate",
    ],
)
def test_a_pure_module_of_another_room_loads_no_framework_and_no_network(name: str) -> None:
    script = f"import sys, ecr_catalog_pipeline.{name}\nprint(*sys.modules, sep='\\n')"
    loaded = run(script).splitlines()
    assert f"ecr_catalog_pipeline.{name}" in loaded
    assert [each for each in loaded if each.partition(".")[0] in BANNED] == []


def test_no_adapter_names_dagster_or_a_library_of_it_in_an_import() -> None:
    adapters = ROOT / "ecr_catalog_pipeline" / "adapters"
    named = {
        name
        for path in adapters.glob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in _imported(node)
    }
    assert "botocore.exceptions" in named
    assert [name for name in named if name.startswith("dagster")] == []


def _imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [each.name for each in node.names]
        case ast.ImportFrom():
            return [node.module or ""]
        case _:
            return []


def test_importing_every_adapter_loads_no_dagster() -> None:
    loaded = run(import_all("adapters") + LIST_LOADED).splitlines()

    modules = {path.stem for path in (ROOT / "ecr_catalog_pipeline" / "adapters").glob("*.py")}
    assert {f"ecr_catalog_pipeline.adapters.{name}" for name in modules - {"__init__"}} <= set(
        loaded
    )
    assert [name for name in loaded if name.startswith("dagster")] == []


@pytest.mark.parametrize("banned", BANNED)
def test_importing_the_core_loads_no_framework_and_no_network(
    loaded: list[str], banned: str
) -> None:
    assert [name for name in loaded if name == banned or name.startswith(f"{banned}.")] == []


def test_the_core_uses_no_other_part_of_the_project(loaded: list[str]) -> None:
    ours = [name for name in loaded if name.startswith("ecr_catalog_pipeline.")]

    assert [name for name in ours if not name.startswith("ecr_catalog_pipeline.core")] == []


def test_the_core_opens_no_file_no_socket_and_no_process() -> None:
    events, _, _ = run(IMPORT_ALL + RUN_WATCHED).partition("\n--\n")

    io = ("open", "os.", "socket.", "subprocess.", "shutil.", "import", "exec", "urllib.")
    assert [event for event in events.splitlines() if event.startswith(io)] == []


def test_the_bytes_depend_on_neither_the_hash_seed_nor_the_time_zone() -> None:
    results = {run(IMPORT_ALL + RUN_WATCHED, seed=seed).partition("\n--\n")[2] for seed in "017"}

    assert len(results) == 1
    assert "payments-gateway" not in results.pop()
