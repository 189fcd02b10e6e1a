"""`optadvise trajectories`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.cli.interrupts import hold_interrupts
from optadvise.cli.outputs import report_written
from optadvise.core.cards import MOST_STEPS
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError, InterruptedMeasurementError, suggest_name
from optadvise.core.json_text import encode_json
from optadvise.core.units import parse_count
from optadvise.rulebase.catalog import load_shipped

if TYPE_CHECKING:
    from optadvise.core.surface_cards import Surface
    from optadvise.rulebase.catalog import Catalog
    from optadvise.verify.trajectory_records import TrajectoriesResult


def trajectories(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Optimizers (default: a selection).", autocompletion=of("optimizers")),
    ] = None,
    surface: Annotated[
        str,
        opt.option(
            "Loss surface of two weights (default: saddle).", completer=of("surfaces"), choices=load_shipped().surfaces
        ),
    ] = "saddle",
    steps: Annotated[
        str | None, opt.option("Steps of each optimizer (default: set by the surface).", metavar="N")
    ] = None,
    lr: Annotated[float | None, opt.option("Learning rate of all optimizers (default: set by the surface).")] = None,
    plot: Annotated[Path | None, opt.option("Plot to this file: saddle.png, .svg or .pdf.", group="Output")] = None,
    animate: Annotated[Path | None, opt.option("Write an animation to this file: saddle.gif.", group="Output")] = None,
    json_: opt.JsonFile = None,
    rules: opt.Rules = None,
    allow_imports: opt.AllowImports = None,
) -> None:
    """Compute the trajectories of installed optimizers on a loss surface of two weights (default: a saddle).

    Each trajectory is computed by the optimizer's own class. Exit code 4: no optimizer can run on this machine, or
    matplotlib is missing.
    """
    files = _check_files(plot, animate, json_)
    if lr is not None and not 0 < lr <= 1e6:
        message = f"--lr {lr:g}: must be above 0 and at most 1e6"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--lr", value=lr)
    from optadvise.rule_analysis import rule_folders

    catalog = rule_folders.load_catalog(rules, allow_imports)
    chosen, compute = _prepare(catalog, names or [], surface, steps, lr)
    try:
        result = compute()
    except InterruptedMeasurementError as interruption:
        _show(interruption.result, json_)
        raise KeyboardInterrupt from None
    with hold_interrupts():
        _show(result, json_)
    if not result.trajectories:
        message = f"no optimizer can run on this machine; {result.skipped[0].because}"
        raise CannotRunHereError(message, code=ErrorCode.NOTHING_MEASURED)
    if plot is not None or animate is not None:
        from optadvise.render.plots import surfaces
        from optadvise.verify.trajectories import sample_grid

        grid = sample_grid(chosen, 121)
        if plot is not None:
            surfaces.draw_paths(result, grid, plot)
        if animate is not None:
            surfaces.animate_paths(result, grid, animate)
    for file in files:
        report_written(file)


def _show(result: TrajectoriesResult, json_: str | None) -> None:
    """Print the result; write its JSON to the file of `--json`, or print it for `-`."""
    if json_ == "-":
        typer.echo(encode_json(result), nl=False)
        return
    from optadvise.render.text.trajectories import print_trajectories

    if json_ is not None:
        from optadvise.core.files import write_output

        write_output(Path(json_), encode_json(result), "--json")
    print_trajectories(result)


def _check_files(plot: Path | None, animate: Path | None, json_: str | None) -> list[Path]:
    """Return the output files, after checking that each can be written."""
    from optadvise.cli import outputs
    from optadvise.render.plots import figures

    if plot is not None:
        figures.check_picture(plot, "--plot")
    if animate is not None:
        figures.check_picture(animate, "--animate", figures.ANIMATIONS)
    named = {"--plot": plot, "--animate": animate, "--json": None if json_ == "-" else json_}
    return list(outputs.places(named).values())


def _prepare(
    catalog: Catalog, names: list[str], surface: str, steps: str | None, lr: float | None
) -> tuple[Surface, Callable[[], TrajectoriesResult]]:
    """Return the surface, and a function that computes the trajectories; check the options before torch is imported."""
    if surface.lower() not in catalog.surfaces:
        message = f"--surface {surface!r} does not exist; {suggest_name(surface, catalog.surfaces)}"
        raise InputError(message, code=ErrorCode.UNKNOWN_NAME, option="--surface", value=surface)
    chosen = catalog.surfaces[surface.lower()]
    count = chosen.steps if steps is None else parse_count(steps, "--steps")
    if count > MOST_STEPS:
        message = f"--steps {steps!r}: must be at most {MOST_STEPS:,}"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--steps", value=steps)
    ids = [catalog.find_optimizer(name, "trajectories") for name in names] or catalog.default_trajectory_optimizers
    cards = [catalog.optimizer(name) for name in dict.fromkeys(ids)]
    catalog.imports.check(implementation.path for card in cards for implementation in card.implementations)
    try:
        from optadvise.verify import trajectories
    except ImportError as error:
        message = "trajectories requires torch; pip install torch"
        raise CannotRunHereError(message, code=ErrorCode.MISSING_PACKAGE) from error
    return chosen, lambda: trajectories.compute_trajectories(chosen, cards, count, lr)
