"""Cells, boxes and points in words, and as command lines that lead there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import locate
from optadvise.core.cards import UNKNOWN
from optadvise.core.errors import InputError
from optadvise.core.records import Situation
from optadvise.rulebase.regions import Box, Point, cells_of
from optadvise.rulebase.tables import Axis

_SIZES = (10**6, 10**7, 10**8, 5 * 10**8, 2 * 10**9, 7 * 10**9, 7 * 10**10, 10**12)  # parameters to try
_OF_GPUS = ("vendor", "bf16")  # what a GPU's name says
_ROOMS = tuple(2**30 * gib for gib in (24, 80, 8, 2, 640))  # bytes of a GPU to try


def told(name: str, mask: int, axis: Axis) -> str:
    """Say which values of a fact cells are.

    Args:
        name: The fact.
        mask: The cells.
        axis: The fact's axis.

    Returns:
        Words such as `model cnn or vit`, `batch_size > 8192`, `params unknown`.
    """
    mask &= axis.every
    if axis.words is not None:
        words = [axis.words[cell] if cell < axis.unknown else UNKNOWN for cell in cells_of(mask)]
        others = [axis.words[cell] if cell < axis.unknown else UNKNOWN for cell in cells_of(axis.every & ~mask)]
        return f"{name} {' or '.join(words)}" if len(words) <= len(others) + 1 else f"{name} not {' or '.join(others)}"
    parts = [_span(first, last, axis) for first, last in _runs(mask & ~(1 << axis.unknown), axis)]
    if mask >> axis.unknown & 1:
        parts.append(UNKNOWN)
    return f"{name} {' or '.join(parts)}"


def _runs(mask: int, axis: Axis) -> Iterator[tuple[int, int]]:
    """Yield the first and last cell of each run; cells that hold no count break none."""
    run: list[int] = []
    for cell in cells_of(axis.every & ~(1 << axis.unknown)):
        if mask >> cell & 1:
            run.append(cell)
        elif run:
            yield run[0], run[-1]
            run = []
    if run:
        yield run[0], run[-1]


def _span(first: int, last: int, axis: Axis) -> str:
    (low, at_low), (at_high, high) = axis.bounds(first), axis.bounds(last)
    from_ = "" if low == float("-inf") else f"{'>=' if low == at_low else '>'} {low:,.0f}"
    to = "" if high == float("inf") else f"{'<=' if high == at_high else '<'} {high:,.0f}"
    if low == high:
        return f"{low:,.0f}"
    return f"{from_} and {to}" if from_ and to else from_ or to or "known"


def region(box: Box, axes: Mapping[str, Axis]) -> str:
    """Say what a box accepts, or `any situation`."""
    parts = [told(name, mask, axes[name]) for name, mask in sorted(box.items()) if axes[name].every & ~mask]
    return ", ".join(parts) or "any situation"


def place(point: Point, axes: Mapping[str, Axis]) -> str:
    """Say where a point is."""
    return region({name: 1 << cell for name, cell in point.items()}, axes)


def answers(advisor: CompiledRules, point: Point) -> dict[str, Any] | None:
    """Return what a person would have to say to be at a point; None where nothing that was tried leads there.

    Args:
        advisor: The rules.
        point: Cells of facts, derived ones included.
    """
    axes, facts = advisor.axes, advisor.catalog.facts
    said: dict[str, Any] = {}
    for name in facts:  # in the order in which people would say them
        if name not in point:
            continue
        axis, cell = axes[name], point[name]
        if cell == axis.unknown or (facts[name].flag is None and facts[name].derived != "gpu"):
            continue
        value = axis.inside(cell) if axis.words is None else axis.words[cell]
        said[name] = int(value) if axis.words is None else value == "true" if facts[name].type == "flag" else value
    if point.get("asked_for") == axes["asked_for"].cell(True):
        said["optimizer"] = (axes["optimizer"].words or ())[point["optimizer"]]
    said.pop("vram_bytes", None)  # any will do, or one that presses as it should
    gpus = _named(advisor, said)
    for more in _sizes(point, axes, said, gpus):
        full = {**said, **more}
        try:
            situation = complete_situation(advisor, full)
        except InputError:
            continue
        if _is_at(advisor, situation, point):
            return _shortest(advisor, full, point)
    return None


def _named(advisor: CompiledRules, said: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Take out what only a GPU's name says; return what the names of such GPUs say, None where none has to be named."""
    usual = Situation()
    own = {name: said.pop(name) for name in ("vendor", "bf16") if name in said}
    if all(value == getattr(usual, name) for name, value in own.items()):
        return None
    return [
        {"gpu": gpu.name, "vram_bytes": gpu.memory_bytes, "vendor": gpu.vendor, "bf16": gpu.bf16}
        for gpu in advisor.catalog.gpus
        if own.get("vendor", gpu.vendor) == gpu.vendor and own.get("bf16", gpu.bf16) == gpu.bf16
    ]


