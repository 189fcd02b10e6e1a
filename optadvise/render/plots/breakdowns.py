"""Memory breakdowns as a plot: stacked bars against the memory of the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optadvise.core.records import MemoryAnswer, MemoryEstimate
from optadvise.core.units import GIB, show_bytes, show_count
from optadvise.render import headings
from optadvise.render.memory import list_breakdown
from optadvise.render.plots import figures

# Hatches in addition to colors, for color-blind readers; hatches need light colors.
_HATCHES = ("", "//", "", "", "..", "\\\\", "xx", "", "//")
_COLOURS = (*(colour for colour in figures.COLOURS if colour != "#000000"), "#8894A0")
# The most frequent parts of a breakdown; each has the same style in every plot.
_PARTS = ("weights", "autocast cache", "gradients", "optimizer state", "activations", "logits and loss", "temporaries",
          "fragmentation", "CUDA context")  # fmt: skip
_BAR_HEIGHT = 0.62  # of a row
_VISIBLE = 0.004  # of the longest bar; smaller parts are drawn as one
_OTHERS = "smaller parts"


def draw_breakdowns(answer: MemoryAnswer, breakdowns: Mapping[str, MemoryEstimate], file: Path) -> None:
    """Draw the memory of a run with one optimizer, or with several."""
    rows = sorted(breakdowns.items(), key=lambda item: -(item[1].total or item[1].model_states or 0))
    figure = figures.make_figure(10, 2.6 + 0.36 * len(rows))
    axes = figure.add_subplot()
    styles = _choose_styles(breakdowns)
    for row, (_, memory) in enumerate(rows):
        _draw_bar(axes, row, memory, styles)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    limit = answer.situation.vram_bytes
    if limit is not None:
        name = answer.situation.gpu or "limit"
        axes.axvline(limit / GIB, color="#B00020", linewidth=2.2, linestyle=(0, (6, 2)), zorder=4,
                     label=f"{name}, {show_bytes(limit)}")  # fmt: skip
    axes.set_xlim(0, 1.06 * max(*map(_end_of, breakdowns.values()), limit or 0) / GIB or 1.0)
    figures.set_title(axes, headings.MEMORY, _describe_run(answer))
    figures.label_axes(axes, "GiB at the peak of a step (error bar: interval of the total)", "")
    axes.grid(visible=False, axis="y")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = [*(label for label in handles if label not in styles), *(part for part in styles if part in handles)]
    figures.add_legend(axes, [handles[label] for label in order], order)
    figures.save_figure(figure, file)


def _describe_run(answer: MemoryAnswer) -> str:
    situation = answer.situation
    network = f"{show_count(situation.params or 0)} parameters"
    if situation.shape is not None:
        network = f"{situation.shape.name}, {network}"
    precision = situation.precision if situation.method == "full" else f"{situation.method} in {situation.precision}"
    unknown = "; activations unknown" if answer.memory.total is None else ""
    return f"{network}, {precision}{unknown}"


def _sizes_of(memory: MemoryEstimate) -> dict[str, int]:
    """Return bytes by part: at the peak, or the whole size if the peak is unknown."""
    return {row.part: row.size_bytes or 0 for row in list_breakdown(memory)}


def _choose_styles(breakdowns: Mapping[str, MemoryEstimate]) -> dict[str, dict[str, object]]:
    """Return color and hatch of each visible part in the order of the breakdowns; the other parts become one."""
    longest = max(map(_end_of, breakdowns.values()))
    sizes = [_sizes_of(memory) for memory in breakdowns.values()]
    largest: dict[str, int] = {}
    position: dict[str, int] = {}
    for parts in sizes:
        for place, (part, size) in enumerate(parts.items()):
            largest[part] = max(size, largest.get(part, 0))
            position[part] = max(place, position.get(part, 0))
    visible = sorted((part for part in largest if largest[part] >= _VISIBLE * longest), key=position.__getitem__)
    styles = {part: _style_of(part) for part in visible}
    if any(size for part, size in largest.items() if part not in styles):
        styles[_OTHERS] = {"color": figures.PALE, "hatch": ""}
    return styles


def _style_of(part: str) -> dict[str, object]:
    if part not in _PARTS:
        return {"color": figures.PALE, "hatch": "||"}
    number = _PARTS.index(part)
    return {"color": _COLOURS[number % len(_COLOURS)], "hatch": _HATCHES[number % len(_HATCHES)]}


def _end_of(memory: MemoryEstimate) -> int:
    """Return the bytes at which a bar, or the interval of its total, ends."""
    return max(memory.interval.high if memory.interval is not None else 0, memory.total or memory.model_states or 0)


def _draw_bar(axes: Any, row: int, memory: MemoryEstimate, styles: Mapping[str, Mapping[str, object]]) -> None:
    sizes = _sizes_of(memory)
    sizes[_OTHERS] = sum(size for part, size in sizes.items() if part not in styles)
    labels = {str(label) for label in axes.get_legend_handles_labels()[1]}
    left = 0.0
    for part, style in styles.items():
        width = sizes.get(part, 0) / GIB
        if width:
            axes.barh(row, width, _BAR_HEIGHT, left=left, label="_" if part in labels else part, edgecolor="white",
                      linewidth=0.8, **style, zorder=2)  # fmt: skip
            left += width
    if memory.interval is not None and memory.total is not None:
        total = memory.total / GIB
        ends = [[total - memory.interval.low / GIB], [memory.interval.high / GIB - total]]
        axes.errorbar([total], [row], xerr=ends, color=figures.INK, capsize=4, elinewidth=1.4, zorder=3)
