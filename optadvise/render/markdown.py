"""A recommendation as Markdown, for a pull request, an issue or a lab book."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from optadvise.core.records import MemoryAnswer, Recommendation
from optadvise.core.units import show_bytes, show_number
from optadvise.core.version import __version__
from optadvise.render.text import evidence
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import written


def recommendation(advice: Recommendation, catalog: Catalog, fit: MemoryAnswer | None = None) -> str:
    """Return the advice as Markdown.

    Args:
        advice: The recommendation.
        catalog: Where cites and flags are looked up.
        fit: What would make it fit, where it does not for certain.
    """
    off = evidence.deviates(advice.implementation, advice.evidence)
    blocks = [
        [f"## {_plain(advice.optimizer.name)}, {advice.schedule.id}"],
        [f"`{advice.implementation.path}`"
         + (f", `pip install {advice.implementation.package}`" if advice.implementation.package else "")
         + ("" if off is None else f"; {_plain(off)}")],
        _numbers(advice, catalog),
        ["### Why", "", *(f"- **{entry.rule}** {_plain(entry.because)} {_cites(entry.cite, catalog)}"
                          for entry in advice.trace)],
        _section(evidence.HEADING, map(_plain, evidence.lines(advice.evidence))),
        _memory(advice),
        _fixes(fit, catalog),
        _section("Alternatives", (f"**{o.id}**: {_plain(o.because)}" for o in advice.alternatives)),
        _section("Would change with", (
            f"`{_option(catalog, name, change)}` → {flip.optimizer}"
            for flip in advice.sensitivities for name, change in flip.change.items())),
        _section("Know before you start", (
            f"{'**!** ' if w.level == 'warning' else ''}{_plain(w.text)} {_cites(w.cite, catalog)}"
            for w in sorted(advice.warnings, key=lambda w: w.level != "warning"))),
        [f"*optadvise {__version__}, rules {advice.fingerprint}; assumed, as nobody said: "
         f"{', '.join(advice.situation.assumed) or 'nothing'}.*"],
    ]  # fmt: skip
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _numbers(advice: Recommendation, catalog: Catalog) -> list[str]:
    rows = []
    for number in advice.hyperparameters:
        if number.value is None:
            continue
        usual = "" if number.low is None or number.high is None else (
            f"{show_number(number.low)} … {show_number(number.high)}"
        )  # fmt: skip
        how = "; ".join(f"{entry.step} ({entry.rule}: {entry.because})" for entry in number.derivation)
        rows.append((number.name, written(number.value), usual, how))
    named = advice.schedule.quantities
    rows.append(
        ("schedule", advice.schedule.id, "", f"{named['total_steps']:,} steps, {named['warmup_steps']:,} of them up")
    )
    return _table(("", "value", "usual", "how it came to be"), rows)


def _memory(advice: Recommendation) -> list[str]:
    memory = advice.memory
    if memory.total is None and memory.known is None:
        return []
    fits = {True: "fits", False: "does not fit", None: "may fit"}[memory.fits]
    need = memory.total or memory.known or 0
    words = f"{show_bytes(need)} needed" + (
        "" if memory.available is None else f" of {show_bytes(memory.available)}: {fits}"
    )
    rows = [(line.part, "–" if not line.at_peak else show_bytes(line.at_peak), line.how) for line in memory.ledger]
    return ["### Memory of one GPU", "", f"{words} (derived).", "", *_table(("", "at the peak", ""), rows)]


def _fixes(fit: MemoryAnswer | None, catalog: Catalog) -> list[str]:
    if fit is None:
        return []
    chains = (
        f"{' and '.join(f'`{_option(catalog, n, v)}`' for fix in chain for n, v in fix.change.items())}: "
        f"{'; '.join(_plain(fix.costs) for fix in chain)}"
        for chain in fit.fixes
    )
    return _section("What would make it fit", chains)


def _option(catalog: Catalog, name: str, value: object) -> str:
    """Return a fact as it is typed, in code that nothing in it can end."""
    flag = str(catalog.facts[name].get("flag", name))
    return (flag if value in (True, "true") else f"{flag} {value}").replace("`", "")


def _section(title: str, items: Iterable[str]) -> list[str]:
    found = [f"- {item.strip()}" for item in items]
    return [f"### {title}", "", *found] if found else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *([_cell(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text in one line that Markdown shows as it is: no HTML, no links or images of its own."""
    return re.sub(r"([<>\[\]`*_\\])", r"\\\1", " ".join(text.split()))


def _cites(cites: Iterable[str], catalog: Catalog) -> str:
    links = []
    for cite in cites:
        url = catalog.sources[cite].url if cite in catalog.sources else ""
        safe = url.startswith(("https://", "http://")) and not re.search(r"[\s()<>]", url)
        links.append(f"[{_plain(cite)}]({url})" if safe else _plain(cite))
    return f"({', '.join(links)})"
