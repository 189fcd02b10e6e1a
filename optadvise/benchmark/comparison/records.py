"""Typed records of a comparison: its JSON output and its JSON Schema come from these declarations."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.benchmark.records import Environment, NonNegative, OptionalInterval, Verdict
from optadvise.benchmark.spec import Spec


class ComparedResult(Struct, frozen=True, kw_only=True):
    """Origin and conditions of one of the two results."""

    name: Annotated[str, Meta(description="The file, or the name it was saved under.")]
    complete: bool
    environment: Environment
    spec: Spec


class ComparedRatio(Struct, frozen=True, kw_only=True):
    """One metric of one arm in both results."""

    optimizer: str
    label: str
    metric: Literal[
        "optimizer_seconds", "step_seconds", "forward_seconds", "backward_seconds", "throughput", "state_bytes",
        "state_bytes_per_parameter", "peak_memory",
    ]  # fmt: skip
    unit: Annotated[str, Meta(description="Of base and new.")]
    base: NonNegative
    new: NonNegative
    ratio: Annotated[
        NonNegative | None, Meta(description="New over base, or the ratio of the ratios to control; null: undefined.")
    ]
    ci95: OptionalInterval
    relative_to_control: Annotated[
        bool,
        Meta(
            description="Whether it is (new / its control) / (base / its control). Such a ratio comes before the plain "
            "ratio of the same metric."
        ),
    ]
    versus: Annotated[str | None, Meta(description="The control's optimizer.")]


class ComparisonRequirement(Struct, frozen=True, kw_only=True):
    """Verdict on one `--require` for one arm of NEW."""

    text: str  # as typed
    optimizer: str
    label: str
    measured: float | None
    ci95: OptionalInterval
    relative_to_control: bool
    verdict: Verdict


class Comparison(Struct, frozen=True, kw_only=True):
    """Schema version 1. Keys may be added, never renamed. Null means not known, never 0. Bytes and seconds."""

    schema_version: Literal[1]
    kind: Literal["comparison"]
    base: ComparedResult
    new: ComparedResult
    warnings: tuple[str, ...]
    method: Annotated[str, Meta(description="How the ratios are computed.")]
    ratios: tuple[ComparedRatio, ...]
    requirements: tuple[ComparisonRequirement, ...]
    verdict: Verdict | None
