"""An arm that several ranks measure together, as the runner sees it: one worker behind torchrun's launcher."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optadvise.benchmark.distributed import rank_files
from optadvise.benchmark.runner import ArmFailed, WorkerArm
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.errors import InputError


class RankedArm(WorkerArm):
    """An arm in a process for each rank. The first rank speaks; a failure is told of the rank that began it."""

    def __init__(self, spec: Spec, arm: Arm, *, timeout: float, command: Sequence[str] | None = None) -> None:
        """Prepare; the processes start with `start`.

        Args:
            spec: The shared conditions, with the number of processes.
            arm: The optimizer under test.
            timeout: Seconds that any one answer may take.
            command: The launcher's command line, for tests of its faults.
        """
        launcher = [sys.executable, "-m", "optadvise.benchmark.distributed.launch", str(spec.nproc)]
        super().__init__(spec, arm, timeout=timeout, command=command or launcher)
        self._folder: Path | None = None

    def start(self) -> dict[str, Any]:
        """Start the ranks, build the arm on each and return what was counted."""
        self._folder = Path(tempfile.mkdtemp(prefix="optadvise-ranks-"))
        self._environment = {
            **os.environ, rank_files.FOLDER: str(self._folder), rank_files.DEVICE: self._spec.device,
            rank_files.PARENT: str(os.getpid()),
        }  # fmt: skip
        return super().start()

    def parity(self) -> float:
        """Return how far the ranks are from one process, as a share of its way, after the steps of `start`."""
        self._say({"command": "parity"})
        return float(self._hear("parity")["share"])

    def stop(self) -> None:
        """End all ranks and the launcher; calling it twice is fine."""
        super().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _end_rest(self) -> None:
        """End the ranks; one that did not even join sees that its launcher is gone."""
        if self._folder is not None:
            rank_files.end_ranks(self._folder)

    def _late(self) -> ArmFailed:
        assert self._folder is not None
        why = rank_files.behind(self._folder, self._spec.nproc)
        return ArmFailed("error", f"no answer within {self._timeout:g} s: {why}; raise --timeout")

    def _ended(self) -> ArmFailed:
        assert self._folder is not None
        why, failure = rank_files.root_cause(self._folder, self._spec.nproc)
        if not rank_files.exit_codes(self._folder) and why == rank_files.LAUNCHER_ENDED:
            why += self._last_words()
        status = failure.pop("status")
        if status == "input":
            raise InputError(why)
        return ArmFailed(status, why, **failure)
