"""Lock on a GPU while a benchmark measures on it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from optadvise.benchmark import request
from optadvise.benchmark.gpu_lock import hold_gpus
from optadvise.benchmark.request import Request
from optadvise.benchmark.spec import Spec
from optadvise.core.errors import OptadviseWarning
from tests.conftest import ROOT

HOLDER = """
import sys, time
from optadvise.benchmark.gpu_lock import hold_gpus
with hold_gpus(["a", "b"]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield another process that holds the GPUs a and b."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_waits_for_the_gpu(holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            holder.kill()  # its lock ends with it
            holder.wait()

    monkeypatch.setattr(time, "sleep", sleep)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with hold_gpus(["c"]):
            assert waits == []
        with hold_gpus(["b"]):
            assert len(waits) >= 3
    assert len(caught) == 1
    if sys.platform == "linux":
        assert str(holder.pid) in str(caught[0].message)


def test_waiting_can_be_interrupted(holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.warns(OptadviseWarning), pytest.raises(KeyboardInterrupt), hold_gpus(["a"]):
        pytest.fail("the lock is held by another process")


def test_the_lock_is_released_and_can_be_taken_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), hold_gpus(["a", "a/../b"]):
            raise ValueError("x")
    assert len(list(tmp_path.iterdir())) <= 2


def test_without_a_folder_for_locks_nothing_is_locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.warns(OptadviseWarning), hold_gpus(["a"]):
        pass
    with warnings.catch_warnings(), hold_gpus([]):
        warnings.simplefilter("error")


def test_bench_holds_its_gpus(monkeypatch: pytest.MonkeyPatch, holder: subprocess.Popen[str]) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    monkeypatch.setattr(request, "find_gpu_uuids", lambda device, processes: ("b",))
    with pytest.warns(OptadviseWarning), pytest.raises(KeyboardInterrupt):
        request.measure(Request(Spec(device="cuda"), (), (), 10.0))
