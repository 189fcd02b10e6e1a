"""Client of the import probe, which restarts it after packages that hang or crash. Does not import torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from msgspec.structs import replace

from optadvise.core.worker import WorkerError, WorkerProcess, WorkerTimeoutError, module_command
from optadvise.diagnostics.records import ImportResult, ProbeAnswer, ProbeRequest, ProbeResult, TorchFacts

PROBE = module_command("optadvise.diagnostics.probe")
TIMEOUT_SECONDS = 60.0  # importing torch from a cold network disk takes half of that


def probe_imports(
    paths: Iterable[str],
    has_cuda: Mapping[str, str] = MappingProxyType({}),
    *,
    command: Sequence[str] = PROBE,
    timeout: float = TIMEOUT_SECONDS,
) -> ProbeResult:
    """Describe the installed torch, and try to import classes.

    If a package hangs or crashes the probe, this is the error of its classes, and a new probe imports the others.

    Args:
        paths: Import paths of the classes.
        has_cuda: Attribute that is true if the package has loaded its GPU library, by import path.
        command: Command line of the probe; tests replace it.
        timeout: Time limit of one probe in seconds.
    """
    remaining = list(dict.fromkeys(paths))
    torch: TorchFacts | None = None
    errors: dict[str, str | None] = {}
    without_cuda: set[str] = set()
    while remaining or torch is None:
        answers, end = _run_probe(command, ProbeRequest(tuple(remaining), has_cuda=dict(has_cuda)), timeout)
        facts = next((answer for answer in answers if isinstance(answer, TorchFacts)), None)
        torch = torch or facts or TorchFacts(imports=False, error=end)
        if not torch.imports:
            return ProbeResult(replace(torch, error=_explain_torch_error(torch.error or "")), {})
        results = [answer for answer in answers if isinstance(answer, ImportResult)]
        errors.update((result.path, result.error) for result in results)
        without_cuda |= {result.path for result in results if result.has_cuda is False}
        remaining = [path for path in remaining if path not in errors]
        if remaining:
            package = remaining[0].split(".")[0]
            errors.update((path, end) for path in remaining if path.split(".")[0] == package)
            remaining = [path for path in remaining if path not in errors]
    return ProbeResult(torch, errors, frozenset(without_cuda))


def probe_torch(
    devices: Sequence[str], *, command: Sequence[str] = PROBE, timeout: float = TIMEOUT_SECONDS
) -> TorchFacts:
    """Describe the installed torch, and run a kernel on some devices.

    Args:
        devices: torch's names of the devices.
        command: Command line of the probe; tests replace it.
        timeout: Time limit in seconds.
    """
    answers, end = _run_probe(command, ProbeRequest((), tuple(devices)), timeout)
    facts = next((answer for answer in answers if isinstance(answer, TorchFacts)), None)
    facts = facts or TorchFacts(imports=False, error=end)
    return facts if facts.imports else replace(facts, error=_explain_torch_error(facts.error or ""))


def _run_probe(command: Sequence[str], request: ProbeRequest, timeout: float) -> tuple[list[ProbeAnswer], str]:
    """Run one probe and return its answers, and the reason if they are incomplete."""
    answers: list[ProbeAnswer] = []
    deadline = time.monotonic() + timeout
    try:
        with WorkerProcess(command) as process:
            process.send(request)
            while len(answers) <= len(request.paths):
                answer: ProbeAnswer = process.receive(ProbeAnswer, deadline - time.monotonic())
                answers.append(answer)
                if isinstance(answer, TorchFacts) and not answer.imports:
                    break
    except WorkerTimeoutError:
        return answers, f"no answer within {timeout:g} s"
    except WorkerError as error:
        return answers, f"the probe {error}"
    return answers, ""


def _explain_torch_error(error: str) -> str:
    if is_missing(error, "torch"):
        return "torch is not installed; pip install torch"
    return f"torch cannot be imported ({error}); run python -c 'import torch' or pip install --force-reinstall torch"


def is_missing(error: str, package: str) -> bool:
    """Return whether an import error means that the package itself is not installed."""
    return error == f"ModuleNotFoundError: No module named {package!r}"
