"""Parsing of a run's options into facts."""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.advice.gpu_detection import describe_gpu, detect_gpu
from optadvise.advice.model_names import ModelName, find_model_name
from optadvise.advice.network_inputs import describe_network, parse_number
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.records import InputValue, NetworkShape, Situation, read_shape
from optadvise.core.units import parse_bytes
from optadvise.memory.inputs import FUSED_TARGETS
from optadvise.memory.networks import load_networks
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact


def parse_inputs(catalog: Catalog, options: Mapping[str, str | bool | None]) -> dict[str, InputValue]:
    """Return the specified facts.

    Args:
        catalog: Options with their accepted values, GPUs and optimizers.
        options: Option values by name; None or False for options that are not specified.

    Raises:
        InputError: A value is invalid, or options contradict each other.
    """
    typed = {name: str(value) for name, value in options.items() if value is not None and value is not False}
    _reject_undeclared_options(catalog, typed)
    named = ModelName() if typed.get("model") is None else find_model_name(catalog, typed["model"])
    facts: dict[str, InputValue] = {**named.facts, **_parse_facts(catalog, typed, named)}
    if typed.get("optimizer") is not None:
        facts["optimizer"] = catalog.find_optimizer(typed["optimizer"], "--optimizer")
    if typed.get("schedule") is not None:
        facts["schedule"] = catalog.find_scheduler(typed["schedule"], "--schedule")
    facts.update(_parse_memory(catalog, typed.get("vram"), typed.get("gpu")))
    facts.update(describe_network(catalog, typed, named, facts))
    if typed.get("lora_targets") is not None:
        if facts.get("method", "full") == "full":
            raise InputError(
                "--lora-targets: requires --method lora or --method qlora",
                code=ErrorCode.OPTION_CONFLICT, option="--lora-targets", value=typed["lora_targets"],
            )  # fmt: skip
        facts["lora_targets"] = _parse_targets(catalog, typed["lora_targets"], read_shape(facts))
    return facts


def _reject_undeclared_options(catalog: Catalog, typed: Mapping[str, str]) -> None:
    options = {option.name for option in catalog.options}
    for name, value in typed.items():
        if name not in options:
            flag = name.replace("_", "-")
            raise InputError(
                f"--{flag}: facts.yaml of the rules in use does not declare this option; remove it",
                code=ErrorCode.UNKNOWN_OPTION, option=f"--{flag}", value=value,
            )  # fmt: skip


def _parse_facts(catalog: Catalog, typed: Mapping[str, str], named: ModelName) -> dict[str, InputValue]:
    """Return the facts that options state, without the kind of model."""
    facts: dict[str, InputValue] = {}
    for fact in catalog.facts.values():
        value = typed.get(fact.name) if fact.flag and fact.id != "model" else None
        if value is None:
            continue
        if fact.type == "number":
            facts[fact.id] = parse_number(value, fact)
        elif fact.type == "choice":
            facts[fact.id] = choice = _parse_choice(value, fact)
            meant = named.facts.get(fact.id, choice)
            if meant != choice:
                raise InputError(
                    f"{fact.flag} {value}: --model {typed['model']} means {fact.flag} {meant}; remove one of them",
                    code=ErrorCode.OPTION_CONFLICT, option=str(fact.flag), value=value,
                )  # fmt: skip
        elif fact.type == "flag":
            facts[fact.id] = True
    return facts


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


def _parse_memory(catalog: Catalog, vram: str | None, gpu: str | None) -> dict[str, InputValue]:
    """Return the facts of the GPU: its name and vendor, and its memory."""
    if vram is not None and vram.strip().lower() == "auto":
        if gpu is not None:
            raise InputError(
                f"--vram auto --gpu {gpu!r}: both name a GPU; use one of them",
                code=ErrorCode.OPTION_CONFLICT, option="--vram", value=vram,
            )  # fmt: skip
        return detect_gpu(catalog)
    memory_bytes = None if vram is None else parse_bytes(vram, "--vram")
    if gpu is None:
        return {} if memory_bytes is None else {"vram_bytes": memory_bytes}
    card = catalog.find_gpu(gpu, memory_bytes)
    return describe_gpu(card)
