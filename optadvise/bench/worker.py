"""One arm in a process of its own: reads commands as JSON lines, answers with JSON lines.

What libraries print goes to stderr: the answers go out through a copy of stdout that nothing else knows. When the
parent is gone, so that stdin ends, the process ends too, whatever it is doing.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, TextIO

from optadvise.bench.spec import Arm, Spec

# What libraries say where a device or a type is not theirs.
_UNSUPPORTED = re.compile(
    r"not (currently |yet )?(be )?support|unsupported|only supports? |requires? (a )?(cuda|gpu|triton)"
)


def main() -> None:
    """Answer commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    commands: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, commands), daemon=True).start()
    start = commands.get()
    spec, arm = Spec(**start["spec"]), Arm(**start["arm"])
    try:
        _serve(spec, arm, commands, answers)
    except BaseException as error:  # whatever ends an arm is its result
        _answer(answers, **_failure(error))
        sys.exit(1)


def _listen(commands: TextIO, queue: SimpleQueue[dict[str, Any]]) -> None:
    for line in commands:
        queue.put(json.loads(line))
    os._exit(0)  # the parent is gone


def _answer(answers: TextIO, **data: Any) -> None:
    answers.write(json.dumps(data) + "\n")
    answers.flush()


def _serve(spec: Spec, arm: Arm, commands: SimpleQueue[dict[str, Any]], answers: TextIO) -> None:
    import torch

    from optadvise.bench import measure

    torch.set_num_threads(spec.threads or _cores())
    training = measure.Training(spec, arm)
    begin = time.perf_counter()
    training.step()
    first = time.perf_counter() - begin  # allocates state and compiles, so it is told apart
    counts = training.counts()
    for _ in range(spec.warmup):
        training.step()
    _answer(answers, event="ready", first_step_seconds=first, environment=_environment(spec, arm), **counts)
    while True:
        command = commands.get()["command"]
        if command == "round":
            _answer(answers, event="round", samples=training.round())
        elif command == "finish":
            peak = measure.peak_memory(spec.device)
            finite = all(map(_finite, training.losses)) and all(
                bool(torch.isfinite(p).all()) for _, p in training.named
            )
            _answer(
                answers,
                event="done",
                peak_memory_bytes=peak,
                transient_bytes=measure.transient_bytes(training),
                device_bandwidth=measure.device_bandwidth(spec.device),
                losses=[loss if _finite(loss) else None for loss in training.losses[: spec.total_steps]],
                finite=finite,
            )
        else:
            return


def _environment(spec: Spec, arm: Arm) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    import torch

    packages = {"torch": torch.__version__}
    try:
        if arm.package is not None:
            packages[arm.package] = version(arm.package)
    except PackageNotFoundError:
        packages[str(arm.package)] = "unknown"
    name = torch.cuda.get_device_name() if spec.device.startswith("cuda") else None
    return {"device": spec.device, "device_name": name, "threads": torch.get_num_threads(), "packages": packages}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finite(value: float) -> bool:
    return value - value == 0


def _failure(error: BaseException) -> Mapping[str, Any]:
    """Return what ended the arm: out of memory, not possible here, or an error."""
    from optadvise.errors import CannotRunHereError, InputError

    text = " ".join(str(error).split()) or type(error).__name__
    kind = type(error).__name__
    lowered = text.lower()
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError) or "can't allocate memory" in lowered or (
        "defaultcpuallocator" in lowered
    ):  # fmt: skip
        return {"event": "failed", "status": "oom", "error": text[:300], "peak_memory_bytes": _peak()}
    if isinstance(error, CannotRunHereError):
        return {"event": "failed", "status": "unsupported", "error": text}
    if isinstance(error, InputError):
        return {"event": "failed", "status": "input", "error": text}
    status = "unsupported" if _UNSUPPORTED.search(lowered) else "error"
    return {"event": "failed", "status": status, "error": f"{kind}: {text[:300]}"}


def _peak() -> dict[str, int | None] | None:
    try:
        from optadvise.bench import measure

        device = "cuda" if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized() else "cpu"
        return measure.peak_memory(device)
    except Exception:  # after an allocation failed nothing is certain
        return None


if __name__ == "__main__":
    main()
