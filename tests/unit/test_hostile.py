"""Ten thousand hostile examples: whatever comes in, only our own errors come out, in one line.

Governance files, answers of ECR, published files and answers of Backstage are made from good ones
by mutation, or of the bytes and words that parsers trip over. On the wire the same is asked of the
clients by `tests/integration/test_hostile_input.py`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ecr_catalog_pipeline.adapters import backstage
from ecr_catalog_pipeline.core.entity import (
    build_entity,
    check_entity,
    content_digest,
    read_published,
)
from ecr_catalog_pipeline.core.errors import (
    CatalogError,
    EntityInvalid,
    GovernanceRefused,
    InventoryFailed,
    TargetRefused,
)
from ecr_catalog_pipeline.core.governance import Catalog, is_repository_name, parse_governance
from ecr_catalog_pipeline.core.inventory import Inventory, check_account, merge_pages, parse_page
from ecr_catalog_pipeline.core.parity import judge, judge_plan
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.core.reconcile import reconcile
from ecr_catalog_pipeline.core.strict_yaml import as_backstage_reads, parse_documents
from tests.unit.builders import (
    ACCOUNT,
    IDENTITY,
    NOW,
    REGION,
    SHA,
    catalog,
    entity_of,
    entry,
    inventory,
    live_registry,
    plan,
    published,
    rendered,
    uri_of,
)

BYTES: Final = 1_500
TEXTS: Final = 2_000
STRUCTURES: Final = 1_500
PAGES: Final = 2_500
PUBLISHED: Final = 1_300
SERVED: Final = 1_200
assert BYTES + TEXTS + STRUCTURES + PAGES + PUBLISHED + SERVED == 10_000

NAMES: Final = ("ab", "team/app", "no", "012")
Value = TypeVar("Value")


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a test take this many examples, however slow the machine is."""
    return settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def ours(act: Callable[[], Value], *kinds: type[CatalogError]) -> Value | None:
    """Give what comes out; of an error of ours None, once it reads as one plain sentence or two."""
    try:
        return act()
    except kinds as error:
        assert_readable(error)
        return None


def is_one_line(text: str) -> bool:
    """Whether a text moves no cursor, hides nothing and can be encoded."""
    return not any(unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in text)


def assert_readable(error: CatalogError) -> None:
    reported = str(error)
    assert is_one_line(reported), ascii(reported)
    assert len(reported) < 1_500
    assert error.problem
    assert error.remediation
    for sign in ("Traceback", "Error(", "Exception(", "object at 0x", "<class "):
        assert sign not in reported


# What parsers trip over

WORDS: Final = (
    *("", " ", "~", "null", "no", "012", "1e3", "1_000", "0x1f", ".inf", ".nan", "<<", "=", "y"),
    *("2026-01-09", "12:30:00", "!!int 1", "*a", "&a", "%", "@", "`", "|", ">", "---", "..."),
    *("$text", "$json", "$", "${AWS_SECRET_ACCESS_KEY}", "{{ x }}", "{", "}", "[", "]", "- ", ": "),
    *("__proto__", "constructor", "__class__", "kind", "Kind", "KIND", "spec", "metadata"),
    *("\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\ufffe", "\u200d"),
    *("\n", "\r\n", "\t", "\n---\n", "\n    - pwned", "é", "e\u0301", "日本", "😀", "\U0010ffff"),
    *("../../etc/passwd", "/etc/passwd", "<script>", "[x](javascript:y)", "'; DROP TABLE", "-rf"),
    *("x" * 300, "9" * 400, "a/" * 200, "-" * 100, "https://ghp_token@git.example.com/"),
)
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
scalars = st.one_of(words, st.none(), st.booleans(), st.integers(), st.floats(), words)
KEYS: Final = (
    *(
        "repositories",
        "registries",
        "metadata",
        "aws",
        "governance",
        "id",
        "owner",
        "Owner",
        "risk",
    ),
    *("environment", "status", "STATUS", "created_date", "requested_by", "domain", "encryption"),
    *("repository_url", "image_scanning", "lifecycle_policy", "keep_image_count", "version"),
)
keys = st.one_of(st.sampled_from(KEYS), words)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree of lists and dictionaries, the root included."""
    found = [here]
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, inner in inside:
        found += places(inner, (*here, key))
    return found


def at(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of a tree with something else at one place."""
    if not place:
        return new
    first, *rest = place
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[first] = replaced(value[first], tuple(rest), new)
    return copy


