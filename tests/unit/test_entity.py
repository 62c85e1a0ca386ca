from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest
import yaml

from ecr_catalog_pipeline.core.entity import (
    EntityIdentity,
    PublishedEntity,
    check_entity,
    console_url,
    content_digest,
    read_published,
    same_content,
)
from ecr_catalog_pipeline.core.errors import EntityInvalid, TargetRefused
from ecr_catalog_pipeline.core.governance import Status, parse_governance
from ecr_catalog_pipeline.core.reconcile import reconcile
from ecr_catalog_pipeline.core.strict_yaml import as_backstage_reads, as_written, parse_documents
from ecr_catalog_pipeline.core.text import clean_text, escape_markdown
from tests.unit.builders import (
    DATA,
    IDENTITY,
    NOW,
    OTHER_SHA,
    SHA,
    catalog,
    entity_of,
    entry,
    inventory,
    live_registry,
    published,
    rendered,
    uri_of,
)

LAST_SYNC_LINE = b"    platform/last-sync: '2026-01-09T23:03:13Z'\n"
SOURCE_SHA_LINE = f"    platform/source-sha: '{SHA}'\n".encode()


def digest_by_design(entity: dict[str, Any]) -> str:
    """What section 5 of the design says of `content-digest`, word by word."""
    metadata = entity["metadata"]
    moving = {f"platform/{key}" for key in ("content-digest", "last-sync", "source-sha")}
    content = {
        "apiVersion": entity["apiVersion"],
        "kind": entity["kind"],
        "metadata": {
            **{
                key: metadata[key]
                for key in ("name", "namespace", "title", "description", "links", "tags")
                if key in metadata
            },
            "annotations": {
                key: value
                for key, value in metadata["annotations"].items()
                if key.startswith("platform/") and key not in moving
            },
        },
        "spec": entity["spec"],
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def changed(entity: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    other = copy.deepcopy(entity)
    change(other)
    return other


GOLDEN = DATA / "golden"


def golden_entity() -> dict[str, Any]:
    present = ["legacy-billing", "lingers", "no", "nostatus", "payments-gateway", "stray"]
    governed = parse_governance((GOLDEN / "ecr-catalog.yaml").read_bytes())
    return entity_of(reconcile(governed, inventory([*present, "team/checkout"])))


def test_the_golden_governance_file_gives_the_golden_entity_byte_for_byte() -> None:
    assert rendered(golden_entity()) == (GOLDEN / "ecr-registry.yaml").read_bytes()


def test_the_golden_entity_is_what_backstage_accepts_and_the_digest_says() -> None:
    golden = yaml.safe_load((GOLDEN / "ecr-registry.yaml").read_bytes())

    check_entity(golden)
    assert golden["metadata"]["annotations"]["platform/content-digest"] == digest_by_design(golden)


def test_the_golden_entity_is_read_back_as_ours() -> None:
    spec = golden_entity()["spec"]

    found = read_published((GOLDEN / "ecr-registry.yaml").read_bytes(), IDENTITY)

    assert found == PublishedEntity(
        digest=content_digest(golden_entity()),
        repositories={line["name"]: line for line in spec["repositories"]},
        pending={line["name"]: line for line in spec["pending"]},
        last_sync="2026-01-09T23:03:13Z",
        source_sha=SHA,
    )


@pytest.mark.parametrize("hours", [-8, 0, 5.5])
def test_last_sync_is_written_in_utc(hours: float) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=hours)))

    assert LAST_SYNC_LINE in rendered(golden_entity(), at=elsewhere)


