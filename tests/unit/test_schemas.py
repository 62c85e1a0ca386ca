"""The JSON Schemas say what the code says: no false alarm, and the usual mistakes caught."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import regress
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # ships no types

from ecr_catalog_pipeline.commands.schema import (
    FILES,
    as_text,
    governance_schema,
    mirror_schema,
)
from ecr_catalog_pipeline.core.errors import GovernanceRefused, SettingsError
from ecr_catalog_pipeline.core.governance import (
    ENCRYPTIONS,
    RISKS,
    ROOT_KEYS,
    SECTIONS,
    Status,
    parse_governance,
)
from ecr_catalog_pipeline.core.layers import holds
from ecr_catalog_pipeline.core.strict_yaml import as_backstage_reads, parse_documents
from ecr_catalog_pipeline.settings import load_mirror
from tests.unit.test_settings import EVERY_KEY, FILE, S3, SMALLEST

ROOT: Final = Path(__file__).parents[2]
CHECK: Final = Path(sys.executable).with_name("check-jsonschema")
DEMO: Final = ROOT / "ecr_catalog_pipeline" / "demo" / "ecr-catalog.yaml"
GOLDEN: Final = ROOT / "tests" / "data" / "golden" / "ecr-catalog.yaml"
HERE: Final = Path("/srv/platform/mirrors/goldenpath.yaml")

MIRROR: Final = Draft202012Validator(mirror_schema())
PART: Final = Draft202012Validator(mirror_schema(defaults=True))
LENIENT: Final = Draft202012Validator(governance_schema())
STRICT: Final = Draft202012Validator(governance_schema(strict=True))

every_file = pytest.mark.parametrize("file", FILES)


def as_an_editor_reads(text: str) -> Any:
    """Read YAML as its version 1.2 says: with numbers, truth values and null."""
    (document,) = parse_documents(text, scalar=as_backstage_reads)
    return document.value


def nodes(schema: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the schema of every key, with the key."""
    if isinstance(schema, list):
        for each in schema:
            yield from nodes(each)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties":
                yield from value.items()
            yield from nodes(value)


# The files


@every_file
def test_the_checked_in_schema_is_the_generated_one(file: str) -> None:
    written = (ROOT / "schemas" / file).read_text(encoding="utf-8")
    assert written == as_text(FILES[file]()), "run `make schemas`"


def test_make_writes_every_schema_and_nothing_else_lies_there() -> None:
    recipe = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"> schemas/(\S+)", recipe)) == set(FILES)
    assert {path.name for path in (ROOT / "schemas").glob("*.json")} == set(FILES)


@every_file
def test_a_schema_is_one_of_its_dialect(file: str) -> None:
    schema = FILES[file]()
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["title"]


