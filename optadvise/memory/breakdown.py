"""One GPU's memory during training as a ledger: each line with its arithmetic, and what of it is there at the peak.

Three conventions are in use for "bytes per parameter" and they differ in what they count, so every line says its own.
fp32 is weights 4 and gradients 4. AMP keeps fp32 weights and, while autocast lasts, half-precision copies of the
matrices. Pure bf16 is 2 and 2. Sharded mixed precision is ZeRO's: half-precision weights and gradients, and an fp32
master copy that is sharded with the state. Gradients and activations are not there at the same time in full, so the
total is the highest moment and not the sum of the lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import astuple, replace

from optadvise.core.records import Interval, MemoryEstimate, MemoryLine, Situation
from optadvise.core.units import show_bytes, show_count
from optadvise.memory.records import FULL, HALF, LEARNING_INPUTS, Mode, StepMemory, Weight
from optadvise.memory.sharding import elements

# NF4 with double quantisation: 4 bits and 0.127 bits of scales a weight (QLoRA, section 3).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


class Settings(Struct, frozen=True):
    """What a GPU loses beside tensors, and how sure the estimate is: `rules/memory.yaml`."""

    context: Interval  # bytes
    fragmentation: tuple[float, float, float]  # low, expected, high share of what is allocated
    known: tuple[float, float]  # factors on activations of a known shape
    typical: tuple[float, float]  # of one that is typical of its size
    measured: tuple[float, float]  # of what fake tensors showed
    logits: float  # the high factor on logits, of which older code keeps copies
    adapters: float  # the high factor on activations under adapters, whose dropout keeps copies
    bucket_elements: int
    gathered_layers: int


class Size(Struct, frozen=True):
    """A network as far as memory asks for it."""

    params: int
    adapters: int  # parameters of LoRA's matrices
    matrices: int  # parameters of linear layers and convolutions, apart from the head
    largest: int  # elements of the largest tensor that is trained
    layers: int  # blocks that repeat, for what is gathered at a time
    outside: int  # parameters outside of them
    tensors: Counter[Weight] | None  # every weight; None where only the size is known
    step: StepMemory | None  # of one pass; None where the shape is not known
    basis: str  # exact, typical of the size, or none
    pieces: Counter[Weight] | None = None  # of trained weights on the fullest GPU, where they are known and cut by rows
    cut: int | None = None  # parameters on that GPU, frozen ones among them

    @property
    def trained(self) -> int:
        """Parameters that get gradients and state."""
        return self.adapters or self.params

    def share(self, over: int) -> int:
        """Return how many of the trained parameters the fullest GPU has, where they are split over so many."""
        return self.trained if over == 1 else self.trained // over if self.pieces is None else elements(self.pieces)

    def filled(self, over: int) -> int:
        """Return how many there are on all GPUs together, with what fills the pieces of those that have fewer."""
        return self.trained if self.pieces is None else over * self.share(over)


class Parts(Struct, frozen=True):
    """Bytes on one GPU, apart from the optimizer."""

    weights: int
    weights_high: int
    master: int
    gradients: int
    gradient_item: int
    communication: int
    communication_high: int
    all_weights: int  # all GPUs' parts together
    updated: int  # of those, the trained ones; and as much of gradients
    how_weights: str
    how_gradients: str
    how_master: str
    how_communication: str


def mode(situation: Situation, flags: frozenset[str]) -> Mode:
    """Return how a situation's operations are computed.

    Args:
        situation: The run.
        flags: Of the network's configuration.
    """
    switches = {
        "eager": situation.attention == "eager",
        "selective": situation.checkpointing == "selective",
        "chunked": situation.loss == "chunked",
        # `enable_input_require_grads`, as everyone does who checkpoints a frozen network.
        LEARNING_INPUTS: situation.method != "full" and situation.checkpointing != "none",
    }
    flags = flags | {name for name, on in switches.items() if on}
    if situation.precision == "fp32":
        base = Mode(flags=flags)
    elif situation.precision == "bf16" or sharded_master(situation):
        base = Mode(weights=HALF, compute=HALF, flags=flags)
    else:
        base = Mode(compute=HALF, autocast=True, flags=flags)
    if situation.method == "full":
        return base
    return replace(base, weights=FULL if situation.precision == "fp32" else HALF, compute=base.compute, frozen=True,
        quantised=situation.method == "qlora", rank=situation.lora_rank or 0,
        targets=None if situation.lora_targets == "all" else _with_fused(situation.lora_targets.split(",")),
        adapters=_adapter_item(situation),
    )  # fmt: skip


# Layers that hold what others have in several, and so get an adapter where any of these is named.
FUSED = {"qkv": {"q", "k", "v"}, "gate_up": {"gate", "up"}}


def _with_fused(names: Sequence[str]) -> frozenset[str]:
    return frozenset({*names, *(fused for fused, parts in FUSED.items() if not parts.isdisjoint(names))})


def sharded_master(situation: Situation) -> bool:
    """Is the fp32 copy of the weights sharded with the optimizer's state, as ZeRO and FSDP do in mixed precision?"""
    return situation.method == "full" and situation.shard != "none" and situation.precision.startswith("amp")


