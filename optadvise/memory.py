"""Bytes of training state, by arithmetic on parameters, precision and method. Pure.

Three conventions are in use for "bytes per parameter" and they differ in what they count; the ledger says each line:
fp32 is weights 4, gradients 4; AMP adds a half-precision copy of the weights that autocast keeps, 4 + 2 and gradients
4; pure bf16 is 2 and 2. Sharded mixed precision is ZeRO's: half-precision weights and gradients, and an fp32 master
copy that is sharded with the state. An optimizer's state comes from its card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from optadvise.domain import Band, MemoryEstimate, MemoryLine, Situation, StateTensor

DTYPE_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "uint8": 8, "int8": 8, "uint4": 4, "int64": 64}

# The facts of a situation that this arithmetic reads.
INPUTS = frozenset({"params", "vram_bytes", "method", "precision", "shard", "gpus", "lora_rank"})

# Per-parameter figures are taken on one such matrix: large enough that everything per tensor vanishes.
REFERENCE_SHAPE = (4096, 4096)

# Bytes per parameter under each precision: weights with their copies, gradients, and the words for it.
_WEIGHTS = {
    "fp32": (4, "4 B fp32"),
    "amp-bf16": (6, "4 B fp32 + 2 B bf16 copy under autocast"),
    "amp-fp16": (6, "4 B fp32 + 2 B fp16 copy under autocast"),
    "bf16": (2, "2 B bf16"),
}
_HALF, _MASTER = 2, 4  # of sharded mixed precision: what is computed with, and the fp32 copy that is stepped
_GRADIENTS = {"fp32": 4, "amp-bf16": 4, "amp-fp16": 4, "bf16": 2}

_NO_SIZE = "the number of parameters is not known"

# NF4 with double quantisation: 4 bits and 0.127 bits of scales a weight (QLoRA, section 3).
_NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


def state_bytes(state: Iterable[StateTensor], shape: Sequence[int], dtype: str = "float32") -> int:
    """Return the bytes of optimizer state that one weight tensor causes.

    Args:
        state: The state tensors of a card.
        shape: The weight's shape.
        dtype: The weight's type, which states of dtype `parameter` follow.

    Returns:
        Bytes, without what is kept once per optimizer.

    Example:
        >>> from optadvise.domain import StateTensor
        >>> state_bytes([StateTensor("exp_avg", "element", "parameter")], (64, 64))
        16384
    """
    elements, ndim = prod(shape), len(shape)
    total = 0
    for tensor in state:
        if not tensor.min_elements <= elements <= (tensor.max_elements or elements):
            continue
        if tensor.weights == "half" and DTYPE_BITS[dtype] != 16:
            continue
        if not tensor.min_ndim <= ndim <= (tensor.max_ndim if tensor.max_ndim is not None else ndim):
            continue
        count = {
            "element": elements,
            "tensor": tensor.elements,
            "block": -(-elements // tensor.block),
            "row": elements // shape[-1] if ndim else 1,
            "column": elements // shape[-2] if ndim > 1 else 1,
            "row-square": _square(shape[:1], tensor),
            "column-square": sum(_square((side,), tensor) for side in shape[1:]),
            "optimizer": 0,
        }[tensor.per]
        total += count * DTYPE_BITS[dtype if tensor.dtype == "parameter" else tensor.dtype] // 8
    return total


def _square(side: Sequence[int], tensor: StateTensor) -> int:
    return int(side[0]) ** 2 if side and (tensor.max_side is None or side[0] <= tensor.max_side) else 0


def shared_state_bytes(state: Iterable[StateTensor]) -> int:
    """Return the bytes that are kept once per optimizer, whatever the weights."""
    return sum(t.elements * DTYPE_BITS[t.dtype] // 8 for t in state if t.per == "optimizer")


def state_bytes_per_parameter(state: Iterable[StateTensor], dtype: str = "float32") -> float:
    """Return bytes of state per parameter, taken on a 4096 × 4096 matrix.

    Args:
        state: The state tensors of a card.
        dtype: The weights' type.
    """
    return state_bytes(state, REFERENCE_SHAPE, dtype) / prod(REFERENCE_SHAPE)


def weight_dtype(precision: str) -> str:
    """Return the type that the trained weights, and so torch's states, have under a precision."""
    return "bfloat16" if precision == "bf16" else "float32"


