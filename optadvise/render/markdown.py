"""Recommendation as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from optadvise.core.advice_records import Recommendation
from optadvise.core.markdown import escape_markdown, format_code, format_table
from optadvise.core.records import MemoryAnswer
from optadvise.core.version import __version__
from optadvise.render import evidence, headings
from optadvise.render.labels import format_options, format_range, format_sentence, format_size, list_assumptions
from optadvise.render.memory import describe_chain, describe_fit
from optadvise.render.recommendation import (
    describe_policy,
    describe_published,
    describe_reason,
    describe_schedule,
    format_call,
    format_companion_call,
    list_changes,
    sort_warnings,
)
from optadvise.render.run_plan import describe_run, describe_tokens, list_choices
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import format_value


def render_recommendation(advice: Recommendation, catalog: Catalog, fit: MemoryAnswer | None = None) -> str:
    """Return a recommendation as Markdown.

    Args:
        fit: Changes after which it fits, where it does not for certain.
    """
    warnings = (
        f"{'**!** ' if note.level == 'warning' else ''}{escape_markdown(note.text)} {_cite(note.cite, catalog)}"
        for note in sort_warnings(advice)
    )
    why = (
        f"**{entry.rule}** {escape_markdown(describe_reason(entry))} {_cite(entry.cite, catalog)}"
        for entry in advice.trace
    )
    choices = (
        f"{format_code(row.option)}: {escape_markdown(row.effect)} {_cite(row.cite, catalog)}"
        for row in list_choices(advice, catalog)
    )
    alternatives = (
        f"**{other.id}**: {escape_markdown(format_sentence(other.because))}" for other in advice.alternatives
    )
    published = (
        f"[{run.name}]({run.cite}): {escape_markdown(describe_published(run, advice, catalog))}"
        for run in advice.published
    )
    changes = (f"{format_code(option)} → {optimizer}" for option, optimizer in list_changes(advice, catalog))
    assumed = ", ".join(list_assumptions(advice.situation, catalog)) or "nothing"
    blocks = [
        [f"## {escape_markdown(advice.optimizer.name)}, {advice.schedule.id}"],
        [_describe_source(advice)],
        _table_numbers(advice),
        _section(headings.CHOICES, choices),
        _section(headings.RULES_APPLIED, why),
        _section(headings.MEASURED, map(escape_markdown, evidence.list_sentences(advice.evidence))),
        _section_memory(advice),
        [] if fit is None else _section_fixes(fit, catalog),
        _section(headings.ALTERNATIVES, alternatives),
        _section(headings.POLICIES, (escape_markdown(describe_policy(answer)) for answer in advice.policies)),
        _section(headings.PUBLISHED, published),
        _section(headings.CHANGES, changes),
        _section(headings.NOTES, warnings),
        [f"*optadvise {__version__}, rules {advice.fingerprint}. {headings.ASSUMED}: {assumed}.*"],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _describe_source(advice: Recommendation) -> str:
    implementation = advice.implementation
    install = f"; `pip install {implementation.package}`" if implementation.package not in (None, "", "torch") else ""
    companion = format_companion_call(advice)
    tensors = advice.optimizer.companion.tensors if advice.optimizer.companion else ""
    beside = f"; for {escape_markdown(tensors)}: {format_code(companion)}" if companion else ""
    deviation = evidence.describe_deviation(implementation, advice.evidence)
    deviates = "" if deviation is None else f". {escape_markdown(deviation)}"
    return f"{format_code(format_call(advice))}{beside}{install}{deviates}"


def _table_numbers(advice: Recommendation) -> list[str]:
    rows = []
    for number in advice.hyperparameters:
        if number.value is not None:
            steps = "; ".join(f"{entry.step} ({entry.rule}: {entry.because})" for entry in number.derivation)
            rows.append((number.name, format_value(number.value), format_range(number.low, number.high), steps))
    rows.append(("schedule", advice.schedule.id, "", describe_schedule(advice)))
    rows.append(("run", "", "", describe_run(advice)))
    rows += [("tokens", "", "", describe_tokens(advice))] if describe_tokens(advice) else []
    return format_table(("", "value", "typical range", "derivation"), rows)


def _section_memory(advice: Recommendation) -> list[str]:
    memory = advice.memory
    if memory.total is None and memory.model_states is None:
        return []
    verdict = escape_markdown(describe_fit(memory, advice.situation).plain)
    rows = ((line.part, format_size(line.at_peak), line.how) for line in memory.breakdown)
    return [f"### {headings.MEMORY} (estimated)", "", verdict, "", *format_table(("", "at the peak", ""), rows)]


def _section_fixes(fit: MemoryAnswer, catalog: Catalog) -> list[str]:
    chains = []
    for chain in fit.fixes:
        options = (
            f"{format_code(format_options(catalog, fix.change))} (cost: {escape_markdown(fix.costs.rstrip('.'))})"
            for fix in chain
        )
        chains.append(f"{describe_chain(chain)}: {', '.join(options)}")
    return _section(headings.FIXES, chains)


def _section(title: str, items: Iterable[str]) -> list[str]:
    bullets = [f"- {item.strip()}" for item in items]
    return [f"### {title}", "", *bullets] if bullets else []


def _cite(cites: Iterable[str], catalog: Catalog) -> str:
    links = []
    for cite in cites:
        url = catalog.sources[cite].url if cite in catalog.sources else ""
        is_safe = url.startswith(("https://", "http://")) and not re.search(r"[\s()<>]", url)
        links.append(f"[{escape_markdown(cite)}]({url})" if is_safe else escape_markdown(cite))
    return f"({', '.join(links)})"
