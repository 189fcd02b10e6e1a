"""What a page says of a recommendation, as plain data for its template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from rich.text import Text

from optadvise.core.records import (
    SHIPPED,
    AdvisedHyperparameter,
    HyperparameterStep,
    MemoryAnswer,
    MemoryEstimate,
    Recommendation,
    Source,
)
from optadvise.core.schedules import rate
from optadvise.core.units import show_bytes, show_count, show_number
from optadvise.render.html import charts
from optadvise.render.text import evidence
from optadvise.render.text.advice import flag, schedule_words, state_words
from optadvise.render.text.estimate import change, sums, verdict
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import written

# Numbers of the run rather than of an optimizer, which no card explains.
_OF_THE_RUN = {
    "warmup_fraction": "Share of the run over which the rate ramps up.",
    "max_grad_norm": "The gradients' norm is clipped to it.",
}


class Cited(Struct, frozen=True):
    """A source and the number that it goes by on the page."""

    number: int
    source: Source


class _Sources:
    """Numbers sources in the order in which they are cited."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.cited: dict[str, Cited] = {}

    def of(self, cite: Iterable[str]) -> list[Cited]:
        return [self._one(key) for key in cite]

    def _one(self, key: str) -> Cited:
        if key not in self.cited:
            source = self._catalog.sources.get(key) or Source(key, key, "")
            self.cited[key] = Cited(len(self.cited) + 1, source)
        return self.cited[key]


def facts(advice: Recommendation, catalog: Catalog, fit: MemoryAnswer | None, said: Sequence[str]) -> dict[str, Any]:
    """Return everything that the template says, ready to be written.

    Args:
        advice: The recommendation.
        catalog: Where cites, facts and names are looked up.
        fit: What would make it fit, where it does not for certain.
        said: The facts that were stated.
    """
    sources = _Sources(catalog)  # numbered as they stand on the page, which the order below follows
    companion = advice.companion
    return {
        "advice": advice,
        "alone": advice.implementation.package in (None, "torch"),  # torch brings it
        "companion": None if companion is None else {
            "path": companion.implementation.path,
            "numbers": ", ".join(f"{name} {written(value)}" for name, value in companion.kwargs.items()),
            "for": (advice.optimizer.companion or {}).get("for", ""),
        },
        "deviates": evidence.deviates(advice.implementation, advice.evidence),
        "found": evidence.lines(advice.evidence),
        "numbers": [_number(number, advice) for number in advice.hyperparameters],
        "why": [_because(entry, sources) for entry in advice.trace],
        "warnings": [
            {"level": w.level, "text": w.text, "id": w.id, "cite": sources.of(w.cite), "whose": _whose(w.layer)}
            for w in sorted(advice.warnings, key=lambda w: w.level != "warning")
        ],
        "fixes": _fixes(fit, catalog, sources),
        "ledgers": [
            {"name": n.name, "value": written(n.value), "steps": [_because(e, sources) for e in n.derivation]}
            for n in advice.hyperparameters
        ],
        "schedule": _schedule(advice),
        "memory": _memory(advice),
        "alternatives": [_alternative(advice, catalog, number) for number in range(len(advice.alternatives))],
        "flips": [
            (flag(catalog, name) + ("" if value == "true" else f" {value}"), flip.optimizer)
            for flip in advice.sensitivities for name, value in flip.change.items()
        ],
        "said": _said(advice, catalog, said),
        "assumed": [_row(advice, catalog, name) for name in advice.situation.assumed],
        "sources": list(sources.cited.values()),
    }  # fmt: skip


def _whose(layer: str) -> str | None:
    """Return whose a rule is where it is not the program's own."""
    return None if layer == SHIPPED else layer


def _number(number: AdvisedHyperparameter, advice: Recommendation) -> dict[str, Any]:
    card = advice.optimizer.hyperparameter(number.name)
    usual = None
    if number.low is not None and number.high is not None:
        usual = f"{show_number(number.low)} … {show_number(number.high)}"
    return {
        "name": number.name,
        "value": written(number.value),
        "usual": usual,
        "meaning": _OF_THE_RUN.get(number.name, "") if card is None else card.meaning,
    }


def _because(entry: Any, sources: _Sources) -> dict[str, Any]:
    """Return a rule that decided, or one step in the making of a number."""
    return {
        "rule": entry.rule,
        "step": entry.step if isinstance(entry, HyperparameterStep) else None,
        "because": entry.because,
        "cite": sources.of(entry.cite),
        "whose": _whose(entry.layer),
    }


