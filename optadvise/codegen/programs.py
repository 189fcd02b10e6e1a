"""Programs for the frameworks that are called from Python."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from optadvise.codegen.context import build_program
from optadvise.codegen.plan import Plan
from optadvise.codegen.templating import render
from optadvise.rulebase.constructor import convert_lists


class TrainerOptions(Struct, frozen=True):
    """Further parts of a program for Trainer."""

    optimizer_settings: Mapping[str, object]  # arguments of TrainingArguments
    passes_class: bool  # no name builds the optimizer, so that its class is passed to Trainer
    schedule_settings: Mapping[str, object]  # arguments of TrainingArguments; empty without a schedule that comes near
    is_schedule_exact: bool  # these settings make the advised schedule
    nearest_schedule: str  # comment about Trainer's schedule that comes nearest
    has_checkpointing: bool


class LightningOptions(Struct, frozen=True):
    """Further parts of a program for Lightning."""

    devices: int
    overrides_clipping: bool  # Lightning refuses to clip, and the program does it


def write_loop(plan: Plan) -> str:
    """Return a plain PyTorch loop, for one GPU or a CPU."""
    return render("python.py.jinja", build_program(plan))


def write_accelerate(plan: Plan) -> str:
    """Return the loop under Accelerate, on as many devices as `accelerate launch` starts it on."""
    return render("accelerate.py.jinja", build_program(plan))


def write_lightning(plan: Plan) -> str:
    """Return a LightningModule with `configure_optimizers`, and its Trainer."""
    run = plan.advice.situation
    # A fused step divides gradients by the loss scale itself, after clipping, which would see scaled gradients.
    fused = plan.clip is None or run.precision != "amp-fp16"
    # Lightning refuses to clip beside any fused step under autocast; bf16 has no loss scale.
    overrides_clipping = plan.clip is not None and bool(plan.advice.fused) and run.precision == "amp-bf16"
    options = LightningOptions(run.gpus, overrides_clipping)
    return render("lightning.py.jinja", build_program(plan, modules=["lightning"], fused=fused), options)


def write_trainer(plan: Plan) -> str:
    """Return TrainingArguments and a Trainer of transformers."""
    schedule, named = plan.nearest_schedule, plan.named_optimizer
    settings = plan.framework_arguments(("lr", "weight_decay") if named is None else named.settable)
    difference = f"; {schedule.difference}" if schedule is not None and schedule.difference else ""
    options = TrainerOptions(
        optimizer_settings=convert_lists(settings if named is None else {"optim": named.name, **settings}),
        passes_class=named is None,
        schedule_settings={} if schedule is None else {"lr_scheduler_type": schedule.name, **schedule.settings},
        is_schedule_exact=plan.is_schedule_exact,
        nearest_schedule=f"Trainer's own that comes nearest{difference}:",
        has_checkpointing=plan.advice.situation.checkpointing != "none",
    )
    return render("hf.py.jinja", build_program(plan, from_class=named is None), options)
