"""Arm that several ranks measure together, as the runner uses it: one worker behind torchrun's launcher."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from msgspec.structs import replace

from optadvise.benchmark.distributed import rank_files
from optadvise.benchmark.measurement import ArmCommand, ArmCounts, Parity
from optadvise.benchmark.runner import ArmFailedError
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.worker_arm import WorkerArm, fail, make_error
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.worker import WorkerError, module_command


class RankedArm(WorkerArm):
    """Arm with one process per rank. Rank 0 answers; the failure is that of the rank that failed first."""

    def __init__(self, spec: Spec, arm: Arm, *, timeout: float) -> None:
        """Store the settings; `start` starts the processes."""
        launcher = module_command("optadvise.benchmark.distributed.launch", str(spec.nproc))
        super().__init__(spec, arm, timeout=timeout, command=launcher)
        self._folder: Path | None = None

    def start(self) -> ArmCounts:
        """Start the ranks, build the arm on each and return the counts."""
        self._folder = Path(tempfile.mkdtemp(prefix=rank_files.FOLDER_PREFIX))
        folder = {rank_files.FOLDER: str(self._folder), rank_files.DEVICE: self._spec.device}
        self._environment = {**os.environ, **folder}
        return super().start()

    def parity(self) -> float:
        """Return the distance to a single process after the steps of `start`; see `communication.measure_parity`."""
        return self._request(ArmCommand("parity"), Parity).distance

    def stop(self) -> None:
        """Terminate all ranks and the launcher; may be called repeatedly."""
        super().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _describe_timeout(self) -> ArmFailedError:
        assert self._folder is not None
        slowest = rank_files.describe_slowest_rank(self._folder, self._spec.nproc)
        message = f"no answer within {self._timeout:g} s: {slowest}; increase --timeout"
        return fail(message, ErrorCode.WORKER_TIMEOUT)

    def _describe_end(self, error: WorkerError) -> InputError | ArmFailedError:
        assert self._folder is not None
        assert self._process is not None
        if error.exit_code is None:  # the launcher is still running
            return super()._describe_end(error)
        failure = rank_files.find_root_cause(self._folder, self._spec.nproc)
        if failure.error == rank_files.LAUNCHER_ENDED and not rank_files.read_exit_codes(self._folder):
            last_line = self._process.read_last_line()
            failure = replace(failure, error=f"{failure.error}{last_line and f': {last_line}'}")
        return make_error(failure)
