"""Many measurements: a grid of cells, each written when it is done, so that what is left can be taken up at any time.

A cell that is being measured is locked by its process, whose end, however it comes, gives it free: several sweeps may
work on one folder.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import request
from optadvise.core.errors import InputError, OptadviseError
from optadvise.core.files import write_output

_LEFT_OUT = ("advisor", "names", "recommendation", "control", "require")  # of what `bench` takes
OPTIONS = tuple(name for name in inspect.signature(request.make).parameters if name not in _LEFT_OUT)
_NUMBERS = {"seed": int, "timeout": float}
_FLAGS = ("compile", "optimizer_only")
RETRIED = "error"  # the status of what is measured anew: it may have been an accident, as running out of memory is not


class Cell(Struct, frozen=True):
    """One measurement of a sweep."""

    name: str  # of its file
    optimizer: str
    options: Mapping[str, str]  # all that `bench` is told, by its names
    varied: Mapping[str, str]  # of these what differs between cells


class Outcome(Struct, frozen=True):
    """What became of a cell."""

    cell: Cell
    result: dict[str, Any] | None  # as `bench --json` prints it; None where there is none yet
    why: str | None = None  # there is none


def cells(advisor: CompiledRules, optimizers: Sequence[str], grid: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Return the cells of a grid, found to be measurable as far as can be told beforehand.

    Args:
        advisor: Knows the optimizers.
        optimizers: In any spelling.
        grid: The values of each option, as they are typed.

    Raises:
        InputError: An optimizer or a value is not accepted; the message names the cell.
    """
    found = []
    varying = [name for name, values in grid.items() if len(values) > 1]
    for spelt, *values in itertools.product(optimizers, *grid.values()):
        optimizer = advisor.catalog.find_optimizer(spelt, "optimizers")
        options = dict(zip(grid, values, strict=True))
        varied = {name: options[name] for name in varying}
        name = "_".join([optimizer, *(f"{key}-{value}" for key, value in varied.items())])
        cell = Cell(re.sub(r"[^\w.+-]", "-", name), optimizer, options, varied)
        _request(advisor, cell)
        found.append(cell)
    names = [cell.name for cell in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"sweep: two cells are both {twice}; an optimizer is named twice")
    return found


def _request(advisor: CompiledRules, cell: Cell) -> request.Request:
    told: dict[str, Any] = {}
    for name, value in cell.options.items():
        if name in _FLAGS:
            if value not in ("true", "false"):
                raise InputError(f"{cell.name}: `{name}` is true or false, not {value}")
            told[name] = value == "true"
        elif name in _NUMBERS:
            try:
                told[name] = _NUMBERS[name](value)
            except ValueError as error:
                raise InputError(f"{cell.name}: `{name}` is a number, not {value}") from error
        else:
            told[name] = value
    try:
        return request.make(advisor, [cell.optimizer], control="none", **told)
    except InputError as error:
        raise InputError(f"{cell.name}: {error}") from error


def found(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Return a cell's result, None where there is none of these options or it is to be measured anew.

    Args:
        folder: Of the sweep.
        cell: Which.
    """
    try:
        entry = json.loads(_file(folder, cell).read_text(encoding="utf-8"))
        result: dict[str, Any] = entry["result"]
        same = entry["options"] == dict(cell.options) and result["complete"]
        return result if same and result["arms"][0]["status"] != RETRIED else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _file(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.json"


def measure(advisor: CompiledRules, folder: Path, cell: Cell, progress: Callable[..., None] | None = None) -> Outcome:
    """Measure a cell and write it, unless it is there or another process is at it.

    Args:
        advisor: Makes the measurement.
        folder: Of the sweep.
        cell: Which.
        progress: Is told of every round.
    """
    known = found(folder, cell)
    if known is not None:
        return Outcome(cell, known)
    with _locked(folder / f".{cell.name}.lock") as mine:
        if not mine:
            return Outcome(cell, None, "another process measures it")
        known = found(folder, cell)  # which may have come in between
        if known is not None:
            return Outcome(cell, known)
        try:
            result = request.measure(_request(advisor, cell), progress=progress)
        except OptadviseError as error:
            return Outcome(cell, None, str(error))
        entry = {"options": dict(cell.options), "result": result}
        write_output(_file(folder, cell), json.dumps(entry, indent=1, ensure_ascii=False) + "\n")
        return Outcome(cell, result)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Hold a lock while something is done; the system gives it free when this process ends, however that comes."""
    import fcntl

    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
        with contextlib.suppress(OSError):
            file.unlink()
    finally:
        os.close(handle)


def run(
    advisor: CompiledRules, folder: Path, asked: Sequence[Cell], *,
    told: Callable[[Cell, int], None] = lambda cell, number: None, progress: Callable[..., None] | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Measure what is not there yet, one cell after the other, and yield what became of each.

    Args:
        advisor: Makes the measurements.
        folder: Of the sweep, made where it is not there.
        asked: The cells.
        told: Is told of each cell, and of how many came before.
        progress: Is told of every round.
    """
    for number, cell in enumerate(asked):
        told(cell, number)
        yield measure(advisor, folder, cell, progress)


def made(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the JSON of a sweep.

    Args:
        outcomes: Of every cell.
    """
    first = next((outcome.result for outcome in outcomes if outcome.result is not None), None)
    constant = {name: value for name, value in (outcomes[0].cell.options if outcomes else {}).items()
                if name not in outcomes[0].cell.varied}  # fmt: skip
    return {
        "schema_version": 1,
        "kind": "sweep",
        "complete": all(outcome.result is not None for outcome in outcomes),
        "environment": None if first is None else first["environment"],
        "options": constant,
        "cells": [
            {
                "optimizer": outcome.cell.optimizer, "options": dict(outcome.cell.varied), "why": outcome.why,
                "arm": None if outcome.result is None else outcome.result["arms"][0],
            }
            for outcome in outcomes
        ],
    }  # fmt: skip
