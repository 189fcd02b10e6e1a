"""JSON records of `recommend` and `estimate`. Keys may be added, never renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, convert, field
from msgspec.structs import asdict, replace

from optadvise.core.advice_records import (
    AdviceWarning,
    AdvisedHyperparameter,
    Alternative,
    PolicyAnswer,
    PublishedRun,
    Recommendation,
    RunChoice,
    ScheduleAdvice,
    Sensitivity,
    TraceEntry,
)
from optadvise.core.cards import Implementation, Phase, Value
from optadvise.core.findings import AuditFinding, BenchmarkFinding, ClaimFinding, DeviationFinding, Evidence
from optadvise.core.json_text import Document
from optadvise.core.records import (
    Bytes,
    Fit,
    Fix,
    MaxModelSize,
    MemoryAnswer,
    MemoryEstimate,
    MemoryLine,
    NetworkShape,
    Positive,
    Scaling,
    Situation,
    Traffic,
)
from optadvise.core.yaml_types import ImportPath
from optadvise.evidence.apply import find_deviation
from optadvise.render.run_plan import describe_settings
from optadvise.rulebase.catalog import Catalog

Chains: TypeAlias = Annotated[
    tuple[Annotated[tuple[Fix, ...], Meta(min_length=1)], ...],
    Meta(description="Chains of changes after which the run is expected to fit, the cheapest first."),
]


class ShapeDocument(NetworkShape, frozen=True):
    """Family and dimensions of a network."""

    dims: Mapping[str, int]  # type: ignore[assignment]


class SituationDocument(Situation, frozen=True, kw_only=True):
    """A training run; `assumed` are the facts that were not stated."""

    shape: ShapeDocument | None = None
    assumed: tuple[str, ...]
    stated: UnsetType = UNSET  # type: ignore[assignment]
    defaults: UnsetType = UNSET  # type: ignore[assignment]
    derived: UnsetType = UNSET  # type: ignore[assignment]
    chosen: UnsetType = UNSET  # type: ignore[assignment]


class RangeDocument(Struct, frozen=True):
    """Ends of an interval in bytes."""

    low: Bytes
    high: Bytes


class MemoryDocument(Struct, frozen=True, kw_only=True):
    """Memory of one GPU. The total is the peak, so it is not the sum of the figures above it."""

    weights: Bytes | None = field(name="weights_bytes")
    gradients: Bytes | None = field(name="gradients_bytes")
    optimizer: Bytes | None = field(name="optimizer_bytes")
    activations: Bytes | None = field(name="activations_bytes")
    overhead: Bytes | None = field(name="overhead_bytes")
    total: Bytes | None = field(name="total_bytes")
    available: Bytes | None = field(name="available_bytes")
    fits: bool | None
    model_states: Bytes | None = field(name="known_bytes")
    allocated: Bytes | None = field(name="allocated_bytes")
    reserved: Bytes | None = field(name="reserved_bytes")
    pageable: Bytes = field(name="pageable_bytes")
    host: Bytes = field(name="host_bytes")
    ranges: Mapping[str, RangeDocument] | None = field(name="interval", default=None)
    source: Literal["derived", "measured"] = field(name="basis", default="derived")
    basis: Literal["exact", "typical", "measured", "card", "none"] = field(name="shape")
    peak: str | None
    breakdown: tuple[MemoryLine, ...] = field(name="ledger")


class RulesDocument(Struct, frozen=True):
    """The rules in use."""

    fingerprint: str
    layers: Annotated[tuple[str, ...], Meta(min_length=1)]


class EstimateDocument(Document, frozen=True, kw_only=True):
    """`optadvise estimate --json`: whether a run fits a GPU."""

    kind: Literal["estimate"] = "estimate"
    situation: SituationDocument
    optimizer: str
    memory: MemoryDocument
    largest_micro_batch: int | None
    longest_seq_len: int | None
    largest_micro_batch_by_gpu: Mapping[str, int]
    communication: Traffic | None
    scaling: Scaling | None
    optimizers: tuple[Fit, ...]
    fixes: Chains
    rules: RulesDocument


class RunDocument(Struct, frozen=True, kw_only=True):
    """Settings of the run; null is unknown, or does not apply to the kind of model."""

    precision: str
    micro_batch: Positive | None
    accumulation: Positive | None
    gpus: Positive
    effective_batch: Positive | None
    tokens_per_step: Positive | None
    checkpointing: str
    loss: str | None
    attention: str | None
    shard: str
    offload: bool
    gradient_release: bool
    variant: Annotated[str | None, Meta(description="Variant of the optimizer's implementation.")]
    chosen: Annotated[tuple[str, ...], Meta(description="Values that were not specified.")]
    choices: Annotated[tuple[RunChoice, ...], Meta(description="Choices without which the run would not fit.")]


class OptimizerDocument(Struct, frozen=True):
    """An optimizer with the arguments of its class."""

    id: str
    name: str
    path: ImportPath = field(name="import")
    package: str | None
    kwargs: Mapping[str, Value]


class CompanionDocument(Struct, frozen=True):
    """Optimizer for the tensors that the recommended optimizer cannot update."""

    path: ImportPath = field(name="import")
    kwargs: Mapping[str, Value]


class ReasonDocument(Struct, frozen=True):
    """Another schedule with a reason to use it."""

    id: str
    because: str


class SchedulerDocument(Struct, frozen=True, kw_only=True):
    """A schedule with the arguments of its class."""

    id: str
    path: str = field(name="import")
    kwargs: Mapping[str, Value]
    phases: Annotated[tuple[Phase, ...], Meta(min_length=1)]
    total_steps: Positive
    warmup_steps: Annotated[int, Meta(ge=0)]
    floor_lr: Annotated[float, Meta(ge=0)]
    milestones: tuple[int, ...] | UnsetType = UNSET
    alternatives: tuple[ReasonDocument, ...]


class EvidenceDocument(Struct, frozen=True):
    """Measurements of the optimizer on this machine."""

    deviates: DeviationFinding | None
    audits: tuple[AuditFinding, ...]
    claims: tuple[ClaimFinding, ...]
    benches: tuple[BenchmarkFinding, ...]


class MissedDocument(Struct, frozen=True):
    """Condition of a rule that does not apply."""

    fact: str
    asks: str
    actual: str = field(name="is")


class MissDocument(Struct, frozen=True):
    """A rule that did not decide: its missed conditions, or the rule that takes precedence."""

    rule: str
    missed: tuple[MissedDocument, ...]
    beaten_by: str | None


class DecisionDocument(Struct, frozen=True):
    """The rule that decided a table, with the rules that came closest."""

    table: str
    rule: str
    near: tuple[MissDocument, ...]


class ChangeDocument(Struct, frozen=True):
    """Options that, changed together, lead to the optimizer."""

    change: Mapping[str, str]  # conditions on the new values, by fact
    values: Mapping[str, tuple[str, ...]]  # option values that meet them: a choice, or the ends of a range
    effort: int


class WhyNotDocument(Struct, frozen=True):
    """Reasons why an optimizer is not recommended."""

    optimizer: str
    answer: str
    refused: str | None
    fits: bool | None
    rows: tuple[MissDocument, ...]
    concerns: Mapping[str, MissDocument]
    beside: str | None
    changes: tuple[ChangeDocument, ...]


class RecommendationDocument(Document, frozen=True, kw_only=True):
    """`optadvise recommend --json`: an optimizer and a schedule, with numbers, reasons and sources."""

    kind: Literal["recommendation"] = "recommendation"
    situation: SituationDocument
    optimizer: OptimizerDocument
    companion: CompanionDocument | None
    scheduler: SchedulerDocument
    hyperparameters: Annotated[tuple[AdvisedHyperparameter, ...], Meta(min_length=1)]
    run: RunDocument
    memory: MemoryDocument
    fixes: Chains
    fixes_optimizer: Annotated[
        str | None, Meta(description="Optimizer of the fixes' figures, unless a fix changes it; null without fixes.")
    ]
    bands: tuple[MaxModelSize, ...]
    alternatives: tuple[Alternative, ...]
    warnings: tuple[AdviceWarning, ...]
    trace: Annotated[tuple[TraceEntry, ...], Meta(min_length=3)]
    flips: tuple[Sensitivity, ...]
    published: tuple[PublishedRun, ...]
    policies: tuple[PolicyAnswer, ...]
    evidence: EvidenceDocument
    rules: RulesDocument
    explain: tuple[DecisionDocument, ...] | UnsetType = UNSET
    why_not: WhyNotDocument | UnsetType = UNSET


def build_recommendation(advice: Recommendation, fit: MemoryAnswer | None = None) -> RecommendationDocument:
    """Return a recommendation's JSON.

    Args:
        fit: Changes after which it fits, where it does not for certain.
    """
    optimizer, implementation = advice.optimizer, advice.implementation
    companion = advice.companion
    fixes = () if fit is None else fit.fixes
    return RecommendationDocument(
        situation=build_situation(advice.situation),
        optimizer=OptimizerDocument(
            id=optimizer.id,
            name=optimizer.name,
            path=implementation.path,
            package=implementation.package,
            kwargs=advice.kwargs,
        ),
        companion=None if companion is None else CompanionDocument(companion.implementation.path, companion.kwargs),
        scheduler=_build_scheduler(advice.schedule),
        hyperparameters=advice.hyperparameters,
        run=_build_run(advice),
        memory=build_memory(advice.memory),
        fixes=fixes,
        fixes_optimizer=fit.optimizer if fit is not None and fixes else None,
        bands=tuple(
            replace(band, bytes_per_parameter=round(band.bytes_per_parameter, 4)) for band in advice.max_model_sizes
        ),
        alternatives=tuple(
            replace(other, state_bytes_per_parameter=round(other.state_bytes_per_parameter, 4))
            for other in advice.alternatives
        ),
        warnings=advice.warnings,
        trace=advice.trace,
        flips=advice.sensitivities,
        published=advice.published,
        policies=advice.policies,
        evidence=build_evidence(implementation, advice.evidence),
        rules=RulesDocument(advice.fingerprint, advice.layers),
    )


def _build_run(advice: Recommendation) -> RunDocument:
    """Return the JSON of how to run the training."""
    values = describe_settings(advice)
    stated = advice.situation.stated
    chosen = tuple(name for name, value in values.items() if value is not None and name not in stated)
    return convert(
        {**values, "gpus": advice.situation.gpus, "chosen": chosen, "choices": advice.choices},
        RunDocument,
        from_attributes=True,
    )


def build_estimate(answer: MemoryAnswer, catalog: Catalog) -> EstimateDocument:
    """Return an estimate's JSON; the catalog has the rules that were used."""
    return EstimateDocument(
        situation=build_situation(answer.situation),
        optimizer=answer.optimizer,
        memory=build_memory(answer.memory),
        largest_micro_batch=answer.largest_micro_batch,
        longest_seq_len=answer.longest_sequence,
        largest_micro_batch_by_gpu=answer.largest_micro_batch_by_gpu,
        communication=answer.traffic,
        scaling=answer.scaling,
        optimizers=answer.optimizers,
        fixes=answer.fixes,
        rules=RulesDocument(catalog.fingerprint, catalog.layers),
    )


