"""Records of a training step under fake tensors, and the messages between its worker and the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from optadvise.core.cards import Value

# -- result -----------------------------------------------------------------------------------------------------------


class PeakBytes(Struct, frozen=True):
    """Bytes alive at the peak of the forward and the backward pass, by what they are for."""

    weights: int
    gradients: int
    activations: int  # from the forward pass, from recomputation for checkpoints, and from autocast
    temporaries: int  # from the backward pass, without gradients of weights
    other: int  # buffers, the batch, and what else the user's code holds

    @property
    def total(self) -> int:
        """Return all bytes alive at the peak."""
        return self.weights + self.gradients + self.activations + self.temporaries + self.other


class ParameterShape(Struct, frozen=True):
    """Parameters that are alike."""

    shape: tuple[int, ...]
    is_trained: bool
    tensors: int  # how many


class StepFigures(Struct, frozen=True, kw_only=True, tag_field="answer", tag="step"):
    """Figures of a forward and a backward pass, without an optimizer."""

    parameters: int
    trainable_parameters: int
    weights_bytes: int  # trained and frozen
    buffers_bytes: int
    batch_bytes: int
    gradients_bytes: int
    peak: PeakBytes
    samples: int | None  # in the batch; None if it holds no tensors
    shapes: tuple[ParameterShape, ...]  # of all parameters
    seconds: float


class OptimizerFigures(Struct, frozen=True):
    """Bytes that an optimizer keeps and allocates; computed with fake tensors on the CPU on every machine."""

    state_bytes: int  # kept between steps
    temporary_bytes: int  # at the peak of its second step


class OptimizerStep(Struct, frozen=True, tag_field="answer", tag="optimizer"):
    """Result of stepping one optimizer."""

    id: str
    figures: OptimizerFigures | None  # None if it could not be stepped
    reason: str | None = None  # why not, in one line


class TracedStep(Struct, frozen=True):
    """One training step under fake tensors, with every optimizer that can be stepped on them."""

    figures: StepFigures
    optimizers: tuple[OptimizerStep, ...]  # in the order of the request


# -- messages ---------------------------------------------------------------------------------------------------------


class OptimizerRequest(Struct, frozen=True):
    """An optimizer to step, with its constructor's arguments."""

    id: str
    path: str  # import path
    kwargs: Mapping[str, Value]
    package: str | None = None  # to install if it is missing; None: the first part of the path


class StepRequest(Struct, frozen=True):
    """The module and the optimizers to step."""

    spec: str  # package.module:function
    precision: str  # fp32, bf16, amp-bf16 or amp-fp16
    optimizers: tuple[OptimizerRequest, ...]


class Activity(Struct, frozen=True, tag_field="answer", tag="activity"):
    """The next thing that the worker does, sent before anything that may hang or crash."""

    text: str


class Failure(Struct, frozen=True, tag_field="answer", tag="failure"):
    """Why the step cannot be taken."""

    text: str  # one line
    is_input: bool  # the user's function is at fault, not the machine


Answer: TypeAlias = Activity | StepFigures | OptimizerStep | Failure
