"""Result of `optadvise verify`, and its findings that are stored for later advice. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from msgspec.structs import asdict

from optadvise.benchmark.environment import read_machine
from optadvise.core.claim_cards import Claim
from optadvise.core.findings import UNDECIDED, AuditFinding, ClaimFinding, ClaimOutcome
from optadvise.core.version import __version__
from optadvise.evidence import store
from optadvise.evidence.versions import find_versions
from optadvise.verify.records import AuditResult, VerifyEnvironment, VerifyResult


def make_result(audits: Sequence[AuditResult], claims: Sequence[ClaimOutcome]) -> VerifyResult:
    """Return the result of `optadvise verify`, with the date and the package versions."""
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


def save_findings(result: VerifyResult, claims: Mapping[str, Claim]) -> None:
    """Store the findings of a result; they replace earlier findings about the same implementations and claims.

    Args:
        claims: Claims by id.

    Raises:
        OSError: The folder is not writable.
    """
    for audit in result.audits:
        if audit.scenarios:  # otherwise the implementation is not installed, or the audit timed out
            store.save_audit(
                AuditFinding(
                    optimizer=audit.optimizer,
                    path=audit.path,
                    package=audit.package,
                    verdict=audit.verdict,
                    why=audit.why,
                    worst=audit.worst,
                    date=result.date,
                    packages=find_versions([audit.package]),
                )
            )
    for claim in result.claims:
        if claim.verdict != UNDECIDED:  # an interrupted run does not replace an earlier decision
            packages = find_versions(implementation.package for implementation in claim.implementations)
            finding = ClaimFinding(**asdict(claim), date=result.date, packages=packages)
            store.save_claim(finding, claims[claim.id])
