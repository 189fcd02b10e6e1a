"""The commands as functions: the same options, the same answers, the same errors.

Example:
    >>> import optadvise
    >>> advice = optadvise.recommend(model="transformer", vram="24GB", params="1B")
    >>> advice.optimizer.id, advice.schedule.id
    ('adamw', 'warmup-cosine')
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import Struct
from msgspec.structs import asdict

from optadvise.advice import inputs
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.memory_answer import answer_memory, find_remedies
from optadvise.advice.recommend import advise
from optadvise.benchmark.evidence import save_findings
from optadvise.benchmark.options import ALIASES, BenchOptions, list_counts
from optadvise.benchmark.plan import plan_advice
from optadvise.benchmark.request import measure, prepare_request
from optadvise.codegen.write import write_code
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.json_text import to_json_object
from optadvise.core.option_types import Folders
from optadvise.core.option_types import Measurement as Measurement
from optadvise.core.option_types import Run as Run
from optadvise.core.records import MemoryAnswer, Recommendation
from optadvise.evidence import apply
from optadvise.render.documents import build_estimate, build_recommendation
from optadvise.rule_analysis import rule_folders

if TYPE_CHECKING:
    from typing_extensions import Unpack

_AnswerT = TypeVar("_AnswerT", bound=Struct)


def _with_rules(kind: type[_AnswerT], answer: Struct, folders: tuple[Path, ...]) -> _AnswerT:
    """Return an answer of the library: the fields of a result, and the folders of rules that it came from."""
    return kind(**asdict(answer), folders=folders)


class Advice(Recommendation, frozen=True, kw_only=True):
    """A recommendation that can be built, written as code and as data. Its fields are those of `Recommendation`."""

    folders: tuple[Path, ...] = ()  # of further rules

    @property
    def compiled_rules(self) -> CompiledRules:
        """The rules, ready to answer."""
        return _compile_rules(self.folders)

    def build(self, model: Any, *, fused: bool = True) -> tuple[Any, Any]:
        """Return the optimizer over a model's parameters, and its schedule. Imports torch.

        What is built is what `optadvise bench` measures and what `code("python")` writes: weight decay on matrices
        alone, one kernel a step where there is one. Step the schedule once after each step of the optimizer.

        Args:
            model: A `torch.nn.Module`; what needs no gradient is left out.
            fused: Step in one kernel where the implementation has one.

        Returns:
            The optimizer and the schedule; two lists where the advice is a pair, as with Muon, which takes hidden
            matrices only. They hold one each where the model has nothing for the other.

        Raises:
            CannotRunHereError: The implementation's package is not installed.
            InputError: Nothing in the model is trained, or the advice is to step weights while gradients are made.

        Example:
            >>> import torch
            >>> optimizer, schedule = recommend(model="mlp").build(torch.nn.Linear(4, 2))
            >>> len(optimizer.param_groups)
            2
        """
        from optadvise.benchmark import optimizer_builder  # imports torch

        if self.situation.gradient_release:
            raise InputError('build: gradient release is a training loop of its own; code("python") writes it')
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise InputError("build: nothing in this model needs a gradient")
        arm = plan_advice(self, fused=fused, device=named[0][1].device.type)
        built = optimizer_builder.build_optimizers(arm, named, model)
        schedules = [optimizer_builder.build_scheduler(arm, optimizer) for optimizer in built]
        return (built[0], schedules[0]) if self.companion is None else (built, schedules)

    def code(self, framework: str = "python") -> str:
        """Return a program or a configuration; what it cannot express is said in its comments.

        Args:
            framework: python, hf, accelerate, lightning, torchtune, axolotl or deepspeed.

        Raises:
            InputError: There is no such framework.
        """
        return write_code(self.compiled_rules, self, str(framework)).text

    def data(self) -> dict[str, Any]:
        """Return the object that `optadvise recommend --json` prints, for `json.dump` and for `bench`."""
        return to_json_object(build_recommendation(self, find_remedies(self.compiled_rules, self)))


class Estimate(MemoryAnswer, frozen=True, kw_only=True):
    """Will it fit? Its fields are those of `MemoryAnswer`."""

    folders: tuple[Path, ...] = ()  # of further rules

    @property
    def compiled_rules(self) -> CompiledRules:
        """The rules, ready to answer."""
        return _compile_rules(self.folders)

    def data(self) -> dict[str, Any]:
        """Return the object that `optadvise estimate --json` prints."""
        return to_json_object(build_estimate(self, self.compiled_rules.catalog))


def recommend(**run: Unpack[Run]) -> Advice:
    """Recommend an optimizer and a schedule, with numbers, reasons and sources. Never imports torch.

    Args:
        **run: What is known of the run; what is not said is assumed, and listed in `situation.assumed`.

    Raises:
        InputError: A value is not accepted, or two contradict each other.
        RuleFileError: A folder of further rules is invalid.

    Example:
        >>> recommend(model="cnn", batch_size=16384).optimizer.name
        'LAMB'
    """
    folders, stated = _read(run, "recommend")
    rules = _compile_rules(folders)
    advice = apply.apply_evidence(advise(rules, stated), rules.catalog)
    return _with_rules(Advice, advice, folders)


def estimate(**run: Unpack[Run]) -> Estimate:
    """Tell whether a run fits a GPU, and what would make it fit. Never imports torch.

    Args:
        **run: What is known of the run, its size among it.

    Raises:
        InputError: A value is not accepted, two contradict each other, or nothing says how large the network is.
        RuleFileError: A folder of further rules is invalid.

    Example:
        >>> answer = estimate(params="7B", gpu="rtx 4090", task="finetune")
        >>> answer.memory.fits
        False
    """
    folders, stated = _read(run, "estimate")
    rules = _compile_rules(folders)
    situation = complete_situation(rules, stated)
    inputs.require_size(situation)
    return _with_rules(Estimate, answer_memory(rules, situation), folders)


def bench(
    *optimizers: str | Advice | Mapping[str, Any],
    rules: Folders = (),
    **how: Unpack[Measurement],
) -> dict[str, Any]:
    """Measure what optimizers cost on this machine, each in its own process, against a control.

    Args:
        *optimizers: Names in any spelling; or a recommendation (or its data), which is run exactly.
        rules: Folders of further rules.
        **how: Options of the measurement.

    Returns:
        The object that `optadvise bench --json -` prints.

    Raises:
        InputError: A value is not accepted.
        CannotRunHereError: There is no such device, or torch is not installed.
    """
    how = cast("Measurement", {ALIASES.get(name, name): value for name, value in how.items()})
    _reject_unknown(how, Measurement, "bench")
    counts = list_counts()
    options: dict[str, Any] = {name: _typed(name, value) if name in counts else value for name, value in how.items()}
    recommendations = [each for each in optimizers if not isinstance(each, str)]
    if recommendations and len(optimizers) > 1:
        raise InputError("bench: a recommendation names its optimizer; leave the others out")
    advice = recommendations[0] if recommendations else None
    names = [each for each in optimizers if isinstance(each, str)]
    recommendation = advice.data() if isinstance(advice, Advice) else advice
    request = prepare_request(_compile_rules(_folders(rules)), names, BenchOptions(**options), recommendation)
    result = measure(request)
    with contextlib.suppress(OSError):  # the findings are for later answers alone
        save_findings(result, datetime.now(timezone.utc).date().isoformat())
    return to_json_object(result)


def _read(run: Mapping[str, Any], function: str) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Return the folders of further rules, and the facts that were stated."""
    _reject_unknown(run, Run, function)
    folders = _folders(run.get("rules") or ())
    catalog = _compile_rules(folders).catalog
    flags = {name for name, fact in catalog.facts.items() if fact.type == "flag"}
    typed = {name: _flag(name, value) if name in flags else _typed(name, value) for name, value in run.items()
             if name != "rules"}  # fmt: skip
    return folders, inputs.parse_inputs(catalog, typed)


