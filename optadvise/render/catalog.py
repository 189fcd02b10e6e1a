"""JSON records of `list` and `show`: optimizers, schedules, claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

from msgspec import Struct, convert, field
from msgspec.structs import asdict, replace

from optadvise.core.cards import (
    Companion,
    Hyperparameter,
    Implementation,
    Note,
    Optimizer,
    Scheduler,
    StateTensor,
    Value,
)
from optadvise.core.claim_cards import Claim
from optadvise.core.findings import ClaimFinding, Evidence
from optadvise.core.json_text import Document
from optadvise.memory.optimizer_state import compute_state_bytes_per_parameter
from optadvise.render.documents import EvidenceDocument, build_evidence
from optadvise.rulebase.catalog import Catalog

_HUGGING_FACE = "hf"  # framework with its own JSON key
_Schedule = TypeVar("_Schedule", bound="ScheduleEntry")


class OptimizerEntry(Struct, frozen=True, kw_only=True):
    """An optimizer in the list."""

    id: str
    name: str
    family: str
    parents: tuple[str, ...]
    year: int
    summary: str
    effort: str
    model_types: tuple[str, ...] = field(name="suits")
    state_bytes_per_parameter: float  # of a large fp32 matrix


class ImplementationEntry(Implementation, frozen=True, kw_only=True):
    """An implementation of an optimizer; some keys differ from those of rule files, as keys are never renamed."""

    cpu_kwargs: Mapping[str, Value] = field(name="on_cpu")
    sharding_kwargs: Mapping[str, Mapping[str, Value]] = field(name="on_shard")


class OptimizerList(Document, frozen=True, kw_only=True):
    """`optadvise list --json`: optimizers."""

    kind: Literal["list"] = "list"
    optimizers: tuple[OptimizerEntry, ...]


class OptimizerCard(OptimizerEntry, frozen=True, kw_only=True):
    """`optadvise show --json` of an optimizer: its card."""

    schema_version: Literal[1] = 1
    kind: Literal["optimizer"] = "optimizer"
    guide_buffers: float | None  # state per parameter by the guide, in fp32 numbers
    aliases: tuple[str, ...]
    equation: tuple[str, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    state: tuple[StateTensor, ...]
    implementations: tuple[ImplementationEntry, ...]
    not_offered: tuple[ImplementationEntry, ...]
    huggingface: str | None
    frameworks: Mapping[str, str | None]
    companion: Companion | None
    schedules: tuple[str, ...] | None
    use_when: tuple[str, ...]
    avoid_when: tuple[str, ...]
    notes: tuple[Note, ...]
    cite: tuple[str, ...]
    evidence: EvidenceDocument


class ScheduleEntry(Scheduler, frozen=True, kw_only=True):
    """A schedule with its names in frameworks."""

    huggingface: str | None
    frameworks: Mapping[str, str | None]


class ScheduleList(Document, frozen=True, kw_only=True):
    """`optadvise list --schedules --json`: schedules."""

    kind: Literal["list"] = "list"
    schedules: tuple[ScheduleEntry, ...]


class ScheduleCard(ScheduleEntry, frozen=True, kw_only=True):
    """`optadvise show --json` of a schedule: its card."""

    schema_version: Literal[1] = 1
    kind: Literal["schedule"] = "schedule"


class ClaimEntry(Struct, frozen=True, kw_only=True):
    """A claim in the list."""

    id: str
    claim: str
    quote: str | None = field(name="says")
    experiment: str | None
    measures: str | None
    seeds: int
    limits: str | None
    needs: str | None
    cite: tuple[str, ...]
    optimizers: tuple[str, ...]
    supports: tuple[str, ...]


class ClaimList(Document, frozen=True, kw_only=True):
    """`optadvise list --claims --json`: claims."""

    kind: Literal["list"] = "list"
    claims: tuple[ClaimEntry, ...]


class ClaimCard(ClaimEntry, frozen=True, kw_only=True):
    """`optadvise show --json` of a claim."""

    schema_version: Literal[1] = 1
    kind: Literal["claim"] = "claim"
    evidence: EvidenceDocument


def list_optimizers(cards: Iterable[Optimizer]) -> OptimizerList:
    """Return optimizers for the list."""
    return OptimizerList(optimizers=tuple(convert(_list_fields(card), OptimizerEntry) for card in cards))


def build_optimizer(
    card: Optimizer, catalog: Catalog, guide_buffers: float | None, evidence: Evidence
) -> OptimizerCard:
    """Return an optimizer's card.

    Args:
        guide_buffers: State per parameter by the guide, None where the guide gives no figure.
    """
    names = name_in_frameworks(catalog, card)
    return convert(
        {
            **_list_fields(card),
            "guide_buffers": guide_buffers,
            "huggingface": names.get(_HUGGING_FACE),
            "frameworks": names,
            "schedules": card.schedules or None,
            "use_when": tuple(reason.text for reason in card.use_when),
            "avoid_when": tuple(reason.text for reason in card.avoid_when),
            "evidence": build_evidence(None, evidence),
        },
        OptimizerCard,
        from_attributes=True,
    )


def _list_fields(card: Optimizer) -> dict[str, object]:
    """Return a card's fields by their JSON keys, for `convert`."""
    state_bytes = round(compute_state_bytes_per_parameter(card.state), 4)
    return {**asdict(card), "suits": card.model_types, "state_bytes_per_parameter": state_bytes}


