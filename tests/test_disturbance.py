"""Warnings of a benchmark that other programs disturbed."""

from __future__ import annotations

import threading
import time

import pytest

from optadvise.benchmark.clock import Clock
from optadvise.benchmark.comparison.merge import NamedResult, merge_results
from optadvise.benchmark.disturbance import BUSY, VARYING
from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.results import make_result
from optadvise.benchmark.spec import Spec
from tests import results
from tests.results import MACHINE, make_measurement, make_rounds

QUIET = make_rounds(1.0)


def list_ids(*measurements: ArmMeasurement) -> list[str]:
    return [warning.id for warning in make_result(Spec(), measurements, machine=MACHINE).warnings]


def measure(cpu_share: float | None, rounds: list[list[float]] = QUIET, *, is_control: bool = False) -> ArmMeasurement:
    """Return a measurement whose thread ran on a core for this share of each step."""
    label, role = ("adamw (control)", "control") if is_control else ("lion", "candidate")
    measurement = make_measurement(label, role, rounds)  # type: ignore[arg-type]
    if cpu_share is not None:
        for samples in measurement.rounds:
            samples["cpu"] = [seconds * cpu_share for seconds in samples["step"]]
    return measurement


@pytest.mark.parametrize(
    ("candidate", "control", "expected"),
    [(1.0, 1.0, []), (0.95, 0.95, []), (0.5, 1.0, [BUSY]), (1.0, 0.5, [BUSY]), (None, None, [])],
)
def test_busy_processor(candidate: float | None, control: float | None, expected: list[str]) -> None:
    assert list_ids(measure(candidate), measure(control, is_control=True)) == expected


def test_share_is_of_all_rounds() -> None:
    (arm,) = make_result(Spec(), [measure(0.75)], machine=MACHINE).arms
    assert arm.cpu_share == pytest.approx(0.75)


def test_rounds_that_vary() -> None:
    slow = [[5.0] * 4, *make_rounds(1.0, count=6)]
    control = measure(1.0, slow, is_control=True)
    assert list_ids(measure(1.0, slow), control) == [VARYING]  # the ratio is 1 with a narrow interval
    assert list_ids(measure(0.5, slow), control) == [BUSY]  # the cause, not the effect


def test_ratio_that_disagrees_with_the_medians() -> None:
    """Three of seven rounds are slower by 1.7, those of the control by nothing."""
    slow = [[1.7] * 4 for _ in range(3)] + [[1.0] * 4 for _ in range(4)]
    assert list_ids(measure(1.0, slow), measure(1.0, [[1.0] * 4] * 7, is_control=True)) == [VARYING]


def test_merge_keeps_warnings() -> None:
    data = [results.result(), results.result()]
    for entry, label in zip(data, ("lion", "adan"), strict=True):
        entry["arms"] = [{**entry["arms"][0], "label": label, "optimizer": label}]
        entry["ratios"] = []
    data[1]["warnings"] = [{"id": BUSY, "text": "The machine was busy."}]
    named = [NamedResult(str(number), results.loaded(entry)) for number, entry in enumerate(data)]
    assert [warning.id for warning in merge_results(named, "lion").warnings] == [BUSY]


def test_comparison_has_the_warnings_of_both_results() -> None:
    base = results.result()
    base["warnings"] = [{"id": BUSY, "text": "The machine was busy."}]
    assert "BASE: The machine was busy." in results.compared(base, results.result())["warnings"]


def test_clock_separates_computing_from_waiting() -> None:
    clock = Clock("cpu")
    clock.start()
    time.sleep(0.2)
    clock.mark()
    clock.seconds()
    assert clock.cpu_seconds is not None
    assert clock.cpu_seconds < 0.1
    clock.start()
    begin = time.thread_time()
    while time.thread_time() - begin < 0.05:
        pass
    clock.mark()
    clock.seconds()
    assert clock.cpu_seconds >= 0.05


def test_clock_counts_this_thread_only() -> None:
    is_done = threading.Event()

    def compute() -> None:
        while not is_done.is_set():
            pass

    clock = Clock("cpu")
    clock.start()
    other = threading.Thread(target=compute)
    other.start()
    time.sleep(0.2)
    is_done.set()
    other.join()
    clock.mark()
    clock.seconds()
    assert clock.cpu_seconds is not None
    assert clock.cpu_seconds < 0.15
