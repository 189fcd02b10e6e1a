"""Immutable records of the rule files: facts, tables and their rules, defaults, fixes, memory settings, flowchart.

They are the only declaration of what the files may hold. The cards of optimizers, schedules, GPUs, frameworks, surfaces
and claims are in `core.records`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins
from msgspec import field as struct_field

from optadvise.core.cards import SHIPPED, FactValue, Gpu, Range, Source, Step, Value
from optadvise.core.json_text import JsonObject
from optadvise.core.yaml_types import (
    Cites,
    FactId,
    Internal,
    OptimizerId,
    Pair,
    Plain,
    RuleId,
    SchedulerId,
    SourceId,
    Word,
)

ANY_NUMBER = Range(None, False, None, False)
Condition: TypeAlias = Sequence[str | Range]  # what is accepted: values of a choice, ranges of a number, `unknown`
When = Annotated[
    Mapping[str, tuple[str | Range, ...]],
    Meta(extra={"reader": "when"}, extra_json_schema={"$ref": "#/$defs/when"}),
]
# Facts with one value each, as examples and answers of the flowchart give them; None is unknown.
GivenFacts = Annotated[
    Mapping[str, FactValue], Meta(extra={"reader": "given"}, extra_json_schema={"$ref": "#/$defs/given"})
]


class RuleRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record that is read from a rule file; as plain data it has the keys that the file gives."""


OptionGroup: TypeAlias = Literal["The run", "Hardware", "The network", "Memory"]  # headings, in the help's order
OPTION_GROUPS: tuple[OptionGroup, ...] = get_args(OptionGroup)


class RunOption(RuleRecord, frozen=True, kw_only=True):
    """An option of `recommend` and `estimate`, and a keyword argument of the library."""

    flag: str | None = None  # None: no option, the value is derived
    help: str = ""
    group: OptionGroup = "The run"
    max_value: int | None = None  # of a number
    commands: tuple[Literal["recommend", "estimate"], ...] = ("recommend", "estimate")

    @property
    def name(self) -> str:
        """The name as a keyword argument."""
        return (self.flag or "").removeprefix("--").replace("-", "_")


class Fact(RunOption, frozen=True, kw_only=True):
    """What a situation is made of: a question to the user, or a value derived from other facts."""

    id: str
    type: Literal["choice", "number", "bytes", "flag"]
    ask: str  # the question, as a person is asked
    values: Mapping[str, str] | None = None  # of a choice, with their meanings
    values_from: Literal["optimizers"] | None = None
    also: Mapping[str, tuple[str, ...]] = {}  # value -> what people type instead, for the hint
    unknown: bool = False  # may stay unknown
    derived: str | None = None  # by which function or table
    with_: Mapping[str, Plain] = struct_field(name="with", default_factory=dict)
    change: Literal["free", "cheap", "costly", "fixed"] = "fixed"  # what it costs the user to change
    at: Internal = ""

    @property
    def is_input(self) -> bool:
        """Return whether the user states the fact, by its own option or by the name of a GPU."""
        return self.flag is not None or self.derived == "gpu"


class RunInput(RunOption, frozen=True, kw_only=True):
    """An input that no rule reads: a name that stands for facts, or a part of the network's shape."""

    id: str
    type: Literal["text", "number", "file"]
    names: Literal["optimizers", "gpus", "shapes"] | None = None  # whose names it takes, in any spelling
    at: Internal = ""


class FactFile(RuleRecord, frozen=True, kw_only=True):
    """`facts.yaml`."""

    facts: Annotated[tuple[Fact, ...], Meta(min_length=1)]
    inputs: tuple[RunInput, ...] = ()


class SourceFile(RuleRecord, frozen=True, kw_only=True):
    """`sources.yaml`."""

    sources: Mapping[str, Source]


class GpuFile(RuleRecord, frozen=True, kw_only=True):
    """`gpus.yaml`."""

    gpus: Annotated[tuple[Gpu, ...], Meta(min_length=1)]


class Assumption(RuleRecord, frozen=True, kw_only=True):
    """The value that a fact has where the user did not specify it; the first that applies counts."""

    fact: FactId
    value: Plain
    because: str
    when: When = {}
    at: Internal = ""
    layer: Internal = SHIPPED


class Contradiction(RuleRecord, frozen=True, kw_only=True):
    """Facts that exclude each other."""

    when: When
    problem: str
    remedy: str
    at: Internal = ""