def _sizes(
    point: Point, axes: Mapping[str, Axis], said: Mapping[str, Any], gpus: list[dict[str, Any]] | None
) -> Iterator[dict[str, Any]]:
    """Yield sizes and limits to try, where the point asks for some kind of memory pressure or for a GPU."""
    memory = point.get("memory")
    word = None if memory is None else (axes["memory"].words or ())[memory]
    rooms: list[dict[str, Any]] = gpus if gpus is not None else [{"vram_bytes": room} for room in _ROOMS]
    limited = point.get("vram_bytes", axes["vram_bytes"].unknown) != axes["vram_bytes"].unknown
    if gpus is None and (word == "unlimited" or (word is None and not limited)):
        yield {}
        return
    if word in (None, "limited"):
        yield from rooms
        return
    sizes = [said["params"]] if "params" in said else _SIZES
    sizes = [n for n in sizes if "params" not in point or axes["params"].cell(n) == point["params"]]
    for params, room in product(sizes, rooms):
        yield {"params": params, **room}
    if gpus is None:  # just below and above where the answer changes
        for params, room_gib in product(sizes, range(1, 400, 3)):
            yield {"params": params, "vram_bytes": room_gib * 2**30}


def _is_at(advisor: CompiledRules, situation: Situation, point: Point) -> bool:
    cells, axes = locate(advisor, situation), advisor.axes
    filled = {name for name, cell in point.items() if cell == axes[name].unknown and name in situation.assumed}
    read = cells.keys() - filled - {"optimizer"}  # what the arithmetic fills in was not known when tables were read
    return all(cells[name] == cell for name, cell in point.items() if name in read)


def _shortest(advisor: CompiledRules, said: dict[str, Any], point: Point) -> dict[str, Any]:
    """Leave out what would be assumed anyway."""
    together = {"gpu", "vram_bytes", *_OF_GPUS} if "gpu" in said else set()
    for name in [name for name in said if name not in together and name != "optimizer"]:
        fewer = {key: value for key, value in said.items() if key != name}
        try:
            situation = complete_situation(advisor, fewer)
        except InputError:
            continue
        if _is_at(advisor, situation, point):
            said = fewer
    return said


def command(advisor: CompiledRules, said: Mapping[str, Any], layers: tuple[str, ...] = ()) -> str:
    """Return the command line that says these answers.

    Args:
        advisor: The rules.
        said: Facts by name.
        layers: Folders of further rules that have to be named.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> command(CompiledRules(load()), {"model": "cnn", "vram_bytes": 24 * 2**30, "sparse_gradients": True})
        'optadvise recommend --model cnn --vram 24GB --sparse-gradients'
    """
    words = ["optadvise", "recommend"]
    for name, value in said.items():
        if name == "gpu":
            words += ["--gpu", value]
        elif name == "vram_bytes":
            words += [] if "gpu" in said else ["--vram", size(value)]
        elif value is True and name not in _OF_GPUS:
            words.append(advisor.catalog.facts[name].flag or f"--{name}")
        elif value is not False and value is not None and name not in _OF_GPUS:
            words += [(advisor.catalog.facts[name].flag or f"--{name}"), str(value)]
    for folder in layers:
        words += ["--rules", folder]
    return shlex.join(words)


def size(count: int) -> str:
    """Write bytes of a GPU as `--vram` reads them."""
    for unit, factor in (("GB", 2**30), ("MB", 2**20)):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return f"{count}B"
