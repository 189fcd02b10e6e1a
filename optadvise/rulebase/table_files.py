"""Reading of table files. The kind of the table determines the type of `then`; a layer can omit it."""

from __future__ import annotations

from typing import Any

import yaml
from msgspec.structs import asdict, fields, replace

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import suggest_name
from optadvise.core.yaml_reader import Context
from optadvise.core.yaml_records import find_reader, read_record, register_reader
from optadvise.rulebase.table_records import (
    FREE_KEYS,
    OUTCOMES,
    OtherwiseEntry,
    Outcome,
    Rule,
    RuleEntry,
    TableEntry,
    TableFile,
    WarningText,
)

_REQUIRED_KEYS = ("kind", "hit_policy", "about")  # required in the lowest layer that has the table


@register_reader("outcome")
def read_outcome(node: yaml.Node, context: Context) -> Outcome:
    """Read a rule's `then` as the outcome type of the current table kind."""
    kind = OUTCOMES[context.table_kind]
    if context.table_kind not in FREE_KEYS:
        return read_record(kind, node, context)
    (values,) = fields(kind)
    return kind(**{values.name: find_reader(values.type)(node, context)})


def read_table(node: yaml.Node, context: Context, existing: TableFile | None, layer: str) -> TableFile:
    """Read a table.

    Args:
        existing: The table of the lower layers, or None.

    Returns:
        The table with the rules of this file only.

    Raises:
        RuleFileError: The file is invalid.
    """
    context.table_kind = peek(node, "kind") or (existing.kind if existing else "")
    if context.table_kind not in OUTCOMES:
        hint = suggest_name(context.table_kind, OUTCOMES)
        if not context.table_kind:
            context.fail(node, f"missing key: kind; {hint}", ErrorCode.MISSING_KEY)
        context.fail(node, f"kind {context.table_kind!r} is not supported; {hint}")
    entry = read_record(TableEntry, node, context)

    def inherit(key: str) -> Any:
        value = getattr(entry, key)
        return getattr(existing, key, None) if value is None else value

    missing = [key for key in _REQUIRED_KEYS if inherit(key) is None]
    if missing:
        message = f"missing key{'s' if len(missing) > 1 else ''}: {', '.join(missing)}"
        context.fail(node, message, ErrorCode.MISSING_KEY)
    otherwise = None if entry.otherwise is None else _rule(entry.otherwise, entry.table, layer)
    when = entry.when or (existing.when if existing else {})
    rules = tuple(_rule(replace(row, when={**when, **row.when}), entry.table, layer) for row in entry.rules)
    return TableFile(
        table=entry.table, kind=inherit("kind"), hit_policy=inherit("hit_policy"), about=inherit("about"),
        output=inherit("output"), when=existing.when if existing else when,
        rules=rules, otherwise=otherwise, at=entry.at,
    )  # fmt: skip


def _rule(entry: RuleEntry | OtherwiseEntry, table: str, layer: str) -> Rule:
    values = asdict(entry)
    if not entry.because and isinstance(entry.then, WarningText):
        values["because"] = entry.then.text
    return Rule(**values, table=table, layer=layer)


def peek(node: yaml.Node, key: str) -> str:
    """Return a scalar value of an unread mapping; empty if the key does not exist."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(v.value) for k, v in pairs if k.value == key and isinstance(v, yaml.ScalarNode)), "")
