"""Rule base: content of the rule files of all layers."""

from collections.abc import Mapping

from msgspec import Struct

from optadvise.core.cards import Gpu, NoCard, Optimizer, Scheduler, Source
from optadvise.rulebase.memory_rules import MemorySettings
from optadvise.rulebase.records import Assumption, Contradiction, Fact, FixRule, Flowchart, RunInput, Unsuggested
from optadvise.rulebase.table_records import Disabling, TableFile


class RuleBase(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content of the rule files of all layers, except files that are read on first access."""

    facts: Mapping[str, Fact]
    inputs: Mapping[str, RunInput]
    sources: Mapping[str, Source]
    gpus: tuple[Gpu, ...]
    optimizers: Mapping[str, Optimizer]
    no_card: Mapping[str, NoCard] = {}  # by normalized name
    schedulers: Mapping[str, Scheduler]
    assume: tuple[Assumption, ...]
    contradictions: tuple[Contradiction, ...]
    unsuggested: tuple[Unsuggested, ...] = ()
    tables: Mapping[str, TableFile]
    memory: MemorySettings | None
    fixes: tuple[FixRule, ...]
    flowchart: Flowchart | None
    disabled: Mapping[str, Disabling] = {}  # optimizers that a layer disables, by id
    disabled_rules: tuple[str, ...] = ()
