"""`optadvise sweep`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.benchmark.sweep_records import Cell, SweepResult


_File = Annotated[Path, typer.Argument(help="The grid: optimizers, and options of bench as values or lists.")]
_Out = Annotated[Path | None, opt.option("Folder of the cells (default: named after the file).", group="Output")]
_Launcher = Annotated[
    str, opt.option("local (one cell after the other) or slurm (a job for each, by submitit).", group="How it runs")
]
_Json = Annotated[str | None, opt.option("Write JSON to this file; - for stdout.", "--json", group="Output")]
_Markdown = Annotated[Path | None, opt.option("Write a Markdown table to this file.", group="Output")]
_Plot = Annotated[Path | None, opt.option("Draw memory against speed: sweep.png, .svg or .pdf.", group="Output")]


def sweep(
    file: _File,
    out: _Out = None,
    launcher: _Launcher = "local",
    json_: _Json = None,
    markdown: _Markdown = None,
    plot: _Plot = None,
    rules: opt.Rules = None,
) -> None:
    """Measure a grid of optimizers, sizes, types and whatever else bench takes, and take up what is left.

    Each finished cell is written at once: the same line, said again, goes on where it was stopped, and several may work
    on one folder. Exit code 4: nothing could run; 5: cells are still missing.
    """
    from optadvise.benchmark import sweep as benchmark_sweep
    from optadvise.benchmark.sweep_file import read_sweep
    from optadvise.cli import outputs, pictures
    from optadvise.render.text.sweep import print_sweep, render_markdown
    from optadvise.rule_analysis import rule_folders

    if launcher not in ("local", "slurm"):
        raise InputError(f"--launcher {launcher!r}: is local or slurm")
    files = outputs.places({"--json": None if json_ == "-" else json_, "--markdown": markdown})
    outputs.places({"--plot": plot})
    pictures.check(plot)
    grid = read_sweep(file, benchmark_sweep.OPTIONS)
    compiled = rule_folders.load_rules(rules)
    try:
        cells = benchmark_sweep.make_cells(compiled, grid.optimizers, grid.options)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    folder = _make_folder(file, out)
    if launcher == "slurm":
        from optadvise.benchmark.slurm import submit_cells

        outcomes = submit_cells(folder, cells, grid.job_parameters, tuple(map(str, rules or ())))
    else:
        outcomes = list(benchmark_sweep.run_sweep(compiled, folder, cells, _announcer(len(cells))))
    result = benchmark_sweep.make_sweep_result(outcomes)
    formats = outputs.ResultFormats(encode_json=encode_json, render_markdown=render_markdown, print_text=print_sweep)
    outputs.show_result(result, formats, files, as_json=json_ == "-")
    if plot is not None:
        _draw(result, plot)
    raise typer.Exit(_exit_code(result))


def _draw(result: SweepResult, plot: Path) -> None:
    from optadvise.cli.pictures import draw
    from optadvise.render.plots import measurements

    draw(lambda: measurements.draw_sweep(result, plot), 0)


def _exit_code(result: SweepResult) -> int:
    arms = [cell.arm for cell in result.cells if cell.arm is not None]
    if len(arms) < len(result.cells):
        return 5
    return 0 if any(arm.status == "ok" for arm in arms) else 4


def _make_folder(file: Path, out: Path | None) -> Path:
    folder = file.with_suffix("") if out is None else out
    if folder == file:
        raise InputError(f"{str(file)!r}: has no ending, so that its folder would have its name; say --out FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(folder)!r}: cannot be made ({error.strerror}); name another place") from error
    return folder


def _announcer(count: int) -> Callable[[Cell, int], None]:
    """Return a function that prints which of the cells is measured next."""

    def announce(cell: Cell, number: int) -> None:
        print(f"{number + 1} of {count}: {cell.name}", file=sys.stderr, flush=True)

    return announce
