"""Graphs of the rules: the chain of tables, and the guide's flowchart with the recommendation at each leaf."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.core.cards import FactValue
from optadvise.core.records import FactValues
from optadvise.rulebase.records import FlowchartAnswer
from optadvise.rulebase.tables import Table


class Node(Struct, frozen=True):
    """Node of a graph."""

    id: str
    text: tuple[str, ...]  # lines
    kind: str  # fact, table, question or answer


class Edge(Struct, frozen=True):
    """Directed edge of a graph."""

    start: str
    end: str
    text: str = ""


class Graph(Struct, frozen=True):
    """Graph with its nodes in reading order."""

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


# Data flow between the steps of `advice.recommend`.
_STEPS = (
    ("memory", "concern"), ("concern", "choose_optimizer"), ("choose_optimizer", "card"), ("card", "choose_schedule"),
    ("card", "numbers"), ("choose_schedule", "numbers"), ("numbers", "adjust"), ("adjust", "warn"),
)  # fmt: skip
_LINE_LENGTH = 44


def draw_tables(rules: CompiledRules) -> Graph:
    """Return the graph of the tables, from the inputs to the warnings."""
    numbers = [table for table in rules.tables.values() if table.kind == "set"]
    counts = ", ".join(f"{table.output} ({len(table.rules)})" for table in numbers)
    nodes = (
        Node(id="facts", text=("inputs and defaults",), kind="fact"),
        Node(id="memory", text=("memory pressure", "does the state fit?"), kind="fact"),
        _draw_table(rules, rules.tables["concern"]),
        _draw_table(rules, rules.tables["choose_optimizer"]),
        Node(id="card", text=("optimizer card",), kind="fact"),
        _draw_table(rules, rules.tables["choose_schedule"]),
        Node(id="numbers", text=("hyperparameters", *_wrap(counts)), kind="table"),
        _draw_table(rules, rules.tables["adjust"]),
        _draw_table(rules, rules.tables["warn"]),
    )
    steps = (("facts", "memory"), ("facts", "concern"), *_STEPS)
    edges = tuple(Edge(start=start, end=end) for start, end in steps)
    return Graph(title="Decision tables", nodes=nodes, edges=edges)


def _draw_table(rules: CompiledRules, table: Table) -> Node:
    fact = rules.catalog.facts.get(table.output or "")
    title = table.id if fact is None else f"{fact.title} (table {table.id})"
    return Node(id=table.id, text=(title, f"{len(table.rules)} rules, {table.hit_policy}"), kind="table")


def _wrap(text: str) -> list[str]:
    """Wrap a comma-separated list into lines."""
    lines = [""]
    for part in text.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > _LINE_LENGTH:
            lines.append(part)
        else:
            lines[-1] = joined
    return lines


def draw_flowchart(rules: CompiledRules) -> Graph:
    """Return the graph of the guide's flowchart, with the recommendation at each leaf."""
    parts = list(_walk_question(rules, rules.catalog.flowchart.start, {}, ""))
    nodes = tuple(part for part in parts if isinstance(part, Node))
    edges = tuple(part for part in parts if isinstance(part, Edge))
    return Graph(title="The guide's flowchart with the recommendations", nodes=nodes, edges=edges)


def _walk_question(rules: CompiledRules, name: str, inputs: FactValues, path: str) -> Iterator[Node | Edge]:
    """Yield the nodes and edges of a question and everything below it.

    Args:
        inputs: Inputs stated by the preceding answers.
        path: Labels of the preceding answers, for the ids of nodes.
    """
    question = rules.catalog.flowchart.questions[name]
    start = f"{name}{path}"
    yield Node(id=start, text=(question.ask,), kind="question")
    for answer in question.answers:
        stated, below = {**inputs, **_read_inputs(answer)}, f"{path}_{answer.label}"
        if answer.next is not None:
            yield from _walk_question(rules, answer.next, stated, below)
            yield Edge(start=start, end=f"{answer.next}{below}", text=answer.label)
        else:
            advice, leaf = advise(rules, stated), f"leaf{below}"
            lines = (f"{advice.optimizer.id}, {advice.schedule.id}", f"guide: {' or '.join(answer.recommends)}")
            yield Node(id=leaf, text=lines, kind="answer")
            yield Edge(start=start, end=leaf, text=answer.label)


def _read_inputs(answer: FlowchartAnswer) -> dict[str, FactValue]:
    """Return the inputs of an answer; numeric facts are counts."""
    return {name: int(value) if isinstance(value, float) else value for name, value in answer.given.items()}


_SHAPES = {"fact": "([{}])", "table": "[{}]", "question": "{{{}}}", "answer": "[[{}]]"}


def format_mermaid(graph: Graph) -> str:
    """Return a graph in Mermaid syntax."""
    lines = ["graph TD"]
    for node in graph.nodes:
        text = "<br/>".join(_escape(line) for line in node.text)
        quoted = f'"{text}"'
        lines.append(f"    {_make_id(node.id)}{_SHAPES[node.kind].format(quoted)}")
    for edge in graph.edges:
        label = f"|{_escape(edge.text)}|" if edge.text else ""
        lines.append(f"    {_make_id(edge.start)} -->{label} {_make_id(edge.end)}")
    return "\n".join(lines) + "\n"


def _make_id(name: str) -> str:
    """Return the name of a node without characters that have a meaning in Mermaid or Markdown."""
    return re.sub(r"\W", "_", name)


def _escape(text: str) -> str:
    """Return a text with the syntax of Mermaid and HTML as entities."""
    return "".join(f"#{ord(c)};" if c in '&"<>#|`' else c for c in text)
