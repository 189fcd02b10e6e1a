"""Decision tables and their proofs compared with brute force over plain rows, and with zen-engine."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations, pairwise, product
from random import Random
from typing import Any, NamedTuple

import pytest
import zen
from hypothesis import given, settings
from hypothesis import strategies as st

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import UNKNOWN
from optadvise.core.errors import RuleFileError
from optadvise.rulebase.proofs import (
    GAP,
    OVERLAP,
    OVERRIDE,
    SHADOWED,
    Finding,
    check_table,
    count_cells,
    find_winning_boxes,
)
from optadvise.rulebase.regions import (
    count_end_states,
    enumerate_boxes,
    find_uncovered,
    list_columns,
    make_box,
    merge_boxes,
)
from optadvise.rulebase.tables import Axis, Table, cut_axes
from tests.conftest import examples, few
from tests.documents import fact_data, fact_of, facts_of, ranges_of, table_data, table_of

# Thresholds: adjacent, without an integer between them, not integers, and without effect.
_EDGES = (0.0, 1.0, 2.0, 3.0, 4.0, 8.0, 9.0, 2.5, 8.2, 8.7)
_MOST = 11  # integers beyond the last threshold
_EVERYTHING = [None, False, None, False]

When = dict[str, list[Any]]
Values = dict[str, Any]  # by fact, None if unknown
Row = dict[str, Any]


class RandomTable(NamedTuple):
    """Random table and the facts that it reads."""

    facts: dict[str, Any]
    document: dict[str, Any]
    elsewhere: list[When]  # conditions of other tables on the same facts


# -- random tables -------------------------------------------------------------------------------------------------


def make_table(random: Random, hit: str | None = None) -> RandomTable:
    """Return a random table: rows anywhere, or disjoint rows with overrides and at times a mistake."""
    facts = {name: _fact(random, name) for name in "abcd"[: random.randint(1, 4)]}
    hit = hit or random.choice(("unique", "unique", "first", "collect"))
    whens, overrides = _apart(random, facts) if random.random() < 0.5 else _anywhere(random, facts)
    if hit != "unique" and random.random() < 0.95:
        overrides = [[] for _ in whens]
    rows = [_row(f"R{n}", when, over) for n, (when, over) in enumerate(zip(whens, overrides, strict=True))]
    if random.random() < 0.3:
        random.shuffle(rows)
    if random.random() < 0.2 and len(rows) > 1:
        rows.pop(random.randrange(len(rows)))  # rows that override it refer to nothing
    document: dict[str, Any] = {
        "table": "t",
        "kind": "set",
        "output": "x",
        "hit_policy": hit,
        "about": "A.",
        "rules": rows,
    }
    if hit != "collect" and random.random() < 0.5:
        document["otherwise"] = {key: value for key, value in _row("R99", {}, []).items() if key != "when"}
    elsewhere = [_when(random, facts) for _ in range(random.randint(0, 2))]
    return RandomTable(facts, document, elsewhere)


def _fact(random: Random, name: str) -> dict[str, Any]:
    kind = random.choice(("choice", "number", "number", "flag"))
    fact: dict[str, Any] = {"id": name, "type": kind}
    if kind == "flag":
        return {**fact, "values": {"true": "yes", "false": "no"}}
    if kind == "choice":
        fact["values"] = dict.fromkeys(["red", "green", "blue", "grey"][: random.randint(2, 4)], "")
    return {**fact, "unknown": random.random() < 0.4}


def _row(name: str, when: When, overrides: list[str]) -> Row:
    return {"id": name, "name": name, "when": when, "then": {"value": name}, "because": "so", "cite": [],
            "overrides": overrides, "tests": [], "at": f"t.yaml:{name[1:]}:5"}  # fmt: skip


def _anywhere(random: Random, facts: Mapping[str, Any]) -> tuple[list[When], list[list[str]]]:
    whens = [_when(random, facts) for _ in range(random.choice((1, 2, 3, 4, 5, 6, 9)))]
    names = [f"R{n}" for n in range(len(whens))]
    return whens, [random.sample(names, min(len(names), random.choice((0, 0, 0, 1, 2)))) for _ in whens]


def _when(random: Random, facts: Mapping[str, Any]) -> When:
    named = random.sample(sorted(facts), random.randint(0, len(facts)))
    return {name: _condition(random, facts[name]) for name in named}


def _condition(random: Random, fact: Mapping[str, Any]) -> list[Any]:
    if "values" in fact:
        words = [*fact["values"], *([UNKNOWN] if fact.get("unknown") else [])]
        return random.sample(words, random.randint(1, len(words)))
    found: list[Any] = [_interval(random) for _ in range(random.choice((1, 1, 2)))]
    if not fact["unknown"] or random.random() < 0.6:
        return found
    return [UNKNOWN] if random.random() < 0.5 else [*found, UNKNOWN]


def _interval(random: Random) -> list[Any]:
    low, high = sorted(random.choices(_EDGES, k=2))
    shut, closed = random.random() < 0.5, random.random() < 0.5
    ways: list[list[Any]] = [
        [None, False, high, closed], [low, shut, None, False], [low, shut, high, closed], [low, True, low, True],
        _EVERYTHING,
    ]  # fmt: skip
    return random.choices(ways, (4, 4, 4, 2, 1))[0]


def _apart(random: Random, facts: Mapping[str, Any]) -> tuple[list[When], list[list[str]]]:
    """Return disjoint rows, some with rows inside that override them, at times incorrectly."""
    parts = {name: _parts(random, fact) for name, fact in facts.items()}
    whens = list(_split(random, {}, parts))
    overrides: list[list[str]] = [[] for _ in whens]
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        outer = random.randrange(len(whens))
        when, name = dict(whens[outer]), random.choice(sorted(facts))
        inner = whens[outer].get(name) or [item for part in parts[name] for item in part]
        when[name] = random.sample(inner, random.randint(1, len(inner)))
        whens.append(when)
        overrides.append([f"R{outer}"])
    if random.random() < 0.4:  # a mistake
        number = random.randrange(len(whens))
        name = random.choice(sorted(facts))
        whens[number] = {**whens[number], name: _condition(random, facts[name])}
    if random.random() < 0.1:
        overrides[random.randrange(len(whens))].append(random.choice(["R98", *(f"R{n}" for n in range(len(whens)))]))
    return whens, [list(dict.fromkeys(names)) for names in overrides]


def _parts(random: Random, fact: Mapping[str, Any]) -> list[list[Any]]:
    """Split a fact into conditions of which exactly one accepts each value."""
    if "values" in fact:
        found: list[list[Any]] = [[word] for word in fact["values"]]
    else:
        edges = sorted(random.sample(_EDGES, random.randint(1, 2)))
        closed = [random.random() < 0.5 for _ in edges]  # whether the interval below includes the edge
        ends = [(None, False), *zip(edges, closed, strict=True), (None, False)]
        found = [
            [[low, low is not None and not before, high, high is not None and after]]
            for (low, before), (high, after) in pairwise(ends)
        ]
    return [*found, [UNKNOWN]] if fact.get("unknown") else found


def _split(random: Random, when: When, parts: Mapping[str, list[list[Any]]]) -> Iterator[When]:
    left = sorted(parts.keys() - when.keys())
    if not left or len(when) == 3 or random.random() < 0.25:
        yield when
        return
    name = random.choice(left)
    one: list[Any] = []
    other: list[Any] = []
    for part in parts[name]:
        (one if random.random() < 0.5 else other).extend(part)
    for side in (one, other):
        if side:
            yield from _split(random, {**when, name: side}, parts)


# -- oracle: evaluates rows one by one, without cells, masks and searches -------------------------------------------


def accepts(condition: Sequence[Any], value: Any) -> bool:
    """Return whether a condition accepts a value; None is unknown."""
    return any(_item_accepts(item, value) for item in condition)


def _item_accepts(item: Any, value: Any) -> bool:
    if value is None or item == UNKNOWN:
        return value is None and item == UNKNOWN
    if isinstance(value, bool):
        return bool(item == ("true" if value else "false"))
    if isinstance(value, str):
        return bool(item == value)
    low, low_closed, high, high_closed = item
    above = low is None or value > low or (low_closed and value == low)
    return bool(above and (high is None or value < high or (high_closed and value == high)))


def applies(row: Row, values: Mapping[str, Any]) -> bool:
    return all(accepts(condition, values[name]) for name, condition in row["when"].items())


def beaten(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Return the rows that each row overrides, directly or indirectly."""
    direct = {row["id"]: set(row["overrides"]) for row in rows}
    found: dict[str, set[str]] = {}
    for name in direct:
        reached, todo = set[str](), list(direct[name])
        while todo:
            other = todo.pop()
            if other in direct and other not in reached:
                reached.add(other)
                todo += direct[other]
        found[name] = reached
    return found


