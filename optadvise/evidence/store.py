"""The folder of findings on this machine: what `verify` and `bench` measured, saved and found again.

A finding counts on the machine where it was made, with the versions that were installed then.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from optadvise.core.cards import (
    Implementation,
    Optimizer,
)
from optadvise.core.claim_cards import (
    Claim,
)
from optadvise.core.files import replace_file
from optadvise.core.findings import (
    REFUTED,
    UNDECIDED,
    AuditFinding,
    BenchmarkFinding,
    ClaimFinding,
    Evidence,
    Versions,
)
from optadvise.core.paths import data_folder
from optadvise.core.version import __version__
from optadvise.evidence.versions import find_version, find_versions
from optadvise.rulebase.catalog import Catalog

_PROCESSOR, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")  # the latter has a folder for each GPU
_UNSAFE = str.maketrans(dict.fromkeys('/\\:*?"<>| ', "_"))
AUDITS, CLAIMS, BENCHMARKS = "audits", "claims", "benches"  # the folders


class _StoredAudit(Struct, frozen=True):
    optadvise: str  # version
    finding: AuditFinding


class _StoredBenchmark(Struct, frozen=True):
    optadvise: str
    finding: BenchmarkFinding


class _StoredClaim(Struct, frozen=True):
    optadvise: str
    definition: str  # of the experiment that was run, which may have changed since
    finding: ClaimFinding


_Json: TypeAlias = "Mapping[str, Any]"  # results as `verify` and `bench` write them
_Finding = TypeVar("_Finding", AuditFinding, BenchmarkFinding, ClaimFinding)
_Stored = TypeVar("_Stored", _StoredAudit, _StoredBenchmark, _StoredClaim)


def find_folder() -> Path:
    """Return the folder of this machine's findings: many may share a home, and parts of a machine be replaced.

    Raises:
        RuntimeError: The user has no home.
    """
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    gpus = (_read_value(gpu / "information", "Model") for gpu in _list_gpus())
    parts = "\n".join([_read_value(_PROCESSOR, "model name"), *gpus])
    return data_folder() / "evidence" / f"{name}-{os.cpu_count()}-{zlib.crc32(parts.encode()):08x}".translate(_UNSAFE)


def _list_gpus() -> list[Path]:
    try:
        return sorted(_GPUS.iterdir())
    except OSError:
        return []


def _read_value(file: Path, key: str) -> str:
    """Return the first value of a key in a file of keys and values, an empty text where there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError), file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


# -- saving ----------------------------------------------------------------------------------------------------------


def save_verified(result: _Json, claims: Mapping[str, Claim]) -> None:
    """Save what `verify` found, in the place of earlier findings on the same implementations and claims.

    Args:
        result: The JSON of `optadvise verify`.
        claims: The claims as they are written, so that one that changes later is not taken for what was tested.

    Raises:
        OSError: The folder cannot be written.
    """
    for audit in result["audits"]:
        if audit["scenes"]:  # otherwise the implementation is not installed, or did not answer in time
            audited = _make_finding(AuditFinding, audit, result["date"], [audit["package"]])
            _save(AUDITS, f"{audited.optimizer}@{audited.path}", _StoredAudit(optadvise=__version__, finding=audited))
    for claim in result["claims"]:
        if claim["verdict"] != UNDECIDED:  # an interrupted run does not replace an earlier decision
            packages = [implementation["package"] for implementation in claim["implementations"]]
            finding = _make_finding(ClaimFinding, claim, result["date"], packages)
            definition = _describe_experiment(claims[finding.id])
            _save(CLAIMS, finding.id, _StoredClaim(optadvise=__version__, definition=definition, finding=finding))


def save_benchmark(result: _Json, date: str) -> None:
    """Save what `bench` measured of each optimizer that ran with its default implementation and variant.

    Args:
        result: The JSON of `optadvise bench`.
        date: Of today, as 2026-11-26.

    Raises:
        OSError: The folder cannot be written.
    """
    spec = result["spec"]
    if spec.get("nproc", 1) > 1:
        return  # the memory and time of a rank say little about a single process
    for arm in result["arms"]:
        if arm["status"] == "ok" and arm["label"] in (arm["optimizer"], f"{arm['optimizer']} (control)"):
            values = _describe_arm(result, arm)
            finding = _make_finding(BenchmarkFinding, values, date, [arm["implementation"]["package"]])
            name = f"{finding.optimizer}@{spec['device'].split(':')[0]}"
            _save(BENCHMARKS, name, _StoredBenchmark(optadvise=__version__, finding=finding))


