"""Arms of a benchmark, from optimizer names or from a recommendation. Imports no optimizer: workers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark.spec import Arm, Companion, Role, Spec
from optadvise.benchmark.variants import (
    Choice,
    choose_fastest,
    explain_unusable,
    find_old_version,
    is_importable,
    list_choices,
    runs_sharded,
)
from optadvise.core.advice_records import Recommendation
from optadvise.core.caching import cached
from optadvise.core.cards import AGREES, FactValue, Implementation, Optimizer, Value
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.rulebase.constructor import argument_name, constructor_kwargs, runtime_kwargs

COMPILED = "compiled"
# Approximate sizes of the built-in networks, for learning rates that depend on the size.
_NOMINAL_PARAMETERS = {"tiny": 1_000_000, "small": 10_000_000, "medium": 80_000_000}


def plan_arms(
    rules: CompiledRules, names: Sequence[str], spec: Spec, *, control: str | None, implementation: str | None
) -> list[Arm]:
    """Return the arms of optimizers and their control.

    Args:
        names: Canonical ids of the optimizers.
        control: Canonical id of the control; None for no control.
        implementation: Value of `--implementation`; None selects the fastest on the device.

    Raises:
        InputError: An optimizer has no such implementation.
    """
    candidates = [arm for name in dict.fromkeys(names) for arm in _plan_candidates(rules, name, spec, implementation)]
    if control is None:
        return candidates
    advice = _advise(rules, control, spec)
    choice = _choose(advice.optimizer, spec, None)[0]
    control_arm = _plan_arm(advice, choice, spec, f"{control} (control)", "control")
    identity = (control_arm.optimizer, control_arm.path, control_arm.variant)
    equal = [arm for arm in candidates if (arm.optimizer, arm.path, arm.variant) == identity]
    if equal and len(candidates) > 1:  # a candidate is the control
        return [replace(arm, role="control") if arm is equal[0] else arm for arm in candidates]
    return [*candidates, control_arm]


def _plan_candidates(rules: CompiledRules, name: str, spec: Spec, implementation: str | None) -> list[Arm]:
    advice = _advise(rules, name, spec)
    choices = _choose(advice.optimizer, spec, implementation)
    is_only = len(choices) == 1 and implementation in (None, "all")
    labels = [name if is_only else f"{name}:{_shorten(choice, choices)}" for choice in choices]
    return [_plan_arm(advice, choice, spec, label, "candidate") for choice, label in zip(choices, labels, strict=True)]


def plan_defaults(
    card: Optimizer, changes: Mapping[str, Value], device: str = "cpu", implementation: str | None = None
) -> Arm:
    """Return the arm of an optimizer with its default hyperparameters, without schedule and clipping.

    Args:
        changes: Hyperparameters that differ from the defaults, by their names on the card.
        implementation: Id of an implementation; None selects the best installed one.

    Raises:
        InputError: The card has no such implementation.
    """
    spec = Spec(device=device)
    choice = _choose(card, spec, implementation)[0]
    values = {h.name: h.default for h in card.hyperparameters} | dict(changes)
    return replace(
        describe_arm(card, choice, spec, card.id, "candidate"),
        kwargs=constructor_kwargs(choice.implementation, values, device=device, variant=choice.variant),
    )


def plan_advice(advice: Recommendation, *, fused: bool = True, device: str = "cpu") -> Arm:
    """Return the arm of a recommendation.

    Args:
        fused: Use the fused variant if the implementation has one.
    """
    choice = Choice(advice.implementation, "fused" if fused and advice.fused else None)
    return _plan_arm(advice, choice, Spec(device=device), advice.optimizer.id, "candidate")


def _advise(rules: CompiledRules, name: str, spec: Spec) -> Recommendation:
    """Return the recommended settings of an optimizer for the workload and the number of steps."""
    model = None if spec.user or spec.optimizer_only else spec.workload
    return _advise_run(rules, name, spec.total_steps, spec.params or _NOMINAL_PARAMETERS[spec.size], spec.dtype, model)


@cached(256)  # the cells of a sweep share settings
def _advise_run(
    rules: CompiledRules, optimizer: str, steps: int, params: int, precision: str, model: str | None
) -> Recommendation:
    facts: dict[str, FactValue] = {"optimizer": optimizer, "steps": steps, "params": params, "precision": precision}
    return advise(rules, facts if model is None else {**facts, "model": model})


def _choose(card: Optimizer, spec: Spec, implementation: str | None) -> list[Choice]:
    """Return the choices of `--implementation`, best first: one, or all for `all`.

    With several processes, implementations that agree with a single process come first.
    """
    choices = _list_choices(card, spec)
    if implementation is None:
        return choices[:1]
    if implementation == "all":
        return choices
    if implementation == COMPILED:
        _check_compiled(spec)
        return [Choice(choices[0].implementation, COMPILED)]
    named = [
        choice
        for choice in list_choices(card.implementations, spec.device_type)
        if implementation in (choice.variant, choice.implementation.id, choice.implementation.package)
    ]
    if not named:
        raise _reject_choice(card, choices, spec, implementation)
    selected = next((choice for choice in named if runs_sharded(choice, spec)), named[0])
    if not runs_sharded(selected, spec):
        others = [c.variant for c in choices if c.variant and c.implementation is selected.implementation]
        raise InputError(
            f"--implementation {implementation!r}: does not work with --shard {spec.shard} for {card.id}; "
            f"use {' or '.join(others) or 'another optimizer'}",
            code=ErrorCode.OPTION_CONFLICT, option="--implementation", value=implementation,
        )  # fmt: skip
    return [selected]


def _check_compiled(spec: Spec) -> None:
    """Reject a compiled optimizer step that loss scaling would replace by the optimizer's own."""
    if spec.dtype == "amp-fp16" and spec.device_type == "cuda" and not spec.optimizer_only:
        raise InputError(
            f"--implementation {COMPILED}: not available with --precision {spec.dtype} on {spec.device}, because the "
            "GradScaler calls the step that is not compiled; use --precision amp-bf16",
            code=ErrorCode.OPTION_CONFLICT, option="--implementation", value=COMPILED,
        )  # fmt: skip


