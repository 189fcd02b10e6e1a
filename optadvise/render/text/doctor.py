"""The report of `optadvise doctor` as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.markup import escape

from optadvise.core.units import show_bytes
from optadvise.diagnostics.records import DoctorReport
from optadvise.render.text.console import Page, grid, heading


def print_report(report: DoctorReport, *, as_json: bool) -> None:
    """Print a report.

    Args:
        report: From `optadvise.diagnostics.doctor.examine_machine`.
        as_json: Print JSON instead of text.
    """
    if as_json:
        print(json.dumps(msgspec.to_builtins(report), indent=2, ensure_ascii=False))
        return
    with Page() as out:
        out.print(escape(f"optadvise {report.optadvise}, Python {report.python} on {report.platform}"))
        _print_devices(out, report)
        _print_packages(out, report)
        _print_optimizers(out, report)


def _print_devices(out: Console, report: DoctorReport) -> None:
    out.print(heading("Devices"))
    table = grid("left", "right", "wrap")
    for device in report.devices:
        about = [device.name or "unknown"]
        about += [f"compute {device.compute_capability}"] if device.compute_capability else []
        about += [f"{device.threads} threads in torch"] if device.threads else []
        about += [f"driver {device.driver}"] if device.driver else []
        about += [f"not usable: {device.why_not}"] if not device.usable else []
        memory = "" if device.memory_bytes is None else show_bytes(device.memory_bytes)
        table.add_row("", device.device or device.kind, memory, escape(", ".join(about)))
    out.print(table)
    if report.torch.why_no_cuda and not any(device.kind == "cuda" for device in report.devices):
        _print_line(out, f"No CUDA device: {report.torch.why_no_cuda}.")
    if report.driver_problem:
        _print_line(out, f"{report.driver_problem}. Drivers, and GPUs that torch does not see, are not listed.")


def _print_packages(out: Console, report: DoctorReport) -> None:
    out.print(heading("Packages"))
    table = grid("left", "left", "wrap")
    for package, version in report.packages.items():
        remark = "" if version else f"pip install {package}"
        if package == "torch":
            remark = f"built for {report.torch.built_for}" if report.torch.imports else "cannot be imported"
        table.add_row("", package, escape(version or "none"), escape(remark))
    out.print(table)


def _print_optimizers(out: Console, report: DoctorReport) -> None:
    optimizers = report.optimizers
    if report.torch.error is not None:
        out.print(heading("Optimizers"))
        _print_line(out, f"None of the {len(optimizers)} runs: {report.torch.error}.")
        return
    running = [each for each in optimizers if each.runs]
    implementations = [(each.id, each.implementation or "") for each in running]
    _print_table(out, f"Optimizers that run here: {len(running)} of {len(optimizers)}", implementations)
    _print_table(out, "Not by their first choice", [(each.id, each.note) for each in running if each.note])
    _print_table(out, "Do not run here", [(each.id, each.why_not) for each in optimizers if each.why_not])


def _print_line(out: Console, line: str) -> None:
    table = grid("wrap")
    table.add_row("", escape(line))
    out.print(table)


def _print_table(out: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print a table of optimizer ids and remarks under a title, nothing without rows."""
    if not rows:
        return
    table = grid("left", "wrap")
    for optimizer, remark in rows:
        table.add_row("", optimizer, escape(remark))
    out.print(heading(title))
    out.print(table)
