"""Reading and validation of the rule files, including references between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import yaml
from msgspec import UNSET
from msgspec.structs import replace

from optadvise.core.cards import SHIPPED, UNKNOWN, FactValue, Gpu, Optimizer, Scheduler, Source, Step
from optadvise.core.error_codes import ErrorCode
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
    NoCardFile,
    RunInput,
    SourceFile,
)
from optadvise.rulebase.rule_base import RuleBase
from optadvise.rulebase.rule_paths import Contents
from optadvise.rulebase.table_records import Policy, PolicyFile, Rule, TableFile

_T = TypeVar("_T")
assert conditions  # registers the readers of conditions
_MAX_RULES = 2000  # per table; the proofs compare all pairs
_ADJUSTABLE = ("lr", "weight_decay", "warmup_fraction", "max_grad_norm", "eps")
_RUN_FACTS = ("number", "bytes")  # types of facts for `along`


class _Reading:
    """State while the rule files are read."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = layers
        self.owners: dict[tuple[str, str], int] = {}  # layer number by kind and id
        self.policies: list[tuple[int, str, Policy]] = []
        self.draft = Draft()

    def add(self, kind: str, target: dict[str, _T], key: str, value: _T, index: int, where: str) -> None:
        """Add an entry by id; an entry of a later layer replaces that of an earlier one."""
        if self.owners.setdefault((kind, key), index) == index and key in target:
            first = getattr(target[key], "at", "") or "an earlier file"
            message = f"{kind} {key!r} is already defined at {shorten_location(first)}; rename or remove one"
            raise RuleFileError(message, where, code=ErrorCode.DUPLICATE_ENTRY)
        self.owners[kind, key] = index
        target[key] = value


_FileReader: TypeAlias = Callable[[yaml.Node, Context, _Reading, int, Path], None]


def read_rule_base(contents: Contents, layers: Sequence[str] = (SHIPPED,)) -> RuleBase:
    """Read all files into a rule base.

    Raises:
        RuleFileError: A file is invalid, or files contradict each other.
    """
    reading = _Reading(layers)
    draft = reading.draft
    contexts: list[Context] = []
    order = list(_READERS)
    for index, file, content in sorted(contents, key=lambda item: (order.index(_kind(item[1])), item[0], item[1].stem)):
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
        raise RuleFileError("a rule layer cannot define facts", str(file), code=ErrorCode.INVALID_ENTRY)
    read = read_record(FactFile, node, context)
    for fact in read.facts:
        if fact.type == "flag":
            fact = replace(fact, values={"true": "yes", "false": "no"})
        if fact.type == "choice" and fact.values is None and fact.values_from is None:
            message = f"fact {fact.id!r} of type choice requires `values`"
            raise RuleFileError(message, fact.at, code=ErrorCode.MISSING_KEY)
        _check_option(fact)
        if fact.is_input and fact.id not in Situation.__struct_fields__:
            message = f"fact {fact.id!r} has no field in `Situation` of optadvise/core/records.py"
            raise RuleFileError(message, fact.at, code=ErrorCode.UNKNOWN_REFERENCE)
        reading.add("fact", reading.draft.facts, fact.id, fact, index, fact.at)
    for entry in read.inputs:
        _check_option(entry)
        reading.add("input", reading.draft.inputs, entry.id, entry, index, entry.at)


def _check_option(option: Fact | RunInput) -> None:
    """Check the spelling of an option and that it has a help text."""
    if option.flag is None:
        return
    if not re.fullmatch(r"--[a-z]+(-[a-z]+)*", option.flag):
        message = f"flag {option.flag!r} is invalid; use the form --batch-size"
        raise RuleFileError(message, option.at, code=ErrorCode.INVALID_ENTRY)
    if not option.help:
        message = f"{option.id!r} has a `flag` and requires `help`"
        raise RuleFileError(message, option.at, code=ErrorCode.MISSING_KEY)


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


