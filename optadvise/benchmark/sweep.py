"""Sweeps: a grid of benchmarks (cells), each saved when finished, so that a stopped sweep can be resumed.

A process locks the cell that it measures; the lock ends with the process. Several processes may share one folder.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark.options import ALIASES, BenchOptions, option_types
from optadvise.benchmark.records import BenchmarkResult
from optadvise.benchmark.request import Request, measure, prepare_request
from optadvise.benchmark.sweep_file import find_duplicate
from optadvise.benchmark.sweep_records import Cell, CellFile, Outcome, SweepCell, SweepResult
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, OptadviseError
from optadvise.core.files import check_writable, write_output
from optadvise.core.foreign import ForeignFileError, decode_record, read_bounded, set_aside
from optadvise.core.json_text import encode_json
from optadvise.rulebase.imports import OPTION, ImportPolicy, suggest_option

_NOT_SWEPT = ("control", "require")  # options of `bench`
OPTIONS = (*(name for name in BenchOptions.__struct_fields__ if name not in _NOT_SWEPT), *ALIASES)
_MAX_NAME_BYTES = 200  # of file names without ending; file systems accept 255


def make_cells(rules: CompiledRules, optimizers: Sequence[str], grid: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Return the cells of a grid, with all options checked.

    Args:
        optimizers: Optimizers in any spelling.
        grid: Values of each option, as typed on the command line.

    Raises:
        InputError: An optimizer or a value is invalid; the message starts with the cell's name.
    """
    cells = []
    varying = [name for name, values in grid.items() if len(values) > 1]
    for spelling, *values in itertools.product(optimizers, *grid.values()):
        optimizer = rules.catalog.find_optimizer(spelling, "optimizers")
        options = dict(zip(grid, values, strict=True))
        varied = {name: options[name] for name in varying}
        cell = Cell(name=_name_cell(optimizer, varied), optimizer=optimizer, options=options, varied=varied)
        _prepare(rules, cell, is_measured=False)  # another machine may measure it
        cells.append(cell)
    duplicate = find_duplicate([cell.name for cell in cells])
    if duplicate is not None:
        raise InputError(
            f"optimizers: {duplicate} is listed twice; remove one", code=ErrorCode.DUPLICATE_ENTRY, value=duplicate
        )
    return cells


def _name_cell(optimizer: str, varied: Mapping[str, str]) -> str:
    """Return the stem of a cell's file names; a long one is shortened, with a digest that keeps it unique."""
    name = "_".join([optimizer, *(f"{key}-{value}" for key, value in varied.items())])
    stem = re.sub(r"[^\w.+-]", "-", name)
    if len(stem.encode()) <= _MAX_NAME_BYTES:
        return stem
    return f"{stem[:40]}-{blake2b(name.encode(), digest_size=8).hexdigest()}"


def _prepare(rules: CompiledRules, cell: Cell, *, is_measured: bool) -> Request:
    options = msgspec.convert({"control": "none", **_parse_options(cell)}, BenchOptions)
    try:
        _check_workload(rules.catalog.imports, options.workload)
        return prepare_request(rules, [cell.optimizer], options, is_measured=is_measured)
    except InputError as error:
        raise InputError(f"{cell.name}: {error}", code=error.code, option=error.option, value=error.value) from error


def _check_workload(imports: ImportPolicy, workload: str) -> None:
    """Check that the user allows the module of a workload, which a file names.

    Raises:
        InputError: The user does not allow it.
    """
    module, colon, _ = workload.partition(":")
    if colon and not imports.allows_module(module):
        message = f"workload {workload!r} is not imported: a sweep file names it; {suggest_option(module)}"
        raise InputError(message, code=ErrorCode.IMPORT_NOT_ALLOWED, option=OPTION, value=workload)


def _parse_options(cell: Cell) -> dict[str, str | int | float | bool]:
    """Return a cell's options by field of `BenchOptions`, with flags and numbers parsed."""
    types = option_types()
    values: dict[str, str | int | float | bool] = {}
    for key, value in cell.options.items():
        name = ALIASES.get(key, key)
        if name in values:
            raise InputError(
                f"{cell.name}: {key} and {name} are the same option; remove one", code=ErrorCode.DUPLICATE_ENTRY
            )
        if types[name] is bool:
            if value not in ("true", "false"):
                raise _reject_value(cell, name, value, "true or false", ErrorCode.INVALID_VALUE)
            values[name] = value == "true"
            continue
        try:
            values[name] = types[name](value)
        except ValueError as error:
            raise _reject_value(cell, name, value, "a number", ErrorCode.INVALID_NUMBER) from error
    return values


def _reject_value(cell: Cell, name: str, value: str, expected: str, code: ErrorCode) -> InputError:
    """Return the error for an option's value of the wrong type."""
    message = f"{cell.name}: {name} must be {expected}, not {value!r}"
    return InputError(message, code=code, option=f"--{name.replace('_', '-')}", value=value)


