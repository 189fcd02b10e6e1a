"""Arms of `optadvise bench --from`, exactly as a recommendation's JSON describes them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark.options import TENSOR_SIZES, WORKLOADS
from optadvise.benchmark.plan import describe_arm, make_companion, plan_arms
from optadvise.benchmark.spec import Arm, Companion, Spec
from optadvise.benchmark.variants import Choice, list_variants, runs_sharded
from optadvise.core.cards import UNKNOWN, Implementation, Optimizer, Phase, Value
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, OptadviseWarning
from optadvise.core.foreign import ForeignFileError, convert_record, decode_json, read_bounded, read_stream
from optadvise.rulebase.constructor import runtime_kwargs

ForeignJson: TypeAlias = "Mapping[str, object]"  # of a user, not checked yet


class _ClassCall(Struct, frozen=True):
    """Class and its constructor arguments."""

    path: str = field(name="import")
    kwargs: dict[str, Value]


class _RecommendedOptimizer(_ClassCall, frozen=True):
    id: str


class _SchedulePhase(_ClassCall, frozen=True):
    shape: str


class _Schedule(Struct, frozen=True):
    phases: Annotated[tuple[_SchedulePhase, ...], Meta(min_length=1)]
    kwargs: dict[str, Value]


class _Hyperparameter(Struct, frozen=True):
    name: str
    value: Value


class _Settings(Struct, frozen=True):
    variant: str | None = None


class _Situation(Struct, frozen=True):
    model: str | None = None


class RecommendedRun(Struct, frozen=True):
    """Fields of `optadvise recommend --json` that a benchmark uses."""

    kind: Literal["recommendation"]
    schema_version: Literal[1]
    optimizer: _RecommendedOptimizer
    scheduler: _Schedule
    hyperparameters: tuple[_Hyperparameter, ...]
    companion: _ClassCall | None = None
    run: _Settings = _Settings()
    situation: _Situation = _Situation()


def load_recommendation(path: Path) -> ForeignJson:
    """Return the JSON of a recommendation.

    Args:
        path: A file or a pipe; `-` for stdin.

    Raises:
        InputError: The file cannot be read, or is not a JSON object.
    """
    try:
        data = decode_json(read_stream(sys.stdin.buffer) if str(path) == "-" else read_bounded(path))
    except ForeignFileError as error:
        message = f"--from {str(path)!r}: {error}; use the output of optadvise recommend --json"
        raise InputError(message, code=error.code, option="--from", value=path) from error
    if not isinstance(data, dict):
        raise _reject("it must be a JSON object")
    return data


def read_recommendation(data: ForeignJson) -> RecommendedRun:
    """Validate a recommendation's JSON.

    Raises:
        InputError: It is not a recommendation.
    """
    try:
        if data["kind"] != "recommendation" or data["schema_version"] != 1:
            raise _reject("kind must be 'recommendation' and schema_version 1")
        return convert_record(data, RecommendedRun)
    except KeyError as error:
        raise _reject(f"missing key {error}") from error
    except ForeignFileError as error:
        raise _reject(str(error)) from error


def _reject(problem: str) -> InputError:
    """Return the error for JSON that is not a recommendation."""
    message = f"--from: not a recommendation ({problem}); create it with optadvise recommend --json"
    return InputError(message, code=ErrorCode.INVALID_RECOMMENDATION, option="--from")


def plan_recommendation(rules: CompiledRules, data: ForeignJson, spec: Spec, *, control: str | None) -> list[Arm]:
    """Return the arm of a recommendation and its control.

    Args:
        data: Output of `optadvise recommend --json`.
        control: Canonical id of the control; None for no control.

    Raises:
        InputError: The data is not a recommendation.
    """
    run = read_recommendation(data)
    name = rules.catalog.find_optimizer(run.optimizer.id, "--from")
    card = rules.catalog.optimizer(name)
    implementation = _find_implementation(card, run.optimizer.path)
    values = {number.name: number.value for number in run.hyperparameters}
    _warn_of_other_network(run.situation.model, spec)
    choice = _choose_variant(implementation, run.run.variant, spec)
    arm = replace(
        describe_arm(card, choice, spec, name, "candidate"),
        kwargs={
            **run.optimizer.kwargs,
            **implementation.variants.get(choice.variant or "", {}),
            **runtime_kwargs(implementation, device=spec.device, sharding=spec.sharding),
        },
        companion=_plan_companion(rules, card, run.companion, spec),
        max_grad_norm=_read_clip_norm(values.get("max_grad_norm")),
        phases=_read_phases(rules, run.scheduler),
        milestones=_read_milestones(run.scheduler),
    )
    return [arm, *plan_arms(rules, [], spec, control=control, implementation=None)]


def _warn_of_other_network(model: str | None, spec: Spec) -> None:
    """Print one line if the benchmark trains another kind of network than the recommendation is for."""
    if model in (None, UNKNOWN, spec.workload) or spec.user or spec.optimizer_only:
        return
    other = f"--workload {model}" if model in WORKLOADS else "--workload package.module:function for your network"
    message = f"--from recommends for {model}, but bench trains a {spec.workload}: {TENSOR_SIZES}; use {other}"
    warnings.warn(message, OptadviseWarning, stacklevel=2)


def _choose_variant(implementation: Implementation, variant: str | None, spec: Spec) -> Choice:
    """Return the recommended variant, as generated programs use it; None if it cannot be used here."""
    choice = Choice(implementation, variant)
    is_usable = variant in list_variants(implementation, spec.device_type) and runs_sharded(choice, spec)
    return choice if is_usable else Choice(implementation, None)


def _find_implementation(card: Optimizer, path: str) -> Implementation:
    implementation = next((each for each in card.implementations if each.path == path), None)
    if implementation is None:
        raise _reject(f"{path} is not an implementation of {card.id}")
    return implementation


def _plan_companion(rules: CompiledRules, card: Optimizer, call: _ClassCall | None, spec: Spec) -> Companion | None:
    if call is None:
        return None
    if card.companion is None:
        raise _reject(f"{card.id} has no companion optimizer")
    companion_card = rules.catalog.optimizer(card.companion.optimizer)
    return make_companion(_find_implementation(companion_card, call.path), call.kwargs, spec)


def _read_clip_norm(value: Value) -> float | None:
    """Return the maximum gradient norm; None for no clipping."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise _reject("max_grad_norm must be a positive number or null")
    return float(value)


def _read_phases(rules: CompiledRules, schedule: _Schedule) -> tuple[Phase, ...]:
    """Return the phases, after checking that cards of schedules have their shapes and classes."""
    declared = {(phase.shape, phase.path) for card in rules.catalog.base.schedulers.values() for phase in card.phases}
    for number, each in enumerate(schedule.phases):
        if (each.shape, each.path) not in declared:
            raise _reject(f"scheduler.phases[{number}]: no schedule has the shape {each.shape!r} with {each.path}")
    return tuple(Phase(shape=each.shape, path=each.path, kwargs=each.kwargs) for each in schedule.phases)


def _read_milestones(schedule: _Schedule) -> tuple[int, ...]:
    """Return the steps at which the next phase begins; empty for a single phase."""
    ends = schedule.kwargs.get("milestones")
    if len(schedule.phases) == 1:
        return ()
    steps = [end for end in ends if type(end) is int and end >= 0] if isinstance(ends, list) else []
    if ends != sorted(steps) or len(steps) != len(schedule.phases) - 1:
        raise _reject("milestones must be the ascending first steps of all phases but the first")
    return tuple(steps)
