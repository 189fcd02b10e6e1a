"""Run a command line in this process, in a temporary folder and without real worker processes."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn
from unittest import mock

import optadvise.verify
from optadvise.benchmark.measurement import ArmFailure, ArmMeasurement
from optadvise.core import worker
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from tests.cli import optadvise as run_command
from tests.fuzz.cases import Case, FindingError, Outcome
from tests.results import make_measurement, make_rounds

HANG_SECONDS = 120  # wall-clock time, on a machine that may be busy
_MEMORY_BYTES = 4 * 2**30  # more than any command needs


class HangError(BaseException):
    """A command line did not end; no handler of the program catches this."""


class OutsideError(BaseException):
    """A command line writes outside the sandbox."""


class Sandbox:
    """Folder in which the cases run one after the other."""

    def __init__(self, root: Path) -> None:
        """Create the folder."""
        self._root = root
        self._numbers = itertools.count()
        self.cache = root / "cache"

    def run(self, case: Case) -> Outcome:
        """Run a case and return what it printed.

        Raises:
            FindingError: It raised an unexpected exception, or did not end.
        """
        base = self._root / f"{next(self._numbers)}"
        folder = base / "outer" / "work"  # so that .. and ../.. are inside
        try:
            _write(folder, case.files)
            _write(base / "cache", case.cache or {})
            if case.cache is not None:
                forget_rules()
            with self._environment(base, folder, case), _limits(), _guard.watch(self._root):
                return _run(case, folder)
        finally:
            shutil.rmtree(base, ignore_errors=True)

    @contextlib.contextmanager
    def _environment(self, base: Path, folder: Path, case: Case) -> Iterator[None]:
        """Set the working folder and the environment variables; replace worker processes."""
        variables = {
            "HOME": str(base), "OPTADVISE_DATA_DIR": str(folder / "data"), "COLUMNS": "80", "TYPER_USE_RICH": "0",
            "OPTADVISE_CACHE_DIR": str(self.cache if case.cache is None else base / "cache"), "NO_COLOR": "1",
        }  # fmt: skip
        if not case.is_real:
            variables["PATH"] = str(base)  # no nvidia-smi, no sbatch
        stdin = io.TextIOWrapper(io.BytesIO(case.stdin), encoding="utf-8", errors="surrogateescape")
        before = Path.cwd()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, variables))
            stack.enter_context(mock.patch.object(sys, "stdin", stdin))
            if not case.is_real:
                stack.enter_context(_fake_workers())
            os.chdir(folder)
            stack.callback(os.chdir, before)
            yield


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _run(case: Case, folder: Path) -> Outcome:
    started = time.process_time()
    try:
        result = run_command(*case.arguments)
    except OutsideError as error:
        raise FindingError("writes outside", case, str(error)) from None
    except HangError:
        raise FindingError(f"no end within {HANG_SECONDS} s", case) from None
    except (Exception, SystemExit) as error:
        raise FindingError(f"exception: {describe_origin(error)}", case, str(error)[:300]) from error
    seconds = time.process_time() - started
    return Outcome(
        code=result.code, out=_as_printed(result.out), err=_as_printed(result.err), failure=result.failure,
        seconds=seconds, written=dict(_read_written(folder, case.files)),
    )  # fmt: skip


def _as_printed(text: str) -> str:
    """Return a text as a terminal gets it: stdout and stderr replace what cannot be encoded."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _read_written(folder: Path, before: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the text files that a command wrote, without those that it set aside; what is no text as U+FFFD."""
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        is_text = file.suffix.lower() not in (".png", ".pdf", ".gif", ".lock", ".damaged")
        if not is_text or file.is_symlink() or not file.is_file():
            continue
        content = file.read_bytes()
        if before.get(name) != content:
            yield name, content.decode("utf-8", errors="replace")


def forget_rules() -> None:
    """Empty the caches of the program's functions, as in a new process."""
    for name, module in list(sys.modules.items()):
        if name.startswith("optadvise."):
            for value in list(vars(module).values()):
                getattr(value, "cache_clear", lambda: None)()