def decided(document: Mapping[str, Any], beats: Mapping[str, set[str]], matching: Sequence[str]) -> list[str] | None:
    """Return the rows that decide where some rows apply; None if that is an error."""
    if document["hit_policy"] == "collect":
        return list(matching)
    if not matching:
        return [document["otherwise"]["id"]] if "otherwise" in document else None
    if document["hit_policy"] == "first":
        return [matching[0]]
    winners = [name for name in matching if all(other in beats[name] for other in matching if other != name)]
    return winners if len(winners) == 1 else None


def in_lines(table: RandomTable) -> str:
    """Return a table as lines of text, for failure messages."""
    document = table.document
    rows = [f"{row['id']} {row['when']} overrides {row['overrides']}" for row in document["rules"]]
    return "\n".join([f"{document['hit_policy']}, otherwise {document.get('otherwise', {}).get('id')}", *rows,
                      *(f"elsewhere {when}" for when in table.elsewhere), *map(str, table.facts.values())])  # fmt: skip


class Oracle:
    """Every situation that a table distinguishes, as values, and the rows that apply there."""

    def __init__(self, table: RandomTable) -> None:
        self.made = table
        self.document = table.document
        self.rows: list[Row] = table.document["rules"]
        self.beats = beaten(self.rows)
        self.values = {name: self._list_values(name, fact) for name, fact in table.facts.items()}
        self.points = [dict(zip(self.values, each, strict=True)) for each in product(*self.values.values())]

    def _list_values(self, name: str, fact: Mapping[str, Any]) -> list[Any]:
        """Return one value per class: integers between the same thresholds are equivalent."""
        unknown = [None] if fact.get("unknown") else []
        if "values" in fact:
            return ([True, False] if fact["type"] == "flag" else [*fact["values"]]) + unknown
        whens = [*(row["when"] for row in self.rows), *self.made.elsewhere]
        ranges = [item for when in whens for item in when.get(name, ()) if item != UNKNOWN]
        edges = sorted({edge for item in ranges for edge in (item[0], item[2]) if edge is not None})
        kinds = {(bisect_left(edges, count), count in edges): count for count in range(_MOST, 0, -1)}
        return [*sorted(kinds.values()), *unknown]

    @cached_property
    def applying(self) -> list[list[str]]:
        """Rows that apply at each point, in order."""
        held = [
            {name: {value for value in self.values[name] if accepts(condition, value)}
             for name, condition in row["when"].items()} for row in self.rows
        ]  # fmt: skip
        return [
            [
                row["id"]
                for row, sets in zip(self.rows, held, strict=True)
                if all(point[n] in s for n, s in sets.items())
            ]
            for point in self.points
        ]

    @cached_property
    def where(self) -> dict[str, set[int]]:
        """Numbers of the points at which each row applies."""
        found: dict[str, set[int]] = {row["id"]: set() for row in self.rows}
        for number, names in enumerate(self.applying):
            for name in names:
                found[name].add(number)
        return found

    def at(self, cells: Mapping[str, int], axes: Mapping[str, Axis]) -> set[int]:
        """Return the points in some cells."""
        expected = {name: {v for v in self.values[name] if axes[name].cell(v) == cell} for name, cell in cells.items()}
        return {n for n, point in enumerate(self.points) if all(point[name] in held for name, held in expected.items())}

    def within(self, box: Mapping[str, int], axes: Mapping[str, Axis]) -> set[int]:
        """Return the points in a box."""
        held = {name: {v for v in self.values[name] if mask >> axes[name].cell(v) & 1} for name, mask in box.items()}
        return {n for n, point in enumerate(self.points) if all(point[name] in some for name, some in held.items())}


