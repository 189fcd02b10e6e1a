"""A measurement as a table that a person understands at once, and as Markdown, CSV and for dashboards."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from optadvise.benchmark.metrics import METRICS, metric_figure, metric_value, peak_memory
from optadvise.benchmark.records import ArmResult, BenchmarkResult, RequirementResult
from optadvise.benchmark.spec import Spec
from optadvise.core.units import show_bytes, show_count
from optadvise.render.text.console import Page, format_heading, make_table

_SHARDS = {"none": "DDP", "zero1": "ZeRO-1", "fsdp": "FSDP2"}


def text(result: BenchmarkResult) -> None:
    """Print a result."""
    with Page() as out:
        _conditions(out, result)
        _table(out, result)
        for arm in result.arms:
            _details(out, arm, result.spec)
        _requirements(out, result)
        if not result.complete:
            out.print("\n[bold]Interrupted[/bold]: this is what was measured until then.")


def _conditions(out: Console, result: BenchmarkResult) -> None:
    what, where = conditions(result)
    out.print(escape(what))
    out.print(escape(where))
    out.print()


def conditions(result: BenchmarkResult) -> tuple[str, str]:
    """Return what was measured, and on what."""
    spec, environment = result.spec, result.environment
    ok = next((arm for arm in result.arms if arm.parameters), None)
    size = f", {show_count(ok.parameters or 0)} parameters in {ok.tensors} tensors" if ok else ""
    name = "step() on given shapes" if spec.optimizer_only else spec.workload
    if not spec.user and not spec.optimizer_only and spec.params is None:
        name += f" {spec.size}"
    device = environment.device_name or environment.processor or spec.device
    threads = f", {environment.threads} threads" if environment.threads and spec.device == "cpu" else ""
    versions = ", ".join(f"{package} {version}" for package, version in environment.packages.items())
    where = (f"{device}{threads}", f"{spec.rounds} rounds of {spec.steps} steps in turn", versions)
    processes = "" if spec.nproc == 1 else f", {spec.nproc} processes, {_SHARDS[spec.shard]}"
    return f"{name}{size}, {spec.dtype}{processes}", "; ".join(filter(None, where))


def _table(out: Console, result: BenchmarkResult) -> None:
    table = make_table(
        ("", "fold"), ("step() ms", "right"), ("ratio", "right"), ("whole ms", "right"), ("ratio", "right"),
        ("B/param", "right"), ("peak MiB", "right"),
    )  # fmt: skip
    for arm in result.arms:
        if arm.status != "ok":
            table.add_row("", escape(arm.label), f"[bold]{arm.status}[/bold]")
            continue
        state = arm.state_bytes_per_parameter
        peak = peak_memory(arm)
        table.add_row(
            "",
            escape(arm.label),
            figure(metric_value(arm, "optimizer_seconds"), 1e3),
            versus(result, arm, "optimizer_seconds"),
            figure(metric_value(arm, "step_seconds"), 1e3),
            versus(result, arm, "step_seconds", width=False),
            "" if state is None else f"{state:.2f}",
            figure(peak, 2**-20),
        )
    out.print(table)


def figure(value: float | None, scale: float) -> str:
    """Return three digits of a figure, nothing where there is none."""
    return "" if value is None else f"{value * scale:,.3g}" if value * scale < 1000 else f"{value * scale:,.0f}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{figure(seconds, 1e3)} ms"


def versus(result: BenchmarkResult, arm: ArmResult, metric: str, *, width: bool = True) -> str:
    """Return an arm's ratio to the control, with half the width of its interval."""
    if arm.role == "control":
        return "1"
    found = result.find_ratio(arm.label, metric)
    if found is None:
        return ""
    words = f"{figure(found.ratio, 1)}x"
    if not width or not found.ci95:
        return words
    half = (found.ci95.high - found.ci95.low) / 2
    return f"{words} ±{half:.2g}" if half < found.ratio else f"{words} ±?"  # wider than itself: no figure to quote


def _details(out: Console, arm: ArmResult, spec: Spec) -> None:
    out.print(format_heading(escape(arm.label)) + f"  {_made(arm)}", soft_wrap=True)
    table = make_table("wrap")
    for line in details(arm, spec):
        table.add_row("", escape(line))
    out.print(table)


def _made(arm: ArmResult) -> str:
    used = arm.implementation
    return escape(used.path + (f", {used.variant}" if used.variant else ""))


def details(arm: ArmResult, spec: Spec) -> Iterable[str]:
    """Yield what there is to say of an arm, or why it failed."""
    if arm.status != "ok":
        yield f"{arm.status}: {arm.error}"
        if arm.status == "oom":
            smaller = "smaller --params" if spec.optimizer_only else "a smaller --model-size or --batch-size"
            smaller = "a smaller network or batch" if spec.user else smaller
            yield f"try {smaller}, or an optimizer with less state (optadvise list)"
        return
    share, throughput, loss = arm.optimizer_share, arm.throughput, arm.loss
    parts = []
    if share is not None and share < 1:
        parts.append(f"the optimizer is {share:.0%} of a step")
    if throughput.value is not None:
        parts.append(f"{throughput.value:,.4g} {throughput.unit}")
    if arm.first_step_seconds is not None:
        parts.append(f"first step {arm.first_step_seconds:.2g} s")
    yield "; ".join(parts) or "not measured"
    if loss.first is not None and loss.last is not None:
        yield f"loss {loss.first:.3f} → {loss.last:.3f}" + ("" if loss.finite else ", not finite throughout")
    elif loss.finite is False:
        yield "the weights did not stay finite"
    yield from _describe_ranks(arm)
    bandwidth = arm.bandwidth
    if bandwidth.achieved is not None and bandwidth.device is not None:
        bound = f"; {bandwidth.bound}" if bandwidth.bound else ""
        yield (
            f"must move {show_bytes(bandwidth.bytes_per_step or 0)} a step: {bandwidth.achieved / 1e9:.3g} GB/s, "
            f"{bandwidth.fraction:.0%} of a copy's {bandwidth.device / 1e9:.3g} GB/s here{bound}"
        )
    if arm.deviates:
        yield f"its update deviates from the paper's: optadvise show {arm.optimizer} says by how much"