def build_situation(situation: Situation) -> SituationDocument:
    """Return a situation's JSON."""
    shape = situation.shape
    if shape is not None:
        shape = ShapeDocument(
            family=shape.family, name=shape.name, basis=shape.basis, dims=dict(shape.dims), flags=shape.flags
        )
    unset = dict.fromkeys(("stated", "defaults", "derived", "chosen"), UNSET)
    return SituationDocument(**{**asdict(situation), **unset, "shape": shape, "assumed": situation.assumed})


def build_memory(memory: MemoryEstimate) -> MemoryDocument:
    """Return the JSON of a memory estimate."""
    ranges = {f"{name}_bytes": RangeDocument(span.low, span.high) for name, span in memory.intervals.items()}
    source: Literal["derived", "measured"] = "measured" if memory.basis == "measured" else "derived"
    return replace(convert(memory, MemoryDocument, from_attributes=True), ranges=ranges or None, source=source)


def build_evidence(implementation: Implementation | None, evidence: Evidence) -> EvidenceDocument:
    """Return the JSON of measurements on this machine.

    Args:
        implementation: Implementation whose deviation is reported; None: no deviation is reported.
    """
    deviates = None if implementation is None else find_deviation(implementation, evidence)
    return EvidenceDocument(
        deviates=deviates, audits=evidence.audits, claims=evidence.claims, benches=evidence.benchmarks
    )


def _build_scheduler(schedule: ScheduleAdvice) -> SchedulerDocument:
    fields = {
        "id": schedule.id,
        "import": schedule.path,
        "kwargs": schedule.kwargs,
        "phases": schedule.phases,
        "alternatives": tuple(ReasonDocument(name, because) for name, because in schedule.alternatives.items()),
    }
    return convert({**fields, **schedule.quantities}, SchedulerDocument)
