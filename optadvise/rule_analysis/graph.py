"""The rules as graphs: the chain of tables, and the guide's flowchart beside what the rules answer at its leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise


class Node(Struct, frozen=True):
    """A box of a graph."""

    id: str
    text: tuple[str, ...]  # its lines
    kind: str  # fact, table, question or answer


class Edge(Struct, frozen=True):
    """An arrow."""

    start: str
    end: str
    text: str = ""


class Graph(Struct, frozen=True):
    """Nodes in the order in which they are read, and the arrows between them."""

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


# What passes from one step of the advisor to the next (`Advisor.recommend`).
_STEPS = (
    ("memory", "concern"), ("concern", "choose_optimizer"), ("choose_optimizer", "card"), ("card", "choose_schedule"),
    ("card", "numbers"), ("choose_schedule", "numbers"), ("numbers", "adjust"), ("adjust", "warn"),
)  # fmt: skip


def chain(advisor: CompiledRules) -> Graph:
    """Return the chain of tables, from what a person says to what is told."""
    tables = advisor.tables
    numbers = [table for table in tables.values() if table.kind == "set"]

    def node(name: str) -> Node:
        table = tables[name]
        return Node(name, (name, f"{len(table.rules)} rows, {table.hit}"), "table")

    counted = ", ".join(f"{table.gives} ({len(table.rules)})" for table in numbers)
    found = [
        Node("facts", ("what is said and assumed",), "fact"), Node("memory", ("memory", "does the state fit?"), "fact"),
        node("concern"), node("choose_optimizer"), Node("card", ("the optimizer's card",), "fact"),
        node("choose_schedule"), Node("numbers", ("numbers", *_folded(counted)), "table"), node("adjust"), node("warn"),
    ]  # fmt: skip
    edges = [Edge("facts", "memory"), Edge("facts", "concern"), *(Edge(a, b) for a, b in _STEPS)]
    return Graph("How an answer is made", tuple(found), tuple(edges))


def _folded(text: str, width: int = 44) -> list[str]:
    lines = [""]
    for part in text.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > width:
            lines.append(part)
        else:
            lines[-1] = joined
    return lines


def flowchart(advisor: CompiledRules) -> Graph:
    """Return the guide's flowchart with what the rules answer at each of its leaves."""
    chart = advisor.catalog.flowchart
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []

    def walk(name: str, said: dict[str, Any], path: str) -> str:
        question = chart.questions[name]
        own = f"{name}{path}"
        nodes[own] = Node(own, (question.ask,), "question")
        for answer in question.answers:
            facts = {**said, **_whole(answer.given)}
            way = f"{path}_{answer.say}"
            if answer.to is not None:
                edges.append(Edge(own, walk(answer.to, facts, way), answer.say))
                continue
            advice = advise(advisor, facts)
            leaf = f"leaf{way}"
            guide = f"guide: {' or '.join(answer.names)}"
            nodes[leaf] = Node(leaf, (f"{advice.optimizer.id}, {advice.schedule.id}", guide), "answer")
            edges.append(Edge(own, leaf, answer.say))
        return own

    walk(chart.start, {}, "")
    return Graph("The guide's flowchart, and what the rules answer", tuple(nodes.values()), tuple(edges))


def leaves(advisor: CompiledRules) -> list[tuple[dict[str, Any], list[str]]]:
    """Return for each leaf of the guide's flowchart the facts that lead there and what the guide names."""
    chart = advisor.catalog.flowchart
    found: list[tuple[dict[str, Any], list[str]]] = []

    def walk(name: str, said: dict[str, Any]) -> None:
        for answer in chart.questions[name].answers:
            facts = {**said, **_whole(answer.given)}
            if answer.to is not None:
                walk(answer.to, facts)
            else:
                found.append((facts, list(answer.names)))

    walk(chart.start, {})
    return found


def _whole(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: int(value) if isinstance(value, float) else value for name, value in given.items()}


_SHAPES = {"fact": ("([", "])"), "table": ("[", "]"), "question": ("{", "}"), "answer": ("[[", "]]")}


def mermaid(graph: Graph) -> str:
    """Return a graph as Mermaid text.

    Args:
        graph: What to draw.
    """
    lines = ["graph TD"]
    for node in graph.nodes:
        left, right = _SHAPES[node.kind]
        text = "<br/>".join(_quoted(line) for line in node.text)
        lines.append(f'    {node.id}{left}"{text}"{right}')
    for edge in graph.edges:
        label = f"|{_quoted(edge.text)}|" if edge.text else ""
        lines.append(f"    {edge.start} -->{label} {edge.end}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