def _adapter_item(situation: Situation) -> int:
    return HALF if situation.precision == "bf16" else FULL


def shards(situation: Situation) -> tuple[int, int, int]:
    """Return over how many GPUs weights, gradients and state are split."""
    level = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}[situation.shard]
    return (
        situation.gpus if level >= 3 else 1,
        situation.gpus if level >= 2 else 1,
        situation.gpus if level >= 1 else 1,
    )


def accumulates(situation: Situation) -> bool:
    """Does an optimizer step take more than one pass, so that gradients stay between passes?

    Args:
        situation: The run; passes of unknown size are taken as the smallest.
    """
    return (situation.batch_size or 1) > (situation.micro_batch or 1) * situation.gpus


def parts(situation: Situation, size: Size, settings: Settings) -> Parts:
    """Return the bytes of weights and gradients on one GPU, and of what several GPUs need to talk.

    Args:
        situation: The run.
        size: Its network.
        settings: Of the estimate.
    """
    over_weights, over_gradients, over_state = shards(situation)
    master, how_master, frozen = 0, "", 0
    if situation.method != "full":
        item = FULL if situation.precision == "fp32" else HALF
        kept = size.matrices if situation.method == "qlora" else 0
        frozen = round(kept * NF4_BYTES) + (size.params - kept) * item
        # What is not quantised is often cast to fp32 in preparation (norms, embeddings, the head), and under autocast
        # some hold the whole base in fp32.
        wide = FULL if kept or situation.precision.startswith("amp") else item
        frozen_high = round(kept * NF4_BYTES) + (size.params - kept) * wide
        gradient_item = _adapter_item(situation)
        adapters = size.share(over_weights) * gradient_item
        if size.cut is not None:
            frozen, frozen_high = (n * size.cut * over_weights // size.params for n in (frozen, frozen_high))
        weights, weights_high = frozen // over_weights + adapters, frozen_high // over_weights + adapters
        frozen_words = f"{item} B × {show_count(size.params)} frozen"
        if kept:
            rest = show_count(size.params - kept)
            frozen_words = f"0.516 B NF4 × {show_count(kept)} in linear layers + {item} B × {rest} of the rest"
        how = f"{frozen_words} + {gradient_item} B × {show_count(size.adapters)} of adapters{divided(over_weights)}"
    else:
        halved = sharded_master(situation)
        gradient_item = HALF if situation.precision == "bf16" or halved else FULL
        weights = weights_high = size.share(over_weights) * gradient_item
        kind = "half precision" if halved else "bf16" if gradient_item == HALF else "fp32"
        how = f"{gradient_item} B {kind} × {shared(size, over_weights)}"
        if halved:
            master = size.share(over_state) * FULL
            how_master = f"{FULL} B fp32 × {shared(size, over_state)} (ZeRO's accounting)"
    talk, talk_high, how_talk = _communication(situation, size, settings, gradient_item)
    updated = size.filled(over_weights) * gradient_item
    return Parts(
        weights, weights_high, master, size.share(over_gradients) * gradient_item, gradient_item, talk, talk_high,
        frozen + updated, updated, how, f"{gradient_item} B × {shared(size, over_gradients)}", how_master, how_talk,
    )  # fmt: skip


def _communication(situation: Situation, size: Size, settings: Settings, item: int) -> tuple[int, int, str]:
    """Return the bytes of buffers, the most that they may be, and why."""
    if situation.gpus == 1:
        return 0, 0, ""
    if situation.shard == "none":
        whole = size.trained * item
        return whole, whole, f"DDP's buckets: {item} B × {show_count(size.trained)}, beside the gradients"
    bucket = min(settings.bucket_elements, size.trained) * item
    if situation.shard != "zero3":
        return bucket, bucket, f"one bucket of gradients: {item} B × {show_count(bucket // item)}"
    compute = FULL if situation.precision == "fp32" else HALF
    layer = size.params // max(size.layers, 1)
    gathered = min(settings.gathered_layers * layer, size.params) * compute
    own = min(bucket, layer * item)
    # Where the root module is a unit of its own, it is gathered in all passes, its gradients whole until the last.
    root = size.outside * (compute + (0 if size.adapters else item))
    words = f"{settings.gathered_layers} gathered layers: {compute} B × {show_count(gathered // compute)}"
    words += f", and one layer's gradients: {item} B × {show_count(own // item)}"
    if root:
        words += f"; {show_bytes(root)} more where all outside the layers is one unit"
    return gathered + own, gathered + own + root, words


def divided(split: int) -> str:
    """Return a division by GPUs in words."""
    return f" / {split} GPUs" if split > 1 else ""


def shared(size: Size, over: int) -> str:
    """Return the trained parameters over GPUs in words; where tensors do not divide evenly, the fullest GPU's share.

    Args:
        size: The network.
        over: The number of GPUs.
    """
    share = size.share(over)
    if share * over > 1.01 * size.trained:
        return f"{show_count(share)}, the fullest of {over} GPUs (evenly {show_count(size.trained // over)})"
    return f"{show_count(size.trained)}{divided(over)}"


class Optimizing(Struct, frozen=True):
    """What an optimizer adds on one GPU."""

    state: int  # bytes of state, wherever it lies
    state_high: int
    scratch: int  # bytes that its step needs while it runs
    scratch_high: int
    paged: bool  # the state may leave the GPU
    how_state: str
    how_scratch: str


def estimate(situation: Situation, size: Size, adds: Optimizing, settings: Settings) -> MemoryEstimate:
    """Return the ledger of one GPU.

    Args:
        situation: The run; `micro_batch` samples in a pass.
        size: Its network.
        adds: What its optimizer adds.
        settings: Of the estimate.

    Returns:
        The estimate. Where the shape is not known, activations and the total are None and `known` is what is.
    """
    has = parts(situation, size, settings)
    if size.step is None:
        return _without_shape(situation, has, adds)
    moment = _highest(situation, size, size.step, has, adds)
    factors = settings.known if size.basis == "exact" else settings.typical
    lines = [_line(part, whole, at_peak, how, _spread(part, situation, factors, settings) if varies else None, high)
             for part, whole, at_peak, how, varies, high in _rows(situation, size.step, has, adds, moment)]  # fmt: skip
    total, lines = fitting(lines, settings)
    state = 0 if situation.offload else adds.state
    master = 0 if situation.offload else has.master
    pages = state if adds.paged else 0
    kept = [
        _line(part, whole, whole, "", _spread(part, situation, factors, settings), None)
        for part, whole in (("activations", size.step.activations), ("logits and loss", size.step.logits))
    ]
    figures = intervals(lines, kept, has.gradients)
    return MemoryEstimate(
        weights=has.weights + master, gradients=has.gradients, optimizer=state,
        activations=figures["activations"].expected, overhead=figures["overhead"].expected, total=total.expected,
        known=has.weights + master + has.gradients + state, available=situation.vram_bytes,
        fits=fits(total, pages, situation.vram_bytes), ledger=tuple(lines), interval=total,
        allocated=total.expected - settings.context.expected - (lines[-2].at_peak or 0) - pages,
        reserved=total.expected - settings.context.expected - pages, peak=moment.name, basis=size.basis, pages=pages,
        intervals={**figures, "total": total},
    )  # fmt: skip


def intervals(lines: Sequence[MemoryLine], kept: Sequence[MemoryLine], gradients: int) -> dict[str, Interval]:
    """Return the intervals of an estimate's figures but the total.

    Args:
        lines: Of the ledger.
        kept: What is kept for backward, whole.
        gradients: Bytes of all.
    """

    def over(found: Iterable[MemoryLine]) -> Interval:
        spans = [line.interval for line in found if line.interval is not None]
        return _sum_intervals(spans)

    named = ("weights", "master copy", "gradients", "optimizer state", "activations", "logits and loss")
    return {
        "weights": over(line for line in lines if line.part in named[:2]),
        "gradients": Interval(gradients, gradients, gradients),
        "optimizer": over(line for line in lines if line.part == named[3]),
        "activations": over(kept),
        "overhead": over(line for line in lines if line.part not in named),
    }


def _sum_intervals(intervals: Sequence[Interval]) -> Interval:
    return Interval(
        low=sum(interval.low for interval in intervals),
        expected=sum(interval.expected for interval in intervals),
        high=sum(interval.high for interval in intervals),
    )


def _spread(part: str, situation: Situation, factors: tuple[float, float], settings: Settings) -> tuple[float, float]:
    """Return the factors of one line's interval: wider above where implementations are known to keep more."""
    if part == "logits and loss":
        return factors[0], max(factors[1], settings.logits)
    if part == "activations" and situation.method != "full":
        return factors[0], max(factors[1], settings.adapters)
    return factors


def fitting(lines: list[MemoryLine], settings: Settings) -> tuple[Interval, list[MemoryLine]]:
    """Return the total of a ledger's tensors, and its lines with what a GPU loses beside them.

    Args:
        lines: Of tensors.
        settings: Of the estimate.
    """
    spans = [line.interval for line in lines if line.interval is not None]
    tensors = _sum_intervals(spans)
    share = settings.fragmentation
    low, expected, high = astuple(tensors)
    loss = Interval(round(low * share[0]), round(expected * share[1]), round(high * share[2]))
    total = _sum_intervals([tensors, loss, settings.context])
    words = f"{share[1]:.0%} of the above; {share[0]:.0%} to {share[2]:.0%}"
    context = settings.context
    return total, [
        *lines,
        MemoryLine("fragmentation", loss.expected, words, loss.expected, loss),
        MemoryLine("device context", context.expected, "libraries, as people report it", context.expected, context),
    ]


def total(situation: Situation, size: Size, adds: Optimizing, settings: Settings) -> int | None:
    """Return the total that `estimate` would expect, without the ledger; None where the shape is not known."""
    if size.step is None:
        return None
    has = parts(situation, size, settings)
    at = _highest(situation, size, size.step, has, adds)
    always = has.weights + has.communication + size.step.batch
    always += 0 if situation.offload else has.master + adds.state
    tensors = always + at.gradients + at.activations + at.logits + at.copies + at.temporaries
    return tensors + round(tensors * settings.fragmentation[1]) + settings.context.expected


_STEP = "the optimizer's step"


class _Highest(Struct, frozen=True):
    """What is alive at the highest moment, beside what is always there."""

    name: str
    gradients: int
    activations: int
    logits: int
    copies: int
    temporaries: int


def _highest(situation: Situation, size: Size, step: StepMemory, has: Parts, adds: Optimizing) -> _Highest:
    moment = step.peak
    arriving, passing = moment.gradients, moment.total
    if not situation.gradient_release and has.gradients + adds.scratch > passing:
        return _Highest(_STEP, has.gradients, 0, 0, 0, adds.scratch)
    if step.head:
        kept = min(moment.activations, step.activations)
        logits = moment.activations - kept + moment.working
        return _Highest("the loss and its gradient", arriving, kept, logits, moment.copies, 0)
    return _Highest(f"the {step.phase} pass", arriving, moment.activations, 0, moment.copies, moment.working)


# Part, bytes in all, bytes at the highest moment, the arithmetic, whether the interval of activations applies, and the
# high end where it is another.
_Row: TypeAlias = "tuple[str, int, int, str, bool, int | None]"


def _rows(situation: Situation, step: StepMemory, has: Parts, adds: Optimizing, at: _Highest) -> Iterator[_Row]:
    yield "weights", has.weights, has.weights, has.how_weights, False, has.weights_high
    if has.master and not situation.offload:
        yield "master copy", has.master, has.master, has.how_master, False, None
    elif step.copies:
        how = "2 B of each matrix, which autocast keeps from its first use to the end of backward"
        yield "half copies", step.copies, at.copies, how, False, None
    stays = "they stay between passes" if accumulates(situation) else "they come as activations go"
    if situation.gradient_release:
        stays = "each is stepped and let go as it comes"
    yield "gradients", has.gradients, at.gradients, f"{has.how_gradients}; {stays}", False, None
    state, high = (0, 0) if situation.offload else (adds.state, adds.state_high)
    yield "optimizer state", state, state, adds.how_state, False, high
    yield "activations", step.activations, at.activations, _activation_words(situation), True, None
    if step.logits:
        yield "logits and loss", step.logits, at.logits, "what the head keeps, and the loss's gradients", True, None
    if at.name == _STEP:
        how = f"of the step: {adds.how_scratch}"
        more = adds.scratch_high if adds.scratch_high > at.temporaries else None
        yield "temporaries", at.temporaries, at.temporaries, how, True, more
    else:
        # Where the step needs more than is there at the highest moment, the high end is the step's.
        passing = at.gradients + at.activations + at.logits + at.copies + at.temporaries
        more = 0 if situation.gradient_release else has.gradients + adds.scratch_high - passing
        how = "gradients of activations, and the running operation's"
        how += f"; the step's: {adds.how_scratch}" if more > 0 else ""
        yield "temporaries", at.temporaries, at.temporaries, how, True, at.temporaries + more if more > 0 else None
    if has.communication:
        high = has.communication_high
        yield "communication", has.communication, has.communication, has.how_communication, False, high
    yield "input", step.batch, step.batch, "one batch", False, None


def _line(part: str, whole: int, at_peak: int, how: str, factors: tuple[float, float] | None,
          high: int | None) -> MemoryLine:  # fmt: skip
    low_factor, high_factor = factors or (1.0, 1.0)
    most = round(at_peak * high_factor) if high is None else high
    return MemoryLine(part, whole, how, at_peak, Interval(round(at_peak * low_factor), at_peak, most))


def _activation_words(situation: Situation) -> str:
    samples = situation.micro_batch or 1
    length = situation.seq_len or situation.image_size
    of = f"{samples} × {length} tokens" if situation.seq_len else f"{samples} images of {length} pixels a side"
    words = {
        "none": f"what each operation keeps for its backward, over {of}",
        "selective": f"each layer's input and matrix products over {of}, the rest recomputed",
        "full": f"each layer's input over {of}, the rest recomputed",
    }
    return words[situation.checkpointing]


def fits(total: Interval, paged: int, available: int | None) -> bool | None:
    """Return whether a total fits for certain, True or False; None within the interval, and where nothing limits it.

    Args:
        total: Of one GPU.
        paged: Bytes of it that may leave the GPU.
        available: Of the GPU.
    """
    if available is None:
        return None
    if total.high - paged <= available:
        return True
    return False if total.low - paged > available else None


def _without_shape(situation: Situation, has: Parts, adds: Optimizing) -> MemoryEstimate:
    state = 0 if situation.offload else adds.state
    master = 0 if situation.offload else has.master
    weights = has.weights + master
    known = weights + has.gradients + state
    must = known - (state if adds.paged else 0)
    no = situation.vram_bytes is not None and must > situation.vram_bytes
    ledger = (
        _line("weights", has.weights, has.weights, has.how_weights, None, has.weights_high),
        *((_line("master copy", master, master, has.how_master, None, None),) if master else ()),
        _line("gradients", has.gradients, has.gradients, has.how_gradients, None, None),
        _line("optimizer state", state, state, adds.how_state, None, None),
        MemoryLine("activations", None, "not known without the network's shape"),
    )
    return MemoryEstimate(
        weights=weights, gradients=has.gradients, optimizer=state, activations=None, overhead=None, total=None,
        known=known, available=situation.vram_bytes, fits=False if no else None, ledger=ledger,
        pages=state if adds.paged else 0,
    )  # fmt: skip
