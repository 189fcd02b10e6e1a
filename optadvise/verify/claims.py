"""Tests of claims by experiments in a worker process, and their verdicts. Does not import torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import asdict, replace

from optadvise.benchmark import plan
from optadvise.benchmark.records import Interval
from optadvise.benchmark.spec import Arm
from optadvise.benchmark.statistics import mean_ci
from optadvise.core.cards import Optimizer, Range, Value
from optadvise.core.claim_cards import EXPERIMENTS, Claim, Trial
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError, suggest_name
from optadvise.core.findings import CONFIRMED, REFUTED, UNDECIDED, ClaimOutcome, ClaimVerdict, TestedImplementation
from optadvise.core.surface_cards import Surface
from optadvise.rulebase.catalog import Catalog
from optadvise.verify.records import (
    ArmAtRate,
    DevicesAnswer,
    DevicesRequest,
    ExperimentRequest,
    FigureAnswer,
    Side,
    UndecidedAnswer,
)
from optadvise.verify.worker_client import WORKER, AuditWorker, NoAnswerError

TIMEOUT_SECONDS = 60.0  # for one claim
_START_SECONDS = 120.0  # for the start of a worker, which imports torch

Progress: TypeAlias = Callable[[Claim, int], None]  # called with claim and seed before each run


class Verdict(Struct, frozen=True):
    """Verdict on a claim."""

    verdict: ClaimVerdict
    why: str | None = None  # why the claim is undecided
    measured: float | None = None
    ci95: tuple[float, float] | None = None
    figures: tuple[float, ...] = ()  # one per seed


class _Evaluation(Struct, frozen=True):
    """Catalog, worker and limits of an evaluation."""

    catalog: Catalog
    worker: AuditWorker
    devices: DevicesAnswer | UndecidedAnswer  # devices that experiments can run on, or why they are unknown
    progress: Progress
    timeout: float  # seconds for one claim


def select_claims(catalog: Catalog, ids: Iterable[str] = (), optimizers: Iterable[str] | None = None) -> list[Claim]:
    """Return claims by id, or the claims about some optimizers, or all claims.

    Args:
        ids: Ids of claims; empty to select by optimizer.
        optimizers: Canonical ids; None for all claims.

    Raises:
        InputError: A claim does not exist.
    """
    named = list(dict.fromkeys(ids))
    for name in named:
        if name not in catalog.claims:
            hints = filter(None, (suggest_name(name, catalog.claims), "list all with optadvise list --claims"))
            raise InputError(
                f"--claim {name!r}: unknown claim; {'; '.join(hints)}",
                code=ErrorCode.UNKNOWN_NAME,
                option="--claim",
                value=name,
            )
    if named:
        return [catalog.claims[name] for name in named]
    selected = None if optimizers is None else {*optimizers}
    return [claim for claim in catalog.claims.values() if selected is None or selected & {*claim.optimizers}]


def evaluate_claims(
    catalog: Catalog,
    claims: Sequence[Claim],
    *,
    progress: Progress = lambda claim, seed: None,
    command: Sequence[str] = WORKER,
    timeout: float = TIMEOUT_SECONDS,
) -> Iterator[ClaimOutcome]:
    """Yield the outcome of each claim as soon as it is complete.

    Args:
        command: Command line of the worker; tests replace it.
        timeout: Time limit of one claim in seconds, for all seeds together.

    Raises:
        RuleFileError: A claim refers to a surface that does not exist.
    """
    surfaces = [_find_surface(catalog, claim) for claim in claims]  # report errors before anything runs
    with AuditWorker(command) as worker:
        evaluation = _Evaluation(
            catalog=catalog, worker=worker, devices=_request_devices(worker), progress=progress, timeout=timeout
        )
        for claim, surface in zip(claims, surfaces, strict=True):
            yield _evaluate_claim(evaluation, claim, surface)


def _request_devices(worker: AuditWorker) -> DevicesAnswer | UndecidedAnswer:
    try:
        return worker.request(DevicesRequest(), DevicesAnswer, _START_SECONDS)
    except NoAnswerError as error:
        return UndecidedAnswer(f"the worker {error}; run optadvise doctor to find the cause")


def _evaluate_claim(evaluation: _Evaluation, claim: Claim, surface: Surface | None) -> ClaimOutcome:
    device = _choose_device(evaluation, claim)
    if isinstance(device, UndecidedAnswer):
        return _make_outcome(claim, Verdict(UNDECIDED, device.reason))
    sides = [_make_side(evaluation.catalog.optimizer(trial.optimizer), trial, device) for trial in claim.trials]
    explain = evaluation.catalog.imports.explain
    reasons = [reason for side in sides if (reason := explain(side.arm.path) or side.arm.unsupported)]
    if reasons:
        return _make_outcome(claim, Verdict(UNDECIDED, reasons[0]), device, sides)
    request = ExperimentRequest(
        experiment=claim.experiment or "", setting=claim.setting, device=device, sides=tuple(sides), surface=surface
    )
    begin = time.monotonic()
    figures, why = _run_seeds(evaluation, claim, request)
    seconds = round(time.monotonic() - begin, 2)
    return _make_outcome(claim, judge_claim(claim, figures, why), device, sides, seconds)


def _choose_device(evaluation: _Evaluation, claim: Claim) -> str | UndecidedAnswer:
    """Return the device for a claim, or why it cannot be tested on this machine."""
    if claim.needs is not None:
        return UndecidedAnswer(f"requires {claim.needs}")
    disabled = [name for name in claim.optimizers if name not in evaluation.catalog.optimizer_ids]
    if disabled:
        return UndecidedAnswer(f"a rule layer disables {disabled[0]}")
    if isinstance(evaluation.devices, UndecidedAnswer):
        return evaluation.devices
    reason = f"requires {' or '.join(claim.devices)}, which torch does not find on this machine"
    usable = (device for device in claim.devices if device in evaluation.devices.devices)
    return next(usable, UndecidedAnswer(reason))


def _run_seeds(evaluation: _Evaluation, claim: Claim, request: ExperimentRequest) -> tuple[list[float], str | None]:
    """Run the experiment once per seed, and return the results, and why some are missing (None if complete)."""
    deadline = time.monotonic() + evaluation.timeout
    figures: list[float] = []
    for seed in range(claim.seeds):
        evaluation.progress(claim, seed)
        try:
            remaining = max(deadline - time.monotonic(), 0.01)
            answer = evaluation.worker.request(replace(request, seed=seed), FigureAnswer | UndecidedAnswer, remaining)
            reason = answer.reason if isinstance(answer, UndecidedAnswer) else None
        except NoAnswerError as error:
            answer, reason = None, str(error)
        if not isinstance(answer, FigureAnswer):
            if time.monotonic() >= deadline:
                reason = f"completed only {len(figures)} of {claim.seeds} seeds within {evaluation.timeout:g} s"
            return figures, reason
        figures.append(answer.value)
    return figures, None


# -- verdict ----------------------------------------------------------------------------------------------------------


def judge_claim(claim: Claim, figures: Sequence[float], why: str | None = None) -> Verdict:
    """Return the verdict on a claim.

    Args:
        figures: Results, one per seed.
        why: Why results are missing, which makes the claim undecided; None if they are complete.
    """
    design = EXPERIMENTS.get(claim.experiment or "")
    mean = mean_ci(figures, ratio=design.ratio) if design and figures else None
    if mean is None:
        return Verdict(UNDECIDED, why, figures=tuple(figures))
    verdict: ClaimVerdict = UNDECIDED
    if why is None and claim.expected_range is not None:
        ends = mean.interval or Interval(mean.value, mean.value)
        low, high = _locate(ends.low, claim.expected_range), _locate(ends.high, claim.expected_range)
        if low == high == "inside":
            verdict = CONFIRMED
        elif low == "above" or high == "below":
            verdict = REFUTED
        else:
            why = "the confidence interval overlaps the limit of the claimed range"
    ci95 = None if mean.interval is None else mean.interval.ends
    return Verdict(verdict=verdict, why=why, measured=mean.value, ci95=ci95, figures=tuple(figures))


def _locate(figure: float, span: Range) -> str:
    """Return whether a value is below, inside or above the claimed range."""
    if span.low is not None and (figure < span.low or (figure == span.low and not span.low_closed)):
        return "below"
    if span.high is not None and (figure > span.high or (figure == span.high and not span.high_closed)):
        return "above"
    return "inside"


def format_range(span: Range) -> str:
    """Return a range in the syntax of claims: `< 1`, `>= 2` or `[0.4 .. 0.6)`."""
    if span.low is None:
        return f"{'<=' if span.high_closed else '<'} {span.high:g}"
    if span.high is None:
        return f"{'>=' if span.low_closed else '>'} {span.low:g}"
    return f"{'[' if span.low_closed else '('}{span.low:g} .. {span.high:g}{']' if span.high_closed else ')'}"


def _make_outcome(
    claim: Claim,
    verdict: Verdict,
    device: str | None = None,
    sides: Iterable[Side] = (),
    seconds: float | None = None,
) -> ClaimOutcome:
    return ClaimOutcome(
        id=claim.id,
        claim=claim.claim,
        quote=claim.quote,
        cite=claim.cite,
        optimizers=claim.optimizers,
        experiment=claim.experiment,
        setting=claim.setting,
        measures=claim.measures,
        expected_range=None if claim.expected_range is None else format_range(claim.expected_range),
        seeds=tuple(range(claim.seeds)) if claim.experiment else (),
        limits=claim.limits,
        supports=claim.supports,
        device=device,
        implementations=tuple(_describe_implementation(side.arm) for side in sides),
        seconds=seconds,
        **asdict(verdict),
    )


def _describe_implementation(arm: Arm) -> TestedImplementation:
    return TestedImplementation(optimizer=arm.optimizer, path=arm.path, package=arm.package, deviates=arm.deviates)


def _make_side(card: Optimizer, trial: Trial, device: str) -> Side:
    def make_arm(**changes: Value) -> Arm:
        arm = plan.plan_defaults(card, {**trial.hyperparameters, **changes}, device, trial.implementation)
        return replace(arm, max_grad_norm=trial.max_grad_norm)

    arms = tuple(ArmAtRate(lr, make_arm(lr=lr)) for lr in trial.learning_rates)
    return Side(arm=make_arm(), arms_by_rate=arms, warmup=trial.warmup_steps)


def _find_surface(catalog: Catalog, claim: Claim) -> Surface | None:
    """Return the surface of a claim's experiment, None if it uses none.

    Raises:
        RuleFileError: The surface does not exist.
    """
    name = claim.setting.get("surface")
    if name is None:
        return None
    if name not in catalog.surfaces:
        message = f"unknown surface {name!r}; {suggest_name(name, catalog.surfaces)}"
        raise RuleFileError(message, claim.at, code=ErrorCode.UNKNOWN_REFERENCE)
    return catalog.surfaces[name]
