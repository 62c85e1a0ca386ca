"""JSON Schemas of the files that people write, made from what reads them.

A schema judges what an editor or CI makes of the YAML; the mirror reads every scalar as the text
that was written. Where the two differ, such as an account id without quotes, the schema takes both:
what the mirror accepts, its schema accepts. The schema of the governance file comes twice: lenient,
as the mirror is, and strict, where all that a schema can know to be a finding is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import click

from ecr_catalog_pipeline.core.exceptions import NEVER_EXCEPTED
from ecr_catalog_pipeline.core.governance import (
    ENTRY_ID,
    EXCEPTION,
    KNOWN_VERSIONS,
    MAX_EXCEPTIONS,
    REPOSITORY_NAME,
    ROOT_KEYS,
    SECTIONS,
    Form,
    Key,
)
from ecr_catalog_pipeline.settings import Mirror

Schema = dict[str, Any]

_NULL: Final = {"type": "null"}
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

# What YAML may make of a text, as a text.
_NUMBERS: Final = ("0", "7", "2026", "1.5", "123456789012")
_BOOLEANS: Final = ("true", "false")
_DIGITS: Final = re.compile(r"\^\[0-9\]\{(?P<count>[0-9]+)\}\$")

_INTEGER_TEXT: Final = r"^\s*[+-]?[0-9][0-9_]*(?:\.0*)?\s*$"
_NUMBER_TEXT: Final = r"^\s*[+-]?[0-9._]+(?:[eE][+-]?[0-9]+)?\s*$"
_BOOLEAN_TEXT: Final = r"^(?:[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$"
# What pydantic takes for a truth value, besides 0 and 1.
_TRUTH_TEXT: Final = (
    r"^(?:[Tt]|[Ff]|[Yy]|[Nn]|[Oo][Nn]|[Oo][Ff][Ff]|[Yy][Ee][Ss]|[Nn][Oo]"
    r"|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|0|1)$"
)


def mirror_schema(*, defaults: bool = False) -> Schema:
    """Give the schema of a mirror file.

    Args:
        defaults: of a file that says a part, the other file the rest: nothing is required.
    """
    schema = Mirror.model_json_schema()
    models = {
        name: {**_as_yaml_reads(model), "title": _words(name)}
        for name, model in schema["$defs"].items()
    }
    root = _as_yaml_reads(schema)
    whole = {
        "$schema": DIALECT,
        "title": "A mirror of ecr_catalog_pipeline",
        "description": "mirrors/NAME.yaml: one governance file, one ECR registry, one entity.",
        **{key: root[key] for key in ("type", "additionalProperties", "properties")},
        # The file's name says it.
        "required": [key for key in schema["required"] if key != "name"],
        "$defs": models,
    }
    if not defaults:
        return whole
    for holder in (whole, *models.values()):
        for node in holder.get("properties", {}).values():
            if "$ref" in node:
                described = models[node["$ref"].rpartition("/")[2]]["description"]
                node.setdefault("description", described)
    return {
        **_in_part(whole),
        "title": "Settings that mirrors of ecr_catalog_pipeline share",
        "description": "mirrors/_defaults.yaml, and a mirror file beside it: what one of them "
        "leaves out the other says.",
    }


def governance_schema(*, strict: bool = False) -> Schema:
    """Give the schema of a governance file.

    Args:
        strict: refuse what would be a finding, not only what would be refused.
    """
    entries: Schema = {"type": "object", "additionalProperties": _entry(strict=strict)}
    if strict:
        entries["propertyNames"] = {
            "pattern": f"^{REPOSITORY_NAME.pattern}$",
            "minLength": 2,
            "maxLength": 256,
        }
    root: Schema = {key: _ruled(rule, strict=strict) for key, rule in ROOT_KEYS.items()}
    older = {**entries, **root.pop("registries")}
    root["repositories"] = {**entries, **root["repositories"]}
    schema = {
        "$schema": DIALECT,
        "title": f"Governance of container repositories{' (strict)' if strict else ''}",
        "description": "ecr-catalog.yaml: every container repository that the company means to "
        "have, with its owner, risk and status.",
        "type": "object",
    }
    if strict:
        return schema | {
            "properties": root,
            "required": ["version", "repositories"],
            "additionalProperties": False,
        }
    return schema | {
        "properties": root | {"registries": older},
        "oneOf": [{"required": ["repositories"]}, {"required": ["registries"]}],
    }


def _in_part(node: Any) -> Any:
    """Require nothing, and let null take away what is shared."""
    if isinstance(node, list):
        return [_in_part(each) for each in node]
    if not isinstance(node, dict):
        return node
    part = {key: _in_part(each) for key, each in node.items() if key != "required"}
    if "oneOf" in part:  # Without its kind a target may be one of several.
        part["anyOf"] = part.pop("oneOf")
    if "additionalProperties" in part:
        part["properties"] = {key: _or_null(each) for key, each in part["properties"].items()}
    return part


def _or_null(node: Schema) -> Schema:
    if "anyOf" in node:
        kinds = node["anyOf"]
        return {**node, "anyOf": [*kinds, *([] if _NULL in kinds else [_NULL])]}
    if "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**rest, "anyOf": [{"$ref": node["$ref"]}, _NULL]}
    if "type" not in node or "const" in node:
        return node
    types = [node["type"]] if isinstance(node["type"], str) else node["type"]
    return {**node, "type": list(dict.fromkeys([*types, "null"]))}


FILES: Final[Mapping[str, Callable[[], Schema]]] = {
    "mirror.schema.json": mirror_schema,
    "mirror-defaults.schema.json": partial(mirror_schema, defaults=True),
    "ecr-catalog.schema.json": governance_schema,
    "ecr-catalog.strict.schema.json": partial(governance_schema, strict=True),
}
"""What `make schemas` writes."""


def as_text(schema: Schema) -> str:
    """Write a schema as a file holds it."""
    return json.dumps(schema, ensure_ascii=False, indent=2) + "\n"


@click.command("schema")
@click.argument("file", type=click.Choice(["mirror", "governance"]))
@click.option("--strict", is_flag=True, help="Governance: what is a finding is an error.")
@click.option("--defaults", is_flag=True, help="Mirror: of _defaults.yaml, and beside one.")
def schema_command(file: str, *, strict: bool, defaults: bool) -> int:
    """Print the JSON Schema of a mirror file or of a governance file.

    An editor with a YAML language server completes and checks a file whose first line names it:

        # yaml-language-server: $schema=mirror.schema.json

    Exit code: 0 printed, 1 error.
    """
    if file == "mirror" and strict:
        raise click.UsageError("--strict goes with governance: a mirror file has no findings")
    if file == "governance" and defaults:
        raise click.UsageError("--defaults goes with mirror: governance files share nothing")
    schema = (
        mirror_schema(defaults=defaults) if file == "mirror" else governance_schema(strict=strict)
    )
    click.echo(as_text(schema), nl=False)
    return 0


# The mirror file: pydantic's schema, made fit for YAML


def _words(name: str) -> str:
    """Make a class's name a title: `GitTarget` is `Git target`."""
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda found: f" {found[0].lower()}", name)


