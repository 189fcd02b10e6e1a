"""Read every rule file into its records, then check what the files say about each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import yaml
from msgspec import UNSET
from msgspec.structs import replace

from optadvise.core.cards import SHIPPED, UNKNOWN, FactValue, Gpu, Optimizer, Scheduler, Source, Step
from optadvise.core.errors import InputError, RuleFileError, shorten_location, suggest_name
from optadvise.core.records import Situation
from optadvise.core.text import normalize_spelling
from optadvise.core.units import parse_bytes, parse_count
from optadvise.core.yaml_reader import Context, parse, resolve_references
from optadvise.core.yaml_records import decode_text, read_record
from optadvise.rulebase import conditions, table_files
from optadvise.rulebase.layers import Draft, apply_policy, merge_table
from optadvise.rulebase.memory_rules import MemoryFile
from optadvise.rulebase.records import (
    Assumption,
    AssumptionFile,
    Fact,
    FactFile,
    FixFile,
    FixRule,
    FlowchartFile,
    GpuFile,
    RunInput,
    SourceFile,
)
from optadvise.rulebase.rule_base import RuleBase
from optadvise.rulebase.rule_paths import Contents
from optadvise.rulebase.table_records import Policy, PolicyFile, Rule, TableFile

_T = TypeVar("_T")
assert conditions  # registers the readers of conditions
_MOST_ROWS = 2000  # of a table; the proofs look at pairs of rows
_ADJUSTABLE = ("lr", "weight_decay", "warmup_fraction", "max_grad_norm", "eps")
_RUN_FACTS = ("number", "bytes")  # types of facts that a number may follow


class _Reading:
    """Records of all files read so far."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = layers
        self.owners: dict[tuple[str, str], int] = {}  # which layer a thing is from
        self.policies: list[tuple[int, str, Policy]] = []
        self.draft = Draft()

    def add(self, kind: str, target: dict[str, _T], key: str, value: _T, index: int, where: str) -> None:
        """Add a thing by its id; a later layer replaces what an earlier one has."""
        if self.owners.setdefault((kind, key), index) == index and key in target:
            first = getattr(target[key], "at", "") or "an earlier file"
            raise RuleFileError(
                f"{kind} {key!r} is defined twice, first at {shorten_location(first)}; rename or remove one", where
            )
        self.owners[kind, key] = index
        target[key] = value


_FileReader: TypeAlias = Callable[[yaml.Node, Context, _Reading, int, Path], None]


def read_rule_base(contents: Contents, layers: Sequence[str] = (SHIPPED,)) -> RuleBase:
    """Return what every file says.

    Raises:
        RuleFileError: A file is invalid, or two disagree.
    """
    reading = _Reading(layers)
    draft = reading.draft
    contexts: list[Context] = []
    order = list(_READERS)
    for index, file, content in sorted(contents, key=lambda item: (order.index(_kind(item[1])), item[0], item[1])):
        node, context = parse(decode_text(content, str(file)), str(file))
        context.facts = draft.facts
        contexts.append(context)
        _READERS[_kind(file)](node, context, reading, index, file)
    _check_references(contexts, draft)
    apply_policy(draft, reading.policies)
    _check_names(draft)
    return draft.finish()


def _kind(file: Path) -> str:
    return file.parent.name if file.parent.name in ("optimizers", "schedulers", "decide") else file.stem


