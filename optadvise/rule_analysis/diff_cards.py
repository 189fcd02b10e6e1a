"""Text lines for changes of cards, defaults, contradictions, fixes and GPUs between two sets of rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from optadvise.rule_analysis.diff_records import omit_positions
from optadvise.rulebase.catalog import Catalog


def list_card_changes(old: Catalog, new: Catalog) -> Iterator[str]:
    """Yield a line for each change outside the tables."""
    yield from _compare_cards("optimizer", old.base.optimizers, new.base.optimizers)
    yield from _compare_cards("scheduler", old.base.schedulers, new.base.schedulers)
    for before, after in zip(_name_entries(old), _name_entries(new), strict=True):
        yield from _compare_entries(before, after)
    for name in sorted(new.base.disabled.keys() - old.base.disabled.keys()):
        yield f"optimizer {name} disabled: {new.base.disabled[name].because}"


def _compare_cards(kind: str, before: Mapping[str, Struct], after: Mapping[str, Struct]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in before:
            yield f"{kind} {name} added"
        elif name not in after:
            yield f"{kind} {name} removed"
        else:
            old, new = omit_positions(before[name]), omit_positions(after[name])
            keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            if keys:
                yield f"{kind} {name} changed: {', '.join(keys)}"


def _compare_entries(before: Mapping[str, Struct], after: Mapping[str, Struct]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        if name not in before:
            yield f"{name} added"
        elif name not in after:
            yield f"{name} removed"
        elif omit_positions(before[name]) != omit_positions(after[name]):
            yield f"{name} changed"


def _name_entries(catalog: Catalog) -> list[dict[str, Struct]]:
    """Return the entries of each list outside the tables, by their label."""
    base = catalog.base
    return [
        {f"default {row.fact}={row.value} ({row.because})": row for row in base.assume},
        {f"contradiction {row.problem!r}": row for row in base.contradictions},
        {f"memory fix {row.id}": row for row in base.fixes},
        {f"GPU {gpu.id}": gpu for gpu in base.gpus},
    ]
