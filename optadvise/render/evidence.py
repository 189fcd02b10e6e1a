"""Sentences about findings on this machine, shared by all renderers."""

from __future__ import annotations

from optadvise.core.cards import Implementation
from optadvise.core.findings import QUANTISED, REFUTED, AuditFinding, BenchmarkFinding, ClaimFinding, Evidence
from optadvise.core.units import show_bytes, show_count
from optadvise.evidence.apply import describe_measurement, find_deviation, format_figure

HEADING = "Found on this machine"
_PEAKS = {"allocated": " at the peak", "process": " of the whole process"}  # the most precise first


def describe_deviation(implementation: Implementation, evidence: Evidence) -> str | None:
    """Return how an implementation deviates, and who says so; None where it is not known to."""
    deviation = find_deviation(implementation, evidence)
    if deviation is None:
        return None
    who = "as its card tells" if deviation.basis == "card" else f"as an audit here found on {deviation.date}"
    return f"deviates, {who}: {deviation.why}"


def list_sentences(evidence: Evidence) -> list[str]:
    """Return a sentence for each finding."""
    return [
        *map(_describe_audit, evidence.audits),
        *map(_describe_benchmark, evidence.benchmarks),
        *map(_describe_claim, evidence.claims),
    ]


def _describe_audit(audit: AuditFinding) -> str:
    why = f": {audit.why}" if audit.why else ""
    verdict = audit.verdict if audit.verdict != QUANTISED else f"conforms {QUANTISED}"
    return f"{audit.path} {verdict}{why} (audit of {audit.date})"


def _describe_benchmark(benchmark: BenchmarkFinding) -> str:
    parts = []
    if benchmark.ratio is not None:
        parts.append(f"its step took {format_figure(benchmark.ratio, benchmark.ci95)} times {benchmark.versus}'s")
    elif benchmark.optimizer_seconds is not None:
        parts.append(f"its step took {1e3 * benchmark.optimizer_seconds:.3g} ms")
    if benchmark.state_bytes_per_parameter is not None:
        parts.append(f"{benchmark.state_bytes_per_parameter:.2f} bytes of state per parameter")
    peaks = ((benchmark.peak_memory_bytes.get(name), label) for name, label in _PEAKS.items())
    parts += [show_bytes(peak) + label for peak, label in peaks if peak is not None][:1]
    size = "" if benchmark.parameters is None else f" of {show_count(benchmark.parameters)} parameters"
    return (
        f"{', '.join(parts)}: {benchmark.workload}{size}, {benchmark.dtype}, {benchmark.device} "
        f"(bench of {benchmark.date})"
    )


def _describe_claim(claim: ClaimFinding) -> str:
    """Return a confirmed claim with its figure; a refuted one also with the quote of its source."""
    if claim.verdict != REFUTED:
        figure = format_figure(claim.measured or 0.0, claim.ci95)
        return f"confirmed: {claim.claim} {figure} on {claim.device} (tested on {claim.date})"
    quote = f" {claim.cite[0]} says: “{claim.quote}”" if claim.quote else ""
    return f"refuted: {claim.claim} {describe_measurement(claim)}{quote} (tested on {claim.date})"
