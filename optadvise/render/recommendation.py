"""Sentences and rows of a recommendation that its text, Markdown and HTML share."""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.benchmark.defaults import CONTROL, PRECISION, SIZES, WORKLOAD
from optadvise.codegen.values import format_value as format_python
from optadvise.core.advice_records import (
    AdviceWarning,
    AdvisedHyperparameter,
    Alternative,
    PolicyAnswer,
    PublishedRun,
    Recommendation,
    Support,
    TraceEntry,
)
from optadvise.core.cards import Implementation, Optimizer, Phase, Value
from optadvise.core.units import show_bytes, show_number
from optadvise.memory.optimizer_state import compute_state_bytes_per_parameter, list_state_tensors
from optadvise.render.labels import format_change, format_range, format_sentence, format_state_bytes
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.constructor import argument_name
from optadvise.rulebase.hyperparameters import format_value

_MIN_RUNS = 4  # published runs that are evidence

# -- measurement ------------------------------------------------------------------------------------------------------


def format_bench_command(advice: Recommendation, catalog: Catalog) -> str:
    """Return the command that compares the optimizer with the control, or the control with an alternative.

    The workload and the precision are those of the run where `bench` has them.

    Example:
        `optadvise bench ranger --workload cnn --precision amp-bf16`
    """
    measured = advice.optimizer.id
    if measured == CONTROL:
        measured = _find_alternative(advice, catalog) or f"{measured} --control none"
    return f"optadvise bench {measured}{_format_bench_options(advice)}"


def describe_comparison(advice: Recommendation, catalog: Catalog) -> str:
    """Return what the command compares, where it measures another optimizer than the recommended one."""
    other = _find_alternative(advice, catalog) if advice.optimizer.id == CONTROL else None
    return "" if other is None else f"This compares {other}, an alternative, with {CONTROL}."


def format_exact_bench_command(advice: Recommendation, catalog: Catalog, recommend: str) -> str:
    """Return the command that benchmarks exactly the recommended hyperparameters.

    Args:
        recommend: Command that prints the recommendation.
    """
    control = ""
    if advice.optimizer.id == CONTROL:
        control = f" --control {_find_alternative(advice, catalog) or 'none'}"
    return f"{recommend} --json | optadvise bench -{control}{_format_bench_options(advice)}"


def _find_alternative(advice: Recommendation, catalog: Catalog) -> str | None:
    """Return the alternative to the control that is worth a run of `bench`; None without one.

    It is the first of the control's family with less state, which costs least to change to; otherwise, where the
    control was requested, the first alternative. `bench` runs it with and without a GPU.
    """
    others = [other for other in advice.alternatives if _runs_everywhere(catalog.optimizer(other.id))]
    dtype = "bfloat16" if advice.situation.precision == "bf16" else "float32"
    state = compute_state_bytes_per_parameter(list_state_tensors(advice.optimizer), dtype)
    smaller = [other.id for other in others if other.state_bytes_per_parameter < state]
    cheap = [name for name in smaller if catalog.optimizer(name).family == advice.optimizer.family]
    requested = [other.id for other in others] if advice.situation.optimizer is not None else []
    return next(iter([*cheap, *requested]), None)


def _runs_everywhere(card: Optimizer) -> bool:
    """Return whether an implementation can be installed with pip and supports the devices of `bench`."""
    installable = (each for each in card.implementations if each.package is not None)
    return not card.paged and any({"cpu", "cuda"} <= set(each.devices) for each in installable)


def _format_bench_options(advice: Recommendation) -> str:
    """Return the options of `bench` for the model and the precision of the run; empty for the defaults."""
    model, precision = advice.situation.model, advice.situation.precision
    workload = f" --workload {model}" if model in SIZES and model != WORKLOAD else ""
    return workload + (f" --precision {precision}" if precision != PRECISION else "")


# -- numbers and schedule ---------------------------------------------------------------------------------------------


def format_call(advice: Recommendation) -> str:
    """Return the constructor call with all arguments, to be copied."""
    return _format_call(advice.implementation, advice.kwargs)


def format_companion_call(advice: Recommendation) -> str:
    """Return the constructor call of the companion optimizer with all values; empty without a companion."""
    companion = advice.companion
    return "" if companion is None else _format_call(companion.implementation, companion.kwargs)


def list_table_numbers(advice: Recommendation) -> list[AdvisedHyperparameter]:
    """Return the hyperparameters that have a typical range, or that the constructor call does not show."""
    return [
        number
        for number in advice.hyperparameters
        if number.value is not None
        and (
            format_range(number.low, number.high)
            or argument_name(advice.implementation, number.name) not in advice.kwargs
        )
    ]


def _format_call(implementation: Implementation, kwargs: Mapping[str, Value]) -> str:
    arguments = (f"{name}={_format_argument(value)}" for name, value in kwargs.items())
    return f"{implementation.path}({', '.join(['params', *arguments])})"


def _format_argument(value: Value) -> str:
    """Return a value as Python source, with short numbers."""
    if isinstance(value, list):
        return f"({', '.join(map(_format_argument, value))}{',' * (len(value) == 1)})"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return format_value(value) if is_number else format_python(value)


