from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core import entity as entities
from ecr_catalog_pipeline.core.entity import (
    CONTENT_DIGEST,
    LAST_SYNC,
    SOURCE_SHA,
    PublishedEntity,
    check_entity,
    content_digest,
    read_published,
    same_content,
)
from ecr_catalog_pipeline.core.errors import GovernanceRefused, TargetRefused
from ecr_catalog_pipeline.core.governance import (
    Catalog,
    Entry,
    Status,
    is_repository_name,
    parse_governance,
)
from ecr_catalog_pipeline.core.guard import RemovalLimits, Removals, reasons_to_hold
from ecr_catalog_pipeline.core.inventory import Inventory, merge_pages
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, State, reconcile
from ecr_catalog_pipeline.core.strict_yaml import as_backstage_reads, parse_documents
from ecr_catalog_pipeline.core.text import clean_text
from tests.unit.builders import (
    ACCOUNT,
    IDENTITY,
    NOW,
    OTHER_SHA,
    REGION,
    catalog,
    desired_of,
    entity_of,
    entry,
    inventory,
    plan,
    published,
    rendered,
)

SPECIAL = [
    *("no", "012", "1e3", "~", "null", "true", "<<", "=", "2026-01-09", "12:30", ".inf", "0x1f"),
    *("<", ">", "&", "&amp;", "<script>alert(1)</script>", "[x](http://y)", "**", "__", "`", "~~"),
    *("$", "$text", "${x}", "{{x}}", "{", "}", "[", "]", ",", ": ", " #", "- ", "? ", "| ", "> "),
    *(
        "'",
        '"',
        "\\",
        "\\n",
        "%",
        "@",
        "!",
        "!!int ",
        "*a",
        "&a ",
        "---",
        "...",
        "\t",
        "\n",
        "\r\n",
    ),
    *("\n    - pwned", "\n---\n", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029"),
    *(
        "\ufeff",
        "\ufffe",
        "\uffff",
        "\u200b",
        "\u202e",
        "\u00a0",
        "é",
        "日本",
        "😀",
        "\U0010ffff",
        "…",
    ),
]
user_text = st.one_of(
    st.text(),
    st.lists(st.sampled_from(SPECIAL)).map("".join),
    st.lists(st.one_of(st.text(max_size=3), st.sampled_from(SPECIAL))).map("".join),
    st.sampled_from(SPECIAL).map(lambda text: text * 5_000),
)
maybe_text = st.none() | user_text
part = st.from_regex(r"[a-z0-9]{2,6}", fullmatch=True)
ecr_names = st.one_of(
    part,
    st.lists(part, min_size=2, max_size=4).map("/".join),
    st.sampled_from(["no", "012", "1e3"]),
)
any_names = st.one_of(ecr_names, ecr_names, ecr_names, user_text)
statuses = st.sampled_from([*Status, None])


few_names = st.sampled_from(["ab", "cd", "team/ab", "no", "Not_A_Name", "-"])


@st.composite
def small_worlds(draw: st.DrawFn) -> tuple[Catalog, Inventory]:
    """So few names and texts that two worlds are often alike."""
    governed = draw(st.dictionaries(few_names, statuses))
    present = draw(st.sets(few_names.filter(is_repository_name)))
    entries = [entry(name, status=status) for name, status in governed.items()]
    return catalog(entries), inventory(present)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Catalog, Inventory]:
    """Any governance with any text in it, beside any inventory that AWS could have."""
    governed = draw(st.lists(any_names, unique=True, max_size=4))
    entries = [
        Entry(
            name,
            owner=draw(maybe_text),
            risk=draw(maybe_text),
            environment=draw(maybe_text),
            status=draw(statuses),
            created_date=draw(maybe_text),
        )
        for name in governed
    ]
    possible = filter(is_repository_name, governed)
    present = {name for name in possible if draw(st.booleans())}
    present |= draw(st.sets(ecr_names, max_size=2))
    return catalog(entries), inventory(present)


def expected_state(entry: Entry | None, name: str, *, present: bool) -> str:
    """The table of section 2 of the design, on its own."""
    if entry is None:
        return "orphan"
    if not is_repository_name(name):
        return "ghost"
    when_present, when_absent = {
        "pending": ("live", "pending"),
        "active": ("live", "ghost"),
        "deprecated": ("live", "ghost"),
        "decommissioned": ("lingering", "retired"),
        None: ("live", "ghost"),
    }[entry.status]
    return when_present if present else when_absent