def read_cell(folder: Path, cell: Cell) -> BenchmarkResult | None:
    """Return a cell's result; None if the cell must be measured (no result with these options, or an error)."""
    path = folder / f"{cell.name}.json"
    try:
        content = read_bounded(path, allow_pipe=False)
    except ForeignFileError:
        return None
    try:
        file = decode_record(content, CellFile)
    except ForeignFileError as error:
        set_aside(path, error)
        return None
    is_current = file.options == cell.options and file.result.complete
    return file.result if is_current and not _is_retried(file.result) else None


def _is_retried(result: BenchmarkResult) -> bool:
    """Return whether a cell is measured again: an error may be transient, out of memory is not."""
    return result.arms[0].status == "error"


def measure_cell(rules: CompiledRules, folder: Path, cell: Cell) -> Outcome:
    """Measure a cell and save it, unless it has a result or another process measures it."""
    result = read_cell(folder, cell)
    lock = folder / f".{cell.name}.lock"
    if result is not None and not lock.exists():  # a process killed after it saved the result leaves the lock's file
        return Outcome(cell, result)
    with _lock(lock) as failure:
        if failure is not None:
            return Outcome(cell, result, reason=failure if result is None else None)
        result = read_cell(folder, cell)  # another process may have saved it before the lock was acquired
        if result is None:
            file = folder / f"{cell.name}.json"
            check_writable(file, "--folder")
            try:
                result = measure(_prepare(rules, cell, is_measured=True))
            except OptadviseError as error:
                return Outcome(cell=cell, result=None, reason=str(error), error=error)
            write_output(file, encode_json(CellFile(cell.options, result)), "--folder")
        if not _is_retried(result):  # otherwise two processes could lock the old and a new file, and both measure
            with contextlib.suppress(OSError):
                lock.unlink()
        return Outcome(cell, result)


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[str | None]:
    """Yield None while holding a lock, or why another process or user prevents it.

    Raises:
        InputError: The file system does not support locks.
    """
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield "another process is measuring this cell"
        return
    except PermissionError:
        yield f"{file.name} belongs to another user; if that user's sweep has ended, delete it"
        return
    except (OSError, NotImplementedError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not supported"
        message = f"--folder {str(file.parent)!r}: files cannot be locked there ({problem}); use a local folder"
        code = ErrorCode.FILE_NOT_WRITABLE
        raise InputError(message, code=code, option="--folder", value=file.parent) from error
    try:
        yield None
    finally:
        lock.release()


def run_sweep(
    rules: CompiledRules, folder: Path, cells: Sequence[Cell], announce: Callable[[Cell, int], None]
) -> Iterator[Outcome]:
    """Measure the cells without a result one by one, and yield the outcome of every cell.

    Args:
        announce: Called with each cell and its index before it is measured.
    """
    for number, cell in enumerate(cells):
        announce(cell, number)
        yield measure_cell(rules, folder, cell)


def refresh_outcomes(folder: Path, outcomes: Iterable[Outcome], seconds: float = math.inf) -> Iterator[Outcome]:
    """Yield outcomes, with the results that other processes have written in the meantime.

    Args:
        seconds: Time after which no more files are read.
    """
    end = time.monotonic() + seconds
    for outcome in outcomes:
        result = outcome.result
        if result is None and time.monotonic() < end:
            result = read_cell(folder, outcome.cell)
        yield outcome if result is None else Outcome(outcome.cell, result)


def check_cell_files(folder: Path, cells: Iterable[Cell]) -> None:
    """Check that nothing but a file is in the place of a cell's file, before anything is measured.

    Raises:
        InputError: A folder, pipe or device is there, or a link to a file that cannot be written.
    """
    for cell in cells:
        path = folder / f"{cell.name}.json"
        if path.is_symlink():
            check_writable(path, "--folder")
        if path.exists() and not path.is_file():
            message = f"--folder {str(folder)!r}: {path.name} is not a regular file; remove it or use another folder"
            raise InputError(message, code=ErrorCode.FILE_NOT_WRITABLE, option="--folder", value=path)


def make_sweep_result(outcomes: Sequence[Outcome]) -> SweepResult:
    """Return the result of a sweep."""
    first = next((outcome.result for outcome in outcomes if outcome.result is not None), None)
    options = outcomes[0].cell.options if outcomes else {}
    return SweepResult(
        schema_version=1,
        kind="sweep",
        complete=all(outcome.result is not None for outcome in outcomes),
        environment=None if first is None else first.environment,
        options={name: value for name, value in options.items() if name not in outcomes[0].cell.varied},
        cells=tuple(
            SweepCell(
                optimizer=outcome.cell.optimizer,
                options=outcome.cell.varied,
                why=outcome.reason,
                arm=None if outcome.result is None else outcome.result.arms[0],
                warnings=() if outcome.result is None else outcome.result.warnings,
            )
            for outcome in outcomes
        ),
    )
