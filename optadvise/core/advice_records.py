"""Immutable records of a recommendation: the optimizer with its numbers, and the reasons.

Sizes are in bytes and durations in optimizer steps. `None` means unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

from optadvise.core.cards import SHIPPED, FactValue, Implementation, Optimizer, Phase, Value
from optadvise.core.findings import Evidence
from optadvise.core.records import Bytes, MaxModelSize, MemoryEstimate, Situation


class HyperparameterStep(Struct, frozen=True):
    """Step in the derivation of a hyperparameter's value."""

    step: str  # operation, such as `set 3e-4` or `× 0.2`
    value: Value  # value after the step
    rule: str
    because: str
    cite: tuple[str, ...]
    layer: str = SHIPPED
    refuted: str | None = None  # claim behind the reason, if it was refuted on this machine


class AdvisedHyperparameter(Struct, frozen=True):
    """Value of a hyperparameter with its typical range and derivation."""

    name: str
    value: Value
    low: float | None
    high: float | None
    derivation: tuple[HyperparameterStep, ...] = field(name="ledger")
    published: float | None = None  # usual in publications, where it differs from what was measured best


class Alternative(Struct, frozen=True):
    """Alternative optimizer with its reason and the size of its state."""

    id: str
    because: str
    optimizer_bytes: Bytes | None
    state_bytes_per_parameter: float
    fits: bool | None


class AdviceWarning(Struct, frozen=True):
    """Warning or note about a run."""

    id: str
    level: Literal["info", "warning"]
    text: str
    cite: tuple[str, ...]
    layer: str = SHIPPED


class Support(Struct, frozen=True):
    """Published runs for which a rule decides."""

    runs: int
    agree: int  # runs with the optimizer of the rule, or with one that has the same update


class TraceEntry(Struct, frozen=True):
    """Rule that decided in a table."""

    table: str
    rule: str
    because: str
    cite: tuple[str, ...]
    layer: str = SHIPPED  # rule layer of the rule
    refuted: str | None = None  # claim behind the reason, if it was refuted on this machine
    support: Support | None = None  # of a rule that chooses the optimizer


class PolicyAnswer(Struct, frozen=True):
    """Optimizer by another policy, where it differs."""

    policy: str
    optimizer: str
    because: str
    cite: tuple[str, ...]
    fits: bool | None = None  # whether the run can be made to fit with it; None without a size and a limit


class Sensitivity(Struct, frozen=True):
    """Smallest change of one input that changes the recommended optimizer."""

    change: Mapping[str, str]  # condition on the new value, by fact: `>= 1.14B`, `zero1, zero2`
    optimizer: str
    values: Mapping[str, tuple[str, ...]]  # option values that meet the condition: its ends, or all choices


class PublishedRun(Struct, frozen=True):
    """Published training run of the same kind."""

    name: str
    optimizer: str
    lr: float | None
    weight_decay: float | None
    schedule: str | None
    batch_size: int | None
    cite: str  # address of the source
    differs: str  # how it differs from the run; empty if its known sizes are similar
    params: int | None
    year: int | None
    source: str


class ScheduleAdvice(Struct, frozen=True):
    """Schedule with the values for a run."""

    id: str
    path: str
    kwargs: Mapping[str, Value]
    phases: tuple[Phase, ...]  # with the values for the run
    quantities: Mapping[str, Value]
    alternatives: Mapping[str, str]


class CompanionAdvice(Struct, frozen=True):
    """Companion optimizer with the arguments of its constructor."""

    implementation: Implementation
    kwargs: Mapping[str, Value]


class RunChoice(Struct, frozen=True):
    """Choice of how to run a training, made so that it fits, with its cost."""

    rule: str
    change: Mapping[str, FactValue]
    saves: int = field(name="saves_bytes")  # additional memory of one GPU without this choice
    costs: str
    cite: tuple[str, ...]


class Recommendation(Struct, frozen=True):
    """Recommendation of an optimizer and a schedule for a run."""

    situation: Situation
    optimizer: Optimizer
    implementation: Implementation
    kwargs: Mapping[str, Value]
    companion: CompanionAdvice | None  # for tensors that the optimizer does not support
    hyperparameters: tuple[AdvisedHyperparameter, ...]
    schedule: ScheduleAdvice
    memory: MemoryEstimate
    choices: tuple[RunChoice, ...]  # of `situation`, with reasons
    max_model_sizes: tuple[MaxModelSize, ...]
    alternatives: tuple[Alternative, ...]
    warnings: tuple[AdviceWarning, ...]
    trace: tuple[TraceEntry, ...]
    sensitivities: tuple[Sensitivity, ...]
    published: tuple[PublishedRun, ...]  # the nearest first
    policies: tuple[PolicyAnswer, ...]  # other policies that choose another optimizer
    fingerprint: str
    layers: tuple[str, ...]
    evidence: Evidence = Evidence()  # empty until `evidence.apply` adds the findings of this machine

    @property
    def fused(self) -> Mapping[str, Value]:
        """Return the arguments of the fused variant; empty if it does not support the run's gradients or sharding."""
        return self._list_fused(self.implementation)

    @property
    def fused_companion(self) -> Mapping[str, Value]:
        """Return the arguments of the companion's fused variant; empty without one, or as for `fused`."""
        return {} if self.companion is None else self._list_fused(self.companion.implementation)

    def _list_fused(self, implementation: Implementation) -> Mapping[str, Value]:
        sharding_kwargs = implementation.sharding_kwargs.get(self.situation.sharding or "", {})
        is_unsupported = self.situation.sparse_gradients or not sharding_kwargs.keys().isdisjoint(implementation.fused)
        return {} if is_unsupported else implementation.fused
