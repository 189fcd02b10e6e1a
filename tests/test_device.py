"""`bench --device`: what torch can use decides, as a probe in another process reports it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import device, sweep
from optadvise.benchmark.clock import Clock
from optadvise.benchmark.device import resolve_device
from optadvise.core.errors import CannotRunHereError, InputError, OptadviseError
from optadvise.diagnostics import probe
from optadvise.diagnostics.probe_client import probe_torch
from optadvise.rulebase.catalog import load
from tests.cli import optadvise
from tests.test_doctor import H100, NO_CUDA, fake_probe

CACHED = (device._read_torch_version, device._choose_device, device._probe)
GPU: dict[str, Any] = H100["devices"][0]  # type: ignore[index, assignment]
OLD_GPU = {**H100, "devices": [{**GPU, "why_not": "RuntimeError: no kernel image"}]}
NO_GPU = {**H100, "devices": [], "why_no_cuda": "RuntimeError: Found no NVIDIA driver on your system."}
MAC = {**NO_CUDA, "version": "2.9.0", "devices": [{"device": "mps", "kind": "mps", "name": "Apple GPU"}]}
BROKEN = {"imports": False, "error": "OSError: libcudart.so"}


@pytest.fixture(autouse=True)
def _clear_caches() -> Iterator[None]:
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, torch: dict[str, Any], version: str = "2.9.0") -> None:
    """Install a torch whose probe returns these facts."""
    monkeypatch.setattr(device, "version", lambda _: version)
    monkeypatch.setattr(device, "probe_torch", functools.partial(probe_torch, command=fake_probe(torch)))


def resolve(name: str) -> tuple[str, int]:
    """Return the device that is measured, and the number of warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return resolve_device(name), len(caught)


@pytest.mark.parametrize(
    ("torch", "expected", "lines"),
    [(H100, "cuda", 0), (OLD_GPU, "cpu", 1), (NO_GPU, "cpu", 1), (MAC, "cpu", 0)],
    ids=["usable", "no-kernel", "no-driver", "cpu-build"],
)
def test_auto(torch: dict[str, Any], expected: str, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch)
    assert resolve("auto") == (expected, lines)
    assert resolve("auto") == (expected, 0)  # a sweep prints the reason once


def test_a_cpu_build_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, H100, "2.9.0+cpu")
    monkeypatch.setattr(device, "probe_torch", None)
    assert resolve("auto") == ("cpu", 0)
    assert resolve("cpu") == ("cpu", 0)
    for name in ("cuda", "cuda:0", "rocm", "mps"):
        with pytest.raises(CannotRunHereError) as caught:
            resolve_device(name)
        assert caught.value.code == "unsupported"


def test_another_machine_that_measures_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, NO_GPU)
    monkeypatch.setattr(device, "probe_torch", None)
    assert resolve_device("cuda:9", is_probed=False) == "cuda:9"
    assert resolve_device("auto", is_probed=False) == "cpu"


@pytest.mark.parametrize(
    ("torch", "name", "expected"),
    [
        (H100, "cuda", "cuda"),
        (H100, "cuda:0", "cuda:0"),
        (H100, "cuda:00", "cuda:0"),
        (H100, "rocm", "cuda"),
        (MAC, "mps", "mps"),
    ],
)
def test_a_usable_device(torch: dict[str, Any], name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch)
    assert resolve(name) == (expected, 0)


@pytest.mark.parametrize(
    ("torch", "name", "code"),
    [
        (H100, "cuda:9", "missing-device"),
        (H100, "mps", "missing-device"),
        (OLD_GPU, "cuda", "missing-device"),
        (NO_GPU, "cuda:0", "missing-device"),
        (BROKEN, "cuda", "missing-package"),
        (BROKEN, "auto", "missing-package"),
    ],
)
def test_a_device_that_torch_cannot_use(
    torch: dict[str, Any], name: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, torch)
    with pytest.raises(OptadviseError) as caught:
        resolve_device(name)
    assert (caught.value.exit_code, caught.value.code) == (4, code)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("cuda:foo", "invalid-value"), ("cuda:-1", "invalid-value"), ("cuda:", "invalid-value"),
        ("cuda:0,1", "invalid-value"), ("cpu:0", "invalid-value"), ("auto:0", "invalid-value"),
        ("xpu", "unknown-choice"), ("CUDA", "unknown-choice"),
    ],
)  # fmt: skip
def test_an_invalid_device(name: str, code: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_device(name)
    assert caught.value.code == code
    result = optadvise("bench", "adamw", "--device", name)
    assert (result.code, result.error, len(result.err.splitlines())) == (2, code, 1)
    assert "did you mean" not in result.err  # cpu is no substitute for xpu


def test_the_probe_tries_only_the_requested_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor, uuid = "GPU", 2**34, 9, 0, "a"

    class Cuda:
        is_available = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 2)
        get_device_properties = staticmethod(lambda number: Properties)

    class Torch:
        cuda = Cuda

    tried: list[str] = []
    monkeypatch.setattr(probe, "try_device", tried.append)
    assert len(probe._list_cuda_devices(Torch, ("cuda:1",))) == 2  # type: ignore[arg-type]
    assert tried == ["cuda:1"]


def test_the_clock_waits_for_a_device_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("torch.mps.synchronize", lambda: calls.append(len(calls)))
    clock = Clock("mps")
    clock.start()
    clock.mark()
    assert (len(calls), len(clock.seconds())) == (2, 1)


def test_a_sweep_checks_cells_for_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, NO_GPU)
    (cell,) = sweep.make_cells(CompiledRules(load()), ["adamw"], {"device": ["cuda:1"]})
    assert cell.options == {"device": "cuda:1"}


def test_the_uuids_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    second = {**GPU, "device": "cuda:1", "uuid": "bbbb-2"}
    install(monkeypatch, {**H100, "devices": [GPU, second]})
    assert device.find_gpu_uuids("cpu", 1) == ()
    assert device.find_gpu_uuids("cuda", 1) == ("aaaa-1",)
    assert device.find_gpu_uuids("cuda", 2) == ("aaaa-1", "bbbb-2")
    assert device.find_gpu_uuids("cuda:1", 1) == ("bbbb-2",)
    for function in CACHED:
        function.cache_clear()
    install(monkeypatch, {**H100, "devices": [{**GPU, "uuid": ""}]})  # an old version of torch
    assert device.find_gpu_uuids("cuda", 1) == ()
