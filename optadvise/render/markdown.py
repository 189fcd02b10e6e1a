"""Recommendation as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from optadvise.core.markdown_table import format_table
from optadvise.core.records import MemoryAnswer, Recommendation
from optadvise.core.units import show_bytes
from optadvise.core.version import __version__
from optadvise.render import evidence
from optadvise.render.labels import format_option, format_range, format_size
from optadvise.render.recommendation import list_flips, sort_warnings
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import format_value


def _escape(text: str) -> str:
    """Return a text in one line that Markdown shows as it is: no HTML, links or images of its own."""
    return re.sub(r"([<>\[\]`*_\\])", r"\\\1", " ".join(text.split()))


def render_recommendation(advice: Recommendation, catalog: Catalog, fit: MemoryAnswer | None = None) -> str:
    """Return a recommendation as Markdown.

    Args:
        fit: Changes after which it fits, where it does not for certain.
    """
    warnings = (
        f"{'**!** ' if warning.level == 'warning' else ''}{_escape(warning.text)} {_cite(warning.cite, catalog)}"
        for warning in sort_warnings(advice)
    )
    why = (f"**{entry.rule}** {_escape(entry.because)} {_cite(entry.cite, catalog)}" for entry in advice.trace)
    alternatives = (f"**{other.id}**: {_escape(other.because)}" for other in advice.alternatives)
    flips = (f"{_code(option)} → {optimizer}" for option, optimizer in list_flips(advice, catalog))
    assumed = ", ".join(advice.situation.assumed) or "nothing"
    blocks = [
        [f"## {_escape(advice.optimizer.name)}, {advice.schedule.id}"],
        [_describe_source(advice)],
        _table_numbers(advice),
        _section("Why", why),
        _section(evidence.HEADING, map(_escape, evidence.list_sentences(advice.evidence))),
        _section_memory(advice),
        [] if fit is None else _section_fixes(fit, catalog),
        _section("Alternatives", alternatives),
        _section("Would change with", flips),
        _section("Know before you start", warnings),
        [f"*optadvise {__version__}, rules {advice.fingerprint}; assumed, as nobody said: {assumed}.*"],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _describe_source(advice: Recommendation) -> str:
    implementation = advice.implementation
    install = f", `pip install {implementation.package}`" if implementation.package else ""
    deviation = evidence.describe_deviation(implementation, advice.evidence)
    return f"`{implementation.path}`{install}" + ("" if deviation is None else f"; {_escape(deviation)}")


def _table_numbers(advice: Recommendation) -> list[str]:
    rows = []
    for number in advice.hyperparameters:
        if number.value is not None:
            steps = "; ".join(f"{entry.step} ({entry.rule}: {entry.because})" for entry in number.derivation)
            rows.append((number.name, format_value(number.value), format_range(number.low, number.high), steps))
    total, warmup = (advice.schedule.quantities[name] for name in ("total_steps", "warmup_steps"))
    rows.append(("schedule", advice.schedule.id, "", f"{total:,} steps, {warmup:,} of them up"))
    return _table(("", "value", "usual", "how it came to be"), rows)


def _section_memory(advice: Recommendation) -> list[str]:
    memory = advice.memory
    if memory.total is None and memory.model_states is None:
        return []
    verdict = {True: "fits", False: "does not fit", None: "may fit"}[memory.fits]
    limit = "" if memory.available is None else f" of {show_bytes(memory.available)}: {verdict}"
    total = f"{show_bytes(memory.total or memory.model_states or 0)} needed{limit} (derived)."
    rows = ((line.part, format_size(line.at_peak), line.how) for line in memory.breakdown)
    return ["### Memory of one GPU", "", total, "", *_table(("", "at the peak", ""), rows)]


def _section_fixes(fit: MemoryAnswer, catalog: Catalog) -> list[str]:
    chains = []
    for chain in fit.fixes:
        options = (_code(format_option(catalog, *change)) for fix in chain for change in fix.change.items())
        chains.append(f"{' and '.join(options)}: {'; '.join(_escape(fix.costs) for fix in chain)}")
    return _section("What would make it fit", chains)


def _section(title: str, items: Iterable[str]) -> list[str]:
    bullets = [f"- {item.strip()}" for item in items]
    return [f"### {title}", "", *bullets] if bullets else []


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return format_table(headers, ([*map(_escape, row)] for row in rows))


def _code(text: str) -> str:
    """Return text as code that no character in it can end."""
    return f"`{text.replace('`', '')}`"


def _cite(cites: Iterable[str], catalog: Catalog) -> str:
    links = []
    for cite in cites:
        url = catalog.sources[cite].url if cite in catalog.sources else ""
        is_safe = url.startswith(("https://", "http://")) and not re.search(r"[\s()<>]", url)
        links.append(f"[{_escape(cite)}]({url})" if is_safe else _escape(cite))
    return f"({', '.join(links)})"
