"""Driver, clocks and other processes of the GPUs that a benchmark uses, from nvidia-smi. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from optadvise.benchmark.gpu_records import GpuConditions, GpuProcess, GpuState
from optadvise.core.errors import CannotRunHereError
from optadvise.core.nvidia import Row, find_physical_uuids, parse_mebibytes, query_gpus, query_processes

_STATE = ("clocks.current.sm", "clocks.current.memory", "temperature.gpu")
_CONDITIONS = ("driver_version", "compute_cap", "power.limit", "mig.mode.current", "ecc.mode.current", "compute_mode")
_SWITCHES = {"Enabled": True, "Disabled": False}


def read_conditions(uuids: Sequence[str]) -> tuple[GpuConditions, ...]:
    """Return driver, state and processes of GPUs before this program uses them, without GPUs that nvidia-smi omits.

    Args:
        uuids: UUIDs of the GPUs or MIG instances, as torch reports them.
    """
    try:
        physical_uuids = find_physical_uuids(uuids) if uuids else []
        rows = _query((*_STATE, *_CONDITIONS)) if any(physical_uuids) else {}
    except CannotRunHereError:
        return ()
    processes = _list_processes() if rows else None
    return tuple(
        _make_conditions(rows[physical], uuid, physical, processes)
        for uuid, physical in zip(uuids, physical_uuids, strict=True)
        if physical is not None and physical in rows
    )


def _make_conditions(row: Row, uuid: str, physical: str, processes: Sequence[Row] | None) -> GpuConditions:
    """Return the conditions of a GPU.

    Args:
        uuid: As torch reports it.
        physical: UUID of the GPU.
        processes: On all GPUs; None if unknown.
    """
    names = (physical, uuid, f"MIG-{uuid}")
    return GpuConditions(
        uuid=physical,
        driver=row["driver_version"],
        compute_capability=row["compute_cap"],
        power_limit_watts=_parse_number(row["power.limit"]),
        mig=_SWITCHES.get(row["mig.mode.current"] or ""),
        ecc=_SWITCHES.get(row["ecc.mode.current"] or ""),
        compute_mode=row["compute_mode"],
        start=_make_state(row),
        other_processes=None if processes is None else tuple(_select_processes(processes, names)),
    )


def read_states() -> dict[str, GpuState]:
    """Return clocks and temperatures of all GPUs by their UUIDs; empty if nvidia-smi fails."""
    try:
        return {uuid: _make_state(row) for uuid, row in _query(_STATE).items()}
    except CannotRunHereError:
        return {}


def _query(fields: Sequence[str]) -> dict[str, Row]:
    """Return the fields of all GPUs by their UUIDs."""
    return {row["uuid"]: row for row in query_gpus("uuid", *fields) if row["uuid"] is not None}


def _make_state(row: Row) -> GpuState:
    sm_clock, memory_clock, temperature = (_parse_number(row[field]) for field in _STATE)
    return GpuState(sm_clock_mhz=sm_clock, memory_clock_mhz=memory_clock, temperature_celsius=temperature)


def _list_processes() -> Sequence[Row] | None:
    """Return the processes on all GPUs; None if nvidia-smi fails."""
    try:
        return query_processes("gpu_uuid", "pid", "used_memory", "process_name")
    except CannotRunHereError:
        return None


def _select_processes(rows: Sequence[Row], uuids: Sequence[str]) -> Iterator[GpuProcess]:
    """Yield the other processes on a GPU with one of these UUIDs."""
    for row in rows:
        pid = row["pid"] or ""
        if row["gpu_uuid"] in uuids and pid.isdecimal() and int(pid) != os.getpid():
            memory_bytes = parse_mebibytes(row["used_memory"])
            yield GpuProcess(pid=int(pid), name=row["process_name"], memory_bytes=memory_bytes)


def _parse_number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
