"""Figures and sentences of a benchmark result, shared by text, Markdown, CSV and HTML."""

from __future__ import annotations

from collections.abc import Iterator

from optadvise.benchmark.comparison.records import ComparisonRequirement
from optadvise.benchmark.defaults import SIZES, TEXT_WORKLOADS
from optadvise.benchmark.metrics import METRICS
from optadvise.benchmark.records import ArmResult, BenchmarkResult, Interval, Ratio, RequirementResult
from optadvise.benchmark.spec import Spec
from optadvise.core.cards import SHARDING_LABELS
from optadvise.core.findings import has_narrow_interval
from optadvise.core.units import show_bytes, show_count, show_figure, show_share

_NO_INTERVAL = "no interval"
_VISIBLE_BANDWIDTH = 0.01  # fraction of the copy bandwidth


def format_figure(value: float | None, scale: float = 1.0) -> str:
    """Return a scaled figure with three digits, empty for None.

    Example:
        >>> format_figure(0.01234, 1e3), format_figure(123456.0)
        ('12.3', '123,456')
    """
    if value is None:
        return ""
    return show_figure(value * scale)


def format_milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds, empty for None."""
    return "" if seconds is None else f"{format_figure(seconds, 1e3)} ms"


def format_ratio(result: BenchmarkResult, arm: ArmResult, metric: str) -> tuple[str, str]:
    """Return an arm's ratio to the control and its interval; both are empty if the ratio was not computed."""
    if arm.role == "control":
        return "1", ""
    ratio = result.find_ratio(arm.label, metric)
    if ratio is None:
        return "", ""
    return f"{format_figure(ratio.ratio)}x", format_interval(_find_narrow_interval(ratio))


def format_interval(interval: Interval | None, scale: float = 1.0) -> str:
    """Return the scaled ends of an interval.

    Example:
        >>> format_interval(Interval(0.49, 0.51)), format_interval(None)
        ('0.49 to 0.51', 'no interval')
    """
    if interval is None:
        return _NO_INTERVAL
    return f"{format_figure(interval.low, scale)} to {format_figure(interval.high, scale)}"


def _find_narrow_interval(ratio: Ratio) -> Interval | None:
    """Return the interval of a ratio; None if it has none, or one without information."""
    return ratio.ci95 if ratio.ci95 is not None and has_narrow_interval(ratio.ratio, ratio.ci95.ends) else None


def list_footnotes(result: BenchmarkResult) -> Iterator[str]:
    """Yield the footnotes of a table of times and their ratios to the control."""
    if any(arm.status == "ok" for arm in result.arms):
        yield "ms: median of all measured steps"
        if result.spec.device_type == "cpu":
            yield "measured on a CPU: times on a GPU differ, most of all for 8-bit optimizers"
    ratios = [ratio for ratio in result.ratios if ratio.metric == "optimizer_seconds"]
    if not ratios:
        return
    if result.interleaved:
        yield "control: the optimizer to compare with, measured in the same rounds"
    else:
        yield (
            "control: the optimizer to compare with, measured before and after the others, because they do not fit in "
            "memory together"
        )
    has_rounds = result.spec.rounds == 1 or any(ratio.ci95 for ratio in ratios)  # else, results of separate runs
    if any(ratio.ci95 for ratio in ratios):
        yield (
            "ratio: each round gives one ratio, of the optimizer's median in this round to the control's; the table "
            "has their geometric mean with its 95 % interval, which differs from the quotient of the ms columns"
        )
    else:
        yield "ratio: quotient of the medians, the optimizer's and the control's"
    if any(_find_narrow_interval(ratio) is None for ratio in ratios):
        yield f"{_NO_INTERVAL}: " + ("too few rounds for an interval" if has_rounds else "measured in separate runs")


def format_implementation(arm: ArmResult) -> str:
    """Return the class of an arm's optimizer, and its variant."""
    variant = arm.implementation.variant
    return arm.implementation.path + (f", {variant}" if variant else "")


def describe_workload(spec: Spec) -> str:
    """Return the workload of a benchmark."""
    return "optimizer step on fixed shapes" if spec.optimizer_only else spec.workload


