"""Searches for the largest micro-batch, the longest sequence and the largest model that fit."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from optadvise.core.caching import cached
from optadvise.core.records import MaxModelSize, Situation
from optadvise.memory.architectures import find_max_positions
from optadvise.memory.estimator import (
    complete_length,
    compute_highest_bytes,
    compute_required_bytes,
    fits,
    knows_activations,
    list_micro_batches,
)
from optadvise.memory.inputs import MemoryInputs, select_memory_inputs
from optadvise.memory.rules import MemoryRules

_LARGEST_MODEL = 10**14  # parameters
_USUAL_BYTES = 16  # per trained parameter; start of the search for the largest model
_LARGEST_INPUT = 2**22  # samples, or tokens
_SAFE_SHARE = 0.9  # of the memory, for an assumed micro-batch that may not fit


def with_micro_batch(rules: MemoryRules, situation: Situation, optimizer: str) -> Situation:
    """Return a situation with a micro-batch, which is assumed if none is specified.

    An assumed micro-batch is the whole batch per GPU if that is expected to fit. Otherwise it is the largest divisor
    of it that fits over the whole likely range, or else with a tenth of the memory to spare, or else one sample, as
    without a batch size. It stays unknown for an assumed batch without a memory limit.
    """
    if situation.micro_batch is not None or situation.params is None:
        return situation
    if situation.vram_bytes is None and situation.batch_size is not None and "batch_size" in situation.assumed:
        return situation
    batch_per_gpu = _find_batch_per_gpu(situation)
    at_once = situation.derive(micro_batch=batch_per_gpu)
    if situation.gradient_release or fits(rules, at_once, optimizer):
        return at_once
    inputs = select_memory_inputs(at_once)
    required = _make_requirement(rules, inputs, "micro_batch", optimizer)
    available = situation.vram_bytes or 0
    largest = search_largest(required, available, batch_per_gpu)
    fitting = sorted((n for n in list_divisors(batch_per_gpu) if n <= largest), reverse=True)
    certain = (
        n for n in fitting if compute_highest_bytes(rules, replace(inputs, micro_batch=n), optimizer) <= available
    )
    spare = (n for n in fitting if required(n) <= _SAFE_SHARE * available)
    return replace(at_once, micro_batch=next(certain, None) or next(spare, 1))


def find_largest_micro_batch(rules: MemoryRules, situation: Situation, optimizer: str) -> int | None:
    """Return the largest micro-batch that fits, in samples; None if activations or the limit are unknown.

    Gradient accumulation keeps gradients between micro-batches, so the whole batch may fit although half of it does
    not.
    """
    batch_per_gpu = _find_batch_per_gpu(situation)
    at_once = replace(situation, batch_size=None)
    if situation.batch_size is None or fits(rules, replace(at_once, micro_batch=batch_per_gpu), optimizer):
        return _search_fact(rules, at_once, "micro_batch", optimizer, _LARGEST_INPUT)
    return _search_fact(rules, situation, "micro_batch", optimizer, max(batch_per_gpu - 1, 1))


def find_longest_sequence(rules: MemoryRules, situation: Situation, optimizer: str) -> int | None:
    """Return the longest sequence that fits, in tokens; None if activations or the limit are unknown."""
    if situation.seq_len is None:
        return None
    limit = None if situation.shape is None else find_max_positions(rules.networks, situation.shape)
    return _search_fact(rules, situation, "seq_len", optimizer, limit or _LARGEST_INPUT)


def find_max_model_size(rules: MemoryRules, situation: Situation, optimizer: str) -> MaxModelSize | None:
    """Return the largest size at which a model of unknown shape fits; None for a known shape or without a limit."""
    if situation.vram_bytes is None or situation.shape is not None:
        return None
    inputs = replace(select_memory_inputs(complete_length(rules, situation)), params=None)
    return _search_max_model_size(rules, inputs, situation.vram_bytes, optimizer)


@cached(1024)
def _search_max_model_size(rules: MemoryRules, inputs: MemoryInputs, available: int, optimizer: str) -> MaxModelSize:
    required = _make_requirement(rules, inputs, "params", optimizer)
    largest = search_largest(required, available, _LARGEST_MODEL, available // _USUAL_BYTES)
    run = replace(inputs, params=largest or 1)
    require = _make_requirement(rules, run, "micro_batch", optimizer)
    return MaxModelSize(
        optimizer=optimizer, bytes_per_parameter=required(largest) / largest if largest else 0.0, max_params=largest,
        micro_batch=min(sorted(list_micro_batches(inputs)), key=require), seq_len=inputs.seq_len,
        image_size=inputs.image_size, checkpointing=inputs.checkpointing, gpus=inputs.gpus, shard=inputs.shard,
    )  # fmt: skip


def _find_batch_per_gpu(situation: Situation) -> int:
    """Return the samples of a batch on one GPU, rounded up; 1 if the batch size is unknown."""
    return -(-(situation.batch_size or 1) // situation.gpus)


def _make_requirement(rules: MemoryRules, inputs: MemoryInputs, fact: str, optimizer: str) -> Callable[[int], int]:
    """Return a function that computes the required bytes for a value of a fact."""
    return lambda value: compute_required_bytes(rules, replace(inputs, **{fact: value}), optimizer) or 0


def _search_fact(rules: MemoryRules, situation: Situation, fact: str, optimizer: str, limit: int) -> int | None:
    """Return the largest value of a fact that fits; None if activations or the limit are unknown."""
    inputs = select_memory_inputs(situation)
    if situation.vram_bytes is None or not knows_activations(rules, inputs):
        return None
    return search_largest(_make_requirement(rules, inputs, fact, optimizer), situation.vram_bytes, limit)


def search_largest(required: Callable[[int], int], available: int, limit: int, start: int = 1) -> int:
    """Return the largest number up to a limit whose required bytes are available; 0 without one.

    The search alternates between linear interpolation, as the required bytes are nearly linear, and bisection.

    Args:
        required: Function from a number to the required bytes, which must increase.
        available: Available bytes.
        limit: Largest number to try.
        start: First number to try.

    Example:
        >>> search_largest(lambda n: 3 * n + 10, 100, 1000)
        30
    """
    low, low_bytes = 0, 0
    high = min(max(start, 1), limit)
    high_bytes = required(high)
    while high_bytes <= available:
        if high >= limit:
            return limit
        low, low_bytes = high, high_bytes
        high = min(high * 2, limit)
        high_bytes = required(high)
    while low == 0 and high > 1:
        middle = max(high // 2, 1)
        middle_bytes = required(middle)
        if middle_bytes <= available:
            low, low_bytes = middle, middle_bytes
        else:
            high, high_bytes = middle, middle_bytes
    interpolates = True
    while high - low > 1:
        guess = low + (available - low_bytes) * (high - low) // max(high_bytes - low_bytes, 1)
        middle = min(max(guess, low + 1), high - 1) if interpolates else (low + high) // 2
        middle_bytes = required(middle)
        if middle_bytes > available:
            high, high_bytes = middle, middle_bytes
        elif high - middle > 1 and interpolates and required(middle + 1) > available:
            return middle
        else:
            low, low_bytes = middle, middle_bytes
        interpolates = not interpolates
    return low


def list_divisors(number: int) -> list[int]:
    """Return the divisors of a number, unsorted."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return [*small, *(number // n for n in small)]
