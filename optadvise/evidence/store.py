"""Storage of the findings that `verify` and `bench` make on this machine.

A finding is valid on the machine that made it, with the package versions installed at that time.
"""

import contextlib
import os
import zlib
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from optadvise.core.cards import Implementation, Optimizer
from optadvise.core.claim_cards import Claim
from optadvise.core.findings import REFUTED, AuditFinding, BenchmarkFinding, ClaimFinding, Evidence
from optadvise.core.foreign import ForeignFileError, convert_record, decode_json, read_bounded, set_aside
from optadvise.core.paths import data_folder
from optadvise.core.private_files import is_private, write_private_file
from optadvise.core.version import __version__
from optadvise.evidence.versions import find_version
from optadvise.rulebase.catalog import Catalog

_PROCESSOR, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")  # the latter has a folder for each GPU
_MAX_BYTES = 2**20  # a finding has a few kilobytes
_UNSAFE = str.maketrans(dict.fromkeys('/\\:*?"<>| ', "_"))
AUDITS, CLAIMS, BENCHMARKS = "audits", "claims", "benches"  # the folders
_Finding = TypeVar("_Finding", AuditFinding, BenchmarkFinding, ClaimFinding)


class _Stored(Struct, Generic[_Finding], frozen=True, omit_defaults=True):
    """Content of a finding's file."""

    optadvise: str  # version
    finding: _Finding
    definition: str | None = None  # the claim's experiment, to detect later changes of it


def find_folder() -> Path:
    """Return the folder of this machine's findings.

    Its name has the host name, the processor and the GPUs, because machines can share a home folder and hardware can
    be replaced.

    Raises:
        FileNotFoundError: The user has no home folder.
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
    """Return the first value of a key in a file of `key: value` lines; empty without one."""
    with contextlib.suppress(OSError, UnicodeDecodeError), file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


# -- saving ----------------------------------------------------------------------------------------------------------


def save_audit(audit: AuditFinding) -> None:
    """Save an audit and replace the previous one of the same implementation.

    Raises:
        OSError: The folder cannot be written.
    """
    _save(AUDITS, f"{audit.optimizer}@{audit.path}", _Stored(__version__, audit))


def save_claim(finding: ClaimFinding, claim: Claim) -> None:
    """Save the outcome of a claim with its definition, so that it becomes invalid if the claim changes.

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
    write_private_file(data_folder(), file, msgspec.json.encode(entry))


def _describe_experiment(claim: Claim) -> str:
    """Return everything that a claim's verdict depends on."""
    parts = [claim.experiment, claim.trials, claim.setting, claim.expected_range, claim.seeds]
    return msgspec.json.encode(parts).decode()


# -- loading ---------------------------------------------------------------------------------------------------------


def find_evidence(catalog: Catalog, card: Optimizer, implementation: Implementation | None = None) -> Evidence:
    """Return the findings about an optimizer on this machine, and all claims that were refuted on it.

    Args:
        implementation: An implementation; None for all.
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
    """Return the claims that were confirmed or refuted on this machine and have not changed since.

    Args:
        catalog: The rules; their claims are read only if findings exist.
    """
    return [
        entry.finding
        for entry in _read_all(CLAIMS, "*.json", _Stored[ClaimFinding])
        if entry.finding.id in catalog.claims
        and entry.definition == _describe_experiment(catalog.claims[entry.finding.id])
    ]


def _read_all(folder: str, pattern: str, kind: type[_Stored[_Finding]]) -> list[_Stored[_Finding]]:
    """Return the entries of a folder that are valid with the installed versions."""
    try:
        path = find_folder() / folder
        files = sorted(path.glob(pattern)) if is_private(data_folder(), path, "OPTADVISE_DATA_DIR") else []
    except OSError:
        return []
    return [entry for file in files if (entry := _read(file, kind)) is not None]


def _read(file: Path, kind: type[_Stored[_Finding]]) -> _Stored[_Finding] | None:
    """Return a stored finding; None if it is invalid or other versions are installed."""
    try:
        content = read_bounded(file, _MAX_BYTES, allow_pipe=False)
    except ForeignFileError:
        return None
    try:
        data = decode_json(content)
        if isinstance(data, dict) and data.get("optadvise", __version__) != __version__:
            return None
        entry = convert_record(data, kind)
    except ForeignFileError as error:
        set_aside(file, error)
        return None
    packages = entry.finding.packages
    is_current = all(version is not None and find_version(package) == version for package, version in packages.items())
    return entry if is_current else None
