"""Benchmark results: medians with intervals, ratios to the control, requirements and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec.structs import asdict

from optadvise.benchmark.disturbance import list_warnings
from optadvise.benchmark.measurement import ArmCounts, ArmFailure, ArmMeasurement
from optadvise.benchmark.metrics import EXACT_RATIOS, METRICS, metric_figure, metric_value
from optadvise.benchmark.records import (
    PARTS,
    SCHEMA_VERSION,
    ArmResult,
    Bandwidth,
    BenchmarkResult,
    Environment,
    Figure,
    Loss,
    Machine,
    PeakMemory,
    Ratio,
    RequirementResult,
    Status,
    Throughput,
    Timing,
    UsedImplementation,
)
from optadvise.benchmark.requirements import Requirement, judge, worst_verdict
from optadvise.benchmark.sequential import estimate_rounds, widen
from optadvise.benchmark.spec import Spec
from optadvise.benchmark.statistics import median_ci, ratio_ci

_OVERHEAD_SHARE = 0.5  # of an optimizer step, from which on launches and Python limit it


def make_result(
    spec: Spec,
    measurements: Sequence[ArmMeasurement],
    requirements: Sequence[Requirement] = (),
    *,
    machine: Machine,
    complete: bool = True,
    is_sequential: bool = False,
) -> BenchmarkResult:
    """Return the result of a benchmark.

    Args:
        requirements: Bounds of `--require`, judged for every candidate.
        complete: Whether the benchmark ran to its end; otherwise the verdict is None.
        is_sequential: Whether rounds are added until requirements on times are decided.
    """
    bandwidths = (measurement.summary.device_bandwidth for measurement in measurements)
    device_bandwidth = max((bandwidth for bandwidth in bandwidths if bandwidth), default=None)
    arms = tuple(_arm_result(measurement, device_bandwidth) for measurement in measurements)
    ratios = tuple(_ratios(measurements, arms))
    judged = tuple(
        _judge_arm(requirement, measurement, arm, ratios, is_sequential=is_sequential)
        for requirement in requirements
        for measurement, arm in zip(measurements, arms, strict=True)
        if arm.role == "candidate"
    )
    return BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        kind="bench",
        complete=complete,
        environment=_merge_environments(machine, measurements),
        spec=spec,
        interleaved=all(measurement.interleaved for measurement in measurements),
        arms=arms,
        ratios=ratios,
        requirements=judged,
        verdict=worst_verdict(entry.verdict for entry in judged) if complete else None,
        warnings=tuple(list_warnings(measurements, arms, ratios)),
    )


def _merge_environments(machine: Machine, measurements: Iterable[ArmMeasurement]) -> Environment:
    """Return the machine with the device and packages that the workers reported."""
    environments = [measurement.counts.environment for measurement in measurements]
    started = [environment for environment in environments if environment.packages]
    packages = {name: version for environment in started for name, version in environment.packages.items()}
    device = {**asdict(started[-1]), "packages": packages} if started else {"packages": {}}
    return Environment(**asdict(machine), **device)


def _arm_result(measurement: ArmMeasurement, device_bandwidth: float | None) -> ArmResult:
    arm, counts, summary, failure = measurement.arm, measurement.counts, measurement.summary, measurement.failure
    timings = {part: _timing(measurement, part) for part in PARTS}
    step, optimizer_step = timings["step"], timings["optimizer"]
    peak = summary.peak_memory_bytes if failure is None else failure.peak_memory_bytes or PeakMemory()
    return ArmResult(
        optimizer=arm.optimizer,
        label=arm.label,
        role=arm.role,
        status=_arm_status(failure),
        error=failure.error if failure else None,
        error_code=failure.code.value if failure else None,
        implementation=UsedImplementation(
            path=arm.path, package=arm.package, variant=arm.variant, kwargs=dict(arm.kwargs)
        ),
        deviates=arm.deviates,
        parameters=counts.parameters,
        parameter_bytes=counts.parameter_bytes,
        gradient_bytes=counts.gradient_bytes,
        state_bytes=counts.state_bytes,
        state_bytes_per_parameter=counts.state_bytes_per_parameter,
        tensors=counts.tensors,
        peak_memory_bytes=peak,
        transient_bytes=summary.transient_bytes,
        paged_bytes=counts.paged_bytes if arm.paged else None,
        overhead_seconds=summary.overhead_seconds,
        ranks=summary.ranks,
        total_state_bytes=counts.total_state_bytes,
        communication_share=max((rank.communication_share for rank in summary.ranks or ()), default=None),
        # Each rank has its own batch, so this is the ratio of throughputs.
        scaling_efficiency=_divide(summary.independent_step_seconds or None, step.median),
        step_seconds=step,
        forward_seconds=timings["forward"],
        backward_seconds=timings["backward"],
        optimizer_seconds=optimizer_step,
        optimizer_share=_divide(optimizer_step.median, step.median),
        cpu_share=_cpu_share(measurement),
        first_step_seconds=counts.first_step_seconds,
        throughput=_throughput(counts, step),
        bandwidth=_bandwidth(counts, optimizer_step, device_bandwidth, summary.overhead_seconds),
        loss=Loss(
            first=summary.losses[0] if summary.losses else None,
            last=summary.losses[-1] if summary.losses else None,
            finite=summary.finite,
        ),
    )


def _arm_status(failure: ArmFailure | None) -> Status:
    """Return an arm's status; `input` cannot occur, because an invalid workload ends the run."""
    if failure is None:
        return "ok"
    return "error" if failure.status == "input" else failure.status


