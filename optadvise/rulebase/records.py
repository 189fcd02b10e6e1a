"""Immutable records of the rule files: facts and options, sources, GPUs, defaults, fixes and the flowchart.

The records declare the keys of these files. Tables are in `table_records`; the cards of optimizers, schedules,
frameworks, surfaces and claims are in `core`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta, Struct
from msgspec import field as struct_field

from optadvise.core.cards import SHIPPED, FactValue, Gpu, NoCard, Range, Source
from optadvise.core.yaml_types import (
    Amount,
    Cites,
    FactId,
    Internal,
    Plain,
    SourceId,
    SourceKey,
)

ANY_NUMBER = Range(low=None, low_closed=False, high=None, high_closed=False)
Condition: TypeAlias = Sequence[str | Range]  # accepted items: values of a choice, ranges of a number, `unknown`
When = Annotated[
    Mapping[str, tuple[str | Range, ...]],
    Meta(extra={"reader": "when"}, extra_json_schema={"$ref": "#/$defs/when"}),
]
# Facts with single values, for tests and answers of the flowchart; None is unknown.
GivenFacts = Annotated[
    Mapping[str, FactValue], Meta(extra={"reader": "given"}, extra_json_schema={"$ref": "#/$defs/given"})
]


class RuleRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Record that is read from a rule file; its plain data omits keys with default values."""


OptionGroup: TypeAlias = Literal["The run", "Hardware", "Model", "Memory"]  # headings in the order of the help
OPTION_GROUPS: tuple[OptionGroup, ...] = get_args(OptionGroup)


RunCommand: TypeAlias = Literal["recommend", "estimate"]


class RunOption(RuleRecord, frozen=True, kw_only=True):
    """Option of `recommend` and `estimate`, and keyword argument of the library."""

    flag: str | None = None  # None for derived values, which have no option
    help: str = ""
    group: OptionGroup = "The run"
    min_value: int | None = None
    max_value: int | None = None
    binary: bool = False  # K is 1024 after a power of two
    commands: tuple[RunCommand, ...] = get_args(RunCommand)

    @property
    def name(self) -> str:
        """Return the name as a keyword argument."""
        return (self.flag or "").removeprefix("--").replace("-", "_")


class Fact(RunOption, frozen=True, kw_only=True):
    """Fact of a situation: an input, or a value derived from other facts."""

    id: str
    type: Literal["choice", "number", "bytes", "flag"]
    ask: str  # question of the interview
    label: str = ""  # name in the output of a fact without an option
    values: Mapping[str, str] | None = None  # choices with their descriptions
    values_from: Literal["optimizers"] | None = None
    also: Mapping[str, tuple[str, ...]] = {}  # value -> accepted aliases
    names: Literal["words"] | None = None  # kind of the names that are accepted besides the values
    otherwise: str = "unknown"  # in help texts: value if no default applies
    unknown: bool = False  # whether the value can be unknown
    derived: str | None = None  # function or table that derives the value
    with_: Mapping[str, Plain] = struct_field(name="with", default_factory=dict)
    change: Literal["free", "cheap", "costly", "fixed"] = "fixed"  # effort for the user to change the value
    suggest_for: Mapping[FactId, tuple[str, ...]] = {}  # fact -> values for which answers suggest another value
    suggest_less: bool = True  # answers suggest smaller values too
    suggest_within: float | None = None  # largest factor between the value and the values that answers suggest
    at: Internal = ""

    @property
    def title(self) -> str:
        """Return the name in the output: the option, or the label of a derived fact."""
        return self.flag or self.label or self.id

    @property
    def is_input(self) -> bool:
        """Return whether the user can state the fact, by its option or by the name of a GPU."""
        return self.flag is not None or self.derived == "gpu"


class RunInput(RunOption, frozen=True, kw_only=True):
    """Input that no rule reads: a name that stands for several facts, or a dimension of the model."""

    id: str
    type: Literal["text", "number", "file"]
    names: Literal["optimizers", "schedules", "gpus", "shapes"] | None = None  # kind of the accepted names
    defaults: Mapping[str, str] = {}  # default in the help of each command, where they differ
    at: Internal = ""


class FactFile(RuleRecord, frozen=True, kw_only=True):
    """`facts.yaml`."""

    facts: Annotated[tuple[Fact, ...], Meta(min_length=1)]
    inputs: tuple[RunInput, ...] = ()


class SourceFile(RuleRecord, frozen=True, kw_only=True):
    """`sources.yaml`."""

    sources: Mapping[SourceKey, Source]