def _reject_unknown(arguments: Mapping[str, Any], options: Any, function: str) -> None:
    for name in arguments:
        if name not in options.__annotations__:
            raise InputError(f"{function}: no option {name!r}; {suggest_name(name, options.__annotations__)}")


def _folders(rules: Folders) -> tuple[Path, ...]:
    return (Path(rules),) if isinstance(rules, (str, PathLike)) else tuple(Path(folder) for folder in rules)


def _compile_rules(folders: tuple[Path, ...]) -> CompiledRules:
    """Return the rules that count, compiled once for all answers over the same files."""
    key: tuple[str | Path, ...] = (rule_folders.load_catalog(folders).fingerprint, *rule_folders.list_folders(folders))
    if key not in _compiled:
        _compiled.clear()
        _compiled[key] = rule_folders.load_rules(folders)
    return _compiled[key]


# The latest, by the fingerprint of its rules and its folders, as claims and surfaces are no part of the fingerprint.
_compiled: dict[tuple[str | Path, ...], CompiledRules] = {}


def _flag(name: str, value: Any) -> bool | None:
    if value is None or value in (True, False):  # numpy's too, and 0 and 1
        return None if value is None else bool(value)
    raise InputError(f"--{name.replace('_', '-')} {value!r}: is True or False")


def _typed(name: str, value: Any) -> Any:
    """Return a value as it would be typed: numbers as their digits, several words with commas."""
    if value is None:
        return None
    if name == "hf_config":
        return Path(value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)