def _as_yaml_reads(node: Schema) -> Schema:
    """Let a schema accept what an editor makes of a value that the mirror reads as text."""
    node = {key: value for key, value in node.items() if key not in {"title", "discriminator"}}
    if not isinstance(node.get("default", ""), str | int | float):
        del node["default"]  # Null, or a block that is better not filled in.
    for key, inner in node.items():
        if key == "properties":
            node[key] = {name: _as_yaml_reads(each) for name, each in inner.items()}
        elif key in {"anyOf", "oneOf"}:
            node[key] = [_as_yaml_reads(each) for each in inner]
        elif key in {"items", "additionalProperties"} and isinstance(inner, dict):
            node[key] = _as_yaml_reads(inner)
    node = _nullable(node)
    return node if "const" in node or "enum" in node else _scalar(node)


def _scalar(node: Schema) -> Schema:
    match node.get("type"):
        case "string" | ["string", *_]:
            return _string(node)
        case "integer":
            return {**node, "type": ["integer", "string"], "pattern": _INTEGER_TEXT}
        case "number":
            return {**node, "type": ["number", "string"], "pattern": _NUMBER_TEXT}
        case "boolean":
            whole = {"type": ["boolean", "string", "integer"], "pattern": _TRUTH_TEXT}
            return {**node, **whole, "minimum": 0, "maximum": 1}
        case _:
            return node


