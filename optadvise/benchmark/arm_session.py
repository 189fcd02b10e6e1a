"""Session of one arm inside a worker: build it, run commands, summarize."""

from __future__ import annotations

import math
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias, TypeVar

import torch
from msgspec.structs import replace

from optadvise.benchmark.distributed import communication, wrapping
from optadvise.benchmark.distributed.ranks import Ranks
from optadvise.benchmark.gpu_settings import read_gpu_settings
from optadvise.benchmark.measurement import (
    ArmCommand,
    ArmCounts,
    ArmFailure,
    ArmSummary,
    Parity,
    RoundSamples,
    WorkerEnvironment,
)
from optadvise.benchmark.peak_memory import (
    compute_context_bytes,
    measure_device_bandwidth,
    measure_transient_bytes,
    read_peak_memory,
    read_used_bytes,
)
from optadvise.benchmark.records import PeakMemory, RankResult
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.step_overhead import measure_overhead_seconds
from optadvise.benchmark.training_loop import Training
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.core.hardware import count_cores

Answer: TypeAlias = "ArmCounts | RoundSamples | ArmSummary | Parity | ArmFailure"

Figure = TypeVar("Figure", int, float)

# Messages of libraries that do not support a device or a data type.
_UNSUPPORTED = re.compile(
    r"not[ _](currently |yet )?(be )?support|unsupported|only supports? |requires? (a )?(cuda|gpu|triton)"
    r"|no kernel image is available|no cuda gpus are available"
    r"|native library functionality but it's not available|not available in cpu-only version"
)
# CUDA, cuBLAS and cuDNN allocate outside torch's allocator and have separate errors.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|defaultcpuallocator|cuda (driver )?error: out of memory|(cublas|cudnn)_status_alloc_failed"
)


