"""Memory of further networks of a task: reference, reward and value networks of preference tuning."""

from __future__ import annotations

from msgspec import Struct

from optadvise.core.units import show_count
from optadvise.memory.inputs import MemoryInputs
from optadvise.memory.model_memory import ModelMemory, explain_division
from optadvise.memory.network_size import NetworkSize
from optadvise.memory.records import FULL, HALF
from optadvise.rulebase.memory_rules import MemorySettings


class OtherNetworks(Struct, frozen=True):
    """Bytes of other networks on one GPU: weights, and the gradients and state of those that are trained."""

    low: int = 0
    bytes: int = 0
    high: int = 0
    explanation: str = ""  # empty without other networks


def estimate_other_networks(
    inputs: MemoryInputs, size: NetworkSize, model: ModelMemory, state: int, settings: MemorySettings
) -> OtherNetworks:
    """Return the memory of the networks that a task holds with the trained network, each of the same size.

    Args:
        inputs: The run.
        size: Size of the trained network.
        model: Memory of the trained network.
        state: Bytes of its optimizer state on one GPU, with the fp32 master copy.
        settings: Networks by task.
    """
    task = settings.tasks.get(inputs.task)
    if task is None:
        return OtherNetworks()
    frozen = task.frozen if inputs.method == "full" else task.frozen_with_adapters
    weights = HALF * size.params // inputs.weight_shards
    trained = model.weights + model.gradients + state
    # Frozen networks are loaded in half precision, or like the trained one.
    itemsize_high = FULL if inputs.method == "full" and inputs.precision != "bf16" else HALF
    division = explain_division(inputs.weight_shards)
    return OtherNetworks(
        low=frozen.low * weights + task.trained.low * trained,
        bytes=frozen.expected * weights + task.trained.expected * trained,
        high=frozen.high * weights * itemsize_high // HALF + task.trained.high * trained,
        explanation=f"{task.explanation}; each frozen one {HALF} bytes × {show_count(size.params)}{division}",
    )