def describe_schedule(advice: Recommendation) -> str:
    """Return what the schedule does over the run: `100,000 steps: 1,000 warmup, then cosine decay to 3e-5`."""
    schedule = advice.schedule
    quantities = schedule.quantities
    warmup = int(str(quantities["warmup_steps"]))
    floor = quantities["floor_lr"]
    phases = [f"{warmup:,} warmup"] if warmup else []
    ends = schedule.kwargs.get("milestones")
    for number, phase in enumerate(schedule.phases):
        text = _describe_phase(phase, floor if isinstance(floor, float) else 0.0)
        if text == _CONSTANT and number < len(schedule.phases) - 1 and isinstance(ends, list):
            text += f" to step {ends[number]:,}"
        phases += [text] if text else []
    total = int(str(quantities["total_steps"]))
    steps = f"{total:,} step{'s' * (total > 1)}"
    if phases == [_CONSTANT]:
        return steps
    text = ", then ".join(filter(None, [", ".join(phases[:-1]), *phases[-1:]]))
    return f"{steps}: {text}"


_CONSTANT = "constant"


def _describe_phase(phase: Phase, floor: float) -> str:
    """Return what a phase does with the learning rate; empty for a warmup."""
    kwargs = phase.kwargs
    if phase.shape == "linear":
        return "" if kwargs["end_factor"] else "linear decay to 0"
    if phase.shape == "cosine":
        return f"cosine decay to {show_number(floor)}"
    if phase.shape == "step":
        milestones = kwargs["milestones"]
        steps = [f"{step:,}" for step in milestones] if isinstance(milestones, list) else []
        joined = " and ".join(filter(None, [", ".join(steps[:-1]), *steps[-1:]]))
        return f"×{kwargs['gamma']} at steps {joined}"
    return {"one-cycle": "cosine decay to almost 0", "inverse-sqrt": "decay with 1/√step"}.get(phase.shape, _CONSTANT)


# -- warnings, alternatives and sensitivities -------------------------------------------------------------------------


def sort_warnings(advice: Recommendation) -> list[AdviceWarning]:
    """Return the warnings, those of level `warning` first."""
    return sorted(advice.warnings, key=lambda warning: warning.level != "warning")


def format_state(alternative: Alternative) -> str:
    """Return the optimizer state of an alternative, in bytes where the model size is known."""
    if alternative.optimizer_bytes is not None:
        return show_bytes(alternative.optimizer_bytes)
    per_parameter = alternative.state_bytes_per_parameter
    return "none" if per_parameter == 0 else f"{format_state_bytes(per_parameter)} B/param"


def list_changes(advice: Recommendation, catalog: Catalog) -> list[tuple[str, str]]:
    """Return each option that would change the answer, with the optimizer that it leads to."""
    return [
        (format_change(catalog, fact, condition, sensitivity.values[fact]), sensitivity.optimizer)
        for sensitivity in advice.sensitivities
        for fact, condition in sensitivity.change.items()
    ]


def describe_published(published: PublishedRun, advice: Recommendation, catalog: Catalog) -> str:
    """Return what a published run used and how it differs.

    Example:
        `adamw 3e-4, weight decay 0.1, warmup-cosine (batch 2.05K)`
    """
    differences = [published.differs] if published.differs else []
    if _is_outside(published, advice, catalog):
        differences.append("lr outside the typical range")
        if published.batch_size is not None and "batch" not in published.differs:
            differences.append(f"batch {published.batch_size:,}")
    numbers = [published.optimizer if published.lr is None else f"{published.optimizer} {show_number(published.lr)}"]
    numbers += [] if published.weight_decay is None else [f"weight decay {show_number(published.weight_decay)}"]
    numbers += [] if published.schedule is None else [published.schedule]
    return ", ".join(numbers) + f" ({'; '.join(differences)})" * bool(differences)


def _is_outside(published: PublishedRun, advice: Recommendation, catalog: Catalog) -> bool:
    """Return whether a published run with the same update rule used a learning rate outside the advised range."""
    lr = next((number for number in advice.hyperparameters if number.name == "lr"), None)
    is_same = catalog.optimizer(published.optimizer).update == advice.optimizer.update
    if lr is None or lr.low is None or lr.high is None or published.lr is None or not is_same:
        return False
    return not lr.low <= published.lr <= lr.high


def describe_policy(answer: PolicyAnswer) -> str:
    """Return what another policy answers: `lamb (--policy guide): LAMB scales the step of each layer …`."""
    verdict = ", does not fit" if answer.fits is False else ""
    return f"{answer.optimizer} (--policy {answer.policy}){verdict}"


def describe_reason(entry: TraceEntry) -> str:
    """Return the reason of a rule, with the published runs that agree with its choice."""
    support = entry.support
    runs = "" if support is None or support.runs < _MIN_RUNS else f" {describe_support(support)}"
    return f"{format_sentence(entry.because)}{runs}"


def describe_support(support: Support) -> str:
    """Return how many published runs of a rule's situations used its optimizer, or one with the same update rule."""
    return f"{support.agree:,} of {support.runs:,} published runs like this use the same update rule."
