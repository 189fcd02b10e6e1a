"""Memory estimate of a run: breakdown, required bytes, and whether it fits."""

from __future__ import annotations

from msgspec.structs import replace

from optadvise.core.caching import cached
from optadvise.core.records import FactValues, Fit, MemoryEstimate, Situation, Traffic
from optadvise.memory.architectures import check_image_size, check_sequence_length
from optadvise.memory.breakdown import RunMemory, apply_limit, estimate_with_step, estimate_without_shape
from optadvise.memory.inputs import MemoryInputs, select_memory_inputs
from optadvise.memory.model_memory import ModelMemory, estimate_model_memory
from optadvise.memory.network_size import NetworkSize, build_network_tensors, find_network_size, find_reference_sizes
from optadvise.memory.optimizer_memory import estimate_optimizer_memory
from optadvise.memory.other_networks import estimate_other_networks
from optadvise.memory.peak import compute_expected_total
from optadvise.memory.rules import MemoryRules
from optadvise.memory.traffic import estimate_step_traffic

_LENGTHS = ("seq_len", "image_size")  # facts that set the length of a sample


# -- the length of a sample ----------------------------------------------------------------------------------------


def complete_length(rules: MemoryRules, situation: Situation) -> Situation:
    """Return a situation with a sample length; the typical length of the network is assumed if none is specified.

    Raises:
        InputError: The network does not support the specified length.
    """
    _check_length(rules, situation)
    if situation.seq_len is not None or situation.image_size is not None:
        return situation
    lengths = _find_usual_lengths(rules, situation)
    return situation.derive(**lengths)


def change_sized_run(rules: MemoryRules, situation: Situation, changes: FactValues) -> Situation:
    """Return a run of known size after changes; another kind of network gets its typical sample length."""
    if "model" in changes:
        situation = situation.withdraw(*_LENGTHS)
    after = replace(situation, **changes)
    has_length = any(getattr(after, name) for name in _LENGTHS)
    return after if has_length else complete_length(rules, after)


def _check_length(rules: MemoryRules, situation: Situation) -> None:
    if situation.shape is not None and situation.image_size is not None:
        network = build_network_tensors(rules, situation.shape).network
        check_image_size(network, situation.image_size, "--image-size")
    if situation.shape is not None and situation.seq_len is not None:
        check_sequence_length(rules.networks, situation.shape, situation.seq_len, "--seq-len")


def _find_usual_lengths(rules: MemoryRules, situation: Situation) -> dict[str, int]:
    """Return a network's typical sample length by the fact that sets it; empty if unknown."""
    if situation.shape is not None:
        tensors = build_network_tensors(rules, situation.shape)
        return {"image_size" if tensors.network.images else "seq_len": tensors.usual_length}
    references = find_reference_sizes(rules, situation.model)
    lengths = {} if references is None else {"seq_len": references.seq_len, "image_size": references.image_size}
    return {name: length for name, length in lengths.items() if length is not None}


# -- the estimate --------------------------------------------------------------------------------------------------


def knows_activations(rules: MemoryRules, inputs: MemoryInputs) -> bool:
    """Return whether the bytes of tensors saved for backward are known."""
    size = find_network_size(rules, inputs)
    return size is not None and size.step is not None


def estimate(rules: MemoryRules, situation: Situation, optimizer: str) -> MemoryEstimate:
    """Return the memory breakdown of one GPU and whether it fits.

    Args:
        situation: A run of known size.
    """
    return apply_limit(estimate_unlimited(rules, select_memory_inputs(situation), optimizer), situation.vram_bytes)


