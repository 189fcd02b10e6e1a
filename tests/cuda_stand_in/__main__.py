"""Run a worker's module or a program on the stand-in: python -m tests.cuda_stand_in MODULE|FILE ARGUMENTS."""

from __future__ import annotations

import runpy
import sys
from importlib import metadata

from tests.cuda_stand_in import managed, torch_cuda
from tests.cuda_stand_in.gpu import Machine
from tests.cuda_stand_in.modes import DeviceArguments, KernelDispatch, Placement
from tests.cuda_stand_in.settings import get_folder, read_build_version, read_settings


def install() -> None:
    """Emulate CUDA in this process until it ends."""
    metadata.Distribution.version = property(read_build_version)  # type: ignore[assignment]
    machine = Machine(read_settings(get_folder()), get_folder())
    managed.install(machine)
    torch_cuda.install(machine)
    placement = Placement(machine)
    dispatch = KernelDispatch(machine, placement)
    dispatch.__enter__()
    DeviceArguments(machine, placement, dispatch).__enter__()


if __name__ == "__main__":
    install()
    target = sys.argv[1]
    del sys.argv[0]
    if target.endswith(".py"):
        runpy.run_path(target, run_name="__main__")
    else:
        runpy.run_module(target, run_name="__main__", alter_sys=True)
