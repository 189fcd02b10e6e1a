"""Memory breakdown of one GPU: bytes, arithmetic and bytes at the peak for each line.

Conventions for "bytes per parameter" differ, so every line shows its arithmetic (see `model_memory`). Gradients and
activations do not reach their maxima at the same time, so the total is the peak, not the sum of the maxima.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from optadvise.core.records import Interval, MemoryEstimate, MemoryLine
from optadvise.memory.inputs import MemoryInputs
from optadvise.memory.intervals import (
    OTHER_NETWORKS,
    add_intervals,
    add_overhead,
    list_uncertainty_factors,
    make_breakdown_line,
    make_context_interval,
    make_interval,
    summarize_lines,
)
from optadvise.memory.model_memory import ModelMemory
from optadvise.memory.optimizer_memory import OptimizerMemory
from optadvise.memory.other_networks import OtherNetworks
from optadvise.memory.peak import OPTIMIZER_STEP, PeakMoment, find_peak
from optadvise.memory.records import StepMemory, UncertaintyFactors
from optadvise.rulebase.memory_rules import MemorySettings

AUTOCAST_CACHE = "autocast cache"  # the line of half-precision copies of weights


class RunMemory(Struct, frozen=True):
    """Memory of a run: the model, the optimizer and other networks."""

    inputs: MemoryInputs
    model: ModelMemory
    optimizer: OptimizerMemory
    others: OtherNetworks

    @property
    def state(self) -> int:
        """Return the bytes of optimizer state on the GPU."""
        return 0 if self.inputs.offload else self.optimizer.state

    @property
    def master(self) -> int:
        """Return the bytes of the fp32 master copy of the weights on the GPU."""
        return 0 if self.inputs.offload else self.model.master

    @property
    def weights(self) -> int:
        """Return the bytes of all weights, with their fp32 master copy and the other networks."""
        return self.model.weights + self.master + self.others.bytes

    @property
    def model_states(self) -> int:
        """Return the bytes of weights, gradients and optimizer state, which do not depend on the network's shape."""
        return self.weights + self.model.gradients + self.state

    @property
    def host(self) -> int:
        """Return the bytes in host memory of one process: what is offloaded, and at most what can be paged."""
        if not self.inputs.offload:
            return self.pageable
        return self.optimizer.state + self.model.master + self.model.host_gradients

    @property
    def pageable(self) -> int:
        """Return the bytes of state in managed memory, which can be paged to the host."""
        return 0 if self.inputs.offload else self.optimizer.paged

    @property
    def pageable_high(self) -> int:
        """Return the bytes of state in managed memory at the high end of the interval."""
        return 0 if self.inputs.offload else self.optimizer.paged_high


def estimate_unknown_size(available: int | None) -> MemoryEstimate:
    """Return the estimate for a network of unknown size, without figures.

    Args:
        available: Bytes of the GPU; None if unknown.
    """
    names = ("weights", "gradients", "optimizer state")
    lines = tuple(MemoryLine(part=name, bytes=None, how="number of parameters unknown") for name in names)
    return MemoryEstimate(
        weights=None, gradients=None, optimizer=None, activations=None, overhead=None, total=None, model_states=None,
        available=available, fits=None, breakdown=lines,
    )  # fmt: skip


