"""Configuration files: what a framework is told of the optimizer, the schedule and the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from optadvise.codegen.parts import header
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import comment


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line."""


_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))
_AUTO = "auto"  # what Trainer, Accelerate and Lightning fill in


def torchtune(plan: Plan) -> str:
    """Return the part of a recipe's YAML that concerns the optimizer."""
    advice = plan.advice
    run = advice.situation
    data: dict[str, Any] = {"optimizer": {"_component_": advice.implementation.path, **advice.kwargs,
                                          **advice.fused}}  # fmt: skip
    if plan.own is not None:
        data["lr_scheduler"] = {"_component_": plan.own.name, **plan.own.settings}
    data |= {
        "optimizer_in_bwd": plan.release,
        "clip_grad_norm": plan.clip,
        "gradient_accumulation_steps": plan.accumulate,
        **({} if plan.micro_batch is None else {"batch_size": plan.micro_batch}),
        "epochs": 1,
        "max_steps_per_epoch": plan.quantities["total_steps"],
        "dtype": "fp32" if run.precision == "fp32" else "bf16",
        "enable_activation_checkpointing": run.checkpointing != "none",
    }
    if run.method != "full":
        known = plan.framework.targets
        asked = list(known) if run.lora_targets == "all" else run.lora_targets.split(",")
        rank = run.lora_rank or 16
        data["model"] = {
            "lora_attn_modules": [known[name] for name in asked if name in known] or [*known.values()],
            "apply_lora_to_mlp": run.lora_targets == "all" or any(name not in known for name in asked),
            "lora_rank": rank,
            "lora_alpha": rank,
            **({"quantize_base": True} if run.method == "qlora" else {}),
        }
    return _yaml(plan, data)


def axolotl(plan: Plan) -> str:
    """Return the part of a training's YAML that concerns the optimizer."""
    run, named = plan.advice.situation, plan.named
    data: dict[str, Any] = {}
    if named is not None:
        data = {"optimizer": named.name, **plan.called(named.takes)}
    if plan.own is not None:
        data |= {"lr_scheduler": plan.own.name, **plan.own.settings}
    data |= {
        "max_grad_norm": plan.clip or 0.0,
        "max_steps": plan.quantities["total_steps"],
        **({} if plan.micro_batch is None else {"micro_batch_size": plan.micro_batch}),
        "gradient_accumulation_steps": plan.accumulate,
        "bf16": run.precision == "amp-bf16",
        **({"bfloat16": True} if run.precision == "bf16" else {}),
        "fp16": run.precision == "amp-fp16",
        "gradient_checkpointing": run.checkpointing != "none",
    }
    if run.method != "full":
        rank = run.lora_rank or 16
        targets = {"lora_target_linear": True} if run.lora_targets == "all" else {
            "lora_target_modules": [f"{name}_proj" for name in run.lora_targets.split(",")]
        }  # fmt: skip
        data |= {"adapter": run.method, "load_in_4bit": run.method == "qlora", "lora_r": rank, "lora_alpha": rank,
                 **targets}  # fmt: skip
    return _yaml(plan, data)


def deepspeed(plan: Plan) -> str:
    """Return a configuration of DeepSpeed as JSON."""
    run, named = plan.advice.situation, plan.named
    data: dict[str, Any] = {
        "train_batch_size": run.batch_size or _AUTO,
        "train_micro_batch_size_per_gpu": plan.micro_batch or _AUTO,
        "gradient_accumulation_steps": plan.accumulate if run.batch_size and plan.micro_batch else _AUTO,
        "gradient_clipping": plan.clip or 0.0,
        "bf16": {"enabled": run.precision in ("bf16", "amp-bf16")},
        "fp16": {"enabled": run.precision == "amp-fp16"},
    }
    if named is not None:
        data["optimizer"] = {"type": named.name, "params": {**plan.called(named.takes), **named.settings}}
        if plan.own is not None:
            data["scheduler"] = {"type": plan.own.name, "params": dict(plan.own.settings)}
    stage = int(run.shard.removeprefix("zero")) if run.shard != "none" else 0
    if stage or run.offload:
        data["zero_optimization"] = {"stage": max(stage, 1)}
        if run.offload:
            data["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
            if named is None:
                data["zero_force_ds_cpu_optimizer"] = False  # else it takes its own alone
        if plan.advice.optimizer.id not in plan.framework.optimizers:
            data["zero_allow_untested_optimizer"] = True
    return json.dumps(data, indent=2) + "\n"


def _yaml(plan: Plan, data: Mapping[str, Any]) -> str:
    text = yaml.dump(
        dict(data), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110
    )
    return "\n".join([*header(plan), *comment(plan.framework.about), ""]) + str(text)
