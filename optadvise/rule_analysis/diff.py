"""Differences between the answers of two sets of rules, as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules, list_conditions
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.markdown import escape_markdown, format_code, format_table
from optadvise.rule_analysis.diff_cards import list_card_changes
from optadvise.rule_analysis.diff_records import Difference, RulePair, Section
from optadvise.rule_analysis.diff_tables import list_changes, list_optimizer_changes
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.regions import TooLargeError


def compare_catalogs(old: Catalog, new: Catalog) -> Difference:
    """Return the situations that two sets of rules answer differently.

    Raises:
        InputError: The sets have too many differences to list.
    """
    old, new = _add_optimizers(old, new), _add_optimizers(new, old)
    pair = RulePair(
        before=CompiledRules(old, extra_conditions=list_conditions(new)),
        after=CompiledRules(new, extra_conditions=list_conditions(old)),
    )
    try:
        sections = [section for section in _list_sections(pair) if section.changes]
    except TooLargeError:
        message = "the two sets of rules have too many differences to list; compare intermediate versions"
        raise InputError(message, code=ErrorCode.INCONCLUSIVE) from None
    return Difference(sections=tuple(sections), cards=tuple(list_card_changes(old, new)))


def _add_optimizers(catalog: Catalog, other: Catalog) -> Catalog:
    """Return a catalog whose facts include the optimizers of another one, so that both have the same axes."""
    facts = {
        name: replace(fact, values={**(fact.values or {}), **(other.facts[name].values or {})})
        if fact.values_from else fact
        for name, fact in catalog.facts.items()
    }  # fmt: skip
    return catalog.with_base(replace(catalog.base, facts=facts))


def _list_sections(pair: RulePair) -> Iterator[Section]:
    yield Section(title="Optimizer", changes=tuple(list_optimizer_changes(pair)))
    before, after = pair.before.tables, pair.after.tables
    deciding = {table.id for table in pair.after.deciding_tables}
    for name in dict.fromkeys((*before, *after)):
        if name not in deciding:
            table = after[name] if name in after else before[name]
            yield Section(title=f"{table.about.rstrip('.')} ({name})", changes=tuple(list_changes(pair, name)))


def format_markdown(difference: Difference) -> str:
    """Return a difference as Markdown for a pull request."""
    if difference.same:
        return "The two sets of rules give the same answer in every situation.\n"
    lines = []
    for section in difference.sections:
        rows = ((change.where, change.old, change.new, format_code(change.witness or "")) for change in section.changes)
        lines += [
            f"### {escape_markdown(section.title)}",
            "",
            *format_table(("situation", "before", "after", "example"), rows),
            "",
        ]
    if difference.cards:
        lines += ["### Cards and lists", "", *(f"- {escape_markdown(card)}" for card in difference.cards), ""]
    return "\n".join(lines)
