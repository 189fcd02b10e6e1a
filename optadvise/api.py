"""Python functions for the commands `recommend`, `estimate` and `bench`, with the same options and errors.

Example:
    >>> import optadvise
    >>> advice = optadvise.recommend(model="transformer", vram="24GB", params="1B")
    >>> advice.optimizer.id, advice.schedule.id
    ('adamw', 'warmup-cosine')
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from numbers import Integral, Real
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
from optadvise.benchmark.options import ALIASES, BenchOptions, list_counts, option_types
from optadvise.benchmark.plan import plan_advice
from optadvise.benchmark.request import measure, prepare_request
from optadvise.codegen.write import write_code
from optadvise.core.advice_records import Recommendation
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.json_text import to_json_object
from optadvise.core.option_types import Folders
from optadvise.core.option_types import Measurement as Measurement
from optadvise.core.option_types import Run as Run
from optadvise.core.records import MemoryAnswer
from optadvise.evidence import apply
from optadvise.render.documents import build_estimate, build_recommendation
from optadvise.rule_analysis import rule_folders

if TYPE_CHECKING:
    from typing_extensions import Unpack

_AnswerT = TypeVar("_AnswerT", bound=Struct)


def _with_rules(kind: type[_AnswerT], answer: Struct, folders: tuple[Path, ...]) -> _AnswerT:
    """Return a result with the folders of its rule layers."""
    return kind(**asdict(answer), folders=folders)


class Advice(Recommendation, frozen=True, kw_only=True):
    """Recommendation with methods that build the optimizer, generate code and return JSON data."""

    folders: tuple[Path, ...] = ()  # rule layers

    @property
    def compiled_rules(self) -> CompiledRules:
        """Return the compiled rules of the recommendation."""
        return _compile_rules(self.folders)

    def build(self, model: Any, *, fused: bool = True, allow_imports: Sequence[str] = ()) -> tuple[Any, Any]:
        """Build the recommended optimizer for a model's parameters, and its schedule. Imports torch.

        The result equals what `optadvise bench` measures and `code("python")` generates: weight decay applies to
        matrices only, and the fused variant is used if available. Call `step()` of the schedule after each `step()`
        of the optimizer.

        Args:
            model: A `torch.nn.Module`; parameters without `requires_grad` are skipped.
            fused: Use the fused variant if the implementation has one.
            allow_imports: Packages whose classes may be imported although only a rule layer lists them.

        Returns:
            The optimizer and the schedule. Two lists if the recommendation has a companion optimizer, as with Muon,
            which supports hidden matrices only; each list has one element if the model has parameters for only one.

        Raises:
            CannotRunHereError: The implementation's package is not installed.
            InputError: No parameter requires a gradient, the recommendation uses gradient release, or a class may not
                be imported.

        Example:
            >>> import torch
            >>> optimizer, schedule = recommend(model="mlp").build(torch.nn.Linear(4, 2))
            >>> len(optimizer.param_groups)
            2
        """
        from optadvise.benchmark import optimizer_builder  # imports torch

        if self.situation.gradient_release:
            message = 'build: gradient release requires its own training loop; use code("python")'
            raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option="--gradient-release", value=True)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise InputError("build: no parameter of the model requires a gradient", code=ErrorCode.INVALID_NETWORK)
        arm = plan_advice(self, fused=fused, device=named[0][1].device.type)
        rule_folders.load_catalog(self.folders, allow_imports).imports.check(arm.import_paths)
        built = optimizer_builder.build_optimizers(arm, named, model)
        schedules = [optimizer_builder.build_scheduler(arm, optimizer) for optimizer in built]
        return (built[0], schedules[0]) if self.companion is None else (built, schedules)

    def code(self, framework: str = "python") -> str:
        """Return a program or a configuration file; its comments list what the framework cannot express.

        Args:
            framework: snippet, python, hf, accelerate, lightning, torchtune, axolotl or deepspeed.

        Raises:
            InputError: The framework is not supported.
        """
        return write_code(self.compiled_rules, self, str(framework)).text

    def data(self) -> dict[str, Any]:
        """Return the JSON object that `optadvise recommend --json` prints."""
        return to_json_object(build_recommendation(self, find_remedies(self.compiled_rules, self)))


class Estimate(MemoryAnswer, frozen=True, kw_only=True):
    """Memory estimate with a method that returns JSON data."""

    folders: tuple[Path, ...] = ()  # rule layers

    @property
    def compiled_rules(self) -> CompiledRules:
        """Return the compiled rules of the estimate."""
        return _compile_rules(self.folders)

    def data(self) -> dict[str, Any]:
        """Return the JSON object that `optadvise estimate --json` prints."""
        return to_json_object(build_estimate(self, self.compiled_rules.catalog))


def recommend(**run: Unpack[Run]) -> Advice:
    """Recommend an optimizer and a schedule with hyperparameters, reasons and sources. Never imports torch.

    Args:
        **run: Options of the run; options that are not specified get defaults and are listed in `situation.assumed`.

    Raises:
        InputError: An option is invalid or conflicts with another.
        RuleFileError: A rule layer is invalid.

    Example:
        >>> recommend(model="cnn", batch_size=16384).optimizer.name
        'LAMB'
    """
    folders, stated = _read(run, "recommend")
    rules = _compile_rules(folders)
    advice = apply.apply_evidence(advise(rules, stated), rules.catalog)
    return _with_rules(Advice, advice, folders)


def estimate(**run: Unpack[Run]) -> Estimate:
    """Estimate whether a run fits a GPU, and list changes that make it fit. Never imports torch.

    Args:
        **run: Options of the run; the size of the model is required.

    Raises:
        InputError: An option is invalid or conflicts with another, or the size of the model is not specified.
        RuleFileError: A rule layer is invalid.

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
    allow_imports: Sequence[str] = (),
    **how: Unpack[Measurement],
) -> dict[str, Any]:
    """Measure time and memory of optimizers on this machine against a control, each in its own process.

    Args:
        *optimizers: Names in any spelling, or one recommendation or its data.
        rules: Folders of rule layers.
        allow_imports: Packages whose classes may be imported although only a rule layer lists them.
        **how: Options of the measurement.

    Returns:
        The JSON object that `optadvise bench --json` prints.

    Raises:
        InputError: An option is invalid.
        CannotRunHereError: The device does not exist, or torch is not installed.
    """
    how = cast("Measurement", {ALIASES.get(name, name): value for name, value in how.items()})
    _reject_unknown(how, Measurement, "bench")
    counts, types = list_counts(), option_types()
    options: dict[str, Any] = {
        name: _format_value(name, value) if name in counts else _check_type(name, value, types[name])
        for name, value in how.items()
    }
    recommendations = [each for each in optimizers if not isinstance(each, str)]
    for each in recommendations:
        if not isinstance(each, (Advice, Mapping)):
            message = f"bench: {each!r} must be the name of an optimizer or a recommendation"
            raise InputError(message, code=ErrorCode.INVALID_VALUE, value=each)
    if recommendations and len(optimizers) > 1:
        message = "bench: a recommendation cannot be combined with other optimizers; pass it alone"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT)
    advice = recommendations[0] if recommendations else None
    names = [each for each in optimizers if isinstance(each, str)]
    recommendation = advice.data() if isinstance(advice, Advice) else advice
    compiled = _compile_rules(_list_folders(rules), allow_imports)
    request = prepare_request(compiled, names, BenchOptions(**options), recommendation)
    result = measure(request)
    with contextlib.suppress(OSError):  # the saved findings only add evidence to later recommendations
        save_findings(result, datetime.now(timezone.utc).date().isoformat())
    return to_json_object(result)


