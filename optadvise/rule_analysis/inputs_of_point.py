"""Search for inputs that lead to a point of the grid of facts, and their command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import product

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import locate
from optadvise.core.cards import FactValue
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, InputValue, NetworkShape, Situation
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.regions import Point

_MODEL_SIZES = (10**6, 10**7, 10**8, 5 * 10**8, 2 * 10**9, 7 * 10**9, 7 * 10**10, 10**12)  # parameters to try
_GPU_FACTS = ("vendor", "bf16")  # stated by the name of a GPU
SHAPE_FACTS = {"model", "architecture", "normalization", "params"}  # stated by the shape of a network
_GPU_BYTES = tuple(2**30 * gib for gib in (24, 80, 8, 2, 640))  # memory sizes to try
_GPU_GIB_STEPS = range(1, 400, 3)  # memory sizes to try if none of these leads to the point


def find_inputs(rules: CompiledRules, point: Point) -> dict[str, FactValue] | None:
    """Return inputs that lead to a point, without those that equal their defaults; None if none are found.

    Args:
        point: Cells of facts, including derived facts.
    """
    inputs = _read_inputs(rules, point)
    limit_bytes = inputs.pop("vram_bytes", None)  # `_list_sizes` tries limits that lead to the memory pressure
    gpus = _list_gpus(rules, inputs)
    for extra in _list_sizes(rules, point, inputs, gpus, limit_bytes):
        candidate = {**inputs, **extra}
        if _leads_to(rules, candidate, point):
            return _drop_assumed(rules, candidate, point)
    return None


def _read_inputs(rules: CompiledRules, point: Point) -> dict[str, FactValue]:
    """Return a value inside each cell of the facts that can be stated."""
    inputs: dict[str, FactValue] = {}
    for name, fact in rules.catalog.facts.items():
        axis = rules.axes[name]
        if name not in point or point[name] == axis.unknown_cell or (not fact.is_input):
            continue
        value = axis.sample_value(point[name]) if axis.choices is None else axis.choices[point[name]]
        inputs[name] = int(value) if axis.choices is None else value == "true" if fact.type == "flag" else value
    if point.get("asked_for") == rules.axes["asked_for"].cell(True):
        inputs["optimizer"] = (rules.axes["optimizer"].choices or ())[point["optimizer"]]
    return inputs


def _list_gpus(rules: CompiledRules, inputs: dict[str, FactValue]) -> list[dict[str, FactValue]] | None:
    """Remove the inputs that only the name of a GPU states, and return the facts of the matching GPUs.

    Returns:
        Facts by GPU; None if no GPU is necessary.
    """
    stated = {name: inputs.pop(name) for name in _GPU_FACTS if name in inputs}
    unnamed = Situation()
    if all(value == getattr(unnamed, name) for name, value in stated.items()):
        return None
    return [
        {"gpu": gpu.name, "vram_bytes": gpu.memory_bytes, "vendor": gpu.vendor, "bf16": gpu.bf16}
        for gpu in rules.catalog.gpus
        if stated.get("vendor", gpu.vendor) == gpu.vendor and stated.get("bf16", gpu.bf16) == gpu.bf16
    ]


def _list_sizes(
    rules: CompiledRules,
    point: Point,
    inputs: Mapping[str, FactValue],
    gpus: list[dict[str, FactValue]] | None,
    limit_bytes: FactValue,
) -> Iterator[dict[str, FactValue]]:
    """Yield model sizes and memory limits to try.

    Args:
        gpus: Facts of the possible GPUs; None if no GPU is necessary.
        limit_bytes: Memory limit inside the point's cell, tried last; None if it is unknown.
    """
    axes = rules.axes
    pressure = (axes["memory"].choices or ())[point["memory"]] if "memory" in point else None
    tried = _GPU_BYTES if limit_bytes is None else (*_GPU_BYTES, limit_bytes)
    sizes_alone: list[dict[str, FactValue]] = [{"vram_bytes": size_bytes} for size_bytes in tried]
    limits = sizes_alone if gpus is None else gpus
    is_limited = point.get("vram_bytes", axes["vram_bytes"].unknown_cell) != axes["vram_bytes"].unknown_cell
    if gpus is None and (pressure == "unlimited" or (pressure is None and not is_limited)):
        yield {}
        return
    if pressure in (None, "limited"):
        yield from limits
        return
    sizes = [inputs["params"]] if "params" in inputs else _MODEL_SIZES
    sizes = [size for size in sizes if "params" not in point or axes["params"].cell(size) == point["params"]]
    for params, limit in product(sizes, limits):
        yield {"params": params, **limit}
    if gpus is None:  # finer steps, to get close to the threshold
        for params, gib in product(sizes, _GPU_GIB_STEPS):
            yield {"params": params, "vram_bytes": gib * 2**30}


def _leads_to(rules: CompiledRules, inputs: FactValues, point: Point) -> bool:
    """Return whether inputs are valid and lead to a point, with respect to facts that are read from the situation."""
    try:
        situation = complete_situation(rules, inputs)
    except InputError:
        return False
    cells = locate(rules, situation)
    # Derived values are unknown when the tables are read.
    derived = {
        name for name, cell in point.items() if cell == rules.axes[name].unknown_cell and name in situation.assumed
    }
    read = cells.keys() - derived - {"optimizer"}
    return all(cells[name] == cell for name, cell in point.items() if name in read)


def _drop_assumed(rules: CompiledRules, inputs: dict[str, FactValue], point: Point) -> dict[str, FactValue]:
    """Return inputs without those that equal their defaults."""
    stated_together = {"gpu", "vram_bytes", *_GPU_FACTS} if "gpu" in inputs else set()
    for name in tuple(inputs):
        if name not in stated_together and name != "optimizer":
            fewer = {key: value for key, value in inputs.items() if key != name}
            if _leads_to(rules, fewer, point):
                inputs = fewer
    return inputs


def format_command(rules: CompiledRules, inputs: FactValues, layers: tuple[str, ...] = ()) -> str:
    """Return the command line that states inputs.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> rules = CompiledRules(load())
        >>> format_command(rules, {"model": "cnn", "vram_bytes": 24 * 2**30, "sparse_gradients": True})
        'optadvise recommend --model cnn --vram 24GB --sparse-gradients'
    """
    arguments = ["optadvise", "recommend"]
    for name, value in inputs.items():
        if "shape" in inputs and name in SHAPE_FACTS:
            continue
        names_gpu = any(gpu.name == inputs.get("gpu") for gpu in rules.catalog.gpus)  # which states the memory
        arguments += _format_option(rules, name, value, names_gpu=names_gpu)
    for folder in layers:
        arguments += ["--rules", folder]
    return shlex.join(arguments)


def _format_option(rules: CompiledRules, name: str, value: InputValue, *, names_gpu: bool) -> list[str]:
    if name == "gpu":
        return ["--gpu", str(value)]
    if isinstance(value, NetworkShape):
        return [text for option in list_shape_options(value, rules.catalog) for text in option]
    if name == "vram_bytes" and isinstance(value, int):
        return [] if names_gpu else ["--vram", format_memory(value)]
    if name in _GPU_FACTS or value is None or value is False:
        return []
    fact = rules.catalog.facts.get(name)
    flag = (None if fact is None else fact.flag) or f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def list_shape_options(shape: NetworkShape, catalog: Catalog) -> list[tuple[str, str]]:
    """Return the options that describe a model, each with its value: a name, a file or dimensions."""
    flag = {"named": "--arch", "config": "--hf-config"}.get(shape.basis)
    if flag is not None:
        return [(flag, shape.name)]
    dims = dict(shape.dims)
    return [(each.flag or "", str(dims[each.id])) for each in catalog.base.inputs.values() if each.id in dims]


def format_memory(size_bytes: int) -> str:
    """Return a memory size in the syntax of `--vram`."""
    for unit, factor in (("GB", 2**30), ("MB", 2**20)):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"
