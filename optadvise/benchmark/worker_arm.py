"""An arm in a worker process, as the runner sees it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO, TypeVar

import msgspec
from msgspec import Struct

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
from optadvise.core.errors import InputError
from optadvise.core.worker import encode_message

_GRACE = 2.0  # seconds that a worker gets to end by itself
Answer = TypeVar("Answer", ArmCounts, RoundSamples, ArmSummary, Parity)


def fail(error: str) -> ArmFailedError:
    """Return the failure of an arm that ended with an error."""
    return ArmFailedError(ArmFailure(status="error", error=error))


def raise_failure(failure: ArmFailure) -> NoReturn:
    """Raise what a worker reports: a wrong workload ends the whole run, everything else the arm alone."""
    if failure.status == "input":
        raise InputError(failure.error)
    raise ArmFailedError(failure)


class WorkerArm:
    """An arm in a worker process."""

    def __init__(self, spec: Spec, arm: Arm, *, timeout: float, command: Sequence[str] | None = None) -> None:
        """Prepare; the process starts with `start`.

        Args:
            spec: The shared conditions.
            arm: The optimizer under test.
            timeout: Seconds that any one answer may take.
            command: The worker's command line, for tests of its faults.
        """
        self.arm = arm
        self._spec = spec
        self._timeout = timeout
        self._command = list(command or (sys.executable, "-m", "optadvise.benchmark.worker"))
        self._environment: dict[str, str] | None = None  # the parent's own
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log: TextIO | None = None

    def start(self) -> ArmCounts:
        """Start the process, build the arm and return what was counted."""
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, closed in stop
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the workers
        )
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()
        self._send(StartArm(self._spec, self.arm))
        return self._receive("ready", ArmCounts)

    def measure_round(self) -> RoundSamples:
        """Measure one round."""
        self._send(ArmCommand("round"))
        answer = self._receive("round", RoundSamples)
        if not answer.samples:
            raise fail("the worker answered a round without samples")
        return answer

    def finish(self) -> ArmSummary:
        """Return memory, losses and bandwidth at the end."""
        self._send(ArmCommand("finish"))
        return self._receive("done", ArmSummary)

    def stop(self) -> None:
        """End the process and everything it started; calling it twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                _quietly(process.stdin.close)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0 if self._hung else _GRACE)
            _kill_group(process)  # also what it started, which may outlive it
            self._end_rest()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    _hung = False

    def _end_rest(self) -> None:
        """End what is not in the process's group; before its pipes are closed, as it may hold them."""

    def _send(self, message: Struct) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode_message(message).decode())
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def _receive(self, event: str, kind: type[Answer]) -> Answer:
        try:
            line = self._answers.get(timeout=min(self._timeout, threading.TIMEOUT_MAX))
        except queue.Empty:
            self._hung = True
            raise self._late() from None
        if line is None:
            raise self._ended()
        try:
            answer = json.loads(line)
            received = answer["event"]
            if received == "failed":
                raise_failure(msgspec.convert(answer, ArmFailure))
            if received != event:
                self._hung = True
                raise fail(f"the worker answered {received!r} where {event!r} was due")
            return msgspec.convert(answer, kind)
        except (ValueError, KeyError, TypeError) as error:
            self._hung = True
            raise fail(f"the worker answered with garbage: {line.strip()[:80]!r}") from error

    def _late(self) -> ArmFailedError:
        """Return that no answer came."""
        return fail(f"no answer within {self._timeout:g} s; raise --timeout")

    def _ended(self) -> ArmFailedError:
        """Return what a process that went away left behind: its exit code or signal and its last words."""
        assert self._process is not None
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            code = None
        words = self._last_words()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            # The kernel ends what takes the last of the memory with SIGKILL.
            hint = ", as the kernel does when memory runs out" if -code == 9 else ""
            return fail(f"the worker was killed by {name}{hint}{words}")
        return fail(f"the worker ended with exit code {code}{words}")

    def _last_words(self) -> str:
        """Return the last line that the process left."""
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f": {lines[-1][:200]}" if lines else ""


def _read(stream: TextIO, answers: queue.SimpleQueue[str | None]) -> None:
    with contextlib.suppress(ValueError):  # closed while it was read
        for line in stream:
            answers.put(line)
    answers.put(None)


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        action()


def _kill_group(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        _quietly(lambda: os.killpg(process.pid, signal.SIGKILL))
    else:
        process.kill()
