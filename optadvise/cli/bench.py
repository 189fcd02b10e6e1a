"""`optadvise bench`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct
from msgspec.structs import asdict

from optadvise.benchmark.options import BenchOptions, Option
from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.cli.interrupts import hold_interrupts
from optadvise.cli.record_options import with_options
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, InterruptedMeasurementError
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.benchmark.records import BenchmarkResult
    from optadvise.benchmark.request import Request
    from optadvise.rulebase.catalog import Catalog

_VERDICT_CODES = {"fail": 1, "inconclusive": 5}
_OUT = "Output"


class BenchOutputs(Struct, frozen=True, kw_only=True):
    """Output files of a result."""

    json: Annotated[str | None, Option("Print JSON, or write it to FILE.", _OUT, metavar="[FILE]")] = None
    csv: Annotated[Path | None, Option("Write CSV to this file.", _OUT)] = None
    markdown: Annotated[Path | None, Option("Write a Markdown table to this file.", _OUT)] = None
    dashboard: Annotated[Path | None, Option("Write JSON for github-action-benchmark to this file.", _OUT)] = None
    report: Annotated[Path | None, Option("Write an HTML report to this file.", _OUT)] = None
    plot: Annotated[Path | None, Option("Plot memory against speed to this file: cost.png, .svg or .pdf.", _OUT)] = None
    save: Annotated[str | None, Option("Save the result under this name for optadvise compare.", _OUT)] = None


_Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="Optimizers; - reads a recommendation from stdin (JSON).", autocompletion=of("optimizers")
    ),
]
_From = Annotated[
    Path | None, opt.option("Benchmark this recommendation (JSON of optadvise recommend).", "--from", group="Training")
]
_MERGE = "Merge the result files of the ranks of a torchrun run; pass the files instead of optimizers."
_Merge = Annotated[bool, opt.option(_MERGE, "--merge", group="Processes")]


@with_options(options=BenchOptions, shown=BenchOutputs)
def bench(
    names: _Names = None,
    from_: _From = None,
    *,
    options: BenchOptions,
    merge: _Merge = False,
    shown: BenchOutputs,
    rules: opt.Rules = None,
    allow_imports: opt.AllowImports = None,
) -> None:
    """Benchmark optimizers on this machine: step time, memory and loss of a small model.

    The optimizers are compared with the control (--control, default: adamw). Each one runs in its own process; rounds
    alternate between them. Exit code 1: a requirement failed; 4: no optimizer could run; 5: inconclusive, as the noise
    is too large.
    """
    from optadvise.cli import outputs
    from optadvise.rule_analysis import rule_folders

    compiled = rule_folders.load_rules(rules, allow_imports)
    if merge and options.require:
        message = "--require and --merge exclude each other; use optadvise compare --require for result files"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option="--require")
    request = None
    if not merge:
        from optadvise.benchmark.recommendation import load_recommendation
        from optadvise.benchmark.request import prepare_request

        recommendation = None if from_ is None and names != ["-"] else load_recommendation(from_ or Path("-"))
        request = prepare_request(compiled, names or [], options, recommendation)
    defaults = asdict(BenchOptions())
    changed = {name: value for name, value in asdict(options).items() if value != defaults[name]}
    typed = {
        "names": names or (),
        "from": from_,
        **changed,
        "merge": merge,
        "rules": rules,
        "allow_imports": allow_imports,
    }
    writer = _make_writer(
        shown, outputs.command("bench", typed), [from_, *(rules or ()), *(names or () if merge else ())]
    )
    result = _merge(names or [], compiled.catalog, options.control) if request is None else _measure(request, writer)
    with hold_interrupts():
        if request is not None:
            _save_evidence(result)
        writer.finish(result)
    code = _exit_code(result)
    if shown.plot is not None:
        _draw(result, shown.plot, code)
    raise typer.Exit(code)


class _Writer(Struct, frozen=True):
    """Output files with their formats."""

    files: dict[Path, Callable[[BenchmarkResult], str]]
    shown: BenchOutputs

    def keep(self, result: BenchmarkResult) -> None:
        """Write an incomplete result; errors are reported only at the end, so that the measurement is not lost."""
        with contextlib.suppress(InputError):
            self._write(result)

    def finish(self, result: BenchmarkResult) -> None:
        """Write every output file except the picture, and print the result; text also if a file cannot be written."""
        if self.shown.json == "-":
            self._write(result)
            typer.echo(encode_json(result), nl=False)
            return
        from optadvise.render.text.benchmark import print_benchmark

        try:
            self._write(result)
        finally:
            print_benchmark(result)

    def _write(self, result: BenchmarkResult) -> None:
        from optadvise.core.files import write_output

        for path, encode in self.files.items():
            write_output(path, encode(result))


def _make_writer(shown: BenchOutputs, command: str, inputs: Iterable[Path | str | None]) -> _Writer:
    """Check that every file can be written and is not an input, before anything is measured."""
    from optadvise.benchmark.saved_results import prepare_saved_result
    from optadvise.cli import outputs, pictures
    from optadvise.render import benchmark_files

    named = {
        "--json": None if shown.json == "-" else shown.json, "--csv": shown.csv, "--markdown": shown.markdown,
        "--dashboard": shown.dashboard, "--report": shown.report, "--plot": shown.plot,
        "--save": None if shown.save is None else prepare_saved_result(shown.save),
    }  # fmt: skip
    files = outputs.places(named, inputs)
    files.pop("--plot", None)  # drawn at the end
    pictures.check(shown.plot)
    encoders: dict[str, Callable[[BenchmarkResult], str]] = {
        "--json": encode_json, "--save": encode_json, "--csv": benchmark_files.encode_csv,
        "--markdown": benchmark_files.render_markdown, "--dashboard": benchmark_files.encode_dashboard,
        "--report": lambda result: outputs.page(result, command),
    }  # fmt: skip
    return _Writer({path: encoders[flag] for flag, path in files.items()}, shown)


def _merge(names: list[str], catalog: Catalog, control: str) -> BenchmarkResult:
    """Merge several result files into one result."""
    from optadvise.benchmark.comparison.merge import NamedResult, merge_results
    from optadvise.benchmark.saved_results import read_result

    if len(names) < 2:
        message = "--merge requires at least two result files, as in optadvise bench --merge adamw.json lion.json"
        raise InputError(message, code=ErrorCode.MISSING_OPTION, option="--merge")
    control_id = control if control == "none" else catalog.find_optimizer(control, "--control")
    return merge_results([NamedResult(name, read_result(name)) for name in names], control_id)


def _measure(request: Request, writer: _Writer) -> BenchmarkResult:
    """Measure with a progress line; write and print an interrupted result."""
    from optadvise.benchmark.request import measure
    from optadvise.render.text.progress import progress

    with progress(len(request.arms), request.spec.rounds) as report_progress:
        try:
            return measure(request, progress=report_progress, keep=writer.keep if writer.files else None)
        except InterruptedMeasurementError as interruption:
            writer.finish(interruption.result)
            if writer.shown.plot is not None:
                message = f"warning: --plot {writer.shown.plot} is not drawn, as the measurement was interrupted"
                typer.echo(f"optadvise: {message}", err=True)
            raise KeyboardInterrupt from None


def _save_evidence(result: BenchmarkResult) -> None:
    from optadvise.benchmark.evidence import save_findings
    from optadvise.cli.outputs import save_evidence

    save_evidence(lambda: save_findings(result, datetime.now(timezone.utc).date().isoformat()))


def _draw(result: BenchmarkResult, file: Path, code: int) -> None:
    from optadvise.cli.pictures import draw
    from optadvise.render.plots import measurements

    draw(lambda: measurements.draw_benchmark(result, file), code)


def _exit_code(result: BenchmarkResult) -> int:
    candidates = [arm for arm in result.arms if arm.role == "candidate"] or list(result.arms)
    if all(arm.status != "ok" for arm in candidates):
        return 4
    return _VERDICT_CODES.get(result.verdict or "", 0)