def test_a_line_has_exactly_its_keys_in_their_order_with_unknown_ones_left_out() -> None:
    full = {"owner": "jo", "risk": "low", "environment": "dev", "created_date": "2026-01-06"}
    nothing = dict.fromkeys(["owner", "risk", "environment", "status", "created_date"])
    governed = catalog(
        [
            entry("live-full", **full),
            entry("live-nothing", **nothing),
            entry("pending-full", **full, status=Status.PENDING),
            entry("pending-nothing", **{**nothing, "status": Status.PENDING}),
        ]
    )

    spec = entity_of(reconcile(governed, inventory(["live-full", "live-nothing"])))["spec"]

    assert [list(line) for line in spec["repositories"]] == [
        ["name", "owner", "risk", "environment", "status", "uri"],
        ["name", "uri"],
    ]
    assert [list(line) for line in spec["pending"]] == [
        ["name", "owner", "risk", "environment", "requested"],
        ["name"],
    ]


def test_each_repository_stands_on_one_line_of_its_own() -> None:
    before, after = published("ab", "ef").splitlines(), published("ab", "cd", "ef").splitlines()

    added = [line for line in after if line not in before]
    in_spec = [line for line in added if line.startswith(b"    - {name: ")]
    assert len(in_spec) == 1
    assert b"name: cd," in in_spec[0]


def test_an_entity_without_repositories_has_empty_lists() -> None:
    entity = entity_of(live_registry())

    assert yaml.safe_load(rendered(entity))["spec"]["repositories"] == []
    assert yaml.safe_load(rendered(entity))["spec"]["pending"] == []
    check_entity(entity)


def test_counts_are_annotations_and_annotations_are_text() -> None:
    annotations = yaml.safe_load(rendered(golden_entity()))["metadata"]["annotations"]

    assert all(isinstance(value, str) for value in annotations.values())
    assert [annotations[f"platform/{key}-count"] for key in ("repo", "pending", "ghost")] == [
        "5",
        "2",
        "2",
    ]


@pytest.mark.parametrize("system", [None, "container-registry"])
def test_an_entity_without_a_system_says_nothing_of_it(system: str | None) -> None:
    entity = entity_of(live_registry("ab"), identity=replace(IDENTITY, system=system))

    assert yaml.safe_load(rendered(entity))["spec"].get("system", None) == system
    assert ("system" in entity["spec"]) is (system is not None)
    check_entity(entity)


def test_the_longest_name_keeps_its_uri_whole() -> None:
    name = "a" * 256

    (line,) = entity_of(live_registry(name))["spec"]["repositories"]

    assert line["name"] == name
    assert line["uri"] == uri_of(name)


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("eu-west-2", "https://123456789012.signin.aws.amazon.com/console/ecr/"),
        ("cn-north-1", "https://123456789012.signin.amazonaws.cn/console/ecr/"),
        ("us-gov-west-1", "https://123456789012.signin.amazonaws-us-gov.com/console/ecr/"),
    ],
)
def test_the_console_link_opens_that_account_and_region(region: str, url: str) -> None:
    assert console_url("123456789012", region).startswith(url)
    assert console_url("123456789012", region).endswith(f"?region={region}")


def description(*names: str, **changes: Any) -> list[str]:
    text: str = entity_of(live_registry(*names, **changes))["metadata"]["description"]
    return text.split("\n")


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ([], ["Master AWS ECR Registry. Manages 0 repositories."]),
        (["ab"], ["Master AWS ECR Registry. Manages 1 repository:", "", "- ab (dev)"]),
        (
            ["cd", "ab"],
            ["Master AWS ECR Registry. Manages 2 repositories:", "", "- ab (dev)", "- cd (dev)"],
        ),
    ],
)
def test_the_description_has_a_first_line_and_a_bullet_per_live_repository(
    names: list[str], lines: list[str]
) -> None:
    assert description(*names, environment="dev") == lines


@pytest.mark.parametrize("environment", [None, "", " \t", "\x00\u200b"])
def test_a_repository_without_an_environment_is_unassigned(environment: str | None) -> None:
    assert description("ab", environment=environment)[-1] == "- ab (unassigned)"


def test_a_description_of_100_repositories_names_them_all() -> None:
    names = [f"repo-{number:03}" for number in range(100)]

    assert description(*names)[2:] == [f"- {name} (unassigned)" for name in names]


