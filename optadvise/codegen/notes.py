"""Notes about the parts of a recommendation that a framework cannot express, or does otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from optadvise.codegen.plan import Plan, count_micro_batches
from optadvise.core.framework_cards import Framework
from optadvise.core.records import SITUATION_DEFAULTS, Situation

# Facts of a run that change what has to be written where they are not at their default.
_FACTS = ("method", "gpus", "shard", "offload", "checkpointing", "attention", "loss")


def list_notes(plan: Plan) -> Iterator[str]:
    """Yield a sentence for everything that the framework cannot express, and how to start it on several GPUs."""
    framework, run = plan.framework, plan.advice.situation
    yield from _notes_of_optimizer(plan)
    yield from _notes_of_schedule(plan)
    yield from _notes_of_gradient_release(plan)
    if framework.decays_all and plan.hyperparameters.get("weight_decay"):
        yield f"{framework.name} {framework.decays_all}."
    for value in (run.precision, run.checkpointing):
        if value in framework.substitutes:
            yield f"{framework.name} {framework.substitutes[value]}."
    if run.gradient_release and not plan.gradient_release:
        yield f"{framework.name} steps weights after the backward pass, when all gradients are there at once."
    yield from _notes_of_adapters(run, framework)
    yield from _notes_of_facts(run, framework)
    if run.gpus > 1 and framework.launch is not None:
        yield f"On {run.gpus} GPUs: {framework.launch.replace('{gpus}', str(run.gpus))}"


def _notes_of_optimizer(plan: Plan) -> Iterator[str]:
    framework, run, optimizer = plan.framework, plan.advice.situation, plan.advice.optimizer
    requested = plan.requested.optimizer
    if optimizer.id != requested.id:
        lacks, needs = f"has no {requested.name}", ""
        if plan.requested.companion is not None:
            lacks = "steps one optimizer" + (f" under {run.precision}" if framework.two_optimizers else "")
            needs = f", and {requested.name} needs another beside it"
        yield (
            f"{framework.name} {lacks}{needs}. This is {optimizer.name}, the nearest that it can run, with the numbers "
            "that are advised for it."
        )
    if plan.named_optimizer is None and framework.client:
        yield (
            f"{framework.name} has no {optimizer.name} by name. Pass the one that --format python builds: "
            f"{framework.client}."
        )
    if framework.output_format == "json" and (run.batch_size is None or plan.micro_batch is None):
        yield (
            'The batch is not known: Trainer, Accelerate and Lightning fill in "auto"; for deepspeed.initialize say '
            "--batch-size and --micro-batch."
        )


def _notes_of_schedule(plan: Plan) -> Iterator[str]:
    framework, schedule = plan.framework, plan.nearest_schedule
    if framework.output_format == "python" or plan.is_schedule_exact:
        return
    lacks = f"{framework.name} has no schedule such as {plan.advice.schedule.id}"
    if schedule is None:
        otherwise = "pass the one that --format python builds" if framework.client else "the rate stays where it is"
        yield f"{lacks}, so none is named here; {otherwise}."
    elif plan.advice.schedule.id in framework.schedules:
        yield f"{plan.advice.schedule.id} as {framework.name} has it: {schedule.difference}."
    else:
        yield f"{lacks}; {schedule.name} comes nearest."


def _notes_of_gradient_release(plan: Plan) -> Iterator[str]:
    if not plan.gradient_release:
        return
    passes = count_micro_batches(plan.advice.situation)
    if passes > 1:
        yield f"Nothing is accumulated: each of the {passes} passes is a step of its own."
    if plan.hyperparameters.get("max_grad_norm") is not None:
        yield "No gradient is clipped: each weight is stepped before all gradients are there."


def _notes_of_adapters(run: Situation, framework: Framework) -> Iterator[str]:
    if run.method == "full" or not framework.targets or run.lora_targets == "all":
        return
    targets = run.lora_targets.split(",")
    others = [name for name in targets if name not in framework.targets]
    if others:
        yield f"{framework.name} gives all feed-forward layers adapters or none; for {', '.join(others)}: all."
    if len(others) == len(targets):
        yield f"{framework.name} needs adapters on an attention layer too; this has them on all."


def _notes_of_facts(run: Situation, framework: Framework) -> Iterator[str]:
    facts = {name: getattr(run, name) for name in _FACTS if name not in framework.supported_facts}
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in facts.items()
        if value != SITUATION_DEFAULTS[name]
    ]
    if flags:
        yield f"Not in this text, as it belongs to the model or to how the run is started: {', '.join(flags)}."
