"""Report of installed packages, usable devices and supported optimizers. Does not import torch."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata

from msgspec import Struct

from optadvise.core import hardware, nvidia
from optadvise.core.cards import Implementation, Optimizer
from optadvise.core.errors import CannotRunHereError
from optadvise.diagnostics.probe_client import PROBE, TIMEOUT_SECONDS, is_missing, probe_imports
from optadvise.diagnostics.records import Device, DoctorReport, OptimizerSupport, TorchDevice, TorchFacts, TorchReport
from optadvise.evidence.versions import parse_version
from optadvise.rulebase.catalog import Catalog

_OPTIONAL_PACKAGES = {"matplotlib": "optional: pictures"}  # in addition to the packages of the optimizers
_CUDA_BUILD = "install a CUDA build of torch: https://pytorch.org/get-started"


class Machine(Struct, frozen=True):
    """Properties of this machine that decide whether an optimizer runs on it."""

    torch_error: str | None
    import_errors: Mapping[str, str | None]  # by import path
    not_imported: Mapping[str, str]  # why the class may not be imported, by import path
    without_cuda: Collection[str]  # import paths whose package has not loaded its GPU library
    built_for: str  # toolkit of torch, such as CUDA 12.8
    device_kinds: Collection[str]  # usable ones of cpu, cuda and mps
    versions: Mapping[str, str | None]  # by package


def examine_machine(
    catalog: Catalog, *, command: Sequence[str] = PROBE, timeout: float = TIMEOUT_SECONDS
) -> DoctorReport:
    """Return the report of `optadvise doctor`.

    Args:
        command: Command line of the probe; tests replace it.
        timeout: Time limit of one probe in seconds.
    """
    cards = [catalog.optimizer(name) for name in catalog.optimizer_ids]
    implementations = [implementation for card in cards for implementation in card.implementations]
    reasons = {each.path: catalog.imports.explain(each.path) for each in implementations}
    paths = [path for path, reason in reasons.items() if reason is None]
    flags = {each.path: each.has_cuda for each in implementations if each.has_cuda is not None}
    allowed = {path: flag for path, flag in flags.items() if catalog.imports.explain(flag) is None}
    probed = probe_imports(paths, allowed, command=command, timeout=timeout)
    torch = probed.torch
    packages = {*(each.package for each in implementations if each.package), *_OPTIONAL_PACKAGES} - {"torch"}
    versions = _read_versions(["torch", *sorted(packages)])
    versions["torch"] = torch.version or versions["torch"]
    devices, driver_problem = _list_devices(torch)
    machine = Machine(
        torch_error=torch.error,
        import_errors=probed.errors,
        not_imported={path: reason for path, reason in reasons.items() if reason is not None},
        without_cuda=probed.without_cuda,
        built_for=torch.built_for or "this GPU",
        device_kinds={device.kind for device in devices if device.usable},
        versions=versions,
    )
    support = tuple(_check_optimizer(card, machine) for card in cards)
    return DoctorReport(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=versions,
        missing={package: _describe_purpose(package, cards) for package in versions if not versions[package]},
        torch=TorchReport(
            imports=torch.imports,
            error=torch.error,
            built_for=torch.built_for,
            threads=torch.threads,
            why_no_cuda=torch.why_no_cuda,
        ),
        devices=tuple(devices),
        driver_problem=driver_problem,
        optimizers=support,
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
    """Return the devices that torch and the NVIDIA driver list, and the driver's problem, or None."""
    gpus: list[nvidia.NvidiaGpu] = []
    problem = None
    try:
        gpus = nvidia.list_nvidia_gpus()
    except CannotRunHereError as error:
        problem = str(error)
    driver = gpus[0].driver if gpus else None  # all GPUs have the same driver
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


