"""A recommendation as the code or configuration of a framework."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from optadvise.advice.advisor import Advisor
from optadvise.codegen import FRAMEWORKS, accelerate, configs, lightning, python, trainer
from optadvise.codegen.plan import Plan, plan
from optadvise.core.errors import InputError, nearest
from optadvise.core.records import Recommendation

# Each framework's writer. What a framework can express is in `rules/frameworks/`; how its text is laid out is here.
_WRITERS: dict[str, Callable[[Plan], str]] = {
    "python": python.program,
    "hf": trainer.program,
    "accelerate": accelerate.program,
    "lightning": lightning.program,
    "torchtune": configs.torchtune,
    "axolotl": configs.axolotl,
    "deepspeed": configs.deepspeed,
}


class Code(Struct, frozen=True):
    """What was written, and what could not be."""

    text: str
    notes: tuple[str, ...]  # what the framework cannot express, and what stands in its place
    optimizer: str  # the one that is in the text: another than advised where the notes say so


def write(advisor: Advisor, advice: Recommendation, framework: str) -> Code:
    """Return a recommendation as the code or configuration of a framework.

    Args:
        advisor: The rules that it came from.
        advice: The recommendation.
        framework: One of `FRAMEWORKS`.

    Raises:
        InputError: There is no such framework.
        RuleFileError: The rules hold an import path or an argument's name that is none.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> advisor = Advisor(load())
        >>> "torch.optim.AdamW(" in write(advisor, advisor.recommend(advisor.situation({})), "python").text
        True
    """
    if framework not in advisor.catalog.frameworks or framework not in _WRITERS:
        raise InputError(f"no code is written for {framework!r}; {nearest(framework, FRAMEWORKS)}")
    made = plan(advisor, advice, advisor.catalog.frameworks[framework])
    return Code(written(made), made.notes, made.advice.optimizer.id)


def written(made: Plan) -> str:
    """Return the text of a plan.

    Args:
        made: What its framework can express.
    """
    return _WRITERS[made.framework.id](made)
