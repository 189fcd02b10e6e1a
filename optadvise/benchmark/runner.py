"""Interleaved rounds of all arms; a failed arm is a result, not an error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from optadvise.benchmark.measurement import ArmCounts, ArmFailure, ArmMeasurement, ArmSummary, RoundSamples
from optadvise.benchmark.spec import Arm


class ArmFailedError(Exception):
    """An arm failed, which is a result and not an error of the program."""

    def __init__(self, failure: ArmFailure) -> None:
        """Store the failure for the arm's result."""
        super().__init__(failure.error)
        self.failure = failure


class MeasurableArm(Protocol):
    """Arm in a worker process; tests implement it without a process."""

    arm: Arm

    def start(self) -> ArmCounts:
        """Build the optimizer, run the warmup steps, and return the counts."""

    def measure_round(self) -> RoundSamples:
        """Run one round and return the samples of each part of the step."""

    def finish(self) -> ArmSummary:
        """Return memory, losses and bandwidth at the end."""

    def stop(self) -> None:
        """Terminate the arm at any time."""


Progress = Callable[[str, str, int], None]  # event (start, round, finish), label of the arm, round from 1


def ignore_progress(event: str, label: str, number: int) -> None:
    """Report nothing."""


def run_arms(
    arms: Sequence[MeasurableArm],
    rounds: int,
    *,
    progress: Progress,
    save: Callable[[Sequence[ArmMeasurement]], None],
) -> list[ArmMeasurement]:
    """Measure arms in interleaved rounds, alternating the order so that drift affects all arms equally.

    Args:
        progress: Called before each event.
        save: Called with all measurements after each round and at the end.

    Returns:
        One measurement per arm, in order. A failed arm keeps its rounds, and the other arms continue.

    Raises:
        KeyboardInterrupt: The run was interrupted; `save` has been called and all arms are stopped.
        InputError: The workload is invalid; all arms are stopped.
    """
    measurements = [ArmMeasurement(arm=arm.arm) for arm in arms]
    pairs = list(zip(arms, measurements, strict=True))
    try:
        for arm, measurement in pairs:
            progress("start", measurement.arm.label, 0)
            if measurement.arm.unsupported is not None:
                measurement.failure = ArmFailure(
                    status="unsupported",
                    error=measurement.arm.unsupported,
                    code=measurement.arm.unsupported_code,
                )
                continue
            with _keep_failure(arm, measurement):
                measurement.counts = arm.start()
        for number in range(rounds):
            for arm, measurement in pairs if number % 2 == 0 else reversed(pairs):
                if measurement.failure is None:
                    progress("round", measurement.arm.label, number + 1)
                    with _keep_failure(arm, measurement):
                        measurement.rounds.append(arm.measure_round().samples)
            save(measurements)
        for arm, measurement in pairs:
            if measurement.failure is None:
                progress("finish", measurement.arm.label, rounds)
                with _keep_failure(arm, measurement):
                    measurement.summary = arm.finish()
            arm.stop()
    except KeyboardInterrupt:
        save(measurements)
        raise
    finally:
        for arm in arms:
            arm.stop()
    save(measurements)
    return measurements


@contextlib.contextmanager
def _keep_failure(arm: MeasurableArm, measurement: ArmMeasurement) -> Iterator[None]:
    """Stop an arm that fails in the context and store its failure."""
    try:
        yield
    except ArmFailedError as error:
        measurement.failure = error.failure
        arm.stop()  # a hanging arm would slow down the others
