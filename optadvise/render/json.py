"""Results as JSON, by the published schema. Keys may be added, never renamed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from msgspec.structs import asdict

from optadvise.core.findings import Evidence
from optadvise.core.records import (
    AdvisedHyperparameter,
    Implementation,
    MemoryAnswer,
    MemoryEstimate,
    Recommendation,
    Scaling,
    ScheduleAdvice,
    Situation,
    Traffic,
)
from optadvise.evidence.apply import find_deviation
from optadvise.rulebase.catalog import Catalog

if TYPE_CHECKING:
    from optadvise.render.text.why import Why

SCHEMA_VERSION = 1


def recommendation(advice: Recommendation, fit: MemoryAnswer | None = None, why: Why | None = None) -> str:
    """Return the advice as one JSON object.

    Args:
        advice: The advice.
        fit: What would make it fit, where it does not for certain.
        why: What else is explained.
    """
    return _text(_explained(advice, fit, why)) + "\n"


def recommendation_yaml(advice: Recommendation, fit: MemoryAnswer | None = None, why: Why | None = None) -> str:
    """Return the same object as YAML; its numbers are written so that every reader of YAML takes them for numbers.

    Args:
        advice: The advice.
        fit: What would make it fit, where it does not for certain.
        why: What else is explained.
    """
    import yaml

    plain = json.loads(_text(_explained(advice, fit, why)))  # lists instead of tuples, and no two names for one list
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110))


def _explained(advice: Recommendation, fit: MemoryAnswer | None, why: Why | None) -> dict[str, Any]:
    data = recommendation_data(advice, fit)
    if why is not None:
        from optadvise.render.text.why import data as explained

        data |= explained(why)
    return data


def estimate(answer: MemoryAnswer, catalog: Catalog) -> str:
    """Return the memory of a run as one JSON object."""
    return _text(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "estimate",
            "situation": situation(answer.situation),
            "optimizer": answer.optimizer,
            "memory": memory(answer.memory),
            "largest_micro_batch": answer.largest_pass,
            "longest_seq_len": answer.longest,
            "largest_micro_batch_by_gpu": dict(answer.passes),
            "communication": None if answer.traffic is None else _traffic(answer.traffic),
            "scaling": None if answer.scaling is None else _scaling(answer.scaling),
            "optimizers": [
                {
                    "id": fit.id,
                    "optimizer_bytes": fit.optimizer_bytes,
                    "total_bytes": fit.total,
                    "known_bytes": fit.known,
                    "fits": fit.fits,
                    "largest_micro_batch": fit.largest_pass,
                    "longest_seq_len": fit.longest,
                    "basis": fit.basis,
                    "breaks_sharded": fit.breaks,
                }
                for fit in answer.optimizers
            ],
            "fixes": fixes(answer),
            "rules": {"fingerprint": catalog.fingerprint, "layers": list(catalog.layers)},
        }
    )


def _traffic(found: Traffic) -> dict[str, Any]:
    return {
        "sent_bytes": found.sent,
        "passes": found.passes,
        "note": found.note,
        "cite": list(found.cite),
        "collectives": [
            {
                "operation": one.operation,
                "of": one.of,
                "when": one.when,
                "bytes": one.bytes,
                "times": one.times,
                "sent_bytes": one.sent,
            }
            for one in found.collectives
        ],
    }


def _scaling(found: Scaling) -> dict[str, Any]:
    return {
        "sample_bytes": found.sample_bytes,
        "enough_gpus": found.enough,
        "scales": [
            {
                "gpus": one.gpus,
                "optimizer_bytes": one.optimizer_bytes,
                "master_copy_bytes": one.master_bytes,
                "total_bytes": one.total,
                "fits": one.fits,
                "micro_batch": one.micro_batch,
                "largest_micro_batch": one.largest_pass,
                "sent_bytes": one.sent,
            }
            for one in found.scales
        ],
    }


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)


def fixes(answer: MemoryAnswer | None) -> list[list[dict[str, Any]]]:
    """Return chains of changes as plain data."""
    return [
        [
            {
                "change": dict(fix.change),
                "saves_bytes": fix.saves,
                "needs_bytes": fix.needs,
                "pageable_bytes": fix.pages,
                "instead": dict(fix.instead),
                "costs": fix.costs,
                "rule": fix.rule,
                "cite": list(fix.cite),
            }
            for fix in chain
        ]
        for chain in (answer.fixes if answer is not None else ())
    ]


def memory(found: MemoryEstimate) -> dict[str, Any]:
    """Return a ledger as plain data. The total is the highest moment, so it is not the sum of the lines."""
    return {
        "weights_bytes": found.weights,
        "gradients_bytes": found.gradients,
        "optimizer_bytes": found.optimizer,
        "activations_bytes": found.activations,
        "overhead_bytes": found.overhead,
        "total_bytes": found.total,
        "available_bytes": found.available,
        "fits": found.fits,
        "known_bytes": found.known,
        "allocated_bytes": found.allocated,
        "reserved_bytes": found.reserved,
        "pageable_bytes": found.pages,
        "interval": {f"{name}_bytes": {"low": i.low, "high": i.high} for name, i in found.intervals.items()} or None,
        "basis": "measured" if found.basis == "measured" else "derived",
        "shape": found.basis,
        "peak": found.peak,
        "ledger": [
            {
                "part": line.part,
                "bytes": line.bytes,
                "at_peak_bytes": line.at_peak,
                "interval": None if line.interval is None else asdict(line.interval),
                "how": line.how,
            }
            for line in found.ledger
        ],
    }


def recommendation_data(advice: Recommendation, fit: MemoryAnswer | None = None) -> dict[str, Any]:
    """Return the advice as plain data, in the order of the schema."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "recommendation",
        "situation": situation(advice.situation),
        "optimizer": {
            "id": advice.optimizer.id,
            "name": advice.optimizer.name,
            "import": advice.implementation.path,
            "package": advice.implementation.package,
            "kwargs": dict(advice.kwargs),
        },
        "companion": None
        if advice.companion is None
        else {"import": advice.companion.implementation.path, "kwargs": dict(advice.companion.kwargs)},
        "scheduler": _schedule(advice.schedule),
        "hyperparameters": [_advised(number) for number in advice.hyperparameters],
        "memory": memory(advice.memory),
        "fixes": fixes(fit),
        "fixes_optimizer": None if fit is None or not fit.fixes else fit.optimizer,
        "bands": [
            {"id": b.optimizer, "bytes_per_parameter": round(b.bytes_per_parameter, 4), "max_params": b.max_params}
            for b in advice.max_model_sizes
        ],
        "alternatives": [
            {
                "id": a.id,
                "because": a.because,
                "optimizer_bytes": a.optimizer_bytes,
                "state_bytes_per_parameter": round(a.state_bytes_per_parameter, 4),
                "fits": a.fits,
            }
            for a in advice.alternatives
        ],
        "warnings": [
            {"id": w.id, "level": w.level, "text": w.text, "cite": list(w.cite), "layer": w.layer}
            for w in advice.warnings
        ],
        "trace": [
            {
                "table": t.table,
                "rule": t.rule,
                "because": t.because,
                "cite": list(t.cite),
                "layer": t.layer,
                "refuted": t.refuted,
            }
            for t in advice.trace
        ],
        "flips": [{"change": dict(f.change), "optimizer": f.optimizer} for f in advice.sensitivities],
        "evidence": evidence(advice.implementation, advice.evidence),
        "rules": {"fingerprint": advice.fingerprint, "layers": list(advice.layers)},
    }


