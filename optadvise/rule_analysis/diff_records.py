"""Records of the differences between two sets of rules."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, to_builtins

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.json_text import JsonObject
from optadvise.rule_analysis.describe import describe_box
from optadvise.rule_analysis.inputs_of_point import find_inputs, format_command
from optadvise.rule_analysis.reachability import find_read
from optadvise.rulebase.regions import Box

NO_RULE = "no rule"  # answer of a table without a rule for the situation
_POSITIONS = ("at", "layer")  # keys of an entry's position, which comparisons ignore


class RuleChange(Struct, frozen=True):
    """Situations that two sets of rules answer differently."""

    where: str  # description of the situations
    old: str
    new: str
    witness: str | None  # command line that shows the change; None if only a requested optimizer shows it


class Section(Struct, frozen=True):
    """Changes of one kind of answer."""

    title: str
    changes: tuple[RuleChange, ...]


class Difference(Struct, frozen=True):
    """All differences between two sets of rules."""

    sections: tuple[Section, ...]
    cards: tuple[str, ...]  # lines about entries added, removed or changed outside the tables

    @property
    def same(self) -> bool:
        """Return whether nothing differs."""
        return not self.sections and not self.cards


class RulePair(Struct, frozen=True):
    """Two sets of rules with the same axes."""

    before: CompiledRules
    after: CompiledRules


def make_change(pair: RulePair, table: str, box: Box, old: str, new: str) -> RuleChange | None:
    """Return a change with its witness; None if no situation in the box is reachable."""
    for rules in (pair.after, pair.before):
        point = find_read(rules, table, box)
        if point is not None:
            inputs = find_inputs(rules, point)
            witness = None if inputs is None else format_command(rules, inputs)
            return RuleChange(where=describe_box(box, rules.axes), old=old, new=new, witness=witness)
    return None


def omit_positions(entry: Struct) -> JsonObject:
    """Return a record as plain data without positions and layers, for comparisons between folders."""
    data: JsonObject = _omit_positions(to_builtins(entry))
    return data


def _omit_positions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _omit_positions(inner) for key, inner in value.items() if key not in _POSITIONS}
    return [_omit_positions(inner) for inner in value] if isinstance(value, list | tuple) else value
