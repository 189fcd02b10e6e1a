"""Stages that use the product as its users do: generated programs, claims, and two GPUs."""

from __future__ import annotations

import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from gpu_check.machine import require_cuda
from gpu_check.records import Check, Item, Settings, check_range, check_text
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark.options import BenchOptions
from optadvise.benchmark.request import measure, prepare_request
from optadvise.core.claim_cards import Claim
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from optadvise.core.findings import CONFIRMED, REFUTED
from optadvise.rulebase.catalog import Catalog, load
from optadvise.verify.claims import evaluate_claims
from tests.frameworks import load_program, write_program

_PROGRAMS: dict[str, dict[str, Any]] = {
    "transformer": {"model": "transformer", "params": 124_000_000},
    "cnn in fp16": {"model": "cnn", "precision": "amp-fp16"},
    "transformer with paged 8-bit AdamW": {"model": "transformer", "optimizer": "paged-adamw8bit"},
}
_OPTIMIZER = "adamw"  # over two GPUs
_FP32_STATE_BYTES = 8  # per parameter, of `_OPTIMIZER`
_TOLERANCE = 0.01  # of its state: step counters and padding


# -- generated programs -----------------------------------------------------------------------------------------------


def list_program_items(settings: Settings) -> list[Item]:
    """Return one generated program per item; on the CPU, only the first."""
    names = list(_PROGRAMS)[: None if settings.device == "cuda" else 1]
    return [Item(name, partial(run_program, settings, name)) for name in names]


def run_program(settings: Settings, name: str) -> list[Check]:
    """Run half of a program's training, resume it from the checkpoint, and check device and weights."""
    _, text = write_program(CompiledRules(load()), "python", _PROGRAMS[name])
    with tempfile.TemporaryDirectory() as folder:
        module = load_program(text, Path(folder))
        module.checkpoint_path = str(Path(folder) / "checkpoint.pt")
        module.train(*module.make_example(), steps=module.total_steps // 2)
        model, batches = module.make_example()
        module.train(model, batches, checkpoint=module.checkpoint_path)
    weights = list(model.parameters())
    is_finite = all(bool(torch.isfinite(weight).all()) for weight in weights)
    return [
        check_text(f"{name}: device", weights[0].device.type, settings.device),
        check_text(f"{name}: weights", "finite" if is_finite else "not finite", "finite"),
    ]


# -- claims -----------------------------------------------------------------------------------------------------------


def list_claim_items(settings: Settings) -> list[Item]:
    """Return the claims that can be tested only on a GPU, one per item.

    Raises:
        CannotRunHereError: The device is the CPU.
    """
    require_cuda(settings)
    catalog = load()
    claims = [claim for claim in catalog.claims.values() if claim.devices == (settings.device,)]
    return [Item(claim.id, partial(check_claim, catalog, claim)) for claim in claims]


def check_claim(catalog: Catalog, claim: Claim) -> list[Check]:
    """Test a claim, which must not be refuted."""
    (outcome,) = evaluate_claims(catalog, [claim])
    is_right = {CONFIRMED: True, REFUTED: False}.get(outcome.verdict)
    low, high = outcome.ci95 or (None, None)
    return [
        Check(
            name=claim.id,
            is_right=is_right,
            measured=outcome.measured,
            expected=outcome.expected_range,
            figures={"ci95_low": low, "ci95_high": high, "seconds": outcome.seconds},
            note=outcome.why,
        )
    ]


# -- two GPUs ---------------------------------------------------------------------------------------------------------


def list_two_gpu_items(settings: Settings) -> list[Item]:
    """Return one sharding strategy over two processes per item.

    Raises:
        CannotRunHereError: There are not two GPUs, or the check is a quick one on the CPU.
    """
    has_two = torch.cuda.device_count() >= 2 if settings.device == "cuda" else not settings.quick
    if not has_two:
        raise CannotRunHereError("requires two GPUs", code=ErrorCode.MISSING_DEVICE)
    return [Item(shard, partial(check_sharding, settings, shard)) for shard in ("zero1", "fsdp")]


def check_sharding(settings: Settings, shard: str) -> list[Check]:
    """Train over two processes, and check that they share one state."""
    options = BenchOptions(
        control="none", nproc="2", shard=shard, rounds="2", steps="2", device=settings.device, model_size="tiny"
    )
    (arm,) = measure(prepare_request(CompiledRules(load()), [_OPTIMIZER], options)).arms
    status = replace(check_text(f"{shard}: status", arm.status, "ok"), note=arm.error)
    if arm.parameters is None:
        return [status]
    expected = _FP32_STATE_BYTES * arm.parameters
    state = check_range(
        f"{shard}: state of all ranks", arm.total_state_bytes, (1 - _TOLERANCE) * expected,
        (1 + _TOLERANCE) * expected, "bytes",
    )  # fmt: skip
    share = arm.communication_share
    is_share = None if share is None else math.isfinite(share) and 0 < share < 1
    return [
        status,
        state,
        Check(name=f"{shard}: communication", is_right=is_share, measured=share, unit="share"),
    ]
