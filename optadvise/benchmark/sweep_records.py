"""Typed records of a sweep, which define its JSON and its schema."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.benchmark.records import ArmResult, BenchmarkResult, BenchmarkWarning, Environment
from optadvise.core.errors import OptadviseError


class Cell(Struct, frozen=True):
    """One benchmark of a sweep."""

    name: str  # stem of its file name
    optimizer: str
    options: dict[str, str]  # options of `bench`, as typed
    varied: dict[str, str]  # options that differ between cells


class CellFile(Struct, frozen=True):
    """Content of the file of a finished cell."""

    options: dict[str, str]
    result: BenchmarkResult


class Outcome(Struct, frozen=True):
    """Cell with its result, or the reason for having none."""

    cell: Cell
    result: BenchmarkResult | None
    reason: str | None = None
    error: OptadviseError | None = None  # why this process could not measure it


class SweepCell(Struct, frozen=True, kw_only=True):
    """Cell in the JSON of a sweep."""

    optimizer: str
    options: Annotated[dict[str, str], Meta(description="Options that differ between cells.")]
    why: Annotated[str | None, Meta(description="Why the cell has no result.")]
    arm: Annotated[ArmResult | None, Meta(description="Null if the cell has no result.")]
    warnings: Annotated[tuple[BenchmarkWarning, ...], Meta(description="Signs of a busy machine.")] = ()


class SweepResult(Struct, frozen=True, kw_only=True):
    """Schema version 1: keys may be added, never renamed."""

    schema_version: Literal[1]
    kind: Literal["sweep"]
    complete: Annotated[bool, Meta(description="Whether every cell has a result.")]
    environment: Annotated[Environment | None, Meta(description="Environment of the first cell with a result.")]
    options: Annotated[dict[str, str], Meta(description="Options of bench that all cells share, as typed.")]
    cells: tuple[SweepCell, ...]
