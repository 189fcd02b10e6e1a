"""Text of conditions."""

from __future__ import annotations

from collections.abc import Iterable

from optadvise.core.cards import Range
from optadvise.rulebase.hyperparameters import format_value


def format_condition(condition: Iterable[str | Range], separator: str = ", ") -> str:
    """Return the values that a condition accepts.

    Example:
        >>> format_condition(["cnn", Range(256, None, True, False)])
        'cnn, >= 256'
        >>> format_condition([Range(4, 8, True, False)])
        '4 to below 8'
    """
    return separator.join(_format_range(item) if isinstance(item, Range) else item for item in condition)


def _format_range(item: Range) -> str:
    low, high = item.low, item.high
    if low is None:
        return "known" if high is None else f"{'<=' if item.high_closed else '<'} {format_value(high)}"
    if high is None:
        return f"{'>=' if item.low_closed else '>'} {format_value(low)}"
    if low == high:
        return f"{format_value(low)}"
    above, below = "" if item.low_closed else "above ", "" if item.high_closed else "below "
    return f"{above}{format_value(low)} to {below}{format_value(high)}"
