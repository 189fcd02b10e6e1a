"""An arm that several ranks measure together, as the runner sees it: one worker behind torchrun's launcher."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from optadvise.benchmark.distributed import rank_files
from optadvise.benchmark.measurement import ArmCommand, ArmCounts, Parity
from optadvise.benchmark.runner import ArmFailedError
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.worker_arm import WorkerArm, fail, raise_failure


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

    def start(self) -> ArmCounts:
        """Start the ranks, build the arm on each and return what was counted."""
        self._folder = Path(tempfile.mkdtemp(prefix="optadvise-ranks-"))
        self._environment = {
            **os.environ, rank_files.FOLDER: str(self._folder), rank_files.DEVICE: self._spec.device,
            rank_files.PARENT: str(os.getpid()),
        }  # fmt: skip
        return super().start()

    def parity(self) -> float:
        """Return the distance of the ranks from one process after the steps of `start`; see `communication.parity`."""
        self._send(ArmCommand("parity"))
        return self._receive("parity", Parity).distance

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

    def _late(self) -> ArmFailedError:
        assert self._folder is not None
        slowest = rank_files.describe_slowest_rank(self._folder, self._spec.nproc)
        return fail(f"no answer within {self._timeout:g} s: {slowest}; raise --timeout")

    def _ended(self) -> ArmFailedError:
        assert self._folder is not None
        failure = rank_files.find_root_cause(self._folder, self._spec.nproc)
        if failure.error == rank_files.LAUNCHER_ENDED and not rank_files.read_exit_codes(self._folder):
            failure = replace(failure, error=f"{failure.error}{self._last_words()}")
        raise_failure(failure)