@every_file
def test_every_key_is_described_and_every_pattern_is_one_of_an_editor(file: str) -> None:
    found = list(nodes(FILES[file]()))
    models: Mapping[str, Any] = FILES[file]().get("$defs", {})
    assert len(found) > 15
    for key, node in found:
        described = node.get("description") or models[node["$ref"].rsplit("/")[-1]]["description"]
        assert len(described) > 10, key
    for pattern in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', as_text(FILES[file]())):
        regress.Regex(json.loads(pattern), "u")


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["mirror"], "mirror.schema.json"),
        (["mirror", "--defaults"], "mirror-defaults.schema.json"),
        (["governance"], "ecr-catalog.schema.json"),
        (["governance", "--strict"], "ecr-catalog.strict.schema.json"),
    ],
)
def test_the_command_prints_a_schema(words: list[str], file: str) -> None:
    command = Path(sys.executable).with_name("ecr-catalog")
    done = subprocess.run(
        [command, "schema", *words], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == as_text(FILES[file]())
    assert done.stderr == ""


def test_ci_validates_the_files_of_the_demo_with_them(tmp_path: Path) -> None:
    def check(schema: str, *files: Path) -> int:
        return subprocess.run(
            [CHECK, "--schemafile", ROOT / "schemas" / schema, *files],
            env={"HOME": str(tmp_path)},
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode

    assert check("mirror.schema.json", ROOT / "mirrors" / "demo.yaml") == 0
    assert check("mirror.schema.json", GOLDEN) == 1
    assert check("ecr-catalog.schema.json", DEMO, GOLDEN) == 0
    assert check("ecr-catalog.strict.schema.json", DEMO) == 1


# Mirror files

BASES: Final[tuple[Mapping[str, Any], ...]] = (
    SMALLEST,
    yaml.load(EVERY_KEY, yaml.BaseLoader),
    {**SMALLEST, "publish": S3, "parity": {}, "entity": {}},
    {**SMALLEST, "publish": FILE, "guard": {"max_removals": "0"}},
    {**SMALLEST, "health": {"path": "docs/PLATFORM_HEALTH.md"}},
)
"""Good mirrors, every scalar as its text."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9+.~/_][A-Za-z0-9+.~/_@:-]*(?<!:)|")
_PIECES: Final = st.sampled_from(
    [
        *("https://", "HTTP://", "ssh://", "file:", "git@", "a", "B", "main", "git.example.com"),
        *(
            "/",
            "//",
            ".",
            "..",
            ":",
            "::",
            "@",
            "-",
            "_",
            "~",
            "+",
            " ",
            "\\",
            "?",
            "#",
            "é",
            "\u2028",
        ),
        *(".git", ".lock", "0", "1", "12", "8080", "[::1]", "\t", "\n", "\x00", "{", "REGISTRY"),
        *("eu-west-2", "123456789012", "arn:aws:iam::", ":role/", "default", "x" * 64),
    ]
)
TEXTS: Final = st.one_of(
    st.lists(_PIECES, max_size=6).map("".join),
    st.sampled_from(
        [
            *("", "~", "null", "true", "False", "no", "off", "0", "-0", "007", "1_80", "180.0"),
            *("+5", "0.5", ".5", "1e1", "20.", "1e400", "100", "100.1", "nan", "0x1f", "git", "s3"),
            *("file", "012345678901", "2026-01-09", "12:30", "section"),
        ]
    ),
    st.text(max_size=8),
)


def paths(value: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*before, key)
            yield from paths(inner, (*before, key))


EVERY_PATH: Final = sorted({path for base in BASES for path in paths(base)} | {("sprawl",)})


@st.composite
def mirrors(draw: st.DrawFn) -> Any:
    """A good mirror with some of its keys written otherwise, left out or put in."""
    value = json.loads(json.dumps(draw(st.sampled_from(BASES))))
    for path in draw(st.lists(st.sampled_from(EVERY_PATH), min_size=1, max_size=3)):
        *above, key = path
        inside = value
        for step in above:
            inside = inside.get(step) if isinstance(inside, dict) else None
        if not isinstance(inside, dict):
            continue
        if draw(st.booleans()) or key not in inside:
            anything = st.one_of(TEXTS, TEXTS, TEXTS, st.just({}), st.just([]), st.just({"a": "b"}))
            inside[key] = draw(anything)
        else:
            del inside[key]
    return value


def written(value: Any, *, quoted: bool) -> str:
    """Write it as flow YAML; without quotes where a text needs none."""
    if isinstance(value, dict):
        inner = (
            f"{json.dumps(key)}: {written(each, quoted=quoted)}" for key, each in value.items()
        )
        return "{" + ", ".join(inner) + "}"
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ", ".join(written(each, quoted=quoted) for each in value) + "]"
    return (
        value if not quoted and _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    )


def accepted(text: str) -> bool:
    try:
        load_mirror(HERE, text)
    except SettingsError:
        return False
    return True


@pytest.mark.parametrize("quoted", [False, True], ids=["plain", "quoted"])
@pytest.mark.parametrize("base", BASES)
def test_a_good_mirror_is_valid(base: Mapping[str, Any], *, quoted: bool) -> None:
    text = written(base, quoted=quoted)
    assert accepted(text)
    MIRROR.validate(as_an_editor_reads(text))


@settings(max_examples=800)
@given(mirror=mirrors(), quoted=st.booleans())
@example(mirror={**SMALLEST, "entity": {"name": "", "title": ""}}, quoted=True)
@example(mirror={**SMALLEST, "governance": {"repository": "file:/a?b#c"}}, quoted=True)
def test_what_the_mirror_accepts_its_schema_accepts(mirror: Any, *, quoted: bool) -> None:
    text = written(mirror, quoted=quoted)
    if accepted(text):
        MIRROR.validate(as_an_editor_reads(text))


@settings(max_examples=300)
@given(mirror=mirrors(), quoted=st.booleans(), data=st.data())
def test_what_two_files_say_together_the_schema_of_a_part_accepts_of_each(
    mirror: Any, *, quoted: bool, data: st.DataObject
) -> None:
    if not accepted(written(mirror, quoted=quoted)):
        return
    own: dict[str, Any] = json.loads(json.dumps(mirror))
    shared: dict[str, Any] = {}
    for path in data.draw(st.lists(st.sampled_from(sorted(paths(mirror))), max_size=4)):
        if len(path) == 2 and holds(own, path) and isinstance(own[path[0]], dict):
            shared.setdefault(path[0], {})[path[1]] = own[path[0]].pop(path[1])
    nulls = {key: None for key in shared if data.draw(st.booleans())}
    for part in (own, shared, {**own, **nulls}):
        PART.validate(as_an_editor_reads(written(part, quoted=quoted)))


def test_the_schema_of_a_part_still_knows_every_key_and_value() -> None:
    assert not PART.is_valid({"gaurd": {}})
    assert not PART.is_valid({"guard": {"max": 1}})
    assert not PART.is_valid({"publish": {"kind": "ftp"}})
    assert PART.is_valid({"publish": {"path": "a.yaml"}})
    assert not MIRROR.is_valid({"publish": {"path": "a.yaml"}})


@settings(max_examples=800)
@given(
    key=st.sampled_from(["governance.repository", "governance.branch", "governance.path", "url"]),
    pieces=st.lists(_PIECES, max_size=7),
)
def test_a_pattern_refuses_nothing_that_its_validator_accepts(key: str, pieces: list[str]) -> None:
    value = "".join(pieces)
    if key == "url":
        mirror = {**SMALLEST, "backstage": {"url": value}}
    else:
        inside = {**SMALLEST["governance"], key.partition(".")[2]: value}
        mirror = {**SMALLEST, "governance": inside}
    text = written(mirror, quoted=True)
    if accepted(text):
        MIRROR.validate(as_an_editor_reads(text))


MISTAKES: Final = {
    "a key that is misspelt": "goverance: {repository: ../platform}",
    "a key in the wrong place": "region: eu-west-2",
    "no region": "registry: {}",
    "a region that is none": "registry: {region: Ireland}",
    "an availability zone": "registry: {region: eu-west-2a}",
    "an account of 11 digits": "registry: {region: eu-west-2, account_id: '12345678901'}",
    "an account's alias": "registry: {region: eu-west-2, account_id: example-prod}",
    "a role's name": "registry: {region: eu-west-2, role_arn: ecr-catalog}",
    "an endpoint without scheme": "registry: {region: eu-west-2, endpoint_url: 127.0.0.1:5055}",
    "no governance repository": "governance: {branch: main}",
    "a branch with a space": "governance: {repository: ../platform, branch: my branch}",
    "a branch as a ref": "governance: {repository: ../platform, branch: main.lock}",
    "a path from the root": "governance: {repository: ../platform, path: /ecr-catalog.yaml}",
    "a path that climbs": "governance: {repository: ../platform, path: ../ecr-catalog.yaml}",
    "a path in .git": "governance: {repository: ../platform, path: .git/config}",
    "plain http": "governance: {repository: 'http://git.example.com/platform.git'}",
    "a password": "governance: {repository: 'https://jo:secret@git.example.com/platform.git'}",
    "another transport": "governance: {repository: 'ext::sh -c id'}",
    "a target without kind": "publish: {repository: ../catalog}",
    "a target of another kind": "publish: {kind: gcs, bucket: a-bucket, key: a}",
    "keys of two targets": "publish: {kind: s3, bucket: a-bucket, key: a, branch: main}",
    "a bucket as a URL": "publish: {kind: s3, bucket: 's3://a-bucket', key: a}",
    "no key": "publish: {kind: s3, bucket: a-bucket}",
    "an entity's name with a slash": "entity: {name: team/registry}",
    "a namespace in capitals": "entity: {namespace: Platform}",
    "a nameless owner": "entity: {owner: ' '}",
    "a token instead of its variable": "backstage: {url: 'https://b.example.com', token_env: a-b}",
    "a token beside its variable": "backstage: {url: 'https://b.example.com', token: secret}",
    "no Backstage at all": "backstage: {token_env: BACKSTAGE_TOKEN}",
    "an SLO in words": "parity: {slo_seconds: 3 minutes}",
    "an SLO of nothing": "parity: {slo_seconds: 0}",
    "a negative limit": "guard: {max_removals: -1}",
    "a share of more than all": "guard: {max_removal_percent: 120}",
    "a block as text": "guard: off",
    "an empty block": "registry:",
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_usual_mistake_in_a_mirror_is_caught_by_both(mistake: str) -> None:
    block = next(iter(as_an_editor_reads(mistake)))
    good = {key: value for key, value in SMALLEST.items() if key != block}
    text = yaml.safe_dump(good) + mistake

    assert not accepted(text)
    assert not MIRROR.is_valid(as_an_editor_reads(text))
    assert accepted(yaml.safe_dump(dict(SMALLEST)))


def test_a_number_without_quotes_is_no_false_alarm() -> None:
    plain = "registry: {region: eu-west-2, account_id: 123456789012}\nguard: {max_removals: '5'}\n"
    good = {key: value for key, value in SMALLEST.items() if key != "registry"}
    text = yaml.safe_dump(good) + plain
    assert accepted(text)
    MIRROR.validate(as_an_editor_reads(text))
    MIRROR.validate(yaml.safe_load(text))


# Governance files


@pytest.mark.parametrize("strict", [False, True])
def test_every_key_that_governance_knows_is_in_the_schema(strict: bool) -> None:
    root = governance_schema(strict=strict)["properties"]
    sections = root["repositories"]["additionalProperties"]["properties"]
    assert root.keys() == ROOT_KEYS.keys() - ({"registries"} if strict else set())
    assert {name: each["properties"].keys() for name, each in sections.items()} == {
        name: each.keys.keys() for name, each in SECTIONS.items()
    }


def test_an_editor_is_offered_the_values_that_governance_knows() -> None:
    entry = governance_schema()["properties"]["repositories"]["additionalProperties"]
    metadata = entry["properties"]["metadata"]["properties"]
    governance = entry["properties"]["governance"]["properties"]
    assert metadata["status"]["anyOf"][0] == {"enum": [each.value for each in Status]}
    assert metadata["risk"]["anyOf"][0] == {"enum": list(RISKS)}
    assert governance["encryption"]["anyOf"][0] == {"enum": [*ENCRYPTIONS, None]}


@pytest.mark.parametrize("file", [DEMO, GOLDEN], ids=["demo", "golden"])
def test_a_good_governance_file_is_valid(file: Path) -> None:
    LENIENT.validate(as_an_editor_reads(file.read_text()))


def test_an_older_file_is_valid_and_only_not_strictly() -> None:
    older = as_an_editor_reads('version: "1.0"\nregistries: {}\n')
    LENIENT.validate(older)
    assert not STRICT.is_valid(older)


@pytest.mark.parametrize(
    "refused",
    [
        "version: '1.0'\n",
        "repositories:\n",
        "repositories: []\n",
        "repositories: {}\nregistries: {}\n",
        "- repositories\n",
        "registries: none\n",
    ],
)
def test_what_is_refused_whole_is_an_error_in_both_schemas(refused: str) -> None:
    with pytest.raises(GovernanceRefused):
        parse_governance(refused.encode())
    value = as_an_editor_reads(refused)
    assert not LENIENT.is_valid(value)
    assert not STRICT.is_valid(value)


_WORDS: Final = st.sampled_from(["jo", "app-team", "2026-01-09", "7", "true", ""])
_SECTIONS: Final[Mapping[str, Mapping[str, st.SearchStrategy[Any]]]] = {
    "metadata": {
        "id": st.sampled_from(["REGISTRY_A", "REGISTRY_a", "REGISTRY_", "A", "", {}]),
        "owner": st.one_of(_WORDS, st.just([])),
        "risk": st.sampled_from([*RISKS, "extreme", "", {}]),
        "environment": st.one_of(_WORDS, st.just({})),
        "status": st.sampled_from([*Status, "activ", "", []]),
        "created_date": st.one_of(_WORDS, st.just([])),
        "requested_by": _WORDS,
        "domain": _WORDS,
    },
    "aws": {"repository_url": _WORDS},
    "governance": {
        "image_scanning": st.sampled_from(["true", "False", "TRUE", "yes", "1", "", []]),
        "encryption": st.sampled_from([*ENCRYPTIONS, "DES", ""]),
        "lifecycle_policy": st.sampled_from(
            [
                *({"keep_image_count": count} for count in ("1", "50", "0", "-1", "many")),
                *({}, "", "50", {"keep_image_count": "5", "more": "5"}),
            ]
        ),
    },
}
_GOOD: Final[Mapping[str, Any]] = {
    "metadata": {"id": "REGISTRY_A", "owner": "jo", "risk": "low", "status": "active"},
    "aws": {"repository_url": "there"},
    "governance": {"image_scanning": "true", "encryption": "KMS"},
}


@st.composite
def exceptions(draw: st.DrawFn) -> Any:
    """A list of one exception that is well formed or nearly so, or no list."""
    good = {"match": "cdk-*", "rule": "orphan", "reason": "bootstrap", "expires": "2027-06-30"}
    key = draw(st.sampled_from(["match", "rule", "reason", "expires", "origin", "colour"]))
    odd = draw(
        st.sampled_from(["", "7", [], "orphan", "ghost", "exception-expired", "replication"])
    )
    match draw(st.sampled_from(["good", "change", "narrow", "drop", "no list"])):
        case "change":
            return [{**good, key: odd}]
        case "narrow":
            return [{**good, "origin": "replication", key: odd}]
        case "drop":
            return [{name: value for name, value in good.items() if name != key}]
        case "no list":
            return draw(st.sampled_from(["null", "", {}, [""], [[]], [good, good]]))
        case _:
            return [good]


@st.composite
def governance_files(draw: st.DrawFn) -> Any:
    """A file of one entry, with a few things changed that are findings or not."""
    entry: Any = json.loads(json.dumps(_GOOD))
    for _ in range(draw(st.integers(0, 2))):
        section = draw(st.sampled_from([*_SECTIONS]))
        if not isinstance(entry.get(section), dict):
            continue
        match draw(st.sampled_from(["change", "change", "drop", "unknown", "drop all", "null"])):
            case "change":
                key = draw(st.sampled_from([*_SECTIONS[section]]))
                entry[section][key] = draw(_SECTIONS[section][key])
            case "drop":
                entry[section].pop(draw(st.sampled_from([*_SECTIONS[section]])), None)
            case "unknown":
                entry[section]["colour"] = "blue"
            case "drop all":
                del entry[section]
            case _:
                entry[section] = draw(st.sampled_from(["", [], "text"]))
    name = draw(st.sampled_from(["team/api", "team/api", "a", "Team", "team//api", "x" * 257]))
    root = {"version": "1.0", "repositories": {name: draw(st.sampled_from([entry, entry, "", []]))}}
    if draw(st.booleans()):
        root["exceptions"] = draw(exceptions())
    if draw(st.integers(0, 9)) == 0:
        root["colour"] = "blue"
    if draw(st.integers(0, 9)) == 0:
        root["version"] = draw(st.sampled_from(["2.0", ""]))
    return root


def _with_exception(**keys: str) -> Any:
    entry = json.loads(json.dumps(_GOOD))
    good = {"match": "cdk-*", "rule": "orphan", "reason": "bootstrap"}
    return {"version": "1.0", "repositories": {"team/api": entry}, "exceptions": [good | keys]}


# YAML reads both rules as a number.
@example(file=_with_exception(rule="7"))
@example(file=_with_exception(rule="7", origin="replication"))
@settings(max_examples=800)
@given(file=governance_files())
def test_the_strict_schema_refuses_just_what_would_be_a_finding(file: Any) -> None:
    text = written(file, quoted=False)
    findings = parse_governance(text.encode()).findings
    value = as_an_editor_reads(text)
    assert STRICT.is_valid(value) == (not findings), findings
    LENIENT.validate(value)
