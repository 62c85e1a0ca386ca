from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ecr_catalog_pipeline.core import governance
from ecr_catalog_pipeline.core.errors import GovernanceRefused
from ecr_catalog_pipeline.core.findings import Severity
from ecr_catalog_pipeline.core.governance import (
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_FINDINGS_OF_RULE,
    Catalog,
    Entry,
    Status,
    is_repository_name,
    parse_governance,
)

BOM = b"\xef\xbb\xbf"
EMPTY = b'version: "1.0"\nrepositories: {}\n'
BOMB = b"\n".join(
    [b"b0: &b0 x"]
    + [b"b%d: &b%d [*b%d, *b%d]" % (n, n, n - 1, n - 1) for n in range(1, 100)]
    + [b"repositories: {}"]
)


def governed(metadata: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """An entry without findings, but for what is given; None takes a key away."""
    complete: dict[str, Any] = {
        "id": "REGISTRY_PAYMENTS_GATEWAY",
        "owner": "app-team-payments",
        "risk": "high",
        "environment": "prod",
        "status": "active",
        "created_date": "2026-01-05",
        "requested_by": "jo",
        "domain": "payments",
        **(metadata or {}),
    }
    return {
        "metadata": {key: value for key, value in complete.items() if value is not None},
        "aws": {"repository_url": "example/payments-gateway"},
        "governance": {
            "image_scanning": "true",
            "encryption": "KMS",
            "lifecycle_policy": {"keep_image_count": "50"},
        },
        **sections,
    }


def parse(repositories: dict[str, Any], **root: Any) -> Catalog:
    # JSON is YAML.
    content = {"version": "1.0", "repositories": repositories, **root}
    return parse_governance(json.dumps(content).encode())


def rules(catalog: Catalog) -> list[tuple[str, str]]:
    return [(finding.repository, finding.rule) for finding in catalog.findings]


REFUSED = [
    pytest.param(b"repositories:\n\tab: {}\n", 2, 1, "not YAML", id="a tab"),
    pytest.param(b"repositories:\n  ab: {owner: [}\n", 2, 16, "not YAML", id="not YAML"),
    pytest.param("é: ü: x\n".encode(), 1, 5, "not YAML", id="not YAML behind letters"),
    pytest.param(b"repositories: {}\r\n\r\nx: [}\r\n", 3, 5, "not YAML", id="not YAML, CRLF"),
    pytest.param(BOM + b"repositories: {}\nx: [}\n", 2, 5, "not YAML", id="not YAML, BOM"),
    pytest.param(b"<<<<<<< HEAD\nrepositories: {}\n", 2, 13, "not YAML", id="merge conflict"),
    pytest.param(b"\x89PNG\r\n\x1a\n\x00", 1, 1, "binary", id="binary"),
    pytest.param(b"repositories: {}\n\xc3\xa9: \xff\n", 2, 4, "binary", id="no UTF-8"),
    pytest.param(BOM + b"repositories: {}\nx: \xff\n", 2, 4, "binary", id="BOM, no UTF-8"),
    pytest.param(BOM + b"x: \xff\n", 1, 4, "binary", id="BOM, no UTF-8 in its line"),
    pytest.param("repositories: {}".encode("utf-16"), 1, 1, "binary", id="UTF-16"),
    pytest.param(b"repositories: {}\nx: a\x00b\n", 2, 5, "control", id="NUL"),
    pytest.param(b"\x00" * 100, 1, 1, "control", id="nothing but NUL"),
    pytest.param(b"x: \x1b[31m\n", 1, 4, "control", id="escape sequence"),
    pytest.param(b"", 1, 1, "empty", id="empty"),
    pytest.param(BOM, 1, 1, "empty", id="empty but for a BOM"),
    pytest.param(b" \n\n  \n", 1, 1, "empty", id="white space"),
    pytest.param(b"# repositories: {}\n# more\n", 1, 1, "empty", id="comments"),
    pytest.param(b"repositories: {}\n---\nx: 1\n", 3, 1, "several", id="two documents"),
    pytest.param(b"x: 1\n---\n\n  repositories: {}\n", 4, 3, "several", id="the right one second"),
    pytest.param(b"# head\n- ab\n- cd\n", 2, 1, "list", id="list at the root"),
    pytest.param(b"[]", 1, 1, "list", id="empty list at the root"),
    pytest.param(b"\n  text\n", 2, 3, "no mapping", id="text at the root"),
    pytest.param(b"null\n", 1, 1, "no mapping", id="null at the root"),
    pytest.param(b"repositories: {}\nrepositories: {}\n", 2, 1, "twice", id="duplicate root key"),
    pytest.param(
        b"repositories:\n  ab: {}\n  'ab': {}\n", 3, 3, "twice", id="duplicate repository"
    ),
    pytest.param(
        b"repositories:\n  ab:\n    aws: {}\n    aws: {}\n", 4, 5, "twice", id="duplicate section"
    ),
    pytest.param(
        b"repositories:\n  ab:\n    metadata:\n      risk: low\n      risk: high\n",
        *(5, 7, "twice"),
        id="duplicate metadata key",
    ),
    pytest.param(
        b"repositories:\n  ab:\n    governance:\n      lifecycle_policy: {a: 1, a: 1}\n",
        *(4, 32, "twice"),
        id="duplicate lifecycle key",
    ),
    pytest.param(b"repositories: {}\nx: [{y: 1, y: 2}]\n", 2, 12, "twice", id="in a list"),
    pytest.param(BOMB, 19, 18, "aliases", id="alias bomb"),
    pytest.param(b"repositories: &r {ab: *r}", 1, 23, "*r", id="recursive alias"),
    pytest.param(b"repositories:\n  ab: *no\n", 2, 7, "*no", id="alias without an anchor"),
    pytest.param(
        b"repositories:\n  ab: !!python/object:os.system {}\n", 2, 7, "tag", id="python object"
    ),
    pytest.param(
        b"repositories:\n  ab: {metadata: {owner: !!int 12}}\n", 2, 26, "tag", id="number tag"
    ),
    pytest.param(b"!!python/name:os.system x: 1\n", 1, 1, "tag", id="tagged key"),
    pytest.param(b"? [ab]\n: x\n", 1, 3, "key", id="a key that is a list"),
    pytest.param(b"# head\nversion: '1.0'\n", 2, 1, "missing", id="neither key"),
    pytest.param(b"{}", 1, 1, "missing", id="empty mapping"),
    pytest.param(b"Repositories: {}", 1, 1, "missing", id="key of another case"),
    pytest.param(b"repositories: {}\nregistries: {}\n", 2, 1, "both", id="both keys"),
    pytest.param(b"version: 1\nrepositories:\n", 2, 1, "null", id="repositories null"),
    pytest.param(b"version: 1\nrepositories: ~\n", 2, 1, "null", id="repositories tilde"),
    pytest.param(b"version: 1\nrepositories: []\n", 2, 1, "a list", id="repositories a list"),
    pytest.param(b"version: 1\nrepositories:\n- ab\n", 2, 1, "a list", id="a block list"),
    pytest.param(b"version: 1\nrepositories: ab\n", 2, 1, "text", id="repositories text"),
    pytest.param(b"version: 1\nregistries: null\n", 2, 1, "null", id="registries null"),
    pytest.param(b"repositories:\n  <<: text\n", 2, 3, "", id="a merge of no mapping"),
    pytest.param(b"#" * (MAX_BYTES + 1), 1, 1, "20,000,000", id="over 20 MB"),
    pytest.param(b"[" * 10_000, 1, 65, "nested", id="lists 10,000 deep"),
    pytest.param(b"{a: " * 10_000, 1, 257, "nested", id="mappings 10,000 deep"),
    pytest.param(b"repositories: " + b"[" * 10_000, 1, 78, "nested", id="deep below the key"),
]


@pytest.mark.parametrize(("content", "line", "column", "words"), REFUSED)
def test_a_file_that_is_not_what_it_should_be_is_refused_with_its_place_and_a_remedy(
    content: bytes, line: int, column: int, words: str
) -> None:
    with pytest.raises(GovernanceRefused) as caught:
        parse_governance(content)

    error = caught.value
    assert error.problem.startswith(f"ecr-catalog.yaml:{line}:{column}: ")
    assert (error.line, error.column) == (line, column)
    assert words in error.problem
    assert error.remediation
    assert error.needs == "human"


def test_a_tag_that_decodes_to_no_utf8_is_refused_like_any_other() -> None:
    with pytest.raises(GovernanceRefused) as caught:
        parse_governance(b"repositories: {}\na: !%C0%80 x\n")

    assert caught.value.line == 2


def test_an_error_names_the_path_it_was_given_and_shows_problem_and_remedy() -> None:
    with pytest.raises(GovernanceRefused) as caught:
        parse_governance(b"[]", path="docs/ecr.yaml")

    assert str(caught.value) == f"{caught.value.problem}. {caught.value.remediation}"
    assert str(caught.value).startswith("docs/ecr.yaml:1:1: ")


def test_a_file_of_20_megabytes_is_read() -> None:
    content = EMPTY + b"#" * (MAX_BYTES - len(EMPTY))

    assert parse_governance(content) == Catalog((), ())


def many(count: int) -> bytes:
    return b"repositories:\n" + b"".join(b"  a%06x:\n" % number for number in range(count))


def test_more_than_200_000_entries_are_refused_at_the_line_of_the_first_one_too_many() -> None:
    with pytest.raises(GovernanceRefused) as caught:
        parse_governance(many(MAX_ENTRIES + 10))

    assert MAX_ENTRIES == 200_000
    assert (caught.value.line, caught.value.column) == (200_002, 3)
    assert "more than 200,000 entries" in caught.value.problem
    assert caught.value.remediation == "Split the registry over several mirrors."


@pytest.mark.parametrize(
    "nodes",
    [
        b"[" + b"[a,a,a,a]," * 30 + b"]",
        b"{k: {a: 1, b: 1}, " + b"".join(b"k%d: {a: 1, b: 1}," % n for n in range(30)) + b"}",
        b"[&a x, " + b"*a, " * 100 + b"]",
    ],
    ids=["lists", "mappings", "aliases"],
)
def test_more_keys_and_values_than_a_full_file_needs_are_refused_in_whatever_shape(
    monkeypatch: pytest.MonkeyPatch, nodes: bytes
) -> None:
    monkeypatch.setattr(governance, "MAX_NODES", 90)

    with pytest.raises(GovernanceRefused) as caught:
        parse_governance(b"repositories: {}\nmore: " + nodes)

    assert caught.value.line == 2
    assert "more than 90 keys and values" in caught.value.problem


def test_entries_that_lack_everything_take_memory_for_the_findings_that_are_kept() -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ecr_catalog_pipeline.core.governance import parse_governance\n"
        "catalog = parse_governance(sys.stdin.buffer.read())\n"
        "(used,) = (line.split()[1] for line in\n"
        "           Path('/proc/self/status').read_text().splitlines() if 'VmHWM' in line)\n"
        "print(len(catalog.entries), len(catalog.findings), used)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], input=many(60_000), capture_output=True, check=True
    )

    entries, findings, kilobytes = map(int, done.stdout.split())
    assert entries == 60_000
    assert findings < 6 * MAX_FINDINGS_OF_RULE
    assert kilobytes < 300_000, "so that 200,000 stay below a gigabyte"