@given(small_worlds())
def test_every_repository_has_exactly_one_state(world: tuple[Catalog, Inventory]) -> None:
    governed = {each.name: each for each in world[0].entries}
    present = {each.name for each in world[1].repositories}

    found = reconcile(*world)

    assert [each.name for each in found.repositories] == sorted(governed.keys() | present)
    for each in found.repositories:
        is_present = each.name in present
        expected = expected_state(governed.get(each.name), each.name, present=is_present)
        assert each.state == expected
    assert sum(found.counts().values()) == len(found.repositories)
    assert sorted(each.name for state in State for each in found.in_state(state)) == [
        each.name for each in found.repositories
    ]


@given(small_worlds())
def test_what_is_live_is_governed_and_present(world: tuple[Catalog, Inventory]) -> None:
    governed = {each.name for each in world[0].entries}
    present = {each.name for each in world[1].repositories}

    live = {each.name for each in reconcile(*world).in_state(State.LIVE)}

    assert live <= governed & present


@given(worlds(), st.data())
def test_the_order_of_what_was_read_never_changes_the_bytes(
    world: tuple[Catalog, Inventory], data: st.DataObject
) -> None:
    entries, repositories = list(world[0].entries), list(world[1].repositories)
    entries = data.draw(st.permutations(entries))
    repositories = data.draw(st.permutations(repositories))
    cut = data.draw(st.integers(min_value=0, max_value=len(repositories)))
    # An eventually consistent listing may give a repository on two pages.
    pages = [repositories[:cut], repositories[max(cut - 1, 0) :]]
    shuffled = Inventory(ACCOUNT, REGION, merge_pages(pages))

    bytes_then = rendered(entity_of(reconcile(Catalog(tuple(entries), ()), shuffled)))

    assert bytes_then == rendered(entity_of(reconcile(*world)))
    assert shuffled.fingerprint == world[1].fingerprint


@given(st.dictionaries(ecr_names, statuses, min_size=1, max_size=5), st.data())
def test_the_order_of_the_governance_file_never_changes_the_bytes(
    governed: dict[str, Status | None], data: st.DataObject
) -> None:
    def bytes_of(names: list[str]) -> bytes:
        repositories = {
            name: {"metadata": {"owner": name, "status": governed[name]}} for name in names
        }
        # JSON is YAML.
        content = json.dumps({"repositories": repositories}).encode()
        return rendered(entity_of(reconcile(parse_governance(content), inventory(present))))

    present = data.draw(st.sets(st.sampled_from(sorted(governed))))
    shuffled = data.draw(st.permutations(list(governed)))

    assert bytes_of(shuffled) == bytes_of(list(governed))


def content_of(read: Any) -> Any:
    """What was parsed from a file, without the three annotations that are no content."""
    annotations = read["metadata"]["annotations"]
    for key in (CONTENT_DIGEST, LAST_SYNC, SOURCE_SHA):
        del annotations[key]
    return read


LINE_KEYS = {
    "repositories": ["name", "owner", "risk", "environment", "status", "uri"],
    "pending": ["name", "owner", "risk", "environment", "requested"],
}


def unescaped(line: str) -> Iterator[str]:
    """The characters of a Markdown line that no backslash precedes."""
    return (match[0] for match in re.finditer(r"\\.|.", line) if not match[0].startswith("\\"))


@given(worlds())
def test_any_text_gives_a_valid_entity_that_is_read_as_it_was_meant(
    world: tuple[Catalog, Inventory],
) -> None:
    entity = entity_of(reconcile(*world))
    content = rendered(entity)

    check_entity(entity)
    assert content_of(yaml.safe_load(content)) == entity
    (document,) = parse_documents(content.decode(), scalar=as_backstage_reads)
    assert content_digest(document.value) == content_digest(entity)
    assert content_of(document.value) == entity


