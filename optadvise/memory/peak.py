"""Peak of a training step: its moment and its bytes."""

from __future__ import annotations

from msgspec import Struct

from optadvise.core.units import GIB
from optadvise.memory.inputs import MemoryInputs
from optadvise.memory.model_memory import ModelMemory
from optadvise.memory.optimizer_memory import OptimizerMemory
from optadvise.memory.records import StepMemory
from optadvise.rulebase.memory_rules import MemorySettings

OPTIMIZER_STEP = "the optimizer step"


class PeakMoment(Struct, frozen=True):
    """Bytes at the peak, without weights and optimizer state."""

    name: str
    gradients: int
    activations: int
    logits: int
    weight_copies: int
    temporaries: int

    @property
    def total(self) -> int:
        """Return the sum of all kinds."""
        return self.gradients + self.activations + self.logits + self.weight_copies + self.temporaries


def find_peak(inputs: MemoryInputs, step: StepMemory, model: ModelMemory, optimizer: OptimizerMemory) -> PeakMoment:
    """Return the expected peak: the optimizer step, the loss, or a moment of the forward or backward pass."""
    if not inputs.gradient_release and model.gradients + optimizer.scratch.bytes > step.peak.live.total:
        return PeakMoment(
            name=OPTIMIZER_STEP,
            gradients=model.gradients,
            activations=0,
            logits=0,
            weight_copies=0,
            temporaries=optimizer.scratch.bytes,
        )
    live = step.peak.live
    return PeakMoment(
        name=step.peak.name,
        gradients=live.weight_gradients,
        activations=live.activations,
        logits=live.logits,
        weight_copies=live.weight_copies,
        temporaries=live.working,
    )


def compute_expected_total(
    inputs: MemoryInputs,
    step: StepMemory,
    model: ModelMemory,
    optimizer: OptimizerMemory,
    others: int,
    settings: MemorySettings,
) -> int:
    """Return the expected bytes of one GPU at the peak.

    Args:
        inputs: The run.
        step: Memory of the forward and backward pass.
        model: Memory of the trained network.
        optimizer: Memory of the optimizer.
        others: Bytes of other networks.
        settings: Overhead.
    """
    tensors = model.weights + others + model.buffers.bytes + step.input_bytes
    tensors += 0 if inputs.offload else model.master + optimizer.state
    tensors += find_peak(inputs, step, model, optimizer).total
    managed = 0 if inputs.offload else optimizer.paged
    return (
        tensors + round((tensors - managed) * settings.fragmentation.expected) + round(settings.context.expected * GIB)
    )