def test_findings_beyond_the_first_of_a_rule_are_counted_in_one_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(governance, "MAX_FINDINGS_OF_RULE", 2)

    findings = [
        (each.repository, each.message)
        for each in parse({f"app-{number}": {} for number in range(5)}).findings
        if each.rule == "owner-missing"
    ]

    assert findings == [
        ("", "3 more findings of this rule"),
        ("app-0", "metadata.owner is missing"),
        ("app-1", "metadata.owner is missing"),
    ]


def test_unknown_keys_beyond_the_first_five_are_counted_in_one_finding() -> None:
    entry = governed()
    entry["metadata"] |= {f"key{number}": "x" for number in range(9)}

    messages = [
        each.message for each in parse({"ab": entry}).findings if each.rule == "key-unknown"
    ]

    assert messages == [
        "4 more keys of metadata mean nothing here",
        *(f"the key 'metadata.key{number}' means nothing here" for number in range(5)),
    ]


def test_a_registry_without_repositories_is_legal() -> None:
    assert parse_governance(EMPTY) == Catalog((), ())


@pytest.mark.parametrize("end", [b"...\n", b"# the end\n", b"\n\n"])
@pytest.mark.parametrize("start", [b"---\n", b"%YAML 1.1\n---\n", b"# head\n\n", b""])
def test_markers_around_the_one_document_are_no_second_one(start: bytes, end: bytes) -> None:
    assert parse_governance(start + EMPTY + end) == Catalog((), ())


