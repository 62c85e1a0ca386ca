from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ecr_catalog_pipeline.core import strict_yaml
from ecr_catalog_pipeline.core.strict_yaml import (
    MAX_DEPTH,
    Limits,
    YamlFault,
    YamlTooLarge,
    as_backstage_reads,
    as_written,
    parse_documents,
)
from tests.unit.builders import ROOT


def value_of(text: str, **how: Any) -> Any:
    (document,) = parse_documents(text, **how)
    return document.value


def fault_of(text: str) -> YamlFault:
    with pytest.raises(YamlFault) as caught:
        list(parse_documents(text))
    return caught.value


@pytest.mark.parametrize(
    "written",
    ["no", "yes", "on", "012", "0x1f", "1e3", "1_000", "12:30:45", "2026-01-09", ".inf", "true"],
)
def test_a_plain_scalar_is_read_as_it_was_written(written: str) -> None:
    assert value_of(f"key: {written}") == {"key": written}


@pytest.mark.parametrize("written", ["", "~", "null", "Null", "NULL"])
def test_a_plain_null_is_none(written: str) -> None:
    assert value_of(f"key: {written}") == {"key": None}


@pytest.mark.parametrize("written", ["~", "null", ""])
def test_a_quoted_null_is_text(written: str) -> None:
    assert value_of(f"key: '{written}'") == {"key": written}


@pytest.mark.parametrize(
    ("written", "key"),
    [("null", "null"), ("~", "~"), ("no", "no"), ("1", "1"), ("''", "")],
)
def test_a_key_is_text_whatever_it_looks_like(written: str, key: str) -> None:
    assert value_of(f"{written}: x") == {key: "x"}


@pytest.mark.parametrize(
    ("text", "plain", "value"),
    [
        ("", True, None),
        ("null", True, None),
        ("null", False, "null"),
        *((text, True, True) for text in ("true", "True", "TRUE")),
        *((text, True, False) for text in ("false", "False", "FALSE")),
        ("true", False, "true"),
        ("no", True, "no"),
        ("yes", True, "yes"),
        ("12", True, 12),
        ("-12", True, -12),
        ("012", True, 12),
        ("12", False, "12"),
        ("1.5", True, 1.5),
        ("1e3", True, 1000.0),
        (".inf", True, ".inf"),
        (".nan", True, ".nan"),
        ("1e999", True, "1e999"),
        ("9" * 64, True, int("9" * 64)),
        ("9" * 65, True, "9" * 65),
        ("0." + "0" * 62, True, 0.0),
        ("0." + "0" * 63, True, "0." + "0" * 63),
        ("0x1f", True, "0x1f"),
        ("1_000", True, "1_000"),
        ("12:30", True, "12:30"),
        ("2026-01-09", True, "2026-01-09"),
    ],
)
def test_backstage_reads_a_scalar_by_the_core_schema(text: str, plain: bool, value: object) -> None:
    read = as_backstage_reads(text, plain)

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1),
        ("a: 1\n'a': 3\n", 2, 1),
        ("1: x\n'1': y\n", 2, 1),
        ("a:\n  b:\n    c: 1\n    c: 2\n", 4, 5),
        ("a: {b: 1, c: 2, b: 3}\n", 1, 17),
        ("- a: 1\n  a: 2\n", 2, 3),
        ("é: {ü: 1, ü: 2}\n", 1, 11),
        ("a: 1\r\n\r\na: 2\r\n", 3, 1),
        ("~: 1\n~: 2\n", 2, 1),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_place(
    text: str, line: int, column: int
) -> None:
    fault = fault_of(text)

    assert "twice" in fault.problem
    assert (fault.line, fault.column) == (line, column)


def test_the_same_key_in_two_mappings_is_no_duplicate() -> None:
    assert value_of("a: {k: 1}\nb: {k: 2}\nk: 3") == {"a": {"k": "1"}, "b": {"k": "2"}, "k": "3"}


@pytest.mark.parametrize("text", ["? [a]\n: b", "? {a: b}\n: c", "a: &x b\n*x : c"])
def test_a_key_that_is_no_text_is_refused(text: str) -> None:
    assert "key" in fault_of(text).problem


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object:os.system",
        "!!python/object/apply:os.system",
        "!!python/name:os.system",
        "!!int",
        "!!bool",
        "!!null",
        "!!timestamp",
        "!!binary",
        "!own",
        "!<tag:example.org,2026:x>",
    ],
)
@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a:\n  b: {tag} 12\n", 2, 6),
        ("a:\n  b: {tag} {{}}\n", 2, 6),
        ("a:\n  b: {tag} []\n", 2, 6),
        ("a:\n  - {tag} 12\n", 2, 5),
        ("a:\n  {tag} b: 12\n", 2, 3),
    ],
)
def test_a_tag_is_refused_with_its_place(tag: str, text: str, line: int, column: int) -> None:
    fault = fault_of(text.format(tag=tag))

    assert "tag" in fault.problem
    assert (fault.line, fault.column) == (line, column)


