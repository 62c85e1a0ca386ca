"""How values pass between assets: as JSON files beside the instance, one for each asset."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import TypeAdapter
from upath import UPath


class JsonIOManager(dg.UPathIOManager):
    """Writes dataclasses as JSON and reads them back as the type that the input asks for."""

    extension = ".json"

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        """Write a value beside and move it there, so that no reader sees half of one."""
        beside = path.with_name(f".{path.name}.{context.run_id}")
        beside.write_bytes(TypeAdapter(type(obj)).dump_json(obj))
        beside.rename(path)

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """Read a value as the type of the asset's parameter."""
        return TypeAdapter(context.dagster_type.typing_type).validate_json(path.read_bytes())


@dg.io_manager(description="JSON files in the instance's storage folder.")
def json_io_manager(context: dg.InitResourceContext) -> JsonIOManager:
    """Keep values in the storage folder of the Dagster instance."""
    instance = context.instance
    assert instance is not None
    return JsonIOManager(base_path=UPath(instance.storage_directory()))
