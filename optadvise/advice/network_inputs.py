"""Description of the network by options: a name, a config.json, or dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from optadvise.advice.model_names import ModelName, find_word
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, InputValue, NetworkShape, read_count
from optadvise.core.units import parse_count
from optadvise.memory.architectures import build_named_shape, build_shape_from_dimensions
from optadvise.memory.hf_config import read_hf_config
from optadvise.memory.network_size import count_parameters
from optadvise.memory.networks import Networks, load_networks, remove_owner
from optadvise.memory.rules import MemoryRules
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact, RunInput

_DIMENSIONS = ("hidden", "layers", "heads", "kv_heads", "ffn", "vocab")
_SIZE_TOLERANCE = 0.4  # names round sizes or leave out embeddings, as in minicpm-2b with 2.7B


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


def describe_network(
    catalog: Catalog, typed: Mapping[str, str], named: ModelName, facts: FactValues
) -> dict[str, InputValue]:
    """Return the facts that follow from the description of the network, besides the stated facts.

    Args:
        catalog: The rules.
        typed: Option values by name.
        named: Meaning of `--model`.
        facts: Stated facts, including those that `--model` states.

    Raises:
        InputError: The description is invalid, or contradicts a fact.
    """
    descriptions = _list_descriptions(catalog, typed)
    if descriptions == ["arch"] and not _is_network(catalog, typed["arch"]):
        word = find_word(catalog, typed["arch"])
        if word is not None:
            return _describe_word(word, typed, facts)
    shape = _parse_shape(catalog, typed, named, facts, descriptions)
    if shape is not None:
        return _describe_shape(catalog, shape, facts, typed)
    if not descriptions and named.arch is not None:
        named = replace(named, params=_count_named(catalog, named.arch))
    size = {} if named.params is None else {"params": _choose_params(named.params, f"--model {typed['model']}", facts)}
    return {name: value for name, value in {**named.usual, **size}.items() if name not in facts}


def _count_named(catalog: Catalog, arch: str) -> int:
    rules = MemoryRules(catalog)
    return count_parameters(rules, build_named_shape(rules.networks, arch))


def _list_descriptions(catalog: Catalog, typed: Mapping[str, str]) -> list[str]:
    """Return the option that describes the whole network; several dimensions count as one."""
    descriptions = [name for name in ("arch", "hf_config") if typed.get(name) is not None]
    descriptions += [name for name in _DIMENSIONS if typed.get(name) is not None][:1]
    if len(descriptions) > 1:
        flags = [str(catalog.base.inputs[name].flag) for name in descriptions]
        raise InputError(
            f"{' '.join(flags)}: each describes the whole model; use one of them",
            code=ErrorCode.OPTION_CONFLICT, option=flags[-1], value=typed[descriptions[-1]],
        )  # fmt: skip
    return descriptions


def _is_network(catalog: Catalog, arch: str) -> bool:
    """Return whether the dimensions of a named network are known."""
    return load_networks(catalog).find_spelling(remove_owner(arch)) is not None


def _describe_word(word: ModelName, typed: Mapping[str, str], facts: FactValues) -> dict[str, InputValue]:
    """Return the facts of `--arch` with a name whose kind and size are known, but not its dimensions."""
    arch = typed["arch"]
    stated = {**word.usual, **word.facts}
    _reject_other_facts(stated, arch, facts, typed)
    if word.params is None and "params" not in facts:
        raise InputError(
            f"--arch {arch!r}: the size of this network is not known; add --params, or use --model {arch}",
            code=ErrorCode.NETWORK_UNKNOWN, option="--arch", value=arch,
        )  # fmt: skip
    size = {} if word.params is None else {"params": _choose_params(word.params, f"--arch {arch}", facts)}
    return {**stated, **size}


def _choose_params(params: int, name: str, facts: FactValues) -> int:
    """Return the stated parameters if they agree with those of a name, otherwise those of the name.

    Args:
        params: Parameters of the name.
        name: The option with the name.
        facts: Stated facts.

    Raises:
        InputError: They differ by more than rounding.
    """
    stated = read_count(facts, "params") if "params" in facts else params
    if abs(stated / params - 1) > _SIZE_TOLERANCE:
        raise _reject_params(stated, f"{name} has {params:,} parameters; remove one of them")
    return stated


def _reject_params(stated: int, problem: str) -> InputError:
    return InputError(
        f"--params {stated:,}: {problem}", code=ErrorCode.NETWORK_CONFLICT, option="--params", value=stated
    )


def _reject_other_facts(described: FactValues, name: str, facts: FactValues, typed: Mapping[str, str]) -> None:
    """Reject stated facts that differ from those of a described network."""
    for fact, value in described.items():
        stated = facts.get(fact, value)
        if stated != value:
            option = "model" if typed.get(fact) is None else fact
            raise InputError(
                f"--{option} {typed[option]}: the {fact} of {name} is {value}; remove --{option}",
                code=ErrorCode.NETWORK_CONFLICT, option=f"--{option}", value=typed[option],
            )  # fmt: skip


def _parse_shape(
    catalog: Catalog, typed: Mapping[str, str], named: ModelName, facts: FactValues, descriptions: list[str]
) -> NetworkShape | None:
    """Return the shape that the options describe; None if they describe none.

    A network that `--model` names is used unless `--params` or other options describe the size.
    """
    if not descriptions:
        is_named = named.arch is not None and "params" not in facts
        return build_named_shape(load_networks(catalog), str(named.arch)) if is_named else None
    rules = MemoryRules(catalog)
    if typed.get("arch") is not None:
        return _find_named_shape(rules.networks, typed["arch"], named)
    if typed.get("hf_config") is not None:
        return read_hf_config(rules.networks, rules.settings.unsupported_heads, Path(typed["hf_config"]))
    dims = {name: typed[name] for name in _DIMENSIONS if typed.get(name) is not None}
    numbers = {name: parse_number(value, catalog.base.inputs[name]) for name, value in dims.items()}
    model = facts.get("model", named.usual.get("model"))
    family = None if model is None else str(model)
    return build_shape_from_dimensions(rules.networks, rules.settings.default_families, family, numbers)


def _find_named_shape(networks: Networks, arch: str, named: ModelName) -> NetworkShape:
    """Return the shape that `--arch` names."""
    shape = build_named_shape(networks, arch)
    if named.arch not in (None, shape.name):
        raise InputError(
            f"--arch {arch}: --model names another network, {named.arch}; remove one of them",
            code=ErrorCode.NETWORK_CONFLICT, option="--arch", value=arch,
        )  # fmt: skip
    return shape


def _describe_shape(
    catalog: Catalog, shape: NetworkShape, facts: FactValues, typed: Mapping[str, str]
) -> dict[str, InputValue]:
    """Return a shape with the facts of its family."""
    family = load_networks(catalog).find_family(shape)
    kinds = {"model": family.model, "architecture": family.architecture, "normalization": family.normalization}
    described = {fact: value for fact, value in kinds.items() if value is not None}
    _reject_other_facts(described, shape.name, facts, typed)
    if "params" in facts:
        problem = f"{shape.name} determines the number of parameters; remove --params"
        raise _reject_params(read_count(facts, "params"), problem)
    return {**described, "shape": shape}