def describe_origin(error: BaseException) -> str:
    """Return the type of an exception, and the innermost place in the program that raised it."""
    place, step = "", error.__traceback__
    while step is not None:
        file = Path(step.tb_frame.f_code.co_filename)
        if "optadvise" in file.parts and "site-packages" not in file.parts:
            place = f"{file.parent.name}/{file.name}:{step.tb_frame.f_code.co_name}"
        step = step.tb_next
    return f"{type(error).__name__} in {place}"


# -- limits -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Limit the time and the memory of a command, which may read /dev/zero or a pipe without an end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    before = signal.signal(signal.SIGALRM, _raise_hang)
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY_BYTES, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, remaining)
        signal.signal(signal.SIGALRM, before)


def _raise_hang(number: int, frame: FrameType | None) -> NoReturn:
    raise HangError


class _Guard:
    """Rejects writes outside the sandbox: a fault, which could also damage this machine."""

    _EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
    _NAMED = ("/dev/", "/proc/")  # command lines name files in these folders
    _OPEN_DEVICES = ("/dev/null", "/dev/full", "/dev/tty")  # writing to these is harmless, replacing them is not

    def __init__(self) -> None:
        self._roots: tuple[str, ...] = ()
        self._is_installed = False

    @contextlib.contextmanager
    def watch(self, root: Path) -> Iterator[None]:
        """Reject writes outside a folder and the folder of temporary files."""
        if not self._is_installed:  # cannot be removed
            sys.addaudithook(self._check)
            self._is_installed = True
        self._roots = (f"{root.resolve()}/", f"{Path(tempfile.gettempdir()).resolve()}/")
        try:
            yield
        finally:
            self._roots = ()

    def _check(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._roots:
            return
        paths: tuple[Any, ...] = ()
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and arguments[0] not in self._OPEN_DEVICES:
            paths = arguments[:1]
        elif event in self._EVENTS and not (event == "os.mkdir" and Path(arguments[0]).is_dir()):
            paths = arguments[:2]
        for path in paths:
            if isinstance(path, str) and not self._is_inside(path):
                if path.startswith(self._NAMED):
                    raise PermissionError(errno.EACCES, "Permission denied", path)
                raise OutsideError(f"{event} {path}")

    def _is_inside(self, path: str) -> bool:
        full = os.path.realpath(path)
        return full.startswith(self._roots) or "__pycache__" in full or f"{full}/" in self._roots


_guard = _Guard()


# -- worker processes -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _fake_workers() -> Iterator[None]:
    """Replace measurements by synthetic ones; every other worker process cannot be started."""
    module, real = ModuleType("optadvise.verify.trajectories"), sys.modules.get("optadvise.verify.trajectories")
    vars(module)["compute_trajectories"] = _reject_trajectories
    with (
        mock.patch.object(worker, "start_process", side_effect=OSError(8, "not started by the fuzzer")),
        mock.patch("optadvise.benchmark.runner.run_arms", _measure_nothing),
        mock.patch.object(optadvise.verify, "trajectories", module, create=True),
    ):
        sys.modules[module.__name__] = module  # `mock.patch.dict` would also forget what a command imports
        try:
            yield
        finally:
            del sys.modules[module.__name__]
            if real is not None:
                sys.modules[module.__name__] = real


def _measure_nothing(arms: Sequence[Any], rounds: int, **_: Any) -> list[ArmMeasurement]:
    """Return what a runner returns, without a measurement."""
    return [_make_measurement(one.arm, number, min(rounds, 3)) for number, one in enumerate(arms)]


def _make_measurement(arm: Any, number: int, rounds: int) -> ArmMeasurement:
    if arm.unsupported is not None:
        failure = ArmFailure(status="unsupported", error=arm.unsupported, code=arm.unsupported_code)
        return ArmMeasurement(arm=arm, failure=failure)
    made = make_measurement(arm.label, arm.role, make_rounds(1.0 + number / 8, count=rounds, seed=number))
    made.arm = arm
    return made


def _reject_trajectories(*_: object) -> NoReturn:
    raise CannotRunHereError("not started by the fuzzer", code=ErrorCode.NOTHING_MEASURED)
