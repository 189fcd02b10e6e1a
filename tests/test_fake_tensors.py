"""Steps with fake tensors: results by hand, comparison with real steps, and errors of user functions."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import asdict, astuple
from torch import nn
from torch.nn import functional as F  # noqa: N812

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError, OptadviseError
from optadvise.fake_tensors.client import trace_step
from optadvise.fake_tensors.cuda_emulation import emulate_cuda
from optadvise.fake_tensors.records import (
    OptimizerRequest,
    ParameterShape,
    PeakBytes,
)
from optadvise.fake_tensors.step import SteppedModule, measure_optimizer, step_optimizer, take_step
from optadvise.fake_tensors.tracker import KINDS, Tracker
from optadvise.fake_tensors.worker import explain_error
from tests.bench import ended
from tests.conftest import rotated

# Ignore warnings of torch and other libraries.
pytestmark = pytest.mark.filterwarnings("ignore")

MINE = """
import os, signal, sys, time
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.checkpoint import checkpoint

print("output on stdout must not be read as an answer")
first = lambda module, batch: module(batch).sum()

def mlp():
    print("more output")
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 400), nn.Sigmoid())
    return net, [torch.randn(64, 8)], first

def conv():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(8, 10))
    return net, [(torch.randn(2, 3, 16, 16), torch.randint(0, 10, (2,)))]

class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm, self.out = nn.Embedding(50, 32), nn.LayerNorm(32), nn.Linear(32, 50)
        self.qkv = nn.Linear(32, 96)
        self.mlp = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
        self.out.weight = self.table.weight
    def forward(self, tokens):
        x = self.table(tokens)
        q, k, v = self.qkv(self.norm(x)).view(*tokens.shape, 3, 2, 16).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        return self.out(x + checkpoint(self.mlp, x, use_reentrant=False)).flatten(0, 1)

def decoder():
    tokens = torch.randint(0, 50, (2, 24))
    return Attends(), [(tokens, tokens.flatten())]

def wide(): return nn.Linear(300, 200), [torch.randn(4, 300)], first
def matrix(): return nn.Linear(300, 200, bias=False), [torch.randn(4, 300)], first
def huge(): return nn.Linear(50_000, 50_000), [torch.randn(1, 50_000)], first
def frozen():
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    net[0].requires_grad_(False)
    return net, [torch.randn(4, 8)], first
def real():
    net = nn.Linear(4, 2)
    net.weight = nn.Parameter(torch.from_numpy(np.ones((2, 4), "float32")))
    net.register_buffer("scale", torch.from_numpy(np.ones(3)))
    def batches():
        while True:
            yield torch.from_numpy(np.ones((6, 4), "float32")), torch.from_numpy(np.zeros(6, "int64"))
    return net, batches()
def loader():
    data = TensorDataset(torch.randn(20, 4), torch.zeros(20, dtype=torch.long))
    return nn.Linear(4, 2), DataLoader(data, batch_size=5, shuffle=True)
def moved():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2).half().to("cpu", torch.bfloat16), [torch.randn(2, 5, 16).bfloat16()], first
def drawn():
    rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
    assert abs(rates[2] - 0.1) < 1e-6, rates
    net = nn.Linear(16, 16)
    nn.init.trunc_normal_(net.weight)
    nn.init.orthogonal_(net.weight)
    return net, [torch.randn(2, 16)], first
def half(): return nn.Dropout(0.1), [torch.randn(64, 8)]

def raises(): raise ValueError("two\\nlines")
def leaves(): sys.exit(3)
def nothing(): return None
def empty(): return nn.Linear(4, 2), []
def shapes(): return nn.Linear(4, 2), [torch.randn(2, 5)], first
def vector(): return nn.Linear(4, 2), [torch.randn(2, 4)], lambda module, batch: module(batch)
def pair(): return nn.Linear(4, 2), [torch.randn(2, 4)]
def item(): return nn.Linear(4, 2), [torch.randn(2, 4)], logged
def logged(module, batch):
    loss = module(batch).sum()
    print(loss.item())
    return loss
def mask(): return nn.Linear(4, 2), [torch.randn(2, 4)], lambda module, batch: module(batch[batch.sum(1) > 0]).sum()
def array(): return nn.Linear(4, 2), [torch.ones(3).numpy()]
def gpu(): return nn.Linear(4, 2, device="cuda"), [torch.randn(2, 4)], first
def forever(): time.sleep(600)
def dies(): os._exit(0)
def killed(): os.kill(os.getpid(), signal.SIGKILL)

