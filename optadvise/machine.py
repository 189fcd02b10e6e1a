"""What this machine has, read without torch."""

from __future__ import annotations

import shutil
import subprocess

from optadvise.errors import CannotRunHereError


def gpu_here() -> tuple[str, int]:
    """Return the name and the memory in bytes of this machine's smallest NVIDIA GPU.

    Raises:
        CannotRunHereError: There is none, or its driver does not answer.
    """
    remedy = "say --vram 24GB or --gpu NAME instead"
    program = shutil.which("nvidia-smi")
    if program is None:
        raise CannotRunHereError(f"--vram auto: no NVIDIA driver (nvidia-smi) on this machine; {remedy}")
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        found = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
        sizes = sorted((int(size) * 2**20, name.strip()) for name, size in found)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        raise CannotRunHereError(f"--vram auto: nvidia-smi gave no answer; {remedy}") from error
    if not sizes:
        raise CannotRunHereError(f"--vram auto: nvidia-smi lists no GPU; {remedy}")
    return sizes[0][1], sizes[0][0]
