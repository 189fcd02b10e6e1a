"""Text and Markdown of the GPU check."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_check.records import Check, Report, StageResult, Unit
from optadvise.core.units import show_bytes, show_figure, show_share

_MARKS = {True: "right", False: "WRONG", None: "-"}


def show_value(value: float | str | None, unit: Unit = "") -> str:
    """Return a measured value as text with its unit; `unknown` for None."""
    if value is None or isinstance(value, str):
        return value or "unknown"
    if unit == "bytes":
        return show_bytes(value)
    if unit == "bytes/s":
        return f"{show_figure(value / 1e9)} GB/s"
    if unit == "seconds":
        return f"{show_figure(value * 1e3)} ms"
    return show_share(value) if unit == "share" else show_figure(value)


def show_expected(check: Check) -> str:
    """Return the expected value or range; empty without one."""
    if check.low is None or check.high is None:
        return check.expected or ""
    if check.low == check.high:
        return show_value(check.low, check.unit)
    return f"{show_value(check.low, check.unit)} to {show_value(check.high, check.unit)}"


def show_figures(check: Check) -> str:
    """Return the further measurements of a check, without those that are unknown."""
    return ", ".join(_show_named(name, value) for name, value in check.figures.items() if value is not None)


def _show_named(name: str, value: float) -> str:
    """Return a measurement whose name ends with its unit."""
    label = name.replace("_", " ")
    if name.endswith("bytes_per_parameter"):
        return f"{label.removesuffix(' bytes per parameter')} {show_figure(value)} B/parameter"
    if name.endswith("bytes"):
        return f"{label.removesuffix(' bytes')} {show_bytes(value)}"
    if name.endswith("seconds"):
        return f"{label.removesuffix('seconds')}{show_value(value, 'seconds')}"
    if name.endswith(("share", "error")):
        return f"{label} {'-' if value < 0 else ''}{show_share(abs(value))}"
    return f"{label} {show_figure(value)}"


def summarize_stage(result: StageResult) -> str:
    """Return one line about a stage."""
    end = "" if result.status == "ok" else f", {result.status}: {result.error}"
    wrong = sum(check.is_right is False for check in result.checks)
    right = sum(check.is_right is True for check in result.checks)
    return f"{result.name}: {right} right, {wrong} wrong, {result.seconds:.0f} s{end}"


def summarize_report(report: Report) -> str:
    """Return one line about all stages."""
    checks = [check for stage in report.stages for check in stage.checks]
    wrong = [check.name for check in checks if check.is_right is False]
    names = f": {'; '.join(wrong)}" if wrong else ""
    return f"{sum(check.is_right is True for check in checks)} right, {len(wrong)} wrong{names}"


def render_stage(result: StageResult) -> str:
    """Return the lines of a stage."""
    lines = [summarize_stage(result)]
    for check in result.checks:
        expected, details = show_expected(check), [show_figures(check), check.note or ""]
        measured = [] if check.measured is None else [show_value(check.measured, check.unit)]
        parts = [*measured, *([f"expected {expected}"] if expected else []), *filter(None, details)]
        lines.append(f"  {_MARKS[check.is_right]:5}  {check.name}: {'; '.join(parts) or 'unknown'}")
    return "\n".join(lines)


def render_markdown(report: Report) -> str:
    """Return a page with one table per stage."""
    return "\n".join(_render_lines(report))


def _render_lines(report: Report) -> Iterator[str]:
    device = report.gpu or report.machine.processor
    yield f"# GPU check: {device}\n"
    yield (
        f"Measured on {report.date} with optadvise {report.machine.optadvise}, torch {report.torch}, Python "
        f"{report.machine.python}, {report.machine.platform}. `python benchmarks/gpu_check --markdown FILE`\n"
    )
    yield f"{summarize_report(report)}\n"
    for stage in report.stages:
        yield f"## {stage.name}\n\n{summarize_stage(stage)}\n"
        if stage.checks:
            yield "| | check | measured | expected | figures | note |\n|---|---|---|---|---|---|"
        for check in stage.checks:
            cells = (
                _MARKS[check.is_right], check.name, show_value(check.measured, check.unit), show_expected(check),
                show_figures(check), check.note or "",
            )  # fmt: skip
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        yield ""