def test_an_entry_is_read_whole() -> None:
    catalog = parse({"team/payments-gateway": governed()})

    assert catalog == Catalog(
        entries=(
            Entry(
                name="team/payments-gateway",
                owner="app-team-payments",
                risk="high",
                environment="prod",
                status=Status.ACTIVE,
                created_date="2026-01-05",
                repository_url="example/payments-gateway",
                image_scanning=True,
                encryption="KMS",
                keep_images=50,
            ),
        ),
        findings=(),
    )


def test_only_id_owner_risk_and_status_are_asked_of_an_entry() -> None:
    metadata = {"id": "REGISTRY_A1_", "owner": "jo", "risk": "low", "status": "pending"}

    catalog = parse({"ab": {"metadata": metadata}})

    assert catalog.findings == ()
    assert catalog.entries == (Entry("ab", owner="jo", risk="low", status=Status.PENDING),)


def test_every_known_root_key_is_accepted() -> None:
    root = dict.fromkeys(
        ("domain", "owner", "last_updated", "managed_by", "physical_registry"), "text"
    )

    assert parse({}, **root) == Catalog((), ())


def test_entries_are_sorted_by_name_whatever_their_order_in_the_file() -> None:
    names = ["cd", "a/b", "ab", "a-b", "a.b"]

    catalog = parse({name: governed({"id": f"REGISTRY_{n}"}) for n, name in enumerate(names)})

    assert [entry.name for entry in catalog.entries] == sorted(names)
    assert catalog.findings == ()


