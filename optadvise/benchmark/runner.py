"""The order of a measurement: a process for every arm, rounds in turn, failures kept, results as they come."""

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
from typing import Any, Protocol, TextIO

from msgspec import Struct
from msgspec.structs import asdict

from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.errors import InputError

_GRACE = 2.0  # seconds that a worker gets to end by itself


class ArmFailed(Exception):  # noqa: N818, a result and not a programming error
    """An arm ended early; carries its status and why."""

    def __init__(self, status: str, why: str, **extra: Any) -> None:
        """Keep what the result will say."""
        super().__init__(why)
        self.status = status
        self.extra = extra


class Measured(Protocol):
    """An arm that can be measured; the worker's process, or a fake in tests."""

    arm: Arm

    def start(self) -> dict[str, Any]:
        """Build it, take the first steps, and return what was counted."""

    def round(self) -> dict[str, list[float]]:
        """Measure one round and return each part's samples."""

    def finish(self) -> dict[str, Any]:
        """Return memory, losses and bandwidth at the end."""

    def stop(self) -> None:
        """End it, whatever it is doing."""


class Record(Struct, frozen=True):
    """What one arm has given so far."""

    arm: Arm
    counts: dict[str, Any]
    rounds: list[dict[str, list[float]]]
    end: dict[str, Any]
    failure: dict[str, Any]  # status and error, empty while all is well


Progress = Callable[[str, str, int], None]  # what happens, to which arm, in which round


def run(
    arms: Sequence[Measured], rounds: int, *, progress: Progress, save: Callable[[Sequence[Record]], None]
) -> list[Record]:
    """Measure the arms in interleaved rounds, every other round in reverse, so that drift hits all alike.

    Args:
        arms: What to measure.
        rounds: How many rounds each.
        progress: Told what happens.
        save: Given everything so far after each round and at the end.

    Returns:
        A record for each arm, in their order. An arm that fails keeps what it had, and the others go on.

    Raises:
        KeyboardInterrupt: It was interrupted; everything so far has been saved and no arm is left running.
        InputError: The workload is wrong, for every arm; none is left running.
    """
    records = [Record(measured.arm, {}, [], {}, {}) for measured in arms]
    pairs = list(zip(arms, records, strict=True))
    try:
        for measured, record in pairs:
            progress("start", record.arm.label, 0)
            _guard(measured, record, lambda m=measured, r=record: r.counts.update(m.start()))  # type: ignore[misc]
        for number in range(rounds):
            for measured, record in pairs if number % 2 == 0 else reversed(pairs):
                if not record.failure:
                    progress("round", record.arm.label, number + 1)
                    _guard(measured, record, lambda m=measured, r=record: r.rounds.append(m.round()))  # type: ignore[misc]
            save(records)
        for measured, record in pairs:
            if not record.failure:
                progress("finish", record.arm.label, rounds)
                _guard(measured, record, lambda m=measured, r=record: r.end.update(m.finish()))  # type: ignore[misc]
            measured.stop()
    except KeyboardInterrupt:
        save(records)
        raise
    finally:
        for measured in arms:
            measured.stop()
    save(records)
    return records


def _guard(measured: Measured, record: Record, action: Callable[[], object]) -> None:
    if record.arm.unsupported is not None:
        record.failure.update(status="unsupported", error=record.arm.unsupported)
        return
    try:
        action()
    except ArmFailed as error:
        record.failure.update(status=error.status, error=str(error), **error.extra)
        measured.stop()  # one that hangs would slow the others down


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

    def start(self) -> dict[str, Any]:
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
        self._say({"spec": asdict(self._spec), "arm": asdict(self.arm)})
        return self._hear("ready")

    def round(self) -> dict[str, list[float]]:
        """Measure one round."""
        self._say({"command": "round"})
        samples = self._hear("round").get("samples")
        if not isinstance(samples, dict) or not samples:
            raise ArmFailed("error", "the worker answered a round without samples")
        return samples

    def finish(self) -> dict[str, Any]:
        """Return what is known at the end."""
        self._say({"command": "finish"})
        return self._hear("done")

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

    def _say(self, data: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(data) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def _hear(self, event: str) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=min(self._timeout, threading.TIMEOUT_MAX))
        except queue.Empty:
            self._hung = True
            raise self._late() from None
        if line is None:
            raise self._ended()
        try:
            answer = json.loads(line)
            found = answer.pop("event")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            self._hung = True
            raise ArmFailed("error", f"the worker answered with garbage: {line.strip()[:80]!r}") from error
        if found == "failed":
            if answer["status"] == "input":
                raise InputError(answer["error"])
            raise ArmFailed(answer.pop("status"), answer.pop("error"), **answer)
        if found != event:
            self._hung = True
            raise ArmFailed("error", f"the worker answered {found!r} where {event!r} was due")
        return dict(answer)

    def _late(self) -> ArmFailed:
        """Return that no answer came."""
        return ArmFailed("error", f"no answer within {self._timeout:g} s; raise --timeout")

    def _ended(self) -> ArmFailed:
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
            return ArmFailed("error", f"the worker was killed by {name}{hint}{words}")
        return ArmFailed("error", f"the worker ended with exit code {code}{words}")

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