def compiled(table: RandomTable) -> tuple[Table, dict[str, Axis]]:
    axes = cut_axes(
        facts_of(table.facts),
        [
            {name: ranges_of(item) for name, item in when.items()}
            for when in (*(row["when"] for row in table.document["rules"]), *table.elsewhere)
        ],
    )
    return Table(table_of(table.document), axes), axes


# -- deciding rows --------------------------------------------------------------------------------------------------


def _check_decisions(table: RandomTable) -> None:
    oracle = Oracle(table)
    ours, axes = compiled(table)
    for point, applying in zip(oracle.points, oracle.applying, strict=True):
        cells = {name: axes[name].cell(value) for name, value in point.items()}
        expected = decided(table.document, oracle.beats, applying)
        for _ in range(2):  # the second result is cached
            try:
                actual: list[str] | None = [rule.id for rule in ours.matching(cells)]
            except RuleFileError:
                actual = None
            assert actual == expected, (in_lines(table), point)


@pytest.mark.parametrize("seed", few(1, range(4)))
def test_deciding_row_matches_brute_force(seed: int) -> None:
    random = Random(seed)
    for _ in range(2500):
        _check_decisions(make_table(random))


@settings(max_examples=examples(150))
@given(st.randoms(use_true_random=False))
def test_deciding_row_matches_brute_force_in_tables_of_hypothesis(random: Random) -> None:
    _check_decisions(make_table(random))


