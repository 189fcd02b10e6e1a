"""Differences between the decision tables of two sets of rules: exact situations, merged into boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.rule_analysis.describe import describe_box
from optadvise.rule_analysis.diff_records import NO_RULE, RuleChange, RulePair, make_change, omit_positions
from optadvise.rulebase.regions import Axes, Box, enumerate_boxes, list_columns, make_box, merge_boxes
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Table


class Answers(Struct, frozen=True):
    """Two different answers."""

    old: str
    new: str


def list_changes(pair: RulePair, name: str) -> Iterator[RuleChange]:
    """Yield the situations that a table of two sets of rules decides differently.

    Raises:
        TooLargeError: There are too many differences to list.
    """
    old, new = pair.before.tables.get(name), pair.after.tables.get(name)
    if old is None or new is None:
        yield RuleChange(
            where="any situation",
            old=NO_RULE if old is None else name,
            new=NO_RULE if new is None else name,
            witness=None,
        )
    elif new.hit_policy == "collect":
        yield from _compare_collected(pair, old, new)
    else:
        yield from _compare_decided(pair, old, new)


def find_winner(table: Table, alive: int) -> Rule | None:
    """Return the rule that decides among those that apply; None without one, or if two conflict.

    Args:
        alive: Mask of the rules that apply.
    """
    applying = [number for number in range(len(table.rules)) if alive >> number & 1]
    if not applying:
        return table.otherwise
    if table.hit_policy == "first":
        return table.rules[applying[0]]
    for number in applying:
        if all(number == other or table.beats[number] >> other & 1 for other in applying):
            return table.rules[number]
    return None


# -- the optimizer -----------------------------------------------------------------------------------------------------


def list_optimizer_changes(pair: RulePair) -> Iterator[RuleChange]:
    """Yield the situations in which the tables of concerns and optimizers lead to another optimizer.

    Raises:
        TooLargeError: There are too many differences to list.
    """
    if _have_same_rows(pair):
        return
    names = sorted({*pair.before.deciding_facts, *pair.after.deciding_facts})
    tables = (*pair.before.deciding_tables, *pair.after.deciding_tables)

    def answer(alive: tuple[int, ...]) -> Answers | None:
        old, new = _end_chain(pair.before, *alive[:2]), _end_chain(pair.after, *alive[2:])
        return None if old == new else Answers(old=old, new=new)

    yield from _make_changes(pair, "concern", _sweep(names, tables, pair.after.axes, answer))


def _have_same_rows(pair: RulePair) -> bool:
    """Return whether both deciding tables are equal, so that the sweep can be skipped."""
    before, after = pair.before.catalog.base.tables, pair.after.catalog.base.tables
    names = [table.id for table in pair.after.deciding_tables]
    return all(omit_positions(before[name]) == omit_positions(after[name]) for name in names)


def _sweep(
    names: Sequence[str], tables: Sequence[Table], axes: Axes, answer: Callable[[tuple[int, ...]], Answers | None]
) -> Mapping[Answers, Sequence[Box]]:
    """Return the boxes of each answer.

    Args:
        answer: Returns the answer for the masks of the rules that can still decide in each table; None to ignore it.
    """
    swept = list_columns(names, lambda name, cell: tuple(_read_column(table, name, cell) for table in tables), axes)

    def step(alive: tuple[int, ...], number: int, cell: int) -> tuple[int, ...]:
        name = swept[number].name
        return tuple(rows & _read_column(table, name, cell) for rows, table in zip(alive, tables, strict=True))

    return enumerate_boxes(swept, tuple((1 << len(table.rules)) - 1 for table in tables), step, answer)


def _read_column(table: Table, fact: str, cell: int) -> int:
    """Return the mask of the rules of a table that accept a cell; all if no rule reads the fact."""
    return table.column(fact)[cell] if fact in table.columns else -1


def _end_chain(rules: CompiledRules, concerns: int, choices: int) -> str:
    """Return the optimizer that the remaining rules of concerns and choices lead to."""
    concern_table, choice_table = rules.deciding_tables
    concern = find_winner(concern_table, concerns)
    if concern is None:
        return NO_RULE
    cell = rules.axes["concern"].cell(concern.derived["concern"])
    rule = find_winner(choice_table, choices & choice_table.column("concern")[cell])
    return NO_RULE if rule is None else rule.choice.chosen


def _make_changes(pair: RulePair, table: str, boxes_by_answer: Mapping[Answers, Sequence[Box]]) -> Iterator[RuleChange]:
    """Yield the changes of reachable boxes."""
    for answers, parts in boxes_by_answer.items():
        for box in parts:
            change = make_change(pair, table, box, answers.old, answers.new)
            if change is not None:
                yield change


# -- other tables ------------------------------------------------------------------------------------------------------


def _compare_decided(pair: RulePair, old: Table, new: Table) -> Iterator[RuleChange]:
    """Yield the situations in which a rule with another outcome decides."""

    def answer(alive: tuple[int, ...]) -> Answers | None:
        return _compare_rules(find_winner(old, alive[0]), find_winner(new, alive[1]))

    names = sorted({*old.columns, *new.columns})
    yield from _make_changes(pair, new.id, _sweep(names, (old, new), pair.after.axes, answer))


def _compare_rules(old: Rule | None, new: Rule | None) -> Answers | None:
    """Return the outcomes of two rules if they differ, or None."""
    if old is None or new is None:
        return None if old is new else Answers(old=_describe_rule(old), new=_describe_rule(new))
    return Answers(old=_describe_rule(old), new=_describe_rule(new)) if _have_other_outcomes(old, new) else None


def _have_other_outcomes(old: Rule, new: Rule) -> bool:
    return omit_positions(old.then) != omit_positions(new.then)


def _describe_rule(rule: Rule | None) -> str:
    """Return a rule's outcome with its id."""
    if rule is None:
        return NO_RULE
    outcome = rule.outcome
    value = outcome.get("scheduler") or outcome.get("optimizer")
    if value is None and "points" in outcome:
        value = f"along {outcome['along']}"
    if value is None:
        value = ", ".join(f"{key} {item}" for key, item in outcome.items() if not isinstance(item, dict))
    return f"{value} [{rule.id}]"


