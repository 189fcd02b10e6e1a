"""A schedule's card and a run's length to the numbers of this run's schedule. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.domain import ScheduleAdvice, Scheduler, Value

SEQUENTIAL = "torch.optim.lr_scheduler.SequentialLR"
START_FACTOR = 0.01  # the ramp starts at one percent of the peak (guide, Warmup)


def quantities(scheduler: Scheduler, peak: float, steps: int, warmup_fraction: float) -> dict[str, Value]:
    """Return the named quantities that a card's phases refer to.

    Args:
        scheduler: The schedule's card.
        peak: Peak learning rate.
        steps: Optimizer steps of the whole run.
        warmup_fraction: Share of the run that ramps up, where the schedule does.
    """
    warmup = max(1, round(warmup_fraction * steps)) if scheduler.warmup and steps > 1 else 0
    warmup = min(warmup, max(steps - 1, 0))
    decay = round(scheduler.decay_fraction * steps) if scheduler.decay_fraction else steps - warmup
    decay = max(1, min(decay, steps - warmup))
    return {
        "lr": peak,
        "floor_lr": float(f"{peak * scheduler.floor:.6g}"),
        "start_factor": START_FACTOR,
        "total_steps": steps,
        "warmup_steps": warmup,
        "warmup_fraction": warmup_fraction,
        "decay_steps": decay,
        "stable_steps": max(0, steps - warmup - decay),
        "milestones": [round(share * steps) for share in scheduler.milestones],
    }


def _resolved(kwargs: Mapping[str, Value], named: Mapping[str, Value]) -> dict[str, Value]:
    return {k: named[v[1:]] if isinstance(v, str) and v.startswith("$") else v for k, v in kwargs.items()}


def advise(
    scheduler: Scheduler, peak: float, steps: int, warmup_fraction: float, alternatives: Mapping[str, str]
) -> ScheduleAdvice:
    """Return the schedule with the numbers of this run.

    Args:
        scheduler: The schedule's card.
        peak: Peak learning rate.
        steps: Optimizer steps of the whole run.
        warmup_fraction: Share of the run that ramps up, where the schedule does.
        alternatives: Other schedules, each with a reason.
    """
    named = quantities(scheduler, peak, steps, warmup_fraction)
    phases = tuple((p.shape, p.path, _resolved(p.kwargs, named)) for p in scheduler.phases)
    if len(phases) == 1:
        path, kwargs = phases[0][1], phases[0][2]
    else:
        ends = [named["warmup_steps"]]
        if len(phases) == 3:
            ends.append(steps - int(str(named["decay_steps"])))
        path, kwargs = SEQUENTIAL, {"milestones": ends}
    shown = {k: named[k] for k in ("total_steps", "warmup_steps", "floor_lr")}
    if scheduler.milestones:
        shown["milestones"] = named["milestones"]
    return ScheduleAdvice(scheduler.id, path, kwargs, phases, shown, alternatives)