def _read_no_card(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    for entry in read_record(NoCardFile, node, context).no_card:
        for name in entry.names:
            reading.add("name", reading.draft.no_card, normalize_spelling(name), entry, index, entry.at)


def _read_scheduler(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    card = replace(read_record(Scheduler, node, context), layer=reading.layers[index])
    _check_file_name(card.id, file, node, context)
    reading.add("scheduler", reading.draft.schedulers, card.id, card, index, card.at)


def _check_file_name(name: str, file: Path, node: yaml.Node, context: Context) -> None:
    if name != file.stem:
        context.fail(node, f"id {name!r} differs from the file name; rename the file to {name}.yaml")


def _check_optimizer(card: Optimizer) -> None:
    names = [hyperparameter.name for hyperparameter in card.hyperparameters]
    if "lr" not in names:
        message = f"optimizer {card.id!r} requires a hyperparameter `lr`"
        raise RuleFileError(message, card.at, code=ErrorCode.MISSING_KEY)
    for implementation in card.implementations:
        for variant in implementation.variant_requirements.keys() - implementation.variants.keys():
            message = f"variant_requirements of {implementation.path}: no variant {variant!r}; add it to `variants`"
            raise RuleFileError(message, card.at, code=ErrorCode.UNKNOWN_REFERENCE)
    for step in card.adjust:
        _check_step(step, names)
    for hyperparameter in card.hyperparameters:
        low, high, published = hyperparameter.low, hyperparameter.high, hyperparameter.published
        if published is not None and hyperparameter.advised:
            message = f"the rules choose {hyperparameter.name!r}; remove `published`, or write `advised: false`"
            raise RuleFileError(message, card.at, code=ErrorCode.INVALID_ENTRY)
        values = {"default": hyperparameter.default, "published value": published and published.value}
        for label, value in values.items():
            has_range = isinstance(value, (int, float)) and low is not None and high is not None
            if has_range and not low <= value <= high:
                message = f"{label} {value:g} of {hyperparameter.name!r} is outside {low:g} to {high:g}"
                raise RuleFileError(message, card.at, code=ErrorCode.INVALID_ENTRY)


def _check_step(step: Step, names: Iterable[str]) -> None:
    if (step.scale is None) == (step.clamp is None):
        message = "a step requires either `scale: HYPERPARAMETER` or `clamp: HYPERPARAMETER`"
        raise RuleFileError(message, step.at, code=ErrorCode.INVALID_ENTRY)
    if step.parameter not in names:
        message = f"unknown hyperparameter {step.parameter!r}; {suggest_name(step.parameter, names)}"
        raise RuleFileError(message, step.at, code=ErrorCode.UNKNOWN_REFERENCE)
    if step.scale is not None and (step.factor is None) == (step.by is None):
        message = "a `scale` step requires either `factor`, or `by`, `reference` and `exponent`"
        raise RuleFileError(message, step.at, code=ErrorCode.INVALID_ENTRY)


def _read_table(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    draft, layer = reading.draft, reading.layers[index]
    existing = draft.tables.get(table_files.peek(node, "table"))
    table = table_files.read_table(node, context, existing, layer)
    for rule in table.all_rules:
        _check_rule(rule, table, draft)
    draft.tables[table.table] = table if existing is None else merge_table(existing, table, layer)
    if len(draft.tables[table.table].rules) > _MAX_RULES:
        message = f"table {table.table!r} has more than {_MAX_RULES} rules; split it"
        raise RuleFileError(message, str(file), code=ErrorCode.INVALID_ENTRY)


def _check_rule(rule: Rule, table: TableFile, draft: Draft) -> None:
    if table.kind != "warn" and not rule.because:
        raise RuleFileError(f"rule {rule.id!r} requires `because`", rule.at, code=ErrorCode.MISSING_KEY)
    if table.kind == "derive":
        fact = draft.facts.get(table.output or "")
        values = (fact.values or {}) if fact else {}
        derived = rule.derived.get(table.output or "")
        if derived not in values:
            message = f"`then: {{{table.output}: {derived}}}` is not supported; {suggest_name(str(derived), values)}"
            raise RuleFileError(message, rule.at, code=ErrorCode.INVALID_ENTRY)
    elif table.kind == "choose":
        _check_choice(rule, str(table.output), draft)
    elif table.kind == "set":
        _check_number(rule, draft)
    elif table.kind == "adjust":
        for step in rule.steps:
            _check_step(step, _ADJUSTABLE)


def _check_number(rule: Rule, draft: Draft) -> None:
    """Check that a value is numeric, or that points are along a numeric fact that is known where the rule applies."""
    then, at = rule.number, rule.at
    if (then.value is not UNSET) == bool(then.points) or bool(then.points) != (then.along is not None):
        message = "`then` requires either `value`, or `along` and `points`"
        raise RuleFileError(message, at, code=ErrorCode.INVALID_ENTRY)
    parts = then.value if isinstance(then.value, list) else [then.value]
    if any(isinstance(part, (str, bool, list)) for part in parts):
        message = f"`value` {then.value!r} must be a number or a list of numbers"
        raise RuleFileError(message, at, code=ErrorCode.INVALID_ENTRY)
    if then.along is None:
        return
    fact = draft.facts.get(then.along)
    unknown = (UNKNOWN,) if fact is not None and fact.unknown else ()
    condition = rule.when.get(then.along, unknown)
    if fact is None or fact.type not in _RUN_FACTS or fact.flag is None or UNKNOWN in condition:
        message = f"`along` {then.along!r} must be a numeric fact that is known wherever this rule applies"
        raise RuleFileError(message, at, code=ErrorCode.INVALID_ENTRY)
    if any(len(pair) != 2 or min(pair) <= 0 for pair in then.points) or then.spread <= 0:
        message = "`points` must be pairs of numbers above 0, and `spread` a number above 0"
        raise RuleFileError(message, at, code=ErrorCode.INVALID_ENTRY)


def _check_choice(rule: Rule, output: str, draft: Draft) -> None:
    by_kind: dict[str, Mapping[str, object]] = {"optimizer": draft.optimizers, "scheduler": draft.schedulers}
    ids = by_kind.get(output)
    if ids is None:
        message = f"`output: {output}` is not supported in a table of kind choose; use optimizer or scheduler"
        raise RuleFileError(message, rule.at, code=ErrorCode.INVALID_ENTRY)
    chosen = rule.choice.optimizer if output == "optimizer" else rule.choice.scheduler
    for name in (chosen, *rule.choice.alternatives):
        if name not in ids:
            message = f"unknown {output} {name!r}; {suggest_name(str(name), ids)}"
            raise RuleFileError(message, rule.at, code=ErrorCode.UNKNOWN_REFERENCE)


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
                message = f"rule id {rule.id!r} is already used at {shorten_location(positions[rule.id])}"
                raise RuleFileError(message, rule.at, code=ErrorCode.DUPLICATE_ENTRY)
            positions[rule.id] = rule.at
    for cards in (draft.optimizers, draft.schedulers):
        meanings: dict[str, str] = {}
        for card in cards.values():
            for name in {normalize_spelling(name) for name in (card.id, card.name, *card.aliases)}:
                if name in meanings:
                    message = f"the name {name!r} is already used by {meanings[name]!r}"
                    raise RuleFileError(message, card.at, code=ErrorCode.DUPLICATE_ENTRY)
                meanings[name] = card.id


def _read_fixes(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    draft = reading.draft
    for fix in read_record(FixFile, node, context).fixes:
        _check_fix(fix, draft.facts)
        draft.fixes = [*(other for other in draft.fixes if other.id != fix.id), fix]


def _check_fix(fix: FixRule, facts: Mapping[str, Fact]) -> None:
    for name, value in fix.change.items():
        if name not in facts:
            message = f"`change`: unknown fact {name!r}; {suggest_name(name, facts)}"
            raise RuleFileError(message, fix.at, code=ErrorCode.UNKNOWN_REFERENCE)
        accepted = [accepted.lower() for accepted in facts[name].values or ()]
        if accepted and str(value).lower() not in accepted:
            message = f"`change`: {value!r} is not a value of {name!r}; {suggest_name(str(value), accepted)}"
            raise RuleFileError(message, fix.at, code=ErrorCode.INVALID_ENTRY)


def _read_memory(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    reading.draft.memory = read_record(MemoryFile, node, context).memory


def _read_assumptions(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    draft = reading.draft
    read = read_record(AssumptionFile, node, context)
    assumptions = [
        replace(row, layer=reading.layers[index], value=_assumed_value(row, draft.facts)) for row in read.assume
    ]
    draft.assume = [*assumptions, *draft.assume]  # the first that applies is used
    draft.contradictions += read.contradictions
    draft.unsuggested += read.unsuggested


def _assumed_value(row: Assumption, facts: Mapping[str, Fact]) -> FactValue:
    """Return a default value converted to the type of its fact."""
    fact, value = facts.get(row.fact), row.value
    if fact is None:
        message = f"unknown fact {row.fact!r}; {suggest_name(row.fact, facts)}"
        raise RuleFileError(message, row.at, code=ErrorCode.UNKNOWN_REFERENCE)
    if not fact.is_input:
        message = f"{fact.id!r} is not an input and cannot have a default"
        raise RuleFileError(message, row.at, code=ErrorCode.INVALID_ENTRY)
    if isinstance(value, list) or value is None:
        message = f"{fact.id!r} must have a single value, not {value!r}"
        raise RuleFileError(message, row.at, code=ErrorCode.INVALID_ENTRY)
    if fact.values is not None:
        choice = str(value).lower() if isinstance(value, bool) else value
        if choice not in fact.values:
            hint = suggest_name(str(value), fact.values)
            message = f"{value!r} is not a value of {fact.id!r}; {hint}"
            raise RuleFileError(message, row.at, code=ErrorCode.INVALID_ENTRY)
        return choice == "true" if fact.type == "flag" else choice
    try:
        read = parse_bytes if fact.type == "bytes" else parse_count
        return read(str(value), f"`{fact.id}:`")
    except InputError as error:
        raise RuleFileError(str(error), row.at, code=ErrorCode.INVALID_ENTRY) from error


def _read_flowchart(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    chart = read_record(FlowchartFile, node, context).flowchart
    for answer in (answer for question in chart.questions.values() for answer in question.answers):
        if (answer.next is not None) == bool(answer.recommends):
            message = "an answer requires either `next` or `recommends`"
            raise RuleFileError(message, answer.at, code=ErrorCode.INVALID_ENTRY)
        if answer.next is not None and answer.next not in chart.questions:
            message = f"unknown question {answer.next!r}; {suggest_name(answer.next, chart.questions)}"
            raise RuleFileError(message, answer.at, code=ErrorCode.UNKNOWN_REFERENCE)
    if chart.start not in chart.questions:
        message = f"unknown question {chart.start!r}; {suggest_name(chart.start, chart.questions)}"
        raise RuleFileError(message, chart.at, code=ErrorCode.UNKNOWN_REFERENCE)
    reading.draft.flowchart = chart


def _read_policy(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    reading.policies.append((index, reading.layers[index], read_record(PolicyFile, node, context).policy))


_READERS: dict[str, _FileReader] = {  # in reading order: files refer to earlier ones
    "facts": _read_facts,
    "sources": _read_sources,
    "gpus": _read_gpus,
    "memory": _read_memory,
    "optimizers": _read_optimizer,
    "no_card": _read_no_card,
    "schedulers": _read_scheduler,
    "assume": _read_assumptions,
    "fixes": _read_fixes,
    "decide": _read_table,
    "adjust": _read_table,
    "warn": _read_table,
    "flowchart": _read_flowchart,
    "policy": _read_policy,
}
