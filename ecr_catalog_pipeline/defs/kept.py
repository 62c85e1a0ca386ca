from dataclasses import dataclass
from typing import Any, Generic, TypeVar
import json
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    value: T | None
    problem: str


def read_kept(adapter: TypeAdapter[T], version: int, text: str | None) -> Kept[T]:
    if not text:
        return Kept(None, "")
    try:
        raw = json.loads(text)
        if raw.get("version", 1) != version:
            return Kept(None, f"it is of version {raw.get('version', 1)}")
        return Kept(adapter.validate_python(raw, strict=False), "")
    except (ValueError, AttributeError, TypeError) as error:
        return Kept(None, f"it cannot be read: {type(error).__name__}")


def write_kept(adapter: TypeAdapter[T], version: int, value: T) -> str:
    return json.dumps({"version": version, **adapter.dump_python(value, mode="json")})
