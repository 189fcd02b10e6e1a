"""Variants compute the same steps; Triton's kernels run in Triton's interpreter, which requires no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from optadvise.rulebase.catalog import load
from tests.conftest import ROOT

REQUIRES_TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="requires the package triton")
CATALOG = load()


@pytest.mark.parametrize("variant", ["foreach", pytest.param("triton", marks=REQUIRES_TRITON)])
def test_variant_computes_the_steps_of_the_loop(variant: str) -> None:
    """Triton reads its environment variable when it is imported, so each variant has a process."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.variant_steps", variant],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    differences: dict[str, float] = json.loads(result.stdout)
    assert len(differences) >= 5
    assert {name: value for name, value in differences.items() if not value < 1e-3} == {}


def test_every_optimizer_of_optimi_has_its_triton_variant() -> None:
    """From version 0.3 on."""
    for name in CATALOG.optimizer_ids:
        for implementation in CATALOG.optimizer(name).implementations:
            if implementation.package == "torch-optimi":
                assert "triton" in implementation.variants, name
            if "triton" in implementation.variants:
                requirement = implementation.variant_requirements["triton"]
                assert (requirement.devices, requirement.package) == (("cuda",), "triton")
