"""Valid documents that the commands read: the seeds of mutations."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from optadvise.api import recommend
from optadvise.core.claim_cards import Claim
from optadvise.core.findings import AuditFinding, BenchmarkFinding, ClaimFinding, Throughput
from optadvise.evidence import store
from optadvise.evidence.versions import find_version
from optadvise.memory.networks import load_networks
from optadvise.rule_analysis.starter import write_starter
from optadvise.rulebase.catalog import Catalog, load_shipped
from tests.conftest import ROOT
from tests.results import result

LAYER = "team-rules"
SWEEP = b"""\
optimizers: [adamw, lion]
params: 1M
precision: [fp32, bf16]
rounds: 3
"""
PROJECT = b"""\
[project]
name = "mine"

[tool.optadvise]
rules = ["team-rules"]
"""


def make_configs() -> list[dict[str, Any]]:
    """Return a config.json of every family of networks that has one."""
    families = load_networks(load_shipped()).families.values()
    return [
        {
            "model_type": name, "architectures": ["Model"], "_name_or_path": "org/model", "torch_dtype": "bfloat16",
            **{dim.key: {"0": "a", "1": "b"} if dim.key == "id2label" else 8
               for dim in family.dims.values() if dim.key is not None},
        }
        for family in families for name in family.model_types
    ]  # fmt: skip


def make_recommendations() -> list[dict[str, Any]]:
    """Return recommendations as JSON, with optimizers and schedules of several kinds."""
    runs: list[dict[str, Any]] = [
        {"model": "transformer", "vram": "24GB"}, {"model": "cnn", "tuning": "high"}, {"model": "mlp"},
        {"arch": "llama-3-8b", "task": "finetune", "method": "qlora"}, {"model": "gan", "sparse_gradients": True},
    ]  # fmt: skip
    return [recommend(**run).data() for run in runs]


@functools.cache
def make_results() -> list[dict[str, Any]]:
    """Return results of bench that can be compared and merged."""
    return [result(), result(3.0, seed=1), result(control=False), result(complete=False), result(dtype="bf16")]


@functools.cache
def read_layers() -> list[dict[str, bytes]]:
    """Return rule layers, as content by path."""
    with tempfile.TemporaryDirectory() as folder:
        write_starter(Path(folder) / "starter", load_shipped())
        return [_read_layer(ROOT / "examples" / LAYER), _read_layer(Path(folder) / "starter")]


def _read_layer(folder: Path) -> dict[str, bytes]:
    return {f"{LAYER}/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in folder.rglob("*.yaml")}


@functools.cache
def make_evidence() -> Mapping[str, bytes]:
    """Return findings of this machine by path, all of them valid here."""
    catalog = load_shipped()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"OPTADVISE_DATA_DIR": f"{folder}/data"}),
    ):
        for optimizer in ("adamw", "adamw8bit", "sgd-momentum"):
            store.save_audit(_make_audit(catalog, optimizer))
            store.save_benchmark(_make_benchmark(catalog, optimizer), "cpu")
        for claim in list(catalog.claims.values())[:4]:
            store.save_claim(_make_claim(claim), claim)
        files = sorted(Path(folder).rglob("*.json"))
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _make_audit(catalog: Catalog, optimizer: str) -> AuditFinding:
    implementation = catalog.optimizer(optimizer).implementations[0]
    return AuditFinding(
        optimizer=optimizer, path=implementation.path, package=implementation.package, verdict="deviates",
        why="differs from the paper", worst=0.5, date="2026-11-26",
        packages={"torch": find_version("torch")},
    )  # fmt: skip


def _make_benchmark(catalog: Catalog, optimizer: str) -> BenchmarkFinding:
    return BenchmarkFinding(
        optimizer=optimizer, path=catalog.optimizer(optimizer).implementations[0].path, variant="fused",
        device="A CPU", workload="transformer", parameters=10**6, dtype="fp32", state_bytes_per_parameter=8.0,
        optimizer_seconds=0.01, peak_memory_bytes={"allocated": None, "reserved": None, "process": 2**28},
        throughput=Throughput(value=9.5, unit="samples/s", ci95=(9.0, 10.0)), versus="adamw", ratio=1.2,
        ci95=(1.1, 1.3), date="2026-11-26", packages={"torch": find_version("torch")},
    )  # fmt: skip


def _make_claim(claim: Claim) -> ClaimFinding:
    return ClaimFinding(
        id=claim.id, claim=claim.claim, quote="A sentence.", cite=tuple(claim.cite), optimizers=tuple(claim.optimizers),
        experiment="state", setting={}, measures="a ratio", expected_range="below 1", seeds=(0, 1), limits="small",
        supports=tuple(claim.supports), device="cpu", implementations=(), seconds=1.0, verdict="refuted", why=None,
        measured=2.0, ci95=(1.5, 2.5), figures=(1.9, 2.1), date="2026-11-26",
        packages={"torch": find_version("torch")},
    )  # fmt: skip


def _make_base_files() -> Iterator[tuple[str, bytes]]:
    """Yield the files that command lines name."""
    first, second, *_ = make_results()
    yield "result.json", json.dumps(first).encode()
    yield "other.json", json.dumps(second).encode()
    yield "recommendation.json", json.dumps(make_recommendations()[0]).encode()
    yield "config.json", json.dumps(make_configs()[0]).encode()
    yield "sweep.yaml", SWEEP
    yield from read_layers()[0].items()


BASE_FILES: Mapping[str, bytes] = dict(_make_base_files())