def _read_facts(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    if index:
        raise RuleFileError("the facts belong to the program; a layer cannot add any", str(file))
    read = read_record(FactFile, node, context)
    for fact in read.facts:
        if fact.type == "flag":
            fact = replace(fact, values={"true": "yes", "false": "no"})
        if fact.type == "choice" and fact.values is None and fact.values_from is None:
            raise RuleFileError(f"choice {fact.id!r} has no `values`", fact.at)
        _check_option(fact)
        if fact.is_input and fact.id not in Situation.__struct_fields__:
            raise RuleFileError(f"fact {fact.id!r} has no field in `Situation` of optadvise/core/records.py", fact.at)
        reading.add("fact", reading.draft.facts, fact.id, fact, index, fact.at)
    for entry in read.inputs:
        _check_option(entry)
        reading.add("input", reading.draft.inputs, entry.id, entry, index, entry.at)


def _check_option(option: Fact | RunInput) -> None:
    """Reject an option that is not spelled as one, or that the help cannot describe."""
    if option.flag is None:
        return
    if not re.fullmatch(r"--[a-z]+(-[a-z]+)*", option.flag):
        raise RuleFileError(f"flag {option.flag!r} must be spelled like --batch-size", option.at)
    if not option.help:
        raise RuleFileError(f"{option.id!r} has a `flag` and needs a line of `help`", option.at)


def _read_sources(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    for key, source in read_record(SourceFile, node, context).sources.items():
        named: Source = replace(source, id=key)
        reading.add("source", reading.draft.sources, key, named, index, context.where(node))


def _read_gpus(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    gpus: tuple[Gpu, ...] = read_record(GpuFile, node, context).gpus
    replaced = {gpu.id for gpu in gpus}
    reading.draft.gpus = [*(gpu for gpu in reading.draft.gpus if gpu.id not in replaced), *gpus]


def _read_optimizer(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    card = replace(read_record(Optimizer, node, context), layer=reading.layers[index])
    _check_file_name(card.id, file, node, context)
    draft = reading.draft
    reading.add("optimizer", draft.optimizers, card.id, card, index, card.at)
    _check_optimizer(card)
    for name, fact in draft.facts.items():
        if fact.values_from == "optimizers":
            draft.facts[name] = replace(fact, values=dict.fromkeys(draft.optimizers, ""))


def _read_scheduler(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    card = replace(read_record(Scheduler, node, context), layer=reading.layers[index])
    _check_file_name(card.id, file, node, context)
    reading.add("scheduler", reading.draft.schedulers, card.id, card, index, card.at)


def _check_file_name(name: str, file: Path, node: yaml.Node, context: Context) -> None:
    if name != file.stem:
        context.fail(node, f"the id {name!r} and the file name differ; call the file {name}.yaml")


def _check_optimizer(card: Optimizer) -> None:
    names = [hyperparameter.name for hyperparameter in card.hyperparameters]
    if "lr" not in names:
        raise RuleFileError(f"optimizer {card.id!r} has no hyperparameter `lr`", card.at)
    for step in card.adjust:
        _check_step(step, names)
    for hyperparameter in card.hyperparameters:
        low, high, default = hyperparameter.low, hyperparameter.high, hyperparameter.default
        has_range = isinstance(default, (int, float)) and low is not None and high is not None
        if has_range and not low <= default <= high:
            raise RuleFileError(f"default of {hyperparameter.name!r} is outside {low:g} … {high:g}", card.at)


def _check_step(step: Step, names: Iterable[str]) -> None:
    if (step.scale is None) == (step.clamp is None):
        raise RuleFileError("a step has either `scale: PARAMETER` or `clamp: PARAMETER`", step.at)
    if step.parameter not in names:
        raise RuleFileError(f"a step names {step.parameter!r}; {suggest_name(step.parameter, names)}", step.at)
    if step.scale is not None and (step.factor is None) == (step.by is None):
        raise RuleFileError("a scale step has either `factor`, or `by`, `reference` and `exponent`", step.at)


def _read_table(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    draft, layer = reading.draft, reading.layers[index]
    existing = draft.tables.get(table_files.peek(node, "table"))
    table = table_files.read_table(node, context, existing, layer)
    for rule in table.all_rules:
        _check_rule(rule, table, draft)
    draft.tables[table.table] = table if existing is None else merge_table(existing, table, layer)
    if len(draft.tables[table.table].rules) > _MOST_ROWS:
        raise RuleFileError(f"table {table.table!r} has more than {_MOST_ROWS} rows; split it", str(file))


def _check_rule(rule: Rule, table: TableFile, draft: Draft) -> None:
    if table.kind != "warn" and not rule.because:
        raise RuleFileError(f"rule {rule.id!r} has no `because`", rule.at)
    if table.kind == "derive":
        fact = draft.facts.get(table.output or "")
        values = (fact.values or {}) if fact else {}
        derived = rule.derived.get(table.output or "")
        if derived not in values:
            raise RuleFileError(f"`then` gives {derived!r}; {suggest_name(str(derived), values)}", rule.at)
    elif table.kind == "choose":
        _check_choice(rule, str(table.output), draft)
    elif table.kind == "set":
        _check_number(rule, draft)
    elif table.kind == "adjust":
        for step in rule.steps:
            _check_step(step, _ADJUSTABLE)


def _check_number(rule: Rule, draft: Draft) -> None:
    """Check that a value is a number, or that points lie along a number that is known where the rule applies."""
    then, at = rule.number, rule.at
    if (then.value is not UNSET) == bool(then.points) or bool(then.points) != (then.along is not None):
        raise RuleFileError("`then` has either a `value`, or `along` and `points`", at)
    parts = then.value if isinstance(then.value, list) else [then.value]
    if any(isinstance(part, (str, bool, list)) for part in parts):
        raise RuleFileError(f"`value` {then.value!r} is no number and no list of numbers", at)
    if then.along is None:
        return
    fact = draft.facts.get(then.along)
    unknown = (UNKNOWN,) if fact is not None and fact.unknown else ()
    condition = rule.when.get(then.along, unknown)
    if fact is None or fact.type not in _RUN_FACTS or fact.flag is None or UNKNOWN in condition:
        raise RuleFileError(f"`along` {then.along!r} is no number that is known wherever this row applies", at)
    if any(len(pair) != 2 or min(pair) <= 0 for pair in then.points) or then.spread <= 0:
        raise RuleFileError("`points` are pairs of numbers above zero, and `spread` is one", at)


def _check_choice(rule: Rule, output: str, draft: Draft) -> None:
    by_kind: dict[str, Mapping[str, object]] = {"optimizer": draft.optimizers, "scheduler": draft.schedulers}
    ids = by_kind.get(output)
    if ids is None:
        raise RuleFileError(f"a table that chooses `output: optimizer` or `scheduler`, not {output!r}", rule.at)
    chosen = rule.choice.optimizer if output == "optimizer" else rule.choice.scheduler
    for name in (chosen, *rule.choice.alternatives):
        if name not in ids:
            raise RuleFileError(f"unknown {output} {name!r}; {suggest_name(str(name), ids)}", rule.at)


def _check_references(contexts: Iterable[Context], draft: Draft) -> None:
    ids: dict[str, Iterable[str]] = {
        "source": draft.sources, "optimizer": draft.optimizers, "scheduler": draft.schedulers, "fact": draft.facts,
        "rule": [rule.id for table in draft.tables.values() for rule in table.rules],
        "model": draft.facts["model"].values or {},
    }  # fmt: skip
    resolve_references(contexts, ids)


def _check_names(draft: Draft) -> None:
    positions: dict[str, str] = {}
    for table in draft.tables.values():
        for rule in table.all_rules:
            if rule.id in positions:
                raise RuleFileError(
                    f"rule id {rule.id!r} is used twice, first at {shorten_location(positions[rule.id])}", rule.at
                )
            positions[rule.id] = rule.at
    for cards in (draft.optimizers, draft.schedulers):
        meanings: dict[str, str] = {}
        for card in cards.values():
            for name in {normalize_spelling(name) for name in (card.id, card.name, *card.aliases)}:
                if name in meanings:
                    raise RuleFileError(f"the name {name!r} means {meanings[name]!r} already", card.at)
                meanings[name] = card.id


def _read_fixes(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    draft = reading.draft
    for fix in read_record(FixFile, node, context).fixes:
        _check_fix(fix, draft.facts)
        draft.fixes = [*(other for other in draft.fixes if other.id != fix.id), fix]


def _check_fix(fix: FixRule, facts: Mapping[str, Fact]) -> None:
    for name, value in fix.change.items():
        if name not in facts:
            raise RuleFileError(f"`change` sets {name!r}, which is no fact; {suggest_name(name, facts)}", fix.at)
        accepted = [accepted.lower() for accepted in facts[name].values or ()]
        if accepted and str(value).lower() not in accepted:
            raise RuleFileError(f"`change` gives {value!r}; {suggest_name(str(value), accepted)}", fix.at)


def _read_memory(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    reading.draft.memory = read_record(MemoryFile, node, context).memory


def _read_assumptions(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    draft = reading.draft
    read = read_record(AssumptionFile, node, context)
    assumptions = [
        replace(row, layer=reading.layers[index], value=_assumed_value(row, draft.facts)) for row in read.assume
    ]
    draft.assume = [*assumptions, *draft.assume]  # the first that applies counts
    draft.contradictions += read.contradictions


def _assumed_value(row: Assumption, facts: Mapping[str, Fact]) -> FactValue:
    """Return an assumed value as its fact's type has it."""
    fact, value = facts.get(row.fact), row.value
    if fact is None:
        raise RuleFileError(f"unknown fact {row.fact!r}; {suggest_name(row.fact, facts)}", row.at)
    if not fact.is_input:
        raise RuleFileError(f"nobody says {fact.id!r}, so nothing can be assumed of it", row.at)
    if isinstance(value, list) or value is None:
        raise RuleFileError(f"one value of {fact.id!r} is assumed, not {value!r}", row.at)
    if fact.values is not None:
        word = str(value).lower() if isinstance(value, bool) else value
        if word not in fact.values:
            hint = suggest_name(str(value), fact.values)
            raise RuleFileError(f"{value!r} is no value of {fact.id!r}; {hint}", row.at)
        return word == "true" if fact.type == "flag" else word
    try:
        read = parse_bytes if fact.type == "bytes" else parse_count
        return read(str(value), f"`{fact.id}:`")
    except InputError as error:
        raise RuleFileError(str(error), row.at) from error


def _read_flowchart(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    chart = read_record(FlowchartFile, node, context).flowchart
    for answer in (answer for question in chart.questions.values() for answer in question.answers):
        if (answer.next is not None) == bool(answer.recommends):
            raise RuleFileError("an answer has either `next`, a question, or `recommends`", answer.at)
        if answer.next is not None and answer.next not in chart.questions:
            raise RuleFileError(f"no question {answer.next!r}; {suggest_name(answer.next, chart.questions)}", answer.at)
    if chart.start not in chart.questions:
        raise RuleFileError(f"no question {chart.start!r}; {suggest_name(chart.start, chart.questions)}", chart.at)
    reading.draft.flowchart = chart


def _read_policy(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    reading.policies.append((index, reading.layers[index], read_record(PolicyFile, node, context).policy))


_READERS: dict[str, _FileReader] = {  # in the order in which files refer to each other
    "facts": _read_facts,
    "sources": _read_sources,
    "gpus": _read_gpus,
    "memory": _read_memory,
    "optimizers": _read_optimizer,
    "schedulers": _read_scheduler,
    "assume": _read_assumptions,
    "fixes": _read_fixes,
    "decide": _read_table,
    "adjust": _read_table,
    "warn": _read_table,
    "flowchart": _read_flowchart,
    "policy": _read_policy,
}