@pytest.mark.parametrize(
    ("root", "rule", "severity"),
    [
        ({"version": None}, "version-unknown", Severity.WARNING),
        ({"version": "2.0"}, "version-unknown", Severity.WARNING),
        ({"version": ["1.0"]}, "version-unknown", Severity.WARNING),
        ({"Owner": "jo"}, "key-unknown", Severity.INFO),
        ({"": "jo"}, "key-unknown", Severity.INFO),
    ],
)
def test_an_odd_root_key_is_a_finding_about_the_file(
    root: dict[str, Any], rule: str, severity: Severity
) -> None:
    (finding,) = parse({}, **root).findings

    assert (finding.repository, finding.rule, finding.severity) == ("", rule, severity)
    assert finding.message
    assert finding.remediation


def test_a_missing_version_is_a_finding() -> None:
    assert rules(parse_governance(b"repositories: {}")) == [("", "version-unknown")]


def test_an_older_files_registries_key_is_accepted_with_a_finding() -> None:
    older = parse_governance(b'version: "1.0"\nregistries: {ab: {}}\n')
    newer = parse_governance(b'version: "1.0"\nrepositories: {ab: {}}\n')

    assert older.entries == newer.entries
    assert set(rules(older)) - set(rules(newer)) == {("", "registries-key")}


