"""Configuration files: optimizer, schedule and batch settings for torchtune, Axolotl and DeepSpeed."""

from __future__ import annotations

import json
from typing import TypeAlias

import yaml

from optadvise.codegen.context import Adapters, build_adapters, list_header
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import wrap_comment
from optadvise.core.records import Situation

Document: TypeAlias = dict[str, object]  # contents of a configuration file in the framework's format
_AUTO = "auto"  # Trainer, Accelerate and Lightning replace it by their own value


class _Dumper(yaml.SafeDumper):
    """YAML dumper that writes lists on one line."""


_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))


def write_torchtune(plan: Plan) -> str:
    """Return the optimizer, schedule and batch settings of a torchtune recipe as YAML."""
    advice, run, schedule = plan.advice, plan.advice.situation, plan.nearest_schedule
    document: Document = {"optimizer": {"_component_": advice.implementation.path, **advice.kwargs, **advice.fused}}
    if schedule is not None:
        document["lr_scheduler"] = {"_component_": schedule.name, **schedule.settings}
    document |= {
        "optimizer_in_bwd": plan.gradient_release,
        "clip_grad_norm": plan.clip,
        "gradient_accumulation_steps": plan.accumulation,
        **({} if plan.micro_batch is None else {"batch_size": plan.micro_batch}),
        "epochs": 1,
        "max_steps_per_epoch": run.steps,
        "dtype": "fp32" if run.precision == "fp32" else "bf16",
        "enable_activation_checkpointing": run.checkpointing != "none",
    }
    if run.loss == "chunked":
        document["loss"] = {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"}
    if plan.is_sharded:
        document["fsdp_reshard_after_forward"] = run.shard == "zero3"
    adapters = build_adapters(plan)
    if adapters is not None:
        document["model"] = _torchtune_adapters(plan, adapters)
    return _dump_yaml(plan, document)


def _torchtune_adapters(plan: Plan, adapters: Adapters) -> Document:
    """Return the adapter arguments of a recipe's model: torchtune adapts all feed-forward layers, or none."""
    run, modules = plan.advice.situation, plan.framework.targets
    targets = list(modules) if run.lora_targets == "all" else run.lora_targets.split(",")
    return {
        "lora_attn_modules": [modules[name] for name in targets if name in modules] or [*modules.values()],
        "apply_lora_to_mlp": run.lora_targets == "all" or any(name not in modules for name in targets),
        "lora_rank": adapters.rank,
        "lora_alpha": adapters.alpha,
        "lora_dropout": adapters.dropout,
        **({"quantize_base": True} if adapters.quantized else {}),
    }


def write_axolotl(plan: Plan) -> str:
    """Return the optimizer, schedule and batch settings of an Axolotl configuration as YAML."""
    run, named, schedule = plan.advice.situation, plan.named_optimizer, plan.nearest_schedule
    document: Document = {}
    if named is not None:
        document |= {"optimizer": named.name, **plan.framework_arguments(named.settable)}
    if schedule is not None:
        document |= {"lr_scheduler": schedule.name, **schedule.settings}
    document |= {
        "max_grad_norm": plan.clip or 0.0,
        "max_steps": run.steps,
        **({} if plan.micro_batch is None else {"micro_batch_size": plan.micro_batch}),
        "gradient_accumulation_steps": plan.accumulation,
        "bf16": run.precision == "amp-bf16",
        **({"bfloat16": True} if run.precision == "bf16" else {}),
        "fp16": run.precision == "amp-fp16",
        "gradient_checkpointing": run.checkpointing != "none" and not plan.is_sharded,
    }
    if run.loss == "chunked":
        document |= {
            "plugins": ["axolotl.integrations.liger.LigerPlugin"], "liger_fused_linear_cross_entropy": True,
        }  # fmt: skip
    if plan.is_sharded:
        document |= {"fsdp_version": 2, "fsdp_config": _axolotl_fsdp(run)}
    adapters = build_adapters(plan)
    if adapters is not None:
        document |= {
            "adapter": run.method,
            "load_in_4bit": adapters.quantized,
            "lora_r": adapters.rank,
            "lora_alpha": adapters.alpha,
            "lora_dropout": adapters.dropout,
        }
        is_everywhere = isinstance(adapters.targets, str)
        document |= {"lora_target_linear": True} if is_everywhere else {"lora_target_modules": adapters.targets}
    return _dump_yaml(plan, document)


def _axolotl_fsdp(run: Situation) -> Document:
    return {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": run.shard == "zero3",
        "offload_params": False,
        "activation_checkpointing": run.checkpointing != "none",
        "state_dict_type": "FULL_STATE_DICT",
    }


def write_deepspeed(plan: Plan) -> str:
    """Return a DeepSpeed configuration as JSON."""
    run, named, schedule = plan.advice.situation, plan.named_optimizer, plan.nearest_schedule
    document: Document = {
        "train_batch_size": run.batch_size or _AUTO,
        "train_micro_batch_size_per_gpu": plan.micro_batch or _AUTO,
        "gradient_accumulation_steps": plan.accumulation if run.batch_size and plan.micro_batch else _AUTO,
        "gradient_clipping": plan.clip or 0.0,
        "bf16": {"enabled": run.precision in ("bf16", "amp-bf16")},
        "fp16": {"enabled": run.precision == "amp-fp16"},
    }
    if named is not None:
        arguments = {**plan.framework_arguments(named.settable), **named.settings}
        document["optimizer"] = {"type": named.name, "params": arguments}
        if schedule is not None:
            document["scheduler"] = {"type": schedule.name, "params": schedule.settings}
    if run.shard != "none" or run.offload:
        document |= _deepspeed_zero(plan)
    return json.dumps(document, indent=2) + "\n"


def _deepspeed_zero(plan: Plan) -> Document:
    run = plan.advice.situation
    stage = 1 if run.shard == "none" else int(run.shard.removeprefix("zero"))
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": True}} if run.offload else {}
    document: Document = {"zero_optimization": {"stage": stage, **offload}}
    if run.offload and plan.named_optimizer is None:
        document["zero_force_ds_cpu_optimizer"] = False  # accept optimizers other than DeepSpeedCPUAdam
    if plan.advice.optimizer.id not in plan.framework.optimizers:
        document["zero_allow_untested_optimizer"] = True
    return document


def _dump_yaml(plan: Plan, document: Document) -> str:
    comments = [wrap_comment(sentence) for sentence in (*list_header(plan), plan.framework.about)]
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110)
    return "\n".join([*comments, str(text)])
