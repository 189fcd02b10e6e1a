"""Setup of an experiment, and the search for the best learning rate that several experiments share. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from msgspec import Struct

from optadvise.benchmark.spec import Arm
from optadvise.core.findings import ExperimentSetting
from optadvise.core.surface_cards import Surface
from optadvise.verify.records import Side
from optadvise.verify.training import TrainingCache


class UndecidableError(Exception):
    """An experiment has no figure; the text is the reason."""


class ExperimentSetup(Struct, frozen=True):
    """Arms, arguments and device of an experiment."""

    sides: Sequence[Side]  # one or two; a ratio is the first over the second
    setting: ExperimentSetting  # arguments of the experiment
    device: str  # cpu or cuda
    trainings: TrainingCache
    surface: Surface | None = None  # the one that the setting names

    def train(
        self,
        side: Side,
        seed: int,
        *,
        arm: Arm | None = None,
        setting: ExperimentSetting | None = None,
        spiked: bool = True,
    ) -> list[float]:
        """Return the losses of a side's training.

        Args:
            arm: One of the side's at another learning rate; None for its own.
            setting: Other arguments; None for those of the experiment.
            spiked: Apply the spike, if the setting has one.
        """
        return self.trainings.get_losses(
            arm or side.arm, setting or self.setting, seed, self.device, warmup=side.warmup, spiked=spiked
        )

    def mean_last(self, losses: Sequence[float]) -> float:
        """Return the mean of the last losses."""
        return fmean(losses[-self.setting["last"] :])

    def losses_by_rate(self, side: Side, seed: int, **changes: int) -> dict[float, float]:
        """Return the last loss at each learning rate, with other arguments in the setting."""
        setting = {**self.setting, **changes}
        return {
            each.rate: self.mean_last(self.train(side, seed, arm=each.arm, setting=setting))
            for each in side.arms_by_rate
        }

    def find_best_rate(self, side: Side, seed: int, **changes: int) -> float:
        """Return the learning rate with the lowest last loss, interpolated between those tried.

        It is the minimum of the parabola through the lowest loss and its neighbours, over the logarithms of the rates.

        Raises:
            UndecidableError: The best is the lowest or the highest that was tried, so that a better one may lie beyond.
        """
        losses = self.losses_by_rate(side, seed, **changes)
        best = find_inner_minimum(side, losses)
        rates = sorted(losses)
        around = rates[rates.index(best) - 1 : rates.index(best) + 2]
        return exp_of_minimum([math.log(rate) for rate in around], [losses[rate] for rate in around])


def find_inner_minimum(side: Side, losses: Mapping[float, float]) -> float:
    """Return the learning rate with the lowest loss.

    Raises:
        UndecidableError: It is the lowest or the highest that was tried.
    """
    best = min(losses, key=lambda rate: losses[rate])
    if best in (min(losses), max(losses)):
        raise UndecidableError(f"the best rate of {side.arm.optimizer} lies at the end of those tried, at {best:g}")
    return best


def exp_of_minimum(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the exponential of the minimum of the parabola through three points, the middle of which is lowest.

    Example:
        >>> round(exp_of_minimum([0.0, 1.0, 2.0], [1.0, 0.0, 1.0]), 3)
        2.718
    """
    (x0, x1, x2), (y0, y1, y2) = xs, ys
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if left == right:  # three equal losses
        return math.exp(x1)
    return math.exp(x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right))
