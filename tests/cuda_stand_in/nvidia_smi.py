"""nvidia-smi of the stand-in: `--query-gpu` and `--query-compute-apps` as CSV without units, and `--id`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.cuda_stand_in.memory import read_usage
from tests.cuda_stand_in.settings import DRIVER, Gpu, read_settings

_UNKNOWN_FIELD = 2  # exit code


def main(folder: Path) -> None:
    """Print what the arguments request."""
    parser = argparse.ArgumentParser(prog="nvidia-smi")
    parser.add_argument("--query-gpu", default="")
    parser.add_argument("--query-compute-apps", default="")
    parser.add_argument("--format", required=True)
    parser.add_argument("--id", "-i")
    arguments = parser.parse_args()
    assert arguments.format == "csv,noheader,nounits"
    gpus = list(enumerate(read_settings(folder).gpus))
    chosen = [each for each in gpus if arguments.id in (None, str(each[0]), each[1].uuid)]
    if arguments.query_gpu:
        rows = [_describe_gpu(gpu, number, len(gpus), folder) for number, gpu in chosen]
        _print_rows(rows, arguments.query_gpu)
    else:
        rows = [row for _, gpu in chosen for row in _describe_processes(gpu, folder)]
        _print_rows(rows, arguments.query_compute_apps)


def _describe_gpu(gpu: Gpu, number: int, count: int, folder: Path) -> dict[str, str]:
    total, used = int(gpu.memory_gib * 2**30), sum(read_usage(folder, gpu.uuid).values())
    return {
        "index": str(number), "count": str(count), "name": gpu.name, "uuid": gpu.uuid, "driver_version": DRIVER,
        "memory.total": str(total // 2**20), "memory.used": str(used // 2**20),
        "memory.free": str((total - used) // 2**20), "compute_cap": ".".join(map(str, gpu.capability)),
        "compute_mode": "Exclusive_Process" if gpu.exclusive else "Default", "mig.mode.current": "Disabled",
        "power.limit": "300.00", "power.max_limit": "300.00", "clocks.current.sm": "1410",
        "clocks.current.memory": "1215", "ecc.mode.current": "Enabled",
        "clocks.max.sm": "1410", "clocks.max.mem": "1215", "utilization.gpu": "0", "pstate": "P0",
        "persistence_mode": "Enabled", "display_active": "Disabled", "temperature.gpu": "40",
    }  # fmt: skip


def _describe_processes(gpu: Gpu, folder: Path) -> list[dict[str, str]]:
    return [
        {
            "pid": str(pid), "process_name": "python", "used_memory": str(size // 2**20),
            "used_gpu_memory": str(size // 2**20), "gpu_uuid": gpu.uuid, "gpu_name": gpu.name,
        }
        for pid, size in read_usage(folder, gpu.uuid).items()
    ]  # fmt: skip


def _print_rows(rows: list[dict[str, str]], query: str) -> None:
    fields = query.split(",")
    for row in rows:
        unknown = next((field for field in fields if field not in row), None)
        if unknown is not None:
            print(f'Field "{unknown}" is not a valid field to query.')
            sys.exit(_UNKNOWN_FIELD)
        print(", ".join(row[field] for field in fields))
