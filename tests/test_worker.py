"""Worker-process protocol: failures of workers, and cleanup of all processes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from optadvise.core import start as start_file
from optadvise.core import worker
from optadvise.core.worker import WorkerError, WorkerProcess, WorkerTimeoutError, encode_message
from tests.bench import await_end_of_processes_in, ended, list_processes, list_processes_in
from tests.conftest import ROOT

ECHO = """
from optadvise.core.worker import ParentConnection
parent = ParentConnection()
while True:
    message = parent.receive(dict)
    {action}
    parent.send({{"value": message["value"]}})
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no subreapers")
GRANDCHILD = "import subprocess; child = subprocess.Popen(['sleep', '600'])"


class Figure(msgspec.Struct, frozen=True):
    value: float


def echo(action: str = "pass") -> tuple[str, ...]:
    """Return the command line of a worker that does something before each answer."""
    return (sys.executable, "-c", ECHO.format(action=action))


def script(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-E", "-c", code)


@pytest.mark.parametrize("value", [0.5, math.inf, -math.inf, math.nan])
def test_non_finite_numbers_are_preserved(value: float) -> None:
    with WorkerProcess(echo()) as process:
        for _ in range(2):
            process.send(Figure(value))
            assert repr(process.receive(Figure, 30).value) == repr(value)
    assert ended([process.pid])


def test_a_message_is_one_line() -> None:
    line = encode_message({"value": 1, "text": "a\nb"})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"value": 1, "text": "a\nb"}


def test_an_object_that_cannot_be_encoded_is_an_error() -> None:
    with pytest.raises(TypeError, match="object cannot be sent to another process"):
        encode_message(object())


def test_printed_text_is_not_a_message() -> None:
    noise = "print('noise'); import os; os.write(1, b'noise'); os.system('echo noise')"
    with WorkerProcess(echo(noise)) as process:
        process.send(Figure(1.0))
        assert process.receive(Figure, 30) == Figure(1.0)


@pytest.mark.parametrize(
    ("code", "detail", "exit_code"),
    [
        ("import sys; print('first\\nlast', file=sys.stderr); sys.exit(3)", "3: last", 3),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV", -11),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL", -9),
        ("print('hello')", "'hello'", None),
        ("print('17')", "'17'", None),
        ('print(\'{"value": "a"}\')', '\'{"value": "a"}\'', None),
        ("import os; os.write(1, bytes([255, 10]))", "'\ufffd'", None),
        ("import time; time.sleep(600)", "1 s", None),
    ],
)
def test_a_failure_is_described(code: str, detail: str, exit_code: int | None) -> None:
    with WorkerProcess(script(code)) as process:
        process.send(Figure(1.0))
        with pytest.raises(WorkerError) as raised:
            process.receive(Figure, 1.0 if "sleep" in code else 30)
    assert raised.value.exit_code == exit_code
    assert detail in str(raised.value)
    assert isinstance(raised.value, WorkerTimeoutError) == ("sleep" in code)
    assert ended([process.pid])


@pytest.mark.parametrize(
    "code",
    ["import os\nwhile True: os.write(1, b'x' * 65536)", "print('[' * 10**6)", "while True: print(17)"],
)
def test_a_flood_of_output_is_an_error(code: str) -> None:
    begin = time.monotonic()
    with WorkerProcess(script(code)) as process, pytest.raises(WorkerError, match="invalid message"):
        process.receive(Figure, 30)
    assert time.monotonic() - begin < 10
    assert ended([process.pid])


def test_a_worker_that_reads_nothing_does_not_block_its_parent() -> None:
    begin = time.monotonic()
    with WorkerProcess(script("import time; time.sleep(600)")) as process:
        process.send("x" * 2**22)  # more than a pipe holds
        with pytest.raises(WorkerTimeoutError):
            process.receive(Figure, 0.5)
    assert time.monotonic() - begin < 5


def test_a_copy_that_user_code_forked_does_not_answer() -> None:
    with WorkerProcess(echo("import os; os.fork(); os.fork()")) as process:
        for value in (1.0, 2.0, 3.0):
            process.send(Figure(value))
            assert process.receive(Figure, 30) == Figure(value)
        assert ended(sorted({*list_processes({process.pid})} - {process.pid})[1:])  # the first is the worker


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(WorkerError, match=r"^cannot be started: .*No such file"):
        WorkerProcess(["/no/such/program"])


def test_the_exit_of_a_worker_is_detected_even_if_its_child_keeps_the_pipe_open() -> None:
    begin = time.monotonic()
    process = WorkerProcess(script(f"{GRANDCHILD}; import os; os._exit(3)"))
    with process, pytest.raises(WorkerError, match="ended with exit code 3"):
        process.receive(Figure, 60)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("end", ["time.sleep(600)", "os._exit(1)", "print('garbage', flush=True); time.sleep(600)"])