def test_fractions_are_in_the_cell_of_their_interval() -> None:
    random = Random(5)
    fact = {"id": "a", "type": "number", "unknown": True}
    for _ in range(500):
        condition = _condition(random, fact)
        axis = Axis(fact_of(fact), [ranges_of(condition), ranges_of(_condition(random, fact))])
        for value in (None, *(step / 10 for step in range(1, 120)), 10**15):
            assert bool(axis.accepted(ranges_of(condition)) >> axis.cell(value) & 1) == accepts(condition, value)


def test_valid_cells_are_those_that_contain_an_integer() -> None:
    random = Random(6)
    fact = {"id": "a", "type": "number"}
    for _ in range(500):
        axis = Axis(
            fact_of(fact),
            [ranges_of(_condition(random, {**fact, "unknown": False})) for _ in range(random.randint(1, 4))],
        )
        counts = {axis.cell(count) for count in range(1, _MOST + 1)}
        assert counts == {cell for cell in range(axis.unknown_cell + 1) if axis.every >> cell & 1}


def test_sample_value_of_a_cell_is_in_it() -> None:
    """Witnesses and suggested cases use it."""
    random = Random(7)
    fact = {"id": "a", "type": "number"}
    for _ in range(500):
        axis = Axis(
            fact_of(fact),
            [ranges_of(_condition(random, {**fact, "unknown": False})) for _ in range(random.randint(1, 4))],
        )
        for cell in (cell for cell in range(axis.unknown_cell) if axis.every >> cell & 1):
            assert axis.cell(int(axis.format_cell(cell))) == cell, (axis.cuts, cell)
            assert axis.cell(int(axis.sample_value(cell))) == cell, (axis.cuts, cell)


# -- findings -----------------------------------------------------------------------------------------------------


def _wrong(oracle: Oracle) -> Counter[tuple[str, tuple[str, ...]]]:
    """Return the defects of a table by brute force: kind and rows (of a shadowed row, only that row)."""
    document, rows, where, beats = oracle.document, oracle.rows, oracle.where, oracle.beats
    hit, ids = document["hit_policy"], [row["id"] for row in rows]
    found: list[tuple[str, tuple[str, ...]]] = [(SHADOWED, (name,)) for name in ids if not where[name]]
    for row in rows:
        for name in row["overrides"]:
            if name not in where:
                found.append((OVERRIDE, (row["id"],)))
            elif hit != "unique" or row["id"] in {name, *beats[name]} or not where[row["id"]] <= where[name]:
                found.append((OVERRIDE, (row["id"], name)))
    if hit == "collect":
        return Counter(found)
    for first, second in combinations(ids, 2) if hit == "unique" else ():
        if _unsettled(oracle, first, second):
            found.append((OVERLAP, (second, first)))
    for index, name in enumerate(ids):
        over = ids[:index] if hit == "first" else [other for other in ids if name in beats[other] and other != name]
        if where[name] and where[name] <= set().union(*(where[other] for other in over)):
            found.append((SHADOWED, (name,)))
    fall_through = [names for names in oracle.applying if not names]
    if "otherwise" in document and not fall_through:
        found.append((SHADOWED, (document["otherwise"]["id"],)))
    if "otherwise" not in document and fall_through:
        found.append((GAP, ()))
    return Counter(found)