ENTRY_FINDINGS = [
    pytest.param(governed({"id": None}), ["id-missing"], id="no id"),
    pytest.param(governed({"id": "PAYMENTS"}), ["id-invalid"], id="id without prefix"),
    pytest.param(governed({"id": "REGISTRY_"}), ["id-invalid"], id="id of nothing but prefix"),
    pytest.param(governed({"id": "REGISTRY_a"}), ["id-invalid"], id="lower-case id"),
    pytest.param(governed({"id": "REGISTRY_A\n"}), ["id-invalid"], id="id with a line break"),
    pytest.param(governed({"id": ["REGISTRY_A"]}), ["id-invalid"], id="id a list"),
    pytest.param(governed({"owner": None}), ["owner-missing"], id="no owner"),
    pytest.param(governed({"owner": " "}), ["owner-missing"], id="blank owner"),
    pytest.param(
        governed({"owner": ["jo"]}), ["owner-missing", "value-malformed"], id="owner a list"
    ),
    pytest.param(governed({"risk": None}), ["risk-missing"], id="no risk"),
    pytest.param(governed({"risk": "extreme"}), ["risk-unknown"], id="unknown risk"),
    pytest.param(governed({"risk": "Low"}), ["risk-unknown"], id="risk of another case"),
    pytest.param(governed({"risk": {}}), ["risk-unknown"], id="risk a mapping"),
    pytest.param(governed({"status": None}), ["status-missing"], id="no status"),
    pytest.param(governed({"status": "retired"}), ["status-unknown"], id="unknown status"),
    pytest.param(governed({"status": "Active"}), ["status-unknown"], id="status of another case"),
    pytest.param(governed({"status": []}), ["status-unknown"], id="status a list"),
    *(
        pytest.param(governed({key: {"a": "b"}}), ["value-malformed"], id=f"{key} a mapping")
        for key in ("environment", "created_date", "requested_by", "domain")
    ),
    pytest.param(governed({"Owner": "jo"}), ["key-unknown"], id="unknown metadata key"),
    pytest.param(governed(notes="x"), ["key-unknown"], id="unknown section"),
    pytest.param(governed(aws={"arn": "x"}), ["key-unknown"], id="unknown aws key"),
    pytest.param(governed(governance={"x": "y"}), ["key-unknown"], id="unknown governance key"),
    pytest.param(governed(aws="x"), ["entry-malformed"], id="aws text"),
    pytest.param(governed(governance=["x"]), ["entry-malformed"], id="governance a list"),
    pytest.param(
        governed(governance={"image_scanning": "maybe"}),
        ["image-scanning-unknown"],
        id="unknown scanning",
    ),
    pytest.param(
        governed(governance={"image_scanning": {}}),
        ["image-scanning-unknown"],
        id="scanning a mapping",
    ),
    pytest.param(
        governed(governance={"encryption": "kms"}), ["encryption-unknown"], id="unknown encryption"
    ),
    pytest.param(
        governed(governance={"encryption": ["KMS"]}), ["encryption-unknown"], id="encryption a list"
    ),
    *(
        pytest.param(
            governed(governance={"lifecycle_policy": policy}),
            ["lifecycle-policy-malformed"],
            id=f"lifecycle {policy}",
        )
        for policy in (
            "50",
            {},
            ["50"],
            {"keep_image_count": "0"},
            {"keep_image_count": "-1"},
            {"keep_image_count": "many"},
            {"keep_image_count": "1.5"},
            {"keep_image_count": "٣"},
            {"keep_image_count": ["1"]},
        )
    ),
]


@pytest.mark.parametrize(("raw", "expected"), ENTRY_FINDINGS)
def test_an_odd_entry_is_kept_with_exactly_these_findings(
    raw: dict[str, Any], expected: list[str]
) -> None:
    catalog = parse({"ab": raw})

    assert [entry.name for entry in catalog.entries] == ["ab"]
    assert rules(catalog) == [("ab", rule) for rule in expected]
    assert all(finding.message and finding.remediation for finding in catalog.findings)


