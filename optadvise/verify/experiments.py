"""Experiments by name: what runs on each side, a setting and a seed go in, one figure without a unit comes out.

They know no optimizer. A figure is a ratio or a share; `Undecidable` says why there is none.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from optadvise.benchmark import optimizer_builder, workloads
from optadvise.benchmark.spec import Arm
from optadvise.core.records import Surface
from optadvise.verify import trajectories
from optadvise.verify.builder import quiet
from optadvise.verify.training import Trainings


class Undecidable(Exception):  # noqa: N818
    """An experiment that says nothing, in words."""


class Side(Struct, frozen=True):
    """One side of an experiment."""

    arm: Arm
    rates: Mapping[float, Arm]  # the same at each learning rate that is tried
    warmup: int = 0


class Experiment:
    """What an experiment runs on."""

    def __init__(self, sides: Sequence[Side], setting: Mapping[str, Any], device: str, trainings: Trainings,
                 surface: Surface | None = None) -> None:  # fmt: skip
        """Take what runs.

        Args:
            sides: One or two; a ratio is the first over the second.
            setting: What the experiment's function asks for.
            device: cpu or cuda.
            trainings: Made before.
            surface: The one that `setting` names, if it does.
        """
        self.sides, self.setting, self.device, self.trainings, self.surface = sides, setting, device, trainings, surface

    def losses(self, side: Side, seed: int, **how: Any) -> list[float]:
        """Return the losses of a side's training."""
        setting = how.pop("setting", self.setting)
        return self.trainings.losses(how.pop("arm", side.arm), setting, seed, self.device, warmup=side.warmup, **how)

    def last(self, losses: Sequence[float]) -> float:
        """Return the mean of the last losses."""
        return fmean(losses[-self.setting["last"] :])

    def by_rate(self, side: Side, seed: int, **setting: Any) -> dict[float, float]:
        """Return the last loss at each learning rate."""
        changed = {**self.setting, **setting}
        return {rate: self.last(self.losses(side, seed, arm=arm, setting=changed)) for rate, arm in side.rates.items()}

    def best_rate(self, side: Side, seed: int, **setting: Any) -> float:
        """Return the learning rate with the lowest last loss, between those tried.

        It is the bottom of the parabola through the lowest and its neighbours, over the logarithms of the rates.

        Raises:
            Undecidable: It is the lowest or the highest that was tried, so that a better one may lie beyond.
        """
        found = self.by_rate(side, seed, **setting)
        best = inside(side, found)
        rates = sorted(found)
        around = rates[rates.index(best) - 1 : rates.index(best) + 2]
        return bottom([math.log(rate) for rate in around], [found[rate] for rate in around])


def inside(side: Side, found: Mapping[float, float]) -> float:
    """Return the learning rate with the lowest loss.

    Raises:
        Undecidable: It is the lowest or the highest that was tried.
    """
    best = min(found, key=lambda rate: found[rate])
    if best in (min(found), max(found)):
        raise Undecidable(f"the best rate of {side.arm.optimizer} lies at the end of those tried, at {best:g}")
    return best


def bottom(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the exponential of where the parabola through three points is lowest; the middle one is the lowest.

    Example:
        >>> round(bottom([0.0, 1.0, 2.0], [1.0, 0.0, 1.0]), 3)
        2.718
    """
    (x0, x1, x2), (y0, y1, y2) = xs, ys
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if left == right:  # three equal losses
        return math.exp(x1)
    return math.exp(x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right))


# -- state and steps ------------------------------------------------------------------------------------------------


def _state(made: Experiment, side: Side) -> tuple[int, int]:
    """Return the bytes of the state after a step, and of the weights."""
    dtype = getattr(torch, made.setting.get("dtype", "float32"))
    weights = torch.nn.Parameter(torch.ones(made.setting["shape"], dtype=dtype, device=made.device))
    weights.grad = torch.ones_like(weights)
    with quiet():
        built = optimizer_builder.build_optimizers(side.arm, [("weight", weights)])
        for optimizer in built:
            optimizer.step()
    return optimizer_builder.count_state_bytes(built), weights.numel() * weights.element_size()


def state_ratio(made: Experiment, seed: int) -> float:
    """State of the first over the second's, for one matrix of a `shape` and `dtype`."""
    return _state(made, made.sides[0])[0] / _state(made, made.sides[1])[0]


def state_buffers(made: Experiment, seed: int) -> float:
    """State over the weights it belongs to."""
    state, weights = _state(made, made.sides[0])
    return state / weights


def _path(made: Experiment, side: Side, gradient: Callable[[int], Tensor], start: Tensor, steps: int) -> list[Tensor]:
    """Return the weights before the first step and after each, under given gradients."""
    weights = torch.nn.Parameter(start.to(made.device, copy=True))
    with quiet():
        built = optimizer_builder.build_optimizers(side.arm, [("weight", weights)])
        path = [weights.detach().clone()]
        for step in range(steps):
            weights.grad = gradient(step).to(made.device)
            for optimizer in built:
                optimizer.step()
            path.append(weights.detach().clone())
    return path


def _noise(shape: Sequence[int], seed: int) -> Callable[[int], Tensor]:
    return lambda step: torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * (seed + 1) + step))


