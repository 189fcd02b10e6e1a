"""A sweep's cells as jobs of a cluster, by submitit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from optadvise.benchmark.sweep import Cell, Outcome, found, measure
from optadvise.core.errors import CannotRunHereError


def submitted(
    folder: Path, cells: Sequence[Cell], asked: Mapping[str, Any], rules: Sequence[str], cluster: str = "slurm"
) -> list[Outcome]:
    """Submit a job for every cell that is not there yet, wait for all, and return what became of each.

    Args:
        folder: Of the sweep, which all machines see.
        cells: What is measured.
        asked: What each job asks the cluster for, in submitit's words: slurm_partition, timeout_min, gpus_per_node …
        rules: Folders of further rules.
        cluster: submitit's name of it.

    Raises:
        CannotRunHereError: submitit is not installed, or there is no such cluster here.
    """
    try:
        import submitit
    except ImportError as error:
        raise CannotRunHereError("--launcher slurm: submitit is not installed; pip install submitit") from error
    try:
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=cluster)
        executor.update_parameters(**asked)
    except (RuntimeError, NameError, ValueError) as error:
        raise CannotRunHereError(f"--launcher {cluster}: {' '.join(str(error).split())[:200]}") from error
    waiting = [cell for cell in cells if found(folder, cell) is None]
    with executor.batch():
        jobs = [executor.submit(in_job, str(folder), asdict(cell), list(rules)) for cell in waiting]
    why = {cell.name: _why(job) for cell, job in zip(waiting, jobs, strict=True)}
    return [Outcome(cell, found(folder, cell), why.get(cell.name)) for cell in cells]


def in_job(folder: str, cell: Mapping[str, Any], rules: Sequence[str]) -> str | None:
    """Measure a cell in a job of its own, and return why there is no result, None where there is one.

    Args:
        folder: Of the sweep.
        cell: Its fields.
        rules: Folders of further rules.
    """
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.rulebase.catalog import load

    return measure(CompiledRules(load(tuple(map(Path, rules)))), Path(folder), Cell(**cell)).why


def _why(job: Any) -> str | None:
    try:
        found: str | None = job.result()
    except Exception as error:  # whatever became of the job
        return f"job {job.job_id} ended without a result ({' '.join(str(error).split())[-200:]})"
    return found
