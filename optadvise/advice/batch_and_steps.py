"""Batch and length of a run: values that follow from stated values, and contradictions between them."""

from __future__ import annotations

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, Situation, read_count
from optadvise.core.units import show_count
from optadvise.memory.search import list_divisors

_ROUNDING = 0.05  # relative difference of two numbers of steps that a rounded number explains


def derive_batch(facts: FactValues) -> dict[str, int]:
    """Return the batch size or the micro-batch if it follows from gradient accumulation; empty otherwise.

    Args:
        facts: Facts with defaults.
    """
    if facts.get("grad_accum") is None:
        return {}
    replicas = read_count(facts, "grad_accum") * read_count(facts, "gpus")
    batch_size, micro_batch = facts.get("batch_size"), facts.get("micro_batch")
    if isinstance(batch_size, int) and micro_batch is None:
        return {"micro_batch": -(-batch_size // replicas)}
    if isinstance(micro_batch, int) and batch_size is None:
        return {"batch_size": micro_batch * replicas}
    return {}


def check_batch(situation: Situation) -> None:
    """Reject a batch that micro-batch, GPUs and gradient accumulation contradict.

    A batch that is not a multiple of the GPUs is accepted: with tensor or pipeline parallelism several GPUs share a
    micro-batch.

    Raises:
        InputError: The numbers contradict each other.
    """
    _reject_released_accumulation(situation)
    batch_size, gpus, accumulation = situation.batch_size, situation.gpus, situation.grad_accum
    micro_batch = situation.micro_batch if "micro_batch" in situation.stated else None
    if batch_size is None or "batch_size" not in situation.stated:
        return
    replicas = 1 if is_uneven(situation) else gpus
    if micro_batch is not None and accumulation is not None:
        _reject_other_product(situation, batch_size, micro_batch * accumulation)
    elif micro_batch is not None and batch_size % (micro_batch * replicas):
        _reject_indivisible("--micro-batch", micro_batch, batch_size, replicas)
    elif accumulation is not None and batch_size % (accumulation * replicas):
        _reject_indivisible("--grad-accum", accumulation, batch_size, replicas)


def is_uneven(situation: Situation) -> bool:
    """Return whether the batch is not a multiple of the GPUs, as with tensor or pipeline parallelism."""
    return situation.batch_size is not None and situation.batch_size % situation.gpus != 0


def releases_accumulated(situation: Situation) -> bool:
    """Return whether gradient release would free gradients that a run must accumulate over its micro-batches."""
    accumulates = (situation.grad_accum or 1) > 1
    if situation.micro_batch is not None:
        accumulates |= (situation.batch_size or 1) > situation.micro_batch * situation.gpus
    return situation.gradient_release and accumulates


def _reject_released_accumulation(situation: Situation) -> None:
    if releases_accumulated(situation):
        names = [name for name in ("batch_size", "micro_batch", "grad_accum") if name in situation.stated]
        options = [f"--{name.replace('_', '-')}" for name in names]
        stated = [f"{option} {getattr(situation, name)}" for option, name in zip(options, names, strict=True)]
        raise InputError(
            f"--gradient-release: requires one micro-batch per step, but {' with '.join(stated)} accumulates; "
            f"remove --gradient-release or {' or '.join(options)}",
            code=ErrorCode.OPTION_CONFLICT, option="--gradient-release", value=True,
        )  # fmt: skip


def _reject_other_product(situation: Situation, batch_size: int, samples: int) -> None:
    """Reject a batch that differs from micro-batch × accumulation × GPUs.

    Args:
        situation: The run.
        batch_size: The stated batch.
        samples: Samples of one data-parallel replica per step.
    """
    gpus = situation.gpus
    is_shared = is_uneven(situation) and batch_size % samples == 0 and gpus % (batch_size // samples) == 0
    if batch_size != samples * gpus and not is_shared:
        factors = f"{situation.micro_batch} × {gpus} × {situation.grad_accum}"
        raise InputError(
            f"--grad-accum {situation.grad_accum}: --micro-batch × --gpus × --grad-accum is {factors} = "
            f"{samples * gpus}, not --batch-size {batch_size}; remove one of them",
            code=ErrorCode.OPTION_CONFLICT, option="--grad-accum", value=situation.grad_accum,
        )  # fmt: skip


def _reject_indivisible(option: str, number: int, batch_size: int, replicas: int) -> None:
    factors = f"{option} × --gpus ({number} × {replicas})" if replicas > 1 else option
    raise InputError(
        f"{option} {number}: --batch-size {batch_size} must be divisible by {factors}; "
        f"use {_format_nearest_divisors(batch_size // replicas, number)}",
        code=ErrorCode.NOT_DIVISIBLE, option=option, value=number,
    )  # fmt: skip


def _format_nearest_divisors(number: int, rejected: int) -> str:
    """Return the nearest divisors of a number below and above a rejected one, as text.

    Example:
        >>> _format_nearest_divisors(64, 3)
        '2 or 4'
    """
    accepted = list_divisors(number)
    below = max((n for n in accepted if n < rejected), default=None)
    above = min((n for n in accepted if n > rejected), default=None)
    return " or ".join(str(n) for n in (below, above) if n is not None)


def derive_steps(situation: Situation) -> Situation:
    """Return a situation with the steps that follow from its tokens, or from its epochs and samples.

    Raises:
        InputError: The stated numbers lead to different numbers of steps.
    """
    derived = _list_steps(situation)
    steps = {"--steps": situation.steps, **derived} if "steps" in situation.stated else derived
    if not steps:
        return situation
    (first, count), *others = steps.items()
    for option, other in others:
        if abs(other - count) > _ROUNDING * count:
            raise InputError(
                f"{option}: means {show_count(other)} steps, but {first} means {show_count(count)}; remove one of them",
                code=ErrorCode.OPTION_CONFLICT, option=option, value=other,
            )  # fmt: skip
    return situation if first == "--steps" else situation.derive(steps=count)


def _list_steps(situation: Situation) -> dict[str, int]:
    """Return the numbers of steps that follow from stated numbers, by option."""
    steps = {}
    if situation.tokens is not None and situation.tokens_per_step is not None:
        steps["--tokens"] = max(round(situation.tokens / situation.tokens_per_step), 1)
    if situation.epochs is not None and situation.samples is not None and situation.batch_size is not None:
        steps["--epochs"] = situation.epochs * -(-situation.samples // situation.batch_size)
    return steps
