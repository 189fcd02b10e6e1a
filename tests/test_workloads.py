"""Workloads: training reduces the loss, sizes are as documented, and errors of user workloads are one line."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from optadvise.benchmark.defaults import SIZES
from optadvise.benchmark.user_workload import load_user
from optadvise.benchmark.workloads import Workload, build, parameter_shapes
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from tests.cli import optadvise

NAMES = [*SIZES]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Use one thread: on a busy machine, several threads are much slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(workload: Workload, steps: int) -> list[float]:
    """Train with AdamW at a learning rate of 1e-3 and return the losses."""
    optimizer = torch.optim.AdamW(workload.module.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        batch = next(workload.batches)
        loss = workload.loss(workload.module, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_training_reduces_the_loss(name: str) -> None:
    losses = train(build(name, batch_size=8), 30)
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
    assert losses[0] == pytest.approx(
        math.log(256 if name == "transformer" else 10), rel=0.2
    )  # of a uniform prediction


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_deterministic_for_a_seed(name: str) -> None:
    first, second, other = (train(build(name, seed=seed, batch_size=2), 2) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_build_does_not_change_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build("mlp", seed=5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("size", "least", "most"), [("tiny", 5e5, 1e6), ("small", 9e6, 12e6), ("medium", 5e7, 1e8)])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_as_documented(name: str, size: str, least: float, most: float) -> None:
    workload = build(name, size=size)
    count = sum(parameter.numel() for parameter in workload.module.parameters())
    assert least <= count <= most
    # bitsandbytes uses 32-bit state below 4096 elements, so smaller tensors would show no saving.
    large = sum(parameter.numel() for parameter in workload.module.parameters() if parameter.numel() >= 4096)
    assert large > 0.95 * count


@pytest.mark.parametrize("params", [700_000, 1_000_000, 2_500_000, 8_000_000, 20_000_000])
@pytest.mark.parametrize("name", NAMES)
def test_params_are_matched_within_ten_percent(name: str, params: int) -> None:
    workload = build(name, params=params)
    assert sum(p.numel() for p in workload.module.parameters()) == pytest.approx(params, rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_and_batch_size(name: str) -> None:
    workload = build(name, dtype="bf16", batch_size=1)
    assert {parameter.dtype for parameter in workload.module.parameters()} == {torch.bfloat16}
    losses = train(workload, 2)
    assert all(math.isfinite(loss) for loss in losses)
    assert (workload.samples_per_step, workload.unit) == (1, "samples/s")


def test_shapes_of_batches() -> None:
    assert next(build("transformer", seq_len=40, batch_size=3).batches).shape == (3, 41)
    images, labels = next(build("cnn", batch_size=3).batches)
    assert (images.shape, labels.shape) == ((3, 1, 32, 32), (3,))
    assert train(build("cnn", batch_size=1), 1)


@pytest.mark.parametrize(
    ("name", "options", "code", "option", "value"),
    [
        ("transfomer", {}, ErrorCode.UNKNOWN_CHOICE, "--workload", "transfomer"),
        ("mlp", {"size": "huge"}, ErrorCode.UNKNOWN_CHOICE, "--model-size", "huge"),
        ("mlp", {"dtype": "fp16"}, ErrorCode.UNKNOWN_CHOICE, "--precision", "fp16"),
        ("mlp", {"batch_size": 0}, ErrorCode.OUT_OF_RANGE, "--batch-size", 0),
        ("mlp", {"seq_len": 64}, ErrorCode.OPTION_CONFLICT, "--seq-len", 64),
        ("transformer", {"seq_len": 8}, ErrorCode.OUT_OF_RANGE, "--seq-len", 8),
        ("transformer", {"seq_len": 10**8}, ErrorCode.OUT_OF_RANGE, "--seq-len", 10**8),
        ("transformer", {"params": 1000}, ErrorCode.OUT_OF_RANGE, "--params", 1000),
        ("cnn", {"params": 150_000}, ErrorCode.OUT_OF_RANGE, "--params", 150_000),
        ("mlp", {"params": 10**13}, ErrorCode.OUT_OF_RANGE, "--params", 10**13),
    ],
)
def test_invalid_arguments(name: str, options: dict[str, object], code: ErrorCode, option: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        build(name, **options)  # type: ignore[arg-type]
    assert caught.value.code is code
    assert (caught.value.option, caught.value.value) == (option, value)


@pytest.mark.parametrize("params", [100_000, 1_000_000, 30_000_000, 100_000_000, 1_000_000_000, 7_000_000_000])
def test_parameter_shapes(params: int) -> None:
    shapes = parameter_shapes(params)
    assert sum(math.prod(shape) for shape in shapes) == pytest.approx(params, rel=0.05)
    assert shapes[0] == shapes[-1]
    assert {len(shape) for shape in shapes} == {1, 2}


@pytest.mark.parametrize("params", [-1, 0, 1000, 10**14])
def test_parameter_shapes_out_of_range(params: int) -> None:
    with pytest.raises(InputError) as caught:
        parameter_shapes(params)
    assert caught.value.code is ErrorCode.OUT_OF_RANGE
    assert (caught.value.option, caught.value.value) == ("--params", params)


USER = """
import random, sys
from collections import namedtuple
import torch
from torch import nn

