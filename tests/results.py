"""Synthetic results of `optadvise bench` for tests."""

from __future__ import annotations

import copy
import functools
import json
import random
from pathlib import Path
from typing import Any

import jsonschema

from optadvise.benchmark.comparison.ratios import compare
from optadvise.benchmark.measurement import ArmCounts, ArmMeasurement, ArmSummary, WorkerEnvironment
from optadvise.benchmark.records import BenchmarkResult, Machine, PeakMemory
from optadvise.benchmark.requirements import parse_requirement
from optadvise.benchmark.results import make_result
from optadvise.benchmark.saved_results import decode_result
from optadvise.benchmark.spec import Arm, Role, Spec
from optadvise.core.json_text import encode_json
from tests.conftest import ROOT

SCHEMAS = {
    name: json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("bench", "comparison")
}
MACHINE = Machine(optadvise="0.1.0", python="3.11.7", platform="Linux", processor="A CPU", cores=2, load=0.1)


def make_measurement(
    label: str, role: Role, steps: list[list[float]], *, state: int = 800, process: int = 2**28
) -> ArmMeasurement:
    """Return the measurement of an arm whose optimizer takes a quarter of each step."""
    optimizer = label.split()[0]
    arm = Arm(optimizer, label, role, f"torch.optim.{optimizer}", "torch", "fused", {"lr": 1e-3}, "weight_decay")
    rounds = [{"step": step, "optimizer": [s / 4 for s in step]} for step in steps]
    counts = ArmCounts(
        parameters=100, parameter_bytes=400, gradient_bytes=400, state_bytes=state, tensors=3,
        state_bytes_per_parameter=state / 100, samples_per_step=8, unit="samples/s", bytes_per_step=3000,
        first_step_seconds=1.0,
        environment=WorkerEnvironment(device="cpu", threads=1, packages={"torch": "2.13.0"}),
    )  # fmt: skip
    summary = ArmSummary(
        peak_memory_bytes=PeakMemory(process=process), device_bandwidth=1e10, losses=[2.0, 1.0], finite=True
    )
    return ArmMeasurement(arm=arm, rounds=rounds, counts=counts, summary=summary)


def make_rounds(seconds: float, *, noise: float = 0.001, count: int = 7, seed: int = 0) -> list[list[float]]:
    rng = random.Random(seed)
    return [[seconds * (1 + rng.uniform(-noise, noise)) for _ in range(4)] for _ in range(count)]


def result(candidate: float = 2.0, **conditions: Any) -> dict[str, Any]:
    """Return the JSON of a result, for changes by a test; see `_make_result`."""
    return copy.deepcopy(_make_result(candidate, **conditions))


@functools.cache  # the bootstrap takes time
def _make_result(
    candidate: float = 2.0,
    *,
    drift: float = 1.0,
    noise: float = 0.001,
    seed: int = 0,
    state: int = 800,
    control: bool = True,
    complete: bool = True,
    **spec: Any,
) -> dict[str, Any]:
    """Return a run of `lion` with steps of `candidate` seconds and a control with steps of 1 s, both times `drift`."""
    records = [
        make_measurement("lion", "candidate", make_rounds(candidate * drift, noise=noise, seed=seed), state=state)
    ]
    if control:
        records.append(make_measurement("adamw (control)", "control", make_rounds(drift, noise=noise, seed=seed + 1)))
    record = make_result(Spec(**spec), records, machine=MACHINE, complete=complete)
    data: dict[str, Any] = json.loads(encode_json(record))
    jsonschema.validate(data, SCHEMAS["bench"])
    return data


def loaded(data: dict[str, Any]) -> BenchmarkResult:
    """Return the record of a result's JSON."""
    return decode_result(json.dumps(data).encode(), "result.json")


def compared(base: dict[str, Any], new: dict[str, Any], *requirements: str, force: bool = False) -> dict[str, Any]:
    """Return the JSON of a comparison."""
    comparison = compare(loaded(base), loaded(new), [parse_requirement(text) for text in requirements], force=force)
    data: dict[str, Any] = json.loads(encode_json(comparison))
    jsonschema.validate(data, SCHEMAS["comparison"])
    return data


def ratio(comparison: dict[str, Any], metric: str, *, relative: bool, label: str = "lion") -> dict[str, Any]:
    entries = [r for r in comparison["ratios"] if (r["label"], r["metric"]) == (label, metric)]
    entry: dict[str, Any] = next(r for r in entries if r["relative_to_control"] is relative)
    return entry


def saved(folder: Path, name: str, data: Any) -> str:
    """Write JSON or text to a file and return its path."""
    file = folder / name
    file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return str(file)
