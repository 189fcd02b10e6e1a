"""Failures of a GPU while `optadvise bench` runs on it, and the report of `optadvise doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import plan, runner
from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.spec import Spec
from optadvise.benchmark.worker_arm import WorkerArm
from optadvise.diagnostics.doctor import examine_machine
from optadvise.diagnostics.probe_client import probe_imports
from optadvise.rulebase.catalog import Catalog
from tests.cli import optadvise
from tests.cuda_stand_in.session import StandIn
from tests.cuda_stand_in.settings import (
    BUSY,
    CUBLAS_ALLOC_FAILED,
    DRIVER,
    GPU_LOST,
    NO_KERNEL_IMAGE,
    OUT_OF_MEMORY,
    Gpu,
)

Start = Callable[..., StandIn]
QUICK = Spec(steps=1, rounds=5, warmup=0, threads=1, batch_size=1, seq_len=16, device="cuda")


MARKS = 5  # of a training step


def measure(rules: CompiledRules, name: str = "sgd-momentum", spec: Spec = QUICK) -> ArmMeasurement:
    (arm,) = plan.plan_arms(rules, [name], spec, control=None, implementation=None)
    worker = WorkerArm(spec, arm, timeout=60)
    (measurement,) = runner.run_arms([worker], spec.rounds, progress=runner.ignore_progress, save=lambda _: None)
    return measurement


def status_of(measurement: ArmMeasurement) -> str:
    return "ok" if measurement.failure is None else measurement.failure.status


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (OUT_OF_MEMORY, "oom"),
        (CUBLAS_ALLOC_FAILED, "oom"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "oom"),
        (NO_KERNEL_IMAGE, "unsupported"),
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`", "unsupported"),
        ("Attempted to use bitsandbytes native library functionality but it's not available.", "unsupported"),
        ("Method 'cget_managed_ptr' not available in CPU-only version of bitsandbytes.", "unsupported"),
        (GPU_LOST, "error"),
    ],
)
def test_status_of_an_error_of_a_kernel(rules: CompiledRules, cuda: Start, message: str, status: str) -> None:
    cuda(Gpu(error=message))
    measurement = measure(rules)
    assert measurement.failure is not None
    assert message in measurement.failure.error
    assert measurement.failure.status == status


def test_no_gpus(rules: CompiledRules, cuda: Start) -> None:
    cuda()
    assert status_of(measure(rules)) == "unsupported"


def test_lost_gpu_keeps_the_rounds_before(rules: CompiledRules, cuda: Start) -> None:
    stand_in = cuda(Gpu())
    assert status_of(measure(rules)) == "ok"
    launches = [call.launches for call in stand_in.list_calls("record")]
    in_second_round = MARKS * (1 + QUICK.warmup + QUICK.steps) + 1
    cuda(Gpu(error=GPU_LOST, error_at=launches[in_second_round]))
    measurement = measure(rules)
    assert status_of(measurement) == "error"
    assert 1 <= len(measurement.rounds) < QUICK.rounds


def test_gpu_that_another_process_uses_exclusively(rules: CompiledRules, cuda: Start) -> None:
    cuda(Gpu(exclusive=True))
    arms = [
        arm
        for name in ("lion", "sgd")
        for arm in plan.plan_arms(rules, [name], QUICK, control=None, implementation=None)
    ]
    workers = [WorkerArm(QUICK, arm, timeout=60) for arm in arms]
    first, second = runner.run_arms(workers, 1, progress=runner.ignore_progress, save=lambda _: None)
    assert (status_of(first), status_of(second)) == ("ok", "error")
    assert second.failure is not None
    assert BUSY in second.failure.error


def test_bandwidth_that_cannot_be_measured_does_not_fail_the_arm(rules: CompiledRules, cuda: Start) -> None:
    cuda(Gpu(error=OUT_OF_MEMORY, error_in="copy_"))
    measurement = measure(rules)
    assert status_of(measurement) == "ok"
    assert measurement.summary.peak_memory_bytes.allocated
    assert measurement.summary.device_bandwidth is None


# -- doctor and probe -------------------------------------------------------------------------------------------------


def test_doctor_lists_the_devices(cuda: Start) -> None:
    cuda(Gpu(name="NVIDIA A100", memory_gib=40), Gpu(name="NVIDIA T4", memory_gib=15, capability=(7, 5)))
    run = optadvise("doctor", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert report["torch"]["built_for"] == "CUDA 12.8"
    assert report["torch"]["why_no_cuda"] is None
    cpu, first, second = report["devices"]
    assert cpu["device"] == "cpu"
    keys = ("device", "name", "memory_bytes", "compute_capability", "driver", "usable", "why_not")
    assert [first[key] for key in keys] == ["cuda:0", "NVIDIA A100", 40 * 2**30, "8.0", DRIVER, True, None]
    assert [second[key] for key in keys] == ["cuda:1", "NVIDIA T4", 15 * 2**30, "7.5", DRIVER, True, None]
    runs = {card["id"]: card["runs"] for card in report["optimizers"]}
    assert runs["adamw"]
    assert not runs["paged-adamw8bit"]  # the installed bitsandbytes has no library for a GPU


def test_probe_reports_gpus_that_torch_cannot_use(cuda: Start) -> None:
    cuda(Gpu(), Gpu(name="old", error=NO_KERNEL_IMAGE), Gpu(name="tiny", memory_gib=0.1))
    usable, old, tiny = probe_imports([]).torch.devices
    assert (usable.device, usable.why_not) == ("cuda:0", None)
    assert (old.device, old.name) == ("cuda:1", "old")
    assert NO_KERNEL_IMAGE in (old.why_not or "")
    assert OUT_OF_MEMORY in (tiny.why_not or "")


def test_doctor_lists_gpus_that_are_hidden_from_torch(
    catalog: Catalog, cuda: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda(Gpu(name="hidden"), Gpu(name="visible"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    _, visible, hidden = examine_machine(catalog).devices
    assert (visible.device, visible.name, visible.usable) == ("cuda:0", "visible", True)
    assert (hidden.device, hidden.name, hidden.usable) == (None, "hidden", False)


def test_machine_without_gpus(cuda: Start) -> None:
    cuda()
    torch = probe_imports([]).torch
    assert torch.devices == ()
    assert torch.why_no_cuda == "RuntimeError: No CUDA GPUs are available"