@pytest.mark.parametrize("raw", [None, "text", ["a"], {}, {"metadata": None}, {"metadata": "text"}])
def test_an_entry_that_says_nothing_is_kept_and_lacks_everything(raw: object) -> None:
    catalog = parse({"ab": raw})

    assert catalog.entries == (Entry("ab"),)
    found = {rule for _, rule in rules(catalog)}
    missing = {"id-missing", "owner-missing", "risk-missing", "status-missing"}
    assert found - {"entry-malformed"} == missing
    is_malformed = not isinstance(raw, dict) or raw.get("metadata") is not None
    assert ("entry-malformed" in found) is is_malformed


def test_an_id_that_several_repositories_use_is_a_finding_for_each_of_them() -> None:
    catalog = parse(
        {
            "ab": governed({"id": "REGISTRY_A"}),
            "cd": governed({"id": "REGISTRY_C"}),
            "ef": governed({"id": "REGISTRY_A"}),
        }
    )

    assert rules(catalog) == [("ab", "id-duplicate"), ("ef", "id-duplicate")]


def test_missing_ids_are_no_duplicates() -> None:
    catalog = parse({"ab": governed({"id": None}), "cd": governed({"id": None})})

    assert rules(catalog) == [("ab", "id-missing"), ("cd", "id-missing")]


@pytest.mark.parametrize(
    ("raw", "severity"),
    [
        (governed({"owner": None}), Severity.ERROR),
        (governed({"status": None}), Severity.WARNING),
        (governed({"status": "retired"}), Severity.WARNING),
        (governed(aws="x"), Severity.ERROR),
        (governed({"risk": None}), Severity.WARNING),
        (governed({"id": None}), Severity.WARNING),
        (governed(notes="x"), Severity.INFO),
    ],
)
def test_a_finding_weighs_what_it_matters(raw: dict[str, Any], severity: Severity) -> None:
    (finding,) = parse({"ab": raw}).findings

    assert finding.severity is severity


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (governed({"risk": None}), "metadata.risk is missing"),
        (governed({"risk": "extreme"}), "'extreme'"),
        (governed({"status": None}), "metadata.status is missing"),
        (governed({"status": "retired"}), "'retired'"),
        (governed({"status": []}), "a list"),
        (governed({"id": "PAYMENTS"}), "'PAYMENTS'"),
        (governed({"Owner": "jo"}), "'metadata.Owner'"),
        (governed(notes="x"), "'notes'"),
        (governed({"risk": "x" * 60}), "x" * 60),
        (governed({"risk": "x" * 61}), f"'{'x' * 57}...'"),
        (governed({"risk": "x" * 100_000}), f"'{'x' * 57}...'"),
    ],
)
def test_a_finding_shows_what_it_found_cut_to_a_readable_length(
    raw: dict[str, Any], words: str
) -> None:
    (finding,) = parse({"ab": raw}).findings

    assert words in finding.message


def test_a_policy_of_one_image_is_a_policy() -> None:
    policy = {"lifecycle_policy": {"keep_image_count": "1"}}

    assert parse({"ab": governed(governance=policy)}).findings == ()


@pytest.mark.parametrize(
    "written", ["no", "yes", "on", "012", "1e3", "0x1f", "12:30", "2026-01-09", "1_000", "true"]
)
def test_a_value_is_read_as_written(written: str) -> None:
    content = f"repositories: {{ab: {{metadata: {{owner: {written}, created_date: {written}}}}}}}"

    (entry,) = parse_governance(content.encode()).entries

    assert (entry.owner, entry.created_date) == (written, written)


@pytest.mark.parametrize("name", ["no", "on", "012", "1e3", "2026-01-09", "null", "true", "0x1f"])
def test_a_name_is_read_as_written_and_is_a_good_name(name: str) -> None:
    catalog = parse_governance(f"repositories:\n  {name}:\n".encode())

    assert [entry.name for entry in catalog.entries] == [name]
    assert (name, "name-invalid") not in rules(catalog)