def _divide(numerator: float | None, denominator: float | None) -> float | None:
    """Return a quotient; None if a part is None or the denominator is 0."""
    return None if numerator is None or not denominator else numerator / denominator


def _timing(measurement: ArmMeasurement, part: str) -> Timing:
    samples = [seconds for samples in measurement.rounds for seconds in samples.get(part, ())]
    return median_ci(samples) if samples else Timing()


def _cpu_share(measurement: ArmMeasurement) -> float | None:
    """Return the fraction of the step time in which the training thread ran on a core; None if it was not measured."""
    cpu_seconds = [sum(samples["cpu"]) for samples in measurement.rounds if "cpu" in samples]
    step_seconds = [sum(samples["step"]) for samples in measurement.rounds if "cpu" in samples]
    return _divide(sum(cpu_seconds), sum(step_seconds)) if cpu_seconds else None


def _throughput(counts: ArmCounts, step: Timing) -> Throughput:
    samples = counts.samples_per_step
    if samples is None or not step.samples:
        return Throughput()
    unit = counts.unit or Throughput().unit
    interval = None if step.ci95 is None else step.ci95.inverted(samples)
    return Throughput(value=_divide(samples, step.median), unit=unit, ci95=interval)


def _bandwidth(
    counts: ArmCounts, step: Timing, device_bandwidth: float | None, overhead_seconds: float | None
) -> Bandwidth:
    traffic = counts.bytes_per_step
    achieved = _divide(traffic or None, step.median)
    fraction = _divide(achieved, device_bandwidth)
    bound = None
    if step.median and overhead_seconds is not None and overhead_seconds >= _OVERHEAD_SHARE * step.median:
        bound = f"launch-bound: {counts.tensors} tensors"
    elif fraction is not None and fraction > 1:
        bound = "in cache"
    return Bandwidth(bytes_per_step=traffic, achieved=achieved, device=device_bandwidth, fraction=fraction, bound=bound)


def _ratios(measurements: Sequence[ArmMeasurement], arms: Sequence[ArmResult]) -> Iterable[Ratio]:
    """Yield the ratios of each candidate to the first control with samples."""
    pairs = list(zip(measurements, arms, strict=True))
    control = next(((m, arm) for m, arm in pairs if arm.role == "control" and m.rounds), None)
    if control is None:
        return
    control_measurement, control_arm = control
    for measurement, arm in pairs:
        if arm.role != "control" and arm.status == "ok" and measurement.rounds:
            yield from _timed_ratios(measurement, arm, control_measurement, control_arm)
            yield from exact_ratios(arm, control_arm)