def path_distance(made: Experiment, seed: int) -> float:
    """Distance of the two ends after `steps` of noise on a `shape`, as a share of the way that the second went."""
    shape, steps = made.setting["shape"], made.setting["steps"]
    start = 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    ends = [_path(made, side, _noise(shape, seed), start, steps) for side in made.sides]
    return float((ends[0][-1] - ends[1][-1]).norm() / (ends[1][-1] - ends[1][0]).norm())


def first_step_ratio(made: Experiment, seed: int) -> float:
    """Length of the first step over the mean of the last hundred, on noise on a `shape`."""
    shape = made.setting["shape"]
    path = _path(made, made.sides[0], _noise(shape, seed), torch.zeros(*shape), made.setting["steps"])
    lengths = [float((after - before).norm()) for before, after in itertools.pairwise(path)]
    return lengths[0] / fmean(lengths[-100:])


def decay_evenness(made: Experiment, seed: int) -> float:
    """How much weights with large gradients decay over how much those with small ones do, at the two `scales`.

    What decay does is the difference to the same steps on gradients that do not depend on the weights, from weights
    at zero, which have nothing to decay.
    """
    count, steps = made.setting["elements"], made.setting["steps"]
    scales = torch.tensor(made.setting["scales"])[:, None]
    start = torch.rand(2, count, generator=torch.Generator().manual_seed(seed)) + 0.5
    noise = _noise((2, count), seed)

    def gradient(step: int) -> Tensor:
        return scales * noise(step)

    decayed = _path(made, made.sides[0], gradient, start, steps)
    nothing = _path(made, made.sides[0], gradient, torch.zeros(2, count), steps)
    way = (decayed[-1] - start.to(made.device)) - nothing[-1]
    small, large = -(way / start.to(made.device)).mean(dim=1)
    return float(large / small)


def goal_steps_ratio(made: Experiment, seed: int) -> float:
    """Steps to the `surface`'s goal from a start that the seed moves, the first's over the second's."""
    surface = made.surface
    assert surface is not None
    generator = torch.Generator().manual_seed(seed)
    away = 0.5 + torch.rand(2, generator=generator)  # half to one and a half times as far from the ridge
    start = (surface.start[0], surface.start[1] * float(away[0]))
    moved = replace(surface, start=start)
    steps = []
    for side in made.sides:
        points, _ = trajectories.path(side.arm, moved, made.setting["steps"])
        reached = next((n for n, point in enumerate(points) if point[2] <= surface.goal["at_most"]), None)
        if reached is None:
            raise Undecidable(f"{side.arm.optimizer} does not reach the goal in {made.setting['steps']} steps")
        steps.append(reached)
    return steps[0] / steps[1]


def step_time_ratio(made: Experiment, seed: int) -> float:
    """Median seconds of a step on the shapes of a decoder with `params`, the first's over the second's, in turn."""
    shapes = workloads.parameter_shapes(made.setting["params"])
    torch.set_num_threads(os.cpu_count() or 1)  # as a training would; every other experiment keeps to one
    try:
        return _time_ratio(made, shapes, seed)
    finally:
        torch.set_num_threads(1)


def _time_ratio(made: Experiment, shapes: Sequence[tuple[int, ...]], seed: int) -> float:
    medians = []
    for side in made.sides if seed % 2 == 0 else reversed(made.sides):
        weights = [torch.nn.Parameter(torch.zeros(shape, device=made.device)) for shape in shapes]
        named = [(f"weights.{n}", weight) for n, weight in enumerate(weights)]
        with quiet():
            built = optimizer_builder.build_optimizers(side.arm, named)
            for weight in weights:
                weight.grad = torch.full_like(weight, 1e-3)
            seconds = [_timed(built, made.device) for _ in range(1 + made.setting["steps"])]
        medians.append(median(seconds[1:]))  # the first makes the state
    return medians[0] / medians[1] if seed % 2 == 0 else medians[1] / medians[0]


