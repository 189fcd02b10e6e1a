"""What torch and the optimizers' packages say of themselves, in a process of its own: they may hang, crash or chatter.

Reads a JSON list of import paths, one line on stdin, and answers with JSON lines: one for torch, then one for each path
as soon as it has been tried, so that the parent knows where a process that went away had come to. As in `worker`, the
answers go out through a copy of stdout that nothing else knows, and the process ends with its stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import warnings
from typing import Any


def main() -> None:
    """Answer one list of import paths."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    paths = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    facts = _torch()
    answers.write(json.dumps({"torch": facts}) + "\n")
    answers.flush()
    for path in paths if facts["imports"] else ():
        answers.write(json.dumps({"path": path, "error": _error(path)}) + "\n")
        answers.flush()
    os._exit(0)  # what was loaded need not be taken down, which some libraries do badly


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _error(path: str) -> str | None:
    """Return why the class at an import path cannot be had, None where it can."""
    module, _, name = path.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)
    except BaseException as error:  # a library may raise anything, SystemExit too
        return _first_line(error)
    return None


def _torch() -> dict[str, Any]:
    try:
        import torch

        devices = _cuda() + _mps()
        kits = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
        return {
            "imports": True,
            "error": None,
            "version": torch.__version__,
            "built_for": next((f"{kit} {version}" for kit, version in kits.items() if version), "the CPU"),
            "threads": torch.get_num_threads(),
            "devices": devices,
            "why_no_cuda": None if any(d["kind"] == "cuda" for d in devices) else _why_no_cuda(),
        }
    except BaseException as error:  # as above
        return {"imports": False, "error": _first_line(error)}


def _cuda() -> list[dict[str, Any]]:
    import torch

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = f"cuda:{number}"
        about = {"device": device, "kind": "cuda", "name": None, "memory_bytes": None, "compute_capability": None}
        try:
            properties = torch.cuda.get_device_properties(number)
            about |= {
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "uuid": str(getattr(properties, "uuid", "")),
            }
            why_not = _tried(device)
        except Exception as error:  # a device that is listed but not usable is a finding
            why_not = _first_line(error)
        found.append({**about, "why_not": why_not})
    return found


def _mps() -> list[dict[str, Any]]:
    import torch

    if not torch.backends.mps.is_available():
        return []
    memory = torch.mps.recommended_max_memory() if hasattr(torch.mps, "recommended_max_memory") else None
    return [{"device": "mps", "kind": "mps", "name": "Apple GPU", "memory_bytes": memory, "why_not": _tried("mps")}]


def _tried(device: str) -> str | None:
    """Compute something: a torch that has no kernels for a device lists it all the same."""
    import torch

    try:
        torch.ones(8, device=device).sum().item()
    except Exception as error:  # whatever it is, it is why the device cannot be used
        return _first_line(error)
    return None


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without it"
    try:
        torch.cuda.init()
    except Exception as error:  # its message is the answer
        return _first_line(error)
    return "torch sees no device"


if __name__ == "__main__":
    main()
