"""Schedules over a run: learning rates at its steps, and their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from optadvise.core import schedules
from optadvise.core.advice_records import ScheduleAdvice
from optadvise.core.cards import Phase, Scheduler, Value
from optadvise.core.json_text import Document
from optadvise.core.records import Positive

_POINTS = 200  # of the JSON, in addition to phase changes


class ScheduleRun(Struct, frozen=True):
    """A schedule with the numbers of a run."""

    card: Scheduler
    advice: ScheduleAdvice
    lr: float  # peak learning rate
    steps: int
    warmup_source: str

    @property
    def warmup_steps(self) -> int:
        """Return the warmup steps."""
        return int(str(self.advice.quantities["warmup_steps"]))

    def lr_at(self, step: int) -> float:
        """Return the learning rate at a step."""
        return schedules.compute_lr(self.advice, self.lr, step)

    def step_at(self, fraction: float) -> int:
        """Return the step at a fraction of the run; 1.0 is its last step."""
        return round(fraction * (self.steps - 1))

    def list_points(self) -> list[tuple[int, float]]:
        """Return steps and their learning rates, evenly over the run and on both sides of each phase change."""
        return [(step, self.lr_at(step)) for step in sample_steps(self.advice, self.steps, _POINTS)]


class ScheduleDocument(Struct, frozen=True):
    """A schedule over a run."""

    id: str
    path: str = field(name="import")
    kwargs: Mapping[str, Value]
    phases: Annotated[tuple[Phase, ...], Meta(min_length=1)]
    total_steps: Positive
    warmup_steps: Annotated[int, Meta(ge=0, description="0 if the schedule has no warmup.")]
    lr: Annotated[float, Meta(gt=0, description="Peak learning rate, the `lr` of the optimizer.")]
    points: Annotated[
        tuple[tuple[Annotated[int, Meta(ge=0)], Annotated[float, Meta(ge=0)]], ...],
        Meta(min_length=1, description="Steps from 0 with their learning rates; more steps where a phase ends."),
    ]


class SchedulesDocument(Document, frozen=True, kw_only=True):
    """`optadvise schedule --json`: learning rates over a run."""

    kind: Literal["schedule"] = "schedule"
    schedules: Annotated[tuple[ScheduleDocument, ...], Meta(min_length=1)]


def build_schedules(runs: Iterable[ScheduleRun]) -> SchedulesDocument:
    """Return the JSON of schedules over a run."""
    return SchedulesDocument(
        schedules=tuple(
            ScheduleDocument(
                id=run.card.id,
                path=run.advice.path,
                kwargs=run.advice.kwargs,
                phases=run.advice.phases,
                total_steps=run.steps,
                warmup_steps=run.warmup_steps,
                lr=run.lr,
                points=tuple(run.list_points()),
            )
            for run in runs
        )
    )


def sample_steps(schedule: ScheduleAdvice, steps: int, count: int) -> list[int]:
    """Return evenly spaced steps and both sides of each phase change, so that drops are drawn vertically."""
    last = max(steps - 1, 0)
    sampled = {round(n / count * last) for n in range(count + 1)}
    sampled |= {step for corner in list_corners(schedule) for step in (corner - 1, corner) if 0 <= step <= last}
    return sorted(sampled)


def list_corners(schedule: ScheduleAdvice) -> list[int]:
    """Return the steps at which a phase of a schedule ends or its learning rate drops."""
    milestones = [schedule.kwargs.get("milestones"), schedule.quantities.get("milestones")]
    ends = {int(str(step)) for steps in milestones if isinstance(steps, list) for step in steps}
    return sorted({*ends, int(str(schedule.quantities["warmup_steps"]))} - {0})
