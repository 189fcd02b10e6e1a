"""Machine and software of this process. Imports no torch."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from optadvise.benchmark.gpu_conditions import read_conditions, read_states
from optadvise.benchmark.gpu_records import GpuConditions
from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.records import Machine
from optadvise.core.errors import OptadviseWarning
from optadvise.core.hardware import count_cores, name_processor
from optadvise.core.version import __version__


class MachineReading:
    """Machine of a benchmark, with the state of its GPUs before it and after the last round."""

    def __init__(self, gpu_uuids: Sequence[str]) -> None:
        """Read the machine before anything is measured; print a warning if other programs use the GPUs.

        Args:
            gpu_uuids: UUIDs of the GPUs, as torch reports them, which may be empty.
        """
        self.machine = read_machine(gpu_uuids)
        processes = {each.pid: each for gpu in self.machine.list_gpus() for each in gpu.other_processes or ()}
        if processes:
            names = ", ".join(f"{process.name or 'process'} ({process.pid})" for process in processes.values())
            warnings.warn(f"other programs use the GPU and may slow it: {names}", OptadviseWarning, stacklevel=2)

    def read_end(self, measurements: Sequence[ArmMeasurement], rounds: int) -> None:
        """Read the GPUs' state again, once, if all arms have completed their rounds; their clocks fall soon after."""
        gpus = self.machine.list_gpus()
        is_last = all(each.failure is not None or len(each.rounds) >= rounds for each in measurements)
        if gpus and all(gpu.end is None for gpu in gpus) and is_last:
            states = read_states()
            self.machine = _set_gpus(self.machine, [replace(gpu, end=states.get(gpu.uuid)) for gpu in gpus])


def read_machine(gpu_uuids: Sequence[str] = ()) -> Machine:
    """Return the machine and software that a result depends on.

    Args:
        gpu_uuids: UUIDs of the GPUs, as torch reports them.
    """
    machine = Machine(
        optadvise=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=name_processor(),
        cores=count_cores(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        executable=Path(sys.executable).name,
    )
    return _set_gpus(machine, read_conditions(gpu_uuids))


def _set_gpus(machine: Machine, gpus: Sequence[GpuConditions]) -> Machine:
    return replace(machine, gpu=gpus[0] if gpus else None, gpus=tuple(gpus) if len(gpus) > 1 else ())
