"""Recommendation as text: a short answer, or with --explain every rule, source and derivation."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from optadvise.core.advice_records import (
    AdviceWarning,
    AdvisedHyperparameter,
    HyperparameterStep,
    Recommendation,
    TraceEntry,
)
from optadvise.core.cards import SHIPPED
from optadvise.core.records import MemoryAnswer
from optadvise.core.units import show_bytes, show_max_count
from optadvise.evidence.apply import REFUTED_CHOICE
from optadvise.render import evidence, headings
from optadvise.render.explanation import Explanation
from optadvise.render.labels import format_sentence, format_typical_range
from optadvise.render.memory import describe_fit, describe_sized_run, describe_unknown_memory
from optadvise.render.recommendation import (
    describe_policy,
    describe_reason,
    describe_schedule,
    format_bench_command,
    format_call,
    format_companion_call,
    format_exact_bench_command,
    format_state,
    list_changes,
    list_table_numbers,
    sort_warnings,
)
from optadvise.render.run_plan import ChoiceRow, describe_run, describe_tokens, list_choices
from optadvise.render.text.console import (
    NO_BREAK,
    Page,
    format_heading,
    print_call,
    print_paragraph,
    print_rows,
    print_section,
    print_unbroken,
)
from optadvise.render.text.estimate import print_breakdown, print_fixes
from optadvise.render.text.explanation import print_near_misses, print_why_not
from optadvise.render.text.short_advice import print_published, print_short_sections
from optadvise.render.text.situation import print_assumptions
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import format_value

_WARMUP = "warmup_fraction"  # the schedule's line has the warmup in steps
# Where hyperparameters of the run are used, other than in the optimizer.
_FUNCTIONS = {
    "max_grad_norm": "for clip_grad_norm_", "lora_alpha": "for LoraConfig", "lora_dropout": "for LoraConfig",
    "layer_decay": "lr factor per layer below the head", "ema_decay": "for AveragedModel",
    "tokens_per_step": "best --batch-size × --seq-len",
}  # fmt: skip


def render_text(
    advice: Recommendation,
    catalog: Catalog,
    fit: MemoryAnswer | None = None,
    explanation: Explanation | None = None,
    *,
    plain: bool = False,
) -> str:
    """Return a recommendation as text for a terminal; without explained decisions, the short answer.

    Args:
        fit: Changes after which it fits, where it does not for certain.
        plain: Use no colors, for a file.
    """
    is_short = explanation is None or not explanation.decisions
    page = Page(keep=True, plain=plain)
    with page as out:
        _print_optimizer(out, advice)
        _print_numbers(out, advice, is_short=is_short)
        choices = [_format_choice(row, is_short=is_short) for row in list_choices(advice, catalog)]
        print_section(out, headings.CHOICES, choices, "left", "wrap")
        if explanation is not None:
            print_why_not(out, explanation, catalog)
        if explanation is None or is_short:
            print_short_sections(out, advice, catalog, fit)
        else:
            _print_explained_sections(out, advice, catalog, fit, explanation)
    return page.text


def _print_optimizer(out: Console, advice: Recommendation) -> None:
    """Print the optimizer, its constructor call and its known problems."""
    optimizer, implementation = advice.optimizer, advice.implementation
    out.print(f"[bold]{escape(optimizer.name)}[/bold]  ({optimizer.id})")
    if advice.memory.fits is False:
        print_paragraph(out, describe_fit(advice.memory, advice.situation))
    for warning in advice.warnings:
        if warning.id.startswith(REFUTED_CHOICE):
            print_rows(out, [("[bold]![/bold]", escape(warning.text))], "left", "wrap")
    deviation = evidence.describe_deviation(implementation, advice.evidence)
    if deviation is not None:
        print_paragraph(out, f"[bold]{escape(format_sentence(deviation))}[/bold]")
    package = implementation.package
    print_call(out, format_call(advice), "" if package in (None, "", "torch") else f"pip install {package}")
    if optimizer.companion and advice.companion:
        print_paragraph(out, escape(f"and for {optimizer.companion.tensors}:"))
        print_call(out, format_companion_call(advice))
    out.print()


def _print_numbers(out: Console, advice: Recommendation, *, is_short: bool) -> None:
    numbers = [
        (number.name, format_value(number.value), _describe_number(number))
        for number in list_table_numbers(advice)
        if not (is_short and number.name == _WARMUP and advice.schedule.quantities["warmup_steps"])
    ]
    width = max((len(value) for _, value, _ in numbers), default=0)
    rows = [
        (name, f"[bold]{escape(value)}[/bold]{NO_BREAK * (width - len(value) + 2)}{typical}")
        for name, value, typical in numbers
    ]
    rows.append(("schedule", f"[bold]{advice.schedule.id}[/bold], {describe_schedule(advice)}"))
    rows.append(("run", escape(describe_run(advice))))
    tokens = describe_tokens(advice)
    rows += [("tokens", tokens)] if tokens else []
    print_rows(out, rows, "left", "wrap")


def _format_choice(row: ChoiceRow, *, is_short: bool) -> tuple[str, str]:
    """Return, as markup, a choice of how to run and its effect, with its sources unless the answer is short."""
    if is_short:
        return escape(row.option), escape(row.short_effect)
    return escape(row.option), f"{escape(row.effect)} [dim]\\[{escape(', '.join(row.cite))}][/dim]"


def _describe_number(number: AdvisedHyperparameter) -> str:
    """Return a hyperparameter's typical range, the published value, and the function that uses it if any.

    A rule states a published value only where its own was measured to be the best.
    """
    published = ""
    if number.published is not None:
        published = f"best in published sweeps; published runs use {format_value(number.published)}"
    function = _FUNCTIONS.get(number.name, "")
    return ", ".join(filter(None, [function, format_typical_range(number.low, number.high), published]))


# -- with --explain ---------------------------------------------------------------------------------------------------


def _print_explained_sections(
    out: Console, advice: Recommendation, catalog: Catalog, fit: MemoryAnswer | None, explanation: Explanation
) -> None:
    reasons = [(entry.rule, _format_reason(entry)) for entry in advice.trace]
    print_section(out, headings.RULES_APPLIED, reasons, "left", "wrap")
    print_near_misses(out, explanation, catalog)
    _print_derivations(out, advice)
    findings = [("·", escape(sentence)) for sentence in evidence.list_sentences(advice.evidence)]
    print_section(out, headings.MEASURED, findings, "left", "wrap")
    _print_memory(out, advice)
    if fit is not None:
        print_fixes(out, fit, catalog, name_optimizer=True)
    _print_alternatives(out, advice)
    policies = [("·", escape(describe_policy(answer))) for answer in advice.policies]
    print_section(out, headings.POLICIES, policies, "left", "wrap")
    print_published(out, advice, catalog)
    changes = [(escape(option), f"→ {optimizer}") for option, optimizer in list_changes(advice, catalog)]
    print_section(out, headings.CHANGES, changes, "left", "left")
    _print_warnings(out, advice)
    print_assumptions(out, advice.situation, catalog)
    out.print(format_heading(headings.NEXT))
    print_unbroken(out, format_bench_command(advice, catalog))
    print_paragraph(out, "With exactly these hyperparameters:")
    print_unbroken(out, format_exact_bench_command(advice, catalog, "optadvise recommend …"), indent=4)


def _format_reason(entry: TraceEntry | HyperparameterStep) -> str:
    reason = describe_reason(entry) if isinstance(entry, TraceEntry) else format_sentence(entry.because)
    return f"{escape(reason)}{_format_sources(entry)}"


def _format_sources(entry: TraceEntry | HyperparameterStep | AdviceWarning) -> str:
    """Return, as markup, the sources of an entry, and the layer of its rule unless it is a shipped one."""
    layer = "" if entry.layer == SHIPPED else f", from {entry.layer}"
    return f" [dim]\\[{escape(', '.join(entry.cite) + layer)}][/dim]"


def _print_derivations(out: Console, advice: Recommendation) -> None:
    out.print(format_heading(headings.DERIVATIONS))
    for number in advice.hyperparameters:
        out.print(f"  {number.name} = {format_value(number.value)}")
        rows = [(f"  {entry.rule}", escape(entry.step), _format_reason(entry)) for entry in number.derivation]
        print_rows(out, rows, "left", "left", "wrap")


def _print_memory(out: Console, advice: Recommendation) -> None:
    memory = advice.memory
    if memory.model_states is not None:
        print_breakdown(out, memory)
        print_paragraph(out, describe_fit(memory, advice.situation))
    elif not advice.max_model_sizes:
        print_section(out, headings.MEMORY, [(describe_unknown_memory(memory.available),)], "wrap")
    rows = []
    for band in sorted(advice.max_model_sizes, key=lambda band: -band.max_params):
        size = show_max_count(band.max_params) if band.max_params else "none"
        total = f"{band.bytes_per_parameter:.2f} B/param in total" if band.max_params else ""
        rows.append((band.optimizer, size, total))
    run = "".join(f"; {describe_sized_run(band)}" for band in advice.max_model_sizes[:1])
    title = f"{headings.MODEL_SIZES} {show_bytes(memory.available or 0)} (estimated, typical shapes{run})"
    print_section(out, title, rows, ("", "left"), ("parameters", "right"), ("", "wrap"))


def _print_alternatives(out: Console, advice: Recommendation) -> None:
    rows = []
    for other in advice.alternatives:
        verdict = "[bold]Does not fit.[/bold] " if other.fits is False else ""
        rows.append((other.id, format_state(other), verdict + escape(format_sentence(other.because))))
    print_section(out, headings.ALTERNATIVES, rows, ("", "left"), ("state", "right"), ("", "wrap"))


def _print_warnings(out: Console, advice: Recommendation) -> None:
    rows = []
    for warning in sort_warnings(advice):
        if not warning.id.startswith(REFUTED_CHOICE):  # printed below the optimizer's name
            mark = "[bold]![/bold]" if warning.level == "warning" else "·"
            rows.append((mark, f"{escape(warning.text)}{_format_sources(warning)}"))
    print_section(out, headings.NOTES, rows, "left", "wrap")
