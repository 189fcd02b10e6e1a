"""Recommendation as text: the answer first, then reasons, memory, alternatives and warnings."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from optadvise.core.cards import SHIPPED
from optadvise.core.records import AdviceWarning, HyperparameterStep, MemoryAnswer, Recommendation, TraceEntry
from optadvise.core.units import show_bytes, show_count
from optadvise.evidence.apply import REFUTED_CHOICE
from optadvise.render import evidence
from optadvise.render.explanation import Explanation
from optadvise.render.labels import format_range, format_settings
from optadvise.render.memory import describe_fit
from optadvise.render.recommendation import describe_schedule, format_state, list_flips, sort_warnings
from optadvise.render.text.console import Page, format_heading, print_paragraph, print_rows, print_section
from optadvise.render.text.estimate import print_breakdown, print_fixes
from optadvise.render.text.explanation import print_near_misses, print_why_not
from optadvise.render.text.situation import print_assumptions
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import format_value


def render_text(
    advice: Recommendation,
    catalog: Catalog,
    fit: MemoryAnswer | None = None,
    explanation: Explanation | None = None,
    *,
    plain: bool = False,
) -> str:
    """Return a recommendation as text for a terminal.

    Args:
        fit: Changes after which it fits, where it does not for certain.
        plain: Use no colours, for a file.
    """
    page = Page(keep=True, plain=plain)
    with page as out:
        _print_answer(out, advice)
        print_section(out, "Why", [(entry.rule, _format_reason(entry)) for entry in advice.trace], "left", "wrap")
        lines = [("·", escape(line)) for line in evidence.list_sentences(advice.evidence)]
        print_section(out, evidence.HEADING, lines, "left", "wrap")
        if explanation is not None:
            print_why_not(out, explanation, catalog)
            print_near_misses(out, explanation)
            if explanation.decisions:
                _print_derivations(out, advice)
        _print_memory(out, advice)
        if fit is not None:
            print_fixes(out, fit, catalog, name_optimizer=True)
        _print_alternatives(out, advice)
        flips = [(escape(option), f"→ {optimizer}") for option, optimizer in list_flips(advice, catalog)]
        print_section(out, "Would change with", flips, "left", "left")
        _print_warnings(out, advice)
        print_assumptions(out, advice.situation, catalog)
        out.print(format_heading("Next"))
        out.print(f"  optadvise bench {advice.optimizer.id}")
        out.print("  the same line with --json | optadvise bench - measures exactly this advice")
    return page.text


def _print_answer(out: Console, advice: Recommendation) -> None:
    optimizer, implementation = advice.optimizer, advice.implementation
    out.print(f"[bold]{escape(optimizer.name)}[/bold]  ({optimizer.id})")
    is_installed_with_torch = implementation.package in (None, "", "torch")
    source = "" if is_installed_with_torch else f", from pip install {implementation.package}"
    out.print(f"  {escape(implementation.path + source)}", soft_wrap=True)
    for warning in advice.warnings:
        if warning.id.startswith(REFUTED_CHOICE):
            print_rows(out, [("[bold]![/bold]", escape(warning.text))], "left", "wrap")
    deviation = evidence.describe_deviation(implementation, advice.evidence)
    if deviation is not None:
        print_paragraph(out, f"[bold]{escape(deviation)}[/bold]")
    if optimizer.companion and advice.companion:
        settings, reason = format_settings(advice.companion.kwargs), optimizer.companion.tensors
        path = advice.companion.implementation.path
        print_paragraph(out, escape(f"with {path} ({settings}) beside it for {reason}"))
    memory = advice.memory
    if memory.fits is False:
        needed, available = show_bytes(memory.total or memory.model_states or 0), show_bytes(memory.available or 0)
        out.print(f"  [bold]Does not fit[/bold]: {needed} needed of {available}; see below")
    out.print()
    _print_numbers(out, advice)


def _print_numbers(out: Console, advice: Recommendation) -> None:
    rows = []
    for number in advice.hyperparameters:
        if number.value is not None:
            typical = format_range(number.low, number.high)
            value = f"[bold]{escape(format_value(number.value))}[/bold]"
            rows.append((number.name, value, typical and f"usual {typical}"))
    schedule = ("schedule", f"[bold]{advice.schedule.id}[/bold]", describe_schedule(advice))
    print_rows(out, [*rows, schedule], "left", "left", "wrap")


def _format_reason(entry: TraceEntry | HyperparameterStep) -> str:
    return f"{escape(entry.because)}{_format_sources(entry)}"


def _format_sources(entry: TraceEntry | HyperparameterStep | AdviceWarning) -> str:
    """Return what an entry cites, and the layer of its rule where it is not a shipped one."""
    layer = "" if entry.layer == SHIPPED else f", from {entry.layer}"
    return f" [dim]\\[{escape(', '.join(entry.cite) + layer)}][/dim]"


def _print_derivations(out: Console, advice: Recommendation) -> None:
    out.print(format_heading("How each number came to be"))
    for number in advice.hyperparameters:
        out.print(f"  {number.name} = {format_value(number.value)}")
        rows = [(f"  {entry.rule}", escape(entry.step), _format_reason(entry)) for entry in number.derivation]
        print_rows(out, rows, "left", "left", "wrap")


def _print_memory(out: Console, advice: Recommendation) -> None:
    memory = advice.memory
    if memory.model_states is not None:
        print_breakdown(out, memory)
        print_paragraph(out, describe_fit(memory, advice.situation))
    else:
        out.print(format_heading("Memory"))
        if not advice.max_model_sizes:
            hint = "" if memory.available is not None else "; --vram or --gpu tells what would fit"
            out.print(f"  Not known without --params{hint}.")
    if advice.max_model_sizes:
        size = show_bytes(memory.available or 0)
        out.print(f"  Up to which model size each is expected to fit {size} (derived, typical shapes):")
        rows = []
        for band in sorted(advice.max_model_sizes, key=lambda band: -band.max_params):
            each = f"{band.bytes_per_parameter:.2f} B per parameter in all" if band.max_params else "no size"
            rows.append((band.optimizer, show_count(band.max_params), each))
        print_rows(out, rows, "left", "right", "wrap", indent=4)


def _print_alternatives(out: Console, advice: Recommendation) -> None:
    rows = []
    for other in advice.alternatives:
        verdict = "[bold]does not fit[/bold]; " if other.fits is False else ""
        rows.append((other.id, format_state(other), verdict + escape(other.because)))
    print_section(out, "Alternatives", rows, ("", "left"), ("state", "right"), ("", "wrap"))


def _print_warnings(out: Console, advice: Recommendation) -> None:
    if not advice.warnings:
        return
    rows = []
    for warning in sort_warnings(advice):
        if not warning.id.startswith(REFUTED_CHOICE):  # printed below the optimizer's name
            mark = "[bold]![/bold]" if warning.level == "warning" else "·"
            rows.append((mark, f"{escape(warning.text)}{_format_sources(warning)}"))
    out.print(format_heading("Know before you start"))
    print_rows(out, rows, "left", "wrap")
