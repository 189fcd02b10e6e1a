"""Sentences and rows of a recommendation that its text, Markdown and HTML share."""

from __future__ import annotations

from optadvise.core.records import AdviceWarning, Alternative, Recommendation
from optadvise.core.units import show_bytes, show_number
from optadvise.render.labels import format_option, format_state_bytes
from optadvise.rulebase.catalog import Catalog


def describe_schedule(advice: Recommendation) -> str:
    """Return what the schedule does over the run."""
    quantities = advice.schedule.quantities
    total, warmup, floor = quantities["total_steps"], quantities["warmup_steps"], quantities["floor_lr"]
    text = f"over {total:,} steps"
    if warmup:
        text += f", {warmup:,} of them up"
    if isinstance(floor, float) and floor > 0:
        text += f", down to {show_number(floor)}"
    milestones = quantities.get("milestones")
    if isinstance(milestones, list) and milestones:
        text += f", a tenth after each of {', '.join(f'{step:,}' for step in milestones)}"
    return text


def sort_warnings(advice: Recommendation) -> list[AdviceWarning]:
    """Return the warnings, those of level `warning` first."""
    return sorted(advice.warnings, key=lambda warning: warning.level != "warning")


def format_state(alternative: Alternative) -> str:
    """Return the optimizer state of an alternative, in bytes where the model size is known."""
    if alternative.optimizer_bytes is not None:
        return show_bytes(alternative.optimizer_bytes)
    per_parameter = alternative.state_bytes_per_parameter
    return "none" if per_parameter == 0 else f"{format_state_bytes(per_parameter)} B/p"


def list_flips(advice: Recommendation, catalog: Catalog) -> list[tuple[str, str]]:
    """Return each option that would change the answer, with the optimizer that it leads to."""
    return [
        (format_option(catalog, fact, value), flip.optimizer)
        for flip in advice.sensitivities
        for fact, value in flip.change.items()
    ]
