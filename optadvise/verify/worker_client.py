"""The command's side of the worker that audits and experiments. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from optadvise.core.worker import WorkerError, WorkerProcess, WorkerTimeoutError, module_command
from optadvise.verify.records import Answer, Request

WORKER = module_command("optadvise.verify.worker")


class NoAnswerError(Exception):
    """A worker gave no answer, and its process was ended. The text is a predicate: `ended its process with code 7`."""


class AuditWorker:
    """A worker that is started when it is first needed, and again after it died or hung."""

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        """Keep the worker's command line; tests pass others."""
        self._command = command
        self._process: WorkerProcess | None = None

    def __enter__(self) -> AuditWorker:
        """Return this worker."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the worker."""
        self.stop()

    def request(self, request: Request, timeout: float) -> Answer:
        """Return the worker's answer.

        Args:
            timeout: Seconds that it may take.

        Raises:
            NoAnswerError: The process ended or hung; the next request starts another.
        """
        try:
            self._process = self._process or WorkerProcess(self._command)
            self._process.send(request)
            answer: Answer = self._process.receive(Answer, timeout)
        except WorkerTimeoutError as error:
            self.stop()
            raise NoAnswerError(f"gave no answer within {timeout:g} seconds") from error
        except WorkerError as error:
            self.stop()
            has_code = error.exit_code is not None
            raise NoAnswerError(f"ended its process with code {error.exit_code}" if has_code else str(error)) from error
        return answer

    def stop(self) -> None:
        """End the worker's process, if it has one."""
        if self._process is not None:
            self._process.stop()
            self._process = None
