"""Graphs as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optadvise.render.plots import figures
from optadvise.rule_analysis.graph import Graph

_FILL = {"fact": "#eef2f7", "table": "#dcecff", "question": "#fff4d6", "answer": "#dff5e1"}


def picture(graphs: Sequence[Graph], file: Path) -> None:
    """Draw graphs one below another into a file.

    Args:
        graphs: What to draw.
        file: Its ending says the format: svg, png or pdf.

    Raises:
        InputError: The ending is another, or the file cannot be written.
        CannotRunHereError: matplotlib is not installed.
    """
    figures.check(file, "--out")
    placed = [_placed(graph) for graph in graphs]
    heights = [1 + max(y for _, y in spots.values()) for spots in placed]
    width = max(1 + max(x for x, _ in spots.values()) for spots in placed)
    figure = figures.figure(max(9.0, 2.5 * width), 1.35 * sum(heights) + 0.6 * len(graphs))
    axes = figure.subplots(len(graphs), 1, squeeze=False, height_ratios=heights)
    for row, graph, spots in zip(axes, graphs, placed, strict=True):
        _draw(row[0], graph, spots)
    figures.save(figure, file)


def _placed(graph: Graph) -> dict[str, tuple[float, float]]:
    """Return a place for each node: its row is the longest way to it, its column follows from what it leads to."""
    rows: dict[str, int] = {node.id: 0 for node in graph.nodes}
    for _ in graph.nodes:
        for edge in graph.edges:
            rows[edge.end] = max(rows[edge.end], rows[edge.start] + 1)
    children: dict[str, list[str]] = {}
    taken: set[str] = set()
    for edge in graph.edges:
        if edge.end not in taken and rows[edge.end] == rows[edge.start] + 1:
            taken.add(edge.end)
            children.setdefault(edge.start, []).append(edge.end)
    columns: dict[str, float] = {}
    free = 0.0

    def put(name: str) -> float:
        nonlocal free
        below = [put(child) for child in children.get(name, [])]
        if not below:
            columns[name] = free
            free += 1
        else:
            columns[name] = sum(below) / len(below)
        return columns[name]

    for node in graph.nodes:
        if node.id not in taken:
            put(node.id)
    return {name: (columns[name], float(rows[name])) for name in rows}


def _draw(axes: Any, graph: Graph, spots: dict[str, tuple[float, float]]) -> None:
    axes.set_title(graph.title, loc="left", fontsize=12, fontweight="bold")
    axes.set_axis_off()
    boxes = {}
    for node in graph.nodes:
        x, y = spots[node.id]
        boxes[node.id] = axes.annotate(
            "\n".join(node.text), (x, -y), ha="center", va="center", fontsize=9, zorder=3,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": _FILL[node.kind], "edgecolor": "#5b6b7f"},
        )  # fmt: skip
    for edge in graph.edges:
        (x0, y0), (x1, y1) = spots[edge.start], spots[edge.end]
        bend = 0.0 if y1 - y0 == 1 else 0.75  # around the rows between
        axes.annotate(
            "", (x1, -y1), (x0, -y0),
            arrowprops={"arrowstyle": "-|>", "color": "#5b6b7f", "connectionstyle": f"arc3,rad={bend}", "shrinkA": 2,
                        "shrinkB": 2, "patchA": boxes[edge.start].get_bbox_patch(),
                        "patchB": boxes[edge.end].get_bbox_patch()},
        )  # fmt: skip
        if edge.text:
            axes.text((x0 + x1) / 2, -(y0 + y1) / 2, edge.text, fontsize=8, ha="center", va="center",
                      color="#33404f", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    xs, ys = zip(*spots.values(), strict=True)
    axes.set_xlim(min(xs) - 0.6, max(xs) + 0.6)
    axes.set_ylim(-max(ys) - 0.5, 0.5)
