"""Contract of every implementation in the catalog: construction, training, state bytes and the equation of the card.

The cases are all implementations of all cards. The deviation from `optadvise.verify.reference` is
‖θ − θ_ref‖ / ‖θ_ref − θ_0‖. If a card declares a deviation, its size is checked from both sides, so that a fix in the
package is noticed.
"""

from __future__ import annotations

import importlib
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from optadvise.core.cards import Implementation, Optimizer, StateTensor, Value
from optadvise.memory.optimizer_state import DTYPE_BITS, compute_shared_state_bytes, compute_state_bytes
from optadvise.rulebase.catalog import load
from optadvise.verify.audit import compute_gradient, make_start
from optadvise.verify.reference import METHODS, run_method
from optadvise.verify.scenarios import SCENARIOS, Scenario

pytestmark = [
    # bitsandbytes warns at every step that it does not page on a CPU.
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
    # optimi deprecates foreach in favor of Triton, which requires a GPU.
    pytest.mark.filterwarnings("ignore:Parameter `foreach` is deprecated:DeprecationWarning"),
    # torch.compile imports deprecated parts of torch.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

CATALOG = load()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Use one thread: more are slower on small tensors, and block for seconds with bitsandbytes' thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Case(NamedTuple):
    """Variant of an implementation of an optimizer."""

    card: Optimizer
    implementation: Implementation
    variant: str | None

    @property
    def key(self) -> tuple[str, str]:
        return self.card.id, self.implementation.id

    @property
    def name(self) -> str:
        return "-".join(filter(None, (*self.key, self.variant)))

    @property
    def device(self) -> str:
        return "cpu" if "cpu" in self.implementation.devices and self.variant != "triton" else "cuda"

    @property
    def state(self) -> tuple[StateTensor, ...]:
        own = self.implementation.state
        return self.card.state if own is None else own

    def hyperparameters(self, **changes: float) -> dict[str, Value]:
        """Return the defaults of the card with changes; changes of hyperparameters that the card lacks are ignored."""
        defaults = {h.name: h.default for h in self.card.hyperparameters}
        return {**defaults, **{name: value for name, value in changes.items() if name in defaults}}

    def kwargs(self, hyperparameters: Mapping[str, Value]) -> dict[str, Any]:
        """Return the constructor arguments; lists become tuples."""
        renamed = {self.implementation.arguments.get(name, name): value for name, value in hyperparameters.items()}
        variant = self.implementation.variants[self.variant] if self.variant else {}
        cpu_kwargs = self.implementation.cpu_kwargs if self.device == "cpu" else {}
        kwargs = {**renamed, **self.implementation.kwargs, **cpu_kwargs, **variant}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in kwargs.items()}


def _every_case() -> Iterator[Case]:
    for name in CATALOG.optimizer_ids:
        card = CATALOG.optimizer(name)
        for implementation in card.implementations:
            for variant in implementation.variants or (None,):
                yield Case(card, implementation, variant)


def _mark(case: Case) -> Any:
    """Return the mark of the cases that `pytest -m gpu` selects."""
    return pytest.mark.gpu if case.device == "cuda" else ()


CASES = [pytest.param(case, id=case.name, marks=_mark(case)) for case in _every_case()]


def test_cases_that_require_cuda_have_the_mark_gpu() -> None:
    marked = {str(case.id) for case in CASES if any(mark.name == "gpu" for mark in case.marks)}
    assert "lion-lion-pytorch-triton" in marked
    assert "adamw-torch-fused" not in marked


# Scenarios with more steps than in an audit; `test_verify.py` covers the others.
STEPPED = [scenario for scenario in SCENARIOS if scenario.name in ("plain", "decay", "vector", "zero", "tall", "even")]
# Steps. Step 12 is after Lookahead's first update, RAdam's rectification and SOAP's first new eigenbasis; by step 60
# Prodigy's estimate has grown 400 times.
CHECKED = (5, 12, 60)

# Tolerance by the bits of the narrowest state on the card. Measured deviations: at most 3e-5 beside the rounding of the
# weights, 3.4e-3, 3.2e-2 and 0.38.
TOLERANCE = {32: 1e-4, 16: 1e-2, 8: 5e-2, 4: 0.45}
# Tolerance where other arithmetic is imprecise, for one scenario or for all others (None), as measured.
COARSE: dict[tuple[str, str, str | None], float] = {
    ("muon", "torch", None): 1.5e-2,  # it runs Newton-Schulz in bf16; up to 0.8 %
    ("soap", "pytorch-optimizer", None): 5e-4,  # eigenvectors in fp32 are less precise than products; 0.01 %
    # The first gradient determines 32 of a tall matrix's 128 left eigenvectors. The others are arbitrary, but Adam's
    # step depends on them, so two correct results differ; 30 to 50 %.
    ("soap", "pytorch-optimizer", "tall"): 0.8,
}


