"""Sentences about measurements on this machine, shared by all renderers."""

from __future__ import annotations

from msgspec.structs import replace

from optadvise.core.advice_records import Recommendation
from optadvise.core.cards import Implementation
from optadvise.core.claim_cards import Claim
from optadvise.core.findings import (
    CONFORMS,
    DEVIATES,
    FAILS,
    QUANTISED,
    REFUTED,
    AuditFinding,
    BenchmarkFinding,
    ClaimFinding,
    Evidence,
    has_narrow_interval,
)
from optadvise.core.units import show_bytes, show_count, show_figure
from optadvise.evidence.apply import describe_measurement, find_deviation, format_figure

_PEAKS = {"allocated": "peak memory", "process": "peak memory of the process"}  # the most precise first
_AUDIT_VERDICTS = {
    CONFORMS: "computes the update of its paper",
    QUANTISED: "computes the update of its paper, within quantization error",
    DEVIATES: "deviates from its paper",
}
_COMPARABLE_SIZE = 10  # factor between parameter counts up to which a benchmark applies to a run


def describe_deviation(implementation: Implementation, evidence: Evidence) -> str | None:
    """Return how an implementation deviates from its paper, with the source; None without a known deviation."""
    deviation = find_deviation(implementation, evidence)
    if deviation is None:
        return None
    source = "known" if deviation.basis == "card" else f"audit of {deviation.date}"
    return f"Deviates from its paper ({source}): {deviation.why}"


def select_relevant(advice: Recommendation) -> Evidence:
    """Return the evidence that concerns this run: failed audits and claims, and benchmarks of a comparable model."""
    evidence, path = advice.evidence, advice.implementation.path
    return replace(
        evidence,
        audits=tuple(audit for audit in evidence.audits if audit.path == path and audit.verdict in (DEVIATES, FAILS)),
        claims=tuple(claim for claim in evidence.claims if claim.verdict == REFUTED),
        benchmarks=tuple(benchmark for benchmark in evidence.benchmarks if _is_comparable(benchmark, advice)),
    )


def _is_comparable(benchmark: BenchmarkFinding, advice: Recommendation) -> bool:
    """Return whether a benchmark trained this kind of model in a size within a factor of ten."""
    params, measured = advice.situation.params, benchmark.parameters
    if params is None or measured is None or benchmark.workload != advice.situation.model:
        return False
    return measured <= params * _COMPARABLE_SIZE and params <= measured * _COMPARABLE_SIZE


def list_sentences(evidence: Evidence) -> list[str]:
    """Return a sentence for each finding."""
    return [
        *map(_describe_audit, evidence.audits),
        *map(_describe_benchmark, evidence.benchmarks),
        *map(_describe_claim, evidence.claims),
    ]


def _describe_audit(audit: AuditFinding) -> str:
    why = f": {audit.why}" if audit.why else ""
    return f"{audit.path} {_AUDIT_VERDICTS.get(audit.verdict, audit.verdict)}{why} (audit of {audit.date})."


def _describe_benchmark(benchmark: BenchmarkFinding) -> str:
    parts = []
    if benchmark.ratio is not None:
        parts.append(_describe_ratio(benchmark.ratio, benchmark))
    elif benchmark.optimizer_seconds is not None:
        parts.append(f"step() took {1e3 * benchmark.optimizer_seconds:.3g} ms")
    if benchmark.state_bytes_per_parameter is not None:
        parts.append(f"state {benchmark.state_bytes_per_parameter:.2f} B/param")
    peaks = ((benchmark.peak_memory_bytes.get(name), label) for name, label in _PEAKS.items())
    parts += [f"{label} {show_bytes(peak)}" for peak, label in peaks if peak is not None][:1]
    size = "" if benchmark.parameters is None else f" with {show_count(benchmark.parameters)} parameters"
    return (
        f"{benchmark.workload}{size}, {benchmark.dtype}, {benchmark.device}: {', '.join(parts)} "
        f"(bench of {benchmark.date})."
    )


def _describe_ratio(ratio: float, benchmark: BenchmarkFinding) -> str:
    """Return the time of step() relative to the control: the interval, or that it has no information."""
    if has_narrow_interval(ratio, benchmark.ci95):
        return f"step() took {format_figure(ratio, benchmark.ci95)} times as long as {benchmark.versus}"
    rounded = show_figure(float(f"{ratio:.2g}"))
    return f"step() took about {rounded} times as long as {benchmark.versus} (too few rounds for an interval)"


def describe_outcome(claim: Claim, finding: ClaimFinding | None) -> str:
    """Return the outcome of a claim on this machine.

    Args:
        finding: Result of its experiment; None if it was not tested.
    """
    if finding is not None:
        return f"{finding.verdict.capitalize()} on this machine. {describe_measurement(finding)}"
    return f"Not testable here: requires {claim.needs}." if claim.needs else "Not tested on this machine."


def _describe_claim(claim: ClaimFinding) -> str:
    """Return a confirmed claim with its figure; a refuted one also with the quote of its source."""
    if claim.verdict != REFUTED:
        figure = format_figure(claim.measured or 0.0, claim.ci95)
        return f"Confirmed: {claim.claim} {figure} on {claim.device} (tested on {claim.date})."
    quote = f" {claim.cite[0]}: “{claim.quote}”" if claim.quote else ""
    return f"Refuted: {claim.claim} {describe_measurement(claim)}{quote} (tested on {claim.date})."
