"""Conditions of the GPU in benchmark results, and their comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from msgspec.structs import asdict, replace

from optadvise.benchmark import arm_session, request
from optadvise.benchmark.comparison.comparability import LoadedResult, list_differences, list_warnings
from optadvise.benchmark.distributed import torchrun_entry
from optadvise.benchmark.environment import read_machine
from optadvise.benchmark.gpu_conditions import read_conditions, read_states
from optadvise.benchmark.gpu_records import GpuConditions, GpuProcess, GpuSettings, GpuState
from optadvise.benchmark.measurement import ArmCounts, ArmMeasurement, ArmSummary, RoundSamples
from optadvise.benchmark.records import Environment
from optadvise.benchmark.request import Request
from optadvise.benchmark.saved_results import decode_result, read_result
from optadvise.benchmark.spec import Spec
from optadvise.core.errors import OptadviseWarning
from optadvise.core.json_text import encode_json
from optadvise.render.environment import list_environment
from tests import results
from tests.conftest import ROOT
from tests.nvidia import H100, fake_nvidia_smi
from tests.results import make_measurement, result
from tests.test_gpu_detection import LISTING

STATE = {"clocks.current.sm": "1980", "clocks.current.memory": "2619", "temperature.gpu": "41"}
GPU = {
    **H100, **STATE, "power.limit": "700.00", "ecc.mode.current": "Enabled", "compute_mode": "Default",
    "mig.mode.current": "Disabled",
}  # fmt: skip
OTHER = {"index": "1", **{name: value for name, value in GPU.items() if name != "index"}, "uuid": "GPU-bbbb-2"}
PROCESSES = [
    {"gpu_uuid": "GPU-aaaa-1", "pid": "77", "used_memory": "3072", "process_name": "python, the other"},
    {"gpu_uuid": "GPU-bbbb-2", "pid": "78", "used_memory": "1024", "process_name": "python"},
]
CONDITIONS = GpuConditions(
    uuid="GPU-aaaa-1", driver="570.86.10", compute_capability="9.0", power_limit_watts=700.0, mig=False, ecc=True,
    compute_mode="Default", start=GpuState(sm_clock_mhz=1980.0, memory_clock_mhz=2619.0, temperature_celsius=41.0),
    other_processes=(GpuProcess(pid=77, name="python, the other", memory_bytes=3 * 2**30),),
)  # fmt: skip
SETTINGS = GpuSettings(tf32_matmul=False, tf32_convolution=True)
ENDED = replace(CONDITIONS, other_processes=(), end=CONDITIONS.start)


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uuid", ["GPU-aaaa-1", "aaaa-1"])
def test_conditions_of_a_gpu(uuid: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [OTHER, GPU], processes=PROCESSES)
    assert read_conditions([uuid]) == (CONDITIONS,)
    assert read_states() == {"GPU-aaaa-1": CONDITIONS.start, "GPU-bbbb-2": CONDITIONS.start}
    assert read_conditions(["GPU-cccc"]) == ()


def test_conditions_of_several_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [OTHER, GPU], processes=PROCESSES)
    first, second = read_conditions(["aaaa-1", "cccc", "bbbb-2"])
    assert first == CONDITIONS
    assert (second.uuid, [process.pid for process in second.other_processes or ()]) == ("GPU-bbbb-2", [78])
    machine = read_machine(["aaaa-1", "bbbb-2"])
    assert (machine.gpu, machine.gpus) == (first, (first, second))
    alone = read_machine(["bbbb-2"])
    assert (alone.gpu, alone.gpus) == (second, ())


def test_conditions_of_a_mig_instance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [{**GPU, "mig.mode.current": "Enabled"}], listing=LISTING)
    (conditions,) = read_conditions(["2222"])
    assert (conditions.uuid, conditions.mig) == ("GPU-aaaa-1", True)


def test_unknown_conditions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(
        monkeypatch, tmp_path, [{"index": "0", "uuid": "GPU-aaaa-1", "name": "old", "power.limit": "[N/A]"}]
    )
    assert read_conditions(["aaaa-1"]) == (GpuConditions(uuid="GPU-aaaa-1", other_processes=()),)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert read_conditions(["aaaa-1"]) == ()
    assert read_states() == {}


@pytest.mark.parametrize(
    ("setting", "tf32", "is_new"),
    [
        ("", False, False),
        ("torch.backends.cuda.matmul.allow_tf32 = True", True, False),
        ("torch.backends.fp32_precision = 'tf32'", True, True),
    ],
    ids=["default", "legacy", "new"],
)
@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_settings_of_torch(setting: str, tf32: bool, is_new: bool, variable: str) -> None:
    if is_new and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("requires torch 2.9")
    code = (
        f"import torch; {setting}\nfrom optadvise.core.json_text import encode_json\n"
        "from optadvise.benchmark.gpu_settings import read_gpu_settings; print(encode_json(read_gpu_settings()))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_ALLOC_CONF")}
    environment[variable] = "expandable_segments:True"
    text = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env=environment)
    expected = {"tf32_matmul": tf32, "tf32_convolution": True, "allocator": "expandable_segments:True"}
    assert json.loads(text) == expected


def test_the_version_of_torch_names_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.0+cu130")
    arm = make_measurement("adamw", "candidate", []).arm
    assert arm.package == "torch"
    assert arm_session._read_environment(Spec(), arm).packages == {"torch": "2.9.0+cu130"}


class FakeArm:
    """Arm that measures without a process."""

    def __init__(self, spec: Spec, arm: Any, *, timeout: float) -> None:
        self.arm = arm

    def start(self) -> ArmCounts:
        return ArmCounts()

    def measure_round(self) -> RoundSamples:
        return RoundSamples({"step": [1.0], "optimizer": [0.5]})

    def finish(self, *, measures_bandwidth: bool) -> ArmSummary:
        return ArmSummary()

    def stop(self) -> None:
        """Do nothing."""


def test_a_result_has_the_conditions_before_and_after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [GPU], processes=PROCESSES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(request, "WorkerArm", FakeArm)
    monkeypatch.setattr(request, "find_gpu_uuids", lambda device, processes: ("aaaa-1",))
    ends = []

    def keep(kept: Any) -> None:
        ends.append(kept.environment.gpu.end)
        fake_nvidia_smi(monkeypatch, tmp_path, [{**GPU, "clocks.current.sm": "1410"}])

    arms = (make_measurement("lion", "candidate", []).arm, make_measurement("adamw", "control", []).arm)
    with pytest.warns(OptadviseWarning, match="77"):
        measured = request.measure(Request(Spec(device="cuda", rounds=3), arms, (), 10.0), keep=keep)
    assert measured.environment.gpu is not None
    assert ends[:2] == [None, None]
    assert measured.environment.gpu == replace(
        CONDITIONS, end=GpuState(sm_clock_mhz=1410.0, memory_clock_mhz=2619.0, temperature_celsius=41.0)
    )
    assert decode_result(encode_json(measured).encode(), "file").environment == measured.environment
    rows = dict(list_environment(measured.environment))
    assert (rows["SM clock at start (MHz)"], rows["SM clock at end (MHz)"]) == ("1980", "1410")
    assert "python, the other" in rows["other programs on the GPU"]


def test_labels_of_two_gpus_are_no_field_names() -> None:
    environment = Environment(
        **{**asdict(results.MACHINE), "gpu": ENDED, "gpus": (ENDED, ENDED)}, packages={"torch": "2.9"},
        gpu_settings=SETTINGS,
    )  # fmt: skip
    labels = [label for label, _ in list_environment(environment)]
    assert len(labels) == len(set(labels))
    assert not any("_" in label for label in labels)


def test_torchrun_locks_and_records_the_gpus_of_its_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [GPU, OTHER])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torchrun_entry, "find_gpu_uuids", lambda device, processes: ("aaaa-1", "bbbb-2")[:processes])
    arm = make_measurement("lion", "candidate", [[1.0]])
    spec = Spec(device="cuda", rounds=1, nproc=2)
    monkeypatch.setattr(torchrun_entry, "_prepare", lambda parsed: Request(spec, (arm.arm,), (), 10.0))
    locked = []

    def measure(request: Request) -> ArmMeasurement:
        for file in sorted(tmp_path.glob("optadvise-*.lock")):
            with pytest.raises(Timeout):
                FileLock(file).acquire(blocking=False)
            locked.append(file.stem)
        return arm

    monkeypatch.setattr(torchrun_entry, "_measure", measure)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert torchrun_entry.main(["lion", "--json", str(tmp_path / "out.json")]) == 0
    assert locked == ["optadvise-aaaa-1", "optadvise-bbbb-2"]
    environment = read_result(str(tmp_path / "out.json")).environment
    assert [(gpu.uuid, gpu.end) for gpu in environment.gpus] == [
        ("GPU-aaaa-1", CONDITIONS.start), ("GPU-bbbb-2", CONDITIONS.start)
    ]  # fmt: skip
    assert environment.gpu == environment.gpus[0]


def test_only_the_first_rank_of_a_machine_waits_for_the_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If each rank locked its own GPU, the ranks of two programs could wait for each other forever."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torchrun_entry, "find_gpu_uuids", lambda device, processes: ("aaaa-1", "bbbb-2"))
    arm = make_measurement("lion", "candidate", [[1.0]])
    request_ = Request(Spec(device="cuda", rounds=1, nproc=2), (arm.arm,), (), 10.0)
    monkeypatch.setattr(torchrun_entry, "_prepare", lambda parsed: request_)
    monkeypatch.setattr(torchrun_entry, "_measure", lambda _: arm)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert torchrun_entry.main(["lion", "--json", str(tmp_path / "out.json")]) == 0
    assert list(tmp_path.glob("*.lock")) == []


# -- comparison -------------------------------------------------------------------------------------------------------


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the warnings of a comparison of two environments on a GPU."""
    record = decode_result(encode_json(result()).encode(), "file")
    cuda = replace(record, spec=replace(record.spec, device="cuda"))
    base, new = (
        replace(cuda, environment=Environment(**{**_fields(record.environment), "device_name": "H100", **changes}))
        for changes in (before, after)
    )
    sides = LoadedResult("BASE", "base", base), LoadedResult("NEW", "new", new)
    assert list_differences(*sides) == []
    return list_warnings(*sides)


