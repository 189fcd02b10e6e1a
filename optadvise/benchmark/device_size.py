"""Size of a built-in model at which a measurement shows what an optimizer costs on a GPU."""

from __future__ import annotations

from optadvise.core.errors import InputError
from optadvise.diagnostics.records import TorchDevice
from optadvise.rulebase.catalog import Catalog

_STEP_SECONDS = 5e-3  # of AdamW, compared with which launches are short
_STEP_BYTES = 28  # that a step of AdamW in fp32 moves per parameter: weights and state twice, gradients once
_TRAINING_BYTES = 20  # per parameter: fp32 weights, gradients, AdamW's state, and temporaries
_MEMORY_SHARE = 0.8  # of the free memory, for all optimizers together
_USUAL_BANDWIDTH = 1e12  # bytes per second, of a GPU that is not listed
_SMALLEST = 10**7


def choose_params(catalog: Catalog, device: TorchDevice, arms: int) -> int:
    """Return the number of parameters with which a step of AdamW takes 5 ms, or that fit as often as there are arms.

    Args:
        catalog: GPUs with their bandwidths.
        device: The GPU.
        arms: Optimizers that are measured at the same time.
    """
    free = device.memory_bytes if device.free_bytes is None else device.free_bytes
    return fill_device(_find_bandwidth(catalog, device), free, arms)


def fill_device(bandwidth: float, free_bytes: int | None, arms: int = 1) -> int:
    """Return the number of parameters that fill a GPU, in time and at most in memory.

    Args:
        bandwidth: Bytes per second.
        free_bytes: Free memory of the GPU; None if unknown.
        arms: Optimizers whose training must fit at the same time.

    Example:
        >>> fill_device(1e12, 24 * 2**30)
        180000000
    """
    target = bandwidth * _STEP_SECONDS / _STEP_BYTES
    if free_bytes is not None:
        target = min(target, _MEMORY_SHARE * free_bytes / _TRAINING_BYTES / arms)
    return max(int(float(f"{target:.1e}")), _SMALLEST)


def _find_bandwidth(catalog: Catalog, device: TorchDevice) -> float:
    """Return the bandwidth of a GPU in bytes per second."""
    try:
        gpu = catalog.find_gpu(device.name or "")
    except InputError:
        return _USUAL_BANDWIDTH
    return gpu.bandwidth_gb_s * 1e9
