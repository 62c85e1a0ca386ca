"""The comment on a pull request: what it says, that it fits, and that it shows text as text."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ecr_catalog_pipeline.core.errors import GovernanceRefused, InventoryFailed
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.governance import Status, parse_governance
from ecr_catalog_pipeline.core.guard import RemovalLimits
from ecr_catalog_pipeline.core.plan_comment import (
    MAX_COMMENT,
    Proposal,
    comment_on,
    comment_on_failure,
    comment_on_refused,
    marker,
)
from ecr_catalog_pipeline.core.reconcile import ReconciledRegistry, reconcile
from ecr_catalog_pipeline.core.text import shortened, unlinked, visible
from tests.unit.builders import DATA, catalog, entity_of, entry, inventory, plan, published
from tests.unit.builders import rendered as rendered_entity

EXAMPLE: Final = DATA / "plan-comment.md"
PATH: Final = "catalogs/ecr-catalog.yaml"
HOSTILE: Final = (
    "@team",
    "jo@example.com",
    "https://evil.example",
    "www.evil.example",
    "<img src=x onerror=alert(1)>",
    "<!-- ecr-catalog:plan:goldenpath -->",
    "</code>",
    "[x](https://evil.example)",
    "![x](y)",
    "| a | b |",
    "\\|",
    "`",
    "``|`",
    "\n\n# Heading",
    "\r\n- item",
    "&lt;b&gt;",
    "&#64;team",
    "#12",
    "\u202e",
    "~~~",
    "*bold*",
    "$x$",
    ":tada:",
    "\x1b[2J",
)
hostile = st.lists(
    st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    min_size=1,
    max_size=5,
).map("".join)


def proposal(
    before: ReconciledRegistry | None, after: ReconciledRegistry, **changes: Any
) -> Proposal:
    content = changes.pop("published", published("team/kept"))
    limits = changes.pop("limits", RemovalLimits())
    present = inventory(each.name for each in after.repositories if each.uri is not None)
    of = plan(after, present, published=content, limits=limits)
    return Proposal("goldenpath", PATH, "main", before, after, of, **changes)


def rendered(comment: str) -> list[Token]:
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return markdown.parse(comment)


def inline(comment: str) -> list[Token]:
    return [child for token in rendered(comment) for child in token.children or ()]


def cells(comment: str) -> list[str]:
    """The text of every cell, with code as it is shown."""
    tokens = rendered(comment)
    return [
        "".join(child.content for child in token.children or () if child.type != "html_inline")
        for place, token in enumerate(tokens)
        if token.type == "inline" and tokens[place - 1].type in {"td_open", "th_open"}
    ]


def assert_is_text(comment: str) -> None:
    """No link, no image, no mention outside code, no HTML but our own."""
    for token in rendered(comment):
        if token.type == "html_block":
            assert token.content.strip() == marker("goldenpath")
    in_code = False
    for token in inline(comment):
        assert token.type in {
            "text",
            "code_inline",
            "html_inline",
            "softbreak",
            "strong_open",
            "strong_close",
        }, token
        if token.type == "html_inline":
            assert token.content in {"<code>", "</code>", "<sub>", "</sub>"}
            in_code = token.content == "<code>"
        elif token.type == "text":
            assert "@" not in token.content
            assert not re.search(r"://|\bwww\.", token.content, re.IGNORECASE)
            assert in_code or not re.search(r"#\d", token.content)
    assert not in_code
    assert visible(comment.replace("\n", " ")) == comment.replace("\n", " ")


def test_it_says_what_appears_disappears_changes_and_what_else_changes_its_state() -> None:
    present = inventory(["team/gone", "team/kept", "team/new"])
    before = reconcile(catalog([entry("team/gone"), entry("team/kept")]), present)
    proposed = [
        entry("team/gone", status=Status.DECOMMISSIONED),
        entry("team/kept", owner="app-team"),
        entry("team/new"),
        entry("team/wanted", status=Status.PENDING),
        entry("team/ghost"),
    ]
    after = reconcile(catalog(proposed), present)

    said = comment_on(proposal(before, after, published=published("team/gone", "team/kept")))

    assert said.startswith(f"{marker('goldenpath')}\n### Container registry `goldenpath`")
    assert "**1 disappears, 2 appear, 1 changes, 1 other change of state.**" in said
    assert "would list 2 live repositories: 1 added, 1 updated, 1 removed." in said
    assert "not published yet" not in said
    for row in (
        "| `team/gone` | `platform-team` | lingering: decommissioned, but still in AWS: never",
        "| `team/new` | live | `platform-team` | `low` | - | orphan |",
        "| `team/wanted` | pending | `platform-team` | `low` | - | new |",
        "| `team/kept` | owner: `platform-team` → `app-team` |",
        "| `team/ghost` | - | ghost: governed, but not in AWS: never published |",
    ):
        assert row in said
    assert_is_text(said)


def test_the_comment_of_the_documentation_is_one_of_ours() -> None:
    present = inventory(["payments/gateway", "shop/cart", "shop/legacy-cart", "shop/search"])
    governed = [
        entry("payments/gateway", owner="app-team-payments", risk="high", environment="prod"),
        entry("payments/invoice-archive", owner="app-team-payments"),
        entry("shop/cart", owner="app-team-shop"),
        entry("shop/legacy-cart", owner="app-team-shop"),
    ]
    proposed = [
        governed[0],
        replace(governed[2], owner="app-team-checkout", risk="medium"),
        replace(governed[3], status=Status.DECOMMISSIONED),
        entry("shop/search", owner="app-team-shop", environment="prod"),
        entry("shop/vouchers", owner="app-team-shop", status=Status.PENDING),
        entry("shop/wishlist", owner="app-team-shop"),
    ]
    before = reconcile(catalog(governed), present)
    after = reconcile(catalog(proposed), present)
    gone = Finding(
        "shop/legacy-cart",
        "image-scanning-off",
        Severity.WARNING,
        "governance wants on-push, ECR scans off",
        "Turn on scanning of the registry.",
        "ECR.1",
    )
    new = Finding(
        "shop/search", "id-missing", Severity.WARNING, "metadata.id is missing", "Add an id."
    )
    listed = rendered_entity(entity_of(before))
    limits = RemovalLimits(max_removals=0)

    said = comment_on(
        proposal(
            replace(before, findings=(gone,)),
            replace(after, findings=(new,)),
            published=listed,
            limits=limits,
        )
    )

    if os.environ.get("ECR_CATALOG_WRITE_TRANSCRIPT"):
        EXAMPLE.write_text(said, encoding="utf-8")
    assert said == EXAMPLE.read_text(encoding="utf-8")
    assert_is_text(said)


def test_a_file_that_changes_nothing_says_so() -> None:
    registry = reconcile(catalog([entry("team/kept")]), inventory(["team/kept"]))

    said = comment_on(proposal(registry, registry))

    assert "**It changes nothing.**" in said
    assert "nothing would be published" in said
    assert "####" not in said


def test_new_findings_and_those_that_go_are_listed_with_what_to_do() -> None:
    def registry(owner: str, name: str) -> ReconciledRegistry:
        text = (
            'version: "1.0"\nrepositories:\n  team/kept:\n    metadata: '
            f"{{id: REGISTRY_KEPT, {owner} risk: low, status: active, {name}: x}}\n"
        )
        return reconcile(parse_governance(text.encode()), inventory(["team/kept"]))

    said = comment_on(proposal(registry("owner: jo,", "odd"), registry("", "requested_by")))

    assert "**1 changes, 1 new finding, 1 finding goes.**" in said
    missing = "| error | `team/kept` | metadata.owner is missing `owner-missing` | Name the team"
    assert missing in said
    assert "#### Findings that go (1)" in said
    assert "`key-unknown`" in said


def test_what_is_newly_excepted_is_listed_and_a_control_is_named() -> None:
    finding = Finding(
        "team/kept", "image-scanning-off", Severity.ERROR, "off", "Turn it on.", "ECR.1"
    )
    before = ReconciledRegistry((), (finding,))
    after = ReconciledRegistry((), (), (finding,))

    said = comment_on(proposal(before, after))

    assert "1 newly excepted, 1 finding goes" in said
    assert "#### Newly excepted (1)" in said
    assert "off `image-scanning-off` (ECR.1) | Turn it on. |" in said


def test_a_held_plan_says_why_and_whether_the_branch_is_held_already() -> None:
    present = inventory(["team/kept"])
    registry = reconcile(catalog([entry("team/kept")]), present)
    empty = reconcile(catalog([]), present)

    said = comment_on(proposal(registry, empty))
    already = comment_on(proposal(registry, empty, held_before=True))

    assert "**It would be held for approval** by the removal guard:\n\n- nothing that is" in said
    assert "**It would be held for approval**, as the plan of `main` already is:" in already
    assert "| `team/kept` | `platform-team` | orphan: in AWS, but not governed" in said


def test_changes_of_the_branch_that_wait_are_distinguished() -> None:
    registry = reconcile(
        catalog([entry("team/kept"), entry("team/other")]), inventory(["team/kept", "team/other"])
    )
    said = comment_on(proposal(registry, registry))
    assert "**It changes nothing.**" in said
    assert "includes changes of `main` or AWS that are not published yet" in said


def test_where_the_tip_cannot_be_used_everything_counts_as_new() -> None:
    registry = reconcile(catalog([entry("team/kept")]), inventory(["team/kept"]))

    said = comment_on(proposal(None, registry, problem="x.yaml:1:2: @team broke <b>it</b>"))

    assert "The file on `main` cannot be used" in said
    assert "**1 appears.**" in said
    assert_is_text(said)


def refused(content: bytes) -> GovernanceRefused:
    try:
        parse_governance(content, path="here/file.yaml")
    except GovernanceRefused as error:
        return error
    raise AssertionError(content)


def test_a_broken_file_is_shown_with_its_line() -> None:
    content = b'version: "1.0"\nrepositories:\n  a:\n    x: 1\n  b: {}\n  a: {}\n# end\n'

    said = comment_on_refused("goldenpath", PATH, refused(content), content)

    assert "`catalogs/ecr-catalog.yaml:6:3`: the key 'a' " in said
    shown = said.split("````text\n")[1].split("\n````")[0].splitlines()
    assert shown == [
        "  4 |     x: 1",
        "  5 |   b: {}",
        "> 6 |   a: {}",
        "    |   ^",
        "  7 | # end",
        "  8 | ",
    ]


@settings(deadline=None)
@given(before=hostile, after=hostile)
def test_a_broken_file_cannot_leave_its_code_block(before: str, after: str) -> None:
    content = f"{before}\n````\n{after}\nrepositories: [\n".encode()
    error = refused(content)

    said = comment_on_refused("goldenpath", PATH, error, content)

    fences = [token for token in rendered(said) if token.type == "fence"]
    assert len(fences) == 1
    assert all(line[:1] in {">", " "} for line in fences[0].content.splitlines())
    assert_is_text(said)


@settings(deadline=None)
@given(problem=hostile)
def test_an_error_is_reported_as_text(problem: str) -> None:
    said = comment_on_failure("goldenpath", InventoryFailed(problem, remediation=problem))
    assert said.startswith(marker("goldenpath"))
    assert_is_text(said)


@settings(deadline=None, max_examples=40)
@given(name=hostile, owner=hostile, environment=hostile, message=hostile)
def test_text_of_others_is_shown_as_text(
    name: str, owner: str, environment: str, message: str
) -> None:
    present = inventory(["team/kept"])
    old = entry("team/kept", owner="before")
    changed = [replace(old, owner=owner, environment=environment), entry(name, owner=owner)]
    before = reconcile(catalog([old]), present)
    after = reconcile(catalog({each.name: each for each in changed}.values()), present)
    finding = Finding(name, "a-rule", Severity.WARNING, message, message)
    after = replace(after, findings=(finding,))

    said = comment_on(proposal(before, after))

    assert_is_text(said)
    shown, wanted = cells(said), shortened(name, 100)
    assert wanted in shown or unlinked(wanted) in shown or not name


@pytest.mark.parametrize(("count", "text"), [(300, "x"), (300, "|<@"), (2_000, "`\n")])
def test_it_fits_whatever_it_holds(count: int, text: str) -> None:
    names = [f"team/app-{number}" for number in range(count)]
    before = reconcile(catalog([]), inventory([]))
    entries = [entry(name, owner=(text * 60)[:900]) for name in names]
    after = reconcile(catalog(entries), inventory(names))
    findings = tuple(
        Finding(name, "a-rule", Severity.ERROR, text * 40, text * 40) for name in names
    )

    said = comment_on(proposal(before, replace(after, findings=findings)))

    assert len(said) <= MAX_COMMENT
    assert f"#### Appear in Backstage ({count:,})" in said
    assert "more." in said or "Too long" in said
    assert_is_text(said)
