"""From what was typed to facts: every error names the flag, what is accepted and the nearest guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optadvise.core.errors import InputError, nearest
from optadvise.core.records import NetworkShape, Situation
from optadvise.core.units import parse_bytes, parse_count
from optadvise.memory.architectures import named_shape, shape_from_dimensions
from optadvise.memory.hf_config import shape_from_config
from optadvise.memory.inputs import FUSED_TARGETS
from optadvise.memory.networks import load_networks
from optadvise.memory.rules import MemoryRules
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact

_COUNTS = ("params", "lora_rank", "gpus", "batch_size", "micro_batch", "steps", "seq_len", "image_size")
_MOST = {
    "gpus": 10**6,
    "batch_size": 10**10,
    "micro_batch": 10**7,
    "steps": 10**12,
    "lora_rank": 2**14,
    "params": 10**15,
    "seq_len": 10**8,
    "image_size": 2**16,
}
_DIMENSIONS = ("hidden", "layers", "heads", "kv_heads", "ffn", "vocab")


def parse_inputs(catalog: Catalog, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that were stated.

    Args:
        catalog: Knows the accepted words, GPUs and optimizers.
        typed: Option values by name, None where an option was left out.

    Raises:
        InputError: A value is not accepted.
    """
    answers: dict[str, Any] = {}
    for name, value in typed.items():
        if value is None or value is False:
            continue
        fact = catalog.facts.get(name)
        flag = f"--{name.replace('_', '-')}"
        if name in _COUNTS:
            answers[name] = _count(value, name, flag)
        elif name == "optimizer":
            answers[name] = catalog.find_optimizer(value, flag)
        elif fact is not None and fact.type == "choice":
            answers[name] = _word(value, flag, fact)
        elif fact is not None and fact.type == "flag":
            answers[name] = True
    answers.update(_memory(catalog, typed.get("vram"), typed.get("gpu")))
    shape = _shape(catalog, typed, answers)
    if shape is not None:
        _settle(catalog, shape, answers)
    if typed.get("lora_targets") is not None:
        if answers.get("method", "full") == "full":
            raise InputError("--lora-targets: only adapters have targets; say --method lora or qlora, or leave it out")
        answers["lora_targets"] = _targets(catalog, typed["lora_targets"], shape)
    return answers


def _count(value: str, name: str, flag: str) -> int:
    count = parse_count(value, flag)
    if count > _MOST.get(name, count):
        raise InputError(f"{flag} {value}: is more than anybody has; at most {_MOST[name]:,}")
    return count


def _shape(catalog: Catalog, typed: Mapping[str, Any], answers: Mapping[str, Any]) -> NetworkShape | None:
    dims = {name: typed[name] for name in _DIMENSIONS if typed.get(name) is not None}
    given = [f"--{name.replace('_', '-')}" for name in ("arch", "hf_config") if typed.get(name) is not None]
    given += [f"--{next(iter(dims)).replace('_', '-')}"] if dims else []
    if len(given) > 1:
        raise InputError(f"{' '.join(given)}: each describes the whole network; give one of them")
    if not given:
        return None
    rules = MemoryRules(catalog)
    if typed.get("arch") is not None:
        return named_shape(rules.networks, typed["arch"])
    if typed.get("hf_config") is not None:
        return shape_from_config(rules.networks, rules.settings.unsupported_heads, typed["hf_config"])
    numbers = {name: parse_count(value, f"--{name.replace('_', '-')}") for name, value in dims.items()}
    return shape_from_dimensions(rules.networks, rules.settings.default_families, answers.get("model"), numbers)


def _settle(catalog: Catalog, shape: NetworkShape, answers: dict[str, Any]) -> None:
    """Take over what a shape says: the kind of model; and refuse what it contradicts."""
    model = load_networks(catalog).family_of(shape).model
    if answers.get("model", model) != model:
        raise InputError(f"--model {answers['model']}: {shape.name} is a {model}; leave --model out")
    if "params" in answers:
        raise InputError(f"--params {answers['params']:,}: the size follows from {shape.name}; leave --params out")
    answers.update(model=model, shape=shape)


def _targets(catalog: Catalog, value: str, shape: NetworkShape | None) -> str:
    known = load_networks(catalog).adapter_targets(shape)
    known |= {part for fused, parts in FUSED_TARGETS.items() if fused in known for part in parts}
    words = [word.strip().lower().removesuffix("_proj") for word in value.split(",")]
    if words == ["all"] or words == ["all-linear"]:
        return "all"
    for word in words:
        if word not in known:
            raise InputError(f"--lora-targets {word!r}: no linear layer is called so; {nearest(word, sorted(known))}")
    return ",".join(sorted(set(words)))


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


def _word(value: str, flag: str, fact: Fact) -> str:
    word = value.strip().lower().replace("_", "-")
    values = fact.values or {}
    if word not in values:
        meant = next((kind for kind, words in fact.also.items() if word in words), None)
        guess = f"that is a kind of {meant!r}" if meant else nearest(word, values)
        raise InputError(f"{flag} {value!r}: not known; {guess}")
    return word


def _memory(catalog: Catalog, vram: str | None, gpu: str | None) -> dict[str, Any]:
    if vram is not None and gpu is not None:
        raise InputError(f"--vram {vram} --gpu {gpu!r}: both state the memory; give one of them")
    if gpu is not None:
        found = catalog.find_gpu(gpu)
        memory = {"gpu": found.name, "vram_bytes": found.memory_bytes, "vendor": found.vendor}
        return memory if found.bf16 else {**memory, "bf16": False}
    if vram is None:
        return {}
    if vram.strip().lower() == "auto":
        from optadvise.core.hardware import gpu_here

        name, size = gpu_here()
        return {"gpu": name, "vram_bytes": size}
    return {"vram_bytes": parse_bytes(vram, "--vram")}
