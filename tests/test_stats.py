"""Statistics by their properties: coverage of intervals, independence of order and unit; requirements."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from optadvise.benchmark.metrics import METRICS
from optadvise.benchmark.records import Figure, Interval
from optadvise.benchmark.requirements import Requirement, judge, parse_requirement
from optadvise.benchmark.statistics import MIN_SAMPLES, median_ci, ratio_ci
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

SECONDS = st.floats(1e-6, 1e3)
SAMPLES = st.lists(SECONDS, min_size=MIN_SAMPLES, max_size=60)
ROUNDS = st.lists(st.tuples(st.lists(SECONDS, min_size=1), st.lists(SECONDS, min_size=1)), min_size=2, max_size=8)


@given(SAMPLES)
def test_interval_contains_the_median_within_the_range_of_samples(samples: list[float]) -> None:
    estimate = median_ci(samples, resamples=200)
    assert estimate.median == median(samples)
    assert estimate.samples == tuple(samples)
    assert estimate.ci95 is not None
    assert min(samples) <= estimate.ci95.low <= estimate.median <= estimate.ci95.high <= max(samples)


@given(SAMPLES, st.randoms(use_true_random=False), st.integers(0, 9))
def test_order_of_samples_does_not_matter(samples: list[float], shuffler: random.Random, seed: int) -> None:
    shuffled = samples.copy()
    shuffler.shuffle(shuffled)
    ordered, other = median_ci(samples, seed=seed, resamples=200), median_ci(shuffled, seed=seed, resamples=200)
    assert (ordered.median, ordered.ci95) == (other.median, other.ci95)


@given(SAMPLES, st.sampled_from([1e-3, 0.5, 1024.0]))
def test_unit_does_not_matter(samples: list[float], scale: float) -> None:
    plain = median_ci(samples, resamples=200)
    scaled = median_ci([scale * value for value in samples], resamples=200)
    assert plain.ci95 is not None
    assert scaled.ci95 is not None
    assert plain.median is not None
    assert scaled.median == pytest.approx(scale * plain.median)
    assert astuple(scaled.ci95) == pytest.approx([scale * end for end in astuple(plain.ci95)])


def test_equal_samples_have_a_zero_width_interval() -> None:
    assert median_ci([2.0] * 6).ci95 == Interval(2.0, 2.0)


def test_too_few_samples_have_no_interval() -> None:
    assert astuple(median_ci([1.0, 2.0, 3.0, 4.0]))[:2] == (2.5, None)
    assert median_ci([1.0, 2.0, 3.0, 4.0, 5.0]).ci95 == Interval(1.0, 5.0)


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_invalid_samples(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="median_ci"):
        median_ci(samples)


@pytest.mark.parametrize("count", [5, 7, 10, 30])
@pytest.mark.parametrize(
    "draw", [random.Random.random, lambda rng: rng.lognormvariate(0, 1) - 0.5], ids=["even", "skew"]
)
def test_coverage_of_the_median_interval(count: int, draw: Callable[[random.Random], float]) -> None:
    rng = random.Random(count)
    hits = 0
    for _ in range(400):
        interval = median_ci([draw(rng) for _ in range(count)], resamples=200).ci95
        assert interval is not None
        hits += interval.low <= 0.5 <= interval.high
    assert hits / 400 >= 0.91  # five samples reach at most 93.75 %; minus two standard errors


def drifting_rounds(rng: random.Random, rounds: int, drift: float) -> tuple[list[list[float]], list[list[float]]]:
    """Return rounds of two arms that differ by 10 %, with common drift, 2 % independent drift, and one-sided noise."""
    arms: tuple[list[list[float]], list[list[float]]] = ([], [])
    for _ in range(rounds):
        shared = rng.gauss(0, drift)
        for arm, cost in zip(arms, (1.1, 1.0), strict=True):
            level = cost * math.exp(shared + rng.gauss(0, 0.02))
            arm.append([level * math.exp(abs(rng.gauss(0, 0.05))) for _ in range(6)])
    return arms


@pytest.mark.parametrize("rounds", [2, 5, 10])
@pytest.mark.parametrize("drift", [0.05, 0.10])
def test_coverage_of_the_ratio_interval_with_drift(rounds: int, drift: float) -> None:
    rng = random.Random(rounds)
    hits, widths = 0, []
    for _ in range(1000):
        interval = ratio_ci(*drifting_rounds(rng, rounds, drift)).interval
        assert interval is not None
        hits += interval.low <= 1.1 <= interval.high
        widths.append(interval.high - interval.low)
    assert 0.93 <= hits / 1000 <= 0.97
    if rounds >= 5:  # drift cancels, so a slowdown of 10 % is detectable
        assert median(widths) / 2 < 0.05


@given(ROUNDS, st.randoms(use_true_random=False))
def test_ratio_properties(rounds: list[tuple[list[float], list[float]]], shuffler: random.Random) -> None:
    candidate, control = [pair[0] for pair in rounds], [pair[1] for pair in rounds]
    ratio, inverse = ratio_ci(candidate, control), ratio_ci(control, candidate)
    assert ratio.interval is not None
    assert inverse.interval is not None
    assert ratio.interval.contains(ratio.value)
    assert ratio.value * inverse.value == pytest.approx(1)
    assert math.log(ratio.interval.low) == pytest.approx(-math.log(inverse.interval.high), abs=1e-9)
    shuffler.shuffle(rounds)
    reordered = ratio_ci([pair[0] for pair in rounds], [pair[1] for pair in rounds])
    assert reordered.value == pytest.approx(ratio.value)


def test_ratio_of_an_arm_to_itself_is_one() -> None:
    assert ratio_ci([[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0]]) == Figure(1.0, Interval(1.0, 1.0))


def test_ratio_of_a_single_round_has_no_interval() -> None:
    ratio = ratio_ci([[4.0], []], [[2.0], [1.0]])
    assert ratio.value == pytest.approx(2)
    assert ratio.interval is None


@pytest.mark.parametrize(
    ("candidate", "control"),
    [([], []), ([[1.0]], [[1.0], [1.0]]), ([[0.0]], [[1.0]]), ([[1.0]], [[math.nan]]), ([[1.0]], [[]])],
)
def test_invalid_rounds(candidate: list[list[float]], control: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="ratio_ci"):
        ratio_ci(candidate, control)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state_bytes_per_parameter <= 2.1", ("state_bytes_per_parameter", "<=", 2.1, False)),
        ("state_bytes<=0", ("state_bytes", "<=", 0, False)),
        ("peak_memory <= 2GB", ("peak_memory", "<=", 2 * 2**30, False)),
        (" Peak-Memory <  1.5e9 ", ("peak_memory", "<", 1.5e9, False)),
        ("peak_memory <= 0.9x", ("peak_memory", "<=", 0.9, True)),
        ("optimizer_seconds <= 1.3x", ("optimizer_seconds", "<=", 1.3, True)),
        ("optimizer_seconds <= 1.3 ×", ("optimizer_seconds", "<=", 1.3, True)),
        ("step_seconds < 5ms", ("step_seconds", "<", 5e-3, False)),
        ("step_seconds < 200us", ("step_seconds", "<", 2e-4, False)),
        ("step_seconds < 200 µs", ("step_seconds", "<", 2e-4, False)),
        ("first_step_seconds <= 1.5 s", ("first_step_seconds", "<=", 1.5, False)),
        ("forward_seconds <= .5", ("forward_seconds", "<=", 0.5, False)),
        ("throughput >= 100", ("throughput", ">=", 100, False)),
        ("bandwidth_fraction > 0.6", ("bandwidth_fraction", ">", 0.6, False)),
        ("loss_last <= -1e-3", ("loss_last", "<=", -1e-3, False)),
    ],
)
def test_valid_requirements(text: str, expected: tuple[str, str, float, bool]) -> None:
    requirement = parse_requirement(text)
    assert requirement.text == text.strip()
    assert (requirement.metric, requirement.op, requirement.relative) == (*expected[:2], expected[3])
    assert requirement.bound == pytest.approx(expected[2])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "peak_memory",
        "peak_memory <= ",
        "<= 3",
        "peak_memory = 3",
        "peak_memory == 3",
        "peak_memory =< 3",
        "peak_memory <= 3 <= 4",
        "peak_memory <= 2XB",
        "peak_memory <= 2ms",
        "peak_memory <= -1",
        "step_seconds <= 2GB",
        "step_seconds <= 5 minutes",
        "step_seconds <= 0x",
        "step_seconds <= -1x",
        "step_seconds <= nan",
        "step_seconds <= inf",
        "step_seconds <= 1e999",
        "step_seconds <= 1_000",
        "step_seconds <= ٣",
        "throughput >= 5s",
        "state_bytes_per_parameter <= 2.1B",
        "step_seconds <= __import__('os').abort()",
        "step_seconds <= (lambda: 1)()",
        "__import__('os').abort() <= 1",
        "step_seconds <= 2**3",
        "step_seconds <= 1\nor True",
    ],
)
def test_invalid_requirements(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_requirement(text)
    assert caught.value.code is ErrorCode.INVALID_REQUIREMENT
    assert (caught.value.option, caught.value.value) == ("--require", text)
    assert "\n" not in str(caught.value)


@given(st.text() | st.builds("{} {} {}".format, st.sampled_from([*METRICS]), st.sampled_from(["<=", ">"]), st.text()))
def test_any_text_is_a_requirement_or_raises_input_error(text: str) -> None:
    try:
        requirement = parse_requirement(text)
    except InputError:
        return
    assert requirement.metric in METRICS
    assert math.isfinite(requirement.bound)


def test_misspelled_metric_has_a_suggestion() -> None:
    with pytest.raises(InputError) as caught:
        parse_requirement("optimiser_seconds <= 1")
    assert caught.value.code is ErrorCode.UNKNOWN_CHOICE
    assert (caught.value.option, caught.value.value) == ("--require", "optimiser_seconds")
    assert "did you mean 'optimizer_seconds'" in str(caught.value)


LIMIT = Requirement("step_seconds <= 2", "step_seconds", "<=", 2.0, False)


@pytest.mark.parametrize(
    ("op", "interval", "verdict"),
    [
        ("<=", (1, 2), "pass"),
        ("<", (1, 2), "inconclusive"),
        ("<=", (2, 3), "inconclusive"),
        ("<", (2, 3), "fail"),
        ("<=", (2.1, 3), "fail"),
        (">=", (2, 3), "pass"),
        (">", (2, 3), "inconclusive"),
        (">", (1, 2), "fail"),
        (">=", (1, 3), "inconclusive"),
        ("<=", (1, math.inf), "inconclusive"),
    ],
)
def test_judge_by_the_interval(op: str, interval: tuple[float, float], verdict: str) -> None:
    figure = Figure(sum(interval) / 2 if interval[1] < 9 else 1.5, Interval(*interval))
    assert judge(replace(LIMIT, op=op), figure) == verdict


@pytest.mark.parametrize("metric", [*METRICS])
def test_judge_without_an_interval(metric: str) -> None:
    requirement = replace(LIMIT, metric=metric)
    expected = ("inconclusive", "inconclusive") if METRICS[metric].is_repeated else ("pass", "fail")
    assert (judge(requirement, Figure(2.0)), judge(requirement, Figure(2.1))) == expected


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_judge_unmeasured_figures(value: float | None) -> None:
    assert judge(LIMIT, None if value is None else Figure(value, Interval(0, 1))) == "inconclusive"
