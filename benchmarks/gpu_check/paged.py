"""Stage about managed memory: which state paged optimizers put there, and what remains after loading a checkpoint."""

from __future__ import annotations

import copy
import gc
from functools import partial

import torch

from gpu_check.machine import require_cuda
from gpu_check.records import Check, Item, Settings, check_range
from gpu_check.steps import MANAGED_BYTES, STATE_BYTES, check_managed_memory
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark.optimizer_builder import build_optimizers, count_state_bytes
from optadvise.benchmark.plan import plan_arms
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.training_loop import Training
from optadvise.core.units import show_count
from optadvise.rulebase.catalog import load

_PARAMS = (100_000, 10**6, 10**7, 10**8)
_QUICK_PARAMS = _PARAMS[:2]
_SMALLEST_PAGED = 100_000  # elements of a tensor


def list_items(settings: Settings) -> list[Item]:
    """Return one paged optimizer at one size per item.

    Raises:
        CannotRunHereError: The device is the CPU, or too little memory is free.
    """
    require_cuda(settings)
    check_managed_memory()
    assert max(_PARAMS) * STATE_BYTES <= MANAGED_BYTES
    rules = CompiledRules(load())
    items = []
    for params in _QUICK_PARAMS if settings.quick else _PARAMS:
        spec = Spec(device=settings.device, optimizer_only=True, params=params)
        for name in rules.catalog.optimizer_ids:
            if rules.catalog.optimizer(name).paged:
                (arm,) = plan_arms(rules, [name], spec, control=None, implementation=None)
                items.append(Item(f"{name}, {show_count(params)} parameters", partial(check_paged, spec, arm)))
    return items


def check_paged(spec: Spec, arm: Arm) -> list[Check]:
    """Check which state is paged, and that none is after loading a checkpoint."""
    training = Training(spec, arm)
    training.step()
    training.step()
    counts = training.counts()
    expected = count_large_state_bytes(training.optimizers)
    label = f"{arm.label}, {show_count(spec.params or 0)} parameters"
    checks = [check_range(f"{label}: paged", counts.paged_bytes, expected, expected, "bytes")]
    loaded = build_optimizers(arm, training.named)
    for old, new in zip(training.optimizers, loaded, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    paged = count_state_bytes(loaded, only_paged=True)
    checks.append(check_range(f"{label}: paged after load_state_dict", paged, 0, 0, "bytes"))
    del training, loaded
    gc.collect()
    torch.cuda.empty_cache()
    return checks


def count_large_state_bytes(optimizers: list[torch.optim.Optimizer]) -> int:
    """Return the bytes of state tensors that have as many elements as a large parameter: those that can be paged."""
    return sum(
        tensor.numel() * tensor.element_size()
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for tensor in state.values()
        if isinstance(tensor, torch.Tensor) and tensor.numel() == parameter.numel() >= _SMALLEST_PAGED
    )