@given(worlds())
def test_no_text_breaks_out_of_its_field(world: tuple[Catalog, Inventory]) -> None:
    found = reconcile(*world)

    content = rendered(entity_of(found))
    read = yaml.safe_load(content)

    assert list(read) == ["apiVersion", "kind", "metadata", "spec"]
    assert list(read["spec"]) == ["type", "owner", "system", "repositories", "pending"]
    assert len(read["metadata"]["annotations"]) == 7
    for key, state in (("repositories", State.LIVE), ("pending", State.PENDING)):
        lines = read["spec"][key]
        assert [line["name"] for line in lines] == [each.name for each in found.in_state(state)]
        for line in lines:
            assert list(line) == [known for known in LINE_KEYS[key] if known in line]
            assert all(value and isinstance(value, str) for value in line.values())
    # One line a repository, link and bullet, and as many around them whatever the text.
    listed = len(found.in_state(State.LIVE)) + len(found.in_state(State.PENDING))
    entries = [line for line in content.split(b"\n") if line.startswith(b"    - {")]
    assert len(entries) == listed + len(read["metadata"]["links"])


@given(worlds())
def test_the_description_has_one_bullet_a_live_repository_and_no_markup(
    world: tuple[Catalog, Inventory],
) -> None:
    found = reconcile(*world)
    live = found.in_state(State.LIVE)

    head, *rest = entity_of(found)["metadata"]["description"].split("\n")

    assert head.startswith(f"Master AWS ECR Registry. Manages {len(live)} ")
    assert len(rest) == (len(live) + 1 if live else 0)
    for line, each in zip(rest[1:], live, strict=False):
        assert line.startswith(f"- {each.name} (")
        assert line.endswith(")")
        inner = line.removeprefix(f"- {each.name} (").removesuffix(")")
        assert not set(unescaped(inner)) & set("<>[]()`*~&|!#$\\")


@given(
    st.text(
        st.characters(min_codepoint=0x20, max_codepoint=0x2FFF, categories=["L", "N", "P", "S"]),
        min_size=1,
        max_size=256,
    )
)
def test_a_line_of_printable_text_is_carried_as_it_is(text: str) -> None:
    governed = entry("ab", owner=text, risk=text, environment=text)

    content = rendered(entity_of(reconcile(catalog([governed]), inventory(["ab"]))))

    (line,) = yaml.safe_load(content)["spec"]["repositories"]
    assert (line["owner"], line["risk"], line["environment"]) == (text, text, text)


lines_of_text = user_text.map(clean_text).filter(bool)


@given(lines_of_text, lines_of_text, lines_of_text)
def test_any_line_of_text_in_the_identity_is_read_as_it_was_meant(
    title: str, owner: str, system: str
) -> None:
    identity = replace(IDENTITY, title=title, owner=owner, system=system)

    entity = entity_of(ReconciledRegistry((), ()), identity=identity)

    assert identity.problems() == []
    check_entity(entity)
    assert content_of(yaml.safe_load(rendered(entity))) == entity


