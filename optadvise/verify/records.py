"""Records of audits and experiments: the messages between the command and its worker, and the result of `verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from optadvise.benchmark.records import Machine
from optadvise.benchmark.spec import Arm
from optadvise.core.cards import Implementation, Value
from optadvise.core.findings import AuditVerdict, ClaimOutcome, ExperimentSetting
from optadvise.core.surface_cards import Surface

# Names of two checks that other modules look for.
RESUMED, RESUMED_ELSEWHERE = "saving and loading", "saving and loading in another process"


class AuditTarget(Struct, frozen=True, kw_only=True):
    """An implementation to audit, with what its card declares."""

    optimizer: str  # id of the card
    implementation: Implementation
    hyperparameters: Mapping[str, Value]  # the card's defaults by the card's names
    decay: str  # of weights: decoupled, coupled or none
    ancestors: tuple[str, ...]  # ids of the optimizers that it came from, the nearest first
    takes_sparse_gradients: bool = False
    bits: Mapping[str, int] = {}  # of the narrowest state, by scenario where it is not 32
    rounding_share: float = 0.0  # additional deviation that its arithmetic causes
    skipped: tuple[str, ...] = ()  # scenarios and checks with more than one right answer


# -- requests ---------------------------------------------------------------------------------------------------------


class AuditRequest(Struct, frozen=True, kw_only=True, tag_field="request", tag="audit"):
    """Audit an implementation, or continue a run of it that another worker saved."""

    target: AuditTarget
    remedy: str | None  # advice if it cannot be imported; None: install the package
    saved_run: str | None = None  # base64, of `AuditAnswer`


class DevicesRequest(Struct, frozen=True, tag_field="request", tag="devices"):
    """List the devices that experiments can run on."""


class ArmAtRate(Struct, frozen=True):
    """An arm with one learning rate."""

    rate: float
    arm: Arm


class Side(Struct, frozen=True):
    """One side of an experiment."""

    arm: Arm
    arms_by_rate: tuple[ArmAtRate, ...] = ()  # the same arm at each learning rate to try
    warmup: int = 0  # steps


class ExperimentRequest(Struct, frozen=True, kw_only=True, tag_field="request", tag="experiment"):
    """Run an experiment once."""

    experiment: str
    setting: ExperimentSetting
    device: str  # cpu or cuda
    sides: tuple[Side, ...]
    surface: Surface | None  # the one that the setting names
    seed: int = 0


Request: TypeAlias = AuditRequest | DevicesRequest | ExperimentRequest

# -- answers ----------------------------------------------------------------------------------------------------------


class ScenarioResult(Struct, frozen=True, kw_only=True):
    """Deviation of an implementation from its reference in one scenario."""

    name: str = field(name="scene")
    description: str = field(name="words")
    deviation: float | None = field(name="share")  # largest, as a share of the reference's way; None if it raised
    step: int | None  # after which it is largest
    allowed: float  # deviation that is still the same method
    bits: int  # of the narrowest state
    error: str | None

    @property
    def deviates(self) -> bool:
        """Return whether it deviates by more than is allowed."""
        return self.deviation is not None and self.deviation > self.allowed


class CheckResult(Struct, frozen=True):
    """Result of using an implementation in one way, as trainings do."""

    name: str
    verdict: Literal["ok", "differs", "fails"]
    description: str = field(name="words")


class AuditAnswer(Struct, frozen=True, kw_only=True, tag_field="answer", tag="audit"):
    """Everything that an audit measured."""

    scenarios: tuple[ScenarioResult, ...]
    checks: tuple[CheckResult, ...]
    known_deviation: str | None  # that explains every scenario that deviates
    rejected: tuple[str, ...]  # hyperparameters that the constructor does not take
    saved_run: str | None  # base64, for another worker to continue; None if saving fails here already


class ResumeAnswer(Struct, frozen=True, tag_field="answer", tag="resume"):
    """Result of continuing a saved run."""

    check: CheckResult


class MissingAnswer(Struct, frozen=True, tag_field="answer", tag="missing"):
    """An implementation cannot be imported, or its optimizer has no reference."""

    reason: str


class DevicesAnswer(Struct, frozen=True, tag_field="answer", tag="devices"):
    """The devices that experiments can run on."""

    devices: tuple[str, ...]


class FigureAnswer(Struct, frozen=True, tag_field="answer", tag="figure"):
    """The figure of an experiment, without a unit."""

    value: float


class UndecidedAnswer(Struct, frozen=True, tag_field="answer", tag="undecided"):
    """An experiment has no figure."""

    reason: str


Answer: TypeAlias = AuditAnswer | ResumeAnswer | MissingAnswer | DevicesAnswer | FigureAnswer | UndecidedAnswer

# -- result -----------------------------------------------------------------------------------------------------------


class AuditResult(Struct, frozen=True, kw_only=True):
    """Verdict on one implementation."""

    optimizer: str
    implementation: str
    path: str = field(name="import")
    package: str | None
    offered: Annotated[bool, Meta(description="The card offers it; others have the same name and are audited too.")]
    note: Annotated[str | None, Meta(description="What the card says of its deviation.")] = field(name="said")
    verdict: AuditVerdict
    why: str | None
    expected: Annotated[bool, Meta(description="It conforms, or the card declares the deviation.")]
    worst: Annotated[
        float | None,
        Meta(description="Largest deviation from the reference in fp32, as a share of the way that it went."),
    ]
    scenarios: tuple[ScenarioResult, ...] = field(name="scenes")
    checks: tuple[CheckResult, ...]
    known_deviation: Annotated[
        str | None, Meta(description="The known deviation that explains every scenario that deviates.")
    ] = field(name="suspect")


class VerifyEnvironment(Machine, frozen=True, kw_only=True):
    """Machine and software of an audit."""

    packages: dict[str, str | None]  # versions; None for a package that is not installed


class VerifyResult(Struct, frozen=True, kw_only=True):
    """Schema version 1. Keys may be added, never renamed."""

    schema_version: Literal[1]
    kind: Literal["verify"]
    optadvise: Annotated[str, Meta(description="Version.")]
    date: Annotated[str, Meta(description="As in 2026-11-26.")]
    environment: VerifyEnvironment
    audits: tuple[AuditResult, ...]
    claims: tuple[ClaimOutcome, ...]
