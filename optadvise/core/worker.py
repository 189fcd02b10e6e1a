"""Both ends of the worker-process protocol: JSON lines over private pipes.

A worker isolates libraries that can hang, crash or print. The parent starts it as a session leader. All its processes
end with it and with the parent (`lifeline`). The worker sends messages through a private copy of stdout, which
libraries cannot write to.
"""

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
import time
import warnings
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import IO, Any, TypeVar, overload

import msgspec

from optadvise.core import lifeline, start
from optadvise.core.foreign import ForeignFileError, clean_strings
from optadvise.core.text import clean_text

_GRACE_SECONDS = 2.0  # time for a worker to exit after its stdin is closed
_KILL_SECONDS = 12.0  # time for its supervisor to kill its processes; more than that of `lifeline`
_POLL_SECONDS = 0.5  # interval of checks whether a worker is still running
_LOG_TAIL_BYTES = 2**16
# Limits for output that is not a message, such as a flood of bytes without a newline.
_MAX_MESSAGE_BYTES = 2**26
_MAX_UNREAD_MESSAGES = 1000

Message = TypeVar("Message")


def encode_message(message: object) -> bytes:
    """Encode a record as a line of JSON that preserves NaN and infinity, unlike msgspec's encoder."""
    return json.dumps(msgspec.to_builtins(message, enc_hook=_simplify)).encode() + b"\n"


def _simplify(value: object) -> object:
    """Convert a read-only mapping to a dict, and a subclass of a plain type, such as torch's version, to that type."""
    if isinstance(value, Mapping):
        return dict(value)
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} cannot be sent to another process")


# -- parent -----------------------------------------------------------------------------------------------------------


class WorkerError(Exception):
    """Failure of a worker. The text is a predicate: `was killed by SIGSEGV: last line of its stderr`."""

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        """Store the text and the exit code.

        Args:
            text: Predicate without a subject.
            exit_code: Negative for a signal; None if the process did not start or is still running.
        """
        super().__init__(text)
        self.exit_code = exit_code


class WorkerTimeoutError(WorkerError):
    """Timeout while waiting for a message of a worker."""


def module_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line that runs a module with this Python, without the current folder on `sys.path`."""
    return (sys.executable, start.__file__, module, *arguments)


def start_process(
    command: Sequence[str], environment: Mapping[str, str] | None, stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a worker as a session leader with pipes as stdin and stdout. Tests replace this function.

    Args:
        command: From `module_command`, or a test's replacement for a worker.
        environment: Environment variables of the worker; None for those of this process.
        stderr: File for the worker's stderr, and for everything that libraries print to stdout.

    Raises:
        OSError: The program does not exist, or the system cannot create a process.
    """
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its workers
    )  # fmt: skip


