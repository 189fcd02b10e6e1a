"""Failures of real workers: each is the result of its arm, and the other arms continue."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import plan, runner
from optadvise.benchmark.measurement import ArmMeasurement, ArmSummary
from optadvise.benchmark.runner import ArmFailedError
from optadvise.benchmark.spec import Spec
from optadvise.benchmark.worker_arm import WorkerArm
from optadvise.core.error_codes import ErrorCode
from tests.bench import ended, find_error_line, list_workers, parse_result
from tests.cli import optadvise
from tests.conftest import rotated
from tests.test_bench_runner import ignore_event, ignore_records, make_arm
from tests.test_catalog import CARD

SPEC = Spec(steps=2, rounds=3, warmup=0, threads=1)
QUICK = ("--rounds", "1", "--steps", "2", "--threads", "1", "--control", "none")

# A worker without torch. `answer()` answers a command; `fail()` runs the code of a test instead.
WORKER = """
import json, os, subprocess, sys, time

def send(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)

def answer(command):
    if command == "start":
        send("ready", first_step_seconds=0.1)
    elif command == "round":
        send("round", samples={"step": [0.1]})
    else:
        send("done", finite=True)

def fail(command):
    %s

for line in sys.stdin:
    command = json.loads(line).get("command", "start")
    fail(command) if command == %r else answer(command)
