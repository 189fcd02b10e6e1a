"""Memory of a run with sharded optimizer state on other numbers of GPUs."""

from __future__ import annotations

from msgspec.structs import replace

from optadvise.core.records import MemoryEstimate, Scale, Scaling, Situation
from optadvise.memory.estimator import estimate, estimate_traffic
from optadvise.memory.inputs import select_memory_inputs
from optadvise.memory.rules import MemoryRules
from optadvise.memory.search import find_largest_micro_batch, with_micro_batch

_FACTORS = (4, 2, 1)  # by which the number of GPUs is divided and multiplied
_MOST_GPUS = 10**6


def scale_run(rules: MemoryRules, situation: Situation, optimizer: str) -> Scaling | None:
    """Return the memory of a run on other numbers of GPUs; None if its state is not sharded.

    Args:
        situation: The run with its micro-batch.
    """
    if select_memory_inputs(situation).state_shards == 1:
        return None
    current = estimate(rules, situation, optimizer)
    sample, enough = _compute_sample_bytes(rules, situation, optimizer), None
    if sample is not None and any(_sharded_bytes(current)):
        enough = _find_enough_gpus(rules, situation, optimizer, sample)
    counts = {situation.gpus // n for n in _FACTORS if situation.gpus % n == 0}
    counts |= {situation.gpus * n for n in _FACTORS} | ({enough} if enough is not None else set())
    shown = sorted(n for n in counts if 1 < n <= _MOST_GPUS and _divides_batch(situation, n))
    return Scaling(
        sample_bytes=sample,
        enough=enough,
        scales=tuple(_estimate_scale(rules, _set_gpus(situation, n), optimizer) for n in shown),
    )


def _compute_sample_bytes(rules: MemoryRules, situation: Situation, optimizer: str) -> int | None:
    """Return what one more sample in the micro-batch adds to the total, with equal accumulation; None if unknown."""
    micro_batch, steps = situation.micro_batch or 1, select_memory_inputs(situation).micro_batches
    runs = (replace(situation, batch_size=None, grad_accum=steps, micro_batch=micro_batch + n) for n in (0, 1))
    current, larger = (estimate(rules, run, optimizer).total for run in runs)
    return None if current is None or larger is None else larger - current


def _set_gpus(situation: Situation, gpus: int) -> Situation:
    """Return the run on another number of GPUs, without an assumed micro-batch and accumulation."""
    return replace(situation.withdraw("micro_batch"), gpus=gpus, grad_accum=None)


def _divides_batch(situation: Situation, gpus: int) -> bool:
    """Return whether the batch is divisible by the number of GPUs and the specified micro-batch."""
    if situation.batch_size is None:
        return True
    micro_batch = 1 if "micro_batch" in situation.assumed else situation.micro_batch or 1
    return situation.batch_size % (gpus * micro_batch) == 0


def _sharded_bytes(memory: MemoryEstimate) -> tuple[int, int]:
    """Return the bytes of state and of the sharded fp32 master copy on one GPU."""
    parts = {line.part: line.bytes or 0 for line in memory.breakdown}
    return parts.get("optimizer state", 0), parts.get("master copy", 0)


def _find_enough_gpus(rules: MemoryRules, situation: Situation, optimizer: str, sample: int) -> int:
    """Return the smallest power of two of GPUs whose doubling frees fewer bytes than one sample requires."""

    def count_bytes(gpus: int) -> int:
        return estimate(rules, replace(situation, gpus=gpus), optimizer).total or 0

    enough = 1 << _MOST_GPUS.bit_length()
    required = count_bytes(enough)
    while enough > 1 and (on_half := count_bytes(enough // 2)) - required < sample:
        enough, required = enough // 2, on_half
    return enough


def _estimate_scale(rules: MemoryRules, situation: Situation, optimizer: str) -> Scale:
    run = with_micro_batch(rules, situation, optimizer)
    memory, sent = estimate(rules, run, optimizer), estimate_traffic(rules, select_memory_inputs(run))
    state, master = _sharded_bytes(memory)
    return Scale(
        gpus=run.gpus, optimizer_bytes=state, master_bytes=master, total=memory.total, fits=memory.fits,
        micro_batch=run.micro_batch or 1, largest_micro_batch=find_largest_micro_batch(rules, run, optimizer),
        sent=0 if sent is None else sent.sent, pageable=memory.pageable,
    )  # fmt: skip
