"""Arm in a worker process, as the runner uses it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from optadvise.benchmark.measurement import (
    ArmCommand,
    ArmCounts,
    ArmFailure,
    ArmSummary,
    Parity,
    RoundSamples,
    StartArm,
)
from optadvise.benchmark.runner import ArmFailedError
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.worker import WorkerError, WorkerProcess, WorkerTimeoutError, module_command

WORKER = module_command("optadvise.benchmark.worker")
Answer = TypeVar("Answer", ArmCounts, RoundSamples, ArmSummary, Parity)


def fail(error: str, code: ErrorCode = ErrorCode.WORKER_FAILED) -> ArmFailedError:
    """Return the failure of an arm whose worker crashed or did not answer."""
    return ArmFailedError(ArmFailure(status="error", error=error, code=code))


def make_error(failure: ArmFailure) -> InputError | ArmFailedError:
    """Return the exception for a worker's failure: an invalid workload ends the run, any other failure only the arm."""
    if failure.status == "input":
        return InputError(failure.error, code=failure.code, option=failure.option, value=failure.value)
    return ArmFailedError(failure)


class WorkerArm:
    """Arm in a worker process."""

    def __init__(self, spec: Spec, arm: Arm, *, timeout: float, command: Sequence[str] = WORKER) -> None:
        """Store the settings; `start` starts the process.

        Args:
            timeout: Maximum seconds for one answer.
            command: Command line of the worker; tests replace it.
        """
        self.arm = arm
        self._spec = spec
        self._timeout = timeout
        self._command = command
        self._environment: Mapping[str, str] | None = None  # of the worker; None: inherited
        self._process: WorkerProcess | None = None

    def start(self) -> ArmCounts:
        """Start the process, build the arm and return the counts."""
        try:
            self._process = WorkerProcess(self._command, self._environment)
        except WorkerError as error:
            raise fail(f"the worker {error}") from error
        return self._request(StartArm(self._spec, self.arm), ArmCounts)

    def measure_round(self) -> RoundSamples:
        """Measure one round."""
        answer = self._request(ArmCommand("round"), RoundSamples)
        if not answer.samples:
            raise fail("the worker returned a round without samples")
        return answer

    def finish(self, *, measures_bandwidth: bool = True) -> ArmSummary:
        """Return memory and losses at the end, and the bandwidth of the device if it is still unknown."""
        return self._request(ArmCommand("finish", measures_bandwidth=measures_bandwidth), ArmSummary)

    def stop(self) -> None:
        """Terminate the process and its children; may be called repeatedly."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def _request(self, message: StartArm | ArmCommand, kind: type[Answer]) -> Answer:
        """Send a message and return the answer.

        Raises:
            ArmFailedError: The worker reported a failure, ended or timed out.
            InputError: The workload is invalid.
        """
        assert self._process is not None
        self._process.send(message)
        try:
            answer: Answer | ArmFailure = self._process.receive(kind | ArmFailure, self._timeout)
        except WorkerTimeoutError as error:
            raise self._describe_timeout() from error
        except WorkerError as error:
            raise self._describe_end(error) from error
        if isinstance(answer, ArmFailure):
            raise make_error(answer)
        return answer

    def _describe_timeout(self) -> ArmFailedError:
        message = f"the worker did not answer within {self._timeout:g} s; increase --timeout"
        return fail(message, ErrorCode.WORKER_TIMEOUT)

    def _describe_end(self, error: WorkerError) -> InputError | ArmFailedError:
        return fail(f"the worker {error}")
