"""Stage that measures every implementation and variant of the cards that runs here."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from functools import partial

import torch
from msgspec.structs import replace

from gpu_check.records import Check, Item, Settings
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import arm_session
from optadvise.benchmark.device_size import choose_params
from optadvise.benchmark.environment import read_machine
from optadvise.benchmark.measurement import ArmCommand, ArmMeasurement
from optadvise.benchmark.peak_memory import measure_device_bandwidth
from optadvise.benchmark.plan import plan_arms
from optadvise.benchmark.records import ArmResult
from optadvise.benchmark.results import make_result
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from optadvise.core.units import show_bytes
from optadvise.diagnostics.probe import describe_torch
from optadvise.rulebase.catalog import load

MANAGED_BYTES = 4 * 10**9  # of managed memory; a GPU can hang if more is requested than is free
STATE_BYTES = 8  # per parameter, of paged optimizers: at most two moments in fp32
_CPU_PARAMS = 200_000
_QUICK_STEP = 6  # between the optimizers that a quick check on the CPU measures


def list_items(settings: Settings) -> list[Item]:
    """Return the steps of one arm per item, at a size that fills the GPU."""
    rules = CompiledRules(load())
    spec = make_spec(rules, settings)
    bandwidth = measure_device_bandwidth(settings.device)
    return [Item(arm.label, partial(check_arm, spec, arm, bandwidth)) for arm in _list_arms(rules, spec, settings)]


def make_spec(rules: CompiledRules, settings: Settings) -> Spec:
    """Return the settings of a benchmark of `step()` alone."""
    params = _CPU_PARAMS
    if settings.device == "cuda":
        params = choose_params(rules.catalog, describe_torch(("cuda:0",)).devices[0], arms=1)
    return Spec(device=settings.device, optimizer_only=True, params=params, steps=5, rounds=1, warmup=1)


def _list_arms(rules: CompiledRules, spec: Spec, settings: Settings) -> Iterator[Arm]:
    """Yield all implementations and variants of every optimizer, first the fastest of each; a quick check has only it.

    The end of the list is lost if time runs out.
    """
    names = rules.catalog.optimizer_ids
    if settings.quick and settings.device == "cpu":
        names = names[::_QUICK_STEP]
    implementation = None if settings.quick else "all"
    arms = [plan_arms(rules, [name], spec, control=None, implementation=implementation) for name in names]
    for places in itertools.zip_longest(*arms):
        yield from filter(None, places)


def check_arm(spec: Spec, arm: Arm, bandwidth: float) -> list[Check]:
    """Measure an arm, which must not fail if its card supports the device.

    Args:
        bandwidth: Bandwidth of the device in bytes per second.

    Raises:
        CannotRunHereError: The arm is not supported here, or its managed memory may not fit.
    """
    if arm.unsupported is not None:
        raise CannotRunHereError(arm.unsupported, code=arm.unsupported_code)
    if arm.paged:
        check_managed_memory()
        spec = replace(spec, params=min(spec.params or 0, MANAGED_BYTES // STATE_BYTES))
    try:
        return [_make_check(measure_arm(spec, arm, bandwidth))]
    finally:
        gc.collect()
        if spec.device_type == "cuda":
            torch.cuda.empty_cache()


def check_managed_memory() -> None:
    """Check that as much memory is free as the check may allocate as managed memory.

    Raises:
        CannotRunHereError: Less is free.
    """
    free = torch.cuda.mem_get_info()[0]
    if free < MANAGED_BYTES:
        message = f"managed memory requires {show_bytes(MANAGED_BYTES)}; {show_bytes(free)} are free"
        raise CannotRunHereError(message, code=ErrorCode.OUT_OF_MEMORY)


def measure_arm(spec: Spec, arm: Arm, bandwidth: float) -> ArmResult:
    """Measure an arm in this process as the worker of `bench` does."""
    commands = iter([ArmCommand("round"), ArmCommand("finish"), ArmCommand("end")])
    measurement = ArmMeasurement(arm=arm)
    try:
        arm_session.serve(spec, arm, lambda: next(commands), measurement.record, None)
        measurement.summary = replace(measurement.summary, device_bandwidth=bandwidth)
    except Exception as error:  # every failure is the arm's result
        measurement.failure = arm_session.describe_failure(error)
    return make_result(spec, [measurement], machine=read_machine()).arms[0]


def _make_check(result: ArmResult) -> Check:
    """Return the check of an arm; an optimizer with a large state may not fit, which is no fault."""
    is_right: bool | None = result.status == "ok" and result.loss.finite is not False
    return Check(
        name=result.label,
        is_right=None if result.status == "oom" else is_right,
        measured=result.status if result.loss.finite is not False else "weights are not finite",
        expected="ok",
        figures={
            "parameters": result.parameters,
            "seconds": result.optimizer_seconds.median,
            "state_bytes_per_parameter": result.state_bytes_per_parameter,
            "bandwidth_share": result.bandwidth.fraction,
            "overhead_seconds": result.overhead_seconds,
            "first_step_seconds": result.first_step_seconds,
            "transient_bytes": result.transient_bytes,
            "peak_bytes": result.peak_memory_bytes.allocated,
            "paged_bytes": result.paged_bytes,
        },
        note=result.error,
    )
