"""Field types of rule files: how each is read from YAML and described in JSON Schema.

A record (`msgspec.Struct`) whose fields have these types is the only declaration of what a rule file may hold:
`core.yaml_reader` reads it with positions, msgspec writes it to the cache and describes it for editors.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"

# Set by the program and not read from a file: the position of a record, the layer that it is from.
Internal = Annotated[str, Meta(extra={"internal": True})]

# Texts of a given form: what ends up in programs and command lines is not any text.
Word = Annotated[
    str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.:+-]*)$", description="an id of letters, digits, - and _")
]
Identifier = Annotated[str, Meta(pattern=rf"^({NAME_PATTERN})$", description="a name as Python takes it")]
ImportPath = Annotated[
    str,
    Meta(pattern=rf"^({NAME_PATTERN}(\.{NAME_PATTERN})+)$", description="an import path, such as torch.optim.AdamW"),
]
Distribution = Annotated[
    str, Meta(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)$", description="a package's name on PyPI")
]
Version = Annotated[str, Meta(pattern=r"^([0-9][0-9A-Za-z.]*)$", description="a version")]

# A number, flag, text, null, or a list of them; `Setting` may also be a mapping of them.
_PLAIN_TYPES = ["string", "number", "boolean", "null", "array"]
Plain = Annotated[Any, Meta(extra={"reader": "plain"}, extra_json_schema={"type": _PLAIN_TYPES})]
Setting = Annotated[Any, Meta(extra={"reader": "setting"}, extra_json_schema={"type": [*_PLAIN_TYPES, "object"]})]

# Ids of things that are defined elsewhere; looked up once all files are read.
SourceId = Annotated[str, Meta(extra={"refers_to": "source"}, extra_json_schema={"$ref": "#/$defs/source"})]
OptimizerId = Annotated[str, Meta(extra={"refers_to": "optimizer"}, extra_json_schema={"$ref": "#/$defs/optimizer"})]
SchedulerId = Annotated[str, Meta(extra={"refers_to": "scheduler"}, extra_json_schema={"$ref": "#/$defs/scheduler"})]
FactId = Annotated[str, Meta(extra={"refers_to": "fact"}, extra_json_schema={"$ref": "#/$defs/fact"})]
RuleId = Annotated[str, Meta(extra={"refers_to": "rule"}, extra_json_schema={"$ref": "#/$defs/rule"})]
ModelId = Annotated[str, Meta(extra={"refers_to": "model"}, extra_json_schema={"$ref": "#/$defs/model"})]

Cites = Annotated[tuple[SourceId, ...], Meta(min_length=1)]
Pair = Annotated[tuple[float, ...], Meta(min_length=2)]
Point = Annotated[tuple[float, float], Meta(extra={"reader": "point"})]
