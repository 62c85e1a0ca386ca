"""How values pass between assets: as JSON files, one for each asset.

They lie beside the instance, or where ECR_CATALOG_STORAGE says: a run on another host reads them
only there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import dagster as dg
from pydantic import TypeAdapter
from upath import UPath

STORAGE_VARIABLE: Final = "ECR_CATALOG_STORAGE"

_adapter: Final[Callable[[Any], TypeAdapter[Any]]] = cache(TypeAdapter)
"""What writes and reads a type, made once: that takes longer than to write and read."""


class JsonIOManager(dg.UPathIOManager):
    """Writes dataclasses as JSON and reads them back as the type that the input asks for.

    A step of the process that wrote a value gets that value itself.
    """

    extension = ".json"

    def __init__(self, base_path: UPath) -> None:
        super().__init__(base_path=base_path)
        self._written: dict[str, Any] = {}

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        """Write a value beside and move it there, so that no reader sees half of one."""
        beside = path.with_name(f".{path.name}.{context.run_id}")
        beside.write_bytes(as_json(obj))
        beside.rename(path)
        self._written[str(path)] = obj

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """Read a value as the type of the asset's parameter."""
        if str(path) in self._written:
            return self._written[str(path)]
        return from_json(context, path.read_bytes())


def as_json(value: Any) -> bytes:
    """Write a value as JSON."""
    return _adapter(type(value)).dump_json(value)


def from_json(context: dg.InputContext, content: bytes) -> Any:
    """Read JSON as the type that the input asks for."""
    return _adapter(context.dagster_type.typing_type).validate_json(content)


def json_io_manager(environ: Mapping[str, str]) -> dg.IOManagerDefinition:
    """Keep values in the storage folder of the instance, or where ECR_CATALOG_STORAGE says.

    Args:
        environ: ECR_CATALOG_STORAGE is a folder, `s3://BUCKET/PREFIX`, or any URL that fsspec
            knows. It is read when a run needs it.
    """

    @dg.io_manager(description="JSON files in the instance's storage folder or a shared one.")
    def manager(context: dg.InitResourceContext) -> dg.UPathIOManager:
        storage = environ.get(STORAGE_VARIABLE, "")
        if storage.startswith("s3://"):
            # Imported here: dagster-aws takes two seconds to import.
            from ecr_catalog_pipeline.defs.s3 import JsonS3IOManager  # noqa: PLC0415

            place = urlsplit(storage)
            return JsonS3IOManager(place.netloc, place.path.strip("/"))
        assert context.instance is not None
        return JsonIOManager(base_path=UPath(storage or context.instance.storage_directory()))

    return manager
