"""Ctrl-C, SIGTERM and SIGKILL in every long command: what was measured is kept, and no process is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import request
from optadvise.benchmark.options import BenchOptions
from optadvise.cli import interrupts
from optadvise.core.errors import InterruptedMeasurementError
from tests.bench import await_end_of_processes_in, ended, list_workers, parse_result, started
from tests.cli import optadvise
from tests.conftest import ROOT

SWEEP = "optimizers: [adamw, lion]\nrounds: 4\n"


class LongCommand(NamedTuple):
    """Command line whose worker hangs, and what it has measured before."""

    arguments: str
    kept: Callable[[Mapping[str, Any]], object] = lambda result: None  # reads what is kept from the JSON in out.json
    expected: object = None
    folder: str = ""  # pattern of the files that are written at once


LONG_COMMANDS = {
    "bench": LongCommand(
        "bench lion --rounds 9 --json out.json --save name --report out.html",
        lambda result: (result["complete"], [len(arm["step_seconds"]["samples"]) for arm in result["arms"]]),
        (False, [2, 2]),
    ),
    "verify": LongCommand(
        "verify --claim lion-state-half --claim eight-bit-path --json out.json --markdown out.md",
        lambda result: [claim["id"] for claim in result["claims"]],
        ["lion-state-half"],
        "data/evidence/*/claims/lion-state-half.json",
    ),
    "sweep": LongCommand(
        "sweep sweep.yaml --json out.json",
        lambda result: (result["complete"], [cell["why"] for cell in result["cells"]]),
        (False, [None, "interrupted"]),
        "sweep/adamw.json",
    ),
    "doctor": LongCommand("doctor"),
    "estimate": LongCommand("estimate --workload mine:plain"),
}


@contextlib.contextmanager
def run_until_hanging(arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command line with fake workers until one hangs."""
    (folder / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.fake_workers import run; run()", *arguments.split()], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPTADVISE_DATA_DIR": str(folder / "data")},
    )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while not (folder / "hanging").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", LONG_COMMANDS)
def test_long_commands_keep_what_they_measured(name: str, number: signal.Signals, tmp_path: Path) -> None:
    command = LONG_COMMANDS[name]
    with run_until_hanging(command.arguments, tmp_path) as process:
        for _ in range(1 if number == signal.SIGKILL else 3):  # schedulers and users send several
            os.killpg(process.pid, number)
        _, err = process.communicate(timeout=20)
        assert await_end_of_processes_in(tmp_path)
    assert not command.folder or [*tmp_path.glob(command.folder)]
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == "optadvise: interrupted"
        assert "Traceback" not in err
    if (number, name) != (signal.SIGKILL, "sweep"):  # whose result is written at the end
        file = tmp_path / "out.json"
        assert command.kept(json.loads(file.read_text("utf-8")) if file.exists() else {}) == command.expected
    assert not [*tmp_path.glob(".out*")]  # temporary files


WRITER = """
import signal
from optadvise.cli.interrupts import hold_interrupts, install_handlers

install_handlers()
try:
    with hold_interrupts():
        signal.raise_signal({number})
        signal.raise_signal({number})
        print("written")
    print("continued")
except KeyboardInterrupt:
    print("interrupted")
signal.raise_signal({number})
print("ended")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_results_are_written(number: signal.Signals) -> None:
    code = WRITER.format(number=int(number))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.split() == ["written", "interrupted", "ended"], process.stderr


STARTING = """
import runpy, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "optadvise.cli.app":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_module("optadvise", run_name="__main__")
"""


def test_ctrl_c_at_the_start() -> None:
    process = subprocess.run([sys.executable, "-c", STARTING], capture_output=True, text=True, cwd=ROOT)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "optadvise: interrupted\n")


def test_signals_that_the_starting_program_ignores_stay_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handler = signal.getsignal(signal.SIGINT)
    try:
        interrupts.install_handlers()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, handler)


# -- real workers -----------------------------------------------------------------------------------------------------


def test_interrupted_benchmark_writes_all_files(mine: Path) -> None:
    files = ("--json", "out.json", "--csv", "out.csv", "--markdown", "out.md", "--dashboard", "out-dashboard.json")
    long = ("--workload", "mine:slow", "--rounds", "500", "--steps", "2", "--threads", "1")
    process = started("bench", "lion", *long, *files, folder=mine)
    try:
        assert process.stderr is not None
        assert any(line.startswith("round 3 of 500") for line in process.stderr)
        pids = list_workers(process.pid)
        assert len(pids) == 2
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, err.splitlines()[-1]) == (130, "optadvise: interrupted")
    assert ended(pids, seconds=2)
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


def test_interrupt_during_the_start_of_a_worker(mine: Path) -> None:
    process = started("bench", "lion", "--workload", "mine:slow", "--json", "-", folder=mine)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("starting")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    result = parse_result(out)
    assert (process.returncode, result["complete"], result["ratios"]) == (130, False, [])
    assert {arm["step_seconds"]["median"] for arm in result["arms"]} == {None}
    assert ended(list_workers(process.pid))


# -- library ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_program_that_uses_the_library(rules: CompiledRules, mine: Path) -> None:
    """Its handler of SIGTERM is unchanged."""
    options = BenchOptions(workload="mine:plain", rounds="500", steps="2", threads="1")
    prepared = request.prepare_request(rules, ["lion"], options)
    pids: list[int] = []

    def interrupt(event: str, label: str, number: int) -> None:
        if (event, number) == ("round", 3):
            pids.extend(list_workers())
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            raise KeyboardInterrupt

    with pytest.raises(InterruptedMeasurementError) as caught:
        request.measure(prepared, progress=interrupt)
    assert len(pids) == 2
    assert ended(pids)
    assert caught.value.result.complete is False
    assert [len(arm.step_seconds.samples) for arm in caught.value.result.arms] == [4, 4]


def test_bench_in_a_thread_which_cannot_handle_signals(mine: Path) -> None:
    codes = []
    arguments = ("bench", "adamw", "--workload", "mine:plain", "--control", "none", "--rounds", "1", "--steps", "1")
    thread = threading.Thread(target=lambda: codes.append(optadvise(*arguments).code))
    thread.start()
    thread.join()
    assert codes == [0]