def _reject_choice(card: Optimizer, choices: Sequence[Choice], spec: Spec, implementation: str) -> InputError:
    """Return the error for a value of `--implementation` that is unknown, or a variant that cannot be used here."""
    declared = [each for each in card.implementations if implementation in each.variants]
    reasons = [explain_unusable(each, implementation, spec.device_type) for each in declared]
    reason = f" ({next(filter(None, reasons))})" if any(reasons) else ""
    variants = {choice.variant for choice in choices if choice.variant}
    accepted = {COMPILED, "all", *(each.id for each in card.implementations), *variants}
    return InputError(
        f"--implementation {implementation!r}: not available for {card.id}{reason}; "
        f"{suggest_name(implementation, sorted(accepted))}",
        code=ErrorCode.UNKNOWN_CHOICE, option="--implementation", value=implementation,
    )  # fmt: skip


def _list_choices(card: Optimizer, spec: Spec) -> list[Choice]:
    """Return the choices that can run here, best first; the first implementation if none can."""
    usable = [each for each in card.implementations if _is_usable(each, spec.device_type)]
    choices = list_choices(usable or card.implementations[:1], spec.device_type)
    if spec.sharding is None:
        return choices
    sharded = [choice for choice in choices if runs_sharded(choice, spec)] or choices[:1]
    return sorted(sharded, key=lambda choice: choice.implementation.sharding.get(spec.shard, AGREES) != AGREES)


def _is_usable(implementation: Implementation, device_type: str) -> bool:
    """Return whether the device is supported, and a package installed that is not too old."""
    is_current = is_importable(implementation) and find_old_version(implementation) is None
    return device_type in implementation.devices and is_current


def _shorten(choice: Choice, choices: Sequence[Choice]) -> str:
    """Return the shortest unique name of a choice: its variant, its implementation's id, or both."""
    if choice.variant is None:
        return choice.implementation.id
    is_unique = [other.variant for other in choices].count(choice.variant) == 1
    return choice.variant if is_unique else f"{choice.implementation.id}-{choice.variant}"


