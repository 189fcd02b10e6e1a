"""Report what is installed and usable on this machine, and what is not and why. Imports no torch."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata

from msgspec import Struct

from optadvise.core import hardware
from optadvise.core.cards import Implementation, Optimizer
from optadvise.core.errors import CannotRunHereError
from optadvise.diagnostics.probe_client import PROBE, TIMEOUT_SECONDS, is_missing, probe_imports
from optadvise.diagnostics.records import Device, DoctorReport, OptimizerSupport, TorchDevice, TorchFacts, TorchReport
from optadvise.rulebase.catalog import Catalog

_OPTIONAL_PACKAGES = ("matplotlib",)  # beside those of the optimizers
_CUDA_BUILD = "a CUDA build of torch is at https://pytorch.org/get-started"


class Machine(Struct, frozen=True):
    """Properties of this machine that decide whether an optimizer runs on it."""

    torch_error: str | None
    import_errors: Mapping[str, str | None]  # by import path
    device_kinds: Collection[str]  # cpu, cuda, mps; only usable ones
    versions: Mapping[str, str | None]  # by package


def examine_machine(
    catalog: Catalog, *, command: Sequence[str] = PROBE, timeout: float = TIMEOUT_SECONDS
) -> DoctorReport:
    """Return the report of `optadvise doctor`.

    Args:
        command: The probe's command line; tests pass others.
        timeout: Seconds that one probe may take.
    """
    cards = [catalog.optimizer(name) for name in catalog.optimizer_ids]
    implementations = [implementation for card in cards for implementation in card.implementations]
    probed = probe_imports([each.path for each in implementations], command=command, timeout=timeout)
    torch = probed.torch
    packages = {*(each.package for each in implementations if each.package), *_OPTIONAL_PACKAGES} - {"torch"}
    versions = _read_versions(["torch", *sorted(packages)])
    versions["torch"] = torch.version or versions["torch"]
    devices, driver_problem = _list_devices(torch)
    machine = Machine(
        torch_error=torch.error,
        import_errors=probed.errors,
        device_kinds={device.kind for device in devices if device.usable},
        versions=versions,
    )
    return DoctorReport(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=versions,
        torch=TorchReport(
            imports=torch.imports,
            error=torch.error,
            built_for=torch.built_for,
            threads=torch.threads,
            why_no_cuda=torch.why_no_cuda,
        ),
        devices=tuple(devices),
        driver_problem=driver_problem,
        optimizers=tuple(_check_optimizer(card, machine) for card in cards),
    )


def _read_versions(packages: Iterable[str]) -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


# -- devices ----------------------------------------------------------------------------------------------------------


def _list_devices(torch: TorchFacts) -> tuple[list[Device], str | None]:
    """Return the devices that torch and the NVIDIA driver list, and what is wrong with the driver."""
    gpus: list[hardware.NvidiaGpu] = []
    problem = None
    try:
        gpus = hardware.list_nvidia_gpus()
    except CannotRunHereError as error:
        problem = str(error)
    driver = gpus[0].driver if gpus else None  # one driver serves all
    visible = [_describe_device(device, driver) for device in torch.devices]
    return [_describe_cpu(torch), *visible, *_list_hidden_gpus(torch, gpus)], problem


def _describe_cpu(torch: TorchFacts) -> Device:
    return Device(
        device="cpu",
        kind="cpu",
        name=hardware.name_processor(),
        memory_bytes=hardware.read_main_memory(),
        threads=torch.threads,
        usable=torch.imports,
        why_not=None if torch.imports else "torch cannot be imported",
    )


def _describe_device(device: TorchDevice, driver: str | None) -> Device:
    return Device(
        device=device.device,
        kind=device.kind,
        name=device.name,
        memory_bytes=device.memory_bytes,
        driver=driver if device.kind == "cuda" else None,
        compute_capability=device.compute_capability,
        usable=device.why_not is None,
        why_not=device.why_not,
    )


def _list_hidden_gpus(torch: TorchFacts, gpus: Sequence[hardware.NvidiaGpu]) -> list[Device]:
    """Return the GPUs that the driver lists and torch does not."""
    visible = {device.uuid.removeprefix("GPU-") for device in torch.devices if device.kind == "cuda"}
    # A slice of a GPU (MIG) has an id of its own, so that its GPU is not known; then no GPU is called hidden.
    if not visible <= {gpu.uuid.removeprefix("GPU-") for gpu in gpus}:
        return []
    reason = _explain_hidden(torch)
    return [
        Device(
            device=None, kind="cuda", name=gpu.name, memory_bytes=gpu.memory_bytes, driver=gpu.driver, usable=False,
            why_not=reason,
        )
        for gpu in gpus
        if gpu.uuid.removeprefix("GPU-") not in visible
    ]  # fmt: skip


def _explain_hidden(torch: TorchFacts) -> str:
    """Return why torch does not list a GPU that the driver lists."""
    if not torch.imports:
        return "torch cannot be imported"
    if torch.why_no_cuda is None:
        return "hidden from this process, as by CUDA_VISIBLE_DEVICES"
    is_cuda_build = (torch.built_for or "").startswith("CUDA")
    remedy = "" if is_cuda_build else f"; {_CUDA_BUILD}"
    return f"no CUDA: {torch.why_no_cuda}{remedy}"


# -- optimizers -------------------------------------------------------------------------------------------------------


def _check_optimizer(card: Optimizer, machine: Machine) -> OptimizerSupport:
    """Return which implementation of an optimizer runs here, or why none does."""
    reasons: list[str] = []
    for implementation in card.implementations:
        reason = _explain_unusable(card, implementation, machine)
        if reason is None:
            first = card.implementations[0].path
            note = f"{implementation.path} stands in for {first}: {reasons[0]}" if reasons else None
            return OptimizerSupport(id=card.id, runs=True, implementation=implementation.path, why_not=None, note=note)
        reasons.append(reason)
    curable = next((reason for reason in reasons if "pip install" in reason), reasons[0])
    return OptimizerSupport(id=card.id, runs=False, implementation=None, why_not=curable, note=None)


def _explain_unusable(card: Optimizer, implementation: Implementation, machine: Machine) -> str | None:
    """Return why an implementation does not run here, None if it does."""
    path, package = implementation.path, implementation.package
    if machine.torch_error is not None:
        return machine.torch_error
    if card.paged and "cuda" not in machine.device_kinds:
        is_missing_too = package is not None and machine.versions[package] is None
        also = f"; it would also need pip install {package}" if is_missing_too else ""
        return f"its state is paged, which needs CUDA, and there is no such device here{also}"
    if not {*machine.device_kinds} & {*implementation.devices}:
        usable = ", ".join(sorted(machine.device_kinds))
        return f"{path} runs on {', '.join(implementation.devices)}; usable here: {usable}"
    version = machine.versions.get(package or "")
    minimum = implementation.min_version
    if minimum and version and _parse_version(version) < _parse_version(minimum):
        requirement = f"{package}>={minimum}"
        return f"{path} needs {requirement}, and this is {version}; pip install '{requirement}'"
    error = machine.import_errors[path]
    return None if error is None else _explain_import_error(card, implementation, error)


def _explain_import_error(card: Optimizer, implementation: Implementation, error: str) -> str:
    top_level = implementation.path.split(".")[0]
    if implementation.package is None:
        return f"{top_level} is not on PyPI ({error}); optadvise show {card.id} has the note"
    if is_missing(error, top_level):
        return f"{implementation.package} is not installed; pip install {implementation.package}"
    return f"{implementation.path} cannot be imported ({error}); pip install --upgrade {implementation.package}"


def _parse_version(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; empty if it has none."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