def test_a_tag_that_says_what_the_value_is_anyhow_changes_nothing() -> None:
    text = "a: !!str 012\nb: ! 012\nc: !!str\nd: !!map {}\ne: !!seq []\n"

    assert value_of(text) == {"a": "012", "b": "012", "c": "", "d": {}, "e": []}


def test_a_collection_that_is_tagged_as_text_is_refused() -> None:
    assert "tag" in fault_of("a: !!str {}").problem


@pytest.mark.parametrize("encoded", ["%C0%80", "%ED%A0%80"])
def test_a_tag_that_decodes_to_no_utf8_is_a_fault_like_any_other(encoded: str) -> None:
    assert fault_of(f"a: 1\nb: 2\nc: !{encoded} x\nd: 4\n").line == 3


def test_a_reader_that_allows_tags_reads_the_value_without_them() -> None:
    text = "a: !!int 12\nb: !own {c: !x d}\ne: !!python/name:os.system f"

    value = value_of(text, scalar=as_backstage_reads, tags_allowed=True)

    assert value == {"a": "12", "b": {"c": "d"}, "e": "f"}


def nested(opening: str, closing: str, levels: int) -> str:
    return opening * levels + closing * levels


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_nesting_is_accepted_up_to_its_limit(opening: str, closing: str) -> None:
    value = value_of(nested(opening, closing, MAX_DEPTH))

    levels = 0
    while value:
        levels += 1
        value = value[0] if isinstance(value, list) else value["a"]
    assert levels in {MAX_DEPTH - 1, MAX_DEPTH}


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 10_000])
@pytest.mark.parametrize(
    ("opening", "closing", "width"), [("[", "]", 1), ("{a: ", "}", 4), ("- ", "x", 2)]
)
def test_nesting_beyond_its_limit_is_refused_at_the_first_level_too_many(
    opening: str, closing: str, width: int, levels: int
) -> None:
    fault = fault_of(nested(opening, closing, levels))

    assert "nested" in fault.problem
    assert (fault.line, fault.column) == (1, MAX_DEPTH * width + 1)


def test_an_alias_stands_for_its_anchors_value() -> None:
    text = "a: &list [1, &n ~]\nb: *list\nc: *n\n&d d: &list other\ne: *list\nf: *d"

    assert value_of(text) == {
        "a": ["1", None],
        "b": ["1", None],
        "c": None,
        "d": "other",
        "e": "other",
        "f": "d",
    }


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: &a [*a]", 1, 8),
        ("a: &a\n  b: *a", 2, 6),
        ("a: &a\n  <<: *a", 2, 7),
        ("x: &a 1\na: &a [*a]", 2, 8),
    ],
)
def test_an_alias_inside_its_own_anchor_is_refused(text: str, line: int, column: int) -> None:
    fault = fault_of(text)

    assert (fault.line, fault.column) == (line, column)


@pytest.mark.parametrize("text", ["a: *x", "a: &x 1\n---\nb: *x"])
def test_an_alias_without_an_anchor_in_its_document_is_refused(text: str) -> None:
    assert "*x" in fault_of(text).problem


@pytest.mark.parametrize(
    ("anchored", "values"),
    [("x", 1), ("[]", 1), ("[x, x]", 3), ("{k: x}", 3), ("[[x], {k: [x, x]}]", 8)],
)
def test_aliases_are_accepted_up_to_as_many_values_as_the_limit_says(
    monkeypatch: pytest.MonkeyPatch, anchored: str, values: int
) -> None:
    monkeypatch.setattr(strict_yaml, "MAX_ALIASED_NODES", 2 * values)
    at_the_limit = f"a: &a {anchored}\nb: [*a, *a]\n"

    (document,) = parse_documents(at_the_limit)
    fault = fault_of(f"{at_the_limit}c: &c y\nd: *c\n")

    assert document.value["b"] == [document.value["a"]] * 2
    assert "aliases" in fault.problem
    assert (fault.line, fault.column) == (4, 4)


def bomb(first: str, *, doublings: int) -> str:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, doublings + 1)]
    return "\n".join(lines)


def test_an_alias_bomb_is_refused() -> None:
    assert "aliases" in fault_of(bomb("x", doublings=100)).problem