class AssumptionFile(RuleRecord, frozen=True, kw_only=True):
    """`assume.yaml`."""

    assume: Annotated[tuple[Assumption, ...], Meta(min_length=1)] = ()
    contradictions: tuple[Contradiction, ...] = ()


# -- tables ------------------------------------------------------------------------------------------------------------


class Derivation(RuleRecord, frozen=True, kw_only=True, tag="derive"):
    """A rule's outcome in a table that derives a fact."""

    values: Mapping[str, str]


class Choice(RuleRecord, frozen=True, kw_only=True, tag="choose"):
    """A rule's outcome in a table that chooses an optimizer or a schedule."""

    optimizer: OptimizerId | None = None
    scheduler: SchedulerId | None = None
    alternatives: Mapping[str, str] = {}

    @property
    def chosen(self) -> str:
        """The id of what is chosen."""
        chosen = self.optimizer or self.scheduler
        assert chosen is not None, "validated"
        return chosen


class NumberSetting(RuleRecord, frozen=True, kw_only=True, tag="set"):
    """A rule's outcome in a table that sets a hyperparameter: a value, or points along a fact (log-log)."""

    value: Plain | UnsetType = UNSET
    along: FactId | None = None
    points: Annotated[tuple[Pair, ...], Meta(min_length=2)] = ()
    spread: float = 1.0  # the typical range is value / spread to value × spread
    low: float | None = None
    high: float | None = None


class Adjustment(RuleRecord, frozen=True, kw_only=True, tag="adjust"):
    """A rule's outcome in a table that adjusts hyperparameters."""

    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]


class WarningText(RuleRecord, frozen=True, kw_only=True, tag="warn"):
    """A rule's outcome in a table of warnings."""

    level: Literal["info", "warning"]
    text: str


class Notation(RuleRecord, frozen=True, kw_only=True, tag="note"):
    """A rule's outcome in a table that only repeats figures of a source."""

    values: Mapping[str, Plain]


Outcome: TypeAlias = Derivation | Choice | NumberSetting | Adjustment | WarningText | Notation
OUTCOMES: Mapping[str, type[Outcome]] = {
    "derive": Derivation, "choose": Choice, "set": NumberSetting, "adjust": Adjustment, "warn": WarningText,
    "note": Notation,
}  # fmt: skip
FREE_KEYS = ("derive", "note")  # kinds whose `then` is a mapping of free keys


class Example(RuleRecord, frozen=True, kw_only=True):
    """A test beside a rule: at these facts the rule decides, with these values."""

    given: GivenFacts
    expect: Mapping[str, Plain]
    at: Internal = ""


OutcomeEntry = Annotated[Outcome, Meta(extra={"reader": "outcome"})]  # read as the table's kind has it


class RuleEntry(RuleRecord, frozen=True, kw_only=True):
    """One row of a table, as its file has it."""

    id: Word
    name: str
    when: When
    then: OutcomeEntry
    because: str = ""  # a warning's text speaks for itself
    cite: Cites
    tests: Annotated[tuple[Example, ...], Meta(min_length=1)]
    overrides: tuple[RuleId, ...] = ()
    before: str | None = None  # the row of an ordered table that a layer's row precedes
    at: Internal = ""


class OtherwiseEntry(RuleRecord, frozen=True, kw_only=True):
    """The row that decides where no other applies, as its file has it."""

    id: Word
    then: OutcomeEntry
    because: str
    cite: Cites
    tests: Annotated[tuple[Example, ...], Meta(min_length=1)]
    at: Internal = ""


class TableEntry(RuleRecord, frozen=True, kw_only=True):
    """A table's file; a layer leaves out what an earlier one has said."""

    table: str
    rules: Annotated[tuple[RuleEntry, ...], Meta(min_length=1)]
    kind: str | None = None
    hit_policy: Literal["unique", "first", "collect"] | None = None
    about: str | None = None
    output: str | None = None
    otherwise: OtherwiseEntry | None = None
    at: Internal = ""


