"""Adapters: tensors that a frozen linear layer with low-rank matrices saves, compared with autograd."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from optadvise.core.records import Situation
from optadvise.memory.backward import simulate_backward
from optadvise.memory.inputs import derive_compute_mode, select_memory_inputs
from optadvise.memory.network import Block, Network, count_weights
from optadvise.memory.records import LEARNING_INPUTS, ComputeMode, MicroBatch
from optadvise.memory.training_step import StepSettings, simulate_step
from tests.programs import find_peak, program, simulate

SAMPLES, LENGTH, WIDTH, RANK = 2, 8, 32, 4
# Precision, and whether the layer's input requires a gradient.
RUNS = [(p, grad) for p in ("fp32", "bf16", "amp") for grad in (True, False)]


class Adapted(nn.Module):  # type: ignore[misc,unused-ignore]
    """A frozen linear layer with a LoRA adapter, computed like PEFT."""

    def __init__(self, width: int, out: int, base: torch.dtype, adapter: torch.dtype) -> None:
        super().__init__()
        self.base = nn.Linear(width, out, dtype=base).requires_grad_(False)
        self.a = nn.Linear(width, RANK, bias=False, dtype=adapter)
        self.b = nn.Linear(RANK, out, bias=False, dtype=adapter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base(x)
        x = x.to(self.a.weight.dtype)
        return (result + self.b(self.a(x)) * 2.0).to(result.dtype)  # type: ignore[no-any-return,unused-ignore]


def make_mode(precision: str) -> ComputeMode:
    situation = Situation(
        precision={"amp": "amp-bf16"}.get(precision, precision), method="lora", lora_rank=RANK, lora_targets="a,b"
    )
    return derive_compute_mode(select_memory_inputs(situation), frozenset({"silu"}))


def simulate_saved_bytes(lines: list[str], precision: str, grad: bool) -> int:
    """Return the bytes that a block saves, without its input and output, which other layers save."""
    itemsize = 4 if precision == "fp32" else 2
    graph, out = simulate(
        *lines, mode=make_mode(precision), shape=(SAMPLES, LENGTH, WIDTH), itemsize=itemsize, requires_grad=grad
    )
    graph.release(out)
    return graph.live_bytes - (out.nbytes if graph.is_saved(out) else 0)


def measure_saved_bytes(model: nn.Module, precision: str, grad: bool) -> int:
    """Return the bytes that autograd saves, each storage once, without weights and their half-precision copies."""
    x = torch.ones(SAMPLES, LENGTH, WIDTH, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    x.requires_grad_(grad)
    saved: dict[int, torch.Tensor] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() >= SAMPLES * LENGTH * RANK and SAMPLES * LENGTH in (tensor.shape[0], *_rows(tensor)):
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "amp"),
    ):
        out = model(x)
    others = {x.untyped_storage().data_ptr(), out.untyped_storage().data_ptr()}
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in saved.items() if pointer not in others)


def _rows(tensor: torch.Tensor) -> tuple[int, ...]:
    return (tensor.numel() // tensor.shape[-1],)


def modules(precision: str, *layers: tuple[int, int, bool]) -> nn.Module:
    base = torch.float32 if precision == "fp32" else torch.bfloat16
    adapter = torch.bfloat16 if precision == "bf16" else torch.float32
    result: list[nn.Module] = []
    for width, out, adapted in layers:
        linear = (
            Adapted(width, out, base, adapter) if adapted else nn.Linear(width, out, dtype=base).requires_grad_(False)
        )
        result += [linear, nn.SiLU()]
    return nn.Sequential(*result)


def linear(out: str, x: str, width: int, target: str = "") -> str:
    return f"{out} = linear {x} out={width} bias=1" + (f" target={target}" if target else "")


@pytest.mark.parametrize(("precision", "grad"), RUNS)
@pytest.mark.parametrize("adapted", [(True, True), (True, False), (False, True), (False, False)])
def test_adapter_saves_its_input_and_frozen_layer_does_not(
    precision: str, grad: bool, adapted: tuple[bool, bool]
) -> None:
    model = modules(precision, (WIDTH, 48, adapted[0]), (48, WIDTH, adapted[1]))
    lines = [
        linear("u", "x", 48, "a" if adapted[0] else "other"), "s = silu u",
        linear("d", "s", WIDTH, "b" if adapted[1] else "other"), "y = silu d",
    ]  # fmt: skip
    assert simulate_saved_bytes(lines, precision, grad) == measure_saved_bytes(model, precision, grad)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp"])
def test_layers_with_a_common_input_save_it_once_except_under_autocast(precision: str) -> None:
    class Both(nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = modules(precision, (WIDTH, WIDTH, True), (WIDTH, WIDTH, True))[::2]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.silu(x)
            return self.a(x) + self.b(x)  # type: ignore[no-any-return,unused-ignore]

    lines = ["n = silu x", linear("p", "n", WIDTH, "a"), linear("q", "n", WIDTH, "b"), "y = add p q"]
    saved = simulate_saved_bytes(lines, precision, True)
    assert saved == measure_saved_bytes(Both(), precision, True)
    size = SAMPLES * LENGTH * WIDTH * (4 if precision == "fp32" else 2)
    low = SAMPLES * LENGTH * RANK * (4 if precision == "fp32" else 2)
    assert saved == size * (2 if precision == "amp" else 1) + 2 * low


def network(layers: int) -> Network:
    embed = program("x = embedding input rows=50 width=32")
    layer = program("s = silu x", linear("d", "s", WIDTH, "a"), "y = add x d")
    blocks = (Block("embed", embed, 1, {}, input="input"), Block("layer", layer, layers, {}, checkpointed=True))
    return Network("adapted", blocks, images=False, flags=frozenset())


def test_first_layer_saves_less_after_a_frozen_embedding() -> None:
    mode = make_mode("fp32")
    saved = [simulate_step(network(n), mode, MicroBatch(SAMPLES, LENGTH)).activations for n in (1, 2, 3)]
    first, size = saved[0], SAMPLES * LENGTH * WIDTH * 4
    # SiLU saves its input if it requires a gradient; the adapter saves SiLU's output and its low-rank product.
    assert first == size + SAMPLES * LENGTH * RANK * 4
    assert saved[1] - saved[0] == saved[2] - saved[1] == first + size
    assert sum(count_weights(network(3), mode).values()) == 1 + 3 * 4


def test_checkpointing_makes_embeddings_require_gradients() -> None:
    size = SAMPLES * LENGTH * WIDTH * 4
    results = []
    for flags in (frozenset[str](), frozenset({LEARNING_INPUTS})):
        graph, out = simulate(
            "x = embedding input rows=50 width=32", "y = silu x", mode=replace(make_mode("fp32"), flags=flags),
            shape=(SAMPLES, LENGTH), requires_grad=False, name="input",
        )  # fmt: skip
        graph.release(out)
        results.append((graph.live_bytes, out.requires_grad))
    assert results == [(0, False), (size, True)]
    learning = replace(make_mode("fp32"), flags=frozenset({LEARNING_INPUTS}))
    batch, settings = MicroBatch(SAMPLES, LENGTH), StepSettings(checkpoint=True)
    assert simulate_step(network(3), learning, batch, settings).activations == 3 * size


def test_gradients_of_two_products_are_not_summed_in_place() -> None:
    size = SAMPLES * LENGTH * WIDTH * 4
    results = []
    for third in (linear("r", "x", WIDTH), "r = silu x"):
        lines = [linear("p", "x", WIDTH), linear("q", "x", WIDTH), third, "s = add p q", "y = add s r"]
        graph, out = simulate(*lines, mode=make_mode("fp32"), shape=(SAMPLES, LENGTH, WIDTH))
        results.append(find_peak(simulate_backward(graph, out)).working)
    assert results == [4 * size, 3 * size]


def test_chunked_loss_allocates_three_gradients_of_its_weight() -> None:
    graph, out = simulate("y = chunked_cross_entropy x out=5000", shape=(SAMPLES, LENGTH, WIDTH))
    peak, weight = find_peak(simulate_backward(graph, out)), 5000 * WIDTH * 4
    assert 3 * weight <= peak.total <= 3 * weight + 3 * SAMPLES * LENGTH * WIDTH * 4


def flags_of(situation: Situation) -> frozenset[str]:
    return derive_compute_mode(select_memory_inputs(situation), frozenset()).flags


def test_flags_of_a_checkpointed_run() -> None:
    frozen = Situation(method="lora", lora_rank=RANK, checkpointing="full")
    assert LEARNING_INPUTS in flags_of(frozen)
    assert LEARNING_INPUTS not in flags_of(replace(frozen, checkpointing="none"))
    assert LEARNING_INPUTS not in flags_of(Situation(checkpointing="full"))