def data(): return [(torch.randn(6, 3), torch.randn(6, 2)) for _ in range(2)]
def pair(): return nn.Linear(3, 2), data()
def square(module, batch): return module(batch["x"]).square().mean()
def classes(): return nn.Linear(3, 2), [(torch.randn(6, 3), torch.randint(2, (6,)))]
def triple(): return nn.Linear(3, 2), [{"x": torch.randn(5, 3)}], square
def named(): return nn.Linear(3, 2), [namedtuple("Batch", "x y")(torch.randn(4, 3), torch.randn(4, 2))]
def endless():
    def batches():
        while True:
            yield torch.rand(2, 3), torch.full((2, 2), random.random())
    return nn.Linear(3, 2), batches()
def opaque(): return nn.Linear(3, 2), [object()], lambda module, batch: module.weight.sum()
class Hub(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
    def forward(self, x): return namedtuple("Out", "loss")(self.layer(x).mean())
def hub(): return Hub(), [{"x": torch.randn(5, 3)}]

not_callable = 3
def raises(): raise ValueError("two\\nlines")
def leaves(): sys.exit(3)
def stop(*arguments): raise StopIteration("two\\nlines")
class Stopping(nn.Linear):
    forward = stop
    __iter__ = stop
def stopping_batches(): return nn.Linear(3, 2), Stopping(3, 2)
def stopping_forward(): return Stopping(3, 2), data()
def stopping_loss(): return nn.Linear(3, 2), data(), stop
def takes(argument): return pair()
def nothing(): return None
def four(): return 1, 2, 3, 4
def no_module(): return data(), nn.Linear(3, 2)
def no_weights(): return nn.ReLU(), data()
def no_batches(): return nn.Linear(3, 2), 7
def empty(): return nn.Linear(3, 2), []
def bad_generator(): return nn.Linear(3, 2), (1 / 0 for _ in range(2))
def bad_loss(): return nn.Linear(3, 2), data(), 7
def lazy(): return nn.LazyLinear(2), data()
def short(): return nn.Linear(3, 2), iter(data())
def no_scalar(): return nn.Linear(3, 2), data(), lambda module, batch: module(batch[0])
def no_pair(): return nn.Linear(3, 2), [torch.randn(4, 3)]
def out_of_memory(): raise torch.OutOfMemoryError("no room")
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "work.py").write_text(USER)
    (tmp_path / "mine" / "broken.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "mine" / "syntax.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("function", "samples", "unit"),
    [
        ("pair", 6, "samples/s"),
        ("classes", 6, "samples/s"),
        ("triple", 5, "samples/s"),
        ("named", 4, "samples/s"),
        ("endless", 2, "samples/s"),
        ("hub", 5, "samples/s"),
        ("opaque", 1, "batches/s"),
    ],
)
def test_user_workloads(function: str, samples: int, unit: str) -> None:
    workload = load_user(f"mine.work:{function}")
    assert (workload.samples_per_step, workload.unit) == (samples, unit)
    losses = train(workload, 5)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses == train(load_user(f"mine.work:{function}"), 5)


