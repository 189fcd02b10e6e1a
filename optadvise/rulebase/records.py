"""Immutable records of the rule files: facts and options, sources, GPUs, defaults, fixes and the flowchart.

They are the only declaration of what the files may hold. Tables are in `table_records`; the cards of optimizers,
schedules, frameworks, surfaces and claims are in `core.cards` and the modules beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta, Struct
from msgspec import field as struct_field

from optadvise.core.cards import SHIPPED, FactValue, Gpu, Range, Source
from optadvise.core.yaml_types import (
    Cites,
    FactId,
    Internal,
    Plain,
    SourceId,
)

ANY_NUMBER = Range(low=None, low_closed=False, high=None, high_closed=False)
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
    min_value: int | None = None  # of a number
    max_value: int | None = None
    commands: tuple[Literal["recommend", "estimate"], ...] = ("recommend", "estimate")

    @property
    def name(self) -> str:
        """Return the name as a keyword argument."""
        return (self.flag or "").removeprefix("--").replace("-", "_")


class Fact(RunOption, frozen=True, kw_only=True):
    """A part of a situation: a question to the user, or a value derived from other facts."""

    id: str
    type: Literal["choice", "number", "bytes", "flag"]
    ask: str  # the question, as a person is asked
    values: Mapping[str, str] | None = None  # of a choice, with their meanings
    values_from: Literal["optimizers"] | None = None
    also: Mapping[str, tuple[str, ...]] = {}  # value -> other spellings that are accepted for it
    unknown: bool = False  # may stay unknown
    derived: str | None = None  # by which function or table
    with_: Mapping[str, Plain] = struct_field(name="with", default_factory=dict)
    change: Literal["free", "cheap", "costly", "fixed"] = "fixed"  # what it costs the user to change
    suggest_for: tuple[str, ...] | None = None  # models for which answers suggest another value; None: all
    suggest_less: bool = True  # answers suggest smaller values too
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
