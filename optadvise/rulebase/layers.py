"""Rule layers over the shipped rules: adding, replacing, amending and disabling rules."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from optadvise.core.cards import Gpu, NoCard, Optimizer, Scheduler, Source
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError, shorten_location, suggest_name
from optadvise.rulebase.memory_rules import MemorySettings
from optadvise.rulebase.records import Assumption, Contradiction, Fact, FixRule, Flowchart, RunInput, Unsuggested
from optadvise.rulebase.rule_base import RuleBase
from optadvise.rulebase.table_records import Amendment, Choice, Disabling, Policy, Rule, TableFile


class Draft:
    """Mutable rule base, used while the rule files are read."""

    def __init__(self) -> None:
        """Start with an empty rule base."""
        self.facts: dict[str, Fact] = {}
        self.inputs: dict[str, RunInput] = {}
        self.sources: dict[str, Source] = {}
        self.gpus: list[Gpu] = []
        self.optimizers: dict[str, Optimizer] = {}
        self.no_card: dict[str, NoCard] = {}
        self.schedulers: dict[str, Scheduler] = {}
        self.assume: list[Assumption] = []
        self.contradictions: list[Contradiction] = []
        self.unsuggested: list[Unsuggested] = []
        self.tables: dict[str, TableFile] = {}
        self.memory: MemorySettings | None = None
        self.fixes: list[FixRule] = []
        self.flowchart: Flowchart | None = None
        self.disabled: dict[str, Disabling] = {}
        self.disabled_rules: list[str] = []

    def finish(self) -> RuleBase:
        """Return the rule base."""
        return RuleBase(
            facts=self.facts, inputs=self.inputs, sources=self.sources, gpus=tuple(self.gpus),
            optimizers=self.optimizers, no_card=self.no_card, schedulers=self.schedulers, assume=tuple(self.assume),
            contradictions=tuple(self.contradictions), unsuggested=tuple(self.unsuggested),
            tables=self.tables, memory=self.memory, fixes=tuple(self.fixes), flowchart=self.flowchart,
            disabled=self.disabled, disabled_rules=tuple(self.disabled_rules),
        )  # fmt: skip

    def locate(self, rule_id: str, at: str) -> tuple[TableFile, int]:
        """Return the table of a rule and the rule's index in it.

        Args:
            at: Position of the reference, for the error.

        Raises:
            RuleFileError: The rule does not exist.
        """
        for table in self.tables.values():
            for index, rule in enumerate(table.rules):
                if rule.id == rule_id:
                    return table, index
        hint = suggest_name(rule_id, [rule.id for table in self.tables.values() for rule in table.rules])
        raise RuleFileError(f"rule {rule_id!r} does not exist; {hint}", at, code=ErrorCode.UNKNOWN_REFERENCE)


def merge_table(existing: TableFile, new: TableFile, layer: str) -> TableFile:
    """Add a layer's rules to a table; a rule with an existing id replaces that rule.

    Args:
        new: The same table in the later layer.

    Raises:
        RuleFileError: The layer changes the kind of the table, or a new rule of an ordered table has no position.
    """
    for key in ("kind", "hit_policy", "output"):
        if getattr(new, key) != getattr(existing, key):
            message = f"table {existing.table!r}: a rule layer cannot change `{key}: {getattr(existing, key)}`"
            raise RuleFileError(message, new.at, code=ErrorCode.INVALID_ENTRY)
    rules = list(existing.rules)
    for rule in new.rules:
        _place_rule(rules, rule, existing, layer)
    return replace(existing, rules=tuple(rules), otherwise=new.otherwise or existing.otherwise)


def _place_rule(rules: list[Rule], rule: Rule, table: TableFile, layer: str) -> None:
    """Insert or replace a layer's rule in the list."""
    position = {other.id: number for number, other in enumerate(rules)}
    before, rule = rule.before, replace(rule, before=None)
    if before is not None and before not in position:
        message = f"`before: {before}`: the table has no such rule; {suggest_name(before, position)}"
        raise RuleFileError(message, rule.at, code=ErrorCode.UNKNOWN_REFERENCE)
    if rule.id in position:
        index = position[rule.id]
        if rules[index].layer == layer:
            message = f"rule id {rule.id!r} is already used at {shorten_location(rules[index].at)}"
            raise RuleFileError(message, rule.at, code=ErrorCode.DUPLICATE_ENTRY)
        rules[index] = rule
    elif table.hit_policy != "first":
        rules.append(rule)
    elif before is None:
        message = f"rule {rule.id} needs a position in the ordered table {table.table!r}; add `before: ID`"
        raise RuleFileError(message, rule.at, code=ErrorCode.MISSING_KEY)
    else:
        rules.insert(position[before], rule)


