"""Shapes of networks from Hugging Face's `config.json`.

Nothing is guessed silently: a key that is missing, a value that is not modelled or an unknown family is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from optadvise.core.errors import InputError, suggest_name
from optadvise.core.records import NetworkShape
from optadvise.memory.architectures import check_dimension, complete_shape
from optadvise.memory.network_families import ConfigFlag, NetworkFamily
from optadvise.memory.networks import Networks

_LARGEST_FILE = 4 * 2**20  # bytes; a config.json has a few kilobytes
_LABELS = "id2label"  # whose entries are counted
_UNSUPPORTED_KEYS = {
    "quantization_config": "holds a quantised checkpoint, which is not what is trained; give the base model's config",
    "vision_config": "describes a second tower, which is not modelled; use --from package.module:function",
}

ConfigJson: TypeAlias = "Mapping[str, Any]"  # foreign JSON, whose values are checked one by one


def shape_from_config(networks: Networks, unsupported_heads: Sequence[str], path: Path) -> NetworkShape:
    """Return the shape that a `config.json` describes.

    Args:
        unsupported_heads: Endings of architectures whose head no family describes.
        path: The file, or its folder; nothing is downloaded.

    Raises:
        InputError: The file is missing, no JSON object, of an unknown family, or a key is missing, out of range or not
            modelled.
    """
    where = f"--hf-config {str(path)!r}"
    config = _read(path, where)
    model_type, family = _find_family(networks, config, where)
    _check_head(config, family, unsupported_heads, where)
    for key, why in _UNSUPPORTED_KEYS.items():
        if config.get(key) is not None:
            raise InputError(f"{where}: {key} {why}")
    if family.nested_config is not None and isinstance(config.get(family.nested_config), dict):
        config = config[family.nested_config]
    _check_supported(config, family, model_type, where)
    dims = _read_dimensions(config, family, model_type, where)
    flags = list(_read_flags(config, family, model_type, where))
    choices = dict(_read_choices(config, family, where))
    name = config.get("_name_or_path")
    shown = name if isinstance(name, str) and name else path.parent.name or path.stem
    shown = shown if path.name == "config.json" else path.stem
    return complete_shape(family, dims, flags, choices, shown, "config", where)


def _find_family(networks: Networks, config: ConfigJson, where: str) -> tuple[str, NetworkFamily]:
    """Return a config's model type and the family that has it."""
    families = {name: family for family in networks.families.values() for name in family.model_types}
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        what = f"is {_excerpt(model_type)}" if "model_type" in config else "is missing"
        raise InputError(f"{where}: key 'model_type' {what}; it names the family, such as \"llama\"")
    if model_type not in families:
        guess = suggest_name(model_type, sorted(families))
        raise InputError(f"{where}: model_type {model_type!r} is not known; {guess + ' ' if guess else ''}"
                         "give --hidden, --layers and --heads, or --from package.module:function")  # fmt: skip
    return model_type, families[model_type]


def _check_head(config: ConfigJson, family: NetworkFamily, unsupported_heads: Sequence[str], where: str) -> None:
    """Check that no architecture has a head that the family is not described with."""
    architectures = config.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if str(name).endswith(tuple(unsupported_heads)):
            raise InputError(
                f"{where}: architectures {_excerpt(name)} has a head that is not described; measure it with --from "
                f"package.module:function, or leave the key out to count {family.name}"
            )


def _check_supported(config: ConfigJson, family: NetworkFamily, model_type: str, where: str) -> None:
    for key, accepted in family.supported_values.items():
        if config.get(key, accepted[0]) not in accepted:
            raise InputError(
                f"{where}: {key} {_excerpt(config[key])} is not modelled for {model_type}; use --from "
                "package.module:function"
            )


