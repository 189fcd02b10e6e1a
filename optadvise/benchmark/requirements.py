"""Requirements on measured figures: `--require` and its verdicts."""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections.abc import Iterable

from msgspec import Struct

from optadvise.benchmark.metrics import METRICS, Metric
from optadvise.benchmark.records import Figure, Verdict
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.units import parse_bytes

_REQUIREMENT = re.compile(r"([A-Za-z_-]+)\s*(<=|>=|<|>)\s*(\S(?:.*\S)?)", re.DOTALL)
_BOUND = re.compile(r"(-?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµμ×]*)", re.IGNORECASE | re.ASCII)
_TIME_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6}
_EXAMPLES = "'state_bytes_per_parameter <= 2.1' or 'optimizer_seconds <= 1.3x'"
_COMPARISONS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}


class Requirement(Struct, frozen=True):
    """Bound on a measured figure."""

    text: str  # as typed
    metric: str  # a key of METRICS
    op: str  # <= < >= >
    bound: float  # in the metric's unit, or a multiple of the control's figure if relative
    relative: bool

    def is_met_by(self, value: float) -> bool:
        """Return whether a value satisfies the bound."""
        is_met: bool = _COMPARISONS[self.op](value, self.bound)
        return is_met


def parse_requirement(text: str) -> Requirement:
    """Parse a `--require` text; it is never evaluated as code.

    Args:
        text: `METRIC OP BOUND`. BOUND is a number in the metric's unit (bytes, seconds), a number with a unit
            (`2GB`, `5ms`), or a multiple of the control's figure (`1.3x`).

    Raises:
        InputError: The text is not a requirement, or the metric is unknown.

    Example:
        >>> requirement = parse_requirement("optimizer_seconds <= 1.3x")
        >>> requirement.metric, requirement.op, requirement.bound, requirement.relative
        ('optimizer_seconds', '<=', 1.3, True)
    """
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        raise _reject(text, f"must be METRIC OP BOUND with OP one of <= < >= >, such as {_EXAMPLES}")
    name = match[1].lower().replace("-", "_")
    if name not in METRICS:
        raise InputError(
            f"--require {text!r}: unknown metric {match[1]!r}; {suggest_name(name, METRICS)}",
            code=ErrorCode.UNKNOWN_CHOICE, option="--require", value=match[1],
        )  # fmt: skip
    bound, relative = _parse_bound(match[3], METRICS[name], text)
    if relative and not METRICS[name].has_ratio:
        others = ", ".join(other for other, metric in METRICS.items() if metric.has_ratio)
        raise _reject(text, f"{name} requires an absolute bound; multiples such as 1.3x are for {others}")
    return Requirement(text=text.strip(), metric=name, op=match[2], bound=bound, relative=relative)


def _parse_bound(text: str, metric: Metric, requirement: str) -> tuple[float, bool]:
    """Return a bound in the metric's unit, and whether it is a multiple of the control's figure."""
    match = _BOUND.fullmatch(text)
    value, unit = (float(match[1]), match[2].lower()) if match else (math.nan, "")
    is_signed = metric.quantity == "signed" and unit == ""
    if math.isfinite(value) and (value >= 0 or is_signed):
        if unit in ("x", "×") and value > 0:
            return value, True
        if unit == "":
            return value, False
        if metric.quantity == "seconds" and unit in _TIME_UNITS:
            return value * _TIME_UNITS[unit], False
        if metric.quantity == "bytes" and unit not in ("x", "×"):
            with contextlib.suppress(InputError):  # the error below has the whole requirement
                return float(parse_bytes(text, "--require")), False
    units = {"bytes": " or a size such as 800MB", "seconds": " or a time such as 5ms, 200us or 1.5s"}
    accepted = f"a number{units.get(metric.quantity, '')}"
    if metric.has_ratio:
        accepted += ", or a multiple of the control such as 1.3x"
    raise _reject(requirement, f"invalid bound {text!r}; use {accepted}")


def _reject(text: str, problem: str) -> InputError:
    """Return the error for a text that is not a requirement."""
    message = f"--require {text!r}: {problem}"
    return InputError(message, code=ErrorCode.INVALID_REQUIREMENT, option="--require", value=text)


def judge(requirement: Requirement, figure: Figure | None) -> Verdict:
    """Return `pass` or `fail` if the whole interval is on one side of the bound, `inconclusive` otherwise.

    Args:
        figure: Value in the bound's unit, or the ratio to the control for a relative bound; None if not measured. An
            exact metric (bytes, loss, first step) is judged by its value; a repeated timing without an interval (too
            few samples) is inconclusive.
    """
    if figure is None or (figure.interval is None and METRICS[requirement.metric].is_repeated):
        return "inconclusive"
    ends = (figure.value,) if figure.interval is None else figure.interval.ends
    if not all(math.isfinite(end) for end in (figure.value, *ends)):
        return "inconclusive"
    is_met = [requirement.is_met_by(end) for end in ends]
    return "pass" if all(is_met) else "inconclusive" if any(is_met) else "fail"


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return the worst of several verdicts; None for no verdicts."""
    present = set(verdicts)
    order: tuple[Verdict, ...] = ("fail", "inconclusive", "pass")
    return next((verdict for verdict in order if verdict in present), None)
