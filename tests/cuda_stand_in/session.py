"""Use of the stand-in by tests: start workers and programs on it, and read its log. Imports no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO

import pytest

from optadvise.core import worker
from tests.cuda_stand_in.settings import FOLDER, Call, Gpu, Settings, read_build_version, read_log, write_settings

_ROOT = Path(__file__).parent.parent.parent
_MODULE = "tests.cuda_stand_in"
_NVIDIA_SMI = """#!{python}
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.cuda_stand_in.nvidia_smi import main
main(Path({folder!r}))
"""
_COMMAND = """
import sys
import pytest
from optadvise.cli.app import run
from tests.cuda_stand_in.session import patch_process
with pytest.MonkeyPatch.context() as patch:
    patch_process(patch)
    sys.exit(run(sys.argv[1:]))
"""


class StandIn:
    """GPUs that the processes of a test share."""

    def __init__(self, folder: Path) -> None:
        """Store the folder of the settings and of the log."""
        self.folder = folder

    def list_calls(self, *names: str) -> list[Call]:
        """Return the logged calls so far, of all functions or of some."""
        return [call for call in read_log(self.folder) if not names or call.name in names]

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command line of optadvise."""
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", _COMMAND, *arguments], stdout=pipe, stderr=pipe, text=True)

    def start_program(self, file: Path, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program in its folder."""
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", _MODULE, str(file), *arguments]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=file.parent)

    def run_program(self, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program in its folder."""
        with self.start_program(file, *arguments) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def cuda_stand_in(*gpus: Gpu, seconds_per_launch: float = 0.0, skipped_steps: int = 0) -> Iterator[StandIn]:
    """Start the workers of optadvise on GPUs of the stand-in, within the context.

    Args:
        gpus: All GPUs; none for a machine on which torch lists no GPU.
        seconds_per_launch: See `Settings`.
        skipped_steps: See `Settings`.
    """
    settings = Settings(gpus=gpus, seconds_per_launch=seconds_per_launch, skipped_steps=skipped_steps)
    with tempfile.TemporaryDirectory(prefix="cuda-stand-in-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        write_settings(folder, settings)
        _write_nvidia_smi(folder / "bin")
        patch.setenv(FOLDER, str(folder))
        patch.setenv("OPTADVISE_DATA_DIR", str(folder / "data"))  # no evidence of other tests
        patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(_ROOT))  # of the programs
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setenv("TMPDIR", str(folder))  # locks on GPUs
        patch.setattr(tempfile, "tempdir", None)
        patch_process(patch)
        try:
            _clear_caches()
            yield StandIn(folder)
        finally:
            _clear_caches()


def patch_process(patch: pytest.MonkeyPatch) -> None:
    """Let this process start its workers on the stand-in, and read the versions of a machine with CUDA."""
    patch.setattr(worker, "start_process", _start_process)
    patch.setattr(metadata.Distribution, "version", property(read_build_version))


def _write_nvidia_smi(folder: Path) -> None:
    folder.mkdir()
    file = folder / "nvidia-smi"
    text = _NVIDIA_SMI.format(python=sys.executable, root=str(_ROOT), folder=str(folder.parent))
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


_start = worker.start_process


def _start_process(
    command: Sequence[str], environment: Mapping[str, str] | None, stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a worker's module on the stand-in."""
    python, start, *module_and_arguments = command
    path = {"PYTHONPATH": str(_ROOT)}  # without the current folder, a worker does not find the tests
    return _start((python, start, _MODULE, *module_and_arguments), {**(environment or os.environ), **path}, stderr)


def _clear_caches() -> None:
    """Forget the devices and versions that modules have read."""
    for name, module in [*sys.modules.items()]:
        if name.startswith(("optadvise.core.", "optadvise.benchmark.")):
            for function in vars(module).values():
                if hasattr(function, "cache_clear"):
                    function.cache_clear()
