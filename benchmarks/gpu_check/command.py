"""Command line of the GPU check."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from msgspec.structs import replace

from gpu_check.records import Report, Settings, Stage, StageResult
from gpu_check.report import render_markdown, render_stage, summarize_report
from gpu_check.stages import MAX_SECONDS, STAGES, StageRun
from optadvise.benchmark.device import describe_device, resolve_device
from optadvise.benchmark.environment import read_machine
from optadvise.core.errors import CannotRunHereError, InputError, InterruptedMeasurementError
from optadvise.core.files import check_writable, write_output
from optadvise.core.json_text import encode_json
from optadvise.evidence.versions import find_version


def main(description: str | None) -> int:
    """Run the check and return the exit code.

    Args:
        description: Text of `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="device to measure on (default: cuda)"
    )
    parser.add_argument("--quick", action="store_true", help="measure less")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write tables to this file")
    arguments = parser.parse_args()
    settings = Settings(device=arguments.device, quick=arguments.quick)
    encoders: dict[str, Callable[[Report], str]] = {"json": encode_json, "markdown": render_markdown}
    files = {getattr(arguments, name): encode for name, encode in encoders.items() if getattr(arguments, name)}
    try:
        for file in files:
            check_writable(file, "--json" if file == arguments.json else "--markdown")
        gpu = describe_device(resolve_device(settings.device))
    except CannotRunHereError as error:
        print(f"gpu_check: requires a GPU: {error}", file=sys.stderr)
        return error.exit_code
    except InputError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return error.exit_code
    report = make_report(settings, None if gpu is None else gpu.name)
    for latest in run_stages(report, settings):
        report = latest
        print(render_stage(report.stages[-1]), flush=True)
        for file, encode in files.items():
            write_output(file, encode(report))
    print(summarize_report(report))
    return find_exit_code(report)


def make_report(settings: Settings, gpu: str | None) -> Report:
    """Return a report without stages.

    Args:
        gpu: Name of the GPU; None on the CPU.
    """
    return Report(
        complete=False,
        date=datetime.now(timezone.utc).date().isoformat(),
        machine=read_machine(),
        device=settings.device,
        gpu=gpu,
        torch=find_version("torch"),
        quick=settings.quick,
        stages=(),
    )


def run_stages(report: Report, settings: Settings, stages: Sequence[Stage] = STAGES) -> Iterator[Report]:
    """Run all stages, and yield the report after each of them; an interruption ends them."""
    deadline = time.monotonic() + MAX_SECONDS
    for stage in stages:
        try:
            result: StageResult = StageRun(stage, settings, deadline - time.monotonic()).run()
        except InterruptedMeasurementError as interruption:
            yield replace(report, stages=(*report.stages, interruption.result))
            return
        report = replace(report, stages=(*report.stages, result), complete=stage is stages[-1])
        yield report


def find_exit_code(report: Report) -> int:
    """Return the exit code that `__main__.py` explains."""
    if not report.complete:
        return 130
    checks = [check for stage in report.stages for check in stage.checks]
    statuses = {stage.status for stage in report.stages}
    if "failed" in statuses or any(check.is_right is False for check in checks):
        return 1
    return 5 if "incomplete" in statuses else 0
