"""Memory estimate of a user's module: a step with fake tensors, and the cards of optimizers that cannot be traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import is_rejected
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, Fit, MemoryAnswer, MemoryEstimate, MemoryLine, Situation
from optadvise.fake_tensors.client import trace_step
from optadvise.fake_tensors.records import OptimizerRequest, OptimizerStep, PeakBytes, StepFigures
from optadvise.memory.breakdown import apply_limit
from optadvise.memory.inputs import select_memory_inputs
from optadvise.memory.interpolation import NetworkCounts
from optadvise.memory.intervals import add_overhead, make_breakdown_line, make_interval, summarize_lines
from optadvise.memory.network_size import NetworkSize
from optadvise.memory.optimizer_memory import estimate_optimizer_on_network
from optadvise.memory.records import Weight
from optadvise.rulebase.constructor import constructor_kwargs

# Facts that may be specified with a module; the module determines the others.
ACCEPTED_FACTS = frozenset({"vram_bytes", "gpu", "bf16", "vendor", "precision", "optimizer", "model", "task"})


def estimate_module(rules: CompiledRules, spec: str, stated: FactValues, timeout: float) -> MemoryAnswer:
    """Estimate the memory of a user's module with every optimizer.

    Args:
        spec: `package.module:function`, as `bench --workload` takes it.
        stated: Facts about the GPU, the precision and the optimizer.
        timeout: Time limit in seconds for everything together.

    Raises:
        InputError: A fact is specified that the module determines, or the function fails.
        CannotRunHereError: torch is missing, or the worker crashed.
    """
    _check_input(spec, stated)
    situation = complete_situation(rules, stated)
    ids = rules.catalog.optimizer_ids
    traced = trace_step(spec, situation.precision, list(request_optimizers(rules, ids)), timeout=timeout)
    step = traced.figures
    traced_steps = {each.id: each for each in traced.optimizers}
    steps = [traced_steps.get(name) or OptimizerStep(id=name, figures=None) for name in ids]
    situation = situation.state(params=step.parameters, micro_batch=step.samples)
    chosen = situation.optimizer or rules.reference_optimizer
    if situation.optimizer is None:
        situation = situation.derive(optimizer=chosen)
    size = _describe_size(step)
    estimates = {each.id: _estimate_optimizer(rules, situation, step, size, each) for each in steps}
    rejected = {name for name in ids if is_rejected(rules, situation, name)}
    ranking = [
        Fit(
            id=name,
            optimizer_bytes=memory.optimizer,
            total=memory.total,
            model_states=memory.model_states,
            fits=memory.fits,
            largest_micro_batch=None,
            longest_sequence=None,
            basis=memory.basis,
            pageable=memory.pageable,
        )
        for name, memory in estimates.items()
        if name not in rejected
    ]
    return MemoryAnswer(
        situation=situation, optimizer=chosen, memory=estimates[chosen],
        largest_micro_batch=None, longest_sequence=None,
        optimizers=tuple(sorted(ranking, key=lambda fit: (fit.total or 0, fit.id))), fixes=(), measured=step.seconds,
    )  # fmt: skip


def _check_input(spec: str, stated: FactValues) -> None:
    extra = sorted(set(stated) - ACCEPTED_FACTS, key=lambda name: (name != "shape", name))  # a shape states others
    if extra:
        flag = "--arch, --hf-config or --hidden" if extra[0] == "shape" else "--" + extra[0].replace("_", "-")
        raise InputError(
            f"{flag}: not supported with --workload, which traces your module as it is; remove {flag}",
            code=ErrorCode.OPTION_CONFLICT,
            option=flag.split(",")[0],
            value=spec,
        )
    path, _, function = spec.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), function)):
        raise InputError(
            f"--workload {spec!r}: must be package.module:function, such as mypackage.train:workload",
            code=ErrorCode.INVALID_VALUE,
            option="--workload",
            value=spec,
        )


def request_optimizers(rules: CompiledRules, ids: Sequence[str], *, fused: bool = True) -> Iterator[OptimizerRequest]:
    """Yield the requests to trace optimizers whose class may be imported, with the defaults of their cards.

    Args:
        fused: Use the fused variant if every version and device supports it, as analytic estimates do.
    """
    for name in ids:
        card = rules.catalog.optimizer(name)
        first = card.implementations[0]
        if rules.catalog.imports.explain(first.path) is not None:
            continue
        defaults = {h.name: h.default for h in card.hyperparameters}
        # The worker traces optimizers on the CPU.
        variant = "fused" if fused and first.fused else None
        kwargs = constructor_kwargs(first, defaults, device="cpu", variant=variant)
        yield OptimizerRequest(id=name, path=first.path, kwargs=kwargs, package=first.package)


def _describe_size(step: StepFigures) -> NetworkSize:
    """Return the size of the module; which of its matrices are embeddings is unknown."""
    weights = Counter(
        {Weight(s.shape, "matrix" if len(s.shape) > 1 else "vector"): s.tensors for s in step.shapes if s.is_trained}
    )
    trained = step.trainable_parameters
    counts = NetworkCounts(
        params=step.parameters,
        adapter_params=trained if trained < step.parameters else 0,
        matrix_params=sum(prod(weight.shape) * n for weight, n in weights.items() if weight.kind == "matrix"),
        largest_tensor=max((prod(weight.shape) for weight in weights), default=0),
        layers=1,
        params_outside_layers=0,
    )
    return NetworkSize(counts, step=None, basis="measured", trained_weights=weights)


class _OptimizerBytes(Struct, frozen=True):
    """Bytes of an optimizer, traced or by its card."""

    state: int
    scratch: int
    pageable: int  # bytes of state that may be paged to the host
    explanation: str


def _optimizer_bytes(
    rules: CompiledRules, situation: Situation, size: NetworkSize, entry: OptimizerStep
) -> _OptimizerBytes:
    declared = estimate_optimizer_on_network(rules.memory_rules, select_memory_inputs(situation), entry.id, size)
    state, scratch = declared.state, declared.scratch.bytes
    explanation = f"{declared.state_explanation}, by its card"
    if entry.figures is not None:
        state, scratch = entry.figures.state_bytes, entry.figures.temporary_bytes
        explanation = "traced with fake tensors"
    return _OptimizerBytes(state=state, scratch=scratch, pageable=min(declared.paged, state), explanation=explanation)


def _estimate_optimizer(
    rules: CompiledRules, situation: Situation, step: StepFigures, size: NetworkSize, entry: OptimizerStep
) -> MemoryEstimate:
    """Return the breakdown with one optimizer."""
    settings = rules.memory_rules.settings
    factors = settings.activation_factors.measured
    optimizer = _optimizer_bytes(rules, situation, size, entry)
    is_fused = bool(rules.catalog.optimizer(entry.id).implementations[0].fused)
    step_peak = PeakBytes(
        weights=step.weights_bytes,
        gradients=step.gradients_bytes,
        activations=0,
        temporaries=optimizer.scratch,
        other=step.buffers_bytes + step.batch_bytes,
    )
    in_step = step_peak.total > step.peak.total
    if in_step:
        origin = f"of the optimizer's step{', fused' if is_fused else ''}"
        tensor_lines = _list_lines(step, optimizer, step_peak, origin)
    else:
        tensor_lines = _list_lines(step, optimizer, step.peak, "of the backward pass")
    tensors = sum(line.at_peak or 0 for line in tensor_lines)
    ends = factors.low, factors.high
    spread_lines = [replace(line, interval=make_interval(line.at_peak or 0, *ends)) for line in tensor_lines]
    managed = make_interval(optimizer.pageable, *ends)
    total, lines = add_overhead(spread_lines, settings, managed)
    saved = step.peak.activations
    figures = summarize_lines(lines, make_interval(saved, *ends), step.gradients_bytes)
    unlimited = MemoryEstimate(
        weights=step.weights_bytes, gradients=step.gradients_bytes, optimizer=optimizer.state, activations=saved,
        overhead=figures["overhead"].expected, total=total.expected,
        model_states=step.weights_bytes + step.gradients_bytes + optimizer.state, available=None, fits=None,
        breakdown=tuple(lines), interval=total, allocated=tensors - optimizer.pageable,
        reserved=tensors - optimizer.pageable + (lines[-2].at_peak or 0),
        peak="the optimizer's step" if in_step else "the forward or backward pass",
        basis="card" if entry.figures is None else "measured", pageable=optimizer.pageable,
        host=optimizer.pageable,
        intervals={**figures, "total": total},
    )  # fmt: skip
    return apply_limit(unlimited, situation.vram_bytes)


def _list_lines(step: StepFigures, optimizer: _OptimizerBytes, peak: PeakBytes, origin: str) -> list[MemoryLine]:
    """Return the lines of tensors.

    Args:
        peak: Bytes at the peak, without optimizer state.
        origin: Origin of the temporaries, such as `of the backward pass`.
    """
    weights = step.weights_bytes
    trained = f"of {step.trainable_parameters:,} trained parameters"
    return [
        make_breakdown_line("weights", weights, weights, f"of {step.parameters:,} parameters"),
        make_breakdown_line("gradients", step.gradients_bytes, peak.gradients, trained),
        make_breakdown_line("optimizer state", optimizer.state, optimizer.state, optimizer.explanation),
        make_breakdown_line("activations", step.peak.activations, peak.activations, "tensors saved for backward"),
        make_breakdown_line("temporaries", peak.temporaries, peak.temporaries, origin),
        make_breakdown_line("buffers and batch", step.peak.other, peak.other, "and other tensors"),
    ]
