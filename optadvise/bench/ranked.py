"""An arm that several ranks measure together, as the runner sees it: one worker behind torchrun's launcher."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optadvise.bench import rankfolder
from optadvise.bench.runner import ArmFailed, WorkerArm
from optadvise.bench.spec import Arm, Spec
from optadvise.errors import InputError


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
        launcher = [sys.executable, "-m", "optadvise.bench.launch", str(spec.nproc)]
        super().__init__(spec, arm, timeout=timeout, command=command or launcher)
        self._folder: Path | None = None

    def start(self) -> dict[str, Any]:
        """Start the ranks, build the arm on each and return what was counted."""
        self._folder = Path(tempfile.mkdtemp(prefix="optadvise-ranks-"))
        self._environment = {
            **os.environ, rankfolder.FOLDER: str(self._folder), rankfolder.DEVICE: self._spec.device,
            rankfolder.PARENT: str(os.getpid()),
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
            rankfolder.end_ranks(self._folder)

    def _late(self) -> ArmFailed:
        assert self._folder is not None
        why = rankfolder.behind(self._folder, self._spec.nproc)
        return ArmFailed("error", f"no answer within {self._timeout:g} s: {why}; raise --timeout")

    def _ended(self) -> ArmFailed:
        assert self._folder is not None
        why, failure = rankfolder.root_cause(self._folder, self._spec.nproc)
        if not rankfolder.exit_codes(self._folder) and why == rankfolder.LAUNCHER_ENDED:
            why += self._last_words()
        status = failure.pop("status")
        if status == "input":
            raise InputError(why)
        return ArmFailed(status, why, **failure)
