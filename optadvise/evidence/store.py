"""The folder of findings on this machine: what `verify` and `bench` measured, saved and found again.

A finding counts on the machine where it was made, with the versions that were installed then.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from optadvise.core.cards import Implementation, Optimizer
from optadvise.core.claim_cards import Claim
from optadvise.core.files import replace_file
from optadvise.core.findings import REFUTED, AuditFinding, BenchmarkFinding, ClaimFinding, Evidence
from optadvise.core.paths import data_folder
from optadvise.core.version import __version__
from optadvise.evidence.versions import find_version
from optadvise.rulebase.catalog import Catalog

_PROCESSOR, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")  # the latter has a folder for each GPU
_UNSAFE = str.maketrans(dict.fromkeys('/\\:*?"<>| ', "_"))
AUDITS, CLAIMS, BENCHMARKS = "audits", "claims", "benches"  # the folders
_Finding = TypeVar("_Finding", AuditFinding, BenchmarkFinding, ClaimFinding)


class _Stored(Struct, Generic[_Finding], frozen=True, omit_defaults=True):
    """A finding as its file holds it."""

    optadvise: str  # version
    finding: _Finding
    definition: str | None = None  # of a claim's experiment, which may have changed since


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


def save_audit(audit: AuditFinding) -> None:
    """Save an audit in the place of an earlier one of the same implementation.

    Raises:
        OSError: The folder cannot be written.
    """
    _save(AUDITS, f"{audit.optimizer}@{audit.path}", _Stored(__version__, audit))


def save_claim(finding: ClaimFinding, claim: Claim) -> None:
    """Save the outcome of a claim, with its definition, so that a claim that changes later does not count as tested.

    Raises:
        OSError: The folder cannot be written.
    """
    _save(CLAIMS, finding.id, _Stored(optadvise=__version__, finding=finding, definition=_describe_experiment(claim)))


def save_benchmark(benchmark: BenchmarkFinding, device_type: str) -> None:
    """Save the benchmark of an optimizer on a type of device, cpu or cuda.

    Raises:
        OSError: The folder cannot be written.
    """
    _save(BENCHMARKS, f"{benchmark.optimizer}@{device_type}", _Stored(__version__, benchmark))


def _save(folder: str, name: str, entry: Struct) -> None:
    file = find_folder() / folder / f"{name.translate(_UNSAFE)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, msgspec.json.encode(entry))


def _describe_experiment(claim: Claim) -> str:
    """Return everything that the verdict on a claim depends on."""
    parts = [claim.experiment, claim.trials, claim.setting, claim.expected_range, claim.seeds]
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
    benchmarks = (entry.finding for entry in _read_all(BENCHMARKS, f"{card.id}@*.json", _Stored[BenchmarkFinding]))
    return Evidence(
        audits=tuple(entry.finding for name in names for entry in _read_all(AUDITS, name, _Stored[AuditFinding])),
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
        for entry in _read_all(CLAIMS, "*.json", _Stored[ClaimFinding])
        if entry.finding.id in catalog.claims
        and entry.definition == _describe_experiment(catalog.claims[entry.finding.id])
    ]


def _read_all(folder: str, pattern: str, kind: type[_Stored[_Finding]]) -> list[_Stored[_Finding]]:
    """Return the entries of a folder that count with the versions that are installed now."""
    try:
        files = sorted((find_folder() / folder).glob(pattern))
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return []
    return [entry for file in files if (entry := _read(file, kind)) is not None]


def _read(file: Path, kind: type[_Stored[_Finding]]) -> _Stored[_Finding] | None:
    """Return a stored finding; None where it is invalid, or other versions are installed now."""
    try:
        if not file.is_file():  # reading a pipe would block
            return None
        entry = msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, RecursionError):  # by another version, or edited
        return None
    packages = entry.finding.packages
    is_current = all(version is not None and find_version(package) == version for package, version in packages.items())
    return entry if is_current and entry.optadvise == __version__ else None
