"""Parse the options of a run into facts; every error has the flag, what is accepted and the nearest guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.hardware import find_gpu
from optadvise.core.records import NetworkShape, Situation
from optadvise.core.units import parse_bytes, parse_count
from optadvise.memory.architectures import named_shape, shape_from_dimensions
from optadvise.memory.hf_config import shape_from_config
from optadvise.memory.inputs import FUSED_TARGETS
from optadvise.memory.networks import load_networks
from optadvise.memory.rules import MemoryRules
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact, RunInput

_DIMENSIONS = ("hidden", "layers", "heads", "kv_heads", "ffn", "vocab")


def parse_inputs(catalog: Catalog, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that were stated.

    Args:
        catalog: Has the options, their accepted values, GPUs and optimizers.
        typed: Option values by name, None where an option was left out.

    Raises:
        InputError: A value is not accepted.
    """
    options = {option.name for option in catalog.options}
    for name, value in typed.items():
        if value is not None and value is not False and name not in options:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag}: the facts.yaml of the rules in use has no such option; leave it out")
    stated: dict[str, Any] = {}
    for fact in catalog.facts.values():
        value = typed.get(fact.name) if fact.flag else None
        if value is None or value is False:
            continue
        if fact.type == "number":
            stated[fact.id] = _parse_number(value, fact)
        elif fact.type == "choice":
            stated[fact.id] = _parse_choice(value, fact)
        elif fact.type == "flag":
            stated[fact.id] = True
    if typed.get("optimizer") is not None:
        stated["optimizer"] = catalog.find_optimizer(typed["optimizer"], "--optimizer")
    stated.update(_parse_memory(catalog, typed.get("vram"), typed.get("gpu")))
    shape = _parse_shape(catalog, typed, stated)
    if shape is not None:
        _add_shape(catalog, shape, stated)
    if typed.get("lora_targets") is not None:
        if stated.get("method", "full") == "full":
            raise InputError("--lora-targets: only adapters have targets; say --method lora or qlora, or leave it out")
        stated["lora_targets"] = _parse_targets(catalog, typed["lora_targets"], shape)
    return stated


def _parse_number(text: str, option: Fact | RunInput) -> int:
    number = parse_count(text, str(option.flag))
    if option.min_value is not None and number < option.min_value:
        raise InputError(
            f"{option.flag} {text}: must be at least {option.min_value:,}; add a unit, such as 7B or 350M",
            code=ErrorCode.OUT_OF_RANGE, option=str(option.flag), value=text,
        )  # fmt: skip
    if option.max_value is not None and number > option.max_value:
        raise InputError(
            f"{option.flag} {text}: must be at most {option.max_value:,}",
            code=ErrorCode.OUT_OF_RANGE, option=str(option.flag), value=text,
        )  # fmt: skip
    return number


def _parse_shape(catalog: Catalog, typed: Mapping[str, Any], stated: Mapping[str, Any]) -> NetworkShape | None:
    dims = {name: typed[name] for name in _DIMENSIONS if typed.get(name) is not None}
    descriptions = [name for name in ("arch", "hf_config") if typed.get(name) is not None] + [*dims][:1]
    if len(descriptions) > 1:
        flags = " ".join(str(catalog.base.inputs[name].flag) for name in descriptions)
        raise InputError(f"{flags}: each describes the whole network; give one of them")
    if not descriptions:
        return None
    rules = MemoryRules(catalog)
    if typed.get("arch") is not None:
        return named_shape(rules.networks, typed["arch"])
    if typed.get("hf_config") is not None:
        return shape_from_config(rules.networks, rules.settings.unsupported_heads, typed["hf_config"])
    numbers = {name: _parse_number(value, catalog.base.inputs[name]) for name, value in dims.items()}
    return shape_from_dimensions(rules.networks, rules.settings.default_families, stated.get("model"), numbers)


def _add_shape(catalog: Catalog, shape: NetworkShape, stated: dict[str, Any]) -> None:
    """Add a shape and its kind of model to the stated facts; reject facts that it contradicts."""
    model = load_networks(catalog).family_of(shape).model
    if stated.get("model", model) != model:
        raise InputError(f"--model {stated['model']}: {shape.name} is a {model}; leave --model out")
    if "params" in stated:
        raise InputError(f"--params {stated['params']:,}: the size follows from {shape.name}; leave --params out")
    stated.update(model=model, shape=shape)


def _parse_targets(catalog: Catalog, text: str, shape: NetworkShape | None) -> str:
    accepted = load_networks(catalog).adapter_targets(shape)
    accepted |= {part for fused, parts in FUSED_TARGETS.items() if fused in accepted for part in parts}
    targets = [target.strip().lower().removesuffix("_proj") for target in text.split(",")]
    if targets == ["all"] or targets == ["all-linear"]:
        return "all"
    for target in targets:
        if target not in accepted:
            hint = suggest_name(target, sorted(accepted))
            raise InputError(f"--lora-targets {target!r}: no linear layer is called so; {hint}")
    return ",".join(sorted(set(targets)))


def require_size(situation: Situation) -> None:
    """Refuse a situation that says nothing of the network's size.

    Raises:
        InputError: Nothing was said.
    """
    if situation.params is None:
        raise InputError(
            "nothing says how large the network is; give --arch NAME, --hf-config FILE, --params 7B, --hidden with "
            "--layers and --heads, or --from package.module:function"
        )


def _parse_choice(text: str, fact: Fact) -> str:
    spelled = text.strip().lower().replace("_", "-")
    values = fact.values or {}
    choice = next((value for value, spellings in fact.also.items() if spelled in spellings), spelled)
    if choice not in values:
        hint = suggest_name(spelled, values)
        raise InputError(
            f"{fact.flag} {text!r} is not supported; {hint}",
            code=ErrorCode.UNKNOWN_CHOICE,
            option=str(fact.flag),
            value=text,
        )
    return choice


def _parse_memory(catalog: Catalog, vram: str | None, gpu: str | None) -> dict[str, Any]:
    if vram is not None and gpu is not None:
        raise InputError(f"--vram {vram} --gpu {gpu!r}: both state the memory; give one of them")
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
