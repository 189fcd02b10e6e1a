"""`--vram auto` with a fake nvidia-smi: names, memory, bf16, visible devices and MIG instances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optadvise.advice import gpu_detection
from optadvise.rulebase.catalog import load_shipped
from tests.cli import optadvise
from tests.nvidia import H100, fake_nvidia_smi, install_program

Gpu = Mapping[str, Any]
MIB = 2**20
T4: Gpu = {
    **H100,
    "index": "1",
    "name": "Tesla T4",
    "uuid": "GPU-bbbb-2",
    "memory.total": "15360",
    "compute_cap": "7.5",
}
L4: Gpu = {
    **H100,
    "index": "2",
    "name": "NVIDIA L4",
    "uuid": "GPU-cccc-3",
    "memory.total": "23034",
    "compute_cap": "8.9",
}
GB10: Gpu = {**H100, "name": "NVIDIA GB10", "memory.total": "[N/A]", "memory.used": "[N/A]", "compute_cap": "12.1"}
MIG: Gpu = {**H100, "mig.mode.current": "Enabled"}
LISTING = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-1)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111)
  MIG 1g.10gb     Device  1: (UUID: MIG-2222)"""
XML = """<nvidia_smi_log><gpu id="00000000:01:00.0"><uuid>GPU-aaaa-1</uuid><mig_devices>
<mig_device><index>0</index><fb_memory_usage><total>40448 MiB</total><used>44 MiB</used></fb_memory_usage></mig_device>
<mig_device><index>1</index><fb_memory_usage><total>9984 MiB</total><used>5 MiB</used></fb_memory_usage></mig_device>
</mig_devices></gpu></nvidia_smi_log>"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def detect() -> tuple[dict[str, Any], str]:
    """Return the situation of an answer with `--vram auto`, and what was printed on stderr."""
    result = optadvise("recommend", "--model", "transformer", "--vram", "auto", "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)["situation"], result.err


def fail() -> None:
    result = optadvise("recommend", "--vram", "auto")
    assert (result.code, result.error, len(result.err.splitlines())) == (4, "missing-device", 1)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail()
    install_program(monkeypatch, tmp_path, "rocm-smi", "true")
    assert "rocm-smi" in optadvise("recommend", "--vram", "auto").err
    fake_nvidia_smi(monkeypatch, tmp_path)
    fail()
    fake_nvidia_smi(monkeypatch, tmp_path, error="NVIDIA-SMI has failed")
    fail()


def test_the_smallest_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H100, L4])
    situation, err = detect()
    assert (situation["gpu"], situation["vram_bytes"], situation["vendor"]) == ("L4", 23034 * MIB, "nvidia")
    assert err == ""


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        (T4, "Tesla T4"),
        ({**T4, "name": "NVIDIA T4X"}, "NVIDIA T4X"),  # not in the catalog
        ({name: value for name, value in T4.items() if name != "compute_cap"}, "Tesla T4"),  # old driver
    ],
    ids=["listed", "by-capability", "by-name"],
)
def test_a_gpu_without_bf16(gpu: Gpu, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [gpu])
    situation, _ = detect()
    assert (situation["gpu"], situation["bf16"]) == (name, False)
    text = optadvise("recommend", "--model", "transformer", "--vram", "auto").out
    assert "--bf16" not in text
    assert "--vendor" not in text


def test_a_size_that_the_catalog_does_not_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [{**L4, "memory.total": "5120"}])  # a part of a virtual GPU
    situation, _ = detect()
    assert (situation["gpu"], situation["vram_bytes"]) == ("NVIDIA L4", 5120 * MIB)


@pytest.mark.parametrize(
    ("selection", "memory"),
    [
        ("0", 81559),
        ("1", 15360),
        ("0,2", 23034),
        ("GPU-bbbb", 15360),
        ("GPU-cccc-3,GPU-aaaa-1", 23034),
        ("0,7,1", 81559),
    ],
)
def test_visible_devices(selection: str, memory: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H100, T4, L4])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", selection)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    situation, err = detect()
    assert (situation["vram_bytes"], err) == (memory * MIB, "")


@pytest.mark.parametrize("selection", ["", "-1", "NoDevFiles", "9", "GPU-", "MIG-1111"])
def test_no_visible_device(selection: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H100, T4])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", selection)
    fail()


def test_an_index_may_mean_another_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H100, T4])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "CUDA_DEVICE_ORDER" in detect()[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # the order does not matter
    assert detect()[1] == ""
    fake_nvidia_smi(monkeypatch, tmp_path, [H100, {**H100, "index": "1", "uuid": "GPU-dddd"}])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # the GPUs are alike
    assert detect()[1] == ""


@pytest.mark.parametrize(
    ("selection", "name", "memory"),
    [
        (None, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 40448),
        ("0", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 40448),
        ("MIG-2222", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9984),
    ],
)
def test_mig_instances(
    selection: str | None, name: str, memory: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [MIG], listing=LISTING, xml=XML)
    if selection is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", selection)
    situation, _ = detect()
    assert (situation["gpu"], situation["vram_bytes"]) == (name, memory * MIB)


def test_mig_without_instances_or_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [MIG], listing=LISTING, xml="not XML")
    fail()
    fake_nvidia_smi(monkeypatch, tmp_path, [MIG], listing=LISTING.splitlines()[0], xml=XML)
    fail()


def test_a_lost_gpu_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lost = {"index": "1", **dict.fromkeys([name for name in H100 if name != "index"], "[GPU is lost]")}
    for gpus, error in (([H100, lost], ""), ([H100], "Unable to determine the device handle for GPU 0000:02:00.0")):
        fake_nvidia_smi(monkeypatch, tmp_path, gpus, error=error)
        assert detect()[0]["vram_bytes"] == 81559 * MIB


def test_memory_in_use_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [{**L4, "memory.used": "2048"}])
    situation, err = detect()
    assert situation["vram_bytes"] == 23034 * MIB
    assert len(err.splitlines()) == 1
    assert "2 GiB" in err


def test_a_gpu_that_uses_the_main_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_detection, "read_main_memory", lambda: 119 * 2**30)
    fake_nvidia_smi(monkeypatch, tmp_path, [GB10])
    situation, _ = detect()
    assert (situation["gpu"], situation["vram_bytes"]) == ("DGX Spark", 119 * 2**30)
    fake_nvidia_smi(monkeypatch, tmp_path, [{**GB10, "name": "NVIDIA GB99"}])
    fail()


def test_the_command_of_a_report_names_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [T4])
    report = tmp_path / "report.html"
    assert optadvise("recommend", "--model", "vit", "--vram", "auto", "--report", str(report)).code == 0
    page = report.read_text(encoding="utf-8")
    assert "--gpu t4" in page
    assert "--vram auto" not in page


@pytest.mark.parametrize(
    ("name", "mebibytes", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm"), ("NVIDIA H100 PCIe", 81559, "h100-pcie"),
        ("NVIDIA H100 NVL", 95830, "h100-nvl"), ("NVIDIA H200", 143771, "h200"), ("NVIDIA B200", 183359, "b200"),
        ("NVIDIA B300 SXM6 AC", 275040, "b300"), ("NVIDIA GH200 480GB", 97871, "gh200-96gb"),
        ("NVIDIA H20", 97871, "h20"), ("NVIDIA A100-SXM4-80GB", 81920, "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"), ("NVIDIA A10", 23028, "a10"), ("NVIDIA L40S", 46068, "l40s"),
        ("NVIDIA L4", 23034, "l4"), ("Tesla T4", 15360, "t4"), ("NVIDIA GeForce RTX 4090", 24564, "rtx-4090"),
    ],
)  # fmt: skip
def test_the_catalog_has_the_memory_that_the_driver_reports(name: str, mebibytes: int, gpu: str) -> None:
    card = load_shipped().find_gpu(name, mebibytes * MIB)
    assert card.id == gpu
    assert card.memory_bytes == pytest.approx(mebibytes * MIB, rel=1e-3)
