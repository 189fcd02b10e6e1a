"""Stages of the GPU check, each measured in a worker process with a time limit. Imports no torch."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gpu_check.records import (
    Check,
    ItemFinished,
    ItemStarted,
    Settings,
    Stage,
    StageAnswer,
    StageFinished,
    StageRequest,
    StageResult,
    Status,
)
from optadvise.core.errors import InterruptedMeasurementError
from optadvise.core.worker import WorkerError, WorkerProcess, WorkerTimeoutError, module_command

WORKER = module_command("benchmarks.gpu_check.worker")
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}  # with which the worker finds its module
MAX_SECONDS = 510.0  # of all stages; starting and ending processes takes the rest of nine minutes
STAGES = (
    Stage("machine", "gpu_check.machine:list_items", 60, 60),
    Stage("context", "gpu_check.machine:list_context_items", 30, 30),
    Stage("bandwidth", "gpu_check.machine:list_bandwidth_items", 30, 30),
    Stage("memory", "gpu_check.memory_table:list_items", 100, 30),
    Stage("steps", "gpu_check.steps:list_items", 210, 45),
    Stage("paged", "gpu_check.paged:list_items", 40, 20),
    Stage("programs", "gpu_check.usage:list_program_items", 40, 30),
    Stage("claims", "gpu_check.usage:list_claim_items", 60, 40),
    Stage("two-gpus", "gpu_check.usage:list_two_gpu_items", 60, 40),
)


class StageRun:
    """Measurement of one stage in one worker after another.

    An item that crashes its worker or exceeds its time limit is recorded, and a new worker measures the other items.
    """

    def __init__(self, stage: Stage, settings: Settings, max_seconds: float = MAX_SECONDS) -> None:
        """Store the settings; `run` starts the first worker.

        Args:
            max_seconds: Time left for all stages; the stage's own limit applies as well.
        """
        self._stage, self._settings = stage, settings
        self._begin = time.monotonic()
        self._deadline = self._begin + min(stage.seconds, max_seconds)
        self._current: str | None = None  # item that is being measured
        self._finished: list[str] = []
        self._stopped: list[str] = []  # items that exceeded their time limit
        self._checks: list[Check] = []

    def run(self) -> StageResult:
        """Measure all items and return the result.

        Raises:
            InterruptedMeasurementError: KeyboardInterrupt; `result` has the checks so far.
        """
        try:
            while (end := self._run_worker()) is None:
                pass
        except KeyboardInterrupt:
            raise InterruptedMeasurementError(self._make_result("incomplete", "interrupted")) from None
        return self._make_result(*end)

    def _make_result(self, status: Status, error: str | None) -> StageResult:
        return StageResult(
            name=self._stage.name,
            status=status,
            error=error,
            seconds=round(time.monotonic() - self._begin, 1),
            checks=tuple(self._checks),
        )

    def _run_worker(self) -> tuple[Status, str | None] | None:
        """Measure items in a new worker.

        Returns:
            Status and error of the stage; None if another worker has to continue.
        """
        finished = len(self._finished)
        try:
            with WorkerProcess(WORKER, {**os.environ, **ENVIRONMENT}) as process:
                process.send(StageRequest(self._stage.items, self._settings, tuple(self._finished)))
                while True:
                    answer: StageAnswer = process.receive(StageAnswer, self._find_timeout())
                    if isinstance(answer, StageFinished):
                        return self._describe_end(answer)
                    self._record(answer)
        except WorkerTimeoutError:
            if time.monotonic() >= self._deadline:
                return "incomplete", self._describe_timeout()
            self._stopped.append(str(self._current))
            self._finish_item(Check(name=str(self._current), note=f"stopped after {self._stage.item_seconds:g} s"))
        except WorkerError as error:
            if self._current is not None:
                self._finish_item(Check(name=self._current, is_right=False, note=f"the worker {error}"))
            elif len(self._finished) == finished:
                return "failed", f"the worker {error}"
        return None

    def _find_timeout(self) -> float:
        """Return the seconds until the end of the stage, or of the time limit of an item that has just started."""
        remaining = max(self._deadline - time.monotonic(), 0.0)
        return remaining if self._current is None else min(remaining, self._stage.item_seconds)

    def _record(self, answer: ItemStarted | ItemFinished) -> None:
        if isinstance(answer, ItemStarted):
            self._current = answer.name
        else:
            self._finish_item(*answer.checks)

    def _finish_item(self, *checks: Check) -> None:
        """Record the checks of the current item."""
        assert self._current is not None
        self._checks.extend(checks)
        self._finished.append(self._current)
        self._current = None

    def _describe_end(self, answer: StageFinished) -> tuple[Status, str | None]:
        """Return status and error of a stage whose worker reached the end."""
        if answer.skipped is not None:
            return "skipped", answer.skipped
        return ("incomplete", f"stopped: {', '.join(self._stopped)}") if self._stopped else ("ok", None)

    def _describe_timeout(self) -> str:
        item = "" if self._current is None else f" in {self._current}"
        return f"stopped after {time.monotonic() - self._begin:.0f} s{item}"
