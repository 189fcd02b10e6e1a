"""A worker among several that torchrun started: what rank 0 hears goes to all, and what all have comes to rank 0.

Each rank leaves its process id, its latest step and what ended it in a folder for the parent, where it names one.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from optadvise.benchmark.distributed.rank_files import FOLDER, STEP
from optadvise.core.errors import CannotRunHereError

_LONG = timedelta(days=7)


class Ranks:
    """This rank's place among the others."""

    def __init__(self, device: str, timeout: timedelta | None = None) -> None:
        """Join the others.

        Args:
            device: cpu or cuda, which decides between gloo and NCCL.
            timeout: Of waiting for another; torch's own unless said.
        """
        self.number, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._folder = Path(os.environ[FOLDER]) if FOLDER in os.environ else None
        self._step = self._marker()
        if device.startswith("cuda"):
            local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= there:
                raise CannotRunHereError(
                    f"rank {self.number} has no GPU of its own, as {there} are here; ask for fewer"
                )
            torch.cuda.set_device(local)
        kind = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(kind, timeout=timeout)
        # A rank may wait long for its turn among the arms; what really hangs is ended by the parent.
        self._talk = distributed.new_group(backend="gloo", timeout=timeout or _LONG)

    def _marker(self) -> mmap.mmap | None:
        if self._folder is None:
            return None
        file = self._folder / f"{self.number}.step"
        file.write_bytes(STEP.pack(0))
        with file.open("r+b") as opened:
            return mmap.mmap(opened.fileno(), STEP.size)

    def stepped(self, step: int) -> None:
        """Tell how far this rank is; costs a write to memory."""
        if self._step is not None:
            STEP.pack_into(self._step, 0, step)

    def share(self, told: Any) -> Any:
        """Return what rank 0 tells."""
        box = [told]
        distributed.broadcast_object_list(box, src=0, group=self._talk)
        return box[0]

    def gather(self, mine: Any) -> list[Any]:
        """Return what every rank has, in their order; every rank gets it."""
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, mine, group=self._talk)
        return found

    def failed(self, failure: dict[str, Any]) -> None:
        """Leave what ended this rank, and when."""
        if self._folder is not None:
            entry = {**failure, "time": time.time()}
            (self._folder / f"{self.number}.failure").write_text(json.dumps(entry), encoding="utf-8")
