"""The guard on a corpus of tricky files: as a command, a pre-commit hook, a reusable workflow."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pytest
import yaml

from ecr_catalog_pipeline.core.text import visible
from ecr_catalog_pipeline.sprawl.catalog_files import MAX_BYTES
from tests.integration.commands import Command, command_in

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
HOOKS: Final = ROOT / ".pre-commit-hooks.yaml"
WORKFLOW: Final = ROOT / "deploy" / "github-actions" / "guard.yaml"
UV_CACHE: Final = os.environ.get("UV_CACHE_DIR") or str(Path("~/.cache/uv").expanduser())
# How this machine reaches its package registry; the tests' own world has no way out.
WAY_OUT: Final = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(("UV_", "PIP_", "SSL_", "REQUESTS_")) or name.lower().endswith("_proxy")
}

AD_HOC: Final = "kind: Resource\nmetadata:\n  name: {name}\nspec:\n  type: {type}\n"
PAY: Final = AD_HOC.format(name="pay", type="ecr-repository")
SEARCH: Final = AD_HOC.format(name="search", type="aws-ecr-repository")

# By path: the text, and line and name of every ad-hoc entity in it.
CORPUS: Final[dict[str, tuple[str, list[tuple[int, str]]]]] = {
    "plain.yaml": (PAY, [(1, "pay")]),
    "several.yml": (f"# c\n---\n{PAY}---\nkind: API\n---\n{SEARCH}", [(3, "pay"), (11, "search")]),
    "crlf.yaml": (f"# c\n---\n{PAY}".replace("\n", "\r\n"), [(3, "pay")]),
    "bom.yaml": ("\ufeff" + PAY, [(1, "pay")]),
    "anchors.yaml": (
        "metadata: &m {name: &n pay}\nspec: {type: ecr-repository, x: *n}\nkind: Resource\ny: *m\n",
        [(3, "pay")],
    ),
    "array.json": (json.dumps([{"kind": "Resource", "spec": {"type": "ecr-repository"}}]), []),
    "deep/entity.json": (
        json.dumps(
            {
                "metadata": {"name": "pay", "title": "\N{GRINNING FACE}"},
                "kind": "Resource",
                "spec": {"type": "container-repository"},
            },
            indent="\t",
        ),
        [(6, "pay")],
    ),
    "skeleton.yaml": (
        AD_HOC.format(name="${{ values.name }}", type="ecr-repository"),
        [(1, "${{ values.name }}")],
    ),
    "skeleton-type.yaml": (AD_HOC.format(name="x", type="${{ values.type }}"), []),
    "nunjucks.yaml": ("{% if x %}\nkind: Resource\n{% endif %}\n---\n" + PAY, [(5, "pay")]),
    "cookie.yaml": (AD_HOC.format(name="{{ cookiecutter.name }}", type="ecr-repository"), []),
    "after-template.yaml": ("a: {{ b }}\n---\n" + PAY + "---\n- [", [(3, "pay")]),
    "theirs.yaml": (AD_HOC.format(name="theirs", type="container-registry"), [(1, "theirs")]),
    "ours.yaml": (AD_HOC.format(name="goldenpath-ecr-registry", type="container-registry"), []),
    "component.yaml": (PAY.replace("Resource", "Component"), []),
    "template.yaml": (
        "kind: Template\nspec:\n  steps:\n  - input:\n      values: |\n        "
        + PAY.replace("\n", "\n        "),
        [],
    ),
    "bucket.yaml": (AD_HOC.format(name="pay", type="s3-bucket"), []),
    "comment.yaml": ("kind: System\n# " + PAY.replace("\n", "\n# "), []),
    "empty.yaml": ("", []),
    "not-catalog.txt": (PAY, []),
    "node_modules/dependency.yaml": (PAY, []),
    ".git/objects.yaml": (PAY, []),
    "a name, with: 100%\n.yaml": (PAY, [(1, "pay")]),
}
EXPECTED: Final = {
    (path, line, name) for path, (_, found) in CORPUS.items() for line, name in found
}
UNPARSED: Final = {"nunjucks.yaml", "cookie.yaml", "after-template.yaml"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "catalog"
    for path, (text, _) in CORPUS.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    return folder


@pytest.fixture
def command(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    return command_in(corpus, {}, monkeypatch, capfd)


def commands_of(out: str) -> list[dict[str, str]]:
    """Read workflow commands as GitHub's runner does."""
    found = []
    for line in out.splitlines():
        match = re.fullmatch(r"::(?P<level>error|warning) (?P<place>.*?)::(?P<message>.*)", line)
        assert match, line
        place = dict(each.split("=", 1) for each in match["place"].split(","))
        read = {key: unquote(value) for key, value in place.items()}
        found.append({**read, "level": match["level"], "message": unquote(match["message"])})
    return found


