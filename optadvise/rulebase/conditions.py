"""Parser of conditions in rules: values, lists, comparisons and intervals.

A parsed condition is a tuple of accepted items: values of a choice, ranges of a number, or `unknown`.
"""

from __future__ import annotations

import re
from math import isfinite

import yaml

from optadvise.core.cards import UNKNOWN, FactValue, Range
from optadvise.core.claim_cards import EXPERIMENTS
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.units import parse_count
from optadvise.core.yaml_reader import Context, make_choice_reader, read_text
from optadvise.core.yaml_records import register_reader
from optadvise.rulebase.records import ANY_NUMBER, Fact

KNOWN = "known"

_NUM = r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_COMPARISON = re.compile(r"(<=|>=|<|>|=)?\s*" + _NUM)
_INTERVAL = re.compile(r"([\[(])\s*" + _NUM + r"\s*\.\.\s*" + _NUM + r"\s*([\])])")


@register_reader("when")
def read_when(node: yaml.Node, context: Context) -> dict[str, tuple[str | Range, ...]]:
    """Read a `when:` mapping of declared facts to conditions."""
    if not isinstance(node, yaml.MappingNode):
        context.fail(node, "expected a mapping of facts to conditions, such as {model: cnn}")
    conditions: dict[str, tuple[str | Range, ...]] = {}
    for key_node, value_node in node.value:
        name = read_text(key_node, context)
        if name not in context.facts:
            message = f"unknown fact {name!r}; {suggest_name(name, context.facts)}"
            context.fail(key_node, message, ErrorCode.UNKNOWN_REFERENCE)
        if name in conditions:
            context.fail(key_node, f"fact {name!r} appears twice; use a list", ErrorCode.DUPLICATE_ENTRY)
        conditions[name] = tuple(_condition(value_node, context, context.facts[name]))
    return conditions


@register_reader("given")
def read_given(node: yaml.Node, context: Context) -> dict[str, FactValue]:
    """Read a `given:` mapping of declared facts to single values, for tests of rules."""
    values: dict[str, FactValue] = {}
    for name, accepted in read_when(node, context).items():
        if len(accepted) != 1:
            context.fail(node, f"{name!r} must have a single value in a test")
        item = accepted[0]
        if isinstance(item, Range):
            if item.low is None or item.low != item.high:
                context.fail(node, f"{name!r} must be a number in a test, not a range")
            values[name] = item.low
        else:
            values[name] = None if item == UNKNOWN else item
    return values


def _condition(node: yaml.Node, context: Context, fact: Fact) -> list[str | Range]:
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not items:
        context.fail(node, f"an empty list never matches; remove {fact.id!r} to accept any value")
    read = _choices if fact.type in ("choice", "flag") else _numbers
    return [accepted for item in items for accepted in read(item, context, fact)]


def _choices(node: yaml.Node, context: Context, fact: Fact) -> list[str | Range]:
    value = read_text(node, context)
    if value == UNKNOWN and fact.unknown:
        return [UNKNOWN]
    values = list(fact.values or ())
    if value == KNOWN and fact.unknown:
        return [*values]
    if value not in values:
        options = [*values, UNKNOWN] if fact.unknown else values
        context.fail(node, f"{value!r} is not a value of {fact.id!r}; {suggest_name(value, options)}")
    return [value]


def _numbers(node: yaml.Node, context: Context, fact: Fact) -> list[str | Range]:
    value = read_text(node, context)
    if value in (UNKNOWN, KNOWN):
        if not fact.unknown:
            context.fail(node, f"{fact.id!r} is always known; remove it to accept any value")
        return [UNKNOWN] if value == UNKNOWN else [ANY_NUMBER]
    return [read_range(node, context, f" for {fact.id!r}")]


def read_range(node: yaml.Node, context: Context, suffix: str = "") -> Range:
    """Read a number, a comparison or an interval.

    Args:
        suffix: End of the error message.
    """
    value = read_text(node, context)
    if len(value) > 100 or any(not isfinite(float(number)) for number in re.findall(_NUM, value)):
        context.fail(node, "the number is too large")
    if match := _COMPARISON.fullmatch(value):
        bound = float(match[2])
        exact = Range(low=bound, low_closed=True, high=bound, high_closed=True)
        return {
            "<": Range(low=None, low_closed=False, high=bound, high_closed=False),
            "<=": Range(low=None, low_closed=False, high=bound, high_closed=True),
            ">": Range(low=bound, low_closed=False, high=None, high_closed=False),
            ">=": Range(low=bound, low_closed=True, high=None, high_closed=False),
        }.get(match[1] or "=", exact)
    if match := _INTERVAL.fullmatch(value):
        low, high = float(match[2]), float(match[3])
        if low > high:
            context.fail(node, f"the interval is empty: {low:g} is above {high:g}")
        return Range(low=low, low_closed=match[1] == "[", high=high, high_closed=match[4] == "]")
    return context.fail(
        node, f"expected a number, a comparison such as '> 8192' or an interval such as '[4..8)'{suffix}"
    )


@register_reader("count")
def _read_count(node: yaml.Node, context: Context) -> int:
    try:
        return parse_count(read_text(node, context), "the count")
    except InputError as error:
        context.fail(node, str(error))


register_reader("range")(read_range)
register_reader("experiment")(make_choice_reader(*EXPERIMENTS))
