"""Memory estimate of the user's own module: one step under fake tensors, and cards for optimizers that cannot step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.memory_answer import is_rejected
from optadvise.core.errors import InputError
from optadvise.core.records import Fit, Interval, MemoryAnswer, MemoryEstimate, MemoryLine, Situation
from optadvise.fake_tensors.client import trace_step
from optadvise.fake_tensors.records import OptimizerRequest, OptimizerStep, StepFigures
from optadvise.memory.breakdown import Size, fits, fitting, intervals
from optadvise.memory.records import Weight
from optadvise.rulebase.constructor import constructor_kwargs

# The facts that may be stated beside a module; the module itself decides the others.
ACCEPTED_FACTS = frozenset({"vram_bytes", "gpu", "bf16", "vendor", "precision", "optimizer", "model", "task"})


def estimate_module(advisor: CompiledRules, spec: str, stated: Mapping[str, Any], timeout: float) -> MemoryAnswer:
    """Measure one training step of the user's module, with every optimizer.

    Args:
        advisor: The rules.
        spec: `package.module:function`, as `bench --workload` takes it.
        stated: Facts about the GPU, the precision and the optimizer.
        timeout: Seconds for everything.

    Raises:
        InputError: A fact is stated that the module itself decides, or the function is wrong.
        CannotRunHereError: torch is missing, or the process that steps crashed.
    """
    _check_input(spec, stated)
    situation = complete_situation(advisor, stated)
    ids = advisor.catalog.optimizer_ids
    traced = trace_step(spec, situation.precision, list(request_optimizers(advisor, ids)), timeout=timeout)
    step = traced.figures
    situation = situation.state(params=step.parameters, micro_batch=step.samples)
    chosen = situation.optimizer or advisor.reference_optimizer
    if situation.optimizer is None:
        situation = situation.derive(optimizer=chosen)
    size = _describe_size(step)
    estimates = {each.id: _estimate_optimizer(advisor, situation, step, size, each) for each in traced.optimizers}
    rejected = {name for name in ids if is_rejected(advisor, situation, name)}
    ranking = [
        Fit(name, memory.optimizer, memory.total, memory.known, memory.fits, None, None, memory.basis)
        for name, memory in estimates.items()
        if name not in rejected
    ]
    return MemoryAnswer(
        situation=situation, optimizer=chosen, memory=estimates[chosen], largest_pass=None, longest=None,
        optimizers=tuple(sorted(ranking, key=lambda fit: (fit.total or 0, fit.id))), fixes=(), measured=step.seconds,
    )  # fmt: skip


def _check_input(spec: str, stated: Mapping[str, Any]) -> None:
    extra = sorted(set(stated) - ACCEPTED_FACTS)
    if extra:
        flag = "--arch, --hf-config or --hidden" if extra[0] == "shape" else "--" + extra[0].replace("_", "-")
        raise InputError(f"--from {spec!r} {flag}: your module is measured as it is; leave {flag} out, and build it in")
    path, _, function = spec.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), function)):
        raise InputError(f"--from {spec!r}: not package.module:function, such as mypackage.train:workload")


def request_optimizers(advisor: CompiledRules, ids: Sequence[str], *, fused: bool = True) -> Iterator[OptimizerRequest]:
    """Yield what a worker needs to step optimizers, with the defaults of their cards.

    Args:
        advisor: The rules.
        ids: The optimizers.
        fused: Choose the fused variant if the implementation has one, as estimates of described networks do.
    """
    for name in ids:
        card = advisor.catalog.optimizer(name)
        first = card.implementations[0]
        defaults = {h.name: h.default for h in card.hyperparameters}
        # The worker steps optimizers on the CPU.
        kwargs = constructor_kwargs(first, defaults, device="cpu", variant="fused" if fused else None)
        yield OptimizerRequest(name, first.path, kwargs, first.package)


def _describe_size(step: StepFigures) -> Size:
    """Return the module's size as cards need it; which of its matrices are embeddings is not known."""
    tensors = Counter(
        {Weight(s.shape, "matrix" if len(s.shape) > 1 else "vector"): s.tensors for s in step.shapes if s.is_trained}
    )
    matrices = sum(prod(w.shape) * n for w, n in tensors.items() if w.kind == "matrix")
    largest = max((prod(w.shape) for w in tensors), default=0)
    trained = step.trainable_parameters
    adapters = trained if trained < step.parameters else 0
    return Size(step.parameters, adapters, matrices, largest, 1, 0, tensors, None, "measured")


def _estimate_optimizer(
    advisor: CompiledRules, situation: Situation, step: StepFigures, size: Size, optimizer: OptimizerStep
) -> MemoryEstimate:
    """Return the breakdown with one optimizer: as it was stepped, or by its card."""
    settings = advisor.sizing.settings
    adds = advisor.sizing.adding(optimizer.id, situation, size)
    state, scratch, how = adds.state, adds.scratch, f"{adds.how_state}, by its card"
    if optimizer.figures is not None:
        state, scratch = optimizer.figures.state_bytes, optimizer.figures.temporary_bytes
        how = "measured, as its step made it"
    fused = ", fused" if advisor.catalog.optimizer(optimizer.id).implementations[0].fused else ""
    at = step.peak
    stepping = step.weights_bytes + step.buffers_bytes + step.batch_bytes + step.gradients_bytes + scratch
    at_step = stepping > at.total
    rows: list[tuple[str, int, int, str]] = [
        ("weights", step.weights_bytes, step.weights_bytes, f"of {step.parameters:,} parameters"),
        ("gradients", step.gradients_bytes, step.gradients_bytes if at_step else at.gradients,
         f"of {step.trainable_parameters:,} trained parameters"),
        ("optimizer state", state, state, how),
        ("activations", at.activations, 0 if at_step else at.activations, "what the forward pass made and kept"),
        ("temporaries", scratch if at_step else at.temporaries, scratch if at_step else at.temporaries,
         f"of the optimizer's step{fused}" if at_step else "of the backward pass"),
        ("buffers and batch", at.other, step.buffers_bytes + step.batch_bytes if at_step else at.other, "and the rest"),
    ]  # fmt: skip
    low, high = settings.measured
    lines = [
        MemoryLine(part, whole, words, now, Interval(round(now * low), now, round(now * high)))
        for part, whole, now, words in rows
    ]
    total, lines = fitting(lines, settings)
    tensors = sum(line.at_peak or 0 for line in lines[:-2])
    known = step.weights_bytes + step.gradients_bytes + state
    peak = "the optimizer's step" if at_step else "the forward or backward pass"
    pages = state if adds.paged else 0
    kept = Interval(round(at.activations * low), at.activations, round(at.activations * high))
    figures = intervals(lines, [MemoryLine("activations", at.activations, "", None, kept)], step.gradients_bytes)
    return MemoryEstimate(
        weights=step.weights_bytes, gradients=step.gradients_bytes, optimizer=state, activations=at.activations,
        overhead=figures["overhead"].expected, total=total.expected, known=known,
        available=situation.vram_bytes, fits=fits(total, pages, situation.vram_bytes), ledger=tuple(lines),
        interval=total, allocated=tensors - pages, reserved=tensors - pages + (lines[-2].at_peak or 0), peak=peak,
        basis="card" if optimizer.figures is None else "measured", pages=pages,
        intervals={**figures, "total": total},
    )  # fmt: skip