@st.composite
def mutations(draw: st.DrawFn, good: Any, odd: st.SearchStrategy[Any], most: int = 4) -> Any:
    """A good tree in which a few places were replaced, dropped, doubled, renamed or deepened."""
    value = good
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.sampled_from(places(value)))
        what = draw(st.sampled_from(["replace", "replace", "replace", "add", "drop", "nest"]))
        old = at(value, place)
        if what == "replace":
            new = draw(odd)
        elif what == "add":
            new = added(old, draw(keys), draw(odd))
        elif what == "drop":
            new = dropped(old)
        else:
            new = nested(old, draw(st.sampled_from([1, 5, 70])))
        value = replaced(value, place, new)
    return value


def added(old: Any, key: Any, other: Any) -> Any:
    if isinstance(old, dict):
        return {**old, key: other}
    return [*old, other, *old[:1]] if isinstance(old, list) else old


def dropped(old: Any) -> Any:
    if isinstance(old, dict):
        return dict(list(old.items())[1:])
    return old[1:] if isinstance(old, list | str) else None


def nested(old: Any, depth: int) -> Any:
    for number in range(depth):
        old = [old] if number % 2 else {"x": old}
    return old


# Governance files

GOOD: Final = {
    "version": "1.0",
    "owner": "platform-team",
    "repositories": {
        name: {
            "metadata": {
                "id": f"REGISTRY_{number}",
                "owner": "app-team",
                "risk": "high",
                "environment": "prod",
                "status": status,
                "created_date": "2026-01-05",
            },
            "aws": {"repository_url": uri_of(name)},
            "governance": {
                "image_scanning": True,
                "encryption": "KMS",
                "lifecycle_policy": {"keep_image_count": 50},
            },
        }
        for number, (name, status) in enumerate(
            zip((*NAMES, "wanted"), ("active", "deprecated", "active", "", "pending"), strict=True)
        )
    },
}
GOOD_TEXT: Final = yaml.safe_dump(GOOD, sort_keys=False)
TOKENS: Final = (
    *("repositories:\n", "registries:\n", "  ab:\n", "    metadata:\n", "      status: active\n"),
    *("\n", "\n  ", "\r\n", "\r", "\t", "- ", "? ", ": ", ", ", "{", "}", "[", "]", "#", "'", '"'),
    *("&a ", "*a", "&a [*a]", "<<: *a\n", "<<: [*a, *a]\n", "<<:\n", "*a : x\n", "&a x: *a\n"),
    *("!!str ", "!!int ", "!!python/object/apply:os.system [id]", "!!binary ", "!x ", "!<y> "),
    *("!%0A ", "!<tag:%0A> ", "!%41 ", "!%C0%80 ", "!!map ", "!!set ", "!!null ", "!" + "t" * 400),
    *("|\n", ">-\n", "|9\n", "---\n", "...\n", "%YAML 1.1\n---\n", "%TAG ! tag:x,2000:\n---\n"),
    *("\\x41", '"\\uD800"', '"\\U00110000"', '"\\0"', '"\\e[31m"', "\x00", "\x85", "\u2028"),
    *("\ufeff", "\ud7ff", "<" * 70, "[" * 70, "{x: " * 70, "? " * 70, "- " * 70, "'" * 9),
    *("__proto__: {polluted: true}\n", "$text: http://x\n", "k" * 400 + ": 1\n", "Version: 1\n"),
)
snippets = st.one_of(st.sampled_from(TOKENS), st.sampled_from(WORDS))


@st.composite
def texts(draw: st.DrawFn, good: str) -> str:
    """A good text with hostile tokens put in, or parts taken out."""
    text = good
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        gone = draw(st.sampled_from([0, 0, 1, 7, 60]))
        text = text[:begin] + draw(snippets) + text[begin + gone :]
    return text


some_bytes = st.one_of(
    st.binary(max_size=200),
    st.lists(snippets, max_size=12).map(lambda parts: "".join(parts).encode("utf-8", "replace")),
    st.binary(min_size=1, max_size=4).flatmap(
        lambda odd: st.integers(0, len(GOOD_TEXT)).map(
            lambda at: GOOD_TEXT[:at].encode() + odd + GOOD_TEXT[at:].encode()
        )
    ),
    st.sampled_from(["utf-16", "utf-32", "utf-7", "cp037"]).map(GOOD_TEXT.encode),
)


def assert_governance_is_safe(content: bytes) -> None:
    """Let a file go all the way: parsed, reconciled, planned, rendered, published, read back."""
    found = ours(lambda: parse_governance(content), GovernanceRefused)
    if found is None:
        return
    for each in found.findings:
        assert is_one_line(each.message)
        assert is_one_line(each.remediation)
    for present in ((), (*NAMES, "orphan")):
        assert_plan_is_safe(found, inventory(present), None)
        assert_plan_is_safe(found, inventory(present), published(*NAMES, "gone"))


