"""Paths of optimizers on a surface: as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from rich.markup import escape

from optadvise.core.records import Surface
from optadvise.core.units import show_number
from optadvise.render.text.console import Page, grid, heading, titled

if TYPE_CHECKING:
    from optadvise.verify.trajectories import LeftOut, Walk

_TABLE = 72  # columns that the table takes
_ENDS = {"outside": "out", "not-finite": "diverged"}


class Walked(Struct, frozen=True):
    """What there is to show."""

    surface: Surface
    steps: int
    walks: Sequence[Walk]
    left_out: Sequence[LeftOut]


def as_json(walked: Walked) -> str:
    """Return the paths as one JSON object."""
    surface = walked.surface
    data = {
        "schema_version": 1,
        "kind": "trajectories",
        "surface": {
            "id": surface.id, "name": surface.name, "formula": surface.formula, "x": list(surface.x),
            "y": list(surface.y), "start": list(surface.start),
            "minimum": None if surface.minimum is None else list(surface.minimum),
            "goal": {"at_most": surface.goal["at_most"], "say": surface.goal["say"]}, "cite": list(surface.cite),
        },
        "steps": walked.steps,
        "walks": [
            {
                "id": walk.optimizer, "import": walk.path, "kwargs": dict(walk.kwargs), "lr": walk.lr,
                "because": walk.because, "cite": list(walk.cite), "end": walk.end, "reached": walk.reached,
                "points": [list(point) for point in walk.points],
            }
            for walk in walked.walks
        ],
        "left_out": [{"id": out.optimizer, "because": out.because} for out in walked.left_out],
    }  # fmt: skip
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def text(walked: Walked) -> None:
    """Print where each optimizer went."""
    surface = walked.surface
    with Page() as out:
        x, y = (show_number(value) for value in surface.start)
        out.print(f"[bold]{escape(surface.name)}[/bold]  {escape(surface.formula)}")
        said = walked.walks and not any(walk.cite for walk in walked.walks)
        rates = "all at one learning rate" if said else "each optimizer at its own learning rate"
        out.print(f"  {walked.steps:,} steps from ({x}, {y}), {rates}")
        goal = f"it {surface.goal['say']}, f at most {show_number(surface.goal['at_most'])}"
        out.print(f"  arrives: the first step at which {escape(goal)}")
        out.print("  out: it left what is drawn, and was stopped there")
        out.print()
        table = titled(2, ("", "fold"), ("lr", "right"), ("steps", "right"), ("ends at", "right"), ("value", "right"),
                       ("arrives", "right"), ("", "left"))  # fmt: skip
        if out.width < _TABLE:
            table = grid("wrap")
        for walk in walked.walks:
            if out.width < _TABLE:
                table.add_row("", _sentence(walk))
                continue
            at = walk.points[-1]
            reached = "–" if walk.reached is None else f"{walk.reached:,}"
            table.add_row("", walk.optimizer, show_number(walk.lr), f"{len(walk.points) - 1:,}",
                          f"{at[0]:.3g}, {at[1]:.3g}", f"{at[2]:.3g}", reached, _ENDS.get(walk.end, ""))  # fmt: skip
        out.print(table)
        _rates(out, walked.walks)
        if walked.left_out:
            out.print(heading("Cannot walk here"))
            table = grid("left", "wrap")
            for left in walked.left_out:
                table.add_row("", left.optimizer, escape(left.because))
            out.print(table)


def _sentence(walk: Walk) -> str:
    """Return a row of the table in words, where the terminal is too narrow for it."""
    x, y, value = walk.points[-1]
    arrives = "does not arrive" if walk.reached is None else f"arrives at step {walk.reached:,}"
    end = f", {_ENDS[walk.end]}" if walk.end in _ENDS else ""
    return (f"{walk.optimizer}: lr {show_number(walk.lr)}, {len(walk.points) - 1:,} steps to {x:.3g}, {y:.3g}, "
            f"value {value:.3g}, {arrives}{end}")  # fmt: skip


def _rates(out: Any, walks: Sequence[Walk]) -> None:
    """Print why each has its learning rate, those alike on one line."""
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for walk in walks:
        reasons.setdefault((walk.because, walk.cite), []).append(f"{walk.optimizer} {show_number(walk.lr)}")
    out.print(heading("Learning rates"))
    table = grid("wrap")
    for (because, cite), names in reasons.items():
        sources = f" \\[{', '.join(cite)}]" if cite else ""
        table.add_row("", f"{', '.join(names)}: {escape(because)}{sources}")
    out.print(table)
