"""Notes about parts of a recommendation that a framework does not support or handles differently."""

from __future__ import annotations

from collections.abc import Iterator

from optadvise.codegen.plan import Plan, count_micro_batches
from optadvise.core.framework_cards import Framework
from optadvise.core.records import SITUATION_DEFAULTS, Situation

# Facts that a generated file must set, or mention in a note, if they differ from their default.
_FACTS = ("method", "gpus", "shard", "offload", "checkpointing", "attention", "loss")


def list_notes(plan: Plan) -> Iterator[str]:
    """Yield a sentence per setting that the framework does not support, and the command for several GPUs."""
    framework, run = plan.framework, plan.advice.situation
    yield from _notes_of_optimizer(plan)
    yield from _notes_of_schedule(plan)
    yield from _notes_of_batch(plan)
    yield from _notes_of_gradient_release(plan)
    yield from _notes_of_engine(plan)
    if plan.advice.optimizer.paged:
        yield (
            "A resumed run needs more GPU memory: loading a checkpoint copies the paged state to ordinary GPU memory, "
            "where it stays."
        )
    if framework.decays_all and plan.hyperparameters.get("weight_decay"):
        yield f"{framework.name} {framework.decays_all}."
    for value in (run.precision, run.checkpointing, *([run.shard] if plan.is_sharded else [])):
        if value in framework.substitutes:
            yield f"{framework.name} {framework.substitutes[value]}."
    if run.gradient_release and not plan.gradient_release:
        yield f"{framework.name} does not support gradient release; this file steps after the backward pass."
    yield from _notes_of_adapters(run, framework)
    layer_decay = plan.hyperparameters.get("layer_decay")
    if layer_decay is not None:
        yield (
            f"Layer-wise decay: multiply the learning rate by {layer_decay} for each layer below the head, with one "
            "parameter group per layer (timm.optim.param_groups_layer_decay)."
        )
    if plan.ema_decay is not None and not framework.averages_weights:
        yield (
            f"Average the weights after each step with decay {plan.ema_decay} and evaluate the average "
            "(torch.optim.swa_utils.AveragedModel); this file does not."
        )
    yield from _notes_of_facts(run, framework)
    launch = framework.shard_launch.get(run.shard, framework.launch)
    if run.gpus > 1 and launch is not None:
        yield f"Run on {run.gpus} GPUs: {launch.replace('{gpus}', str(run.gpus))}"


def _notes_of_optimizer(plan: Plan) -> Iterator[str]:
    framework, run, optimizer = plan.framework, plan.advice.situation, plan.advice.optimizer
    requested = plan.requested.optimizer
    if optimizer.id != requested.id:
        problem = f"does not support {requested.name}"
        if plan.requested.companion is not None:
            precision = f" with {run.precision}" if framework.two_optimizers else ""
            problem = f"supports only one optimizer{precision}, but {requested.name} requires a second one"
        yield (
            f"{framework.name} {problem}. This file uses {optimizer.name} instead, the closest supported optimizer, "
            "with the hyperparameters recommended for it."
        )
    if plan.named_optimizer is None and framework.client:
        yield (
            f"{framework.name} has no name for {optimizer.name}. Build it as in --format python and pass it: "
            f"{framework.client}."
        )
    if framework.output_format == "json" and (run.batch_size is None or plan.micro_batch is None):
        yield (
            'The batch size is not specified, so it is "auto", which Trainer, Accelerate and Lightning replace. For '
            "deepspeed.initialize, add --batch-size and --micro-batch."
        )


def _notes_of_batch(plan: Plan) -> Iterator[str]:
    run, framework = plan.advice.situation, plan.framework
    if plan.micro_batch is None and framework.unset_batch is not None:
        counted = f"; memory is estimated for a micro-batch of {run.micro_batch}" if run.micro_batch else ""
        yield f"The batch size is not specified, so {framework.unset_batch}{counted}. Add --batch-size."


def _notes_of_schedule(plan: Plan) -> Iterator[str]:
    framework, schedule = plan.framework, plan.nearest_schedule
    if framework.output_format == "python" or plan.is_schedule_exact:
        return
    name = plan.advice.schedule.id
    if schedule is None:
        remedy = "build it as in --format python" if framework.client else "the learning rate is constant"
        yield f"{framework.name} has no schedule like {name}, so this file sets none; {remedy}."
    elif name in framework.schedules:
        yield f"{framework.name}'s schedule {schedule.name} differs from {name}: {schedule.difference}."
    else:
        yield f"{framework.name} has no schedule {name}; this file uses the closest one, {schedule.name}."


def _notes_of_gradient_release(plan: Plan) -> Iterator[str]:
    if not plan.gradient_release:
        return
    micro_batches = count_micro_batches(plan.advice.situation)
    if micro_batches > 1:
        yield (
            "Gradient release excludes gradient accumulation: each of the "
            f"{micro_batches} micro-batches is an optimizer step."
        )
    if plan.hyperparameters.get("max_grad_norm") is not None:
        yield "Gradient release excludes gradient clipping: weights are stepped before all gradients are computed."


def _notes_of_adapters(run: Situation, framework: Framework) -> Iterator[str]:
    if run.method == "full" or not framework.targets or run.lora_targets == "all":
        return
    targets = run.lora_targets.split(",")
    others = [name for name in targets if name not in framework.targets]
    if others:
        yield (
            f"{framework.name} adds adapters to all feed-forward layers or none, so this file adds them to all "
            f"(requested: {', '.join(others)})."
        )
    if len(others) == len(targets):
        yield f"{framework.name} requires adapters on attention layers, so this file adds them to all."


def _notes_of_engine(plan: Plan) -> Iterator[str]:
    framework, run = plan.framework, plan.advice.situation
    if plan.is_sharded and run.engine not in (None, framework.engine):
        yield f"This file shards with {framework.engine}; add --engine {framework.engine} for the memory of its run."


def _notes_of_facts(run: Situation, framework: Framework) -> Iterator[str]:
    supported = {*framework.supported_facts, *(["shard"] if run.shard in framework.shard_launch else [])}
    facts = {name: getattr(run, name) for name in _FACTS if name not in supported}
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in facts.items()
        if value != SITUATION_DEFAULTS[name]
    ]
    if flags:
        yield f"Not set by this file; configure it in your model or launcher: {', '.join(flags)}."