def _describe_ranks(arm: ArmResult) -> Iterable[str]:
    """Yield what several ranks have in all and each, where there were several."""
    ranks = arm.ranks
    if not ranks:
        return
    spent, gain = arm.communication_share, arm.scaling_efficiency
    words = [f"{len(ranks)} ranks: {show_bytes(arm.total_state_bytes or 0)} of state in all"]
    words += [f"{spent:.0%} of a step in communication, which may overlap with computing"]
    words += [] if gain is None else [f"{gain:.0%} of the speed of as many processes by themselves"]
    yield "; ".join(words)
    for rank in ranks:
        allocated, process = rank.peak_memory_bytes.allocated, rank.peak_memory_bytes.process
        peak = allocated if allocated is not None else process
        at_peak = "" if peak is None else f", {show_bytes(peak)} at the peak"
        yield (
            f"rank {rank.rank}: {show_bytes(rank.state_bytes)} of state, {show_bytes(rank.parameter_bytes)} "
            f"of weights{at_peak}, step() {_ms(rank.optimizer_seconds)}"
        )


def _requirements(out: Console, result: BenchmarkResult) -> None:
    if not result.requirements:
        return
    out.print(format_heading("Requirements"))
    table = make_table("left", "wrap")
    for found in result.requirements:
        words = escape(f"{found.text}: {found.label} {measured(found)}")
        table.add_row("", f"[bold]{found.verdict}[/bold]", words)
    out.print(table)
    out.print(f"\nVerdict: [bold]{result.verdict}[/bold]")


def measured(found: RequirementResult) -> str:
    """Return what was measured for a requirement, with its interval."""
    if found.measured is None:
        return "not measured"
    words = _measured(found, found.measured)
    if found.ci95 is None:
        return words
    return f"{words} ({_measured(found, found.ci95.low)} … {_measured(found, found.ci95.high)})"


def _measured(found: RequirementResult, value: float) -> str:
    """Return a figure in the unit that its requirement speaks of."""
    if found.relative:
        return f"{value:.4g}x"
    if METRICS[found.metric].quantity == "bytes":
        return show_bytes(value)
    return _ms(value) if METRICS[found.metric].quantity == "seconds" else f"{value:.4g}"


def _cell(words: object) -> str:
    """Return text that cannot break out of a Markdown table's cell."""
    return " ".join(str(words).split()).replace("|", "\\|")


_COLUMNS = (
    "optimizer", "label", "role", "status", "parameters", "state_bytes", "state_bytes_per_parameter", "peak_memory",
    "step_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds", "first_step_seconds", "throughput",
    "bandwidth_fraction", "loss_last",
)  # fmt: skip


def as_csv(result: BenchmarkResult) -> str:
    """Return one line per arm; an empty field was not measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for arm in result.arms:
        writer.writerow([_field(arm, column) for column in _COLUMNS])
    return out.getvalue()


def _field(arm: ArmResult, column: str) -> object:
    value = metric_value(arm, column) if column in METRICS else getattr(arm, column)
    return "" if value is None else value


def as_markdown(result: BenchmarkResult) -> str:
    """Return a table for a pull request."""
    lines = [
        "| optimizer | step() | vs control | whole step | vs control | state B/param | peak | loss |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for arm in result.arms:
        if arm.status != "ok":
            error = str(arm.error).replace("|", "\\|")
            lines.append(f"| {arm.label} | {arm.status}: {error} | | | | | | |")
            continue
        peak, last, state = peak_memory(arm), metric_value(arm, "loss_last"), arm.state_bytes_per_parameter
        cells = [
            arm.label,
            _ms(metric_value(arm, "optimizer_seconds")),
            versus(result, arm, "optimizer_seconds"),
            _ms(metric_value(arm, "step_seconds")),
            versus(result, arm, "step_seconds"),
            "" if state is None else f"{state:.3f}",
            "" if peak is None else show_bytes(peak),
            "" if last is None else f"{last:.4g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if result.requirements:
        lines += ["", *(f"- {r.verdict}: `{r.text}` ({r.label})" for r in result.requirements)]
    return "\n".join(lines) + "\n"


def as_dashboard(result: BenchmarkResult) -> str:
    """Return the `customSmallerIsBetter` list that github-action-benchmark reads."""
    entries = []
    for arm in result.arms:
        if arm.status != "ok":
            continue
        for metric, unit, scale in (("optimizer_seconds", "ms", 1e3), ("step_seconds", "ms", 1e3),
                                    ("state_bytes_per_parameter", "B/param", 1.0)):  # fmt: skip
            measured_figure = metric_figure(arm, metric)
            if measured_figure is None:
                continue
            value, interval = measured_figure.value, measured_figure.interval
            entry: dict[str, str | float] = {"name": f"{arm.label} {metric}", "unit": unit, "value": value * scale}
            if interval is not None:
                entry["range"] = f"± {(interval.high - interval.low) / 2 * scale:.3g}"
            entries.append(entry)
    return json.dumps(entries, indent=2) + "\n"
