"""Families of networks and their well-known shapes: the records that `rules/networks/` is read into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.core.yaml_types import Internal, Plain
from optadvise.memory.programs import ProgramLine, list_dimensions

_PRODUCT_SCHEMA = {"type": ["string", "integer", "boolean"]}
Product = Annotated[str, Meta(extra={"reader": "product"}, extra_json_schema=_PRODUCT_SCHEMA)]
FlagOrProduct = Annotated[bool | str, Meta(extra={"reader": "flag-or-product"}, extra_json_schema=_PRODUCT_SCHEMA)]
Line = Annotated[ProgramLine, Meta(extra={"reader": "program-line"}, extra_json_schema={"type": ["string"]})]
Lines = Annotated[tuple[Line, ...], Meta(min_length=1)]
Cites = Annotated[tuple[str, ...], Meta(min_length=1)]


class NetworkRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record that is read from a file of networks."""


class Dimension(NetworkRecord, frozen=True, kw_only=True):
    """A dimension of a family, and where a `config.json` has it."""

    key: str | None = None  # of the config
    alternative_key: str | None = None
    default: Product | None = None  # None: it must be given


class ConfigFlag(NetworkRecord, frozen=True, kw_only=True):
    """A switch of a family, and where a `config.json` has it."""

    key: str | None = None
    default: bool = False
    equals: Plain = None  # the flag is on where the config has this value
    differs_from: Plain = None  # the flag is on where the config has another value


class ConfigChoice(NetworkRecord, frozen=True, kw_only=True):
    """A flag that a text in a `config.json` chooses among several."""

    values: Mapping[str, str]  # the flag by the text
    key: str | None = None
    default: str = ""


class Stage(NetworkRecord, frozen=True, kw_only=True):
    """A block of a shape with dimensions of its own."""

    block: str
    repeat: Product = "1"
    dims: Mapping[str, int] = {}


class NamedShape(NetworkRecord, frozen=True, kw_only=True):
    """A well-known network of a family."""

    at: Internal = ""
    family: Internal = ""
    dims: Mapping[str, int] = {}
    flags: tuple[str, ...] = ()  # `!flag` switches one off
    choices: Mapping[str, str] = {}
    stages: (
        Annotated[
            tuple[Annotated[Stage, Meta(extra={"reader": "stage"}, extra_json_schema={"type": ["string"]})], ...],
            Meta(min_length=1),
        ]
        | None
    ) = None  # None: every block of the family, in its order
    parameters: Annotated[int, Meta(gt=0)]  # exactly
    aliases: tuple[str, ...] = ()
    length: int | None = None  # tokens of a sample, or pixels of an image's side
    cite: Cites = ()


class BlockDescription(NetworkRecord, frozen=True, kw_only=True):
    """A block of a family: a stretch of the network that may repeat."""

    block: str
    lines: Lines
    repeat: Product = "1"
    input: Literal["input", "x"] = "x"  # the variable that holds the block's input; `input` is the batch itself
    output: str | None = None  # the variable under which later blocks may use its output
    checkpointed: bool = False  # checkpointing recomputes it
    head: bool = False
    widens: bool = False  # each repetition has another input size
    kept_alive: tuple[str, ...] = ()  # variables that stay alive until the end of the block

    def dims(self) -> set[str]:
        """Return the dimensions that its lines name."""
        numbers = (number for line in self.lines for number in line.numbers.values())
        return {name for number in numbers for name in list_dimensions(number)}


class NetworkFamily(NetworkRecord, frozen=True, kw_only=True):
    """A family of networks."""

    at: Internal = ""
    family: str
    name: str
    model: str  # the kind of model
    input: Literal["tokens", "images"]
    cite: Cites
    blocks: Annotated[tuple[BlockDescription, ...], Meta(min_length=1)]
    model_types: tuple[str, ...] = ()  # of a `config.json`
    dims: Mapping[str, Dimension] = {}
    derived: Mapping[str, Product] = {}  # dimensions that follow from others
    flags: Mapping[str, ConfigFlag] = {}
    choices: Mapping[str, ConfigChoice] = {}
    supported_values: Mapping[str, Annotated[tuple[Plain, ...], Meta(min_length=1)]] = {}  # the first is the default
    upper_bounds: Mapping[str, str] = {}  # dimension -> the dimension that it must not exceed
    shapes: Mapping[str, NamedShape] = {}
    default_length: Product = "2048"  # tokens of a sample, or pixels of an image's side
    max_positions: Product | None = None  # tokens that it has learned positions for; None: any number
    nested_config: str | None = None  # the key below which a `config.json` may describe the network
    model_type_defaults: Mapping[str, Mapping[str, FlagOrProduct]] = {}  # flags and dimensions by model type
    fixed_flags: Mapping[str, Mapping[str, bool]] = {}  # flags by model type, whatever the config has

    @property
    def takes_images(self) -> bool:
        """Return whether the input is images of three channels; otherwise it is tokens."""
        return self.input == "images"

    def block(self, name: str) -> BlockDescription:
        """Return the block of a name."""
        return next(block for block in self.blocks if block.block == name)

    def list_adapter_targets(self) -> set[str]:
        """Return the short names of the linear layers that may have adapters."""
        lines = (line for block in self.blocks for line in block.lines)
        return {line.text_arguments["target"] for line in lines if "target" in line.text_arguments}


class PartHeader(NetworkRecord, frozen=True, kw_only=True):
    """The first line of a part: `name tensor… number=default…`."""

    name: str
    tensors: tuple[str, ...]  # variables that it takes
    numbers: tuple[str, ...]  # arguments


class Part(NetworkRecord, frozen=True, kw_only=True):
    """Lines that families share under a name."""

    at: Internal = ""
    part: Annotated[PartHeader, Meta(extra={"reader": "part-header"}, extra_json_schema={"type": ["string"]})]
    cite: Cites
    lines: Lines


class PartsFile(NetworkRecord, frozen=True, kw_only=True):
    """`parts.yaml`: what families share."""

    parts: Annotated[tuple[Part, ...], Meta(min_length=1)]