def assert_plan_is_safe(governed: Catalog, present: Inventory, before: bytes | None) -> None:
    planned = ours(
        lambda: plan(reconcile(governed, present), present, published=before),
        EntityInvalid,
        TargetRefused,
    )
    if planned is not None:
        assert_publishable(planned)


def assert_publishable(planned: Plan) -> None:
    """What is published is a valid entity of the plan's digest, however it is read."""
    (document,) = parse_documents(planned.content.decode(), scalar=as_backstage_reads)
    check_entity(document.value)
    assert content_digest(document.value) == planned.digest
    assert read_published(planned.content, IDENTITY).digest == planned.digest
    assert content_digest(yaml.load(planned.content, yaml.CSafeLoader)) == planned.digest
    assert set(document.value) == {"apiVersion", "kind", "metadata", "spec"}
    assert is_one_line(planned.summary)
    assert all(is_one_line(reason) for reason in planned.reasons_held)


@examples(BYTES)
@given(some_bytes)
@example(b"\xff\xfe\x00")
@example(b"repositories: !%0A {}")
def test_any_bytes_as_governance(content: bytes) -> None:
    assert_governance_is_safe(content)


@pytest.mark.full
@examples(TEXTS)
@given(texts(GOOD_TEXT))
@example(f"{'k' * 400}: 1\n{'k' * 400}: 2\nrepositories: {{}}\n")
@example(f"repositories: *{'a' * 2_000}")
@example("repositories: {ab: {metadata: {id: &a 'x\x1f'}}, cd: {metadata: {id: *a}}}")
def test_a_governance_file_with_hostile_yaml_in_it(text: str) -> None:
    assert_governance_is_safe(text.encode())


@pytest.mark.full
@examples(STRUCTURES)
@given(mutations(GOOD, values), st.booleans())
def test_a_governance_file_of_another_shape(value: Any, as_json: bool) -> None:
    if as_json:
        content = json.dumps(value, ensure_ascii=False)
    else:
        content = yaml.safe_dump(value, allow_unicode=True)
    assert_governance_is_safe(content.encode("utf-8", "surrogatepass"))


# Answers of ECR

ANSWER: Final = {
    "repositories": [
        {
            "repositoryArn": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}",
            "registryId": ACCOUNT,
            "repositoryName": name,
            "repositoryUri": uri_of(name),
            "createdAt": NOW,
            "imageTagMutability": "MUTABLE",
            "imageScanningConfiguration": {"scanOnPush": True},
            "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": "a-key"},
        }
        for name in NAMES
    ],
    "nextToken": "more",
}
moments = st.one_of(
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.sampled_from(
        [
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
            datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))),
        ]
    ),
)
answers = st.one_of(
    scalars,
    moments,
    values,
    st.sampled_from(["\ud800", "\udfff\ud800", "evil.example.com/ab", "ab\n- pwned", "AB", "-"]),
    st.just({}),
    st.just([]),
)


@pytest.mark.full
@examples(PAGES)
@given(
    st.lists(mutations(ANSWER, answers), min_size=1, max_size=2),
    st.sampled_from([ACCOUNT, "", "210987654321", "12345678901x"]),
)
def test_any_answer_of_ecr(pages: list[Any], account: str) -> None:
    def read() -> Inventory:
        # botocore gives an operation a dictionary, whatever the body was.
        parsed = [parse_page(page if isinstance(page, dict) else {}) for page in pages]
        check_account(account or ACCOUNT, ACCOUNT)
        return Inventory(ACCOUNT, REGION, merge_pages(parsed))

    present = ours(read, InventoryFailed)
    if present is None:
        return
    names = [each.name for each in present.repositories]
    assert names == sorted(set(names))
    assert present.fingerprint.startswith("sha256:")
    assert all(
        each.created_at is None or each.created_at.tzinfo is UTC for each in present.repositories
    )
    governed = catalog(entry(name) for name in {*NAMES, *names})
    found = reconcile(governed, present)
    assert all(is_one_line(each.message) for each in found.findings)
    assert_plan_is_safe(governed, present, None)
    assert_plan_is_safe(governed, present, published(*NAMES))


# What is published

BEFORE: Final = published(*NAMES)
BEFORE_TREE: Final = yaml.safe_load(BEFORE)


