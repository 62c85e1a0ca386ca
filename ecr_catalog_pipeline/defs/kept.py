"""State that we keep in Dagster between two looks or runs: written with a version, read leniently.

What is kept is a cache of what can be measured again, so nothing in it is ever an error: an older
version gives what is compatible, and what cannot be read is left out, with the reason.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

VERSION_KEY: Final = "version"
FIRST_VERSION: Final = 1
"""Of what carries no version."""

PARTS_VERSION: Final = 1
"""Of the text that holds a part for each mirror."""

_PARTS: Final = "mirrors"
_PARTS_TYPE: Final = TypeAdapter(dict[Literal["mirrors"], dict[str, Any]])
_FIRST_YEAR, _LAST_YEAR = 1970, 9000


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """What could be read.

    Attributes:
        value: None when nothing was kept, or nothing of it can be used: start over.
        problem: what could not be read and why, one line; empty when all was read.
    """

    value: T | None = None
    problem: str = ""


def write_kept(adapter: TypeAdapter[T], version: int, value: T) -> str:
    """Write the fields of a value as JSON, with the version of their format."""
    return json.dumps(kept_data(adapter, version, value))


def kept_data(adapter: TypeAdapter[T], version: int, value: T) -> dict[str, Any]:
    """Give what `write_kept` writes, before it is JSON."""
    return {VERSION_KEY: version, **adapter.dump_python(value, mode="json")}


def read_kept(adapter: TypeAdapter[T], version: int, text: str | None) -> Kept[T]:
    """Read what `write_kept` of this or another version wrote; never raises.

    Args:
        version: of the format that this code reads; a newer one is not read at all.
        text: what was kept; None or empty when nothing was.
    """
    if not text:
        return Kept()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Kept(problem="is not JSON")
    return read_kept_data(adapter, version, data)


def read_kept_data(adapter: TypeAdapter[T], version: int, data: object) -> Kept[T]:
    """Read kept state that is parsed already, as `read_kept` does."""
    if not isinstance(data, Mapping):
        return Kept(problem="is not a mapping")
    found = data.get(VERSION_KEY, FIRST_VERSION)
    if type(found) is not int or found < FIRST_VERSION:
        return Kept(problem="names no version that exists")
    if found > version:
        return Kept(problem=f"was written by a newer version of us (format {found}, not {version})")
    return _compatible(adapter, {key: data[key] for key in data if key != VERSION_KEY})


def write_parts(parts: Mapping[str, object]) -> str:
    """Write the kept states of several mirrors as one JSON text.

    Args:
        parts: by the mirror's name: a state as `kept_data` gives it, or as it was read; None of a
            mirror without one.
    """
    kept = {name: part for name, part in parts.items() if part is not None}
    return json.dumps({VERSION_KEY: PARTS_VERSION, _PARTS: kept})


def read_parts(text: str | None) -> Kept[dict[str, object]]:
    """Read what `write_parts` wrote; never raises."""
    kept = read_kept(_PARTS_TYPE, PARTS_VERSION, text)
    return Kept(kept.value[_PARTS] if kept.value else None, kept.problem)


def read_part(
    adapter: TypeAdapter[T], version: int, parts: Kept[dict[str, object]], name: str
) -> Kept[T]:
    """Read the state of one mirror; what is wrong with the whole is wrong with it, too."""
    if parts.value is None or parts.value.get(name) is None:
        return Kept(problem=parts.problem)
    return read_kept_data(adapter, version, parts.value[name])


def value_of(metadata: Mapping[str, Any], name: str) -> object:
    """Read a value out of the metadata of an event; None when there is none."""
    return getattr(metadata.get(name), "value", None)


def text_of(metadata: Mapping[str, Any], name: str) -> str | None:
    """Read a text out of the metadata of an event; None when there is none."""
    value = value_of(metadata, name)
    return value if isinstance(value, str) else None


def moment_of(metadata: Mapping[str, Any], name: str) -> datetime | None:
    """Read a time out of the metadata of an event; None when there is none."""
    value = value_of(metadata, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _compatible(adapter: TypeAdapter[T], fields: dict[str, Any]) -> Kept[T]:
    """Leave out what does not validate: one item of a field, then the field, then everything."""
    problem = ""
    for depth in (2, 1):
        try:
            return Kept(_aware(adapter, fields), problem)
        except ValidationError as error:
            places = [each["loc"] for each in error.errors(include_url=False, include_input=False)]
            problem = problem or _in_words(places)
            fields = _without(fields, places, depth)
        except (ValueError, OverflowError, RecursionError) as error:
            return Kept(problem=str(error) or type(error).__name__)
    try:
        return Kept(_aware(adapter, fields), problem)
    except (ValueError, OverflowError, RecursionError):
        return Kept(problem=problem)


def _aware(adapter: TypeAdapter[T], fields: Mapping[str, Any]) -> T:
    """Validate; a time without a zone, or at the edge of time, cannot be compared with ours."""
    value = adapter.validate_python(fields)
    for moment in _moments(adapter.dump_python(value)):
        if moment.tzinfo is None:
            message = "holds a time without a time zone"
            raise ValueError(message)
        if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            message = f"holds a time in the year {moment.year}"
            raise ValueError(message)
    return value


def _moments(data: object) -> Iterator[datetime]:
    if isinstance(data, datetime):
        yield data
    elif isinstance(data, Mapping):
        for each in data.values():
            yield from _moments(each)
    elif isinstance(data, list | tuple | set | frozenset):
        for each in data:
            yield from _moments(each)


def _without(
    fields: dict[str, Any], places: list[tuple[int | str, ...]], depth: int
) -> dict[str, Any]:
    """Leave out the values at the places, down to a depth."""
    left = dict(fields)
    for name in {place[0] for place in places if place}:
        below = {place[1] for place in places if place[0] == name and len(place) > 1}
        whole = any(place[0] == name and len(place) == 1 for place in places)
        value = left.pop(str(name), None)
        if depth == 1 or whole:
            continue
        if isinstance(value, Mapping):
            left[str(name)] = {key: value[key] for key in value if key not in below}
        elif isinstance(value, list | tuple):
            left[str(name)] = [each for at, each in enumerate(value) if at not in below]
    return left


def _in_words(places: list[tuple[int | str, ...]]) -> str:
    names = sorted({".".join(map(str, place[:2])) or "all of it" for place in places})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"cannot be read at {', '.join(names[:3])}{more}"