class Rule(RuleRecord, frozen=True, kw_only=True):
    """One row of a table."""

    id: str
    table: str
    name: str = "otherwise"
    when: Mapping[str, tuple[str | Range, ...]] = {}
    then: Outcome
    because: str
    cite: tuple[str, ...]
    tests: tuple[Example, ...] = ()
    overrides: tuple[str, ...] = ()
    before: str | None = None  # the row of an ordered table that a layer's row precedes
    at: str
    layer: str = SHIPPED

    @property
    def derived(self) -> Mapping[str, str]:
        """The derived facts' values by their names; for tables of kind `derive`."""
        assert isinstance(self.then, Derivation)
        return self.then.values

    @property
    def choice(self) -> Choice:
        """What is chosen; for tables of kind `choose`."""
        assert isinstance(self.then, Choice)
        return self.then

    @property
    def number(self) -> NumberSetting:
        """How a hyperparameter is set; for tables of kind `set`."""
        assert isinstance(self.then, NumberSetting)
        return self.then

    @property
    def steps(self) -> tuple[Step, ...]:
        """The adjustments; for tables of kind `adjust`."""
        assert isinstance(self.then, Adjustment)
        return self.then.steps

    @property
    def warning(self) -> WarningText:
        """The warning; for tables of kind `warn`."""
        assert isinstance(self.then, WarningText)
        return self.then

    @property
    def notation(self) -> Mapping[str, Value]:
        """The repeated figures; for tables of kind `note`."""
        assert isinstance(self.then, Notation)
        return self.then.values

    @property
    def outcome(self) -> JsonObject:
        """The outcome as plain data with the keys of the rule file, for what prints any kind of rule."""
        data: JsonObject = to_builtins(self.then)
        data.pop("type")
        return dict(data["values"]) if isinstance(self.then, (Derivation, Notation)) else data


class TableFile(RuleRecord, frozen=True, kw_only=True):
    """A decision table, from the files of all layers."""

    table: str
    kind: Literal["derive", "choose", "set", "adjust", "warn", "note"]
    hit_policy: Literal["unique", "first", "collect"]
    about: str
    rules: tuple[Rule, ...]
    output: str | None = None  # the fact or hyperparameter that the rows give
    otherwise: Rule | None = None
    at: str = ""

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rows, and the row that decides where none applies."""
        return (*self.rules, *(() if self.otherwise is None else (self.otherwise,)))


# -- fixes, flowchart, policy ------------------------------------------------------------------------------------------


class FixRule(RuleRecord, frozen=True, kw_only=True):
    """A change that may make a run fit."""

    id: str
    name: str
    when: When
    change: Mapping[str, Plain]  # of facts; `less` and `more` stand for smaller micro-batches and more GPUs
    effort: int
    costs: str
    cite: Cites
    at: Internal = ""


class FixFile(RuleRecord, frozen=True, kw_only=True):
    """`fixes.yaml`."""

    fixes: Annotated[tuple[FixRule, ...], Meta(min_length=1)]


class FlowchartAnswer(RuleRecord, frozen=True, kw_only=True):
    """An answer to a question of the flowchart: it leads on, or names optimizers."""

    label: str
    given: GivenFacts
    next: str | None = None  # id of the next question
    recommends: Annotated[tuple[str, ...], Meta(min_length=1)] = ()
    at: Internal = ""


class FlowchartQuestion(RuleRecord, frozen=True, kw_only=True):
    """A question of the flowchart."""

    ask: str
    answers: Annotated[tuple[FlowchartAnswer, ...], Meta(min_length=1)]


class Flowchart(RuleRecord, frozen=True, kw_only=True):
    """The guide's flowchart."""

    cite: SourceId
    order: Annotated[tuple[FactId, ...], Meta(min_length=1)]
    start: str
    questions: Mapping[str, FlowchartQuestion]
    at: Internal = ""


class FlowchartFile(RuleRecord, frozen=True, kw_only=True):
    """`flowchart.yaml`."""

    flowchart: Flowchart


class Disabling(RuleRecord, frozen=True, kw_only=True):
    """A rule or an optimizer that a layer rules out."""

    because: str
    rule: str | None = None
    optimizer: str | None = None
    at: Internal = ""
    layer: Internal = SHIPPED


class Amendment(RuleRecord, frozen=True, kw_only=True):
    """A change of a rule's conditions by a layer."""

    rule: str
    when: When
    because: str
    tests: Annotated[tuple[Example, ...], Meta(min_length=1)]
    cite: Cites | None = None
    at: Internal = ""


class Policy(RuleRecord, frozen=True, kw_only=True):
    """What a layer amends and rules out."""

    disable: Annotated[tuple[Disabling, ...], Meta(min_length=1)] = ()
    amend: Annotated[tuple[Amendment, ...], Meta(min_length=1)] = ()


class PolicyFile(RuleRecord, frozen=True, kw_only=True):
    """`policy.yaml`."""

    policy: Policy
