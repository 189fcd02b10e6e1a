"""Results as JSON, by the published schema. Keys may be added, never renamed."""

from __future__ import annotations

import json
from typing import Any

from optadvise.domain import Advised, Recommendation, ScheduleAdvice, Situation

SCHEMA_VERSION = 1


def recommendation(advice: Recommendation) -> str:
    """Return the advice as one JSON object."""
    return json.dumps(recommendation_data(advice), indent=2, ensure_ascii=False, allow_nan=False)


def recommendation_data(advice: Recommendation) -> dict[str, Any]:
    """Return the advice as plain data, in the order of the schema."""
    memory = advice.memory
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
        else {"import": advice.companion[0].path, "kwargs": dict(advice.companion[1])},
        "scheduler": _schedule(advice.schedule),
        "hyperparameters": [_advised(number) for number in advice.hyperparameters],
        "memory": {
            "weights_bytes": memory.weights,
            "gradients_bytes": memory.gradients,
            "optimizer_bytes": memory.optimizer,
            "activations_bytes": memory.activations,
            "overhead_bytes": memory.overhead,
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "fits": memory.fits,
            "known_bytes": memory.known,
            "basis": "derived",
            "ledger": [{"part": line.part, "bytes": line.bytes, "how": line.how} for line in memory.ledger],
        },
        "bands": [
            {"id": b.optimizer, "bytes_per_parameter": round(b.bytes_per_parameter, 4), "max_params": b.max_params}
            for b in advice.bands
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
        "warnings": [{"id": w.id, "level": w.level, "text": w.text, "cite": list(w.cite)} for w in advice.warnings],
        "trace": [{"table": t.table, "rule": t.rule, "because": t.because, "cite": list(t.cite)} for t in advice.trace],
        "flips": [{"change": dict(f.change), "optimizer": f.optimizer} for f in advice.flips],
        "rules": {"fingerprint": advice.fingerprint, "layers": list(advice.layers)},
    }


def situation(situation: Situation) -> dict[str, Any]:
    """Return a situation as plain data, what was assumed named last."""
    data = situation._asdict()
    data["assumed"] = list(situation.assumed)
    return data


def _schedule(schedule: ScheduleAdvice) -> dict[str, Any]:
    phases = [{"shape": shape, "import": path, "kwargs": dict(kwargs)} for shape, path, kwargs in schedule.phases]
    return {
        "id": schedule.id,
        "import": schedule.path,
        "kwargs": dict(schedule.kwargs),
        "phases": phases,
        **schedule.quantities,
        "alternatives": [{"id": name, "because": because} for name, because in schedule.alternatives.items()],
    }


def _advised(number: Advised) -> dict[str, Any]:
    return {
        "name": number.name,
        "value": number.value,
        "low": number.low,
        "high": number.high,
        "ledger": [
            {"step": e.step, "value": e.value, "rule": e.rule, "because": e.because, "cite": list(e.cite)}
            for e in number.ledger
        ],
    }
