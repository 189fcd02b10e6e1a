"""Audits in a worker process, and their verdicts. Does not import torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.findings import ABSENT, CONFORMS, DEVIATES, FAILS, QUANTISED, AuditVerdict
from optadvise.core.units import show_share
from optadvise.rulebase.catalog import Catalog
from optadvise.verify.records import (
    RESUMED_ELSEWHERE,
    AuditAnswer,
    AuditRequest,
    AuditResult,
    AuditTarget,
    CheckResult,
    MissingAnswer,
    ResumeAnswer,
    ScenarioResult,
)
from optadvise.verify.target import describe_user_class, make_target
from optadvise.verify.worker_client import WORKER, AuditWorker, NoAnswerError

_EXACT = 1e-3  # a quantized implementation with a larger deviation is `within quantisation`
TIMEOUT_SECONDS = 60.0  # for one implementation, including its import


class AuditEntry(Struct, frozen=True):
    """An implementation to audit."""

    target: AuditTarget
    offered: bool = True  # the card offers it to users
    is_user_class: bool = False  # named by --import
    why_not_imported: str | None = None  # why its class may not be imported; None if it may


def list_entries(catalog: Catalog, ids: Iterable[str] | None) -> list[AuditEntry]:
    """Return all implementations of some optimizers, including those that cards do not offer.

    Args:
        ids: Canonical ids; None for all optimizers.
    """
    return [
        AuditEntry(
            make_target(catalog, card, each),
            each in card.implementations,
            why_not_imported=catalog.imports.explain(each.path),
        )
        for card in map(catalog.optimizer, catalog.optimizer_ids if ids is None else ids)
        for each in (*card.implementations, *card.not_offered)
    ]


def enter_user_class(catalog: Catalog, path: str, name: str) -> AuditEntry:
    """Return the entry of a user's class, to audit it against the card of an optimizer.

    Raises:
        InputError: The path is not an import path, or the optimizer does not exist.
    """
    if "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(
            f"--import {path!r}: must be the import path of a class, such as my_package.module.MyAdamW",
            code=ErrorCode.INVALID_VALUE,
            option="--import",
            value=path,
        )
    card = catalog.optimizer(catalog.find_optimizer(name, "--as"))
    target = make_target(catalog, card, describe_user_class(card, path))
    return AuditEntry(target, is_user_class=True)


def run_audits(
    entries: Sequence[AuditEntry],
    *,
    progress: Callable[[AuditEntry], None] = lambda entry: None,
    command: Sequence[str] = WORKER,
    timeout: float = TIMEOUT_SECONDS,
) -> Iterator[AuditResult]:
    """Yield the result of each audit as soon as it is complete. A worker that hangs or dies is replaced.

    Args:
        command: Command line of the worker; tests replace it.
        timeout: Time limit of one audit in seconds.
    """
    with AuditWorker(command) as auditor, AuditWorker(command) as resumer:
        for entry in entries:
            progress(entry)
            try:
                answer = _request_audit(entry, auditor, resumer, timeout)
            except NoAnswerError as error:
                yield judge_failure(entry, str(error))
            else:
                yield judge_audit(entry, answer)


def _request_audit(
    entry: AuditEntry, auditor: AuditWorker, resumer: AuditWorker, timeout: float
) -> AuditAnswer | MissingAnswer:
    """Audit an implementation in one process, and resume its saved run in another.

    Raises:
        NoAnswerError: The process ended, or the audit exceeded its time limit.
    """
    if entry.why_not_imported is not None:
        return MissingAnswer(entry.why_not_imported)
    deadline = time.monotonic() + timeout
    resumer.start()
    request = AuditRequest(target=entry.target, is_user_class=entry.is_user_class)
    answer: AuditAnswer | MissingAnswer = auditor.request(request, AuditAnswer | MissingAnswer, timeout)
    if isinstance(answer, MissingAnswer) or answer.saved_run is None:
        return answer
    again = replace(request, saved_run=answer.saved_run)
    try:
        check = resumer.request(again, ResumeAnswer, max(deadline - time.monotonic(), 0.01)).check
    except NoAnswerError as error:
        reason = f"the audit did not finish within {timeout:g} s" if time.monotonic() >= deadline else str(error)
        check = CheckResult(name=RESUMED_ELSEWHERE, verdict="fails", description=reason)
    return replace(answer, checks=(*answer.checks, check), saved_run=None)


# -- verdict ----------------------------------------------------------------------------------------------------------


def judge_failure(entry: AuditEntry, reason: str) -> AuditResult:
    """Return the result of an audit whose process ended or exceeded its time limit."""
    return _make_result(entry, FAILS, reason, expected=not entry.offered)


def judge_audit(entry: AuditEntry, answer: AuditAnswer | MissingAnswer) -> AuditResult:
    """Return the result of an audit."""
    if isinstance(answer, MissingAnswer):
        return _make_result(entry, ABSENT, answer.reason, expected=True)
    verdict = _choose_verdict(answer)
    is_declared = entry.target.implementation.deviates is not None
    return _make_result(
        entry,
        verdict,
        "; ".join(_describe_problems(answer)) or None,
        expected=verdict in (CONFORMS, QUANTISED) or is_declared or not entry.offered,
        answer=answer,
    )


def _make_result(
    entry: AuditEntry, verdict: AuditVerdict, why: str | None, *, expected: bool, answer: AuditAnswer | None = None
) -> AuditResult:
    implementation = entry.target.implementation
    note = None if entry.offered else implementation.note
    return AuditResult(
        optimizer=entry.target.optimizer,
        implementation=implementation.id,
        path=implementation.path,
        package=implementation.package,
        offered=entry.offered,
        note=implementation.deviates.in_ if implementation.deviates else note,
        verdict=verdict,
        why=why,
        expected=expected,
        worst=None if answer is None else _find_worst(answer.scenarios),
        scenarios=() if answer is None else answer.scenarios,
        checks=() if answer is None else answer.checks,
        known_deviation=None if answer is None else answer.known_deviation,
    )


def _find_worst(scenarios: Iterable[ScenarioResult]) -> float | None:
    """Return the largest deviation in fp32."""
    deviations = (scenario.deviation for scenario in scenarios if scenario.name != "half")
    return max((deviation for deviation in deviations if deviation is not None), default=None)


def _choose_verdict(answer: AuditAnswer) -> AuditVerdict:
    if _is_broken(answer):
        return FAILS
    scenarios = answer.scenarios
    has_problem = any(scenario.error or scenario.deviates for scenario in scenarios)
    if has_problem or any(check.verdict != "ok" for check in answer.checks):
        return DEVIATES
    is_coarse = any(scenario.bits < 32 and (scenario.deviation or 0.0) > _EXACT for scenario in scenarios)
    return QUANTISED if is_coarse else CONFORMS


def _is_broken(answer: AuditAnswer) -> bool:
    """Return whether the implementation fails to step a plain matrix."""
    return any(scenario.error is not None and scenario.name == "plain" for scenario in answer.scenarios)


def _describe_problems(answer: AuditAnswer) -> list[str]:
    """Return all problems, the most important first."""
    deviating = [scenario for scenario in answer.scenarios if scenario.deviates]
    raising = [scenario for scenario in answer.scenarios if scenario.error is not None]
    problems = [answer.known_deviation] if answer.known_deviation else []
    if deviating and not problems:
        errors = (f"{show_share(each.deviation or 0.0)} error for {each.description}" for each in deviating[:3])
        problems.append("; ".join(errors))
    problems += [f"raises an error for {scenario.description} ({scenario.error})" for scenario in raising[:1]]
    if not _is_broken(answer):
        problems += [f"{check.name}: {check.description}" for check in answer.checks if check.verdict != "ok"]
    if answer.rejected:
        problems.append(f"does not accept {', '.join(answer.rejected)}")
    return problems