def apply_policy(draft: Draft, policies: list[tuple[int, str, Policy]]) -> None:
    """Apply the amended and disabled entries of all layers, the lowest layer first.

    Args:
        draft: The rule base; changed in place.
        policies: Number and name of each layer, and its policy.

    Raises:
        RuleFileError: A reference does not exist, or a rule has no enabled alternative.
    """
    for _, layer, policy in sorted(policies, key=lambda entry: entry[0]):
        for amendment in policy.amend:
            _amend(draft, amendment, layer)
        for disabling in policy.disable:
            _disable(draft, replace(disabling, layer=layer))


def _amend(draft: Draft, entry: Amendment, layer: str) -> None:
    table, index = draft.locate(entry.rule, entry.at)
    rule = table.rules[index]
    amended = replace(
        rule, when={**rule.when, **entry.when}, because=entry.because, tests=entry.tests, cite=entry.cite or rule.cite,
        layer=layer, at=entry.at,
    )  # fmt: skip
    draft.tables[table.table] = replace(table, rules=(*table.rules[:index], amended, *table.rules[index + 1 :]))


def _disable(draft: Draft, entry: Disabling) -> None:
    if (entry.rule is None) == (entry.optimizer is None):
        message = "`disable` requires either `rule: ID` or `optimizer: ID`"
        raise RuleFileError(message, entry.at, code=ErrorCode.INVALID_ENTRY)
    if entry.rule is not None:
        _disable_rule(draft, entry.rule, entry.at)
    elif entry.optimizer is not None:
        _disable_optimizer(draft, entry.optimizer, entry)


def _disable_rule(draft: Draft, rule_id: str, at: str) -> None:
    draft.locate(rule_id, at)
    draft.disabled_rules.append(rule_id)
    for name, table in draft.tables.items():
        rules = (
            replace(rule, overrides=tuple(other for other in rule.overrides if other != rule_id))
            for rule in table.rules
            if rule.id != rule_id
        )
        draft.tables[name] = replace(table, rules=tuple(rules))


def _disable_optimizer(draft: Draft, optimizer: str, entry: Disabling) -> None:
    if optimizer not in draft.optimizers:
        message = f"unknown optimizer {optimizer!r}; {suggest_name(optimizer, draft.optimizers)}"
        raise RuleFileError(message, entry.at, code=ErrorCode.UNKNOWN_REFERENCE)
    draft.disabled[optimizer] = entry
    for card in draft.optimizers.values():
        companion = None if card.companion is None else card.companion.optimizer
        if companion in draft.disabled and card.id not in draft.disabled:
            message = f"{card.id} requires {companion} as its companion; disable both"
            raise RuleFileError(message, entry.at, code=ErrorCode.INVALID_ENTRY)
    draft.fixes = [fix for fix in draft.fixes if fix.change.get("optimizer") not in draft.disabled]
    for name, table in draft.tables.items():
        if table.kind == "choose":
            rules = tuple(_choose_another(rule, draft.disabled, entry) for rule in table.rules)
            otherwise = table.otherwise and _choose_another(table.otherwise, draft.disabled, entry)
            draft.tables[name] = replace(table, rules=rules, otherwise=otherwise)


def _choose_another(rule: Rule, disabled: Mapping[str, Disabling], entry: Disabling) -> Rule:
    """Return a rule that chooses its first enabled alternative if its choice is disabled."""
    choice = rule.choice
    allowed = {name: why for name, why in choice.alternatives.items() if name not in disabled}
    chosen = choice.optimizer
    if chosen not in disabled or chosen is None:
        return replace(rule, then=replace(choice, alternatives=allowed))
    if not allowed:
        message = f"rule {rule.id} chooses {chosen} and has no enabled alternative; replace the rule in this layer"
        raise RuleFileError(message, entry.at, code=ErrorCode.RULE_GAP)
    other, why = next(iter(allowed.items()))
    del allowed[other]
    tests = tuple(
        replace(test, expect={**test.expect, "optimizer": other}) if test.expect.get("optimizer") == chosen else test
        for test in rule.tests
    )
    because = f"{why} ({chosen} is disabled by {entry.layer}: {disabled[chosen].because})"
    then = Choice(optimizer=other, alternatives=allowed)
    return replace(rule, then=then, because=because, tests=tests, layer=entry.layer)
