"""From what a person knows of a network to its blocks: a name, a `config.json`, dimensions, or a size alone.

Nothing is guessed in silence: a key that is missing, a value that is not modelled or a family that is not known is an
error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optadvise.core.errors import InputError, nearest
from optadvise.core.records import NetworkShape
from optadvise.memory.block_program import compiled, product
from optadvise.memory.network import Block, Network, walk
from optadvise.memory.records import Batch, Mode
from optadvise.rulebase.catalog import Catalog

_LARGEST_FILE = 4 * 2**20  # a config.json has a few kilobytes
_LARGEST = 10**7  # of any dimension; vocabularies end at about 10^6
_LABELS = "id2label"  # counts by what it holds
_MOST_LAYERS = 4096  # of a network, and heads of a layer


# Keys of what is no plain network that is trained.
_ELSEWHERE = {
    "quantization_config": "holds a quantised checkpoint, which is not what is trained; give the base model's config",
    "vision_config": "describes a second tower, which is not modelled; use --from package.module:function",
}


def from_config(catalog: Catalog, path: Path) -> NetworkShape:
    """Return the shape that a Hugging Face `config.json` describes.

    Args:
        catalog: Knows the families.
        path: The file; it is read offline.

    Raises:
        InputError: The file is missing, no JSON object, of an unknown family, or a key is missing, absurd or not
            modelled.
    """
    where = f"--hf-config {str(path)!r}"
    config = _read(path, where)
    kind = config.get("model_type")
    by_type = {word: f for f in catalog.networks.values() for word in f.get("model_types", ())}
    if not isinstance(kind, str):
        what = f"is {_short(kind)}" if "model_type" in config else "is missing"
        raise InputError(f"{where}: key 'model_type' {what}; it names the family, such as \"llama\"")
    family = by_type.get(kind)
    if family is None:
        guess = nearest(kind, sorted(by_type))
        raise InputError(f"{where}: model_type {kind!r} is not known; {guess + ' ' if guess else ''}"
                         "give --hidden, --layers and --heads, or --from package.module:function")  # fmt: skip
    _check_head(catalog, config, family, where)
    for key, why in _ELSEWHERE.items():
        if config.get(key) is not None:
            raise InputError(f"{where}: {key} {why}")
    nested = family.get("nested")
    if nested is not None and isinstance(config.get(nested), dict):
        config = config[nested]
    for key, accepted in family.get("only", {}).items():
        if config.get(key, accepted[0]) not in accepted:
            raise InputError(
                f"{where}: {key} {_short(config[key])} is not modelled for {kind}; use --from package.module:function"
            )
    dims = {}
    own = family.get("defaults", {}).get(kind, {})
    for name, entry in family.get("dims", {}).items():
        value = config.get(entry["key"], config.get(entry.get("also", ""))) if "key" in entry else None
        value = int(own[name]) if value is None and name in own else value
        if value is not None:
            dims[name] = _dimension(value, entry["key"], where)
        elif "default" not in entry:
            raise InputError(f"{where}: key {entry['key']!r} is missing, without which a {kind} has no shape")
    flags, choices = [], {}
    fixed = family.get("fixed", {}).get(kind, {})
    for name, entry in family.get("flags", {}).items():
        value = config.get(entry["key"]) if "key" in entry else None
        on = own.get(name, entry.get("default", False)) if value is None else _switched(value, entry, where)
        flags.append(name if fixed.get(name, on) else f"!{name}")
    for name, entry in family.get("choices", {}).items():
        value = config.get(entry["key"]) if "key" in entry else None
        if value is not None:
            if not isinstance(value, str) or value not in entry["accepts"]:
                accepted = ", ".join(entry["accepts"])
                raise InputError(f"{where}: {entry['key']} {_short(value)} is not modelled; known are {accepted}")
            choices[name] = value
    name = config.get("_name_or_path")
    shown = name if isinstance(name, str) and name else path.parent.name or path.stem
    return _complete(family, dims, flags, choices, shown if path.name == "config.json" else path.stem, "config", where)


def _check_head(catalog: Catalog, config: Mapping[str, Any], family: Mapping[str, Any], where: str) -> None:
    """Refuse a head that the family is not described with, which would be priced as another."""
    built = config.get("architectures")
    for name in built if isinstance(built, list) else ():
        if any(str(name).endswith(head) for head in catalog.memory.other_heads):
            raise InputError(
                f"{where}: architectures {_short(name)} has a head that is not described; measure it with --from "
                f"package.module:function, or leave the key out to count {family['name']}"
            )


def named(catalog: Catalog, name: str) -> NetworkShape:
    """Return a well-known shape.

    Raises:
        InputError: The name is not known.
    """
    found = name if name in catalog.shapes else catalog.find_shape(name)
    family, shape = catalog.shapes[found]
    return _complete(
        catalog.networks[family], dict(shape.get("dims", {})), shape.get("flags", ()), shape.get("choices", {}),
        found, "named", f"--arch {name!r}",
    )  # fmt: skip


def from_dimensions(catalog: Catalog, model: str | None, dims: Mapping[str, int]) -> NetworkShape:
    """Return a network with given dimensions.

    Args:
        catalog: Knows the family that stands for a kind of model (`plain` in `rules/memory.yaml`).
        model: The kind; None is the first that has one.
        dims: Dimensions by name.

    Raises:
        InputError: A dimension is missing or does not go with another, or the kind of model has no such dimensions.
    """
    where = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in dims.items())
    plain = catalog.memory.plain
    family = next(iter(plain.values())) if model is None else plain.get(model)
    if family is None:
        raise InputError(f"{where}: a {model} is not described by these; give --arch NAME, --params or --from")
    document = catalog.networks[family]
    missing = [n for n, entry in document.get("dims", {}).items() if n not in dims and "default" not in entry]
    if missing:
        flags = " ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise InputError(f"{where}: {flags} missing, without which there is no shape")
    for name, value in dims.items():
        _dimension(value, name, where)
    return _complete(document, dict(dims), (), {}, "these dimensions", "dimensions", where)


def targets(catalog: Catalog, shape: NetworkShape | None) -> set[str]:
    """Return the short names of the linear layers that may have adapters; without a shape, those of every family."""
    families = catalog.networks.values() if shape is None else [catalog.networks[shape.family]]
    return {
        line["words"]["target"]
        for family in families
        for block in family["blocks"]
        for line in block["lines"]
        if "target" in line["words"]
    }


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        if path.is_dir():
            path = path / "config.json"
            if not path.exists():
                raise InputError(f"{where}: the folder holds no config.json; name the file")
        if path.exists() and not path.is_file():
            raise InputError(f"{where}: is no regular file; give a model's config.json")
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{where}: {path.stat().st_size / 2**20:.0f} MiB is no config.json; those have kilobytes")
        data = json.loads(path.read_bytes(), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); give a model's config.json") from error
    except (ValueError, RecursionError) as error:
        what = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else _first_line(error)
        cut = "; is it cut off?" if isinstance(error, json.JSONDecodeError) else "; give a model's config.json"
        raise InputError(f"{where}: is no JSON ({what}){cut}") from error
    if not isinstance(data, dict):
        raise InputError(f"{where}: holds {_short(data)}, not the object that a config.json is")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} appears twice")
        found[key] = value
    return found


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:80]


def _short(value: Any) -> str:
    return json.dumps(value)[:60]


def _switched(value: Any, entry: Mapping[str, Any], where: str) -> bool:
    """Read a flag: true or false, or whether a value is (not) a given one."""
    against = entry.get("is", entry.get("is_not"))
    wanted = (
        "true or false"
        if against is None or isinstance(against, bool)
        else "a number"
        if type(against) in (int, float)
        else "a text"
    )
    kinds = {"true or false": (bool,), "a number": (int, float), "a text": (str,)}[wanted]
    if type(value) not in kinds or value != value:
        raise InputError(f"{where}: {entry['key']} {_short(value)} is not {wanted}")
    return bool(value) if against is None else (value == against) is ("is" in entry)


def _dimension(value: Any, key: str, where: str) -> int:
    if key == _LABELS:
        if not isinstance(value, dict):
            raise InputError(f"{where}: {key} {_short(value)} must be an object with a name for each class")
        value = len(value)
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise InputError(f"{where}: {key} {_short(value)} must be a whole number from 1 to {_LARGEST:,}")
    return value


def _complete(family: Mapping[str, Any], dims: dict[str, int], flags: Any, choices: Mapping[str, str], name: str,
              basis: str, where: str) -> NetworkShape:  # fmt: skip
    """Fill in defaults and derived dimensions, and refuse what does not divide."""
    for entry, source in (*family.get("dims", {}).items(), *((k, {"default": v}) for k, v in _derived(family))):
        if entry not in dims and "default" in source:
            dims[entry] = _divided(source["default"], dims, entry, where)
    for entry, limit in (("layers", _MOST_LAYERS), ("heads", _MOST_LAYERS)):
        if dims.get(entry, 1) > limit:
            raise InputError(f"{where}: {entry} {dims[entry]:,} is more than any network has ({limit:,})")
    for entry, most in family.get("at_most", {}).items():
        if dims[entry] > dims[most]:
            names = [family["dims"][word].get("key", word) for word in (entry, most)]
            raise InputError(f"{where}: {names[0]} {dims[entry]} is more than {names[1]} {dims[most]}; check both")
    taken = {
        entry: source["accepts"][choices.get(entry, source.get("default"))]
        for entry, source in family.get("choices", {}).items()
    }
    on = {entry for entry, source in family.get("flags", {}).items() if source.get("default")}
    on = {flag for flag in {*on, *flags} if flag[0] != "!" and f"!{flag}" not in flags}
    return NetworkShape(
        family["family"], name, basis, tuple(sorted(dims.items())), tuple(sorted({*on, *taken.values()}))
    )


def _derived(family: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(family.get("derived", {}).items())


def _divided(expression: str, dims: Mapping[str, int], name: str, where: str) -> int:
    whole, *divisors = expression.split("/")
    value = product(whole, dims)
    for divisor in divisors:
        by = product(divisor, dims)
        if value % by:
            raise InputError(
                f"{where}: {whole} {value} is no multiple of {divisor} {by}, so {name.replace('_', ' ')} is no whole "
                "number; check both"
            )
        value //= by
    if value < 1:
        raise InputError(f"{where}: {name} {value} must be at least 1")
    return value


def network(catalog: Catalog, shape: NetworkShape) -> Network:
    """Return the blocks of a shape.

    Args:
        catalog: Knows the families.
        shape: From one of the functions here.
    """
    family = catalog.networks[shape.family]
    flags = family.get("flags", {})
    dims = {**{name: int(name in shape.flags) for name in flags}, **dict(shape.dims)}
    blocks = {block["block"]: block for block in family["blocks"]}
    stages = catalog.shapes[shape.name][1].get("stages") if shape.basis == "named" else None
    staged = stages is not None
    if stages is None:
        stages = [{"block": name, "repeat": block.get("repeat", "1"), "dims": {}} for name, block in blocks.items()]
    made = []
    for stage in stages:
        block = blocks[stage["block"]]
        own = {**dims, **stage["dims"]}
        program = _compiled(family["family"], stage["block"], catalog)
        repeat = product(str(stage["repeat"]), own)
        # The first of a stage may get another size or precision than the rest; where blocks widen, each gets its own.
        alike = [1] * repeat if block.get("widens") else [1, repeat - 1] if staged and repeat > 1 else [repeat]
        made += [
            Block(stage["block"], program, count, own, block.get("takes", "x"), block.get("gives"),
                  block.get("checkpointed", False), block.get("head", False))
            for count in alike
        ]  # fmt: skip
    return Network(shape.name, tuple(made), family["input"] == "images", frozenset(shape.flags))


def check_image(network: Network, side: int, where: str) -> None:
    """Refuse images that a network's windows do not fit on.

    Args:
        network: The network; one of tokens takes any length.
        side: Pixels of an image's side.
        where: The flag that was typed, for the message.

    Raises:
        InputError: The side is too small; the message has the smallest that is not.
    """
    if not network.images or _takes(network, side):
        return
    smallest = side + 1
    while not _takes(network, smallest):
        smallest += 1
    raise InputError(f"{where} {side} is too small for {network.name}, whose smallest is {smallest}")


def _takes(network: Network, side: int) -> bool:
    try:
        walk(network, Mode(flags=network.flags), Batch(1, side), checkpoint=False, release=False)
    except InputError:
        return False
    return True


def _compiled(family: str, block: str, catalog: Catalog) -> Any:
    document = next(b for b in catalog.networks[family]["blocks"] if b["block"] == block)
    if "compiled" not in document:
        document["compiled"] = compiled(document["lines"], document.get("holds", ()))
    return document["compiled"]


def check_length(catalog: Catalog, shape: NetworkShape, length: int, where: str) -> None:
    """Refuse samples that are longer than a network has learned positions.

    Args:
        catalog: Knows the families.
        shape: The network.
        length: Tokens of a sample.
        where: The flag that was typed, for the message.

    Raises:
        InputError: It has fewer positions.
    """
    most = most_tokens(catalog, shape)
    if most is not None and length > most:
        raise InputError(f"{where} {length}: {shape.name} has learned positions for {most} tokens; shorten the samples")


def most_tokens(catalog: Catalog, shape: NetworkShape) -> int | None:
    """Return how many tokens a network has learned positions for, None where nothing limits it."""
    learned = catalog.networks[shape.family].get("positions")
    return None if learned is None else product(learned, dict(shape.dims))


def usual_length(catalog: Catalog, shape: NetworkShape) -> int:
    """Return the tokens, or pixels of an image's side, that a shape is usually trained at."""
    family = catalog.networks[shape.family]
    if shape.basis == "named" and "length" in catalog.shapes[shape.name][1]:
        return int(catalog.shapes[shape.name][1]["length"])
    return product(family.get("length", "2048"), dict(shape.dims))
