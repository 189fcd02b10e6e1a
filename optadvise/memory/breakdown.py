"""One GPU's memory during training, line by line: the arithmetic of each, and its bytes at the peak.

Three conventions are in use for "bytes per parameter" and they differ in what they count, so every line explains its
own (`model_memory`). Gradients and activations are not in use at the same time in full, so the total is the peak and
not the sum of the lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from optadvise.core.records import Interval, MemoryEstimate, MemoryLine
from optadvise.memory.inputs import MemoryInputs
from optadvise.memory.intervals import (
    add_overhead,
    make_breakdown_line,
    make_context_interval,
    make_interval,
    summarize_lines,
)
from optadvise.memory.model_memory import ModelMemory
from optadvise.memory.optimizer_memory import OptimizerMemory
from optadvise.memory.peak import OPTIMIZER_STEP, PeakMoment, find_peak
from optadvise.memory.records import StepMemory
from optadvise.rulebase.memory_rules import FactorRange, MemorySettings


class RunMemory(Struct, frozen=True):
    """The parts of a run's memory."""

    inputs: MemoryInputs
    model: ModelMemory
    optimizer: OptimizerMemory

    @property
    def state(self) -> int:
        """Return the bytes of optimizer state on the GPU."""
        return 0 if self.inputs.offload else self.optimizer.state

    @property
    def master(self) -> int:
        """Return the bytes of the fp32 copy of the weights on the GPU."""
        return 0 if self.inputs.offload else self.model.master

    @property
    def model_states(self) -> int:
        """Return the bytes of weights, gradients and optimizer state, which need no shape of the network."""
        return self.model.weights + self.master + self.model.gradients + self.state

    @property
    def pageable(self) -> int:
        """Return the bytes of state that may leave the GPU."""
        return self.state if self.optimizer.is_paged else 0


def estimate_unknown_size(available: int | None) -> MemoryEstimate:
    """Return the estimate for a network of which not even the size is known.

    Args:
        available: Bytes of the GPU; None where it is not known.
    """
    names = ("weights", "gradients", "optimizer state")
    lines = tuple(MemoryLine(part=name, bytes=None, how="the number of parameters is not known") for name in names)
    return MemoryEstimate(
        weights=None, gradients=None, optimizer=None, activations=None, overhead=None, total=None, model_states=None,
        available=available, fits=None, breakdown=lines,
    )  # fmt: skip


def apply_limit(estimate: MemoryEstimate, available: int | None) -> MemoryEstimate:
    """Return an estimate with the verdict whether it fits.

    Args:
        available: Bytes of the GPU; None where nothing limits it.

    Returns:
        `fits` is True or False where that is certain, None within the interval and where nothing limits it. Where the
        shape is not known, the estimate cannot be known to fit.
    """
    fits = None
    if available is not None and estimate.interval is not None:
        could_fit = estimate.interval.low - estimate.pageable <= available
        fits = True if estimate.interval.high - estimate.pageable <= available else None if could_fit else False
    elif (
        available is not None
        and estimate.model_states is not None
        and estimate.model_states - estimate.pageable > available
    ):
        fits = False
    return replace(estimate, available=available, fits=fits)


def estimate_without_shape(run: RunMemory) -> MemoryEstimate:
    """Return the estimate for a network of which only the size is known, without activations and a total."""
    model, optimizer = run.model, run.optimizer
    lines = [_weights_line(model)]
    if run.master:
        lines.append(make_breakdown_line("master copy", run.master, run.master, model.master_explanation))
    lines += [
        make_breakdown_line("gradients", model.gradients, model.gradients, model.gradients_explanation),
        make_breakdown_line("optimizer state", run.state, run.state, optimizer.state_explanation),
        MemoryLine(part="activations", bytes=None, how="not known without the network's shape"),
    ]
    return MemoryEstimate(
        weights=model.weights + run.master, gradients=model.gradients, optimizer=run.state, activations=None,
        overhead=None, total=None, model_states=run.model_states, available=None, fits=None, breakdown=tuple(lines),
        pageable=run.pageable,
    )  # fmt: skip


def estimate_with_step(run: RunMemory, step: StepMemory, basis: str, settings: MemorySettings) -> MemoryEstimate:
    """Return the estimate of a run whose forward and backward pass is known.

    Args:
        basis: How the network's shape is known: exact or typical.
    """
    inputs, model = run.inputs, run.model
    peak = find_peak(inputs, step, model, run.optimizer)
    total, lines = add_overhead(list(_lines(run, step, peak, basis, settings)), settings)
    fragmentation, context = lines[-2].at_peak or 0, make_context_interval(settings.context).expected
    saved = [
        _spread_line("activations", step.activations, step.activations, "", inputs, basis, settings),
        _spread_line("logits and loss", step.logits, step.logits, "", inputs, basis, settings),
    ]
    figures = summarize_lines(lines, saved, model.gradients)
    return MemoryEstimate(
        weights=model.weights + run.master, gradients=model.gradients, optimizer=run.state,
        activations=figures["activations"].expected, overhead=figures["overhead"].expected, total=total.expected,
        model_states=run.model_states, available=None, fits=None, breakdown=tuple(lines), interval=total,
        allocated=total.expected - context - fragmentation - run.pageable,
        reserved=total.expected - context - run.pageable, peak=peak.name, basis=basis, pageable=run.pageable,
        intervals={**figures, "total": total},
    )  # fmt: skip