@pytest.mark.parametrize(("count", "more"), [(101, 1), (350, 250)])
def test_a_longer_description_names_100_and_counts_the_rest(count: int, more: int) -> None:
    lines = description(*(f"repo-{number:03}" for number in range(count)))

    assert lines[0] == f"Master AWS ECR Registry. Manages {count} repositories:"
    assert len(lines) == 2 + 100 + 1
    assert lines[-2:] == ["- repo-099 (unassigned)", f"- and {more} more"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dev", "dev"),
        ("<script>", r"\<script\>"),
        ("[x](http://y)", r"\[x\]\(http\[\:\]//y\)"),
        ("**a** _b_ `c` ~d~", r"\*\*a\*\* \_b\_ \`c\` \~d\~"),
        ("snake_case", "snake_case"),
        ("&lt;", r"\&lt;"),
        (r"a\b", r"a\\b"),
        ("jo@example.org", "jo\uff20example.org"),
        ("www.example.org", r"www\[.\]example.org"),
        ("![x]", r"\!\[x\]"),
        ("a|b", r"a\|b"),
    ],
)
def test_markdown_shows_a_users_text_as_it_is(text: str, shown: str) -> None:
    assert escape_markdown(text) == shown
    assert description("ab", environment=text)[-1] == f"- ab ({shown})"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("  two   words ", "two words"),
        ("a\nb\r\nc\td", "a b c d"),
        ("a\x00b\x1b[31mc\x7f", "a b [31mc"),
        ("a\u2028b\u2029c\u0085d", "a b c d"),
        ("a\u202eb\u200bc\ufeffd", "a b c d"),
        ("a\ufffeb\uffffc\ud800d", "a b c d"),
        ("a\u00a0b\u3000c", "a b c"),
        ("Übung 日本 😀", "Übung 日本 😀"),
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 255 + "…"),
        (" \n\x00", ""),
    ],
)
def test_text_becomes_one_line_of_what_can_be_printed(text: str, line: str) -> None:
    assert clean_text(text) == line


LOOKS_LIKE_SOMETHING_ELSE = [
    *("no", "NO", "n", "y", "Yes", "on", "off", "true", "False", "null", "NULL", "~", ""),
    *("012", "12", "1e3", "0x1f", "0o7", "1_000", "-1", "+1", ".5", "1.5", ".inf", "-.INF", ".nan"),
    *("12:30", "12:30:45", "190:20:30", "2026-01-09", "2026-01-09T23:03:13Z", "0b1", "685_230.15"),
    *("=", "<<", "-", "- a", "---", "...", "?", "? a", ":", "a: b", "a:", ":a", "a #b", "#a"),
    *(
        "[a]",
        "{a: b}",
        "a, b",
        "&a",
        "*a",
        "!a",
        "!!int 1",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "'a",
        '"a"',
    ),
    *(
        "$text",
        "$file: x",
        "${x}",
        "{{x}}",
        "a\\b",
        "\\n",
        "a'b",
        'a"b',
        " a",
        "a ",
        "é",
        "日本",
        "😀",
    ),
    *("</script>", "<b>", "&amp;", "a/b", "1/2", "12/x", "2026-01-09/x", "a.b", "a_b", "A" * 256),
]


@pytest.mark.parametrize("text", LOOKS_LIKE_SOMETHING_ELSE)
def test_text_that_looks_like_something_else_is_read_back_as_that_text(text: str) -> None:
    content = rendered(entity_of(live_registry("ab", owner=text, environment=text)))

    by_pyyaml = yaml.load(content, Loader=yaml.SafeLoader)
    (as_backstage,) = parse_documents(content.decode(), scalar=as_backstage_reads)
    (as_text,) = parse_documents(content.decode(), scalar=as_written)

    (line,) = by_pyyaml["spec"]["repositories"]
    expected = {key: value for key in ("owner", "environment") if (value := text.strip())}
    assert {key: line[key] for key in line.keys() & {"owner", "environment"}} == expected
    assert by_pyyaml == as_backstage.value == as_text.value