def list_schedules(cards: Iterable[Scheduler], catalog: Catalog) -> ScheduleList:
    """Return schedules for the list."""
    return ScheduleList(schedules=tuple(_build_schedule(ScheduleEntry, card, catalog) for card in cards))


def build_schedule(card: Scheduler, catalog: Catalog) -> ScheduleCard:
    """Return a schedule's card."""
    return _build_schedule(ScheduleCard, card, catalog)


def _build_schedule(kind: type[_Schedule], card: Scheduler, catalog: Catalog) -> _Schedule:
    names = name_in_frameworks(catalog, card)
    return kind(**asdict(card), huggingface=names.get(_HUGGING_FACE), frameworks=names)


def list_claims(claims: Iterable[Claim]) -> ClaimList:
    """Return claims for the list."""
    return ClaimList(claims=tuple(convert(claim, ClaimEntry, from_attributes=True) for claim in claims))


def build_claim(claim: Claim, finding: ClaimFinding | None) -> ClaimCard:
    """Return a claim with the result of its experiment on this machine; None without one."""
    evidence = build_evidence(None, Evidence(claims=() if finding is None else (finding,)))
    fields = {**asdict(claim), "says": claim.quote, "optimizers": claim.optimizers, "evidence": evidence}
    return convert(fields, ClaimCard, from_attributes=True)


def name_in_frameworks(catalog: Catalog, card: Optimizer | Scheduler) -> dict[str, str | None]:
    """Return the name of an optimizer or a schedule in each framework; None for a framework without it."""
    names: dict[str, str | None] = {}
    for key, framework in catalog.frameworks.items():
        if isinstance(card, Optimizer) and framework.optimizers:
            named = framework.by_name(card)
            names[key] = None if named is None else named.name
        elif isinstance(card, Scheduler) and framework.schedules:
            names[key] = framework.schedules[card.id].name if card.id in framework.schedules else None
    return names


def drop_refuted_reasons(card: Optimizer, evidence: Evidence) -> Optimizer:
    """Return a card without the reasons whose claims were refuted on this machine."""
    refuted = {claim.id for claim in evidence.refuted}
    return replace(
        card,
        use_when=tuple(reason for reason in card.use_when if reason.claim not in refuted),
        avoid_when=tuple(reason for reason in card.avoid_when if reason.claim not in refuted),
    )
