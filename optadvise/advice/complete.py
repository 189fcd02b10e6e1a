"""Complete situations: the stated inputs, with the defaults of the rules and the usual sample length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.records import Situation


def complete_situation(rules: CompiledRules, inputs: Mapping[str, Any]) -> Situation:
    """Return the complete situation that stated inputs describe.

    Args:
        rules: The compiled rules.
        inputs: Values by fact, only what was stated; `shape` is a network's shape.

    Raises:
        InputError: Two inputs contradict each other.
    """
    if "shape" in inputs:
        inputs = {**inputs, "params": rules.sizing.params(inputs["shape"])}
    situation = rules.completer.complete(inputs)
    return situation if situation.params is None else rules.sizing.completed(situation)


def change_situation(rules: CompiledRules, situation: Situation, changes: Mapping[str, Any]) -> Situation:
    """Return a complete situation after changes.

    Args:
        rules: The compiled rules.
        situation: The situation before.
        changes: New values by fact, those of defaults that follow included.
    """
    if situation.params is None and changes.get("params") is None:
        return replace(situation, **changes)
    return rules.sizing.changed(situation, changes)
