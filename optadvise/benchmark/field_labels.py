"""Labels of the fields of results, for pages and comparisons."""

from __future__ import annotations

from collections.abc import Mapping

SPEC: Mapping[str, str] = {
    "batch_size": "batch size", "compile": "torch.compile", "dtype": "precision", "nproc": "processes",
    "optimizer_only": "optimizer step only", "params": "requested parameters", "seq_len": "sequence length",
    "shard": "sharding", "size": "model size", "steps": "steps per round", "user": "workload of the user",
    "warmup": "warmup steps",
}  # fmt: skip
ENVIRONMENT: Mapping[str, str] = {
    "cores": "CPU cores", "device_name": "GPU", "executable": "Python interpreter",
    "load": "load average before the benchmark (1 minute)", "python": "Python", "threads": "CPU threads of torch",
}  # fmt: skip
GPU: Mapping[str, str] = {
    "driver": "NVIDIA driver", "power_limit_watts": "power limit of the GPU (W)", "mig": "MIG partitioning",
    "ecc": "error correction (ECC) of the GPU", "compute_mode": "compute mode of the GPU",
}  # fmt: skip
GPU_STATE: Mapping[str, str] = {
    "sm_clock_mhz": "SM clock (MHz)", "memory_clock_mhz": "memory clock (MHz)",
    "temperature_celsius": "temperature (°C)",
}  # fmt: skip
GPU_SETTINGS: Mapping[str, str] = {
    "tf32_matmul": "TF32 in matrix products", "tf32_convolution": "TF32 in convolutions",
}  # fmt: skip
