"""Shapes of networks from names or dimensions, and the blocks of a shape.

A missing dimension and a division with a remainder are errors; nothing is guessed.
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

LARGEST_DIMENSION = 10**7  # the largest vocabularies have about 10^6 entries
_LARGEST_COUNTS = {"layers": 4096, "heads": 4096}  # layers of a network, heads of a layer


def build_named_shape(networks: Networks, name: str) -> NetworkShape:
    """Return a well-known shape.

    Args:
        name: Name in any spelling.

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
    """Return the shape of a network with the given dimensions.

    Args:
        default_families: Family ids by kind of model.
        model: Kind of model; None for the first that has a default family.
        dims: Dimensions by name.

    Raises:
        InputError: A dimension is missing, two dimensions do not match, or the kind of model has no default family.
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
            f"{where}: the model needs more dimensions; add {' '.join(flags)}",
            code=ErrorCode.MISSING_OPTION, option=flags[0],
        )  # fmt: skip
    for key, value in dims.items():
        check_dimension(value, key, str(value), where)
    return complete_shape(family, dims, (), {}, "custom model", "dimensions", where)


def check_dimension(value: object, key: str, shown: str, where: str) -> int:
    """Return a dimension if it is a whole number in range.

    Args:
        value: Value from the command line or a config.
        key: Name of the dimension.
        shown: Value as text, for the error message.
        where: Options that describe the network, for the error message.

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
    option = f"--{dimension.replace('_', '-')}"
    return option if option in options else options[0]


def complete_shape(
    family: NetworkFamily, dims: Mapping[str, int], flags: Sequence[str], choices: Mapping[str, str], name: str,
    basis: str, where: str,
) -> NetworkShape:  # fmt: skip
    """Return a shape with default and derived dimensions filled in.

    Args:
        dims: Specified dimensions; the others get their defaults.
        flags: Flags that are on; `!flag` switches one off.
        choices: Values of the family's choices.
        basis: How the shape is described: config, named or dimensions.
        where: Options that describe the network, for error messages.

    Raises:
        InputError: A dimension is out of range, or a division has a remainder.
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
    """Yield the blocks of one stage; identical repetitions are one block with a count.

    The first repetition of a stage may have another input size or precision than the others; where blocks widen, every
    repetition has another input size.
    """
    stage_dims = {**dims, **stage.dims}
    repeat = evaluate_product(stage.repeat, stage_dims)
    for count in [1] * repeat if block.widens else [1, repeat - 1] if is_staged and repeat > 1 else [repeat]:
        yield Block(
            name=block.block,
            program=block.lines,
            repeat=count,
            dims=stage_dims,
            input=block.input,
            output=block.output,
            checkpointed=block.checkpointed,
            head=block.head,
        )


# -- the length of a sample ----------------------------------------------------------------------------------------


def check_image_size(network: Network, side: int, where: str) -> None:
    """Check that an image is large enough for a network's kernels.

    Args:
        network: The network; a network of tokens accepts every size.
        side: Side length of the image in pixels.
        where: Option that sets the size, for the error message.

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
    """Check that a network has a position embedding for every token of a sample.

    Args:
        length: Tokens per sample.
        where: Option that sets the length, for the error message.

    Raises:
        InputError: The network has fewer position embeddings.
    """
    max_tokens = find_max_positions(networks, shape)
    if max_tokens is not None and length > max_tokens:
        raise InputError(
            f"{where} {length}: must be at most {max_tokens}, the number of position embeddings of {shape.name}",
            code=ErrorCode.OUT_OF_RANGE, option=where, value=length,
        )  # fmt: skip


def find_max_positions(networks: Networks, shape: NetworkShape) -> int | None:
    """Return the number of a network's position embeddings; None if the sequence length is not limited."""
    positions = networks.find_family(shape).max_positions
    return None if positions is None else evaluate_product(positions, dict(shape.dims))


def find_usual_length(networks: Networks, shape: NetworkShape) -> int:
    """Return the typical sample length for a shape: tokens, or pixels of an image's side."""
    named = networks.find_named_shape(shape)
    if named is not None and named.length is not None:
        return named.length
    return evaluate_product(networks.find_family(shape).default_length, dict(shape.dims))