def test_user_workload_in_bf16() -> None:
    workload = load_user("mine.work:classes", dtype="bf16")
    inputs, targets = next(workload.batches)
    assert (workload.module.weight.dtype, inputs.dtype, targets.dtype) == (torch.bfloat16, torch.bfloat16, torch.int64)
    train(workload, 1)


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        ("", "package.module:function"),
        ("mine.work", "package.module:function"),
        ("mine/work.py:pair", "package.module:function"),
        (":pair", "package.module:function"),
        ("mine.absent:pair", "ModuleNotFoundError"),
        ("mine.broken:pair", "no_such_package_at_all"),
        ("mine.syntax:pair", "SyntaxError"),
        ("mine.work:triplet", "'triple'"),  # did you mean
        ("mine.work:not_callable", "'not_callable'"),
        ("mine.work:raises", "ValueError: two lines"),
        ("mine.work:leaves", "SystemExit"),
        ("mine.work:stop", "StopIteration: two lines"),
        ("mine.work:stopping_batches", "StopIteration"),
        ("mine.work:takes", "TypeError"),
        ("mine.work:nothing", "NoneType"),
        ("mine.work:four", "tuple"),
        ("mine.work:no_module", "torch.nn.Module"),
        ("mine.work:no_weights", "torch.nn.Module"),
        ("mine.work:no_batches", "batches must be"),
        ("mine.work:empty", "batches ended after 0"),
        ("mine.work:bad_generator", "ZeroDivisionError"),
        ("mine.work:bad_loss", "loss must be"),
        ("mine.work:lazy", "parameters raised"),
    ],
)
def test_invalid_user_workloads(spec: str, detail: str) -> None:
    with pytest.raises(InputError) as caught:
        load_user(spec)
    assert caught.value.code is ErrorCode.INVALID_WORKLOAD
    assert (caught.value.option, caught.value.value) == ("--workload", spec)
    assert detail in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "detail"),
    [("short", "ended after 2"), ("no_scalar", "one element"), ("no_pair", "(inputs, targets)")],
)
def test_user_workloads_that_fail_in_training(function: str, detail: str) -> None:
    workload = load_user(f"mine.work:{function}")
    with pytest.raises(InputError) as caught:
        train(workload, 3)
    assert caught.value.code is ErrorCode.INVALID_WORKLOAD
    assert (caught.value.option, caught.value.value) == ("--workload", f"mine.work:{function}")
    assert detail in str(caught.value)


def test_out_of_memory_passes_through() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        load_user("mine.work:out_of_memory")


@pytest.mark.parametrize(
    ("option", "function"),
    [
        ("--from", "stop"),
        ("--workload", "stopping_batches"),
        ("--from", "stopping_forward"),
        ("--workload", "stopping_loss"),
    ],
)
def test_stop_iteration_is_an_error_of_an_estimate(option: str, function: str) -> None:
    """It would end a loop of the caller silently."""
    done = optadvise("estimate", option, f"mine.work:{function}")
    assert (done.code, done.error, done.out) == (2, "invalid-workload", ""), done.err
    assert len(done.err.splitlines()) == 1
    assert "StopIteration" in done.err


@pytest.mark.parametrize("function", ["stopping_forward", "stopping_loss"])
def test_stop_iteration_is_an_error_of_a_benchmark(function: str) -> None:
    options = ("--control", "none", "--rounds", "1", "--steps", "1", "--json", "-")
    done = optadvise("bench", "adamw", "--workload", f"mine.work:{function}", *options)
    assert done.code == 4, done.err
    assert [(arm["status"], arm["error"]) for arm in json.loads(done.out)["arms"]] == [
        ("error", "StopIteration: two lines")
    ]
