"""`optadvise doctor` on this machine, and on machines with missing, broken or hidden packages and devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from optadvise.core import hardware, nvidia
from optadvise.diagnostics import doctor, probe
from optadvise.diagnostics.doctor import examine_machine
from optadvise.diagnostics.probe_client import probe_imports
from optadvise.diagnostics.records import DoctorReport
from optadvise.render.text.doctor import print_report
from optadvise.rulebase.catalog import Catalog, load
from tests import nvidia as nvidia_smi
from tests.cli import optadvise
from tests.conftest import ROOT
from tests.test_catalog import CARD

KEYS = {"schema_version", "kind", "python", "platform", "packages", "devices", "optimizers"}
# Answer of the probe about torch on a machine with one H100.
H100 = {
    "imports": True, "error": None, "version": "2.9.0+cu128", "built_for": "CUDA 12.8", "threads": 8,
    "why_no_cuda": None,
    "devices": [{"device": "cuda:0", "kind": "cuda", "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85_029_158_912,
                 "compute_capability": "9.0", "uuid": "aaaa-1", "why_not": None}],
}  # fmt: skip
NO_CUDA = {**H100, "version": "2.9.0+cpu", "built_for": "the CPU", "devices": [],
           "why_no_cuda": "torch 2.9.0+cpu is built without CUDA"}  # fmt: skip


def fake_probe(torch: dict[str, Any], errors: dict[str, str] | None = None, without_cuda: str = "none") -> list[str]:
    """Return the command line of a fake probe.

    Args:
        torch: Properties of torch.
        errors: Import errors by the beginning of the import path; `crash` and `hang` end or block the probe.
        without_cuda: Package that has not loaded its GPU library.
    """
    code = f"""
import json, os, signal, sys, time
request = json.loads(sys.stdin.readline())
paths, flags = request["paths"], request["has_cuda"]
print(json.dumps({{"answer": "torch", **json.loads({json.dumps(torch)!r})}}), flush=True)
errors = json.loads({json.dumps(errors or {})!r})
for path in paths:
    error = next((e for name, e in errors.items() if path.startswith(name)), None)
    if error == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if error == "hang": time.sleep(60)
    print(json.dumps({{"answer": "import", "path": path, "error": error,
                      "has_cuda": not path.startswith({without_cuda!r}) if path in flags else None}}), flush=True)