def _timed_ratios(
    measurement: ArmMeasurement, arm: ArmResult, control: ArmMeasurement, control_arm: ArmResult
) -> Iterable[Ratio]:
    """Yield the ratios of an arm's times, and of its throughput after the whole step."""
    for part in PARTS:
        figure = _paired_ratio(measurement, control, part)
        if figure is None:
            continue
        yield make_ratio(arm, control_arm, f"{part}_seconds", figure)
        if part == "step" and arm.throughput.value is not None:
            interval = None if figure.interval is None else figure.interval.inverted()
            yield make_ratio(arm, control_arm, "throughput", Figure(1 / figure.value, interval))


def exact_ratios(arm: ArmResult, control: ArmResult, metrics: Iterable[str] = EXACT_RATIOS) -> Iterable[Ratio]:
    """Yield the ratios, without intervals, of metrics that both arms have."""
    for metric in metrics:
        value, control_value = metric_value(arm, metric), metric_value(control, metric)
        ratio = _divide(value, control_value)
        if ratio is not None and math.isfinite(ratio):
            yield make_ratio(arm, control, metric, Figure(ratio))


def make_ratio(arm: ArmResult, control: ArmResult, metric: str, figure: Figure) -> Ratio:
    """Return the record of an arm's ratio to a control."""
    return Ratio(
        optimizer=arm.optimizer,
        label=arm.label,
        versus=control.optimizer,
        metric=metric,
        ratio=figure.value,
        ci95=figure.interval,
    )


def _paired_ratio(measurement: ArmMeasurement, control: ArmMeasurement, part: str) -> Figure | None:
    """Return the ratio over the rounds of both arms; None if no round has samples of both."""
    count = min(len(measurement.rounds), len(control.rounds))
    candidate_rounds = [samples.get(part, []) for samples in measurement.rounds[:count]]
    control_rounds = [samples.get(part, []) for samples in control.rounds[:count]]
    if not any(a and b for a, b in zip(candidate_rounds, control_rounds, strict=True)):
        return None
    try:
        return ratio_ci(candidate_rounds, control_rounds)
    except ValueError:  # a median is 0
        return None


def has_open_requirement(result: BenchmarkResult) -> bool:
    """Return whether more rounds may decide a requirement on times."""
    running = {arm.label for arm in result.arms if arm.status == "ok"}
    return any(
        each.verdict == "inconclusive" and each.label in running and METRICS[each.metric].is_repeated
        for each in result.requirements
    )


def _judge_arm(
    requirement: Requirement,
    measurement: ArmMeasurement,
    arm: ArmResult,
    ratios: Iterable[Ratio],
    *,
    is_sequential: bool,
) -> RequirementResult:
    figure = _required_figure(requirement, arm, ratios)
    is_repeated = METRICS[requirement.metric].is_repeated
    if figure is not None and is_sequential and is_repeated:
        figure = widen(figure, is_ratio=requirement.relative)
    verdict = judge(requirement, figure)
    if arm.status != "ok":  # an unsupported arm decides nothing; a failed arm fails the requirement
        verdict = "inconclusive" if arm.status == "unsupported" else "fail"
    is_open = verdict == "inconclusive" and is_repeated and arm.status == "ok"
    return RequirementResult(
        text=requirement.text,
        metric=requirement.metric,
        relative=requirement.relative,
        optimizer=arm.optimizer,
        label=arm.label,
        measured=None if figure is None else figure.value,
        ci95=None if figure is None else figure.interval,
        verdict=verdict,
        rounds_needed=estimate_rounds(figure, requirement.bound, len(measurement.rounds)) if is_open else None,
    )


def _required_figure(requirement: Requirement, arm: ArmResult, ratios: Iterable[Ratio]) -> Figure | None:
    """Return the arm's figure in the unit of a requirement's bound; None if it was not measured."""
    if not requirement.relative:
        return metric_figure(arm, requirement.metric)
    key = (arm.label, requirement.metric)
    ratio = next((ratio for ratio in ratios if (ratio.label, ratio.metric) == key), None)
    return None if ratio is None else Figure(ratio.ratio, ratio.ci95)
