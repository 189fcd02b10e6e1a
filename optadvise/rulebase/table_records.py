"""Immutable records of decision tables, and of a layer's changes to rules."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType, to_builtins

from optadvise.core.cards import NOT_EMPTY, SHIPPED, Range, Step, Value
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
    Word,
)
from optadvise.rulebase.records import GivenFacts, RuleRecord, When


class Derivation(RuleRecord, frozen=True, kw_only=True, tag="derive"):
    """Outcome of a rule in a table that derives a fact."""

    values: Mapping[str, str]


class Choice(RuleRecord, frozen=True, kw_only=True, tag="choose"):
    """Outcome of a rule in a table that chooses an optimizer or a schedule."""

    optimizer: OptimizerId | None = None
    scheduler: SchedulerId | None = None
    alternatives: Mapping[str, str] = {}

    @property
    def chosen(self) -> str:
        """Return the id of the chosen optimizer or schedule."""
        chosen = self.optimizer or self.scheduler
        assert chosen is not None, "validated"
        return chosen


class NumberSetting(RuleRecord, frozen=True, kw_only=True, tag="set"):
    """Outcome of a rule in a table that sets a hyperparameter: a value, or a log-log interpolation along a fact."""

    value: Plain | UnsetType = UNSET
    along: FactId | None = None
    points: Annotated[tuple[Pair, ...], Meta(min_length=2)] = ()
    spread: float = 1.0  # the typical range is value / spread to value × spread
    published: Annotated[tuple[Pair, ...], NOT_EMPTY] = ()  # points of what is published, which the range includes
    low: float | None = None
    high: float | None = None


class Adjustment(RuleRecord, frozen=True, kw_only=True, tag="adjust"):
    """Outcome of a rule in a table that adjusts hyperparameters."""

    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]


class WarningText(RuleRecord, frozen=True, kw_only=True, tag="warn"):
    """Outcome of a rule in a table of warnings."""

    level: Literal["info", "warning"]
    text: str


class Notation(RuleRecord, frozen=True, kw_only=True, tag="note"):
    """Outcome of a rule in a table that quotes numbers from a source."""

    values: Mapping[str, Plain]


Outcome: TypeAlias = Derivation | Choice | NumberSetting | Adjustment | WarningText | Notation
OUTCOMES: Mapping[str, type[Outcome]] = {
    "derive": Derivation, "choose": Choice, "set": NumberSetting, "adjust": Adjustment, "warn": WarningText,
    "note": Notation,
}  # fmt: skip
FREE_KEYS = ("derive", "note")  # kinds whose `then` is a mapping with arbitrary keys


class Example(RuleRecord, frozen=True, kw_only=True):
    """Test of a rule: facts, and the expected outcome."""

    given: GivenFacts
    expect: Mapping[str, Plain]
    at: Internal = ""


OutcomeEntry = Annotated[Outcome, Meta(extra={"reader": "outcome"})]  # type depends on the kind of the table


class RuleEntry(RuleRecord, frozen=True, kw_only=True):
    """Rule in a table file."""

    id: Word
    name: str
    when: When
    then: OutcomeEntry
    because: str = ""  # optional for warnings, whose text is the reason
    cite: Cites
    tests: Annotated[tuple[Example, ...], Meta(min_length=1)]
    overrides: tuple[RuleId, ...] = ()
    before: str | None = None  # position in an ordered table, for a rule of a layer
    at: Internal = ""


class OtherwiseEntry(RuleRecord, frozen=True, kw_only=True):
    """Rule that decides if no other rule applies, in a table file."""

    id: Word
    then: OutcomeEntry
    because: str
    cite: Cites
    tests: Annotated[tuple[Example, ...], Meta(min_length=1)]
    at: Internal = ""


class TableEntry(RuleRecord, frozen=True, kw_only=True):
    """Table file; a later file of the same table, or a layer, can omit the keys that are known."""

    table: str
    when: When = {}  # conditions of every rule of this file
    rules: Annotated[tuple[RuleEntry, ...], Meta(min_length=1)]
    kind: str | None = None
    hit_policy: Literal["unique", "first", "collect"] | None = None
    about: str | None = None
    output: str | None = None
    otherwise: OtherwiseEntry | None = None
    at: Internal = ""


class Rule(RuleRecord, frozen=True, kw_only=True):
    """Rule of a table."""

    id: str
    table: str
    name: str = "otherwise"
    when: Mapping[str, tuple[str | Range, ...]] = {}
    then: Outcome
    because: str
    cite: tuple[str, ...]
    tests: tuple[Example, ...] = ()
    overrides: tuple[str, ...] = ()
    before: str | None = None  # position in an ordered table, for a rule of a layer
    at: str
    layer: str = SHIPPED

    @property
    def derived(self) -> Mapping[str, str]:
        """Return the values of derived facts by name; for tables of kind `derive`."""
        assert isinstance(self.then, Derivation)
        return self.then.values

    @property
    def choice(self) -> Choice:
        """Return the choice; for tables of kind `choose`."""
        assert isinstance(self.then, Choice)
        return self.then

    @property
    def number(self) -> NumberSetting:
        """Return the setting of a hyperparameter; for tables of kind `set`."""
        assert isinstance(self.then, NumberSetting)
        return self.then

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the adjustments; for tables of kind `adjust`."""
        assert isinstance(self.then, Adjustment)
        return self.then.steps

    @property
    def warning(self) -> WarningText:
        """Return the warning; for tables of kind `warn`."""
        assert isinstance(self.then, WarningText)
        return self.then

    @property
    def notation(self) -> Mapping[str, Value]:
        """Return the quoted numbers; for tables of kind `note`."""
        assert isinstance(self.then, Notation)
        return self.then.values

    @property
    def outcome(self) -> JsonObject:
        """Return the outcome as plain data with the keys of the rule file."""
        data: JsonObject = to_builtins(self.then)
        data.pop("type")
        return dict(data["values"]) if isinstance(self.then, (Derivation, Notation)) else data


class TableFile(RuleRecord, frozen=True, kw_only=True):
    """Decision table from the files of all layers."""

    table: str
    kind: Literal["derive", "choose", "set", "adjust", "warn", "note"]
    hit_policy: Literal["unique", "first", "collect"]
    about: str
    rules: tuple[Rule, ...]
    output: str | None = None  # fact or hyperparameter that the table sets
    otherwise: Rule | None = None
    when: Mapping[str, tuple[str | Range, ...]] = {}  # conditions of the rules of the first file, also for layers
    at: str = ""

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """Return all rules, including `otherwise`."""
        return (*self.rules, *(() if self.otherwise is None else (self.otherwise,)))


# -- policies of layers -----------------------------------------------------------------------------------------------


class Disabling(RuleRecord, frozen=True, kw_only=True):
    """Rule or optimizer that a layer disables."""

    because: str
    rule: str | None = None
    optimizer: str | None = None
    at: Internal = ""
    layer: Internal = SHIPPED


class Amendment(RuleRecord, frozen=True, kw_only=True):
    """Change of a rule's conditions by a layer."""

    rule: str
    when: When
    because: str
    tests: Annotated[tuple[Example, ...], Meta(min_length=1)]
    cite: Cites | None = None
    at: Internal = ""


class Policy(RuleRecord, frozen=True, kw_only=True):
    """Rules that a layer amends, and rules and optimizers that it disables."""

    disable: Annotated[tuple[Disabling, ...], Meta(min_length=1)] = ()
    amend: Annotated[tuple[Amendment, ...], Meta(min_length=1)] = ()


class PolicyFile(RuleRecord, frozen=True, kw_only=True):
    """`policy.yaml`."""

    policy: Policy
