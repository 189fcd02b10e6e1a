"""Ctrl-C, SIGTERM and SIGKILL: finished rounds are written, and no process is left."""

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
from tests.bench import ended, list_workers, parse_result, started
from tests.cli import optadvise

LONG = ("--workload", "mine:slow", "--rounds", "500", "--steps", "2", "--threads", "1")


@contextlib.contextmanager
def run_until(*arguments: str, folder: Path, line: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a benchmark until a line of its progress, and yield its process and the ids of its workers."""
    process = started("bench", *arguments, folder=folder)
    try:
        assert process.stderr is not None
        _wait_for(process.stderr, line)
        yield process, list_workers(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_for(stream: IO[str], start: str) -> None:
    lines = []
    for line in stream:
        lines.append(line)
        if line.startswith(start):
            return
    pytest.fail(f"the process ended before {start!r}: {''.join(lines)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_writes_finished_rounds_and_ends_workers(mine: Path, number: signal.Signals) -> None:
    files = ("--json", "out.json", "--csv", "out.csv", "--markdown", "out.md", "--dashboard", "out-dashboard.json")
    with run_until("lion", *LONG, *files, folder=mine, line="round 3 of 500") as (process, pids):
        assert len(pids) == 2
        os.killpg(process.pid, number)  # as a terminal sends Ctrl-C
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "optadvise: interrupted"
    assert "Traceback" not in err
    assert ended(pids)
    result = parse_result((mine / "out.json").read_text("utf-8"))
    assert (result["complete"], result["verdict"]) == (False, None)
    for arm in result["arms"]:
        assert (arm["status"], arm["error"]) == ("ok", None)
        assert arm["state_bytes"] > 0
        assert len(arm["step_seconds"]["samples"]) >= 4
        assert arm["loss"] == {"first": None, "last": None, "finite": None}  # reported at the end
    assert result["ratios"]
    assert "Interrupted" in out
    assert sorted(file.name for file in mine.iterdir() if file.name.startswith((".", "out"))) == [
        "out-dashboard.json", "out.csv", "out.json", "out.md",
    ]  # fmt: skip


def test_interrupt_before_the_first_round(mine: Path) -> None:
    with run_until("lion", *LONG, "--json", "out.json", folder=mine, line="starting lion") as (process, _):
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in err
    result = parse_result((mine / "out.json").read_text("utf-8"))
    assert (result["complete"], result["ratios"]) == (False, [])
    assert {arm["step_seconds"]["median"] for arm in result["arms"]} == {None}
    assert ended(list_workers(process.pid))


def test_interrupt_prints_json(mine: Path) -> None:
    with run_until("adamw", *LONG, "--json", "-", "--control", "none", folder=mine, line="round 2") as (process, pids):
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert ended(pids)
    assert parse_result(out)["complete"] is False


def test_sigterm_in_a_program_using_the_library(rules: CompiledRules, mine: Path) -> None:
    options = BenchOptions(workload="mine:plain", rounds="500", steps="2", threads="1")
    prepared = request.prepare_request(rules, ["lion"], options)
    pids = []

    def terminate(event: str, label: str, number: int) -> None:
        if (event, number) == ("round", 3):
            pids.extend(list_workers())
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(request.InterruptedMeasurementError) as caught:
        request.measure(prepared, progress=terminate)
    assert len(pids) == 2
    assert ended(pids)
    assert caught.value.result.complete is False
    assert [len(arm.step_seconds.samples) for arm in caught.value.result.arms] == [4, 4]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_handler_of_the_program_is_kept() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with interrupt_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_bench_in_a_thread_which_cannot_handle_signals(mine: Path) -> None:
    codes = []
    arguments = ("bench", "adamw", "--workload", "mine:plain", "--control", "none", "--rounds", "1", "--steps", "1")
    thread = threading.Thread(target=lambda: codes.append(optadvise(*arguments).code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_workers_end_when_their_parent_is_killed(mine: Path) -> None:
    with run_until("lion", *LONG, "--json", "out.json", folder=mine, line="round 2 of 500") as (process, pids):
        assert len(pids) == 2
        process.kill()
        process.wait()
        assert ended(pids, seconds=5)
    assert parse_result((mine / "out.json").read_text("utf-8"))["complete"] is False