def _timed(built: Sequence[Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for optimizer in built:
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


# -- trainings ------------------------------------------------------------------------------------------------------


def smoothed(losses: Sequence[float], width: int) -> list[float]:
    """Return each loss as the mean of those up to it, `width` at most."""
    return [fmean(losses[max(0, end - width) : end]) for end in range(1, len(losses) + 1)]


def curve_distance(made: Experiment, seed: int) -> float:
    """Mean distance of the curves, `smooth` steps at a time, as a share of the second's."""
    first, second = (smoothed(made.losses(side, seed), made.setting["smooth"]) for side in made.sides)
    return fmean(abs(a / b - 1) for a, b in zip(first, second, strict=True))


def final_loss_ratio(made: Experiment, seed: int) -> float:
    """Mean loss of the `last` steps, the first's over the second's."""
    first, second = (made.last(made.losses(side, seed)) for side in made.sides)
    return first / second


def damage_ratio(made: Experiment, seed: int) -> float:
    """Loss that a spike costs over the steps `after` it against the same run without, the first's over the second's."""
    begin = made.setting["spike_at"]
    span = slice(begin, begin + made.setting["after"])
    costs = []
    for side in made.sides:
        calm, spiked = (made.losses(side, seed, spiked=there)[span] for there in (False, True))
        costs.append(fmean(spiked) - fmean(calm))
    if costs[1] <= 0:
        raise Undecidable(f"the spike cost {made.sides[1].arm.optimizer} nothing")
    return costs[0] / costs[1]


def best_rate_ratio(made: Experiment, seed: int) -> float:
    """The learning rate with the lowest last loss, the first's over the second's."""
    first, second = (made.best_rate(side, seed) for side in made.sides)
    return first / second


def best_loss_ratio(made: Experiment, seed: int) -> float:
    """The lowest last loss over all learning rates, the first's over the second's."""
    lowest = []
    for side in made.sides:
        found = made.by_rate(side, seed)
        lowest.append(found[inside(side, found)])
    return lowest[0] / lowest[1]


def rate_width_ratio(made: Experiment, seed: int) -> float:
    """How many learning rates around the best come `within` a distance of its loss, the first's over the second's."""
    counts = []
    for side in made.sides:
        found = made.by_rate(side, seed)
        best, rates = inside(side, found), sorted(found)
        near = [found[rate] <= found[best] + made.setting["within"] for rate in rates]
        low = high = rates.index(best)
        while near[low - 1] and low > 0:
            low -= 1
        while high < len(near) - 1 and near[high + 1]:
            high += 1
        if low == 0 or high == len(near) - 1:
            raise Undecidable(f"rates beyond those tried may do for {side.arm.optimizer}")
        counts.append(high - low + 1)
    return counts[0] / counts[1]


def rate_growth_ratio(made: Experiment, seed: int) -> float:
    """How far the best rate rises with `times` the batch and as many samples in all, the first's over the second's."""
    times = made.setting["times"]
    large = {"batch_size": made.setting["batch_size"] * times, "steps": made.setting["steps"] // times}
    growth = [made.best_rate(side, seed, **large) / made.best_rate(side, seed) for side in made.sides]
    return growth[0] / growth[1]


EXPERIMENTS: Mapping[str, Callable[[Experiment, int], float]] = {
    "state-ratio": state_ratio, "state-buffers": state_buffers, "path-distance": path_distance,
    "first-step-ratio": first_step_ratio, "decay-evenness": decay_evenness, "goal-steps-ratio": goal_steps_ratio,
    "step-time-ratio": step_time_ratio, "curve-distance": curve_distance, "final-loss-ratio": final_loss_ratio,
    "damage-ratio": damage_ratio, "best-rate-ratio": best_rate_ratio, "best-loss-ratio": best_loss_ratio,
    "rate-width-ratio": rate_width_ratio, "rate-growth-ratio": rate_growth_ratio,
}  # fmt: skip


def measured(name: str, made: Experiment, seed: int) -> float:
    """Return the figure of an experiment.

    Args:
        name: One of `EXPERIMENTS`.
        made: What it runs on.
        seed: Which run.

    Raises:
        Undecidable: It says nothing.
    """
    figure = EXPERIMENTS[name](made, seed)
    if not math.isfinite(figure):
        raise Undecidable(f"the figure is {figure}, which is no number")
    return figure