@pytest.mark.parametrize("text", ["2026-01-09", "012", "no", "team a", "1/2:3", "yes"])
def test_an_identity_that_looks_like_something_else_is_read_back_as_text(text: str) -> None:
    identity = EntityIdentity("012", "123", text, text, text)

    entity = entity_of(live_registry("ab"), identity=identity)
    read = yaml.safe_load(rendered(entity))

    assert (read["metadata"]["name"], read["metadata"]["namespace"]) == ("012", "123")
    assert read["metadata"]["title"] == read["spec"]["owner"] == read["spec"]["system"] == text


def test_common_text_is_written_without_quotes() -> None:
    content = published("team/ab", owner="app-team", environment="dev_1.2")

    assert b"{name: team/ab, owner: app-team, risk: low, environment: dev_1.2, " in content


@pytest.mark.parametrize("sha", [SHA, OTHER_SHA, "0a" * 32])
@pytest.mark.parametrize("later", [0, 1, 86_400 * 365])
def test_a_later_look_at_another_commit_is_the_same_content(sha: str, later: int) -> None:
    entity = golden_entity()

    other = rendered(entity, sha=sha, at=NOW + timedelta(seconds=later))

    assert same_content(rendered(entity), other)
    assert same_content(other, rendered(entity))


@pytest.mark.parametrize(
    "replacement",
    [
        b"",
        LAST_SYNC_LINE * 2,
        b"last-sync\n",
        b"    platform/last-sync:\n",
        b"    platform/last-sync: ''\n",
        b"    platform/last-sync: never\n",
        b"    platform/last-sync: 2026-01-09T23:03:13Z\n",
        b"    platform/last-sync: '2026-01-09T23:03:13Z' # edited\n",
        b"    platform/last-sync: '2026-01-09T23:03:13Z'\r\n",
        b"     platform/last-sync: '2026-01-09T23:03:13Z'\n",
        b"    platform/last-sync: '2026-01-09 23:03:13 '\n",
        b"    platform/last-sync: 'ZZZZZZZZZZZZZZZZZZZZ'\n",
        b"    platform/last-sync: '99999999999999999999'\n",
        b"    platform/last-sync: '2026-01-09T23:03:13Z'\n    other: 'x'\n",
        SOURCE_SHA_LINE,
    ],
)
def test_any_other_change_of_the_last_sync_line_is_a_difference(replacement: bytes) -> None:
    content = rendered(golden_entity())

    tampered = content.replace(LAST_SYNC_LINE, replacement)

    assert tampered != content
    assert not same_content(tampered, content)


@pytest.mark.parametrize(
    "replacement",
    [
        b"",
        SOURCE_SHA_LINE * 2,
        b"source-sha\n",
        b"    platform/source-sha: ''\n",
        b"    platform/source-sha: 'HEAD'\n",
        b"    platform/source-sha: " + SHA.encode() + b"\n",
        f"    platform/source-sha: '{SHA[:39]}'\n".encode(),
        f"    platform/source-sha: '{SHA}0'\n".encode(),
        f"    platform/source-sha: '{SHA.upper()}'\n".encode(),
        f"    platform/source-sha: '{SHA}' # edited\n".encode(),
        LAST_SYNC_LINE,
    ],
)
def test_any_other_change_of_the_source_sha_line_is_a_difference(replacement: bytes) -> None:
    content = rendered(golden_entity())

    tampered = content.replace(SOURCE_SHA_LINE, replacement)

    assert tampered != content
    assert not same_content(tampered, content)


