"""Client of the audit worker. Does not import torch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import UnionType
from typing import Any, TypeVar, overload

from optadvise.core.worker import WorkerError, WorkerProcess, WorkerTimeoutError, module_command
from optadvise.verify.records import Request

Message = TypeVar("Message")
WORKER = module_command("optadvise.verify.worker")


class NoAnswerError(Exception):
    """A worker did not answer, and its process was stopped; the text is a predicate such as `exited with code 7`."""


class AuditWorker:
    """Worker that starts at the first request, and restarts after it died or hung."""

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        """Store the command line of the worker; tests replace it."""
        self._command = command
        self._process: WorkerProcess | None = None

    def __enter__(self) -> AuditWorker:
        """Return this worker."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the worker."""
        self.stop()

    def start(self) -> None:
        """Start the worker, unless it runs; it imports torch while another one answers."""
        with contextlib.suppress(WorkerError):  # reported by the next request
            self._process = self._process or WorkerProcess(self._command)

    @overload
    def request(self, request: Request, kind: type[Message], timeout: float) -> Message: ...

    @overload
    def request(self, request: Request, kind: UnionType, timeout: float) -> Any: ...

    def request(self, request: Request, kind: Any, timeout: float) -> Any:
        """Return the worker's answer.

        Args:
            kind: Expected record, or a union of tagged records.
            timeout: Time limit in seconds.

        Raises:
            NoAnswerError: The process ended or timed out; the next request starts a new one.
        """
        try:
            self._process = self._process or WorkerProcess(self._command)
            self._process.send(request)
            return self._process.receive(kind, timeout)
        except WorkerTimeoutError as error:
            self.stop()
            raise NoAnswerError(f"did not answer within {timeout:g} s") from error
        except WorkerError as error:
            self.stop()
            has_code = error.exit_code is not None
            raise NoAnswerError(f"exited with code {error.exit_code}" if has_code else str(error)) from error

    def stop(self) -> None:
        """Stop the worker's process, if it runs."""
        if self._process is not None:
            self._process.stop()
            self._process = None
