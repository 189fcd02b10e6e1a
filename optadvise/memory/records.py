"""Records of the memory estimate: how operations are computed, weights, bytes at one moment, one training step."""

from __future__ import annotations

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

    @property
    def total(self) -> int:
        """Return the sum of all kinds."""
        return self.activations + self.weight_copies + self.working + self.weight_gradients

    def scale(self, factor: float) -> float:
        """Return the sum if the uncertain kinds, activations and working, are multiplied by a factor."""
        return self.weight_copies + self.weight_gradients + factor * (self.activations + self.working)


class MicroBatch(Struct, frozen=True):
    """The input of one forward pass."""

    samples: int
    length: int  # tokens of a sample, or pixels of an image's side


class StepMemory(Struct, frozen=True):
    """Bytes of one forward and backward pass, without weights and optimizer state."""

    peak: LiveMemory
    peak_phase: str  # forward or backward
    peak_in_head: bool  # the peak is in the head: logits and loss
    activations: int  # saved for backward, without the head
    logits: int  # saved by the head
    weight_copies: int  # autocast cache at the end of the forward pass
    weight_gradients: int  # of all weights
    input_bytes: int
    floor: LiveMemory = LiveMemory()  # the moment with the most bytes if activations have the low end of their interval
    end: LiveMemory = LiveMemory()  # the last moment of the backward pass, with all gradients
