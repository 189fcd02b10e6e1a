"""The rules as graphs: the chain of tables, and the guide's flowchart beside what the rules answer at its leaves."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.core.cards import FactValue
from optadvise.core.records import FactValues
from optadvise.rulebase.records import FlowchartAnswer
from optadvise.rulebase.tables import Table


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


# What passes from one step of `advice.recommend` to the next.
_STEPS = (
    ("memory", "concern"), ("concern", "choose_optimizer"), ("choose_optimizer", "card"), ("card", "choose_schedule"),
    ("card", "numbers"), ("choose_schedule", "numbers"), ("numbers", "adjust"), ("adjust", "warn"),
)  # fmt: skip
_LINE_LENGTH = 44


def draw_tables(rules: CompiledRules) -> Graph:
    """Return the chain of tables as a graph, from the facts to the warnings."""
    numbers = [table for table in rules.tables.values() if table.kind == "set"]
    counts = ", ".join(f"{table.output} ({len(table.rules)})" for table in numbers)
    nodes = (
        Node(id="facts", text=("what is said and assumed",), kind="fact"),
        Node(id="memory", text=("memory", "does the state fit?"), kind="fact"),
        _draw_table(rules.tables["concern"]),
        _draw_table(rules.tables["choose_optimizer"]),
        Node(id="card", text=("the optimizer's card",), kind="fact"),
        _draw_table(rules.tables["choose_schedule"]),
        Node(id="numbers", text=("numbers", *_wrap(counts)), kind="table"),
        _draw_table(rules.tables["adjust"]),
        _draw_table(rules.tables["warn"]),
    )
    steps = (("facts", "memory"), ("facts", "concern"), *_STEPS)
    edges = tuple(Edge(start=start, end=end) for start, end in steps)
    return Graph(title="How an answer is made", nodes=nodes, edges=edges)


def _draw_table(table: Table) -> Node:
    return Node(id=table.id, text=(table.id, f"{len(table.rules)} rows, {table.hit_policy}"), kind="table")


def _wrap(text: str) -> list[str]:
    """Return a list of items in lines."""
    lines = [""]
    for part in text.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > _LINE_LENGTH:
            lines.append(part)
        else:
            lines[-1] = joined
    return lines


def draw_flowchart(rules: CompiledRules) -> Graph:
    """Return the guide's flowchart as a graph, with what the rules answer at each of its leaves."""
    parts = list(_walk_question(rules, rules.catalog.flowchart.start, {}, ""))
    nodes = tuple(part for part in parts if isinstance(part, Node))
    edges = tuple(part for part in parts if isinstance(part, Edge))
    return Graph(title="The guide's flowchart, and what the rules answer", nodes=nodes, edges=edges)


def _walk_question(rules: CompiledRules, name: str, inputs: FactValues, path: str) -> Iterator[Node | Edge]:
    """Yield a question's node, and the nodes and edges of everything below it.

    Args:
        inputs: What the answers before have stated.
        path: These answers, for the ids of nodes.
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
    """Return a graph as Mermaid text."""
    lines = ["graph TD"]
    for node in graph.nodes:
        text = "<br/>".join(_escape(line) for line in node.text)
        quoted = f'"{text}"'
        lines.append(f"    {node.id}{_SHAPES[node.kind].format(quoted)}")
    for edge in graph.edges:
        label = f"|{_escape(edge.text)}|" if edge.text else ""
        lines.append(f"    {edge.start} -->{label} {edge.end}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