def _list_hidden_gpus(torch: TorchFacts, gpus: Sequence[nvidia.NvidiaGpu]) -> list[Device]:
    """Return the GPUs that the driver lists but torch does not."""
    visible = {device.uuid.removeprefix("GPU-") for device in torch.devices if device.kind == "cuda"}
    # A MIG slice has its own UUID, so its GPU is unknown; then no GPU is reported as hidden.
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
        return "hidden from this process, for example by CUDA_VISIBLE_DEVICES"
    is_cuda_build = (torch.built_for or "").startswith("CUDA")
    remedy = "" if is_cuda_build else f"; {_CUDA_BUILD}"
    return f"no CUDA: {torch.why_no_cuda}{remedy}"


# -- optimizers -------------------------------------------------------------------------------------------------------


def _check_optimizer(card: Optimizer, machine: Machine) -> OptimizerSupport:
    """Return the implementation of an optimizer that runs on this machine, or why none does."""
    reasons: list[str] = []
    for implementation in card.implementations:
        reason = _explain_unusable(card, implementation, machine)
        if reason is None:
            first = card.implementations[0].path
            note = f"{implementation.path} is used instead of {first}: {reasons[0]}" if reasons else None
            return OptimizerSupport(id=card.id, runs=True, implementation=implementation.path, why_not=None, note=note)
        reasons.append(reason)
    best_reason = next((reason for reason in reasons if "pip install" in reason), reasons[0])
    return OptimizerSupport(id=card.id, runs=False, implementation=None, why_not=best_reason, note=None)


def _describe_purpose(package: str, cards: Sequence[Optimizer]) -> str:
    """Return what a package that is not installed is for, by the order of the implementations on the cards."""
    if package == "torch":
        return "required by all optimizers"
    purposes: dict[str, list[str]] = {}
    for card in cards:
        packages = [each.package for each in card.implementations]
        if package in packages:
            is_first, is_only = packages[0] == package, len({*packages}) == 1
            purpose = "required by" if is_only else "recommended for" if is_first else "optional: alternative for"
            purposes.setdefault(purpose, []).append(card.id)
    parts = [f"{purpose} {', '.join(names)}" for purpose, names in sorted(purposes.items(), reverse=True)]
    return "; ".join(parts) or _OPTIONAL_PACKAGES[package]


def _explain_unusable(card: Optimizer, implementation: Implementation, machine: Machine) -> str | None:
    """Return why an implementation does not run on this machine, None if it does."""
    path, package = implementation.path, implementation.package
    if machine.torch_error is not None:
        return machine.torch_error
    if card.paged and "cuda" not in machine.device_kinds:
        is_not_installed = package is not None and machine.versions[package] is None
        also = f", and pip install {package}" if is_not_installed else ""
        return f"paged optimizer state requires a CUDA device{also}"
    if not {*machine.device_kinds} & {*implementation.devices}:
        usable = ", ".join(sorted(machine.device_kinds))
        return f"{path} requires {' or '.join(implementation.devices)}; this machine has {usable}"
    version = machine.versions.get(package or "")
    minimum = implementation.min_version
    if minimum and version and parse_version(version) < parse_version(minimum):
        requirement = f"{package}>={minimum}"
        return f"{path} requires {requirement}, installed is {version}; pip install '{requirement}'"
    if path in machine.not_imported:
        return f"not checked: {machine.not_imported[path]}"
    error = machine.import_errors[path]
    if error is not None:
        return _explain_import_error(card, implementation, error)
    if "cuda" in machine.device_kinds and path in machine.without_cuda:
        return f"{package} {version} has no library for {machine.built_for}; pip install --upgrade {package}"
    return None


def _explain_import_error(card: Optimizer, implementation: Implementation, error: str) -> str:
    top_level = implementation.path.split(".")[0]
    if implementation.package is None:
        return f"{top_level} is not on PyPI ({error}); for its installation see optadvise show {card.id}"
    if is_missing(error, top_level):
        return f"{implementation.package} is not installed; pip install {implementation.package}"
    return f"{implementation.path} cannot be imported ({error}); pip install --upgrade {implementation.package}"
