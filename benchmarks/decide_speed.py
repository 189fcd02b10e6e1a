"""How fast is one decision, and are the proofs? Against zen-engine on the same table, and as tables grow.

Usage: python benchmarks/decide_speed.py [--markdown FILE]

Everything is measured in one process, in turn, and told as ratios. Our tables remember the points they have answered;
that memory is emptied before each round, so that every decision is made anew. Targets: one decision on the shipped
optimizer table at least 5 times faster than zen-engine's on the same table and points; 5,000 rows cost less than 100
times what 50 do; `rules check` at most 1 s, and 200 rows over 10 columns at most 5 s.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import zen

from optadvise.advisor import Advisor
from optadvise.catalog import load
from optadvise.engine.decide import Axis, Table, cut_axes
from optadvise.engine.prove import census, findings
from optadvise.rulebook.check import check

_POINTS = 2000
_ROUNDS = 7


def shortest(action: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the seconds of the shortest of several runs, which other load disturbs least."""
    times = []
    for _ in range(_ROUNDS):
        before()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def exported(table: Table) -> str:
    """Return a table of words as a decision graph of zen-engine, first match wins; rows that override come first."""
    rows = sorted(range(len(table.rules)), key=lambda i: -table.beats[i].bit_count())
    rules = []
    for number in rows:
        rule = table.rules[number]
        cells = {name: ", ".join(json.dumps(word) for word in rule.when.get(name, ())) for name in table.columns}
        rules.append({"_id": rule.id, **cells, "out": json.dumps(rule.id)})
    other = table.otherwise.id if table.otherwise else ""
    rules.append({"_id": other, **dict.fromkeys(table.columns, ""), "out": json.dumps(other)})
    inputs = [{"id": name, "name": name, "field": name} for name in table.columns]
    content = {"hitPolicy": "first", "inputs": inputs, "rules": rules,
               "outputs": [{"id": "out", "name": "out", "field": "out"}]}  # fmt: skip
    nodes = [{"id": "in", "name": "in", "type": "inputNode"}, {"id": "end", "name": "end", "type": "outputNode"},
             {"id": "table", "name": "table", "type": "decisionTableNode", "content": content}]  # fmt: skip
    edges = [{"id": "a", "sourceId": "in", "targetId": "table", "type": "edge"},
             {"id": "b", "sourceId": "table", "targetId": "end", "type": "edge"}]  # fmt: skip
    return json.dumps({"nodes": nodes, "edges": edges})


def points(table: Table, axes: Mapping[str, Axis], random: Random) -> list[dict[str, str]]:
    """Return facts at random, as words, no two alike."""
    words = {name: [axes[name].told(cell) for cell in range(axes[name].unknown + 1) if axes[name].every >> cell & 1]
             for name in table.columns}  # fmt: skip
    found = {tuple(random.choice(choices) for choices in words.values()) for _ in range(_POINTS)}
    return [dict(zip(words, point, strict=True)) for point in sorted(found)]


def against_zen(advisor: Advisor) -> tuple[float, float]:
    """Return the seconds of one decision, ours and zen-engine's, after both have agreed on every point."""
    table, axes = advisor.tables["choose_optimizer"], advisor.axes
    said = points(table, axes, Random(0))
    cells = [
        {name: axes[name].unknown if word == "unknown" else axes[name].cell(word) for name, word in point.items()}
        for point in said
    ]
    decision = zen.ZenEngine().create_decision(exported(table))
    theirs = [decision.evaluate(point)["result"]["out"] for point in said]
    assert theirs == [table.winner(cell).id for cell in cells], "the two do not answer alike"
    ours = shortest(partial(_decide, table, cells), before=table._memo.clear)
    zens = shortest(lambda: [decision.evaluate(point) for point in said])
    return ours / len(said), zens / len(said)


def generated(rows: int, columns: int, seed: int, hit: str = "first") -> tuple[Table, dict[str, Axis]]:
    """Return a table of rows made at random, over facts of eight words or of numbers."""
    random = Random(seed)
    facts: dict[str, dict[str, Any]] = {
        f"f{i}": {"id": f"f{i}", "values": dict.fromkeys("abcdefgh", "")}
        if i % 2
        else {"id": f"f{i}", "type": "number"}
        for i in range(columns)
    }
    made: list[dict[str, Any]] = []
    for number in range(rows):
        when: dict[str, Sequence[Any]] = {}
        for name, fact in facts.items():
            if random.random() < 0.5:
                low = random.randint(1, 20) * 10
                when[name] = random.sample("abcdefgh", 2) if "values" in fact else [[low, True, low + 50, False]]
        made.append({"id": f"R{number}", "name": "r", "when": when, "then": {}, "because": "b", "cite": [], "at": ""})
    axes = cut_axes(facts, [row["when"] for row in made])
    rest = {"id": "O", "then": {}, "because": "", "cite": [], "at": ""}
    document = {"table": "t", "kind": "derive", "hit": hit, "about": "", "rules": made, "otherwise": rest}
    return Table(document, axes), axes


def _decide(table: Table, cells: Sequence[Mapping[str, int]]) -> None:
    for point in cells:
        table.winner(point)


def growth() -> dict[int, float]:
    """Return the seconds of one decision by the number of rows."""
    found = {}
    for rows in (50, 500, 5000):
        table, axes = generated(rows, 8, rows)
        random = Random(1)
        cells = [{name: random.randrange(axes[name].unknown) for name in table.columns} for _ in range(_POINTS)]
        found[rows] = shortest(partial(_decide, table, cells), before=table._memo.clear) / _POINTS
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    advisor = Advisor(load())
    ours, zens = against_zen(advisor)
    by_rows = growth()
    checking = shortest(lambda: check(Advisor(load())))
    table, axes = generated(200, 10, 0, "unique")
    proving = shortest(lambda: (list(findings(table, axes)), census(table, axes)))
    lines = [
        "| question | outcome | wanted |",
        "|---|---|---|",
        f"| one decision on the optimizer table: zen-engine's time / ours | {zens / ours:.1f} "
        f"({zens * 1e6:.1f} µs / {ours * 1e6:.1f} µs) | at least 5 |",
        f"| one decision: 5,000 rows / 50 rows | {by_rows[5000] / by_rows[50]:.1f} "
        f"({by_rows[5000] * 1e6:.1f} µs / {by_rows[50] * 1e6:.1f} µs) | less than 100 |",
        f"| one decision: 500 rows / 50 rows | {by_rows[500] / by_rows[50]:.1f} | less than 10 |",
        f"| `rules check` on the shipped rules, in one process | {checking:.2f} s | at most 1 s |",
        f"| proving 200 generated rows over 10 columns | {proving:.2f} s | at most 5 s |",
    ]
    print("\n".join(lines))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
