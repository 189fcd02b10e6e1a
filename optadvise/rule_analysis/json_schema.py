"""JSON Schemas of the rule files, for editors: made of the shapes that the files are read by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from optadvise.core.records import UNKNOWN
from optadvise.rulebase import case_files, claim_files, framework_files, network_files, shapes, surface_files
from optadvise.rulebase.catalog import Catalog

FOLDER = "schema"  # below the rules
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schemas(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Return the schema of every kind of rule file by its name.

    Args:
        catalog: Whose facts and ids editors should offer.
    """
    definitions = _definitions(catalog)
    files: dict[str, Mapping[str, Any]] = {
        "facts": shapes.facts.schema, "sources": shapes.sources.schema, "gpus": shapes.gpus.schema,
        "memory": shapes.memory.schema, "optimizer": shapes.optimizer.schema, "scheduler": shapes.scheduler.schema,
        "assume": shapes.assumptions.schema, "fixes": shapes.fixes.schema, "flowchart": shapes.flowchart.schema,
        "surfaces": surface_files.surfaces.schema, "claims": claim_files.claims.schema,
        "policy": shapes.policy.schema, "cases": case_files.cases.schema, "table": _table(),
        "network": network_files.family_file.schema, "parts": network_files.parts_file.schema,
        "framework": framework_files.framework.schema,
    }  # fmt: skip
    return {name: _whole(name, schema, definitions) for name, schema in files.items()}


def _whole(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    used = _used(schema, definitions)
    defs = {key: definitions[key] for key in sorted(used)}
    return {"$schema": _DRAFT, "title": f"optadvise: {name}", **schema, **({"$defs": defs} if defs else {})}


def _used(schema: Any, definitions: Mapping[str, Any]) -> set[str]:
    """Return the definitions that a schema refers to, directly or through others."""
    found: set[str] = set()
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            name = str(schema["$ref"]).rsplit("/", 1)[1]
            found |= {name} | _used(definitions[name], definitions)
        for value in schema.values():
            found |= _used(value, definitions)
    elif isinstance(schema, Sequence) and not isinstance(schema, str):
        for value in schema:
            found |= _used(value, definitions)
    return found


def _table() -> dict[str, Any]:
    """Return the schema of a table: what a row holds goes by the table's kind, which a layer need not repeat."""
    whole = {kind: shapes.table(kind, known=True).schema for kind in shapes.outcomes}
    ways = [
        {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": schema}
        for kind, schema in whole.items()
    ]
    keys: dict[str, Any] = {key: {} for schema in whole.values() for key in schema["properties"]}
    return {"type": "object", "properties": keys, "required": ["table", "rules"], "additionalProperties": False,
            "allOf": ways}  # fmt: skip


def _definitions(catalog: Catalog) -> dict[str, Any]:
    documents = catalog.documents
    rules = [row["id"] for table in documents["tables"].values() for row in table["rules"]]
    names: dict[str, Sequence[str]] = {
        "source": list(documents["sources"]), "optimizer": list(documents["optimizers"]),
        "scheduler": list(documents["schedulers"]), "fact": list(catalog.facts), "rule": rules,
        "model": list(catalog.facts["model"]["values"]),
    }  # fmt: skip
    # Layers add names of their own, so what is known is offered and nothing else is refused.
    found: dict[str, Any] = {kind: {"anyOf": [{"enum": ids}, {"type": "string"}]} for kind, ids in names.items()}
    conditions = {name: _condition(fact, several=True) for name, fact in catalog.facts.items()}
    values = {name: _condition(fact, several=False) for name, fact in catalog.facts.items()}
    found["when"] = {"type": "object", "properties": conditions, "additionalProperties": False}
    found["given"] = {"type": "object", "properties": values, "additionalProperties": False}
    return found


def _condition(fact: Mapping[str, Any], *, several: bool) -> dict[str, Any]:
    if "values" in fact:
        words: list[Any] = list(fact["values"])
        words += [UNKNOWN, "known"] if fact.get("unknown") else []
        words += [word == "true" for word in ("true", "false")] if fact["type"] == "flag" else []
        one: dict[str, Any] = {"enum": words}
        if fact.get("values_from"):
            one = {"anyOf": [one, {"type": "string"}]}
    else:
        one = {"type": ["number", "string"]}
    one = {"description": fact["ask"], **one}
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]} if several else one


def editor_line(file: PurePosixPath, kind: str) -> str:
    """Return the comment by which editors find a rule file's schema.

    Args:
        file: The file, from the folder of the rules.
        kind: The schema's name.
    """
    up = "../" * (len(file.parts) - 1)
    return f"# yaml-language-server: $schema={up or './'}{FOLDER}/{kind}.json"


def kind_of(file: PurePosixPath) -> str:
    """Return which schema describes a rule file.

    Args:
        file: The file, from the folder of the rules.
    """
    folder = file.parts[0] if len(file.parts) > 1 else ""
    by_folder = {"optimizers": "optimizer", "schedulers": "scheduler", "decide": "table", "cases": "cases",
                 "frameworks": "framework"}  # fmt: skip
    if folder == "networks":
        return file.stem if file.stem in ("parts", "sources") else "network"
    return by_folder.get(folder) or {"adjust": "table", "warn": "table"}.get(file.stem, file.stem)
