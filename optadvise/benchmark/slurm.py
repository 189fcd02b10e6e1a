"""Sweep cells as cluster jobs, submitted with submitit."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark.sweep import measure_cell, read_cell
from optadvise.benchmark.sweep_records import Cell, Outcome
from optadvise.core.cards import Value
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from optadvise.core.text import clean_text
from optadvise.rulebase.catalog import load


def submit_cells(
    folder: Path,
    cells: Sequence[Cell],
    parameters: Mapping[str, Value],
    rules: Sequence[str],
    allowed_imports: Sequence[str] = (),
    cluster: str = "slurm",
) -> list[Outcome]:
    """Submit one job per cell without a result, wait for all jobs, and return the outcomes.

    Args:
        folder: Folder of the sweep on a file system that all nodes share.
        parameters: submitit's job parameters, such as slurm_partition, timeout_min and gpus_per_node.
        rules: Folders of additional rule layers.
        allowed_imports: Packages or modules whose classes may be imported; see `Catalog.imports`.
        cluster: submitit's name of the cluster type.

    Raises:
        CannotRunHereError: submitit is not installed, or the cluster is not available.
    """
    try:
        import submitit
    except ImportError as error:
        raise CannotRunHereError(
            "--launcher slurm: submitit is not installed; pip install submitit",
            code=ErrorCode.MISSING_PACKAGE, option="--launcher", value="slurm",
        ) from error  # fmt: skip
    try:
        # submitit starts `python -m`, which must not import modules of the current folder.
        python = f"env PYTHONSAFEPATH=1 {shlex.quote(sys.executable)}"
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=cluster, slurm_python=python)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, ValueError) as error:
        raise CannotRunHereError(
            f"--launcher {cluster}: {clean_text(' '.join(str(error).split()), 200)}",
            code=ErrorCode.UNSUPPORTED, option="--launcher", value=cluster,
        ) from error  # fmt: skip
    pending = [cell for cell in cells if read_cell(folder, cell) is None]
    with executor.batch():
        jobs = [
            executor.submit(measure_in_job, str(folder), cell, list(rules), list(allowed_imports)) for cell in pending
        ]
    reasons = {cell.name: _wait_for_job(job) for cell, job in zip(pending, jobs, strict=True)}
    return [Outcome(cell=cell, result=read_cell(folder, cell), reason=reasons.get(cell.name)) for cell in cells]


def measure_in_job(folder: str, cell: Cell, rules: Sequence[str], allowed_imports: Sequence[str]) -> str | None:
    """Measure a cell in a job; return why it has no result, None on success."""
    catalog = load(tuple(map(Path, rules))).allow_imports(allowed_imports)
    return measure_cell(CompiledRules(catalog), Path(folder), cell).reason


def _wait_for_job(job: Any) -> str | None:
    try:
        reason: str | None = job.result()
    except Exception as error:  # submitit raises many types
        reason = clean_text(" ".join(str(error).split())[-200:])
        return f"job {job.job_id} ended without a result ({reason})"
    return reason
