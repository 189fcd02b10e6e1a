"""Size of a run's network: exact for a known shape, interpolated for a number of parameters."""

from __future__ import annotations

from collections import Counter
from math import prod

from msgspec import Struct, convert, to_builtins
from msgspec.structs import replace

from optadvise.core.caching import cached
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import NetworkShape
from optadvise.memory.architectures import build_named_shape, build_network, find_usual_length
from optadvise.memory.inputs import MemoryInputs, derive_compute_mode
from optadvise.memory.interpolation import (
    NetworkCounts,
    ReferenceSize,
    estimate_adapter_params,
    extrapolate,
    interpolate,
)
from optadvise.memory.intervals import list_uncertainty_factors
from optadvise.memory.network import Network, count_weights
from optadvise.memory.records import ComputeMode, MicroBatch, StepMemory, Weight
from optadvise.memory.rules import MemoryRules
from optadvise.memory.sharding import count_elements, shard_rows
from optadvise.memory.training_step import StepSettings, simulate_step
from optadvise.rulebase.memory_rules import ReferenceSizes


class NetworkTensors(Struct, frozen=True):
    """Network and weights of a shape."""

    network: Network
    weights: Counter[Weight]
    params: int
    matrix_params: int
    params_outside_layers: int
    usual_length: int  # tokens of a sample, or pixels of an image's side


class NetworkSize(Struct, frozen=True):
    """Parameter counts and step memory of a run's network."""

    counts: NetworkCounts
    step: StepMemory | None  # of one micro-batch; None if the shape is unknown
    basis: str  # how the shape is known: exact, typical, measured or none
    trained_weights: Counter[Weight] | None = None  # None if the shape is unknown
    trained_shard: Counter[Weight] | None = None  # largest shard, if weights are sharded by rows
    shard_params: int | None = None  # parameters of that shard, with frozen ones

    @property
    def params(self) -> int:
        """Return the number of parameters without adapters."""
        return self.counts.params

    @property
    def trained_params(self) -> int:
        """Return the number of parameters with gradients and optimizer state."""
        return self.counts.adapter_params or self.counts.params

    def count_largest_shard(self, shards: int) -> int:
        """Return the trained parameters of the largest of several shards."""
        if shards == 1:
            return self.trained_params
        return self.trained_params // shards if self.trained_shard is None else count_elements(self.trained_shard)

    def count_padded_params(self, shards: int) -> int:
        """Return the trained parameters of all shards, padded to the largest."""
        return self.trained_params if self.trained_shard is None else shards * self.count_largest_shard(shards)


@cached(256)
def build_network_tensors(rules: MemoryRules, shape: NetworkShape) -> NetworkTensors:
    """Build the network of a shape and list its weights."""
    network = build_network(rules.networks, shape)
    weights = count_weights(network)
    matrices = Counter({weight: n for weight, n in weights.items() if weight.kind == "matrix"})
    outside = count_weights(network, only=lambda block: not block.checkpointed)
    return NetworkTensors(
        network=network, weights=weights, params=count_elements(weights),
        matrix_params=count_elements(matrices), params_outside_layers=count_elements(outside),
        usual_length=find_usual_length(rules.networks, shape),
    )  # fmt: skip


def count_parameters(rules: MemoryRules, shape: NetworkShape) -> int:
    """Return the number of parameters of a shape; for named shapes the declared number, which tests verify."""
    named = rules.networks.find_named_shape(shape)
    return build_network_tensors(rules, shape).params if named is None else named.parameters


@cached(64)
def list_trained_weights(rules: MemoryRules, shape: NetworkShape, mode: ComputeMode) -> Counter[Weight]:
    """Return the trained weights of a shape: all weights, or the adapters."""
    tensors = build_network_tensors(rules, shape)
    if not mode.lora_rank:
        return tensors.weights
    weights = count_weights(tensors.network, mode)
    return Counter({weight: n for weight, n in weights.items() if weight.kind == "adapter"})


@cached(8192)
def find_network_size(rules: MemoryRules, inputs: MemoryInputs) -> NetworkSize | None:
    """Return the size of a run's network; None if neither its shape nor its number of parameters is known.

    Raises:
        InputError: No layer of the network matches the adapter targets.
    """
    if inputs.shape is not None:
        return _build_exact_size(rules, inputs.shape, inputs)
    if inputs.params is None:
        return None
    references = find_reference_sizes(rules, inputs.model)
    if references is None:
        adapters = estimate_adapter_params(inputs.params, inputs.lora_rank) if inputs.lora_rank else 0
        return NetworkSize(NetworkCounts.of_unknown_shape(inputs.params, adapters), step=None, basis="none")
    size = _interpolate_size(rules, references.shapes, inputs, inputs.params)
    return NetworkSize(counts=size.counts, step=size.step, basis="typical")


def find_reference_sizes(rules: MemoryRules, model: str | None) -> ReferenceSizes | None:
    """Return the reference shapes of a kind of model; None if it has none."""
    references = rules.settings.reference_sizes
    return references.get(next(iter(references)) if model is None else model)