def test_child_processes_of_a_worker_are_killed(tmp_path: Path, end: str) -> None:
    file = tmp_path / "pid"
    code = f"{GRANDCHILD}; open({str(file)!r}, 'w').write(str(child.pid)); import os, time; {end}"
    with WorkerProcess(script(code)) as process, pytest.raises(WorkerError):
        process.receive(Figure, 1.0)
    assert ended([process.pid, int(file.read_text())])


def test_a_worker_that_ignores_the_end_of_stdin_is_killed() -> None:
    process = WorkerProcess(script("import time; time.sleep(600)"))
    begin = time.monotonic()
    process.stop()
    process.stop()
    assert time.monotonic() - begin < 5
    assert ended([process.pid])


PARENT = """
import sys
from optadvise.core.worker import WorkerProcess
process = WorkerProcess((sys.executable, "-c", {worker!r}))
process.send({{"value": 1}})
process.receive(dict, 600)
"""


# Activities of a worker when its parent ends: each is written without braces, as `ECHO` is a format.
HOLDS_LOCK = "import ctypes; ctypes.PyDLL(None).sleep(600)"  # C code that holds Python's lock
BUSY = {
    "sleeping": "time.sleep(600)",
    "holding Python's lock": HOLDS_LOCK,
    "a copy holding Python's lock": f"os.fork(); {HOLDS_LOCK}",
    "without files": f"os.closerange(0, 20); {HOLDS_LOCK}",
    "ignoring signals": "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)",
}
# Module that starts processes which leave the group or the session of the worker.
DAEMONS = """
import os, subprocess

subprocess.Popen(["sleep", "600"], start_new_session=True)
leader = os.fork()
if leader == 0:
    os.setpgid(0, 0)
    os.execvp("sleep", ["sleep", "600"])
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork() == 0:
        subprocess.Popen(["sleep", "600"])
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with the module `daemons`, in which only the processes of a test run."""
    (tmp_path / "daemons.py").write_text(DAEMONS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@linux
@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("pass", None), ("os._exit(3)", "ended with exit code 3"), ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("os.killpg(0, 9)", "killed by SIGKILL"), ("os.killpg(0, 15)", "killed by SIGTERM"),
        ("time.sleep(600)", "within 3 s"), (HOLDS_LOCK, "within 3 s"),
    ],
)  # fmt: skip
def test_daemons_end_with_the_worker(folder: Path, end: str, error: str | None) -> None:
    with WorkerProcess(echo(f"import os, time, daemons; {end}")) as process:
        process.send(Figure(1.0))
        if error is None:
            assert process.receive(Figure, 30) == Figure(1.0)
            assert len(list_processes_in(folder)) >= 5  # supervisor, worker and three daemons
        else:
            with pytest.raises(WorkerError, match=error):
                process.receive(Figure, 3 if "sleep" in end else 30)
    assert await_end_of_processes_in(folder, seconds=0)


@linux
def test_a_worker_ends_with_its_supervisor(folder: Path) -> None:
    with WorkerProcess(echo()) as process:
        process.send(Figure(1.0))
        process.receive(Figure, 30)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="killed by SIGKILL"):
            process.receive(Figure, 30)
        assert await_end_of_processes_in(folder)


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_and_their_processes_end_with_the_parent(folder: Path, number: signal.Signals) -> None:
    code = "import sys, time\nfrom optadvise.core.worker import WorkerProcess\nprocesses = []\n"
    for action in BUSY.values():
        busy = f"import os, time, daemons; open(f'{{os.getpid()}}.started', 'w').close(); {action}"
        code += f"processes.append(WorkerProcess((sys.executable, '-c', {ECHO.format(action=busy)!r})))\n"
        code += "processes[-1].send({'value': 1})\n"
    parent = subprocess.Popen([sys.executable, "-c", code + "processes[0].receive(dict, 600)"],
                              stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until = time.monotonic() + 30
        while len([*folder.glob("*.started")]) < len(BUSY) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)  # until each hangs
        assert len(list_processes_in(folder)) > 5 * len(BUSY)  # supervisor, worker and three daemons, and the parent
        parent.send_signal(number)
        assert await_end_of_processes_in(folder)
        parent.wait(timeout=20)
    finally:
        parent.kill()
        parent.wait()


def test_a_worker_without_a_process_group_exits_with_its_parent() -> None:
    """As a worker that a shell started."""
    parent = subprocess.Popen(echo(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    out, _ = parent.communicate(b"", timeout=30)
    assert (parent.returncode, out) == (1, b"")


def test_processes_are_started_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests replace this function to fork workers that have imported torch already."""
    commands = []
    start = worker.start_process

    def record(command: Sequence[str], *arguments: Any) -> subprocess.Popen[bytes]:
        commands.append(command)
        return start(command, *arguments)

    monkeypatch.setattr(worker, "start_process", record)
    with WorkerProcess(worker.module_command("timeit", "pass"), {**os.environ}):
        pass
    assert commands == [(sys.executable, start_file.__file__, "timeit", "pass")]