@cached(8192)
def estimate_unlimited(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> MemoryEstimate:
    """Return the memory breakdown of one GPU without a limit.

    Args:
        inputs: A run of known size.
    """
    size, run = _require_size(rules, inputs), _estimate_run_memory(rules, inputs, optimizer)
    if size.step is None:
        return estimate_without_shape(run)
    return estimate_with_step(run, size.step, size.basis, rules.settings)


def estimate_total(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> Fit:
    """Return the bytes of state, of model states and in total, without a breakdown and without a limit."""
    size, run = _require_size(rules, inputs), _estimate_run_memory(rules, inputs, optimizer)
    total = _compute_total(rules, size, run)
    return Fit(
        id=optimizer,
        optimizer_bytes=run.state,
        total=total,
        model_states=run.model_states,
        fits=None,
        largest_micro_batch=None,
        longest_sequence=None,
        pageable=run.pageable,
    )


def compute_required_bytes(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> int | None:
    """Return the GPU memory in bytes that a run requires; None if the size of the network is unknown.

    Without a micro-batch, the smaller of two requirements counts: single samples with gradient accumulation, or the
    whole batch at once; gradient release requires the whole batch. For an unknown shape, the headroom is reserved for
    activations.
    """
    if inputs.micro_batch is not None or inputs.batch_size is None:
        return _compute_required_bytes(rules, inputs, optimizer)
    runs = [replace(inputs, micro_batch=samples) for samples in list_micro_batches(inputs)]
    required = [_compute_required_bytes(rules, run, optimizer) for run in runs]
    return min((count for count in required if count is not None), default=None)


def compute_highest_bytes(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> int:
    """Return the end of the likely range of GPU memory in bytes; the expected bytes without a range.

    Args:
        inputs: A run of known size. Without a micro-batch, the smaller of two requirements counts, as in
            `compute_required_bytes`.
    """
    highest = [
        estimate.interval.high - estimate.pageable
        for samples in list_micro_batches(inputs)
        for estimate in [estimate_unlimited(rules, replace(inputs, micro_batch=samples), optimizer)]
        if estimate.interval is not None
    ]
    return min(highest, default=compute_required_bytes(rules, inputs, optimizer) or 0)


def list_micro_batches(inputs: MemoryInputs) -> set[int]:
    """Return the micro-batches that may require the least: the specified one, or single samples and the whole batch."""
    if inputs.micro_batch is not None:
        return {inputs.micro_batch}
    batch_per_gpu = -(-(inputs.batch_size or 1) // inputs.gpus)
    return {batch_per_gpu} if inputs.gradient_release else {1, batch_per_gpu}


@cached(8192)
def _compute_required_bytes(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> int | None:
    size = find_network_size(rules, inputs)
    if size is None:
        return None
    run = _estimate_run_memory(rules, inputs, optimizer)
    total = _compute_total(rules, size, run)
    if total is not None:
        return total - run.pageable
    return -int(-(run.model_states - run.pageable) // (1 - rules.settings.headroom))


def fits(rules: MemoryRules, situation: Situation, optimizer: str) -> bool:
    """Return whether a run is expected to fit; True without a limit or with an unknown size."""
    if situation.vram_bytes is None:
        return True
    required = compute_required_bytes(rules, select_memory_inputs(situation), optimizer)
    return required is None or required <= situation.vram_bytes


def estimate_traffic(rules: MemoryRules, inputs: MemoryInputs) -> Traffic | None:
    """Return the communication of one GPU in an optimizer step; None on a single GPU.

    Args:
        inputs: A run of known size.
    """
    model = _estimate_model_memory(rules, inputs)
    return estimate_step_traffic(inputs, model, rules.settings.communication.get(inputs.shard))


def _require_size(rules: MemoryRules, inputs: MemoryInputs) -> NetworkSize:
    size = find_network_size(rules, inputs)
    assert size is not None, "an estimate requires a known size"
    return size


@cached(8192)
def _estimate_model_memory(rules: MemoryRules, inputs: MemoryInputs) -> ModelMemory:
    return estimate_model_memory(inputs, _require_size(rules, inputs), rules.settings)


def _estimate_run_memory(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> RunMemory:
    model = _estimate_model_memory(rules, inputs)
    memory = estimate_optimizer_memory(rules, inputs, optimizer)
    state = 0 if inputs.offload else model.master + memory.state
    others = estimate_other_networks(inputs, _require_size(rules, inputs), model, state, rules.settings)
    return RunMemory(inputs=inputs, model=model, optimizer=memory, others=others)


def _compute_total(rules: MemoryRules, size: NetworkSize, run: RunMemory) -> int | None:
    """Return the total of the breakdown; None if the shape is unknown."""
    return (
        None
        if size.step is None
        else compute_expected_total(run.inputs, size.step, run.model, run.optimizer, run.others.bytes, rules.settings)
    )