# -- unknown shape --------------------------------------------------------------------------------------------------


def _interpolate_size(rules: MemoryRules, names: tuple[str, ...], inputs: MemoryInputs, params: int) -> ReferenceSize:
    """Interpolate between the reference shapes below and above a size, or extrapolate."""
    counts = _load_reference_parameters(rules, names)
    above = next((index for index, count in enumerate(counts) if count >= params), len(counts) - 1)
    larger = load_reference_size(rules, names[above], replace(inputs, params=None))
    if above == 0 or params > counts[-1]:
        return extrapolate(larger, params)
    smaller = load_reference_size(rules, names[above - 1], replace(inputs, params=None))
    return interpolate(smaller, larger, params, list_uncertainty_factors(rules.settings, "typical", inputs.method))


@cached(64)
def _load_reference_parameters(rules: MemoryRules, names: tuple[str, ...]) -> list[int]:
    """Return the parameters of shapes; the disk cache avoids reading the network files."""
    key = f"parameters of {' '.join(names)}"
    return rules.catalog.figures.get(key, lambda: [rules.networks.shapes[name].parameters for name in names])


@cached(4096)
def load_reference_size(rules: MemoryRules, name: str, inputs: MemoryInputs) -> ReferenceSize:
    """Return the counts and step memory of a named shape in a run, from the disk cache if it has them."""

    def simulate() -> list[object]:
        size = _build_exact_size(rules, build_named_shape(rules.networks, name), inputs)
        assert size.step is not None
        return [to_builtins(ReferenceSize(size.counts, size.step))]

    key = " ".join(str(getattr(inputs, field)) for field in inputs.__struct_fields__)
    return convert(rules.catalog.figures.get(f"{name} {key}", simulate)[0], ReferenceSize)


# -- known shape -------------------------------------------------------------------------------------------------


def _build_exact_size(rules: MemoryRules, shape: NetworkShape, inputs: MemoryInputs) -> NetworkSize:
    """Return the exact size of a network of known shape."""
    tensors = build_network_tensors(rules, shape)
    mode = derive_compute_mode(inputs, tensors.network.flags)
    trained = list_trained_weights(rules, shape, mode)
    if mode.lora_rank and not trained:
        _reject_targets(rules, shape, inputs)
    counts = NetworkCounts(
        params=tensors.params,
        adapter_params=count_elements(trained) if mode.lora_rank else 0,
        matrix_params=tensors.matrix_params,
        largest_tensor=max((prod(weight.shape) for weight in trained), default=0),
        layers=sum(block.repeat for block in tensors.network.blocks if block.checkpointed),
        params_outside_layers=tensors.params_outside_layers,
    )
    size = NetworkSize(
        counts=counts, step=_simulate_micro_batch(rules, shape, mode, inputs), basis="exact", trained_weights=trained
    )
    if inputs.weight_shards == 1:
        return size
    shard_params = count_elements(shard_rows(tensors.weights, inputs.gpus))
    return replace(size, trained_shard=shard_rows(trained, inputs.gpus), shard_params=shard_params)


def _simulate_micro_batch(
    rules: MemoryRules, shape: NetworkShape, mode: ComputeMode, inputs: MemoryInputs
) -> StepMemory:
    tensors = build_network_tensors(rules, shape)
    length = inputs.image_size if tensors.network.images else inputs.seq_len
    samples = (inputs.micro_batch or 1) * rules.settings.count_sequences(inputs.task)
    batch = MicroBatch(samples, length or tensors.usual_length)
    settings = StepSettings(
        checkpoint=inputs.checkpointing != "none",
        release=inputs.gradient_release,
        accumulated=inputs.accumulates,
        gradient_shards=inputs.gradient_shards,
        offloads_gradients=inputs.offloads_gradients(rules.settings.find_engine(inputs.engine)),
    )
    return _simulate_step(rules, shape, mode, batch, settings)


@cached(8192)
def _simulate_step(
    rules: MemoryRules, shape: NetworkShape, mode: ComputeMode, batch: MicroBatch, settings: StepSettings
) -> StepMemory:
    return simulate_step(build_network_tensors(rules, shape).network, mode, batch, settings)


def _reject_targets(rules: MemoryRules, shape: NetworkShape, inputs: MemoryInputs) -> None:
    """Raise the error for adapters whose targets match no linear layer of the network."""
    layers = ", ".join(sorted(rules.networks.find_family(shape).list_adapter_targets()))
    is_targeted = inputs.lora_targets != "all"
    option, value = ("--lora-targets", inputs.lora_targets) if is_targeted else ("--method", inputs.method)
    problem = f"{shape.name} has no {'such ' if layers else ''}linear layer for adapters"
    remedy = f"use {layers}" if layers else "use --method full"
    raise InputError(
        f"{option} {value}: {problem}; {remedy}", code=ErrorCode.NETWORK_CONFLICT, option=option, value=value
    )