def adapter_parameters(params: int, rank: int) -> int:
    """Return how many parameters LoRA adds on every linear layer of a typical decoder.

    Derived from the shape most decoders have: layers ≈ width / 128 and 12 · width² weights a layer, of which
    rank · 19 · width are added (four attention and three feed-forward matrices, the latter 2.7 times as wide).

    Args:
        params: Parameters of the whole model.
        rank: Rank of the adapters.
    """
    width = float((params * 128 / 12) ** (1 / 3))
    return round(rank * 19 * width * width / 128)


def trained_parameters(situation: Situation) -> int | None:
    """Return how many parameters get gradients and state; None where the size is not known."""
    if situation.params is None:
        return None
    if situation.method == "full":
        return situation.params
    return adapter_parameters(situation.params, situation.lora_rank or 0)


def _shards(situation: Situation) -> tuple[int, int, int]:
    """Return over how many GPUs weights, gradients and state are split."""
    level = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}[situation.shard]
    return (
        situation.gpus if level >= 3 else 1,
        situation.gpus if level >= 2 else 1,
        situation.gpus if level >= 1 else 1,
    )


def weight_bytes(situation: Situation) -> int | None:
    """Return the bytes of all weights on one GPU; None where the size is not known."""
    params = situation.params
    if params is None:
        return None
    split, _, by_state = _shards(situation)
    if situation.method == "full" and _has_sharded_master(situation):
        return params * _HALF // split + params * _MASTER // by_state
    if situation.method == "full":
        return params * _WEIGHTS[situation.precision][0] // split
    added = adapter_parameters(params, situation.lora_rank or 0)
    return round(params * _frozen(situation) + 4 * added) // split


def _frozen(situation: Situation) -> float:
    """Return the bytes of one frozen weight under adapters."""
    return _NF4_BYTES if situation.method == "qlora" else 4 if situation.precision == "fp32" else 2


def _weight_words(situation: Situation) -> str:
    split, _, by_state = _shards(situation)
    over = _over(split)
    if situation.method == "full" and _has_sharded_master(situation):
        return f"2 B half precision per parameter{over}, 4 B fp32 master{_over(by_state)} (ZeRO's accounting)"
    if situation.method == "full":
        return f"{_WEIGHTS[situation.precision][1]} per parameter{over}"
    words = "0.516 B NF4, double quantised" if situation.method == "qlora" else f"{_frozen(situation):g} B frozen"
    added = adapter_parameters(situation.params or 0, situation.lora_rank or 0) / 1e6
    return f"{words} per parameter, and 4 B per adapter weight (about {added:.0f}M at rank {situation.lora_rank}){over}"


def _over(split: int) -> str:
    return f" / {split} GPUs" if split > 1 else ""


def _gradient_each(situation: Situation) -> int:
    if situation.method != "full":
        return 4
    return _HALF if _has_sharded_master(situation) else _GRADIENTS[situation.precision]


def _has_sharded_master(situation: Situation) -> bool:
    """Is the fp32 copy of the weights sharded with the optimizer's state, as ZeRO and FSDP do in mixed precision?"""
    return situation.shard != "none" and situation.precision.startswith("amp")


def gradient_bytes(situation: Situation) -> int | None:
    """Return the bytes of all gradients on one GPU; None where the size is not known."""
    trained = trained_parameters(situation)
    return None if trained is None else trained * _gradient_each(situation) // _shards(situation)[1]


def optimizer_bytes(situation: Situation, per_parameter: float) -> int | None:
    """Return the bytes of optimizer state on one GPU.

    Args:
        situation: The run.
        per_parameter: Bytes of state per trained parameter.
    """
    trained = trained_parameters(situation)
    return None if trained is None else round(trained * per_parameter / _shards(situation)[2])