def _unsettled(oracle: Oracle, first: str, second: str) -> set[int]:
    """Return the points where two rows apply, neither overrides the other, and no third overrides both."""
    if first in oracle.beats[second] or second in oracle.beats[first]:
        return set()
    settled = [oracle.where[name] for name, under in oracle.beats.items() if {first, second} <= under]
    return (oracle.where[first] & oracle.where[second]).difference(*settled)


def _check_findings(table: RandomTable) -> Counter[str]:
    oracle = Oracle(table)
    ours, axes = compiled(table)
    told = list(check_table(ours, axes))
    actual = Counter((f.kind, f.rules[:1] if f.kind == SHADOWED else f.rules) for f in told)
    assert actual == _wrong(oracle), in_lines(table)
    for finding in told:
        _check_witness(finding, oracle, axes)
    errors = [names for names in oracle.applying if decided(table.document, oracle.beats, names) is None]
    cyclic = any(name in under for name, under in oracle.beats.items())
    kinds = {finding.kind for finding in told}
    assert cyclic or bool(errors) == bool(kinds & {GAP, OVERLAP}), in_lines(table)  # every error has a finding
    return Counter(finding.kind for finding in told) or Counter(["sound"])


def _check_witness(finding: Finding, oracle: Oracle, axes: Mapping[str, Axis]) -> None:
    where, told = oracle.where, (finding, in_lines(oracle.made))
    if finding.kind == SHADOWED:
        name, *over = finding.rules
        assert finding.point is None, told
        for other in over:  # the rows that shadow it are minimal
            assert not where[name] <= set().union(*(where[o] for o in over if o != other)), told
        assert not over or where[name] <= set().union(*(where[o] for o in over)), told
        return
    if finding.point is None:  # an override that is invalid everywhere
        assert finding.kind == OVERRIDE, told
        assert "not inside" not in finding.text, told
        return
    shown = oracle.at(finding.point, axes)
    assert shown, told  # a possible situation
    if finding.kind == GAP:
        assert not any(oracle.applying[number] for number in shown), told
    elif finding.kind == OVERLAP:
        assert shown <= _unsettled(oracle, *finding.rules), told
    else:
        assert shown <= where[finding.rules[0]] - where[finding.rules[1]], told


@pytest.mark.parametrize("seed", few(1, range(4)))
def test_findings_match_brute_force(seed: int) -> None:
    random = Random(100 + seed)
    seen: Counter[str] = Counter()
    for _ in range(2000):
        seen += _check_findings(make_table(random))
    # Every kind of defect occurs often enough.
    assert min(seen[kind] for kind in (GAP, OVERLAP, SHADOWED, OVERRIDE, "sound")) >= 100, seen


@settings(max_examples=examples(150))
@given(st.randoms(use_true_random=False))
def test_findings_match_brute_force_in_tables_of_hypothesis(random: Random) -> None:
    _check_findings(make_table(random))


def test_rows_that_accept_the_same_integers_are_inside_each_other() -> None:
    """No integer is between 8 and 9, so `[8..9]` is inside `8 or 9`."""
    fact = {"id": "a", "type": "number"}
    rows = [_row("R0", {"a": [[8.0, True, 8.0, True], [9.0, True, 9.0, True]]}, []),
            _row("R1", {"a": [[8.0, True, 9.0, True]]}, ["R0"])]  # fmt: skip
    table = RandomTable(
        {"a": fact}, {"table": "t", "kind": "set", "hit_policy": "unique", "about": "A.", "rules": rows}, []
    )
    ours, axes = compiled(table)
    assert OVERRIDE not in {finding.kind for finding in check_table(ours, axes)}