class WorkerProcess:
    """Running worker process, as used by its parent."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start the process.

        Args:
            environment: Environment variables of the worker; None for those of this process.

        Raises:
            WorkerError: The process cannot be started.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed in stop
        try:
            self._process = start_process(command, environment, self._log)
        except OSError as error:
            self._log.close()
            raise WorkerError(f"cannot be started: {error}") from error
        self._is_stuck = False
        # None ends the output: the worker closed its stdout, or this process closes the worker's stdin.
        self._received: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = (
            threading.Thread(target=_read_lines, args=(self._process.stdout, self._received), daemon=True),
            threading.Thread(target=_write_lines, args=(self._process.stdin, self._sent), daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> WorkerProcess:
        """Return this worker."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the worker."""
        self.stop()

    @property
    def pid(self) -> int:
        """Return the process id, which is also the id of its session and process group."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send a record without waiting for the worker, which may hang; the next `receive` raises the error."""
        self._sent.put(encode_message(message))

    @overload
    def receive(self, kind: type[Message], timeout: float) -> Message: ...

    @overload
    def receive(self, kind: UnionType, timeout: float) -> Any: ...

    def receive(self, kind: Any, timeout: float) -> Any:
        """Return the worker's next message.

        Args:
            kind: Expected record, or a union of tagged records.
            timeout: Seconds to wait.

        Raises:
            WorkerTimeoutError: The worker sent no message in time.
            WorkerError: The worker exited, or sent something else.
        """
        line = self._wait_for_line(timeout)
        if line is None:
            raise self._describe_end()
        try:
            # Libraries write texts of errors and names. Nothing is cut, as a text can be an encoded file.
            return msgspec.convert(clean_strings(json.loads(line), max_text=len(line)), kind)
        except (ValueError, RecursionError, ForeignFileError) as error:
            self._is_stuck = True
            text = line[:400].decode(errors="replace").strip()
            raise WorkerError(f"sent an invalid message: {clean_text(text, 80)!r}") from error

    def _wait_for_line(self, timeout: float) -> bytes | None:
        """Return the next line; None at the end of the output."""
        deadline = time.monotonic() + timeout
        while True:
            has_ended = self._process.poll() is not None
            remaining = deadline - time.monotonic()
            try:
                return self._received.get(timeout=min(max(remaining, 0.0), _POLL_SECONDS))
            except queue.Empty:
                if has_ended:  # a child process still has the stdout open
                    return None
            if remaining <= 0:
                self._is_stuck = True
                raise WorkerTimeoutError(f"did not respond within {timeout:g} s")

    def _describe_end(self) -> WorkerError:
        """Return an error with the exit code or signal, and the last line of stderr."""
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._is_stuck = True
            return WorkerError("stopped responding")
        last_line = self.read_last_line()
        detail = f": {last_line}" if last_line else ""
        if code >= 0:
            return WorkerError(f"ended with exit code {code}{detail}", code)
        # The kernel's out-of-memory killer sends SIGKILL.
        hint = " (probably out of memory)" if -code == signal.SIGKILL else ""
        return WorkerError(f"was killed by {signal.Signals(-code).name}{hint}{detail}", code)

    def read_last_line(self) -> str:
        """Return the last line of stderr, at most 200 characters; empty without one."""
        if self._log.closed:
            return ""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        return clean_text(next((line for line in reversed(lines) if line), ""), 200)

    def stop(self) -> None:
        """Stop the worker and all its child processes; can be called repeatedly."""
        self._sent.put(None)
        if not self._is_stuck:
            self._wait(_GRACE_SECONDS)
        self._is_stuck = True
        if sys.platform == "linux":
            self._process.terminate()  # the supervisor, which kills all processes of the worker
            self._wait(_KILL_SECONDS)
        _kill_group(self._process)  # without a supervisor, child processes can outlive it
        self._process.wait()
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)
        self._log.close()
        _collect_group(self._process.pid)

    def _wait(self, timeout: float) -> None:
        """Wait for the end of the process, at most some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with stream:
        while line := stream.readline(_MAX_MESSAGE_BYTES):
            lines.put(line)
            if len(line) == _MAX_MESSAGE_BYTES or lines.qsize() > _MAX_UNREAD_MESSAGES:
                break
    lines.put(None)


def _write_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with contextlib.suppress(OSError), stream:  # OSError: the worker has ended
        while (line := lines.get()) is not None:
            stream.write(line)
            stream.flush()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _collect_group(group: int) -> None:
    """Collect the exit codes of a worker's processes that this process adopted, as the first one in a container."""
    with contextlib.suppress(OSError, AttributeError):  # none was adopted, or the system has no process groups
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


# -- worker -----------------------------------------------------------------------------------------------------------


class ParentConnection:
    """Connection of a worker to its parent."""

    def __init__(self) -> None:
        """Reserve stdin and stdout for messages, redirect printed text to stderr, and silence warnings."""
        lifeline.end_with_parent()
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError), os.fdopen(os.dup(0), "rb") as stream:
            for line in stream:
                self._lines.put(line)
        os._exit(1)  # even if the main thread is busy

    @overload
    def receive(self, kind: type[Message]) -> Message: ...

    @overload
    def receive(self, kind: UnionType) -> Any: ...

    def receive(self, kind: Any) -> Any:
        """Wait for the parent's next message and return it.

        Args:
            kind: Expected record, or a union of tagged records.
        """
        lifeline.exit_if_forked()
        return msgspec.convert(json.loads(self._lines.get()), kind)

    def send(self, message: object) -> None:
        """Send a record to the parent."""
        lifeline.exit_if_forked()
        self._answers.write(encode_message(message))
        self._answers.flush()
