"""One arm in a process of its own: reads commands as JSON lines, answers with JSON lines.

What libraries print goes to stderr: the answers go out through a copy of stdout that nothing else knows. When the
parent is gone, so that stdin ends, the process ends too, whatever it is doing.
"""

from __future__ import annotations

import functools
import json
import os
import re
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO

from optadvise.benchmark.distributed.rank_files import DEVICE, FOLDER, join
from optadvise.benchmark.spec import Arm, Spec

if TYPE_CHECKING:
    from optadvise.benchmark.distributed.ranks import Ranks
    from optadvise.benchmark.training_loop import Training

# What libraries say where a device or a type is not theirs.
_UNSUPPORTED = re.compile(
    r"not (currently |yet )?(be )?support|unsupported|only supports? |requires? (a )?(cuda|gpu|triton)"
)


def main() -> None:
    """Answer commands until stdin ends. Of several ranks the first hears and answers for all."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    ranks: Any = None
    several = FOLDER in os.environ  # and not by RANK, which a job of somebody else's may have set
    first = not several or os.environ["RANK"] == "0"
    if several:
        join()
    commands: SimpleQueue[dict[str, Any]] = SimpleQueue()
    if first:
        threading.Thread(target=_listen, args=(sys.stdin, commands), daemon=True).start()
    try:
        if several:
            from optadvise.benchmark.distributed.ranks import Ranks

            ranks = Ranks(os.environ.get(DEVICE, "cpu"))

        def hear() -> dict[str, Any]:
            told: Any = commands.get() if first else None
            found: dict[str, Any] = told if ranks is None else ranks.share(told)
            return found

        start = hear()
        answer = functools.partial(_answer, answers) if first else _silent
        serve(Spec(**start["spec"]), Arm(**start["arm"]), hear, answer, ranks)
    except BaseException as error:  # whatever ends an arm is its result
        if ranks is not None:
            ranks.failed(dict(failure(error)))  # the parent hears of the rank that began it
            os._exit(1)
        _answer(answers, **failure(error))
        sys.exit(1)


def _listen(commands: TextIO, queue: SimpleQueue[dict[str, Any]]) -> None:
    for line in commands:
        queue.put(json.loads(line))
    os._exit(1 if FOLDER in os.environ else 0)  # the parent is gone; a launcher takes 0 for the end of this rank alone


def _answer(answers: TextIO, **data: Any) -> None:
    answers.write(json.dumps(data) + "\n")
    answers.flush()


def _silent(**data: Any) -> None:
    """Leave the answer to the first rank."""


def serve(
    spec: Spec, arm: Arm, hear: Callable[[], dict[str, Any]], answer: Callable[..., None], ranks: Ranks | None
) -> None:
    """Build an arm, take its first steps, and do what is told until it is neither a round nor the finish.

    Args:
        spec: The conditions.
        arm: The optimizer.
        hear: Returns the next command.
        answer: Takes what is found.
        ranks: This process among several, None for one by itself.
    """
    import torch

    from optadvise.benchmark import training_loop
    from optadvise.benchmark.distributed import communication

    beside = 1 if ranks is None else int(os.environ["LOCAL_WORLD_SIZE"])  # processes on this machine
    torch.set_num_threads(spec.threads or max(1, _cores() // beside))
    training = training_loop.Training(spec, arm, ranks)
    begin = time.perf_counter()
    training.step()
    first = time.perf_counter() - begin  # allocates state and compiles, so it is told apart
    counts = training.counts()
    for _ in range(spec.warmup):
        training.step()
    whole = counts if ranks is None else _of_all(counts, ranks)
    answer(event="ready", first_step_seconds=first, environment=_environment(spec, arm), **whole)
    measured: list[dict[str, list[float]]] = []
    while True:
        command = hear()["command"]
        if command == "round":
            measured.append(training.round())
            answer(event="round", samples=measured[-1])
        elif command == "finish":
            answer(event="done", **_end(training, measured, counts))
        elif command == "parity":
            assert ranks is not None
            answer(event="parity", share=communication.parity(training, ranks))
        else:
            return


def _end(training: Training, measured: list[dict[str, list[float]]], counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return memory, losses and bandwidth at the end, and what each rank has of it where there are several."""
    import torch

    from optadvise.benchmark import peak_memory
    from optadvise.benchmark.distributed import communication, wrapping

    spec, ranks = training.spec, training.ranks
    peak = peak_memory.peak_memory(spec.device)
    weights = [wrapping.local(p) for _, p in training.named]
    finite = all(map(_finite, training.losses)) and all(bool(torch.isfinite(p).all()) for p in weights)
    losses = [loss if _finite(loss) else None for loss in training.losses[: spec.total_steps]]
    found: dict[str, Any] = {"peak_memory_bytes": peak, "losses": losses, "finite": finite}
    if ranks is None:
        found["transient_bytes"] = peak_memory.transient_bytes(training)
        return {**found, "device_bandwidth": peak_memory.device_bandwidth(spec.device)}
    mine = {
        "rank": ranks.number, "peak_memory_bytes": peak, "finite": finite,
        **{name: counts[name] for name in ("parameter_bytes", "gradient_bytes", "state_bytes")},
        **{f"{part}_seconds": statistics.median(s for one in measured for s in one[part]) for part in measured[0]},
        "communication_share": communication.communication_share(training),
    }  # fmt: skip
    told = ranks.gather(mine)
    alone = communication.alone_seconds(spec, training.arm) if ranks.number == 0 else None
    ranks.share(None)  # the others wait, so that nothing slows the one that is by itself
    largest = {name: max((rank["peak_memory_bytes"][name] or 0 for rank in told), default=0) or None for name in peak}
    return {**found, "finite": all(rank["finite"] for rank in told), "peak_memory_bytes": largest,
            "transient_bytes": None, "device_bandwidth": None, "ranks": told, "alone_step_seconds": alone}  # fmt: skip


def _of_all(counts: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Return the counts of the rank that holds most, with the state of all."""
    told = ranks.gather(dict(counts))
    largest = {name: max(rank[name] for rank in told)
               for name in ("parameter_bytes", "gradient_bytes", "state_bytes")}  # fmt: skip
    each = largest["state_bytes"] / counts["parameters"]
    total = sum(rank["state_bytes"] for rank in told)
    # What a rank's step moves goes by how the engine shares it out, and its time has the waiting for others in it.
    return {**counts, **largest, "state_bytes_per_parameter": each, "total_state_bytes": total, "bytes_per_step": None}


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


def failure(error: BaseException) -> Mapping[str, Any]:
    """Return what ended the arm: out of memory, not possible here, or an error."""
    from optadvise.core.errors import CannotRunHereError, InputError

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
        from optadvise.benchmark import peak_memory

        device = "cuda" if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized() else "cpu"
        return peak_memory.peak_memory(device)
    except Exception:  # after an allocation failed nothing is certain
        return None


if __name__ == "__main__":
    if sys.argv[1:]:
        from optadvise.benchmark.distributed import torchrun_entry

        sys.exit(torchrun_entry.main(sys.argv[1:]))
    main()
