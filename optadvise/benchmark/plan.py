"""From names, or a recommendation, to the arms of a measurement. Imports no optimizer: workers do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.errors import InputError, nearest
from optadvise.core.records import AGREES, Implementation, Optimizer, Recommendation

_FASTEST_FIRST = ("fused", "foreach", "for-loop", "triton")
# Sizes that the built-in networks come near to, for rates that depend on size.
_NOMINAL = {"tiny": 1_000_000, "small": 10_000_000, "medium": 80_000_000}
COMPILED = "compiled"


def arms(
    advisor: CompiledRules, names: Sequence[str], spec: Spec, *, control: str | None, implementation: str | None
) -> list[Arm]:
    """Return the arms for some optimizers and their control.

    Args:
        advisor: Gives each optimizer its numbers for the workload.
        names: Canonical ids.
        spec: The shared conditions.
        control: Canonical id of the control, None for none.
        implementation: What `--implementation` says; None takes the best for the device.

    Raises:
        InputError: A card has no such implementation.
    """
    found = []
    for name in dict.fromkeys(names):
        advice = _advice(advisor, name, spec)
        choices = _choices(advice.optimizer, spec, implementation)
        for made, variant in choices:
            plain = len(choices) == 1 and implementation in (None, "all")
            label = name if plain else f"{name}:{_short(made, variant, choices)}"
            found.append(_arm(advice, made, variant, spec, label, "candidate"))
    if control is not None:
        advice = _advice(advisor, control, spec)
        made, variant = _choices(advice.optimizer, spec, None)[0]
        arm = _arm(advice, made, variant, spec, f"{control} (control)", "control")
        same = [a for a in found if (a.path, a.variant) == (arm.path, arm.variant) and a.optimizer == control]
        if same and len(found) > 1:  # it is measured anyway
            found = [replace(a, role="control") if a is same[0] else a for a in found]
        else:
            found.append(arm)
    return found


def from_recommendation(
    advisor: CompiledRules, data: Mapping[str, Any], spec: Spec, *, control: str | None
) -> list[Arm]:
    """Return the arm that a recommendation's JSON describes exactly, and its control.

    Args:
        advisor: Knows the cards and gives the control its numbers.
        data: What `optadvise recommend --json` printed.
        spec: The shared conditions.
        control: Canonical id of the control, None for none.

    Raises:
        InputError: The data is no recommendation.
    """
    try:
        if data["kind"] != "recommendation" or data["schema_version"] != 1:
            raise InputError("this is no recommendation of schema version 1; make one with optadvise recommend --json")
        chosen, schedule = data["optimizer"], data["scheduler"]
        name = advisor.catalog.find_optimizer(chosen["id"], "--from")
        card = advisor.catalog.optimizer(name)
        made = next(i for i in card.implementations if i.path == chosen["import"])
        numbers = {h["name"]: h["value"] for h in data["hyperparameters"]}
        companion = data.get("companion")
        if companion is not None:
            other = advisor.catalog.optimizer((card.companion or {})["optimizer"])
            package = next(i.package for i in other.implementations if i.path == companion["import"])
            companion = {"path": companion["import"], "package": package, "kwargs": companion["kwargs"]}
        arm = replace(
            _skeleton(card, made, None, spec, name, "candidate"),
            kwargs={**chosen["kwargs"], **_besides(made, spec)},
            companion=companion,
            max_grad_norm=numbers.get("max_grad_norm"),
            phases=tuple(schedule["phases"]),
            milestones=tuple(schedule["kwargs"].get("milestones", ())) if len(schedule["phases"]) > 1 else (),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise InputError(f"--from: not a recommendation ({error!r} is missing or wrong)") from error
    return [arm, *arms(advisor, [], spec, control=control, implementation=None)]


def plain(card: Optimizer, changes: Mapping[str, Any], device: str = "cpu", implementation: str | None = None) -> Arm:
    """Return an optimizer with its card's own defaults, without schedule and clipping, in the best way that is here.

    Args:
        card: Its card.
        changes: What is set otherwise, by our names.
        device: cpu or cuda.
        implementation: One of its card's; None takes the best that is here.

    Raises:
        InputError: The card has no such implementation.
    """
    made, variant = _choices(card, Spec(device=device), implementation)[0]
    values = {h.name: h.default for h in card.hyperparameters} | dict(changes)
    kwargs = {made.arguments.get(name, name): value for name, value in values.items()}
    kwargs = {**kwargs, **made.kwargs, **made.variants.get(variant or "", {}), **_besides(made, Spec(device=device))}
    return replace(_skeleton(card, made, variant, Spec(device=device), card.id, "candidate"), kwargs=kwargs)


def arm_of(advice: Recommendation, *, fused: bool = True, device: str = "cpu") -> Arm:
    """Return what a recommendation builds.

    Args:
        advice: The recommendation.
        fused: Step in one kernel where its implementation has one.
        device: Where the weights are.
    """
    variant = "fused" if fused and advice.fused else None
    return _arm(advice, advice.implementation, variant, Spec(device=device), advice.optimizer.id, "candidate")


def _advice(advisor: CompiledRules, name: str, spec: Spec) -> Recommendation:
    """Return the numbers that an optimizer gets for the workload, over the length of the measurement."""
    answers: dict[str, Any] = {
        "optimizer": name, "steps": spec.total_steps, "params": spec.params or _NOMINAL[spec.size],
        "precision": spec.dtype,
    }  # fmt: skip
    if not spec.user and not spec.optimizer_only:
        answers["model"] = spec.workload
    return advise(advisor, answers)


def _choices(card: Optimizer, spec: Spec, wanted: str | None) -> list[tuple[Implementation, str | None]]:
    """Return implementations with their variants, best first; all of them only where all were wanted.

    Over several processes what is known to agree with one comes first.
    """
    kind = spec.device.split(":")[0]
    here = [i for i in card.implementations if kind in i.devices and _importable(i)]
    pairs = [(i, v) for i in here or card.implementations[:1] for v in _variants(i, kind)]
    if spec.nproc > 1:
        pairs = [(i, v) for i, v in pairs if _may(i, v, spec.shard)] or pairs[:1]
        pairs.sort(key=lambda pair: pair[0].sharding.get(spec.shard, AGREES) != AGREES)
    if wanted is None:
        return pairs[:1]
    if wanted == "all":
        return pairs
    if wanted == COMPILED:
        return [(pairs[0][0], COMPILED)]
    named = [(i, v) for i in card.implementations for v in _variants(i, kind) if wanted in (v, i.id, i.package)]
    if not named:
        known = {COMPILED, "all", *(i.id for i in card.implementations), *(v for _, v in pairs if v)}
        raise InputError(f"--implementation {wanted!r}: {card.id} has none; {nearest(wanted, sorted(known))}")
    if spec.nproc > 1 and not _may(*named[0], spec.shard):
        others = ", ".join(v for i, v in pairs if v and i is named[0][0]) or "another optimizer"
        raise InputError(f"--implementation {wanted!r}: {card.id}'s fails with --shard {spec.shard}; take {others}")
    return named[:1]


def _may(made: Implementation, variant: str | None, shard: str) -> bool:
    """Return whether a variant is none of those that an implementation leaves out over several processes."""
    besides, own = made.on_shard.get(shard, {}), made.variants.get(variant or "", {})
    return all(besides.get(name, value) == value for name, value in own.items())


def _short(made: Implementation, variant: str | None, choices: Sequence[tuple[Implementation, str | None]]) -> str:
    """Return the shortest words that tell one of several choices: its variant, its package's, or both."""
    if variant is None:
        return made.id
    return variant if [v for _, v in choices].count(variant) == 1 else f"{made.id}-{variant}"


