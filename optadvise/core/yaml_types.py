"""Field types of rule files, which define how values are read from YAML and described in JSON Schema.

Records (`msgspec.Struct`) with these field types declare the content of rule files: `core.yaml_records` reads them,
and msgspec stores them in the cache and generates JSON Schemas for editors.
"""

from typing import Annotated, Any

from msgspec import Meta

NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"

# Set by optadvise instead of read from a file: position and layer of a record.
Internal = Annotated[str, Meta(extra={"internal": True})]

# Restricted texts, because generated programs and command lines contain them.
Word = Annotated[
    str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.:+-]*)$", description="an id of letters, digits, - and _")
]
Identifier = Annotated[str, Meta(pattern=rf"^({NAME_PATTERN})$", description="a Python identifier")]
# Ids of sources are printed beside reasons, as text, Markdown and terminal markup.
SourceKey = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9][A-Za-z0-9:#._/-]*)$", description="an id of letters, digits and the characters :#._/-"
    ),
]
ImportPath = Annotated[
    str,
    Meta(pattern=rf"^({NAME_PATTERN}(\.{NAME_PATTERN})+)$", description="an import path, such as torch.optim.AdamW"),
]
Distribution = Annotated[
    str, Meta(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)$", description="a package name on PyPI")
]
Version = Annotated[str, Meta(pattern=r"^([0-9][0-9A-Za-z.]*)$", description="a version")]

# A number, boolean, text, null, or a list of these; `Setting` can also be a mapping.
_PLAIN_TYPES = ["string", "number", "boolean", "null", "array"]
Plain = Annotated[Any, Meta(extra={"reader": "plain"}, extra_json_schema={"type": _PLAIN_TYPES})]
Setting = Annotated[Any, Meta(extra={"reader": "setting"}, extra_json_schema={"type": [*_PLAIN_TYPES, "object"]})]

# Ids that are defined elsewhere; checked after all files are read.
SourceId = Annotated[str, Meta(extra={"refers_to": "source"}, extra_json_schema={"$ref": "#/$defs/source"})]
OptimizerId = Annotated[str, Meta(extra={"refers_to": "optimizer"}, extra_json_schema={"$ref": "#/$defs/optimizer"})]
SchedulerId = Annotated[str, Meta(extra={"refers_to": "scheduler"}, extra_json_schema={"$ref": "#/$defs/scheduler"})]
FactId = Annotated[str, Meta(extra={"refers_to": "fact"}, extra_json_schema={"$ref": "#/$defs/fact"})]
RuleId = Annotated[str, Meta(extra={"refers_to": "rule"}, extra_json_schema={"$ref": "#/$defs/rule"})]
ModelId = Annotated[str, Meta(extra={"refers_to": "model"}, extra_json_schema={"$ref": "#/$defs/model"})]

Cites = Annotated[tuple[SourceId, ...], Meta(min_length=1)]
Pair = Annotated[tuple[float, ...], Meta(min_length=2)]
Point = Annotated[tuple[float, float], Meta(extra={"reader": "point"})]
# A count with or without a unit, such as 7B; read as a number.
Amount = Annotated[int, Meta(extra={"reader": "count"}, extra_json_schema={"$ref": "#/$defs/amount"})]