"""
    return [sys.executable, "-S", "-E", "-c", code]


def by_id(report: DoctorReport) -> dict[str, Any]:
    return {support.id: support for support in report.optimizers}


def text_of(report: DoctorReport, capsys: pytest.CaptureFixture[str]) -> str:
    print_report(report)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_this_machine() -> None:
    begin = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "optadvise", "doctor", "--json"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert time.monotonic() - begin < 60
    report = json.loads(process.stdout)
    assert set(report) >= KEYS
    assert (report["schema_version"], report["kind"]) == (1, "doctor")
    assert report["packages"]["torch"]
    assert report["devices"][0]["device"] == "cpu"
    assert report["devices"][0]["usable"]
    assert report["devices"][0]["memory_bytes"] > 2**28
    cards = {card["id"]: card for card in report["optimizers"]}
    assert list(cards) == list(load().optimizer_ids)
    for card in cards.values():
        assert set(card) >= {"id", "runs", "implementation", "why_not"}
        assert card["runs"] == (card["implementation"] is not None) == (card["why_not"] is None)
    assert cards["adamw"]["implementation"] == "torch.optim.AdamW"


def test_text_fits_80_columns_without_color() -> None:
    result = optadvise("doctor")
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    assert "\x1b" not in result.out
    for text in ("Devices", "Packages", "torch.optim.AdamW"):
        assert text in result.out


@pytest.mark.parametrize(
    ("torch", "detail"),
    [
        ("raise RuntimeError('broken on purpose\\nand more')", "RuntimeError: broken on purpose)"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("print('{\"torch\": 1}')\nimport os\nos._exit(7)", "the probe ended with exit code 7"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("", "AttributeError"),
    ],
    ids=["raises", "exits", "ends", "crashes", "empty"],
)
def test_broken_torch(torch: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(torch, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = optadvise("doctor")
    assert result.code == 4
    assert len(result.err.splitlines()) == 1
    assert detail in result.err
    assert "Traceback" not in result.out + result.err
    report = json.loads(optadvise("doctor", "--json").out)
    assert not any(card["runs"] for card in report["optimizers"])
    assert all(detail in card["why_not"] for card in report["optimizers"])


def test_missing_torch(catalog: Catalog) -> None:
    report: Any = examine_machine(
        catalog, command=fake_probe({"imports": False, "error": "ModuleNotFoundError: No module named 'torch'"})
    )
    assert report.torch.error == "torch is not installed; pip install torch"
    assert not report.devices[0].usable


HANGS = "import time; time.sleep(60)"


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        ([sys.executable, "-c", HANGS], "no answer within 0.5 s"),
        (["sh", "-c", "sleep 60 & wait"], "no answer within 0.5 s"),
        (["sh", "-c", "echo hello"], "sent an invalid message: 'hello'"),
        (["sh", "-c", "echo 17"], "sent an invalid message"),
        (["sh", "-c", "echo '\"torch\"'"], "sent an invalid message"),
        (["sh", "-c", "echo last words >&2; exit 9"], "exit code 9: last words"),
        (["sh", "-c", "true"], "exit code 0"),
        (["/nowhere/python"], "cannot be started"),
    ],
    ids=["hangs", "hangs-below", "text", "number", "string", "fails", "silent", "no-program"],
)
def test_faulty_probe(catalog: Catalog, command: Sequence[str], detail: str) -> None:
    begin = time.monotonic()
    report: Any = examine_machine(catalog, command=command, timeout=0.5)
    assert time.monotonic() - begin < 10
    assert detail in report.torch.error
    assert not any(card.runs for card in report.optimizers)


def test_package_that_crashes_or_hangs() -> None:
    paths = ["torch.optim.SGD", "bad.A", "bad.B", "slow.C", "fine.D"]
    result = probe_imports(paths, command=fake_probe(H100, {"bad": "crash", "slow": "hang"}), timeout=2)
    assert result.torch.version == "2.9.0+cu128"
    assert result.errors["torch.optim.SGD"] is result.errors["fine.D"] is None
    assert result.errors["bad.A"] == result.errors["bad.B"] == "the probe was killed by SIGSEGV"
    assert result.errors["slow.C"] == "no answer within 2 s"


def test_output_of_libraries_does_not_disturb_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud.py").write_text("import os\nprint('{}')\nos.write(1, b'noise')\nclass A: ...\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = probe_imports(["loud.A", "loud.B", "gone.C"])
    assert result.torch.imports
    assert result.errors["loud.A"] is None
    assert result.errors["loud.B"] == "AttributeError: module 'loud' has no attribute 'B'"
    assert result.errors["gone.C"] == "ModuleNotFoundError: No module named 'gone'"


def test_probe_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "optadvise.diagnostics.probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    out, _ = process.communicate(b'{"paths": []}\n', timeout=30)
    assert (process.returncode, out) == (1, b"")


def test_reasons_why_optimizers_do_not_run(catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    errors = {
        "bitsandbytes": "OSError: libfoo.so: [bold]cannot open[/bold]",
        "timm": "ModuleNotFoundError: No module named 'timm'",
        "schedulefree": "ModuleNotFoundError: No module named 'schedulefree'",
        "apex": "ModuleNotFoundError: No module named 'apex'",
    }  # fmt: skip
    report: Any = examine_machine(catalog, command=fake_probe({**NO_CUDA, "version": "2.6.0"}, errors))
    cards = by_id(report)
    reason = cards["adamw8bit"].why_not
    assert "OSError: libfoo.so" in reason
    assert reason.endswith("pip install --upgrade bitsandbytes")
    assert "CUDA" in cards["paged-adamw8bit"].why_not
    assert "2.6.0" in cards["muon"].why_not
    assert cards["muon"].why_not.endswith("pip install 'torch>=2.9'")
    schedule_free = cards["schedule-free-adamw"]
    assert schedule_free.runs or schedule_free.why_not.endswith("pip install schedulefree")
    lamb = cards["lamb"]
    assert lamb.runs
    assert "pip install timm" in lamb.note
    prefixes = ("optional: ", "required by ", "recommended for ")
    assert all(purpose.startswith(prefixes) for purpose in report.missing.values())
    assert set(report.missing) == {package for package, version in report.packages.items() if version is None}
    text = text_of(report, capsys)
    assert "[bold]" in text
    assert "torch 2.9.0+cpu is built without CUDA" in " ".join(text.split())


def test_the_order_of_a_card_decides_what_a_missing_package_is_for(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_read_versions", lambda packages: dict.fromkeys(packages))
    missing = examine_machine(catalog, command=fake_probe(NO_CUDA)).missing
    purposes = {
        (package, name): part.split(maxsplit=1)[0]
        for package, text in missing.items()
        for part in text.split("; ")
        for name in part.replace(",", " ").split()
    }
    for name in catalog.optimizer_ids:
        packages = [each.package for each in catalog.optimizer(name).implementations]
        for package in {*packages} - {"torch", None}:
            assert package is not None
            expected = "recommended" if package == packages[0] else "optional:"
            assert purposes[package, name] == ("required" if {*packages} == {package} else expected), (package, name)


def test_show_names_the_implementation_that_the_doctor_recommends() -> None:
    catalog = load()
    for name in ("adopt", "cautious-adamw"):
        first, *others = catalog.optimizer(name).implementations
        lines = optadvise("show", name).out.splitlines()
        assert [line.split()[1] for line in lines if line.endswith("(recommended)")] == [first.path]
        assert others


def test_gpu_and_driver(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {**nvidia_smi.H100, "index": "1", "name": "NVIDIA T400", "memory.total": "2048", "uuid": "GPU-bbbb-2"}
    nvidia_smi.fake_nvidia_smi(monkeypatch, tmp_path, [nvidia_smi.H100, small])
    report: Any = examine_machine(catalog, command=fake_probe(H100))
    cpu, gpu, hidden = report.devices
    assert cpu.usable
    assert (gpu.device, gpu.usable, gpu.driver) == ("cuda:0", True, "570.86.10")
    assert (gpu.memory_bytes, gpu.compute_capability) == (85_029_158_912, "9.0")
    assert (hidden.device, hidden.name, hidden.usable) == (None, "NVIDIA T400", False)
    assert "CUDA_VISIBLE_DEVICES" in hidden.why_not
    assert by_id(report)["paged-adamw8bit"].runs
    text = text_of(report, capsys)
    assert "cuda:0  79.2 GiB  NVIDIA H100 80GB HBM3, compute 9.0, driver 570.86.10" in text
    assert "No CUDA" not in text


def test_package_without_its_gpu_library(catalog: Catalog) -> None:
    report = examine_machine(catalog, command=fake_probe(H100, without_cuda="bitsandbytes"))
    cards = by_id(report)
    assert not cards["paged-adamw8bit"].runs
    assert not cards["adamw8bit"].runs
    assert "CUDA 12.8" in cards["adamw8bit"].why_not
    assert cards["adamw"].runs
    report = examine_machine(catalog, command=fake_probe(NO_CUDA, without_cuda="bitsandbytes"))
    assert by_id(report)["adamw8bit"].runs  # on the CPU


def test_flag_of_a_gpu_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class A: ...\nclass lib: built = False; other = True\n"
    (tmp_path / "kernels_a.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for flag, expected in (("lib.built", {"kernels_a.A"}), ("lib.other", set()), ("lib.gone", set()), ("x.y", set())):
        assert probe_imports(["kernels_a.A"], {"kernels_a.A": f"kernels_a.{flag}"}).without_cuda == expected
    assert probe_imports(["gone.A"], {"gone.A": "gone.lib.built"}).without_cuda == set()


def test_cards_name_the_flag_of_the_installed_package(catalog: Catalog) -> None:
    implementations = [each for name in catalog.optimizer_ids for each in catalog.optimizer(name).implementations]
    flags = {each.has_cuda for each in implementations if each.package == "bitsandbytes"}
    assert len(flags) == 1
    pytest.importorskip("bitsandbytes")
    assert probe.read_flag(str(flags.pop())) is not None


def test_gpu_that_torch_cannot_use(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spark = {**nvidia_smi.H100, "name": "NVIDIA GB10", "memory.total": "[N/A]", "uuid": "GPU-cccc"}
    nvidia_smi.fake_nvidia_smi(monkeypatch, tmp_path, [spark])
    report: Any = examine_machine(catalog, command=fake_probe(NO_CUDA))
    gpu = report.devices[1]
    assert (gpu.usable, gpu.memory_bytes) == (False, None)
    assert "built without CUDA" in gpu.why_not
    assert "https://pytorch.org" in gpu.why_not
    assert not by_id(report)["paged-adamw8bit"].runs
    assert "not usable" in text_of(report, capsys)

    old = {**H100, "devices": [{**H100["devices"][0], "why_not": "RuntimeError: no kernel image"}]}  # type: ignore[index, dict-item]
    report = examine_machine(catalog, command=fake_probe(old))
    assert not by_id(report)["paged-adamw8bit"].runs
    assert "no kernel image" in text_of(report, capsys)


@pytest.mark.parametrize(
    ("script", "detail"),
    [("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "NVIDIA-SMI has failed"), ("sleep 60", "nvidia-smi")],
    ids=["fails", "hangs"],
)
def test_driver_that_does_not_answer(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    script: str, detail: str,
) -> None:  # fmt: skip
    script = f"exec {script}" if script.startswith("sleep") else script
    nvidia_smi.install_program(monkeypatch, tmp_path, "nvidia-smi", script)
    monkeypatch.setattr(nvidia, "_TIMEOUT", 0.5)
    report: Any = examine_machine(catalog, command=fake_probe(NO_CUDA))
    assert detail in report.driver_problem
    assert len(report.devices) == 1
    assert detail in " ".join(text_of(report, capsys).split())


def test_memory_and_name_of_this_machine() -> None:
    assert hardware.name_processor()
    memory = hardware.read_main_memory()
    assert memory is not None
    assert memory > 2**28


def test_probe_runs_a_kernel_on_devices() -> None:
    assert probe.try_device("cpu") is None
    assert probe.try_device("meta") is not None


@pytest.mark.gpu
def test_gpu_of_this_machine() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("requires a CUDA device")
    report = json.loads(optadvise("doctor", "--json").out)
    gpus = [device for device in report["devices"] if device["kind"] == "cuda"]
    assert gpus[0]["usable"]
    assert gpus[0]["memory_bytes"] > 2**30
    assert gpus[0]["driver"]
    assert not any("CUDA" in (card["why_not"] or "") for card in report["optimizers"])


def test_flag_of_a_rule_layer_is_read_only_with_permission(tmp_path: Path) -> None:
    flagged = CARD.replace("devices: [cpu]}", "devices: [cpu], has_cuda: kernels_a.lib.built}")
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "sgd-turbo.yaml").write_text(flagged, encoding="utf-8")
    layered = load([tmp_path])
    assert layered.optimizer("sgd-turbo").implementations[0].has_cuda == "kernels_a.lib.built"
    assert layered.imports.explain("kernels_a.lib.built") is not None