def _fields(environment: Environment) -> dict[str, Any]:
    return {name: getattr(environment, name) for name in Environment.__struct_fields__}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"driver": "580.1"}, "580.1"),
        ({"power_limit_watts": 350.0}, "350"),
        ({"mig": True}, "MIG"),
        ({"ecc": False}, "ECC"),
        ({"compute_mode": "Exclusive_Process"}, "Exclusive_Process"),
        ({"end": GpuState(sm_clock_mhz=1410.0, memory_clock_mhz=2619.0)}, "1410"),
        ({"end": GpuState(sm_clock_mhz=1980.0, memory_clock_mhz=1593.0)}, "1593"),
        ({"other_processes": CONDITIONS.other_processes}, "3 GiB"),
    ],
)
def test_conditions_that_explain_a_difference(changes: dict[str, Any], word: str) -> None:
    changed = replace(ENDED, **changes)
    (line,) = compare({"gpu": ENDED}, {"gpu": changed})
    assert word in line
    assert compare({"gpu": ENDED, "gpus": (ENDED, ENDED)}, {"gpu": ENDED, "gpus": (ENDED, changed)}) == [line]
    assert len(compare({"gpu": ENDED, "gpus": (ENDED, ENDED)}, {"gpu": changed, "gpus": (changed, changed)})) == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"tf32_matmul": True}, "TF32"), ({"tf32_convolution": False}, "TF32"), ({"allocator": "backend:x"}, "backend:x")],
)
def test_settings_that_explain_a_difference(changes: dict[str, Any], word: str) -> None:
    (line,) = compare({"gpu_settings": SETTINGS}, {"gpu_settings": replace(SETTINGS, **changes)})
    assert word in line


def test_equal_or_unknown_conditions_explain_nothing() -> None:
    slower = replace(ENDED, end=GpuState(sm_clock_mhz=1950.0), uuid="GPU-bbbb-2", driver=None, ecc=None)
    assert compare({"gpu": ENDED, "gpu_settings": SETTINGS}, {"gpu": slower, "gpu_settings": SETTINGS}) == []
    assert compare({"gpu": ENDED, "gpu_settings": SETTINGS}, {}) == []
    assert compare({"gpu": ENDED}, {"gpu": replace(ENDED, end=None)}) == []