class Hard(torch.optim.SGD):
    def step(self, closure=None): os.kill(os.getpid(), signal.SIGKILL)
class Slow(torch.optim.SGD):
    def step(self, closure=None):
        while True: torch.ones(3)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import no_such_package_at_all\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("mine", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def trace(function: str, precision: str = "fp32") -> SteppedModule:
    """Trace a step in this process, as on a machine without a GPU."""
    return take_step(f"mine:{function}", precision=precision, device="cpu", report=lambda _: None)


def entry(path: str, **kwargs: Any) -> OptimizerRequest:
    return OptimizerRequest(path, path, kwargs)


def test_mlp() -> None:
    figures = trace("mlp").figures
    weights = 4 * (2 * (8 * 8 + 8) + 8 * 400 + 400)
    assert (figures.parameters, figures.weights_bytes, figures.gradients_bytes) == (weights // 4, weights, weights)
    assert (figures.buffers_bytes, figures.batch_bytes, figures.samples) == (0, 4 * 64 * 8, 64)
    # The peak is at the gradient of the sigmoid. Saved for backward: the outputs of sigmoid and both tanh layers, and
    # the loss with its gradient; not the outputs of linear layers, because tanh and sigmoid save only their output.
    saved, row = 4 * 64 * 400, 4 * 64 * 8
    peak = {"weights": weights, "gradients": 0, "activations": 2 * row + saved + 8, "temporaries": saved}
    assert figures.peak == PeakBytes(**peak, other=row)
    shapes = [(shape.shape, shape.is_trained, shape.tensors) for shape in figures.shapes]
    assert shapes == [((8, 8), True, 2), ((8,), True, 2), ((400, 8), True, 1), ((400,), True, 1)]


def test_mlp_in_other_precisions() -> None:
    plain, pure, mixed = (trace("mlp", precision).figures for precision in ("fp32", "bf16", "amp-bf16"))
    for name in ("weights_bytes", "gradients_bytes", "batch_bytes"):
        assert getattr(pure, name) == getattr(plain, name) / 2
        assert getattr(mixed, name) == getattr(plain, name)
    assert pure.peak.activations == (plain.peak.activations - 8) / 2 + 4
    # Autocast saves bf16 outputs of layers, and bf16 copies of the batch and of all matrices but the first, because the
    # batch needs no gradient.
    copies = 2 * (64 * 8 + 8 * 8 + 8 * 400)
    saved = 2 * (64 * 400 + 2 * 64 * 8)
    assert mixed.peak.activations == copies + saved + 8
    # The sum returns fp32 for a bf16 input, as on CUDA, so its gradient is cast to bf16 before that of the sigmoid.
    assert mixed.peak.temporaries == 2 * (2 * 64 * 400)
    assert trace("mlp", "amp-fp16").figures.peak == mixed.peak


def test_convolution() -> None:
    figures = trace("conv").figures
    weights = 4 * ((8 * 27 + 8) + (8 + 8) + (80 + 10))
    assert (figures.weights_bytes, figures.gradients_bytes) == (weights, weights)
    assert figures.buffers_bytes == 4 * (8 + 8) + 8  # mean, variance and an int64 counter
    image = 4 * 2 * 8 * 16 * 16
    # Saved for backward: the output of the convolution for the norm, the output of the ReLU, and small tensors.
    assert 2 * image < figures.peak.activations < 2 * image + 1000
    assert figures.samples == 2


def test_frozen_weights_have_no_gradient_and_no_state() -> None:
    stepped = trace("frozen")
    assert stepped.figures.weights_bytes == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert stepped.figures.gradients_bytes == 4 * (16 * 4 + 4)
    assert stepped.figures.trainable_parameters == 16 * 4 + 4
    assert measure_optimizer(entry("torch.optim.SGD", momentum=0.9), stepped, 60).state_bytes == 4 * (16 * 4 + 4)


def real_step(function: str, precision: str) -> tuple[dict[str, int], int]:
    """Run the same step with real tensors, and return its peak and its gradient bytes."""
    import mine  # type: ignore[import-not-found]

    module, batches, *rest = getattr(mine, function)()
    loss: Callable[..., Any] = rest[0] if rest else lambda module, batch: F.cross_entropy(
        module(batch[0]).float(), batch[1]
    )  # fmt: skip
    tracker, batch = Tracker("cpu"), batches[0]
    if precision == "bf16":
        module.to(torch.bfloat16)
        batch = batch.bfloat16() if isinstance(batch, torch.Tensor) else tuple(
            part.bfloat16() if part.is_floating_point() else part for part in batch
        )  # fmt: skip
    tracker.add(module.parameters(), "weights")
    tracker.add(module.buffers(), "other")
    tracker.add([batch] if isinstance(batch, torch.Tensor) else batch, "other")
    for weight in module.parameters():
        weight.register_post_accumulate_grad_hook(lambda p: (tracker.add([p.grad], "gradients"), None)[1])
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "amp-bf16")
    with emulate_cuda(lambda: not tracker.is_running), tracker:
        for _ in range(2):
            module.zero_grad(set_to_none=True)
            tracker.reset_peak()
            tracker.kind = "activations"
            with cast:
                value = loss(module, batch)
            tracker.kind = "temporaries"
            value.backward()
            del value
    return tracker.at_peak, tracker.bytes["gradients"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp-bf16"])
@pytest.mark.parametrize("function", ["mlp", "conv", "decoder"])
def test_fake_step_equals_real_step(function: str, precision: str) -> None:
    figures = trace(function, precision).figures
    peak, gradients = real_step(function, precision)
    # torch's fake batch norm saves mean and deviation in bf16, the real one in fp32.
    difference = 2 * 8 * 2 if (function, precision) == ("conv", "amp-bf16") else 0
    assert asdict(figures.peak) == {**peak, "activations": peak["activations"] - difference}
    assert figures.gradients_bytes == gradients > 0


OPTIMIZERS = [
    entry("torch.optim.AdamW", lr=1e-3, betas=[0.9, 0.99]),
    entry("torch.optim.SGD", lr=1e-3),
    entry("torch.optim.SGD", lr=1e-3, momentum=0.9),
    entry("torch.optim.Adafactor", lr=1e-3),
    entry("torch.optim.AdamW", lr=1e-3, foreach=False),
    entry("lion_pytorch.Lion", lr=1e-3),
    entry("optimi.StableAdamW", lr=1e-3),
    entry("pytorch_optimizer.Prodigy"),
    entry("pytorch_optimizer.SOAP", lr=1e-3),
    entry("bitsandbytes.optim.AdamW8bit", lr=1e-3),
]


@pytest.mark.parametrize("optimizer", rotated(2, OPTIMIZERS), ids=lambda e: f"{e.path} {e.kwargs}")
def test_fake_optimizer_step_equals_real_one(optimizer: OptimizerRequest) -> None:
    fake = trace("wide")
    weights = [nn.Parameter(torch.randn(shape.shape)) for shape in fake.figures.shapes]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    real = SteppedModule(fake.figures, contextlib.nullcontext(), weights)
    assert measure_optimizer(optimizer, fake, 60) == measure_optimizer(optimizer, real, 60)


def test_state_and_temporaries() -> None:
    stepped = trace("wide")
    weights = stepped.figures.weights_bytes
    figures = {
        name: measure_optimizer(entry(f"torch.optim.{name}", **kwargs), stepped, 60)
        for name, kwargs in {"AdamW": {}, "SGD": {}, "RMSprop": {"foreach": False}}.items()
    }
    counters = 2 * 4  # one per tensor
    assert figures["AdamW"].state_bytes == 2 * weights + counters
    assert figures["RMSprop"].state_bytes == weights + counters
    assert figures["SGD"].state_bytes == 0
    assert figures["AdamW"].temporary_bytes == pytest.approx(weights, rel=0.01)  # foreach, the default on CUDA
    assert figures["SGD"].temporary_bytes < figures["AdamW"].temporary_bytes


def test_optimizers_that_cannot_be_traced_have_a_reason() -> None:
    stepped = trace("wide")
    reasons = {
        "torch.optim.Muon": "ValueError: Muon only supports 2D parameters",
        "torch.optim.LBFGS": "TypeError: LBFGS.step() missing 1 required positional argument",
        "no_such.Optimizer": "pip install no_such",
        "mine.Slow": "0.5 s",
    }
    for path, reason in reasons.items():
        step = step_optimizer(entry(path), stepped, 0.5)
        assert step.figures is None
        assert reason in str(step.reason)
        assert "\n" not in str(step.reason)
    assert step_optimizer(entry("torch.optim.Muon"), trace("matrix"), 60).figures is not None


@pytest.mark.parametrize("function", ["real", "loader", "moved", "drawn"])
def test_user_modules(function: str) -> None:
    figures = trace(function).figures
    assert figures.peak.total > figures.weights_bytes > 0
    assert figures.gradients_bytes == figures.weights_bytes
    if function == "real":
        assert (figures.weights_bytes, figures.buffers_bytes, figures.batch_bytes) == (40, 24, 6 * 4 * 4 + 6 * 8)
    if function == "moved":
        assert figures.weights_bytes == 2 * figures.parameters  # bf16


def test_nothing_is_allocated_and_patches_are_removed() -> None:
    before = (torch.softmax, F.dropout, F.layer_norm, nn.init.normal_, torch.Tensor.sum, torch.utils.weakref)
    figures = trace("huge", "amp-bf16").figures
    assert figures.weights_bytes == 4 * (50_000**2 + 50_000)  # 10 GB, and 10 GB for gradients
    after = (torch.softmax, F.dropout, F.layer_norm, nn.init.normal_, torch.Tensor.sum, torch.utils.weakref)
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert "sum" not in vars(torch.Tensor)


@pytest.mark.parametrize(
    ("make", "saved"),
    [
        (lambda x: F.dropout(x, 0.1), 4 + 1),  # output, and mask of one byte per element
        (lambda x: F.dropout(x, 0.1, training=False) * 1.0, 4),
        (lambda x: F.rms_norm(x, (1024,), eps=1e-6), 4 + 4 / 1024),  # one number per row
        (lambda x: F.layer_norm(x, (1024,)), 4 + 8 / 1024),
    ],
)
def test_operations_save_the_tensors_of_cuda(make: Callable[[Any], Any], saved: float) -> None:
    tracker = Tracker("cpu")
    start = torch.randn(8, 1024, requires_grad=True)
    tracker.add([start], "other")
    with emulate_cuda(lambda: not tracker.is_running), tracker:
        tracker.kind = "activations"
        result = make(start)
    assert result.grad_fn is not None
    assert tracker.bytes["activations"] == saved * start.numel()


def test_autocast_has_the_fp32_operations_of_cuda() -> None:
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    with emulate_cuda(lambda: True), torch.autocast("cpu", torch.bfloat16):
        for function in (F.softmax, torch.softmax):
            assert function(x, -1).dtype == torch.float32
        assert {F.layer_norm(x, (8,)).dtype, x.pow(2).dtype, (x**2).dtype, x.sum().dtype} == {torch.float32}
        assert F.cross_entropy(x, torch.zeros(4, dtype=torch.long), label_smoothing=0.0).dtype == torch.float32
        assert F.gelu(x).dtype == torch.bfloat16
    with emulate_cuda(lambda: True):
        assert F.softmax(x, -1).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        ("mine", "package.module:function"),
        ("absent:mlp", "importing absent raised ModuleNotFoundError: No module named 'absent'$"),
        ("broken:mlp", "importing broken raised .*no_such_package_at_all.* at broken.py:1"),
        ("mine:mpl", "'mpl'.*'mlp'"),
        ("mine:raises", r"ValueError: two lines at mine.py:\d+$"),
        ("mine:leaves", "SystemExit: 3"),
        ("mine:nothing", "NoneType"),
        ("mine:half", "torch.nn.Module"),
        ("mine:empty", "batches"),
        ("mine:shapes", r"its training step raised RuntimeError: .* at mine.py:\d+$"),
        ("mine:vector", "4 elements"),
        ("mine:pair", r"\(inputs, targets\)"),
        ("mine:item", r"DataDependentOutputException at mine.py:\d+"),
        ("mine:mask", r"DynamicOutputShapeException at mine.py:\d+.*bench --workload"),
        ("mine:array", "RuntimeError: .*numpy"),
        ("mine:gpu", "no GPU"),
    ],
)
def test_errors_of_the_user_function(spec: str, detail: str) -> None:
    if spec == "mine:gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError) as caught:
        take_step(spec, precision="fp32", device="cpu", report=lambda _: None)
    assert caught.value.code in (ErrorCode.INVALID_WORKLOAD, ErrorCode.INVALID_VALUE)
    text = explain_error(spec, caught.value)
    assert re.search(detail, text), text
    assert text.startswith("--workload")
    assert "\n" not in text


