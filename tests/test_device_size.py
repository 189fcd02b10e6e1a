"""Size of the model that `bench` trains by default on a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import request
from optadvise.benchmark.device_size import choose_params
from optadvise.benchmark.options import BenchOptions
from optadvise.benchmark.request import prepare_request
from optadvise.diagnostics.records import TorchDevice
from optadvise.rulebase.catalog import Catalog

GIB = 2**30


def choose(catalog: Catalog, name: str, memory_gib: float, free_gib: float | None = None, arms: int = 2) -> int:
    free = None if free_gib is None else int(free_gib * GIB)
    device = TorchDevice(device="cuda:0", kind="cuda", name=name, memory_bytes=int(memory_gib * GIB), free_bytes=free)
    return choose_params(catalog, device, arms)


@pytest.mark.parametrize(
    ("name", "memory_gib", "params"),
    [
        ("NVIDIA H200", 140, 860_000_000),  # 4.8 TB/s
        ("NVIDIA GeForce RTX 4090", 24, 180_000_000),  # 1.008 TB/s
        ("Tesla T4", 15, 57_000_000),  # 320 GB/s
        ("a GPU that is not listed", 80, 180_000_000),
    ],
)
def test_adamw_takes_five_milliseconds(catalog: Catalog, name: str, memory_gib: float, params: int) -> None:
    assert choose(catalog, name, memory_gib) == params


def test_optimizers_fit_together_into_the_free_memory(catalog: Catalog) -> None:
    assert choose(catalog, "NVIDIA H200", 140, free_gib=10) == int(float(f"{0.8 * 10 * GIB / 20 / 2:.1e}"))
    assert choose(catalog, "NVIDIA H200", 140, free_gib=10, arms=4) < choose(catalog, "NVIDIA H200", 140, free_gib=10)
    assert choose(catalog, "NVIDIA H200", 140, free_gib=0) == 10**7


def test_size_is_chosen_only_on_a_gpu_and_if_none_is_requested(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = TorchDevice(device="cuda:0", kind="cuda", name="Tesla T4", memory_bytes=15 * GIB)
    monkeypatch.setattr(request, "resolve_device", lambda *_, **__: "cuda")
    monkeypatch.setattr(request, "describe_device", lambda _: device)

    def find_params(**options: Any) -> int | None:
        return prepare_request(rules, ["lion"], BenchOptions(**options)).spec.params

    assert find_params() == 57_000_000
    assert find_params(params="3M") == 3_000_000
    assert find_params(model_size="small") is None
    assert find_params(workload="mine:task") is None
    monkeypatch.setattr(request, "describe_device", lambda _: None)
    assert find_params() is None
