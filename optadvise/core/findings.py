"""Immutable records of findings on this machine: audits, claims and benchmarks.

Recommendations include them as JSON, and the data folder stores them. `packages` has the versions of the packages at
the time of the finding, None for a package that was not installed; `date` has the form 2026-11-26.
"""

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
_NonNegative: TypeAlias = Annotated[float, Meta(ge=0)]


def _check_order(interval: ConfidenceInterval | None) -> None:
    """Check the order of an interval's ends.

    Raises:
        ValueError: The high end is below the low end.
    """
    if interval is not None and interval[1] < interval[0]:
        raise ValueError(f"the interval {list(interval)} must be ordered")


def has_narrow_interval(ratio: float, ci95: ConfidenceInterval | None) -> bool:
    """Return whether half the interval of a ratio is smaller than the ratio; a wider one has no information.

    Example:
        >>> has_narrow_interval(2.0, (1.8, 2.3)), has_narrow_interval(34.6, (0.0039, 3.0e5))
        (True, False)
    """
    return ci95 is not None and (ci95[1] - ci95[0]) / 2 < ratio


class AuditFinding(Struct, frozen=True, kw_only=True):
    """Comparison of an implementation with a float64 reference of its paper."""

    optimizer: str
    path: str = field(name="import")
    package: str | None
    verdict: AuditVerdict
    why: str | None
    worst: float | None  # largest error relative to the length of the update; None if nothing was computed
    date: str
    packages: Versions


class TestedImplementation(Struct, frozen=True, kw_only=True):
    """Implementation used in an experiment."""

    optimizer: str
    path: str = field(name="import")
    package: str | None
    deviates: str | None  # deviation of its update from the paper


class ClaimOutcome(Struct, frozen=True, kw_only=True):
    """Claim with the result of its experiment."""

    id: str
    claim: str
    quote: Annotated[str | None, Meta(description="Quotation from the source.")] = field(name="says")
    cite: Annotated[tuple[str, ...], Meta(min_length=1)]
    optimizers: tuple[str, ...]  # the claim is about the first
    experiment: str | None
    setting: ExperimentSetting
    measures: Annotated[str | None, Meta(description="Description of the measured quantity; it has no unit.")]
    expected_range: Annotated[str | None, Meta(description="Range of the measured quantity if the claim is true.")] = (
        field(name="holds")
    )
    seeds: tuple[int, ...]
    limits: Annotated[str | None, Meta(description="What the experiment cannot show.")]
    supports: Annotated[tuple[str, ...], Meta(description="Rules whose reason is this claim.")]
    device: str | None
    implementations: tuple[TestedImplementation, ...]
    seconds: float | None
    verdict: ClaimVerdict
    why: Annotated[str | None, Meta(description="Why the claim could not be decided.")]
    measured: float | None
    ci95: ConfidenceInterval | None
    figures: Annotated[tuple[float, ...], Meta(description="Measured values, one per seed.")]

    def __post_init__(self) -> None:
        """Check the order of the interval, and that a decided claim has a measured value.

        Raises:
            ValueError: The interval is not ordered, or the value is missing.
        """
        _check_order(self.ci95)
        if self.verdict != UNDECIDED and self.measured is None:
            raise ValueError(f"a {self.verdict} claim must have a measured value")


class ClaimFinding(ClaimOutcome, frozen=True, kw_only=True):
    """Claim that was confirmed or refuted on this machine."""

    date: str
    packages: Versions


class Throughput(Struct, frozen=True, kw_only=True):
    """Work per second."""

    value: _NonNegative | None
    unit: str  # such as samples/s
    ci95: ConfidenceInterval | None

    def __post_init__(self) -> None:
        """Check the order of the interval."""
        _check_order(self.ci95)


class BenchmarkFinding(Struct, frozen=True, kw_only=True):
    """Time and memory of an optimizer in a benchmark."""

    optimizer: str
    path: str = field(name="import")
    variant: str | None  # such as fused or foreach
    device: str  # name of the GPU or processor
    workload: str
    parameters: Annotated[int, Meta(ge=0)] | None
    dtype: str
    state_bytes_per_parameter: _NonNegative | None
    optimizer_seconds: _NonNegative | None
    peak_memory_bytes: Mapping[str, Annotated[int, Meta(ge=0)] | None]  # keys: allocated, reserved and process
    throughput: Throughput
    versus: str | None  # control
    ratio: _NonNegative | None  # `optimizer_seconds` relative to the control
    ci95: ConfidenceInterval | None  # 95 % confidence interval of the ratio
    date: str
    packages: Versions

    def __post_init__(self) -> None:
        """Check the order of the interval."""
        _check_order(self.ci95)


class Evidence(Struct, frozen=True):
    """Findings about an optimizer on this machine."""

    audits: tuple[AuditFinding, ...] = ()
    claims: tuple[ClaimFinding, ...] = ()  # about this optimizer
    benchmarks: tuple[BenchmarkFinding, ...] = ()
    refuted: tuple[ClaimFinding, ...] = ()  # refuted claims about all optimizers


class DeviationFinding(Struct, frozen=True):
    """Deviation of an implementation from its paper, and where it is known from."""

    basis: str  # audit or card
    date: str | None  # date of the audit
    why: str | None
