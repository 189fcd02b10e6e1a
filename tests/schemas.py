"""Generate the JSON Schemas of results in docs/schema from the records: python -m tests.schemas."""

from __future__ import annotations

from pathlib import Path

import msgspec

from optadvise.benchmark.comparison.records import Comparison
from optadvise.benchmark.records import BenchmarkResult
from optadvise.benchmark.sweep_records import SweepResult
from optadvise.cli.failures import Failure
from optadvise.core.json_text import Document
from optadvise.core.result_schema import result_schema
from optadvise.render.documents import EstimateDocument, RecommendationDocument
from optadvise.render.schedule import SchedulesDocument
from optadvise.verify.records import VerifyResult
from optadvise.verify.trajectory_records import TrajectoriesResult
from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "schema"
# Title and record by the name of the schema file.
RECORDS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "recommendation": ("optadvise recommend --json", RecommendationDocument),
    "estimate": ("optadvise estimate --json", EstimateDocument),
    "schedule": ("optadvise schedule --json", SchedulesDocument),
    "bench": ("optadvise bench --json", BenchmarkResult),
    "comparison": ("optadvise compare --json", Comparison),
    "sweep": ("optadvise sweep --json", SweepResult),
    "trajectories": ("optadvise trajectories --json", TrajectoriesResult),
    "error": ("any command with --json that fails", Failure),
    "verify": ("optadvise verify --json", VerifyResult),
}


def schema_file(name: str) -> Path:
    """Return the path of a schema file."""
    return FOLDER / f"{name}.json"


def make_schema(name: str) -> str:
    """Return the text of a schema file."""
    title, record = RECORDS[name]
    return result_schema(record, title, require_defaults=issubclass(record, Document))


if __name__ == "__main__":
    for name in RECORDS:
        schema_file(name).write_text(make_schema(name), encoding="utf-8")