@pytest.mark.parametrize("written", ["~", "null", "", "''", "'  '"])
def test_a_value_that_says_nothing_is_unknown(written: str) -> None:
    content = f"repositories:\n  ab:\n    metadata:\n      owner: {written}\n"

    (entry,) = parse_governance(content.encode()).entries

    assert entry.owner is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [("true", True), ("True", True), ("false", False), ("'true'", True), ("yes", None)],
)
def test_image_scanning_is_true_or_false(written: str, meant: bool | None) -> None:
    content = f"repositories: {{ab: {{governance: {{image_scanning: {written}}}}}}}"

    (entry,) = parse_governance(content.encode()).entries

    assert entry.image_scanning is meant


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("risk", ["low", "medium", "high"])
def test_every_known_status_and_risk_is_accepted(status: Status, risk: str) -> None:
    catalog = parse({"ab": governed({"status": status.value, "risk": risk})})

    assert catalog.findings == ()
    assert (catalog.entries[0].status, catalog.entries[0].risk) == (status, risk)


def test_line_endings_and_a_byte_order_mark_change_nothing() -> None:
    content = (
        b'version: "1.0"\nrepositories:\n  ab:\n    metadata:\n'
        b"      owner: jo\n      environment: prod\n"
    )

    as_windows_saves_it = parse_governance(BOM + content.replace(b"\n", b"\r\n"))

    assert as_windows_saves_it == parse_governance(content)
    assert as_windows_saves_it.entries[0].environment == "prod"


def test_anchors_and_merge_keys_give_entries_their_defaults() -> None:
    content = b"""
version: "1.0"
repositories:
  ab:
    metadata: &defaults {id: REGISTRY_AB, owner: jo, risk: low, status: active}
    governance: &policy {image_scanning: true}
  cd:
    metadata:
      <<: *defaults
      id: REGISTRY_CD
      risk: high
    governance: *policy
"""

    catalog = parse_governance(content)

    assert catalog.findings == ()
    assert catalog.entries == (
        Entry("ab", owner="jo", risk="low", status=Status.ACTIVE, image_scanning=True),
        Entry("cd", owner="jo", risk="high", status=Status.ACTIVE, image_scanning=True),
    )


POSSIBLE_NAMES = [
    "ab",
    "a1",
    "1a",
    "12",
    "a" * 256,
    f"{'a' * 127}/{'b' * 128}",
    "a/b",
    "team/sub/repo",
    "a.b",
    "a_b",
    "a__b",
    "a-b",
    "a---b",
    "a.b_c__d-e/f",
]
IMPOSSIBLE_NAMES = [
    "",
    "a",
    "/",
    "a" * 257,
    f"{'a' * 128}/{'b' * 128}",
    "a___b",
    "a..b",
    "a._b",
    "a-_b",
    "/ab",
    "ab/",
    "a//b",
    "-ab",
    "ab-",
    "_ab",
    "ab_",
    ".ab",
    "ab.",
    "a/-b",
    "a-/b",
    "Ab",
    "a b",
    " ab",
    "ab\n",
    "a\nb",
    "a:b",
    "a@b",
    "$ab",
    "äb",
    "ab\u0660",
    "\uff41\uff42",
    "../ab",
    "<b>ab</b>",
]


@pytest.mark.parametrize("name", POSSIBLE_NAMES)
def test_a_name_that_ecr_accepts_is_no_finding(name: str) -> None:
    catalog = parse({name: governed()})

    assert is_repository_name(name)
    assert catalog.entries[0].name_is_possible
    assert catalog.findings == ()


@pytest.mark.parametrize("name", IMPOSSIBLE_NAMES)
def test_a_name_that_ecr_never_accepts_is_kept_as_written_with_a_finding(name: str) -> None:
    catalog = parse({name: governed()})

    assert not is_repository_name(name)
    assert catalog.entries[0].name == name
    assert not catalog.entries[0].name_is_possible
    assert rules(catalog) == [(name, "name-invalid")]
    assert catalog.findings[0].severity is Severity.ERROR


@pytest.mark.parametrize("length", [256, 20_000])
def test_a_name_made_to_backtrack_is_judged_at_once(length: int) -> None:
    assert not is_repository_name("a-" * (length // 2))
