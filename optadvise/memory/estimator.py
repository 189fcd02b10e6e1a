"""What a situation puts on a GPU: exact where the network's shape is known, placed between known ones where not.

A size alone is placed between the two named shapes around it (`typical` in `rules/memory.yaml`), and what a step keeps
is interpolated; the ledger then widens the interval. Everything is worked out once and remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict, astuple, replace

from optadvise.core.cards import Implementation, Optimizer, StateTensor
from optadvise.core.errors import InputError
from optadvise.core.records import (
    Fit,
    Interval,
    MaxModelSize,
    MemoryEstimate,
    NetworkShape,
    Situation,
    Traffic,
)
from optadvise.core.units import show_bytes, show_count
from optadvise.memory import INPUTS, own_state, shared_state_bytes, state_bytes, state_bytes_per_parameter
from optadvise.memory.breakdown import (
    Optimizing,
    Settings,
    Size,
    accumulates,
    divided,
    estimate,
    mode,
    parts,
    shards,
    shared,
    total,
)
from optadvise.memory.communication import Engine, Talk, traffic
from optadvise.memory.interpolation import mixed, scaled, typical_adapters
from optadvise.memory.records import Batch, Mode, Moment, StepMemory, Weight
from optadvise.memory.sharding import cut, elements, handed_out
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import TypicalNetworks

if TYPE_CHECKING:
    from optadvise.memory.network import Network

_GIB = 2**30
_LARGEST_MODEL = 10**14  # parameters; the search for what fits ends here
_USUAL_BYTES = 16  # of a parameter in training; where a search begins
_LENGTHS = ("seq_len", "image_size")  # what says how long a sample is
_LARGEST_PASS = 2**22  # samples, or tokens


class _Pass(Struct, frozen=True):
    """What decides about one forward and backward pass."""

    mode: Mode
    batch: Batch
    checkpoint: bool
    release: bool
    accumulated: bool
    split: int  # over how many GPUs gradients are


class _Known(Struct, frozen=True):
    """A shape's tensors."""

    network: Network
    tensors: Counter[Weight]
    params: int
    matrices: int
    outside: int  # parameters outside of the blocks that repeat
    usual_length: int  # tokens of a sample, or pixels of an image's side


