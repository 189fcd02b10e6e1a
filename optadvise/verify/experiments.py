"""Experiments: functions of a setup and a seed that return a number without a unit. Imports torch.

They are independent of optimizers. `UndecidableError` has the reason if an experiment has no result.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median

import torch
from msgspec.structs import replace
from torch import Tensor

from optadvise.benchmark import optimizer_builder, workloads
from optadvise.benchmark.clock import Clock
from optadvise.benchmark.device_size import fill_device
from optadvise.benchmark.peak_memory import measure_device_bandwidth
from optadvise.verify import trajectories
from optadvise.verify.builder import silence_libraries
from optadvise.verify.experiment_setup import ExperimentSetup, UndecidableError, find_inner_minimum
from optadvise.verify.records import Side


def _first_over_second(figures: Iterable[float]) -> float:
    first, second = figures
    return first / second


# -- state and steps --------------------------------------------------------------------------------------------------


def _measure_state(setup: ExperimentSetup, side: Side) -> tuple[int, int]:
    """Return the bytes of the optimizer state after a step, and of the weights."""
    dtype = getattr(torch, setup.setting.get("dtype", "float32"))
    weights = torch.nn.Parameter(torch.ones(setup.setting["shape"], dtype=dtype, device=setup.device))
    weights.grad = torch.ones_like(weights)
    with silence_libraries():
        optimizers = optimizer_builder.build_optimizers(side.arm, [("weight", weights)])
        for optimizer in optimizers:
            optimizer.step()
    return optimizer_builder.count_state_bytes(optimizers), weights.numel() * weights.element_size()


def state_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of optimizer states in bytes (first / second) for a weight of `shape` and `dtype`."""
    return _first_over_second(_measure_state(setup, side)[0] for side in setup.sides)


def state_buffers(setup: ExperimentSetup, seed: int) -> float:
    """Return optimizer state / weights, in bytes."""
    state, weights = _measure_state(setup, setup.sides[0])
    return state / weights


def _compute_path(
    setup: ExperimentSetup, side: Side, gradient: Callable[[int], Tensor], start: Tensor, steps: int
) -> list[Tensor]:
    """Return the weights before the first step and after each step, with gradients that depend only on the step."""
    weights = torch.nn.Parameter(start.to(setup.device, copy=True))
    with silence_libraries():
        optimizers = optimizer_builder.build_optimizers(side.arm, [("weight", weights)])
        path = [weights.detach().clone()]
        for step in range(steps):
            weights.grad = gradient(step).to(setup.device)
            for optimizer in optimizers:
                optimizer.step()
            path.append(weights.detach().clone())
    return path


def _make_noise(shape: Sequence[int], seed: int) -> Callable[[int], Tensor]:
    return lambda step: torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * (seed + 1) + step))


def path_distance(setup: ExperimentSetup, seed: int) -> float:
    """Return ‖end_1 − end_2‖ / ‖end_2 − start‖ after `steps` steps with noisy gradients on a weight of `shape`."""
    shape, steps = setup.setting["shape"], setup.setting["steps"]
    start = 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    first, second = (_compute_path(setup, side, _make_noise(shape, seed), start, steps) for side in setup.sides)
    return float((first[-1] - second[-1]).norm() / (second[-1] - second[0]).norm())


def first_step_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return length of the first step / mean length of the last 100 steps, with noisy gradients."""
    shape = setup.setting["shape"]
    noise = _make_noise(shape, seed)
    path = _compute_path(setup, setup.sides[0], noise, torch.zeros(*shape), setup.setting["steps"])
    lengths = [float((after - before).norm()) for before, after in itertools.pairwise(path)]
    return lengths[0] / fmean(lengths[-100:])


def decay_evenness(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of weight decay for large and small gradients, whose sizes are the two `scales`.

    The effect of weight decay is the difference to the same steps from weights at zero.
    """
    count, steps = setup.setting["elements"], setup.setting["steps"]
    scales = torch.tensor(setup.setting["scales"])[:, None]
    start = torch.rand(2, count, generator=torch.Generator().manual_seed(seed)) + 0.5
    noise = _make_noise((2, count), seed)

    def gradient(step: int) -> Tensor:
        return scales * noise(step)

    decayed = _compute_path(setup, setup.sides[0], gradient, start, steps)
    undecayed = _compute_path(setup, setup.sides[0], gradient, torch.zeros(2, count), steps)
    effect = (decayed[-1] - start.to(setup.device)) - undecayed[-1]
    small, large = -(effect / start.to(setup.device)).mean(dim=1)
    return float(large / small)


def goal_steps_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of steps to the goal of a `surface` (first / second); the seed moves the start."""
    surface = setup.surface
    assert surface is not None
    generator = torch.Generator().manual_seed(seed)
    factor = 0.5 + torch.rand(2, generator=generator)  # 0.5 to 1.5 times the distance of the start from y = 0
    moved = replace(surface, start=(surface.start[0], surface.start[1] * float(factor[0])))
    counts = []
    for side in setup.sides:
        points, _ = trajectories.compute_points(side.arm, moved, setup.setting["steps"])
        count = trajectories.find_goal_step(points, surface)
        if count is None:
            raise UndecidableError(f"{side.arm.optimizer} does not reach the goal in {setup.setting['steps']} steps")
        counts.append(count)
    return _first_over_second(counts)


def step_time_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of median optimizer step times (first / second) for a decoder with `params` parameters.

    On a GPU it has at least as many as fill the GPU, because launches would take most of a shorter step.
    """
    params = setup.setting["params"]
    if setup.device.startswith("cuda"):
        params = max(params, fill_device(measure_device_bandwidth(setup.device), torch.cuda.mem_get_info()[0]))
    shapes = workloads.parameter_shapes(params)
    torch.set_num_threads(os.cpu_count() or 1)  # as in a training run; other experiments use one thread
    order = (0, 1) if seed % 2 == 0 else (1, 0)
    try:
        seconds = {number: _time_step(setup, setup.sides[number], shapes) for number in order}
    finally:
        torch.set_num_threads(1)
    return seconds[0] / seconds[1]


