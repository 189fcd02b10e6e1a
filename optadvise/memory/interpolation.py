"""Networks of which only the size is known: between two that are known, or beyond them. Pure."""

from __future__ import annotations

from msgspec.structs import astuple, replace

from optadvise.memory.breakdown import Size
from optadvise.memory.records import Moment


def typical_adapters(params: int, rank: int) -> int:
    """Return how many parameters LoRA adds to a network of unknown shape, taken as a decoder of that size.

    Derived from the shape most decoders have: layers ≈ width / 128 and 12 · width² weights a layer, of which
    rank · 19 · width are added (four attention and three feed-forward matrices, the latter 2.7 times as wide).
    """
    width = float((params * 128 / 12) ** (1 / 3))
    return round(rank * 19 * width * width / 128)


def mixed(first: Size, second: Size, params: int) -> Size:
    """Return the size between two.

    Args:
        first: The smaller.
        second: The larger.
        params: Of what lies between.
    """
    share = (params - first.params) / (second.params - first.params)

    def between(a: int, b: int) -> int:
        return round(a + (b - a) * share)

    assert first.step is not None
    assert second.step is not None
    peak = Moment(*map(between, astuple(first.step.peak), astuple(second.step.peak)))
    other = second.step
    step = replace(other, peak=peak, activations=between(first.step.activations, other.activations),
        logits=between(first.step.logits, other.logits), copies=between(first.step.copies, other.copies),
        gradients=between(first.step.gradients, other.gradients),
    )  # fmt: skip
    return Size(
        params, between(first.adapters, second.adapters), between(first.matrices, second.matrices),
        between(first.largest, second.largest), between(first.layers, second.layers),
        between(first.outside, second.outside), None, step, "typical",
    )  # fmt: skip


def scaled(size: Size, params: int) -> Size:
    """Return a size beyond the known ones: weights by their number, activations by its power of two thirds.

    Width and depth grow alike, so that activations, which go with width times depth, grow more slowly than weights.
    """
    ratio = params / size.params
    slow = ratio ** (2 / 3)
    assert size.step is not None
    at = size.step.peak
    peak = Moment(
        round(at.activations * slow), round(at.copies * ratio), round(at.working * slow), round(at.gradients * ratio)
    )
    step = replace(
        size.step, peak=peak, activations=round(size.step.activations * slow),
        logits=round(size.step.logits * slow),
        copies=round(size.step.copies * ratio), gradients=round(size.step.gradients * ratio),
    )  # fmt: skip
    return Size(
        params, round(size.adapters * slow), round(size.matrices * ratio), round(size.largest * ratio), size.layers,
        round(size.outside * slow), None, step, "typical",
    )  # fmt: skip
