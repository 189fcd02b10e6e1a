"""Shapes of networks from a name or from dimensions, and the blocks of a shape.

Nothing is guessed silently: a dimension that is missing or does not divide is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import NetworkShape
from optadvise.memory.network import Block, Network, simulate_blocks
from optadvise.memory.network_families import BlockDescription, NetworkFamily, Stage
from optadvise.memory.networks import Networks
from optadvise.memory.programs import evaluate_product
from optadvise.memory.records import ComputeMode, MicroBatch

LARGEST_DIMENSION = 10**7  # vocabularies end at about 10^6
_LARGEST_COUNTS = {"layers": 4096, "heads": 4096}  # of a network, and of a layer


def build_named_shape(networks: Networks, name: str) -> NetworkShape:
    """Return a well-known shape.

    Args:
        name: In any spelling.

    Raises:
        InputError: No shape has this name.
    """
    key = name if name in networks.shapes else networks.find_shape(name)
    shape = networks.shapes[key]
    family = networks.families[shape.family]
    return complete_shape(family, shape.dims, shape.flags, shape.choices, key, "named", f"--arch {name!r}")


def build_shape_from_dimensions(
    networks: Networks, default_families: Mapping[str, str], model: str | None, dims: Mapping[str, int]
) -> NetworkShape:
    """Return a network with given dimensions.

    Args:
        default_families: The family that stands for each kind of model.
        model: The kind; None is the first that has a default family.

    Raises:
        InputError: A dimension is missing or does not go with another, or the kind of model has no default family.
    """
    where = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in dims.items())
    name = next(iter(default_families.values())) if model is None else default_families.get(model)
    if name is None:
        raise InputError(
            f"{where}: --model {model} cannot be described by dimensions; use --arch NAME, --params or --workload",
            code=ErrorCode.OPTION_CONFLICT, option="--model", value=model,
        )  # fmt: skip
    family = networks.families[name]
    missing = [n for n, dimension in family.dims.items() if n not in dims and dimension.default is None]
    if missing:
        flags = [f"--{name.replace('_', '-')}" for name in missing]
        raise InputError(
            f"{where}: the network needs more dimensions; add {' '.join(flags)}",
            code=ErrorCode.MISSING_OPTION, option=flags[0],
        )  # fmt: skip
    for key, value in dims.items():
        check_dimension(value, key, str(value), where)
    return complete_shape(family, dims, (), {}, "these dimensions", "dimensions", where)


def check_dimension(value: object, key: str, shown: str, where: str) -> int:
    """Return a dimension that is a whole number in range.

    Args:
        value: The number, as it was read.
        shown: The value, for the message.

    Raises:
        InputError: The value is not a whole number, or out of range.
    """
    if type(value) is not int or not 1 <= value <= LARGEST_DIMENSION:
        raise InputError(
            f"{where}: {key} {shown} must be a whole number from 1 to {LARGEST_DIMENSION:,}",
            code=ErrorCode.OUT_OF_RANGE if type(value) is int else ErrorCode.INVALID_NETWORK,
            option=_find_option(where, key), value=value,
        )  # fmt: skip
    return value


def _find_option(where: str, dimension: str) -> str:
    """Return the option that sets a dimension: its own, or the one that describes the whole network."""
    options = where.split()
    own = f"--{dimension.replace('_', '-')}"
    return own if own in options else options[0]


def complete_shape(
    family: NetworkFamily, dims: Mapping[str, int], flags: Sequence[str], choices: Mapping[str, str], name: str,
    basis: str, where: str,
) -> NetworkShape:  # fmt: skip
    """Return a shape with default and derived dimensions filled in.

    Args:
        dims: The dimensions that are given.
        flags: Those that are on; `!flag` switches one off.
        basis: config, named or dimensions.

    Raises:
        InputError: A dimension is out of range, or does not divide another that must be a multiple.
    """
    complete = _complete_dimensions(family, dims, where)
    _check_bounds(family, complete, where)
    chosen = {choice.values[choices.get(key, choice.default)] for key, choice in family.choices.items()}
    on = {*(key for key, flag in family.flags.items() if flag.default), *flags}
    on = {flag for flag in on if flag[0] != "!" and f"!{flag}" not in flags}
    return NetworkShape(
        family=family.family,
        name=name,
        basis=basis,
        dims=tuple(sorted(complete.items())),
        flags=tuple(sorted(on | chosen)),
    )


def _complete_dimensions(family: NetworkFamily, dims: Mapping[str, int], where: str) -> dict[str, int]:
    complete = dict(dims)
    defaults = {name: dimension.default for name, dimension in family.dims.items()}
    for name, default in (*defaults.items(), *family.derived.items()):
        if name not in complete and default is not None:
            complete[name] = _evaluate_exactly(default, complete, name, where)
    return complete


def _check_bounds(family: NetworkFamily, dims: Mapping[str, int], where: str) -> None:
    for name, largest in _LARGEST_COUNTS.items():
        if dims.get(name, 1) > largest:
            raise InputError(
                f"{where}: {name} {dims[name]:,} must be at most {largest:,}",
                code=ErrorCode.OUT_OF_RANGE, option=_find_option(where, name), value=dims[name],
            )  # fmt: skip
    for name, bound in family.upper_bounds.items():
        if dims[name] > dims[bound]:
            key, bound_key = (family.dims[dim].key or dim for dim in (name, bound))
            raise InputError(
                f"{where}: {key} {dims[name]} must be at most {bound_key} {dims[bound]}; change one of them",
                code=ErrorCode.INVALID_NETWORK, option=_find_option(where, name), value=dims[name],
            )  # fmt: skip


def _evaluate_exactly(expression: str, dims: Mapping[str, int], name: str, where: str) -> int:
    """Return the value of the product that defines a dimension; a division with a remainder is an error."""
    dividend, *divisors = expression.split("/")
    value = evaluate_product(dividend, dims)
    for divisor in divisors:
        by = evaluate_product(divisor, dims)
        if value % by:
            raise InputError(
                f"{where}: {dividend} {value} must be divisible by {divisor} {by}; change one of them",
                code=ErrorCode.NOT_DIVISIBLE, option=_find_option(where, dividend), value=value,
            )  # fmt: skip
        value //= by
    if value < 1:
        raise InputError(
            f"{where}: {name} {value} must be at least 1",
            code=ErrorCode.OUT_OF_RANGE, option=_find_option(where, name), value=value,
        )  # fmt: skip
    return value


# -- the blocks of a shape -----------------------------------------------------------------------------------------


def build_network(networks: Networks, shape: NetworkShape) -> Network:
    """Return the blocks of a shape."""
    family = networks.find_family(shape)
    dims = {**{name: int(name in shape.flags) for name in family.flags}, **dict(shape.dims)}
    named = networks.find_named_shape(shape)
    stages = None if named is None else named.stages
    is_staged = stages is not None
    blocks = [
        block
        for stage in stages or [Stage(block=block.block, repeat=block.repeat) for block in family.blocks]
        for block in _build_blocks(family.block(stage.block), stage, dims, is_staged=is_staged)
    ]
    return Network(name=shape.name, blocks=tuple(blocks), images=family.takes_images, flags=frozenset(shape.flags))


def _build_blocks(
    block: BlockDescription, stage: Stage, dims: Mapping[str, int], *, is_staged: bool
) -> Iterator[Block]:
    """Yield the blocks of one stage, equal repetitions as one.

    The first of a stage may get another size or precision than the others; where blocks widen, each gets its own.
    """
    own_dims = {**dims, **stage.dims}
    repeat = evaluate_product(stage.repeat, own_dims)
    for count in [1] * repeat if block.widens else [1, repeat - 1] if is_staged and repeat > 1 else [repeat]:
        yield Block(
            name=block.block,
            program=block.lines,
            repeat=count,
            dims=own_dims,
            input=block.input,
            output=block.output,
            checkpointed=block.checkpointed,
            head=block.head,
        )


# -- the length of a sample ----------------------------------------------------------------------------------------


def check_image_size(network: Network, side: int, where: str) -> None:
    """Check that a network's windows fit on an image.

    Args:
        network: The network; one of tokens takes any length.
        side: Pixels of an image's side.

    Raises:
        InputError: The image is too small; the message has the smallest accepted size.
    """
    if not network.images or _accepts_image(network, side):
        return
    smallest = side + 1
    while not _accepts_image(network, smallest):
        smallest += 1
    raise InputError(
        f"{where} {side}: must be at least {smallest} for {network.name}",
        code=ErrorCode.OUT_OF_RANGE, option=where, value=side,
    )  # fmt: skip


def _accepts_image(network: Network, side: int) -> bool:
    mode, batch = ComputeMode(flags=network.flags), MicroBatch(1, side)
    try:
        simulate_blocks(network, mode, batch, checkpoint=False, release=False)
    except InputError:
        return False
    return True


def check_sequence_length(networks: Networks, shape: NetworkShape, length: int, where: str) -> None:
    """Check that a network has learned positions for all tokens of a sample.

    Args:
        length: Tokens of a sample.

    Raises:
        InputError: It has fewer positions.
    """
    most = find_max_positions(networks, shape)
    if most is not None and length > most:
        raise InputError(
            f"{where} {length}: must be at most {most}, the number of position embeddings of {shape.name}",
            code=ErrorCode.OUT_OF_RANGE, option=where, value=length,
        )  # fmt: skip


def find_max_positions(networks: Networks, shape: NetworkShape) -> int | None:
    """Return the tokens that a network has learned positions for; None where nothing limits them."""
    positions = networks.find_family(shape).max_positions
    return None if positions is None else evaluate_product(positions, dict(shape.dims))


def find_usual_length(networks: Networks, shape: NetworkShape) -> int:
    """Return the tokens, or pixels of an image's side, that a shape is usually trained at."""
    named = networks.find_named_shape(shape)
    if named is not None and named.length is not None:
        return named.length
    return evaluate_product(networks.find_family(shape).default_length, dict(shape.dims))