def _read(run: Mapping[str, Any], function: str) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Return the folders of the rule layers, and the stated inputs by fact."""
    _reject_unknown(run, Run, function)
    folders = _list_folders(run.get("rules"))
    catalog = _compile_rules(folders).catalog
    flags = {name for name, fact in catalog.facts.items() if fact.type == "flag"}
    typed = {name: _check_flag(name, value) if name in flags else _format_value(name, value)
             for name, value in run.items() if name != "rules"}  # fmt: skip
    return folders, inputs.parse_inputs(catalog, typed)


def _reject_unknown(arguments: Mapping[str, Any], options: Any, function: str) -> None:
    for name in arguments:
        if name not in options.__annotations__:
            message = f"{function}: unknown option {name!r}; {suggest_name(name, options.__annotations__)}"
            raise InputError(message, code=ErrorCode.UNKNOWN_OPTION, value=name)


def _list_folders(rules: Folders | None) -> tuple[Path, ...]:
    """Return the folders of the rule layers.

    Raises:
        InputError: The value is neither a path nor a sequence of paths.
    """
    folders = [rules] if isinstance(rules, (str, PathLike)) else [] if rules is None else rules
    try:
        return tuple(Path(folder) for folder in folders)
    except TypeError as error:
        message = f"--rules {rules!r} must be a folder or a list of folders"
        raise InputError(message, code=ErrorCode.INVALID_VALUE, option="--rules", value=rules) from error


def _compile_rules(folders: tuple[Path, ...], allow_imports: Sequence[str] = ()) -> CompiledRules:
    """Return the compiled rules of the layers; the latest are cached."""
    catalog = rule_folders.load_catalog(folders, allow_imports)
    key = (catalog.fingerprint, catalog.allowed_imports, *rule_folders.list_folders(folders))
    if key not in _compiled:
        _compiled.clear()
        _compiled[key] = rule_folders.load_rules(folders, allow_imports)
    return _compiled[key]


# The key has the fingerprint and the folders, because the fingerprint does not cover claims and surfaces.
_compiled: dict[tuple[object, ...], CompiledRules] = {}


def _check_flag(name: str, value: Any) -> bool | None:
    if value is None or value in (True, False):  # including 0, 1 and numpy.bool_
        return None if value is None else bool(value)
    raise _wrong_type(name, value, "True or False")


def _check_type(name: str, value: Any, kind: Any) -> Any:
    """Return the value of a benchmark option that is not a count, converted from numpy where necessary.

    Raises:
        InputError: The value has the wrong type.
    """
    if kind is bool and value is not None:
        return _check_flag(name, value)
    if name == "require":
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise _wrong_type(name, value, "a list of strings")
    if name == "implementation" and value is None:
        return None
    if kind is str and isinstance(value, str):
        return value
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    raise _wrong_type(name, value, _TYPE_NAMES[kind])


_TYPE_NAMES = {bool: "True or False", str: "a string", int: "an integer", float: "a number"}


def _wrong_type(name: str, value: object, expected: str) -> InputError:
    flag = f"--{name.replace('_', '-')}"
    return InputError(f"{flag} {value!r} must be {expected}", code=ErrorCode.INVALID_VALUE, option=flag, value=value)


def _format_value(name: str, value: Any) -> Any:
    """Return a value as typed on the command line: numbers as digits, lists joined by commas."""
    if value is None:
        return None
    if name == "hf_config":
        if not isinstance(value, (str, PathLike)):
            raise _wrong_type(name, value, "a path")
        return Path(value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)