class Deviation(NamedTuple):
    """Measured deviation of an implementation after some steps."""

    step: int
    share: float


# Measured deviations of implementations whose card has `deviates`, by scenario; other scenarios must agree.
DEVIATIONS: dict[tuple[str, str], dict[str, tuple[Deviation, ...]]] = {
    ("adafactor", "transformers"): {
        "decay": (Deviation(5, 0.22), Deviation(12, 0.246)),
        "vector": (Deviation(5, 0.442), Deviation(12, 0.491)),
        "tall": (Deviation(5, 0.411), Deviation(12, 0.465)),
    },
    ("adopt", "pytorch-optimizer"): {
        "plain": (Deviation(5, 0.0864), Deviation(12, 0.0453)),
        "decay": (Deviation(5, 0.145), Deviation(12, 0.0463)),
        "vector": (Deviation(5, 0.0946), Deviation(12, 0.0459)),
        "zero": (Deviation(5, 0.0889), Deviation(12, 0.0467)),
        "tall": (Deviation(5, 0.0951), Deviation(12, 0.046)),
    },
    ("cautious-adamw", "heavyball"): {
        "plain": (Deviation(5, 2.64e-4), Deviation(12, 2.71e-4)),
        "decay": (Deviation(5, 2.17e-4), Deviation(12, 2.16e-4)),
        "vector": (Deviation(1, 9.92e-4), Deviation(5, 1.06e-3)),
        "zero": (Deviation(5, 2.66e-4), Deviation(12, 2.75e-4)),
        "tall": (Deviation(5, 2.61e-4), Deviation(12, 2.68e-4)),
    },
    ("cautious-adamw", "timm"): {
        "plain": (Deviation(5, 2.64e-4), Deviation(12, 2.71e-4)),
        "decay": (Deviation(5, 2.17e-4), Deviation(12, 2.16e-4)),
        "vector": (Deviation(1, 9.92e-4), Deviation(5, 1.06e-3)),
        "zero": (Deviation(5, 2.66e-4), Deviation(12, 2.75e-4)),
        "tall": (Deviation(5, 2.61e-4), Deviation(12, 2.68e-4)),
    },
    ("cautious-lion", "timm"): {
        "plain": (Deviation(5, 2.5e-4), Deviation(12, 2.57e-4)),
        "decay": (Deviation(5, 2.33e-4), Deviation(12, 2.37e-4)),
        "vector": (Deviation(5, 1.01e-3), Deviation(12, 1.04e-3)),
        "zero": (Deviation(5, 2.5e-4), Deviation(12, 2.58e-4)),
        "tall": (Deviation(5, 2.49e-4), Deviation(12, 2.56e-4)),
    },
    ("mars", "pytorch-optimizer"): {
        "plain": (Deviation(1, 1.74e-3), Deviation(5, 4.47e-4)),
        "decay": (Deviation(1, 3.83e-3), Deviation(5, 8.05e-4)),
        "vector": (Deviation(1, 1.26e-4),),
        "zero": (Deviation(1, 2.22e-3), Deviation(5, 6.03e-4)),
        "tall": (Deviation(1, 1.72e-3), Deviation(5, 4.4e-4)),
    },
    ("mars", "timm"): {},  # only scalars, and other gradients whose norm is below 1
    ("lamb", "pytorch-optimizer"): {
        "plain": (Deviation(1, 0.0153), Deviation(12, 0.00132)),
        "decay": (Deviation(5, 0.61), Deviation(12, 0.609)),
        "vector": (Deviation(5, 0.0226), Deviation(12, 0.0262)),
        "zero": (Deviation(5, 2.16), Deviation(12, 2.16)),
        "tall": (Deviation(5, 0.0222), Deviation(12, 0.0258)),
    },
    ("lars", "bitsandbytes"): {
        "plain": (Deviation(5, 0.609), Deviation(12, 0.772)),
        "decay": (Deviation(5, 0.612), Deviation(12, 0.773)),
        "vector": (Deviation(5, 0.583), Deviation(12, 0.755)),
        "zero": (Deviation(5, 1.0), Deviation(12, 1.0)),
        "tall": (Deviation(5, 0.582), Deviation(12, 0.755)),
    },
    # Only the first step: it then diverges, because its learning rate is meant for a trust ratio that it lacks.
    ("lars", "pytorch-optimizer"): {"vector": (Deviation(1, 3400.0),)},
    ("ranger", "pytorch-optimizer"): {
        "plain": (Deviation(5, 0.128), Deviation(12, 0.137)),
        "decay": (Deviation(5, 0.102), Deviation(12, 0.0824)),
        "vector": (Deviation(20, 0.000214), Deviation(60, 0.000261)),
        "zero": (Deviation(5, 0.127), Deviation(12, 0.136)),
        "tall": (Deviation(5, 0.167), Deviation(12, 0.167)),
    },
}
SPREAD = 1.3  # factor by which a deviation may differ from the measured one


