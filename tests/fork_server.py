"""Fork server for the worker processes of tests: forks a process that has torch imported.

Importing the modules of a worker takes up to nine CPU seconds, a fork 0.2. `install` replaces `subprocess.Popen` by
`ForkingPopen`, which forks for `python -m` and `core.worker.module_command` with a module of `PROGRAMS` and starts all
other commands unchanged. The forked process gets the pipes, environment, folder and session of the call, is a child of
the caller (so that waiting, signals and process groups behave as usual), and runs the module as `__main__`. If a folder
on its path hides an imported module, it executes the command instead. Programs that start workers themselves get their
own fork server.

Tests that need new interpreters use the fixture `cold_processes`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from optadvise.core import start
from optadvise.core.lifeline import end_with_parent

PROGRAMS = ("optadvise", "torch.distributed.run", "tests.")  # prefixes of modules to fork
MEASURING = ("bench", "sweep", "verify", "doctor", "trajectories")  # commands of optadvise that import torch
STARTERS = (
    "optadvise",
    "optadvise.benchmark.distributed.launch",
    "torch.distributed.run",
)  # programs that start workers themselves
# Modules that workers import, the slowest first. Modules that are not installed are skipped.
PRELOADED = (
    "torch", "torch._dynamo", "torch.distributed.run", "torch.distributed.optim", "torch.distributed.fsdp",
    "torch.profiler", "bitsandbytes", "pytorch_optimizer", "lion_pytorch", "optimi", "schedulefree",
    "optadvise.cli.app", "optadvise.benchmark.peak_memory",
)  # fmt: skip
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")  # prefixes of environment variables
_PR_SET_CHILD_SUBREAPER = 36
_MAX_REQUEST = 1 << 20  # bytes
_START_TIMEOUT = 250.0  # seconds for all imports on a busy machine

_ROOT = Path(__file__).parent.parent
_RealPopen = subprocess.Popen


class _Server:
    """Connection to the fork server of this process, which is started on first use."""

    def __init__(self) -> None:
        self.requests: socket.socket | None = None
        self.is_used = False
        self.environment: dict[str, str] = {}
        self.folders: list[str] = []  # first on `sys.path`, before those of PYTHONPATH

    def connect(self) -> socket.socket:
        """Return the socket for requests; start the server on first use."""
        if self.requests is None:
            self.requests, theirs = _socket_pair()
            code = f"from tests.fork_server import main; main({theirs.fileno()})"
            _adopt_orphans()
            process = _RealPopen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                                 env=self.environment, cwd=_ROOT)  # fmt: skip
            theirs.close()
            atexit.register(_end, self.requests, process)
        return self.requests


def _end(requests: socket.socket, process: subprocess.Popen[bytes]) -> None:
    requests.close()
    process.wait()


_server = _Server()


def install() -> None:
    """Fork the workers of this process from now on, with the current environment."""
    subprocess.Popen = ForkingPopen  # type: ignore[misc]
    _server.is_used = sys.platform == "linux" and hasattr(os, "fork")
    _server.environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@contextlib.contextmanager
def cold() -> Iterator[None]:
    """Start new interpreters within the block."""
    was_used, _server.is_used = _server.is_used, False
    try:
        yield
    finally:
        _server.is_used = was_used


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAX_REQUEST)
    return pair


class ForkingPopen(_RealPopen):  # type: ignore[type-arg]
    """`subprocess.Popen` that forks if possible, instead of starting a new interpreter."""

    def _execute_child(self, *args: Any) -> None:
        real = super()._execute_child  # type: ignore[misc]
        call = inspect.signature(real).bind(*args).arguments
        command = call["args"]
        if not (_server.is_used and _is_forkable(command, call)):
            real(*args)
            return
        request = {
            "command": [os.fspath(word) for word in command], "cwd": os.fspath(call["cwd"] or Path.cwd()),
            "environment": dict(os.environ if call["env"] is None else call["env"]), "parent": os.getpid(),
            "group": None if call["start_new_session"] else os.getpgrp(),
        }  # fmt: skip
        streams = (call["p2cread"], call["c2pwrite"], call["errwrite"])
        self.pid = _request_fork(_server.connect(), request, [n if fd == -1 else fd for n, fd in enumerate(streams)])
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(call[name] for name in pipes))  # type: ignore[attr-defined]


def _is_forkable(command: Any, call: Mapping[str, Any]) -> bool:
    if isinstance(command, (str, bytes)) or call["preexec_fn"] or call["pass_fds"] or call["shell"]:
        return False
    if call.get("process_group", -1) >= 0:
        return False
    words = list(command)
    module = _module(words) or ""
    if words[:1] != [sys.executable] or not module.startswith(PROGRAMS):
        return False
    return module != "optadvise" or any(word in MEASURING for word in words[3:5])


def _module(command: Sequence[str]) -> str | None:
    """Return the module that a command runs, or None."""
    words = [word for word in command[1:3] if word != "-u"] + list(command[3:])
    return words[1] if len(words) > 1 and words[0] in ("-m", start.__file__) else None


def _request_fork(server: socket.socket, request: Mapping[str, Any], streams: Sequence[int]) -> int:
    """Return the id of the forked process, which is a child of this one."""
    reply, answering = socket.socketpair()
    with reply, answering:
        reply.settimeout(_START_TIMEOUT)
        data, fds = json.dumps(request).encode(), array.array("i", [answering.fileno(), *streams])
        server.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        answering.close()
        pid = reply.recv(32)
    if not pid:
        raise OSError("the fork server exited; see stderr of the tests for its error")
    return int(pid)


def _adopt_orphans() -> None:
    """Become the parent of orphaned grandchildren, because the parent of a forked process exits at once."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# -- the server ------------------------------------------------------------------------------------------------------