class Sizing:
    """The arithmetic of memory over a catalogue's networks and optimizers."""

    def __init__(self, catalog: Catalog) -> None:
        """Read the settings; networks are read when one is asked for."""
        self.catalog = catalog
        given = catalog.memory
        context, pieces, factors = given.context, given.fragmentation, given.activations
        self.settings = Settings(
            context=Interval(round(context.low * _GIB), round(context.expected * _GIB), round(context.high * _GIB)),
            fragmentation=(pieces.low, pieces.expected, pieces.high),
            known=(factors.known[0], factors.known[1]),
            typical=(factors.typical[0], factors.typical[1]),
            measured=(factors.measured[0], factors.measured[1]),
            logits=given.more.logits,
            adapters=given.more.adapters,
            bucket_elements=given.bucket_elements,
            gathered_layers=given.gathered_layers,
        )
        self.headroom = given.headroom
        self._engines = {
            shard: Engine(tuple(Talk(**asdict(one)) for one in row.collectives), row.note,
                          row.cite)
            for shard, row in given.traffic.by_shard().items()
        }  # fmt: skip
        self._typical = given.typical
        self._known = lru_cache(maxsize=256)(self._measure)
        self._counts = lru_cache(maxsize=64)(self._counted)
        self._knots = lru_cache(maxsize=4096)(self._remembered)
        self._step = lru_cache(maxsize=8192)(self._walk)
        self._given = lru_cache(maxsize=64)(self._handed_out)
        self._fullest = lru_cache(maxsize=1024)(self._handed_most)
        self._sizes = lru_cache(maxsize=8192)(self._size)
        self._adds = lru_cache(maxsize=8192)(self._adding)
        self._estimates = lru_cache(maxsize=8192)(self._estimated)
        self._demands = lru_cache(maxsize=8192)(self._needed)
        self._bands = lru_cache(maxsize=1024)(self._largest_model)

    # -- the network -----------------------------------------------------------------------------------------------

    def _measure(self, shape: NetworkShape) -> _Known:
        # What walks networks is imported only where one has to be walked.
        from optadvise.memory import architectures
        from optadvise.memory.network import weights

        network = architectures.network(self.catalog, shape)
        tensors = weights(network)
        matrices = Counter({weight: n for weight, n in tensors.items() if weight.kind == "matrix"})
        length = architectures.usual_length(self.catalog, shape)
        outside = elements(weights(network, only=lambda block: not block.checkpointed))
        return _Known(network, tensors, elements(tensors), elements(matrices), outside, length)

    def _walk(self, shape: NetworkShape, how: _Pass) -> StepMemory:
        from optadvise.memory.network import step

        return step(
            self._known(shape).network, how.mode, how.batch, checkpoint=how.checkpoint, release=how.release,
            accumulated=how.accumulated, split=how.split,
        )  # fmt: skip

    def params(self, shape: NetworkShape) -> int:
        """Return how many parameters a shape has."""
        if shape.basis == "named":  # as the data says, which a test holds against the tensors
            return int(self.catalog.shapes[shape.name][1]["parameters"])
        return self._known(shape).params

    def completed(self, situation: Situation) -> Situation:
        """Return the situation with the length of a sample that is usual for its network, where nobody said one.

        Raises:
            InputError: The image that was said is too small for the network.
        """
        if situation.shape is not None and situation.image_size is not None:
            from optadvise.memory.architectures import check_image

            check_image(self._known(situation.shape).network, situation.image_size, "--image-size")
        if situation.shape is not None and situation.seq_len is not None:
            from optadvise.memory.architectures import check_length

            check_length(self.catalog, situation.shape, situation.seq_len, "--seq-len")
        if situation.seq_len is not None or situation.image_size is not None:
            return situation
        if situation.shape is None:
            usual = self._typical_of(situation)
            found: dict[str, Any] = {name: getattr(usual, name) for name in _LENGTHS if usual and getattr(usual, name)}
        else:
            name = "image_size" if self._known(situation.shape).network.images else "seq_len"
            found = {name: self._known(situation.shape).usual_length}
        return situation.derive(**found)

    def changed(self, situation: Situation, changes: Mapping[str, Any]) -> Situation:
        """Return a completed situation after changes; another kind of network has samples of another length."""
        if "model" in changes:
            situation = situation.withdraw(*_LENGTHS)
        after = replace(situation, **changes)
        return after if any(getattr(after, name) for name in _LENGTHS) else self.completed(after)

    def _typical_of(self, situation: Situation) -> TypicalNetworks | None:
        return self._typical.get(situation.model or next(iter(self._typical)))

    def size(self, situation: Situation) -> Size | None:
        """Return a situation's network as far as memory asks for it; None where nothing is known of it."""
        if situation.shape is None and situation.params is None:
            return None
        # What the arithmetic does not read must not keep two equal sizes apart.
        return self._sizes(_bare(situation))

    def _size(self, situation: Situation) -> Size:
        if situation.shape is not None:
            return self._exact(situation.shape, situation)
        typical = self._typical_of(situation)
        params, knots = situation.params or 0, () if typical is None else typical.between
        if not knots:
            rank = situation.lora_rank or 0
            return Size(params, typical_adapters(params, rank) if rank else 0, params, 0, 1, 0, None, None, "none")
        counts = self._counts(tuple(knots))
        above = next((i for i, count in enumerate(counts) if count >= params), len(counts) - 1)
        if above == 0 or params > counts[-1]:
            return scaled(self._knot(knots[above], situation), params)
        return mixed(self._knot(knots[above - 1], situation), self._knot(knots[above], situation), params)

    def _counted(self, knots: tuple[str, ...]) -> list[int]:
        def make() -> list[int]:
            return [int(self.catalog.shapes[name][1]["parameters"]) for name in knots]

        return self.catalog.figures.get(f"parameters of {' '.join(knots)}", make)

    def _knot(self, name: str, situation: Situation) -> Size:
        """Return a named shape's size, its tensors left out; from the figures that are kept, where it is there."""
        return self._knots(name, replace(situation, params=None))

    def _remembered(self, name: str, situation: Situation) -> Size:
        def make() -> list[Any]:
            from optadvise.memory.architectures import named

            size = self._exact(named(self.catalog, name), situation)
            assert size.step is not None
            return [*astuple(size)[:6], list(astuple(size.step.peak)), *astuple(size.step)[1:]]

        kept = self.catalog.figures.get(" ".join(map(str, (name, *astuple(situation)))), make)
        params, adapters, matrices, largest, layers, outside, peak = kept[:7]
        phase, head, body, logits, copies, gradients, batch = kept[7:]
        step = StepMemory(Moment(*peak), phase, head, body, logits, copies, gradients, batch)
        return Size(params, adapters, matrices, largest, layers, outside, None, step, "typical")

    def _exact(self, shape: NetworkShape, situation: Situation) -> Size:
        known = self._known(shape)
        how = mode(situation, known.network.flags)
        length = situation.image_size if known.network.images else situation.seq_len
        batch = Batch(situation.micro_batch or 1, length or known.usual_length)
        full = situation.checkpointing != "none"
        once, split = situation.gradient_release, shards(situation)[1]
        step = self._step(shape, _Pass(how, batch, full, once, accumulates(situation), split))
        trained, adapters = self._trained(shape, how), 0
        if how.rank:
            from optadvise.memory import architectures

            adapters = elements(trained)
            if not trained:
                there = ", ".join(sorted(architectures.targets(self.catalog, shape)))
                remedy = f"its layers are {there}" if there else "use --method full"
                wanted = "" if situation.lora_targets == "all" else f" --lora-targets {situation.lora_targets}"
                said = f"--method {situation.method}{wanted}"
                raise InputError(f"{said}: {shape.name} has no linear layer that could have such adapters; {remedy}")
        layers = sum(block.repeat for block in known.network.blocks if block.checkpointed)
        largest = max((prod(weight.shape) for weight in trained), default=0)
        pieces, whole = None, None
        if shards(situation)[0] > 1:
            pieces, whole = cut(trained, situation.gpus), elements(cut(known.tensors, situation.gpus))
        counts = known.params, adapters, known.matrices, largest, layers, known.outside
        return Size(*counts, trained, step, "exact", pieces, whole)

    def _trained(self, shape: NetworkShape, how: Mode) -> Counter[Weight]:
        known = self._known(shape)
        if not how.rank:
            return known.tensors
        from optadvise.memory.network import weights

        every = weights(known.network, how)
        return Counter({weight: n for weight, n in every.items() if weight.kind == "adapter"})

    # -- the optimizer ---------------------------------------------------------------------------------------------

    def adds(self, optimizer: str, situation: Situation) -> Optimizing:
        """Return what an optimizer adds on one GPU.

        Args:
            optimizer: Its id.
            situation: The run, of which something is known.
        """
        return self._adds(optimizer, _bare(situation))

    def _adding(self, optimizer: str, situation: Situation) -> Optimizing:
        size = self.size(situation)
        assert size is not None
        return self.adding(optimizer, situation, size)

    def adding(self, optimizer: str, situation: Situation, size: Size) -> Optimizing:
        """Return what an optimizer adds to a network on one GPU.

        Args:
            optimizer: Its id.
            situation: The run.
            size: The network.
        """
        card = self.catalog.optimizer(optimizer)
        dtype = "bfloat16" if situation.precision == "bf16" else "float32"
        over = shards(situation)[2]
        tensors = size.tensors if size.pieces is None else size.pieces
        if tensors is None:
            each = _per_parameter(card, dtype)
            state = high = self._split_state(card, size, dtype)
            state, high = state // over, high // over
            how = f"{each:.2f} B × {show_count(size.trained)} trained{divided(over)}"
        else:
            state = sum(n * state_bytes(self._state(card, w), w.shape, dtype) for w, n in tensors.items())
            state += shared_state_bytes(own_state(card))
            high = state
            if card.wide_embeddings:
                wide = self._wide(card)
                high += sum(
                    n * (state_bytes(wide, w.shape, dtype) - state_bytes(own_state(card), w.shape, dtype))
                    for w, n in tensors.items() if w.kind == "embedding"
                )  # fmt: skip
            each, share = state / max(elements(tensors), 1), shared(size, over)
            how = f"{each:.2f} B × {share} trained, tensor by tensor"
            if size.pieces is None:
                state, high = state // over, high // over
            if over > 1 and shards(situation)[1] == 1 and situation.shape is not None:  # the state alone is shared
                whole = self._fullest(optimizer, situation.shape, self._how(situation), over, dtype)
                high = max(high, whole)
                how += f"; {show_bytes(whole)} where whole tensors are handed out (ZeroRedundancyOptimizer)"
        how += ", on the host" if situation.offload else ", which may be paged out to the host" if card.paged else ""
        item = 2 if situation.precision == "bf16" else 4
        scratch, most, how_scratch = _scratch(card.implementations[0], size, item, over)
        return Optimizing(state, high, scratch, most, card.paged, how, how_scratch)

    def _handed_most(self, optimizer: str, shape: NetworkShape, how: Mode, gpus: int, dtype: str) -> int:
        """Return the state of the rank that has most of it under ZeroRedundancyOptimizer, a companion's by its own."""
        card = self.catalog.optimizer(optimizer)
        states = {weight: self._state(card, weight) for weight in self._trained(shape, how)}
        costs = {weight: state_bytes(state, weight.shape, dtype) for weight, state in states.items()}
        own = frozenset(weight.kind for weight, state in states.items() if state == own_state(card))
        others = frozenset(weight.kind for weight in states) - own
        most: Counter[int] = Counter()
        for kinds in (own, others):
            for rank, given in enumerate(self._given(shape, how, gpus, kinds)):
                most[rank] += sum(n * costs[weight] for weight, n in given.items())
        return max(most.values()) + shared_state_bytes(own_state(card))

    def _handed_out(self, shape: NetworkShape, how: Mode, gpus: int, kinds: frozenset[str]) -> list[Counter[Weight]]:
        trained = self._trained(shape, how)
        return handed_out(Counter({weight: n for weight, n in trained.items() if weight.kind in kinds}), gpus)

    def _how(self, situation: Situation) -> Mode:
        assert situation.shape is not None
        return mode(situation, self._known(situation.shape).network.flags)

    def _wide(self, card: Optimizer) -> tuple[StateTensor, ...]:
        """Return the state of the 32-bit optimizer that an 8-bit one descends from."""
        while card.wide_embeddings:
            card = self.catalog.optimizer(card.parents[0])
        return own_state(card)

    def _state(self, card: Optimizer, weight: Weight) -> tuple[StateTensor, ...]:
        """Return the state that one tensor gets: the companion's, where the optimizer takes hidden matrices only."""
        partial = card.companion is not None and card.implementations[0].tensors == "matrix"
        if partial and card.companion is not None and (weight.kind not in ("matrix", "adapter")):
            return own_state(self.catalog.optimizer(card.companion.optimizer))
        return own_state(card)

    def _split_state(self, card: Optimizer, size: Size, dtype: str) -> int:
        own = _per_parameter(card, dtype)
        if card.companion is None or card.implementations[0].tensors != "matrix" or size.adapters:
            return round(own * size.trained)
        other = _per_parameter(self.catalog.optimizer(card.companion.optimizer), dtype)
        return round(own * size.matrices + other * (size.params - size.matrices))

    # -- answers ---------------------------------------------------------------------------------------------------

    def estimate(self, situation: Situation, optimizer: str) -> MemoryEstimate:
        """Return the ledger of a run with an optimizer."""
        return self._estimates(optimizer, replace(_bare(situation), vram_bytes=situation.vram_bytes))

    def _estimated(self, optimizer: str, situation: Situation) -> MemoryEstimate:
        size = self.size(situation)
        assert size is not None, "an estimate needs a size"
        return estimate(situation, size, self.adds(optimizer, situation), self.settings)

    def unlimited(self, situation: Situation, optimizer: str) -> Fit:
        """Return what an optimizer needs where nothing limits it, without a ledger."""
        size, adds = self.size(situation), self.adds(optimizer, situation)
        assert size is not None, "an estimate needs a size"
        has = parts(situation, size, self.settings)
        state, master = (0, 0) if situation.offload else (adds.state, has.master)
        known = has.weights + master + has.gradients + state
        return Fit(optimizer, state, total(situation, size, adds, self.settings), known, None, None, None)

    def traffic(self, situation: Situation) -> Traffic | None:
        """Return what one GPU sends to the others in an optimizer step, None where there is no other."""
        size = self.size(situation)
        assert size is not None, "traffic needs a size"
        return traffic(situation, parts(situation, size, self.settings), self._engines[situation.shard])

    def knows_activations(self, situation: Situation) -> bool:
        """Is it known what a step keeps for its backward pass?"""
        size = self.size(situation)
        return size is not None and size.step is not None

    def demand(self, situation: Situation, optimizer: str) -> int | None:
        """Return the memory at which a run is expected to fit, in the smallest passes unless they are given.

        Where the shape is not known, so much is added that the headroom stays free.
        """
        if situation.micro_batch is None and situation.batch_size is not None:
            # Either the smallest passes, between which gradients stay, or the whole batch at once.
            share = max(situation.batch_size // situation.gpus, 1)
            both = [self.demand(replace(situation, micro_batch=n), optimizer) for n in {1, share}]
            return min((needs for needs in both if needs is not None), default=None)
        return self._demands(optimizer, _bare(situation))

    def _needed(self, optimizer: str, situation: Situation) -> int | None:
        size = self.size(situation)
        if size is None:
            return None
        adds = self.adds(optimizer, situation)
        pages = adds.state if adds.paged and not situation.offload else 0
        found = total(situation, size, adds, self.settings)
        if found is not None:
            return found - pages
        known = self.estimate(situation, optimizer).known or 0
        return -int(-(known - pages) // (1 - self.headroom))

    def fits(self, situation: Situation, optimizer: str) -> bool:
        """Is a run expected to fit?"""
        needs = self.demand(situation, optimizer)
        return needs is None or situation.vram_bytes is None or needs <= situation.vram_bytes

    def band(self, situation: Situation, optimizer: str) -> MaxModelSize | None:
        """Return up to which model size an optimizer fits the memory; for a limit and a model of unknown shape."""
        if situation.vram_bytes is None or situation.shape is not None:
            return None
        usual = self.completed(_bare(situation))
        return self._bands(optimizer, replace(usual, vram_bytes=situation.vram_bytes, params=1, derived=()))

    def _largest_model(self, optimizer: str, situation: Situation) -> MaxModelSize:
        def needs_at(params: int) -> int:
            return self.demand(replace(situation, params=params), optimizer) or 0

        room = situation.vram_bytes or 0
        most = largest(needs_at, room, _LARGEST_MODEL, room // _USUAL_BYTES)
        needs = needs_at(most) if most else None
        return MaxModelSize(optimizer, needs / most if most and needs is not None else 0.0, most)

    def largest_pass(self, situation: Situation, optimizer: str) -> int | None:
        """Return the most samples that fit in one pass; None where that is not known or nothing limits it.

        Gradients stay between passes where a batch takes several, so a batch in one pass may fit where half of it
        does not.
        """
        share = max((situation.batch_size or 1) // situation.gpus, 1)
        at_once = replace(situation, batch_size=None)
        if situation.batch_size is None or self.fits(replace(at_once, micro_batch=share), optimizer):
            return self._largest(situation, lambda n: self.demand(replace(at_once, micro_batch=n), optimizer))
        return self._largest(
            situation, lambda n: self.demand(replace(situation, micro_batch=n), optimizer), max(share - 1, 1)
        )

    def longest(self, situation: Situation, optimizer: str) -> int | None:
        """Return the most tokens of a sample that fit; None where that is not known or nothing limits it."""
        if situation.seq_len is None:
            return None
        limit = _LARGEST_PASS
        if situation.shape is not None:
            from optadvise.memory.architectures import most_tokens

            limit = most_tokens(self.catalog, situation.shape) or limit
        return self._largest(situation, lambda n: self.demand(replace(situation, seq_len=n), optimizer), limit)

    def _largest(
        self, situation: Situation, needs: Callable[[int], int | None], limit: int = _LARGEST_PASS
    ) -> int | None:
        size = self.size(situation)
        if size is None or size.step is None or situation.vram_bytes is None:
            return None
        return largest(lambda n: needs(n) or 0, situation.vram_bytes, limit)

    def placed(self, situation: Situation, optimizer: str) -> Situation:
        """Return the situation with the samples of a pass, where nobody said: as many of a batch as fit.

        A pass takes a whole divisor of each GPU's share; without a batch it takes one sample.
        """
        if situation.micro_batch is not None or situation.params is None:
            return situation
        share = max((situation.batch_size or 1) // situation.gpus, 1)
        whole = situation.derive(micro_batch=share)
        if situation.gradient_release or self.fits(whole, optimizer):
            return whole
        most = largest(
            lambda n: self.demand(replace(whole, micro_batch=n), optimizer) or 0, situation.vram_bytes or 0, share
        )
        return replace(whole, micro_batch=max((n for n in divisors(share) if n <= most), default=1))


def largest(needs: Callable[[int], int], room: int, limit: int, start: int = 1) -> int:
    """Return the largest number up to a limit whose needs are within the room, 0 where none is.

    The needs must grow with the number. They are nearly straight here, so a line through the ends of the bracket finds
    the edge in a few steps; every other step halves the bracket, for where they are not.

    Args:
        needs: What a number needs.
        room: What there is.
        limit: The largest number to look at.
        start: Where to begin.

    Example:
        >>> largest(lambda n: 3 * n + 10, 100, 1000)
        30
    """
    low, low_needs = 0, 0
    high = min(max(start, 1), limit)
    high_needs = needs(high)
    while high_needs <= room:
        if high >= limit:
            return limit
        low, low_needs = high, high_needs
        high = min(high * 2, limit)
        high_needs = needs(high)
    while low == 0 and high > 1:
        below = max(high // 2, 1)
        found = needs(below)
        if found <= room:
            low, low_needs = below, found
        else:
            high, high_needs = below, found
    straight = True
    while high - low > 1:
        guess = low + (room - low_needs) * (high - low) // max(high_needs - low_needs, 1)
        middle = min(max(guess, low + 1), high - 1) if straight else (low + high) // 2
        found = needs(middle)
        if found > room:
            high, high_needs = middle, found
            straight = not straight
        elif high - middle > 1 and straight and needs(middle + 1) > room:
            return middle
        else:
            low, low_needs = middle, found
            straight = not straight
    return low


def divisors(number: int) -> list[int]:
    """Return the whole numbers that divide a number."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return [*small, *(number // n for n in small)]


_KEPT = sorted(INPUTS - {"vram_bytes"})
_REST = {name: value for name, value in asdict(Situation()).items() if name not in _KEPT}


@lru_cache(maxsize=4096)
def _bare(situation: Situation) -> Situation:
    """Return the situation without what the arithmetic does not read, so that equal runs are one."""
    return replace(situation, **_REST)


def _scratch(made: Implementation, size: Size, item: int, over: int) -> tuple[int, int, str]:
    """Return what one step needs while it runs, the most that it may need, and why."""
    if not made.scratch_all:
        largest = (size.largest or size.trained // 100) // over
        if size.pieces is not None:
            largest = max((prod(weight.shape) for weight in size.pieces), default=0)
        needs = round(made.scratch_largest * item * largest)
        words = f"{made.scratch_largest * item:g} B per element of the largest tensor, which is stepped alone"
        if made.compiled:
            return 0, needs, f"none once it is compiled, as on a GPU; else {words}"
        return needs, needs, words
    copies = round(made.scratch_all * item * size.share(over))
    words = f"{made.scratch_all * item:g} B × {show_count(size.share(over))}, all tensors stepped at once (foreach)"
    if made.fused:
        return 0, copies, f"none with fused=True; PyTorch's default takes {words}"
    return copies, copies, words


def _per_parameter(card: Optimizer, dtype: str) -> float:
    return state_bytes_per_parameter(own_state(card), dtype)
