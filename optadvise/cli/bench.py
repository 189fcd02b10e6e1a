"""`optadvise bench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct
from msgspec.structs import asdict

from optadvise.benchmark.options import BenchOptions, Option
from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.cli.record_options import with_options
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json
from optadvise.core.signals import interrupt_on_sigterm

if TYPE_CHECKING:
    from optadvise.benchmark.recommendation import ForeignJson
    from optadvise.benchmark.records import BenchmarkResult
    from optadvise.benchmark.request import Request
    from optadvise.rulebase.catalog import Catalog

_VERDICT_CODES = {"fail": 1, "inconclusive": 5}
_OUT = "Output"


class BenchOutputs(Struct, frozen=True, kw_only=True):
    """Options that name where a result goes."""

    json: Annotated[str | None, Option("Write JSON to this file; - for stdout.", _OUT)] = None
    csv: Annotated[Path | None, Option("Write CSV to this file.", _OUT)] = None
    markdown: Annotated[Path | None, Option("Write a Markdown table to this file.", _OUT)] = None
    dashboard: Annotated[Path | None, Option("Write what github-action-benchmark reads to this file.", _OUT)] = None
    report: Annotated[Path | None, Option("Write a page of HTML to this file.", _OUT)] = None
    plot: Annotated[Path | None, Option("Draw memory against speed: cost.png, .svg or .pdf.", _OUT)] = None
    save: Annotated[str | None, Option("Keep the result under this name, for optadvise compare.", _OUT)] = None


_Names = Annotated[
    list[str] | None,
    typer.Argument(help="Optimizers; - reads a recommendation's JSON.", autocompletion=of("optimizers")),
]
_From = Annotated[Path | None, opt.option("Run exactly this recommendation (JSON).", "--from", group="What runs")]
_MERGE = "The names are result files of ranks that torchrun started: make one of them."
_Merge = Annotated[bool, opt.option(_MERGE, "--merge", group="Several processes")]


@with_options(options=BenchOptions, shown=BenchOutputs)
def bench(
    names: _Names = None,
    from_: _From = None,
    *,
    options: BenchOptions,
    merge: _Merge = False,
    shown: BenchOutputs,
    rules: opt.Rules = None,
) -> None:
    """Measure what optimizers cost here: time, memory and loss on a small network, against a control.

    Each runs in a process of its own, in rounds that alternate. Exit code 1: a requirement failed; 4: nothing could
    run; 5: the noise is larger than the question.
    """
    from optadvise.cli import outputs
    from optadvise.rule_analysis import rule_folders

    compiled = rule_folders.load_rules(rules)
    if merge and options.require:
        raise InputError("--require: judges what is measured; optadvise compare judges files")
    request = None
    if not merge:
        from optadvise.benchmark.request import prepare_request

        recommendation = None if from_ is None and names != ["-"] else _read_recommendation(from_)
        request = prepare_request(compiled, names or [], options, recommendation)
    defaults = asdict(BenchOptions())
    changed = {name: value for name, value in asdict(options).items() if value != defaults[name]}
    typed = {"names": names or (), "from": from_, **changed, "merge": merge, "rules": rules}
    writer = _make_writer(shown, outputs.command("bench", typed))
    if request is None:
        result = _merge(names or [], compiled.catalog, options.control)
        writer.write(result)
    else:
        result = _measure(request, writer)
    writer.show(result)
    code = _exit_code(result)
    if shown.plot is not None:
        _draw(result, shown.plot, code)
    raise typer.Exit(code)


class _Writer(Struct, frozen=True):
    """Files that a result is written to, each with its format."""

    files: dict[Path, Callable[[BenchmarkResult], str]]
    shown: BenchOutputs

    def write(self, result: BenchmarkResult) -> None:
        """Write every file that an option names, but the picture."""
        from optadvise.core.files import write_output

        for path, encode in self.files.items():
            write_output(path, encode(result))

    def show(self, result: BenchmarkResult) -> None:
        """Print the result."""
        if self.shown.json == "-":
            typer.echo(encode_json(result), nl=False)
            return
        from optadvise.render.text.benchmark import print_benchmark

        print_benchmark(result)


def _make_writer(shown: BenchOutputs, command: str) -> _Writer:
    """Check that every file can be written, before anything is measured."""
    from optadvise.benchmark.saved_results import prepare_saved_result
    from optadvise.cli import outputs, pictures
    from optadvise.render import benchmark_files

    named = {
        "--json": None if shown.json == "-" else shown.json, "--csv": shown.csv, "--markdown": shown.markdown,
        "--dashboard": shown.dashboard, "--report": shown.report, "--plot": shown.plot,
        "--save": None if shown.save is None else prepare_saved_result(shown.save),
    }  # fmt: skip
    files = outputs.places(named)
    files.pop("--plot", None)  # drawn at the end
    pictures.check(shown.plot)
    encoders: dict[str, Callable[[BenchmarkResult], str]] = {
        "--json": encode_json, "--save": encode_json, "--csv": benchmark_files.encode_csv,
        "--markdown": benchmark_files.render_markdown, "--dashboard": benchmark_files.encode_dashboard,
        "--report": lambda result: outputs.page(result, command),
    }  # fmt: skip
    return _Writer({path: encoders[flag] for flag, path in files.items()}, shown)


def _merge(names: list[str], catalog: Catalog, control: str) -> BenchmarkResult:
    """Return one result of several files."""
    from optadvise.benchmark.comparison.merge import NamedResult, merge_results
    from optadvise.benchmark.saved_results import read_result

    if len(names) < 2:
        raise InputError("--merge: name two result files or more, as in optadvise bench --merge adamw.json lion.json")
    control_id = control if control == "none" else catalog.find_optimizer(control, "--control")
    return merge_results([NamedResult(name, read_result(name)) for name in names], control_id)


def _read_recommendation(path: Path | None) -> ForeignJson:
    """Read a recommendation's JSON from a file, or from stdin."""
    try:
        text = sys.stdin.read() if path is None or str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"--from {str(path or '-')!r}: cannot be read ({reason})") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"--from: no JSON ({error}); pipe optadvise recommend --json into it") from error
    if not isinstance(data, dict):
        raise InputError("--from: not a recommendation; pipe optadvise recommend --json into it")
    return data