def test_an_alias_bomb_of_merges_is_refused() -> None:
    lines = ["a0: &a0 {k: [x, x, x, x, x, x, x, x]}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 100)]

    assert "aliases" in fault_of("\n".join(lines)).problem


@pytest.mark.parametrize("anchored", ["{}", "[{}]", "\n  ? {}\n  : x"], ids=["text", "list", "key"])
def test_an_alias_bomb_of_few_values_and_much_text_is_refused(anchored: str) -> None:
    a_hundred_gigabytes = f"a: &a {anchored.format('x' * 1_000_000)}\nb: [{'*a, ' * 100_000}]"

    assert "aliases" in fault_of(a_hundred_gigabytes).problem


def test_merging_an_empty_mapping_again_and_again_ends() -> None:
    many = 40_000
    keys = "".join(f"  k{n}: x\n" for n in range(many))
    text = f"e: &e {{}}\nr:\n  <<: [{', '.join(['*e'] * many)}]\n{keys}"
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
from ecr_catalog_pipeline.core.strict_yaml import YamlFault, parse_documents
try:
    (document,) = parse_documents(sys.stdin.read())
    print(len(document.value["r"]))
except YamlFault as fault:
    print(fault.problem)
"""

    # The system ends a process at 5 s of CPU, however busy the machine is: 40,000 copies of
    # 40,000 keys would take for ever.
    answer = subprocess.run(
        [sys.executable, "-c", script],
        input=text,
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=ROOT,
        timeout=120,
    )

    assert answer.stdout.strip() == str(many) or "aliases" in answer.stdout


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("d: &d {a: 1, b: 2}\nr: {<<: *d, b: 3}", {"a": "1", "b": "3"}),
        ("d: &d {a: 1, b: 2}\nr: {b: 3, <<: *d}", {"a": "1", "b": "3"}),
        ("d: &d {a: 1}\nr: {<<: [*d, {a: 2, b: 3}]}", {"a": "1", "b": "3"}),
        ("d: &d {a: 1}\ne: &e {<<: *d, b: 2}\nr: {<<: *e}", {"a": "1", "b": "2"}),
        ("d: &d {a: 1}\nr: {'<<': *d}", {"<<": {"a": "1"}}),
        ("d: &d {a: {x: 1}}\nr: {<<: *d, a: {y: 2}}", {"a": {"y": "2"}}),
    ],
)
def test_a_merge_key_gives_defaults(text: str, value: object) -> None:
    assert value_of(text)["r"] == value


@pytest.mark.parametrize("merged", ["text", "~", "[text]", "[[]]", "[{}, ~]"])
def test_a_merge_of_what_is_no_mapping_is_refused_rather_than_dropped(merged: str) -> None:
    assert fault_of(f"a:\n  <<: {merged}\n").line == 2


def test_documents_come_one_by_one_with_their_places() -> None:
    documents = list(parse_documents("# head\na: 1\n---\n\n  - b\n...\n---\ntext\n"))

    assert [(each.value, each.line, each.column) for each in documents] == [
        ({"a": "1"}, 2, 1),
        (["b"], 5, 3),
        ("text", 8, 1),
    ]


def test_the_documents_before_a_fault_are_given() -> None:
    documents = parse_documents("a: 1\n---\nb: [}\n")

    assert next(documents).value == {"a": "1"}
    with pytest.raises(YamlFault) as caught:
        next(documents)
    assert (caught.value.line, caught.value.column) == (3, 5)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "\ufeff"])
def test_text_without_a_document_gives_none(text: str) -> None:
    assert list(parse_documents(text)) == []


def test_the_places_of_root_keys_are_kept_and_no_others() -> None:
    (document,) = parse_documents("a:\n  b: 1\n\n'c': 2\n")

    assert document.key_places == {"a": (1, 1), "c": (4, 1)}


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: [}", 1, 5),
        ("a: 1\n\tb: 2\n", 2, 1),
        ("é: ü: x\n", 1, 5),
        ("a: 1\r\nb: [}\r\n", 2, 5),
        ("a: \x00", 1, 4),
        ("é: 1\nü: ö\x07", 2, 5),
        ("a: \ufffe", 1, 4),
    ],
)
def test_a_fault_has_its_place_in_characters_counted_from_one(
    start: str, text: str, line: int, column: int
) -> None:
    fault = fault_of(start + text)

    assert fault.problem.startswith("not YAML: ")
    assert (fault.line, fault.column) == (line, column)


def test_line_endings_and_a_byte_order_mark_change_no_value() -> None:
    text = "a: 1\nb:\n  - x\n  - |\n    two\n    lines\n"

    assert value_of("\ufeff" + text.replace("\n", "\r\n")) == value_of(text, scalar=as_written)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("[a, b, c, d]", (1, 11), "a list holds more than 3 entries"),
        ("a:\nb:\nc:\nd:\n", (4, 1), "a mapping holds more than 3 entries"),
        ("x:\n  a:\n  b:\n  c:\n  d:\n", (5, 3), "a mapping holds more than 3 entries"),
        ("[[a, b, c], [d, e, f], [g, h]]", (1, 25), "the document holds more than 10 keys"),
        ("{a: [1, 2], b: [3, 4], c: {d: 5}}", (1, 27), "the document holds more than 10 keys"),
    ],
)
def test_what_goes_beyond_the_limits_is_refused_where_it_does(
    text: str, place: tuple[int, int], problem: str
) -> None:
    with pytest.raises(YamlTooLarge) as caught:
        list(parse_documents(text, limits=Limits(entries=3, nodes=10)))

    assert problem in caught.value.problem
    assert (caught.value.line, caught.value.column) == place


def test_each_document_of_a_stream_has_the_limits_of_its_own() -> None:
    text = "---\n[[a, b, c], [d, e, f]]\n" * 2

    assert len(list(parse_documents(text, limits=Limits(entries=3, nodes=10)))) == 2