def main(descriptor: int) -> NoReturn:
    """Import the modules of workers, then serve requests until the test process exits."""
    _server.folders = sys.path[:1] = [str(Path.cwd())]
    _server.environment = dict(os.environ)  # before libraries change it
    subprocess.Popen = ForkingPopen  # type: ignore[misc]  # before any module imports the name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    assert threading.active_count() == len([*Path("/proc/self/task").iterdir()]) == 1, "a fork would lose threads"
    gc.collect()
    gc.freeze()  # so that garbage collection in a child does not copy the memory
    os.setpgid(0, 0)  # signals to the group of the tests or of a program do not reach its server
    _serve(socket.socket(fileno=descriptor))


def _serve(server: socket.socket) -> NoReturn:
    """Fork for each request until the other side is closed."""
    while True:
        data, ancillary, *_ = server.recvmsg(_MAX_REQUEST, socket.CMSG_SPACE(16))
        if not data:
            os._exit(0)
        fds = array.array("i")
        for _, _, packed in ancillary:
            fds.frombytes(packed)
        middle = os.fork()
        if middle == 0:
            # The worker's parent exits at once, so that the requesting process becomes its parent.
            first_parent = os.getpid()
            if os.fork() == 0:
                server.close()
                _run(json.loads(data), first_parent, *fds)
            os._exit(0)
        os.waitpid(middle, 0)
        for fd in fds:
            os.close(fd)


def _run(request: Mapping[str, Any], first_parent: int, reply: int, *streams: int) -> NoReturn:
    """Run the requested command in this process; exit if the requesting process no longer exists."""
    while (parent := os.getppid()) == first_parent:
        time.sleep(0.0005)
    if parent != request["parent"]:
        os._exit(1)
    if request["group"] is None:
        os.setsid()
    else:
        os.setpgid(0, request["group"])
    command, environment = request["command"], request["environment"]
    module = str(_module(command))
    os.chdir(request["cwd"])
    os.write(reply, str(os.getpid()).encode())
    os.close(reply)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    for fd in {*streams} - {0, 1, 2}:
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    is_worker = start.__file__ in command
    if _set_path([] if is_worker else [request["cwd"]], environment) or _is_read_at_start(environment, is_worker):
        os.execve(command[0], command, environment)
    if is_worker:
        environment["PYTHONSAFEPATH"] = "1"
    os.environ.clear()
    os.environ.update(environment)
    _server.environment = dict(environment)
    Path("/proc/self/comm").write_text(process_name(module), encoding="ascii")
    if is_worker:
        end_with_parent()
    _prepare_process(module)
    _exit(_code_of(module, command))


def _set_path(folders: list[str], environment: Mapping[str, str]) -> bool:
    """Set `sys.path` as a new interpreter would, and return whether it hides an imported module.

    Args:
        folders: The current folder, unless the command is a worker's.
    """
    old = [*_server.folders, *_python_path(_server.environment)]
    new = [*folders, *_python_path(environment)]
    sys.path[: len(old)], _server.folders = new, folders
    importlib.invalidate_caches()
    return any(_hides_a_module(folder) for folder in {*new} - {*old})


def _python_path(environment: Mapping[str, str]) -> list[str]:
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]


def _hides_a_module(folder: str) -> bool:
    with contextlib.suppress(OSError):
        return any(entry.name.removesuffix(".py") in sys.modules for entry in Path(folder).iterdir())
    return False


def _is_read_at_start(environment: Mapping[str, str], is_worker: bool) -> bool:
    """Return whether environment variables that an interpreter reads at start-up differ."""
    old = _server.environment
    names = {*environment, *old} - {"PYTHONPATH", *(["PYTHONSAFEPATH"] if is_worker else [])}
    return any(old.get(name) != environment.get(name) for name in names if name.startswith(_READ_AT_START))


def process_name(module: str) -> str:
    """Return the name in `/proc/PID/comm` of a forked process."""
    return ".".join(module.split(".")[-2:])[:15]


def _prepare_process(module: str) -> None:
    """Fork a server if the program starts workers itself."""
    _server.is_used = module in STARTERS
    if not _server.is_used:
        return
    ours, theirs = _socket_pair()
    _adopt_orphans()
    if os.fork() == 0:
        ours.close()
        os.setpgid(0, 0)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        _serve(theirs)
    theirs.close()
    _server.requests = ours


def _code_of(module: str, command: Sequence[str]) -> int:
    """Run a module like `python -m` and return the exit code."""
    sys.argv[:] = command[command.index(module) :]
    is_unbuffered = "-u" in command[:3]
    sys.stdin, sys.stdout, sys.stderr = (
        _stream(0, "r", False), _stream(1, "w", is_unbuffered), _stream(2, "w", is_unbuffered)
    )  # fmt: skip
    _renew_random_numbers()
    _shorten_measurements()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
            runpy._run_module_as_main(module)  # type: ignore[attr-defined]
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _stream(fd: int, mode: str, is_unbuffered: bool) -> IO[str]:
    return open(fd, mode, encoding="utf-8", errors="backslashreplace" if fd == 2 else "strict",
                buffering=1 if fd == 2 or is_unbuffered else -1, closefd=False)  # fmt: skip


def _renew_random_numbers() -> None:
    """Reseed numpy; Python's `random` is reseeded after a fork automatically."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _shorten_measurements() -> None:
    """Measure the bandwidth with 4 MiB, because 256 MiB take a CPU second."""
    if "optadvise.benchmark.peak_memory" in sys.modules:
        sys.modules["optadvise.benchmark.peak_memory"].__dict__["_COPIED_BYTES"] = 2**22


def _exit(code: int) -> NoReturn:
    """Exit like an interpreter, without the teardown of imported modules."""
    threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
