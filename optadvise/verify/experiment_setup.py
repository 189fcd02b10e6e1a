"""Setup of an experiment, and the search for its best learning rate. Imports torch."""

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
    """An experiment has no result; the text is the reason."""


class ExperimentSetup(Struct, frozen=True):
    """Optimizers, settings and device of an experiment."""

    sides: Sequence[Side]  # one or two; ratios are first / second
    setting: ExperimentSetting  # settings of the experiment
    device: str  # cpu or cuda
    trainings: TrainingCache
    surface: Surface | None = None  # test function, if the experiment uses one

    def train(
        self,
        side: Side,
        seed: int,
        *,
        arm: Arm | None = None,
        setting: ExperimentSetting | None = None,
        spiked: bool = True,
    ) -> list[float]:
        """Train one side and return the loss of every step.

        Args:
            arm: The side's arm at another learning rate; None for the default.
            setting: Changed settings; None for those of the experiment.
            spiked: Apply the gradient spike, if the settings have one.
        """
        return self.trainings.get_losses(
            arm or side.arm, setting or self.setting, seed, self.device, warmup=side.warmup, spiked=spiked
        )

    def mean_last(self, losses: Sequence[float]) -> float:
        """Return the mean of the last losses, the final loss."""
        return fmean(losses[-self.setting["last"] :])

    def losses_by_rate(self, side: Side, seed: int, **changes: int) -> dict[float, float]:
        """Return the final loss at each learning rate; keyword arguments change settings."""
        setting = {**self.setting, **changes}
        return {
            each.rate: self.mean_last(self.train(side, seed, arm=each.arm, setting=setting))
            for each in side.arms_by_rate
        }

    def find_best_rate(self, side: Side, seed: int, **changes: int) -> float:
        """Return the learning rate with the lowest final loss, interpolated between the tested values.

        It is the minimum of a parabola through the lowest loss and its neighbors, over the logarithm of the learning
        rate.

        Raises:
            UndecidableError: The best learning rate is the lowest or the highest tested value.
        """
        losses = self.losses_by_rate(side, seed, **changes)
        best = find_inner_minimum(side, losses)
        rates = sorted(losses)
        around = rates[rates.index(best) - 1 : rates.index(best) + 2]
        return exp_of_minimum([math.log(rate) for rate in around], [losses[rate] for rate in around])


def find_inner_minimum(side: Side, losses: Mapping[float, float]) -> float:
    """Return the tested learning rate with the lowest loss.

    Raises:
        UndecidableError: It is the lowest or the highest tested value.
    """
    best = min(losses, key=lambda rate: losses[rate])
    if best in (min(losses), max(losses)):
        raise UndecidableError(
            f"the best learning rate of {side.arm.optimizer}, {best:g}, is at the edge of the tested range"
        )
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
