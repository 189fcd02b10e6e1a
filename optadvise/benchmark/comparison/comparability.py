"""Comparability of two results: differences that prevent a comparison, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict

from optadvise.benchmark.comparison.gpu_conditions import compare_gpus
from optadvise.benchmark.field_labels import ENVIRONMENT, SPEC
from optadvise.benchmark.records import ArmResult, BenchmarkResult, Environment
from optadvise.benchmark.spec import Spec

Side = Literal["BASE", "NEW"]
_LABELS = {**SPEC, **ENVIRONMENT}
# Settings that change the width of the intervals, not the measured quantity.
_AMOUNT = ("steps", "rounds", "warmup", "seed", "threads")
# Compared separately, or without influence on the figures.
_NOT_COMPARED = {"load", "packages", "executable", "device", "gpu", "gpus", "gpu_settings"}
_REPORTED_BY_WORKERS = {"device", "device_name", "threads"}
_LOAD_DIFFERENCE = 1.5  # load average that a previous run can cause


class LoadedResult(Struct, frozen=True):
    """Result with its side in a comparison."""

    side: Side
    name: str  # as typed
    result: BenchmarkResult

    @property
    def spec(self) -> Spec:
        """Return the settings of the benchmark."""
        return self.result.spec

    @property
    def environment(self) -> Environment:
        """Return the machine and software of the benchmark."""
        return self.result.environment

    @property
    def arms(self) -> Mapping[str, ArmResult]:
        """Return the arms by their labels."""
        return {arm.label: arm for arm in self.result.arms}

    @property
    def control(self) -> ArmResult | None:
        """Return the control arm; None without one."""
        return next((arm for arm in self.result.arms if arm.role == "control"), None)


def list_differences(base: LoadedResult, new: LoadedResult) -> list[str]:
    """Return differences in settings, hardware or model size that make a comparison meaningless."""
    before, after = asdict(base.spec), asdict(new.spec)
    settings = [name for name in before if name not in _AMOUNT]
    return [
        *_compare_fields(before, after, settings),
        *_compare_environments(base, new, [hardware_field(new.spec)]),
        *_compare_parameters(base, new),
    ]


def list_warnings(base: LoadedResult, new: LoadedResult) -> list[str]:
    """Return warnings about differences that can affect the ratios, one line each."""
    hardware = hardware_field(new.spec)
    names = [name for name in Environment.__struct_fields__ if name not in {*_NOT_COMPARED, hardware}]
    amounts = [name for name in _AMOUNT if name != "threads"]
    before, after = base.environment.packages, new.environment.packages
    return [
        *(f"{loaded.side} was interrupted and has fewer rounds than requested"
          for loaded in (base, new) if not loaded.result.complete),
        *(f"{loaded.side} was measured one optimizer after the other, so its ratios have the drift of the machine"
          for loaded in (base, new) if not loaded.result.interleaved),
        *(f"{loaded.side}: {warning.text}" for loaded in (base, new) for warning in loaded.result.warnings),
        *_compare_environments(base, new, names),
        *_compare_fields(asdict(base.spec), asdict(new.spec), amounts),
        *_compare_fields(before, after, sorted(before)),
        *_compare_load(base.environment, new.environment),
        *compare_gpus(base.environment, new.environment),
        *_compare_arms(base, new),
    ]  # fmt: skip


def hardware_field(spec: Spec) -> str:
    """Return the field of `Environment` that identifies the measured hardware."""
    return "processor" if spec.device == "cpu" else "device_name"


def _compare_environments(base: LoadedResult, new: LoadedResult, names: Iterable[str]) -> Iterator[str]:
    """Yield the fields of the environments that differ; skip fields from workers if none had started."""
    has_workers = bool(base.environment.packages and new.environment.packages)
    comparable = [name for name in names if has_workers or name not in _REPORTED_BY_WORKERS]
    return _compare_fields(asdict(base.environment), asdict(new.environment), comparable)


def _compare_fields(before: Mapping[str, object], after: Mapping[str, object], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name in before and name in after and before[name] != after[name]:
            yield f"{_LABELS.get(name, name)}: {_show_value(before[name])} in BASE, {_show_value(after[name])} in NEW"


def _show_value(value: object) -> str:
    return {"None": "not specified", "True": "on", "False": "off"}.get(str(value), str(value))


def _compare_parameters(base: LoadedResult, new: LoadedResult) -> Iterator[str]:
    for label, arm in new.arms.items():
        other = base.arms.get(label)
        if other is None or arm.parameters is None or other.parameters is None:
            continue
        if arm.parameters != other.parameters:
            yield f"parameters of {label}: {other.parameters:,} in BASE, {arm.parameters:,} in NEW"


def _compare_load(base: Environment, new: Environment) -> Iterator[str]:
    tolerance = max(_LOAD_DIFFERENCE, (new.cores or 1) / 4)
    if base.load is not None and new.load is not None and abs(new.load - base.load) > tolerance:
        yield f"load: {base.load:.1f} in BASE, {new.load:.1f} in NEW; other processes may have slowed one run"


def _compare_arms(base: LoadedResult, new: LoadedResult) -> Iterator[str]:
    for loaded, other in ((base, new), (new, base)):
        extra = [label for label in loaded.arms if label not in other.arms]
        if extra:
            yield f"only in {loaded.side}: {', '.join(extra)}"
        yield from (
            f"{arm.label} failed in {loaded.side} ({arm.status}): {arm.error}"
            for arm in loaded.arms.values()
            if arm.status != "ok"
        )
    common = [(base.arms[label], arm) for label, arm in new.arms.items() if label in base.arms]
    yield from _compare_implementations(common)
    candidates = [arm.label for _, arm in common if arm.role == "candidate"]
    if candidates and find_common_control(base, new) is None:
        yield (f"no common control: the times of {', '.join(candidates)} include every other change between the runs")


def _compare_implementations(common: Iterable[tuple[ArmResult, ArmResult]]) -> Iterator[str]:
    """Yield the arms whose class, variant or hyperparameters differ between BASE and NEW."""
    for before, arm in common:
        if not has_same_implementation(before, arm):
            yield f"{arm.label}: {_show_implementation(before)} in BASE, {_show_implementation(arm)} in NEW"
        elif before.implementation.kwargs != arm.implementation.kwargs:
            yield f"{arm.label}: hyperparameters differ between BASE and NEW"


def _show_implementation(arm: ArmResult) -> str:
    used = arm.implementation
    return f"{used.path} ({used.variant})" if used.variant else used.path


def has_same_implementation(arm: ArmResult, other: ArmResult) -> bool:
    """Return whether two arms used the same class and variant."""
    used, other_used = arm.implementation, other.implementation
    return (used.path, used.variant) == (other_used.path, other_used.variant)


def find_common_control(base: LoadedResult, new: LoadedResult) -> ArmResult | None:
    """Return NEW's control if BASE's control has the same optimizer and implementation; None otherwise."""
    control, base_control = new.control, base.control
    if control is None or base_control is None or control.optimizer != base_control.optimizer:
        return None
    return control if has_same_implementation(control, base_control) else None
