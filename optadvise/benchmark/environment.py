"""Machine and software of this process. Imports no torch."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from optadvise.benchmark.gpu_conditions import read_conditions, read_state
from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.records import Machine
from optadvise.core.errors import OptadviseWarning
from optadvise.core.hardware import count_cores, name_processor
from optadvise.core.version import __version__


class MachineReading:
    """Machine of a benchmark, with its GPU's state before it and after the last round."""

    def __init__(self, gpu_uuid: str | None) -> None:
        """Read the machine before anything is measured; print a warning if other programs use the GPU.

        Args:
            gpu_uuid: UUID of the GPU, as torch reports it; None without a GPU.
        """
        self.machine = read_machine(gpu_uuid)
        gpu = self.machine.gpu
        if gpu is not None and gpu.other_processes:
            names = ", ".join(f"{process.name or 'process'} ({process.pid})" for process in gpu.other_processes)
            warnings.warn(f"other programs use the GPU and may slow it: {names}", OptadviseWarning, stacklevel=2)

    def read_end(self, measurements: Sequence[ArmMeasurement], rounds: int) -> None:
        """Read the GPU's state again, once, if all arms have completed their rounds; its clocks fall soon after."""
        gpu = self.machine.gpu
        is_last = all(each.failure is not None or len(each.rounds) >= rounds for each in measurements)
        if gpu is not None and gpu.end is None and is_last:
            self.machine = replace(self.machine, gpu=replace(gpu, end=read_state(gpu.uuid)))


def read_machine(gpu_uuid: str | None = None) -> Machine:
    """Return the machine and software that a result depends on.

    Args:
        gpu_uuid: UUID of the GPU, as torch reports it; None without a GPU.
    """
    return Machine(
        optadvise=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=name_processor(),
        cores=count_cores(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        executable=Path(sys.executable).name,
        gpu=None if gpu_uuid is None else read_conditions(gpu_uuid),
    )