def test_every_other_line_removed_doubled_or_changed_is_a_difference() -> None:
    content = rendered(golden_entity())
    lines = content.splitlines(keepends=True)

    for number, line in enumerate(lines):
        before, after = lines[:number], lines[number + 1 :]
        for instead in (b"", line * 2, line[:-1] + b" \n", b"#" + line, line[:-1] + b"\r\n"):
            tampered = b"".join([*before, instead, *after])
            assert not same_content(tampered, content), (number, instead)


def test_moved_lines_are_a_difference() -> None:
    content = rendered(golden_entity())

    moved = content.replace(SOURCE_SHA_LINE, b"").replace(
        LAST_SYNC_LINE, LAST_SYNC_LINE + SOURCE_SHA_LINE
    )

    assert len(moved) == len(content)
    assert not same_content(moved, content)


@pytest.mark.parametrize("tampered", [b"", b"\n", b"\xef\xbb\xbf", b"# head\n"])
def test_what_stands_around_the_file_is_a_difference(tampered: bytes) -> None:
    content = rendered(golden_entity())

    assert same_content(tampered + content, content) is (tampered == b"")
    assert same_content(content + tampered, content) is (tampered == b"")


def test_the_digest_is_what_the_design_says() -> None:
    entity = golden_entity()
    with_tags = changed(entity, lambda each: each["metadata"].update(tags=["ecr", "aws"]))

    assert content_digest(entity) == digest_by_design(entity)
    assert content_digest(with_tags) == digest_by_design(with_tags) != content_digest(entity)


def test_the_digest_of_the_content_the_file_and_what_backstage_serves_is_one() -> None:
    entity = golden_entity()
    read = yaml.safe_load(rendered(entity))
    served = json.loads(json.dumps(read, sort_keys=True))
    served["metadata"]["annotations"] |= {
        "backstage.io/managed-by-location": "file:/catalog/ecr-registry.yaml",
        "backstage.io/managed-by-origin-location": "file:/catalog/ecr-registry.yaml",
        "backstage.io/view-url": "https://example.org",
        "backstage.io/orphan": "true",
    }
    served["metadata"] |= {"uid": "4711", "etag": "abc", "generation": 1, "labels": {"a": "b"}}
    served["relations"] = [{"type": "ownedBy", "targetRef": "group:default/platform-team"}]
    served["status"] = {"items": []}

    assert content_digest(entity) == content_digest(read) == content_digest(served)
    annotated = read["metadata"]["annotations"]["platform/content-digest"]
    assert annotated == content_digest(entity)


@pytest.mark.parametrize("key", ["content-digest", "last-sync", "source-sha"])
def test_the_digest_leaves_out_the_annotations_that_are_no_content(key: str) -> None:
    read = yaml.safe_load(rendered(golden_entity()))

    other = changed(
        read, lambda each: each["metadata"]["annotations"].update({f"platform/{key}": "forged"})
    )

    assert content_digest(other) == content_digest(read)


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each.update(apiVersion="backstage.io/v1beta1"),
        lambda each: each.update(kind="Component"),
        lambda each: each["metadata"].update(name="other"),
        lambda each: each["metadata"].update(namespace="other"),
        lambda each: each["metadata"].update(title="other"),
        lambda each: each["metadata"].update(description="other"),
        lambda each: each["metadata"].pop("links"),
        lambda each: each["metadata"].update(tags=["ecr"]),
        lambda each: each["metadata"]["annotations"].update({"platform/repo-count": "6"}),
        lambda each: each["metadata"]["annotations"].pop("platform/orphan-count"),
        lambda each: each["metadata"]["annotations"].update({"platform/more": "x"}),
        lambda each: each["spec"].pop("system"),
        lambda each: each["spec"].update(lifecycle="production"),
        lambda each: each["spec"]["repositories"].pop(),
        lambda each: each["spec"]["repositories"].reverse(),
        lambda each: each["spec"]["repositories"][0].update(owner="other"),
        lambda each: each["spec"]["repositories"][0].pop("uri"),
        lambda each: each["spec"]["pending"][0].update(risk="low"),
        lambda each: each.pop("spec"),
        lambda each: each.pop("metadata"),
    ],
)
def test_the_digest_moves_with_all_content(change: Callable[[dict[str, Any]], object]) -> None:
    entity = golden_entity()

    assert content_digest(changed(entity, change)) != content_digest(entity)


