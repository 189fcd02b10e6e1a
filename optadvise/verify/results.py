"""The result of `optadvise verify`. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib import metadata

from msgspec.structs import asdict

from optadvise.benchmark.environment import read_machine
from optadvise.core.findings import ClaimOutcome
from optadvise.core.version import __version__
from optadvise.verify.records import AuditResult, VerifyEnvironment, VerifyResult


def make_result(audits: Sequence[AuditResult], claims: Sequence[ClaimOutcome] = ()) -> VerifyResult:
    """Return the result of `optadvise verify`, with the date and the versions of the packages that ran."""
    tested = (implementation.package for claim in claims for implementation in claim.implementations)
    packages = (*(audit.package for audit in audits), *tested)
    return VerifyResult(
        schema_version=1,
        kind="verify",
        optadvise=__version__,
        date=datetime.now(timezone.utc).date().isoformat(),
        environment=VerifyEnvironment(**asdict(read_machine()), packages=_read_versions(packages)),
        audits=tuple(audits),
        claims=tuple(claims),
    )


def _read_versions(packages: Iterable[str | None]) -> dict[str, str | None]:
    """Return the versions of torch and of further packages, None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for package in sorted({"torch", *(name for name in packages if name)}):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions
