"""Audit of one implementation: comparison with the reference, and API checks. Imports torch."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from optadvise.core.cards import Value
from optadvise.verify import usage
from optadvise.verify.builder import OptimizerBuilder, describe_error, silence_libraries
from optadvise.verify.known_deviations import find_match, list_known_deviations
from optadvise.verify.records import RESUMED, RESUMED_ELSEWHERE, AuditAnswer, AuditTarget, CheckResult, ScenarioResult
from optadvise.verify.reference import METHODS, run_method
from optadvise.verify.reference_types import Method
from optadvise.verify.scenarios import COMPARED_STEPS, SCENARIOS, Scenario

_SAME_METHOD = 1e-4  # tolerance in fp32; measured deviations of correct implementations: at most 3e-5 beside rounding
_KNOWN_DEVIATION = 2e-3  # tolerance when matching a known deviation, which may differ in details
_BY_NAME: Mapping[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}

WeightPath = list[Tensor]  # weights after each step, in float64


# -- a scenario step by step -------------------------------------------------------------------------------------------


def make_start(scenario: Scenario) -> Tensor:
    """Return the weights before the first step, in fp32."""
    weights = scenario.spread * torch.randn(scenario.shape, generator=torch.Generator().manual_seed(0))
    return weights.to(getattr(torch, scenario.dtype)).float()


def compute_gradient(scenario: Scenario, theta: Tensor, step: int) -> Tensor:
    """Return the gradient of a noisy quadratic, with a spike at step 4 that triggers update clipping.

    Args:
        theta: Weights in float64.
        step: Step, from 1.
    """
    spike = 4.0 if step == 4 else 1.0
    if scenario.has_even_gradients:
        return torch.full_like(theta, 0.1 * spike * (1 + 0.1 * step))
    fixed, fresh = (torch.Generator().manual_seed(seed) for seed in (1, 1000 + step))
    target = 0.1 * torch.randn(scenario.shape, generator=fixed, dtype=torch.float64)
    curvature = 0.5 + 1.5 * torch.rand(scenario.shape, generator=fixed, dtype=torch.float64)
    noise = 0.05 * torch.randn(scenario.shape, generator=fresh, dtype=torch.float64)
    gradient = spike * (curvature * (theta - target) + noise)
    return gradient.to(getattr(torch, scenario.dtype)).double()  # rounded to the dtype of the implementation's input


def choose_lr(scenario: Scenario, lr: float, step: int) -> float:
    """Return the learning rate at a step, from 1."""
    return lr / 2 if scenario.halves_lr and step >= 6 else lr


def measure_deviation(path: Sequence[Tensor], reference: Sequence[Tensor], start: Tensor, step: int) -> float:
    """Return the deviation of a path after a step: ‖θ − θ_ref‖ / ‖θ_ref − θ_0‖.

    Args:
        path: Weights after each step.
        reference: Weights of the reference after each step.
        start: Weights before the first step.
        step: Step, from 1.
    """
    update = float((reference[step - 1] - start).norm())
    distance = float((path[step - 1] - reference[step - 1]).norm())
    if not math.isfinite(distance):
        return math.inf
    return distance / update if update else (0.0 if distance == 0 else math.inf)


def estimate_rounding(scenario: Scenario, reference: Sequence[Tensor], start: Tensor, step: int) -> float:
    """Return the deviation that rounding of weights may cause: 4 × the sum of independent rounding errors."""
    unit = 2.0**-24 if scenario.dtype == "float32" else 2.0**-9
    update = float((reference[step - 1] - start).norm()) or 1.0
    length = max(float(start.norm()), float(reference[step - 1].norm()))
    return min(0.05, 4 * unit * math.sqrt(step) * length / update)


# -- the audit ---------------------------------------------------------------------------------------------------------


class Auditor:
    """Comparison of an implementation with its reference."""

    def __init__(self, target: AuditTarget, optimizer_class: type[torch.optim.Optimizer]) -> None:
        """Create the builder of the implementation."""
        self.builder = OptimizerBuilder(target, optimizer_class)
        self._target = target

    def list_scenarios(self) -> list[Scenario]:
        """Return the scenarios that apply to the implementation."""
        target = self._target
        has_decay = "weight_decay" in target.hyperparameters
        is_quantized = min(target.bits.values(), default=32) < 16  # equal values are exact only with block scales
        return [
            scenario
            for scenario in SCENARIOS
            if not (target.implementation.tensors is not None and len(scenario.shape) != 2)
            and scenario.name not in target.skipped
            and (scenario.weight_decay == 0 or has_decay)
            and (not scenario.has_even_gradients or is_quantized)
        ]

    def measure_scenario(self, scenario: Scenario) -> tuple[ScenarioResult, WeightPath | None]:
        """Return the deviation from the reference, and the path of the implementation; None on an error."""
        bits = 32 if scenario.has_even_gradients else self._target.bits.get(scenario.name, 32)
        make_result = partial(ScenarioResult, name=scenario.name, description=scenario.description, bits=bits)
        start = make_start(scenario).double()
        reference = self._run_method(scenario, METHODS[self._target.optimizer])
        try:
            path = self._run_implementation(scenario)
        except Exception as error:  # libraries raise errors of any type
            return make_result(deviation=None, step=None, allowed=0.0, error=describe_error(error)), None
        largest, largest_step, largest_limit = 0.0, COMPARED_STEPS[0], 0.0
        for step in COMPARED_STEPS:
            rounding = estimate_rounding(scenario, reference, start, step)
            limit = _allowed_deviation(bits, scenario) + self._target.rounding_share + rounding
            deviation = measure_deviation(path, reference, start, step)
            if step == COMPARED_STEPS[0] or deviation / limit > largest / largest_limit:
                largest, largest_step, largest_limit = deviation, step, limit
        return make_result(deviation=largest, step=largest_step, allowed=largest_limit, error=None), path

    def explain(self, paths: Mapping[str, WeightPath]) -> str | None:
        """Return the known deviation that explains the deviating paths, None if none does.

        Args:
            paths: Deviating paths by scenario. A quantized implementation may deviate only where state is quantized.
        """
        explanation = self._find_known_deviation(paths)
        quantized = {name: path for name, path in paths.items() if self._target.bits.get(name, 32) < 32}
        if explanation is not None or not quantized or len(quantized) == len(paths):
            return explanation
        explanation = self._find_known_deviation(quantized)
        return None if explanation is None else f"{explanation} where its state is quantized"

    def _find_known_deviation(self, paths: Mapping[str, WeightPath]) -> str | None:
        target = self._target
        candidates = list_known_deviations(target.optimizer, target.decay, target.ancestors)

        def matches(name: str, method: Method) -> bool:
            return self._is_close(_BY_NAME[name], paths[name], self._run_method(_BY_NAME[name], method))

        return find_match(list(paths), candidates, matches)

    def _is_close(self, scenario: Scenario, path: WeightPath, other: WeightPath) -> bool:
        start = make_start(scenario).double()
        allowed = max(_KNOWN_DEVIATION, _allowed_deviation(self._target.bits.get(scenario.name, 32), scenario))
        limit = allowed + estimate_rounding(scenario, other, start, COMPARED_STEPS[-1])
        # Rounding errors of diverging steps are unbounded, so compare only bounded ones.
        bound = 100 * (1 + float(start.norm()))
        bounded = [step for step in COMPARED_STEPS if float(other[step - 1].norm()) < bound]
        return all(measure_deviation(path, other, start, step) <= limit for step in bounded or COMPARED_STEPS[:1])

    def _hyperparameters(self, scenario: Scenario) -> dict[str, Value]:
        """Return the hyperparameters in a scenario, by the names of the card."""
        values = self._target.hyperparameters
        decay = {"weight_decay": scenario.weight_decay} if "weight_decay" in values else {}
        return {**values, **decay}

    def _run_implementation(self, scenario: Scenario) -> WeightPath:
        weights = torch.nn.Parameter(make_start(scenario).to(getattr(torch, scenario.dtype)))
        optimizer = self.builder.build([weights], **self._hyperparameters(scenario))
        path = []
        for step in range(1, COMPARED_STEPS[-1] + 1):
            self.builder.set_gradient(weights, compute_gradient(scenario, weights.detach().double(), step).to(weights))
            if scenario.halves_lr:
                for group in optimizer.param_groups:
                    group["lr"] = choose_lr(scenario, self.builder.lr, step)
            optimizer.step()
            path.append(weights.detach().double().clone())
        return path

    def _run_method(self, scenario: Scenario, method: Method) -> WeightPath:
        lr = self.builder.lr
        return run_method(
            method,
            make_start(scenario),
            lambda theta, step: compute_gradient(scenario, theta, step),
            COMPARED_STEPS[-1],
            self._hyperparameters(scenario),
            (lambda step: choose_lr(scenario, lr, step)) if scenario.halves_lr else None,
        )


def _allowed_deviation(bits: int, scenario: Scenario) -> float:
    """Return the tolerance, given the bits of the state and the dtype of the weights.

    Measured deviations of correct implementations: at most 3e-5 at 32 bits, 3.4e-3 with bf16 state, 3.2e-2 at 8 bits
    and 0.38 at 4 bits; with bf16 weights the moments are bf16 too, and deviations reach 0.15.
    """
    by_state = {32: _SAME_METHOD, 16: 1e-2, 8: 5e-2, 4: 0.45}.get(bits, _SAME_METHOD)
    return max(by_state, 0.25) if scenario.dtype != "float32" else by_state


@silence_libraries()
def audit(target: AuditTarget, optimizer_class: type[torch.optim.Optimizer]) -> AuditAnswer:
    """Audit an implementation."""
    auditor = Auditor(target, optimizer_class)
    results: list[ScenarioResult] = []
    deviating: dict[str, WeightPath] = {}
    for scenario in auditor.list_scenarios():
        result, path = auditor.measure_scenario(scenario)
        results.append(result)
        if path is not None and result.deviates and scenario.dtype == "float32":
            deviating[scenario.name] = path
    checks = usage.run_checks(auditor.builder)
    can_resume = any(check.name == RESUMED and check.verdict == "ok" for check in checks)
    return AuditAnswer(
        scenarios=tuple(results),
        checks=tuple(checks),
        known_deviation=auditor.explain(deviating) if deviating else None,
        rejected=tuple(auditor.builder.rejected),
        saved_run=base64.b64encode(usage.save_run(auditor.builder)).decode() if can_resume else None,
    )


@silence_libraries()
def resume(target: AuditTarget, optimizer_class: type[torch.optim.Optimizer], saved_run: str) -> CheckResult:
    """Resume a run that another process saved.

    Args:
        saved_run: `saved_run` of the answer of `audit`.
    """
    run = base64.b64decode(saved_run)
    builder = OptimizerBuilder(target, optimizer_class)
    return usage.run_check(RESUMED_ELSEWHERE, builder, lambda builder: usage.compare_resumed(builder, run))
