"""Schedules over a run: in words, as a table, as curves in the terminal and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from rich.markup import escape

from optadvise.core import schedules
from optadvise.core.records import ScheduleAdvice, Scheduler
from optadvise.core.units import show_count, show_number
from optadvise.render.text.console import Page, grid, heading, titled
from optadvise.render.text.terminal_plot import Axis, Line, encodes, plot

SHARES = (0, 10, 25, 50, 75, 90, 100)  # percent of the run
_FEW, _ENDS = (0, 25, 50, 100), (0, 100)  # of them, where the terminal is narrow
_WIDE, _NARROW = 78, 54  # columns
_CURVE = 400  # values of a drawn curve
_POINTS = 200  # of the JSON, besides the ends of phases


class Planned(Struct, frozen=True):
    """A schedule over a run."""

    card: Scheduler
    advice: ScheduleAdvice
    lr: float
    steps: int
    why: str  # where the warmup's length is from

    @property
    def warmup(self) -> int:
        """Steps of the ramp."""
        return int(str(self.advice.quantities["warmup_steps"]))

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        return schedules.rate(self.advice, self.lr, step)

    def at(self, share: float) -> int:
        """Return the step at a share of the run; the whole of it is the last step."""
        return round(share * (self.steps - 1))

    def curve(self, count: int = _CURVE) -> list[float]:
        """Return the rates at even distances over the run."""
        return [self.rate(self.at(n / (count - 1))) for n in range(count)]

    def points(self) -> list[tuple[int, float]]:
        """Return steps and their rates: spread over the run, and on both sides of where a phase ends."""
        kwargs, named = self.advice.kwargs, self.advice.quantities
        ends = [
            e for value in (kwargs.get("milestones"), named.get("milestones")) if isinstance(value, list) for e in value
        ]
        steps = {self.at(n / _POINTS) for n in range(_POINTS + 1)}
        steps |= {int(str(end)) - back for end in (*ends, self.warmup) for back in (0, 1)}
        return [(step, self.rate(step)) for step in sorted(steps) if 0 <= step < self.steps]


def as_json(planned: Sequence[Planned]) -> str:
    """Return schedules as one JSON object."""
    found: list[dict[str, Any]] = [
        {
            "id": p.card.id,
            "import": p.advice.path,
            "kwargs": dict(p.advice.kwargs),
            "phases": [{"shape": q.shape, "import": q.path, "kwargs": dict(q.kwargs)} for q in p.advice.phases],
            "total_steps": p.steps,
            "warmup_steps": p.warmup,
            "lr": p.lr,
            "points": [list(point) for point in p.points()],
        }
        for p in planned
    ]
    data = {"schema_version": 1, "kind": "schedule", "schedules": found}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)


def text(planned: Sequence[Planned]) -> None:
    """Print schedules."""
    steps, peak = planned[0].steps, planned[0].lr
    with Page() as out:
        for number, p in enumerate(planned):
            out.print(f"{'' if not number else chr(10)}[bold]{escape(p.card.name)}[/bold]  ({p.card.id})")
            table = grid("wrap")
            for sentence in (p.card.summary, _words(p)):
                table.add_row("", escape(sentence))
            out.print(table)
        out.print(heading("Learning rate over the run"))
        shares = SHARES if out.width >= _WIDE else _FEW if out.width >= _NARROW else _ENDS
        table = titled(
            2, ("", "fold"), *(("last" if share == SHARES[-1] else f"{share} %", "right") for share in shares)
        )
        table.add_row("", "step", *(_step(planned[0].at(share / 100)) for share in shares))
        for p in planned:
            table.add_row("", p.card.id, *(_rate(p.rate(p.at(share / 100))) for share in shares))
        out.print(table)
        out.print()
        x = Axis("step", 0, steps - 1, _step)
        lines = [Line(p.card.id, p.curve()) for p in planned]
        y = Axis("learning rate", 0.0, max((max(line.values) for line in lines), default=peak), _rate)
        for line in plot(lines, x, y, fancy=encodes(sys.stdout.encoding), width=min(80, out.width)):
            out.print(escape(line), no_wrap=True, soft_wrap=True)


def _words(p: Planned) -> str:
    """Return the numbers of a schedule in a sentence."""
    curve = p.points()
    top = max(rate for _, rate in curve)
    high = [step for step, rate in curve if rate >= (1 - 1e-6) * top]
    low = min(rate for step, rate in curve if step >= high[0])
    steps = f"{p.steps:,} step{'' if p.steps == 1 else 's'}"
    ramp = f"{p.warmup:,} of {steps} of warmup ({p.why})" if p.warmup else f"{steps}, no warmup"
    rise = f"reaches {_rate(top)} at step {high[0]:,}" if high[0] else f"starts at {_rate(top)}"
    start = f"starts at {_rate(curve[0][1])}, " if high[0] else ""
    hold = f", holds it to step {high[-1]:,}" if high[-1] - high[0] > p.steps / 50 else ""
    end = f"falls to {_rate(low)}" if low < (1 - 1e-6) * top else "ends there"
    return f"{ramp}: {start}{rise}{hold} and {end}."


def _step(step: float) -> str:
    return show_count(round(step)) if step else "0"


def _rate(rate: float) -> str:
    return show_number(float(f"{rate:.3g}"))
