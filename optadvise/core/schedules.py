"""Learning-rate schedules of a run, computed from a schedule's card and the number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from msgspec.structs import replace

from optadvise.core.advice_records import ScheduleAdvice
from optadvise.core.cards import Scalar, Scheduler, Value

SEQUENTIAL = "torch.optim.lr_scheduler.SequentialLR"
# Names that a card's phases and a framework's settings can refer to as `$name`.
QUANTITIES = ("lr", "floor_lr", "floor_share", "start_factor", "start_lr", "total_steps", "warmup_steps",
              "warmup_fraction", "decay_steps", "stable_steps", "milestones")  # fmt: skip
START_FACTOR = 0.01  # warmup starts at 1 % of the peak learning rate (guide, Warmup)


def list_quantities(scheduler: Scheduler, peak: float, steps: int, warmup_fraction: float) -> dict[str, Value]:
    """Return the quantities that a card's phases refer to, by name.

    Args:
        peak: Peak learning rate.
        steps: Optimizer steps of the run.
        warmup_fraction: Fraction of the run for warmup, if the schedule has one.
    """
    warmup = max(1, round(warmup_fraction * steps)) if scheduler.warmup and steps > 1 else 0
    warmup = min(warmup, max(steps - 1, 0))
    if scheduler.warmup and abs(warmup_fraction * steps - 1) < 1e-6:
        warmup_fraction = 1.5 / steps  # OneCycleLR divides by the number of warmup steps minus one
    decay = round(scheduler.decay_fraction * steps) if scheduler.decay_fraction else steps - warmup
    decay = max(1, min(decay, steps - warmup))
    return {
        "lr": peak,
        "floor_lr": float(f"{peak * scheduler.floor:.6g}"),
        "floor_share": scheduler.floor,
        "start_factor": START_FACTOR,
        "start_lr": float(f"{peak * START_FACTOR:.6g}"),
        "total_steps": steps,
        "warmup_steps": warmup,
        "warmup_fraction": warmup_fraction,
        "decay_steps": decay,
        "stable_steps": max(0, steps - warmup - decay),
        "milestones": [round(fraction * steps) for fraction in scheduler.milestones],
    }


def _resolved(kwargs: Mapping[str, Value], named: Mapping[str, Value]) -> dict[str, Value]:
    return {k: named[v[1:]] if isinstance(v, str) and v.startswith("$") else v for k, v in kwargs.items()}


def resolve_schedule(
    scheduler: Scheduler, peak: float, steps: int, warmup_fraction: float, alternatives: Mapping[str, str]
) -> ScheduleAdvice:
    """Return the schedule with the values for a run.

    Args:
        peak: Peak learning rate.
        steps: Optimizer steps of the run.
        warmup_fraction: Fraction of the run for warmup, if the schedule has one.
        alternatives: Reasons by the ids of alternative schedules.
    """
    named = list_quantities(scheduler, peak, steps, warmup_fraction)
    phases = tuple(replace(phase, kwargs=_resolved(phase.kwargs, named)) for phase in scheduler.phases)
    if len(phases) == 1:
        path, kwargs = phases[0].path, phases[0].kwargs
    else:
        ends: list[Scalar] = [int(str(named["warmup_steps"]))]
        if len(phases) == 3:
            ends.append(steps - int(str(named["decay_steps"])))
        path, kwargs = SEQUENTIAL, {"milestones": ends}
    shown = {k: named[k] for k in ("total_steps", "warmup_steps", "floor_lr")}
    if scheduler.milestones:
        shown["milestones"] = named["milestones"]
    return ScheduleAdvice(
        id=scheduler.id, path=path, kwargs=kwargs, phases=phases, quantities=shown, alternatives=alternatives
    )


def compute_lr(schedule: ScheduleAdvice, peak: float, step: int) -> float:
    """Return the learning rate at an optimizer step.

    Args:
        peak: Peak learning rate, with which the optimizer is built.
        step: Index of the optimizer step, from 0.

    Example:
        >>> from optadvise.core.records import Phase
        >>> phase = Phase(shape="constant", path="", kwargs={"factor": 1.0})
        >>> constant = ScheduleAdvice("constant", "", {}, (phase,), {}, {})
        >>> compute_lr(constant, 0.1, 7)
        0.1
    """
    ends = [int(end) for end in _list(schedule.kwargs.get("milestones"))] if len(schedule.phases) > 1 else []
    index = sum(step >= end for end in ends)
    phase = schedule.phases[index]
    return peak * _FACTORS[phase.shape](phase.kwargs, step - ends[index - 1] if index else step, peak)


def _list(value: Value) -> list[Any]:
    return value if isinstance(value, list) else []


PhaseArguments: TypeAlias = Mapping[str, Any]  # arguments of a torch class by name: numbers, or a list of milestones


def _linear(kwargs: PhaseArguments, step: int, _: float) -> float:
    start, end, length = kwargs["start_factor"], kwargs["end_factor"], kwargs["total_iters"]
    return float(start + (end - start) * min(step, length) / length) if length else float(end)


def _cosine(kwargs: PhaseArguments, step: int, peak: float) -> float:
    floor = kwargs.get("eta_min", 0.0) / peak if peak else 0.0
    return float(floor + (1 - floor) * (1 + math.cos(math.pi * step / kwargs["T_max"])) / 2)


def _step_decay(kwargs: PhaseArguments, step: int, _: float) -> float:
    return float(kwargs["gamma"] ** sum(step >= milestone for milestone in kwargs["milestones"]))


def _one_cycle(kwargs: PhaseArguments, step: int, _: float) -> float:
    """Return the factor of torch.optim.lr_scheduler.OneCycleLR with `div_factor` 25 and `final_div_factor` 10,000."""
    start, last = 1 / 25, 1 / 25 / 1e4
    turn, end = kwargs["pct_start"] * kwargs["total_steps"] - 1, kwargs["total_steps"] - 1
    if step <= turn:
        return _eased(start, 1.0, step / turn)
    return _eased(1.0, last, (step - turn) / (end - turn))


def _eased(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def _inverse_sqrt(kwargs: PhaseArguments, step: int, _: float) -> float:
    warmup = max(1, kwargs["warmup_steps"])
    return float(min((step + 1) / warmup, math.sqrt(warmup / (step + 1))))


# Factor on the peak learning rate at a step of a phase; tests/test_schedules.py compares them with the torch classes.
_FACTORS: Mapping[str, Callable[[PhaseArguments, int, float], float]] = {
    "linear": _linear,
    "constant": lambda kwargs, step, peak: 1.0,
    "cosine": _cosine,
    "step": _step_decay,
    "one-cycle": _one_cycle,
    "inverse-sqrt": _inverse_sqrt,
}
