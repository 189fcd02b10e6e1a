"""Graphs of the rules as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from optadvise.render.plots import figures
from optadvise.rule_analysis.graph import Edge, Graph

_FILL = {"fact": "#eef2f7", "table": "#dcecff", "question": "#fff4d6", "answer": "#dff5e1"}
_LINE, _TEXT = "#5b6b7f", "#33404f"
_DETOUR = 0.75  # bend of an arrow around other rows
Positions: TypeAlias = "dict[str, tuple[float, float]]"  # column and row of each node


def draw_graphs(graphs: Sequence[Graph], file: Path) -> None:
    """Draw graphs below each other into an svg, png or pdf file.

    Raises:
        InputError: The file has another ending or cannot be written.
        CannotRunHereError: matplotlib is not installed.
    """
    figures.check_picture(file, "--plot")
    layouts = [_layout(graph) for graph in graphs]
    heights = [1 + max(row for _, row in layout.values()) for layout in layouts]
    width = max(1 + max(column for column, _ in layout.values()) for layout in layouts)
    figure = figures.make_figure(max(9.0, 2.5 * width), 1.35 * sum(heights) + 0.6 * len(graphs))
    axes = figure.subplots(len(graphs), 1, squeeze=False, height_ratios=heights)
    for number, (graph, layout) in enumerate(zip(graphs, layouts, strict=True)):
        _draw(axes[number][0], graph, layout)
    figures.save_figure(figure, file)


def _layout(graph: Graph) -> Positions:
    """Return a position of each node: its row is the longest path to it, its column the middle of its children."""
    rows: dict[str, int] = {node.id: 0 for node in graph.nodes}
    for _ in graph.nodes:
        for edge in graph.edges:
            rows[edge.end] = max(rows[edge.end], rows[edge.start] + 1)
    children: dict[str, list[str]] = {}
    assigned: set[str] = set()
    for edge in graph.edges:
        if edge.end not in assigned and rows[edge.end] == rows[edge.start] + 1:
            assigned.add(edge.end)
            children.setdefault(edge.start, []).append(edge.end)
    columns: dict[str, float] = {}

    def assign_columns(name: str, free: float) -> float:
        """Assign columns from `free` on to a node and all below it; return the next free column."""
        below = children.get(name, [])
        next_free = free if below else free + 1
        for child in below:
            next_free = assign_columns(child, next_free)
        columns[name] = sum(columns[child] for child in below) / len(below) if below else free
        return next_free

    free = 0.0
    for node in graph.nodes:
        if node.id not in assigned:
            free = assign_columns(node.id, free)
    return {name: (columns[name], float(row)) for name, row in rows.items()}


def _draw(axes: Any, graph: Graph, positions: Positions) -> None:
    axes.set_title(graph.title, loc="left", fontsize=12, fontweight="bold")
    axes.set_axis_off()
    boxes = {}
    for node in graph.nodes:
        x, y = positions[node.id]
        boxes[node.id] = axes.annotate(
            "\n".join(node.text), (x, -y), ha="center", va="center", fontsize=9, zorder=3,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": _FILL[node.kind], "edgecolor": _LINE},
        ).get_bbox_patch()  # fmt: skip
    for edge in graph.edges:
        _draw_arrow(axes, edge, positions, boxes)
    xs, ys = zip(*positions.values(), strict=True)
    axes.set_xlim(min(xs) - 0.6, max(xs) + 0.6)
    axes.set_ylim(-max(ys) - 0.5, 0.5)


def _draw_arrow(axes: Any, edge: Edge, positions: Positions, boxes: Mapping[str, object]) -> None:
    (x0, y0), (x1, y1) = positions[edge.start], positions[edge.end]
    bend = 0.0 if y1 - y0 == 1 else _DETOUR
    arrow = {"arrowstyle": "-|>", "color": _LINE, "connectionstyle": f"arc3,rad={bend}", "shrinkA": 2, "shrinkB": 2,
             "patchA": boxes[edge.start], "patchB": boxes[edge.end]}  # fmt: skip
    axes.annotate("", (x1, -y1), (x0, -y0), arrowprops=arrow)
    if edge.text:
        axes.text((x0 + x1) / 2, -(y0 + y1) / 2, edge.text, fontsize=8, ha="center", va="center", color=_TEXT,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