def test_the_digest_is_independent_of_the_order_of_keys() -> None:
    entity = golden_entity()
    backwards = json.loads(
        json.dumps(entity), object_pairs_hook=lambda pairs: dict(reversed(pairs))
    )

    assert list(backwards) != list(entity)
    assert content_digest(backwards) == content_digest(entity)


def test_our_own_entity_is_read_whatever_its_layout() -> None:
    entity = yaml.safe_load(published("ab", "cd"))

    found = read_published(json.dumps(entity, indent=1).encode(), IDENTITY)

    assert list(found.repositories) == ["ab", "cd"]
    assert found.repositories["ab"]["uri"] == uri_of("ab")
    assert found.digest == content_digest(entity)
    assert (found.last_sync, found.source_sha) == ("2026-01-09T23:03:13Z", SHA)
    assert not found.damaged


def test_our_entity_without_its_annotations_is_read_without_them() -> None:
    content = published("ab").replace(LAST_SYNC_LINE, b"").replace(SOURCE_SHA_LINE, b"")

    found = read_published(content, IDENTITY)

    assert (found.last_sync, found.source_sha, found.damaged) == (None, None, False)
    assert found.digest == content_digest(yaml.safe_load(published("ab")))


def test_our_entity_with_a_tag_in_it_is_ours_and_read() -> None:
    content = published("ab").replace(b"  title: ", b"  title: !own ")

    found = read_published(content, IDENTITY)

    assert list(found.repositories) == ["ab"]
    assert not same_content(content, published("ab"))


NOT_OURS = [
    pytest.param(published("ab").replace(b"kind: Resource", b"kind: Component"), id="other kind"),
    pytest.param(published("ab").replace(b"kind: Resource", b"kind: resource"), id="kind's case"),
    pytest.param(published("ab").replace(b"kind: Resource\n", b""), id="no kind"),
    pytest.param(
        published("ab").replace(b"  name: goldenpath-ecr-registry", b"  name: other"),
        id="other name",
    ),
    pytest.param(published("ab").replace(b"name: goldenpath", b"name: Goldenpath"), id="its case"),
    pytest.param(b"kind: Resource\nmetadata: goldenpath-ecr-registry\n", id="no metadata"),
    pytest.param(b"", id="empty"),
    pytest.param(b"# a comment\n", id="comment"),
    pytest.param(b"- kind: Resource\n", id="list"),
    pytest.param(b"goldenpath-ecr-registry\n", id="text"),
    pytest.param(b"kind: Component\nmetadata: {name: [}\n", id="unparsable and another's"),
    pytest.param(b"\x89PNG\r\n\x1a\n\x00", id="binary"),
    pytest.param(b"kind: Resource\nmetadata:\n  name: other\nspec: [}\n", id="unparsable, other"),
    pytest.param(b"kind: Component\n---\nkind: System\n", id="several of others"),
]


@pytest.mark.parametrize("content", NOT_OURS)
def test_a_file_that_is_not_our_entity_is_refused_and_never_ours_to_overwrite(
    content: bytes,
) -> None:
    with pytest.raises(TargetRefused) as caught:
        read_published(content, IDENTITY)

    assert IDENTITY.name in caught.value.problem
    assert caught.value.needs == "human"
    assert caught.value.remediation