def apply_limit(estimate: MemoryEstimate, available: int | None) -> MemoryEstimate:
    """Return an estimate with the memory limit and whether it fits.

    Args:
        available: Bytes of the GPU; None without a limit.

    Returns:
        `fits` is True or False if certain, None if the limit is inside the interval or unknown. For an unknown shape it
        is False or None.
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
    """Return the estimate for a network of known size but unknown shape, without activations and a total."""
    model, optimizer = run.model, run.optimizer
    lines = [_make_weights_line(model)]
    if run.master:
        lines.append(make_breakdown_line("master copy", run.master, run.master, model.master_explanation))
    if run.others.explanation:
        lines.append(_make_others_line(run.others))
    lines += [
        make_breakdown_line("gradients", model.gradients, model.gradients, model.gradients_explanation),
        make_breakdown_line("optimizer state", run.state, run.state, optimizer.state_explanation),
        MemoryLine(part="activations", bytes=None, how="requires the model's dimensions"),
    ]
    return MemoryEstimate(
        weights=run.weights, gradients=model.gradients, optimizer=run.state, activations=None,
        overhead=None, total=None, model_states=run.model_states, available=None, fits=None, breakdown=tuple(lines),
        pageable=run.pageable, host=run.host,
    )  # fmt: skip


def estimate_with_step(run: RunMemory, step: StepMemory, basis: str, settings: MemorySettings) -> MemoryEstimate:
    """Return the estimate of a run with a simulated forward and backward pass.

    Args:
        step: Memory of the forward and backward pass.
        basis: How the network's shape is known: exact or typical.
    """
    inputs, model = run.inputs, run.model
    peak = find_peak(inputs, step, model, run.optimizer)
    managed = Interval(low=run.pageable, expected=run.pageable, high=run.pageable_high)
    total, lines = add_overhead(list(_list_lines(run, step, peak, basis, settings)), settings, managed)
    low, high = _find_ends(run, step, basis, settings)
    total = replace(total, low=min(low, total.expected), high=max(high, total.expected))
    fragmentation, context = lines[-2].at_peak or 0, make_context_interval(settings.context).expected
    _, low_factors, high_factors = list_uncertainty_factors(settings, basis, inputs.method)
    saved = add_intervals(
        [
            make_interval(step.activations, low_factors.activations, high_factors.activations),
            make_interval(step.logits, low_factors.logits, high_factors.logits),
        ]
    )
    figures = summarize_lines(lines, saved, model.gradients)
    return MemoryEstimate(
        weights=run.weights, gradients=model.gradients, optimizer=run.state,
        activations=figures["activations"].expected, overhead=figures["overhead"].expected, total=total.expected,
        model_states=run.model_states, available=None, fits=None, breakdown=tuple(lines), interval=total,
        allocated=total.expected - context - fragmentation - run.pageable,
        reserved=total.expected - context - run.pageable, peak=peak.name, basis=basis, pageable=run.pageable,
        host=run.host, intervals={**figures, "total": total},
    )  # fmt: skip


def _find_ends(run: RunMemory, step: StepMemory, basis: str, settings: MemorySettings) -> tuple[int, int]:
    """Return the ends of the interval of the peak, each over all moments of the passes and the optimizer step."""
    model, others = run.model, run.others
    _, low_factors, high_factors = list_uncertainty_factors(settings, basis, run.inputs.method)
    scratch = _make_scratch_interval(run, low_factors, high_factors)
    low = model.weights + run.state + model.buffers.bytes + others.low
    high = model.weights_high + _get_high_state(run) + model.buffers.bytes_high + others.high
    ends = ((low, low_factors, scratch.low), (high, high_factors, scratch.high))

    def find_peak_bytes(states: int, factors: UncertaintyFactors, scratch_bytes: int) -> int:
        live = step.find_peak(factors).live.scale(factors)
        if not run.inputs.gradient_release:
            live = max(live, model.gradients + scratch_bytes)
        return states + run.master + step.input_bytes + round(live)

    tensors = [find_peak_bytes(*end) for end in ends]
    context, fragmentation = make_context_interval(settings.context), settings.fragmentation
    return (
        tensors[0] + round((tensors[0] - run.pageable) * fragmentation.low) + context.low,
        tensors[1] + round((tensors[1] - run.pageable_high) * fragmentation.high) + context.high,
    )


# -- lines ---------------------------------------------------------------------------------------------------------


def _list_lines(
    run: RunMemory, step: StepMemory, peak: PeakMoment, basis: str, settings: MemorySettings
) -> Iterator[MemoryLine]:
    """Yield the lines of tensors."""
    inputs, model = run.inputs, run.model
    yield _make_weights_line(model)
    if run.master:
        yield make_breakdown_line("master copy", model.master, model.master, model.master_explanation)
    elif step.weight_copies:
        matrices = "weight" if inputs.method == "full" else "adapter"  # frozen weights are already in half precision
        explanation = f"{inputs.precision.removeprefix('amp-')} copies of the {matrices} matrices"
        yield make_breakdown_line(AUTOCAST_CACHE, step.weight_copies, peak.weight_copies, explanation)
    if run.others.explanation:
        yield _make_others_line(run.others)
    explanation = (
        f"{model.gradients_explanation}; {_explain_gradients(inputs)}"
        if model.gradients
        else model.gradients_explanation
    )
    yield make_breakdown_line("gradients", model.gradients, peak.gradients, explanation)
    yield _make_state_line(run)
    _, low, high = list_uncertainty_factors(settings, basis, inputs.method)
    activations = make_interval(peak.activations, low.activations, high.activations)
    explanation = _explain_activations(inputs, settings)
    yield make_breakdown_line("activations", step.activations, peak.activations, explanation, activations)
    if step.logits:
        logits = make_interval(peak.logits, low.logits, high.logits)
        yield make_breakdown_line("logits and loss", step.logits, peak.logits, _explain_logits(inputs), logits)
    yield _make_temporaries_line(run, step, peak, low, high)
    if model.buffers.bytes:
        buffers = model.buffers
        interval = Interval(low=buffers.bytes, expected=buffers.bytes, high=buffers.bytes_high)
        yield make_breakdown_line("communication", buffers.bytes, buffers.bytes, buffers.explanation, interval)
    yield make_breakdown_line("input", step.input_bytes, step.input_bytes, "one micro-batch")


def _make_weights_line(model: ModelMemory) -> MemoryLine:
    interval = Interval(low=model.weights, expected=model.weights, high=model.weights_high)
    return make_breakdown_line("weights", model.weights, model.weights, model.weights_explanation, interval)


def _make_others_line(others: OtherNetworks) -> MemoryLine:
    interval = Interval(low=others.low, expected=others.bytes, high=others.high)
    return make_breakdown_line(OTHER_NETWORKS, others.bytes, others.bytes, others.explanation, interval)


def _get_high_state(run: RunMemory) -> int:
    return 0 if run.inputs.offload else run.optimizer.state_high


def _make_state_line(run: RunMemory) -> MemoryLine:
    interval = Interval(low=run.state, expected=run.state, high=_get_high_state(run))
    return make_breakdown_line("optimizer state", run.state, run.state, run.optimizer.state_explanation, interval)


def _make_scratch_interval(run: RunMemory, low: UncertaintyFactors, high: UncertaintyFactors) -> Interval:
    """Return the temporaries of the optimizer step, which are as uncertain as those of the backward pass."""
    scratch = run.optimizer.scratch
    interval = make_interval(scratch.bytes, low.working, high.working)
    return replace(interval, high=max(interval.high, scratch.bytes_high))


def _make_temporaries_line(
    run: RunMemory, step: StepMemory, peak: PeakMoment, low: UncertaintyFactors, high: UncertaintyFactors
) -> MemoryLine:
    """Return the temporaries at the peak; the optimizer step sets the high end if it allocates more."""
    interval, scratch = make_interval(peak.temporaries, low.working, high.working), run.optimizer.scratch
    step_scratch = _make_scratch_interval(run, low, high)
    if peak.name == OPTIMIZER_STEP:
        interval, explanation = step_scratch, f"optimizer step: {scratch.explanation}"
    else:
        in_step = 0 if run.inputs.gradient_release else run.model.gradients + step_scratch.high
        more = round(in_step - step.peak.live.scale(high))
        explanation = "activation gradients and workspace of one operation"
        if more > 0:
            explanation += f"; optimizer step: {scratch.explanation}"
            interval = replace(interval, high=interval.high + more)
    return make_breakdown_line("temporaries", peak.temporaries, peak.temporaries, explanation, interval)


def _explain_gradients(inputs: MemoryInputs) -> str:
    if inputs.gradient_release:
        return "each freed after its weight is updated"
    if inputs.accumulates:
        return "kept between micro-batches"
    return "allocated during backward while activations are freed"


def _explain_logits(inputs: MemoryInputs) -> str:
    if inputs.loss == "whole":
        return "logits and their gradients"
    if inputs.method != "full":
        return "one chunk of logits and its gradients"
    return "one chunk of logits and its gradients, or sums of the head's weight gradient over chunks"


def _explain_activations(inputs: MemoryInputs, settings: MemorySettings) -> str:
    samples = (inputs.micro_batch or 1) * settings.count_sequences(inputs.task)
    if inputs.seq_len:
        batch = f"{samples:,} × {inputs.seq_len:,} tokens"
    else:
        batch = f"{samples:,} image{'s' if samples > 1 else ''} of {inputs.image_size} × {inputs.image_size} pixels"
    return {
        "none": f"tensors saved for backward, {batch}",
        "selective": f"layer inputs and matrix products, {batch}; others recomputed in backward",
        "full": f"layer inputs, {batch}; others recomputed in backward",
    }[inputs.checkpointing]
