"""The rules as a page: every table, row and condition in words, with the reasons and sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import Step
from optadvise.rule_analysis import describe, graph
from optadvise.rule_analysis.rule_tests import rows
from optadvise.rulebase.hyperparameters import written
from optadvise.rulebase.proofs import census
from optadvise.rulebase.records import Rule, WarningText
from optadvise.rulebase.regions import box_of
from optadvise.rulebase.tables import Table

_HIT = {
    "unique": "one row decides; two rows meet only where one overrides the other and lies inside it",
    "first": "the first row that applies decides; its order is the deliberate answer where rows meet",
    "collect": "every row that applies counts",
}


def markdown(advisor: CompiledRules) -> str:
    """Return the page.

    Args:
        advisor: The rules.
    """
    lines = [
        "# The rules",
        "",
        "Made by `optadvise rules docs` from the files under `rules/`; a test holds it fresh.",
        "",
        "```mermaid",
        graph.mermaid(graph.chain(advisor)).rstrip(),
        "```",
        "",
        "The guide's flowchart, and what the rules answer at its leaves:",
        "",
        "```mermaid",
        graph.mermaid(graph.flowchart(advisor)).rstrip(),
        "```",
        "",
    ]
    for table in advisor.tables.values():
        lines += _table(table, advisor)
    lines += ["## Sources", ""]
    for source in advisor.catalog.sources.values():
        by = f"{source.authors}, " if source.authors else ""
        year = f", {source.year}" if source.year else ""
        where = f"<{source.url}>" if source.url.startswith("https://") else source.url
        lines.append(f"- **{source.id}**: {by}{_plain(source.title)}{year}, {where}")
    return "\n".join(lines) + "\n"


def _table(table: Table, advisor: CompiledRules) -> Iterator[str]:
    counted = census(table, advisor.axes)
    yield f"## {table.id}"
    yield ""
    yield f"{_plain(table.about)} *{table.hit}*: {_HIT[table.hit]}."
    through = "" if counted.otherwise is None else f", of which {counted.otherwise:,} fall through to the last row"
    yield f"{counted.rows} rows over {counted.cells:,} cells{through}."
    yield ""
    yield "| rule | when | then | because |"
    yield "|---|---|---|---|"
    for rule in rows(table):
        when = describe.region(box_of(rule, advisor.axes), advisor.axes) if rule.when else "nothing else applies"
        over = f"; overrides {', '.join(rule.overrides)}" if rule.overrides else ""
        cites = ", ".join(rule.cite)
        cells = (rule.name, when + over, "; ".join(says(rule)), f"{_because(rule)} [{cites}]".lstrip())
        yield f"| **{rule.id}** {' | '.join(_plain(cell) for cell in cells)} |"
    yield ""


def _because(rule: Rule) -> str:
    return "" if isinstance(rule.then, WarningText) else rule.because


def says(rule: Rule) -> Iterator[str]:
    """Yield what a row gives, in words.

    Args:
        rule: The row.
    """
    for name, value in rule.outcome.items():
        if name == "steps":
            yield from (_step(step) for step in rule.steps)
        elif name == "points":
            yield f"{', '.join(f'{written(y)} at {written(x)}' for x, y in value)}"
        elif isinstance(value, Mapping):
            yield f"or {', '.join(value)}"
        else:
            yield f"{name} {written(value)}"


def _step(step: Step) -> str:
    if step.clamp is not None:
        ends = [f"{word} {written(end)}" for end, word in ((step.low, "from"), (step.high, "to")) if end is not None]
        return f"clamp {step.clamp} {' '.join(ends)}"
    if step.by is not None:
        power = "" if step.exponent == 1 else f" to the power of {written(step.exponent)}"
        upto = "" if step.upto is None else f", up to {written(step.upto)}"
        return f"scale {step.scale} by {step.by} / {written(step.reference)}{power}{upto}"
    return f"scale {step.scale} by {written(step.factor)}"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "|<>*_`[" else c for c in text)
