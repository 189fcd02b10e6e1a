"""Evidence that later recommendations take from a benchmark."""

from __future__ import annotations

from msgspec.structs import asdict, replace

from optadvise.benchmark.records import ArmResult, BenchmarkResult, Interval
from optadvise.core.findings import BenchmarkFinding, Throughput
from optadvise.evidence import store
from optadvise.evidence.versions import find_versions


def save_findings(result: BenchmarkResult, date: str) -> None:
    """Save a finding for each optimizer that ran with its default implementation and variant.

    Findings of a result with warnings have no times, because the machine was busy; memory is exact.

    Args:
        date: Today's date, such as 2026-11-26.

    Raises:
        OSError: The data folder cannot be written.
    """
    if result.spec.nproc > 1:
        return  # memory and time of a rank do not apply to a single process
    for arm in result.arms:
        if arm.status == "ok" and arm.label in (arm.optimizer, f"{arm.optimizer} (control)"):
            store.save_benchmark(_make_finding(result, arm, date), result.spec.device_type)


def _make_finding(result: BenchmarkResult, arm: ArmResult, date: str) -> BenchmarkFinding:
    spec, environment, has_times = result.spec, result.environment, not result.warnings
    throughput = arm.throughput if has_times else replace(arm.throughput, value=None, ci95=None)
    ratio = result.find_ratio(arm.label, "optimizer_seconds") if has_times else None
    return BenchmarkFinding(
        optimizer=arm.optimizer,
        path=arm.implementation.path,
        variant=arm.implementation.variant,
        device=environment.device_name or environment.processor or spec.device,
        workload=spec.workload,
        parameters=arm.parameters,
        dtype=spec.dtype,
        state_bytes_per_parameter=arm.state_bytes_per_parameter,
        optimizer_seconds=arm.optimizer_seconds.median if has_times else None,
        peak_memory_bytes=asdict(arm.peak_memory_bytes),
        throughput=Throughput(value=throughput.value, unit=throughput.unit, ci95=_find_ends(throughput.ci95)),
        versus=None if ratio is None else ratio.versus,
        ratio=None if ratio is None else ratio.ratio,
        ci95=None if ratio is None else _find_ends(ratio.ci95),
        date=date,
        packages=find_versions([arm.implementation.package]),
    )


def _find_ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else interval.ends