# -- lines ---------------------------------------------------------------------------------------------------------


def _lines(
    run: RunMemory, step: StepMemory, peak: PeakMoment, basis: str, settings: MemorySettings
) -> Iterator[MemoryLine]:
    """Yield the lines of tensors."""
    inputs, model = run.inputs, run.model
    yield _weights_line(model)
    if run.master:
        yield make_breakdown_line("master copy", model.master, model.master, model.master_explanation)
    elif step.weight_copies:
        explanation = "2 B of each matrix, which autocast keeps from its first use to the end of backward"
        yield make_breakdown_line("half copies", step.weight_copies, peak.weight_copies, explanation)
    explanation = f"{model.gradients_explanation}; {_gradients_lifetime(inputs)}"
    yield make_breakdown_line("gradients", model.gradients, peak.gradients, explanation)
    yield _state_line(run)
    explanation = _explain_activations(inputs)
    yield _spread_line("activations", step.activations, peak.activations, explanation, inputs, basis, settings)
    if step.logits:
        explanation = "what the head keeps, and the loss's gradients"
        yield _spread_line("logits and loss", step.logits, peak.logits, explanation, inputs, basis, settings)
    yield _temporaries_line(run, peak, _factors(basis, settings))
    if model.buffers.bytes:
        buffers = model.buffers
        interval = Interval(low=buffers.bytes, expected=buffers.bytes, high=buffers.bytes_high)
        yield make_breakdown_line("communication", buffers.bytes, buffers.bytes, buffers.explanation, interval)
    yield make_breakdown_line("input", step.input_bytes, step.input_bytes, "one batch")


def _weights_line(model: ModelMemory) -> MemoryLine:
    interval = Interval(low=model.weights, expected=model.weights, high=model.weights_high)
    return make_breakdown_line("weights", model.weights, model.weights, model.weights_explanation, interval)


def _state_line(run: RunMemory) -> MemoryLine:
    interval = Interval(low=run.state, expected=run.state, high=0 if run.inputs.offload else run.optimizer.state_high)
    return make_breakdown_line("optimizer state", run.state, run.state, run.optimizer.state_explanation, interval)


def _temporaries_line(run: RunMemory, peak: PeakMoment, factors: FactorRange) -> MemoryLine:
    """Return the temporaries at the peak; the high end is that of the optimizer's step, where it needs more."""
    interval, scratch = make_interval(peak.temporaries, factors), run.optimizer.scratch
    if peak.name == OPTIMIZER_STEP:
        explanation = f"of the step: {scratch.explanation}"
        if scratch.bytes_high > peak.temporaries:
            interval = replace(interval, high=scratch.bytes_high)
    else:
        more = 0 if run.inputs.gradient_release else run.model.gradients + scratch.bytes_high - peak.total
        explanation = "gradients of activations, and the running operation's"
        if more > 0:
            explanation += f"; the step's: {scratch.explanation}"
            interval = replace(interval, high=peak.temporaries + more)
    return make_breakdown_line("temporaries", peak.temporaries, peak.temporaries, explanation, interval)


def _spread_line(
    part: str, value: int, at_peak: int, explanation: str, inputs: MemoryInputs, basis: str, settings: MemorySettings
) -> MemoryLine:
    """Return a line of activations: its interval is wider above where implementations are known to save more."""
    factors = _factors(basis, settings)
    if part == "logits and loss":
        factors = replace(factors, high=max(factors.high, settings.high_factors.logits))
    elif inputs.method != "full":
        factors = replace(factors, high=max(factors.high, settings.high_factors.adapters))
    return make_breakdown_line(part, value, at_peak, explanation, make_interval(at_peak, factors))


def _factors(basis: str, settings: MemorySettings) -> FactorRange:
    return settings.activation_factors.exact if basis == "exact" else settings.activation_factors.typical


def _gradients_lifetime(inputs: MemoryInputs) -> str:
    if inputs.gradient_release:
        return "each is stepped and let go as it comes"
    return "they stay between passes" if inputs.accumulates else "they come as activations go"


def _explain_activations(inputs: MemoryInputs) -> str:
    samples = inputs.micro_batch or 1
    batch = f"{samples} × {inputs.seq_len} tokens"
    if not inputs.seq_len:
        batch = f"{samples} images of {inputs.image_size} pixels a side"
    return {
        "none": f"what each operation keeps for its backward, over {batch}",
        "selective": f"each layer's input and matrix products over {batch}, the rest recomputed",
        "full": f"each layer's input over {batch}, the rest recomputed",
    }[inputs.checkpointing]
