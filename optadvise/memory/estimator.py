"""The memory estimate of a run: does it fit, how many bytes does it need, and for what."""

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
from optadvise.memory.peak import compute_expected_total
from optadvise.memory.rules import MemoryRules
from optadvise.memory.traffic import estimate_step_traffic

_LENGTHS = ("seq_len", "image_size")  # the facts that are the length of a sample


# -- the length of a sample ----------------------------------------------------------------------------------------


def complete_length(rules: MemoryRules, situation: Situation) -> Situation:
    """Return a situation with the usual length of a sample, assumed where none is specified.

    Raises:
        InputError: The length that is specified does not suit the network.
    """
    _check_length(rules, situation)
    if situation.seq_len is not None or situation.image_size is not None:
        return situation
    lengths = _usual_lengths(rules, situation)
    return situation.derive(**lengths)


def change_sized_run(rules: MemoryRules, situation: Situation, changes: FactValues) -> Situation:
    """Return a run of known size after changes; another kind of network gets the usual length of its samples."""
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


def _usual_lengths(rules: MemoryRules, situation: Situation) -> dict[str, int]:
    """Return the usual length of a network's samples by the fact that it is, empty where it is not known."""
    if situation.shape is not None:
        tensors = build_network_tensors(rules, situation.shape)
        return {"image_size" if tensors.network.images else "seq_len": tensors.usual_length}
    references = find_reference_sizes(rules, situation.model)
    lengths = {} if references is None else {"seq_len": references.seq_len, "image_size": references.image_size}
    return {name: length for name, length in lengths.items() if length is not None}


# -- the estimate --------------------------------------------------------------------------------------------------


def knows_activations(rules: MemoryRules, inputs: MemoryInputs) -> bool:
    """Return whether the bytes that a step saves for its backward pass are known."""
    size = find_network_size(rules, inputs)
    return size is not None and size.step is not None


def estimate(rules: MemoryRules, situation: Situation, optimizer: str) -> MemoryEstimate:
    """Return the breakdown of one GPU's memory, and whether it fits.

    Args:
        situation: The run, whose size is known.
    """
    return apply_limit(estimate_unlimited(rules, select_memory_inputs(situation), optimizer), situation.vram_bytes)


@cached(8192)
def estimate_unlimited(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> MemoryEstimate:
    """Return the breakdown of one GPU's memory, whatever its limit.

    Args:
        inputs: The run, whose size is known.
    """
    size, run = _known_size(rules, inputs), _run_memory(rules, inputs, optimizer)
    if size.step is None:
        return estimate_without_shape(run)
    return estimate_with_step(run, size.step, size.basis, rules.settings)


def estimate_total(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> Fit:
    """Return the bytes of state, of what is known without a shape, and in total, without a breakdown or a limit."""
    size, run = _known_size(rules, inputs), _run_memory(rules, inputs, optimizer)
    total = _total(rules, size, run)
    return Fit(
        id=optimizer,
        optimizer_bytes=run.state,
        total=total,
        model_states=run.model_states,
        fits=None,
        largest_micro_batch=None,
        longest_sequence=None,
    )


def compute_required_bytes(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> int | None:
    """Return the bytes of a GPU on which a run is expected to fit; None where its size is not known.

    Without a micro-batch, the better of two is taken: single samples, between which gradients stay, or the whole batch
    at once. Where the shape is not known, the headroom stays free for activations.
    """
    if inputs.micro_batch is not None or inputs.batch_size is None:
        return _required_bytes(rules, inputs, optimizer)
    batch_per_gpu = max(inputs.batch_size // inputs.gpus, 1)
    runs = [replace(inputs, micro_batch=samples) for samples in {1, batch_per_gpu}]
    required = [_required_bytes(rules, run, optimizer) for run in runs]
    return min((needed for needed in required if needed is not None), default=None)


@cached(8192)
def _required_bytes(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> int | None:
    size = find_network_size(rules, inputs)
    if size is None:
        return None
    run = _run_memory(rules, inputs, optimizer)
    total = _total(rules, size, run)
    if total is not None:
        return total - run.pageable
    return -int(-(run.model_states - run.pageable) // (1 - rules.settings.headroom))


def fits(rules: MemoryRules, situation: Situation, optimizer: str) -> bool:
    """Return whether a run is expected to fit, True where nothing limits it or its size is not known."""
    if situation.vram_bytes is None:
        return True
    required = compute_required_bytes(rules, select_memory_inputs(situation), optimizer)
    return required is None or required <= situation.vram_bytes


def estimate_traffic(rules: MemoryRules, inputs: MemoryInputs) -> Traffic | None:
    """Return what one GPU sends to the others in an optimizer step; None where there is no other.

    Args:
        inputs: The run, whose size is known.
    """
    model = _model_memory(rules, inputs)
    return estimate_step_traffic(inputs, model, rules.settings.communication.get(inputs.shard))


def _known_size(rules: MemoryRules, inputs: MemoryInputs) -> NetworkSize:
    size = find_network_size(rules, inputs)
    assert size is not None, "an estimate needs a size"
    return size


@cached(8192)
def _model_memory(rules: MemoryRules, inputs: MemoryInputs) -> ModelMemory:
    return estimate_model_memory(inputs, _known_size(rules, inputs), rules.settings)


def _run_memory(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> RunMemory:
    return RunMemory(
        inputs=inputs, model=_model_memory(rules, inputs), optimizer=estimate_optimizer_memory(rules, inputs, optimizer)
    )


def _total(rules: MemoryRules, size: NetworkSize, run: RunMemory) -> int | None:
    """Return the total that a breakdown would have; None where the shape is not known."""
    return (
        None
        if size.step is None
        else compute_expected_total(run.inputs, size.step, run.model, run.optimizer, rules.settings)
    )