def _describe_arm(result: _Json, arm: _Json) -> dict[str, Any]:
    """Return the fields of a benchmark finding, but for those that every finding has."""
    spec, environment, implementation = result["spec"], result["environment"], arm["implementation"]
    ratio: _Json = next((ratio for ratio in result["ratios"]
                  if ratio["label"] == arm["label"] and ratio["metric"] == "optimizer_seconds"), {})  # fmt: skip
    copied = ("optimizer", "parameters", "state_bytes_per_parameter", "peak_memory_bytes", "throughput")
    return {
        **{name: arm[name] for name in copied}, "import": implementation["import"],
        "variant": implementation["variant"], "workload": spec["workload"], "dtype": spec["dtype"],
        "device": environment.get("device_name") or environment.get("processor") or spec["device"],
        "optimizer_seconds": arm["optimizer_seconds"]["median"],
        **{name: ratio.get(name) for name in ("versus", "ratio", "ci95")},
    }  # fmt: skip


def _make_finding(kind: type[_Finding], values: _Json, date: str, packages: Iterable[str | None]) -> _Finding:
    """Return a finding made today with the installed versions; values that it does not record are left out."""
    return msgspec.convert({**values, "date": date, "packages": find_versions(packages)}, kind)


def _save(folder: str, name: str, entry: Struct) -> None:
    file = find_folder() / folder / f"{name.translate(_UNSAFE)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, msgspec.json.encode(entry))


def _describe_experiment(claim: Claim) -> str:
    """Return everything that the verdict on a claim depends on."""
    parts = [claim.experiment, claim.trials, claim.setting, claim.holds, claim.seeds]
    return msgspec.json.encode(parts).decode()


# -- finding again ---------------------------------------------------------------------------------------------------


def find_evidence(catalog: Catalog, card: Optimizer, implementation: Implementation | None = None) -> Evidence:
    """Return what was found of an optimizer on this machine, and every claim that was refuted here.

    Args:
        implementation: The implementation in question; None for all.
    """
    implementations = [*card.implementations, *card.not_offered] if implementation is None else [implementation]
    names = [f"{card.id}@{one.path}.json".translate(_UNSAFE) for one in implementations]
    claims = find_decided_claims(catalog)
    benchmarks = (entry.finding for entry in _read_all(BENCHMARKS, f"{card.id}@*.json", _StoredBenchmark))
    return Evidence(
        audits=tuple(entry.finding for name in names for entry in _read_all(AUDITS, name, _StoredAudit)),
        claims=tuple(claim for claim in claims if claim.optimizers[:1] == (card.id,)),
        benchmarks=tuple(one for one in benchmarks if implementation is None or one.path == implementation.path),
        refuted=tuple(claim for claim in claims if claim.verdict == REFUTED),
    )


def find_decided_claims(catalog: Catalog) -> list[ClaimFinding]:
    """Return every claim that was confirmed or refuted here, as it is written now.

    Args:
        catalog: The rules, whose claims are read only where some were tested.
    """
    return [
        entry.finding
        for entry in _read_all(CLAIMS, "*.json", _StoredClaim)
        if entry.finding.id in catalog.claims
        and entry.definition == _describe_experiment(catalog.claims[entry.finding.id])
    ]


def _read_all(folder: str, pattern: str, kind: type[_Stored]) -> list[_Stored]:
    """Return the entries of a folder that count with the versions that are installed now."""
    try:
        files = sorted((find_folder() / folder).glob(pattern))
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return []
    return [entry for file in files if (entry := _read(file, kind)) is not None]


def _read(file: Path, kind: type[_Stored]) -> _Stored | None:
    """Return a stored finding; None where it is invalid, or other versions are installed now."""
    try:
        if not file.is_file():  # reading a pipe would block
            return None
        entry = msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, RecursionError):  # by another version, or edited
        return None
    return entry if entry.optadvise == __version__ and _is_current(entry.finding.packages) else None


def _is_current(packages: Versions) -> bool:
    """Return whether the packages that a finding was made with are installed in the same versions."""
    return all(version is not None and find_version(package) == version for package, version in packages.items())