def _time_step(setup: ExperimentSetup, side: Side, shapes: Sequence[tuple[int, ...]]) -> float:
    weights = [torch.nn.Parameter(torch.zeros(shape, device=setup.device)) for shape in shapes]
    named = [(f"weights.{number}", weight) for number, weight in enumerate(weights)]
    with silence_libraries():
        optimizers = optimizer_builder.build_optimizers(side.arm, named)
        for weight in weights:
            weight.grad = torch.full_like(weight, 1e-3)
        clock = Clock(setup.device)
        clock.start()
        for _ in range(1 + setup.setting["steps"]):
            for optimizer in optimizers:
                optimizer.step()
            clock.mark()
    return median(clock.seconds()[1:])  # the first step allocates the state


# -- training runs ----------------------------------------------------------------------------------------------------


def smooth_losses(losses: Sequence[float], width: int) -> list[float]:
    """Return the moving average over up to `width` losses."""
    return [fmean(losses[max(0, end - width) : end]) for end in range(1, len(losses) + 1)]


def curve_distance(setup: ExperimentSetup, seed: int) -> float:
    """Return the mean relative difference of the loss curves, smoothed over `smooth` steps."""
    first, second = (smooth_losses(setup.train(side, seed), setup.setting["smooth"]) for side in setup.sides)
    return fmean(abs(a / b - 1) for a, b in zip(first, second, strict=True))


def final_loss_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of mean losses over the `last` steps (first / second)."""
    return _first_over_second(setup.mean_last(setup.train(side, seed)) for side in setup.sides)


def damage_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of loss increases over the `after` steps after a gradient spike (first / second)."""
    begin = setup.setting["spike_at"]
    span = slice(begin, begin + setup.setting["after"])
    increases = []
    for side in setup.sides:
        baseline, spiked = (setup.train(side, seed, spiked=spiked)[span] for spiked in (False, True))
        increases.append(fmean(spiked) - fmean(baseline))
    if increases[1] <= 0:
        raise UndecidableError(f"the gradient spike does not increase the loss of {setup.sides[1].arm.optimizer}")
    return _first_over_second(increases)


def best_rate_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of best learning rates (first / second)."""
    return _first_over_second(setup.find_best_rate(side, seed) for side in setup.sides)


def best_loss_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of final losses at the best learning rates (first / second)."""
    lowest = []
    for side in setup.sides:
        losses = setup.losses_by_rate(side, seed)
        lowest.append(losses[find_inner_minimum(side, losses)])
    return _first_over_second(lowest)


def rate_width_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of numbers of learning rates with a loss `within` the best (first / second)."""
    return _first_over_second(_count_good_rates(setup, side, seed) for side in setup.sides)


def _count_good_rates(setup: ExperimentSetup, side: Side, seed: int) -> int:
    losses = setup.losses_by_rate(side, seed)
    best, rates = find_inner_minimum(side, losses), sorted(losses)
    are_good = [losses[rate] <= losses[best] + setup.setting["within"] for rate in rates]
    low = high = rates.index(best)
    while are_good[low - 1] and low > 0:
        low -= 1
    while high < len(are_good) - 1 and are_good[high + 1]:
        high += 1
    if low == 0 or high == len(are_good) - 1:
        raise UndecidableError(f"the range of tested learning rates is too narrow for {side.arm.optimizer}")
    return high - low + 1


def rate_growth_ratio(setup: ExperimentSetup, seed: int) -> float:
    """Return the ratio of growths of the best learning rate with `times` the batch size, at equal samples."""
    times = setup.setting["times"]
    large = {"batch_size": setup.setting["batch_size"] * times, "steps": setup.setting["steps"] // times}
    return _first_over_second(
        setup.find_best_rate(side, seed, **large) / setup.find_best_rate(side, seed) for side in setup.sides
    )


EXPERIMENTS: Mapping[str, Callable[[ExperimentSetup, int], float]] = {
    "state-ratio": state_ratio, "state-buffers": state_buffers, "path-distance": path_distance,
    "first-step-ratio": first_step_ratio, "decay-evenness": decay_evenness, "goal-steps-ratio": goal_steps_ratio,
    "step-time-ratio": step_time_ratio, "curve-distance": curve_distance, "final-loss-ratio": final_loss_ratio,
    "damage-ratio": damage_ratio, "best-rate-ratio": best_rate_ratio, "best-loss-ratio": best_loss_ratio,
    "rate-width-ratio": rate_width_ratio, "rate-growth-ratio": rate_growth_ratio,
}  # fmt: skip


def run_experiment(name: str, setup: ExperimentSetup, seed: int) -> float:
    """Return the result of an experiment.

    Raises:
        UndecidableError: The experiment has no result.
    """
    figure = EXPERIMENTS[name](setup, seed)
    if not math.isfinite(figure):
        raise UndecidableError(f"the result is {figure}; must be a finite number")
    return figure