def test_results_from_before_a_crash_are_kept() -> None:
    optimizers = [
        OptimizerRequest("adamw", "torch.optim.AdamW", {}),
        OptimizerRequest("muon", "torch.optim.Muon", {}),
        OptimizerRequest("hard", "mine.Hard", {}),
        OptimizerRequest("sgd", "torch.optim.SGD", {}),
    ]
    traced = trace_step("mine:mlp", "amp-bf16", optimizers, timeout=120)
    figures = traced.figures
    assert (figures.parameters, figures.samples, figures.weights_bytes) == (3744, 64, 4 * 3744)
    assert figures.peak.total == sum(astuple(figures.peak))
    assert figures.peak.__struct_fields__ == KINDS
    assert figures.shapes[0] == ParameterShape((8, 8), True, 2)
    adamw, muon, hard, sgd = traced.optimizers
    assert adamw.figures is not None
    assert (adamw.id, adamw.figures.state_bytes) == ("adamw", 8 * 3744 + 6 * 4)
    assert muon.figures is None
    for step in (hard, sgd):
        assert step.figures is None
        assert "hard" in str(step.reason)
        assert "SIGKILL" in str(step.reason)


def test_function_that_does_not_end() -> None:
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        trace_step("mine:forever", "fp32", [], timeout=3)
    error = caught.value
    assert (error.code, error.option, error.value) == (ErrorCode.WORKER_TIMEOUT, "--workload", "mine:forever")
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(("function", "detail"), [("dies", "exit code 0"), ("killed", "SIGKILL")])
def test_function_that_ends_the_process(function: str, detail: str) -> None:
    with pytest.raises(CannotRunHereError, match=detail) as caught:
        trace_step(f"mine:{function}", "fp32", [], timeout=120)
    assert (caught.value.code, caught.value.value) == (ErrorCode.WORKER_FAILED, f"mine:{function}")


