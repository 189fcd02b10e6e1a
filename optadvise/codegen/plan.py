"""Translation of a recommendation to a framework: its optimizer, schedule and batch settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import recommend
from optadvise.codegen.substitute import choose_substitute
from optadvise.core import schedules
from optadvise.core.advice_records import Recommendation
from optadvise.core.cards import Scheduler, Value
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError
from optadvise.core.framework_cards import Framework, NamedOptimizer, NamedSchedule
from optadvise.core.records import Situation
from optadvise.memory.search import find_largest_micro_batch


class Plan(Struct, frozen=True):
    """Recommendation, adapted to what a framework supports."""

    framework: Framework
    requested: Recommendation
    advice: Recommendation  # as requested, or for the closest optimizer that the framework supports
    scheduler: Scheduler  # card of the recommended schedule
    hyperparameters: Mapping[str, Value]  # by the names of the cards, including those of the run
    named_optimizer: NamedOptimizer | None  # name in the framework that builds exactly the recommended optimizer
    nearest_schedule: NamedSchedule | None  # closest schedule of the framework, with the settings of this run
    is_schedule_exact: bool  # the closest schedule equals the recommended one at every step
    accumulation: int  # micro-batches per optimizer step on each GPU
    micro_batch: int | None
    gradient_release: bool

    @property
    def clip(self) -> float | None:
        """Return the maximum gradient norm; None without clipping."""
        value = self.hyperparameters.get("max_grad_norm")
        return None if value is None or self.gradient_release else float(str(value))

    @property
    def ema_decay(self) -> float | None:
        """Return the decay of the average of the weights; None without an average."""
        value = self.hyperparameters.get("ema_decay")
        return None if value is None else float(str(value))

    @property
    def is_sharded(self) -> bool:
        """Return whether several GPUs share gradients or weights besides the optimizer state."""
        run = self.advice.situation
        return run.gpus > 1 and run.shard != "none"

    def framework_arguments(self, names: Iterable[str]) -> dict[str, Value]:
        """Return hyperparameters by the framework's argument names; a list may become several arguments.

        Args:
            names: Names of the cards.

        Raises:
            RuleFileError: The framework's card lists another number of arguments than the value has elements.
        """
        arguments: dict[str, Value] = {}
        for name in names:
            keys, value = self.framework.arguments.get(name, (name,)), self.hyperparameters.get(name)
            if value is None:
                continue
            parts = value if isinstance(value, list) and len(keys) > 1 else [value]
            if len(parts) != len(keys):
                where = f"frameworks/{self.framework.id}.yaml"
                message = f"`arguments: {name}` must have {len(parts)} names for {value!r}, not {', '.join(keys)}"
                raise RuleFileError(message, where, code=ErrorCode.INVALID_ENTRY)
            arguments |= zip(keys, parts, strict=True)
        return arguments


def make_plan(rules: CompiledRules, requested: Recommendation, framework: Framework) -> Plan:
    """Return a recommendation adapted to a framework, with its closest optimizer and schedule.

    Raises:
        RuleFileError: The framework supports no optimizer.
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
        scheduler=rules.catalog.scheduler(advice.schedule.id),
        hyperparameters=hyperparameters,
        named_optimizer=_find_named_optimizer(advice, framework, hyperparameters),
        nearest_schedule=schedule,
        is_schedule_exact=is_exact,
        accumulation=1 if release else count_micro_batches(run),
        micro_batch=_choose_micro_batch(rules, advice, framework),
        gradient_release=release,
    )


def _choose_micro_batch(rules: CompiledRules, advice: Recommendation, framework: Framework) -> int | None:
    """Return the micro-batch that a file sets; None if the batch is unknown and the framework's default fits."""
    run = advice.situation
    if run.batch_size is not None or "micro_batch" not in run.assumed:
        return run.micro_batch
    if run.params is None or framework.default_micro_batch is None:
        return None
    largest = find_largest_micro_batch(rules.memory_rules, run, advice.optimizer.id)
    return None if largest is None or largest >= framework.default_micro_batch else run.micro_batch


def count_micro_batches(run: Situation) -> int:
    """Return the micro-batches per optimizer step on each GPU; 1 if neither they nor the batch size are specified."""
    if run.grad_accum is not None:
        return run.grad_accum
    if run.batch_size is None or run.micro_batch is None:
        return 1
    return max(1, -(-run.batch_size // (run.micro_batch * run.gpus)))


def _find_named_optimizer(
    advice: Recommendation, framework: Framework, hyperparameters: Mapping[str, Value]
) -> NamedOptimizer | None:
    """Return the framework's name that builds the optimizer with all recommended hyperparameters, None if none does."""
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
    """Return the framework's schedule that is closest to the recommended one, with the settings of this run."""
    catalog, card = rules.catalog, rules.catalog.scheduler(advice.schedule.id)
    nearest = card.id if card.id in framework.schedules else None
    for name in framework.schedules:
        if nearest is None and name in catalog.scheduler_ids:
            other = catalog.scheduler(name)
            nearest = other.id if (other.family, other.warmup) == (card.family, card.warmup) else None
    if nearest is None:
        return None
    fraction = float(str(hyperparameters.get("warmup_fraction") or 0.0))
    card = card.for_model(advice.situation.model)
    quantities = schedules.list_quantities(card, float(str(hyperparameters["lr"])), advice.situation.steps, fraction)
    schedule = framework.schedules[nearest]
    return replace(schedule, settings=_fill_settings(schedule.settings, quantities))


def _fill_settings(settings: object, quantities: Mapping[str, Value]) -> object:
    """Return settings with `$names` replaced by the numbers of the run."""
    if isinstance(settings, Mapping):
        return {key: _fill_settings(value, quantities) for key, value in settings.items()}
    if isinstance(settings, str) and settings.startswith("$"):
        return quantities[settings[1:]]
    return settings
