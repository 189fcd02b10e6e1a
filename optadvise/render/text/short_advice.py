"""Sections of the short answer to `recommend`: reasons, memory, changes and notes, without rule ids and sources."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from optadvise.core.advice_records import Recommendation, TraceEntry
from optadvise.core.records import MemoryAnswer
from optadvise.core.units import show_bytes, show_max_count
from optadvise.evidence.apply import REFUTED_CHOICE
from optadvise.render import evidence, headings
from optadvise.render.labels import format_sentence
from optadvise.render.memory import (
    describe_fit,
    describe_sized_run,
    describe_unknown_memory,
    is_tight,
    list_large_parts,
)
from optadvise.render.recommendation import (
    describe_comparison,
    describe_policy,
    describe_published,
    describe_reason,
    format_bench_command,
    list_changes,
    sort_warnings,
)
from optadvise.render.text.console import print_labelled, print_section
from optadvise.render.text.estimate import print_fixes
from optadvise.render.text.situation import print_inputs
from optadvise.rulebase.catalog import Catalog

# At most so many of each, and one less if the run may not fit, which takes more lines.
_REASONS, _CHANGES, _WARNINGS, _PUBLISHED = 3, 3, 3, 2
_HINT = "--explain shows all reasons, fixes, notes, rules, sources and computations."


def print_short_sections(out: Console, advice: Recommendation, catalog: Catalog, fit: MemoryAnswer | None) -> None:
    """Print what follows the numbers in the short answer.

    Args:
        fit: Changes after which it fits, where it does not for certain.
    """
    reasons = [("·", escape(text)) for text in _list_reasons(advice, catalog)]
    print_section(out, headings.WHY, reasons[: _REASONS - (advice.memory.fits is False)], "left", "wrap")
    findings = [("·", escape(text)) for text in evidence.list_sentences(evidence.select_relevant(advice))]
    print_section(out, headings.MEASURED, findings, "left", "wrap")
    _print_memory(out, advice, catalog, fit)
    print_published(out, advice, catalog, _PUBLISHED)
    changes = [(escape(option), f"→ {optimizer}") for option, optimizer in list_changes(advice, catalog)]
    print_section(out, headings.CHANGES, changes[: _CHANGES - _may_not_fit(advice)], "left", "left")
    _print_notes(out, advice)
    print_inputs(out, advice.situation, catalog)
    out.print()
    print_labelled(out, [(headings.NEXT, format_bench_command(advice, catalog))])
    note = describe_comparison(advice, catalog)
    if note:
        out.print(note)
    out.print(_HINT)


def print_published(out: Console, advice: Recommendation, catalog: Catalog, limit: int | None = None) -> None:
    """Print the nearest published runs, all without a limit."""
    rows = [(run.name, escape(describe_published(run, advice, catalog))) for run in advice.published[:limit]]
    print_section(out, headings.PUBLISHED, rows, "left", "wrap")


def _may_not_fit(advice: Recommendation) -> bool:
    return advice.memory.fits is False or is_tight(advice.memory)


def _list_reasons(advice: Recommendation, catalog: Catalog) -> list[str]:
    """Return the reasons for the optimizer, for its learning rate and for the schedule."""
    *choices, schedule = map(describe_reason, _select_reasons(advice, catalog))
    rates = (number.derivation for number in advice.hyperparameters if number.name == "lr")
    return [*choices, *(format_sentence(steps[0].because) for steps in rates if steps), schedule]


def _select_reasons(advice: Recommendation, catalog: Catalog) -> list[TraceEntry]:
    """Return the reasons without a main constraint that is none or that led to another optimizer than specified."""
    tables = catalog.base.tables
    chosen = {rule.id: rule.outcome.get("optimizer") for table in tables.values() for rule in table.all_rules}
    is_overruled = any(chosen[entry.rule] not in (None, advice.optimizer.id) for entry in advice.trace)
    return [
        entry
        for entry in advice.trace
        if tables[entry.table].kind != "derive"
        or not (is_overruled or entry.rule == getattr(tables[entry.table].otherwise, "id", None))
    ]


def _print_memory(out: Console, advice: Recommendation, catalog: Catalog, fit: MemoryAnswer | None) -> None:
    """Print lines about memory and alternatives, and fixes if the run may not fit."""
    memory = advice.memory
    lines: list[tuple[str, Text | str]] = []
    if memory.fits is not False:  # otherwise, the verdict is below the optimizer's name
        is_sized = memory.model_states is not None
        text = describe_fit(memory, advice.situation) if is_sized else _describe_largest_model(advice)
        lines.append(("Memory", text))
    if _may_not_fit(advice):
        lines.append(("Largest parts", list_large_parts(memory)))
    others = ", ".join(_list_alternatives(advice))
    lines += [(headings.ALTERNATIVES, others)] if others else []
    policies = ", ".join(describe_policy(answer) for answer in advice.policies)
    lines += [(headings.POLICIES, policies)] if policies else []
    if lines:
        out.print()
        print_labelled(out, lines)
    if fit is not None and _may_not_fit(advice):
        print_fixes(out, fit, catalog, name_optimizer=True, is_short=True)


def _list_alternatives(advice: Recommendation) -> Iterator[str]:
    """Yield the alternatives that may fit, with the largest model of each if the model's size is unknown."""
    largest = {size.optimizer: show_max_count(size.max_params) for size in advice.max_model_sizes if size.max_params}
    for other in advice.alternatives:
        if other.fits is not False:
            yield f"{other.id} (up to {largest[other.id]})" if other.id in largest else other.id


def _describe_largest_model(advice: Recommendation) -> str:
    """Return up to which model size the optimizer fits, if a limit is known; the model's size is not."""
    available = advice.memory.available
    largest = next((size for size in advice.max_model_sizes if size.optimizer == advice.optimizer.id), None)
    if available is None or largest is None:
        return describe_unknown_memory(available)
    limit = show_bytes(available)
    if not largest.max_params:
        return f"Not expected to fit {limit} at any model size ({describe_sized_run(largest)})."
    count, run = show_max_count(largest.max_params), describe_sized_run(largest)
    fit = f"Models of up to {count} parameters are expected to fit in {limit} ({run})."
    return f"{fit} With --params, choices that save memory let larger ones fit."


def _print_notes(out: Console, advice: Recommendation) -> None:
    """Print the first warnings and, if there is space, one note of level info."""
    is_misfit = _may_not_fit(advice)
    notes = [note for note in sort_warnings(advice) if not note.id.startswith(REFUTED_CHOICE)]
    warnings = sum(note.level == "warning" for note in notes)
    shown = notes[: min(warnings + (not is_misfit), _WARNINGS - is_misfit)]
    rows = [("[bold]![/bold]" if note.level == "warning" else "·", escape(note.text)) for note in shown]
    parts = ["! warning"] * bool(warnings) + [f"{len(notes) - len(shown)} more with --explain"] * (
        len(notes) > len(shown)
    )
    print_section(out, headings.NOTES + f" ({'; '.join(parts)})" * bool(parts), rows, "left", "wrap")
