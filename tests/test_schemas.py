"""JSON Schemas of results: they match the records, and reject invalid results."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from optadvise.api import recommend
from tests import schemas
from tests.results import result


@pytest.mark.parametrize("name", schemas.RECORDS)
def test_a_committed_schema_matches_its_record(name: str) -> None:
    text = schemas.schema_file(name).read_text(encoding="utf-8")
    assert text == schemas.make_schema(name), "run python -m tests.schemas"
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("kind",), "comparison"),
        (("schema_version",), 2),
        (("arms",), []),
        (("arms", 0, "role"), "other"),
        (("arms", 0, "status"), "broken"),
        (("arms", 0, "state_bytes"), -1),
        (("arms", 0, "state_bytes"), 1.5),
        (("arms", 0, "step_seconds", "ci95"), [1.0]),
        (("arms", 0, "step_seconds", "samples"), ["fast"]),
        (("ratios", 0, "ratio"), None),
        (("spec", "dtype"), "int8"),
        (("verdict",), "maybe"),
    ],
    ids=str,
)
def test_a_schema_rejects_invalid_values(place: tuple[Any, ...], value: Any) -> None:
    schema = json.loads(schemas.schema_file("bench").read_text(encoding="utf-8"))
    data = copy.deepcopy(result())
    jsonschema.validate(data, schema)
    at: Any = data
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


@pytest.mark.parametrize("key", ["arms", "environment", "spec", "complete", "kind", "schema_version"])
def test_a_schema_requires_the_keys_of_every_result(key: str) -> None:
    schema = json.loads(schemas.schema_file("bench").read_text(encoding="utf-8"))
    data = {name: value for name, value in result().items() if name != key}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("kind",), "estimate"),
        (("hyperparameters",), []),
        (("memory", "shape"), "guessed"),
        (("situation", "gpus"), 0),
        (("situation", "assumed"), None),
        (("optimizer", "import"), "Adam W"),
        (("scheduler", "warmup_steps"), -1),
        (("trace", 0, "cite"), "guide"),
    ],
    ids=str,
)
def test_the_schema_of_recommendations_rejects_invalid_values(place: tuple[Any, ...], value: Any) -> None:
    schema = json.loads(schemas.schema_file("recommendation").read_text(encoding="utf-8"))
    data = recommend(model="mlp").data()
    jsonschema.validate(data, schema)
    at: Any = data
    for key in place[:-1]:
        at = at[key]
    del at[place[-1]]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)
    at[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)
