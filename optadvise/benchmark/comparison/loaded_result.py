"""One of the two results that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from optadvise.benchmark.records import ArmResult, BenchmarkResult, Environment
from optadvise.benchmark.spec import Spec

Side = Literal["BASE", "NEW"]


class LoadedResult(Struct, frozen=True):
    """A result, and how it is called in a comparison."""

    side: Side
    name: str  # as typed
    result: BenchmarkResult

    @property
    def spec(self) -> Spec:
        """Return the conditions of the measurement."""
        return self.result.spec

    @property
    def environment(self) -> Environment:
        """Return the machine and software of the measurement."""
        return self.result.environment

    @property
    def arms(self) -> Mapping[str, ArmResult]:
        """Return the arms by their labels."""
        return {arm.label: arm for arm in self.result.arms}

    @property
    def control(self) -> ArmResult | None:
        """Return the arm that the ratios of this result refer to; None where there is none."""
        return next((arm for arm in self.result.arms if arm.role == "control"), None)


def peak_source(arm: ArmResult) -> Literal["allocated", "process"] | None:
    """Return which counter the peak memory of an arm comes from; None where it was not measured."""
    peak = arm.peak_memory_bytes
    return "allocated" if peak.allocated is not None else "process" if peak.process is not None else None


def has_same_implementation(arm: ArmResult, other: ArmResult) -> bool:
    """Return whether two arms ran the same class in the same variant."""
    used, other_used = arm.implementation, other.implementation
    return (used.path, used.variant) == (other_used.path, other_used.variant)


def find_common_control(base: LoadedResult, new: LoadedResult) -> ArmResult | None:
    """Return NEW's control if BASE has the same optimizer in the same implementation as its control."""
    control, base_control = new.control, base.control
    if control is None or base_control is None or control.optimizer != base_control.optimizer:
        return None
    return control if has_same_implementation(control, base_control) else None
