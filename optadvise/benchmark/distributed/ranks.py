"""This process as one of several ranks that torchrun started.

Each rank writes its progress and its failure to the parent's folder, where an environment variable names one.
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
_OBJECT_TIMEOUT = timedelta(days=7)  # a rank may wait long for its turn; the parent ends what really hangs


class Ranks:
    """This rank and its connection to the others."""

    def __init__(self, device: str, timeout: timedelta | None = None) -> None:
        """Join the others.

        Args:
            device: cpu or cuda, which decides between gloo and NCCL.
            timeout: Of waiting for another rank (default: torch's own).
        """
        self.number, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._folder = Path(os.environ[FOLDER]) if FOLDER in os.environ else None
        self._progress = self._map_progress()
        if device.startswith("cuda"):
            local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local_rank >= gpus:
                raise CannotRunHereError(
                    f"rank {self.number} has no GPU: this machine has {gpus}; use at most {gpus} processes per machine",
                    code=ErrorCode.MISSING_DEVICE, option="--nproc", value=os.environ.get("LOCAL_WORLD_SIZE"),
                )  # fmt: skip
            torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=timeout)
        self._object_group = distributed.new_group(backend="gloo", timeout=timeout or _OBJECT_TIMEOUT)

    def _map_progress(self) -> mmap.mmap | None:
        if self._folder is None:
            return None
        file = self._folder / f"{self.number}.step"
        file.write_bytes(STEP.pack(0))
        with file.open("r+b") as opened:
            return mmap.mmap(opened.fileno(), STEP.size)

    def mark_progress(self, mark: int) -> None:
        """Report how far this rank is; costs a write to memory."""
        if self._progress is not None:
            STEP.pack_into(self._progress, 0, mark)

    def share(self, value: T) -> T:
        """Return rank 0's value; every rank calls it."""
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self._object_group)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in their order; every rank calls it."""
        values = [value] * self.count
        distributed.all_gather_object(values, value, group=self._object_group)
        return values

    def report_failure(self, failure: ArmFailure) -> None:
        """Write what ended this rank for the parent."""
        if self._folder is not None:
            write_failure(self._folder, self.number, failure)
