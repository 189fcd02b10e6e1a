"""Requests for a benchmark: check options, plan arms and measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import runner
from optadvise.benchmark.device import describe_device, find_gpu_uuids, resolve_device
from optadvise.benchmark.device_size import choose_params
from optadvise.benchmark.distributed.arm import RankedArm
from optadvise.benchmark.environment import MachineReading
from optadvise.benchmark.gpu_lock import hold_gpus
from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.metrics import METRICS
from optadvise.benchmark.options import (
    AUTO,
    DTYPES,
    MODEL_SIZES,
    SHARDINGS,
    TENSOR_SIZES,
    WORKLOADS,
    BenchOptions,
    is_binary,
    list_counts,
    resolve_alias,
)
from optadvise.benchmark.plan import plan_arms
from optadvise.benchmark.recommendation import ForeignJson, plan_recommendation
from optadvise.benchmark.records import BenchmarkResult
from optadvise.benchmark.requirements import Requirement, parse_requirement
from optadvise.benchmark.results import has_open_requirement, make_result
from optadvise.benchmark.sequential import list_looks
from optadvise.benchmark.spec import Arm, ModelSize, Spec
from optadvise.benchmark.worker_arm import WorkerArm
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import (
    InputError,
    InterruptedMeasurementError,
    check_choice,
)
from optadvise.core.units import MAX_TIMEOUT, check_timeout, parse_count
from optadvise.rulebase.catalog import Catalog

_NO_NAMES = "an optimizer is missing; use optadvise bench adamw8bit, for example (optadvise list shows all)"


class Request(Struct, frozen=True):
    """Benchmark that is ready to start."""

    spec: Spec
    arms: tuple[Arm, ...]
    requirements: tuple[Requirement, ...]
    timeout: float  # maximum seconds for one answer of a worker
    max_time: float = 0.0  # seconds in which rounds are added until requirements on times are decided

    @property
    def is_sequential(self) -> bool:
        """Return whether rounds are added until requirements on times are decided."""
        return self.max_time > 0 and any(METRICS[each.metric].is_repeated for each in self.requirements)


def prepare_request(
    rules: CompiledRules,
    names: Sequence[str],
    options: BenchOptions,
    recommendation: ForeignJson | None = None,
    *,
    is_measured: bool = True,
) -> Request:
    """Check the options of `optadvise bench` and plan its arms.

    Args:
        names: Optimizers in any spelling.
        recommendation: Output of `recommend --json`; replaces the names.
        is_measured: Whether this process measures it; otherwise only the options are checked, not the device.

    Raises:
        InputError: A value is invalid, two options contradict each other, or a class may not be imported.
        CannotRunHereError: torch is missing or cannot use the device.
    """
    requirements = tuple(parse_requirement(text) for text in options.require)
    spec = _make_spec(options, is_measured=is_measured)
    if options.model_size == AUTO and spec.params is None and not spec.user and is_measured:
        device = describe_device(spec.device)
        if device is not None and device.kind == "cuda":
            spec = replace(spec, params=choose_params(rules.catalog, device, len(names) + 1))
    _check_processes(spec)
    if not 0 <= options.seed < 2**63:
        message = f"--seed {options.seed}: must be at least 0 and below 2^63"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--seed", value=options.seed)
    check_timeout(options.timeout)
    if not 0 <= options.max_time <= MAX_TIMEOUT:
        message = f"--max-time {options.max_time:g}: must be at least 0 and at most {MAX_TIMEOUT:,} seconds"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--max-time", value=options.max_time)
    arms = _plan_arms(rules, names, options, spec, recommendation)
    for arm in arms:
        rules.catalog.imports.check(arm.import_paths)
    return Request(
        spec=spec, arms=tuple(arms), requirements=requirements, timeout=options.timeout, max_time=options.max_time
    )


def _make_spec(options: BenchOptions, *, is_measured: bool) -> Spec:
    return Spec(
        workload=options.workload,
        user=":" in options.workload,
        size=_parse_size(options.model_size),
        params=_parse_optional_count(options.params, "params"),
        batch_size=_parse_optional_count(options.batch_size, "batch_size"),
        seq_len=_parse_optional_count(options.seq_len, "seq_len"),
        dtype=check_choice("--precision", options.precision, DTYPES),
        device=resolve_device(options.device, is_probed=is_measured),
        steps=_parse_count(options.steps, "steps"),
        rounds=_parse_count(options.rounds, "rounds"),
        seed=options.seed,
        threads=_parse_optional_count(options.threads, "threads"),
        compile=options.compile,
        optimizer_only=options.optimizer_only,
        nproc=_parse_count(options.nproc, "nproc"),
        shard=check_choice("--shard", resolve_alias("shard", options.shard), SHARDINGS),
    )


def _parse_size(text: str) -> ModelSize:
    """Return the size of the model; the one of the CPU for `auto`."""
    sizes: dict[str, ModelSize] = {AUTO: Spec().size, **{size: size for size in MODEL_SIZES}}
    return sizes[check_choice("--model-size", text, sizes)]


def _parse_count(text: str, name: str) -> int:
    return parse_count(text, f"--{name.replace('_', '-')}", list_counts()[name], binary=is_binary(name))


def _parse_optional_count(text: str | None, name: str) -> int | None:
    return None if text is None else _parse_count(text, name)


def _check_processes(spec: Spec) -> None:
    """Check options that several processes do not support or that require several processes."""
    if spec.nproc == 1:
        if spec.shard != "none":
            raise _conflict("--shard", spec.shard, "requires at least two processes; add --nproc 2")
        return
    if ":" in spec.device:
        raise _conflict("--device", spec.device, "--nproc uses one GPU per process; use --device cuda")
    if spec.device not in ("cpu", "cuda"):
        raise _conflict("--device", spec.device, "--nproc requires cpu or cuda")
    for flag, is_set in (("--optimizer-only", spec.optimizer_only), ("--compile", spec.compile)):
        if is_set:
            raise _conflict(flag, None, "supports a single process; remove --nproc")
    if spec.batch_size is not None and spec.batch_size % spec.nproc:
        raise InputError(
            f"--batch-size {spec.batch_size}: must be divisible by --nproc {spec.nproc}",
            code=ErrorCode.NOT_DIVISIBLE, option="--batch-size", value=spec.batch_size,
        )  # fmt: skip


def _conflict(option: str, value: str | None, problem: str) -> InputError:
    """Return the error for an option that another option excludes or requires."""
    head = option if value is None else f"{option} {value}"
    return InputError(f"{head}: {problem}", code=ErrorCode.OPTION_CONFLICT, option=option, value=value)


def _plan_arms(
    rules: CompiledRules, names: Sequence[str], options: BenchOptions, spec: Spec, recommendation: ForeignJson | None
) -> list[Arm]:
    if not spec.user:
        _check_workload(spec.workload, rules.catalog)
    control = None if options.control == "none" else rules.catalog.find_optimizer(options.control, "--control")
    if recommendation is not None:
        if options.implementation is not None:
            problem = "the recommendation specifies the implementation; remove --implementation"
            raise _conflict("--implementation", options.implementation, problem)
        if any(name != "-" for name in names):
            raise _conflict("--from", None, "the recommendation specifies the optimizer; remove the optimizer names")
        return plan_recommendation(rules, recommendation, spec, control=control)
    if not names:
        raise InputError(_NO_NAMES, code=ErrorCode.MISSING_OPTION)
    ids = [rules.catalog.find_optimizer(name, "bench") for name in names]
    return plan_arms(rules, ids, spec, control=control, implementation=options.implementation)


def _check_workload(workload: str, catalog: Catalog) -> None:
    """Reject a workload that does not exist; for a kind of model, list the workloads to use instead."""
    if workload in (catalog.facts["model"].values or ()) and workload not in WORKLOADS:
        raise InputError(
            f"--workload {workload}: bench has no network of this kind; {TENSOR_SIZES}, so use one of "
            f"{', '.join(WORKLOADS)}, or package.module:function for your model",
            code=ErrorCode.UNKNOWN_CHOICE, option="--workload", value=workload,
        )  # fmt: skip
    check_choice("--workload", workload, (*WORKLOADS, "package.module:function"))


def measure(
    request: Request,
    *,
    progress: runner.Progress = runner.ignore_progress,
    keep: Callable[[BenchmarkResult], None] | None = None,
    workers: Sequence[runner.MeasurableArm] | None = None,
) -> BenchmarkResult:
    """Measure all arms of a request.

    Args:
        request: The benchmark.
        progress: Called before each start, round and end of an arm.
        keep: Called with the incomplete result after every round.
        workers: Workers of the arms, in their order; None starts the usual ones.

    Raises:
        InterruptedMeasurementError: KeyboardInterrupt; all workers have ended, and `result` has the figures so far.
    """
    if workers is None:
        worker_class = WorkerArm if request.spec.nproc == 1 else RankedArm
        workers = [worker_class(request.spec, arm, timeout=request.timeout) for arm in request.arms]
    uuids = find_gpu_uuids(request.spec.device, request.spec.nproc)
    with hold_gpus(uuids):
        return _measure(request, workers, MachineReading(uuids), progress, keep)


def _measure(
    request: Request,
    workers: Sequence[runner.MeasurableArm],
    reading: MachineReading,
    progress: runner.Progress,
    keep: Callable[[BenchmarkResult], None] | None,
) -> BenchmarkResult:
    latest: list[ArmMeasurement] = []

    def summarize(measurements: Sequence[ArmMeasurement], *, complete: bool) -> BenchmarkResult:
        return make_result(
            request.spec, measurements, request.requirements, machine=reading.machine, complete=complete,
            is_sequential=request.is_sequential,
        )  # fmt: skip

    def save(measurements: Sequence[ArmMeasurement]) -> None:
        latest[:] = measurements
        reading.read_end(measurements, request.spec.rounds)
        if keep is not None:
            keep(summarize(measurements, complete=False))

    looks, end = list(list_looks(request.spec.rounds)), math.inf

    def is_decided(measurements: Sequence[ArmMeasurement]) -> bool:
        nonlocal end
        end = min(end, time.monotonic() + request.max_time)
        rounds = max(len(measurement.rounds) for measurement in measurements)
        if not request.is_sequential or time.monotonic() > end or rounds > looks[-1]:
            return True
        return rounds in looks and not has_open_requirement(summarize(measurements, complete=False))

    try:
        measurements = runner.run_arms(
            workers, request.spec.rounds, progress=progress, save=save, is_decided=is_decided
        )
    except KeyboardInterrupt:
        raise InterruptedMeasurementError(summarize(latest, complete=False)) from None
    return summarize(measurements, complete=True)