def evidence(made: Implementation | None, found: Evidence) -> dict[str, Any]:
    """Return what was found on this machine as plain data.

    Args:
        made: The implementation whose deviation is told, None for none.
        found: What was found.
    """
    return {
        "deviates": None if made is None else to_builtins(find_deviation(made, found)),
        "audits": to_builtins(found.audits),
        "claims": to_builtins(found.claims),
        "benches": to_builtins(found.benchmarks),
    }


def situation(situation: Situation) -> dict[str, Any]:
    """Return a situation as plain data, with the names of what was not stated last."""
    data = asdict(situation)
    for account in ("stated", "defaults", "derived"):
        del data[account]
    shape = situation.shape
    if shape is not None:
        data["shape"] = {**asdict(shape), "dims": dict(shape.dims), "flags": list(shape.flags)}
    data["assumed"] = list(situation.assumed)
    return data


def _schedule(schedule: ScheduleAdvice) -> dict[str, Any]:
    phases = [{"shape": p.shape, "import": p.path, "kwargs": dict(p.kwargs)} for p in schedule.phases]
    return {
        "id": schedule.id,
        "import": schedule.path,
        "kwargs": dict(schedule.kwargs),
        "phases": phases,
        **schedule.quantities,
        "alternatives": [{"id": name, "because": because} for name, because in schedule.alternatives.items()],
    }


def _advised(number: AdvisedHyperparameter) -> dict[str, Any]:
    return {
        "name": number.name,
        "value": number.value,
        "low": number.low,
        "high": number.high,
        "ledger": [
            {
                "step": e.step,
                "value": e.value,
                "rule": e.rule,
                "because": e.because,
                "cite": list(e.cite),
                "layer": e.layer,
                "refuted": e.refuted,
            }
            for e in number.derivation
        ],
    }
