"""Description of the network by options: a name, a config.json, or dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optadvise.advice.model_names import ModelName, find_word
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import NetworkShape
from optadvise.core.units import parse_count
from optadvise.memory.architectures import build_named_shape, build_shape_from_dimensions
from optadvise.memory.hf_config import read_hf_config
from optadvise.memory.networks import load_networks, remove_owner
from optadvise.memory.rules import MemoryRules
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact, RunInput

_DIMENSIONS = ("hidden", "layers", "heads", "kv_heads", "ffn", "vocab")


def parse_number(text: str, option: Fact | RunInput) -> int:
    """Return the value of a numeric option.

    Raises:
        InputError: The text is not a number, or the number is out of range.
    """
    number = parse_count(text, str(option.flag), option.max_value, binary=option.binary)
    if option.min_value is not None and number < option.min_value:
        raise InputError(
            f"{option.flag} {text}: must be at least {option.min_value:,}; add a unit, such as 7B or 350M",
            code=ErrorCode.OUT_OF_RANGE, option=str(option.flag), value=text,
        )  # fmt: skip
    return number


def parse_shape(
    catalog: Catalog, typed: Mapping[str, Any], named: ModelName, facts: Mapping[str, Any]
) -> NetworkShape | None:
    """Return the shape that the options describe; None if they describe none.

    A network that `--model` names is used unless `--params` or other options describe the size.

    Raises:
        InputError: The name or a dimension is invalid, or several options describe a network.
    """
    dims = {name: typed[name] for name in _DIMENSIONS if typed.get(name) is not None}
    descriptions = [name for name in ("arch", "hf_config") if typed.get(name) is not None] + [*dims][:1]
    if len(descriptions) > 1:
        flags = [str(catalog.base.inputs[name].flag) for name in descriptions]
        raise InputError(
            f"{' '.join(flags)}: each describes the whole model; use one of them",
            code=ErrorCode.OPTION_CONFLICT, option=flags[-1], value=typed[descriptions[-1]],
        )  # fmt: skip
    if not descriptions:
        is_named = named.arch is not None and "params" not in facts
        return build_named_shape(load_networks(catalog), str(named.arch)) if is_named else None
    rules = MemoryRules(catalog)
    if typed.get("arch") is not None:
        return _find_named_shape(catalog, typed["arch"], named)
    if typed.get("hf_config") is not None:
        return read_hf_config(rules.networks, rules.settings.unsupported_heads, typed["hf_config"])
    numbers = {name: parse_number(value, catalog.base.inputs[name]) for name, value in dims.items()}
    model = facts.get("model", named.usual.get("model"))
    return build_shape_from_dimensions(rules.networks, rules.settings.default_families, model, numbers)


def _find_named_shape(catalog: Catalog, arch: str, named: ModelName) -> NetworkShape:
    """Return the shape that `--arch` names."""
    networks = load_networks(catalog)
    if networks.find_spelling(remove_owner(arch)) is None and find_word(catalog, arch) is not None:
        raise InputError(
            f"--arch {arch!r}: the dimensions of this network are not known; use --model {arch}",
            code=ErrorCode.UNKNOWN_NAME, option="--arch", value=arch,
        )  # fmt: skip
    shape = build_named_shape(networks, arch)
    if named.arch not in (None, shape.name):
        raise InputError(
            f"--arch {arch}: --model names another network, {named.arch}; remove one of them",
            code=ErrorCode.NETWORK_CONFLICT, option="--arch", value=arch,
        )  # fmt: skip
    return shape


def add_shape(catalog: Catalog, shape: NetworkShape, facts: dict[str, Any], typed: Mapping[str, Any]) -> None:
    """Add a shape and its kind of model to the specified facts.

    Raises:
        InputError: The facts contradict the shape.
    """
    family = load_networks(catalog).find_family(shape)
    model = family.model
    if facts.get("model", model) != model:
        raise InputError(
            f"--model {typed['model']}: {shape.name} is a {model}; remove --model",
            code=ErrorCode.NETWORK_CONFLICT, option="--model", value=typed["model"],
        )  # fmt: skip
    if facts.get("architecture", family.architecture) != family.architecture and family.architecture is not None:
        option = "model" if typed.get("architecture") is None else "architecture"
        raise InputError(
            f"--{option} {typed[option]}: {shape.name} is a {family.architecture}; remove --{option}",
            code=ErrorCode.NETWORK_CONFLICT, option=f"--{option}", value=typed[option],
        )  # fmt: skip
    if "params" in facts:
        raise InputError(
            f"--params {facts['params']:,}: {shape.name} determines the number of parameters; remove --params",
            code=ErrorCode.NETWORK_CONFLICT, option="--params", value=facts["params"],
        )  # fmt: skip
    facts.update(model=model, shape=shape)
    if family.architecture is not None:
        facts["architecture"] = family.architecture
    if family.normalization is not None:
        facts["normalization"] = family.normalization
