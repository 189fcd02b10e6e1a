"""Read `rules/frameworks/`: what each framework calls an optimizer and a schedule, and what it cannot express.

Apart from the other rules and with a cache entry of its own, as only code generation and `show` need it.
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
    """Return every framework by its id; a later layer's replaces an earlier one's.

    Raises:
        RuleFileError: A file is invalid; the message says where.
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
    """Yield the names that stand for quantities of a run, at any depth."""
    if isinstance(settings, Mapping):
        for value in settings.values():
            yield from _quantities(value)
    elif isinstance(settings, str) and settings.startswith("$"):
        yield settings[1:]
