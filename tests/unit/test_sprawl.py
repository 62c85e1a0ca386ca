"""Ad-hoc ECR entities are found in every spelling that YAML has for them, at their line."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline.sprawl.ad_hoc import find_ad_hoc_entities, pieces

OURS: Final = "goldenpath-ecr-registry"


def found(text: str) -> list[tuple[int, int, str, str]]:
    inspection = find_ad_hoc_entities(text, {OURS})
    return [(each.line, each.column, each.name, each.type) for each in inspection.found]


def unparsed(text: str) -> list[int]:
    return [each.line for each in find_ad_hoc_entities(text, {OURS}).unparsed]


BLOCK: Final = "kind: Resource\nmetadata:\n  name: pay\nspec:\n  type: ecr-repository\n"
AS_JSON: Final = """\
{
\t"metadata": {"name": "pay"},
\t"kind": "Resource",
\t"spec": {"type": "ecr-repository"}
}
"""
ANCHORED: Final = """\
metadata: &m {name: pay}
spec: &s
  type: !!str ecr-repository
kind: !x 'Resource'
"""
MERGED: Final = """\
x: &base
  kind: Resource
  spec: {type: ecr-repository}
<<: *base
metadata: {name: pay}
"""


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (BLOCK, 1, 1),
        (f"# a licence\n\n---\n# more\n{BLOCK}", 5, 1),
        (f"\ufeff{BLOCK}", 1, 1),
        (f"# c\n---\n{BLOCK}".replace("\n", "\r\n"), 3, 1),
        (f"# c\n---\n{BLOCK}".replace("\n", "\r"), 3, 1),
        ("--- {kind: Resource, metadata: {name: pay}, spec: {type: ecr-repository}}", 1, 6),
        (AS_JSON, 3, 2),
        (AS_JSON.replace('"pay"', '"pay", "title": "\\ud83d\\ude00"'), 3, 2),
        (ANCHORED, 4, 1),
        (MERGED, 1, 1),
        (f"kind: Component\nspec:\n  text: |\n    a\n...\n# c\n%YAML 1.2\n---\n{BLOCK}", 9, 1),
        (f"kind: System\n...\n{BLOCK}", 3, 1),
        (BLOCK.replace("kind: Resource", '"kind": "\\x52esource"'), 1, 1),
    ],
    ids=[
        "block", "comments", "bom", "crlf", "cr", "on-the-marker", "json", "json-surrogates",
        "anchors-and-tags", "merged", "directive", "bare-after-end", "escaped",
    ],
)  # fmt: skip
def test_an_ad_hoc_entity_is_found_at_its_kind(text: str, line: int, column: int) -> None:
    assert found(text) == [(line, column, "pay", "ecr-repository")]
    assert unparsed(text) == []


@pytest.mark.parametrize(
    "text",
    [
        BLOCK.replace("ecr-repository", "database"),
        BLOCK.replace("ecr-repository", "ECR-Repository"),
        BLOCK.replace("ecr-repository", "[ecr-repository]"),
        BLOCK.replace("ecr-repository", "container-registry").replace("pay", OURS),
        *(BLOCK.replace("Resource", kind) for kind in ("Component", "API", "System", "Template")),
        BLOCK.replace("kind: Resource", "kind: resource"),
        "kind: Component\nspec:\n  example: |\n    " + BLOCK.replace("\n", "\n    "),
        "kind: Template\nspec:\n  - input:\n      " + BLOCK.replace("\n", "\n      "),
        "- kind: Resource\n  spec: {type: ecr-repository}\n",
        "kind: Resource\nspec: ecr-repository\n",
        "kind: Resource\n---\nspec: {type: ecr-repository}\n",
        "# kind: Resource\n# spec: {type: ecr-repository}\n",
        "", "---\n", "...\n", "\ufeff", "# only\n",
    ],
)  # fmt: skip
def test_what_is_none_is_not_found(text: str) -> None:
    assert found(text) == []
    assert unparsed(text) == []


@pytest.mark.parametrize(
    ("broken", "at"),
    [
        ("kind: Resource\nmetadata:\n  name: {{ cookiecutter.name }}\n", 3),
        ("{% if values.ecr %}\nkind: Resource\n", 1),
        ("kind: Resource\nkind: Resource\n", 2),
        ("a: *nowhere\n", 1),
        ("a: 'open\n", 1),
        ("\tkind: Resource\n", 1),
    ],
)
def test_a_document_that_cannot_be_parsed_hides_no_other(broken: str, at: int) -> None:
    text = f"{BLOCK}---\n{broken}---\n{BLOCK}"
    assert [each[0] for each in found(text)] == [1, 8 + broken.count("\n")]
    (place,) = unparsed(text)
    assert 6 + at <= place <= 7 + broken.count("\n")


def test_a_template_that_is_yaml_declares_what_it_says() -> None:
    skeleton = BLOCK.replace("pay", "${{ values.name }}")
    assert found(skeleton) == [(1, 1, "${{ values.name }}", "ecr-repository")]


LINES: Final = ("---", "--- ", "---\t# c", "...", "... # c", "a: 1", "  b", "# c", "%YAML 1.2", "")


@given(
    st.lists(st.sampled_from([*LINES, "----", "|"])),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_pieces_leave_no_gap_and_count_lines(lines: list[str], end: str, last: bool) -> None:
    text = end.join(lines) + (end if last else "")
    taken = list(pieces(text))

    assert "".join(text[each.start : each.end] for each in taken) == text
    for each in taken:
        assert each.line == 1 + text[: each.start].replace("\r\n", "\n").replace("\r", "\n").count(
            "\n"
        )
        if each.marker is not None:
            assert text.startswith("---", each.marker)