def errors(out: str) -> set[tuple[str, int, str]]:
    return {
        (each["file"], int(each["line"]), each["message"].split(" ", 3)[3].rsplit(" (", 1)[0])
        for each in commands_of(out)
        if each["level"] == "error"
    }


def test_every_ad_hoc_entity_of_the_corpus_is_found_and_no_other(command: Command) -> None:
    done = command("guard", "--format", "github", "--entity", "goldenpath-ecr-registry", ".")

    assert done.code == 1
    assert errors(done.out) == EXPECTED
    warned = [each for each in commands_of(done.out) if each["level"] == "warning"]
    assert {each["file"] for each in warned} == UNPARSED
    assert len(warned) == len(UNPARSED) + 1, "the second broken document of a file, too"
    assert {each["title"] for each in warned} == {"Not inspected"}
    assert f"{len(EXPECTED)} ad-hoc ECR entities" in done.err


def test_the_words_of_a_terminal_name_the_same(command: Command) -> None:
    done = command("guard", "--entity", "goldenpath-ecr-registry", ".")

    assert done.code == 1
    for path, line, name in EXPECTED:
        assert f"{visible(path)}:{line}: ad-hoc ECR entity {name} (" in done.out
    assert done.out.count(": ad-hoc ECR entity ") == len(EXPECTED)
    for path in UNPARSED:
        assert re.search(rf"^{path}:\d+:\d+: .*\(warning: not inspected\)$", done.err, re.MULTILINE)


def test_an_annotation_has_the_column_of_the_kind(command: Command, corpus: Path) -> None:
    (corpus / "flow.yaml").write_text("---  {spec: {type: ecr-repository}, kind: Resource}\n")
    (found,) = commands_of(command("guard", "--format=github", "flow.yaml").out)
    assert (found["line"], found["col"], found["title"]) == ("1", "37", "Ad-hoc ECR entity")