@given(worlds(), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_a_second_look_at_the_same_world_writes_nothing(
    world: tuple[Catalog, Inventory], later: datetime
) -> None:
    first = plan(reconcile(*world), world[1])

    second = plan(
        reconcile(*world),
        world[1],
        published=first.content,
        source_sha="f" * 40,
        now=later.replace(tzinfo=UTC),
    )

    assert second.unchanged
    assert not second.held
    assert not any((second.changes.added, second.changes.removed, second.changes.updated))
    assert second.digest == second.published_digest == first.digest


@given(*[small_worlds()] * 4)
def test_two_plans_have_one_hash_just_when_both_their_sides_are_the_same(
    before: tuple[Catalog, Inventory],
    after: tuple[Catalog, Inventory],
    other_before: tuple[Catalog, Inventory],
    other_after: tuple[Catalog, Inventory],
) -> None:
    then, now, other_then, other_now = (
        rendered(entity_of(reconcile(*world)))
        for world in (before, after, other_before, other_after)
    )

    one = plan(reconcile(*after), after[1], published=then)
    two = plan(reconcile(*other_after), other_after[1], published=other_then)

    are_the_same = (then, now) == (other_then, other_now)
    assert (one.plan_hash == two.plan_hash) is are_the_same


PUBLISHED = published("ab", "cd", environment="dev")
MOVING = re.compile(
    r"    platform/(?:last-sync: '\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ'"
    r"|source-sha: '(?:[0-9a-f]{40}|[0-9a-f]{64})')"
)


@given(
    st.integers(min_value=0, max_value=PUBLISHED.count(b"\n") - 1),
    st.one_of(
        st.text(alphabet=st.characters(exclude_characters="\n", codec="utf-8")),
        st.sampled_from(PUBLISHED.decode().splitlines()),
        st.sampled_from(["last-sync", "source-sha"]),
    ),
)
def test_any_line_changed_is_a_difference_but_for_a_new_time_and_a_new_commit(
    number: int, instead: str
) -> None:
    lines = PUBLISHED.decode().split("\n")
    before = lines[number]
    lines[number] = instead

    same = same_content("\n".join(lines).encode(), PUBLISHED)

    a_new_value = (
        MOVING.fullmatch(before) is not None
        and MOVING.fullmatch(instead) is not None
        and before.partition(":")[0] == instead.partition(":")[0]
    )
    assert same is (instead == before or a_new_value)


TOKENS = [
    *(
        "repositories:",
        "registries:",
        "metadata:",
        "spec:",
        "kind: Resource\n",
        "name: ",
        "status: ",
    ),
    *("  name: goldenpath-ecr-registry\n", "ab", "active", "é", "😀", "~", "null", "12", "1e99"),
    *("\n", "\n  ", "\n    ", "\r\n", "\r", "\t", " ", "- ", "? ", ": ", ", ", "{", "}", "[", "]"),
    *("&a ", "*a", "&b ", "*b", "<<: ", "!!str ", "!!int ", "!x ", "!<y> ", "!%41 ", "!%C0%80 "),
    *("'", '"', "|", "|-\n", ">+2\n", "---", "\n---\n", "...", "%YAML 1.1\n", "%YAML 2\n", "%TAG "),
    *("#", "\\x41", "\\uD800", "\x00", "\x07", "\x85", "\u2028", "\ufeff", "%", "@", "`"),
]
soup = st.lists(st.sampled_from(TOKENS)).map(lambda tokens: "".join(tokens).encode())
any_bytes = st.one_of(
    st.binary(),
    soup,
    st.builds(lambda tail: b"repositories:\n  ab: " + tail, soup),
    st.builds(lambda tail: b"kind: Resource\nmetadata:\n  name: " + tail, soup),
    st.builds(lambda cut, tail: PUBLISHED[:cut] + tail, st.integers(0, len(PUBLISHED)), soup),
)


any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["active", "low", "Ünknown", ""]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["metadata", "aws", "governance", "id", "owner", "status", "x", ""]),
            inner,
            max_size=5,
        ),
    ),
)


@given(st.dictionaries(few_names, any_value))
def test_an_entry_of_any_shape_is_kept(repositories: dict[str, object]) -> None:
    content = json.dumps({"repositories": repositories}, ensure_ascii=False).encode()

    found = parse_governance(content)

    assert [each.name for each in found.entries] == sorted(repositories)
    assert {each.repository for each in found.findings} <= {"", *repositories}


def read_governance(content: bytes) -> Catalog | GovernanceRefused:
    try:
        return parse_governance(content)
    except GovernanceRefused as refused:
        return refused


@given(any_bytes)
@example(b"\xff\xfe\x00")
@example(b"\x00")
@example(b"repositories:")
@example(b"repositories: {ab: &a [*a]}")
def test_any_bytes_are_a_catalog_or_refused_with_their_place(content: bytes) -> None:
    read = read_governance(content)

    if isinstance(read, Catalog):
        names = [each.name for each in read.entries]
        assert names == sorted(set(names))
        check_entity(entity_of(reconcile(read, inventory(filter(is_repository_name, names)))))
    else:
        lines = content.decode("utf-8", "replace").splitlines()
        assert 1 <= read.line <= len(lines) + 1
        assert read.column >= 1
        assert read.problem.startswith(f"ecr-catalog.yaml:{read.line}:{read.column}: ")


@given(any_bytes)
@example(PUBLISHED)
@example(PUBLISHED + b"}{")
@example(b"")
def test_any_published_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(TargetRefused):
        found = read_published(content, IDENTITY)
        assert isinstance(found, PublishedEntity)
        assert found.digest.startswith("sha256:")