def test_long_chain_of_overrides_is_resolved() -> None:
    """1,500 rows, each of which overrides the previous row."""
    rows = [
        _row(f"R{n}", {"a": [[None, False, float(2000 - n), False]]}, [f"R{n - 1}"] if n else []) for n in range(1500)
    ]
    document = {"table": "t", "kind": "set", "hit_policy": "unique", "about": "A.", "rules": rows}
    ours, axes = compiled(RandomTable({"a": {"id": "a", "type": "number"}}, document, []))
    assert ours.winner({"a": axes["a"].cell(1)}).id == "R1499"


# -- counts and boxes ---------------------------------------------------------------------------------------------


def _check_census(table: RandomTable) -> None:
    oracle = Oracle(table)
    ours, axes = compiled(table)
    actual = count_cells(ours, axes)
    columns_read = sorted({name for row in oracle.rows for name in row["when"]})
    seen: dict[tuple[Any, ...], bool] = {}
    for point, names in zip(oracle.points, oracle.applying, strict=True):
        seen[tuple(point[name] for name in columns_read)] = bool(names)
    assert (actual.rows, actual.cells) == (len(oracle.rows), len(seen)), in_lines(table)
    assert actual.otherwise == (list(seen.values()).count(False) if "otherwise" in table.document else None), in_lines(
        table
    )


def _sweep(
    oracle: Oracle, axes: Mapping[str, Axis]
) -> tuple[list[Any], frozenset[str], Callable[[frozenset[str], int, int], frozenset[str]]]:
    """Return the columns of a sweep over all facts, its initial state and its step function, from values alone."""
    value_at = {name: {axes[name].cell(v): v for v in values} for name, values in oracle.values.items()}
    alive = {
        (name, cell): frozenset(
            row["id"] for row in oracle.rows if name not in row["when"] or accepts(row["when"][name], value)
        )
        for name, cells in value_at.items()
        for cell, value in cells.items()
    }
    names = list(oracle.values)
    swept = list_columns(names, lambda name, cell: alive[name, cell], axes)

    def step(state: frozenset[str], number: int, cell: int) -> frozenset[str]:
        return state & alive[names[number], cell]

    return swept, frozenset(row["id"] for row in oracle.rows), step


def _check_sweeps(table: RandomTable) -> None:
    oracle = Oracle(table)
    _, axes = compiled(table)
    swept, start, step = _sweep(oracle, axes)
    ends = count_end_states(swept, start, step)
    expected = Counter(frozenset(names) for names in oracle.applying)
    assert {state: count for state, (count, _) in ends.items()} == expected, in_lines(table)
    for state, (_, point) in ends.items():
        shown = oracle.at(point, axes)
        assert len(shown) == 1, in_lines(table)
        assert all(frozenset(oracle.applying[number]) == state for number in shown), in_lines(table)

    order = [row["id"] for row in oracle.rows]

    def answer(state: frozenset[str]) -> Hashable:
        """Return None where no row applies, otherwise the class of the deciding row."""
        found = decided(table.document, oracle.beats, [name for name in order if name in state])
        return None if not found else int(found[0][1:]) % 3

    divided = enumerate_boxes(swept, start, step, answer)
    assert None not in divided
    seen: list[list[Hashable]] = [[] for _ in oracle.points]
    for end, parts in divided.items():
        assert parts, in_lines(table)
        for part in parts:
            for number in oracle.within(part, axes):
                seen[number].append(end)
    answers = [answer(frozenset(names)) for names in oracle.applying]
    assert seen == [[] if found is None else [found] for found in answers], in_lines(table)
    for parts in divided.values():
        _check_joined(parts)


def _check_joined(parts: Sequence[Mapping[str, int]]) -> None:
    """No two boxes differ in one fact alone."""
    for one, other in combinations(parts, 2):
        assert sum(one.get(name, -1) != other.get(name, -1) for name in {*one, *other}) != 1, (one, other)


def _random_box(random: Random, axes: Mapping[str, Axis]) -> dict[str, int]:
    named = random.sample(sorted(axes), random.randint(0, len(axes)))
    return {name: random.randrange(1, 2 << axes[name].unknown_cell) for name in named}


