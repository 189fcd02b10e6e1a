"""Records of what was measured on this machine: audits, claims and benchmarks.

Their JSON is part of recommendations, and what the data folder keeps. `packages` are the versions that a finding was
made with, None for a package that was not installed; `date` is as in 2026-11-26.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct, field

# Verdicts of audits, and of claims.
CONFORMS: Final = "conforms"
QUANTISED: Final = "within quantisation"
DEVIATES: Final = "deviates"
FAILS: Final = "fails"
ABSENT: Final = "not here"
CONFIRMED: Final = "confirmed"
REFUTED: Final = "refuted"
UNDECIDED: Final = "not decidable here"
AuditVerdict: TypeAlias = Literal["conforms", "within quantisation", "deviates", "fails", "not here"]
ClaimVerdict: TypeAlias = Literal["confirmed", "refuted", "not decidable here"]

Versions: TypeAlias = Mapping[str, str | None]
ExperimentSetting: TypeAlias = Mapping[str, Any]  # arguments of an experiment, which checks them
ConfidenceInterval: TypeAlias = tuple[float, float]  # low and high end at 95 %


class AuditFinding(Struct, frozen=True, kw_only=True):
    """Comparison of an implementation with a float64 reference of its paper."""

    optimizer: str
    path: str = field(name="import")
    package: str | None
    verdict: AuditVerdict
    why: str | None
    worst: float | None  # largest error, as a share of the steps' length; None where nothing was computed
    date: str
    packages: Versions


class TestedImplementation(Struct, frozen=True, kw_only=True):
    """An implementation that ran in an experiment."""

    optimizer: str
    path: str = field(name="import")
    package: str | None
    deviates: str | None  # how its update differs from the paper's


class ClaimOutcome(Struct, frozen=True, kw_only=True):
    """A claim and the result of its experiment."""

    id: str
    claim: str
    quote: Annotated[str | None, Meta(description="The source's own words.")] = field(name="says")
    cite: tuple[str, ...]
    optimizers: tuple[str, ...]  # the first is the one that the claim is about
    experiment: str | None
    setting: ExperimentSetting
    measures: Annotated[str | None, Meta(description="What the figure is; it has no unit.")]
    expected_range: Annotated[str | None, Meta(description="Range of the figure if the claim is true.")] = field(
        name="holds"
    )
    seeds: tuple[int, ...]
    limits: Annotated[str | None, Meta(description="What the experiment cannot show.")]
    supports: Annotated[tuple[str, ...], Meta(description="Rules that repeat the claim as advice.")]
    device: str | None
    implementations: tuple[TestedImplementation, ...]
    seconds: float | None
    verdict: ClaimVerdict
    why: Annotated[str | None, Meta(description="What keeps the claim from being decided.")]
    measured: float | None
    ci95: ConfidenceInterval | None
    figures: Annotated[tuple[float, ...], Meta(description="One for each seed.")]


class ClaimFinding(ClaimOutcome, frozen=True, kw_only=True):
    """A claim that was confirmed or refuted here."""

    date: str
    packages: Versions


class Throughput(Struct, frozen=True, kw_only=True):
    """Work per second."""

    value: float | None
    unit: str  # as in samples/s
    ci95: ConfidenceInterval | None


class BenchmarkFinding(Struct, frozen=True, kw_only=True):
    """Time and memory of an optimizer in a benchmark."""

    optimizer: str
    path: str = field(name="import")
    variant: str | None  # fused, foreach ...
    device: str  # the name of the GPU or of the processor
    workload: str
    parameters: int | None
    dtype: str
    state_bytes_per_parameter: float | None
    optimizer_seconds: float | None
    peak_memory_bytes: Mapping[str, int | None]  # by allocated, reserved and process
    throughput: Throughput
    versus: str | None  # the control
    ratio: float | None  # of the optimizer seconds to the control's
    ci95: ConfidenceInterval | None  # of the ratio
    date: str
    packages: Versions


class Evidence(Struct, frozen=True):
    """The findings on one optimizer on this machine."""

    audits: tuple[AuditFinding, ...] = ()
    claims: tuple[ClaimFinding, ...] = ()  # about the optimizer
    benchmarks: tuple[BenchmarkFinding, ...] = ()
    refuted: tuple[ClaimFinding, ...] = ()  # claims about any optimizer


class DeviationFinding(Struct, frozen=True):
    """Deviation of an implementation from its paper, and its source."""

    basis: str  # audit, or card
    date: str | None  # of the audit
    why: str | None