def _compare_collected(pair: RulePair, old: Table, new: Table) -> Iterator[RuleChange]:
    """Yield the situations in which a rule of a `collect` table applies in one set only or has another outcome."""
    olds, news = ({rule.id: rule for rule in table.rules} for table in (old, new))
    for name in dict.fromkeys((*olds, *news)):
        before, after = olds.get(name), news.get(name)
        if before is not None and after is not None and _have_other_outcomes(before, after):
            where = describe_box(make_box(after, pair.after.axes), pair.after.axes)
            yield RuleChange(where=where, old=f"{name} (old)", new=f"{name} (changed)", witness=None)
        else:
            yield from _compare_boxes(pair, new.id, name, before, after)


def _compare_boxes(
    pair: RulePair, table: str, name: str, before: Rule | None, after: Rule | None
) -> Iterator[RuleChange]:
    """Yield the situations in which a rule applies only after the change, then those only before."""
    axes = pair.after.axes
    old, new = (None if rule is None else make_box(rule, axes) for rule in (before, after))
    for part in [] if new is None else _subtract(new, old, axes):
        if (change := make_change(pair, table, part, NO_RULE, name)) is not None:
            yield change
    for part in [] if old is None else _subtract(old, new, axes):
        if (change := make_change(pair, table, part, name, NO_RULE)) is not None:
            yield change


def _subtract(box: Box, other: Box | None, axes: Axes) -> list[dict[str, int]]:
    """Return the parts of a box outside another one."""
    if other is None:
        return [dict(box)]
    parts, remaining = [], dict(box)
    for name, mask in other.items():
        cells = remaining.get(name, axes[name].every)
        if cells & ~mask:
            parts.append({**remaining, name: cells & ~mask})
        if not cells & mask:
            return [dict(box)]
        remaining[name] = cells & mask
    return merge_boxes(parts)
