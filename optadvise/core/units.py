"""Parsing and formatting of sizes and counts such as `24GB`, `7B`, `8K` and `124e6`."""

from __future__ import annotations

import re

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

GIB = 2**30

# GPU makers write GB for GiB, so both spellings of a memory size are binary.
_MEMORY_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_COUNT_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}

_NUMBER = r"(\d+(?:_\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?|\.\d+)"
_MEMORY = re.compile(_NUMBER + r"\s*(B|[KMGT](?:I?B)?|)", re.IGNORECASE)
_COUNT = re.compile(_NUMBER + r"\s*([KMBGT]?)", re.IGNORECASE)
_LARGEST = 10**18
MAX_TIMEOUT = 10**7  # seconds


def parse_bytes(text: str, flag: str) -> int:
    """Return a memory size in bytes.

    Args:
        text: A number with a unit: `24GB` and `24GiB` are both 24 · 2^30 bytes, as GPU makers count. Without a unit,
            numbers up to 1024 are GiB, and numbers from 1,048,576 on are bytes.

    Raises:
        InputError: The text is not a memory size, or is not above 0.

    Example:
        >>> parse_bytes("24GB", "--vram")
        25769803776
    """
    match = _MEMORY.fullmatch(text.strip())
    number = 0.0 if match is None else float(match[1].replace("_", ""))
    if match is None or (not match[2] and 1024 < number < 2**20):
        raise InputError(
            f"{flag} {text!r}: not a memory size above 0; use a form such as 24GB, 24GiB, 800MB, or 24 for 24 GiB",
            code=ErrorCode.INVALID_NUMBER, option=flag, value=text,
        )  # fmt: skip
    default = "G" if number <= 1024 else "B"
    return _positive(number * _MEMORY_UNITS[(match[2] or default)[0].upper()], text, flag)


def parse_count(text: str, flag: str, max_value: int | None = None, *, binary: bool = False) -> int:
    """Return a count.

    Args:
        text: A plain number, or one with K (1000), M, B or T: `7B`, `350M`, `124e6`, `8K` is 8000.
        flag: Option of the value, for the error message.
        max_value: Largest accepted value; None for 1e18.
        binary: Whether K is 1024 after a power of two, as in batches and lengths of 8K or 64K.

    Raises:
        InputError: The text is not a number, or the number is not whole or out of range.

    Example:
        >>> parse_count("7B", "--params")
        7000000000
        >>> parse_count("64K", "--batch-size", binary=True), parse_count("100K", "--batch-size", binary=True)
        (65536, 100000)
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{flag} {text!r}: not a number above 0; use a form such as 256, 8K, 350M, 7B or 124e6",
            code=ErrorCode.INVALID_NUMBER, option=flag, value=text,
        )  # fmt: skip
    number, unit = float(match[1].replace("_", "")), match[2].upper()
    is_power = number >= 1 and number.is_integer() and int(number) & (int(number) - 1) == 0
    factor = 1024 if binary and unit == "K" and is_power else _COUNT_UNITS[unit]
    return _positive(number * factor, text, flag, max_value)


def _positive(value: float, text: str, flag: str, max_value: int | None = None) -> int:
    if not 0 < value <= (max_value or _LARGEST):
        upper = f"{max_value:,}" if max_value else "1e18"
        message = f"{flag} {text!r}: must be above 0 and at most {upper}"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option=flag, value=text)
    if abs(value - round(value)) > 1e-6 * value:
        message = f"{flag} {text!r}: must be a whole number"
        raise InputError(message, code=ErrorCode.INVALID_NUMBER, option=flag, value=text)
    return round(value)


def check_timeout(seconds: float) -> None:
    """Check the value of `--timeout`.

    Raises:
        InputError: It is not above 0, or more than 115 days.
    """
    if not 0 < seconds <= MAX_TIMEOUT:
        message = f"--timeout {seconds:g}: must be above 0 and at most {MAX_TIMEOUT:,} seconds"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--timeout", value=seconds)


def show_bytes(count: float) -> str:
    """Return a size in bytes as text with three digits and a unit.

    Example:
        >>> show_bytes(25769803776)
        '24 GiB'
    """
    if count >= 1000 * GIB:
        return f"{count / GIB:,.0f} GiB"
    if count >= 1000 * 2**20:
        return f"{count / GIB:.3g} GiB"
    if count >= 2**20 / 2:
        return f"{count / 2**20:.3g} MiB"
    return f"{count / 1024:.3g} KiB" if count >= 1024 else f"{count:.0f} bytes"


def show_count(count: float) -> str:
    """Return a count as text with three digits and a unit.

    Example:
        >>> show_count(6_738_415_616)
        '6.74B'
    """
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= 0.9995 * size:  # 999.9M is 1B
            return f"{count / size:,.0f}{unit}" if count >= 1000 * size else f"{count / size:.3g}{unit}"
    return f"{count:.4g}"


def show_max_count(count: int) -> str:
    """Return the largest allowed count as text, rounded down to three digits.

    Example:
        >>> show_max_count(1_728_999_999)
        '1.72B'
    """
    unit = 10 ** max(len(str(count)) - 3, 0)
    return show_count(count // unit * unit)


def show_share(share: float) -> str:
    """Return a fraction as a percentage.

    Example:
        >>> show_share(0.016), show_share(2.157), show_share(1e9)
        ('1.6 %', '216 %', 'over 10,000 %')
    """
    if share > 100:
        return "over 10,000 %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def show_figure(value: float) -> str:
    """Return a measured figure with three digits, and without an exponent if it is large.

    Example:
        >>> show_figure(1.2668), show_figure(304123.7)
        ('1.27', '304,124')
    """
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def show_number(value: float) -> str:
    """Return a number in short form, such as `3e-4`, `0.1` or `1e-3`.

    Example:
        >>> show_number(0.0003)
        '3e-4'
    """
    if value == 0 or 0.01 <= abs(value) < 100_000:
        return f"{value:.6g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
