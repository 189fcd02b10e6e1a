"""A team's own layer over the rules before it: rows that are added or replaced, amended, or ruled out with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optadvise.core.errors import RuleFileError, nearest

Documents = dict[str, Any]
Row = dict[str, Any]


def merge_table(existing: Row, new: Row, layer: str) -> None:
    """Add a layer's rows to a table: one with a known id replaces the row of that id, others are added.

    Args:
        existing: The table so far; changed in place.
        new: The same table as a later layer has it.
        layer: The later layer's name.

    Raises:
        RuleFileError: The two say different things about the table, or a new row has no place in an ordered one.
    """
    for key in ("kind", "hit", "gives"):
        if key in new and new[key] != existing.get(key):
            message = f"table {existing['table']!r} has `{key}: {existing.get(key)}`, which a layer cannot change"
            raise RuleFileError(message, new["at"])
    rows: list[Row] = existing["rules"]
    for row in new["rules"]:
        position = {known["id"]: number for number, known in enumerate(rows)}
        before = row.pop("before", None)
        if before is not None and before not in position:
            raise RuleFileError(f"`before` names {before!r}; {nearest(before, position)}", row["at"])
        if row["id"] in position:
            at = position[row["id"]]
            if rows[at]["layer"] == layer:
                raise RuleFileError(f"rule id {row['id']!r} is used twice, first at {rows[at]['at']}", row["at"])
            rows[at] = row
        elif existing["hit"] == "first":
            if before is None:
                message = f"table {existing['table']!r} is ordered: say `before: ID` the row that {row['id']} precedes"
                raise RuleFileError(message, row["at"])
            rows.insert(position[before], row)
        else:
            rows.append(row)
    if "otherwise" in new:
        existing["otherwise"] = new["otherwise"]


def apply_policy(documents: Documents, policies: list[tuple[int, str, Row]]) -> None:
    """Carry out what layers amend and rule out, the lowest layer first.

    Args:
        documents: Everything that was read; changed in place.
        policies: Number and name of a layer, and what its policy says.

    Raises:
        RuleFileError: Something is named that is not there, or nothing is left to choose.
    """
    for _, layer, policy in sorted(policies, key=lambda entry: entry[0]):
        for entry in policy.get("amend", []):
            _amend(documents, entry, layer)
        for entry in policy.get("disable", []):
            _disable(documents, entry, layer)


def _rows(documents: Documents) -> Iterator[tuple[Row, Row]]:
    for table in documents["tables"].values():
        for row in table["rules"]:
            yield table, row


def _found(documents: Documents, name: str, at: str) -> tuple[Row, Row]:
    found = next(((table, row) for table, row in _rows(documents) if row["id"] == name), None)
    if found is None:
        known = nearest(name, [row["id"] for _, row in _rows(documents)])
        raise RuleFileError(f"no rule {name!r} to change; {known}".rstrip("; "), at)
    return found


def _amend(documents: Documents, entry: Row, layer: str) -> None:
    _, row = _found(documents, entry["rule"], entry["at"])
    row["when"] = {**row["when"], **entry["when"]}
    row["because"] = entry["because"]
    row["tests"] = entry["tests"]
    row["cite"] = entry.get("cite", row["cite"])
    row |= {"layer": layer, "at": entry["at"]}


def _disable(documents: Documents, entry: Row, layer: str) -> None:
    kinds = [kind for kind in ("rule", "optimizer") if kind in entry]
    if len(kinds) != 1:
        raise RuleFileError("say either `rule: ID` or `optimizer: ID`", entry["at"])
    if kinds == ["rule"]:
        table, row = _found(documents, entry["rule"], entry["at"])
        table["rules"].remove(row)
        documents["disabled_rules"].append(entry["rule"])
        for _, other in _rows(documents):
            if entry["rule"] in other.get("overrides", ()):
                other["overrides"] = [name for name in other["overrides"] if name != entry["rule"]]
        return
    name = entry["optimizer"]
    if name not in documents["optimizers"]:
        raise RuleFileError(f"no optimizer {name!r} to rule out; {nearest(name, documents['optimizers'])}", entry["at"])
    documents["disabled"][name] = {"because": entry["because"], "layer": layer, "at": entry["at"]}
    for card in documents["optimizers"].values():
        needs = card.get("companion", {}).get("optimizer")
        if needs in documents["disabled"] and card["id"] not in documents["disabled"]:
            raise RuleFileError(f"{card['id']} needs {needs} beside it; rule out both", entry["at"])
    documents["fixes"] = [
        fix for fix in documents["fixes"] if fix["change"].get("optimizer") not in documents["disabled"]
    ]
    for table in documents["tables"].values():
        if table["kind"] == "choose":
            for row in (*table["rules"], *([table["otherwise"]] if "otherwise" in table else [])):
                _choose_another(row, documents["disabled"], entry, layer)


def _choose_another(row: Row, disabled: Mapping[str, Row], entry: Row, layer: str) -> None:
    """Let a row name the first of its alternatives that is still allowed."""
    then = row["then"]
    left = {name: why for name, why in then.get("alternatives", {}).items() if name not in disabled}
    chosen = then.get("optimizer")
    if chosen in disabled:
        if not left:
            message = f"{row['id']} chooses {chosen} and names no alternative; replace the row in this layer"
            raise RuleFileError(message, entry["at"])
        other, why = next(iter(left.items()))
        del left[other]
        for test in row["tests"]:
            if test["expect"].get("optimizer") == chosen:
                test["expect"]["optimizer"] = other
        row["because"] = f"{why}; {chosen} would come first, but {layer} rules it out: {disabled[chosen]['because']}"
        row["layer"] = layer
        then = {**then, "optimizer": other}
    row["then"] = {**then, "alternatives": left} if left else {k: v for k, v in then.items() if k != "alternatives"}
