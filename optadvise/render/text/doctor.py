"""Report of `optadvise doctor` as text."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from optadvise.core.units import show_bytes
from optadvise.diagnostics.records import DoctorReport
from optadvise.render.text.console import Page, format_heading, print_paragraph, print_rows, print_section


def print_report(report: DoctorReport) -> None:
    """Print devices, packages and usable optimizers."""
    with Page() as out:
        out.print(escape(f"optadvise {report.optadvise}, Python {report.python} on {report.platform}"))
        _print_devices(out, report)
        _print_packages(out, report)
        _print_optimizers(out, report)


def _print_devices(out: Console, report: DoctorReport) -> None:
    rows = []
    for device in report.devices:
        details = [device.name or "unknown"]
        details += [f"compute {device.compute_capability}"] if device.compute_capability else []
        details += [f"{device.threads} threads in torch"] if device.threads else []
        details += [f"driver {device.driver}"] if device.driver else []
        details += [f"not usable: {device.why_not}"] if not device.usable else []
        memory = "" if device.memory_bytes is None else show_bytes(device.memory_bytes)
        rows.append((device.device or device.kind, memory, escape(", ".join(details))))
    out.print(format_heading("Devices"))
    print_rows(out, rows, "left", "right", "wrap")
    if report.torch.why_no_cuda and not any(device.kind == "cuda" for device in report.devices):
        print_paragraph(out, escape(f"No CUDA device: {report.torch.why_no_cuda}."))
    if report.driver_problem:
        problem = f"{report.driver_problem}. Drivers and GPUs that torch does not detect are not listed."
        print_paragraph(out, escape(problem))


def _print_packages(out: Console, report: DoctorReport) -> None:
    rows = []
    for package, version in report.packages.items():
        note = "" if version else f"{report.missing[package]}; pip install {package}"
        if package == "torch":
            note = f"built for {report.torch.built_for}" if report.torch.imports else "cannot be imported"
        rows.append((package, escape(version or "not installed"), escape(note)))
    print_section(out, "Packages", rows, "left", "left", "wrap")


def _print_optimizers(out: Console, report: DoctorReport) -> None:
    optimizers = report.optimizers
    if report.torch.error is not None:
        out.print(format_heading("Optimizers"))
        print_paragraph(out, escape(f"None of the {len(optimizers)} optimizers runs: {report.torch.error}."))
        return
    running = [optimizer for optimizer in optimizers if optimizer.runs]
    sections = (
        (f"Usable optimizers: {len(running)} of {len(optimizers)}",
         [(optimizer.id, escape(optimizer.implementation or "")) for optimizer in running]),
        ("Usable, but not with the recommended implementation",
         [(card.id, escape(card.note)) for card in running if card.note]),
        ("Not usable", [(card.id, escape(card.why_not)) for card in optimizers if card.why_not]),
    )  # fmt: skip
    for title, rows in sections:
        print_section(out, title, rows, "left", "wrap")
