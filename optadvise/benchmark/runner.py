"""The run of a measurement: interleaved rounds of all arms, failures kept as results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from optadvise.benchmark.measurement import ArmCounts, ArmFailure, ArmMeasurement, ArmSummary, RoundSamples
from optadvise.benchmark.spec import Arm


class ArmFailedError(Exception):
    """An arm ended early; this is a result and no error of the program."""

    def __init__(self, failure: ArmFailure) -> None:
        """Keep the failure for the arm's result."""
        super().__init__(failure.error)
        self.failure = failure


class MeasurableArm(Protocol):
    """An arm that can be measured: a worker process, or a fake in tests."""

    arm: Arm

    def start(self) -> ArmCounts:
        """Build the optimizer, take the first steps, and return what was counted."""

    def measure_round(self) -> RoundSamples:
        """Measure one round and return the samples of each part of the step."""

    def finish(self) -> ArmSummary:
        """Return memory, losses and bandwidth at the end."""

    def stop(self) -> None:
        """End the arm, whatever it is doing."""


Progress = Callable[[str, str, int], None]  # what begins (start, round, finish), the arm's label, the round from 1


def ignore_progress(event: str, label: str, number: int) -> None:
    """Report nothing."""


def run_arms(
    arms: Sequence[MeasurableArm],
    rounds: int,
    *,
    progress: Progress,
    save: Callable[[Sequence[ArmMeasurement]], None],
) -> list[ArmMeasurement]:
    """Measure arms in interleaved rounds, every other round in reverse, so that drift affects all alike.

    Args:
        progress: Called before each thing that happens.
        save: Called with everything so far after each round, and at the end.

    Returns:
        A measurement for each arm, in their order. An arm that fails keeps what it had, and the others go on.

    Raises:
        KeyboardInterrupt: The run was interrupted; everything so far has been saved and no arm is left running.
        InputError: The workload is wrong, for every arm; no arm is left running.
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
    """End an arm that fails in the context, and keep its failure in the measurement."""
    try:
        yield
    except ArmFailedError as error:
        measurement.failure = error.failure
        arm.stop()  # one that hangs would slow the others down
