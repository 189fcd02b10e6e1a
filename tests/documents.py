"""Conversion of facts and tables from and to plain data, for randomized tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from optadvise.core.cards import Range
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact
from optadvise.rulebase.table_records import FREE_KEYS, OUTCOMES, Rule, TableFile


def fact_of(data: Mapping[str, Any]) -> Fact:
    """Return a fact from plain data, with any question."""
    return msgspec.convert({"ask": "?", **data}, Fact)


def facts_of(data: Mapping[str, Mapping[str, Any]]) -> dict[str, Fact]:
    """Return facts by id from plain data."""
    return {name: fact_of(fact) for name, fact in data.items()}


def fact_data(fact: Fact) -> dict[str, Any]:
    """Return a fact as plain data, including `unknown`."""
    data: dict[str, Any] = msgspec.to_builtins(fact)
    return {"unknown": fact.unknown, **data}


def table_of(document: Mapping[str, Any]) -> TableFile:
    """Return a table from plain data; a range is `[low, low_closed, high, high_closed]`."""
    kind = document["kind"]
    rules = tuple(_rule_of(row, document["table"], kind) for row in document["rules"])
    otherwise = _rule_of(document["otherwise"], document["table"], kind) if document.get("otherwise") else None
    fields = {key: value for key, value in document.items() if key not in ("rules", "otherwise")}
    return TableFile(**fields, rules=rules, otherwise=otherwise)


def _rule_of(row: Mapping[str, Any], table: str, kind: str) -> Rule:
    when = {name: ranges_of(condition) for name, condition in row.get("when", {}).items()}
    then = {"values": row["then"]} if kind in FREE_KEYS else row["then"]
    outcome = msgspec.convert({"type": kind, **then}, OUTCOMES[kind])
    plain = {"cite": (), "tests": (), **row, "table": table, "when": {}, "then": {"type": kind, **then}}
    return replace(msgspec.convert(plain, Rule, strict=False), when=when, then=outcome)


def ranges_of(condition: Iterable[Any]) -> tuple[str | Range, ...]:
    """Return a condition from plain data."""
    return tuple(_item(item) for item in condition)


def _item(item: Any) -> str | Range:
    return item if isinstance(item, str) else Range(*item)


def table_data(table: TableFile) -> dict[str, Any]:
    """Return a table as plain data."""
    data: dict[str, Any] = msgspec.to_builtins(table)
    for row, rule in zip(
        (*data["rules"], *([data["otherwise"]] if table.otherwise else ())), table.all_rules, strict=True
    ):
        row["then"] = rule.outcome
        row["when"] = {name: [_plain(item) for item in condition] for name, condition in rule.when.items()}
        row.setdefault("overrides", [])
    return data


def _plain(item: str | Range) -> Any:
    return item if isinstance(item, str) else [item.low, item.low_closed, item.high, item.high_closed]


def with_rows(catalog: Catalog, document: Mapping[str, Any]) -> Catalog:
    """Return a catalog with one table replaced, given as plain data."""
    return with_table(catalog, table_of(document))


def with_table(catalog: Catalog, table: TableFile) -> Catalog:
    """Return a catalog with one table replaced."""
    return catalog.with_base(replace(catalog.base, tables={**catalog.base.tables, table.table: table}))