def estimate(situation: Situation, per_parameter: float, *, paged: bool = False) -> MemoryEstimate:
    """Return what is known of one GPU's memory.

    Args:
        situation: The run.
        per_parameter: Bytes of optimizer state per trained parameter.
        paged: The state may leave the GPU, so only weights and gradients have to fit.

    Returns:
        The estimate; activations and overhead, which depend on shapes, are None, and so is the total. `fits` is False
        where the known parts alone exceed the memory, and None otherwise.
    """
    weights, gradients = weight_bytes(situation), gradient_bytes(situation)
    state = optimizer_bytes(situation, per_parameter)
    known, fits = None, None
    ledger = tuple(MemoryLine(part, None, _NO_SIZE) for part in ("weights", "gradients", "optimizer state"))
    if weights is not None and gradients is not None and state is not None:
        known = weights + gradients + state
        fits = _fits(weights + gradients + (0 if paged else state), situation.vram_bytes)
        _, by_gradients, by_state = _shards(situation)
        paging = ", which may be paged out to the host" if paged else ""
        ledger = (
            MemoryLine("weights", weights, _weight_words(situation)),
            MemoryLine(
                "gradients", gradients, f"{_gradient_each(situation)} B per trained parameter{_over(by_gradients)}"
            ),
            MemoryLine(
                "optimizer state", state, f"{per_parameter:.2f} B per trained parameter{_over(by_state)}{paging}"
            ),
        )
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=None,
        overhead=None,
        total=None,
        known=known,
        available=situation.vram_bytes,
        fits=fits,
        ledger=ledger,
    )


def _fits(must: int, available: int | None) -> bool | None:
    return False if available is not None and must > available else None


def exceeds(estimate: MemoryEstimate, state: int | None, *, paged: bool) -> bool | None:
    """Return False where another optimizer's state would certainly not fit beside the same weights and gradients.

    Args:
        estimate: The estimate for the optimizer that was chosen.
        state: Bytes of the other's state.
        paged: The other's state may leave the GPU.

    Returns:
        False for a certain no, None otherwise, as in `MemoryEstimate.fits`.
    """
    if estimate.weights is None or estimate.gradients is None or state is None:
        return None
    return _fits(estimate.weights + estimate.gradients + (0 if paged else state), estimate.available)


def pressure(situation: Situation, reference: float, compact: float, headroom: float) -> str:
    """Return the derived fact `memory`: how hard the limit presses.

    Args:
        situation: The run.
        reference: Bytes of state per parameter of the optimizer one would take.
        compact: The same of the one to fall back to.
        headroom: Share of the memory to keep for what is not modelled.
    """
    if situation.vram_bytes is None:
        return "unlimited"
    if situation.params is None:
        return "limited"
    room = situation.vram_bytes * (1 - headroom)
    fixed = (weight_bytes(situation) or 0) + (gradient_bytes(situation) or 0)
    if fixed + (optimizer_bytes(situation, reference) or 0) <= room:
        return "fits"
    return "tight" if fixed + (optimizer_bytes(situation, compact) or 0) <= room else "too-small"


def needed(situation: Situation, per_parameter: float, headroom: float) -> int | None:
    """Return the memory of one GPU at which an optimizer starts to fit with the headroom left free."""
    state, weights, gradients = (
        optimizer_bytes(situation, per_parameter),
        weight_bytes(situation),
        gradient_bytes(situation),
    )
    if state is None or weights is None or gradients is None:
        return None
    return -int(-(weights + gradients + state) // (1 - headroom))


def band(situation: Situation, optimizer: str, per_parameter: float, headroom: float) -> Band | None:
    """Return up to which model size an optimizer fits the memory; for full training of a model of unknown size."""
    if situation.vram_bytes is None or situation.method != "full":
        return None
    by_weights, by_gradients, by_state = _shards(situation)
    weights = _WEIGHTS[situation.precision][0] / by_weights
    if _has_sharded_master(situation):
        weights = _HALF / by_weights + _MASTER / by_state
    each = weights + _gradient_each(situation) / by_gradients + per_parameter / by_state
    room = situation.vram_bytes * (1 - headroom)
    largest = int(room / each)
    # The bytes are rounded part by part, so the edge is looked for where it is and not where the quotient puts it.
    while largest > 0 and not _within(situation, largest, per_parameter, room):
        largest -= 1
    while _within(situation, largest + 1, per_parameter, room):
        largest += 1
    return Band(optimizer, each, largest)


def _within(situation: Situation, params: int, per_parameter: float, room: float) -> bool:
    sized = situation._replace(params=params)
    parts = (weight_bytes(sized), gradient_bytes(sized), optimizer_bytes(sized, per_parameter))
    return sum(part or 0 for part in parts) <= room
