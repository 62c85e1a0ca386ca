"""Settings in two layers: what a file says for itself, laid over what it shares with others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

KIND: Final = "kind"
"""The key that says which of several forms a mapping has."""


def laid_over(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Give what both say; where both say something, the own one counts.

    Mappings are joined key by key, but for two of another `kind`, which have no keys in common.
    Everything else is replaced as a whole, lists included.
    """
    joined = dict(shared)
    for key, value in own.items():
        before = shared.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _alike(before, value):
            value = laid_over(before, value)  # noqa: PLW2901
        joined[key] = value
    return joined


def unset_paths(
    shared: Mapping[str, Any], own: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Give the path of each null of one's own that takes something away that is shared."""
    for key, value in own.items():
        if key not in shared:
            continue
        before = shared[key]
        if value is None:
            yield (*above, key)
        elif isinstance(before, Mapping) and isinstance(value, Mapping) and _alike(before, value):
            yield from unset_paths(before, value, (*above, key))


def without(value: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Give a mapping without the key at a path, which is there."""
    key, *rest = path
    if not rest:
        return {each: inner for each, inner in value.items() if each != key}
    return {**value, key: without(value[key], tuple(rest))}


def holds(value: Any, path: tuple[str, ...]) -> bool:
    """Whether there is something at a path, null included; a path may go on inside a list."""
    for key in path:
        if not isinstance(value, Mapping):
            return True
        if key not in value:
            return False
        value = value[key]
    return True


def _alike(shared: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return KIND not in shared or KIND not in own or shared[KIND] == own[KIND]