def _variants(implementation: Implementation, device: str) -> list[str | None]:
    """Return an implementation's variants by their speed, None where it has none; triton is for CUDA."""
    found = [v for v in _FASTEST_FIRST if v in implementation.variants and (v != "triton" or device == "cuda")]
    return list(found) or [None]


def _importable(implementation: Implementation) -> bool:
    try:
        return find_spec(implementation.path.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _skeleton(card: Optimizer, made: Implementation, variant: str | None, spec: Spec, label: str, role: str) -> Arm:
    kind = spec.device.split(":")[0]
    unsupported = None
    if card.paged and kind != "cuda":
        plain = f"; optadvise bench {card.parents[0]} is the plain one" if card.parents else ""
        unsupported = f"paged state needs CUDA; on {kind} it is not paged{plain}"
    elif kind not in made.devices:
        unsupported = f"{made.path} runs on {', '.join(made.devices)}, not on {kind}"
    elif not _importable(made):
        remedy = f"pip install {made.package}" if made.package else "build it from source; optadvise show has the note"
        other = next((i.path for i in card.implementations if kind in i.devices and _importable(i)), None)
        stand_in = f"; optadvise bench {card.id} takes {other} instead" if other else ""
        unsupported = f"{made.path} is not installed; {remedy}{stand_in}"
    return Arm(
        optimizer=card.id,
        label=label,
        role=role,
        path=made.path,
        package=made.package,
        variant=variant,
        kwargs={},
        decay_argument=_decay_argument(card, made),
        matrices_only=made.tensors == "matrix",
        train_mode=made.needs_train_mode,
        unsupported=unsupported,
        deviates=None
        if made.deviates is None
        else f"{made.deviates.get('by', '')}: {made.deviates['in']}".lstrip(": "),
    )


def _arm(advice: Recommendation, made: Implementation, variant: str | None, spec: Spec, label: str, role: str) -> Arm:
    card = advice.optimizer
    values = {h.name: h.value for h in advice.hyperparameters}
    kwargs = {made.arguments.get(h.name, h.name): values[h.name] for h in card.hyperparameters}
    kwargs = {**kwargs, **made.kwargs, **made.variants.get(variant or "", {}), **_besides(made, spec)}
    clip = values.get("max_grad_norm")
    companion = None
    if advice.companion is not None:
        other, numbers = advice.companion
        companion = {"path": other.path, "package": other.package, "kwargs": dict(numbers)}
    steps = () if spec.optimizer_only else advice.schedule.phases
    phases = tuple({"shape": s, "import": p, "kwargs": dict(k)} for s, p, k in steps)
    return replace(
        _skeleton(card, made, variant, spec, label, role),
        kwargs=kwargs,
        companion=companion,
        max_grad_norm=float(clip) if isinstance(clip, (int, float)) else None,
        phases=phases,
        milestones=_ends(advice) if len(phases) > 1 else (),
    )


def _besides(made: Implementation, spec: Spec) -> Mapping[str, Any]:
    """Return what is passed besides, on a device and over several processes."""
    on_device = made.on_cpu if spec.device == "cpu" else {}
    return {**on_device, **(made.on_shard.get(spec.shard, {}) if spec.nproc > 1 else {})}


def _ends(advice: Recommendation) -> tuple[int, ...]:
    ends = advice.schedule.kwargs["milestones"]
    assert isinstance(ends, list)
    return tuple(int(str(end)) for end in ends)


def _decay_argument(card: Optimizer, made: Implementation) -> str | None:
    if card.hyperparameter("weight_decay") is None:
        return None
    return made.arguments.get("weight_decay", "weight_decay")


def workload_names() -> Iterable[str]:
    """Return the built-in workloads."""
    return ("transformer", "cnn", "mlp")
