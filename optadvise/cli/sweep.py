"""`optadvise sweep`."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.interrupts import hold_interrupts
from optadvise.core.cards import SHIPPED
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.files import create_output_folder
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.benchmark.sweep_records import Cell, Outcome, SweepResult

_MAX_READ_SECONDS = 1.0  # after an interruption, for results that other processes wrote

_File = Annotated[Path, typer.Argument(help="YAML file with optimizers, and options of bench as values or lists.")]
_Folder = Annotated[
    Path | None,
    opt.option("Folder of the results (default: the name of FILE without its ending).", group="Output", metavar="DIR"),
]
_Launcher = Annotated[
    str,
    opt.option(
        "Run the cells one after the other (local), or as Slurm jobs through submitit (slurm) (default: local).",
        group="Execution",
        choices=("local", "slurm"),
    ),
]
_Markdown = Annotated[Path | None, opt.option("Write a Markdown table to this file.", group="Output")]
_Plot = Annotated[
    Path | None, opt.option("Plot memory against speed to this file: sweep.png, .svg or .pdf.", group="Output")
]


def sweep(
    file: _File,
    folder: _Folder = None,
    launcher: _Launcher = "local",
    json_: opt.JsonFile = None,
    markdown: _Markdown = None,
    plot: _Plot = None,
    rules: opt.Rules = None,
    allow_imports: opt.AllowImports = None,
) -> None:
    """Benchmark a grid of optimizers, sizes, precisions and other options of bench; resume an interrupted sweep.

    Each finished cell is written at once. The same command line resumes a sweep, and several processes can work on one
    folder. Exit code 4: no cell could run; 5: cells are still missing.
    """
    from optadvise.benchmark import sweep as benchmark_sweep
    from optadvise.benchmark.sweep_file import read_sweep
    from optadvise.cli import outputs, pictures
    from optadvise.render.text.sweep import print_sweep, render_markdown
    from optadvise.rule_analysis import rule_folders

    if launcher not in ("local", "slurm"):
        message = f"--launcher {launcher!r} must be local or slurm"
        raise InputError(message, code=ErrorCode.UNKNOWN_CHOICE, option="--launcher", value=launcher)
    files = outputs.places({"--json": None if json_ == "-" else json_, "--markdown": markdown, "--plot": plot}, [file])
    pictures.check(plot)
    grid = read_sweep(file, benchmark_sweep.OPTIONS)
    compiled = rule_folders.load_rules(rules, allow_imports)
    try:
        cells = benchmark_sweep.make_cells(compiled, grid.optimizers, grid.options)
    except InputError as error:
        raise InputError(f"{file}: {error}", code=error.code, option=error.option, value=error.value) from error
    cell_folder = _make_folder(file, folder)
    benchmark_sweep.check_cell_files(cell_folder, cells)
    outputs.places(files, [cell_folder / f"{cell.name}.json" for cell in cells])
    files.pop("--plot", None)  # drawn at the end
    if launcher == "slurm":
        from optadvise.benchmark.slurm import submit_cells

        catalog = compiled.catalog
        folders = [str(layer) for name, layer in catalog.folders if name != SHIPPED]
        outcomes = submit_cells(cell_folder, cells, grid.job_parameters, folders, catalog.allowed_imports)
    else:
        outcomes = _measure(compiled, cell_folder, cells)
    is_interrupted = len(outcomes) < len(cells)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors and len(errors) == len(cells):
        raise errors[0]
    formats = outputs.ResultFormats(encode_json=encode_json, render_markdown=render_markdown, print_text=print_sweep)
    with hold_interrupts():  # but not while the text is printed, which takes long for thousands of cells
        result = _make_result(cell_folder, cells, outcomes)
        failure = outputs.try_to_write_result(result, formats, files)
    outputs.print_result(result, formats, failure, as_json=json_ == "-")
    if is_interrupted:
        raise KeyboardInterrupt
    if plot is not None:
        _draw(result, plot)
    raise typer.Exit(_exit_code(result))


def _measure(rules: CompiledRules, folder: Path, cells: Sequence[Cell]) -> list[Outcome]:
    """Measure cells and return their outcomes, which an interruption ends early."""
    from optadvise.benchmark.sweep import run_sweep

    outcomes: list[Outcome] = []
    with contextlib.suppress(KeyboardInterrupt):
        for outcome in run_sweep(rules, folder, cells, _announcer(len(cells))):
            outcomes.append(outcome)
    return outcomes


def _make_result(folder: Path, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> SweepResult:
    """Return the result of all cells; an interruption left out those without an outcome."""
    from optadvise.benchmark import sweep as benchmark_sweep
    from optadvise.benchmark.sweep_records import Outcome

    missing = (Outcome(cell=cell, result=None, reason="interrupted") for cell in cells[len(outcomes) :])
    seconds = math.inf if len(outcomes) == len(cells) else _MAX_READ_SECONDS
    refreshed = benchmark_sweep.refresh_outcomes(folder, [*outcomes, *missing], seconds)
    return benchmark_sweep.make_sweep_result(list(refreshed))


def _draw(result: SweepResult, plot: Path) -> None:
    from optadvise.cli.pictures import draw
    from optadvise.render.plots import measurements

    draw(lambda: measurements.draw_sweep(result, plot), 0)


def _exit_code(result: SweepResult) -> int:
    arms = [cell.arm for cell in result.cells if cell.arm is not None]
    if len(arms) < len(result.cells):
        return 5
    return 0 if any(arm.status == "ok" for arm in arms) else 4


def _make_folder(file: Path, chosen: Path | None) -> Path:
    folder = file.with_suffix("") if chosen is None else chosen
    if folder == file:
        message = f"{str(file)!r} has no ending, so the default folder would have its name; add --folder DIR"
        raise InputError(message, code=ErrorCode.MISSING_OPTION, option="--folder")
    create_output_folder(folder, "--folder")
    return folder


def _announcer(count: int) -> Callable[[Cell, int], None]:
    """Return a function that prints which cell is measured next."""

    def announce(cell: Cell, number: int) -> None:
        print(f"{number + 1} of {count}: {cell.name}", file=sys.stderr, flush=True)

    return announce