@given(worlds())
def test_what_we_rendered_is_read_line_by_line_just_as_yaml_says(
    world: tuple[Catalog, Inventory],
) -> None:
    content = rendered(entity_of(reconcile(*world)))

    by_lines = entities._as_rendered(content)

    assert by_lines is not None
    assert by_lines == entities._as_yaml(content)


@st.composite
def tampered(draw: st.DrawFn) -> bytes:
    """A file of ours in which someone has replaced, moved, doubled or inserted something."""
    lines = rendered(entity_of(reconcile(*draw(small_worlds())))).decode().split("\n")
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        line = lines[place]
        cut = draw(st.integers(0, len(line)))
        token = draw(st.sampled_from([*TOKENS, *SPECIAL, *lines]))
        lines[place : place + 1] = draw(
            st.sampled_from(
                [
                    [],
                    [line, line],
                    [token],
                    [line, token],
                    [line[:cut] + token + line[cut:]],
                    [line[:cut] + token],
                    [*lines[place + 1 : place + 2], line],
                ]
            )
        )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


SWALLOWED = b"zzz: |\n  text\n"
HEAD, _, LISTS = PUBLISHED.partition(b"  repositories:\n")
NONE_LISTED = HEAD + b"  repositories: []\n  pending: []\n"


@given(tampered())
@example(NONE_LISTED + SWALLOWED + b"  repositories:\n" + LISTS)
@example(HEAD + b"  more: |\n" + b"  repositories:\n" + LISTS)
@example(HEAD + b"  more: {a: b,\n" + b"  repositories:\n" + LISTS)
@example(PUBLISHED.replace(b"owner: platform-team, risk", b"owner: platform-team, owner: x, risk"))
@example(PUBLISHED.replace(b"status: active", b"status: no"))
@example(PUBLISHED.replace(b"status: active", b'status: "\\u0041"'))
@example(PUBLISHED.replace(b"status: active", 'status: "a\x85b"'.encode()))
@example(PUBLISHED.replace(b"status: active", 'status: "a\u2028 b"'.encode()))
@example(PUBLISHED.replace(b"status: active", b"status: *a"))
@example(PUBLISHED.replace(b"{name", b"&a {name"))
@example(PUBLISHED.replace(b"name: ab", b"name: 12"))
@example(PUBLISHED.replace(b"\n", b"\r\n"))
@example(PUBLISHED + b"---\n")
@example(PUBLISHED + b"\n")
@example(b"\xef\xbb\xbf" + PUBLISHED)
def test_a_file_that_is_read_line_by_line_never_says_anything_else_as_yaml(content: bytes) -> None:
    by_lines = entities._as_rendered(content)

    assert by_lines is None or by_lines == entities._as_yaml(content)


@given(worlds())
def test_a_file_that_says_what_it_should_is_known_without_being_parsed(
    world: tuple[Catalog, Inventory],
) -> None:
    registry = reconcile(*world)
    desired = desired_of(registry, world[1])
    earlier = rendered(entity_of(registry), sha=OTHER_SHA, at=NOW - timedelta(days=3))

    assert desired.is_in(earlier)
    assert desired.read_in(earlier) == read_published(earlier, IDENTITY)


@given(
    listed=st.integers(min_value=0, max_value=60),
    removed=st.integers(min_value=0, max_value=60),
    unproved=st.integers(min_value=0, max_value=3),
    max_removals=st.integers(min_value=0, max_value=60),
    percent=st.integers(min_value=0, max_value=100),
)
def test_the_guard_holds_just_what_the_design_says(
    listed: int, removed: int, unproved: int, max_removals: int, percent: int
) -> None:
    removed = min(removed, listed)
    names = [f"repo-{number}" for number in range(removed)]
    removals = Removals(listed=listed, removed=names, unproved=names[:unproved])

    held = bool(reasons_to_hold(removals, RemovalLimits(max_removals, percent)))

    assert held is (
        removed > max_removals
        or (removed >= 3 and Fraction(removed, listed) > Fraction(percent, 100))
        or (removed > 0 and removed == listed)
        or min(unproved, removed) > 0
    )


@given(small_worlds(), small_worlds())
def test_the_fingerprint_is_the_same_just_when_the_registry_is(
    one: tuple[Catalog, Inventory], two: tuple[Catalog, Inventory]
) -> None:
    assert (one[1].fingerprint == two[1].fingerprint) is (one[1] == two[1])