def _scenarios() -> Iterator[Any]:
    for case in _every_case():
        for scenario in STEPPED:
            flat = len(scenario.shape) < 2 and case.implementation.tensors is not None
            if not flat and (not scenario.has_even_gradients or _narrowest(case, scenario.shape) < 16):
                yield pytest.param(case, scenario, id=f"{case.name}-{scenario.name}", marks=_mark(case))


def _narrowest(case: Case, shape: tuple[int, ...]) -> int:
    """Return the bits per element of the most quantized state for a weight of this shape."""
    tensors = (t for t in case.state if t.per == "element" and compute_state_bytes([t], shape))
    return min((DTYPE_BITS["float32" if t.dtype == "parameter" else t.dtype] for t in tensors), default=32)


def _class(case: Case) -> Any:
    """Import the class of the implementation; skip the test if that is impossible."""
    if case.device == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"{case.variant or case.implementation.path} requires a CUDA device")
    module, _, name = case.implementation.path.rpartition(".")
    top = module.partition(".")[0]
    if find_spec(top) is None:
        pytest.skip(f"{top} is not installed")
    try:
        imported = importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # timm raises RuntimeError if torchvision does not match torch
        pytest.skip(f"{top} cannot be imported: {error}")
    required = case.implementation.min_version
    if not hasattr(imported, name) and required and case.implementation.package:
        installed = version(case.implementation.package)
        if _release(installed) < _release(required):
            pytest.skip(f"{case.implementation.path} requires {top} {required}, installed is {installed}")
    return getattr(imported, name)


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _build(case: Case, parameters: list[Tensor], hyperparameters: Mapping[str, Value]) -> Any:
    kind = _class(case)
    for parameter in parameters:
        parameter.data = parameter.data.to(case.device)
    optimizer = kind(parameters, **case.kwargs(hyperparameters))
    if case.implementation.needs_train_mode:
        optimizer.train()
    return optimizer