def _check_boxes(random: Random, table: RandomTable) -> None:
    """Search and join boxes that no row drew; cells that no situation can lie in count for nothing."""
    oracle = Oracle(table)
    ours, axes = compiled(table)
    box = _random_box(random, axes)
    others = [make_box(rule, axes) for rule in ours.rules] + [_random_box(random, axes) for _ in range(3)]
    prefer = {name: random.randrange(axis.unknown_cell + 1) for name, axis in axes.items() if random.random() < 0.5}
    left = oracle.within(box, axes).difference(*(oracle.within(other, axes) for other in others))
    for expected in (None, prefer):
        point = find_uncovered(box, others, axes, expected)
        assert (point is not None) == bool(left), (in_lines(table), box, others)
        if point is not None:
            shown = oracle.at(point, axes)
            assert shown, (in_lines(table), box, others, point)
            assert shown <= left, (in_lines(table), box, others, point)
    joined = merge_boxes(others)
    assert set().union(*(oracle.within(part, axes) for part in joined)) == set().union(
        *(oracle.within(part, axes) for part in others)
    ), (in_lines(table), others)
    _check_joined(joined)


def _check_winning(table: RandomTable) -> None:
    oracle = Oracle(table)
    ours, axes = compiled(table)
    if table.document["hit_policy"] == "collect" or any(True for _ in check_table(ours, axes)):
        return
    at = [decided(table.document, oracle.beats, names) for names in oracle.applying]
    for rule in (*ours.rules, *((ours.otherwise,) if ours.otherwise else ())):
        box, over = find_winning_boxes(ours, rule, [make_box(row, axes) for row in ours.rules])
        region = oracle.within(box, axes).difference(*(oracle.within(other, axes) for other in over))
        assert region == {number for number, names in enumerate(at) if names == [rule.id]}, (in_lines(table), rule.id)


@pytest.mark.parametrize("seed", few(1, range(4)))
def test_counts_and_boxes_match_brute_force(seed: int) -> None:
    random = Random(200 + seed)
    for _ in range(1000):
        table = make_table(random)
        _check_census(table)
        _check_sweeps(table)
        _check_boxes(random, table)
        _check_winning(table)


# -- zen-engine ------------------------------------------------------------------------------------------------------


def zen_condition(condition: Sequence[Any], fact: Mapping[str, Any]) -> str:
    """Return a condition in the syntax of zen-engine, where an unknown fact is null.

    A comparison with null ends the evaluation of a cell, so the test for null comes first.
    """
    parts = ["null"] if UNKNOWN in condition else []
    for item in condition:
        if item == UNKNOWN:
            continue
        if isinstance(item, list):
            parts.append(_zen_range(*item))
        else:
            parts.append(item if fact["type"] == "flag" else json.dumps(item))
    return ", ".join(parts)


def _zen_range(low: float | None, low_closed: bool, high: float | None, high_closed: bool) -> str:
    if low is None and high is None:
        return "$ != null"
    if low is None:
        return f"{'<=' if high_closed else '<'} {high:.17g}"
    if high is None:
        return f"{'>=' if low_closed else '>'} {low:.17g}"
    return f"{'[' if low_closed else '('}{low:.17g}..{high:.17g}{']' if high_closed else ')'}"


