"""Ctrl-C, SIGTERM and kill -9: what was measured is kept and written, and no process is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import request
from optadvise.benchmark.options import BenchOptions
from optadvise.core.signals import interrupt_on_sigterm
from tests.bench import ended, result_in, started, workers
from tests.cli import optadvise

LONG = ("--workload", "mine:slow", "--rounds", "500", "--steps", "2", "--threads", "1")


@contextlib.contextmanager
def running(*arguments: str, folder: Path, until: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a measurement until a line of its progress; yield it with its workers."""
    process = started("bench", *arguments, folder=folder)
    try:
        assert process.stderr is not None
        _wait_for(process.stderr, until)
        yield process, workers(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_for(stream: IO[str], line: str) -> None:
    said = []
    for found in stream:
        said.append(found)
        if found.startswith(line):
            return
    pytest.fail(f"it ended before {line!r}: {''.join(said)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_measured_is_written_and_nothing_is_left(mine: Path, number: signal.Signals) -> None:
    files = ("--json", "out.json", "--csv", "out.csv", "--markdown", "out.md", "--dashboard", "out-dashboard.json")
    with running("lion", *LONG, *files, folder=mine, until="round 3 of 500") as (process, pids):
        assert len(pids) == 2
        os.killpg(process.pid, number)  # as a terminal does
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "optadvise: interrupted"
    assert "Traceback" not in err
    assert ended(pids)
    found = result_in((mine / "out.json").read_text("utf-8"))
    assert (found["complete"], found["verdict"]) == (False, None)
    for arm in found["arms"]:
        assert (arm["status"], arm["error"]) == ("ok", None)
        assert arm["state_bytes"] > 0
        assert len(arm["step_seconds"]["samples"]) >= 4
        assert arm["loss"] == {"first": None, "last": None, "finite": None}  # told at the end only
    assert found["ratios"]
    assert "Interrupted" in out
    assert sorted(file.name for file in mine.iterdir() if file.name.startswith((".", "out"))) == [
        "out-dashboard.json", "out.csv", "out.json", "out.md",
    ]  # fmt: skip


def test_an_interruption_before_anything_was_measured(mine: Path) -> None:
    with running("lion", *LONG, "--json", "out.json", folder=mine, until="starting lion") as (process, _):
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in err
    found = result_in((mine / "out.json").read_text("utf-8"))
    assert (found["complete"], found["ratios"]) == (False, [])
    assert {arm["step_seconds"]["median"] for arm in found["arms"]} == {None}
    assert ended(workers(process.pid))


def test_an_interruption_still_writes_to_stdout_what_was_to_go_there(mine: Path) -> None:
    with running("adamw", *LONG, "--json", "-", "--control", "none", folder=mine, until="round 2") as (process, pids):
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert ended(pids)
    assert result_in(out)["complete"] is False


def test_sigterm_ends_a_measurement_of_a_program_and_keeps_what_was_measured(rules: CompiledRules, mine: Path) -> None:
    options = BenchOptions(workload="mine:plain", rounds="500", steps="2", threads="1")
    asked = request.prepare_request(rules, ["lion"], options)
    pids = []

    def terminate(what: str, label: str, number: int) -> None:
        if (what, number) == ("round", 3):
            pids.extend(workers())
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(request.InterruptedMeasurementError) as stopped:
        request.measure(asked, progress=terminate)
    assert len(pids) == 2
    assert ended(pids)
    assert stopped.value.result.complete is False
    assert [len(arm.step_seconds.samples) for arm in stopped.value.result.arms] == [4, 4]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_program_keeps_its_own_handler_of_sigterm() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with interrupt_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_a_thread_which_cannot_handle_signals_measures_all_the_same(mine: Path) -> None:
    codes = []
    line = ("bench", "adamw", "--workload", "mine:plain", "--control", "none", "--rounds", "1", "--steps", "1")
    thread = threading.Thread(target=lambda: codes.append(optadvise(*line).code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_workers_end_by_themselves_when_their_parent_is_killed(mine: Path) -> None:
    with running("lion", *LONG, "--json", "out.json", folder=mine, until="round 2 of 500") as (process, pids):
        assert len(pids) == 2
        process.kill()
        process.wait()
        assert ended(pids, seconds=5)
    assert result_in((mine / "out.json").read_text("utf-8"))["complete"] is False