def list_settings(result: BenchmarkResult) -> Iterator[tuple[str, str]]:
    """Yield names and values of the settings of a run, with the defaults that were used."""
    spec, arm = result.spec, next((arm for arm in result.arms if arm.parameters), None)
    yield "workload", describe_workload(spec)
    if not spec.user and spec.params is None and not spec.optimizer_only:
        yield "model size", spec.size
    if arm is not None:
        yield "parameters", f"{arm.parameters:,}"
    yield from _list_dimensions(spec)
    yield "precision", spec.dtype
    yield "device", spec.device
    yield "rounds", f"{_count_rounds(result):,}"
    yield "measured steps per round", f"{spec.steps:,}"
    yield "warmup steps before the first round (not measured)", f"{1 + spec.warmup:,}"
    yield "seed of weights and data", str(spec.seed)
    threads = spec.threads or result.environment.threads
    if threads is not None:
        yield "CPU threads of torch", str(threads)
    yield "torch.compile", "yes" if spec.compile else "no"
    yield "processes", f"{spec.nproc:,}"
    if spec.sharding is not None:
        yield "sharding", SHARDING_LABELS[spec.sharding]


def _count_rounds(result: BenchmarkResult) -> int:
    """Return the most rounds of an optimizer: more than requested if requirements were open, fewer if interrupted.

    A control that is measured before and after the others has twice as many.
    """
    candidates = [arm for arm in result.arms if arm.role == "candidate"]
    arms = result.arms if result.interleaved or not candidates else candidates
    samples = max(len(arm.step_seconds.samples) for arm in arms)
    return -(-samples // result.spec.steps) or result.spec.rounds


def _list_dimensions(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield the batch size, and the sequence length or image size; nothing for `--optimizer-only`."""
    if spec.optimizer_only:
        return
    if spec.user or spec.workload not in SIZES:  # a result of another version may have other workloads
        yield "batch size", "set by the workload"
        return
    size = SIZES[spec.workload][spec.size]
    yield "batch size", f"{_format_number(spec.batch_size or size.batch * spec.nproc, 'sample')} per step"
    if spec.workload in TEXT_WORKLOADS:
        yield "sequence length", f"{spec.seq_len or size.extent:,} tokens"
    else:
        yield "image size", f"{size.extent} x {size.extent} pixels"


def describe_conditions(result: BenchmarkResult) -> tuple[str, str]:
    """Return the workload, and the machine with its software."""
    spec, environment = result.spec, result.environment
    arm = next((arm for arm in result.arms if arm.parameters), None)
    size = f", {show_count(arm.parameters or 0)} parameters in {arm.tensors} tensors" if arm else ""
    name = describe_workload(spec)
    if not spec.user and not spec.optimizer_only and spec.params is None:
        name += f" {spec.size}"
    processor = environment.processor if spec.device_type == "cpu" else None
    device = environment.device_name or processor or spec.device  # no arm has started if a GPU has no name
    threads = (
        f", {_format_number(environment.threads, 'thread')}" if environment.threads and spec.device == "cpu" else ""
    )
    count = _count_rounds(result)
    rounds = _format_number(count, "interleaved round" if count > 1 and result.interleaved else "round")
    versions = ", ".join(f"{package} {version}" for package, version in environment.packages.items())
    machine = (f"{device}{threads}", f"{rounds} of {_format_number(spec.steps, 'step')}", versions)
    processes = "" if spec.nproc == 1 else f", {spec.nproc} processes, {SHARDING_LABELS[spec.shard]}"
    return f"{name}{size}, {spec.dtype}{processes}", "; ".join(filter(None, machine))


def _format_number(number: int, unit: str) -> str:
    return f"{number:,} {unit}" if number == 1 else f"{number:,} {unit}s"


def list_details(arm: ArmResult, spec: Spec) -> Iterator[str]:
    """Yield sentences about an arm or its failure."""
    if arm.status == "ok":
        yield _describe_speed(arm)
        yield from _describe_loss(arm)
        yield from _describe_ranks(arm)
        yield from _describe_bandwidth(arm, spec)
        yield from _describe_overhead(arm)
        yield from _describe_paging(arm)
        if arm.deviates:
            yield f"its update deviates from the paper, see optadvise show {arm.optimizer}"
        return
    yield f"{arm.status}: {arm.error}"
    if arm.status == "oom":
        change = "smaller --params" if spec.optimizer_only else "a smaller --model-size or --batch-size"
        change = "a smaller model or batch" if spec.user else change
        yield f"try {change}, or an optimizer with less state (optadvise list)"


def _describe_speed(arm: ArmResult) -> str:
    parts = []
    if arm.optimizer_share is not None and arm.optimizer_share < 1:
        parts.append(f"the optimizer takes {show_share(arm.optimizer_share)} of a step")
    if arm.throughput.value is not None:
        parts.append(f"{arm.throughput.value:,.4g} {arm.throughput.unit}")
    if arm.first_step_seconds is not None:
        parts.append(f"first step {arm.first_step_seconds:.2g} s")
    return "; ".join(parts) or "not measured"


def _describe_loss(arm: ArmResult) -> Iterator[str]:
    loss = arm.loss
    if loss.first is not None and loss.last is not None:
        yield f"loss {loss.first:.3f} → {loss.last:.3f} (first and last step)" + (
            "" if loss.finite else ", not always finite"
        )
    elif loss.finite is False:
        yield "the weights became infinite or NaN"


def _describe_ranks(arm: ArmResult) -> Iterator[str]:
    """Yield a sentence about all ranks and one per rank; nothing for one process."""
    if not arm.ranks:
        return
    communication = show_share(arm.communication_share or 0.0)
    parts = [
        f"{len(arm.ranks)} ranks: {show_bytes(arm.total_state_bytes or 0)} of optimizer state in total",
        f"{communication} of a step in communication, possibly overlapping computation",
    ]
    if arm.scaling_efficiency is not None:
        parts.append(f"{show_share(arm.scaling_efficiency)} scaling efficiency (versus independent processes)")
    yield "; ".join(parts)
    for rank in arm.ranks:
        allocated, process = rank.peak_memory_bytes.allocated, rank.peak_memory_bytes.process
        peak = allocated if allocated is not None else process
        at_peak = "" if peak is None else f", {show_bytes(peak)} peak memory"
        yield (
            f"rank {rank.rank}: {show_bytes(rank.state_bytes)} optimizer state, "
            f"{show_bytes(rank.parameter_bytes)} weights{at_peak}, "
            f"optimizer step {format_milliseconds(rank.optimizer_seconds)}"
        )


def _is_launch_bound(arm: ArmResult) -> bool:
    return (arm.bandwidth.bound or "").startswith("launch-bound")


def _describe_overhead(arm: ArmResult) -> Iterator[str]:
    """Yield a sentence if launches and Python limit the optimizer step."""
    overhead, step = arm.overhead_seconds, arm.optimizer_seconds.median
    if _is_launch_bound(arm) and overhead is not None and step:
        share = show_share(min(overhead / step, 1.0))
        yield (
            f"launch-bound: kernel launches and Python take {share} of the optimizer step ({arm.tensors} tensors), so "
            "ratios differ for larger models; increase --model-size or --params"
        )


def _describe_paging(arm: ArmResult) -> Iterator[str]:
    """Yield a sentence about state in managed memory; nothing for optimizers that do not page."""
    if arm.paged_bytes == 0:
        yield "nothing is paged: the state tensors are too small and stay in GPU memory"
    elif arm.paged_bytes is not None:
        yield (
            f"{show_bytes(arm.paged_bytes)} of the optimizer state is in managed memory, which the driver can page out "
            "to host memory; the peak includes it"
        )


def _describe_bandwidth(arm: ArmResult, spec: Spec) -> Iterator[str]:
    bandwidth = arm.bandwidth
    if bandwidth.achieved is not None and bandwidth.device is not None:
        if bandwidth.fraction is None or bandwidth.fraction < _VISIBLE_BANDWIDTH:
            return
        bound = "; the tensors fit in a cache" if bandwidth.fraction > 1 else ""
        owner = "this machine" if spec.device_type == "cpu" else "this GPU"
        yield (
            f"optimizer step: at least {show_bytes(bandwidth.bytes_per_step or 0)} of memory traffic, "
            f"{bandwidth.achieved / 1e9:.3g} GB/s ({show_share(bandwidth.fraction)} of {owner}'s copy bandwidth){bound}"
        )


def format_measured(requirement: RequirementResult | ComparisonRequirement) -> str:
    """Return the measured figure of a requirement with its unit and interval."""

    def format_value(value: float) -> str:
        if requirement.relative:
            return f"{value:.4g}x"
        quantity = METRICS[requirement.metric].quantity
        return {"bytes": show_bytes, "seconds": format_milliseconds}.get(quantity, "{:.4g}".format)(value)

    if requirement.measured is None:
        return "not measured"
    text, interval = format_value(requirement.measured), requirement.ci95
    if interval is not None:
        text += f" ({format_value(interval.low)} to {format_value(interval.high)})"
    needed = requirement.rounds_needed if isinstance(requirement, RequirementResult) else None
    return text if needed is None else f"{text}; about {needed:,} rounds decide"
