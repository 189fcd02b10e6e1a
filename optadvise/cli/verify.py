"""`optadvise verify`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from msgspec import Struct, field

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.cli.interrupts import hold_interrupts
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.core.units import check_timeout

if TYPE_CHECKING:
    from optadvise.core.claim_cards import Claim
    from optadvise.core.findings import ClaimOutcome
    from optadvise.rulebase.catalog import Catalog
    from optadvise.verify.audit_run import AuditEntry
    from optadvise.verify.records import AuditResult

_Keep: TypeAlias = "Callable[[Sequence[AuditResult], Sequence[ClaimOutcome]], None]"
_USER_CLASS, _CLAIMS, _EXECUTION = "Your own class", "Claims", "Execution"


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Optimizers to audit (default: all).", autocompletion=of("optimizers")),
    ] = None,
    claim: Annotated[
        list[str] | None,
        opt.option(
            "Test this claim instead of an audit; repeatable.", "--claim", group=_CLAIMS, completer=of("claims")
        ),
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        opt.option(
            "Audit this optimizer and test the claims about it; repeatable.", "--optimizer", group=_CLAIMS,
            completer=of("optimizers"),
        ),
    ] = None,
    all_: Annotated[bool, opt.option("Audit all and test all claims (minutes).", "--all", group=_CLAIMS)] = False,
    import_: Annotated[
        str | None, opt.option("Audit your own class: my_package.MyAdamW.", "--import", group=_USER_CLASS)
    ] = None,
    as_: Annotated[
        str | None,
        opt.option("Optimizer that the class implements.", "--as", group=_USER_CLASS, completer=of("optimizers")),
    ] = None,
    timeout: Annotated[float, opt.option("Seconds per audit or claim (default: 60).", group=_EXECUTION)] = 60.0,
    json_: opt.JsonFile = None,
    markdown: Annotated[Path | None, opt.option("Write a Markdown page to this file.", group="Output")] = None,
    rules: opt.Rules = None,
    allow_imports: opt.AllowImports = None,
) -> None:  # fmt: skip
    """Audit the installed optimizers against references, and test claims about them on this machine.

    An audit compares each step with a float64 implementation of the paper over shapes, initial weights, weight decays,
    learning rates and dtypes, and checks the API that training loops use. A claim is an experiment with fixed seeds
    (optadvise list --claims lists all). Exit code 1: an unexpected deviation, or a claim of --claim is refuted; 4: this
    machine cannot test the claim; 5: the claim is undecided.
    """
    from optadvise.cli import outputs
    from optadvise.render.text.verify import encode_result, print_verification, render_markdown
    from optadvise.rule_analysis import rule_folders
    from optadvise.verify import audit_run, claims, results

    files = outputs.places({"--json": None if json_ == "-" else json_, "--markdown": markdown})
    targets = {"optimizer names": names, "--claim": claim, "--optimizer": optimizer, "--all": all_, "--import": import_}
    _check_options(targets, as_, timeout)
    catalog = rule_folders.load_catalog(rules, allow_imports)
    ids = _find_ids(catalog, optimizer, "--optimizer") or _find_ids(catalog, names, "verify")
    tested = claims.select_claims(catalog, claim or (), ids) if claim or optimizer or all_ else []
    if import_ is not None:
        entries = [audit_run.enter_user_class(catalog, import_, str(as_))]
    else:
        entries = [] if claim else audit_run.list_entries(catalog, ids)
        if ids:
            catalog.imports.check(entry.target.implementation.path for entry in entries)
    formats = outputs.ResultFormats(
        encode_json=encode_result, render_markdown=render_markdown, print_text=print_verification
    )
    outcomes = _Outcomes()

    def keep(audits: Sequence[AuditResult], outcomes_of_claims: Sequence[ClaimOutcome]) -> None:
        """Store findings and write the result so far, so that no end of the program loses them."""
        if import_ is not None:
            _require_import(audits, import_)
        outcomes.audits += audits
        outcomes.claims += outcomes_of_claims
        if import_ is None and outcomes.is_stored:
            finding = results.make_result(audits, outcomes_of_claims)
            outcomes.is_stored = outputs.save_evidence(lambda: results.save_findings(finding, catalog.claims))
        with contextlib.suppress(InputError):  # reported at the end
            outputs.write_result(results.make_result(outcomes.audits, outcomes.claims), formats, files)

    is_interrupted = _run(catalog, entries, tested, timeout, keep)
    with hold_interrupts():
        result = results.make_result(outcomes.audits, outcomes.claims)
        outputs.show_result(result, formats, files, as_json=json_ == "-")
    if is_interrupted:
        raise KeyboardInterrupt
    raise typer.Exit(_judge_claims(outcomes.claims) if claim else _judge_audits(outcomes.audits))


class _Outcomes(Struct):
    """Results so far."""

    audits: list[AuditResult] = field(default_factory=list)
    claims: list[ClaimOutcome] = field(default_factory=list)
    is_stored: bool = True  # as evidence; False after an error, so that it is reported once


def _run(catalog: Catalog, entries: Sequence[AuditEntry], claims: Sequence[Claim], timeout: float, keep: _Keep) -> bool:
    """Audit implementations, then test claims, and return whether this was interrupted.

    Args:
        timeout: Seconds per audit or claim.
        keep: Called with each new result.
    """
    from optadvise.verify.audit_run import run_audits
    from optadvise.verify.claims import evaluate_claims

    progress, is_interrupted = _Progress(len(entries) + len(claims)), False
    try:
        for audit in run_audits(entries, progress=progress.show_audit, timeout=timeout):
            with hold_interrupts():
                keep([audit], [])
        if claims:
            for outcome in evaluate_claims(catalog, claims, progress=progress.show_claim, timeout=timeout):
                with hold_interrupts():
                    keep([], [outcome])
    except KeyboardInterrupt:
        is_interrupted = True
    progress.end()
    return is_interrupted


def _check_options(targets: Mapping[str, object], as_: str | None, timeout: float) -> None:
    """Reject a timeout outside its range, several targets, and --import without --as."""
    check_timeout(timeout)
    used = [name for name, value in targets.items() if value]
    if len(used) > 1:
        message = f"{used[0]} and {used[1]} exclude each other; use one of them"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option=used[1])
    if (targets["--import"] is None) != (as_ is None):
        message = "--import and --as require each other, as in --import my_package.MyAdamW --as adamw"
        raise InputError(message, code=ErrorCode.MISSING_OPTION, option="--as" if as_ is None else "--import")


def _require_import(audits: Sequence[AuditResult], path: str) -> None:
    """Reject a class of the user that cannot be imported."""
    from optadvise.core.findings import ABSENT

    for audit in audits:
        if audit.verdict == ABSENT:
            message = f"--import {path!r}: {audit.why}"
            raise CannotRunHereError(message, code=ErrorCode.MISSING_PACKAGE, option="--import", value=path)


def _judge_audits(audits: Sequence[AuditResult]) -> int:
    """Return the exit code of audits."""
    from optadvise.core.findings import ABSENT

    ran = [audit for audit in audits if audit.verdict != ABSENT]
    if not ran:
        return 4
    return 0 if all(audit.expected for audit in ran) else 1


def _judge_claims(outcomes: Sequence[ClaimOutcome]) -> int:
    """Return the exit code of claims."""
    from optadvise.core.findings import REFUTED, UNDECIDED

    verdicts = {outcome.verdict for outcome in outcomes}
    if REFUTED in verdicts:
        return 1
    if UNDECIDED not in verdicts:
        return 0
    return 4 if all(outcome.seconds is None for outcome in outcomes) else 5  # none was started, or some were


def _find_ids(catalog: Catalog, names: Sequence[str] | None, flag: str) -> list[str] | None:
    """Return the canonical ids of optimizers; None for no names."""
    return list(dict.fromkeys(catalog.find_optimizer(name, flag) for name in names)) if names else None


class _Progress:
    """Shows the current audit or claim in one line that is overwritten on a terminal."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._started: list[str] = []

    def show_audit(self, entry: AuditEntry) -> None:
        """Show the implementation that is audited."""
        self._show(entry.target.implementation.path)

    def show_claim(self, claim: Claim, seed: int) -> None:
        """Show a claim with the number of its seed."""
        self._show(claim.id, f", seed {seed + 1} of {claim.seeds}" if claim.seeds > 1 else "")

    def _show(self, name: str, detail: str = "") -> None:
        if name not in self._started:
            self._started.append(name)
        if sys.stderr.isatty():
            line = f"{len(self._started)} of {self._count}: {name}{detail}"
            print(f"\r{line[:78]:<78}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the line."""
        if self._started and sys.stderr.isatty():
            print(file=sys.stderr)
