"""Networks of unknown shape: interpolation between two reference shapes, extrapolation from one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.memory.records import LiveMemory, Moment, StepMemory, UncertaintyFactors

_SCALED_STEP_FIELDS = ("activations", "logits", "weight_copies", "weight_gradients")
_SCALED_COUNTS = ("adapter_params", "matrix_params", "largest_tensor", "params_outside_layers")
# These fields grow with width × depth, the others with the number of parameters.
_SLOW_FIELDS = ("activations", "working", "logits", "adapter_params", "params_outside_layers")


class NetworkCounts(Struct, frozen=True):
    """Counts of a network's parameters."""

    params: int  # without adapters
    adapter_params: int
    matrix_params: int  # of linear layers and convolutions, without the head
    largest_tensor: int  # elements of the largest trained tensor
    layers: float  # repeated blocks, of which FSDP gathers a few at a time; a fraction between two reference shapes
    params_outside_layers: int

    @classmethod
    def of_unknown_shape(cls, params: int, adapters: int) -> NetworkCounts:
        """Return the counts of a network of unknown shape."""
        return cls(params, adapters, matrix_params=params, largest_tensor=0, layers=1, params_outside_layers=0)


class ReferenceSize(Struct, frozen=True):
    """A reference shape: its counts, and the memory of one step."""

    counts: NetworkCounts
    step: StepMemory


def estimate_adapter_params(params: int, rank: int) -> int:
    """Return the parameters that LoRA adds to a network of unknown shape, assuming a decoder of this size.

    Most decoders have width / 128 layers with 12 · width² weights each. LoRA adds rank · 19 · width to a layer: four
    attention matrices, and three feed-forward matrices of 2.7 times the width.
    """
    width = float((params * 128 / 12) ** (1 / 3))
    return round(rank * 19 * width * width / 128)


def interpolate(
    smaller: ReferenceSize, larger: ReferenceSize, params: int, ends: Sequence[UncertaintyFactors]
) -> ReferenceSize:
    """Return the size between two references, linear in the number of parameters.

    Args:
        smaller: Reference below the size.
        larger: Reference above the size; it also provides the input bytes and the name of the peak.
        params: Number of parameters.
        ends: Factors of the expected bytes and of the ends of the interval, at which the peaks are interpolated.
    """
    fraction = (params - smaller.counts.params) / (larger.counts.params - smaller.counts.params)

    def mix(low: Struct, high: Struct, names: tuple[str, ...]) -> dict[str, int]:
        ends = {name: (getattr(low, name), getattr(high, name)) for name in names}
        return {name: round(first + (last - first) * fraction) for name, (first, last) in ends.items()}

    peaks = [(smaller.step.find_peak(factors).live, larger.step.find_peak(factors)) for factors in ends]
    moments = tuple(
        replace(high, live=LiveMemory(**mix(low, high.live, LiveMemory.__struct_fields__))) for low, high in peaks
    )
    step = replace(larger.step, moments=moments, **mix(smaller.step, larger.step, _SCALED_STEP_FIELDS))
    counts = NetworkCounts(**mix(smaller.counts, larger.counts, NetworkCounts.__struct_fields__))
    # Whole layers would grow in steps, and a larger model would then need less.
    layers = smaller.counts.layers + (larger.counts.layers - smaller.counts.layers) * fraction
    return ReferenceSize(replace(counts, params=params, layers=layers), step)


def extrapolate(reference: ReferenceSize, params: int) -> ReferenceSize:
    """Return a size beyond the references: weights scale linearly, activations with the power 2/3.

    Width and depth grow together; weights grow with width² × depth, activations with width × depth.
    """
    ratio = params / reference.counts.params

    def scale(record: Struct, names: Iterable[str]) -> dict[str, int]:
        factors = {name: ratio ** (2 / 3) if name in _SLOW_FIELDS else ratio for name in names}
        return {name: round(getattr(record, name) * factor) for name, factor in factors.items()}

    moments = [
        Moment(live=LiveMemory(**scale(moment.live, LiveMemory.__struct_fields__)), name=moment.name)
        for moment in reference.step.moments
    ]
    moments.sort(key=lambda moment: -moment.live.total)
    step = replace(reference.step, moments=tuple(moments), **scale(reference.step, _SCALED_STEP_FIELDS))
    counts = replace(reference.counts, **scale(reference.counts, _SCALED_COUNTS))
    # Far below the reference, which has large embeddings, the power law gives more than the whole network.
    outside = min(counts.params_outside_layers, params)
    return ReferenceSize(replace(counts, params=params, params_outside_layers=outside), step)