def python(code: str) -> Sequence[str]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "error", "detail"),
    [
        ("import sys; sys.modules['torch'] = None; from optadvise.fake_tensors.worker import main; main()",
         CannotRunHereError, "exit code 1: ModuleNotFoundError: .*torch"),
        ("""print('{"answer": "activity", "text": "calling it"}', flush=True); import time; time.sleep(60)""",
         InputError, "calling it: .*1 s"),
        ("print('hello')", CannotRunHereError, "sent an invalid message: 'hello"),
        ("""print('{"answer": "step"}')""", CannotRunHereError, "sent an invalid message"),
        ("import sys; sys.exit('last words')", CannotRunHereError, "ended with exit code 1: last words"),
        ("import os; os.abort()", CannotRunHereError, "killed by SIGABRT"),
    ],
)  # fmt: skip
def test_faulty_worker(code: str, error: type[OptadviseError], detail: str) -> None:
    with pytest.raises(error, match=detail) as caught:
        trace_step(
            "mine:mlp", "fp32", [entry("torch.optim.SGD")], timeout=20 if "torch" in code else 1, command=python(code)
        )
    assert caught.value.code is (ErrorCode.WORKER_TIMEOUT if error is InputError else ErrorCode.WORKER_FAILED)


def test_missing_worker_program() -> None:
    with pytest.raises(CannotRunHereError) as caught:
        trace_step("mine:mlp", "fp32", [], timeout=5, command=("/no/such/program",))
    assert caught.value.code is ErrorCode.WORKER_FAILED


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Process that waits for workers that do not answer, and the ids of these."""
    sleeper = "import os, subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); "
    sleeper += "open('ids.tmp', 'w').write(f'{os.getpid()} {p.pid}'); os.rename('ids.tmp', 'ids'); time.sleep(60)"
    code = "import sys; from optadvise.fake_tensors.client import trace_step; "
    code += f"trace_step('m:f', 'fp32', [], timeout=60, command=(sys.executable, '-c', {sleeper!r}))"
    parent = subprocess.Popen(python(code), cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        for _ in range(200):
            if (tmp_path / "ids").exists():
                break
            time.sleep(0.05)
        yield parent, [int(number) for number in (tmp_path / "ids").read_text().split()]
    finally:
        parent.kill()
        parent.communicate()


def test_interruption_leaves_no_process(waiting: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    parent, ids = waiting
    os.kill(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=20)
    assert b"KeyboardInterrupt" in err
    assert ended(ids)
