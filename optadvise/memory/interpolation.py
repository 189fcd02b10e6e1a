"""Networks of which only the size is known: interpolated between two reference shapes, or extrapolated from one."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from optadvise.memory.records import LiveMemory, StepMemory

_SCALED_STEP_FIELDS = ("activations", "logits", "weight_copies", "weight_gradients")
_SCALED_COUNTS = ("adapter_params", "matrix_params", "largest_tensor", "params_outside_layers")
# Fields that grow with width times depth, the others with the number of parameters.
_SLOW_FIELDS = ("activations", "working", "logits", "adapter_params", "params_outside_layers")


class NetworkCounts(Struct, frozen=True):
    """Counts of a network's parameters."""

    params: int  # without adapters
    adapter_params: int
    matrix_params: int  # of linear layers and convolutions, without the head
    largest_tensor: int  # elements of the largest tensor that is trained
    layers: int  # blocks that repeat, of which some are gathered at a time
    params_outside_layers: int

    @classmethod
    def of_unknown_shape(cls, params: int, adapters: int) -> NetworkCounts:
        """Return the counts of a network of which only the size is known."""
        return cls(params, adapters, matrix_params=params, largest_tensor=0, layers=1, params_outside_layers=0)


class ReferenceSize(Struct, frozen=True):
    """A reference shape: its counts, and the memory of one step."""

    counts: NetworkCounts
    step: StepMemory


def estimate_adapter_params(params: int, rank: int) -> int:
    """Return the parameters that LoRA adds to a network of unknown shape, taken as a decoder of that size.

    Derived from the shape most decoders have: layers ≈ width / 128 and 12 · width² weights a layer, to which
    rank · 19 · width are added (four attention and three feed-forward matrices, the latter 2.7 times as wide).
    """
    width = float((params * 128 / 12) ** (1 / 3))
    return round(rank * 19 * width * width / 128)


def interpolate(smaller: ReferenceSize, larger: ReferenceSize, params: int) -> ReferenceSize:
    """Return the size between two references, linear in the number of parameters.

    Args:
        larger: The reference above, whose input and phase of the peak are taken.
    """
    fraction = (params - smaller.counts.params) / (larger.counts.params - smaller.counts.params)

    def mix(low: Struct, high: Struct, names: tuple[str, ...]) -> dict[str, int]:
        ends = {name: (getattr(low, name), getattr(high, name)) for name in names}
        return {name: round(first + (last - first) * fraction) for name, (first, last) in ends.items()}

    peak = LiveMemory(**mix(smaller.step.peak, larger.step.peak, LiveMemory.__struct_fields__))
    step = replace(larger.step, peak=peak, **mix(smaller.step, larger.step, _SCALED_STEP_FIELDS))
    counts = NetworkCounts(**mix(smaller.counts, larger.counts, NetworkCounts.__struct_fields__))
    return ReferenceSize(replace(counts, params=params), step)


def extrapolate(reference: ReferenceSize, params: int) -> ReferenceSize:
    """Return a size beyond the references: weights in proportion, activations by the power of two thirds.

    Width and depth grow alike, so that activations, which grow with width times depth, grow more slowly than weights.
    """
    ratio = params / reference.counts.params

    def scale(record: Struct, names: Iterable[str]) -> dict[str, int]:
        factors = {name: ratio ** (2 / 3) if name in _SLOW_FIELDS else ratio for name in names}
        return {name: round(getattr(record, name) * factor) for name, factor in factors.items()}

    peak = LiveMemory(**scale(reference.step.peak, LiveMemory.__struct_fields__))
    step = replace(reference.step, peak=peak, **scale(reference.step, _SCALED_STEP_FIELDS))
    counts = replace(reference.counts, **scale(reference.counts, _SCALED_COUNTS))
    return ReferenceSize(replace(counts, params=params), step)
