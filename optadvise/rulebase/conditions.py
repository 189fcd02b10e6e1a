"""The condition language of rules: equal, any of, comparisons and intervals. Nothing is evaluated.

A condition becomes plain data. On a choice: the list of accepted words. On a number: a list of
`[low, low_closed, high, high_closed]`, with `null` for no bound, or the word `unknown`.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

import yaml

from optadvise.core.errors import nearest
from optadvise.core.records import UNKNOWN
from optadvise.core.yaml_reader import Context, shaped, text

KNOWN = "known"

_NUM = r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_COMPARISON = re.compile(r"(<=|>=|<|>|=)?\s*" + _NUM)
_INTERVAL = re.compile(r"([\[(])\s*" + _NUM + r"\s*\.\.\s*" + _NUM + r"\s*([\])])")
_EVERYTHING = [None, False, None, False]


@shaped({"$ref": "#/$defs/when"})
def when(node: yaml.Node, context: Context) -> dict[str, list[Any]]:
    """Read a `when:` mapping of facts to conditions against the facts that are declared."""
    if not isinstance(node, yaml.MappingNode):
        context.fail(node, "expected a mapping of facts to conditions, as in {model: cnn}")
    conditions: dict[str, list[Any]] = {}
    for key_node, value_node in node.value:
        name = text(key_node, context)
        if name not in context.facts:
            context.fail(key_node, f"unknown fact {name!r}; {nearest(name, context.facts)}")
        if name in conditions:
            context.fail(key_node, f"fact {name!r} appears twice; write a list")
        conditions[name] = _condition(value_node, context, name)
    return conditions


@shaped({"$ref": "#/$defs/given"})
def given(node: yaml.Node, context: Context) -> dict[str, Any]:
    """Read a `given:` mapping of facts to single values, as the tests beside rules use."""
    values: dict[str, Any] = {}
    for name, accepted in when(node, context).items():
        if len(accepted) != 1:
            context.fail(node, f"a test gives {name!r} one value, not several")
        value = accepted[0]
        if isinstance(value, list):
            if value[0] is None or value[0] != value[2]:
                context.fail(node, f"a test gives {name!r} one number, not a range")
            value = value[0]
        values[name] = None if value == UNKNOWN else value
    return values


def _condition(node: yaml.Node, context: Context, name: str) -> list[Any]:
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not items:
        context.fail(node, f"an empty list never matches; leave {name!r} out to accept any value")
    fact = context.facts[name]
    read = _word if fact["type"] in ("choice", "flag") else _range
    return [accepted for item in items for accepted in read(item, context, name, fact)]


def _word(node: yaml.Node, context: Context, name: str, fact: Any) -> list[Any]:
    value = text(node, context)
    if value == UNKNOWN and fact.get("unknown"):
        return [UNKNOWN]
    values = list(fact["values"])
    if value == KNOWN and fact.get("unknown"):
        return values
    if value not in values:
        options = [*values, UNKNOWN] if fact.get("unknown") else values
        context.fail(node, f"{value!r} is no value of {name!r}; {nearest(value, options)}")
    return [value]


def _range(node: yaml.Node, context: Context, name: str, fact: Any) -> list[Any]:
    value = text(node, context)
    if value in (UNKNOWN, KNOWN):
        if not fact.get("unknown"):
            context.fail(node, f"{name!r} is always known; leave it out to accept any value")
        return [UNKNOWN] if value == UNKNOWN else [_EVERYTHING]
    return [_bounds(node, context, f" for {name!r}")]


@shaped({"type": ["number", "string"]})
def span(node: yaml.Node, context: Context) -> list[Any]:
    """Read the numbers that are accepted: one, a comparison, or an interval."""
    return _bounds(node, context)


def _bounds(node: yaml.Node, context: Context, whose: str = "") -> list[Any]:
    value = text(node, context)
    if len(value) > 100 or any(not isfinite(float(number)) for number in re.findall(_NUM, value)):
        context.fail(node, "is no number that a computer holds; write a smaller one")
    if match := _COMPARISON.fullmatch(value):
        bound = float(match[2])
        return {
            "<": [None, False, bound, False],
            "<=": [None, False, bound, True],
            ">": [bound, False, None, False],
            ">=": [bound, True, None, False],
        }.get(match[1] or "=", [bound, True, bound, True])
    if match := _INTERVAL.fullmatch(value):
        low, high = float(match[2]), float(match[3])
        if low > high:
            context.fail(node, f"empty interval: {low:g} is above {high:g}")
        return [low, match[1] == "[", high, match[4] == "]"]
    return context.fail(
        node, f"expected a number, a comparison such as '> 8192' or an interval such as '[4..8)'{whose}"
    )
