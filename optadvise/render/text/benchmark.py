"""A measurement as a table that a person understands at once, and as Markdown, CSV and for dashboards."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from optadvise.benchmark.spec import metric_of
from optadvise.benchmark.statistics import METRICS
from optadvise.core.units import show_bytes, show_count
from optadvise.render.text.console import Page, grid, heading, titled

_SHARDS = {"none": "DDP", "zero1": "ZeRO-1", "fsdp": "FSDP2"}


def text(result: Mapping[str, Any]) -> None:
    """Print a result."""
    with Page() as out:
        _conditions(out, result)
        _table(out, result)
        for arm in result["arms"]:
            _details(out, arm, result["spec"])
        _requirements(out, result)
        if not result["complete"]:
            out.print("\n[bold]Interrupted[/bold]: this is what was measured until then.")


def _conditions(out: Console, result: Mapping[str, Any]) -> None:
    what, where = conditions(result)
    out.print(escape(what))
    out.print(escape(where))
    out.print()


def conditions(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return what was measured, and on what."""
    spec, environment = result["spec"], result["environment"]
    ok = next((a for a in result["arms"] if a["parameters"]), None)
    size = f", {show_count(ok['parameters'])} parameters in {ok['tensors']} tensors" if ok else ""
    name = "step() on given shapes" if spec["optimizer_only"] else spec["workload"]
    if not spec["user"] and not spec["optimizer_only"] and spec["params"] is None:
        name += f" {spec['size']}"
    device = environment.get("device_name") or environment.get("processor") or spec["device"]
    threads = f", {environment['threads']} threads" if environment.get("threads") and spec["device"] == "cpu" else ""
    versions = ", ".join(f"{k} {v}" for k, v in environment.get("packages", {}).items())
    where = (f"{device}{threads}", f"{spec['rounds']} rounds of {spec['steps']} steps in turn", versions)
    many = "" if spec.get("nproc", 1) == 1 else f", {spec['nproc']} processes, {_SHARDS[spec['shard']]}"
    return f"{name}{size}, {spec['dtype']}{many}", "; ".join(filter(None, where))