def _explain_unsupported(
    card: Optimizer, implementation: Implementation, device_type: str
) -> tuple[str, ErrorCode] | None:
    """Return why an implementation cannot run on a device here and what to do, with a code; None where it can."""
    if card.paged and device_type != "cuda":
        unpaged = f"; on {device_type} use {card.parents[0]}" if card.parents else ""
        return f"paged state requires CUDA{unpaged}", ErrorCode.UNSUPPORTED
    if implementation.tensors == "table":
        return (
            f"{implementation.path} trains only embedding tables, which bench does not measure apart",
            ErrorCode.UNSUPPORTED,
        )
    if device_type not in implementation.devices:
        devices = " or ".join(implementation.devices)
        return f"{implementation.path} requires {devices} and does not run on {device_type}", ErrorCode.UNSUPPORTED
    if _is_usable(implementation, device_type):
        return None
    old = find_old_version(implementation)
    if old is not None:
        requirement = f"{implementation.package}>={implementation.min_version}"
        return (
            f"{implementation.path} requires {requirement}, installed is {old}; pip install '{requirement}'",
            ErrorCode.MISSING_PACKAGE,
        )
    by_pip = f"pip install {implementation.package}" if implementation.package else None
    remedy = by_pip or f"build it from source (see optadvise show {card.id})"
    usable = (each for each in card.implementations if _is_usable(each, device_type))
    other = next(usable, None)
    instead = f", or use --implementation {other.id} ({other.path})" if other else ""
    return f"{implementation.path} is not installed; {remedy}{instead}", ErrorCode.MISSING_PACKAGE


def describe_arm(card: Optimizer, choice: Choice, spec: Spec, label: str, role: Role) -> Arm:
    """Return an arm without arguments, schedule and companion optimizer."""
    implementation, deviation = choice.implementation, choice.implementation.deviates
    decays = card.hyperparameter("weight_decay") is not None
    unsupported, unsupported_code = _explain_unsupported(card, implementation, spec.device_type) or (
        None,
        ErrorCode.UNSUPPORTED,
    )
    return Arm(
        optimizer=card.id,
        label=label,
        role=role,
        path=implementation.path,
        package=implementation.package,
        variant=choice.variant,
        kwargs={},
        decay_argument=argument_name(implementation, "weight_decay") if decays else None,
        tensors=implementation.tensors,
        sparse_only=implementation.gradients == "sparse",
        paged=card.paged,
        train_mode=implementation.needs_train_mode,
        unsupported=unsupported,
        unsupported_code=unsupported_code,
        deviates=None if deviation is None else deviation.text,
    )


def _plan_arm(advice: Recommendation, choice: Choice, spec: Spec, label: str, role: Role) -> Arm:
    """Return an arm with the hyperparameters and the schedule of a recommendation."""
    values = {number.name: number.value for number in advice.hyperparameters}
    phases = () if spec.optimizer_only else advice.schedule.phases
    milestones = advice.schedule.kwargs["milestones"] if len(phases) > 1 else []
    assert isinstance(milestones, list)
    clip_norm, companion = values.get("max_grad_norm"), advice.companion
    return replace(
        describe_arm(advice.optimizer, choice, spec, label, role),
        kwargs=constructor_kwargs(
            choice.implementation,
            {h.name: values[h.name] for h in advice.optimizer.hyperparameters},
            device=spec.device,
            sharding=spec.sharding,
            variant=choice.variant,
            steps=advice.situation.steps,
        ),
        companion=None if companion is None else make_companion(companion.implementation, companion.kwargs, spec),
        max_grad_norm=float(clip_norm) if isinstance(clip_norm, (int, float)) else None,
        phases=phases,
        milestones=tuple(int(str(end)) for end in milestones),
    )


def make_companion(implementation: Implementation, kwargs: Mapping[str, Value], spec: Spec) -> Companion:
    """Return a companion optimizer in its fastest variant for the device and the sharding strategy."""
    variant = implementation.variants.get(choose_fastest(implementation, spec).variant or "", {})
    runtime = runtime_kwargs(implementation, device=spec.device, sharding=spec.sharding)
    return Companion(path=implementation.path, package=implementation.package, kwargs={**kwargs, **variant, **runtime})
