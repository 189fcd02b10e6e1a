"""Shapes of networks from Hugging Face's `config.json`.

A missing key, a value that the estimate does not support and an unknown model type are errors; nothing is guessed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.foreign import ForeignFileError, decode_json, read_bounded
from optadvise.core.records import NetworkShape
from optadvise.core.text import clean_text
from optadvise.memory.architectures import check_dimension, complete_shape
from optadvise.memory.network_families import ConfigFlag, NetworkFamily
from optadvise.memory.networks import Networks

_LARGEST_FILE = 4 * 2**20  # bytes; a config.json has a few kilobytes
_LONGEST_NAME = 100  # characters of a network's name in answers
_OPTION = "--hf-config"
_FILE = "config.json"
_LABELS = "id2label"  # the number of its entries is the number of classes
_UNSUPPORTED_KEYS = {
    "quantization_config": "describes a quantized checkpoint; use the config.json of the base model",
    "vision_config": "describes a second model, which is not supported; use --workload package.module:function",
}

ConfigJson: TypeAlias = "Mapping[str, Any]"  # JSON of unknown content; each value is checked when it is read


def read_hf_config(networks: Networks, unsupported_heads: Sequence[str], path: Path) -> NetworkShape:
    """Return the shape that a `config.json` describes.

    Args:
        unsupported_heads: Endings of architectures whose head no family describes.
        path: The file, or its folder; nothing is downloaded.

    Raises:
        InputError: The file does not exist or is not a JSON object, its model type is unknown, or a key is missing, out
            of range or not supported.
    """
    where = f"{_OPTION} {str(path)!r}"
    config = _read_json(path, where)
    model_type, family = _find_family(networks, config, where)
    _check_head(config, family, unsupported_heads, where)
    for key, why in _UNSUPPORTED_KEYS.items():
        if config.get(key) is not None:
            raise _make_error(f"{where}: {key} {why}", key)
    if family.nested_config is not None and isinstance(config.get(family.nested_config), dict):
        config = config[family.nested_config]
    _check_supported(config, family, model_type, where)
    dims = _read_dimensions(config, family, model_type, where)
    flags = list(_read_flags(config, family, model_type, where))
    choices = dict(_read_choices(config, family, where))
    name = clean_text(_name_network(path), _LONGEST_NAME)
    return complete_shape(family, dims, flags, choices, name, "config", where)


def _name_network(path: Path) -> str:
    """Return the name that the user typed: the config's `_name_or_path` could claim to be another model."""
    if path.is_fifo():
        return str(path)
    if path.name == _FILE:
        path = path.parent
    if path.name in ("", ".."):
        return _FILE
    return path.stem if path.suffix == ".json" else path.name


def _make_error(message: str, value: object, code: ErrorCode = ErrorCode.INVALID_NETWORK) -> InputError:
    """Return the error for a config that is invalid or not supported."""
    return InputError(message, code=code, option=_OPTION, value=value)


def _find_family(networks: Networks, config: ConfigJson, where: str) -> tuple[str, NetworkFamily]:
    """Return a config's model type and the family that has it."""
    families = {name: family for family in networks.families.values() for name in family.model_types}
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        problem = f"must be a string, found {_format_excerpt(model_type)}" if "model_type" in config else "is missing"
        raise _make_error(
            f"{where}: key 'model_type' {problem}; set it to the architecture, such as \"llama\"", model_type
        )
    if model_type not in families:
        guess = suggest_name(model_type, sorted(families))
        raise _make_error(
            f"{where}: model_type {model_type!r} is not supported; {guess + ' ' if guess else ''}"
            "use --hidden, --layers, --heads, --ffn and --vocab, or --workload package.module:function",
            model_type,
        )
    return model_type, families[model_type]


def _check_head(config: ConfigJson, family: NetworkFamily, unsupported_heads: Sequence[str], where: str) -> None:
    """Check that no architecture has a head that the family is not described with."""
    architectures = config.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if str(name).endswith(tuple(unsupported_heads)):
            raise _make_error(
                f"{where}: the head of architecture {_format_excerpt(name)} is not supported; use --workload "
                f"package.module:function, or remove 'architectures' to estimate {family.name}",
                name,
            )


def _check_supported(config: ConfigJson, family: NetworkFamily, model_type: str, where: str) -> None:
    for key, accepted in family.supported_values.items():
        if config.get(key, accepted[0]) not in accepted:
            raise _make_error(
                f"{where}: {key} {_format_excerpt(config[key])} is not supported for {model_type}; use --workload "
                "package.module:function",
                config[key],
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
            raise _make_error(f"{where}: key {dimension.key!r} is missing; {model_type} requires it", None)
    return dims


def _read_dimension(value: object, key: str, where: str) -> int:
    if key == _LABELS:
        if not isinstance(value, dict):
            raise _make_error(
                f"{where}: {key} {_format_excerpt(value)} must be an object with one entry per class", value
            )
        value = len(value)
    return check_dimension(value, key, _format_excerpt(value), where)


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
        expected, types = "a string", (str,)
    if type(value) not in types or value != value:
        raise _make_error(f"{where}: {flag.key} {_format_excerpt(value)} must be {expected}", value)
    return bool(value) if reference is None else (value == reference) is (flag.equals is not None)


def _read_choices(config: ConfigJson, family: NetworkFamily, where: str) -> Iterator[tuple[str, str]]:
    for name, choice in family.choices.items():
        value = None if choice.key is None else config.get(choice.key)
        if value is None:
            continue
        if not isinstance(value, str) or value not in choice.values:
            accepted = ", ".join(choice.values)
            raise _make_error(
                f"{where}: {choice.key} {_format_excerpt(value)} is not supported; accepted: {accepted}", value
            )
        yield name, value


def _read_json(path: Path, where: str) -> ConfigJson:
    try:
        data = decode_json(read_bounded(_find_config_file(path, where), _LARGEST_FILE), max_number=None)
    except ForeignFileError as error:
        raise _make_error(f"{where}: {error}; use a model's config.json", str(path), error.code) from error
    if not isinstance(data, dict):
        raise _make_error(f"{where}: the file must contain a JSON object, found {_format_excerpt(data)}", str(path))
    return data


def _find_config_file(path: Path, where: str) -> Path:
    """Return the config file at a path, which may be its folder.

    Raises:
        InputError: The folder has no config file.
    """
    if not os.path.isdir(path):  # noqa: PTH112, Path.is_dir raises an error for a long name
        return path
    file = path / _FILE
    if not file.exists():
        problem = f"the folder contains no {_FILE}"
        raise _make_error(f"{where}: {problem}; use the path of the file", str(path), ErrorCode.FILE_NOT_FOUND)
    return file


def _format_excerpt(value: object) -> str:
    return json.dumps(value)[:60]
