"""Typed records of a sweep: its JSON output and its JSON Schema come from these declarations."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.benchmark.records import ArmResult, BenchmarkResult, Environment


class Cell(Struct, frozen=True):
    """One measurement of a sweep."""

    name: str  # of its file, without the ending
    optimizer: str
    options: dict[str, str]  # of `bench`, as they are typed
    varied: dict[str, str]  # those that differ between cells


class CellFile(Struct, frozen=True):
    """Content of a finished cell's file."""

    options: dict[str, str]
    result: BenchmarkResult


class Outcome(Struct, frozen=True):
    """A cell with its result, or the reason why there is none."""

    cell: Cell
    result: BenchmarkResult | None
    reason: str | None = None


class SweepCell(Struct, frozen=True, kw_only=True):
    """One measurement in the JSON of a sweep."""

    optimizer: str
    options: Annotated[dict[str, str], Meta(description="What differs between cells.")]
    why: Annotated[str | None, Meta(description="Why there is no result.")]
    arm: Annotated[ArmResult | None, Meta(description="Null where there is no result yet.")]


class SweepResult(Struct, frozen=True, kw_only=True):
    """Schema version 1. Keys may be added, never renamed."""

    schema_version: Literal[1]
    kind: Literal["sweep"]
    complete: Annotated[bool, Meta(description="Every cell has a result.")]
    environment: Annotated[Environment | None, Meta(description="Of the first cell that has a result.")]
    options: Annotated[dict[str, str], Meta(description="What all cells share, as it is typed for bench.")]
    cells: tuple[SweepCell, ...]