def zen_decision(
    rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], hit: str, otherwise: str | None = None
) -> Callable[[Values], list[str]]:
    """Return a function that evaluates rows with zen-engine, from values to the ids of the deciding rows.

    Args:
        rows: Rows of a table, with `id` and `when`.
        facts: The declared facts.
        hit: `first` or `collect`, the hit policies of zen-engine.
        otherwise: Id of a last row without conditions.
    """
    names = sorted({name for row in rows for name in row["when"]})
    listed = [
        {"_id": row["id"], **{n: zen_condition(c, facts[n]) for n, c in row["when"].items()}, "id": f'"{row["id"]}"'}
        for row in rows
    ]
    listed += [{"_id": otherwise, "id": f'"{otherwise}"'}] if otherwise else []
    table = {"hitPolicy": hit, "inputs": [{"id": n, "name": n, "field": n} for n in names],
             "outputs": [{"id": "id", "name": "id", "field": "id"}], "rules": listed}  # fmt: skip
    nodes: list[dict[str, Any]] = [
        {"id": "in", "name": "in", "type": "inputNode", "content": {"schema": ""}},
        {"id": "table", "name": "table", "type": "decisionTableNode", "content": table},
        {"id": "out", "name": "out", "type": "outputNode", "content": {"schema": ""}},
    ]
    edges = [{"id": f"{a}-{b}", "sourceId": a, "targetId": b, "type": "edge"}
             for a, b in (("in", "table"), ("table", "out"))]  # fmt: skip
    # `ZenEngine.evaluate` with a key is 30 times faster than `ZenDecision.evaluate`.
    engine = zen.ZenEngine({"loader": {"type": "static", "content": {"t": {"nodes": nodes, "edges": edges}}}})

    def ids(values: Values) -> list[str]:
        result: Any = engine.evaluate("t", values)["result"]
        return [row["id"] for row in result] if isinstance(result, list) else [result["id"]] if result else []

    return ids


def _check_against_zen(table: RandomTable, points: Sequence[Values]) -> None:
    document = table.document
    rows: list[Row] = document["rules"]
    otherwise = document["otherwise"]["id"] if "otherwise" in document else None
    ours, axes = compiled(table)
    beats = beaten(rows)
    every = zen_decision(rows, table.facts, "collect")
    # zen-engine has no `unique`: overriding rows come first, which is equivalent without overlaps.
    ordered = (
        sorted(rows, key=lambda row: -len(beats[row["id"]] - {row["id"]}))
        if document["hit_policy"] == "unique"
        else rows
    )
    first = zen_decision(ordered, table.facts, "first", otherwise)
    for point in points:
        applying = every(point)
        try:
            actual: list[str] | None = [
                rule.id for rule in ours.matching({n: axes[n].cell(v) for n, v in point.items()})
            ]
        except RuleFileError:
            actual = None
        if document["hit_policy"] == "collect":
            assert actual == applying, (in_lines(table), point)
        elif actual is None:  # a gap or an overlap
            assert applying == [] or (document["hit_policy"] == "unique" and len(applying) > 1), (
                in_lines(table),
                point,
            )
        else:
            assert actual == first(point), (in_lines(table), point)
            assert len(applying) < 2 or document["hit_policy"] == "first" or beats[actual[0]] >= {*applying} - {*actual}


@pytest.mark.parametrize("hit", ["first", "unique", "collect"])
def test_random_tables_match_zen_engine(hit: str) -> None:
    random = Random(hit)
    for _ in range(400):
        table = make_table(random, hit)
        points = Oracle(table).points
        _check_against_zen(table, random.sample(points, min(len(points), 40)))


@pytest.mark.parametrize("name", ["choose_optimizer", "concern", "choose_schedule", "adjust", "learning_rate"])
def test_shipped_tables_match_zen_engine(rules: CompiledRules, name: str) -> None:
    document = table_data(rules.catalog.base.tables[name])
    read = sorted({fact for row in document["rules"] for fact in row["when"]})
    facts = {fact: fact_data(rules.catalog.facts[fact]) for fact in read}
    table = RandomTable(facts, document | {"rules": [{"overrides": [], **row} for row in document["rules"]]}, [])
    values = {fact: _list_test_values(fact, facts[fact], document["rules"]) for fact in read}
    whole = [dict(zip(read, each, strict=True)) for each in product(*values.values())] if len(read) < 5 else None
    random = Random(name)
    points = whole or [{fact: random.choice(values[fact]) for fact in read} for _ in range(3000)]
    assert len(points) >= 1000
    _check_against_zen(table, points)


def _list_test_values(name: str, fact: Mapping[str, Any], rows: Sequence[Row]) -> list[Any]:
    unknown = [None] if fact.get("unknown") else []
    if "values" in fact:
        return ([True, False] if fact["type"] == "flag" else [*fact["values"]]) + unknown
    edges = {int(edge) for row in rows for item in row["when"].get(name, ()) if item != UNKNOWN
             for edge in (item[0], item[2]) if edge is not None}  # fmt: skip
    return sorted({max(1, edge + step) for edge in edges for step in (-1, 0, 1)}) + unknown