def test_what_cannot_be_read_is_annotated_too(command: Command, corpus: Path) -> None:
    (corpus / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    done = command("guard", "--format=github", "binary.yaml", "missing.yaml", "plain.yaml")
    assert done.code == 2
    assert [each["title"] for each in commands_of(done.out)] == [
        "Unreadable",
        "Unreadable",
        "Ad-hoc ECR entity",
    ]


def test_a_name_brings_no_line_of_its_own(command: Command, corpus: Path) -> None:
    (corpus / "evil.yaml").write_text(
        AD_HOC.format(name='"a\\n::error::b\\e[31m"', type="ecr-repository")
    )
    assert len(command("guard", "--format=github", "evil.yaml").out.splitlines()) == 1
    assert "\x1b" not in command("guard", "evil.yaml").out


def test_the_mirrors_folder_names_the_mirrors_entities(command: Command, corpus: Path) -> None:
    assert command("guard", "ours.yaml").code == 1
    (corpus / "mirrors").mkdir()
    (corpus / "mirrors" / "goldenpath.yaml").write_text(
        "governance: {repository: ./g}\nregistry: {region: eu-west-2}\n"
        "publish: {kind: file, path: ./out.yaml}\n"
    )
    assert command("guard", "ours.yaml").code == 0


# What is inspected


def odd_files(folder: Path) -> None:
    """Files that are none, too large, or no text."""
    os.mkfifo(folder / "fifo.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    with (folder / "huge.yaml").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    (folder / "latin.yaml").write_bytes(b"# \xe9\n")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "s.yaml"))
    listening.close()


ODD: Final = {
    "fifo.yaml": "no regular file",
    "zero.yaml": "a symbolic link; it is not followed",
    "huge.yaml": "larger than 20,000,000 bytes",
    "latin.yaml": "not UTF-8 (byte 2)",
    "s.yaml": "no regular file",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_inspected_never_hangs_the_guard_nor_makes_it_say_clean(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    odd, folder = tmp_path / "odd", tmp_path / "catalog"
    odd.mkdir()
    odd_files(odd)
    folder.mkdir()
    (odd / name).rename(folder / name)
    command = command_in(folder, {}, monkeypatch, capfd)

    guarded, retired = command("guard", "."), command("retire", ".")

    assert guarded.code == 2
    assert f"{name}: " in guarded.err
    assert ODD[name] in guarded.err
    assert f"{name}:1: warning: not judged: {ODD[name]}" in retired.err
    if name != "zero.yaml":
        assert retired.code == 2
        assert "1 file was not inspected" in retired.out
        assert "Nothing to retire" not in retired.out


@pytest.mark.timeout(60)
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/tty", "fifo.yaml", "huge.yaml", "s.yaml"])
def test_a_path_that_is_no_file_to_inspect_is_an_error(
    command: Command, corpus: Path, path: str
) -> None:
    odd_files(corpus)
    guarded, retired = command("guard", path), command("retire", path)
    assert guarded.code == 2
    assert retired.code == 1
    for done in guarded, retired:
        assert done.out == ""
        assert re.search("no regular file|larger than 20,000,000 bytes|No such device", done.err)


@pytest.mark.timeout(60)
def test_guard_and_retire_inspect_the_same_files(command: Command, corpus: Path) -> None:
    odd_files(corpus)
    (corpus / "UPPER.YML").write_text(PAY)
    (corpus / "within.yaml").symlink_to("plain.yaml")
    (corpus / "linked").symlink_to("deep")
    (corpus / "gone.yaml").symlink_to("nowhere.yaml")

    guarded = command("guard", "--format", "github", "--entity", "goldenpath-ecr-registry", ".")
    retired = json.loads(command("retire", "--json", ".").out)

    found = {
        each["file"] for each in commands_of(guarded.out) if each["title"].startswith("Ad-hoc")
    }
    gone = {each["file"] for each in (*retired["entities"], *retired["left"])}
    warned = {each["file"] for each in retired["warnings"]}
    assert found - gone <= warned, "templates, which retire leaves"
    assert gone - found <= {"ours.yaml"}, "retire is not given --entity"
    unseen = {each["file"] for each in commands_of(guarded.out) if each["title"] == "Unreadable"}
    assert unseen == {*ODD, "gone.yaml"}
    assert unseen <= warned
    assert not {"within.yaml", "linked"} & (found | gone | warned)


def test_a_link_that_is_named_is_read_and_its_file_retired(command: Command, corpus: Path) -> None:
    (corpus / "link.yaml").symlink_to("plain.yaml")
    assert command("guard", "link.yaml").code == 1
    assert command("retire", "link.yaml", "--apply").code == 0
    assert not (corpus / "plain.yaml").exists()


@pytest.mark.parametrize("kind", ["Container-Repository", "ECR-Repository", "CONTAINER-REGISTRY"])
def test_a_type_in_another_case_is_a_warning(command: Command, corpus: Path, kind: str) -> None:
    (corpus / "case.yaml").write_text(AD_HOC.format(name="pay", type=kind))

    done = command("guard", "case.yaml")

    assert done.code == 0
    assert re.search(
        rf"^case.yaml:1:1: the type {kind} of pay .*in case only \(warning\)$", done.err
    )
    (shown,) = commands_of(command("guard", "--format=github", "case.yaml").out)
    assert (shown["level"], shown["title"]) == ("warning", "Type in another case")
    assert "differs from the one of an ad-hoc ECR entity in case only" in (
        command("retire", "case.yaml").err
    )


# The pre-commit hook


def hook() -> dict[str, Any]:
    (found,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_hook_has_the_form_that_pre_commit_asks_for() -> None:
    found = hook()
    assert found["id"] == "ecr-catalog-guard"
    assert found["language"] == "python"
    assert {"id", "name", "entry", "language"} <= found.keys()
    assert found.keys() <= {"id", "name", "description", "entry", "language", "files"}
    assert all(isinstance(each, str) for each in found.values())
    taken = [path for path in CORPUS if re.search(found["files"], path)]
    assert set(CORPUS) - set(taken) == {"not-catalog.txt"}


def test_the_hook_run_as_pre_commit_runs_it_fails_on_a_staged_entity(corpus: Path) -> None:
    def run(*names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*shlex.split(hook()["entry"]), "--entity", "goldenpath-ecr-registry", *names],
            cwd=corpus,
            env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(corpus)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = run("plain.yaml", "component.yaml", "deep/entity.json")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "plain.yaml:1: ad-hoc ECR entity pay (ecr-repository)",
        "deep/entity.json:6: ad-hoc ECR entity pay (container-repository)",
    ]
    assert run("component.yaml", "ours.yaml").returncode == 0


# The workflow


def workflow() -> Any:
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


def test_the_workflow_keeps_githubs_schema_and_asks_for_little() -> None:
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    content = workflow()
    assert content["permissions"] == {}
    assert content["jobs"]["guard"]["permissions"] == {"contents": "read"}
    steps = content["jobs"]["guard"]["steps"]
    assert all("${{" not in step.get("run", "") for step in steps), "no input is part of a script"
    pinned = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"[a-z/-]+@[0-9a-f]{40}", each) for each in pinned)


@pytest.mark.timeout(600)
def test_the_steps_of_the_workflow_annotate_the_corpus(corpus: Path, tmp_path: Path) -> None:
    inputs = {
        "paths": f"{corpus.name}\n{corpus.name}/deep\n",
        "entities": "goldenpath-ecr-registry",
    }
    job = workflow()["jobs"]["guard"]
    temp, github_path = tmp_path / "temp", tmp_path / "github-path"
    temp.mkdir()
    github_path.touch()
    copied = tmp_path / ".ecr-catalog-pipeline"
    copied.mkdir()
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "CHANGELOG.md"):
        (copied / name).write_bytes((ROOT / name).read_bytes())
    (copied / "ecr_catalog_pipeline").symlink_to(ROOT / "ecr_catalog_pipeline")
    environment = {
        **WAY_OUT,
        **{name: substituted(value, inputs) for name, value in job["env"].items()},
        "UV_CACHE_DIR": UV_CACHE,
        "HOME": str(tmp_path),
        "RUNNER_TEMP": str(temp),
        "GITHUB_PATH": str(github_path),
    }
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    assert len(scripts) == 2

    done = []
    for script in scripts:
        added = ":".join(reversed(github_path.read_text().split()))
        done.append(
            subprocess.run(
                ["bash", "-e", "-c", script],
                cwd=tmp_path,
                env={**environment, "PATH": f"{added}:{BIN}:/usr/local/bin:/usr/bin:/bin"},
                capture_output=True,
                text=True,
                timeout=500,
                check=False,
            )
        )
        if len(done) == 1:
            assert done[0].returncode == 0, done[0].stderr

    guarded = done[1]
    assert guarded.returncode == 1, guarded.stderr
    assert errors(guarded.stdout) == {
        (f"{corpus.name}/{path}", line, name) for path, line, name in EXPECTED
    }
    assert (temp / "venv" / "bin" / "ecr-catalog").exists()


def substituted(value: str, inputs: dict[str, str]) -> str:
    """Put a workflow's inputs where it names them."""
    return re.sub(r"\$\{\{ inputs\.(\S+) \}\}", lambda found: inputs[found[1]], value)
