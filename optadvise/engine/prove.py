"""What can be shown about a table without trying situations."""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.engine.decide import Axis, Rule, Table


def conflicts(table: Table, axes: Mapping[str, Axis]) -> list[str]:
    """Return every pair of rows of a `unique` table that meet without one settling it.

    Two rows may meet only where one overrides the other and its conditions lie inside the other's.

    Args:
        table: A compiled table.
        axes: Every fact's axis.

    Returns:
        One line per finding, empty when the table is sound.
    """
    if table.hit != "unique":
        return []
    findings = []
    known = {rule.id for rule in table.rules}
    for number, rule in enumerate(table.rules):
        findings += [
            f"{rule.at}: {rule.id} overrides {o}, which is not in its table" for o in rule.overrides if o not in known
        ]
        for other in table.rules[number + 1 :]:
            if not _meet(rule, other, axes):
                continue
            winner, loser = (rule, other) if other.id in _closure(rule, table) else (other, rule)
            if loser.id not in _closure(winner, table):
                if not _settled(rule, other, table, axes):
                    findings.append(f"{other.at}: {rule.id} and {other.id} meet and neither overrides the other")
            elif not _inside(winner, loser, axes):
                findings.append(f"{winner.at}: {winner.id} overrides {loser.id} but is not inside it")
    return findings


def _settled(rule: Rule, other: Rule, table: Table, axes: Mapping[str, Axis]) -> bool:
    """Is the whole meeting of two rows covered by a third that overrides both?"""
    return any(
        {rule.id, other.id} <= _closure(third, table) and _covers(third, rule, other, axes) for third in table.rules
    )


def _covers(third: Rule, rule: Rule, other: Rule, axes: Mapping[str, Axis]) -> bool:
    for name, axis in axes.items():
        meeting = _box(rule, axis, name) & _box(other, axis, name)
        if meeting & ~_box(third, axis, name):
            return False
    return True


def _box(rule: Rule, axis: Axis, name: str) -> int:
    condition = rule.when.get(name)
    return (1 << (axis.unknown + 1)) - 1 if condition is None else axis.accepted(condition)


def _meet(rule: Rule, other: Rule, axes: Mapping[str, Axis]) -> bool:
    shared = rule.when.keys() & other.when.keys()
    return all(_box(rule, axes[name], name) & _box(other, axes[name], name) for name in shared)


def _inside(inner: Rule, outer: Rule, axes: Mapping[str, Axis]) -> bool:
    return all(not _box(inner, axes[name], name) & ~_box(outer, axes[name], name) for name in outer.when)


def _closure(rule: Rule, table: Table) -> set[str]:
    by_id = {r.id: r for r in table.rules}
    seen: set[str] = set()
    todo = list(rule.overrides)
    while todo:
        name = todo.pop()
        if name not in seen and name in by_id:
            seen.add(name)
            todo += by_id[name].overrides
    return seen
