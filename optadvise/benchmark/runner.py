"""Rounds of all arms, interleaved where they fit into memory together; a failed arm is a result, not an error."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

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

    def finish(self, *, measures_bandwidth: bool) -> ArmSummary:
        """Return memory and losses at the end, and the bandwidth of the device if it is still unknown."""

    def stop(self) -> None:
        """Terminate the arm at any time."""


_Pairs: TypeAlias = "list[tuple[MeasurableArm, ArmMeasurement]]"
Progress = Callable[[str, str, int], None]  # event (start, round, finish), label of the arm, round from 1


def is_enough(measurements: Sequence[ArmMeasurement]) -> bool:
    """Return True: no more rounds are needed."""
    return True


def ignore_progress(event: str, label: str, number: int) -> None:
    """Report nothing."""


def run_arms(
    arms: Sequence[MeasurableArm],
    rounds: int,
    *,
    progress: Progress,
    save: Callable[[Sequence[ArmMeasurement]], None],
    is_decided: Callable[[Sequence[ArmMeasurement]], bool] = is_enough,
) -> list[ArmMeasurement]:
    """Measure arms in interleaved rounds, alternating the order so that drift affects all arms equally.

    Arms that do not fit into memory together are measured one after the other, the control before and after the others,
    without additional rounds.

    Args:
        progress: Called before each event.
        save: Called with all measurements after each round and at the end.
        is_decided: Called with all measurements after the rounds; until it returns True, interleaved rounds are added.

    Returns:
        One measurement per arm, in order. A failed arm keeps its rounds, and the other arms continue.

    Raises:
        KeyboardInterrupt: The run was interrupted; `save` has been called and all arms are stopped.
        InputError: The workload is invalid; all arms are stopped.
    """
    run = _Run(arms, rounds, progress, save)
    try:
        try:
            run.measure_interleaved(is_decided)
        except _CrowdedError:
            run.measure_apart()
    except KeyboardInterrupt:
        run.save()
        raise
    finally:
        for arm in arms:
            arm.stop()
    run.save()
    return run.measurements


class _CrowdedError(Exception):
    """The arms do not fit into memory together."""


class _Run:
    """Measurement of several arms."""

    def __init__(
        self,
        arms: Sequence[MeasurableArm],
        rounds: int,
        progress: Progress,
        save: Callable[[Sequence[ArmMeasurement]], None],
    ) -> None:
        self.measurements = [ArmMeasurement(arm=arm.arm) for arm in arms]
        self._pairs = list(zip(arms, self.measurements, strict=True))
        self._rounds, self._progress, self._save = rounds, progress, save

    def save(self) -> None:
        """Report all measurements."""
        self._save(self.measurements)

    def measure_interleaved(self, is_decided: Callable[[Sequence[ArmMeasurement]], bool]) -> None:
        """Measure all arms at the same time.

        Args:
            is_decided: Whether no more rounds are needed.

        Raises:
            _CrowdedError: An arm ran out of memory while others had some, or managed memory may have to be paged.
        """
        for arm, measurement in self._pairs:
            self._start(arm, measurement)
            self._check_memory(measurement)
        self._check_paged()
        for number in itertools.count():
            if number >= self._rounds and (self._have_failed() or is_decided(self.measurements)):
                break
            for arm, measurement in self._pairs if number % 2 == 0 else reversed(self._pairs):
                if measurement.failure is None:
                    self._measure_round(arm, measurement, number)
                    self._check_memory(measurement)
            self.save()
        for arm, measurement in self._pairs:
            self._finish(arm, measurement)

    def _have_failed(self) -> bool:
        return all(measurement.failure is not None for measurement in self.measurements)

    def measure_apart(self) -> None:
        """Measure one arm after the other, the control before and after the others."""
        controls = [pair for pair in self._pairs if pair[1].arm.role == "control"]
        others = [pair for pair in self._pairs if pair[1].arm.role != "control"]
        for arm, measurement in self._pairs:
            arm.stop()
            measurement.counts, measurement.rounds, measurement.summary = ArmCounts(), [], ArmSummary()
            measurement.failure, measurement.interleaved = None, False
        for arm, measurement in [*controls, *others]:
            self._measure_alone(arm, measurement)
        for arm, before in controls if others else ():
            if before.failure is None:
                after = ArmMeasurement(arm=before.arm)
                self._measure_alone(arm, after)
                before.failure, before.summary = after.failure, after.summary
                for samples, later in zip(before.rounds, after.rounds, strict=False):
                    for part, seconds in later.items():
                        samples.setdefault(part, []).extend(seconds)
                self.save()

    def _measure_alone(self, arm: MeasurableArm, measurement: ArmMeasurement) -> None:
        self._start(arm, measurement)
        for number in range(self._rounds):
            if measurement.failure is None:
                self._measure_round(arm, measurement, number)
                self.save()
        self._finish(arm, measurement)

    def _start(self, arm: MeasurableArm, measurement: ArmMeasurement) -> None:
        self._progress("start", measurement.arm.label, 0)
        if measurement.arm.unsupported is not None:
            measurement.failure = ArmFailure(
                status="unsupported", error=measurement.arm.unsupported, code=measurement.arm.unsupported_code
            )
            return
        with _keep_failure(arm, measurement):
            measurement.counts = arm.start()

    def _measure_round(self, arm: MeasurableArm, measurement: ArmMeasurement, number: int) -> None:
        self._progress("round", measurement.arm.label, number + 1)
        with _keep_failure(arm, measurement):
            measurement.rounds.append(arm.measure_round().samples)

    def _finish(self, arm: MeasurableArm, measurement: ArmMeasurement) -> None:
        if measurement.failure is None:
            self._progress("finish", measurement.arm.label, self._rounds)
            with _keep_failure(arm, measurement):
                is_unknown = all(each.summary.device_bandwidth is None for each in self.measurements)
                measurement.summary = arm.finish(measures_bandwidth=is_unknown)
        arm.stop()

    def _check_memory(self, measurement: ArmMeasurement) -> None:
        """Check that an arm which ran out of memory was alone.

        Raises:
            _CrowdedError: Other arms had memory too.
        """
        others = [each for each in self.measurements if each is not measurement and each.failure is None]
        is_out_of_memory = measurement.failure is not None and measurement.failure.status == "oom"
        if is_out_of_memory and any(other.counts.parameters for other in others):
            raise _CrowdedError

    def _check_paged(self) -> None:
        """Check that the memory which is left holds the managed memory that the arms may page out.

        Raises:
            _CrowdedError: It may not, so that one arm's state is paged because of the others.
        """
        running = [each.counts for each in self.measurements if each.failure is None]
        paged = sum(counts.paged_bytes or 0 for counts in running)
        free = min((counts.free_bytes for counts in running if counts.free_bytes is not None), default=None)
        if len(running) > 1 and paged and free is not None and free < paged:
            raise _CrowdedError


@contextlib.contextmanager
def _keep_failure(arm: MeasurableArm, measurement: ArmMeasurement) -> Iterator[None]:
    """Stop an arm that fails in the context and store its failure."""
    try:
        yield
    except ArmFailedError as error:
        measurement.failure = error.failure
        arm.stop()  # a hanging arm would slow down the others
