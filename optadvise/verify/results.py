"""The result of `optadvise verify`. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from msgspec.structs import asdict

from optadvise.benchmark.environment import read_machine
from optadvise.core.findings import ClaimOutcome
from optadvise.core.version import __version__
from optadvise.evidence.versions import find_versions
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
        environment=VerifyEnvironment(**asdict(read_machine()), packages=find_versions(packages)),
        audits=tuple(audits),
        claims=tuple(claims),
    )
