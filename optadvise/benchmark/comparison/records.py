"""Typed records of a comparison, which define its JSON and its schema."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.benchmark.records import Environment, NonNegative, OptionalInterval, Verdict
from optadvise.benchmark.spec import Spec


class ComparedResult(Struct, frozen=True, kw_only=True):
    """Name, settings and environment of one of the two results."""

    name: Annotated[str, Meta(description="File, or name given to bench --save.")]
    complete: bool
    environment: Environment
    spec: Spec


class ComparedRatio(Struct, frozen=True, kw_only=True):
    """Ratio of one metric of one arm."""

    optimizer: str
    label: str
    metric: Literal[
        "optimizer_seconds", "step_seconds", "forward_seconds", "backward_seconds", "throughput", "state_bytes",
        "state_bytes_per_parameter", "peak_memory",
    ]  # fmt: skip
    unit: Annotated[str, Meta(description="Unit of base and new.")]
    base: NonNegative
    new: NonNegative
    ratio: Annotated[
        NonNegative | None, Meta(description="new / base, or the ratio of the ratios to the control; null: undefined.")
    ]
    ci95: OptionalInterval
    relative_to_control: Annotated[
        bool,
        Meta(
            description="Whether the ratio is (new / its control) / (base / its control); such a ratio precedes the "
            "plain ratio of the metric."
        ),
    ]
    versus: Annotated[str | None, Meta(description="Optimizer of the control.")]


class ComparisonRequirement(Struct, frozen=True, kw_only=True):
    """Verdict of one `--require` for one arm of NEW."""

    text: str  # as typed
    metric: str
    relative: bool  # whether the bound is a multiple of BASE's figure
    optimizer: str
    label: str
    measured: float | None
    ci95: OptionalInterval
    relative_to_control: bool
    verdict: Verdict


class Comparison(Struct, frozen=True, kw_only=True):
    """Schema version 1: keys may be added, never renamed. Null means not known. Units are bytes and seconds."""

    schema_version: Literal[1]
    kind: Literal["comparison"]
    base: ComparedResult
    new: ComparedResult
    warnings: tuple[str, ...]
    method: Annotated[str, Meta(description="Definition of the ratios.")]
    ratios: tuple[ComparedRatio, ...]
    requirements: tuple[ComparisonRequirement, ...]
    verdict: Verdict | None
