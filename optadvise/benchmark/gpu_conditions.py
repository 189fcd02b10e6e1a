"""Driver, clocks and other processes of the GPU that a benchmark uses, from nvidia-smi. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from optadvise.benchmark.gpu_records import GpuConditions, GpuProcess, GpuState
from optadvise.core.errors import CannotRunHereError
from optadvise.core.nvidia import Row, find_physical_uuid, parse_mebibytes, query_gpus, query_processes

_STATE = ("clocks.current.sm", "clocks.current.memory", "temperature.gpu")
_CONDITIONS = ("driver_version", "compute_cap", "power.limit", "mig.mode.current", "ecc.mode.current", "compute_mode")
_SWITCHES = {"Enabled": True, "Disabled": False}


def read_conditions(uuid: str) -> GpuConditions | None:
    """Return driver, state and processes of a GPU, before this program uses it; None if nvidia-smi does not list it.

    Args:
        uuid: UUID of the GPU or MIG instance, as torch reports it.
    """
    try:
        physical = find_physical_uuid(uuid)
        row = None if physical is None else _query(physical, (*_STATE, *_CONDITIONS))
    except CannotRunHereError:
        return None
    if physical is None or row is None:
        return None
    return GpuConditions(
        uuid=physical,
        driver=row["driver_version"],
        compute_capability=row["compute_cap"],
        power_limit_watts=_parse_number(row["power.limit"]),
        mig=_SWITCHES.get(row["mig.mode.current"] or ""),
        ecc=_SWITCHES.get(row["ecc.mode.current"] or ""),
        compute_mode=row["compute_mode"],
        start=_make_state(row),
        other_processes=_list_processes((physical, uuid, f"MIG-{uuid}")),
    )


def read_state(uuid: str) -> GpuState | None:
    """Return clocks and temperature of a GPU; None if nvidia-smi does not report them.

    Args:
        uuid: UUID of the GPU, not of a MIG instance.
    """
    try:
        row = _query(uuid, _STATE)
    except CannotRunHereError:
        return None
    return None if row is None else _make_state(row)


def _query(uuid: str, fields: Sequence[str]) -> Row | None:
    return next((row for row in query_gpus("uuid", *fields) if row["uuid"] == uuid), None)


def _make_state(row: Row) -> GpuState:
    sm_clock, memory_clock, temperature = (_parse_number(row[field]) for field in _STATE)
    return GpuState(sm_clock_mhz=sm_clock, memory_clock_mhz=memory_clock, temperature_celsius=temperature)


def _list_processes(uuids: Sequence[str]) -> tuple[GpuProcess, ...] | None:
    """Return the other processes on a GPU; None if nvidia-smi fails."""
    try:
        rows = query_processes("gpu_uuid", "pid", "used_memory", "process_name")
    except CannotRunHereError:
        return None
    return tuple(
        GpuProcess(pid=int(pid), name=row["process_name"], memory_bytes=parse_mebibytes(row["used_memory"]))
        for row in rows
        if row["gpu_uuid"] in uuids and (pid := row["pid"] or "").isdecimal() and int(pid) != os.getpid()
    )


def _parse_number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
