"""What the memory arithmetic passes around."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

FULL, HALF = 4, 2  # bytes of an item
LEARNING_INPUTS = "learning_inputs"  # the flag with which the tokens' embeddings get a gradient, though frozen
Shape: TypeAlias = "tuple[int, ...]"


class Mode(Struct, frozen=True):
    """How the operations are computed."""

    weights: int = FULL  # bytes of a trained or frozen weight's item
    compute: int = FULL  # bytes of an item that matrix products take and give
    autocast: bool = False
    frozen: bool = False  # the network's own weights get no gradients
    quantised: bool = False  # its linear layers are held in 4 bits and unpacked for each use
    rank: int = 0  # of adapters
    targets: frozenset[str] | None = None  # which linear layers get them; None is every one
    adapters: int = FULL  # bytes of an adapter's item
    flags: frozenset[str] = frozenset()  # switches that a program's operations may depend on


class Weight(Struct, frozen=True):
    """A weight tensor."""

    shape: Shape
    kind: str  # matrix, head (the last linear layer), embedding, vector, adapter


class Moment(Struct, frozen=True):
    """Bytes that are alive at one moment beyond weights and optimizer state."""

    activations: int = 0
    copies: int = 0  # half-precision copies of weights under autocast
    working: int = 0  # gradients of activations, and what an operation needs while it runs
    gradients: int = 0  # of weights

    @property
    def total(self) -> int:
        """All of them."""
        return self.activations + self.copies + self.working + self.gradients

    def plus(self, activations: int = 0, copies: int = 0, working: int = 0, gradients: int = 0) -> Moment:
        """Return the moment with more alive."""
        return Moment(
            self.activations + activations, self.copies + copies, self.working + working, self.gradients + gradients
        )


class Batch(Struct, frozen=True):
    """One forward pass's input."""

    samples: int
    length: int  # tokens of a sample, or pixels of an image's side


class StepMemory(Struct, frozen=True):
    """What one forward and backward pass holds beyond weights and optimizer state."""

    peak: Moment  # the highest moment
    phase: str  # in which pass it lies: forward or backward
    head: bool  # in the head: logits and loss
    activations: int  # kept at the end of the forward pass, without the head
    logits: int  # kept by the head
    copies: int  # half-precision weights at that time
    gradients: int  # of all weights
    batch: int  # bytes of the input
