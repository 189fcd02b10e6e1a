"""What each file under `rules/` may hold."""

from __future__ import annotations

from typing import Any

import yaml

from optadvise.core.records import COLLECTIVES, FAMILIES, SHARDINGS
from optadvise.core.yaml_reader import (
    Context,
    Shape,
    flag,
    many,
    mapping,
    matching,
    maybe,
    number,
    one_of,
    plain,
    record,
    reference,
    text,
)
from optadvise.rulebase.conditions import given, when

SCHEDULE_FAMILIES = ("hold", "anneal", "step", "cycle", "inverse", "wsd")
DTYPES = ("parameter", "float32", "bfloat16", "float16", "uint8", "int8", "uint4", "int64")
PER = ("element", "tensor", "block", "row", "column", "row-square", "column-square", "optimizer")

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
word = matching(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*", "an id of letters, digits, - and _")
identifier = matching(_NAME, "a name as Python takes it")
dotted = matching(rf"{_NAME}(\.{_NAME})+", "an import path, such as torch.optim.AdamW")
distribution = matching(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "a package's name on PyPI")

cites = many(reference("source"), minimum=1)
given_expected = record({"given": given, "expect": mapping(text, plain)}, located=True)
tests = many(given_expected, 1)
optimizer_ref = reference("optimizer")
scheduler_ref = reference("scheduler")

step = record(
    {"because": text, "cite": cites},
    {
        "scale": text,
        "clamp": text,
        "factor": number,
        "by": reference("fact"),
        "reference": number,
        "exponent": number,
        "upto": number,
        "low": number,
        "high": number,
    },
    located=True,
)

state_tensor = record(
    {"name": text, "per": one_of(*PER), "dtype": one_of(*DTYPES)},
    {
        "block": number,
        "elements": number,
        "min_elements": number,
        "max_elements": number,
        "min_ndim": number,
        "max_ndim": number,
        "max_side": number,
        "weights": one_of("half"),
    },
)

implementation = record(
    {"id": word, "import": dotted, "package": maybe(distribution), "devices": many(one_of("cpu", "cuda", "mps"), 1)},
    {
        "min_version": matching(r"[0-9][0-9A-Za-z.]*", "a version"),
        "kwargs": mapping(identifier, plain),
        "on_cpu": mapping(identifier, plain),
        "arguments": mapping(identifier, identifier),
        "variants": mapping(one_of("fused", "foreach", "for-loop", "triton"), mapping(identifier, plain)),
        "tensors": one_of("matrix"),
        "needs_train_mode": flag,
        "state": many(state_tensor),
        "scratch_all": number,
        "scratch_largest": number,
        "compiled": flag,
        "deviates": record({"in": text, "cite": cites}, {"by": plain}),
        "note": text,
        "sharding": mapping(one_of(*SHARDINGS), text),
        "on_shard": mapping(one_of(*SHARDINGS), mapping(identifier, plain)),
        "audit": record({"because": text}, {"rounding": number, "leaves_out": many(text)}),
    },
)

hyperparameter = record(
    {"name": identifier, "default": plain, "advised": flag, "meaning": text}, {"low": number, "high": number}
)

note = record({"text": text, "cite": cites})
_reason = record({"text": text, "claim": word})


def _for_or_against(node: yaml.Node, context: Context) -> dict[str, Any]:
    return _reason(node, context) if isinstance(node, yaml.MappingNode) else {"text": text(node, context)}


reason = Shape(_for_or_against, {"anyOf": [text.schema, _reason.schema]})

optimizer = record(
    {
        "id": word,
        "name": text,
        "family": one_of(*FAMILIES),
        "parents": many(optimizer_ref),
        "year": number,
        "summary": text,
        "equation": many(text, 1),
        "effort": one_of("low", "medium", "high"),
        "rates": one_of("adam", "sgd", "own"),
        "decay": one_of("decoupled", "coupled", "none"),
        "sparse_gradients": flag,
        "suits": many(reference("model")),
        "hyperparameters": many(hyperparameter, 1),
        "state": many(state_tensor),
        "implementations": many(implementation, 1),
        "use_when": many(reason, 1),
        "avoid_when": many(reason, 1),
        "cite": cites,
    },
    {
        "aliases": many(text),
        "adjust": many(step),
        "not_offered": many(implementation, 1),
        "companion": record({"optimizer": optimizer_ref, "for": text}),
        "schedules": many(scheduler_ref, 1),
        "clips_update": flag,
        "paged": flag,
        "wide_embeddings": flag,
        "notes": many(note),
    },
    located=True,
)

phase = record(
    {
        "shape": one_of("linear", "cosine", "constant", "inverse-sqrt", "step", "one-cycle"),
        "import": dotted,
        "kwargs": mapping(identifier, plain),
    }
)

scheduler = record(
    {
        "id": word,
        "name": text,
        "family": one_of(*SCHEDULE_FAMILIES),
        "warmup": flag,
        "shape": text,
        "summary": text,
        "parameters": many(record({"name": text, "meaning": text}, {"default": plain})),
        "phases": many(phase, 1),
        "use_when": many(text, 1),
        "avoid_when": many(text, 1),
        "cite": cites,
    },
    {
        "aliases": many(text),
        "floor": number,
        "decay_fraction": number,
        "milestones": many(number),
        "notes": many(note),
    },
    located=True,
)

fact = record(
    {"id": text, "type": one_of("choice", "number", "bytes", "flag"), "ask": text},
    {
        "values": mapping(text, text),
        "values_from": one_of("optimizers"),
        "also": mapping(text, many(text, 1)),  # what people type instead, for the hint
        "unknown": flag,
        "derived": text,
        "with": mapping(text, plain),
        "change": one_of("free", "cheap", "costly", "fixed"),
        "flag": text,
    },
    located=True,
)
facts = record({"facts": many(fact, 1)})

assumptions = record(
    {},
    {
        "assume": many(
            record({"fact": reference("fact"), "value": plain, "because": text}, {"when": when}, located=True), 1
        ),
        "contradictions": many(record({"when": when, "say": text, "instead": text}, located=True)),
    },
)

gpu = record(
    {"id": text, "name": text, "memory_gib": number, "bandwidth_gb_s": number, "vendor": text, "cite": text},
    {"aliases": many(text), "bf16": flag, "usual": flag},
)
gpus = record({"gpus": many(gpu, 1)})

flowchart = record(
    {
        "flowchart": record(
            {
                "cite": reference("source"),
                "order": many(reference("fact"), 1),
                "start": text,
                "questions": mapping(
                    text,
                    record(
                        {
                            "ask": text,
                            "answers": many(
                                record(
                                    {"say": text, "given": given}, {"to": text, "names": many(text, 1)}, located=True
                                ),
                                1,
                            ),
                        }
                    ),
                ),
            },
            located=True,
        )
    }
)

policy = record(
    {
        "policy": record(
            {},
            {
                "disable": many(record({"because": text}, {"rule": text, "optimizer": text}, located=True), 1),
                "amend": many(
                    record({"rule": text, "when": when, "because": text, "tests": many(given_expected, 1)},
                           {"cite": cites}, located=True), 1
                ),
            },
        )
    }
)  # fmt: skip

_collective = record({
    "operation": one_of(*COLLECTIVES), "of": one_of("weights", "updated", "gradients"), "each": one_of("pass", "step"),
    "when": text,
})  # fmt: skip
_traffic = record({"cite": cites, "collectives": many(_collective, 1)}, {"note": text})
_range = record({"low": number, "expected": number, "high": number, "cite": cites})
memory = record(
    {
        "memory": record(
            {
                "headroom": number,
                "context": _range,
                "fragmentation": _range,
                "activations": record(
                    {"known": many(number, 2), "typical": many(number, 2), "measured": many(number, 2)}
                ),
                "more": record({"logits": number, "adapters": number}),
                "bucket_elements": number,
                "gathered_layers": number,
                "traffic": record({"none": _traffic, "zero1": _traffic, "zero2": _traffic, "zero3": _traffic}),
                "typical": mapping(
                    reference("model"),
                    record({"between": many(text, 2)}, {"seq_len": number, "image_size": number}),
                ),
                "other_heads": many(text),
                "plain": mapping(reference("model"), text),
            }
        )
    }
)

fixes = record(
    {
        "fixes": many(
            record(
                {
                    "id": text,
                    "name": text,
                    "when": when,
                    "change": mapping(text, plain),
                    "effort": number,
                    "costs": text,
                    "cite": cites,
                },
                located=True,
            ),
            1,
        )
    }
)

source = record({"title": text, "url": text}, {"authors": text, "year": number})
sources = record({"sources": mapping(text, source)})

_alternatives = mapping(optimizer_ref, text)

# What a rule's `then` holds, by the kind of its table.
outcomes = {
    "derive": mapping(text, text),
    "choose": record(
        {},
        {
            "optimizer": optimizer_ref,
            "scheduler": scheduler_ref,
            "alternatives": mapping(text, text),
        },
    ),
    "set": record(
        {},
        {
            "value": plain,
            "along": reference("fact"),
            "points": many(many(number, 2), 2),
            "spread": number,
            "low": number,
            "high": number,
        },
    ),
    "adjust": record({"steps": many(step, 1)}),
    "warn": record({"level": one_of("info", "warning"), "text": text}),
    "note": mapping(text, plain),
}


def rule(kind: str) -> Shape:
    """Return the shape of one rule in a table of a kind."""
    return record(
        {"id": word, "name": text, "when": when, "then": outcomes[kind], "cite": cites, "tests": tests},
        {"because": text, "overrides": many(reference("rule")), "before": text},
        located=True,
    )


def table(kind: str, *, known: bool) -> Shape:
    """Return the shape of a table's file.

    Args:
        kind: The kind of its outcomes.
        known: An earlier layer has the table, so that its nature need not be said again.
    """
    otherwise = record(
        {"id": word, "then": outcomes[kind], "because": text, "cite": cites, "tests": tests}, located=True
    )
    nature: dict[str, Shape] = {"kind": text, "hit": one_of("unique", "first", "collect"), "about": text}
    optional: dict[str, Shape] = {"gives": text, "otherwise": otherwise, **(nature if known else {})}
    required: dict[str, Shape] = {"table": text, "rules": many(rule(kind), 1), **({} if known else nature)}
    return record(required, optional, located=True)
