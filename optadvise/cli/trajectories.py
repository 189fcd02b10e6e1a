"""`optadvise trajectories`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.core.cards import MOST_STEPS
from optadvise.core.errors import CannotRunHereError, InputError, suggest_name
from optadvise.core.json_text import encode_json
from optadvise.core.units import parse_count

if TYPE_CHECKING:
    from optadvise.core.surface_cards import Surface
    from optadvise.verify.trajectory_records import TrajectoriesResult


def trajectories(
    names: Annotated[
        list[str] | None, typer.Argument(help="Optimizers (default: a selection).", autocompletion=of("optimizers"))
    ] = None,
    surface: Annotated[str, opt.option("Surface (default: saddle).", completer=of("surfaces"))] = "saddle",
    steps: Annotated[str | None, opt.option("Steps of each optimizer (default: by the surface).")] = None,
    lr: Annotated[float | None, opt.option("One learning rate for all, instead of the surface's for each.")] = None,
    out: Annotated[Path | None, opt.option("A picture: walk.png, .svg or .pdf.", "--out", "-o", group="Output")] = None,
    animate: Annotated[Path | None, opt.option("An animation: walk.gif.", group="Output")] = None,
    json_: Annotated[str | None, opt.option("Write JSON to this file; - for stdout.", "--json", group="Output")] = None,
    rules: opt.Rules = None,
) -> None:
    """Watch installed optimizers walk on a loss of two weights (default: the saddle).

    Each path is computed by the optimizer's own class. Exit code 4: none of them can walk here, or a picture was asked
    for without matplotlib.
    """
    files = _check_files(out, animate, json_)
    if lr is not None and not 0 < lr <= 1e6:
        raise InputError(f"--lr {lr:g}: must be above 0 and at most 1e6")
    chosen, result = _compute(names or [], surface, steps, lr, rules)
    if json_ is not None:
        json_text = encode_json(result)
        if json_ == "-":
            typer.echo(json_text, nl=False)
        else:
            from optadvise.core.files import write_output

            write_output(Path(json_), json_text)
    if json_ != "-":
        from optadvise.render.text.trajectories import print_trajectories

        print_trajectories(result)
    if not result.trajectories:
        raise CannotRunHereError(f"none of these can walk here; {result.skipped[0].because}")
    if out is not None or animate is not None:
        from optadvise.render.plots import surfaces
        from optadvise.verify.trajectories import sample_grid

        grid = sample_grid(chosen, 121)
        if out is not None:
            surfaces.draw_paths(result, grid, out)
        if animate is not None:
            surfaces.animate_paths(result, grid, animate)
    for file in files:
        typer.echo(f"wrote {file}", err=True)


def _check_files(out: Path | None, animate: Path | None, json_: str | None) -> list[Path]:
    """Return the files that will be written, each found to be writable."""
    from optadvise.cli import outputs
    from optadvise.render.plots import figures

    if out is not None:
        figures.check_picture(out, "--out")
    if animate is not None:
        figures.check_picture(animate, "--animate", figures.ANIMATIONS)
    named = {"--out": out, "--animate": animate, "--json": None if json_ == "-" else json_}
    return list(outputs.places(named).values())


def _compute(
    names: list[str], surface: str, steps: str | None, lr: float | None, rules: list[Path] | None
) -> tuple[Surface, TrajectoriesResult]:
    """Return the surface and the trajectories; torch is imported only after the options were checked."""
    from optadvise.rule_analysis import rule_folders

    catalog = rule_folders.load_catalog(rules)
    if surface.lower() not in catalog.surfaces:
        raise InputError(f"--surface {surface!r}: not known; {suggest_name(surface, catalog.surfaces)}")
    chosen = catalog.surfaces[surface.lower()]
    count = chosen.steps if steps is None else parse_count(steps, "--steps")
    if count > MOST_STEPS:
        raise InputError(f"--steps {steps!r}: at most {MOST_STEPS:,}")
    ids = [catalog.find_optimizer(name, "trajectories") for name in names] or catalog.default_trajectory_optimizers
    try:
        from optadvise.verify import trajectories
    except ImportError as error:
        raise CannotRunHereError("trajectories: torch cannot be imported; pip install torch") from error
    cards = [catalog.optimizer(name) for name in dict.fromkeys(ids)]
    return chosen, trajectories.compute_trajectories(chosen, cards, count, lr)
