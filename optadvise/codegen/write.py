"""Writers of generated code: one per framework."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.codegen import FRAMEWORKS, config_files, programs
from optadvise.codegen.notes import list_notes
from optadvise.codegen.plan import Plan, make_plan
from optadvise.codegen.snippet import write_snippet
from optadvise.core.advice_records import Recommendation
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.framework_cards import list_kinds
from optadvise.core.records import Situation

# What a framework supports is in `rules/frameworks/`; the layout of its file is in its writer.
_WRITERS: dict[str, Callable[[Plan], str]] = {
    "snippet": write_snippet,
    "python": programs.write_loop,
    "hf": programs.write_trainer,
    "accelerate": programs.write_accelerate,
    "lightning": programs.write_lightning,
    "torchtune": config_files.write_torchtune,
    "axolotl": config_files.write_axolotl,
    "deepspeed": config_files.write_deepspeed,
}


class Code(Struct, frozen=True):
    """Generated code or configuration."""

    text: str
    notes: tuple[str, ...]  # settings that the framework does not support, and their replacement
    optimizer: str  # id of the optimizer in the text; differs from the recommended one if the framework lacks that


def write_code(rules: CompiledRules, advice: Recommendation, framework: str) -> Code:
    """Return a recommendation as code or configuration of a framework.

    Args:
        framework: One of `FRAMEWORKS`.

    Raises:
        InputError: The framework is unknown, or cannot train this kind of model or task.
        RuleFileError: An import path or an argument name in the rules is invalid.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> rules = CompiledRules(load())
        >>> "torch.optim.AdamW(" in write_code(rules, advise(rules, {}), "python").text
        True
    """
    if framework not in rules.catalog.frameworks or framework not in _WRITERS:
        raise InputError(
            f"--format {framework}: unknown framework; {suggest_name(framework, FRAMEWORKS)}",
            code=ErrorCode.UNKNOWN_CHOICE,
            option="--format",
            value=framework,
        )
    _check_kinds(rules, advice.situation, framework)
    plan = make_plan(rules, advice, rules.catalog.frameworks[framework])
    return Code(text=write_plan(plan), notes=tuple(list_notes(plan)), optimizer=plan.advice.optimizer.id)


def _check_kinds(rules: CompiledRules, run: Situation, framework: str) -> None:
    """Raise InputError if a framework cannot train this kind of model or this task."""
    frameworks = rules.catalog.frameworks
    rejects = frameworks[framework].rejects
    for kind in list_kinds(run):
        if kind not in rejects:
            continue
        option = "--model" if kind == run.model else "--task"
        others = [
            name for name in FRAMEWORKS if name in frameworks and not {*list_kinds(run)} & {*frameworks[name].rejects}
        ]
        raise InputError(
            f"--format {framework} with {option} {kind}: {rejects[kind]}; use --format {' or '.join(others)}",
            code=ErrorCode.OPTION_CONFLICT,
            option="--format",
            value=framework,
        )


def write_plan(plan: Plan) -> str:
    """Return the text of a plan."""
    return _WRITERS[plan.framework.id](plan)
