"""Plan of a recommendation for a framework: its names for the optimizer, the schedule and the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import recommend
from optadvise.codegen.substitute import choose_substitute
from optadvise.core import schedules
from optadvise.core.cards import Value
from optadvise.core.errors import RuleFileError
from optadvise.core.framework_cards import Framework, NamedOptimizer, NamedSchedule
from optadvise.core.records import Recommendation, Situation


class Plan(Struct, frozen=True):
    """A recommendation as one framework can take it."""

    framework: Framework
    requested: Recommendation
    advice: Recommendation  # as requested, or for the nearest optimizer that the framework can run
    hyperparameters: Mapping[str, Value]  # by our names, those of the run among them
    named_optimizer: NamedOptimizer | None  # what the framework builds by a name, exactly as advised
    nearest_schedule: NamedSchedule | None  # of the framework, its settings with this run's numbers
    is_schedule_exact: bool  # the nearest schedule is ours at every step
    accumulation: int  # micro-batches of an optimizer step on each GPU
    micro_batch: int | None
    gradient_release: bool

    @property
    def clip(self) -> float | None:
        """Return the norm that gradients are clipped at; None where they are not."""
        value = self.hyperparameters.get("max_grad_norm")
        return None if value is None or self.gradient_release else float(str(value))

    def framework_arguments(self, names: Iterable[str]) -> dict[str, Value]:
        """Return hyperparameters by the framework's names, a pair as the two arguments that it may have for it.

        Args:
            names: Ours.

        Raises:
            RuleFileError: The framework has more or fewer arguments for a number than it has parts.
        """
        arguments: dict[str, Value] = {}
        for name in names:
            keys, value = self.framework.arguments.get(name, (name,)), self.hyperparameters.get(name)
            if value is None:
                continue
            parts = value if isinstance(value, list) and len(keys) > 1 else [value]
            if len(parts) != len(keys):
                where = f"frameworks/{self.framework.id}.yaml"
                raise RuleFileError(f"takes {name!r} apart as {', '.join(keys)}, but it is {value!r}", where)
            arguments |= zip(keys, parts, strict=True)
        return arguments


def make_plan(rules: CompiledRules, requested: Recommendation, framework: Framework) -> Plan:
    """Return a recommendation as a framework can take it, with the nearest optimizer and schedule that it has.

    Raises:
        RuleFileError: The framework can run no optimizer.
    """
    substitute = choose_substitute(rules, requested.optimizer, framework, requested.situation)
    advice = requested
    if substitute is not None:
        advice = recommend(rules, replace(requested.situation, optimizer=substitute.id))
    run = advice.situation
    hyperparameters = {number.name: number.value for number in advice.hyperparameters}
    schedule = _choose_schedule(rules, advice, framework, hyperparameters)
    is_exact = schedule is not None and advice.schedule.id in framework.schedules and schedule.difference is None
    release = run.gradient_release and "gradient_release" in framework.supported_facts
    return Plan(
        framework=framework,
        requested=requested,
        advice=advice,
        hyperparameters=hyperparameters,
        named_optimizer=_find_named_optimizer(advice, framework, hyperparameters),
        nearest_schedule=schedule,
        is_schedule_exact=is_exact,
        accumulation=1 if release else count_micro_batches(run),
        micro_batch=None if run.batch_size is None and "micro_batch" in run.assumed else run.micro_batch,
        gradient_release=release,
    )


def count_micro_batches(run: Situation) -> int:
    """Return the micro-batches of an optimizer step on each GPU; 1 where that is not known."""
    if run.batch_size is None or run.micro_batch is None:
        return 1
    return max(1, -(-run.batch_size // (run.micro_batch * run.gpus)))


def _find_named_optimizer(
    advice: Recommendation, framework: Framework, hyperparameters: Mapping[str, Value]
) -> NamedOptimizer | None:
    """Return what a framework builds by a name, where that is the optimizer with all of its advised numbers."""
    named = framework.by_name(advice.optimizer)
    if named is None:
        return None
    for name in (number.name for number in advice.optimizer.hyperparameters):
        if name not in named.settable and (name not in named.fixed or named.fixed[name] != hyperparameters[name]):
            return None
    return named


def _choose_schedule(
    rules: CompiledRules, advice: Recommendation, framework: Framework, hyperparameters: Mapping[str, Value]
) -> NamedSchedule | None:
    """Return the framework's schedule that comes nearest to the advised one, with this run's numbers."""
    catalog, card = rules.catalog, rules.catalog.scheduler(advice.schedule.id)
    nearest = card.id if card.id in framework.schedules else None
    for name in framework.schedules:
        if nearest is None and name in catalog.scheduler_ids:
            other = catalog.scheduler(name)
            nearest = other.id if (other.family, other.warmup) == (card.family, card.warmup) else None
    if nearest is None:
        return None
    fraction = float(str(hyperparameters.get("warmup_fraction") or 0.0))
    quantities = schedules.list_quantities(card, float(str(hyperparameters["lr"])), advice.situation.steps, fraction)
    schedule = framework.schedules[nearest]
    return replace(schedule, settings=_fill_settings(schedule.settings, quantities))


def _fill_settings(settings: object, quantities: Mapping[str, Value]) -> object:
    """Return settings with the run's numbers in the place of `$names`."""
    if isinstance(settings, Mapping):
        return {key: _fill_settings(value, quantities) for key, value in settings.items()}
    if isinstance(settings, str) and settings.startswith("$"):
        return quantities[settings[1:]]
    return settings