def _table(out: Console, result: Mapping[str, Any]) -> None:
    table = titled(
        2, ("", "fold"), ("step() ms", "right"), ("ratio", "right"), ("whole ms", "right"), ("ratio", "right"),
        ("B/param", "right"), ("peak MiB", "right"),
    )  # fmt: skip
    for arm in result["arms"]:
        if arm["status"] != "ok":
            table.add_row("", escape(arm["label"]), f"[bold]{arm['status']}[/bold]")
            continue
        state = arm["state_bytes_per_parameter"]
        peak = metric_of(arm, "peak_memory")
        table.add_row(
            "",
            escape(arm["label"]),
            figure(metric_of(arm, "optimizer_seconds"), 1e3),
            versus(result, arm, "optimizer_seconds"),
            figure(metric_of(arm, "step_seconds"), 1e3),
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


def versus(result: Mapping[str, Any], arm: Mapping[str, Any], metric: str, *, width: bool = True) -> str:
    """Return an arm's ratio to the control, with half the width of its interval."""
    if arm["role"] == "control":
        return "1"
    found = [r for r in result["ratios"] if r["label"] == arm["label"] and r["metric"] == metric]
    if not found:
        return ""
    ratio, ci = found[0]["ratio"], found[0]["ci95"]
    words = f"{figure(ratio, 1)}x"
    if not width or not ci:
        return words
    half = (ci[1] - ci[0]) / 2
    return f"{words} ±{half:.2g}" if half < ratio else f"{words} ±?"  # wider than itself: no figure to quote


def _details(out: Console, arm: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    out.print(heading(escape(arm["label"])) + f"  {_made(arm)}", soft_wrap=True)
    table = grid("wrap")
    for line in details(arm, spec):
        table.add_row("", escape(line))
    out.print(table)


def _made(arm: Mapping[str, Any]) -> str:
    made = arm["implementation"]
    return escape(made["import"] + (f", {made['variant']}" if made["variant"] else ""))


def details(arm: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterable[str]:
    """Yield what there is to say of an arm, or why it failed."""
    if arm["status"] != "ok":
        yield f"{arm['status']}: {arm['error']}"
        if arm["status"] == "oom":
            smaller = "smaller --params" if spec["optimizer_only"] else "a smaller --model-size or --batch-size"
            smaller = "a smaller network or batch" if spec["user"] else smaller
            yield f"try {smaller}, or an optimizer with less state (optadvise list)"
        return
    share, throughput, loss = arm["optimizer_share"], arm["throughput"], arm["loss"]
    parts = []
    if share is not None and share < 1:
        parts.append(f"the optimizer is {share:.0%} of a step")
    if throughput["value"] is not None:
        parts.append(f"{throughput['value']:,.4g} {throughput['unit']}")
    if arm["first_step_seconds"] is not None:
        parts.append(f"first step {arm['first_step_seconds']:.2g} s")
    yield "; ".join(parts) or "not measured"
    if loss["first"] is not None and loss["last"] is not None:
        yield f"loss {loss['first']:.3f} → {loss['last']:.3f}" + ("" if loss["finite"] else ", not finite throughout")
    elif loss["finite"] is False:
        yield "the weights did not stay finite"
    yield from _together(arm)
    moved = arm["bandwidth"]
    if moved["achieved"] is not None and moved["device"] is not None:
        bound = f"; {moved['bound']}" if moved["bound"] else ""
        yield (
            f"must move {show_bytes(moved['bytes_per_step'])} a step: {moved['achieved'] / 1e9:.3g} GB/s, "
            f"{moved['fraction']:.0%} of a copy's {moved['device'] / 1e9:.3g} GB/s here{bound}"
        )
    if arm["deviates"]:
        yield f"its update deviates from the paper's: optadvise show {arm['optimizer']} says by how much"


def _together(arm: Mapping[str, Any]) -> Iterable[str]:
    """Yield what several ranks have in all and each, where there were several."""
    ranks = arm.get("ranks")
    if not ranks:
        return
    spent, gain = arm["communication_share"], arm["scaling_efficiency"]
    words = [f"{len(ranks)} ranks: {show_bytes(arm['total_state_bytes'])} of state in all"]
    words += [f"{spent:.0%} of a step in communication, which may overlap with computing"]
    words += [] if gain is None else [f"{gain:.0%} of the speed of as many processes by themselves"]
    yield "; ".join(words)
    for rank in ranks:
        peak = rank["peak_memory_bytes"]
        held = peak["allocated"] if peak["allocated"] is not None else peak["process"]
        most = "" if held is None else f", {show_bytes(held)} at the peak"
        yield (
            f"rank {rank['rank']}: {show_bytes(rank['state_bytes'])} of state, {show_bytes(rank['parameter_bytes'])} "
            f"of weights{most}, step() {_ms(rank['optimizer_seconds'])}"
        )


def _requirements(out: Console, result: Mapping[str, Any]) -> None:
    if not result["requirements"]:
        return
    out.print(heading("Requirements"))
    table = grid("left", "wrap")
    for found in result["requirements"]:
        words = escape(f"{found['text']}: {found['label']} {measured(found)}")
        table.add_row("", f"[bold]{found['verdict']}[/bold]", words)
    out.print(table)
    out.print(f"\nVerdict: [bold]{result['verdict']}[/bold]")


def measured(found: Mapping[str, Any]) -> str:
    """Return what was measured for a requirement, with its interval."""
    if found["measured"] is None:
        return "not measured"
    words = _measured(found, found["measured"])
    return f"{words} ({' … '.join(_measured(found, end) for end in found['ci95'])})" if found["ci95"] else words


def _measured(found: Mapping[str, Any], value: float) -> str:
    """Return a figure in the unit that its requirement speaks of."""
    if found["relative"]:
        return f"{value:.4g}x"
    if METRICS[found["metric"]] == "bytes":
        return show_bytes(value)
    return _ms(value) if METRICS[found["metric"]] == "seconds" else f"{value:.4g}"


def _cell(words: object) -> str:
    """Return text that cannot break out of a Markdown table's cell."""
    return " ".join(str(words).split()).replace("|", "\\|")


_COLUMNS = (
    "optimizer", "label", "role", "status", "parameters", "state_bytes", "state_bytes_per_parameter", "peak_memory",
    "step_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds", "first_step_seconds", "throughput",
    "bandwidth_fraction", "loss_last",
)  # fmt: skip


def as_csv(result: Mapping[str, Any]) -> str:
    """Return one line per arm; an empty field was not measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for arm in result["arms"]:
        writer.writerow([_field(arm, column) for column in _COLUMNS])
    return out.getvalue()


def _field(arm: Mapping[str, Any], column: str) -> Any:
    value = metric_of(arm, column)
    return "" if value is None else value


def as_markdown(result: Mapping[str, Any]) -> str:
    """Return a table for a pull request."""
    lines = [
        "| optimizer | step() | vs control | whole step | vs control | state B/param | peak | loss |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for arm in result["arms"]:
        if arm["status"] != "ok":
            error = str(arm["error"]).replace("|", "\\|")
            lines.append(f"| {arm['label']} | {arm['status']}: {error} | | | | | | |")
            continue
        peak, last, state = metric_of(arm, "peak_memory"), metric_of(arm, "loss_last"), arm["state_bytes_per_parameter"]
        cells = [
            arm["label"],
            _ms(metric_of(arm, "optimizer_seconds")),
            versus(result, arm, "optimizer_seconds"),
            _ms(metric_of(arm, "step_seconds")),
            versus(result, arm, "step_seconds"),
            "" if state is None else f"{state:.3f}",
            "" if peak is None else show_bytes(peak),
            "" if last is None else f"{last:.4g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if result["requirements"]:
        lines += ["", *(f"- {r['verdict']}: `{r['text']}` ({r['label']})" for r in result["requirements"])]
    return "\n".join(lines) + "\n"


def as_dashboard(result: Mapping[str, Any]) -> str:
    """Return the `customSmallerIsBetter` list that github-action-benchmark reads."""
    entries = []
    for arm in result["arms"]:
        if arm["status"] != "ok":
            continue
        for metric, unit, scale in (("optimizer_seconds", "ms", 1e3), ("step_seconds", "ms", 1e3),
                                    ("state_bytes_per_parameter", "B/param", 1.0)):  # fmt: skip
            value = metric_of(arm, metric)
            if value is None:
                continue
            entry: dict[str, Any] = {"name": f"{arm['label']} {metric}", "unit": unit, "value": value * scale}
            timed = arm.get(metric)
            if isinstance(timed, Mapping) and timed.get("ci95"):
                entry["range"] = f"± {(timed['ci95'][1] - timed['ci95'][0]) / 2 * scale:.3g}"
            entries.append(entry)
    return json.dumps(entries, indent=2) + "\n"
