"""What is installed and usable here, and what is not and why, as plain data. What needs torch, a probe process asks."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from optadvise import __version__
from optadvise.core import hardware
from optadvise.core.errors import CannotRunHereError
from optadvise.core.records import Implementation, Optimizer
from optadvise.diagnostics.probe_client import PROBE, TIMEOUT, ask, lacks
from optadvise.rulebase.catalog import Catalog

_BESIDE = ("matplotlib",)  # optional, and no optimizer's package
_GET_CUDA = "a CUDA build of torch is at https://pytorch.org/get-started"


def examine(catalog: Catalog, *, command: Sequence[str] = PROBE, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Return the JSON of `optadvise doctor`.

    Args:
        catalog: Whose optimizers are looked for.
        command: The probe's command line, for tests of its faults.
        timeout: Seconds that the probe may take.
    """
    cards = [catalog.optimizer(name) for name in catalog.optimizer_ids]
    made = [implementation for card in cards for implementation in card.implementations]
    torch, errors = ask([i.path for i in made], command=command, timeout=timeout)
    versions = _versions(["torch", *sorted({*(i.package for i in made if i.package), *_BESIDE} - {"torch"})])
    versions["torch"] = torch.get("version") or versions["torch"]
    devices, driver_problem = _devices(torch)
    kinds = {device["kind"] for device in devices if device["usable"]}
    here = _Here(torch["error"], errors, kinds, versions)
    return {
        "schema_version": 1,
        "kind": "doctor",
        "optadvise": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "torch": {name: torch.get(name) for name in ("imports", "error", "built_for", "threads", "why_no_cuda")},
        "devices": devices,
        "driver_problem": driver_problem,
        "optimizers": [here.optimizer(card) for card in cards],
    }


def _versions(packages: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


# --- devices


def _devices(torch: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """Return what torch and the NVIDIA driver list, and what is wrong with the driver."""
    usable = bool(torch["imports"])
    cpu = _device("cpu", "cpu", hardware.processor(), hardware.main_memory(), threads=torch.get("threads"))
    found = [{**cpu, "usable": usable, "why_not": None if usable else "torch cannot be imported"}]
    listed, problem = [], None
    try:
        listed = hardware.nvidia_gpus()
    except CannotRunHereError as error:
        problem = str(error)
    seen = torch.get("devices") or []
    for device in seen:
        driver = listed[0].driver if listed and device["kind"] == "cuda" else None  # one driver serves all
        found.append({
            **_device(device["device"], device["kind"], device["name"], device["memory_bytes"], driver=driver,
                      compute_capability=device.get("compute_capability")),
            "usable": device["why_not"] is None,
            "why_not": device["why_not"],
        })  # fmt: skip
    # A slice of a GPU (MIG) has a name of its own, so that its GPU is not known; then none is called hidden.
    seen_names = {device.get("uuid", "").removeprefix("GPU-") for device in seen if device["kind"] == "cuda"}
    listed_names = {gpu.uuid.removeprefix("GPU-") for gpu in listed}
    for gpu in listed if seen_names <= listed_names else ():
        if gpu.uuid.removeprefix("GPU-") not in seen_names:
            about = _device(None, "cuda", gpu.name, gpu.memory_bytes, driver=gpu.driver)
            found.append({**about, "usable": False, "why_not": _unseen(torch)})
    return found, problem


def _device(
    device: str | None, kind: str, name: str | None, memory: int | None, *, driver: str | None = None,
    compute_capability: str | None = None, threads: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "device": device, "kind": kind, "name": name, "memory_bytes": memory, "driver": driver,
        "compute_capability": compute_capability, "threads": threads,
    }  # fmt: skip


def _unseen(torch: Mapping[str, Any]) -> str:
    """Return why torch does not see a GPU that the driver lists."""
    if not torch["imports"]:
        return "torch cannot be imported"
    if torch["why_no_cuda"] is None:
        return "hidden from this process, as by CUDA_VISIBLE_DEVICES"
    remedy = "" if torch["built_for"].startswith("CUDA") else f"; {_GET_CUDA}"
    return f"no CUDA: {torch['why_no_cuda']}{remedy}"


# --- optimizers


class _Here:
    """What decides whether an optimizer runs on this machine."""

    def __init__(
        self, problem: str | None, errors: Mapping[str, str | None], kinds: set[str], versions: Mapping[str, str | None]
    ) -> None:
        self._problem, self._errors, self._kinds, self._versions = problem, errors, kinds, versions

    def optimizer(self, card: Optimizer) -> dict[str, Any]:
        """Return by which implementation a card runs here, or why by none."""
        reasons: list[str] = []
        for made in card.implementations:
            why_not = self._why_not(card, made)
            if why_not is None:
                note = f"{made.path} stands in for {card.implementations[0].path}: {reasons[0]}" if reasons else None
                return {"id": card.id, "runs": True, "implementation": made.path, "why_not": None, "note": note}
            reasons.append(why_not)
        curable = next((reason for reason in reasons if "pip install" in reason), reasons[0])
        return {"id": card.id, "runs": False, "implementation": None, "why_not": curable, "note": None}

    def _why_not(self, card: Optimizer, made: Implementation) -> str | None:
        if self._problem is not None:
            return self._problem
        if card.paged and "cuda" not in self._kinds:
            return f"its state is paged, which needs CUDA, and there is no such device here{self._also_missing(made)}"
        if self._kinds.isdisjoint(made.devices):
            return f"{made.path} runs on {', '.join(made.devices)}; usable here: {', '.join(sorted(self._kinds))}"
        error = self._errors[made.path]
        version = self._versions.get(made.package or "")
        if made.min_version and version and _numbers(version) < _numbers(made.min_version):
            wanted = f"{made.package}>={made.min_version}"
            return f"{made.path} needs {wanted}, and this is {version}; pip install '{wanted}'"
        if error is None:
            return None
        package = made.path.split(".")[0]
        if made.package is None:
            return f"{package} is not on PyPI ({error}); optadvise show {card.id} has the note"
        if lacks(error, package):
            return f"{made.package} is not installed; pip install {made.package}"
        return f"{made.path} cannot be imported ({error}); pip install --upgrade {made.package}"

    def _also_missing(self, made: Implementation) -> str:
        if made.package is None or self._versions[made.package] is not None:
            return ""
        return f"; it would also need pip install {made.package}"


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
