"""Stage that compares memory estimates with the peak of the CUDA allocator."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import memory_error
import torch
from fake_peak import fake_peak, register_attention
from memory_error import CASES, CONVNETS, Case
from msgspec.structs import replace

from gpu_check.records import Check, Item, Settings, check_range
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from optadvise.core.units import show_bytes
from optadvise.rulebase.catalog import load

_STEP = 2  # between the cases of `memory_error.py` that are measured: half of them
_QUICK_STEP = 8
_SPARE_BYTES = 2**31  # for the context, and what the allocator reserves


def list_items(settings: Settings) -> list[Item]:
    """Return one training run per item; without transformers or PEFT, only those that do not require them."""
    rules = CompiledRules(load())
    has_transformers = find_spec("transformers") is not None
    if has_transformers:
        register_attention()
    return [Item(name_case(case), partial(compare_peak, rules, settings, case)) for case in select_cases(
        settings, has_transformers=has_transformers, has_peft=find_spec("peft") is not None)]  # fmt: skip


def select_cases(settings: Settings, *, has_transformers: bool, has_peft: bool) -> list[Case]:
    """Return the cases that the installed packages and the device can run."""
    if settings.device == "cpu":  # as fake tensors, which take a while
        return [case for case in CASES if case.network in CONVNETS][:1]
    cases = CASES[:: _QUICK_STEP if settings.quick else _STEP]
    if not has_transformers:
        cases = tuple(case for case in CASES if case.network in CONVNETS)
    return [case for case in cases if has_peft or not case.lora]


def name_case(case: Case) -> str:
    """Return a unique name of a case."""
    parts = [case.network, case.optimizer, case.precision, f"{case.samples} × {case.length}"]
    parts += ["checkpointing"] if case.checkpointing == "full" else []
    parts += ["eager"] if case.attention == "eager" else []
    parts += [f"LoRA on {case.lora}"] if case.lora else []
    parts += [f"{case.accumulation} accumulation steps"] if case.accumulation > 1 else []
    return ", ".join(parts)


def compare_peak(rules: CompiledRules, settings: Settings, case: Case) -> list[Check]:
    """Compare the peak of two training steps with the interval of the estimate; on the CPU, that of fake tensors.

    Raises:
        CannotRunHereError: The run may not fit into the free memory.
    """
    low, predicted, high = memory_error.predict(rules, case)
    peak: int | None
    if settings.device == "cpu":
        peak = fake_peak(
            partial(memory_error.make_model, case), partial(memory_error.make_batch, case),
            partial(memory_error.make_optimizer, rules, case), precision=case.precision,
        )["total"]  # fmt: skip
    else:
        free = torch.cuda.mem_get_info()[0]
        if free < high + _SPARE_BYTES:
            message = f"requires {show_bytes(high + _SPARE_BYTES)}; {show_bytes(free)} are free"
            raise CannotRunHereError(message, code=ErrorCode.OUT_OF_MEMORY)
        peak = memory_error.measure_on_cuda(rules, case)
    check = check_range(name_case(case), peak, low, high, "bytes")
    error = None if not peak else predicted / peak - 1
    return [replace(check, figures={"predicted_bytes": predicted, "error": error})]