def _set_gradient(case: Case, parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient.to_sparse(1) if case.implementation.gradients == "sparse" else gradient


def _interpreted() -> Any:
    """Disable torch.compile: torchao compiles its step for every shape and decay, which takes seconds each."""
    return torch.compiler.set_stance("force_eager")


def _compiled() -> Any:
    return nullcontext() if shutil.which("g++") or shutil.which("clang++") else _interpreted()


@cache
def _expected(name: str, scenario: Scenario, steps: int) -> list[Tensor]:
    case = next(case for case in _every_case() if case.card.id == name)
    hyperparameters = case.hyperparameters(weight_decay=scenario.weight_decay)
    return run_method(
        METHODS[name],
        make_start(scenario),
        lambda theta, step: compute_gradient(scenario, theta, step),
        steps,
        hyperparameters,
    )


def _compute_path(case: Case, scenario: Scenario, steps: int) -> list[Tensor]:
    parameter = torch.nn.Parameter(make_start(scenario))
    optimizer = _build(case, [parameter], case.hyperparameters(weight_decay=scenario.weight_decay))
    path = []
    for step in range(1, steps + 1):
        weights = parameter.detach().double().cpu()
        _set_gradient(case, parameter, compute_gradient(scenario, weights, step).to(parameter))
        optimizer.step()
        path.append(parameter.detach().double().cpu())
    return path


def test_every_optimizer_has_a_reference() -> None:
    assert set(METHODS) == set(CATALOG.optimizer_ids)


def test_deviations_are_declared_on_cards() -> None:
    declared = {case.key for case in _every_case() if case.implementation.deviates}
    assert set(DEVIATIONS) == declared


@pytest.mark.parametrize(("case", "scenario"), list(_scenarios()))
def test_update(case: Case, scenario: Scenario) -> None:
    known = DEVIATIONS.get(case.key, {}).get(scenario.name, ())
    steps = max([deviation.step for deviation in known] or CHECKED)
    with _compiled() if scenario.has_even_gradients else _interpreted():
        path = _compute_path(case, scenario, steps)
    expected, start = _expected(case.card.id, scenario, steps), make_start(scenario).double()

    def update_norm(step: int) -> float:
        return float((expected[step - 1] - start).norm())

    def deviation(step: int) -> float:
        return float((path[step - 1] - expected[step - 1]).norm()) / update_norm(step)

    for step, share in known:
        assert share / SPREAD <= deviation(step) <= share * SPREAD, (
            f"deviation {deviation(step):.3g} after {step} steps, expected about {share}; if this is correct, update "
            "DEVIATIONS and `deviates` on the card"
        )
    for step in () if known else CHECKED:
        # Rounding of the weights is not a deviation: 4 × the sum of independent rounding errors, relative to the first
        # steps, whose error Prodigy accumulates.
        rounding = 4 * 2**-24 * math.sqrt(step) * float(start.norm()) / update_norm(CHECKED[0])
        limit = _tolerance(case, scenario) + rounding
        assert deviation(step) <= limit, f"deviation {deviation(step):.3g} after {step} steps"


def _tolerance(case: Case, scenario: Scenario) -> float:
    for name in (scenario.name, None):
        known = COARSE.get((*case.key, name))
        if known is not None:
            return known
    return TOLERANCE[32 if scenario.has_even_gradients else _narrowest(case, scenario.shape)]


@pytest.mark.parametrize("case", CASES)
def test_loss_falls(case: Case) -> None:
    """The loss of a quadratic falls by 10 % within 300 steps at the default learning rate; LAMB is the slowest."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(0.05 * torch.randn(64, 64, generator=generator))
    optimizer = _build(case, [parameter], case.hyperparameters(weight_decay=0.0))
    curvature = (0.5 + 1.5 * torch.rand(64, 64, generator=generator)).to(parameter)

    def loss() -> float:
        if case.implementation.needs_train_mode:
            optimizer.eval()
        value = float((curvature * parameter.detach() ** 2).sum())
        if case.implementation.needs_train_mode:
            optimizer.train()
        return value

    before = loss()
    with _interpreted():
        for _ in range(300):
            _set_gradient(case, parameter, 2 * curvature * parameter.detach())
            optimizer.step()
            if loss() < 0.9 * before:
                return
    pytest.fail(f"from {before} to {loss()}")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_state_bytes(case: Case, dtype: str) -> None:
    """The state after a step has exactly the bytes that the card declares."""
    shapes: list[tuple[int, ...]] = [(64, 64), (128, 96), (24, 32), (320, 256)]
    if case.implementation.tensors is None:
        shapes += [(4096,), (100,)]
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(getattr(torch, dtype))) for shape in shapes
    ]
    optimizer = _build(case, weights, case.hyperparameters())
    for weight in weights:
        _set_gradient(case, weight, torch.randn(weight.shape, generator=generator).to(weight))
    with _interpreted():
        optimizer.step()
    measured = {weight.shape: sum(t.nbytes for t in _tensors(optimizer.state[weight])) for weight in weights}
    distinct = {(t.data_ptr(), t.nbytes): t.nbytes for weight in weights for t in _tensors(optimizer.state[weight])}
    declared = {shape: compute_state_bytes(case.state, shape, dtype) for shape in shapes}
    # optimi's Triton kernels use a placeholder of one byte for an fp32 weight without Kahan compensation.
    placeholders = len(shapes) if case.variant == "triton" and dtype == "float32" else 0
    expected = sum(declared.values()) + compute_shared_state_bytes(case.state) + placeholders
    assert sum(distinct.values()) == expected, (measured, declared)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the plain tensors of a state, also those in mappings, lists, objects and wrapper tensors."""
    if isinstance(value, Tensor):
        if hasattr(value, "__tensor_flatten__"):
            names, _ = value.__tensor_flatten__()
            yield from (inner for name in names for inner in _tensors(getattr(value, name)))
        elif value.numel():
            yield value
    elif isinstance(value, Mapping):
        yield from (inner for item in value.values() for inner in _tensors(item))
    elif isinstance(value, (list, tuple)):
        yield from (inner for item in value for inner in _tensors(item))
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))