def _read_dimensions(config: ConfigJson, family: NetworkFamily, model_type: str, where: str) -> dict[str, int]:
    """Return the dimensions that a config sets, or that its model type has by default."""
    dims = {}
    defaults = family.model_type_defaults.get(model_type, {})
    for name, dimension in family.dims.items():
        value = None
        if dimension.key is not None:
            value = config.get(dimension.key, config.get(dimension.alternative_key or ""))
        if value is None and name in defaults:
            value = int(defaults[name])
        if value is not None:
            dims[name] = _read_dimension(value, dimension.key or name, where)
        elif dimension.default is None:
            raise InputError(f"{where}: key {dimension.key!r} is missing, without which a {model_type} has no shape")
    return dims


def _read_dimension(value: object, key: str, where: str) -> int:
    if key == _LABELS:
        if not isinstance(value, dict):
            raise InputError(f"{where}: {key} {_excerpt(value)} must be an object with a name for each class")
        value = len(value)
    return check_dimension(value, key, _excerpt(value), where)


def _read_flags(config: ConfigJson, family: NetworkFamily, model_type: str, where: str) -> Iterator[str]:
    """Yield every flag of a family, `!flag` where it is off."""
    defaults = family.model_type_defaults.get(model_type, {})
    fixed = family.fixed_flags.get(model_type, {})
    for name, flag in family.flags.items():
        value = None if flag.key is None else config.get(flag.key)
        is_on = defaults.get(name, flag.default) if value is None else _read_flag(value, flag, where)
        yield name if fixed.get(name, is_on) else f"!{name}"


def _read_flag(value: object, flag: ConfigFlag, where: str) -> bool:
    """Return whether a flag is on: true or false, or whether the value equals or differs from another."""
    reference = flag.differs_from if flag.equals is None else flag.equals
    types: tuple[type, ...]
    if reference is None or isinstance(reference, bool):
        expected, types = "true or false", (bool,)
    elif type(reference) in (int, float):
        expected, types = "a number", (int, float)
    else:
        expected, types = "a text", (str,)
    if type(value) not in types or value != value:
        raise InputError(f"{where}: {flag.key} {_excerpt(value)} is not {expected}")
    return bool(value) if reference is None else (value == reference) is (flag.equals is not None)


def _read_choices(config: ConfigJson, family: NetworkFamily, where: str) -> Iterator[tuple[str, str]]:
    for name, choice in family.choices.items():
        value = None if choice.key is None else config.get(choice.key)
        if value is None:
            continue
        if not isinstance(value, str) or value not in choice.values:
            accepted = ", ".join(choice.values)
            raise InputError(f"{where}: {choice.key} {_excerpt(value)} is not modelled; known are {accepted}")
        yield name, value


def _read(path: Path, where: str) -> ConfigJson:
    try:
        data = json.loads(_config_file(path, where).read_bytes(), object_pairs_hook=_reject_duplicates)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); give a model's config.json") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: is no JSON (line {error.lineno}: {error.msg}); is it cut off?") from error
    except (ValueError, RecursionError) as error:
        first_line = str(error).split("\n")[0][:80]
        raise InputError(f"{where}: is no JSON ({first_line}); give a model's config.json") from error
    if not isinstance(data, dict):
        raise InputError(f"{where}: holds {_excerpt(data)}, not the object that a config.json is")
    return data


def _config_file(path: Path, where: str) -> Path:
    """Return the file that a path means, which is no larger than any config is."""
    if path.is_dir():
        path = path / "config.json"
        if not path.exists():
            raise InputError(f"{where}: the folder holds no config.json; name the file")
    if path.exists() and not path.is_file():
        raise InputError(f"{where}: is no regular file; give a model's config.json")
    if path.stat().st_size > _LARGEST_FILE:
        raise InputError(f"{where}: {path.stat().st_size / 2**20:.0f} MiB is no config.json; those have kilobytes")
    return path


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key!r} appears twice")
        values[key] = value
    return values


def _excerpt(value: object) -> str:
    return json.dumps(value)[:60]
