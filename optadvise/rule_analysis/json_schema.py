"""JSON Schemas of the rule files for editors, generated from the records of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from optadvise.core import cards, claim_cards, framework_cards, recipe_cards, surface_cards
from optadvise.core.cards import UNKNOWN, Optimizer, Scheduler
from optadvise.core.claim_cards import ClaimFile
from optadvise.core.framework_cards import Framework
from optadvise.core.json_text import JsonObject
from optadvise.core.recipe_cards import RecipeFile
from optadvise.core.surface_cards import SurfaceFile
from optadvise.core.yaml_records import is_internal
from optadvise.memory import network_families
from optadvise.memory.network_families import NetworkFamily, PartsFile
from optadvise.rulebase import case_files, memory_rules, records, table_records
from optadvise.rulebase.case_files import CaseFile
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.memory_rules import MemoryFile
from optadvise.rulebase.records import (
    AssumptionFile,
    Fact,
    FactFile,
    FixFile,
    FlowchartFile,
    GpuFile,
    NoCardFile,
    SourceFile,
    WordFile,
)
from optadvise.rulebase.table_records import FREE_KEYS, OUTCOMES, PolicyFile, TableEntry

_TAGGED = tuple(OUTCOMES.values())
_MODULES = (
    cards, claim_cards, framework_cards, recipe_cards, surface_cards, case_files, records, table_records, memory_rules,
    network_families,
)  # fmt: skip
# All records by name, which is also the name of the schema component.
_KINDS: Mapping[str, type[Struct]] = {
    name: kind
    for module in _MODULES
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Struct)
}
DEFINITIONS = "definitions"  # name of the schema that the others refer to
FOLDER = "schema"  # subfolder of the rules
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


# Record of each kind of file; `_table_schema` generates the schema of tables.
_RECORDS: Mapping[str, type[Struct]] = {
    "facts": FactFile, "sources": SourceFile, "gpus": GpuFile, "no_card": NoCardFile, "memory": MemoryFile,
    "optimizer": Optimizer, "scheduler": Scheduler, "assume": AssumptionFile, "fixes": FixFile,
    "flowchart": FlowchartFile, "surfaces": SurfaceFile, "claims": ClaimFile, "policy": PolicyFile,
    "cases": CaseFile, "framework": Framework, "network": NetworkFamily, "parts": PartsFile,
    "recipes": RecipeFile, "words": WordFile,
}  # fmt: skip
_TEXT = {"type": ["string", "number", "boolean", "null"]}  # editors infer the types of scalars, unlike the reader


def schemas(catalog: Catalog) -> dict[str, JsonObject]:
    """Return the schemas of all kinds of rule files and their shared definitions, by name.

    Args:
        catalog: Rules whose facts and ids editors offer.
    """
    schemas = {DEFINITIONS: {"$schema": _DRAFT, "title": "optadvise: definitions", "$defs": _id_definitions(catalog)}}
    schemas |= {name: _file_schema(name, *_record_schema(kind)) for name, kind in _RECORDS.items()}
    schemas["table"] = _file_schema("table", *_table_schema())
    return schemas


def _file_schema(name: str, root: JsonObject, components: JsonObject) -> JsonObject:
    definitions = {key: components[key] for key in sorted(_references(root, components))}
    return {"$schema": _DRAFT, "title": f"optadvise: {name}", **root, **({"$defs": definitions} if definitions else {})}


def _record_schema(kind: type[Struct]) -> tuple[JsonObject, JsonObject]:
    """Return the schema of a record, and the schemas of its nested records by name."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    described = {name: _as_read(component, _KINDS.get(name)) for name, component in components.items()}
    return described.pop(kind.__name__), described


