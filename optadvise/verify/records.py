"""Records of audits and experiments: messages between client and worker, and the result of `verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from optadvise.benchmark.records import Machine
from optadvise.benchmark.spec import Arm
from optadvise.core.cards import Implementation, Value
from optadvise.core.findings import AuditVerdict, ClaimOutcome, ExperimentSetting
from optadvise.core.surface_cards import Surface

# Names of two checks that other modules refer to.
RESUMED, RESUMED_ELSEWHERE = "saving and loading", "saving and loading in another process"


class AuditTarget(Struct, frozen=True, kw_only=True):
    """Implementation to audit, with the declarations of its card."""

    optimizer: str  # id of the card
    implementation: Implementation
    hyperparameters: Mapping[str, Value]  # defaults of the card, by the names of the card
    decay: str  # weight decay: decoupled, coupled or none
    ancestors: tuple[str, ...]  # ids of the optimizers that it derives from, the closest first
    takes_sparse_gradients: bool = False
    bits: Mapping[str, int] = {}  # bits of the narrowest state, by scenario; 32 if absent
    rounding_share: float = 0.0  # additional deviation due to its arithmetic
    skipped: tuple[str, ...] = ()  # scenarios and checks without a unique correct result


# -- requests ---------------------------------------------------------------------------------------------------------


class AuditRequest(Struct, frozen=True, kw_only=True, tag_field="request", tag="audit"):
    """Request to audit an implementation, or to resume a run that another worker saved."""

    target: AuditTarget
    is_user_class: bool  # named by --import, and imported with the current folder on `sys.path`
    saved_run: str | None = None  # base64, from `AuditAnswer`


class DevicesRequest(Struct, frozen=True, tag_field="request", tag="devices"):
    """Request to list the devices that experiments can run on."""


class ArmAtRate(Struct, frozen=True):
    """Arm with one learning rate."""

    rate: float
    arm: Arm


class Side(Struct, frozen=True):
    """Optimizer on one side of a comparison."""

    arm: Arm
    arms_by_rate: tuple[ArmAtRate, ...] = ()  # the same arm at each tested learning rate
    warmup: int = 0  # warmup steps


class ExperimentRequest(Struct, frozen=True, kw_only=True, tag_field="request", tag="experiment"):
    """Request to run an experiment with one seed."""

    experiment: str
    setting: ExperimentSetting
    device: str  # cpu or cuda
    sides: tuple[Side, ...]
    surface: Surface | None  # test function, if the experiment uses one
    seed: int = 0


Request: TypeAlias = AuditRequest | DevicesRequest | ExperimentRequest

# -- answers ----------------------------------------------------------------------------------------------------------


class ScenarioResult(Struct, frozen=True, kw_only=True):
    """Deviation of an implementation from the reference in one scenario."""

    name: str = field(name="scene")
    description: str = field(name="words")
    deviation: float | None = field(name="share")  # largest, relative to the reference's update; None on an error
    step: int | None  # step with the largest deviation
    allowed: float  # tolerance
    bits: int  # bits of the narrowest state
    error: str | None

    @property
    def deviates(self) -> bool:
        """Return whether the deviation exceeds the tolerance."""
        return self.deviation is not None and self.deviation > self.allowed


class CheckResult(Struct, frozen=True):
    """Result of one API check."""

    name: str
    verdict: Literal["ok", "differs", "fails"]
    description: str = field(name="words")


class AuditAnswer(Struct, frozen=True, kw_only=True, tag_field="answer", tag="audit"):
    """Measurements of an audit."""

    scenarios: tuple[ScenarioResult, ...]
    checks: tuple[CheckResult, ...]
    known_deviation: str | None  # explains all scenarios that deviate
    rejected: tuple[str, ...]  # hyperparameters that the constructor does not accept
    saved_run: str | None  # base64, to resume in another worker; None if resuming failed in this one


class ResumeAnswer(Struct, frozen=True, tag_field="answer", tag="resume"):
    """Result of resuming a saved run."""

    check: CheckResult


class MissingAnswer(Struct, frozen=True, tag_field="answer", tag="missing"):
    """Reason why an implementation cannot be audited."""

    reason: str


class DevicesAnswer(Struct, frozen=True, tag_field="answer", tag="devices"):
    """Devices that experiments can run on."""

    devices: tuple[str, ...]


class FigureAnswer(Struct, frozen=True, tag_field="answer", tag="figure"):
    """Result of an experiment, without a unit."""

    value: float


class UndecidedAnswer(Struct, frozen=True, tag_field="answer", tag="undecided"):
    """Reason why an experiment has no result."""

    reason: str


Answer: TypeAlias = AuditAnswer | ResumeAnswer | MissingAnswer | DevicesAnswer | FigureAnswer | UndecidedAnswer

# -- result -----------------------------------------------------------------------------------------------------------


class AuditResult(Struct, frozen=True, kw_only=True):
    """Verdict on one implementation."""

    optimizer: str
    implementation: str
    path: str = field(name="import")
    package: str | None
    offered: Annotated[bool, Meta(description="Whether the card offers it to users.")]
    note: Annotated[str | None, Meta(description="The card's note about its deviation.")] = field(name="said")
    verdict: AuditVerdict
    why: str | None
    expected: Annotated[bool, Meta(description="Whether it conforms, or the card declares the deviation.")]
    worst: Annotated[
        float | None,
        Meta(description="Largest deviation in fp32, relative to the reference's update."),
    ]
    scenarios: tuple[ScenarioResult, ...] = field(name="scenes")
    checks: tuple[CheckResult, ...]
    known_deviation: Annotated[
        str | None, Meta(description="Known deviation that explains all scenarios that deviate.")
    ] = field(name="suspect")


class VerifyEnvironment(Machine, frozen=True, kw_only=True):
    """Machine and package versions."""

    packages: dict[str, str | None]  # versions; None for a package that is not installed


class VerifyResult(Struct, frozen=True, kw_only=True):
    """Schema version 1. Keys may be added, never renamed."""

    schema_version: Literal[1]
    kind: Literal["verify"]
    optadvise: Annotated[str, Meta(description="Version.")]
    date: Annotated[str, Meta(description="ISO date, such as 2026-11-26.")]
    environment: VerifyEnvironment
    audits: tuple[AuditResult, ...]
    claims: tuple[ClaimOutcome, ...]