@st.composite
def entities(draw: st.DrawFn) -> bytes:
    """A published file that somebody tampered with: as a tree, or as text."""
    if draw(st.booleans()):
        tree = draw(mutations(BEFORE_TREE, values))
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    return draw(texts(BEFORE.decode())).encode("utf-8", "replace")


@examples(PUBLISHED)
@given(st.one_of(entities(), entities(), some_bytes))
@example(b"")
@example(BEFORE.replace(b"'2026-01-09T23:03:13Z'", b'"\\e[31m\\n"'))
@example(BEFORE.replace(b"2026-01-09T23:03:13Z", b"0001-01-01T00:00:00+14:00"))
@example(BEFORE.replace(b"2026-01-09T23:03:13Z", b"9999-12-31T23:59:59-12:00"))
@example(b"kind: Resource\nmetadata:\n  name: goldenpath-ecr-registry\nspec: {repositories: 1}")
def test_any_published_file(content: bytes) -> None:
    planned = ours(
        lambda: plan(live_registry(*NAMES), inventory(NAMES), published=content), TargetRefused
    )
    if planned is None:
        return
    assert_publishable(planned)
    assert is_one_line(planned.last_good)
    for each in planned.differences:
        assert isinstance(each.field, str)
        assert each.old is None or isinstance(each.old, str)
    # What was tampered with never passes for what should be there.
    if planned.unchanged:
        assert content_digest(yaml.load(content, yaml.CSafeLoader)) == DIGEST
    if planned.published_digest != planned.digest:
        assert not planned.unchanged


# Answers of Backstage

SERVED_TREE: Final = {
    **BEFORE_TREE,
    "metadata": {
        **BEFORE_TREE["metadata"],
        "uid": "7f3a",
        "annotations": {
            **BEFORE_TREE["metadata"]["annotations"],
            "backstage.io/managed-by-location": "url:https://git.example.com/catalog.yaml",
        },
    },
    "relations": [{"type": "ownedBy", "targetRef": "group:default/platform-team"}],
    "status": {"items": [{"level": "error", "error": {"message": "odd"}}]},
}
DIGEST: Final = content_digest(BEFORE_TREE)
odd_json = st.one_of(values, st.sampled_from(["\ud800", float("nan"), 10**400, "\x1b[2J"]))


@examples(SERVED)
@given(mutations(SERVED_TREE, odd_json))
@example(SERVED_TREE)
def test_any_entity_that_backstage_serves(tree: Any) -> None:
    served = backstage._object(json.dumps(tree).encode())
    assert served is None or isinstance(served, dict)
    present = inventory(NAMES)
    planned = plan(live_registry(*NAMES), present, published=BEFORE)
    for verdict in (judge(DIGEST, served), judge_plan(planned, served)):
        assert is_one_line(verdict.reason)
        assert len(verdict.reason) < 2_000
        assert verdict.parity is (served is not None and content_digest(served) == DIGEST)


@given(st.one_of(st.binary(max_size=100), st.sampled_from([b"[" * 10**5, b'{"a":' * 10**5])))
@example(b"9" * 5_000)
@example(b'{"a":' * 99 + b"1" + b"}" * 99)
@example(b'{"a":' * 101 + b"1" + b"}" * 101)
def test_any_body_of_backstage_is_an_entity_or_none(body: bytes) -> None:
    entity = backstage._object(body)
    assert entity is None or content_digest(entity).startswith("sha256:")


def test_an_entity_nests_as_deep_as_the_limit_and_no_deeper() -> None:
    deep = b'{"a":' * backstage.MAX_DEPTH + b"1" + b"}" * backstage.MAX_DEPTH
    assert backstage._object(deep) is not None
    assert backstage._object(b'{"a":' + deep + b"}") is None


def test_the_good_examples_are_good() -> None:
    """Mutations of something that was refused anyway would prove nothing."""
    governed = parse_governance(GOOD_TEXT.encode())
    present = Inventory(ACCOUNT, REGION, merge_pages([parse_page(ANSWER)]))
    planned = plan(reconcile(governed, present), present)
    assert_publishable(planned)
    assert {
        each["name"] for each in yaml.safe_load(planned.content)["spec"]["repositories"]
    } == set(NAMES)
    assert [each.rule for each in governed.findings] == ["status-unknown"]
    assert judge(DIGEST, SERVED_TREE).parity
    assert all(is_repository_name(name) for name in NAMES)
    assert rendered(entity_of(live_registry(*NAMES))) == BEFORE
    assert build_entity(
        IDENTITY, live_registry(*NAMES), account_id=ACCOUNT, region=REGION
    ) == entity_of(live_registry(*NAMES))
    assert SHA.encode() in BEFORE