def _nullable(node: Schema) -> Schema:
    """Join `anyOf: [a string, null]` into one schema with two types; leave another as it is."""
    match node.get("anyOf"):
        case [{"type": str() | list()} as one, {"type": "null"}]:
            types = one["type"] if isinstance(one["type"], list) else [one["type"]]
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            choices = {"enum": [*one["enum"], None]} if "enum" in one else {}
            return {**one, **choices, **rest, "type": [*types, "null"]}
        case _:
            return node


def _string(node: Schema) -> Schema:
    """Add the types that a text which matches may have in YAML."""
    pattern = node.get("pattern", "")
    types = list(dict.fromkeys([node["type"]] if isinstance(node["type"], str) else node["type"]))
    for name, texts in (("number", _NUMBERS), ("boolean", _BOOLEANS)):
        if name not in types and any(re.search(pattern, text) for text in texts):
            types.append(name)
    if len(types) > 1:
        node = {**node, "type": types}
    if digits := _DIGITS.fullmatch(pattern):
        node |= {"minimum": 0, "maximum": 10 ** int(digits["count"]) - 1}
    return node


# The governance file: the rules of `core.governance`

_RULES: Final[Mapping[Form, Schema]] = {
    # Without quotes a version is a number.
    Form.VERSION: {"enum": [*sorted(KNOWN_VERSIONS), *map(float, sorted(KNOWN_VERSIONS))]},
    Form.TEXT: {"type": ["string", "number", "boolean", "null"]},
    Form.ID: {"type": "string", "pattern": f"^{ENTRY_ID.pattern}$"},
    Form.TRUTH: {"type": ["boolean", "string", "null"], "pattern": _BOOLEAN_TEXT},
    Form.LIFECYCLE: {
        "type": ["object", "null"],
        "properties": {
            "keep_image_count": {
                "description": "How many images are kept, 1 or more.",
                "type": ["integer", "string"],
                "minimum": 1,
                "pattern": r"^(?=[0-9]{0,8}[1-9])[0-9]+$",
            }
        },
        "required": ["keep_image_count"],
    },
    Form.DAY: {
        "type": ["string", "null"],
        "format": "date",
        "pattern": r"^(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])$",
    },
}


def _entry(*, strict: bool) -> Schema:
    sections: Schema = {}
    for name, section in SECTIONS.items():
        sections[name] = {
            "description": section.description,
            "properties": {key: _ruled(rule, strict=strict) for key, rule in section.keys.items()},
        }
        if strict:
            required = section.required
            sections[name] |= {
                "type": "object" if required else ["object", "null"],
                "additionalProperties": False,
                **({"required": required} if required else {}),
            }
    if strict:
        return {
            "type": "object",
            "properties": sections,
            "required": [name for name, section in SECTIONS.items() if section.required],
            "additionalProperties": False,
        }
    return {"properties": sections}


def _exception() -> Schema:
    properties = {key: _ruled(rule, strict=True) for key, rule in EXCEPTION.keys.items()}
    about_exceptions = "|".join(sorted(NEVER_EXCEPTED))
    properties["rule"]["not"] = {"type": "string", "pattern": rf"^\s*(?:{about_exceptions})\s*$"}
    described = {key: {"description": rule["description"]} for key, rule in properties.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": EXCEPTION.required,
        "additionalProperties": False,
        # Only orphans have an origin.
        "if": {
            "required": ["origin"],
            "properties": {"origin": {**described["origin"], "type": "string"}},
        },
        "then": {
            "properties": {
                "rule": {**described["rule"], "type": "string", "pattern": r"^\s*orphan\s*$"}
            }
        },
    }


def _ruled(key: Key, *, strict: bool) -> Schema:
    """Rule a key; where nothing is strict, the rule is what an editor completes."""
    rule = _rule(key)
    if rule and not strict:
        rule = {"anyOf": [rule, {}]}
    return {"description": key.description, **rule}


def _rule(key: Key) -> Schema:
    if key.form is Form.EXCEPTIONS:
        return {"type": ["array", "null"], "maxItems": MAX_EXCEPTIONS, "items": _exception()}
    if key.form is Form.CHOICE:
        return {"enum": [*key.choices, *([] if key.required else [None])]}
    if key.form is Form.TEXT and key.required:
        return {"type": ["string", "number", "boolean"], "pattern": r"\S"}
    return _RULES.get(key.form, {})
