"""Process group of a rank that torchrun started.

Each rank writes its progress and its failure to the parent's folder, if an environment variable specifies it.
"""

from __future__ import annotations

import mmap
import os
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed

from optadvise.benchmark.distributed.rank_files import FOLDER, STEP, write_failure
from optadvise.benchmark.measurement import ArmFailure
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError

T = TypeVar("T")
_OBJECT_TIMEOUT = timedelta(days=7)  # ranks wait while other arms run; the parent has its own timeout


class Ranks:
    """This rank and its communication with the other ranks."""

    def __init__(self, device: str, timeout: timedelta | None = None) -> None:
        """Initialize the process group.

        Args:
            device: cpu (gloo) or cuda (NCCL).
            timeout: Maximum wait for other ranks; None for torch's default.

        Raises:
            CannotRunHereError: There are more ranks than GPUs.
        """
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._folder = Path(os.environ[FOLDER]) if FOLDER in os.environ else None
        self._progress = self._map_progress()
        if device.startswith("cuda"):
            local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local_rank >= gpus:
                raise CannotRunHereError(
                    f"rank {self.rank} has no GPU: this machine has {gpus}; use at most {gpus} processes per machine",
                    code=ErrorCode.MISSING_DEVICE, option="--nproc", value=os.environ.get("LOCAL_WORLD_SIZE"),
                )  # fmt: skip
            torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=timeout)
        self._object_group = distributed.new_group(backend="gloo", timeout=timeout or _OBJECT_TIMEOUT)

    def _map_progress(self) -> mmap.mmap | None:
        if self._folder is None:
            return None
        file = self._folder / f"{self.rank}.step"
        file.write_bytes(STEP.pack(0))
        with file.open("r+b") as opened:
            return mmap.mmap(opened.fileno(), STEP.size)

    def mark_progress(self, mark: int) -> None:
        """Write the progress of this rank to shared memory."""
        if self._progress is not None:
            STEP.pack_into(self._progress, 0, mark)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value; every rank must call this."""
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self._object_group)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order; every rank must call this."""
        values = [value] * self.world_size
        distributed.all_gather_object(values, value, group=self._object_group)
        return values

    def report_failure(self, failure: ArmFailure) -> None:
        """Write the failure of this rank for the parent."""
        if self._folder is not None:
            write_failure(self._folder, self.rank, failure)
