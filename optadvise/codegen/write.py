"""A recommendation as the code or configuration of a framework."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.codegen import FRAMEWORKS, config_files, programs
from optadvise.codegen.notes import list_notes
from optadvise.codegen.plan import Plan, make_plan
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.records import Recommendation

# Each framework's writer. What a framework can express is in `rules/frameworks/`; how its text is laid out is here.
_WRITERS: dict[str, Callable[[Plan], str]] = {
    "python": programs.write_loop,
    "hf": programs.write_trainer,
    "accelerate": programs.write_accelerate,
    "lightning": programs.write_lightning,
    "torchtune": config_files.write_torchtune,
    "axolotl": config_files.write_axolotl,
    "deepspeed": config_files.write_deepspeed,
}


class Code(Struct, frozen=True):
    """Generated text, and what it could not express."""

    text: str
    notes: tuple[str, ...]  # what the framework cannot express, and what replaces it
    optimizer: str  # id of the one in the text: another than recommended where the notes say so


def write_code(rules: CompiledRules, advice: Recommendation, framework: str) -> Code:
    """Return a recommendation as the code or configuration of a framework.

    Args:
        framework: One of `FRAMEWORKS`.

    Raises:
        InputError: There is no such framework.
        RuleFileError: An import path or an argument's name in the rules is not one.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> rules = CompiledRules(load())
        >>> "torch.optim.AdamW(" in write_code(rules, advise(rules, {}), "python").text
        True
    """
    if framework not in rules.catalog.frameworks or framework not in _WRITERS:
        raise InputError(f"no code is written for {framework!r}; {suggest_name(framework, FRAMEWORKS)}")
    plan = make_plan(rules, advice, rules.catalog.frameworks[framework])
    return Code(text=write_plan(plan), notes=tuple(list_notes(plan)), optimizer=plan.advice.optimizer.id)


def write_plan(plan: Plan) -> str:
    """Return the text of a plan, in the format of its framework."""
    return _WRITERS[plan.framework.id](plan)