def _as_read(schema: Any, kind: type[Struct] | None = None) -> Any:
    """Return a schema that matches the reader: without additional keys, and without internal fields."""
    if isinstance(schema, list):
        return [_as_read(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:  # an additional type describes the YAML form of the record
        if isinstance(schema.get("type"), list):
            return {"type": schema["type"]}
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        return {"$ref": schema["$ref"] if name in _KINDS else f"{DEFINITIONS}.json#/$defs/{name}"}
    if set(schema) <= {"type", "default", "description"} and schema.get("type") == "string":
        return dict(_TEXT)
    result = {key: _as_read(value) for key, value in schema.items() if key not in ("default", "title")}
    if "properties" in result:
        internal = {field.encode_name for field in fields(kind) if is_internal(field.type)} if kind else set()
        result["properties"] = {
            key: _as_read(value) for key, value in schema["properties"].items() if key not in internal
        }
        result["properties"].pop("type", None) if kind in _TAGGED else None
        result["required"] = [key for key in schema.get("required", []) if key in result["properties"]]
        result["additionalProperties"] = False
        shorthand = getattr(kind, "__shorthand__", None)
        return {"anyOf": [dict(_TEXT), result]} if shorthand else result
    return result


def _references(schema: Any, components: JsonObject, visited: frozenset[str] = frozenset()) -> set[str]:
    """Return the names of the records that a schema refers to, directly or indirectly."""
    names: set[str] = set()
    if isinstance(schema, Mapping):
        name = str(schema.get("$ref", "")).rsplit("/", 1)[-1]
        if name in components and name not in visited:
            names |= {name} | _references(components[name], components, visited | {name})
        for value in schema.values():
            names |= _references(value, components, visited)
    elif isinstance(schema, Sequence) and not isinstance(schema, str):
        for value in schema:
            names |= _references(value, components, visited)
    return names


def _table_schema() -> tuple[JsonObject, JsonObject]:
    """Return the schema of a table, in which the kind determines the type of `then`."""
    root, components = _record_schema(TableEntry)
    for name in ("RuleEntry", "OtherwiseEntry"):
        components[name]["properties"]["then"] = {}
    alternatives = []
    for kind, outcome in OUTCOMES.items():
        then, inner = _record_schema(outcome)
        components |= inner
        row = {"properties": {"then": then["properties"]["values"] if kind in FREE_KEYS else then}}
        condition = {"properties": {"kind": {"const": kind}}, "required": ["kind"]}
        alternatives.append({"if": condition, "then": {"properties": {"rules": {"items": row}, "otherwise": row}}})
    return {**root, "allOf": alternatives}, components


def _id_definitions(catalog: Catalog) -> JsonObject:
    """Return the definitions of ids and conditions that editors offer."""
    base = catalog.base
    names: dict[str, Sequence[str]] = {
        "source": list(base.sources), "optimizer": list(base.optimizers), "scheduler": list(base.schedulers),
        "fact": list(catalog.facts), "rule": [rule.id for table in base.tables.values() for rule in table.rules],
        "model": list(catalog.facts["model"].values or ()),
    }  # fmt: skip
    # Layers can add ids, so editors offer the existing ids but accept others.
    definitions: JsonObject = {kind: {"anyOf": [{"enum": ids}, {"type": "string"}]} for kind, ids in names.items()}
    values = {name: _value(fact) for name, fact in catalog.facts.items()}
    conditions = {}
    for name in values:
        value = {"$ref": f"#/$defs/given/properties/{name}"}
        conditions[name] = {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
    definitions["amount"] = {"type": ["number", "string"]}  # a number, or one with a unit
    definitions["when"] = {"type": "object", "properties": conditions, "additionalProperties": False}
    definitions["given"] = {"type": "object", "properties": values, "additionalProperties": False}
    return definitions


def _value(fact: Fact) -> JsonObject:
    if fact.values is not None:
        accepted: list[Any] = list(fact.values)
        accepted += [UNKNOWN, "known"] if fact.unknown else []
        accepted += [True, False] if fact.type == "flag" else []
        single: JsonObject = {"enum": accepted}
        if fact.values_from:
            single = {"anyOf": [single, {"type": "string"}]}
    else:
        single = {"type": ["number", "string"]}
    return {"description": fact.ask, **single}


def editor_line(file: PurePosixPath, kind: str) -> str:
    """Return the comment with the schema of a rule file for editors.

    Args:
        file: Path of the file relative to the folder of the rules.
    """
    up = "../" * (len(file.parts) - 1)
    return f"# yaml-language-server: $schema={up or './'}{FOLDER}/{kind}.json"