"""


def make_scripted_arm(label: str, fault: str = "pass", at: str = "never", timeout: float = 30.0) -> WorkerArm:
    """Return an arm whose worker runs the code `fault` when it receives the command `at`."""
    return WorkerArm(SPEC, make_arm(label), timeout=timeout, command=(sys.executable, "-c", WORKER % (fault, at)))


def measure(*arms: WorkerArm) -> list[ArmMeasurement]:
    measurements = runner.run_arms(arms, SPEC.rounds, progress=ignore_event, save=ignore_records)
    assert list_workers() == []
    return measurements


def test_worker_without_fault() -> None:
    (measurement,) = measure(make_scripted_arm("a"))
    assert (measurement.failure, len(measurement.rounds), measurement.summary) == (None, 3, ArmSummary(finite=True))


@pytest.mark.parametrize("at", rotated(1, ["start", "round", "finish"]))
@pytest.mark.parametrize(
    ("fault", "code", "detail"),
    [
        ("time.sleep(600)", ErrorCode.WORKER_TIMEOUT, "3 s"),
        ("print('Loading shards', flush=True)", ErrorCode.WORKER_FAILED, "'Loading shards'"),
        ("print('[]', flush=True)", ErrorCode.WORKER_FAILED, "'[]'"),
        ("print('null', flush=True)", ErrorCode.WORKER_FAILED, "'null'"),
        ("print('{\"samples\": 1}', flush=True)", ErrorCode.WORKER_FAILED, "'{\"samples\": 1}'"),
        ("os.write(1, bytes([255, 254, 10]))", ErrorCode.WORKER_FAILED, "'\ufffd\ufffd'"),
        ("send('other')", ErrorCode.WORKER_FAILED, "'{\"event\": \"other\"}'"),
        ("print('one\\ntwo: boom', file=sys.stderr); sys.exit(3)", ErrorCode.WORKER_FAILED, "exit code 3: two: boom"),
        ("sys.exit(0)", ErrorCode.WORKER_FAILED, "exit code 0"),
        ("os.kill(os.getpid(), 9)", ErrorCode.WORKER_FAILED, "SIGKILL"),
        ("os.kill(os.getpid(), 11)", ErrorCode.WORKER_FAILED, "SIGSEGV"),
        ("send('failed', status='oom', error='no room', code='out-of-memory')", ErrorCode.OUT_OF_MEMORY, "no room"),
    ],
)  # fmt: skip
def test_fault_of_one_worker(fault: str, code: ErrorCode, detail: str, at: str) -> None:
    begin = time.monotonic()
    timeout = 3.0 if "sleep" in fault else 30.0
    first, failed, last = measure(
        make_scripted_arm("a"), make_scripted_arm("b", fault, at, timeout), make_scripted_arm("c")
    )
    assert time.monotonic() - begin < 30
    assert failed.failure is not None
    assert failed.failure.code is code
    assert detail in failed.failure.error
    assert failed.failure.status == ("oom" if code is ErrorCode.OUT_OF_MEMORY else "error")
    assert len(failed.rounds) == (3 if at == "finish" else 0)
    for other in (first, last):
        assert (other.failure, len(other.rounds), other.summary) == (None, 3, ArmSummary(finite=True))


def test_worker_that_ends_before_the_first_message() -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such thing')")
    (measurement,) = measure(WorkerArm(SPEC, make_arm("a"), timeout=30, command=command))
    assert measurement.failure is not None
    assert measurement.failure.code is ErrorCode.WORKER_FAILED
    assert measurement.failure.error.endswith("exit code 1: no such thing")


@pytest.mark.parametrize("end", ["sys.exit(1)", "time.sleep(600)", "send('round', samples={})"])
def test_children_of_a_worker_end_with_it(tmp_path: Path, end: str) -> None:
    child = "child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)"
    file = tmp_path / "pid"
    arm = make_scripted_arm(
        "a", f"{child}; open({str(file)!r}, 'w').write(str(child.pid)); {end}", "round", timeout=1.0
    )
    measure(arm)
    assert ended([int(file.read_text())])


def test_infinite_timeout() -> None:
    (measurement,) = measure(make_scripted_arm("a", timeout=float("inf")))
    assert measurement.failure is None


def test_stop_before_start_and_twice() -> None:
    arm = make_scripted_arm("a")
    arm.stop()
    arm.start()
    arm.stop()
    arm.stop()


def test_stop_does_not_wait_for_a_hanging_worker() -> None:
    arm = make_scripted_arm("a", "time.sleep(600)", "start", timeout=0.5)
    with pytest.raises(ArmFailedError):
        arm.start()
    begin = time.monotonic()
    arm.stop()
    assert time.monotonic() - begin < 1


def test_real_worker_killed_during_a_round(rules: CompiledRules, mine: Path) -> None:
    spec = replace(SPEC, workload="mine:slow", user=True, steps=6)
    arms = plan.plan_arms(rules, ["sgd", "adam"], spec, control="adamw", implementation=None)

    def kill(event: str, label: str, number: int) -> None:
        if (event, label, number) == ("round", "adam", 2):
            threading.Timer(0.1, os.kill, (list_workers()[1], signal.SIGKILL)).start()

    workers = [WorkerArm(spec, arm, timeout=60) for arm in arms]
    first, killed, last = runner.run_arms(workers, 3, progress=kill, save=ignore_records)
    assert [len(each.rounds) for each in (first, killed, last)] == [3, 1, 3]
    assert killed.failure is not None
    assert (killed.failure.status, killed.failure.code) == ("error", ErrorCode.WORKER_FAILED)
    assert "SIGKILL" in killed.failure.error
    assert all(each.summary.finite and not each.failure for each in (first, last))
    assert list_workers() == []


# The address space is limited to 1 GB more than torch uses, which is too little for the first tensor.
SMALL_MACHINE = """
import resource, runpy, torch
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
runpy.run_module("optadvise.benchmark.worker", run_name="__main__")
"""


def test_failed_allocation_reports_the_peak(rules: CompiledRules) -> None:
    spec = replace(SPEC, optimizer_only=True, params=10**11)
    (big,) = plan.plan_arms(rules, ["adamw"], spec, control=None, implementation=None)
    command = (sys.executable, "-m", "tests.program", SMALL_MACHINE)
    (measurement,) = measure(WorkerArm(spec, big, timeout=60, command=command))
    assert measurement.failure is not None
    assert (measurement.failure.status, measurement.failure.code) == ("oom", ErrorCode.OUT_OF_MEMORY)
    assert measurement.failure.peak_memory_bytes is not None
    assert (measurement.failure.peak_memory_bytes.process or 0) > 2**26


@pytest.mark.parametrize("name", ["out_of_memory", "huge"])
def test_out_of_memory_has_a_remedy(mine: Path, name: str) -> None:
    command = optadvise("bench", "adamw", "--workload", f"mine:{name}", *QUICK, "--json", "out.json")
    assert command.code == 4
    (arm,) = parse_result((mine / "out.json").read_text("utf-8"))["arms"]
    assert (arm["status"], arm["error_code"]) == ("oom", "out-of-memory")
    assert arm["peak_memory_bytes"]["process"] > 0
    assert arm["step_seconds"]["median"] is None
    assert "oom" in command.out
    assert "smaller" in command.out


@pytest.mark.parametrize(
    ("workload", "detail"),
    [
        ("raising", "ValueError: no data in this folder"),
        ("nothing", "NoneType"),
        ("absent", "'absent'"),
        ("ending", "ended after 1"),
    ],
)
def test_invalid_workload_ends_the_run(mine: Path, workload: str, detail: str) -> None:
    spec = f"mine:{workload}"
    command = optadvise("bench", "adamw", "--workload", spec, "--threads", "1", "--json", "out.json")
    assert command.failure is not None
    assert (command.code, command.error, command.out) == (2, "invalid-workload", "")
    assert (command.failure.option, command.failure.value) == ("--workload", spec)
    assert detail in find_error_line(command.err)
    assert not (mine / "out.json").exists()
    assert list_workers() == []


def test_diverging_loss(mine: Path) -> None:
    command = optadvise("bench", "adamw", "--workload", "mine:diverging", *QUICK, "--json", "out.json")
    assert command.code == 0
    assert "finite" in command.out
    (arm,) = parse_result((mine / "out.json").read_text("utf-8"))["arms"]
    assert arm["loss"] == {"first": None, "last": None, "finite": False}


def write_card(tmp_path: Path, **implementation: Any) -> str:
    """Write a rule layer whose optimizer has this implementation, and return its folder."""
    folder = tmp_path / "rules"
    (folder / "optimizers").mkdir(parents=True)
    original = "{id: torch, import: torch.optim.SGD, package: torch, devices: [cpu]}"
    assert original in CARD
    fields = ", ".join(f"{key}: {value}" for key, value in implementation.items())
    (folder / "optimizers" / "sgd-turbo.yaml").write_text(CARD.replace(original, f"{{{fields}}}"), encoding="utf-8")
    return str(folder)


def test_missing_package_is_unsupported(tmp_path: Path) -> None:
    rules = write_card(tmp_path, id="turbo", **{"import": "no_such.SGD"}, package="no-such", devices="[cpu]")
    command = optadvise("bench", "turbo", "--rules", rules, "--allow-imports", "no_such", *QUICK, "--json", "-")
    assert command.code == 4
    (arm,) = parse_result(command.out)["arms"]
    assert (arm["status"], arm["error_code"]) == ("unsupported", "missing-package")
    assert arm["error"].startswith("no_such.SGD ")
    assert arm["error"].endswith("; pip install no-such")


@pytest.mark.parametrize(
    "text", rotated(1, ["raise ImportError('libcuda.so: not found')", "raise RuntimeError('no driver')", ""])
)
def test_failing_import_is_unsupported(mine: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (mine / "broken_optim.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(mine)
    rules = write_card(mine, id="turbo", **{"import": "broken_optim.SGD"}, package="broken-optim", devices="[cpu]")
    allowed = ("--rules", rules, "--allow-imports", "broken_optim")
    command = optadvise("bench", "turbo", *allowed, "--workload", "mine:plain", *QUICK, "--json", "-")
    assert command.code == 4
    (arm,) = parse_result(command.out)["arms"]
    assert (arm["status"], arm["error_code"]) == ("unsupported", "missing-package")
    assert arm["error"].startswith("broken_optim.SGD cannot be imported (")
    assert arm["error"].endswith("; pip install broken-optim")


def test_run_succeeds_if_one_candidate_works(mine: Path) -> None:
    rules = write_card(mine, id="turbo", **{"import": "no_such.SGD"}, package="no-such", devices="[cpu]")
    command = optadvise(
        "bench", "turbo", "sgd", "--rules", rules, "--allow-imports", "no_such", "--workload", "mine:plain", *QUICK
    )
    assert command.code == 0
    assert "pip install no-such" in " ".join(command.out.split())


def test_output_of_libraries_never_reaches_stdout(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = optadvise("bench", "adamw", "--workload", "mine:chatty", *QUICK, "--json", "-")
    assert command.code == 0, command.err
    assert parse_result(command.out)["arms"][0]["status"] == "ok"
    assert "chatter" not in command.out + command.err + "".join(capfd.readouterr())
