"""Comparison of two results: ratios with intervals, requirements and a verdict.

Machines drift between runs, so times are compared relative to each run's control, whose rounds alternate with the
candidate's: (new / its control) / (base / its control). A slowdown of a whole run cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from optadvise.benchmark.comparison.comparability import (
    LoadedResult,
    find_common_control,
    list_differences,
    list_warnings,
)
from optadvise.benchmark.comparison.records import ComparedRatio, ComparedResult, Comparison, ComparisonRequirement
from optadvise.benchmark.metrics import METRICS, metric_figure, peak_source
from optadvise.benchmark.records import SCHEMA_VERSION, ArmResult, BenchmarkResult, Figure, Interval, Verdict
from optadvise.benchmark.requirements import Requirement, judge, worst_verdict
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

# Compared metrics with their units; None: the unit of the workload's throughput.
COMPARED: Mapping[str, str | None] = {
    "optimizer_seconds": "s",
    "step_seconds": "s",
    "forward_seconds": "s",
    "backward_seconds": "s",
    "throughput": None,
    "state_bytes": "bytes",
    "state_bytes_per_parameter": "bytes/parameter",
    "peak_memory": "bytes",
}
_MAX_LOG_WIDTH = 100.0  # wider intervals of a ratio carry no information
METHOD = (
    "Ratios with relative_to_control are (new / its control) / (base / its control), so that drift between the runs "
    "cancels; other ratios are new / base and include this drift. The intervals of both results are combined as "
    "independent on the log scale. Memory is compared exactly."
)


def compare(
    base: BenchmarkResult,
    new: BenchmarkResult,
    requirements: Sequence[Requirement] = (),
    *,
    names: tuple[str, str] = ("BASE", "NEW"),
    force: bool = False,
) -> Comparison:
    """Compare two results of `optadvise bench`.

    Args:
        requirements: Bounds for NEW's candidates; a relative bound is a multiple of BASE's figure.
        force: Compare in spite of different settings or hardware.

    Raises:
        InputError: Settings or hardware differ, or the results have no arm in common.
    """
    before, after = (
        LoadedResult(side="BASE", name=names[0], result=base),
        LoadedResult(side="NEW", name=names[1], result=new),
    )
    differences = list_differences(before, after)
    if differences and not force:
        raise InputError(
            f"BASE and NEW are not comparable: {'; '.join(differences)}; use equal settings, or add --force",
            code=ErrorCode.NOT_COMPARABLE,
        )
    if not set(before.arms) & set(after.arms):
        raise InputError(
            f"BASE ({', '.join(before.arms)}) and NEW ({', '.join(after.arms)}) have no optimizer in common",
            code=ErrorCode.NOT_COMPARABLE,
        )
    ratios = tuple(_compare_arms(before, after))
    labels = [arm.label for loaded in (after, before) for arm in loaded.arms.values() if arm.role == "candidate"]
    judged = tuple(
        _judge_arm(requirement, label, before, after, ratios)
        for requirement in requirements
        for label in dict.fromkeys(labels)
    )
    return Comparison(
        schema_version=SCHEMA_VERSION,
        kind="comparison",
        base=_describe(before),
        new=_describe(after),
        warnings=(*differences, *list_warnings(before, after), *_list_hints(before, after, requirements)),
        method=METHOD,
        ratios=ratios,
        requirements=judged,
        verdict=worst_verdict(entry.verdict for entry in judged),
    )


def _describe(loaded: LoadedResult) -> ComparedResult:
    return ComparedResult(
        name=loaded.name, complete=loaded.result.complete, environment=loaded.environment, spec=loaded.spec
    )


def _list_hints(base: LoadedResult, new: LoadedResult, requirements: Sequence[Requirement]) -> Iterator[str]:
    if base.result == new.result:
        yield "BASE and NEW are the same result, so no change can be detected"
    sources = {peak_source(arm) for arm in new.arms.values()}
    if "process" in sources and any(r.relative and r.metric == "peak_memory" for r in requirements):
        yield "peak_memory is that of the whole process, which varies by about 1 %; use a bound with a margin"


def _compare_arms(base: LoadedResult, new: LoadedResult) -> Iterator[ComparedRatio]:
    """Yield the ratios of each arm in both results; a ratio relative to the control precedes the plain ratio."""
    control = find_common_control(base, new)
    for label, arm in new.arms.items():
        before = base.arms.get(label)
        if before is None or {arm.status, before.status} != {"ok"}:
            continue
        for metric, unit in COMPARED.items():
            figures = _pair_figures(before, arm, metric)
            if figures is None:
                continue
            base_figure, figure = figures
            ratios: list[tuple[Figure | None, str | None]] = [(quotient(figure, base_figure), None)]
            if control is not None and arm.role != "control":
                relative = _ratio_to_control(base, new, label, metric)
                if relative is not None:
                    ratios.insert(0, (relative, control.optimizer))
            for ratio, versus in ratios:
                yield ComparedRatio(
                    optimizer=arm.optimizer,
                    label=label,
                    metric=metric,  # type: ignore[arg-type]  # a key of COMPARED
                    unit=unit or arm.throughput.unit,
                    base=base_figure.value,
                    new=figure.value,
                    ratio=None if ratio is None else ratio.value,
                    ci95=None if ratio is None else ratio.interval,
                    relative_to_control=versus is not None,
                    versus=versus,
                )


def _pair_figures(before: ArmResult, arm: ArmResult, metric: str) -> tuple[Figure, Figure] | None:
    """Return both figures of a metric; None if one is missing or their sources or units differ."""
    if metric == "peak_memory" and peak_source(before) != peak_source(arm):
        return None
    if metric == "throughput" and before.throughput.unit != arm.throughput.unit:
        return None
    base, new = metric_figure(before, metric), metric_figure(arm, metric)
    return None if base is None or new is None else (base, new)


def _ratio_to_control(base: LoadedResult, new: LoadedResult, label: str, metric: str) -> Figure | None:
    """Return the ratio of an arm's ratios to the control; for throughput, the inverse of the step's."""
    if not METRICS[metric].is_repeated:
        return None
    name = "step_seconds" if metric == "throughput" else metric
    base_ratio, new_ratio = base.result.find_ratio(label, name), new.result.find_ratio(label, name)
    if base_ratio is None or new_ratio is None:
        return None
    base_figure, new_figure = Figure(base_ratio.ratio, base_ratio.ci95), Figure(new_ratio.ratio, new_ratio.ci95)
    return quotient(base_figure, new_figure) if metric == "throughput" else quotient(new_figure, base_figure)


def quotient(above: Figure, below: Figure) -> Figure | None:
    """Return the quotient of two independent figures; None if it is undefined, such as 1 / 0.

    Each side of the interval is the root of the sum of squares of the corresponding sides of both intervals on the log
    scale (MOVER: Zou and Donner 2008). Without both intervals the quotient has none.
    """
    if above.value == below.value == 0:
        return Figure(1.0)
    if above.value <= 0 or below.value <= 0:
        return None
    ratio = above.value / below.value
    if not 0 < ratio < math.inf:
        return None
    if above.interval is None or below.interval is None or min(above.interval.low, below.interval.low) <= 0:
        return Figure(ratio)
    down = math.hypot(math.log(above.value / above.interval.low), math.log(below.interval.high / below.value))
    up = math.hypot(math.log(above.interval.high / above.value), math.log(below.value / below.interval.low))
    if max(down, up) > _MAX_LOG_WIDTH:
        return Figure(ratio)
    return Figure(ratio, Interval(ratio * math.exp(-down), ratio * math.exp(up)))


def _judge_arm(
    requirement: Requirement, label: str, base: LoadedResult, new: LoadedResult, ratios: Sequence[ComparedRatio]
) -> ComparisonRequirement:
    arm, ratio = new.arms.get(label), None
    figure: Figure | None = None
    verdict: Verdict = "inconclusive"  # for a candidate that is not in NEW
    if arm is not None and arm.status != "ok":
        verdict = "fail"
    elif arm is not None and requirement.relative:
        ratio = next((ratio for ratio in ratios if (ratio.label, ratio.metric) == (label, requirement.metric)), None)
        if ratio is not None:
            figure = None if ratio.ratio is None else Figure(ratio.ratio, ratio.ci95)
            verdict = _judge_ratio(requirement, ratio, figure)
    elif arm is not None:
        figure = metric_figure(arm, requirement.metric)
        verdict = judge(requirement, figure)
    return ComparisonRequirement(
        text=requirement.text,
        metric=requirement.metric,
        relative=requirement.relative,
        optimizer=(arm or base.arms[label]).optimizer,
        label=label,
        measured=None if figure is None else figure.value,
        ci95=None if figure is None else figure.interval,
        relative_to_control=ratio is not None and ratio.relative_to_control,
        verdict=verdict,
    )


def _judge_ratio(requirement: Requirement, ratio: ComparedRatio, figure: Figure | None) -> Verdict:
    """Judge a relative requirement; exact metrics by their values, because a ratio to a BASE of 0 is undefined."""
    if METRICS[requirement.metric].is_repeated:
        return judge(requirement, figure)
    absolute = replace(requirement, bound=requirement.bound * ratio.base, relative=False)
    return judge(absolute, Figure(ratio.new))
