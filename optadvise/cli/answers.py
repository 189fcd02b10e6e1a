"""From what was typed to facts: every error names the flag, what is accepted and the nearest guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optadvise.catalog import Catalog
from optadvise.errors import InputError, nearest
from optadvise.units import parse_bytes, parse_count

_COUNTS = ("params", "lora_rank", "gpus", "batch_size", "micro_batch", "steps")


def read(catalog: Catalog, typed: Mapping[str, Any]) -> dict[str, Any]:
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
            answers[name] = parse_count(value, flag)
        elif name == "optimizer":
            answers[name] = catalog.find_optimizer(value, flag)
        elif fact is not None and fact["type"] == "choice":
            answers[name] = _word(value, flag, fact)
        elif fact is not None and fact["type"] == "flag":
            answers[name] = True
    answers.update(_memory(catalog, typed.get("vram"), typed.get("gpu")))
    return answers


def _word(value: str, flag: str, fact: Mapping[str, Any]) -> str:
    word = value.strip().lower().replace("_", "-")
    if word not in fact["values"]:
        meant = next((kind for kind, words in fact.get("also", {}).items() if word in words), None)
        guess = f"that is a kind of {meant!r}" if meant else nearest(word, fact["values"])
        raise InputError(f"{flag} {value!r}: not known; {guess}")
    return word


def _memory(catalog: Catalog, vram: str | None, gpu: str | None) -> dict[str, Any]:
    if vram is not None and gpu is not None:
        raise InputError(f"--vram {vram} --gpu {gpu!r}: both state the memory; give one of them")
    if gpu is not None:
        found = catalog.find_gpu(gpu)
        memory = {"gpu": found.name, "vram_bytes": round(found.memory_gib * 2**30)}
        return memory if found.bf16 else {**memory, "bf16": False}
    if vram is None:
        return {}
    if vram.strip().lower() == "auto":
        from optadvise.machine import gpu_here

        name, size = gpu_here()
        return {"gpu": name, "vram_bytes": size}
    return {"vram_bytes": parse_bytes(vram, "--vram")}
