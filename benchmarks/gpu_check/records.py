"""Immutable records of the GPU check: settings, messages of the stage worker, and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from optadvise.benchmark.records import Machine

Device: TypeAlias = Literal["cuda", "cpu"]
Status = Literal["ok", "failed", "incomplete", "skipped"]
Unit = Literal["", "bytes", "bytes/s", "seconds", "share"]


class Settings(Struct, frozen=True):
    """Settings of all stages."""

    device: Device = "cuda"
    quick: bool = False  # fewer measurements


class Check(Struct, frozen=True, kw_only=True):
    """One measurement with its expected value."""

    name: str
    is_right: bool | None = None  # None: nothing is expected, or it could not be measured
    measured: str | float | None = None
    unit: Unit = ""
    low: float | None = None  # ends of the expected range
    high: float | None = None
    expected: str | None = None  # expected text
    figures: dict[str, float | None] = {}  # further measurements, with the unit in the name
    note: str | None = None  # reason why it is wrong or could not be measured


class Item(NamedTuple):
    """Part of a stage that is measured separately, so that a failure does not affect the others."""

    name: str
    measure: Callable[[], list[Check]]


class Stage(Struct, frozen=True):
    """Group of items that one worker process measures."""

    name: str
    items: str  # function that takes the settings and returns the items, as `package.module:function`
    seconds: float  # time limit
    item_seconds: float  # time limit of one item


class StageResult(Struct, frozen=True, kw_only=True):
    """Result of one stage."""

    name: str
    status: Status
    error: str | None = None  # why it failed, is incomplete or was skipped
    seconds: float
    checks: tuple[Check, ...] = ()


class Report(Struct, frozen=True, kw_only=True):
    """JSON of the GPU check."""

    schema_version: Literal[1] = 1
    kind: Literal["gpu-check"] = "gpu-check"
    complete: bool  # False if it was interrupted
    date: str
    machine: Machine
    device: Device
    gpu: str | None  # name; None on the CPU
    torch: str | None  # version
    quick: bool
    stages: tuple[StageResult, ...]


# -- messages ---------------------------------------------------------------------------------------------------------


class StageRequest(Struct, frozen=True):
    """Message to a worker: the items to measure."""

    items: str
    settings: Settings
    finished: tuple[str, ...]  # names of items that an earlier worker measured


class ItemStarted(Struct, frozen=True, tag_field="answer", tag="started"):
    """Begin of an item."""

    name: str


class ItemFinished(Struct, frozen=True, tag_field="answer", tag="finished"):
    """Checks of the item that was started last."""

    checks: tuple[Check, ...]


class StageFinished(Struct, frozen=True, tag_field="answer", tag="end"):
    """End of the stage."""

    skipped: str | None = None  # why the stage does not apply to this machine


StageAnswer: TypeAlias = ItemStarted | ItemFinished | StageFinished


# -- checks -----------------------------------------------------------------------------------------------------------


def check_range(name: str, measured: float | None, low: float, high: float, unit: Unit = "") -> Check:
    """Return the check of a number that must be within a range; undecided if it is None."""
    is_right = None if measured is None else low <= measured <= high
    return Check(name=name, is_right=is_right, measured=measured, unit=unit, low=low, high=high)


def check_text(name: str, measured: str | None, expected: str | None) -> Check:
    """Return the check of a text that must equal another; undecided if one is None."""
    is_right = None if measured is None or expected is None else measured == expected
    return Check(name=name, is_right=is_right, measured=measured, expected=expected)
