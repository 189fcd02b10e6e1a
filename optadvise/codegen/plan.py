"""What of a recommendation a framework can express, and what has to be said about the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.advisor import Advisor
from optadvise.core import schedules
from optadvise.core.errors import RuleFileError
from optadvise.core.records import (
    SITUATION_DEFAULTS,
    Framework,
    NamedOptimizer,
    NamedSchedule,
    Optimizer,
    Recommendation,
    Situation,
    Value,
)

# Facts of a run that change what has to be written, and what they are where nobody asks for anything.
_FACTS = ("method", "gpus", "shard", "offload", "checkpointing", "attention", "loss")
_PLAIN = {name: SITUATION_DEFAULTS[name] for name in _FACTS}


class Plan(Struct, frozen=True):
    """A recommendation as one framework takes it."""

    framework: Framework
    advice: Recommendation
    numbers: Mapping[str, Value]  # the hyperparameters by our names, those of the run with them
    named: NamedOptimizer | None  # built by a name, exactly as advised
    own: NamedSchedule | None  # the framework's schedule that comes nearest, its settings with this run's numbers
    exact: bool  # that schedule is ours at every step
    quantities: Mapping[str, Value]
    accumulate: int  # passes of one optimizer step
    micro_batch: int | None
    release: bool  # each weight is stepped as soon as it has its gradient
    notes: tuple[str, ...]  # what the framework cannot express, or does otherwise

    @property
    def clip(self) -> float | None:
        """The norm that gradients are clipped at, where they are."""
        value = self.numbers.get("max_grad_norm")
        return None if value is None or self.release else float(str(value))

    def called(self, names: Iterable[str]) -> dict[str, Any]:
        """Return hyperparameters as the framework calls them.

        Args:
            names: Ours.

        Raises:
            RuleFileError: The framework takes a number apart in as many pieces as it does not have.
        """
        found: dict[str, Any] = {}
        for name in names:
            own, value = self.framework.arguments.get(name, (name,)), self.numbers.get(name)
            parts = value if isinstance(value, list) and len(own) > 1 else [value]
            if value is not None and len(parts) != len(own):
                where = f"frameworks/{self.framework.id}.yaml"
                raise RuleFileError(f"takes {name!r} apart as {', '.join(own)}, but it is {value!r}", where)
            found.update(zip(own, parts, strict=True) if value is not None else ())
        return found


def plan(advisor: Advisor, advice: Recommendation, framework: Framework) -> Plan:
    """Return a recommendation as a framework takes it; the nearest where it cannot take it as it is.

    Args:
        advisor: The rules, which advise the nearest where another optimizer has to do.
        advice: The recommendation.
        framework: What it is written for.
    """
    asked, notes = advice, []
    other = _instead(advisor, advice.optimizer, framework, advice.situation)
    if other is not None:
        advice = advisor.recommend(replace(advice.situation, optimizer=other.id))
        lacks = (
            "steps one optimizer" + (f" under {advice.situation.precision}" if framework.two_optimizers else "")
            if asked.companion
            else f"has no {asked.optimizer.name}"
        )
        needs = f", and {asked.optimizer.name} needs another beside it" if asked.companion else ""
        notes.append(
            f"{framework.name} {lacks}{needs}. This is {other.name}, the nearest that it can run, with the numbers "
            "that are advised for it."
        )
    run = advice.situation
    numbers = {number.name: number.value for number in advice.hyperparameters}
    named = _named(advice, framework, numbers)
    if named is None and framework.client:
        notes.append(
            f"{framework.name} has no {advice.optimizer.name} by name. Pass the one that --format python builds: "
            f"{framework.client}."
        )
    if framework.writes == "json" and (run.batch_size is None or _micro_batch(run) is None):
        notes.append(
            'The batch is not known: Trainer, Accelerate and Lightning fill in "auto"; for deepspeed.initialize say '
            "--batch-size and --micro-batch."
        )
    quantities = _quantities(advisor, advice, numbers)
    own, exact = _schedule(advisor, advice, framework, quantities, notes)
    passes = _passes(run)
    release = run.gradient_release and "gradient_release" in framework.carries
    if release and passes > 1:
        notes.append(f"Nothing is accumulated: each of the {passes} passes is a step of its own.")
        passes = 1
    if release and numbers.get("max_grad_norm") is not None:
        notes.append("No gradient is clipped: each weight is stepped before all gradients are there.")
    if framework.decays_all and numbers.get("weight_decay"):
        notes.append(f"{framework.name} {framework.decays_all}.")
    notes += [f"{framework.name} {framework.instead[word]}." for word in (run.precision, run.checkpointing)
              if word in framework.instead]  # fmt: skip
    if run.gradient_release and not release:
        notes.append(f"{framework.name} steps weights after the backward pass, when all gradients are there at once.")
    notes += _of_adapters(run, framework)
    notes += _left_out(run, framework)
    if run.gpus > 1 and framework.launch is not None:
        notes.append(f"On {run.gpus} GPUs: {framework.launch.replace('{gpus}', str(run.gpus))}")
    return Plan(
        framework, advice, numbers, named, own, exact, quantities, passes, _micro_batch(run), release, tuple(notes)
    )


def _instead(advisor: Advisor, card: Optimizer, framework: Framework, run: Situation) -> Optimizer | None:
    """Return the nearest optimizer that a framework can run; None where it can run this one."""
    if _runs(card, framework, run):
        return None
    catalog = advisor.catalog
    if card.companion is not None:
        beside = catalog.optimizer(card.companion["optimizer"])
        if _runs(beside, framework, run):
            return beside
    usual = catalog.optimizer(advisor.limits[0])
    others = [usual, *(catalog.optimizer(name) for name in catalog.optimizer_ids)]
    able = [other for other in others if _runs(other, framework, run)]
    if not able:
        where = f"frameworks/{framework.id}.yaml"
        raise RuleFileError("can run no optimizer at all; say any_class, or name some", where)
    return max(able, key=lambda other: _alike(card, other))


def _runs(card: Optimizer, framework: Framework, run: Situation) -> bool:
    if card.companion is not None and run.precision not in framework.two_optimizers:
        return False
    return framework.any_class or framework.client is not None or framework.by_name(card) is not None


def _alike(card: Optimizer, other: Optimizer) -> tuple[float, bool]:
    """Return how near two optimizers are: of one family and of the same numbers; kin before others."""
    own, its = ({h.name for h in one.hyperparameters} for one in (card, other))
    kin = other.id in card.parents or card.id in other.parents
    return (card.family == other.family) + len(own & its) / len(own | its), kin


def _named(advice: Recommendation, framework: Framework, numbers: Mapping[str, Value]) -> NamedOptimizer | None:
    """Return what a framework builds by name, where that is the optimizer with all of its advised numbers."""
    named = framework.by_name(advice.optimizer)
    if named is None:
        return None
    own = [h.name for h in advice.optimizer.hyperparameters]
    kept = all(name in named.takes or named.leaves.get(name, numbers[name]) == numbers[name] for name in own)
    known = all(name in named.takes or name in named.leaves for name in own)
    return named if kept and known else None


def _quantities(advisor: Advisor, advice: Recommendation, numbers: Mapping[str, Value]) -> Mapping[str, Value]:
    fraction = numbers.get("warmup_fraction") or 0.0
    card = advisor.catalog.scheduler(advice.schedule.id)
    return schedules.quantities(card, float(str(numbers["lr"])), advice.situation.steps, float(str(fraction)))


def _schedule(
    advisor: Advisor, advice: Recommendation, framework: Framework, quantities: Mapping[str, Value], notes: list[str]
) -> tuple[NamedSchedule | None, bool]:
    """Return a framework's schedule that comes nearest with this run's numbers, and whether it is ours to the step."""
    catalog, mine = advisor.catalog, advisor.catalog.scheduler(advice.schedule.id)
    taken = mine.id if mine.id in framework.schedules else None
    if taken is None and framework.schedules:
        alike = [catalog.scheduler(name) for name in framework.schedules if name in catalog.scheduler_ids]
        taken = next((card.id for card in alike if (card.family, card.warmup) == (mine.family, mine.warmup)), None)
    found = None
    if taken is not None:
        found = framework.schedules[taken]
        found = replace(found, settings=_filled(found.settings, quantities))
    exact = found is not None and taken == mine.id and found.differs is None
    if framework.writes != "python" and not exact:
        lacks = f"{framework.name} has no schedule such as {mine.id}"
        if found is None:
            notes.append(f"{lacks}, so none is named here; {_otherwise(framework)}.")
        elif taken != mine.id:
            notes.append(f"{lacks}; {found.name} comes nearest.")
        else:
            notes.append(f"{mine.id} as {framework.name} has it: {found.differs}.")
    return found, exact


def _otherwise(framework: Framework) -> str:
    return "pass the one that --format python builds" if framework.client else "the rate stays where it is"


def _filled(settings: Any, quantities: Mapping[str, Value]) -> Any:
    """Return settings with the run's numbers in the place of `$names`."""
    if isinstance(settings, Mapping):
        return {key: _filled(value, quantities) for key, value in settings.items()}
    if isinstance(settings, str) and settings.startswith("$"):
        return quantities[settings[1:]]
    return settings


