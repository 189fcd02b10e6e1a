"""Parsing of a run's options into facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.hardware import find_gpu
from optadvise.core.records import NetworkShape, Situation
from optadvise.core.units import parse_bytes, parse_count
from optadvise.memory.architectures import build_named_shape, build_shape_from_dimensions
from optadvise.memory.hf_config import read_hf_config
from optadvise.memory.inputs import FUSED_TARGETS
from optadvise.memory.networks import load_networks
from optadvise.memory.rules import MemoryRules
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact, RunInput

_DIMENSIONS = ("hidden", "layers", "heads", "kv_heads", "ffn", "vocab")


def parse_inputs(catalog: Catalog, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specified facts.

    Args:
        catalog: Options with their accepted values, GPUs and optimizers.
        typed: Option values by name; None for options without a value.

    Raises:
        InputError: A value is invalid, or options contradict each other.
    """
    options = {option.name for option in catalog.options}
    for name, value in typed.items():
        if value is not None and value is not False and name not in options:
            flag = name.replace("_", "-")
            raise InputError(
                f"--{flag}: facts.yaml of the rules in use does not declare this option; remove it",
                code=ErrorCode.UNKNOWN_OPTION, option=f"--{flag}", value=value,
            )  # fmt: skip
    facts: dict[str, Any] = {}
    for fact in catalog.facts.values():
        value = typed.get(fact.name) if fact.flag else None
        if value is None or value is False:
            continue
        if fact.type == "number":
            facts[fact.id] = _parse_number(value, fact)
        elif fact.type == "choice":
            facts[fact.id] = _parse_choice(value, fact)
        elif fact.type == "flag":
            facts[fact.id] = True
    if typed.get("optimizer") is not None:
        facts["optimizer"] = catalog.find_optimizer(typed["optimizer"], "--optimizer")
    facts.update(_parse_memory(catalog, typed.get("vram"), typed.get("gpu")))
    shape = _parse_shape(catalog, typed, facts)
    if shape is not None:
        _add_shape(catalog, shape, facts)
    if typed.get("lora_targets") is not None:
        if facts.get("method", "full") == "full":
            raise InputError(
                "--lora-targets: requires --method lora or --method qlora",
                code=ErrorCode.OPTION_CONFLICT, option="--lora-targets", value=typed["lora_targets"],
            )  # fmt: skip
        facts["lora_targets"] = _parse_targets(catalog, typed["lora_targets"], shape)
    return facts


def _parse_number(text: str, option: Fact | RunInput) -> int:
    number = parse_count(text, str(option.flag), option.max_value)
    if option.min_value is not None and number < option.min_value:
        raise InputError(
            f"{option.flag} {text}: must be at least {option.min_value:,}; add a unit, such as 7B or 350M",
            code=ErrorCode.OUT_OF_RANGE, option=str(option.flag), value=text,
        )  # fmt: skip
    return number


def _parse_shape(catalog: Catalog, typed: Mapping[str, Any], facts: Mapping[str, Any]) -> NetworkShape | None:
    dims = {name: typed[name] for name in _DIMENSIONS if typed.get(name) is not None}
    descriptions = [name for name in ("arch", "hf_config") if typed.get(name) is not None] + [*dims][:1]
    if len(descriptions) > 1:
        flags = [str(catalog.base.inputs[name].flag) for name in descriptions]
        raise InputError(
            f"{' '.join(flags)}: each describes the whole model; use one of them",
            code=ErrorCode.OPTION_CONFLICT, option=flags[-1], value=typed[descriptions[-1]],
        )  # fmt: skip
    if not descriptions:
        return None
    rules = MemoryRules(catalog)
    if typed.get("arch") is not None:
        return build_named_shape(rules.networks, typed["arch"])
    if typed.get("hf_config") is not None:
        return read_hf_config(rules.networks, rules.settings.unsupported_heads, typed["hf_config"])
    numbers = {name: _parse_number(value, catalog.base.inputs[name]) for name, value in dims.items()}
    return build_shape_from_dimensions(rules.networks, rules.settings.default_families, facts.get("model"), numbers)


def _add_shape(catalog: Catalog, shape: NetworkShape, facts: dict[str, Any]) -> None:
    """Add a shape and its kind of model to the specified facts; reject facts that contradict it."""
    family = load_networks(catalog).find_family(shape)
    model = family.model
    if facts.get("model", model) != model:
        raise InputError(
            f"--model {facts['model']}: {shape.name} is a {model}; remove --model",
            code=ErrorCode.NETWORK_CONFLICT, option="--model", value=facts["model"],
        )  # fmt: skip
    if "params" in facts:
        raise InputError(
            f"--params {facts['params']:,}: {shape.name} determines the number of parameters; remove --params",
            code=ErrorCode.NETWORK_CONFLICT, option="--params", value=facts["params"],
        )  # fmt: skip
    facts.update(model=model, shape=shape)
    if family.architecture is not None:
        facts["architecture"] = family.architecture


def _parse_targets(catalog: Catalog, text: str, shape: NetworkShape | None) -> str:
    accepted = load_networks(catalog).list_adapter_targets(shape)
    accepted |= {part for fused, parts in FUSED_TARGETS.items() if fused in accepted for part in parts}
    targets = [target.strip().lower().removesuffix("_proj") for target in text.split(",")]
    if targets == ["all"] or targets == ["all-linear"]:
        return "all"
    for target in targets:
        if target not in accepted:
            hint = suggest_name(target, sorted(accepted))
            raise InputError(
                f"--lora-targets {target!r}: no linear layer has this name; {hint}",
                code=ErrorCode.UNKNOWN_NAME, option="--lora-targets", value=target,
            )  # fmt: skip
    return ",".join(sorted(set(targets)))


def require_size(situation: Situation) -> None:
    """Check that the options determine the model's size.

    Raises:
        InputError: They do not.
    """
    if situation.params is None:
        raise InputError(
            "the size of the model is not specified; use --arch NAME, --hf-config FILE, --params 7B, --hidden with "
            "--layers, --heads, --ffn and --vocab, or --workload package.module:function",
            code=ErrorCode.NETWORK_UNKNOWN,
        )


def _parse_choice(text: str, fact: Fact) -> str:
    spelled = text.strip().lower().replace("_", "-")
    values = fact.values or {}
    choice = next((value for value, spellings in fact.also.items() if spelled in spellings), spelled)
    if choice not in values:
        aliases = {spelling: value for value, spellings in fact.also.items() for spelling in spellings}
        raise InputError(
            f"{fact.flag} {text!r}: not an accepted value; {suggest_name(spelled, values, aliases)}",
            code=ErrorCode.UNKNOWN_CHOICE, option=str(fact.flag), value=text,
        )  # fmt: skip
    return choice


def _parse_memory(catalog: Catalog, vram: str | None, gpu: str | None) -> dict[str, Any]:
    if vram is not None and gpu is not None:
        raise InputError(
            f"--vram {vram} --gpu {gpu!r}: both set the GPU's memory; use one of them",
            code=ErrorCode.OPTION_CONFLICT, option="--vram", value=vram,
        )  # fmt: skip
    if gpu is not None:
        card = catalog.find_gpu(gpu)
        memory = {"gpu": card.name, "vram_bytes": card.memory_bytes, "vendor": card.vendor}
        return memory if card.bf16 else {**memory, "bf16": False}
    if vram is None:
        return {}
    if vram.strip().lower() == "auto":
        name, size = find_gpu()
        return {"gpu": name, "vram_bytes": size}
    return {"vram_bytes": parse_bytes(vram, "--vram")}