def _schedule(advice: Recommendation) -> dict[str, Any]:
    peak = next((n.value for n in advice.hyperparameters if n.name == "lr"), None)
    data: dict[str, Any] = {"id": advice.schedule.id, "path": advice.schedule.path, "words": schedule_words(advice),
                            "curve": None, "rows": [], "alternatives": advice.schedule.alternatives}  # fmt: skip
    if not isinstance(peak, (int, float)) or isinstance(peak, bool):
        return data
    steps = int(str(advice.schedule.quantities["total_steps"]))
    warmup = int(str(advice.schedule.quantities["warmup_steps"]))
    places = {0: "first", warmup: "after the ramp"} if warmup else {0: "first"}
    for step in charts.corners(advice.schedule):
        places.setdefault(step, "a corner")
    for part, words in ((0.25, "a quarter"), (0.5, "half"), (0.75, "three quarters")):
        places.setdefault(round(part * steps), words)
    places[steps - 1] = "last"
    rows = []
    for step in sorted(step for step in places if 0 <= step < steps):
        value = rate(advice.schedule, peak, step)
        share = f"{value / peak:.1%}" if peak else "not known"
        rows.append((places[step], f"{step:,}", show_number(float(f"{value:.4g}")), share))
    return data | {"curve": charts.curve(advice.schedule, peak, steps), "rows": rows}


def _memory(advice: Recommendation) -> dict[str, Any]:
    memory = advice.memory
    whole = memory.total is not None
    bands = [
        (b.optimizer, show_count(b.max_params) if b.max_params else "no size", f"{b.bytes_per_parameter:.2f}")
        for b in sorted(advice.max_model_sizes, key=lambda b: -b.max_params)
    ]
    return {
        "known": memory.known is not None,
        "whole": whole,
        "fits": memory.fits,
        "verdict": None if memory.known is None else Text.from_markup(verdict(memory, advice.situation)).plain,
        "peak": memory.peak,
        "available": None if memory.available is None else show_bytes(memory.available),
        "bar": charts.bar(memory),
        "lines": _lines(memory),
        "total": show_bytes(memory.total) if memory.total is not None else None,
        "sums": sums(memory) if whole else "",
        "bands": bands,
    }


def _lines(memory: MemoryEstimate) -> list[dict[str, Any]]:
    """Return the ledger; a line that is not there at the highest moment says what it is otherwise."""
    found = []
    for number, line in enumerate(memory.ledger, 1):
        at, how = line.bytes, line.how
        if memory.total is not None:
            at = line.at_peak
            if not at and line.bytes:
                how = f"{show_bytes(line.bytes)} in all: {how}"
        shown = "not known" if at is None else show_bytes(at) if at else "–"
        span = ""
        if at and line.interval is not None and line.interval.low != line.interval.high:
            span = f"{show_bytes(line.interval.low)} to {show_bytes(line.interval.high)}"
        tone = (number - 1) % 8 + 1 if at else None
        found.append({"number": number, "tone": tone, "part": line.part, "size": shown, "span": span, "how": how})
    return found


def _fixes(fit: MemoryAnswer | None, catalog: Catalog, sources: _Sources) -> dict[str, Any] | None:
    """Return what would make it fit, where the text output tells it, too."""
    if fit is None or fit.situation.vram_bytes is None or fit.memory.known is None:
        return None
    if fit.memory.fits is True or (not fit.fixes and fit.memory.fits is None):
        return None
    chains = [
        {
            "needs": show_bytes(chain[-1].needs),
            "pages": show_bytes(chain[-1].pages) if chain[-1].pages else None,
            "steps": [
                {
                    "change": change(fix.change, catalog),
                    "instead": change(fix.instead, catalog) if fix.instead else None,
                    "saves": show_bytes(fix.saves),
                    "costs": fix.costs,
                    "cite": sources.of(fix.cite),
                }
                for fix in chain
            ],
        }
        for chain in fit.fixes
    ]
    return {"optimizer": fit.optimizer if "optimizer" in fit.situation.assumed else None, "chains": chains}


def _alternative(advice: Recommendation, catalog: Catalog, number: int) -> dict[str, Any]:
    other = advice.alternatives[number]
    return {
        "id": other.id,
        "name": catalog.optimizer(other.id).name,
        "state": state_words(other),
        "fits": {True: "fits", False: "does not fit", None: "not known"}[other.fits],
        "because": other.because,
    }


def _said(advice: Recommendation, catalog: Catalog, said: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return what was said: flag, value and what the value means."""
    situation, rows = advice.situation, []
    if "shape" in said and situation.shape is not None:
        rows.append(("network", situation.shape.name, f"{show_count(situation.params or 0)} parameters"))
    if "gpu" in said and situation.gpu is not None:
        rows.append(("--gpu", situation.gpu, ""))
    follows = ("model",) if "shape" in said else ()  # a shape says what kind of model it is
    rows += [
        _row(advice, catalog, name)
        for name, fact in catalog.facts.items()
        if name in said and name not in follows and "flag" in fact
    ]
    if "optimizer" in said and situation.optimizer is not None:
        rows.append(("--optimizer", situation.optimizer, "taken instead of choosing"))
    return rows


def _row(advice: Recommendation, catalog: Catalog, name: str) -> tuple[str, str, str]:
    value, fact = getattr(advice.situation, name), catalog.facts.get(name, {})
    shown = "not known" if value is None else f"{value:,}" if type(value) is int else str(value).lower()
    if name == "vram_bytes" and value is not None:
        shown = show_bytes(value)
    meaning = fact["values"].get(value, "") if isinstance(fact.get("values"), dict) else ""
    return str(fact.get("flag", f"--{name}")), shown, str(meaning)