def _of_adapters(run: Situation, framework: Framework) -> list[str]:
    """Return what a framework cannot say of the layers that take adapters."""
    if run.method == "full" or not framework.targets or run.lora_targets == "all":
        return []
    asked = run.lora_targets.split(",")
    others = [name for name in asked if name not in framework.targets]
    notes = []
    if others:
        notes.append(f"{framework.name} gives all feed-forward layers adapters or none; for {', '.join(others)}: all.")
    if len(others) == len(asked):
        notes.append(f"{framework.name} needs adapters on an attention layer too; this has them on all.")
    return notes


def _left_out(run: Situation, framework: Framework) -> list[str]:
    """Return what was said of the run that a framework's text does not say."""
    missing = [name for name in _FACTS if getattr(run, name) != _PLAIN[name] and name not in framework.carries]
    if not missing:
        return []
    flags = ", ".join(
        f"--{name.replace('_', '-')}" + ("" if (value := getattr(run, name)) is True else f" {value}")
        for name in missing
    )
    return [f"Not in this text, as it belongs to the model or to how the run is started: {flags}."]


def _micro_batch(run: Situation) -> int | None:
    """Return the samples of a pass, where they were said or follow from a batch that was."""
    return None if run.batch_size is None and "micro_batch" in run.assumed else run.micro_batch


def _passes(run: Situation) -> int:
    """Return the passes of one optimizer step on each GPU; one where that is not known."""
    if run.batch_size is None or run.micro_batch is None:
        return 1
    return max(1, -(-run.batch_size // (run.micro_batch * run.gpus)))
