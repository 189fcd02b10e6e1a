"""Error rates of the sequential rule, simulated, and the rounds that it adds."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from optadvise.benchmark.records import Figure, Interval
from optadvise.benchmark.requirements import judge, parse_requirement
from optadvise.benchmark.sequential import MAX_ROUNDS, estimate_rounds, list_looks, widen
from optadvise.benchmark.statistics import ratio_ci

GATE = parse_requirement("optimizer_seconds <= 1.05x")
RUNS = 400


def decide(ratio: float, noise: float, random: Random, *, outliers: float = 0.0) -> str:
    """Return the verdict on a simulated optimizer.

    Args:
        ratio: True ratio to the control.
        noise: Standard deviation of a round's ratio.
        random: Source of the noise.
        outliers: Share of rounds in which another program interferes with one of the two.
    """
    rounds: list[list[float]] = []
    verdict = "inconclusive"
    for look in list_looks(7):
        while len(rounds) < look:
            log = math.log(ratio) + random.gauss(0, noise)
            if random.random() < outliers:
                log += random.choice((-1, 1)) * random.expovariate(1 / (4 * noise))
            rounds.append([math.exp(log)])
        figure = widen(ratio_ci(rounds, [[1.0]] * len(rounds)), is_ratio=True)
        verdict = judge(GATE, figure)
        if verdict != "inconclusive":
            break
    return verdict


def count(verdict: str, ratio: float, noise: float, outliers: float = 0.0) -> float:
    """Return the share of simulated runs with a verdict."""
    random = Random(f"{ratio} {noise} {outliers}")
    return sum(decide(ratio, noise, random, outliers=outliers) == verdict for _ in range(RUNS)) / RUNS


@pytest.mark.parametrize("outliers", [0.0, 0.1])
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_false_alarms_are_at_most_five_percent_at_the_bound(noise: float, outliers: float) -> None:
    assert count("fail", 1.05, noise, outliers) <= 0.05
    assert count("pass", 1.0501, noise, outliers) <= 0.05


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_slowdown_of_a_tenth_is_found(noise: float) -> None:
    assert count("fail", 1.1, noise) >= 0.9


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_optimizer_compared_with_itself_passes(noise: float) -> None:
    assert count("pass", 1.0, noise) >= 0.8


def test_single_look_decides_less_often() -> None:
    """The reason for adding rounds: with this noise, seven rounds rarely decide."""
    random, undecided = Random(0), 0
    for _ in range(RUNS):
        rounds = [[math.exp(random.gauss(0, 0.1))] for _ in range(7)]
        undecided += judge(GATE, ratio_ci(rounds, [[1.0]] * 7)) == "inconclusive"
    assert undecided / RUNS > 0.5


def test_looks_grow() -> None:
    looks = list(list_looks(7))
    assert looks[0] == 7
    assert all(later > earlier for earlier, later in pairwise(looks))
    assert looks[-1] < 300


def test_interval_is_wider_for_repeated_looks() -> None:
    figure = Figure(2.0, Interval(1.0, 4.0))
    low, high = widen(figure, is_ratio=True).interval.ends  # type: ignore[union-attr]
    assert low < 1.0
    assert low * high == pytest.approx(4.0)
    assert widen(Figure(2.0, Interval(1.0, 3.0)), is_ratio=False).interval == Interval(0.75, 3.25)
    assert widen(Figure(2.0), is_ratio=True) == Figure(2.0)


@pytest.mark.parametrize(
    ("figure", "bound", "rounds"),
    [
        (Figure(1.0, Interval(0.8, 1.2)), 1.1, 40),
        (Figure(1.2, Interval(1.0, 1.4)), 1.1, 40),
        (Figure(1.0, Interval(0.8, 1.2)), 1.0, None),
        (Figure(1.0, Interval(0.8, 1.2)), 1.0 + 1e-6, None),  # more than MAX_ROUNDS
        (Figure(1.0), 1.1, None),
        (None, 1.1, None),
    ],
)
def test_estimated_rounds(figure: Figure | None, bound: float, rounds: int | None) -> None:
    assert estimate_rounds(figure, bound, 10) == rounds
    assert rounds is None or rounds < MAX_ROUNDS