DAMAGED = [
    pytest.param(published("ab") + b"}{\n", id="garbage at the end"),
    pytest.param(published("ab")[:-30], id="cut off"),
    pytest.param(published("ab") + b"\xff", id="no UTF-8"),
    pytest.param(published("ab") + b"\x00", id="NUL"),
    pytest.param(published("ab") + b"kind: Resource\n", id="duplicate key"),
    pytest.param(published("ab") + b"---\nkind: Component\n", id="a second document"),
    pytest.param(published("ab").partition(b"spec:")[0], id="no spec"),
    pytest.param(published("ab").partition(b"  repositories:")[0], id="no repositories"),
    pytest.param(published().replace(b"repositories: []", b"repositories: {}"), id="no list"),
    pytest.param(published().replace(b"repositories: []", b"repositories:"), id="null"),
    pytest.param(published().replace(b"repositories: []", b"repositories: [ab]"), id="text line"),
    pytest.param(published("ab").replace(b"{name: ab, ", b"{"), id="line without a name"),
    pytest.param(published("ab").replace(b"  pending: []\n", b""), id="no pending"),
    pytest.param(published("ab").replace(b"pending: []", b"pending: [x]"), id="pending text"),
    pytest.param(published("ab").replace(b"{name: ab,", b"{name: 12,"), id="name a number"),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_our_own_file_damaged_is_ours_and_known_by_its_bytes(content: bytes) -> None:
    found = read_published(content, IDENTITY)

    assert found == PublishedEntity(
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}", damaged=True
    )


@pytest.mark.parametrize("name", ["012", "1st-registry", "no", "On", "12"])
def test_our_own_file_damaged_is_ours_even_if_its_name_needs_quotes(name: str) -> None:
    identity = replace(IDENTITY, name=name)
    content = rendered(entity_of(live_registry("ab"), identity=identity))
    assert not read_published(content, identity).damaged

    assert read_published(content + b"}{\n", identity).damaged


