"""A run's memory as a picture: what it is made of, stacked, against what the GPU has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optadvise.core.records import MemoryAnswer, MemoryEstimate
from optadvise.core.units import GIB, show_bytes, show_count
from optadvise.render.plots import figures

_HATCHES = ("", "//", "", "", "..", "\\\\", "xx", "", "//")  # beside colours, for those who do not see them
_COLOURS = (*(colour for colour in figures.COLOURS if colour != "#000000"), "#8894A0")  # hatches need some light
# What ledgers are made of most often; a part keeps its look from picture to picture.
_PARTS = (
    "weights",
    "half copies",
    "gradients",
    "optimizer state",
    "activations",
    "logits and loss",
    "temporaries",
    "fragmentation",
    "device context",
)
_NARROW = 0.62  # of a row
_TINY = 0.004  # of the longest bar; what is smaller is no area that one sees
_REST = "smaller parts"


def estimate(answer: MemoryAnswer, ledgers: Mapping[str, MemoryEstimate], file: Path) -> None:
    """Draw the memory of a run with one optimizer, or with several.

    Args:
        answer: The run.
        ledgers: What is drawn, by the optimizers' ids.
        file: Where to.
    """
    rows = sorted(ledgers.items(), key=lambda item: -(item[1].total or item[1].known or 0))
    made = figures.figure(10, 2.6 + 0.36 * len(rows))
    axes = made.add_subplot()
    parts = _parts(ledgers)
    for number, (_, memory) in enumerate(rows):
        _bar(axes, number, memory, parts)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    most = max(_end(memory) for memory in ledgers.values())
    limit = answer.situation.vram_bytes
    if limit is not None:
        name = answer.situation.gpu or "the limit"
        axes.axvline(limit / GIB, color="#B00020", linewidth=2.2, linestyle=(0, (6, 2)), zorder=4,
                     label=f"{name}, {show_bytes(limit)}")  # fmt: skip
    axes.set_xlim(0, 1.06 * max(most, limit or 0) / GIB or 1.0)
    figures.title(axes, "Memory of one GPU", _about(answer))
    figures.plain_axes(axes, "GiB at the highest moment of a step; the line is the interval of the total", "")
    axes.grid(visible=False, axis="y")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = sorted(handles, key=lambda label: list(parts).index(label) if label in parts else -1)
    axes.legend(
        [handles[label] for label in order],
        order,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=10,
    )
    figures.save(made, file)


def _about(answer: MemoryAnswer) -> str:
    situation = answer.situation
    size = f"{show_count(situation.params or 0)} parameters"
    what = f"{situation.shape.name}, {size}" if situation.shape is not None else size
    how = situation.precision if situation.method == "full" else f"{situation.method} in {situation.precision}"
    unknown = "; activations are not known without the shape" if answer.memory.total is None else ""
    return f"{what}, {how}{unknown}"


def _parts(ledgers: Mapping[str, MemoryEstimate]) -> dict[str, dict[str, Any]]:
    """Return a colour and a hatch for each part that can be seen, in the order of the ledgers; the rest is one part."""
    most = max(_end(memory) for memory in ledgers.values())
    names = dict.fromkeys(line.part for memory in ledgers.values() for line in memory.ledger)
    largest = {name: max(_size(memory, name) for memory in ledgers.values()) for name in names}
    order = {name: max(_place(memory, name) for memory in ledgers.values()) for name in names}
    seen = sorted((name for name in names if largest[name] >= _TINY * most), key=order.__getitem__)
    found = {name: _style(name) for name in seen}
    if any(size for name, size in largest.items() if name not in seen):
        found[_REST] = {"color": figures.PALE, "hatch": ""}
    return found


def _style(part: str) -> dict[str, Any]:
    """Return a part's colour and hatch, the same in every picture."""
    if part not in _PARTS:
        return {"color": figures.PALE, "hatch": "||"}
    number = _PARTS.index(part)
    return {"color": _COLOURS[number % len(_COLOURS)], "hatch": _HATCHES[number % len(_HATCHES)]}


def _place(memory: MemoryEstimate, part: str) -> int:
    return next((n for n, line in enumerate(memory.ledger) if line.part == part), -1)


def _size(memory: MemoryEstimate, part: str) -> int:
    """Return the bytes of a line: at the highest moment, or all of it where that moment is not known."""
    line = next((line for line in memory.ledger if line.part == part), None)
    if line is None:
        return 0
    return (line.bytes if memory.total is None else line.at_peak) or 0


def _end(memory: MemoryEstimate) -> int:
    return max(memory.interval.high if memory.interval is not None else 0, memory.total or memory.known or 0)


def _bar(axes: Any, row: int, memory: MemoryEstimate, parts: Mapping[str, Mapping[str, Any]]) -> None:
    left = 0.0
    for part, style in parts.items():
        size = _size(memory, part)
        if part == _REST:
            size = sum(_size(memory, line.part) for line in memory.ledger if line.part not in parts)
        if size:
            axes.barh(row, size / GIB, _NARROW, left=left, label=part if part not in _told(axes) else "_",
                      edgecolor="white", linewidth=0.8, **style, zorder=2)  # fmt: skip
            left += size / GIB
    if memory.interval is not None and memory.total is not None:
        middle = memory.total / GIB
        reach = [[middle - memory.interval.low / GIB], [memory.interval.high / GIB - middle]]
        axes.errorbar([middle], [row], xerr=reach, color=figures.INK, capsize=4, elinewidth=1.4, zorder=3)


def _told(axes: Any) -> list[str]:
    return [str(label) for label in axes.get_legend_handles_labels()[1]]
