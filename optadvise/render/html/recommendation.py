"""Recommendation as an HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from optadvise.core.advice_records import Recommendation
from optadvise.core.cards import SHIPPED, Source
from optadvise.core.records import MemoryAnswer, MemoryEstimate
from optadvise.core.schedules import compute_lr
from optadvise.core.units import show_bytes, show_count, show_number, show_share
from optadvise.render import evidence
from optadvise.render.html import charts
from optadvise.render.html.page import PageOrigin, render_page
from optadvise.render.labels import (
    DASH,
    find_gpu_id,
    format_fact,
    format_flag,
    format_interval,
    format_options,
    list_implied_facts,
)
from optadvise.render.memory import (
    describe_allocator,
    describe_chain,
    describe_fit,
    describe_peak,
    describe_unknown_memory,
    has_fixes,
    list_breakdown,
)
from optadvise.render.recommendation import (
    describe_policy,
    describe_published,
    describe_reason,
    describe_schedule,
    format_bench_command,
    format_call,
    format_companion_call,
    format_exact_bench_command,
    format_state,
    list_changes,
    sort_warnings,
)
from optadvise.render.run_plan import describe_run, list_choices
from optadvise.render.schedule import list_corners
from optadvise.rule_analysis.inputs_of_point import list_shape_options
from optadvise.rulebase.catalog import Catalog

# Hyperparameters of the run, which no optimizer's card describes.
_RUN_MEANINGS = {
    "warmup_fraction": "Share of the run with a linear warmup.",
    "max_grad_norm": "Global gradient norm above which gradients are clipped.",
    "lora_alpha": "The output of the adapters is scaled by alpha / rank.",
    "lora_dropout": "Dropout of the inputs of the adapters.",
    "layer_decay": "Factor of the learning rate per layer below the head.",
    "ema_decay": "Decay of the exponential moving average of the weights.",
}


class CitedSource(Struct, frozen=True):
    """A source with its number on the page."""

    number: int
    source: Source


class Sources:
    """Sources, numbered in the order in which the page cites them."""

    def __init__(self, catalog: Catalog) -> None:
        """Start without a cited source."""
        self._catalog = catalog
        self.cited: dict[str, CitedSource] = {}

    def cite(self, keys: Iterable[str]) -> list[CitedSource]:
        """Return numbered sources."""
        for key in keys:
            source = self._catalog.sources.get(key) or Source(id=key, title=key, url="")
            self.cited.setdefault(key, CitedSource(len(self.cited) + 1, source))
        return [self.cited[key] for key in keys]


class FactRow(Struct, frozen=True):
    """A fact of the run."""

    flag: str
    value: str
    meaning: str = ""


class MemoryRow(Struct, frozen=True):
    """A numbered line of the memory table; `tone` is its color in the bar, None without a segment."""

    number: int
    tone: int | None
    part: str
    size: str
    interval: str
    note: str


def render_recommendation(
    advice: Recommendation, catalog: Catalog, origin: PageOrigin, fit: MemoryAnswer | None = None
) -> str:
    """Return a recommendation as a page.

    Args:
        fit: Changes after which it fits, where it does not for certain.
    """
    memory = advice.memory
    sizes = (memory.total, memory.available)
    context = {
        "advice": advice,
        "origin": origin,
        "shipped": SHIPPED,
        "sources": Sources(catalog),
        "deviation": evidence.describe_deviation(advice.implementation, advice.evidence),
        "evidence": evidence.list_sentences(advice.evidence),
        "meanings": {number.name: _describe_number(advice, number.name) for number in advice.hyperparameters},
        "warnings": sort_warnings(advice),
        "bench_command": format_bench_command(advice, catalog),
        "exact_bench_command": format_exact_bench_command(advice, catalog, origin.command),
        "call": format_call(advice),
        "companion_call": format_companion_call(advice),
        "run_text": describe_run(advice),
        "choices": list_choices(advice, catalog),
        "schedule_text": describe_schedule(advice),
        "learning_rates": _list_lrs(advice),
        "curve": _draw_curve(advice),
        "unknown_memory": describe_unknown_memory(memory.available),
        "verdict": None if memory.model_states is None else describe_fit(memory, advice.situation).plain,
        "bar": charts.layout_bar(memory),
        "memory_rows": _list_memory(memory),
        "allocator": describe_allocator(memory),
        "peak": describe_peak(memory),
        "fit": fit if fit is not None and has_fixes(fit) else None,
        "options": lambda facts: format_options(catalog, facts),
        "names": {other.id: catalog.optimizer(other.id).name for other in advice.alternatives},
        "state": format_state,
        "policy": describe_policy,
        "reason": describe_reason,
        "published": lambda run: describe_published(run, advice, catalog),
        "chain_text": describe_chain,
        "fits": {True: "yes", False: "no", None: "unknown" if None in sizes else "uncertain"},
        "changes": list_changes(advice, catalog),
        "stated": _list_stated(advice, catalog, origin.stated),
        "assumed": [_describe_fact(advice, catalog, name) for name in advice.situation.assumed],
    }
    return render_page("recommendation.html", context)


def _describe_number(advice: Recommendation, name: str) -> str:
    card = advice.optimizer.hyperparameter(name)
    return _RUN_MEANINGS.get(name, "") if card is None else card.meaning


def _find_peak_lr(advice: Recommendation) -> float | None:
    """Return the peak learning rate; None if the optimizer sets its own."""
    peak = next((number.value for number in advice.hyperparameters if number.name == "lr"), None)
    return peak if isinstance(peak, (int, float)) and not isinstance(peak, bool) else None


def _run_steps(advice: Recommendation) -> int:
    return int(str(advice.schedule.quantities["total_steps"]))


def _draw_curve(advice: Recommendation) -> charts.Curve | None:
    peak = _find_peak_lr(advice)
    return None if peak is None else charts.layout_curve(advice.schedule, peak, _run_steps(advice))


def _list_lrs(advice: Recommendation) -> list[tuple[str, str, str, str]]:
    """Return place, step, learning rate and its share of the peak at some steps of the run."""
    peak, steps = _find_peak_lr(advice), _run_steps(advice)
    if peak is None:
        return []
    warmup = int(str(advice.schedule.quantities["warmup_steps"]))
    places = {0: "first", **({warmup: "after warmup"} if warmup else {})}
    parts = ((0.75, "75 %"), (0.5, "50 %"), (0.25, "25 %"))
    fractions = {round(part * steps): name for part, name in parts}
    corners = dict.fromkeys(list_corners(advice.schedule), "phase change")
    places = {**fractions, **corners, **places, steps - 1: "last"}
    rows = []
    for step in sorted(step for step in places if 0 <= step < steps):
        value = compute_lr(advice.schedule, peak, step)
        fraction = show_share(value / peak) if peak else "unknown"
        rows.append((places[step], f"{step:,}", show_number(float(f"{value:.4g}")), fraction))
    return rows


def _list_memory(memory: MemoryEstimate) -> list[MemoryRow]:
    rows = []
    for number, (row, line) in enumerate(zip(list_breakdown(memory), memory.breakdown, strict=True), 1):
        size = "unknown" if row.size_bytes is None else show_bytes(row.size_bytes) if row.size_bytes else DASH
        is_uncertain = row.size_bytes and line.interval is not None and line.interval.low != line.interval.high
        interval = format_interval(line.interval) if is_uncertain and line.interval is not None else ""
        tone = charts.tone_of(number) if row.size_bytes else None
        rows.append(MemoryRow(number=number, tone=tone, part=row.part, size=size, interval=interval, note=row.note))
    return rows


def _list_stated(advice: Recommendation, catalog: Catalog, stated: Sequence[str]) -> list[FactRow]:
    """Return the facts that the user specified, with the meanings of their values."""
    situation, rows = advice.situation, []
    if "shape" in stated and situation.shape is not None:
        size = f"{show_count(situation.params or 0)} parameters"
        for number, (flag, value) in enumerate(list_shape_options(situation.shape, catalog)):
            rows.append(FactRow(flag=flag, value=value, meaning="" if number else size))
    gpu = find_gpu_id(situation, catalog)
    if gpu is not None:
        rows.append(FactRow(flag="--gpu", value=gpu, meaning=str(situation.gpu)))
    implied = list_implied_facts(situation, catalog)
    rows += [
        _describe_fact(advice, catalog, name)
        for name, fact in catalog.facts.items()
        if name in stated and name not in implied and fact.flag is not None
    ]
    if "optimizer" in stated and situation.optimizer is not None:
        rows.append(FactRow(flag="--optimizer", value=situation.optimizer, meaning="used instead of the rules' choice"))
    if situation.schedule is not None:
        rows.append(FactRow(flag="--schedule", value=situation.schedule, meaning="used instead of the rules' choice"))
    return rows


def _describe_fact(advice: Recommendation, catalog: Catalog, name: str) -> FactRow:
    value, fact = getattr(advice.situation, name), catalog.facts.get(name)
    text = format_fact(advice.situation, name, catalog)
    meaning = str((fact.values or {}).get(value, "")) if fact is not None and isinstance(value, str) else ""
    is_repeated = value == "none" and " " not in meaning  # such as `nothing`
    return FactRow(flag=format_flag(catalog, name), value=text, meaning="" if is_repeated else meaning)