def problems_of(entity: dict[str, Any]) -> str:
    with pytest.raises(EntityInvalid) as caught:
        check_entity(entity)
    return caught.value.problem


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each["metadata"].update(name="a"),
        lambda each: each["metadata"].update(name="A" * 63),
        lambda each: each["metadata"].update(name="a.b_c-D"),
        lambda each: each["metadata"].update(namespace="a-b-1"),
        lambda each: each["metadata"].update(namespace="a" * 63),
        lambda each: each["metadata"].update(tags=["ecr", "c++", "c#", "a:b", "a-b", "a" * 63]),
        lambda each: each["metadata"].update(title="Übung: <b> & 日本"),
        lambda each: each["metadata"].update(title="x" * 256),
        lambda each: each["metadata"]["annotations"].update({"example.org/a": "$text"}),
        lambda each: each["metadata"]["annotations"].update({"a": ""}),
        lambda each: each["spec"].pop("system"),
        lambda each: each["spec"].update(more={"extra": ["structure", {"a": 1}]}),
        lambda each: each["spec"]["repositories"].append({"name": "$text"}),
        lambda each: each.update(relations=[]),
    ],
)
def test_what_backstage_accepts_is_valid(change: Callable[[dict[str, Any]], object]) -> None:
    check_entity(changed(golden_entity(), change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda each: each.update(extra="x"), "extra"),
        (lambda each: each.update(Spec={}), "Spec"),
        (lambda each: each["metadata"].update(name=""), "name"),
        (lambda each: each["metadata"].update(name="a" * 64), "name"),
        (lambda each: each["metadata"].update(name="a/b"), "name"),
        (lambda each: each["metadata"].update(name="-a"), "name"),
        (lambda each: each["metadata"].update(name="a."), "name"),
        (lambda each: each["metadata"].update(name="a b"), "name"),
        (lambda each: each["metadata"].update(name="ä"), "name"),
        (lambda each: each["metadata"].update(name="a\n"), "name"),
        (lambda each: each["metadata"].pop("name"), "name"),
        (lambda each: each["metadata"].update(namespace="A"), "namespace"),
        (lambda each: each["metadata"].update(namespace="a--b"), "namespace"),
        (lambda each: each["metadata"].update(namespace="a" * 64), "namespace"),
        (lambda each: each["metadata"].update(namespace=""), "namespace"),
        (lambda each: each["metadata"].update(title=""), "title"),
        (lambda each: each["metadata"].update(title="a\nb"), "title"),
        (lambda each: each["metadata"].update(title="x" * 257), "title"),
        (lambda each: each["spec"].update(owner=""), "owner"),
        (lambda each: each["spec"].update(owner=None), "owner"),
        (lambda each: each["spec"].pop("owner"), "owner"),
        (lambda each: each["spec"].update(system=""), "system"),
        (lambda each: each["spec"].update(system=None), "system"),
        (lambda each: each["spec"].update(system="  "), "system"),
        (lambda each: each["spec"].update(type=""), "type"),
        (lambda each: each["spec"].pop("type"), "type"),
        (lambda each: each.pop("spec"), "type"),
        (lambda each: each["metadata"].update(tags=["ECR"]), "tag"),
        (lambda each: each["metadata"].update(tags=["a--b"]), "tag"),
        (lambda each: each["metadata"].update(tags=["a-"]), "tag"),
        (lambda each: each["metadata"].update(tags=["a b"]), "tag"),
        (lambda each: each["metadata"].update(tags=["a" * 64]), "tag"),
        (lambda each: each["metadata"].update(tags=[""]), "tag"),
        (lambda each: each["metadata"].update(tags=[1]), "tag"),
        (lambda each: each["metadata"]["annotations"].update({"platform/x": 2}), "annotation"),
        (lambda each: each["metadata"]["annotations"].update({"a b": "x"}), "annotation"),
        (lambda each: each["metadata"]["annotations"].update({"A.org/x": "x"}), "annotation"),
        (lambda each: each["metadata"]["annotations"].update({"a" * 64: "x"}), "annotation"),
        (
            lambda each: each["metadata"]["annotations"].update(
                {"backstage.io/managed-by-location": "x"}
            ),
            "Backstage's own",
        ),
        (lambda each: each["metadata"]["links"].append({"title": "x"}), "link"),
        (lambda each: each["metadata"]["links"].append("https://example.org"), "link"),
        (lambda each: each["spec"].update(Owner="x"), "case"),
        (lambda each: each["metadata"].update(Name="x"), "case"),
        (lambda each: each["spec"]["repositories"][0].update(NAME="x"), "case"),
        (
            lambda each: each["metadata"]["annotations"].update({"platform/Repo-Count": "5"}),
            "case",
        ),
        (lambda each: each["spec"].update(a=[[{"b": {"c": 1, "C": 2}}]]), "case"),
        (lambda each: each["spec"].update({"$text": "x"}), "$"),
        (lambda each: each["spec"]["pending"][0].update({"$": "x"}), "$"),
        (lambda each: each["spec"].update(a=[[{"b": {"$file": "x"}}]]), "$"),
    ],
)
def test_what_backstage_refuses_or_freezes_on_is_invalid(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    assert words in problems_of(changed(golden_entity(), change))


def test_every_broken_rule_is_named_at_once() -> None:
    def change(entity: dict[str, Any]) -> None:
        entity["metadata"]["name"] = "a b"
        entity["metadata"]["tags"] = ["ECR", "Aws"]
        entity["spec"]["$text"] = "x"

    problem = problems_of(changed(golden_entity(), change))

    assert all(word in problem for word in ("name", "'ECR'", "'Aws'", "$"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "a/b"}, "name"),
        ({"namespace": "Default"}, "namespace"),
        ({"title": " "}, "title"),
        ({"title": "a\tb"}, "title"),
        ({"owner": ""}, "owner"),
        ({"system": ""}, "system"),
    ],
)
def test_an_identity_says_what_backstage_would_refuse_in_it(
    change: dict[str, str], word: str
) -> None:
    assert IDENTITY.problems() == []
    (problem,) = replace(IDENTITY, **change).problems()
    assert problem.startswith(word)