class GpuFile(RuleRecord, frozen=True, kw_only=True):
    """`gpus.yaml`."""

    gpus: Annotated[tuple[Gpu, ...], Meta(min_length=1)]


class NoCardFile(RuleRecord, frozen=True, kw_only=True):
    """`no_card.yaml`."""

    no_card: Annotated[tuple[NoCard, ...], Meta(min_length=1)]


class WordGroup(RuleRecord, frozen=True, kw_only=True):
    """Names of networks or methods, and the facts that they state."""

    words: Annotated[tuple[str, ...], Meta(min_length=1)]
    facts: GivenFacts = {}
    usual: GivenFacts = {}  # facts that yield to other options
    at: Internal = ""


class NetworkSizes(RuleRecord, frozen=True, kw_only=True):
    """Parameters of networks whose dimensions are not known."""

    url: Annotated[str, Meta(pattern=r"^(https://\S+)$", description="an address that begins with https://")]
    params: Annotated[Mapping[str, Amount], Meta(min_length=1)]  # by name
    at: Internal = ""


class WordFile(RuleRecord, frozen=True, kw_only=True):
    """`words.yaml`."""

    words: tuple[WordGroup, ...] = ()
    sizes: tuple[NetworkSizes, ...] = ()


class Words(RuleRecord, frozen=True, kw_only=True):
    """Words of all layers."""

    groups: tuple[WordGroup, ...] = ()
    numbers: Mapping[str, int] = {}  # number of the group by normalized spelling
    params: Mapping[str, int] = {}  # parameters by normalized spelling

    def find(self, spelling: str) -> WordGroup | None:
        """Return the group of a word by its normalized spelling; None for an unknown word."""
        number = self.numbers.get(spelling)
        return None if number is None else self.groups[number]


class Assumption(RuleRecord, frozen=True, kw_only=True):
    """Default value of a fact; the first that applies is used."""

    fact: FactId
    value: Plain
    because: str
    when: When = {}
    at: Internal = ""
    layer: Internal = SHIPPED


class Contradiction(RuleRecord, frozen=True, kw_only=True):
    """Combination of inputs that is rejected."""

    when: When
    problem: str
    remedy: str
    at: Internal = ""


class Unsuggested(RuleRecord, frozen=True, kw_only=True):
    """Combination of inputs that is accepted, but that no answer suggests."""

    when: When
    because: str
    at: Internal = ""


class AssumptionFile(RuleRecord, frozen=True, kw_only=True):
    """`assume.yaml`."""

    assume: Annotated[tuple[Assumption, ...], Meta(min_length=1)] = ()
    contradictions: tuple[Contradiction, ...] = ()
    unsuggested: tuple[Unsuggested, ...] = ()


class FixRule(RuleRecord, frozen=True, kw_only=True):
    """Change of inputs that can reduce the required memory."""

    id: str
    name: str
    when: When
    change: Mapping[str, Plain]  # new values of facts; `less` for a smaller micro-batch, `more` for more GPUs
    chosen: bool = False  # whether `recommend` makes the change by itself: how to run, not what to train
    memory: str | None = None  # memory pressure of a run that requires the change; None: AdamW still fits
    free: bool = False  # whether it costs nothing, so that it is chosen unless a run certainly fits
    effort: Annotated[int, Meta(gt=0)]
    effort_by: Mapping[str, Annotated[int, Meta(ge=0)]] = {}  # by `priority`, instead of `effort`; 0: always
    costs: str
    cite: Cites
    at: Internal = ""


class FixFile(RuleRecord, frozen=True, kw_only=True):
    """`fixes.yaml`."""

    fixes: Annotated[tuple[FixRule, ...], Meta(min_length=1)]


class FlowchartAnswer(RuleRecord, frozen=True, kw_only=True):
    """Answer in the flowchart: leads to another question or to recommended optimizers."""

    label: str
    given: GivenFacts
    next: str | None = None  # id of the next question
    recommends: Annotated[tuple[str, ...], Meta(min_length=1)] = ()
    at: Internal = ""


class FlowchartQuestion(RuleRecord, frozen=True, kw_only=True):
    """Question of the flowchart."""

    ask: str
    answers: Annotated[tuple[FlowchartAnswer, ...], Meta(min_length=1)]


class Flowchart(RuleRecord, frozen=True, kw_only=True):
    """Flowchart of the guide."""

    cite: SourceId
    order: Annotated[tuple[FactId, ...], Meta(min_length=1)]
    start: str
    questions: Mapping[str, FlowchartQuestion]
    at: Internal = ""


class FlowchartFile(RuleRecord, frozen=True, kw_only=True):
    """`flowchart.yaml`."""

    flowchart: Flowchart
