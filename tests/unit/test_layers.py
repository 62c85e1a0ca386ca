from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.layers import holds, laid_over, unset_paths, without

keys = st.sampled_from(["a", "b", "kind", "c"])
leaves = st.none() | st.sampled_from(["x", "y"]) | st.lists(st.sampled_from("xy"), max_size=2)
mappings = st.recursive(
    st.dictionaries(keys, leaves, max_size=3),
    lambda inner: st.dictionaries(keys, leaves | inner, max_size=3),
    max_leaves=12,
)


def paths(value: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every leaf of a mapping, by its path."""
    found: dict[tuple[str, ...], Any] = {}
    for key, inner in value.items():
        here = (*above, key)
        found |= paths(inner, here) if isinstance(inner, dict) and inner else {here: inner}
    return found


@given(mappings)
def test_what_is_alone_is_as_it_is(value: dict[str, Any]) -> None:
    assert laid_over({}, value) == value
    assert laid_over(value, {}) == value
    assert laid_over(value, value) == value


@given(mappings, mappings)
def test_ones_own_always_counts(shared: dict[str, Any], own: dict[str, Any]) -> None:
    joined = laid_over(shared, own)

    for path, value in paths(own).items():
        assert holds(joined, path)
        if value != {}:
            assert paths(joined)[path] == value


@given(mappings, mappings)
def test_nothing_comes_from_elsewhere(shared: dict[str, Any], own: dict[str, Any]) -> None:
    for path, value in paths(laid_over(shared, own)).items():
        of_own, of_shared = paths(own), paths(shared)
        assert value in (of_own.get(path, of_shared.get(path)), of_shared.get(path), {})


@given(mappings, mappings)
def test_both_are_left_as_they_were(shared: dict[str, Any], own: dict[str, Any]) -> None:
    before = repr(shared), repr(own)
    laid_over(shared, own)
    assert (repr(shared), repr(own)) == before


@given(mappings, mappings)
def test_a_null_that_takes_away_is_ones_own_and_can_be_left_out(
    shared: dict[str, Any], own: dict[str, Any]
) -> None:
    joined = laid_over(shared, own)
    for path in unset_paths(shared, own):
        assert paths(own)[path] is None
        assert holds(shared, path)
        joined = without(joined, path)
        assert not holds(joined, path)


def test_another_kind_replaces_all_and_the_same_kind_some() -> None:
    shared = {"publish": {"kind": "git", "repository": "r", "branch": "b"}}

    assert laid_over(shared, {"publish": {"kind": "file", "path": "p"}}) == {
        "publish": {"kind": "file", "path": "p"}
    }
    for own in ({"path": "p"}, {"kind": "git", "path": "p"}):
        assert laid_over(shared, {"publish": own}) == {
            "publish": {"kind": "git", "repository": "r", "branch": "b", "path": "p"}
        }


def test_a_list_is_replaced_as_a_whole() -> None:
    assert laid_over({"paths": ["a", "b"]}, {"paths": ["c"]}) == {"paths": ["c"]}
