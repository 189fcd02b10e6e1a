"""Values of numeric options as text that can be typed, rounded inside the range in which an answer holds."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from optadvise.core.errors import InputError
from optadvise.core.records import Situation
from optadvise.core.units import parse_bytes, parse_count
from optadvise.rulebase.records import Fact

_EXACT = 100_000  # smaller counts are not rounded
_DIGITS = range(3, 20)  # significant digits to try
_COUNT_UNITS = (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))
_MEMORY_UNITS = (("GB", 2**30), ("MB", 2**20), ("KB", 2**10))  # GB means GiB, as in --vram
_LARGEST_BYTES = 2**50


def find_limits(fact: Fact) -> tuple[int, int]:
    """Return the smallest and the largest accepted value of a numeric option."""
    return fact.min_value or 1, fact.max_value or _LARGEST_BYTES


def find_step(situation: Situation, fact: str) -> int:
    """Return the number of which a value must be a multiple: a batch is divided over GPUs and micro-batches."""
    if fact != "batch_size":
        return 1
    micro_batch = situation.micro_batch if "micro_batch" in situation.stated else None
    return situation.gpus * (micro_batch or 1)


def write_end(fact: Fact, low: int, high: int, step: int, *, at_low: bool) -> str | None:
    """Return the value at one end of a range as option text, with the fewest digits that stay inside the range.

    Args:
        fact: The fact that the option sets.
        low: Smallest value of the range.
        high: Largest value of the range.
        step: The value must be a multiple of it.
        at_low: Write the low end, otherwise the high end.

    Returns:
        The text; None if no multiple of the step is in the range.
    """
    low, high = -(-low // step) * step, high // step * step
    if low > high:
        return None
    end = low if at_low else high
    for digits in _DIGITS:
        text = _round(fact, end, digits, up=at_low)
        value = read_value(fact, text)
        if value is not None and low <= value <= high and value % step == 0:
            return text
    return f"{end}B" if fact.type == "bytes" else str(end)


def read_value(fact: Fact, text: str) -> int | None:
    """Return the value of a numeric option; None if the option rejects the text."""
    flag = fact.flag or ""
    try:
        if fact.type == "bytes":
            return parse_bytes(text, flag)
        return parse_count(text, flag, fact.max_value, binary=fact.binary)
    except InputError:
        return None


def _round(fact: Fact, number: int, digits: int, *, up: bool) -> str:
    """Return a number rounded up or down to significant digits, with the largest unit that it reaches."""
    if fact.type != "bytes" and number < _EXACT:
        return str(number)
    units = _MEMORY_UNITS if fact.type == "bytes" else _COUNT_UNITS
    unit, size = next(((unit, size) for unit, size in units if number >= size), ("B", 1))
    scaled = Decimal(number) / size
    last_digit = Decimal(1).scaleb(min(scaled.adjusted() - digits + 1, 0))
    rounded = scaled.quantize(last_digit, ROUND_CEILING if up else ROUND_FLOOR)
    text = f"{rounded:f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{unit}"
