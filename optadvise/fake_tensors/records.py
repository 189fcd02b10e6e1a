"""Records of a training step with fake tensors, and messages between client and worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from optadvise.core.cards import Value

# -- result -----------------------------------------------------------------------------------------------------------


class PeakBytes(Struct, frozen=True):
    """Bytes allocated at the peak of forward and backward pass, by kind."""

    weights: int
    gradients: int
    activations: int  # allocated in the forward pass, in recomputation and by autocast
    temporaries: int  # allocated in the backward pass, except gradients of weights
    other: int  # buffers, the batch and other tensors of the user's code

    @property
    def total(self) -> int:
        """Return all bytes allocated at the peak."""
        return self.weights + self.gradients + self.activations + self.temporaries + self.other


class ParameterShape(Struct, frozen=True):
    """Parameters with the same shape."""

    shape: tuple[int, ...]
    is_trained: bool
    tensors: int  # number of parameters


class StepFigures(Struct, frozen=True, kw_only=True, tag_field="answer", tag="step"):
    """Memory of a forward and a backward pass, without an optimizer."""

    parameters: int
    trainable_parameters: int
    weights_bytes: int  # trained and frozen
    buffers_bytes: int
    batch_bytes: int
    gradients_bytes: int
    peak: PeakBytes
    samples: int | None  # in the batch; None if it holds no tensors
    shapes: tuple[ParameterShape, ...]  # all parameters
    seconds: float  # duration of the trace


class OptimizerFigures(Struct, frozen=True):
    """Bytes of an optimizer, traced with fake tensors on the CPU."""

    state_bytes: int  # optimizer state
    temporary_bytes: int  # additional bytes at the peak of its second step


class OptimizerStep(Struct, frozen=True, tag_field="answer", tag="optimizer"):
    """Traced step of one optimizer."""

    id: str
    figures: OptimizerFigures | None  # None if it does not run with fake tensors
    reason: str | None = None  # why it does not run, in one line


class TracedStep(Struct, frozen=True):
    """Traced training step, with the steps of all optimizers."""

    figures: StepFigures
    optimizers: tuple[OptimizerStep, ...]  # in the order of the request


# -- messages ---------------------------------------------------------------------------------------------------------


class OptimizerRequest(Struct, frozen=True):
    """Optimizer to trace, with its constructor arguments."""

    id: str
    path: str  # import path
    kwargs: Mapping[str, Value]
    package: str | None = None  # for the advice if it is missing; None: first part of the path


class StepRequest(Struct, frozen=True):
    """Module and optimizers to trace."""

    spec: str  # package.module:function
    precision: str  # fp32, bf16, amp-bf16 or amp-fp16
    optimizers: tuple[OptimizerRequest, ...]


class Activity(Struct, frozen=True, tag_field="answer", tag="activity"):
    """Next action of the worker, sent before anything that may hang or crash."""

    text: str


class Failure(Struct, frozen=True, tag_field="answer", tag="failure"):
    """Reason why the step cannot be traced."""

    text: str  # one line
    is_input: bool  # caused by the user's function, not by the machine


Answer: TypeAlias = Activity | StepFigures | OptimizerStep | Failure
