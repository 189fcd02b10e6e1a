"""Device, size and conditions of `optadvise bench` on the stand-in for CUDA, and two runs at once on one GPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from optadvise.benchmark import device_size
from optadvise.benchmark.device_size import fill_device
from tests.bench import parse_result
from tests.cli import optadvise
from tests.cuda_stand_in.session import StandIn
from tests.cuda_stand_in.settings import CONTEXT_BYTES, DRIVER, NO_KERNEL_IMAGE, Gpu
from tests.test_cuda_stand_in import hold_memory

Start = Callable[..., StandIn]
QUICK = "--threads 1 --rounds 1 --steps 2"
STEP_ONLY = f"--control none --optimizer-only --params 1M {QUICK}"
MIB = 2**20


def bench(line: str) -> tuple[dict[str, Any], str]:
    """Return the result of a benchmark, and what was printed on stderr."""
    run = optadvise("bench", *line.split(), "--json", "-")
    assert run.failure is None, run.err
    return parse_result(run.out), run.err


# -- device -----------------------------------------------------------------------------------------------------------


def test_automatic_device_is_a_gpu_that_torch_can_use(cuda: Start) -> None:
    cuda(Gpu())
    result, _ = bench(f"sgd {STEP_ONLY}")
    assert (result["environment"]["device"], result["arms"][0]["error"]) == ("cuda", None)


def test_automatic_device_is_the_cpu_if_torch_cannot_use_the_gpu(cuda: Start) -> None:
    cuda(Gpu(error=NO_KERNEL_IMAGE))
    result, err = bench(f"sgd {STEP_ONLY}")
    assert (result["environment"]["device"], result["arms"][0]["error"]) == ("cpu", None)
    assert NO_KERNEL_IMAGE in " ".join(err.split())
    run = optadvise("bench", "sgd", "--device", "cuda", *STEP_ONLY.split())
    assert (run.code, run.error) == (4, "missing-device")


def test_recommendation_for_the_smallest_visible_gpu(cuda: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(
        Gpu(name="NVIDIA RTX A400", memory_gib=4), Gpu(name="Tesla T4", memory_gib=15, capability=(7, 5)),
        Gpu(name="NVIDIA L4", memory_gib=22.5, capability=(8, 9)),
    )  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    run = optadvise("recommend", "--model", "transformer", "--vram", "auto", "--json")
    situation = json.loads(run.out)["situation"]
    assert (situation["gpu"], situation["vram_bytes"], situation["bf16"]) == ("Tesla T4", 15 * 2**30, False)


# -- size -------------------------------------------------------------------------------------------------------------


def test_default_size_fills_the_free_memory(cuda: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_size, "_SMALLEST", 10**5)  # of a model that is trained quickly
    free_bytes = 45 * MIB
    probe_bytes = CONTEXT_BYTES + 2 * MIB  # of the process that looks for a device and runs a kernel on it
    cuda(Gpu(memory_gib=(free_bytes + probe_bytes) / 2**30))
    result, _ = bench(f"adamw8bit --device cuda --control none {QUICK} --batch-size 1 --seq-len 16")
    (arm,) = result["arms"]
    assert arm["status"] == "ok", arm["error"]
    assert result["spec"]["params"] == fill_device(1e12, free_bytes, arms=2)  # with a control
    assert arm["parameters"] == pytest.approx(result["spec"]["params"], rel=0.3)


@pytest.mark.parametrize(
    ("seconds_per_launch", "bandwidth", "is_launch_bound"), [(2e-3, 1e12, True), (0.0, 2e7, False)]
)
def test_launch_bound_steps_are_measured(
    cuda: Start, seconds_per_launch: float, bandwidth: float, is_launch_bound: bool
) -> None:
    cuda(Gpu(bandwidth=bandwidth), seconds_per_launch=seconds_per_launch)
    result, _ = bench(f"lion --device cuda {STEP_ONLY}")
    (arm,) = result["arms"]
    assert ((arm["bandwidth"]["bound"] or "").startswith("launch-bound")) is is_launch_bound
    assert arm["overhead_seconds"] > arm["tensors"] * seconds_per_launch


# -- conditions -------------------------------------------------------------------------------------------------------


def test_conditions_of_the_gpu_are_in_the_result(cuda: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    cuda(Gpu(), Gpu())
    environment = bench(f"sgd --device cuda:1 {STEP_ONLY}")[0]["environment"]
    conditions = environment["gpu"]
    assert conditions["uuid"].endswith("1")  # of the second GPU
    keys = ("driver", "compute_capability", "power_limit_watts", "mig", "ecc", "compute_mode", "other_processes")
    assert [conditions[key] for key in keys] == [DRIVER, "8.0", 300, False, True, "Default", []]
    state = {"sm_clock_mhz": 1410, "memory_clock_mhz": 1215, "temperature_celsius": 40}
    assert (conditions["start"], conditions["end"]) == (state, state)
    settings = environment["gpu_settings"]
    assert settings == {"tf32_matmul": False, "tf32_convolution": True, "allocator": "expandable_segments:True"}
    assert environment["packages"]["torch"].endswith("+cu128")


def test_other_programs_on_the_gpu_are_in_the_result(cuda: Start, tmp_path: Path) -> None:
    with hold_memory(cuda(Gpu()), tmp_path, 100 * MIB):
        result, err = bench(f"sgd --device cuda {STEP_ONLY}")
    (process,) = result["environment"]["gpu"]["other_processes"]
    assert (process["name"], process["memory_bytes"]) == ("python", CONTEXT_BYTES + 100 * MIB)
    assert str(process["pid"]) in err
    (arm,) = result["arms"]  # its own memory does not include that of the other program
    assert CONTEXT_BYTES <= arm["peak_memory_bytes"]["process"] < CONTEXT_BYTES + 100 * MIB


def test_a_second_run_waits_until_the_first_has_ended(cuda: Start) -> None:
    stand_in = cuda(Gpu(), seconds_per_launch=1e-3)
    first = stand_in.start_command("bench", "lion", "--device", "cuda", *STEP_ONLY.split(), "--rounds", "15")
    while not stand_in.list_calls("record"):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    _, err = bench(f"sgd --device cuda {STEP_ONLY}")
    first.communicate()
    assert first.returncode == 0
    assert str(first.pid) in err
    pids = [pid for pid, _ in groupby(call.pid for call in stand_in.list_calls("record"))]
    assert len(pids) == len(set(pids)) == 2
