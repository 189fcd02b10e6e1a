"""Records of the files in `rules/networks/`: families of networks and their named shapes."""

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
    """Base of the records."""


class Dimension(NetworkRecord, frozen=True, kw_only=True):
    """A dimension of a family and its key in a `config.json`."""

    key: str | None = None  # in config.json
    alternative_key: str | None = None
    default: Product | None = None  # None: required


class ConfigFlag(NetworkRecord, frozen=True, kw_only=True):
    """A flag of a family and its key in a `config.json`."""

    key: str | None = None
    default: bool = False
    equals: Plain = None  # the flag is on if the config has this value
    differs_from: Plain = None  # the flag is on if the config has another value


class ConfigChoice(NetworkRecord, frozen=True, kw_only=True):
    """One of several flags, selected by a string in a `config.json`."""

    values: Mapping[str, str]  # flag by string
    key: str | None = None
    default: str = ""


class Stage(NetworkRecord, frozen=True, kw_only=True):
    """A block of a named shape, with additional dimensions."""

    block: str
    repeat: Product = "1"
    dims: Mapping[str, int] = {}


class NamedShape(NetworkRecord, frozen=True, kw_only=True):
    """A named network of a family."""

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
    ) = None  # None: all blocks of the family, in order
    parameters: Annotated[int, Meta(gt=0)]  # exact number
    aliases: tuple[str, ...] = ()
    length: int | None = None  # tokens of a sample, or pixels of an image's side
    cite: Cites = ()


class BlockDescription(NetworkRecord, frozen=True, kw_only=True):
    """A block of a family: a part of the network that can repeat."""

    block: str
    lines: Lines
    repeat: Product = "1"
    input: Literal["input", "x"] = "x"  # variable of the block's input; `input` is the batch
    output: str | None = None  # variable that later blocks can use for its output
    checkpointed: bool = False  # checkpointing recomputes it
    head: bool = False
    widens: bool = False  # each repetition has another input size
    kept_alive: tuple[str, ...] = ()  # variables that live until the end of the block

    def dims(self) -> set[str]:
        """Return the dimensions that its lines use."""
        numbers = (number for line in self.lines for number in line.numbers.values())
        return {name for number in numbers for name in list_dimensions(number)}


class NetworkFamily(NetworkRecord, frozen=True, kw_only=True):
    """A family of networks."""

    at: Internal = ""
    family: str
    name: str
    model: str  # kind of model
    architecture: str | None = None  # of a sequence transformer
    normalization: str | None = None  # of a convolutional network
    input: Literal["tokens", "images"]
    cite: Cites
    blocks: Annotated[tuple[BlockDescription, ...], Meta(min_length=1)]
    model_types: tuple[str, ...] = ()  # in config.json
    dims: Mapping[str, Dimension] = {}
    derived: Mapping[str, Product] = {}  # dimensions computed from others
    flags: Mapping[str, ConfigFlag] = {}
    choices: Mapping[str, ConfigChoice] = {}
    supported_values: Mapping[str, Annotated[tuple[Plain, ...], Meta(min_length=1)]] = {}  # the first is the default
    upper_bounds: Mapping[str, str] = {}  # dimension -> dimension that it must not exceed
    shapes: Mapping[str, NamedShape] = {}
    default_length: Product = "2048"  # tokens of a sample, or pixels of an image's side
    max_positions: Product | None = None  # position embeddings; None: no limit
    nested_config: str | None = None  # key of config.json that can contain the network's description
    model_type_defaults: Mapping[str, Mapping[str, FlagOrProduct]] = {}  # flags and dimensions by model type
    fixed_flags: Mapping[str, Mapping[str, bool]] = {}  # flags by model type that override the config

    @property
    def takes_images(self) -> bool:
        """Return whether the input is images with three channels, otherwise tokens."""
        return self.input == "images"

    def block(self, name: str) -> BlockDescription:
        """Return the block with a name."""
        return next(block for block in self.blocks if block.block == name)

    def list_adapter_targets(self) -> set[str]:
        """Return the short names of the linear layers that can have adapters."""
        lines = (line for block in self.blocks for line in block.lines)
        return {line.text_arguments["target"] for line in lines if "target" in line.text_arguments}


class PartHeader(NetworkRecord, frozen=True, kw_only=True):
    """The first line of a part: `name tensor… number=default…`."""

    name: str
    tensors: tuple[str, ...]  # input variables
    numbers: tuple[str, ...]  # arguments


class Part(NetworkRecord, frozen=True, kw_only=True):
    """Named lines that families share."""

    at: Internal = ""
    part: Annotated[PartHeader, Meta(extra={"reader": "part-header"}, extra_json_schema={"type": ["string"]})]
    cite: Cites
    lines: Lines


class PartsFile(NetworkRecord, frozen=True, kw_only=True):
    """`parts.yaml`: parts that families share."""

    parts: Annotated[tuple[Part, ...], Meta(min_length=1)]
