"""Records of the memory estimate: how operations are computed, weights, bytes at one moment, one training step."""

from __future__ import annotations

from collections.abc import Iterable
from operator import ge
from typing import TypeAlias

from msgspec import Struct

FULL, HALF = 4, 2  # bytes of an element
LEARNING_INPUTS = "learning_inputs"  # flag: frozen token embeddings get a gradient
SELECTIVE = "selective"  # flag: checkpointed blocks save the outputs of matrix products
Shape: TypeAlias = "tuple[int, ...]"


class ComputeMode(Struct, frozen=True):
    """Precision, adapters and flags with which a network's operations are computed."""

    weight_itemsize: int = FULL  # bytes of an element of weights, except adapters
    compute_itemsize: int = FULL  # bytes of an element that matrix products read and write
    autocast: bool = False
    frozen: bool = False  # weights except adapters get no gradients
    quantized: bool = False  # linear layers have 4-bit weights, dequantized at each use
    lora_rank: int = 0
    lora_targets: frozenset[str] | None = None  # linear layers with adapters; None: all
    adapter_itemsize: int = FULL  # bytes of an element of an adapter
    flags: frozenset[str] = frozenset()  # flags of the conditions in block programs

    @property
    def caches_copies(self) -> bool:
        """Return whether autocast caches half-precision copies of weights."""
        return self.autocast and self.weight_itemsize != self.compute_itemsize

    def get_product_itemsize(self, itemsize: int) -> int:
        """Return the bytes per element of a matrix product whose input has `itemsize` bytes per element."""
        return self.compute_itemsize if self.autocast else itemsize


class Weight(Struct, frozen=True):
    """A weight tensor."""

    shape: Shape
    kind: str  # matrix, head (the last linear layer), embedding, vector or adapter


class LiveMemory(Struct, frozen=True):
    """Bytes that are live at one moment, without weights and optimizer state."""

    activations: int = 0
    weight_copies: int = 0  # autocast cache
    working: int = 0  # gradients of activations, and workspace of the running operation
    weight_gradients: int = 0
    logits: int = 0  # in the head: logits with their gradients, and its workspace

    @property
    def total(self) -> int:
        """Return the sum of all kinds."""
        return self.activations + self.weight_copies + self.working + self.weight_gradients + self.logits

    def scale(self, factors: UncertaintyFactors) -> float:
        """Return the sum if the uncertain kinds are multiplied by factors."""
        certain = self.weight_copies + self.weight_gradients
        scaled = factors.activations * self.activations + factors.logits * self.logits + factors.working * self.working
        return certain + scaled

    def covers(self, other: LiveMemory) -> bool:
        """Return whether each kind has at least as many bytes as at another moment."""
        return all(map(ge, self.by_kind, other.by_kind))

    @property
    def by_kind(self) -> tuple[int, ...]:
        """Return the bytes of each kind."""
        return self.activations, self.weight_copies, self.working, self.weight_gradients, self.logits


class UncertaintyFactors(Struct, frozen=True):
    """Factors that turn the expected bytes of the uncertain kinds into one end of their interval."""

    activations: float
    logits: float
    working: float


class Moment(Struct, frozen=True):
    """A moment of a training step that can be its peak."""

    live: LiveMemory
    name: str  # as in answers


def keep_largest(moments: Iterable[LiveMemory]) -> list[LiveMemory]:
    """Return the moments that can be the largest whatever the kinds are multiplied by: no other covers them."""
    kept: list[LiveMemory] = []
    for live in moments:
        if not any(other.covers(live) for other in kept):
            kept = [other for other in kept if not live.covers(other)]
            kept.append(live)
    return kept


class MicroBatch(Struct, frozen=True):
    """The input of one forward pass."""

    samples: int
    length: int  # tokens of a sample, or pixels of an image's side


class StepMemory(Struct, frozen=True):
    """Bytes of one forward and backward pass, without weights and optimizer state."""

    moments: tuple[Moment, ...]  # those that can be the peak; the expected peak is the first
    activations: int  # saved for backward, without the head
    logits: int  # saved by the head
    weight_copies: int  # autocast cache at the end of the forward pass
    weight_gradients: int  # of all weights
    input_bytes: int

    @property
    def peak(self) -> Moment:
        """Return the expected peak."""
        return self.moments[0]

    def find_peak(self, factors: UncertaintyFactors) -> Moment:
        """Return the moment with the most bytes if the uncertain kinds are multiplied by factors."""
        return max(self.moments, key=lambda moment: moment.live.scale(factors))
