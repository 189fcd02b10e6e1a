"""The memory answer for the user's own module: one step under fake tensors, and cards for what those cannot step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from msgspec.structs import replace

from optadvise.advice.advisor import Advisor
from optadvise.advice.fit_search import Fitter
from optadvise.core.errors import InputError
from optadvise.core.records import Fit, Interval, MemoryAnswer, MemoryEstimate, MemoryLine, Situation
from optadvise.fake_tensors.client import FakeStep, OptimizerStep, measure
from optadvise.memory.breakdown import Size, fits, fitting, intervals
from optadvise.memory.records import Weight

# What an estimate for the user's own module may be told; the rest is for the module to say.
TOLD = frozenset({"vram_bytes", "gpu", "bf16", "vendor", "precision", "optimizer", "model", "task"})


def answer(advisor: Advisor, spec: str, answers: Mapping[str, Any], timeout: float) -> MemoryAnswer:
    """Measure one training step of the user's module, with every optimizer.

    Args:
        advisor: The rules.
        spec: `package.module:function`, as `bench --workload` takes it.
        answers: What was said of the GPU, the precision and the optimizer.
        timeout: Seconds for everything.

    Raises:
        InputError: Something was said that the module itself says, or the function is wrong.
        CannotRunHereError: torch is missing, or the process that steps crashed.
    """
    extra = sorted(set(answers) - TOLD)
    if extra:
        flag = "--arch, --hf-config or --hidden" if extra[0] == "shape" else "--" + extra[0].replace("_", "-")
        raise InputError(f"--from {spec!r} {flag}: your module is measured as it is; leave {flag} out, and build it in")
    path, _, function = spec.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), function)):
        raise InputError(f"--from {spec!r}: not package.module:function, such as mypackage.train:workload")
    situation = advisor.situation(answers)
    ids = advisor.catalog.optimizer_ids
    step = measure(spec, situation.precision, list(requests(advisor, ids)), timeout=timeout)
    assumed = tuple(name for name in situation.assumed if name not in ("params", "micro_batch"))
    situation = replace(situation, params=step.parameters, micro_batch=step.samples, assumed=assumed)
    chosen = situation.optimizer or advisor.limits[0]
    if situation.optimizer is None:
        situation = replace(situation, optimizer=chosen, assumed=(*situation.assumed, "optimizer"))
    size = _size(step)
    found = {entry.id: _estimate(advisor, situation, step, size, entry) for entry in step.optimizers}
    refused = {name for name in ids if Fitter(advisor).refused(replace(situation, optimizer=name))}
    ranking = [
        Fit(name, memory.optimizer, memory.total, memory.known, memory.fits, None, None, memory.basis)
        for name, memory in found.items()
        if name not in refused
    ]
    return MemoryAnswer(
        situation=situation, optimizer=chosen, memory=found[chosen], largest_pass=None, longest=None,
        optimizers=tuple(sorted(ranking, key=lambda fit: (fit.total or 0, fit.id))), fixes=(), measured=step.seconds,
    )  # fmt: skip


def requests(advisor: Advisor, ids: list[str], *, fused: bool = True) -> Iterator[dict[str, Any]]:
    """Yield what has to be said of each optimizer for it to be stepped, with its own defaults.

    Args:
        advisor: The rules.
        ids: The optimizers.
        fused: In one kernel where the implementation has one, as estimates of described networks take it.
    """
    for name in ids:
        card = advisor.catalog.optimizer(name)
        made = card.implementations[0]
        kwargs = {made.arguments.get(h.name, h.name): h.default for h in card.hyperparameters} | dict(made.kwargs)
        kwargs |= made.fused if fused else {}
        yield {"id": name, "import": made.path, "kwargs": kwargs, "package": made.package}


def _size(step: FakeStep) -> Size:
    """Return the module as cards read it; which of its matrices look things up is not known."""
    tensors = Counter(
        {Weight(s.shape, "matrix" if len(s.shape) > 1 else "vector"): s.tensors for s in step.shapes if s.trained}
    )
    matrices = sum(prod(w.shape) * n for w, n in tensors.items() if w.kind == "matrix")
    largest = max((prod(w.shape) for w in tensors), default=0)
    trained = step.trainable_parameters
    adapters = trained if trained < step.parameters else 0
    return Size(step.parameters, adapters, matrices, largest, 1, 0, tensors, None, "measured")


def _estimate(
    advisor: Advisor, situation: Situation, step: FakeStep, size: Size, entry: OptimizerStep
) -> MemoryEstimate:
    """Return the ledger with one optimizer: as it was stepped, or by its card."""
    settings = advisor.sizing.settings
    adds = advisor.sizing.adding(entry.id, situation, size)
    state, scratch, how = adds.state, adds.scratch, f"{adds.how_state}, by its card"
    if entry.state_bytes is not None and entry.temporary_bytes is not None:
        state, scratch, how = entry.state_bytes, entry.temporary_bytes, "measured, as its step made it"
    fused = ", fused" if advisor.catalog.optimizer(entry.id).implementations[0].fused else ""
    at = step.peak
    stepping = step.weights_bytes + step.buffers_bytes + step.batch_bytes + step.gradients_bytes + scratch
    at_step = stepping > step.peak_bytes
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
        basis="measured" if entry.status == "measured" else "card", pages=pages,
        intervals={**figures, "total": total},
    )  # fmt: skip
