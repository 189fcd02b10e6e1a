"""What `verify` and `bench` found on this machine, kept in the user's data and found again.

A finding is found again where it was made: on this machine, and with the versions that are installed now. It is read in
a few milliseconds, hence no `importlib.metadata`, which takes forty to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from optadvise.core.files import replace_file
from optadvise.core.paths import data_folder
from optadvise.core.records import Claim, Evidence, Implementation, Optimizer
from optadvise.core.version import __version__

_PROCESSOR, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")  # of these a folder each
_UNSAFE = str.maketrans(dict.fromkeys('/\\:*?"<>| ', "_"))
AUDITS, CLAIMS, BENCHES = "audits", "claims", "benches"
CONFORMS, QUANTISED, DEVIATES, FAILS, ABSENT = "conforms", "within quantisation", "deviates", "fails", "not here"
CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "not decidable here"


def folder() -> Path:
    """Return where this machine's findings are: a home may be shared by many, and parts of a machine be replaced.

    Raises:
        RuntimeError: The user has no home.
    """
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    parts = "\n".join([_model(_PROCESSOR, "model name"), *(_model(gpu / "information", "Model") for gpu in _gpus())])
    return data_folder() / "evidence" / f"{name}-{os.cpu_count()}-{zlib.crc32(parts.encode()):08x}".translate(_UNSAFE)


def _gpus() -> list[Path]:
    try:
        return sorted(_GPUS.iterdir())
    except OSError:
        return []


def _model(file: Path, key: str) -> str:
    """Return the first value of a key in a file of keys and values, nothing where there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError), file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def version(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed.

    Example:
        >>> version("no-such-package") is None
        True
    """
    return _installed(tuple(sys.path)).get(_plain(package))


@cache
def _installed(places: tuple[str, ...]) -> dict[str, str]:
    """Return the version of every package by its name, of two the one that Python finds first."""
    found: dict[str, str] = {}
    for place in places:
        with contextlib.suppress(OSError):
            for entry in os.listdir(place or "."):  # noqa: PTH208
                if entry.endswith(".dist-info"):
                    name, _, number = entry.removesuffix(".dist-info").partition("-")
                    found.setdefault(_plain(name), number)
    return found


def _plain(package: str) -> str:
    return package.lower().replace("-", "_").replace(".", "_")


# -- keeping ----------------------------------------------------------------------------------------------------------


def keep(kind: str, name: str, finding: Mapping[str, Any], packages: Iterable[str | None], date: str) -> None:
    """Keep a finding, in the place of what was found before.

    Args:
        kind: `AUDITS`, `CLAIMS` or `BENCHES`.
        name: Of what it was found.
        finding: Plain data.
        packages: Those that it depends on beside torch, whose other versions may give another.
        date: Of today, as 2026-11-26.

    Raises:
        OSError: It cannot be written.
    """
    versions = {package: version(package) for package in sorted({"torch", *(p for p in packages if p)})}
    entry = {"optadvise": __version__, "packages": versions, "date": date, "finding": finding}
    file = folder() / kind / f"{name.translate(_UNSAFE)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(entry, ensure_ascii=False))


def keep_verified(result: Mapping[str, Any], claims: Mapping[str, Claim]) -> None:
    """Keep what `verify` found of implementations and of claims.

    Args:
        result: The JSON of `optadvise verify`.
        claims: The claims as they are written, so that a changed one is not taken for what was tested.

    Raises:
        OSError: It cannot be written.
    """
    for audit in result["audits"]:
        if audit["scenes"]:  # else there is none here, or it gave no answer in time
            short = {name: audit[name] for name in ("optimizer", "import", "package", "verdict", "why", "worst")}
            keep(AUDITS, f"{audit['optimizer']}@{audit['import']}", short, [audit["package"]], result["date"])
    for claim in result["claims"]:
        if claim["verdict"] != UNDECIDED:  # what was decided before is not lost to a run that was cut short
            packages = [made["package"] for made in claim["implementations"]]
            keep(CLAIMS, claim["id"], {**claim, "text": _text(claims[claim["id"]])}, packages, result["date"])


def keep_benched(result: Mapping[str, Any], date: str) -> None:
    """Keep what `bench` found of each optimizer, where it ran in the way that is chosen by itself.

    Args:
        result: The JSON of `optadvise bench`.
        date: Of today.

    Raises:
        OSError: It cannot be written.
    """
    spec = result["spec"]
    if spec.get("nproc", 1) > 1:
        return  # what a rank holds and takes says little of one process
    for arm in result["arms"]:
        if arm["status"] != "ok" or arm["label"] not in (arm["optimizer"], f"{arm['optimizer']} (control)"):
            continue
        ratio = next((one for one in result["ratios"]
                      if one["label"] == arm["label"] and one["metric"] == "optimizer_seconds"), None)  # fmt: skip
        finding = {
            "optimizer": arm["optimizer"], "import": arm["implementation"]["import"],
            "variant": arm["implementation"]["variant"], "device": _device(result),
            "workload": spec["workload"], "parameters": arm["parameters"], "dtype": spec["dtype"],
            "state_bytes_per_parameter": arm["state_bytes_per_parameter"],
            "optimizer_seconds": arm["optimizer_seconds"]["median"],
            "peak_memory_bytes": arm["peak_memory_bytes"], "throughput": arm["throughput"],
            "versus": None if ratio is None else ratio["versus"],
            "ratio": None if ratio is None else ratio["ratio"], "ci95": None if ratio is None else ratio["ci95"],
        }  # fmt: skip
        name = f"{arm['optimizer']}@{spec['device'].split(':')[0]}"
        keep(BENCHES, name, finding, [arm["implementation"]["package"]], date)


def _device(result: Mapping[str, Any]) -> str:
    """Return the GPU's name, or the processor's."""
    where = result["environment"]
    return str(where.get("device_name") or where.get("processor") or result["spec"]["device"])


# -- finding again ---------------------------------------------------------------------------------------------------

_NUMBER, _TEXT, _MAYBE, _LIST = (int, float), str, (str, type(None)), list
_AMOUNT = (int, float, type(None))
# What has to be there to be quoted: a file may have been written by hand.
_SHAPES: Mapping[str, Mapping[str, Any]] = {
    AUDITS: {"optimizer": _TEXT, "import": _TEXT, "verdict": _TEXT, "why": _MAYBE},
    CLAIMS: {"id": _TEXT, "claim": _TEXT, "says": _MAYBE, "cite": _LIST, "optimizers": _LIST, "measures": _TEXT,
             "holds": _TEXT, "supports": _LIST, "device": _TEXT, "verdict": _TEXT, "measured": _NUMBER,
             "ci95": (list, type(None)), "text": _TEXT},
    BENCHES: {"optimizer": _TEXT, "import": _TEXT, "workload": _TEXT, "dtype": _TEXT, "device": _TEXT,
              "parameters": _AMOUNT, "state_bytes_per_parameter": _AMOUNT, "optimizer_seconds": _AMOUNT,
              "peak_memory_bytes": dict, "versus": _MAYBE, "ratio": _AMOUNT, "ci95": (list, type(None))},
}  # fmt: skip


def found(card: Optimizer, claims: Callable[[], Mapping[str, Claim]], made: Implementation | None = None) -> Evidence:
    """Return what was found of an optimizer here, and every claim that was refuted here.

    Args:
        card: The optimizer.
        claims: Returns the claims as they are written now; asked only where some were tested.
        made: Its implementation in question; None for all.
    """
    implementations = [made] if made is not None else [*card.implementations, *card.not_offered]
    names = [f"{card.id}@{one.path}.json".translate(_UNSAFE) for one in implementations]
    benches = _all(BENCHES, f"{card.id}@*.json")
    tested = decided(claims)
    return Evidence(
        tuple(audit for name in names for audit in _all(AUDITS, name)),
        tuple(entry for entry in tested if entry["optimizers"][:1] == [card.id]),
        tuple(entry for entry in benches if made is None or entry["import"] == made.path),
        tuple(entry for entry in tested if entry["verdict"] == REFUTED),
    )


def decided(claims: Callable[[], Mapping[str, Claim]]) -> list[dict[str, Any]]:
    """Return every claim that was confirmed or refuted here, as it is written now.

    Args:
        claims: Returns the claims as they are written now; asked only where some were tested.
    """
    tested = _all(CLAIMS, "*.json")
    written = claims() if tested else {}
    return [entry for entry in tested if entry["id"] in written and entry.pop("text") == _text(written[entry["id"]])]


def _text(claim: Claim) -> str:
    """Return all that a verdict on a claim depends on."""
    return json.dumps([claim.experiment, claim.trials, claim.setting, claim.holds, claim.seeds], default=str)


def _all(kind: str, pattern: str) -> list[dict[str, Any]]:
    """Return the findings of a kind that count here and now."""
    try:
        files = sorted((folder() / kind).glob(pattern))
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return []
    return [finding for file in files if (finding := _read(file, kind)) is not None]


def _read(file: Path, kind: str) -> dict[str, Any] | None:
    """Return a finding with its date; None where there is none, or other versions are installed now."""
    try:
        if not file.is_file():  # a pipe would be waited for
            return None
        entry = json.loads(file.read_text(encoding="utf-8"))
        packages: dict[str, str] = entry["packages"]
        date: str = entry["date"]
        same = entry["optadvise"] == __version__ and all(
            version(package) == then is not None for package, then in packages.items()
        )
        finding: dict[str, Any] = {**entry["finding"], "date": date, "packages": packages}
        whole = isinstance(date, str) and all(isinstance(finding[key], kinds) for key, kinds in _SHAPES[kind].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # by another version, or by hand
        return None
    return finding if same and whole else None
