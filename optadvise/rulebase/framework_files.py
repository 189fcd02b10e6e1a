"""Reading of `rules/frameworks/`: names and options of optimizers and schedules in each framework.

The files have their own cache entry, because only code generation and `show` need them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError, suggest_name
from optadvise.core.framework_cards import Framework
from optadvise.core.schedules import QUANTITIES
from optadvise.core.yaml_reader import KnownIds
from optadvise.core.yaml_records import read_file
from optadvise.rulebase.rule_paths import Contents


def read_frameworks(contents: Contents, known_ids: KnownIds) -> dict[str, Framework]:
    """Return all frameworks by id; those of later layers replace earlier ones.

    Raises:
        RuleFileError: A file is invalid.
    """
    frameworks: dict[str, Framework] = {}
    for _, file, content in contents:
        framework, node, context = read_file(Framework, content, str(file), known_ids)
        if framework.id != file.stem:
            context.fail(
                node, f"id {framework.id!r} differs from the file name; rename the file to {framework.id}.yaml"
            )
        for name, schedule in framework.schedules.items():
            for quantity in _quantities(schedule.settings):
                if quantity not in QUANTITIES:
                    hint = suggest_name(quantity, QUANTITIES)
                    message = f"schedule {name!r}: unknown quantity ${quantity}; {hint}"
                    raise RuleFileError(message, framework.at, code=ErrorCode.UNKNOWN_REFERENCE)
        frameworks[framework.id] = framework
    return frameworks


def _quantities(settings: object) -> Iterator[str]:
    """Yield the names of all `$name` values in nested settings."""
    if isinstance(settings, Mapping):
        for value in settings.values():
            yield from _quantities(value)
    elif isinstance(settings, str) and settings.startswith("$"):
        yield settings[1:]
