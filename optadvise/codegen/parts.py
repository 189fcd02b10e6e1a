"""What the Python programs share: their head, how they are put together, and what they are asked of."""

from __future__ import annotations

from collections.abc import Iterable

from optadvise import __version__
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import WIDTH, call, comment, literal, path

Lines = list[str]
_STEPS = 20  # of the stand-in
_STANDARD = {"import itertools", "import sys", "import tempfile"}


def whole(plan: Plan, imports: Iterable[str], blocks: Iterable[Lines], start: Lines) -> str:
    """Return a program.

    Args:
        plan: What it is of.
        imports: Lines of import beside those that the optimizer and the schedule need.
        blocks: Settings and functions, in their order.
        start: What it does when it is run.
    """
    main = ['if __name__ == "__main__":', *(f"    {line}" for line in start)]
    parts = [[*header(plan), "", *_imports(plan, imports)], *blocks, main]
    return "\n\n\n".join("\n".join(part) for part in parts) + "\n"


def header(plan: Plan) -> Lines:
    """Return the comments that say what this is, why, what it needs and what it could not express."""
    advice = plan.advice
    packages = {plan.framework.package, advice.implementation.package, *(["peft"] if adapted(plan) else [])}
    if advice.companion is not None:
        packages.add(advice.companion[0].package)
    lines = comment(f"{advice.optimizer.name} under {advice.schedule.id}, by optadvise {__version__} "
                    f"(rules {advice.fingerprint}).")  # fmt: skip
    for entry in advice.trace:
        lines += comment(f"{entry.rule}: {entry.because}")
    lines += comment(f"Needs: pip install {' '.join(sorted(name for name in packages | {'torch'} if name))}")
    for note in plan.notes:
        lines += comment(f"Note: {note}")
    return lines


def _imports(plan: Plan, further: Iterable[str]) -> Lines:
    advice = plan.advice
    paths = [*(leg for _, leg, _ in advice.schedule.phases), advice.schedule.path]
    if plan.named is None or plan.framework.writes != "python":
        paths.append(advice.implementation.path)
    if advice.companion is not None:
        paths.append(advice.companion[0].path)
    modules = {path(one, advice.optimizer.at).rsplit(".", 1)[0] for one in paths}
    lines = {*further, *(f"import {module}" for module in modules if not module.startswith("torch.")), "import torch"}
    plain = sorted(line for line in lines if line in _STANDARD)
    others = sorted(lines - {*plain}, key=lambda line: (line.startswith("from "), line))
    return [*plain, *([""] if plain else []), *(part for line in others for part in _wrapped(line))]


def _wrapped(line: str) -> Lines:
    """Return an import in lines that are not too long."""
    module, _, names = line.partition(" import ")
    return [line] if len(line) <= WIDTH else call(f"{module} import ", names.split(", "))


def several(plan: Plan) -> bool:
    """Are there several optimizers, so that the program holds lists of them?"""
    return plan.release or plan.advice.companion is not None


def adapted(plan: Plan) -> bool:
    """Are adapters trained on a frozen model?"""
    return plan.advice.situation.method != "full"


def quantised(plan: Plan) -> bool:
    """Is the frozen model held in 4 bits?"""
    return plan.advice.situation.method == "qlora"


def halves(plan: Plan) -> bool:
    """Are the weights themselves in 16 bits?"""
    return plan.advice.situation.precision == "bf16" and not quantised(plan)


def each(plan: Plan, line: str, indent: int = 4) -> Lines:
    """Return a line about `optimizer` or `scheduler`, in a loop where there are several.

    Args:
        plan: Says whether there are.
        line: What to do with one.
        indent: Columns before it.
    """
    blank = " " * indent
    if not several(plan):
        return [blank + line]
    name = "scheduler" if "scheduler" in line else "optimizer"
    return [f"{blank}for {name} in {name}s:", f"{blank}    {line}"]


def sizes(plan: Plan) -> Lines:
    """Return the settings that say how long a run is and what one step is made of."""
    lines = [f"total_steps = {literal(plan.quantities['total_steps'])}"]
    if plan.micro_batch is not None:
        lines.append(f"micro_batch = {plan.micro_batch!r}  # samples of one pass")
    return lines


def placed() -> Lines:
    """Return the function that gives a batch the weights' type, where weights are in 16 bits."""
    return [
        "def placed(x, device):",
        '    """Move a tensor; what is no count gets the weights\' type."""',
        "    return x.to(device, torch.bfloat16) if x.is_floating_point() else x.to(device)",
    ]


def first_steps(plan: Plan) -> int:
    """Return how many steps the stand-in takes when a program is run as it stands."""
    return max(2, _STEPS // plan.accumulate)
