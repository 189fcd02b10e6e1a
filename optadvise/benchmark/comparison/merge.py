"""Merging of results that were measured separately."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import asdict, replace

from optadvise.benchmark.comparison.comparability import hardware_field
from optadvise.benchmark.metrics import EXACT_RATIOS, TIMED_RATIOS
from optadvise.benchmark.records import MAX_ARMS, ArmResult, BenchmarkResult
from optadvise.benchmark.results import exact_ratios
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError


class NamedResult(Struct, frozen=True):
    """Result with the name of its file."""

    name: str
    result: BenchmarkResult


def merge_results(results: Sequence[NamedResult], control: str) -> BenchmarkResult:
    """Return one result with all arms and their ratios to the control.

    The ratios have no intervals, because drift between separate runs does not cancel.

    Args:
        control: Id of the optimizer that becomes the control, if an arm has it.

    Raises:
        InputError: Settings or hardware differ, two arms have the same label, or there are too many arms.
    """
    base = results[0].result
    for other in results:
        _check_settings(results[0], other)
    arms = tuple(_merge_arms(results, control))
    if len(arms) > MAX_ARMS:
        message = f"--merge: the results have {len(arms)} optimizers together; must be at most {MAX_ARMS}"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--merge", value=len(arms))
    reference = next((arm for arm in arms if arm.role == "control" and arm.status == "ok"), None)
    compared = [arm for arm in arms if arm is not reference and arm.status == "ok"]
    metrics = (*TIMED_RATIOS, *EXACT_RATIOS)
    ratios = () if reference is None else (r for arm in compared for r in exact_ratios(arm, reference, metrics))
    packages = {name: version for other in results for name, version in other.result.environment.packages.items()}
    return replace(
        base,
        environment=replace(base.environment, packages=packages),
        arms=arms,
        ratios=tuple(ratios),
        complete=all(other.result.complete for other in results),
        warnings=tuple(warning for other in results for warning in other.result.warnings),
        requirements=(),
        verdict=None,
    )


def _check_settings(base: NamedResult, other: NamedResult) -> None:
    """Check that a result has the settings and hardware of the first."""
    spec, other_spec = asdict(base.result.spec), asdict(other.result.spec)
    name = next((name for name, value in spec.items() if other_spec[name] != value), None)
    if name is not None:
        raise _reject_merge(
            other.name,
            f"{name} is {other_spec[name]}, but {spec[name]} in {base.name}; merge results of equal settings",
        )
    field = hardware_field(base.result.spec)
    hardware, other_hardware = (getattr(each.result.environment, field) for each in (base, other))
    if hardware != other_hardware:
        raise _reject_merge(
            other.name,
            f"measured on {other_hardware}, but {base.name} on {hardware}; merge results of the same hardware",
        )


def _reject_merge(name: str, problem: str, code: ErrorCode = ErrorCode.NOT_COMPARABLE) -> InputError:
    """Return the error for a result that cannot be merged with the others."""
    return InputError(f"--merge {name}: {problem}", code=code, option="--merge", value=name)


def _merge_arms(results: Sequence[NamedResult], control: str) -> Iterator[ArmResult]:
    """Yield all arms with their new roles."""
    labels: set[str] = set()
    for named in results:
        for arm in named.result.arms:
            if arm.label in labels:
                problem = f"{arm.label} is already in another result; remove one of them"
                raise _reject_merge(named.name, problem, ErrorCode.DUPLICATE_ENTRY)
            labels.add(arm.label)
            yield replace(arm, role="control" if arm.optimizer == control else "candidate")
