"""Use an implementation as trainings do: groups, saving and loading, missing, broken and sparse gradients."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch

from optadvise.verify.builder import OptimizerBuilder, describe_error
from optadvise.verify.records import RESUMED, CheckResult

_STEPS = 4  # before a run is saved, and after it is loaded

Check = Callable[[OptimizerBuilder], "str | None"]  # returns what is wrong, None if nothing is


def run_checks(builder: OptimizerBuilder) -> list[CheckResult]:
    """Check groups, saving, and missing, broken and sparse gradients."""
    checks: list[tuple[str, Check]] = [
        ("parameter groups", _check_groups), (RESUMED, lambda builder: compare_resumed(builder, save_run(builder))),
        ("a missing gradient", _check_missing_gradient), ("zero_grad", _check_zero_grad),
        ("a NaN gradient", _check_nan_gradient),
    ]  # fmt: skip
    if builder.target.takes_sparse_gradients:
        checks.append(("sparse gradients", _check_sparse_gradients))
    return [run_check(name, builder, check) for name, check in checks if name not in builder.target.skipped]


def run_check(name: str, builder: OptimizerBuilder, check: Check) -> CheckResult:
    """Return the result of a check; an exception is a failure."""
    try:
        problem = check(builder)
    except Exception as error:  # libraries raise errors of any type
        return CheckResult(name=name, verdict="fails", description=describe_error(error))
    return CheckResult(name=name, verdict="ok" if problem is None else "differs", description=problem or "works")


def save_run(builder: OptimizerBuilder) -> bytes:
    """Return a run that stopped half way: its weights, its optimizer's state, and the weights of one that did not."""
    whole, half = _make_weights(1), _make_weights(1)
    whole_optimizer, half_optimizer = builder.build(whole), builder.build(half)
    for step in range(_STEPS):
        _take_step(whole_optimizer, whole, step)
        _take_step(half_optimizer, half, step)
    for step in range(_STEPS, 2 * _STEPS):
        _take_step(whole_optimizer, whole, step)
    file = io.BytesIO()
    torch.save({"weights": half[0].detach(), "state": half_optimizer.state_dict(), "end": whole[0].detach()}, file)
    return file.getvalue()


def compare_resumed(builder: OptimizerBuilder, run: bytes) -> str | None:
    """Continue a saved run, and return how it differs from one that did not stop; None if it does not.

    Args:
        run: From `save_run`, here or in another process.
    """
    saved = torch.load(io.BytesIO(run), weights_only=False)
    weights = [torch.nn.Parameter(saved["weights"])]
    optimizer = builder.build(weights)
    optimizer.load_state_dict(saved["state"])
    for step in range(_STEPS, 2 * _STEPS):
        _take_step(optimizer, weights, step)
    distance = float((saved["end"] - weights[0].detach()).norm() / saved["end"].norm())
    if distance <= 1e-6:
        return None
    return f"goes on otherwise than if it had not stopped, by {distance:.1e} of the weights"


def _make_weights(count: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(24, 32, generator=generator)) for _ in range(count)]


def _take_step(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for weight in weights:
        weight.grad = 0.1 * weight.detach() + 0.05 * torch.randn(weight.shape, generator=generator)
    optimizer.step()


def _check_groups(builder: OptimizerBuilder) -> str | None:
    """Check that each parameter group has its own learning rate."""
    weights = _make_weights(2)
    weights[1].data = weights[0].data.clone()
    start = weights[0].detach().clone()
    optimizer = builder.build([{"params": [weights[0]]}, {"params": [weights[1]], "lr": builder.lr / 10}])
    for _ in range(2):  # some move only from the second step on
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    ways = [float((weight.detach() - start).norm()) for weight in weights]
    if not ways[0] or ways[1] > 0.9 * ways[0]:
        return "takes the first group's learning rate for all"
    return None


def _check_missing_gradient(builder: OptimizerBuilder) -> str | None:
    """Check that a weight without a gradient stays."""
    weights = _make_weights(2)
    optimizer = builder.build(weights)
    before = weights[1].detach().clone()
    weights[0].grad = torch.ones_like(weights[0])
    optimizer.step()
    return None if torch.equal(weights[1].detach(), before) else "moves a weight that has no gradient"


def _check_zero_grad(builder: OptimizerBuilder) -> str | None:
    """Check that zero_grad removes gradients."""
    weights = _make_weights(1)
    optimizer = builder.build(weights)
    _take_step(optimizer, weights, 0)
    optimizer.zero_grad(set_to_none=True)
    return None if weights[0].grad is None else "keeps the gradients"


def _check_nan_gradient(builder: OptimizerBuilder) -> str | None:
    """Check that a weight stays finite if another's gradient is NaN."""
    weights = _make_weights(2)
    optimizer = builder.build(weights)
    _take_step(optimizer, weights, 0)
    weights[0].grad = torch.full_like(weights[0], float("nan"))
    weights[1].grad = torch.ones_like(weights[1])
    optimizer.step()
    is_finite = bool(torch.isfinite(weights[1]).all())
    return None if is_finite else "spreads to the weights whose gradient is sound"


def _check_sparse_gradients(builder: OptimizerBuilder) -> str | None:
    """Check that sparse gradients give the steps of dense ones."""
    dense, table = _make_weights(1)[0], torch.nn.Embedding(24, 32, sparse=True)
    table.weight.data = dense.data.clone()
    decay = {"weight_decay": 0.0} if "weight_decay" in builder.target.hyperparameters else {}
    optimizers = builder.build([dense], **decay), builder.build(table.parameters(), **decay)
    rows = torch.tensor([1, 5, 5])
    for step in range(3):
        table.weight.grad = None
        (table(rows) * (1 + step)).sum().backward()
        dense.grad = table.weight.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
    distance = float((dense - table.weight).detach().norm() / dense.detach().norm())
    return f"steps otherwise than with dense ones, by {distance:.1e} of the weights" if distance > 1e-5 else None
