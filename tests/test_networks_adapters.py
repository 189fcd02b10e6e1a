"""Adapters: what a frozen linear layer with low-rank matrices keeps, held against autograd itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from optadvise.core.records import Situation
from optadvise.memory.block_program import compiled, run
from optadvise.memory.breakdown import mode
from optadvise.memory.network import Block, Network, step, weights
from optadvise.memory.operations import Tape
from optadvise.memory.records import LEARNING_INPUTS, Batch, Mode

SAMPLES, LENGTH, WIDTH, RANK = 2, 8, 32, 4
# Precision, whether autocast is on, and whether the layer's input gets a gradient.
RUNS = [(p, grad) for p in ("fp32", "bf16", "amp") for grad in (True, False)]


class Adapted(nn.Module):  # type: ignore[misc,unused-ignore]
    """A frozen linear layer with an adapter, as PEFT runs it."""

    def __init__(self, width: int, out: int, base: torch.dtype, own: torch.dtype) -> None:
        super().__init__()
        self.base = nn.Linear(width, out, dtype=base).requires_grad_(False)
        self.a = nn.Linear(width, RANK, bias=False, dtype=own)
        self.b = nn.Linear(RANK, out, bias=False, dtype=own)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base(x)
        x = x.to(self.a.weight.dtype)
        return (result + self.b(self.a(x)) * 2.0).to(result.dtype)  # type: ignore[no-any-return,unused-ignore]


def how(precision: str) -> Mode:
    situation = Situation(
        precision={"amp": "amp-bf16"}.get(precision, precision), method="lora", lora_rank=RANK, lora_targets="a,b"
    )
    return mode(situation, frozenset({"silu"}))


def kept_by_tape(lines: list[dict[str, Any]], precision: str, grad: bool) -> int:
    """Bytes beyond the input and the output, for which others answer."""
    tape = Tape(how(precision), {})
    item = 4 if precision == "fp32" else 2
    out = run(compiled(lines), tape, {"x": tape.given((SAMPLES, LENGTH, WIDTH), item, grad, True)})
    tape.drop(out)
    return tape.alive - (out.elements * out.item if tape.keeps(out) else 0)


def kept_by_torch(model: nn.Module, precision: str, grad: bool) -> int:
    """The same of what autograd saves, each storage once, without weights and their half-precision copies."""
    x = torch.ones(SAMPLES, LENGTH, WIDTH, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    x.requires_grad_(grad)
    found: dict[int, torch.Tensor] = {}

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() >= SAMPLES * LENGTH * RANK and SAMPLES * LENGTH in (tensor.shape[0], *_rows(tensor)):
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "amp"),
    ):
        out = model(x)
    others = {x.untyped_storage().data_ptr(), out.untyped_storage().data_ptr()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in others)


def _rows(tensor: torch.Tensor) -> tuple[int, ...]:
    return (tensor.numel() // tensor.shape[-1],)


def modules(precision: str, *layers: tuple[int, int, bool]) -> nn.Module:
    base = torch.float32 if precision == "fp32" else torch.bfloat16
    own = torch.bfloat16 if precision == "bf16" else torch.float32
    made: list[nn.Module] = []
    for width, out, adapted in layers:
        linear = Adapted(width, out, base, own) if adapted else nn.Linear(width, out, dtype=base).requires_grad_(False)
        made += [linear, nn.SiLU()]
    return nn.Sequential(*made)


def line(out: str, op: str, x: str, width: int = 0, target: str = "") -> dict[str, Any]:
    numbers, words = {"numbers": {"out": str(width), "bias": "1"}}, {"words": {"target": target}}
    return {"out": out, "op": op, "in": [x]} | (numbers if width else {}) | (words if target else {})


@pytest.mark.parametrize(("precision", "grad"), RUNS)
@pytest.mark.parametrize("adapted", [(True, True), (True, False), (False, True), (False, False)])
def test_a_frozen_layer_keeps_no_input_and_its_adapter_does(
    precision: str, grad: bool, adapted: tuple[bool, bool]
) -> None:
    model = modules(precision, (WIDTH, 48, adapted[0]), (48, WIDTH, adapted[1]))
    lines = [
        line("u", "linear", "x", 48, "a" if adapted[0] else "other"), line("s", "silu", "u"),
        line("d", "linear", "s", WIDTH, "b" if adapted[1] else "other"), line("y", "silu", "d"),
    ]  # fmt: skip
    assert kept_by_tape(lines, precision, grad) == kept_by_torch(model, precision, grad)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp"])
def test_layers_that_share_an_input_share_what_they_keep_but_for_autocast(precision: str) -> None:
    class Both(nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = modules(precision, (WIDTH, WIDTH, True), (WIDTH, WIDTH, True))[::2]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.silu(x)
            return self.a(x) + self.b(x)  # type: ignore[no-any-return,unused-ignore]

    add = {"out": "y", "op": "add", "in": ["p", "q"]}
    lines = [line("n", "silu", "x"), line("p", "linear", "n", WIDTH, "a"), line("q", "linear", "n", WIDTH, "b"), add]
    kept = kept_by_tape(lines, precision, True)
    assert kept == kept_by_torch(Both(), precision, True)
    size = SAMPLES * LENGTH * WIDTH * (4 if precision == "fp32" else 2)
    low = SAMPLES * LENGTH * RANK * (4 if precision == "fp32" else 2)
    assert kept == size * (2 if precision == "amp" else 1) + 2 * low


def network(layers: int) -> Network:
    embed = compiled([{"out": "x", "op": "embedding", "in": ["input"], "numbers": {"rows": "50", "width": "32"}}])
    layer = compiled([
        line("s", "silu", "x"), line("d", "linear", "s", WIDTH, "a"), {"out": "y", "op": "add", "in": ["x", "d"]},
    ])  # fmt: skip
    blocks = (Block("embed", embed, 1, {}, takes="input"), Block("layer", layer, layers, {}, checkpointed=True))
    return Network("adapted", blocks, images=False, flags=frozenset())


def test_only_the_first_layer_keeps_nothing_for_the_frozen_embedding() -> None:
    how_ = how("fp32")
    kept = [step(network(n), how_, Batch(SAMPLES, LENGTH)).activations for n in (1, 2, 3)]
    first, size = kept[0], SAMPLES * LENGTH * WIDTH * 4
    # SiLU keeps its input where that gets a gradient, and the adapter SiLU's output and its own low-rank one.
    assert first == size + SAMPLES * LENGTH * RANK * 4
    assert kept[1] - kept[0] == kept[2] - kept[1] == first + size
    assert sum(weights(network(3), how_).values()) == 1 + 3 * 4


def test_checkpointing_gives_the_embedding_a_gradient() -> None:
    size = SAMPLES * LENGTH * WIDTH * 4
    lines = [{"out": "x", "op": "embedding", "in": ["input"], "numbers": {"rows": "50", "width": "32"}},
             line("y", "silu", "x")]  # fmt: skip
    found = []
    for flags in (frozenset[str](), frozenset({LEARNING_INPUTS})):
        tape = Tape(replace(how("fp32"), flags=flags), {})
        out = run(compiled(lines), tape, {"input": tape.given((SAMPLES, LENGTH), 4, False, True)})
        tape.drop(out)
        found.append((tape.alive, out.grad))
    assert found == [(0, False), (size, True)]
    learning = replace(how("fp32"), flags=frozenset({LEARNING_INPUTS}))
    assert step(network(3), learning, Batch(SAMPLES, LENGTH), checkpoint=True).activations == 3 * size


def test_a_sum_of_two_products_gradients_is_not_made_in_place() -> None:
    adds = [{"out": "s", "op": "add", "in": ["p", "q"]}, {"out": "y", "op": "add", "in": ["s", "r"]}]
    size = SAMPLES * LENGTH * WIDTH * 4
    found = []
    for other in ("linear", "silu"):
        third = line("r", other, "x", WIDTH if other == "linear" else 0)
        lines = [line("p", "linear", "x", WIDTH), line("q", "linear", "x", WIDTH), third, *adds]
        tape = Tape(how("fp32"), {})
        out = run(compiled(lines), tape, {"x": tape.given((SAMPLES, LENGTH, WIDTH), 4, True, True)})
        found.append(tape.backward(out).working)
    assert found == [4 * size, 3 * size]


def test_a_head_in_chunks_holds_three_gradients_of_its_weight() -> None:
    lines = [{"out": "y", "op": "chunked_loss", "in": ["x"], "numbers": {"out": "5000"}}]
    tape = Tape(Mode(), {})
    out = run(compiled(lines), tape, {"x": tape.given((SAMPLES, LENGTH, WIDTH), 4, True, True)})
    moment, weight = tape.backward(out), 5000 * WIDTH * 4
    assert 3 * weight <= moment.total <= 3 * weight + 3 * SAMPLES * LENGTH * WIDTH * 4


def test_flags_of_a_checkpointed_run() -> None:
    frozen = Situation(method="lora", lora_rank=RANK, checkpointing="full")
    assert LEARNING_INPUTS in mode(frozen, frozenset()).flags
    assert LEARNING_INPUTS not in mode(replace(frozen, checkpointing="none"), frozenset()).flags
    assert LEARNING_INPUTS not in mode(Situation(checkpointing="full"), frozenset()).flags