def serve(
    spec: Spec,
    arm: Arm,
    receive: Callable[[], ArmCommand],
    answer: Callable[[Answer], None],
    ranks: Ranks | None,
) -> None:
    """Build an arm, run its warmup steps, and execute commands until `end`.

    Args:
        receive: Returns the next command.
        answer: Sends an answer to the parent.
        ranks: Process group of this rank; None for a single process.
    """
    local_processes = 1 if ranks is None else int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(spec.threads or max(1, (count_cores() or 1) // local_processes))
    used_before = read_used_bytes(spec.device)  # before the choice of the device creates a CUDA context
    if spec.device_type == "cuda" and ranks is None:
        torch.cuda.set_device(torch.device(spec.device).index or 0)  # also for calls that name no device
    training = Training(spec, arm, ranks)
    begin = time.perf_counter()
    training.step_once()
    first_step_seconds = time.perf_counter() - begin  # includes state allocation and compilation
    counts = training.counts()
    for _ in range(spec.warmup):
        training.step_once()
    # The other arms wait, so that what is in use has changed by this process only.
    context_bytes = compute_context_bytes(used_before, read_used_bytes(spec.device))
    counts = replace(counts, free_bytes=torch.cuda.mem_get_info()[0] if spec.device_type == "cuda" else None)
    total_counts = counts if ranks is None else _combine_counts(counts, ranks)
    answer(replace(total_counts, first_step_seconds=first_step_seconds, environment=_read_environment(spec, arm)))
    rounds: list[RoundSamples] = []
    while (command := receive()).command != "end":
        if command.command == "round":
            rounds.append(training.round())
            answer(rounds[-1])
        elif command.command == "finish":
            peak = read_peak_memory(spec.device, context_bytes)
            answer(_summarize(training, rounds, counts, peak, measures_bandwidth=command.measures_bandwidth))
        else:
            assert ranks is not None
            answer(Parity(communication.measure_parity(training, ranks)))


def _summarize(
    training: Training,
    rounds: Sequence[RoundSamples],
    counts: ArmCounts,
    peak: PeakMemory,
    *,
    measures_bandwidth: bool,
) -> ArmSummary:
    """Return memory, losses and bandwidth at the end, with the figures of each rank if there are several."""
    weights = [wrapping.get_local_tensor(p) for _, p in training.named]
    is_finite = all(map(math.isfinite, training.losses)) and all(bool(torch.isfinite(p).all()) for p in weights)
    losses = [loss if math.isfinite(loss) else None for loss in training.losses[: training.spec.total_steps]]
    peak = replace(peak, paged=counts.paged_bytes)
    summary = ArmSummary(peak_memory_bytes=peak, losses=losses, finite=is_finite)
    if training.ranks is not None:
        return _summarize_ranks(training, training.ranks, rounds, counts, summary)
    device = training.spec.device
    return replace(
        summary,
        transient_bytes=_try(lambda: measure_transient_bytes(training)),
        overhead_seconds=_try(lambda: measure_overhead_seconds(training)),
        device_bandwidth=_try(lambda: measure_device_bandwidth(device)) if measures_bandwidth else None,
    )


def _try(measure: Callable[[], Figure | None]) -> Figure | None:
    """Return an additional figure; None if it cannot be measured, and the arm continues."""
    try:
        return measure()
    except Exception:  # libraries raise many types
        return None


def _summarize_ranks(
    training: Training, ranks: Ranks, rounds: Sequence[RoundSamples], counts: ArmCounts, summary: ArmSummary
) -> ArmSummary:
    """Return the summary of all ranks; every rank must call this."""
    results = ranks.gather(_summarize_rank(training, ranks, rounds, counts, summary))
    independent_seconds = None
    if ranks.rank == 0:
        independent_seconds = communication.measure_independent_step_seconds(training.spec, training.arm)
    ranks.broadcast(None)  # the other ranks wait, so that they do not slow the independent process
    return replace(
        summary,
        finite=all(result.finite for result in results),
        peak_memory_bytes=_largest_peak([result.peak_memory_bytes for result in results]),
        ranks=tuple(results),
        independent_step_seconds=independent_seconds,
    )


def _summarize_rank(
    training: Training, ranks: Ranks, rounds: Sequence[RoundSamples], counts: ArmCounts, summary: ArmSummary
) -> RankResult:
    def median(part: str) -> float:
        return statistics.median(seconds for samples in rounds for seconds in samples.samples[part])

    return RankResult(
        rank=ranks.rank,
        peak_memory_bytes=summary.peak_memory_bytes,
        finite=summary.finite,
        parameter_bytes=counts.parameter_bytes or 0,
        gradient_bytes=counts.gradient_bytes or 0,
        state_bytes=counts.state_bytes or 0,
        step_seconds=median("step"),
        forward_seconds=median("forward"),
        backward_seconds=median("backward"),
        optimizer_seconds=median("optimizer"),
        communication_share=communication.measure_communication_share(training),
    )


def _largest_peak(peaks: Sequence[PeakMemory]) -> PeakMemory:
    return PeakMemory(
        paged=max((peak.paged or 0 for peak in peaks), default=0) or None,
        allocated=max((peak.allocated or 0 for peak in peaks), default=0) or None,
        reserved=max((peak.reserved or 0 for peak in peaks), default=0) or None,
        process=max((peak.process or 0 for peak in peaks), default=0) or None,
    )


def _combine_counts(counts: ArmCounts, ranks: Ranks) -> ArmCounts:
    """Return the largest count of any rank and the total state; every rank must call this."""
    rank_counts = ranks.gather(counts)
    state_bytes = max(each.state_bytes or 0 for each in rank_counts)
    return replace(
        counts,
        parameter_bytes=max(each.parameter_bytes or 0 for each in rank_counts),
        gradient_bytes=max(each.gradient_bytes or 0 for each in rank_counts),
        state_bytes=state_bytes,
        state_bytes_per_parameter=state_bytes / (counts.parameters or 1),
        total_state_bytes=sum(each.state_bytes or 0 for each in rank_counts),
        # A rank's memory traffic depends on the sharding strategy, and its step time includes waiting for other ranks.
        bytes_per_step=None,
    )


def _read_environment(spec: Spec, arm: Arm) -> WorkerEnvironment:
    packages = {} if arm.package is None else {arm.package: _find_version(arm.package)}
    is_cuda = spec.device_type == "cuda"
    return WorkerEnvironment(
        device=spec.device,
        device_name=torch.cuda.get_device_name(spec.device) if is_cuda else None,
        threads=torch.get_num_threads(),
        packages={**packages, "torch": str(torch.__version__)},  # with the build, such as +cu130
        gpu_settings=read_gpu_settings() if is_cuda else None,
    )


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def describe_failure(error: BaseException) -> ArmFailure:
    """Return the failure of an arm: out of memory, unsupported, an invalid workload or an error."""
    text = " ".join(str(error).split()) or type(error).__name__
    kind, lowered = type(error).__name__, text.lower()
    is_out_of_memory = kind == "OutOfMemoryError" or isinstance(error, MemoryError)
    if is_out_of_memory or _OUT_OF_MEMORY.search(lowered):
        code = ErrorCode.OUT_OF_MEMORY
        return ArmFailure(status="oom", error=text[:300], code=code, peak_memory_bytes=_read_peak())
    if isinstance(error, CannotRunHereError):
        return ArmFailure(status="unsupported", error=text, code=error.code)
    if isinstance(error, InputError):
        value = None if error.value is None else str(error.value)
        return ArmFailure(status="input", error=text, code=error.code, option=error.option, value=value)
    message = f"{kind}: {text[:300]}"
    if _UNSUPPORTED.search(lowered):
        return ArmFailure(status="unsupported", error=message, code=ErrorCode.UNSUPPORTED)
    return ArmFailure(status="error", error=message, code=ErrorCode.LIBRARY_ERROR)


def _read_peak() -> PeakMemory | None:
    """Return the peak memory so far; None if it cannot be read after a failed allocation."""
    try:
        return read_peak_memory("cuda" if torch.cuda.is_initialized() else "cpu")
    except Exception:
        return None
