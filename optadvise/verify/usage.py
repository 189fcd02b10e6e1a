"""API checks of an implementation: parameter groups, resuming, and missing, NaN and sparse gradients. Imports torch."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch

from optadvise.verify.builder import OptimizerBuilder, describe_error
from optadvise.verify.records import RESUMED, CheckResult

_STEPS = 4  # before a run is saved, and after it is resumed

Check = Callable[[OptimizerBuilder], "str | None"]  # returns the problem; None if the check passes


def run_checks(builder: OptimizerBuilder) -> list[CheckResult]:
    """Run all checks that apply to an implementation."""
    checks: list[tuple[str, Check]] = [
        ("parameter groups", _check_groups), (RESUMED, lambda builder: compare_resumed(builder, save_run(builder))),
        ("a missing gradient", _check_missing_gradient), ("zero_grad", _check_zero_grad),
        ("a NaN gradient", _check_nan_gradient),
    ]  # fmt: skip
    if builder.target.takes_sparse_gradients and builder.target.implementation.gradients is None:
        checks.append(("sparse gradients", _check_sparse_gradients))
    return [run_check(name, builder, check) for name, check in checks if name not in builder.target.skipped]


def run_check(name: str, builder: OptimizerBuilder, check: Check) -> CheckResult:
    """Run a check; an exception is a failure."""
    try:
        problem = check(builder)
    except Exception as error:  # libraries raise errors of any type
        return CheckResult(name=name, verdict="fails", description=describe_error(error))
    return CheckResult(name=name, verdict="ok" if problem is None else "differs", description=problem or "works")


def save_run(builder: OptimizerBuilder) -> bytes:
    """Return a checkpoint of an interrupted run, with the final weights of an uninterrupted run for comparison."""
    full, half = _make_weights(1), _make_weights(1)
    full_optimizer, half_optimizer = builder.build(full), builder.build(half)
    for step in range(_STEPS):
        _take_step(builder, full_optimizer, full, step)
        _take_step(builder, half_optimizer, half, step)
    for step in range(_STEPS, 2 * _STEPS):
        _take_step(builder, full_optimizer, full, step)
    file = io.BytesIO()
    torch.save({"weights": half[0].detach(), "state": half_optimizer.state_dict(), "end": full[0].detach()}, file)
    return file.getvalue()


def compare_resumed(builder: OptimizerBuilder, run: bytes) -> str | None:
    """Resume a saved run, and return its difference from the uninterrupted run; None if they are equal.

    Args:
        run: Output of `save_run` in this or another process.
    """
    saved = torch.load(io.BytesIO(run), weights_only=False)
    weights = [torch.nn.Parameter(saved["weights"])]
    optimizer = builder.build(weights)
    optimizer.load_state_dict(saved["state"])
    for step in range(_STEPS, 2 * _STEPS):
        _take_step(builder, optimizer, weights, step)
    distance = float((saved["end"] - weights[0].detach()).norm() / saved["end"].norm())
    if distance <= 1e-6:
        return None
    return f"a resumed run differs from an uninterrupted run by {distance:.1e} of the weights"


def _make_weights(count: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(24, 32, generator=generator)) for _ in range(count)]


def _take_step(
    builder: OptimizerBuilder, optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], step: int
) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for weight in weights:
        builder.set_gradient(weight, 0.1 * weight.detach() + 0.05 * torch.randn(weight.shape, generator=generator))
    optimizer.step()


def _check_groups(builder: OptimizerBuilder) -> str | None:
    """Check that each parameter group has its own learning rate."""
    weights = _make_weights(2)
    weights[1].data = weights[0].data.clone()
    start = weights[0].detach().clone()
    optimizer = builder.build([{"params": [weights[0]]}, {"params": [weights[1]], "lr": builder.lr / 10}])
    for _ in range(2):  # some optimizers do not change weights in their first step
        for weight in weights:
            builder.set_gradient(weight, torch.ones_like(weight))
        optimizer.step()
    distances = [float((weight.detach() - start).norm()) for weight in weights]
    if not distances[0] or distances[1] > 0.9 * distances[0]:
        return "uses the first group's learning rate for all groups"
    return None


def _check_missing_gradient(builder: OptimizerBuilder) -> str | None:
    """Check that a weight without a gradient does not change."""
    weights = _make_weights(2)
    optimizer = builder.build(weights)
    before = weights[1].detach().clone()
    builder.set_gradient(weights[0], torch.ones_like(weights[0]))
    optimizer.step()
    return None if torch.equal(weights[1].detach(), before) else "changes a weight without a gradient"


def _check_zero_grad(builder: OptimizerBuilder) -> str | None:
    """Check that zero_grad removes gradients."""
    weights = _make_weights(1)
    optimizer = builder.build(weights)
    _take_step(builder, optimizer, weights, 0)
    optimizer.zero_grad(set_to_none=True)
    return None if weights[0].grad is None else "does not remove gradients"


def _check_nan_gradient(builder: OptimizerBuilder) -> str | None:
    """Check that a weight stays finite if the gradient of another weight is NaN."""
    weights = _make_weights(2)
    optimizer = builder.build(weights)
    _take_step(builder, optimizer, weights, 0)
    builder.set_gradient(weights[0], torch.full_like(weights[0], float("nan")))
    builder.set_gradient(weights[1], torch.ones_like(weights[1]))
    optimizer.step()
    is_finite = bool(torch.isfinite(weights[1]).all())
    return None if is_finite else "makes weights with finite gradients NaN"


def _check_sparse_gradients(builder: OptimizerBuilder) -> str | None:
    """Check that sparse gradients give the same steps as dense gradients."""
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
    return f"differs from dense gradients by {distance:.1e} of the weights" if distance > 1e-5 else None