def _measure(request: Request, writer: _Writer) -> BenchmarkResult:
    """Measure with progress, write the result and save it as evidence; an interrupted one is written and printed."""
    from optadvise.benchmark.evidence import save_findings
    from optadvise.benchmark.request import InterruptedMeasurementError, measure
    from optadvise.cli.outputs import kept
    from optadvise.render.text.progress import progress

    with interrupt_on_sigterm(), progress(len(request.arms), request.spec.rounds) as report_progress:
        try:
            result = measure(request, progress=report_progress, keep=writer.write if writer.files else None)
        except InterruptedMeasurementError as interruption:
            writer.write(interruption.result)
            writer.show(interruption.result)
            if writer.shown.plot is not None:
                message = f"--plot {writer.shown.plot}: not drawn, as the measurement was interrupted"
                typer.echo(f"optadvise: {message}", err=True)
            raise KeyboardInterrupt from None
    writer.write(result)
    kept(lambda: save_findings(result, datetime.now(timezone.utc).date().isoformat()))
    return result


def _draw(result: BenchmarkResult, file: Path, code: int) -> None:
    from optadvise.cli.pictures import draw
    from optadvise.render.plots import measurements

    draw(lambda: measurements.draw_benchmark(result, file), code)


def _exit_code(result: BenchmarkResult) -> int:
    candidates = [arm for arm in result.arms if arm.role == "candidate"] or list(result.arms)
    if all(arm.status != "ok" for arm in candidates):
        return 4
    return _VERDICT_CODES.get(result.verdict or "", 0)
