"""Generated Python programs for PyTorch, Accelerate, Lightning and the Trainer of Transformers."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from optadvise.codegen.context import build_program
from optadvise.codegen.plan import Plan
from optadvise.codegen.templating import render
from optadvise.rulebase.constructor import convert_lists


class TrainerOptions(Struct, frozen=True):
    """Template variables of a program for Trainer."""

    optimizer_settings: Mapping[str, object]  # arguments of TrainingArguments
    passes_class: bool  # no `optim=` name builds the optimizer, so its class is passed to Trainer
    schedule_settings: Mapping[str, object]  # arguments of TrainingArguments; empty without a similar schedule
    is_schedule_exact: bool  # these settings give the recommended schedule
    nearest_schedule: str  # comment about Trainer's closest schedule
    has_checkpointing: bool
    has_chunked_loss: bool
    is_sharded: bool
    fsdp_config: Mapping[str, object]
    config_class: str
    trainer_class: str
    task_settings: Mapping[str, object]  # further arguments of `config_class`
    is_trl: bool
    has_rewards: bool  # rewards of sampled completions instead of pairs of answers


class _TrlTask(Struct, frozen=True):
    """Classes of TRL for a task."""

    config: str
    trainer: str
    has_rewards: bool


_TRL_TASKS: Mapping[str, _TrlTask] = {
    "dpo": _TrlTask("DPOConfig", "DPOTrainer", has_rewards=False),
    "grpo": _TrlTask("GRPOConfig", "GRPOTrainer", has_rewards=True),
}
_MAX_COMPLETIONS = 8  # of a prompt; TRL's default


class LightningOptions(Struct, frozen=True):
    """Template variables of a program for Lightning."""

    devices: int
    overrides_clipping: bool  # Lightning rejects gradient clipping, so the program clips


def write_loop(plan: Plan) -> str:
    """Return a plain PyTorch training loop for one GPU or a CPU."""
    template = plan.framework.template(plan.advice.situation)
    return render(f"{template}.py.jinja", build_program(plan))


def write_accelerate(plan: Plan) -> str:
    """Return a training loop with Accelerate, for any number of devices."""
    return render("accelerate.py.jinja", build_program(plan))


def write_lightning(plan: Plan) -> str:
    """Return a LightningModule with `configure_optimizers`, and its Trainer."""
    run = plan.advice.situation
    # A fused step unscales gradients itself, after clipping, so clipping would use scaled gradients.
    fused = plan.clip is None or run.precision != "amp-fp16"
    # Lightning rejects clipping with any fused optimizer under autocast, although bf16 needs no loss scaling.
    overrides_clipping = plan.clip is not None and bool(plan.advice.fused) and run.precision == "amp-bf16"
    options = LightningOptions(run.gpus, overrides_clipping)
    return render("lightning.py.jinja", build_program(plan, modules=["lightning"], fused=fused), options)


def write_trainer(plan: Plan) -> str:
    """Return a program with a Trainer of Transformers, or of TRL for preference tuning and rewards."""
    run = plan.advice.situation
    trl = _TRL_TASKS.get(run.task)
    schedule, named = plan.nearest_schedule, plan.named_optimizer
    settings = plan.framework_arguments(("lr", "weight_decay") if named is None else named.settable)
    difference = f" ({schedule.difference})" if schedule is not None and schedule.difference else ""
    options = TrainerOptions(
        optimizer_settings=convert_lists(settings if named is None else {"optim": named.name, **settings}),
        passes_class=named is None,
        schedule_settings={} if schedule is None else {"lr_scheduler_type": schedule.name, **schedule.settings},
        is_schedule_exact=plan.is_schedule_exact,
        nearest_schedule=f"Closest built-in schedule of Trainer{difference}:",
        has_checkpointing=run.checkpointing != "none",
        has_chunked_loss=run.loss == "chunked",
        is_sharded=plan.is_sharded,
        fsdp_config={
            "reshard_after_forward": run.shard == "zero3",
            "activation_checkpointing": run.checkpointing != "none",
        },
        config_class="TrainingArguments" if trl is None else trl.config,
        trainer_class="Trainer" if trl is None else trl.trainer,
        task_settings={} if trl is None else _list_task_settings(plan, trl),
        is_trl=trl is not None,
        has_rewards=trl is not None and trl.has_rewards,
    )
    template = plan.framework.template(run)
    return render(f"{template}.py.jinja", build_program(plan, from_class=named is None), options)


def _list_task_settings(plan: Plan, trl: _TrlTask) -> dict[str, object]:
    """Return the arguments of TRL that the batch and the length determine."""
    run = plan.advice.situation
    if not trl.has_rewards:
        return {} if run.seq_len is None else {"max_length": run.seq_len}
    if plan.micro_batch is None:
        return {}
    completions = plan.micro_batch * plan.accumulation * run.gpus  # which TRL requires to be a multiple
    group = next((size for size in range(_MAX_COMPLETIONS, 1, -1) if completions % size == 0), None)
    return {} if group is None else {"num_generations": group}
